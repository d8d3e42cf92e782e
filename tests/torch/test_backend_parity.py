"""Two backends, one network: each computes in its own process, and the arrays are compared here.

The yardsticks are the other backend, the NumPy referee (`ptyint.physics` and :func:`referee_network` below, written
from the description of the network), and a hand-written Adam.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import backend_arrays
import numpy as np
import pytest
from backend_arrays import ADAM, ADAM_RATES, CASES, PRECISIONS, TRAINING

from ptyint import physics
from ptyint.batches import GroupedScan
from ptyint.bundle import load_bundle
from ptyint.config import ModelConfig
from ptyint.fixtures import load_fixture
from ptyint.weights import convolution_shapes, weight_shapes

BACKENDS = ("tensorflow", "pytorch")
FORWARD = {"float32": 2e-5, "float64": 1e-11}
GRADIENT = {"float32": 1e-3, "float64": 1e-9}
TRACED = [name for name, case in CASES.items() if not case.kept]
NEAR_GAUGE = "phase.last"
"""The layer whose bias is the global phase where one patch is predicted for the whole group."""


def compute(*arguments: str) -> None:
    script = Path(__file__).with_name("backend_arrays.py")
    one_thread = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}  # small arrays; also quick on a busy machine
    command, env = [sys.executable, str(script), *arguments], {**os.environ, **one_thread}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, f"{' '.join(arguments)}:\n{run.stderr[-4000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where both backends wrote their arrays, one process after the other; emptied afterwards."""
    where = tmp_path_factory.mktemp("parity")
    for backend in BACKENDS:
        compute(backend, str(where))
    yield where
    for file in where.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    with np.load(folder / "tensorflow.npz") as tensorflow, np.load(folder / "pytorch.npz") as pytorch:
        yield {"tensorflow": tensorflow, "pytorch": pytorch}


def taps(arrays: Mapping[str, Any], backend: str, case: str, precision: str) -> dict[str, Any]:
    prefix = f"trace/{case}/{precision}/"
    return {key[len(prefix) :]: arrays[backend][key] for key in arrays[backend] if key.startswith(prefix)}


def difference(candidate: Any, reference: Any) -> float:
    """Relative Frobenius norm of the difference, in double precision."""
    candidate, reference = (np.asarray(a, np.complex128) for a in (candidate, reference))
    assert candidate.shape == reference.shape and np.isfinite(candidate).all()
    norm = np.linalg.norm(reference)
    assert norm > 0
    return float(np.linalg.norm(candidate - reference) / norm)


# --- the processes ---


def test_each_process_loaded_one_framework(arrays: Any) -> None:
    assert arrays["tensorflow"]["frameworks"].tolist() == ["tensorflow"]
    assert arrays["pytorch"]["frameworks"].tolist() == ["torch"]


@pytest.mark.parametrize("backend, module", [("tensorflow", "tensorflow"), ("pytorch", "torch")])
def test_describe_tells_version_device_threads_and_determinism(backend: str, module: str, arrays: Any) -> None:
    from importlib.metadata import version

    found = json.loads(str(arrays[backend]["describe"]))
    assert found["backend"] == backend and version(module) in found["version"]
    assert isinstance(found["device"], str) and found["threads"] >= 1 and isinstance(found["deterministic"], bool)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_were_given_the_same_numbers(case: str, precision: str, arrays: Any) -> None:
    given = [str(arrays[backend][f"given/{case}/{precision}"]) for backend in BACKENDS]
    assert given[0] == given[1]


# --- one backend against the other ---


