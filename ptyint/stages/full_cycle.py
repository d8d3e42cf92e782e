"""Stage E2.D: the full cycle on the integration fixture, run by pytest with either backend, and compared here.

The tests leave their reconstructions and numbers where pytest was told to keep its files; no framework is loaded here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from ptyint.backends import title
from ptyint.errors import EvidenceError
from ptyint.evidence.checks import Check
from ptyint.evidence.display import Fragment, Table, checks_table, number, write_markdown
from ptyint.evidence.pytest_runs import Outcome, TestRun, command, run_tests
from ptyint.evidence.record import Record
from ptyint.images.comparison import NAME as COMPARISON
from ptyint.images.comparison import Comparison, Criteria, check_names, compare
from ptyint.images.reconstruction import NAME as RECONSTRUCTION
from ptyint.images.reconstruction import Reconstruction
from ptyint.images.report import METRICS, metric

GRIDSIZES = (1, 2)
SELECTORS = {
    "tensorflow": ("tests/test_integration_workflow.py", "-k", "full_cycle", "-vv"),
    "pytorch": ("tests/torch/test_integration_workflow_torch.py", "-k", "full_cycle", "-vv"),
}
"""What is typed after ``pytest``, as the plan has it: the baseline, and its torch counterpart."""

LOGS = {"tensorflow": "phase_e_tf_baseline.log", "pytorch": "phase_e_torch_run.log"}
SUMMARY = "phase_e_parity_summary.md"

COSTS = {
    "cycle_seconds": "whole cycle, both processes / s",
    "startup_seconds": "of which start and import / s",
    "training_seconds": "training / s",
    "inference_seconds": "inference / s",
    "training_peak_memory_bytes": "peak memory in training / GiB",
    "inference_peak_memory_bytes": "peak memory in inference / GiB",
}


def artifacts() -> tuple[str, ...]:
    """Files that this stage leaves."""
    folders = [f"{_folder(backend, gridsize)}/{RECONSTRUCTION}" for backend in SELECTORS for gridsize in GRIDSIZES]
    return (*LOGS.values(), SUMMARY, *folders)


def expected_names() -> list[str]:
    """Names of the checks of :func:`checks`, known before anything runs."""
    passed = [_passed(backend, gridsize) for backend in SELECTORS for gridsize in GRIDSIZES]
    return [*passed, *(_at(gridsize, name) for gridsize in GRIDSIZES for name in check_names(truth=True))]


@dataclass(frozen=True, eq=False)
class Cycles:
    """Both runs of pytest, and for each gridsize the comparison of what they made; None where one is missing."""

    runs: dict[str, TestRun]
    comparisons: dict[int, Comparison | None]

    def outcome(self, backend: str, gridsize: int) -> Outcome | None:
        """What became of a backend's test."""
        return self.runs[backend].outcomes.get(f"{SELECTORS[backend][0]}::test_full_cycle[gridsize{gridsize}]")

    def comparison(self, gridsize: int) -> Comparison:
        """The comparison at a gridsize.

        Raises
        ------
        EvidenceError
            A backend left no reconstruction.
        """
        found = self.comparisons[gridsize]
        if found is None:
            raise EvidenceError(
                f"There is nothing to compare at gridsize {gridsize}: a backend left no reconstruction; see "
                f"{' and '.join(LOGS.values())}."
            )
        return found


def run_cycles(folder: str | os.PathLike[str], criteria: Criteria) -> Cycles:
    """Run the full cycle with both backends, keep logs and reconstructions in `folder`, compare.

    Parameters
    ----------
    folder : path-like
    criteria : Criteria

    Returns
    -------
    Cycles
    """
    target = Path(folder)
    runs, comparisons = {}, {}
    for backend, selector in SELECTORS.items():
        kept = target / f".{backend}.tests"
        runs[backend] = run_tests(selector, target / LOGS[backend], basetemp=kept)
        for gridsize in GRIDSIZES:
            outcome = Cycles(runs, {}).outcome(backend, gridsize)
            made = Path(outcome.properties["reconstruction"]) if outcome and outcome.properties else None
            if made is not None and (made / RECONSTRUCTION).is_file():
                (target / _folder(backend, gridsize)).mkdir(parents=True, exist_ok=True)
                shutil.copy(made / RECONSTRUCTION, target / _folder(backend, gridsize))
        shutil.rmtree(kept, ignore_errors=True)
    for gridsize in GRIDSIZES:
        files = [target / _folder(backend, gridsize) / RECONSTRUCTION for backend in SELECTORS]
        there = all(file.is_file() for file in files)
        comparisons[gridsize] = _compare(files, criteria) if there else None
    return Cycles(runs, comparisons)


