"""Patches to object, and object to patches.

Patch pixel ``[N // 2, N // 2]`` lies at the patch's position in the object (see :mod:`ptyint.scans.scan`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ConfigError, ScanError
from ptyint.scans.groups import checked_positions

Complex = NDArray[np.complexfloating[Any, Any]]
Float = NDArray[np.float64]

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

    object_: Complex
    coverage: Float

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(H, W) True where at least one patch reached."""
        return self.coverage > 0


def stitch(patches: Complex, positions_px: Float, shape: tuple[int, int], *, M: int = 20) -> Stitched:
    """Put the centre M x M of each patch (k, N, N) at its position (k, 2); divide by what covered each pixel.

    A patch is resampled to the object's pixels bilinearly, and weighs in each by how much of the pixel its centre
    covers: 1 inside, a fraction along the rim. Resampling reads one pixel beyond the centre, so the rim is no worse
    than the inside; an object linear in (y, x) comes back exactly. What overhangs the object is dropped. NaN in a
    patch stays NaN in the object. A ScanError or ConfigError says which array or number is not what it must be.
    """
    pixels = int(np.prod(shape))
    total = np.zeros(pixels, dtype=np.complex128)
    coverage = np.zeros(pixels)
    for place in _places(patches, positions_px, shape, M):
        total.real += np.bincount(place.pixel, place.value.real, pixels)
        total.imag += np.bincount(place.pixel, place.value.imag, pixels)
        coverage += np.bincount(place.pixel, place.weight, pixels)
    covered = coverage > 0
    object_ = np.zeros(pixels, dtype=np.complex128)
    object_[covered] = total[covered] / coverage[covered]
    return Stitched(object_.reshape(shape).astype(np.asarray(patches).dtype), coverage.reshape(shape))


def synchronise_phases(
    patches: Complex, positions_px: Float, shape: tuple[int, int], labels: NDArray[np.integer[Any]], *, M: int = 20
) -> Float:
    """Constant phase in rad of each group of patches (n_groups,) that makes overlapping patches agree.

    A diffraction pattern fixes its exit wave up to one constant phase, and a group of patches that were reconstructed
    together has one such constant. Before stitching they are found by angular synchronisation (Singer, Appl. Comput.
    Harmon. Anal. 30 (2011) 20; for ptychography Marchesini et al., Appl. Comput. Harmon. Anal. 41 (2016) 815): with W
    holding group j's patches, placed and weighted, in column j and c the coverage, the off-diagonal entries of
    ``W^H diag(1/c) W`` say how much, and with which phase, two groups overlap; the phases of the leading eigenvector of
    that matrix, normalised by its degrees, make the overlaps agree best. Groups that no chain of overlaps connects are
    solved apart, each with a mean phase of zero.

    Multiply the patches of group g, those with the label g, by ``exp(1j * phase[g])``. The phase is zero where a group
    touches no other; all are zero where patches are not finite.
    """
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.csgraph import connected_components

    labels = np.asarray(labels)
    n_groups, pixels = int(labels.max()) + 1, int(np.prod(shape))
    phases = np.zeros(n_groups)
    if not np.isfinite(patches).all():
        return phases
    coverage = np.zeros(pixels)
    W = coo_array((pixels, n_groups), dtype=np.complex128).tocsr()
    for place in _places(patches, positions_px, shape, M):
        coverage += np.bincount(place.pixel, place.weight, pixels)
        W = W + coo_array((place.value, (place.pixel, labels[place.patch])), shape=(pixels, n_groups)).tocsr()
    inverse = np.divide(1, coverage, out=np.zeros(pixels), where=coverage > 0)
    links = (W.conj().T @ (diags_array(inverse) @ W)).tocsr()
    links.setdiag(0)
    degree = np.asarray(abs(links).sum(axis=0)).ravel()
    root = diags_array(np.divide(1, np.sqrt(degree), out=np.zeros(n_groups), where=degree > 0))
    links = (root @ links @ root).tocsr()
    n_islands, island = connected_components(abs(links) > 0, directed=False)
    for number in range(n_islands):
        members = np.flatnonzero(island == number)
        if len(members) > 1:
            leading = _leading_eigenvector(links[members][:, members])
            phases[members] = np.angle(leading * np.exp(-1j * np.angle(leading.sum())))
    return phases


