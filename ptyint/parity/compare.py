"""The judge: reads what two backends wrote and finds, rung by rung, what differs. No framework is loaded.

Every function takes arrays (or a folder that holds them) and gives findings in the order in which data flow, so that
the first red one is where a divergence begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy_network
from ptyint.backends.numpy import COUNT_FLOOR
from ptyint.backends.weights import INTENSITY_SCALE, convolution_shapes, trainable_names, weight_shapes
from ptyint.config import ModelConfig, legacy_values, to_mapping
from ptyint.parity import problems, worker
from ptyint.parity.arrays import Difference, difference
from ptyint.parity.extras import expected_kind
from ptyint.parity.results import Finding
from ptyint.parity.tolerances import (
    DRIFT,
    EARLY_STEPS,
    PRECISIONS,
    SLOPE,
    TOLERANCES,
    Tolerance,
)
from ptyint.parity.worker import read

Arrays = Mapping[str, NDArray[Any]]
REFEREE = "referee"
INTERPOLATED = ("translate", "merge_patches", "cut_patches")
SLOPES = ("gridsize 1", "gridsize 2")
"""Cases whose gradient is held against finite differences."""


def networks(
    folder: Path, reference: str, candidate: str, profile: str, seed: int = 0, stepped: Sequence[str] = PRECISIONS
) -> list[Finding]:
    """Findings of rungs 2 to 5; parameters as for :func:`ptyint.parity.pairs.judge`."""
    pair = (reference, candidate)
    traced: list[Finding] = []
    for case in problems.PROFILES[profile]:
        for precision in PRECISIONS:
            key = f"{case}/{precision}"
            arrays = {name: read(folder, worker.trace_file(name, key)) for name in pair}
            given, aligned = (
                read(folder, worker.trace_file(f"{candidate}.{what}", key)) for what in ("given", "aligned")
            )
            traced += trace(case, precision, arrays, given, aligned, seed)
    found = sorted(traced, key=lambda f: ("forward", "loss", "gradient").index(f.rung))
    found += optimiser({name: read(folder, f"{name}.optimiser") for name in pair})
    found += training({name: read(folder, f"{name}.training") for name in pair})
    return found + step({name: read(folder, f"{name}.step") for name in pair}, stepped)


def prepare(profile: str, seed: int = 0) -> None:
    """Work out what the referee says of rungs 1 to 4, which the judge then has at once."""
    _operands(seed)
    for case in problems.PROFILES[profile]:
        refereed(case, seed)
    for case in SLOPES:
        _refereed_slopes(case, seed)


# --- helpers ---


def compare(
    where: tuple[str, str, str, str],
    sides: tuple[str, str],
    arrays: tuple[Arrays, Arrays],
    key: tuple[str, str],
    tolerance: Tolerance,
    scale: float | None = None,
) -> Finding:
    """One finding: ``arrays[0][key[0]]`` against ``arrays[1][key[1]]``; what is missing is not comparable."""
    precision = where[2]
    for side, found, name in zip(sides, arrays, key, strict=True):
        if name not in found:
            note = error_of(found, name) or f"{side} has no array of that name"
            return Finding(*where, *sides, np.inf, tolerance.at(precision), np.inf, note)
    apart = difference(found_as(arrays[0][key[0]], arrays[1][key[1]], sides[1]), arrays[1][key[1]], scale)
    return Finding(
        *where, *sides, apart.norm, tolerance.at(precision), ratio(apart, tolerance, precision), _note(apart)
    )


def found_as(candidate: NDArray[Any], reference: NDArray[Any], against: str) -> NDArray[Any]:
    """The referee is always double precision: only a backend's dtype is compared with a backend's."""
    if against != REFEREE:
        return candidate
    return candidate.astype(np.result_type(candidate, reference))


def ratio(apart: Difference, tolerance: Tolerance, precision: str) -> float:
    """Error over tolerance: the larger of the norm's and the worst element's."""
    bound = tolerance.at(precision)
    return max(apart.norm / bound, apart.largest / (bound * tolerance.elementwise))


def _note(apart: Difference) -> str:
    if apart.mismatch:
        return apart.mismatch
    return f"largest element {apart.largest:.2g} of the largest, at {list(apart.where)}" if apart.where else ""


def error_of(arrays: Arrays, key: str) -> str:
    """What the backend said instead of an array: the error of `key`, or of the pass that it belongs to."""
    if not arrays:
        return "nothing was written"
    parts = key.split("/")
    for end in range(len(parts), 0, -1):
        name = f"error/{'/'.join(parts[:end])}"
        if name in arrays:
            return str(arrays[name])
    return next((str(value) for name, value in arrays.items() if name.startswith("error/")), "")


def _fact(rung: str, case: str, tap: str, sides: tuple[str, str], holds: bool, note: str = "") -> Finding:
    return Finding(rung, case, "", tap, *sides, float(not holds), 0.0, 0.0 if holds else np.inf, "" if holds else note)


# --- rung 0 ---


def contract(found: Mapping[str, Arrays], seed: int = 0) -> list[Finding]:
    """Facts of both processes, against this one's."""
    expected = worker.bookkeeping(seed)
    expected["default backend"] = "tensorflow, tensorflow"
    for gridsize, config in problems.trainings(seed).items():
        held = {**worker.STALE, **legacy_values(config)}
        held = {key: value for key, value in held.items() if key != "backend" and value is not None}
        expected[f"params.cfg after the gate, gridsize {gridsize}"] = json.dumps(held, sort_keys=True)
        initial = f"initial weights, gridsize {gridsize}"
        expected[f"weights in the network, gridsize {gridsize}"] = expected[initial]
    findings = []
    for side, facts in found.items():
        frameworks = worker.FRAMEWORKS.get(side) or str(facts.get("frameworks declared", ""))
        own = {"backend that ran": side, "frameworks loaded": frameworks}
        for name, value in {**expected, **own}.items():
            if name in facts and str(facts[name]) == worker.UNAVAILABLE:
                where = ("contract", "", "", name)
                findings.append(Finding.unavailable(where, (side, REFEREE), f"{side} does not offer trace"))
                continue
            seen = str(facts[name]) if name in facts else error_of(facts, name) or "nothing was written"
            note = f"{_short(seen)}, and not {_short(value)}"
            findings.append(_fact("contract", "", name, (side, REFEREE), seen == value, note))
    return findings


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


