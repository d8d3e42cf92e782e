"""Climb the ladder: each backend captures in processes of its own, side by side, while rung after rung is judged."""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from ptyint import backends
from ptyint._atomic import write_arrays
from ptyint.errors import ConfigError
from ptyint.evidence.environment import now
from ptyint.evidence.processes import SCRATCH_VARIABLE, run_group
from ptyint.parity import compare, reproducers
from ptyint.parity.capabilities import Offer, lacking
from ptyint.parity.compare import Arrays
from ptyint.parity.configurations import FIXTURE, OUTSIDE
from ptyint.parity.problems import Problems
from ptyint.parity.reproducers import Disagreement
from ptyint.parity.results import Judged, Ladder
from ptyint.parity.rungs import CAPTURES, RUNGS, climbed, cost, forward, trained, workflow
from ptyint.parity.rungs.rung import Capture, Measured, stored
from ptyint.parity.worker import OFFER, ONE_THREAD, Worker, give
from ptyint.scans.fixtures import load_fixture


def run_module(folder: Path, timeout: float, log: str, module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package with one thread, its output in ``folder/log``; what a run's record keeps of it."""
    argv = [sys.executable, "-m", module, *arguments]
    start = now()
    with (folder / log).open("wb") as file:
        exit_code, timed_out = run_group(argv, folder, {**os.environ, **ONE_THREAD}, file, timeout)
        if timed_out:
            file.write(f"killed after {timeout:g} s\n".encode())
    shown = ["python", *("<scratch>" if os.sep in part else part for part in argv[1:])]
    return {"argv": shown, "exit_code": exit_code, "start": start, "end": now(), "log": log}


class Climb:
    """A pair of backends on the ladder. Every capture of both is queued at the start; a rung waits for its own.

    Two captures are made at a time: each backend has a lane with a worker that starts its framework once.

    Parameters
    ----------
    folder : path-like
        Gets ``ladder.json``, ``red_taps.h5`` and a log of each process; for a pair that is not built in,
        ``disagreements.json`` and reproductions, for those with a workflow, ``BACKEND.outputs.npz``. Must exist.
    reference, candidate : str
        Names of backends.
    problems : Problems
    timeout : float
        Seconds for each capture.
    keep_arrays : bool
        Of all taps, not of red ones alone.

    Raises
    ------
    ConfigError
        A backend against itself.
    UnknownBackendError
        No backend goes by that name.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        reference: str = "tensorflow",
        candidate: str = "pytorch",
        problems: Problems | None = None,
        *,
        timeout: float = 1200.0,
        keep_arrays: bool = False,
    ) -> None:
        for name in (reference, candidate):
            backends.check_name(name)
        if reference == candidate:
            raise ConfigError(f"reference and candidate are both {reference!r}; a backend always agrees with itself.")
        self.folder, self.timeout, self.pair, self.every = Path(folder), timeout, (reference, candidate), keep_arrays
        self.problems = problems or Problems()
        if not self.problems.cases and set(self.pair) & set(backends.UPSTREAM):
            self.problems = replace(self.problems, cases=tuple(OUTSIDE))
        self.datasets = {FIXTURE: load_fixture(FIXTURE).sha256}
        self.disagreements: list[Disagreement] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="ptyint-parity-", dir=os.environ.get(SCRATCH_VARIABLE))
        self.scratch = Path(self._scratch.name)
        give(self.scratch, self.pair, self.problems)
        self._workers: dict[str, Worker] = {}  # by log
        self._ended: list[dict[str, Any]] = []
        self._lanes = {name: ThreadPoolExecutor(1) for name in self.pair}
        self._shared: deque[tuple[Future[str], Callable[[], str]]] = deque()
        self._done: dict[tuple[str, str, str], Future[str]] = {}  # by side, capture and part
        self._judged: dict[str, Judged] = {}
        self._red: list[compare.RedTap] = []
        self._submit({capture.name: capture for rung in self.rungs for capture in RUNGS[rung].captures}.values())

    def _submit(self, captures: Iterable[Capture]) -> None:
        """Queue captures: each side's own in its lane; then whichever lane is free takes those in new processes."""
        for capture in sorted(captures, key=lambda one: (one.fresh, bool(one.after))):
            for part in () if capture.on_demand else capture.parts(self.problems):
                self._submit_part(capture, part)

    def _submit_part(self, capture: Capture, part: str) -> None:
        before = [
            self._done[side, name, one]  # the same part of other captures, or all of them
            for name in capture.after
            for one in ([part] if part else CAPTURES[name].parts(self.problems))
            for side in self.pair
        ]
        for side in self.pair[capture.candidate_only : 1 if capture.reference_only else 2]:
            self._done[side, capture.name, part] = self._queued(side, capture, part, before)

    def _queued(self, side: str, capture: Capture, part: str, before: Sequence[Future[str]]) -> Future[str]:
        make = partial(self._capture, side, capture, part, before)
        if not capture.fresh:
            return self._lanes[side].submit(make)
        future: Future[str] = Future()
        self._shared.append((future, make))
        for lane in self._lanes.values():
            lane.submit(self._take)
        return future

    def _take(self) -> None:
        """Make the next of the shared captures; the other lane may have been quicker."""
        try:
            future, capture = self._shared.popleft()
        except IndexError:
            return
        try:
            future.set_result(capture())
        except Exception as error:
            future.set_exception(error)

    def _capture(self, side: str, capture: Capture, part: str, before: Sequence[Future[str]]) -> str:
        """Have a capture made; why that came to nothing, in words, or nothing."""
        wait(before)
        if not capture.fresh:
            return self._worker(f"{side}.measure.log", side).measure(capture.name, part)
        wait([self._done[side, "contract", ""]])
        if lacking({side: Offer.of(stored(self.scratch, side, OFFER))}, capture.needs):
            return ""
        log = ".".join(filter(None, (side, capture.name, part, "log")))
        why = self._worker(log, side).measure(capture.name, part)
        self._end(log)
        return why

    def _worker(self, log: str, side: str) -> Worker:
        if log not in self._workers:
            self._workers[log] = Worker(side, self.scratch, self.folder / log, self.timeout)
        return self._workers[log]

    def _read(self, side: str, name: str, part: str) -> Arrays:
        """What was captured; in its place what went wrong, where a process died."""
        if name in CAPTURES and CAPTURES[name].on_demand and (side, name, part) not in self._done:
            self._submit_part(CAPTURES[name], part)
            wait([self._done[side, name, part]])
        arrays = stored(self.scratch, side, name, part)
        done = self._done.get((side, name, part))
        why = done.result() if done is not None else ""
        return {**arrays, "error/": np.array(why)} if why and not arrays else arrays

    @property
    def rungs(self) -> list[str]:
        """Names of the rungs of the profile."""
        return climbed(self.problems.profile)

    @cached_property
    def measured(self) -> Measured:
        """What was captured, for a judge; see :class:`ptyint.parity.rungs.rung.Measured`."""
        wait([future for (_, name, _), future in self._done.items() if name == "contract"])
        return Measured({side: Offer.of(stored(self.scratch, side, OFFER)) for side in self.pair}, self._read)

    def rung(self, name: str, problems: Problems | None = None, *, again: bool = False) -> Judged:
        """Judge a rung, once both sides have captured what it needs.

        Parameters
        ----------
        name : str
            One of the rungs of the profile.
        problems : Problems, optional
            Narrower than what was captured: some networks alone. What comes of it is not part of the ladder.
        again : bool
            Capture anew.

        Raises
        ------
        ConfigError
            No rung of the profile has that name.
        """
        if name not in self.rungs:
            raise ConfigError(f"The profile {self.problems.profile!r} has no rung {name!r}; it has {self.rungs}.")
        rung = RUNGS[name]
        if again:
            self._submit(rung.captures)
            vars(self).pop("measured", None)
        names = {capture.name for capture in rung.captures}
        wait([future for (_, capture, _), future in self._done.items() if capture in names])
        self._red = [tap for tap in self._red if problems or tap.rung != name]  # a rung may be judged anew
        with compare.keeping([] if problems else self._red, self.every):
            judged = Judged(rung, tuple(rung.judge(self.measured, problems or self.problems)))
        if problems is None:
            self._judged[name] = judged
        return judged

    @property
    def seeds(self) -> trained.Seeds | None:
        """Rung 7's images and tests; None where it was not climbed."""
        if "trained" not in self.rungs:
            return None
        self._judged.get("trained") or self.rung("trained")
        return trained.compared(self.measured, self.problems)

    @property
    def commands(self) -> tuple[dict[str, Any], ...]:
        """What ran and has ended, for a run's record."""
        return tuple(sorted(self._ended, key=lambda command: str(command["start"])))

    def finish(self) -> Ladder:
        """Judge what was not judged yet, end the processes, write ``ladder.json``."""
        for name in self.rungs:
            if name not in self._judged:
                self.rung(name)
        self._end(*self._workers)
        measured = self.measured
        rows = tuple(row for name in self.rungs for row in self._judged[name].rows)
        for side in measured.with_capability("workflow"):
            write_arrays(self.folder / f"{side}.outputs.npz", workflow.outputs(measured, side))
        if not all(offer.is_full for offer in measured.offers.values()):
            given = measured.offers, self.problems.seed, forward.consequences(measured, self.problems)
            self.disagreements = reproducers.write(self.scratch, self.folder, rows, *given)
        ladder = Ladder(*self.pair, self.problems.profile, rows, cost.numbers(measured), cost.about(measured))
        ladder.save(self.folder / "ladder.json")
        if self._red:
            compare.save_taps(self.folder / compare.RED_TAPS, self._red)
        return ladder

    def close(self) -> None:
        """End every process at once, and forget what was captured."""
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)
        self._end(*self._workers, at_once=True)
        self._scratch.cleanup()

    def _end(self, *logs: str, at_once: bool = False) -> None:
        for worker in [self._workers.pop(log) for log in logs]:
            worker.close(at_once)
            self._ended.append(worker.command())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
