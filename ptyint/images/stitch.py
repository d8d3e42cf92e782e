"""Patches to object, and object to patches.

Patch pixel ``[N // 2, N // 2]`` lies at the patch's position in the object (see :mod:`ptyint.scans.scan`).
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ConfigError, ScanError
from ptyint.images.phases import agreeing_phases
from ptyint.scans.groups import checked_positions
from ptyint.scans.mapped import Mapped

Complex = NDArray[np.complexfloating[Any, Any]]
Float = NDArray[np.float64]

_CHUNK_PIXELS = 2**20
"""Patch pixels placed at once: bounds the memory to some 150 MB however many patches there are."""


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


class Tiles(NamedTuple):
    """Centres of patches, and where they go.

    Attributes
    ----------
    values : ndarray of complex, (k, M + 2, M + 2), or what gives such an array for an index array
        Each centre with a rim of one pixel.
    corners : ndarray of float64, (k, 2)
        Where pixel [1, 1] of each lies in the object.
    shape : tuple of int
        (H, W) of the object.
    """

    values: Any
    corners: Float
    shape: tuple[int, int]


def stitch(patches: Complex, positions_px: Float, shape: tuple[int, int], *, M: int = 20) -> Stitched:
    """Put the centre M x M of each patch (k, N, N) at its position (k, 2); divide by what covered each pixel.

    A patch is resampled to the object's pixels bilinearly, and weighs in each by how much of the pixel its centre
    covers: 1 inside, a fraction along the rim. Resampling reads one pixel beyond the centre, so the rim is no worse
    than the inside; an object linear in (y, x) comes back exactly. What overhangs the object is dropped. NaN in a
    patch stays NaN in the object. A ScanError or ConfigError says which array or number is not what it must be.
    """
    return _stitched(_tiles(patches, positions_px, shape, M), np.ones(len(patches)), np.asarray(patches).dtype)


def synchronise_phases(
    patches: Complex, positions_px: Float, shape: tuple[int, int], labels: NDArray[np.integer[Any]], *, M: int = 20
) -> Float:
    """Constant phase in rad of each group of patches (n_groups,) that makes overlapping patches agree.

    A diffraction pattern fixes its exit wave up to one constant phase, and a group of patches that were reconstructed
    together has one such constant. Before stitching they are found by angular synchronisation (for ptychography
    Marchesini et al., Appl. Comput. Harmon. Anal. 41 (2016) 815): with W holding group j's patches, placed and
    weighted, in column j and c the coverage, the off-diagonal entries of ``W^H diag(1/c) W`` say how much, and with
    which phase, two groups overlap; :func:`.phases.agreeing_phases` makes the overlaps agree best. Groups that no chain
    of overlaps connects have a mean phase of zero each.

    Multiply the patches of group g, those with the label g, by ``exp(1j * phase[g])``. The phase is zero where a group
    touches no other; all are zero where patches are not finite.
    """
    return _synchronised(_tiles(patches, positions_px, shape, M), np.asarray(labels), bool(np.isfinite(patches).all()))


def stitch_batches(
    batches: Iterable[Complex],
    positions_px: Float,
    shape: tuple[int, int],
    labels: NDArray[np.integer[Any]],
    folder: Path | None = None,
    *,
    M: int = 20,
) -> tuple[Stitched, Float]:
    """Synchronise and stitch patches that come batch by batch (B, N, N) and need not fit into memory together.

    Each is needed twice, for the phases and for the object: what is stitched of it waits in a nameless file in `folder`
    (None: where temporary files go), of 8 (M + 2)**2 bytes a patch. Returns the object and the groups' phases.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        count, finite = 0, True
        for batch in batches:
            finite &= bool(np.isfinite(batch).all())
            tiles = _tiles(batch, positions_px[count : count + len(batch)], shape, M)
            tiles.values.astype(np.complex64).tofile(file)
            count += len(batch)
        file.flush()
        values = Mapped.of(file, np.complex64, (count, M + 2, M + 2))
    tiles = Tiles(values, checked_positions(positions_px, count) - M // 2, shape)
    phases = _synchronised(tiles, labels, finite)
    return _stitched(tiles, np.exp(1j * phases)[labels], np.dtype(np.complex64)), phases


def _stitched(tiles: Tiles, turns: NDArray[Any], dtype: np.dtype[Any]) -> Stitched:
    """The object of these tiles, each multiplied by its turn (k,)."""
    object_, coverage = np.zeros(tiles.shape, dtype), np.zeros(tiles.shape)
    for rows, place in _bands(tiles):
        value = place.value * turns[place.patch]
        weight, real, imag = (
            np.bincount(place.pixel, values, coverage[rows].size) for values in (place.weight, value.real, value.imag)
        )
        mean = np.divide(real + 1j * imag, weight, out=np.zeros(weight.shape, np.complex128), where=weight > 0)
        object_[rows], coverage[rows] = mean.reshape(-1, tiles.shape[1]), weight.reshape(-1, tiles.shape[1])
    return Stitched(object_, coverage)


def _synchronised(tiles: Tiles, labels: NDArray[Any], finite: bool) -> Float:
    """See :func:`synchronise_phases`."""
    return agreeing_phases(_links(tiles, labels)) if finite else np.zeros(int(labels.max()) + 1)


def _links(tiles: Tiles, labels: NDArray[Any]) -> Any:
    """``W^H diag(1/c) W`` without its diagonal, band by band."""
    from scipy.sparse import coo_array

    parts = []
    for rows, place in _bands(tiles):
        pixels = (rows.stop - rows.start) * tiles.shape[1]
        groups, column = np.unique(labels[place.patch], return_inverse=True)
        value = place.value / np.sqrt(np.bincount(place.pixel, place.weight, pixels)[place.pixel])
        W = coo_array((value, (place.pixel, column)), shape=(pixels, len(groups))).tocsr()
        part = (W.conj().T @ W).tocoo()
        upper, group = part.row < part.col, groups.astype(np.int32)
        parts.append((part.data[upper], group[part.row[upper]], group[part.col[upper]]))
    value, row, column = map(np.concatenate, zip(*parts, strict=True))
    parts.clear()
    half = coo_array((value, (row, column)), shape=(int(labels.max()) + 1,) * 2).tocsr()
    return half + half.conj().T


class _Place(NamedTuple):
    """Where patches go: one entry for each object pixel that a patch reaches."""

    patch: NDArray[np.int64]
    pixel: NDArray[np.int64]
    value: Complex
    weight: Float


def _tiles(patches: Complex, positions_px: Float, shape: tuple[int, int], M: int) -> Tiles:
    """Check, then cut."""
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
    return Tiles(centre, positions - M // 2, shape)


def _bands(tiles: Tiles) -> Iterator[tuple[slice, _Place]]:
    """Place tiles by bands of the object's rows; values come multiplied by their weights.

    Each band has all that reaches it, and about as many tiles as fit into `_CHUNK_PIXELS`.
    """
    height, width = tiles.shape
    top = np.floor(tiles.corners[:, 0])
    order = np.argsort(top, kind="stable")
    top, reach = top[order], tiles.values.shape[1] - 1
    step = max(1, _CHUNK_PIXELS // reach**2)
    cuts = np.unique([0, *np.clip(top[step::step], 0, height), height]).astype(int)
    for first, end in pairwise(cuts.tolist()):
        chosen = order[slice(*np.searchsorted(top, [first - reach + 1, end]))]
        place = _place(tiles.values[chosen], tiles.corners[chosen] - [first, 0], (end - first, width))
        yield slice(first, end), place._replace(patch=chosen[place.patch])


def _place(tiles: Complex, corners: Float, shape: tuple[int, int]) -> _Place:
    """Place tiles (k, M + 2, M + 2), whose pixel [1, 1] lies at `corners`."""
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
    return _Place(np.nonzero(inside)[0], (rows * W + cols)[inside], value[inside] * weight, weight)
