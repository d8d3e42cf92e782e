"""The acquisition: the one place that defines shapes and units.

Everything that the package reads becomes a :class:`Scan`; everything that it writes starts from one.
Pixels are counted as arrays are: axis 0 is y (rows), axis 1 is x (columns).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class PatternSource(Protocol):
    """What :attr:`Scan.diffraction_patterns` must offer: an array, or a file read by slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, N)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Patterns at `index` along the first axis."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One ptychographic acquisition.

    Attributes
    ----------
    diffraction_patterns : PatternSource, (n, N, N)
        Counts (photons per pixel), any unsigned integer or float dtype, zero frequency at
        ``[N // 2, N // 2]``. May be a lazy source: read it through :meth:`counts`.
    probe_positions_px : ndarray of float64, (n, 2)
        ``(y, x)`` of each patch's centre in object pixels: position ``(cy, cx)`` is the object patch whose
        pixel ``[N // 2, N // 2]`` lies at ``object_[cy, cx]``.
    probe : ndarray of complex64, (modes, N, N)
        Illumination; its scale is the file's own (photon-normalised where the format says so).
    object_ : ndarray of complex64, (H, W), optional
        The object that came with the scan: a guess, unless `object_is_truth`.
    object_is_truth : bool
        True only for simulated scans whose `object_` made the patterns.
    object_patches : ndarray of complex64, (n, N, N), optional
        ``Y`` of the PtychoPINN format.
    good_pixels : ndarray of bool, (N, N), optional
        False where the detector is defective. None: all good.
    pixel_size_m : float, optional
        Edge of an object pixel. None where the format does not tell.
    wavelength_m, detector_distance_m : float, optional
    name : str
        The file or fixture, for messages.
    notes : tuple of str
        What the reader found and decided (a pickled field left unread, a swapped axis, ...).
    """

    diffraction_patterns: PatternSource
    probe_positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64]
    object_: NDArray[np.complex64] | None = None
    object_is_truth: bool = False
    object_patches: NDArray[np.complex64] | None = None
    good_pixels: NDArray[np.bool_] | None = None
    pixel_size_m: float | None = None
    wavelength_m: float | None = None
    detector_distance_m: float | None = None
    name: str = "scan"
    notes: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Number of diffraction patterns."""
        return int(self.diffraction_patterns.shape[0])

    @property
    def N(self) -> int:
        """Edge of a diffraction pattern in pixels."""
        return int(self.diffraction_patterns.shape[-1])

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Counts of the patterns at `index`, bad pixels set to zero.

        Parameters
        ----------
        index : slice or ndarray of int
            Which patterns; lazy sources read no others.

        Returns
        -------
        ndarray of float32, (k, N, N)
        """
        counts = np.asarray(self.diffraction_patterns[index]).astype(np.float32)
        if self.good_pixels is not None:
            counts *= self.good_pixels
        return counts
