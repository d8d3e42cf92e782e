"""The stages of a run: which notebooks, with which parameters, what each must report and write. Nothing is run here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ptyint.errors import ConfigError, EvidenceError
from ptyint.evidence import folder
from ptyint.evidence.checks import Criterion
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.comparison import NAME as COMPARISON
from ptyint.images.comparison import check_names
from ptyint.parity import results
from ptyint.parity.faults import campaign
from ptyint.scans.fixtures import fixture_info
from ptyint.stages import fixtures, full_cycle, ptychodus, red_green

BACKENDS = ("tensorflow", "pytorch")
FIXTURE = "synthetic-64"

PROFILES = {
    "quick": ("e2a", "e2b", "e2c", "ladder", "faults", "e2d"),
    "full": ("e2a", "e2b", "e2c", "scan", "ladder", "faults", "ptychodus", "e2d"),
}
"""Profile to its stages, in the order in which they run."""

DECIDED = {
    "backend": "both run",
    "output_dir": "--reports says where",
    "fixture": "--fixture is for that",
    "scan_file": "--scan is for that",
    "reference_dir": "it is TensorFlow's",
    "candidate_dir": "it is PyTorch's",
    "red_file": "it is the red stage's",
    "trained_dir": "it is the scan stage's",
    "profile": "--profile is for that",
}
"""Notebook parameters that a run sets itself, and what is there instead."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes
    ----------
    stages : tuple of str
    reports : Path
    fixture : str
        Of the stage ``scan``; empty: `FIXTURE`.
    scan : Path, optional
        A scan of the user's, instead of the fixture.
    parameters : dict
        Notebook parameters; each goes to every notebook of the stages that has it.
    timeout : float
        Seconds for each notebook.
    profile : {'quick', 'full'}
    """

    stages: tuple[str, ...]
    reports: Path = Path("reports")
    fixture: str = ""
    scan: Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 1800.0
    profile: str = "quick"


@dataclass(frozen=True)
class Stage:
    """A stage: its title, what it answers, and its notebooks."""

    title: str
    about: str
    jobs: Callable[[Request], list[Job]]


def jobs_of(request: Request) -> list[Job]:
    """The notebooks of a request, with the parameters that it gives.

    Raises
    ------
    ConfigError
        An unknown stage, a parameter that no notebook has, or one that a run decides itself.
    """
    for name in request.stages:
        if name not in STAGES:
            raise ConfigError(f"Unknown stage {name!r}. Must be one of {list(STAGES)}.")
    if (request.scan or request.fixture) and "scan" not in request.stages:
        raise ConfigError(f"--scan and --fixture are for the stage 'scan', and only {list(request.stages)} will run.")
    if request.scan and request.fixture:
        raise ConfigError(f"--scan {request.scan} and --fixture {request.fixture}: give one of them.")
    for name in request.parameters:
        if name in DECIDED:
            raise ConfigError(f"-p {name} cannot be given to a run: {DECIDED[name]}.")
    jobs = [job for name in dict.fromkeys(request.stages) for job in STAGES[name].jobs(request)]
    known = {job.name: parameter_defaults(notebook_path(job.notebook)).keys() - DECIDED.keys() for job in jobs}
    everything = sorted(set().union(*known.values()))
    for name in request.parameters:
        if name not in everything:
            near = difflib.get_close_matches(name, everything, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"They have {everything}."
            raise ConfigError(f"None of the notebooks of {', '.join(request.stages)} has a parameter {name!r}. {hint}")
    given = {job.name: {n: v for n, v in request.parameters.items() if n in known[job.name]} for job in jobs}
    return [replace(job, parameters={**job.parameters, **given[job.name]}, timeout=request.timeout) for job in jobs]


def _fixtures(request: Request) -> list[Job]:
    chosen = str(request.parameters.get("fixtures", ""))
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    expects = tuple(fixtures.expected_checks(names))
    return [_job("e2a", "e2a_fixtures", expects=expects, artifacts=(fixtures.NAME,))]


def _red(request: Request) -> list[Job]:
    artifacts = ("phase_e_red_integration.log", "red_phase.md", red_green.RED_FILE)
    return [_job("e2b", "e2b_red", expects=tuple(red_green.red_names()), artifacts=artifacts)]


def _green(request: Request) -> list[Job]:
    artifacts = ("phase_e_integration_green.log", "phase_e_backend_green.log", "phase_e_collect.log")
    parameters = {"red_file": _red_file(request)}
    return [_job("e2c", "e2c_green", parameters, expects=tuple(red_green.green_names()), artifacts=artifacts)]


def _red_file(request: Request) -> str:
    """What was red: in this run, else in the newest run whose red stage passed."""
    if "e2b" in request.stages:
        return red_green.RED_FILE
    for manifest in folder.finished_runs(request.reports):
        if any(entry["name"] == "e2b" and entry["verdict"] == "pass" for entry in manifest["notebooks"]):
            return os.path.join("..", manifest["run"], red_green.RED_FILE)
    raise EvidenceError(
        f"Stage e2c needs the red evidence of stage e2b, and no run in {request.reports} has it: run both, "
        "`ptyint run e2b e2c`."
    )


def _scan(request: Request) -> list[Job]:
    source = {"scan_file": str(request.scan.resolve())} if request.scan else {"fixture": request.fixture or FIXTURE}
    title = request.scan.name if request.scan else request.fixture or FIXTURE
    jobs = [
        Job(
            stage="scan",
            name=backend,
            title=f"{title}, reconstructed with {backend}",
            notebook="reconstruct",
            parameters={**source, "backend": backend, "output_dir": backend},
            artifacts=(f"{backend}/reconstruction.h5", f"{backend}/wts.h5.zip"),
        )
        for backend in BACKENDS
    ]
    parameters = {f"{side}_dir": backend for side, backend in zip(("reference", "candidate"), BACKENDS, strict=True)}
    expects = tuple(check_names(_truth_known(request)))
    return [*jobs, _job("scan", "compare", parameters, "compare", expects, (COMPARISON,))]


def _truth_known(request: Request) -> bool:
    from ptyint.scans.files import read_scan

    if request.scan is None:
        return fixture_info(request.fixture or FIXTURE).truth_known
    keys = {"product": "product_file", "diffraction_kind": "diffraction_kind"}
    options = {key: request.parameters.get(name) or None for key, name in keys.items()}
    return read_scan(request.scan, **options).object_is_truth


def _ladder(request: Request) -> list[Job]:
    parameters = {"profile": request.profile}
    return [_job("ladder", "ladder", parameters, expects=results.criteria(request.profile), artifacts=("ladder.json",))]


def _faults(request: Request) -> list[Job]:
    expects = tuple(campaign.check_names(str(request.parameters.get("faults", ""))))
    return [_job("faults", "sensitivity", expects=expects, artifacts=("sensitivity.json",))]


def _ptychodus(request: Request) -> list[Job]:
    defaults = parameter_defaults(notebook_path("ptychodus"))
    dataset = str(request.parameters.get("dataset", defaults["dataset"]))
    expects = tuple(ptychodus.check_names(fixture_info(dataset).truth_known))
    return [_job("ptychodus", "ptychodus", expects=expects, artifacts=ptychodus.artifacts())]


def _parity(request: Request) -> list[Job]:
    parameters = {"trained_dir": "."} if "scan" in request.stages else {}
    expects = tuple(full_cycle.expected_names())
    return [_job("e2d", "e2d_parity", parameters, expects=expects, artifacts=full_cycle.artifacts())]


def _job(
    stage: str,
    notebook: str,
    parameters: Mapping[str, Any] | None = None,
    name: str = "",
    expects: tuple[Criterion | str, ...] = (),
    artifacts: tuple[str, ...] = (),
) -> Job:
    return Job(stage, name or stage, STAGES[stage].title, notebook, dict(parameters or {}), expects, artifacts)


STAGES = {
    "e2a": Stage("E2.A Fixture alignment", "every dataset exists, holds its sha256, and what it is", _fixtures),
    "e2b": Stage("E2.B Red", "the integration tests fail where PyTorch is missing, for the right reason", _red),
    "e2c": Stage("E2.C Green", "the tests that were red pass in the real environment", _green),
    "scan": Stage("Comparison on a scan", "one scan through both backends, side by side", _scan),
    "ladder": Stage("Parity ladder", "operators, layers, gradients, steps: each rung within its tolerance", _ladder),
    "faults": Stage("Seeded faults", "real porting faults, put in: does the ladder go red, and where", _faults),
    "ptychodus": Stage("Ptychodus", "both backends in the real application, and the dispatcher directly", _ptychodus),
    "e2d": Stage("E2.D Parity", "train, save, load, infer, stitch with both backends, and the difference", _parity),
}
"""Every stage by name; the order of the table is the order in which they make sense."""
