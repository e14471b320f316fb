"""Whether a Nomad cluster can be used by the bridge, in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from bridge.connectors.base import Finding
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.wire import Token
from bridge.errors import ConnectorUnavailable

OLDEST_VERSION: Final = (2, 0, 4)

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_SOON: Final = timedelta(days=7)
_PROBE: Final = "bridge-check"  # a job id that never exists


def findings(client: NomadClient, namespace: Callable[[str], None]) -> Iterator[Finding]:
    """Try what does no harm, in the order in which things depend on each other.

    ``namespace`` is called with each namespace that the token can work in. Ends at
    the first thing without which the rest cannot be tried. Raises nothing.
    """
    yield _transport(client.address)
    for what, look in (("reachable", _reachable), ("token", _token)):
        finding = _tried(what, client, look)
        yield finding
        if not finding.ok:
            return
    yield _tried("version", client, _version)
    yield from _namespaces(client, namespace)


def _tried(what: str, client: NomadClient, look: Callable[[NomadClient], Finding]) -> Finding:
    try:
        return look(client)
    except ConnectorUnavailable as exc:
        return Finding(what, False, exc.message, exc.hint)


def _transport(address: str) -> Finding:
    url = urlsplit(address)
    if url.scheme == "https" or url.hostname in _LOOPBACK:
        return Finding("transport", True, url.scheme)
    return Finding(
        "transport",
        False,
        f"{url.scheme}://{url.hostname} is not encrypted: our token can be read on the way",
        "Turn on TLS in Nomad and use https in nomad.address.",
    )


def _reachable(client: NomadClient) -> Finding:
    return Finding("reachable", True, f"leader {client.leader()}")


def _token(client: NomadClient) -> Finding:
    token = client.token()
    if token is None:
        return Finding("token", True, "Nomad runs without ACLs: who reaches it may run jobs")
    if token.type == "management":
        return Finding(
            "token", True, "a management token works, but a token of less power is enough"
        )
    left = _time_left(token)
    if left is not None and left < _SOON:
        return Finding(
            "token", left > timedelta(0), f"it expires in {left}", "Make a new token soon."
        )
    return Finding("token", True, f"policies {', '.join(token.policies or ()) or 'none'}")


def _time_left(token: Token) -> timedelta | None:
    if not token.expiration_time:
        return None
    return datetime.fromisoformat(token.expiration_time) - datetime.now(UTC)


def _version(client: NomadClient) -> Finding:
    needed = ".".join(map(str, OLDEST_VERSION))
    builds = [(member.tags or {}).get("build", "") for member in client.members().members or ()]
    old = sorted(build for build in builds if parsed_version(build) < OLDEST_VERSION)
    if old:
        return Finding(
            "version",
            False,
            f"a server runs {old[0] or 'an unknown version'}",
            f"Update the Nomad servers to {needed} or later.",
        )
    return Finding("version", True, ", ".join(sorted(set(builds))))


def parsed_version(build: str) -> tuple[int, ...]:
    """The numbers of a version like ``2.0.5-dev``; of anything else the oldest of all."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", build)
    return tuple(map(int, match.groups())) if match else (0,)


def _namespaces(client: NomadClient, usable: Callable[[str], None]) -> Iterator[Finding]:
    try:
        names = client.namespaces()
    except ConnectorUnavailable as exc:
        yield Finding("namespaces", False, exc.message, exc.hint)
        return
    if not names:
        yield Finding(
            "namespaces",
            False,
            "our token may do nothing in any namespace",
            "Give its policy the groups' namespaces.",
        )
    for name in names:
        try:
            client.job(_PROBE, name)
            next(client.live_jobs(name, _PROBE, 1), None)
        except ConnectorUnavailable as exc:
            yield Finding(f"namespace {name}", False, exc.message, exc.hint)
        else:
            usable(name)
            yield Finding(f"namespace {name}", True, "jobs can be read")
