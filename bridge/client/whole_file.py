"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bridge.errors import FolderError


@contextmanager
def whole_file(path: Path, *, replace: bool = False, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Write a new file, by default for its owner alone; it gets its name when the block ends well.

    Raises FolderError: before the block when the file exists, unless it is to be
    replaced, or cannot be made; after it when it cannot be written.
    """
    if path.is_dir() or (path.exists() and not replace):
        raise _exists(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise FolderError(
            f"{path} cannot be made: {error.strerror}.", "Choose a folder you may write to."
        ) from error
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename it overwrites nothing
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)


def _exists(path: Path) -> FolderError:
    if path.is_dir():
        return FolderError(f"{path} is a folder.", "Give the name of a file.")
    return FolderError(f"{path} exists.", "Choose a new name, or replace it with --force.")
