"""CONFIG-001: the bridge into PtychoPINN's `params.cfg`. Keys are PtychoPINN's own, written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptyint.config import (
    LEGACY_KEYS,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    legacy_values,
    update_legacy_dict,
)

KEY_MAPPINGS = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
}
"""``KEY_MAPPINGS`` of ``ptycho/config/config.py``, for the fields that exist here."""

CONFIG = TrainingConfig(
    model=ModelConfig(N=128, gridsize=2, object_big=False, probe_big=False, probe_mask=True),
    train_data_file=Path("here/train.npz"),
    test_data_file=Path("here/test.npz"),
    probe_trainable=True,
    intensity_scale_trainable=False,
    nphotons=1e9,
    output_dir=Path("out/run"),
    backend="pytorch",
)


def test_dotted_legacy_keys() -> None:
    cfg: dict[str, object] = {}
    update_legacy_dict(cfg, CONFIG)
    expected = {
        "object.big": False,
        "probe.big": False,
        "probe.mask": True,
        "probe.trainable": True,
        "intensity_scale.trainable": False,
        "output_prefix": "out/run",
        "train_data_file_path": "here/train.npz",
        "test_data_file_path": "here/test.npz",
        "N": 128,
        "gridsize": 2,
        "nphotons": 1e9,
        "backend": "pytorch",
    }
    assert {key: cfg.get(key) for key in expected} == expected


def test_modern_names_and_the_nested_model_do_not_leak() -> None:
    cfg: dict[str, object] = {}
    update_legacy_dict(cfg, CONFIG)
    assert not {*KEY_MAPPINGS, "model"} & set(cfg)
    assert not any(isinstance(value, Path | ModelConfig) for value in cfg.values())


@pytest.mark.parametrize("field, key", KEY_MAPPINGS.items())
def test_each_mapped_field_exists_and_maps(field: str, key: str) -> None:
    assert LEGACY_KEYS[field] == key


def test_every_field_without_a_dot_keeps_its_name() -> None:
    values = legacy_values(CONFIG)
    for name in ("batch_size", "nepochs", "neighbor_count", "n_filters_scale", "amp_activation", "probe_scale"):
        assert name in values


def test_none_leaves_what_stands_and_values_overwrite() -> None:
    cfg: dict[str, object] = {"nphotons": 5.0, "N": 256, "probe.mask": True, "somebody.elses": "kept"}
    update_legacy_dict(cfg, TrainingConfig(nphotons=None))
    assert cfg["nphotons"] == 5.0
    assert (cfg["N"], cfg["probe.mask"], cfg["somebody.elses"]) == (64, False, "kept")


def test_a_false_value_is_a_value() -> None:
    cfg: dict[str, object] = {"object.big": True, "seed": 9}
    update_legacy_dict(cfg, TrainingConfig(model=ModelConfig(object_big=False), seed=0))
    assert (cfg["object.big"], cfg["seed"]) == (False, 0)


def test_inference_and_model_configurations() -> None:
    cfg: dict[str, object] = {}
    update_legacy_dict(cfg, InferenceConfig(model=ModelConfig(N=256), model_path=Path("a/wts.h5.zip")))
    assert (cfg["N"], cfg["model_path"], cfg["output_prefix"]) == (256, "a/wts.h5.zip", "inference_outputs")
    only_model: dict[str, object] = {}
    update_legacy_dict(only_model, ModelConfig(gridsize=2))
    assert only_model["gridsize"] == 2 and "output_prefix" not in only_model


def test_the_configuration_is_not_aliased_or_changed() -> None:
    before = repr(CONFIG)
    cfg: dict[str, object] = {}
    update_legacy_dict(cfg, CONFIG)
    cfg["N"] = 64
    assert repr(CONFIG) == before and CONFIG.model.N == 128
