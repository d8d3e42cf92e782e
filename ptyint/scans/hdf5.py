"""What the HDF5 formats share: lazy patterns, required datasets, metres and pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path
from ptyint.errors import ScanError
from ptyint.scans.scan import Scan, pattern_slices

TRUTH = "ptyint_object_is_truth"
"""Root attribute of ours, which other programs ignore."""

HC_J_M = 6.62607015e-34 * 299792458.0
"""Planck constant times speed of light (SI 2019, exact): photon energy x wavelength."""

ELECTRON_VOLT_J = 1.602176634e-19
"""SI 2019, exact."""


class H5Patterns:
    """Patterns of an HDF5 file (m, H, W), or some `rows` of them in any order.

    Each access opens the file, reads the asked rows and nothing else, and closes it.
    """

    def __init__(self, path: Path, dataset: str, rows: NDArray[np.int64] | None = None) -> None:
        with open_h5(path) as file:
            data = required(file, dataset)
            if data.ndim != 3:
                raise ScanError(f"{path}: {dataset} has shape {data.shape}; allowed: (n, N, N). Write it as a stack.")
            self.dtype: np.dtype[Any] = data.dtype
            self._rows = np.arange(len(data)) if rows is None else rows
            self.shape: tuple[int, ...] = (len(self._rows), *data.shape[1:])
        self._path, self._dataset = path, dataset

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows = np.asarray(self._rows[index])
        if rows.size == 0:
            return np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        ordered, inverse = np.unique(rows, return_inverse=True)
        with open_h5(self._path) as file:
            data = required(file, self._dataset)
            gapless = ordered[-1] - ordered[0] == ordered.size - 1
            read = data[ordered[0] : ordered[-1] + 1] if gapless else data[ordered]
        return np.asarray(read if np.array_equal(rows, ordered) else read[inverse.reshape(rows.shape)])


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; a ScanError where it is missing, no HDF5 file, or damaged."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ScanError(f"{path}: no readable HDF5 file ({error}). Check the path, or fetch the file again.") from error
    with file:
        try:
            yield file
        except OSError as error:
            raise ScanError(f"{path}: damaged HDF5 file ({error}). Fetch or write it again.") from error


def required(file: Any, dataset: str) -> Any:
    """Return the dataset, or a ScanError that says which file lacks it."""
    import h5py

    found = file.get(dataset)
    if not isinstance(found, h5py.Dataset):
        raise ScanError(f"{file.filename}: dataset {dataset} is missing; the file holds {sorted(file)}. Add it.")
    return found


def number(file: Any, name: str, value: Any) -> float:
    """Return `value`, which the caller looked up in `file` as `name`; a ScanError unless it is one finite number."""
    if value is None:
        raise ScanError(f"{file.filename}: {name} is missing. Add it.")
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ScanError(f"{file.filename}: {name} is {array.tolist()!r}; allowed: one finite number. Correct it.")
    return float(array.reshape(()))


def scalar(file: Any, dataset: str, default: float | None = None) -> float:
    """Return a dataset that holds one number, as :func:`number` does."""
    return number(file, dataset, file.get(dataset, default))


def good_pixels(file: Any, dataset: str) -> NDArray[np.bool_] | None:
    """Where a mask of bad pixels, which need not be there, is zero; None if no pixel is bad."""
    bad = required(file, dataset)[()] != 0 if dataset in file else np.zeros((), np.bool_)
    return ~bad if bad.any() else None


def truth(file: Any, wish: bool | None) -> bool:
    """Whether the file's object made the patterns: as asked for, else as the file says, which is False for others'."""
    return bool(file.attrs.get(TRUTH, False)) if wish is None else wish


def first_coherent(file: Any, dataset: str, notes: list[str]) -> NDArray[np.complex64]:
    """Return the probe's incoherent modes (modes, N, N) for the first coherent one; notes the others' number."""
    probe = required(file, dataset)[()]
    if probe.dtype.kind != "c" or probe.ndim not in (2, 3, 4):
        raise ScanError(
            f"{file.filename}: {dataset} is {probe.dtype} {probe.shape}; "
            f"allowed: complex (N, N), (modes, N, N) or (coherent, modes, N, N). Write it so."
        )
    if probe.ndim == 4:
        if len(probe) > 1:
            notes.append(f"probe: the first of {len(probe)} coherent modes is used, the others vary per position")
        probe = probe[0]
    return np.asarray(probe if probe.ndim == 3 else probe[None], np.complex64)


def single_layer(file: Any, dataset: str) -> NDArray[np.complex64]:
    """Return the complex object (H, W); a ScanError where it has several layers."""
    object_ = required(file, dataset)[()]
    layers = object_ if object_.ndim == 3 else object_[None]
    if layers.dtype.kind != "c" or layers.ndim != 3 or len(layers) != 1:
        raise ScanError(
            f"{file.filename}: {dataset} is {object_.dtype} {object_.shape}; allowed: complex, (H, W) or (1, H, W). "
            f"The model knows one layer: multiply the layers, or choose one."
        )
    return np.asarray(layers[0], np.complex64)


def square_pixel(file: Any, what: str, width_m: float, height_m: float) -> float:
    """Return the edge of a pixel in metres; a ScanError where it is not square (within 1e-6) or not positive."""
    if not (width_m > 0 and abs(height_m / width_m - 1) < 1e-6):
        raise ScanError(
            f"{file.filename}: {what} pixels are {width_m} m wide and {height_m} m high; allowed: positive and square. "
            f"Resample or correct them."
        )
    return width_m


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


def write_patterns(group: Any, name: str, scan: Scan) -> Any:
    """Write the stored patterns with their dtype, by chunks, compressed as Ptychodus does; return the dataset."""
    source = scan.diffraction_patterns
    chunk = (1, *source.shape[1:])  # one pattern: batches read patterns in any order
    data = group.create_dataset(name, tuple(source.shape), source.dtype, chunks=chunk, compression="lzf")
    for rows in pattern_slices(source):
        data[rows] = source[rows]
    return data


def write_h5(path: Path, fill: Callable[[Any], None]) -> None:
    """Let `fill` write into an open file, which replaces `path` once it is whole."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        fill(file)
