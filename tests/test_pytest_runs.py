"""Runs of pytest, told test by test: real runs of throw-away tests, then the red states of the real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path

import pytest
from evidence_notebooks import installed_plugin

from ptyint.errors import ConfigError
from ptyint.evidence import pytest_runs
from ptyint.evidence.pytest_runs import NO_TORCH, NO_WIRING, TestRun, collect_tests, command, run_tests
from ptyint.stages import red_green

SELECTION = "tests/torch/test_backend_selection.py"
WORKFLOW = "tests/torch/test_integration_workflow_torch.py"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away checkout with nothing but a folder for tests."""
    folder = tmp_path / "checkout"
    (folder / "tests").mkdir(parents=True)
    monkeypatch.setattr(pytest_runs, "CHECKOUT", folder)
    return folder


def write(checkout: Path, code: str, name: str = "test_x.py") -> None:
    (checkout / "tests").mkdir(parents=True, exist_ok=True)
    (checkout / "tests" / name).write_text("import os, signal, sys, time\nimport pytest\n" + textwrap.dedent(code))


def results(run: TestRun) -> dict[str, str]:
    return {name.split("::", 1)[-1]: outcome.outcome for name, outcome in run.outcomes.items()}


# --- outcomes ---


def test_every_kind_of_outcome(checkout: Path, tmp_path: Path) -> None:
    write(
        checkout,
        """
        @pytest.mark.parametrize("gridsize", [1, 2], ids=["gridsize1", "a/b::c.d"])
        def test_passes(gridsize, record_property):
            record_property("gridsize", gridsize)
        def test_fails():
            assert 1 == 2, "the child's last words\\nin two lines"
        @pytest.mark.skip(reason="not today")
        def test_skipped(): ...
        def test_skips_itself():
            pytest.skip("not here")
        @pytest.mark.xfail(reason="known", strict=True)
        def test_expected():
            assert False
        @pytest.mark.xfail
        def test_unexpected(): ...
        @pytest.mark.xfail(strict=True)
        def test_strict(): ...
        @pytest.fixture
        def broken():
            raise RuntimeError("no fixture")
        def test_setup(broken): ...
        @pytest.fixture
        def untidy():
            yield
            raise RuntimeError("no end")
        def test_teardown(untidy): ...
        def test_both(untidy):
            assert False, "first"
        class TestClass:
            def test_method(self): ...
        """,
    )
    run = run_tests(["tests/test_x.py"], tmp_path / "log")
    assert results(run) == {
        "test_passes[gridsize1]": "passed",
        "test_passes[a/b::c.d]": "passed",
        "test_fails": "failed",
        "test_skipped": "skipped",
        "test_skips_itself": "skipped",
        "test_expected": "xfailed",
        "test_unexpected": "xpassed",
        "test_strict": "failed",
        "test_setup": "error",
        "test_teardown": "error",
        "test_both": "failed",
        "TestClass::test_method": "passed",
    }
    assert run.exit_code == 1 and set(run.collected) == set(run.outcomes) and not run.timed_out
    found = {name.split("::", 1)[1]: outcome for name, outcome in run.outcomes.items()}
    assert all(name == outcome.id and name.startswith("tests/test_x.py::") for name, outcome in run.outcomes.items())
    assert re.search(r"the child's last words\n *in two lines", found["test_fails"].message)
    assert found["test_passes[gridsize1]"].message == ""
    assert found["test_skipped"].message == "not today" and found["test_skips_itself"].message == "not here"
    assert found["test_expected"].message == "known"
    assert "no fixture" in found["test_setup"].message and "no end" in found["test_teardown"].message
    assert "first" in found["test_both"].message and "XPASS(strict)" in found["test_strict"].message
    assert found["test_passes[gridsize1]"].properties == {"gridsize": "1"}
    assert all(0 <= outcome.seconds < 10 for outcome in run.outcomes.values())


def test_selectors_choose_and_nothing_selected_is_exit_code_5(checkout: Path, tmp_path: Path) -> None:
    write(checkout, "def test_one(): ...\ndef test_two(): ...\n")
    assert results(run_tests(["tests/test_x.py", "-k", "two"], tmp_path / "log")) == {"test_two": "passed"}
    assert results(run_tests(["tests/test_x.py::test_one"], tmp_path / "log")) == {"test_one": "passed"}
    none = run_tests(["tests/test_x.py", "-k", "three"], tmp_path / "log")
    assert (none.exit_code, none.outcomes, none.collected) == (5, {}, ())
    missing = run_tests(["tests/test_y.py"], tmp_path / "log")
    assert (missing.exit_code, missing.outcomes) == (4, {})


