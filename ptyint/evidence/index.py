"""All runs at a glance: ``index.json`` for programs, ``index.html`` for people. Made from the run folders alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from ptyint._atomic import atomic_path
from ptyint.errors import EvidenceError
from ptyint.evidence import folder, manifest
from ptyint.evidence.changes import changes

JSON, PAGE = "index.json", "index.html"
VERSION = 1


def index(reports: Path) -> dict[str, Any]:
    """Every run in a folder, the newest first.

    Parameters
    ----------
    reports : Path

    Returns
    -------
    dict
        ``version`` and ``runs``; of each: ``run``, ``state`` ("finished", "running", "interrupted" or "damaged"),
        ``verdict`` (None unless finished), ``sequence``, ``start``, ``end``, ``profile``, ``commit``, ``dirty``,
        ``stages`` (notebook to verdict), ``numbers``, ``passed`` and ``checks`` (counts), ``manifest_sha256``,
        ``folder`` and, of a damaged one, ``problem``.
    """
    paths = [path for path in reports.iterdir() if folder.run_name(path)] if reports.is_dir() else []
    runs = [_run(path) for path in paths]
    return {"version": VERSION, "runs": sorted(runs, key=lambda r: (r["sequence"] or 10**9, r["run"]), reverse=True)}


def write(reports: Path) -> Path:
    """Write ``index.json`` and ``index.html``, each whole or not at all.

    Returns
    -------
    Path
        The page.
    """
    from ptyint.evidence import pages

    reports.mkdir(parents=True, exist_ok=True)
    with FileLock(reports / folder.LOCK):
        found = index(reports)
        with atomic_path(reports / JSON) as temporary:
            temporary.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        finished = folder.finished_runs(reports)
        since = changes(finished[0], finished[1:])[""] if finished else []
        pages.write_history(reports / PAGE, found, since)
    return reports / PAGE


def _run(path: Path) -> dict[str, Any]:
    name = folder.run_name(path)
    empty: dict[str, Any] = {
        "run": name, "folder": path.name, "state": "damaged", "verdict": None, "sequence": None, "start": None,
        "end": None, "profile": None, "commit": None, "dirty": None, "stages": {}, "numbers": {}, "passed": 0,
        "checks": 0, "manifest_sha256": None, "problem": "",
    }  # fmt: skip
    unfinished = path.name != name
    try:
        content = manifest.read(path)
    except EvidenceError as error:
        state = ("running" if folder.is_busy(path) else "interrupted") if unfinished else "damaged"
        return empty | {"state": state, "problem": str(error)}
    state = content["state"]
    if unfinished:
        state = "running" if folder.is_busy(path) else "interrupted"
    return empty | {
        "state": state,
        "verdict": content["verdict"] if state == "finished" else None,
        "sequence": content["sequence"] if state == "finished" else None,
        **{field: content[field] for field in ("start", "end", "profile", "numbers")},
        "commit": content["git"]["commit"],
        "dirty": content["git"]["dirty"],
        "stages": {entry["name"]: entry["verdict"] for entry in content["notebooks"]},
        "passed": sum(check["verdict"] == "pass" for check in content["checks"]),
        "checks": len(content["checks"]),
        "manifest_sha256": manifest.sha256_of(path / manifest.NAME),
    }
