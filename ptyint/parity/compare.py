"""One comparison: how far two arrays are apart, and the finding that comes of it. No framework is loaded.

Dtype, shape, NaN and infinity come first, then values by their norm and by the worst element.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path
from ptyint.evidence.checks import Verdict, to_json
from ptyint.parity.tolerances import Tolerance

Arrays = Mapping[str, NDArray[Any]]
REFEREE = "referee"
"""What a backend is held against beside the other one: the formulas in NumPy, always in double precision."""


class Place(NamedTuple):
    """Where something was compared; empty where that has no meaning on a rung.

    Attributes
    ----------
    rung, case : str
    precision : str
        Empty, 'float32' or 'float64'.
    tap : str
        Operator, layer, weight, or a fact.
    operand : str
        What an operator was given; the weight that an optimiser moved; the kind of a direction.
    step : int, optional
        Optimiser steps made.
    """

    rung: str
    case: str = ""
    precision: str = ""
    tap: str = ""
    operand: str = ""
    step: int | None = None


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes
    ----------
    rung, case, precision, tap, operand, step
        Where; see :class:`Place`.
    side, against : str
        Which backend was compared, and with what: the other backend, itself, or `REFEREE`.
    error : float
        Relative norm of the difference; 0 or 1 where it is a matter of yes or no.
    tolerance : float
    ratio : float
        Error over tolerance, the worst element's included: at most 1 holds. Infinite where there is nothing to
        compare.
    note : str
        Why the arrays are not even alike; or where they differ most.
    local : float, optional
        The ratio of this tap alone, given the reference's inputs (reference injection). None: not tried.
    decided : bool
        False: too few data to tell either way.
    available : bool
        False: a backend does not offer what this needs; `note` says what.
    """

    rung: str
    case: str
    precision: str
    tap: str
    operand: str
    step: int | None
    side: str
    against: str
    error: float
    tolerance: float
    ratio: float
    note: str = ""
    local: float | None = None
    decided: bool = True
    available: bool = True

    @classmethod
    def unavailable(cls, where: Place, sides: tuple[str, str], note: str) -> "Finding":
        """A comparison that a backend cannot serve, and why."""
        return cls(*where, *sides, math.inf, 0.0, math.inf, note, available=False)

    @classmethod
    def missing(cls, where: Place, sides: tuple[str, str], note: str) -> "Finding":
        """A comparison for which there are no arrays, which is red."""
        return cls(*where, *sides, math.inf, 0.0, math.inf, note)

    @classmethod
    def fact(cls, where: Place, sides: tuple[str, str], holds: bool, note: str = "") -> "Finding":
        """A matter of yes or no; the note is what was seen where it does not hold."""
        return cls(*where, *sides, float(not holds), 0.0, 0.0 if holds else math.inf, "" if holds else note)

    @property
    def where(self) -> Place:
        """All of its keys but the two sides."""
        return Place(self.rung, self.case, self.precision, self.tap, self.operand, self.step)

    @property
    def excess(self) -> float:
        """The ratio, to order by: NaN is beyond every tolerance."""
        return math.inf if math.isnan(self.ratio) else self.ratio

    @property
    def holds(self) -> bool:
        """Whether the error stays within the tolerance; NaN does not, nor what is not available."""
        return self.available and self.ratio <= 1

    @property
    def red(self) -> bool:
        """Whether it was compared, and differs."""
        return self.available and not self.holds

    @property
    def verdict(self) -> Verdict:
        """What a table says of it."""
        if not self.available:
            return "not available"
        return "fail" if self.red else "pass" if self.decided else "underpowered"

    @property
    def is_consequence(self) -> bool:
        """Red, but right once it was given right inputs."""
        return self.red and self.local is not None and self.local <= 1

    @property
    def size(self) -> str:
        """Error and tolerance in words."""
        return f"{self.error:.1e} of {self.tolerance:.1e}"

    @property
    def place(self) -> str:
        """Tap, operand, step, case and precision in words."""
        step = "" if self.step is None else f"after {self.step}"
        return ", ".join(part for part in (self.tap, self.operand, step, self.case, self.precision) if part)


