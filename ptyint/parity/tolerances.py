"""Every tolerance of the ladder, each beside its derivation. A run records them all: one that moved is in the ledger.

Rounding is counted in units of the machine epsilon of the precision (1.2e-7 and 2.2e-16): one number serves both, so
an error that does not shrink by their ratio, 5e8, cannot pass in double precision.
"""

from dataclasses import dataclass, replace

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


TOLERANCES = {
    "operator": Tolerance(
        50.0,
        "At most a few dozen roundings a value (an FFT of 64 x 64 makes 12 stages), that add in quadrature, with a "
        "factor of ten to spare.",
    ),
    "interpolation": Tolerance(
        400.0,
        "A position passes through [-1, 1] and back, so it is known to n_canvas / 2 roundings of a pixel: 70 epsilons "
        "of the difference of two neighbours, as large as the values of a random image; a factor of six to spare.",
    ),
    "forward": Tolerance(
        300.0,
        "L = 16 layers in a row, each a sum of K <= 9 * 128 * n_filters_scale products: sqrt(L K) = 136 roundings, "
        "half an epsilon each, with a factor of four to spare.",
    ),
    "layer": Tolerance(
        100.0,
        "One layer alone, given the reference's input: sqrt(K) = 34 roundings for n_filters_scale 1, with a factor of "
        "six to spare.",
    ),
    "model": Tolerance(
        20.0,
        "Of any pair of models, measured: an epsilon is one of what is there, or what moves of all weights and inputs "
        "by one epsilon make of it in either model (largest of the draws), if that is more. Up to 8 were seen.",
    ),
    "model's optimiser": Tolerance(
        1000.0,
        "A dozen roundings of the move; and 1 - beta**step, which Keras works out in the precision of the weights: "
        "1 / (1 - 0.999) epsilons, half of that under the root.",
    ),
    "loss": Tolerance(
        300.0,
        "The error of the expected counts, which the loss averages over pixels: no more than the forward pass itself.",
    ),
    "gradient": Tolerance(
        2000.0,
        "Twice the depth of the forward pass, and every weight's gradient a sum over B H W <= 8192 pixels of terms "
        "that cancel to about a tenth: 10 sqrt(2 L + 8192) = 900 roundings, half an epsilon each, a factor of four to "
        "spare.",
    ),
    "optimiser": Tolerance(
        100.0,
        "Adam written in NumPy from the backend's own gradients: a dozen roundings of the move, plus that of the "
        "weight itself; a factor of eight to spare. On top what Adam makes of as many epsilons of the gradient's root "
        "mean square: the step sums in another order than the trace, by up to 40 of them, and where a sum cancels to "
        "about Adam's own epsilon, that is divided by it.",
    ),
}
"""Tolerance by name."""

ULPS = 15.0
ULPS_DERIVATION = (
    "Some taps amplify rounding: a phase where next to no light falls, a loss that divides by next to nothing. What "
    "moves of all weights by one epsilon do there to the referee (largest of five draws) is the yardstick: every layer "
    "rounds a sum of some 1000 products by as much or a little more, on both sides. Up to 4.5 was seen."
)
"""What rounding may make of a tap that lies beyond its tolerance, over the change by moves of one epsilon."""

DRIFT = 3.0
DRIFT_DERIVATION = (
    "Training amplifies rounding, so the yardstick is the same backend rerun with its initial weights moved by one "
    "ulp: the largest drift of several draws and both backends. 1 would be rounding of the weights alone; 3 allows for "
    "few draws and for rounding in every layer."
)
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
