"""What importing costs and what it must not load. Every measurement runs in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_notebooks import installed_plugin

import ptyint
from ptyint.backends import MODULES

FRAMEWORKS = ("tensorflow", "keras", "torch")
HEAVY = ("scipy", "skimage", "h5py", "pooch", "matplotlib", "papermill", "nbconvert", "tqdm", "ptychodus")
BACKENDS = {"tensorflow": "ptyint.backends.tensorflow", "pytorch": "ptyint.backends.pytorch"}

TRAIN = """
import numpy as np
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.dispatcher import train
from ptyint.scans.scan import Scan
rng = np.random.default_rng(0)
probe = np.zeros((1, 64, 64), np.complex64)
probe[:, 20:44, 20:44] = 1
scan = Scan(rng.poisson(9, (2, 64, 64)), rng.uniform(32, 40, (2, 2)), probe)
config = TrainingConfig(model=ModelConfig(n_filters_scale=1), nepochs=1, batch_size=2, **CHOICE)
result = train(scan, config)
"""


def python(code: str) -> str:
    """The last line that `code` prints in a fresh interpreter."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip().splitlines()[-1]


def loaded(code: str, *names: str) -> list[str]:
    """Which of the top-level modules `names` are loaded after `code`."""
    wanted = f"[name for name in {names!r} if name in sys.modules]"
    found: list[str] = json.loads(python(f"{code}\nimport sys, json\nprint(json.dumps({wanted}))"))
    return found


def test_import_loads_neither_framework_nor_anything_heavy() -> None:
    assert loaded("import ptyint", *FRAMEWORKS, *HEAVY) == []


def test_dispatcher_loads_neither_framework_nor_anything_heavy() -> None:
    assert loaded("import ptyint.dispatcher", *FRAMEWORKS, *HEAVY) == []


@pytest.mark.parametrize("collecting", [True, False])
def test_what_a_framework_makes_is_not_collected_and_the_collector_is_left_as_it_was(collecting: bool) -> None:
    """Looked at once: a second load freezes nothing that its user has made since."""
    code = f"""
import gc
from ptyint import backends
if not {collecting}:
    gc.disable()
backends.load("pytorch")
frozen = gc.get_freeze_count()
mine = [[] for _ in range(1000)]
backends.load("pytorch")
print(frozen > 10_000, gc.get_freeze_count() <= frozen, gc.isenabled())
"""
    assert python(code) == f"True True {collecting}"


def test_only_the_backends_modules_load_a_framework() -> None:
    found = pkgutil.walk_packages(ptyint.__path__, "ptyint.")
    watched = ("models.keras_model", "models.torch_module", "ptychopinn.tensorflow_network", "ptychopinn.torch_network")
    theirs = {*MODULES.values(), *(f"ptyint.backends.{name}" for name in watched)}
    modules = [module.name for module in found if module.name not in theirs]
    assert {"ptyint.dispatcher", "ptyint.backends.bundle", "ptyint.scans.npz", "ptyint.backends.protocol"} <= set(
        modules
    )
    assert loaded("import " + ", ".join(modules), *FRAMEWORKS) == []


@pytest.mark.parametrize(
    ("choice", "chosen", "other"),
    [
        ("{}", "tensorflow", "torch"),
        ("{'backend': 'tensorflow'}", "tensorflow", "torch"),
        ("{'backend': 'pytorch'}", "torch", "tensorflow"),
    ],
    ids=["default", "tensorflow", "pytorch"],
)
def test_training_imports_the_chosen_framework_and_never_the_other(choice: str, chosen: str, other: str) -> None:
    code = f"CHOICE = {choice}\n{TRAIN}"
    module = BACKENDS["pytorch" if chosen == "torch" else "tensorflow"]
    (unchosen,) = set(BACKENDS.values()) - {module}
    foreign = [other, unchosen, *(["keras"] if chosen == "torch" else [])]
    assert loaded(code, chosen, module, *foreign) == [chosen, module]


@pytest.mark.parametrize(
    "module, own, foreign", [("tensorflow", "tensorflow", "torch"), ("pytorch", "torch", "tensorflow")]
)
def test_the_backends_are_independent(module: str, own: str, foreign: str) -> None:
    """Neither imports the referee's operators or the other backend, anywhere in its source."""
    source = Path(ptyint.__path__[0], "backends", f"{module}.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    assert own in {name.split(".")[0] for name in imported}
    assert foreign not in {name.split(".")[0] for name in imported}
    others = {"ptyint.scans.forward", "ptyint.backends.numpy", "ptyint.images.stitch", *BACKENDS.values()}
    assert not others & imported


def test_no_plugin_that_happens_to_be_installed_sees_the_manifests_models(tmp_path: Path) -> None:
    installed_plugin(tmp_path, "pydantic", "print('loaded')\n")
    found = []
    for chosen in ({}, {"PYDANTIC_DISABLE_PLUGINS": "false"}):
        command = [sys.executable, "-c", "import ptyint.evidence.manifest"]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), **chosen}
        found.append("loaded" in subprocess.run(command, env=env, capture_output=True, text=True).stdout)
    assert found == [False, True], "what the user says holds"
