"""Files as people have them: every reader gives a scan that keeps its contract, or says in a sentence why not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyint._atomic import shipped
from ptyint.errors import LONGEST_MESSAGE, ScanError
from ptyint.scans.files import OPTIONS, read_scan, write_scan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.forward import diffraction_amplitudes
from ptyint.scans.scan import Scan, validate_scan

N, n = 64, 4
DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
DATA, MASK, TRANSLATION = f"{DETECTOR}/data", f"{DETECTOR}/mask", "entry_1/sample_1/geometry_1/translation"
FILES = {"npz": "scan.npz", "ptychodus": "pair", "cxi": "scan.cxi"}

PROPERTY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make_scan(**changes: Any) -> Scan:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:N, :N] - N // 2
    patterns = rng.poisson(100 * np.exp(-(y**2 + x**2) / 200), (n, N, N)).astype(np.uint16)
    fields: dict[str, Any] = {
        "diffraction_patterns": patterns,
        "probe_positions_px": np.array([[40.0, 40.0], [40.0, 50.0], [50.0, 40.0], [50.0, 50.0]]),
        "probe": np.exp(-(y**2 + x**2) / 100 + 0j).astype(np.complex64)[None],
        "object_": np.ones((100, 110), np.complex64),
        "good_pixels": np.arange(N * N).reshape(N, N) > 3,
        "pixel_size_m": 1e-8,
        "wavelength_m": 1.4e-10,
        "detector_distance_m": 2.0,
    }
    return Scan(**(fields | changes))


class Contents(dict[tuple[str, str], Any]):
    """With a short name, for hypothesis."""

    def __repr__(self) -> str:
        return "contents"


def contents(folder: Path) -> dict[tuple[str, str], Any]:
    """Every field of a file of each format, under (file, name)."""
    found: dict[tuple[str, str], Any] = {}
    for format, name in FILES.items():
        write_scan(make_scan(), folder / name, format=format)  # type: ignore[arg-type]
    with np.load(folder / "scan.npz") as arrays:
        found |= {("scan.npz", name): arrays[name] for name in arrays}
        found["scan.npz", "Y"] = np.ones((n, N, N), np.complex64)
    for name in ("scan.cxi", "pair/diffraction.h5", "pair/product.h5"):
        with h5py.File(folder / name) as file:

            def collect(place: str, item: Any, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[name, place] = item[()]
                found.update({(name, f"{place}@{key}"): value for key, value in item.attrs.items()})

            collect("", file)
            file.visititems(collect)
    return found


def put(path: Path, field: str, value: Any) -> None:
    """Store a field's value in a file that is there; None takes it out."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays if name != field}
        np.savez(path, **(kept if value is None else kept | {field: value}))
        return
    with h5py.File(path, "r+") as file:
        place, _, attribute = field.partition("@")
        if attribute:
            attributes = file[place or "/"].attrs
            attributes.pop(attribute, None)
            if value is not None:
                attributes[attribute] = value
            return
        attributes = dict(file[place].attrs) if place in file else {}
        if place in file:
            del file[place]
        if value is not None:
            file[place] = value
            file[place].attrs.update(attributes)


def scan_of(folder: Path, file: str) -> Path:
    return folder / ("pair" if file.startswith("pair") else file)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contents]:
    folder = tmp_path_factory.mktemp("written")
    return folder, Contents(contents(folder))


def copied(written: Path, tmp_path: Path, file: str) -> Path:
    """A fresh copy of one format's files."""
    source, target = scan_of(written, file), scan_of(tmp_path, file)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
    return target


@pytest.fixture
def cxi(tmp_path: Path) -> Path:
    write_scan(make_scan(), tmp_path / "scan.cxi")
    return tmp_path / "scan.cxi"


# --- the contract, whatever the file's dtypes ---

REAL = [np.uint8, np.int16, np.uint32, np.int64, np.uint64, np.float16, np.float32, np.float64, np.longdouble]
COMPLEX = [np.complex64, np.complex128]


