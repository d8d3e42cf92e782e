"""The run folder: worked in under a hidden name, renamed as a run's last step; until then it is no run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ptyint.errors import EvidenceError
from ptyint.evidence import ledger, manifest
from ptyint.evidence.changes import changes

LOCK = ".lock"


@contextmanager
def claim(reports: Path) -> Iterator[Path]:
    """A fresh folder to work in, ``reports/.<time>.partial``.

    Two runs in the same second get two names: ``2026-01-31T120000Z`` and ``2026-01-31T120000Z-2``. While the context
    is open, a lock says that somebody is at work; a folder without one was left by an interrupted run.

    Parameters
    ----------
    reports : Path
        Made if need be.

    Yields
    ------
    Path
        Absolute.

    Raises
    ------
    EvidenceError
        No name is free.
    """
    reports.mkdir(parents=True, exist_ok=True)
    root = reports.resolve()
    with FileLock(root / LOCK):
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
        names = (stamp if number == 1 else f"{stamp}-{number}" for number in range(1, 1000))
        taken = {run_name(path) for path in root.iterdir()}
        name = next((name for name in names if name not in taken), None)
        if name is None:
            raise EvidenceError(f"No free run folder for {stamp} in {reports}; wait a second.")
        working = partial(root, name)
        busy = FileLock(_busy(working))
        busy.acquire()
        working.mkdir()
    try:
        yield working
    finally:
        busy.release()
        _busy(working).unlink(missing_ok=True)


def partial(reports: Path, run: str) -> Path:
    """Where the run called `run` works until it is over."""
    return reports / f".{run}.partial"


def run_name(path: Path) -> str:
    """Name of the run that a folder belongs to, finished or not; empty for anything else."""
    name = path.name.removeprefix(".").removesuffix(".partial")
    return name if manifest.RUN_NAME.fullmatch(name) and path.name in (name, f".{name}.partial") else ""


def is_busy(working: Path) -> bool:
    """Whether some process is at work in a folder of :func:`claim`."""
    if not _busy(working).exists():
        return False
    try:
        with FileLock(_busy(working), timeout=0):
            return False
    except Timeout:
        return True


def _busy(working: Path) -> Path:
    return working.with_name(f".{run_name(working)}.busy")


def finished_runs(reports: Path) -> list[dict[str, Any]]:
    """Manifests of all finished runs that can be read, in the order of the chain, the newest first."""
    found = []
    for path in reports.iterdir() if reports.is_dir() else ():
        if manifest.RUN_NAME.fullmatch(path.name):
            try:
                found.append(manifest.read(path))
            except EvidenceError:
                continue  # the index and `ptyint verify` name it
    return sorted((m for m in found if m["state"] == "finished"), key=lambda m: m["sequence"], reverse=True)


def finish(
    working: Path,
    content: dict[str, Any],
    ledger_path: Path,
    write_pages: Callable[[dict[str, Any], dict[str, list[str]]], list[str]],
) -> Path:
    """End a run, passed or not: place in the chain, pages, digests, ledger, and as the last step the final name.

    Parameters
    ----------
    working : Path
        From :func:`claim`.
    content : dict
        The manifest; gets ``sequence``, ``previous``, ``artifacts`` and the state ``finished``.
    ledger_path : Path
    write_pages : callable
        Called with the manifest and what changed (see :func:`ptyint.evidence.changes.changes`); returns what went
        wrong, in words, which makes a run red.

    Returns
    -------
    Path
        The run folder.
    """
    root = working.parent
    with FileLock(root / LOCK):
        earlier = finished_runs(root)
        content["sequence"] = earlier[0]["sequence"] + 1 if earlier else 1
        content["previous"] = None
        if earlier:
            name = earlier[0]["run"]
            content["previous"] = {"run": name, "manifest_sha256": manifest.sha256_of(root / name / manifest.NAME)}
        since = changes(content, earlier)
        errors = write_pages(content, since)
        if errors:
            content["errors"] += errors
            content["verdict"] = manifest.verdict_of(content)
            content["exit_code"] = 1
        for link in [path for path in working.rglob("*") if path.is_symlink()]:
            link.unlink()
        content["artifacts"] = manifest.hash_artifacts(working)
        content["state"] = "finished"
        digest = manifest.write(working, content)
        final = root / str(content["run"])
        where = Path(os.path.relpath(final, ledger_path.resolve().parent.parent)).as_posix()
        ledger.append(ledger_path, ledger.attempt(content, digest, where, since[""]))
        os.replace(working, final)
    return final
