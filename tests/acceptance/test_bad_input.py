"""What members may send by mistake or on purpose, through a whole service."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import archive, bucket_of, hand_in, member
from tests.support.poll import eventually
from tests.support.service import RunningService

FILES = 1000
HUGE = 1 << 40


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with low limits on what an archive may become."""
    service = RunningService(tmp_path_factory.mktemp("strict") / "home")
    service.init("--runtime", "process")
    service.configure(
        local={"max_unpacked_mb": 8, "max_files": FILES, "cores": 4},
        queue={"retries": 0, "stage_in_limit_s": 60},
    )
    try:
        service.start()
        yield service
    finally:
        service.close()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


# Everything is aimed at this folder of the test, so that what gets through shows.
def evil_archives(target: Path) -> dict[str, bytes]:
    outside = str(target)
    up = "../" * 12 + outside.lstrip("/")
    return {
        "dot dot": archive([member(f"{up}/a", "x")]),
        "dot dot inside": archive([member("sub/../../a", "x")]),
        "absolute": archive([member(f"{outside}/a", "x")]),
        "write through a link": archive(
            [special("l", tarfile.SYMTYPE, outside), member("l/a", "x")]
        ),
        "write through a link, written another way": archive(
            [special("./l", tarfile.SYMTYPE, outside), member("l//a", "x")]
        ),
        "write over a link": archive(
            [special("l", tarfile.SYMTYPE, f"{outside}/a"), member("l", "x"), member("l/b", "x")]
        ),
        "hard link out": archive([special("h", tarfile.LNKTYPE, f"{up}/secret")]),
        "hard link to an absolute name": archive(
            [special("h", tarfile.LNKTYPE, f"{outside}/secret")]
        ),
        "character device": archive([special("d", tarfile.CHRTYPE)]),
        "block device": archive([special("d", tarfile.BLKTYPE)]),
        "fifo": archive([special("p", tarfile.FIFOTYPE)]),
        "bomb of one file": gzip.compress(_header("big", 64 << 20) + bytes(64 << 20), 1),
        "bomb by its header": gzip.compress(_header("big", HUGE) + bytes(4096), 1),
        "bomb of zeros": gzip.compress(bytes(64 << 20), 1),
        "bomb of many files": archive(member(f"f{n}") for n in range(FILES + 10)),
        "no archive": b"this is no archive",
        "empty": b"",
        "truncated": archive([member("data", os.urandom(30_000).hex())])[:-9000],
        "no run.sh": gzip.compress(_header("in", 0) + bytes(10240)),
        "run.sh is a link": gzip.compress(_link("run.sh", "/bin/true") + bytes(10240)),
    }


def _header(name: str, size: int) -> bytes:
    return member(name, size=size)[0].tobuf(tarfile.GNU_FORMAT)


def _link(name: str, target: str) -> bytes:
    return special(name, tarfile.SYMTYPE, target)[0].tobuf(tarfile.GNU_FORMAT)