@PROPERTY
@given(
    file=st.sampled_from(["scan.npz", "pair/diffraction.h5", "scan.cxi"]),
    swapped=st.booleans(),
    real=st.sampled_from(REAL),
    complex_=st.sampled_from(COMPLEX),
    places=st.sampled_from([np.float32, np.float64, np.longdouble]),
    left_out=st.sets(st.sampled_from(["object", "mask"])),
)
def test_what_a_reader_gives_keeps_the_contract(
    written: tuple[Path, Any],
    tmp_path: Path,
    file: str,
    swapped: bool,
    real: Any,
    complex_: Any,
    places: Any,
    left_out: set[str],
) -> None:
    path = copied(written[0], tmp_path, file)
    for (held, name), value in written[1].items():
        if scan_of(tmp_path, held) != path or name == "Y":
            continue
        array = np.asarray(value)
        if name in ("objectGuess", "entry_1/image_2/data") and "object" in left_out:
            put(tmp_path / held, name, None)
            continue
        if name in (MASK, "ptyint_good_pixels") and "mask" in left_out:
            put(tmp_path / held, name, None)
            continue
        if array.dtype.kind not in "uifc" or (held.startswith("pair") and "@" in name and "pixel" not in name):
            continue
        dtype: Any = complex_ if array.dtype.kind == "c" else places
        if name in (DATA, "patterns", "diffraction"):
            dtype = real
        if name == MASK:
            dtype = np.uint32
        dtype = np.dtype(dtype)
        put(tmp_path / held, name, array.astype(dtype.newbyteorder("S") if swapped else dtype))
    kind = "counts" if file == "scan.npz" else None
    scan = read_scan(path, diffraction_kind=kind)  # type: ignore[arg-type]
    validate_scan(scan)
    for name in ("diffraction_patterns", "probe_positions_px", "probe", "object_", "good_pixels"):
        array = getattr(scan, name)
        if array is not None:
            assert array.dtype.isnative, name
            assert np.asarray(array[:1]).dtype == array.dtype
    np.testing.assert_allclose(np.ptp(scan.probe_positions_px, axis=0), [10, 10], rtol=1e-4)
    assert (scan.object_ is None) == ("object" in left_out and file != "pair/diffraction.h5")


@pytest.mark.parametrize("dtype", ["<f8", "<f4", ">f4", ">f8"])
def test_translations_of_an_experiment_in_any_precision(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "scan.cxi"
    with h5py.File(path, "w") as file:
        file[DATA], file[f"{DETECTOR}/distance"] = make_scan().diffraction_patterns[:], np.float32(1.12)
        file[f"{DETECTOR}/x_pixel_size"] = file[f"{DETECTOR}/y_pixel_size"] = np.float32(5.5e-5)
        file[f"{SOURCE}/energy"], file[f"{SOURCE}/illumination"] = np.float32(2.028e-15), make_scan().probe
        metres = np.zeros((n, 3))
        metres[:, :2] = make_scan().probe_positions_px[:, ::-1] * 3.1e-8
        file[TRANSLATION] = metres.astype(dtype)
    scan = read_scan(path)
    validate_scan(scan)
    assert scan.probe_positions_px.dtype == np.float64


# --- anything in the place of any field ---

ODD_ARRAYS = st.builds(
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    st.sampled_from(
        [(), (1,), (0,), (n,), (3,), (n, 2), (n, 3), (0, N, N), (N, N), (1, N, N), (n, N, N), (2, 2, 2, 2)]
    ),
    st.sampled_from(["?", "u1", "<i4", ">u2", "u8", "<f2", ">f4", "f8", "c8", ">c16", "S3"]),
    st.sampled_from([0, 1, 3, 255, 30000.0]),
)
ODD_NUMBERS = st.one_of(
    st.floats(width=64),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32).map(np.float32),
    st.sampled_from([1e-300, 1e300, 5e-324]),
)
ODD_TEXT = st.sampled_from(["1.12 m", "", "x" * 5000, "\u00e9\u4e2d", b"\xff\xfe"])
ODD_LISTS = st.lists(st.floats(), min_size=1, max_size=3).map(lambda values: np.array(values * 2000))
COMPOUND = np.zeros(3, [(f"field_{i}_" + "y" * 40, "f4") for i in range(30)])
H5_ONLY = st.sampled_from([h5py.Empty("f8"), h5py.Empty("c8"), COMPOUND, np.zeros((2, 2), "V5"), np.zeros(3, "S0")])
LINKS = st.sampled_from([h5py.SoftLink("/gone"), h5py.ExternalLink("gone.h5", "/x"), h5py.SoftLink("/")])


