"""What every test may use, and the rule for tests that need torch where torch is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each of the processes side by side has its share of the cores
    from ptyint.evidence.environment import usable_cores
    from ptyint.evidence.processes import THREAD_VARIABLES

    for variable in THREAD_VARIABLES:
        share = usable_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ.setdefault(variable, str(max(1, share)))

TORCH_OPTIONAL = ("test_integration_workflow_torch.py", "test_backend_selection.py")
"""Files below ``tests/torch`` that run without torch as well: there they fail, with advice, and never skip."""

LONGEST = (
    "test_mutants.py", "test_sweep_executors.py", "test_blind_spots.py", "test_distribution.py", "test_ptychodus.py",
    "test_models.py", "test_ptychopinn.py", "test_integration_workflow.py", "test_integration_workflow_torch.py",
    "test_backend_contract.py", "test_ladder.py", "test_workflow.py",
)  # fmt: skip
"""Files that go first: a long one that began last would be waited for by one process alone."""

TORCH_FOLDER = Path(__file__).parent / "torch"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", help="for cycle_of_backend.py: any of `ptyint backends`")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first; without torch, skip the other selected tests below ``tests/torch``.

    The whole suite is red without torch all the same.
    """
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))
    needing = [item for item in items if TORCH_FOLDER in item.path.parents and item.path.name not in TORCH_OPTIONAL]
    if not needing or config.option.collectonly:
        return
    problem = torch_problem()
    if problem:
        reason = f"POLICY-001: torch is mandatory, but cannot be imported ({problem}); `pip install torch`"
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))


def torch_problem() -> str:
    """Why torch cannot be imported; empty where it can. Asked in another process: this one imports no framework."""
    run = subprocess.run([sys.executable, "-P", "-c", "import torch; torch.tensor"], capture_output=True, text=True)
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]


@pytest.fixture(scope="session")
def star_file() -> Path:
    """The file of the real Siemens star. Where it cannot be had the test is skipped, with PTYINT_REQUIRE_DATA=1 red."""
    from ptyint.scans import fixtures

    reason = fixtures.missing("siemens-star")
    if reason:
        pytest.skip(reason)
    return fixtures.fixture_file("siemens-star")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of a fresh environment with our wheel and no checkout; all other packages are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    python = folder / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return python.parent
