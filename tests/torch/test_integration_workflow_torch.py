"""PyTorch's full cycle on the integration fixture, and what TensorFlow must keep doing.

Runs without torch, too, and then fails with the dispatcher's advice (``TORCH_OPTIONAL`` in ``tests/conftest.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_cycle import check_cycle, check_equal, check_facts, full_cycle, step


@pytest.mark.parametrize("gridsize", [pytest.param(1, id="gridsize1"), pytest.param(2, id="gridsize2")])
def test_full_cycle(gridsize: int, tmp_path: Path, record_property: Callable[[str, Any], None]) -> None:
    cycle = full_cycle(tmp_path, gridsize, backend="pytorch")
    for name, value in cycle.properties().items():
        record_property(name, value)
    check_cycle(cycle, "pytorch")


def test_tensorflow_reads_the_bundle_that_pytorch_trained(tmp_path: Path) -> None:
    trained = step("train", tmp_path / "trained", 2, backend="pytorch", nepochs=1)
    patches = {}
    for backend in ("pytorch", "tensorflow"):
        loaded = step("infer", tmp_path / backend, 2, bundle=trained.folder, backend=backend)
        assert loaded.reconstruction.backend == backend
        patches[backend] = np.load(loaded.folder / "object_patches.npy")
        check_equal(loaded.reconstruction.object_, trained.reconstruction.object_)
    assert patches["pytorch"].dtype == np.complex64 and np.ptp(abs(patches["pytorch"])) > 0
    check_equal(patches["tensorflow"], patches["pytorch"])


def test_the_default_backend_is_still_tensorflow_and_never_imports_torch(tmp_path: Path) -> None:
    """The same with and without torch."""
    trained = step("train", tmp_path / "trained", 1, nepochs=1)
    for one in (trained, step("infer", tmp_path / "loaded", 1, bundle=trained.folder)):
        check_facts(one, "tensorflow")
