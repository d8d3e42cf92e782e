"""Backends that reconstruct by a workflow of their own: on the scan's grid, in its units, through the stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptyint import TrainingConfig, load_fixture, reconstruct
from ptyint.backends import ABOUT, MODULES
from ptyint.backends.protocol import Workflow
from ptyint.cli import main
from ptyint.config import ModelConfig
from ptyint.errors import BackendUnavailableError, ConfigError
from ptyint.images.comparison import UNTOLD
from ptyint.images.metrics import compare_objects
from ptyint.images.workflow import reload, run
from ptyint.scans.batches import GroupedScan
from ptyint.scans.files import read_scan
from ptyint.scans.scan import Scan
from ptyint.stages import jobs_of
from ptyint.stages.request import Request

FAKE = Path(__file__).parent / "fake_ptycho"
UPSTREAM = ("ptychopinn-tensorflow", "ptychopinn-pytorch")
BRIGHTER = 3.0


class Knows:
    """Stitches the true object, in units of its own, about the mean of the positions that it was given."""

    name, capabilities, precisions, frameworks = "knows", frozenset({"workflow"}), ("float32",), ()
    moved = (0, 0)

    def __init__(self, scan: Scan) -> None:
        self.scan = scan

    def describe(self) -> dict[str, Any]:
        return {"backend": self.name, "version": "1"}

    def configure(self, config: TrainingConfig) -> dict[str, Any]:
        return {"N": config.model.N, "nepochs": config.nepochs, "gridsize": 7}

    def initial_weights(self, config: TrainingConfig) -> dict[str, Any]:
        return {}

    def run(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, Any]:
        assert read_scan(scan_file).n == config.n_groups == self.scan.n
        (folder / "saved").write_text(str(config.nphotons))
        probe = BRIGHTER * self.scan.probe[0]
        return {**self.answer(M), "probe": probe, "losses": [2.0, 1.0], "inputs": None, "patches": np.ones((16, 1))}

    def reload(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, Any]:
        assert float((folder / "saved").read_text()) == config.nphotons
        return self.answer(M)

    def answer(self, M: int) -> dict[str, Any]:
        """A canvas of an odd and an even edge, whose middle pixel is what is nearest to the mean position."""
        centre = np.rint(self.scan.probe_positions_px.mean(axis=0))
        y, x = centre.astype(int)
        scale = BRIGHTER * np.sqrt(GroupedScan.from_config(self.scan, TrainingConfig()).count_scale)
        assert self.scan.object_ is not None
        return {
            "stitched": self.scan.object_[y - 12 : y + 13, x - 14 : x + 14] / scale,
            "centre_px": centre + self.moved + 0.3,
        }


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> Scan:
    scan = load_fixture("tiny-64")
    backend = Knows(scan)
    assert isinstance(backend, Workflow)
    monkeypatch.setitem(sys.modules, "knows", SimpleNamespace(BACKEND=backend))  # type: ignore[arg-type]
    monkeypatch.setitem(MODULES, "knows", "knows")
    monkeypatch.setitem(ABOUT, "knows", ("Knows", "knows", "-"))
    return scan


def test_a_canvas_is_laid_on_the_grid_in_the_units_of_the_scan(knows: Scan, tmp_path: Path) -> None:
    made = reconstruct(knows, TrainingConfig(ModelConfig(), backend="knows"), tmp_path)
    assert made.ground_truth is not None and made.object_.shape == made.ground_truth.shape
    seen = made.coverage > 0
    assert seen.sum() == 25 * 28
    np.testing.assert_allclose(made.object_[seen], made.ground_truth[seen], rtol=1e-5)
    np.testing.assert_allclose(made.probe, knows.probe, rtol=1e-5)
    gauge = compare_objects(made.object_, made.ground_truth, made.scanned).gauge
    assert abs(np.log(gauge.scale)) < 1e-5 and np.abs(gauge.shift_px).max() < 1e-3
    assert made.facts["groups_sha256"] is made.facts["initial_weights_sha256"] is None
    assert "gridsize" in made.facts["not_taken"] and "nepochs" not in made.facts["not_taken"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reconstruction.h5", "saved"]


def test_a_canvas_beyond_the_grid_is_cut_to_it(knows: Scan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = TrainingConfig(ModelConfig(), backend="knows")
    run(knows, config, tmp_path)
    for corner in ((-50, -50), (0, 50), (50, 0)):  # away from the middle, by more than there is room for
        monkeypatch.setattr(Knows, "moved", corner)
        made = reload(knows, config, tmp_path)
        seen = np.argwhere(made.coverage > 0)
        assert 0 < len(seen) < 25 * 28 and made.object_.shape == (88, 88)
        assert {0, 87} & set(np.concatenate([seen.min(axis=0), seen.max(axis=0)]))
    monkeypatch.setattr(Knows, "moved", (0, 80))
    assert not reload(knows, config, tmp_path).coverage.any()


def test_a_backend_that_cannot_reconstruct_is_refused(
    knows: Scan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Knows, "capabilities", frozenset({"operators"}))
    with pytest.raises(BackendUnavailableError, match=r"'knows' neither takes .* \['operators'\]"):
        reconstruct(knows, TrainingConfig(ModelConfig(), backend="knows"), tmp_path)


@pytest.mark.parametrize("stage", ["scan", "e2a", "e2d"])
def test_a_stage_compares_two_different_backends(stage: str) -> None:
    with pytest.raises(ConfigError, match="both 'pytorch'"):
        jobs_of(Request((stage,), parameters={"reference": "pytorch"}))


@pytest.mark.parametrize("stage", ["scan", "e2a", "e2d", "ladder"])
def test_a_backend_that_is_not_there_is_told_before_anything_starts(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("ptycho_torch"):
        pytest.skip("PtychoPINN is installed")
    command = ["run", stage, "-p", "candidate", UPSTREAM[1], "--reports", str(tmp_path / "reports")]
    assert main(command) == 2
    assert "github.com/hoidn/PtychoPINN" in capsys.readouterr().err and not (tmp_path / "reports").exists()


def run_stages(folder: Path, *arguments: str) -> tuple[int, Path]:
    path = os.pathsep.join(filter(None, [str(FAKE), os.environ.get("PYTHONPATH", "")]))
    command = [
        sys.executable,
        "-m",
        "ptyint.cli",
        "run",
        *arguments,
        "--reports",
        str(folder),
        "--ledger",
        str(folder / "l.md"),
    ]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    made = [one for one in folder.iterdir() if (one / "manifest.json").is_file()]
    assert len(made) == 1, ended.stdout + ended.stderr
    return ended.returncode, made[0]


def checks_of(page: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(page.read_text())["checks"]}


@pytest.mark.slow
def test_a_scan_through_both_workflows_side_by_side(tmp_path: Path) -> None:
    pair = ["-p", "reference", UPSTREAM[0], "-p", "candidate", UPSTREAM[1]]
    code, made = run_stages(
        tmp_path, "scan", *pair, "--fixture", "tiny-64", "-p", "nepochs", "2", "-p", "nphotons", "1e5"
    )
    assert code == 1  # nobody can tell whether groups and first weights are the same
    seen = checks_of(made / "comparison.json")
    assert {name for name, one in seen.items() if one["verdict"] == "not available"} == {
        "same groups", "same initial weights",
    }  # fmt: skip
    assert seen["same groups"]["note"] == UNTOLD and seen["same config"]["verdict"] == "pass"
    assert seen["phase correlation of the two backends"]["verdict"] == "pass"
    assert seen["phase correlation of the two backends"]["measured"] > 0.999
    for name in UPSTREAM:
        assert (made / name / "workflow.log").is_file() and not list((made / name).glob(".scan-*"))
        assert "not taken" in (made / f"{name}.html").read_text()


@pytest.mark.slow
def test_the_cycles_of_a_pair_in_processes_of_their_own(tmp_path: Path) -> None:
    """E2.A times them and E2.D compares them; the stand-in predicts images without contrast, which its tests say."""
    pair = ["-p", "reference", UPSTREAM[0], "-p", "candidate", UPSTREAM[1]]
    code, made = run_stages(tmp_path, "e2a", "e2d", *pair, "-p", "fixtures", "tiny-64")
    assert code == 1
    for name in UPSTREAM:
        log = (made / f"phase_e_{name}_run.log").read_text()
        assert f"--backend {name}" in log and "test_full_cycle[gridsize2]" in log
        assert f"runtime budget measured for {name}" in (made / "e2a.html").read_text()
        for gridsize in (1, 2):
            assert (made / f"cycles/{name}-gridsize{gridsize}/reconstruction.h5").is_file()
    page = (made / "e2d.html").read_text()
    assert "PtychoPINN's PyTorch" in page.replace("&#x27;", "'").replace("&#39;", "'")
    assert f"full cycle ran and passed: {UPSTREAM[0]}, gridsize 1" in page
    assert "full cycle ran and passed: tensorflow" not in page