def _compare(files: Sequence[Path], criteria: Criteria) -> Comparison:
    reference, candidate = map(Reconstruction.load, files)
    return compare(reference, candidate, criteria)


def checks(cycles: Cycles) -> list[Check]:
    """Whether every cycle ran and passed, and every check of every comparison, in the order of `expected_names`."""
    found = []
    for backend in SELECTORS:
        for gridsize in GRIDSIZES:
            outcome = cycles.outcome(backend, gridsize)
            ran = outcome is not None and outcome.outcome in ("passed", "failed", "error")
            holds = outcome is not None and outcome.outcome == "passed"
            note = outcome.outcome if outcome else "the test did not run"
            found.append(Check.fact(_passed(backend, gridsize), holds if ran else None, note))
    for gridsize, comparison in cycles.comparisons.items():
        if comparison is None:
            missing = [Check(name, None, note="a reconstruction is missing") for name in check_names(truth=True)]
        else:
            missing = list(comparison.checks)
        found += [replace(check, name=_at(gridsize, check.name)) for check in missing]
    return found


def headline(cycles: Cycles) -> Table:
    """What was compared, and the numbers that matter."""
    numbers: dict[str, float] = {}
    for gridsize, comparison in cycles.comparisons.items():
        value = comparison.agreement.values["phase_correlation"] if comparison else None
        numbers[f"phase correlation of the backends, gridsize {gridsize}"] = float("nan") if value is None else value
    ratios = [ratio for gridsize in GRIDSIZES if (ratio := _ratio(cycles, gridsize, "cycle_seconds")) is not None]
    numbers["time of a cycle, PyTorch over TensorFlow"] = max(ratios, default=float("nan"))
    for gridsize, comparison in cycles.comparisons.items():
        for backend, against in comparison.truth.items() if comparison else ():
            value = against.values["phase_correlation"]
            name = f"phase correlation with the truth, {title(backend)}, gridsize {gridsize}"
            numbers[name] = float("nan") if value is None else value
        if comparison:
            name = f"relative residual between the backends, gridsize {gridsize}"
            numbers[name] = comparison.agreement.gauge.residual_after
    scan = next((c.reference.facts["scan"] for c in cycles.comparisons.values() if c), "the integration fixture")
    compared = (
        f"TensorFlow and PyTorch each trained on {scan} (16 patterns, fewer than 20 groups), saved, loaded in a new "
        "process, inferred and stitched, at gridsize 1 and 2; same scan, groups, initial weights and batches."
    )
    record = Record(
        compared=compared,
        numbers=numbers,
        commands=tuple(command(run) for run in cycles.runs.values()),
        datasets={
            c.reference.facts["scan"]: c.reference.facts["scan_sha256"] for c in cycles.comparisons.values() if c
        },
    )
    return Table("In short", ("what", "found"), [(name, number(value)) for name, value in numbers.items()], record)


def metrics_table(cycles: Cycles) -> Table:
    """Every metric at every gridsize: each backend with the truth, and the backends with each other."""
    columns = {}
    for gridsize, comparison in cycles.comparisons.items():
        if comparison is not None:
            for backend, against in comparison.truth.items():
                columns[f"{title(backend)} vs truth, gridsize {gridsize}"] = against.values
            columns[f"PyTorch vs TensorFlow, gridsize {gridsize}"] = comparison.agreement.values
    rows = [[label, *(metric(values[key]) for values in columns.values())] for key, label in METRICS.items()]
    return Table("Metrics after gauge removal", ("metric", *columns), rows)


def cost_table(cycles: Cycles) -> Table:
    """Runtime and memory of both backends, and their ratio."""
    rows = []
    for gridsize in GRIDSIZES:
        for key, label in COSTS.items():
            unit = 2**30 if key.endswith("bytes") else 1
            values = [_property(cycles, backend, gridsize, key) for backend in SELECTORS]
            shown = ["-" if value is None else f"{value / unit:.2f}" for value in values]
            ratio = _ratio(cycles, gridsize, key)
            rows.append((f"gridsize {gridsize}: {label}", *shown, "-" if ratio is None else f"{ratio:.2f}"))
    return Table("Runtime and memory", ("cost", *map(title, SELECTORS), "PyTorch / TensorFlow"), rows)


def at_length(folder: str) -> str:
    """One sentence on the comparison of a larger scan in `folder`; empty where `folder` is."""
    if not folder:
        return ""
    content = json.loads((Path(folder) / COMPARISON).read_text(encoding="utf-8"))
    scan = next(iter(content["facts"].values()))["scan"]
    values = ", ".join(f"{name} {metric(m['phase_correlation'])}" for name, m in content["metrics"].items())
    verdict = "all checks passed" if content["passed"] else "not all checks passed"
    return f"Trained at length on {scan}: phase correlations {values}; {verdict} (compare.html)."


