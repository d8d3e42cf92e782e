"""Runs among each other: what changed since the last one, the ledger that keeps every attempt, and the index of all.

``docs/fix_plan.md``, the ledger, gets one entry a run; nothing that stands there is ever altered. ``index.json`` (for
programs) and ``index.html`` (for people) are made from the run folders alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ptyint._atomic import atomic_path, plain, write_text
from ptyint.errors import EvidenceError
from ptyint.evidence import folder, manifest, pages
from ptyint.evidence.checks import signed, to_json
from ptyint.evidence.display import one_line, printable, render
from ptyint.evidence.manifest import Manifest
from ptyint.evidence.record import TOLERANCE

if TYPE_CHECKING:
    from pandas import DataFrame

Place = tuple[str, str, str]
"""Kind of a fact, the notebook that it is of (empty: of the run), and its name."""

NUMBERS = "numbers"
"""The kind that moves from run to run and is no news."""

MOST = 5
"""How many things of one kind a sentence names."""

MACHINE = ("python", "platform", "cpu", "threads")
"""What is compared of the surroundings."""

JSON, PAGE = "index.json", "index.html"
VERSION = 1
"""Of the index."""

UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(("verdict", "sequence", "start", "end", "profile", "commit", "dirty", "manifest_sha256")),
    **{"stages": {}, "numbers": {}, "passed": 0, "checks": 0},
}
"""What the index says of a run whose manifest cannot be read."""


def changes(now: Manifest, earlier: Sequence[Manifest]) -> dict[str, list[str]]:
    """Compare a run with the ones before it.

    Parameters
    ----------
    now : Manifest
        Of the run.
    earlier : sequence of Manifest
        Of finished runs, the newest first.

    Returns
    -------
    dict of str to list of str
        Notebook to sentences about it, against the last run that had this notebook; under ``""`` the sentences about
        the run as a whole, against the last run of the same notebooks in the same profile.
    """
    by_notebook = {entry.name: _notebook(now, entry.name, earlier) for entry in now.notebooks}
    same = (one for one in earlier if one.profile == now.profile and {e.name for e in one.notebooks} == {*by_notebook})
    last = next(same, None)
    whole = [f"compared with {last.run}" if last else "this is the first run of these stages in this profile"]
    whole += _sentences(_moved(last, now), "") if last else []
    for name, (against, *sentences) in by_notebook.items():
        where = f"{name}, {against}" if sentences and against != whole[0] else name
        whole += [f"{where}: {sentence}" for sentence in sentences]
    return {"": whole if len(whole) > 1 or not last else [f"nothing but times, {whole[0]}"], **by_notebook}


def _notebook(now: Manifest, name: str, earlier: Sequence[Manifest]) -> list[str]:
    last = next((one for one in earlier if any(entry.name == name for entry in one.notebooks)), None)
    if last is None:
        return ["it ran for the first time"]
    return [f"compared with {last.run}", *_sentences(_moved(last, now), name)]


def _sentences(moved: Mapping[Place, tuple[Any, Any]], notebook: str) -> list[str]:
    """What moved in a notebook, or without a name around all of them: a sentence for each kind."""
    kinds: dict[str, list[str]] = {}
    for (kind, where, name), (before, now) in moved.items():
        if where == notebook and kind != NUMBERS:
            kinds.setdefault(kind, []).append(f"{name} {before} → {now}")
    told = {k: [*some[:MOST], *[f"and {len(some) - MOST} more"] * (len(some) > MOST)] for k, some in kinds.items()}
    return [f"{kind}: {', '.join(some)}" for kind, some in told.items()]


def difference(before: Manifest, now: Manifest) -> DataFrame:
    """What differs between two runs, times aside, a row each: kind, what, before, now; None where a run lacks it."""
    import pandas as pd

    rows = [(kind, ": ".join(filter(None, where)), *pair) for (kind, *where), pair in _moved(before, now).items()]
    return pd.DataFrame(rows, columns=["kind", "what", "before", "now"], dtype=object)


def _moved(before: Manifest, now: Manifest) -> dict[Place, tuple[Any, Any]]:
    old, new = _facts(before), _facts(now)
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def _facts(run: Manifest) -> dict[Place, Any]:
    """What can be compared between runs."""
    git, machine = run.git, run.environment
    kinds: dict[tuple[str, str], Mapping[str, Any]] = {
        ("run", ""): {"verdict": run.verdict, "commit": str(git.commit)[:10], "uncommitted": ", ".join(git.changed)},
        ("packages", ""): machine.packages,
        ("environment", ""): {name: getattr(machine, name) for name in MACHINE} | machine.variables,
        ("datasets", ""): {name: digest[:12] for name, digest in run.datasets.items()},
    }
    kinds |= {("backends", name): facts for name, facts in machine.backends.items()}
    for one in run.notebooks:
        numbers = {name: to_json(value) for name, value in one.numbers.items()}
        tolerances = {name.removeprefix(TOLERANCE): n for name, n in numbers.items() if name.startswith(TOLERANCE)}
        kinds |= {
            ("verdicts", one.name): {check.name: check.verdict for check in run.of(one.name)},
            ("bounds", one.name): {check.name: to_json(check.bound) for check in run.of(one.name)},
            ("tolerances", one.name): tolerances,
            ("parameters", one.name): one.asked,
            ("notebook", one.name): {"source": one.source_sha256[:12]},
            (NUMBERS, one.name): {name: n for name, n in numbers.items() if not name.startswith(TOLERANCE)},
        }
    return {(*kind, name): value for kind, facts in kinds.items() for name, value in facts.items()}


# The ledger


def append(ledger: Path, entry: str, place: Callable[[], None] = lambda: None) -> None:
    """Append a Markdown entry to the ledger (made if need be), whole or not at all, also with several runs at once.

    `place` puts in place what the entry speaks of; it is called when nothing is left to do but a rename.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ledger.with_name(f".{ledger.name}.lock")):
        before = plain(ledger).read_bytes() if ledger.exists() else render("ledger.md.j2").encode()
        gap = b"\n" if before.endswith(b"\n") else b"\n\n"
        with atomic_path(ledger) as temporary:
            temporary.write_bytes(before + gap + printable(entry).strip().encode() + b"\n")
            place()