def say(path: Path) -> str:
    """What is said of a scan; empty if it is valid. Any exception but a ScanError is the test's failure."""
    try:
        validate_scan(read_scan(path))
    except ScanError as error:
        return str(error)
    return ""


@settings(PROPERTY, max_examples=400)
@given(data=st.data())
def test_nothing_but_a_sentence_comes_of_an_odd_field(written: Any, tmp_path: Path, data: st.DataObject) -> None:
    file, field = data.draw(st.sampled_from(sorted(written[1])))
    odd = st.one_of(ODD_ARRAYS, ODD_NUMBERS, ODD_LISTS, ODD_TEXT.filter(lambda text: isinstance(text, str)))
    if file != "scan.npz":
        odd = st.one_of(odd, ODD_TEXT, H5_ONLY, st.none(), *([] if "@" in field else [LINKS]))
    path = copied(written[0], tmp_path, file)
    value = data.draw(odd)
    if isinstance(value, h5py.SoftLink | h5py.ExternalLink):
        with h5py.File(tmp_path / file, "r+") as held:
            del held[field]
            held[field] = value
    else:
        try:
            put(tmp_path / file, field, value)
        except (TypeError, ValueError, OSError):  # HDF5 cannot hold it there
            return
    said = say(path)
    assert len(said) <= LONGEST_MESSAGE, said
    assert not said or file.rpartition("/")[2] in said or path.name in said


def test_a_message_shows_the_first_values_and_the_name(cxi: Path) -> None:
    put(cxi, f"{SOURCE}/energy", np.linspace(1, 2, 5000))
    said = say(cxi)
    assert "scan.cxi" in said and "energy is [1.0, 1.0002" in said and "..." in said
    assert "one finite number" in said and len(said) < 400


# --- data lost in silence ---


def virtual(cxi: Path) -> None:
    """The patterns in two files, and a stack of both."""
    counts = make_scan().diffraction_patterns[:]
    stack = h5py.VirtualLayout(counts.shape, counts.dtype)
    for part in range(2):
        with h5py.File(cxi.parent / f"part_{part}.h5", "w") as file:
            file["data"] = counts[2 * part : 2 * part + 2]
        stack[2 * part : 2 * part + 2] = h5py.VirtualSource(f"part_{part}.h5", "data", (2, N, N))
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file.create_virtual_dataset(DATA, stack)


LOSSES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda part: part.unlink(), r"\['part_1.h5'\]"),
    (lambda part: put(part, "data", None), r"\['part_1.h5:data'\]"),
    (lambda part: put(part, "data", np.ones((1, N, N), np.uint16)), r"\['part_1.h5:data'\]"),
]


@pytest.mark.parametrize(("lose", "named"), LOSSES)
def test_a_virtual_dataset_needs_all_its_sources(cxi: Path, lose: Callable[[Path], Any], named: str) -> None:
    virtual(cxi)
    np.testing.assert_array_equal(read_scan(cxi).diffraction_patterns[:], make_scan().diffraction_patterns[:])
    lose(cxi.parent / "part_1.h5")
    with pytest.raises(ScanError, match=rf"{DATA[-5:]} is virtual and lacks 1 of its sources.*{named}.*Copy"):
        read_scan(cxi)


def test_a_virtual_dataset_that_grows_is_read(cxi: Path) -> None:
    counts = make_scan().diffraction_patterns[:]
    with h5py.File(cxi.parent / "live.h5", "w") as file:
        file.create_dataset("data", data=counts, maxshape=(None, N, N), chunks=(1, N, N))
    stack = h5py.VirtualLayout((n, N, N), counts.dtype, maxshape=(None, N, N))
    stack[: h5py.h5s.UNLIMITED] = h5py.VirtualSource("live.h5", "data", (n, N, N), maxshape=(None, N, N))[
        : h5py.h5s.UNLIMITED
    ]
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file.create_virtual_dataset(DATA, stack)
    np.testing.assert_array_equal(read_scan(cxi).diffraction_patterns[:], counts)


