"""The loops and threads of a service that goes on, or ends, when it cannot do its work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from bridge.app import Bridge, build
from bridge.config import Config, load
from bridge.core.patience import Act
from bridge.daemon import Service, loops
from bridge.db import instance
from bridge.db.engine import Database
from bridge.errors import ConnectorUnavailable, DatabaseReplaced, NotReady
from bridge.models.job import JobState, NewJob
from bridge.watcher import Watcher
from tests.support.poll import eventually


@pytest.fixture
def config(tmp_path: Path) -> Config:
    flags = {
        "data_dir": tmp_path,
        "server.bind": "127.0.0.1:0",
        "storage.embedded": False,
        "local.runtime": "process",
        "queue.lease_s": 1.0,
    }
    return load(None, {}, flags)


@pytest.fixture
def bridge(config: Config) -> Iterator[Bridge]:
    built = build(config)
    yield built
    built.close()


def findings(bridge: Bridge) -> list[tuple[bool, str, str]]:
    return [(one.ok, one.detail, one.remedy) for one in bridge.ready() if "connector" in one.what]


DENIED = ConnectorUnavailable("Permission denied", "The token lacks purge-job.", 30, narrow=True)


class TestReadiness:
    def test_says_where_what_is_missing(self, bridge: Bridge) -> None:
        bridge.leader.step()
        assert findings(bridge) == [(True, "", "")]
        bridge.patience.failed("local", Act.FORGET, DENIED, "g-lab", "bridge-t-1")
        assert [one.degrades for one in bridge.ready() if not one.ok] == [True]
        [(ok, detail, remedy)] = findings(bridge)
        assert (ok, detail) == (False, "in g-lab: Permission denied")
        assert remedy.startswith("The token lacks purge-job.")

    def test_another_reign_begins_without_the_faults_of_the_last(
        self, config: Config, bridge: Bridge
    ) -> None:
        bridge.leader.step()
        bridge.patience.failed("local", Act.LOOK, DENIED, "g-lab")
        bridge.tidings.tell()
        bridge.leader.release()
        [lead] = [loop for loop in loops(bridge, config, str) if loop.name == "leader"]
        lead._act()
        assert bridge.leader.leads
        assert findings(bridge) == [(True, "", "")]

    def test_says_that_nobody_leads(self, bridge: Bridge) -> None:
        [role] = [one for one in bridge.ready() if one.what == "role"]
        assert (role.ok, role.degrades) == (False, True)
        assert "no process leads" in role.detail
        assert "takes over within seconds" in role.remedy

    def test_says_which_connectors_are_missing(self, bridge: Bridge) -> None:
        bridge.leader.step()
        bridge.groups.add_group("lab", "ada", connector="slurm")
        [missing] = [one for one in bridge.ready() if one.what == "connector slurm"]
        assert (missing.ok, missing.degrades) == (False, True)
        assert missing.detail == "it is not configured, and there is 1 group to be served by it"
        assert missing.remedy.startswith("Name slurm in `connectors` of the configuration again.")


class TestTwoProcesses:
    @pytest.fixture
    def pair(self, config: Config, bridge: Bridge) -> Iterator[tuple[Bridge, Bridge]]:
        """One that leads, and one that follows."""
        with Service(config) as one:
            eventually(lambda: one.bridge.leader.leads)
            yield one.bridge, bridge

    def test_both_say_what_the_leader_met(self, pair: tuple[Bridge, Bridge]) -> None:
        one, two = pair
        one.patience.failed("local", Act.FORGET, DENIED, "g-lab", "bridge-t-1")
        eventually(lambda: not all(ok for ok, _, _ in findings(two)))
        assert findings(two) == findings(one)
        assert [finding.detail for finding in two.ready() if finding.what == "role"] == ["follower"]
        one.patience.worked("local", Act.FORGET, "g-lab")
        eventually(lambda: findings(two) == findings(one) == [(True, "", "")])

    def test_both_explain_by_it(self, pair: tuple[Bridge, Bridge]) -> None:
        one, two = pair
        group, secret = one.groups.add_group("lab", "ada", connector="local")
        one.groups.rotate_compute_secret(one.access.by_secret(secret))
        ada = one.access.by_secret(secret)
        one.patience.failed("local", Act.FEED, DENIED, group.name)
        job = one.jobs.submit(ada, NewJob(bucket_id=uuid4(), image="a:1"))

        def said(bridge: Bridge) -> str:
            return bridge.jobs.explain(ada, job.id).sentence

        eventually(lambda: "now: Permission denied." in said(two))
        assert said(one) == said(two)


def test_a_reign_begins_with_what_others_handed_over(
    config: Config, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    monkeypatch.setattr(bridge.feeder, "begin", lambda: begun.append(bridge.leader.leads))
    [lead] = [loop for loop in loops(bridge, config, str) if loop.name == "leader"]
    for _ in range(2):
        lead._act()
    assert begun == [True]


def test_it_ends_when_its_database_was_replaced(config: Config) -> None:
    with Service(config) as service:
        eventually(lambda: service.bridge.leader.leads)
        other = Database(config.database.url)
        other.write(lambda conn: instance.start_epoch(conn, above=1, now=2.0))
        with pytest.raises(DatabaseReplaced, match="while this process ran"):
            service.wait()
        assert not service.bridge.leader.leads
        other.close()


def test_it_ends_well_when_it_is_asked_to(config: Config) -> None:
    ended = threading.Event()
    with Service(config, ended) as service:
        ended.set()
        service.wait()


def test_a_fault_of_a_watch_is_not_its_end(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.watcher._AGAIN_S", 0.01)
    calls: list[int] = []

    class Faulty:
        def watch(self, namespaces: object, changed: object, stopped: threading.Event) -> None:
            calls.append(1)
            if len(calls) < 3:
                raise RuntimeError("a fault of ours")
            stopped.wait()

    nothing: Callable[[], None] = lambda: None  # noqa: E731
    watcher = Watcher(bridge, "local", Faulty(), nothing)
    watcher.start()
    eventually(lambda: len(calls) == 3)
    watcher.stop()
    watcher.join(5)
    assert not watcher.is_alive()


def test_jobs_that_nobody_can_run_are_refused(bridge: Bridge) -> None:
    _, secret = bridge.groups.add_group("lab", "ada", connector="slurm")
    bridge.groups.rotate_compute_secret(bridge.access.by_secret(secret))
    new = NewJob(bucket_id=uuid4(), image="a:1")
    for submit in (bridge.jobs.submit, lambda caller, job: bridge.jobs.submit_many(caller, [job])):
        with pytest.raises(NotReady, match="connector slurm, for which this service") as refused:
            submit(bridge.access.by_secret(secret), new)
        assert "groups move" in refused.value.hint
    bridge.groups.move_group("lab", "local")
    assert bridge.jobs.submit(bridge.access.by_secret(secret), new).state is JobState.RECEIVED


def test_a_missing_connector_is_logged(
    config: Config, bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    bridge.groups.add_group("lab", "ada", connector="slurm")
    with Service(config):
        eventually(lambda: "what=connector slurm fault=it is not configured" in caplog.text)
    assert "hint=Name slurm in" in caplog.text


def test_an_early_forgetting_is_warned_of(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Service(config):
        assert "forget_after_s" not in caplog.text
    flags = {
        "data_dir": tmp_path,
        "server.bind": "127.0.0.1:0",
        "storage.embedded": False,
        "queue.forget_after_s": 0,
    }
    with Service(load(None, {}, flags)):
        assert "forget_after_s=0" in caplog.text
