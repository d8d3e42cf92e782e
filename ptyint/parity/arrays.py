"""How far two arrays are apart: dtype, shape, NaN and infinity first, then values by norm and by the worst element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def difference(candidate: NDArray[Any], reference: NDArray[Any], scale: float | None = None) -> Difference:
    """Compare two arrays in double precision.

    Parameters
    ----------
    candidate, reference : ndarray
        Of the same dtype and shape, and finite; anything else is a mismatch, NaN on both sides included.
    scale : float, optional
        What the norm of the difference is measured by, where the norm of `reference` is smaller: the norm of the
        terms of a sum that cancels.

    Returns
    -------
    Difference
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
    return Difference(_over(norm, max(size, smallest)), _over(top, max(peak, smallest)), where)


def _over(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else np.inf


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
