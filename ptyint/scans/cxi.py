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

from ptyint.errors import ScanError
from ptyint.scans import hdf5
from ptyint.scans.hdf5 import scalar
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
OBJECT_AXES = "layer:y:x"
OBJECT_PIXEL = (ENTRY + "ptychodus/object_pixel_width_m", ENTRY + "ptychodus/object_pixel_height_m")
CENTRE = (ENTRY + "ptychodus/object_center_y_m", ENTRY + "ptychodus/object_center_x_m")
COLUMNS = [1, 0]
"""Where y and x stand in a translation (x, y, z)."""

HIGHEST_ENERGY_J = 1e-12
"""6 MeV. Files that keep electronvolts by mistake hold thousands."""


def is_cxi(path: Path) -> bool:
    """Whether an HDF5 file holds a CXI entry, whatever its name."""
    with hdf5.open_h5(path) as file:
        return ENTRY in file


def read_cxi(path: Path, *, product: Path | None, object_is_truth: bool | None) -> Scan:
    """Read patterns from `path`; probe, object and positions from `product`, or from `path` if that is None."""
    notes = ["translation read as the place of the beam on the sample"]
    with hdf5.open_h5(path) as file, hdf5.open_h5(product or path) as second:
        patterns = hdf5.H5Patterns(path, _first(file, DATA))
        wavelength_m, distance_m = _wavelength(file), scalar(file, DISTANCE)
        pixel_m = _object_pixel(file, second, wavelength_m * distance_m / patterns.shape[-1])
        object_ = hdf5.single_layer(second, OBJECT_IMAGE) if _has_object(second) else None
        return Scan(
            diffraction_patterns=patterns,
            probe_positions_px=_positions(second, patterns.shape[0], object_, pixel_m, notes),
            probe=hdf5.first_coherent(second, _first(second, PROBE), notes),
            object_=object_,
            object_is_truth=hdf5.truth(second, object_is_truth),
            good_pixels=hdf5.good_pixels(file, MASK),
            pixel_size_m=pixel_m,
            wavelength_m=wavelength_m,
            detector_distance_m=distance_m,
            name=path.name if product is None else f"{path.name}, {product.name}",
            notes=tuple(notes),
        )


def _first(file: Any, names: tuple[str, str]) -> str:
    """Return the first of two places that holds a dataset; the error names both."""
    present = [name for name in names if name in file]
    if not present:
        raise ScanError(f"{file.filename}: no dataset {' or '.join(names)}. Add one of them.")
    return present[0]


def _wavelength(file: Any) -> float:
    if ENERGY not in file:
        return scalar(file, WAVELENGTH)
    energy = scalar(file, ENERGY)
    if not 0 < energy < HIGHEST_ENERGY_J:
        raise ScanError(
            f"{file.filename}: {ENERGY} is {energy}; allowed: joules, between 0 and {HIGHEST_ENERGY_J}. "
            f"Multiply electronvolts by 1.602176634e-19."
        )
    return hdf5.HC_J_M / energy


def _object_pixel(file: Any, product: Any, wavelength_distance_over_n: float) -> float:
    """Edge of an object pixel: as Ptychodus wrote it, else by the far field from the detector's."""
    if OBJECT_PIXEL[0] in product:
        width, height = (scalar(product, name) for name in OBJECT_PIXEL)
        return hdf5.square_pixel(product, "object", width, height)
    width, height = (scalar(file, name) for name in DETECTOR_PIXEL)
    return wavelength_distance_over_n / hdf5.square_pixel(file, "detector", width, height)


def _has_object(file: Any) -> bool:
    axes = file[OBJECT_IMAGE].attrs.get("axes") if OBJECT_IMAGE in file else None
    return (axes.decode() if isinstance(axes, bytes) else axes) == OBJECT_AXES


def _positions(
    file: Any, n: int, object_: NDArray[np.complex64] | None, pixel_m: float, notes: list[str]
) -> NDArray[np.float64]:
    name = _first(file, TRANSLATION)
    translation = hdf5.required(file, name)[()]
    if translation.shape == (3, n) and n != 3:
        notes.append(f"translation is stored as (3, n) = {translation.shape}: axes swapped")
        translation = translation.T
    if translation.shape != (n, 3):
        raise ScanError(
            f"{file.filename}: {name} has shape {translation.shape}; allowed: ({n}, 3), a place per pattern in metres, "
            f"order (x, y, z). Make patterns and positions agree."
        )
    places = translation[:, COLUMNS]
    if object_ is None:
        return np.asarray(places / pixel_m)
    centre = [scalar(file, key, 0.0) for key in CENTRE]
    return hdf5.to_pixels(places, centre, pixel_m, object_.shape)


def write_cxi(scan: Scan, path: Path) -> None:
    """Write a CXI file with the places that Ptychodus 1.7 reads too."""
    import h5py

    pixel_m, wavelength_m, distance_m, detector_pixel_m = hdf5.geometry(scan, path)
    shape = (0, 0) if scan.object_ is None else scan.object_.shape
    translation = np.zeros((scan.n, 3))
    translation[:, COLUMNS] = hdf5.to_metres(scan.probe_positions_px, pixel_m, shape)

    def fill(file: Any) -> None:
        file["cxi_version"] = 160
        file.attrs[hdf5.TRUTH] = scan.object_is_truth
        hdf5.write_patterns(file, DETECTOR + "data", scan)
        if scan.good_pixels is not None:
            file[MASK] = (~scan.good_pixels).astype(np.uint32)
        file[DISTANCE], file[ENERGY] = distance_m, hdf5.HC_J_M / wavelength_m
        for name in DETECTOR_PIXEL:
            file[name] = detector_pixel_m
        for name in OBJECT_PIXEL:
            file[name] = pixel_m
        file[TRANSLATION[0]] = translation
        file[PROBE_IMAGE] = scan.probe[None]
        file[PROBE_IMAGE].attrs["axes"] = "coherent:incoherent:y:x"
        links = {DATA[0]: DETECTOR + "data", TRANSLATION[1]: TRANSLATION[0], PROBE[0]: PROBE_IMAGE}
        for place, target in links.items():
            file[place] = h5py.SoftLink("/" + target)
        if scan.object_ is not None:
            file[OBJECT_IMAGE] = scan.object_[None]
            file[OBJECT_IMAGE].attrs["axes"] = OBJECT_AXES
            for name in CENTRE:
                file[name] = 0.0

    hdf5.write_h5(path, fill)
