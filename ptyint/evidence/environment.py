"""Where and when a run ran: the clock, git, Python, machine, packages."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ptyint._atomic import PACKAGE

VARIABLES = (
    "CUBLAS_", "CUDA_", "KERAS_", "LANG", "LC_", "MATPLOTLIBRC", "MKL_", "NVIDIA_TF32_", "OMP_", "OPENBLAS_",
    "PTYINT_DATASETS_DIR", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONPATH", "TF_", "TORCH_", "TZ", "XLA_",
)  # fmt: skip
"""How environment variables begin that change what is computed, or how fast."""

COMPUTING = ("keras", "numpy", "scipy", "tensorflow", "torch")
"""Distributions that a kernel names with their versions."""

OF_ANOTHER_CHECKOUT = {"GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"}
"""Environment variables that make git look elsewhere; a git hook sets them."""


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
        ``commit`` (None: unknown), ``dirty``, ``changed``, and the ``reason`` why the commit is unknown.
    """
    unknown: dict[str, Any] = {"commit": None, "dirty": None, "changed": []}
    if checkout is None:
        return {**unknown, "reason": "an installed package, of no commit"}
    excluded = [f":(exclude){path.relative_to(checkout)}" for path in ignored if path.is_relative_to(checkout)]
    try:
        _git(checkout, "ls-files", "--error-unmatch", ".")  # a commit of a checkout around it says nothing
        commit = _git(checkout, "rev-parse", "HEAD").strip()
        status = _git(checkout, "status", "--porcelain", "-z", "--no-renames", "--", ".", *excluded)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        return {**unknown, "reason": f"git says: {said}"}
    changed = [line[3:] for line in status.split("\0") if line]
    return {"commit": commit, "dirty": bool(changed), "changed": changed, "reason": ""}


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    env = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_CHECKOUT} | {"LC_ALL": "C"}
    return subprocess.run(command, env=env, capture_output=True, check=True, encoding="utf-8", errors="replace").stdout


@cache
def installation() -> dict[str, str]:
    """Which Python and which ptyint this process is, by the digest of its sources; and what computes in it."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    installed = {name: one.version for name in COMPUTING for one in [*metadata.distributions(name=name)][:1]}
    interpreter = os.path.normpath(sys.executable)  # as a kernel says it
    return {"interpreter": interpreter, "ptyint": str(PACKAGE), "sources_sha256": digest.hexdigest(), **installed}


def environment(backends: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Machine and installation, as the manifest keeps them; and what each backend says of itself."""
    installed = (distribution.metadata for distribution in metadata.distributions())
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
        "packages": dict(sorted((m["Name"], m["Version"]) for m in installed if m["Name"])),
        "backends": dict(backends),
    }


def usable_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
