"""Configuration as frozen dataclasses with PtychoPINN's field names, validated on construction.

Defaults are PtychoPINN's (``ptycho.config.config``) unless a field says otherwise.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ptyint.errors import ConfigError

PATTERN_SIZES = (64, 128, 256)
ACTIVATIONS = ("sigmoid", "swish", "softplus", "relu")
SCHEDULERS = ("Default", "ReduceLROnPlateau", "WarmupCosine")

Config = TypeVar("Config")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not isinstance(value, type(allowed[0])) or isinstance(value, bool) or value not in allowed:
        raise ConfigError(f"{name} is {value!r}; must be one of {list(allowed)}.")


def _number(name: str, value: object, *, above: float, at_least: bool = False, whole: bool = False) -> None:
    kind: tuple[type, ...] = (int,) if whole else (int, float)
    good = isinstance(value, kind) and not isinstance(value, bool)
    if not good or not (value >= above if at_least else value > above) or value == float("inf"):  # type: ignore[operator]
        what = "a whole number" if whole else "a finite number"
        raise ConfigError(f"{name} is {value!r}; must be {what} {'of at least' if at_least else 'above'} {above:g}.")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; must be True or False.")


@dataclass(frozen=True)
class ModelConfig:
    """The network and the physics around it.

    Attributes
    ----------
    N : {64, 128, 256}
        Edge of a diffraction pattern and of an object patch in pixels.
    gridsize : {1, 2}
        A group holds ``C = gridsize**2`` patterns; 2 adds the overlap constraint.
    n_filters_scale : int
        Multiplies every layer's width.
    amp_activation : {'sigmoid', 'swish', 'softplus', 'relu'}
        Head of the amplitude decoder; the phase head is pi * tanh.
    object_big : bool
        True: the network predicts C patches, merged by their offsets. False: one patch for the whole group.
    probe_big : bool
        True: a second branch predicts the border of the patch, which the probe's tails reach.
    probe_mask : bool
        True: the probe is cut to a disk of radius N/4.
    probe_scale : float
        The probe enters as ``p / (probe_scale * mean|mask * p|)``.

    Raises
    ------
    ConfigError
        A value is not allowed; the message names the field, the value and what is allowed.
    """

    N: int = 64
    gridsize: int = 1
    n_filters_scale: int = 2
    amp_activation: str = "sigmoid"
    object_big: bool = True
    probe_big: bool = True
    probe_mask: bool = False
    probe_scale: float = 4.0

    def __post_init__(self) -> None:
        """Validate."""
        _one_of("N", self.N, PATTERN_SIZES)
        _one_of("gridsize", self.gridsize, (1, 2))
        _number("n_filters_scale", self.n_filters_scale, above=1, at_least=True, whole=True)
        _one_of("amp_activation", self.amp_activation, ACTIVATIONS)
        for name in ("object_big", "probe_big", "probe_mask"):
            _flag(name, getattr(self, name))
        _number("probe_scale", self.probe_scale, above=0)

    @property
    def n_channels(self) -> int:
        """C = gridsize**2, the patterns in a group."""
        return self.gridsize**2


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained.

    Attributes
    ----------
    model : ModelConfig
    train_data_file, test_data_file : Path, optional
        Where the scan came from; kept for `params.cfg`.
    batch_size : int
        Groups per step; the last batch of an epoch may be smaller.
    nepochs : int
        At most this many passes over the groups.
    nphotons : float, optional
        Mean photons per pattern. None (not PtychoPINN's 1e9): the scan's counts are taken as they are;
        a number: they are rescaled to it, for files that hold amplitudes in arbitrary units.
    n_groups : int, optional
        None (not PtychoPINN's 512): as many as there are patterns.
    neighbor_count : int
        K nearest neighbours from which a group is drawn (gridsize 2).
    probe_trainable, intensity_scale_trainable : bool
    learning_rate : float
        Of Adam, for every weight.
    adam_beta1, adam_beta2, adam_epsilon : float
        Adam by one formula in both backends, ``w -= lr * m_hat / (sqrt(v_hat) + epsilon)`` (Kingma & Ba 2015,
        algorithm 1).
    scheduler : {'Default', 'ReduceLROnPlateau', 'WarmupCosine'}
        'Default' keeps the learning rate.
    lr_warmup_epochs, lr_min_ratio
        'WarmupCosine': a linear rise over the first epochs, then a half cosine down to the ratio in the last epoch.
    plateau_factor, plateau_patience, plateau_min_lr, plateau_threshold
        The learning rate is multiplied by the factor once the epoch loss has failed to improve by the relative
        threshold for more than `plateau_patience` epochs.
    early_stop_patience : int
        Training stops after this many epochs without improvement.
    seed : int
        Of the groups, the initial weights and the batch order.
    output_dir : Path
    backend : str
        'tensorflow' unless asked otherwise; the dispatcher checks the name.

    Raises
    ------
    ConfigError
        A value is not allowed.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    train_data_file: Path | None = None
    test_data_file: Path | None = None
    batch_size: int = 16
    nepochs: int = 50
    nphotons: float | None = None
    n_groups: int | None = None
    neighbor_count: int = 4
    probe_trainable: bool = False
    intensity_scale_trainable: bool = True
    learning_rate: float = 1e-3
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-7
    scheduler: str = "Default"
    lr_warmup_epochs: int = 0
    lr_min_ratio: float = 0.1
    plateau_factor: float = 0.5
    plateau_patience: int = 2
    plateau_min_lr: float = 5e-5
    plateau_threshold: float = 0.0
    early_stop_patience: int = 100
    seed: int = 0
    output_dir: Path = Path("training_outputs")
    backend: str = "tensorflow"

    def __post_init__(self) -> None:
        """Validate."""
        _check_common(self)
        for name in ("batch_size", "nepochs", "early_stop_patience"):
            _number(name, getattr(self, name), above=1, at_least=True, whole=True)
        for name in ("probe_trainable", "intensity_scale_trainable"):
            _flag(name, getattr(self, name))
        for name in ("learning_rate", "adam_epsilon"):
            _number(name, getattr(self, name), above=0)
        for name in ("adam_beta1", "adam_beta2", "lr_min_ratio", "plateau_threshold"):
            _number(name, getattr(self, name), above=0, at_least=True)
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; must be below 1.")
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _number("lr_warmup_epochs", self.lr_warmup_epochs, above=0, at_least=True, whole=True)
        _number("plateau_factor", self.plateau_factor, above=0)
        if self.plateau_factor >= 1:
            raise ConfigError(f"plateau_factor is {self.plateau_factor!r}; must be below 1.")
        _number("plateau_patience", self.plateau_patience, above=0, at_least=True, whole=True)
        _number("plateau_min_lr", self.plateau_min_lr, above=0, at_least=True)
        if self.nphotons is not None:
            _number("nphotons", self.nphotons, above=0)

    def applied(self, **settings: Any) -> InferenceConfig:
        """How a model trained so is applied to a scan: same network, neighbours, seed and backend, and `settings`."""
        shared = {name: getattr(self, name) for name in ("model", "neighbor_count", "seed", "backend")}
        return InferenceConfig(**{**shared, **settings})


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained model is applied to a scan.

    Attributes
    ----------
    model : ModelConfig
        Must equal the one that the bundle was trained with.
    model_path : Path, optional
        The bundle, ``wts.h5.zip``, or the folder that holds it.
    test_data_file : Path, optional
    batch_size : int
        Groups per forward pass.
    n_groups, neighbor_count, seed
        As in :class:`TrainingConfig`.
    M : int
        Edge of each patch's centre that is stitched, in pixels; even, at most N / 2.
    output_dir : Path
    backend : str

    Raises
    ------
    ConfigError
        A value is not allowed.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    model_path: Path | None = None
    test_data_file: Path | None = None
    batch_size: int = 64
    n_groups: int | None = None
    neighbor_count: int = 4
    seed: int = 0
    M: int = 20
    output_dir: Path = Path("inference_outputs")
    backend: str = "tensorflow"

    def __post_init__(self) -> None:
        """Validate."""
        _check_common(self)
        _number("batch_size", self.batch_size, above=1, at_least=True, whole=True)
        _number("M", self.M, above=2, at_least=True, whole=True)
        if self.M % 2 or self.M > self.model.N // 2:
            raise ConfigError(f"M is {self.M!r}; must be even and at most N / 2 = {self.model.N // 2}.")


def _check_common(config: TrainingConfig | InferenceConfig) -> None:
    if not isinstance(config.model, ModelConfig):
        raise ConfigError(f"model is {config.model!r}; must be a ModelConfig.")
    if config.n_groups is not None:
        _number("n_groups", config.n_groups, above=1, at_least=True, whole=True)
    _number("neighbor_count", config.neighbor_count, above=1, at_least=True, whole=True)
    _number("seed", config.seed, above=0, at_least=True, whole=True)
    if not isinstance(config.backend, str):
        raise ConfigError(f"backend is {config.backend!r}; must be a name such as 'tensorflow' or 'pytorch'.")


def from_mapping(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration from plain values, as JSON holds them.

    Parameters
    ----------
    cls : type
        One of the three dataclasses.
    values : mapping
        Field names to values; ``model`` may be a mapping itself.

    Raises
    ------
    ConfigError
        An unknown field (the near miss is named) or a value that is not allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        near = difflib.get_close_matches(unknown[0], fields, 1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known fields: {sorted(fields)}."
        raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}.{hint}")
    given = dict(values)
    if isinstance(given.get("model"), Mapping):
        given["model"] = from_mapping(ModelConfig, given["model"])
    for name, value in given.items():
        if isinstance(value, str) and "Path" in str(fields[name].type):
            given[name] = Path(value)
    return cls(**given)


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_mapping`: plain values that JSON can hold; paths become strings."""
    values = dataclasses.asdict(config)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
