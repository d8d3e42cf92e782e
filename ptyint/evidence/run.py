"""One run: checks declared, notebooks executed one after the other, everything judged, the run folder finished."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from ptyint._atomic import checkout
from ptyint.errors import ConfigError
from ptyint.evidence import execution, folder, index, manifest, pages
from ptyint.evidence.checks import Criterion, Verdict, to_json, worst
from ptyint.evidence.environment import environment, git_state
from ptyint.evidence.record import merge

OnProgress = Callable[[str, int, int, int, int], None]
"""Called with the notebook's name, notebooks done and in all, cells done and in all."""


@dataclass(frozen=True)
class Job:
    """One notebook to execute, and what is expected of it.

    Attributes
    ----------
    stage, name, title : str
        `name` is unique in a run: it names the executed notebook, its page and its log.
    notebook : str or Path
        See :func:`ptyint.evidence.execution.notebook_path`.
    parameters : dict
        Values for its parameters cell.
    expects : tuple of Criterion
        Checks that it must report. (A bare name, until every stage declares its bounds.)
    artifacts : tuple of str
        Files that it must write, relative to the run folder.
    summary : str
        Markdown file that the runner makes of the executed notebook; one of the artifacts then.
    timeout : float
        Seconds.
    """

    stage: str
    name: str
    title: str
    notebook: str | Path
    parameters: dict[str, Any] = field(default_factory=dict)
    expects: tuple[Criterion | str, ...] = ()
    artifacts: tuple[str, ...] = ()
    timeout: float = 900.0
    summary: str = ""


@dataclass(frozen=True)
class Finished:
    """A run that is over: its folder and its verdict."""

    folder: Path
    verdict: Verdict
    errors: tuple[str, ...]


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: the run ends red, with what there is."""


def run(
    jobs: Sequence[Job],
    *,
    reports: Path,
    ledger: Path,
    argv: Sequence[str],
    profile: str = "quick",
    on_progress: OnProgress | None = None,
) -> Finished:
    """Execute notebooks into a fresh run folder.

    Parameters
    ----------
    jobs : sequence of Job
        In this order. A notebook that stops does not keep the next from running: each answers for itself.
    reports, ledger : Path
        Where the run folder is made, and the file that gets an Attempts entry.
    argv : sequence of str
        The command that asked for the run; the page tells its reader to repeat it.
    profile : {'quick', 'full'}
    on_progress : callable, optional

    Returns
    -------
    Finished

    Raises
    ------
    ConfigError
        A notebook or a parameter that cannot be, or two under one name; nothing was written.
    """
    names = [job.name for job in jobs]
    if not jobs or len(set(names)) < len(names):
        raise ConfigError(f"The notebooks of a run are {names}; there must be one or more, each under its own name.")
    entries = [_entry(job) for job in jobs]
    start, surroundings = _now(), environment()
    with folder.claim(reports) as working:
        content: dict[str, Any] = {
            "schema": manifest.VERSION,
            "run": folder.run_name(working),
            "sequence": None,
            "previous": None,
            "state": "running",
            "verdict": "not run",
            "profile": profile,
            "argv": list(argv),
            "start": start,
            "end": None,
            "exit_code": None,
            "git": git_state(checkout(), ignored=[ledger.resolve(), working.parent]),
            "environment": surroundings,
            "notebooks": entries,
            "checks": manifest.declare(entries),
            "numbers": {},
            "commands": [],
            "datasets": {},
            "artifacts": {},
            "errors": [],
        }
        manifest.write(working, content)
        try:
            with _signals(_interrupt):
                for number, (job, entry) in enumerate(zip(jobs, entries, strict=True)):
                    _execute(working, job, entry, _report(on_progress, job.name, number, len(jobs)))
                    _judge(working, content)
                    manifest.write(working, content)
        except Interrupted as error:
            content["errors"].append(f"The run was interrupted by {error}.")
            for entry in entries:
                if entry["argv"] and not entry["end"]:
                    entry["stopped"] = "the run was interrupted"
        with _signals(signal.SIG_IGN):
            content["end"] = _now()
            _judge(working, content)
            content["exit_code"] = 0 if content["verdict"] == "pass" else 1
            final = folder.finish(working, content, ledger, lambda m, since: pages.write_run(working, m, since))
    index.write(final.parent)
    return Finished(final, content["verdict"], tuple(content["errors"]))


def _entry(job: Job) -> dict[str, Any]:
    """The manifest's entry of a notebook, before it ran."""
    path = execution.notebook_path(job.notebook)
    return {
        "stage": job.stage,
        "name": job.name,
        "title": job.title,
        "notebook": path.name,
        "source_sha256": manifest.sha256_of(path),
        "asked": execution.check_parameters(path, job.parameters),
        "echoed": {},
        "expects": [one if isinstance(one, str) else one.name for one in job.expects],
        "artifacts": list(dict.fromkeys([*job.artifacts, *filter(None, [job.summary])])),
        "timeout": float(job.timeout),
        "argv": [],
        "start": "",
        "end": "",
        "exit_code": None,
        "stopped": "it was not started",
        "verdict": "not run",
        "compared": "",
        "numbers": {},
    }


def _execute(working: Path, job: Job, entry: dict[str, Any], on_cell: Callable[[int, int], None]) -> None:
    entry["argv"] = ["papermill", entry["notebook"]]  # from here on it was started
    done = execution.execute(
        job.notebook, working / f"{job.name}.ipynb", job.parameters, timeout=job.timeout, on_cell=on_cell
    )
    if job.summary:
        pages.write_summary(working / f"{job.name}.ipynb", working / job.summary)
    where = str(working)
    entry |= {
        "argv": [argument.replace(where + os.sep, "") for argument in done.argv],
        "start": done.start,
        "end": done.end,
        "exit_code": done.exit_code,
        "stopped": done.stopped,
    }


def _judge(working: Path, content: dict[str, Any]) -> None:
    """Judge every notebook that was started; the checks of the others stay as they were declared."""
    checks, records = [], {}
    for entry in content["notebooks"]:
        if not entry["argv"]:
            checks += manifest.declare([entry])
            continue
        judged, record = manifest.judge(working, entry)
        entry["verdict"] = worst(check.verdict for check in judged)
        entry["echoed"], entry["compared"] = record.parameters, record.compared
        entry["numbers"] = {name: to_json(value) for name, value in record.numbers.items()}
        records[entry["name"]] = record
        checks += [{"stage": entry["stage"], "notebook": entry["name"], **check.to_mapping()} for check in judged]
    content["checks"] = checks
    together = merge(records.values())
    content["commands"], content["datasets"] = list(together.commands), together.datasets
    content["numbers"] = {
        f"{entry['name']}: {name}": value for entry in content["notebooks"] for name, value in entry["numbers"].items()
    }
    content["verdict"] = manifest.verdict_of(content)


def _report(on_progress: OnProgress | None, name: str, number: int, total: int) -> Callable[[int, int], None]:
    def on_cell(done: int, cells: int) -> None:
        if on_progress is not None:
            on_progress(name, number, total, done, cells)

    return on_cell


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


@contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM with `handler`; in the main thread, where signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, old)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
