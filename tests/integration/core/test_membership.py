"""Groups, users and secrets."""

from __future__ import annotations

import threading

import pytest

from bridge.db import audit
from bridge.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from bridge.models.job import JobState
from bridge.models.secret import digest
from tests.integration.core.conftest import House


class TestSecrets:
    def test_revoked_at_once_and_queued_jobs_go_on(self, house: House) -> None:
        secret = house.groups.add_user(house.root, "bob", False)
        job = house.submit(house.access.by_secret(secret))
        house.groups.revoke(house.root, "bob")
        with pytest.raises(Unauthenticated):
            house.access.by_secret(secret)
        house.step()
        assert house.job(job).state is JobState.SUBMITTED

    def test_unknown_and_revoked_answer_the_same(self, house: House) -> None:
        secret = house.groups.add_user(house.root, "bob", False)
        house.groups.revoke(house.root, "bob")
        with pytest.raises(Unauthenticated) as revoked:
            house.access.by_secret(secret)
        with pytest.raises(Unauthenticated) as unknown:
            house.access.by_secret("nbapi_" + "x" * 52)
        assert revoked.value.message == unknown.value.message

    def test_the_wrong_kind_is_named(self, house: House) -> None:
        with pytest.raises(Unauthenticated, match="compute secret"):
            house.access.by_secret(house.compute_secret)

    def test_uses_are_stored_together_and_rarely(self, house: House) -> None:
        def last_used() -> dict[str, float | None]:
            return {user.name: user.last_used_at for user in house.groups.list_users(house.root)}

        secret = house.groups.add_user(house.root, "bob", False)
        house.access.store_uses()
        before = last_used()
        assert before["bob"] is None
        house.clock.now += 90
        used_at = house.clock.now
        house.access.by_secret(secret)
        assert last_used() == before
        house.access.store_uses()
        assert last_used() == before | {"bob": used_at}
        house.clock.now += 30
        house.access.by_secret(secret)
        house.access.store_uses()
        assert last_used()["bob"] == used_at

    def test_uses_that_cannot_be_stored_are_stored_later(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: object) -> None:
            raise Unavailable("The database cannot be used now: database or disk is full")

        secret = house.groups.add_user(house.root, "bob", False)
        house.access.by_secret(secret)
        with monkeypatch.context() as broken:
            broken.setattr(house.db, "write", full)
            with pytest.raises(Unavailable):
                house.access.store_uses()
        house.access.store_uses()
        [bob] = [user for user in house.groups.list_users(house.root) if user.name == "bob"]
        assert bob.last_used_at == house.clock.now

    def test_a_database_that_cannot_be_written_keeps_nobody_from_reading(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: object) -> None:
            raise Unavailable("The database cannot be used now: database or disk is full")

        secret = house.groups.add_user(house.root, "bob", False)
        monkeypatch.setattr(house.db, "write", full)
        caller = house.access.by_secret(secret)
        assert caller.user is not None
        assert caller.user.name == "bob"

    def test_rotation_ends_the_old_one(self, house: House) -> None:
        from bridge.db import identity

        new = house.groups.rotate_compute_secret(house.root)
        stored = house.db.read(lambda conn: identity.compute_hash(conn, house.root.group.id))
        assert stored == digest(new) != digest(house.compute_secret)

    def test_operator_resets_a_lost_one(self, house: House) -> None:
        new = house.groups.reset_secret("lab", "ada")
        assert house.access.by_secret(new).user.name == "ada"  # type: ignore[union-attr]
        with pytest.raises(NotFound):
            house.groups.reset_secret("lab", "nobody")
        with pytest.raises(NotFound):
            house.groups.reset_secret("nowhere", "ada")


class TestMembers:
    @pytest.mark.parametrize("name", ["", " ", "a b", "-a", "ä", "a\n", "x" * 65, "a/b"])
    def test_bad_names_are_refused(self, house: House, name: str) -> None:
        with pytest.raises(InvalidRequest):
            house.groups.add_user(house.root, name, False)

    def test_names_are_unique_for_good(self, house: House) -> None:
        with pytest.raises(Conflict):
            house.groups.add_user(house.root, "ada", False)
        house.groups.revoke(house.root, "ada")
        with pytest.raises(Conflict, match="revoked"):
            house.groups.add_user(house.root, "ada", False)

    def test_the_revoked_stay_revoked(self, house: House) -> None:
        house.groups.revoke(house.root, "ada")
        with pytest.raises(Conflict, match="revoked"):
            house.groups.reset_secret("lab", "ada")
        with pytest.raises(Conflict, match="revoked"):
            house.groups.set_admin(house.root, "ada", True)

    def test_regular_users_manage_nobody(self, house: House) -> None:
        for act in (
            lambda: house.groups.add_user(house.ada, "eve", True),
            lambda: house.groups.revoke(house.ada, "root"),
            lambda: house.groups.rotate_compute_secret(house.ada),
            lambda: house.groups.list_users(house.ada),
            lambda: house.groups.set_admin(house.ada, "ada", True),
        ):
            with pytest.raises(Forbidden):
                act()

    def test_the_last_admin_stays(self, house: House) -> None:
        with pytest.raises(Conflict, match="last admin"):
            house.groups.revoke(house.root, "root")
        with pytest.raises(Conflict, match="last admin"):
            house.groups.set_admin(house.root, "root", False)

    def test_two_admins_revoking_each_other_leave_one(self, house: House) -> None:
        house.add_user("boss", admin=True)
        start = threading.Barrier(2)

        def revoke(name: str) -> None:
            start.wait(30)
            try:
                house.groups.revoke(house.root, name)
            except (Conflict, Forbidden):
                refused.append(name)

        refused: list[str] = []
        threads = [threading.Thread(target=revoke, args=(name,)) for name in ("root", "boss")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(refused) == 1

    def test_what_was_done_is_on_record(self, house: House) -> None:
        house.groups.revoke(house.root, "ada")
        entries = house.db.read(lambda conn: audit.find(conn, house.root.group.id))
        assert [(entry.actor, entry.action, entry.target) for entry in entries][:1] == [
            ("root", "user.revoke", "ada")
        ]
