from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from bridge.models.job import Job
from tests.support.fake_core import FakeBridge
from tests.support.http import (
    Door,
    assert_canonical_body,
    assert_canonical_error,
    submission,
)

# field, what was sent (... leaves it out), what the answer must say
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("bucket_id", ..., "$.bucket_id: is missing"),
    ("bucket_id", None, "$.bucket_id"),
    ("bucket_id", 7, "$.bucket_id"),
    ("bucket_id", "", "$.bucket_id"),
    ("bucket_id", "my-bucket", "$.bucket_id"),
    ("bucket_id", "6FA459EA-EE8A-4CA4-894E-DB77E160355E", "$.bucket_id"),
    ("bucket_id", "6fa459eaee8a4ca4894edb77e160355e", "$.bucket_id"),
    ("bucket_id", "{6fa459ea-ee8a-4ca4-894e-db77e160355e}", "$.bucket_id"),
    ("bucket_id", "6fa459ea-ee8a-1ca4-894e-db77e160355e", "uuid4"),
    ("bucket_id", "6fa459ea-ee8a-4ca4-894e-db77e160355e\n", "$.bucket_id"),
    ("image", ..., "$.image: is missing"),
    ("image", None, "$.image"),
    ("image", "psi4", "name:version"),
    ("image", "Psi4:1.5", "lower case"),
    ("image", "psi4:", "$.image"),
    ("image", ":1", "$.image"),
    ("image", "psi4:1 5", "$.image"),
    ("image", "psi4:1.5\n", "$.image"),
    ("image", "${attr.x}:1", "$.image"),
    ("image", "psi4:${x}", "$.image"),
    ("image", "../psi4:1", "$.image"),
    ("image", "/psi4:1", "$.image"),
    ("image", "psi4@sha256:" + "0" * 64, "$.image"),
    ("image", "registry.example/psi4", "$.image"),
    ("image", "registry.example/psi4@sha256:12", "$.image"),
    ("image", "a" * 254 + ":1", "$.image"),
    ("name", "", "$.name"),
    ("name", None, "$.name"),
    ("name", "n" * 256, "$.name"),
    ("name", "a\nb", "$.name"),
    ("name", "a\0b", "$.name"),
    ("name", "a\n", "$.name"),
    ("set", "", "$.set"),
    ("set", 5, "$.set"),
    ("set", "s" * 256, "$.set"),
    ("cores", None, "$.cores"),
    ("cores", "4", "$.cores"),
    ("cores", True, "$.cores"),
    ("cores", 0, "$.cores"),
    ("cores", -1, "$.cores"),
    ("cores", 1.0, "$.cores"),
    ("cores", 1.5, "$.cores"),
    ("cores", 65, "limit of 64"),
    ("cores", 2**31, "$.cores"),
    ("cores", 10**40, "$.cores"),
    ("memory_mb", 15, "$.memory_mb"),
    ("memory_mb", -4000, "$.memory_mb"),
    ("memory_mb", 4000.0, "$.memory_mb"),
    ("memory_mb", 100_001, "limit of 100000"),
    ("oom_retry_mb", -1, "$.oom_retry_mb"),
    ("oom_retry_mb", 8000.0, "$.oom_retry_mb"),
    ("oom_retry_mb", None, "$.oom_retry_mb"),
    ("oom_retry_mb", 4000, "not more than memory_mb, 4000"),
    ("oom_retry_mb", 100_001, "limit of 100000"),
    ("time_limit_s", 0, "$.time_limit_s"),
    ("time_limit_s", 1_000_001, "limit of 1000000"),
    ("time_limit_s", 1e300, "$.time_limit_s"),
    ("priority", 0, "1 to 100"),
    ("priority", 101, "1 to 100"),
    ("hold", 1, "$.hold"),
    ("hold", "false", "$.hold"),
    ("hold", None, "$.hold"),
    ("input_sha256", "A" * 64, "$.input_sha256"),
    ("input_sha256", "a" * 63, "$.input_sha256"),
    ("labels", [], "$.labels"),
    ("labels", None, "$.labels"),
    ("labels", {"a": 1}, "$.labels"),
    ("labels", {"a": None}, "$.labels"),
    ("labels", {"": "x"}, "$.labels"),
    ("labels", {"k" * 64: "x"}, "$.labels"),
    ("labels", {"k": "x" * 256}, "$.labels"),
    ("labels", {f"k{n}": "" for n in range(33)}, "$.labels"),
    ("Cores", 1, "$.Cores: is not a known field"),
    ("command", "rm", "$.command: is not a known field"),
]

