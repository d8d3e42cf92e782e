"""Names that Ptychodus and its settings file know the backends by, and the section ``[Ptyint]`` as plain values.

No Ptychodus here.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ptyint._atomic import write_text
from ptyint.backends.bundle import NAME as BUNDLE
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig, from_mapping, to_mapping

LIBRARY = "ptyint"
MODEL_FILE = "model" + BUNDLE.removeprefix("wts")
"""The bundle, or what a backend's own workflow saved, under the name that Ptychodus looks for."""

GROUP = "Ptyint"

KEYS = {
    one.metadata["ptychodus"]: f"{owner}{one.name}"
    for owner, kind in (("model.", ModelConfig), ("", TrainingConfig))
    for one in fields(kind)
    if one.metadata.get("ptychodus")
}
"""Key of the file (that of Ptychodus' own PtychoPINN, where it has one) to field of the training configuration."""

UNSET = {"NumPhotons": 0.0, "NumGroups": 0}
"""What stands for None, which a settings file cannot say."""

PATCH_CENTER = "PatchCenterSize"
"""Key of :attr:`ptyint.config.InferenceConfig.M`."""


def algorithm_of(backend: str) -> str:
    """What Ptychodus calls a backend."""
    return f"{LIBRARY}_{backend}"


DEFAULT_ALGORITHM = algorithm_of(TrainingConfig().backend)


def values_of(config: TrainingConfig, M: int) -> dict[str, Any]:
    """Key to value of a configuration."""
    own = to_mapping(config)
    flat = {**own, **{f"model.{name}": value for name, value in own["model"].items()}}
    values = {key: UNSET[key] if flat[field] is None else flat[field] for key, field in KEYS.items()}
    return {**values, PATCH_CENTER: M}


DEFAULTS = values_of(TrainingConfig(), InferenceConfig().M)
"""The configuration's own."""


def training_config(values: Mapping[str, Any], backend: str) -> TrainingConfig:
    """The inverse of :func:`values_of`, for a backend."""
    own: dict[str, Any] = {"backend": backend, "model": {}}
    for key, field in KEYS.items():
        value = None if key in UNSET and values[key] == UNSET[key] else values[key]
        owner = own["model"] if field.startswith("model.") else own
        owner[field.removeprefix("model.")] = value
    return from_mapping(TrainingConfig, own)


def write_settings(path: Path, algorithm: str, config: TrainingConfig, M: int) -> None:
    """Write a settings file that makes Ptychodus train with `algorithm` as `config` says."""
    lines = ["[Processing]", f"Algorithm = {algorithm}", f"[{GROUP}]"]
    lines += [f"{key} = {value}" for key, value in values_of(config, M).items()]
    write_text(path, "\n".join(lines) + "\n")
