"""Two reconstructions of one scan: are they comparable, how good is each, and do they agree?"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptyint._atomic import write_text
from ptyint.errors import ComparisonError, ConfigError
from ptyint.evidence.checks import Check, Criterion, Relation
from ptyint.images.gauge import Mask
from ptyint.images.metrics import ObjectComparison, compare_objects
from ptyint.images.reconstruction import Reconstruction

NAME = "comparison.json"

SAME = ("scan_sha256", "groups_sha256", "initial_weights_sha256", "config", "M")
"""Facts that must be equal for the images to be comparable; `config` apart from the backend and the output folder."""

UNTOLD = "a backend's own workflow does not tell"

PARTS = ("phase", "amplitude")


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

    Examples
    --------
    >>> strict = Criteria(min_agreement=0.99)
    >>> [(one.relation, one.bound) for one in strict.declared(truth=False)][-2:]
    [('>=', 0.99), ('<=', 0.1)]
    >>> Criteria(max_difference=2)
    Traceback (most recent call last):
    ptyint.errors.ConfigError: max_difference is 2; must lie between 0 and 1.
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

    def declared(self, truth: bool, backends: Sequence[str] = ("tensorflow", "pytorch")) -> tuple[Criterion, ...]:
        """Every criterion on two reconstructions, in the order in which they are reported.

        `Criterion.parameter` is the field that holds the bound; with `truth`, the object that made the patterns is
        known.
        """
        bounded: list[tuple[str, Relation, str]] = []
        for part in PARTS if truth else ():
            for one in dict.fromkeys(backends):
                bounded.append((f"{part} correlation with the truth, {one}", ">=", f"min_{part}_correlation"))
            bounded.append((f"{part} correlations with the truth differ by", "<=", "max_difference"))
        bounded.append(("phase correlation of the two backends", ">=", "min_agreement"))
        bounded.append(("relative amplitude scale between them", "<=", "max_scale_difference"))
        facts = (*map(same, SAME), "two different backends")
        return (
            *map(Criterion.fact, facts),
            *(Criterion(name, relation, getattr(self, field), parameter=field) for name, relation, field in bounded),
        )


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
    criteria : Criteria
        What the measured values must keep.
    """

    reference: Reconstruction
    candidate: Reconstruction
    agreement: ObjectComparison
    truth: dict[str, ObjectComparison]
    criteria: Criteria = Criteria()

    @property
    def backends(self) -> tuple[Reconstruction, Reconstruction]:
        """Reference and candidate."""
        return self.reference, self.candidate

    @property
    def shared(self) -> list[str]:
        """Names of the facts, of `SAME`, that are known to be equal."""
        return [check.name for check in self.checks[: len(SAME)] if check.passed]

    @property
    def checks(self) -> list[Check]:
        """Every declared criterion with what was measured."""
        declared = self.criteria.declared(bool(self.truth), [one.backend for one in self.backends])
        measured = zip(declared, self._measured(), strict=True)
        return [
            one.measured(value, "" if value is not None else UNTOLD, available=value is not None)
            for one, value in measured
        ]

    @property
    def passed(self) -> bool:
        """True only when each check passed."""
        return all(check.passed for check in self.checks)

    def _measured(self) -> Iterator[float | None]:
        """What was measured for each declared criterion, in their order; 1 for a fact that holds, None: not known."""
        for fact in SAME:
            ours, theirs = (_comparable(one.facts[fact]) for one in self.backends)
            yield None if ours is None or theirs is None else float(ours == theirs)
        yield float(self.reference.backend != self.candidate.backend)
        for part in PARTS if self.truth else ():
            correlations = [one.correlation(part) for one in self.truth.values()]
            yield from correlations
            yield abs(correlations[0] - correlations[-1])
        yield self.agreement.correlation("phase")
        yield abs(float(np.log(self.agreement.gauge.scale)))

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON: verdict, checks, metrics, the gauge that was removed, facts of each backend."""
        comparisons = {**{f"{name} vs truth": c for name, c in self.truth.items()}, "agreement": self.agreement}
        return {
            "passed": self.passed,
            "checks": [check.to_mapping() for check in self.checks],
            "metrics": {name: c.values for name, c in comparisons.items()},
            "gauge_removed": {name: c.gauge.removed for name, c in comparisons.items()},
            "facts": {r.backend: r.facts for r in self.backends},
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``comparison.json`` into `folder`, whole or not at all."""
        return write_text(Path(folder) / NAME, json.dumps(self.to_mapping(), indent=2))


def compare(reference: Reconstruction, candidate: Reconstruction, criteria: Criteria | None = None) -> Comparison:
    """Compare two reconstructions of the same scan.

    Parameters
    ----------
    reference, candidate : Reconstruction
        From two backends; the candidate is brought into the reference's gauge, and both into that of the truth.
    criteria : Criteria, optional
        The bounds that the measured values must keep; None: the defaults.

    Returns
    -------
    Comparison
        With a check for each of ``criteria.declared(...)``, and everything that was measured.

    Raises
    ------
    ComparisonError
        The objects have different shapes, no common scanned pixel, or values that are not finite.

    Examples
    --------
    After one epoch two backends may agree perfectly, and both be wrong:

    >>> import dataclasses, tempfile, ptyint
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1), nepochs=1, backend="pytorch")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one = ptyint.reconstruct(ptyint.load_fixture("tiny-64"), config, folder)
    >>> other = dataclasses.replace(one, facts={**one.facts, "backend": "tensorflow"})
    >>> comparison = ptyint.compare(other, one)
    >>> round(comparison.agreement.correlation("phase"), 6), comparison.passed
    (1.0, False)
    """
    mask, pixel = common_region(reference, candidate), reference.facts["pixel_size_m"]
    agreement = compare_objects(candidate.object_, reference.object_, mask, pixel_size_m=pixel)
    truth: dict[str, ObjectComparison] = {}
    if reference.ground_truth is not None:
        for one in (reference, candidate):
            truth[one.backend] = compare_objects(one.object_, reference.ground_truth, mask, pixel_size_m=pixel)
    return Comparison(reference, candidate, agreement, truth, criteria or Criteria())


def common_region(reference: Reconstruction, candidate: Reconstruction) -> Mask:
    """Where (H, W) both were scanned; ComparisonError where their objects have different shapes."""
    if reference.object_.shape != candidate.object_.shape:
        raise ComparisonError(
            f"The objects have the shapes {reference.object_.shape} and {candidate.object_.shape}; "
            "compare two reconstructions of one scan."
        )
    return reference.scanned & candidate.scanned


def same(fact: str) -> str:
    """Name of the check that one of the facts `SAME` is equal on both sides."""
    return f"same {fact.removesuffix('_sha256').replace('_', ' ')}"


def _comparable(fact: Any) -> Any:
    return {k: v for k, v in fact.items() if k not in ("backend", "output_dir")} if isinstance(fact, dict) else fact