def test_archives_that_would_do_harm_are_refused(strict: RunningService, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    archives = evil_archives(tmp_path)
    jobs = dict(zip(archives, hand_in(strict, *archives.values()), strict=True))
    for name, job in jobs.items():
        seen = strict.wait_for(job, ["failed", "completed"], timeout=120)
        assert (seen["state"], seen["cause"]) == ("failed", "input_invalid"), (name, seen)
        assert seen["reason"].startswith("run.tgz cannot be used: "), (name, seen)
        assert sorted(path.name for path in bucket_of(strict, job).iterdir()) == [
            ".bridge",
            "run.tgz",
        ], name
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_another_file_than_was_submitted(strict: RunningService) -> None:
    job = hand_in(strict, archive([]), input_sha256="0" * 64)[0]
    seen = strict.wait_for(job, ["failed", "completed"])
    assert (seen["state"], seen["cause"]) == ("failed", "input_invalid")
    assert "SHA-256" in seen["reason"]


def test_what_a_job_does_to_its_own_folder(service: RunningService, tmp_path: Path) -> None:
    """It runs as a plain program of ours here, so only what is uploaded can be held back."""
    (tmp_path / "secret").write_text("secret")
    scripts = {
        "swapped": f"cd .. && mv rundir other && ln -s {tmp_path} rundir",
        "log": f"echo lost; rm joblog.txt; ln -s {tmp_path}/secret joblog.txt",
        "links": f"ln -s {tmp_path} folder; ln -s {tmp_path}/secret file; echo fine",
        "fifo": "mkfifo pipe; rm joblog.txt; mkfifo joblog.txt",
    }
    jobs = hand_in(service, *(archive([], run) for run in scripts.values()))
    swapped, log, links, fifo = (
        service.wait_for(job, ["failed", "completed"], timeout=120) for job in jobs
    )
    assert (swapped["state"], swapped["cause"]) == ("failed", "input_invalid"), swapped
    assert "replaced its run directory" in swapped["reason"]
    assert [seen["state"] for seen in (log, links, fifo)] == ["completed"] * 3
    folders = [bucket_of(service, job) for job in jobs]
    assert (folders[1] / "joblog.txt").read_text() == ""
    assert (folders[2] / "joblog.txt").read_text() == "fine\n"
    assert sorted(path.name for path in folders[2].iterdir()) == [
        ".bridge",
        "joberr.txt",
        "joblog.txt",
        "run.tgz",
    ]
    assert not any("secret" in path.read_text() for path in folders[0].parent.glob("*/job*.txt"))


def test_a_huge_log_and_odd_names(service: RunningService) -> None:
    script = (
        "head -c 100000000 /dev/zero; echo 1 >plain; echo 2 >'a b \"c\"'; echo 3 >naïve;"
        " echo 4 >\"$(printf 'caf\\351')\"; echo 5 >\"$(printf 'two\\nlines')\""
    )
    job = hand_in(service, archive([], script))[0]
    seen = service.wait_for(job, ["failed", "completed"], timeout=120)
    assert seen["state"] == "completed", seen
    folder = bucket_of(service, job)
    assert (folder / "joblog.txt").stat().st_size == 100_000_000
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".bridge", "run.tgz", "joblog.txt", "joberr.txt", "plain", 'a b "c"', "naïve"
    }  # fmt: skip


class TestFolders:
    """``nomad-bridge submit`` of folders that will not do."""

    def submit(self, service: RunningService, folder: Path, *more: str) -> tuple[int, str]:
        done = service.command("submit", "--dir", str(folder), *more, "any:1", "--", "ls | wc -l")
        return done.returncode, done.stderr

    def test_they_are_named_and_nothing_is_submitted(
        self, service: RunningService, tmp_path: Path
    ) -> None:
        before = len(service.get("/v1/jobs").body["jobs"])
        made = {name: tmp_path / name for name in ("empty", "reserved", "out", "pipe")}
        for path in made.values():
            path.mkdir()
        (made["reserved"] / "run.sh").touch()
        (made["out"] / "link").symlink_to("/etc/passwd")
        os.mkfifo(made["pipe"] / "fifo")
        (tmp_path / "file").touch()
        says = {"missing": "No such file", "empty": "empty", "reserved": "run.sh", "out": "link",
                "pipe": "fifo", "file": "not a folder"}  # fmt: skip
        for name, word in says.items():
            code, text = self.submit(service, tmp_path / name)
            assert (code, str(tmp_path / name) in text) == (2, True), text
            assert word in text
        assert len(service.get("/v1/jobs").body["jobs"]) == before

    def test_100_000_files(self, service: RunningService, tmp_path: Path) -> None:
        folder = tmp_path / "many"
        for number in range(100):
            (folder / f"{number}").mkdir(parents=True)
            one = tmp_path / f"one{number}"
            one.touch()
            for inner in range(1000):
                # Links to one file are made several times faster than files.
                (folder / f"{number}" / f"{inner}").hardlink_to(one)
        # Held: making so many files a second time, on the node, would take the longest.
        done = service.command("submit", "--hold", "any:1", "--", "true", cwd=folder)
        assert done.returncode == 0, done.stderr
        with tarfile.open(bucket_of(service, done.stdout.strip()) / "run.tgz") as packed:
            assert sum(info.isreg() for info in packed) == 100_000 + 1

    def test_files_that_come_and_go(self, service: RunningService, tmp_path: Path) -> None:
        folder = tmp_path / "busy"
        folder.mkdir()
        (folder / "steady").write_text("data")
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                for number in range(200):
                    (folder / f"z{number}").write_text("x")
                for number in range(200):
                    (folder / f"z{number}").unlink()

        busy = threading.Thread(target=churn)
        busy.start()
        try:
            # Whether one vanishes in the very moment is chance; never a crash, never nonsense.
            outcomes = [self.submit(service, folder, "--again") for _ in range(2)]
        finally:
            stop.set()
            busy.join()
        for code, text in outcomes:
            assert code == 0 or (code == 2 and ("vanished" in text or "changed" in text)), text


