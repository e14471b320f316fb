from __future__ import annotations

import io
import json
import uuid
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.commonconfig import ENABLED, Filter
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from msgspec import structs

from bridge.client import storage_setup
from bridge.client.credentials import read_file
from bridge.client.minio_store import Store, Users
from bridge.client.storage import Storage
from bridge.client.storage_setup import Key, Plan, set_up
from bridge.errors import ConfigError, Conflict, Forbidden, NotFound, Unreachable
from tests.support.minio import Minio
from tests.support.poll import free_port
from tests.support.s3 import S3


@pytest.fixture(name="plan")
def _plan(minio: Minio, tmp_path: Path) -> Plan:
    """For a group that the server knows nothing of."""
    return Plan(
        server="https://s3.example",
        direct=minio.endpoint,
        group_token=uuid.uuid4().hex,
        key_file=tmp_path / "key",
    )


@pytest.fixture(name="admin")
def _admin(minio: Minio) -> Key:
    return (minio.access, minio.secret)


def _done(plan: Plan, admin: Key | None, own: Key | None = None) -> list[str]:
    return [step.done for step in set_up(plan, admin, own)]


def _key(plan: Plan) -> Key:
    lines = read_file(plan.key_file)
    return lines["S3_ACCESS"], lines["S3_SECRET"]


def test_a_dry_run_changes_nothing(plan: Plan, admin: Key, minio: Minio) -> None:
    dry = structs.replace(plan, dry_run=True)
    assert _done(dry, admin) == ["would be made", "would be made", "would be made", "would be set"]
    assert not plan.key_file.exists()
    assert not Store(minio.endpoint, *admin).has_bucket(plan.code_bucket)
    assert Users(minio.endpoint, *admin).policies_of(plan.access) is None


def test_it_is_made_once_and_then_kept(plan: Plan, admin: Key) -> None:
    assert _done(plan, admin) == ["made", "made", "made", "set"]
    before = plan.key_file.read_bytes()
    assert _done(plan, admin) == ["kept"] * 4
    assert plan.key_file.read_bytes() == before


def test_the_key_is_for_nodes_and_members_and_nobody_else(plan: Plan, admin: Key) -> None:
    set_up(plan, admin, None)
    assert plan.key_file.stat().st_mode & 0o777 == 0o600
    lines = read_file(plan.key_file)
    access, secret = _key(plan)
    assert len(secret) == 40
    assert lines == {
        "S3_SERVER": "https://s3.example",
        "S3_ACCESS": access,
        "S3_SECRET": secret,
        "BRIDGE_S3_SERVER": "https://s3.example",
        "BRIDGE_S3_ACCESS": access,
        "BRIDGE_S3_SECRET": secret,
    }
    assert plan.group_token not in plan.key_file.read_text()


def test_the_key_can_do_what_jobs_need_and_no_more(plan: Plan, admin: Key, minio: Minio) -> None:
    set_up(plan, admin, None)
    root = Store(minio.endpoint, *admin)
    others = f"archive-{uuid.uuid4().hex}"
    root.make_bucket(others)
    root.make_bucket(f"code-{uuid.uuid4().hex}")
    storage = Storage(minio.endpoint, *_key(plan))
    job = str(uuid.uuid4())
    storage.make_bucket(job)
    storage.put(job, "run.tgz", io.BytesIO(b"x"))
    storage.put(plan.code_bucket, "psi4-1.5.tgz", io.BytesIO(b"x"))
    for refused in (
        lambda: storage.make_bucket(others + "x"),
        lambda: storage.put(others, "file", io.BytesIO(b"x")),
        lambda: list(storage.objects(others)),
        lambda: storage.delete_bucket(plan.code_bucket),
        lambda: Store(minio.endpoint, *_key(plan)).expire(job, 1),
    ):
        with pytest.raises(Forbidden):
            refused()
    own = MinioAdmin(
        endpoint=minio.endpoint.removeprefix("http://"),
        credentials=StaticProvider(*_key(plan)),
        secure=False,
    )
    with pytest.raises(MinioAdminException, match="AccessDenied"):
        own.user_list()
    storage.delete_bucket(job)


def test_what_was_changed_by_hand_is_put_right(plan: Plan, admin: Key, minio: Minio) -> None:
    set_up(plan, admin, None)
    users = Users(minio.endpoint, *admin)
    wide = storage_setup.least_policy(plan.code_bucket)
    wide["Statement"][0]["Action"] = ["s3:*"]
    users.set_policy(plan.access, wide)
    users.set_policy_of(plan.access, "readwrite")
    assert _done(plan, admin) == ["kept", "made", "kept", "set"]
    assert users.policies_of(plan.access) == [plan.access]


