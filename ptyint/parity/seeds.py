"""Rung 7: trained reconstructions over seeds, paired (same start, same batches) and independent.

``python -m ptyint.parity.seeds BACKEND FOLDER --gridsize 2 --pairs N --independent N`` trains and writes the stitched
objects; the rest of this module judges them, with no framework loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint.batches import GroupedScan
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ComparisonError, ConfigError
from ptyint.fixtures import load_fixture
from ptyint.gauge import GaugeResult
from ptyint.metrics import ObjectComparison, compare_objects
from ptyint.parity.cases import FIXTURE, moved_by_one_ulp
from ptyint.parity.equivalence import Equivalence, independent, paired
from ptyint.parity.ladder import Finding
from ptyint.parity.measure import Arrays, read, write
from ptyint.parity.tolerances import DRIFT
from ptyint.processes import follow_parent
from ptyint.reconstruction import scanned_region
from ptyint.weights import initial_weights

GRIDSIZES = (1, 2)
M = 12
METRICS = {"phase_correlation": "phase correlation", "amplitude_correlation": "amplitude correlation"}
GAUGE: dict[str, tuple[str, Callable[[GaugeResult], float]]] = {
    "logarithm of the scale": ("scale", lambda found: float(np.log(found.scale))),
    "shift in y / px": ("shift_px", lambda found: found.shift_px[0]),
    "shift in x / px": ("shift_px", lambda found: found.shift_px[1]),
    "phase / rad": ("phase_rad", lambda found: found.phase_rad),
    "phase ramp in y / rad": ("phase_rad", lambda found: found.ramp_rad_per_px[0] * found.aligned.shape[0]),
    "phase ramp in x / rad": ("phase_rad", lambda found: found.ramp_rad_per_px[1] * found.aligned.shape[1]),
}
"""What is removed from one backend's image before it is compared with the other's, with the name of its margin in
:class:`Plan`. Physics leaves it free, but not between two backends with the same start. A ramp: from edge to edge."""
MARGINS = ("correlation", "scale", "shift_px", "phase_rad")
FIRST_PAIR, FIRST_INDEPENDENT = 100, {"tensorflow": 200, "pytorch": 300}
"""Seeds: the same for both backends, and different ones."""


@dataclass(frozen=True)
class Plan:
    """How many seeds, and what counts as no difference; declared before anything is trained.

    Attributes
    ----------
    n_pairs, n_independent : int
    epochs : int
    correlation : float
        Margin for the difference of two backends' correlations with the truth.
    scale : float
        Margin for the mean logarithm of the amplitude scale between them.
    shift_px : float
        Margin for the mean shift between them.
    phase_rad : float
        Margin for the mean phase between them, and for the mean ramp from edge to edge of the image.

    Raises
    ------
    ConfigError
        A number that is not positive.
    """

    n_pairs: int = 5
    n_independent: int = 5
    epochs: int = 40
    correlation: float = 0.03
    scale: float = 0.05
    shift_px: float = 0.5
    phase_rad: float = 0.1

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; must be positive.")

    def margins(self) -> dict[str, float]:
        """Every margin by name, for a run's record."""
        return {f"margin of {name}": float(getattr(self, name)) for name in MARGINS}


def configuration(gridsize: int, seed: int, epochs: int) -> TrainingConfig:
    """One training of the narrow network on the integration fixture."""
    model = ModelConfig(gridsize=gridsize, n_filters_scale=1)
    return TrainingConfig(model=model, batch_size=4, nepochs=epochs, neighbor_count=6, probe_trainable=True, seed=seed)


# --- the process ---


def measure(name: str, folder: Path, gridsize: int, plan: Plan) -> None:
    """Train every seed; write ``FOLDER/BACKEND.seeds.GRIDSIZE.npz``: objects by ``kind/number``."""
    arrays: dict[str, NDArray[Any]] = {}
    for kind, number, seed in trainings(name, plan):
        config = configuration(gridsize, seed, plan.epochs)
        arrays[f"{kind}/{number}"] = _train(name, config, moved=kind == "moved")
    write(folder, f"{name}.seeds.{gridsize}", arrays)


