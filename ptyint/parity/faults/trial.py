"""Climb the ladder with a fault in place, until the first red rung; or with none, which must find nothing.

``python -m ptyint.parity.faults.trial FOLDER`` tries every fault on the rungs that need no other backend; ``...
--control`` measures the fault-free candidate; ``... --ids F04 F06`` climbs on, against what both wrote to FOLDER.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint._atomic import atomic_path
from ptyint.backends.weights import Weights
from ptyint.evidence.checks import to_json
from ptyint.evidence.processes import follow_parent
from ptyint.images.reconstruction import assemble
from ptyint.parity import compare, problems, worker
from ptyint.parity.faults.catalogue import CATALOGUE, SIZED, Fault, SizedFault
from ptyint.parity.faults.injection import SIDE, Context, wrapped
from ptyint.parity.results import RUNGS, Finding, Ladder
from ptyint.parity.worker import Arrays, trace_file
from ptyint.scans.fixtures import load_fixture

REFERENCE = "tensorflow"
CONTROL = "control"
NAMES = problems.PROFILES["quick"]
DRAWS = {"float64": problems.DRAWS["float64"]}
"""Optimiser steps in double precision: there the drift of rounding is smallest, and any fault largest beside it."""

EXPONENTS = (-16, 0)
"""Powers of ten between which a detection limit is sought."""


@cache
def read(folder: Path, name: str) -> Arrays:
    """What was measured before the trials: read once, for all of them."""
    return worker.read(folder, name)


@dataclass(frozen=True)
class Outcome:
    """What the ladder said of one fault.

    Attributes
    ----------
    id : str
    rung, place : str
        Of the first divergence; empty where there was none.
    tap : str
    ratio : float
        Its error over its tolerance.
    n_consequences : int
    seconds : float
    """

    id: str
    rung: str = ""
    tap: str = ""
    place: str = ""
    ratio: float = 0.0
    n_consequences: int = 0
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        """Whether any rung was red."""
        return bool(self.rung)

    def at_the_right_place(self, fault: Fault) -> bool:
        """Whether the first red rung and tap are the expected ones."""
        tap = self.tap.removeprefix("gradient/")
        return self.rung == fault.rung and tap.startswith(fault.tap) and fault.operand in tap


@dataclass(frozen=True)
class Limit:
    """Smallest size of a fault, in powers of ten, that is still caught; and what it does to a reconstruction.

    Attributes
    ----------
    title, unit, rung : str
    size : float
        NaN: not even the largest was caught.
    change : float
        Relative change of the stitched object after a short training with a fault of that size.
    """

    title: str
    unit: str
    rung: str
    size: float
    change: float


class Climber:
    """Climbs with one backend until the first red rung. It is measured under a fault, and judged without.

    Parameters
    ----------
    folder : Path
        Where the reference, and the fault-free candidate, wrote what they measured.
    applied : callable, optional
        Gives the fault's context manager.
    seed : int
        As for :func:`ptyint.parity.worker.measure`.
    """

    def __init__(self, folder: Path, applied: Context = nullcontext, seed: int = 0) -> None:
        self.folder, self.applied, self.seed = folder, applied, seed
        self.backend: Any = backends.load(SIDE)

    def climb(self, low: bool = True, high: bool = True) -> Ladder:
        """The ladder up to and with the first red rung: the low rungs, which need no other backend, and the high."""
        below: tuple[Callable[[], list[Finding]], ...] = (self.contract, self.operator)
        above = (self.traced, self.optimiser, self.training, self.drift, self.persistence)
        found: list[Finding] = []
        for rung in (*(below if low else ()), *(above if high else ())):
            found += rung()
            if not all(finding.holds for finding in found):
                break
        return Ladder(REFERENCE, SIDE, "quick", tuple(found))

    def contract(self) -> list[Finding]:
        """Rung 0."""
        with self.applied():
            facts = {name: np.array(value) for name, value in worker.contract(SIDE, self.seed).items()}
        return compare.contract({SIDE: facts}, self.seed)

    def operator(self) -> list[Finding]:
        """Rung 1."""
        with self.applied():
            arrays = worker.operators(self.backend, self.seed)
        return compare.operator({SIDE: arrays}, self.seed)

    def traced(self, names: Sequence[str] = NAMES, precisions: Sequence[str] = ("float64", "float32")) -> list[Finding]:
        """Rungs 2 to 4: networks until one is red on rung 2, below which none can be."""
        found: list[Finding] = []
        for case in names:
            for precision in precisions:
                here = self._trace(case, precision)
                found += here
                if any(finding.rung == "forward" and not finding.holds for finding in here):
                    return sorted(found, key=lambda finding: RUNGS.index(finding.rung))
        return sorted(found, key=lambda finding: RUNGS.index(finding.rung))

    def _trace(self, case: str, precision: str) -> list[Finding]:
        """One network; where it is red, once more with reference injection."""
        reference = read(self.folder, trace_file(REFERENCE, f"{case}/{precision}"))

        def traced(given: Callable[[str], Arrays] | None = None) -> Arrays:
            with self.applied():
                ((_, arrays),) = worker.traces(self.backend, [case], given, [precision], self.seed)
            return arrays

        pair = {REFERENCE: reference, SIDE: traced()}
        aligned = traced(lambda _: worker.before_kinks(reference, case)) if precision == "float32" else {}
        found = compare.trace(case, precision, pair, {}, aligned, self.seed)
        if not all(finding.holds for finding in found):
            found = compare.trace(case, precision, pair, traced(lambda _: reference), aligned, self.seed)
        return found

    def optimiser(self) -> list[Finding]:
        """Rung 5: Adam against the referee's."""
        with self.applied():
            arrays = worker.optimiser(self.backend, self.seed)
        return compare.optimiser({SIDE: arrays})

    def training(self) -> list[Finding]:
        """Rung 5: a short training. Its bundles stay in a folder of this process."""
        with self.applied():
            self.trained = worker.training(SIDE, self.backend, self._own(), self.seed)
        return compare.training({REFERENCE: read(self.folder, f"{REFERENCE}.training"), SIDE: self.trained})

    def drift(self) -> list[Finding]:
        """Rung 5: drift, beside that of the fault-free candidate and of the reference after a move by one ulp."""
        with self.applied():
            arrays = worker.steps(self.backend, dict.fromkeys(DRAWS, 0), self.seed)
        control = read(self.folder, f"{SIDE}.step")
        arrays |= {key: array for key, array in control.items() if "/moved/" in key}
        return compare.step({REFERENCE: read(self.folder, f"{REFERENCE}.step"), SIDE: arrays}, tuple(DRAWS))

    def persistence(self) -> list[Finding]:
        """Rung 6, in this process, where the fault is."""
        with self.applied():
            loaded = worker.reload(SIDE, self._own(), (SIDE,)) | worker.reload(SIDE, self.folder, (REFERENCE,))
        trained = {REFERENCE: read(self.folder, f"{REFERENCE}.training"), SIDE: self.trained}
        return compare.persistence(trained, {SIDE: loaded})

    def _own(self) -> Path:
        own = self.folder / f"own-{os.getpid()}"
        own.mkdir(exist_ok=True)
        return own


