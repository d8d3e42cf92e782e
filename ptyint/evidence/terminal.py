"""What is shown in a terminal, of any encoding, or where there is none."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

from tqdm import tqdm

from ptyint.evidence.checks import PLAIN
from ptyint.evidence.run import OnProgress


def say(*lines: object, to: str = "stdout") -> None:
    """Print; that nobody listens any more does no harm."""
    stream = getattr(sys, to)
    try:
        for line in lines:
            print(line, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress(total: int) -> Iterator[OnProgress]:
    """A bar for all notebooks, with those that run; a line at the end of each where there is no terminal."""
    bar, start, lock = tqdm(total=total, unit="notebook", disable=None), time.monotonic(), threading.Lock()
    running, ended = dict[str, str](), count(1)

    def show(name: str, done: int, cells: int) -> None:
        with lock, suppress(OSError, ValueError):  # the terminal is gone
            running[name] = f"{done}/{cells}"
            if done == cells:
                del running[name]
                bar.update()
                if bar.disable:
                    took = f"after {time.monotonic() - start:.0f} s"
                    say(f"{name} has ended, {next(ended)} of {total}, {took}", to="stderr")
            bar.set_postfix(running)

    try:
        yield show
    finally:
        with suppress(OSError, ValueError):
            bar.close()


def in_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is printed in place of signs that the encoding of an output does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, ascii(sign)[1:-1]) for sign in signs), error.end
