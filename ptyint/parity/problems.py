"""What both sides are given, declared before anything runs: networks, batches, weights, seeds, margins, budgets.

All of it is made in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.weights import Weights, initial_weights
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig
from ptyint.errors import ConfigError
from ptyint.parity.tolerances import PRECISIONS
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

PROFILES = {"quick": tuple(name for name in CASES if not name.startswith("N ")), "full": tuple(CASES)}
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


def workflow_training(gridsize: int = 2, seed: int = 0) -> TrainingConfig:
    """A training of one epoch on the tiny fixture, for backends that train by functions of their own."""
    model = ModelConfig(n_filters_scale=1, gridsize=gridsize)
    return TrainingConfig(model=model, nepochs=1, batch_size=4, seed=4 + seed, n_groups=16)


# --- all of it together ---


class Network(NamedTuple):
    """One network of rungs 2 to 4, at one precision."""

    case: str
    precision: str

    def __str__(self) -> str:
        return f"{self.case}/{self.precision}"

    @classmethod
    def named(cls, name: str) -> Network:
        """The network that goes by ``case/precision``."""
        return cls(*name.rsplit("/", 1))


@dataclass(frozen=True)
class Plan:
    """Rung 7: how many seeds, and what counts as no difference.

    Attributes
    ----------
    n_pairs : int
        Seeds from which both backends train.
    n_reruns : int
        Of these, the first are trained once more by each backend, from weights moved by an ulp: the yardstick.
    n_independent : int
        Seeds of the candidate alone, against the reference's pairs: no seed is on both sides.
    nepochs : int
        With gridsize 2; twice as many with gridsize 1.
    correlation : float
        Margin for the difference of two backends' correlations with the truth. Five seeds that scatter by 0.02 tell no
        smaller one: the 90 % interval alone reaches 0.024 to either side.
    scale : float
        Margin for the mean logarithm of the amplitude scale between them.
    shift_px, phase_rad : float
        Margins for the mean shift and phase between them.
    ramp_px : float
        Margin for the mean phase ramp between them, as the displacement of the diffraction pattern that it is.

    Raises
    ------
    ConfigError
        A number that is not positive.
    """

    n_pairs: int = 5
    n_reruns: int = 2
    n_independent: int = 5
    nepochs: int = 40
    correlation: float = 0.05
    scale: float = 0.05
    shift_px: float = 0.5
    phase_rad: float = 0.2
    ramp_px: float = 0.25

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; must be positive.")


@dataclass(frozen=True)
class Budget:
    """Rung 8: largest allowed ratios of candidate to reference; 0: reported, not judged.

    Attributes
    ----------
    step, inference, memory, start : float
        Median time of an optimiser step (single precision), time of inference for a group, peak memory of the
        process, time to import the backend.

    Raises
    ------
    ConfigError
        A negative ratio, or NaN.
    """

    step: float = 0.0
    inference: float = 0.0
    memory: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"The budget for {name} is {value!r}; must be a ratio, or 0 for no limit.")


@dataclass(frozen=True, eq=False)
class Problems:
    """Everything that a pair of backends is asked.

    Attributes
    ----------
    profile : {'quick', 'full'}
        The full one has larger networks, and rung 7.
    seed : int
        Added to every seed of what the backends are given on rungs 0 to 6.
    draws : dict of str to int
        Precision to the number of reruns on rung 5; what is not in it is not stepped, and its check not run.
    plan : Plan
    budget : Budget
    cases, precisions : sequence of str
        Networks of rungs 2 to 4, to look at some alone; no cases: those of the profile.

    Raises
    ------
    ConfigError
        An unknown profile, case or precision.
    """

    profile: str = "quick"
    seed: int = 0
    draws: Mapping[str, int] = field(default_factory=lambda: dict(DRAWS))
    plan: Plan = Plan()
    budget: Budget = Budget()
    cases: Sequence[str] = ()
    precisions: Sequence[str] = PRECISIONS

    def __post_init__(self) -> None:
        """Validate."""
        allowed = {"profile": list(PROFILES), "cases": list(CASES), "precisions": PRECISIONS, "draws": PRECISIONS}
        for name, known in allowed.items():
            values = getattr(self, name)
            for value in [values] if isinstance(values, str) else values:
                if value not in known:
                    raise ConfigError(f"{name} has {value!r}; must be of {sorted(known)}.")

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is traced, in its order."""
        cases = self.cases or PROFILES[self.profile]
        return tuple(Network(case, precision) for case in cases for precision in self.precisions)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Problems:
        """The problems whose ``asdict`` this is."""
        return cls(**{**values, "plan": Plan(**values["plan"]), "budget": Budget(**values["budget"])})