# --- rung 1 ---


def operator(found: Mapping[str, Arrays], seed: int = 0) -> list[Finding]:
    """Every operator of each backend against the referee."""
    given, expected = _operands(seed)
    findings = []
    for label, (name, _) in given.items():
        tolerance = TOLERANCES["interpolation" if name in INTERPOLATED else "operator"]
        for precision in PRECISIONS:
            for side, arrays in found.items():
                where = ("operator", label.partition(", ")[2], precision, name)
                key = f"{precision}/{label}"
                findings.append(referee_finding(where, side, arrays, key, expected[label], tolerance))
    return findings


def referee_finding(
    where: tuple[str, str, str, str], side: str, arrays: Arrays, key: str, wide: NDArray[Any], tolerance: Tolerance
) -> Finding:
    """One result of an operator against the referee's, its dtype included."""
    array, kind = arrays.get(key), expected_kind(wide, where[2])
    if array is not None and array.dtype != kind:
        return Finding(*where, side, REFEREE, np.inf, 0.0, np.inf, f"dtype {array.dtype}, not {kind}")
    return compare(where, (side, REFEREE), (arrays, {key: wide}), (key, key), tolerance)


@cache
def _operands(seed: int) -> tuple[dict[str, tuple[str, tuple[Any, ...]]], dict[str, NDArray[Any]]]:
    given = problems.operands(seed)
    return given, problems.expected_operators(given)


# --- rungs 2 to 4 ---


