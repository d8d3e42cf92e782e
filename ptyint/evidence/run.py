"""One run: checks declared, notebooks executed side by side, everything judged, the run folder finished."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import psutil
from filelock import FileLock

from ptyint._atomic import checkout
from ptyint.errors import ConfigError, EvidenceError, LostRunError, shortened
from ptyint.evidence import execution, folder, history, manifest, pages
from ptyint.evidence.checks import Criterion, Verdict, worst
from ptyint.evidence.environment import environment, git_state, installation, now, usable_cores
from ptyint.evidence.manifest import Command, Declared, Git, Judged, Manifest, Notebook, Previous, Surroundings
from ptyint.evidence.privacy import make_private, private
from ptyint.evidence.processes import POLL_SECONDS, SCRATCH_VARIABLE, THREAD_VARIABLES
from ptyint.evidence.record import merge

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OnProgress = Callable[[str, int, int], None]
"""Called with a notebook's name, and how many of its cells are done and in all; several notebooks take turns."""


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
    needs : tuple of str
        Names of the notebooks that must have ended before this one starts, well or not, where the run has them.
    note : str
        What its reader must know before anything else.
    alone : bool
        Its processes use every core, or it times what it does: nothing else runs meanwhile.
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
    needs: tuple[str, ...] = ()
    note: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Finished:
    """A run that is over: its folder and its verdict."""

    folder: Path
    verdict: Verdict
    errors: tuple[str, ...]


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a terminal that is gone: the run ends red, with what there is."""


def run(
    jobs: Sequence[Job],
    *,
    reports: Path,
    ledger: Path,
    argv: Sequence[str],
    profile: Literal["quick", "full"] = "quick",
    describe: Callable[[], Mapping[str, dict[str, Any]]] = dict,
    on_progress: OnProgress = lambda name, done, cells: None,
    side_by_side: int = 1,
) -> Finished:
    """Execute notebooks into a fresh run folder.

    Parameters
    ----------
    jobs : sequence of Job
        Begun in this order. A notebook that stops does not keep the next from running: each answers for itself.
    reports, ledger : Path
        Where the run folder is made, and the file that gets an Attempts entry.
    argv : sequence of str
        The command that asked for the run; the page tells its reader to repeat it.
    profile : {'quick', 'full'}
    describe : callable
        Gives what each backend says of itself, for the manifest; called once the request is known to be possible.
    on_progress : callable, optional
    side_by_side : int
        How many notebooks run at once, where they do not need each other; each then has its share of the cores.

    Returns
    -------
    Finished

    Raises
    ------
    ConfigError
        A notebook or a parameter that cannot be, or two under one name; nothing was written.
    LostRunError
        Nothing of it could be kept: the disk is full, or the folder of the runs went away.
    """
    entries = declared(jobs)
    _refuse_unwritable(reports, ledger, [*argv, *(str(value) for job in jobs for value in job.parameters.values())])
    start, surroundings = now(), Surroundings(**environment(describe()))
    with folder.claim(reports) as working:
        git = git_state(checkout(), ignored=[ledger.resolve(), working.parent])
        content = Manifest(
            run=folder.run_name(working), profile=profile, argv=list(argv), start=start, git=Git(**git),
            environment=surroundings, notebooks=entries,
            checks=[Judged.of(entry, check) for entry in entries for check in manifest.declare(entry)],
        )  # fmt: skip
        content = manifest.parse(private(content.model_dump_json(by_alias=True)))
        entries = content.notebooks
        manifest.write(working, content)
        bodies: dict[str, str] = {}
        try:
            with signals(interrupt), closing(_executed(working, jobs, entries, on_progress, side_by_side)) as ended:
                for number in ended:
                    content.errors += _summarise(working, jobs[number])
                    _judge(working, content)
                    manifest.write(working, content)
                    bodies |= pages.bodies(working, content, bodies)[0]
                    pages.write_run(working, content, bodies)
        except Interrupted as error:
            content.errors.append(f"The run was interrupted by {error}.")
        except OSError as error:
            content.errors.append(_lost(working, error))
        with signals(signal.SIG_IGN):
            content.end = now()
            final = _end(working, content, ledger, bodies)
    try:
        history.write_index(final.parent)
    except OSError as error:
        return Finished(final, "fail", (*content.errors, f"The index of all runs cannot be written: {error}."))
    return Finished(final, content.verdict, tuple(content.errors))


def _refuse_unwritable(reports: Path, ledger: Path, words: Sequence[str]) -> None:
    """Refuse what would stop the run at its end: words that no manifest can hold, a ledger that cannot be one."""
    for word in (*words, str(reports.resolve()), str(ledger.resolve())):
        if word.encode("utf-8", "replace").decode() != word:
            raise ConfigError(f"{shortened(ascii(word), 300)} is no UTF-8 text, which a manifest must be; rename it.")
    for path in (reports, ledger.parent):
        there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            what = "read-only" if there.is_dir() else "a file"
            raise ConfigError(f"{path} cannot be written: {there} is {what}; give another folder.")
    if ledger.is_dir():
        raise ConfigError(f"The ledger {ledger} is a folder; give a file.")


def declared(jobs: Sequence[Job]) -> list[Notebook]:
    """The manifest's entries of notebooks before they run: parameters, and checks with their bounds.

    Raises
    ------
    ConfigError
        A notebook or a parameter that cannot be, or two under one name.
    """
    names = [job.name for job in jobs]
    if not jobs or len(set(names)) < len(names):
        raise ConfigError(f"The notebooks of a run are {names}; there must be one or more, each under its own name.")
    return [_entry(job, names) for job in jobs]


def _entry(job: Job, names: Sequence[str]) -> Notebook:
    if not 0 < job.timeout < threading.TIMEOUT_MAX:
        raise ConfigError(f"The timeout of {job.name} is {job.timeout:g}; must be a finite number of seconds above 0.")
    path = execution.notebook_path(job.notebook)
    defaults = execution.parameter_defaults(path)
    asked = execution.check_parameters(defaults, job.parameters, path.name)
    expects = [Declared.of(one, asked, defaults) for one in job.expects]
    keys = [one.name for one in expects]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"{job.name} declares {twice} more than once; each check needs a name of its own.")
    return Notebook(
        stage=job.stage, name=job.name, title=job.title, notebook=path.name, source_sha256=manifest.sha256_of(path),
        asked=asked, files=manifest.files_of(asked), runner=installation(), expects=expects, timeout=job.timeout,
        artifacts=list(dict.fromkeys([*job.artifacts, *filter(None, [job.summary])])), note=job.note,
        needs=[name for name in job.needs if name in names],
    )  # fmt: skip


def _executed(
    working: Path, jobs: Sequence[Job], entries: Sequence[Notebook], on_progress: OnProgress, side_by_side: int
) -> Generator[int, None, None]:
    """Execute notebooks, each as soon as what it needs has ended and there is room; yield its number when it ends."""
    waiting, running = list(range(len(jobs))), dict[Future[execution.Execution], int]()
    share = str(max(1, usable_cores() // side_by_side))
    env = dict.fromkeys(THREAD_VARIABLES if side_by_side > 1 else (), share)  # which its processes inherit

    def start(number: int) -> Future[execution.Execution]:
        job = jobs[number]
        return pool.submit(
            execution.execute, job.notebook, working / f"{job.name}.ipynb", job.parameters, timeout=job.timeout,
            on_cell=partial(on_progress, job.name), env=env,
        )  # fmt: skip

    def may_start(number: int) -> bool:
        awaited = {jobs[other].name for other in (*waiting, *running.values())}
        if jobs[number].alone or any(jobs[other].alone for other in running.values()):
            return not running and awaited.isdisjoint(jobs[number].needs)
        return len(running) < side_by_side and awaited.isdisjoint(jobs[number].needs)

    with tempfile.TemporaryDirectory(prefix="ptyint-run-") as scratch, ThreadPoolExecutor(side_by_side) as pool:
        env[SCRATCH_VARIABLE] = scratch
        try:
            while waiting or running:
                while (number := next(filter(may_start, waiting), None)) is not None:
                    waiting.remove(number)
                    running[start(number)] = number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    _ended(working, entries[number], future.result())
                    yield number
        finally:  # nothing is running, unless the run was interrupted
            while wait(running, timeout=POLL_SECONDS).not_done:
                _kill_kernels(scratch)
            for future, number in running.items():
                _ended(working, entries[number], replace(future.result(), stopped="the run was interrupted"))


def _kill_kernels(scratch: str) -> None:
    """Kill the processes that this one has given `scratch`: the kernels of a run that was interrupted."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.environ().get(SCRATCH_VARIABLE) == scratch:
                child.kill()


