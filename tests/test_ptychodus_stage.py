"""The stage ``ptychodus`` of the evidence: declared, run, shown, and never a pass without Ptychodus."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, accessibility_problems, overflow_px, requests_of
from cells import failed, record_of, run_cells, table_of
from reconstructions import make

from ptyint.config import TrainingConfig
from ptyint.errors import ChildError, ConfigError, PtychodusUnavailableError, UnknownBackendError
from ptyint.evidence import manifest
from ptyint.evidence.display import Fragment, Picture
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.ptychodus import command
from ptyint.scans import fixtures
from ptyint.scans.fixtures import load_fixture
from ptyint.stages import PROFILES, jobs_of, ptychodus
from ptyint.stages.ptychodus import Agreement, Step
from ptyint.stages.request import BACKENDS, Request

BOUNDS = parameter_defaults(notebook_path("ptychodus"))


THEIRS = ("ptychopinn-tensorflow", "ptychopinn-pytorch")

FROZEN = """Traceback (most recent call last):
  File "_subprocess.py", line 134, in run_train
dataclasses.FrozenInstanceError: cannot assign to field 'N'

2026-11-28 18:59:30,160 [ERROR] ptychodus: Training failed: ChildError: Subprocess raised FrozenInstanceError:
Traceback (most recent call last):
dataclasses.FrozenInstanceError: cannot assign to field 'N'

