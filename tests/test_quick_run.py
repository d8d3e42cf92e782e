"""The whole plan, quickly: `ptyint run`, its artifacts by their names, and its pages in a real browser.

CI looks at the run that ``make report`` made just before; alone, these tests make one, with one fault for each rung.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Page, accessibility_problems, overflow_px, requests_of

from ptyint.evidence import manifest, verification
from ptyint.evidence.pytest_runs import AS_IS, collect_tests
from ptyint.parity.configurations import SAVED, SECOND
from ptyint.parity.faults.catalogue import BUILT_IN, SIZED
from ptyint.parity.results import Ladder
from ptyint.stages import PROFILES, jobs_of, red_green
from ptyint.stages.request import Request

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PLAN = ROOT / "docs" / "plans" / "phase_e_integration.md"
DELIVERABLES = {
    "phase_e_fixture_sync.md",
    "phase_e_red_integration.log",
    "red_phase.md",
    "phase_e_integration_green.log",
    "phase_e_backend_green.log",
    "phase_e_tf_baseline.log",
    "phase_e_torch_run.log",
    "phase_e_parity_summary.md",
}
"""As the plan names them."""

NOTEBOOKS = ["e2a", "e2b", "star-tensorflow", "star-pytorch", "star", "e2c", "e2d", "ladder", "faults"]

REPORTS_VARIABLE = "PTYINT_TEST_REPORTS"
"""Environment variable: a folder with one run, of ``make report``."""

OF_A_RUNG = {fault.rung: fault.id for fault in BUILT_IN.faults}
ONE_A_RUNG = ",".join(fault.id for fault in BUILT_IN.faults if fault.id in OF_A_RUNG.values())


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder."""
    given = os.environ.get(REPORTS_VARIABLE)
    reports = Path(given) if given else tmp_path_factory.mktemp("quick") / "reports"
    if not given:
        command = [sys.executable, "-m", "ptyint.cli", "run", "--reports", str(reports), "-p", "faults", ONE_A_RUNG]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "✓ PASS: read " in done.stdout, (done.stdout, done.stderr[-3000:])
    (folder,) = (path for path in reports.iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    return folder


def test_all_stages_pass_and_verify(quick: Path) -> None:
    content = manifest.read(quick)
    assert [check for check in content.checks if check.verdict != "pass"] == []
    assert [entry.name for entry in content.notebooks] == NOTEBOOKS and content.verdict == "pass"
    assert verification.verify(quick, quick.parents[1] / "docs" / "fix_plan.md").green


def test_real_data_stand_on_the_first_page(quick: Path, star_file: Path) -> None:
    first, star = (Page(quick / name).images[0]["alt"] for name in ("index.html", "star.html"))
    assert first == star
    assert set(manifest.read(quick).datasets) >= {"siemens-star-64", "tiny-64"}


def test_every_deliverable_of_the_plan_is_there_by_its_name(quick: Path) -> None:
    folder = quick
    declared = {name for entry in manifest.read(folder).notebooks for name in entry.artifacts}
    assert declared >= DELIVERABLES
    ledger = (folder.parents[1] / "docs" / "fix_plan.md").read_text()
    for name in DELIVERABLES:
        assert (folder / name).stat().st_size > 0 and f"- `reports/{folder.name}/{name}`" in ledger


def test_every_rung_of_the_ladder_holds(quick: Path) -> None:
    """What the built-in backends must reach, whatever the table of tolerances says."""
    one = Ladder.load(quick / "ladder.json")
    assert one.divergence is None and {one.rung(rung).verdict for rung in one.rungs} == {"pass"}
    rows = one.findings.query("available")
    assert set(rows.query("rung == 'forward'")["case"]) >= {"gridsize 1", "gridsize 2"}
    between = rows[
        (rows["precision"] == "float64") & (rows["against"] == one.reference) & (rows["side"] != one.reference)
    ]
    assert between.query("rung == 'forward'")["error"].max() <= 1e-11
    assert between.query("rung == 'gradient'")["error"].max() <= 1e-9
    early = between.query("rung == 'step' and tap == 'weights'")
    assert len(early) == 4 and early["error"].max() <= 1e-11
    steps = rows.query("rung == 'step' and tap == 'optimiser'")
    assert set(steps["step"]) >= {1, 2, 3, 50, 120, 200} and set(steps["precision"]) == {"float32", "float64"}
    loaded = rows.query("rung == 'persistence'")
    assert set(loaded["case"]) == {
        f"saved by {by}, {training}" for by in ("tensorflow", "pytorch") for training in SAVED
    } | {SECOND, "gridsize 2"}  # the last one is stopped and gone on with
    assert set(loaded["side"]) == {"tensorflow", "pytorch"}


def test_every_fault_is_caught_where_it_was_put(quick: Path) -> None:
    """The score stands on the first page; the control was green in the same run; limits are beyond anybody's need."""
    content = json.loads((quick / "sensitivity.json").read_text())
    tried = [one["id"] for one in content["outcomes"]]
    assert tried == ([one.id for one in BUILT_IN.faults] if REPORTS_VARIABLE in os.environ else ONE_A_RUNG.split(","))
    logs = {path.name for path in quick.glob("sensitivity.*.log")}
    assert logs == {"sensitivity.share0.log", "sensitivity.share1.log"}, "what the ladder captured was captured again"
    n = len(tried)
    score = f"{n} of {n} seeded faults were caught"
    assert f"<strong>Can it be red?</strong> {score}" in (quick / "index.html").read_text()
    assert content["outcomes"][-1]["place"] == "verdict: not run"
    assert len(content["limits"]) == len(SIZED) and all(one["size"] <= 1e-6 for one in content["limits"])


def test_the_red_log_holds_both_states_whole_and_nothing_was_skipped(quick: Path) -> None:
    text = (quick / "phase_e_red_integration.log").read_text()
    assert re.findall(r"^=== state: (.*)$", text, re.MULTILINE) == ["torch not importable", "torch wiring absent"]
    assert text.count("test session starts") == 2 and text.count("rootdir: ") == 2
    assert "Install it with `pip install torch`" in text and "Unknown backend 'pytorch'" in text
    assert len(re.findall(r"^=+ 6 failed, 3 passed in", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^=+ 7 failed, 2 passed in", text, re.MULTILINE)) == 1
    assert "skipped" not in text


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("phase_e_backend_green.log", "5 passed"),
        ("phase_e_integration_green.log", "4 passed"),
        ("phase_e_tf_baseline.log", "2 passed"),
        ("phase_e_torch_run.log", "2 passed, 2 deselected"),
    ],
)
def test_green_logs_are_whole(quick: Path, log: str, says: str) -> None:
    text = (quick / log).read_text()
    assert "test session starts" in text and "rootdir: " in text and f" {says} in " in text
    assert "skipped" not in text and "=== exit code: 0" in text


def test_the_parity_summary_has_metrics_costs_words_and_gaps(quick: Path) -> None:
    text = (quick / "phase_e_parity_summary.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    wanted = ["Checks", "Metrics after gauge removal", "Runtime and memory", "Qualitative comparison", "Residual gaps"]
    assert [head for head in heads if head in wanted] == wanted
    assert "PyTorch / TensorFlow" in text and "whole cycle" in text and "peak memory" in text


def test_no_framework_in_the_kernel_of_a_stage(quick: Path) -> None:
    """One framework a process: stages load none, and each pytest child says what it imported."""
    modules = "stages.full_cycle parity.ladder parity.faults.campaign stages.red_green evidence.run cli"
    code = "import sys, " + ", ".join(f"ptyint.{name}" for name in modules.split()) + "\n"
    code += "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def pages(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.html"))
    assert {path.stem for path in found} == {*NOTEBOOKS, "index"}
    return [*found, folder.parent / "index.html"]


