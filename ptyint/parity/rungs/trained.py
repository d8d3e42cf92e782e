"""Rung 7: trained reconstructions over seeds, paired (same start, same batches) and independent.

``python -m ptyint.parity.rungs.trained BACKEND FOLDER --gridsize 2`` trains and writes the stitched objects; the rest
of this module judges them, with no framework loaded.
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
from ptyint.backends.weights import initial_weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ComparisonError, ConfigError
from ptyint.evidence.processes import follow_parent
from ptyint.images.gauge import GaugeResult
from ptyint.images.metrics import ObjectComparison, compare_objects
from ptyint.images.reconstruction import assemble, scanned_region
from ptyint.parity.equivalence import Equivalence, independent, paired
from ptyint.parity.problems import FIXTURE, moved_by_one_ulp
from ptyint.parity.results import Finding
from ptyint.parity.tolerances import DRIFT
from ptyint.parity.worker import Arrays, read, write
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

GRIDSIZES = (1, 2)
N, M = 64, 12
METRICS = {"phase_correlation": "phase correlation", "amplitude_correlation": "amplitude correlation"}
GAUGE: dict[str, tuple[str, Callable[[GaugeResult], float]]] = {
    "logarithm of the scale": ("scale", lambda found: float(np.log(found.scale))),
    "shift in y / px": ("shift_px", lambda found: found.shift_px[0]),
    "shift in x / px": ("shift_px", lambda found: found.shift_px[1]),
    "phase / rad": ("phase_rad", lambda found: found.phase_rad),
    "phase ramp in y / px": ("ramp_px", lambda found: _displacement_px(found.ramp_rad_per_px[0])),
    "phase ramp in x / px": ("ramp_px", lambda found: _displacement_px(found.ramp_rad_per_px[1])),
}
"""What is removed from one backend's image before it is compared with the other's, with the name of its margin in
:class:`Plan`. Physics leaves it free, but not between two backends with the same start."""
COUNTS = ("pairs", "reruns", "independent")
MARGINS = ("correlation", "scale", "shift_px", "phase_rad", "ramp_px")
FIRST_PAIR, FIRST_INDEPENDENT = 100, 300
"""Seeds of the pairs, the same for both backends; and of the candidate's independent trainings."""


@dataclass(frozen=True)
class Plan:
    """How many seeds, and what counts as no difference; declared before anything is trained.

    Attributes
    ----------
    n_pairs : int
        Seeds from which both backends train.
    n_reruns : int
        Of these, the first are trained once more by each backend, from weights moved by an ulp: the yardstick.
    n_independent : int
        Seeds of the candidate alone, against the reference's pairs: no seed is on both sides.
    epochs : int
        With gridsize 2; twice as many with gridsize 1.
    correlation : float
        Margin for the difference of two backends' correlations with the truth. Five seeds that scatter by 0.02 tell no
        smaller one: the 90 % interval alone reaches 0.024 to either side.
    scale : float
        Margin for the mean logarithm of the amplitude scale between them.
    shift_px : float
        Margin for the mean shift between them.
    phase_rad : float
        Margin for the mean phase between them.
    ramp_px : float
        Margin for the mean phase ramp between them, as the displacement of the diffraction pattern that it is.

    Raises
    ------
    ConfigError
        A number that is not positive.
    """

    n_pairs: int = 5
    n_reruns: int = 2
    n_independent: int = 5
    epochs: int = 40
    correlation: float = 0.05
    scale: float = 0.05
    shift_px: float = 0.5
    phase_rad: float = 0.2
    ramp_px: float = 0.25

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; must be positive.")

    def arguments(self, candidate: bool) -> list[str]:
        """What tells :func:`main` of this plan."""
        counts = {name: getattr(self, f"n_{name}") for name in COUNTS} | {"epochs": self.epochs}
        given = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
        return [*given, *(["--candidate"] if candidate else [])]

    def margins(self) -> dict[str, float]:
        """Every margin by name, for a run's record."""
        return {f"margin of {name}": float(getattr(self, name)) for name in MARGINS}