def plain(one: Any) -> dict[str, Any]:
    """The fields of a dataclass, as JSON holds them."""
    return {key: to_json(value) if isinstance(value, float) else value for key, value in asdict(one).items()}


@dataclass(frozen=True)
class Difference:
    """A candidate array against its reference.

    Attributes
    ----------
    norm : float
        ``|candidate - reference| / scale`` (Frobenius); infinite where the arrays cannot be compared.
    largest : float
        Largest ``|candidate - reference|`` over the largest ``|reference|``.
    where : tuple of int
        Index of the largest difference.
    mismatch : str
        Why the arrays are not even of the same kind, in words; empty if they are.
    """

    norm: float
    largest: float
    where: tuple[int, ...] = ()
    mismatch: str = ""

    def ratio(self, tolerance: Tolerance, precision: str) -> float:
        """Error over tolerance: the larger of the norm's and the worst element's."""
        bound = tolerance.at(precision)
        return max(self.norm / bound, self.largest / (bound * tolerance.elementwise))

    @property
    def note(self) -> str:
        """The mismatch, or where the largest difference is."""
        if self.mismatch or not self.where:
            return self.mismatch
        return f"largest element {self.largest:.2g} of the largest, at {list(self.where)}"


def difference(candidate: NDArray[Any], reference: NDArray[Any], scale: float | None = None) -> Difference:
    """Compare two arrays in double precision; another dtype or shape and NaN on either side are a mismatch.

    Parameters
    ----------
    candidate, reference : ndarray
        Of the same dtype and shape, and finite.
    scale : float, optional
        What the norm of the difference is measured by, where the norm of `reference` is smaller: the norm of the
        terms of a sum that cancels.
    """
    a, b = np.asarray(candidate), np.asarray(reference)
    mismatch = _mismatch(a, b)
    if mismatch:
        return Difference(np.inf, np.inf, (), mismatch)
    wide = np.complex128 if np.iscomplexobj(b) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    apart = np.abs(a - b)
    norm, size = float(np.linalg.norm(apart.ravel())), float(np.linalg.norm(b.ravel()))
    top, peak = float(apart.max(initial=0)), float(np.abs(b).max(initial=0))
    where = tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape)) if apart.size else ()
    smallest = scale or 0.0
    return Difference(over(norm, max(size, smallest)), over(top, max(peak, smallest)), where)


def over(part: float, whole: float) -> float:
    """A ratio in which nothing over nothing is nothing, and what is not finite is infinite."""
    if part == 0:
        return 0.0
    return part / whole if whole > 0 and np.isfinite(part) else np.inf


def _mismatch(candidate: NDArray[Any], reference: NDArray[Any]) -> str:
    if candidate.shape != reference.shape:
        return f"shape {candidate.shape}, not {reference.shape}"
    if candidate.dtype != reference.dtype:
        return f"dtype {candidate.dtype}, not {reference.dtype}"
    for side, array in (("candidate", candidate), ("reference", reference)):
        n_bad = int(array.size - np.isfinite(array).sum())
        if n_bad:
            kind = "NaN" if np.isnan(array).any() else "infinite"
            return f"{n_bad} of {array.size} values of the {side} are {kind}"
    return ""