def test_pages_run_nothing_describe_their_images_and_are_small(quick: Path) -> None:
    folder = quick
    for path in pages(folder):
        page = Page(path)
        assert page.scripts == 0
        assert all(reference.startswith("data:") for reference in page.references)
        assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page.text)
        for image in page.images:
            assert re.search(r"\d", image["alt"] or "") and "No description" not in (image["alt"] or "")
        for link in page.links:
            assert (path.parent / link.split("#")[0]).exists(), (path.name, link)
    assert sum(path.stat().st_size for path in pages(folder)) < 5_000_000
    for name in ("index", "star", "e2a", "e2d", "faults", "ladder"):
        assert Page(folder / f"{name}.html").images


def test_verdict_numbers_changes_and_command_come_first(quick: Path) -> None:
    for path in pages(quick)[:-1]:
        text = Page(path).text
        order = ["✓ PASS", '<dl class="numbers">', "Since the last run:", "Again, in a checkout:", "</div>\n"]
        places = [text.index(part) for part in order]
        assert places == sorted(places) and text.count("<dt>") == 3 and "Errors" not in text
        first = text.find("<img")
        assert first == -1 or places[-2] < first


def test_browsers_ask_for_nothing_but_the_page(quick: Path, tmp_path: Path) -> None:
    for path in pages(quick):
        asked = requests_of(path, tmp_path)
        assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_the_browser_would_have_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/picture.png">')
    assert requests_of(page, tmp_path) == {"http://127.0.0.1:9/picture.png"}
    page.write_text("<html><body><img src='data:,'><div style='width:900px'>x</div></body></html>")
    assert any(problem.startswith("image-alt") for problem in accessibility_problems(page, tmp_path))
    assert overflow_px(page, tmp_path, 500) > 300