def trace(
    case: str, precision: str, found: Mapping[str, Arrays], given: Arrays, aligned: Arrays, seed: int = 0
) -> list[Finding]:
    """One network: every tap, the loss, every gradient.

    In double precision each backend is also held against the referee.

    Parameters
    ----------
    case, precision : str
    found : dict of str to dict
        Traces of reference and candidate.
    given : dict
        What each tap of the candidate does on the reference's inputs; empty where that is not known.
    aligned : dict
        Single precision: the candidate's trace on the reference's side of every kink
        (:func:`ptyint.parity.worker.before_kinks`), whose gradients are compared.
    seed : int
    """
    reference, candidate = found
    config = problems.CASES[case].config
    truth = refereed(case, seed)
    taps, expected = list(truth), truth if precision == "float64" else {}
    sides, arrays = (candidate, reference), (found[candidate], found[reference])
    findings = []
    for tap in (*taps, *PREDICTED):
        rung = "loss" if tap in ("expected_counts", "loss") else "forward"
        where = (rung, case, precision, tap)
        tolerance = TOLERANCES[rung]
        size = loss_terms(case, seed) if tap == "loss" else None
        finding = compare(where, sides, arrays, (tap, tap), tolerance, size)
        findings.append(_located(finding, given, found[reference], size))
        target = "object_patches" if tap in PREDICTED else tap
        if target in expected:
            findings += [
                compare(where, (side, REFEREE), (one, expected), (tap, target), tolerance, size)
                for side, one in found.items()
            ]
    if precision == "float32":
        arrays = (aligned, found[reference])
    for name in backward_order(config.model, taps, trainable_names(config, list(weight_shapes(config.model, 1)))):
        key = f"gradient/{name}"
        where = ("gradient", case, precision, key)
        scale = cancelling(found[reference], name)
        finding = compare(where, sides, arrays, (key, key), TOLERANCES["gradient"], scale)
        findings.append(_located(finding, given, found[reference], scale))
    if precision == "float64":
        findings += gradients_against_the_referee(case, found, seed)
    return findings


@cache
def refereed(case: str, seed: int = 0) -> Arrays:
    """The referee's taps of a case; worked out once, since every comparison needs them."""
    batch, weights, good = problems.inputs_of(problems.CASES[case], "float64", seed)
    return numpy_network.forward(weights, batch, problems.CASES[case].config.model, good)


@cache
def loss_terms(case: str, seed: int = 0) -> float:
    """Mean size of the terms ``l`` and ``k log l`` of the loss: they may cancel, rounding does not."""
    batch, _, _ = problems.inputs_of(problems.CASES[case], "float64", seed)
    rate = refereed(case, seed)["expected_counts"] + COUNT_FLOOR
    return float(np.mean(rate + batch.counts * np.abs(np.log(rate))))


PREDICTED = ("predicted", "predicted, one by one")
"""Object patches by the path that production takes: of the whole batch, and group by group."""


def _located(finding: Finding, given: Arrays, reference: Arrays, scale: float | None = None) -> Finding:
    """With the ratio of the tap alone, on the reference's inputs."""
    tap = finding.tap
    if finding.holds or tap not in given or tap not in reference:
        return finding
    name = "layer"
    if tap in ("region", "object_patches"):
        name = "interpolation"
    if finding.rung == "gradient":
        name = "gradient"
    apart = difference(given[tap], reference[tap], scale)
    alone = ratio(apart, TOLERANCES[name], finding.precision)
    return Finding(**{**vars(finding), "local": alone})


def cancelling(arrays: Arrays, name: str) -> float | None:
    """Norm of the terms that the gradient of a bias or of the intensity scale sums; None for other gradients.

    The sum may cancel, rounding does not. The bias of the last phase layer turns the global phase, to which a
    diffraction pattern is blind: its gradient is next to nothing, and the rounding of 4096 terms is large beside it.
    That of the intensity scale is next to nothing where the patterns are as bright as they should be.
    """
    layer, _, kind = name.rpartition(".")
    if kind not in ("bias", INTENSITY_SCALE):
        return None
    tap = layer if kind == "bias" else "expected_intensity"
    if not all(key in arrays and np.isfinite(arrays[key]).all() for key in (tap, f"gradient/{tap}")):
        return None
    terms = np.abs(arrays[f"gradient/{tap}"].astype(np.float64))
    if kind == "bias":
        return float(np.linalg.norm(terms.sum(axis=(0, 2, 3))))
    return float((2 * terms * arrays[tap]).sum())  # d exp(2 w) / dw = 2 exp(2 w)


