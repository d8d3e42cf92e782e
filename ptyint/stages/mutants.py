"""The stage of mutants: small changes to the sources that nobody chose; do the ladder or stage E2.D turn red?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.run import Job
from ptyint.parity.faults.mutants import NAME, Mutant
from ptyint.parity.faults.mutants import run as run
from ptyint.stages.request import Request, Stage

CRITERIA = (
    Criterion.fact("without a change the ladder and stage E2.D hold"),
    Criterion("mutants tried", ">=", 60.0, parameter="sample"),
    Criterion("share of them that was caught", ">=", 0.9, parameter="min_score"),
)


def checks(done: Sequence[Mutant], parameters: Mapping[str, float]) -> list[Check]:
    """What came of the `CRITERIA`, under the bounds that the notebook's parameters hold."""
    control, tried = done[0], [one for one in done[1:] if not one.equivalent]
    score = sum(one.rung != "" for one in tried) / len(tried) if tried else None
    values = (float(not control.rung), float(len(tried)), score)
    return [one.at(parameters).measured(value) for one, value in zip(CRITERIA, values, strict=True)]


def _jobs(request: Request) -> list[Job]:
    return [Job("mutants", "mutants", STAGE.title, "mutants", expects=CRITERIA, artifacts=(NAME,), alone=True)]


STAGE = Stage("Mutants", "small changes that nobody chose, to the sources: does anything turn red", _jobs)