@pytest.mark.parametrize("case", TRACED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_taps_in_the_same_order(case: str, precision: str, arrays: Any) -> None:
    config = CASES[case].config.model
    left, right = (taps(arrays, backend, case, precision) for backend in BACKENDS)
    assert list(left) == list(right)
    for name in left:
        assert (left[name].dtype, left[name].shape) == (right[name].dtype, right[name].shape), name
        assert left[name].dtype in (np.dtype(precision), np.result_type(precision, np.complex64)), name
    convolutions = list(convolution_shapes(config))
    assert [name for name in left if name in convolutions] == convolutions
    gradients = {f"gradient/{name}": shape for name, shape in weight_shapes(config, CASES[case].modes).items()}
    for name, shape in gradients.items():
        assert left[name].shape == shape
    groups = ["patches_before_merge", "region"] if config.gridsize == 2 else []
    rest = ["amplitude", "phase", *groups, "object_patches", "exit_wave", "far_field", "diffraction_amplitudes", "loss"]
    assert [name for name in left if name not in convolutions] == [*rest, "gradient/inputs", *gradients]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_forward_parity(case: str, precision: str, arrays: Any) -> None:
    left, right = (taps(arrays, backend, case, precision) for backend in BACKENDS)
    found = {name: difference(left[name], right[name]) for name in left if not name.startswith("gradient/")}
    assert {"object_patches", "diffraction_amplitudes", "loss"} <= set(found)
    assert {name: value for name, value in found.items() if value > FORWARD[precision]} == {}


@pytest.mark.parametrize("case", TRACED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradient_parity_of_every_parameter(case: str, precision: str, arrays: Any) -> None:
    """Each parameter on its own scale, but for one: where one patch is predicted for the whole group, the bias of the
    last phase layer turns the patch's global phase, to which a diffraction pattern is blind. Its gradient is a sum of
    64 x 64 terms that cancel (but for the border's share), so that rounding is large beside it: single precision
    differs from double by up to 1e-2 in *either* backend. In single precision it is measured on the scale of its
    layer (kernel and bias); in double precision on its own, like all the others.
    """
    left, right = (taps(arrays, backend, case, precision) for backend in BACKENDS)
    config = CASES[case].config.model
    one_patch = config.gridsize == 1 or not config.object_big
    names = [name for name in left if name.startswith("gradient/")]
    assert len(names) == 1 + len(weight_shapes(config, 1))
    found = {}
    for name in names:
        if precision == "float32" and one_patch and name == f"gradient/{NEAR_GAUGE}.bias":
            layer = [
                np.concatenate([side[f"gradient/{NEAR_GAUGE}.{part}"].ravel() for part in ("kernel", "bias")])
                for side in (left, right)
            ]
            found[name] = difference(*layer)
            error = np.abs(left[name] - right[name]).max() / np.linalg.norm(layer[1].astype(np.float64))
            found[f"{name} in its layer"] = float(error)
        else:
            found[name] = difference(left[name], right[name])
    assert {name: value for name, value in found.items() if value > GRADIENT[precision]} == {}


def test_the_cases_differ(arrays: Any) -> None:
    """No two cases compute the same thing: every option has an effect."""
    losses = [float(arrays["pytorch"][f"trace/{case}/float64/loss"]) for case in CASES]
    assert len({round(loss, 6) for loss in losses}) == len(CASES)


# --- each backend against the referee ---


def expected_operators() -> dict[str, Any]:
    given = backend_arrays.operands()
    found: dict[str, Any] = {"probe_mask": physics.probe_mask(64), "probe_mask 128": physics.probe_mask(128)}
    for size, n_canvas in (("small", 76), ("large", 126), ("whole", 82)):
        found[f"merge {size}"] = physics.merge_patches(given["patches"], given[f"{size} offsets"], n_canvas)
    for size in ("small", "whole", "far"):
        found[f"cut {size}"] = physics.cut_patches(given["region"], given[f"{size} offsets"], 64)
    found["illuminate"] = physics.illuminate(given["probe"], given["patches"])
    found["propagate"] = physics.propagate(given["wave"])
    found["nll"] = physics.poisson_nll(given["counts"], given["expected"], given["good"])
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_operators_agree_with_the_referee(backend: str, arrays: Any) -> None:
    expected = expected_operators()
    assert {key.split("/")[1] for key in arrays[backend] if key.startswith("operator/")} == set(expected)
    found = {name: difference(arrays[backend][f"operator/{name}"], value) for name, value in expected.items()}
    assert {name: value for name, value in found.items() if value > 1e-12} == {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", TRACED)
def test_the_traced_physics_agrees_with_the_referee(backend: str, case: str, arrays: Any) -> None:
    """From the predicted patches to the loss, each step from the backend's own tap before it."""
    model = CASES[case].config.model
    batch, weights, good = backend_arrays.inputs_of(CASES[case], "float64")
    tap = taps(arrays, backend, case, "float64")
    steps = {}
    if model.gridsize == 2:
        before, region = tap["patches_before_merge"], tap["region"]
        steps["patches_before_merge"] = difference(before, tap["amplitude"] * np.exp(1j * tap["phase"]))
        if model.object_big:
            merged = physics.merge_patches(before, batch.offsets_px, batch.n_canvas)
        else:
            margin = (batch.n_canvas - 64) // 2
            merged = np.pad(before[:, 0], [(0, 0), (margin, margin), (margin, margin)])
        steps["region"] = difference(region, merged)
        patches = physics.cut_patches(region, batch.offsets_px, 64)
    else:
        patches = tap["amplitude"] * np.exp(1j * tap["phase"])
    steps["object_patches"] = difference(tap["object_patches"], patches)
    probe = weights["probe.real"].astype(np.float64) + 1j * weights["probe.imag"]
    if model.probe_mask:
        probe = probe * physics.probe_mask(64)
    steps["exit_wave"] = difference(tap["exit_wave"], physics.illuminate(probe, tap["object_patches"]))
    steps["far_field"] = difference(tap["far_field"], physics.propagate(tap["exit_wave"]))
    scale = np.exp(np.float64(weights["log_intensity_scale"]))
    amplitudes = scale * np.sqrt((abs(tap["far_field"]) ** 2).sum(axis=2))
    steps["diffraction_amplitudes"] = difference(tap["diffraction_amplitudes"], amplitudes)
    expected = batch.count_scale * tap["diffraction_amplitudes"] ** 2
    steps["loss"] = difference(tap["loss"], physics.poisson_nll(batch.counts, expected, good))
    assert {name: value for name, value in steps.items() if value > 1e-11} == {}


def convolve(x: Any, weights: Mapping[str, Any], name: str) -> Any:
    """3 x 3 cross-correlation of (B, C, H, W), zero-padded."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), (3, 3), (2, 3))
    y = np.einsum("bihwkl,klio->bohw", windows, weights[f"{name}.kernel"], optimize=True)
    return y + weights[f"{name}.bias"][:, None, None]


def referee_network(weights: Mapping[str, Any], inputs: Any, config: ModelConfig) -> tuple[Any, Any]:
    """Amplitude and phase patches (B, C or 1, N, N) by the description of the network, for N = 64."""

    def block(prefix: str, x: Any) -> Any:
        for layer in ("conv1", "conv2"):
            x = np.maximum(convolve(x, weights, f"{prefix}.{layer}"), 0)
        return x

    def upsample(x: Any) -> Any:
        return x.repeat(2, axis=2).repeat(2, axis=3)

    def silu(x: Any) -> Any:
        return x / (1 + np.exp(-x))

    heads = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "swish": silu,
        "softplus": lambda x: np.log(1 + np.exp(x)),
        "relu": lambda x: np.maximum(x, 0),
    }
    x = inputs
    for prefix in ("encoder.0", "encoder.1", "encoder.2"):
        x = block(prefix, x)
        x = np.max([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
    border = np.ones((64, 64))
    border[16:48, 16:48] = 0
    patches = []
    for head, act in (("amplitude", heads[config.amp_activation]), ("phase", lambda x: np.pi * np.tanh(x))):
        h = upsample(block(f"{head}.1", upsample(block(f"{head}.0", x))))
        inner = h[:, :-4] if config.probe_big else h
        patch = np.pad(act(convolve(inner, weights, f"{head}.last")), [(0, 0), (0, 0), (16, 16), (16, 16)])
        if config.probe_big:
            outer = upsample(block(f"{head}.outer", h[:, -4:]))
            patch = patch + border * silu(convolve(outer, weights, f"{head}.outer.last"))
        patches.append(patch)
    return patches[0], patches[1]


def referee_loss(weights: Mapping[str, Any], batch: Any, config: ModelConfig, good: Any) -> float:
    amplitude, phase = referee_network(weights, batch.inputs, config)
    patches = amplitude * np.exp(1j * phase)
    if config.gridsize == 2:
        if config.object_big:
            region = physics.merge_patches(patches, batch.offsets_px, batch.n_canvas)
        else:
            region = physics.translate(patches[:, 0], [0.0, 0.0], batch.n_canvas)
        patches = physics.cut_patches(region, batch.offsets_px, 64)
    probe = weights["probe.real"] + 1j * weights["probe.imag"]
    if config.probe_mask:
        probe = probe * physics.probe_mask(64)
    intensity = (abs(physics.propagate(physics.illuminate(probe, patches))) ** 2).sum(axis=2)
    expected = batch.count_scale * np.exp(2 * weights["log_intensity_scale"]) * intensity
    return physics.poisson_nll(batch.counts, expected, good)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", TRACED)
def test_the_network_is_the_described_one(backend: str, case: str, arrays: Any) -> None:
    batch, weights, _ = backend_arrays.inputs_of(CASES[case], "float64")
    amplitude, phase = referee_network(weights, batch.inputs, CASES[case].config.model)
    tap = taps(arrays, backend, case, "float64")
    assert difference(tap["amplitude"], amplitude) < 1e-11
    assert difference(tap["phase"], phase) < 1e-11


@pytest.mark.parametrize("case", ["gridsize-2", "swish-masked-no-border", "relu-two-modes-bad-pixels"])
def test_gradients_are_the_slope_of_the_referees_loss(case: str, arrays: Any) -> None:
    """Central differences of the NumPy loss along a random direction through all parameters of a kind.

    Fresh weights would not do: with zero biases, pixels without counts sit exactly in the kink of a ReLU.
    """
    batch, weights, good = backend_arrays.inputs_of(CASES[case], "float64")
    config = CASES[case].config.model
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    tap = {backend: taps(arrays, backend, case, "float64") for backend in BACKENDS}
    rng, step = np.random.default_rng(7), 2e-7
    kinds = {name: name.rpartition(".")[2] if name.endswith((".kernel", ".bias")) else "physics" for name in weights}
    for kind in sorted(set(kinds.values())):
        names = [name for name in weights if kinds[name] == kind]
        direction = {name: rng.normal(size=weights[name].shape) * (np.std(weights[name]) or 0.1) for name in names}
        loss = []
        for sign in (1, -1):
            moved = {name: a + sign * step * direction.get(name, 0.0) for name, a in weights.items()}
            loss.append(referee_loss(moved, batch, config, good))
        slope = (loss[0] - loss[1]) / (2 * step)
        for backend in BACKENDS:
            terms = [(tap[backend][f"gradient/{name}"] * d).sum() for name, d in direction.items()]
            # a few ReLUs change sides within the step; rounding of the loss, divided by the step
            tolerance = 1e-3 * float(np.linalg.norm(terms)) + 1e-4
            assert sum(terms) == pytest.approx(slope, abs=tolerance), (kind, backend)


# --- the optimiser ---


def stage(arrays: Any, backend: str, name: str, step: int) -> dict[str, Any]:
    prefix = f"adam/{name}/{step}/"
    return {key[len(prefix) :]: arrays[backend][key] for key in arrays[backend] if key.startswith(prefix)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ADAM)
def test_adam_is_that_of_kingma_and_ba(backend: str, name: str, arrays: Any) -> None:
    """Weights after 1, 2 and 3 steps of changing rate, from the gradients that the backend itself traced."""
    config = ADAM[name]
    b1, b2, epsilon = config.adam_beta1, config.adam_beta2, config.adam_epsilon
    start = stage(arrays, backend, name, 0)
    moving = [key.removeprefix("gradient/") for key in start if key.startswith("gradient/") and "inputs" not in key]
    w = {key: start[key] for key in weight_shapes(config.model, 1)}
    assert {array.dtype for array in w.values()} == {np.dtype(np.float64)}
    m, v = ({key: np.zeros_like(w[key]) for key in moving} for _ in range(2))
    for t, rate in enumerate(ADAM_RATES, 1):
        g = stage(arrays, backend, name, t - 1)
        found = stage(arrays, backend, name, t)
        for key in moving:
            gradient = g[f"gradient/{key}"]
            m[key] = b1 * m[key] + (1 - b1) * gradient
            v[key] = b2 * v[key] + (1 - b2) * gradient**2
            w[key] = w[key] - rate * (m[key] / (1 - b1**t)) / (np.sqrt(v[key] / (1 - b2**t)) + epsilon)
            # the accumulated move, not the weight, sets the scale
            np.testing.assert_allclose(found[key], w[key], rtol=1e-13, atol=1e-9 * rate, err_msg=f"{key} step {t}")
            w[key] = found[key]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ADAM)
def test_what_is_trainable_moves_and_what_is_not_stays(backend: str, name: str, arrays: Any) -> None:
    before, after = stage(arrays, backend, name, 0), stage(arrays, backend, name, 3)
    frozen = {"all move": set(), "probe and scale stay": {"probe.real", "probe.imag", "log_intensity_scale"}}[name]
    names = set(weight_shapes(ADAM[name].model, 1))
    assert {key for key in names if np.array_equal(before[key], after[key])} == frozen
    assert {f"gradient/{key}" for key in names - frozen} == {key for key in before if "gradient/" in key} - {
        "gradient/inputs"
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ADAM)
def test_the_compiled_step_returns_the_loss_before_it(backend: str, name: str, arrays: Any) -> None:
    """Also on the partial last batch: the trace runs eagerly, the step compiled, where the backend compiles."""
    losses = [stage(arrays, backend, name, step) for step in range(3)]
    for before in losses:
        assert difference(before["loss"], before["traced loss"]) < 1e-11
    assert len({float(before["loss"]) for before in losses}) == 3


@pytest.mark.parametrize("name", ADAM)
def test_both_take_the_same_first_step(name: str, arrays: Any) -> None:
    """Adam divides by |gradient| + epsilon, so a gradient's relative error of 1e-9 is one of the step."""
    before, left, right = (stage(arrays, b, name, s) for b, s in (("pytorch", 0), ("tensorflow", 1), ("pytorch", 1)))
    for key in weight_shapes(ADAM[name].model, 1):
        if not np.array_equal(before[key], right[key]):
            assert difference(left[key] - before[key], right[key] - before[key]) < 1e-7, key


# --- train, save, load, infer ---

TRAINED = [(backend, gridsize) for backend in BACKENDS for gridsize in TRAINING]


def test_the_training_step_is_compiled_in_tensorflow(arrays: Any) -> None:
    """Python runs the forward pass of 2 trainings x 6 epochs x 4 steps only to trace it, once a batch shape."""
    assert arrays["pytorch"]["forward calls"] == 48
    assert arrays["tensorflow"]["forward calls"] <= 8


@pytest.mark.parametrize("backend, gridsize", TRAINED)
def test_the_loss_falls_on_the_tiny_fixture(backend: str, gridsize: int, arrays: Any) -> None:
    """Towards the loss of a model that predicts every count exactly, below which no model gets."""
    data = GroupedScan.from_config(load_fixture("tiny-64"), TRAINING[gridsize])
    counts = data.batch(np.arange(16), "float64").counts
    perfect = physics.poisson_nll(counts, np.maximum(counts - 0.01, 0))
    losses = arrays[backend][f"train/{gridsize}/losses"]
    assert losses.shape == (TRAINING[gridsize].nepochs,) and (losses > perfect).all()
    assert losses[-1] - perfect < 0.95 * (losses[0] - perfect)


@pytest.mark.parametrize("gridsize", TRAINING)
def test_both_losses_start_alike(gridsize: int, arrays: Any) -> None:
    """The first epoch is 4 steps long; thereafter rounding has been amplified."""
    left, right = (arrays[backend][f"train/{gridsize}/losses"] for backend in BACKENDS)
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    assert left == pytest.approx(right, rel=1e-2)


@pytest.mark.parametrize("backend, gridsize", TRAINED)
def test_results_carry_the_backend_that_ran(backend: str, gridsize: int, arrays: Any) -> None:
    assert arrays[backend][f"train/{gridsize}/backends"].tolist() == [backend] * 3


@pytest.mark.parametrize("backend, gridsize", TRAINED)
def test_patches_do_not_depend_on_the_batches(backend: str, gridsize: int, arrays: Any) -> None:
    one_by_one, at_once = (arrays[backend][f"train/{gridsize}/patches, {how}"] for how in ("one by one", "at once"))
    assert one_by_one.shape == (16, gridsize**2, 64, 64) and one_by_one.dtype == np.complex64
    for i in range(16):
        assert difference(at_once[i], one_by_one[i]) < 2e-5
    assert difference(at_once[::-1], one_by_one) > 1e-4


@pytest.mark.parametrize("backend, gridsize", TRAINED)
def test_patches_are_stitched_into_the_object(backend: str, gridsize: int, arrays: Any) -> None:
    scan, stitched = load_fixture("tiny-64"), arrays[backend][f"train/{gridsize}/stitched"]
    assert scan.object_ is not None and stitched.shape == scan.object_.shape
    centres = scan.probe_positions_px.round().astype(int)
    assert np.isfinite(stitched).all() and (stitched[centres[:, 0], centres[:, 1]] != 0).all()
    assert stitched[0, 0] == 0  # no patch's centre reaches the corner


@pytest.mark.parametrize("backend, gridsize", TRAINED)
def test_the_bundle_holds_the_trained_weights_exactly(backend: str, gridsize: int, folder: Path, arrays: Any) -> None:
    bundle = load_bundle(folder / f"{backend}-{gridsize}.zip", TRAINING[gridsize].model)
    assert bundle.manifest["backend"] == bundle.config.backend == backend
    for name, array in bundle.weights.items():
        np.testing.assert_array_equal(array, arrays[backend][f"train/{gridsize}/trained/{name}"], strict=True)


@pytest.mark.parametrize("trained, runs", [("tensorflow", "pytorch"), ("pytorch", "tensorflow")])
def test_trained_by_one_loads_and_runs_in_the_other(trained: str, runs: str, folder: Path, arrays: Any) -> None:
    """In a new process, from the file alone."""
    compute(runs, str(folder), trained)
    with np.load(folder / f"{runs}-from-{trained}.npz") as other:
        for gridsize in TRAINING:
            patches = other[str(gridsize)]
            assert difference(patches, arrays[trained][f"train/{gridsize}/patches"]) < 2e-5
            # and it is the other's model that ran, not its own: rounding has led the two trainings apart
            assert difference(patches, arrays[runs][f"train/{gridsize}/patches"]) > 1e-4
