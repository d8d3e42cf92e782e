"""Seeded faults: how one is put in place and taken out again, and the score. The whole catalogue: test_quick_run.py."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ptyint.errors import ConfigError
from ptyint.images import metrics
from ptyint.parity.faults import campaign, injection
from ptyint.parity.faults.campaign import Campaign
from ptyint.parity.faults.catalogue import BUILT_IN, CATALOGUE, EVIDENCE, LISTED, OWN
from ptyint.parity.faults.fault import GROUP, Fault, catalogue_of
from ptyint.parity.faults.trial import CONTROL, Limit, Outcome
from ptyint.parity.rungs import RUNGS
from ptyint.stages import faults, jobs_of
from ptyint.stages.faults import NO_FALSE_ALARM, PLACES, SCORE, UNCHANGED, checks, criteria, skipped_test
from ptyint.stages.request import Request

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


def test_one_fault_alone_on_the_rung_of_operators(tmp_path: Path) -> None:
    """As the docs have it: no reference is needed, one's own fault is as good as the catalogue's, and none is none."""
    code = """
import sys
from ptyint.parity.faults.trial import Trial
from ptyint.parity.faults.catalogue import CATALOGUE
from ptyint.parity.faults.injection import function

def refuses(original, *given):
    raise NotImplementedError("not for this type")

half = function("phase_head", lambda original, x: original(x) / 2)
no_more = function("propagate", refuses)  # what the candidate offers is not excused by saying that it does not
for applied, tap in ((half, "phase_head"), (CATALOGUE["F03"].applied, "merge_patches"), (no_more, "propagate")):
    divergence = Trial(sys.argv[1], applied).climb(["operator"]).divergence
    assert divergence.finding.tap == tap and "pytorch" in divergence.sentence, divergence
fault_free = Trial(sys.argv[1]).climb(["operator"])
assert fault_free.divergence is None and len(fault_free.findings) > 50
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_no_network_outlives_its_fault() -> None:
    """A backend keeps the network of its last inference, and what was built under a fault is faulty for good."""
    code = """
import numpy as np
from ptyint import backends
from ptyint.backends.weights import initial_weights
from ptyint.config import InferenceConfig, ModelConfig
from ptyint.parity.faults.injection import after_init
from ptyint.parity.faults.trial import under
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

scan, config = load_fixture("tiny-64"), InferenceConfig(ModelConfig(n_filters_scale=1), batch_size=4)
data, weights = GroupedScan.from_config(scan, config), initial_weights(config.model, scan.probe, 0)
backend = backends.load("pytorch")
dark = after_init("TorchNetwork", lambda network: setattr(network, "predict", lambda batch: 0 * batch.inputs))
right = backend.infer(data, weights, config)
with under(dark):
    assert not backend.infer(data, weights, config).any()
assert np.array_equal(backend.infer(data, weights, config), right)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_production_modules_know_no_fault() -> None:
    """Only the fault machinery itself imports it."""
    faults, stages = ROOT / "ptyint" / "parity" / "faults", ROOT / "ptyint" / "stages"
    for path in (ROOT / "ptyint").rglob("*.py"):
        if faults not in path.parents and stages not in path.parents:
            text = path.read_text()
            assert "parity.faults" not in text and "parity import faults" not in text, path
    assert "campaign" in (stages / "faults.py").read_text()


# --- the catalogue ---


def test_the_catalogue_is_complete_and_says_where_it_comes_from() -> None:
    assert [fault.id for fault in LISTED] == [f"F{i:02}" for i in range(1, 22) if i != 20]
    assert EVIDENCE.id == "F20" and len(OWN) >= 10
    assert len(CATALOGUE) == len(LISTED) + len(OWN)
    for fault in CATALOGUE.values():
        assert fault.rung in RUNGS and fault.title and fault.upstream and (fault.tap or fault.rung == "gradient")
        assert fault.upstream.startswith("own") == (fault in OWN)


def test_a_candidate_brings_its_own_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in one, PtychoPINN's, and that of another package, by an entry point; no other."""
    theirs = catalogue_of("ptychopinn-pytorch")
    assert catalogue_of("pytorch") is BUILT_IN and len({fault.id for fault in theirs.faults}) == len(theirs.faults) > 20
    assert {fault.rung for fault in theirs.faults} == {"operator", "forward", "gradient", "step"}
    with pytest.raises(ConfigError, match="No faults are known of 'mine'; they are of"):
        catalogue_of("mine")
    brought = EntryPoint("mine", "ptyint.parity.faults.ptychopinn:FAULTS", GROUP)
    monkeypatch.setattr("ptyint.parity.faults.fault.metadata.entry_points", lambda group: [brought])
    assert catalogue_of("mine") is theirs


