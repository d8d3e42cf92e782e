"""Configuration as frozen dataclasses with PtychoPINN's field names, validated on construction.

Defaults are PtychoPINN's (``ptycho.config.config``) unless a field says otherwise. At the end: PtychoPINN's legacy
``params.cfg``, one global dictionary that old modules read instead, and the one-way bridge into it (CONFIG-001).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from ptyint._glance import Glance
from ptyint.errors import ConfigError, did_you_mean, shown

PATTERN_SIZES = (64, 128, 256)
"""Edges N of a pattern that the network is built for."""

ACTIVATIONS = ("sigmoid", "swish", "softplus", "relu")
SCHEDULERS = ("Default", "ReduceLROnPlateau", "WarmupCosine")

Config = TypeVar("Config")
Rule = tuple[Callable[[Any], bool], str]
"""What holds of a value, and the same in words after "must be"."""


def _among(*allowed: object) -> Rule:
    kind = type(allowed[0])
    return lambda value: _is(value, kind) and value in allowed, f"one of {list(allowed)}"


def _number(lowest: float, *, above: bool = False, below: float = math.inf, whole: bool = False) -> Rule:
    """A number of at least `lowest`, or above it, and below `below`."""
    kinds = (int,) if whole else (int, float)
    words = f"a {'whole' if whole else 'finite'} number {'above' if above else 'of at least'} {lowest:g}"
    return (
        lambda value: _is(value, *kinds) and (value > lowest if above else value >= lowest) and value < below,
        words if below == math.inf else f"{words} and below {below:g}",
    )


def _is(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


FLAG: Rule = (lambda value: isinstance(value, bool), "True or False")
SEVERAL, COUNT, WHOLE = (_number(lowest, whole=True) for lowest in (2, 1, 0))
POSITIVE, FRACTION = _number(0, above=True), _number(0, below=1)
MODEL: Rule = (lambda value: isinstance(value, ModelConfig), "a ModelConfig")
NAME: Rule = (lambda value: isinstance(value, str), "a name such as 'tensorflow' or 'pytorch'")


def check_value(name: str, value: Any, rule: Rule) -> None:
    """Raise ConfigError for a value that breaks a rule."""
    holds, allowed = rule
    if not holds(value):
        hint = did_you_mean(value, re.findall(r"'(\w+)'", allowed)) if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {shown(value)}; must be {allowed}.{hint}")


def _setting(default: Any, rule: Rule | None = None, legacy: str = "", ptychodus: str = "") -> Any:
    """A field and what it may hold (without a rule: a path); its key in `params.cfg`, if another, and in Ptychodus."""
    return dataclasses.field(default=default, metadata={"rule": rule, "legacy": legacy, "ptychodus": ptychodus})


@dataclass(frozen=True, repr=False)
class _Validated(Glance):
    """A configuration that is checked when it is made; its ``repr`` has what differs from the defaults."""

    def _facts(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}

    def __repr__(self) -> str:
        usual = type(self)()._facts()
        said = (f"{name}={value!r}" for name, value in self._facts().items() if value != usual[name])
        return f"{type(self).__name__}({', '.join(said)})"

    def __post_init__(self) -> None:
        """Raise ConfigError for the first field that breaks its rule; None is allowed where it is the default."""
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if (rule := one.metadata.get("rule")) and not (value is None and one.default is None):
                check_value(one.name, value, rule)


@dataclass(frozen=True, repr=False)
class ModelConfig(_Validated):
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

    Examples
    --------
    >>> import ptyint
    >>> ptyint.ModelConfig(gridsize=2).n_channels
    4
    >>> try:
    ...     ptyint.ModelConfig(N=65)
    ... except ptyint.ConfigError as error:
    ...     print(error)
    N is 65; must be one of [64, 128, 256].
    """

    N: int = _setting(64, _among(*PATTERN_SIZES))
    gridsize: int = _setting(1, _among(1, 2), ptychodus="GridSize")
    n_filters_scale: int = _setting(2, COUNT, ptychodus="NumFiltersScale")
    amp_activation: str = _setting("sigmoid", _among(*ACTIVATIONS), ptychodus="AmpActivation")
    object_big: bool = _setting(True, FLAG, "object.big", "ObjectBig")
    probe_big: bool = _setting(True, FLAG, "probe.big", "ProbeBig")
    probe_mask: bool = _setting(False, FLAG, "probe.mask", "ProbeMask")
    probe_scale: float = _setting(4.0, POSITIVE, ptychodus="ProbeScale")

    @property
    def n_channels(self) -> int:
        """C = gridsize**2, the patterns in a group."""
        return self.gridsize**2


