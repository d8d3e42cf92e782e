"""Which backend runs, what has happened by then, and what comes back. Each answer from a process of its own.

Runs without torch, too, and then fails with the dispatcher's advice (``TORCH_OPTIONAL`` in ``tests/conftest.py``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from full_cycle import run_python

import ptyint

SETUP = """
import json, sys
import numpy as np
import ptyint
from ptyint import dispatcher
from ptyint.backends.bundle import save_bundle
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig, params
from ptyint.images.reconstruction import assemble
from ptyint.scans.fixtures import load_fixture
from ptyint.backends.weights import initial_weights

scan = load_fixture("tiny-64")

def model(gridsize):
    return ModelConfig(n_filters_scale=1, gridsize=gridsize)

def report(**facts):
    facts["imported"] = sorted({"tensorflow", "torch"} & set(sys.modules))
    facts["ptyint"] = ptyint.__file__
    print(json.dumps(facts))
"""

TRAIN_AND_INFER = """
CHOICE = {choice}
config = TrainingConfig(model=model(1), nepochs=1, n_groups=4, batch_size=4, **CHOICE)
trained = dispatcher.train(scan, config)
path = save_bundle({folder!r}, trained.weights, config, trained.backend)
inferred = dispatcher.infer(scan, InferenceConfig(model=model(1), model_path=path, n_groups=4, **CHOICE))
image = assemble(inferred)
loss, object_ = trained.history.losses[0], image.object_[image.covered]
report(backends=[trained.backend, inferred.backend], finite=bool(np.isfinite(loss) and np.isfinite(object_).all()))
"""

GATE = """
seen = []

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            seen.append(dict(params.cfg))

sys.meta_path.insert(0, Watcher())
params.cfg.update({"N": 256, "gridsize": 1, "backend": "stale", "object.big": False, "nepochs": 99})
dispatcher.select_backend(TrainingConfig(model=model(2), nepochs=7, backend="pytorch"))
report(seen=seen)
"""

PATCHES = """
config = InferenceConfig(model=model(2), n_groups=6, batch_size=4, backend="pytorch")
result = assemble(dispatcher.infer(scan, config, initial_weights(config.model, scan.probe, 0)))
patches, probe, object_ = result.object_patches, result.probe, result.object_
finite = all(bool(np.isfinite(array).all()) for array in (patches, probe, object_))
report(dtypes=[str(patches.dtype), str(probe.dtype)], shape=patches.shape, stitched=object_.dtype.kind, finite=finite)
"""

REFUSED = """
try:
    dispatcher.train(scan, TrainingConfig(model=model(1), nepochs=1, backend="pytorch"))
except RuntimeError as error:
    kind = [base.__name__ for base in type(error).__mro__]
    report(message=str(error), kind=kind, cause=type(error.__cause__).__name__, backend=params.cfg["backend"])
"""


def ask(code: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What `code` reports in a fresh process that uses the same package as this one."""
    facts: dict[str, Any] = json.loads(run_python("-c", SETUP + code, env=env).splitlines()[-1])
    assert facts["ptyint"] == ptyint.__file__
    return facts


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Environment in which ``import torch`` says that there is no such module."""
    package = tmp_path / "shadow" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(package.parent), *([inherited] if inherited else [])])}


def test_integration_pytorch_is_selected_by_name_and_runs(tmp_path: Path) -> None:
    facts = ask(TRAIN_AND_INFER.format(choice={"backend": "pytorch"}, folder=str(tmp_path)))
    assert facts["backends"] == ["pytorch", "pytorch"] and facts["imported"] == ["torch"]
    assert facts["finite"]


def test_integration_the_gate_runs_before_torch_is_imported() -> None:
    """CONFIG-001: at the first look for torch, `params.cfg` already holds the new configuration."""
    facts = ask(GATE)
    expected = {"N": 64, "gridsize": 2, "backend": "pytorch", "object.big": True, "nepochs": 7}
    assert facts["imported"] == ["torch"]
    assert {name: facts["seen"][0][name] for name in expected} == expected


def test_integration_pytorch_object_patches_are_complex64() -> None:
    """DATA-001, from untrained weights."""
    facts = ask(PATCHES)
    assert facts["dtypes"] == ["complex64", "complex64"] and facts["stitched"] == "c"
    assert facts["shape"] == [6, 4, 64, 64] and facts["finite"]


def test_integration_tensorflow_is_the_default(tmp_path: Path) -> None:
    facts = ask(TRAIN_AND_INFER.format(choice={}, folder=str(tmp_path)))
    assert facts["backends"] == ["tensorflow", "tensorflow"] and facts["imported"] == ["tensorflow"]
    assert facts["finite"]


def test_missing_torch_is_an_actionable_runtimeerror(without_torch: dict[str, str]) -> None:
    """POLICY-001: which module is missing, how to install it, and no fallback."""
    facts = ask(REFUSED, env=without_torch)
    assert facts["kind"][:2] == ["BackendUnavailableError", "PtyintError"] and "RuntimeError" in facts["kind"]
    assert "PyTorch backend selected (backend='pytorch')" in facts["message"]
    assert "No module named 'torch'" in facts["message"] and "`pip install torch`" in facts["message"]
    assert facts["cause"] == "ModuleNotFoundError" and facts["imported"] == [] and facts["backend"] == "pytorch"
