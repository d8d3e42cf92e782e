from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ptyint.errors import ConfigError
from ptyint.evidence.execution import (
    FOLDER,
    check_parameters,
    defaults_of,
    execute,
    notebook_path,
    parameter_defaults,
    read_notebook,
)
from ptyint.evidence.record import collect

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "reconstruct", "workflow", "compare", "e2a_fixtures", "e2b_red", "e2c_green", "e2d_parity", "explore", "ladder",
        "outside_faults", "ptychodus", "sensitivity", "sweep", "your_models",
    }  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_or_functions_and_with_one_parameters_cell(path: Path) -> None:
    cells = code(path)
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    functions: tuple[type[ast.AST], ...] = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if path.stem != "sensitivity":  # its last cell takes a fault of one's own, which is a function
        functions += (ast.Lambda,)
    assert not [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, functions)]


def test_every_parameter_is_used() -> None:
    for path in NOTEBOOKS:
        parameters, *rest = [cell.source for cell in code(path)]
        names = {target.id for node in ast.parse(parameters).body for target in node.targets}  # type: ignore[attr-defined]
        used = {node.id for source in rest for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert names <= used


def test_an_unknown_notebook_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="compare"):
        notebook_path("reconstrukt")


def test_a_failing_notebook_says_why_and_leaves_the_executed_one(tmp_path: Path) -> None:
    done = execute("reconstruct", tmp_path / "out.ipynb", {"fixture": "tiny-46"})
    assert done.exit_code == 1 and "No fixture is named 'tiny-46'" in done.stopped
    assert any(output.output_type == "error" for cell in code(tmp_path / "out.ipynb") for output in cell.outputs)


def test_parameters_are_literals_and_documented() -> None:
    """The strict runner takes every notebook of the checkout, and each parameter says what it is or is plain."""
    for path in NOTEBOOKS:
        assert defaults_of(read_notebook(path), path.name) == parameter_defaults(path) != {}
    assert parameter_defaults(notebook_path("reconstruct"))["learning_rate"] == 1e-3


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "9" * 5000, float("inf"), 10**400, 1e300])
def test_no_parameter_is_infinite_whatever_its_default(value: object) -> None:
    """Plain papermill hands text on as it is; text stays text where the default is."""
    defaults = parameter_defaults(notebook_path("reconstruct"))
    for name in ("nphotons", "learning_rate"):
        with pytest.raises(ConfigError, match=rf"reconstruct.ipynb: {name} is .*must be a "):
            check_parameters(defaults, {name: value}, "reconstruct.ipynb")
    assert check_parameters(defaults, {"fixture": "nan", "nphotons": "many"}, "")["fixture"] == "nan"


PLAIN = {
    "reconstruct": "-p fixture tiny-64 -p nepochs 1 -p backend pytorch -p output_dir here -p n_groups 4",
    "e2a_fixtures": "-p fixtures tiny-64 -p nepochs 2",
    "e2b_red": "-p timeout_s 200.0",
}
"""Notebook to parameters for the plain command; the others are run by the same engine in `test_quick_run.py`."""


@pytest.mark.parametrize(
    "name", ["reconstruct", *(pytest.param(name, marks=pytest.mark.slow) for name in ("e2a_fixtures", "e2b_red"))]
)
def test_plain_papermill_works(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(notebook_path(name)), "out.ipynb", "--log-level", "ERROR"]
    done = subprocess.run(
        [*command, *PLAIN[name].split()], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    checks = collect(read_notebook(tmp_path / "out.ipynb")).checks
    assert [check for check in checks if not check.passed] == [] and (checks or name == "reconstruct")
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert (
        made
        >= {
            "reconstruct": {"here/wts.h5.zip", "here/reconstruction.h5"},
            "e2a_fixtures": {"budget_tensorflow.log", "budget_pytorch.log"},
            "e2b_red": {"phase_e_red_integration.log", "phase_e_red_integration.json"},
        }[name]
    )
