"""Mutants: small changes to the sources that nobody chose, made by the operators of cosmic-ray, and who notices.

    python benchmarks/mutants.py DIR --sample 60 --seed 1
    python benchmarks/mutants.py DIR --executor parsl:cluster.py    # all of them, on a cluster: docs/sweeps.md

Each lives in a copy of the package. There the ladder is climbed until its first red rung, over few networks; what
survives that climbs the whole ladder and goes through stage E2.D, as stages of a run. Tests have no say. The code of
one backend is changed in that backend alone. Code that is shared changes for both, and for their judge: what is held
against the other backend then says nothing and does not count, so what is left are frozen numbers
(:mod:`ptyint.parity.frozen`), the referee, and a backend against itself. The frozen numbers are asked first, alone:
they are part of the lowest rung, and need no framework.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ptyint._atomic import PACKAGE, atomic_path, shipped
from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check
from ptyint.evidence.processes import THREAD_VARIABLES, run_group
from ptyint.evidence.sweep import EXECUTORS, executor_of
from ptyint.parity.faults.campaign import captured
from ptyint.parity.faults.trial import ALONE, CONTROL
from ptyint.stages.faults import SCORE, UNCHANGED

NAME = "mutants.json"
OF_ONE_SIDE = "backends/pytorch.py"
MODULES = (
    OF_ONE_SIDE, "backends/training.py", "images/stitch.py", "images/phases.py", "images/gauge.py",
    "images/metrics.py", "images/frc.py",
    "scans/groups.py", "scans/batches.py", "backends/weights.py", "backends/bundle.py",
)  # fmt: skip
"""What is changed; all but the first are shared."""

SOURCES = {module: (PACKAGE / module).read_text(encoding="utf-8") for module in MODULES}

COPIED = (PACKAGE, *map(shipped, ("datasets", "notebooks", "tests")))
"""The package, and what stage E2.D needs beside it."""

PYTHON = sys.executable
TRIAL = (PYTHON, "-m", "ptyint.parity.faults.trial")

FACTS = """
from ptyint.evidence.processes import follow_parent
follow_parent()
from ptyint.parity.frozen import check
one = check()
print(one.note)
raise SystemExit(not one.passed)
"""
"""Two seconds; the whole ladder and stage E2.D take a hundred times that."""

TIMEOUT = 3600.0
"""Seconds for few networks, again for each stage, and a twelfth of it for the frozen numbers: what hangs is killed
then, and counts as caught. An unchanged copy takes a minute, some minutes, and two seconds of a core."""

SIDE_BY_SIDE = partial(ThreadPoolExecutor, 2)


@dataclass(frozen=True)
class Mutant:
    """One change, and what became of it.

    Attributes
    ----------
    module, operator : str
        File below the package, and the operator's name in cosmic-ray.
    line : int
    before, after : str
        That line, as it was and as it is.
    sha256 : str
        Of the changed file and of all that decides about it.
    rung : str
        The first red one; ``crash`` where its process ended before one was, ``timeout`` where it had to be killed,
        ``ladder`` or ``e2d`` where the whole of that stage alone was red. Empty: it survived, or was not tried.
    place : str
        What was red there, in words.
    seconds : float
    """

    module: str
    operator: str
    line: int
    before: str
    after: str
    sha256: str
    rung: str = ""
    place: str = ""
    seconds: float = 0.0

    @property
    def equivalent(self) -> str:
        """Why it changes nothing that anybody could see, where that has been marked by hand; it is not tried."""
        return equivalents().get((self.module, self.before, self.after), "")


class Sample:
    """What became of the mutants of a draw.

    Parameters
    ----------
    seed : int
    control : Mutant
        The unchanged package.
    *each : Mutant
    """

    def __init__(self, seed: int, control: Mutant, *each: Mutant) -> None:
        self.seed, self.control, self.each = seed, control, each
        self.marked = [one for one in each if one.equivalent]
        self.judged = [one for one in each if not one.equivalent]
        self.survivors = [one for one in self.judged if not one.rung]

    @property
    def score(self) -> float | None:
        """Share of those judged that were caught; None where there are none."""
        return 1 - len(self.survivors) / len(self.judged) if self.judged else None

    @property
    def by_module(self) -> pd.DataFrame:
        """A row for each file: how many were judged and caught, the share of these, and how many by which rung."""
        rows = pd.DataFrame([(one.module, one.rung) for one in self.judged], columns=["module", "rung"])
        scores = (rows["rung"] != "").groupby(rows["module"]).agg(mutants="size", caught="sum", share="mean")
        rungs = pd.crosstab(rows["module"], rows["rung"]).drop(columns="", errors="ignore")
        return scores.join(rungs).reset_index()

    @property
    def sentence(self) -> str:
        """The score in words."""
        caught, n = len(self.judged) - len(self.survivors), len(self.judged)
        alarm = f" Without a change it is red: {self.control.rung}, {self.control.place}." if self.control.rung else ""
        share, marked = f"{caught / max(n, 1):.1%}", f"{len(self.marked)} more are marked as equivalent"
        return f"{caught} of {n} mutants were caught ({share}, seed {self.seed}); {marked}.{alarm}"

    @property
    def checks(self) -> list[Check]:
        """What the stage declares."""
        return [UNCHANGED.holds(not self.control.rung, self.control.place), SCORE.measured(self.score)]


def listed(some: Sequence[Mutant]) -> pd.DataFrame:
    """A row for each: where, the line as it was and as it is, and the reason where it is marked as equivalent."""
    rows = [(f"{one.module}:{one.line}", one.before, one.after, one.equivalent) for one in some]
    frame = pd.DataFrame(rows, columns=["line", "as it was", "as it is", "reason"])
    return frame if frame["reason"].any() else frame.drop(columns="reason")


@cache
def equivalents() -> dict[tuple[str, str, str], str]:
    """Mutants that were marked by hand: module, line as it was and as it is, to the reason."""
    marked = tomllib.loads(Path(__file__).with_name("equivalents.toml").read_text(encoding="utf-8"))["mutant"]
    return {(one["module"], one["before"], one["after"]): one["reason"] for one in marked}


@cache
def places() -> list[list[tuple[str, Any, int]]]:
    """Everything that can be changed, place by place: each change as its module, an operator and which occurrence.

    Annotations are not evaluated, and errors are words: neither is changed.

    Raises
    ------
    ConfigError
        cosmic-ray is not installed.
    """
    try:
        from cosmic_ray.ast import ast_nodes, get_ast
        from cosmic_ray.operators.provider import OperatorProvider
    except ImportError as error:
        raise ConfigError(f"Mutants need cosmic-ray ({error}): pip install cosmic-ray.") from None
    provider, found = OperatorProvider(), []
    for module, source in SOURCES.items():
        nodes, left_out, at = list(ast_nodes(get_ast(source))), list(_left_out(source)), defaultdict(list)
        for operator in (provider[name]() for name in provider if not provider[name].arguments()):
            for occurrence, (start, _) in enumerate(one for node in nodes for one in operator.mutation_positions(node)):
                if not any(first <= start < last for first, last in left_out):
                    at[start].append((module, operator, occurrence))
        found += [at[start] for start in sorted(at)]
    return found


def _left_out(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for node in ast.walk(ast.parse(source)):
        parts: tuple[Any, ...] = (getattr(node, "annotation", None), getattr(node, "returns", None))
        for part in (*filter(None, parts), *([node] if isinstance(node, ast.Raise) else [])):
            yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def made(change: tuple[str, Any, int], sources: str = "") -> tuple[Mutant, str]:
    """A mutant, and the changed file; `sources` is the digest of all that decides about it."""
    from cosmic_ray.mutating import mutate_code

    module, operator, occurrence = change
    old, text = SOURCES[module], mutate_code(SOURCES[module], operator, occurrence)
    pairs = enumerate(zip(old.splitlines(), text.splitlines(), strict=False), 1)
    line, before, after = next((i, " ".join(a.split()), " ".join(b.split())) for i, (a, b) in pairs if a != b)
    digest = hashlib.sha256((sources + text).encode()).hexdigest()
    return Mutant(module, type(operator).__name__, line, before, after, digest), text


def drawn(sample: int, seed: int) -> Iterator[tuple[Mutant, str]]:
    """A change at each of `sample` places, and those marked as equivalent on top; 0: every change at every place.

    Places are drawn by `seed`, then one change at each: a plus, which eleven operators can replace, counts no more
    than a number. What is no Python any more is left out.
    """
    everything, generator, sources = places(), np.random.default_rng(seed), _sources_sha256()
    shuffled = (everything[place] for place in generator.permutation(len(everything)))
    one_each = (changes[generator.integers(len(changes))] for changes in shuffled)
    left = sample or float("inf")
    for change in one_each if sample else (change for changes in everything for change in changes):
        with suppress(SyntaxError, AttributeError):  # cosmic-ray stumbles over dotted names of exceptions
            one, text = made(change, sources)
            ast.parse(text)
            yield one, text
            left -= not one.equivalent
        if not left:
            return


def _sources_sha256() -> str:
    """Digest of what decides about a mutant."""
    files = (path for folder in COPIED for path in sorted(folder.rglob("*.*")) if path.suffix != ".pyc")
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def run(
    folder: str | os.PathLike[str],
    *,
    sample: int = 0,
    seed: int = 0,
    executor: Callable[[], Executor] = SIDE_BY_SIDE,
) -> Sample:
    """Try mutants; what ``FOLDER/mutants.json`` has of the same sources is not tried again.

    Parameters
    ----------
    folder : path-like
        Gets ``mutants.json``, anew after each mutant, and the logs of what was captured before; must exist.
    sample, seed : int
        See :func:`drawn`.
    executor : callable
        Makes what spreads them, as :func:`ptyint.evidence.sweep.executor_of` gives it. Other machines must see the
        captures: set ``TMPDIR`` to a folder that they share.

    Returns
    -------
    Sample

    Raises
    ------
    ConfigError
        cosmic-ray is not installed, or a worker ended before its mutant was judged: that one is to be tried again.
    """
    from tqdm import tqdm

    path = Path(folder, NAME)
    unchanged = (Mutant(OF_ONE_SIDE, CONTROL, 0, "", "", _sources_sha256()), SOURCES[OF_ONE_SIDE])
    chosen = [unchanged, *drawn(sample, seed)]
    known = {one.sha256: one for one, _ in chosen if one.equivalent}
    for old in json.loads(path.read_text(encoding="utf-8"))["mutants"] if path.is_file() else []:
        known.setdefault(old["sha256"], Mutant(**old))
    new = [pair for pair in chosen if pair[0].sha256 not in known]
    needed = captured(path.parent, 1200.0) if new else nullcontext((path.parent, []))
    with needed as (captures, _), executor() as pool:
        waiting = [pool.submit(tried, *pair, captures) for pair in new]
        try:
            for future in tqdm(as_completed(waiting), "mutants", len(waiting), unit="mutant"):
                if not future.exception():
                    known[future.result().sha256] = future.result()
                _keep(path, sample, seed, [known[one.sha256] for one, _ in chosen if one.sha256 in known])
        finally:
            pool.shutdown(cancel_futures=True)
    lost = [error for error in (future.exception() for future in waiting) if error]
    if lost:
        raise ConfigError(f"{len(lost)} of {len(new)} mutants were not judged: {lost[0]!r}; run the same again.")
    _keep(path, sample, seed, [known[one.sha256] for one, _ in chosen])
    return Sample(seed, *(known[one.sha256] for one, _ in chosen))


def _keep(path: Path, sample: int, seed: int, done: Sequence[Mutant]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps({"sample": sample, "seed": seed, "mutants": [*map(asdict, done)]}, indent=1), encoding="utf-8"
        )


def tried(one: Mutant, text: str, captures: Path, timeout: float = TIMEOUT) -> Mutant:
    """What the ladder, and then stage E2.D, make of a copy of the package with this file."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ptyint-mutant-") as name:
        copy = Path(name)
        for source in COPIED:
            shutil.copytree(source, copy / source.name)
        (copy / PACKAGE.name / one.module).write_text(text, encoding="utf-8")
        shared, written = one.module != OF_ONE_SIDE, captures / f"{one.sha256}.json"
        env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONPATH": str(copy)}
        with (copy / "log").open("w+b") as log:
            command = partial(run_group, folder=copy, env=env, output=log)
            code, late = command((PYTHON, "-c", FACTS), timeout=timeout / 12) if shared else (0, False)
            rung, place = "timeout" if late else "contract" * (code != 0), _last_line(copy / "log")
            if not rung:
                asked = ALONE if shared else CONTROL
                _, late = command((*TRIAL, str(captures), one.sha256, asked), timeout=timeout)
                crashed = "crash" if ", in climb\n" in (copy / "log").read_text(errors="replace") else "contract"
                rung, place = "timeout" if late else crashed, _last_line(copy / "log")
                if written.is_file():
                    rung, place = (json.loads(written.read_text())[asked][key] for key in ("rung", "place"))
            for stage in ("e2d",) if one.operator == CONTROL else ("ladder", "e2d"):
                if not rung:
                    code, late = command((PYTHON, "-m", "ptyint.cli", "run", stage), timeout=timeout)
                    rung = "timeout" if late else stage * (code != 0)
                    place = _last_line(copy / "log") if rung else ""
    return replace(one, rung=rung, place=place, seconds=time.perf_counter() - start)


def _last_line(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2][:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, print each file's score and every survivor; 0 only where what the stage asks for holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="gets mutants.json; what it holds of the same sources is not repeated"
    )
    parser.add_argument("--sample", type=int, default=0, help="how many places; 0: all, each in every way (a day)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    parser.add_argument("--executor", default="local", help=f"{EXECUTORS}; its workers need this folder on PYTHONPATH")
    parser.add_argument("--workers", type=int, default=2, help="side by side, where that is local")
    options = parser.parse_args(arguments)
    executor = executor_of(options.executor, options.workers)
    options.folder.mkdir(parents=True, exist_ok=True)
    sample = run(options.folder, sample=options.sample, seed=options.seed, executor=executor)
    print(sample.by_module.to_string(index=False))
    for one in sample.survivors:
        print(f"{one.module}:{one.line} survived\n  - {one.before}\n  + {one.after}")
    print(sample.sentence)
    return int(not all(check.passed for check in sample.checks))


if __name__ == "__main__":
    import mutants  # by this name other processes find what they are sent

    sys.exit(mutants.main())
