"""A whole service whose jobs run on a Nomad cluster."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3

from bridge import resources
from tests.support.needs import IMAGE
from tests.support.nomad_cluster import NomadCluster
from tests.support.s3 import S3
from tests.support.service import RunningService


@contextlib.contextmanager
def on_nomad(
    nomad: NomadCluster, home: Path, rclone: str, **settings: object
) -> Iterator[RunningService]:
    """A service whose only connector is Nomad, with group ``lab`` on it and IMAGE
    published. ``settings`` are of the section ``nomad``.
    """
    service = RunningService(home)
    with running_on(nomad, service, rclone, nomad_settings=settings):
        yield service


@contextlib.contextmanager
def running_on(
    nomad: NomadCluster,
    service: RunningService,
    rclone: str,
    *,
    nomad_settings: Mapping[str, object],
    **sections: Mapping[str, object],
) -> Iterator[None]:
    """As ``on_nomad``, for a service that is not made yet, with settings by section."""
    service.init("--runtime", "process", group="first")
    _configure(service, nomad, nomad_settings)
    service.configure(**sections)
    try:
        service.start()
        _add_lab(service)
        known = service.credentials
        endpoint, access, secret = (
            known[f"BRIDGE_S3_{name}"] for name in ("SERVER", "ACCESS", "SECRET")
        )
        keys = S3(endpoint, access, secret, service.home)
        nomad.install_stage(resources.path("node-setup"), rclone, keys)
        done = service.command("codes", "publish", IMAGE)
        assert done.returncode == 0, done.stderr
        yield
    finally:
        service.close()


def printed(service: RunningService, *arguments: str) -> Any:
    """What a command prints as JSON."""
    done = service.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def s3(service: RunningService) -> Any:
    """The group's storage, with the keys of a member."""
    known = service.credentials
    return boto3.client(
        "s3",
        endpoint_url=known["BRIDGE_S3_SERVER"],
        aws_access_key_id=known["BRIDGE_S3_ACCESS"],
        aws_secret_access_key=known["BRIDGE_S3_SECRET"],
        region_name="us-east-1",
    )


def _configure(
    service: RunningService, nomad: NomadCluster, settings: Mapping[str, object]
) -> None:
    """Turn the configuration that ``init`` wrote into one for Nomad."""
    token_file = service.home / "nomad.token"
    token_file.touch(mode=0o600)
    token_file.write_text(nomad.bridge_token)
    text = service.config.read_text()
    assert "connectors: [local]" in text
    service.config.write_text(text.replace("connectors: [local]", "connectors: [nomad]"))
    reached = {
        "address": nomad.address,
        "ca_file": str(nomad.ca_file),
        "client_cert": str(nomad.bridge_pair.cert),
        "client_key": str(nomad.bridge_pair.key),
        "token_file": "nomad.token",
    }
    service.configure(nomad=reached | dict(settings))


def _add_lab(service: RunningService) -> None:
    """Group lab with admin chief and user ada; credentials.env is theirs from now on."""
    config = ("--config", str(service.config))
    group = printed(
        service, "groups", "add", "lab", "--admin", "chief", "--connector", "nomad", *config
    )
    service.use(BRIDGE_GROUP_TOKEN=group["group_token"], BRIDGE_ADMIN_SECRET=group["admin_secret"])
    ada = printed(service, "users", "add", "ada")["secret"]
    compute = printed(service, "compute-secret", "rotate")["secret"]
    service.use(BRIDGE_COMPUTE_SECRET=compute, BRIDGE_API_SECRET=ada, LERULI_API_SECRET=ada)
    s3(service).create_bucket(Bucket=group["code_bucket"])