def backward_order(config: ModelConfig, taps: Sequence[str], weights: Sequence[str]) -> list[str]:
    """Taps and weights in the order in which the gradient reaches them, from the loss to the inputs."""
    layers = convolution_shapes(config)
    own = {f"{layer}.{part}": layer for layer in layers for part in ("kernel", "bias")}
    own |= {"probe.real": "probe", "probe.imag": "probe", "log_intensity_scale": "expected_intensity"}
    return [
        name for tap in reversed(list(taps)) for name in (tap, *(weight for weight in weights if own[weight] == tap))
    ]


def gradients_against_the_referee(case: str, found: Mapping[str, Arrays], seed: int) -> Iterator[Finding]:
    """The physics' gradient by hand, and the whole network's by finite differences."""
    config = problems.CASES[case].config
    batch, weights, good = problems.inputs_of(problems.CASES[case], "float64", seed)
    reference = next(iter(found.values()))
    for side, arrays in found.items():
        if "object_patches" in arrays:
            by_hand = numpy_network.physics_gradients(weights, arrays["object_patches"], batch, config.model, good)
            for name, array in by_hand.items():
                where = ("gradient", case, "float64", f"gradient/{name}")
                key, scale = (f"gradient/{name}", name), cancelling(reference, name)
                yield compare(where, (side, REFEREE), (arrays, {name: array}), key, TOLERANCES["gradient"], scale)
    if case in SLOPES:
        yield from _slopes(case, found, seed)


def _slopes(case: str, found: Mapping[str, Arrays], seed: int) -> Iterator[Finding]:
    for kind, (direction, slope) in _refereed_slopes(case, seed).items():
        for side, arrays in found.items():
            where, sides = ("gradient", case, "float64", f"finite differences, {kind}"), (side, REFEREE)
            gradients = {name: arrays.get(f"gradient/{name}") for name in direction}
            if any(g is None or g.shape != direction[name].shape for name, g in gradients.items()):
                yield Finding(*where, *sides, np.inf, SLOPE, np.inf, "a gradient is missing")
                continue
            terms = [float((gradients[name] * d).sum()) for name, d in direction.items()]
            error = abs(sum(terms) - slope) / (float(np.linalg.norm(terms)) + 0.1)
            yield Finding(*where, *sides, error, SLOPE, error / SLOPE)


@cache
def _refereed_slopes(case: str, seed: int) -> dict[str, tuple[Arrays, float]]:
    """Direction through the weights of each kind, and the slope of the referee's loss along it."""
    config = problems.CASES[case].config
    batch, weights, good = problems.inputs_of(problems.CASES[case], "float64", seed)
    return {
        kind: (direction, numpy_network.slope(weights, direction, batch, config.model, good))
        for kind, direction in numpy_network.directions(weights).items()
    }


# --- rung 5 ---


