"""A whole service of the tests' own, started as an operator starts it: init, serve."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bridge import process
from tests.support.poll import eventually, free_port

COMMAND = (sys.executable, "-m", "bridge.cli.main")


class Answer(NamedTuple):
    """What the service answered: status and decoded JSON."""

    status: int
    body: Any


class RunningService:
    """A service below ``home``; it can be stopped, killed and started again."""

    # Starts it, before the name of the configuration file.
    serve: Sequence[str] = (*COMMAND, "serve", "--config")

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bind = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.home / "config.yaml"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.bind}"

    @property
    def credentials(self) -> dict[str, str]:
        """What ``init`` wrote into credentials.env."""
        lines = (self.home / "credentials.env").read_text().splitlines()
        pairs = (line.partition("=") for line in lines if "=" in line and line[0] != "#")
        return {name: value for name, _, value in pairs}

    def use(self, **credentials: str) -> None:
        """Put other values into credentials.env, for example of another group."""
        lines = [f"{name}={value}\n" for name, value in (self.credentials | credentials).items()]
        (self.home / "credentials.env").write_text("".join(lines))

    def init(self, *options: str, group: str = "lab") -> None:
        """Make the folder, with ``group``, admin ``root`` and user ``ada``."""
        done = self.command(
            "init",
            str(self.home),
            "--group",
            group,
            "--admin",
            "root",
            "--user",
            "ada",
            "--bind",
            self.bind,
            "--s3-bind",
            f"127.0.0.1:{free_port()}",
            *options,
        )
        assert done.returncode == 0, done.stderr

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Change settings, section by section, for the next start."""
        document = yaml.safe_load(self.config.read_text())
        for section, values in sections.items():
            document[section] = document.get(section, {}) | dict(values)
        self.config.write_text(yaml.safe_dump(document))

    def start(self) -> None:
        """Serve, and wait until it is ready."""
        self.spawn()
        eventually(self._is_ready, timeout=90)

    def spawn(self) -> None:
        """Start to serve; wait for nothing."""
        log = open(self.home / "serve.log", "ab")  # noqa: SIM115 (closed below, kept by the child)
        self.process = subprocess.Popen(
            [*self.serve, str(self.config)],
            env=process.clean_environment(),
            cwd=_ROOT,
            stdout=log,
            stderr=log,
        )
        log.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the service, not its storage nor its jobs; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=90)
        self.process = None
        return code

    def close(self) -> None:
        """End the service and the storage that outlives it."""
        if self.process is not None:
            self.stop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            storage = json.loads((self.home / "s3" / "server.pid").read_text())
            # It may be long gone, and its number somebody else's.
            if process.is_alive(storage["pid"], storage["start"]):
                os.kill(storage["pid"], signal.SIGTERM)

    def command(
        self, *arguments: str, secret: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``nomad-bridge`` with the credentials of this service, if it has some."""
        known = self.credentials if (self.home / "credentials.env").exists() else {}
        if secret is not None:
            known["BRIDGE_API_SECRET"] = secret
        return subprocess.run(
            [*COMMAND, *arguments],
            env=process.clean_environment(known | {"PYTHONPATH": str(_ROOT)}),
            cwd=cwd or _ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def post(self, path: str, body: object, secret: str | None = None) -> Answer:
        """POST JSON, by default with the regular user's secret."""
        return self._ask("POST", path, json.dumps(body).encode(), secret)

    def get(self, path: str, secret: str | None = None) -> Answer:
        """GET, by default with the regular user's secret."""
        return self._ask("GET", path, None, secret)

    def wait_for(self, job: str, states: Sequence[str], timeout: float = 120) -> dict[str, Any]:
        """The job, as soon as it is in one of ``states``."""

        def look() -> dict[str, Any] | None:
            seen: dict[str, Any] = self.get(f"/v1/jobs/{job}").body
            return seen if seen["state"] in states else None

        found = eventually(look, timeout=timeout, every=0.05)
        assert found is not None
        return found

    def _ask(self, method: str, path: str, body: bytes | None, secret: str | None) -> Answer:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        request.add_header("Content-Type", "application/json")
        request.add_header(
            "Authorization", f"Bearer {secret or self.credentials['BRIDGE_API_SECRET']}"
        )
        try:
            return _answered(request)
        except http.client.HTTPException as broken:  # it died within its answer
            raise ConnectionError(str(broken)) from broken

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "serve.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False


def _answered(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, json.load(error))


_ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running(home: Path, *options: str) -> Iterator[RunningService]:
    """A service from ``init`` to the end of its storage."""
    service = RunningService(home)
    service.init(*options)
    try:
        service.start()
        yield service
    finally:
        service.close()
