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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint._atomic import atomic_path
from ptyint.backends.weights import Weights
from ptyint.evidence.checks import to_json
from ptyint.evidence.processes import follow_parent
from ptyint.images.reconstruction import assemble
from ptyint.parity import problems, worker
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import Finding
from ptyint.parity.faults.catalogue import CATALOGUE, SIZED, Fault, SizedFault
from ptyint.parity.faults.injection import SIDE, Context, wrapped
from ptyint.parity.problems import Problems
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import CAPTURES, RUNGS
from ptyint.parity.rungs.rung import Bench, Captured, Judge, Measured, stored
from ptyint.parity.rungs.step import train_and_apply
from ptyint.parity.tolerances import PRECISIONS
from ptyint.scans.fixtures import load_fixture

REFERENCE = "tensorflow"
CONTROL = "control"
DRAWS = {"float64": problems.DRAWS["float64"]}
"""Optimiser steps in double precision: there the drift of rounding is smallest, and any fault largest beside it."""

PROBLEMS = Problems(draws=DRAWS)
LOW, HIGH = ("contract", "operator"), ("forward", "loss", "gradient", "step", "persistence")

EXPONENTS = (-16, 0)
"""Powers of ten between which a detection limit is sought."""


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
        expected = (fault.rung, fault.tap or self.tap)
        return expected == (self.rung, self.tap) and fault.operand in self.place


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
    """

    def __init__(self, folder: Path, applied: Context = nullcontext) -> None:
        self.folder, self.applied = folder, applied
        problems = dataclasses.replace(PROBLEMS, draws=dict.fromkeys(DRAWS, 0), precisions=PRECISIONS[::-1])
        self.bench = Bench(backends.load(SIDE), (REFERENCE, SIDE), problems, _own(folder))
        self.measured = Measured({REFERENCE: Offer(), SIDE: Offer()}, self._read, keep=None)

    def climb(self, low: bool = True, high: bool = True) -> Ladder:
        """The ladder up to and with the first red rung: the low rungs, which need no other backend, and the high."""
        rows: list[Finding] = []
        for rung in (*(LOW if low else ()), *(HIGH if high else ())):
            for judge in RUNGS[rung].judges:
                rows += self.judged(judge, self.bench.problems, network_by_network=rung == "forward")
                if any(row.red for row in rows):
                    return Ladder(REFERENCE, SIDE, "quick", tuple(rows))
        return Ladder(REFERENCE, SIDE, "quick", tuple(rows))

    def judged(self, judge: Judge, problems: Problems, network_by_network: bool = False) -> list[Finding]:
        """What one judge finds of the candidate; network by network until one is red."""
        rows: list[Finding] = []
        for network in problems.networks if network_by_network else [None]:
            narrow = {} if network is None else {"cases": (network.case,), "precisions": (network.precision,)}
            found = judge(self.measured, dataclasses.replace(problems, **narrow))  # type: ignore[arg-type]
            rows += [row for row in found if row.side == SIDE]
            if any(row.red for row in rows):
                break
        return rows

    def _read(self, side: str, capture: str, part: str) -> Captured:
        if side != SIDE:
            return stored(self.folder, side, capture, part)
        with self.applied():
            arrays: Captured = CAPTURES[capture].measure(self.bench, part)
        if capture == "steps":
            control = stored(self.folder, SIDE, "steps")
            arrays |= {key: array for key, array in control.items() if "/moved/" in key}
        return arrays


def _own(folder: Path) -> Path:
    """A folder of this process, in which all files of another seem to lie."""
    own = folder / f"own-{os.getpid()}"
    own.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and not (own / file.name).exists():
            (own / file.name).symlink_to(file.resolve())
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
        narrow = dataclasses.replace(one.bench.problems, cases=("gridsize 2",), precisions=("float64",))
        rungs = ("forward", "loss", "gradient") if fault.rung == "forward" else (fault.rung,)
        problems = one.bench.problems if fault.rung == "operator" else narrow
        return any(row.red for rung in rungs for row in one.judged(RUNGS[rung].judges[0], problems))

    low, high = EXPONENTS
    if not caught(high):
        return Limit(fault.title, fault.unit, fault.rung, math.nan, math.nan)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if caught(middle) else (middle, high)
    return Limit(fault.title, fault.unit, fault.rung, 10.0**high, change(folder, climber(high)))


def change(folder: Path, climber: Climber) -> float:
    """Relative change of the stitched objects after a short training, against the control's; the larger one."""
    control, changes = stored(folder, SIDE, "training"), []
    for gridsize, config in problems.trainings().items():
        with climber.applied():
            _, found = train_and_apply(load_fixture(problems.FIXTURE), dataclasses.replace(config, backend=SIDE))
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
        bench = Bench(backends.load(SIDE), (REFERENCE, SIDE), PROBLEMS, options.folder)
        for name in ("training", "steps"):
            worker.capture(bench, CAPTURES[name])
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
