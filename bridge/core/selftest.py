"""Self-tests of nodes: a job pinned to the node that asks, and what the node found itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from bridge.connectors.base import Connector
from bridge.core.access import Access
from bridge.core.enrolment import ACTOR, takes_nodes
from bridge.core.jobs import cancel_job
from bridge.core.node_rules import bar
from bridge.core.nodes import match_pool
from bridge.db import audit, identity, selftests
from bridge.db import nodes as nodes_db
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, NotFound
from bridge.models.identity import Group
from bridge.models.job import Job, NewJob
from bridge.models.node import SELFTEST_IMAGE, Node, NodeStatus, SelftestFinding
from bridge.models.secret import SECRET_PATTERN

_MEMORY_MB: Final = 64
_TIME_LIMIT_S: Final = 120
_FIRST: Final = 100  # priority
_LONGEST_DETAIL: Final = 4000


class Selftests:
    """What a node may do with the compute secret once it has enrolled.

    Every method raises Unauthenticated, and NotFound for a name that is not enrolled.
    """

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        access: Access,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._access = access
        self._wake = wake
        self._clock = clock

    def start(self, token: str, secret: str, name: str, bucket_id: UUID) -> Job:
        """Run the job in a bucket on this node; one that still waits is given up for it.

        Raises also Conflict (the node can take no job now, or the bucket is a member's).
        """
        group, node = self._node(token, secret, name)
        native_id = self._machine(group, node)
        now = self._clock()
        new = NewJob(
            bucket_id=bucket_id,
            image=SELFTEST_IMAGE,
            name=name,
            memory_mb=_MEMORY_MB,
            time_limit_s=_TIME_LIMIT_S,
            priority=_FIRST,
        )

        def write(conn: Connection) -> UUID:
            # One after the other: so of two at once, one gives way.
            identity.lock_group(conn, group.id)
            before = selftests.live(conn, group.id, name)
            stored = selftests.add(conn, group.id, new, pinned_to=native_id, now=now)
            if not isinstance(stored, UUID):
                raise Conflict("This bucket belongs to a job.", "Make a new one for the self-test.")
            for job_id in before:
                if job_id != stored:
                    cancel_job(conn, job_id, now)
            return stored

        job_id = self._db.write(write)
        self._wake()
        return self._get(group, name, job_id)

    def look(self, token: str, secret: str, name: str, job_id: UUID) -> Job:
        """How far a self-test is. Raises also NotFound for an id that is none of this node."""
        group, _ = self._node(token, secret, name)
        return self._get(group, name, job_id)

    def report(
        self, token: str, secret: str, name: str, ok: bool, findings: Sequence[SelftestFinding]
    ) -> None:
        """Store what the node found; shown to the admins."""
        group, node = self._node(token, secret, name)
        now = self._clock()
        detail = _in_words(findings)

        def write(conn: Connection) -> None:
            nodes_db.change(
                conn, node.id, selftest_at=now, selftest_ok=ok, selftest_detail=detail or None
            )
            audit.record(
                conn,
                group_id=group.id,
                actor=ACTOR,
                action="node.report",
                target=name,
                detail="ok" if ok else "not ok",
                now=now,
            )

        self._db.write(write)

    def _node(self, token: str, secret: str, name: str) -> tuple[Group, Node]:
        group = self._access.by_compute_secret(token, secret)
        node = self._db.read(lambda conn: nodes_db.get(conn, group.id, name))
        if node is None or node.removed_at is not None:
            raise NotFound(f"{name[:80]!r} is not enrolled.", "Enrol it first: run.sh")
        return group, node

    def _get(self, group: Group, name: str, job_id: UUID) -> Job:
        job = self._db.read(lambda conn: selftests.get(conn, group.id, name, job_id))
        if job is None:
            raise NotFound("There is no such self-test of this node.", "Ask for another one.")
        return job

    def _machine(self, group: Group, node: Node) -> str:
        """The scheduler's id of the node. Raises Conflict when it can take no job."""
        views = takes_nodes(self._connectors, group).nodes()
        now = self._clock()

        found = self._db.read(lambda conn: match_pool(conn, group, views, now))
        mine = next(one for one in found if one.node is not None and one.node.id == node.id)
        view = mine.view
        if view is None or view.status is not NodeStatus.READY:
            raise Conflict(
                f"{node.name} is not registered at the scheduler (yet).",
                "Wait some seconds and ask again; see the log of the Nomad client there.",
            )
        problem = bar(mine, now) or ("paused by its owner" if view.paused else None)
        if problem is not None:
            raise Conflict(f"{node.name} is given no jobs: {problem}.", "An admin sees more.")
        return view.id


def _in_words(findings: Sequence[SelftestFinding]) -> str:
    """What is not fine, a line each. A node's text is shown to people: it gets to hold
    neither control characters nor secrets.
    """
    lines = [
        " ".join(f"{one.what}: {one.detail} {one.remedy}".split()).strip()
        for one in findings
        if not one.ok
    ]
    text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return SECRET_PATTERN.sub("***", text)[:_LONGEST_DETAIL]
