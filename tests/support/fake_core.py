"""The core in memory: the rules of access, jobs and groups without a database.

Ids count up and the clock stands still, so that answers can be compared whole.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from bridge.connectors.base import Finding
from bridge.errors import (
    Conflict,
    Forbidden,
    NotFound,
    NotReady,
    Refused,
    Unauthenticated,
)
from bridge.models.attempt import Attempt, AttemptState, Cause
from bridge.models.explanation import Explanation
from bridge.models.identity import Caller, Group, Role, User
from bridge.models.job import FINAL, LIVE, Job, JobState, NewJob
from bridge.models.job_set import SetSummary
from bridge.models.secret import SecretKind, kind_of, new_secret
from bridge.models.usage import GroupMonth, Month
from tests.support.fake_machines import FakeMachines, FakeNodes

NOW: Final = 1_767_225_600.25  # 2026-01-01T00:00:00.250Z
TOKEN: Final = "grouptokenofalpha"


class FakeAccess:
    def __init__(self, groups: FakeGroups) -> None:
        self._groups = groups
        self.lookups = 0

    def by_secret(self, secret: str) -> Caller:
        self.lookups += 1
        if kind_of(secret) is SecretKind.COMPUTE:
            raise Unauthenticated(
                "This is a compute secret, which only adds nodes.", "Use your API secret."
            )
        user = self._groups.by_secret.get(secret)
        if user is None or self._groups.users[user].revoked_at is not None:
            raise Unauthenticated("This API secret is not known, or was revoked.", "Ask an admin.")
        found = self._groups.users[user]
        role = Role.ADMIN if found.admin else Role.MEMBER
        return Caller(group=self._groups.group_of(found), role=role, user=found)

    def by_group_token(self, token: str) -> Caller:
        self.lookups += 1
        for group in self._groups.groups.values():
            if group.token == token:
                return Caller(group=group, role=Role.READER, user=None)
        raise Unauthenticated("This group token is not known.")


class FakeGroups:
    def __init__(self) -> None:
        self.groups: dict[UUID, Group] = {}
        self.users: dict[UUID, User] = {}
        self.by_secret: dict[str, UUID] = {}
        self.compute_secrets: dict[str, str] = {}  # by group token
        self.overlaps: list[float | None] = []  # of the rotations asked for
        self._ids = itertools.count(1)

    def add_group(self, name: str, token: str, *, ready: bool = True) -> Group:
        group = Group(
            id=UUID(int=next(self._ids)),
            name=name,
            token=token,
            connector="local",
            namespace=f"g-{name}",
            node_pool=f"g-{name}",
            generation=None,
            has_compute_secret=ready,
            created_at=NOW,
        )
        self.groups[group.id] = group
        return group

    def add_member(self, group: Group, name: str, *, admin: bool = False) -> str:
        user = User(
            id=UUID(int=next(self._ids)),
            group_id=group.id,
            name=name,
            admin=admin,
            created_at=NOW,
            revoked_at=None,
            last_used_at=None,
        )
        secret = new_secret(SecretKind.API)
        self.users[user.id] = user
        self.by_secret[secret] = user.id
        return secret

    def group_of(self, user: User) -> Group:
        return self.groups[user.group_id]

    def add_user(self, caller: Caller, name: str, admin: bool) -> str:
        _require_admin(caller)
        if any(user.name == name for user in self.list_users(caller)):
            raise Conflict(f"There is already a user {name!r} in the group.")
        return self.add_member(caller.group, name, admin=admin)

    def list_users(self, caller: Caller) -> list[User]:
        _require_admin(caller)
        return [user for user in self.users.values() if user.group_id == caller.group.id]

    def revoke(self, caller: Caller, name: str) -> User:
        for user in self.list_users(caller):
            if user.name == name:
                revoked = msgspec.structs.replace(user, revoked_at=NOW)
                self.users[user.id] = revoked
                return revoked
        raise NotFound(f"There is no user {name!r} in the group.")

    def rotate_compute_secret(self, caller: Caller, overlap_s: float | None = None) -> str:
        _require_admin(caller)
        self.overlaps.append(overlap_s)
        self.groups[caller.group.id] = msgspec.structs.replace(
            caller.group, has_compute_secret=True
        )
        self.compute_secrets[caller.group.token] = new_secret(SecretKind.COMPUTE)
        return self.compute_secrets[caller.group.token]

    def is_compute_secret(self, caller: Caller, secret: str) -> bool:
        _require_admin(caller)
        return self.compute_secrets.get(caller.group.token) == secret

    def require_limits(self, caller: Caller, required: bool) -> None:
        _require_admin(caller)
        self.groups[caller.group.id] = msgspec.structs.replace(
            caller.group, requires_limits=required
        )


class FakeJobs:
    def __init__(self) -> None:
        self.jobs: dict[UUID, Job] = {}
        self.calls: list[str] = []
        self.fault: Exception | None = None
        self.arrived = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._ids = itertools.count(0x7000_0000)

    def submit(self, caller: Caller, new: NewJob) -> Job:
        self.arrived.set()
        self.gate.wait(10)
        (result,) = self.submit_many(caller, [new])
        if isinstance(result, Refused):
            raise result
        return self.jobs[result]

    def submit_many(
        self, caller: Caller, items: Sequence[NewJob | Refused]
    ) -> list[UUID | Refused]:
        self._called("submit_many")
        user = _require_user(caller)
        if not caller.group.has_compute_secret:
            raise NotReady("The group has no compute secret yet.", "An admin sets it up.")
        return [
            item if isinstance(item, Refused) else self._store(caller, user, item) for item in items
        ]

    def get(self, caller: Caller, job_id: UUID) -> Job:
        self._called("get")
        user = _require_user(caller)
        job = self.jobs.get(job_id)
        if (
            job is None
            or job.group_id != caller.group.id
            or (caller.role is not Role.ADMIN and job.user_id != user.id)
        ):
            raise NotFound("No such job or not your job.")
        return job

    def find(
        self,
        caller: Caller,
        *,
        state: JobState | None = None,
        user: str | None = None,
        set: str | None = None,
        limit: int = 100,
        before: UUID | None = None,
    ) -> list[Job]:
        me = _require_user(caller)
        return [
            job
            for job in self.activity(caller, 1_000_000, before)
            if (caller.role is Role.ADMIN or job.user_id == me.id)
            and (state is None or job.state is state)
            and (user is None or job.user == user)
            and (set is None or job.set == set)
        ][:limit]

    def activity(self, caller: Caller, limit: int = 100, before: UUID | None = None) -> list[Job]:
        self._called("activity")
        newest = sorted(self.jobs.values(), key=lambda job: job.id, reverse=True)
        return [
            job
            for job in newest
            if job.group_id == caller.group.id and (before is None or job.id < before)
        ][:limit]

    def cancel(self, caller: Caller, job_id: UUID) -> Job:
        job = self.get(caller, job_id)
        if job.state in FINAL:
            return job
        return self.change(job, state=JobState.CANCELED, cancel_requested_at=NOW, ended_at=NOW)

    def hold(self, caller: Caller, job_id: UUID) -> Job:
        return self.change(self._received(caller, job_id), hold=True)

    def release(self, caller: Caller, job_id: UUID) -> Job:
        return self.change(self._received(caller, job_id), hold=False)

    def prune(self, caller: Caller, job_id: UUID, deleted: bool = False) -> Job:
        job = self.get(caller, job_id)
        if job.state not in FINAL:
            raise Conflict(f"The job is {job.state}; its data is still needed.")
        return self.change(job, prune_requested_at=NOW, pruned_at=NOW if deleted else None)

    def retry(self, caller: Caller, job_id: UUID) -> Job:
        job = self.get(caller, job_id)
        if job.state not in {JobState.FAILED, JobState.CANCELED}:
            raise Conflict(f"The job is {job.state}; only an ended one is tried again.")
        return self.change(job, state=JobState.RECEIVED, ended_at=None, cancel_requested_at=None)

    def attempts(self, caller: Caller, job_id: UUID) -> list[Attempt]:
        job = self.get(caller, job_id)
        return [_attempt(job, number) for number in range(1, job.attempt + 1)]

    def explain(self, caller: Caller, job_id: UUID) -> Explanation:
        job = self.get(caller, job_id)
        ahead = sum(
            other.state is JobState.RECEIVED and other.id < job.id for other in self.jobs.values()
        )
        return Explanation(
            sentence=f"{ahead} jobs are ahead.", ahead=ahead, details={"cores_free": 2}
        )

    def change(self, job: Job, **changes: object) -> Job:
        """Store ``job`` with other values, as a scheduler's news would."""
        self.jobs[job.id] = msgspec.structs.replace(job, **changes)
        return self.jobs[job.id]

    def _received(self, caller: Caller, job_id: UUID) -> Job:
        job = self.get(caller, job_id)
        if job.state is not JobState.RECEIVED:
            raise Conflict(f"The job is {job.state}.")
        return job

    def _store(self, caller: Caller, user: User, new: NewJob) -> UUID | Refused:
        for job in self.jobs.values():
            if job.group_id == caller.group.id and job.bucket_id == new.bucket_id:
                if job.user_id == user.id:
                    return job.id
                return Conflict("This bucket already belongs to a job of another member.")
        job_id = UUID(int=next(self._ids))
        nothing = dict.fromkeys(Job.__struct_fields__)
        given = {name: getattr(new, name) for name in new.__struct_fields__}
        made = {
            "id": job_id,
            "group_id": caller.group.id,
            "user_id": user.id,
            "user": user.name,
            "state": JobState.RECEIVED,
            "attempt": 0,
            "retries": 0,
            "attempts_before": 0,
            "created_at": NOW,
        }
        self.jobs[job_id] = Job(**{**nothing, **given, **made})
        return job_id

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fault is not None:
            raise self.fault


