"""Mutants: small changes to the sources that nobody chose, made by the operators of cosmic-ray, and who notices.

    python benchmarks/mutants.py DIR --sample 60 --seed 1

Each lives in a copy of the package. There the ladder is climbed until its first red rung; what survives that goes
through stage E2.D. Tests have no say. The code of one backend is changed in that backend alone. Code that is shared
changes for both, and for their judge: what is held against the other backend then says nothing and does not count, so
what is left are frozen numbers (:mod:`ptyint.parity.frozen`), the referee, and a backend against itself.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ptyint._atomic import PACKAGE, atomic_path, shipped
from ptyint.errors import ConfigError
from ptyint.evidence.processes import THREAD_VARIABLES, run_group
from ptyint.parity.faults.campaign import CAPTURED, captured
from ptyint.parity.faults.injection import SIDE
from ptyint.parity.faults.trial import ALONE, CONTROL, PROBLEMS, REFERENCE
from ptyint.parity.worker import give

NAME = "mutants.json"
OF_ONE_SIDE = "backends/pytorch.py"
MODULES = (
    OF_ONE_SIDE, "backends/training.py", "images/stitch.py", "images/gauge.py", "images/metrics.py", "images/frc.py",
    "scans/groups.py", "scans/batches.py", "backends/weights.py", "backends/bundle.py",
)  # fmt: skip
"""What is changed; all but the first are shared."""

SOURCES = {module: (PACKAGE / module).read_text(encoding="utf-8") for module in MODULES}

COPIED = (PACKAGE, *map(shipped, ("datasets", "notebooks", "tests")))
"""The package, and what stage E2.D needs beside it."""

PYTHON = (sys.executable, "-m")

PATIENCE = 10.0
"""Times what an unchanged copy takes: a mutant that hangs is killed then, and counts as caught."""


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
        ``e2d`` where that stage alone was red. Empty: it survived, or was not tried.
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


@cache
def equivalents() -> dict[tuple[str, str, str], str]:
    """Mutants that were marked by hand: module, line as it was and as it is, to the reason."""
    marked = tomllib.loads(Path(__file__).with_name("equivalents.toml").read_text(encoding="utf-8"))["mutant"]
    return {(one["module"], one["before"], one["after"]): one["reason"] for one in marked}


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


def run(folder: str | os.PathLike[str], *, sample: int = 0, seed: int = 0) -> list[Mutant]:
    """Try mutants, two side by side; what ``FOLDER/mutants.json`` has of the same sources is not tried again.

    Parameters
    ----------
    folder : path-like
        Gets ``mutants.json``, anew after each mutant, and the logs of what was captured before; must exist.
    sample, seed : int
        See :func:`drawn`.

    Returns
    -------
    list of Mutant
        The unchanged package first.

    Raises
    ------
    ConfigError
        cosmic-ray is not installed.
    """
    from tqdm import tqdm

    path = Path(folder, NAME)
    unchanged = (Mutant(OF_ONE_SIDE, CONTROL, 0, "", "", _sources_sha256()), SOURCES[OF_ONE_SIDE])
    chosen = [unchanged, *drawn(sample, seed)]
    known = {one.sha256: one for one, _ in chosen if one.equivalent}
    for old in json.loads(path.read_text(encoding="utf-8"))["mutants"] if path.is_file() else []:
        known.setdefault(old["sha256"], Mutant(**old))
    new = [pair for pair in chosen[1:] if pair[0].sha256 not in known]
    with tempfile.TemporaryDirectory(prefix="ptyint-mutants-") as name, ThreadPoolExecutor(2) as pool:
        captures = Path(name)
        give(captures, (REFERENCE, SIDE), PROBLEMS)
        list(pool.map(partial(captured, captures, path.parent, 1200.0), CAPTURED if new else ()))
        control = known.get(unchanged[0].sha256) or tried(*unchanged, captures, 1200.0)
        each = pool.map(lambda one: tried(one[0], one[1], captures, PATIENCE * control.seconds), new)
        for one in tqdm(chain([control], each), "mutants", len(new) + 1, unit="mutant"):
            known[one.sha256] = one
            done = [known[one.sha256] for one, _ in chosen if one.sha256 in known]
            with atomic_path(path) as temporary:
                temporary.write_text(
                    json.dumps({"sample": sample, "seed": seed, "mutants": [*map(asdict, done)]}, indent=1)
                )
    return done


def tried(one: Mutant, text: str, captures: Path, timeout: float) -> Mutant:
    """What the ladder, and then stage E2.D, make of a copy of the package with this file."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ptyint-mutant-") as name:
        copy = Path(name)
        for source in COPIED:
            shutil.copytree(source, copy / source.name)
        (copy / PACKAGE.name / one.module).write_text(text, encoding="utf-8")
        id, written = CONTROL if one.module == OF_ONE_SIDE else ALONE, captures / f"{one.sha256}.json"
        env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONPATH": str(copy)}
        with (copy / "log").open("w+b") as log:
            command = partial(run_group, folder=copy, env=env, output=log, timeout=timeout)
            _, late = command((*PYTHON, "ptyint.parity.faults.trial", str(captures), "--name", one.sha256, "--ids", id))
            said = (copy / "log").read_text(encoding="utf-8", errors="replace").rstrip()
            crashed = "crash" if ", in climb\n" in said else "contract"
            rung, place = "timeout" if late else crashed, said.rpartition("\n")[2][:200]
            if written.is_file():
                rung, place = (json.loads(written.read_text())["outcomes"][0][key] for key in ("rung", "place"))
            rung = rung or "e2d" * (command((*PYTHON, "ptyint.cli", "run", "e2d")) != (0, False))
    return replace(one, rung=rung, place=place, seconds=time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, print each file's score and every survivor; 0 only where 90 % were caught and the copy holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, help="gets mutants.json; what it holds of the same sources is not repeated"
    )
    parser.add_argument("--sample", type=int, default=0, help="how many places; 0: all, each in every way (a day)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    control, *each = run(options.folder, sample=options.sample, seed=options.seed)
    judged = [one for one in each if not one.equivalent]
    for module in MODULES:
        if of_it := [one for one in judged if one.module == module]:
            print(f"{module:24} {sum(one.rung != '' for one in of_it):4} of {len(of_it)} caught")
    survivors = [one for one in judged if not one.rung]
    for one in survivors:
        print(f"{one.module}:{one.line} survived {one.operator}\n  - {one.before}\n  + {one.after}")
    marked, score = len(each) - len(judged), 1 - len(survivors) / len(judged) if judged else 0.0
    print(f"{score:.1%} of {len(judged)} caught, seed {options.seed}; {marked} marked as equivalent, not tried")
    if control.rung:
        print(f"Without a change it is red: {control.rung}, {control.place}")
    return 0 if score >= 0.9 and not control.rung else 1


if __name__ == "__main__":
    sys.exit(main())
