"""One fault on the ladder, until its first red rung.

``python -m ptyint.parity.faults.trial FOLDER NAME WHAT ...`` tries one after the other in a process with the framework,
and writes ``FOLDER/NAME.json``; :mod:`ptyint.parity.faults.campaign` starts such processes.
"""

import json
import math
import os
import shutil
import sys
import tempfile
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint._atomic import write_text
from ptyint.backends.weights import Weights
from ptyint.evidence.processes import follow_parent
from ptyint.parity import problems as given
from ptyint.parity.capabilities import Offer, written
from ptyint.parity.compare import Arrays, Finding
from ptyint.parity.configurations import TRAININGS
from ptyint.parity.faults.catalogue import BUILT_IN
from ptyint.parity.faults.fault import Catalogue, Fault, SizedFault, catalogue_of
from ptyint.parity.faults.injection import SIDE, Context, wrapped
from ptyint.parity.problems import Problems
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import CAPTURES, RUNGS
from ptyint.parity.rungs.rung import Bench, Captured, Measured, stored
from ptyint.parity.rungs.training import trained
from ptyint.parity.tolerances import PRECISIONS
from ptyint.parity.worker import OFFER
from ptyint.parity.worker import PROBLEMS as PAIR

REFERENCE, CONTROL, ALONE, ROUNDING = "tensorflow", "control", "alone", "rounding"
DOUBLE_FIRST = replace(BUILT_IN.problems, precisions=PRECISIONS[::-1])
"""No rounding hides a fault in double precision."""

EXPONENTS = range(-15, 0)
"""Powers of ten among which a detection limit is sought, below 1."""


@dataclass(frozen=True)
class Outcome:
    """What the ladder said of one fault: where it was first red, how far beyond the tolerance, how long it took.

    Without a rung, nothing was red. `place` says case, precision, tap, operand and step in words.
    """

    id: str
    rung: str = ""
    case: str = ""
    precision: str = ""
    tap: str = ""
    operand: str = ""
    step: int | None = None
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
        expected = (fault.rung, fault.tap or self.tap, fault.operand or self.operand)
        return expected == (self.rung, self.tap, self.operand)


@dataclass(frozen=True)
class Limit:
    """Smallest size of a fault, in powers of ten, that is still caught (NaN: not even 1), and what it is worth.

    That is the relative change of the stitched object after a short training with a fault of that size.
    """

    title: str
    unit: str
    rung: str
    size: float
    change: float


Key = tuple[tuple[Any, ...], str, str]
"""Of a finding: its place, and both sides."""


class Trial:
    """The candidate on the ladder until the first red rung: captured under a fault, judged without.

    Parameters
    ----------
    folder : path-like
        Where the reference, and the fault-free candidate, wrote what they captured.
    applied : callable, optional
        Gives the fault's context manager.
    reference : str
        Rungs above that of the operators compare with what this backend wrote to the folder.
    problems : Problems, optional
        Networks of rungs 2 to 4; those of the catalogue, double precision first.
    skipped : str
        What is held against this backend does not count: it would have the same fault.
    catalogue : Catalogue
        Of the candidate.
    passed_over : set
        Findings that do not count: :func:`apart`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        applied: Context = nullcontext,
        reference: str = REFERENCE,
        problems: Problems | None = None,
        skipped: str = "",
        catalogue: Catalogue = BUILT_IN,
        passed_over: frozenset[Key] = frozenset(),
    ) -> None:
        self.reference, self.side, self.catalogue, self.skipped = reference, catalogue.side, catalogue, skipped
        self.problems = problems or replace(catalogue.problems, precisions=catalogue.problems.precisions[::-1])
        self.passed_over = passed_over
        own = Path(tempfile.mkdtemp(prefix="ptyint-trial-"))
        weakref.finalize(self, shutil.rmtree, own)
        for file in filter(Path.is_file, Path(folder).iterdir()):  # while bundles that are saved there are its own
            (own / file.name).symlink_to(file.resolve())
        bench = Bench(backends.load(self.side), (reference, self.side), self.problems, own)
        offers = {reference: Offer(), self.side: Offer()}
        if not catalogue.alike:
            offers = {reference: Offer.of(stored(own, reference, OFFER)), self.side: Offer.of(written(bench.backend))}
        self.measured = Measured(offers, partial(_captured, bench, applied), keep=None)

    def climb(self, rungs: Iterable[str]) -> Ladder:
        """The ladder up to and with the first red rung; of the step's parts, up to and with the first red one."""
        rows: list[Finding] = []
        for judged in self.judged(rungs):
            rows += judged
            if any(row.red for row in judged):
                break
        return Ladder(self.reference, self.side, "quick", tuple(rows))

    def judged(self, rungs: Iterable[str]) -> Iterator[list[Finding]]:
        """What each judge finds of the candidate, which offers everything, before the next one asks for more."""
        one_by_one = [replace(self.problems, cases=(c,), precisions=(p,)) for c, p in self.problems.networks]
        for rung in rungs:
            for judge in RUNGS[rung].judges:
                for part in one_by_one if rung == "forward" else [self.problems]:
                    rows = judge(self.measured, part)
                    yield [replace(row, available=True) for row in rows if self._counts(row)]

    def _counts(self, row: Finding) -> bool:
        return row.side == self.side and row.against != self.skipped and _key(row) not in self.passed_over