def outcome(folder: Path, id: str, low: bool) -> Outcome:
    """Climb the low or the high rungs under a fault of the catalogue, or under none (`CONTROL`)."""
    start = time.perf_counter()
    climber = Climber(folder, nullcontext if id == CONTROL else CATALOGUE[id].applied)
    divergence = climber.climb(low, not low).divergence
    seconds = time.perf_counter() - start
    if divergence is None:
        return Outcome(id, seconds=seconds)
    one = divergence.finding
    return Outcome(id, one.rung, one.tap, one.place, one.ratio, len(divergence.consequences), seconds)


def limit(folder: Path, fault: SizedFault) -> Limit:
    """Bisect powers of ten for the smallest size that the fault's rung catches."""

    def climber(exponent: int) -> Climber:
        return Climber(folder, fault.applied(10.0**exponent))

    def caught(exponent: int) -> bool:
        one = climber(exponent)
        look: dict[str, Callable[[], list[Finding]]] = {
            "operator": one.operator,
            "forward": lambda: one.traced(["gridsize 2"], ["float64"]),
            "step": one.optimiser,
        }
        return not all(finding.holds for finding in look[fault.rung]())

    low, high = EXPONENTS
    if not caught(high):
        return Limit(fault.title, fault.unit, fault.rung, math.nan, math.nan)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if caught(middle) else (middle, high)
    return Limit(fault.title, fault.unit, fault.rung, 10.0**high, change(folder, climber(high)))


def change(folder: Path, climber: Climber) -> float:
    """Relative change of the stitched objects after a short training, against the control's; the larger one."""
    control, changes = read(folder, f"{SIDE}.training"), []
    for gridsize, config in problems.trainings(climber.seed).items():
        with climber.applied():
            _, found = worker.train_and_apply(load_fixture(problems.FIXTURE), dataclasses.replace(config, backend=SIDE))
        before = control[f"{gridsize}/stitched"]
        changes.append(float(np.linalg.norm(assemble(found).object_ - before) / np.linalg.norm(before)))
    return max(changes)


def rounding(folder: Path) -> float:
    """What a move of the initial weights by one ulp changes in a reconstruction: less than that is no change."""

    def moved(original: Callable[..., Weights], *arguments: Any) -> Weights:
        return problems.moved_by_one_ulp(original(*arguments), 1)

    return change(folder, Climber(folder, lambda: wrapped("ptyint.backends.weights", "initial_weights", moved)))


def main() -> None:
    """Parse the command line, try faults, write ``FOLDER/<name>.json``."""
    follow_parent()
    parser = argparse.ArgumentParser(description="Try faults on the parity ladder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="low", help="of the file that gets the outcomes")
    parser.add_argument("--ids", nargs="*", default=None, help="faults to climb with; default: all, on rungs 0 and 1")
    parser.add_argument("--control", action="store_true", help="measure without a fault what trials are compared with")
    parser.add_argument("--sized", nargs="*", type=int, default=[], help="numbers of faults with a size")
    options = parser.parse_args()
    values: dict[str, Any]
    if options.control:
        worker.write(options.folder, f"{SIDE}.training", worker.training(SIDE, backends.load(SIDE), options.folder))
        worker.measure_steps(SIDE, options.folder, DRAWS)
        values = {"rounding": to_json(rounding(options.folder))}
    else:
        low = options.ids is None
        ids = [CONTROL, *CATALOGUE] if low else options.ids
        outcomes = [outcome(options.folder, id, low) for id in ids]
        limits = [limit(options.folder, SIZED[number]) for number in options.sized]
        values = {"outcomes": [plain(one) for one in outcomes], "limits": [plain(one) for one in limits]}
    with atomic_path(options.folder / f"{options.name}.json") as path:
        path.write_text(json.dumps(values))


def plain(one: Outcome | Limit) -> dict[str, Any]:
    """Plain values for JSON."""
    return {key: to_json(v) if isinstance(v, float) else v for key, v in asdict(one).items()}


if __name__ == "__main__":
    main()
