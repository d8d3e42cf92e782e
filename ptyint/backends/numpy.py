"""Every operator of the model in float64 NumPy, written to be read: the reference.

The other backends implement the same formulas on their own and never import this module. Axis -2 is y, axis -1 is x;
batches of groups have the shape ``(groups, C, N, N)`` with ``C = gridsize**2``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyint.backends.protocol import by_name
from ptyint.scans.batches import canvas_size
from ptyint.scans.forward import Complex, Float, illuminate, probe_mask, propagate

BORDER_WEIGHT = 1e-2
"""Weight of a patch's border, against 1 for its centre, where overlapping patches are merged."""

MIN_COVERAGE = 1e-3 * BORDER_WEIGHT
"""Merged weight up to which a pixel counts as uncovered: at whole-pixel offsets rounding alone covers the outer rim."""

COUNT_FLOOR = 1e-2
"""Background in counts per pixel, added to the predicted counts: keeps the logarithm of the likelihood finite."""


def downsample(x: NDArray[Any]) -> NDArray[Any]:
    """Largest value of each 2 x 2 block: (B, channels, H, W) to (B, channels, H/2, W/2)."""
    return np.asarray(np.max([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0))


def upsample(x: NDArray[Any]) -> NDArray[Any]:
    """Nearest-neighbour up-sampling: (B, channels, H, W) to (B, channels, 2 H, 2 W)."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """``1 / (1 + exp(-x))``."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def swish(x: NDArray[Any]) -> NDArray[Any]:
    """``x * sigmoid(x)``."""
    return np.asarray(x * 0.5 * (1 + np.tanh(0.5 * x)))


def softplus(x: NDArray[Any]) -> NDArray[Any]:
    """``log(1 + exp(x))``."""
    return np.asarray(np.logaddexp(0.0, x))


def relu(x: NDArray[Any]) -> NDArray[Any]:
    """``max(x, 0)``."""
    return np.asarray(np.maximum(x, 0.0))


def phase_head(x: NDArray[Any]) -> NDArray[Any]:
    """Phase in (-pi, pi) rad."""
    return np.asarray(np.pi * np.tanh(x))


def pad_patch(patch: ArrayLike) -> NDArray[Any]:
    """Zero-pad the decoder's central block to the full patch: (..., N/2, N/2) to (..., N, N)."""
    array = np.asarray(patch)
    margin = array.shape[-1] // 2
    width = [(0, 0)] * (array.ndim - 2) + [(margin, margin)] * 2
    return np.pad(array, width)


def center_mask(N: int) -> Float:
    """1 in the central N/2 x N/2 block of a patch, 0 in its border. Shape (N, N)."""
    return np.asarray(pad_patch(np.ones((N // 2, N // 2))))


def merge_weight(N: int) -> Float:
    """What a patch's pixel counts for in a merge: 1 in the centre, `BORDER_WEIGHT` in the border. Shape (N, N)."""
    mask = center_mask(N)
    return np.asarray(mask + BORDER_WEIGHT * (1 - mask))


def translation_matrix(offset_px: ArrayLike, n_out: int, n_in: int) -> Float:
    """Linear interpolation along one axis as a matrix.

    Input pixel j comes to lie at output coordinate ``j + offset + (n_out - n_in) / 2``; outside is zero.

    Parameters
    ----------
    offset_px : array_like, (...)
    n_out, n_in : int

    Returns
    -------
    ndarray of float64, (..., n_out, n_in)
        The hat function ``max(0, 1 - |i - target(j)|)``.
    """
    offset = np.asarray(offset_px, np.float64)[..., None, None]
    target = np.arange(n_in) + offset + (n_out - n_in) / 2
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(np.arange(n_out)[:, None] - target)))


def translate(image: ArrayLike, offset_yx: ArrayLike, n_out: int) -> NDArray[Any]:
    """Move images by their offsets into a square frame of another size (bilinear, zeros outside).

    Parameters
    ----------
    image : array_like, (..., n_in, n_in)
    offset_yx : array_like, (..., 2)
        In px; positive moves the content to larger indices.
    n_out : int
        Edge of the result; both frames share their centre.

    Returns
    -------
    ndarray, (..., n_out, n_out)
    """
    array, offset = np.asarray(image), np.asarray(offset_yx, np.float64)
    rows = translation_matrix(offset[..., 0], n_out, array.shape[-1])
    columns = translation_matrix(offset[..., 1], n_out, array.shape[-1])
    return np.asarray(rows @ array @ np.swapaxes(columns, -1, -2))


def merge_patches(object_patches: ArrayLike, offsets_px: ArrayLike, n_canvas: int) -> Complex:
    """One solution region per group from its C patches: the weighted mean of what really covered each pixel.

    Parameters
    ----------
    object_patches : array_like, (groups, C, N, N)
    offsets_px : array_like, (groups, C, 2)
        ``(y, x)`` of each patch's centre from the group's mean.
    n_canvas : int
        See :func:`canvas_size`.

    Returns
    -------
    ndarray of complex128, (groups, n_canvas, n_canvas)
        Zero where nothing covered.
    """
    patches = np.asarray(object_patches, np.complex128)
    N = patches.shape[-1]
    total = translate(merge_weight(N) * patches, offsets_px, n_canvas).sum(axis=1)
    return np.asarray(total / coverage(offsets_px, N, n_canvas))


def coverage(offsets_px: ArrayLike, N: int, n_canvas: int) -> Float:
    """Weight that the patches of each group have on each pixel of its region, (groups, n_canvas, n_canvas).

    Infinite where nothing covers, so that what is divided by it is zero there.
    """
    offsets = np.asarray(offsets_px, np.float64)
    weight = np.broadcast_to(merge_weight(N), (*offsets.shape[:2], N, N))
    covered = translate(weight, offsets, n_canvas).sum(axis=1)
    return np.where(covered > MIN_COVERAGE, covered, np.inf)


def cut_patches(region: ArrayLike, offsets_px: ArrayLike, N: int) -> Complex:
    """Cut the C patches of each group out of its solution region, at their offsets.

    Parameters
    ----------
    region : array_like, (groups, n_canvas, n_canvas)
    offsets_px : array_like, (groups, C, 2)
    N : int

    Returns
    -------
    ndarray of complex128, (groups, C, N, N)
    """
    array = np.asarray(region, np.complex128)[:, None]
    return np.asarray(translate(array, -np.asarray(offsets_px, np.float64), N))


def expected_intensity(far_field: ArrayLike, log_intensity_scale: ArrayLike) -> Float:
    """Intensities, in squared units of the network's input; modes add incoherently.

    Parameters
    ----------
    far_field : array_like, (groups, C, modes, N, N)
    log_intensity_scale : array_like, ()

    Returns
    -------
    ndarray of float64, (groups, C, N, N)
        ``exp(2 w) * sum over modes |far field|**2``.
    """
    wave = np.asarray(far_field, np.complex128)
    return np.asarray(np.exp(2 * np.asarray(log_intensity_scale, np.float64)) * (np.abs(wave) ** 2).sum(axis=2))


def poisson_nll(counts: ArrayLike, expected: ArrayLike, good_pixels: ArrayLike | None = None) -> float:
    """Poisson negative log-likelihood without its constant, mean over good pixels.

    ``mean(l - k log l)`` with ``l = expected + COUNT_FLOOR``; ``log k!`` does not depend on the model.

    Parameters
    ----------
    counts, expected : array_like, (..., N, N)
        Measured and predicted counts per pixel.
    good_pixels : array_like of bool, (N, N), optional

    Returns
    -------
    float
    """
    rate = np.asarray(expected, np.float64) + COUNT_FLOOR
    nll = rate - np.asarray(counts, np.float64) * np.log(rate)
    good = np.broadcast_to(True if good_pixels is None else np.asarray(good_pixels, bool), nll.shape)
    return float(nll[good].mean())


def diffract(exit_wave: ArrayLike) -> Float:
    """Amplitudes (groups, C, N, N) of exit waves (groups, C, modes, N, N); modes add incoherently."""
    return np.asarray(np.sqrt((np.abs(propagate(exit_wave)) ** 2).sum(axis=2)))


def patch_of_group(patches: NDArray[Any], offsets_px: NDArray[Any]) -> Complex:
    """What an inference makes of a group: its C patches merged by their offsets, the middle N x N of the region.

    Patches (groups, C, N, N), offsets ``(y, x)`` (groups, C, 2) in px to (groups, N, N).
    """
    N = patches.shape[-1]
    size = canvas_size(N, offsets_px)
    start = (size - N) // 2
    return merge_patches(patches, offsets_px, size)[:, start : start + N, start : start + N]


def stitch(patches: NDArray[Any], positions_px: NDArray[Any], M: int, n_canvas: int) -> Complex:
    """The middle M x M of patches (n, N, N), placed by their positions ``(y, x)`` (n, 2) in px, over their coverage.

    The middle of the (n_canvas, n_canvas) result is the mean position.
    """
    start = patches.shape[-1] // 2 - M // 2
    middle = patches[:, start : start + M, start : start + M]
    offsets = positions_px - positions_px.mean(axis=0)
    total = translate(middle, offsets, n_canvas).sum(axis=0)
    covered = translate(np.ones(middle.shape), offsets, n_canvas).sum(axis=0)
    return np.asarray(total / np.where(covered > 0, covered, 1.0), np.complex128)


def normalise_probe(probe: NDArray[Any], probe_scale: float) -> NDArray[Any]:
    """`ptyint.scans.forward.normalise_probe`, which every backend of this package shares, written once more."""
    y, x = np.indices(probe.shape[-2:]) - probe.shape[-1] // 2
    inside = np.hypot(y, x) <= probe.shape[-1] / 4
    return np.asarray(probe / (probe_scale * np.mean(inside * np.sqrt((abs(probe) ** 2).sum(axis=0)))))


OPERATORS: dict[str, Callable[..., Any]] = {
    "canvas_size": lambda N, offsets_px: float(canvas_size(N, offsets_px)),
    **by_name(
        normalise_probe, probe_mask, downsample, upsample, sigmoid, swish, softplus, relu, phase_head, pad_patch,
        translate, merge_patches, cut_patches, illuminate, propagate, expected_intensity, poisson_nll, diffract,
        patch_of_group, stitch,
    ),
}  # fmt: skip
"""Everything that a backend may offer under `ptyint.backends.protocol.OPERATORS`, and what only some have."""
