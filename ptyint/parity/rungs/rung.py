"""What a rung is: a question, what each side captures for it in a process of its own, and what is judged of that."""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ptyint.evidence.checks import Criterion
from ptyint.parity.capabilities import Offer, lacking
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place
from ptyint.parity.problems import Problems

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


def without(measured: Measured, rung: str, precisions: Iterable[str]) -> list[Finding]:
    """A finding for each precision in which a side does not compute."""
    return [
        Finding.unavailable(Place(rung, precision=one), (side, REFEREE), f"{side} does not compute in {one}")
        for side, offer in measured.offers.items()
        for one in precisions
        if one not in offer.precisions
    ]


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
    arrays: Any = np.load(path, allow_pickle=False) if path.is_file() else {}
    if arrays:
        weakref.finalize(arrays, arrays.fid.close)  # before whatever else a circle of references holds is gone
    return cast(Arrays, arrays)
