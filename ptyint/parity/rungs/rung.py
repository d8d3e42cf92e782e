"""What a rung is: a question, what each side captures for it in a process of its own, and what is judged of that."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.evidence.checks import Check, Criterion
from ptyint.parity.capabilities import Offer, lacking
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place
from ptyint.parity.problems import Problems
from ptyint.parity.tolerances import PRECISIONS

Captured = dict[str, NDArray[Any]]

SHRINKS = 1e5
"""By at least this factor the largest error shrinks from single to double precision, if it is rounding: by 5e8 where
rounding is all, less where a position's rounding depends on its value. A bug shrinks by 1."""


UNSUPPORTED = "NotImplementedError: "
"""What a backend raises for what it knowingly does not take: not available, and not red."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Where one backend is measured.

    Attributes
    ----------
    backend : Backend
    pair : tuple of str
        Names of reference and candidate.
    problems : Problems
    folder : Path
        Gets bundles; what others wrote is read from here.
    import_seconds : float
        What it took to load the backend.
    """

    backend: Any
    pair: tuple[str, str]
    problems: Problems
    folder: Path
    import_seconds: float = math.nan

    @property
    def name(self) -> str:
        """Of the backend."""
        return str(self.backend.name)

    def stored(self, side: str, capture: str, part: str = "") -> Arrays:
        """What a side wrote before; see :func:`stored`."""
        return stored(self.folder, side, capture, part)


@dataclass(frozen=True)
class Capture:
    """What one backend measures in one go.

    Attributes
    ----------
    name : str
        It lies in ``FOLDER/BACKEND.NAME.npz``, or ``FOLDER/BACKEND.NAME.PART.npz``.
    measure : callable
        Bench and part to arrays. What raises in it is kept under ``error/<key>``; see :func:`noted`.
    needs : str
        The capability without which a backend is not asked.
    parts : callable
        Problems to the names of the parts.
    fresh : bool
        In a new process, which knows only the files of those before.
    after : tuple of str
        Captures of both sides whose files it reads: the same part, or all of them.
    candidate_only, reference_only : bool
    on_demand : bool
        Made when a judge asks for it.
    """

    name: str
    measure: Callable[[Bench, str], Captured]
    needs: str = ""
    parts: Callable[[Problems], tuple[str, ...]] = lambda problems: ("",)
    fresh: bool = False
    after: tuple[str, ...] = ()
    candidate_only: bool = False
    reference_only: bool = False
    on_demand: bool = False


class Measured:
    """What backends measured, read (or captured) when a judge first asks for it.

    Parameters
    ----------
    offers : dict of str to Offer
        The sides, reference first.
    read : callable
        Side, name of the capture and part to arrays; empty where there are none.
    keep : int, optional
        How many captures to keep in memory: of one network there are four, of 50 MB each. None: all.
    """

    def __init__(
        self, offers: Mapping[str, Offer], read: Callable[[str, str, str], Arrays], keep: int | None = 8
    ) -> None:
        self.offers = offers
        self._read = lru_cache(maxsize=keep)(read)

    @property
    def pair(self) -> tuple[str, str]:
        """Candidate and reference, as findings name them: side, then what it is held against."""
        reference, candidate = self.offers
        return candidate, reference

    def of(self, side: str, capture: str, part: str = "") -> Arrays:
        """Arrays of one side."""
        return self._read(side, capture, part)

    def both(self, capture: str, part: str = "") -> dict[str, Arrays]:
        """Arrays of every side by its name, reference first."""
        return {side: self.of(side, capture, part) for side in self.offers}

    def with_capability(self, capability: str) -> list[str]:
        """Sides that have it."""
        return [side for side, offer in self.offers.items() if capability in offer.capabilities]


