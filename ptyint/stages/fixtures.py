"""Stage E2.A, fixture alignment: which fixtures there are, whether they hold, their parameters and their runtime."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptyint import backends
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import ConfigError, FixtureError
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.environment import now
from ptyint.evidence.processes import follow_parent, run_group
from ptyint.evidence.run import Job
from ptyint.images.reconstruction import reconstruct
from ptyint.scans.fixtures import ARRAYS, Fixture, fixture_info, fixture_names, load_fixture, missing
from ptyint.scans.groups import group_positions
from ptyint.scans.scan import Scan, pattern_slices
from ptyint.stages.request import BACKENDS, Request, Stage

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = "phase_e_fixture_sync.md"

INTEGRATION = "tiny-64"
"""The fixture of the integration tests (TEST-PYTORCH-001)."""

GROUP_LIMIT = 20
"""The integration tests stay below this many groups."""

FEW_GROUPS = Criterion.fact(f"integration fixture has fewer than {GROUP_LIMIT} groups")


def jobs(request: Request) -> list[Job]:
    """The notebook of this stage."""
    chosen = str(request.given("e2a").get("fixtures", ""))
    expects = criteria([name.strip() for name in chosen.split(",") if name.strip()])
    return [Job("e2a", "e2a", STAGE.title, "e2a_fixtures", expects=expects, artifacts=(NAME,), summary=NAME)]


STAGE = Stage("E2.A Fixture alignment", "every dataset exists, holds its sha256, and what it is", jobs)


def criteria(names: Sequence[str] | None = None) -> tuple[Criterion, ...]:
    """What :func:`checks` reports of the named fixtures; None or empty: of all that are here."""
    holds = [_holds(fixture) for fixture in _chosen(names) if not _absent(fixture)]
    return (*holds, FEW_GROUPS, *map(_measured, BACKENDS))


def checks(examined: Sequence[Examined], budgets: Sequence[Budget]) -> list[Check]:
    """The checks of this stage, in the order of :func:`criteria`."""
    budget_of = {budget.backend: budget for budget in budgets}
    return [
        *(_sha256_check(one) for one in examined if not one.absent),
        _few_groups(),
        *(_budget_check(backend, budget_of.get(backend)) for backend in BACKENDS),
    ]


def _holds(fixture: Fixture) -> Criterion:
    return Criterion.fact(f"sha256 holds: {fixture.name}")


def _measured(backend: str) -> Criterion:
    return Criterion.fact(f"runtime budget measured for {backend}")


def _sha256_check(one: Examined) -> Check:
    what = ", ".join(f"{file} {digest[:12]}" for file, digest in one.fixture.sha256.items())
    return _holds(one.fixture).holds(not one.error, one.error or f"{what}; loaded in {one.seconds:.2f} s")


def _few_groups() -> Check:
    try:
        positions = load_fixture(INTEGRATION).probe_positions_px
        sizes = {gridsize: group_positions(positions, gridsize=gridsize).n_groups for gridsize in (1, 2)}
    except Exception as error:
        return FEW_GROUPS.holds(None, f"{INTEGRATION} cannot be grouped: {error}")
    note = ", ".join(f"{count} at gridsize {gridsize}" for gridsize, count in sizes.items())
    return FEW_GROUPS.holds(max(sizes.values()) < GROUP_LIMIT, f"{INTEGRATION}: {note}")


def _budget_check(backend: str, budget: Budget | None) -> Check:
    if budget is None:
        return _measured(backend).holds(None, "it was not measured")
    note = f"{budget.cycle_s:.1f} s for a cycle of {budget.nepochs} epochs, budget {budget.budget_s:.0f} s"
    return _measured(backend).holds(budget.measured, budget.error or note)


# Fixtures


@dataclass(frozen=True, eq=False)
class Dataset:
    """Parameters of a loaded scan, measured from its arrays.

    Attributes
    ----------
    n, N, modes, bad_pixels : int
    object_shape : tuple of int
        (0, 0) where the scan has no object.
    mean_counts : float
        Per pattern, bad pixels left out.
    step_px : float
        Median over the positions of the mean distance to the four nearest others.
    probe_diameter_px : float
        Of the disk as large as the area where the probe's modulus is at least half its maximum.
    truth_known : bool
    remarks : tuple of str
        What the reader of the file remarked.
    pattern, object_, positions_px : ndarray
        The middle pattern, the object and all positions, to be drawn.
    """

    n: int
    N: int
    modes: int
    bad_pixels: int
    object_shape: tuple[int, ...]
    mean_counts: float
    step_px: float
    probe_diameter_px: float
    truth_known: bool
    remarks: tuple[str, ...]
    pattern: NDArray[np.float32]
    object_: NDArray[np.complex64] | None
    positions_px: NDArray[np.float64]

    @property
    def overlap_ratio(self) -> float:
        """``1 - step / probe diameter``; at most 0 where neighbouring beams do not touch."""
        return 1 - self.step_px / self.probe_diameter_px

    @property
    def parameters(self) -> dict[str, Any]:
        """All but the arrays, by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    @classmethod
    def measure(cls, scan: Scan) -> Dataset:
        """Measure a scan; its patterns are read by slices."""
        from scipy.spatial import cKDTree

        positions = scan.probe_positions_px
        distances, _ = cKDTree(positions).query(positions, k=min(5, scan.n))
        modulus = np.sqrt((np.abs(scan.probe) ** 2).sum(axis=0))
        lit = np.count_nonzero(modulus >= modulus.max() / 2)
        total = sum(scan.counts(rows).sum(dtype=np.float64) for rows in pattern_slices(scan.diffraction_patterns))
        return cls(
            n=scan.n,
            N=scan.N,
            modes=len(scan.probe),
            bad_pixels=0 if scan.good_pixels is None else int((~scan.good_pixels).sum()),
            object_shape=(0, 0) if scan.object_ is None else scan.object_.shape,
            mean_counts=float(total / scan.n),
            step_px=float(np.median(distances[:, 1:].mean(axis=1))),
            probe_diameter_px=float(2 * np.sqrt(lit / np.pi)),
            truth_known=scan.object_is_truth,
            remarks=scan.notes,
            pattern=scan.counts(slice(scan.n // 2, scan.n // 2 + 1))[0],
            object_=scan.object_,
            positions_px=positions,
        )


PARAMETERS = (*(field.name for field in fields(Dataset)[:-3]), "overlap_ratio")


@dataclass(frozen=True, eq=False)
class Examined:
    """What came of loading a fixture: `dataset` and `digest`, or `error`, or neither if it is absent."""

    fixture: Fixture
    seconds: float = math.nan
    digest: str = ""
    dataset: Dataset | None = None
    error: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it was loaded and is what the registry says; None: it is absent."""
        return None if self.absent else not self.error

    @property
    def absent(self) -> bool:
        """It can be neither found nor fetched here: not examined, and no check is expected of it."""
        return self.dataset is None and not self.error


def examine(names: Sequence[str] | None = None) -> list[Examined]:
    """Load fixtures one after the other, which checks the sha256 of each, and measure them; None or empty: all."""
    return [Examined(fixture) if _absent(fixture) else _examine(fixture) for fixture in _chosen(names)]


def _chosen(names: Sequence[str] | None) -> list[Fixture]:
    return [fixture_info(name) for name in dict.fromkeys(names or fixture_names())]


def _absent(fixture: Fixture) -> bool:
    return bool(missing(fixture.name))


def _examine(fixture: Fixture) -> Examined:
    start = time.perf_counter()
    try:
        scan = load_fixture(fixture.name)
        seconds, digest = time.perf_counter() - start, scan.sha256
        for what, value, expected in (
            ("n", scan.n, fixture.n),
            ("N", scan.N, fixture.N),
            ("the digest of the arrays", digest, fixture.sha256.get(ARRAYS, digest)),
        ):
            if value != expected:
                raise FixtureError(f"{fixture.name}: {what} is {value}, the registry says {expected}.")
        return Examined(fixture, seconds, digest, Dataset.measure(scan))
    except Exception as error:  # whatever it is, it is the finding
        return Examined(fixture, time.perf_counter() - start, error=f"{type(error).__name__}: {error}")


def table(examined: Sequence[Examined]) -> DataFrame:
    """A row a fixture: what the registry says, whether it holds, and what was measured (None where nothing was)."""
    import pandas as pd

    rows = []
    for one in examined:
        registered = {f"registered_{name}": getattr(one.fixture, name) for name in ("n", "N", "gridsize")}
        said = {name: getattr(one.fixture, name) for name in ("name", "owner", "licence", "notes")}
        measured = one.dataset.parameters if one.dataset else dict.fromkeys(PARAMETERS)
        result = {"holds": one.holds, "error": one.error, "seconds": one.seconds, "digest": one.digest}
        rows.append({**said, "source": source(one.fixture), **registered, **result, **measured})
    return pd.DataFrame(rows, dtype=object)


def source(fixture: Fixture) -> str:
    """Where a fixture comes from: its generator, its file, or where that is fetched."""
    files = ", ".join(file for file in fixture.sha256 if file != ARRAYS)
    if fixture.kind == "generated":
        return f"generator of {fixture.name} in datasets/registry.toml"
    if fixture.kind == "committed":
        return f"datasets/{files}" + (", by its generator in datasets/registry.toml" if fixture.generator else "")
    return f"{files}, from {fixture.url}"


# Runtime


@dataclass(frozen=True)
class Budget:
    """Seconds of one train-save-load-infer-stitch run of the integration fixture in a process of its own.

    Attributes
    ----------
    backend : str
    nepochs : int
    start_s : float
        Start and end of the process: what is left of `wall_s`.
    import_s : float
        Import of the framework.
    first_epoch_s, later_epoch_s : float
        Compilation included; median of the others.
    inference_s : float
        Compilation included.
    wall_s : float
        The whole process.
    peak_memory_bytes : int
    framework : str
        Version, device and threads.
    error : str
        Why nothing was measured, else empty.
    command : dict
        Of the process, for a :class:`~ptyint.evidence.record.Record`.
    """

    backend: str
    nepochs: int
    start_s: float = math.nan
    import_s: float = math.nan
    first_epoch_s: float = math.nan
    later_epoch_s: float = math.nan
    inference_s: float = math.nan
    wall_s: float = math.nan
    peak_memory_bytes: int = 0
    framework: str = ""
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

    @property
    def measured(self) -> bool:
        """Whether every number is there."""
        values = [value for name, value in asdict(self).items() if name.endswith("_s")]
        return not self.error and all(math.isfinite(value) and value > 0 for value in values)


def measure_budget(
    backend: str, nepochs: int = 3, log: str | os.PathLike[str] | None = None, timeout: float = 300
) -> Budget:
    """Run the integration fixture through a backend in a fresh process, which dies with this one, and take the time.

    `nepochs` is 2 or more: the first one compiles. `log` gets all that the process prints.
    """
    backends.check_name(backend)
    if nepochs < 2:
        raise ConfigError(f"nepochs is {nepochs}; must be 2 or more: the first epoch compiles, later ones do not.")
    call = "import sys; from ptyint.stages.fixtures import cycle; cycle(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", call, backend, str(nepochs), folder]
        target = Path(log) if log else Path(folder, "log")
        begin, start = now(), time.perf_counter()
        with target.open("wb") as output:
            code, timed_out = run_group(argv, Path.cwd(), os.environ, output, timeout)
        wall, end = time.perf_counter() - start, now()
        result = Path(folder, "result.json")
        values = json.loads(result.read_text()) if code == 0 and result.is_file() else {}
        error = "" if values else f"{_ended(code, timed_out, timeout)}: {_last_line(target)}"
    command = {"argv": argv, "exit_code": code, "start": begin, "end": end, "log": target.name if log else ""}
    start_s = wall - values.pop("inside_s", math.nan)
    return Budget(backend, nepochs, start_s=start_s, wall_s=wall, error=error, command=command, **values)


def _ended(code: int, timed_out: bool, timeout: float) -> str:
    if timed_out:
        return f"ended after {timeout:g} s"
    return f"exit code {code}" if code else "no result"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def cycle(backend: str, nepochs: str, folder: str) -> None:
    """What the measured process does; leaves ``result.json`` in `folder`."""
    follow_parent()
    start = time.perf_counter()
    backends.load(backend)
    import_s = time.perf_counter() - start
    config = TrainingConfig(ModelConfig(n_filters_scale=1), nepochs=int(nepochs), batch_size=8, backend=backend)
    result = reconstruct(load_fixture(INTEGRATION), config, folder)
    facts = result.facts["description"]
    values = {
        "import_s": import_s,
        "first_epoch_s": float(result.epoch_seconds[0]),
        "later_epoch_s": float(np.median(result.epoch_seconds[1:])),
        "inference_s": result.facts["inference_seconds"],
        "peak_memory_bytes": result.facts["peak_memory_bytes"],
        "framework": f"{facts['version']}, {facts['device']}, {facts['threads']} threads",
        "inside_s": time.perf_counter() - start,
    }
    Path(folder, "result.json").write_text(json.dumps(values))