# body, status, what the answer must say
BAD_BODIES = [
    (b"", 400, "empty"),
    (b" ", 400, "JSON"),
    (b"{", 400, "JSON"),
    (b"not json", 400, "JSON"),
    (b'{"image": "a:1",}', 400, "JSON"),
    (b'{"cores": NaN}', 400, "JSON"),
    (b"bucket_id=1&image=a", 400, "JSON"),
    (b'{"image": "\xff"}', 400, "UTF-8"),
    (b'{"image": "\\ud800 psi4:1"}', 400, "JSON"),
    (b"\xef\xbb\xbf{}", 400, "JSON"),
    (b"[{}", 400, "JSON"),
    (b"[" * 100_000, 400, "nested"),
    (b"null", 422, "$: expected object"),
    (b'"text"', 422, "$: expected object"),
    (b"17", 422, "$: expected object"),
]


def test_one_job_answers_201_with_the_job_and_where_it_is(ben: Door) -> None:
    sent = submission(
        name="water",
        set="dimers",
        cores=2,
        memory_mb=512,
        oom_retry_mb=2048,
        time_limit_s=60,
        priority=70,
        hold=True,
        input_sha256="ab" * 32,
        labels={"project": "größe"},
    )
    response = ben.post("/v1/jobs", sent)
    job = response.get_json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert sent.items() <= job.items()
    assert (job["state"], job["user"], job["attempt"]) == ("received", "ben", 0)
    assert job["created_at"] == "2026-01-01T00:00:00.250Z"
    assert str(UUID(job["id"])) == job["id"]


def test_what_is_left_out_has_its_default(ben: Door) -> None:
    job = ben.post("/v1/jobs", submission()).get_json()
    assert job["name"] == "default"
    assert (job["cores"], job["memory_mb"], job["time_limit_s"]) == (1, 4000, 86400)
    assert job["oom_retry_mb"] == 0
    assert (job["priority"], job["hold"], job["labels"]) == (50, False, {})
    assert (job["set"], job["input_sha256"]) == (None, None)


def test_a_job_has_exactly_the_documented_fields(ben: Door) -> None:
    job = ben.post("/v1/jobs", submission()).get_json()
    hidden = {"group_id", "user_id", "pinned_to", "attempts_before"}
    assert set(job) == set(Job.__struct_fields__) - hidden | {"ui_url"}


def test_the_same_bucket_again_is_the_same_job(ben: Door) -> None:
    sent = submission()
    ids = {ben.post("/v1/jobs", sent).get_json()["id"] for _ in range(2)}
    assert len(ids) == 1


def test_anothers_bucket_is_a_conflict(ben: Door, cleo: Door) -> None:
    sent = submission()
    ben.post("/v1/jobs", sent)
    assert_canonical_error(cleo.post("/v1/jobs", sent), 409)


def test_without_a_compute_secret_nothing_is_taken(bert: Door) -> None:
    assert_canonical_error(bert.post("/v1/jobs", submission()), 412, "admin sets it up")
    assert_canonical_error(bert.post("/v1/jobs", [submission()]), 412)


@pytest.mark.parametrize(("field", "value", "says"), BAD_FIELDS)
def test_a_bad_field_is_named(
    ben: Door, bridge: FakeBridge, field: str, value: Any, says: str
) -> None:
    assert_canonical_error(ben.post("/v1/jobs", submission(**{field: value})), 422, says)
    assert not bridge.jobs.jobs


