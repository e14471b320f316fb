from __future__ import annotations

import hashlib
import os
import socket
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from bridge.client import folder as folders
from bridge.errors import FolderError, InvalidRequest


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    path = tmp_path / "water"
    path.mkdir()
    (path / "in.xyz").write_text("3\n")
    return path


def _members(folder: Path, command: str | list[str] = "true") -> dict[str, tarfile.TarInfo]:
    archive = folders.pack(folder, command)
    with archive.file, tarfile.open(fileobj=archive.file) as tar:
        return {member.name: member for member in tar}


def _read(folder: Path, name: str, command: str | list[str] = "true") -> bytes:
    archive = folders.pack(folder, command)
    with archive.file, tarfile.open(fileobj=archive.file) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def test_quoting_of_arguments_survives(folder: Path) -> None:
    script = _read(folder, "run.sh", ["psi4", "a b.dat", "it's", "ψ"])
    assert script.decode() == "#!/bin/bash\npsi4 'a b.dat' 'it'\"'\"'s' 'ψ'\n"


def test_text_is_a_shell_line(folder: Path) -> None:
    assert _read(folder, "run.sh", "sort < in > out").endswith(b"\nsort < in > out\n")


@pytest.mark.parametrize("command", ["", "  ", [], "a\0b"])
def test_bad_command(folder: Path, command: str | list[str]) -> None:
    with pytest.raises(InvalidRequest, match="command"):
        folders.pack(folder, command)


def test_sorted_without_owners_run_sh_last(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "b").write_text("b")
    (folder / "a").write_text("a")
    members = _members(folder)
    assert list(members) == ["a", "in.xyz", "sub", "sub/deep", "sub/deep/b", "run.sh"]
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, "", "")}
    assert members["run.sh"].isreg()


def test_checksum_is_of_the_bytes_and_reproducible(folder: Path) -> None:
    with folders.pack(folder, "true").file as first:
        data = first.read()
    again = folders.pack(folder, "true")
    with again.file:
        assert again.sha256 == hashlib.sha256(data).hexdigest()
        assert again.size == len(data)
    other = folders.pack(folder, "false")
    other.close()
    assert other.sha256 != again.sha256


def test_executable_bit_and_hard_links_are_plain_files(folder: Path) -> None:
    tool = folder / "tool"
    tool.write_text("x")
    tool.chmod(0o755)
    (folder / "same").hardlink_to(tool)
    members = _members(folder)
    assert members["tool"].mode & 0o111
    assert members["same"].isreg()
    assert members["same"].size == 1


def test_left_out_at_the_top_only(folder: Path) -> None:
    names = ["joblog.txt", "joberr.txt", "run.tgz", "leruli.job", "leruli.bucket", ".bridge-x"]
    (folder / "sub").mkdir()
    (folder / ".bridge").mkdir()
    (folder / ".bridge" / "part").write_text("")
    for name in names:
        (folder / name).write_text("old")
        (folder / "sub" / name).write_text("kept")
    members = _members(folder)
    assert not set(names) & set(members)
    assert not any(name.startswith(".bridge") for name in members)
    assert {f"sub/{name}" for name in names} <= set(members)


def test_own_run_sh_is_refused_unless_ignored(folder: Path) -> None:
    (folder / "run.sh").write_text("mine")
    with pytest.raises(FolderError, match=r"run\.sh: this name is reserved"):
        folders.pack(folder, "true")
    (folder / ".bridgeignore").write_text("/run.sh\n")
    assert _read(folder, "run.sh").startswith(b"#!/bin/bash")


def test_run_sh_deeper_down_is_an_ordinary_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "run.sh").write_text("mine")
    assert "sub/run.sh" in _members(folder)