def test_what_cannot_be_collected_is_an_error(checkout: Path, tmp_path: Path) -> None:
    write(checkout, "import no_such_module\n", "test_broken.py")
    write(checkout, "pytest.skip('all of it', allow_module_level=True)\n", "test_left_out.py")
    write(checkout, "def test_good(): ...\n", "test_good.py")
    run = run_tests(["tests"], tmp_path / "log")
    assert results(run) == {"tests/test_broken.py": "error", "tests/test_left_out.py": "skipped"}
    assert "no_such_module" in run.outcomes["tests/test_broken.py"].message
    assert run.outcomes["tests/test_left_out.py"].message == "all of it"
    assert run.exit_code == 2
    assert collect_tests(["tests/test_good.py"], tmp_path / "log") == ("tests/test_good.py::test_good",)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_run_keeps_what_was_finished(number: int, checkout: Path, tmp_path: Path) -> None:
    write(
        checkout,
        f"""
        def test_before(): ...
        def test_dies():
            os.kill(os.getpid(), {int(number)})
        def test_after(): ...
        """,
    )
    run = run_tests(["tests"], tmp_path / "log")
    assert run.exit_code == -number and results(run) == {"test_before": "passed"}
    assert len(run.collected) == 3 and "test_before" not in run.collected[1]
    assert f"exit code: {-number}" in run.log.read_text()


def test_a_test_killed_in_its_teardown_is_not_finished(checkout: Path, tmp_path: Path) -> None:
    write(
        checkout,
        """
        @pytest.fixture
        def untidy():
            yield
            os._exit(0)
        def test_passes_and_dies(untidy): ...
        """,
    )
    run = run_tests(["tests"], tmp_path / "log")
    assert (run.exit_code, run.outcomes) == (0, {}) and len(run.collected) == 1


HANGS = """
import subprocess
def test_before(): ...
def test_hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open({pid!r}, "w").write(str(child.pid))
    time.sleep(60)
"""


def test_a_timeout_kills_the_children_too(checkout: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    write(checkout, HANGS.format(pid=str(pid)))
    start = time.monotonic()
    run = run_tests(["tests"], tmp_path / "log", timeout=15)
    assert time.monotonic() - start < 40
    assert run.timed_out and run.exit_code == -signal.SIGKILL and results(run) == {"test_before": "passed"}
    assert "killed after 15 s" in run.log.read_text()
    assert not alive(int(pid.read_text()))


def test_pytest_does_not_outlive_who_asked_for_it(tmp_path: Path) -> None:
    """Else a killed runner's log would go on changing."""
    write(tmp_path / "checkout", HANGS.format(pid=str(tmp_path / "pid")))
    code = f"""
from pathlib import Path
from ptyint.evidence import pytest_runs
pytest_runs.CHECKOUT = Path({str(tmp_path / "checkout")!r})
pytest_runs.run_tests(["tests"], Path({str(tmp_path / "log")!r}))
"""
    runner = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
    finally:
        runner.kill()
        runner.wait()
    assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.05)
    return True


def test_a_report_cut_off_by_a_kill_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    whole = json.dumps({"id": "a::b", "outcome": "passed"})
    report.write_text(json.dumps({"collected": ["a::b", "a::c"]}) + "\n" + whole + "\n" + whole[:10])
    outcomes, collected = pytest_runs._read_report(report)
    assert list(outcomes) == ["a::b"] and collected == ("a::b", "a::c")


# --- the log, the command, the surroundings ---


def test_the_log_gathers_whole_sections(checkout: Path, tmp_path: Path) -> None:
    write(checkout, "def test_one():\n    print('said aloud')\n    assert False\n")
    log = tmp_path / "phase.log"
    first = run_tests(["tests/test_x.py", "-k", "one or two", "-vv"], log)
    run_tests(["tests/test_x.py", "--collect-only"], log)
    text = log.read_text()
    assert text.startswith("=== state: as is\n=== command: pytest tests/test_x.py -k 'one or two' -vv\n=== start: ")
    assert text.count("test session starts") == 2 and text.count("=== exit code: ") == 2
    for part in ("rootdir: ", "said aloud", "1 failed", "tests/test_x.py::test_one FAILED", "=== exit code: 1\n"):
        assert part in text
    values = command(first)
    assert values == json.loads(json.dumps(values)) and values["log"] == "phase.log" and values["exit_code"] == 1
    assert values["argv"][:3] == [sys.executable, "-m", "pytest"]
    assert values["argv"][-4:] == ["tests/test_x.py", "-k", "one or two", "-vv"]
    start, end = (datetime.fromisoformat(values[key]) for key in ("start", "end"))
    assert start.utcoffset() is not None and start.utcoffset().total_seconds() == 0 and start < end  # type: ignore[union-attr]


