"""Stitch, synchronised phases: pixel by pixel, with full matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from common import GIVEN, disk, fact, given, named, projected, refused, unchangeable, wave


def bilinear(image: np.ndarray, y: float, x: float) -> complex:
    """The image at a fractional pixel."""
    y0, x0 = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in product((y0, y0 + 1), (x0, x0 + 1)):
        weight = (1 - abs(y - row)) * (1 - abs(x - column))
        if weight > 0:
            total += weight * image[row, column]
    return total


def covers(y: float, start: int, M: int) -> float:
    """How much of the pixel around patch coordinate `y` the M pixels from `start` on cover, along one axis."""
    return min(y + 0.5, start + M - 0.5) - max(y - 0.5, start - 0.5)


def placed(patch: np.ndarray, position: Sequence[float], shape: tuple[int, int], M: int) -> Iterator[tuple[Any, ...]]:
    """Row, column, value and weight of every object pixel that the centre of a patch reaches."""
    N = len(patch)
    start = N // 2 - M // 2
    for row, column in product(range(shape[0]), range(shape[1])):
        y, x = row - position[0] + N // 2, column - position[1] + N // 2
        wy, wx = covers(y, start, M), covers(x, start, M)
        if wy > 0 and wx > 0:
            yield row, column, bilinear(patch, y, x), wy * wx


def stitched(patches: np.ndarray, positions: np.ndarray, shape: tuple[int, int], M: int) -> tuple[np.ndarray, ...]:
    """Weighted mean, and the weights, pixel by pixel."""
    total, coverage = np.zeros(shape, complex), np.zeros(shape)
    for patch, position in zip(patches, positions, strict=True):
        for row, column, value, weight in placed(patch, position, shape, M):
            total[row, column] += weight * value
            coverage[row, column] += weight
    return np.where(coverage > 0, total / np.where(coverage > 0, coverage, 1), 0), coverage


def linked(
    patches: np.ndarray, positions: np.ndarray, shape: tuple[int, int], labels: np.ndarray, M: int
) -> np.ndarray:
    """What each two groups say of the pixels that both reach, as a full matrix."""
    W, coverage = np.zeros((labels.max() + 1, *shape), complex), np.zeros(shape)
    for patch, position, label in zip(patches, positions, labels, strict=True):
        for row, column, value, weight in placed(patch, position, shape, M):
            W[label, row, column] += weight * value
            coverage[row, column] += weight
    links = np.array([[(np.conj(a) * b)[coverage > 0] / coverage[coverage > 0] for b in W] for a in W]).sum(axis=-1)
    np.fill_diagonal(links, 0)
    return links


def islands(links: np.ndarray) -> Iterator[list[int]]:
    """Groups that hang together, found by walking; none that is alone."""
    left = set(range(len(links)))
    while left:
        island, reached = [], [min(left)]
        while reached:
            one = reached.pop()
            if one in left:
                left.remove(one)
                island.append(one)
                reached += [other for other in left if abs(links[one, other]) > 0]
        if len(island) > 1:
            yield sorted(island)


def synchronised(links: np.ndarray, *, largest: bool = False) -> np.ndarray:
    """Phases of each island's leading eigenvector, by full matrices; `largest`: climbed from there to a maximum."""
    degree, phases = np.abs(links).sum(axis=0), np.zeros(len(links))
    for island in islands(links):
        matrix = np.array([[links[a, b] / math.sqrt(degree[a] * degree[b]) for b in island] for a in island])
        values, vectors = np.linalg.eigh(matrix)
        assert values[-1] - values[-2] > 0.01, "the tolerance counts on it"
        leading = vectors[:, -1]
        if largest:
            leading = climbed(links[np.ix_(island, island)], np.angle(leading))
        phases[island] = np.angle(leading * np.exp(-1j * np.angle(leading.sum())))
    return phases


