from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelConfig:
    N: int = 64
    gridsize: int = 1
    n_filters_scale: int = 2
    amp_activation: str = "sigmoid"
    object_big: bool = True
    probe_big: bool = True
    probe_mask: bool = False
    probe_scale: float = 4.0


@dataclass
class TrainingConfig:
    model: ModelConfig
    train_data_file: Path | None = None
    output_dir: Path = Path("training_outputs")
    batch_size: int = 16
    nepochs: int = 50
    n_groups: int | None = None
    sequential_sampling: bool = False
    subsample_seed: int | None = None
    backend: str = "tensorflow"


@dataclass
class PyTorchExecutionConfig:
    accelerator: str = "auto"
    enable_checkpointing: bool = True
    logger_backend: str | None = "csv"


def update_legacy_dict(cfg, config):
    flat = asdict(config)
    flat |= flat.pop("model")
    dotted = {"object_big": "object.big", "probe_big": "probe.big", "probe_mask": "probe.mask"}
    cfg.update({dotted.get(key, key): value for key, value in flat.items() if value is not None})
