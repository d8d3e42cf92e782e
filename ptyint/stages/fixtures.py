"""Stage E2.A, fixture alignment: which fixtures there are, whether they hold, their parameters, knobs and runtime."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import backends
from ptyint.backends import title
from ptyint.errors import ConfigError, FixtureError
from ptyint.evidence.checks import SIGNS, Check
from ptyint.evidence.display import Table, checks_table, write_markdown
from ptyint.evidence.execution import FOLDER
from ptyint.evidence.record import Record
from ptyint.scans.fixtures import ARRAYS, DATA_VARIABLE, Fixture, fixture_info, fixture_names, load_fixture, missing
from ptyint.scans.groups import group_positions
from ptyint.scans.scan import Scan, pattern_slices

NAME = "phase_e_fixture_sync.md"
BACKENDS = ("tensorflow", "pytorch")

INTEGRATION = "tiny-64"
"""The fixture of the integration tests (TEST-PYTORCH-001)."""

GROUP_LIMIT = 20
"""The integration tests stay below this many groups."""

FEW_GROUPS = f"integration fixture has fewer than {GROUP_LIMIT} groups"


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
    notes : tuple of str
        What the reader of the file remarked.
    pattern, object_, positions_px : ndarray
        The middle pattern, the object and all positions, for :mod:`ptyint.stages.fixture_figures`.
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
    notes: tuple[str, ...]
    pattern: NDArray[np.float32]
    object_: NDArray[np.complex64] | None
    positions_px: NDArray[np.float64]

    @property
    def overlap_ratio(self) -> float:
        """``1 - step / probe diameter``; at most 0 where neighbouring beams do not touch."""
        return 1 - self.step_px / self.probe_diameter_px

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
            notes=scan.notes,
            pattern=scan.counts(slice(scan.n // 2, scan.n // 2 + 1))[0],
            object_=scan.object_,
            positions_px=positions,
        )


@dataclass(frozen=True, eq=False)
class Examined:
    """What came of loading a fixture: `dataset` and `digest`, or `error`, or neither if it is absent."""

    fixture: Fixture
    seconds: float = math.nan
    digest: str = ""
    dataset: Dataset | None = None
    error: str = ""

    @property
    def absent(self) -> bool:
        """It can be neither found nor fetched here: not examined, and no check is expected of it."""
        return self.dataset is None and not self.error


def examine(names: Sequence[str] | None = None) -> list[Examined]:
    """Load fixtures one after the other, each of which checks its sha256, and measure them.

    Parameters
    ----------
    names : sequence of str, optional
        None or empty: all of the registry, in its order.

    Returns
    -------
    list of Examined
        One for each name; what could not be loaded says why.

    Raises
    ------
    FixtureError
        A name that the registry does not have, or no readable registry.
    """
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
        for what, found, expected in (
            ("n", scan.n, fixture.n),
            ("N", scan.N, fixture.N),
            ("the digest of the arrays", digest, fixture.sha256.get(ARRAYS, digest)),
        ):
            if found != expected:
                raise FixtureError(f"{fixture.name}: {what} is {found}, the registry says {expected}.")
        return Examined(fixture, seconds, digest, Dataset.measure(scan))
    except Exception as error:  # whatever it is, it is the finding
        return Examined(fixture, time.perf_counter() - start, error=f"{type(error).__name__}: {error}")


# Runtime


@dataclass(frozen=True)
class Budget:
    """Seconds of one train-save-load-infer-stitch run of the integration fixture in a process of its own.

    Attributes
    ----------
    backend : str
    epochs : int
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
    epochs: int
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
    backend: str, epochs: int = 3, log: str | os.PathLike[str] | None = None, timeout: float = 300
) -> Budget:
    """Run the integration fixture through a backend in a fresh process and take the time.

    Parameters
    ----------
    backend : {'tensorflow', 'pytorch'}
    epochs : int
        At least 2: the first one compiles.
    log : path-like, optional
        Gets all that the process prints.
    timeout : float
        Seconds after which the process is ended.

    Returns
    -------
    Budget
        With `error` where the process did not succeed.

    Raises
    ------
    ConfigError
        `epochs` is below 2.
    UnknownBackendError
    """
    backends.check_name(backend)
    if epochs < 2:
        raise ConfigError(f"epochs is {epochs}; must be 2 or more: the first epoch compiles, later ones do not.")
    call = "import sys; from ptyint.stages.fixtures import _cycle; _cycle(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", call, backend, str(epochs), folder]
        target, code = Path(log) if log else Path(folder, "log"), None
        begin, start = datetime.now(UTC), time.perf_counter()
        with target.open("wb") as output:
            try:
                code = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, timeout=timeout).returncode
                error = f"exit code {code}" if code else ""
            except subprocess.TimeoutExpired:
                error = f"ended after {timeout:g} s"
        wall = time.perf_counter() - start
        result = Path(folder, "result.json")
        values = json.loads(result.read_text()) if not error and result.is_file() else {}
        if not values:
            lines = target.read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
            error = f"{error or 'no result'}: {last}"
    stamps = {"start": begin.isoformat(timespec="seconds"), "end": datetime.now(UTC).isoformat(timespec="seconds")}
    command = {"argv": argv, "exit_code": code, **stamps, "log": target.name if log else ""}
    start_s = wall - values.pop("inside_s", math.nan)
    return Budget(backend, epochs, start_s=start_s, wall_s=wall, error=error, command=command, **values)


