"""``manifest.json``: what a run promised, what came of it, and the sha256 of every file; and the check of all that.

The models below say what every field means; :func:`schema` is made of them. `manifest.sha256` (the format of
``sha256sum``) holds the manifest's own digest, as do the ledger and the next run's manifest: nobody changes it unseen.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, ValidationError, model_validator

from ptyint._atomic import plain, write_text
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import Check, Criterion, Relation, Verdict, to_json, worst
from ptyint.evidence.execution import read_notebook, same_values, unfinished
from ptyint.evidence.record import Record, collect

NAME, SEAL = "manifest.json", "manifest.sha256"
VERSION: Literal[2] = 2
"""Of the schema. Version 1, which declared checks by name alone, can still be read, verified and indexed."""

RUN_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?")

REACHED_END = "notebook ran to its end"
PARAMETERS = "parameters as asked"
KERNEL = "the kernel is the runner's"
"""A check that is there only where it fails."""

Number = Annotated[float, PlainSerializer(to_json, return_type=float | str)]
"""A number; one that is not finite is "nan", "inf" or "-inf" in the file."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

# No plugin that happens to be installed has a say in what a manifest may hold; and looking for them takes time.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class _Model(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class Declared(_Model):
    """A check that a notebook must report, declared before anything ran."""

    name: str
    relation: Relation = "=="
    bound: Number | None = None
    """Null: version 1, which declared the name alone."""
    unit: str = ""
    parameter: str = ""
    """The notebook parameter that holds the bound."""
    default: Number | None = None
    """The bound that the notebook itself gives this parameter."""

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values

    @classmethod
    def of(cls, criterion: Criterion, asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> Declared:
        """A criterion with the bound that was asked for, and the one that the notebook has by default."""
        default = criterion.at(defaults).bound if criterion.parameter else None
        return cls(**asdict(criterion.at(asked)), default=default)

    @property
    def moved(self) -> str:
        """How the bound differs from the notebook's own, in words; empty where it does not."""
        if self.bound is None or self.default is None or self.bound == self.default:
            return ""
        how = "loosened" if (self.bound > self.default) == (self.relation == "<=") else "tightened"
        how = "moved" if self.relation == "==" else how
        return f"{self.name}: bound {how} from {self.default:g} to {self.bound:g} by -p {self.parameter}"

    def check(self, measured: float | None, note: str) -> Check:
        """The declared check with an answer."""
        bound = 1.0 if self.bound is None else self.bound
        return Check(self.name, measured, self.relation, bound, note, unit=self.unit)

    def answer(self, report: Check) -> Check:
        """A report as it stands; one with another bound, relation or unit than was declared fails and says so."""
        said, meant = _required(report), _required(self)
        if self.bound is None or said == meant:
            return report
        note = f"reported {report.measured} against {said!r}, declared before the run was {meant!r}. {report.note}"
        return self.check(math.nan, note.strip())


def _required(one: Check | Declared) -> str:
    return f"{one.relation} {one.bound!r} {one.unit}".strip()


class Judged(_Model):
    """A check and what came of it."""

    stage: str
    notebook: str
    """Name of the notebook that was to report it."""
    name: str
    verdict: Verdict
    measured: Number | None
    relation: Relation
    bound: Number
    decided: bool
    note: str
    available: bool = True
    """False: something lacks what the check needs; never a pass."""
    unit: str = ""

    @classmethod
    def of(cls, entry: Notebook, check: Check) -> Judged:
        """A check of one notebook."""
        return cls(stage=entry.stage, notebook=entry.name, verdict=check.verdict, **asdict(check))


class Notebook(_Model):
    """A notebook of the run: what it was to do, and how it went."""

    stage: str
    name: str
    """<name>.ipynb is the executed notebook, <name>.html its page, <name>.log its log."""
    notebook: str
    """The notebook that was executed."""
    title: str
    source_sha256: Sha256
    asked: dict[str, Any]
    """Every parameter with the value that it was to have."""
    files: dict[str, Sha256] = {}
    """Parameters that name a file, to the sha256 of what it held before the run."""
    echoed: dict[str, Any] = {}
    """Every parameter with the value that the kernel held at its end."""
    runner: dict[str, str] = {}
    """The runner's interpreter, its ptyint with a digest of the sources, and versions; empty: an older run."""
    kernel: dict[str, str] = {}
    """The same as the kernel held it."""
    expects: list[Declared]
    artifacts: list[str]
    """Files that it must write, relative to the run folder."""
    needs: list[str] = []
    """Notebooks of the run that had to end before this one began."""
    timeout: float = Field(gt=0)
    """Seconds."""
    note: str = ""
    """What its reader must know before anything else."""
    argv: list[str] = []
    """The papermill command that does the same; empty: never started."""
    start: str = ""
    end: str = ""
    exit_code: int | None = None
    stopped: str = "it was not started"
    """Why it did not reach its end; empty when it did."""
    verdict: Verdict = "not run"
    compared: str = ""
    numbers: dict[str, Number] = {}

    @property
    def moved(self) -> list[str]:
        """Every bound that differs from the notebook's own, in words."""
        return [declared.moved for declared in self.expects if declared.moved]


class Git(_Model):
    """The checkout; `commit` null: unknown, and `reason` says why."""

    commit: str | None
    reason: str = ""
    dirty: bool | None
    """Whether files differ from the commit; reports and ledger do not count."""
    changed: list[str]


class Surroundings(_Model):
    """Machine and installation."""

    python: str
    platform: str
    cpu: str
    cores: int | None
    threads: int
    """CPUs that this process may use."""
    memory_bytes: int | None
    variables: dict[str, str]
    """Environment variables that change how the frameworks compute."""
    packages: dict[str, str]
    """Installed distribution to version."""
    backends: dict[str, dict[str, Any]]
    """Backend to what it says of itself, or why it is missing."""


class Previous(_Model):
    """The run before this one in the chain."""

    run: str
    manifest_sha256: Sha256


class Command(_Model):
    """A process that a notebook ran."""

    argv: list[str]
    exit_code: int | None
    start: str
    end: str
    log: str


class Artifact(_Model):
    """A file of the run folder."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Manifest(_Model):
    """Written before anything runs, with every expected check as "not run", and again after each notebook.

    The run is over when `state` is "finished" and the folder bears the name in `run`.
    """

    version: Literal[1, 2] = Field(default=VERSION, alias="schema")
    """Version of this schema."""
    run: str = Field(pattern=f"^{RUN_NAME.pattern}$")
    """Name of the folder when the run is over, in UTC."""
    sequence: int | None = Field(default=None, ge=1)
    """Place in the chain of runs, in the order of their ends."""
    previous: Previous | None = None
    state: Literal["running", "finished"] = "running"
    verdict: Verdict = "not run"
    """The worst of all checks."""
    profile: Literal["quick", "full"]
    argv: list[str] = Field(min_length=1)
    """The command that made this run."""
    start: str
    end: str | None = None
    exit_code: int | None = None
    """What that command ends with: 0 only when the verdict is pass."""
    git: Git
    environment: Surroundings
    notebooks: list[Notebook] = Field(min_length=1)
    checks: list[Judged] = Field(min_length=1)
    numbers: dict[str, Number] = {}
    """Of all notebooks, '<notebook>: <name>' to value."""
    commands: list[Command] = []
    datasets: dict[str, Sha256] = {}
    """Dataset to the sha256 of the arrays that were used."""
    artifacts: dict[str, Artifact] = {}
    """Every file of the folder but this one and its seal."""
    errors: list[str] = []
    """What went wrong with the run itself, in words."""

    def of(self, notebook: str) -> list[Judged]:
        """The checks of one notebook."""
        return [check for check in self.checks if check.notebook == notebook]

    def decide(self) -> Verdict:
        """The worst of the checks; a run with errors of its own is never a pass."""
        verdict = worst(check.verdict for check in self.checks)
        return "fail" if verdict == "pass" and self.errors else verdict


def wrote(artifact: str) -> str:
    """Name of the check that a file was written."""
    return f"wrote {artifact}"


def declare(entry: Notebook) -> list[Check]:
    """The checks of a notebook before it ran."""
    facts = [REACHED_END, PARAMETERS, *map(wrote, entry.artifacts)]
    checks = [Check(name, None, note="not run yet") for name in facts]
    return [*checks, *(declared.check(None, "not run yet") for declared in entry.expects)]


def judge(folder: Path, entry: Notebook) -> tuple[list[Check], Record]:
    """Every declared check of one notebook against what its executed copy in `folder` reports, and all that it reports.

    What was declared and not reported is ``not run``; what was reported and not declared, or with another bound, is a
    failure; of several reports under one name the worst counts. The checks of a notebook that never started stay as
    they were declared. The runner and :func:`verify` both decide with it.
    """
    if not entry.argv:
        return declare(entry), Record()
    record, stopped = _reports(folder, entry)
    differs = same_values(entry.asked, record.parameters) if record.parameters else "the kernel did not say"
    held = not differs if record.parameters else None
    checks = [Check.fact(REACHED_END, not stopped, stopped), Check.fact(PARAMETERS, held, differs)]
    if record.parameters and (other := same_values(entry.runner, record.installation)):
        checks.append(Check.fact(KERNEL, False, other))
    for artifact in entry.artifacts:
        path = folder / artifact
        there = path == path.resolve() and path.is_file() and path.stat().st_size > 0  # links do not outlive the run
        checks.append(Check.fact(wrote(artifact), there or (None if stopped else False), "" if there else "not there"))
    reason = f"not reported: {stopped}" if stopped else "the notebook did not report it"
    for declared in entry.expects:
        answers = [declared.answer(check) for check in record.checks if check.name == declared.name]
        verdict = worst(check.verdict for check in answers)
        checks.append(next((a for a in answers if a.verdict == verdict), declared.check(None, reason)))
    undeclared = {check.name for check in record.checks} - {declared.name for declared in entry.expects}
    checks += [Check.fact(name, False, "reported, but not declared before the run") for name in sorted(undeclared)]
    return checks, record


def _reports(folder: Path, entry: Notebook) -> tuple[Record, str]:
    """What the executed notebook reports, and why it stopped."""
    try:
        notebook = read_notebook(folder / f"{entry.name}.ipynb")
        return collect(notebook), entry.stopped or unfinished(notebook)
    except Exception as error:  # unreadable or malformed evidence is no evidence, whatever is wrong with it
        return Record(), entry.stopped or f"its executed copy cannot be read ({error})"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the manifest."""
    return Manifest.model_json_schema(mode="serialization")


def parse(text: str | bytes) -> Manifest:
    """A manifest from its JSON.

    Raises
    ------
    EvidenceError
        Names the field and what is wrong with it.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise EvidenceError(f"{NAME}: {where}: {first['msg'][:300]}") from error


def write(folder: Path, manifest: Manifest) -> str:
    """Write manifest and seal into `folder`, each whole or not at all; return the manifest's sha256."""
    text = manifest.model_dump_json(indent=1, by_alias=True) + "\n"
    parse(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    for name, content in ((NAME, text), (SEAL, f"{digest}  {NAME}\n")):
        write_text(folder / name, content)
    return digest


def read(folder: Path) -> Manifest:
    """The manifest of a run folder, validated.

    Raises
    ------
    EvidenceError
        There is none, or it is damaged.
    """
    path = folder / NAME
    try:
        return parse(plain(path).read_bytes())
    except FileNotFoundError:
        raise EvidenceError(f"{folder} has no {NAME}: it is not a run folder, or its run never began.") from None
    except OSError as error:
        raise EvidenceError(f"{path} is damaged: {error}.") from error


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def _sha256_since(path: str, changed_ns: int) -> str:
    return sha256_of(Path(path))


def files_of(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters that are the absolute path of a file, to the sha256 of what it holds."""
    paths = {name: value for name, value in parameters.items() if isinstance(value, str) and os.path.isabs(value)}
    return {name: _sha256_since(one, os.stat(one).st_mtime_ns) for name, one in paths.items() if os.path.isfile(one)}


def hash_artifacts(folder: Path) -> dict[str, Artifact]:
    """Size and sha256 of every regular file in `folder` but manifest and seal, by path relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    named = {path.relative_to(folder).as_posix(): path for path in files if path not in (folder / NAME, folder / SEAL)}
    return {name: Artifact(sha256=sha256_of(path), bytes=path.stat().st_size) for name, path in named.items()}
