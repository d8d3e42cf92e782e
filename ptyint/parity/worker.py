"""A backend's captures, in a process of its own.

``python -m ptyint.parity.worker BACKEND FOLDER`` is the process of a :class:`Worker`. It measures the capture and part
that each line of its input names, with the pair and the problems of ``FOLDER/problems.json``, and writes
``FOLDER/BACKEND.CAPTURE[.PART].npz``, until its input ends: the framework starts once.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ptyint import backends
from ptyint._atomic import write_arrays, write_text
from ptyint.evidence.environment import now
from ptyint.evidence.processes import THREAD_VARIABLES, end_group, follow_parent, start_group
from ptyint.parity.capabilities import written
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import CAPTURES
from ptyint.parity.rungs.rung import Bench, Capture, Captured, file_name, noted

PROBLEMS = "problems.json"
OFFER = "offer"
"""Name of the arrays that say what a backend offers."""

ONE_THREAD = {**dict.fromkeys(THREAD_VARIABLES, "1"), "TQDM_DISABLE": "1"}
"""A thread each: the arrays are small, two backends run at once, and sums are added in one order."""


def give(folder: Path, pair: tuple[str, str], problems: Problems) -> None:
    """Write what the workers of a folder are asked: reference, candidate, problems."""
    write_text(folder / PROBLEMS, json.dumps({"pair": pair, "problems": asdict(problems)}))


def write(folder: Path, side: str, capture: str, arrays: Captured, part: str = "") -> None:
    """Write the arrays of a capture, whole or not at all."""
    write_arrays(folder / file_name(side, capture, part), arrays)


def capture(bench: Bench, asked: Capture, part: str = "") -> None:
    """Measure and write; nothing where the backend does not offer what it needs."""
    if asked.needs and asked.needs not in bench.backend.capabilities:
        return
    arrays: Captured = {}
    with noted(arrays, part):
        arrays |= asked.measure(bench, part)
    write(bench.folder, bench.name, asked.name, arrays, part)


class Worker:
    """A process that measures one backend, capture after capture.

    Parameters
    ----------
    name : str
        Of the backend.
    folder : Path
        Where it measures; see :func:`give`.
    log : Path
        Gets what it prints.
    timeout : float
        Seconds for each capture.
    module : str
        What is run: its `main` is :func:`serve`.
    """

    def __init__(
        self, name: str, folder: Path, log: Path, timeout: float, module: str = "ptyint.parity.worker"
    ) -> None:
        self.name, self.log, self.timeout = name, log, timeout
        argv = [sys.executable, "-m", module, name, str(folder)]
        self._output = log.open("wb")
        self._argv = ["python", *argv[1:-1], "<scratch>"]
        self._start, self._end = now(), ""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._output}
        self._process = start_group(argv, log.parent, {**os.environ, **ONE_THREAD}, **pipes)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def measure(self, name: str, part: str = "") -> str:
        """Measure a capture; why that came to nothing, in words, or nothing. A process that died stays dead."""
        try:
            self._stdin.write(json.dumps([name, part]).encode() + b"\n")
            self._stdin.flush()
            ready, _, _ = select.select([self._stdout], [], [], self.timeout)
        except (BrokenPipeError, ValueError):
            return self.epitaph()
        if not ready:
            self._output.write(f"killed after {self.timeout:g} s\n".encode())
            self.close(at_once=True)
        return "" if ready and self._stdout.readline() else self.epitaph()

    def epitaph(self) -> str:
        """How the process ended, and what it printed last."""
        self.close()
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return f"its process ended with exit code {self._process.returncode}; {self.log.name} ends: {last[:200]}"

    def close(self, at_once: bool = False) -> None:
        """End the process, once it has done what it was asked, with all children."""
        if self._end:
            return
        with suppress(BrokenPipeError):
            self._stdin.close()
        if not at_once:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self.timeout)
        end_group(self._process)
        self._stdout.close()
        self._output.close()
        self._end = now()

    def command(self) -> dict[str, Any]:
        """What a run's record keeps of it."""
        times = {"start": self._start, "end": self._end}
        return {"argv": self._argv, "exit_code": self._process.returncode, **times, "log": self.log.name}


def serve(opened: Callable[[str, Path], Callable[[str, str], None]]) -> None:
    """Measure what the lines of the input ask for, by what `opened` makes of name and folder; say when it is done."""
    follow_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints goes to the log: the old output is for answers alone
    os.chdir(folder := Path(sys.argv[2]))  # a backend may leave files where it runs
    measure = opened(sys.argv[1], folder)
    for line in sys.stdin:
        measure(*json.loads(line))
        print(line, file=answers, end="", flush=True)


def opened(name: str, folder: Path) -> Callable[[str, str], None]:
    """Load a backend; what measures a capture and part of it."""
    given = json.loads((folder / PROBLEMS).read_text())
    before = time.perf_counter()
    backend = backends.load(name)
    seconds = time.perf_counter() - before
    problems = TypeAdapter(Problems).validate_python(given["problems"])
    bench = Bench(backend, tuple(given["pair"]), problems, folder, seconds)
    write(folder, name, OFFER, written(backend))
    return lambda asked, part: capture(bench, CAPTURES[asked], part)


if __name__ == "__main__":
    serve(opened)
