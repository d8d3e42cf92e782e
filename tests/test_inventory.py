"""Stage E2.A: what is examined, what is found wrong, what is listed."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import pytest
from cells import record_of, run_cells, table_of
from reconstructions import make

from ptyint.errors import ConfigError, FixtureError
from ptyint.evidence.checks import Check
from ptyint.evidence.display import Picture
from ptyint.evidence.execution import FOLDER, parameter_defaults
from ptyint.scans.fixtures import (
    DATA_VARIABLE,
    DATASETS_VARIABLE,
    REQUIRE_VARIABLE,
    fixture_info,
    fixture_names,
    load_fixture,
)
from ptyint.stages import fixtures

DATASETS = Path(__file__).parents[1] / "datasets"


def sha256_check(name: str) -> Check:
    examined = fixtures.examine([name])
    return next(check for check in fixtures.checks(examined, []) if check.name == f"sha256 holds: {name}")


def test_what_is_reported_is_what_was_declared(star_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(star_file.parent))
    for names in (None, ["tiny-64"], ["tiny-64", "ptychodus-sim-64"]):
        declared = fixtures.criteria(names)
        assert len(declared) == len(set(declared)) == len(names or fixture_names()) + 3
    names = ["tiny-64", "ptychodus-sim-64"]
    checks = fixtures.checks(fixtures.examine(names), [])
    assert [check.name for check in checks] == [one.name for one in fixtures.criteria(names)]
    assert [check.verdict for check in checks] == ["pass", "pass", "pass", "not run", "not run"]


def test_parameters_are_measured_from_the_arrays() -> None:
    (one,) = fixtures.examine(["tiny-64"])
    scan = load_fixture("tiny-64")
    assert one.scan is not None and one.scan.sha256 == scan.sha256 and one.error == "" and not one.absent
    data = one.measured
    assert data["mean_counts"] == pytest.approx(scan.counts().sum() / 16) and data["bad_pixels"] == 0
    assert 4 < data["step_px"] < 9 and 10 < data["probe_diameter_px"] < 40 and 0 < data["overlap_ratio"] < 1


@pytest.fixture
def doctored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the datasets folder that a test may damage."""
    copy = Path(shutil.copytree(DATASETS, tmp_path / "datasets"))
    monkeypatch.setenv(DATASETS_VARIABLE, str(copy))
    return copy


def test_a_wrong_sha256_or_size_or_a_missing_file_is_a_failed_check(doctored: Path) -> None:
    registry, before = doctored / "registry.toml", (doctored / "registry.toml").read_text()
    digest = fixture_info("tiny-64").sha256["arrays"]
    registry.write_text(before.replace(digest, "0" * 64))
    assert sha256_check("tiny-64").verdict == "fail" and "the registry says 0000" in sha256_check("tiny-64").note
    registry.write_text(before.replace("n = 16\n", "n = 17\n"))
    assert "n is 16, the registry says 17" in sha256_check("tiny-64").note
    registry.write_text(before)
    assert sha256_check("tiny-64").verdict == "pass"
    (doctored / "tiny-64.npz").write_bytes(b"other")
    assert sha256_check("tiny-64").verdict == "fail"
    (doctored / "tiny-64.npz").unlink()
    assert sha256_check("tiny-64").verdict == "fail" and "no file" in sha256_check("tiny-64").note


def unreachable(doctored: Path) -> None:
    """The star's server is one that nobody runs."""
    registry = doctored / "registry.toml"
    registry.write_text(registry.read_text().replace("https://raw.githubusercontent.com/", "http://127.0.0.1:9/"))


