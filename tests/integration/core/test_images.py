"""A registry that the service does not take images from is refused at the door."""

from __future__ import annotations

from uuid import uuid4

import pytest

from bridge.core.images import Images
from bridge.core.jobs import Jobs
from bridge.core.outlook import Outlook
from bridge.errors import InvalidRequest
from bridge.models.job import NewJob
from tests.integration.core.conftest import House

ELSEWHERE = "ghcr.io/lab/psi4:1.5"


def test_a_registry_is_refused_and_nothing_stored(house: House) -> None:
    with pytest.raises(InvalidRequest, match=r"ghcr\.io"):
        house.submit(image=ELSEWHERE)
    assert house.jobs.find(house.root) == []


def test_in_an_array_the_others_are_taken(house: House) -> None:
    asked = [
        NewJob(bucket_id=uuid4(), image=image) for image in ("psi4:1.5", ELSEWHERE, "crest:2.11.2")
    ]
    answers = house.jobs.submit_many(house.ada, asked)
    assert [isinstance(answer, InvalidRequest) for answer in answers] == [False, True, False]


def test_a_registry_that_is_named_is_taken(house: House) -> None:
    outlook = Outlook(house.db, {}, clock=house.clock)
    jobs = Jobs(house.db, outlook=outlook, images=Images(["ghcr.io"]), clock=house.clock)
    new = NewJob(bucket_id=uuid4(), image=ELSEWHERE)
    assert jobs.submit(house.ada, new).image == ELSEWHERE
