"""Canonical weights: the shapes of PtychoPINN's network, Glorot initialisation, digests. Shapes are written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ptyint.backends.weights import (
    convolution_shapes,
    initial_weights,
    probe_of,
    scan_units,
    trainable_names,
    weight_shapes,
    weights_sha256,
)
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.forward import diffraction_amplitudes, probe_mask

PAIRS_64 = [
    ("encoder.0", 1, 32), ("encoder.1", 32, 64), ("encoder.2", 64, 128),
    ("amplitude.0", 128, 64), ("amplitude.1", 64, 32), ("phase.0", 128, 64), ("phase.1", 64, 32),
]  # fmt: skip
PAIRS_128 = [
    ("encoder.0", 1, 16), ("encoder.1", 16, 32), ("encoder.2", 32, 64), ("encoder.3", 64, 128),
    ("amplitude.0", 128, 128), ("amplitude.1", 128, 64), ("amplitude.2", 64, 32),
    ("phase.0", 128, 128), ("phase.1", 128, 64), ("phase.2", 64, 32),
]  # fmt: skip
PAIRS_256 = [
    ("encoder.0", 1, 8), ("encoder.1", 8, 16), ("encoder.2", 16, 32), ("encoder.3", 32, 64), ("encoder.4", 64, 128),
    ("amplitude.0", 128, 256), ("amplitude.1", 256, 128), ("amplitude.2", 128, 64), ("amplitude.3", 64, 32),
    ("phase.0", 128, 256), ("phase.1", 256, 128), ("phase.2", 128, 64), ("phase.3", 64, 32),
]  # fmt: skip


def probe(modes: int = 1, N: int = 64) -> Any:
    rng = np.random.default_rng(2)
    return (rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))).astype(np.complex64)


@pytest.mark.parametrize("N, pairs", [(64, PAIRS_64), (128, PAIRS_128), (256, PAIRS_256)])
@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_network_is_that_of_ptychopinn(N: int, pairs: Any, s: int, gridsize: int) -> None:
    """Two convolutions a block; widths in units of s, but for the input's C channels."""
    config = ModelConfig(N=N, gridsize=gridsize, n_filters_scale=s, probe_big=False)
    C = gridsize**2
    expected = {}
    for name, n_in, n_out in pairs:
        expected[f"{name}.conv1"] = (3, 3, C if name == "encoder.0" else s * n_in, s * n_out)
        expected[f"{name}.conv2"] = (3, 3, s * n_out, s * n_out)
    for head in ("amplitude", "phase"):
        expected[f"{head}.last"] = (3, 3, 32 * s, C)
    assert convolution_shapes(config) == expected


def test_data_flow_order() -> None:
    names = list(convolution_shapes(ModelConfig()))
    assert names[:2] == ["encoder.0.conv1", "encoder.0.conv2"]
    assert names.index("encoder.2.conv2") < names.index("amplitude.0.conv1") < names.index("amplitude.last")
    assert names.index("amplitude.outer.last") < names.index("phase.0.conv1")


@pytest.mark.parametrize("N, outer", [(64, 64), (128, 32), (256, 16)])
def test_probe_big_feeds_the_border_from_the_last_four_channels(N: int, outer: int) -> None:
    config = ModelConfig(N=N, gridsize=2, n_filters_scale=2, probe_big=True)
    shapes = convolution_shapes(config)
    for head in ("amplitude", "phase"):
        assert shapes[f"{head}.last"] == (3, 3, 60, 4)
        assert shapes[f"{head}.outer.conv1"] == (3, 3, 4, outer)
        assert shapes[f"{head}.outer.conv2"] == (3, 3, outer, outer)
        assert shapes[f"{head}.outer.last"] == (3, 3, outer, 4)


@pytest.mark.parametrize("object_big, n_out", [(True, 4), (False, 1)])
def test_output_channels(object_big: bool, n_out: int) -> None:
    shapes = weight_shapes(ModelConfig(gridsize=2, object_big=object_big), 3)
    assert shapes["phase.last.bias"] == shapes["amplitude.outer.last.bias"] == (n_out,)
    assert shapes["encoder.0.conv1.kernel"][2] == 4
    assert shapes["probe.real"] == shapes["probe.imag"] == (3, 64, 64) and shapes["log_intensity_scale"] == ()
    assert list(shapes)[-3:] == ["probe.real", "probe.imag", "log_intensity_scale"]


def test_initial_weights_have_the_promised_names_shapes_and_dtype() -> None:
    config = ModelConfig(gridsize=2)
    weights = initial_weights(config, probe(2), 0)
    assert {name: array.shape for name, array in weights.items()} == weight_shapes(config, 2)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert all(not weights[name].any() for name in weights if name.endswith(".bias"))


