"""nomad-bridge: a queue that takes folders of work and gives results back.

``bridge.Client`` is the way in from Python. It is loaded when it is first used
(PEP 562), so that ``import bridge`` costs nothing on the server's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.client.workflow import Client

__version__ = "0.1.0"

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from bridge.client.workflow import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
