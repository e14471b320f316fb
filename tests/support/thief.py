"""Somebody who has a group's bundle, and no file with the storage's keys."""

from __future__ import annotations

import shutil
import tarfile
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.certificates import request_for
from tests.support.service import Answer, RunningService

KEY = ec.generate_private_key(ec.SECP256R1())
KEY_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
).decode()
# Says that input and results were brought, and keeps what it was told.
LYING_STAGE = """#!/bin/sh
env >"$(dirname "$0")/../told-$1"
mkdir -p "$NOMAD_ALLOC_DIR/data/rundir"
echo true >"$NOMAD_ALLOC_DIR/data/rundir/run.sh"
"""


class Thief:
    """What somebody does who has the bundle."""

    def __init__(self, service: RunningService, bundle: Path, folder: Path) -> None:
        self.service = service
        self.home = folder
        with tarfile.open(bundle) as tar:
            tar.extractall(folder, filter="data")
        conf = (folder / "nomadrun" / "node.conf").read_text()
        self.conf = dict(line.split("=", 1) for line in conf.splitlines())
        (folder / "bin").mkdir()

    def enrol(self, name: str, request: str | None = None) -> Answer:
        """Ask the bridge for a place."""
        body = {
            "group_token": self.conf["BRIDGE_GROUP_TOKEN"],
            "name": name,
            "signing_request": request or request_for(KEY, name),
            "facts": {
                "cores": 64,
                "memory_mb": 64_000,
                "disk_mb": 10**6,
                "architecture": "x86_64",
                "clock": time.time(),
                "limits": True,
            },
        }
        return self.service.post("/v1/nodes/enroll", body, self.conf["BRIDGE_COMPUTE_SECRET"])

    def lie(self) -> None:
        """From now on no job is really run."""
        (self.home / "bin" / "stage").unlink(missing_ok=True)
        (self.home / "bin" / "stage").write_text(LYING_STAGE)
        (self.home / "bin" / "stage").chmod(0o755)

    def be_honest(self) -> None:
        """The programs of the bundle, without the keys that they need."""
        for part in ("bin", "lib"):
            shutil.rmtree(self.home / part, ignore_errors=True)
            shutil.copytree(self.home / "nomadrun" / part, self.home / part)

    def told(self) -> dict[str, str]:
        """The environment that the last job brought."""
        pairs = (line.partition("=") for line in (self.home / "told-in").read_text().splitlines())
        return {name: value for name, _, value in pairs}
