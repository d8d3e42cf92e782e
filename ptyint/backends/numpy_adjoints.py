"""Gradients by hand in float64 NumPy: every operator of the reference beside its adjoint, and a walk back through them.

Where a derivative does not exist, the convention of TensorFlow and PyTorch is taken: that of ReLU at 0 is 0, and of
equal largest values in a 2 x 2 block the first one, row by row, gets the gradient. The gradient of a complex array is
``dL/d(real) + i dL/d(imag)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy as operators
from ptyint.backends import protocol
from ptyint.backends.protocol import Mask
from ptyint.scans.forward import illuminate, propagate

Array = NDArray[Any]
Adjoint = Callable[[Array], Array]


class Node:
    """An array of the pass; what it was made of, each with the adjoint that takes a gradient back to it.

    Attributes
    ----------
    value, gradient : ndarray
        The gradient is that of the loss, complete once :meth:`backward` has passed.
    sources : tuple of (Node, callable)
        Inputs, and for each the adjoint of the operator with respect to it.
    """

    numbers = itertools.count()

    def __init__(self, value: Array, *sources: tuple[Node, Adjoint]) -> None:
        self.value, self.sources, self.number = value, sources, next(Node.numbers)
        self.gradient = np.zeros(())

    def backward(self) -> None:
        """Take the gradient of this node, the loss, back to everything that it was made of, the latest first."""
        self.gradient = np.ones(())
        waiting = {self.number: self}
        while waiting:
            node = waiting.pop(max(waiting))
            for source, adjoint in node.sources:
                source.gradient = source.gradient + adjoint(node.gradient)
                waiting[source.number] = source


class Recorder(protocol.Recorder):
    """See :class:`.protocol.Recorder`."""

    def __call__(self, name: str, tensor: Node, channels_last: bool = False) -> Node:
        """Keep the node's value, and later its gradient; return it, or what is given in its place."""
        self.values[name] = tensor.value

        def back(gradient: Array) -> Array:
            self.gradients[name] = gradient
            passed = self.given.get(f"gradient/{name}", gradient)
            return passed if passed.shape == tensor.value.shape else np.zeros_like(tensor.value)

        return Node(np.asarray(self.given.get(name, tensor.value), tensor.value.dtype), (tensor, back))


# --- operators and their adjoints ---


def correlate(x: Array, kernel: Array) -> tuple[Array, Array]:
    """3 x 3 cross-correlation of (B, channels, H, W), zero-padded; also the windows (B H W, 9 channels) it was of."""
    B, channels, H, W = x.shape
    padded = np.zeros((B, H + 2, W + 2, channels))
    padded[:, 1:-1, 1:-1] = x.transpose(0, 2, 3, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(B * H * W, 9 * channels)
    return rows @ kernel.reshape(9 * channels, -1), rows


def convolve(x: Node, kernel: Node, bias: Node) -> Node:
    """A convolution layer on (B, channels, H, W), with kernel (3, 3, in, out) and bias (out,)."""
    B, _, H, W = x.value.shape
    product, rows = correlate(x.value, kernel.value)

    def as_image(flat: Array) -> Array:
        return np.asarray(flat.reshape(B, H, W, -1).transpose(0, 3, 1, 2))

    def to_kernel(g: Array) -> Array:
        flat = g.transpose(0, 2, 3, 1).reshape(B * H * W, -1)
        return np.asarray((rows.T @ flat).reshape(kernel.value.shape))

    return Node(
        as_image(product + bias.value),
        (x, lambda g: as_image(correlate(g, kernel.value[::-1, ::-1].swapaxes(2, 3))[0])),
        (kernel, to_kernel),
        (bias, lambda g: g.sum(axis=(0, 2, 3))),
    )


def downsample(x: Node) -> Node:
    """`operators.downsample`."""
    blocks = [(slice(None), slice(None), slice(i, None, 2), slice(j, None, 2)) for i in (0, 1) for j in (0, 1)]

    def back(g: Array) -> Array:
        first = np.argmax([x.value[block] for block in blocks], axis=0)
        gradient = np.zeros_like(x.value)
        for number, block in enumerate(blocks):
            gradient[block] = g * (first == number)
        return gradient

    return Node(operators.downsample(x.value), (x, back))


def upsample(x: Node) -> Node:
    """`operators.upsample`."""
    B, channels, H, W = x.value.shape
    return Node(operators.upsample(x.value), (x, lambda g: g.reshape(B, channels, H, 2, W, 2).sum(axis=(3, 5))))


SLOPES: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: operators.sigmoid(x) * operators.sigmoid(-x),
    "swish": lambda x: operators.sigmoid(x) * (1 + x * operators.sigmoid(-x)),
    "softplus": operators.sigmoid,
    "relu": lambda x: np.asarray(x > 0, np.float64),
    "phase_head": lambda x: np.pi * (1 - np.tanh(x) ** 2),
}
"""Derivative of each activation."""


