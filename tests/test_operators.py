"""The referee against answers that are known without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from ptyint.backends import numpy as operators
from ptyint.backends.weights import initial_log_intensity_scale
from ptyint.scans import forward
from ptyint.scans.batches import canvas_size

N = 64
EPS = 1e-12


def random_field(*shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


# --- shifts ---


@pytest.mark.parametrize("offset", [(0, 0), (3, -2), (-5, 7), (40, 0), (-100, 100)])
@pytest.mark.parametrize("n_out", [64, 80, 50])
def test_translation_by_integers_is_a_slice(offset: tuple[int, int], n_out: int) -> None:
    """Into frames of another size; what leaves the frame is gone, and nothing comes back on the other side."""
    image = random_field(64, 64)
    wide = np.zeros((400, 400), complex)
    wide[168 + offset[0] : 232 + offset[0], 168 + offset[1] : 232 + offset[1]] = image
    start = 200 - n_out // 2
    expected = wide[start : start + n_out, start : start + n_out]
    np.testing.assert_array_equal(operators.translate(image, offset, n_out), expected)


@pytest.mark.parametrize("offset", [(0.25, -0.75), (-3.5, 4.1), (60.3, 0.0), (0.0, -0.5)])
def test_translation_by_fractions_is_bilinear(offset: tuple[float, float]) -> None:
    image = np.random.default_rng(0).normal(size=(N, N))
    padded = np.pad(image, 100)
    expected = scipy.ndimage.shift(padded, offset, order=1, mode="constant")[100:-100, 100:-100]
    np.testing.assert_allclose(operators.translate(image, offset, N), expected, atol=1e-12)


@pytest.mark.parametrize("n_in, n_out", [(64, 64), (64, 78), (78, 64)])
def test_the_translation_back_is_the_adjoint(n_in: int, n_out: int) -> None:
    """<T(o) a, b> = <a, T(-o) b>: what merging spreads, cutting gathers."""
    offset = np.array([2.3, -6.7])
    a, b = random_field(n_in, n_in), random_field(n_out, n_out, seed=1)
    left = np.vdot(operators.translate(a, offset, n_out), b)
    right = np.vdot(a, operators.translate(b, -offset, n_in))
    assert left == pytest.approx(right, rel=1e-12)


# --- groups: merge and cut ---

OFFSETS = np.array(
    [[[-3.4, 2.2], [4.1, -1.7], [1.3, 5.6], [-2.0, -6.1]], [[0.0, 0.0], [6.0, -2.0], [-6.0, 1.0], [0.0, 1.0]]]
)


def test_the_canvas_holds_every_patch() -> None:
    assert canvas_size(N, OFFSETS) == N + 2 * 7
    assert canvas_size(N, [[0.0, 0.0]]) == N
    assert canvas_size(N, [[[-7.0, 0.0]]]) == N + 14
    assert canvas_size(128, [[0.01, 0.0]]) == 130


def linear(slope: tuple[complex, complex], offsets: Any, n_canvas: int) -> tuple[Any, Any]:
    """A linear object on the canvas, and its patches, both by formula."""
    y, x = np.indices((n_canvas, n_canvas)) - (n_canvas - 1) / 2
    py, px = np.indices((N, N)) - (N - 1) / 2
    oy, ox = offsets[..., 0, None, None], offsets[..., 1, None, None]
    region = 0.8 + 0.1j + slope[0] * y + slope[1] * x
    return region, 0.8 + 0.1j + slope[0] * (py + oy) + slope[1] * (px + ox)


def distances(offsets: Any, n_canvas: int) -> Any:
    """(C, n_canvas, n_canvas): how far each canvas pixel is from each patch's middle, in the maximum norm."""
    y, x = np.indices((n_canvas, n_canvas)) - (n_canvas - 1) / 2
    return np.stack([np.maximum(abs(y - oy), abs(x - ox)) for oy, ox in offsets])


