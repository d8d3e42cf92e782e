"""A notebook, its parameters, and its execution by the strict papermill engine (:mod:`ptyint.evidence.engine`)."""

import ast
import asyncio
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ptyint._atomic import plain, shipped
from ptyint.errors import ConfigError, EvidenceError, did_you_mean, shortened, shown
from ptyint.evidence.display import Table
from ptyint.evidence.environment import installation, now
from ptyint.evidence.record import Record

FOLDER = shipped("notebooks")

ENGINE = "ptyint"
"""The papermill engine, by the name of its entry point; it lies in :mod:`ptyint.evidence.engine`."""

ECHO_TAG = "ptyint-echo"
"""Tag of the two cells that the runner adds: the kernel says which parameters it holds, at the start and at the end."""

NOT_RUN, DIED = "not run", "died"
"""States of a cell, kept in its metadata under ``ptyint``; a cell that ran has none."""

LONGEST_REASON = 1000
"""Characters of the reason why a notebook stopped; all of it is in the executed notebook."""

LARGEST = 1e300
"""No parameter is as large: not a number, nor what no float holds."""

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
    """Parameters of a notebook file and their defaults; read once, until it is changed.

    Raises
    ------
    ConfigError
        The file cannot be read, or see :func:`defaults_of`.
    """
    return dict(_defaults_since(path, path.stat().st_mtime_ns))


@lru_cache
def _defaults_since(path: Path, changed_ns: int) -> dict[str, Any]:
    return defaults_of(read_notebook(path), path.name)


def read_notebook(path: Path) -> Any:
    """A notebook file (nbformat 4).

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    import nbformat

    try:
        return nbformat.read(plain(path), as_version=4)
    except (OSError, ValueError, AttributeError, nbformat.reader.NotJSONError) as error:
        raise ConfigError(f"{path.name} is not a readable notebook ({error}).") from error


def read_executed(path: Path) -> Any:
    """A notebook file as a reader wants it: of the cells that the runner added, the last alone."""
    notebook = read_notebook(path)
    echoes = [cell for cell in notebook.cells if ECHO_TAG in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in echoes[:-1]]
    return notebook


def check_parameters(defaults: Mapping[str, Any], parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Every parameter with the value that it must have in the kernel: the given one, else the default.

    Parameters
    ----------
    defaults : mapping
        What the notebook declares; see :func:`defaults_of`.
    parameters : mapping
        The given ones.
    name : str
        Of the file, for messages.

    Raises
    ------
    ConfigError
        A parameter that the notebook does not declare (the near miss is named) or of another type than its default.
    """
    for key, value in parameters.items():
        if key not in defaults:
            hint = did_you_mean(key, defaults) or f" It has {sorted(defaults)}."
            raise ConfigError(f"{name} has no parameter {key!r}.{hint}")
        default = defaults[key]
        if (default is None or not isinstance(value, str)) and not _finite(value):
            raise ConfigError(f"{name}: {key} is {shown(value)}; must be a finite number below {LARGEST:g}.")
        if not _fits(value, default):
            raise ConfigError(
                f"{name}: {key} is {shown(value)}, a {type(value).__name__}; must be a {type(default).__name__}, "
                f"as its default {default!r} is."
            )
    return {**defaults, **parameters}


