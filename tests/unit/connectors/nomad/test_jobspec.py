"""Template + attempt → Nomad job."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.nomad.jobspec import (
    THREAD_VARIABLES,
    JsonObject,
    Settings,
    problems,
    render,
    run_name,
)
from bridge.errors import JobRejected
from bridge.models.attempt import AttemptSpec, Handle
from tests.unit.connectors.nomad import recorded

SECOND = 1_000_000_000
SPEC = AttemptSpec(
    handle=Handle("bridge-x-0123-2", "g-lab"),
    job_id=uuid.uuid4(),
    number=2,
    group="lab",
    code_bucket="code-abc",
    node_pool="g-lab",
    bucket_id=uuid.uuid4(),
    image="psi4:1.5",
    input_sha256="ab" * 32,
    cores=4,
    memory_mb=2000,
    time_limit_s=100,
    priority=70,
)


def rendered(settings: Settings | None = None, **changes: Any) -> JsonObject:
    spec = msgspec.structs.replace(SPEC, **changes)
    return render(recorded.template(), spec, settings or Settings())


def tasks(job: JsonObject) -> dict[str, JsonObject]:
    return {task["Name"]: task for task in job["TaskGroups"][0]["Tasks"]}


def test_the_shipped_job_file_can_be_used() -> None:
    assert problems(recorded.template()) == []


def test_job() -> None:
    job = rendered()
    assert job["ID"] == job["Name"] == "bridge-x-0123-2"
    assert (job["Namespace"], job["NodePool"], job["Region"]) == ("g-lab", "g-lab", "global")
    assert (job["Type"], job["Priority"]) == ("batch", 70)


def test_group() -> None:
    settings = Settings(stage_in_limit_s=1000, upload_limit_s=50, upload_patience_s=10)
    group = rendered(settings)["TaskGroups"][0]
    assert group["MaxRunDuration"] == (1000 + 100 + 50 + 600) * SECOND
    patient = rendered(msgspec.structs.replace(settings, upload_patience_s=80))["TaskGroups"][0]
    assert patient["MaxRunDuration"] == (1000 + 100 + 80 + 600) * SECOND
    assert group["Disconnect"]["LostAfter"] == 87600 * 3600 * SECOND
    assert group["Disconnect"]["Replace"] is False
    assert group["Disconnect"]["Reconcile"] == "keep_original"
    assert group["RestartPolicy"]["Attempts"] == group["ReschedulePolicy"]["Attempts"] == 0
    assert group["Constraints"] == [
        {"LTarget": "${meta.bridge_home}", "RTarget": "", "Operand": "is_set"},
        {"LTarget": "${meta.bridge_stage}", "RTarget": "1", "Operand": "="},
        {"LTarget": "${meta.bridge_paused}", "RTarget": "", "Operand": "is_not_set"},
    ]


@pytest.mark.parametrize(
    ("generations", "value", "operand"),
    [(("g7",), "g7", "="), (("g7", "g6"), "^(g7|g6)$", "regexp")],
)
def test_generation_only_where_the_group_has_one(
    generations: tuple[str, ...], value: str, operand: str
) -> None:
    wanted = {"LTarget": "${meta.bridge_generation}", "RTarget": value, "Operand": operand}
    assert wanted in _group(rendered(generations=generations))["Constraints"]


def test_a_pin_and_limits_are_constraints() -> None:
    constraints = _group(rendered(native_node="n1", requires_limits=True))["Constraints"]
    assert {"LTarget": "${node.unique.id}", "RTarget": "n1", "Operand": "="} in constraints
    assert {"LTarget": "${meta.bridge_limits}", "RTarget": "1", "Operand": "="} in constraints


def test_main() -> None:
    main = tasks(rendered())["main"]
    config = main["Config"]
    assert config["image"] == "bridge.invalid/psi4:1.5"
    assert config["network_mode"] == "none"
    assert config["cap_drop"] == ["all"] and config["security_opt"] == ["no-new-privileges"]
    assert config["pids_limit"] == 4096 and config["cpu_hard_limit"] is True
    assert config["mount"] == [
        {"type": "bind", "source": "../alloc/data/rundir", "target": "/rundir"}
    ]
    assert config["work_dir"] == "/rundir" and config["entrypoint"] == ["/bin/sh"]
    assert (main["Resources"]["CPU"], main["Resources"]["MemoryMB"]) == (4000, 2000)
    assert main["Env"] == {"HOME": "/tmp"} | dict.fromkeys(THREAD_VARIABLES, "4")
    assert main["LogConfig"]["Disabled"] is True


def test_a_node_that_failed_the_job_gets_it_again_only_if_no_other_can() -> None:
    avoided = {"LTarget": "${node.unique.name}", "Operand": "=", "Weight": -100}
    group = rendered(avoid=("n1", "n2", "${attr.x}"))["TaskGroups"][0]
    assert group["Affinities"] == [avoided | {"RTarget": "n1"}, avoided | {"RTarget": "n2"}]
    assert group["Constraints"] == rendered()["TaskGroups"][0]["Constraints"]
    template = recorded.template()
    template["TaskGroups"][0]["Affinities"] = [avoided | {"RTarget": "the operator's"}]
    own = render(template, msgspec.structs.replace(SPEC, avoid=("n1",)), Settings())
    assert len(own["TaskGroups"][0]["Affinities"]) == 2


def test_network_where_configured() -> None:
    assert "network_mode" not in tasks(rendered(Settings(network=True)))["main"]["Config"]


def test_stage_tasks() -> None:
    both = tasks(rendered(Settings(upload_patience_s=9, stage_in_limit_s=8)))
    assert both["stage-in"]["Env"] == {
        "BRIDGE_HOME": "${meta.bridge_home}",
        "BRIDGE_BUCKET": str(SPEC.bucket_id),
        "BRIDGE_CODE_BUCKET": "code-abc",
        "BRIDGE_IMAGE": "psi4:1.5",
        "BRIDGE_INPUT_SHA256": "ab" * 32,
        "BRIDGE_ATTEMPT": "2",
        "BRIDGE_JOB": str(SPEC.job_id),
        "BRIDGE_RUNTIME": "docker",
        "BRIDGE_UPLOAD_PATIENCE": "9",
        "BRIDGE_STAGE_IN_LIMIT": "8",
    }
    assert both["stage-in"]["Env"] == both["stage-out"]["Env"]


def test_the_bucket_is_nowhere_but_in_the_environment_of_stage() -> None:
    job = rendered()
    for name in ("stage-in", "stage-out"):
        del tasks(job)[name]["Env"]["BRIDGE_BUCKET"]
    assert str(SPEC.bucket_id) not in json.dumps(job)


def test_the_template_is_not_changed() -> None:
    template = recorded.template()
    before = copy.deepcopy(template)
    render(template, SPEC, Settings())
    assert template == before


@pytest.mark.parametrize(("given_", "sent"), [(-5, 1), (0, 1), (1, 1), (100, 100), (1000, 100)])
def test_priority_is_within_what_nomad_takes(given_: int, sent: int) -> None:
    assert rendered(priority=given_)["Priority"] == sent


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("psi4:1.5", "bridge.invalid/psi4:1.5"),
        ("chem/psi4:1.5", "bridge.invalid/chem/psi4:1.5"),
        ("ghcr.io/chem/psi4:1.5", "ghcr.io/chem/psi4:1.5"),
        ("localhost/psi4:1", "localhost/psi4:1"),
        ("host:5000/psi4:1", "host:5000/psi4:1"),
        ("ghcr.io/chem/psi4:latest", "ghcr.io/chem/psi4:latest"),
    ],
)
def test_names_that_images_run_under(image: str, name: str) -> None:
    assert run_name(image) == name


@pytest.mark.parametrize("image", ["a${env.HOME}:1", "a%{ if true }:1", "${meta.x}"])
def test_nothing_is_interpolated(image: str) -> None:
    with pytest.raises(JobRejected, match="image"):
        rendered(image=image)


def test_latest_is_refused_because_it_is_never_taken_from_the_node() -> None:
    with pytest.raises(JobRejected, match="latest"):
        rendered(image="psi4:latest")


@pytest.mark.parametrize("pool", ["", "all"])
def test_a_job_without_a_pool_of_its_own_is_refused(pool: str) -> None:
    with pytest.raises(JobRejected, match="node pool"):
        rendered(node_pool=pool)


@given(image=st.text(max_size=40), generations=st.lists(st.text(max_size=10), max_size=2))
def test_user_text_is_passed_as_it_is_or_refused(image: str, generations: list[str]) -> None:
    try:
        job = rendered(image=image, generations=tuple(generations))
    except JobRejected:
        return
    found = json.dumps([tasks(job)["main"]["Config"]["image"], image])
    assert "${" not in found and "%{" not in found


def _group(job: JsonObject) -> JsonObject:
    group: JsonObject = job["TaskGroups"][0]
    return group


FAULTS: dict[str, tuple[Callable[[JsonObject], object], str]] = {
    "no group": (lambda job: job.update(TaskGroups=None), "0 groups"),
    "two groups": (lambda job: job["TaskGroups"].append({}), "2 groups"),
    "count": (lambda job: _group(job).update(Count=2), "count = 2"),
    "restart": (lambda job: _group(job).update(RestartPolicy=None), "restart"),
    "reschedule": (
        lambda job: _group(job)["ReschedulePolicy"].update(Unlimited=True),
        "reschedule",
    ),
    "disconnect": (lambda job: _group(job).update(Disconnect=None), "disconnect"),
    "replace": (lambda job: _group(job)["Disconnect"].update(Replace=True), "replace = false"),
    "lost_after": (lambda job: _group(job)["Disconnect"].update(LostAfter=SECOND), "lost_after"),
    "no tasks": (lambda job: _group(job).update(Tasks=None), '"stage-in" is missing'),
    "main gone": (lambda job: _group(job)["Tasks"].pop(1), '"main" is missing'),
    "one more": (lambda job: _group(job)["Tasks"].append({"Name": "x"}), '"x" is one too many'),
    "hook": (lambda job: tasks(job)["stage-out"].update(Lifecycle=None), '"poststop"'),
    "main with hook": (
        lambda job: tasks(job)["main"].update(Lifecycle={"Hook": "poststart"}),
        "no lifecycle block",
    ),
    "no config": (lambda job: tasks(job)["main"].update(Config=None), '"main" has no config'),
    "no resources": (lambda job: tasks(job)["main"].update(Resources=None), "no resources"),
    "own restart": (
        lambda job: tasks(job)["main"].update(RestartPolicy={"Attempts": 1}),
        "restart block of its own",
    ),
    "no home": (lambda job: tasks(job)["stage-in"].update(Env=None), "BRIDGE_HOME"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_job_file_lacks_is_named(name: str) -> None:
    job = recorded.template()
    spoil, words = FAULTS[name]
    spoil(job)
    assert words in "; ".join(problems(job))
