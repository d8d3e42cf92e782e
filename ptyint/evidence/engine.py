"""The strict papermill engine, ``papermill --engine ptyint``: what papermill lets pass is refused, or is an error.

Parameters are checked before a kernel starts; the kernel says which values it held, at the start and at the end; a
notebook that stops early, dies or hangs, or whose checks are not all green, ends in an error, and is kept.
"""

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ptyint._atomic import checkout
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.environment import installation
from ptyint.evidence.execution import DIED, ECHO_TAG, NOT_RUN, check_parameters, defaults_of, same_values, unfinished
from ptyint.evidence.processes import PROGRESS_VARIABLE
from ptyint.evidence.record import collect

KEPT = ("stdout_file", "stderr_file", "log_output", "on_cell_start", "shutdown_kernel")
"""Options that go on to the client as they are."""

OWN = "python3"
"""The kernel of the runner's own interpreter and package; any other was asked for."""

TOLD = 2000
"""How many characters a dead kernel's last words may have in the terminal."""


def packed(message: object) -> bytes:
    """A message of a kernel; a lone surrogate in an exception does not cost the reason why the notebook stopped."""
    from jupyter_client.jsonutil import json_default
    from jupyter_client.session import json_packer

    try:
        return bytes(json_packer(message))
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default, ensure_ascii=False).encode("utf-8", "replace")


