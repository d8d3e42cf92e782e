"""When a test counts as red, and when as green: a skip, a pass for another reason, or a test that changed never do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cells import failed, record_of, run_cells, table_of

from ptyint.errors import EvidenceError
from ptyint.evidence import pytest_runs
from ptyint.evidence.checks import Check
from ptyint.evidence.pytest_runs import AS_IS, EXPECTED_ERROR, NO_TORCH, NO_WIRING, Outcome, TestRun
from ptyint.stages import red_green
from ptyint.stages.red_green import GUARDS, MUST_FAIL, MUST_PASS, RED, REFUSAL

EVERY = (*RED, REFUSAL, *GUARDS)


def run_of(state: str, outcomes: list[Outcome]) -> TestRun:
    return TestRun(state, ("pytest",), 0, "", "", Path("log"), {one.id: one for one in outcomes})


def red_run(state: str) -> TestRun:
    failed = [Outcome(test, "failed", f"AssertionError: {EXPECTED_ERROR[state]}, or") for test in MUST_FAIL[state]]
    return run_of(state, failed + [Outcome(test, "passed") for test in MUST_PASS[state]])


def changed(run: TestRun, test: str, **values: str) -> TestRun:
    return replace(run, outcomes={**run.outcomes, test: replace(run.outcomes[test], **values)})  # type: ignore[arg-type]


def without(run: TestRun, test: str) -> TestRun:
    return replace(run, outcomes={name: one for name, one in run.outcomes.items() if name != test})


def verdict(checks: list[Check], part: str) -> list[str]:
    return [check.verdict for check in checks if part in check.name]


REDS = [red_run(NO_TORCH), red_run(NO_WIRING)]
GREEN = run_of(AS_IS, [Outcome(test, "passed") for test in EVERY])


@pytest.fixture
def red(tmp_path: Path) -> dict[str, object]:
    return red_green.load_red(red_green.save_red(tmp_path, REDS))


def test_what_is_reported_is_what_was_declared(red) -> None:
    checks = red_green.red_checks(REDS)
    assert [check.name for check in checks] == [one.name for one in red_green.red_criteria()] and all(
        check.passed for check in checks
    )
    checks = red_green.green_checks([GREEN], EVERY, red)
    assert [check.name for check in checks] == [one.name for one in red_green.green_criteria()] and all(
        check.passed for check in checks
    )


@pytest.mark.parametrize(
    ("outcome", "message", "expected"),
    [
        ("skipped", "no torch", "not run"),
        ("xfailed", EXPECTED_ERROR[NO_TORCH], "not run"),
        ("passed", "", "fail"),
        ("failed", "AssertionError: something else", "fail"),
        ("failed", EXPECTED_ERROR[NO_WIRING], "fail"),
        ("error", EXPECTED_ERROR[NO_TORCH], "fail"),
    ],
)
def test_red_is_a_failure_with_the_right_words_and_nothing_else(outcome: str, message: str, expected: str) -> None:
    runs = [changed(REDS[0], RED[0], outcome=outcome, message=message), REDS[1]]
    name = f"red, {NO_TORCH}: {RED[0].removeprefix('tests/torch/')}"
    assert verdict(red_green.red_checks(runs), name) == [expected]


def test_a_red_test_or_state_that_is_missing_is_not_run() -> None:
    assert verdict(red_green.red_checks([without(REDS[0], RED[0]), REDS[1]]), f"{NO_TORCH}: {RED[0][12:]}") == [
        "not run"
    ]
    assert set(verdict(red_green.red_checks(REDS[:1]), NO_WIRING)) == {"not run"}


@pytest.mark.parametrize(
    ("outcome", "expected"), [("skipped", "not run"), ("xpassed", "not run"), ("failed", "fail"), ("error", "fail")]
)
def test_green_is_a_pass_and_nothing_else(outcome: str, expected: str, red) -> None:
    for test in (RED[0], GUARDS[0]):
        checks = red_green.green_checks([changed(GREEN, test, outcome=outcome)], EVERY, red)
        assert verdict(checks, test[12:]) == [expected]
    assert verdict(red_green.green_checks([without(GREEN, RED[0])], EVERY, red), RED[0][12:]) == ["not run"]


def test_a_green_that_was_never_red_counts_for_nothing(tmp_path: Path) -> None:
    """Passed in a red state, or red in one of the two only."""
    for runs in ([changed(REDS[0], RED[1], outcome="passed"), REDS[1]], REDS[:1]):
        never = red_green.load_red(red_green.save_red(tmp_path, runs))
        checks = red_green.green_checks([GREEN], EVERY, never)
        assert verdict(checks, RED[1][12:]) == ["not run"]
        assert "it was not seen red in the state" in next(c.note for c in checks if RED[1][12:] in c.name)


def test_a_green_of_another_test_than_the_red_one_counts_for_nothing(tmp_path: Path, red) -> None:
    red["tests_sha256"][red_green.WORKFLOW] = "0" * 64
    checks = red_green.green_checks([GREEN], EVERY, red)
    assert set(verdict(checks, "was red, is green")) == {"not run"}
    assert "changed since it was red" in checks[0].note


def test_a_test_that_pytest_no_longer_finds_is_a_failure(red) -> None:
    checks = red_green.green_checks([GREEN], EVERY[1:], red)
    assert verdict(checks, red_green.COLLECTED.name) == ["fail"] and EVERY[0] in checks[-1].note


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"red": {}, "tests_sha256": {}})])
def test_red_evidence_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "red.json").write_text(content)
    for path in (tmp_path / "red.json", tmp_path / "missing.json"):
        with pytest.raises(EvidenceError, match=r"does not tell which tests were red.*run stage e2b first"):
            red_green.load_red(path)


def test_outcomes_are_a_table_that_tells_red_from_any_other_failure() -> None:
    outcomes = red_green.outcomes([changed(REDS[0], RED[0], message="something else"), REDS[1]])
    assert len(outcomes) == 2 * len(EVERY) and list(outcomes.columns[:3]) == ["state", "test", "outcome"]
    assert not outcomes.red[0] and outcomes.red[1] and outcomes.red.sum() == 2 * len(RED)
    assert not red_green.outcomes([GREEN]).red.any()


def test_the_red_page_tells_each_failure_and_why_it_is_the_expected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("")
    runs = [without(changed(REDS[0], RED[0], message="something else"), RED[2]), REDS[1]]
    logged = [replace(run, log=tmp_path / "log") for run in runs]
    monkeypatch.setattr(pytest_runs, "run_states", lambda *_, **__: logged)
    shown = run_cells("e2b_red", output_dir=str(tmp_path))
    rows = table_of(shown, "Failures").rows
    assert len(rows) == len(RED) * 2 + 1
    assert rows[0][4].startswith('it is not, expected was "PyTorch backend selected') and rows[1][4][:8] == "it says "
    assert rows[2][2:4] == ("did not run", "-")
    record = record_of(shown)
    assert record.numbers == {"failed as they must, of 13": 11, "TensorFlow guards passed, of 5": 5, "skipped": 0}
    assert len(failed(record.checks)) == 2 and len(record.commands) == 2
    assert json.loads((tmp_path / red_green.RED_FILE).read_text())["red"].keys() == MUST_FAIL.keys()


def test_the_green_page_counts_what_was_red_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").write_text("")
    red_green.save_red(tmp_path, REDS)

    def run_tests(arguments: list[str], *_: object, **__: object) -> TestRun:
        asked = {test: one for test, one in GREEN.outcomes.items() if test.startswith(arguments[0])}
        return replace(GREEN, log=tmp_path / "log", outcomes=asked)

    monkeypatch.setattr(pytest_runs, "run_tests", run_tests)
    monkeypatch.setattr(pytest_runs, "collect_tests", lambda *_, **__: EVERY)
    shown = run_cells("e2c_green", output_dir=str(tmp_path), red_file=str(tmp_path / red_green.RED_FILE))
    record = record_of(shown)
    assert record.numbers == {"red before, passed now, of 7": 7, "TensorFlow guards passed, of 2": 2, "skipped": 0}
    assert not failed(record.checks)
    assert table_of(shown, "Red before, and now").rows[-1] == (REFUSAL, "-", "red", "passed")
