"""What the ladder does not measure of a backend, in a process of its own: ``python backend_arrays.py BACKEND FILE``."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint.dispatcher import train
from ptyint.parity.configurations import TRAININGS, Case, inputs_of

LARGE = Case({"N": 256}, patterns=1)
NEPOCHS = 6
TRAINED = ("gridsize 1", "gridsize 2")


def count_calls(model: Any) -> list[int]:
    """Make a network class count how often Python runs its forward pass."""
    calls, method = [0], "call" if hasattr(model, "call") else "forward"
    forward = getattr(model, method)

    def counting(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        return forward(*arguments, **keywords)

    setattr(model, method, counting)
    return calls


def run(name: str, target: Path) -> None:
    backend: Any = backends.load(name)
    arrays: dict[str, Any] = {"describe": np.array(json.dumps(backend.describe()))}
    for precision in ("float32", "float64"):
        batch, weights, good = inputs_of(LARGE, precision)
        traced = backend.build(LARGE.config, weights, good, precision).trace(batch)
        arrays |= {f"{precision}/{tap}": traced[tap] for tap in ("object_patches", "expected_intensity", "loss")}
    calls = count_calls(sys.modules[backends.MODULES[name]].PtychoNet)
    for training in (TRAININGS[training] for training in TRAINED):
        history = train(training.scan(), replace(training.plain, backend=name, nepochs=NEPOCHS)).history
        arrays[f"losses/{training.plain.model.gridsize}"] = history.losses
    arrays["forward calls"] = np.array(calls[0])
    np.savez(target, **arrays)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]))
