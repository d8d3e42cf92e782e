"""Configuration: PtychoPINN's names and defaults, and every value checked on construction."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig, from_mapping, to_mapping
from ptyint.errors import ConfigError

UPSTREAM_MODEL = {
    "N": 64,
    "gridsize": 1,
    "n_filters_scale": 2,
    "amp_activation": "sigmoid",
    "object_big": True,
    "probe_big": True,
    "probe_mask": False,
    "probe_scale": 4.0,
}
UPSTREAM_TRAINING = {
    "train_data_file": None,
    "test_data_file": None,
    "batch_size": 16,
    "nepochs": 50,
    "neighbor_count": 4,
    "probe_trainable": False,
    "intensity_scale_trainable": True,
    "learning_rate": 1e-3,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "scheduler": "Default",
    "lr_warmup_epochs": 0,
    "lr_min_ratio": 0.1,
    "plateau_factor": 0.5,
    "plateau_patience": 2,
    "plateau_min_lr": 5e-5,
    "plateau_threshold": 0.0,
    "early_stop_patience": 100,
    "output_dir": Path("training_outputs"),
    "backend": "tensorflow",
}
UPSTREAM_INFERENCE = {
    "n_groups": None,
    "neighbor_count": 4,
    "output_dir": Path("inference_outputs"),
    "backend": "tensorflow",
}

NUMBERS = [math.nan, math.inf, -math.inf, "1", None, True, [1]]
NOT_POSITIVE = [0, -1, *NUMBERS]
NOT_COUNTS = [0, -1, 1.0, 1.5, *NUMBERS]
NOT_FLAGS = [0, 1, "True", None, np.True_]

BAD_MODEL: dict[str, list[Any]] = {
    "N": [63, 32, 0, -64, 64.0, "64", True, None, [64], math.nan],
    "gridsize": [0, 3, 1.0, 2.0, True, "2", None],
    "n_filters_scale": NOT_COUNTS,
    "amp_activation": ["Sigmoid", "tanh", "", None, 1],
    "object_big": NOT_FLAGS,
    "probe_big": NOT_FLAGS,
    "probe_mask": NOT_FLAGS,
    "probe_scale": NOT_POSITIVE,
}
BAD_TRAINING: dict[str, list[Any]] = {
    "batch_size": NOT_COUNTS,
    "nepochs": NOT_COUNTS,
    "early_stop_patience": NOT_COUNTS,
    "neighbor_count": NOT_COUNTS,
    "n_groups": [bad for bad in NOT_COUNTS if bad is not None],
    "nphotons": [bad for bad in NOT_POSITIVE if bad is not None],
    "probe_trainable": NOT_FLAGS,
    "intensity_scale_trainable": NOT_FLAGS,
    "learning_rate": NOT_POSITIVE,
    "adam_epsilon": NOT_POSITIVE,
    "adam_beta1": [-0.1, 1, 1.0, 2.0, *NUMBERS],
    "adam_beta2": [-0.1, 1, 1.0, 2.0, *NUMBERS],
    "plateau_threshold": [-0.1, 1, *NUMBERS],
    "plateau_factor": [0, 1, 1.5, *NUMBERS],
    "plateau_patience": [-1, 1.5, *NUMBERS],
    "plateau_min_lr": [-1e-9, *NUMBERS],
    "lr_warmup_epochs": [-1, 1.0, 1.5, *NUMBERS],
    "lr_min_ratio": [-0.1, 1, *NUMBERS],
    "scheduler": ["default", "Exponential", None, True],
    "seed": [-1, 0.0, *NUMBERS],
    "model": [None, {}, ModelConfig, TrainingConfig()],
    "backend": [None, 1, ["tensorflow"]],
}
BAD_INFERENCE: dict[str, list[Any]] = {
    "batch_size": NOT_COUNTS,
    "n_groups": [0, -1, 1.5, True],
    "neighbor_count": [0, 2.0],
    "seed": [-1],
    "M": [0, -2, 3, 34, 20.0, True, "20"],
    "model": [None],
    "backend": [None],
}
BAD = [
    pytest.param(cls, field, value, id=f"{cls.__name__}.{field}={value!r:.20}")
    for cls, table in ((ModelConfig, BAD_MODEL), (TrainingConfig, BAD_TRAINING), (InferenceConfig, BAD_INFERENCE))
    for field, values in table.items()
    for value in values
]


@pytest.mark.parametrize("cls, field, value", BAD)
def test_a_bad_value_is_named_with_its_field_and_what_is_allowed(cls: Any, field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**{field: value})
    message = str(caught.value)
    assert field in message and repr(value)[:60] in message and "must be" in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "cls, expected",
    [(ModelConfig, UPSTREAM_MODEL), (TrainingConfig, UPSTREAM_TRAINING), (InferenceConfig, UPSTREAM_INFERENCE)],
)
def test_names_and_defaults_are_those_of_ptychopinn(cls: Any, expected: dict[str, Any]) -> None:
    config = cls()
    assert {name: getattr(config, name) for name in expected} == expected


def test_every_pattern_size_gridsize_and_activation_is_accepted() -> None:
    for N in (64, 128, 256):
        assert ModelConfig(N=N).N == N
    assert [ModelConfig(gridsize=g).n_channels for g in (1, 2)] == [1, 4]
    for activation in ("sigmoid", "swish", "softplus", "relu"):
        assert ModelConfig(amp_activation=activation).amp_activation == activation


@pytest.mark.parametrize("config", [ModelConfig(), TrainingConfig(), InferenceConfig()])
def test_frozen(config: Any) -> None:
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))


def test_choices_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"N is 65.*\[64, 128, 256\]"):
        ModelConfig(N=65)
    with pytest.raises(ConfigError, match=r"'sigmoid', 'swish', 'softplus', 'relu'"):
        ModelConfig(amp_activation="gelu")
    with pytest.raises(ConfigError, match=r"\['Default', 'ReduceLROnPlateau', 'WarmupCosine'\]"):
        TrainingConfig(scheduler="Cosine")


def test_replace_validates_too() -> None:
    with pytest.raises(ConfigError, match="nepochs"):
        dataclasses.replace(TrainingConfig(), nepochs=0)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(N=256, gridsize=2, amp_activation="relu", probe_scale=2.5),
        TrainingConfig(
            model=ModelConfig(N=128),
            train_data_file=Path("a/b.npz"),
            nphotons=1e7,
            n_groups=7,
            seed=3,
            scheduler="ReduceLROnPlateau",
            output_dir=Path("x"),
            backend="pytorch",
        ),
        TrainingConfig(),
        InferenceConfig(model=ModelConfig(probe_mask=True), model_path=Path("m/wts.h5.zip"), n_groups=2),
    ],
)
def test_round_trip_through_json(config: Any) -> None:
    back = from_mapping(type(config), json.loads(json.dumps(to_mapping(config))))
    assert back == config
    assert all(type(getattr(back, f.name)) is type(getattr(config, f.name)) for f in dataclasses.fields(config))


def test_an_unknown_field_is_named_with_its_near_miss() -> None:
    with pytest.raises(ConfigError, match=r"TrainingConfig has no field 'nepoch'.*'nepochs'"):
        from_mapping(TrainingConfig, {"nepoch": 3})
    with pytest.raises(ConfigError, match=r"ModelConfig has no field 'grid_size'.*'gridsize'"):
        from_mapping(TrainingConfig, {"model": {"grid_size": 2}})
    with pytest.raises(ConfigError, match=r"'xyzzy'.*Known fields: .*'learning_rate'"):
        from_mapping(TrainingConfig, {"xyzzy": 1})


@pytest.mark.parametrize("values", [{"model": "big"}, {"model": {"N": "64"}}, {"model": {"N": 64.0}}, {"nepochs": "9"}])
def test_a_mapping_is_validated(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(TrainingConfig, values)
