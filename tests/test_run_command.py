"""``ptyint run`` for people and for programs: why it is red, what it would do, JUnit, JSON, a terminal that is gone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_notebooks import FILE, PASSES, job, run, write
from junitparser import Error, Failure, JUnitXml
from small_stage import ROOT, made, ptyint

from ptyint.cli import main
from ptyint.evidence import causes, ci, folder, history, manifest
from ptyint.evidence.history import changes
from ptyint.evidence.verification import verify

STOPS = "raise ValueError('gridsize is 3; must be 1 or 2')"


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A red run with all that CI may ask for; its name holds what XML and Markdown know otherwise."""
    where = made(tmp_path_factory.mktemp("red"), "print('said')")
    given = "run test -p size=30 -p name '<a>|&' --json --junit junit.xml"
    (where / "summary.md").write_text("before\n")
    return ptyint(where, given, GITHUB_STEP_SUMMARY="summary.md"), where


def test_a_red_run_says_why_within_ten_lines(red) -> None:
    done, _ = red
    assert done.returncode == 1
    cause, verdict, _ = done.stderr.splitlines()[-3:]
    assert cause == "small: ✗ fail: size. measured 30, required <= 10."
    assert verdict.startswith("✗ FAIL: read ") and verdict.endswith("index.html")


def test_a_line_of_json_is_a_check(red) -> None:
    done, where = red
    said = [json.loads(line) for line in done.stdout.splitlines()]
    (path,) = (where / "reports").glob("2*")
    content = manifest.read(path)
    assert said == [{"run": path.name, **check.model_dump(mode="json")} for check in content.checks]
    assert said[-1].items() >= {"name": "size", "verdict": "fail", "measured": 30.0, "bound": 10.0}.items()
    told = (ROOT / "docs" / "ci.md").read_text()
    assert all(f"`{key}`" in told for key in said[0])


def test_junit_is_read_by_a_parser_and_holds_every_check(red) -> None:
    _, where = red
    xml = JUnitXml.fromfile(str(where / "junit.xml"))
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (4, 1, 0, 0)
    cases = {case.name: case for suite in xml for case in suite}
    assert {case.classname for case in cases.values()} == {"test.small", "run.run"}
    (failure,) = cases["size"].result
    assert (
        isinstance(failure, Failure) and failure.message == "measured 30.0, required <= 10." and failure.type == "fail"
    )
    assert all(not case.result for name, case in cases.items() if name != "size")


def test_the_summary_is_appended(red) -> None:
    _, where = red
    before, title, *_ = (where / "summary.md").read_text().splitlines()
    text = (where / "summary.md").read_text()
    assert before == "before" and title.startswith("## ✗ FAIL: ptyint run 2")
    assert "| small | ✗ fail | 2 of 3 |" in text and "- small: ✗ fail: size. measured 30, required <= 10." in text


