"""The bar of a run in the terminal."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from tqdm import tqdm

from ptyint.evidence.run import OnProgress


@contextmanager
def progress(total: int, say: Callable[[str], object]) -> Iterator[OnProgress]:
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
                    say(f"{name} has ended, {next(ended)} of {total}, after {time.monotonic() - start:.0f} s")
            bar.set_postfix(running)

    try:
        yield show
    finally:
        with suppress(OSError, ValueError):
            bar.close()
