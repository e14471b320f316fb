"""Stand-ins for what a node downloads, and for the scripts that a bundle packs."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from bridge.models.pin import Pin

_MACHINES = {"amd64": 62, "arm64": 183}


def program(architecture: str, about: str = "") -> bytes:
    """The beginning of a Linux program, and some text."""
    head = bytearray(64)
    head[:4] = b"\x7fELF"
    head[18] = _MACHINES[architecture]
    return bytes(head) + about.encode()


def download(pin: Pin, *, holds: bytes | None = None) -> bytes:
    """A file as the vendor of ``pin`` packs it, by default with a program in it."""
    content = program(pin.architecture, str(pin)) if holds is None else holds
    packed = io.BytesIO()
    if pin.file_name.endswith(".zip"):
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("LICENSE.txt", "free")
            archive.writestr(pin.name, content)
    elif pin.file_name.endswith(".tgz"):
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            member = tarfile.TarInfo(f"{pin.name}/{pin.name}d")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    else:
        return content
    return packed.getvalue()


def scripts(folder: Path) -> Path:
    """A small folder like node-setup."""
    for name, content in {
        "README.md": "# What runs on a node\n",
        "get-started.sh": "#!/bin/sh\necho prepared\n",
        "run.sh": "#!/bin/sh\necho running\n",
        "bin/stage": "#!/bin/sh\necho 1\n",
        "lib/store.sh": "# shellcheck shell=sh\n",
        "systemd/user/nomad.service": "[Service]\n",
        "pins": "nomad 2.0.5 - amd64 https://releases.example/nomad.zip\n",
        "minio/nginx.conf": "server {}\n",
    }.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder
