"""Where and when a run ran: the clock, git, Python, machine, packages."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
    "PTYINT_DATASETS_DIR",
    "PYTHONHASHSEED",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
"""Environment variables that change what is computed, or how fast."""


def now() -> str:
    """The time, ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def git_state(checkout: Path | None, ignored: Sequence[Path] = ()) -> dict[str, Any]:
    """Commit of a checkout, and which files differ from it.

    Parameters
    ----------
    checkout : Path, optional
        None: an installed package, of no commit.
    ignored : sequence of Path
        Files and folders that a run writes itself: they make no checkout dirty.

    Returns
    -------
    dict
        ``commit`` (None: not a git checkout), ``dirty``, ``changed``.
    """
    if checkout is None:
        return {"commit": None, "dirty": None, "changed": []}
    excluded = [f":(exclude){path.relative_to(checkout)}" for path in ignored if path.is_relative_to(checkout)]
    try:
        commit = _git(checkout, "rev-parse", "HEAD").strip()
        status = _git(checkout, "status", "--porcelain", "-z", "--no-renames", "--", ".", *excluded)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None, "changed": []}
    changed = [line[3:] for line in status.split("\0") if line]
    return {"commit": commit, "dirty": bool(changed), "changed": changed}


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def environment(backends: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Machine and installation, as the manifest keeps them; and what each backend says of itself."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": usable_cores(),
        "memory_bytes": _memory(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "packages": dict(sorted((d.name, d.version) for d in metadata.distributions() if d.name)),
        "backends": dict(backends),
    }


def usable_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
