"""Two reconstructions of one scan: are they comparable, how good is each, and do they agree?"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptyint._atomic import atomic_path
from ptyint.errors import ComparisonError, ConfigError
from ptyint.evidence.checks import Check
from ptyint.images.metrics import ObjectComparison, compare_objects
from ptyint.images.reconstruction import Reconstruction

NAME = "comparison.json"

SAME = ("scan_sha256", "groups_sha256", "initial_weights_sha256", "config", "M")
"""Facts that must be equal for the images to be comparable; `config` apart from the backend and the output folder."""


@dataclass(frozen=True)
class Criteria:
    """Bounds, declared before anything is measured.

    Attributes
    ----------
    min_phase_correlation, min_amplitude_correlation : float
        Of each backend with the ground truth, where there is one, after gauge removal in the scanned region.
    max_difference : float
        By which the two backends' correlations with the truth may differ.
    min_agreement : float
        Phase correlation of the two backends with each other.
    max_scale_difference : float
        Relative amplitude scale between the two reconstructions: a scale is part of the gauge, so it is removed
        before comparing, but two backends that need a different one are not doing the same thing.

    Raises
    ------
    ConfigError
        A bound lies outside [0, 1].
    """

    min_phase_correlation: float = 0.9
    min_amplitude_correlation: float = 0.8
    max_difference: float = 0.02
    min_agreement: float = 0.9
    max_scale_difference: float = 0.1

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value!r}; must lie between 0 and 1.")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that the comparison page shows.

    Attributes
    ----------
    reference, candidate : Reconstruction
    agreement : ObjectComparison
        The candidate in the gauge of the reference.
    truth : dict of str to ObjectComparison
        Backend to its comparison with the ground truth; empty where none is known.
    checks : list of Check
    """

    reference: Reconstruction
    candidate: Reconstruction
    agreement: ObjectComparison
    truth: dict[str, ObjectComparison]
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True only when there are checks and each passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def backends(self) -> tuple[Reconstruction, Reconstruction]:
        """Reference and candidate."""
        return self.reference, self.candidate

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON: verdict, checks, metrics, the gauge that was removed, facts of each backend."""
        comparisons = {**{f"{name} vs truth": c for name, c in self.truth.items()}, "agreement": self.agreement}
        return {
            "passed": self.passed,
            "checks": [check.to_mapping() for check in self.checks],
            "metrics": {name: c.values for name, c in comparisons.items()},
            "gauge_removed": {
                name: {
                    "phase_rad": c.gauge.phase_rad,
                    "ramp_rad_per_px": c.gauge.ramp_rad_per_px,
                    "scale": c.gauge.scale,
                    "shift_px": c.gauge.shift_px,
                    "residual_before": c.gauge.residual_before,
                    "residual_after": c.gauge.residual_after,
                }
                for name, c in comparisons.items()
            },
            "facts": {r.backend: r.facts for r in self.backends},
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``comparison.json`` into `folder`, whole or not at all."""
        target = Path(folder) / NAME
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(self.to_mapping(), indent=2))
        return target


def compare(reference: Reconstruction, candidate: Reconstruction, criteria: Criteria | None = None) -> Comparison:
    """Compare two reconstructions of the same scan.

    Parameters
    ----------
    reference, candidate : Reconstruction
        From two backends.
    criteria : Criteria, optional

    Returns
    -------
    Comparison

    Raises
    ------
    ComparisonError
        The objects have different shapes, no common scanned pixel, or values that are not finite.
    """
    bounds = criteria or Criteria()
    if reference.object_.shape != candidate.object_.shape:
        raise ComparisonError(
            f"The objects have the shapes {reference.object_.shape} and {candidate.object_.shape}; "
            "compare two reconstructions of one scan."
        )
    mask = reference.scanned & candidate.scanned
    pixel = reference.facts["pixel_size_m"]
    agreement = compare_objects(candidate.object_, reference.object_, mask, pixel_size_m=pixel)
    truth: dict[str, ObjectComparison] = {}
    if reference.ground_truth is not None:
        for one in (reference, candidate):
            truth[one.backend] = compare_objects(one.object_, reference.ground_truth, mask, pixel_size_m=pixel)
    checks = _contract_checks(reference, candidate) + _truth_checks(truth, bounds)
    scale = abs(float(np.log(agreement.gauge.scale)))
    checks += [
        Check(AGREEMENT, _value(agreement, "phase"), ">=", bounds.min_agreement),
        Check(SCALE, scale, "<=", bounds.max_scale_difference),
    ]
    return Comparison(reference, candidate, agreement, truth, checks)


def _value(comparison: ObjectComparison, part: str) -> float:
    value = comparison.values[f"{part}_correlation"]
    return float("nan") if value is None else value


def same(fact: str) -> str:
    """Name of the check that one of the facts `SAME` is equal on both sides."""
    return f"same {fact.removesuffix('_sha256').replace('_', ' ')}"


def check_names(truth: bool, backends: Sequence[str] = ("tensorflow", "pytorch")) -> list[str]:
    """Names of the checks of :func:`compare`, known before anything is measured.

    Parameters
    ----------
    truth : bool
        Whether the object that made the patterns is known.
    backends : sequence of str
        Reference and candidate.
    """
    with_truth = [
        name
        for part in ("phase", "amplitude")
        for name in (*(_with_truth(part, backend) for backend in backends), _truth_differs(part))
    ]
    return [*map(same, SAME), DISTINCT, *(with_truth if truth else ()), AGREEMENT, SCALE]


DISTINCT = "two different backends"
AGREEMENT = "phase correlation of the two backends"
SCALE = "relative amplitude scale between them"


def _with_truth(part: str, backend: str) -> str:
    return f"{part} correlation with the truth, {backend}"


def _truth_differs(part: str) -> str:
    return f"{part} correlations with the truth differ by"


def _contract_checks(reference: Reconstruction, candidate: Reconstruction) -> list[Check]:
    checks = []
    for name in SAME:
        a, b = (_comparable(one.facts[name]) for one in (reference, candidate))
        checks.append(Check.fact(same(name), a == b))
    return [*checks, Check.fact(DISTINCT, reference.backend != candidate.backend)]


def _comparable(fact: Any) -> Any:
    ignored = ("backend", "output_dir")
    return {k: v for k, v in fact.items() if k not in ignored} if isinstance(fact, dict) else fact


def _truth_checks(truth: dict[str, ObjectComparison], bounds: Criteria) -> list[Check]:
    checks = []
    for part, bound in (("phase", bounds.min_phase_correlation), ("amplitude", bounds.min_amplitude_correlation)):
        values = {backend: _value(comparison, part) for backend, comparison in truth.items()}
        checks += [Check(_with_truth(part, backend), value, ">=", bound) for backend, value in values.items()]
        if len(values) == 2:
            a, b = values.values()
            checks.append(Check(_truth_differs(part), abs(a - b), "<=", bounds.max_difference))
    return checks
