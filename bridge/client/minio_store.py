"""The store by the package ``minio``: what jobs never ask of it.

Expiry rules, who may list, signed URLs; and, where the server is MinIO, its users
and policies by its admin interface. Jobs themselves go by ``storage``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException, S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from bridge.client.proxies import pool
from bridge.errors import BridgeError, Forbidden, NotFound, Unavailable, Unreachable

Policy = dict[str, Any]

RULE: Final = "nomad-bridge-expiry"
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=60)
_RETRIES: Final = urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[502, 503, 504])
_HEALTH: Final = "/minio/health/live"  # nothing but MinIO answers there with 200
_NO_RULES: Final = frozenset({"NoSuchLifecycleConfiguration"})
_REFUSALS: Final = frozenset({401, 403, 405})
_UNKNOWN_KEY: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch"})


class Store:
    """An S3 server with one key.

    Every call raises Unreachable (no answer), Forbidden (the key may not), NotFound
    or Unavailable (the server refuses for another reason).
    """

    def __init__(
        self, server: str, access: str, secret: str, *, region: str = "us-east-1", ca_file: str = ""
    ) -> None:
        self.server = server.rstrip("/")
        self._pool = pool(server, ca_file, timeout=_TIMEOUT, retries=_RETRIES)
        self._s3 = Minio(
            endpoint=urlsplit(server).netloc,
            access_key=access,
            secret_key=secret,
            secure=urlsplit(server).scheme == "https",
            region=region,  # else each bucket is asked for its own first
            http_client=self._pool,
        )

    def is_minio(self) -> bool:
        """Whether the server is MinIO, and its admin interface can be reached by this address."""
        with errors_of(self.server):
            answer = self._pool.request("GET", self.server + _HEALTH, redirect=False)
        return answer.status == 200

    def clock(self) -> str | None:
        """The time that the server gives its answers, as HTTP writes it."""
        with errors_of(self.server):
            answer = self._pool.request("HEAD", self.server + "/", redirect=False)
        return answer.headers.get("Date")

    def buckets(self) -> list[str]:
        """All buckets that the store shows this key."""
        with errors_of(self.server):
            return [bucket.name for bucket in self._s3.list_buckets()]

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is such a bucket."""
        with errors_of(self.server):
            return self._s3.bucket_exists(bucket)

    def accepts_key(self, bucket: str) -> bool:
        """Whether the server knows the key and its secret, whatever they may do."""
        try:
            with errors_of(self.server):
                next(iter(self._s3.list_objects(bucket)), None)
        except (Forbidden, NotFound) as error:
            return _code(error) not in _UNKNOWN_KEY
        return True

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket."""
        with errors_of(self.server):
            self._s3.make_bucket(bucket)

    def expiry_days(self, bucket: str) -> int | None:
        """After how many days our rule deletes what is in a bucket; None: there is no such rule."""
        rules = (rule for rule in self._rules(bucket) if rule.rule_id == RULE)
        return next((rule.expiration.days for rule in rules if rule.expiration), None)

    def expire(self, bucket: str, days: int) -> None:
        """Have the store delete what is older than so many days; other rules stay."""
        ours = Rule(
            status=ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id=RULE,
            expiration=Expiration(days=days),
        )
        others = [rule for rule in self._rules(bucket) if rule.rule_id != RULE]
        with errors_of(self.server):
            self._s3.set_bucket_lifecycle(bucket, LifecycleConfig([*others, ours]))

    def signed_url(self, bucket: str, key: str, valid: timedelta) -> str:
        """A URL by which anybody can fetch an object for some time. It is a secret."""
        with errors_of(self.server):
            return self._s3.presigned_get_object(bucket, key, expires=valid)

    def plain_get(self, url: str) -> tuple[int, bytes]:
        """Status and body of a GET without any key."""
        with errors_of(self.server):
            answer = self._pool.request("GET", url, redirect=False)
        return answer.status, answer.data

    def _rules(self, bucket: str) -> list[Rule]:
        try:
            with errors_of(self.server):
                found = self._s3.get_bucket_lifecycle(bucket)
        except BridgeError as error:
            if _code(error) not in _NO_RULES:
                raise
            return []
        return list(found.rules) if found else []


class Users:
    """Users and policies of a MinIO server, with the key of its administrator.

    Every call raises as those of Store.
    """

    def __init__(
        self, server: str, access: str, secret: str, *, region: str = "us-east-1", ca_file: str = ""
    ) -> None:
        self._server = server
        self._admin = MinioAdmin(
            endpoint=urlsplit(server).netloc,
            credentials=StaticProvider(access, secret),
            secure=urlsplit(server).scheme == "https",
            region=region,
            http_client=pool(server, ca_file, timeout=_TIMEOUT, retries=_RETRIES),
        )

    def policy(self, name: str) -> Policy | None:
        """A policy's document, or None."""
        try:
            with errors_of(self._server):
                found = json.loads(self._admin.policy_info(name))
        except NotFound:
            return None
        return dict(found)

    def set_policy(self, name: str, document: Policy) -> None:
        """Make or replace a policy."""
        with errors_of(self._server):
            self._admin.policy_add(name, policy=document)

    def policies_of(self, access: str) -> list[str] | None:
        """The names of a user's own policies, or None when there is no such user."""
        try:
            with errors_of(self._server):
                found = json.loads(self._admin.user_info(access))
        except NotFound:
            return None
        return [name for name in str(found.get("policyName", "")).split(",") if name]

    def set_user(self, access: str, secret: str) -> None:
        """Make a user, or give one a new secret."""
        with errors_of(self._server):
            self._admin.user_add(access, secret)

    def set_policy_of(self, access: str, name: str) -> None:
        """Give a user this policy in place of all others."""
        with errors_of(self._server):
            self._admin.policy_set(name, user=access)


@contextmanager
def errors_of(server: str) -> Iterator[None]:
    """Errors of the package as ours. Never their text: it holds the bucket's name."""
    try:
        yield
    except S3Error as error:
        raise _refusal(server, error.code or str(error.response.status)) from error
    except MinioAdminException as error:
        raise _refusal(server, _admin_code(error)) from error
    except MinioException as error:
        if vars(error).get("_code") in _REFUSALS:
            raise Forbidden(f"A proxy in front of {server} refuses this") from error
        raise Unavailable(
            f"{server} gives an answer that is none of S3: {type(error).__name__}",
            "Check the address; a proxy in front may have answered.",
        ) from error
    except urllib3.exceptions.HTTPError as error:
        raise Unreachable(
            f"{server} cannot be reached: {type(error).__name__}",
            "Check the address and that the storage runs.",
        ) from error


def _code(error: BridgeError) -> str:
    cause = error.__cause__
    return (cause.code or "") if isinstance(cause, S3Error) else ""


def _refusal(server: str, code: str) -> BridgeError:
    text = f"{server} answered {code}"
    if code in _UNKNOWN_KEY or "Denied" in code:
        return Forbidden(text, "Check the access key and its secret, and what the key may do.")
    if code.startswith(("NoSuch", "XMinioAdminNoSuch")):
        return NotFound(text)
    return Unavailable(text, "If it stays, ask who runs the storage.")


def _admin_code(error: MinioAdminException) -> str:
    told = vars(error)  # the package has no other way to what the server said
    try:
        return str(json.loads(told["_body"])["Code"])
    except (ValueError, KeyError, TypeError):
        return "AccessDenied" if told.get("_code") == "403" else str(told.get("_code"))
