"""Ptychodus' HDF5 pair (layout of its ``api/io.py``, version 1.7): the patterns, and the product made from them.

=============  =======================================================  ===============================================
file           dataset or attribute                                     :class:`Scan`
=============  =======================================================  ===============================================
diffraction    patterns (m, N, N)                                       diffraction_patterns, intensities, dtype kept
diffraction    indexes (m,)                                             which position belongs to which pattern
diffraction    bad_pixels (N, N) bool, True = bad                       good_pixels, inverted; None if none is bad
product        probe_position_indexes, _x_m, _y_m (k,)                  probe_positions_px
product        probe (coherent, incoherent, N, N) complex               probe: the first coherent mode
product        object (layers, H, W) complex                            object_: one layer only
product        object: pixel_width_m, pixel_height_m, center_x_m, _y_m  pixel_size_m; where the positions' origin is
product        photon_energy_eV (older: probe_energy_eV)                wavelength_m
product        detector_object_distance_m                               detector_distance_m
=============  =======================================================  ===============================================

Losses, doses and angles are left unread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ScanError
from ptyint.scans import hdf5
from ptyint.scans.hdf5 import ELECTRON_VOLT_J, HC_J_M, number, required
from ptyint.scans.scan import Scan

DIFFRACTION_FILE, PRODUCT_FILE = "diffraction.h5", "product.h5"
PATTERNS, INDEXES, BAD = "patterns", "indexes", "bad_pixels"
POSITION_INDEXES, POSITION_X, POSITION_Y = "probe_position_indexes", "probe_position_x_m", "probe_position_y_m"
PROBE, OBJECT = "probe", "object"
WIDTH, HEIGHT, CENTRE_X, CENTRE_Y = "pixel_width_m", "pixel_height_m", "center_x_m", "center_y_m"
ENERGY, OLD_ENERGY = "photon_energy_eV", "probe_energy_eV"
DISTANCE, FAR_FIELD = "detector_object_distance_m", "far_field"


def read_ptychodus(path: Path, *, product: Path | None, object_is_truth: bool | None) -> Scan:
    """Read a folder's pair, or a diffraction file and its product (``product.h5`` beside it, unless given).

    Patterns without a position of the same index are left out, and said so in the notes (Ptychodus interpolates a
    position for them); several positions of one index are averaged, as Ptychodus does.
    """
    diffraction = path / DIFFRACTION_FILE if path.is_dir() else path
    product = product or diffraction.parent / PRODUCT_FILE
    notes: list[str] = []
    with hdf5.open_h5(diffraction) as file:
        indexes = required(file, INDEXES)[()]
        n_patterns = required(file, PATTERNS).shape[0]
        if required(file, PATTERNS).ndim == 3 and indexes.shape != (n_patterns,):
            raise ScanError(
                f"{diffraction}: {INDEXES} has shape {indexes.shape}; must be ({n_patterns},), one a pattern."
            )
        good = hdf5.good_pixels(file, BAD)
    with hdf5.open_h5(product) as file:
        if not file.attrs.get(FAR_FIELD, True):
            raise ScanError(f"{product}: {FAR_FIELD} is False; allowed: True. The model knows the far field only.")
        energy_ev = number(file, ENERGY, file.attrs.get(ENERGY, file.attrs.get(OLD_ENERGY)))
        object_, pixel_m, positions = _object_and_positions(file)
        rows, matched = _match(indexes, required(file, POSITION_INDEXES)[()], positions, product, notes)
        return Scan(
            diffraction_patterns=hdf5.H5Patterns(diffraction, PATTERNS, rows),
            probe_positions_px=matched,
            probe=hdf5.first_coherent(file, PROBE, notes),
            object_=object_,
            object_is_truth=hdf5.truth(file, object_is_truth),
            good_pixels=good,
            pixel_size_m=pixel_m,
            wavelength_m=HC_J_M / (energy_ev * ELECTRON_VOLT_J),
            detector_distance_m=number(file, DISTANCE, file.attrs.get(DISTANCE)),
            name=f"{path.name}" if path.is_dir() else f"{diffraction.name}, {product.name}",
            notes=tuple(notes),
        )


def _object_and_positions(file: Any) -> tuple[NDArray[np.complex64], float, NDArray[np.float64]]:
    object_ = hdf5.single_layer(file, OBJECT)
    attributes = file[OBJECT].attrs
    names = (WIDTH, HEIGHT, CENTRE_Y, CENTRE_X)
    width, height, *centre = (number(file, f"object's {name}", attributes.get(name)) for name in names)
    pixel_m = hdf5.square_pixel(file, OBJECT, width, height)
    columns = [required(file, name)[()] for name in (POSITION_Y, POSITION_X)]
    if columns[0].shape != columns[1].shape or columns[0].ndim != 1:
        raise ScanError(f"{file.filename}: positions of shapes {[one.shape for one in columns]}; allowed: (n,), equal.")
    return object_, pixel_m, hdf5.to_pixels(np.stack(columns, axis=1), centre, pixel_m, object_.shape)


def _match(
    pattern_indexes: NDArray[Any],
    position_indexes: NDArray[Any],
    positions: NDArray[np.float64],
    product: Path,
    notes: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the patterns that have a position, and these positions (n, 2)."""
    if position_indexes.shape != positions.shape[:1]:
        raise ScanError(f"{product}: {position_indexes.shape} indexes for {len(positions)} positions; must be equal.")
    unique, inverse, counts = np.unique(position_indexes, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(inverse, axis) for axis in positions.T], axis=1) / counts[:, None]
    rows = np.flatnonzero(np.isin(pattern_indexes, unique))
    if not rows.size:
        raise ScanError(
            f"{product}: no position has the index of a pattern; patterns {_span(pattern_indexes)}, "
            f"positions {_span(position_indexes)}. Take the product that belongs to these patterns."
        )
    if len(unique) < len(positions):
        notes.append(f"{len(positions) - len(unique)} positions with an index of another one: averaged")
    if rows.size < pattern_indexes.size:
        lost = pattern_indexes.size - rows.size
        notes.append(f"{lost} of {pattern_indexes.size} patterns have no position: left out")
    return rows, mean[np.searchsorted(unique, pattern_indexes[rows])]


