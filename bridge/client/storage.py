"""S3, as far as the client needs it: path-style, SigV4, any server.

What a user has configured for Amazon's own tools (profiles, endpoints) does not
count here: a job's data must go where the credentials say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, NamedTuple
from urllib.parse import urlsplit

import boto3.s3.transfer
import boto3.session
import botocore.config
import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

from bridge.client.proxies import proxy_for
from bridge.errors import BridgeError, Forbidden, NotFound, Unavailable, Unreachable

Progress = Callable[[int], None]

_PART: Final = 16 << 20
_MISSING: Final = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NotFound"})
_DENIED: Final = frozenset(
    {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_NO_SUCH_RANGE: Final = frozenset({"416", "InvalidRange"})
# rclone says the first for a bucket with none, some servers the second at all times.
_NO_UPLOADS: Final = frozenset({"NoSuchUpload", "NotImplemented"})
_CHUNK: Final = 1 << 20
_TRANSFER: Final = boto3.s3.transfer.TransferConfig(
    multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=4
)


class Object(NamedTuple):
    """An object in a bucket. ``size`` in bytes; ``metadata`` only from ``head``."""

    key: str
    size: int
    etag: str
    metadata: dict[str, str]


class Storage:
    """One S3 server with one key. Safe to use from several threads.

    Every call raises Unreachable (no answer), Forbidden (wrong key), NotFound
    (no such bucket or object) or Unavailable (the server refuses for now).
    """

    def __init__(
        self, server: str, access: str, secret: str, *, region: str = "us-east-1", ca_file: str = ""
    ) -> None:
        self._server = server
        proxy = proxy_for(server)
        self._s3 = _session().client(
            "s3",
            endpoint_url=server,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name=region,
            verify=ca_file or None,
            config=botocore.config.Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 5},
                max_pool_connections=32,
                proxies={urlsplit(server).scheme: proxy} if proxy else {},
                # Many servers do not know the checksums newer clients add.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; one that is already ours is fine."""
        try:
            with self._errors():
                self._s3.create_bucket(Bucket=bucket)
        except BridgeError as error:
            if not _is_there(error):
                raise

    def put(
        self,
        bucket: str,
        key: str,
        file: IO[bytes],
        *,
        metadata: dict[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Upload from an open file or a stream of unknown size, in parts if it is large."""
        with self._errors():
            self._s3.upload_fileobj(
                file,
                bucket,
                key,
                ExtraArgs={"Metadata": metadata or {}},
                Callback=progress,
                Config=_TRANSFER,
            )

    def head(self, bucket: str, key: str) -> Object | None:
        """What is known of an object, or None when it or its bucket is absent."""
        try:
            with self._errors():
                answer = self._s3.head_object(Bucket=bucket, Key=key)
        except NotFound:
            return None
        # Names of metadata are headers: some servers answer with capital letters.
        metadata = {name.lower(): text for name, text in answer.get("Metadata", {}).items()}
        return Object(key, answer["ContentLength"], answer["ETag"], metadata)

    def objects(self, bucket: str) -> Iterator[Object]:
        """Every object of a bucket, page by page."""
        with self._errors():
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield Object(item["Key"], item["Size"], item.get("ETag", ""), {})

    def read(self, bucket: str, key: str) -> bytes:
        """A small object as a whole."""
        return b"".join(self.stream(bucket, key))

    def stream(self, bucket: str, key: str, start: int = 0) -> Iterator[bytes]:
        """An object's bytes from ``start`` on; none when it ends before that."""
        span = {"Range": f"bytes={start}-"} if start else {}
        with self._errors():
            try:
                body = self._s3.get_object(Bucket=bucket, Key=key, **span)["Body"]
            except ClientError as error:
                if _code(error) in _NO_SUCH_RANGE:
                    return
                raise
            with body:
                yield from body.iter_chunks(_CHUNK)

    def delete_bucket(self, bucket: str) -> None:
        """Delete a bucket, its objects and its unfinished uploads. Repeatable."""
        try:
            self._abort_uploads(bucket)
            keys = [item.key for item in self.objects(bucket)]
            for first in range(0, len(keys), 1000):
                self.delete(bucket, keys[first : first + 1000])
            with self._errors():
                self._s3.delete_bucket(Bucket=bucket)
        except NotFound:
            return

    def delete(self, bucket: str, keys: list[str]) -> None:
        """Delete up to 1000 objects; those that are not there are fine."""
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with self._errors():
            answer = self._s3.delete_objects(Bucket=bucket, Delete=wanted)
        if refused := answer.get("Errors"):
            raise Forbidden(
                f"{len(refused)} objects could not be deleted, the first: "
                f"{refused[0].get('Key')}: {refused[0].get('Message')}",
                "Check that the S3 key may delete, then prune again.",
            )

    def _abort_uploads(self, bucket: str) -> None:
        with self._errors():
            try:
                uploads = self._s3.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
            except ClientError as error:
                if _code(error) in _NO_UPLOADS:
                    return
                raise
            for upload in uploads:
                self._s3.abort_multipart_upload(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._translated(error) from error
        except boto3.exceptions.S3UploadFailedError as error:
            if isinstance(error.__context__, ClientError):
                raise self._translated(error.__context__) from error
            raise Unreachable(f"upload to {self._server} failed", "Try again.") from error
        except BotoCoreError as error:
            raise Unreachable(
                f"{self._server} cannot be reached: {type(error).__name__}",
                "Check BRIDGE_S3_SERVER and that the storage runs.",
            ) from error

    def _translated(self, error: ClientError) -> BridgeError:
        code = _code(error)
        text = f"{self._server} answered {code}"
        # Never the message as it came: servers repeat the bucket's name in it.
        if code in _DENIED:
            return Forbidden(text, "Check BRIDGE_S3_ACCESS and BRIDGE_S3_SECRET.")
        if code in _MISSING:
            return NotFound(text, "The data may have been pruned.")
        return Unavailable(text, "Try again; if it stays, ask who runs the storage.")


def _code(error: BaseException | None) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _is_there(error: BridgeError) -> bool:
    return _code(error.__cause__) in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


def _session() -> Any:
    # (configuration key, environment variables, default, conversion): no variables.
    fixed: dict[str, Any] = {
        "profile": (None, [], None, None),
        "config_file": (None, [], os.devnull, None),
        "credentials_file": (None, [], os.devnull, None),
    }
    core = botocore.session.Session(session_vars=fixed)
    return boto3.session.Session(botocore_session=core)