def _leading_eigenvector(matrix: Any) -> NDArray[np.complex128]:
    """Of a sparse Hermitian matrix; Lanczos from a fixed start, dense where the matrix is small."""
    from scipy.sparse.linalg import eigsh

    n = matrix.shape[0]
    if n <= 64:
        return np.asarray(np.linalg.eigh(matrix.toarray())[1][:, -1])
    return np.asarray(eigsh(matrix, k=1, which="LA", v0=np.ones(n, np.complex128))[1][:, 0])


def extract_patches(object_: Complex, positions_px: Float, N: int) -> Complex:
    """Cut N x N patches (k, N, N) out of an object (H, W), bilinearly at fractional positions (k, 2).

    In the precision of the object. A ScanError where a patch overhangs it.
    """
    object_ = np.asarray(object_)
    if object_.ndim != 2:
        raise ScanError(f"object_ has shape {object_.shape}; expected (H, W).")
    if N < 1:
        raise ConfigError(f"N is {N}; it must be 1 or more.")
    positions = checked_positions(positions_px)
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


class _Place(NamedTuple):
    """Where a chunk of patches goes: one entry for each object pixel that a patch reaches."""

    patch: NDArray[np.int64]
    pixel: NDArray[np.int64]
    value: Complex
    weight: Float


def _places(patches: Complex, positions_px: Float, shape: tuple[int, int], M: int) -> Iterator[_Place]:
    """Check, then place the patches' centres, chunk by chunk; values come multiplied by their weights."""
    patches = np.asarray(patches)
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2]:
        raise ScanError(f"patches has shape {patches.shape}; expected (k, N, N).")
    if not np.iscomplexobj(patches):
        raise ScanError(f"patches has dtype {patches.dtype}; expected complex64 or complex128.")
    positions = checked_positions(positions_px, len(patches))
    N = patches.shape[1]
    if M % 2 or not 2 <= M <= N // 2:
        raise ConfigError(f"M is {M}; with patches of {N} x {N} it must be even and from 2 to {N // 2}.")
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f"shape is {shape}; expected (H, W), both 1 or more.")
    start = N // 2 - M // 2
    centre = patches[:, start - 1 : start + M + 1, start - 1 : start + M + 1]
    step = max(1, _CHUNK_PIXELS // (M + 1) ** 2)
    for first in range(0, len(patches), step):
        yield _place(centre[first : first + step], positions[first : first + step] - M // 2, shape, first)


def _place(tiles: Complex, corners: Float, shape: tuple[int, int], first: int) -> _Place:
    """Place tiles (k, M + 2, M + 2), whose pixel [1, 1] lies at `corners`; they are the patches from `first` on."""
    k, M = len(tiles), tiles.shape[1] - 2
    origin = np.floor(corners).astype(np.int64)
    ty, tx = (corners - origin).T[:, :, None]
    with np.errstate(invalid="ignore"):  # an infinite patch is shown, not hidden
        value = tiles[:, :-1] * ty[..., None] + tiles[:, 1:] * (1 - ty[..., None])
        value = value[:, :, :-1] * tx[..., None] + value[:, :, 1:] * (1 - tx[..., None])
    inner = np.ones((k, M - 1))
    wy, wx = (np.hstack([1 - t, inner, t]) for t in (ty, tx))
    weight = wy[:, :, None] * wx[:, None, :]
    H, W = shape
    rows = (origin[:, 0, None] + np.arange(M + 1))[:, :, None]
    cols = (origin[:, 1, None] + np.arange(M + 1))[:, None, :]
    inside = (rows >= 0) & (rows < H) & (cols >= 0) & (cols < W) & (weight > 0)
    weight = weight[inside]
    return _Place(first + np.nonzero(inside)[0], (rows * W + cols)[inside], value[inside] * weight, weight)
