"""Canonical weights: name -> array, one layout for both backends, seeded initialisation in NumPy.

Layout: convolution kernels are ``(height, width, in, out)`` as in Keras, biases ``(out,)``; the probe is two real
arrays ``(modes, N, N)``; ``log_intensity_scale`` is a scalar, free of the scan's dose (:mod:`ptyint.scans.batches`).
Everything is real, so a gradient is an array of the same shape and optimisers treat every number alike.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.forward import normalise_probe, probe_mask

Weights = dict[str, NDArray[np.floating]]

OUTER_CHANNELS = 4
"""Last channels of a decoder, which feed the border branch and not the centre (as PtychoPINN's ``c_outer``)."""

AMPLITUDE_LEVEL = 0.5
"""Mean object amplitude that the initial intensity scale aims at: a sigmoid head then has headroom of two."""

HEADS = ("amplitude", "phase")
PROBE = ("probe.real", "probe.imag")
INTENSITY_SCALE = "log_intensity_scale"


def encoder_filters(config: ModelConfig) -> list[int]:
    """Widths of the encoder's blocks, outermost first: 128 s innermost, halved outwards, down to 8 px."""
    n_blocks = int(np.log2(config.N // 8))
    return [128 * config.n_filters_scale >> (n_blocks - 1 - i) for i in range(n_blocks)]


def decoder_filters(config: ModelConfig) -> list[int]:
    """Widths of a decoder's blocks, innermost first, ending with 32 s at N/2 px."""
    n_blocks = int(np.log2(config.N // 16))
    return [32 * config.n_filters_scale << (n_blocks - 1 - i) for i in range(n_blocks)]


def convolution_shapes(config: ModelConfig) -> dict[str, tuple[int, int, int, int]]:
    """Kernel shape ``(3, 3, in, out)`` of every convolution, in data-flow order.

    Parameters
    ----------
    config : ModelConfig

    Returns
    -------
    dict
        Layer name, such as ``encoder.0.conv1`` or ``phase.last``, to kernel shape.
    """
    shapes: dict[str, tuple[int, int, int, int]] = {}

    def convolution(name: str, n_in: int, n_out: int) -> int:
        shapes[name] = (3, 3, n_in, n_out)
        return n_out

    def block(prefix: str, n_in: int, n_filters: int) -> int:
        return convolution(f"{prefix}.conv2", convolution(f"{prefix}.conv1", n_in, n_filters), n_filters)

    width = config.n_channels
    for i, n_filters in enumerate(encoder_filters(config)):
        width = block(f"encoder.{i}", width, n_filters)
    n_out = config.n_channels if config.object_big else 1
    for head in HEADS:
        head_width = width
        for i, n_filters in enumerate(decoder_filters(config)):
            head_width = block(f"{head}.{i}", head_width, n_filters)
        convolution(f"{head}.last", head_width - OUTER_CHANNELS if config.probe_big else head_width, n_out)
        if config.probe_big:
            outer = block(f"{head}.outer", OUTER_CHANNELS, config.n_filters_scale * 2048 // config.N)
            convolution(f"{head}.outer.last", outer, n_out)
    return shapes


def weight_shapes(config: ModelConfig, n_modes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every canonical weight, in data-flow order.

    Parameters
    ----------
    config : ModelConfig
    n_modes : int
        Modes of the probe.

    Returns
    -------
    dict
        Weight name to shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in convolution_shapes(config).items():
        shapes |= {f"{layer}.kernel": shape, f"{layer}.bias": shape[-1:]}
    return {**shapes, **dict.fromkeys(PROBE, (n_modes, config.N, config.N)), INTENSITY_SCALE: ()}


def initial_log_intensity_scale(probe: ArrayLike) -> float:
    """Logarithm of the scale between predicted and normalised amplitudes before training.

    Normalised patterns have the energy ``(N / 2)**2`` on average. The scale is chosen so that an object of amplitude
    `AMPLITUDE_LEVEL` everywhere has it too: ``exp(2 w) * AMPLITUDE_LEVEL**2 * sum |p|**2 = (N / 2)**2`` (Parseval).

    Parameters
    ----------
    probe : array_like, (modes, N, N)
        The normalised probe, masked where the model masks it.

    Returns
    -------
    float
    """
    p = np.asarray(probe, np.complex128)
    energy = float((np.abs(p) ** 2).sum())
    return float(np.log(p.shape[-1] / 2 / AMPLITUDE_LEVEL) - 0.5 * np.log(energy))


def initial_weights(config: ModelConfig, probe: ArrayLike, seed: int) -> Weights:
    """Glorot-uniform kernels, zero biases, the normalised probe and the initial intensity scale.

    Parameters
    ----------
    config : ModelConfig
    probe : array_like of complex, (modes, N, N)
        As the scan gives it.
    seed : int
        Of the kernels.

    Returns
    -------
    dict of float32 arrays
        Glorot & Bengio 2010, eq. 16: uniform within ``sqrt(6 / (fan_in + fan_out))``, the fans counting 3 x 3 pixels.
    """
    generator = np.random.default_rng(seed)
    normalised = normalise_probe(probe, config.probe_scale)
    shapes = weight_shapes(config, len(normalised))
    weights: Weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for name, kernel in kernels(weights).items():
        limit = np.sqrt(6.0 / (9 * sum(kernel.shape[2:])))
        weights[name] = generator.uniform(-limit, limit, kernel.shape).astype(np.float32)
    weights["probe.real"] = normalised.real.astype(np.float32)
    weights["probe.imag"] = normalised.imag.astype(np.float32)
    illuminating = normalised * probe_mask(config.N) if config.probe_mask else normalised
    weights[INTENSITY_SCALE] = np.asarray(initial_log_intensity_scale(illuminating), np.float32)
    return weights


def trainable_names(config: TrainingConfig, names: list[str]) -> list[str]:
    """Those of `names` that the optimiser moves under `config`."""
    moving = {**dict.fromkeys(PROBE, config.probe_trainable), INTENSITY_SCALE: config.intensity_scale_trainable}
    return [name for name in names if moving.get(name, True)]


def probe_of(weights: Weights) -> NDArray[np.complexfloating]:
    """The (trained) probe as one complex array (modes, N, N)."""
    return np.asarray(weights["probe.real"] + 1j * weights["probe.imag"])


def scan_units(weights: Weights, probe: ArrayLike) -> tuple[float, NDArray[np.complex64]]:
    """From the network's units to those of the scan's own probe.

    The network's probe is normalised and its object scaled to match. This undoes it: with the returned probe, which
    has the energy of `probe`, and the object multiplied by the returned factor, ``|propagate(probe * object)|`` is the
    amplitude normalised to the mean energy ``(N / 2)**2``.

    Parameters
    ----------
    weights : dict
    probe : array_like of complex, (modes, N, N)
        As the scan gives it.

    Returns
    -------
    factor : float
    probe : ndarray of complex64, (modes, N, N)
    """
    network_probe = probe_of(weights)
    ratio = float(np.linalg.norm(network_probe) / np.linalg.norm(np.asarray(probe)))
    return float(np.exp(weights[INTENSITY_SCALE])) * ratio, (network_probe / ratio).astype(np.complex64)


def kernels(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Kernels of the convolutions among weights."""
    return {name: array for name, array in arrays.items() if array.ndim == 4}


def layers_apart(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> str:
    """How two networks' kernels differ in shape, in words; empty: weights can be carried from one to the other."""
    a, b = (Counter(array.shape for array in kernels(one).values()) for one in (ours, theirs))
    dense = [name for name, array in ours.items() if array.ndim == 2]
    words = [f"{len(dense)} dense layers ({dense[0]}, ...)"] if dense else []
    for side, more in (("this", a - b), ("the other", b - a)):
        shapes = [f"{n} of {' x '.join(map(str, shape))}" for shape, n in sorted(more.items())]
        words += [f"{side} one alone has {', '.join(shapes[:4])}{', ...' if shapes[4:] else ''}"] if shapes else []
    return "; ".join(words)


def weights_sha256(weights: Weights) -> str:
    """Digest over names, dtypes, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].astype(weights[name].dtype.newbyteorder("<"))
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
