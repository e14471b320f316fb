"""Pages of a scheduler's own web interface are for admins."""

from __future__ import annotations

import pytest

from bridge.core.pages import Pages
from bridge.models.attempt import Handle
from bridge.models.identity import Caller, Role
from tests.support.fake_connector import FakeConnector
from tests.support.fake_core import FakeBridge
from tests.unit.core.test_verdict import attempt, job


class Linked(FakeConnector):
    def job_url(self, handle: Handle) -> str | None:
        return f"ui:{handle.namespace}/{handle.native_id}"

    def node_url(self, node_id: str) -> str | None:
        return f"ui:{node_id}"


GROUP = FakeBridge().alpha
ADMIN = Caller(group=GROUP, role=Role.ADMIN, user=None)


def pages(connector: FakeConnector) -> Pages:
    return Pages({GROUP.connector: connector}, lambda job_id, number: f"b-{number}")


def test_an_admin_is_led_to_the_last_attempt_and_to_each_one() -> None:
    linked = pages(Linked())
    assert linked.of_job(ADMIN, job(attempt=2)) == f"ui:{GROUP.namespace}/b-2"
    assert linked.of_job(ADMIN, job(attempt=0)) is None
    one = attempt(connector=GROUP.connector, native_id="b-1", namespace="g-old")
    assert linked.of_attempt(ADMIN, one) == "ui:g-old/b-1"


@pytest.mark.parametrize("role", [Role.MEMBER, Role.READER])
def test_others_are_not(role: Role) -> None:
    caller = Caller(group=GROUP, role=role, user=None)
    one = attempt(connector=GROUP.connector)
    assert pages(Linked()).of_job(caller, job(attempt=1)) is None
    assert pages(Linked()).of_attempt(caller, one) is None


def test_a_scheduler_without_such_pages_has_none() -> None:
    assert pages(FakeConnector()).of_job(ADMIN, job(attempt=1)) is None
    # Of a connector that is not configured any more.
    assert pages(Linked()).of_attempt(ADMIN, attempt(connector="gone")) is None
