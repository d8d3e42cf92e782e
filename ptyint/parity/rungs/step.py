"""Rung 5: do the optimisers move the weights alike, up to the drift of rounding?

Three steps against Adam in NumPy, a short training through the dispatcher against the same steps by hand, and fifty
steps whose drift is measured by that of the same backend after a move by one ulp.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint.backends import bundle, numpy_network
from ptyint.backends.protocol import OnEpoch
from ptyint.backends.training import Schedule
from ptyint.backends.weights import Weights, initial_weights, trainable_names, weight_shapes
from ptyint.config import TrainingConfig
from ptyint.images.reconstruction import assemble
from ptyint.parity import problems as given
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, bounded, compare, difference, error_of, joined, over
from ptyint.parity.problems import FIXTURE, STEPS, Problems
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.parity.tolerances import DRIFT, EARLY_STEPS, PRECISIONS, TOLERANCES
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.scan import Scan

ADAM_RATES, ADAM_GROUPS = (1e-3, 5e-4, 2e-3), ((0, 1), (2, 3), (4,))
"""Learning rate of each step, and its batch: the last of them is smaller."""

ADAM = {
    "all move": given.stepping(2),
    "probe and scale stay": replace(
        given.stepping(1), probe_trainable=False, intensity_scale_trainable=False, adam_beta1=0.8, adam_epsilon=1e-3
    ),
}

# --- three steps ---


def measure_optimiser(bench: Bench, part: str = "") -> Captured:
    """Weights before and after each of three steps in double precision, and the gradients traced before each."""
    arrays: Captured = {}
    scan = load_fixture(FIXTURE)
    for name, config in ADAM.items():
        with noted(arrays, name):
            data = GroupedScan.from_config(scan, config)
            weights = given.with_biases(initial_weights(config.model, scan.probe, 1 + bench.problems.seed))
            network = bench.backend.build(config, weights, None, "float64")
            for step, groups in enumerate(ADAM_GROUPS):
                batch = data.batch(np.array(groups), "float64")
                arrays |= {f"{name}/{step}/{key}": w for key, w in network.get_weights().items()}
                traced = network.trace(batch)
                of_weights = {key: array for key, array in traced.items() if key.removeprefix("gradient/") in weights}
                arrays |= {f"{name}/{step}/{key}": gradient for key, gradient in of_weights.items()}
                arrays[f"{name}/{step}/traced loss"] = traced["loss"]
                arrays[f"{name}/{step}/loss"] = np.array(network.train_step(batch, ADAM_RATES[step]))
            arrays |= {f"{name}/{step + 1}/{key}": w for key, w in network.get_weights().items()}
    return arrays


def judge_optimiser(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Weights after each step against Adam in NumPy, from the backend's own gradients; and the loss that it returns."""
    if "float64" not in problems.precisions:
        return
    for side, arrays in measured.both("optimiser").items():
        for case, config in ADAM.items():
            try:
                yield from _against_adam(side, arrays, case, config)
            except KeyError:
                where = Place("step", case, "float64", "optimiser")
                yield Finding.missing(where, (side, REFEREE), error_of(arrays, case) or "incomplete")
                continue
            for step in range(len(ADAM_RATES)):
                where = Place("step", case, "float64", "loss returned", step=step + 1)
                keys = (f"{case}/{step}/loss", f"{case}/{step}/traced loss")
                yield compare(where, (side, side), (arrays, arrays), keys, TOLERANCES["loss"])


def _against_adam(side: str, arrays: Arrays, case: str, config: TrainingConfig) -> list[Finding]:
    """All of one case; a KeyError where one of its arrays is missing."""
    start = {name: arrays[f"{case}/0/{name}"] for name in weight_shapes(config.model, 1)}
    moving = trainable_names(config, list(start))
    gradients = [{n: arrays[f"{case}/{step}/gradient/{n}"] for n in moving} for step in range(len(ADAM_RATES))]
    expected = numpy_network.adam(start, gradients, ADAM_RATES, config)
    rounded = numpy_network.adam(start, [_rounded(one) for one in gradients], ADAM_RATES, config)
    findings = []
    for step, (after, moved) in enumerate(zip(expected, rounded, strict=True), 1):
        for name, before in start.items():
            move, reference = arrays[f"{case}/{step}/{name}"] - before, after[name] - before
            scale = float(np.linalg.norm(before)) or None
            amplified = difference(moved[name] - before, reference, scale).norm
            tolerance = TOLERANCES["optimiser"].widened(amplified, "float64")
            where, pair = Place("step", case, "float64", "optimiser", name, step), ({name: move}, {name: reference})
            findings.append(compare(where, (side, REFEREE), pair, (name, name), tolerance, scale))
    return findings


