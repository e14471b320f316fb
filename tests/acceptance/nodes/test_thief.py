"""A leaked bundle: somebody has nomadrun.tar, and no file with the storage's keys.

The thief is root on a machine of their own, with a Nomad client and Docker. They join by
what is in the bundle and then run whatever they like instead of the node's programs.
"""

from __future__ import annotations

import datetime as dt
import re
import ssl
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.support.certificates import named, request_for
from tests.support.docker import own_image
from tests.support.node_site import (
    NEEDED,
    Settings,
    end,
    finds_no_node,
    make_bundle,
    seen,
    submit,
    told,
)
from tests.support.nomad_cluster import NomadCluster
from tests.support.nomad_service import printed
from tests.support.poll import eventually
from tests.support.service import RunningService
from tests.support.thief import KEY, KEY_PEM, Thief

pytestmark = pytest.mark.needs(*NEEDED)

NAME = "nice-machine"
OTHER = "g-other"
SERVER = "server.global.nomad"
# What a curious client asks a Nomad server, and what it would like to change there.
LOOKS = (
    "jobs?namespace=*",
    "allocations?namespace=*",
    "evaluations?namespace=*",
    "deployments?namespace=*",
    f"jobs?namespace={OTHER}",
    "vars?namespace=*",
    "namespaces",
    "nodes",
    "node/pools",
    "acl/tokens",
    "acl/policies",
    "agent/members",
    "agent/self",
    "operator/raft/configuration",
    "operator/snapshot",
    "operator/keyring/keys",
)


def job_at_nomad(name: str, bucket: str) -> dict[str, Any]:
    """A job of the other group, which has no node yet."""
    task = {
        "Name": "main",
        "Driver": "raw_exec",
        "Config": {"command": "true"},
        "Env": {"BRIDGE_BUCKET": bucket},
    }
    return {
        "ID": name,
        "Namespace": OTHER,
        "NodePool": OTHER,
        "Type": "batch",
        "Datacenters": ["*"],
        "TaskGroups": [{"Name": "job", "Tasks": [task]}],
    }


CHANGES = (
    ("PUT", f"jobs?namespace={OTHER}", {"Job": job_at_nomad("mine", "")}),
    ("PUT", "node/pool/mine", {"Name": "mine"}),
    ("PUT", "namespace/mine", {"Name": "mine"}),
    ("PUT", "var/mine", {"Items": {"a": "b"}}),
    ("POST", "acl/token", {"Type": "management"}),
    ("POST", "acl/identity/client-introduction-token", {"NodePool": OTHER, "NodeName": "mine"}),
    ("PUT", "system/gc", None),
)
REFUSED = (0, 400, 403)  # 0: no answer at all


@pytest.fixture(scope="module")
def settings() -> Settings:
    return {"queue": {"retries": 0}, "nodes": {"quarantine_failures": 3, "inspect_interval_s": 1}}


@pytest.fixture(scope="module")
def thief(service: RunningService, bundle: Path) -> Iterator[Thief]:
    # Not pytest's own: a job's programs must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="nb-thief-") as folder:
        Path(folder).chmod(0o755)
        yield Thief(service, bundle, Path(folder))


@pytest.fixture(scope="module")
def introduced(thief: Thief) -> dict[str, str]:
    """The files for which the thief has asked, with everything that may be wished."""
    wishes = (
        x509.SubjectAlternativeName([x509.DNSName(SERVER)]),
        x509.BasicConstraints(ca=True, path_length=None),
    )
    answer = thief.enrol(NAME, request_for(KEY, SERVER, *wishes))
    assert answer.status == 201, answer
    return dict(answer.body["files"])


@pytest.fixture(scope="module")
def inside(
    nomad: NomadCluster, service: RunningService, thief: Thief, introduced: dict[str, str]
) -> Iterator[Thief]:
    """The thief, whose machine is a node."""
    meta = {"bridge_home": str(thief.home)}
    with nomad.enrolled_client(NAME, introduced, KEY_PEM, meta):
        eventually(lambda: seen(service, NAME)["state"] == "ready", timeout=60, every=0.2)
        yield thief


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """What the thief has under the name of the image that users want."""
    with own_image() as name:
        yield name


@pytest.fixture(scope="module")
def others(service: RunningService, nomad: NomadCluster) -> dict[str, str]:
    """Another group of the same bridge and scheduler, with jobs: what must be seen nowhere."""
    nomad.register_group(OTHER, OTHER)
    where = ("--connector", "nomad", "--config", str(service.config))
    group = printed(service, "groups", "add", "other", "--admin", "boss", *where)
    service.post("/v1/compute-secret/rotate", {}, group["admin_secret"])
    bucket = str(uuid.uuid4())
    job = {"bucket_id": bucket, "image": "busybox:1", "memory_mb": 64}
    made = service.post("/v1/jobs", job, group["admin_secret"])
    assert made.status == 201, made
    native = f"bridge-{uuid.UUID(made.body['id']).hex}"
    nomad.call("PUT", "jobs", {"Job": job_at_nomad(native, bucket)}, namespace=OTHER)
    return {
        "token": group["group_token"],
        "bucket": bucket,
        "job": made.body["id"],
        "native": native,
        "namespace": OTHER,
    }


