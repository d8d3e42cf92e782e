"""Which configurations the ladder looks at: the defaults, then covering arrays over every field, made in NumPy.

In a covering array every value, and every pair of values of two fields, occurs at least once. What decides a pass
through a network is in `NETWORKS`, what only a training uses in `SETTINGS`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from allpairspy import AllPairs
from numpy.typing import NDArray

from ptyint.backends.weights import Weights, initial_weights
from ptyint.config import ACTIVATIONS, SCHEDULERS, ModelConfig, TrainingConfig
from ptyint.scans import simulate
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.scan import Scan

FIXTURE = "tiny-64"
MODEL = frozenset(asdict(ModelConfig()))
"""Fields of :class:`ptyint.config.ModelConfig`; a factor by another name is one of a training, or of the data."""

LIT = ("amplitude.last.kernel", "amplitude.last.bias")
"""Not negative in networks of rungs 2 to 4, so that a ReLU lets an object through: one that is dark but for a pixel has
no phase, only its rounding, and gradients of 0 tell nothing."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """What is done to a scan before it is used.

    Attributes
    ----------
    modes : int
        Of the probe.
    bad_pixels : bool
    whole : bool
        Positions on a regular grid of 4 px, so that the offsets in a group are whole numbers.
    second : bool
        Another scan of as many patterns: other object, positions and photons, and no object in its file.
    """

    modes: int = 1
    bad_pixels: bool = False
    whole: bool = False
    second: bool = False

    def scan(self, N: int = 64, seed: int = 0) -> Scan:
        """The tiny fixture, or its like at another N."""
        scan = _simulated(N, 5) if self.second or N != 64 else load_fixture(FIXTURE)
        modes = [np.roll(scan.probe, (3 * i, -2 * i), (-2, -1)) / (1 + i) for i in range(self.modes)]
        good = np.random.default_rng(5 + seed).random((N, N)) > 0.1 if self.bad_pixels else scan.good_pixels
        positions = 4 * np.rint(scan.probe_positions_px / 4) if self.whole else scan.probe_positions_px
        return replace(scan, probe=np.concatenate(modes), good_pixels=good, probe_positions_px=positions)


def _simulated(N: int, seed: int) -> Scan:
    positions, shape = simulate.place(simulate.grid_positions((4, 4), N / 16, jitter_px=1.5, seed=seed), N)
    object_ = simulate.dead_leaves_object(shape, seed=seed + 1)
    probe = simulate.defocused_probe(N)
    scan = simulate.simulate_scan(object_, probe, positions, photons_per_pattern=3e5, seed=seed + 2)
    return replace(scan, object_=None, object_is_truth=False)


# --- one pass ---


@dataclass(frozen=True)
class Case:
    """One network on one batch.

    Attributes
    ----------
    fields : dict
        Of :class:`ptyint.config.ModelConfig` and :class:`ptyint.config.TrainingConfig`.
    data : Data
    fresh : bool
        As initialised, that is with zero biases; else they are random, as after some training.
    bright : bool
        Activations far beyond 6 in every layer, and object amplitudes beyond it.
    patterns : int
        Groups in the batch.
    equal : bool
        With the settings that a backend from outside has for a network that is equal to the reference's.
    """

    fields: Row = field(default_factory=dict)
    data: Data = Data()
    fresh: bool = False
    bright: bool = False
    patterns: int = 2
    equal: bool = False

    @property
    def config(self) -> TrainingConfig:
        """Its configuration; every weight is trainable where it does not say otherwise."""
        return configured({"probe_trainable": True, "seed": 2, **self.fields})


def configured(fields: Row) -> TrainingConfig:
    """A configuration from fields of the model and of the training; the narrowest network where they do not say."""
    model = {name: value for name, value in fields.items() if name in MODEL}
    rest = {name: value for name, value in fields.items() if name not in MODEL}
    return TrainingConfig(model=ModelConfig(**{"n_filters_scale": 1, **model}), **rest)


def inputs_of(case: Case, precision: str, seed: int = 0) -> tuple[Batch, Weights, NDArray[np.bool_] | None]:
    """Batch, weights and good pixels (or None) of a case; made in double precision or exact in single."""
    config = replace(case.config, seed=case.config.seed + seed)
    scan = case.data.scan(config.model.N, seed)
    data = GroupedScan.from_config(scan, config)
    weights = initial_weights(config.model, scan.probe, config.seed)
    if not case.fresh:
        weights = with_biases(weights, 9 + seed)
    weights |= {name: abs(weights[name]) for name in LIT}
    if case.bright:
        weights = brighter(weights, config.model.amp_activation)
    index = np.arange(3, 3 + case.patterns) % data.groups.n_groups
    return data.batch(index, precision), weights, scan.good_pixels


def with_biases(weights: Weights, seed: int = 9) -> Weights:
    """`weights` with random biases, as after some training."""
    rng = np.random.default_rng(seed)
    random = {name: rng.uniform(-0.1, 0.1, array.shape).astype(np.float32) for name, array in weights.items()}
    return {name: random[name] if name.endswith(".bias") else array for name, array in weights.items()}


def brighter(weights: Weights, amp_activation: str) -> Weights:
    """`weights` whose hidden layers reach far beyond 6, and the amplitude too where its activation has no bound."""

    def changed(name: str, array: NDArray[np.floating]) -> NDArray[np.floating]:
        if name == "encoder.0.conv1.kernel":
            return array * np.float32(30)
        if name.endswith("last.kernel"):
            return array / np.float32(30)
        return array + np.float32(8) if name == "amplitude.last.bias" and amp_activation != "sigmoid" else array

    return {name: changed(name, array) for name, array in weights.items()}


# --- covering arrays ---

NETWORKS: dict[str, tuple[Any, ...]] = {
    "gridsize": (1, 2),
    "n_filters_scale": (1, 2),
    "amp_activation": ACTIVATIONS,
    **dict.fromkeys(("object_big", "probe_big"), (True, False)),
    "probe_mask": (False, True),
    "probe_scale": (4.0, 1.5),
    **dict.fromkeys(("probe_trainable", "intensity_scale_trainable"), (True, False)),
    "nphotons": (None, 1e9),
    "n_groups": (None, 6),
    "neighbor_count": (4, 7),
    "modes": (1, 2),
    **dict.fromkeys(("bad_pixels", "fresh", "bright"), (False, True)),
}
"""What decides one pass, beside N, to its values; the usual one first. 1e9 photons make counts far beyond 65535."""

SETTINGS: dict[str, tuple[Any, ...]] = {
    "scheduler": (SCHEDULERS[1], SCHEDULERS[0], SCHEDULERS[2]),
    "early_stop_patience": (2, 50),
    "plateau_patience": (0, 1),
    "plateau_factor": (0.5, 0.2),
    "plateau_min_lr": (1e-4, 8e-4),
    "plateau_threshold": (0.9, 1e-4),
    "lr_warmup_epochs": (0, 2),
    "lr_min_ratio": (0.1, 0.01),
    "learning_rate": (1e-3, 5e-3),
    "adam_beta1": (0.9, 0.8),
    "adam_beta2": (0.999, 0.95),
    "adam_epsilon": (1e-7, 1e-3),
    "batch_size": (2, 3),
    "nepochs": (4, 3),
    "n_groups": (4, 5),
    "neighbor_count": (4, 7),
    **dict.fromkeys(("probe_trainable", "intensity_scale_trainable"), (True, False)),
    "nphotons": (None, 1e7),
    "modes": (2, 1),
    "bad_pixels": (True, False),
    "gridsize": (1, 2),
}
"""What a training uses, to values with which it acts: an improvement of 90 % never comes, so a plateau is one."""


def covering(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows in which each pair of values of two factors occurs, but for wide networks on large patterns.

    Those take groups of one, and no part in the quick profile. From allpairspy, greedily, in an order that depends on
    the factors alone.
    """

    def affordable(row: Sequence[Any]) -> bool:
        held = dict(zip(factors, row, strict=False))
        heavy = held.get("N", 64) > 64 and held.get("n_filters_scale") == 2
        return not heavy or (256 in factors["N"] and held.get("gridsize") == 1)

    return [dict(zip(factors, row, strict=True)) for row in AllPairs(OrderedDict(factors), filter_func=affordable)]


