from __future__ import annotations

import msgspec

from bridge.api.v1 import node_views
from bridge.cli import output
from bridge.client.nodes import STAGE_PROTOCOL, Change, Node, SelfTest, changes
from bridge.models.node import NodeState
from bridge.process import run
from bridge.resources import path


def test_everything_that_the_service_tells_is_understood() -> None:
    for told, known in (
        (node_views.NodeJson, Node),
        (node_views.SelftestView, SelfTest),
    ):
        assert set(told.__struct_fields__) == set(known.__struct_fields__)


def test_a_node_that_tells_nothing_can_be_read() -> None:
    told = dict.fromkeys(node_views.NodeJson.__struct_fields__)
    sent = told | {"name": "odd", "state": "stranger", "versions": {}}
    assert msgspec.convert(sent, Node) == Node(name="odd", state="stranger")


def test_every_state_but_the_last_has_a_colour() -> None:
    assert [state for state in NodeState if not output.colour(state)] == [NodeState.REMOVED]


def test_what_is_behind() -> None:
    has = {"nomad": "2.0.4", "docker": "28.5.2", "kernel": "6.1"}
    node = Node(name="n1", state="ready", versions=has)
    wanted = {"nomad": {"2.0.5", "2.0.6"}, "docker": {"28.5.2"}, "rclone": {"1.75.2"}}
    assert changes(node, wanted) == [Change(part="nomad", found="2.0.4", wanted="2.0.5 or 2.0.6")]


def test_the_stage_protocol_is_that_of_the_stage_program() -> None:
    done = run(["sh", path("node-setup/bin/stage"), "version"], timeout=30)
    assert done.stdout.strip() == STAGE_PROTOCOL
