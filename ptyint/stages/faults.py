"""The stage of seeded faults: is each of them caught where it sits, and nothing where there is none?"""

import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check, Criterion, worst
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.pytest_runs import run_tests
from ptyint.evidence.run import Job
from ptyint.parity.faults.campaign import NAME, Campaign
from ptyint.parity.faults.catalogue import BUILT_IN
from ptyint.parity.faults.fault import Fault, catalogue_of
from ptyint.parity.faults.injection import SIDE
from ptyint.stages.request import Request, Stage

BY_HAND, FROM_OUTSIDE = "sensitivity", "outside_faults"
"""Notebooks: of the built-in candidate, with faults to be tried by hand; and of any other that has a catalogue."""

NO_FALSE_ALARM = Criterion.fact("without a fault every rung holds")
PLACES = Criterion("share of faults named at the expected rung and tap", ">=", 0.9)
UNCHANGED, SCORE = Criterion.fact("an unchanged copy is green"), Criterion("mutation score of the sample", ">=", 0.9)

SKIPPED = """import pytest

@pytest.mark.skip(reason="torch was not there")
@pytest.mark.parametrize("gridsize", [1, 2])
def test_full_cycle(gridsize):
    pass
"""


def criteria(faults: Sequence[Fault] = BUILT_IN.faults) -> tuple[Criterion, ...]:
    """One for the control, one a fault, and one for the places."""
    caught = (Criterion.fact(f"{fault.id} is caught: {fault.title}") for fault in faults)
    return (NO_FALSE_ALARM, *caught, PLACES)


def checks(campaign: Campaign) -> list[Check]:
    """What the campaign makes of the :func:`criteria`; a fault that was not tried is ``not run``."""
    _, *each, _ = criteria(campaign.faults)
    control, outcomes = campaign.control, campaign.outcomes
    alarm = NO_FALSE_ALARM.holds(None if control is None else not control.caught, control.place if control else "")
    words = ("rung " + outcomes["rung"] + ", " + outcomes["place"]).where(outcomes["rung"] != "", "not caught")
    caught = [one.holds(*seen) for one, seen in zip(each, zip(outcomes["caught"], words, strict=True), strict=True)]
    share = float(outcomes["right"].mean()) if campaign.tried else None
    return [alarm, *caught, PLACES.measured(share)]


def skipped_test() -> str:
    """F20: the verdict of the evidence engine on tests that are skipped while pytest exits with 0; empty: not tried."""
    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name:
        test = Path(name) / "test_skipped.py"
        test.write_text(SKIPPED)
        run = run_tests([str(test), "-c", os.devnull, "--rootdir", name], Path(name) / "log")
    if run.exit_code != 0 or len(run.outcomes) != 2:
        return ""
    return worst(Criterion.fact(test).holds(outcome.passed).verdict for test, outcome in run.outcomes.items())


def _jobs(request: Request) -> list[Job]:
    catalogue = catalogue_of(request.given("faults").get("candidate", SIDE))
    notebook = BY_HAND if catalogue is BUILT_IN else FROM_OUTSIDE
    given = {**parameter_defaults(notebook_path(notebook)), **request.given("faults")}
    if given["reference"] == catalogue.side:
        raise ConfigError(f"reference and candidate are both {catalogue.side!r}; a fault would be in both.")
    names, expects = ("faults", "faults", STAGE.title, notebook), criteria(catalogue.chosen(given["faults"]))
    if notebook == FROM_OUTSIDE:
        return [Job(*names, {}, expects, (NAME,), alone=True)]
    n = request.given("faults").get("n_mutants", 60 if request.profile == "full" else 0)
    if n and find_spec("cosmic_ray") is None:
        raise ConfigError("Mutants are made by cosmic-ray: pip install cosmic-ray, or try none: -p n_mutants 0.")
    more, artifacts = ((UNCHANGED, SCORE), (NAME, "mutants.json")) if n else ((), (NAME,))
    return [Job(*names, {"n_mutants": n}, (*expects, *more), artifacts, needs=("ladder",), alone=True)]


STAGE = Stage("Seeded faults", "real porting faults, put in: does the ladder go red, and where", _jobs)
