"""Whether Nomad is as the bridge and the groups' machines need it, by trying it.

Beyond ``health``, which a running bridge may ask at any time: this registers (and
removes) a job that no machine can run, mints an introduction that nobody uses, and
reads the configuration of the server that is asked.
"""

from __future__ import annotations

import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from bridge.connectors.base import Finding
from bridge.connectors.nomad import certificates, server_settings
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.enrol import Enrolment
from bridge.connectors.nomad.health import OLDEST_VERSION, parsed_version
from bridge.connectors.nomad.jobspec import JsonObject
from bridge.connectors.nomad.keeper import NodeKeeper
from bridge.connectors.nomad.setup import MANAGEMENT, Place
from bridge.connectors.nomad.use import out_of_order
from bridge.errors import BridgeError, ConnectorUnavailable
from bridge.models.node import NodeStatus

_CLOCKS_DIFFER_S: Final = 10.0
_CONNECT_S: Final = 3.0
_SOON_S: Final = 14 * 86400.0
_INTRODUCTION_S: Final = 60.0
_PAGE: Final = 1000
_NAME: Final = "bridge-check"  # of a job and of a machine that never are


class Asked(Struct, frozen=True, kw_only=True):
    """What the bridge is configured to do. Times in seconds."""

    places: Sequence[Place]
    enrolment: Enrolment
    client_cert: Path | None
    forget_after_s: float
    node_lost_after_s: float
    upload_limit_s: float


class Probe(NomadClient):
    """A client that also asks what only a check wants to know."""

    def clock(self) -> float:
        """What time it is at Nomad, Unix seconds, to the second. Raises ConnectorUnavailable."""
        date = self._call(
            "tell the time", lambda: self._send("GET", "status/leader").headers["Date"], str
        )
        return parsedate_to_datetime(date).timestamp()

    def settings(self) -> server_settings.Settings:
        """The configuration of the server that is asked. Raises ConnectorUnavailable."""
        return self._call(
            "show its configuration",
            lambda: self._send("GET", "agent/self").json(),
            server_settings.Agent,
            needs="agent read",
        ).config


