"""Listings page by page: python-nomad does not hand out the header with the next token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec
import requests

T = TypeVar("T")

_NEXT: Final = "X-Nomad-NextToken"


def pages(
    session: requests.Session,
    url: str,
    params: Mapping[str, str],
    timeout: Callable[[], tuple[float, float]],
    kind: type[list[T]],
) -> Iterator[list[T]]:
    """GET ``url`` until Nomad names no next page. ``timeout`` is asked for each page
    (connect, read; seconds).

    Raises what requests and msgspec raise.
    """
    token = ""
    while True:
        asked = {**params, "next_token": token} if token else params
        response = session.get(url, params=asked, timeout=timeout(), allow_redirects=False)
        response.raise_for_status()
        yield msgspec.json.decode(response.content, type=kind)
        token = response.headers.get(_NEXT, "")
        if not token:
            return
