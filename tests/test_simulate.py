"""Simulated scans against closed forms: shifts, ramps, doses and geometry worked out here, not by the package."""

from __future__ import annotations

import numpy as np
import pytest

from ptyint.errors import ScanError
from ptyint.scans import simulate

N = 64
FLAT = np.ones((80, 80), np.complex64)
CENTRE = np.array([[40.0, 40.0]])


def gaussian(shift=(0.0, 0.0), sigma=6.0):
    """A Gaussian moved analytically, so that no FFT of the package decides what is right."""
    y, x = np.indices((N, N)) - N // 2
    return np.exp(-((y - shift[0]) ** 2 + (x - shift[1]) ** 2) / (2 * sigma**2)).astype(np.complex64)[None]


def root_counts(scan):
    return np.sqrt(scan.diffraction_patterns.astype(np.float64))


def textured_object(shape=(80, 80)):
    y, x = np.indices(shape)
    amplitude, phase = 0.8 + 0.15 * np.sin(0.7 * y + 0.3 * x), 0.8 * np.sin(0.4 * x - 0.5 * y + 1)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


# Physics


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.0, -0.25), (0.75, 0.4), (-0.6, 1.3), (2.0, -1.0)])
def test_a_position_moves_the_probe_by_the_same_amount(shift):
    """Position c + shift on the object = position c with a probe that was moved by shift."""
    object_ = textured_object()
    moved = simulate.simulate_scan(object_, gaussian(), CENTRE + shift, photons_per_pattern=4e9, seed=1)
    reference = simulate.simulate_scan(object_, gaussian(shift), CENTRE, photons_per_pattern=4e9, seed=2)
    difference = root_counts(moved) - root_counts(reference)
    # Each root of a Poisson count has a standard deviation of at most about 0.6.
    assert np.abs(difference).max() < 6
    assert np.sqrt((difference**2).mean()) < 0.8


def test_a_wrong_shift_would_be_seen():
    moved = CENTRE + np.array([0.5, 0.0])
    scan = simulate.simulate_scan(textured_object(), gaussian(), moved, photons_per_pattern=4e9, seed=1)
    mirrored = simulate.simulate_scan(textured_object(), gaussian((-0.5, 0)), CENTRE, photons_per_pattern=4e9, seed=2)
    assert np.abs(root_counts(scan) - root_counts(mirrored)).max() > 100


