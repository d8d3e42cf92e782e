"""Everything that one backend computes for the parity tests, in a process of its own.

``python backend_arrays.py BACKEND FOLDER`` writes ``FOLDER/BACKEND.npz`` and the bundle ``FOLDER/BACKEND.zip``;
``python backend_arrays.py BACKEND FOLDER OTHER`` loads the other backend's bundle and writes its object patches to
``FOLDER/BACKEND-from-OTHER.npz``. Whatever both backends must be given alike is made here, in NumPy.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ptyint import backends, simulate
from ptyint.batches import Batch, GroupedScan
from ptyint.bundle import load_bundle, save_bundle
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig
from ptyint.dispatcher import infer, train
from ptyint.fixtures import load_fixture
from ptyint.scan import Scan
from ptyint.weights import Weights, initial_weights, weights_sha256

PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Case:
    """One network on one batch."""

    model: dict[str, Any] = field(default_factory=dict)
    modes: int = 1
    bad_pixels: bool = False
    fresh: bool = False
    """As initialised, that is with zero biases; else they are random, as after some training."""
    patterns: int = 3
    whole: bool = False
    """Positions on a regular grid of 4 px, so that the offsets in a group are whole numbers."""
    kept: tuple[str, ...] = ()
    """Taps to write; all, if empty."""

    @property
    def config(self) -> TrainingConfig:
        return TrainingConfig(model=ModelConfig(**{"n_filters_scale": 1, **self.model}), probe_trainable=True, seed=2)


CASES = {
    "gridsize-1": Case(),
    "gridsize-2": Case({"gridsize": 2}, patterns=2),
    "fresh": Case(fresh=True),
    "whole-pixels": Case({"gridsize": 2}, patterns=2, whole=True),
    "swish-masked-no-border": Case({"amp_activation": "swish", "probe_mask": True, "probe_big": False}),
    "softplus-one-patch": Case({"gridsize": 2, "object_big": False, "amp_activation": "softplus"}, patterns=2),
    "relu-two-modes-bad-pixels": Case(
        {"gridsize": 2, "amp_activation": "relu", "probe_mask": True}, modes=2, bad_pixels=True, patterns=2
    ),
    "N-128": Case({"N": 128}, patterns=1, kept=("object_patches", "diffraction_amplitudes", "loss")),
    "N-256": Case({"N": 256}, patterns=1, kept=("object_patches", "diffraction_amplitudes", "loss")),
}

ADAM_RATES = (1e-3, 5e-4, 2e-3)
ADAM = {
    "all move": TrainingConfig(model=CASES["gridsize-2"].config.model, probe_trainable=True),
    "probe and scale stay": TrainingConfig(
        model=CASES["gridsize-1"].config.model,
        intensity_scale_trainable=False,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-3,
    ),
}

TRAINING = {
    gridsize: TrainingConfig(
        model=ModelConfig(n_filters_scale=1, gridsize=gridsize), nepochs=6, batch_size=5, seed=4, n_groups=16
    )
    for gridsize in (1, 2)
}


def inference(gridsize: int, **settings: Any) -> InferenceConfig:
    return InferenceConfig(**{"model": TRAINING[gridsize].model, "batch_size": 7, "n_groups": 16, **settings})


# --- the same for both: scans, batches, weights, random operands ---


def scan_of(N: int) -> Scan:
    """The tiny fixture, or its like at another N."""
    if N == 64:
        return load_fixture("tiny-64")
    positions, shape = simulate.place(simulate.grid_positions((2, 2), N / 10, jitter_px=1.5, seed=1), N)
    object_ = simulate.dead_leaves_object(shape, seed=2)
    return simulate.simulate_scan(object_, simulate.defocused_probe(N), positions, photons_per_pattern=1e6, seed=3)


def inputs_of(case: Case, precision: str) -> tuple[Batch, Weights, Any]:
    """Batch, weights and good pixels (or None) of a case; made in double precision or exact in single."""
    config = case.config
    scan = scan_of(config.model.N)
    modes = np.concatenate([np.roll(scan.probe, (3 * i, -2 * i), (-2, -1)) / (1 + i) for i in range(case.modes)])
    good = np.random.default_rng(5).random((scan.N, scan.N)) > 0.1 if case.bad_pixels else None
    positions = 4 * np.rint(scan.probe_positions_px / 4) if case.whole else scan.probe_positions_px
    scan = replace(scan, probe=modes, good_pixels=good, probe_positions_px=positions)
    data = GroupedScan.from_config(scan, config)
    weights = initial_weights(config.model, modes, config.seed)
    if not case.fresh:
        weights = with_biases(weights)
    return data.batch(np.arange(3, 3 + case.patterns) % data.groups.n_groups, precision), weights, good


def with_biases(weights: Weights) -> Weights:
    rng = np.random.default_rng(9)
    random = {name: rng.uniform(-0.1, 0.1, array.shape).astype(np.float32) for name, array in weights.items()}
    return {name: random[name] if name.endswith(".bias") else array for name, array in weights.items()}


def operands() -> dict[str, Any]:
    """Random double-precision operands of the operators, offsets of up to half a patch and beyond the region."""
    rng = np.random.default_rng(6)

    def field_(*shape: int) -> Any:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    return {
        "patches": field_(3, 4, 64, 64),
        "small offsets": rng.uniform(-6, 6, (3, 4, 2)),
        "large offsets": rng.uniform(-31, 31, (3, 4, 2)),
        "whole offsets": rng.integers(-9, 10, (3, 4, 2)).astype(np.float64),
        "region": field_(3, 80, 80),
        "far offsets": rng.uniform(-100, 100, (3, 4, 2)),
        "probe": field_(3, 64, 64),
        "wave": field_(2, 4, 3, 64, 64),
        "counts": rng.poisson(7, (3, 4, 64, 64)).astype(np.float64),
        "expected": rng.uniform(0, 14, (3, 4, 64, 64)),
        "good": (rng.random((64, 64)) > 0.2).astype(np.float64),
    }


# --- one backend ---


def operators(name: str, module: Any) -> dict[str, Any]:
    """Each operator of a backend's module on :func:`operands`."""
    if name == "tensorflow":
        import tensorflow as tf

        tensor, like = tf.constant, tf.float64
    else:
        import torch

        tensor, like = torch.from_numpy, torch.zeros((), dtype=torch.float64)
    given = {key: tensor(value) for key, value in operands().items()}
    found = {"probe_mask": module.probe_mask(64, like), "probe_mask 128": module.probe_mask(128, like)}
    for size, n_canvas in (("small", 76), ("large", 126), ("whole", 82)):
        found[f"merge {size}"] = module.merge_patches(given["patches"], given[f"{size} offsets"], n_canvas)
    for size in ("small", "whole", "far"):
        found[f"cut {size}"] = module.cut_patches(given["region"], given[f"{size} offsets"], 64)
    found["illuminate"] = module.illuminate(given["probe"], given["patches"])
    found["propagate"] = module.propagate(given["wave"])
    found["nll"] = module.poisson_nll(given["counts"], given["expected"], given["good"])
    return {key: value.numpy() for key, value in found.items()}