@dataclass(frozen=True, repr=False)
class TrainingConfig(_Validated):
    """How a model is trained.

    Attributes
    ----------
    model : ModelConfig
        The network.
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
        Whether the optimiser moves the probe, and the scale between predicted and measured amplitudes.
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
        Kept for `params.cfg`; what writes files is told where.
    backend : str
        'tensorflow' unless asked otherwise; the dispatcher checks the name.

    Raises
    ------
    ConfigError
        A value is not allowed.

    Examples
    --------
    >>> import ptyint
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(gridsize=2), nepochs=5, neighbor_count=6, backend="pytorch")
    >>> config.scheduler, config.applied(M=12).neighbor_count
    ('Default', 6)
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig, metadata={"rule": MODEL})
    train_data_file: Path | None = _setting(None, legacy="train_data_file_path")
    test_data_file: Path | None = _setting(None, legacy="test_data_file_path")
    batch_size: int = _setting(16, COUNT, ptychodus="BatchSize")
    nepochs: int = _setting(50, COUNT, ptychodus="NumEpochs")
    nphotons: float | None = _setting(None, POSITIVE, ptychodus="NumPhotons")
    n_groups: int | None = _setting(None, COUNT, ptychodus="NumGroups")
    neighbor_count: int = _setting(4, COUNT, ptychodus="NumNearestNeighbors")
    probe_trainable: bool = _setting(False, FLAG, "probe.trainable", "ProbeTrainable")
    intensity_scale_trainable: bool = _setting(True, FLAG, "intensity_scale.trainable", "IntensityScaleTrainable")
    learning_rate: float = _setting(1e-3, POSITIVE, ptychodus="LearningRate")
    adam_beta1: float = _setting(0.9, FRACTION)
    adam_beta2: float = _setting(0.999, FRACTION)
    adam_epsilon: float = _setting(1e-7, POSITIVE)
    scheduler: str = _setting("Default", _among(*SCHEDULERS), ptychodus="Scheduler")
    lr_warmup_epochs: int = _setting(0, WHOLE)
    lr_min_ratio: float = _setting(0.1, FRACTION)
    plateau_factor: float = _setting(0.5, _number(0, above=True, below=1))
    plateau_patience: int = _setting(2, WHOLE)
    plateau_min_lr: float = _setting(5e-5, _number(0))
    plateau_threshold: float = _setting(0.0, FRACTION)
    early_stop_patience: int = _setting(100, COUNT, ptychodus="EarlyStopPatience")
    seed: int = _setting(0, WHOLE, ptychodus="Seed")
    output_dir: Path = _setting(Path("training_outputs"), legacy="output_prefix")
    backend: str = _setting("tensorflow", NAME)

    def applied(self, **settings: Any) -> "InferenceConfig":
        """How a model trained so is applied to a scan: same network, neighbours, seed and backend, and `settings`."""
        shared = {name: getattr(self, name) for name in ("model", "neighbor_count", "seed", "backend")}
        return InferenceConfig(**{**shared, **settings})


@dataclass(frozen=True, repr=False)
class InferenceConfig(_Validated):
    """How a trained model is applied to a scan.

    Attributes
    ----------
    model : ModelConfig
        Must equal the one that the bundle was trained with.
    model_path : Path, optional
        The bundle, ``wts.h5.zip``, or the folder that holds it.
    test_data_file : Path, optional
        Where the scan came from; kept for `params.cfg`.
    batch_size : int
        Groups per forward pass.
    n_groups, neighbor_count, seed
        As in :class:`TrainingConfig`.
    M : int
        Edge of each patch's centre that is stitched, in pixels; even, at most N / 2.
    output_dir : Path
        Kept for `params.cfg`; what writes files is told where.
    backend : str
        As in :class:`TrainingConfig`; whichever trained the model.

    Raises
    ------
    ConfigError
        A value is not allowed.

    Examples
    --------
    >>> import ptyint
    >>> try:
    ...     ptyint.InferenceConfig(M=40)
    ... except ptyint.ConfigError as error:
    ...     print(error)
    M is 40; must be even and at most N / 2 = 32.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig, metadata={"rule": MODEL})
    model_path: Path | None = None
    test_data_file: Path | None = _setting(None, legacy="test_data_file_path")
    batch_size: int = _setting(64, COUNT)
    n_groups: int | None = _setting(None, COUNT)
    neighbor_count: int = _setting(4, COUNT)
    seed: int = _setting(0, WHOLE)
    M: int = _setting(20, SEVERAL)
    output_dir: Path = _setting(Path("inference_outputs"), legacy="output_prefix")
    backend: str = _setting("tensorflow", NAME)

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        if self.M % 2 or self.M > self.model.N // 2:
            raise ConfigError(f"M is {shown(self.M)}; must be even and at most N / 2 = {self.model.N // 2}.")


