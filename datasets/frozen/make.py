"""Make the frozen numbers: what the code that both backends share must give, computed here by other means.

``python datasets/frozen/make.py`` writes `facts.json` and `arrays.npz` beside itself. Nothing of ptyint is imported:
every number comes from the formula, written as a plain loop in double precision, from a direct Fourier sum, from
scikit-image, or from a table. `ptyint.parity.frozen` evaluates each fact's expression and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from common import EXPECTED, FACTS, GIVEN, NAMES
from comparing import make_gauge, make_metrics
from judging import make_comparison, make_contract, make_workflow
from modelling import make_bundle, make_dispatcher, make_training, make_weights
from reading import make_files
from scanning import make_batches, make_forward, make_groups
from stitching import make_assembly, make_stitch

TOLERANCES = {
    "rounding": (
        1000.0,
        "Sums of up to 4096 terms, added in another order and cancelling to about a tenth: 10 sqrt(4096) roundings, "
        "with some to spare.",
    ),
    "single": (50.0, "Rounded to single precision once, from numbers that agree in double precision."),
    "iterated": (
        1e6,
        "An eigenvector is known to a few roundings over the gap between the two largest eigenvalues, "
        "which here is more than a hundredth. 2e-10 in double precision.",
    ),
    "converged": (
        2e10,
        "Gauss-Newton does not take a step below 1e-6, in pixels or rad over half the field; a step is about as large "
        "as the error that it would mend, and four of them come together here. 4e-6 in double precision. The "
        "last turn of phases that are relaxed is below 1e-6 rad likewise.",
    ),
    "interpolated": (
        5e12,
        "A cubic spline through a Gaussian of 6 px misses it by 5/384 * 3 / 6**4 = 3e-5 of its height, which is 5e-4 "
        "of its slope per pixel, and so of a shift; twice that. 1e-3 in double precision.",
    ),
}
"""Machine epsilons that an error may have, and why; see `ptyint.parity.tolerances`."""


def main(folder: Path) -> None:
    """Work everything out and write both files."""
    for make in (make_forward, make_groups, make_batches, make_weights, make_stitch, make_gauge, make_metrics,
                 make_training, make_bundle, make_files, make_assembly, make_dispatcher, make_comparison,
                 make_workflow, make_contract):  # fmt: skip
        make()
    tolerances = {name: {"epsilons": size, "derivation": why} for name, (size, why) in TOLERANCES.items()}
    values = {"tolerances": tolerances, "names": NAMES, "facts": FACTS}
    (folder / "facts.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    arrays = {f"given/{name}": array for name, array in GIVEN.items()}
    arrays |= {f"expected/{number}": array for number, array in EXPECTED.items()}
    np.savez_compressed(folder / "arrays.npz", **arrays)
    assert not [name for name in sys.modules if name.partition(".")[0] == "ptyint"]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