def test_what_stops_two_and_keeps_a_third_from_it_is_told_once(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad.ipynb", STOPS, PASSES), write(tmp_path / "good.ipynb", "open('made.h5')", PASSES)
    one, two = job(bad, "size", "weight", name="tensorflow"), job(bad, "size", "weight", name="pytorch")
    third = job(good, "size", *map(str, range(12)), name="compare", needs=("tensorflow", "other"), artifacts=("a",))
    done, content, page = run(tmp_path, one, two, third)
    assert [entry.needs for entry in content.notebooks] == [[], [], ["tensorflow"]]
    assert causes.lines(content, 9) == [
        "tensorflow, pytorch: The notebook stopped: ValueError: gridsize is 3; must be 1 or 2. 4 checks were not run.",
        "compare: 14 checks were not run: `tensorflow` failed.",
    ]
    index, compare = ((done.folder / f"{name}.html").read_text() for name in ("index", "compare"))
    assert index.count("gridsize is 3") == 1 and index.count("14 checks were not run: `tensorflow` failed.") == 1
    assert compare.count("<li>14 checks were not run: `tensorflow` failed.</li>") == 1 and "No such file" in compare
    assert "The notebook stopped: ValueError: gridsize is 3; must be 1 or 2. 2 checks were not run." in page
    assert [path for path in done.folder.glob("*.html") if "Since the last run" not in path.read_text()] == []


def test_one_reason_for_many_checks_is_one_line_and_many_causes_are_counted(tmp_path: Path) -> None:
    cells = """
from ptyint.evidence.checks import Check
from ptyint.evidence.display import checks_table
checks_table([*(Check(str(n), None, note="no such backend") for n in range(20)),
              *(Check(f"m{n}", 2.0, note="word\\n" * 300) for n in range(9)), Check("few", 1.0, decided=False)])
"""
    names = [*map(str, range(20)), *(f"m{n}" for n in range(9)), "few"]
    _, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", cells), *names))
    said = causes.lines(content, 6)
    assert said[0] == "small: ○ not run: 0 and 19 more. no such backend"
    assert said[1].startswith("small: ✗ fail: m0. measured 2, required == 1. word word") and len(said[1]) < 450
    assert said[-1] == "and 5 more, which the page has" and len(said) == 7
    assert page.count("no such backend</li>") == 1 and "≈ underpowered: few." in page
    (error,) = (case for suite in JUnitXml.fromstring(ci.junit(content)) for case in suite if case.name == "few")
    assert isinstance(error.result[0], Error) and error.result[0].type == "underpowered"


def test_runs_are_compared_with_the_last_of_the_same_request(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{name}.ipynb", PASSES, FILE) for name in "ab")
    only = [run(tmp_path, job(a, "size", name="a"))[0], run(tmp_path, job(b, "size", name="b"))[0]]
    assert "this is the first run of these stages in this profile." in (only[1].folder / "index.html").read_text()
    assert "nothing but times" not in (only[1].folder / "index.html").read_text()
    again = run(tmp_path, job(a, "size", name="a"))[0]
    newest, *earlier = folder.finished_runs(tmp_path / "reports")
    since = changes(newest, earlier)[""]
    assert again.folder.name == newest.run and only[0].folder.name in since[0]
    assert all(only[1].folder.name not in sentence for sentence in since)
    newest.profile = "full"
    assert changes(newest, earlier)[""][0] == "this is the first run of these stages in this profile"
    assert f"compared with {only[0].folder.name}" in history.write_index(tmp_path / "reports").read_text()


def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-p", "nepochs=7", "-p", "ptychodus.probe_trainable", "false", "-p", "min_agreement=0.95"]
    options += ["--dry-run", "-p", "e2a.nepochs=3", "--reports", str(tmp_path / "reports")]
    assert main(["run", "ptychodus", "e2a", *options]) == 0
    said = capsys.readouterr().out
    for line in (
        "ptychodus: Ptychodus (ptychodus.ipynb, never ran here)",
        "    -p nepochs 7",
        "    -p probe_trainable False",
        "  phase correlation of the two backends in Ptychodus: >= 0.95",
        "  tensorflow: batch train exits 0 and leaves model.h5.zip alone",
        "  wrote phase_e_fixture_sync.md",
    ):
        assert f"\n{line}\n" in f"\n{said}", line
    assert "2 notebooks, " in said and said.endswith(" checks; nothing was run.\n") and list(tmp_path.iterdir()) == []


def test_minutes_are_those_of_the_last_run(red) -> None:
    _, where = red
    said = ptyint(where, "run test --dry-run").stdout
    assert re.search(r"test: A small stage \(n\.ipynb, \d+\.\d minutes\)\n", said)
    assert re.search(r"1 notebook, 3 checks, \d+ minutes; nothing was run\.\n", said)
    assert len(list((where / "reports").glob("2*"))) == 1


NOISE = "import os, time\nos.write(2, b'Could not find cuda drivers')\ntime.sleep(1)"


def test_what_libraries_write_to_the_terminal_is_in_the_log_alone(tmp_path: Path) -> None:
    done = ptyint(made(tmp_path, NOISE), "run test", within="env -u PYTEST_CURRENT_TEST {}")
    (path,) = (tmp_path / "reports").glob("2*")
    assert done.returncode == 0 and "cuda" not in done.stderr + done.stdout
    assert "Could not find cuda drivers" in (path / "small.log").read_text()


def test_an_interpreter_given_by_a_relative_path_is_the_kernel_s(tmp_path: Path) -> None:
    relative = os.path.relpath(sys.executable, made(tmp_path, "print('said')"))
    command = [relative, str(ROOT / "tests" / "small_stage.py"), str(tmp_path), "run", "test"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_last_words_of_a_kernel_that_dies_are_in_the_terminal(tmp_path: Path) -> None:
    done = ptyint(made(tmp_path, NOISE + "\nos._exit(1)"), "run test", within="env -u PYTEST_CURRENT_TEST {}")
    assert done.returncode == 1 and "Could not find cuda drivers" in done.stderr
    assert "the kernel died" in done.stderr + done.stdout


@pytest.mark.parametrize("end", ["2>&1 | true; exit ${{PIPESTATUS[0]}}", "<&- >&- 2>&-"])
def test_a_terminal_that_is_gone_does_no_harm(end: str, tmp_path: Path) -> None:
    done = ptyint(made(tmp_path, "print('said')"), "run test", within=f"{{}} {end}")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken pipe" not in done.stderr
    (path,) = (tmp_path / "reports").glob("2*")
    assert verify(path, tmp_path / "docs" / "fix_plan.md").green


def test_clean_removes_what_interrupted_runs_left_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, _, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size"))
    reports, dead = tmp_path / "reports", tmp_path / "reports" / ".2020-01-01T000000Z.partial"
    link, other = dead.with_name(".2020-01-02T000000Z.partial"), reports / ".mine.partial"
    for one in (dead, other):
        one.mkdir()
        (one / "file").write_bytes(bytes(2_000_000))
    link.symlink_to(other)
    with folder.claim(reports) as running:
        with open(os.devnull) as nobody, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", nobody)
            assert main(["clean", "--reports", str(reports)]) == 130 and dead.is_dir()
        assert f"{dead} (2.0 MB)" in capsys.readouterr().out
        assert main(["clean", "--reports", str(reports), "--yes"]) == 0
        said = capsys.readouterr().out
        assert said == f"{dead} (2.0 MB)\n1 removed.\n" and not dead.exists() and running.is_dir()
    assert verify(finished.folder).green and (other / "file").is_file() and link.is_symlink()
    assert "2020-01-01" not in (reports / "index.json").read_text()
    assert main(["clean", "--reports", str(tmp_path / "nowhere")]) == 0 and not (tmp_path / "nowhere").exists()


def test_help_begins_with_what_to_do_and_a_shell_completes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Begin here:\n    ptyint run --dry-run" in capsys.readouterr().out.partition("Options:")[0]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "_PTYINT_COMPLETE": "bash_complete"}
    for words, offered in (("ptyint run la", "plain,ladder"), ("ptyint run --dr", "plain,--dry-run")):
        asked = {"COMP_WORDS": words.replace("la", "l"), "COMP_CWORD": "2"}
        done = subprocess.run([sys.executable, "-m", "ptyint.cli"], env=env | asked, capture_output=True, text=True)
        assert done.stdout.strip() == offered


def test_a_run_made_before_notebooks_named_what_they_need_verifies(tmp_path: Path) -> None:
    done, _, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size"))
    path = done.folder / manifest.NAME
    content = json.loads(path.read_text())
    assert [entry.pop("needs") for entry in content["notebooks"]] == [[]]
    path.write_text(json.dumps(content))
    (done.folder / manifest.SEAL).write_text(f"{manifest.sha256_of(path)}  {manifest.NAME}\n")
    assert verify(done.folder, alone=True).green