def trainings(name: str, plan: Plan) -> Iterator[tuple[str, int, int]]:
    """Kind, number and seed of each training: pairs, pairs from weights moved by an ulp, independent ones."""
    for number in range(plan.n_pairs):
        yield "paired", number, FIRST_PAIR + number
        yield "moved", number, FIRST_PAIR + number
    for number in range(plan.n_independent):
        yield "independent", number, FIRST_INDEPENDENT.get(name, 400) + number


def _train(name: str, config: TrainingConfig, moved: bool) -> NDArray[np.complex64]:
    config = replace(config, backend=name)
    backend = dispatcher.select_backend(config)
    scan = load_fixture(FIXTURE)
    weights = initial_weights(config.model, scan.probe, config.seed)
    if moved:
        weights = moved_by_one_ulp(weights, config.seed)
    trained, _ = backend.train(GroupedScan.from_config(scan, config), config, weights)
    return dispatcher.infer(scan, config.applied(M=M), trained).stitched.object_.astype(np.complex64)


# --- the judge ---


@dataclass(frozen=True, eq=False)
class Images:
    """The first pair of a gridsize: each backend by name in the gauge of the truth, and their agreement."""

    truth: NDArray[np.complex64]
    with_truth: dict[str, ObjectComparison]
    agreement: ObjectComparison


@dataclass(frozen=True, eq=False)
class Seeds:
    """What came of all seeds of both backends.

    Attributes
    ----------
    plan : Plan
    reference, candidate : str
    values : dict
        ``(gridsize, kind, metric)`` to each backend's values over the seeds.
    tests : dict
        ``(gridsize, kind, what)`` to the equivalence test.
    residuals : dict
        Gridsize to the relative residuals between the backends, and of each backend's rerun.
    images : dict
        Gridsize to the first pair.
    problems : dict
        Gridsize to why nothing of it could be compared.
    """

    plan: Plan
    reference: str
    candidate: str
    values: dict[tuple[int, str, str], dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    tests: dict[tuple[int, str, str], Equivalence] = field(default_factory=dict)
    residuals: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    images: dict[int, Images] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)

    def findings(self) -> list[Finding]:
        """One finding for each of :func:`places`."""
        sides, found = (self.candidate, self.reference), []
        for case, tap in places():
            gridsize, kind = int(case.split()[1][0]), case.partition(", ")[2].split()[0]
            where = ("trained", case, "", tap)
            if gridsize in self.problems:
                found.append(Finding(*where, *sides, np.inf, 0.0, np.inf, self.problems[gridsize]))
            elif tap == RESIDUAL:
                between, reruns = self.residuals[gridsize]
                bound = DRIFT * float(reruns.max())
                error = float(between.max())
                found.append(Finding(*where, *sides, error, bound, error / bound if bound else np.inf))
            else:
                test = self.tests[gridsize, kind, tap]
                error = abs(test.mean)
                found.append(Finding(*where, *sides, error, test.margin, test.extent, str(test), decided=test.decided))
        return found


RESIDUAL = "relative residual between the images"


def places() -> list[tuple[str, str]]:
    """Case and tap of every finding of this rung, known before anything is trained."""
    found = []
    for gridsize in GRIDSIZES:
        for kind in ("paired", "independent"):
            found += [(f"gridsize {gridsize}, {kind} seeds", metric) for metric in METRICS.values()]
        found += [(f"gridsize {gridsize}, paired seeds", what) for what in (*GAUGE, RESIDUAL)]
    return found