def test_patterns_that_were_never_written_are_noted(cxi: Path, tmp_path: Path) -> None:
    write_scan(make_scan(), tmp_path / "pair")
    for path, held, name in ((cxi, cxi, DATA), (tmp_path / "pair", tmp_path / "pair/diffraction.h5", "patterns")):
        assert not any("never written" in note for note in read_scan(path).notes)
        with h5py.File(held, "r+") as file:
            del file[name]
            file.create_dataset(name, (n, N, N), np.uint16, chunks=(1, N, N))[:3] = make_scan().counts()[:3]
        (note,) = [note for note in read_scan(path).notes if "never written" in note]
        assert note.startswith("1 of 4 chunks of ")


def test_values_kept_in_a_raw_file_need_it(cxi: Path) -> None:
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file.create_dataset(DATA, (n, N, N), np.uint16, external=[("gone.bin", 0, h5py.h5f.UNLIMITED)])
    assert "lacks the raw file that holds its values" in say(cxi)


@pytest.mark.parametrize("format", ["npz", "ptychodus", "cxi"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.uint64, np.float32])
def test_gaps_at_the_ceiling_are_no_photons(tmp_path: Path, format: str, dtype: Any) -> None:
    counts = make_scan().diffraction_patterns[:].astype(dtype)
    counts[:, :, 30:32] = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 2**32 - 1
    counts[1, 33, 33] = counts.max()  # one pattern's: a cosmic ray, no gap
    path = tmp_path / FILES[format]
    write_scan(make_scan(diffraction_patterns=counts, good_pixels=None), path)
    scan = read_scan(path)
    validate_scan(scan)
    expected = np.ones((N, N), np.bool_)
    expected[:, 30:32] = False
    np.testing.assert_array_equal(scan.good_pixels, expected)
    (note,) = [note for note in scan.notes if "gaps of the detector" in note]
    assert "128 pixels" in note and "% of all counts" in note


def test_what_is_all_ceiling_is_left_to_validation(cxi: Path) -> None:
    put(cxi, MASK, None)
    put(cxi, DATA, np.full((n, N, N), 65535, np.uint16))
    assert read_scan(cxi).good_pixels is None


def test_what_was_left_unread_is_noted(cxi: Path, tmp_path: Path) -> None:
    with h5py.File(cxi, "r+") as file:
        file.copy("entry_1", "entry_2")
        file.copy(DETECTOR, "entry_1/instrument_1/detector_2")
        file["entry_1/image_2/data"].attrs["axes"] = "x:y"
    scan = read_scan(cxi)
    assert "left unread in /: ['entry_2']" in scan.notes
    assert "left unread in /entry_1/instrument_1/: ['detector_2']" in scan.notes
    assert any("entry_1/image_2/data, since its axes are 'x:y', not" in note for note in scan.notes)
    write_scan(make_scan(), tmp_path / "scan.npz")
    put(tmp_path / "scan.npz", "mask", np.ones((N, N)))
    assert "left unread: mask" in read_scan(tmp_path / "scan.npz").notes


# --- conventions of the format ---


@pytest.mark.parametrize(
    ("bit", "convention", "good"),
    [
        (0x1000, None, True),
        (0x1000, "cxi", True),
        (0x1000, "cheetah", False),
        (0x4000, None, True),
        (0x4000, "cheetah", True),
        (0x4000, "any", False),
        (0x20, None, True),
        (0x800, None, True),
        (0x2000, "cheetah", True),
        *[(bit, None, False) for bit in (1, 2, 4, 8, 0x10, 0x40, 0x80, 0x200, 0x400, 0x8000, 0x1001)],
    ],
)
def test_bits_of_a_mask(cxi: Path, bit: int, convention: Any, good: bool) -> None:
    mask = np.zeros((N, N), np.uint32)
    mask[20:40, 20:40] = bit
    mask[0, :4] = 1
    put(cxi, MASK, mask)
    scan = read_scan(cxi, mask_convention=convention)
    assert scan.good_pixels is not None
    assert int((~scan.good_pixels).sum()) == (4 if good else 404)
    assert not scan.good_pixels[0, :4].any()
    if convention != "any":
        assert any(f"mask holds the bits {bit | 1:#x}" in note for note in scan.notes)