class StrictEngine:
    """Executes a notebook of this project and raises where its evidence is not green.

    It keeps the interface of papermill's ``Engine`` and does not derive from it: papermill loads its engines while it
    is being imported itself, so that nothing of papermill is there yet.
    """

    @staticmethod
    def nb_kernel_name(nb: Any, name: str | None = None) -> str:
        """Kernel that the notebook asks for, or the given one."""
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @staticmethod
    def nb_language(nb: Any, language: str | None = None) -> str:
        """Language that the notebook is written in, or the given one."""
        from papermill.utils import nb_language

        return str(nb_language(nb, language))

    @staticmethod
    def execute_notebook(nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
        """Execute; the executed notebook is written before anything is raised.

        Raises
        ------
        ConfigError
            Parameters that the notebook cannot take, or no parameters cell; no kernel was started.
        EvidenceError
            It stopped before its end, or a check is not green.
        DeadKernelError
        """
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from papermill.iorw import write_ipynb

        name = Path(str(nb.metadata.papermill["input_path"] or "the notebook")).name
        asked = check_parameters(defaults_of(nb, name), nb.metadata.papermill["parameters"], name)
        _add_echoes(nb, list(asked))
        why, died = "", None
        try:
            _execute(nb, kernel_name, output_path, options)
        except CellTimeoutError:
            seconds = options.get("notebook_timeout") or options.get("execution_timeout")
            why = f"it took longer than its {seconds:g} s"
        except DeadKernelError as error:
            why, died = "the kernel died (killed, out of memory, or a crash); free memory, or take `--jobs 1`", error
        stopped = _mark(nb, why)
        write_ipynb(nb, nb.metadata.papermill["output_path"])
        if died is not None:
            raise died
        if problem := stopped or _not_green(nb, asked, installation() if kernel_name == OWN else {}):
            raise EvidenceError(f"{name}: {problem}")
        return nb


def _execute(notebook: Any, kernel_name: str, output_path: str | None, options: Mapping[str, Any]) -> None:
    """Execute every cell in a kernel whose progress bars are text; its environment alone says so."""
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NotebookExecutionManager
    from papermill.log import logger

    managed = {name: options[name] for name in ("log_output", "progress_bar", "autosave_cell_every") if name in options}
    manager = NotebookExecutionManager(notebook, output_path, **managed)
    manager.notebook_start()
    own = [f"--Session.packer={__name__}.packed"] if kernel_name == OWN else []
    seconds = options.get("notebook_timeout")
    deadline = time.monotonic() + (seconds or 0)
    try:
        client = PapermillNotebookClient(
            manager, kernel_name=kernel_name, log=logger,
            extra_arguments=["--log-level=ERROR", *own],  # else it warns where it has to speak TCP
            startup_timeout=options.get("start_timeout", 60), timeout=options.get("execution_timeout"),
            timeout_func=(lambda cell: max(1, deadline - time.monotonic())) if seconds else None,
            **{name: options[name] for name in KEPT if options.get(name) is not None},
        )  # fmt: skip
        client.create_kernel_manager()
        if kernel_name == OWN:  # without folders to look in there is ipykernel of this interpreter alone
            client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as said:
            _talks_by_a_file(client.km, os.path.join(empty, "kernel"))
            env = {**(options.get("kernel_env") or {}), **os.environ, **_pinned(empty)}
            try:  # what libraries say to the terminal is in the notebook, too
                client.execute(env=env, cwd=options.get("kernel_folder"), stderr=said)
            except RuntimeError:  # the kernel did not start, or died
                said.seek(0)
                with suppress(OSError):  # the terminal is gone
                    sys.stderr.write(said.read().decode(errors="replace")[-TOLD:])
                raise
    finally:
        manager.notebook_complete()


def _talks_by_a_file(manager: Any, path: str) -> None:
    """Give a kernel sockets below `path`; a port that was free when it was looked for, another may have taken first."""
    with suppress(OSError, AttributeError), socket.socket(socket.AF_UNIX) as tried:  # too long, or none are to be had
        tried.bind(f"{path}-0")
        manager.transport, manager.ip = "ipc", path


def _pinned(empty: str) -> dict[str, str]:
    """What a kernel's environment holds whatever the user's own settings are; `empty` is a folder without any."""
    settings = os.path.join(empty, "matplotlibrc")
    open(settings, "x").close()
    path = os.pathsep.join(filter(None, [str(checkout() or ""), os.environ.get("PYTHONPATH")]))  # our ptyint first
    cleared = dict.fromkeys(("MPLBACKEND", "PYTHONIOENCODING", "PYTHONSTARTUP"), "")
    pinned = {"IPYTHONDIR": empty, "MATPLOTLIBRC": settings, "PYTHONPATH": path, "PYTHONUTF8": "1"}
    return {PROGRESS_VARIABLE: "text", **cleared, **pinned}


def _not_green(notebook: Any, asked: dict[str, Any], runner: dict[str, str]) -> str:
    """Every check that is not a pass, in words; empty where all are."""
    record = collect(notebook)
    wrong = [f"{SIGNS[one.verdict]} {one.verdict}: {one.name}. {one.note}" for one in record.checks if not one.passed]
    differs = [same_values(asked, record.parameters), same_values(runner, record.installation)]
    return "; ".join(filter(None, [*differs, *wrong]))


def _add_echoes(notebook: Any, names: list[str]) -> None:
    """Add the two cells in which the kernel says what it holds: after the parameters, and at the end."""
    from nbformat.v4 import new_code_cell

    arguments = ", ".join(f"{name}={name}" for name in names)
    source = f"from ptyint.evidence.execution import echo\n\necho({arguments})"
    first, last = (new_code_cell(source, metadata={"tags": [ECHO_TAG]}, id=f"{ECHO_TAG}-{n}") for n in (1, 2))
    cells = [cell for cell in notebook.cells if ECHO_TAG not in cell.metadata.get("tags", [])]
    tags = {"parameters", "injected-parameters"}
    position = max(n for n, cell in enumerate(cells) if tags & set(cell.metadata.get("tags", [])))
    notebook.cells = [*cells[: position + 1], first, *cells[position + 1 :], last]


def _mark(notebook: Any, cut: str) -> str:
    """Mark where the notebook died and what never ran; return why it stopped, or nothing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    started = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    stopped, over = cut or unfinished(notebook), False
    for cell in code:
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed or (cut and cell is started[-1]):
            cell.metadata["ptyint"], over = {"state": DIED, "reason": stopped}, True
        elif over or cell.execution_count is None:
            cell.metadata["ptyint"] = {"state": NOT_RUN}
    return stopped