@pytest.mark.parametrize("cycles", [(5, 0), (0, 5), (-3, 7)])
def test_a_phase_ramp_moves_the_pattern_towards_larger_indices(cycles):
    """Object exp(2 pi i k.r / N): the pattern's peak moves from [N // 2, N // 2] by k, not by -k."""
    y, x = np.indices((80, 80))
    ramp = np.exp(2j * np.pi * (cycles[0] * y + cycles[1] * x) / N).astype(np.complex64)
    scan = simulate.simulate_scan(ramp, gaussian(), CENTRE, photons_per_pattern=1e6, seed=3)
    peak = np.unravel_index(scan.diffraction_patterns[0].argmax(), (N, N))
    assert peak == (N // 2 + cycles[0], N // 2 + cycles[1])


def test_positions_are_y_then_x_from_the_corner_of_the_object():
    object_ = np.ones((90, 130), np.complex64)
    object_[45:, 65:] = 0.1  # dim where y and x are both large
    positions = np.array([[y, x] for y in (32, 58) for x in (32, 98)], float)
    scan = simulate.simulate_scan(object_, gaussian(), positions, photons_per_pattern=1e5, seed=4)
    totals = scan.diffraction_patterns.sum(axis=(1, 2), dtype=np.int64)
    assert totals[:3].min() > 10 * totals[3]


@pytest.mark.parametrize("photons", [3e3, 1e6, 5e8])
def test_dose_is_the_mean_total_count(photons):
    positions, shape = simulate.place(simulate.grid_positions((5, 5), 5.3), N)
    object_ = textured_object(shape)
    scan = simulate.simulate_scan(object_, gaussian(), positions, photons_per_pattern=photons, seed=5)
    totals = scan.diffraction_patterns.sum(axis=(1, 2), dtype=np.int64)
    assert abs(totals.sum() - 25 * photons) < 5 * np.sqrt(25 * photons) + 25 * photons * 2e-6
    assert scan.diffraction_patterns.dtype == (np.uint16 if photons < 1e4 else np.uint32)


def test_counts_are_poisson_about_the_far_field():
    positions = np.rint(simulate.place(simulate.grid_positions((6, 6), 3.0), N)[0])
    object_ = textured_object((100, 100))
    scan = simulate.simulate_scan(object_, gaussian(), positions, photons_per_pattern=2e5, seed=6)
    patches = [object_[int(y) - 32 : int(y) + 32, int(x) - 32 : int(x) + 32] for y, x in positions]
    rate = np.stack([np.abs(np.fft.fftshift(np.fft.fft2(scan.probe[0] * patch)) / N) ** 2 for patch in patches])
    bright = rate > 5
    chi_squared = ((scan.diffraction_patterns - rate) ** 2 / rate)[bright]
    assert chi_squared.mean() == pytest.approx(1, abs=5 * np.sqrt(2.2 / bright.sum()))
    deviation = scan.diffraction_patterns - rate
    assert abs(deviation.sum()) < 5 * np.sqrt(rate.sum())


def test_modes_add_their_intensities():
    """Two copies of one mode carry the same pattern as one; two modes a quarter period apart do not interfere."""
    y = np.indices((N, N))[0]
    tilted = gaussian() * np.exp(2j * np.pi * 12 * y / N).astype(np.complex64)
    scan = simulate.simulate_scan(FLAT, np.concatenate([gaussian(), tilted]), CENTRE, photons_per_pattern=1e6, seed=7)
    profile = scan.diffraction_patterns[0].sum(axis=1, dtype=np.int64)
    assert profile[26:39].sum() == pytest.approx(5e5, rel=0.01)
    assert profile[39:51].sum() == pytest.approx(5e5, rel=0.01)


def test_the_scan_carries_the_truth():
    object_ = textured_object()
    scan = simulate.simulate_scan(object_, gaussian(), CENTRE, photons_per_pattern=1e6, seed=8, name="here")
    assert scan.object_is_truth and scan.name == "here"
    assert np.array_equal(scan.object_, object_)
    assert scan.probe.dtype == np.complex64 and scan.probe_positions_px.dtype == np.float64


def test_the_seed_decides_the_noise():
    first, again, other = (
        simulate.simulate_scan(FLAT, gaussian(), CENTRE, photons_per_pattern=1e4, seed=seed).diffraction_patterns
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("position", [(31.4, 40), (40, 48.6), (31, 31)])
def test_a_patch_outside_the_object_is_an_error(position):
    with pytest.raises(ScanError, match=r"position 1 .*outside the object of shape \(80, 80\)"):
        simulate.simulate_scan(FLAT, gaussian(), np.array([(40, 40), position]), photons_per_pattern=1, seed=0)


def test_counts_beyond_uint32_are_an_error():
    with pytest.raises(ScanError, match=r"4294967295.*lower photons_per_pattern"):
        simulate.simulate_scan(FLAT, gaussian(), CENTRE, photons_per_pattern=1e13, seed=0)


# Probes, objects, positions


@pytest.mark.parametrize("make", [simulate.defocused_probe, simulate.gaussian_probe])
@pytest.mark.parametrize("size", [64, 128])
def test_probes_are_centred_compact_and_curved(make, size):
    probe = make(size)
    assert probe.shape == (1, size, size) and probe.dtype == np.complex64
    intensity = np.abs(probe[0].astype(complex)) ** 2
    assert intensity.sum() == pytest.approx(1, abs=1e-4)
    y, x = np.indices((size, size))
    assert (intensity * y).sum() == pytest.approx(size / 2, abs=0.1)
    assert (intensity * x).sum() == pytest.approx(size / 2, abs=0.1)
    modulus = np.abs(probe[0])
    area = (modulus > modulus.max() / 2).sum()
    assert 16 / 64 < np.sqrt(4 * area / np.pi) / size < 24 / 64
    quarter = size // 4
    assert intensity[quarter:-quarter, quarter:-quarter].sum() > 0.99
    phase = np.unwrap(np.angle(probe[0, size // 2]))
    assert abs(phase[size // 2 + size // 6] - phase[size // 2]) > 1


def test_the_defocused_probe_is_longer_along_y():
    intensity = np.abs(simulate.defocused_probe(64)[0]) ** 2
    y, x = np.indices((64, 64)) - 32
    assert 1.05 < np.sqrt((intensity * y**2).sum() / (intensity * x**2).sum()) < 1.5


@pytest.mark.parametrize("make", [simulate.dead_leaves_object, simulate.siemens_star_object])
def test_objects_have_independent_resolvable_amplitude_and_phase(make):
    object_ = make((200, 190), seed=3)
    assert object_.shape == (200, 190) and object_.dtype == np.complex64
    amplitude, phase = np.abs(object_), np.angle(object_)
    assert 0.35 < amplitude.min() < 0.5 and 0.95 < amplitude.max() < 1.05
    assert -0.85 < phase.min() < -0.5 and 0.5 < phase.max() < 0.85
    assert amplitude.std() > 0.05 and phase.std() > 0.25
    assert abs(np.corrcoef(amplitude.ravel(), phase.ravel())[0, 1]) < 0.4
    power = np.abs(np.fft.fft2(object_ - object_.mean())) ** 2
    k = np.hypot(np.fft.fftfreq(200)[:, None], np.fft.fftfreq(190))
    assert power[k > 0.25].sum() < 0.01 * power.sum()  # hardly anything finer than 4 px
    assert not np.array_equal(object_, make((200, 190), seed=4))


def test_the_mark_tells_every_orientation_apart():
    amplitude, phase = simulate.mark_orientation(np.ones((120, 120)), np.zeros((120, 120)))
    dark = amplitude < 0.7
    assert np.array_equal(dark, phase > 0.7)
    turned = [np.rot90(image, k) for image in (dark, dark.T) for k in range(4)]
    for i, image in enumerate(turned):
        for other in turned[i + 1 :]:
            assert (image != other).sum() > 0.5 * dark.sum()
    y, x = np.argwhere(dark).T
    assert y.max() < 60 < x.min()
    assert np.ptp(y) > np.ptp(x)
    assert (dark.sum(axis=1)[y.min()], dark.sum(axis=1)[y.max()]) == (4, 10)  # narrow at the top, foot at the bottom


def test_grid_positions():
    grid = simulate.grid_positions((3, 4), 5.5)
    assert grid[1].tolist() == [-5.5, -2.75] and grid[4].tolist() == [0, -8.25]
    jittered = simulate.grid_positions((30, 40), 5.5, jitter_px=1.25, seed=1)
    moved = jittered - simulate.grid_positions((30, 40), 5.5)
    assert 1.2 < moved.max() < 1.2505 and -1.2505 < moved.min() < -1.2
    assert np.abs(moved.mean(axis=0)).max() < 0.1
    assert np.array_equal(jittered * 1024, np.rint(jittered * 1024))


def test_spiral_positions_fill_the_disk_evenly():
    spiral = simulate.spiral_positions(400, 6.0)
    radius = np.hypot(*spiral.T)
    # 400 squares of 6 px fill a disk of radius 6 * sqrt(400 / pi); half of them fill its inner 1 / sqrt(2).
    assert radius.max() == pytest.approx(6 * np.sqrt(399 / np.pi), abs=0.01)
    assert (radius < 6 * np.sqrt(200 / np.pi)).sum() == pytest.approx(200, abs=1)
    distance = np.hypot(*(spiral[:, None] - spiral).T) + 1e9 * np.eye(400)
    assert distance.min() > 3.3 and np.median(distance.min(axis=0)) > 5


@pytest.mark.parametrize("size", [64, 128])
def test_place_keeps_all_patches_inside(size):
    raw = simulate.spiral_positions(50, 7.3)
    positions, (height, width) = simulate.place(raw, size)
    assert np.allclose(np.diff(positions, axis=0), np.diff(raw, axis=0), atol=1e-9)
    corner = np.rint(positions) - size // 2
    assert corner.min() >= 2
    assert (corner + size <= np.array([height, width]) - 2).all()


def test_settle_removes_the_last_place():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 50)) + 1j * rng.normal(size=(50, 50))
    settled = simulate.settle(values)
    assert settled.dtype == np.complex64
    assert np.array_equal(settled, simulate.settle(values * (1 + 4e-16)))
    assert np.abs(settled.real - values.real).max() <= 8 * 2.0**-21
    assert np.array_equal(settled, simulate.settle(settled))
