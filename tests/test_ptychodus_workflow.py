"""Backends that train and infer by a workflow of their own, in Ptychodus: a plug-in, and a stand-in for PtychoPINN."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import ptychodus_runs as runs
import pytest
from ptychodus.api.io import load_product
from ptychodus.api.settings import SettingsRegistry

from ptyint import backends
from ptyint.backends.bundle import save_bundle
from ptyint.backends.weights import initial_weights
from ptyint.config import ModelConfig, TrainingConfig, params
from ptyint.errors import BackendUnavailableError, BundleError
from ptyint.ptychodus import child
from ptyint.ptychodus.library import PtyintLibrary
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

FAKE = Path(__file__).parent / "fake_ptycho"
MODEL, PRODUCT = "model.h5.zip", "product.h5"

PLUGIN = """
import numpy as np


class Backend:
    precisions, frameworks = ("float32",), ()

    def __init__(self, name, capability):
        self.name, self.capabilities = name, frozenset({capability})

    def describe(self):
        return {"backend": self.name, "version": "1"}

    def configure(self, config):
        return {}

    def run(self, scan_file, config, folder, M=20):
        (folder / "deep").mkdir()
        (folder / "deep" / "model").write_text("2.0")
        return {**self.reload(scan_file, config, folder, M), "losses": np.arange(config.nepochs, 0.0, -1)}

    def reload(self, scan_file, config, folder, M=20):
        value = float((folder / "deep" / "model").read_text())
        with np.load(scan_file) as scan:
            centre, n, probe = (scan["ycoords"].mean(), scan["xcoords"].mean()), len(scan["diff3d"]), scan["probeGuess"]
        stitched = np.full((2 * M, 2 * M), value, np.complex64)
        return {"patches": np.ones((n, 1, 64, 64)), "stitched": stitched, "centre_px": np.array(centre), "probe": probe}


