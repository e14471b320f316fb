"""Leases: one holder at a time, and a fence that tells an old holder apart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from bridge.db import leases
from bridge.db.engine import Database
from bridge.db.leases import Held
from bridge.db.tables import leases as table


def take(db: Database, holder: str, dead: str | None = None) -> Held | None:
    return db.write(lambda conn: leases.take(conn, "loops", holder=holder, lasts_s=60.0, dead=dead))


def renew(db: Database, held: Held) -> bool:
    return db.write(lambda conn: leases.renew(conn, held))


def holds(db: Database, held: Held) -> bool:
    return db.write(lambda conn: leases.holds(conn, held))


def first(db: Database) -> Held:
    held = take(db, "a")
    assert held is not None
    return held


def holder_of(db: Database) -> tuple[str, bool] | None:
    return db.read(lambda conn: leases.holder_of(conn, "loops", lasts_s=60.0))


def put_clock_back(db: Database, by_s: float) -> None:
    """As it then looks: what is stored lies further ahead."""
    later = table.c.expires_at + by_s
    db.write(lambda conn: conn.execute(update(table).values(expires_at=later)))


def run_out(db: Database) -> None:
    """A minute passes."""
    put_clock_back(db, -61.0)
    assert holder_of(db) == ("a", True)


def test_is_held_by_one(db: Database) -> None:
    assert holder_of(db) is None
    held = first(db)
    assert held.fence == 1
    assert take(db, "b") is None
    assert holds(db, held) and renew(db, held)
    assert holder_of(db) == ("a", False)


def test_goes_to_another_when_it_has_run_out(db: Database) -> None:
    old = first(db)
    put_clock_back(db, -30.0)
    assert holder_of(db) == ("a", False) and take(db, "b") is None
    run_out(db)
    new = take(db, "b")
    assert new is not None and new.fence == 2
    assert not holds(db, old) and not renew(db, old)
    db.write(lambda conn: leases.release(conn, old))
    assert holds(db, new) and take(db, "c") is None


def test_stays_when_it_has_run_out_and_nobody_wanted_it(db: Database) -> None:
    held = first(db)
    run_out(db)
    assert holds(db, held) and renew(db, held)


def test_of_a_dead_or_leaving_holder_is_free_at_once(db: Database) -> None:
    first(db)
    second = take(db, "b", dead="a")
    assert second is not None
    assert take(db, "c", dead="a") is None
    db.write(lambda conn: leases.release(conn, second))
    third = take(db, "c")
    assert third is not None and third.fence == 3


def test_taken_again_by_the_same_name_has_another_fence(db: Database) -> None:
    old = first(db)
    run_out(db)
    new = take(db, "a")
    assert new is not None and new.fence == old.fence + 1
    assert not holds(db, old)


def test_after_the_clock_was_put_back_nobody_waits_for_the_old_end(db: Database) -> None:
    old = first(db)
    put_clock_back(db, 30.0)  # less than a lease: whoever holds it is waited for
    assert holder_of(db) == ("a", False) and take(db, "b") is None
    put_clock_back(db, 2 * 86400)
    assert holder_of(db) == ("a", True)
    new = take(db, "b")
    assert new is not None and new.fence == old.fence + 1
    assert not renew(db, old) and not holds(db, old)
    assert holder_of(db) == ("b", False) and take(db, "c") is None


def test_a_holder_that_renews_does_not_mind_the_clock(db: Database) -> None:
    held = first(db)
    put_clock_back(db, 2 * 86400)
    assert holds(db, held) and renew(db, held)
    assert holder_of(db) == ("a", False) and take(db, "b") is None


@pytest.fixture
def others(database_url: str, db: Database) -> Iterator[list[Database]]:
    made = [Database(database_url) for _ in range(4)]
    yield made
    for one in made:
        one.close()


def test_wanted_by_many_at_once_goes_to_one(others: list[Database]) -> None:
    with ThreadPoolExecutor(len(others)) as pool:
        taken = list(pool.map(lambda one: take(one, str(id(one))), others))
    assert sum(held is not None for held in taken) == 1
