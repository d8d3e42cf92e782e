"""What an inference becomes: the scan's units, one phase, an object on the scan's grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptyint import backends, dispatcher
from ptyint.backends.weights import initial_weights
from ptyint.config import InferenceConfig, ModelConfig
from ptyint.errors import ConfigError
from ptyint.images.reconstruction import assemble, object_grid
from ptyint.scans import batches as batches_module
from ptyint.scans.forward import diffraction_amplitudes
from ptyint.scans.scan import Scan

N = 64
SMALL = ModelConfig(n_filters_scale=1)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Call it with what a backend shall predict, given the grouped scan; no framework."""

    def answer(predict: Callable[[Any], Any]) -> None:
        backend = SimpleNamespace(
            name="fake", capabilities={"weights"}, infer=lambda data, weights, config: predict(data)
        )
        monkeypatch.setattr(backends, "load", lambda name: backend)

    return answer


def make_scan(n: int = 9, *, truth: bool = True) -> Scan:
    rng = np.random.default_rng(3)
    y, x = np.indices((N, N)) - N // 2
    probe = np.exp(-(y**2 + x**2) / 200)[None].astype(np.complex64)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)
    object_ = (rng.normal(size=(90, 100)) + 1j * rng.normal(size=(90, 100))).astype(np.complex64)
    patterns = rng.poisson(20, (n, N, N)).astype(np.uint16)
    return Scan(patterns, 36.0 + 8 * grid[:n], probe, object_ if truth else None)


def true_patches(scan: Scan, indices: Any) -> Any:
    """Patches of the scan's object at its integer positions, sliced by hand."""
    corners = scan.probe_positions_px.astype(int) - N // 2
    cut = np.stack([scan.object_[y : y + N, x : x + N] for y, x in corners])  # type: ignore[index]
    return cut[indices]


@pytest.mark.parametrize("gridsize", [1, 2])
def test_true_patches_are_stitched_to_the_truth(gridsize: int, answering: Any) -> None:
    scan = make_scan()
    model = replace(SMALL, gridsize=gridsize)
    answering(lambda data: true_patches(scan, data.groups.indices))
    config = InferenceConfig(model=model, backend="pytorch", n_groups=9)
    result = assemble(dispatcher.infer(scan, config, initial_weights(model, scan.probe, 0)))
    covered = result.covered
    # the first pattern's centre, the middle of the scan, and nothing outside
    assert covered[36, 36] and covered[44, 44] and not covered[5, 5] and covered.shape == (90, 100)
    ratio = result.object_[covered] / scan.object_[covered]  # type: ignore[index]
    np.testing.assert_allclose(ratio, np.full(ratio.shape, ratio[0]), rtol=1e-5)
    assert ratio[0].real > 0 and abs(ratio[0].imag) < 1e-5 * ratio[0].real


@pytest.mark.parametrize("probe_mask", [False, True])
def test_probe_and_patches_come_back_in_the_units_of_the_scan(probe_mask: bool, answering: Any) -> None:
    """``|propagate(probe * patch)|**2`` are the counts that the model expects, whatever units it works in."""
    scan, model = make_scan(), replace(SMALL, probe_mask=probe_mask)
    rng = np.random.default_rng(8)
    weights = initial_weights(model, scan.probe, 0)
    weights["probe.real"] = rng.normal(size=(1, N, N)).astype(np.float32)
    weights["probe.imag"] = rng.normal(size=(1, N, N)).astype(np.float32)
    weights["log_intensity_scale"] = np.asarray(0.7, np.float32)
    patches = (rng.normal(size=(9, 1, N, N)) + 1j * rng.normal(size=(9, 1, N, N))).astype(np.complex64)
    answering(lambda data: patches.copy())
    result = assemble(dispatcher.infer(scan, InferenceConfig(model=model), weights))

    y, x = np.indices((N, N)) - N // 2
    disk = y**2 + x**2 <= (N / 4) ** 2 if probe_mask else np.ones((N, N))
    network_probe = (weights["probe.real"] + 1j * weights["probe.imag"]) * disk
    mean_counts = np.asarray(scan.diffraction_patterns, np.float64).sum(axis=(1, 2)).mean()
    normalised = np.exp(2 * 0.7) * diffraction_amplitudes(network_probe, patches[:, 0]) ** 2
    expected = normalised * mean_counts / (N / 2) ** 2
    found = diffraction_amplitudes(result.probe, result.object_patches[:, 0]) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())
    if not probe_mask:
        assert np.linalg.norm(result.probe) == pytest.approx(np.linalg.norm(scan.probe), rel=1e-6)


def test_the_object_grid_holds_every_patch_when_the_scan_has_no_object() -> None:
    scan = make_scan(truth=False)
    for origin in ((0.0, 0.0), (-165.25, 400.5)):
        moved = replace(scan, probe_positions_px=scan.probe_positions_px + origin)
        shape, positions = object_grid(moved)
        assert (positions >= N / 2).all() and (positions + N / 2 <= shape).all()
        assert (np.array(shape) <= np.ptp(scan.probe_positions_px, axis=0) + N + 2).all()
        steps = np.diff(moved.probe_positions_px, axis=0)
        np.testing.assert_allclose(np.diff(positions, axis=0), steps, atol=1e-9)
    shape, positions = object_grid(make_scan())
    assert shape == (90, 100)
    np.testing.assert_array_equal(positions, make_scan().probe_positions_px)


def test_assembling_leaves_the_inference_as_it_is(answering: Any) -> None:
    scan = make_scan()
    answering(lambda data: true_patches(scan, data.groups.indices))
    inferred = dispatcher.infer(scan, InferenceConfig(model=SMALL), initial_weights(SMALL, scan.probe, 0))
    first, again = assemble(inferred), assemble(inferred)
    np.testing.assert_array_equal(first.object_, again.object_)
    np.testing.assert_array_equal(inferred.network_patches, true_patches(scan, inferred.data.groups.indices))


@pytest.mark.parametrize("gridsize", [1, 2])
def test_patches_that_are_not_kept_make_the_same_object(gridsize: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PATCH_PIXELS", 4 * gridsize**2 * N**2)  # two batches at a time
    scan, model = make_scan(), replace(SMALL, gridsize=gridsize)
    weights = initial_weights(model, scan.probe, 0)
    config = InferenceConfig(model=model, batch_size=2)
    kept, streamed = (assemble(dispatcher.infer(scan, config, weights, keep=keep)) for keep in (True, False))
    np.testing.assert_array_equal(kept.object_, streamed.object_)
    parts = [*kept.inferred.data.parts(2)]
    assert len(parts) == -(-scan.n // 4) > 1
    assert {part.n_canvas for part in parts} == {kept.inferred.data.n_canvas}
    assert streamed.inferred.seconds > 0
    assert kept.object_patches.shape == (scan.n, gridsize**2, N, N)
    with pytest.raises(ConfigError, match="placed and forgotten; infer with keep=True"):
        _ = streamed.object_patches
