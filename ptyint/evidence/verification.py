"""``ptyint verify``: whether a run folder is what its run left, byte by byte and check by check."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptyint._atomic import plain, special
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import Verdict, worst
from ptyint.evidence.manifest import NAME, RUN_NAME, SEAL, Judged, Manifest, hash_artifacts, judge, read, sha256_of


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` says: the run's verdict (None where it cannot be told), and everything that is wrong."""

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
        problems += _in_ledger(ledger, manifest.run, digest)
    if not alone:
        problems += _chain(folder.parent, manifest)
    return Verification(folder.name, manifest.verdict, tuple(problems))


def _state(folder: Path, manifest: Manifest) -> list[str]:
    if manifest.state == "finished" and folder.name == manifest.run:
        return []
    if RUN_NAME.fullmatch(folder.name) and manifest.state == "finished":
        return [f"The folder is called {folder.name}, its run {manifest.run}."]
    return [f"The run {manifest.run} was interrupted, or is still going on: it never reached its last step."]


def _files(folder: Path, manifest: Manifest) -> Iterator[str]:
    there, promised = hash_artifacts(folder), manifest.artifacts
    yield from (f"{name} is missing." for name in sorted(promised.keys() - there.keys()))
    yield from (f"{name} was added after the run." for name in sorted(there.keys() - promised.keys()))
    for name in sorted(there.keys() & promised.keys()):
        if there[name] != promised[name]:
            yield f"{name} was changed: sha256 {there[name].sha256}, the manifest says {promised[name].sha256}."
    odd = {path.relative_to(folder).as_posix(): what for path in folder.rglob("*") if (what := special(path))}
    yield from (f"{name} is {odd[name]}; a run folder holds its own files." for name in sorted(odd))


def _checks(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Whether the checks follow from the executed notebooks, and the verdicts from the checks."""
    again = [Judged.of(entry, check) for entry in manifest.notebooks for check in judge(folder, entry)[0]]
    follows, listed = ({one.model_dump_json() for one in checks} for checks in (again, manifest.checks))
    for one in manifest.checks:
        if one.model_dump_json() not in follows:
            what = f"{one.verdict!r} of {one.notebook}: {one.name!r}"
            yield f"{NAME} says {what}, which the executed notebook does not bear out."
    for one in again:
        if one.model_dump_json() not in listed:
            yield f"{NAME} leaves out {one.notebook}: {one.name!r} ({one.verdict})."
    for entry in manifest.notebooks:
        if entry.verdict == "pass" and worst(check.verdict for check in manifest.of(entry.name)) != "pass":
            yield f"{NAME} says {entry.verdict!r} of {entry.name}; its checks say otherwise."
    if manifest.verdict != manifest.decide():
        yield f"{NAME} says {manifest.verdict!r}; its checks say {manifest.decide()!r}."
    if (manifest.exit_code == 0) != (manifest.verdict == "pass"):
        yield f"{NAME}: exit code {manifest.exit_code} with the verdict {manifest.verdict!r}."


def _in_ledger(ledger: Path, run: str, digest: str) -> list[str]:
    try:
        text = plain(ledger).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return [f"The ledger {ledger.name} cannot be read: {error}."]
    entries = re.findall(rf"^- manifest of {re.escape(run)}: sha256 `([0-9a-f]+)`$", text, re.MULTILINE)
    if entries == [digest]:
        return []
    said = ", ".join(entries) or "nothing"
    return [f"{NAME} has the sha256 {digest}; the ledger {ledger.name} says {said} of {run}."]


def _chain(reports: Path, manifest: Manifest) -> list[str]:
    seen = {manifest.run}
    while manifest.previous is not None:
        previous, digest = manifest.previous.run, manifest.previous.manifest_sha256
        path = reports / previous / NAME
        if previous in seen or not RUN_NAME.fullmatch(previous):
            return [f"Chain: {manifest.run} names {previous} as the run before it, which cannot be."]
        if not path.is_file():
            return [f"Chain: the run {previous} before {manifest.run} is not there, so it cannot be checked."]
        if sha256_of(path) != digest:
            return [f"Chain: {previous}/{NAME} was changed: sha256 {sha256_of(path)}, {manifest.run} says {digest}."]
        seen.add(previous)
        try:
            manifest = read(path.parent)
        except EvidenceError as error:
            return [f"Chain: {previous}: {error}"]
    if manifest.sequence in (1, None):
        return []
    return [f"Chain: {manifest.run} has no run before it, and is not the first."]
