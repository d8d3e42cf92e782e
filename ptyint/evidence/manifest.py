"""``manifest.json``: what a run promised, what came of it, and the sha256 of every file; and the check of all that.

The schema beside this file says what every field means. `manifest.sha256` (the format of ``sha256sum``) holds the
manifest's own digest, as do the ledger and the next run's manifest: nobody changes it unseen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ptyint._atomic import atomic_path
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import Check, Verdict, worst
from ptyint.evidence.execution import same_values, unfinished
from ptyint.evidence.record import Record, collect

NAME, SEAL = "manifest.json", "manifest.sha256"
VERSION = 1
"""Of the schema."""

RUN_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?")

REACHED_END = "notebook ran to its end"
PARAMETERS = "parameters as asked"


def wrote(artifact: str) -> str:
    """Name of the check that a file was written."""
    return f"wrote {artifact}"


def expected(entry: dict[str, Any]) -> list[str]:
    """Names of all checks of a notebook, as one of the manifest's ``notebooks`` declares it."""
    return [REACHED_END, PARAMETERS, *map(wrote, entry["artifacts"]), *entry["expects"]]


def declare(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The manifest's ``checks`` before anything ran."""
    return [
        {"stage": entry["stage"], "notebook": entry["name"], **Check(name, None, note="not run yet").to_mapping()}
        for entry in entries
        for name in expected(entry)
    ]


def judge(folder: Path, entry: dict[str, Any]) -> tuple[list[Check], Record]:
    """Every declared check of one notebook against what its executed copy in `folder` reports.

    What was declared and not reported is ``not run``; what was reported and not declared is a failure; of several
    reports under one name the worst counts. The runner decides with it, and :func:`verify` decides again.

    Parameters
    ----------
    folder : Path
    entry : dict
        One of the manifest's ``notebooks``.

    Returns
    -------
    checks : list of Check
    record : Record
        Everything that the notebook reported.
    """
    import nbformat

    try:
        notebook = nbformat.read(folder / f"{entry['name']}.ipynb", as_version=4)
        record, stopped = collect(notebook), entry["stopped"] or unfinished(notebook)
    except Exception as error:  # unreadable or malformed evidence is no evidence, whatever is wrong with it
        record, stopped = Record(), entry["stopped"] or f"its executed copy cannot be read ({error})"
    never_started = not entry["argv"]
    differs = same_values(entry["asked"], record.parameters) if record.parameters else "the kernel did not say"
    checks = [
        Check.fact(REACHED_END, None if never_started else not stopped, stopped),
        Check.fact(PARAMETERS, not differs if record.parameters else None, differs),
    ]
    for artifact in entry["artifacts"]:
        path = folder / artifact
        there = path.is_file() and path.stat().st_size > 0
        checks.append(Check.fact(wrote(artifact), there or (None if stopped else False), "" if there else "not there"))
    reason = f"not reported: {stopped}" if stopped else "the notebook did not report it"
    for name in entry["expects"]:
        reports = [check for check in record.checks if check.name == name]
        verdict = worst(check.verdict for check in reports)
        checks.append(next((check for check in reports if check.verdict == verdict), Check(name, None, note=reason)))
    undeclared = {check.name for check in record.checks} - set(entry["expects"])
    checks += [Check.fact(name, False, "reported, but not declared before the run") for name in sorted(undeclared)]
    return checks, record


def verdict_of(manifest: dict[str, Any]) -> Verdict:
    """The worst of the manifest's checks; a run with errors of its own is never a pass."""
    verdict = worst(check["verdict"] for check in manifest["checks"])
    return "fail" if verdict == "pass" and manifest["errors"] else verdict


@cache
def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the manifest."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("manifest.schema.json").read_text(encoding="utf-8"))
    return loaded


def validate(manifest: Any) -> None:
    """Check a manifest against :func:`schema`.

    Raises
    ------
    EvidenceError
        Names the field and what is wrong with it.
    """
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(manifest))
    if error is not None:
        raise EvidenceError(f"{NAME}: {error.json_path}: {error.message[:300]}")


def write(folder: Path, manifest: dict[str, Any]) -> str:
    """Write manifest and seal into `folder`, each whole or not at all; return the manifest's sha256.

    Raises
    ------
    EvidenceError
        The manifest does not keep the schema.
    """
    validate(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    for name, content in ((NAME, text), (SEAL, f"{digest}  {NAME}\n")):
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content.encode())
    return digest


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder, validated.

    Raises
    ------
    EvidenceError
        There is none, or it is damaged.
    """
    path = folder / NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EvidenceError(f"{folder} has no {NAME}: it is not a run folder, or its run never began.") from None
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{path} is damaged: {error}.") from error
    validate(manifest)
    return manifest


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_artifacts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every regular file in `folder` but manifest and seal, by path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in files
        if path.relative_to(folder).as_posix() not in (NAME, SEAL)
    }


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found: the run's verdict (None where it cannot be told), and everything that is wrong."""

    run: str
    verdict: Verdict | None
    problems: tuple[str, ...]

    @property
    def green(self) -> bool:
        """Whether the folder is what the run left, and the run passed."""
        return self.verdict == "pass" and not self.problems