class FakeSets:
    """Sets as what they are: many jobs."""

    def __init__(self, jobs: FakeJobs) -> None:
        self._jobs = jobs

    def find(
        self, caller: Caller, *, limit: int | None = None, after: str = ""
    ) -> list[SetSummary]:
        names = {job.set for job in self._jobs.find(caller, limit=1_000_000)}
        page = [name for name in sorted(filter(None, names)) if name > after][:limit]
        return [self.get(caller, name) for name in page]

    def explain(self, caller: Caller, name: str) -> Explanation:
        found = self._jobs.explain(caller, self._members(caller, name)[-1].id)
        return msgspec.structs.replace(found, sentence=f"Of {name}: {found.sentence}")

    def attempts(
        self, caller: Caller, name: str, *, limit: int = 100, before: UUID | None = None
    ) -> list[list[Attempt]]:
        jobs = [job for job in self._members(caller, name) if before is None or job.id < before]
        return [self._jobs.attempts(caller, job.id) for job in jobs if job.attempt][:limit]

    def get(self, caller: Caller, name: str) -> SetSummary:
        states = Counter(job.state for job in self._members(caller, name))
        return SetSummary(name=name, jobs=dict(states), first_at=NOW, last_at=NOW)

    def cancel(self, caller: Caller, name: str) -> int:
        return self._steer(caller, name, set(LIVE), self._jobs.cancel)

    def hold(self, caller: Caller, name: str) -> int:
        return self._steer(caller, name, {JobState.RECEIVED}, self._jobs.hold)

    def release(self, caller: Caller, name: str) -> int:
        return self._steer(caller, name, {JobState.RECEIVED}, self._jobs.release)

    def retry(self, caller: Caller, name: str) -> int:
        return self._steer(caller, name, {JobState.FAILED}, self._jobs.retry)

    def prune(self, caller: Caller, name: str) -> int:
        return self._steer(caller, name, set(FINAL), self._jobs.prune)

    def _steer(
        self,
        caller: Caller,
        name: str,
        states: set[JobState],
        act: Callable[[Caller, UUID], Job],
    ) -> int:
        steered = [job for job in self._members(caller, name) if job.state in states]
        return sum(act(caller, job.id) != job for job in steered)

    def _members(self, caller: Caller, name: str) -> list[Job]:
        found = self._jobs.find(caller, set=name, limit=1_000_000)
        if not found:
            raise NotFound(f"There is no set {name!r} with jobs of yours.")
        return found


