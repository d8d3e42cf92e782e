"""What each backend says of itself, asked in a process of its own: no framework is imported here."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from ptyint import backends
from ptyint.evidence.processes import follow_parent, run_group

TIMEOUT_S = 300


def describe(names: Sequence[str] = backends.BUILT_IN) -> dict[str, dict[str, Any]]:
    """Each backend's version, device, threads and determinism flags; or ``{"unavailable": reason}``."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(_describe, names), strict=True))


@cache
def _describe(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "log")
        with log.open("wb") as output:
            argv = [sys.executable, "-m", __name__, name, str(answer)]
            exit_code, timed_out = run_group(argv, Path.cwd(), os.environ, output, TIMEOUT_S)
        if answer.is_file() and exit_code == 0:
            return dict(json.loads(answer.read_text()))
        last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
    ended = f"it did not answer within {TIMEOUT_S} s." if timed_out else f"its process ended with {exit_code}: {last}"
    return {"unavailable": ended}


def _answer(name: str, path: str) -> None:
    """What the process does."""
    try:
        backend = backends.load(name)
        description = {**backend.describe(), "capabilities": sorted(backend.capabilities)}
    except RuntimeError as error:
        description = {"unavailable": str(error)}
    Path(path).write_text(json.dumps(description))


if __name__ == "__main__":
    follow_parent()
    _answer(*sys.argv[1:])
