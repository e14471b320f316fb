"""Writes a gzip'ed tar archive with exactly the members that a test names.

    archive.py OUT MEMBER…     MEMBER: KIND:NAME[=REST], where KIND is
    dir  file (REST: its text)  setuid  mode0 (a folder or file without permissions)
    link hard (REST: the target)  fifo  char  big (REST: MiB of zeros)  many (REST: how many)

In a NAME, %n stands for a newline.
"""

from __future__ import annotations

import io
import sys
import tarfile

_TYPES = {
    "dir": tarfile.DIRTYPE,
    "mode0": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
}


def main(out: str, *members: str) -> None:
    """Write the archive."""
    with tarfile.open(out, "w:gz", compresslevel=1) as archive:
        for member in members:
            kind, _, text = member.partition(":")
            name, _, rest = text.replace("%n", "\n").partition("=")
            if kind == "many":
                for number in range(int(rest)):
                    archive.addfile(tarfile.TarInfo(f"{name}{number}"))
            else:
                _add(archive, kind, name, rest)


def _add(archive: tarfile.TarFile, kind: str, name: str, rest: str) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    info.type = _TYPES.get(kind, tarfile.REGTYPE)
    info.mode = {"dir": 0o755, "setuid": 0o6755, "mode0": 0}.get(kind, 0o644)
    if kind in ("link", "hard"):
        info.linkname = rest
    data = bytes(int(rest) << 20) if kind == "big" else rest.encode()
    info.size = len(data) if info.isreg() else 0
    archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
