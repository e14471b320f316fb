"""Looks at many jobs with few requests, and as far as the time of a call allows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct, field

from bridge import log
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.faults import NoAnswer
from bridge.connectors.nomad.observe import fenced, in_question, observe, placed
from bridge.connectors.nomad.wire import Alloc, Evaluation, Job
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle, Observation, Observed
from bridge.models.node import NodeStatus

_log = log.get(__name__)

OVER: Final = frozenset({Observed.ENDED, Observed.GONE})
_FEW: Final = 8  # up to so many handles of a namespace are read one by one
_SMALLEST_PAGE: Final = 50
_LARGEST_PAGE: Final = 500
_PAGES_PER_LOOK: Final = 2
_ALL: Final = "*"  # namespaces
_PENDING: Final = 'Status == "pending"'
# Nomad without a leader refuses everything, each time after some seconds.
_REFUSED_IN_A_ROW: Final = 3
_TELL_AGAIN_S: Final = 600.0
_LONGEST: Final = 300
_AWAY: Final = frozenset({NodeStatus.DOWN, NodeStatus.DISCONNECTED})


class _Listed(Struct, frozen=True):
    """What listings tell of wanted jobs."""

    allocs: dict[str, list[Alloc]] = field(default_factory=dict)
    waiting: dict[str, Job] = field(default_factory=dict)  # those that were never placed
    evaluations: dict[str, list[Evaluation]] = field(default_factory=dict)


class _Turns:
    """Whose turn it is to be read, for any number of threads: who was passed over comes
    first, who could not be read comes last, so that neither keeps others waiting for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed_over: dict[Handle, int] = {}  # how often in a row
        self._unread: dict[Handle, float] = {}  # when that was told last

    def sort(self, wanted: Iterable[Handle]) -> list[Handle]:
        """In their turn."""
        with self._lock:
            return sorted(
                wanted, key=lambda one: (one in self._unread, -self._passed_over.get(one, 0))
            )

    def note(
        self, wanted: Iterable[Handle], seen: Collection[Handle], failed: Mapping[Handle, Exception]
    ) -> None:
        """Which of them could be read; why others could not is logged now and then."""
        with self._lock:
            for handle in wanted:
                times = self._passed_over.pop(handle, 0)
                if handle in seen:
                    self._unread.pop(handle, None)
                elif handle not in failed:
                    self._passed_over[handle] = times + 1
            for handle, fault in failed.items():
                self._unread.setdefault(handle, -math.inf)
                # Where nothing is read, who asked is told by the error.
                if seen or not isinstance(fault, ConnectorUnavailable):
                    self._tell(handle, fault)

    def forget(self, handle: Handle) -> None:
        """It is not looked at any more."""
        with self._lock:
            self._passed_over.pop(handle, None)
            self._unread.pop(handle, None)

    def _tell(self, handle: Handle, fault: Exception) -> None:
        now = time.monotonic()
        if now - self._unread[handle] < _TELL_AGAIN_S:
            return
        self._unread[handle] = now
        words = " ".join(f"{type(fault).__name__}: {fault}".split())[:_LONGEST]
        _log.warning("action=look native_id=%s unread=%s", handle.native_id, words)


