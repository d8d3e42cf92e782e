"""Positions to groups: which patterns the network sees together, and where they lie in their group."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ConfigError, ScanError

TIE_PX = 1e-6
"""Distances that differ by less are equal: rounding must not choose a neighbour on a regular grid."""

ROWS = 4096
"""Positions whose neighbours are looked for at once."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of C = gridsize**2 overlapping patterns.

    Attributes
    ----------
    gridsize : int
    indices : ndarray of int64, (n_groups, C)
        Patterns of each group; column 0 is the seed.
    offsets_px : ndarray of float64, (n_groups, C, 2)
        ``(y, x)`` of each pattern relative to the group's centre; they sum to zero.
    centers_px : ndarray of float64, (n_groups, 2)
        ``(y, x)`` mean position of the group.
    """

    gridsize: int
    indices: NDArray[np.int64]
    offsets_px: NDArray[np.float64]
    centers_px: NDArray[np.float64]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.indices.shape[0])

    @property
    def n_channels(self) -> int:
        """C = gridsize**2, the patterns in a group."""
        return int(self.indices.shape[1])

    def sha256(self) -> str:
        """Hexadecimal digest of the content: equal digests prove that two backends got the same groups."""
        digest = hashlib.sha256(f"groups gridsize={self.gridsize} n={self.n_groups}".encode())
        digest.update(np.ascontiguousarray(self.indices, "<i8").tobytes())
        for array in (self.offsets_px, self.centers_px):
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
        return digest.hexdigest()


def group_positions(
    positions_px: NDArray[np.float64],
    *,
    gridsize: int,
    n_groups: int | None = None,
    neighbor_count: int = 4,
    seed: int = 0,
) -> Groups:
    """Group each seed pattern with C - 1 of its nearest neighbours.

    Parameters
    ----------
    positions_px : ndarray of float64, (n, 2)
        ``(y, x)`` positions in pixels; duplicates are allowed.
    gridsize : int
        Groups hold C = gridsize**2 patterns; with 1 each pattern is a group of its own.
    n_groups : int, optional
        None: every pattern seeds one group, in the order of the scan. Otherwise seeds follow a random permutation,
        repeated where `n_groups` exceeds n (only with gridsize > 1), so that each pattern seeds equally often, give
        or take one.
    neighbor_count : int
        The C - 1 companions are drawn without replacement from so many nearest neighbours of the seed (from all the
        others where the scan has fewer). Neighbours at equal distance (within 1e-6 px) rank by index. Unused when
        gridsize is 1.
    seed : int
        Of ``numpy.random.default_rng``, the only source of randomness.

    Returns
    -------
    Groups

    Raises
    ------
    ScanError
        `positions_px` has another shape, or is not finite.
    ConfigError
        A number is out of range, or the scan has too few patterns for the gridsize.
    """
    positions = checked_positions(positions_px)
    n, channels = len(positions), gridsize**2
    _check(n, gridsize, n_groups, neighbor_count, seed)

    rng = np.random.default_rng(seed)
    seeds = np.arange(n) if n_groups is None else np.resize(rng.permutation(n), n_groups)
    columns = [seeds[:, None]]
    if channels > 1:
        near = _nearest(positions, min(neighbor_count, n - 1))[seeds]
        drawn = np.argsort(rng.random(near.shape), axis=1, kind="stable")[:, : channels - 1]
        columns.append(np.take_along_axis(near, drawn, axis=1))
    indices = np.concatenate(columns, axis=1).astype(np.int64)
    members = positions[indices]
    centers = members.mean(axis=1)
    return Groups(gridsize, indices, members - centers[:, None], centers)


def checked_positions(positions_px: NDArray[np.float64], n: int | None = None) -> NDArray[np.float64]:
    """Positions (n, 2) as float64, or a ScanError: another shape, or a value that is not finite."""
    positions = np.asarray(positions_px, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or n not in (None, len(positions)):
        expected = f"({'n' if n is None else n}, 2)"
        raise ScanError(f"positions_px has shape {positions.shape}; expected {expected}, order (y, x).")
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise ScanError(f"positions_px[{bad}] is {positions[bad]}; positions must be finite: drop that pattern.")
    return positions


def _check(n: int, gridsize: int, n_groups: int | None, neighbor_count: int, seed: int) -> None:
    companions = gridsize**2 - 1
    if gridsize < 1:
        raise ConfigError(f"gridsize is {gridsize}; it must be 1 or more.")
    if n <= companions:
        raise ConfigError(f"gridsize {gridsize} needs {companions + 1} patterns or more; the scan has {n}.")
    if companions and neighbor_count < companions:
        raise ConfigError(
            f"neighbor_count is {neighbor_count}; gridsize {gridsize} draws {companions} neighbours, so it must be "
            f"{companions} or more."
        )
    if n_groups is not None and n_groups < 1:
        raise ConfigError(f"n_groups is {n_groups}; it must be 1 or more, or None for one group per pattern.")
    if n_groups is not None and not companions and n_groups > n:
        raise ConfigError(
            f"n_groups is {n_groups}, but the scan has {n} patterns; with gridsize 1 more groups would only be copies: "
            f"ask for at most {n}, or None."
        )
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")


def _nearest(positions: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(n, count) nearest others of each position, by distance, then index."""
    from scipy.spatial import cKDTree

    tree, n = cKDTree(positions), len(positions)
    nearest = np.empty((n, count), dtype=np.int64)
    for start in range(0, n, ROWS):
        left, k = np.arange(start, min(n, start + ROWS)), count + 1  # the position itself is one of count + 1
        while left.size:  # as many more as it takes to see every tie
            k = min(n, 2 * k)
            reach, near = tree.query(positions[left], k=k)
            distance = np.round(np.hypot(*np.moveaxis(positions[near] - positions[left, None], -1, 0)) / TIE_PX)
            distance[near == left[:, None]] = np.inf
            ranked = np.take_along_axis(near, np.lexsort((near, distance)), axis=1)[:, :count]
            seen = (reach[:, -1] > reach[:, count] + 2 * TIE_PX) | (k == n)
            nearest[left[seen]], left = ranked[seen], left[~seen]
    return nearest
