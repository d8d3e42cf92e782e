"""Stages E2.B and E2.C: the integration tests fail where PyTorch is missing, and the same tests pass where it is not.

A test counts as green only after it was seen red: the list of what must fail, in which state and with which words, is
fixed here, before anything runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptyint._atomic import atomic_path
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import Check
from ptyint.evidence.display import Table, number
from ptyint.evidence.manifest import sha256_of
from ptyint.evidence.pytest_runs import AS_IS, CHECKOUT, EXPECTED_ERROR, NO_TORCH, NO_WIRING, Outcome, TestRun, command
from ptyint.evidence.record import Record

WORKFLOW, SELECTION = "tests/torch/test_integration_workflow_torch.py", "tests/torch/test_backend_selection.py"
SUPPORT = "tests/full_cycle.py"
"""What both files and the baseline are made of."""

RED = (
    f"{WORKFLOW}::test_full_cycle[gridsize1]",
    f"{WORKFLOW}::test_full_cycle[gridsize2]",
    f"{WORKFLOW}::test_tensorflow_reads_the_bundle_that_pytorch_trained",
    f"{SELECTION}::test_integration_pytorch_is_selected_by_name_and_runs",
    f"{SELECTION}::test_integration_the_gate_runs_before_torch_is_imported",
    f"{SELECTION}::test_integration_pytorch_object_patches_are_complex64",
)
"""Tests that must fail in both red states."""

REFUSAL = f"{SELECTION}::test_missing_torch_is_an_actionable_runtimeerror"
"""Red without the wiring only: without torch, its refusal is just what it asks for."""

GUARDS = (
    f"{WORKFLOW}::test_the_default_backend_is_still_tensorflow_and_never_imports_torch",
    f"{SELECTION}::test_integration_tensorflow_is_the_default",
)
"""Tests that must pass in every state: TensorFlow is the default, and neither needs nor imports torch."""

MUST_FAIL = {NO_TORCH: RED, NO_WIRING: (*RED, REFUSAL)}
MUST_PASS = {NO_TORCH: (*GUARDS, REFUSAL), NO_WIRING: GUARDS}

RED_FILE = "phase_e_red_integration.json"
"""What the red stage leaves for the green one."""

COLLECTED = "pytest --collect-only tests/torch/ finds every one of these tests"


def red_names() -> list[str]:
    """Names of the checks of :func:`red_checks`."""
    return [
        *(_red(state, test) for state, tests in MUST_FAIL.items() for test in tests),
        *(_guard(state, test) for state, tests in MUST_PASS.items() for test in tests),
    ]


def red_checks(runs: Sequence[TestRun]) -> list[Check]:
    """Whether every test failed that must, with the words that it must, and the guards passed.

    Parameters
    ----------
    runs : sequence of TestRun
        One for each of the two red states.

    Returns
    -------
    list of Check
        A skip, or a test that did not finish, is ``not run``.
    """
    found = {run.state: run.outcomes for run in runs}
    checks = []
    for state, tests in MUST_FAIL.items():
        for test in tests:
            outcome = found.get(state, {}).get(test)
            checks.append(_ran(_red(state, test), outcome, outcome is not None and _is_red(outcome, state)))
    for state, tests in MUST_PASS.items():
        for test in tests:
            outcome = found.get(state, {}).get(test)
            checks.append(_ran(_guard(state, test), outcome, outcome is not None and outcome.outcome == "passed"))
    return checks


def green_names() -> list[str]:
    """Names of the checks of :func:`green_checks`."""
    return [*(_green(test) for test in (*RED, REFUSAL)), *(_guard(AS_IS, test) for test in GUARDS), COLLECTED]


def green_checks(runs: Sequence[TestRun], collected: Sequence[str], red: dict[str, Any]) -> list[Check]:
    """Whether every test that was red now ran and passed.

    Parameters
    ----------
    runs : sequence of TestRun
        In the real environment.
    collected : sequence of str
        Ids that pytest finds below ``tests/torch``.
    red : dict
        From :func:`load_red`.

    Returns
    -------
    list of Check
        A test that was never seen red, or whose file has changed since, is ``not run``: its green says nothing.
    """
    outcomes = {test: outcome for run in runs for test, outcome in run.outcomes.items()}
    checks = []
    for test in (*RED, REFUSAL):
        why = _not_red(test, red)
        outcome = outcomes.get(test)
        if why:
            checks.append(Check.fact(_green(test), None, why))
        else:
            checks.append(_ran(_green(test), outcome, outcome is not None and outcome.outcome == "passed"))
    for test in GUARDS:
        outcome = outcomes.get(test)
        checks.append(_ran(_guard(AS_IS, test), outcome, outcome is not None and outcome.outcome == "passed"))
    missing = [test for test in (*RED, REFUSAL, *GUARDS) if test not in collected]
    note = f"{len(collected)} collected" + (f"; missing: {', '.join(missing)}" if missing else "")
    return [*checks, Check.fact(COLLECTED, not missing, note)]


def save_red(folder: str | os.PathLike[str], runs: Sequence[TestRun]) -> Path:
    """Write what was red, and the sha256 of the tests, for the green stage."""
    target = Path(folder) / RED_FILE
    content = {
        "tests_sha256": _tests_sha256(),
        "red": {state: sorted(t for t, o in _of(runs, state).items() if _is_red(o, state)) for state in MUST_FAIL},
    }
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def load_red(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_red` wrote.

    Raises
    ------
    EvidenceError
        There is no such file, or it is something else.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["red"].keys() != MUST_FAIL.keys() or not isinstance(content["tests_sha256"], dict):
            raise ValueError("it does not name the red states")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(
            f"{Path(path).name} does not tell which tests were red ({error}); run stage e2b first: a test that was "
            "never red proves nothing by being green."
        ) from error
    return content


def headline_red(runs: Sequence[TestRun]) -> Table:
    """What the red stage is about, and its numbers."""
    checks = {check.name: check for check in red_checks(runs)}
    failed = [_red(state, test) for state, tests in MUST_FAIL.items() for test in tests]
    guards = [_guard(state, test) for state, tests in MUST_PASS.items() for test in tests]
    skipped = sum(outcome.outcome == "skipped" for run in runs for outcome in run.outcomes.values())
    compared = (
        "The integration tests were run where PyTorch is missing, in two ways: torch cannot be imported, and the "
        "dispatcher lacks the wiring. There they must fail, each with the advice that a user needs."
    )
    numbers = {
        f"failed as they must, of {len(failed)}": float(sum(checks[name].passed for name in failed)),
        f"TensorFlow guards passed, of {len(guards)}": float(sum(checks[name].passed for name in guards)),
        "skipped": float(skipped),
    }
    return _headline(compared, numbers, runs)


def headline_green(runs: Sequence[TestRun], checks: Sequence[Check]) -> Table:
    """What the green stage is about, and its numbers."""
    greens = [check for check in checks if check.name in {_green(test) for test in (*RED, REFUSAL)}]
    guards = [check for check in checks if check.name in {_guard(AS_IS, test) for test in GUARDS}]
    outcomes = [outcome.outcome for run in runs for outcome in run.outcomes.values()]
    compared = "The same tests in the real environment: green counts only for a test that was seen red."
    numbers = {
        f"red before, passed now, of {len(greens)}": float(sum(check.passed for check in greens)),
        f"TensorFlow guards passed, of {len(guards)}": float(sum(check.passed for check in guards)),
        "skipped": float(outcomes.count("skipped")),
    }
    return _headline(compared, numbers, runs)


def _headline(compared: str, numbers: dict[str, float], runs: Sequence[TestRun]) -> Table:
    rows = [(name, number(value)) for name, value in numbers.items()]
    record = Record(compared=compared, numbers=numbers, commands=tuple(command(run) for run in runs))
    return Table("In short", ("what", "found"), rows, record)


def outcomes_table(runs: Sequence[TestRun], caption: str = "Test by test") -> Table:
    """Every test of every run: what became of it, how long it took, and its own words."""
    rows = [
        (outcome.id, run.state, outcome.outcome, f"{outcome.seconds:.1f}", last_words(outcome))
        for run in runs
        for outcome in run.outcomes.values()
    ]
    return Table(caption, ("test", "state", "outcome", "seconds", "message"), rows)


def red_table(runs: Sequence[TestRun]) -> Table:
    """Each failure of the red stage: its message, and why it is the expected one."""
    rows = []
    for run in runs:
        for test in MUST_FAIL.get(run.state, ()):
            outcome = run.outcomes.get(test)
            if outcome is None:
                rows.append((test, run.state, "did not run", "-", "it is not: the test is missing"))
            else:
                why = (
                    f"it says {EXPECTED_ERROR[run.state]!r}"
                    if _is_red(outcome, run.state)
                    else f"it is not: {EXPECTED_ERROR[run.state]!r} was expected"
                )
                rows.append((test, run.state, outcome.outcome, last_words(outcome), why))
    return Table("Failures", ("test", "state", "outcome", "message", "why it is the expected one"), rows)


def last_words(outcome: Outcome, longest: int = 400) -> str:
    """The last line of a test's message, where an exception says what it is."""
    lines = [line for line in outcome.message.splitlines() if line.strip()]
    return lines[-1].strip()[-longest:] if lines else "-"


