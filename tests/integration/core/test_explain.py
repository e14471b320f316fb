"""What is said of a job whose scheduler, or whose node, is in trouble."""

from __future__ import annotations

import pytest

from bridge.connectors.base import Connector
from bridge.core.outlook import Outlook
from bridge.db import instance
from bridge.models.attempt import Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState
from tests.integration.core.conftest import House
from tests.integration.core.scenes import running
from tests.support.picky_connector import RETRY_S, PickyConnector

LAB = "g-lab"


@pytest.fixture
def scheduler() -> PickyConnector:
    return PickyConnector()


def said(house: House, job: Job, caller: Caller | None = None) -> str:
    house.pass_time(2)  # what was seen of the pool is old
    return house.jobs.explain(caller or house.ada, job.id).sentence


class TestWhatRuns:
    def test_on_a_node_that_is_out_of_touch(self, house: House) -> None:
        job = running(house)
        house.scheduler.show(Observed.UNKNOWN, node="n1")
        house.step()
        assert said(house, job) == "It runs, phase executing: node n1 is out of touch."

    def test_while_the_scheduler_is_away(self, house: House) -> None:
        job = running(house)
        house.scheduler.away = True
        assert said(house, job) == (
            "It runs, phase executing. The connector local cannot be asked now: "
            "the fake scheduler is away."
        )

    def test_where_looking_is_refused(self, house: House, scheduler: PickyConnector) -> None:
        job = running(house)
        scheduler.refuse("poll", LAB)
        house.step()
        assert said(house, job).endswith(
            "cannot be asked now: Nomad refuses to poll: Permission denied."
        )
        scheduler.allow()
        house.pass_time(RETRY_S)
        house.step()
        assert said(house, job) == "It runs, phase executing."


class TestWhatCannotBeHandedOver:
    @pytest.fixture
    def claimed(self, house: House, scheduler: PickyConnector) -> Job:
        scheduler.refuse("submit", LAB)
        job = house.submit()
        house.step()
        assert house.job(job).state is JobState.SUBMITTED
        return job

    def test_is_not_said_to_be_handed_over(
        self, house: House, scheduler: PickyConnector, claimed: Job
    ) -> None:
        assert said(house, claimed) == (
            "The connector local has not taken it yet, as attempt 1: Nomad refuses to submit: "
            "Permission denied. The hand-over is repeated until it does."
        )
        scheduler.allow()
        house.pass_time(61)  # the claim has run out
        house.step()
        assert said(house, claimed).startswith("It was handed over to local as attempt 1: ")

    def test_another_process_knows_that_it_was_not_taken(
        self, house: House, scheduler: PickyConnector, claimed: Job
    ) -> None:
        connectors: dict[str, Connector] = {"local": scheduler}
        follower = Outlook(house.db, connectors, clock=house.clock)
        assert follower.explain(house.job(claimed), house.ada.group).sentence == (
            "The connector local has not taken it yet, as attempt 1. "
            "The hand-over is repeated until it does."
        )

    @pytest.mark.usefixtures("claimed")
    def test_the_next_waits_for_the_same(self, house: House) -> None:
        assert said(house, house.submit()) == (
            "The connector local takes no jobs now: Nomad refuses to submit: Permission denied. "
            "No job is ahead of it."
        )

    @pytest.mark.usefixtures("claimed")
    def test_after_a_restore_until_every_group_was_listed(
        self, house: House, scheduler: PickyConnector
    ) -> None:
        house.db.write(instance.get_or_create)
        house.db.write(lambda conn: instance.start_epoch(conn, above=1, now=house.clock.now))
        scheduler.allow()
        scheduler.refuse("sweep", LAB)
        house.restart()
        job = house.submit()
        waits = "Nothing is handed over after a restore until all that runs at the schedulers is"
        assert said(house, job) == f"{waits} known. No job is ahead of it."
        house.reconciler.sweep()
        house.feeder.step()
        assert said(house, job).startswith(f"{waits} known: Nomad refuses to sweep: Permission")
        scheduler.allow()
        house.pass_time(RETRY_S)
        house.reconciler.sweep()
        house.feeder.step()
        assert said(house, job).startswith("It was handed over to local")

    @pytest.mark.usefixtures("claimed")
    def test_other_groups_do_not_wait_for_it(self, house: House) -> None:
        _, secret = house.groups.add_group("den", "bob", connector="local")
        house.groups.rotate_compute_secret(house.access.by_secret(secret))
        bob = house.access.by_secret(secret)
        assert "as soon as it is its turn" in said(house, house.submit(bob), bob)

    def test_all_groups_wait_for_a_scheduler_that_is_in_trouble(
        self, house: House, scheduler: PickyConnector
    ) -> None:
        scheduler.break_down(lambda call, _: call == "submit")
        house.submit()
        house.feeder.step()
        assert "takes no jobs now: cannot submit: HTTP 500." in said(house, house.submit())
