"""What every backend is given alike: scans, batches, weights, operands. All of it is made in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.numpy import OPERATORS
from ptyint.backends.weights import Weights, initial_weights
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig
from ptyint.scans import simulate
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.scan import Scan

FIXTURE = "tiny-64"
STEPS = (1, 2, 10, 50)
"""Optimiser steps after which weights are compared."""

DRAWS = {"float32": 4, "float64": 3}
"""Reruns of each backend from initial weights moved by one ulp. In single precision a trajectory jumps, by a factor of
a hundred, where rounding moves one activation over the kink of its ReLU: it takes several to see what is usual."""


@dataclass(frozen=True)
class Case:
    """One network on one batch.

    Attributes
    ----------
    model : dict
        Fields of :class:`ptyint.config.ModelConfig`.
    modes : int
        Of the probe.
    bad_pixels : bool
    fresh : bool
        As initialised, that is with zero biases; else they are random, as after some training.
    patterns : int
        Groups in the batch.
    whole : bool
        Positions on a regular grid of 4 px, so that the offsets in a group are whole numbers.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    modes: int = 1
    bad_pixels: bool = False
    fresh: bool = False
    patterns: int = 2
    whole: bool = False

    @property
    def config(self) -> TrainingConfig:
        """Its configuration; every weight is trainable."""
        return TrainingConfig(model=ModelConfig(**{"n_filters_scale": 1, **self.model}), probe_trainable=True, seed=2)


CASES = {
    "gridsize 1": Case(),
    "gridsize 2": Case({"gridsize": 2}),
    "fresh": Case(fresh=True),
    "swish, mask, no border": Case({"amp_activation": "swish", "probe_mask": True, "probe_big": False}),
    "softplus, one patch": Case({"gridsize": 2, "object_big": False, "amp_activation": "softplus"}),
    "relu, two modes, bad pixels": Case(
        {"gridsize": 2, "amp_activation": "relu", "probe_mask": True}, modes=2, bad_pixels=True
    ),
    "N 64, whole pixels": Case({"gridsize": 2}, whole=True),
    "N 128, gridsize 1": Case({"N": 128}, patterns=1),
    "N 128, gridsize 2": Case({"N": 128, "gridsize": 2}, patterns=1),
}
"""Networks of rungs 2 to 4."""

PROFILES = {
    "quick": tuple(name for name in CASES if not name.startswith("N ")),
    "full": tuple(CASES),
}
"""Profile to its cases."""

TRAINING = {
    gridsize: TrainingConfig(
        model=ModelConfig(n_filters_scale=1, gridsize=gridsize, amp_activation="swish"),
        nepochs=2,
        batch_size=5,
        seed=4,
        n_groups=16,
        scheduler=scheduler,
        lr_warmup_epochs=1,
    )
    for gridsize, scheduler in ((1, "Default"), (2, "WarmupCosine"))
}
"""Short trainings on the tiny fixture, whose 16 groups make a partial last batch of one; nothing about the network is
a default, so a model rebuilt from defaults is another one."""


def trainings(seed: int = 0) -> dict[int, TrainingConfig]:
    """`TRAINING` from other random numbers."""
    return {gridsize: replace(config, seed=config.seed + seed) for gridsize, config in TRAINING.items()}


def stepping(gridsize: int, seed: int = 0) -> TrainingConfig:
    """Configuration of the optimiser steps."""
    return TrainingConfig(model=ModelConfig(n_filters_scale=1, gridsize=gridsize), probe_trainable=True, seed=1 + seed)


def inference(gridsize: int, **settings: Any) -> InferenceConfig:
    """How the models of `TRAINING` are applied."""
    return InferenceConfig(**{"model": TRAINING[gridsize].model, "batch_size": 7, "n_groups": 16, **settings})


def scan_of(N: int) -> Scan:
    """The tiny fixture, or its like at another N."""
    if N == 64:
        return load_fixture(FIXTURE)
    positions, shape = simulate.place(simulate.grid_positions((2, 2), N / 10, jitter_px=1.5, seed=1), N)
    object_ = simulate.dead_leaves_object(shape, seed=2)
    return simulate.simulate_scan(object_, simulate.defocused_probe(N), positions, photons_per_pattern=1e6, seed=3)


