"""Run pytest in a process of its own and say, test by test, what really happened.

This module is also the pytest plugin that reports: pytest loads it with ``-p``, and it writes one line of JSON per
finished test, so that a run killed half-way leaves what was finished, and nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptyint._atomic import shipped
from ptyint.errors import ConfigError
from ptyint.evidence.display import Fragment
from ptyint.evidence.environment import now
from ptyint.evidence.processes import follow_parent, run_group

if TYPE_CHECKING:
    import pytest

REPORT_VARIABLE = "PTYINT_TEST_REPORT"
"""Environment variable: the file that the plugin appends to. Unset: the plugin does nothing."""

CHECKOUT = shipped()
"""Where the tests are: the checkout, or what the wheel carries of it."""

PACKAGE = Path(__file__).parents[1]

COPIED = ("tests", "datasets", "notebooks", "pyproject.toml")
"""What a copy of the checkout needs to run its tests, beside the package."""

WIRING = '"pytorch": "ptyint.backends.pytorch",'
"""The line of the table in ``ptyint/backends/__init__.py`` that wires PyTorch."""

AS_IS, NO_TORCH, NO_WIRING = "as is", "torch not importable", "torch wiring absent"

EXPECTED_ERROR = {
    NO_TORCH: "PyTorch backend selected (backend='pytorch'), but 'torch' cannot be imported: "
    "No module named 'torch'. Install it with `pip install torch`",
    NO_WIRING: "Unknown backend 'pytorch'. Must be one of ['tensorflow']",
}
"""State -> what the message of every red failure in it must contain."""

STATES = (AS_IS, *EXPECTED_ERROR)

Result = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one test.

    Attributes
    ----------
    id : str
        Such as ``tests/torch/test_x.py::test_y[gridsize1]``; a file or folder that could not be collected has its own.
    outcome : {'passed', 'failed', 'error', 'skipped', 'xfailed', 'xpassed'}
        'failed': in the test itself. 'error': before or after it, or in collecting it.
    message : str
        Of the failure, the reason of the skip or of the expected failure; empty for a pass.
    seconds : float
        Setup, call and teardown.
    properties : dict of str
        What the test recorded with ``record_property``.
    """

    id: str
    outcome: Result
    message: str = ""
    seconds: float = 0.0
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """None where the test did not run: it was skipped, or expected to fail."""
        return self.outcome == "passed" if self.outcome in ("passed", "failed", "error") else None

    @property
    def words(self) -> str:
        """What became of it, and its last words where it did not pass."""
        return self.outcome if self.outcome == "passed" else f"{self.outcome}: {self.last_words(200)}"

    def last_words(self, longest: int = 400) -> str:
        """The last line of the message, where an exception says what it is."""
        lines = [line for line in self.message.splitlines() if line.strip()]
        return lines[-1].strip()[-longest:] if lines else "-"


@dataclass(frozen=True)
class TestRun:
    """One run of pytest.

    Attributes
    ----------
    state : str
        One of `STATES`.
    argv : tuple of str
    exit_code : int
        pytest's; negative: the signal that killed it.
    start, end : str
        UTC, ISO 8601.
    log : Path
    outcomes : dict of str to Outcome
        Finished tests, by id, and what could not be collected.
    collected : tuple of str
        Ids of the tests selected to run; one that is not in `outcomes` did not finish.
    timed_out : bool
    """

    __test__ = False  # not a test class, whatever its name

    state: str
    argv: tuple[str, ...]
    exit_code: int
    start: str
    end: str
    log: Path
    outcomes: dict[str, Outcome]
    collected: tuple[str, ...] = ()
    timed_out: bool = False


