"""Tests see a clean environment and reach no address but this machine."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from typing import Any

_PREFIXES = ("AWS_", "BRIDGE_", "LERULI_", "NOMAD_", "PG", "RCLONE_")
_NAMES = ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE")
_OURS = "BRIDGE_TEST_"


class OutsideAddressError(RuntimeError):
    """A test wanted to leave this machine. No OSError: nothing may take it for an outage."""


def scrub_environment() -> None:
    """Remove what machines set and programs silently obey: proxies, CA bundles, keys."""
    for name in list(os.environ):
        stray = name.startswith(_PREFIXES) or name in _NAMES or name.lower().endswith("_proxy")
        if stray and not name.startswith(_OURS):
            del os.environ[name]


def hear_interrupts() -> None:
    """Take and pass on SIGINT: a shell starts what it runs in the background without it,
    and every program below inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def forbid_outside_addresses() -> None:
    """From now on, for this process: connect, send and resolve on this machine only."""
    sys.addaudithook(_guard)


def _guard(event: str, args: tuple[Any, ...]) -> None:
    # An audit hook cannot be removed and sees every socket Python makes.
    if event in ("socket.connect", "socket.sendto"):
        sock, address = args
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_outside(address[0])
    elif event == "socket.getaddrinfo":
        _refuse_outside(args[0])


def _refuse_outside(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
        inside = address.is_loopback or address.is_unspecified
    except ValueError:
        inside = False
    if not inside:
        raise OutsideAddressError(f"a test wanted to reach {name}; only localhost is allowed")
