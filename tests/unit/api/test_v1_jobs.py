from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from bridge.models.job import JobState
from tests.support.fake_core import NOW, FakeBridge
from tests.support.http import Door, assert_canonical_error, submission

ACTIONS = ["cancel", "hold", "release", "retry", "prune"]
QUESTIONS = ["attempts", "explain"]


def submitted(door: Door, **changes: object) -> dict[str, Any]:
    job: dict[str, Any] = door.post("/v1/jobs", submission(**changes)).get_json()
    return job


def ended(bridge: FakeBridge, job: dict[str, Any], **changes: object) -> None:
    stored = bridge.jobs.jobs[UUID(job["id"])]
    bridge.jobs.change(stored, **{"state": JobState.COMPLETED, "ended_at": NOW, **changes})


def test_a_job_is_read_back(ben: Door) -> None:
    job = submitted(ben)
    response = ben.get(f"/v1/jobs/{job['id']}")
    assert (response.status_code, response.get_json()) == (200, job)


def test_an_admin_sees_a_members_job_with_its_bucket(ben: Door, anna: Door) -> None:
    job = submitted(ben)
    assert anna.get(f"/v1/jobs/{job['id']}").get_json()["bucket_id"] == job["bucket_id"]


@pytest.mark.parametrize("action", ["", *(f"/{name}" for name in ACTIONS + QUESTIONS)])
def test_foreign_unknown_and_impossible_ids_are_the_same_404(
    ben: Door, cleo: Door, bert: Door, action: str
) -> None:
    job_id = submitted(ben)["id"]
    told = []
    for door, asked in (
        (cleo, job_id),  # another member's
        (bert, job_id),  # another group's, asked by an admin
        (ben, str(uuid4())),
        (ben, job_id.upper().replace("-", "")),
        (ben, "1"),
        (ben, "%00"),
    ):
        path = f"/v1/jobs/{asked}{action}"
        response = door.post(path) if action[1:] in ACTIONS else door.get(path)
        told.append(assert_canonical_error(response, 404)["detail"])
    assert set(told) == {"No such job or not your job."}


def test_cancel_may_be_repeated(ben: Door) -> None:
    job = submitted(ben)
    first = ben.post(f"/v1/jobs/{job['id']}/cancel")
    again = ben.post(f"/v1/jobs/{job['id']}/cancel")
    assert first.status_code == again.status_code == 200
    assert first.get_json() == again.get_json()
    assert first.get_json()["state"] == "canceled"
    assert first.get_json()["cancel_requested_at"] == "2026-01-01T00:00:00.250Z"


def test_only_admins_are_led_to_the_schedulers_own_pages(ben: Door, anna: Door) -> None:
    job = submitted(ben)
    assert job["ui_url"] is None
    assert anna.get(f"/v1/jobs/{job['id']}").get_json()["ui_url"] == "https://nomad.test/ui/jobs/1"
    listed = anna.get("/v1/jobs").get_json()["jobs"]
    assert [one["ui_url"] for one in listed] == ["https://nomad.test/ui/jobs/1"]


def test_hold_and_release(ben: Door) -> None:
    job = submitted(ben)
    assert ben.post(f"/v1/jobs/{job['id']}/hold").get_json()["hold"] is True
    assert ben.post(f"/v1/jobs/{job['id']}/release").get_json()["hold"] is False


def test_a_failed_job_is_retried_and_a_live_one_not(ben: Door, bridge: FakeBridge) -> None:
    job = submitted(ben)
    assert_canonical_error(ben.post(f"/v1/jobs/{job['id']}/retry"), 409, "received")
    ended(bridge, job, state=JobState.FAILED)
    assert ben.post(f"/v1/jobs/{job['id']}/retry").get_json() == job


def test_attempts_show_what_happened_and_only_admins_the_schedulers_name(
    ben: Door, anna: Door, bridge: FakeBridge
) -> None:
    job = submitted(ben)
    assert ben.get(f"/v1/jobs/{job['id']}/attempts").get_json() == {"attempts": []}
    bridge.jobs.change(bridge.jobs.jobs[UUID(job["id"])], attempt=2)
    first, second = ben.get(f"/v1/jobs/{job['id']}/attempts").get_json()["attempts"]
    assert first == {
        "job": job["id"],
        "number": 1,
        "state": "ended",
        "native_id": None,
        "node": "node7",
        "claimed_at": "2026-01-01T00:00:00.250Z",
        "submitted_at": "2026-01-01T00:00:00.250Z",
        "started_at": None,
        "ended_at": "2026-01-01T00:00:00.250Z",
        "exit_code": None,
        "cause": "node_lost",
        "reason": "the node went away",
        "ui_url": None,
    }
    # It has not ended, whatever it was given up for before.
    assert (second["number"], second["state"], second["cause"]) == (2, "running", None)
    seen = anna.get(f"/v1/jobs/{job['id']}/attempts").get_json()["attempts"]
    assert seen[1]["native_id"] == f"bridge-test-{UUID(job['id']).hex}-2"
    assert seen[1]["ui_url"] == "https://nomad.test/ui"


def test_explain_says_it_in_a_sentence_and_in_numbers(ben: Door, cleo: Door) -> None:
    submitted(cleo)
    job = submitted(ben)
    assert ben.get(f"/v1/jobs/{job['id']}/explain").get_json() == {
        "explanation": "1 jobs are ahead.",
        "ahead": 1,
        "details": {"cores_free": 2},
    }