def run_tests(
    arguments: Sequence[str], log: Path, *, state: str = AS_IS, basetemp: Path | None = None, timeout: float = 900
) -> TestRun:
    """Run ``pytest <arguments>`` on the checkout.

    Parameters
    ----------
    arguments : sequence of str
        As typed after ``pytest``; paths are relative to the checkout.
    log : Path
        Gets a section with the state, the command and pytest's whole output, after what it already holds.
    state : {'as is', 'torch not importable', 'torch wiring absent'}
        The second shadows torch for pytest and all its children; the third runs a copy of the checkout without
        PyTorch's module and without its line in the table of backends.
    basetemp : Path, optional
        Folder of the tests' temporary files, emptied first. None: one that is removed afterwards.
    timeout : float
        Seconds; then pytest and its children are killed.

    Returns
    -------
    TestRun

    Raises
    ------
    ConfigError
        An unknown state, or no checkout to run.
    """
    if state not in STATES:
        raise ConfigError(f"state is {state!r}; must be one of {list(STATES)}.")
    if not (CHECKOUT / "tests").is_dir():
        raise ConfigError(f"No tests in {CHECKOUT}; install ptyint again, from a checkout or as a wheel.")
    with tempfile.TemporaryDirectory(prefix="ptyint-tests-") as name:
        scratch = Path(name)
        folder, path = _enter(state, scratch)
        report = scratch / "report.jsonl"
        # A run of its own: no inherited options, no half-finished test, no bytecode or cache left in the checkout.
        dropped = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_PLUGINS")
        env = {key: value for key, value in os.environ.items() if key not in dropped}
        inherited = [env["PYTHONPATH"]] if env.get("PYTHONPATH") else []
        env |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120", REPORT_VARIABLE: str(report)}
        env["PYTHONPATH"] = os.pathsep.join([*map(str, path), *inherited])
        options = ["-p", "no:cacheprovider", "-p", __name__, "--color=no"]
        options += [f"--basetemp={(basetemp or scratch / 'basetemp').absolute()}"]
        argv = [sys.executable, "-m", "pytest", *options, *arguments]
        start = now()
        with log.open("ab") as file:
            typed = shlex.join(["pytest", *arguments])
            file.write(f"=== state: {state}\n=== command: {typed}\n=== start: {start}\n".encode())
            file.flush()
            exit_code, timed_out = run_group(argv, folder, env, file, timeout)
            end = now()
            reason = f" (killed after {timeout:g} s)" if timed_out else ""
            file.write(f"=== exit code: {exit_code}{reason}\n=== end: {end}\n\n".encode())
        outcomes, collected = _read_report(report)
    return TestRun(state, tuple(argv), exit_code, start, end, log, outcomes, collected, timed_out)


def run_states(arguments: Sequence[str], log: Path, states: Sequence[str], *, timeout: float = 900) -> list[TestRun]:
    """Run the same tests in several states side by side; one log, a section for each state, in their order.

    Parameters
    ----------
    arguments : sequence of str
    log : Path
    states : sequence of str
    timeout : float
        Seconds for each state.
    """
    logs = [log.with_name(f".{log.name}.{number}") for number in range(len(states))]
    for one in logs:
        one.unlink(missing_ok=True)
    with ThreadPoolExecutor(len(states)) as pool:
        tasks = [
            pool.submit(run_tests, arguments, one, state=state, timeout=timeout)
            for one, state in zip(logs, states, strict=True)
        ]
        runs = [task.result() for task in tasks]
    with log.open("ab") as file:
        for one in logs:
            file.write(one.read_bytes())
            one.unlink()
    return [replace(run, log=log) for run in runs]


def log_tails(runs: Sequence[TestRun], lines: int = 15) -> Fragment:
    """Of each run the command, how it ended, a link to its log and the log's last lines."""
    parts = []
    for run in runs:
        section = run.log.read_text(encoding="utf-8", errors="replace").split("=== state: ")
        text = next((part for part in section if part.startswith(f"{run.state}\n")), section[-1]).rstrip()
        tail = "\n".join(text.splitlines()[-lines:])
        parts.append(
            f"<h2>{escape(run.log.name)}: {escape(run.state)}</h2><p>Exit code {run.exit_code}; "
            f'<a href="{escape(run.log.name)}">the whole log, {escape(run.log.name)}</a>; its last lines:</p>'
            f"<pre>{escape(tail)}</pre>"
        )
    return Fragment("".join(parts))