def activate(name: str, x: Node) -> Node:
    """An activation of `SLOPES`, element by element."""
    return Node(operators.OPERATORS[name](x.value), (x, lambda g: g * SLOPES[name](x.value)))


def channels(x: Node, which: slice | int) -> Node:
    """Some channels of (B, channels, H, W), or one."""

    def back(g: Array) -> Array:
        gradient = np.zeros_like(x.value)
        gradient[:, which] = g
        return gradient

    return Node(x.value[:, which], (x, back))


def pad(x: Node, margin: int) -> Node:
    """Zeros around (..., H, W)."""
    width = [(0, 0)] * (x.value.ndim - 2) + [(margin, margin)] * 2
    inside = slice(margin, -margin or None)
    return Node(np.pad(x.value, width), (x, lambda g: g[..., inside, inside]))


def bordered(patch: Node, border: Node) -> Node:
    """A patch with `border` added outside its central half."""
    outside = 1 - operators.center_mask(patch.value.shape[-1])
    return Node(patch.value + border.value * outside, (patch, lambda g: g), (border, lambda g: g * outside))


def polar(amplitude: Node, phase: Node) -> Node:
    """``amplitude * exp(i phase)``."""
    turn = np.exp(1j * phase.value)
    value = amplitude.value * turn
    return Node(value, (amplitude, lambda g: (np.conj(turn) * g).real), (phase, lambda g: (np.conj(value) * g).imag))


def merge_patches(patches: Node, offsets_px: Array, n_canvas: int) -> Node:
    """`operators.merge_patches`."""
    N = patches.value.shape[-1]

    def back(g: Array) -> Array:
        shared = g / operators.coverage(offsets_px, N, n_canvas)
        return operators.merge_weight(N) * operators.cut_patches(shared, offsets_px, N)

    return Node(operators.merge_patches(patches.value, offsets_px, n_canvas), (patches, back))


def cut_patches(region: Node, offsets_px: Array, N: int) -> Node:
    """`operators.cut_patches`."""

    def back(g: Array) -> Array:
        return np.asarray(operators.translate(g, offsets_px, region.value.shape[-1]).sum(axis=1))

    return Node(operators.cut_patches(region.value, offsets_px, N), (region, back))


def complex_probe(real: Node, imag: Node, mask: Array | float) -> Node:
    """The probe (modes, N, N) as it illuminates."""
    value = (real.value + 1j * imag.value) * mask
    return Node(value, (real, lambda g: (g * mask).real), (imag, lambda g: (g * mask).imag))


def illuminated(probe: Node, patches: Node) -> Node:
    """`illuminate`: exit waves (B, C, modes, N, N)."""
    return Node(
        illuminate(probe.value, patches.value),
        (probe, lambda g: (g * np.conj(patches.value)[:, :, None]).sum(axis=(0, 1))),
        (patches, lambda g: (g * np.conj(probe.value)).sum(axis=2)),
    )


def propagated(wave: Node) -> Node:
    """`propagate`; the adjoint of the orthonormal FFT is its inverse."""
    return Node(propagate(wave.value), (wave, lambda g: np.fft.ifft2(np.fft.ifftshift(g, axes=(-2, -1)), norm="ortho")))


def expected_intensity(far_field: Node, log_scale: Node) -> Node:
    """`operators.expected_intensity`."""
    value = operators.expected_intensity(far_field.value, log_scale.value)
    return Node(
        value,
        (far_field, lambda g: 2 * np.exp(2 * log_scale.value) * g[:, :, None] * far_field.value),
        (log_scale, lambda g: 2 * (g * value).sum()),
    )


def poisson_nll(counts: Array, expected: Node, good_pixels: Mask) -> Node:
    """`operators.poisson_nll`."""
    value = np.asarray(operators.poisson_nll(counts, expected.value, good_pixels))
    return Node(value, (expected, lambda g: g * poisson_slope(counts, expected.value, good_pixels)))


def poisson_slope(counts: Array, expected: Array, good_pixels: Mask) -> Array:
    """Derivative of `operators.poisson_nll`: ``(1 - k / l) / n`` on the n good pixels, with ``l`` as there."""
    rate = expected + operators.COUNT_FLOOR
    good = np.broadcast_to(True if good_pixels is None else good_pixels, rate.shape)
    return np.asarray(np.where(good, 1 - np.asarray(counts, np.float64) / rate, 0) / good.sum())
