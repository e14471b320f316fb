"""What leruli 22.1.6 sends, and what it can read. See bridge/api/leruli."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from bridge.errors import Unavailable
from bridge.models.job import JobState
from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import TOKEN, FakeBridge

UNKNOWN = "nbapi_" + "a" * 52
COMPUTE = "nbcompute_" + "a" * 52


def task(secret: str, /, **changes: object) -> dict[str, Any]:
    """The seven keys the client sends; a change to ``...`` leaves one out."""
    sent = {
        "secret": secret,
        "bucketid": str(uuid4()),
        "name": "default",
        "codeversion": "psi4:1.5",
        "cores": 1,
        "memorymb": 4000,
        "timelimit": 86400,
        **changes,
    }
    return {name: value for name, value in sent.items() if value is not ...}


def submit(client: FlaskClient, secret: str, **changes: object) -> str:
    response = client.post("/v22_1/task-submit", json=task(secret, **changes))
    assert response.status_code == 200, response.get_data(as_text=True)
    job_id: str = response.get_json()
    return job_id


def assert_detail(response: TestResponse, status: int, says: str = "") -> None:
    """The dialect's error shape."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/json"
    body = response.get_json()
    assert set(body) == {"detail"}
    assert says in body["detail"], body


# --- task-submit


def test_submit_answers_the_id_as_a_bare_string(client: FlaskClient, bridge: FakeBridge) -> None:
    sent = task(bridge.ben, codeversion="Psi4:1.5-RC", cores=3, memorymb=512, timelimit=600)
    response = client.post("/v22_1/task-submit", json=sent)
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    job_id = json.loads(response.data)
    assert isinstance(job_id, str)
    job = bridge.jobs.jobs[UUID(job_id)]
    assert str(job.bucket_id) == sent["bucketid"]
    assert (job.image, job.name, job.user) == ("psi4:1.5-RC", "default", "ben")
    assert (job.cores, job.memory_mb, job.time_limit_s) == (3, 512, 600)


def test_both_prefixes_are_one_service(client: FlaskClient, bridge: FakeBridge) -> None:
    sent = task(bridge.ben)
    answers = {
        client.post(f"/{prefix}/task-submit", json=sent).get_json()
        for prefix in ("v22_1", "latest")
    }
    assert len(answers) == 1


def test_the_same_bucket_twice_is_the_same_job(client: FlaskClient, bridge: FakeBridge) -> None:
    bucket = str(uuid4())
    assert submit(client, bridge.ben, bucketid=bucket) == submit(
        client, bridge.ben, bucketid=bucket
    )


def test_the_secret_may_come_in_the_header(client: FlaskClient, bridge: FakeBridge) -> None:
    response = client.post(
        "/v22_1/task-submit",
        json=task(bridge.ben, secret=...),
        headers={"Authorization": f"Bearer {bridge.ben}"},
    )
    assert response.status_code == 200


def test_a_client_without_settings_sends_nothing_at_all(client: FlaskClient) -> None:
    response = client.post("/v22_1/task-submit", data=b"")
    assert_detail(response, 422, "empty")


@pytest.mark.parametrize("secret", [UNKNOWN, COMPUTE, "", "nonsense", TOKEN, "\0", "ü" * 5000])
def test_a_secret_that_may_not_submit_is_403(client: FlaskClient, secret: str) -> None:
    assert_detail(client.post("/v22_1/task-submit", json=task(secret)), 403, "secret")


def test_a_revoked_secret_looks_unknown(client: FlaskClient, bridge: FakeBridge) -> None:
    client.post("/v22_1/group-revoke-user", json={"adminsecret": bridge.anna, "name": "ben"})
    revoked = client.post("/v22_1/task-submit", json=task(bridge.ben))
    unknown = client.post("/v22_1/task-submit", json=task(UNKNOWN))
    assert_detail(revoked, 403)
    assert revoked.data == unknown.data


def test_no_compute_secret_is_412(client: FlaskClient, bridge: FakeBridge) -> None:
    assert_detail(client.post("/v22_1/task-submit", json=task(bridge.bert)), 412)


