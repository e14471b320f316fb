"""From folders to jobs: pack, upload, hand in.

Every step can be repeated. A submission that was broken off is finished by the
next one for the same folder, with the same bucket id, so it never becomes two
jobs.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bridge import log
from bridge.client import folder as folders_
from bridge.client import handle
from bridge.client.answers import Job, decode
from bridge.client.api import Api, refusal
from bridge.client.storage import Progress, Storage
from bridge.errors import (
    BridgeError,
    Conflict,
    FolderError,
    Forbidden,
    InvalidRequest,
    NotReady,
    OverQuota,
    TooLarge,
)

INPUT_KEY: Final = "run.tgz"
_ARRAY: Final = 1000  # most jobs the service takes at once
_LINGER_S: Final = 2.0  # longest that an uploaded folder waits for its array to fill
_WORKERS: Final = 6
_TRIES: Final = 6
_LATER: Final = frozenset({429, 503})

# A refusal of the request itself: nobody will ever run it, so its data goes.
_REFUSED: Final = (InvalidRequest, NotReady, TooLarge, Forbidden)
# Errors that concern one folder only; any other ends a batch.
_OF_A_FOLDER: Final = (FolderError, Conflict)

_logger: Final = log.get(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job asks for. Memory in MiB, time in seconds.

    ``command`` is a shell line when it is a text, an argument list otherwise.
    ``name`` defaults to the folder's name.
    """

    image: str
    command: str | Sequence[str]
    cores: int = 1
    memory_mb: int = 4000
    time_limit_s: int = 86400
    set: str | None = None
    priority: int = 50
    hold: bool = False
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    oom_retry_mb: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of one folder of a batch.

    ``job_id`` is None exactly when ``error`` is set. ``new`` is False for a
    folder that had been submitted before.
    """

    folder: Path
    job_id: str | None = None
    new: bool = False
    error: BridgeError | None = None


@dataclass(frozen=True)
class _Uploaded:
    """A folder whose archive is in its bucket."""

    folder: Path
    bucket: str
    sha256: str


class Submitter:
    """Submits folders through one service and one storage."""

    def __init__(self, api: Api, storage: Storage) -> None:
        self._api = api
        self._storage = storage

    def one(
        self, folder: Path, request: Request, *, again: bool, progress: Progress | None = None
    ) -> Job:
        """Submit one folder.

        Raises Conflict when it was submitted before and ``again`` is not set,
        FolderError when it cannot be packed, and what the service refuses.
        """
        folders_.check(folder)
        if again:
            handle.clear(folder)
        if (known := handle.job_id(folder)) is not None:
            raise Conflict(
                f"{folder} was already submitted as job {known}",
                "Submit it again as a new job (--again, again=True), or look at that job.",
            )
        uploaded = self._upload(folder, request, progress)
        try:
            job = decode(self._api.post("jobs", body=_body(uploaded, request)), Job)
        except _REFUSED:
            self._withdraw(uploaded)
            raise
        handle.finish(folder, job.id)
        return job

    def many(
        self, folders: Iterable[Path], request: Request, *, again: bool = False
    ) -> Iterator[Outcome]:
        """Submit folders, several at a time; yields outcomes as they are known.

        The first job is sent alone: what is wrong with the request itself is
        found before everything is uploaded. Breaking off at any time is safe.

        Raises what concerns every folder (storage or service away, secret or
        request refused); what concerns one folder is in its outcome.
        """
        todo = deque(_distinct(folders))
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="upload")
        try:
            yield from self._pipeline(pool, todo, request, again=again)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _pipeline(
        self, pool: ThreadPoolExecutor, todo: deque[Path], request: Request, *, again: bool
    ) -> Iterator[Outcome]:
        running: deque[Future[_Uploaded | Outcome]] = deque()
        ready: list[_Uploaded] = []
        most, last = 1, time.monotonic()
        while todo or running:
            while todo and len(running) < 2 * _WORKERS:
                running.append(pool.submit(self._prepare, todo.popleft(), request, again=again))
            prepared = running.popleft().result()
            if isinstance(prepared, Outcome):
                yield prepared
            else:
                ready.append(prepared)
            if len(ready) >= most or (ready and time.monotonic() - last > _LINGER_S):
                yield from self._hand_in(ready, request, first=most == 1)
                ready, most, last = [], _ARRAY, time.monotonic()
        if ready:
            yield from self._hand_in(ready, request)

    def _prepare(self, folder: Path, request: Request, *, again: bool) -> _Uploaded | Outcome:
        try:
            folders_.check(folder)
            if again:
                handle.clear(folder)
            if (known := handle.job_id(folder)) is not None:
                return Outcome(folder, known)
            return self._upload(folder, request, None)
        except _OF_A_FOLDER as error:
            return Outcome(folder, error=error)

    def _upload(self, folder: Path, request: Request, progress: Progress | None) -> _Uploaded:
        begun = handle.bucket_id(folder) is not None
        archive = folders_.pack(folder, request.command)
        try:
            bucket = handle.begin(folder)
            there = self._storage.head(bucket, INPUT_KEY) if begun else None
            if there is None:
                self._storage.make_bucket(bucket)
                self._storage.put(bucket, INPUT_KEY, archive.file, progress=progress)
            elif there.size != archive.size or self._sha256(bucket) != archive.sha256:
                # The job may exist already and be about to read the old archive.
                raise Conflict(
                    f"{folder} or its command changed after a submission that was broken off",
                    "Restore it to finish that one, or submit it as a new job (--again).",
                )
        finally:
            archive.close()
        return _Uploaded(folder, bucket, archive.sha256)

    def _sha256(self, bucket: str) -> str:
        # Read and not remembered: some stores forget what they know of an object.
        digest = hashlib.sha256()
        for chunk in self._storage.stream(bucket, INPUT_KEY):
            digest.update(chunk)
        return digest.hexdigest()

    def _hand_in(
        self, batch: list[_Uploaded], request: Request, *, first: bool = False
    ) -> Iterator[Outcome]:
        for attempt in range(_TRIES):
            try:
                answers = self._post(batch, request)
            except (TooLarge, OverQuota) as error:
                if len(batch) == 1:
                    self._take_back(batch, error)
                    raise
                # A quota refuses all or nothing: halves fill it to the last job.
                half = len(batch) // 2
                yield from self._hand_in(batch[:half], request)
                yield from self._hand_in(batch[half:], request)
                return
            except _REFUSED as error:
                self._take_back(batch, error)
                raise
            postponed = []
            for uploaded, answer in zip(batch, answers, strict=True):
                if answer.get("status") in _LATER and attempt < _TRIES - 1:
                    postponed.append(uploaded)
                else:
                    yield self._outcome(uploaded, answer, first=first)
            if not postponed:
                return
            batch = postponed
            time.sleep(min(0.5 * 2**attempt, 10))

    def _take_back(self, batch: list[_Uploaded], error: BridgeError) -> None:
        """Withdraw what is refused for good; what is over a quota is handed in again later."""
        if isinstance(error, _REFUSED):
            for uploaded in batch:
                self._withdraw(uploaded)

    def _post(self, batch: list[_Uploaded], request: Request) -> list[dict[str, Any]]:
        answers = self._api.post("jobs", body=[_body(item, request) for item in batch])
        decoded = decode(answers, list[dict[str, Any]])
        if len(decoded) != len(batch):
            raise Conflict(
                f"the service answered for {len(decoded)} of {len(batch)} jobs",
                "Submit the same folders again: those that were taken are found.",
            )
        return decoded

    def _outcome(self, uploaded: _Uploaded, answer: dict[str, Any], *, first: bool) -> Outcome:
        if job_id := answer.get("id"):
            handle.finish(uploaded.folder, str(job_id))
            return Outcome(uploaded.folder, str(job_id), new=True)
        error = refusal(answer, int(answer.get("status") or 500))
        if isinstance(error, _REFUSED):
            self._withdraw(uploaded)
            if first:
                raise error
        return Outcome(uploaded.folder, error=error)

    def _withdraw(self, uploaded: _Uploaded) -> None:
        """Take back what was uploaded for a job that was refused."""
        try:
            self._storage.delete_bucket(uploaded.bucket)
        except BridgeError as error:
            # The refusal is what the caller must hear of; the handle stays, so
            # that the bucket is found again.
            _logger.warning("action=withdraw folder=%s error=%s", uploaded.folder, error)
            return
        handle.clear(uploaded.folder)


def _body(uploaded: _Uploaded, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "bucket_id": uploaded.bucket,
        "image": request.image,
        "name": request.name or _title(uploaded.folder),
        "cores": request.cores,
        "memory_mb": request.memory_mb,
        "oom_retry_mb": request.oom_retry_mb,
        "time_limit_s": request.time_limit_s,
        "priority": request.priority,
        "hold": request.hold,
        "input_sha256": uploaded.sha256,
        "labels": dict(request.labels),
    }
    return body if request.set is None else body | {"set": request.set}


def _title(folder: Path) -> str:
    name = folder.resolve().name
    return name if name and name.isprintable() else "default"


def _distinct(folders: Iterable[Path]) -> list[Path]:
    """Each folder once, however it is written: two submissions must not race."""
    return list({folder.resolve(): folder for folder in reversed(list(folders))}.values())[::-1]
