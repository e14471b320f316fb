"""What the Nomad servers are configured to do, against what the bridge needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from msgspec import Struct, field

from bridge.connectors.base import Finding

# Nomad shall remember what has ended so many times longer than the bridge may ask for it.
_AS_LONG: Final = 2
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


class Introduction(Struct, frozen=True, rename="pascal"):
    """How a server treats nodes that come for the first time."""

    enforcement: str = ""


class Server(Struct, frozen=True, rename="pascal"):
    """The server block. An empty duration is Nomad's default."""

    batch_eval_gc_threshold: str = field(name="BatchEvalGCThreshold", default="")
    client_introduction: Introduction = field(default_factory=Introduction)
    enable_event_broker: bool | None = None
    job_gc_threshold: str = field(name="JobGCThreshold", default="")
    node_gc_threshold: str = field(name="NodeGCThreshold", default="")


class Tls(Struct, frozen=True, rename="pascal"):
    """The tls block."""

    enable_http: bool = field(name="EnableHTTP", default=False)
    enable_rpc: bool = field(name="EnableRPC", default=False)
    verify_server_hostname: bool = False


class Acl(Struct, frozen=True, rename="pascal"):
    """The acl block."""

    enabled: bool = False


class Settings(Struct, frozen=True, rename="pascal"):
    """The configuration of a Nomad agent."""

    acl: Acl = field(name="ACL", default_factory=Acl)
    server: Server = field(default_factory=Server)
    tls: Tls = field(name="TLSConfig", default_factory=Tls)


class Agent(Struct, frozen=True):
    """What an agent tells of itself."""

    config: Settings


def judge(
    settings: Settings, *, forget_after_s: float, node_lost_after_s: float, upload_limit_s: float
) -> Iterator[Finding]:
    """One finding for each thing that the bridge depends on. Times in seconds: how long
    the bridge leaves ended attempts at Nomad, when it gives up a lost node, and how long
    the results of an attempt may be uploaded.
    """
    yield from _tls(settings.tls)
    yield _finding(
        "ACLs",
        settings.acl.enabled,
        "every group's machines could do everything at Nomad",
        "Set acl { enabled = true } on every server, then `nomad acl bootstrap`.",
    )
    enforcement = settings.server.client_introduction.enforcement
    yield _finding(
        "introduction of machines",
        enforcement == "strict",
        f"enforcement is {enforcement or 'warn'}: who has a certificate can join any pool",
        'Set server { client_introduction { enforcement = "strict" } } on every server.',
    )
    yield _finding(
        "event stream",
        settings.server.enable_event_broker is not False,
        "it is off: changes are seen late",
        "Set server { enable_event_broker = true }.",
    )
    # An attempt whose program has failed is over for Nomad, though it still uploads.
    needed = max(_AS_LONG * forget_after_s, upload_limit_s)
    yield _memory(settings.server, needed, _AS_LONG * node_lost_after_s)


def seconds(duration: str) -> float:
    """A duration as Go writes it (``1h30m``), in seconds; 0 if it is none."""
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def _tls(tls: Tls) -> Iterator[Finding]:
    yield _finding(
        "TLS of the HTTP interface",
        tls.enable_http,
        "tokens can be read on the way",
        "Set tls { http = true } on every server.",
    )
    yield _finding(
        "TLS between agents",
        tls.enable_rpc and tls.verify_server_hostname,
        "who reaches port 4647 can act as a Nomad server",
        "Set tls { rpc = true, verify_server_hostname = true } on every server.",
    )


def _memory(server: Server, needed: float, needed_of_nodes: float) -> Finding:
    thresholds = (
        ("job_gc_threshold", server.job_gc_threshold or "4h", needed),
        ("batch_eval_gc_threshold", server.batch_eval_gc_threshold or "24h", needed),
        ("node_gc_threshold", server.node_gc_threshold or "24h", needed_of_nodes),
    )
    short = [
        f"{name} is {text}, needed is {timedelta(seconds=least)}"
        for name, text, least in thresholds
        if seconds(text) < least
    ]
    return _finding(
        "garbage collection",
        not short,
        "; ".join(short),
        "Raise it in the server block of every server, or lower what asks for it: "
        "queue.upload_limit_s, queue.forget_after_s or queue.node_lost_after_s.",
    )


def _finding(what: str, ok: bool, problem: str, remedy: str) -> Finding:
    return Finding(what, True) if ok else Finding(what, False, problem, remedy)
