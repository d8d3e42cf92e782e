"""A sweep: trials over axes, each an ordinary run in a process of its own, spread by any ``Executor``.

Its folder has ``sweep.json``, what is asked for; ``trials/<sha256>/``, named by what a trial is, with its runs, their
ledger and ``row.json``, what came of it; and ``reports/``, runs of ``notebooks/sweep.ipynb``, whose checks judge the
sweep, and whose manifests, a chain, hold the sha256 of the table of all trials.
"""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import runpy
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, StrictInt, ValidationError
from tqdm.auto import tqdm

from ptyint._atomic import shipped, write_text
from ptyint.errors import ConfigError, did_you_mean, shown
from ptyint.evidence import causes, folder, manifest
from ptyint.evidence import run as runner
from ptyint.evidence.checks import Criterion, Verdict
from ptyint.evidence.manifest import Notebook, Number
from ptyint.evidence.pages import seconds
from ptyint.evidence.privacy import private
from ptyint.evidence.processes import POLL_SECONDS, THREAD_VARIABLES, end_group, start_group
from ptyint.evidence.terminal import say
from ptyint.evidence.verification import verify

if TYPE_CHECKING:
    from pandas import DataFrame

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "ptyint.cli")
"""What a worker runs a trial with."""

NAME, ROW, LEDGER, TABLE = "sweep.json", "row.json", "fix_plan.md", "trials.csv"
LOG = "log"
"""Of a trial that goes on, or was lost; that of one that ended is called ``last.log``."""

OPTIONS = ("profile", "fixture", "scan", "timeout")
"""Settings that are options of ``ptyint run``; ``stages`` are its arguments, any other is a notebook parameter."""

DECIDES = {"stage", "name", "source_sha256", "asked", "expects", "artifacts"}
FACTS = ("every trial reported", "every trial passed", "nothing went wrong with the sweep itself")

EXECUTORS = "must be local, parsl:FILE (a parsl.config.Config in it; pip install ptyint[sweep]) or MODULE:FUNCTION"

STOP = threading.Event()
"""Set: the trials that this process runs are ended."""

REFRESH_SECONDS = 1.0
"""How often the bar says what runs and what has ended."""

ENDING_SECONDS = 30.0
"""How long an executor may take to cancel its jobs; the sweep is judged meanwhile where it takes longer."""

Declare = Callable[[Sequence[str]], Sequence[Notebook]]
"""Gives the notebooks of a run by its command, as they are declared; a ConfigError where they cannot be."""


class Margin(BaseModel, extra="forbid"):
    """Two numbers of the same trials whose mean difference must lie within a margin, wherever the other axes stand."""

    candidate: str
    """'<notebook>: <name>', as a run's manifest has it."""
    reference: str
    margin: float = Field(gt=0)
    over: str = "seed"
    """The axis that repeats."""


