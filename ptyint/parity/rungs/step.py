"""Rung 5: do the optimisers move the weights alike? Steps from the backend's own weights, against Adam in NumPy.

Each step is held against Adam from the weights before it and the backend's own gradients: so the bound is the rounding
of one step, however long the way there. Where the rate is 0 weights and gradients stay while the moments move on: two
hundred steps need a handful of traces. Short trainings against the same steps by hand are in `training`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ptyint.backends import numpy_network
from ptyint.backends.weights import INTENSITY_SCALE, initial_weights, trainable_names, weight_shapes
from ptyint.config import TrainingConfig
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, bounded, compare, difference, error_of, joined, over
from ptyint.parity.configurations import CASES, FIXTURE, OUTSIDE, configured, inputs_of, with_biases
from ptyint.parity.problems import Network, Problems, moved_by_one_ulp
from ptyint.parity.rungs import training
from ptyint.parity.rungs.forward import variant
from ptyint.parity.rungs.gradient import cancelling
from ptyint.parity.rungs.rung import UNSUPPORTED, Bench, Capture, Captured, Measured, Rung, noted, stored
from ptyint.parity.tolerances import DRIFT, EARLY_STEPS, PRECISIONS, TOLERANCES
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture


@dataclass(frozen=True)
class Steps:
    """Steps from one start.

    Attributes
    ----------
    config : TrainingConfig
    rates : tuple of float
        Learning rate of each step.
    groups : tuple of tuple of int
        Batches, taken in turn.
    precision : str
    typical : bool
        Judge the median over the steps. In single precision rounding moves one activation in 1e6 over the kink of its
        ReLU, here and there, and with it the gradient of a layer; what is wrong with single precision is so everywhere.
    """

    config: TrainingConfig
    rates: tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]
    precision: str = "float64"
    typical: bool = False


def _stepping(gridsize: int, **settings: Any) -> TrainingConfig:
    return configured({"gridsize": gridsize, "probe_trainable": True, "seed": 1, **settings})


def _sparse(n_steps: int, at: tuple[int, ...], rate: float) -> tuple[float, ...]:
    return tuple(rate if step in at else 0.0 for step in range(1, n_steps + 1))


SMOOTH = _stepping(1, adam_epsilon=1.0)
"""Adam's epsilon as large as gradients are: what a step makes of them is then no larger than their rounding."""

ADAM: dict[str, float] = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-3}
"""Every setting of the optimiser, with another value than the usual one."""

STILL = _stepping(1, probe_trainable=False, intensity_scale_trainable=False, **ADAM)
SHORT = {
    name: Steps(config, (1e-3, 5e-4, 2e-3), (tuple(range(first)), (2, 3), (4,)))
    for name, config, first in (("all move", _stepping(2), 2), ("probe and scale stay", STILL, STILL.batch_size))
}
"""One first batch is as large as the default: what depends on its size shows between the two after that step."""
LONG = {
    "200 steps": Steps(SMOOTH, _sparse(200, (1, 2, 50, 120, 200), 1e-2), ((0,), (5,))),
    "single precision": Steps(SMOOTH, (1e-2,) * 9, ((0,), (5,), (9,)), "float32", typical=True),
}


OWN, MOVED, GIVEN, FAR = HOWS = (
    "own gradients", "from weights moved by an ulp", "the reference's gradients", "three steps, no epsilon",
)  # fmt: skip
"""From what a network that is watched from outside makes its first step, or three."""

FACTORS = (1e9, -3e8, 5e8)
"""Of the reference's gradients in three steps, beside which no epsilon counts: what is left of Adam is its averages."""

DIVERGED = "loss of weights that are NaN"
"""Training must see it, to stop: a backend that makes a number of it would train on, and save what it has."""


def measure(bench: Bench, names: Mapping[str, Steps]) -> Captured:
    """Weights around the steps that move them, and the gradients of every step.

    Keys: ``name/before/step/<weight>`` and ``name/after/step/<weight>`` of each step with a rate, the first being 1;
    ``name/loss/step``; ``name/traced/number/<weight>``, ``.../terms/<weight>`` (see :func:`cancelling`) and
    ``.../loss``; ``name/trace of each step``; ``name/precision/seconds``; ``name/`` and `DIVERGED`.
    """
    arrays: Captured = {}
    for name, steps in names.items():
        with noted(arrays, name):
            arrays |= {f"{name}/{key}": array for key, array in _made(bench, steps).items()}
    return arrays


