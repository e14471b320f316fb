"""Prepare a group's storage: its user with the least policy, its code bucket, an expiry rule.

Everything may be repeated: what is there already is kept. On MinIO the user is made
by the administrator's key; elsewhere that is done with the store's own tools, and the
rest with the group's key, because buckets belong to the key that makes them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge import log
from bridge.client import credentials
from bridge.client.minio_store import Policy, Store, Users
from bridge.client.whole_file import whole_file
from bridge.errors import ConfigError, Conflict
from bridge.models.fields import BUCKET_PATTERN
from bridge.process import environment

Key = tuple[str, str]  # access key, secret

# The environment variables of MinIO's administrator: access key, secret.
ADMIN_KEY: Final = ("BRIDGE_S3_ADMIN_ACCESS", "BRIDGE_S3_ADMIN_SECRET")

_JOB_BUCKETS: Final = "arn:aws:s3:::????????-????-4???-????-????????????"
_IS_JOB_BUCKET: Final = re.compile(BUCKET_PATTERN)
_BUCKET_ACTIONS: Final = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
_OBJECT_ACTIONS: Final = [
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
]
_REGION: Final = "us-east-1"
_NO_KEY: Final = ("none", "none")  # asks for nothing that needs one
_SECRET_BYTES: Final = 30  # 40 characters, the most that some stores take


class Step(msgspec.Struct, frozen=True):
    """One thing that must be so; ``done`` says what was, or would be, done for it."""

    what: str
    done: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to prepare. ``server`` is the address that members and nodes use, ``direct``
    the one at which this is done; ``key_file`` gets the key of the group.
    """

    server: str
    direct: str
    group_token: str
    key_file: Path
    user: str = ""  # empty: made from the group token
    region: str = _REGION
    ca_file: str = ""
    new_secret: bool = False
    expire_days: int = 0  # 0: no rule
    dry_run: bool = False

    @property
    def code_bucket(self) -> str:
        """The bucket of the group's images."""
        return f"code-{self.group_token}"

    @property
    def access(self) -> str:
        """The access key of the group; tells nothing of the token."""
        digest = hashlib.sha256(self.group_token.encode()).hexdigest()
        return self.user or f"bridge-{digest[:12]}"


def least_policy(code_bucket: str) -> Policy:
    """What members and nodes need: job buckets by the form of their names, and the images."""
    code = f"arn:aws:s3:::{code_bucket}"
    # MinIO compares a bucket, where there are wildcards, as "name/".
    job_buckets = [_JOB_BUCKETS, f"{_JOB_BUCKETS}/"]
    make_and_delete = ["s3:CreateBucket", "s3:DeleteBucket"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("JobBuckets", job_buckets, _BUCKET_ACTIONS + make_and_delete),
            _allow("JobObjects", [f"{_JOB_BUCKETS}/*"], _OBJECT_ACTIONS),
            _allow("CodeBucket", [code], _BUCKET_ACTIONS),
            _allow("CodeObjects", [f"{code}/*"], _OBJECT_ACTIONS),
            _statement("NoListOfBuckets", "Deny", ["arn:aws:s3:::*"], ["s3:ListAllMyBuckets"]),
        ],
    }


def _allow(name: str, resources: list[str], actions: list[str]) -> Policy:
    return _statement(name, "Allow", resources, actions)


def _statement(name: str, effect: str, resources: list[str], actions: list[str]) -> Policy:
    return {"Sid": name, "Effect": effect, "Action": actions, "Resource": resources}


def admin_key() -> Key | None:
    """The key of MinIO's administrator, which comes from the environment only."""
    access, secret = (environment().get(name, "") for name in ADMIN_KEY)
    log.redact(secret)
    return (access, secret) if access and secret else None


def set_up(plan: Plan, admin: Key | None, own: Key | None) -> list[Step]:
    """Bring about what is missing; with ``dry_run`` only say what that is.

    ``admin`` is the key of MinIO's administrator, ``own`` the group's: which of them
    is needed hangs on the server. Raises ConfigError when that one is not given,
    Conflict when the group's secret is not known any more, FolderError when
    ``key_file`` cannot be written, and as Store.
    """
    options: dict[str, Any] = {"region": plan.region, "ca_file": plan.ca_file}
    if Store(plan.direct, *_NO_KEY, **options).is_minio():
        if admin is None:
            raise ConfigError(
                f"{plan.direct} is MinIO, and its administrator's key is not given",
                f"Set {' and '.join(ADMIN_KEY)} in the environment.",
            )
        users = Users(plan.direct, *admin, **options)
        return [
            *_store_steps(plan, Store(plan.direct, *admin, **options)),
            *_user_steps(plan, users),
        ]
    if own is None:
        raise ConfigError(
            f"{plan.direct} is not MinIO, or a proxy hides its admin interface, and the group's "
            "key is not given",
            "For MinIO give its own address (--direct). Elsewhere make a key with the store's "
            "tools, with the policy that --policy prints, and set BRIDGE_S3_ACCESS and "
            "BRIDGE_S3_SECRET.",
        )
    by_hand = Step("user and policy", "left to the store's own tools: no MinIO answers at --direct")
    return [by_hand, *_store_steps(plan, Store(plan.direct, *own, **options))]


