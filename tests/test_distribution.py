"""What is installed: the wheel alone does everything, and the sdist builds the same wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ptyint import cli
from ptyint.evidence.display import render

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, away from the checkout; without progress bars, as in a log."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["TQDM_DISABLE"] = "1"
    environment["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))  # nbconvert's templates, beside its code
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(target: str, source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_builds_the_same_wheel(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    from_sdist = contents(build("wheel", source, tmp_path / "there"))
    assert from_sdist == contents(build("wheel", ROOT, tmp_path / "here"))
    carried = {
        "benchmarks/equivalents.toml",
        "benchmarks/mutants.py",
        "datasets/registry.toml",
        "notebooks/ladder.ipynb",
        "tests/backend_conformance.py",
        "tests/cycle_of_backend.py",
        "tests/full_cycle.py",
        "tests/torch/backend_arrays.py",
    }
    assert {f"ptyint/shipped/{name}" for name in carried} <= from_sdist.keys()
    package = (path for path in (ROOT / "ptyint").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {path.relative_to(ROOT).as_posix() for path in package} <= from_sdist.keys()
    assert not [name for name in from_sdist if "__pycache__" in name or ".lock" in name]


def test_the_installed_package_is_used_and_has_its_datasets(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import ptyint; print(ptyint.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    listed = run(installed / "ptyint", "fixtures", cwd=tmp_path)
    assert "tiny-64" in listed and "ptychodus-sim-64" in listed
    assert "✓ operators: known" in run(installed / "ptyint", "check-backend", "numpy", cwd=tmp_path)
    load = "from ptyint import load_fixture; print(load_fixture('tiny-64').n, load_fixture('ptychodus-sim-64').n)"
    assert run(installed / "python", "-c", load, cwd=tmp_path) == "16 306\n"


def test_the_notebooks_are_put_somewhere_to_work_on_and_never_over_others(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["notebooks", str(tmp_path / "mine")]) == 0
    sources = {path.name: path.read_bytes() for path in (ROOT / "notebooks").iterdir() if path.is_file()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == sources
    (tmp_path / "mine" / "ladder.ipynb").write_text("my own work")
    assert cli.main(["notebooks", str(tmp_path / "mine")]) == 2
    assert "already has compare.ipynb" in capsys.readouterr().err
    assert (tmp_path / "mine" / "ladder.ipynb").read_text() == "my own work"


@pytest.mark.slow
def test_stages_pass_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Those that need the tests have them, and one that trains what it needs itself."""
    said = run(installed / "ptyint", "run", "e2b", "e2d", cwd=tmp_path)
    assert "PASS" in said and (tmp_path / "docs" / "fix_plan.md").is_file()


def test_the_ledger_is_in_the_repository_from_the_start() -> None:
    assert (ROOT / "docs" / "fix_plan.md").read_text().startswith(render("ledger.md.j2"))
