"""Stages E2.B and E2.C: the integration tests fail where PyTorch is missing, and the same tests pass where it is not.

A test counts as green only after it was seen red: the list of what must fail, in which state and with which words, is
fixed here, before anything runs.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ptyint._atomic import plain, write_text
from ptyint.errors import EvidenceError
from ptyint.evidence import folder
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.manifest import sha256_of
from ptyint.evidence.pytest_runs import AS_IS, CHECKOUT, EXPECTED_ERROR, NO_TORCH, NO_WIRING, Outcome, TestRun
from ptyint.evidence.run import Job
from ptyint.stages.request import Request, Stage

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

RED_LOG, SUMMARY = "phase_e_red_integration.log", "red_phase.md"
GREEN_LOGS = {WORKFLOW: "phase_e_integration_green.log", SELECTION: "phase_e_backend_green.log"}
COLLECT_LOG = "phase_e_collect.log"
COLLECTED = Criterion.fact("pytest --collect-only tests/torch/ finds every one of these tests")


def red_jobs(request: Request) -> list[Job]:
    """The notebook of stage E2.B."""
    artifacts = (RED_LOG, SUMMARY, RED_FILE)
    return [Job("e2b", "e2b", RED_STAGE.title, "e2b_red", {}, red_criteria(), artifacts, summary=SUMMARY)]


def green_jobs(request: Request) -> list[Job]:
    """The notebook of stage E2.C, after what was red in this run, else in the newest run whose red stage passed."""
    parameters = {"red_file": _red_file(request)}
    artifacts = (*GREEN_LOGS.values(), COLLECT_LOG)
    return [Job("e2c", "e2c", GREEN_STAGE.title, "e2c_green", parameters, green_criteria(), artifacts, needs=("e2b",))]


def _red_file(request: Request) -> str:
    if "e2b" in request.stages:
        return RED_FILE
    for manifest in folder.finished_runs(request.reports):
        if any(entry.name == "e2b" and entry.verdict == "pass" for entry in manifest.notebooks):
            return os.path.join("..", manifest.run, RED_FILE)
    raise EvidenceError(
        f"Stage e2c needs the red evidence of stage e2b, and no run in {request.reports} has it: run both, "
        "`ptyint run e2b e2c`."
    )


RED_STAGE = Stage("E2.B Red", "the integration tests fail where PyTorch is missing, for the right reason", red_jobs)
GREEN_STAGE = Stage("E2.C Green", "the tests that were red pass in the real environment", green_jobs)


def red_criteria() -> tuple[Criterion, ...]:
    """In both red states every test fails that must, with the words that it must, and the guards pass."""
    red = (_fact(f"red, {state}", test) for state, test in _each(MUST_FAIL))
    return (*red, *(_fact(f"passes, {state}", test) for state, test in _each(MUST_PASS)))


def red_checks(runs: Sequence[TestRun]) -> list[Check]:
    """The checks of :func:`red_criteria`; a skip, or a test that did not finish, is ``not run``."""
    ran = {(run.state, test): outcome for run in runs for test, outcome in run.outcomes.items()}
    red = [_seen(ran.get(one), red_in=one[0]) for one in _each(MUST_FAIL)]
    seen = red + [_seen(ran.get(one)) for one in _each(MUST_PASS)]
    return [criterion.holds(*what) for criterion, what in zip(red_criteria(), seen, strict=True)]


def green_criteria() -> tuple[Criterion, ...]:
    """Every test that was red now passes, as do the guards, and pytest finds each of them."""
    green = (_fact("was red, is green", test) for test in (*RED, REFUSAL))
    return (*green, *(_fact(f"passes, {AS_IS}", test) for test in GUARDS), COLLECTED)


def green_checks(runs: Sequence[TestRun], collected: Sequence[str], red: dict[str, Any]) -> list[Check]:
    """The checks of :func:`green_criteria`, from runs as is, the ids that pytest finds, and :func:`load_red`.

    A test that was never seen red, or whose file has changed since, is ``not run``: its green says nothing.
    """
    outcomes = {test: outcome for run in runs for test, outcome in run.outcomes.items()}
    missing = [test for test in (*RED, REFUSAL, *GUARDS) if test not in collected]
    note = f"{len(collected)} collected" + (f"; missing: {', '.join(missing)}" if missing else "")
    seen: list[tuple[bool | None, str]] = []
    for test in (*RED, REFUSAL):
        why = _not_red(test, red)
        seen.append((None, why) if why else _seen(outcomes.get(test)))
    seen += [*(_seen(outcomes.get(test)) for test in GUARDS), (not missing, note)]
    return [criterion.holds(*what) for criterion, what in zip(green_criteria(), seen, strict=True)]


def save_red(folder: str | os.PathLike[str], runs: Sequence[TestRun]) -> Path:
    """Write what was red, and the sha256 of the tests, for the green stage."""
    seen = {run.state: sorted(t for t, one in run.outcomes.items() if is_red(one, run.state)) for run in runs}
    red = {state: seen.get(state, []) for state in MUST_FAIL}
    content = {"tests_sha256": _tests_sha256(), "red": red}
    return write_text(Path(folder) / RED_FILE, json.dumps(content, indent=1) + "\n")


def load_red(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_red` wrote.

    Raises
    ------
    EvidenceError
        There is no such file, or it is something else.
    """
    try:
        content: dict[str, Any] = json.loads(plain(path).read_text(encoding="utf-8"))
        if content["red"].keys() != MUST_FAIL.keys() or not isinstance(content["tests_sha256"], dict):
            raise ValueError("it does not name the red states")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(
            f"{Path(path).name} does not tell which tests were red ({error}); run stage e2b first: a test that was "
            "never red proves nothing by being green."
        ) from error
    return content


def outcomes(runs: Sequence[TestRun]) -> pd.DataFrame:
    """A row for every test of every run: what became of it, its own words, and whether it is red as it must be."""
    columns = ("state", "test", "outcome", "seconds", "message", "red")
    rows = [
        (run.state, one.id, one.outcome, one.seconds, one.last_words(), is_red(one, run.state))
        for run in runs
        for one in run.outcomes.values()
    ]
    return pd.DataFrame(rows, columns=columns)


def is_red(outcome: Outcome, state: str) -> bool:
    """Whether a test failed in a red state with the words that it must."""
    return state in MUST_FAIL and outcome.outcome == "failed" and EXPECTED_ERROR[state] in outcome.message


def _each(tests: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    return [(state, test) for state, names in tests.items() for test in names]


def _fact(what: str, test: str) -> Criterion:
    return Criterion.fact(f"{what}: {test.removeprefix('tests/torch/')}")


def _seen(outcome: Outcome | None, red_in: str = "") -> tuple[bool | None, str]:
    """Whether it passed, or with `red_in` was red in that state; None where it was skipped or did not finish."""
    if outcome is None:
        return None, "the test did not run"
    holds = is_red(outcome, red_in) if red_in and outcome.passed is not None else outcome.passed
    return holds, outcome.words


def _not_red(test: str, red: dict[str, Any]) -> str:
    for state, tests in MUST_FAIL.items():
        if test in tests and test not in red["red"][state]:
            return f"it was not seen red in the state {state!r}"
    changed = [file for file, digest in _tests_sha256().items() if red["tests_sha256"].get(file) != digest]
    return f"{', '.join(changed)} changed since it was red" if changed else ""


def _tests_sha256() -> dict[str, str]:
    return {file: sha256_of(CHECKOUT / file) for file in (WORKFLOW, SELECTION, SUPPORT)}
