from dataclasses import dataclass


@dataclass
class DataConfig:
    N: int = 64
    C: int = 4
    grid_size: tuple = (2, 2)
    max_neighbor_distance: float = 14.0


@dataclass
class ModelConfig:
    C_model: int = 4
    C_forward: int = 4
    amp_activation: str = "silu"