def configuration(gridsize: int, seed: int, epochs: int) -> TrainingConfig:
    """One training of the narrow network on the integration fixture.

    A group of gridsize 1 is a quarter of the work, and tells less: twice as many groups a step and twice as many
    epochs, which is the same number of steps.
    """
    more = 2 if gridsize == 1 else 1
    return TrainingConfig(
        model=ModelConfig(N=N, gridsize=gridsize, n_filters_scale=1),
        batch_size=2 * more,
        nepochs=epochs * more,
        neighbor_count=6,
        probe_trainable=True,
        seed=seed,
    )


def _displacement_px(ramp_rad_per_px: float) -> float:
    """By how many pixels a phase ramp over the object moves the diffraction pattern."""
    return ramp_rad_per_px * N / (2 * np.pi)


# --- the process ---


def measure(name: str, folder: Path, gridsize: int, plan: Plan, candidate: bool) -> None:
    """Train every seed; write ``FOLDER/BACKEND.seeds.GRIDSIZE.npz``: objects by ``kind/number``."""
    arrays: dict[str, NDArray[Any]] = {}
    for kind, number, seed in trainings(plan, candidate):
        config = configuration(gridsize, seed, plan.epochs)
        arrays[f"{kind}/{number}"] = _train(name, config, moved=kind == "moved")
    write(folder, f"{name}.seeds.{gridsize}", arrays)


def trainings(plan: Plan, candidate: bool) -> Iterator[tuple[str, int, int]]:
    """Kind, number and seed of each training: pairs, pairs from weights moved by an ulp, independent ones."""
    yield from (("paired", number, FIRST_PAIR + number) for number in range(plan.n_pairs))
    yield from (("moved", number, FIRST_PAIR + number) for number in range(min(plan.n_reruns, plan.n_pairs)))
    if candidate:
        yield from (("independent", number, FIRST_INDEPENDENT + number) for number in range(plan.n_independent))


def _train(name: str, config: TrainingConfig, moved: bool) -> NDArray[np.complex64]:
    config = replace(config, backend=name)
    backend: Any = dispatcher.select_backend(config)
    scan = load_fixture(FIXTURE)
    weights = initial_weights(config.model, scan.probe, config.seed)
    if moved:
        weights = moved_by_one_ulp(weights, config.seed)
    trained, _ = backend.train(GroupedScan.from_config(scan, config), config, weights)
    return assemble(dispatcher.infer(scan, config.applied(M=M), trained)).object_.astype(np.complex64)


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
    values = {
        name: {image: compared(array, truth).values for image, array in found.items()} for name, found in arrays.items()
    }
    for metric, label in METRICS.items():

        def of(name: str, kind: str, n: int, metric: str = metric) -> NDArray[np.float64]:
            return np.array([values[name][f"{kind}/{i}"][metric] for i in range(n)], np.float64)

        ours, theirs = (of(name, "paired", plan.n_pairs) for name in (seeds.candidate, seeds.reference))
        others = of(seeds.candidate, "independent", plan.n_independent)
        seeds.values[gridsize, "paired", label] = {seeds.candidate: ours, seeds.reference: theirs}
        seeds.values[gridsize, "independent", label] = {seeds.candidate: others, seeds.reference: theirs}
        seeds.tests[gridsize, "paired", label] = paired(ours - theirs, plan.correlation)
        seeds.tests[gridsize, "independent", label] = independent(others, theirs, plan.correlation)
    agreement = _pairs(seeds, gridsize, arrays, compared)
    seeds.images[gridsize] = Images(truth, with_truth, agreement)


def _pairs(
    seeds: Seeds, gridsize: int, arrays: Mapping[str, Arrays], compared: Callable[..., ObjectComparison]
) -> ObjectComparison:
    """Image against image: residual, and the gauge that had to be removed; returns the first comparison."""
    plan = seeds.plan
    between = [
        compared(arrays[seeds.candidate][f"paired/{i}"], arrays[seeds.reference][f"paired/{i}"])
        for i in range(plan.n_pairs)
    ]
    reruns = [
        compared(found[f"moved/{i}"], found[f"paired/{i}"]).gauge.residual_after
        for found in arrays.values()
        for i in range(min(plan.n_reruns, plan.n_pairs))
    ]
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
    parser.add_argument("--candidate", action="store_true", help="train the independent seeds as well")
    for name in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, f"n_{name}"))
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    options = parser.parse_args()
    plan = Plan(options.pairs, options.reruns, options.independent, options.epochs)
    measure(options.backend, options.folder, options.gridsize, plan, options.candidate)


if __name__ == "__main__":
    main()