def _store_steps(plan: Plan, store: Store) -> Iterator[Step]:
    yield _step(
        plan,
        f"bucket {plan.code_bucket}",
        there=store.has_bucket(plan.code_bucket),
        change=lambda: store.make_bucket(plan.code_bucket),
    )
    if plan.expire_days:
        jobs = [bucket for bucket in store.buckets() if _IS_JOB_BUCKET.match(bucket)]
        with ThreadPoolExecutor(8) as pool:
            days = list(pool.map(store.expiry_days, jobs))
            late = [job for job, now in zip(jobs, days, strict=True) if now != plan.expire_days]
            yield _step(
                plan,
                f"deletion after {plan.expire_days} days, {len(jobs)} job buckets",
                there=not late,
                change=lambda: list(
                    pool.map(lambda job: store.expire(job, plan.expire_days), late)
                ),
                verb=f"set for {len(late)}",
            )


def _user_steps(plan: Plan, users: Users) -> Iterator[Step]:
    access, wanted = plan.access, least_policy(plan.code_bucket)
    yield _step(
        plan,
        f"policy {access}",
        there=_same(users.policy(access), wanted),
        change=lambda: users.set_policy(access, wanted),
    )
    has = users.policies_of(access)
    yield _key_step(plan, users, is_there=has is not None)
    yield _step(
        plan,
        f"policy of {access}",
        there=has == [access],
        change=lambda: users.set_policy_of(access, access),
        verb="set",
    )


def _key_step(plan: Plan, users: Users, *, is_there: bool) -> Step:
    known = None if plan.new_secret else _known_secret(plan)
    what = f"key {plan.access} in {plan.key_file}"
    if is_there and not plan.new_secret:
        _check_known(plan, known)
        return Step(what, "kept")

    def make() -> None:
        secret = known or secrets.token_urlsafe(_SECRET_BYTES)
        log.redact(secret)
        # First the file: a secret that nobody knows would be of no use to anybody.
        if secret != known:
            _write_key(plan, secret)
        users.set_user(plan.access, secret)

    verb = "given a new secret" if is_there else "made"
    return _step(plan, what, there=False, change=make, verb=verb)


def _check_known(plan: Plan, secret: str | None) -> None:
    if secret is None:
        raise Conflict(
            f"The store has the key {plan.access} already, and {plan.key_file} does not hold "
            "its secret, which is shown once.",
            "Name the file that holds it (--out), or replace the secret with --new-secret: "
            "every member and node then needs the new one.",
        )
    store = Store(plan.direct, plan.access, secret, region=plan.region, ca_file=plan.ca_file)
    if not store.accepts_key(plan.code_bucket):
        raise Conflict(
            f"The secret in {plan.key_file} is not the one that the store has.",
            "Find the newer file, or replace the secret with --new-secret.",
        )


def _known_secret(plan: Plan) -> str | None:
    if not plan.key_file.exists():
        return None
    lines = credentials.read_file(plan.key_file)
    return lines.get("S3_SECRET") if lines.get("S3_ACCESS") == plan.access else None


def _write_key(plan: Plan, secret: str) -> None:
    values = {"SERVER": plan.server, "ACCESS": plan.access, "SECRET": secret}
    if plan.region != _REGION:
        values["REGION"] = plan.region
    with whole_file(plan.key_file, replace=plan.new_secret) as file:
        for title, prefix in (("nodes", "S3_"), ("members", "BRIDGE_S3_")):
            lines = [f"# For {title}:", *(f"{prefix}{name}={it}" for name, it in values.items())]
            file.write("".join(f"{line}\n" for line in lines).encode())


def _step(
    plan: Plan, what: str, *, there: bool, change: Callable[[], object], verb: str = "made"
) -> Step:
    if there:
        return Step(what, "kept")
    if plan.dry_run:
        return Step(what, f"would be {verb}")
    change()
    return Step(what, verb)


def _same(found: Policy | None, wanted: Policy) -> bool:
    """Whether two policies allow the same: servers give lists back in another order."""
    return found is not None and _sorted(found) == _sorted(wanted)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=repr)
    return value
