"""CXI, the Coherent X-ray Imaging format of cxidb.org (1.6), as ptychography uses it.

============================================================  ========================================================
dataset below ``entry_1``                                     :class:`Scan`
============================================================  ========================================================
data_1/data, or instrument_1/detector_1/data (n, N, N)        diffraction_patterns, intensities, dtype kept
instrument_1/detector_1/mask (N, N), bits, see `HARMLESS`      good_pixels
instrument_1/detector_1/distance, x_pixel_size, y_pixel_size  detector_distance_m; pixel_size_m by the far field
instrument_1/source_1/energy (J), or wavelength (m)           wavelength_m
sample_1/geometry_1/translation, or data_1/translation        probe_positions_px, (n, 3) or (3, n), order (x, y, z), m
instrument_1/source_1/illumination, or probe                  probe, (N, N), (modes, N, N) or (coherent, modes, N, N)
image_2/data with axes "layer:y:x", as Ptychodus writes it    object_, one layer
ptychodus/object_pixel_width_m, .._height_m                   pixel_size_m, instead of the far field's
ptychodus/object_center_x_m, .._y_m                           where the positions' origin is in object_
============================================================  ========================================================

Numbers with an attribute ``units`` are converted. Translations are places of the beam on the sample, +x towards larger
columns, as Ptychodus takes them, or of the sample: the beam's with the other sign. Taken for the wrong one, they still
explain the patterns: by the object turned by 180 degrees and conjugated (phases change sign), with the probe turned and
conjugated too; the file's own probe and object then explain nothing. Where a file has both, they decide, unless it is
asked for. Without an object, pixel 0 is at 0 m.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyint.scans import hdf5
from ptyint.scans.fields import BRIEF, Fields
from ptyint.scans.forward import diffraction_amplitudes
from ptyint.scans.scan import Scan

MaskConvention = Literal["cxi", "cheetah", "any"]
Translation = Literal["beam", "sample"]

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

HARMLESS: dict[MaskConvention, int] = {"cxi": 0x7820, "cheetah": 0x6820, "any": 0}
"""Bits of a mask that do not mean bad: in a peak 0x20, 0x2000; an artefact 0x800 or the background 0x4000 corrected.