def test_pages_are_accessible(quick: Path, tmp_path: Path) -> None:
    assert {path.name: accessibility_problems(path, tmp_path) for path in pages(quick)[:-1]} == {
        path.name: [] for path in pages(quick)[:-1]
    }
    assert accessibility_problems(pages(quick)[-1], tmp_path) == []


def test_pages_fit_a_phone(quick: Path, tmp_path: Path) -> None:
    assert {path.name: overflow_px(path, tmp_path, 500) for path in pages(quick)[:-1]} == {
        path.name: 0 for path in pages(quick)[:-1]
    }


def test_the_expected_tests_are_those_that_pytest_finds(tmp_path: Path) -> None:
    found = collect_tests([red_green.WORKFLOW, red_green.SELECTION], tmp_path / "log")
    assert set(found) == {*red_green.RED, red_green.REFUSAL, *red_green.GUARDS}
    for state in red_green.MUST_FAIL:
        assert {*red_green.MUST_FAIL[state], *red_green.MUST_PASS[state]} == set(found) and state != AS_IS


def test_the_checklist_points_at_artifacts_that_the_stages_make(tmp_path: Path) -> None:
    """Every row of the plan's checklist names what closes it: a declared artifact of the stage, or a file here."""
    declared = {job.stage: set(job.artifacts) for job in jobs_of(Request(PROFILES["quick"], tmp_path))}
    rows = [line.split("|")[1:-1] for line in PLAN.read_text().splitlines() if re.match(r"\| E2\.[A-D]\d", line)]
    assert len(rows) >= 10
    named = set()
    for row in rows:
        stage = row[0].strip()[:4].lower().replace(".", "")
        files = re.findall(r"`([^`]+)`", row[-1])
        assert files, row
        for file in files:
            assert file in declared[stage] or (ROOT / file.split("::")[0]).exists(), (row, file)
            named.add(file)
    assert named >= DELIVERABLES


def test_a_run_folder_reads_from_anywhere(quick: Path, tmp_path: Path) -> None:
    """From a USB stick: no earlier run, no ledger, no checkout beside it."""
    copy = shutil.copytree(quick, tmp_path / quick.name)
    assert verification.verify(copy, alone=True).green
