"""Files that are shipped with the package but are not Python.

In a checkout they lie beside the package (``node-setup/``, ``nomad-jobs/``,
``examples/``), in an installed wheel inside it, under ``_shipped/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bridge.errors import BridgeError

_PACKAGE: Final = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Where a shipped file or folder is, for example ``node-setup/bin/stage``.

    Raises BridgeError when this installation lacks it.
    """
    for root in (_PACKAGE / "_shipped", _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise BridgeError(f"{name} is missing from this installation", "Install nomad-bridge again.")