def _rounded(gradients: Mapping[str, NDArray[Any]]) -> Captured:
    """Gradients a rounding off: of the terms of their sums, so of the root mean square; sums of zeros stay zero."""
    rng, size = np.random.default_rng(0), TOLERANCES["optimiser"].at("float64")
    moved: Captured = {}
    for name, gradient in gradients.items():
        step = size * np.sqrt(np.mean(np.abs(gradient) ** 2))
        moved[name] = gradient + np.where(gradient == 0, 0.0, step * rng.choice((-1.0, 1.0), gradient.shape))
    return moved


# --- a short training ---

AGAIN = (
    ("losses by hand", "losses", "loss"),
    ("losses again", "losses", "loss"),
    ("weights by hand", "weights", "forward"),
    ("patches, one by one", "patches", "forward"),
)
"""What a backend makes a second time, of what it must be the same, and the tolerance."""


def measure_training(bench: Bench, part: str = "") -> Captured:
    """Train through the dispatcher, save; infer with the weights in memory. Then the same once more.

    Keys: ``gridsize/losses``, ``/rates``, ``/patches``, ``/patches, one by one``, ``/stitched``, ``/weights/<name>``,
    ``/losses again``, ``/inference seconds``. From the same batches stepped one by one, if it can be traced,
    also ``/first loss`` (1,), before any step; ``/losses by hand`` (epochs,); ``/weights by hand/<name>``.
    """
    arrays: Captured = {}
    scan = load_fixture(FIXTURE)
    for gridsize, plain in given.trainings(bench.problems.seed).items():
        config = replace(plain, backend=bench.name)
        with noted(arrays, str(gridsize)):
            outcome = _trained(bench, scan, config)
            if "trace" in bench.backend.capabilities:
                outcome |= _by_hand(bench.backend, scan, config)
            arrays |= {f"{gridsize}/{key}": value for key, value in outcome.items()}
    return arrays


def _trained(bench: Bench, scan: Scan, config: TrainingConfig) -> Captured:
    rates: list[float] = []
    result, inferred = train_and_apply(scan, config, lambda epoch: rates.append(epoch.learning_rate))
    again = dispatcher.train(scan, config)
    gridsize = config.model.gridsize
    bundle.save_bundle(bench.folder / f"{bench.name}-{gridsize}.zip", result.weights, config, result.backend)
    singly = given.inference(gridsize, backend=bench.name, batch_size=1)
    image = assemble(inferred)
    return {
        "backend": np.array(result.backend),
        "losses": result.history.losses,
        "losses again": again.history.losses,
        "rates": np.array(rates),
        "patches": image.object_patches,
        "patches, one by one": assemble(dispatcher.infer(scan, singly, result.weights)).object_patches,
        "stitched": image.object_,
        "inference seconds": np.array(inferred.seconds / inferred.data.groups.n_groups),
        **{f"weights/{name}": w for name, w in result.weights.items()},
    }


def train_and_apply(
    scan: Scan, config: TrainingConfig, on_epoch: OnEpoch | None = None
) -> tuple[dispatcher.TrainingResult, dispatcher.InferenceResult]:
    """Train through the dispatcher, as one of :func:`ptyint.parity.problems.trainings`; infer with what came of it."""
    result = dispatcher.train(scan, config, on_epoch)
    applied = given.inference(config.model.gridsize, backend=config.backend)
    return result, dispatcher.infer(scan, applied, result.weights)


def _by_hand(backend: Any, scan: Scan, config: TrainingConfig) -> Captured:
    """The loop of training without its bookkeeping: the keys of :func:`measure_training` that come of it."""
    data = GroupedScan.from_config(scan, config)
    network = backend.build(config, initial_weights(config.model, scan.probe, config.seed))
    generator, schedule = np.random.default_rng(config.seed), Schedule(config)
    of_batches, of_epochs = [], []
    for _ in range(config.nepochs):
        order, total = generator.permutation(data.groups.n_groups), 0.0
        for start in range(0, len(order), config.batch_size):
            index = order[start : start + config.batch_size]
            of_batches.append(network.train_step(data.batch(index), schedule.learning_rate))
            total += of_batches[-1] * len(index)
        of_epochs.append(total / len(order))
        schedule.should_stop(of_epochs[-1])
    weights = {f"weights by hand/{name}": w.astype(np.float32) for name, w in network.get_weights().items()}
    return {"first loss": np.array(of_batches[:1]), "losses by hand": np.array(of_epochs), **weights}


