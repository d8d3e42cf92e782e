from __future__ import annotations

import bz2
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.errors import ScanError
from ptyint.scans import scan as scan_module
from ptyint.scans.scan import Scan, pattern_slices, validate_scan

N = 64
n = 5


def make_scan(**changes: Any) -> Scan:
    rng = np.random.default_rng(7)
    fields: dict[str, Any] = {
        "diffraction_patterns": rng.poisson(3.0, (n, N, N)).astype(np.uint16),
        "probe_positions_px": rng.uniform(0, 79, (n, 2)),
        "probe": np.ones((2, N, N), np.complex64),
        "object_": np.ones((80, 90), np.complex64),
        "object_patches": np.ones((n, N, N), np.complex64),
        "good_pixels": np.ones((N, N), np.bool_),
        "pixel_size_m": 1e-8,
        "name": "unit-scan",
    }
    return Scan(**(fields | changes))


def edited(field: str, index: Any, value: Any, dtype: Any = None) -> dict[str, Any]:
    array = np.array(getattr(make_scan(), field), dtype)
    array[index] = value
    return {field: array}


def violations(scan: Scan) -> list[str]:
    with pytest.raises(ScanError) as caught:
        validate_scan(scan)
    return str(caught.value).splitlines()[1:]


def test_a_good_scan_passes() -> None:
    validate_scan(make_scan())
    validate_scan(make_scan(object_=None, object_patches=None, good_pixels=None, pixel_size_m=None))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64, np.float32, np.float64])
def test_every_real_dtype_of_counts_is_allowed(dtype: Any) -> None:
    validate_scan(make_scan(diffraction_patterns=make_scan().counts().astype(dtype)))


FAR_APART = np.array([[0, 0], [1e6, 0], [0, 5], [5, 5], [9, 9]], np.float64)

VIOLATIONS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"diffraction_patterns": np.zeros((n, N, N))}, "diffraction_patterns", ["no counts", "above zero"]),
    ({"probe": np.zeros((1, N, N), np.complex64)}, "probe", ["zero everywhere"]),
    ({"object_": None, "probe_positions_px": FAR_APART}, "probe_positions_px", ["1e+06", "20000 px", "metres"]),
    ({"object_": None, "probe_positions_px": 1e-8 * FAR_APART}, "probe_positions_px", ["0.01 x", "4 to"]),
    ({"diffraction_patterns": np.ones((n, N))}, "diffraction_patterns", ["(5, 64)", "(n, N, N)"]),
    ({"diffraction_patterns": np.ones((0, N, N))}, "diffraction_patterns", ["(0, 64, 64)", "at least 2"]),
    ({"diffraction_patterns": np.ones((n, N, N), np.complex64)}, "diffraction_patterns", ["complex64", "integer or"]),
    ({"diffraction_patterns": np.ones((n, N, N), np.bool_)}, "diffraction_patterns", ["bool", "integer or float"]),
    (edited("diffraction_patterns", (4, 3, 2), np.nan, np.float32), "diffraction_patterns", ["nan at [4, 3, 2]"]),
    (edited("diffraction_patterns", (4, 3, 2), np.inf, np.float64), "diffraction_patterns", ["inf at [4, 3, 2]"]),
    (edited("diffraction_patterns", (1, 0, 5), -3, np.int16), "diffraction_patterns", ["-3 at [1, 0, 5]", "least 0"]),
    ({"probe": np.ones((2, N, N), np.complex128)}, "probe", ["complex128", "complex64"]),
    ({"probe": np.ones((N, N), np.complex64)}, "probe", ["(64, 64)", "(modes, 64, 64)"]),
    ({"probe": np.ones((0, N, N), np.complex64)}, "probe", ["(0, 64, 64)", "(modes, 64, 64)"]),
    ({"probe": np.ones((1, 32, 32), np.complex64)}, "probe", ["(1, 32, 32)", "(modes, 64, 64)"]),
    (edited("probe", (1, 2, 3), np.nan), "probe", ["1 values that are NaN"]),
    ({"object_": np.ones((80, 90), np.float32)}, "object_", ["float32", "complex64"]),
    ({"object_": np.ones((1, 80, 90), np.complex64)}, "object_", ["(1, 80, 90)", "(H, W)"]),
    (edited("object_", (0, 0), np.inf), "object_", ["1 values that are NaN"]),
    ({"object_patches": np.ones((n, N, N))}, "object_patches (Y)", ["float64", "complex64"]),
    ({"object_patches": np.ones((n - 1, N, N), np.complex64)}, "object_patches (Y)", ["(4, 64, 64)", "(5, 64, 64)"]),
    ({"probe_positions_px": np.ones((n - 1, 2))}, "probe_positions_px", ["(4, 2)", "(5, 2)"]),
    ({"probe_positions_px": np.ones((n, 3))}, "probe_positions_px", ["(5, 3)", "(5, 2), order (y, x)"]),
    ({"probe_positions_px": np.ones((n, 2), np.float32)}, "probe_positions_px", ["float32", "float64"]),
    (edited("probe_positions_px", (2, 0), np.nan), "probe_positions_px", ["1 values that are NaN"]),
    (edited("probe_positions_px", (2, 0), 79.5), "probe_positions_px", ["79.5", "at 2", "0 <= y <= 79"]),
    (edited("probe_positions_px", (3, 1), -0.1), "probe_positions_px", ["-0.1", "at 3", "0 <= x <= 89"]),
    ({"good_pixels": np.ones((N, N), np.uint8)}, "good_pixels", ["uint8", "bool"]),
    ({"good_pixels": np.ones((N, 2), np.bool_)}, "good_pixels", ["(64, 2)", "(64, 64)"]),
    ({"good_pixels": np.zeros((N, N), np.bool_)}, "good_pixels", ["no good pixel", "at least one"]),
    ({"pixel_size_m": 0.0}, "pixel_size_m", ["0.0", "positive"]),
    ({"wavelength_m": float("nan")}, "wavelength_m", ["nan", "positive"]),
    ({"detector_distance_m": -1.0}, "detector_distance_m", ["-1.0", "positive"]),
]