def _key(row: Finding) -> Key:
    return tuple(row.where), row.side, row.against


def apart(folder: Path, reference: str, catalogue: Catalogue) -> frozenset[Key]:
    """What does not hold without a fault: the two differ there, or one of them does not offer it."""
    if catalogue.alike:
        return frozenset()
    judged = Trial(folder, reference=reference, catalogue=catalogue).judged(catalogue.rungs)
    return frozenset(_key(row) for rows in judged for row in rows if not row.holds)


def _captured(bench: Bench, applied: Context, side: str, capture: str, part: str) -> Arrays:
    """The candidate's arrays under the fault; what the reference wrote before."""
    if side != bench.name:
        return stored(bench.folder, side, capture, part)
    with under(applied, side):
        arrays: Captured = CAPTURES[capture].measure(bench, part)
    return arrays


@contextmanager
def under(applied: Context, side: str = SIDE) -> Iterator[None]:
    """Under a fault, with no network that was built without it, and none left that was built with it."""
    backend: Any = backends.load(side)
    backend.forget()
    try:
        with applied():
            yield
    finally:
        backend.forget()


def tried(id: str, trial: Trial) -> Outcome:
    """What a trial of a fault, or of none (`CONTROL`, `ALONE`), says."""
    start = time.perf_counter()
    divergence = trial.climb(trial.catalogue.rungs).divergence
    seconds = time.perf_counter() - start
    if divergence is None:
        return Outcome(id, seconds=seconds)
    row = divergence.finding
    return Outcome(id, *row.where, row.place, row.ratio, len(divergence.consequences), seconds)


def limit(folder: Path, fault: SizedFault) -> Limit:
    """Bisect powers of ten for the smallest size that the fault's rung catches; of the step, Adam's three alone."""
    problems = replace(BUILT_IN.problems, cases=("gridsize 2",), precisions=("float64",))
    rungs = {"forward": ("forward", "loss", "gradient")}.get(fault.rung, (fault.rung,))

    def caught(exponent: int) -> bool:
        judged = Trial(folder, fault.applied(10.0**exponent), problems=problems).judged(rungs)
        return any(row.red for rows in islice(judged, len(rungs)) for row in rows)

    if not caught(EXPONENTS.stop):
        return Limit(fault.title, fault.unit, fault.rung, math.nan, math.nan)
    size = 10.0 ** (EXPONENTS.start + bisect_left(EXPONENTS, True, key=caught))
    return Limit(fault.title, fault.unit, fault.rung, size, change(folder, fault.applied(size)))


def change(folder: Path, applied: Context) -> float:
    """Relative change of the stitched objects after a short training, against the control's; the larger one."""
    control, changes = stored(folder, SIDE, "training"), []
    for name in ("gridsize 1", "gridsize 2"):
        one = TRAININGS[name]
        with under(applied):
            stitched = trained(one.scan(), replace(one.plain, backend=SIDE))["stitched"]
        right = control[f"{name}/stitched"]
        changes.append(float(np.linalg.norm(stitched - right) / np.linalg.norm(right)))
    return max(changes)


def rounding(folder: Path) -> float:
    """What a move of the initial weights by one ulp changes in a reconstruction: less than that is no change."""

    def moved(original: Callable[..., Weights], *arguments: Any) -> Weights:
        return given.moved_by_one_ulp(original(*arguments), 1)

    return change(folder, partial(wrapped, "ptyint.backends.weights", "initial_weights", moved))


def answers(folder: Path, asked: Iterable[str]) -> dict[str, Any]:
    """What came of each id of the catalogue, number among its faults with a size, and of `ROUNDING`, for JSON."""
    reference, side = json.loads((folder / PAIR).read_text())["pair"]
    catalogue = catalogue_of(side)
    passed_over, faults = apart(folder, reference, catalogue), {fault.id: fault for fault in catalogue.faults}
    found: dict[str, Any] = {}
    for one in asked:
        if one == ROUNDING:
            found[one] = rounding(folder)
        elif one.isdigit():
            found[one] = asdict(limit(folder, catalogue.sized[int(one)]))
        else:
            applied = faults[one].applied if one in faults else nullcontext
            trial = Trial(folder, applied, reference, None, reference * (one == ALONE), catalogue, passed_over)
            found[one] = asdict(tried(one, trial))
    return found


if __name__ == "__main__":
    follow_parent()
    home, name, *questions = sys.argv[1:]
    write_text(Path(home, f"{name}.json"), json.dumps(answers(Path(home), questions)))