def test_when_a_job_is_tried_again_is_a_time(ben: Door, bridge: FakeBridge) -> None:
    job = submitted(ben)
    assert (job["retries"], job["not_before"]) == (0, None)
    bridge.jobs.change(bridge.jobs.jobs[UUID(job["id"])], retries=1, not_before=NOW)
    again = ben.get(f"/v1/jobs/{job['id']}").get_json()
    assert (again["retries"], again["not_before"]) == (1, "2026-01-01T00:00:00.250Z")


def test_prune_in_two_steps(ben: Door, bridge: FakeBridge) -> None:
    job = submitted(ben)
    ended(bridge, job)
    asked = ben.post(f"/v1/jobs/{job['id']}/prune").get_json()
    assert asked["prune_requested_at"] and asked["pruned_at"] is None
    done = ben.post(f"/v1/jobs/{job['id']}/prune", {"deleted": True}).get_json()
    assert done["pruned_at"] and done["state"] == "completed"


def test_prune_while_running_is_a_conflict(ben: Door, bridge: FakeBridge) -> None:
    job = submitted(ben)
    ended(bridge, job, state=JobState.RUNNING, ended_at=None)
    assert_canonical_error(ben.post(f"/v1/jobs/{job['id']}/prune"), 409, "running")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 422), (b'{"force":true}', 422), (b"null", 422)]
)
def test_actions_refuse_a_body_they_do_not_heed(
    ben: Door, action: str, body: bytes, status: int
) -> None:
    job = submitted(ben)
    assert_canonical_error(ben.post(f"/v1/jobs/{job['id']}/{action}", body), status)
    assert ben.get(f"/v1/jobs/{job['id']}").get_json() == job


@pytest.mark.parametrize("action", ["cancel", "hold", "release"])
def test_actions_take_an_empty_object(ben: Door, action: str) -> None:
    assert ben.post(f"/v1/jobs/{submitted(ben)['id']}/{action}", {}).status_code == 200


def test_members_list_their_own_and_admins_the_groups(ben: Door, cleo: Door, anna: Door) -> None:
    bens, cleos = submitted(ben), submitted(cleo)
    assert ben.get("/v1/jobs").get_json() == {"jobs": [bens], "next": None}
    assert [job["id"] for job in anna.get("/v1/jobs").get_json()["jobs"]] == [
        cleos["id"],
        bens["id"],
    ]


def test_filters(anna: Door, ben: Door, bridge: FakeBridge) -> None:
    one = submitted(ben, set="null")
    two = submitted(anna, set="b c")
    ended(bridge, two)

    def ids(query: str) -> list[str]:
        return [job["id"] for job in anna.get(f"/v1/jobs?{query}").get_json()["jobs"]]

    assert ids("state=completed") == [two["id"]]
    assert ids("state=running") == []
    assert ids("user=ben") == [one["id"]]
    assert ids("set=b%20c") == [two["id"]]
    assert ids("set=null") == [one["id"]]
    assert ids("set=null&state=completed") == []


@pytest.mark.parametrize("listing", ["jobs", "activity"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_pages_hold_every_job_once_newest_first(ben: Door, listing: str, count: int) -> None:
    expected = [submitted(ben)["id"] for _ in range(count)][::-1]
    seen: list[str] = []
    path: str | None = f"/v1/{listing}?limit=2"
    while path:
        page = ben.get(path).get_json()
        assert len(page[listing]) <= 2
        seen += [job["id"] for job in page[listing]]
        path = f"/v1/{listing}?limit=2&cursor={page['next']}" if page["next"] else None
    assert seen == expected


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("limit=-1", "?limit"),
        ("limit=ten", "?limit"),
        ("limit=", "?limit"),
        ("limit=1&limit=2", "more than once"),
        ("cursor=abc", "?cursor"),
        ("cursor=", "?cursor"),
        ("state=done", "?state"),
        ("state=cancelled", "received, submitted, running"),
        ("user=", "?user"),
        ("user=%00", "?user"),
        ("set=%0a", "?set"),
        ("status=running", "?status: is not a known field"),
    ],
)
def test_a_bad_query_is_named(ben: Door, query: str, says: str) -> None:
    assert_canonical_error(ben.get(f"/v1/jobs?{query}"), 422, says)


def test_activity_is_the_whole_groups_and_leads_to_no_data(
    ben: Door, cleo: Door, bert: Door, reader: Door, bridge: FakeBridge
) -> None:
    job = submitted(ben, name="secret-project", set="s", labels={"k": "v"})
    ended(bridge, job, reason="private path", node="node7")
    for door in (reader, cleo):
        response = door.get("/v1/activity")
        assert response.get_json() == {
            "activity": [
                {
                    "id": job["id"],
                    "user": "ben",
                    "image": "psi4:1.5",
                    "state": "completed",
                    "phase": None,
                    "created_at": "2026-01-01T00:00:00.250Z",
                    "started_at": None,
                    "ended_at": "2026-01-01T00:00:00.250Z",
                }
            ],
            "next": None,
        }
    assert bert.get("/v1/activity").get_json()["activity"] == []


def test_activity_takes_no_filters(reader: Door) -> None:
    assert_canonical_error(reader.get("/v1/activity?user=ben"), 422, "?user")