2026-11-28 18:59:30,161 [INFO] ptychodus.model.task_manager: Stopping task manager...
"""


def agreed(pair: tuple[str, str] = BACKENDS) -> Agreement:
    """What a run in which everything agrees comes to, made by hand."""
    scan = load_fixture("tiny-64")
    direct = {backend: make(backend) for backend in pair}
    size = direct[pair[0]].object_.shape
    scan = replace(scan, object_=direct[pair[0]].ground_truth, pixel_size_m=1e-8)
    given = replace(scan, object_=np.ones(size, np.complex64))
    inside = {backend: replace(scan, object_=one.object_) for backend, one in direct.items()}
    wanted = {"train": (0, ("model.h5.zip",)), "reconstruct": (0, ("product.h5",)), "direct": (0, ())}
    steps = {
        f"{backend} {name}": Step({"exit_code": code, "log": f"{name}.log"}, files, "")
        for backend in direct
        for name, (code, files) in wanted.items()
    }
    steps[ptychodus.STOCK] = Step({"exit_code": 0, "log": "stock.log"}, (), "")
    steps[ptychodus.REFUSED] = Step(
        {"exit_code": 1, "log": "ptyint.log"}, (), "Algorithm 'ptyint_tensorflw' is not available."
    )
    losses = {backend: one.losses for backend, one in direct.items()}
    return Agreement(scan, given, direct, inside, losses, steps, {}, "1.7.0")


def failures(one: Agreement) -> list[str]:
    return [check.name for check in ptychodus.checks(one, BOUNDS) if not check.passed]


@pytest.mark.parametrize("truth", [True, False])
def test_every_check_is_declared(truth: bool) -> None:
    one = agreed()
    one = replace(one, scan=replace(one.scan, object_is_truth=truth))
    assert [check.name for check in ptychodus.checks(one, BOUNDS)] == [
        criterion.name for criterion in ptychodus.criteria(truth, BACKENDS)
    ]
    assert failures(one) == []


def test_a_bound_that_is_not_given_passes_nothing() -> None:
    bounded = [criterion for criterion in ptychodus.criteria(True, BACKENDS) if criterion.parameter]
    assert len(bounded) == 6 and {criterion.parameter for criterion in bounded} < BOUNDS.keys()
    assert not any(criterion.measured(value).passed for criterion in bounded for value in (0.0, 1.0))


def inside(one: Agreement, backend: str, **changes: Any) -> Agreement:
    return replace(one, inside={**one.inside, backend: replace(one.inside[backend], **changes)})


def test_each_check_can_fail() -> None:
    one, names = agreed(), [criterion.name for criterion in ptychodus.criteria(True, BACKENDS)]
    image, positions = ptychodus.object_of(one.given) * 0, one.given.probe_positions_px
    image[20, 20] = 1e-3
    image += ptychodus.object_of(one.inside["tensorflow"])
    half = Step({"exit_code": 0}, ("half", "files"), "")
    cases = {
        names[0]: replace(one, steps={**one.steps, "tensorflow train": half}),
        names[7]: replace(one, steps={**one.steps, "pytorch reconstruct": half}),
        names[2]: inside(one, "tensorflow", probe_positions_px=positions + 1e-3),
        names[3]: replace(one, losses={**one.losses, "tensorflow": one.losses["tensorflow"][:-1]}),
        names[4]: inside(one, "tensorflow", object_=image),
        ptychodus.STOCK: replace(one, steps={**one.steps, ptychodus.STOCK: half}),
        ptychodus.REFUSED: replace(one, steps={**one.steps, ptychodus.REFUSED: Step({"exit_code": 1}, (), "")}),
    }
    for name, broken in cases.items():
        assert failures(broken) == [name]
    turned = inside(one, "pytorch", object_=2 * image[::-1])
    assert failures(turned) == [*names[10:12], ptychodus.AGREEMENT, ptychodus.SCALE]


def test_it_is_in_the_full_profile_only() -> None:
    assert "ptychodus" in PROFILES["full"] and "ptychodus" not in PROFILES["quick"]


@pytest.mark.parametrize("name", ["fixture", "ptychodus.fixture"])
@pytest.mark.parametrize(("dataset", "truth"), [("tiny-64", True), ("siemens-star-64", False)])
def test_its_checks_follow_the_dataset(
    dataset: str, truth: bool, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not truth:
        request.getfixturevalue("star_file")  # or the test is skipped
    (job,) = jobs_of(Request(("ptychodus",), tmp_path, parameters={name: dataset}))
    assert job.expects == ptychodus.criteria(truth, BACKENDS) and job.parameters == {"fixture": dataset}


@pytest.mark.parametrize("pair", [("numpy", "pytorch"), ("tensorflow", "numpy")])
def test_its_checks_and_artifacts_follow_the_pair(pair: tuple[str, str], tmp_path: Path) -> None:
    asked = {"reference": pair[0], "ptychodus.candidate": pair[1]}
    (job,) = jobs_of(Request(("ptychodus",), tmp_path, parameters=asked))
    assert job.expects == ptychodus.criteria(True, pair) and job.parameters == {
        "reference": pair[0],
        "candidate": pair[1],
    }
    assert job.artifacts[:2] == tuple(f"ptychodus/{pair[0]}/{name}" for name in ("model.h5.zip", "product.h5"))


def test_a_pair_is_two_backends_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reference and candidate of ptychodus are both 'pytorch'"):
        jobs_of(Request(("ptychodus",), tmp_path, parameters={"reference": "pytorch"}))
    with pytest.raises(UnknownBackendError, match="Did you mean 'pytorch'"):
        jobs_of(Request(("ptychodus",), tmp_path, parameters={"candidate": "pytroch"}))


@pytest.mark.parametrize(
    ("log", "exception"),
    [
        (FROZEN, "FrozenInstanceError: cannot assign to field 'N'"),
        (
            "... [ERROR] core: Training failed: TypeError: __init__() got 'probe_ramp_removal'\nstopped\n",
            "TypeError: __init_",
        ),
        ("[INFO] trained\n", ""),
    ],
)
def test_the_last_line_of_an_exception_is_found(log: str, exception: str) -> None:
    found = Step({}, (), log).exception
    assert found.startswith(exception) and bool(found) == bool(exception)


def test_the_page_shows_what_came_of_ptychodus_own_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"ptychopinn_pinn": Step({"exit_code": 1, "log": "ptychodus-ptychopinn_pinn.log"}, (), FROZEN)}
    one = replace(agreed(THEIRS), theirs=theirs)
    monkeypatch.setattr(ptychodus, "run", lambda *_: one)
    reference, candidate = THEIRS
    shown = run_cells("ptychodus", reference=reference, candidate=candidate)
    record, table = record_of(shown), table_of(shown, "Batch train by stock Ptychodus' own libraries")
    (row,) = table.rows
    assert row[:4] == ("ptychopinn_pinn", "1", "-", "FrozenInstanceError: cannot assign to field 'N'")
    assert not failed(record.checks) and record.numbers["exit code of stock Ptychodus, ptychopinn_pinn"] == 1
    assert "PtychoPINN's TensorFlow and PtychoPINN's PyTorch" in record.compared and len(record.commands) == 9


@pytest.mark.parametrize("truth", [True, False])
def test_the_page_shows_both_ways_of_both_backends(truth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = agreed()
    scan = replace(one.scan, object_is_truth=truth)
    monkeypatch.setattr(ptychodus, "run", lambda *_: replace(one, scan=scan))
    monkeypatch.setattr(fixtures, "load_fixture", lambda _: scan)
    shown = run_cells("ptychodus")
    record = record_of(shown)
    assert not failed(record.checks) and len(record.checks) == len(ptychodus.criteria(truth, BACKENDS))
    assert list(record.numbers.values()) == [0, 0, pytest.approx(1)] and len(record.commands) == 8
    assert "Ptychodus 1.7.0" in record.compared and list(record.datasets) == ["tiny-64"]
    assert len(table_of(shown, "Processes").rows) == 8
    (absent,) = (one for one in shown if isinstance(one, Fragment) and "PtychoPINN is not installed" in one.markdown)
    assert "\n" not in absent.markdown
    pictures = [picture for picture in shown if isinstance(picture, Picture)]
    assert len(pictures) == 3 and ("truth" in pictures[0].alt) == truth


def test_without_ptychodus_it_stops_with_the_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command, "version", version)
    with pytest.raises(PtychodusUnavailableError, match=r"install it with `pip install 'ptyint\[ptychodus\]'`"):
        ptychodus.run(load_fixture("tiny-64"), TrainingConfig(), 12, tmp_path, BACKENDS)
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_not_there_stops_it_with_the_reason(tmp_path: Path) -> None:
    if find_spec("ptycho"):
        pytest.skip("PtychoPINN is installed")
    words = r"Nothing is left to compare: BackendUnavailableError: .* See ptychodus-ptychopinn-pytorch-train\.log\."
    with pytest.raises(ChildError, match=words):
        ptychodus.run(load_fixture("tiny-64"), TrainingConfig(), 12, tmp_path, (THEIRS[1], "tensorflow"))


@pytest.mark.slow
def test_the_stage_passes_and_its_page_can_be_read(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    fewer = ["-p", "nepochs", "3", "-p", "min_phase_correlation", "0.0"]  # how good they are is not asked here
    run = [sys.executable, "-m", "ptyint.cli", "run", "ptychodus", "--reports", str(reports), *fewer]
    done = subprocess.run(run, capture_output=True, text=True, env=dict(os.environ))
    (folder,) = (path for path in reports.iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    content = manifest.read(folder)
    assert done.returncode == 0, [check for check in content.checks if check.verdict != "pass"]
    measured = {check.name: check.measured for check in content.checks}
    for backend in BACKENDS:
        assert (
            measured[f"{backend}: object through Ptychodus against called directly, largest relative difference"]
            <= 1e-5
        )
    assert set(ptychodus.artifacts(BACKENDS)) <= set(content.artifacts) and len(content.commands) == 8
    page = folder / "ptychodus.html"
    shown = Page(page)
    assert len(shown.images) == 3 and all(re.search(r"\d", image["alt"] or "") for image in shown.images)
    assert accessibility_problems(page, tmp_path) == [] and overflow_px(page, tmp_path, 500) == 0
    assert all(url.startswith(("file:", "data:")) for url in requests_of(page, tmp_path))
