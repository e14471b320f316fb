"""Machines are let in by the compute secret, and only while it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bridge.core.enrolment import Enrolment
from bridge.db import audit
from bridge.db.engine import Database
from bridge.errors import Conflict, InvalidRequest, Unauthenticated
from bridge.models.node import Candidate
from bridge.points import Point
from tests.integration.core.machines import Hall
from tests.support.fake_connector import FakeConnector
from tests.support.fake_nodes import CERTIFICATE_S, facts
from tests.support.interleave import Other, at


@pytest.fixture
def house(db: Database) -> Iterator[Hall]:
    built = Hall(db)
    yield built
    built.feeder.close()


def audited(house: Hall) -> list[tuple[str, str, str]]:
    entries = house.db.read(lambda conn: audit.find(conn, house.group.id))
    return [(one.actor, one.action, one.target) for one in entries]


def test_the_first_node_makes_the_first_generation(house: Hall) -> None:
    assert house.group.generation is None
    admission = house.ask("n1")
    generation = house.group.generation
    assert generation is not None and generation.isalnum()
    assert admission.expires_at == house.clock() + CERTIFICATE_S
    house.ask("n2")
    assert house.group.generation == generation
    assert {one.generation for one in house.machines.let_in} == {generation}
    assert {one.node_pool for one in house.machines.let_in} == {"g-lab"}
    assert audited(house)[:2] == [("node", "node.enrol", "n2"), ("node", "node.enrol", "n1")]


def test_a_name_that_is_in_is_renewed(house: Hall) -> None:
    house.join()
    house.pass_time(3600)
    house.ask("n1", cores=16)
    node = house.stored()
    assert (node.enrolled_at, node.facts.cores, node.native_id) == (house.clock(), 16, "id-n1")
    assert audited(house)[0][1] == "node.renew"


def test_a_wrong_secret_and_a_wrong_token_are_told_the_same(house: Hall) -> None:
    candidate = Candidate(name="n1", signing_request="", facts=facts(house.clock()))
    token, secret = house.door
    told = []
    for door in ((token, "nbcompute_" + "x" * 52), ("z" * 26, secret)):
        with pytest.raises(Unauthenticated) as refused:
            house.enrolment.enrol(*door, candidate)
        told.append(refused.value.message)
    assert told[0] == told[1]
    with pytest.raises(Unauthenticated, match="API secret"):
        house.enrolment.enrol(token, house.groups.add_user(house.root, "bo", False), candidate)
    assert house.machines.let_in == []


def test_a_rotated_secret_lets_nobody_in(house: Hall) -> None:
    _, old = house.door
    house.rotate(3600)
    house.compute_secret = old
    with pytest.raises(Unauthenticated, match="no longer"):
        house.ask()


@pytest.mark.parametrize(("off", "words"), [(600, "600 s ahead of"), (-61, "61 s behind")])
def test_a_clock_that_is_off_is_refused_with_the_difference(
    house: Hall, off: float, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        house.ask(clock=house.clock() + off)
    assert "NTP" in refused.value.hint
    house.ask(clock=house.clock() + 60)


@pytest.mark.parametrize("name", ["", "-a", "a b", "ä", "a/b", "x" * 64, "a\n"])
def test_bad_names_are_refused(house: Hall, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name"):
        house.ask(name)


def test_a_scheduler_without_nodes_says_so(house: Hall) -> None:
    enrolment = Enrolment(house.db, {"local": FakeConnector()}, house.access, house.clock)
    candidate = Candidate(name="n1", signing_request="", facts=facts(house.clock()))
    with pytest.raises(Conflict, match="takes no nodes"):
        enrolment.enrol(*house.door, candidate)


def test_a_rotation_while_the_scheduler_is_asked_keeps_the_machine_out(house: Hall) -> None:
    house.ask("n0")
    with (
        at(Point.ENROL_ADMITTED, lambda: house.groups.rotate_compute_secret(house.root, 3600)),
        pytest.raises(Unauthenticated),
    ):
        house.ask("n1")
    assert [one.name for one in house.nodes.list(house.root)] == ["n0"]


def test_two_first_nodes_end_up_in_one_generation(house: Hall) -> None:
    with at(Point.ENROL_ADMITTED, lambda: house.ask("n2")):
        house.ask("n1")
    generations = {house.stored(name).generation for name in ("n1", "n2")}
    assert generations == {house.group.generation}
    # What n1 was handed is of that generation, not of the one it had lost with.
    assert house.machines.let_in[-1].name == "n1"
    assert house.machines.let_in[-1].generation == house.group.generation


def test_an_enrolment_while_a_rotation_is_being_stored(
    house: Hall, other: Callable[[Callable[[], object]], Other]
) -> None:
    house.ask("n0")
    machine = other(lambda: house.ask("n1"))
    with at(Point.ROTATE_BEFORE_COMMIT, machine.begin):
        house.groups.rotate_compute_secret(house.root, 3600)
    with pytest.raises(Unauthenticated):
        machine.end()
    assert [one.name for one in house.nodes.list(house.root)] == ["n0"]


def test_a_rotation_while_an_enrolment_is_being_stored(
    house: Hall, other: Callable[[Callable[[], object]], Other]
) -> None:
    """The node was in time: it is of the generation before, within the overlap."""

    def rotate() -> None:
        house.db.read(audit.find)
        house.groups.rotate_compute_secret(house.root, 3600)

    admin = other(rotate)
    with at(Point.ENROL_BEFORE_COMMIT, admin.begin):
        house.ask("n1")
    admin.end()
    group = house.group
    assert house.stored("n1").generation == group.previous_generation
    assert group.generation not in (None, group.previous_generation)


def test_two_rotations_at_once_leave_the_secret_of_one(
    house: Hall, other: Callable[[Callable[[], object]], Other]
) -> None:
    house.ask("n1")
    first = house.group.generation
    secrets = []

    def rotate() -> None:
        house.db.read(audit.find)
        secrets.append(house.groups.rotate_compute_secret(house.root, 3600))

    second = other(rotate)
    with at(Point.ROTATE_BEFORE_COMMIT, second.begin):
        between = house.groups.rotate_compute_secret(house.root, 3600)
    second.end()
    group = house.group
    # The one that waited built on what the other had stored.
    assert group.previous_generation not in (None, first, group.generation)
    assert house.groups.is_compute_secret(house.root, secrets[0])
    assert not house.groups.is_compute_secret(house.root, between)