def write_summary(folder: str | os.PathLike[str], cycles: Cycles, found: Sequence[Check], trained: str = "") -> Path:
    """Write ``phase_e_parity_summary.md``.

    Parameters
    ----------
    folder : path-like
    cycles : Cycles
    found : sequence of Check
        From :func:`checks`.
    trained : str
        One sentence on the comparison at length, where this run has one.

    Returns
    -------
    Path
    """
    return write_markdown(
        Path(folder) / SUMMARY,
        "Phase E2.D: parity of PyTorch with TensorFlow",
        f"{sum(check.passed for check in found)} of {len(found)} checks passed.",
        headline(cycles),
        checks_table(found),
        metrics_table(cycles),
        cost_table(cycles),
        *_words(cycles, found, trained),
    )


def _words(cycles: Cycles, found: Sequence[Check], trained: str) -> list[str]:
    seen = [qualitative(comparison, gridsize) for gridsize, comparison in cycles.comparisons.items()]
    gaps = "\n".join(f"- {gap}" for gap in residual_gaps(found, trained))
    return ["## Qualitative comparison", *seen, "## Residual gaps", gaps]


def summary_text(cycles: Cycles, found: Sequence[Check], trained_dir: str = "") -> Fragment:
    """What the images show, and what this evidence does not, in words."""
    paragraphs = []
    for text in _words(cycles, found, at_length(trained_dir)):
        if text.startswith("## "):
            paragraphs.append(f"<h2>{escape(text[3:])}</h2>")
        elif text.startswith("- "):
            items = "".join(f"<li>{escape(line[2:])}</li>" for line in text.splitlines())
            paragraphs.append(f"<ul>{items}</ul>")
        else:
            paragraphs.append(f"<p>{escape(text)}</p>")
    return Fragment("".join(paragraphs))


def qualitative(comparison: Comparison | None, gridsize: int) -> str:
    """What the images show, in words that follow from them."""
    if comparison is None:
        return f"Gridsize {gridsize}: a reconstruction is missing; there is nothing to see."
    gauge, agreement = comparison.agreement.gauge, comparison.agreement.values
    period = agreement["frc_resolution_px_half-bit"]
    frc = (
        "their Fourier ring correlation never falls below the half-bit threshold"
        if period is None
        else f"their Fourier ring correlation falls below half-bit at a period of {period:.1f} px"
    )
    truths = ", ".join(
        f"{title(b)} {metric(c.values['phase_correlation'])} in phase and {metric(c.values['amplitude_correlation'])} "
        "in amplitude"
        for b, c in comparison.truth.items()
    )
    return (
        f"Gridsize {gridsize}: between the two images a phase of {gauge.phase_rad:.3f} rad, a scale of "
        f"{gauge.scale:.4f} and a shift of {gauge.shift_px[0]:.3f}, {gauge.shift_px[1]:.3f} px were removed; "
        f"{100 * gauge.residual_after:.2g} % of the image then still differs ({100 * gauge.residual_before:.2g} % "
        f"before), and {frc} (agreement, not resolution). Correlation with the truth: {truths}."
    )


def residual_gaps(found: Sequence[Check], trained: str = "") -> list[str]:
    """What this evidence does not show, after whatever failed."""
    gaps = [f"{check.verdict}: {check.name} ({check.note or check.measured})" for check in found if not check.passed]
    gaps.append(
        trained
        or "Trained quality at length was not part of this run; the stage 'scan' (in the full profile) compares both "
        "backends on a larger scan."
    )
    gaps.append("One seed; how much seeds differ was not measured.")
    gaps.append(
        "Both backends ran on this machine's device only, called directly; the stage 'ptychodus' (in the full profile) "
        "runs them inside Ptychodus."
    )
    return gaps


def _passed(backend: str, gridsize: int) -> str:
    return f"full cycle ran and passed: {backend}, gridsize {gridsize}"


def _at(gridsize: int, name: str) -> str:
    return f"gridsize {gridsize}: {name}"


def _folder(backend: str, gridsize: int) -> str:
    return f"cycles/{backend}-gridsize{gridsize}"


def _property(cycles: Cycles, backend: str, gridsize: int, key: str) -> float | None:
    outcome = cycles.outcome(backend, gridsize)
    return float(outcome.properties[key]) if outcome and key in outcome.properties else None


def _ratio(cycles: Cycles, gridsize: int, key: str) -> float | None:
    values = [_property(cycles, backend, gridsize, key) for backend in ("pytorch", "tensorflow")]
    return values[0] / values[1] if values[0] is not None and values[1] else None
