"""The referee of a whole network: forward pass, loss, the physics' gradient and Adam in float64 NumPy.

Written from the description of the network (docs/training.md) and to be read; neither backend imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy as operators
from ptyint.backends.weights import INTENSITY_SCALE, OUTER_CHANNELS, decoder_filters, encoder_filters
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.batches import Batch
from ptyint.scans.forward import illuminate, probe_mask, propagate

Arrays = dict[str, NDArray[Any]]


def convolve(x: NDArray[Any], weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    """3 x 3 cross-correlation of (B, channels, H, W), zero-padded."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), (3, 3), (2, 3))
    B, channels, H, W = x.shape
    rows = windows.transpose(0, 2, 3, 4, 5, 1).reshape(B * H * W, 9 * channels)
    kernel = np.asarray(weights[f"{name}.kernel"], np.float64)
    y = rows @ kernel.reshape(9 * channels, -1) + weights[f"{name}.bias"]
    return np.asarray(y.reshape(B, H, W, -1).transpose(0, 3, 1, 2))


def forward(
    weights: Mapping[str, NDArray[Any]],
    batch: Batch,
    config: ModelConfig,
    good_pixels: NDArray[np.bool_] | None = None,
) -> Arrays:
    """Every tap of one forward pass by name, ``loss`` the last, as a backend's trace has them.

    Parameters
    ----------
    weights : dict
        Canonical weights.
    batch : Batch
    config : ModelConfig
    good_pixels : ndarray of bool, (N, N), optional

    Returns
    -------
    dict of float64 or complex128 arrays
    """
    taps: Arrays = {"inputs": np.asarray(batch.inputs, np.float64)}

    def block(prefix: str, x: NDArray[Any]) -> NDArray[Any]:
        for name in (f"{prefix}.conv1", f"{prefix}.conv2"):
            taps[name] = convolve(x, weights, name)
            taps[f"{name}.relu"] = x = operators.relu(taps[name])
        return x

    x = taps["inputs"]
    for i in range(len(encoder_filters(config))):
        taps[f"encoder.{i}.down"] = x = operators.downsample(block(f"encoder.{i}", x))
    for head, activation in (("amplitude", config.amp_activation), ("phase", "phase_head")):
        h = x
        for i in range(len(decoder_filters(config))):
            taps[f"{head}.{i}.up"] = h = operators.upsample(block(f"{head}.{i}", h))
        inner = h[:, :-OUTER_CHANNELS] if config.probe_big else h
        taps[f"{head}.last"] = convolve(inner, weights, f"{head}.last")
        taps[f"{head}.head"] = operators.OPERATORS[activation](taps[f"{head}.last"])
        patch = operators.pad_patch(taps[f"{head}.head"])
        if config.probe_big:
            up = operators.upsample(block(f"{head}.outer", h[:, -OUTER_CHANNELS:]))
            taps[f"{head}.outer.up"] = up
            taps[f"{head}.outer.last"] = border = convolve(up, weights, f"{head}.outer.last")
            patch = patch + operators.swish(border) * (1 - operators.center_mask(config.N))
        taps[head] = patch
    patches = taps["amplitude"] * np.exp(1j * taps["phase"])
    if config.gridsize > 1:
        taps["patches_before_merge"] = patches
        if config.object_big:
            region = operators.merge_patches(patches, batch.offsets_px, batch.n_canvas)
        else:
            margin = (batch.n_canvas - config.N) // 2
            region = np.pad(patches[:, 0], [(0, 0), (margin, margin), (margin, margin)])
        taps["region"] = region
        patches = operators.cut_patches(region, batch.offsets_px, config.N)
    taps["object_patches"] = patches
    return taps | observe(weights, patches, batch, config, good_pixels)


def observe(
    weights: Mapping[str, NDArray[Any]],
    patches: NDArray[Any],
    batch: Batch,
    config: ModelConfig,
    good_pixels: NDArray[np.bool_] | None = None,
) -> Arrays:
    """From object patches (B, C, N, N) to the loss: the taps of the physics."""
    probe = np.asarray(weights["probe.real"], np.float64) + 1j * np.asarray(weights["probe.imag"], np.float64)
    if config.probe_mask:
        probe = probe * probe_mask(config.N)
    taps: Arrays = {"probe": probe, "exit_wave": illuminate(probe, patches)}
    taps["far_field"] = propagate(taps["exit_wave"])
    taps["expected_intensity"] = operators.expected_intensity(taps["far_field"], weights[INTENSITY_SCALE])
    taps["expected_counts"] = batch.count_scale * taps["expected_intensity"]
    taps["loss"] = np.asarray(operators.poisson_nll(batch.counts, taps["expected_counts"], good_pixels))
    return taps


