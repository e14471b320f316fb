"""A house whose scheduler has nodes that the group brings."""

from __future__ import annotations

from typing import Any

from bridge.core.enrolment import Enrolment
from bridge.core.node_watch import NodeWatch
from bridge.core.nodes import Nodes
from bridge.core.selftest import Selftests
from bridge.db import identity
from bridge.db import nodes as nodes_db
from bridge.db.engine import Database
from bridge.models.identity import Group
from bridge.models.node import Admission, Candidate, Node
from tests.integration.core.conftest import House
from tests.support.fake_nodes import FakeNodes, facts

QUARANTINE_FAILURES = 3


class Hall(House):
    """Group ``lab`` as in House, with machines."""

    def __init__(self, db: Database) -> None:
        self.machines = FakeNodes()
        super().__init__(db, scheduler=self.machines)
        self.machines.clock = self.clock
        connectors = {"local": self.machines}
        self.enrolment = Enrolment(db, connectors, self.access, self.clock)
        self.selftests = Selftests(db, connectors, self.access, clock=self.clock)
        self.nodes = Nodes(db, connectors, self.clock)
        self.watch = NodeWatch(
            db,
            connectors,
            quarantine_failures=QUARANTINE_FAILURES,
            patience=self.patience,
            clock=self.clock,
        )

    @property
    def group(self) -> Group:
        """The group as it is now."""
        found = self.db.read(lambda conn: identity.group_by_id(conn, self.root.group.id))
        assert found is not None
        return found

    @property
    def door(self) -> tuple[str, str]:
        """What a machine shows: group token and compute secret."""
        return self.group.token, self.compute_secret

    def ask(self, name: str = "n1", **changes: Any) -> Admission:
        """A machine asks to be let in."""
        candidate = Candidate(
            name=name,
            signing_request="-----BEGIN CERTIFICATE REQUEST-----",
            facts=facts(**{"clock": self.clock(), **changes}),
        )
        return self.enrolment.enrol(*self.door, candidate)

    def join(self, name: str = "n1", native_id: str = "") -> None:
        """A machine is let in and registers, with what it was given."""
        self.ask(name)
        self.machines.register(native_id or f"id-{name}", name, self.group.generation)
        self.watch.step()

    def rotate(self, overlap_s: float) -> None:
        """A new compute secret."""
        self.compute_secret = self.groups.rotate_compute_secret(self.root, overlap_s)

    def stored(self, name: str = "n1") -> Node:
        """The node as it is in the database."""
        found = self.db.read(lambda conn: nodes_db.get(conn, self.group.id, name))
        assert found is not None
        return found
