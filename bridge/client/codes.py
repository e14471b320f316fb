"""The group's images: ``<code>-<version>.tgz`` in the code bucket.

The file name is the public client's and cannot be taken apart for sure
(``my-tool-2-rc1``), so publishing also stores code and version as metadata.
"""

from __future__ import annotations

import io
import re
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

import msgspec

from bridge.client.storage import Object, Progress, Storage
from bridge.errors import ClientError, Conflict, InvalidRequest, ProcessError
from bridge.process import environment, run

_SUFFIX: Final = ".tgz"
_SAVE_S: Final = 3600.0  # `docker save` of a very large image to a slow disk
_INSPECT_S: Final = 60.0
_CHUNK: Final = 1 << 20
_REFERENCE: Final = re.compile(
    r"(?P<code>[a-z0-9]+(?:[._-]+[a-z0-9]+)*):(?P<version>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})"
)
# Without metadata: the version begins at the first digit after a dash.
_GUESS: Final = re.compile(r"(?P<code>.+?)-(?P<version>v?[0-9].*)")


class Code(msgspec.Struct, frozen=True):
    """A published image; ``size`` of its archive in bytes."""

    code: str
    version: str
    size: int

    @property
    def image(self) -> str:
        """What a submission names."""
        return f"{self.code}:{self.version}"


def published(storage: Storage, bucket: str) -> list[Code]:
    """The images in a code bucket, by name. Raises as Storage."""
    keys = [item.key for item in storage.objects(bucket) if item.key.endswith(_SUFFIX)]
    with ThreadPoolExecutor(8) as pool:
        heads = pool.map(lambda key: storage.head(bucket, key), keys)
        found = [_code(item) for item in heads if item is not None]
    return sorted(found, key=lambda code: (code.code, code.version))


def publish(
    storage: Storage,
    bucket: str,
    image: str,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Code:
    """Save a local Docker image and upload it, compressed on the way.

    Raises InvalidRequest for a name that is not ``code:version`` in lower case,
    Conflict when it is published already and ``replace`` is not set, ClientError
    when Docker cannot save it, and as Storage.
    """
    match = _REFERENCE.fullmatch(image)
    if match is None:
        raise InvalidRequest(
            f"{image!r} is not an image name of the form code:version",
            "Lower-case letters, digits and . _ - only; see `docker image ls`, `docker tag`.",
        )
    code, version = match["code"], match["version"]
    key = f"{code}-{version}{_SUFFIX}"
    if not replace and storage.head(bucket, key) is not None:
        raise Conflict(
            f"{image} is published already",
            "Use a new version. --replace changes what later jobs of the whole group run.",
        )
    with tempfile.TemporaryDirectory(prefix="bridge-image-") as scratch:
        archive = Path(scratch) / "image.tar"
        metadata = {"code": code, "version": version, "image-id": _save(image, archive)}
        with archive.open("rb") as raw:
            packed = io.BufferedReader(_Compressed(raw), _CHUNK)
            storage.put(bucket, key, packed, metadata=metadata, progress=progress)
    uploaded = storage.head(bucket, key)
    return Code(code, version, uploaded.size if uploaded else 0)


def _save(image: str, archive: Path) -> str:
    """``docker save`` one image to a file; returns the image's id."""
    image_id = _docker("image", "inspect", "--format", "{{.Id}}", image, timeout=_INSPECT_S)
    _docker("image", "save", "--output", str(archive), image, timeout=_SAVE_S)
    return image_id.strip()


def _docker(*arguments: str, timeout: float) -> str:
    try:
        # The user's own engine: DOCKER_HOST and contexts count.
        done = run(["docker", *arguments], timeout=timeout, env=environment())
    except ProcessError as error:
        raise ClientError(str(error), error.hint or "Is Docker installed?") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ClientError(
            f"docker {' '.join(arguments[:2])} failed: {said[-1] if said else done.returncode}",
            "See `docker image ls` for the images that are here.",
        )
    return done.stdout


def _code(item: Object) -> Code:
    stem = item.key.removesuffix(_SUFFIX)
    if "code" in item.metadata and "version" in item.metadata:
        return Code(item.metadata["code"], item.metadata["version"], item.size)
    if match := _GUESS.fullmatch(stem):
        return Code(match["code"], match["version"], item.size)
    code, _, version = stem.rpartition("-")
    return Code(code or stem, version if code else "", item.size)


class _Compressed(io.RawIOBase):
    """A file as a gzip stream, so that no second copy lies on the disk."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._pending = b""
        self._done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._pending and not self._done:
            chunk = self._source.read(_CHUNK)
            self._done = not chunk
            self._pending = self._gzip.compress(chunk) if chunk else self._gzip.flush()
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count
