"""Calls that change nodes and let them in: they need a token of more power."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from nomad import api

from bridge.connectors.nomad import faults
from bridge.connectors.nomad.client import NODE_GONE, Connection, NomadClient

_NS_PER_S: Final = 1_000_000_000
_NEEDS: Final = "node write"
_AT_ONCE: Final = -1  # a drain that gives nothing any time; Nomad takes 0 as "for ever"


def second(connection: Connection, token: str) -> Connection:
    """The same connection with the second token."""
    # Named where the token does not suffice.
    return msgspec.structs.replace(connection, token=token, from_setting="nomad.node_token_file")


class Introduction(msgspec.Struct, frozen=True):
    """A token that lets one node register once."""

    token: str = msgspec.field(name="JWT")


class NodeKeeper(NomadClient):
    """A client with the second token, which may write nodes. Each call raises
    ConnectorUnavailable. A node that does not exist is no error.
    """

    def introduce(self, name: str, node_pool: str, lifetime_s: float) -> str:
        """A token by which a node of this name may register in this pool."""
        body = {"NodePool": node_pool, "NodeName": name, "TTL": f"{int(lifetime_s)}s"}
        path = "acl/identity/client-introduction-token"
        made = self._call(
            f"introduce the node {name}",
            lambda: self._send("POST", path, body).json(),
            Introduction,
            needs=_NEEDS,
        )
        return made.token

    def set_eligible(self, node_id: str, eligible: bool) -> None:
        """Whether a node is given new work. Only this way round ends a drain: True."""
        node = self._endpoint(api.Node)
        self._change(
            f"make the node {node_id} {'eligible' if eligible else 'ineligible'}",
            # Nomad refuses to make a draining node eligible other than by ending the drain.
            lambda: (
                node.drain_node_with_spec(node_id, None, mark_eligible=True)
                if eligible
                else node.eligible_node(node_id, ineligible=True)
            ),
        )

    def drain(self, node_id: str, deadline_s: float) -> None:
        """Give a node nothing more, and stop what is there after ``deadline_s``."""
        deadline = int(deadline_s * _NS_PER_S) or _AT_ONCE
        spec = {"Deadline": deadline, "IgnoreSystemJobs": True}
        node = self._endpoint(api.Node)
        self._change(f"drain the node {node_id}", lambda: node.drain_node_with_spec(node_id, spec))

    def purge(self, node_id: str) -> None:
        """Forget a node. One that is alive registers again."""
        node = self._endpoint(api.Node)
        self._change(f"remove the node {node_id}", lambda: node.purge_node(node_id))

    def _change(self, doing: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except faults.FAULTS as fault:
            # By its words: the status is 404 or 500, depending on the call.
            response = faults.response_of(fault)
            if response is None or NODE_GONE not in response.text:
                raise self._error(fault, doing, _NEEDS) from None
