from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ptyint.errors import ConfigError, NotebookError
from ptyint.notebooks import FOLDER, check_parameters, execute, notebook_path

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"reconstruct", "compare"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_or_functions_and_with_one_parameters_cell(path: Path) -> None:
    cells = code(path)
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
    assert not [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, functions)]


def test_every_parameter_is_used() -> None:
    for path in NOTEBOOKS:
        parameters, *rest = [cell.source for cell in code(path)]
        names = {target.id for node in ast.parse(parameters).body for target in node.targets}  # type: ignore[attr-defined]
        used = {node.id for source in rest for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert names <= used


def test_a_misspelt_parameter_is_refused_before_any_kernel_starts() -> None:
    with pytest.raises(ConfigError, match=r"reconstruct.ipynb has no parameter 'gridsise'. Did you mean 'gridsize'"):
        check_parameters(notebook_path("reconstruct"), {"gridsise": 2})


def test_an_unknown_notebook_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="compare"):
        notebook_path("reconstrukt")


def test_a_failing_notebook_raises_and_leaves_the_executed_one(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="No fixture is named 'tiny-46'"):
        execute("reconstruct", tmp_path / "out.ipynb", {"fixture": "tiny-46"})
    assert any(output.output_type == "error" for cell in code(tmp_path / "out.ipynb") for output in cell.outputs)


def test_plain_papermill_works(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(notebook_path("reconstruct")),
        "out.ipynb",
        "--log-level",
        "ERROR",
    ]
    command += "-p fixture tiny-64 -p nepochs 1 -p backend pytorch -p output_dir here -p n_groups 4".split()
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"wts.h5.zip", "reconstruction.h5"}
