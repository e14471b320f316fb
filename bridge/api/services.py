"""What the front doors need of the rest of the bridge, and how a request gets at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast
from uuid import UUID

from flask import Flask, current_app

from bridge.api.limits import Limits, RateLimit
from bridge.errors import Refused
from bridge.models.attempt import Attempt
from bridge.models.explanation import Explanation
from bridge.models.identity import Caller, User
from bridge.models.job import Job, JobState, NewJob
from bridge.models.job_set import SetSummary
from bridge.models.node import Admission, Candidate, NodeReport, SelftestFinding
from bridge.models.usage import GroupMonth, Month

_KEY: Final = "nomad-bridge"


class Access(Protocol):
    """Who is asking."""

    def by_secret(self, secret: str) -> Caller:
        """The member behind an API secret. Raises Unauthenticated."""

    def by_group_token(self, token: str) -> Caller:
        """A reader of a group. Raises Unauthenticated."""


class Jobs(Protocol):
    """The rules of jobs; errors are those of ``bridge.core.jobs``."""

    def submit(self, caller: Caller, new: NewJob) -> Job: ...

    def submit_many(
        self, caller: Caller, items: Sequence[NewJob | Refused]
    ) -> list[UUID | Refused]: ...

    def get(self, caller: Caller, job_id: UUID) -> Job: ...

    def find(
        self,
        caller: Caller,
        *,
        state: JobState | None = None,
        user: str | None = None,
        set: str | None = None,
        limit: int = 100,
        before: UUID | None = None,
    ) -> list[Job]: ...

    def activity(
        self, caller: Caller, limit: int = 100, before: UUID | None = None
    ) -> list[Job]: ...

    def cancel(self, caller: Caller, job_id: UUID) -> Job: ...

    def hold(self, caller: Caller, job_id: UUID) -> Job: ...

    def release(self, caller: Caller, job_id: UUID) -> Job: ...

    def retry(self, caller: Caller, job_id: UUID) -> Job: ...

    def prune(self, caller: Caller, job_id: UUID, deleted: bool = False) -> Job: ...

    def attempts(self, caller: Caller, job_id: UUID) -> list[Attempt]: ...

    def explain(self, caller: Caller, job_id: UUID) -> Explanation: ...


class Sets(Protocol):
    """The rules of sets; errors are those of ``bridge.core.sets``. Verbs tell how many changed."""

    def find(
        self, caller: Caller, *, limit: int | None = None, after: str = ""
    ) -> list[SetSummary]: ...

    def get(self, caller: Caller, name: str) -> SetSummary: ...

    def explain(self, caller: Caller, name: str) -> Explanation: ...

    def attempts(
        self, caller: Caller, name: str, *, limit: int = 100, before: UUID | None = None
    ) -> list[list[Attempt]]: ...

    def cancel(self, caller: Caller, name: str) -> int: ...

    def hold(self, caller: Caller, name: str) -> int: ...

    def release(self, caller: Caller, name: str) -> int: ...

    def retry(self, caller: Caller, name: str) -> int: ...

    def prune(self, caller: Caller, name: str) -> int: ...


class Usage(Protocol):
    """Who used how much."""

    def by_month(self, caller: Caller) -> list[Month]: ...

    def of_group(self, caller: Caller) -> list[GroupMonth]: ...


class Groups(Protocol):
    """The rules of membership; errors are those of ``bridge.core.groups``."""

    def add_user(self, caller: Caller, name: str, admin: bool) -> str: ...

    def list_users(self, caller: Caller) -> list[User]: ...

    def revoke(self, caller: Caller, name: str) -> User: ...

    def rotate_compute_secret(self, caller: Caller, overlap_s: float | None = None) -> str: ...

    def is_compute_secret(self, caller: Caller, secret: str) -> bool: ...

    def require_limits(self, caller: Caller, required: bool) -> None: ...


class Enrolment(Protocol):
    """The door for machines; errors are those of ``bridge.core.enrolment``."""

    def enrol(self, token: str, secret: str, candidate: Candidate) -> Admission: ...


class Selftests(Protocol):
    """What a node does once it has enrolled; errors are those of ``bridge.core.selftest``."""

    def start(self, token: str, secret: str, name: str, bucket_id: UUID) -> Job: ...

    def look(self, token: str, secret: str, name: str, job_id: UUID) -> Job: ...

    def report(
        self, token: str, secret: str, name: str, ok: bool, findings: Sequence[SelftestFinding]
    ) -> None: ...


class Pages(Protocol):
    """Pages of a scheduler's own web interface, for admins."""

    def of_job(self, caller: Caller, job: Job) -> str | None: ...

    def of_attempt(self, caller: Caller, attempt: Attempt) -> str | None: ...


class Nodes(Protocol):
    """An admin's nodes; errors are those of ``bridge.core.nodes``."""

    def list(self, caller: Caller) -> Sequence[NodeReport]: ...

    def get(self, caller: Caller, name: str) -> NodeReport: ...

    def drain(self, caller: Caller, name: str, deadline_s: float) -> NodeReport: ...

    def resume(self, caller: Caller, name: str) -> NodeReport: ...

    def remove(self, caller: Caller, name: str) -> NodeReport: ...


class Finding(Protocol):
    """One thing a check looked at; ``remedy`` says what to do when not ``ok``."""

    @property
    def what(self) -> str: ...

    @property
    def ok(self) -> bool: ...

    @property
    def detail(self) -> str: ...

    @property
    def remedy(self) -> str: ...

    @property
    def degrades(self) -> bool: ...


class Bridge(Protocol):
    """The bridge as its front doors see it."""

    @property
    def access(self) -> Access: ...

    @property
    def jobs(self) -> Jobs: ...

    @property
    def sets(self) -> Sets: ...

    @property
    def usage(self) -> Usage: ...

    @property
    def groups(self) -> Groups: ...

    @property
    def enrolment(self) -> Enrolment: ...

    @property
    def selftests(self) -> Selftests: ...

    @property
    def nodes(self) -> Nodes: ...

    @property
    def pages(self) -> Pages: ...

    def ready(self) -> Sequence[Finding]:
        """What a working service needs, and whether it is there. Raises nothing."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What is shared by all requests of one application."""

    bridge: Bridge
    limits: Limits
    requests: RateLimit  # by secret
    failures: RateLimit  # failed authentications, by address
    machines: RateLimit  # what a machine may ask for now and then, by secret


def install(app: Flask, services: Services) -> None:
    """Make ``services`` available to the requests of ``app``."""
    app.extensions[_KEY] = services


def services() -> Services:
    """The services of the application that handles this request."""
    return cast(Services, current_app.extensions[_KEY])