def test_the_stage_takes_any_candidate_that_has_a_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptyint.stages.request.describe", lambda names: {name: {} for name in names})  # installed
    (job,) = jobs_of(Request(("faults",), parameters={"candidate": "ptychopinn-pytorch", "faults": "U01"}))
    assert job.notebook == "outside_faults" and [one.name for one in job.expects][1].startswith("U01 is caught: ")
    assert job.parameters == {"candidate": "ptychopinn-pytorch", "faults": "U01"} and not job.needs
    for parameters, words in (
        ({"candidate": "numpy"}, "No faults are known of 'numpy'"),
        ({"candidate": "ptychopinn-pytorch", "reference": "ptychopinn-pytorch"}, "are both 'ptychopinn-pytorch'"),
        ({"candidate": "ptychopinn-pytorch", "faults": "F01"}, "No fault has the id 'F01'. Did you mean 'U01'"),
    ):
        with pytest.raises(ConfigError, match=words):
            jobs_of(Request(("faults",), parameters=parameters))


def test_expectations_are_those_on_record() -> None:
    """First red rung of each listed fault, as the record has it; where it leaves a choice, any of them."""
    expected = {
        "F01": "operator", "F02": "operator", "F03": "operator", "F04": "forward", "F05": "contract",
        "F06": "gradient or step", "F07": "operator or forward", "F08": "forward", "F09": "operator",
        "F10": "operator", "F11": "loss", "F12": "contract or persistence",
        "F13": "contract or persistence", "F14": "step",
        "F15": "contract", "F16": "contract", "F17": "operator or forward", "F18": "forward", "F19": "contract",
    }  # fmt: skip
    for id, rungs in expected.items():
        assert CATALOGUE[id].rung in rungs, id


def test_an_unknown_id_is_an_error() -> None:
    assert [fault.id for fault in BUILT_IN.chosen("F01, P03")] == ["F01", "P03"]
    assert BUILT_IN.chosen() == (*CATALOGUE.values(), EVIDENCE)
    with pytest.raises(ConfigError, match="'F99'"):
        BUILT_IN.chosen("F01, F99")


# --- the score ---


def some(id: str, rung: str, tap: str = "tap one") -> Fault:
    return Fault(id, f"fault {id}", rung, tap, CATALOGUE["F01"].applied)


def scored(**fields: Any) -> Campaign:
    outcomes = {
        "A": Outcome("A", "operator", "", "float32", "tap one", "random", place="tap one, random, float32", ratio=5.0),
        "B": Outcome("B", "forward", "case", "float64", "elsewhere", place="elsewhere, case, float64", ratio=2.0),
        "C": Outcome("C"),
        CONTROL: Outcome(CONTROL),
        EVIDENCE.id: Outcome(EVIDENCE.id, "evidence", place="verdict: not run", ratio=math.nan),
    }
    faults = (some("A", "operator"), some("B", "operator"), some("C", "step"), EVIDENCE)
    return replace(Campaign(faults, outcomes, rounding=1e-3), **fields)


def verdicts(one: Campaign) -> dict[str, str]:
    return {check.name: check.verdict for check in checks(one)}


def test_caught_in_the_right_place_elsewhere_and_not_at_all() -> None:
    one = scored()
    assert list(one.outcomes["right"]) == [True, False, False, True]
    assert list(one.outcomes["caught"]) == [True, True, False, True]
    assert one.weakest is not None and one.weakest.id == "B"
    assert one.sentence == (
        "3 of 4 seeded faults were caught, 2 of them at the expected rung and tap; the weakest catch, B, lies 2 times "
        "over its tolerance. Not caught: C fault C."
    )
    found = verdicts(one)
    assert found["A is caught: fault A"] == "pass" and found["C is caught: fault C"] == "fail"
    assert found[NO_FALSE_ALARM.name] == "pass" and found[PLACES.name] == "fail"
    notes = {check.name: check.note for check in checks(one)}
    assert notes["A is caught: fault A"] == "rung operator, tap one, random, float32"


def test_the_tap_counts_to_the_letter_and_the_operand_where_it_matters() -> None:
    """Another layer that begins alike is another place."""
    seen = Outcome("A", "forward", tap="conv1.relu", operand="random")
    assert not seen.at_the_right_place(some("A", "forward", "conv1"))
    assert seen.at_the_right_place(some("A", "forward", "conv1.relu"))
    assert seen.at_the_right_place(some("A", "forward", "")) and not seen.at_the_right_place(some("A", "loss", ""))
    assert not seen.at_the_right_place(replace(some("A", "forward", "conv1.relu"), operand="impulse"))


