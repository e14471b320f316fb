"""The service's HTTP protocol: one request, one answer, one error.

Calls that may be repeated without harm are repeated after a broken connection
or an answer that says "later" (429, 502, 503, 504), after the time the service
asks for. The others are sent once, except after 429, which says that nothing
was done. A quota's 429 is no "later": it lasts until jobs have ended, so it is
raised at once.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote

import urllib3

import bridge
from bridge import errors
from bridge.client.proxies import pool
from bridge.errors import BridgeError, Unreachable

# Hears, in a sentence, why something takes longer.
Tell = Callable[[str], None]

_CONNECT_S: Final = 5.0
_READ_S: Final = 60.0
_LONGEST_WAIT_S: Final = 60.0
_SHORTEST_WAIT_S: Final = 0.2  # doubled each time, where the service names no time
_WAITS: Final = 6
_WORD_EVERY_S: Final = 10.0
_PAGE: Final = 1000
_SLOW_DOWN: Final = 429
_BUSY: Final = frozenset({_SLOW_DOWN, 502, 503, 504})

_BY_WORD: Final[dict[str, type[BridgeError]]] = {
    "invalid_request": errors.InvalidRequest,
    "unauthenticated": errors.Unauthenticated,
    "forbidden": errors.Forbidden,
    "not_found": errors.NotFound,
    "conflict": errors.Conflict,
    "not_ready": errors.NotReady,
    "too_large": errors.TooLarge,
    "too_many": errors.TooMany,
    "over_quota": errors.OverQuota,
    "unavailable": errors.Unavailable,
}
_BY_STATUS: Final[dict[int, type[BridgeError]]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    412: errors.NotReady,
    413: errors.TooLarge,
    422: errors.InvalidRequest,
    429: errors.TooMany,
    503: errors.Unavailable,
}


class Api:
    """Requests to one service with one secret. Safe to use from several threads.

    ``tell`` hears why it takes longer, at most every ten seconds.
    """

    def __init__(
        self, url: str, secret: str, *, ca_file: str = "", tell: Tell | None = None
    ) -> None:
        self._tell = tell
        self._told = -_WORD_EVERY_S
        self._url = url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {secret}",
            "Accept": "application/json",
            "User-Agent": f"nomad-bridge/{bridge.__version__}",
        }
        self._pool = pool(self._url, ca_file)

    def get(self, *path: str, **query: str | int | None) -> Any:
        """GET ``/v1/<path>``; each part of ``path`` is quoted. Raises as ``call``."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self.call("GET", path, query=given)

    def pages(self, *path: str) -> Iterator[Any]:
        """All that the list at ``/v1/<path>`` holds, read page by page. Raises as ``call``."""
        cursor = None
        while True:
            answer = self.get(*path, limit=_PAGE, cursor=cursor)
            yield from answer[path[-1]]
            cursor = answer.get("next")
            if not cursor:
                return

    def post(self, *path: str, body: object = None, repeatable: bool = True) -> Any:
        """POST to ``/v1/<path>``. Raises as ``call``."""
        return self.call("POST", path, body=body, repeatable=repeatable)

    def delete(self, *path: str) -> Any:
        """DELETE ``/v1/<path>``. Raises as ``call``."""
        return self.call("DELETE", path)

    def call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: dict[str, str] | None = None,
        body: object = None,
        repeatable: bool = True,
    ) -> Any:
        """One request; returns the decoded JSON answer.

        Raises the error class that the service names, or Unreachable when no
        answer of the service came back.
        """
        url = "/".join([f"{self._url}/v1", *map(_segment, path)])
        later = _BUSY if repeatable else {_SLOW_DOWN}
        waits = 0
        while True:
            response = self._send(method, url, query, body, _retries(repeatable=repeatable))
            if response.status not in later or waits == _WAITS or not _passes(response):
                return self._answer(response)
            self._pause(response, waits)
            waits += 1

    def _send(
        self,
        method: str,
        url: str,
        query: dict[str, str] | None,
        body: object,
        retries: urllib3.Retry,
    ) -> urllib3.BaseHTTPResponse:
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            return self._pool.request(
                method,
                url,
                fields=query or None if data is None else None,
                body=data,
                headers=headers,
                retries=retries,
                redirect=False,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"{self._url} cannot be reached: {_why(error)}",
                "Check BRIDGE_URL and that the service runs.",
            ) from error

    def _pause(self, response: urllib3.BaseHTTPResponse, waits: int) -> None:
        """Wait as long as the service asks for, and say so."""
        asked = response.headers.get("Retry-After", "")
        seconds = float(asked) if asked.isdecimal() else _SHORTEST_WAIT_S * 2**waits
        seconds = min(seconds, _LONGEST_WAIT_S)
        now = time.monotonic()
        if self._tell and seconds >= 1 and now - self._told >= _WORD_EVERY_S:
            self._told = now
            slow_down = response.status == _SLOW_DOWN
            why = "Asked to slow down" if slow_down else "The service is not ready"
            self._tell(f"{why}, going on in {seconds:.0f} s.")
        time.sleep(seconds)

    def _answer(self, response: urllib3.BaseHTTPResponse) -> Any:
        try:
            decoded = json.loads(response.data)
        except ValueError:
            decoded = None
        if response.status // 100 == 2 and decoded is not None:
            return decoded
        error = decoded if isinstance(decoded, dict) else {}
        if "error" not in error and response.status not in _BUSY:
            raise Unreachable(
                f"{self._url} answered with status {response.status} and no word of nomad-bridge",
                "Check that BRIDGE_URL points to nomad-bridge itself.",
            )
        raise refusal(error, response.status)


def refusal(answer: dict[str, Any], status: int) -> BridgeError:
    """The error that an error answer ``{error, detail, hint}`` stands for."""
    word = answer.get("error")
    kind = _BY_WORD.get(str(word)) or _BY_STATUS.get(status) or errors.Unavailable
    detail = str(answer.get("detail") or word or f"the service answered with status {status}")
    return kind(detail, str(answer.get("hint") or ""))


def word_of(error: BridgeError) -> str:
    """The protocol's word for an error, for output in JSON."""
    words = {kind: word for word, kind in _BY_WORD.items()}
    return next((words[kind] for kind in type(error).__mro__ if kind in words), "client_error")


def _segment(text: str) -> str:
    """Any text as one part of a path."""
    # Dots alone would be taken for steps up the path.
    return text.replace(".", "%2E") if text in {".", ".."} else quote(text, safe="")


def _passes(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether a "later" is worth waiting for: a quota's lasts until jobs have ended."""
    try:
        answer = json.loads(response.data)
    except ValueError:
        return True
    return not isinstance(answer, dict) or answer.get("error") != "over_quota"


def _retries(*, repeatable: bool) -> urllib3.Retry:
    """Of broken connections only: an answer that says "later" is waited for in words."""
    return urllib3.Retry(
        total=8,
        connect=3,
        read=3 if repeatable else 0,
        other=0,
        redirect=0,
        status=0,
        allowed_methods=None,
        backoff_factor=0.2,
        backoff_max=10,
        backoff_jitter=0.2,
        respect_retry_after_header=False,
        raise_on_status=False,
    )


def _why(error: Exception) -> str:
    """What kept an answer from coming, without the names of a library's objects."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return f"its proxy: {_why(reason.original_error)}"
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "the host's name is not known"
    cause = next((one for one in reason.args if isinstance(one, OSError)), reason.__cause__)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS could be agreed on ({cause.reason})"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    late = isinstance(reason, urllib3.exceptions.TimeoutError)
    return "it did not answer in time" if late else "what answers there speaks no HTTP"
