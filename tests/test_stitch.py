from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array

from ptyint.errors import ConfigError, ScanError
from ptyint.images import phases as phases_module
from ptyint.images.phases import agreeing_phases
from ptyint.images.stitch import stitch, stitch_batches, synchronise_phases

RNG = np.random.default_rng


def random_object(shape=(70, 90), seed=0):
    rng = RNG(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def plane(y, x):
    """Linear in y and x: bilinear interpolation is exact."""
    return (1 + 0.03 * y - 0.02 * x) + 1j * (0.5 - 0.01 * y + 0.04 * x)


def smooth(y, x):
    return (1 + 0.2 * np.sin(2 * np.pi * y / 30)) * np.exp(1j * np.cos(2 * np.pi * (x / 35 + y / 50)))


def patches_of(function, positions, N):
    """Sampled from the formula itself, by the convention of the Scan: pixel N // 2 lies at the position."""
    axis = np.arange(N) - N // 2
    return np.stack([function(cy + axis[:, None], cx + axis[None, :]) for cy, cx in positions])


def test_integer_positions_come_back_exactly():
    object_ = random_object()
    positions = np.array([[y, x] for y in range(16, 54, 4) for x in range(16, 74, 5)], dtype=float)
    patches = np.stack([object_[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8] for y, x in positions])
    stitched = stitch(patches, positions, object_.shape, M=8)
    inside = np.zeros(object_.shape, dtype=bool)
    inside[12 : 52 + 4, 12 : 71 + 4] = True
    np.testing.assert_array_equal(stitched.covered, inside)
    np.testing.assert_allclose(stitched.object_[inside], object_[inside], rtol=1e-14)
    np.testing.assert_array_equal(stitched.object_[~inside], 0)
    np.testing.assert_array_equal(stitched.coverage[~inside], 0)


def test_coverage_of_one_patch():
    patch = np.ones((1, 8, 8), dtype=np.complex64)
    whole = stitch(patch, np.array([[10.0, 12.0]]), (20, 24), M=4)
    expected = np.zeros((20, 24))
    expected[8:12, 10:14] = 1
    np.testing.assert_array_equal(whole.coverage, expected)
    moved = stitch(patch, np.array([[10.25, 12.0]]), (20, 24), M=4).coverage
    np.testing.assert_allclose(moved[7:14, 11], [0, 0.75, 1, 1, 1, 0.25, 0])


def test_single_bright_pixel_lands_at_the_position():
    patch = np.zeros((1, 8, 8), dtype=complex)
    patch[0, 4, 4] = 2 - 1j
    object_ = stitch(patch, np.array([[10.0, 5.0]]), (20, 12), M=4).object_
    assert np.argwhere(object_).tolist() == [[10, 5]] and object_[10, 5] == 2 - 1j


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_constant_stays_constant(dtype):
    positions = RNG(2).uniform(-5, 75, (300, 2))
    value = np.asarray(0.7 - 0.4j, dtype=dtype)
    stitched = stitch(np.full((300, 32, 32), value), positions, (70, 70), M=16)
    assert stitched.object_.dtype == dtype
    np.testing.assert_allclose(stitched.object_[stitched.covered], value, rtol=4 * np.finfo(dtype).eps)


def test_smooth_object_comes_back_from_fractional_positions():
    y, x = np.mgrid[:100, :120]
    positions = RNG(3).uniform([20, 20], [80, 100], (600, 2))
    stitched = stitch(patches_of(smooth, positions, 32), positions, (100, 120), M=16)
    inner = np.s_[30:70, 30:90]
    assert stitched.covered[inner].all()
    error = stitched.object_[inner] - smooth(y, x)[inner]
    # Linear interpolation is off by at most h^2 / 8 of the curvature, here about (2 pi / 30)^2 in both directions.
    assert np.abs(error).max() < 2 / 8 * (2 * np.pi / 30) ** 2


def test_plane_comes_back_exactly_up_to_the_rim():
    y, x = np.mgrid[:70, :90]
    positions = RNG(4).uniform([16, 16], [53, 73], (25, 2))
    stitched = stitch(patches_of(plane, positions, 16), positions, (70, 90), M=8)
    assert 1000 < stitched.covered.sum() < 4000
    np.testing.assert_allclose(stitched.object_[stitched.covered], plane(y, x)[stitched.covered], rtol=0, atol=1e-12)


def test_overhang_is_dropped_and_nothing_wraps():
    patches = np.ones((5, 8, 8), dtype=complex)
    positions = np.array([[0.0, 0], [19, 23], [-50, 5], [5, 500], [0.5, 23.5]])
    coverage = stitch(patches, positions, (20, 24), M=4).coverage
    expected = np.zeros((20, 24))
    expected[:2, :2] += 1
    expected[17:, 21:] += 1
    expected[:3, 21:] += np.outer([1, 1, 0.5], [0.5, 1, 1])
    np.testing.assert_allclose(coverage, expected)


def test_nan_is_not_hidden():
    patches = np.ones((2, 8, 8), dtype=complex)
    patches[0, 4, 4] = np.nan
    object_ = stitch(patches, np.array([[10.0, 10], [10, 10]]), (20, 20), M=4).object_
    assert np.isnan(object_[10, 10])


def test_many_patches_give_what_few_at_a_time_give(monkeypatch):
    positions = RNG(7).uniform(0, 50, (40, 2))
    patches = random_object((40, 16, 16), seed=8)
    at_once = stitch(patches, positions, (50, 50), M=8)
    monkeypatch.setattr("ptyint.images.stitch._CHUNK_PIXELS", 7 * 81)
    np.testing.assert_allclose(stitch(patches, positions, (50, 50), M=8).object_, at_once.object_, atol=1e-12)


@pytest.mark.parametrize("M", [0, 3, 10, -2])
def test_bad_m(M):
    with pytest.raises(ConfigError, match=f"M is {M}; .* from 2 to 8"):
        stitch(np.ones((1, 16, 16), dtype=complex), np.zeros((1, 2)), (20, 20), M=M)


def test_bad_input():
    patches, positions = np.ones((3, 16, 16), dtype=complex), np.full((3, 2), 10.0)
    with pytest.raises(ScanError, match=r"\(3, 16, 15\)"):
        stitch(patches[:, :, :15], positions, (20, 20), M=4)
    with pytest.raises(ScanError, match="float64; expected complex"):
        stitch(patches.real, positions, (20, 20), M=4)
    with pytest.raises(ScanError, match=r"\(2, 2\); expected \(3, 2\)"):
        stitch(patches, positions[:2], (20, 20), M=4)
    with pytest.raises(ConfigError, match=r"shape is \(0, 20\)"):
        stitch(patches, positions, (0, 20), M=4)
    positions[2, 1] = np.inf
    with pytest.raises(ScanError, match=r"positions_px\[2\]"):
        stitch(patches, positions, (20, 20), M=4)


def smoother(y, x):
    return (0.8 + 0.1 * np.sin(x / 7)) * np.exp(0.9j * np.cos(y / 9 - x / 13))


@pytest.mark.parametrize("most", [phases_module.MOST_BY_LANCZOS, 1])
@pytest.mark.parametrize("side, per_group", [(2, 1), (9, 1), (9, 3)])
def test_phases_of_groups_come_back_up_to_one_constant(
    side: int, per_group: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases_module, "MOST_BY_LANCZOS", most)
    generator = np.random.default_rng(side)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = 20 + 6.0 * grid + generator.uniform(-1, 1, grid.shape)
    shape = (40 + 6 * side, 40 + 6 * side)
    patches = patches_of(smoother, positions, 32)
    labels = np.arange(len(positions)) // per_group
    phases = generator.uniform(-np.pi, np.pi, labels.max() + 1)
    turned = patches * np.exp(1j * phases[labels])[:, None, None]
    found = synchronise_phases(turned, positions, shape, labels, M=12)
    left = np.exp(1j * (phases + found))
    assert np.abs(np.angle(left / left.mean())).max() < 0.02
    noisy = turned + 0.3 * (generator.normal(size=patches.shape) + 1j * generator.normal(size=patches.shape))
    left = np.exp(1j * (phases + synchronise_phases(noisy, positions, shape, labels, M=12)))
    assert np.abs(np.angle(left / left.mean())).max() < 0.3


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_phases_found_coarse_to_fine_agree_as_well_as_the_true_ones_whatever_these_are(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a triangle whose phases lie a third of a turn apart, equal phases are the worst guess, and a standstill."""
    monkeypatch.setattr(phases_module, "MOST_BY_LANCZOS", 1)
    generator = np.random.default_rng(4)
    for n in (3, 3, 3, *generator.integers(2, 40, 60)):
        truth = 2 * np.pi / 3 * np.arange(n) if n == 3 else generator.uniform(-np.pi, np.pi, n)
        weight = np.triu((generator.random((n, n)) < 3 / n) * (1 + generator.random((n, n))), 1)
        weight += np.diag(np.ones(n - 1), 1)  # all hang together
        apart = truth[:, None] - truth + noise * generator.normal(size=(n, n))
        links = weight * np.exp(1j * apart)
        links = csr_array(links + links.conj().T)
        found, true = np.exp(1j * agreeing_phases(links)), np.exp(1j * truth)
        assert np.vdot(found, links @ found).real > (1 - 1e-6) * np.vdot(true, links @ true).real


def test_phases_of_patches_that_already_agree_are_left_alone() -> None:
    positions = np.array([(20, 20), (20, 26), (26, 20), (26, 26), (32, 23)], float)
    patches = patches_of(smoother, positions, 32)
    np.testing.assert_allclose(synchronise_phases(patches, positions, (60, 60), np.arange(5), M=12), 0, atol=0.02)


def test_a_group_far_from_all_others_and_patches_that_are_not_finite_get_phase_zero() -> None:
    positions = np.array([(20, 20), (20, 26), (26, 20), (26, 26), (80, 80)], float)
    patches = patches_of(smoother, positions, 32) * np.exp([[[0.0]], [[0.5j]], [[0.0]], [[0.0]], [[2j]]])
    found = synchronise_phases(patches, positions, (120, 120), np.arange(5), M=12)
    assert found[4] == 0
    assert found[1] - found[0] == pytest.approx(-0.5, abs=0.02)
    patches[0, 16, 16] = np.nan
    np.testing.assert_array_equal(synchronise_phases(patches, positions, (120, 120), np.arange(5), M=12), np.zeros(5))


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_phases_of_many_groups_are_found_at_any_distance(noise: float) -> None:
    """Noise adds up along a chain of groups; sweeps over neighbours alone would be twisted over a long way."""
    generator, side = np.random.default_rng(4), 120
    phases = generator.uniform(-np.pi, np.pi, side * side)
    here = np.arange(side * side).reshape(side, side)
    steps = [(dy, dx) for dy in range(4) for dx in range(-3, 4) if (dy, dx) > (0, 0)]
    first = [here[: side - dy, max(0, -dx) : side - max(0, dx)].ravel() for dy, dx in steps]
    second = np.concatenate([here[dy:, max(0, dx) : side + min(0, dx)].ravel() for dy, dx in steps])
    weight = np.repeat([(4 - dy) * (4 - abs(dx)) / 16 for dy, dx in steps], [len(one) for one in first])
    first = np.concatenate(first)
    error = generator.normal(size=(2, len(weight))) * np.sqrt(weight)
    value = 16 * weight * np.exp(1j * (phases[first] - phases[second])) + noise * (error[0] + 1j * error[1])
    half = coo_array((value, (first, second)), shape=(side * side,) * 2).tocsr()
    links = half + half.conj().T
    found, truth = np.exp(1j * agreeing_phases(links)), np.exp(1j * phases)
    assert np.abs((found / truth).mean()) > 0.9  # 0.98 by the noise of 0.2 rad; twisted once across, next to 0
    left = found / phases_module._relaxed(links, truth)
    assert np.abs(np.angle(left / left.mean())).max() < 1e-3


def test_patches_that_come_by_batches_give_the_same_object(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    positions = np.stack(np.meshgrid(np.arange(30, 90, 5.0), np.arange(30, 90, 5.0)), axis=-1).reshape(-1, 2)
    labels, shape = np.arange(len(positions)) // 4, (120, 120)
    patches = patches_of(smoother, positions, 32).astype(np.complex64)
    patches *= np.exp(1j * generator.uniform(-3, 3, labels.max() + 1))[labels, None, None]
    phases = synchronise_phases(patches, positions, shape, labels, M=12)
    whole = stitch(patches * np.exp(1j * phases)[labels, None, None].astype(np.complex64), positions, shape, M=12)
    made, found = stitch_batches(np.array_split(patches, 7), positions, shape, labels, tmp_path, M=12)
    np.testing.assert_array_equal(found, phases)
    np.testing.assert_allclose(made.object_, whole.object_, atol=1e-6)
    np.testing.assert_array_equal(made.coverage, whole.coverage)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ScanError, match="143"):
        stitch_batches([patches[:-1]], positions, shape, labels, M=12)
