"""A small stand-in for the service: the client's side of ``/v1``, in memory.

It keeps what it was asked, and a test can make it misbehave: ``answers`` are
given out first, each to one request that its method and path match.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.stand_in import listening

Answer = tuple[int, Any]

SECRET = "nbapi_" + "a" * 52
COMPUTE_SECRET = "nbcompute_" + "c" * 52
_FINAL = frozenset({"completed", "failed", "canceled"})
NOW = "2026-01-31T12:00:00.000Z"


@dataclass
class Scripted:
    """An answer prepared by a test; ``status`` 0 drops the connection."""

    method: str
    path: str
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeService:
    """The state of the stand-in."""

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: list[Scripted] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    compute_secret: str = COMPUTE_SECRET
    group_token: str = "abcdefgh"
    code_bucket: str = "code-abcdefgh"
    page: int = 1000
    quota: int = 0  # most jobs that wait or run; 0: any number
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, method: str, path: str) -> int:
        """How many requests of this kind came."""
        return sum((m, p) == (method, path) for m, p, _ in self.requests)

    def script(self, method: str, path: str, status: int, body: Any = None, **headers: str) -> None:
        """Prepare the answer to one coming request."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(Scripted(method, path, status, body, given))

    def end(self, job_id: str, state: str = "completed", **more: Any) -> None:
        """Let a job end."""
        self.jobs[job_id] |= {"state": state} | more

    def take(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take a job in; the same bucket is the same job."""
        for job in self.jobs.values():
            if job["bucket_id"] == body["bucket_id"]:
                return job
        # In time order, as the real ids are.
        job_id = str(uuid.UUID(int=(len(self.jobs) + 1) << 80))
        job = {"id": job_id, "state": "received", "user": "ada", "reason": None} | body
        self.jobs[job_id] = job
        return job

    def respond(self, method: str, url: str, body: Any) -> Answer:
        """The answer to a request."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        route = (method, *map(unquote, parts.path.strip("/").split("/")[1:]))
        return (
            self._over_quota(route, body)
            or self._about_group(route, body)
            or self._about_sets(route, query)
            or self._about_runs(route)
            or self._about_compute_secret(route, body)
            or self._about_nodes(route, body)
            or self._about_jobs(route, query, body)
        )

    def _over_quota(self, route: tuple[str, ...], body: Any) -> Answer | None:
        if route != ("POST", "jobs") or not self.quota:
            return None
        known = {job["bucket_id"] for job in self.jobs.values()}
        sent = body if isinstance(body, list) else [body]
        more = sum(item["bucket_id"] not in known for item in sent)
        live = sum(job["state"] not in _FINAL for job in self.jobs.values())
        if live + more <= self.quota:
            return None
        return 429, {"error": "over_quota", "detail": "Over the limit of ada."}

    def _about_group(self, route: tuple[str, ...], body: Any) -> Answer | None:
        match route:
            case "GET", "whoami":
                return 200, {
                    "group": "lab",
                    "user": "ada",
                    "role": "member",
                    "admin": False,
                    "group_token": self.group_token,
                    "code_bucket": self.code_bucket,
                }
            case "GET", "users":
                return 200, {"users": [{"name": "ada", "admin": True}]}
            case "POST", "users":
                return 201, body | {"secret": SECRET}
            case "GET", "usage", *group:
                used = {"month": "2026-01", "attempts": 3, "core_seconds": 5400.0}
                whose = {} if group else {"user": "ada"}
                return 200, {"usage": [used | whose | {"gpu_seconds": 0.0}]}
        return None

    def _about_sets(self, route: tuple[str, ...], query: dict[str, str]) -> Answer | None:
        names = sorted({job["set"] for job in self.jobs.values() if job.get("set")})
        match route:
            case "GET", "sets":
                names = [name for name in names if name > query.get("cursor", "")]
                page = names[: min(int(query["limit"]), self.page)]
                following = page[-1] if len(page) < len(names) else None
                return 200, {"sets": [self._summary(name) for name in page], "next": following}
            case "GET", "sets", name, "explain" if name in names:
                sentence = "Of 3 jobs 3 are received."
                return 200, {"explanation": sentence, "ahead": 2, "details": {"bob": 2}}
            case "GET", "sets", name, "attempts" if name in names:
                ids = sorted((job["id"] for job in self._members(name)), reverse=True)
                runs = [run | {"job": one} for one in ids for run in self.attempts.get(one, ())]
                return 200, {"attempts": runs, "next": None}
            case "GET", "sets", name if name in names:
                return 200, self._summary(name)
            case "POST", "sets", name, verb if name in names:
                changed = 0
                for job in self._members(name):
                    before = dict(job)
                    # What a verb does not apply to is left alone.
                    if verb != "retry" or job["state"] == "failed":
                        self._steer(job, verb, None)
                    changed += job != before
                return 200, {"set": name, "changed": changed}
        return None

    def _members(self, name: str) -> list[dict[str, Any]]:
        return [job for job in self.jobs.values() if job.get("set") == name]

    def _summary(self, name: str) -> dict[str, Any]:
        states = Counter(job["state"] for job in self._members(name))
        return {"name": name, "jobs": states, "first_at": NOW, "last_at": NOW}

    def _about_runs(self, route: tuple[str, ...]) -> Answer | None:
        match route:
            case "GET", "jobs", job_id, "explain" if job_id in self.jobs:
                sentence = "2 jobs of bob are ahead."
                return 200, {"explanation": sentence, "ahead": 2, "details": {"bob": 2}}
            case "GET", "jobs", job_id, "attempts" if job_id in self.jobs:
                return 200, {"attempts": self.attempts.get(job_id, [])}
        return None

    def _about_compute_secret(self, route: tuple[str, ...], body: Any) -> Answer | None:
        match route:
            case "POST", "compute-secret", "rotate":
                self.compute_secret = "nbcompute_" + "b" * 52
                return 200, {"secret": self.compute_secret}
            case "POST", "compute-secret", "check":
                return 200, {"current": body == {"secret": self.compute_secret}}
        return None

    def _about_nodes(self, route: tuple[str, ...], body: Any) -> Answer | None:
        match route:
            case "POST", "nodes", "require-limits":
                return 200, body
            case "GET", "nodes":
                return 200, {"nodes": list(self.nodes.values())}
            case "GET", "nodes", name if name in self.nodes:
                return 200, self.nodes[name]
            case "POST", "nodes", name, verb if name in self.nodes:
                states = {"drain": "draining", "resume": "ready", "remove": "removed"}
                self.nodes[name]["state"] = states[verb]
                return 200, self.nodes[name]
            case _, "nodes", *_:
                return 404, {"error": "not_found", "detail": "There is no such node."}
        return None

    def _about_jobs(self, route: tuple[str, ...], query: dict[str, str], body: Any) -> Answer:
        match route:
            case "POST", "jobs":
                if isinstance(body, list):
                    return 200, [{"status": 201, "id": self.take(item)["id"]} for item in body]
                return 201, self.take(body)
            case "GET", "jobs":
                return self._list(query)
            case "GET", "jobs", job_id if job_id in self.jobs:
                return 200, self.jobs[job_id]
            case "POST", "jobs", job_id, verb if job_id in self.jobs:
                return self._steer(self.jobs[job_id], verb, body)
        return 404, {"error": "not_found", "detail": "No such job or not your job."}

    def _list(self, query: dict[str, str]) -> Answer:
        newest = sorted(self.jobs.values(), key=lambda job: str(job["id"]), reverse=True)
        wanted = [
            job
            for job in newest
            if all(job.get(key) == query[key] for key in ("state", "set") if key in query)
            and ("cursor" not in query or job["id"] < query["cursor"])
        ]
        size = min(int(query.get("limit", 100)), self.page)
        page = wanted[:size]
        return 200, {"jobs": page, "next": page[-1]["id"] if len(wanted) > size else None}

    def _steer(self, job: dict[str, Any], verb: str, body: Any) -> Answer:
        if verb == "prune" and job["state"] not in _FINAL:
            return 409, {"error": "conflict", "detail": "The job has not ended.", "hint": "Wait."}
        if verb == "retry" and job["state"] not in {"failed", "canceled"}:
            return 409, {"error": "conflict", "detail": "The job did not fail.", "hint": "Wait."}
        changes: Any = {
            "cancel": {"state": "canceled"},
            "retry": {"state": "received"},
            "hold": {"hold": True},
            "release": {"hold": False},
            "prune": {"prune_requested_at": NOW},
        }[verb]
        if body == {"deleted": True}:
            changes["pruned_at"] = NOW
        job |= changes
        return 200, job


@contextlib.contextmanager
def serving() -> Iterator[FakeService]:
    """A stand-in that listens on 127.0.0.1 until the end."""
    fake = FakeService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            with fake.lock:
                fake.requests.append((self.command, self.path, body))
                scripted = next(
                    (a for a in fake.answers if (a.method, a.path) == (self.command, self.path)),
                    None,
                )
                if scripted is not None:
                    fake.answers.remove(scripted)
                    status, answer = scripted.status, scripted.body
                elif self.headers.get("Authorization") != f"Bearer {SECRET}":
                    status, answer = 401, {"error": "unauthenticated", "detail": "Unknown secret."}
                else:
                    status, answer = fake.respond(self.command, self.path, body)
            if status == 0:
                self.close_connection = True
                return
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (scripted.headers if scripted else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at ``requests`` instead."""

    with listening(Handler) as fake.url:
        yield fake
