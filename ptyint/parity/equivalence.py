"""Two one-sided tests: is a difference small enough, given how much it scatters?"""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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

    def power(self, n: int | None = None) -> float:
        """Chance that `n` pairs (as many as there are) show equivalence, were mean and scatter as here (Phillips)."""
        from scipy.stats import nct, t

        n = self.n if n is None else n
        if min(n, self.n) < 2 or not np.isfinite(self.high - self.low):
            return float("nan")
        error = (self.high - self.low) / 2 / t.ppf(1 - ALPHA, self.n - 1) * np.sqrt(self.n / n)
        ends = np.clip(np.array([self.mean - self.margin, self.mean + self.margin]) / max(error, 1e-12), -30, 30)
        low, high = nct.cdf(t.ppf([ALPHA, 1 - ALPHA], n - 1), n - 1, ends)
        return max(0.0, float(low - high))

    @property
    def needed(self) -> int | None:
        """Pairs for a power of 90 %, were mean and scatter as here; None: more than 1,000, or nobody knows."""
        n = bisect_left(range(1001), 0.9, lo=2, key=self.power)
        return n if n <= 1000 and self.power(n) >= 0.9 else None

    def __str__(self) -> str:
        return f"{self.mean:+.2g} [{self.low:+.2g}, {self.high:+.2g}], margin {self.margin:g}, n = {self.n}"


def paired(differences: ArrayLike, margin: float) -> Equivalence:
    """Differences of pairs (n,) against zero, by Student's t.

    `margin` is the largest mean difference that counts as none, declared before the run; one that is not positive is a
    ConfigError.
    """
    from scipy.stats import ttest_1samp

    d = np.asarray(differences, np.float64).ravel()
    return _tested(float(d.mean()) if d.size else 0.0, (d,), margin, lambda: ttest_1samp(d, 0.0))


def independent(candidate: ArrayLike, reference: ArrayLike, margin: float) -> Equivalence:
    """Two samples (n,), (m,) of unequal variance, by Welch's t; `margin` as for :func:`paired`."""
    from scipy.stats import ttest_ind

    a, b = np.asarray(candidate, np.float64).ravel(), np.asarray(reference, np.float64).ravel()
    mean = float(a.mean() - b.mean()) if a.size and b.size else np.nan
    return _tested(mean, (a, b), margin, lambda: ttest_ind(a, b, equal_var=False))


def _tested(mean: float, samples: Sequence[NDArray[np.float64]], margin: float, test: Callable[[], Any]) -> Equivalence:
    """The interval of a test, or an endless one where there is too little to test, or what is not finite."""
    if not margin > 0:
        raise ConfigError(f"The margin is {margin!r}; must be positive, and declared before the run.")
    n = min(sample.size for sample in samples)
    if n < 2 or not all(np.isfinite(sample).all() for sample in samples):
        return Equivalence(mean, -np.inf, np.inf, margin, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # samples that do not scatter at all
        low, high = test().confidence_interval(1 - 2 * ALPHA)
    return Equivalence(mean, float(low), float(high), margin, n)
