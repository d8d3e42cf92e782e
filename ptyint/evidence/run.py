"""One run: checks declared, notebooks executed one after the other, everything judged, the run folder finished."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from filelock import FileLock

from ptyint._atomic import checkout
from ptyint.errors import ConfigError
from ptyint.evidence import execution, folder, history, manifest, pages
from ptyint.evidence.checks import Criterion, Verdict, worst
from ptyint.evidence.environment import environment, git_state, now
from ptyint.evidence.manifest import Command, Declared, Git, Judged, Manifest, Notebook, Previous, Surroundings
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
        Checks that it must report.
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
    expects: tuple[Criterion, ...] = ()
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
    profile: Literal["quick", "full"] = "quick",
    backends: Mapping[str, dict[str, Any]] | None = None,
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
    backends : mapping, optional
        What each backend says of itself, for the manifest.
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
    start, surroundings = now(), Surroundings(**environment(backends or {}))
    with folder.claim(reports) as working:
        git = git_state(checkout(), ignored=[ledger.resolve(), working.parent])
        content = Manifest(
            run=folder.run_name(working),
            profile=profile,
            argv=list(argv),
            start=start,
            git=Git(**git),
            environment=surroundings,
            notebooks=entries,
            checks=[check for entry in entries for check in manifest.declare(entry)],
        )
        manifest.write(working, content)
        try:
            with _signals(_interrupt):
                for number, (job, entry) in enumerate(zip(jobs, entries, strict=True)):
                    content.errors += _execute(working, job, entry, _report(on_progress, job.name, number, len(jobs)))
                    _judge(working, content)
                    manifest.write(working, content)
        except Interrupted as error:
            content.errors.append(f"The run was interrupted by {error}.")
            for entry in entries:
                if entry.argv and not entry.end:
                    entry.stopped = "the run was interrupted"
        with _signals(signal.SIG_IGN):
            content.end = now()
            _judge(working, content)
            final = _finish(working, content, ledger)
    history.write_index(final.parent)
    return Finished(final, content.verdict, tuple(content.errors))


def _entry(job: Job) -> Notebook:
    """The manifest's entry of a notebook, before it ran."""
    path = execution.notebook_path(job.notebook)
    notebook = execution.read_notebook(path)
    asked = execution.check_parameters(notebook, job.parameters, path.name)
    defaults = execution.check_parameters(notebook, {}, path.name)
    expects = [Declared.of(one, asked, defaults) for one in job.expects]
    names = [declared.name for declared in expects]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{job.name} declares {twice} more than once; each check needs a name of its own.")
    return Notebook(
        stage=job.stage,
        name=job.name,
        title=job.title,
        notebook=path.name,
        source_sha256=manifest.sha256_of(path),
        asked=asked,
        expects=expects,
        artifacts=list(dict.fromkeys([*job.artifacts, *filter(None, [job.summary])])),
        timeout=job.timeout,
    )


def _execute(working: Path, job: Job, entry: Notebook, on_cell: Callable[[int, int], None]) -> list[str]:
    """Execute a notebook and write its summary; what went wrong with the run itself."""
    entry.argv = ["papermill", entry.notebook]  # from here on it was started
    executed = working / f"{job.name}.ipynb"
    done = execution.execute(job.notebook, executed, job.parameters, timeout=job.timeout, on_cell=on_cell)
    entry.argv = [argument.replace(str(working) + os.sep, "") for argument in done.argv]
    entry.start, entry.end = done.start, done.end
    entry.exit_code, entry.stopped = done.exit_code, done.stopped
    try:
        if job.summary:
            pages.write_summary(executed, working / job.summary)
    except Exception as error:  # whatever a notebook holds, the run goes on, and is red
        return [f"{job.summary} could not be written: {type(error).__name__}: {error}"]
    return []


def _judge(working: Path, content: Manifest) -> None:
    """Judge every notebook that was started; the checks of the others stay as they were declared."""
    checks, records = [], []
    for entry in content.notebooks:
        if not entry.argv:
            checks += manifest.declare(entry)
            continue
        judged, record = manifest.judge(working, entry)
        entry.verdict = worst(check.verdict for check in judged)
        entry.echoed, entry.compared, entry.numbers = record.parameters, record.compared, record.numbers
        records.append(record)
        checks += [Judged.of(entry, check) for check in judged]
    content.checks = checks
    together = merge(records)
    content.commands = [Command(**command) for command in together.commands]
    content.datasets = together.datasets
    content.numbers = {
        f"{entry.name}: {name}": value for entry in content.notebooks for name, value in entry.numbers.items()
    }
    content.verdict = content.decide()


def _finish(working: Path, content: Manifest, ledger: Path) -> Path:
    """End a run, passed or not: place in the chain, pages, digests, ledger, and as the last step the final name."""
    root = working.parent
    with FileLock(root / folder.LOCK):
        earlier = folder.finished_runs(root)
        content.sequence = (earlier[0].sequence or 0) + 1 if earlier else 1
        if earlier:
            digest = manifest.sha256_of(root / earlier[0].run / manifest.NAME)
            content.previous = Previous(run=earlier[0].run, manifest_sha256=digest)
        bodies, problems = pages.bodies(working, content)
        content.errors += problems.values()
        for entry in content.notebooks:
            entry.verdict = worst([entry.verdict, "fail"]) if entry.name in problems else entry.verdict
        content.verdict = content.decide()
        content.exit_code = 0 if content.verdict == "pass" else 1
        since = history.changes(content, earlier)
        pages.write_run(working, content, bodies, since)
        for link in [path for path in working.rglob("*") if path.is_symlink()]:
            link.unlink()
        content.artifacts = manifest.hash_artifacts(working)
        content.state = "finished"
        digest = manifest.write(working, content)
        final = root / content.run
        where = Path(os.path.relpath(final, ledger.resolve().parent.parent)).as_posix()
        history.append(ledger, history.attempt(content, digest, where, since[""]))
        os.replace(working, final)
    return final


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