class FakeUsage:
    def __init__(self) -> None:
        self.months: list[Month] = []

    def by_month(self, caller: Caller) -> list[Month]:
        me = _require_user(caller)
        everyone = caller.role is Role.ADMIN
        return [month for month in self.months if everyone or month.user == me.name]

    def of_group(self, caller: Caller) -> list[GroupMonth]:
        _require_admin(caller)
        return [
            GroupMonth(one.month, one.attempts, one.core_seconds, one.gpu_seconds)
            for one in self.months
        ]


class FakePages:
    """Nomad's own interface has a page for each."""

    def of_job(self, caller: Caller, job: Job) -> str | None:
        return "https://nomad.test/ui/jobs/1" if caller.role is Role.ADMIN else None

    def of_attempt(self, caller: Caller, attempt: Attempt) -> str | None:
        return "https://nomad.test/ui" if caller.role is Role.ADMIN else None


class FakeBridge:
    """Group alpha with the admin anna and the members ben and cleo, group beta with bert."""

    def __init__(self) -> None:
        self.groups = FakeGroups()
        self.access = FakeAccess(self.groups)
        self.jobs = FakeJobs()
        self.sets = FakeSets(self.jobs)
        self.usage = FakeUsage()
        self.enrolment = self.selftests = FakeMachines(self.groups.compute_secrets)
        self.nodes = FakeNodes()
        self.pages = FakePages()
        self.alpha = self.groups.add_group("alpha", TOKEN)
        self.anna = self.groups.add_member(self.alpha, "anna", admin=True)
        self.ben = self.groups.add_member(self.alpha, "ben")
        self.cleo = self.groups.add_member(self.alpha, "cleo")
        self.beta = self.groups.add_group("beta", "grouptokenofbeta", ready=False)
        self.bert = self.groups.add_member(self.beta, "bert", admin=True)
        self.findings = [Finding("database", True)]
        self.looks = 0

    def ready(self) -> list[Finding]:
        self.looks += 1
        return self.findings


def _attempt(job: Job, number: int) -> Attempt:
    """The ``number``-th run of a job, all but the last lost with their node."""
    nothing = dict.fromkeys(Attempt.__struct_fields__)
    last = number == job.attempt
    known: dict[str, Any] = {
        "id": UUID(int=number),
        "job_id": job.id,
        "number": number,
        "connector": "local",
        "native_id": f"bridge-test-{job.id.hex}-{number}",
        "namespace": "g-alpha",
        "state": AttemptState.RUNNING if last else AttemptState.ENDED,
        "claim_token": UUID(int=77),
        "claimed_at": NOW,
        "submitted_at": NOW,
        "node": "node7",
        "cause": Cause.NODE_LOST,  # the last one came back
        "reason": None if last else "the node went away",
        "ended_at": None if last else NOW,
    }
    return Attempt(**{**nothing, **known})


def _require_user(caller: Caller) -> User:
    if caller.user is None:
        raise Forbidden("A group token only reads.", "Use your API secret.")
    return caller.user


def _require_admin(caller: Caller) -> None:
    _require_user(caller)
    if caller.role is not Role.ADMIN:
        raise Forbidden("Only an admin of the group may do this.")
