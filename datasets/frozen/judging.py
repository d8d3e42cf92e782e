"""Two reconstructions against each other, and a backend's own canvas on the scan's grid: pixel by pixel."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from common import GIVEN, fact, given, named, projected, refused, wave
from comparing import pearson


def make_comparison() -> None:
    """Images whose gauge is known, so that what is left of them is."""
    ref, inside = GIVEN["ref"], GIVEN["inside"]
    rest = "beam_64_1, beam_64_1, jittered, *3 * [np.ones(1)]"
    named("made", "lambda name, image, seen=inside, **other: reconstruction.Reconstruction(image.astype('c16'), "
          f"seen * 1.0, seen, {rest}, {{'backend': name, 'scan_sha256': 'a', 'groups_sha256': 'b', "
          "'initial_weights_sha256': 'c', 'config': {'backend': name, 'output_dir': name, 'seed': 1}, 'M': 20, "
          "'pixel_size_m': None, **other}, "
          "ground_truth=ref)")  # fmt: skip
    named("measured", "lambda *pair: np.array([-1 if c.measured is None else c.measured for c in "
          "comparison.compare(*pair).checks])")  # fmt: skip
    kept = "reconstruction.Reconstruction.load(made('a', ref / 3).save(folder / 'saved.h5'))"
    fact("assembly", "saved and loaded", f"projected({kept}.object_)", projected(ref / 3))
    named("two_epochs", "training.History([training.Epoch(i, 9.0 / i, 0.1 / i, 2.0 + i) for i in (1, 2)])")
    named("of_training", "lambda: reconstruction.Reconstruction.of(dispatcher.TrainingResult('it', "
          "config.TrainingConfig(), {}, 'c', two_epochs, cut_groups, 1.5), assembled.inferred, "
          "dataclasses.replace(assembled, probe=3 * beam_64_1))")  # fmt: skip
    named("put_together", "mock.patch.object(reconstruction, 'backends', types.SimpleNamespace(load=lambda name: "
          "types.SimpleNamespace(describe=dict)))(of_training)()")  # fmt: skip
    for what, value in (
        ("probe", 3 * GIVEN["beam_64_1"]), ("initial_probe", GIVEN["beam_64_1"]), ("positions_px", GIVEN["cut_at"]),
        ("losses", [9.0, 4.5]), ("learning_rates", [0.1, 0.05]), ("epoch_seconds", [3.0, 4.0]),
    ):  # fmt: skip
        fact("assembly", f"put together: {what}", f"put_together.{what}", value)
    other = given("other_region", np.roll(inside, (5, -9), (0, 1)))
    both = [[inside[i, j] and other[i, j] for j in range(inside.shape[1])] for i in range(inside.shape[0])]
    fact("comparison", "region", "comparison.common_region(made('a', ref), made('b', ref, other_region))", both)
    apart = "comparison.compare(made('a', ref), made('b', 1.3 * np.exp(0.7j) * ref, other_region))"
    fact("comparison", "region of the truth", f"[{apart}.truth[one].gauge.mask for one in 'ab']", [both, both])
    fact("comparison", "gauge of the candidate", f"[(g := {apart}.agreement.gauge).scale, g.phase_rad]", [1.3, 0.7],
         "converged")  # fmt: skip
    given("grainy", ref * (1 + 0.12 * wave(*ref.shape, seed=70).real))
    reach = np.zeros(ref.shape, bool)  # whose interpolation sees nothing from outside
    for i, j in product(range(4, ref.shape[0] - 4), range(4, ref.shape[1] - 4)):
        reach[i, j] = inside[i - 4 : i + 5, j - 4 : j + 5].all()
    amplitude = pearson(abs(GIVEN["grainy"])[reach], abs(ref)[reach])
    assert amplitude < 0.85, "far from 1, beside what the gauge makes of grains"
    near = "np.abs(measured(made('a', {}), made('b', {}))[6:13] - {}).max() < 0.06"
    exact = "1.3 * np.exp(0.7j) * ref"
    for pair, both in ((("grainy", exact), [amplitude, 1.0]), ((exact, "grainy"), [1.0, amplitude])):
        said = near.format(*pair, [1.0, 1.0, 0.0, *map(float, both), 1 - float(amplitude), 1.0])
        fact("comparison", f"correlations, {pair[0]} first", said, True)
    for scale in (1.3, 0.8):
        call = f"measured(made('a', ref), made('b', {scale} * ref))[13]"
        fact("comparison", f"scale {scale}", call, abs(math.log(scale)), "converged")
    facts = {"all": ("", [1, 1, 1, 1, 1]), "scan": ("scan_sha256='z'", [0, 1, 1, 1, 1]),
             "groups": ("groups_sha256='z'", [1, 0, 1, 1, 1]), "M": ("M=18", [1, 1, 1, 1, 0]),
             "weights, untold": ("initial_weights_sha256=None", [1, 1, -1, 1, 1]),
             "config": ("config={'backend': 'b', 'seed': 2}", [1, 1, 1, 0, 1])}  # fmt: skip
    for case, (said, held) in facts.items():
        fact("comparison", f"same, but {case}", f"measured(made('a', ref), made('b', ref, {said}))[:6]", [*held, 1])
    fact("comparison", "a backend and itself", "measured(made('a', ref), made('a', ref))[5]", 0)
    smaller = "made('b', ref[1:], inside[1:])"
    refused("comparison", "shapes", "ComparisonError", f"comparison.compare(made('a', ref), {smaller})")
    refused("comparison", "bounds", "ConfigError", "comparison.Criteria(max_difference=1.5)",
            "comparison.Criteria(min_agreement=-0.1)")  # fmt: skip


def make_workflow() -> None:
    """What a backend stitched by itself: its middle pixel lies at the centre that it gives, to the nearest pixel."""
    shape, far = (81, 76), np.array(GIVEN["far_places"])
    canvas = given("canvas", wave(41, 30, seed=71).astype(np.complex64) + 3)
    low = [math.floor(min(far[:, axis])) for axis in (0, 1)]
    whole = tuple(math.ceil(max(far[:, axis]) - low[axis]) + 64 for axis in (0, 1))
    for case, scan, moved, size, centre in (
        ("with an object", "cut_scan", (0, 0), shape, (40.25, 38.625)),
        ("at the edge", "cut_scan", (0, 0), shape, (10.625, 70.0)),
        ("without an object", "bare_scan", (32 - low[0], 32 - low[1]), whole, (9.75, 40.125)),
    ):  # fmt: skip
        laid = np.zeros(size, complex)
        for i, j in product(range(41), range(30)):
            y, x = (round(centre[axis] + moved[axis]) + (i - 20, j - 15)[axis] for axis in (0, 1))
            if 0 <= y < size[0] and 0 <= x < size[1]:
                laid[y, x] = 1.5 * complex(canvas[i, j])
        call = f"workflow._laid({scan}, {{'stitched': canvas, 'centre_px': np.array({centre})}}, 1.5)"
        fact("workflow", f"canvas {case}", f"projected({call}['object_'])", projected(laid), "single")
        fact("workflow", f"covered {case}", f"{call}['coverage']", laid != 0)
    named("own_workflow", "types.SimpleNamespace(name='it', capabilities={'workflow'}, describe=dict, configure="
          "config.legacy_values, run=lambda path, settings, where, M: {'losses': [2.0, settings.n_groups, "
          "settings.nphotons], 'probe': 2.5 * beam_64_1, 'patches': np.ones(3), 'stitched': canvas, 'centre_px': "
          "files.read_scan(path).probe_positions_px[0] + (7, 3)})")  # fmt: skip
    named("by_itself", "(lambda load: mock.patch.object(dispatcher, 'backends', load)(lambda: mock.patch.object("
          "reconstruction, 'backends', load)(lambda: mock.patch.dict(config.params.cfg)(lambda: workflow.run(cut_scan, "
          "config.TrainingConfig(config.ModelConfig(n_filters_scale=1), n_groups=4, nphotons=2000.0), "
          "folder / 'own'))())())())(types.SimpleNamespace(load=lambda name: own_workflow))")  # fmt: skip
    fact("workflow", "probe in the scan's units", "by_itself.probe", GIVEN["beam_64_1"], "single")
    in_counts = 2.5 * math.sqrt(2000 / 32**2)
    laid = np.zeros(shape, complex)
    laid[40 - 20 : 40 + 21, 36 - 15 : 36 + 15] = in_counts * canvas.astype(complex)
    fact("workflow", "object in the scan's units", "projected(by_itself.object_)", projected(laid), "single")
    fact("workflow", "what it was told", "by_itself.losses", [2.0, 4.0, 2000.0])


def make_contract() -> None:
    """DATA-001: what a scan may be, and what it may not."""
    tap = "data contract"
    lit = np.zeros((64, 64))
    lit[29:36, 28:37] = 5.0
    given("centred", np.stack(14 * [lit]))
    given("cornered", np.stack(14 * [np.roll(lit, (32, 32), (0, 1))]))
    given("gap", np.where(np.arange(64) == 7, np.nan, np.ones((14, 64, 64))))
    given("gapless", np.broadcast_to(np.arange(64) != 7, (64, 64)))
    named("but", "lambda **changes: scan.validate_scan(dataclasses.replace(some_scan, **changes))")
    for case, changes in (
        ("as it is", ""), ("integers", "diffraction_patterns=centred.astype('u2')"),
        ("flat", "diffraction_patterns=cornered + 1.0"),
        ("Y in complex64", "object_patches=np.ones((14, 64, 64), 'c8')"),
        ("NaN in bad pixels", "diffraction_patterns=gap, good_pixels=gapless"),
        ("an object that holds all", "object_=np.ones((42, 43), 'c8')"), ("pixels of 8 nm", "pixel_size_m=8e-9"),
    ):  # fmt: skip
        fact(tap, f"kept: {case}", f"str(but({changes}))", "None")
    for case, *several in (
        ("Y", "object_patches=np.ones((14, 64, 64))", "object_patches=np.ones((14, 64, 64), 'c16')",
         "object_patches=np.ones((13, 64, 64), 'c8')"),
        ("probe", "probe=np.ones((1, 64, 64))", "probe=np.ones((64, 64), 'c8')", "probe=np.zeros((1, 64, 64), 'c8')",
         "probe=np.full((1, 64, 64), np.nan, 'c8')"),
        ("positions", "probe_positions_px=jittered.T", "probe_positions_px=jittered.astype('f4')",
         "probe_positions_px=jittered * np.nan", "probe_positions_px=jittered * 1e-6",
         "probe_positions_px=jittered * 0", "probe_positions_px=jittered * 1e6"),
        ("patterns", "diffraction_patterns=gap", "diffraction_patterns=-centred", "diffraction_patterns=centred * 0",
         "diffraction_patterns=centred.astype('c8')", "diffraction_patterns=centred[:, 1:, 1:]",
         "diffraction_patterns=cornered", "diffraction_patterns=cornered + 0.5", "diffraction_patterns=centred[0]"),
        ("object", "object_=np.ones((30, 43), 'c8')", "object_=np.ones((43, 30), 'c8')", "object_=np.ones((80, 80))"),
        ("good pixels", "good_pixels=gapless * 1", "good_pixels=gapless & False", "good_pixels=gapless[1:]"),
        ("lengths", "pixel_size_m=-8e-9", "pixel_size_m=8.0", "wavelength_m=8000.0", "detector_distance_m=0.0"),
    ):  # fmt: skip
        refused(tap, case, "ScanError", *(f"but({changes})" for changes in several))
