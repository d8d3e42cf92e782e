"""What the notebooks of a comparison show of reconstructions made by hand: numbers, words, and what is not green."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import failed, record_of, run_cells, table_of
from reconstructions import make

from ptyint.evidence.display import Picture
from ptyint.evidence.pytest_runs import AS_IS, Outcome, TestRun
from ptyint.images.comparison import NAME, Comparison, Criteria, compare
from ptyint.images.reconstruction import Reconstruction
from ptyint.stages import full_cycle
from ptyint.stages.full_cycle import Cycles


def compared(folder: Path, reference: Reconstruction, candidate: Reconstruction, **parameters: Any) -> list[Any]:
    """What ``compare.ipynb`` displays."""
    sides = {}
    for side, one in (("reference_dir", reference), ("candidate_dir", candidate)):
        (folder / side).mkdir()
        one.save(folder / side)
        sides[side] = str(folder / side)
    return run_cells("compare", **sides, output_dir=str(folder), **parameters)


def test_the_page_of_two_alike_is_green_and_says_what_was_shared(tmp_path: Path) -> None:
    reference, candidate = make("tensorflow", noise=0.02), make("pytorch", noise=0.03)
    shown = compared(tmp_path, reference, candidate)
    record = record_of(shown)
    assert not failed(record.checks) and "same groups" in record.compared and "No truth" not in record.compared
    assert list(record.numbers)[:3] == [
        "phase correlation with the truth, TensorFlow",
        "phase correlation with the truth, PyTorch",
        "phase correlation of the backends",
    ]
    assert all(re.search(r"\d", one.alt) for one in shown if isinstance(one, Picture))
    expected = json.dumps(compare(reference, candidate).to_mapping())
    assert json.loads((tmp_path / NAME).read_text()) == json.loads(expected)


def test_the_cells_by_hand_measure_what_compare_measures(tmp_path: Path) -> None:
    reference, candidate = make("tensorflow", noise=0.02), make("pytorch", noise=0.3, factor=1.5)
    shown = compared(tmp_path, reference, candidate, max_scale_difference=0.05)
    expected = compare(reference, candidate, Criteria(max_scale_difference=0.05))
    assert record_of(shown).checks == tuple(expected.checks)
    metrics = {row[0]: row[1:] for row in table_of(shown, "Metrics after gauge removal").rows}
    values = [*expected.truth.values(), expected.agreement]
    assert metrics["phase correlation"] == tuple(f"{one.values['phase_correlation']:.4g}" for one in values)
    removed = {row[0]: row[3] for row in table_of(shown, "Gauge removed").rows}
    assert removed["amplitude scale"] == f"{expected.agreement.gauge.scale:.4f}"
    periods = table_of(shown, "Period where the ring correlation falls below a threshold / px")
    half_bit = expected.truth["pytorch"].frc.resolution_px("half-bit")
    assert periods.rows[-1][0] == "half-bit" and periods.rows[-1][2] == f"{half_bit:.1f}"


def test_the_page_without_truth_says_so_and_names_only_what_is_shared(tmp_path: Path) -> None:
    pair = make("tensorflow", truth=False), make("pytorch", truth=False, groups_sha256="x")
    shown = compared(tmp_path, *pair)
    record = record_of(shown)
    assert "No truth is known" in record.compared
    assert "same scan" in record.compared and "same groups" not in record.compared
    assert failed(record.checks) == ["same groups"]
    assert table_of(shown, "Metrics after gauge removal").heads == ("metric", "PyTorch vs TensorFlow")
    assert "never crosses" in table_of(shown, "Period where the ring correlation falls below a threshold / px").html


def test_what_a_page_shows_is_escaped(tmp_path: Path) -> None:
    evil = make("tensorflow", ended="<script>alert(1)</script>")
    html = table_of(compared(tmp_path, evil, make("pytorch")), "Time and memory").html
    assert "<script>" not in html and "&lt;script&gt;" in html


COSTS = (
    *("cycle_seconds", "startup_seconds", "training_seconds", "inference_seconds"),
    *("training_peak_memory_bytes", "inference_peak_memory_bytes"),
)
"""Numbers that each test of a cycle records."""


def cycles(folder: Path, comparisons: dict[int, Comparison | str], skipped: str = "") -> Cycles:
    """What a run of both cycles comes to; `skipped` is a backend whose tests did not run."""
    log = folder / "log"
    log.write_text("=== state: as is\n1 passed\n")
    runs = {}
    for number, (backend, selector) in enumerate(full_cycle.SELECTORS.items(), 1):
        costs = dict.fromkeys(COSTS, str(number * 2**30))
        ids = [f"{selector[0]}::test_full_cycle[gridsize{gridsize}]" for gridsize in full_cycle.GRIDSIZES]
        outcome = Outcome("", "skipped", "no torch") if backend == skipped else Outcome("", "passed", properties=costs)
        outcomes = {one: replace(outcome, id=one) for one in ids}
        runs[backend] = TestRun(AS_IS, ("pytest", backend), 0, "", "", log, outcomes)
    return Cycles(runs, comparisons, Criteria())


def test_the_parity_page_has_metrics_costs_words_and_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compare(make("tensorflow", noise=0.02), make("pytorch", noise=0.03))
    monkeypatch.setattr(full_cycle, "run_cycles", lambda *_: cycles(tmp_path, {1: one, 2: one}))
    one.save(tmp_path)
    shown = run_cells("e2d_parity", trained_dir=str(tmp_path))
    record = record_of(shown)
    assert [check.name for check in record.checks] == [criterion.name for criterion in full_cycle.criteria()]
    assert not failed(record.checks) and record.numbers["time of a cycle, PyTorch over TensorFlow"] == 2
    assert record.datasets == {"made by hand": "a"} and len(record.commands) == 2
    costs = table_of(shown, "Runtime and memory")
    assert len(costs.rows) == 12 and costs.rows[4] == (
        "gridsize 1: peak memory in training / GiB",
        "1.00",
        "2.00",
        "2.00",
    )
    assert len(table_of(shown, "Metrics after gauge removal").heads) == 7
    text = "\n".join(getattr(part, "markdown", "") for part in shown)
    assert "Gridsize 2: between the two images a phase of" in text
    assert re.search(r"Trained for \d+ epochs on made by hand: phase correlations tensorflow vs truth 0\.99", text)
    assert "; all checks passed." in text and "One seed" in text


def test_a_skipped_cycle_is_not_run_and_stands_among_the_gaps(tmp_path: Path) -> None:
    one = compare(make("tensorflow"), make("pytorch", noise=2.0))
    parity = cycles(tmp_path, {1: one, 2: full_cycle.MISSING}, skipped="pytorch")
    verdicts = {check.name: check.verdict for check in parity.checks()}
    assert list(verdicts) == [criterion.name for criterion in full_cycle.criteria()]
    assert [verdicts[f"full cycle ran and passed: pytorch, gridsize {n}"] for n in (1, 2)] == ["not run"] * 2
    assert verdicts["full cycle ran and passed: tensorflow, gridsize 1"] == "pass"
    assert {verdict for name, verdict in verdicts.items() if name.startswith("gridsize 2")} == {"not run"}
    assert verdicts["gridsize 1: phase correlation of the two backends"] == "fail"


def test_costs_that_a_skipped_cycle_did_not_record_are_dashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compare(make("tensorflow"), make("pytorch"))
    monkeypatch.setattr(full_cycle, "run_cycles", lambda *_: cycles(tmp_path, {1: one, 2: one}, skipped="pytorch"))
    shown = run_cells("e2d_parity")
    assert all(row[2:] == ("-", "-") and row[1] != "-" for row in table_of(shown, "Runtime and memory").rows)
    assert math.isnan(record_of(shown).numbers["time of a cycle, PyTorch over TensorFlow"])