class Plan(BaseModel, extra="forbid"):
    """``sweep.toml``."""

    every: dict[str, Any] = {}
    """Settings of every trial."""
    axes: dict[str, StrictInt | list[Any]] = {}
    """Axis to its values, of which every combination is a trial; n: from 0 to n - 1; a table: several settings."""
    trials: list[dict[str, Any]] = []
    """Trials one by one."""
    exclude: list[dict[str, Any]] = []
    """What is left out: all that has these values; of a list, one of them."""
    equivalence: list[Margin] = []

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a file; a ConfigError says what is wrong with it."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except ValueError as error:  # of TOML, or the model's
            said: Any = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ["TOML"], "msg": error}
            hint = did_you_mean(said["loc"][-1], [*cls.model_fields, *Margin.model_fields])
            raise ConfigError(f"{path}: {'.'.join(map(str, said['loc']))}: {said['msg']}.{hint}") from error

    def combinations(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each trial's place on the axes, and its settings."""
        axes = {name: range(values) if isinstance(values, int) else values for name, values in self.axes.items()}
        places = (dict(zip(axes, one, strict=True)) for one in product(*axes.values())) if axes else ()
        unused = list(self.exclude)
        for place in chain(places, self.trials):
            settings = dict(self.every)
            for name, value in place.items():
                settings |= value if isinstance(value, dict) else {name: value}
                place = {**place, name: ", ".join(map(str, value.values())) if isinstance(value, dict) else value}
            values = {**settings, **place}
            excluded = [one for one in self.exclude if all(values.get(name) in _list(one[name]) for name in one)]
            unused = [one for one in unused if one not in excluded]
            if not excluded:
                yield place, settings
        if unused:
            raise ConfigError(f"exclude: no trial has {shown(unused[0])}, so nothing is left out by it.")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Trial(BaseModel):
    """A trial that is asked for."""

    key: str
    """sha256 of all that decides about it; see :func:`key_of`."""
    axes: dict[str, Any]
    """Its place in the sweep."""
    command: list[str]
    """Arguments of ``ptyint``."""

    @classmethod
    def of(cls, place: Mapping[str, Any], settings: Mapping[str, Any], base: Path, declare: Declare) -> Trial:
        """A trial with these settings, paths from `base`; a ConfigError where it cannot be."""
        paths = {name for name, value in settings.items() if value and name.rpartition("_")[2] in ("scan", "file")}
        given = {name: str(base / str(value)) if name in paths else value for name, value in settings.items()}
        options = [f"--{name}={given.pop(name)}" for name in OPTIONS if name in given]
        command = ["run", *_list(given.pop("stages", [])), *options]
        command += chain.from_iterable(("-p", name, repr(value)) for name, value in sorted(given.items()))
        axes = {name: str(value) if isinstance(value, list) else value for name, value in place.items()}
        return cls(key=key_of(declare(command), settings.get("profile", "quick")), axes=axes, command=command)


def key_of(entries: Sequence[Notebook], profile: str) -> str:
    """sha256 of what a trial is: sources, datasets, notebooks, parameters, checks; a file by what it holds."""
    said: list[Any] = [profile, manifest.sha256_of(shipped("datasets") / "registry.toml")]
    for one in entries:
        what = one.model_dump(mode="json", include=DECIDES)
        said += [one.runner.get("sources_sha256"), {**what, "asked": {**one.asked, **one.files}}]
    return hashlib.sha256(private(json.dumps(said, sort_keys=True)).encode()).hexdigest()


class Row(BaseModel):
    """What came of a trial; of one that did not report, why."""

    verdict: Verdict = "not run"
    reason: str = "it did not report"
    run: str = ""
    manifest_sha256: str = ""
    seconds: float | None = None
    numbers: dict[str, Number] = {}

    def save(self, where: Path) -> Row:
        """Write it into the trial's folder."""
        where.mkdir(parents=True, exist_ok=True)
        write_text(where / ROW, self.model_dump_json())
        return self


def attempt(where: Path, trial: Trial, program: Sequence[str], env: Mapping[str, str], retry: bool) -> Row:
    """Run a trial in its folder, unless that has a whole run already (with `retry`: one that passed).

    Any process of any machine that shares the folder can do it; `env` holds variables that may not be set there.
    Whoever is still at it is waited for.
    """
    where.mkdir(parents=True, exist_ok=True)
    with FileLock(where / ".busy"):
        row = report(where, trial)
        if (not row.run or (retry and row.verdict != "pass")) and not STOP.is_set():
            folder.remove(folder.dead(where / "reports"))
            command = [*program, *trial.command, "--reports=reports", f"--ledger={LEDGER}"]
            with (where / LOG).open("wb") as log:
                process = start_group(command, where, {**env, **os.environ}, stdout=log, stderr=log)
                try:
                    while process.poll() is None and not STOP.wait(POLL_SECONDS):
                        pass
                finally:
                    end_group(process)
            os.replace(where / LOG, where / "last.log")
            row = report(where, trial)
        return row.save(where)


def report(where: Path, trial: Trial) -> Row:
    """What the newest whole run of a trial says; one that was interrupted, damaged, or is of another trial is none."""
    row = Row()
    for content in folder.finished_runs(where / "reports"):
        run, same = where / "reports" / content.run, key_of(content.notebooks, content.profile) == trial.key
        problems = [*content.errors, *verify(run, where / LEDGER, alone=True).problems]
        problems += [] if same else ["It is a run of another trial, or by another ptyint."]
        if not problems:
            digest, why = manifest.sha256_of(run / manifest.NAME), "; ".join(causes.lines(content, 1))
            given = content.model_dump(include={"verdict", "run", "numbers"})
            return Row(reason=why, manifest_sha256=digest, seconds=float(seconds(content)), **given)
        row.reason = f"{content.run}: {problems[0]}"
    return row


class Sweep(BaseModel):
    """A sweep: what is asked for, and where.

    Examples
    --------
    >>> plan = Plan(axes={"seed": 3, "gridsize": [1, 2]}, exclude=[{"seed": 2, "gridsize": 2}])
    >>> trials = [Trial(key=str(i), axes=place, command=[]) for i, (place, _) in enumerate(plan.combinations())]
    >>> sweep = Sweep(folder=Path("nightly"), plan=plan, trials=trials)
    >>> len(sweep.trials), sweep.axes, sweep.where(trials[4]).as_posix()
    (5, ['seed', 'gridsize'], 'nightly/trials/4')
    """

    folder: Path = Field(exclude=True)
    plan: Plan
    trials: list[Trial]

    @classmethod
    def planned(cls, file: Path, folder: Path, declare: Declare) -> Sweep:
        """What a file asks for, each trial once; nothing is written. A ConfigError names a trial that cannot be."""
        plan, base = Plan.read(file), file.resolve().parent
        trials = {one.key: one for place in plan.combinations() for one in [Trial.of(*place, base, declare)]}
        sweep = cls(folder=folder.resolve(), plan=plan, trials=list(trials.values()))
        if not trials:
            raise ConfigError(f"{file} asks for no trial; give it [axes] or [[trials]].")
        if away := [one.over for one in plan.equivalence if one.over not in sweep.axes]:
            raise ConfigError(f"equivalence: no two trials differ in {away[0]!r}; must be one of {sweep.axes}.")
        return sweep

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Sweep:
        """A sweep that has begun, also while it goes on."""
        said = json.loads((Path(folder) / NAME).read_bytes())
        return cls.model_validate({**said, "folder": Path(folder).resolve()})

    @property
    def axes(self) -> list[str]:
        """Axes on which trials differ."""
        names = dict.fromkeys(name for one in self.trials for name in one.axes)
        return [name for name in names if len({one.axes.get(name) for one in self.trials}) > 1]

    def where(self, trial: Trial) -> Path:
        """The folder of a trial."""
        return self.folder / "trials" / trial.key

    @property
    def rows(self) -> list[Row]:
        """What the folders say came of the trials; :func:`report` looks closer."""
        paths = [self.where(one) / ROW for one in self.trials]
        return [Row.model_validate_json(path.read_bytes()) if path.exists() else Row() for path in paths]

    @property
    def frame(self) -> DataFrame:
        """A row for each trial: its place on the axes (as text, if of several types), what came of it, its numbers."""
        import pandas as pd

        rows = zip(self.trials, self.rows, strict=True)
        said = [{"trial": one.key, **one.axes, **row.model_dump(), **row.numbers} for one, row in rows]
        frame = pd.DataFrame(said).drop(columns="numbers")
        mixed = [name for name in self.axes if pd.api.types.infer_dtype(frame[name]).startswith("mixed")]
        return frame.astype(dict.fromkeys(mixed, str))

    def expected(self) -> str:
        """How many trials there are, how many are missing, and how long those take by what earlier ones took."""
        earlier = (Row.model_validate_json(path.read_bytes()) for path in self.folder.glob(f"trials/*/{ROW}"))
        took = [row.seconds for row in earlier if row.seconds is not None]
        n = sum(not row.run for row in self.rows)
        time = f"about {sum(took) / len(took) * n / 3600:.2g} hours of computing" if took else "none ever ran here"
        return f"{len(self.trials)} trials, {n} of them missing ({time}); nothing was run."

    def criteria(self) -> tuple[Criterion, ...]:
        """What makes a sweep green; an equivalence by the extent of its widest interval over the margin."""
        return *map(Criterion.fact, FACTS), *(
            Criterion(f"{one.candidate} as {one.reference}", "<=") for one in self.plan.equivalence
        )


def run(
    sweep: Sweep, make: Callable[[], Executor], argv: Sequence[str], *, retry: bool = False, threads: int = 0
) -> runner.Finished:
    """Run what is missing, then the notebook that judges the whole; the run of that.

    Parameters
    ----------
    sweep : Sweep
    make : callable
        Makes the executor.
    argv : sequence of str
        The command that asked for it.
    retry : bool
        Also run again what did not pass.
    threads : int
        Of each trial, where its environment does not say; 0: as ``ptyint run`` has it.

    Raises
    ------
    ConfigError
        Another process is at it.
    """
    sweep.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(sweep.folder / ".lock", timeout=0):
            write_text(sweep.folder / NAME, sweep.model_dump_json(indent=1))
            env, trouble = dict.fromkeys(THREAD_VARIABLES if threads else (), str(threads)), ""
            try:
                with runner.signals(runner.interrupt):
                    _spread(sweep, make(), (PROGRAM, env, retry))
            except (runner.Interrupted, Exception) as error:  # whatever an executor raises, the sweep is judged
                trouble = f"{type(error).__name__}: {error}"
            asked = {"sweep_dir": str(sweep.folder), "trouble": trouble}
            job = runner.Job("sweep", "sweep", sweep.folder.name, "sweep", asked, sweep.criteria(), (TABLE,))
            return runner.run([job], reports=sweep.folder / "reports", ledger=sweep.folder / LEDGER, argv=argv)
    except Timeout:
        raise ConfigError(f"Another sweep is at work in {sweep.folder}; wait for its end, or give --folder.") from None


def _spread(sweep: Sweep, executor: Executor, how: tuple[Any, ...]) -> None:
    """Run trials, and tell of each that ended, or whose worker died: a bar, or lines where nobody watches."""
    STOP.clear()
    bar = tqdm(total=len(sweep.trials), unit="trial", disable=False if "ipykernel" in sys.modules else None)
    pending, failed, start = dict[Future[Row], Path](), 0, time.monotonic()
    try:
        for one in sweep.trials:
            pending[executor.submit(attempt, sweep.where(one), one, *how)] = sweep.where(one)
        while pending:
            STOP.wait(REFRESH_SECONDS)
            for future in [one for one in pending if one.done()]:
                where, error = pending.pop(future), future.exception()
                row = Row(reason=f"its worker ended: {error!r}").save(where) if error else future.result()
                failed += row.verdict != "pass"
                bar.update()
                if bar.disable:
                    ended = len(sweep.trials) - len(pending)
                    states = f"{ended} of {len(sweep.trials)} trials have ended, {failed} failed"
                    say(f"{states}, after {time.monotonic() - start:.0f} s", to="stderr")
            bar.set_postfix(running=sum((one / LOG).exists() for one in pending.values()), failed=failed)
    finally:
        bar.close()
        STOP.set()
        cancel = {"wait": False, "cancel_futures": bool(pending)}
        ending = threading.Thread(target=executor.shutdown, kwargs=cancel, daemon=True)  # Parsl's may never end
        ending.start()
        ending.join(ENDING_SECONDS)


def executor_of(name: str, workers: int) -> Callable[[], Executor]:
    """What makes an executor: ``local``, ``parsl:FILE`` with a ``parsl.config.Config`` in it, or ``MODULE:FUNCTION``.

    Raises
    ------
    ConfigError
        It cannot be had; nothing was started.
    """
    try:
        if name == "local":
            return partial(ThreadPoolExecutor, workers)
        if not name.startswith("parsl:"):
            sys.path.append(os.getcwd())
            return partial(pkgutil.resolve_name(name))
        from parsl.concurrent import ParslPoolExecutor
        from parsl.config import Config

        os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))  # Parsl's programs
        defined = runpy.run_path(name.removeprefix("parsl:")).values()
        return partial(ParslPoolExecutor, [value for value in defined if isinstance(value, Config)].pop())
    except Exception as error:
        raise ConfigError(f"--executor {name}: {type(error).__name__}: {error}; {EXECUTORS}.") from error
