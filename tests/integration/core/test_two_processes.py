"""Two processes on one database do the same thing at the same moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from bridge import process
from tests.integration.core.conftest import House

ROUNDS = 8
_SOON_S = 0.03  # both have read their line by then


class Pair:
    """Two processes of tests/support/racing_process.py."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "tests.support.racing_process", url]
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[3],
                env=process.clean_environment(),
            )
            for _ in range(2)
        ]

    def race(self, *acts: tuple[str, str, str]) -> list[str]:
        """Both acts (secret, verb, object) at once; what came of each."""
        at = time.time() + _SOON_S
        for one, act in zip(self._processes, acts, strict=True):
            assert one.stdin is not None
            print(at, *act, file=one.stdin, flush=True)
        return [one.stdout.readline().strip() for one in self._processes if one.stdout]

    def close(self) -> None:
        for one in self._processes:
            one.communicate(timeout=30)
            assert one.returncode == 0


@pytest.fixture
def pair(house: House, database_url: str) -> Iterator[Pair]:
    made = Pair(database_url)
    yield made
    made.close()


@pytest.mark.parametrize("verb", ["demote", "revoke"])
def test_two_admins_remove_each_other(house: House, pair: Pair, verb: str) -> None:
    for number in range(ROUNDS):
        names = (f"a{number}", f"b{number}")
        _, first = house.groups.add_group(f"g{number}", names[0], connector="local")
        second = house.groups.add_user(house.access.by_secret(first), names[1], True)
        answers = pair.race((first, verb, names[1]), (second, verb, names[0]))
        lost = [answer in ("Conflict", "Forbidden", "Unauthenticated") for answer in answers]
        assert lost.count(True) == 1, answers
        winner = house.access.by_secret(second if lost[0] else first)
        users = house.groups.list_users(winner)
        admins = [user.name for user in users if user.admin and user.revoked_at is None]
        assert admins == [names[1] if lost[0] else names[0]]


def test_two_users_of_one_name(house: House, pair: Pair) -> None:
    _, admin = house.groups.add_group("other", "boss", connector="local")
    for number in range(ROUNDS):
        act = (admin, "add", f"eve{number}")
        assert min(pair.race(act, act)) == "Conflict"
    users = house.groups.list_users(house.access.by_secret(admin))
    assert len(users) == 1 + ROUNDS


def test_one_bucket_handed_in_twice(house: House, pair: Pair) -> None:
    ada = house.groups.add_user(house.root, "ada2", False)
    for _ in range(ROUNDS):
        act = (ada, "submit", str(uuid4()))
        one, other = pair.race(act, act)
        assert UUID(one) == UUID(other)
    assert len(house.jobs.find(house.access.by_secret(ada))) == ROUNDS


def test_one_bucket_handed_in_by_two_members(house: House, pair: Pair) -> None:
    ada, bob = (house.groups.add_user(house.root, name, False) for name in ("ada2", "bob"))
    for _ in range(ROUNDS):
        bucket = str(uuid4())
        answers = pair.race((ada, "submit", bucket), (bob, "submit", bucket))
        assert answers.count("Conflict") == 1, answers
    assert len(house.jobs.find(house.root)) == ROUNDS
