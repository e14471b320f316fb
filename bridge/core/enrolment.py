"""Letting machines in: who shows the group's compute secret may become one of its nodes.

The scheduler is asked for what the node needs outside any transaction; what it gave is
handed out only if the compute secret and the generation still are those it was made for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from bridge import log, points
from bridge.connectors.base import Connector, Nodes
from bridge.core.access import Access, not_the_compute_secret
from bridge.db import audit, identity
from bridge.db import nodes as nodes_db
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, InvalidRequest, Unavailable
from bridge.models.identity import Group
from bridge.models.node import Admission, Candidate, EnrolRequest
from bridge.models.secret import digest, new_generation
from bridge.points import Point

_log = log.get(__name__)

NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
CLOCK_TOLERANCE_S: Final = 60.0
ACTOR: Final = "node"  # in the audit: somebody who has the compute secret
_TRIES: Final = 3


class Enrolment:
    """The door for machines."""

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        access: Access,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._access = access
        self._clock = clock

    def enrol(self, token: str, secret: str, candidate: Candidate) -> Admission:
        """Let a machine in, or renew what it has; it is a node of the group from now on.

        Raises Unauthenticated, InvalidRequest (name, clock, signing request), Conflict
        (the group's scheduler takes no nodes), Unavailable.
        """
        for _ in range(_TRIES):
            group = self._access.by_compute_secret(token, secret)
            self._check(candidate)
            generation = group.generation or new_generation()
            admission = takes_nodes(self._connectors, group).enrol(
                EnrolRequest(
                    name=candidate.name,
                    node_pool=group.node_pool,
                    generation=generation,
                    signing_request=candidate.signing_request,
                    limits=candidate.facts.limits,
                )
            )
            points.reach(Point.ENROL_ADMITTED)
            if self._commit(group, secret, generation, candidate, admission):
                _log.info("action=enrol group=%s node=%s", group.name, candidate.name)
                return admission
        # Another first node was faster; that happens once in the life of a group.
        raise Unavailable("Others enrol at the same time.", "Try again.", retry_after=1.0)

    def _commit(
        self,
        group: Group,
        secret: str,
        generation: str,
        candidate: Candidate,
        admission: Admission,
    ) -> bool:
        """Whether the generation is still that of the group; only then it is stored."""

        def write(conn: Connection) -> bool:
            identity.lock_group(conn, group.id)
            if identity.compute_hash(conn, group.id) != digest(secret):
                raise not_the_compute_secret()
            current = identity.group_by_id(conn, group.id)
            assert current is not None
            if current.generation is None:
                identity.set_generation(conn, group.id, generation)
            elif current.generation != generation:
                return False
            self._store(conn, group, generation, candidate, admission)
            points.reach(Point.ENROL_BEFORE_COMMIT)
            return True

        return self._db.write(write)

    def _store(
        self,
        conn: Connection,
        group: Group,
        generation: str,
        candidate: Candidate,
        admission: Admission,
    ) -> None:
        now = self._clock()
        enrolment = nodes_db.Enrolment(
            group_id=group.id,
            name=candidate.name,
            generation=generation,
            facts=candidate.facts,
            enrolled_at=now,
            expires_at=admission.expires_at,
        )
        new = nodes_db.enrol(conn, enrolment)
        audit.record(
            conn,
            group_id=group.id,
            actor=ACTOR,
            action="node.enrol" if new else "node.renew",
            target=candidate.name,
            now=now,
        )

    def _check(self, candidate: Candidate) -> None:
        check_node_name(candidate.name)
        ahead = candidate.facts.clock - self._clock()
        if abs(ahead) > CLOCK_TOLERANCE_S:
            which = "ahead of" if ahead > 0 else "behind"
            raise InvalidRequest(
                f"The clock of {candidate.name} is {abs(ahead):.0f} s {which} the bridge's; "
                f"at most {CLOCK_TOLERANCE_S:.0f} s are tolerated.",
                "Set it, and keep it right by NTP (timedatectl set-ntp true); then try again.",
            )


def takes_nodes(connectors: Mapping[str, Connector], group: Group) -> Nodes:
    """What steers the nodes of a group's scheduler. Raises Conflict where it has none."""
    connector = connectors.get(group.connector)
    if isinstance(connector, Nodes):
        return connector
    raise Conflict(
        f"The jobs of the group {group.name} run at {group.connector!r}, which takes no nodes.",
        "Ask the operator to give the group the connector nomad.",
    )


def check_node_name(name: str) -> None:
    """Raises InvalidRequest."""
    if not NODE_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is no name for a node.",
            "Use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit "
            "(run.sh --name).",
        )