def _cycle(backend: str, epochs: str, folder: str) -> None:
    """What the measured process does; leaves ``result.json`` in `folder`."""
    start = time.perf_counter()
    backends.load(backend)
    import_s = time.perf_counter() - start

    from ptyint.config import ModelConfig, TrainingConfig
    from ptyint.images.reconstruction import reconstruct

    config = TrainingConfig(ModelConfig(n_filters_scale=1), nepochs=int(epochs), batch_size=8, backend=backend)
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


# Checks


def expected_checks(names: Sequence[str] | None = None) -> list[str]:
    """Names of the checks that :func:`checks` reports, known before anything runs.

    Parameters
    ----------
    names : sequence of str, optional
        As for :func:`examine`.

    Returns
    -------
    list of str
    """
    holds = [_holds(fixture) for fixture in _chosen(names) if not _absent(fixture)]
    return [*holds, FEW_GROUPS, *map(_measured, BACKENDS)]


def checks(examined: Sequence[Examined], budgets: Sequence[Budget]) -> list[Check]:
    """The checks of this stage, in the order of :func:`expected_checks`."""
    found = {budget.backend: budget for budget in budgets}
    return [
        *(_sha256_check(one) for one in examined if not one.absent),
        _few_groups(),
        *(_budget_check(backend, found.get(backend)) for backend in BACKENDS),
    ]


def _holds(fixture: Fixture) -> str:
    return f"sha256 holds: {fixture.name}"


def _measured(backend: str) -> str:
    return f"runtime budget measured for {backend}"


def _sha256_check(one: Examined) -> Check:
    what = ", ".join(f"{file} {digest[:12]}" for file, digest in one.fixture.sha256.items())
    return Check.fact(_holds(one.fixture), not one.error, one.error or f"{what}; loaded in {one.seconds:.2f} s")


def _few_groups() -> Check:
    try:
        positions = load_fixture(INTEGRATION).probe_positions_px
        sizes = {gridsize: group_positions(positions, gridsize=gridsize).n_groups for gridsize in (1, 2)}
    except Exception as error:
        return Check.fact(FEW_GROUPS, None, f"{INTEGRATION} cannot be grouped: {error}")
    note = ", ".join(f"{count} at gridsize {gridsize}" for gridsize, count in sizes.items())
    return Check.fact(FEW_GROUPS, max(sizes.values()) < GROUP_LIMIT, f"{INTEGRATION}: {note}")


def _budget_check(backend: str, budget: Budget | None) -> Check:
    if budget is None:
        return Check.fact(_measured(backend), None, "it was not measured")
    note = f"{budget.cycle_s:.1f} s for a cycle of {budget.epochs} epochs, budget {budget.budget_s:.0f} s"
    return Check.fact(_measured(backend), budget.measured, budget.error or note)


# Tables


