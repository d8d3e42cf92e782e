"""Stage E2.A, fixture alignment: which fixtures there are, whether they hold, their parameters and their runtime."""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptyint import backends
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ConfigError, FixtureError
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.environment import now
from ptyint.evidence.processes import follow_parent, run_group
from ptyint.evidence.run import Job
from ptyint.images.reconstruction import Reconstruction
from ptyint.images.workflow import reconstruct
from ptyint.scans.fixtures import ARRAYS, Fixture, fixture_info, fixture_names, load_fixture, missing
from ptyint.scans.groups import group_positions
from ptyint.scans.scan import Scan, measure
from ptyint.stages.request import BACKENDS, Request, Stage

NAME = "phase_e_fixture_sync.md"

INTEGRATION = "tiny-64"
"""The fixture of the integration tests (TEST-PYTORCH-001)."""

GROUP_LIMIT = 20
"""The integration tests stay below this many groups."""

RESULT = "seconds.json"

FEW_GROUPS = Criterion.fact(f"integration fixture has fewer than {GROUP_LIMIT} groups")


def jobs(request: Request) -> list[Job]:
    """The notebook of this stage."""
    chosen = str(request.given("e2a").get("fixtures", ""))
    expects = criteria([name.strip() for name in chosen.split(",") if name.strip()])
    return [Job("e2a", "e2a", STAGE.title, "e2a_fixtures", expects=expects, artifacts=(NAME,), summary=NAME)]


STAGE = Stage("E2.A Fixture alignment", "every dataset exists, holds its sha256, and what it is", jobs)


def criteria(names: Sequence[str] | None = None) -> tuple[Criterion, ...]:
    """What :func:`checks` reports of the named fixtures; None or empty: of all that are here."""
    return _criteria([fixture for fixture in _chosen(names) if not missing(fixture.name)])


def _criteria(here: Sequence[Fixture]) -> tuple[Criterion, ...]:
    hold = (Criterion.fact(f"sha256 holds: {fixture.name}") for fixture in here)
    measured = (Criterion.fact(f"runtime budget measured for {backend}") for backend in BACKENDS)
    return (*hold, FEW_GROUPS, *measured)


def checks(examined: Sequence["Examined"], budgets: Sequence["Budget"]) -> list[Check]:
    """The checks of this stage, in the order of :func:`criteria`."""
    here = [one for one in examined if not one.absent]
    budget_of = {budget.backend: budget for budget in budgets}
    seen = [*map(_sha256, here), _groups(), *(_cost(budget_of.get(backend)) for backend in BACKENDS)]
    declared = _criteria([one.fixture for one in here])
    return [criterion.holds(*what) for criterion, what in zip(declared, seen, strict=True)]


def _sha256(one: "Examined") -> tuple[bool, str]:
    what = ", ".join(f"{file} {digest[:12]}" for file, digest in one.fixture.sha256.items())
    return not one.error, one.error or f"{what}; loaded in {one.seconds:.2f} s"


def _groups() -> tuple[bool | None, str]:
    try:
        positions = load_fixture(INTEGRATION).probe_positions_px
        sizes = {gridsize: group_positions(positions, gridsize=gridsize).n_groups for gridsize in (1, 2)}
    except Exception as error:
        return None, f"{INTEGRATION} cannot be grouped: {error}"
    note = ", ".join(f"{count} at gridsize {gridsize}" for gridsize, count in sizes.items())
    return max(sizes.values()) < GROUP_LIMIT, f"{INTEGRATION}: {note}"


def _cost(budget: "Budget | None") -> tuple[bool | None, str]:
    if budget is None:
        return None, "it was not measured"
    note = f"{budget.cycle_s:.1f} s for a cycle of {budget.nepochs} epochs, budget {budget.budget_s:.0f} s"
    return not budget.error and 0 < budget.cycle_s < math.inf, budget.error or note


# Fixtures


@dataclass(frozen=True, eq=False)
class Examined:
    """What came of loading a fixture: `scan` and what was `measured`, or `error`, or nothing if it is absent."""

    fixture: Fixture
    seconds: float = math.nan
    scan: Scan | None = None
    measured: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def absent(self) -> bool:
        """It can be neither found nor fetched here: not examined, and no check is expected of it."""
        return self.scan is None and not self.error