def test_nothing_is_written_into_the_checkout(checkout: Path, tmp_path: Path) -> None:
    write(checkout, "def test_one(tmp_path): (tmp_path / 'made').mkdir()\n")
    before = sorted(checkout.rglob("*"))
    run_tests(["tests"], tmp_path / "log")
    assert sorted(checkout.rglob("*")) == before


def test_files_of_the_tests_are_kept_where_asked(checkout: Path, tmp_path: Path) -> None:
    write(checkout, "def test_one(tmp_path): (tmp_path / 'made').mkdir()\n")
    run_tests(["tests"], tmp_path / "log", basetemp=tmp_path / "base")
    assert (tmp_path / "base" / "test_one0" / "made").is_dir()


def test_options_of_the_surroundings_do_not_leak_in(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(checkout, "def test_one(): ...\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    assert results(run_tests(["tests"], tmp_path / "log")) == {"test_one": "passed"}


def test_a_plugin_that_happens_to_be_installed_is_not_loaded(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that runs a red test again until it is green."""
    write(checkout, "def test_one(): assert False\n")
    plugin = "import pytest\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem): return True\n"
    installed_plugin(tmp_path, "pytest11", plugin)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert results(run_tests(["tests"], tmp_path / "log")) == {"test_one": "failed"}
    assert results(run_tests(["-p", "greens", "tests"], tmp_path / "log")) == {"test_one": "passed"}


def test_a_state_must_be_known_and_there_must_be_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"state is 'torch gone'; must be one of \['as is', 'torch not importable'"):
        run_tests([], tmp_path / "log", state="torch gone")
    monkeypatch.setattr(pytest_runs, "CHECKOUT", tmp_path)
    with pytest.raises(ConfigError, match="No tests in"):
        run_tests([], tmp_path / "log")


def test_pytest_does_not_take_the_library_for_tests(tmp_path: Path) -> None:
    ids = collect_tests(["tests/test_pytest_runs.py"], tmp_path / "log")
    assert ids and not [name for name in ids if "TestRun" in name]
    assert "PytestCollectionWarning" not in (tmp_path / "log").read_text()


# --- the red states ---


def test_the_wiring_is_one_line_or_an_error(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest_runs, "PACKAGE", checkout / "ptyint")
    table = checkout / "ptyint" / "backends" / "__init__.py"
    table.parent.mkdir(parents=True)
    (table.parent / "pytorch.py").touch()
    for name in ("datasets", "notebooks"):
        (checkout / name).mkdir()
    (checkout / "pyproject.toml").touch()
    for text in ("", f"    {pytest_runs.WIRING}\n" * 2):
        table.write_text(text)
        with pytest.raises(ConfigError, match="must hold the line"):
            run_tests(["tests"], tmp_path / "log", state=NO_WIRING)


def test_integration_selects_several(tmp_path: Path) -> None:
    ids = collect_tests([SELECTION, "-k", "integration"], tmp_path / "log")
    assert len(ids) == 4 and set(ids) < {*red_green.RED, *red_green.GUARDS}


def test_other_tests_below_tests_torch_are_skipped_without_torch(tmp_path: Path) -> None:
    """POLICY-001 is named; the file itself still collects."""
    other = "tests/torch/test_backends.py"
    run = run_tests([other, "-k", "describe_tells and pytorch"], tmp_path / "log", state=NO_TORCH)
    ((name, outcome),) = run.outcomes.items()
    assert name.startswith(f"{other}::") and outcome.outcome == "skipped"
    assert outcome.message.startswith("POLICY-001: torch is mandatory") and "pip install torch" in outcome.message
    assert "No module named 'torch'" in outcome.message


def test_torch_is_looked_for_only_where_a_test_needs_it(tmp_path: Path) -> None:
    """A torch that says when it is imported: once for any number of tests, and not for the others."""
    said = tmp_path / "imports"
    package = tmp_path / "shadow" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(said)!r}, 'a').write('x')\nraise ImportError('broken')\n")
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "base")]
    for selected, imports in ((["tests/test_params.py"], ""), (["tests/torch", "-k", "largest_network"], "x")):
        said.write_text("")
        run = subprocess.run([*base, *selected], cwd=pytest_runs.CHECKOUT, env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-2000:]
        assert said.read_text() == imports