0x1000 is "signal above background" for cdtools and PyNX, "artefact not corrected" for Cheetah and Condor.
"""

TWIN = re.compile(r"(entry|instrument|detector|source|data|sample|geometry)_(?!1$)\d+")
"""What may stand beside the group of the same name and number 1, which is read."""


def is_cxi(path: Path) -> bool:
    """Whether an HDF5 file holds a CXI entry, whatever its name."""
    with hdf5.open_h5(path) as fields:
        return ENTRY.strip("/") in fields.names()


def read_cxi(
    path: Path, *, product: Path | None, mask_convention: MaskConvention | None, translation: Translation | None
) -> Scan:
    """Read patterns from `path`; probe, object and positions from `product`, or from `path` if that is None.

    Masks are read by the table `mask_convention` ("cxi" if left out). Without `translation`, probe and object decide
    what the translations are, where a file has them; else they are the beam's.
    """
    with hdf5.open_h5(path) as file, hdf5.open_h5(product or path) as second:
        patterns = hdf5.H5Patterns(file, DATA)
        n, edge = patterns.shape[:2]
        wavelength_m, distance_m = _wavelength(file), file.number(DISTANCE, "m")
        if OBJECT_PIXEL[0] in second:
            pixel_m = second.square_pixel(*OBJECT_PIXEL)
        else:  # by the far field
            pixel_m = wavelength_m * distance_m / edge / file.square_pixel(*DETECTOR_PIXEL)
        axes = second.text(OBJECT_IMAGE + "@axes")
        object_ = second.layer(OBJECT_IMAGE) if axes == OBJECT_AXES else None
        if object_ is None and OBJECT_IMAGE in second:
            second.notes.append(
                f"left unread: {OBJECT_IMAGE}, since its axes are {BRIEF.repr(axes)}, not {OBJECT_AXES}"
            )
        places_m, shape = _places(second, n), (0, 0) if object_ is None else object_.shape
        centre = [second.number(name) if name in second and object_ is not None else 0.0 for name in CENTRE]
        scan = Scan(
            diffraction_patterns=patterns,
            probe_positions_px=hdf5.to_pixels(places_m, centre, pixel_m, shape),
            probe=second.modes(PROBE, edge),
            object_=object_,
            object_is_truth=second.flag(hdf5.TRUTH),
            good_pixels=file.good_pixels(MASK, (edge, edge), HARMLESS[mask_convention or "cxi"]),
            pixel_size_m=pixel_m,
            wavelength_m=wavelength_m,
            detector_distance_m=distance_m,
            name=path.name if product is None else f"{path.name}, {product.name}",
        )
        turned = replace(scan, probe_positions_px=hdf5.to_pixels(-places_m, centre, pixel_m, shape))
        beam, sample = _misfit(scan), _misfit(turned)
        told: Translation = translation or ("sample" if 2 * sample < beam else "beam")
        decided = 2 * min(beam, sample) < max(beam, sample)
        reason = "asked for" if translation else "probe and object say so" if decided else "the default"
        misfits = f"they miss the patterns by {beam:.2g} if it is the beam's, {sample:.2g} if the sample's"
        second.notes.append(f"translation read as the place of the {told}: {reason}; {misfits}")
        for group in ("", ENTRY, ENTRY + "instrument_1/", ENTRY + "sample_1/"):
            twins = [name for name in getattr(file.node(group), "keys", tuple)() if TWIN.fullmatch(name)]
            file.notes += [f"left unread in /{group}: {BRIEF.repr(twins)}"] if twins else []
        return replace(turned if told == "sample" else scan, notes=(*file.notes, *second.notes))


def _misfit(scan: Scan) -> float:
    """How far the amplitudes by probe and object are from those of up to 16 patterns: 1 - correlation; 1 if unknown."""
    if scan.object_ is None:
        return 1.0
    corners = np.rint(scan.probe_positions_px) - scan.N // 2
    inside = np.flatnonzero(((corners >= 0) & (corners + scan.N <= scan.object_.shape)).all(axis=1))
    if not inside.size:
        return 1.0
    rows = inside[:: -(-inside.size // 16)]
    patches = np.stack([scan.object_[y : y + scan.N, x : x + scan.N] for y, x in corners[rows].astype(int)])
    measured = np.sqrt(scan.counts(rows)).astype(np.float64)
    expected = diffraction_amplitudes(scan.probe, patches) * (1 if scan.good_pixels is None else scan.good_pixels)
    correlation = (measured * expected).sum() / np.sqrt((measured**2).sum() * (expected**2).sum())
    return float(1 - correlation) if np.isfinite(correlation) else 1.0


def _wavelength(file: Fields) -> float:
    if ENERGY not in file:
        return file.number(WAVELENGTH, "m")
    energy = file.number(ENERGY, "J")
    if not 0 < energy < HIGHEST_ENERGY_J:
        raise file.refusal(
            f"{ENERGY} is {energy}; allowed: joules, between 0 and {HIGHEST_ENERGY_J}. "
            f"Multiply electronvolts by 1.602176634e-19, or give the attribute units."
        )
    return hdf5.HC_J_M / energy


def _places(file: Fields, n: int) -> NDArray[np.float64]:
    """Translations (y, x) in metres, (n, 2)."""
    remedy = "A place per pattern in metres, order (x, y, z): make patterns and positions agree."
    translation = file.array(TRANSLATION, "real", (n, 3), (3, n), remedy=remedy)
    if translation.shape == (3, 3):
        file.notes.append("translation is stored as (3, 3): read as (n, 3), the format's default")
    if translation.shape != (n, 3):
        file.notes.append(f"translation is stored as (3, n) = {translation.shape}: axes swapped")
        translation = translation.T
    return translation[:, COLUMNS].astype(np.float64) * file.scale(file.spellings(TRANSLATION)[0], "m")


def write_cxi(scan: Scan, path: Path) -> None:
    """Write a CXI file with the places that Ptychodus 1.7 reads too."""
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