def _span(indexes: NDArray[Any]) -> str:
    return f"{indexes.min()} to {indexes.max()}" if indexes.size else "none"


def write_ptychodus(scan: Scan, path: Path) -> None:
    """Write ``diffraction.h5`` and ``product.h5`` into the folder `path`, so that Ptychodus reads them.

    A scan without an object gets a flat one that covers all patches, since a product must have one; positions keep
    their distances. ``probe_photon_count`` is the probe's energy, right where the probe is photon-normalised.
    """
    pixel_m, wavelength_m, distance_m, detector_pixel_m = hdf5.geometry(scan, path)
    if path.is_file():
        raise ScanError(f"{path} is a file; allowed: a folder, for the pair. Give its folder.")
    path.mkdir(parents=True, exist_ok=True)
    object_, positions = _with_object(scan)

    def patterns(file: Any) -> None:
        bad = np.zeros((scan.N, scan.N), np.bool_) if scan.good_pixels is None else ~scan.good_pixels
        data = hdf5.write_patterns(file, PATTERNS, scan)
        data.attrs["detector_pixel_width_m"] = data.attrs["detector_pixel_height_m"] = detector_pixel_m
        file.create_dataset(INDEXES, data=np.arange(scan.n), compression="lzf")
        file.create_dataset(BAD, data=bad, compression="lzf")

    def product(file: Any) -> None:
        file.attrs["name"], file.attrs["comments"] = scan.name, ""
        file.attrs["probe_photon_count"] = float((np.abs(scan.probe.astype(np.complex128)) ** 2).sum())
        file.attrs[DISTANCE], file.attrs[ENERGY] = distance_m, HC_J_M / wavelength_m / ELECTRON_VOLT_J
        file.attrs[FAR_FIELD], file.attrs[hdf5.TRUTH] = True, scan.object_is_truth
        for zero in ("exposure_time_s", "mass_attenuation_m2_per_kg", "tomography_angle_deg", "tilt_angle_deg"):
            file.attrs[zero] = 0.0
        file.attrs["focus_object_distance_m"] = 0.0
        file[POSITION_INDEXES] = np.arange(scan.n)
        file[POSITION_Y], file[POSITION_X] = hdf5.to_metres(positions, pixel_m, object_.shape).T
        file[PROBE], file[OBJECT] = scan.probe[None], object_[None]
        for name in (PROBE, OBJECT):
            file[name].attrs[WIDTH] = file[name].attrs[HEIGHT] = pixel_m
        file[OBJECT].attrs[CENTRE_X] = file[OBJECT].attrs[CENTRE_Y] = 0.0
        for empty in ("object_layer_spacing_m", "loss_epochs", "loss_values"):
            file[empty] = np.zeros(0)

    hdf5.write_h5(path / DIFFRACTION_FILE, patterns)
    hdf5.write_h5(path / PRODUCT_FILE, product)


def _with_object(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """Return the scan's object and positions, or a flat object that covers all patches, and the positions in it."""
    if scan.object_ is not None:
        return scan.object_, scan.probe_positions_px
    origin = np.floor(scan.probe_positions_px.min(axis=0)) - scan.N // 2
    shape = np.ceil(scan.probe_positions_px.max(axis=0)) - origin + scan.N // 2
    return np.ones(shape.astype(int), np.complex64), scan.probe_positions_px - origin
