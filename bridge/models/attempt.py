"""An attempt: one run of a job at a connector."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from bridge.models.job import Phase

# No database of ours holds these characters; exit codes have 32 bits there.
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
EXIT_CODES: Final = (-(2**31), 2**31 - 1)
LONGEST_NODE: Final = 255


class Cause(StrEnum):
    """Why an attempt ended otherwise than with exit code 0."""

    EXIT = "exit"  # the user's program returned non-zero
    OOM = "oom"  # killed for its memory limit
    TIMEOUT = "timeout"  # the job's time limit
    INPUT_MISSING = "input_missing"  # no bucket, no run.tgz or no access to them
    INPUT_INVALID = "input_invalid"  # run.tgz is damaged or tries to leave its folder
    IMAGE_MISSING = "image_missing"  # the image is nowhere to be had
    STORAGE = "storage"  # S3 away or full for longer than we wait
    NODE_LOST = "node_lost"  # the machine went away, or was restarted
    DRAINED = "drained"  # the machine was drained under the job; not charged, tried anew
    REJECTED = "rejected"  # the scheduler refuses the job
    CANCELED = "canceled"  # somebody asked for it
    WITHDRAWN = "withdrawn"  # taken back by us or superseded; not charged, tried anew
    INTERNAL = "internal"  # a fault of ours or of the node


# Ends that neither the job nor its machine has caused: no use is charged for them.
NOT_CHARGED: Final = frozenset({Cause.WITHDRAWN, Cause.DRAINED})


class AttemptState(StrEnum):
    """Where an attempt is."""

    CLAIMED = "claimed"  # ours to hand over; the scheduler may or may not know it
    SUBMITTED = "submitted"  # the scheduler has confirmed it
    RUNNING = "running"  # the user's program has started
    ENDED = "ended"  # the result is recorded


LIVE_ATTEMPT: Final = frozenset(AttemptState) - {AttemptState.ENDED}


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A stored attempt. Times are Unix seconds."""

    id: UUID
    job_id: UUID
    number: int  # 1, 2, …
    connector: str
    native_id: str
    namespace: str
    state: AttemptState
    claim_token: UUID | None
    claim_expires_at: float | None
    claimed_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    node: str | None = None
    exit_code: int | None = None
    cause: Cause | None = None  # while it is live: why it was given up, though it came back
    reason: str | None = None
    stop_cause: Cause | None = None  # why we asked the scheduler to stop it (canceled, timeout, …)
    stop_requested_at: float | None = None
    stop_sent_at: float | None = None  # when the scheduler last confirmed our wish
    missing_since: float | None = None  # first time the scheduler no longer knew it
    unknown_since: float | None = None  # first time its node was out of touch
    forgotten_at: float | None = None
    generations: str | None = None  # of nodes that may run it, by a space; None: any


class Handle(msgspec.Struct, frozen=True):
    """What a connector needs to find an attempt again."""

    native_id: str
    namespace: str = ""


class AttemptSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a connector is handed: everything to run one attempt, and no secret.

    ``bucket_id`` is confidential: it may reach the stage program's environment
    and nothing else. Memory in MiB, time in seconds.
    """

    handle: Handle
    job_id: UUID
    number: int
    group: str
    code_bucket: str
    node_pool: str
    bucket_id: UUID
    image: str
    input_sha256: str | None
    cores: int
    memory_mb: int
    time_limit_s: int
    priority: int = 50
    generations: tuple[str, ...] = ()  # of nodes that may run it; empty: any
    requires_limits: bool = False  # only on nodes that enforce limits of memory and cores
    native_node: str | None = None  # the scheduler's id of the only node that may run it
    # Names of nodes that failed it before or are kept for others: only if no other can.
    avoid: tuple[str, ...] = ()


class Observed(StrEnum):
    """What a scheduler says about an attempt."""

    PENDING = "pending"  # known, the user's program has not started
    RUNNING = "running"  # the user's program runs, or results are uploaded
    ENDED = "ended"  # over, nothing more will happen on the node
    UNKNOWN = "unknown"  # known to the scheduler, its node is out of touch
    GONE = "gone"  # the scheduler does not know it


def storable(words: str) -> str:
    """Foreign words, with U+FFFD for each character that cannot be stored: NUL, halves of
    a pair.
    """
    return _NO_TEXT.sub("\ufffd", words)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one attempt. Times are Unix seconds.

    ``cause is None`` with ``state == ENDED`` means success: exit code 0 and the
    results confirmed in the bucket. A connector never reports success otherwise.

    A scheduler may say what does not fit the database, and one such look would keep all
    that are stored with it from being recorded. So whatever is given here is made to fit.
    """

    state: Observed
    phase: Phase | None = None
    reason: str | None = None
    exit_code: int | None = None
    cause: Cause | None = None
    node: str | None = None
    started_at: float | None = None
    ended_at: float | None = None

    def __post_init__(self) -> None:
        fit = msgspec.structs.force_setattr
        if self.reason is not None:
            fit(self, "reason", storable(self.reason))
        if self.node is not None:
            fit(self, "node", storable(self.node)[:LONGEST_NODE])
        if self.exit_code is not None:
            least, most = EXIT_CODES
            fit(self, "exit_code", min(max(self.exit_code, least), most))