def attempt(done: Manifest, digest: str, where: str, since: list[str]) -> str:
    """The entry of a finished run: verdict, what ran, moved bounds, what changed, each artifact by name.

    Parameters
    ----------
    done : Manifest
    digest : str
        sha256 of its file.
    where : str
        The run folder, as the ledger's reader finds it.
    since : list of str
        What changed since the run before.
    """
    given = {"run": done, "digest": digest, "where": where, "files": [manifest.NAME, *done.artifacts], "since": since}
    return render("attempt.md.j2", one_line=one_line, signed=signed, **given)


# The index


def index(reports: Path) -> dict[str, Any]:
    """Every run in a folder, the newest first.

    Returns
    -------
    dict
        ``version`` and ``runs``; of each: ``run``, ``state`` ("finished", "running", "interrupted" or "damaged"),
        ``verdict`` (None unless finished), ``sequence``, ``start``, ``end``, ``profile``, ``commit``, ``dirty``,
        ``stages`` (notebook to verdict), ``numbers``, ``passed`` and ``checks`` (counts), ``manifest_sha256``,
        ``folder`` and, of a damaged one, ``problem``.
    """
    runs = [_run(path) for path in reports.glob("*") if folder.run_name(path)]
    return {"version": VERSION, "runs": sorted(runs, key=lambda r: (r["sequence"] or 10**9, r["run"]), reverse=True)}


def write_index(reports: Path) -> Path:
    """Write ``index.json`` and ``index.html``, each whole or not at all; return the page."""
    reports.mkdir(parents=True, exist_ok=True)
    with FileLock(reports / folder.LOCK):
        content = index(reports)
        write_text(reports / JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
        finished = folder.finished_runs(reports)
        since = changes(finished[0], finished[1:])[""] if finished else []
        pages.write_history(reports / PAGE, content["runs"], since)
    return reports / PAGE


def _run(path: Path) -> dict[str, Any]:
    name, left = folder.run_name(path), "running" if folder.is_busy(path) else "interrupted"
    known: dict[str, Any] = {"run": name, "folder": path.name, "problem": "", **UNKNOWN}
    try:
        content = manifest.read(path)
    except EvidenceError as error:
        return {**known, "state": "damaged" if path.name == name else left, "problem": str(error)}
    state = content.state if path.name == name else left
    known |= content.model_dump(include={"start", "end", "profile", "numbers"})
    known |= content.model_dump(include={"verdict", "sequence"} if state == "finished" else set())
    return known | {
        "state": state,
        **content.git.model_dump(include={"commit", "dirty"}),
        "stages": {entry.name: entry.verdict for entry in content.notebooks},
        "passed": sum(check.verdict == "pass" for check in content.checks),
        "checks": len(content.checks),
        "manifest_sha256": manifest.sha256_of(path / manifest.NAME),
    }