def test_a_lost_secret_is_not_replaced_unasked(plan: Plan, admin: Key, minio: Minio) -> None:
    set_up(plan, admin, None)
    old = _key(plan)
    lost = structs.replace(plan, key_file=plan.key_file.with_name("lost"))
    with pytest.raises(Conflict, match="does not hold") as caught:
        set_up(lost, admin, None)
    assert "--new-secret" in caught.value.hint
    Storage(minio.endpoint, *old).head(plan.code_bucket, "x")
    assert _done(structs.replace(lost, new_secret=True), admin)[2] == "given a new secret"
    with pytest.raises(Conflict, match="not the one that the store has"):
        set_up(plan, admin, None)
    with pytest.raises(Forbidden):
        Storage(minio.endpoint, *old).read(plan.code_bucket, "x")
    assert _done(lost, admin) == ["kept"] * 4


def test_a_secret_that_was_only_written_down_is_used(plan: Plan, admin: Key) -> None:
    # Interrupted between the file and the store.
    plan.key_file.write_text(f"S3_ACCESS={plan.access}\nS3_SECRET=only-written-down-yet\n")
    assert _done(plan, admin)[2] == "made"
    assert _key(plan)[1] == "only-written-down-yet"
    assert _done(plan, admin) == ["kept"] * 4


def test_expiry_is_for_job_buckets_and_leaves_other_rules(plan: Plan, admin: Key) -> None:
    set_up(plan, admin, None)
    root, job = Store(plan.direct, *admin), str(uuid.uuid4())
    root.make_bucket(job)
    other = Rule(
        ENABLED, rule_filter=Filter(prefix="tmp/"), rule_id="ours", expiration=Expiration(days=1)
    )
    root._s3.set_bucket_lifecycle(job, LifecycleConfig([other]))
    expiring = structs.replace(plan, expire_days=30)
    assert _done(expiring, admin)[1].startswith("set for ")
    assert _done(expiring, admin)[1] == "kept"
    assert _done(structs.replace(expiring, expire_days=20), admin)[1].startswith("set for ")
    assert root.expiry_days(job) == 20
    assert {rule.rule_id for rule in root._rules(job)} == {"ours", "nomad-bridge-expiry"}
    assert root.expiry_days(plan.code_bucket) is None


def test_the_wrong_or_no_admin(plan: Plan, admin: Key, minio: Minio) -> None:
    with pytest.raises(ConfigError, match="is MinIO") as caught:
        set_up(plan, None, None)
    assert "BRIDGE_S3_ADMIN_SECRET" in caught.value.hint
    with pytest.raises(Forbidden):
        set_up(plan, (minio.access, "wrong"), None)
    assert not plan.key_file.exists()


def test_elsewhere_the_group_uses_its_own_key(s3: S3, plan: Plan) -> None:
    plain = structs.replace(plan, direct=s3.endpoint)
    with pytest.raises(ConfigError, match="not MinIO") as caught:
        set_up(plain, ("any", "admin"), None)
    assert "--policy" in caught.value.hint
    own = (s3.access, s3.secret)
    assert _done(plain, None, own)[1:] == ["made"]
    assert _done(plain, ("any", "admin"), own)[1:] == ["kept"]
    assert (s3.folder / plan.code_bucket).is_dir()
    assert not plan.key_file.exists()


def test_a_server_that_is_away(plan: Plan) -> None:
    away = structs.replace(plan, direct=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="cannot be reached"):
        set_up(away, ("any", "admin"), None)


def test_errors_do_not_repeat_the_bucket(minio: Minio, admin: Key) -> None:
    bucket = str(uuid.uuid4())
    with pytest.raises(NotFound) as caught:
        Store(minio.endpoint, *admin).expire(bucket, 1)
    assert bucket not in str(caught.value) + caught.value.hint


def test_the_policy_is_json_of_the_usual_form() -> None:
    policy = json.loads(json.dumps(storage_setup.least_policy("code-abc")))
    allowed = [one for one in policy["Statement"] if one["Effect"] == "Allow"]
    assert all("*" not in action for one in allowed for action in one["Action"])
    assert not any("arn:aws:s3:::*" in one["Resource"] for one in allowed)
