"""Child processes that neither outlive the one who waits for them nor leave children of their own."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ptyint.errors import ChildError, PtyintError

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
"""How often :func:`stream` asks whether it should stop."""


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


def stream(
    target: Callable[..., None], *arguments: Any, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Any]:
    """Run a function in a fresh process and yield what it sends, as it sends it. The process never outlives this.

    Parameters
    ----------
    target : callable
        Of a module's top level; called with a function that sends one object, then `arguments`.
    *arguments
        Pickled, as is what comes back.
    should_stop : callable
        Asked several times a second; once it says True the process is killed and nothing more comes.

    Yields
    ------
    object

    Raises
    ------
    PtyintError or a built-in exception
        What `target` raised; of another type, as a RuntimeError with its name.
    ChildError
        The process died (killed, out of memory, crashed).
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(sender, target, arguments), daemon=True)
    try:
        process.start()
        sender.close()  # the child now holds the only one: when it dies, the pipe ends
        while not should_stop():
            if not receiver.poll(POLL_SECONDS):
                continue
            try:
                kind, value = receiver.recv()
            except EOFError:
                process.join()
                raise ChildError(_epitaph(process.exitcode)) from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        receiver.close()


def _send_all(sender: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What the child of :func:`stream` runs. Ctrl-C is its parent's affair, and without a parent it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        target(lambda value: sender.send(("value", value)), *arguments)
        sender.send(("end", None))
    except BrokenPipeError:
        return
    except Exception as error:
        known = isinstance(error, PtyintError) or type(error).__module__ == builtins.__name__
        if not isinstance(error, PtyintError):
            traceback.print_exc()
        sender.send(("error", error if known else RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _epitaph(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        how = "was killed (SIGKILL): most likely the memory ran out. Free memory, or take a smaller batch or network"
    elif exit_code is not None and exit_code < 0:
        how = f"was ended by {signal.Signals(-exit_code).name}; what it printed last says why"
    else:
        how = f"ended with exit code {exit_code} before it was done; what it printed last says why"
    return f"The process that did the work {how}."


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
