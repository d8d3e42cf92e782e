"""What the HDF5 formats share: fields, lazy patterns, metres and pixels, and how a file is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path
from ptyint.errors import ScanError
from ptyint.scans.fields import Fields, Place
from ptyint.scans.scan import PatternSource, Scan, pattern_slices

TRUTH = "@ptyint_object_is_truth"
"""Root attribute of ours, which other programs ignore."""

HC_J_M = 6.62607015e-34 * 299792458.0
"""Planck constant times speed of light (SI 2019, exact): photon energy x wavelength."""

ELECTRON_VOLT_J = 1.602176634e-19
"""SI 2019, exact."""


class H5Fields(Fields):
    """Datasets and attributes of an open HDF5 file: ``dataset``, ``dataset@attribute``, ``@attribute`` of the root."""

    def __init__(self, path: Path, file: Any) -> None:
        super().__init__(path)
        self.file = file

    def names(self) -> list[str]:
        """What stands at the root."""
        return sorted([*self.file, *(f"@{name}" for name in self.file.attrs)])

    def __contains__(self, name: str) -> bool:
        return self.stored(name) is not None

    def stored(self, name: str) -> Any:
        """The dataset, unread, or the attribute; None where there is neither."""
        import h5py

        place, _, attribute = name.partition("@")
        found = self.file.get(place or "/")
        if attribute:
            return np.asarray(found.attrs[attribute]) if found and attribute in found.attrs else None
        return found if isinstance(found, h5py.Dataset) and found.shape is not None else None

    def text(self, name: str) -> str | None:
        """An attribute's text; None where it is missing."""
        return str(self.stored(name).astype(str)) if name in self else None

    def modes(self, place: Place) -> NDArray[np.complex64]:
        """The probe's incoherent modes (modes, N, N) for the first coherent one; notes the others' number."""
        shapes = ("N", "N"), ("modes", "N", "N"), ("coherent", "modes", "N", "N")
        probe = self.array(place, "complex", *shapes, remedy="Write it so.")
        if probe.ndim == 4 and len(probe) > 1:
            self.notes.append(f"probe: the first of {len(probe)} coherent modes is used, the others vary per position")
        return (probe[0] if probe.ndim == 4 else probe.reshape(-1, *probe.shape[-2:])).astype(np.complex64)

    def layer(self, place: Place) -> NDArray[np.complex64]:
        """The object (H, W), of one layer."""
        remedy = "The model knows one layer: multiply the layers, or choose one."
        object_ = self.array(place, "complex", ("H", "W"), (1, "H", "W"), remedy=remedy)
        return object_.reshape(object_.shape[-2:]).astype(np.complex64)


class H5Patterns:
    """Patterns of an HDF5 file (m, H, W), or some `rows` of them in any order.

    Each access opens the file, reads the asked rows and nothing else, and closes it.
    """

    def __init__(self, file: H5Fields, place: Place, rows: NDArray[np.int64] | None = None) -> None:
        self._path, self._dataset = file.path, file.spellings(place)[0]
        data = file.stored(self._dataset)
        if data.ndim != 3:
            raise file.refusal(f"{self._dataset} has shape {data.shape}; allowed: (n, N, N). Write it as a stack.")
        self._rows = np.arange(len(data)) if rows is None else rows
        self.dtype: np.dtype[Any] = data.dtype
        self.shape: tuple[int, ...] = (len(self._rows), *data.shape[1:])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows = np.asarray(self._rows[index])
        ordered, inverse = np.unique(rows, return_inverse=True)
        with open_h5(self._path) as file:
            data = file.stored(*file.spellings(self._dataset))
            gapless = ordered.size > 0 and ordered[-1] - ordered[0] == ordered.size - 1
            read = data[ordered[0] : ordered[-1] + 1] if gapless else data[ordered]
        return np.asarray(read if np.array_equal(rows, ordered) else read[inverse.reshape(rows.shape)])


@contextmanager
def open_h5(path: Path) -> Iterator[H5Fields]:
    """Open an HDF5 file for reading; a ScanError where it is missing, no HDF5 file, or damaged."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ScanError(f"{path}: no readable HDF5 file ({error}). Check the path, or fetch the file again.") from error
    with file:
        try:
            yield H5Fields(path, file)
        except OSError as error:
            raise ScanError(f"{path}: damaged HDF5 file ({error}). Fetch or write it again.") from error


def to_pixels(
    positions_m: NDArray[Any], centre_m: Sequence[float], pixel_m: float, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Ptychodus' positions (n, 2) in metres as :class:`~ptyint.scans.scan.Scan`'s in pixels of an object (H, W).

    Ptychodus 1.7 (``ObjectGeometry``, ``ProbeGeometry.resolve_patch_bounds``) puts the world centre at pixel
    ``(size - 1) / 2`` and anchors a patch by its own middle, ``(N - 1) / 2``. A Scan's position is that of the patch's
    pixel ``N // 2``, half a pixel further (N is even): ``(x - centre) / pixel + (size - 1) / 2 + 1 / 2``. Measured:
    counts then fit to the Poisson level, and 6 to 23 times worse if half a pixel is left out or added twice.
    """
    return (np.asarray(positions_m, np.float64) - centre_m) / pixel_m + np.array(shape) / 2


def to_metres(positions_px: NDArray[np.float64], pixel_m: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Inverse of :func:`to_pixels` for an object centred on 0 m."""
    return np.asarray((positions_px - np.array(shape) / 2) * pixel_m)


def geometry(scan: Scan, path: Path) -> tuple[float, float, float, float]:
    """Return what the HDF5 formats must know, in SI: object pixel, wavelength, distance, detector pixel.

    The last follows from the far field: ``wavelength * distance / (N * object pixel)``. A ScanError names what the scan
    does not know.
    """
    known = {name: getattr(scan, name) for name in ("pixel_size_m", "wavelength_m", "detector_distance_m")}
    missing = [name for name, value in known.items() if value is None]
    if missing:
        raise ScanError(
            f"{path}: {scan.name} has no {', '.join(missing)}, and this format keeps positions in metres. "
            f"Give them with dataclasses.replace(scan, ...), or write an NPZ."
        )
    pixel, wavelength, distance = known.values()
    return pixel, wavelength, distance, wavelength * distance / (scan.N * pixel)


def write_h5(path: Path, values: Mapping[str, Any], *, patterns: Mapping[str, PatternSource] | None = None) -> None:
    """Write a file that replaces `path` once it is whole.

    `patterns` are copied by chunks, with their dtype, compressed as Ptychodus does. `values` stand under the names of
    :class:`H5Fields`, an attribute after what it belongs to; those that are None are left out.
    """
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, source in (patterns or {}).items():
            chunk = (1, *source.shape[1:])  # one pattern: batches read patterns in any order
            data = file.create_dataset(name, tuple(source.shape), source.dtype, chunks=chunk, compression="lzf")
            for rows in pattern_slices(source):
                data[rows] = source[rows]
        for name, value in values.items():
            place, _, attribute = name.partition("@")
            if attribute:
                file[place or "/"].attrs[attribute] = value
            elif value is not None:
                file[place] = value
