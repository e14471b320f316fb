"""A stand-in for Nomad that keeps jobs as it does and shows, for each, answers recorded
from a real one, step by step.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.fake_nomad import Answer, FakeNomad, Request

FOLDER = Path(__file__).parents[1] / "fixtures" / "nomad"
_TEMPLATE = FOLDER / "job.nomad.json"
_NODES = FOLDER / "listings" / "nodes.json"

# In the words of Nomad 2.0.5.
_EXISTS = "Enforcing job modify index 0: job already exists"
_ONE = "1 error occurred:\n\t* "
_TOO_LITTLE = (
    f"{_ONE}Task group job validation failed: {_ONE}Task main validation failed: "
    f"{_ONE}{_ONE}minimum MemoryMB value is 10; got 1\n\n\n\n\n\n\n\n\n\n"
)


class Shown:
    """A job and what is shown of it: each recording until it was read, the last for good."""

    def __init__(self, native_id: str, index: int, recordings: Sequence[str]) -> None:
        self.index = index
        self.held = False
        self.stopped = False
        self.namespace = ""
        self._native_id = native_id
        self._recordings = list(recordings)

    @property
    def recording(self) -> str:
        """The name of the one shown now."""
        return self._recordings[0]

    def stop(self) -> None:
        """What follows when a job is stopped; one that has ended stays so."""
        self.stopped = True
        match self.recording:
            case "staging":
                self._recordings = ["cancel-while-staging"]
            case "running":
                self._recordings = ["uploading-after-cancel", "canceled"]

    def next(self) -> None:
        """It was read."""
        if len(self._recordings) > 1 and not self.held:
            del self._recordings[0]

    @property
    def job(self) -> dict[str, Any]:
        """As in a listing of jobs."""
        recorded: dict[str, Any] = _load(self.recording)["job"]
        own = {"ID": self._native_id, "Namespace": self.namespace, "Stop": self.stopped}
        return recorded | own

    @property
    def allocs(self) -> list[dict[str, Any]]:
        """As in a listing of allocations."""
        own = {"ID": f"alloc-{self.index}", "JobID": self._native_id, "CreateIndex": self.index}
        own |= {"NodeID": _HOLDS["NodeID"]}
        return [alloc | own for alloc in _load(self.recording)["allocs"]]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Of the job."""
        return list(_load(self.recording)["evals"])

    @property
    def is_uploaded(self) -> bool:
        """Whether the program ran and stage-out has ended well."""
        (alloc,) = self.allocs
        main, upload = (alloc["TaskStates"][name]["Events"] for name in ("main", "stage-out"))
        ends = [one["Details"]["exit_code"] for one in upload if one["Type"] == "Terminated"]
        return any(one["Type"] == "Started" for one in main) and ends == ["0"]


