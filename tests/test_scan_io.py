from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptyint._atomic import shipped
from ptyint.cli import main
from ptyint.errors import ScanError
from ptyint.scans.fields import Shape, fits
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.forward import diffraction_amplitudes, fourier_shift
from ptyint.scans.scan import Scan, validate_scan

N = 64
n = 7
FILES = {"npz": "scan.npz", "ptychodus": "pair", "cxi": "scan.cxi"}


def make_scan(dtype: Any = np.uint16, **changes: Any) -> Scan:
    rng = np.random.default_rng(11)
    patterns = rng.integers(0, 65536, (n, N, N)).astype(dtype)
    patterns[0, 0, 0] = 65535
    good = np.ones((N, N), np.bool_)
    good[5, 7] = False

    def field(*shape: int) -> Any:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)

    fields: dict[str, Any] = {
        "diffraction_patterns": patterns,
        "probe_positions_px": rng.uniform([32, 32], [60, 70], (n, 2)),
        "probe": field(2, N, N),
        "object_": field(100, 110),
        "object_is_truth": True,
        "good_pixels": good,
        "pixel_size_m": 2.5e-8,
        "wavelength_m": 1.24e-10,
        "detector_distance_m": 1.5,
    }
    return Scan(**(fields | changes))


def npz_fields(**changes: Any) -> dict[str, Any]:
    """A file as PtychoPINN writes it; None drops a member."""
    scan = make_scan()
    fields: dict[str, Any] = {
        "diffraction": np.sqrt(scan.counts()),
        "xcoords": scan.probe_positions_px[:, 1],
        "ycoords": scan.probe_positions_px[:, 0],
        "probeGuess": scan.probe[0],
        "objectGuess": scan.object_,
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


def save(path: Path, **changes: Any) -> Path:
    np.savez(path, **npz_fields(**changes))
    return path


# --- round trips ---


@pytest.mark.parametrize("format", ["npz", "ptychodus", "cxi"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_what_was_written_is_read(tmp_path: Path, format: str, dtype: Any) -> None:
    scan, path = make_scan(dtype), tmp_path / FILES[format]
    write_scan(scan, path)
    back = read_scan(path)
    validate_scan(back)
    if format == "npz":
        # amplitude rounded to float32 (half an ulp, 2**-24), its square twice that, and rounded once more
        np.testing.assert_allclose(back.counts(), scan.counts(), rtol=3 * 2**-24)
        np.testing.assert_array_equal(back.probe_positions_px, scan.probe_positions_px)
    else:
        assert back.diffraction_patterns.dtype == dtype
        np.testing.assert_array_equal(back.diffraction_patterns[:], scan.diffraction_patterns[:])
        # metres and back: a few roundings of numbers below 2**7 px
        np.testing.assert_allclose(back.probe_positions_px, scan.probe_positions_px, rtol=0, atol=1e-12)
    assert back.probe_positions_px.dtype == np.float64
    for name in ("probe", "object_", "good_pixels"):
        value, expected = getattr(back, name), getattr(scan, name)
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    assert back.object_is_truth
    assert back.pixel_size_m == scan.pixel_size_m
    assert back.detector_distance_m == scan.detector_distance_m
    assert back.wavelength_m == pytest.approx(scan.wavelength_m, rel=1e-15)
    assert not read_scan(path, object_is_truth=False).object_is_truth


@pytest.mark.parametrize("format", ["npz", "cxi"])
def test_a_bare_scan_comes_back_bare(tmp_path: Path, format: str) -> None:
    scan = make_scan(object_=None, object_is_truth=False, good_pixels=None)
    write_scan(scan, tmp_path / FILES[format])
    back = read_scan(tmp_path / FILES[format])
    assert back.object_ is None
    assert back.good_pixels is None
    assert not back.object_is_truth
    np.testing.assert_allclose(back.probe_positions_px, scan.probe_positions_px, rtol=0, atol=1e-12)


def test_patches_survive_in_npz(tmp_path: Path) -> None:
    patches = np.full((n, N, N), 0.5 - 2j, np.complex64)
    write_scan(make_scan(object_patches=patches), tmp_path / "scan.npz")
    back = read_scan(tmp_path / "scan.npz").object_patches
    assert back is not None
    assert back.dtype == np.complex64
    np.testing.assert_array_equal(back, patches)


def test_a_lazy_scan_can_replace_its_own_file(tmp_path: Path) -> None:
    for name in FILES.values():
        write_scan(make_scan(), tmp_path / name)
        write_scan(read_scan(tmp_path / name), tmp_path / name)
        np.testing.assert_allclose(read_scan(tmp_path / name).counts(), make_scan().counts(), rtol=6 * 2**-24)


def test_ptychodus_gets_a_flat_object_where_there_is_none(tmp_path: Path) -> None:
    scan = make_scan(object_=None, probe_positions_px=np.linspace(-20.25, 33.5, 2 * n).reshape(n, 2))
    write_scan(scan, tmp_path / "pair")
    back = read_scan(tmp_path / "pair")
    validate_scan(back)
    assert back.object_ is not None
    assert (back.object_ == 1).all()
    corner = back.probe_positions_px - N // 2
    assert (corner >= 0).all() and (corner + N <= back.object_.shape).all()
    moved = back.probe_positions_px - scan.probe_positions_px
    np.testing.assert_allclose(moved, np.broadcast_to(np.rint(moved[0]), (n, 2)), atol=1e-12)


def test_an_existing_file_survives_a_failed_write(tmp_path: Path) -> None:
    class Broken:
        shape, dtype = (n, N, N), np.dtype(np.uint16)

        def __getitem__(self, index: Any) -> Any:
            raise RuntimeError("detector unplugged")

    for name in FILES.values():
        write_scan(make_scan(), tmp_path / name)
        with pytest.raises(RuntimeError, match="unplugged"):
            write_scan(make_scan(diffraction_patterns=Broken()), tmp_path / name)
        assert read_scan(tmp_path / name).n == n
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES.values())


# --- PtychoPINN's NPZ ---


def test_floats_are_amplitudes_and_x_is_the_column(tmp_path: Path) -> None:
    diffraction = np.zeros((n, N, N), np.float32)
    diffraction[3, 1, 2] = 1.5
    x, y = np.arange(n), 10.0 + np.arange(n)
    scan = read_scan(save(tmp_path / "a.npz", diffraction=diffraction, xcoords=x, ycoords=y))
    assert scan.counts(3)[1, 2] == 2.25
    assert scan.probe_positions_px[3].tolist() == [13.0, 3.0]
    assert scan.probe.shape == (1, N, N)
    assert any("read as amplitudes: the format's contract" in note for note in scan.notes)
    as_counts = read_scan(tmp_path / "a.npz", diffraction_kind="counts")
    assert as_counts.counts(3)[1, 2] == 1.5
    assert any("read as counts: asked for" in note for note in as_counts.notes)


def test_unsigned_integers_are_counts_and_never_overflow(tmp_path: Path) -> None:
    full = np.full((n, N, N), 65535, np.uint16)
    path = save(tmp_path / "a.npz", diffraction=None, diff3d=full)
    scan = read_scan(path)
    assert (scan.counts() == 65535).all()
    assert any("diff3d (uint16) read as counts" in note for note in scan.notes)
    squared = read_scan(path, diffraction_kind="amplitudes").counts()
    assert (squared == np.float32(4294836225)).all()


@pytest.mark.parametrize("name", ["diffraction", "diff3d"])
@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("last", [False, True])
def test_both_names_both_orders_both_compressions(
    tmp_path: Path, name: str, save_as: Callable[..., None], last: bool
) -> None:
    counts = make_scan().counts()
    amplitudes = np.sqrt(counts)
    stored = np.ascontiguousarray(np.moveaxis(amplitudes, 0, -1)) if last else amplitudes
    save_as(tmp_path / "a.npz", **npz_fields(**{"diffraction": None, name: stored}))
    scan = read_scan(tmp_path / "a.npz")
    validate_scan(scan)
    np.testing.assert_allclose(scan.counts(), counts, rtol=3 * 2**-24)
    np.testing.assert_array_equal(scan.counts(slice(2, 4)), scan.counts()[2:4])
    assert any("(N, N, n)" in note for note in scan.notes) == last


def test_fortran_order(tmp_path: Path) -> None:
    stored = np.asfortranarray(np.arange(100 * N * N, dtype=np.uint32).reshape(100, N, N))
    scan = read_scan(save(tmp_path / "a.npz", diffraction=stored, xcoords=np.ones(100), ycoords=np.ones(100)))
    assert scan.counts(70)[3, 5] == 70 * N * N + 3 * N + 5


def test_the_axes_of_a_cube_are_asked_for_and_not_guessed(tmp_path: Path) -> None:
    cube = np.zeros((N, N, N), np.uint16)
    cube[5, 6, 7] = 9
    path = save(tmp_path / "a.npz", diffraction=cube, xcoords=np.ones(N), ycoords=np.ones(N))
    with pytest.raises(ScanError, match=r"diffraction is a cube \(64, 64, 64\).* Give axis_order='nyx' or 'yxn'"):
        read_scan(path)
    assert read_scan(path, axis_order="nyx").counts(5)[6, 7] == 9
    assert read_scan(path, axis_order="yxn").counts(7)[5, 6] == 9
    own = replace(read_scan(path, axis_order="nyx"), object_=None)
    write_scan(own, tmp_path / "own.npz")  # what this package wrote is not ambiguous
    np.testing.assert_array_equal(read_scan(tmp_path / "own.npz").counts(), own.counts())


def test_an_axis_order_that_the_shape_denies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"diffraction is float32 .*allowed: real, \(N, N, 7\)"):
        read_scan(save(tmp_path / "a.npz"), axis_order="yxn")


def test_optional_members_may_be_missing_and_modes_may_be_many(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.npz", objectGuess=None, probeGuess=make_scan().probe))
    assert scan.object_ is None
    assert scan.object_patches is None
    assert scan.pixel_size_m is None
    np.testing.assert_array_equal(scan.probe, make_scan().probe)


def test_double_precision_is_rounded_with_a_note(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.npz", probeGuess=make_scan().probe[0].astype(np.complex128)))
    assert scan.probe.dtype == np.complex64
    assert any("probeGuess rounded from complex128" in note for note in scan.notes)


def test_both_names_at_once_are_reported(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.npz", diff3d=np.zeros((n, N, N), np.uint16)))
    assert scan.counts().max() > 0
    assert any("both diffraction and diff3d" in note for note in scan.notes)


def test_patterns_are_written_under_both_names_of_ptychopinn(tmp_path: Path) -> None:
    """And read from one of them: what lies under the other is not even looked at."""
    scan, path = make_scan(), tmp_path / "a.npz"
    write_scan(scan, path)
    with np.load(path) as file:
        assert file["diff3d"].dtype == np.float32 and file["diff3d"].shape == (n, N, N)
        np.testing.assert_array_equal(file["diff3d"], file["diffraction"])
        size = file["diff3d"].nbytes
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("diff3d.npy")
    with path.open("r+b") as raw:
        raw.seek(member.header_offset + 500)  # behind the headers of zip and NumPy
        raw.write(b"\xff" * (size - 500))
    back = read_scan(path)
    np.testing.assert_allclose(back.counts(), scan.counts(), rtol=3 * 2**-24)
    assert not any("both" in note for note in back.notes)


def test_the_single_channel_of_patches_is_dropped(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.npz", Y=np.ones((n, N, N, 1), np.complex64)))
    assert scan.object_patches is not None
    assert scan.object_patches.shape == (n, N, N)


def test_an_export_of_ptychodus_is_half_a_pixel_off_and_holds_intensities(tmp_path: Path) -> None:
    bad = np.zeros((N, N), np.bool_)
    bad[5, 7] = True
    patterns = np.full((n, N, N), 3, np.int32)
    path = save(tmp_path / "a.npz", diffraction=None, diff3d=patterns, bad_pixels=bad, xcoords=np.full(n, 30.0))
    scan = read_scan(path)
    assert (scan.probe_positions_px[:, 1] == 30.5).all()
    assert (scan.counts()[:, ~bad] == 3).all()
    assert scan.good_pixels is not None
    assert np.argwhere(~scan.good_pixels).tolist() == [[5, 7]]
    assert any("Ptychodus" in note and "+0.5 px" in note for note in scan.notes)


class Trap:
    """Unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickled_extra_is_reported_and_left_unread(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    scan = read_scan(save(tmp_path / "a.npz", _metadata=np.array(Trap(sprung), dtype=object)))
    validate_scan(scan)
    assert "left unread because pickled: _metadata" in scan.notes
    assert not sprung.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["_metadata"]
    assert sprung.exists(), "the trap does not work, so the test proves nothing"


@pytest.mark.parametrize("name", ["diffraction", "xcoords", "ycoords", "probeGuess", "objectGuess"])
def test_a_pickled_member_that_is_needed_is_an_error(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.npz", **{name: np.array([Trap(tmp_path / "sprung")], dtype=object)})
    with pytest.raises(ScanError, match=f"{name} is pickled"):
        read_scan(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffraction": None}, r"diffraction or diff3d is missing; the file holds \['objectGuess', 'probeGuess'"),
        ({"xcoords": None}, "xcoords is missing"),
        ({"probeGuess": None}, "probeGuess is missing"),
        ({"xcoords": np.ones(n - 1)}, r"xcoords is float64 \(6,\); allowed: real, \(7,\). Give as many as ycoords"),
        ({"xcoords": np.ones((n, 1))}, r"xcoords is float64 \(7, 1\)"),
        (
            {"xcoords": np.ones(5), "ycoords": np.ones(5)},
            r"diffraction is float32 \(7, 64, 64\); allowed: real, \(5, N, N\) or \(N, N, 5\)",
        ),
        ({"diffraction": np.ones((n, N))}, r"diffraction is float64 \(7, 64\)"),
        ({"diffraction": np.ones((n, N, N), np.int16)}, "diffraction is int16.*diffraction_kind='amplitudes' or '"),
        ({"diffraction": np.ones((n, N, N), np.complex64)}, "diffraction is complex64"),
        ({"probeGuess": np.ones((N, N))}, r"probeGuess is float64 \(64, 64\); allowed: complex"),
        ({"Y": np.ones((n, N, N))}, r"Y is float64 .*; allowed: complex64 \(DATA-001\)"),
        ({"Y": np.ones((n, N, N), np.complex128)}, r"Y is complex128 .*; allowed: complex64 \(DATA-001\)"),
    ],
)
def test_an_npz_that_cannot_be_read_says_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        read_scan(save(tmp_path / "a.npz", **changes))


def test_a_negative_amplitude_does_not_vanish_in_its_square(tmp_path: Path) -> None:
    diffraction = np.ones((n, N, N), np.float32)
    diffraction[2, 3, 4] = -2
    with pytest.raises(ScanError, match=r"-4.0 at \[2, 3, 4\]"):
        validate_scan(read_scan(save(tmp_path / "a.npz", diffraction=diffraction)))


# --- Ptychodus' pair: the real data ---


@pytest.fixture(scope="module")
def pair() -> Path:
    return shipped("datasets") / "ptychodus-sim-64"


def misfit(scan: Scan, positions: np.ndarray, object_: np.ndarray) -> float:
    """Mean (k - lambda)**2 / lambda over good pixels with lambda > 5: 1 for Poisson counts and the right model."""
    corner = np.rint(positions).astype(int) - N // 2
    inside = ((corner >= 0) & (corner + N <= object_.shape)).all(axis=1)
    assert inside.sum() > 200
    corner, residual = corner[inside], (positions - np.rint(positions))[inside]
    patches = np.stack([object_[y : y + N, x : x + N] for y, x in corner])
    expected = diffraction_amplitudes(fourier_shift(scan.probe, residual[:, None]), patches) ** 2
    used = (expected > 5) & np.asarray(scan.good_pixels)
    return float(((scan.counts(inside)[used] - expected[used]) ** 2 / expected[used]).mean())


@pytest.fixture(scope="module")
def truth(pair: Path) -> Scan:
    return read_scan(pair / "diffraction.h5", product=pair / "truth.h5", object_is_truth=True)


def test_the_truth_explains_the_counts_to_the_poisson_level(truth: Scan) -> None:
    assert truth.object_ is not None
    assert misfit(truth, truth.probe_positions_px, truth.object_) == pytest.approx(1, abs=0.02)


WRONG: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "positions (x, y)": lambda p, o: (p[:, ::-1], o),
    "object transposed": lambda p, o: (p, o.T),
    "object mirrored left to right": lambda p, o: (p, o[:, ::-1]),
    "object mirrored upside down": lambda p, o: (p, o[::-1]),
    "object turned": lambda p, o: (p, o[::-1, ::-1]),
    "object conjugate": lambda p, o: (p, o.conj()),
    "half a pixel missing": lambda p, o: (p - 0.5, o),
    "half a pixel too much in x": lambda p, o: (p + np.array([0, 0.5]), o),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_any_other_orientation_does_not(truth: Scan, mistake: str) -> None:
    assert truth.object_ is not None
    assert misfit(truth, *WRONG[mistake](truth.probe_positions_px, truth.object_)) > 2


def test_the_pair_is_a_valid_scan(pair: Path) -> None:
    scan = read_scan(pair / "diffraction.h5", product=pair / "truth.h5")
    validate_scan(scan)
    assert (scan.n, scan.N, scan.probe.shape) == (306, 64, (1, 64, 64))
    assert scan.diffraction_patterns.dtype == np.uint32
    assert scan.good_pixels is not None
    assert np.argwhere(~scan.good_pixels).tolist() == [[5, 7], [55, 21]]
    assert (scan.diffraction_patterns[:][:, ~scan.good_pixels] == 4_000_000).all()
    assert (scan.counts()[:, ~scan.good_pixels] == 0).all()
    assert scan.wavelength_m == pytest.approx(1.239841984e-10, rel=1e-9)
    assert not scan.object_is_truth, "only its reader knows that"


def test_the_pair_survives_the_other_formats(truth: Scan, tmp_path: Path) -> None:
    for name in FILES.values():
        write_scan(truth, tmp_path / name)
        back = read_scan(tmp_path / name)
        assert back.object_ is not None
        assert misfit(back, back.probe_positions_px, back.object_) == pytest.approx(1, abs=0.02)


# --- Ptychodus' pair: its spellings ---


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_scan(make_scan(), tmp_path / "pair")
    return tmp_path / "pair"


def swap(file: Any, name: str, value: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = value
    file[name].attrs.update(attributes)


def test_patterns_and_positions_meet_by_index(written: Path) -> None:
    scan = make_scan()
    with h5py.File(written / "product.h5", "r+") as file:
        order = [6, 4, 2, 0]
        for name in ("probe_position_x_m", "probe_position_y_m"):
            swap(file, name, file[name][()][order])
        swap(file, "probe_position_indexes", np.array(order))
    back = read_scan(written)
    validate_scan(back)
    np.testing.assert_allclose(back.probe_positions_px, scan.probe_positions_px[::2], atol=1e-12)
    np.testing.assert_array_equal(back.diffraction_patterns[:], scan.diffraction_patterns[::2])
    assert "3 of 7 patterns have no position: left out" in back.notes


def test_positions_of_one_index_are_averaged(written: Path) -> None:
    with h5py.File(written / "product.h5", "r+") as file:
        swap(file, "probe_position_indexes", np.array([0, 1, 2, 3, 4, 5, 5]))
    back = read_scan(written)
    expected = make_scan().probe_positions_px
    np.testing.assert_allclose(back.probe_positions_px[5], expected[5:7].mean(axis=0), atol=1e-12)
    assert back.n == 6
    assert any("averaged" in note for note in back.notes)


def test_only_the_first_coherent_mode_is_used(written: Path) -> None:
    probe = make_scan().probe
    with h5py.File(written / "product.h5", "r+") as file:
        swap(file, "probe", np.stack([probe, 2 * probe, 3 * probe]))
    back = read_scan(written)
    np.testing.assert_array_equal(back.probe, probe)
    assert any("first of 3 coherent modes" in note for note in back.notes)


@pytest.mark.parametrize("shape", [(N, N), (1, N, N), (2, N, N), (1, 1, N, N)])
def test_every_rank_of_probe(written: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(written / "product.h5", "r+") as file:
        swap(file, "probe", np.ones(shape, np.complex128))
    probe = read_scan(written).probe
    assert probe.shape == (shape[-3] if len(shape) > 2 else 1, N, N)
    assert probe.dtype == np.complex64


def test_an_older_product_spells_the_energy_otherwise(written: Path) -> None:
    with h5py.File(written / "product.h5", "r+") as file:
        file.attrs["probe_energy_eV"] = file.attrs["photon_energy_eV"]
        del file.attrs["photon_energy_eV"], file.attrs["far_field"]
        swap(file, "object", file["object"][0])
    back = read_scan(written)
    assert back.wavelength_m == pytest.approx(1.24e-10, rel=1e-15)
    np.testing.assert_array_equal(back.object_, make_scan().object_)


PAIR_ERRORS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("product.h5", lambda f: swap(f, "object", np.ones((2, 100, 110), np.complex64)), r"object is complex64 \(2, 100"),
    ("product.h5", lambda f: swap(f, "object", np.ones((100, 110))), "object is float64"),
    ("product.h5", lambda f: swap(f, "probe", np.ones((1, 1, N, N))), "probe is float64"),
    ("product.h5", lambda f: f.attrs.__setitem__("far_field", False), "far_field is False; allowed: True"),
    (
        "product.h5",
        lambda f: f.attrs.__delitem__("photon_energy_eV"),
        "@photon_energy_eV or @probe_energy_eV is missing",
    ),
    ("product.h5", lambda f: f.attrs.__setitem__("photon_energy_eV", np.nan), "photon_energy_eV is nan"),
    ("product.h5", lambda f: f.__delitem__("probe"), "product.h5: probe is missing; the file holds"),
    (
        "product.h5",
        lambda f: f["object"].attrs.__setitem__("pixel_height_m", 1.0),
        "object@pixel_width_m is 2.5e-08 and object@pixel_height_m 1.0",
    ),
    ("product.h5", lambda f: f["object"].attrs.__delitem__("center_x_m"), "object@center_x_m is missing"),
    (
        "product.h5",
        lambda f: swap(f, "probe_position_x_m", np.ones(n - 1)),
        r"probe_position_x_m is float64 \(6,\); allowed: real, \(7,\)",
    ),
    (
        "product.h5",
        lambda f: swap(f, "probe_position_indexes", np.arange(n - 1)),
        r"probe_position_indexes is int64 \(6,\); allowed: real, \(7,\)",
    ),
    ("product.h5", lambda f: swap(f, "probe_position_indexes", np.arange(n) + 50), "0 to 6, positions 50 to 56"),
    ("diffraction.h5", lambda f: f.__delitem__("patterns"), "diffraction.h5: patterns is missing"),
    ("diffraction.h5", lambda f: f.__delitem__("indexes"), "diffraction.h5: indexes is missing"),
    (
        "diffraction.h5",
        lambda f: swap(f, "patterns", np.ones((N, N))),
        r"patterns is float64 \(64, 64\); allowed: real, \(",
    ),
    (
        "diffraction.h5",
        lambda f: swap(f, "patterns", np.ones((n - 2, N, N))),
        r"indexes is int64 \(7,\); allowed: real, \(5,\)",
    ),
    (
        "diffraction.h5",
        lambda f: swap(f, "indexes", np.arange(n - 2)),
        r"indexes is int64 \(5,\); allowed: real, \(7,\)",
    ),
]


@pytest.mark.parametrize(("name", "damage", "message"), PAIR_ERRORS)
def test_a_pair_that_cannot_be_read_says_why(
    written: Path, name: str, damage: Callable[[Any], Any], message: str
) -> None:
    with h5py.File(written / name, "r+") as file:
        damage(file)
    with pytest.raises(ScanError, match=message) as caught:
        read_scan(written)
    assert name in str(caught.value)


# --- CXI ---

TRANSLATION = "entry_1/sample_1/geometry_1/translation"
SOURCE = "entry_1/instrument_1/source_1"
DETECTOR = "entry_1/instrument_1/detector_1"


def plain_cxi(path: Path) -> Path:
    """What the format itself prescribes: 1 nm light, 1 m away, 100 um pixels: an object pixel is 1e-9 / (64 * 1e-4)."""
    with h5py.File(path, "w") as file:
        file[f"{DETECTOR}/data"] = np.arange(n * N * N, dtype=np.uint32).reshape(n, N, N)
        file[f"{DETECTOR}/distance"] = 1.0
        file[f"{DETECTOR}/x_pixel_size"] = file[f"{DETECTOR}/y_pixel_size"] = 1e-4
        file[f"{SOURCE}/wavelength"] = 1e-9
        file[f"{SOURCE}/probe"] = np.ones((N, N), np.complex64)
        file[TRANSLATION] = np.stack([np.arange(n) * 1e-6, np.full(n, -2e-6), np.zeros(n)], axis=1)
    return path


def test_a_plain_cxi(tmp_path: Path) -> None:
    scan = read_scan(plain_cxi(tmp_path / "a.cxi"))
    validate_scan(replace(scan, diffraction_patterns=np.ones((n, N, N))))
    pixel = 1e-9 / (64 * 1e-4)
    assert scan.pixel_size_m == pytest.approx(pixel, rel=1e-14)
    np.testing.assert_allclose(scan.probe_positions_px[:, 0], -2e-6 / pixel)
    np.testing.assert_allclose(scan.probe_positions_px[:, 1], np.arange(n) * 1e-6 / pixel)
    assert scan.object_ is None
    assert scan.good_pixels is None
    assert scan.counts(1)[0, 1] == N * N + 1
    assert any("place of the beam" in note for note in scan.notes)


def test_energy_mask_and_turned_translations(tmp_path: Path) -> None:
    path = plain_cxi(tmp_path / "a.cxi")
    straight = read_scan(path).probe_positions_px
    with h5py.File(path, "r+") as file:
        del file[f"{SOURCE}/wavelength"]
        file[f"{SOURCE}/energy"] = 1.602176634e-16  # 1 keV
        file[f"{DETECTOR}/mask"] = np.pad(np.array([[1, 0], [0, 2]], np.uint32), (0, N - 2))
        swap(file, TRANSLATION, file[TRANSLATION][()].T)
    scan = read_scan(path)
    assert scan.wavelength_m == pytest.approx(1.239841984e-9, rel=1e-9)
    assert scan.good_pixels is not None
    assert np.argwhere(~scan.good_pixels).tolist() == [[0, 0], [1, 1]]
    np.testing.assert_allclose(scan.probe_positions_px * 1.239841984, straight, rtol=1e-9)
    assert any("(3, n)" in note for note in scan.notes)


def test_patterns_and_product_may_be_two_files(tmp_path: Path) -> None:
    write_scan(make_scan(), tmp_path / "all.cxi")
    shutil.copy(tmp_path / "all.cxi", tmp_path / "product.cxi")
    with h5py.File(tmp_path / "all.cxi", "r+") as file:
        del file["entry_1/image_1"], file["entry_1/image_2"], file["entry_1/sample_1"], file["entry_1/ptychodus"]
    scan = read_scan(tmp_path / "all.cxi", product=tmp_path / "product.cxi")
    np.testing.assert_array_equal(scan.object_, make_scan().object_)
    np.testing.assert_allclose(scan.probe_positions_px, make_scan().probe_positions_px, atol=1e-12)


CXI_ERRORS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda f: f.__setitem__(f"{SOURCE}/energy", 8000.0), "energy is 8000.0; allowed: joules"),
    (lambda f: f.__delitem__(f"{SOURCE}/wavelength"), "wavelength is missing"),
    (lambda f: f.__delitem__(f"{SOURCE}/probe"), "illumination or .*probe is missing"),
    (lambda f: f.__delitem__(f"{DETECTOR}/data"), "entry_1/data_1/data or .*detector_1/data is missing"),
    (lambda f: f.__delitem__(f"{DETECTOR}/distance"), "distance is missing"),
    (lambda f: f.__delitem__(TRANSLATION), "geometry_1/translation or .*translation is missing"),
    (
        lambda f: swap(f, TRANSLATION, np.ones((n - 1, 3))),
        r"translation is float64 \(6, 3\); allowed: real, \(7, 3\) or \(3, 7\)",
    ),
    (
        lambda f: swap(f, f"{DETECTOR}/x_pixel_size", 2e-4),
        "x_pixel_size is 0.0002 and .*y_pixel_size 0.0001; allowed: positive and equal",
    ),
]


@pytest.mark.parametrize(("damage", "message"), CXI_ERRORS)
def test_a_cxi_that_cannot_be_read_says_why(tmp_path: Path, damage: Callable[[Any], Any], message: str) -> None:
    with h5py.File(plain_cxi(tmp_path / "a.cxi"), "r+") as file:
        damage(file)
    with pytest.raises(ScanError, match=message) as caught:
        read_scan(tmp_path / "a.cxi")
    assert "a.cxi" in str(caught.value)


# --- one way to ask for a field ---


@pytest.mark.parametrize(
    ("found", "shape", "holds"),
    [
        ((7, 64, 64), ("n", "N", "N"), True),
        ((7, 64, 32), ("n", "N", "N"), False),
        ((64, 64, 64), ("n", "N", "N"), True),
        ((7, 3), (7, 3), True),
        ((3, 7), (7, 3), False),
        ((7,), ("n", 3), False),
        ((7, 3, 1), ("n", 3), False),
        ((), (), True),
        ((1,), (), False),
    ],
)
def test_a_letter_is_any_size_and_the_same_everywhere(found: tuple[int, ...], shape: Shape, holds: bool) -> None:
    assert fits(found, shape) == holds


ODD: list[tuple[str, dict[str, Any], str]] = [
    ("a.npz", {"ptyint_pixel_size_m": np.ones(2)}, r"ptyint_pixel_size_m is \[1.0, 1.0\]; allowed: one finite number"),
    (
        "a.npz",
        {"ptyint_object_is_truth": np.ones(2)},
        r"object_is_truth is float64 \(2,\); allowed: flag, \(\) or \(1,\)",
    ),
    ("a.npz", {"bad_pixels": np.full((N, N), "x")}, "bad_pixels is <U1"),
    ("a.npz", {"xcoords": np.ones(n, np.complex64)}, r"xcoords is complex64 \(7,\); allowed: real, \(7,\)"),
]


@pytest.mark.parametrize(("name", "changes", "message"), ODD)
def test_an_odd_field_is_no_surprise(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScanError, match=message) as caught:
        read_scan(save(tmp_path / name, **changes))
    assert name in str(caught.value)


# --- laziness ---


def peak_bytes(action: Callable[[], Any]) -> tuple[int, Any]:
    tracemalloc.start()
    try:
        result = action()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_thirteen_gigabytes_are_read_by_slices(tmp_path: Path) -> None:
    """Chunks that nobody wrote take no room on the disk; read whole, they would take 13 GB of memory."""
    many, edge = 200_000, 128
    write_scan(make_scan(), tmp_path)
    with h5py.File(tmp_path / "diffraction.h5", "w") as file:
        data = file.create_dataset("patterns", (many, edge, edge), np.uint32, chunks=(1, edge, edge), fillvalue=4)
        data[123_456] = 7
        file["indexes"] = np.arange(many)
    with h5py.File(tmp_path / "product.h5", "r+") as file:
        swap(file, "probe", np.ones((1, 1, edge, edge), np.complex64))
        for name in ("probe_position_x_m", "probe_position_y_m"):
            swap(file, name, np.zeros(many))
        swap(file, "probe_position_indexes", np.arange(many))

    def read() -> Any:
        scan = read_scan(tmp_path)
        return scan.n, scan.counts(slice(123_455, 123_458)), scan.counts(np.array([199_999, 123_456, 123_456]))

    peak, (count, near, far) = peak_bytes(read)
    assert count == many
    assert [pattern[0, 0] for pattern in near] == [4, 7, 4]
    assert [pattern[0, 0] for pattern in far] == [4, 7, 7]
    assert peak < 50e6


def test_a_stored_npz_is_mapped_not_loaded(tmp_path: Path) -> None:
    many = 4096
    amplitudes = np.ones((many, N, N), np.float32)  # 67 MB
    amplitudes[1000] = 3
    np.savez(tmp_path / "a.npz", **npz_fields(diffraction=amplitudes, xcoords=np.ones(many), ycoords=np.ones(many)))
    peak, counts = peak_bytes(lambda: read_scan(tmp_path / "a.npz").counts(slice(999, 1002)))
    assert counts[:, 0, 0].tolist() == [1, 9, 1]
    assert peak < 5e6


INDEXES = [3, -1, slice(2, 5), slice(None, None, -2), slice(4, 4), [5, 1, 1, 0], [], np.arange(n) % 2 == 0]


@pytest.mark.parametrize("index", INDEXES, ids=repr)
def test_lazy_patterns_index_as_arrays_do(tmp_path: Path, index: Any) -> None:
    array = make_scan().diffraction_patterns
    index = np.array(index, int) if isinstance(index, list) else index
    for name in ("scan.cxi", "pair"):
        write_scan(make_scan(), tmp_path / name)
        read = read_scan(tmp_path / name).diffraction_patterns[index]
        np.testing.assert_array_equal(read, array[index])
        assert read.dtype == array.dtype


# --- which format, which file ---


def test_the_format_follows_the_suffix_or_the_wish(tmp_path: Path) -> None:
    write_scan(make_scan(), tmp_path / "scan.dat", format="npz")
    assert zipfile.is_zipfile(tmp_path / "scan.dat")
    assert read_scan(tmp_path / "scan.dat", format="npz").n == n
    with pytest.raises(ScanError, match=r"unknown suffix '\.dat'.*'\.cxi', '\.h5', '\.hdf5', '\.npz'"):
        read_scan(tmp_path / "scan.dat")
    with pytest.raises(ScanError, match=r"Unknown format 'tiff'. Must be one of \['cxi', 'npz', 'ptychodus'\]"):
        read_scan(tmp_path / "scan.dat", format="tiff")  # type: ignore[arg-type]


def test_hdf5_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    path = plain_cxi(tmp_path / "a.h5")
    assert read_scan(path).sha256 == read_scan(path, format="cxi").sha256
    with pytest.raises(ScanError, match="patterns is missing"):
        read_scan(path, format="ptychodus")
    write_scan(make_scan(), tmp_path / "pair")
    assert read_scan(tmp_path / "pair" / "diffraction.h5").n == n


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    with pytest.raises(ScanError, match="product="):
        read_scan(path, product="product.h5")
    with pytest.raises(ScanError, match="diffraction_kind='intensity'"):
        read_scan(path, diffraction_kind="intensity")  # type: ignore[arg-type]
    with pytest.raises(ScanError, match="cxi files hold counts"):
        read_scan(plain_cxi(tmp_path / "a.cxi"), diffraction_kind="counts")


@pytest.mark.parametrize("name", ["gone.npz", "gone.cxi", "gone.h5"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScanError, match=f"{name}: no such file"):
        read_scan(tmp_path / name)


@pytest.mark.parametrize("name", ["text.npz", "text.cxi", "text.h5"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not what the name says")
    with pytest.raises(ScanError, match=name):
        read_scan(tmp_path / name)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_npz(tmp_path: Path, compressed: bool) -> None:
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **npz_fields())
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ScanError, match="not an NPZ archive"):
        read_scan(tmp_path / "a.npz")


def test_a_damaged_member(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **npz_fields())
    data = bytearray((tmp_path / "a.npz").read_bytes())
    middle = data.index(b"probeGuess.npy") + 5000
    data[middle : middle + 50] = bytes(50)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ScanError, match="probeGuess is damaged"):
        read_scan(tmp_path / "a.npz")


@pytest.mark.parametrize("large", [False, True])
def test_a_member_whose_header_lies_about_its_size(tmp_path: Path, large: bool) -> None:
    np.savez(tmp_path / "a.npz", **npz_fields(diffraction=np.ones((n * (20 if large else 1), N, N), np.float32)))
    data = (tmp_path / "a.npz").read_bytes()
    shape = b"(140, 64, 64)" if large else b"(7, 64, 64)"
    lie = shape.replace(b"64)", b"99)")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as target, zipfile.ZipFile(tmp_path / "a.npz") as source:
        for member in source.namelist():
            target.writestr(member, source.read(member).replace(shape, lie))
    assert shape in data
    with pytest.raises(ScanError, match="diffraction is damaged"):
        read_scan(tmp_path / "b.npz")


def test_metres_need_a_pixel_size_and_a_pair_needs_a_folder(tmp_path: Path) -> None:
    scan = make_scan(pixel_size_m=None, wavelength_m=None)
    for name in ("pair", "scan.cxi"):
        with pytest.raises(ScanError, match="scan has no pixel_size_m, wavelength_m, and this format keeps positions"):
            write_scan(scan, tmp_path / name)
    (tmp_path / "file.h5").touch()
    with pytest.raises(ScanError, match=r"file\.h5 is a file; allowed: a folder"):
        write_scan(make_scan(), tmp_path / "file.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["file.h5"]


@pytest.mark.parametrize("last", [False, True])
def test_large_patterns_are_read_by_slices_and_leave_no_pages_in_memory(tmp_path: Path, last: bool) -> None:
    """Plain or compressed: a process that reads 160 MB of patterns slice by slice stays far below that."""
    n = 10_000
    amplitudes = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None] % 7 + 1, (n, 64, 64))
    stored = np.moveaxis(amplitudes, 0, -1) if last else amplitudes
    rest = {"xcoords": np.arange(n) % 100.0, "ycoords": np.arange(n) // 100.0, "probeGuess": np.ones((64, 64), "c8")}
    script = (
        "import resource, sys\n"
        "from ptyint.scans.files import read_scan\n"
        "from ptyint.scans.scan import pattern_slices\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10\n"
        "scan, start = read_scan(sys.argv[1]), peak()\n"
        "total = sum(float(scan.counts(slice(i, i + 100)).sum(dtype='f8')) for i in range(0, scan.n, 100))\n"
        "print(peak() - start, total, scan.counts([8, 3])[:, 5, 6].tolist(), *scan.notes)"
    )
    for save, compressed in (np.savez, False), (np.savez_compressed, True):
        save(tmp_path / "a.npz", diffraction=stored, **rest)
        said = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "a.npz"], capture_output=True, text=True, check=True
        ).stdout
        grown, total, _ = said.split(maxsplit=2)
        assert float(grown) < 60
        assert float(total) == pytest.approx((amplitudes[:, 0, 0].astype(float) ** 2).sum() * 64 * 64)
        assert "[4.0, 16.0]" in said
        assert ("is compressed: unpacked into a temporary file of 156 MiB" in said) == compressed


def test_a_scan_is_converted_between_all_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_scan()
    write_scan(first, tmp_path / "0.npz")
    for source, target in ("0.npz", "1.cxi"), ("1.cxi", "pair"), ("pair", "2.npz"):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(target)
    np.testing.assert_allclose(read_scan(tmp_path / "2.npz").counts(), first.counts(), rtol=1e-6)
    assert main(["convert", str(tmp_path / "0.npz"), str(tmp_path / "3.tif")]) == 2
    assert "unknown suffix '.tif'" in capsys.readouterr().err


def test_writing_tells_how_far_it_is(tmp_path: Path) -> None:
    written: list[int] = []
    scan = make_scan()
    write_scan(scan, tmp_path / "a.npz", on_patterns=written.append)
    assert sum(written) == scan.n