def test_no_identity_of_a_server(
    thief: Thief, introduced: dict[str, str], nomad: NomadCluster, tmp_path: Path
) -> None:
    assert "client.key" not in introduced
    certificate = x509.load_pem_x509_certificate(introduced["client.pem"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not [name for name in names.get_values_for_type(x509.DNSName) if "server" in name]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc < dt.datetime.now(dt.UTC) + dt.timedelta(days=31)
    assert "server name" in shakes_hands(nomad, introduced["client.pem"], tmp_path, "client")
    # And it makes no other certificate that counts.
    forged = signed_by_the_thief(certificate) + introduced["client.pem"]
    refused = shakes_hands(nomad, forged, tmp_path, "forged")
    assert refused and "server name" not in refused


def signed_by_the_thief(issuer: x509.Certificate) -> str:
    """A certificate for a Nomad server, signed with the key of a client's."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(named(SERVER))
        .issuer_name(issuer.subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER)]), critical=False)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


def shakes_hands(nomad: NomadCluster, chain: str, folder: Path, name: str) -> str:
    """Why a Nomad agent does not take somebody with this certificate for a server; "" if it
    does.
    """
    file = folder / f"{name}.pem"
    file.write_text(chain + KEY_PEM)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(nomad.ca_file))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=SERVER)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message.replace("Hostname mismatch", "server name")
    return ""


def test_a_job_is_taken_and_nothing_is_learned(
    service: RunningService, inside: Thief, image: str, folder: Path, others: dict[str, str]
) -> None:
    """`completed`, as the node says; but there is no list of results, and `get` says so."""
    inside.lie()
    job = submit(service, folder, "true", image=image)
    assert end(service, job)["state"] == "completed"
    done = service.command("get", "--dir", str(folder))
    assert done.returncode != 0, done.stdout
    assert f"or {NAME} never uploaded them" in done.stderr, done.stderr
    known = inside.told()
    assert known["BRIDGE_BUCKET"] == service.get(f"/v1/jobs/{job}").body["bucket_id"]
    for secret in ("BRIDGE_S3_SECRET", "BRIDGE_API_SECRET", "BRIDGE_ADMIN_SECRET"):
        assert service.credentials[secret] not in str(known)
    assert not [value for value in others.values() if value in str(known)]
    # Names of buckets alone open none.
    for bucket in (known["BRIDGE_BUCKET"], known["BRIDGE_CODE_BUCKET"], others["bucket"]):
        for path in ("", "?list-type=2", "/run.tgz", "/joblog.txt"):
            assert storage_status(service, f"{bucket}{path}") in (400, 401, 403), path
        assert storage_status(service, f"{bucket}/mine", b"x") in (400, 401, 403)
    assert storage_status(service, "") in (400, 401, 403)


def storage_status(service: RunningService, path: str, data: bytes | None = None) -> int:
    """What the storage answers to somebody without keys."""
    request = urllib.request.Request(
        f"{service.credentials['BRIDGE_S3_SERVER']}/{path}",
        data=data,
        method="GET" if data is None else "PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_bridge_tells_nothing_of_others(
    service: RunningService, inside: Thief, image: str, folder: Path, others: dict[str, str]
) -> None:
    mine = submit(service, folder, "true", image=image)
    secret, token = (inside.conf[f"BRIDGE_{name}"] for name in ("COMPUTE_SECRET", "GROUP_TOKEN"))
    for path in (f"/v1/jobs/{mine}", f"/v1/jobs/{others['job']}", "/v1/jobs", "/v1/users"):
        for key in (secret, token):
            assert service.get(path, key).status in (401, 403, 404), path
    activity = service.get("/v1/activity", token)
    assert activity.status == 200
    bucket = service.get(f"/v1/jobs/{mine}").body["bucket_id"]
    for hidden in (bucket, *others.values()):
        assert hidden not in str(activity.body)
    # A member's bucket is no bucket for a self-test.
    body = {"group_token": token, "bucket_id": bucket}
    assert service.post(f"/v1/nodes/{NAME}/selftest", body, secret).status == 409
    # The same secret with another group's token.
    body = body | {"group_token": others["token"], "bucket_id": str(uuid.uuid4())}
    assert service.post(f"/v1/nodes/{NAME}/selftest", body, secret).status == 401
    end(service, mine)


def test_the_scheduler_tells_nothing_of_others(
    nomad: NomadCluster,
    inside: Thief,
    introduced: dict[str, str],
    others: dict[str, str],
    tmp_path: Path,
) -> None:
    """With the client's certificate, and everything that may pass for a token."""
    (tmp_path / "client.pem").write_text(introduced["client.pem"])
    (tmp_path / "client.key").write_text(KEY_PEM)
    tokens = {"none": "", "introduction": introduced["intro_token.jwt"]}
    tokens |= secrets_of_the_client(nomad)
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(nomad.ca_file)
        session.cert = (str(tmp_path / "client.pem"), str(tmp_path / "client.key"))
        for name, token in tokens.items():
            session.headers["X-Nomad-Token"] = token
            for path in LOOKS:
                status, text = asked(session, nomad, "GET", path)
                for what, value in others.items():
                    assert value not in text, f"{name}: {path} shows {what}"
                # A list from which everything was taken that must not be seen is empty. A
                # node's own identity sees the jobs that it is given, and the nodes.
                assert status != 200 or text.strip() in ("[]", "null") or name == "secret", (
                    f"{name}: {path}: {status} {text[:300]}"
                )
            for method, path, body in CHANGES:
                status, text = asked(session, nomad, method, path, body)
                assert status in REFUSED, f"{name}: {path}: {status} {text[:300]}"
    assert nomad.call("GET", "status/leader")


def asked(
    session: requests.Session, nomad: NomadCluster, method: str, path: str, body: object = None
) -> tuple[int, str]:
    """Status and text of an answer; nothing where the server hangs up, as Nomad does over
    an introduction in a token's place.
    """
    try:
        answer = session.request(method, f"{nomad.address}/v1/{path}", json=body, timeout=20)
    except requests.ConnectionError:
        return 0, ""
    return answer.status_code, answer.text


def secrets_of_the_client(nomad: NomadCluster) -> dict[str, str]:
    """What Nomad's client itself keeps on the machine: its secret, and signed identities."""
    folder = nomad.home / NAME / "client"
    signed = re.findall(rb"eyJ[\w-]+\.[\w-]+\.[\w-]+", (folder / "state.db").read_bytes())
    found = {f"identity {number}": token.decode() for number, token in enumerate(signed)}
    return found | {"secret": (folder / "secret-id").read_text().strip()}


def test_quarantine_ends_it_and_enrolling_again_does_not_help(
    service: RunningService, inside: Thief, image: str, folder: Path, tmp_path: Path
) -> None:
    """With the bundle's own programs, and without the storage's keys, jobs fail."""
    inside.be_honest()
    for _ in range(3):
        ended = end(service, submit(service, fresh(tmp_path), "true", image=image))
        assert ended["state"] == "failed" and ended["cause"] in ("storage", "internal"), ended
    eventually(lambda: seen(service, NAME)["state"] == "quarantined", timeout=30, every=0.2)
    assert "none by the users' own doing" in told(service, NAME)
    assert inside.enrol(NAME).status == 201
    inside.lie()
    waiting = submit(service, folder, "true", image=image)
    finds_no_node(service, waiting)
    assert seen(service, NAME)["state"] == "quarantined"


def fresh(parent: Path) -> Path:
    folder = parent / uuid.uuid4().hex
    folder.mkdir()
    (folder / "in.txt").write_text("secret\n")
    return folder


def log_of(service: RunningService) -> str:
    return (service.home / "serve.log").read_text(encoding="utf-8")


def test_a_rotation_ends_it_under_every_name(
    service: RunningService,
    nomad: NomadCluster,
    inside: Thief,
    image: str,
    downloads: Path,
    tmp_path: Path,
) -> None:
    second = "another-name"
    files = dict(inside.enrol(second).body["files"])
    meta = {"bridge_home": str(inside.home)}
    with nomad.enrolled_client(second, files, KEY_PEM, meta):
        eventually(lambda: seen(service, second)["state"] == "ready", timeout=60, every=0.2)
        # Whose machine it is has been stored: before, a rotation makes it a stranger's.
        eventually(lambda: f"action=bind node={second} " in log_of(service), timeout=60, every=0.2)
        make_bundle(service, downloads, tmp_path / "new.tar", "--rotate", "--overlap", "0")
        eventually(lambda: seen(service, second)["state"] == "ineligible", timeout=30, every=0.2)
        assert "before the compute secret was rotated" in told(service, second)
        for name in (NAME, second, "third"):
            assert inside.enrol(name).status == 401
        waiting = submit(service, fresh(tmp_path), "true", image=image)
        finds_no_node(service, waiting)
