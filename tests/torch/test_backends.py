"""Both backends beyond the ladder: the largest network, what they say of themselves, and that training learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_arrays import NEPOCHS

from ptyint.backends.numpy import poisson_nll
from ptyint.parity.compare import difference
from ptyint.parity.configurations import TRAININGS
from ptyint.parity.tolerances import TOLERANCES
from ptyint.parity.worker import ONE_THREAD
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

BACKENDS = ("tensorflow", "pytorch")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    folder = tmp_path_factory.mktemp("backends")
    for backend in BACKENDS:
        script = Path(__file__).with_name("backend_arrays.py")
        command = [sys.executable, str(script), backend, str(folder / f"{backend}.npz")]
        run = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr[-4000:]
    with np.load(folder / "tensorflow.npz") as tensorflow, np.load(folder / "pytorch.npz") as pytorch:
        yield {"tensorflow": tensorflow, "pytorch": pytorch}


@pytest.mark.parametrize("backend, module", [("tensorflow", "tensorflow"), ("pytorch", "torch")])
def test_describe_tells_version_device_threads_and_determinism(backend: str, module: str, arrays: Any) -> None:
    found = json.loads(str(arrays[backend]["describe"]))
    assert found["backend"] == backend and version(module) in found["version"]
    assert isinstance(found["device"], str) and found["threads"] >= 1 and isinstance(found["deterministic"], bool)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("tap", ["object_patches", "expected_intensity", "loss"])
def test_the_largest_network_is_the_same(precision: str, tap: str, arrays: Any) -> None:
    found = difference(*(arrays[backend][f"{precision}/{tap}"] for backend in ("pytorch", "tensorflow")))
    assert found.norm < TOLERANCES["forward"].at(precision), found


def test_the_training_step_is_compiled_in_tensorflow(arrays: Any) -> None:
    """Python runs the forward pass of 2 trainings x 6 epochs x 3 steps only to trace it, once a batch shape."""
    assert arrays["pytorch"]["forward calls"] == 36
    assert arrays["tensorflow"]["forward calls"] <= 8


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_loss_falls_on_the_tiny_fixture(backend: str, gridsize: int, arrays: Any) -> None:
    """Towards the loss of a model that predicts every count exactly, below which no model gets."""
    data = GroupedScan.from_config(load_fixture("tiny-64"), TRAININGS[f"gridsize {gridsize}"].plain)
    counts = data.batch(np.arange(data.groups.n_groups), "float64").counts
    perfect = poisson_nll(counts, np.maximum(counts - 0.01, 0))
    losses, *others = (arrays[one][f"losses/{gridsize}"] for one in sorted(BACKENDS, key=lambda one: one != backend))
    assert losses.shape == (NEPOCHS,) and (losses > perfect).all()
    rounding = max(abs(losses - other).max() for other in others)  # of two trainings from the same weights
    assert losses[0] - losses[-1] > 100 * rounding
