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

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ScanError
from ptyint.scans import hdf5
from ptyint.scans.fields import Fields
from ptyint.scans.hdf5 import ELECTRON_VOLT_J, HC_J_M
from ptyint.scans.scan import Scan

DIFFRACTION_FILE, PRODUCT_FILE = "diffraction.h5", "product.h5"
PATTERNS, INDEXES, BAD = "patterns", "indexes", "bad_pixels"
POSITION_INDEXES, POSITION_X, POSITION_Y = "probe_position_indexes", "probe_position_x_m", "probe_position_y_m"
PROBE, OBJECT = "probe", "object"
PIXEL = ("object@pixel_width_m", "object@pixel_height_m")
CENTRE = ("object@center_y_m", "object@center_x_m")
ENERGIES = ("@photon_energy_eV", "@probe_energy_eV")
DISTANCE, FAR_FIELD = "@detector_object_distance_m", "@far_field"
UNKNOWN = ("@exposure_time_s", "@mass_attenuation_m2_per_kg", "@focus_object_distance_m")
ANGLES = ("@tomography_angle_deg", "@tilt_angle_deg")
EMPTY = ("object_layer_spacing_m", "loss_epochs", "loss_values")


def read_ptychodus(path: Path, *, product: Path | None) -> Scan:
    """Read a folder's pair, or a diffraction file and its product (``product.h5`` beside it, unless given).

    Patterns without a position of the same index are left out, and said so in the notes (Ptychodus interpolates a
    position for them); several positions of one index are averaged, as Ptychodus does.
    """
    diffraction = path / DIFFRACTION_FILE if path.is_dir() else path
    product = product or diffraction.parent / PRODUCT_FILE
    with hdf5.open_h5(diffraction) as file:
        whole = hdf5.H5Patterns(file, PATTERNS)
        indexes = file.array(INDEXES, "real", whole.shape[:1], remedy="Give one a pattern.")
        with hdf5.open_h5(product) as made:
            if not made.flag(FAR_FIELD, default=True):
                raise made.refusal(f"{FAR_FIELD} is False; allowed: True. The model knows the far field only.")
            object_, pixel_m = made.layer(OBJECT), made.square_pixel(*PIXEL)
            metres, centre = made.columns(POSITION_Y, POSITION_X, "m"), [made.number(name) for name in CENTRE]
            rows, positions = _match(indexes, hdf5.to_pixels(metres, centre, pixel_m, object_.shape), made)
            return Scan(
                diffraction_patterns=hdf5.H5Patterns(file, PATTERNS, rows),
                probe_positions_px=positions,
                probe=made.modes(PROBE, whole.shape[-1]),
                object_=object_,
                object_is_truth=made.flag(hdf5.TRUTH),
                good_pixels=file.good_pixels(BAD, whole.shape[1:]),
                pixel_size_m=pixel_m,
                wavelength_m=float(np.divide(HC_J_M, made.number(ENERGIES) * ELECTRON_VOLT_J)),
                detector_distance_m=made.number(DISTANCE),
                name=path.name if path.is_dir() else f"{diffraction.name}, {product.name}",
                notes=(*file.notes, *made.notes),
            )


def _match(
    pattern_indexes: NDArray[Any], positions: NDArray[np.float64], made: Fields
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the patterns that have a position, and these positions (n, 2)."""
    position_indexes = made.array(POSITION_INDEXES, "real", positions.shape[:1], remedy="Give one a position.")
    unique, inverse, counts = np.unique(position_indexes, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(inverse, axis) for axis in positions.T], axis=1) / counts[:, None]
    rows = np.flatnonzero(np.isin(pattern_indexes, unique))
    if not rows.size:
        raise made.refusal(
            f"no position has the index of a pattern; patterns {_span(pattern_indexes)}, "
            f"positions {_span(position_indexes)}. Take the product that belongs to these patterns."
        )
    if len(unique) < len(positions):
        made.notes.append(f"{len(positions) - len(unique)} positions with an index of another one: averaged")
    if lost := pattern_indexes.size - rows.size:
        made.notes.append(f"{lost} of {pattern_indexes.size} patterns have no position: left out")
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
    y_m, x_m = hdf5.to_metres(positions, pixel_m, object_.shape).T
    patterns = {
        INDEXES: np.arange(scan.n),
        BAD: np.zeros((scan.N, scan.N), np.bool_) if scan.good_pixels is None else ~scan.good_pixels,
        **{f"{PATTERNS}@detector_pixel_{edge}_m": detector_pixel_m for edge in ("width", "height")},
    }
    made = {
        "@name": scan.name,
        "@comments": "",
        "@probe_photon_count": float((np.abs(scan.probe.astype(np.complex128)) ** 2).sum()),
        DISTANCE: distance_m,
        ENERGIES[0]: HC_J_M / wavelength_m / ELECTRON_VOLT_J,
        FAR_FIELD: True,
        hdf5.TRUTH: scan.object_is_truth,
        POSITION_INDEXES: np.arange(scan.n),
        POSITION_Y: y_m,
        POSITION_X: x_m,
        PROBE: scan.probe[None],
        OBJECT: object_[None],
        **{f"{name}@pixel_{edge}_m": pixel_m for name in (PROBE, OBJECT) for edge in ("width", "height")},
        **dict.fromkeys((*CENTRE, *UNKNOWN, *ANGLES), 0.0),
        **dict.fromkeys(EMPTY, np.zeros(0)),
    }
    hdf5.write_h5(path / DIFFRACTION_FILE, patterns, patterns={PATTERNS: scan.diffraction_patterns})
    hdf5.write_h5(path / PRODUCT_FILE, made)


def _with_object(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
    """Return the scan's object and positions, or a flat object that covers all patches, and the positions in it."""
    if scan.object_ is not None:
        return scan.object_, scan.probe_positions_px
    origin = np.floor(scan.probe_positions_px.min(axis=0)) - scan.N // 2
    shape = np.ceil(scan.probe_positions_px.max(axis=0)) - origin + scan.N // 2
    return np.ones(shape.astype(int), np.complex64), scan.probe_positions_px - origin