@pytest.mark.parametrize("offsets", OFFSETS, ids=["fractions", "integers"])
@pytest.mark.parametrize("slope", [(0, 0), (0.02, -0.03j)], ids=["constant", "linear"])
def test_patches_of_a_known_object_merge_to_it(slope: tuple[complex, complex], offsets: Any) -> None:
    """Bilinear interpolation is exact on linear objects, away from the rims where a weight jumps between two pixels."""
    n_canvas = canvas_size(N, OFFSETS)
    region, patches = linear(slope, offsets, n_canvas)
    merged = operators.merge_patches(patches[None], offsets[None], n_canvas)[0]
    distance = distances(offsets, n_canvas)
    covered = (distance < N / 2 + 0.5 - 1e-9).any(axis=0)
    np.testing.assert_array_equal(merged[~covered], 0)
    exact = covered
    if slope[0] and offsets[0, 0] % 1:
        exact = covered & (abs(distance - N / 2) > 1).all(axis=0) & (abs(distance - N / 4) > 1).all(axis=0)
    assert exact.mean() > 0.3
    np.testing.assert_allclose(merged[exact], region[exact], atol=1e-12)
    # and nowhere is it off by more than the object changes in one pixel
    assert abs(merged - region)[covered].max() <= abs(slope[0]) + abs(slope[1]) + 1e-12


@pytest.mark.parametrize("offsets", OFFSETS, ids=["fractions", "integers"])
def test_cutting_a_linear_object_gives_its_patches(offsets: Any) -> None:
    n_canvas = canvas_size(N, OFFSETS)
    region, patches = linear((0.02, -0.03j), offsets, n_canvas)
    np.testing.assert_allclose(operators.cut_patches(region[None], offsets[None], N)[0], patches, atol=1e-12)


def test_a_merge_is_the_weighted_mean_of_what_covered() -> None:
    """Two patches of 1 and 3, one px apart, by hand: 2 where both centres lie, each its own where it is alone."""
    patches = np.stack([np.ones((N, N)), np.full((N, N), 3.0)])[None]
    offsets = np.array([[[0.0, -1.0], [0.0, 1.0]]])
    region = operators.merge_patches(patches, offsets, N + 2)[0]
    middle = (N + 2) // 2
    w = 1e-2
    assert region[middle, middle] == pytest.approx(2)  # centre on centre
    assert region[middle, 0] == pytest.approx(1)  # only the first reaches
    assert region[middle, -1] == pytest.approx(3)
    assert region[2, middle] == pytest.approx(2)  # border on border
    # the first centre ends at column 16 + 31 of its patch, that is 47 + 1 - 1 on the canvas; the second at 49
    assert region[middle, 48] == pytest.approx((w * 1 + 1 * 3) / (1 + w))
    assert region[middle, 17] == pytest.approx((1 * 1 + w * 3) / (1 + w))
    assert region[0, middle] == 0  # no patch reaches the canvas's first row


def test_equal_patches_at_equal_positions_merge_to_themselves() -> None:
    patch = random_field(1, 1, N, N)
    merged = operators.merge_patches(np.repeat(patch, 4, axis=1), np.zeros((1, 4, 2)), N)
    np.testing.assert_allclose(merged, patch[:, 0], atol=1e-14)


@pytest.mark.parametrize("rounding", [0.0, 1e-15, 3e-6])
def test_rounding_covers_nothing(rounding: float) -> None:
    """A pixel that a patch misses by rounding is uncovered, not filled with the quotient of two rounding errors."""
    patches = 2 + random_field(1, 4, N, N)
    offsets = np.array([[[3.0, -4.0], [-3.0, 4.0], [2.0, 2.0], [-2.0, -2.0]]])
    exact = operators.merge_patches(patches, offsets, N + 8)
    rounded = operators.merge_patches(patches, offsets * (1 + rounding), N + 8)
    np.testing.assert_array_equal(rounded == 0, exact == 0)
    assert (exact == 0).sum() > 100
    np.testing.assert_allclose(rounded, exact, atol=1e-13 + 1000 * rounding)