Judge = Callable[[Measured, Problems], Iterable[Finding]]


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder.

    Attributes
    ----------
    name, question : str
    captures : tuple of Capture
        What its judges read.
    judges : tuple of callable
        Measured and problems to findings, in the order in which data flow.
    needs : str
        The capability without which a backend cannot serve it.
    precisions : tuple of str
        One check for each; ``("",)``: one in all.
    shrinks : bool
        Whether the error must shrink with the precision: single precision alone says nothing.
    places : tuple of tuple of str
        Case and tap, each a check of its own; none: the largest error is the check.
    also : tuple of callable
        Judges of what a side can show that cannot serve the rung itself.
    profiles : tuple of str
    """

    name: str
    question: str
    captures: tuple[Capture, ...]
    judges: tuple[Judge, ...]
    needs: str = ""
    precisions: tuple[str, ...] = ("",)
    shrinks: bool = False
    places: tuple[tuple[str, str], ...] = ()
    also: tuple[Judge, ...] = ()
    profiles: tuple[str, ...] = ("quick", "full")

    def judge(self, measured: Measured, problems: Problems) -> list[Finding]:
        """Every finding; what a side does not offer is ``not available``."""
        rows: list[Finding] = []
        why = lacking(measured.offers, self.needs)
        if why:
            places = [Place(self.name, case, tap=tap) for case, tap in self.places]
            places = places or [Place(self.name, precision=precision) for precision in self.precisions]
            rows += [Finding.unavailable(place, measured.pair, why) for place in places]
        else:
            if self.needs == "trace":
                rows += without(measured, self.name, problems.precisions)
                lacked = {row.precision for row in rows}
                problems = replace(problems, precisions=[one for one in problems.precisions if one not in lacked])
            rows += [row for judge in self.judges for row in judge(measured, problems)]
        return rows + [row for judge in self.also for row in judge(measured, problems)]

    def criteria(self) -> tuple[Criterion, ...]:
        """What its checks require, said once: here."""
        over_margin = [f"{self.name}, {case}, {tap}: over the margin" for case, tap in self.places]
        where = [", ".join(filter(None, (self.name, precision))) for precision in self.precisions]
        names = over_margin or [f"{one}: largest error over its tolerance" for one in where]
        shrinking = Criterion(f"{self.name}, error in float32 over that in float64", ">=", SHRINKS)
        return (*(Criterion(name, "<=", 1.0) for name in names), *([shrinking] if self.shrinks else []))

    def checks(self, rows: Sequence[Finding]) -> list[Check]:
        """One check for each of :meth:`criteria`, from the findings of this rung."""
        asked = self.criteria()
        if self.places:
            return [_of_place(one, place, rows) for one, place in zip(asked, self.places, strict=True)]
        checks = [
            _of_largest(one, [row for row in rows if precision in ("", row.precision)])
            for one, precision in zip(asked, self.precisions, strict=False)
        ]
        if self.shrinks:
            missing = _why(rows)
            checks.append(asked[-1].measured(shrinks(rows), missing, available=not missing))
        return checks


def without(measured: Measured, rung: str, precisions: Iterable[str]) -> list[Finding]:
    """A finding for each precision in which a side does not compute."""
    return [
        Finding.unavailable(Place(rung, precision=one), (side, REFEREE), f"{side} does not compute in {one}")
        for side, offer in measured.offers.items()
        for one in precisions
        if one not in offer.precisions
    ]


def worst(rows: Iterable[Finding]) -> Finding | None:
    """The finding nearest to its tolerance, or farthest beyond it."""
    return max((row for row in rows if row.available), key=attrgetter("excess"), default=None)


def shrinks(rows: Sequence[Finding]) -> float | None:
    """Largest error in single precision over the largest in double; None where one of them is missing."""
    single, double = (
        {row.key: row.error for row in rows if row.available and row.precision == precision} for precision in PRECISIONS
    )
    both = single.keys() & double.keys()
    if not both:
        return None
    wide, narrow = (max(errors[key] for key in both) for errors in (single, double))
    if math.isinf(wide) or math.isinf(narrow):
        return math.nan
    return (wide or float(np.finfo("float32").eps)) / narrow if narrow > 0 else math.inf


def _of_largest(criterion: Criterion, rows: Sequence[Finding]) -> Check:
    largest, missing = worst(rows), _why(rows)
    if largest is None:
        return criterion.measured(None, missing or "nothing was measured", available=not missing)
    detail = f" ({largest.note})" if largest.note and not largest.holds else ""
    words = f"{largest.place}: {largest.error:.2g} of {largest.tolerance:.2g}{detail}"
    return criterion.measured(largest.ratio, "; ".join(filter(None, (words, missing))), available=not missing)


def _of_place(criterion: Criterion, place: tuple[str, str], rows: Sequence[Finding]) -> Check:
    row = next((row for row in rows if (row.case, row.tap) == place), None)
    if row is None:
        return criterion.measured(None, "nothing was trained")
    if not row.available:
        return criterion.measured(None, row.note, available=False)
    return criterion.measured(row.ratio, row.note, decided=row.decided)


def _why(rows: Iterable[Finding]) -> str:
    """What is not available, in words; empty where everything is."""
    missing = [row for row in rows if not row.available]
    taps: dict[str, dict[str, None]] = {}
    for row in missing:
        taps.setdefault(row.note, {})[row.tap] = None
    reasons = [f"{', '.join(filter(None, names))}: {note}".removeprefix(": ") for note, names in taps.items()]
    return f"{len(missing)} not available ({'; '.join(reasons)})" if missing else ""


@contextmanager
def noted(arrays: Captured, key: str) -> Iterator[None]:
    """Keep an exception under ``error/<key>`` and go on: it is the judge's to find the arrays missing."""
    try:
        yield
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        arrays[f"error/{key}"] = np.array(message[:500])


def file_name(side: str, capture: str, part: str = "") -> str:
    """Where a capture lies, without the folder."""
    slug = part.replace("/", ".").replace(", ", "-").replace(" ", "-")
    return ".".join(filter(None, (side, capture, slug, "npz")))


def stored(folder: Path, side: str, capture: str, part: str = "") -> Arrays:
    """What a side wrote of a capture, each array read when it is asked for; empty where nothing was."""
    path = folder / file_name(side, capture, part)
    return np.load(path, allow_pickle=False) if path.is_file() else {}
