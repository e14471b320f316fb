"""Nomad's HTTP API, as far as the bridge uses it.

python-nomad speaks on a session of ours, one per thread (a requests session may
not be shared), that ignores the environment: REQUESTS_CA_BUNDLE would silently
replace our CA. What python-nomad lacks is in ``paging`` on the same session.
All reads are consistent: Nomad answers them from its leader unless asked for
stale ones.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import requests
from nomad import api

from bridge.connectors.nomad import faults, paging, transport
from bridge.connectors.nomad.jobspec import JsonObject
from bridge.connectors.nomad.wire import (
    Alloc,
    Evaluation,
    FullNode,
    Held,
    Job,
    Members,
    Namespace,
    Node,
    Token,
    Validation,
)
from bridge.errors import ConfigError, ConnectorUnavailable, JobRejected

T = TypeVar("T")

_CONNECT_TIMEOUT_S: Final = 3.05
# An allocation in one of these holds nothing on its node any more.
_RELEASED: Final = ("complete", "failed", "lost")
_LIVE: Final = " and ".join(f'ClientStatus != "{one}"' for one in _RELEASED)
_JOB_GONE: Final = "job not found"
NODE_GONE: Final = "node not found"
_JOB_EXISTS: Final = "job already exists"
_ACL_OFF: Final = "ACL support disabled"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where Nomad is and how to prove who we are. Time-outs in seconds."""

    address: str
    region: str = "global"
    token: str = ""
    from_setting: str = faults.DEFAULT_SETTING  # where the token is from
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    request_timeout_s: float = 10.0

    def __repr__(self) -> str:
        return f"Connection({self.address})"  # without the token

    def check(self) -> None:
        """Raises ConfigError when it cannot be used as it is."""
        url = urlsplit(self.address)
        if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
            raise ConfigError(
                "nomad.address is not a URL like https://nomad.example:4646",
                "Give scheme, host and port of a Nomad server and nothing else.",
            )
        if (self.client_cert is None) != (self.client_key is None):
            raise ConfigError(
                "nomad.client_cert and nomad.client_key belong together", "Set both or none."
            )
        for name in ("ca_file", "client_cert", "client_key"):
            file: Path | None = getattr(self, name)
            if file is not None and not file.is_file():
                raise ConfigError(f"nomad.{name}: there is no file {file}", "Correct the path.")


