"""PtychoPINN's legacy `params.cfg`: one global dictionary, and the one-way bridge into it (CONFIG-001).

Old modules read this dictionary instead of a configuration object. The rule: :func:`update_legacy_dict` runs before
any backend is inspected or imported. Nothing in this package reads `cfg` to make a decision.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ptyint.config import ModelConfig

cfg: dict[str, Any] = {}

LEGACY_KEYS = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
}
"""Field name -> legacy key, where they differ (``KEY_MAPPINGS`` of ``ptycho.config.config``)."""


def legacy_values(config: Any) -> dict[str, Any]:
    """The legacy keys and values of a configuration; the nested model is flattened, paths become strings.

    Parameters
    ----------
    config : ModelConfig, TrainingConfig or InferenceConfig
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, ModelConfig):
            values.update(legacy_values(value))
        else:
            values[LEGACY_KEYS.get(field.name, field.name)] = str(value) if isinstance(value, Path) else value
    return values


def update_legacy_dict(cfg: dict[str, Any], config: Any) -> None:
    """Write a configuration into the legacy dictionary; None leaves what stands there, as in PtychoPINN.

    Parameters
    ----------
    cfg : dict
        Usually :data:`ptyint.params.cfg`; changed in place.
    config : ModelConfig, TrainingConfig or InferenceConfig
    """
    cfg.update({key: value for key, value in legacy_values(config).items() if value is not None})
