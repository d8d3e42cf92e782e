"""Run pytest in a process of its own and say, test by test, what really happened (:mod:`.pytest_plugin` reports)."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptyint._atomic import PACKAGE, shipped
from ptyint.errors import ConfigError
from ptyint.evidence.display import render
from ptyint.evidence.environment import now
from ptyint.evidence.processes import REPORT_VARIABLE, run_group

if TYPE_CHECKING:
    from IPython.display import Markdown

PLUGIN = "ptyint.evidence.pytest_plugin"
CHECKOUT = shipped()
"""Where the tests are: the checkout, or what the wheel carries of it."""

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
        # A run of its own: no inherited options, no half-finished test, no bytecode or cache left in the checkout, and
        # no plugin that happens to be installed, as some would run a red test again.
        dropped = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_PLUGINS")
        env = {key: value for key, value in os.environ.items() if key not in dropped}
        env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "120", REPORT_VARIABLE: str(report)}
        env["PYTHONDONTWRITEBYTECODE"] = "" if folder.is_relative_to(scratch) else "1"
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, path), env.get("PYTHONPATH", "")]))
        options = ["-p", "no:cacheprovider", "-p", PLUGIN, "--color=no"]
        options += [f"--rootdir={folder}", f"--basetemp={(basetemp or scratch / 'basetemp').absolute()}"]
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
    with tempfile.TemporaryDirectory(prefix="ptyint-tests-") as folder, ThreadPoolExecutor(len(states)) as pool:
        logs = [Path(folder, str(number)) for number in range(len(states))]
        runs = list(pool.map(lambda one, state: run_tests(arguments, one, state=state, timeout=timeout), logs, states))
        with log.open("ab") as file:
            file.writelines(one.read_bytes() for one in logs)
    return [replace(run, log=log) for run in runs]


def log_tails(runs: Sequence[TestRun], lines: int = 15) -> Markdown:
    """Of each run the command, how it ended, a link to its log and the log's last lines."""
    from IPython.display import Markdown

    texts = [run.log.read_text(encoding="utf-8", errors="replace").split("=== state: ") for run in runs]
    own = [next((s for s in t if s.startswith(f"{run.state}\n")), t[-1]) for t, run in zip(texts, runs, strict=True)]
    tails = [(run, text.rstrip().splitlines()[-lines:]) for run, text in zip(runs, own, strict=True)]
    return Markdown(render("log_tails.md.j2", tails=tails))


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
    return {"argv": list(run.argv), "exit_code": run.exit_code, "start": run.start, "end": run.end, "log": run.log.name}


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
        elif source.is_file():  # a wheel carries no pyproject.toml
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
    lines = report.read_text(encoding="utf-8").splitlines(keepends=True) if report.is_file() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]  # else it was cut off by a kill
    outcomes = {entry["id"]: Outcome(**entry) for entry in entries if "id" in entry}
    return outcomes, tuple(test for entry in entries for test in entry.get("collected", ()))
