"""Readers and writers: files that other programs could have written, byte by byte as their formats say, and back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from common import beam, fact, given, named, projected, wave

N, PLACES, PIXEL_M, DISTANCE_M, WAVELENGTH_M = 8, 5, 2e-8, 1.5, 1.25e-10
LIGHT_M_S, PLANCK_J_S, ELECTRON_VOLT_J = 299792458.0, 6.62607015e-34, 1.602176634e-19
ODD = (21, 26)
"""Height and width of the object: neither is the other, and one is odd."""

READ = {
    "counts": "projected({}.counts().astype(float))",
    "positions": "{}.probe_positions_px",
    "probe": "projected({}.probe.astype(complex))",
    "object": "projected({}.object_.astype(complex))",
    "good pixels": "{}.good_pixels.astype(int)",
    "pixel": "{}.pixel_size_m * 1e8",
    "wavelength": "{}.wavelength_m * 1e10",
    "distance": "{}.detector_distance_m",
}


def hdf5(values: Mapping[str, Any]) -> np.ndarray:
    """A file, as bytes; ``dataset@attribute`` is an attribute."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in values.items():
            place, _, attribute = name.partition("@")
            if attribute:
                file[place or "/"].attrs[attribute] = value
            else:
                file[place] = value
    return np.frombuffer(buffer.getvalue(), np.uint8)


def npz(**arrays: Any) -> np.ndarray:
    """An archive, as bytes."""
    np.savez(buffer := io.BytesIO(), **arrays)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def read(case: str, expression: str, expected: Mapping[str, Any]) -> None:
    """What a reader must make of a file."""
    name = "read_" + "_".join(case.replace(",", "").split())
    named(name, expression)
    for what, value in expected.items():
        fact("readers", f"{case}: {what}", READ[what].format(name), value)


def written(case: str, expression: str, expected: Any) -> None:
    """What a writer must leave, in the words of h5py or NumPy."""
    fact("writers", case, expression, expected)


