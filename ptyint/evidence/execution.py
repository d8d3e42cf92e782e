"""The strict runner: papermill, with everything that it lets pass made an answer.

Parameters are checked before a kernel starts; the kernel says which values it held; a notebook that stops early, dies
or hangs is reported as such, and the cell that it died in is marked.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptyint._atomic import atomic_path, shipped
from ptyint.errors import ConfigError
from ptyint.evidence.display import Table
from ptyint.evidence.processes import PROGRESS_VARIABLE
from ptyint.evidence.record import Record

FOLDER = shipped("notebooks")

ECHO_TAG = "ptyint-echo"
"""Tag of the two cells that the runner adds: the kernel says which parameters it holds, at the start and at the end."""

NOT_RUN, DIED = "not run", "died"
"""States of a cell, kept in its metadata under ``ptyint``; a cell that ran has none."""

KILLED = 138
"""Exit code of the papermill command when its kernel dies."""


def notebook_path(name: str | os.PathLike[str]) -> Path:
    """Path of a notebook: one of the project's by name, such as ``reconstruct``, or any file that ends in ``.ipynb``.

    Raises
    ------
    ConfigError
        There is none; the known ones are named.
    """
    path = Path(name) if str(name).endswith(".ipynb") else FOLDER / f"{name}.ipynb"
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.ipynb"))
        raise ConfigError(
            f"No notebook {str(name)!r}; {FOLDER} has {known}. Give one of these names or the path of an .ipynb file."
        )
    return path


def parameter_defaults(path: Path) -> dict[str, Any]:
    """Parameters of a notebook and their defaults.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to object

    Raises
    ------
    ConfigError
        The notebook cannot be read; has no cell, or several, tagged ``parameters``; or that cell holds anything but
        names set to literal values. (papermill would run such a notebook with other values than its metadata says.)
    """
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, AttributeError, nbformat.reader.NotJSONError) as error:
        raise ConfigError(f"{path.name} is not a readable notebook ({error}).") from error
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ConfigError(
            f"{path.name} has {len(tagged)} cells tagged 'parameters'; must have one. Tag the cell with the defaults: "
            "without it papermill sets the values at the top and the notebook overwrites them with its own."
        )
    defaults = {}
    for statement in ast.parse(tagged[0].source).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        try:
            if not isinstance(target, ast.Name):
                raise ValueError
            defaults[target.id] = ast.literal_eval(statement.value)
        except ValueError:
            raise ConfigError(
                f"{path.name}: {ast.unparse(statement)!r} in the parameters cell; only names set to literal values "
                "belong there. What depends on a parameter is computed in a later cell: papermill sets parameters "
                "after this one and computes nothing again."
            ) from None
    return defaults


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse parameters that the notebook does not declare, or of another type than its defaults.

    Parameters
    ----------
    path : Path
    parameters : mapping

    Returns
    -------
    dict of str to object
        Every parameter with the value that it must have in the kernel: the given one, else the default.

    Raises
    ------
    ConfigError
        Names the unknown parameter and the near miss, or the value and the type that it must have.
    """
    defaults = parameter_defaults(path)
    for name, value in parameters.items():
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {sorted(defaults)}."
            raise ConfigError(f"{path.name} has no parameter {name!r}. {hint}")
        default = defaults[name]
        if not _fits(value, default):
            raise ConfigError(
                f"{path.name}: {name} is {value!r}, a {type(value).__name__}; must be a {type(default).__name__}, "
                f"as its default {default!r} is."
            )
    return {**defaults, **parameters}


def _fits(value: Any, default: Any) -> bool:
    if default is None:
        return value is None or isinstance(value, (bool, int, float, str))
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def echo(**parameters: Any) -> Table:
    """What the kernel holds; the runner ends every notebook with it."""
    rows = [(name, repr(value)) for name, value in parameters.items()]
    return Table("Parameters, as the kernel held them", ("parameter", "value"), rows, Record(parameters=parameters))


@dataclass(frozen=True)
class Execution:
    """How a notebook ran.

    Attributes
    ----------
    argv : list of str
        The plain papermill command that does the same.
    start, end : str
        ISO 8601, UTC.
    exit_code : int
        What that command ends with: 0 whenever no cell raised, which is not yet a pass.
    stopped : str
        Why it did not reach its end; empty when it did.
    """

    argv: list[str] = field(default_factory=list)
    start: str = ""
    end: str = ""
    exit_code: int | None = None
    stopped: str = "it was not started"