class Lookout:
    """Looks from any thread. Every method raises ConnectorUnavailable."""

    def __init__(self, client: NomadClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._turns = _Turns()

    def at(self, handles: Iterable[Handle]) -> dict[Handle, Observation]:
        """Few of a namespace are read one by one, many by listings. What these lack is
        read directly, so that GONE is always the answer to one question about one job.

        The answer has what could be read. What there was no time for comes first the next
        time; what could not be read though others could comes last. Where nothing was read
        but Nomad answers, the error is narrow.
        """
        wanted = list(handles)
        seen: dict[Handle, Observation] = {}
        failed: dict[Handle, Exception] = {}
        away: ConnectorUnavailable | None = None
        try:
            for namespace, jobs in _by_namespace(self._turns.sort(wanted)).items():
                self._read(namespace, jobs, seen, failed)
        except ConnectorUnavailable as error:
            away = error
        self._turns.note(wanted, seen, failed)
        refusals = [one for one in failed.values() if isinstance(one, ConnectorUnavailable)]
        if not seen and (away or refusals):
            raise self._in_place(away or refusals[0])
        return seen

    def living(self, namespaces: Iterable[str]) -> dict[Handle, Observation]:
        """Every job of ours that is not over, from listings alone: all of them or none.
        Where these cannot be read but Nomad answers, the error is narrow.
        """
        seen: dict[Handle, Observation] = {}
        for namespace in sorted(set(namespaces)):
            try:
                seen |= self._living_in(namespace)
            except ConnectorUnavailable as away:
                raise self._in_place(away) from None
        return seen

    def inhabited(self) -> set[str]:
        """Namespaces with jobs of ours that are not over, as far as our token may list jobs."""
        try:
            pages = self._client.live_jobs(_ALL, self._prefix, _LARGEST_PAGE)
            return {job.namespace for page in pages for job in page}
        except ConnectorUnavailable as away:
            raise self._in_place(away) from None

    def forget(self, handle: Handle) -> None:
        """It is not looked at any more."""
        self._turns.forget(handle)

    def _living_in(self, namespace: str) -> dict[Handle, Observation]:
        pages = self._client.live_jobs(namespace, self._prefix, _LARGEST_PAGE)
        jobs = {job.id: job for page in pages for job in page}
        if not jobs:
            return {}
        live = self._client.recent_allocations(namespace, _LARGEST_PAGE, live=True)
        allocs = _by_job((alloc for page in live for alloc in page), jobs)
        looks = {
            Handle(native_id, namespace): _observed(job, allocs.get(native_id, ()))
            for native_id, job in jobs.items()
        }
        return {handle: look for handle, look in looks.items() if look.state not in OVER}

    def _read(
        self,
        namespace: str,
        jobs: Mapping[str, Handle],
        seen: dict[Handle, Observation],
        failed: dict[Handle, Exception],
    ) -> None:
        """Look at jobs one by one. Raises ConnectorUnavailable where that is of no use."""
        listed = self._listed_if_readable(namespace, jobs) if len(jobs) > _FEW else _Listed()
        nodes: dict[str, bool] = {}
        refused = 0
        for handle in jobs.values():
            try:
                seen[handle] = self._look(handle, listed, nodes)
            except NoAnswer as fault:
                if self._client.seconds_left() > 0:
                    failed[handle] = fault  # the answer to this question may be what takes so long
                raise
            except Exception as fault:
                # Whatever it is: one job that cannot be read keeps no other from being read.
                failed[handle] = fault
                refused = refused + 1 if isinstance(fault, ConnectorUnavailable) else 0
                if isinstance(fault, ConnectorUnavailable) and refused == _REFUSED_IN_A_ROW:
                    raise
            else:
                refused = 0

    def _in_place(self, away: ConnectorUnavailable) -> ConnectorUnavailable:
        """The error for what could not be read, narrow if something else can be: then it
        holds up no other place.
        """
        if away.narrow:
            return away
        try:
            narrow = bool(self._client.leader())
        except ConnectorUnavailable:
            return away
        return ConnectorUnavailable(away.message, away.hint, away.retry_after, narrow=narrow)

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

    def _listed_if_readable(self, namespace: str, wanted: Mapping[str, Handle]) -> _Listed:
        """One allocation that cannot be shown spoils the whole page: then there is none."""
        try:
            return self._listed(namespace, wanted)
        except NoAnswer:
            raise
        except ConnectorUnavailable as fault:
            _log.debug("action=list namespace=%s unread=%s", namespace, fault.message)
            return _Listed()

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


def _observed(job: Job, allocs: Sequence[Alloc]) -> Observation:
    """What cannot be read lives, for all that is known: it is not dead to Nomad."""
    try:
        return observe(job, allocs)
    except Exception as fault:  # noqa: BLE001 (it shall not keep others from being read)
        reason = f"Nomad shows what cannot be read: {type(fault).__name__}"
        return Observation(state=Observed.UNKNOWN, reason=reason)


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