def make_files() -> None:
    """A scan of five patterns, in each format."""
    rng = np.random.default_rng(41)
    places = np.array([[6.25, 7.5], [6.5, 13.0], [11.75, 8.25], [12.0, 18.5], [9.0, 12.625]])
    counts = rng.integers(0, 200, (PLACES, N, N)).astype(np.uint16)
    probe, sample = beam(N, 2), wave(*ODD, seed=42).astype(np.complex64)
    bad = np.zeros((N, N), bool)
    bad[1, 5] = bad[6, 2] = bad[7, 3] = True
    masked, good = np.where(bad, 0, counts), (~bad).astype(int)
    image = {"probe": projected(probe.astype(complex)), "object": projected(sample.astype(complex))}
    known = {"pixel": PIXEL_M * 1e8, "wavelength": WAVELENGTH_M * 1e10, "distance": DISTANCE_M}

    # PtychoPINN: x is the column; amplitudes in single precision.
    amplitudes = np.sqrt(counts.astype(np.float32))
    usual = {"xcoords": places[:, 1], "ycoords": places[:, 0], "probeGuess": probe[0], "objectGuess": sample}
    squares = (amplitudes.astype(float) ** 2).astype(np.float32).astype(float)
    given("npz_plain", npz(diffraction=amplitudes, **usual))
    of_one = {"probe": projected(probe[:1].astype(complex)), "object": image["object"]}
    read("NPZ", "files.read_scan(file(npz_plain, 'a.npz'))",
         {"counts": projected(squares), "positions": places, **of_one})  # fmt: skip
    given("npz_last", npz(diff3d=np.moveaxis(counts, 0, -1), **usual))
    read("NPZ, patterns last", "files.read_scan(file(npz_last, 'a.npz'))",
         {"counts": projected(counts.astype(float)), "positions": places})  # fmt: skip
    for order in "CF":
        large = np.asarray(np.tensordot((1, 2, 5), np.indices((70, 64, 64)), 1) % 90, np.float32, order=order)
        given(f"npz_{order}", npz(diffraction=large, xcoords=np.arange(70.0), ycoords=np.arange(70.0),
                                  probeGuess=beam(64, 1)[0]))  # fmt: skip
        read(f"NPZ, large, order {order}", f"files.read_scan(file(npz_{order}, 'a.npz'))",
             {"counts": projected(large.astype(float) ** 2)})  # fmt: skip
    for true in (True, False):
        given(f"npz_{true}", npz(diffraction=amplitudes, ptyint_object_is_truth=true, **usual))
        call = f"files.read_scan(file(npz_{true}, 'a.npz')).object_is_truth"
        fact("readers", f"NPZ, whose object is the truth: {true}", f"str({call})", str(true))
    given("npz_gap", npz(diffraction=np.where(bad, 65535, counts).astype(np.uint16), **usual))
    read("NPZ, gaps of the detector", "files.read_scan(file(npz_gap, 'a.npz'))",
         {"counts": projected(masked.astype(float)), "good pixels": good})  # fmt: skip
    # Ptychodus' export: intensities, and the middle between pixels N / 2 - 1 and N / 2.
    given("npz_export", npz(diffraction=counts.astype(np.float32), bad_pixels=bad, **usual))
    read("NPZ, exported by Ptychodus", "files.read_scan(file(npz_export, 'a.npz'))",
         {"counts": projected(masked.astype(float)), "positions": places + 0.5, "good pixels": good})  # fmt: skip

    # Ptychodus: metres from the centre, which is at (size - 1) / 2; a patch begins (N - 1) / 2 before its place.
    centre_m = np.array([3.5e-7, -1.25e-7])
    corners = places - N // 2
    from_middle_m = PIXEL_M * (corners + (N - 1) / 2 - (np.array(ODD) - 1) / 2)
    metres = centre_m + from_middle_m
    energy_J = PLANCK_J_S * LIGHT_M_S / WAVELENGTH_M
    order = np.array([3, 0, 4, 1, 2])
    given("pair_diffraction", hdf5({"patterns": counts, "indexes": np.arange(10, 10 + PLACES), "bad_pixels": bad}))
    edges = {f"object@pixel_{edge}_m": PIXEL_M for edge in ("width", "height")}
    product = {
        "probe_position_indexes": 10 + order, "probe_position_x_m": metres[order, 1],
        "probe_position_y_m": metres[order, 0], "probe": probe[None], "object": sample[None], **edges,
        "object@center_x_m": centre_m[1], "object@center_y_m": centre_m[0],
        "@photon_energy_eV": energy_J / ELECTRON_VOLT_J, "@detector_object_distance_m": DISTANCE_M,
    }  # fmt: skip
    given("pair_product", hdf5(product))
    whole = {"counts": projected(masked.astype(float)), "positions": places, **image, "good pixels": good}
    pair = "files.read_scan(file(pair_diffraction, 'd.h5'), product=file({}, 'p.h5'))"
    read("Ptychodus", pair.format("pair_product"), {**whole, **known})
    given("pair_units", hdf5({**product, "probe_position_x_m": 1e6 * metres[order, 1],
                              "probe_position_x_m@units": "um"}))  # fmt: skip
    read("Ptychodus, x in micrometres", pair.format("pair_units"), {"positions": places})
    lost = {name: value[1:] if name.startswith("probe_position") else value for name, value in product.items()}
    given("pair_lost", hdf5(lost))
    kept = np.sort(order[1:])
    read("Ptychodus, a position lost", pair.format("pair_lost"),
         {"counts": projected(masked[kept].astype(float)), "positions": places[kept]})  # fmt: skip

    # CXI: translations (x, y, z); the mask's bit 0x1000 is signal, 0x1 is bad; pixel by the far field.
    detector_m = WAVELENGTH_M * DISTANCE_M / (N * PIXEL_M)
    bits = np.where(bad, 1, 0x1000).astype(np.uint32)
    translation = np.stack([metres[:, 1], metres[:, 0], np.full(PLACES, 7.0)], axis=1)
    entry, detector, source = "entry_1/", "entry_1/instrument_1/detector_1/", "entry_1/instrument_1/source_1/"
    cxi = {
        entry + "data_1/data": counts, entry + "sample_1/geometry_1/translation": translation,
        detector + "mask": bits, detector + "distance": DISTANCE_M, detector + "x_pixel_size": detector_m,
        detector + "y_pixel_size": detector_m, source + "energy": energy_J, source + "illumination": probe[None],
    }  # fmt: skip
    layer = {
        entry + "image_2/data": sample[None], entry + "image_2/data@axes": "layer:y:x",
        entry + "ptychodus/object_center_x_m": centre_m[1], entry + "ptychodus/object_center_y_m": centre_m[0],
    }  # fmt: skip
    given("cxi_object", hdf5({**cxi, **layer}))
    read("CXI", "files.read_scan(file(cxi_object, 'a.cxi'), translation='beam')", {**whole, **known})
    given("cxi_plain", hdf5(cxi))
    sized = {detector + "distance": (DISTANCE_M * 1e3, "mm"), detector + "x_pixel_size": (detector_m * 1e6, "um"),
             detector + "y_pixel_size": (detector_m * 1e6, "microns"),
             source + "energy": (energy_J / ELECTRON_VOLT_J / 1e3, "keV"),
             entry + "sample_1/geometry_1/translation": (translation * 1e9, "nm")}  # fmt: skip
    given("cxi_units", hdf5({**cxi, **{name: value for name, (value, _) in sized.items()},
                             **{f"{name}@units": unit for name, (_, unit) in sized.items()}}))  # fmt: skip
    read("CXI, in other units", "files.read_scan(file(cxi_units, 'a.cxi'))", {"positions": metres / PIXEL_M, **known})
    long_ = {name: value for name, value in cxi.items() if name != source + "energy"} | {
        source + "wavelength": WAVELENGTH_M * 1e10, source + "wavelength@units": "angstrom"
    }  # fmt: skip
    given("cxi_wavelength", hdf5(long_))
    read("CXI, wavelength in angstrom", "files.read_scan(file(cxi_wavelength, 'a.cxi'))", known)
    alone = "files.read_scan(file(cxi_plain, 'a.cxi'), translation={!r})".format
    read("CXI without an object", alone("beam"), {"positions": metres / PIXEL_M, **known})
    read("CXI, the sample moves", alone("sample"), {"positions": -metres / PIXEL_M})
    read("CXI, nothing tells what moves", "files.read_scan(file(cxi_plain, 'a.cxi'))", {"positions": metres / PIXEL_M})
    for case, stored in (("NPZ", squares), ("Ptychodus", masked), ("CXI", masked)):
        for rows in ([3, 0, 4], [2, 2, 1]):
            call = f"projected(read_{case}.counts(np.array({rows})).astype(float))"
            fact("readers", f"{case}: patterns {rows}", call, projected(stored[rows].astype(float)))

    # What is written of the one that was read from CXI, in the words of other programs.
    named("again", "lambda suffix: (path := pathlib.Path(tempfile.mkdtemp(dir=folder), 'again' + suffix), "
          "files.write_scan(read_CXI, path))[0]")  # fmt: skip
    named("again_cxi", "h5py.File(again('.cxi'))")
    written("CXI: translation", "again_cxi['entry_1/sample_1/geometry_1/translation'][()] * 1e8",
            1e8 * np.pad(from_middle_m[:, ::-1], ((0, 0), (0, 1))))  # fmt: skip
    written("CXI: counts", "projected(again_cxi['entry_1/data_1/data'][()].astype(float))",
            projected(counts.astype(float)))  # fmt: skip
    written("CXI: mask", "again_cxi['entry_1/instrument_1/detector_1/mask'][()]", bad.astype(int))
    written("CXI: energy", "again_cxi['entry_1/instrument_1/source_1/energy'][()] * 1e16", energy_J * 1e16)
    written("CXI: detector pixel", "again_cxi['entry_1/instrument_1/detector_1/x_pixel_size'][()]", detector_m)
    named("again_pair", "again('')")
    named("again_product", "h5py.File(again_pair / 'product.h5')")
    for axis, name in enumerate("xy"):
        written(f"Ptychodus: {name}", f"again_product['probe_position_{name}_m'][()] * 1e8",
                1e8 * from_middle_m[:, 1 - axis])  # fmt: skip
    written("Ptychodus: photon energy", "again_product.attrs['photon_energy_eV']", energy_J / ELECTRON_VOLT_J)
    written("Ptychodus: bad pixels", "h5py.File(again_pair / 'diffraction.h5')['bad_pixels'][()].astype(int)",
            bad.astype(int))  # fmt: skip
    named("again_npz", "dict(np.load(again('.npz')))")
    written("NPZ: places", "np.stack([again_npz['ycoords'], again_npz['xcoords']])", places.T)
    written("NPZ: good pixels", "again_npz['ptyint_good_pixels'].astype(int)", good)
    written("NPZ: amplitudes", "projected(again_npz['diffraction'].astype(float))",
            projected(np.sqrt(masked.astype(np.float32)).astype(float)))  # fmt: skip