def _red(state: str, test: str) -> str:
    return f"red, {state}: {_short(test)}"


def _guard(state: str, test: str) -> str:
    return f"passes, {state}: {_short(test)}"


def _green(test: str) -> str:
    return f"was red, is green: {_short(test)}"


def _short(test: str) -> str:
    return test.removeprefix("tests/torch/")


def _is_red(outcome: Outcome, state: str) -> bool:
    return outcome.outcome == "failed" and EXPECTED_ERROR[state] in outcome.message


def _ran(name: str, outcome: Outcome | None, holds: bool) -> Check:
    """A check on a test: ``not run`` where the test was skipped, expected to fail, or did not finish."""
    if outcome is None:
        return Check.fact(name, None, "the test did not run")
    ran = outcome.outcome in ("passed", "failed", "error")
    words = "" if outcome.outcome == "passed" else f": {last_words(outcome, 200)}"
    return Check.fact(name, holds if ran else None, f"{outcome.outcome}{words}")


def _not_red(test: str, red: dict[str, Any]) -> str:
    for state, tests in MUST_FAIL.items():
        if test in tests and test not in red["red"][state]:
            return f"it was not seen red in the state {state!r}"
    changed = [file for file, digest in _tests_sha256().items() if red["tests_sha256"].get(file) != digest]
    return f"{', '.join(changed)} changed since it was red" if changed else ""


def _tests_sha256() -> dict[str, str]:
    return {file: sha256_of(CHECKOUT / file) for file in (WORKFLOW, SELECTION, SUPPORT)}


def _of(runs: Sequence[TestRun], state: str) -> dict[str, Outcome]:
    return next((run.outcomes for run in runs if run.state == state), {})