def test_masks_of_small_signed_and_boolean_dtypes(cxi: Path) -> None:
    for dtype in (np.bool_, np.uint8, np.int8, np.int32, np.float32):
        put(cxi, MASK, (np.arange(N * N).reshape(N, N) < 5).astype(dtype))
        good = read_scan(cxi).good_pixels
        assert good is not None and int((~good).sum()) == 5


@pytest.fixture
def noise_free(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """A CXI file whose translations are the sample's, with probe and object; what made it: both, and the positions."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:N, :N] - N // 2
    probe = (100 * np.exp(-((y - 3) ** 2 + x**2 / 2) / 150 + 0.02j * (y**2 + 2 * x))).astype(np.complex64)
    probe[0] = probe[:, 0] = 0  # what has no counterpart about [N // 2, N // 2]
    amplitude, phase = (np.kron(rng.uniform(0, 1, (17, 17)), np.ones((8, 8)))[:129, :129] for _ in range(2))
    object_ = ((0.6 + 0.4 * amplitude) * np.exp(1.5j * phase)).astype(np.complex64)
    beam = np.array([(r, c) for r in range(40, 90, 12) for c in range(40, 90, 12)], np.float64)
    counts = amplitudes(probe, object_, beam) ** 2
    scan = make_scan(
        diffraction_patterns=counts.astype(np.float32),
        probe_positions_px=beam,
        probe=probe[None],
        object_=object_,
        good_pixels=None,
    )
    write_scan(scan, tmp_path / "sample.cxi")
    with h5py.File(tmp_path / "sample.cxi", "r+") as file:
        file[TRANSLATION][...] = -file[TRANSLATION][()]
    return tmp_path / "sample.cxi", probe, object_, beam


def amplitudes(probe: np.ndarray, object_: np.ndarray, positions: np.ndarray) -> np.ndarray:
    corners = np.rint(positions).astype(int) - N // 2
    return diffraction_amplitudes(probe[None], np.stack([object_[y : y + N, x : x + N] for y, x in corners]))


def test_probe_and_object_decide_whose_the_translations_are(noise_free: Any) -> None:
    path, _, _, beam = noise_free
    scan = read_scan(path)
    np.testing.assert_allclose(scan.probe_positions_px, beam, atol=1e-9)
    assert any("place of the sample: probe and object say so; they miss" in note for note in scan.notes)
    asked = read_scan(path, translation="beam")
    assert np.abs(asked.probe_positions_px - beam).max() > 10
    assert any("place of the beam" in note for note in asked.notes)


def test_without_an_object_the_option_turns_the_positions(noise_free: Any) -> None:
    path = noise_free[0]
    put(path, "entry_1/image_2/data", None)
    beam, sample = (read_scan(path, translation=kind) for kind in ("beam", "sample"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(beam.probe_positions_px, -sample.probe_positions_px)
    np.testing.assert_array_equal(read_scan(path).probe_positions_px, beam.probe_positions_px)
    with pytest.raises(ScanError, match=r"translation='stage'. Must be one of \['beam', 'sample'\]"):
        read_scan(path, translation="stage")  # type: ignore[arg-type]


def test_translations_with_the_other_sign_are_explained_by_the_turned_conjugates_of_both(noise_free: Any) -> None:
    """What the documentation of the format's module says, noise-free; each other combination misses by far."""
    path, probe, object_, beam = noise_free
    measured = np.sqrt(read_scan(path).counts())
    turned = object_[::-1, ::-1]
    positions = 128 - beam  # pixel 64 of 129 is the middle that the turn keeps
    turned_probe = np.roll(probe[::-1, ::-1], 1, axis=(0, 1))  # keeps [N // 2, N // 2]

    def misfit(probe: np.ndarray, object_: np.ndarray) -> float:
        return float(np.linalg.norm(amplitudes(probe, object_, positions) - measured) / np.linalg.norm(measured))

    assert misfit(turned_probe.conj(), turned.conj()) < 1e-6
    for wrong in [(probe, object_), (probe, turned), (probe, turned.conj()), (turned_probe, turned.conj())]:
        assert misfit(*wrong) > 0.1


# --- units ---


@pytest.mark.parametrize(
    ("field", "unit", "factor"),
    [
        (f"{DETECTOR}/distance", "mm", 1e3),
        (f"{DETECTOR}/distance", "millimeters", 1e3),
        (f"{DETECTOR}/distance", "m", 1),
        (f"{DETECTOR}/distance", "", 1),
        (TRANSLATION, "um", 1e6),
        (TRANSLATION, "\u00b5m", 1e6),
        (TRANSLATION, "microns", 1e6),
        (TRANSLATION, "nanometre", 1e9),
        (f"{SOURCE}/energy", "keV", 1 / 1.602176634e-16),
        (f"{SOURCE}/energy", "eV", 1 / 1.602176634e-19),
        (f"{SOURCE}/energy", "joules", 1),
        (f"{SOURCE}/wavelength", "angstrom", 1e10),
        (f"{SOURCE}/wavelength", "\u212b", 1e10),
        (f"{SOURCE}/wavelength", "nm", 1e9),
    ],
)
def test_units_are_honoured(cxi: Path, field: str, unit: str, factor: float) -> None:
    put(cxi, f"{SOURCE}/wavelength", 1.4e-10)
    if field.endswith("wavelength"):
        put(cxi, f"{SOURCE}/energy", None)
    with h5py.File(cxi, "r+") as file:
        value = file[field][()]
    put(cxi, field, value * factor)
    put(cxi, f"{field}@units", unit)
    scan = read_scan(cxi)
    assert scan.detector_distance_m == pytest.approx(2.0, rel=1e-12)
    assert scan.wavelength_m == pytest.approx(1.4e-10, rel=1e-12)
    np.testing.assert_allclose(scan.probe_positions_px, make_scan().probe_positions_px, rtol=1e-9)
    assert any("converted" in note for note in scan.notes) == (factor != 1)


def test_an_unknown_unit_is_refused(cxi: Path) -> None:
    for unit in ("inch", "eV", "x" * 900, 5):
        put(cxi, f"{DETECTOR}/distance@units", unit)
        with pytest.raises(ScanError, match=r"distance has the units .*; allowed: \['m', .*Convert the values to m"):
            read_scan(cxi)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pixel_size_m": 1.0}, ["pixel_size_m: found 1.0", "0.001"]),
        ({"detector_distance_m": 1120.0}, ["detector_distance_m: found 1120.0", "100"]),
        ({"wavelength_m": 1.0}, ["wavelength_m: found 1.0", "0.001"]),
        ({"object_": None, "probe_positions_px": np.linspace(0, 2, 2 * n).reshape(n, 2)}, ["a span of 1.71 x 1.71 px"]),
        ({"probe_positions_px": np.linspace(50, 52, 2 * n).reshape(n, 2)}, ["a span of 1.71 x 1.71 px"]),
    ],
)
def test_absurd_geometry_is_refused_with_its_numbers(changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ScanError) as caught:
        validate_scan(make_scan(**changes))
    for text in said:
        assert text in str(caught.value)


