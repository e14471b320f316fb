"""Where Nomad's own web interface shows what the bridge speaks of. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlencode

from msgspec import Struct

from bridge.models.attempt import Handle

_DEFAULT_REGION: Final = "global"


class Links(Struct, frozen=True):
    """``ui_url`` is that of the web interface without ``/ui``; empty: no links."""

    ui_url: str
    region: str = _DEFAULT_REGION

    def job(self, handle: Handle) -> str | None:
        """The page of an attempt's job."""
        return self._page(f"jobs/{quote(handle.native_id, safe='')}@{quote(handle.namespace)}")

    def node(self, node_id: str) -> str | None:
        """The page of a node."""
        return self._page(f"clients/{quote(node_id, safe='')}")

    def _page(self, path: str) -> str | None:
        if not self.ui_url:
            return None
        region = "" if self.region == _DEFAULT_REGION else f"?{urlencode({'region': self.region})}"
        return f"{self.ui_url.rstrip('/').removesuffix('/ui')}/ui/{path}{region}"
