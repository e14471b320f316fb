"""Parsed job template + attempt → Nomad job. Pure.

The operator's HCL is parsed by Nomad; here values are set in the resulting JSON
by path. Nothing a user wrote reaches HCL, and what reaches a field in which
Nomad interpolates is refused when it holds ``${`` or ``%{``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from bridge.connectors.nomad.view import MAIN, STAGE_IN, STAGE_OUT
from bridge.errors import JobRejected
from bridge.models.attempt import AttemptSpec
from bridge.models.image import image_on_node, registry_of

JsonObject = dict[str, Any]

MHZ_PER_CORE: Final = 1000  # nodes set cpu_total_compute = 1000 * their cores
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

_NS_PER_S: Final = 1_000_000_000
_MARGIN_S: Final = 600  # placement, image pull and kill time-outs within max_run_duration
_YEAR_NS: Final = 365 * 86400 * _NS_PER_S
_HOOKS: Final[dict[str, str | None]] = {STAGE_IN: "prestart", MAIN: None, STAGE_OUT: "poststop"}


class Settings(Struct, frozen=True, kw_only=True):
    """What is the same for every attempt. Times in seconds."""

    region: str = "global"
    network: bool = False  # give containers the network
    stage_protocol: int = 1
    upload_patience_s: float = 3600  # how long stage-out waits for the storage
    upload_limit_s: float = 86400  # how long it may take, however well it goes
    stage_in_limit_s: float = 3600


def problems(job: JsonObject) -> list[str]:
    """What a parsed template lacks, in words; empty when it can be used."""
    return list(_problems(job))


def staging_memory_mb(template: JsonObject) -> int:
    """Memory in MiB that a job takes however little its program asks for: Nomad counts the
    largest of its tasks.
    """
    tasks = template["TaskGroups"][0]["Tasks"]
    staging = [task["Resources"] for task in tasks if task["Name"] in (STAGE_IN, STAGE_OUT)]
    return max((int(one.get("MemoryMB") or 0) for one in staging), default=0)


def render(template: JsonObject, spec: AttemptSpec, settings: Settings) -> JsonObject:
    """The Nomad job of an attempt. ``template`` has no ``problems`` and is not changed.

    Raises JobRejected when a value cannot be passed to Nomad safely.
    """
    job = copy.deepcopy(template)
    group = job["TaskGroups"][0]
    tasks = {task["Name"]: task for task in group["Tasks"]}
    job |= {
        "ID": spec.handle.native_id,
        "Name": spec.handle.native_id,
        "Region": settings.region,
        "Namespace": spec.handle.namespace,
        "NodePool": _own_pool(spec.node_pool),
        "Type": "batch",
        "Priority": min(max(spec.priority, 1), 100),
    }
    group["MaxRunDuration"] = _outer_limit_ns(spec, settings)
    group["Constraints"] = [*(group.get("Constraints") or ()), *_constraints(spec, settings)]
    group["Affinities"] = [*(group.get("Affinities") or ()), *_affinities(spec)]
    stage = _stage_environment(spec, settings)
    for name in (STAGE_IN, STAGE_OUT):
        tasks[name]["Env"] = (tasks[name].get("Env") or {}) | stage
    _set_main(tasks[MAIN], spec, settings)
    return job


def run_name(image: str) -> str:
    """The reference an image runs under: one with a registry host as it is, one
    without under the name that stage gives it on the node.

    Raises JobRejected for what Nomad's Docker driver cannot run safely.
    """
    _literal("image", image)
    if registry_of(image) is None and image.endswith(":latest"):
        # The driver asks a registry for this tag every time, and none has it.
        raise JobRejected(
            f"The image {image} has the version `latest`, which Nomad never takes from a node",
            "Publish the image under a version of its own and submit with that.",
        )
    return image_on_node(image)


def _set_main(task: JsonObject, spec: AttemptSpec, settings: Settings) -> None:
    image = run_name(spec.image)
    if task["Driver"] == "docker" or "image" in task["Config"]:
        task["Config"]["image"] = image
    if settings.network and task["Config"].get("network_mode") == "none":
        del task["Config"]["network_mode"]
    task["Env"] = (task.get("Env") or {}) | dict.fromkeys(THREAD_VARIABLES, str(spec.cores))
    task["Resources"] |= {
        "CPU": MHZ_PER_CORE * spec.cores,
        "MemoryMB": spec.memory_mb,
        "MemoryMaxMB": 0,
    }


def _stage_environment(spec: AttemptSpec, settings: Settings) -> dict[str, str]:
    return {
        "BRIDGE_BUCKET": str(spec.bucket_id),
        "BRIDGE_CODE_BUCKET": _literal("code bucket", spec.code_bucket),
        "BRIDGE_IMAGE": _literal("image", spec.image),
        "BRIDGE_INPUT_SHA256": _literal("input_sha256", spec.input_sha256 or ""),
        "BRIDGE_ATTEMPT": str(spec.number),
        "BRIDGE_JOB": str(spec.job_id),
        "BRIDGE_RUNTIME": "docker",
        "BRIDGE_UPLOAD_PATIENCE": str(int(settings.upload_patience_s)),
        "BRIDGE_STAGE_IN_LIMIT": str(int(settings.stage_in_limit_s)),
    }


def _constraints(spec: AttemptSpec, settings: Settings) -> Iterator[JsonObject]:
    yield _equal("${meta.bridge_stage}", str(settings.stage_protocol))
    yield {"LTarget": "${meta.bridge_paused}", "RTarget": "", "Operand": "is_not_set"}
    generations = [_literal("generation", one) for one in spec.generations]
    if len(generations) == 1:
        yield _equal("${meta.bridge_generation}", generations[0])
    elif generations:
        either = "|".join(re.escape(one) for one in generations)
        yield {
            "LTarget": "${meta.bridge_generation}",
            "RTarget": f"^({either})$",
            "Operand": "regexp",
        }
    if spec.native_node is not None:
        yield _equal("${node.unique.id}", _literal("node", spec.native_node))
    if spec.requires_limits:
        yield _equal("${meta.bridge_limits}", "1")


def _affinities(spec: AttemptSpec) -> Iterator[JsonObject]:
    """Only wishes: where there is no other node, one of these has it again."""
    for name in spec.avoid:
        if "${" not in name and "%{" not in name:
            yield _equal("${node.unique.name}", name) | {"Weight": -100}


def _equal(attribute: str, value: str) -> JsonObject:
    return {"LTarget": attribute, "RTarget": value, "Operand": "="}


def _outer_limit_ns(spec: AttemptSpec, settings: Settings) -> int:
    upload = max(settings.upload_limit_s, settings.upload_patience_s)
    limit = settings.stage_in_limit_s + spec.time_limit_s + upload
    return int(limit + _MARGIN_S) * _NS_PER_S


def _literal(what: str, text: str) -> str:
    if "${" in text or "%{" in text:
        raise JobRejected(f"The {what} holds ${{ or %{{", "Leave these characters out.")
    return text


def _own_pool(pool: str) -> str:
    if pool in ("", "all"):
        raise JobRejected(
            f"The group's node pool is {pool!r}, which would run its jobs on any machine",
            "Let the operator give the group a node pool of its own.",
        )
    return pool


def _problems(job: JsonObject) -> Iterator[str]:
    groups: list[JsonObject] = job.get("TaskGroups") or []
    if len(groups) != 1:
        yield f"it has {len(groups)} groups, one is needed"
        return
    group = groups[0]
    if group.get("Count") not in (None, 1):
        yield f"its group has count = {group['Count']}, 1 is needed"
    yield from _policy_problems(group)
    tasks = {task.get("Name"): task for task in group.get("Tasks") or ()}
    for name, hook in _HOOKS.items():
        if name not in tasks:
            yield f'task "{name}" is missing'
        else:
            yield from _task_problems(name, hook, tasks[name])
    for name in tasks.keys() - _HOOKS.keys():
        # stage-out would wait for it, and the bridge would not know how it ended.
        yield f'task "{name}" is one too many'


def _policy_problems(group: Mapping[str, Any]) -> Iterator[str]:
    restart = group.get("RestartPolicy") or {}
    if restart.get("Attempts") != 0:
        yield "restart { attempts = 0 } is missing in the group"
    reschedule = group.get("ReschedulePolicy") or {}
    if reschedule.get("Attempts") != 0 or reschedule.get("Unlimited"):
        yield "reschedule { attempts = 0, unlimited = false } is missing in the group"
    disconnect = group.get("Disconnect") or {}
    if disconnect.get("Replace") is not False or (disconnect.get("LostAfter") or 0) < _YEAR_NS:
        yield 'disconnect { lost_after = "87600h", replace = false } is missing in the group'


def _task_problems(name: str, hook: str | None, task: Mapping[str, Any]) -> Iterator[str]:
    if (task.get("Lifecycle") or {}).get("Hook") != hook:
        needed = f'lifecycle {{ hook = "{hook}" }}' if hook else "no lifecycle block"
        yield f'task "{name}" needs {needed}'
    if not task.get("Config"):
        yield f'task "{name}" has no config block'
    if not task.get("Resources"):
        yield f'task "{name}" has no resources block'
    if (task.get("RestartPolicy") or {}).get("Attempts"):
        yield f'task "{name}" may not have a restart block of its own'
    if hook and not (task.get("Env") or {}).get("BRIDGE_HOME"):
        yield f'task "{name}" does not set BRIDGE_HOME in its env block'