def compare(
    where: Place,
    sides: tuple[str, str],
    arrays: tuple[Arrays, Arrays],
    keys: tuple[str, str],
    tolerance: Tolerance,
    scale: float | None = None,
    epsilons: Callable[[], float] | None = None,
) -> Finding:
    """One finding: ``arrays[0][keys[0]]`` against ``arrays[1][keys[1]]``; what is missing is not comparable.

    What lies beyond the tolerance is allowed `epsilons`, if that is more; it is not worked out for anything else.
    """
    bound = tolerance.at(where.precision)
    for side, measured, key in zip(sides, arrays, keys, strict=True):
        if key not in measured:
            note = error_of(measured, key) or f"{side} has no array of that name"
            return Finding(*where, *sides, np.inf, bound, np.inf, note)
    candidate, reference = arrays[0][keys[0]], arrays[1][keys[1]]
    if sides[1] == REFEREE:  # always double precision: only a backend's dtype is compared with a backend's
        candidate = candidate.astype(np.result_type(candidate, reference))
    apart = difference(candidate, reference, scale)
    if epsilons and np.isfinite(apart.norm) and apart.ratio(tolerance, where.precision) > 1:
        tolerance = replace(tolerance, epsilons=max(tolerance.epsilons, epsilons()))
    bound, ratio = tolerance.at(where.precision), apart.ratio(tolerance, where.precision)
    finding = Finding(*where, *sides, apart.norm, bound, ratio, apart.note)
    keep(RedTap(where.rung, finding.place, *sides, candidate, reference), finding.red)
    return finding


def bounded(where: Place, sides: tuple[str, str], error: float, bound: float, note: str = "") -> Finding:
    """One finding from a number and its bound."""
    return Finding(*where, *sides, error, bound, over(error, bound), note)


def error_of(arrays: Arrays, key: str) -> str:
    """What the backend said instead of an array: the error of `key`, or of the pass that it belongs to."""
    if not arrays:
        return "nothing was written"
    parts = key.split("/")
    for end in range(len(parts), 0, -1):
        name = f"error/{'/'.join(parts[:end])}"
        if name in arrays:
            return str(arrays[name])
    return next((str(arrays[name]) for name in arrays if name.startswith("error/")), "")


def joined(arrays: Arrays, prefix: str, names: Sequence[str]) -> NDArray[np.float64] | None:
    """All arrays ``prefix/name`` as one vector; None where one is missing."""
    if any(f"{prefix}/{name}" not in arrays for name in names):
        return None
    return np.concatenate([arrays[f"{prefix}/{name}"].astype(np.float64).ravel() for name in names])


# Red taps

RED_TAPS = "red_taps.h5"
"""Arrays of red taps, kept for whoever explores a run: what was compared, as both sides had it."""

BUDGET, OF_ALL = 64 * 2**20, 2**30
"""Bytes of red taps in all, and of all taps, before compression; a tap that does not fit any more is left out."""


@dataclass(frozen=True, eq=False)
class RedTap:
    """One tap that was kept: where, which sides, and their arrays; differences are candidate minus reference."""

    rung: str
    place: str
    side: str
    against: str
    candidate: NDArray[Any]
    reference: NDArray[Any]


_kept: ContextVar[tuple[list[RedTap], bool]] = ContextVar("kept")


@contextmanager
def keeping(kept: list[RedTap], every: bool = False) -> Iterator[None]:
    """While this is open, :func:`keep` adds red taps to `kept`, or `every` tap."""
    token = _kept.set((kept, every))
    try:
        yield
    finally:
        _kept.reset(token)


def keep(tap: RedTap, red: bool) -> None:
    """Keep the arrays of a tap, if somebody asks for them and they fit."""
    kept, every = _kept.get(([], False))
    if (red or every) and sum(2 * one.candidate.nbytes for one in (*kept, tap)) <= (OF_ALL if every else BUDGET):
        kept.append(tap)


def save_taps(path: Path, taps: list[RedTap]) -> None:
    """Write red taps to compressed HDF5, whole or not at all."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for number, tap in enumerate(taps):
            group = file.create_group(f"{number:06}")
            for name, value in asdict(tap).items():
                if isinstance(value, str):
                    group.attrs[name] = value
                else:  # what has no shape cannot be compressed
                    group.create_dataset(name, data=np.atleast_1d(value), compression="gzip", shuffle=True)


def load_taps(path: Path) -> list[RedTap]:
    """Read what :func:`save_taps` wrote; nothing where there is no such file."""
    if not path.is_file():
        return []
    with h5py.File(path, "r") as file:
        return [RedTap(**{**group.attrs, **{name: np.array(group[name]) for name in group}}) for group in file.values()]
