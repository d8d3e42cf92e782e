"""Seeded faults: how one is put in place and taken out again, and the score. The whole catalogue: test_quick_run.py."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.errors import ConfigError
from ptyint.images import metrics
from ptyint.parity.faults import catalogue, figures, injection
from ptyint.parity.faults.campaign import NO_FALSE_ALARM, PLACES, Score, check_names, chosen, skipped_test
from ptyint.parity.faults.catalogue import CATALOGUE, LISTED, OWN, Fault
from ptyint.parity.faults.trial import CONTROL, Limit, Outcome
from ptyint.parity.results import RUNGS

ROOT = Path(__file__).parents[1]


# --- how a fault is put in place ---


def test_a_fault_is_there_for_a_while_only() -> None:
    image = np.ones((8, 8))
    right = metrics.psnr(image + 0.1, image, data_range=1.0)
    with CATALOGUE["F19"].applied():
        assert metrics.psnr(image + 0.1, image, data_range=1.0) == pytest.approx(right + 20 * math.log10(255))
    assert metrics.psnr(image + 0.1, image, data_range=1.0) == right


def test_what_was_replaced_comes_back_after_an_error() -> None:
    before = metrics.psnr
    with pytest.raises(ZeroDivisionError), injection.wrapped("ptyint.images.metrics", "psnr", lambda f, *a, **k: 1 / 0):
        metrics.psnr(np.ones((4, 4)), np.ones((4, 4)), data_range=1.0)
    assert metrics.psnr is before


def test_the_source_of_what_was_replaced_is_that_of_the_replacement() -> None:
    """The notebook shows it: what a reader sees in place is what is called."""
    assert "255.0" not in inspect.getsource(metrics.psnr)
    with CATALOGUE["F19"].applied():
        assert "data_range=255.0" in inspect.getsource(metrics.psnr)


def test_a_seam_that_is_no_more_is_an_error() -> None:
    with pytest.raises(AttributeError), injection.constant("ptyint.images.metrics.no_such_metric", None)():
        pass


def test_every_fault_is_taken_out_again() -> None:
    """In a process of its own, which loads the framework: after each fault the module is what it was."""
    code = """
import inspect
from ptyint.backends import pytorch
from ptyint.parity.faults.catalogue import CATALOGUE, SIZED
from ptyint import config, dispatcher
from ptyint.backends import bundle
from ptyint.images import metrics
from ptyint.scans import npz

def state():
    owners = [pytorch, pytorch.PtychoNet, pytorch.TorchNetwork, pytorch.PyTorchBackend, pytorch.F, bundle, metrics,
              dispatcher, config.TrainingConfig, config.InferenceConfig, npz.SquaredAmplitudes]
    activations = {name: id(one) for name, one in pytorch.ACTIVATIONS.items()}
    return [activations] + [{name: id(inspect.getattr_static(one, name)) for name in vars(one)} for one in owners]

before = state()
for fault in CATALOGUE.values():
    with fault.applied():
        assert state() != before, fault.id
    assert state() == before, fault.id
for fault in SIZED:
    with fault.applied(0.5)():
        assert state() != before, fault.title
    assert state() == before, fault.title
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_production_modules_know_no_fault() -> None:
    """Only the fault machinery itself imports it."""
    faults, stages = ROOT / "ptyint" / "parity" / "faults", ROOT / "ptyint" / "stages"
    for path in (ROOT / "ptyint").rglob("*.py"):
        if faults not in path.parents and stages not in path.parents:
            text = path.read_text()
            assert "parity.faults" not in text and "parity import faults" not in text, path
    assert "campaign" in (stages / "__init__.py").read_text()


# --- the catalogue ---


def test_the_catalogue_is_complete_and_says_where_it_comes_from() -> None:
    assert [fault.id for fault in LISTED] == [f"F{i:02}" for i in range(1, 22) if i != 20]
    assert catalogue.EVIDENCE == "F20" and len(OWN) >= 10
    assert len(CATALOGUE) == len(LISTED) + len(OWN)
    for fault in CATALOGUE.values():
        assert fault.rung in RUNGS and fault.tap is not None and fault.title and fault.upstream
        assert fault.upstream.startswith("own") == (fault in OWN)


