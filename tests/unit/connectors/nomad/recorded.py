"""Cases recorded from a real Nomad, see tests/fixtures/nomad/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge.connectors.nomad.wire import Alloc, Evaluation, Job

FOLDER = Path(__file__).parents[3] / "fixtures" / "nomad"
TEMPLATE = FOLDER / "job.nomad.json"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json") if file != TEMPLATE)


class Case(NamedTuple):
    """What Nomad showed at the end of a case; ``job`` is None where it was purged."""

    job: Job | None
    allocs: list[Alloc]
    evaluations: list[Evaluation]


def load(name: str) -> Case:
    """A case by name."""
    return decode(json.loads((FOLDER / f"{name}.json").read_text()))


def raw_alloc(name: str) -> dict[str, Any]:
    """The one allocation of a case, to be changed by a test."""
    (alloc,) = json.loads((FOLDER / f"{name}.json").read_text())["allocs"]
    return dict(alloc)


def decode(case: dict[str, Any]) -> Case:
    """A case from its JSON."""
    return Case(
        msgspec.convert(case.get("job"), Job | None),
        msgspec.convert(case["allocs"], list[Alloc]),
        msgspec.convert(case.get("evals", []), list[Evaluation]),
    )


def template() -> dict[str, Any]:
    """The shipped job file as Nomad parses it."""
    return dict(json.loads(TEMPLATE.read_text()))