class TestRequests:
    """Over a real connection; what each field may hold is tested at the door itself."""

    def raw(self, service: RunningService, data: bytes, secret: str | None) -> tuple[int, object]:
        request = urllib.request.Request(f"{service.url}/v1/jobs", data=data, method="POST")
        if secret is not None:
            request.add_header("Authorization", f"Bearer {secret}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                body = json.load(error)
                assert {"error", "detail", "hint"} == set(body), body
                return error.code, body

    def test_secrets(self, service: RunningService) -> None:
        known = service.credentials
        data = json.dumps({"bucket_id": str(uuid.uuid4()), "image": "any:1"}).encode()
        for secret, status in (
            (None, 401),
            ("", 401),
            ("nbapi_" + "x" * 52, 401),
            ("ü" * 20, 401),
            (known["BRIDGE_COMPUTE_SECRET"], 401),
            (known["BRIDGE_S3_SECRET"], 401),
            (known["BRIDGE_GROUP_TOKEN"], 403),
        ):
            code, body = self.raw(service, data, secret and secret.encode().decode("latin-1"))
            assert code == status, (secret, body)
            assert not secret or secret not in json.dumps(body)

    def test_a_revoked_member_is_out_at_once_and_the_jobs_go_on(
        self, service: RunningService
    ) -> None:
        admin = service.credentials["BRIDGE_ADMIN_SECRET"]
        bob = service.post("/v1/users", {"name": "bob"}, admin).body["secret"]
        item = {"bucket_id": str(uuid.uuid4()), "image": "any:1", "hold": True}
        job = service.post("/v1/jobs", item, bob).body["id"]
        done = service.command("users", "revoke", "bob")
        assert done.returncode == 0, done.stderr
        assert service.get(f"/v1/jobs/{job}", bob).status == 401
        assert service.post(f"/v1/jobs/{job}/release", {}, admin).status == 200
        seen = eventually(lambda: self.ended(service, job, admin), timeout=60) or {}
        assert (seen["state"], seen["reason"]) == ("failed", "Input files missing")

    def ended(self, service: RunningService, job: str, secret: str) -> dict[str, object] | None:
        seen: dict[str, object] = service.get(f"/v1/jobs/{job}", secret).body
        return seen if seen["state"] == "failed" else None

    def test_the_last_admin_stays(self, service: RunningService) -> None:
        done = service.command("users", "revoke", "root")
        assert done.returncode == 2, done.stdout + done.stderr
        assert service.get("/v1/whoami", service.credentials["BRIDGE_ADMIN_SECRET"]).status == 200

    def test_bodies(self, service: RunningService) -> None:
        secret = service.credentials["BRIDGE_API_SECRET"]
        items = [{"bucket_id": str(uuid.uuid4()), "image": "any:1", "hold": True}] * 1001
        for data, status in (
            (b"{", 400),
            (b"\xff\xfe", 400),
            (b"", 400),
            (b"7", 422),
            (b'{"bucket_id": "no", "image": "any:1"}', 422),
            (b"[" * 100_000, 400),
            (json.dumps(items).encode(), 413),
            (b" " * 10_000_000, 413),
        ):
            code, body = self.raw(service, data, secret)
            assert code == status, (data[:20], body)

    def test_twice_and_too_early(self, service: RunningService) -> None:
        job = hand_in(service, archive([], "echo begun; sleep 600"))[0]
        service.wait_for(job, ["running"])
        assert service.post(f"/v1/jobs/{job}/prune", {}).status == 409
        assert service.command("prune", job).returncode == 2
        for _ in range(2):
            assert service.post(f"/v1/jobs/{job}/cancel", {}).status == 200
        seen = service.wait_for(job, ["canceled"])
        assert service.post(f"/v1/jobs/{job}/cancel", {}).body["state"] == "canceled"
        assert (bucket_of(service, job) / "joblog.txt").read_text() == "begun\n"
        assert seen["cause"] == "canceled"
        for _ in range(2):
            assert service.command("prune", job).returncode == 0
        assert not bucket_of(service, job).exists()

    def test_jobs_of_others(self, service: RunningService) -> None:
        added = service.command(
            "groups", "add", "other", "--admin", "boss", "--config", str(service.config), "--json"
        )
        stranger = json.loads(added.stdout)["admin_secret"]
        job = hand_in(service, None, hold=True)[0]
        for action in ("", "/cancel", "/hold", "/release", "/prune"):
            path = f"/v1/jobs/{job}{action}"
            foreign = service.post(path, {}, stranger) if action else service.get(path, stranger)
            unknown = service.get(f"/v1/jobs/{uuid.uuid4()}", stranger)
            assert foreign.status == unknown.status == 404
        assert service.get(f"/v1/jobs/{job}").body["state"] == "received"