def examine(names: Sequence[str] | None = None) -> list[Examined]:
    """Load fixtures one after the other, which checks the sha256 of each, and measure them; None or empty: all."""
    return [Examined(fixture) if missing(fixture.name) else _examine(fixture) for fixture in _chosen(names)]


def _chosen(names: Sequence[str] | None) -> list[Fixture]:
    return [fixture_info(name) for name in dict.fromkeys(names or fixture_names())]


def _examine(fixture: Fixture) -> Examined:
    start = time.perf_counter()
    try:
        scan = load_fixture(fixture.name)
        seconds = time.perf_counter() - start
        for what, value, expected in (
            ("n", scan.n, fixture.n),
            ("N", scan.N, fixture.N),
            ("the digest of the arrays", scan.sha256, fixture.sha256.get(ARRAYS, scan.sha256)),
        ):
            if value != expected:
                raise FixtureError(f"{fixture.name}: {what} is {value}, the registry says {expected}.")
        return Examined(fixture, seconds, scan, measure(scan))
    except Exception as error:  # whatever it is, it is the finding
        return Examined(fixture, time.perf_counter() - start, error=f"{type(error).__name__}: {error}")


# Runtime


@dataclass(frozen=True, eq=False)
class Budget:
    """Seconds of one train-save-load-infer-stitch run of the integration fixture in a process of its own.

    Attributes
    ----------
    backend : str
    nepochs : int
    wall_s : float
        The whole process.
    start_s : float
        Start and end of the process: what is left of `wall_s`.
    import_s : float
        Import of the framework.
    made : Reconstruction, optional
        With the seconds of its epochs and of its inference, compilation included, and the memory; None: it failed.
    error : str
        Why nothing was measured, else empty.
    command : dict
        Of the process, for a :class:`~ptyint.evidence.record.Record`.
    """

    backend: str
    nepochs: int
    wall_s: float
    start_s: float = math.nan
    import_s: float = math.nan
    made: Reconstruction | None = None
    error: str = ""
    command: dict[str, Any] = field(default_factory=dict)

    @property
    def cycle_s(self) -> float:
        """One integration cycle, which loads the model in a second process: one more start and import."""
        return self.wall_s + self.start_s + self.import_s

    @property
    def budget_s(self) -> float:
        """What a cycle may take: twice `cycle_s`, for a busy machine, rounded up to 5 s."""
        return 5 * math.ceil(2 * self.cycle_s / 5) if math.isfinite(self.cycle_s) else math.nan


def measure_budget(backend: str, nepochs: int, log: Path, timeout: float = 300) -> Budget:
    """Run the integration fixture through a backend in a fresh process, which dies with this one, and take the time.

    `nepochs` is 2 or more: the first one compiles. `log` gets all that the process prints.
    """
    backends.check_name(backend)
    if nepochs < 2:
        raise ConfigError(f"nepochs is {nepochs}; must be 2 or more: the first epoch compiles, later ones do not.")
    call = "import sys; from ptyint.stages.fixtures import cycle; cycle(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", call, backend, str(nepochs), folder]
        begin, start = now(), time.perf_counter()
        with log.open("wb") as output:
            code, timed_out = run_group(argv, Path.cwd(), os.environ, output, timeout)
        wall_s, end = time.perf_counter() - start, now()
        command = {"argv": argv, "exit_code": code, "start": begin, "end": end, "log": log.name}
        if code == 0 and (result := Path(folder, RESULT)).is_file():
            inside_s, import_s = json.loads(result.read_text())
            made = Reconstruction.load(folder)
            return Budget(backend, nepochs, wall_s, wall_s - inside_s, import_s, made, command=command)
        ended = f"ended after {timeout:g} s" if timed_out else f"exit code {code}" if code else "no result"
        said = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
        error = f"{ended}: {said[-1] if said else 'it printed nothing'}"
        return Budget(backend, nepochs, wall_s, error=error, command=command)


def cycle(backend: str, nepochs: str, folder: str) -> None:
    """What the measured process does; leaves its reconstruction and two times in `folder`."""
    follow_parent()
    start = time.perf_counter()
    backends.load(backend)
    import_s = time.perf_counter() - start
    config = TrainingConfig(ModelConfig(n_filters_scale=1), nepochs=int(nepochs), batch_size=8, backend=backend)
    reconstruct(load_fixture(INTEGRATION), config, folder)
    Path(folder, RESULT).write_text(json.dumps([time.perf_counter() - start, import_s]))
