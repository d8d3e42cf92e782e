"""The reference as a backend: its gradients against finite differences, and that it is a backend like others."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from ptyint import backends, dispatcher
from ptyint.backends import numpy_adjoints, numpy_network
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ConfigError
from ptyint.parity import configurations
from ptyint.parity.configurations import Case, Data, inputs_of
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

BACKEND: Any = backends.load("numpy")
CASES = {
    "gridsize 2": configurations.CASES["gridsize 2"],
    "softplus, one patch": Case({"gridsize": 2, "object_big": False, "amp_activation": "softplus"}),
    "relu, two modes, bad pixels": Case(
        {"gridsize": 2, "amp_activation": "relu", "probe_mask": True}, Data(modes=2, bad_pixels=True)
    ),
    "swish, mask, no border": Case({"amp_activation": "swish", "probe_mask": True, "probe_big": False}),
}
TAPS = (
    "inputs", "encoder.0.conv1", "encoder.0.conv1.relu", "encoder.1.down", "amplitude.0.up", "amplitude.last",
    "amplitude.head", "amplitude.outer.up", "phase.outer.last", "amplitude", "phase", "patches_before_merge", "region",
    "object_patches", "probe", "exit_wave", "far_field", "expected_intensity", "expected_counts",
)  # fmt: skip
STEP = 1e-6
OF_COUNTS = ("expected_intensity", "expected_counts")
"""The loss has their logarithm, and they span many decades: a step is a small part of each value, not of their mean."""


@cache
def given(case: str) -> Any:
    """Network, batch of one group, its weights and good pixels."""
    batch, weights, good = inputs_of(CASES[case], "float64")
    return BACKEND.build(CASES[case].config, weights, good), batch, weights, good


@cache
def traced(case: str) -> dict[str, Any]:
    network, batch, _, _ = given(case)
    arrays: dict[str, Any] = network.trace(batch)
    return arrays


def along(gradient: Any, direction: Any) -> float:
    """Derivative of a real function along `direction`, given its gradient ``dL/d(real) + i dL/d(imag)``."""
    return float((np.conj(gradient) * direction).sum().real)


def elsewhere(value: Any) -> Any:
    """A direction in which equal values move alike: a kink stays where it is (dark regions are full of ties)."""
    if np.iscomplexobj(value):
        return elsewhere(value.real) + 1j * elsewhere(value.imag)
    scale = np.abs(value).mean()
    return scale * np.sin(5 * value / scale + 1)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_every_weight_is_the_slope_of_the_loss(case: str) -> None:
    _, batch, weights, good = given(case)
    for kind, direction in numpy_network.directions(weights).items():
        slopes = numpy_network.slopes(weights, direction, batch, CASES[case].config.model, good)
        by_hand = sum(along(traced(case)[f"gradient/{name}"], move) for name, move in direction.items())
        assert np.abs(slopes / by_hand - 1).min() < 1e-3, kind


@pytest.mark.parametrize("case", list(CASES)[1:])
def test_the_gradient_of_a_tap_of_each_kind_is_the_slope_of_the_loss(case: str) -> None:
    """Each is moved alone, by injection; its gradient must tell what the loss does."""
    _, batch, weights, good = given(case)
    config = CASES[case].config.model

    def loss(tap: str, value: Any) -> float:
        layers = numpy_network.Layers(weights, config, numpy_adjoints.Recorder({tap: value}))
        return float(layers.loss(layers.object_patches(batch), batch, good).value)

    taps = [tap for tap in TAPS if tap in traced(case)]
    assert len(taps) >= 15
    rounding = 10 * np.finfo(float).eps * abs(float(traced(case)["loss"])) / STEP
    for tap in taps:
        value = traced(case)[tap]
        move = elsewhere(value) * (value / np.abs(value).mean() if tap in OF_COUNTS else 1)
        slope = (loss(tap, value + STEP * move) - loss(tap, value - STEP * move)) / (2 * STEP)
        assert along(traced(case)[f"gradient/{tap}"], move) == pytest.approx(slope, rel=5e-3, abs=rounding), tap


def test_ties_are_decided_as_the_frameworks_do() -> None:
    """Of equal largest values the first, row by row; ReLU at 0 has no slope."""
    x = numpy_adjoints.Node(np.array([[[[2.0, 2.0], [2.0, 1.0]]]]))
    loss = numpy_adjoints.downsample(x)
    loss.backward()
    np.testing.assert_array_equal(x.gradient, [[[[1.0, 0.0], [0.0, 0.0]]]])
    y = numpy_adjoints.Node(np.array([-1.0, 0.0, 3.0]))
    numpy_adjoints.activate("relu", y).backward()
    np.testing.assert_array_equal(y.gradient, [0.0, 0.0, 1.0])


def test_injection_goes_on_with_what_is_given_and_records_what_was_computed() -> None:
    network, batch, _, _ = given("gridsize 2")
    plain = traced("gridsize 2")
    moved = {"region": 2 * plain["region"], "gradient/far_field": 0 * plain["far_field"]}
    arrays = network.trace(batch, moved)
    np.testing.assert_array_equal(arrays["region"], plain["region"])
    np.testing.assert_allclose(arrays["object_patches"], 2 * plain["object_patches"], rtol=1e-12)
    assert np.any(arrays["gradient/far_field"]) and not np.any(arrays["gradient/exit_wave"])
    same = network.trace(batch, plain)
    assert same.keys() == plain.keys()
    for name, array in plain.items():
        np.testing.assert_allclose(same[name], array, rtol=1e-9, atol=1e-12 * np.abs(array).max(), err_msg=name)


def test_only_what_is_trainable_moves() -> None:
    case = configurations.CASES["gridsize 1"]
    batch, weights, good = inputs_of(case, "float64")
    config = TrainingConfig(case.config.model, probe_trainable=False, intensity_scale_trainable=False)
    network = BACKEND.build(config, weights, good)
    network.train_step(batch, 1e-3)
    moved = {name for name, array in network.get_weights().items() if not np.array_equal(array, weights[name])}
    assert moved == {name for name in weights if name.endswith((".kernel", ".bias"))}
    assert "gradient/probe.real" not in network.trace(batch) and "gradient/probe" in network.trace(batch)


def test_it_trains_and_infers_through_the_dispatcher() -> None:
    model = ModelConfig(n_filters_scale=1)
    scan, config = load_fixture("tiny-64"), TrainingConfig(model, nepochs=2, n_groups=4, batch_size=4, backend="numpy")
    trained = dispatcher.train(scan, config)
    assert trained.backend == "numpy" and trained.history.losses[1] < trained.history.losses[0]
    assert {array.dtype for array in trained.weights.values()} == {np.dtype(np.float32)}
    patches = BACKEND.infer(GroupedScan.from_config(scan, config), trained.weights, config.applied())
    assert patches.dtype == np.complex64 and np.isfinite(patches).all()


def test_single_precision_is_refused() -> None:
    _, _, weights, _ = given("gridsize 2")
    for refused in (
        lambda: BACKEND.build(TrainingConfig(), weights, None, "float32"),
        lambda: BACKEND.operators("float32"),
    ):
        with pytest.raises(ConfigError, match=r"precision is 'float32'; backend 'numpy' computes in \('float64',\)"):
            refused()
