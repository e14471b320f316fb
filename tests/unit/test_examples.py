"""The example molecules: sensible geometries, and a script that needs only a POSIX awk."""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
from pathlib import Path

import pytest

MOLECULES = Path(__file__).resolve().parents[2] / "examples" / "molecules"
FOLDERS = sorted(path for path in MOLECULES.iterdir() if path.is_dir())

# Hartree, by hand from the geometries in the literature.
KNOWN = {"water": 9.1950, "methane": 13.4725, "carbon-dioxide": 58.3920, "benzene": 204.0200}
CHARGES = {"H": 1, "C": 6, "N": 7, "O": 8}
# Ångström: shorter or longer bonds between these elements do not exist.
BONDS = {"CC": (1.19, 1.56), "CH": (1.05, 1.12), "CO": (1.12, 1.45), "HO": (0.94, 1.00)}
BONDS |= {"CN": (1.14, 1.50), "HN": (0.99, 1.04), "OO": (1.43, 1.50)}

AWKS = [found for found in map(shutil.which, ("mawk", "gawk", "original-awk")) if found]


def _run(folder: Path, scratch: Path, awk: str | None = None) -> tuple[float, list[float]]:
    here = scratch / folder.name
    shutil.copytree(folder, here)
    programs = scratch / "bin"
    programs.mkdir(exist_ok=True)
    if awk and not (programs / "awk").exists():
        (programs / "awk").symlink_to(awk)
    path = f"{programs}:/usr/bin:/bin"
    subprocess.run(["sh", "analyse.sh"], cwd=here, check=True, env={"PATH": path}, timeout=60)
    with (here / "bonds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        pair = "".join(
            sorted(row["atom_1"].rstrip("0123456789") + row["atom_2"].rstrip("0123456789"))
        )
        shortest, longest = BONDS[pair]
        assert shortest < float(row["length_angstrom"]) < longest, row
    return float((here / "energy.txt").read_text()), [float(r["length_angstrom"]) for r in rows]


def _atoms(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    lines = (folder / "molecule.xyz").read_text().splitlines()
    atoms = [(words[0], tuple(map(float, words[1:]))) for words in map(str.split, lines[2:])]
    assert int(lines[0]) == len(atoms)
    return atoms


def test_there_is_a_dozen() -> None:
    assert len(FOLDERS) == 12


def test_one_script_in_all_of_them() -> None:
    assert len({(folder / "analyse.sh").read_bytes() for folder in FOLDERS}) == 1


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_energy_and_bonds(folder: Path, tmp_path: Path) -> None:
    energy, lengths = _run(folder, tmp_path)
    atoms = _atoms(folder)
    expected = sum(
        CHARGES[a] * CHARGES[b] * 0.529177210903 / math.dist(x, y)
        for i, (a, x) in enumerate(atoms)
        for b, y in atoms[:i]
    )
    assert energy == pytest.approx(expected, abs=1e-5)
    # A tree of bonds, and one more in the ring of benzene.
    assert len(lengths) == len(atoms) - 1 + (folder.name == "benzene")
    if folder.name in KNOWN:
        assert energy == pytest.approx(KNOWN[folder.name], abs=1e-3)


@pytest.mark.parametrize("awk", AWKS)
def test_any_awk(awk: str, tmp_path: Path) -> None:
    energy, _ = _run(MOLECULES / "water", tmp_path, awk)
    assert energy == pytest.approx(KNOWN["water"], abs=1e-3)


@pytest.mark.parametrize("content", ["", "3\nwater\nO 0 0 0\n", "1\nx\nXx 0 0 0\n", "1\nx\nO 0\n"])
def test_bad_input_fails(content: str, tmp_path: Path) -> None:
    shutil.copytree(MOLECULES / "water", tmp_path / "bad")
    (tmp_path / "bad" / "molecule.xyz").write_text(content)
    done = subprocess.run(
        ["sh", "analyse.sh"],
        cwd=tmp_path / "bad",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "molecule.xyz" in done.stderr


CODES = MOLECULES.parent / "codes"


@pytest.mark.parametrize("image", ["crest:2.11.2", "psi4:1.5"])
def test_images_are_as_jobs_need_them(image: str) -> None:
    code, _, version = image.partition(":")
    recipe = (CODES / code / "Dockerfile").read_text()
    steps = [line for line in recipe.splitlines() if line and not line.startswith(("#", " "))]
    assert steps[-1] == "WORKDIR /rundir"
    assert f"{code}={version}" in recipe
    # Main has an entry point and a user of its own, and no version is left to chance.
    assert not [step for step in steps if step.startswith(("ENTRYPOINT", "CMD"))]
    bases = [step.split()[1] for step in steps if step.startswith("FROM")]
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    assert f"docker build -t {image} examples/codes/{code}" in (CODES / "README.md").read_text()
