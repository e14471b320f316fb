"""The tests' own tools: nothing leaves this machine, services are real."""

from __future__ import annotations

import socket

import boto3
import pytest
import sqlalchemy
from botocore.config import Config

from tests.support import needs
from tests.support.hermetic import OutsideAddressError
from tests.support.poll import eventually
from tests.support.s3 import S3


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_no_address_outside_is_reached(host: str) -> None:
    with pytest.raises(OutsideAddressError):
        socket.create_connection((host, 80), timeout=1)


def test_datagrams_stay_here_too() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        pytest.raises(OutsideAddressError),
    ):
        sender.sendto(b"", ("192.0.2.1", 53))


def test_a_needed_service_is_skipped_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "missing", lambda name: "it is away")
    monkeypatch.setenv("BRIDGE_TEST_REQUIRE", "")
    with pytest.raises(pytest.skip.Exception, match="needs docker: it is away"):
        needs.need("docker")
    monkeypatch.setenv("BRIDGE_TEST_REQUIRE", "bats, docker")
    with pytest.raises(pytest.fail.Exception, match="needs docker: it is away"):
        needs.need("docker")
    with pytest.raises(pytest.skip.Exception):
        needs.need("nomad")


@pytest.mark.parametrize(
    ("require", "reason", "allowed"),
    [
        ("", "anything", True),
        ("docker", "Skipped: needs nomad: nomad is not on the PATH", True),
        ("docker", "Skipped: needs docker: away", False),
        ("docker", "Skipped: not today", False),
    ],
)
def test_other_skips_are_forbidden_where_services_are_required(
    monkeypatch: pytest.MonkeyPatch, require: str, reason: str, allowed: bool
) -> None:
    monkeypatch.setenv("BRIDGE_TEST_REQUIRE", require)
    assert needs.may_be_skipped(reason) is allowed


def test_eventually_says_what_it_saw() -> None:
    with pytest.raises(AssertionError, match="last seen: 0"):
        eventually(lambda: 0, timeout=0.01)


def test_every_database_is_new_and_empty(database_url: str) -> None:
    engine = sqlalchemy.create_engine(database_url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE seen (id integer)"))
    engine.dispose()


def test_s3_stores(s3: S3) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access,
        aws_secret_access_key=s3.secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    client.create_bucket(Bucket="fruit")
    client.put_object(Bucket="fruit", Key="apple", Body=b"red")
    assert (s3.folder / "fruit" / "apple").read_bytes() == b"red"
    client.close()
