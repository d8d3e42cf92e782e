"""Rung 7: trained reconstructions over seeds, paired (same start, same batches) and independent.

A backend that trains by a workflow of its own has neither start nor batches in common with another: its seeds are
independent ones.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint.backends.weights import initial_weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ComparisonError
from ptyint.images.gauge import GaugeResult
from ptyint.images.metrics import ObjectComparison, compare_objects
from ptyint.images.reconstruction import assemble, scanned_region
from ptyint.images.workflow import run
from ptyint.parity.capabilities import lacking
from ptyint.parity.compare import Arrays, Finding, Place, bounded, error_of
from ptyint.parity.configurations import FIXTURE
from ptyint.parity.equivalence import Equivalence, independent, paired
from ptyint.parity.problems import Plan, Problems, moved_by_one_ulp
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung
from ptyint.parity.tolerances import DRIFT
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

GRIDSIZES = (1, 2)
N, M = 64, 12
METRICS = {"phase_correlation": "phase correlation", "amplitude_correlation": "amplitude correlation"}
TESTS: dict[str, Callable[[NDArray[Any], NDArray[Any], float], Equivalence]] = {
    "paired": lambda ours, theirs, margin: paired(ours - theirs, margin),
    "independent": independent,
}
"""Kind of seeds to how the candidate's are held against the reference's pairs."""
GAUGE: dict[str, tuple[str, Callable[[GaugeResult], float]]] = {
    "logarithm of the scale": ("scale", lambda found: float(np.log(found.scale))),
    "shift in y / px": ("shift_px", lambda found: found.shift_px[0]),
    "shift in x / px": ("shift_px", lambda found: found.shift_px[1]),
    "phase / rad": ("phase_rad", lambda found: found.phase_rad),
    "phase ramp in y / px": ("ramp_px", lambda found: _displacement_px(found.ramp_rad_per_px[0])),
    "phase ramp in x / px": ("ramp_px", lambda found: _displacement_px(found.ramp_rad_per_px[1])),
}
"""What is removed from one backend's image before it is compared with the other's, with the name of its margin in
`Plan`. Physics leaves it free, but not between two backends with the same start."""
FIRST_PAIR, FIRST_INDEPENDENT = 100, 300
"""Seeds of the pairs, the same for both backends; and of the candidate's independent trainings."""


def configuration(gridsize: int, seed: int, nepochs: int) -> TrainingConfig:
    """One training of the narrow network on the integration fixture.

    A group of gridsize 1 is a quarter of the work, and tells less: twice as many groups a step and twice as many
    epochs, which is the same number of steps.
    """
    more = 2 if gridsize == 1 else 1
    return TrainingConfig(
        model=ModelConfig(N=N, gridsize=gridsize, n_filters_scale=1),
        batch_size=2 * more,
        nepochs=nepochs * more,
        neighbor_count=6,
        probe_trainable=True,
        seed=seed,
    )


def _displacement_px(ramp_rad_per_px: float) -> float:
    """By how many pixels a phase ramp over the object moves the diffraction pattern."""
    return ramp_rad_per_px * N / (2 * np.pi)


# --- in a worker ---


def measure(bench: Bench, part: str) -> Captured:
    """Train every seed of the gridsize that `part` is; the stitched objects by ``kind/number``."""
    arrays: Captured = {}
    carried, candidate = "weights" in bench.backend.capabilities, bench.name == bench.pair[1]
    for kind, number, seed in trainings(bench.problems.plan, candidate):
        config = configuration(int(part), seed, bench.problems.plan.nepochs)
        if carried:
            arrays[f"{kind}/{number}"] = _train(bench.name, config, moved=kind == "moved")
        elif "workflow" in bench.backend.capabilities and kind == ("independent" if candidate else "paired"):
            with tempfile.TemporaryDirectory(dir=bench.folder) as own:
                made = run(load_fixture(FIXTURE), replace(config, backend=bench.name), own, M)
            arrays[f"{kind}/{number}"] = made.object_
    return arrays


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
    unavailable : dict of str to str
        Kind of seeds to why there are none: a side trains nothing, or no two trainings begin alike.
    """

    plan: Plan
    reference: str
    candidate: str
    values: dict[tuple[int, str, str], dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    tests: dict[tuple[int, str, str], Equivalence] = field(default_factory=dict)
    residuals: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    images: dict[int, Images] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """One finding for each of `PLACES`."""
        sides = (self.candidate, self.reference)
        for gridsize, kind, tap in ASKED:
            where = Place("trained", _case(gridsize, kind), tap=tap)
            if kind in self.unavailable:
                yield Finding.unavailable(where, sides, self.unavailable[kind])
            elif gridsize in self.problems:
                yield Finding.missing(where, sides, self.problems[gridsize])
            elif tap == RESIDUAL:
                between, reruns = self.residuals[gridsize]
                yield bounded(where, sides, float(between.max()), DRIFT * float(reruns.max()))
            else:
                test = self.tests[gridsize, kind, tap]
                numbers = (abs(test.mean), test.margin, test.extent)
                yield Finding(*where, *sides, *numbers, str(test), decided=test.decided)


RESIDUAL = "relative residual between the images"

ASKED = tuple(
    (gridsize, kind, tap)
    for gridsize in GRIDSIZES
    for kind, taps in (
        ("paired", METRICS.values()),
        ("independent", METRICS.values()),
        ("paired", (*GAUGE, RESIDUAL)),
    )
    for tap in taps
)
"""Gridsize, kind of seeds and tap of every finding, known before anything is trained."""


def _case(gridsize: int, kind: str) -> str:
    return f"gridsize {gridsize}, {kind} seeds"


PLACES = tuple((_case(gridsize, kind), tap) for gridsize, kind, tap in ASKED)
"""Case and tap of every finding."""


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Equivalence of what both trained, over seeds."""
    return compared(measured, problems).findings()


