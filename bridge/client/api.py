"""The service's HTTP protocol: one request, one answer, one error.

Calls that may be repeated without harm are repeated after a broken connection
or an answer that says "later" (429, 502, 503, 504), after the time the service
asks for. The others are sent once, except after 429, which says that nothing
was done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import urllib3

import bridge
from bridge import errors
from bridge.client.proxies import pool
from bridge.errors import BridgeError, Unreachable

_CONNECT_S: Final = 5.0
_READ_S: Final = 60.0
_LONGEST_WAIT_S: Final = 60
_PAGE: Final = 1000
_BUSY: Final = frozenset({429, 502, 503, 504})

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
    """Requests to one service with one secret. Safe to use from several threads."""

    def __init__(self, url: str, secret: str, *, ca_file: str = "") -> None:
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
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.request(
                method,
                url,
                fields=query or None if data is None else None,
                body=data,
                headers=headers,
                retries=_retries(repeatable=repeatable),
                redirect=False,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"{self._url} cannot be reached: {_short(error)}",
                "Check BRIDGE_URL and that the service runs.",
            ) from error
        return self._answer(response)

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


def _retries(*, repeatable: bool) -> urllib3.Retry:
    return urllib3.Retry(
        total=8,
        connect=3,
        read=3 if repeatable else 0,
        other=0,
        redirect=0,
        status=6,
        status_forcelist=_BUSY if repeatable else {429},
        allowed_methods=None,
        backoff_factor=0.2,
        backoff_max=10,
        backoff_jitter=0.2,
        retry_after_max=_LONGEST_WAIT_S,
        raise_on_status=False,
    )


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    # urllib3 puts the connection object in front: "<HTTPConnection …>: what".
    return str(reason).rpartition(">: ")[2] or type(reason).__name__
