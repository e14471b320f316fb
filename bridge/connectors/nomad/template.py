"""The operator's job file, made sure of before any job depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bridge.connectors.nomad import faults
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.jobspec import JsonObject, problems
from bridge.errors import ConnectorUnavailable

_RETRY_S: Final = 30.0  # nothing changes before the operator acts


def load(client: NomadClient, hcl: str, file: Path, namespace: str) -> JsonObject:
    """Have Nomad parse and validate the file.

    A faulty file is the operator's to mend and no job's fault, so it raises
    ConnectorUnavailable, naming what is wrong: jobs wait, none is lost.
    """
    job = client.parse(file.name, hcl, namespace)
    wrong = "; ".join(problems(job)) or _invalid(client, {**job, "Namespace": namespace})
    if wrong:
        raise ConnectorUnavailable(
            f"The job file {file.name} cannot be used: {wrong}",
            "Correct it (setting nomad.job_file) and start the bridge again.",
            _RETRY_S,
        )
    return job


def _invalid(client: NomadClient, job: JsonObject) -> str:
    answer = client.validate(job)
    wrong = "; ".join(answer.validation_errors or ()) or answer.error
    if faults.lacks_place(wrong):
        raise ConnectorUnavailable(wrong, faults.PLACE_HINT, _RETRY_S, narrow=True)
    return wrong