def headline(examined: Sequence[Examined], budgets: Sequence[Budget]) -> Table:
    """What matters, with the numbers, dataset digests and commands that this stage reports."""
    held = [one for one in examined if one.dataset]
    tried = [one for one in examined if not one.absent]
    slowest = max((b for b in budgets if b.measured), key=lambda b: b.cycle_s, default=None)
    slowest_s = slowest.cycle_s if slowest else math.nan
    numbers = {
        "fixtures whose sha256 holds": float(len(held)),
        "fixtures examined": float(len(tried)),
        "slowest integration cycle / s": slowest_s,
        **{f"integration cycle, {b.backend} / s": b.cycle_s for b in budgets},
        "loading the fixtures / s": sum(one.seconds for one in tried),
    }
    absent = [one.fixture.name for one in examined if one.absent]
    left_out = f"; absent, for {DATA_VARIABLE} lacks it and it cannot be fetched: {', '.join(absent)}" if absent else ""
    compared = (
        f"Every fixture was loaded, its sha256 compared with the registry's and its parameters measured{left_out}; "
        f"{INTEGRATION} ran once through each backend, in a process of its own, for the runtime budget."
    )
    costliest = max(held, key=lambda one: one.seconds, default=None)
    rows = [
        ("fixtures whose sha256 holds", f"{len(held)} of {len(tried)} examined, {len(examined)} in the list"),
        (
            "slowest integration cycle",
            f"{slowest_s:.1f} s, {title(slowest.backend)}" if slowest else "not measured",
        ),
        ("slowest fixture to load", f"{costliest.fixture.name}, {costliest.seconds:.2f} s" if costliest else "none"),
        ("examined", compared),
    ]
    record = Record(
        compared=compared,
        numbers=numbers,
        commands=tuple(budget.command for budget in budgets),
        datasets={one.fixture.name: one.digest for one in held},
    )
    return Table("In short", ("what", "found"), rows, record)


def inventory_table(examined: Sequence[Examined]) -> Table:
    """The registry: where each fixture comes from, whose it is, its size, and whether it exists and holds."""
    heads = ("fixture", "path or generator", "owner", "licence", "n", "N", "gridsize", "exists, sha256 holds", "notes")
    rows = [
        (
            one.fixture.name,
            _source(one.fixture),
            one.fixture.owner,
            one.fixture.licence,
            *map(str, (one.fixture.n, one.fixture.N, one.fixture.gridsize)),
            "not examined: it cannot be fetched" if one.absent else _verdict(not one.error),
            one.fixture.notes,
        )
        for one in examined
    ]
    return Table("Inventory", heads, rows)


def _verdict(holds: bool) -> str:
    return f"{SIGNS['pass']} pass" if holds else f"{SIGNS['fail']} fail"


def _source(fixture: Fixture) -> str:
    files = ", ".join(file for file in fixture.sha256 if file != ARRAYS)
    if fixture.kind == "generated":
        return f"generator '{fixture.generator}' of ptyint/fixtures.py"
    if fixture.kind == "committed":
        return f"datasets/{files}" + (f", by generator '{fixture.generator}'" if fixture.generator else "")
    return f"{files}, from {fixture.url}"


def dataset_table(examined: Sequence[Examined]) -> Table:
    """Parameters of every fixture that loaded, measured from its arrays."""
    heads = (
        *("fixture", "patterns", "N", "probe modes", "object (H x W)", "mean counts per pattern", "bad pixels"),
        *("step / px", "probe diameter / px", "overlap ratio", "truth known", "load / s", "scan digest", "remarks"),
    )
    return Table("Dataset parameters", heads, [_dataset_row(one) for one in examined])


def _dataset_row(one: Examined) -> tuple[str, ...]:
    data = one.dataset
    if data is None:
        return (one.fixture.name, *["-"] * 12, one.error or "not examined: it cannot be fetched")
    overlap = f"{data.overlap_ratio:.2f}" if data.overlap_ratio > 0 else "no overlap"
    return (
        one.fixture.name,
        *(str(data.n), str(data.N), str(data.modes), "{} x {}".format(*data.object_shape)),
        *(f"{data.mean_counts:,.0f}", str(data.bad_pixels), f"{data.step_px:.2f}", f"{data.probe_diameter_px:.1f}"),
        *(overlap, "yes" if data.truth_known else "no", f"{one.seconds:.2f}", one.digest[:16]),
        "; ".join(data.notes) or "-",
    )


