"""Fixtures by name: the registry is complete, its digests hold, and what does not hold is an error that helps."""

from __future__ import annotations

import bz2
import functools
import hashlib
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pooch
import pytest

from ptyint.errors import FixtureError, MissingFixtureError
from ptyint.scans import fixtures
from ptyint.scans.scan import Scan, validate_scan

DATASETS = Path(__file__).parents[1] / "datasets"
STAR = "siemens-star-small.npz.bz2"
SYNTHETIC = ["tiny-64", "synthetic-64", "synthetic-64-lowdose", "spiral-64", "grid-128"]
STARS = ["siemens-star", "siemens-star-64"]
PAIR = "ptychodus-sim-64"
cached = functools.cache(fixtures.load_fixture)


@pytest.fixture(autouse=True)
def _no_folders_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("PTYINT_DATA_DIR", raising=False)
    monkeypatch.delenv("PTYINT_DATASETS_DIR", raising=False)
    monkeypatch.delenv("PTYINT_REQUIRE_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A private copy of ``datasets/``: returns a function that replaces text in its registry."""
    folder = tmp_path / "datasets"
    shutil.copytree(DATASETS, folder)
    monkeypatch.setenv("PTYINT_DATASETS_DIR", str(folder))

    def edit(pattern: str, replacement: str) -> Path:
        text, changes = re.subn(pattern, replacement, (folder / "registry.toml").read_text())
        assert changes
        (folder / "registry.toml").write_text(text)
        return folder

    return edit


@pytest.fixture
def star_folder(star_file, monkeypatch):
    monkeypatch.setenv("PTYINT_DATA_DIR", str(star_file.parent))


# Registry


def test_the_registry_lists_every_fixture_with_every_field():
    assert fixtures.fixture_names() == [*SYNTHETIC, *STARS, PAIR]
    for info in map(fixtures.fixture_info, fixtures.fixture_names()):
        assert info.owner and info.licence and "TEST-PYTORCH-001" in info.notes
        assert info.n > 0 and info.N in (64, 128, 256) and info.gridsize in (1, 2)
        assert info.sha256 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in info.sha256.values())
        assert bool(info.url) == (info.kind == "fetched")
        assert bool(info.generator) == ("arrays" in info.sha256) == (info.name in SYNTHETIC)
        if info.url:
            assert re.search("/[0-9a-f]{40}/", info.url), "pinned to a commit"


def test_the_readme_table_agrees_with_the_registry():
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", (DATASETS / "README.md").read_text(), re.MULTILINE)
    table = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert list(table) == fixtures.fixture_names()
    for name, (kind, _, _, n, size, gridsize, truth, _) in table.items():
        info = fixtures.fixture_info(name)
        assert (kind, int(n), int(size), int(gridsize)) == (info.kind, info.n, info.N, info.gridsize)
        assert (truth == "yes") == (name not in STARS)


@pytest.mark.parametrize("name", [*SYNTHETIC, PAIR])
def test_a_loaded_fixture_is_what_the_registry_says(name):
    as_registered(name)


@pytest.mark.parametrize("name", STARS)
def test_the_loaded_star_is_what_the_registry_says(name, star_folder):
    as_registered(name)


def as_registered(name):
    scan, info = cached(name), fixtures.fixture_info(name)
    validate_scan(scan)
    assert (scan.name, scan.n, scan.N) == (name, info.n, info.N)
    assert scan.object_is_truth == (not name.startswith("siemens"))
    corner = np.rint(scan.probe_positions_px).astype(int) - scan.N // 2
    assert (corner >= 0).all() and (corner + scan.N <= np.array(scan.object_.shape)).all()


# Synthetic fixtures


@pytest.mark.parametrize("name", SYNTHETIC)
def test_dose_overlap_and_dtype(name):
    scan = cached(name)
    photons = 1e4 if name.endswith("lowdose") else 1e6
    counts = np.asarray(scan.diffraction_patterns)
    assert counts.sum(dtype=np.int64) / scan.n == pytest.approx(photons, abs=5 * np.sqrt(photons / scan.n) + 5)
    assert counts.dtype in (np.uint16, np.uint32)
    modulus = np.abs(scan.probe[0])
    diameter = np.sqrt(4 / np.pi * (modulus > modulus.max() / 2).sum())
    step = scan.N * 6 / 64
    assert 0.6 < 1 - step / diameter < 0.75
    distance = np.hypot(*(scan.probe_positions_px[:, None] - scan.probe_positions_px).T) + 1e9 * np.eye(scan.n)
    assert np.median(distance.min(axis=0)) == pytest.approx(step, rel=0.3)