BAD_TASKS = [
    *[(name, ..., "is missing") for name in task("")],
    *[(name, None, f"$.{name}") for name in task("")],
    ("secret", 5, "$.secret"),
    ("bucketid", "not-a-uuid", "uuid4"),
    ("bucketid", "6FA459EA-EE8A-4CA4-894E-DB77E160355E", "$.bucketid"),
    ("codeversion", "psi4", "name:version"),
    ("codeversion", "psi4:", "name:version"),
    ("codeversion", ":1.5", "name:version"),
    ("codeversion", "psi 4:1", "name:version"),
    ("codeversion", "${x}:1", "name:version"),
    ("codeversion", "p" * 300 + ":1", "name:version"),
    ("cores", 0, "$.cores"),
    ("cores", "1", "$.cores"),
    ("cores", 1.0, "$.cores"),
    ("cores", 65, "$.cores: 65 is over the limit of 64"),
    ("memorymb", -1, "$.memorymb"),
    ("memorymb", 10**12, "$.memorymb"),
    ("timelimit", 0, "$.timelimit"),
    ("timelimit", 2**31 - 1, "$.timelimit: 2147483647 is over the limit"),
    ("priority", 5, "$.priority: is not a known field"),
]


@pytest.mark.parametrize(("name", "value", "says"), BAD_TASKS)
def test_a_bad_task_is_422_and_named(
    client: FlaskClient, bridge: FakeBridge, name: str, value: object, says: str
) -> None:
    sent = task(bridge.ben, **{name: value})
    assert_detail(client.post("/v22_1/task-submit", json=sent), 422, says)
    assert not bridge.jobs.jobs


@pytest.mark.parametrize("body", [b"{", b"secret=x", b"\xff", b"[]", b"null", b"[" * 50_000])
@pytest.mark.parametrize("call", ["task-submit", "task-status", "group-token"])
def test_a_body_that_is_no_json_object_is_422(client: FlaskClient, call: str, body: bytes) -> None:
    assert_detail(client.post(f"/v22_1/{call}", data=body), 422)


# --- bulk/task-submit


def bulk(client: FlaskClient, sent: list[Any]) -> list[dict[str, Any]]:
    response = client.post("/v22_1/bulk/task-submit", json=sent)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    answers: list[dict[str, Any]] = response.get_json()
    assert len(answers) == len(sent)
    return answers


def test_a_batch_answers_in_order(client: FlaskClient, bridge: FakeBridge) -> None:
    sent = [task(bridge.ben) for _ in range(50)]
    answers = bulk(client, sent)
    assert {item["status"] for item in answers} == {200}
    stored = [str(bridge.jobs.jobs[UUID(item["data"])].bucket_id) for item in answers]
    assert stored == [item["bucketid"] for item in sent]
    assert bridge.access.lookups == 1


def test_a_batch_mixes_fates(client: FlaskClient, bridge: FakeBridge) -> None:
    taken = task(bridge.cleo)
    bulk(client, [taken])
    sent = [
        task(bridge.ben),
        task(UNKNOWN),
        task(bridge.bert),
        task(bridge.ben, cores=0),
        "no object",
        task(bridge.ben, codeversion="Nonsense"),
        task(bridge.ben, bucketid=taken["bucketid"]),
        task(bridge.cleo),
    ]
    answers = bulk(client, sent)
    assert [item["status"] for item in answers] == [200, 403, 412, 422, 422, 422, 409, 200]
    for item in answers:
        assert set(item) == ({"status", "data"} if item["status"] == 200 else {"status", "detail"})
    assert "$[3].cores" in answers[3]["detail"]
    assert answers[4]["detail"].startswith("$[4]: ")
    assert "$[5].codeversion" in answers[5]["detail"]
    assert bridge.jobs.jobs[UUID(answers[7]["data"])].user == "cleo"


@pytest.mark.parametrize(
    ("secret", "status"), [(UNKNOWN, 403), ("", 403), (TOKEN, 403), (..., 422), (None, 422)]
)
def test_a_batch_of_bad_secrets_is_still_200(
    client: FlaskClient, secret: object, status: int
) -> None:
    answers = bulk(client, [task("", secret=secret) for _ in range(50)])
    assert [item["status"] for item in answers] == [status] * 50


