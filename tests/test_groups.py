import hashlib

import numpy as np
import pytest

from ptyint.errors import ConfigError, ScanError
from ptyint.scans.groups import group_positions


def scattered(n=60, seed=5):
    return np.random.default_rng(seed).uniform(0, 100, (n, 2))


def grid(edge=6, step=0.1):
    """A regular grid whose step has no exact binary form: distances tie, up to rounding."""
    return np.stack(np.meshgrid(np.arange(edge) * step, np.arange(edge) * step, indexing="ij"), -1).reshape(-1, 2)


def nearest_by_hand(positions, i, count):
    """Sort all the others by distance, then index; no tree."""
    distance = np.round(np.linalg.norm(positions - positions[i], axis=1), 5)
    return [j for j in sorted(range(len(positions)), key=lambda j: (distance[j], j)) if j != i][:count]


def test_gridsize_1_is_every_pattern_in_order():
    positions = scattered()
    groups = group_positions(positions, gridsize=1)
    assert groups.indices.dtype == np.int64
    np.testing.assert_array_equal(groups.indices, np.arange(60)[:, None])
    np.testing.assert_array_equal(groups.offsets_px, np.zeros((60, 1, 2)))
    np.testing.assert_array_equal(groups.centers_px, positions)
    assert (groups.n_groups, groups.n_channels) == (60, 1)


def test_gridsize_1_draws_without_replacement():
    groups = group_positions(scattered(), gridsize=1, n_groups=40, seed=1)
    assert len(set(groups.indices[:, 0].tolist())) == groups.n_groups == 40
    assert set(groups.indices[:, 0].tolist()) <= set(range(60))
    assert groups.indices[:, 0].tolist() != sorted(groups.indices[:, 0].tolist())


@pytest.mark.parametrize("positions", [scattered(), grid()], ids=["scattered", "grid"])
@pytest.mark.parametrize("count", [3, 4, 7])
def test_companions_are_among_the_nearest(positions, count):
    groups = group_positions(positions, gridsize=2, n_groups=300, neighbor_count=count, seed=2)
    seen = {i: set() for i in range(len(positions))}
    for seed, *others in groups.indices.tolist():
        assert len({seed, *others}) == 4
        assert set(others) <= set(nearest_by_hand(positions, seed, count))
        seen[seed] |= set(others)
    if count == 4:  # all of the neighbours get drawn, not always the same three
        assert sum(len(s) == 4 for s in seen.values()) > 0.9 * len(positions)


def test_default_is_one_group_per_pattern_in_order():
    np.testing.assert_array_equal(group_positions(scattered(), gridsize=2).indices[:, 0], np.arange(60))


def test_offsets_sum_to_zero_and_lead_back():
    positions = scattered()
    groups = group_positions(positions, gridsize=2, n_groups=100)
    np.testing.assert_allclose(groups.offsets_px.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(groups.centers_px[:, None] + groups.offsets_px, positions[groups.indices], atol=1e-12)


def test_each_pattern_seeds_equally_often():
    groups = group_positions(scattered(), gridsize=2, n_groups=150)
    times = np.bincount(groups.indices[:, 0], minlength=60)
    assert times.min() == 2 and times.max() == 3


def test_seed_decides():
    def make(seed):
        return group_positions(scattered(), gridsize=2, n_groups=100, seed=seed)

    np.testing.assert_array_equal(make(3).indices, make(3).indices)
    assert make(3).sha256() == make(3).sha256()
    assert make(3).sha256() != make(4).sha256()


def test_digest_sees_every_field():
    positions = scattered()
    moved = positions.copy()
    moved[7, 1] = np.nextafter(moved[7, 1], np.inf)
    a, b = (group_positions(p, gridsize=1) for p in (positions, moved))
    np.testing.assert_array_equal(a.indices, b.indices)
    assert a.sha256() != b.sha256()
    expected = hashlib.sha256(b"groups gridsize=1 n=2")
    for part in (np.array([0, 1], "<i8"), np.zeros(4, "<f8"), np.array([1, 2, 3, 4], "<f8")):
        expected.update(part.tobytes())
    assert group_positions(np.array([[1.0, 2], [3, 4]]), gridsize=1).sha256() == expected.hexdigest()


def test_duplicate_positions():
    positions = np.repeat(scattered(4), 5, axis=0)
    groups = group_positions(positions, gridsize=2, n_groups=100)
    for seed, *others in groups.indices.tolist():
        assert len({seed, *others}) == 4
        assert {j // 5 for j in others} == {seed // 5}  # the four others at the same place are nearest
    np.testing.assert_array_equal(groups.offsets_px, 0)


def test_ties_go_to_the_lower_index():
    positions = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0], [0, 5]], dtype=float)
    groups = group_positions(positions, gridsize=2, n_groups=60, neighbor_count=3)
    assert {j for g in groups.indices[groups.indices[:, 0] == 0] for j in g[1:]} == {1, 2, 3}


def test_neighbours_are_capped_by_the_scan():
    groups = group_positions(scattered(4), gridsize=2, neighbor_count=10)
    assert (np.sort(groups.indices, axis=1) == np.arange(4)).all()


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (3, {"gridsize": 2}, "needs 4 patterns or more; the scan has 3"),
        (9, {"gridsize": 0}, "gridsize is 0"),
        (9, {"gridsize": 2, "neighbor_count": 2}, "neighbor_count is 2; gridsize 2 draws 3"),
        (9, {"gridsize": 2, "n_groups": 0}, "n_groups is 0"),
        (9, {"gridsize": 1, "n_groups": 10}, "n_groups is 10, but the scan has 9"),
        (9, {"gridsize": 1, "seed": -1}, "seed is -1"),
        (0, {"gridsize": 1}, "the scan has 0"),
    ],
)
def test_bad_numbers(n, options, message):
    with pytest.raises(ConfigError, match=message):
        group_positions(scattered(n), **options)


def test_bad_positions():
    with pytest.raises(ScanError, match=r"shape \(5, 3\)"):
        group_positions(np.zeros((5, 3)), gridsize=1)
    positions = scattered()
    positions[11, 0] = np.nan
    with pytest.raises(ScanError, match=r"positions_px\[11\]"):
        group_positions(positions, gridsize=1)
