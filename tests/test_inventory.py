"""Stage E2.A: what is examined, what is found wrong, what is listed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pooch
import pytest

from ptyint import cli
from ptyint.errors import ConfigError, FixtureError
from ptyint.evidence.checks import Check
from ptyint.evidence.execution import FOLDER, parameter_defaults
from ptyint.scans.fixtures import (
    DATA_VARIABLE,
    DATASETS_VARIABLE,
    REQUIRE_VARIABLE,
    fixture_info,
    fixture_names,
    load_fixture,
)
from ptyint.stages import fixture_figures, fixtures

DATASETS = Path(__file__).parents[1] / "datasets"


def sha256_check(name: str) -> Check:
    examined = fixtures.examine([name])
    return next(check for check in fixtures.checks(examined, []) if check.name == f"sha256 holds: {name}")


def test_what_is_reported_is_what_was_declared(star_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(star_file.parent))
    for names in (None, ["tiny-64"], ["tiny-64", "ptychodus-sim-64"]):
        declared = fixtures.expected_checks(names)
        assert len(declared) == len(set(declared)) == len(names or fixture_names()) + 3
    names = ["tiny-64", "ptychodus-sim-64"]
    checks = fixtures.checks(fixtures.examine(names), [])
    assert [check.name for check in checks] == fixtures.expected_checks(names)
    assert [check.verdict for check in checks] == ["pass", "pass", "pass", "not run", "not run"]


def test_parameters_are_measured_from_the_arrays() -> None:
    (one,) = fixtures.examine(["tiny-64"])
    scan = load_fixture("tiny-64")
    assert one.digest == scan.sha256 and one.error == "" and not one.absent
    data = one.dataset
    assert data is not None and scan.object_ is not None
    assert (data.n, data.N, data.modes, data.object_shape) == (16, 64, 1, scan.object_.shape)
    assert data.truth_known and data.mean_counts == pytest.approx(scan.counts().sum() / 16)
    assert 4 < data.step_px < 9 and 10 < data.probe_diameter_px < 40 and 0 < data.overlap_ratio < 1


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
    assert "sha256 holds: siemens-star" not in fixtures.expected_checks()
    assert "not examined: it cannot be fetched" in fixtures.inventory_table(examined).rows[0]
    assert "absent" in fixtures.headline(examined, []).record.compared  # type: ignore[union-attr]


def test_where_data_is_required_what_cannot_be_fetched_is_a_failure(
    doctored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(doctored)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setenv(REQUIRE_VARIABLE, "1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    assert "sha256 holds: siemens-star" in fixtures.expected_checks()
    assert sha256_check("siemens-star").verdict == "fail"


def test_an_unknown_fixture_is_an_error() -> None:
    for ask in (fixtures.examine, fixtures.expected_checks):
        with pytest.raises(FixtureError, match="Did you mean 'tiny-64'"):
            ask(["tiny-46"])


def test_knobs_list_every_option_and_every_parameter() -> None:
    commands = fixtures.command_table(cli.parser())
    assert {row[0] for row in commands.rows} >= {"ptyint run", "ptyint verify", "ptyint index", "ptyint backends"}
    assert ("ptyint run", "--profile quick or full", "quick", "how much (default: quick)") in commands.rows
    listed = {(row[0], row[1]) for row in fixtures.notebook_table().rows}
    assert listed == {(p.name, name) for p in FOLDER.glob("*.ipynb") for name in parameter_defaults(p)}


@pytest.mark.parametrize("backend", fixtures.BACKENDS)
def test_the_budget_is_measured_in_a_process_of_its_own(backend: str, tmp_path: Path) -> None:
    budget = fixtures.measure_budget(backend, 2, tmp_path / "log")
    assert budget.measured and budget.error == "" and (tmp_path / "log").stat().st_size
    parts = budget.import_s + budget.first_epoch_s + budget.later_epoch_s + budget.inference_s
    assert parts < budget.wall_s < budget.cycle_s < budget.budget_s
    assert budget.peak_memory_bytes > 10**8 and budget.command["exit_code"] == 0
    (check,) = (c for c in fixtures.checks([], [budget]) if backend in c.name)
    assert check.passed and "a cycle of 2 epochs" in check.note


def test_a_budget_that_could_not_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('broken install')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    budget = fixtures.measure_budget("pytorch", 2)
    assert not budget.measured and math.isnan(budget.import_s) and "broken install" in budget.error
    assert [c.verdict for c in fixtures.checks([], [budget]) if "pytorch" in c.name] == ["fail"]
    with pytest.raises(ConfigError, match="epochs is 1; must be 2 or more"):
        fixtures.measure_budget("pytorch", 1)


def test_the_note_names_every_fixture_with_owner_and_reuse(tmp_path: Path) -> None:
    examined = fixtures.examine(["tiny-64", "grid-128"])
    text = fixtures.write_sync(tmp_path, examined, [], cli.parser()).read_text()
    assert text.startswith("# Phase E2.A: fixture alignment\n")
    for name in ("tiny-64", "grid-128"):
        fixture = fixture_info(name)
        assert f"| {name} |" in text and fixture.owner in text and fixture.notes in text
    for part in ("## Inventory", "## Dataset parameters", "## Knobs of the notebooks", "## Runtime budget"):
        assert part in text
    assert "TEST-PYTORCH-001" in text and "generator 'grid-128'" in text and "datasets/tiny-64.npz" in text


def test_the_gallery_tells_what_it_shows() -> None:
    picture = fixture_figures.gallery(fixtures.examine(["tiny-64", "grid-128"]))
    assert "tiny-64: 16 patterns of 64 x 64" in picture.alt and "grid-128: 196 patterns of 128 x 128" in picture.alt
    assert 20_000 < len(picture.png()) < 600_000