def _made(bench: Bench, steps: Steps) -> Captured:
    scan, arrays = load_fixture(FIXTURE), Captured()
    data = GroupedScan.from_config(scan, steps.config)
    start = with_biases(initial_weights(steps.config.model, scan.probe, 1 + bench.problems.seed))
    weights = {key: array.astype(steps.precision) for key, array in start.items()}
    network = bench.backend.build(steps.config, weights, None, steps.precision)
    traces: dict[tuple[int, int], int] = {}
    order, seconds, version = [], [], 0
    batches = [data.batch(np.array(groups), steps.precision) for groups in steps.groups]
    network.train_step(batches[-1], 1e-2)
    network.reset(weights)  # and is as just built
    for step, rate in enumerate(steps.rates, 1):
        number = (step - 1) % len(batches)
        if (number, version) not in traces:
            traces[number, version] = len(traces)
            traced = network.trace(batches[number])
            kept = {key: traced[f"gradient/{key}"] for key in weights if f"gradient/{key}" in traced}
            kept |= {f"terms/{key}": np.array(cancelling(traced, key) or 0.0) for key in kept}
            arrays |= {f"traced/{len(traces) - 1}/{key}": a for key, a in (kept | {"loss": traced["loss"]}).items()}
        order.append(traces[number, version])
        if rate:
            arrays |= {f"before/{step}/{key}": array for key, array in network.get_weights().items()}
        begun = time.perf_counter()
        arrays[f"loss/{step}"] = np.array(network.train_step(batches[number], rate))
        seconds.append(time.perf_counter() - begun)
        if rate:
            version += 1
            arrays |= {f"after/{step}/{key}": array for key, array in network.get_weights().items()}
    network.reset({**weights, INTENSITY_SCALE: np.array(np.nan, steps.precision)})
    arrays[DIVERGED] = np.array(network.train_step(batches[-1], 0.0))
    return arrays | {"trace of each step": np.array(order), f"{steps.precision}/seconds": np.array(seconds)}