def optimiser(found: Mapping[str, Arrays]) -> list[Finding]:
    """Weights after each step against Adam in NumPy, from the backend's own gradients; and the loss that it returns."""
    findings = []
    for side, arrays in found.items():
        for case, config in worker.ADAM.items():
            names = list(weight_shapes(config.model, 1))
            n_steps = len(worker.ADAM_RATES)
            moving = trainable_names(config, names)
            complete = all(f"{case}/{s}/{n}" in arrays for s in range(n_steps + 1) for n in names) and all(
                f"{case}/{s}/gradient/{n}" in arrays for s in range(n_steps) for n in moving
            )
            if not complete:
                where = ("step", case, "float64", "optimiser")
                findings.append(
                    Finding(*where, side, REFEREE, np.inf, 0.0, np.inf, error_of(arrays, case) or "incomplete")
                )
                continue
            start = {name: arrays[f"{case}/0/{name}"] for name in names}
            gradients = [{name: arrays[f"{case}/{s}/gradient/{name}"] for name in moving} for s in range(n_steps)]
            expected = numpy_network.adam(start, gradients, worker.ADAM_RATES, config)
            rounded = numpy_network.adam(start, [_rounded(one) for one in gradients], worker.ADAM_RATES, config)
            for number, (after, moved) in enumerate(zip(expected, rounded, strict=True), 1):
                for name in names:
                    before, tap = start[name], f"optimiser: {name} after {number}"
                    moves = {tap: arrays[f"{case}/{number}/{name}"] - before}
                    reference = {tap: after[name] - before}
                    scale = float(np.linalg.norm(before)) or None
                    amplified = difference(moved[name] - before, reference[tap], scale).norm
                    tolerance = TOLERANCES["optimiser"].widened(amplified, "float64")
                    where = ("step", case, "float64", tap)
                    findings.append(compare(where, (side, REFEREE), (moves, reference), (tap, tap), tolerance, scale))
            for s in range(n_steps):
                keys = (f"{case}/{s}/loss", f"{case}/{s}/traced loss")
                where = ("step", case, "float64", f"loss that step {s + 1} returns")
                findings.append(compare(where, (side, side), (arrays, arrays), keys, TOLERANCES["loss"]))
    return findings


