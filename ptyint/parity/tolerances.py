"""Every tolerance of the ladder; each stands beside its derivation in ``tolerances.toml``.

A run records them all: one that moved is in the ledger. Rounding is counted in units of the machine epsilon of the
precision (1.2e-7 and 2.2e-16): one number serves both, so an error that does not shrink by their ratio, 5e8, cannot
pass in double precision.
"""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Tolerance:
    """A bound on rounding.

    Attributes
    ----------
    epsilons : float
        Bound on the relative norm of an error, in machine epsilons.
    derivation : str
    elementwise : float
        By how much the worst element, relative to the largest, may exceed that: the largest of 1e6 roughly normal
        errors lies five standard deviations out, twice that for errors that are not normal.
    """

    epsilons: float
    derivation: str
    elementwise: float = 10.0

    def at(self, precision: str) -> float:
        """The bound on the relative norm at a precision."""
        return self.epsilons * float(np.finfo(precision).eps)

    def widened(self, error: float, precision: str) -> "Tolerance":
        """As this, and on top an error that was amplified; one that is not finite adds nothing."""
        added = error / float(np.finfo(precision).eps) if np.isfinite(error) else 0.0
        return replace(self, epsilons=self.epsilons + added)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TOLERANCES = {name: Tolerance(**one) for name, one in _TABLE["tolerance"].items()}
"""Tolerance by name, as ``tolerances.toml`` has them."""

ULPS, ULPS_DERIVATION = _TABLE["yardstick"]["ulps"].values()
"""What rounding may make of a tap that lies beyond its tolerance, over the change by moves of one epsilon."""

DRIFT, DRIFT_DERIVATION = _TABLE["yardstick"]["drift"].values()
"""Drift between the backends over that yardstick."""

EARLY_STEPS = {1: 1e-11, 2: 1e-11}
"""Relative drift of all weights in double precision after so few steps that training has not amplified it yet."""

SLOPE = 1e-3
"""Finite differences of the referee's loss, by the better of two steps; rounding makes up to 3e-4 of the smaller."""


INITIAL_SPREAD = 2.5
"""Of a kernel's spread about Glorot's, times the root of its size: the spread of n uniform numbers is known to
0.45 / sqrt(n); five and a half times that."""


def by_name() -> dict[str, float]:
    """Every number of this table by name, for a run's record."""
    bounds = {f"{name} / epsilons": one.epsilons for name, one in TOLERANCES.items()}
    bounds |= {f"{name}, worst element over norm": one.elementwise for name, one in TOLERANCES.items()}
    bounds |= {f"weights after {step}": bound for step, bound in EARLY_STEPS.items()}
    return {
        **bounds,
        "drift over its yardstick": DRIFT,
        "finite differences": SLOPE,
        "rounding over moves by one epsilon": ULPS,
    }
