"""Child processes that neither outlive the one who waits for them nor leave children of their own."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PARENT_VARIABLE = "PTYINT_PARENT"
"""Environment variable: the process that waits for this one; see :func:`follow_parent`."""

PROGRESS_VARIABLE = "PTYINT_PROGRESS"
"""Environment variable: "text" makes progress bars plain text, which batch runs can show and keep."""

SCRATCH_VARIABLE = "PTYINT_SCRATCH"
"""Environment variable: a folder that ends with the run, for what is large or what one notebook leaves to another."""

REPORT_VARIABLE = "PTYINT_TEST_REPORT"
"""Environment variable: the file that the pytest plugin appends to. Unset: the plugin does nothing."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
"""Environment variables: how many threads numerical libraries and frameworks take; each takes all cores without."""

POLL_SECONDS = 0.2
"""How often one who waits asks whether to stop."""


def run_group(
    argv: Sequence[str], folder: Path, env: Mapping[str, str], output: Any, timeout: float
) -> tuple[int, bool]:
    """Run a command in a process group of its own; kill whatever is left of the group at the end.

    Parameters
    ----------
    argv : sequence of str
    folder : Path
        Its working folder.
    env : mapping
    output : binary file
        Gets stdout and stderr.
    timeout : float
        Seconds.

    Returns
    -------
    exit_code : int
    timed_out : bool
        Whether it was killed for taking too long.
    """
    process = start_group(argv, folder, env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        return process.wait(timeout), False
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        return process.wait(), True
    finally:
        end_group(process)


def start_group(argv: Sequence[str], folder: Path, env: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, for :func:`end_group` to end; `streams` as for Popen."""
    return subprocess.Popen(
        argv, cwd=folder, env={**env, PARENT_VARIABLE: str(os.getpid())}, start_new_session=True, **streams
    )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of a process group."""
    _kill_group(process.pid)
    process.wait()


def follow_parent() -> None:
    """In a child of :func:`run_group`: die, with all children, when the process that waits for it dies."""
    if parent := os.environ.pop(PARENT_VARIABLE, None):
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    _kill_group(os.getpgrp())


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
