"""Stage E2.D: the full cycle on the integration fixture, run by pytest with either backend, and compared here.

The tests leave their reconstructions and numbers where pytest was told to keep its files; no framework is loaded here.
"""

import os
import shutil
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ptyint.errors import ComparisonError
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.pytest_runs import Outcome, TestRun, run_tests
from ptyint.evidence.run import Job
from ptyint.images.comparison import Comparison, Criteria, compare
from ptyint.images.reconstruction import NAME as RECONSTRUCTION
from ptyint.images.reconstruction import Reconstruction
from ptyint.parity import frozen
from ptyint.stages.request import BACKENDS, Request, Stage

Pair = tuple[str, str]
GRIDSIZES = (1, 2)
SELECTORS = {
    "tensorflow": ("tests/test_integration_workflow.py", "-k", "full_cycle", "-vv"),
    "pytorch": ("tests/torch/test_integration_workflow_torch.py", "-k", "full_cycle", "-vv"),
}
"""What is typed after ``pytest``, as the plan has it: the baseline, and its torch counterpart."""

LOGS = {"tensorflow": "phase_e_tf_baseline.log", "pytorch": "phase_e_torch_run.log"}
MISSING = "a reconstruction is missing"
SUMMARY = "phase_e_parity_summary.md"

LARGER = {"scan": ".", "star": "star"}
"""Stages that compare the backends on a larger scan, and where."""


def selector(backend: str) -> tuple[str, ...]:
    """What is typed after ``pytest`` for a backend's cycles."""
    return SELECTORS.get(backend, ("tests/cycle_of_backend.py", "--backend", backend, "-vv"))


def log_of(backend: str) -> str:
    """Name of the log of a backend's cycles."""
    return LOGS.get(backend, f"phase_e_{backend}_run.log")


def jobs(request: Request) -> list[Job]:
    """The notebook of this stage, with the comparison of a larger scan where the run makes one."""
    parameters = {"trained_dir": next((folder for stage, folder in LARGER.items() if stage in request.stages), "")}
    pair = request.pair("e2d")
    expects, left = criteria(pair=pair), artifacts(pair)
    one = Job("e2d", "e2d", STAGE.title, "e2d_parity", parameters, expects, left, summary=SUMMARY)
    return [replace(one, needs=("compare", "star"))]


STAGE = Stage("E2.D Parity", "train, save, load, infer, stitch with both backends, and the difference", jobs)


def artifacts(pair: Pair = BACKENDS) -> tuple[str, ...]:
    """Files that this stage leaves."""
    return (*map(log_of, pair), SUMMARY, *(f"{_folder(*one)}/{RECONSTRUCTION}" for one in product(pair, GRIDSIZES)))


def criteria(bounds: Criteria | None = None, pair: Pair = BACKENDS) -> tuple[Criterion, ...]:
    """Every cycle runs and passes, each comparison keeps its bounds, and shared code gives the frozen numbers."""
    declared = (bounds or Criteria()).declared(truth=True, backends=pair)
    compared = [replace(one, name=_at(gridsize, one.name)) for gridsize in GRIDSIZES for one in declared]
    return (*(_ran(*one) for one in product(pair, GRIDSIZES)), *compared, frozen.CRITERION)


@dataclass(frozen=True, eq=False)
class Cycles:
    """Both runs of pytest, and for each gridsize the comparison of what they made, or why there is none."""

    runs: dict[str, TestRun]
    comparisons: dict[int, Comparison | str]
    bounds: Criteria

    def outcome(self, backend: str, gridsize: int) -> Outcome | None:
        """What became of a backend's test."""
        return self.runs[backend].outcomes.get(_test(backend, gridsize))

    def checks(self) -> list[Check]:
        """What came of :func:`criteria`, in their order."""
        checks = []
        for cycle in product(self.runs, GRIDSIZES):
            outcome, criterion = self.outcome(*cycle), _ran(*cycle)
            holds, note = (outcome.passed, outcome.outcome) if outcome else (None, "the test did not run")
            checks.append(criterion.holds(holds, note))
        declared = self.bounds.declared(truth=True, backends=list(self.runs))
        for gridsize, one in self.comparisons.items():
            measured = [nothing.measured(None, one) for nothing in declared] if isinstance(one, str) else one.checks
            checks += [replace(check, name=_at(gridsize, check.name)) for check in measured]
        return [*checks, frozen.check()]


def run_cycles(folder: str | os.PathLike[str], bounds: Criteria, pair: Pair = BACKENDS) -> Cycles:
    """Run the full cycle with both backends, keep logs and reconstructions in `folder`, compare."""
    target, runs = Path(folder), {}
    for backend in pair:
        kept = target / f".{backend}.tests"
        runs[backend] = run_tests(selector(backend), target / log_of(backend), basetemp=kept)
        for gridsize in GRIDSIZES:
            _keep(runs[backend].outcomes.get(_test(backend, gridsize)), target / _folder(backend, gridsize))
        shutil.rmtree(kept, ignore_errors=True)
    return Cycles(runs, {gridsize: _compare(target, pair, gridsize, bounds) for gridsize in GRIDSIZES}, bounds)


def _keep(outcome: Outcome | None, folder: Path) -> None:
    """Copy the reconstruction that a test says it left."""
    left = Path(outcome.properties["reconstruction"]) if outcome and outcome.properties else None
    if left is not None and (left / RECONSTRUCTION).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(left / RECONSTRUCTION, folder)


def _compare(folder: Path, pair: Pair, gridsize: int, bounds: Criteria) -> Comparison | str:
    files = [folder / _folder(backend, gridsize) / RECONSTRUCTION for backend in pair]
    if not all(file.is_file() for file in files):
        return MISSING
    reference, candidate = map(Reconstruction.load, files)
    try:
        return compare(reference, candidate, bounds)
    except ComparisonError as error:
        return str(error)


def _test(backend: str, gridsize: int) -> str:
    return f"{selector(backend)[0]}::test_full_cycle[gridsize{gridsize}]"


def _ran(backend: str, gridsize: int) -> Criterion:
    return Criterion.fact(f"full cycle ran and passed: {backend}, gridsize {gridsize}")


def _at(gridsize: int, name: str) -> str:
    return f"gridsize {gridsize}: {name}"


def _folder(backend: str, gridsize: int) -> str:
    return f"cycles/{backend}-gridsize{gridsize}"
