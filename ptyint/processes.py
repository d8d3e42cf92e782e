"""Child processes that neither outlive the one who waits for them nor leave children of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARENT_VARIABLE = "PTYINT_PARENT"
"""Environment variable: the process that waits for this one; see :func:`follow_parent`."""


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
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**env, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(timeout), False
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        return process.wait(), True
    finally:
        _kill_group(process.pid)
        process.wait()


def follow_parent() -> None:
    """In a child of :func:`run_group`: die, with all children, when the process that waits for it dies."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    _kill_group(os.getpgrp())


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
