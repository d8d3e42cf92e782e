"""The run folder: worked in under a hidden name, renamed as a run's last step; until then it is no run."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from ptyint.errors import EvidenceError
from ptyint.evidence.manifest import RUN_NAME, Manifest, read

LOCK = ".lock"

RESERVE = ".reserve"
"""A file of random bytes in a folder that is worked in; what is written last has its room when the disk is full."""

RESERVED = 2**20


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
    OSError
        There is no room, not even for a red page; nothing is left.
    """
    reports.mkdir(parents=True, exist_ok=True)
    root = reports.resolve()
    with FileLock(root / LOCK):
        working = partial(root, free_name(root))
        busy = FileLock(_busy(working))
        busy.acquire()
        working.mkdir()
    try:
        try:
            (working / RESERVE).write_bytes(os.urandom(RESERVED))
        except OSError:
            shutil.rmtree(working)
            raise
        yield working
    finally:
        busy.release()
        with suppress(OSError):
            _busy(working).unlink(missing_ok=True)


def free_name(root: Path) -> str:
    """Name of a run that ends or begins now, which no folder has; ask while the lock is held."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    taken = {run_name(path) for path in root.iterdir()}
    return next(name for name in chain([stamp], (f"{stamp}-{n}" for n in count(2))) if name not in taken)


def writable(working: Path) -> Path:
    """The folder, made again if it is gone; a fresh one beside it where nothing can be written into it.

    Raises
    ------
    OSError
        Nor can a fresh one be.
    """
    try:
        working.mkdir(exist_ok=True)
        (working / RESERVE).touch()
    except OSError:
        working = partial(working.parent, free_name(working.parent))
        working.mkdir()
    (working / RESERVE).unlink(missing_ok=True)
    return working


def partial(reports: Path, run: str) -> Path:
    """Where the run called `run` works until it is over."""
    return reports / f".{run}.partial"


def run_name(path: Path) -> str:
    """Name of the run that a folder belongs to, finished or not; empty for anything else."""
    name = path.name.removeprefix(".").removesuffix(".partial")
    return name if RUN_NAME.fullmatch(name) and path.name in (name, f".{name}.partial") else ""


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


def dead(reports: Path) -> list[Path]:
    """Folders that interrupted runs left; neither finished runs nor those that go on."""
    left = [path for path in sorted(reports.glob(".*.partial")) if run_name(path) and not path.is_symlink()]
    return [path for path in left if path.is_dir() and not is_busy(path)]


def remove(left: Iterable[Path]) -> None:
    """Remove folders of :func:`dead`."""
    for path in left:
        shutil.rmtree(path)
        _busy(path).unlink(missing_ok=True)


def finished_runs(reports: Path) -> list[Manifest]:
    """Manifests of all finished runs that can be read, in the order of the chain, the newest first."""
    manifests = []
    for path in filter(run_name, reports.glob("[0-9]*")):
        with suppress(EvidenceError):  # the index and `ptyint verify` name it
            manifests.append(read(path))
    finished = [one for one in manifests if one.state == "finished"]
    return sorted(finished, key=lambda one: one.sequence or 0, reverse=True)
