"""``docs/fix_plan.md``: one Attempts entry a run, appended; nothing that stands there is ever altered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock

from ptyint._atomic import atomic_path
from ptyint.evidence.checks import SIGNS

HEADER = """# Fix plan: attempts

One entry a run, appended when the run ends, passed or not; older entries are never altered. Newest last.

## Attempts
"""


def append(ledger: Path, entry: str) -> None:
    """Append an entry, whole or not at all, also with several runs at once.

    Parameters
    ----------
    ledger : Path
        Made, with a header, if need be.
    entry : str
        Markdown.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ledger.with_name(f".{ledger.name}.lock")):
        before = ledger.read_bytes() if ledger.exists() else HEADER.encode()
        gap = b"\n" if before.endswith(b"\n") else b"\n\n"
        with atomic_path(ledger) as temporary:
            temporary.write_bytes(before + gap + entry.strip().encode() + b"\n")


def attempt(manifest: dict[str, Any], digest: str, where: str, changes: list[str]) -> str:
    """The entry of a finished run.

    Parameters
    ----------
    manifest : dict
    digest : str
        sha256 of its file.
    where : str
        The run folder, as the ledger's reader finds it.
    changes : list of str
        What changed since the run before.

    Returns
    -------
    str
        Markdown: verdict, what ran, each artifact by name, what changed.
    """
    verdict, checks = manifest["verdict"], manifest["checks"]
    passed = sum(check["verdict"] == "pass" for check in checks)
    git = manifest["git"]
    commit = (git["commit"] or "no git checkout") + (" with uncommitted changes" if git["dirty"] else "")
    ran = [f"{entry['name']} {SIGNS[entry['verdict']]} {entry['verdict']}" for entry in manifest["notebooks"]]
    lines = [
        f"### Attempt {manifest['run']}: {verdict}",
        f"- verdict: {SIGNS[verdict]} {verdict}, {passed} of {len(checks)} checks passed",
        f"- ran: `{' '.join(manifest['argv'])}` at {commit}: {', '.join(ran)}",
        *(
            f"- {check['verdict']}: {check['notebook']}: {check['name']}"
            + (f" ({_line(check['note'])})" if check["note"] else "")
            for check in checks
            if check["verdict"] != "pass"
        ),
        *(f"- error: {_line(error)}" for error in manifest["errors"]),
        *(f"- since the last run: {change}" for change in changes or ["nothing"]),
        f"- manifest of {manifest['run']}: sha256 `{digest}`",
        *(f"- `{where}/{artifact}`" for artifact in ["manifest.json", *manifest["artifacts"]]),
    ]
    return "\n".join(lines)


def _line(text: str, longest: int = 300) -> str:
    """`text` on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"
