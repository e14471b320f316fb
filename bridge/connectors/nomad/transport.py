"""The session on which Nomad is spoken to, and how long an answer may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import requests
import urllib3
from requests.adapters import HTTPAdapter

_CHUNK: Final = 2**20


def session(*, token: str, verify: str | bool, cert: tuple[str, str] | None) -> requests.Session:
    """A session that ignores the environment; mount an ``Adapter`` on it."""
    made = requests.Session()
    made.trust_env = False
    made.verify = verify
    made.cert = cert
    made.headers["User-Agent"] = "nomad-bridge"
    if token:
        made.headers["X-Nomad-Token"] = token
    return made


class Adapter(HTTPAdapter):
    """Reads whole answers within ``limit_s()`` seconds. The time-out of requests is one for
    each piece: an answer that comes in drops would last for as long as it likes.
    """

    def __init__(self, limit_s: Callable[[], float]) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._limit_s = limit_s

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """As requests does it. Raises requests.ReadTimeout when the time is over."""
        until = time.monotonic() + self._limit_s()
        response = super().send(request, True, *args, **kwargs)
        if not stream:
            # What requests itself would read later, all at once, and keeps there.
            response._content = _whole(response, until)  # noqa: SLF001 (it takes no other body)
        return response


def _whole(response: requests.Response, until: float) -> bytes:
    """The decoded body; its connection is free again, or closed."""
    pieces: list[bytes] = []
    try:
        while piece := response.raw.read1(_CHUNK, decode_content=True):
            pieces.append(piece)
            if time.monotonic() >= until:
                break
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    if piece:
        response.close()
        raise requests.ReadTimeout("it is still answering")
    return b"".join(pieces)
