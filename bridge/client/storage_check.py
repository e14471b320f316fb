"""Prove by doing that a store can hold a group's jobs, and that it keeps buckets secret.

Works in a bucket of its own, which it deletes. What jobs do goes by the same client
that they use; the rest by the package ``minio``.
"""

from __future__ import annotations

import io
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from bridge.client.minio_store import Store
from bridge.client.storage import Storage
from bridge.errors import BridgeError, Forbidden, NotFound

_LARGE: Final = 17 << 20  # Storage sends what is over 16 MiB in parts
_SMALL: Final = b"a small file\n"
# Spaces, signs that URLs give a meaning, accents, other scripts, folders.
_ODD_KEY: Final = "out/Übung 1 +&%?#=~;'(日本語).txt"
_SKEW_S: Final = 300.0  # stores refuse requests from 15 minutes away
_PROXY: Final = "node-setup/minio/README.md"


class Result(msgspec.Struct, frozen=True):
    """What came of one check; ``remedy`` says what to do when not ``ok``.

    ``open_list`` marks the one that members who trust each other may live with.
    """

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    open_list: bool = False


class _Wrong(Exception):
    """A check that did not raise, but gave what it should not."""


class Check:
    """Checks of one server with the key of a group; ``code_bucket`` may be unknown."""

    def __init__(
        self,
        server: str,
        access: str,
        secret: str,
        *,
        region: str = "us-east-1",
        ca_file: str = "",
        code_bucket: str | None = None,
    ) -> None:
        options: dict[str, Any] = {"region": region, "ca_file": ca_file}
        self._storage = Storage(server, access, secret, **options)
        self._store = Store(server, access, secret, **options)
        self._server = server
        self._code_bucket = code_bucket
        self._bucket = str(uuid.uuid4())

    def run(self) -> Iterator[Result]:
        """Every check, as it is done. Nothing is raised: an error is a result."""
        yield from self._clock()
        made = _judge("make a bucket", lambda: self._storage.make_bucket(self._bucket))
        yield made
        if made.ok:
            try:
                yield from self._objects()
                yield from self._secrecy()
            finally:
                deleted = _judge("delete the bucket", self._delete_bucket)
            yield deleted
        if self._code_bucket:
            yield self._code(self._code_bucket)

    def _objects(self) -> Iterator[Result]:
        large = secrets.token_bytes(_LARGE)
        for what, key, data in (
            ("put and get a file", "one", _SMALL),
            ("overwrite it", "one", _SMALL[::-1]),
            ("a file of 0 bytes", "empty", b""),
            ("a name with UTF-8, spaces and signs", _ODD_KEY, _SMALL),
            (f"a file in parts ({_LARGE >> 20} MiB)", "large", large),
        ):
            yield _judge(what, lambda key=key, data=data: self._round_trip(key, data))  # type: ignore[misc]
        yield _judge("go on with a broken download", lambda: self._goes_on("large", large))
        keys = {"one", "empty", _ODD_KEY, "large"}
        yield _judge("list the files of a bucket", lambda: self._lists(keys))
        yield _judge("fetch by a signed URL", lambda: self._signed("one", _SMALL[::-1]))
        yield _judge("delete a file", lambda: self._deletes("empty"))

    def _secrecy(self) -> Iterator[Result]:
        yield _judge("no file without a key", self._needs_key)
        yield self._list_of_buckets()

    def _round_trip(self, key: str, data: bytes) -> None:
        self._storage.put(self._bucket, key, io.BytesIO(data))
        if self._storage.read(self._bucket, key) != data:
            raise _Wrong("what came back is not what was sent")
        found = self._storage.head(self._bucket, key)
        if found is None or found.size != len(data):
            raise _Wrong(f"the size is said to be {found and found.size}, not {len(data)}")

    def _goes_on(self, key: str, data: bytes) -> None:
        start = len(data) - 1000
        if b"".join(self._storage.stream(self._bucket, key, start)) != data[start:]:
            raise _Wrong("a part of a file is not what was asked for")

    def _lists(self, keys: set[str]) -> None:
        listed = {item.key for item in self._storage.objects(self._bucket)}
        if listed != keys:
            raise _Wrong(f"missing: {sorted(keys - listed)}, unknown: {sorted(listed - keys)}")

    def _signed(self, key: str, data: bytes) -> None:
        url = self._store.signed_url(self._bucket, key, timedelta(minutes=5))
        status, body = self._store.plain_get(url)
        if (status, body) != (200, data):
            raise _Wrong(f"the answer was {status}")

    def _deletes(self, key: str) -> None:
        self._storage.delete(self._bucket, [key])
        if self._storage.head(self._bucket, key) is not None:
            raise _Wrong("it is still there")

    def _needs_key(self) -> None:
        status, _ = self._store.plain_get(f"{self._server}/{self._bucket}/one")
        if status < 400:
            raise _Wrong("anybody who knows its name can read a bucket; make buckets private")

    def _list_of_buckets(self) -> Result:
        what = "no list of all buckets"
        try:
            buckets = self._store.buckets()
        except (Forbidden, NotFound):
            return Result(what, ok=True, detail="refused")
        except BridgeError as error:
            return Result(what, False, error.message, error.hint)
        if self._bucket not in buckets:
            return Result(what, ok=True, detail="the list leaves out job buckets")
        return Result(
            what,
            ok=False,
            detail=f"The store lists {len(buckets)} buckets to this key, so whoever has it can "
            "read and delete the data of every job: bucket names are no secret here.",
            remedy="Put a proxy in front that refuses the list, and let nobody reach the store "
            f"past it ({_PROXY}); or, if all who hold the key trust each other, live with it "
            "(--allow-listing).",
            open_list=True,
        )

    def _delete_bucket(self) -> None:
        self._storage.delete_bucket(self._bucket)
        if self._storage.head(self._bucket, "one") is not None:
            raise _Wrong("its files are still there")

    def _code(self, bucket: str) -> Result:
        what, key = "the bucket of the images", f".bridge-check-{uuid.uuid4().hex}"

        def use() -> None:
            list(self._storage.objects(bucket))
            self._storage.put(bucket, key, io.BytesIO(_SMALL))
            self._storage.delete(bucket, [key])

        try:
            use()
        except NotFound:
            remedy = "Make it: nomad-bridge storage setup."
            return Result(what, False, f"There is no bucket {bucket}.", remedy)
        except BridgeError as error:
            return Result(what, False, error.message, error.hint)
        return Result(what, ok=True)

    def _clock(self) -> Iterator[Result]:
        what = "clocks agree"
        try:
            said = self._store.clock()
        except BridgeError as error:
            yield Result("reach the server", False, error.message, error.hint)
            return
        if said is None:
            return
        apart = time.time() - parsedate_to_datetime(said).replace(tzinfo=UTC).timestamp()
        yield Result(
            what,
            ok=abs(apart) < _SKEW_S,
            detail=f"{abs(apart):.0f} s apart",
            remedy="Set the clocks by NTP: stores refuse requests from another time.",
        )


def _judge(what: str, act: Callable[[], object]) -> Result:
    try:
        act()
    except BridgeError as error:
        return Result(what, False, error.message, error.hint)
    except _Wrong as error:
        return Result(what, False, str(error), "Ask who runs the storage.")
    return Result(what, ok=True)