def traces(backend: Any) -> dict[str, Any]:
    """Taps, loss and gradients of each case at each precision."""
    arrays: dict[str, Any] = {}
    for name, case in CASES.items():
        for precision in PRECISIONS:
            batch, weights, good = inputs_of(case, precision)
            taps = backend.trace(batch, weights, case.config, good, precision)
            kept = {tap: array for tap, array in taps.items() if tap in (case.kept or taps)}
            arrays.update({f"trace/{name}/{precision}/{tap}": array for tap, array in kept.items()})
            given = {"inputs": batch.inputs, "counts": batch.counts, "offsets": batch.offsets_px}
            digest = weights_sha256({**weights, **given})
            arrays[f"given/{name}/{precision}"] = np.array(f"{digest} {batch.n_canvas} {batch.count_scale!r}")
    return arrays


def adam_steps(backend: Any) -> dict[str, Any]:
    """Weights before and after each of three steps, and the gradients traced at each; the last batch is partial."""
    arrays: dict[str, Any] = {}
    for name, config in ADAM.items():
        scan = load_fixture("tiny-64")
        data = GroupedScan.from_config(scan, config)
        weights = with_biases(initial_weights(config.model, scan.probe, 1))
        network = backend.build(config, weights, None, "float64")
        for step, batch in enumerate(data.batches(6, np.random.default_rng(0))):
            double = Batch(*(a.astype(np.float64) for a in (batch.inputs, batch.counts, batch.offsets_px)),
                           batch.n_canvas, batch.count_scale)  # fmt: skip
            traced = network.trace(double)
            arrays.update({f"adam/{name}/{step}/{key}": value for key, value in network.get_weights().items()})
            gradients = {key: value for key, value in traced.items() if key.startswith("gradient/")}
            arrays.update({f"adam/{name}/{step}/{key}": value for key, value in gradients.items()})
            arrays[f"adam/{name}/{step}/traced loss"] = traced["loss"]
            arrays[f"adam/{name}/{step}/loss"] = np.array(network.train_step(double, ADAM_RATES[step]))
        arrays.update({f"adam/{name}/{step + 1}/{key}": value for key, value in network.get_weights().items()})
    return arrays