def judge(folder: Path, reference: str, candidate: str, plan: Plan) -> Seeds:
    """Compare what both backends wrote.

    Parameters
    ----------
    folder : Path
    reference, candidate : str
    plan : Plan

    Returns
    -------
    Seeds
        With a problem for each gridsize that not both trained, or of which an image cannot be compared.
    """
    seeds = Seeds(plan, reference, candidate)
    for gridsize in GRIDSIZES:
        arrays = {name: read(folder, f"{name}.seeds.{gridsize}") for name in (reference, candidate)}
        try:
            _check(arrays)
            _compare(seeds, gridsize, arrays)
        except ComparisonError as error:
            seeds.problems[gridsize] = str(error)
    return seeds


def _check(arrays: Mapping[str, Arrays]) -> None:
    """Refuse what was not trained, and NaN anywhere: outside the scanned region it is a failure as well."""
    for name, images in arrays.items():
        if not images:
            raise ComparisonError(f"{name} trained nothing; its log says why.")
        for image, values in images.items():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                raise ComparisonError(f"{bad} values of {name}'s image {image} are NaN or infinite.")


def _compare(seeds: Seeds, gridsize: int, arrays: Mapping[str, Arrays]) -> None:
    """Enter all of one gridsize."""
    scan, plan = load_fixture(FIXTURE), seeds.plan
    truth = scan.object_
    assert truth is not None  # the fixture is simulated
    inside = scanned_region(scan.probe_positions_px, truth.shape)

    def compared(a: NDArray[Any], b: NDArray[Any]) -> ObjectComparison:
        return compare_objects(a, b, inside)

    with_truth = {name: compared(found["paired/0"], truth) for name, found in arrays.items()}
    for kind, n in (("paired", plan.n_pairs), ("independent", plan.n_independent)):
        values = {
            name: [compared(found[f"{kind}/{i}"], truth).values for i in range(n)] for name, found in arrays.items()
        }
        for metric, label in METRICS.items():
            of = {name: np.array([v[metric] for v in found], np.float64) for name, found in values.items()}
            ours, theirs = of[seeds.candidate], of[seeds.reference]
            if kind == "paired":
                test = paired(ours - theirs, plan.correlation)
            else:
                test = independent(ours, theirs, plan.correlation)
            seeds.values[gridsize, kind, label] = of
            seeds.tests[gridsize, kind, label] = test
    agreement = _pairs(seeds, gridsize, arrays, compared)
    seeds.images[gridsize] = Images(truth, with_truth, agreement)


def _pairs(
    seeds: Seeds, gridsize: int, arrays: Mapping[str, Arrays], compared: Callable[..., ObjectComparison]
) -> ObjectComparison:
    """Image against image: residual, and the gauge that had to be removed; returns the first comparison."""
    plan = seeds.plan
    between: list[ObjectComparison] = []
    reruns: list[float] = []
    for i in range(plan.n_pairs):
        images = {name: found[f"paired/{i}"] for name, found in arrays.items()}
        between.append(compared(images[seeds.candidate], images[seeds.reference]))
        for name, found in arrays.items():
            reruns.append(compared(found[f"moved/{i}"], images[name]).gauge.residual_after)
    gauges = [one.gauge for one in between]
    for what, (margin, of) in GAUGE.items():
        seeds.tests[gridsize, "paired", what] = paired([of(one) for one in gauges], getattr(plan, margin))
    seeds.residuals[gridsize] = np.array([one.residual_after for one in gauges]), np.array(reruns)
    return between[0]


def main() -> None:
    """Parse the command line and train."""
    follow_parent()
    parser = argparse.ArgumentParser(description="Train one backend from several seeds, for rung 7 of the ladder.")
    parser.add_argument("backend")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gridsize", type=int, required=True, choices=GRIDSIZES)
    for name, default in (("pairs", 5), ("independent", 5), ("epochs", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    measure(options.backend, options.folder, options.gridsize, Plan(options.pairs, options.independent, options.epochs))


if __name__ == "__main__":
    main()
