"""Probe x object -> pattern, against answers that are known without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptyint.scans import forward

N = 64
EPS = 1e-12


def random_field(*shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def blob(shape: tuple[int, int], centre: tuple[float, float], sigma: float) -> Any:
    y, x = np.indices(shape)
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * sigma**2))


# --- propagation ---


@pytest.mark.parametrize("size", [64, 128, 256])
def test_parseval(size: int) -> None:
    wave = random_field(2, size, size)
    far = forward.propagate(wave)
    np.testing.assert_allclose((abs(far) ** 2).sum(axis=(1, 2)), (abs(wave) ** 2).sum(axis=(1, 2)), rtol=EPS)


@pytest.mark.parametrize("ky, kx", [(0, 0), (5, 0), (0, -7), (-32, 31), (3, 11)])
def test_a_plane_wave_lands_on_one_pixel(ky: int, kx: int) -> None:
    y, x = np.indices((N, N))
    far = forward.propagate(np.exp(2j * np.pi * (ky * y + kx * x) / N))
    expected = np.zeros((N, N), complex)
    expected[N // 2 + ky, N // 2 + kx] = N
    np.testing.assert_allclose(far, expected, atol=1e-10)


def test_a_delta_becomes_flat_with_a_phase_ramp() -> None:
    wave = np.zeros((N, N))
    wave[3, 10] = 1
    k = np.arange(N) - N // 2
    expected = np.exp(-2j * np.pi * (3 * k[:, None] + 10 * k) / N) / N
    np.testing.assert_allclose(forward.propagate(wave), expected, atol=1e-14)


def test_propagation_is_linear_and_acts_on_the_last_two_axes() -> None:
    a, b = random_field(2, 3, N, N), random_field(2, 3, N, N, seed=1)
    both = forward.propagate(2 * a - 3j * b)
    np.testing.assert_allclose(both, 2 * forward.propagate(a) - 3j * forward.propagate(b), atol=1e-12)
    np.testing.assert_array_equal(forward.propagate(a)[1, 2], forward.propagate(a[1, 2]))


def test_exit_waves_are_products_and_modes_add_incoherently() -> None:
    probe, patches = random_field(2, N, N), random_field(3, N, N, seed=1)
    exit_waves = forward.illuminate(probe, patches)
    assert exit_waves.shape == (3, 2, N, N)
    assert exit_waves[2, 1, 5, 6] == pytest.approx(probe[1, 5, 6] * patches[2, 5, 6], rel=1e-14)
    by_mode = [forward.diffraction_amplitudes(mode[None], patches) ** 2 for mode in probe]
    total = forward.diffraction_amplitudes(probe, patches) ** 2
    np.testing.assert_allclose(total, by_mode[0] + by_mode[1], rtol=1e-10)
    # energy: flat object of modulus 1
    flat = forward.diffraction_amplitudes(probe, np.ones((1, N, N)))
    assert (flat**2).sum() == pytest.approx((abs(probe) ** 2).sum(), rel=EPS)


def test_one_probe_per_pattern() -> None:
    probes, patches = random_field(3, 1, N, N), random_field(3, N, N, seed=1)
    together = forward.diffraction_amplitudes(probes, patches)
    for i in range(3):
        np.testing.assert_allclose(together[i], abs(forward.propagate(probes[i, 0] * patches[i])), rtol=1e-10)


# --- shifts ---


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-31, 31), (64, 1)])
def test_an_integer_fourier_shift_is_a_roll(shift: tuple[int, int]) -> None:
    field = random_field(N, N)
    np.testing.assert_allclose(forward.fourier_shift(field, shift), np.roll(field, shift, (0, 1)), atol=1e-12)


def test_a_fractional_fourier_shift_moves_a_smooth_blob() -> None:
    moved = forward.fourier_shift(blob((N, N), (30, 33), 4), (0.25, -1.6))
    np.testing.assert_allclose(moved, blob((N, N), (30.25, 31.4), 4), atol=1e-9)


def test_shifts_broadcast() -> None:
    fields, shifts = random_field(3, N, N), np.array([[1, 2], [0, -4], [5, 0]])
    for moved, field, shift in zip(forward.fourier_shift(fields, shifts), fields, shifts, strict=True):
        np.testing.assert_allclose(moved, np.roll(field, shift, (0, 1)), atol=1e-12)


# --- probe ---


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("scale", [4.0, 0.5])
def test_the_normalised_probe_has_the_mean_magnitude_that_defines_it(modes: int, scale: float) -> None:
    probe = 1e4 * random_field(modes, N, N)
    normalised = forward.normalise_probe(probe, scale)
    y, x = np.indices((N, N)) - N // 2
    magnitude = np.sqrt((abs(normalised) ** 2).sum(axis=0))
    assert np.where(y**2 + x**2 <= (N / 4) ** 2, magnitude, 0).mean() == pytest.approx(1 / scale, rel=EPS)
    np.testing.assert_allclose(normalised / normalised[0, 0, 0], probe / probe[0, 0, 0], rtol=1e-12)


def test_normalising_twice_or_after_a_rescaling_changes_nothing() -> None:
    probe = random_field(1, N, N)
    once = forward.normalise_probe(probe, 4.0)
    np.testing.assert_allclose(forward.normalise_probe(once, 4.0), once, rtol=EPS)
    np.testing.assert_allclose(forward.normalise_probe(1e-6 * probe, 4.0), once, rtol=EPS)


@pytest.mark.parametrize(
    "probe", [np.zeros((1, N, N)), np.eye(N)[None] * (np.arange(N) < 8), np.full((1, N, N), np.nan)]
)
def test_a_probe_that_cannot_be_normalised_is_refused(probe: Any) -> None:
    with pytest.raises(ValueError, match="mean magnitude within N/4"):
        forward.normalise_probe(probe, 4.0)


def test_the_probe_mask_is_a_disk() -> None:
    disk = forward.probe_mask(N)
    assert set(np.unique(disk)) == {0, 1} and disk[32, 48] == disk[32, 16] == disk[48, 32] == 1
    assert disk[32, 49] == disk[44, 44] == 0 and disk[43, 43] == 1
    assert disk.sum() == sum(1 for a in range(-16, 17) for b in range(-16, 17) if a * a + b * b <= 256)