def defaults_of(notebook: Any, name: str) -> dict[str, Any]:
    """What a notebook's parameters are where none are given.

    Raises
    ------
    ConfigError
        No cell tagged ``parameters``, or several; or that cell holds anything but names set to literal values.
        (papermill would run such a notebook with other values than its metadata says.)
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ConfigError(
            f"{name} has {len(tagged)} cells tagged 'parameters'; must have one. Tag the cell with the defaults: "
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
                f"{name}: {ast.unparse(statement)!r} in the parameters cell; only names set to literal values "
                "belong there. What depends on a parameter is computed in a later cell: papermill sets parameters "
                "after this one and computes nothing again."
            ) from None
    return defaults


def _finite(value: Any) -> bool:
    """Whether a number, also one in text, is below `LARGEST`; what is no number is."""
    try:
        return abs(float(value)) < LARGEST
    except OverflowError:
        return False
    except (TypeError, ValueError):
        return True


def _fits(value: Any, default: Any) -> bool:
    if default is None:
        return value is None or isinstance(value, (bool, int, float, str))
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def echo(**parameters: Any) -> Table:
    """What the kernel holds; the runner ends every notebook with it."""
    rows = [(name, repr(value)) for name, value in parameters.items()]
    record = Record(parameters=parameters, installation=installation())
    return Table("Parameters, as the kernel held them", ("parameter", "value"), rows, record)


@dataclass(frozen=True)
class Execution:
    """How a notebook ran.

    Attributes
    ----------
    argv : list of str
        The papermill command that does the same.
    start, end : str
        ISO 8601, UTC.
    exit_code : int
        What that command ends with: 0 where the notebook reached its end and no check is red.
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
    on_cell: Callable[[int, int], None] = lambda done, cells: None,
    env: Mapping[str, str] | None = None,
) -> Execution:
    """Run a notebook in a kernel of its own, in the folder of `output`; not in a thread that has an event loop.

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
    on_cell : callable
        Called with (cells done, cells in all) before each cell and at the end.
    env : mapping, optional
        Environment variables of the kernel, beside those of this process.

    Returns
    -------
    Execution
        Also when the notebook stopped: look at `stopped`.

    Raises
    ------
    ConfigError
        Unknown notebook, or parameters that it cannot take; no kernel was started.
    """
    import papermill
    from jupyter_core.utils import ensure_event_loop
    from nbclient.exceptions import DeadKernelError

    path, target = notebook_path(name).absolute(), Path(output).absolute()
    notebook, printed = read_notebook(path), target.with_suffix(".log")
    check_parameters(defaults_of(notebook, path.name), parameters, path.name)
    cells = len(notebook.cells) + 2 + bool(parameters)  # the engine's two, and papermill's
    argv = ["papermill", str(path), str(target), "--engine", ENGINE]
    argv += [part for key, value in parameters.items() for part in ("-p", key, str(value))]
    start, exit_code, trouble = now(), 0, ""
    try:
        with printed.open("a", encoding="utf-8") as log, asyncio.Runner(loop_factory=ensure_event_loop) as own:
            own.get_loop()  # that of the kernel's client, which ends with it
            papermill.execute_notebook(
                str(path), str(target), dict(parameters), engine_name=ENGINE, kernel_name="python3",
                kernel_folder=str(target.parent),  # not `cwd`: papermill changes the folder of the whole process
                kernel_env=env, progress_bar=False, stdout_file=log, stderr_file=log,
                on_cell_start=lambda cell, cell_index: on_cell(cell_index, cells),
                notebook_timeout=timeout, shutdown_kernel="immediate",
            )  # fmt: skip
    except DeadKernelError:
        exit_code = KILLED
    except EvidenceError:  # the engine's answer, which the executed notebook gives too
        exit_code = 1
    except Exception as error:  # the kernel did not start, the disk is full, ...: a red run, not a lost one
        exit_code, trouble = 1, f"{type(error).__name__}: {error}"
    try:
        stopped = trouble or unfinished(read_notebook(target))
    except ConfigError as error:
        stopped = str(error)
    if stopped:
        with suppress(OSError), printed.open("a", encoding="utf-8") as log:
            log.write(f"\n{path.name} stopped: {stopped}\n")
    on_cell(cells, cells)
    return Execution(argv, start, now(), exit_code, stopped)


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
                return what or shortened(f"{output.ename}: {output.evalue}", LONGEST_REASON)
        if cell.execution_count is None:
            return "a cell never ran"
    if not any(ECHO_TAG in cell.metadata.get("tags", []) and cell.outputs for cell in notebook.cells[-1:]):
        return "the last cell, which says what the kernel held, said nothing"
    return ""


def same_values(asked: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """Which parameters the kernel held with another value than asked, in words; empty when none."""
    said = partial(json.dumps, sort_keys=True, default=repr)
    text, kernel = ({name: said(value) for name, value in values.items()} for values in (asked, held))
    differ = (name for name in asked if kernel.get(name) != text[name])
    return "; ".join(f"{name} is {kernel.get(name, 'not there')}, asked for {text[name]}" for name in differ)