def test_expectations_are_those_on_record() -> None:
    """First red rung of each listed fault, as the record has it; where it leaves a choice, any of them."""
    expected = {
        "F01": "operator", "F02": "operator", "F03": "operator", "F04": "forward", "F05": "contract",
        "F06": "gradient or step", "F07": "operator or forward", "F08": "forward", "F09": "operator",
        "F10": "operator", "F11": "loss", "F12": "persistence", "F13": "persistence", "F14": "step",
        "F15": "contract", "F16": "contract", "F17": "operator or forward", "F18": "forward", "F19": "contract",
    }  # fmt: skip
    for id, rungs in expected.items():
        assert CATALOGUE[id].rung in rungs, id


def test_an_unknown_id_is_an_error() -> None:
    assert [fault.id for fault in chosen("F01, P03")] == ["F01", "P03"] and len(chosen()) == len(CATALOGUE)
    with pytest.raises(ConfigError, match="'F99'"):
        chosen("F01, F99")


# --- the score ---


def some(id: str, rung: str, tap: str = "tap") -> Fault:
    return Fault(id, f"fault {id}", rung, tap, catalogue.CATALOGUE["F01"].applied)


def scored(**fields: Any) -> Score:
    outcomes = {
        "A": Outcome("A", "operator", "tap one", "tap one, case", 5.0),
        "B": Outcome("B", "forward", "elsewhere", "elsewhere, case", 2.0),
        "C": Outcome("C"),
        CONTROL: Outcome(CONTROL),
    }
    one = Score((some("A", "operator"), some("B", "operator"), some("C", "step")), outcomes, (), 1e-3, "not run", ())
    return replace(one, **fields)


def test_caught_in_the_right_place_elsewhere_and_not_at_all() -> None:
    one = scored()
    assert one.n_seeded == 4 and one.n_right == 2 and one.uncaught == ["C fault C"]
    assert one.weakest is not None and one.weakest.id == "B"
    assert one.sentence == (
        "3 of 4 seeded faults were caught, 2 of them at the expected rung and tap; the weakest catch, B, lies 2 times "
        "over its tolerance. Not caught: C fault C."
    )
    verdicts = {check.name: check.verdict for check in one.checks()}
    assert verdicts["A is caught: fault A"] == "pass" and verdicts["C is caught: fault C"] == "fail"
    assert verdicts[NO_FALSE_ALARM] == "pass" and verdicts[PLACES] == "fail"


def test_a_false_alarm_and_what_was_not_tried_are_not_green() -> None:
    alarmed = scored(outcomes={CONTROL: Outcome(CONTROL, "forward", "tap", "tap", 1.1)})
    verdicts = {check.name: check.verdict for check in alarmed.checks()}
    assert verdicts[NO_FALSE_ALARM] == "fail" and verdicts["A is caught: fault A"] == "not run"
    nothing = scored(outcomes={}, evidence="")
    assert "pass" not in {check.verdict for check in nothing.checks()}
    assert "A fault A" in nothing.sentence


@pytest.mark.parametrize(
    ("evidence", "verdict"), [("not run", "pass"), ("fail", "pass"), ("pass", "fail"), ("", "not run")]
)
def test_a_green_page_on_a_skipped_test_is_an_uncaught_fault(evidence: str, verdict: str) -> None:
    one = scored(evidence=evidence)
    assert next(check for check in one.checks() if check.name.startswith("F20")).verdict == verdict
    assert any(words.startswith("F20") for words in one.uncaught) == (verdict != "pass")


def test_checks_are_those_that_were_declared() -> None:
    everything = Score(tuple(CATALOGUE.values()), {}, (), math.nan, "", ())
    assert [check.name for check in everything.checks()] == check_names()
    assert len(check_names("F01")) == 4


def test_the_evidence_engine_is_not_fooled_by_a_skipped_test() -> None:
    assert skipped_test() == "not run"


def test_the_score_shows_uncaught_faults_in_words_and_sign() -> None:
    limit = Limit("something moved", "px", "operator", 1e-9, 2e-3)
    one = scored(limits=(limit, replace(limit, size=math.nan, change=math.nan)))
    html = figures.faults_table(one).html
    assert "✗ not caught" in html and "✓ caught, elsewhere" in html
    limits = figures.limits_table(one).html
    assert "1e-09 px" in limits and "more than rounding" in limits and "not caught at 1" in limits
    picture = figures.picture(one)
    assert "Not caught: C fault C" in picture.alt and picture.png()
    record = figures.headline(one).record
    assert record is not None and record.compared == one.sentence and len(record.numbers) == 3
