"""The referee: every operator of the model in float64 NumPy, written to be read.

Both backends implement the same formulas on their own; neither imports this module. Conventions: axis -2 is y,
axis -1 is x; the zero frequency sits at ``[N // 2, N // 2]``; batches of groups have the shape
``(groups, C, N, N)`` with ``C = gridsize**2``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

AMPLITUDE_LEVEL = 0.5
"""Mean object amplitude that the initial intensity scale aims at: a sigmoid head then has headroom of two."""

BORDER_WEIGHT = 1e-2
"""Weight of a patch's border, against 1 for its centre, where overlapping patches are merged."""

MIN_COVERAGE = 1e-3 * BORDER_WEIGHT
"""Merged weight up to which a pixel counts as uncovered: at whole-pixel offsets rounding alone covers the outer rim."""

COUNT_FLOOR = 1e-2
"""Background in counts per pixel, added to the predicted counts: keeps the logarithm of the likelihood finite."""

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


def fourier_shift(array: ArrayLike, shift_yx: ArrayLike) -> Complex:
    """Shift by a fraction of a pixel: multiply the spectrum by ``exp(-2 pi i k . shift)``.

    Parameters
    ----------
    array : array_like, (..., N, N)
    shift_yx : array_like, (..., 2)
        Shift in px, positive towards larger indices; its leading axes broadcast against those of `array`.

    Returns
    -------
    ndarray of complex128, (..., N, N)
    """
    field = np.asarray(array, np.complex128)
    shift = np.asarray(shift_yx, np.float64)
    ky, kx = np.fft.fftfreq(field.shape[-2]), np.fft.fftfreq(field.shape[-1])
    phase = shift[..., 0, None, None] * ky[:, None] + shift[..., 1, None, None] * kx
    return np.asarray(np.fft.ifft2(np.fft.fft2(field) * np.exp(-2j * np.pi * phase)))


def propagate(exit_wave: ArrayLike) -> Complex:
    """Far field of an exit wave: orthonormal FFT, zero frequency at the centre.

    Parameters
    ----------
    exit_wave : array_like, (..., N, N)

    Returns
    -------
    ndarray of complex128, (..., N, N)
        ``fftshift(fft2(exit_wave)) / N``.
    """
    spectrum = np.fft.fft2(np.asarray(exit_wave, np.complex128), norm="ortho")
    return np.asarray(np.fft.fftshift(spectrum, axes=(-2, -1)))


def illuminate(probe: ArrayLike, object_patches: ArrayLike) -> Complex:
    """Exit waves: each probe mode times each object patch (projection approximation).

    Parameters
    ----------
    probe : array_like, (modes, N, N) or (..., modes, N, N)
    object_patches : array_like, (..., N, N)

    Returns
    -------
    ndarray of complex128, (..., modes, N, N)
    """
    patches = np.asarray(object_patches, np.complex128)
    return np.asarray(np.asarray(probe, np.complex128) * patches[..., None, :, :])


def diffraction_amplitudes(probe: ArrayLike, object_patches: ArrayLike) -> Float:
    """Amplitudes of the diffraction patterns; modes add incoherently.

    Parameters
    ----------
    probe : array_like, (modes, N, N), or one per pattern (k, modes, N, N)
    object_patches : array_like, (k, N, N)

    Returns
    -------
    ndarray of float64, (k, N, N)
        ``sqrt(sum over modes |propagate(probe * patch)|**2)``; its square is the expected count where the probe
        is photon-normalised.
    """
    wave = propagate(illuminate(probe, object_patches))
    return np.asarray(np.sqrt((np.abs(wave) ** 2).sum(axis=-3)))


def probe_mask(N: int) -> Float:
    """Disk of radius N/4 around ``[N // 2, N // 2]``: 1 inside, 0 outside. Shape (N, N)."""
    y, x = np.indices((N, N)) - N // 2
    return (np.hypot(y, x) <= N / 4).astype(np.float64)


def normalise_probe(probe: ArrayLike, probe_scale: float) -> Complex:
    """``p / (probe_scale * mean|mask * p|)``, as PtychoPINN's ``set_probe_guess``.

    Parameters
    ----------
    probe : array_like, (modes, N, N)
    probe_scale : float
        Dimensionless, positive.

    Returns
    -------
    ndarray of complex128, (modes, N, N)
        The mean runs over all N**2 pixels; several modes enter it as ``sqrt(sum |p|**2)``.

    Raises
    ------
    ValueError
        The probe vanishes inside the mask.
    """
    p = np.asarray(probe, np.complex128)
    magnitude = np.sqrt((np.abs(p) ** 2).sum(axis=0))
    mean = float((probe_mask(p.shape[-1]) * magnitude).mean())
    if not mean > 0:
        raise ValueError(f"The probe's mean magnitude within N/4 of its centre is {mean}; give a non-zero one.")
    return p / (probe_scale * mean)


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


def canvas_size(N: int, offsets_px: ArrayLike) -> int:
    """Edge of the square region that holds all patches of a group at their offsets.

    Parameters
    ----------
    N : int
    offsets_px : array_like, (..., 2)
        Of all groups, so that every batch shares one shape.

    Returns
    -------
    int
        ``N + 2 * ceil(max |offset|)``.
    """
    offsets = np.asarray(offsets_px, np.float64)
    return N + 2 * int(np.ceil(np.abs(offsets).max(initial=0.0)))


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
    weight = merge_weight(patches.shape[-1])
    total = translate(weight * patches, offsets_px, n_canvas).sum(axis=1)
    covered = translate(np.broadcast_to(weight, patches.shape), offsets_px, n_canvas).sum(axis=1)
    reached = covered > MIN_COVERAGE
    return np.asarray(np.where(reached, total / np.where(reached, covered, 1.0), 0.0))


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
