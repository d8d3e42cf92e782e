"""Forward model, simulated scans, groups, batches: Fourier sums, and all distances."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from common import (
    GIVEN,
    NAMES,
    beam,
    blobs,
    disk,
    fact,
    given,
    named,
    normal,
    projected,
    refused,
    said,
    spectrum,
    unchangeable,
    wave,
)


def shifted(field: np.ndarray, shift: Sequence[float]) -> np.ndarray:
    """A field moved by its Fourier series, whose frequencies lie around zero."""
    n, m = field.shape
    ky, kx = ([(k if k < (size + 1) // 2 else k - size) / size for k in range(size)] for size in (n, m))
    turned = spectrum(field) * np.exp(-2j * np.pi * (shift[0] * np.array(ky)[:, None] + shift[1] * np.array(kx)))
    return np.conj(spectrum(np.conj(turned))) / (n * m)


def far_field(wave_: np.ndarray) -> np.ndarray:
    """Orthonormal Fourier sum, the zero frequency moved to [N // 2, N // 2]."""
    N = len(wave_)
    moved = np.empty_like(wave_)
    plain = spectrum(wave_) / N
    for i, j in product(range(N), range(N)):
        moved[(i + N // 2) % N, (j + N // 2) % N] = plain[i, j]
    return moved


def settled(values: np.ndarray) -> np.ndarray:
    """Rounded to 2**-20 of the power of two above the largest magnitude."""
    exponent = math.floor(math.log2(np.abs(values).max())) + 1
    step = 2.0 ** (exponent - 20)
    return ((np.rint(values.real / step) + 1j * np.rint(values.imag / step)) * step).astype(np.complex64)


def make_forward() -> None:
    """Small fields, even and odd."""
    for N in (12, 9):
        probe, patches = given(f"light_{N}", wave(2, N, N, seed=N)), given(f"sample_{N}", wave(3, N, N, seed=N + 1))
        fact("forward model", f"shift, N {N}", f"forward.fourier_shift(light_{N}, [1.25, -0.375])",
             [shifted(mode, (1.25, -0.375)) for mode in probe])  # fmt: skip
        fact(
            "forward model", f"far field, N {N}", f"forward.propagate(sample_{N})", [far_field(one) for one in patches]
        )
        amplitudes = [np.sqrt(sum(abs(far_field(mode * one)) ** 2 for mode in probe)) for one in patches]
        fact(
            "forward model", f"amplitudes, N {N}", f"forward.diffraction_amplitudes(light_{N}, sample_{N})", amplitudes
        )
        fact("forward model", f"mask, N {N}", f"forward.probe_mask({N})", disk(N))
        fact("forward model", f"probe, N {N}", f"forward.normalise_probe(light_{N}, 2.5)", normal(probe, 2.5))
    refused("forward model", "dark probe", "ValueError", "forward.normalise_probe(light_12 * 0, 4.0)")

    object_, probe = given("thing", settled(blobs((40, 47), (0, 0)))), given("lamp", beam(16, 2))
    positions = given("steps", np.array([(9.25, 8.0), (12.375, 21.5), (31.625, 38.75), (20.0, 14.125), (8.0, 8.4)]))

    def patterns(light: np.ndarray) -> list[np.ndarray]:
        found = []
        for y, x in positions:
            row, column = int(np.rint(y)) - 8, int(np.rint(x)) - 8
            patch = object_[row : row + 16, column : column + 16].astype(complex)
            residual = (y - np.rint(y), x - np.rint(x))
            waves = [far_field(shifted(mode, residual) * patch) for mode in light.astype(complex)]
            found.append(sum(abs(one) ** 2 for one in waves))
        return found

    total = sum(float(one.sum()) for one in patterns(probe)) / len(positions)
    lamp = settled(probe.astype(complex) * math.sqrt(5e4 / total))
    rng = np.random.RandomState(3)
    counts = np.array([rng.poisson(np.round(one, 3)) for one in patterns(lamp)])
    named("simulated", "simulate.simulate_scan(thing, lamp, steps, photons_per_pattern=5e4, seed=3)")
    fact("simulated scan", "counts", "simulated.diffraction_patterns.astype(int)", counts)
    fact("simulated scan", "probe", "simulated.probe", lamp)
    fact("simulated scan", "settled", "simulate.settle(light_12)", settled(GIVEN["light_12"]))
    fact("simulated scan", "what it says", "str((simulated.object_is_truth, simulated.diffraction_patterns.dtype.str, "
         "(simulated.object_ == thing).all().item()))", str((True, "<u2", True)))  # fmt: skip
    refused("simulated scan", "outside", "ScanError",
            *(f"simulate.simulate_scan(thing, lamp, np.array({one}), photons_per_pattern=5e4, seed=3)"
              for one in ("[[7.25, 9.0]]", "[[9.0, 40.0]]", "[[33.0, 9.0]]")))  # fmt: skip
    k = [(i if i < 10 else i - 20) / 20 for i in range(20)]
    pupil = np.array([[(0.5 * (1 - math.tanh((math.hypot(a, b) - 1 / 8) / (0.3 / 8))))
                       * np.exp(-1j * np.pi * 24 * (1.1 * a * a + 0.9 * b * b)) for b in k] for a in k])  # fmt: skip
    field = np.conj(spectrum(np.conj(pupil))) / 400
    lens = np.array([[field[(i - 10) % 20, (j - 10) % 20] for j in range(20)] for i in range(20)])
    lens /= math.sqrt((abs(lens) ** 2).sum())
    fact("simulated scan", "lens out of focus", "simulate.defocused_probe(20, diameter_px=6.0)", settled(lens)[None])
    y, x = np.arange(20)[:, None] - 10, np.arange(20) - 10
    gauss = np.exp((-4 * math.log(2) / 5.5**2 + 0.02j) * (y**2 + x**2))
    gauss /= math.sqrt((abs(gauss) ** 2).sum())
    fact("simulated scan", "Gaussian beam", "simulate.gaussian_probe(20, fwhm_px=5.5)", settled(gauss)[None])
    moved = np.random.RandomState(4).uniform(-1.5, 1.5, (12, 2))
    raster = [(5.0 * (i - 1), 5.0 * (j - 1.5)) for i in range(3) for j in range(4)]
    raster = np.rint((np.array(raster) + moved) * 1024) / 1024
    fact("simulated scan", "raster", "simulate.grid_positions((3, 4), 5.0, jitter_px=1.5, seed=4)", raster)
    turn = math.pi * (3 - math.sqrt(5))
    spiral = [(math.sin(i * turn), math.cos(i * turn)) for i in range(9)]
    spiral = [np.rint(3 * math.sqrt(i / math.pi) * np.array(one) * 1024) / 1024 for i, one in enumerate(spiral)]
    fact("simulated scan", "spiral", "simulate.spiral_positions(9, 3.0)", spiral)
    low, high = raster.min(axis=0), raster.max(axis=0)
    shape = [math.ceil(high[i] - low[i]) + 16 + 4 for i in (0, 1)]
    fact("simulated scan", "placed", "(lambda p, s: [*p.ravel(), *s])(*simulate.place(simulate.grid_positions("
         "(3, 4), 5.0, jitter_px=1.5, seed=4), 16))", [*(raster - low + 10).ravel(), *shape])  # fmt: skip


def grouped(
    positions: np.ndarray, gridsize: int, n_groups: int | None = None, neighbor_count: int = 4, seed: int = 0
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Seeds, each with companions drawn from its nearest neighbours; distances all computed, ties by index."""
    rng, n, C = np.random.default_rng(seed), len(positions), gridsize**2
    seeds = list(range(n))
    if n_groups is not None:
        order = rng.permutation(n)
        seeds = [int(order[i % n]) for i in range(n_groups)]
    count = min(neighbor_count, n - 1)
    drawn = rng.random((len(seeds), count)) if C > 1 else None
    groups = []
    for i, one in enumerate(seeds):
        others = [j for j in range(n) if j != one]
        others.sort(key=lambda j: (round(math.dist(positions[j], positions[one]) / 1e-6), j))
        order = [] if drawn is None else sorted(range(count), key=lambda k: drawn[i][k])
        groups.append([one, *(others[k] for k in order[: C - 1])])
    centers = np.array([[sum(positions[j][axis] for j in group) / C for axis in (0, 1)] for group in groups])
    offsets = np.array([[positions[j] - center for j in group] for group, center in zip(groups, centers, strict=True)])
    return groups, offsets, centers


def make_groups() -> None:
    """Regular and irregular positions."""
    jittered = given("jittered", np.round(np.random.default_rng(11).uniform(0, 40, (14, 2)) * 8) / 8)
    grid = given("grid", [(5.0 * i, 5.0 * j) for i in range(4) for j in range(5)])
    nudged = given("nudged", np.array(grid) + 2e-7 * np.array([(i % 3 - 1, i % 2) for i in range(20)]))
    crowd = given("crowd", [(9.0, 4.0) if i % 9 else (9.0 + i, 3.5) for i in range(24)])
    cases: tuple[tuple[str, str, np.ndarray, dict[str, int]], ...] = (
        ("single patterns", "jittered", jittered, {"gridsize": 1}),
        ("single patterns, drawn", "jittered", jittered, {"gridsize": 1, "n_groups": 14, "seed": 5}),
        ("single patterns, some", "jittered", jittered, {"gridsize": 1, "n_groups": 1, "seed": 2}),
        ("fours", "jittered", jittered, {"gridsize": 2}),
        ("fours, seed 3", "jittered", jittered, {"gridsize": 2, "seed": 3, "neighbor_count": 7}),
        ("fours, more than patterns", "jittered", jittered, {"gridsize": 2, "n_groups": 31, "seed": 4}),
        ("fours, nearest three", "grid", grid, {"gridsize": 2, "neighbor_count": 3}),
        ("fours, equal distances", "grid", grid, {"gridsize": 2, "neighbor_count": 6, "seed": 1}),
        ("fours, equal but for rounding", "nudged", nudged, {"gridsize": 2, "neighbor_count": 5, "seed": 6}),
        ("fours, most at one place", "crowd", crowd, {"gridsize": 2, "neighbor_count": 4, "seed": 2}),
        ("fours, all others", "jittered", jittered, {"gridsize": 2, "neighbor_count": 99, "seed": 7}),
        ("fours, of four", "grid", grid[:4], {"gridsize": 2}),
        ("nines", "grid", grid, {"gridsize": 3, "neighbor_count": 8, "seed": 8}),
    )
    for case, name, positions, options in cases:
        groups, offsets, centers = grouped(np.array(positions), **options)
        words = ", ".join(f"{key}={value}" for key, value in options.items())
        where = f"{name}[:{len(positions)}]" if name == "grid" else name
        call = f"(g := groups.group_positions({where}, {words}))"
        fact("groups", f"{case}: patterns", f"{call}.indices", groups)
        fact("groups", f"{case}: offsets", f"{call}.offsets_px", offsets)
        fact(
            "groups",
            f"{case}: centres",
            f"[*{call}.centers_px.ravel(), *g.indices[:, 0], g.n_groups, g.n_channels, g.gridsize]",
            [*centers.ravel(), *(group[0] for group in groups), len(groups), len(groups[0]), options["gridsize"]],
        )
    groups, offsets, centers = grouped(np.array(grid), 2)
    digest = hashlib.sha256(b"groups gridsize=2 n=20")
    for array, dtype in ((groups, "<i8"), (offsets, "<f8"), (centers, "<f8")):
        digest.update(np.asarray(array, dtype).tobytes())
    fact("groups", "digest", "groups.group_positions(grid, gridsize=2).sha256()", digest.hexdigest())
    unchangeable("groups", "groups.Groups")
    refused("groups", "numbers", "ConfigError",
            *(f"groups.group_positions(grid, {one})" for one in (
                "gridsize=0", "gridsize=5", "gridsize=2, neighbor_count=2", "gridsize=1, n_groups=0",
                "gridsize=2, n_groups=0", "gridsize=1, n_groups=21", "gridsize=1, seed=-1")),
            "groups.group_positions(grid[:3], gridsize=2)", "groups.group_positions(grid[:0], gridsize=1)")  # fmt: skip
    refused("groups", "positions", "ScanError", "groups.group_positions(grid.T, gridsize=1)",
            "groups.group_positions(np.zeros((20, 2, 1)), gridsize=1)",
            "groups.group_positions(grid[0], gridsize=1)",
            "groups.group_positions(np.where(grid == 10, np.inf, grid), gridsize=1)",
            "groups.checked_positions(grid, 19)")  # fmt: skip
    bad = next(i for i, position in enumerate(np.array(grid)) if 10 in position)
    said("groups", "which position is not finite", "groups.checked_positions(np.where(grid == 10, np.inf, grid))",
         f"positions_px[{bad}] is ")  # fmt: skip
    said("groups", "any number of positions", "groups.checked_positions(grid.T)", "expected (n, 2)")
    said("groups", "number of positions", "groups.checked_positions(grid, 19)", "expected (19, 2)")
    said("groups", "patterns that a group needs", "groups.group_positions(grid[:3], gridsize=2)", "needs 4 patterns")
    fact("groups", "as many positions as asked", "groups.checked_positions(grid, 20)", grid)


def make_batches() -> None:
    """Few patterns, with bad pixels, rescaled."""
    bright = (np.indices((2, 64, 64)).sum(axis=0) * 37 % 1900).astype(np.uint16)
    content = io.BytesIO()
    np.savez_compressed(content, diffraction=bright, xcoords=[32.0, 40.0], ycoords=[32.0, 36.0],
                        probeGuess=beam(64, 1)[0], objectGuess=np.ones((80, 80), np.complex64))  # fmt: skip
    given("bright_file", np.frombuffer(content.getvalue(), np.uint8))
    read = "files.read_scan(file(bright_file, 'bright.npz'), diffraction_kind='amplitudes').counts().astype(float)"
    squares = [int(value) ** 2 for value in bright.ravel()]
    fact("counts of 16-bit amplitudes", "squared", f"projected({read})", projected(np.array(squares, float)))
    N = 16
    rng = np.random.default_rng(12)
    counts = given("counts", rng.integers(0, 900, (14, N, N)).astype(np.uint16))
    good = given("good", rng.random((N, N)) > 0.1)
    named("network_scan", "scan.Scan(counts, jittered, np.ones((1, 16, 16), 'c8'), good_pixels=good)")
    named("plain_scan", "scan.Scan(counts, jittered, np.ones((1, 16, 16), 'c8'))")
    jittered = np.array(GIVEN["jittered"])
    for case, name, lit, nphotons, gridsize in (
        ("fours", "plain_scan", counts, None, 2),
        ("single patterns, bad pixels", "network_scan", counts * good, None, 1),
        ("fours, rescaled", "network_scan", counts * good, 1234.5678, 2),
    ):  # fmt: skip
        groups, offsets, centres = grouped(jittered, gridsize, None, 6, 9)
        measured = sum(float(pattern.sum()) for pattern in lit) / len(lit)
        total = nphotons or measured
        call = f"{name}, groups.group_positions(jittered, gridsize={gridsize}, neighbor_count=6, seed=9), {nphotons}"
        call = f"batches.GroupedScan({call})"
        index = [4, 1, 13]
        wanted = [groups[i] for i in index]
        scaled = np.array([[lit[j] * (total / measured) for j in group] for group in wanted])
        inputs = np.sqrt(scaled / (total / (N / 2) ** 2))
        canvas = N + 2 * math.ceil(max(abs(value) for value in np.ravel(offsets)) if gridsize > 1 else 0)
        batch = f"{call}.batch(np.array({index}), 'float64')"
        fact("batches", f"{case}: inputs", f"projected({batch}.inputs)", projected(inputs))
        fact("batches", f"{case}: counts", f"projected({batch}.counts)", projected(scaled))
        fact("batches", f"{case}: offsets", f"{batch}.offsets_px", offsets[index])
        fact("batches", f"{case}: scales", f"[(b := {batch}).n_canvas, b.count_scale, {call}.mean_total_counts, "
             f"{call}.measured_total_counts]", [canvas, total / (N / 2) ** 2, total, measured])  # fmt: skip
        single = f"{call}.batch(np.array({index}))"
        fact("batches", f"{case}: single precision", f"[(b := {single}).inputs.itemsize, b.counts.itemsize, "
             "b.offsets_px.itemsize]", [4, 4, 4])  # fmt: skip
        in_slices = f"mock.patch.object(batches, 'PATTERNS_PER_READ', 4)(lambda: {call}.measured_total_counts)()"
        fact("batches", f"{case}: mean counts, in slices", in_slices, measured)
        generator = np.random.default_rng(13)
        order = [int(i) for _ in range(2) for i in generator.permutation(14)]
        sums = np.array([sum(float(lit[j].sum()) for j in groups[i]) for i in order]) * (total / measured)
        named(f"epochs_{len(NAMES)}", f"(lambda data, rng: [b for _ in range(2) for b in data.batches(5, rng)])"
              f"({call}, np.random.default_rng(13))")  # fmt: skip
        epochs = next(reversed(NAMES))
        fact("batches", f"{case}: two epochs", f"np.concatenate([b.counts.sum((1, 2, 3)) for b in {epochs}])", sums,
             "single")  # fmt: skip
        fact("batches", f"{case}: sizes", f"[len(b.inputs) for b in {epochs}]", [5, 5, 4] * 2)
        plain = [sum(float(lit[j].sum()) for j in groups[i]) * (total / measured) for i in range(14)]
        in_order = f"[p for b in {call}.batches(6) for p in b.counts.sum((1, 2, 3), dtype=float)]"
        fact("batches", f"{case}: in order", in_order, plain, "single")
        channels, pixels = gridsize**2, 3000
        step = next(size for size in range(28, 0, -2) if size == 2 or size * channels * N * N <= pixels)
        starts = range(0, 14, step)
        whole = f"mock.patch.object(batches, 'PATCH_PIXELS', {pixels})(lambda: list({call}.parts(2)))()"
        named(f"parts_{len(NAMES)}", whole)
        parts = next(reversed(NAMES))
        fact(
            "batches",
            f"{case}: parts",
            f"[p.groups.n_groups for p in {parts}]",
            [len(groups[i : i + step]) for i in starts],
        )
        fact("batches", f"{case}: groups of the parts", f"np.concatenate([p.groups.indices for p in {parts}])", groups)
        fact(
            "batches",
            f"{case}: offsets of the parts",
            f"np.concatenate([p.groups.offsets_px for p in {parts}])",
            offsets,
        )
        fact(
            "batches",
            f"{case}: centres of the parts",
            f"np.concatenate([p.groups.centers_px for p in {parts}])",
            centres,
        )
        fact("batches", f"{case}: of all groups", f"[[p.n_canvas, p.measured_total_counts] for p in {parts}]",
             [[canvas, measured]] * len(starts))  # fmt: skip
    strong = "scan.Scan(counts.astype('u4') * 4097, jittered, np.ones((1, 16, 16), 'c8'))"
    strong = f"batches.GroupedScan({strong}, groups.group_positions(jittered, gridsize=1))"
    fact("batches", "bright", f"projected({strong}.batch(np.arange(14), 'float64').counts)",
         projected(counts.astype(float) * 4097))  # fmt: skip
    in_parts = f"mock.patch.object(batches, 'PATCH_PIXELS', 1)(lambda: list({strong}.parts(4)))()"
    fact("batches", "the last part", f"[p.groups.n_groups for p in {in_parts}]", [4, 4, 4, 2])
    many = given("many", rng.integers(0, 9, (700, 3, 3)).astype(np.uint8))
    mean = sum(int(pattern.sum()) for pattern in many) / 700
    fact("batches", "mean counts of many patterns", "batches.GroupedScan(scan.Scan(many, np.zeros((700, 2)), "
         "np.ones((1, 3, 3))), None).measured_total_counts", mean)  # fmt: skip
    for offsets, edge in (("[]", 64), ("[[0.0, 0.25]]", 66), ("[[[-2.0, 1.5]]]", 68), ("[[1.0, -3.125]]", 72)):
        fact("batches", f"canvas of {offsets}", f"batches.canvas_size(64, {offsets})", edge)
    for made in ([], [3], [4, 1, 2, 2]):
        fact("batches", f"{len(made)} made ahead", f"list(batches.ahead(iter({made})))", np.array(made))
    unchangeable("batches", "batches.Batch", "batches.GroupedScan")
    refused(
        "batches",
        "no counts",
        "ScanError",
        "batches.GroupedScan(scan.Scan(counts * 0, jittered, np.ones((1, 16, 16))), None).mean_total_counts",
    )
    refused("batches", "N", "ConfigError",
            "batches.GroupedScan.from_config(plain_scan, config.TrainingConfig())")  # fmt: skip
    named("some_scan", "scan.Scan(np.ones((14, 64, 64)), jittered, np.ones((1, 64, 64), 'c8'))")
    for case, options, arguments in (
        ("training", "config.TrainingConfig(config.ModelConfig(gridsize=2), n_groups=9, neighbor_count=5, seed=6, "
         "nphotons=77.0)", (2, 9, 5, 6)),
        ("inference", "config.InferenceConfig(config.ModelConfig(gridsize=2), neighbor_count=7, seed=1)",
         (2, None, 7, 1)),
    ):  # fmt: skip
        call = f"batches.GroupedScan.from_config(some_scan, {options})"
        fact(
            "batches", f"groups of a configuration, {case}", f"{call}.groups.indices", grouped(jittered, *arguments)[0]
        )
        total = 77.0 if case == "training" else 4096.0
        fact("batches", f"counts of a configuration, {case}", f"{call}.mean_total_counts", total)