@lru_cache(maxsize=1)
def compared(measured: Measured, problems: Problems) -> Seeds:
    """All images of both sides; with a problem for each gridsize of which an image is missing or cannot be compared."""
    candidate, reference = measured.pair
    idle = {side: offer for side, offer in measured.offers.items() if not offer.capabilities & {"weights", "workflow"}}
    missing, kinds = lacking(idle or measured.offers, "weights"), [*TESTS] if idle else ["paired"]
    seeds = Seeds(problems.plan, reference, candidate, unavailable=dict.fromkeys(kinds, missing) if missing else {})
    for gridsize in () if idle else GRIDSIZES:
        arrays = measured.both("seeds", str(gridsize))
        try:
            _check(arrays)
            _compare(seeds, gridsize, arrays)
        except ComparisonError as error:
            seeds.problems[gridsize] = str(error)
    return seeds


def _check(arrays: Mapping[str, Arrays]) -> None:
    """Refuse what was not trained, and NaN anywhere: outside the scanned region it is a failure as well."""
    for name, images in arrays.items():
        if error := error_of(images, ""):
            raise ComparisonError(f"{name} trained nothing: {error}; its log says why.")
        for image, values in images.items():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                raise ComparisonError(f"{bad} values of {name}'s image {image} are NaN or infinite.")


def _compare(seeds: Seeds, gridsize: int, arrays: Mapping[str, Arrays]) -> None:
    """Enter all of one gridsize."""
    scan, plan = load_fixture(FIXTURE), seeds.plan
    truth = scan.object_
    assert truth is not None  # the fixture is simulated
    compared = partial(compare_objects, mask=scanned_region(scan.probe_positions_px, truth.shape))
    with_truth = {
        (name, kind): [compared(array, truth) for image, array in images.items() if image.startswith(kind)]
        for name, images in arrays.items()
        for kind in TESTS
    }
    for metric, label in METRICS.items():
        values = {key: np.array([one.values[metric] for one in ones], np.float64) for key, ones in with_truth.items()}
        theirs = values[seeds.reference, "paired"]
        for kind, test in TESTS.items():
            if kind in seeds.unavailable:
                continue
            ours = values[seeds.candidate, kind]
            seeds.values[gridsize, kind, label] = {seeds.candidate: ours, seeds.reference: theirs}
            seeds.tests[gridsize, kind, label] = test(ours, theirs, plan.correlation)
    kind = "independent" if seeds.unavailable else "paired"
    first = {
        seeds.reference: with_truth[seeds.reference, "paired"][0],
        seeds.candidate: with_truth[seeds.candidate, kind][0],
    }
    agreement = compared(arrays[seeds.candidate][f"{kind}/0"], arrays[seeds.reference]["paired/0"])
    seeds.images[gridsize] = Images(truth, first, agreement)
    if seeds.unavailable:
        return
    pairs = [[arrays[side][f"paired/{i}"] for side in (seeds.candidate, seeds.reference)] for i in range(plan.n_pairs)]
    between = [compared(*pair) for pair in pairs]
    reruns = [
        compared(images[f"moved/{i}"], images[f"paired/{i}"]).gauge.residual_after
        for images in arrays.values()
        for i in range(min(plan.n_reruns, plan.n_pairs))
    ]
    gauges = [one.gauge for one in between]
    for what, (margin, of) in GAUGE.items():
        seeds.tests[gridsize, "paired", what] = paired([of(one) for one in gauges], getattr(plan, margin))
    seeds.residuals[gridsize] = np.array([one.residual_after for one in gauges]), np.array(reruns)


SEEDS = Capture("seeds", measure, "", lambda problems: tuple(map(str, GRIDSIZES)), fresh=True)

RUNG = Rung(
    "trained",
    "are trained reconstructions equivalent, over seeds?",
    (SEEDS,),
    (judge,),
    places=PLACES,
    profiles=("full",),
)