def test_what_cannot_be_fetched_is_absent_and_promises_nothing(
    doctored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(doctored)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.delenv(REQUIRE_VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    examined = fixtures.examine(["siemens-star", "tiny-64"])
    assert [one.absent for one in examined] == [True, False]
    assert "sha256 holds: siemens-star" not in [one.name for one in fixtures.criteria()]
    assert examined[0].scan is None and examined[0].error == "" and examined[1].measured["step_px"] > 0


def test_where_data_is_required_what_cannot_be_fetched_is_a_failure(
    doctored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(doctored)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setenv(REQUIRE_VARIABLE, "1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    assert "sha256 holds: siemens-star" in [one.name for one in fixtures.criteria()]
    assert sha256_check("siemens-star").verdict == "fail"


def test_an_unknown_fixture_is_an_error() -> None:
    for ask in (fixtures.examine, fixtures.criteria):
        with pytest.raises(FixtureError, match="Did you mean 'tiny-64'"):
            ask(["tiny-46"])


@pytest.mark.slow
@pytest.mark.parametrize("backend", fixtures.BACKENDS)
def test_the_budget_is_measured_in_a_process_of_its_own(backend: str, tmp_path: Path) -> None:
    budget = fixtures.measure_budget(backend, 2, tmp_path / "log")
    assert budget.made is not None and budget.error == "" and (tmp_path / "log").stat().st_size
    parts = [budget.start_s, budget.import_s, *budget.made.epoch_seconds, budget.made.costs["inference_s"]]
    assert all(part > 0 for part in parts) and sum(parts) < budget.wall_s < budget.cycle_s < budget.budget_s
    assert budget.made.costs["peak_memory_gib"] > 0.1 and budget.command["exit_code"] == 0
    (check,) = (c for c in fixtures.checks([], [budget]) if backend in c.name)
    assert check.passed and "a cycle of 2 epochs" in check.note


def test_a_budget_that_could_not_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('broken install')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    budget = fixtures.measure_budget("pytorch", 2, tmp_path / "log")
    assert budget.made is None and math.isnan(budget.import_s) and "broken install" in budget.error
    assert [c.verdict for c in fixtures.checks([], [budget]) if "pytorch" in c.name] == ["fail"]
    with pytest.raises(ConfigError, match="nepochs is 1; must be 2 or more"):
        fixtures.measure_budget("pytorch", 1, tmp_path / "log")


@pytest.mark.slow
def test_a_measured_process_dies_with_all_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too slow, with a child of its own: both are gone when the call returns."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import subprocess, sys, pathlib, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\ntime.sleep(600)"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    budget = fixtures.measure_budget("pytorch", 2, tmp_path / "log", timeout=20)
    assert budget.error.startswith("ended after 20 s") and budget.made is None
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not runs(child):
            break
        time.sleep(0.1)
    assert not runs(child)


def runs(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def measured(backend: str, nepochs: int, log: Path) -> fixtures.Budget:
    """What a measurement gives, without the minutes."""
    log.write_text("")
    command = {"argv": ["python"], "exit_code": 0, "start": "", "end": "", "log": log.name}
    return fixtures.Budget(backend, nepochs, 1.5, 1.5, 1.5, make(backend), command=command)


@pytest.fixture
def page(doctored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """What the notebook displays of fixtures, of which the star cannot be fetched."""
    unreachable(doctored)
    for variable in (DATA_VARIABLE, REQUIRE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(fixtures, "measure_budget", measured)
    return lambda names: run_cells("e2a_fixtures", fixtures=names, output_dir=str(tmp_path))


def test_the_page_names_every_fixture_with_owner_and_reuse(page: Callable[[str], list[Any]]) -> None:
    """The plan's acceptance: name, path, owner, sample count, gridsize, reuse with TEST-PYTORCH-001."""
    shown = page("tiny-64,grid-128,siemens-star")
    inventory = table_of(shown, "Inventory")
    for (name, source, owner, _, n, N, gridsize, holds, notes), expected in zip(
        inventory.rows, ("tiny-64", "grid-128", "siemens-star"), strict=True
    ):
        fixture = fixture_info(expected)
        assert (name, owner, notes, gridsize) == (expected, fixture.owner, fixture.notes, str(fixture.gridsize))
        assert (n, N) == (str(fixture.n), str(fixture.N)) and source
        assert holds == ("not examined: it cannot be fetched" if fixture.kind == "fetched" else "✓ pass")
    assert "TEST-PYTORCH-001" in inventory.markdown and "datasets/tiny-64.npz" in inventory.markdown
    parameters = table_of(shown, "Dataset parameters")
    assert [row[0] for row in parameters.rows] == ["tiny-64", "grid-128", "siemens-star"]
    assert parameters.rows[0][1:5] == ("16", "64", "1", "88 x 88") and parameters.rows[2][1:13] == ("-",) * 12
    record = record_of(shown)
    assert "absent" in record.compared and record.numbers["slowest integration cycle / s"] == 4.5
    assert list(record.datasets) == ["tiny-64", "grid-128"] and len(record.commands) == 2
    assert [check.name for check in record.checks] == [
        one.name for one in fixtures.criteria(["tiny-64", "grid-128", "siemens-star"])
    ]
    budget = table_of(shown, "Runtime budget")
    assert budget.rows[-2][0].startswith("budget: twice") and budget.rows[-2][1] == "10"


def test_the_page_lists_every_option_and_every_parameter(page: Callable[[str], list[Any]]) -> None:
    shown = page("tiny-64")
    commands = table_of(shown, "Knobs of the command line")
    assert {row[0] for row in commands.rows} >= {"ptyint run", "ptyint verify", "ptyint index", "ptyint backends"}
    assert any(row[0] == "ptyint run" and "--profile" in row[1] and row[2] == "quick" for row in commands.rows)
    listed = {(row[0], row[1]) for row in table_of(shown, "Knobs of the notebooks").rows}
    assert listed == {(p.name, name) for p in FOLDER.glob("*.ipynb") for name in parameter_defaults(p)}


def test_the_gallery_tells_what_it_shows(page: Callable[[str], list[Any]]) -> None:
    (picture,) = (one for one in page("tiny-64,grid-128,siemens-star") if isinstance(one, Picture))
    assert "tiny-64: 16 patterns of 64 x 64" in picture.alt and "grid-128: 196 patterns of 128 x 128" in picture.alt
    assert "amplitude 0." in picture.alt and "siemens-star: not examined" in picture.alt
    assert 20_000 < len(picture.png()) < 600_000


def test_the_page_of_fixtures_that_cannot_be_read_says_why(doctored: Path, page: Callable[[str], list[Any]]) -> None:
    (doctored / "tiny-64.npz").write_bytes(b"other")
    shown = page("tiny-64")
    assert table_of(shown, "Inventory").rows[0][7] == "✗ fail"
    assert "tiny-64.npz" in table_of(shown, "Dataset parameters").rows[0][-1]
