"""Two one-sided tests: is a difference small enough, given how much it scatters?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ptyint.errors import ConfigError

ALPHA = 0.05
"""Of each one-sided test; the interval below holds the true mean difference with a confidence of 1 - 2 alpha, 90 %."""


@dataclass(frozen=True)
class Equivalence:
    """A mean difference, its confidence interval, and the margin declared beforehand.

    Attributes
    ----------
    mean, low, high : float
    margin : float
    n : int
        Pairs, or the smaller of two samples.
    """

    mean: float
    low: float
    high: float
    margin: float
    n: int

    @property
    def equivalent(self) -> bool:
        """The whole interval lies within the margin: both one-sided tests reject (Schuirmann 1987)."""
        return -self.margin <= self.low and self.high <= self.margin

    @property
    def different(self) -> bool:
        """The whole interval lies beyond the margin; or it is NaN, which is never equivalent."""
        return bool(np.isnan(self.mean) or self.low > self.margin or self.high < -self.margin)

    @property
    def decided(self) -> bool:
        """False: the samples are too few, or scatter too much, to tell."""
        return self.equivalent or self.different

    @property
    def extent(self) -> float:
        """What the verdict rests on, over the margin: at most 1 unless different.

        The farther end of the interval where the samples are equivalent, the nearer one where they are different or
        where nothing can be told.
        """
        if np.isnan(self.mean):
            return float("nan")
        ends = (abs(self.low), abs(self.high))
        nearer = 0.0 if self.low <= 0 <= self.high else min(ends)
        return (max(ends) if self.equivalent else nearer) / self.margin

    def __str__(self) -> str:
        return f"{self.mean:+.2g} [{self.low:+.2g}, {self.high:+.2g}], margin {self.margin:g}, n = {self.n}"


def paired(differences: ArrayLike, margin: float) -> Equivalence:
    """Differences of pairs against zero: Student's t.

    Parameters
    ----------
    differences : array_like, (n,)
    margin : float
        Largest mean difference that counts as none; declared before the run.

    Raises
    ------
    ConfigError
        The margin is not positive.
    """
    d = _checked(differences, margin)
    if d.size < 2 or not np.isfinite(d).all():
        return _undecided(d, margin)
    error = float(d.std(ddof=1)) / math.sqrt(d.size)
    return _interval(float(d.mean()), error, d.size - 1, margin, d.size)


def independent(candidate: ArrayLike, reference: ArrayLike, margin: float) -> Equivalence:
    """Two samples of unequal variance: Welch's t.

    Parameters
    ----------
    candidate, reference : array_like, (n,), (m,)
    margin : float

    Raises
    ------
    ConfigError
        The margin is not positive.
    """
    a, b = _checked(candidate, margin), _checked(reference, margin)
    if min(a.size, b.size) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        mean = float(a.mean() - b.mean()) if a.size and b.size else np.nan
        return Equivalence(mean, -np.inf, np.inf, margin, min(a.size, b.size))
    va, vb = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    total = va + vb
    freedom = total**2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1)) if total else 1.0
    return _interval(float(a.mean() - b.mean()), math.sqrt(total), freedom, margin, min(a.size, b.size))


def _checked(values: ArrayLike, margin: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if not margin > 0:
        raise ConfigError(f"The margin is {margin!r}; must be positive, and declared before the run.")
    return np.asarray(values, np.float64).ravel()


def _undecided(d: np.ndarray[tuple[int, ...], np.dtype[np.float64]], margin: float) -> Equivalence:
    mean = float(d.mean()) if d.size else 0.0
    return Equivalence(mean, -np.inf, np.inf, margin, d.size)


def _interval(mean: float, error: float, freedom: float, margin: float, n: int) -> Equivalence:
    from scipy.stats import t

    reach = float(t.ppf(1 - ALPHA, freedom)) * error
    return Equivalence(mean, mean - reach, mean + reach, margin, n)