# --- each cause with its own remedy ---


def test_the_causes_are_told_apart(cxi: Path) -> None:
    whole = cxi.read_bytes()
    cxi.write_bytes(whole[: len(whole) // 2])
    assert "is damaged. Fetch or write the file again" in say(cxi)
    cxi.write_bytes(b"not HDF5")
    assert "is no HDF5 file. Check the path" in say(cxi)
    cxi.write_bytes(whole)
    locker = [sys.executable, "-c", f"import h5py; f = h5py.File({str(cxi)!r}, 'r+'); print(flush=True); input()"]
    with subprocess.Popen(locker, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin and writer.stdout
        writer.stdout.readline()
        said = say(cxi)
        writer.communicate(b"\n")
    assert "is locked by the program that writes it. Wait" in said
    assert say(cxi) == ""
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file[DATA] = h5py.ExternalLink("elsewhere.h5", "/data")
    said = say(cxi)
    assert "is a link to /data of elsewhere.h5, which is missing" in said
    assert say(cxi.parent / ("y" * 300 + ".cxi")).endswith("Check the path, and its disk.")


def test_compressed_as_detectors_do_it(cxi: Path, tmp_path: Path) -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    for compression in (hdf5plugin.Bitshuffle(), hdf5plugin.Bitshuffle(cname="lz4"), hdf5plugin.LZ4()):
        with h5py.File(cxi, "r+") as file:
            del file[DATA]
            file.create_dataset(DATA, data=make_scan().diffraction_patterns, chunks=(1, N, N), **compression)
        script = f"import ptyint; print(int(ptyint.read_scan({str(cxi)!r}).counts().sum()))"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.stdout.split() == [str(int(make_scan().counts().sum()))], run.stderr


def test_a_missing_filter_is_named_with_what_brings_it(cxi: Path) -> None:
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, N, N))
        plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((n, N, N))
        h5py.h5d.create(file[DETECTOR].id, b"data", h5py.h5t.STD_U16LE, space, plist)
    said = say(cxi)
    assert "filter 32999" in said and "hdf5plugin" in said and "ptyint[filters]" in said


def test_options_that_a_format_does_not_know(cxi: Path, tmp_path: Path) -> None:
    write_scan(make_scan(), tmp_path / "pair")
    with pytest.raises(ScanError, match=r"mask_convention='any', but ptychodus files hold masks of one kind"):
        read_scan(tmp_path / "pair", mask_convention="any")
    with pytest.raises(ScanError, match=r"mask_convention='mine'. Must be one of \['cxi', 'cheetah', 'any'\]"):
        read_scan(cxi, mask_convention="mine")  # type: ignore[arg-type]


def test_the_notebook_offers_every_option() -> None:
    source = (shipped("notebooks") / "reconstruct.ipynb").read_text(encoding="utf-8")
    for name in set(OPTIONS) - {"product"}:
        assert f"{name} = None" in source and f"{name}={name}" in source


# --- a network file system that goes away ---

GONE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int gone(int fd, off_t end) {
    char link[64], name[512];
    snprintf(link, 64, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, name, 511);
    if (n < 0) return 0;
    name[n] = 0;
    if (!strstr(name, ".gone.") || end <= atol(getenv("GONE_AFTER"))) return 0;
    errno = atoi(getenv("GONE_ERRNO"));
    return 1;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
ssize_t read(int fd, void *to, size_t n) { return gone(fd, lseek(fd, 0, SEEK_CUR) + n) ? -1 : REAL(read)(fd, to, n); }
ssize_t pread(int fd, void *to, size_t n, off_t at) { return gone(fd, at + n) ? -1 : REAL(pread)(fd, to, n, at); }
ssize_t pread64(int fd, void *to, size_t n, off_t at) { return gone(fd, at + n) ? -1 : REAL(pread64)(fd, to, n, at); }
"""
"""A library that makes reading fail beyond a place in files whose name says so, as the kernel does of such a mount."""

READ = """
import os, sys
import ptyint
for path in sys.argv[1:]:
    file = path if os.path.isfile(path) else f"{path}/diffraction.h5"
    for share in (0.0, 0.02, 0.4, 0.9):
        os.environ["GONE_AFTER"] = str(int(os.path.getsize(file) * share))
        try:
            print(ptyint.read_scan(path).sha256)
        except ptyint.PtyintError as error:
            print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ESTALE, "is on a network file system that is gone. Mount it again"),
        (errno.EIO, "cannot be read from its disk or network. Copy it elsewhere"),
        (errno.ETIMEDOUT, "cannot be read from its disk or network. Copy it elsewhere"),
    ],
)
def test_a_file_system_that_goes_away_is_told_as_that(tmp_path: Path, number: int, words: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler, Debian's gcc")
    (tmp_path / "gone.c").write_text(GONE)
    library = tmp_path / "gone.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "gone.c", "-ldl"], check=True)
    given = {"wavelength_m": 1e-10, "detector_distance_m": 2.0, "pixel_size_m": 5e-8}
    scan = replace(load_fixture("tiny-64"), **given)
    paths = [tmp_path / name for name in ("scan.gone.npz", "scan.gone.cxi", "pair.gone.d")]
    paths[-1].mkdir()
    for path in paths:
        write_scan(scan, path)
    env = {**os.environ, "LD_PRELOAD": str(library), "GONE_ERRNO": str(number), "GONE_AFTER": str(2**40)}
    ran = subprocess.run([sys.executable, "-c", READ, *map(str, paths)], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stdout.splitlines() if line.startswith("ScanError")]
    assert len(said) == 12 and all(words in line for line in said), ran.stdout
