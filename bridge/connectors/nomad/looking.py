"""Looks at many jobs with few requests, and as far as the time of a call allows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from msgspec import Struct, field

from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.observe import fenced, in_question, observe, placed
from bridge.connectors.nomad.wire import Alloc, Evaluation, Job
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle, Observation, Observed
from bridge.models.node import NodeStatus

OVER: Final = frozenset({Observed.ENDED, Observed.GONE})
_FEW: Final = 8  # up to so many handles of a namespace are read one by one
_SMALLEST_PAGE: Final = 50
_LARGEST_PAGE: Final = 500
_PAGES_PER_LOOK: Final = 2
_PENDING: Final = 'Status == "pending"'
_AWAY: Final = frozenset({NodeStatus.DOWN, NodeStatus.DISCONNECTED})


class _Listed(Struct, frozen=True):
    """What listings tell of wanted jobs."""

    allocs: dict[str, list[Alloc]] = field(default_factory=dict)
    waiting: dict[str, Job] = field(default_factory=dict)  # those that were never placed
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)


class Lookout:
    """Looks from any thread. Every method raises ConnectorUnavailable."""

    def __init__(self, client: NomadClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._lock = threading.Lock()
        self._passed_over: dict[Handle, int] = {}  # how often in a row

    def at(self, handles: Iterable[Handle]) -> dict[Handle, Observation]:
        """Few of a namespace are read one by one, many by listings. What these lack is
        read directly, so that GONE is always the answer to one question about one job.

        Where the time of the call is over before all are read, the answer has what was
        read, which is one at least; the others come before those the next time.
        """
        wanted = list(handles)
        with self._lock:
            in_turn = sorted(wanted, key=lambda one: -self._passed_over.get(one, 0))
        seen: dict[Handle, Observation] = {}
        nodes: dict[str, bool] = {}
        try:
            for namespace, jobs in _by_namespace(in_turn).items():
                listed = self._listed(namespace, jobs) if len(jobs) > _FEW else _Listed()
                for handle in jobs.values():
                    seen[handle] = self._look(handle, listed, nodes)
        except ConnectorUnavailable:
            if not seen or self._client.seconds_left() > 0:
                raise
        with self._lock:
            for handle in wanted:
                times = self._passed_over.pop(handle, 0)
                if handle not in seen:
                    self._passed_over[handle] = times + 1
        return seen

    def living(self, namespaces: Iterable[str]) -> dict[Handle, Observation]:
        """Every job of ours that is not over, from listings alone: all of them or none."""
        seen: dict[Handle, Observation] = {}
        for namespace in sorted(set(namespaces)):
            pages = self._client.live_jobs(namespace, self._prefix, _LARGEST_PAGE)
            jobs = {job.id: job for page in pages for job in page}
            if not jobs:
                continue
            live = self._client.recent_allocations(namespace, _LARGEST_PAGE, live=True)
            allocs = _by_job((alloc for page in live for alloc in page), jobs)
            for native_id, job in jobs.items():
                look = observe(job, allocs.get(native_id, ()))
                if look.state not in OVER:
                    seen[Handle(native_id, namespace)] = look
        return seen

    def forget(self, handle: Handle) -> None:
        """It is not looked at any more."""
        with self._lock:
            self._passed_over.pop(handle, None)

    def _look(self, handle: Handle, listed: _Listed, nodes: dict[str, bool]) -> Observation:
        native_id, namespace = handle.native_id, handle.namespace
        if native_id in listed.waiting:
            evaluations = listed.evaluations.get(native_id, ())
            return observe(listed.waiting[native_id], (), evaluations)
        allocs = listed.allocs.get(native_id, [])
        if not allocs or fenced(allocs):
            allocs = self._client.allocations(native_id, namespace)
        if placed(allocs):
            node_id = in_question(allocs)
            away = node_id is not None and self._is_away(node_id, nodes)
            return observe(None, allocs, node_away=away)
        job = self._client.job(native_id, namespace)
        evaluations = self._client.evaluations(native_id, namespace) if job else ()
        return observe(job, allocs, evaluations)

    def _is_away(self, node_id: str, nodes: dict[str, bool]) -> bool:
        if node_id not in nodes:
            node = self._client.node(node_id)
            nodes[node_id] = node is None or node.status in _AWAY
        return nodes[node_id]

    def _listed(self, namespace: str, wanted: Mapping[str, Handle]) -> _Listed:
        """What was placed lately; and if many are not among that, what never was."""
        allocs: dict[str, list[Alloc]] = {}
        size = min(max(2 * len(wanted), _SMALLEST_PAGE), _LARGEST_PAGE)
        pages = self._client.recent_allocations(namespace, size)
        for page in islice(pages, _PAGES_PER_LOOK):
            for native_id, found in _by_job(page, wanted).items():
                allocs.setdefault(native_id, []).extend(found)
            if len(allocs) == len(wanted):
                break
        missing = wanted.keys() - allocs.keys()
        if len(missing) <= _FEW:
            return _Listed(allocs)
        jobs = self._client.live_jobs(namespace, self._prefix, _LARGEST_PAGE, _PENDING)
        waiting = {
            job.id: job for page in jobs for job in page if job.id in missing and job.never_placed
        }
        evaluations: dict[str, list[Evaluation]] = {}
        for blocked in self._client.blocked_evaluations(namespace, _LARGEST_PAGE):
            for one in blocked:
                evaluations.setdefault(one.job_id, []).append(one)
        return _Listed(allocs, waiting, evaluations)


def _by_namespace(handles: Iterable[Handle]) -> dict[str, dict[str, Handle]]:
    grouped: dict[str, dict[str, Handle]] = {}
    for handle in handles:
        grouped.setdefault(handle.namespace, {})[handle.native_id] = handle
    return grouped


def _by_job(allocs: Iterable[Alloc], wanted: Mapping[str, object]) -> dict[str, list[Alloc]]:
    grouped: dict[str, list[Alloc]] = {}
    for alloc in allocs:
        if alloc.job_id in wanted:
            grouped.setdefault(alloc.job_id, []).append(alloc)
    return grouped
