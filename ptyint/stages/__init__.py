"""The stages of a run: which notebooks, with which parameters, what each must report and write. Nothing is run here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ptyint.errors import ConfigError, did_you_mean
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.stages import faults, fixtures, full_cycle, ladder, ptychodus, red_green, scan, your_models
from ptyint.stages.request import ALLOWED, Request, at_hand

PROFILES = {
    "quick": ("e2a", "e2b", "star", "e2c", "e2d", "ladder", "faults"),
    "full": ("e2a", "e2b", "star", "e2c", "scan", "ptychodus", "e2d", "ladder", "faults"),
}
"""Profile to its stages, in the order in which they run."""

DECIDED = {
    "output_dir": "--reports says where", "backend": "both run", "profile": "--profile is for that",
    "scan_file": "--scan is for that", "scan.fixture": "--fixture is for that", "star.fixture": f"it is {scan.STAR}",
    "reference_dir": "it is the reference's", "candidate_dir": "it is the candidate's",
    "red_file": "it is the red stage's", "trained_dir": "it is the scan stage's",
}  # fmt: skip
"""Notebook parameters, of every stage or as ``stage.name``, that a run sets itself, and what is there instead."""


def jobs_of(request: Request) -> list[Job]:
    """The notebooks of a request, with the parameters that it gives.

    Raises
    ------
    ConfigError
        An unknown stage, a parameter that no notebook has, or one that a run decides itself.
    """
    for name in request.stages:
        if name not in STAGES:
            raise ConfigError(f"Unknown stage {name!r}. Must be one of {list(STAGES)}.{did_you_mean(name, STAGES)}")
    if (request.scan or request.fixture) and "scan" not in request.stages:
        raise ConfigError(f"--scan and --fixture are for the stage 'scan', and only {list(request.stages)} will run.")
    if request.scan and request.fixture:
        raise ConfigError(f"--scan {request.scan} and --fixture {request.fixture}: give one of them.")
    _refuse_values(request)
    jobs = [job for name in dict.fromkeys(request.stages) for job in STAGES[name].jobs(request)]
    defaults = {job.name: parameter_defaults(notebook_path(job.notebook)) for job in jobs}
    for name in request.parameters:
        stages, own = _addressed(request, name)
        names = ({one: f"{job.stage}.{one}" for one in defaults[job.name]} for job in jobs if job.stage in stages)
        known = sorted({one for some in names for one, full in some.items() if not DECIDED.keys() & {one, full}})
        if own not in known:
            hint = did_you_mean(own, known) or f" They have {known}."
            asked = ", ".join(dict.fromkeys(stages))
            raise ConfigError(f"None of the notebooks of {asked} has a parameter {own!r}.{hint}")
        if "." not in name:
            _refuse_unlike_bounds(name, jobs, defaults)
    given = {job.name: {n: v for n, v in request.given(job.stage).items() if n in defaults[job.name]} for job in jobs}
    return [replace(job, parameters={**job.parameters, **given[job.name]}, timeout=request.timeout) for job in jobs]


def _addressed(request: Request, name: str) -> tuple[tuple[str, ...], str]:
    """Which stages a parameter is for, and its own name: ``stage.name`` or ``name``."""
    stage, _, own = name.rpartition(".")
    if stage and stage not in request.stages:
        raise ConfigError(f"-p {name}: the stage {stage!r} is not among those that will run, {list(request.stages)}.")
    return ((stage,) if stage else request.stages), own


def _refuse_values(request: Request) -> None:
    """Refuse what a run decides itself, and what no notebook can take."""
    for name, value in request.parameters.items():
        stages, own = _addressed(request, name)
        keys = [own, *(f"{stage}.{own}" for stage in stages)]
        for instead in (DECIDED[key] for key in keys if key in DECIDED):
            raise ConfigError(f"-p {name} cannot be given to a run: {instead}.")
        for key in keys:
            if key in ALLOWED and value is not None:  # None is told by its type
                ALLOWED[key](value)
        if isinstance(value, (int, float)) and value < 0:
            raise ConfigError(f"-p {name} is {value!r:.60}; no parameter of a stage is below 0.")
    at_hand(request.fixture)


def _refuse_unlike_bounds(name: str, jobs: Sequence[Job], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """A bound that is one thing here and another there is not moved in both by one word."""
    holders = [job for job in jobs if name in defaults[job.name]]
    meanings = {
        (defaults[job.name][name], *sorted((one.relation, one.unit) for one in job.expects if one.parameter == name))
        for job in holders
    }
    if len(meanings) > 1 and any(one.parameter == name for job in holders for one in job.expects):
        bounds = {f"-p {job.stage}.{name}": defaults[job.name][name] for job in holders}
        said = ", ".join(f"{spelling} (now {value})" for spelling, value in bounds.items())
        raise ConfigError(f"-p {name} is a bound that differs from stage to stage; say which is meant: {said}.")


STAGES = {
    "e2a": fixtures.STAGE,
    "e2b": red_green.RED_STAGE,
    "e2c": red_green.GREEN_STAGE,
    "star": scan.STAR_STAGE,
    "scan": scan.STAGE,
    "ladder": ladder.STAGE,
    "faults": faults.STAGE,
    "ptychodus": ptychodus.STAGE,
    "e2d": full_cycle.STAGE,
    "your_models": your_models.STAGE,
}
"""Every stage by name; the order of the table is the order in which they make sense."""