def collect_tests(arguments: Sequence[str], log: Path) -> tuple[str, ...]:
    """Ids that ``pytest --collect-only <arguments>`` finds; what could not be collected is in the log only.

    Parameters
    ----------
    arguments : sequence of str
    log : Path
        Gets pytest's whole output, as by :func:`run_tests`.
    """
    return run_tests(["--collect-only", *arguments], log).collected


def command(run: TestRun) -> dict[str, Any]:
    """Plain values for the manifest: command line, exit code, start, end, name of the log."""
    return {
        "argv": list(run.argv),
        "exit_code": run.exit_code,
        "start": run.start,
        "end": run.end,
        "log": run.log.name,
    }


def _enter(state: str, scratch: Path) -> tuple[Path, list[Path]]:
    """Make the state true below `scratch`; return pytest's working folder and what comes first on the path."""
    if state == NO_TORCH:
        package = scratch / "shadow" / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
        return CHECKOUT, [package.parent, PACKAGE.parent]
    if state == AS_IS:
        return CHECKOUT, [PACKAGE.parent]
    copy = scratch / "checkout"
    copy.mkdir()
    for source in (PACKAGE, *(CHECKOUT / name for name in COPIED)):
        if source.is_dir():
            shutil.copytree(source, copy / source.name, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
        else:
            shutil.copy(source, copy / source.name)
    (copy / "ptyint/backends/pytorch.py").unlink()
    table = copy / "ptyint/backends/__init__.py"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.strip() != WIRING]
    if len(kept) != len(lines) - 1:
        raise ConfigError(f"ptyint/backends/__init__.py must hold the line {WIRING} once; restore it.")
    table.write_text("".join(kept), encoding="utf-8")
    return copy, [copy]


def _read_report(report: Path) -> tuple[dict[str, Outcome], tuple[str, ...]]:
    outcomes: dict[str, Outcome] = {}
    collected: tuple[str, ...] = ()
    for line in report.read_text(encoding="utf-8").splitlines(keepends=True) if report.is_file() else []:
        if not line.endswith("\n"):  # cut off by a kill
            break
        entry = json.loads(line)
        if "collected" in entry:
            collected = tuple(entry["collected"])
        else:
            outcomes[entry["id"]] = Outcome(**entry)
    return outcomes, collected


# The plugin: from here on this module runs inside pytest.

_phases: dict[str, list[pytest.TestReport]] = {}


def pytest_configure() -> None:
    """Hook: do not outlive the process that asked for this run."""
    follow_parent()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hook: write down what was selected."""
    _append({"collected": [item.nodeid for item in session.items]})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Hook: write down what could not be collected, or was skipped as a whole."""
    if report.outcome != "passed":
        result = "error" if report.failed else "skipped"
        _append({"id": report.nodeid, "outcome": result, "message": _message(report)})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Hook: gather setup, call and teardown; write the test down once it is finished."""
    phases = _phases.setdefault(report.nodeid, [])
    phases.append(report)
    if report.when != "teardown":
        return
    del _phases[report.nodeid]
    decisive = next((phase for phase in phases if phase.outcome != "passed"), phases[-2])
    expected = hasattr(decisive, "wasxfail")
    result: str = decisive.outcome
    if decisive.failed and decisive.when != "call":
        result = "error"
    elif expected:
        result = "xfailed" if decisive.skipped else "xpassed"
    _append(
        {
            "id": report.nodeid,
            "outcome": result,
            "message": _message(decisive),
            "seconds": sum(phase.duration for phase in phases),
            "properties": {str(name): str(value) for name, value in report.user_properties},
        }
    )


def _message(report: Any) -> str:
    """The failure's own words where pytest kept them apart, else all that it kept."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash is not None else str(report.longreprtext)


def _append(entry: dict[str, Any]) -> None:
    path = os.environ.get(REPORT_VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