def execute(
    name: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    *,
    timeout: float | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> Execution:
    """Run a notebook in a kernel of its own, in the folder of `output`.

    Parameters
    ----------
    name : str or path-like
        See :func:`notebook_path`.
    output : path-like
        Where the executed notebook goes, whatever happens. What the kernel printed goes beside it, to ``<stem>.log``.
    parameters : mapping
        Values for the notebook's parameters cell.
    timeout : float, optional
        Seconds for the whole notebook.
    on_cell : callable, optional
        Called with (cells done, cells in all) before each cell and at the end.

    Returns
    -------
    Execution
        Also when the notebook stopped: look at `stopped`.

    Raises
    ------
    ConfigError
        Unknown notebook, or parameters that it cannot take; no kernel was started.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    path, target = notebook_path(name), Path(output)
    names = list(check_parameters(path, parameters))
    notebook = _with_echoes(nbformat.read(path, as_version=4), names)
    started: list[str] = []
    deadline = None if timeout is None else time.monotonic() + timeout

    def on_cell_start(cell: Any, cell_index: int) -> None:
        started.append(cell.id)
        if on_cell is not None:
            on_cell(cell_index, len(notebook.cells) + 1)

    os.environ[PROGRESS_VARIABLE] = "text"
    argv = ["papermill", str(path), str(target)]
    for key, value in parameters.items():
        argv += ["-p", key, str(value)]
    start, exit_code, stopped, died = _now(), 0, "", False
    with target.with_suffix(".log").open("a", encoding="utf-8") as log:
        try:
            papermill.execute_notebook(
                notebook,
                str(target),
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=str(target.parent),
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                on_cell_start=on_cell_start,
                timeout_func=None if deadline is None else lambda cell: max(1, deadline - time.monotonic()),
                shutdown_kernel="immediate",
            )
        except PapermillExecutionError as error:
            exit_code, stopped = 1, f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            exit_code, stopped, died = KILLED, "the kernel died (killed, out of memory, or a crash)", True
        except CellTimeoutError:
            exit_code, stopped, died = 1, f"it took longer than its {timeout:g} s", True
        except Exception as error:  # the kernel did not start, the disk is full, ...: a red run, not a lost one
            exit_code, stopped = 1, f"{type(error).__name__}: {error}"
        stopped = _mark(target, started[-1] if died and started else None, stopped)
        if stopped:
            log.write(f"\n{path.name} stopped: {stopped}\n")
    if on_cell is not None:
        on_cell(len(notebook.cells) + 1, len(notebook.cells) + 1)
    return Execution(argv, start, _now(), exit_code, stopped)


def unfinished(notebook: Any) -> str:
    """Why an executed notebook did not reach its end; empty when it did.

    Parameters
    ----------
    notebook : NotebookNode
        As papermill left it. Its own word ("completed") is not believed: it says so of cells that never ran.
    """
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        mark = cell.metadata.get("ptyint", {})
        if mark.get("state") == DIED:
            return str(mark["reason"])
        for output in cell.outputs:
            if output.output_type == "error":
                exited = output.ename == "SystemExit"
                what = f"a cell left early: SystemExit: {output.evalue or 0}" if exited else ""
                return what or f"{output.ename}: {output.evalue}"
        if cell.execution_count is None:
            return "a cell never ran"
    if not any(ECHO_TAG in cell.metadata.get("tags", []) and cell.outputs for cell in notebook.cells[-1:]):
        return "the last cell, which says what the kernel held, said nothing"
    return ""


def _with_echoes(notebook: Any, names: list[str]) -> Any:
    """Add the two cells in which the kernel says what it holds: after the parameters, and at the end."""
    import nbformat

    arguments = ", ".join(f"{name}={name}" for name in names)
    source = f"from ptyint.evidence.execution import echo\n\necho({arguments})"
    first, last = (
        nbformat.v4.new_code_cell(source, metadata={"tags": [ECHO_TAG]}, id=f"{ECHO_TAG}-{n}") for n in (1, 2)
    )
    position = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells = [*notebook.cells[: position + 1], first, *notebook.cells[position + 1 :], last]
    return notebook


def _mark(target: Path, died: str | None, stopped: str) -> str:
    """Mark in the executed notebook where it died and what never ran; return why it stopped, or nothing."""
    import nbformat

    try:
        notebook = nbformat.read(target, as_version=4)
    except (OSError, ValueError) as error:
        return stopped or f"{target.name} cannot be read ({error})"
    notebook.cells = [c for c in notebook.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    stopped = stopped or unfinished(notebook)
    over = False
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        failed = any(output.output_type == "error" for output in cell.outputs)
        if cell.id == died or failed:
            cell.metadata["ptyint"], over = {"state": DIED, "reason": stopped}, True
        elif over or cell.execution_count is None:
            cell.metadata["ptyint"] = {"state": NOT_RUN}
    with atomic_path(target) as temporary:
        nbformat.write(notebook, temporary)
    return stopped


def same_values(asked: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """Which parameters the kernel held with another value than asked, in words; empty when none."""
    text = {name: json.dumps(value, sort_keys=True, default=repr) for name, value in asked.items()}
    found = {name: json.dumps(value, sort_keys=True, default=repr) for name, value in held.items()}
    return "; ".join(
        f"{name} is {found.get(name, 'not there')}, asked for {text[name]}"
        for name in asked
        if found.get(name) != text[name]
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
