from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from bridge.models.job import JobState
from tests.support.fake_core import NOW, FakeBridge
from tests.support.http import Door, assert_canonical_error, submission

VERBS = ["cancel", "hold", "release", "retry", "prune"]


def submitted(door: Door, name: str, count: int) -> list[dict[str, Any]]:
    items = [submission(set=name) for _ in range(count)]
    return list(door.post("/v1/jobs", items).get_json())


def ended(bridge: FakeBridge, job: dict[str, Any], state: JobState) -> None:
    bridge.jobs.change(bridge.jobs.jobs[UUID(job["id"])], state=state, ended_at=NOW)


def test_sets_are_counted_by_state(ben: Door, bridge: FakeBridge) -> None:
    first, *_ = submitted(ben, "water", 3)
    submitted(ben, "acids", 1)
    ben.post("/v1/jobs", submission())
    ended(bridge, first, JobState.COMPLETED)
    water = {
        "name": "water",
        "jobs": {"completed": 1, "received": 2},
        "first_at": "2026-01-01T00:00:00.250Z",
        "last_at": "2026-01-01T00:00:00.250Z",
    }
    acids, seen = ben.get("/v1/sets").get_json()["sets"]
    assert (acids["name"], acids["jobs"]) == ("acids", {"received": 1})
    assert seen == water
    assert ben.get("/v1/sets/water").get_json() == water


def test_a_member_sees_the_own_jobs_of_a_set_and_an_admin_all(
    ben: Door, cleo: Door, anna: Door, bert: Door
) -> None:
    submitted(ben, "shared", 2)
    submitted(cleo, "shared", 3)
    counts = [door.get("/v1/sets/shared").get_json()["jobs"] for door in (ben, cleo, anna)]
    assert counts == [{"received": 2}, {"received": 3}, {"received": 5}]
    assert bert.get("/v1/sets").get_json() == {"sets": [], "next": None}
    assert_canonical_error(bert.get("/v1/sets/shared"), 404)


def test_sets_come_in_pages(ben: Door) -> None:
    for name in ("b", "größe", "a", "c/d"):
        submitted(ben, name, 1)
    seen, cursor = [], ""
    while cursor is not None:
        after = f"&cursor={quote(cursor, safe='')}" if cursor else ""
        page = ben.get(f"/v1/sets?limit=3{after}").get_json()
        seen.append([one["name"] for one in page["sets"]])
        cursor = page["next"]
    assert seen == [["a", "b", "c/d"], ["größe"]]
    assert_canonical_error(ben.get("/v1/sets?limit=0"), 422, "limit")
    assert_canonical_error(ben.get("/v1/sets?cursor=%00"), 422, "cursor")
    assert_canonical_error(ben.get("/v1/sets?colour=red"), 422, "colour")


def test_a_set_explains_itself(ben: Door) -> None:
    submitted(ben, "a/b", 2)
    assert ben.get("/v1/sets/a%2Fb/explain").get_json() == {
        "explanation": "Of a/b: 0 jobs are ahead.",
        "ahead": 0,
        "details": {"cores_free": 2},
    }


def test_the_runs_of_a_set_come_job_by_job(ben: Door, anna: Door, bridge: FakeBridge) -> None:
    first, second, _ = submitted(ben, "s", 3)
    for job, count in ((first, 1), (second, 2)):
        bridge.jobs.change(bridge.jobs.jobs[UUID(job["id"])], attempt=count)
    page = ben.get("/v1/sets/s/attempts?limit=1").get_json()
    assert [(run["job"], run["number"]) for run in page["attempts"]] == [
        (second["id"], 1),
        (second["id"], 2),
    ]
    rest = ben.get(f"/v1/sets/s/attempts?limit=1&cursor={page['next']}").get_json()
    assert [(run["job"], run["number"]) for run in rest["attempts"]] == [(first["id"], 1)]
    assert rest["next"] is None
    assert rest["attempts"][0]["native_id"] is None
    [*_, seen] = anna.get("/v1/sets/s/attempts").get_json()["attempts"]
    assert seen["native_id"] and seen["ui_url"]


@pytest.mark.parametrize("what", ["explain", "attempts"])
def test_a_set_may_have_the_name_of_a_question(ben: Door, what: str) -> None:
    submitted(ben, what, 1)
    submitted(ben, f"a/{what}", 1)
    assert ben.get(f"/v1/sets/{what}").get_json()["name"] == what
    assert ben.get(f"/v1/sets/a%2F{what}").get_json()["name"] == f"a/{what}"
    assert ben.get(f"/v1/sets/a%2F{what}/{what}").status_code == 200
    assert ben.get(f"/v1/sets/{what}/{what}").status_code == 200
    assert_canonical_error(ben.get(f"/v1/sets/a/{what}"), 404)


def test_verbs_say_how_many_jobs_changed(ben: Door, bridge: FakeBridge) -> None:
    failed, *_ = submitted(ben, "s", 3)
    ended(bridge, failed, JobState.FAILED)
    for verb, changed in (
        ("hold", 2),
        ("hold", 0),
        ("release", 2),
        ("retry", 1),
        ("cancel", 3),
        ("prune", 3),
    ):
        response = ben.post(f"/v1/sets/s/{verb}")
        assert response.status_code == 200
        assert response.get_json() == {"set": "s", "changed": changed}, verb
    assert all(job.prune_requested_at for job in bridge.jobs.jobs.values())


@pytest.mark.parametrize(
    "name",
    ["a b", "größe", "a/b", "/a", "a/", "a//b", "..", "cancel", "a/cancel", "?", "%2F", "{}"],
)
def test_any_name_that_is_taken_is_found_again(ben: Door, name: str) -> None:
    submitted(ben, name, 1)
    path = f"/v1/sets/{quote(name, safe='')}"
    assert ben.get(path).get_json()["name"] == name
    assert ben.post(f"{path}/cancel").get_json() == {"set": name, "changed": 1}


@pytest.mark.parametrize("name", ["nothing", "%00", "%0a", "%E2%80%A8", "x" * 256])
def test_unknown_and_impossible_names_are_404(ben: Door, name: str) -> None:
    assert_canonical_error(ben.get(f"/v1/sets/{name}"), 404)
    for verb in VERBS:
        assert_canonical_error(ben.post(f"/v1/sets/{name}/{verb}"), 404)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_take_no_fields(ben: Door, bridge: FakeBridge, verb: str) -> None:
    submitted(ben, "s", 1)
    before = dict(bridge.jobs.jobs)
    assert_canonical_error(ben.post(f"/v1/sets/s/{verb}", {"force": True}), 422, "$.force")
    assert bridge.jobs.jobs == before
    assert ben.post(f"/v1/sets/s/{verb}", {}).status_code == 200


def test_an_unknown_verb_is_no_action(ben: Door) -> None:
    submitted(ben, "s", 1)
    assert_canonical_error(ben.post("/v1/sets/s/delete"), 405, "GET")


def test_sets_need_a_member(reader: Door, nobody: Door) -> None:
    for path in ("/v1/sets", "/v1/sets/s", "/v1/sets/s/explain", "/v1/sets/s/attempts"):
        assert_canonical_error(reader.get(path), 403)
        assert_canonical_error(nobody.get(path), 401)
    assert_canonical_error(reader.post("/v1/sets/s/cancel"), 403)
