"""Groups and users: unique names, live and revoked, the last admin under racing calls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.db import audit, identity, instance
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict
from bridge.models.identity import User
from tests.integration.db.conftest import NOW, Lab


class TestGroups:
    def test_found_by_id_token_and_name(self, lab: Lab) -> None:
        group = lab.group
        lab.add_group("other")
        assert lab.db.read(lambda conn: identity.group_by_id(conn, group.id)) == group
        assert lab.db.read(lambda conn: identity.group_by_token(conn, group.token)) == group
        assert lab.db.read(lambda conn: identity.group_by_name(conn, "lab")) == group
        assert lab.db.read(lambda conn: identity.group_by_name(conn, "Lab")) is None
        assert [g.name for g in lab.db.read(identity.list_groups)] == ["lab", "other"]

    def test_a_taken_name_is_refused(self, lab: Lab) -> None:
        with pytest.raises(Conflict, match="lab"):
            lab.add_group("lab")

    def test_compute_secret(self, lab: Lab) -> None:
        def state() -> tuple[bytes | None, bool, str | None]:
            def read(conn: Connection) -> tuple[bytes | None, bool, str | None]:
                group = identity.group_by_id(conn, lab.group.id)
                assert group is not None
                found = identity.compute_hash(conn, lab.group.id)
                return found, group.has_compute_secret, group.generation

            return lab.db.read(read)

        def store(secret_hash: bytes | None, generation: str | None) -> None:
            lab.db.write(
                lambda conn: identity.set_compute_secret(
                    conn, lab.group.id, secret_hash, generation
                )
            )

        assert state() == (None, False, None)
        store(b"h" * 32, "first")
        assert state() == (b"h" * 32, True, "first")
        store(None, None)
        assert state() == (None, False, None)


class TestUsers:
    def test_found_by_secret_with_the_group(self, lab: Lab) -> None:
        digest = b"\x00\xff" * 16
        assert lab.db.write(lambda conn: identity.set_secret(conn, lab.ada.id, digest))
        assert lab.db.read(lambda conn: identity.user_by_hash(conn, digest)) == (lab.ada, lab.group)
        assert lab.db.read(lambda conn: identity.user_by_hash(conn, b"\x00" * 32)) is None

    def test_names_are_unique_in_a_group(self, lab: Lab) -> None:
        with pytest.raises(Conflict, match="ada"):
            lab.add_user("ada")
        other = lab.add_group("other")
        theirs = lab.add_user("ada", group=other)
        found = lab.db.read(lambda conn: identity.user_by_name(conn, other.id, "ada"))
        assert found == theirs != lab.ada

    def test_listed_by_name(self, lab: Lab) -> None:
        names = [u.name for u in lab.db.read(lambda c: identity.list_users(c, lab.group.id))]
        assert names == ["ada", "root"]

    def test_revoked_once_and_for_good(self, lab: Lab) -> None:
        def revoke(conn: Connection) -> bool:
            return identity.revoke(conn, lab.ada.id, NOW + 1)

        assert [lab.db.write(revoke), lab.db.write(revoke)] == [True, False]
        user = lab.db.read(lambda conn: identity.user_by_name(conn, lab.group.id, "ada"))
        assert user is not None
        assert user.revoked_at == NOW + 1
        assert not lab.db.write(lambda conn: identity.set_secret(conn, lab.ada.id, b"n" * 32))
        assert not lab.db.write(lambda conn: identity.set_admin(conn, lab.ada.id, True))
        with pytest.raises(Conflict):
            lab.add_user("ada")

    def test_last_used(self, lab: Lab) -> None:
        lab.db.write(lambda conn: identity.touch_last_used(conn, lab.ada.id, NOW + 5))
        user = lab.db.read(lambda conn: identity.user_by_name(conn, lab.group.id, "ada"))
        assert user is not None
        assert user.last_used_at == NOW + 5

    def test_only_live_admins_of_the_group_count(self, lab: Lab) -> None:
        def count() -> int:
            return lab.db.read(lambda conn: identity.count_admins(conn, lab.group.id))

        lab.add_user("theirs", admin=True, group=lab.add_group("other"))
        assert count() == 1
        lab.db.write(lambda conn: identity.set_admin(conn, lab.ada.id, True))
        assert count() == 2
        lab.db.write(lambda conn: identity.revoke(conn, lab.root.id, NOW))
        assert count() == 1
        lab.db.write(lambda conn: identity.set_admin(conn, lab.ada.id, False))
        assert count() == 0

    def test_racing_revocations_leave_an_admin(self, lab: Lab) -> None:
        admins = [lab.root, *(lab.add_user(f"admin{n}", admin=True) for n in range(5))]
        gate = threading.Barrier(len(admins))

        def revoke(user: User) -> bool:
            gate.wait(10)

            def write(conn: Connection) -> bool:
                identity.lock_group(conn, lab.group.id)
                if identity.count_admins(conn, lab.group.id) <= 1:
                    return False
                return identity.revoke(conn, user.id, NOW)

            return lab.db.write(write)

        with ThreadPoolExecutor(len(admins)) as pool:
            done = list(pool.map(revoke, admins))
        assert done.count(False) == 1
        assert lab.db.read(lambda conn: identity.count_admins(conn, lab.group.id)) == 1


def test_a_secret_hash_in_use_is_a_conflict_that_tells_nothing(lab: Lab) -> None:
    digest = b"secret-hash-of-thirty-two-bytes!"
    lab.db.write(lambda conn: identity.set_secret(conn, lab.ada.id, digest))
    with pytest.raises(Conflict) as caught:
        lab.db.write(lambda conn: identity.set_secret(conn, lab.root.id, digest))
    assert "secret-hash" not in repr(caught.value) + str(caught.value.__cause__)
    assert caught.value.__cause__ is None


class TestAudit:
    def test_newest_first_in_pages(self, lab: Lab) -> None:
        def record(conn: Connection) -> None:
            for number in range(3):
                audit.record(
                    conn,
                    group_id=lab.group.id,
                    actor="root",
                    action="user.add",
                    target=f"u{number}",
                    detail=None if number else "admin",
                    now=NOW + number,
                )
            audit.record(conn, group_id=None, actor="operator", action="x", target="lab", now=NOW)

        lab.db.write(record)
        entries = lab.db.read(lambda conn: audit.find(conn, lab.group.id))
        assert [entry.target for entry in entries] == ["u2", "u1", "u0"]
        assert (entries[2].detail, entries[2].at, entries[2].group_id) == (
            "admin",
            NOW,
            lab.group.id,
        )
        older = lab.db.read(
            lambda conn: audit.find(conn, lab.group.id, limit=1, before=entries[0].id)
        )
        assert older == entries[1:2]
        everything = lab.db.read(audit.find)
        assert len(everything) == 4
        assert everything[0].group_id is None

    def test_undone_with_what_it_tells_about(self, lab: Lab) -> None:
        def write(conn: Connection) -> None:
            audit.record(conn, group_id=None, actor="a", action="b", target="c", now=NOW)
            raise KeyError("no")

        with pytest.raises(KeyError):
            lab.db.write(write)
        assert lab.db.read(audit.find) == []


def test_an_instance_is_made_once(db: Database) -> None:
    gate = threading.Barrier(4)

    def get(_: int) -> instance.Instance:
        gate.wait(10)
        return db.write(instance.get_or_create)

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(get, range(4)))
    [one] = found
    assert (one.epoch, one.swept_at) == (1, one.epoch_started_at)
    assert len(one.name) == 8
