"""CXI, the Coherent X-ray Imaging format of cxidb.org (1.6), as ptychography uses it.

============================================================  ========================================================
dataset below ``entry_1``                                     :class:`Scan`
============================================================  ========================================================
data_1/data, or instrument_1/detector_1/data (n, N, N)        diffraction_patterns, intensities, dtype kept
instrument_1/detector_1/mask (N, N), 0 = good                 good_pixels
instrument_1/detector_1/distance, x_pixel_size, y_pixel_size  detector_distance_m; pixel_size_m by the far field
instrument_1/source_1/energy (J), or wavelength (m)           wavelength_m
sample_1/geometry_1/translation, or data_1/translation        probe_positions_px, (n, 3) or (3, n), order (x, y, z), m
instrument_1/source_1/illumination, or probe                  probe, (N, N), (modes, N, N) or (coherent, modes, N, N)
image_2/data with axes "layer:y:x", as Ptychodus writes it    object_, one layer
ptychodus/object_pixel_width_m, .._height_m                   pixel_size_m, instead of the far field's
ptychodus/object_center_x_m, .._y_m                           where the positions' origin is in object_
============================================================  ========================================================

Translations are taken as places of the beam on the sample, +x towards larger columns, as Ptychodus takes them. Files in
which they are the sample's own motion come out turned by 180 degrees. Without an object, pixel 0 is at 0 m.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.scans import hdf5
from ptyint.scans.fields import Fields
from ptyint.scans.scan import Scan

ENTRY = "entry_1/"
DETECTOR, SOURCE = ENTRY + "instrument_1/detector_1/", ENTRY + "instrument_1/source_1/"
DATA = (ENTRY + "data_1/data", DETECTOR + "data")
TRANSLATION = (ENTRY + "sample_1/geometry_1/translation", ENTRY + "data_1/translation")
PROBE = (SOURCE + "illumination", SOURCE + "probe")
MASK, DISTANCE = DETECTOR + "mask", DETECTOR + "distance"
DETECTOR_PIXEL = (DETECTOR + "x_pixel_size", DETECTOR + "y_pixel_size")
ENERGY, WAVELENGTH = SOURCE + "energy", SOURCE + "wavelength"
PROBE_IMAGE, OBJECT_IMAGE = ENTRY + "image_1/data", ENTRY + "image_2/data"
PROBE_AXES, OBJECT_AXES = "coherent:incoherent:y:x", "layer:y:x"
OBJECT_PIXEL = (ENTRY + "ptychodus/object_pixel_width_m", ENTRY + "ptychodus/object_pixel_height_m")
CENTRE = (ENTRY + "ptychodus/object_center_y_m", ENTRY + "ptychodus/object_center_x_m")
COLUMNS = [1, 0]
"""Where y and x stand in a translation (x, y, z)."""

HIGHEST_ENERGY_J = 1e-12
"""6 MeV. Files that keep electronvolts by mistake hold thousands."""


def is_cxi(path: Path) -> bool:
    """Whether an HDF5 file holds a CXI entry, whatever its name."""
    with hdf5.open_h5(path) as fields:
        return ENTRY in fields.file


def read_cxi(path: Path, *, product: Path | None) -> Scan:
    """Read patterns from `path`; probe, object and positions from `product`, or from `path` if that is None."""
    with hdf5.open_h5(path) as file, hdf5.open_h5(product or path) as second:
        second.notes.append("translation read as the place of the beam on the sample")
        patterns = hdf5.H5Patterns(file, DATA)
        wavelength_m, distance_m = _wavelength(file), file.number(DISTANCE)
        if OBJECT_PIXEL[0] in second:
            pixel_m = second.square_pixel(*OBJECT_PIXEL)
        else:  # by the far field
            pixel_m = wavelength_m * distance_m / patterns.shape[-1] / file.square_pixel(*DETECTOR_PIXEL)
        object_ = second.layer(OBJECT_IMAGE) if second.text(OBJECT_IMAGE + "@axes") == OBJECT_AXES else None
        return Scan(
            diffraction_patterns=patterns,
            probe_positions_px=_positions(second, patterns.shape[0], object_, pixel_m),
            probe=second.modes(PROBE),
            object_=object_,
            object_is_truth=second.flag(hdf5.TRUTH),
            good_pixels=file.good_pixels(MASK),
            pixel_size_m=pixel_m,
            wavelength_m=wavelength_m,
            detector_distance_m=distance_m,
            name=path.name if product is None else f"{path.name}, {product.name}",
            notes=tuple(second.notes),
        )


def _wavelength(file: Fields) -> float:
    if ENERGY not in file:
        return file.number(WAVELENGTH)
    energy = file.number(ENERGY)
    if not 0 < energy < HIGHEST_ENERGY_J:
        raise file.refusal(
            f"{ENERGY} is {energy}; allowed: joules, between 0 and {HIGHEST_ENERGY_J}. "
            f"Multiply electronvolts by 1.602176634e-19."
        )
    return hdf5.HC_J_M / energy


def _positions(file: Fields, n: int, object_: NDArray[np.complex64] | None, pixel_m: float) -> NDArray[np.float64]:
    remedy = "A place per pattern in metres, order (x, y, z): make patterns and positions agree."
    translation = file.array(TRANSLATION, "real", (n, 3), (3, n), remedy=remedy)
    if translation.shape != (n, 3):
        file.notes.append(f"translation is stored as (3, n) = {translation.shape}: axes swapped")
        translation = translation.T
    places = translation[:, COLUMNS]
    if object_ is None:
        return np.asarray(places / pixel_m)
    centre = [file.number(name) if name in file else 0.0 for name in CENTRE]
    return hdf5.to_pixels(places, centre, pixel_m, object_.shape)


def write_cxi(scan: Scan, path: Path) -> None:
    """Write a CXI file with the places that Ptychodus 1.7 reads too."""
    import h5py

    pixel_m, wavelength_m, distance_m, detector_pixel_m = hdf5.geometry(scan, path)
    shape = (0, 0) if scan.object_ is None else scan.object_.shape
    translation = np.zeros((scan.n, 3))
    translation[:, COLUMNS] = hdf5.to_metres(scan.probe_positions_px, pixel_m, shape)
    values: dict[str, Any] = {
        "cxi_version": 160,
        hdf5.TRUTH: scan.object_is_truth,
        MASK: None if scan.good_pixels is None else (~scan.good_pixels).astype(np.uint32),
        DISTANCE: distance_m,
        ENERGY: hdf5.HC_J_M / wavelength_m,
        **dict.fromkeys(DETECTOR_PIXEL, detector_pixel_m),
        **dict.fromkeys(OBJECT_PIXEL, pixel_m),
        TRANSLATION[0]: translation,
        PROBE_IMAGE: scan.probe[None],
        PROBE_IMAGE + "@axes": PROBE_AXES,
    }
    if scan.object_ is not None:
        values |= {OBJECT_IMAGE: scan.object_[None], OBJECT_IMAGE + "@axes": OBJECT_AXES} | dict.fromkeys(CENTRE, 0.0)
    links = {DATA[0]: DATA[1], TRANSLATION[1]: TRANSLATION[0], PROBE[0]: PROBE_IMAGE}
    values |= {place: h5py.SoftLink("/" + target) for place, target in links.items()}
    hdf5.write_h5(path, values, patterns={DATA[1]: scan.diffraction_patterns})
