"""The stages of a run: which notebooks, with which parameters, what each must report and write. Nothing is run here."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import replace

from ptyint.errors import ConfigError
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.parity import results
from ptyint.parity.faults import campaign
from ptyint.stages import fixtures, full_cycle, ptychodus, red_green, scan
from ptyint.stages.request import Request, Stage

PROFILES = {
    "quick": ("e2a", "e2b", "e2c", "ladder", "faults", "e2d"),
    "full": ("e2a", "e2b", "e2c", "scan", "ladder", "faults", "ptychodus", "e2d"),
}
"""Profile to its stages, in the order in which they run."""

DECIDED = {"output_dir": "--reports says where"}
"""Notebook parameters that every run sets itself, and what is there instead; a stage has more."""


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
    _refuse_decided(request)
    jobs = [job for name in dict.fromkeys(request.stages) for job in STAGES[name].jobs(request)]
    known = {job.name: parameter_defaults(notebook_path(job.notebook)).keys() for job in jobs}
    _refuse_unknown(request, jobs, known)
    given = {job.name: {n: v for n, v in request.given(job.stage).items() if n in known[job.name]} for job in jobs}
    return [replace(job, parameters={**job.parameters, **given[job.name]}, timeout=request.timeout) for job in jobs]


def _addressed(request: Request, name: str) -> tuple[tuple[str, ...], str]:
    """Which stages a parameter is for, and its own name: ``stage.name`` or ``name``."""
    stage, _, own = name.rpartition(".")
    if stage and stage not in request.stages:
        raise ConfigError(f"-p {name}: the stage {stage!r} is not among those that will run, {list(request.stages)}.")
    return ((stage,) if stage else request.stages), own


def _refuse_decided(request: Request) -> None:
    for name in request.parameters:
        stages, own = _addressed(request, name)
        for stage in stages:
            if instead := {**DECIDED, **STAGES[stage].decided}.get(own):
                raise ConfigError(f"-p {name} cannot be given to a run: {instead}.")


def _refuse_unknown(request: Request, jobs: list[Job], known: Mapping[str, Collection[str]]) -> None:
    for name in request.parameters:
        stages, own = _addressed(request, name)
        here = {one for job in jobs if job.stage in stages for one in known[job.name]}
        everything = sorted(here - {one for stage in stages for one in {**DECIDED, **STAGES[stage].decided}})
        if own not in everything:
            near = difflib.get_close_matches(own, everything, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"They have {everything}."
            raise ConfigError(f"None of the notebooks of {', '.join(stages)} has a parameter {own!r}. {hint}")


def _ladder(request: Request) -> list[Job]:
    parameters, expects = {"profile": request.profile}, results.criteria(request.profile)
    return [Job("ladder", "ladder", STAGES["ladder"].title, "ladder", parameters, expects, ("ladder.json",))]


def _faults(request: Request) -> list[Job]:
    expects = tuple(campaign.check_names(str(request.given("faults").get("faults", ""))))
    title = STAGES["faults"].title
    return [Job("faults", "faults", title, "sensitivity", expects=expects, artifacts=("sensitivity.json",))]


STAGES = {
    "e2a": fixtures.STAGE,
    "e2b": red_green.RED_STAGE,
    "e2c": red_green.GREEN_STAGE,
    "scan": scan.STAGE,
    "ladder": Stage(
        "Parity ladder",
        "operators, layers, gradients, steps: each rung within its tolerance",
        _ladder,
        {"profile": "--profile is for that"},
    ),
    "faults": Stage("Seeded faults", "real porting faults, put in: does the ladder go red, and where", _faults),
    "ptychodus": ptychodus.STAGE,
    "e2d": full_cycle.STAGE,
}
"""Every stage by name; the order of the table is the order in which they make sense."""