def test_kernels_are_glorot_uniform() -> None:
    """Bounds and variance of Glorot & Bengio's eq. 16; a uniform variable on (-a, a) has the variance a**2/3."""
    weights = initial_weights(ModelConfig(), probe(), 4)
    for name, n_in, n_out in [("encoder.0.conv1", 1, 64), ("encoder.2.conv2", 256, 256), ("phase.last", 60, 1)]:
        kernel = weights[f"{name}.kernel"].astype(np.float64)
        limit = np.sqrt(6 / (9 * n_in + 9 * n_out))
        tolerance = 4 / np.sqrt(kernel.size)
        assert 0.97 * limit < abs(kernel).max() <= limit * (1 + 1e-6)
        assert kernel.var() == pytest.approx(limit**2 / 3, rel=tolerance)
        assert abs(kernel.mean()) < tolerance * limit


def test_the_seed_decides_the_kernels_and_nothing_else() -> None:
    config = ModelConfig(n_filters_scale=1)
    first, again, other = (initial_weights(config, probe(), seed) for seed in (1, 1, 2))
    assert weights_sha256(first) == weights_sha256(again) != weights_sha256(other)
    for name in first:
        assert np.array_equal(first[name], other[name]) == (not name.endswith(".kernel"))
    kernels = [first[name].ravel()[:9] for name in first if name.endswith(".kernel")]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


@pytest.mark.parametrize("modes", [1, 2])
def test_the_probe_is_normalised_and_its_scale_of_no_importance(modes: int) -> None:
    config = ModelConfig(probe_scale=2.0, n_filters_scale=1)
    weights = initial_weights(config, 5e3 * probe(modes), 0)
    found = probe_of(weights)
    assert (probe_mask(64) * np.sqrt((abs(found) ** 2).sum(axis=0))).mean() == pytest.approx(1 / 2.0, rel=1e-5)
    np.testing.assert_allclose(found / found[0, 0, 0], probe(modes) / probe(modes)[0, 0, 0], rtol=1e-4)
    again = initial_weights(config, probe(modes), 0)
    for name in weights:
        np.testing.assert_allclose(again[name], weights[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("masked", [False, True])
def test_an_object_of_half_amplitude_explains_the_data_at_the_start(masked: bool) -> None:
    """Headroom of two below a sigmoid's ceiling, with the probe that the model uses."""
    weights = initial_weights(ModelConfig(n_filters_scale=1, probe_mask=masked), probe(2), 0)
    scale = np.exp(weights["log_intensity_scale"])
    used = probe_of(weights) * (probe_mask(64) if masked else 1)
    energy = ((scale * diffraction_amplitudes(used, np.full((1, 64, 64), 0.5))) ** 2).sum()
    assert energy == pytest.approx(32.0**2, rel=1e-4)


def test_scan_units_undo_the_normalisation() -> None:
    """The scan's probe comes back, and probe times object predicts the same amplitudes as in the network's units."""
    scan_probe = 300 * probe(2)
    weights = initial_weights(ModelConfig(n_filters_scale=1), scan_probe, 0)
    weights["log_intensity_scale"] = np.asarray(-1.3, np.float32)
    factor, found = scan_units(weights, scan_probe)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, scan_probe, rtol=1e-4, atol=1e-3)
    patch = probe()
    in_network = np.exp(-1.3) * diffraction_amplitudes(probe_of(weights), patch)
    np.testing.assert_allclose(diffraction_amplitudes(found, factor * patch), in_network, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("probe_trainable", [False, True])
@pytest.mark.parametrize("intensity_scale_trainable", [False, True])
def test_what_the_optimiser_moves(probe_trainable: bool, intensity_scale_trainable: bool) -> None:
    config = TrainingConfig(probe_trainable=probe_trainable, intensity_scale_trainable=intensity_scale_trainable)
    names = list(weight_shapes(config.model, 1))
    frozen = [] if probe_trainable else ["probe.real", "probe.imag"]
    frozen += [] if intensity_scale_trainable else ["log_intensity_scale"]
    assert trainable_names(config, names) == [name for name in names if name not in frozen]


def test_the_digest_sees_every_number_name_shape_and_dtype_but_not_the_order() -> None:
    weights = {"a": np.arange(6, dtype=np.float32), "b": np.zeros((), np.float32)}
    digest = weights_sha256(weights)
    assert weights_sha256(dict(reversed(weights.items()))) == digest
    assert weights_sha256({**weights, "a": weights["a"].astype(">f4")}) == digest
    nudged = weights["a"].copy()
    nudged[3] = np.nextafter(nudged[3], np.float32(9))
    changes: list[Any] = [
        {**weights, "a": nudged},
        {**weights, "a": weights["a"].reshape(2, 3)},
        {**weights, "a": weights["a"].astype(np.float64)},
        {"A": weights["a"], "b": weights["b"]},
        {"a": weights["a"]},
    ]
    assert len({digest, *map(weights_sha256, changes)}) == 1 + len(changes)


def test_a_wider_network_keeps_its_depth() -> None:
    config = ModelConfig()
    assert list(convolution_shapes(config)) == list(convolution_shapes(replace(config, n_filters_scale=5)))