def _case(row: Row) -> Case:
    of_the_scan = {name: row[name] for name in ("modes", "bad_pixels")}
    of_the_case = {name: row[name] for name in ("fresh", "bright")}
    fields = {name: value for name, value in row.items() if name not in {*of_the_scan, *of_the_case}}
    return Case(fields, Data(**of_the_scan), **of_the_case, patterns=1)


def _cases(prefix: str, sizes: tuple[int, ...]) -> dict[str, Case]:
    return {f"{prefix} {i}": _case(row) for i, row in enumerate(covering({"N": sizes, **NETWORKS}), 1)}


FIXED = {
    "default settings": Case(asdict(ModelConfig())),
    "gridsize 1": Case(),
    "gridsize 2": Case({"gridsize": 2}),
    "fresh": Case(fresh=True),
}
COVERING = {"quick": _cases("pairs", (64, 128)), "full": _cases("all pairs", (64, 128, 256))}

SHIPPED, EQUAL, APART = "as shipped", "equal networks", "equal networks, no merge"
OUTSIDE = {
    f"N {N}, gridsize {gridsize}, {how}": Case(
        {"N": N, "gridsize": gridsize, "object_big": how != APART}, patterns=1, equal=how != SHIPPED
    )
    for N in (64, 128)
    for gridsize in (1, 2)
    for how in (SHIPPED, EQUAL, *((APART,) if gridsize == 1 else ()))
}
"""Networks of backends that are watched from outside: under their own settings, and those that make them equal."""