def test_what_is_over_fifty_is_refused_item_by_item(
    client: FlaskClient, bridge: FakeBridge
) -> None:
    answers = bulk(client, [task(bridge.ben) for _ in range(60)])
    assert [item["status"] for item in answers] == [200] * 50 + [413] * 10
    assert len(bridge.jobs.jobs) == 50


def test_a_batch_beyond_any_measure_is_413(client: FlaskClient, bridge: FakeBridge) -> None:
    response = client.post("/v22_1/bulk/task-submit", json=[0] * 1001)
    assert_detail(response, 413, "1000")


def test_an_empty_batch(client: FlaskClient) -> None:
    assert bulk(client, []) == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"null", b'"x"'])
def test_a_batch_that_is_no_array_is_422(client: FlaskClient, body: bytes) -> None:
    assert_detail(client.post("/v22_1/bulk/task-submit", data=body), 422)


def test_a_batch_tells_each_item_when_the_service_is_away(
    client: FlaskClient, bridge: FakeBridge
) -> None:
    bridge.jobs.fault = Unavailable("The database does not answer.")
    assert [item["status"] for item in bulk(client, [task(bridge.ben)] * 2)] == [503, 503]


def test_a_batch_tells_each_item_to_slow_down(bridge: FakeBridge) -> None:
    client = create_app(bridge, Limits(requests_per_minute=1)).test_client()
    assert [item["status"] for item in bulk(client, [task(bridge.ben)])] == [200]
    assert [item["status"] for item in bulk(client, [task(bridge.ben)] * 2)] == [429, 429]


# --- task-status and task-cancel


def ask(client: FlaskClient, call: str, secret: str, job_id: object) -> TestResponse:
    return client.post(f"/v22_1/{call}", json={"secret": secret, "jobid": job_id})


@pytest.mark.parametrize("state", list(JobState))
def test_only_a_failure_has_a_reason(
    client: FlaskClient, bridge: FakeBridge, state: JobState
) -> None:
    job_id = submit(client, bridge.ben)
    bridge.jobs.change(bridge.jobs.jobs[UUID(job_id)], state=state, reason="Input files missing")
    response = ask(client, "task-status", bridge.ben, job_id)
    reason = "Input files missing" if state is JobState.FAILED else None
    assert response.status_code == 200
    assert response.get_json() == {"status": state.value, "reason": reason}


def test_the_line_end_of_the_clients_file_does_no_harm(
    client: FlaskClient, bridge: FakeBridge
) -> None:
    job_id = submit(client, bridge.ben)
    assert ask(client, "task-status", bridge.ben, f"{job_id}\n").status_code == 200


def test_an_admin_may_ask_and_cancel(client: FlaskClient, bridge: FakeBridge) -> None:
    job_id = submit(client, bridge.ben)
    assert ask(client, "task-status", bridge.anna, job_id).get_json()["status"] == "received"
    assert ask(client, "task-cancel", bridge.anna, job_id).get_json()["status"] == "canceled"


def test_foreign_and_unknown_jobs_are_404(client: FlaskClient, bridge: FakeBridge) -> None:
    job_id = submit(client, bridge.ben)
    for secret, asked in (
        (bridge.cleo, job_id),
        (bridge.bert, job_id),
        (bridge.ben, str(uuid4())),
        (bridge.ben, "{'detail': 1}"),
        (bridge.ben, ""),
    ):
        assert_detail(ask(client, "task-status", secret, asked), 404, "No such job or not your job")


def test_status_with_a_bad_secret_is_403(client: FlaskClient, bridge: FakeBridge) -> None:
    job_id = submit(client, bridge.ben)
    assert_detail(ask(client, "task-status", UNKNOWN, job_id), 403)


def test_cancel_may_be_repeated(client: FlaskClient, bridge: FakeBridge) -> None:
    job_id = submit(client, bridge.ben)
    for _ in range(2):
        response = ask(client, "task-cancel", bridge.ben, job_id)
        assert (response.status_code, response.get_json()) == (
            200,
            {"status": "canceled", "reason": None},
        )