def training(name: str, backend: Any, folder: Path) -> dict[str, Any]:
    """Train, save, load and infer on the tiny fixture, whose 16 groups make a partial last batch of 1."""
    scan, arrays = load_fixture("tiny-64"), {}
    for gridsize, plain in TRAINING.items():
        config = replace(plain, backend=name)
        result = train(scan, config)
        path = save_bundle(folder / f"{name}-{gridsize}.zip", result.weights, config, result.backend)
        loaded = load_bundle(path, config.model)
        found = infer(scan, inference(gridsize, backend=name, model_path=path))
        data = GroupedScan.from_config(scan, inference(gridsize))
        outcome = {
            "losses": result.history.losses,
            "backends": np.array([result.backend, found.backend, loaded.manifest["backend"]]),
            "patches": found.object_patches,
            "patches, one by one": backend.infer(data, loaded.weights, inference(gridsize, batch_size=1)),
            "patches, at once": backend.infer(data, loaded.weights, inference(gridsize, batch_size=16)),
            "stitched": found.stitched.object_,
            **{f"trained/{key}": value for key, value in result.weights.items()},
        }
        arrays.update({f"train/{gridsize}/{key}": value for key, value in outcome.items()})
    return arrays


def count_calls(model: Any) -> list[int]:
    """Make a network class count how often Python runs its forward pass."""
    calls, method = [0], "call" if hasattr(model, "call") else "forward"
    forward = getattr(model, method)

    def counting(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        return forward(*arguments, **keywords)

    setattr(model, method, counting)
    return calls


def run(name: str, folder: Path, other: str | None) -> None:
    backend = backends.load(name)
    if other is not None:
        patches = {}
        for gridsize in TRAINING:
            config = inference(gridsize, backend=name, model_path=folder / f"{other}-{gridsize}.zip")
            result = infer(load_fixture("tiny-64"), config)
            assert result.backend == name
            patches[str(gridsize)] = result.object_patches
        np.savez(folder / f"{name}-from-{other}.npz", **patches)
        return
    module: ModuleType = sys.modules[backends.MODULES[name]]
    arrays = {f"operator/{key}": value for key, value in operators(name, module).items()}
    arrays.update(traces(backend))
    arrays.update(adam_steps(backend))
    calls = count_calls(module.PtychoNet)
    arrays.update(training(name, backend, folder))
    arrays["forward calls"] = np.array(calls[0])
    arrays["describe"] = np.array(json.dumps(backend.describe()))
    arrays["frameworks"] = np.array(sorted({"tensorflow", "torch"} & set(sys.modules)))
    np.savez(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
