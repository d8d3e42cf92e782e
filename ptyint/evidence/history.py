"""Runs among each other: what changed since the last one, the ledger that keeps every attempt, and the index of all.

``docs/fix_plan.md``, the ledger, gets one entry a run; nothing that stands there is ever altered. ``index.json`` (for
programs) and ``index.html`` (for people) are made from the run folders alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ptyint._atomic import atomic_path, plain
from ptyint.errors import EvidenceError
from ptyint.evidence import folder, manifest, pages
from ptyint.evidence.checks import signed
from ptyint.evidence.display import one_line, printable, render
from ptyint.evidence.manifest import Manifest, Notebook
from ptyint.evidence.record import TOLERANCE

MOST = 5
"""How many things of one kind a sentence names."""

JSON, PAGE = "index.json", "index.html"
VERSION = 1
"""Of the index."""

HEADER = """# Fix plan: attempts

One entry a run, appended when the run ends, passed or not; older entries are never altered. Newest last.

## Attempts
"""


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
    by_notebook = {entry.name: _notebook(now, entry, earlier) for entry in now.notebooks}
    same = (one for one in earlier if one.profile == now.profile and {e.name for e in one.notebooks} == {*by_notebook})
    last = next(same, None)
    whole = [f"compared with {last.run}" if last else "this is the first run of these stages in this profile"]
    whole += _surroundings(now, last) if last else []
    for name, (against, *sentences) in by_notebook.items():
        where = f"{name}, {against}" if sentences and against != whole[0] else name
        whole += [f"{where}: {sentence}" for sentence in sentences]
    return {"": whole if len(whole) > 1 or not last else [f"nothing but times, {whole[0]}"], **by_notebook}


def _notebook(now: Manifest, entry: Notebook, earlier: Sequence[Manifest]) -> list[str]:
    pairs = ((last, old) for last in earlier for old in last.notebooks if old.name == entry.name)
    last, before = next(pairs, (None, None))
    if last is None or before is None:
        return ["it ran for the first time"]
    old, new = ({check.name: check.verdict for check in one.of(entry.name)} for one in (last, now))
    bounds = [{c.name: c.bound for c in one.of(entry.name) if c.measured is not None} for one in (last, now)]
    tolerances = [
        {name.removeprefix(TOLERANCE): value for name, value in one.numbers.items() if name.startswith(TOLERANCE)}
        for one in (before, entry)
    ]
    asked = [{name: repr(value) for name, value in one.asked.items()} for one in (before, entry)]
    turned = [f"{name} ({old[name]} → {new[name]})" for name in new if old.get(name, new[name]) != new[name]]
    sentences = [
        f"compared with {last.run}",
        *_some("{} now", turned),
        *_some("new checks: {}", sorted(new.keys() - old.keys())),
        *_some("checks that are gone: {}", sorted(old.keys() - new.keys())),
        *_some("bounds moved: {}", _moved(*bounds)),
        *_some("tolerances moved: {}", _moved(*tolerances)),
        *_some("parameters: {}", _moved({name: "None" for name in asked[1]} | asked[0], asked[1])),
    ]
    return sentences + ["the notebook itself was edited"] * (entry.source_sha256 != before.source_sha256)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is in both, with another value."""
    return [f"{name} {before[name]} → {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def _surroundings(now: Manifest, last: Manifest) -> list[str]:
    sentences = _moved(*({"verdict": one.verdict, "commit": str(one.git.commit)[:10]} for one in (last, now)))
    sentences += _some("uncommitted changes in {}", now.git.changed if now.git.dirty else [])
    old, new = last.environment, now.environment
    absent = dict.fromkeys(sorted(old.packages.keys() | new.packages.keys()), "none")
    sentences += _some("packages: {}", _moved(absent | old.packages, absent | new.packages))
    facts = ("python", "platform", "cpu", "threads", "variables")
    sentences += _moved(*({fact: getattr(one, fact) for fact in facts} for one in (old, new)))
    for name, said in new.backends.items():
        differs = [key for key in said if said[key] != old.backends.get(name, {}).get(key)]
        sentences += _some(f"{name} says something else of {{}}", differs)
    return sentences


def _some(sentence: str, things: Sequence[str]) -> list[str]:
    """`sentence` about the first few `things`, or nothing."""
    more = f" and {len(things) - MOST} more" if len(things) > MOST else ""
    return [sentence.format(", ".join(things[:MOST]) + more)] if things else []


# The ledger


def append(ledger: Path, entry: str, place: Callable[[], None] = lambda: None) -> None:
    """Append a Markdown entry to the ledger (made if need be), whole or not at all, also with several runs at once.

    `place` puts in place what the entry speaks of; it is called when nothing is left to do but a rename.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ledger.with_name(f".{ledger.name}.lock")):
        before = plain(ledger).read_bytes() if ledger.exists() else HEADER.encode()
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
    runs = [_run(path) for path in (reports.iterdir() if reports.is_dir() else ()) if folder.run_name(path)]
    return {"version": VERSION, "runs": sorted(runs, key=lambda r: (r["sequence"] or 10**9, r["run"]), reverse=True)}


def write_index(reports: Path) -> Path:
    """Write ``index.json`` and ``index.html``, each whole or not at all; return the page."""
    reports.mkdir(parents=True, exist_ok=True)
    with FileLock(reports / folder.LOCK):
        content = index(reports)
        with atomic_path(reports / JSON) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        finished = folder.finished_runs(reports)
        since = changes(finished[0], finished[1:])[""] if finished else []
        pages.write_history(reports / PAGE, content["runs"], since)
    return reports / PAGE


def _run(path: Path) -> dict[str, Any]:
    name = folder.run_name(path)
    empty: dict[str, Any] = {
        "run": name, "folder": path.name, "state": "damaged", "verdict": None, "sequence": None, "start": None,
        "end": None, "profile": None, "commit": None, "dirty": None, "stages": {}, "numbers": {}, "passed": 0,
        "checks": 0, "manifest_sha256": None, "problem": "",
    }  # fmt: skip
    under_way = "running" if folder.is_busy(path) else "interrupted"
    try:
        content = manifest.read(path)
    except EvidenceError as error:
        return empty | {"state": "damaged" if path.name == name else under_way, "problem": str(error)}
    state = content.state if path.name == name else under_way
    over = state == "finished"
    return empty | {
        "state": state,
        "verdict": content.verdict if over else None,
        "sequence": content.sequence if over else None,
        **content.model_dump(include={"start", "end", "profile", "numbers"}),
        "commit": content.git.commit,
        "dirty": content.git.dirty,
        "stages": {entry.name: entry.verdict for entry in content.notebooks},
        "passed": sum(check.verdict == "pass" for check in content.checks),
        "checks": len(content.checks),
        "manifest_sha256": manifest.sha256_of(path / manifest.NAME),
    }