def test_a_false_alarm_and_what_was_not_tried_are_not_green() -> None:
    alarmed = scored(tried={CONTROL: Outcome(CONTROL, "forward", tap="tap", place="tap", ratio=1.1)})
    found = verdicts(alarmed)
    assert found[NO_FALSE_ALARM.name] == "fail" and found["A is caught: fault A"] == "not run"
    nothing = scored(tried={})
    assert "pass" not in verdicts(nothing).values()
    assert "A fault A" in nothing.sentence and nothing.weakest is None


@pytest.mark.parametrize(
    ("evidence", "verdict"), [("not run", "pass"), ("fail", "pass"), ("pass", "fail"), ("", "not run")]
)
def test_a_green_page_on_a_skipped_test_is_an_uncaught_fault(
    evidence: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "captured", lambda *given: nullcontext((tmp_path, [])))
    monkeypatch.setattr(campaign, "_tried", lambda *given: {})
    one = campaign.run(tmp_path, EVIDENCE.id, evidence=evidence)
    assert verdicts(one)["F20 is caught: the test is skipped, and its log says green"] == verdict
    assert (EVIDENCE.title in one.sentence) == (verdict != "pass")


def test_checks_are_those_that_were_declared() -> None:
    everything = Campaign(BUILT_IN.faults, {})
    declared = [(one.name, one.relation, one.bound) for one in criteria()]
    assert [(check.name, check.relation, check.bound) for check in checks(everything)] == declared
    assert len(criteria(BUILT_IN.chosen("F01"))) == 3


def test_the_evidence_engine_is_not_fooled_by_a_skipped_test() -> None:
    assert skipped_test() == "not run"


def test_the_file_keeps_every_key_as_a_field_and_what_is_not_finite(tmp_path: Path) -> None:
    limits = (Limit("something moved", "px", "operator", 1e-9, 2e-3), Limit("more", "px", "step", math.nan, math.nan))
    outcomes = {**scored().tried, "B": Outcome("B", "step", tap="optimiser", operand="probe", step=2, ratio=math.inf)}
    scored(tried=outcomes, limits=limits).save(tmp_path / campaign.NAME)
    values = json.loads((tmp_path / campaign.NAME).read_text())
    frame = pd.DataFrame(values["outcomes"]).set_index("id")
    assert list(frame.index) == ["A", "B", "C", "F20"] and frame.loc["A", "operand"] == "random"
    assert frame.loc["B", ["step", "ratio", "expected"]].tolist() == [2, "inf", "operator"]
    assert [one["size"] for one in values["limits"]] == [1e-9, "nan"]


def test_the_figure_draws_every_fault_also_that_of_the_evidence_engine() -> None:
    """In a process of its own: the notebook's imports load a framework."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from cells import run_cell
from ptyint.parity.faults.campaign import Campaign
from ptyint.parity.faults.catalogue import BUILT_IN, CATALOGUE, EVIDENCE
from ptyint.parity.faults.trial import Outcome

faults = BUILT_IN.faults
done = Campaign(faults, {{one.id: Outcome(one.id, one.rung) for one in faults[1:]}})
outcomes = done.outcomes
picture = run_cell("sensitivity", "figure = Figure(", done=done, outcomes=outcomes, caught=outcomes["rung"] != "")
labels = [text.get_text() for ax in picture.figure.axes for text in ax.get_yticklabels()]
assert {{label.split()[0] for label in labels}} == {{*CATALOGUE, EVIDENCE.id}} and len(labels) == len(CATALOGUE) + 1
marks = [(line.get_label(), len(line.get_xdata())) for ax in picture.figure.axes for line in ax.lines]
drawn = [n for label, n in marks if label.startswith("not caught")]
assert sum(n for label, n in marks if label != "expected rung") == len(labels) and sum(drawn) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the sample of mutants ---


def test_the_full_profile_declares_a_sample_of_mutants_and_the_quick_one_none() -> None:
    (quick,), (full,) = (jobs_of(Request(("faults",), profile=profile)) for profile in ("quick", "full"))
    assert (quick.parameters, full.parameters) == ({"n_mutants": 0}, {"n_mutants": 60})
    assert full.expects == (*quick.expects, UNCHANGED, SCORE) and (SCORE.relation, SCORE.bound) == (">=", 0.9)
    assert set(full.artifacts) - set(quick.artifacts) == {"mutants.json"}
    (asked,) = jobs_of(Request(("faults",), parameters={"n_mutants": 7, "mutants_seed": 3}))
    assert asked.parameters == {"n_mutants": 7, "mutants_seed": 3} and asked.expects == full.expects
    (none,) = jobs_of(Request(("faults",), profile="full", parameters={"faults.n_mutants": 0}))
    assert none.expects == quick.expects


def test_without_cosmic_ray_a_sample_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "find_spec", lambda name: None)
    assert jobs_of(Request(("faults",)))
    with pytest.raises(ConfigError, match=r"pip install cosmic-ray, or try none: -p n_mutants 0"):
        jobs_of(Request(("faults",), profile="full"))
