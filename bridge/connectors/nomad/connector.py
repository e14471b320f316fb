"""The connector for a Nomad cluster: one batch job per attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bridge import log, resources
from bridge.connectors.base import Finding, Health, Pending, Room
from bridge.connectors.nomad.capacity import Capacity
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.enrol import Enroller, Enrolment
from bridge.connectors.nomad.events import Events, Pace
from bridge.connectors.nomad.health import findings
from bridge.connectors.nomad.jobspec import JsonObject, Settings, render, staging_memory_mb
from bridge.connectors.nomad.keeper import NodeKeeper, second
from bridge.connectors.nomad.links import Links
from bridge.connectors.nomad.looking import OVER, Lookout
from bridge.connectors.nomad.nodes import NodeRoom
from bridge.connectors.nomad.template import load
from bridge.errors import ConfigError, ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from bridge.models.node import Admission, EnrolRequest, NodeView

_log = log.get(__name__)

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
        self._settings = settings or Settings(region=connection.region)
        self._capacity = Capacity(self._client, stage_protocol=self._settings.stage_protocol)
        self._lookout = Lookout(self._client, prefix)
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
        """Look at attempts; see ``Lookout.at``. Raises ConnectorUnavailable."""
        with self._client.within(_CALL_S):
            seen = self._lookout.at(handles)
        self._capacity.ended([h.native_id for h, look in seen.items() if look.state in OVER])
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
        self._lookout.forget(handle)
        with self._client.within(_CALL_S):
            self._client.deregister(handle.native_id, handle.namespace, purge=True)

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        """Every job of ours in ``namespaces`` that is not over. One that Nomad calls
        dead is left out: at most its results are being uploaded, and that is not to
        be stopped.

        Raises ConnectorUnavailable.
        """
        with self._client.within(_CALL_S):
            return self._lookout.living(namespaces)

    def inhabited(self) -> set[str]:
        """Namespaces with jobs of ours that are not over. Raises ConnectorUnavailable."""
        with self._client.within(_CALL_S):
            return self._lookout.inhabited()

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

    def recall(self, pending: Iterable[Pending]) -> None:
        """Count what others handed over, or this process before it was started anew."""
        self._capacity.recall(pending)

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

    def _parsed(self, namespace: str) -> JsonObject:
        """The job template, parsed by Nomad once. Raises ConnectorUnavailable."""
        with self._template_lock:
            if self._template is None:
                self._template = load(self._client, self._hcl, self._job_file, namespace)
                self._capacity.takes_at_least(staging_memory_mb(self._template))
            return self._template


def _read(job_file: Path) -> str:
    try:
        return job_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"nomad.job_file {job_file} cannot be read: {error}",
            "Correct the path, or leave it empty for the shipped file.",
        ) from error