def judge_training(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """A short training through the dispatcher: against its own again, and against the same steps made by hand.

    These are compared with the other's before the first step: from then on a rounding may move an activation over the
    kink of its ReLU.
    """
    if "float32" not in problems.precisions:
        return
    both = measured.both("training")
    candidate, reference = measured.pair
    for gridsize in given.TRAINING:
        where = Place("step", f"training, gridsize {gridsize}", "float32")
        for side, arrays in both.items():
            yield from _against_its_own(where, side, arrays, gridsize)
        for tap, tolerance in (("rates", TOLERANCES["operator"]), ("first loss", TOLERANCES["loss"])):
            pair, key = (both[candidate], both[reference]), f"{gridsize}/{tap}"
            yield compare(where._replace(tap=tap), measured.pair, pair, (key, key), tolerance)


def _against_its_own(where: Place, side: str, arrays: Arrays, gridsize: int) -> Iterator[Finding]:
    key = f"{gridsize}/backend"
    ran = str(arrays[key]) if key in arrays else error_of(arrays, str(gridsize))
    yield Finding.fact(where._replace(precision="", tap="backend that ran"), (side, side), ran == side, ran)
    names = list(weight_shapes(given.TRAINING[gridsize].model, 1))
    vectors = {key: joined(arrays, key, names) for key in (f"{gridsize}/weights", f"{gridsize}/weights by hand")}
    whole = {**arrays, **{key: vector for key, vector in vectors.items() if vector is not None}}
    for again, what, tolerance in AGAIN:
        keys = (f"{gridsize}/{what}", f"{gridsize}/{again}")
        yield compare(where._replace(tap=again), (side, side), (whole, whole), keys, TOLERANCES[tolerance])


# --- drift ---


def measure_steps(bench: Bench, part: str = "") -> Captured:
    """Weights along a trajectory, and how far reruns from initial weights moved by one ulp drift from it.

    Keys: ``gridsize/precision/step/<weight>``; ``gridsize/precision/moved/step``, the relative drift of all weights in
    each rerun; ``gridsize/precision/seconds`` of each step of the trajectory.
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
    batches = given.step_batches(GroupedScan.from_config(scan, config), precision, STEPS[-1])
    start = initial_weights(config.model, scan.probe, config.seed)
    weights = {name: array.astype(precision) for name, array in start.items()}
    network = bench.backend.build(config, weights, None, precision)
    network.train_step(batches[0], config.learning_rate)  # compiled, where a backend compiles
    trajectory, seconds = _trajectory(network, weights, batches, config.learning_rate)
    arrays = {f"{step}/{name}": array for step, held in trajectory.items() for name, array in held.items()}
    drifts: dict[int, list[float]] = {step: [] for step in trajectory}
    for draw in range(1, n_draws + 1):
        rerun, _ = _trajectory(network, given.moved_by_one_ulp(weights, draw), batches, config.learning_rate)
        for step, held in rerun.items():
            drifts[step].append(_drift(held, trajectory[step]))
    moved = {f"moved/{step}": np.array(drift) for step, drift in drifts.items()}
    return {**arrays, "seconds": np.array(seconds), **moved}


def _trajectory(
    network: Any, start: Weights, batches: Sequence[Batch], learning_rate: float
) -> tuple[dict[int, Weights], list[float]]:
    """Weights after each of `ptyint.parity.problems.STEPS`, and the seconds of every step."""
    network.reset(start)
    held, seconds = {}, []
    for number, batch in enumerate(batches, 1):
        before = time.perf_counter()
        network.train_step(batch, learning_rate)
        seconds.append(time.perf_counter() - before)
        if number in STEPS:
            held[number] = network.get_weights()
    return held, seconds


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
            for step in STEPS:
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


OPTIMISER = Capture("optimiser", measure_optimiser, "trace")
TRAINING = Capture("training", measure_training, "weights")
TRAJECTORIES = Capture("steps", measure_steps, "trace", fresh=True)

RUNG = Rung(
    "step",
    "do the optimisers move the weights alike, up to the drift of rounding?",
    (OPTIMISER, TRAINING, TRAJECTORIES),
    (judge_optimiser, judge_training, judge_drift),
    "trace",
    PRECISIONS,
)