def verify(folder: Path, ledger: Path | None = None, *, alone: bool = False) -> Verification:
    """Hash everything again, judge every check again, follow the chain.

    Parameters
    ----------
    folder : Path
        A run folder.
    ledger : Path, optional
        The ledger, if the run's entry there is to be compared too.
    alone : bool
        The earlier runs are not beside the folder: leave the chain out.

    Returns
    -------
    Verification
    """
    folder = folder.resolve()
    try:
        manifest = read(folder)
    except EvidenceError as error:
        return Verification(folder.name, None, (str(error),))
    problems = [*_state(folder, manifest), *_files(folder, manifest), *_checks(folder, manifest)]
    digest = sha256_of(folder / NAME)
    seal = folder / SEAL
    if not seal.is_file() or seal.read_text(errors="replace").split() != [digest, NAME]:
        problems.append(f"{NAME} has the sha256 {digest}, {SEAL} says something else: one of them was changed.")
    if ledger is not None:
        problems += _in_ledger(ledger, manifest["run"], digest)
    if not alone:
        problems += _chain(folder.parent, manifest)
    return Verification(folder.name, manifest["verdict"], tuple(problems))


def _state(folder: Path, manifest: dict[str, Any]) -> list[str]:
    if manifest["state"] != "finished" or folder.name != manifest["run"]:
        if RUN_NAME.fullmatch(folder.name) and manifest["state"] == "finished":
            return [f"The folder is called {folder.name}, its run {manifest['run']}."]
        return [f"The run {manifest['run']} was interrupted, or is still going on: it never reached its last step."]
    return []


def _files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    found, promised = hash_artifacts(folder), manifest["artifacts"]
    problems = [f"{name} is missing." for name in sorted(promised.keys() - found.keys())]
    problems += [f"{name} was added after the run." for name in sorted(found.keys() - promised.keys())]
    problems += [
        f"{name} was changed: sha256 {found[name]['sha256']}, the manifest says {promised[name]['sha256']}."
        for name in sorted(found.keys() & promised.keys())
        if found[name] != promised[name]
    ]
    links = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink())
    return problems + [f"{name} is a link; a run folder holds its own files." for name in sorted(links)]


def _checks(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Whether the checks follow from the executed notebooks, and the verdict from the checks."""
    problems, listed = [], [{k: v for k, v in check.items() if k != "stage"} for check in manifest["checks"]]
    again = [
        {"notebook": entry["name"], **check.to_mapping()}
        for entry in manifest["notebooks"]
        for check in judge(folder, entry)[0]
    ]
    for check in listed:
        if check not in again:
            name = f"{check['notebook']}: {check['name']!r}"
            problems.append(
                f"{NAME} says {check['verdict']!r} of {name}, which the executed notebook does not bear out."
            )
    problems += [
        f"{NAME} leaves out {check['notebook']}: {check['name']!r} ({check['verdict']})."
        for check in again
        if check not in listed
    ]
    if manifest["verdict"] != verdict_of(manifest):
        problems.append(f"{NAME} says {manifest['verdict']!r}; its checks say {verdict_of(manifest)!r}.")
    if (manifest["exit_code"] == 0) != (manifest["verdict"] == "pass"):
        problems.append(f"{NAME}: exit code {manifest['exit_code']} with the verdict {manifest['verdict']!r}.")
    return problems


def _in_ledger(ledger: Path, run: str, digest: str) -> list[str]:
    try:
        text = ledger.read_text(encoding="utf-8")
    except OSError as error:
        return [f"The ledger {ledger.name} cannot be read: {error}."]
    found = re.findall(rf"^- manifest of {re.escape(run)}: sha256 `([0-9a-f]+)`$", text, re.MULTILINE)
    if found != [digest]:
        said = ", ".join(found) or "nothing"
        return [f"{NAME} has the sha256 {digest}; the ledger {ledger.name} says {said} of {run}."]
    return []


def _chain(reports: Path, manifest: dict[str, Any]) -> list[str]:
    seen = {manifest["run"]}
    while manifest["previous"] is not None:
        previous, digest = manifest["previous"]["run"], manifest["previous"]["manifest_sha256"]
        path = reports / previous / NAME
        if previous in seen or not RUN_NAME.fullmatch(previous):
            return [f"Chain: {manifest['run']} names {previous} as the run before it, which cannot be."]
        if not path.is_file():
            return [f"Chain: the run {previous} before {manifest['run']} is not there, so it cannot be checked."]
        if sha256_of(path) != digest:
            return [f"Chain: {previous}/{NAME} was changed: sha256 {sha256_of(path)}, {manifest['run']} says {digest}."]
        seen.add(previous)
        try:
            manifest = read(path.parent)
        except EvidenceError as error:
            return [f"Chain: {previous}: {error}"]
    return (
        []
        if manifest["sequence"] in (1, None)
        else [f"Chain: {manifest['run']} has no run before it, and is not the first."]
    )
