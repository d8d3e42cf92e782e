"""Rung 4: the gradient of every tap and weight, against the other's, the physics by hand, and finite differences."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy_network
from ptyint.backends.weights import INTENSITY_SCALE, convolution_shapes, trainable_names, weight_shapes
from ptyint.config import ModelConfig
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, bounded, joined, over
from ptyint.parity.configurations import CASES, OUTSIDE, inputs_of
from ptyint.parity.problems import Network, Problems
from ptyint.parity.rungs.forward import INJECTED, TRACE, allowed, located, one_sided, seen, traced
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, stored
from ptyint.parity.tolerances import PRECISIONS, SLOPE

DIRECTION = 1e-4
"""One less the cosine of two gradients: a watched network's lies in single precision beyond the kink of some ReLUs."""

SLOPES = ("gridsize 1", "gridsize 2")
"""Cases whose gradient is held against finite differences."""


def before_kinks(arrays: Arrays, case: str) -> Captured:
    """Of a trace, what every ReLU and max-pooling decides by: the outputs of the convolutions.

    Given them, a backend's whole backward pass runs on the same side of every kink as the reference's. Without, single
    precision's rounding moves one in 1e6 activations to the other side, and its term joins or leaves the gradient.
    """
    return {tap: arrays[tap] for tap in convolution_shapes(CASES[case].config.model) if tap in arrays}


def _aligned(bench: Bench, part: str) -> Captured:
    """The candidate's trace on the reference's side of every kink."""
    network, theirs = Network.named(part), stored(bench.folder, bench.pair[0], "trace", part)
    return traced(bench, network, before_kinks(theirs, network.case))


def _in_single_precision(problems: Problems) -> tuple[str, ...]:
    return tuple(str(network) for network in problems.networks if network.precision == "float32")


ALIGNED = Capture("aligned", _aligned, "trace", _in_single_precision, after=("trace",), candidate_only=True)

# --- the judge ---


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Gradients of every network, from the loss to the inputs."""
    for network in problems.networks:
        yield from _between(network, measured, problems.seed)
        if network.precision == "float64":
            yield from _by_hand(network, measured, problems.seed)
            if network.case in SLOPES:
                yield from _along_directions(network, measured, problems.seed)


def _between(network: Network, measured: Measured, seed: int) -> Iterator[Finding]:
    config = CASES[network.case].config
    weights = trainable_names(config, list(weight_shapes(config.model, 1)))
    candidate, reference = measured.pair
    theirs = measured.of(reference, "trace", str(network))
    ours = measured.of(candidate, "aligned" if network.precision == "float32" else "trace", str(network))
    taps = [tap for tap in seen(network, measured, seed) if tap != "probe" or config.probe_trainable]
    if network.case in OUTSIDE:  # what moves is the next rung's to say
        taps, weights = ([one for one in names if f"gradient/{one}" in theirs] or names for names in (taps, weights))
    for name in backward_order(config.model, taps, weights):
        where, key, scale = Place("gradient", *network, name), f"gradient/{name}", cancelling(theirs, name)
        finding = allowed(where, measured.pair, (ours, theirs), (key, key), scale, seed)
        yield located(finding, key, measured, scale)
    whole = measured.of(candidate, "trace", str(network)) if network.case in OUTSIDE else ours
    yield _direction(Place("gradient", *network, "all weights", "direction"), measured.pair, (whole, theirs), weights)
    yield from one_sided("gradient", network, measured)


def _direction(where: Place, pair: tuple[str, str], both: tuple[Arrays, Arrays], names: Sequence[str]) -> Finding:
    """The gradient of all weights as one vector, whatever its length; that of a network that is dark is zero."""
    ours, theirs = (joined(arrays, "gradient", names) for arrays in both)
    if ours is None or theirs is None:
        return Finding.missing(where, pair, "a gradient is missing")
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(theirs))
    cosine = float(ours @ theirs / np.prod(lengths)) if all(lengths) else float(lengths[0] == lengths[1])
    return bounded(where, pair, 1 - cosine, DIRECTION, f"cosine {cosine:.7f}, {over(*lengths):.4g} times as long")


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
    own |= {"probe.real": "probe", "probe.imag": "probe", INTENSITY_SCALE: "expected_intensity"}
    return [
        name for tap in reversed(list(taps)) for name in (tap, *(weight for weight in weights if own[weight] == tap))
    ]


def _by_hand(network: Network, measured: Measured, seed: int) -> Iterator[Finding]:
    """The physics' gradient at each side's own object patches."""
    config = CASES[network.case].config
    batch, weights, good = inputs_of(CASES[network.case], "float64", seed)
    sides = measured.both("trace", str(network))
    reference = next(iter(sides.values()))
    for side, arrays in sides.items():
        if "object_patches" not in arrays:
            continue
        by_hand = numpy_network.physics_gradients(weights, arrays["object_patches"], batch, config.model, good)
        for name in trainable_names(config, list(by_hand)):
            array = by_hand[name]
            where, keys = Place("gradient", *network, name), (f"gradient/{name}", name)
            pair, scale = (arrays, {name: array}), cancelling(reference, name)
            yield allowed(where, (side, REFEREE), pair, keys, scale, seed)


def _along_directions(network: Network, measured: Measured, seed: int) -> Iterator[Finding]:
    """The whole network's gradient along a direction of each kind, against finite differences of the referee's loss."""
    for kind, (direction, expected) in slopes(network.case, seed).items():
        where = Place("gradient", *network, "finite differences", kind)
        for side, arrays in measured.both("trace", str(network)).items():
            gradients = {name: arrays.get(f"gradient/{name}") for name in direction}
            if any(g is None or g.shape != direction[name].shape for name, g in gradients.items()):
                yield Finding(*where, side, REFEREE, np.inf, SLOPE, np.inf, "a gradient is missing")
                continue
            terms = [float((gradients[name] * d).sum()) for name, d in direction.items()]
            error = float(np.abs(sum(terms) - expected).min()) / (float(np.linalg.norm(terms)) + 0.1)
            yield bounded(where, (side, REFEREE), error, SLOPE)


@lru_cache(len(CASES))
def slopes(case: str, seed: int) -> dict[str, tuple[Arrays, NDArray[np.float64]]]:
    """Direction through the weights of each kind, and the slope of the referee's loss along it, by each step."""
    config = CASES[case].config
    batch, weights, good = inputs_of(CASES[case], "float64", seed)
    return {
        kind: (direction, numpy_network.slopes(weights, direction, batch, config.model, good))
        for kind, direction in numpy_network.directions(weights).items()
    }


RUNG = Rung(
    "gradient",
    "is the gradient of every layer and weight the same?",
    (TRACE, INJECTED, ALIGNED),
    (judge,),
    "trace",
    PRECISIONS,
    shrinks=True,
)
