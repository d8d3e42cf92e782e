"""A child process that sends what it makes, as it makes it, and never outlives the one who waits for it."""

import builtins
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from ptyint.errors import ChildError, PtyintError
from ptyint.evidence.processes import POLL_SECONDS


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
    """What the child of :func:`stream` runs. Ctrl-C is its parent's affair, as are bars; without a parent it ends."""
    os.environ["TQDM_DISABLE"] = "1"
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
