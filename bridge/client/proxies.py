"""Connections to a server, by the proxy that the environment names for it
(HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
"""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import urllib3


def proxy_for(url: str) -> str | None:
    """The proxy to take, or None. This machine is never asked for by way of another."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_here(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def pool(url: str, ca_file: str, **options: Any) -> urllib3.PoolManager:
    """Connections for a URL; ``ca_file`` is trusted instead of the system's authorities.

    ``options`` are those of urllib3's pools, for example ``timeout``.
    """
    options |= {"maxsize": 16, "ca_certs": ca_file or None}
    proxy = proxy_for(url)
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