def inputs_of(case: Case, precision: str, seed: int = 0) -> tuple[Batch, Weights, NDArray[np.bool_] | None]:
    """Batch, weights and good pixels (or None) of a case; made in double precision or exact in single."""
    config = replace(case.config, seed=case.config.seed + seed)
    scan = scan_of(config.model.N)
    modes = np.concatenate([np.roll(scan.probe, (3 * i, -2 * i), (-2, -1)) / (1 + i) for i in range(case.modes)])
    good = np.random.default_rng(5 + seed).random((scan.N, scan.N)) > 0.1 if case.bad_pixels else None
    positions = 4 * np.rint(scan.probe_positions_px / 4) if case.whole else scan.probe_positions_px
    scan = replace(scan, probe=modes, good_pixels=good, probe_positions_px=positions)
    data = GroupedScan.from_config(scan, config)
    weights = initial_weights(config.model, modes, config.seed)
    if not case.fresh:
        weights = with_biases(weights, 9 + seed)
    return data.batch(np.arange(3, 3 + case.patterns) % data.groups.n_groups, precision), weights, good


def with_biases(weights: Weights, seed: int = 9) -> Weights:
    """`weights` with random biases, as after some training."""
    rng = np.random.default_rng(seed)
    random = {name: rng.uniform(-0.1, 0.1, array.shape).astype(np.float32) for name, array in weights.items()}
    return {name: random[name] if name.endswith(".bias") else array for name, array in weights.items()}


