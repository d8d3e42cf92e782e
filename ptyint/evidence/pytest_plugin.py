"""The pytest plugin of :mod:`ptyint.evidence.pytest_runs`: one line of JSON for each finished test, as it finishes.

A run killed half-way leaves what was finished, and nothing else.
"""

import json
import os
from typing import Any

import pytest

from ptyint.evidence.processes import REPORT_VARIABLE, follow_parent

_phases: dict[str, list[pytest.TestReport]] = {}


def pytest_configure() -> None:
    """Hook: do not outlive the process that asked for this run."""
    follow_parent()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hook: write down what was selected."""
    _append(collected=[item.nodeid for item in session.items])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Hook: write down what could not be collected, or was skipped as a whole."""
    if report.outcome != "passed":
        _append(id=report.nodeid, outcome="error" if report.failed else "skipped", message=_message(report))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Hook: gather setup, call and teardown; write the test down once it is finished."""
    phases = _phases.setdefault(report.nodeid, [])
    phases.append(report)
    if report.when != "teardown":
        return
    del _phases[report.nodeid]
    decisive = next((phase for phase in phases if phase.outcome != "passed"), phases[-2])
    result: str = decisive.outcome
    if decisive.failed and decisive.when != "call":
        result = "error"
    elif hasattr(decisive, "wasxfail"):
        result = "xfailed" if decisive.skipped else "xpassed"
    seconds = sum(phase.duration for phase in phases)
    properties = {str(name): str(value) for name, value in report.user_properties}
    _append(id=report.nodeid, outcome=result, message=_message(decisive), seconds=seconds, properties=properties)


def _message(report: Any) -> str:
    """The failure's own words where pytest kept them apart, else all that it kept."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash is not None else str(report.longreprtext)


def _append(**entry: Any) -> None:
    if path := os.environ.get(REPORT_VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