CASES = {
    **FIXED,
    **COVERING["quick"],
    **COVERING["full"],
    "whole pixels": Case({"gridsize": 2}, Data(whole=True)),
    **OUTSIDE,
}
"""Networks of rungs 2 to 4."""

PROFILES = {
    "quick": (*FIXED, *COVERING["quick"]),
    "full": tuple(name for name in CASES if name not in {**COVERING["quick"], **OUTSIDE}),
}
"""Profile to its cases."""


# --- short trainings ---


@dataclass(frozen=True)
class Training:
    """A short training; :meth:`config` from other random numbers."""

    plain: TrainingConfig
    data: Data = Data()

    def config(self, seed: int = 0) -> TrainingConfig:
        """Its configuration."""
        return replace(self.plain, seed=self.plain.seed + seed)

    def scan(self) -> Scan:
        """What it is trained on."""
        return self.data.scan()


def _base(gridsize: int, **fields: Any) -> TrainingConfig:
    usual = {"amp_activation": "swish", "nepochs": 2, "batch_size": 5, "seed": 4, "n_groups": 11}
    return configured({**usual, "gridsize": gridsize, **fields})


def _training(row: Row) -> Training:
    of_the_scan = {name: row[name] for name in ("modes", "bad_pixels")}
    fields = {name: value for name, value in row.items() if name not in of_the_scan}
    return Training(configured({"seed": 4, **fields}), Data(**of_the_scan))


SECOND = "second scan"
SAVED = {
    "gridsize 1": Training(_base(1)),
    "gridsize 2": Training(_base(2, scheduler="WarmupCosine", lr_warmup_epochs=1)),
    SECOND: Training(_base(2, nepochs=1, amp_activation="softplus"), Data(second=True)),
}
"""Trainings of which bundles are made. Their 11 groups make a partial last batch of one; nothing about the network is
a default, so a model rebuilt from defaults is another one. The second scan, and the weights of its other network, have
the shapes of those before: what is kept from one to the next, by its shape, shows."""

RISING = {"n_groups": 1, "nepochs": 2, "batch_size": 1, "learning_rate": 3e-2, "probe_big": False, "seed": 4}
"""One step that is far too large: the second epoch is worse than the first."""

ACTING = {
    "rising loss": Training(configured(RISING)),
    **{f"settings {i}": _training(row) for i, row in enumerate(covering(SETTINGS), 1)},
}
TRAININGS = {**SAVED, **ACTING}
"""Short trainings of rungs 5 and 6."""

N_ACTING = 4
"""Of these the quick profile has so many: every value of `SETTINGS` occurs in them, the full profile has every pair."""


def trainings(profile: str) -> dict[str, Training]:
    """Those of `TRAININGS` that a profile has."""
    return TRAININGS if profile == "full" else dict(list(TRAININGS.items())[: len(SAVED) + N_ACTING])
