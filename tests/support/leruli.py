"""The public ``leruli`` client from PyPI, unmodified, in its own virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bridge import process

# Made by `make test`; another place may be given instead.
HOME = Path(os.environ.get("BRIDGE_TEST_LERULI") or Path(sys.prefix) / "leruli")
PROGRAM = HOME / "bin" / "leruli"


def run(
    *arguments: str, cwd: Path, credentials: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the client in ``cwd`` with the ``LERULI_*`` variables of ``credentials``."""
    known = {name: value for name, value in credentials.items() if name.startswith("LERULI_")}
    return subprocess.run(
        [str(PROGRAM), *arguments],
        env=process.clean_environment(known),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make() -> None:
    """Make the virtual environment. The client cannot work with minio 8."""
    subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True)
    subprocess.run(
        [str(HOME / "bin" / "pip"), "install", "--quiet", "leruli==22.1.6", "minio<8"], check=True
    )


if __name__ == "__main__" and not PROGRAM.exists():
    make()
