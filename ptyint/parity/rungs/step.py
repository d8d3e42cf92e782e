"""Rung 5: do the optimisers move the weights alike, up to the drift of rounding?

Steps against Adam in NumPy (`optimiser`), short trainings against the same steps by hand (`training`), and here: fifty
steps whose drift is measured by that of the same backend after a move by one ulp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.weights import Weights, initial_weights, weight_shapes
from ptyint.config import TrainingConfig
from ptyint.parity import problems as given
from ptyint.parity.compare import Arrays, Finding, Place, bounded, error_of, joined, over
from ptyint.parity.configurations import FIXTURE
from ptyint.parity.problems import STEPS, Problems
from ptyint.parity.rungs import optimiser, training
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.parity.tolerances import DRIFT, EARLY_STEPS, PRECISIONS
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture


def measure_steps(bench: Bench, part: str = "") -> Captured:
    """Weights along a trajectory, and how far reruns from initial weights moved by one ulp drift from it.

    Keys: ``gridsize/precision/step/<weight>``; ``gridsize/precision/moved/step``, the relative drift of all weights in
    each rerun.
    """
    arrays: Captured = {}
    for gridsize in (1, 2):
        for precision, n_draws in bench.problems.draws.items():
            with noted(arrays, f"{gridsize}/{precision}"):
                steps = _steps(bench, given.stepping(gridsize, bench.problems.seed), precision, n_draws)
                arrays |= {f"{gridsize}/{precision}/{key}": array for key, array in steps.items()}
    return arrays


def _steps(bench: Bench, config: TrainingConfig, precision: str, n_draws: int) -> Captured:
    scan = load_fixture(FIXTURE)
    at = STEPS[config.model.gridsize]
    batches = given.step_batches(GroupedScan.from_config(scan, config), precision, at[-1])
    start = initial_weights(config.model, scan.probe, config.seed)
    weights = {name: array.astype(precision) for name, array in start.items()}
    network = bench.backend.build(config, weights, None, precision)
    trajectory = _trajectory(network, weights, batches, config.learning_rate, at)
    arrays = {f"{step}/{name}": array for step, held in trajectory.items() for name, array in held.items()}
    drifts: dict[int, list[float]] = {step: [] for step in trajectory}
    for draw in range(1, n_draws + 1):
        rerun = _trajectory(network, given.moved_by_one_ulp(weights, draw), batches, config.learning_rate, at)
        for step, held in rerun.items():
            drifts[step].append(_drift(held, trajectory[step]))
    moved = {f"moved/{step}": np.array(drift) for step, drift in drifts.items()}
    return {**arrays, **moved}


def _trajectory(
    network: Any, start: Weights, batches: Sequence[Batch], learning_rate: float, at: Sequence[int]
) -> dict[int, Weights]:
    """Weights after the steps `at`."""
    network.reset(start)
    held: dict[int, Weights] = {}
    for number, batch in enumerate(batches, 1):
        network.train_step(batch, learning_rate)
        if number in at:
            held[number] = network.get_weights()
    return held


def _drift(weights: Weights, reference: Weights) -> float:
    """Relative distance of all weights together."""
    apart, size = (
        sum(float((np.abs(array.astype(np.float64)) ** 2).sum()) for array in arrays)
        for arrays in ([w - reference[name] for name, w in weights.items()], reference.values())
    )
    return float(np.sqrt(apart / size))


def judge_drift(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Drift between the backends, against each backend's own after a move of its initial weights by one ulp."""
    both = measured.both("steps")
    for gridsize in (1, 2):
        names = list(weight_shapes(given.stepping(gridsize).model, 1))
        for precision in [precision for precision in problems.draws if precision in problems.precisions]:
            for step in STEPS[gridsize]:
                where = Place("step", f"gridsize {gridsize}", precision, "drift", step=step)
                yield from _of_drift(where, measured.pair, both, f"{gridsize}/{precision}", names)


def _of_drift(
    where: Place, pair: tuple[str, str], both: Mapping[str, Arrays], key: str, names: Sequence[str]
) -> Iterator[Finding]:
    step = where.step
    ours, theirs = (joined(both[side], f"{key}/{step}", names) for side in pair)
    floors = [both[side].get(f"{key}/moved/{step}", np.empty(0)) for side in pair]
    if ours is None or theirs is None or not all(floor.size for floor in floors):
        note = next((error for side in pair if (error := error_of(both[side], key))), "incomplete")
        yield Finding.missing(where, pair, note)
        return
    drift, floor = _relative(ours, theirs), float(np.concatenate(floors).max())
    if where.precision == "float64" and step in EARLY_STEPS:
        yield bounded(where._replace(tap="weights"), pair, drift, EARLY_STEPS[step])
    note = f"{over(drift, floor):.2g} times the drift after a move by one ulp"
    yield bounded(where, pair, drift, DRIFT * floor, note)


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Relative distance of two vectors of weights; NaN where one is not finite."""
    return np.inf if a.shape != b.shape else float(np.linalg.norm(a - b) / np.linalg.norm(b))


TRAJECTORIES = Capture("steps", measure_steps, "trace", fresh=True)

RUNG = Rung(
    "step",
    "do the optimisers move the weights alike, up to the drift of rounding?",
    (optimiser.OPTIMISER, training.TRAINING, optimiser.LONG_RUN, TRAJECTORIES),
    (
        partial(optimiser.judge, optimiser.SHORT),
        training.judge,
        partial(optimiser.judge, optimiser.LONG),
        judge_drift,
    ),
    "trace",
    PRECISIONS,
)