class Checks:
    """``agent`` has a token that may read the servers' configuration, or tries to."""

    def __init__(
        self,
        probe: Probe,
        keeper: NodeKeeper,
        agent: Probe,
        asked: Asked,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._probe = probe
        self._keeper = keeper
        self._agent = agent
        self._asked = asked
        self._clock = clock

    def run(self) -> Iterator[Finding]:
        """Every finding. Takes for granted that Nomad answers to our token. Raises nothing."""
        yield _tried("clock", self._clocks)
        for place in self._asked.places:
            yield _tried(f"jobs of {place.group}", partial(self._jobs, place))
            yield _tried(f"machines of {place.group}", partial(self._machines, place))
        yield _tried("second token", self._introduction)
        yield from self._settings()
        yield from self._enrolment()

    def _clocks(self) -> Finding:
        ahead = self._probe.clock() - self._clock()
        if abs(ahead) <= _CLOCKS_DIFFER_S:
            return Finding("clock", True)
        return Finding(
            "clock",
            False,
            f"Nomad's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
            "Let NTP set the clocks here and on the Nomad servers: certificates depend on them.",
        )

    def _jobs(self, place: Place) -> Finding:
        """Each capability of the first token, on a job that no machine can run."""
        job_id = f"{_NAME}-{secrets.token_hex(4)}"
        probe, namespace = self._probe, place.namespace
        probe.register(_impossible(job_id, place, self._asked.enrolment.region))
        try:
            shown = probe.job(job_id, namespace)
            listed = [job for page in probe.live_jobs(namespace, job_id, 1) for job in page]
            probe.allocations(job_id, namespace)
            probe.deregister(job_id, namespace, purge=False)
        finally:
            probe.deregister(job_id, namespace, purge=True)
        if shown is None or not listed:
            return Finding(
                f"jobs of {place.group}",
                False,
                "Nomad took a job and does not show it",
                "Give the policy of the first token read-job and list-jobs.",
            )
        where = f"in namespace {namespace}, pool {place.node_pool}"
        return Finding(f"jobs of {place.group}", True, f"taken, shown and removed {where}")

    def _machines(self, place: Place) -> Finding:
        pages = self._probe.nodes(_PAGE, f'NodePool == "{place.node_pool}"')
        nodes = [node for page in pages for node in page]
        old = [node.name for node in nodes if parsed_version(node.version) < OLDEST_VERSION]
        what = f"machines of {place.group}"
        if old:
            needed = ".".join(map(str, OLDEST_VERSION))
            return Finding(
                what,
                False,
                f"Nomad is older than {needed} on {', '.join(old)}",
                "Give their owners a new bundle: `nomad-bridge nodes upgrade`.",
            )
        ready = [n for n in nodes if n.status is NodeStatus.READY and out_of_order(n) is None]
        return Finding(what, True, f"{len(ready)} of {len(nodes)} ready")

    def _introduction(self) -> Finding:
        places = self._asked.places
        pool = places[0].node_pool if places else _NAME
        self._keeper.introduce(_NAME, pool, _INTRODUCTION_S)
        return Finding("second token", True, "it can let machines in")

    def _settings(self) -> Iterator[Finding]:
        try:
            settings = self._agent.settings()
        except ConnectorUnavailable as error:
            remedy = f"Run this once with a management token in {MANAGEMENT}."
            yield Finding("servers' configuration", False, error.message, remedy)
            return
        yield from server_settings.judge(
            settings,
            forget_after_s=self._asked.forget_after_s,
            node_lost_after_s=self._asked.node_lost_after_s,
            upload_limit_s=self._asked.upload_limit_s,
        )

    def _enrolment(self) -> Iterator[Finding]:
        asked = self._asked.enrolment
        if asked.missing:
            yield Finding(
                "enrolment",
                False,
                f"machines cannot join: not set are {', '.join(asked.missing)}",
                "Set them in the configuration; docs/nomad.md says how to make the CA's files.",
            )
        for server in asked.servers:
            yield _tried(f"server {server}", partial(_reached, server))
        for setting, file in (
            ("nomad.client_cert", self._asked.client_cert),
            ("nomad.ca_file", asked.ca_file),
            ("nomad.ca_cert_file", asked.ca_cert_file),
            ("nomad.node_cert_file", asked.node_cert_file),
        ):
            if file is not None:
                yield _tried(setting, partial(self._lasts, setting, file))
        for setting, file in (
            ("nomad.ca_key_file", asked.ca_key_file),
            ("nomad.node_key_file", asked.node_key_file),
        ):
            if file is not None:
                yield _secrecy(setting, file)
        if asked.ca_file is not None and asked.ca_cert_file is not None:
            yield _tried("trust", partial(_trust, asked.ca_file, asked.ca_cert_file))

    def _lasts(self, setting: str, file: Path) -> Finding:
        left = certificates.expiry(file, setting) - self._clock()
        if left > _SOON_S:
            return Finding(setting, True, f"{timedelta(seconds=left).days} days left")
        when = f"expires in {timedelta(seconds=round(left))}" if left > 0 else "has expired"
        return Finding(setting, False, f"{file} {when}", "Renew it.")


def _tried(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except BridgeError as error:
        return Finding(what, False, error.message, error.hint)


def _impossible(job_id: str, place: Place, region: str) -> JsonObject:
    task = {"Name": _NAME, "Driver": "raw_exec", "Config": {"command": "/bin/false"}}
    nowhere = {"LTarget": "${meta.bridge_check}", "RTarget": job_id, "Operand": "="}
    return {
        "ID": job_id,
        "Name": job_id,
        "Type": "batch",
        "Region": region,
        "Namespace": place.namespace,
        "NodePool": place.node_pool,
        "Datacenters": ["*"],
        "Constraints": [nowhere],
        "TaskGroups": [{"Name": _NAME, "Count": 1, "Tasks": [task]}],
    }


def _reached(server: str) -> Finding:
    what = f"server {server}"
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        return Finding(
            what,
            False,
            f"no connection from here: {error}",
            "Correct nomad.servers: the RPC address (port 4647) by which machines reach Nomad.",
        )
    return Finding(what, True, "connected, from here")


def _secrecy(setting: str, file: Path) -> Finding:
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        return Finding(setting, False, f"cannot read {file}: {error}", "Correct the path.")
    if mode & 0o077:
        return Finding(setting, False, f"{file} has mode {mode:o}: others may read it", "chmod 600")
    return Finding(setting, True, "readable by its owner alone")


def _trust(ca_file: Path, ca_cert_file: Path) -> Finding:
    if certificates.is_trusted(ca_cert_file, ca_file):
        return Finding("trust", True, "the CA of the machines is one of the servers'")
    return Finding(
        "trust",
        False,
        f"{ca_cert_file} is neither in {ca_file} nor signed by what is there",
        "Sign machines by the CA that the Nomad servers trust (tls.ca_file there).",
    )
