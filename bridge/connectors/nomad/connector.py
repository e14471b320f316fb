"""The connector for a Nomad cluster: one batch job per attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from bridge import log, resources
from bridge.connectors.base import Finding, Health, Room
from bridge.connectors.nomad.capacity import Capacity
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.enrol import Enroller, Enrolment
from bridge.connectors.nomad.events import Events, Pace
from bridge.connectors.nomad.health import findings
from bridge.connectors.nomad.jobspec import JsonObject, Settings, render
from bridge.connectors.nomad.keeper import NodeKeeper, second
from bridge.connectors.nomad.links import Links
from bridge.connectors.nomad.nodes import NodeRoom
from bridge.connectors.nomad.observe import observe, placed
from bridge.connectors.nomad.template import load
from bridge.connectors.nomad.wire import Alloc
from bridge.errors import ConfigError, ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from bridge.models.node import Admission, EnrolRequest, NodeView

_log = log.get(__name__)

_OVER: Final = frozenset({Observed.ENDED, Observed.GONE})
_FEW: Final = 8  # up to so many handles of a namespace are read one by one
_SMALLEST_PAGE: Final = 50
_LARGEST_PAGE: Final = 500
_PAGES_PER_POLL: Final = 2
# A call of the contract may need many requests; all of them share this time. The
# first submits may wait as long again for the one that has the template parsed.
_CALL_S: Final = 30.0


class NomadConnector:
    """Hands attempts to Nomad. Raises ConfigError when it cannot be used as configured."""

    def __init__(
        self,
        connection: Connection,
        *,
        prefix: str,
        settings: Settings | None = None,
        job_file: Path | None = None,
        node_token: str = "",
        enrolment: Enrolment | None = None,
        ui_url: str = "",
        pace: Pace | None = None,
        name: str = "nomad",
    ) -> None:
        self.name = name
        self._client = NomadClient(connection)
        self._prefix = prefix
        self._settings = settings or Settings(region=connection.region)
        self._capacity = Capacity(self._client, stage_protocol=self._settings.stage_protocol)
        self._events = Events(self._client, prefix, pace)
        self._job_file = job_file or resources.path("nomad-jobs/job.nomad.hcl")
        self._hcl = _read(self._job_file)
        keeper = NodeKeeper(second(connection, node_token))
        self._nodes = NodeRoom(self._client, keeper, prefix)
        self._enroller = Enroller(enrolment or Enrolment(), keeper)
        self._links = Links(ui_url, connection.region)
        self._template: JsonObject | None = None
        self._template_lock = threading.Lock()

    def submit(self, spec: AttemptSpec) -> None:
        """Register the attempt's job, create-only.

        Raises JobRejected, ConnectorUnavailable.
        """
        with self._client.within(_CALL_S):
            template = self._parsed(spec.handle.namespace)
            self._client.register(render(template, spec, self._settings))
        self._capacity.handed_over(spec)
        _log.info("action=register native_id=%s", spec.handle.native_id)

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        """Look at attempts: few of a namespace one by one, many by a listing of what
        was placed lately. What the listing lacks is read directly, so that GONE is
        always the answer to one question about one job.

        Raises ConnectorUnavailable.
        """
        seen: dict[Handle, Observation] = {}
        with self._client.within(_CALL_S):
            for namespace, wanted in _by_namespace(handles).items():
                seen |= self._look_at(namespace, wanted)
        self._capacity.ended([h.native_id for h, look in seen.items() if look.state in _OVER])
        self._capacity.still_waiting(
            h.native_id
            for h, look in seen.items()
            if look.state is Observed.PENDING and look.node is None
        )
        return seen

    def cancel(self, handle: Handle) -> None:
        """Stop the job: main gets SIGTERM, later SIGKILL, then stage-out uploads.

        Raises ConnectorUnavailable.
        """
        with self._client.within(_CALL_S):
            self._client.deregister(handle.native_id, handle.namespace, purge=False)

    def forget(self, handle: Handle) -> None:
        """Purge the job. Raises ConnectorUnavailable."""
        with self._client.within(_CALL_S):
            self._client.deregister(handle.native_id, handle.namespace, purge=True)

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        """Every job of ours in ``namespaces`` that is not over. One that Nomad calls
        dead is left out: at most its results are being uploaded, and that is not to
        be stopped.

        Raises ConnectorUnavailable.
        """
        seen: dict[Handle, Observation] = {}
        with self._client.within(_CALL_S):
            for namespace in sorted(set(namespaces)):
                pages = self._client.live_jobs(namespace, self._prefix, _LARGEST_PAGE)
                ours = {job.id: Handle(job.id, namespace) for page in pages for job in page}
                seen |= self._look_at(namespace, ours)
        return {handle: look for handle, look in seen.items() if look.state not in _OVER}

    def check(self) -> Health:
        """Whether Nomad can be used, in words. Raises nothing."""
        with self._client.within(_CALL_S):
            return Health(tuple(self._findings()))

    def room(self, namespace: str, node_pool: str) -> Room:
        """What the pool's ready machines could still start; listings may be a second old.

        Raises ConnectorUnavailable.
        """
        with self._client.within(_CALL_S):
            return self._capacity.room(namespace, node_pool)

    def watch(
        self,
        namespaces: Callable[[], Iterable[str]],
        changed: Callable[[str | None], None],
        stopped: threading.Event,
    ) -> None:
        """Follow Nomad's event stream until ``stopped``; see the contract."""

        def tell(native_id: str | None) -> None:
            self._capacity.changed()
            changed(native_id)

        self._events.follow(namespaces, tell, stopped)

    def enrol(self, request: EnrolRequest) -> Admission:
        """Certificate, introduction and configuration for a node.

        Raises InvalidRequest (the signing request), ConnectorUnavailable.
        """
        return self._enroller.admit(request)

    def nodes(self) -> list[NodeView]:
        """Every node of every pool. Raises ConnectorUnavailable."""
        with self._client.within(_CALL_S):
            return self._nodes.views()

    def set_eligible(self, node_id: str, eligible: bool) -> None:
        """Whether a node may be given new attempts; True ends a drain.

        Raises ConnectorUnavailable.
        """
        self._nodes.set_eligible(node_id, eligible)
        self._capacity.nodes_changed()

    def drain(self, node_id: str, deadline_s: float) -> None:
        """Give a node nothing more, and stop what still runs there after ``deadline_s``.

        Raises ConnectorUnavailable.
        """
        self._nodes.drain(node_id, deadline_s)
        self._capacity.nodes_changed()

    def remove(self, node_id: str) -> None:
        """Forget a node that is down; one that is alive is only stopped for good.

        Raises ConnectorUnavailable.
        """
        self._nodes.remove(node_id)

    def job_url(self, handle: Handle) -> str | None:
        """Where Nomad's web interface shows an attempt, if that is configured."""
        return self._links.job(handle)

    def node_url(self, node_id: str) -> str | None:
        """Where Nomad's web interface shows a node, if that is configured."""
        return self._links.node(node_id)

    def _findings(self) -> Iterator[Finding]:
        namespaces: list[str] = []
        yield from findings(self._client, namespaces.append)
        for namespace in namespaces[:1]:
            try:
                self._parsed(namespace)
            except ConnectorUnavailable as exc:
                yield Finding("job file", False, exc.message, exc.hint)
            else:
                yield Finding("job file", True, str(self._job_file))

    def _look_at(self, namespace: str, wanted: Mapping[str, Handle]) -> dict[Handle, Observation]:
        listed = self._listed(namespace, wanted) if len(wanted) > _FEW else {}
        return {
            handle: self._look(handle, listed.get(native_id))
            for native_id, handle in wanted.items()
        }

    def _look(self, handle: Handle, listed: list[Alloc] | None) -> Observation:
        native_id, namespace = handle.native_id, handle.namespace
        allocs = listed or self._client.allocations(native_id, namespace)
        if placed(allocs):
            return observe(None, allocs)
        job = self._client.job(native_id, namespace)
        evaluations = self._client.evaluations(native_id, namespace) if job else []
        return observe(job, allocs, evaluations)

    def _listed(self, namespace: str, wanted: Mapping[str, Handle]) -> dict[str, list[Alloc]]:
        """Allocations of the wanted jobs, from the newest pages of the namespace."""
        found: dict[str, list[Alloc]] = {}
        size = min(max(2 * len(wanted), _SMALLEST_PAGE), _LARGEST_PAGE)
        pages = self._client.recent_allocations(namespace, size)
        for page in islice(pages, _PAGES_PER_POLL):
            for alloc in page:
                if alloc.job_id in wanted:
                    found.setdefault(alloc.job_id, []).append(alloc)
            if len(found) == len(wanted):
                break
        return found

    def _parsed(self, namespace: str) -> JsonObject:
        """The job template, parsed by Nomad once. Raises ConnectorUnavailable."""
        with self._template_lock:
            if self._template is None:
                self._template = load(self._client, self._hcl, self._job_file, namespace)
            return self._template


def _read(job_file: Path) -> str:
    try:
        return job_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"nomad.job_file {job_file} cannot be read: {error}",
            "Correct the path, or leave it empty for the shipped file.",
        ) from error


def _by_namespace(handles: Iterable[Handle]) -> dict[str, dict[str, Handle]]:
    grouped: dict[str, dict[str, Handle]] = {}
    for handle in handles:
        grouped.setdefault(handle.namespace, {})[handle.native_id] = handle
    return grouped