def climbed(links: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """The phasors x near by for which ``x^H links x`` is largest: Newton's steps with the second derivatives."""
    for _ in range(30):
        x = np.exp(1j * phases)
        terms = (x.conj()[:, None] * links * x).real
        curvature = terms - np.diag(terms.sum(axis=1))
        step = np.linalg.lstsq(curvature, (x.conj() * (links @ x)).imag, rcond=1e-12)[0]
        phases = phases - step
    assert np.abs(step).max() < 1e-12 and np.linalg.eigvalsh(curvature)[-2] < 0, "a maximum"
    return np.exp(1j * phases)


def make_stitch() -> None:
    """Patches to object, and back."""
    shape = (37, 29)
    patches = given("patches", wave(5, 24, 24))
    positions = given("places", [(2.25, 3.125), (14, 9), (17.625, 22.5), (36.5, 28.75), (20.375, 9.875)])
    odd = given("odd_patches", wave(5, 25, 25, seed=1))
    wide = given("wide_patches", wave(2, 48, 48, seed=2))
    apart = given("wide_places", [(30.5, 24.25), (40.125, 47)])
    for name, case, tiles, M in (("patches", "even N", patches, 8), ("odd_patches", "odd N", odd, 10)):
        call = f"stitch.stitch({name}, places, (37, 29), M={M})"
        object_, coverage = stitched(tiles, positions, shape, M)
        fact("stitch", f"{case}: object", f"{call}.object_", object_)
        fact("stitch", f"{case}: coverage", f"{call}.coverage", coverage)
    object_, coverage = stitched(patches, positions, shape, 8)
    call = "stitch.stitch(patches, places, (37, 29), M=8)"
    in_chunks = "mock.patch.object(stitch, '_CHUNK_PIXELS', 170)(stitch.stitch)(patches, places, (37, 29), M=8)"
    fact("stitch", "in chunks", f"{in_chunks}.object_", object_)
    fact("stitch", "covered", f"{call}.covered", coverage > 0)
    call = "stitch.stitch(wide_patches, wide_places, (66, 71))"
    object_, coverage = stitched(wide, apart, (66, 71), 20)
    fact("stitch", "default centre", f"[projected({call}.object_), projected({call}.coverage)]",
         [projected(object_), projected(coverage)])  # fmt: skip
    fact("stitch", "largest centre", "stitch.stitch(patches, places, (37, 29), M=12).coverage",
         stitched(patches, positions, shape, 12)[1])  # fmt: skip
    fact("stitch", "smallest centre", "stitch.stitch(patches, places, (37, 29), M=2).object_",
         stitched(patches, positions, shape, 2)[0])  # fmt: skip
    fact("stitch", "one pixel", "stitch.stitch(patches, places, (1, 1), M=8).coverage",
         stitched(patches, positions, (1, 1), 8)[1])  # fmt: skip
    narrow = "stitch.stitch(patches.astype('c8'), places, (37, 29), M=8).object_"
    fact("stitch", "single precision stays", f"{narrow}.dtype.itemsize", 8)
    broken = patches.copy()
    broken[2, 12, 12] = np.nan
    given("broken_patches", broken)
    reached = stitched(np.isnan(broken).astype(complex), positions, shape, 8)[0] != 0
    hole = "stitch.stitch(np.where(np.arange(5)[:, None, None] == 1, np.nan, patches), places, (37, 29), M=8)"
    covered = stitched(patches[1:2], np.array(positions)[1:2], shape, 8)[1] > 0
    fact("stitch", "NaN goes no further", f"np.isnan({hole}.object_)", covered)
    fact("stitch", "NaN stays", "np.isnan(stitch.stitch(broken_patches, places, (37, 29), M=8).object_)", reached)
    refused("stitch", "centre", "ConfigError",
            *(f"stitch.stitch(patches, places, (37, 29), M={M})" for M in (0, 7, 14, -2)))  # fmt: skip
    refused("stitch", "shape", "ConfigError", "stitch.stitch(patches, places, (37, 29, 1), M=8)",
            "stitch.stitch(patches, places, (37, 0), M=8)")  # fmt: skip
    refused("stitch", "patches", "ScanError", "stitch.stitch(patches[0], places, (37, 29), M=8)",
            "stitch.stitch(patches[:, 1:], places, (37, 29), M=8)",
            "stitch.stitch(patches.real, places, (37, 29), M=8)")  # fmt: skip
    refused("stitch", "positions", "ScanError", "stitch.stitch(patches, places[1:], (37, 29), M=8)",
            "stitch.stitch(patches, places.T, (37, 29), M=8)",
            "stitch.stitch(patches, places[:, :1], (37, 29), M=8)",
            "stitch.stitch(patches, np.where(places == 14, np.nan, places), (37, 29), M=8)")  # fmt: skip

    unchangeable("stitch", "stitch.Stitched")

    labels = given("labels", np.array([0, 0, 2, 1, 3, 4, 4, 1, 5]))
    tiles = given("tiles", wave(9, 12, 12, seed=4))
    spots = given("spots", [(9.5, 8.25), (12, 11), (10.125, 13.5), (15.75, 10), (7, 30.5), (9.25, 32), (28, 5.5),
                            (13, 14.25), (29, 33)])  # fmt: skip
    many = given("many_tiles", wave(70, 16, 16, seed=5) * 0.7 + np.exp(1j * np.arange(70))[:, None, None])
    grid = given("many_spots", [(6 + 2.125 * i, 7 + 1.875 * j) for i in range(7) for j in range(10)])
    few = linked(tiles, np.array(spots), (34, 39), labels, 6), "tiles, spots, (34, 39), labels, M=6"
    turns = given("turns", [(9.5, 8.25), (26, 28.5), (12, 11), (28.125, 30), (10.125, 12.5), (25.75, 31)])
    both = linked(many[:6], turns, (38, 40), np.arange(6), 8), "many_tiles[:6], turns, (38, 40), np.arange(6), M=8"
    whole = linked(many, grid, (25, 31), np.arange(70), 8), "many_tiles, many_spots, (25, 31), np.arange(70), M=8"
    for case, (links, arguments), by in (
        ("islands", few, ""),
        ("in chunks", few, "stitch, '_CHUNK_PIXELS', 150"),
        ("70 groups", whole, ""),
        ("as many as Lanczos takes", whole, "phases, 'MOST_BY_LANCZOS', 70"),
        ("islands in turn", both, ""),
        ("islands in turn, coarse to fine", both, "phases, 'MOST_BY_LANCZOS', 1"),
        ("islands, coarse to fine", few, "phases, 'MOST_BY_LANCZOS', 1"),
        ("70 groups, coarse to fine", whole, "phases, 'MOST_BY_LANCZOS', 69"),
    ):
        finely = case.endswith("fine")
        call = f"mock.patch.object({by})(stitch.synchronise_phases)" if by else "stitch.synchronise_phases"
        expected = np.exp(1j * synchronised(links, largest=finely))
        fact("synchronised phases", case, f"np.exp(1j * {call}({arguments}))", expected,
             "converged" if finely else "iterated")  # fmt: skip
    call = "stitch.synchronise_phases(np.where(tiles == tiles[1, 2, 3], np.nan, tiles), spots, (34, 39), labels, M=6)"
    fact("synchronised phases", "zero where not finite", call, np.zeros(6))
    some = "[np.where(tiles == tiles[1, 2, 3], np.nan, tiles)[:4], tiles[4:]]"
    call = f"stitch.stitch_batches({some}, spots, (34, 39), labels, M=6)"
    fact("synchronised phases", "zero where the first batch is not finite", f"{call}[1]", np.zeros(6))
    star = [(0, leaf) for leaf in range(1, 70)]
    raster = [
        (i, i + step) for i in range(225) for step in (1, 15, 16) if i + step < 225 and (step == 15 or i % 15 < 14)
    ]
    for case, edges, by in (
        ("one that all others overlap", star, ""),
        ("a raster, coarse to fine", raster, "phases, 'MOST_BY_LANCZOS', 1"),
    ):
        rng = np.random.default_rng(53)
        true, n = rng.uniform(-np.pi, np.pi, 225), 1 + max(map(max, edges))
        values = [rng.uniform(1, 2) * np.exp(1j * (true[a] - true[b] + rng.normal(0, 0.4))) for a, b in edges]
        links = np.zeros((n, n), complex)
        for (a, b), value in zip(edges, values, strict=True):
            links[a, b], links[b, a] = value, np.conj(value)
        name = f"links_of_{n}"
        given(f"pairs_of_{n}", edges)
        given(f"values_of_{n}", values)
        half = f"sparse.csr_array((values_of_{n}, pairs_of_{n}.T), ({n}, {n}))"
        named(name, f"(lambda half: (half + half.conj().T).tocsr())({half})")
        finely = case.endswith("fine")
        expected = climbed(links, true[:n]) if finely else np.exp(1j * synchronised(links))
        expected = expected * np.exp(-1j * np.angle(expected.sum())) if finely else expected
        call = f"mock.patch.object({by})(phases.agreeing_phases)" if by else "phases.agreeing_phases"
        fact("synchronised phases", case, f"np.exp(1j * {call}({name}))", expected,
             "converged" if finely else "iterated")  # fmt: skip
    flat = "stitch.synchronise_phases(patches[:2] * 0 + 1j, places[:2], (37, 29), np.arange(2))"
    refused("synchronised phases", "default centre", "ConfigError", flat)


def make_assembly() -> None:
    """Patches of one object, each with a phase of its own, at whole pixels: the object comes out, up to one phase."""
    N, M, shape = 64, 12, (81, 76)
    places = given("cut_at", np.array([[33, 33], [38, 35], [45, 34], [41, 41], [47, 42]], float))
    whole = given("cut_from", wave(*shape, seed=51).astype(np.complex64))
    named("cut_scan", f"scan.Scan(np.ones((5, {N}, {N})), cut_at, beam_64_1, object_=cut_from)")
    named("cut_groups", "groups.group_positions(cut_at, gridsize=1)")
    named("cut_data", "batches.GroupedScan(cut_scan, cut_groups, None)")
    window = f"cut_from[y - {N // 2} : y + {N // 2}, x - {N // 2} : x + {N // 2}]"
    named("cut_patches", f"np.stack([{window} * np.exp(2j * x) for y, x in cut_at.astype(int)])[cut_groups.indices]"
          ".astype('c8')")  # fmt: skip
    named("assembled", "reconstruction.assemble(dispatcher.InferenceResult('it', config.InferenceConfig("
          f"config.ModelConfig(n_filters_scale=1), M={M}), {{'probe.real': beam_64_1.real, "
          "'probe.imag': beam_64_1.imag, "
          "'log_intensity_scale': np.float32(0.3)}, cut_data, [cut_patches]))")  # fmt: skip
    _, coverage = stitched(np.ones((5, N, N)), places, shape, M)
    true = np.where(coverage > 0, whole, 0)
    fact("assembly", "coverage", "assembled.coverage", coverage)
    in_counts = math.exp(0.3) * math.sqrt(N**2 / (N / 2) ** 2)  # a pattern counts N**2, and is seen as (N / 2)**2
    fact("assembly", "amplitude", "abs(assembled.object_)", abs(true) * in_counts, "single")
    fact("assembly", "amplitude of the patches", "projected(abs(assembled.object_patches[:, 0]))",
         projected([abs(whole[y - 32 : y + 32, x - 32 : x + 32]) * in_counts for y, x in places.astype(int)]),
         "single")  # fmt: skip
    fact("assembly", "probe", "assembled.probe", GIVEN["beam_64_1"], "single")
    model = "config.ModelConfig(n_filters_scale=1, probe_mask=True)"
    named("masked", f"dataclasses.replace(assembled.inferred.config, model={model})")
    again = "reconstruction.assemble(dataclasses.replace(assembled.inferred, config=masked))"
    fact("assembly", "probe, masked", f"{again}.probe", GIVEN["beam_64_1"] * disk(64), "single")
    likeness = "abs(np.vdot({0}, cut_from * (assembled.coverage > 0))) / np.linalg.norm({0})"
    fact("assembly", "phase", likeness.format("assembled.object_"), np.linalg.norm(true), "single")
    named("own_patches", "assembled.object_patches[cut_groups.indices[:, 0].argsort(), 0]")
    named("own_phases", f"[np.angle(np.vdot({window}, one)) for (y, x), one in zip(cut_at.astype(int), own_patches)]")
    fact("assembly", "patches have one phase", "abs(np.exp(1j * np.array(own_phases)).mean())", 1.0, "single")
    named("fours", "groups.group_positions(cut_at, gridsize=2, seed=3)")
    named("four_patches", f"np.stack([[{window} * np.exp(2j * g) for y, x in cut_at[four].astype(int)]"
          " for g, four in enumerate(fours.indices)]).astype('c8')")  # fmt: skip
    named("of_fours", "reconstruction.assemble(dataclasses.replace(assembled.inferred, batches=[four_patches],"
          "data=dataclasses.replace(cut_data, groups=fours)))")  # fmt: skip
    fact("assembly", "phase, groups of four", likeness.format("of_fours.object_"), np.linalg.norm(true), "single")
    far = given("far_places", [(-20.75, 3.5), (14.125, 90.25), (33.5, 41.0)])
    named("bare_scan", "scan.Scan(np.ones((3, 64, 64)), far_places, beam_64_1)")
    edges = [math.ceil(max(far[:, axis]) - math.floor(min(far[:, axis]))) + N for axis in (0, 1)]
    fact("assembly", "grid of a scan without an object", "reconstruction.object_grid(bare_scan)[0]", edges)
    moved = [[value - math.floor(min(far[:, axis])) + N // 2 for axis, value in enumerate(row)] for row in far]
    fact("assembly", "positions on it", "reconstruction.object_grid(bare_scan)[1]", moved)
    fact("assembly", "grid of a scan with one", "reconstruction.object_grid(cut_scan)[0]", shape)
    fact("assembly", "scanned region", "reconstruction.scanned_region(far_places + 30, (90, 120))",
         [[within((row, column), far + 30, reach=5) for column in range(120)] for row in range(90)])  # fmt: skip


def within(point: tuple[int, int], places: np.ndarray, reach: float) -> bool:
    """Whether a pixel lies among the squares around all places: no line through two corners leaves all on one side."""
    corners = [(y + reach * i, x + reach * j) for y, x in places for i, j in product((-1, 1), repeat=2)]
    for (a, b), (c, d) in product(corners, repeat=2):
        side = (c - a) * (point[1] - b) - (d - b) * (point[0] - a)
        assert (a, b) == (c, d) or side or not all((c - a) * (x - b) >= (d - b) * (y - a) for y, x in corners), "clear"
        if side < 0 and all((c - a) * (x - b) - (d - b) * (y - a) >= 0 for y, x in corners):
            return False
    return True