def test_every_answer_to_cancel_has_status_and_reason(
    client: FlaskClient, bridge: FakeBridge
) -> None:
    path = "/v22_1/task-cancel"
    job_id = submit(client, bridge.ben)
    responses = [
        ask(client, "task-cancel", bridge.cleo, job_id),
        ask(client, "task-cancel", UNKNOWN, job_id),
        client.post(path, data=b""),
        client.post(path, json={"secret": bridge.ben}),
        client.post(path, data=b"x" * 5_000_000),
        client.get(path),
    ]
    bridge.jobs.fault = RuntimeError("inner detail")
    responses.append(ask(client, "task-cancel", bridge.ben, job_id))
    assert [item.status_code for item in responses] == [404, 403, 422, 422, 413, 405, 500]
    for response in responses:
        body = response.get_json()
        assert set(body) == {"status", "reason", "detail"}
        assert body["status"] == "unknown"
        assert body["reason"]
        assert "inner" not in body["detail"]


# --- groups


def test_the_group_token_is_a_bare_string(client: FlaskClient, bridge: FakeBridge) -> None:
    for prefix in ("latest", "v22_1"):
        response = client.post(f"/{prefix}/group-token", json={"secret": bridge.ben})
        assert (response.status_code, json.loads(response.data)) == (200, TOKEN)


@pytest.mark.parametrize("secret", [UNKNOWN, TOKEN])
def test_the_group_token_is_for_members(client: FlaskClient, secret: str) -> None:
    assert_detail(client.post("/latest/group-token", json={"secret": secret}), 403)


def test_admins_manage_with_curl(client: FlaskClient, bridge: FakeBridge) -> None:
    admin = {"adminsecret": bridge.bert}
    created = client.post(
        "/v22_1/group-create-user", json={**admin, "name": "notebook", "admin": False}
    )
    secret = created.get_json()
    assert isinstance(secret, str) and secret.startswith("nbapi_")
    rotated = client.post("/v22_1/group-rotate-compute-secret", json=admin)
    assert rotated.get_json().startswith("nbcompute_")
    submit(client, secret)
    revoked = client.post("/v22_1/group-revoke-user", json={**admin, "name": "notebook"})
    assert (revoked.status_code, revoked.get_json()) == (200, True)
    assert_detail(client.post("/v22_1/task-submit", json=task(secret)), 403)


def test_an_admins_secret_may_come_in_the_header(client: FlaskClient, bridge: FakeBridge) -> None:
    response = client.post(
        "/v22_1/group-rotate-compute-secret",
        json={},
        headers={"Authorization": f"Bearer {bridge.anna}"},
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("group-create-user", {"name": "x", "admin": True}),
        ("group-revoke-user", {"name": "anna"}),
        ("group-rotate-compute-secret", {}),
    ],
)
def test_members_do_not_manage(
    client: FlaskClient, bridge: FakeBridge, call: str, body: dict[str, object]
) -> None:
    for secret in (bridge.ben, TOKEN, UNKNOWN):
        response = client.post(f"/v22_1/{call}", json={"adminsecret": secret, **body})
        assert_detail(response, 403)
    assert_detail(client.post(f"/v22_1/{call}", json=body), 422, "$.adminsecret: is missing")


def test_a_taken_or_unknown_name(client: FlaskClient, bridge: FakeBridge) -> None:
    admin = {"adminsecret": bridge.anna}
    taken = client.post("/v22_1/group-create-user", json={**admin, "name": "ben", "admin": True})
    assert_detail(taken, 409)
    unknown = client.post("/v22_1/group-revoke-user", json={**admin, "name": "nobody"})
    assert_detail(unknown, 404)


# --- everywhere


def test_other_errors_have_the_dialects_shape(client: FlaskClient, bridge: FakeBridge) -> None:
    assert_detail(client.post("/v22_1/nothing", json={}), 404)
    assert_detail(client.get("/latest/group-token"), 405)
    assert_detail(client.post("/v22_1/task-submit", data=b"x" * 5_000_000), 413)
    bridge.jobs.fault = RuntimeError("inner detail")
    response = client.post("/v22_1/task-submit", json=task(bridge.ben))
    assert_detail(response, 500, "incident")
    assert b"inner detail" not in response.data


def test_a_secret_in_the_url_is_refused(client: FlaskClient, bridge: FakeBridge) -> None:
    response = client.post(f"/v22_1/task-submit?secret={bridge.ben}", json=task(bridge.ben))
    assert_detail(response, 403, "in the URL")