def _ended(working: Path, entry: Notebook, done: execution.Execution) -> None:
    entry.argv = [private(argument.replace(str(working) + os.sep, "")) for argument in done.argv]
    entry.start, entry.end = done.start, done.end
    entry.exit_code, entry.stopped = done.exit_code, private(done.stopped)
    with suppress(OSError):  # whoever writes next says so
        make_private(working, f"{entry.name}.ipynb", f"{entry.name}.log")


def _summarise(working: Path, job: Job) -> list[str]:
    """Write a notebook's summary; why there is none."""
    try:
        if job.summary:
            pages.write_summary(working / f"{job.name}.ipynb", working / job.summary)
    except Exception as error:  # whatever a notebook holds, the run goes on, and is red
        return [f"{job.summary} could not be written: {type(error).__name__}: {error}"]
    return []


def _judge(working: Path, content: Manifest) -> None:
    judged = [(entry, *manifest.judge(working, entry)) for entry in content.notebooks]
    for entry, checks, record in judged:
        entry.verdict = worst(check.verdict for check in checks)
        entry.echoed, entry.kernel = record.parameters, record.installation
        entry.compared, entry.numbers = record.compared, record.numbers
    together = merge(record for _, _, record in judged)
    content.checks = [Judged.of(entry, check) for entry, checks, _ in judged for check in checks]
    content.commands = [Command(**command) for command in together.commands]
    content.datasets = together.datasets
    content.numbers = {f"{one.name}: {name}": value for one, _, _ in judged for name, value in one.numbers.items()}
    content.verdict = content.decide()


