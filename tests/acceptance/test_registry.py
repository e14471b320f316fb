"""Jobs whose image is in a registry behind a password, on a real Nomad cluster: the node
has the password, Nomad's Docker driver has not.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator

import pytest

from tests.integration.nomad.house import packed
from tests.support import needs
from tests.support.docker import docker
from tests.support.needs import IMAGE
from tests.support.nomad_cluster import NomadCluster, cluster
from tests.support.nomad_service import on_nomad, s3
from tests.support.registry import PASSWORD, USER, Registry, registry
from tests.support.service import Answer, RunningService

pytestmark = pytest.mark.needs("nomad", "docker")


@pytest.fixture(name="nomad", scope="module")
def _nomad() -> Iterator[NomadCluster]:
    for name in ("nomad", "docker"):
        needs.need(name)
    with cluster() as running:
        yield running


@pytest.fixture(name="images", scope="module")
def _images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    archive = tmp_path_factory.mktemp("registry") / "image.tar"
    docker("save", "--output", str(archive), IMAGE)
    with registry(archive) as running:
        yield running


@pytest.fixture(name="service", scope="module")
def _service(
    nomad: NomadCluster, images: Registry, rclone: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    home = tmp_path_factory.mktemp("registry") / "home"
    with on_nomad(nomad, home, rclone, sweep_interval_s=2) as running:
        running.stop()
        running.configure(images={"registries": [images.host]})
        running.start()
        yield running


@pytest.fixture
def password(nomad: NomadCluster, images: Registry) -> Iterator[None]:
    """The registry's password, on the node, while a test runs; the image only after it."""
    path = nomad.node_home / "etc" / "docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {images.host: {"auth": auth}}}))
    yield
    path.unlink()
    while names := _names(images):
        docker("rmi", names[0])  # a tag takes its digest along


def _names(images: Registry) -> list[str]:
    reference = f"reference={images.host}/tool"
    tags = docker("images", "--filter", reference, "--format", "{{.Repository}}:{{.Tag}}")
    digests = docker(
        "images", "--digests", "--filter", reference, "--format", "{{.Repository}}@{{.Digest}}"
    )
    return sorted({*tags.split(), *digests.split()} - {f"{images.host}/tool:<none>"})


def submit(service: RunningService, image: str) -> Answer:
    bucket = str(uuid.uuid4())
    storage = s3(service)
    storage.create_bucket(Bucket=bucket)
    storage.put_object(Bucket=bucket, Key="run.tgz", Body=packed("echo it runs"))
    storage.close()
    body = {"bucket_id": bucket, "image": image, "memory_mb": 64}
    return service.post("/v1/jobs", body)


@pytest.mark.parametrize("by", ["tag", "digest", "tag and digest"])
@pytest.mark.usefixtures("password")
def test_the_node_pulls_and_nomad_does_not(
    service: RunningService, images: Registry, by: str
) -> None:
    reference = {
        "tag": ":1",
        "digest": f"@{images.digest}",
        "tag and digest": f":1@{images.digest}",
    }[by]
    answer = submit(service, f"{images.host}/tool{reference}")
    assert answer.status == 201, answer
    seen = service.wait_for(answer.body["id"], ["completed", "failed"])
    assert seen["state"] == "completed", seen
    refused = [line for line in images.requests if line.endswith('" 401 -')]
    assert not [line for line in refused if "manifests" in line]


def test_without_the_password_the_job_says_so(service: RunningService, images: Registry) -> None:
    answer = submit(service, f"{images.host}/tool:1")
    seen = service.wait_for(answer.body["id"], ["completed", "failed"])
    assert (seen["state"], seen["cause"]) == ("failed", "image_missing"), seen


def test_another_registry_is_refused_at_once(service: RunningService) -> None:
    answer = submit(service, "ghcr.io/lab/tool:1")
    assert answer.status == 422
    assert "ghcr.io" in answer.body["detail"]
    assert "images.registries" in answer.body["hint"]
    known = service.credentials
    old = service.post(
        "/v22_1/task-submit",
        {
            "secret": known["BRIDGE_API_SECRET"],
            "bucketid": str(uuid.uuid4()),
            "name": "default",
            "codeversion": "ghcr.io/lab/tool:1",
            "cores": 1,
            "memorymb": 64,
            "timelimit": 60,
        },
    )
    assert old.status == 422
