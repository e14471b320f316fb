"""Nodes are compared with what was enrolled; what does not fit, or fails, gets no jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bridge.db import attempts, audit
from bridge.db import nodes as nodes_db
from bridge.db.engine import Database
from bridge.errors import Conflict, ConnectorUnavailable, Forbidden, NotFound
from bridge.models.attempt import AttemptSpec, AttemptState, Cause, Observation, Observed
from bridge.models.job import Job, JobState
from bridge.models.node import NodeState, NodeStatus
from tests.integration.core.machines import QUARANTINE_FAILURES, Hall


@pytest.fixture
def house(db: Database) -> Iterator[Hall]:
    built = Hall(db)
    yield built
    built.feeder.close()


def state(house: Hall, name: str = "n1") -> NodeState:
    return house.nodes.get(house.root, name).state


def why(house: Hall, name: str = "n1") -> str:
    return house.nodes.get(house.root, name).reason or ""


def actions(house: Hall) -> list[str]:
    entries = house.db.read(lambda conn: audit.find(conn, house.group.id))
    return [one.action for one in entries]


def last_spec(house: Hall) -> AttemptSpec:
    return house.machines.specs[house.machines.submits[-1]]


def end(house: Hall, job: Job, cause: Cause | None, node: str = "n1") -> None:
    """The job runs on a node and ends so."""
    house.feeder.step()
    for handle in list(house.machines.shown):
        if job.id.hex in handle.native_id:
            house.machines.shown = {handle: house.machines.shown[handle]}
    house.machines.show(Observed.ENDED, cause=cause, node=node, reason=f"was {cause}")
    house.reconciler.step()


class TestWhoTakesJobs:
    def test_what_another_leader_let_in_again_stays_so(
        self, house: Hall, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.join()
        house.rotate(0)
        change = house.watch._change

        def paused_after(*args: Any, **values: Any) -> None:
            change(*args, **values)
            house.db.write(lambda conn: nodes_db.change(conn, house.stored().id, barred=None))

        monkeypatch.setattr(house.watch, "_change", paused_after)
        house.watch.step()
        assert actions(house)[0] == "node.bar"
        assert house.machines.calls == []

    def test_a_node_is_bound_to_its_machine(self, house: Hall) -> None:
        house.ask()
        assert state(house) is NodeState.ENROLLED
        house.machines.register("m1", "n1", house.group.generation)
        house.watch.step()
        assert house.stored().native_id == "m1"
        assert state(house) is NodeState.READY
        assert house.machines.calls == []

    def test_nobody_is_touched_where_no_node_was_ever_enrolled(self, house: Hall) -> None:
        house.machines.register("own", "operators", None)
        house.watch.step()
        assert house.machines.calls == []
        [found] = house.nodes.list(house.root)
        assert (found.name, found.state) == ("operators", NodeState.READY)

    def test_strangers_are_made_ineligible_and_listed(self, house: Hall) -> None:
        house.join()
        house.machines.register("m2", "nosy", house.group.generation)
        house.machines.register("m3", "n1", house.group.generation)
        house.machines.register("m4", "elsewhere", None, node_pool="g-other")
        house.watch.step()
        assert sorted(house.machines.calls) == [("ineligible", "m2"), ("ineligible", "m3")]
        found = [(one.name, one.state) for one in house.nodes.list(house.root)]
        assert found == [
            ("n1", NodeState.READY),
            ("n1", NodeState.STRANGER),
            ("nosy", NodeState.STRANGER),
        ]
        assert "never enrolled" in why(house, "nosy")
        assert "another machine" in (house.nodes.list(house.root)[1].reason or "")
        assert actions(house).count("node.bar") == 2

    def test_a_stranger_that_enrols_gets_jobs(self, house: Hall) -> None:
        house.join("n0")
        house.machines.register("m1", "n1", None)
        house.watch.step()
        house.ask("n1")
        house.machines.change("m1", generation=house.group.generation)
        house.watch.step()
        assert house.machines.views["m1"].eligible
        house.watch.step()
        assert house.stored().barred is None

    def test_a_node_in_another_pool_is_made_ineligible(self, house: Hall) -> None:
        house.ask()
        house.machines.register("m1", "n1", house.group.generation, node_pool="default")
        house.watch.step()
        assert not house.machines.views["m1"].eligible
        assert "pool 'default'" in why(house)

    def test_a_machine_set_up_anew_takes_its_place(self, house: Hall) -> None:
        house.join()
        house.machines.change("id-n1", status=NodeStatus.DOWN)
        house.machines.register("m2", "n1", house.group.generation)
        house.watch.step()
        assert house.stored().native_id == "m2"
        assert house.machines.views["m2"].eligible

    def test_a_renamed_machine_has_to_enrol(self, house: Hall) -> None:
        house.join()
        house.machines.change("id-n1", name="other")
        house.watch.step()
        assert state(house, "other") is NodeState.STRANGER
        assert state(house) is NodeState.DOWN

    def test_what_an_operator_does_is_left_alone(self, house: Hall) -> None:
        house.join()
        house.machines.change("id-n1", eligible=False)
        house.watch.step()
        assert not house.machines.views["id-n1"].eligible
        assert state(house) is NodeState.INELIGIBLE
        assert "at the scheduler" in why(house)

    def test_a_call_that_failed_is_made_again(self, house: Hall) -> None:
        house.join()
        house.rotate(0)
        house.machines.away = True
        house.watch.step()
        house.machines.away = False
        house.watch.step()
        assert house.machines.views["id-n1"].eligible  # not asked again at once
        house.pass_time(2)
        house.watch.step()
        assert not house.machines.views["id-n1"].eligible


class TestRotation:
    def test_with_overlap_old_nodes_go_on_until_its_end(self, house: Hall) -> None:
        house.join()
        first = house.group.generation
        house.rotate(3600)
        second = house.group.generation
        house.watch.step()
        assert house.machines.views["id-n1"].eligible
        house.submit()
        house.feeder.step()
        assert last_spec(house).generations == (second, first)
        house.pass_time(3601)
        house.watch.step()
        assert not house.machines.views["id-n1"].eligible
        assert "rotated" in why(house)

    def test_without_overlap_at_once(self, house: Hall) -> None:
        house.join()
        house.rotate(0)
        house.watch.step()
        assert house.machines.calls == [("ineligible", "id-n1")]
        house.submit()
        house.feeder.step()
        assert last_spec(house).generations == (house.group.generation,)

    def test_a_node_that_enrols_anew_gets_jobs_again(self, house: Hall) -> None:
        house.join()
        house.rotate(0)
        house.watch.step()
        house.ask()
        assert not house.nodes.get(house.root, "n1").generation_current
        house.machines.change("id-n1", generation=house.group.generation)
        house.watch.step()
        assert house.machines.views["id-n1"].eligible
        house.watch.step()
        assert house.stored().barred is None
        assert actions(house)[0] == "node.unbar"

    def test_no_generation_before_the_first_node(self, house: Hall) -> None:
        house.rotate(3600)
        house.submit()
        house.feeder.step()
        assert house.group.generation is None
        assert last_spec(house).generations == ()

    def test_what_waits_is_handed_over_anew(self, house: Hall) -> None:
        house.join()
        job = house.submit()
        house.step()
        house.rotate(0)
        house.watch.step()
        house.reconciler.step()  # asks the scheduler to stop it
        house.machines.show(Observed.ENDED, cause=Cause.CANCELED)
        house.reconciler.step()
        assert house.job(job).state is JobState.RECEIVED
        house.feeder.step()
        assert last_spec(house).number == 2
        assert last_spec(house).generations == (house.group.generation,)
        house.watch.step()
        [_, second] = house.db.read(lambda conn: attempts.of_job(conn, job.id))
        assert second.stop_cause is None
        assert house.jobs.get(house.root, job.id).retries == 0

    def test_what_runs_goes_on(self, house: Hall) -> None:
        house.join()
        job = house.submit()
        house.feeder.step()
        house.machines.show(Observed.RUNNING, node="n1")
        house.reconciler.step()
        house.rotate(0)
        house.watch.step()
        [one] = house.db.read(lambda conn: attempts.of_job(conn, job.id))
        assert (one.state, one.stop_cause) == (AttemptState.RUNNING, None)

    def test_what_began_since_the_last_look_goes_on(self, house: Hall) -> None:
        house.join()
        jobs = [house.submit(), house.submit()]
        house.step()
        placed, started = house.machines.shown
        house.machines.shown[placed] = Observation(state=Observed.PENDING, node="n1")
        house.machines.shown[started] = Observation(state=Observed.RUNNING, node="n1")
        house.rotate(0)
        house.watch.step()
        for job in jobs:
            [one] = house.db.read(lambda conn: attempts.of_job(conn, job.id))  # noqa: B023
            assert one.stop_cause is None

    def test_nothing_is_taken_back_while_the_scheduler_cannot_be_asked(self, house: Hall) -> None:
        house.join()
        job = house.submit()
        house.step()
        house.rotate(0)
        for away, cause in ((True, None), (False, Cause.WITHDRAWN)):
            house.machines.away = away
            house.watch.step()
            [one] = house.db.read(lambda conn: attempts.of_job(conn, job.id))
            assert one.stop_cause is cause
            house.pass_time(2)

    def test_a_hand_over_under_way_is_taken_back_too(self, house: Hall) -> None:
        """The feeder looked at the group before the rotation, and submits after it."""
        house.join()
        first = house.group.generation
        job = house.submit()
        house.machines.before_submit = lambda spec: house.rotate(0)
        house.feeder.step()
        assert last_spec(house).generations == (first,)
        house.watch.step()
        [one] = house.db.read(lambda conn: attempts.of_job(conn, job.id))
        assert one.stop_cause is Cause.WITHDRAWN


class TestQuarantine:
    def fail(self, house: Hall, *causes: Cause | None) -> None:
        for cause in causes:
            end(house, house.submit(), cause)

    def test_after_failures_in_a_row(self, house: Hall) -> None:
        house.join()
        self.fail(house, Cause.STORAGE, Cause.INTERNAL)
        house.watch.step()
        assert state(house) is NodeState.READY
        self.fail(house, Cause.NODE_LOST)
        house.watch.step()
        assert state(house) is NodeState.QUARANTINED
        assert not house.machines.views["id-n1"].eligible
        assert f"{QUARANTINE_FAILURES} attempts in a row" in why(house)
        assert "node_lost: was node_lost" in why(house)
        assert {"node.quarantine", "node.bar"} <= set(actions(house))

    def test_the_users_own_faults_do_not_count(self, house: Hall) -> None:
        house.join()
        self.fail(house, Cause.STORAGE, Cause.STORAGE, Cause.EXIT, Cause.STORAGE, Cause.STORAGE)
        self.fail(house, *[Cause.INPUT_MISSING, Cause.IMAGE_MISSING] * 3)
        house.watch.step()
        assert (state(house), house.stored().failures) == (NodeState.READY, 2)

    def test_of_another_node_say_nothing(self, house: Hall) -> None:
        house.join()
        for _ in range(QUARANTINE_FAILURES):
            end(house, house.submit(), Cause.STORAGE, node="n2")
        house.watch.step()
        assert house.stored().failures == 0

    def test_enrolling_anew_does_not_end_it_and_resuming_does(self, house: Hall) -> None:
        house.join()
        self.fail(house, *[Cause.STORAGE] * QUARANTINE_FAILURES)
        house.watch.step()
        house.ask()
        house.watch.step()
        assert state(house) is NodeState.QUARANTINED
        report = house.nodes.resume(house.root, "n1")
        assert (report.state, report.node and report.node.failures) == (NodeState.READY, 0)
        house.watch.step()
        assert house.machines.views["id-n1"].eligible
        assert house.stored().barred is None

    def test_the_storages_absence_does_not_cost_a_node_for_good(self, house: Hall) -> None:
        house.join()
        self.fail(house, *[Cause.STORAGE] * QUARANTINE_FAILURES)
        for pause in (899, 2):
            house.watch.step()
            assert state(house) is NodeState.QUARANTINED
            assert why(house).endswith("it is tried again soon")
            house.pass_time(pause)
        house.watch.step()
        assert state(house) is NodeState.READY
        assert house.machines.views["id-n1"].eligible
        assert "node.try-again" in actions(house)
        # One more is too many again; a success counts anew.
        self.fail(house, Cause.STORAGE)
        house.watch.step()
        assert state(house) is NodeState.QUARANTINED

    def test_what_is_the_nodes_own_fault_does_not_pass(self, house: Hall) -> None:
        house.join()
        self.fail(house, *[Cause.STORAGE] * (QUARANTINE_FAILURES - 1), Cause.INTERNAL)
        house.watch.step()
        house.pass_time(86_400)
        house.watch.step()
        assert state(house) is NodeState.QUARANTINED


class TestSteering:
    def test_drain_and_resume(self, house: Hall) -> None:
        house.join()
        report = house.nodes.drain(house.root, "n1", 60)
        assert (report.state, report.reason) == (NodeState.DRAINING, "drained by root")
        house.machines.change("id-n1", draining=False)
        house.watch.step()
        assert state(house) is NodeState.INELIGIBLE
        assert house.nodes.resume(house.root, "n1").state is NodeState.READY
        assert house.machines.calls == [("drain 60", "id-n1"), ("eligible", "id-n1")]

    def test_a_look_that_began_before_a_resume_does_not_undo_it(self, house: Hall) -> None:
        house.join()
        house.nodes.drain(house.root, "n1", 60)
        house.nodes.resume(house.root, "n1")
        house.machines.change("id-n1", eligible=False)  # what such a look asked for
        house.watch.step()
        assert house.machines.views["id-n1"].eligible

    def test_what_is_old_cannot_be_resumed(self, house: Hall) -> None:
        house.join()
        house.rotate(0)
        house.watch.step()
        with pytest.raises(Conflict, match="rotated"):
            house.nodes.resume(house.root, "n1")

    def test_remove(self, house: Hall) -> None:
        house.join()
        house.machines.change("id-n1", attempts=2)
        with pytest.raises(Conflict, match="2 attempts"):
            house.nodes.remove(house.root, "n1")
        house.machines.change("id-n1", attempts=0)
        assert house.nodes.remove(house.root, "n1").state is NodeState.REMOVED
        assert house.machines.views == {}
        assert house.nodes.list(house.root) == []
        house.machines.register("id-n1", "n1", house.group.generation)
        house.watch.step()
        assert not house.machines.views["id-n1"].eligible
        house.ask()
        house.watch.step()
        assert state(house) is NodeState.READY

    def test_unknown_names_and_other_callers(self, house: Hall) -> None:
        house.join()
        with pytest.raises(NotFound):
            house.nodes.get(house.root, "n9")
        for act in (
            lambda: house.nodes.list(house.ada),
            lambda: house.nodes.drain(house.ada, "n1", 1),
            lambda: house.nodes.resume(house.ada, "n1"),
            lambda: house.nodes.remove(house.ada, "n1"),
        ):
            with pytest.raises(Forbidden):
                act()

    def test_nodes_of_another_group_are_none_of_ours(self, house: Hall) -> None:
        house.join()
        _, secret = house.groups.add_group("beta", "eve", connector="local", node_pool="g-lab")
        eve = house.access.by_secret(secret)
        assert house.nodes.list(eve) == []
        with pytest.raises(NotFound):
            house.nodes.drain(eve, "n1", 1)

    def test_a_scheduler_that_is_away(self, house: Hall) -> None:
        house.join()
        house.machines.away = True
        with pytest.raises(ConnectorUnavailable):
            house.nodes.list(house.root)

    def test_a_group_can_require_limits(self, house: Hall) -> None:
        house.groups.require_limits(house.root, True)
        house.submit()
        house.feeder.step()
        assert last_spec(house).requires_limits