def test_groups_do_not_mix() -> None:
    patches = random_field(2, 4, N, N)
    n_canvas = canvas_size(N, OFFSETS)
    both = operators.merge_patches(patches, OFFSETS, n_canvas)
    for i in range(2):
        alone = operators.merge_patches(patches[i : i + 1], OFFSETS[i : i + 1], n_canvas)
        np.testing.assert_array_equal(both[i], alone[0])


def test_cutting_at_integers_is_a_slice() -> None:
    region = random_field(1, N + 20, N + 20)
    cut = operators.cut_patches(region, [[[0, 0], [10, -10], [-3, 7]]], N)
    np.testing.assert_array_equal(cut[0, 0], region[0, 10 : 10 + N, 10 : 10 + N])
    np.testing.assert_array_equal(cut[0, 1], region[0, 20 : 20 + N, 0:N])
    np.testing.assert_array_equal(cut[0, 2], region[0, 7 : 7 + N, 17 : 17 + N])


def test_masks_and_padding() -> None:
    block = random_field(2, N // 2, N // 2)
    padded = operators.pad_patch(block)
    assert padded.shape == (2, N, N) and padded.dtype == block.dtype
    np.testing.assert_array_equal(padded[:, 16:48, 16:48], block)
    assert abs(padded).sum() == pytest.approx(abs(block).sum())
    centre = operators.center_mask(N)
    assert centre.sum() == (N // 2) ** 2 and centre[16, 16] == centre[47, 47] == 1
    assert centre[15, 30] == centre[48, 30] == 0
    weight = operators.merge_weight(N)
    assert (weight[centre == 1] == 1).all() and (weight[centre == 0] == 1e-2).all()


# --- intensity ---


@pytest.mark.parametrize("modes", [1, 2])
def test_the_initial_intensity_scale_explains_the_normalised_energy_with_half_an_amplitude(modes: int) -> None:
    probe = forward.normalise_probe(random_field(modes, N, N), 4.0)
    w = initial_log_intensity_scale(probe)
    amplitudes = np.exp(w) * forward.diffraction_amplitudes(probe, np.full((1, N, N), 0.5))
    assert (amplitudes**2).sum() == pytest.approx((N / 2) ** 2, rel=EPS)


# --- likelihood ---


def test_poisson_nll_is_scipys_up_to_its_constant() -> None:
    rng = np.random.default_rng(0)
    rate = rng.uniform(0, 30, (5, N, N))
    counts = rng.poisson(rate)
    exact = -scipy.stats.poisson.logpmf(counts, rate + 0.01) - scipy.special.gammaln(counts + 1)
    assert operators.poisson_nll(counts, rate) == pytest.approx(exact.mean(), rel=1e-12)


def test_poisson_nll_is_least_at_the_counts() -> None:
    counts = np.random.default_rng(0).poisson(8, (2, N, N)).astype(float)
    best = operators.poisson_nll(counts, np.maximum(counts - 0.01, 0))
    for worse in (counts * 1.01, counts * 0.99, counts + 0.5, np.full_like(counts, counts.mean())):
        assert operators.poisson_nll(counts, worse) > best


def test_poisson_nll_is_finite_where_nothing_is_expected() -> None:
    assert operators.poisson_nll(np.full((1, N, N), 3.0), np.zeros((1, N, N))) == pytest.approx(0.01 - 3 * np.log(0.01))


def test_bad_pixels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    counts, rate = rng.poisson(5, (3, N, N)).astype(float), rng.uniform(1, 9, (3, N, N))
    good = rng.random((N, N)) > 0.3
    masked = operators.poisson_nll(counts, rate, good)
    spoiled = np.where(good, counts, 4e6)
    assert operators.poisson_nll(spoiled, rate, good) == masked
    terms = rate + 0.01 - counts * np.log(rate + 0.01)
    assert masked == pytest.approx(terms[:, good].mean(), rel=EPS)
    assert masked != operators.poisson_nll(counts, rate)