@pytest.mark.parametrize(("field", "value", "says"), BAD_FIELDS)
def test_a_bad_item_is_named_and_spoils_no_other(
    ben: Door, bridge: FakeBridge, field: str, value: Any, says: str
) -> None:
    sent = [submission(), submission(**{field: value}), submission()]
    response = ben.post("/v1/jobs", sent)
    first, bad, last = response.get_json()
    assert response.status_code == 200
    assert bad.pop("status") == 422
    assert_canonical_body(bad, 422, says.replace("$", "$[1]"))
    for item, answer in ((sent[0], first), (sent[2], last)):
        assert answer["status"] == 201
        assert str(bridge.jobs.jobs[UUID(answer["id"])].bucket_id) == item["bucket_id"]


@pytest.mark.parametrize(("data", "status", "says"), BAD_BODIES)
def test_a_bad_body_is_refused(ben: Door, data: bytes, status: int, says: str) -> None:
    assert_canonical_error(ben.post("/v1/jobs", data), status, says)


@pytest.mark.parametrize("item", [b"null", b"7", b'"x"', b"[]", b'{"image":"\xff"}'])
def test_an_item_that_is_no_object_spoils_no_other(ben: Door, item: bytes) -> None:
    good = json.dumps(submission()).encode()
    bad, fine = ben.post("/v1/jobs", b"[" + item + b"," + good + b"]").get_json()
    assert bad["status"] == 422
    assert bad["detail"].startswith("$[0]: ")
    assert fine["status"] == 201


def test_nothing_of_a_bad_value_comes_back(ben: Door) -> None:
    response = ben.post("/v1/jobs", submission(bucket_id="hidden-bucket", image="hidden image"))
    assert b"hidden" not in response.data


def test_a_long_unknown_key_is_cut(ben: Door) -> None:
    assert_canonical_error(ben.post("/v1/jobs", submission(**{"k" * 100_000: 1})), 422, "$.kkk")


def test_an_array_answers_in_order(ben: Door, bridge: FakeBridge) -> None:
    sent = [submission() for _ in range(1000)]
    response = ben.post("/v1/jobs", sent)
    assert response.status_code == 200
    got = [bridge.jobs.jobs[UUID(item["id"])].bucket_id for item in response.get_json()]
    assert [str(bucket) for bucket in got] == [item["bucket_id"] for item in sent]
    assert bridge.jobs.calls == ["submit_many"]


def test_an_empty_array_is_fine(ben: Door) -> None:
    assert ben.post("/v1/jobs", []).get_json() == []


@pytest.mark.parametrize("filler", [None, "good"])
def test_one_item_too_many_refuses_all(ben: Door, bridge: FakeBridge, filler: str | None) -> None:
    sent = [submission() if filler else None for _ in range(1001)]
    assert_canonical_error(ben.post("/v1/jobs", sent), 413, "at most 1000")
    assert not bridge.jobs.jobs


def test_a_clash_in_an_array_is_the_items_own(ben: Door, cleo: Door) -> None:
    taken = submission()
    ben.post("/v1/jobs", taken)
    clash, fine = cleo.post("/v1/jobs", [taken, submission()]).get_json()
    assert clash.pop("status") == 409
    assert_canonical_body(clash, 409)
    assert fine["status"] == 201


def test_a_body_over_the_limit_is_refused(ben: Door, bridge: FakeBridge) -> None:
    data = b'{"name":"' + b"x" * 10_000_000 + b'"}'
    assert_canonical_error(ben.post("/v1/jobs", data), 413, "4000000 bytes")
    assert bridge.jobs.calls == []


@pytest.mark.parametrize(
    "image",
    [
        "psi4:1.5",
        "my-code__x.y:v1_RC-2",
        "org/code:1",
        "registry.example/org/code:1",
        "registry.example:5000/code@sha256:" + "0a" * 32,
        "localhost/code:1@sha256:" + "0a" * 32,
        "10.0.0.1:5000/code:1",
    ],
)
def test_images_by_name_and_by_registry(ben: Door, image: str) -> None:
    response = ben.post("/v1/jobs", submission(image=image))
    assert response.status_code == 201
    assert response.get_json()["image"] == image


def test_the_content_type_does_not_matter(ben: Door) -> None:
    data = json.dumps({"bucket_id": str(uuid4()), "image": "a:1"}).encode()
    assert ben.post("/v1/jobs", data).status_code == 201
