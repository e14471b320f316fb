"""From a job's bucket to a folder: checked, resumable, and inside the folder.

Whoever holds the group's S3 key can put any object into the bucket, so keys are
not trusted as paths and content is not trusted without the node's manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import IO, Final

from bridge.client.answers import Job
from bridge.client.handle import BUCKET_FILE, JOB_FILE
from bridge.client.manifest import MANIFEST_KEY, Result, parse
from bridge.client.storage import Progress, Storage
from bridge.client.submission import INPUT_KEY
from bridge.errors import Conflict, FolderError, NotFound, ResultsError, Unreachable
from bridge.models.job import JobState

# Never results: our own records, and what ties the folder to its job.
_OURS: Final = frozenset({INPUT_KEY, JOB_FILE, BUCKET_FILE})
_OUR_FOLDER: Final = ".bridge"
_WORKERS: Final = 8
_TRIES: Final = 5


@dataclass(frozen=True)
class Fetched:
    """What a fetch did: names of result files, below ``folder``.

    ``verified`` is False when the node left no manifest, as for a job that
    failed before it ran: then only sizes were checked.
    """

    folder: Path
    files: tuple[str, ...]
    already_there: int
    verified: bool


def fetch(storage: Storage, job: Job, dest: Path, *, progress: Progress | None = None) -> Fetched:
    """Fetch the results of an ended job into ``dest``; it is made if need be.

    ``progress`` hears of bytes as they arrive.

    Raises Conflict for a live job, NotFound when the data was pruned,
    ResultsError when something is missing, damaged or leads out of ``dest``,
    FolderError when ``dest`` cannot be written.
    """
    bucket = _bucket(job)
    results, verified = _results(storage, bucket, job)
    _refuse_clashes(results)
    targets = [(result, _target(dest, result.key)) for result in results]
    try:
        dest.mkdir(parents=True, exist_ok=True)
        parts = dest / _OUR_FOLDER
        parts.mkdir(exist_ok=True)
        download = _Download(storage, bucket, dest.resolve(), parts, progress)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="fetch") as pool:
            fetched = list(pool.map(lambda pair: download.one(*pair), targets))
        with contextlib.suppress(OSError):  # not ours alone, or parts of another job
            parts.rmdir()
    except OSError as error:
        raise FolderError(
            f"{error.filename or dest} cannot be written: {error.strerror}",
            "Make room or choose another folder; what was fetched is kept.",
        ) from error
    return Fetched(dest, tuple(result.key for result in results), fetched.count(False), verified)


def _bucket(job: Job) -> str:
    if not job.ended:
        raise Conflict(f"job {job.id} is {job.state}", "Results are complete once it has ended.")
    if job.prune_requested_at or job.pruned_at:
        raise NotFound(f"the data of job {job.id} was pruned", "It cannot be brought back.")
    if job.bucket_id is None:
        raise NotFound(f"the data of job {job.id} is not yours", "Ask its owner or an admin.")
    return job.bucket_id


def _results(storage: Storage, bucket: str, job: Job) -> tuple[list[Result], bool]:
    if storage.head(bucket, MANIFEST_KEY) is not None:
        listed = parse(storage.read(bucket, MANIFEST_KEY))
        return [result for result in listed if _is_result(result.key)], True
    if job.state is JobState.COMPLETED:
        raise ResultsError(
            f"job {job.id} is completed, but its results are not in the bucket",
            f"Somebody deleted them with the S3 key, or {job.node or 'the node'} never uploaded "
            "them; an admin of the group can look at that node.",
        )
    objects = storage.objects(bucket)
    return [Result(item.key, item.size, "") for item in objects if _is_result(item.key)], False


def _is_result(key: str) -> bool:
    return key not in _OURS and key.split("/", 1)[0] != _OUR_FOLDER


def _refuse_clashes(results: Iterable[Result]) -> None:
    keys = {result.key for result in results}
    for key in keys:
        for parent in PurePosixPath(key).parents:
            if str(parent) in keys:
                raise ResultsError(
                    f"results hold both {str(parent)!r} and {key!r}",
                    "One is a file and a folder at once; fetch it with an S3 tool.",
                )


def _target(dest: Path, key: str) -> Path:
    parts = key.split("/")
    if "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ResultsError(
            f"the result {key!r} would leave its folder",
            "Nothing was fetched. No node of ours writes this: ask who else has the S3 key.",
        )
    return dest.joinpath(*parts)


class _Download:
    """Fetches single files of one bucket."""

    def __init__(
        self, storage: Storage, bucket: str, root: Path, parts: Path, progress: Progress | None
    ) -> None:
        self._storage = storage
        self._bucket = bucket
        self._root = root
        self._parts = parts
        self._progress = progress

    def one(self, result: Result, target: Path) -> bool:
        """Fetch a file; False when it was there already."""
        if result.sha256 and _matches(target, result):
            self._report(result.size)
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        # Links inside the folder may lead anywhere: follow them first, then judge.
        if not target.parent.resolve().is_relative_to(self._root):
            raise ResultsError(
                f"{target.parent} is a link that leads out of {self._root}",
                "Fetch into another folder.",
            )
        part = self._parts / (hashlib.sha256(result.key.encode()).hexdigest() + ".part")
        resumed = self._receive(result, part)
        if resumed and not _matches(part, result):
            # What lay there was of another version of the object.
            part.unlink()
            self._receive(result, part)
        self._check(part, result)
        if target.is_dir() and not target.is_symlink():
            raise FolderError(f"{target} is a folder, the result is a file", "Move it away.")
        part.replace(target)
        return True

    def _receive(self, result: Result, part: Path) -> bool:
        start = part.stat().st_size if part.exists() else 0
        if start > result.size:
            part.unlink()
            start = 0
        self._report(start)
        with part.open("ab") as file:
            for left in reversed(range(_TRIES)):
                try:
                    self._append(file, result)
                    break
                except Unreachable:
                    if not left:
                        raise
        return start > 0

    def _append(self, file: IO[bytes], result: Result) -> None:
        """Write what is missing of an object; goes on where the last try broke off."""
        start = file.seek(0, os.SEEK_END)
        if start == result.size:
            return
        try:
            for chunk in self._storage.stream(self._bucket, result.key, start):
                file.write(chunk)
                self._report(len(chunk))
                if file.tell() > result.size:
                    return  # not the object the manifest means; the check will say so
        except NotFound as error:
            raise ResultsError(
                f"the result {result.key!r} is missing from the bucket",
                "Somebody deleted it with the S3 key.",
            ) from error

    @staticmethod
    def _check(part: Path, result: Result) -> None:
        size = part.stat().st_size
        if size < result.size:
            raise ResultsError(
                f"{result.key!r} arrived with {size} of {result.size} bytes",
                "Fetch again: it goes on from there, unless the object itself was cut.",
            )
        if not _matches(part, result):
            part.unlink()
            raise ResultsError(
                f"{result.key!r} is not what the node wrote: its checksum differs",
                "It was damaged or replaced after the job ended.",
            )

    def _report(self, count: int) -> None:
        if self._progress is not None and count:
            self._progress(count)


def _matches(path: Path, result: Result) -> bool:
    """Whether a regular file has the size and, where known, the content of a result."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != result.size:
                return False
            return not result.sha256 or _sha256(file) == result.sha256
    except OSError:
        return False  # absent or unreadable: not what we want, so fetch it


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