def test_ignore_file_has_gitignore_syntax(folder: Path) -> None:
    (folder / ".bridgeignore").write_text("# old\n*.chk\n!keep.chk\nbuild/\n")
    (folder / "build").mkdir()
    (folder / "build" / "x").write_text("")
    for name in ("a.chk", "keep.chk"):
        (folder / name).write_text("")
    assert set(_members(folder)) == {"in.xyz", "keep.chk", "run.sh"}


@pytest.mark.parametrize("make", ["missing", "file", "empty", "only-folders", "all-ignored"])
def test_folder_without_input(tmp_path: Path, make: str) -> None:
    path = tmp_path / "f"
    if make == "file":
        path.write_text("")
    elif make != "missing":
        path.mkdir()
    if make == "only-folders":
        (path / "sub").mkdir()
    if make == "all-ignored":
        (path / "x").write_text("")
        (path / ".bridgeignore").write_text("*\n")
    with pytest.raises(FolderError, match=str(path)):
        folders.pack(path, "true")


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../other", "sub/../../other", "../water/in.xyz", "up"]
)
def test_link_out_is_refused_by_name(folder: Path, target: str) -> None:
    (folder / "sub").mkdir()
    if target == "up":  # by way of another link
        (folder / "up").symlink_to("..")
    (folder / "link").symlink_to(target if target != "up" else "up/other")
    with pytest.raises(FolderError, match=r"(link|up) is a link that leads out"):
        folders.pack(folder, "true")


def test_links_inside_are_kept_as_links(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "link").symlink_to("../in.xyz")
    (folder / "dangling").symlink_to("later.txt")
    members = _members(folder)
    assert members["sub/link"].linkname == "../in.xyz"
    assert members["dangling"].issym()


def test_fifo_and_socket_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(FolderError, match="pipe is neither file"):
        folders.pack(folder, "true")
    (folder / "pipe").unlink()
    monkeypatch.chdir(folder)  # socket paths must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(FolderError, match="sock is neither file"):
            folders.pack(folder, "true")


def test_vanishing_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "zz").write_text("soon gone")
    add = folders._add_file

    def vanish(tar: tarfile.TarFile, entry: folders._Entry) -> None:
        (folder / "zz").unlink(missing_ok=True)
        add(tar, entry)

    monkeypatch.setattr(folders, "_add_file", vanish)
    with pytest.raises(FolderError, match=r"zz vanished"):
        folders.pack(folder, "true")


@pytest.mark.parametrize("change", ["shrinks", "grows", "rewritten"])
def test_changing_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    path = folder / "in.xyz"
    path.write_bytes(b"x" * 1000)
    os.utime(path, (1, 1))
    addfile = tarfile.TarFile.addfile

    def meanwhile(tar: tarfile.TarFile, info: tarfile.TarInfo, file: object = None) -> None:
        if info.name == "in.xyz":
            path.write_bytes(b"y" * {"shrinks": 10, "grows": 2000, "rewritten": 1000}[change])
        addfile(tar, info, file)  # type: ignore[arg-type]

    monkeypatch.setattr(tarfile.TarFile, "addfile", meanwhile)
    with pytest.raises(FolderError, match=r"in\.xyz changed"):
        folders.pack(folder, "true")


def test_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FolderError, match=r"in\.xyz cannot be read"):
        folders.pack(folder, "true")


def test_many_files_in_bounded_memory(folder: Path) -> None:
    sub = folder / "many"
    sub.mkdir()
    for number in range(4000):
        os.mknod(sub / f"{number:06}")
    tracemalloc.start()
    try:
        archive = folders.pack(folder, "true")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    archive.close()
    assert archive.members == 4003
    assert peak < 4 << 20


def test_large_archive_goes_to_disk_and_is_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.active_count()
    archive = folders.pack(folder, "true")
    archive.close()
    assert threading.active_count() <= before
    assert {path.name for path in tmp_path.iterdir()} == {"water"}


def test_full_disk_names_tmpdir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "_write", full)
    with pytest.raises(FolderError, match="No space left") as caught:
        folders.pack(folder, "true")
    assert "TMPDIR" in caught.value.hint