def command_table(parser: argparse.ArgumentParser) -> Table:
    """Every option of a command line and of its subcommands, with default and help."""
    return Table("Knobs of the command line", ("command", "option", "default", "help"), list(_options(parser)))


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str, str]]:
    formatter = argparse.HelpFormatter(parser.prog)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield command.prog, "-", "-", helps.get(name, "")
                yield from _options(command)
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            help_ = formatter._expand_help(action) if action.help else ""
            yield parser.prog, _option(action), _default(action), help_


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    choices = " or ".join(map(str, action.choices)) if action.choices else action.dest.upper()
    value = action.metavar or choices
    return f"{names} {' '.join(value) if isinstance(value, tuple) else value}".strip()


def _default(action: argparse.Action) -> str:
    if action.required and action.default is None:
        return "required"
    return "-" if action.default in (None, argparse.SUPPRESS, []) else str(action.default)


def notebook_table(folder: str | os.PathLike[str] = FOLDER) -> Table:
    """Every parameter of every notebook in `folder`, with default and the comment beside it."""
    import papermill

    rows = []
    for path in sorted(Path(folder).glob("*.ipynb")):
        for name, parameter in papermill.inspect_notebook(str(path)).items():
            rows.append((path.name, name, str(parameter["default"]), str(parameter["help"]) or "-"))
    return Table("Knobs of the notebooks", ("notebook", "parameter", "default", "help"), rows)


def budget_table(budgets: Sequence[Budget]) -> Table:
    """What one run of the integration fixture costs with each backend, and the budget made of it."""
    texts = {
        "epochs": "{0.epochs}",
        "process start and end / s": "{0.start_s:.2f}",
        "framework import / s": "{0.import_s:.2f}",
        "first epoch, compilation included / s": "{0.first_epoch_s:.2f}",
        "each later epoch (median) / s": "{0.later_epoch_s:.2f}",
        "inference, compilation included / s": "{0.inference_s:.2f}",
        "whole process / s": "{0.wall_s:.1f}",
        "one integration cycle: with a second start and import / s": "{0.cycle_s:.1f}",
        "budget: twice that, rounded up to 5 s / s": "{0.budget_s:.0f}",
    }
    rows = [("version, device, threads", *(b.framework or b.error for b in budgets))]
    rows += [(name, *(text.format(budget) for budget in budgets)) for name, text in texts.items()]
    rows += [("peak memory / GiB", *(f"{b.peak_memory_bytes / 2**30:.2f}" for b in budgets))]
    return Table("Runtime budget", ("measured", *(title(b.backend) for b in budgets)), rows)


def write_sync(
    folder: str | os.PathLike[str],
    examined: Sequence[Examined],
    budgets: Sequence[Budget],
    parser: argparse.ArgumentParser,
) -> Path:
    """Write ``phase_e_fixture_sync.md`` into `folder`: all tables of this stage.

    Parameters
    ----------
    folder : path-like
    examined : sequence of Examined
    budgets : sequence of Budget
    parser : ArgumentParser
        Of the command line whose knobs are listed.

    Returns
    -------
    Path
        The file.
    """
    return write_markdown(
        Path(folder) / NAME,
        "Phase E2.A: fixture alignment",
        headline(examined, budgets),
        checks_table(checks(examined, budgets)),
        inventory_table(examined),
        dataset_table(examined),
        STEP_NOTE,
        command_table(parser),
        notebook_table(),
        budget_table(budgets),
        BUDGET_NOTE,
    )


STEP_NOTE = (
    "Step: median over the positions of the mean distance to the four nearest others. Probe diameter: of the disk as "
    "large as the area where the probe's modulus is at least half its maximum. Overlap ratio: 1 - step / diameter; "
    "with a guessed probe it is a guess too."
)
BUDGET_NOTE = (
    f"{INTEGRATION} in a fresh process for each backend: import, train, save, load, infer, stitch. Measured on the "
    "machine that made this page, beside whatever else it was doing."
)