def test_low_dose_differs_in_dose_alone():
    high, low = cached("synthetic-64"), cached("synthetic-64-lowdose")
    assert np.array_equal(high.object_, low.object_)
    assert np.array_equal(high.probe_positions_px, low.probe_positions_px)
    assert np.allclose(high.probe, 10 * low.probe, rtol=0, atol=1e-5 * np.abs(high.probe).max())


def test_fixtures_have_more_than_one_probe_object_and_path():
    first, second = (cached(name).probe.ravel() for name in ("synthetic-64", "spiral-64"))
    assert abs(np.vdot(first, second)) < 0.9 * np.linalg.norm(first) * np.linalg.norm(second)
    ordered = cached("synthetic-64").probe_positions_px
    assert np.abs(np.diff(ordered[:24, 0])).max() < 4 and np.abs(np.diff(ordered[:24, 1]) - 6).max() < 3.1


def test_the_tiny_file_is_what_its_generator_makes():
    assert (DATASETS / "tiny-64.npz").stat().st_size < 200_000
    committed, generated = cached("tiny-64"), fixtures.generate_fixture("tiny-64")
    assert committed.n < 20
    for field in ("diffraction_patterns", "probe_positions_px", "probe", "object_"):
        left, right = getattr(committed, field), getattr(generated, field)
        assert left.dtype == right.dtype and left.tobytes() == right.tobytes() and left.shape == right.shape


def test_freezing_writes_the_same_arrays(tmp_path):
    fixtures.freeze_fixture("tiny-64", tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again, np.load(DATASETS / "tiny-64.npz") as committed:
        assert sorted(again) == sorted(committed)
        assert all(again[key].tobytes() == committed[key].tobytes() for key in committed)


def test_the_digest_is_defined_by_names_dtypes_shapes_and_bytes():
    patterns, positions = np.arange(8, dtype=np.uint16).reshape(2, 2, 2), np.array([[1.0, 2.0], [3.0, 4.5]])
    probe = np.full((1, 2, 2), 1 + 2j, np.complex64)
    expected = hashlib.sha256(
        b"diffraction_patterns <u2 (2, 2, 2)\n"
        + bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0])
        + b"probe_positions_px <f8 (2, 2)\n"
        + positions.astype("<f8").tobytes()
        + b"probe <c8 (1, 2, 2)\n"
        + probe.astype("<c8").tobytes()
        + b"object_ None\n"
    ).hexdigest()
    scan = Scan(patterns, positions, probe)
    assert scan.sha256 == expected
    foreign = replace(scan, diffraction_patterns=patterns.astype(">u2"), probe=np.asfortranarray(probe))
    assert foreign.sha256 == expected
    assert replace(scan, probe_positions_px=positions + 1e-15).sha256 != expected


# Real data


def test_the_star_keeps_its_counts_exactly(star_file, star_folder):
    scan = cached("siemens-star")
    with np.load(io.BytesIO(bz2.decompress(star_file.read_bytes())), allow_pickle=False) as raw:
        data, probe, corners = raw["data"][0], raw["probe"][0, 0, 0], raw["scan"][0]
    assert scan.diffraction_patterns.dtype == np.uint16
    for y, x in ((0, 0), (5, 120), (127, 64), (70, 3)):  # DC: from [0, 0] to [64, 64]
        assert np.array_equal(scan.diffraction_patterns[:, (y + 64) % 128, (x + 64) % 128], data[:, y, x])
    assert scan.diffraction_patterns.sum(dtype=np.int64) == data.sum(dtype=np.float64)
    assert np.allclose(scan.probe, probe, rtol=0, atol=1e-6 * np.abs(probe).max())
    assert np.allclose(np.diff(scan.probe_positions_px, axis=0), np.diff(corners.astype(float), axis=0), atol=1e-9)


