"""Patches to object, and object to patches.

Patch pixel ``[N // 2, N // 2]`` lies at the patch's position in the object (see :mod:`ptyint.scan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ConfigError, ScanError

_CHUNK_PIXELS = 2**22
"""Patch pixels scattered at once: bounds the memory to some 200 MB however many patches there are."""


@dataclass(frozen=True, eq=False)
class Stitched:
    """An object put together from patches.

    Attributes
    ----------
    object_ : ndarray of complex, (H, W)
        The weighted mean of the patches that reached a pixel, 0 where none did; the precision of the patches.
    coverage : ndarray of float64, (H, W)
        How many patches saw the pixel; fractions at their rims.
    """

    object_: NDArray[np.complexfloating[Any, Any]]
    coverage: NDArray[np.float64]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(H, W) True where at least one patch reached."""
        return self.coverage > 0


def stitch(
    patches: NDArray[np.complexfloating[Any, Any]],
    positions_px: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    M: int = 20,
) -> Stitched:
    """Put the centre M x M of each patch at its position; divide by what covered each pixel.

    A patch is resampled to the object's pixels bilinearly, and weighs in each by how much of the pixel its centre
    covers: 1 inside, a fraction along the rim. Resampling reads one pixel beyond the centre, so the rim is no worse
    than the inside; an object linear in (y, x) comes back exactly. What overhangs the object is dropped. NaN in a
    patch stays NaN in the object.

    Parameters
    ----------
    patches : ndarray of complex, (k, N, N)
    positions_px : ndarray of float64, (k, 2)
        ``(y, x)`` of patch pixel ``[N // 2, N // 2]`` in the object.
    shape : tuple of int
        ``(H, W)`` of the object.
    M : int
        Edge of the used centre: even, from 2 to N // 2.

    Returns
    -------
    Stitched

    Raises
    ------
    ScanError
        Patches or positions have the wrong shape, or positions are not finite.
    ConfigError
        M or `shape` is out of range.
    """
    patches = np.asarray(patches)
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2]:
        raise ScanError(f"patches has shape {patches.shape}; expected (k, N, N).")
    if not np.iscomplexobj(patches):
        raise ScanError(f"patches has dtype {patches.dtype}; expected complex64 or complex128.")
    positions = _checked_positions(positions_px, len(patches))
    N = patches.shape[1]
    if M % 2 or not 2 <= M <= N // 2:
        raise ConfigError(f"M is {M}; with patches of {N} x {N} it must be even and from 2 to {N // 2}.")
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f"shape is {shape}; expected (H, W), both 1 or more.")

    start = N // 2 - M // 2
    centre = patches[:, start - 1 : start + M + 1, start - 1 : start + M + 1]
    total = np.zeros(shape, dtype=np.complex128)
    coverage = np.zeros(shape)
    step = max(1, _CHUNK_PIXELS // (M + 1) ** 2)
    for first in range(0, len(patches), step):
        _scatter(centre[first : first + step], positions[first : first + step] - M // 2, total, coverage)
    covered = coverage > 0
    object_ = np.zeros(shape, dtype=np.complex128)
    object_[covered] = total[covered] / coverage[covered]
    return Stitched(object_.astype(patches.dtype), coverage)


def extract_patches(
    object_: NDArray[np.complexfloating[Any, Any]], positions_px: NDArray[np.float64], N: int
) -> NDArray[np.complexfloating[Any, Any]]:
    """Cut N x N patches out of an object, bilinearly at fractional positions.

    Parameters
    ----------
    object_ : ndarray of complex, (H, W)
    positions_px : ndarray of float64, (k, 2)
        ``(y, x)`` of patch pixel ``[N // 2, N // 2]``.
    N : int
        Edge of a patch.

    Returns
    -------
    ndarray of complex, (k, N, N)
        In the precision of `object_`.

    Raises
    ------
    ScanError
        A shape is wrong, positions are not finite, or a patch overhangs the object.
    ConfigError
        N is not positive.
    """
    object_ = np.asarray(object_)
    if object_.ndim != 2:
        raise ScanError(f"object_ has shape {object_.shape}; expected (H, W).")
    if N < 1:
        raise ConfigError(f"N is {N}; it must be 1 or more.")
    positions = _checked_positions(positions_px)
    corner = positions - N // 2
    outside = ((corner < 0) | (corner + N - 1 > np.array(object_.shape) - 1)).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ScanError(
            f"{int(outside.sum())} patches overhang the object of shape {object_.shape}, first positions_px[{i}] = "
            f"{positions[i]} with N = {N}: pad the object or shift the positions."
        )
    origin = np.floor(corner).astype(np.intp)
    fraction = (corner - origin).astype(object_.real.dtype)[:, :, None, None]
    rows, cols = (np.minimum(origin[:, i, None] + np.arange(N + 1), object_.shape[i] - 1) for i in (0, 1))
    block = object_[rows[:, :, None], cols[:, None, :]]
    block = block[:, :-1] * (1 - fraction[:, 0]) + block[:, 1:] * fraction[:, 0]
    return np.asarray(block[:, :, :-1] * (1 - fraction[:, 1]) + block[:, :, 1:] * fraction[:, 1])


def _scatter(
    tiles: NDArray[np.complexfloating[Any, Any]],
    corners: NDArray[np.float64],
    total: NDArray[np.complex128],
    coverage: NDArray[np.float64],
) -> None:
    """Add tiles (k, M + 2, M + 2), whose pixel [1, 1] lies at `corners`, and their weights."""
    k, M = len(tiles), tiles.shape[1] - 2
    origin = np.floor(corners).astype(np.int64)
    ty, tx = (corners - origin).T[:, :, None]
    with np.errstate(invalid="ignore"):  # an infinite patch is shown, not hidden
        value = tiles[:, :-1] * ty[..., None] + tiles[:, 1:] * (1 - ty[..., None])
        value = value[:, :, :-1] * tx[..., None] + value[:, :, 1:] * (1 - tx[..., None])
    inner = np.ones((k, M - 1))
    wy, wx = (np.hstack([1 - t, inner, t]) for t in (ty, tx))
    weight = wy[:, :, None] * wx[:, None, :]
    H, W = total.shape
    rows = (origin[:, 0, None] + np.arange(M + 1))[:, :, None]
    cols = (origin[:, 1, None] + np.arange(M + 1))[:, None, :]
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W) & (weight > 0)
    flat = (rows * W + cols)[inside]
    weight = weight[inside]
    value = value[inside] * weight
    total.real += np.bincount(flat, value.real, H * W).reshape(H, W)
    total.imag += np.bincount(flat, value.imag, H * W).reshape(H, W)
    coverage += np.bincount(flat, weight, H * W).reshape(H, W)


def _checked_positions(positions_px: NDArray[np.float64], count: int | None = None) -> NDArray[np.float64]:
    positions = np.asarray(positions_px, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or count not in (None, len(positions)):
        raise ScanError(f"positions_px has shape {positions.shape}; expected ({'k' if count is None else count}, 2).")
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ScanError(f"positions_px[{bad}] is {positions[bad]}; positions must be finite.")
    return positions