def _rounded(gradients: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Gradients a rounding off: of the terms of their sums, so of the root mean square; sums of zeros stay zero."""
    rng, size = np.random.default_rng(0), TOLERANCES["optimiser"].at("float64")
    moved = {}
    for name, gradient in gradients.items():
        step = size * np.sqrt(np.mean(np.abs(gradient) ** 2))
        moved[name] = gradient + np.where(gradient == 0, 0.0, step * rng.choice((-1.0, 1.0), gradient.shape))
    return moved


def training(found: Mapping[str, Arrays]) -> list[Finding]:
    """A short training through the dispatcher: against its own again, and against the same steps made by hand.

    These are compared with the other's before the first step: from then on a rounding may move an activation over the
    kink of its ReLU.
    """
    reference, candidate = found
    findings = []
    for gridsize in problems.TRAINING:
        case = f"training, gridsize {gridsize}"
        for side, arrays in found.items():
            ran = (
                str(arrays[f"{gridsize}/backend"])
                if f"{gridsize}/backend" in arrays
                else error_of(arrays, str(gridsize))
            )
            findings.append(_fact("step", case, "backend that ran", (side, side), ran == side, ran))
            for again in ("losses by hand", "losses again"):
                where = ("step", case, "float32", again)
                keys = (f"{gridsize}/losses", f"{gridsize}/{again}")
                findings.append(compare(where, (side, side), (arrays, arrays), keys, TOLERANCES["loss"]))
            where = ("step", case, "float32", "weights by hand")
            names = list(weight_shapes(problems.TRAINING[gridsize].model, 1))
            flat = {what: _flat(arrays, f"{gridsize}/{what}", names) for what in ("weights", "weights by hand")}
            trained = {what: array for what, array in flat.items() if array is not None}
            keys = ("weights", "weights by hand")
            findings.append(compare(where, (side, side), (trained, trained), keys, TOLERANCES["forward"]))
            where = ("step", case, "float32", "patches, one by one")
            keys = (f"{gridsize}/patches", f"{gridsize}/patches, one by one")
            findings.append(compare(where, (side, side), (arrays, arrays), keys, TOLERANCES["forward"]))
        for tap, tolerance in (("rates", TOLERANCES["operator"]), ("first loss", TOLERANCES["loss"])):
            where, key = ("step", case, "float32", tap), f"{gridsize}/{tap}"
            arrays_ = (found[candidate], found[reference])
            findings.append(compare(where, (candidate, reference), arrays_, (key, key), tolerance))
    return findings


def step(found: Mapping[str, Arrays], precisions: Sequence[str] = PRECISIONS) -> list[Finding]:
    """Drift between the backends, against each backend's own after a move of its initial weights by one ulp."""
    reference, candidate = found
    findings = []
    for gridsize in (1, 2):
        names = list(weight_shapes(problems.stepping(gridsize).model, 1))
        for precision in precisions:
            case, prefix = f"gridsize {gridsize}", f"{gridsize}/{precision}"
            sides = (candidate, reference)
            for number in problems.STEPS:
                where = ("step", case, precision, f"drift after {number}")
                weights = {side: _flat(found[side], f"{prefix}/{number}", names) for side in sides}
                floors = [_floors(found[side], f"{prefix}/moved/{number}") for side in sides]
                floor = np.concatenate([one for one in floors if one is not None])
                if any(w is None for w in weights.values()) or any(one is None for one in floors):
                    note = next((e for side in sides if (e := error_of(found[side], prefix))), "incomplete")
                    findings.append(Finding(*where, *sides, np.inf, 0.0, np.inf, note))
                    continue
                drift = relative(weights[candidate], weights[reference])
                if precision == "float64" and number in EARLY_STEPS:
                    bound = EARLY_STEPS[number]
                    early = ("step", case, precision, f"weights after {number}")
                    findings.append(Finding(*early, *sides, drift, bound, _over(drift, bound)))
                bound = DRIFT * float(floor.max())
                note = f"{drift / float(floor.max()):.2g} times the drift after a move by one ulp"
                findings.append(Finding(*where, *sides, drift, bound, _over(drift, bound), note))
    return findings


def relative(a: NDArray[Any] | None, b: NDArray[Any] | None) -> float:
    """Relative distance of two vectors of weights; NaN where one is not finite."""
    if a is None or b is None or a.shape != b.shape:
        return np.inf
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _over(value: float, bound: float) -> float:
    if not np.isfinite(value):
        return np.inf
    return value / bound if bound > 0 else (0.0 if value == 0 else np.inf)


def _flat(arrays: Arrays, prefix: str, names: Sequence[str]) -> NDArray[np.float64] | None:
    if any(f"{prefix}/{name}" not in arrays for name in names):
        return None
    return np.concatenate([arrays[f"{prefix}/{name}"].astype(np.float64).ravel() for name in names])


def _floors(arrays: Arrays, key: str) -> NDArray[np.float64] | None:
    return np.asarray(arrays[key], np.float64) if key in arrays else None


# --- rung 6 ---


def persistence(trained: Mapping[str, Arrays], loaded: Mapping[str, Arrays]) -> list[Finding]:
    """What each backend predicts from each one's file, in a new process, against what the trained model predicted."""
    findings = []
    tolerance = TOLERANCES["forward"]
    for by in trained:
        for side, arrays in loaded.items():
            for gridsize, config in problems.TRAINING.items():
                case = f"saved by {by}, gridsize {gridsize}"
                key = f"{by}/{gridsize}"
                held = str(arrays[f"{key}/config"]) if f"{key}/config" in arrays else error_of(arrays, key)
                asked = json.dumps(to_mapping(config.model), sort_keys=True)
                findings.append(_fact("persistence", case, "configuration", (side, by), held == asked, held))
                names = list(weight_shapes(config.model, 1))
                same = all(
                    f"{key}/weights/{n}" in arrays
                    and np.array_equal(arrays[f"{key}/weights/{n}"], trained[by].get(f"{gridsize}/weights/{n}", ()))
                    for n in names
                )
                findings.append(
                    _fact("persistence", case, "weights", (side, by), same, "not the weights that were trained")
                )
                where = ("persistence", case, "float32", "object patches")
                keys = (f"{key}/patches", f"{gridsize}/patches")
                findings.append(compare(where, (side, by), (arrays, trained[by]), keys, tolerance))
    return findings