class RecordedNomad(FakeNomad):
    """``recordings`` says what is to be shown of a job once it is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.recordings: dict[str, Sequence[str]] = {}
        self.held: set[str] = set()
        self.jobs: dict[str, Shown] = {}
        self.ever: dict[str, Shown] = {}  # the purged ones, too
        self._lock = threading.Lock()
        self.routes = {
            ("POST", "/v1/jobs/parse"): Answer(200, json.loads(_TEMPLATE.read_text())),
            ("POST", "/v1/validate/job"): Answer(200, {"ValidationErrors": None}),
            ("POST", "/v1/jobs"): self._register,
            ("GET", "/v1/jobs"): self._list,
            ("GET", "/v1/allocations"): self._page,
            ("GET", "/v1/evaluations"): self._blocked,
            ("GET", "/v1/nodes"): _nodes,
            ("GET", f"/v1/node/{_HOLDS['NodeID']}"): Answer(
                200, {"ID": _HOLDS["NodeID"], "ModifyIndex": 1, "Status": "ready"}
            ),
        }

    def respond(self, request: Request) -> Answer:
        """As Nomad would."""
        with self._lock:
            if request.path.startswith("/v1/job/"):
                return self._job(request)
            return super().respond(request)

    def _register(self, request: Request) -> Answer:
        job = request.body["Job"]
        if job["ID"] in self.jobs:
            return Answer(500, _EXISTS)
        main = next(task for task in job["TaskGroups"][0]["Tasks"] if task["Name"] == "main")
        if main["Resources"]["MemoryMB"] < 10:
            return Answer(500, _TOO_LITTLE)
        shown = Shown(job["ID"], len(self.ever) + 1, self.recordings[job["ID"]])
        shown.held = job["ID"] in self.held
        shown.namespace = job["Namespace"]
        self.jobs[job["ID"]] = self.ever[job["ID"]] = shown
        return Answer(200, {"EvalID": "e"})

    def _list(self, request: Request) -> Answer:
        """With the prefix and the only filters that are used."""
        wanted = {
            'Status != "dead"': ("pending", "running"),
            'Status == "pending"': ("pending",),
        }[request.query["filter"]]
        prefix = request.query["prefix"]
        jobs = [shown.job for name, shown in self.jobs.items() if name.startswith(prefix)]
        return Answer(200, [job for job in jobs if job["Status"] in wanted])

    def _blocked(self, request: Request) -> Answer:
        """With the only filter that is used."""
        assert request.query["filter"] == 'Status == "blocked"'
        found = [one for shown in self.jobs.values() for one in shown.evaluations]
        return Answer(200, [one for one in found if one["Status"] == "blocked"])

    def _page(self, request: Request) -> Answer:
        """Newest first; with ``resources`` the live ones and what they hold."""
        query = request.query
        if "resources" in query:
            alive = [shown for shown in self.jobs.values() if shown.job["Status"] != "dead"]
            return Answer(200, [alloc | _HOLDS for shown in alive for alloc in shown.allocs])
        newest = sorted(self.jobs.values(), key=lambda shown: -shown.index)
        begin = int(query.get("next_token", "0"))
        end = begin + int(query["per_page"])
        listed = [alloc for shown in newest[begin:end] for alloc in shown.allocs]
        for shown in newest[begin:end]:
            shown.next()
        more = {"X-Nomad-NextToken": str(end)} if end < len(newest) else {}
        return Answer(200, listed, more)

    def _job(self, request: Request) -> Answer:
        _, _, _, name, *what = request.path.split("/")
        shown = self.jobs.get(name)
        if request.method == "DELETE":
            return self._deregister(name, shown, purge=request.query["purge"].lower() == "true")
        if what == ["evaluations"]:
            return Answer(200, shown.evaluations if shown else [])
        if not what:
            return Answer(200, shown.job) if shown else Answer(404, "job not found")
        allocs = shown.allocs if shown else []
        if shown:
            shown.next()
        return Answer(200, allocs)

    def _deregister(self, name: str, shown: Shown | None, *, purge: bool) -> Answer:
        if shown is None:
            return Answer(200, {"EvalID": ""})
        shown.stop()
        if purge:
            del self.jobs[name]
        return Answer(200, {"EvalID": "e"})


# What each task of a job with one core and 64 MiB was given.
_HOLDS: dict[str, Any] = {
    "NodeID": json.loads(_NODES.read_text())[0]["ID"],
    "AllocatedResources": {
        "Tasks": {
            "stage-in": {"Cpu": {"CpuShares": 50}, "Memory": {"MemoryMB": 256}},
            "main": {"Cpu": {"CpuShares": 1000}, "Memory": {"MemoryMB": 64}},
            "stage-out": {"Cpu": {"CpuShares": 50}, "Memory": {"MemoryMB": 256}},
        }
    },
}


def _nodes(request: Request) -> Answer:
    """All are set up for the bridge, and none is paused."""
    paused = "Meta.bridge_paused" in request.query["filter"]
    return Answer(200, [] if paused else json.loads(_NODES.read_text()))


def _load(recording: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{recording}.json").read_text())
    return found
