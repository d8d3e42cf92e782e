"""PtychoPINN as it is installed, driven through its own workflow functions and operators; none of its code is here.

Found by import, and never a dependency. Importing an adapter imports PtychoPINN: where that fails, or where a function
that an adapter calls is gone, one sentence says so. ``docs/backends.md`` tells how to install it.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import version
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.evidence.environment import git_state

KNOWN = "712c23f3bb6581ee4300c5572e3817a3d931165e"
"""The commit of PtychoPINN that the adapters were written and tried against."""

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep; read when a framework is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def interface(module: str, *names: str) -> ModuleType:
    """Import a module of PtychoPINN and check that it has what an adapter calls.

    Raises
    ------
    ImportError
        It is not installed, or lacks one of `names`.
    """
    found = importlib.import_module(module)
    missing = [name for name in names if not hasattr(found, name)]
    if missing:
        raise ImportError(
            f"{module} has no {', '.join(missing)}: PtychoPINN's interface changed (it is at commit {commit()}; this "
            f"adapter knows {KNOWN[:12]}; install that commit, or adapt ptyint/backends/ptychopinn)"
        )
    return found


@cache
def commit() -> str:
    """Commit of the checkout that PtychoPINN was imported from, ``+`` where its files differ; else its version."""
    package = Path(importlib.import_module("ptycho").__file__ or ".").resolve().parent
    state = git_state(package.parent)
    if state["commit"] is None:
        return version("ptychopinn")
    changed = any({"ptycho", "ptycho_torch"} & set(Path(name).parts) for name in state["changed"])
    return f"{state['commit'][:12]}{'+' if changed else ''}"


def description(name: str, device: str, threads: int) -> dict[str, Any]:
    """What both adapters say of themselves: PtychoPINN's commit, versions, the processor."""
    packages = ("ptychopinn", "tensorflow", "keras", "torch", "lightning", "numpy")
    versions = {package: version(package) for package in packages}
    about = {"backend": name, "version": f"PtychoPINN {commit()}", "device": device, "deterministic": False}
    return {**about, **versions, "known_commit": KNOWN[:12], "threads": threads}


def their_config(config: TrainingConfig, backend: str, **settings: Any) -> Any:
    """PtychoPINN's own TrainingConfig with every field that both sides have, by name; None leaves it its default.

    Parameters
    ----------
    config : TrainingConfig
    backend : {'tensorflow', 'pytorch'}
    **settings
        More of its fields.
    """
    module = interface("ptycho.config.config", "ModelConfig", "TrainingConfig", "update_legacy_dict")
    model = module.ModelConfig(**_shared(config.model, module.ModelConfig))
    values = _shared(config, module.TrainingConfig) | {"model": model, "backend": backend}
    return module.TrainingConfig(**values | {"sequential_sampling": True, **settings})


def _shared(config: ModelConfig | TrainingConfig, theirs: Any) -> dict[str, Any]:
    known = {field.name for field in fields(theirs)}
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name in known}
    return {name: value for name, value in values.items() if value is not None}


def gate(config: Any) -> Any:
    """CONFIG-001: PtychoPINN's own `update_legacy_dict` into its own `params.cfg`; returns that module."""
    params = interface("ptycho.params", "cfg", "get_padded_size")
    interface("ptycho.config.config").update_legacy_dict(params.cfg, config)
    return params


class Adapter:
    """What both adapters say and do in the same words; see :class:`.protocol.Workflow`."""

    side: str
    capabilities = frozenset({"operators", "workflow", "trace"})
    precisions = ("float32",)

    def configure(self, config: TrainingConfig) -> dict[str, Any]:
        """See :class:`.protocol.Workflow`."""
        return dict(gate(their_config(config, self.side)).cfg)

    def given(self, scan_file: Path, config: TrainingConfig, folder: Path) -> tuple[Any, Any]:
        """The scan as its workflows want it, and its configuration."""
        theirs = their_config(config, self.side, train_data_file=scan_file, output_dir=folder)
        return interface("ptycho.workflows.components", "load_data").load_data(str(scan_file)), theirs


def local_offsets(offsets_px: NDArray[Any]) -> NDArray[np.float32]:
    """Positions ``(y, x)`` (groups, C, 2) as PtychoPINN holds them, (groups, 1, 2, C): by its own function."""
    raw_data = interface("ptycho.raw_data", "get_relative_coords")
    nearest = np.asarray(offsets_px)[..., ::-1].transpose(0, 2, 1)[:, None]
    return np.asarray(raw_data.get_relative_coords(nearest)[1], np.float32)


def fit(array: NDArray[Any], n: int) -> NDArray[Any]:
    """The middle (..., n, n) of an array, zeros around it where it is smaller."""
    apart = n - array.shape[-1]
    before = abs(apart) // 2
    if apart < 0:
        return array[..., before : before + n, before : before + n]
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(before, apart - before)] * 2)


def every_pixel(good: NDArray[Any]) -> None:
    """Refuse a detector mask.

    Raises
    ------
    NotImplementedError
        Some pixels are bad.
    """
    if not np.all(good):
        raise NotImplementedError("PtychoPINN knows no bad pixels")


def predicted(amplitude: Any, phase: Any, results: Any) -> dict[str, NDArray[Any]]:
    """Patches, the stitched object and the position of its middle pixel, of what both workflows return."""
    stitched = np.asarray(amplitude) * np.exp(1j * np.asarray(phase))
    positions = np.asarray(results["global_offsets"], np.float64).reshape(-1, 2)  # (x, y); the canvas is about the mean
    return {
        "patches": np.moveaxis(np.asarray(results["obj_tensor_full"]), -1, 1).astype(np.complex64),
        "stitched": np.squeeze(stitched).astype(np.complex64),
        "centre_px": positions.mean(axis=0)[::-1],
    }


def trained(results: Any) -> dict[str, NDArray[Any]]:
    """Losses of the epochs, of what both workflows return."""
    return {"losses": np.array(results["history"]["train_loss"], np.float64)}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`: PtychoPINN's workflows leave logs and checkpoints where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        yield