FIELDS = [one for kind in (ModelConfig, TrainingConfig, InferenceConfig) for one in dataclasses.fields(kind)]
RULES: dict[str, Rule] = {one.name: one.metadata["rule"] for one in FIELDS if one.metadata.get("rule")}
"""What each field may hold, in all three configurations."""


def from_mapping(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Build one of the three configurations from plain values, as JSON holds them; ``model`` may be a mapping itself.

    A ConfigError names an unknown field with its near miss, or a value that is not allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in fields]
    if unknown:
        hint = did_you_mean(unknown[0], fields) or f" Known fields: {sorted(fields)}."
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


# CONFIG-001

params = SimpleNamespace(cfg={})
"""Stands for PtychoPINN's module of this name. Nothing in this package reads ``params.cfg`` to make a decision."""

LEGACY_KEYS = {one.name: one.metadata["legacy"] for one in FIELDS if one.metadata.get("legacy")}
"""Field name -> legacy key, where they differ (``KEY_MAPPINGS`` of ``ptycho.config.config``)."""


def legacy_values(config: Any) -> dict[str, Any]:
    """The legacy keys and values of a configuration; the nested model is flattened, paths become strings."""
    values = to_mapping(config)
    values |= values.pop("model", {})
    return {LEGACY_KEYS.get(name, name): value for name, value in values.items()}


def update_legacy_dict(cfg: dict[str, Any], config: ModelConfig | TrainingConfig | InferenceConfig) -> None:
    """Write a configuration into PtychoPINN's legacy dictionary; None leaves what stands there, as in PtychoPINN.

    Parameters
    ----------
    cfg : dict
        Usually ``ptyint.config.params.cfg``; changed in place.
    config : ModelConfig, TrainingConfig or InferenceConfig
        The nested model is flattened, paths become strings, names become PtychoPINN's.

    Examples
    --------
    >>> from ptyint import ModelConfig, update_legacy_dict
    >>> cfg = {"N": 256, "somebody.elses": "kept"}
    >>> update_legacy_dict(cfg, ModelConfig(N=64, probe_big=False))
    >>> cfg["N"], cfg["probe.big"], cfg["somebody.elses"]
    (64, False, 'kept')
    """
    cfg.update({name: value for name, value in legacy_values(config).items() if value is not None})