def test_the_crop_is_the_centre_of_the_same_measurement(star_folder):
    full, crop = map(cached, STARS)
    assert np.array_equal(crop.diffraction_patterns, full.diffraction_patterns[:, 32:96, 32:96])
    steps = np.diff(full.probe_positions_px, axis=0) / 2
    assert np.allclose(np.diff(crop.probe_positions_px, axis=0), steps, atol=1e-9)
    far = [np.abs(np.fft.fftshift(np.fft.fft2(s.probe[0].astype(complex), norm="ortho"))) for s in (full, crop)]
    assert np.allclose(far[0][32:96, 32:96], far[1], atol=1e-5 * far[1].max())
    fine = np.abs(full.probe[0]) ** 2
    coarse = np.abs(crop.probe[0]) ** 2
    y, x = np.indices((128, 128))
    centre = np.array([(fine * y).sum(), (fine * x).sum()]) / fine.sum()
    centre_coarse = np.array([(coarse * y[:64, :64]).sum(), (coarse * x[:64, :64]).sum()]) / coarse.sum()
    assert np.allclose(centre_coarse, centre / 2, atol=0.3)


def test_the_star_fits_its_positions_in_this_orientation_only(star_folder):
    """Two sweeps of ePIE (Maiden, Rodenburg 2009): any other orientation of the detector contradicts the positions."""
    scan = cached("siemens-star-64")
    amplitude = np.sqrt(scan.diffraction_patterns.astype(float))
    flipped = np.roll(amplitude[:, ::-1], 1, axis=1)
    errors = [epie_error(scan, a) for a in (amplitude, amplitude.transpose(0, 2, 1), flipped)]
    assert errors[0] < 0.6 * min(errors[1:]), errors


def epie_error(scan, amplitudes):
    probe = scan.probe[0] * np.sqrt((amplitudes**2).sum() / scan.n / (np.abs(scan.probe[0]) ** 2).sum())
    object_, measured = np.ones(scan.object_.shape, complex), np.fft.ifftshift(amplitudes, axes=(1, 2))
    order = np.random.default_rng(0)
    for _ in range(2):
        error = 0.0
        for i in order.permutation(scan.n):
            y, x = np.rint(scan.probe_positions_px[i]).astype(int)
            patch = object_[y - 32 : y + 32, x - 32 : x + 32]
            wave = probe * patch
            far = np.fft.fft2(wave, norm="ortho")
            error += ((np.abs(far) - measured[i]) ** 2).sum()
            change = np.fft.ifft2(measured[i] * np.exp(1j * np.angle(far)), norm="ortho") - wave
            old = patch.copy()
            patch += 0.9 * probe.conj() / (np.abs(probe) ** 2).max() * change
            probe = probe + 0.5 * old.conj() / (np.abs(old) ** 2).max() * change
    return error / (amplitudes**2).sum()


# Errors


def test_an_unknown_name_gets_the_near_miss_and_the_known_names():
    with pytest.raises(FixtureError, match=r"'synthetic64'.*Did you mean 'synthetic-64'\?.*tiny-64.*ptychodus-sim-64"):
        fixtures.load_fixture("synthetic64")
    with pytest.raises(FixtureError) as caught:
        fixtures.load_fixture("qqq")
    assert "Did you mean" not in str(caught.value) and "siemens-star-64" in str(caught.value)


def test_other_arrays_than_the_frozen_ones_are_an_error(registry):
    right = fixtures.fixture_info("spiral-64").sha256["arrays"]
    registry(f'"{right}"', f'"{"0" * 64}"')
    with pytest.raises(FixtureError, match=f"spiral-64.*{right}.*{'0' * 64}"):
        fixtures.load_fixture("spiral-64")


def test_a_changed_committed_file_is_an_error(registry):
    path = registry("tiny-64.npz", "tiny-64.npz") / "tiny-64.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FixtureError, match=f"tiny-64.npz: sha256 is {hashlib.sha256(data).hexdigest()}"):
        fixtures.load_fixture("tiny-64")
    path.unlink()
    with pytest.raises(FixtureError, match=r"no file .*tiny-64.npz; restore"):
        fixtures.load_fixture("tiny-64")


def test_a_local_file_with_another_sha256_is_an_error(monkeypatch, tmp_path):
    (tmp_path / STAR).write_bytes(b"not the star")
    monkeypatch.setenv("PTYINT_DATA_DIR", str(tmp_path))
    with pytest.raises(FixtureError, match=f"{hashlib.sha256(b'not the star').hexdigest()}.*dbce7715"):
        fixtures.load_fixture("siemens-star")


