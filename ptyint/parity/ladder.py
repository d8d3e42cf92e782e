"""Climb the ladder: each backend measures itself in its own processes, side by side; then everything is judged."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptyint import backends
from ptyint.errors import ConfigError
from ptyint.evidence.processes import run_group
from ptyint.parity import compare, pairs, problems, reproducers
from ptyint.parity.capabilities import Offer, lacking
from ptyint.parity.reproducers import Disagreement
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import cost, workflow
from ptyint.parity.rungs import trained as seeds
from ptyint.parity.tolerances import PRECISIONS
from ptyint.parity.worker import read
from ptyint.scans.fixtures import load_fixture

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}
"""A thread each: the arrays are small, two backends run at once, and sums are added in one order."""


@dataclass(frozen=True, eq=False)
class Climb:
    """A ladder, what it was measured with, for the run's record, and what came of rung 7, if it was climbed.

    For backends that cannot be traced: each thing in which they disagree.
    """

    ladder: Ladder
    commands: tuple[dict[str, Any], ...]
    datasets: dict[str, str]
    seeds: seeds.Seeds | None = None
    disagreements: tuple[Disagreement, ...] = ()


def climb(
    folder: str | os.PathLike[str],
    reference: str = "tensorflow",
    candidate: str = "pytorch",
    *,
    profile: str = "quick",
    budget: cost.Budget | None = None,
    plan: seeds.Plan | None = None,
    seed: int = 0,
    draws: Mapping[str, int] = problems.DRAWS,
    timeout: float = 1200.0,
) -> Climb:
    """Measure two backends and judge every rung of the profile.

    Parameters
    ----------
    folder : path-like
        Gets ``ladder.json`` and a log of each process; for backends that cannot be traced, ``reproducers.json``
        and reproductions, for those with a workflow, ``BACKEND.outputs.npz``. Must exist.
    reference, candidate : str
        Names of backends.
    profile : {'quick', 'full'}
    budget : Budget, optional
        What the candidate may cost.
    plan : Plan, optional
        Seeds and margins of rung 7, in the full profile.
    seed : int
        Added to every seed of what the backends are given on rungs 0 to 6.
    draws : dict of str to int
        Precision to the number of reruns on rung 5; what is not in it is not stepped, and its check not run.
    timeout : float
        Seconds for each process.

    Returns
    -------
    Climb

    Raises
    ------
    ConfigError
        An unknown profile, or a backend against itself.
    UnknownBackendError
        No backend goes by that name.
    """
    if profile not in problems.PROFILES:
        raise ConfigError(f"profile is {profile!r}; must be one of {sorted(problems.PROFILES)}.")
    for name in (reference, candidate):
        backends.check_name(name)
    if reference == candidate:
        raise ConfigError(f"reference and candidate are both {reference!r}; a backend always agrees with itself.")
    target, pair = Path(folder), (reference, candidate)
    with tempfile.TemporaryDirectory(prefix="ptyint-parity-") as name:
        scratch = Path(name)
        options = ("--profile", profile, "--seed", str(seed))
        reruns = ("--draws", *(str(draws.get(precision, 0)) for precision in PRECISIONS))
        steps = {name: measuring(name, scratch, "steps", *options, *reruns) for name in pair}
        plain = [measuring(backend, scratch, "measure", *options) for backend in pair]
        early = [steps[name] for name in pair if name in backends.BUILT_IN]
        against = [
            replace(
                measuring(backend, scratch, "reload", *options, "--other", other),
                after=tuple(one.log for one in plain),
            )
            for backend, other in zip(pair, reversed(pair), strict=True)
        ]
        with ThreadPoolExecutor(1) as referee:
            if len(early) == len(pair):
                referee.submit(compare.prepare, profile, seed)
            commands = run_all([*early[:1], *plain, *early[1:], *against], target, timeout)
        late = [name for name in pair if name not in backends.BUILT_IN and not _lacks(scratch, name, "step")]
        commands += run_all([steps[name] for name in late], target, timeout)
        findings = pairs.judge(scratch, reference, candidate, profile, seed, tuple(draws))
        measured = {backend: {**read(scratch, f"{backend}.cost"), **_speeds(scratch, backend)} for backend in pair}
        trained = None
        if profile == "full" and not any(_lacks(scratch, name, "trained") for name in pair):
            chosen = plan or seeds.Plan()
            training = [
                Process(
                    "ptyint.parity.rungs.trained",
                    (backend, str(scratch), "--gridsize", str(gridsize), *chosen.arguments(backend == candidate)),
                    f"{backend}.seeds.{gridsize}.log",
                )
                for gridsize in seeds.GRIDSIZES
                for backend in (candidate, reference)  # the longest first
            ]
            commands += run_all(training, target, timeout)
            trained = seeds.judge(scratch, reference, candidate, chosen)
            findings += trained.findings()
        offers = {name: Offer.load(scratch, name) for name in pair}
        for name in pair:
            workflow.keep(scratch, target, name)
        apart: list[Disagreement] = []
        if not all(offer.is_full for offer in offers.values()):
            apart = reproducers.write(scratch, target, findings, offers, seed)
    lacks = {"step": lacking(offers, "step"), "inference": lacking(offers, "persistence")}
    spent, numbers = cost.judge(measured, reference, candidate, budget or cost.Budget(), lacks)
    told = {name: str(found["description"]) for name, found in measured.items() if "description" in found}
    about = {name: json.loads(text) for name, text in told.items()}
    ladder = Ladder(reference, candidate, profile, (*findings, *spent), numbers, about)
    ladder.save(target / "ladder.json")
    return Climb(
        ladder, tuple(commands), {problems.FIXTURE: load_fixture(problems.FIXTURE).sha256}, trained, tuple(apart)
    )


def _lacks(scratch: Path, name: str, rung: str) -> bool:
    return bool(lacking({name: Offer.load(scratch, name)}, rung))


def measuring(backend: str, scratch: Path, what: str, *options: str) -> Process:
    """The process that measures one backend; `what` names its log."""
    return Process("ptyint.parity.worker", (backend, str(scratch), *options), f"{backend}.{what}.log")


def _speeds(scratch: Path, backend: str) -> dict[str, Any]:
    found = read(scratch, f"{backend}.step")
    times = {name: array for name, array in found.items() if name.endswith("/seconds")}
    inference = read(scratch, f"{backend}.training")
    return times | {name: array for name, array in inference.items() if name.endswith("inference seconds")}


@dataclass(frozen=True)
class Process:
    """A module of this package to run.

    Attributes
    ----------
    module : str
    arguments : tuple of str
    log : str
        Name of the file that gets its output.
    after : tuple of str
        Logs of processes that must be over before, earlier ones of the same :func:`run_all`.
    """

    module: str
    arguments: tuple[str, ...]
    log: str
    after: tuple[str, ...] = ()

    def run(self, folder: Path, timeout: float) -> dict[str, Any]:
        """Run with one thread; what a run's record keeps of it."""
        argv = [sys.executable, "-m", self.module, *self.arguments]
        start = datetime.now(UTC).isoformat(timespec="milliseconds")
        with (folder / self.log).open("wb") as file:
            exit_code, timed_out = run_group(argv, folder, {**os.environ, **ONE_THREAD}, file, timeout)
            if timed_out:
                file.write(f"killed after {timeout:g} s\n".encode())
        end = datetime.now(UTC).isoformat(timespec="milliseconds")
        shown = ["python", *("<scratch>" if os.sep in part else part for part in argv[1:])]
        return {"argv": shown, "exit_code": exit_code, "start": start, "end": end, "log": self.log}


def run_all(processes: Sequence[Process], folder: Path, timeout: float) -> list[dict[str, Any]]:
    """Run processes, two at a time and in this order."""
    running: dict[str, Future[dict[str, Any]]] = {}

    def run(one: Process) -> dict[str, Any]:
        wait([running[log] for log in one.after])
        return one.run(folder, timeout)

    with ThreadPoolExecutor(2) as pool:
        for one in processes:
            running[one.log] = pool.submit(run, one)
        return [future.result() for future in running.values()]
