"""The two files that tie a folder to its job.

``leruli.bucket`` and ``leruli.job`` are the names the public client uses, so
both clients work on the same folders. The bucket id is written before anything
is uploaded and the job id after the service took the job; whatever happens in
between, trying again uses the same bucket id and so leads to the same job.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from bridge.errors import FolderError, NotFound

JOB_FILE: Final = "leruli.job"
BUCKET_FILE: Final = "leruli.bucket"


def job_id(folder: Path) -> str | None:
    """The id of the job a folder was submitted as, or None.

    Raises FolderError when the file cannot be read or holds no id.
    """
    return _read(folder / JOB_FILE)


def require_job_id(folder: Path) -> str:
    """As ``job_id``, but raises NotFound when there is no such folder or it was not submitted."""
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", "Check the path.")
    found = job_id(folder)
    if found is None:
        raise NotFound(
            f"{folder} was not submitted: it holds no {JOB_FILE}",
            "Name a job id, or a folder that was submitted.",
        )
    return found


def bucket_id(folder: Path) -> str | None:
    """The bucket id of a submission that was begun, or None. Raises as ``job_id``."""
    return _read(folder / BUCKET_FILE)


def begin(folder: Path) -> str:
    """Record a new bucket id, or return the one already there.

    Exclusive: of two processes at once, both get the same id.

    Raises FolderError when the folder cannot be written.
    """
    wanted = str(uuid4())
    path = folder / BUCKET_FILE
    temporary = _temporary(path, wanted)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        existing = bucket_id(folder)
        return existing if existing is not None else begin(folder)
    finally:
        temporary.unlink()
    return wanted


def finish(folder: Path, job: str) -> None:
    """Record the job id. Raises FolderError when the folder cannot be written."""
    path = folder / JOB_FILE
    _temporary(path, job).replace(path)


def clear(folder: Path) -> None:
    """Forget the submission: the next one is a new job."""
    for name in (JOB_FILE, BUCKET_FILE):
        (folder / name).unlink(missing_ok=True)


def _temporary(path: Path, text: str) -> Path:
    try:
        # mkstemp makes it 0600: the bucket id is the key to the data.
        fd, name = tempfile.mkstemp(prefix=".bridge", dir=path.parent)
    except OSError as error:
        raise FolderError(
            f"{path.parent} cannot be written: {error.strerror}",
            f"{path.name} is kept there; make the folder writable.",
        ) from error
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    return Path(name)


def _read(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from error
    try:
        return str(UUID(text))
    except ValueError as error:
        raise FolderError(
            f"{path} does not hold an id", "Remove the file to submit the folder anew."
        ) from error