def judge(names: Mapping[str, Steps], measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Each weight's move in each step with a rate against Adam in NumPy; and every loss that a step returns."""
    capture = OPTIMISER.name if names is SHORT else LONG_RUN.name
    for side, arrays in measured.both(capture).items():
        for name, steps in names.items():
            if steps.precision not in problems.precisions:
                continue
            try:
                yield from _against_adam(side, arrays, name, steps)
            except KeyError:
                where, why = Place("step", name, steps.precision, "optimiser"), error_of(arrays, name)
                known = Finding.unavailable if why.startswith(UNSUPPORTED) else Finding.missing
                yield known(where, (side, REFEREE), why.removeprefix(UNSUPPORTED) or "incomplete")


def judge_between(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """All weights of the two backends after so few steps that training has not amplified rounding yet."""
    if "float64" not in problems.precisions:
        return
    both = measured.both("optimiser")
    for name, steps in SHORT.items():
        for step, bound in EARLY_STEPS.items():
            where = Place("step", name, "float64", "weights", step=step)
            weights = list(weight_shapes(steps.config.model, 1))
            ours, theirs = (joined(both[side], f"{name}/after/{step}", weights) for side in measured.pair)
            if ours is None or theirs is None:
                note = next((why for one in both.values() if (why := error_of(one, name))), "incomplete")
                yield Finding.missing(where, measured.pair, note)
            else:
                yield bounded(where, measured.pair, difference(ours, theirs).norm, bound)


def _against_adam(side: str, arrays: Arrays, name: str, steps: Steps) -> list[Finding]:
    """All of one case; a KeyError where one of its arrays is missing."""
    shapes, by_weight = weight_shapes(steps.config.model, 1), dict[str, list[Finding]]()
    moving = trainable_names(steps.config, list(shapes))
    traced = [
        {key: arrays[f"{name}/traced/{number}/{key}"].astype(np.float64) for key in moving}
        for number in range(int(arrays[f"{name}/trace of each step"].max()) + 1)
    ]
    rounded = [_rounded(one, arrays, f"{name}/traced/{i}/terms", steps.precision) for i, one in enumerate(traced)]
    adam, other = numpy_network.Adam(steps.config), numpy_network.Adam(steps.config)
    where, loss = Place("step", name, steps.precision, DIVERGED), float(arrays[f"{name}/{DIVERGED}"])
    told = Finding.fact(where, (side, REFEREE), not np.isfinite(loss), f"{loss}: training would go on")
    losses = []
    for step, (rate, number) in enumerate(zip(steps.rates, arrays[f"{name}/trace of each step"], strict=True), 1):
        keys = (f"{name}/loss/{step}", f"{name}/traced/{number}/loss")
        where = Place("step", name, steps.precision, "loss returned", step=step)
        wide = [{key: np.asarray(arrays[key], np.float64)} for key in keys]
        losses.append(compare(where, (side, side), (wide[0], wide[1]), keys, TOLERANCES["loss"]))
        before = {key: arrays[f"{name}/before/{step}/{key}"].astype(np.float64) for key in shapes} if rate else {}
        after, moved = adam.step(before, traced[number], rate), other.step(before, rounded[number], rate)
        for key, start in before.items():
            pair = {key: arrays[f"{name}/after/{step}/{key}"] - start}, {key: after[key] - start}
            amplified = difference(moved[key] - start, pair[1][key]).norm
            rounding = 2 * float(np.finfo(steps.precision).eps * np.linalg.norm(start))  # of the weights themselves
            amplified += over(rounding, float(np.linalg.norm(pair[1][key])))
            tolerance = TOLERANCES["optimiser"].widened(amplified, steps.precision)
            where = Place("step", name, steps.precision, "optimiser", key, step)
            found = compare(where, (side, REFEREE), pair, (key, key), tolerance)
            by_weight.setdefault(key, []).append(found)
    if steps.typical:
        middle = (len(losses) - 1) // 2
        return [told, *(sorted(found, key=lambda row: row.excess)[middle] for found in (*by_weight.values(), losses))]
    return [told, *(row for found in (*by_weight.values(), losses) for row in found)]


# --- networks that are watched from outside ---


def _single(problems: Problems) -> tuple[str, ...]:
    return tuple(str(one) for one in problems.networks if one.case in OUTSIDE and one.precision == "float32")


def own_step(bench: Bench, part: str) -> Captured:
    """The first step of a backend's own optimiser: as it is, from weights moved by an ulp; and with given gradients."""
    arrays, network = Captured(), Network.named(part)
    case = CASES[network.case]
    batch, weights, good = inputs_of(case, network.precision, bench.problems.seed)
    theirs = stored(bench.folder, bench.pair[0], "trace", part)
    given = {name: theirs[f"gradient/{name}"] for name in weights if f"gradient/{name}" in theirs}
    built = variant(bench.backend, case).build(case.config, weights, good, network.precision)
    for how in HOWS:
        built.reset(moved_by_one_ulp(weights, bench.problems.seed) if how == MOVED else weights)
        before = built.get_weights()
        for factor in {GIVEN: (1.0,), FAR: FACTORS}.get(how, ()):
            built.move({name: np.float32(factor) * g for name, g in given.items()}, case.config.learning_rate)
        if how in (OWN, MOVED):
            built.train_step(batch, case.config.learning_rate)
        arrays |= {f"{how}/{name}": array - before[name] for name, array in built.get_weights().items()}
    return arrays | {"optimiser": np.array(built.optimiser)}


def judge_own(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """The move of all weights by both optimisers; and what was declared trainable, and moves by exactly 0."""
    for part in _single(problems):
        network = Network.named(part)
        where, config = Place("step", *network, "own optimiser", step=1), CASES[network.case].config
        both = measured.both("own step", part)
        moving = trainable_names(config, list(weight_shapes(config.model, 1)))
        kernels = [name for name in moving if name.endswith(("kernel", "bias"))]
        for side, arrays in both.items():
            still = [name for name in moving if name not in kernels and not np.any(arrays.get(f"{OWN}/{name}", 1.0))]
            note = f"{', '.join(still)} declared trainable, and moved by exactly 0"
            yield Finding.fact(where._replace(tap="what moves"), (side, side), not still, note)
        candidate, reference = measured.pair
        moves: dict[Any, Any] = {(side, how): joined(both[side], how, kernels) for side in both for how in HOWS}
        if any(move is None for move in moves.values()):
            note = next((why for arrays in both.values() if (why := error_of(arrays, OWN))), "incomplete")
            yield Finding.missing(where, measured.pair, note)
            continue
        words = " against ".join(str(both[side]["optimiser"]) for side in measured.pair)
        ulp = max(difference(moves[side, MOVED], moves[side, OWN]).norm for side in both)
        for how in (GIVEN, FAR, OWN):
            error = difference(moves[candidate, how], moves[reference, how]).norm
            note = f"{words}; weights moved by an ulp make {ulp:.2g}"
            bound = TOLERANCES["model's optimiser"].at("float32") if how == FAR else DRIFT * ulp
            yield bounded(where._replace(operand=how), measured.pair, error, bound, note)


def _rounded(gradients: Arrays, arrays: Arrays, terms: str, precision: str) -> Captured:
    """Gradients a rounding off: of the terms of their sums, else of the root mean square; sums of zeros stay zero."""
    rng, size = np.random.default_rng(0), TOLERANCES["optimiser"].at(precision)
    moved: Captured = {}
    for name, gradient in gradients.items():
        step = size * max(float(np.linalg.norm(gradient)), float(arrays[f"{terms}/{name}"])) / np.sqrt(gradient.size)
        moved[name] = gradient + np.where(gradient == 0, 0.0, step * rng.choice((-1.0, 1.0), gradient.shape))
    return moved


OWN_STEP = Capture("own step", own_step, "trace", _single, after=("trace",))
OPTIMISER = Capture("optimiser", lambda bench, part: measure(bench, SHORT), "trace")
LONG_RUN = Capture("long", lambda bench, part: measure(bench, LONG), "trace", fresh=True)

RUNG = Rung(
    "step",
    "do the optimisers move the weights alike, step by step?",
    (OPTIMISER, OWN_STEP, training.TRAINING, LONG_RUN),
    (partial(judge, SHORT), judge_between, judge_own, training.judge, partial(judge, LONG)),
    "trace",
    PRECISIONS,
)