def physics_gradients(
    weights: Mapping[str, NDArray[Any]],
    patches: NDArray[Any],
    batch: Batch,
    config: ModelConfig,
    good_pixels: NDArray[np.bool_] | None = None,
) -> Arrays:
    """Gradient of the loss with respect to object patches, probe and intensity scale, by hand.

    The gradient of a complex array is ``dL/d(real) + i dL/d(imag)``. With l the expected counts plus the floor and n
    good pixels: ``dL/dl = (1 - k / l) / n``; the adjoint of the orthonormal FFT is its inverse.

    Returns
    -------
    dict
        ``object_patches`` (B, C, N, N) complex, ``probe.real`` and ``probe.imag`` (modes, N, N), and
        ``log_intensity_scale`` ().
    """
    taps = observe(weights, patches, batch, config, good_pixels)
    rate = taps["expected_counts"] + operators.COUNT_FLOOR
    good = np.broadcast_to(True if good_pixels is None else good_pixels, rate.shape)
    slope = np.where(good, 1 - np.asarray(batch.counts, np.float64) / rate, 0) / good.sum()
    gain = batch.count_scale * np.exp(2 * np.float64(weights[INTENSITY_SCALE]))
    far = 2 * gain * slope[:, :, None] * taps["far_field"]
    wave = np.fft.ifft2(np.fft.ifftshift(far, axes=(-2, -1)), norm="ortho")
    probe = (wave * np.conj(patches)[:, :, None]).sum(axis=(0, 1))
    if config.probe_mask:
        probe = probe * probe_mask(config.N)
    return {
        "object_patches": (wave * np.conj(taps["probe"])).sum(axis=2),
        "probe.real": probe.real,
        "probe.imag": probe.imag,
        INTENSITY_SCALE: np.asarray((2 * slope * taps["expected_counts"]).sum()),
    }


def slope(
    weights: Mapping[str, NDArray[Any]],
    direction: Mapping[str, NDArray[Any]],
    batch: Batch,
    config: ModelConfig,
    good_pixels: NDArray[np.bool_] | None = None,
    step: float = 2e-7,
) -> float:
    """Derivative of the loss along `direction` in the weights' space, by central differences."""
    losses = []
    for sign in (1, -1):
        moved = {
            name: np.asarray(w, np.float64) + sign * step * direction.get(name, 0.0) for name, w in weights.items()
        }
        losses.append(float(forward(moved, batch, config, good_pixels)["loss"]))
    return (losses[0] - losses[1]) / (2 * step)


def kind(name: str) -> str:
    """What a weight is: 'kernel', 'bias' or 'physics'."""
    part = name.rpartition(".")[2]
    return part if part in ("kernel", "bias") else "physics"


def directions(weights: Mapping[str, NDArray[Any]], seed: int = 7) -> dict[str, Arrays]:
    """A random direction through all weights of each kind, on the scale of the weights."""
    rng = np.random.default_rng(seed)
    found: dict[str, Arrays] = {}
    for name, array in weights.items():
        move = rng.normal(size=array.shape) * (float(np.std(array)) or 0.1)
        found.setdefault(kind(name), {})[name] = np.asarray(move)
    return found


def adam(
    weights: Mapping[str, NDArray[Any]],
    gradients: Sequence[Mapping[str, NDArray[Any]]],
    rates: Sequence[float],
    config: TrainingConfig,
) -> list[Arrays]:
    """Weights after each step of Adam (Kingma & Ba 2015, algorithm 1), given the gradient at each.

    Parameters
    ----------
    weights : dict
        Before the first step; those without a gradient stay.
    gradients : sequence of dict
        Weight name to gradient.
    rates : sequence of float
        Learning rate of each step.
    config : TrainingConfig
        Of it the two decay rates and epsilon.
    """
    b1, b2, epsilon = config.adam_beta1, config.adam_beta2, config.adam_epsilon
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    m = {name: np.zeros_like(array) for name, array in w.items()}
    v = {name: np.zeros_like(array) for name, array in w.items()}
    after = []
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        for name, g in gradient.items():
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            w[name] = w[name] - rate * (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + epsilon)
        after.append(dict(w))
    return after