mine, idle = Backend("mine", "workflow"), Backend("idle", "operators")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the backends ``mine``, which has a workflow, and ``idle``, which cannot train."""
    info = tmp_path / "site" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ptyint.backends]\nmine = ptychodus_mine:mine\nidle = ptychodus_mine:idle\n"
    )
    (tmp_path / "site" / "ptychodus_mine.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "site")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the only NPZ in it."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_scan(load_fixture("tiny-64"), folder / "scan.npz")
    return folder


@pytest.fixture
def model(plugin: None, source: Path, tmp_path: Path) -> Path:
    """What the backend ``mine`` trained; the process that did it is as it was."""
    before = dict(os.environ)
    child.train(lambda epoch: None, source, config("mine"), tmp_path / MODEL)
    assert os.environ == before
    return tmp_path / MODEL


def config(backend: str) -> TrainingConfig:
    return TrainingConfig(ModelConfig(n_filters_scale=1), nepochs=3, backend=backend)


def inferred(source: Path, model: Path, backend: str) -> Any:
    sent: list[Any] = []
    child.infer(sent.append, source / "scan.npz", model, backend, 12)
    (one,) = sent
    return one


def test_every_backend_of_the_table_has_an_algorithm(plugin: None) -> None:
    names = [one.name for one in PtyintLibrary(SettingsRegistry(), lambda: False)]
    assert names == backends.names() and {*backends.MODULES, "mine", "idle"} <= {*names}


def test_a_workflow_trains_and_its_folder_is_one_file(plugin: None, source: Path, tmp_path: Path) -> None:
    sent: list[Any] = []
    child.train(sent.append, source, config("mine"), tmp_path / MODEL)
    assert [(one.number, one.loss) for one in sent] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    with zipfile.ZipFile(tmp_path / MODEL) as archive:
        assert {"ptyint.json", "deep/model", "reconstruction.h5"} == {*archive.namelist()} - {"deep/"}
        assert json.loads(archive.read("ptyint.json"))["backend"] == "mine"


def test_the_model_reconstructs_on_the_grid_of_the_scan(model: Path, source: Path) -> None:
    scan = load_fixture("tiny-64")
    object_, probe, losses = inferred(source, model, "mine")
    assert scan.object_ is not None and object_.shape == scan.object_.shape and object_.dtype == np.complex64
    assert np.count_nonzero(object_) == 24 * 24 and probe.shape == scan.probe.shape and losses == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("backend", ["tensorflow", "numpy", "ptychopinn-pytorch"])
def test_another_backend_is_refused_the_model_before_it_is_looked_at(
    backend: str, model: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "load", None)
    words = rf"made by 'mine', and '{backend}' cannot load it. Choose Algorithm = ptyint_mine, or train a model with"
    with pytest.raises(BundleError, match=words):
        inferred(source, model, backend)


def test_a_workflow_is_refused_the_weights_of_another(plugin: None, source: Path, tmp_path: Path) -> None:
    own = config("numpy")
    save_bundle(tmp_path / MODEL, initial_weights(own.model, np.ones((1, 64, 64), np.complex64), 0), own, "numpy")
    with pytest.raises(BundleError, match=r"made by .numpy., and .mine. cannot load it"):
        inferred(source, tmp_path / MODEL, "mine")


def test_the_gate_comes_before_the_backend(
    plugin: None, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, load = [], backends.load
    monkeypatch.setattr(params, "cfg", {})
    monkeypatch.setattr(backends, "load", lambda name: held.append(dict(params.cfg)) or load(name))
    child.train(lambda epoch: None, source, config("mine"), tmp_path / MODEL)
    params.cfg.clear()
    inferred(source, tmp_path / MODEL, "mine")
    assert len(held) > 2 and all(one["nepochs"] == 3 and one["N"] == 64 for one in held)


def test_a_backend_that_cannot_train_says_so(plugin: None, source: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="'idle' neither takes canonical weights nor has a workflow"):
        child.train(lambda epoch: None, source, config("idle"), tmp_path / MODEL)
    assert not (tmp_path / MODEL).exists()


def test_a_damaged_model_is_refused(model: Path, source: Path) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="not a readable bundle"):
        inferred(source, model, "mine")
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("ptyint.json", json.dumps({"backend": "mine", "epochs": 3}))
    with pytest.raises(BundleError, match=r"is not a readable model: .*epochs"):
        inferred(source, model, "mine")


def test_a_model_that_unpacks_to_far_more_than_it_is_is_refused_before(model: Path, source: Path) -> None:
    with zipfile.ZipFile(model, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**26))
    words = r"is not a readable model: it unpacks to \d+ bytes from \d+; allowed: 100 times as many"
    with pytest.raises(BundleError, match=words):
        inferred(source, model, "mine")


# --- PtychoPINN itself ---

READ = """
import sys, numpy
from ptycho.raw_data import RawData
from ptycho.workflows.components import load_data
one, other = RawData.from_file(sys.argv[1]), load_data(sys.argv[1])
assert numpy.array_equal(one.diff3d, other.diff3d)
fields = dict(patterns=one.diff3d, x=one.xcoords, y=one.ycoords, probe=one.probeGuess, object=one.objectGuess)
numpy.savez(sys.argv[2], **fields)
"""


@pytest.mark.ptychopinn
def test_both_of_ptychopinns_readers_take_what_is_written(source: Path, tmp_path: Path) -> None:
    if find_spec("ptycho") is None:
        pytest.skip("PtychoPINN is not installed; `pip install -e CHECKOUT` in an environment of its own")
    command = [sys.executable, "-c", READ, str(source / "scan.npz"), str(tmp_path / "read.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    scan = load_fixture("tiny-64")
    with np.load(tmp_path / "read.npz") as read:
        np.testing.assert_array_equal(read["patterns"], np.sqrt(scan.counts()))
        np.testing.assert_array_equal(read["x"], scan.probe_positions_px[:, 1])
        np.testing.assert_array_equal(read["y"], scan.probe_positions_px[:, 0])
        np.testing.assert_array_equal(read["probe"], scan.probe[0])
        np.testing.assert_array_equal(read["object"], scan.object_)


# --- the application ---


def algorithm(tmp_path: Path, backend: str) -> Path:
    product = runs.truth(modes=1)
    return runs.write_input(tmp_path / "application", f"ptyint_{backend}", runs.flat(product), runs.counts(product))


@pytest.mark.slow
@pytest.mark.parametrize("side", ["tensorflow", "pytorch"])
def test_ptychopinns_own_workflow_in_the_application(side: str, tmp_path: Path) -> None:
    source = algorithm(tmp_path, f"ptychopinn-{side}")
    path = os.pathsep.join(filter(None, [str(FAKE), os.environ.get("PYTHONPATH", "")]))
    env = {**runs.environment(), "PYTHONPATH": path}
    trained = runs.run("train", source, tmp_path / "trained", env=env)
    assert (trained.code, trained.files) == (0, [MODEL]), trained.log[-3000:] + trained.errors[-3000:]
    assert f"ptychopinn-{side}: epoch 1 of 1, loss 1" in trained.log and "FRAMEWORKS []" in trained.errors
    shutil.copy(tmp_path / "trained" / MODEL, source)
    done = runs.run("reconstruct", source, tmp_path / "out", env=env)
    assert (done.code, done.files) == (0, [PRODUCT]), done.log[-3000:] + done.errors[-3000:]
    given, made = load_product(source / PRODUCT), load_product(tmp_path / "out" / PRODUCT)
    assert made.object_.get_geometry() == given.object_.get_geometry() and len(made.losses) == 1
    assert np.count_nonzero(made.object_.get_array()) and "FRAMEWORKS []" in done.errors


def test_without_ptychopinn_there_is_no_fallback(tmp_path: Path) -> None:
    if find_spec("ptycho"):
        pytest.skip("PtychoPINN is installed")
    done = runs.run("train", algorithm(tmp_path, "ptychopinn-pytorch"), tmp_path / "out")
    assert (done.code, done.files) == (1, [])
    assert (
        "PtychoPINN's PyTorch backend selected (backend='ptychopinn-pytorch'), but 'ptycho_torch' cannot be" in done.log
    )
