"""From a folder to ``run.tgz``: what goes in, what stays out, what is refused.

The archive is written as a stream, its members sorted and without owners, so
that the same folder gives the same bytes and the same SHA-256. ``run.sh``, made
from the command, is the last member.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shlex
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pathspec

from bridge.client.handle import BUCKET_FILE, JOB_FILE
from bridge.errors import FolderError, InvalidRequest

IGNORE_FILE: Final = ".bridgeignore"
COMMAND_FILE: Final = "run.sh"
# Left out at the top of the folder: handles, and what an earlier job left there.
_LEFT_OUT: Final = frozenset({"joblog.txt", "joberr.txt", "run.tgz", JOB_FILE, BUCKET_FILE})
# The ignore file, partial downloads, and files of ours that a crash left.
_OUR_PREFIX: Final = ".bridge"

_IN_MEMORY: Final = 8 << 20  # archives up to this size never touch the disk
_CHUNK: Final = 1 << 20
# Higher levels cost three times the time for a few percent of the size.
_GZIP_LEVEL: Final = 4


@dataclass(frozen=True)
class Archive:
    """A packed folder: an open file at its start, its SHA-256 and size in bytes."""

    file: IO[bytes]
    sha256: str
    size: int
    members: int

    def close(self) -> None:
        """Delete the temporary file."""
        self.file.close()


@dataclass(frozen=True)
class _Entry:
    """Something to pack: its name in the archive and its place here."""

    name: str
    path: str


def script(command: str | Sequence[str]) -> bytes:
    """The content of ``run.sh``: a text is a shell line, a sequence an argument list.

    Raises InvalidRequest when it is empty or cannot be written.
    """
    line = command if isinstance(command, str) else shlex.join(command)
    if not line.strip():
        raise InvalidRequest("the command is empty", "Say what the job should run.")
    if "\0" in line:
        raise InvalidRequest("the command holds a zero byte", "Remove it.")
    return f"#!/bin/bash\n{line}\n".encode("utf-8", "surrogateescape")


def pack(folder: Path, command: str | Sequence[str]) -> Archive:
    """Pack a folder and its command; the caller closes the result.

    Raises FolderError naming the file that cannot be packed, InvalidRequest
    for the command.
    """
    last = script(command)
    check(folder)
    # The file outlives this function: the caller closes it.
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    try:
        hashing = _Hashing(spool)
        members = _write(folder, last, hashing)
        spool.seek(0)
    except BaseException as error:
        spool.close()
        if isinstance(error, OSError):
            raise FolderError(
                f"{folder} cannot be packed: {error.strerror or error}",
                "Archives are kept in TMPDIR while they are uploaded; check that it has room.",
            ) from error
        raise
    return Archive(spool, hashing.hexdigest(), hashing.size, members)


def check(folder: Path) -> None:
    """Cheap checks that need no packing. Raises FolderError."""
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise FolderError(f"{folder}: {error.strerror}", "Check the path.") from error
    if not stat.S_ISDIR(mode):
        raise FolderError(f"{folder} is not a folder", "A job is a folder with its input files.")


def _write(folder: Path, last: bytes, out: _Hashing) -> int:
    count = 0
    has_input = False
    # mtime=0: the time of packing must not change the checksum.
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        for entry in _walk(folder):
            has_input |= _add(tar, entry, folder)
            tar.getmembers().clear()  # bounded memory: tarfile keeps every member
            count += 1
        if not has_input:
            raise FolderError(
                f"{folder} is empty: it holds no file that would go to the job",
                f"Put the input files there, or check its {IGNORE_FILE}.",
            )
        info = tarfile.TarInfo(COMMAND_FILE)
        info.size, info.mode = len(last), 0o755
        tar.addfile(info, io.BytesIO(last))
    return count + 1


def _walk(folder: Path) -> Iterator[_Entry]:
    """Everything to pack, folders before their content, sorted by name."""
    ignored = _ignored(folder)
    pending = [_Entry("", os.fspath(folder))]
    while pending:
        parent = pending.pop()
        if parent.name:
            yield parent
        try:
            with os.scandir(parent.path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise FolderError(f"{parent.path} cannot be read: {error.strerror}") from error
        folders = []
        for item in found:
            name = f"{parent.name}/{item.name}" if parent.name else item.name
            is_folder = item.is_dir(follow_symlinks=False)
            if ignored.match_file(f"{name}/" if is_folder else name) or _left_out(name):
                continue
            if name == COMMAND_FILE:
                raise FolderError(
                    f"{item.path}: this name is reserved for the job's command",
                    f"Rename the file, or list it in {IGNORE_FILE}.",
                )
            if is_folder:
                folders.append(_Entry(name, item.path))
            else:
                yield _Entry(name, item.path)
        pending.extend(reversed(folders))


def _left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(_OUR_PREFIX)


def _ignored(folder: Path) -> pathspec.GitIgnoreSpec:
    path = folder / IGNORE_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise FolderError(f"{path}: {error}", "Write patterns as in .gitignore.") from error


def _add(tar: tarfile.TarFile, entry: _Entry, folder: Path) -> bool:
    """Add one member; True when it is input, not only a folder."""
    try:
        mode = os.lstat(entry.path).st_mode
        if stat.S_ISLNK(mode):
            _add_link(tar, entry, folder)
        elif stat.S_ISDIR(mode):
            tar.addfile(_info(entry.name, tarfile.DIRTYPE, os.lstat(entry.path)))
        elif stat.S_ISREG(mode):
            _add_file(tar, entry)
        else:
            raise FolderError(
                f"{entry.path} is neither file, folder nor link",
                f"Remove it, or list it in {IGNORE_FILE}.",
            )
    except FileNotFoundError as error:
        raise FolderError(
            f"{entry.path} vanished while the folder was packed",
            "Submit folders that nothing else is changing.",
        ) from error
    except PermissionError as error:
        raise FolderError(f"{entry.path} cannot be read: {error.strerror}") from error
    return not stat.S_ISDIR(mode)


def _info(name: str, kind: bytes, status: os.stat_result) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = stat.S_IMODE(status.st_mode) & 0o777
    info.mtime = int(status.st_mtime)
    return info


def _add_file(tar: tarfile.TarFile, entry: _Entry) -> None:
    # O_NOFOLLOW and O_NONBLOCK: the file may have become a link or a FIFO since.
    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        info = _info(entry.name, tarfile.REGTYPE, before)
        info.size = before.st_size
        try:
            tar.addfile(info, file)
        except OSError as error:
            if error.errno is None:  # tarfile's own: the file ended early
                raise _changed(entry) from error
            raise
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise _changed(entry)


def _changed(entry: _Entry) -> FolderError:
    return FolderError(
        f"{entry.path} changed while the folder was packed",
        "Submit folders that nothing else is changing.",
    )


def _add_link(tar: tarfile.TarFile, entry: _Entry, folder: Path) -> None:
    link = Path(entry.path)
    target = link.readlink()
    # Both ways of reading it must stay inside: by name (what the node will see)
    # and by what links on the way lead to here. pathlib would keep the "..".
    by_name = Path(os.path.normpath(Path(entry.name).parent / target))
    leads_out = target.is_absolute() or by_name.parts[:1] == (os.pardir,)
    if leads_out or not link.resolve().is_relative_to(folder.resolve()):
        raise FolderError(
            f"{entry.path} is a link that leads out of the folder, to {target}",
            f"Replace it by what it points to, or list it in {IGNORE_FILE}.",
        )
    info = _info(entry.name, tarfile.SYMTYPE, os.lstat(entry.path))
    info.mode, info.linkname = 0o777, os.fspath(target)
    tar.addfile(info)


class _Hashing(io.RawIOBase):
    """A file to write to that counts and hashes what passes."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._digest.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
