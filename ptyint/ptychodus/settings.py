"""Names that Ptychodus and its settings file know the backends by, and the section ``[Ptyint]`` as plain values.

No Ptychodus here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptyint._atomic import write_text
from ptyint.backends.bundle import NAME as BUNDLE
from ptyint.config import InferenceConfig, TrainingConfig, from_mapping, to_mapping

LIBRARY = "ptyint"
BACKENDS = ("tensorflow", "pytorch")
"""Of the library's reconstructors; the first is the default."""

MODEL_FILE = "model" + BUNDLE.removeprefix("wts")
"""The bundle, under the name that Ptychodus looks for."""

GROUP = "Ptyint"

KEYS = {
    "GridSize": "model.gridsize",
    "NumFiltersScale": "model.n_filters_scale",
    "AmpActivation": "model.amp_activation",
    "ObjectBig": "model.object_big",
    "ProbeBig": "model.probe_big",
    "ProbeMask": "model.probe_mask",
    "ProbeScale": "model.probe_scale",
    "BatchSize": "batch_size",
    "NumEpochs": "nepochs",
    "NumPhotons": "nphotons",
    "NumGroups": "n_groups",
    "NumNearestNeighbors": "neighbor_count",
    "ProbeTrainable": "probe_trainable",
    "IntensityScaleTrainable": "intensity_scale_trainable",
    "LearningRate": "learning_rate",
    "Scheduler": "scheduler",
    "EarlyStopPatience": "early_stop_patience",
    "Seed": "seed",
}
"""Key of the file (that of Ptychodus' own PtychoPINN, where it has one) to field of the training configuration."""

UNSET = {"NumPhotons": 0.0, "NumGroups": 0}
"""What stands for None, which a settings file cannot say."""

PATCH_CENTER = "PatchCenterSize"
"""Key of :attr:`ptyint.config.InferenceConfig.M`."""


def algorithm_of(backend: str) -> str:
    """What Ptychodus calls a backend."""
    return f"{LIBRARY}_{backend}"


DEFAULT_ALGORITHM = algorithm_of(BACKENDS[0])


def values_of(config: TrainingConfig, M: int) -> dict[str, Any]:
    """Key to value of a configuration."""
    fields = to_mapping(config)
    flat = {**fields, **{f"model.{name}": value for name, value in fields["model"].items()}}
    values = {key: UNSET[key] if flat[field] is None else flat[field] for key, field in KEYS.items()}
    return {**values, PATCH_CENTER: M}


DEFAULTS = values_of(TrainingConfig(), InferenceConfig().M)
"""The configuration's own."""


def training_config(values: Mapping[str, Any], backend: str) -> TrainingConfig:
    """The inverse of :func:`values_of`, for a backend."""
    fields: dict[str, Any] = {"backend": backend, "model": {}}
    for key, field in KEYS.items():
        value = None if key in UNSET and values[key] == UNSET[key] else values[key]
        owner = fields["model"] if field.startswith("model.") else fields
        owner[field.removeprefix("model.")] = value
    return from_mapping(TrainingConfig, fields)


def write_settings(path: Path, algorithm: str, config: TrainingConfig, M: int) -> None:
    """Write a settings file that makes Ptychodus train with `algorithm` as `config` says."""
    lines = ["[Processing]", f"Algorithm = {algorithm}", f"[{GROUP}]"]
    lines += [f"{key} = {value}" for key, value in values_of(config, M).items()]
    write_text(path, "\n".join(lines) + "\n")