def _lost(working: Path, error: OSError) -> str:
    """Why a run cannot be written, and what to do."""
    what = f"cannot be written ({error.strerror or error})" if working.is_dir() else "was deleted or renamed"
    return f"The run folder {working.name} {what} while the run went on; make room for it, and run again."


def _end(working: Path, content: Manifest, ledger: Path | None, bodies: Mapping[str, str] | None) -> Path:
    """Finish a run; where not all of it can be written, red, with what can be."""
    for last in (False, False, True):
        try:
            (working / folder.RESERVE).unlink(missing_ok=True)
            _judge(working, content)
            return _finish(working, content, ledger, bodies)
        except EvidenceError as error:
            content.errors.append(str(error))
            ledger = None
        except OSError as error:
            why = _lost(working, error)
            if last or not working.parent.is_dir():
                raise LostRunError(f"Nothing could be kept of a red run in {working.parent}. {why}") from error
            content.errors += [] if why in content.errors else [why]
            bodies = None
            with suppress(OSError):
                working = folder.writable(working)
                content.run = folder.run_name(working)
    raise AssertionError


def _finish(working: Path, content: Manifest, ledger: Path | None, bodies: Mapping[str, str] | None) -> Path:
    """End a run, passed or not: place in the chain, pages, digests, and as the last step the final name and the ledger.

    Without `bodies`, there is no room for pages with all that the notebooks show.
    """
    root = working.parent
    with FileLock(root / folder.LOCK):
        earlier = folder.finished_runs(root)
        content.sequence = (earlier[0].sequence or 0) + 1 if earlier else 1
        if earlier:
            digest = manifest.sha256_of(root / earlier[0].run / manifest.NAME)
            content.previous = Previous(run=earlier[0].run, manifest_sha256=digest)
        if os.path.lexists(root / content.run):
            content.errors.append(f"The name {content.run} was taken while the run went on; run again.")
            content.run = folder.free_name(root)
        shown, problems = ({}, {}) if bodies is None else pages.bodies(working, content, bodies)
        content.errors = [private(error) for error in dict.fromkeys([*content.errors, *problems.values()])]
        for entry in content.notebooks:
            entry.verdict = worst([entry.verdict, "fail"]) if entry.name in problems else entry.verdict
        content.verdict = content.decide()
        content.exit_code = 0 if content.verdict == "pass" else 1
        since = history.changes(content, earlier)
        pages.write_run(working, content, shown, since)
        for link in [path for path in working.rglob("*") if path.is_symlink()]:
            link.unlink()
        if bodies is not None:  # else there is no room
            make_private(working)
        content.artifacts = manifest.hash_artifacts(working)
        content.state = "finished"
        digest = manifest.write(working, content)
        final = root / content.run
        place = partial(os.replace, working, final)
        if ledger is None:
            place()
            return final
        where = Path(os.path.relpath(final, ledger.resolve().parent.parent)).as_posix()
        try:
            history.append(ledger, history.attempt(content, digest, where, since[""]), place)
        except OSError as error:
            if error.filename2 == str(final):
                raise
            if not working.exists():  # the ledger does not speak of it, so it must not be a pass
                os.replace(final, working)
            raise EvidenceError(f"The ledger {ledger} has no entry of this run: {error.strerror or error}.") from error
    return final


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal: raise :class:`Interrupted`, once."""
    for one in STOPPING:  # a second one must not keep the first from leaving a run that says so
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


@contextmanager
def signals(handler: Any) -> Iterator[None]:
    """Handle what stops a run with `handler`, in the main thread, where signals arrive; `nohup` keeps its word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = STOPPING if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else STOPPING[:2]
    before = {one: signal.signal(one, handler) for one in stopping}
    try:
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, old)