def step_batches(data: GroupedScan, precision: str, n_steps: int, size: int = 1) -> list[Batch]:
    """Batches of `size` groups, in a drawn order, as many as there are steps."""
    rng = np.random.default_rng(3)
    n_groups = data.groups.n_groups
    order = np.concatenate([rng.permutation(n_groups) for _ in range(-(-n_steps * size // n_groups))])
    return [data.batch(order[i * size : (i + 1) * size], precision) for i in range(n_steps)]


def moved_by_one_ulp(weights: Weights, seed: int) -> Weights:
    """Every weight moved to one of its two neighbouring numbers, at random; zeros, which have no scale, stay."""
    rng = np.random.default_rng(seed)
    moved: Weights = {}
    for name, array in weights.items():
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
        moved[name] = np.where(array == 0, array, np.nextafter(array, towards))
    return moved


# --- operands of the operators ---


def operands(seed: int = 0) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Arguments of every operator, in double precision: label to operator and arguments.

    Random values, single impulses (which show where an operator puts what), and the edges of what can come: zero
    counts, offsets of whole and half pixels and beyond the region, saturated activations.
    """
    rng = np.random.default_rng(6 + seed)

    def real(*shape: int) -> NDArray[np.float64]:
        return rng.normal(size=shape)

    def field_(*shape: int) -> NDArray[np.complex128]:
        return real(*shape) + 1j * real(*shape)

    def impulse(*shape: int, at: tuple[int, int]) -> NDArray[np.complex128]:
        array = np.zeros(shape, np.complex128)
        array[..., at[0], at[1]] = 1 + 0.5j
        return array

    wide = np.concatenate(
        [np.linspace(-6, 6, 55), np.linspace(19, 37, 19), [0.0, -0.0, 40.0, -40.0, 1e-6, -1e-6, 0.5, -0.5, 90.0]]
    )
    offsets = {
        "small": rng.uniform(-6, 6, (3, 4, 2)),
        "large": rng.uniform(-31, 31, (3, 4, 2)),
        "whole": rng.integers(-9, 10, (3, 4, 2)).astype(np.float64),
        "half": rng.integers(-9, 9, (3, 4, 2)) + 0.5,
    }
    far = rng.uniform(-100, 100, (3, 4, 2))
    barely = np.array([[[2.0005, -4.006]], [[0.006, 3.02]], [[-1.0005, -5.2]]])
    canvas = {"small": 76, "large": 126, "whole": 82, "half": 82}
    patches, corner = field_(3, 4, 64, 64), impulse(3, 4, 64, 64, at=(0, 63))
    region, wave = field_(3, 80, 80), field_(2, 4, 3, 64, 64)
    counts, expected = rng.poisson(7, (3, 4, 64, 64)).astype(float), rng.uniform(0, 14, (3, 4, 64, 64))
    good, every = (rng.random((64, 64)) > 0.2).astype(float), np.ones((64, 64))
    found: dict[str, tuple[str, tuple[Any, ...]]] = {
        "normalise_probe, one mode": ("normalise_probe", (field_(1, 64, 64), 4.0)),
        "normalise_probe, three modes": ("normalise_probe", (7e3 * field_(3, 64, 64), 1.5)),
        "probe_mask, N 64": ("probe_mask", (64,)),
        "probe_mask, N 128": ("probe_mask", (128,)),
        "downsample, random": ("downsample", (real(2, 3, 16, 16),)),
        "downsample, negative": ("downsample", (-1 - abs(real(2, 3, 8, 8)),)),
        "upsample, random": ("upsample", (real(2, 3, 8, 8),)),
        "upsample, impulse": ("upsample", (impulse(1, 1, 8, 8, at=(7, 0)).real,)),
        **{f"{name}, -40 to 90": (name, (wide,)) for name in ("sigmoid", "swish", "softplus", "relu", "phase_head")},
        "pad_patch, random": ("pad_patch", (real(2, 4, 32, 32),)),
        "pad_patch, gridsize 1": ("pad_patch", (real(2, 1, 64, 64),)),
        "translate, random": ("translate", (real(6, 64, 64), rng.uniform(-6, 6, (6, 2)), 76)),
        "translate, impulse": ("translate", (impulse(4, 64, 64, at=(32, 20)).real, rng.uniform(-3, 3, (4, 2)), 70)),
        "translate, to a smaller frame": ("translate", (real(2, 80, 80), rng.uniform(-20, 20, (2, 2)), 64)),
        **{
            f"merge_patches, {size} offsets": ("merge_patches", (patches, offsets[size], canvas[size]))
            for size in offsets
        },
        "merge_patches, impulse": ("merge_patches", (corner, offsets["small"], 76)),
        "merge_patches, barely covered rim": ("merge_patches", (patches[:, :1], barely, 82)),
        "merge_patches, one patch": ("merge_patches", (patches[:, :1], offsets["small"][:, :1], 76)),
        "cut_patches, small offsets": ("cut_patches", (region, offsets["small"], 64)),
        "cut_patches, whole offsets": ("cut_patches", (region, offsets["whole"], 64)),
        "cut_patches, beyond the region": ("cut_patches", (region, far, 64)),
        "cut_patches, impulse": ("cut_patches", (impulse(3, 80, 80, at=(40, 31)), offsets["small"], 64)),
        "illuminate, three modes": ("illuminate", (field_(3, 64, 64), patches)),
        "illuminate, gridsize 1": ("illuminate", (field_(1, 64, 64), patches[:, :1])),
        "propagate, random": ("propagate", (wave,)),
        "propagate, impulse at the centre": ("propagate", (impulse(1, 1, 1, 64, 64, at=(32, 32)),)),
        "propagate, impulse off the centre": ("propagate", (impulse(1, 1, 1, 64, 64, at=(30, 41)),)),
        "propagate, N 128": ("propagate", (field_(1, 1, 1, 128, 128),)),
        "expected_intensity, three modes": ("expected_intensity", (wave, np.float64(1.7))),
        "expected_intensity, dark": ("expected_intensity", (1e-9 * wave[:, :, :1], np.float64(-2.0))),
        "poisson_nll, random": ("poisson_nll", (counts, expected, every)),
        "poisson_nll, bad pixels": ("poisson_nll", (counts, expected, good)),
        "poisson_nll, no counts": ("poisson_nll", (0 * counts, expected, every)),
        "poisson_nll, nothing expected": ("poisson_nll", (counts, 0 * expected, every)),
        "poisson_nll, bright": ("poisson_nll", (1e6 * counts, 1e6 * expected, every)),
    }
    many = field_(20, 4, 64, 64), rng.uniform(-6, 6, (20, 4, 2))
    found["merge_patches, many groups"] = ("merge_patches", (*many, 78))
    return found


def expected_operators(given: Mapping[str, tuple[str, tuple[Any, ...]]]) -> dict[str, NDArray[Any]]:
    """What the referee makes of operands: label to array."""
    return {label: np.asarray(OPERATORS[name](*arguments)) for label, (name, arguments) in given.items()}