class NomadClient:
    """Calls from any thread; each raises ConnectorUnavailable, ``register`` also
    JobRejected. A job id that does not exist is None, never an error.
    """

    def __init__(self, connection: Connection) -> None:
        connection.check()
        self._connection = connection
        self._local = threading.local()

    @property
    def address(self) -> str:
        """The URL of the Nomad server that is asked."""
        return self._connection.address

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All calls of this thread inside the block together take at most ``seconds``."""
        self._local.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._local.deadline

    def seconds_left(self) -> float:
        """Of the block of ``within`` that this thread is in; without one there is no end."""
        return max(getattr(self._local, "deadline", math.inf) - time.monotonic(), 0.0)

    def parse(self, file: str, hcl: str, namespace: str) -> JsonObject:
        """A job file as JSON. Raises ConnectorUnavailable also for a faulty file."""
        jobs = self._endpoint(api.Jobs, namespace=namespace)
        return self._call(
            f"parse the job file {file}", lambda: jobs.parse(hcl), dict, needs="parse-job"
        )

    def validate(self, job: JsonObject) -> Validation:
        """What Nomad would say to a job, without registering it."""
        endpoint = self._endpoint(api.Validate)
        return self._call(
            "validate the job file",
            lambda: endpoint.validate_job({"Job": job}).json(),
            Validation,
            needs="read-job",
        )

    def register(self, job: JsonObject) -> None:
        """Create a job. One of the same id, running or ended, is left as it is."""
        body = {"Job": job, "EnforceIndex": True, "JobModifyIndex": 0}
        jobs = self._endpoint(api.Jobs)
        doing = f"take the job {job['ID']}"
        try:
            jobs.register_job(body)
        except faults.FAULTS as fault:
            response = faults.response_of(fault)
            if response is not None and _JOB_EXISTS in response.text:
                return
            raise self._error(fault, doing, "register-job", registers=True) from None

    def job(self, job_id: str, namespace: str) -> Job | None:
        """A job, or None when Nomad's leader knows none."""
        endpoint = self._endpoint(api.Job)
        return self._find(
            f"show the job {job_id}",
            lambda: endpoint.get_job(_quoted(job_id), namespace=namespace),
            Job,
            none_if=_JOB_GONE,
            needs="read-job",
        )

    def allocations(self, job_id: str, namespace: str) -> list[Alloc]:
        """The allocations of one job, also when the job itself is purged."""
        endpoint = self._endpoint(api.Job)
        return self._call(
            f"show the allocations of {job_id}",
            lambda: endpoint.get_allocations(_quoted(job_id), namespace=namespace),
            list[Alloc],
            needs="read-job",
        )

    def evaluations(self, job_id: str, namespace: str) -> list[Evaluation]:
        """The evaluations of one job."""
        endpoint = self._endpoint(api.Job)
        return self._call(
            f"show the evaluations of {job_id}",
            lambda: endpoint.get_evaluations(_quoted(job_id), namespace=namespace),
            list[Evaluation],
            needs="read-job",
        )

    def deregister(self, job_id: str, namespace: str, *, purge: bool) -> None:
        """Stop a job, and with ``purge`` remove it. An unknown one is no error."""
        endpoint = self._endpoint(api.Job)
        self._call(
            f"{'remove' if purge else 'stop'} the job {job_id}",
            lambda: endpoint.deregister_job(_quoted(job_id), namespace=namespace, purge=purge),
            dict,
            needs="purge-job" if purge else "deregister-job",
        )

    def recent_allocations(
        self, namespace: str, page_size: int, *, live: bool = False
    ) -> Iterator[list[Alloc]]:
        """Pages of a namespace's allocations with their tasks, newest first."""
        params = {"namespace": namespace, "reverse": "true", "per_page": str(page_size)}
        params |= {"filter": _LIVE} if live else {}
        return self._pages("allocations", params, list[Alloc], needs="read-job")

    def live_jobs(
        self, namespace: str, prefix: str, page_size: int, where: str = 'Status != "dead"'
    ) -> Iterator[list[Job]]:
        """Pages of a namespace's jobs whose ids begin with ``prefix`` and that are not dead."""
        params = {"namespace": namespace, "prefix": prefix, "per_page": str(page_size)}
        params["filter"] = where
        return self._pages("jobs", params, list[Job], needs="list-jobs")

    def blocked_evaluations(self, namespace: str, page_size: int) -> Iterator[list[Evaluation]]:
        """Pages of what says why jobs of a namespace are not placed."""
        params = {"namespace": namespace, "per_page": str(page_size)}
        params["filter"] = 'Status == "blocked"'
        return self._pages("evaluations", params, list[Evaluation], needs="read-job")

    def live_allocations(self, namespace: str, page_size: int) -> Iterator[list[Held]]:
        """Pages of a namespace's allocations that hold, or will hold, room on a node."""
        params = {
            "namespace": namespace,
            "filter": _LIVE,
            "resources": "true",
            "task_states": "false",
            "per_page": str(page_size),
        }
        return self._pages("allocations", params, list[Held], needs="read-job")

    def nodes(self, page_size: int, where: str = "") -> Iterator[list[Node]]:
        """Pages of the nodes of all pools, whatever their state; ``where`` is a filter in
        Nomad's words, about full nodes.
        """
        params = {"resources": "true", "per_page": str(page_size)}
        if where:
            params["filter"] = where
        return self._pages("nodes", params, list[Node], needs="node read")

    def node(self, node_id: str) -> FullNode | None:
        """A node with what its listing lacks, or None when there is none."""
        endpoint = self._endpoint(api.Node)
        return self._find(
            f"show the node {node_id}",
            lambda: endpoint.get_node(_quoted(node_id)),
            FullNode,
            none_if=NODE_GONE,
            needs="node read",
        )

    def events(self, namespace: str, index: int, silence_s: float) -> requests.Response:
        """Open the event stream of a namespace from raft index ``index`` on: newline-
        delimited JSON in an open answer, which the caller reads and closes. A read fails
        after ``silence_s`` seconds without a byte.
        """
        params = {
            "topic": ["Allocation", "Evaluation"],
            "namespace": namespace,
            "region": self._connection.region,
            "index": str(index),
        }
        url = f"{self._connection.address.rstrip('/')}/v1/event/stream"
        try:
            response = self._session().get(
                url,
                params=params,
                stream=True,
                timeout=(_CONNECT_TIMEOUT_S, silence_s),
                # A compressed stream would come late: it is flushed block by block.
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
            )
            if response.status_code != 200:
                raise requests.HTTPError(response=response)
        except faults.FAULTS as fault:
            raise self._error(fault, "send events", "read-job") from None
        return response

    def leader(self) -> str:
        """The address of the cluster's leader."""
        endpoint = self._endpoint(api.Status)
        return self._call("name its leader", endpoint.leader.get_leader, str)

    def members(self) -> Members:
        """The servers, with their versions in the tag ``build``."""
        endpoint = self._endpoint(api.Agent)
        return self._call("list its servers", endpoint.get_members, Members)

    def token(self) -> Token | None:
        """Our own token, or None where Nomad runs without ACLs."""
        endpoint = self._endpoint(api.Acl)
        return self._find("describe our token", endpoint.get_self_token, Token, none_if=_ACL_OFF)

    def namespaces(self) -> list[str]:
        """The namespaces in which our token may do something."""
        endpoint = self._endpoint(api.Namespaces)
        found = self._call("list namespaces", endpoint.get_namespaces, list[Namespace])
        return [namespace.name for namespace in found]

    def _pages(
        self, path: str, params: dict[str, str], kind: type[list[T]], *, needs: str
    ) -> Iterator[list[T]]:
        url = f"{self._connection.address.rstrip('/')}/v1/{path}"
        params |= {"region": self._connection.region}
        pages = paging.pages(self._session(), url, params, self._timeout, kind)
        while True:
            try:
                page = next(pages, None)
            except faults.FAULTS as fault:
                raise self._error(fault, f"list {path}", needs) from None
            if page is None:
                return
            yield page

    def _send(
        self, method: str, path: str, body: JsonObject | None = None, **params: str
    ) -> requests.Response:
        """What python-nomad has no method for. Raises what requests raises."""
        response = self._session().request(
            method,
            f"{self._connection.address.rstrip('/')}/v1/{path}",
            json=body,
            params={"region": self._connection.region, **params},
            timeout=self._timeout(),
            allow_redirects=False,
        )
        response.raise_for_status()
        return response

    def _call(self, doing: str, call: Callable[[], Any], kind: type[T], *, needs: str = "") -> T:
        try:
            return msgspec.convert(call(), kind)
        except faults.FAULTS as fault:
            # Without its cause, which is a page of urllib3 and says no more than this.
            raise self._error(fault, doing, needs) from None

    def _find(
        self, doing: str, call: Callable[[], Any], kind: type[T], *, none_if: str, needs: str = ""
    ) -> T | None:
        try:
            return msgspec.convert(call(), kind)
        except faults.FAULTS as fault:
            # By its words: a wrong address answers 404, too, and that means nothing.
            response = faults.response_of(fault)
            if response is not None and none_if in response.text:
                return None
            raise self._error(fault, doing, needs) from None

    def _error(
        self, fault: Exception, doing: str, needs: str, *, registers: bool = False
    ) -> ConnectorUnavailable | JobRejected:
        """The error for ``fault``; of a denial it says whether the token or the capabilities
        ``needs`` are at fault.
        """
        setting = self._connection.from_setting
        error = faults.translated(fault, doing, registers=registers, setting=setting)
        if not isinstance(error, ConnectorUnavailable) or not faults.is_denial(fault):
            return error
        token_fault: Exception | None = None
        try:
            self._endpoint(api.Acl).get_self_token()
        except faults.FAULTS as exc:
            token_fault = exc
        hint, narrow = faults.denial_hint(needs, token_fault, setting), token_fault is None
        return ConnectorUnavailable(error.message, hint, error.retry_after, narrow=narrow)

    def _endpoint(self, kind: Callable[..., Any], **settings: str) -> Any:
        # Not nomad.Nomad: it reads NOMAD_ADDR, NOMAD_TOKEN … from the environment.
        return kind(
            address=self._connection.address.rstrip("/"),
            region=self._connection.region,
            timeout=self._timeout(),
            verify=self._verify,
            cert=self._cert,
            session=self._session(),
            **settings,
        )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = transport.session(
                token=self._connection.token, verify=self._verify, cert=self._cert or None
            )
            session.mount(self._connection.address, transport.Adapter(self._limit_s))
            self._local.session = session
        return session

    @property
    def _verify(self) -> str | bool:
        return str(self._connection.ca_file) if self._connection.ca_file else True

    @property
    def _cert(self) -> tuple[str, str] | tuple[()]:
        connection = self._connection
        if connection.client_cert is None or connection.client_key is None:
            return ()
        return str(connection.client_cert), str(connection.client_key)

    def _timeout(self) -> tuple[float, float]:
        left = self._limit_s()
        if left <= 0:
            raise faults.NoAnswer(
                "Nomad answers too slowly", "Look at the load of the Nomad servers."
            )
        return min(_CONNECT_TIMEOUT_S, left), left

    def _limit_s(self) -> float:
        return min(self._connection.request_timeout_s, self.seconds_left())


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")
