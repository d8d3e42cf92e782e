"""The notebooks, executed: parameters checked first, one kernel each, the executed notebook kept whatever happens."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptyint.backends.base import PROGRESS_VARIABLE
from ptyint.errors import ConfigError, NotebookError

FOLDER = Path(__file__).parents[1] / "notebooks"


def notebook_path(name: str) -> Path:
    """Path of the notebook `name` (without suffix) in the checkout.

    Raises
    ------
    ConfigError
        There is none; the known ones are named.
    """
    path = FOLDER / f"{name}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.ipynb"))
        raise ConfigError(f"No notebook {name!r} in {FOLDER}; there are {known}. Run from a checkout of the project.")
    return path


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not declare; papermill itself would only warn.

    Raises
    ------
    ConfigError
        Names the unknown parameter and the near miss.
    """
    import papermill

    known = papermill.inspect_notebook(str(path))
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {sorted(known)}."
            raise ConfigError(f"{path.name} has no parameter {name!r}. {hint}")


def execute(name: str, output: str | os.PathLike[str], parameters: Mapping[str, Any]) -> Path:
    """Run a notebook in a kernel of its own, in the folder of `output`.

    Parameters
    ----------
    name : str
        Without suffix, such as ``reconstruct``.
    output : path-like
        Where the executed notebook goes. Also written when a cell fails.
    parameters : mapping
        Values for the notebook's parameters cell.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    ConfigError
        Unknown notebook or parameter.
    NotebookError
        A cell raised, or the kernel died.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    path, target = notebook_path(name), Path(output)
    check_parameters(path, parameters)
    os.environ[PROGRESS_VARIABLE] = "text"
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=str(target.parent),
            progress_bar=False,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        raise NotebookError(f"{path.name} stopped: {error.ename}: {error.evalue}") from error
    except (DeadKernelError, CellTimeoutError) as error:
        raise NotebookError(f"{path.name} stopped: {error}") from error
    return target