def test_offline_one_sentence_says_which_file_goes_where(registry):
    registry("https://raw[^/]*/", "http://127.0.0.1:9/")
    with pytest.raises(FixtureError, match=f"offline, set PTYINT_DATA_DIR to a folder .* {STAR} with the sha256 dbce"):
        fixtures.load_fixture("siemens-star-64")


def test_what_cannot_be_had_is_missing_with_its_remedy_and_never_where_it_is_required(registry, monkeypatch, tmp_path):
    registry("https://raw[^/]*/", "http://127.0.0.1:9/")
    for name in STARS:
        assert re.search(f"offline, set PTYINT_DATA_DIR to a folder .* {STAR}", fixtures.missing(name))
        with pytest.raises(MissingFixtureError):
            fixtures.fixture_file(name)
    assert [fixtures.missing(name) for name in (*SYNTHETIC, PAIR)] == [""] * 6
    monkeypatch.setenv("PTYINT_REQUIRE_DATA", "1")
    assert fixtures.missing("siemens-star") == ""
    monkeypatch.delenv("PTYINT_REQUIRE_DATA")
    (tmp_path / STAR).write_bytes(b"not the star")
    monkeypatch.setenv("PTYINT_DATA_DIR", str(tmp_path))
    assert fixtures.missing("siemens-star") == "", "it is here, and loading it says what is wrong"
    with pytest.raises(FixtureError, match=r"tiny-64 \(committed\) is not fetched"):
        fixtures.fixture_file("tiny-64")


def test_an_address_is_asked_once_for_what_is_missing_and_again_by_who_wants_the_file(registry, monkeypatch):
    asked = []

    def retrieve(url, *_, **__):
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    registry("https://raw[^/]*/", "http://nowhere.invalid/")
    assert all("PTYINT_DATA_DIR is not set" in fixtures.missing(name) for name in STARS * 2)
    assert len(asked) == 1
    with pytest.raises(MissingFixtureError):
        fixtures.fixture_file("siemens-star")
    assert len(asked) == 2


def test_a_fetched_file_is_checked_and_cached(registry, star_file, tmp_path):
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.path = self.path.rsplit("/", 1)[1]
            super().do_GET()

        def log_message(self, *_):
            pass

    (tmp_path / "served").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "served")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry("https://raw[^/]*/", f"http://127.0.0.1:{server.server_port}/")
        (tmp_path / "served" / STAR).write_bytes(b"something else")
        with pytest.raises(FixtureError, match="sha256"):
            fixtures.load_fixture("siemens-star-64")
        shutil.copyfile(star_file, tmp_path / "served" / STAR)
        scan = fixtures.load_fixture("siemens-star-64")
        assert scan.n == 516 and len(requests) == 2
        fixtures.load_fixture("siemens-star")
        assert len(requests) == 2
        server.shutdown()


def test_a_missing_or_broken_registry_is_an_error(registry, monkeypatch, tmp_path):
    registry('owner = "[^"]*"', 'ovner = "x"')
    with pytest.raises(FixtureError, match=r"registry\.toml is no registry of fixtures.*ovner"):
        fixtures.fixture_names()
    monkeypatch.setenv("PTYINT_DATASETS_DIR", str(tmp_path))
    with pytest.raises(FixtureError, match=rf"No registry\.toml .*\(PTYINT_DATASETS_DIR={tmp_path}\); set"):
        fixtures.fixture_names()


def test_only_what_has_a_generator_is_generated():
    with pytest.raises(FixtureError, match=r"siemens-star \(fetched\) has no generator"):
        fixtures.generate_fixture("siemens-star")


def test_a_generator_that_nobody_wrote_is_an_error(registry):
    registry('path = "spiral_positions"', 'path = "sprial_positions"')
    with pytest.raises(FixtureError, match=r"spiral-64 \(generated\) has no generator that runs .*sprial_positions"):
        fixtures.load_fixture("spiral-64")


def test_importing_fixtures_stays_light():
    heavy = "{'torch', 'tensorflow', 'scipy', 'h5py', 'pooch', 'matplotlib', 'skimage'}"
    code = f"import sys, ptyint.scans.fixtures; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