@pytest.mark.parametrize(("changes", "field", "said"), VIOLATIONS)
def test_each_violation_is_named(changes: dict[str, Any], field: str, said: list[str]) -> None:
    (line,) = violations(make_scan(**changes))
    assert line.startswith(f"- unit-scan: {field}: found ")
    assert "; allowed: " in line
    for text in said:
        assert text in line


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 96), (64, 128)])
def test_the_size_of_a_pattern(height: int, width: int) -> None:
    scan = make_scan(
        diffraction_patterns=np.ones((n, height, width)),
        probe=np.ones((1, height, width), np.complex64),
        object_patches=None,
        good_pixels=None,
    )
    (line,) = violations(scan)
    assert f"{height} x {width}" in line
    assert "(64, 128, 256)" in line


def test_all_violations_come_at_once_under_the_name_of_the_source() -> None:
    scan = make_scan(probe=np.ones((1, N, N)), object_=np.ones((80, 90)), pixel_size_m=-1.0)
    with pytest.raises(ScanError) as caught:
        validate_scan(scan, source="run12.npz")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("run12.npz breaks the data contract (DATA-001) in 3 place(s)")
    assert [line.split(": ")[1] for line in lines[1:]] == ["probe", "object_", "pixel_size_m"]
    assert all(line.startswith("- run12.npz: ") for line in lines[1:])


def test_bad_pixels_may_hold_anything() -> None:
    patterns = make_scan().counts()
    good = np.ones((N, N), np.bool_)
    good[3, 4] = good[5, 6] = False
    patterns[:, 3, 4], patterns[:, 5, 6] = np.nan, -1
    scan = make_scan(diffraction_patterns=patterns, good_pixels=good)
    validate_scan(scan)
    assert (scan.counts()[:, ~good] == 0).all()
    assert (scan.counts(2)[good] == patterns[2][good]).all()
    assert len(violations(replace(scan, good_pixels=None))) == 2


def test_a_centre_may_sit_on_the_border_though_its_patch_overhangs() -> None:
    validate_scan(make_scan(probe_positions_px=np.array([[0, 0], [79, 89], [0, 89], [79, 0], [40, 40]], np.float64)))


def test_the_last_pattern_of_the_last_chunk_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "CHUNK_PIXELS", 2 * N * N)
    scan = make_scan(**edited("diffraction_patterns", (4, 63, 63), np.nan, np.float32))
    assert [s.stop - s.start for s in pattern_slices(scan.diffraction_patterns)] == [2, 2, 1]
    (line,) = violations(scan)
    assert "nan at [4, 63, 63]" in line


def dc_at_corner(patterns: np.ndarray) -> np.ndarray:
    return np.fft.ifftshift(patterns, axes=(-2, -1))


def centred_star(file: Path) -> np.ndarray:
    data = np.load(io.BytesIO(bz2.decompress(file.read_bytes())))["data"][0, ::20]
    return np.asarray(np.fft.fftshift(data, axes=(-2, -1)))


@pytest.mark.parametrize("cut", [lambda p: p, lambda p: p[:, 32:96, 32:96]], ids=["128", "64"])
def test_the_zero_frequency_at_the_corner_is_reported(star_file: Path, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    centred = cut(centred_star(star_file))
    size = centred.shape[-1]
    positions = np.arange(2.0 * len(centred)).reshape(-1, 2)
    scan = Scan(centred, positions, np.ones((1, size, size), np.complex64), name="star")
    validate_scan(scan)
    (line,) = violations(replace(scan, diffraction_patterns=dc_at_corner(centred)))
    assert "zero frequency at the corner" in line
    assert "np.fft.fftshift" in line


def test_a_hot_pixel_near_the_corner_does_not_pass_for_the_zero_frequency() -> None:
    patterns = np.full((n, N, N), 0.1)
    y, x = np.indices((N, N)) - N // 2
    patterns += 300 * np.exp(-(np.hypot(y, x) ** 2) / 50)
    patterns[:, 2, 2] = 1e6
    validate_scan(make_scan(diffraction_patterns=patterns))
    assert "at the corner" in violations(make_scan(diffraction_patterns=dc_at_corner(patterns)))[0]
