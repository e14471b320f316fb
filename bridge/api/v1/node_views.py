"""``/v1`` JSON of nodes and the models, both ways; no request, no service."""

from __future__ import annotations

import io
import tarfile
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from bridge.api.v1.translate import rfc3339, rfc3339_or_none
from bridge.models import fields
from bridge.models.job import Job
from bridge.models.node import (
    Admission,
    Candidate,
    Facts,
    NodeReport,
    NodeState,
    SelftestFinding,
)

TAR: Final = "application/x-tar"

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Word = Annotated[str, Meta(max_length=64)]
_Sentence = Annotated[str, Meta(max_length=2000)]


class FactsSent(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine says of itself; of a later one perhaps more than is known here."""

    cores: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    memory_mb: _Count
    disk_mb: _Count
    architecture: _Word
    clock: float
    limits: bool = False
    versions: Annotated[dict[_Word, _Word], Meta(max_length=32)] = {}


class NodeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every body of a machine has; its secret is in the header."""

    group_token: Annotated[str, Meta(max_length=64)]


class EnrolBody(NodeBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/enroll``."""

    name: str
    signing_request: Annotated[str, Meta(max_length=16_384)]
    facts: FactsSent


class SelftestBody(NodeBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/{name}/selftest``."""

    bucket_id: fields.BucketId


class FindingSent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing a node looked at on itself."""

    what: _Sentence
    ok: bool
    detail: _Sentence = ""
    remedy: _Sentence = ""


class ReportBody(NodeBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/{name}/report``."""

    ok: bool
    findings: Annotated[list[FindingSent], Meta(max_length=100)] = []


class DrainBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/{name}/drain``."""

    deadline_s: Annotated[int, Meta(ge=0, le=31 * 86400)] = 3600


class LimitsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/nodes/require-limits``."""

    required: bool


class SelftestView(msgspec.Struct, frozen=True, kw_only=True):
    """What a node last found on itself."""

    at: str
    ok: bool
    detail: str | None


class NodeJson(msgspec.Struct, frozen=True, kw_only=True):
    """A node for its group's admins. Memory in MiB, disk in MB; null: not known now."""

    name: str
    state: NodeState
    reason: str | None
    generation_current: bool
    enrolled_at: str | None
    expires_at: str | None
    last_seen_at: str | None
    attempts: int | None
    failures: int
    versions: dict[str, str]
    cores_total: int | None
    cores_free: int | None
    memory_total_mb: int | None
    memory_free_mb: int | None
    disk_total_mb: int | None
    disk_free_mb: int | None
    limits: bool | None
    selftest: SelftestView | None
    ui_url: str | None


ENROL: Final = msgspec.json.Decoder(EnrolBody)
SELFTEST: Final = msgspec.json.Decoder(SelftestBody)
REPORT: Final = msgspec.json.Decoder(ReportBody)
DRAIN: Final = msgspec.json.Decoder(DrainBody)
LIMITS: Final = msgspec.json.Decoder(LimitsBody)

HINTS: Final = {
    "group_token": "The group's token, as in the bundle's node.conf.",
    "name": "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit.",
    "signing_request": "A certificate request (PKCS #10) in PEM: openssl req -new.",
    "bucket_id": fields.HINTS["bucket_id"],
    "deadline_s": "A whole number of seconds from 0 to 2678400 (31 days).",
    "required": "true or false.",
    "clock": "The machine's time as Unix seconds.",
}


def candidate(sent: EnrolBody) -> Candidate:
    """A machine that asks to be let in, as the model."""
    told = sent.facts
    facts = Facts(
        cores=told.cores,
        memory_mb=told.memory_mb,
        disk_mb=told.disk_mb,
        architecture=told.architecture,
        versions=told.versions,
        limits=told.limits,
        clock=told.clock,
    )
    return Candidate(name=sent.name, signing_request=sent.signing_request, facts=facts)


def findings(sent: ReportBody) -> list[SelftestFinding]:
    """What a node found, as the model."""
    return [
        SelftestFinding(what=one.what, ok=one.ok, detail=one.detail, remedy=one.remedy)
        for one in sent.findings
    ]


def admission_view(admission: Admission) -> dict[str, Any]:
    """What a node needs to join, as JSON."""
    return {"files": admission.files, "expires_at": rfc3339(admission.expires_at)}


def admission_tar(admission: Admission) -> bytes:
    """The same as a tar archive, for machines with nothing to read JSON with."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in sorted(admission.files.items()):
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o600
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def selftest_view(job: Job) -> dict[str, Any]:
    """How far a self-test is."""
    return {
        "id": job.id,
        "state": job.state,
        "phase": job.phase,
        "reason": job.reason,
        "exit_code": job.exit_code,
    }


def node_view(report: NodeReport) -> NodeJson:
    """A node: what the scheduler shows counts for more than what it once said of itself."""
    node, view = report.node, report.view
    facts = node.facts if node is not None else None
    return NodeJson(
        name=report.name,
        state=report.state,
        reason=report.reason,
        generation_current=report.generation_current,
        enrolled_at=rfc3339_or_none(node.enrolled_at if node else None),
        expires_at=rfc3339_or_none(node.expires_at if node else None),
        last_seen_at=rfc3339_or_none(report.last_seen_at),
        attempts=view.attempts if view else None,
        failures=node.failures if node else 0,
        versions={**(facts.versions if facts else {}), **(view.versions if view else {})},
        cores_total=view.cores_total if view else (facts.cores if facts else None),
        cores_free=view.cores_free if view else None,
        memory_total_mb=view.memory_total_mb if view else (facts.memory_mb if facts else None),
        memory_free_mb=view.memory_free_mb if view else None,
        disk_total_mb=view.disk_total_mb if view else (facts.disk_mb if facts else None),
        disk_free_mb=view.disk_free_mb if view else None,
        limits=facts.limits if facts else None,
        selftest=_selftest(report),
        ui_url=report.ui_url,
    )


def _selftest(report: NodeReport) -> SelftestView | None:
    node = report.node
    if node is None or node.selftest_at is None:
        return None
    return SelftestView(
        at=rfc3339(node.selftest_at), ok=bool(node.selftest_ok), detail=node.selftest_detail
    )
