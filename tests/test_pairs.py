"""What a backend does not offer: its own verdict, its own count, never a pass, and said so."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cells import run_cell

from ptyint.evidence.checks import SIGNS, VERDICTS, Check, worst
from ptyint.evidence.display import VERDICT_CELLS, Table, checks_table
from ptyint.evidence.record import Record
from ptyint.parity import operands, reproducers
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import Finding, Place
from ptyint.parity.problems import Network, Plan, Problems
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import RUNGS, cost, forward, operator, workflow
from ptyint.parity.rungs.rung import Measured
from ptyint.parity.tolerances import PRECISIONS

PAIR = ("mine", "yours")
SOME = Offer(
    frozenset({"operators"}), ("float32",), dict.fromkeys(("propagate", "translate", "translate [fast=True]"), "")
)
OFFERS = dict.fromkeys(PAIR, SOME)
LACKING = ("forward", "loss", "gradient", "step", "persistence")


def finding(rung: str, ratio: float = 0.1, **fields: object) -> Finding:
    one = Finding(rung, "case", "float32", "tap", "", None, "yours", "mine", 1e-7 * ratio, 1e-7, ratio)
    return replace(one, **fields)  # type: ignore[arg-type]


def ladder(*findings: Finding) -> Ladder:
    nothing = measured({})
    missing = [f for rung in LACKING for f in RUNGS[rung].judge(nothing, Problems())]
    return Ladder(*PAIR, "quick", (*findings, *missing))


def measured(captures: dict[str, Any], offers: dict[str, Offer] | None = None) -> Measured:
    """Arrays by capture and side."""
    return Measured(offers or OFFERS, lambda side, capture, part: captures.get(capture, {}).get(side, {}))


# --- the verdict ---


def test_what_is_not_available_never_passes_and_a_failure_stays_one() -> None:
    assert Check("a", None, available=False).verdict == "not available"
    assert Check("a", 0.0, "<=", available=False).verdict == "not available"
    assert Check("a", 2.0, "<=", available=False).verdict == "fail"
    assert Check("a", float("nan"), "<=", available=False).verdict == "fail"
    assert not Check("a", 0.0, "<=", available=False).passed


def test_it_is_worse_than_a_pass_and_has_a_sign_of_its_own() -> None:
    assert worst(["pass", "not available", "underpowered"]) == "not available"
    assert worst(["not available", "fail"]) == "fail" and worst(["not available", "not run"]) == "not run"
    assert len(set(SIGNS.values())) == len(VERDICTS)
    assert VERDICT_CELLS["⊘ not available"] == "not-available"


def test_it_survives_json_and_older_manifests_read_as_before() -> None:
    one = Check("a", None, note="why", available=False)
    assert Record.from_mapping({"checks": [json.loads(json.dumps(one.to_mapping()))]}).checks == (one,)
    assert "available" not in Check("a", 1.0).to_mapping()


def test_a_run_with_it_is_no_pass() -> None:
    checks = [Check("a", 1.0), Check("b", None, available=False)]
    assert worst(check.verdict for check in checks) == "not available"
    html = checks_table([Check("b", None, available=False)]).html
    assert 'class="not-available"' in html


# --- the ladder ---


def test_rungs_that_cannot_be_served_are_not_available() -> None:
    one = ladder(finding("operator"))
    verdicts = {rung: one.rung(rung).verdict for rung in one.rungs}
    assert {verdicts[rung] for rung in ("forward", "loss", "gradient", "step", "persistence")} == {"not available"}
    assert one.divergence is None and not any(check.passed for check in one.checks() if "step" in check.name)


def test_a_red_operator_is_a_failure_beside_what_is_not_available() -> None:
    where = Place("operator", "", "float32", "upsample")
    missing = Finding.unavailable(where, ("mine", "referee"), "mine does not offer it")
    one = ladder(finding("operator", 3.0, against="referee"), finding("operator", 2.0), missing)
    check = next(check for check in one.checks() if check.name.startswith("operator, float32"))
    assert check.verdict == "fail" and "1 not available (upsample: mine does not offer it)" in check.note
    assert one.divergence is not None and one.divergence.finding.against == "mine"  # the pair before the referee


def test_the_summary_says_what_is_supported_and_what_is_not() -> None:
    one = ladder(finding("contract"), finding("operator", 3.0))
    climb = SimpleNamespace(disagreements=(), commands=(), datasets={})
    names = {"ladder": one, "climb": climb, "plan": Plan(), "reference": one.reference, "candidate": one.candidate}
    page = run_cell("ladder", "Claims that the evidence supports", **names)
    words = page.record.compared
    assert "Claims that the evidence supports: contract;" in words and "contradicts: operator" in words
    assert "cannot speak of (not available): forward, loss, gradient, step, persistence" in words
    assert page.record.numbers["comparisons not available"] == 9 and "nan" not in page.html
    assert "⊘ not available" in Table.of(one.overview, "The ladder").html
    assert [row.note for row in one.rung("step").unavailable] == ["mine and yours do not offer trace"] * 2
    assert len(one.rung("step").unavailable) == 2 and one.rung("step").worst() is None


def test_what_neither_side_offers_is_said_once() -> None:
    rows = [
        Finding.unavailable(Place("operator", "", "float32", tap), (side, "referee"), f"{side} does not offer them")
        for side in PAIR
        for tap in ("upsample", "propagate")
    ]
    one = ladder(finding("operator"), *rows)
    check = next(check for check in one.checks() if check.name.startswith("operator, float32"))
    assert "4 not available (upsample, propagate: mine and yours do not offer them)" in check.note


def test_the_page_of_a_pair_from_outside_opens_with_what_a_reconstruction_hangs_on() -> None:
    """The largest consequence in default settings first; where the ladder parts first comes below."""
    known = {"where": "file.py: function", "repair": "", "words": "", "places": ["forward, tap"], "script": ""}
    apart = [
        {**known, "mechanism": "One merges, the other does not.", "patches": 0.25, "angle": 30.0, "default": True},
        {**known, "mechanism": "One has a mask.", "patches": "nan", "angle": "nan", "default": False},
    ]
    words = reproducers.headline(apart)
    assert words.startswith("In default settings they disagree in 1 things, in others in 1 more.")
    assert "1. One merges, the other does not. Put into the reference alone: object patches change by 0.25" in words
    assert "gradient turns by 30°" in words and "mask" not in words
    one = ladder(finding("contract", 3.0), finding("operator", 3.0))
    climb = SimpleNamespace(disagreements=apart, commands=(), datasets={})
    names = {"ladder": one, "climb": climb, "plan": Plan(), "reference": one.reference, "candidate": one.candidate}
    page = run_cell("ladder", "Claims that the evidence supports", **names)
    assert words in page.record.compared and "part on rung" not in page.record.compared
    assert "The backends part on rung 0 (contract)" in page.html
    assert next(iter(page.record.numbers)) == "disagreements in default settings"


def traced(rung: str) -> tuple[list[Finding], list[Finding], Finding]:
    """Findings of a pair's own networks, of the usual ones, and one that differs by design."""
    own = [finding(rung, 3.0, case=f"N 64, gridsize {n}, as shipped") for n in (1, 2)]
    usual = [finding(rung, case=f"gridsize {n}", precision=precision) for n in (1, 2) for precision in PRECISIONS]
    return own, usual, finding(rung, 0.0, case=own[0].case, tap="region", tolerance=0.0, note="by design")


def picture_of(rung: str, words: str, *rows: Finding) -> Any:
    climbed = {rung: ladder(*rows).rung(rung)}
    return run_cell("ladder", words, reference="mine", candidate="yours", profile="quick", **climbed)


def test_the_picture_of_taps_shows_networks_that_were_traced_and_no_others() -> None:
    """A pair that is watched has networks of its own."""
    own, usual, by_design = traced("forward")
    for rows, titles in ((own, [row.case for row in own]), (usual, ["gridsize 2", "gridsize 1"])):
        picture = picture_of("forward", "Error of every tap", *rows, by_design)
        assert [ax.get_title() for ax in picture.figure.axes] == titles
        assert all(len(ax.lines) >= 2 and len(ax.lines[0].get_xdata()) == 1 for ax in picture.figure.axes)
        assert "nan" not in picture.alt and ("float64" in picture.alt) == (rows is usual)
    page = picture_of("forward", "Error of every tap", finding("operator"))
    assert "mine and yours do not offer trace" in page.html


def test_the_picture_of_gradients_shows_every_network_that_was_traced() -> None:
    own, usual, by_design = traced("gradient")
    for rows in (own, usual):
        picture = picture_of("gradient", "Error of every gradient", *rows, by_design)
        panels = [ax for ax in picture.figure.axes if ax.images]
        assert [ax.get_title() for ax in panels] == list(dict.fromkeys(row.precision for row in rows))
        for ax in panels:
            assert [one.get_text() for one in ax.get_xticklabels()] == list(dict.fromkeys(row.case for row in rows))
            assert len(ax.lines[0].get_xdata()) == sum(row.red for row in rows) == (2 if rows is own else 0)
        assert "nan" not in picture.alt and ("float64" in picture.alt) == (rows is usual)
    page = picture_of("gradient", "Error of every gradient", finding("operator"))
    assert "mine and yours do not offer trace" in page.html


def test_of_steps_and_short_trainings_that_there_were_not_no_picture_and_no_table() -> None:
    for case, tap, shown in (
        ("200 steps", "optimiser", True),
        ("N 64, gridsize 1, as shipped", "own optimiser", False),
    ):
        rows = [finding("step", case=case, tap=tap, step=1), finding("step", case="training, gridsize 2")][: 1 + shown]
        names = {"step": ladder(*rows).rung("step"), "profile": "quick"}
        picture, table = (
            run_cell("ladder", words, **names) for words in ("Move of each weight", "Short trainings and")
        )
        assert hasattr(picture, "figure") == hasattr(table, "rows") == shown
        assert not shown or ("200 steps" in picture.alt and [row[0] for row in table.rows] == ["gridsize 2"])


def test_the_table_of_networks_lists_those_that_were_traced() -> None:
    for case, told in (("gridsize 2", "Networks that are traced"), ("N 64, gridsize 1, as shipped", "pair's own")):
        climbed = ladder(finding("forward", case=case)).rung("forward")
        page = run_cell("ladder", "Networks that are traced", reference="mine", profile="quick", forward=climbed)
        assert told in page.markdown and "default settings" not in page.markdown


@pytest.mark.parametrize(
    ("pair", "holds"), [(("ptychopinn-tensorflow", "ptychopinn-pytorch"), True), (("mine", "yours"), False)]
)
def test_a_tap_that_one_side_alone_shows_is_red_unless_it_is_by_design(pair: tuple[str, str], holds: bool) -> None:
    reference, candidate = pair
    network = Network("N 64, gridsize 1, equal networks, no merge", "float32")
    theirs = {tap: np.ones(3) for tap in ("phase", "inputs", "region", "encoder.0.down", "loss")}
    theirs |= {"gradient/phase": np.ones(3), "gradient/inputs": np.ones(3)}
    ours = {tap: np.ones(3) for tap in ("phase", "inputs", "loss", "predicted", "gradient/inputs")}
    both = measured({"trace": {reference: theirs, candidate: ours}}, dict.fromkeys(pair, Offer()))
    found = {row.tap: row for row in forward.one_sided("forward", network, both)}
    assert set(found) == {"region", "encoder.0.down"} and found["region"].holds == holds
    assert found["encoder.0.down"].red and found["encoder.0.down"].note == f"{candidate} does not show it"
    assert ("by design: " in found["region"].note) == holds
    assert [row.tap for row in forward.one_sided("gradient", network, both)] == ["phase"]
    assert not list(forward.one_sided("loss", network, both))
    assert not list(forward.one_sided("forward", Network("gridsize 1", "float32"), both))  # there a missing tap is red


def test_costs_that_cannot_be_measured_are_not_available() -> None:
    spent = {"import seconds": np.array(1.0), "peak memory bytes": np.array(2.0**30)}
    offers = dict.fromkeys(PAIR, replace(SOME, capabilities=frozenset({"operators", "weights"})))
    found = list(cost.judge(measured({"cost": dict.fromkeys(PAIR, spent)}, offers), Problems()))
    assert [f.available for f in found] == [False, True, True, True] and found[1].red
    assert not any("optimiser step" in name for name in cost.numbers(measured({}, offers)))


def test_a_backend_of_one_precision_leaves_the_other_not_available() -> None:
    narrow = replace(Offer(), precisions=("float64",))
    rung = RUNGS["gradient"].judge(measured({}, {"mine": narrow, "yours": Offer()}), Problems(cases=("gridsize 1",)))
    assert {f.precision for f in rung if f.available} == {"float64"} and all(f.red for f in rung if f.available)
    assert [(f.precision, f.note) for f in rung if not f.available] == [("float32", "mine does not compute in float32")]


# --- operators of which only some are offered ---


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    given = operands.everything()
    expected = operands.expected(given)
    results = {
        f"float32/{name}/{operand}": expected[operands.base_name(name), operand]
        for name in SOME.operators
        for operand in operands.named(name, given)
    }
    return {key: array.astype(operands.expected_kind(array, "float32")) for key, array in results.items()}


def judged(mine: Any, yours: Any, offers: dict[str, Offer] | None = None) -> list[Finding]:
    return list(operator.judge(measured({"operator": {"mine": mine, "yours": yours}}, offers), Problems()))


def test_variants_are_held_against_referee_and_each_other(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    wrong = {key: -a if "[fast=True]" in key else a for key, a in arrays.items()}
    plain = replace(SOME, operators=dict.fromkeys(("propagate", "translate"), ""))
    found = judged(arrays, wrong, {"mine": plain, "yours": SOME})
    red = [f for f in found if f.red]
    assert {f.tap for f in red} == {"translate [fast=True]"} and {f.side for f in red} == {"yours"}
    assert {f.against for f in red} == {"mine", "referee"}  # "mine" by its translate without the variant
    assert {f.tap for f in found if not f.available} >= {"upsample", "merge_patches", ""}


def test_refused_operands_are_not_available_and_others_are(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    key = "float32/propagate/random"
    held = {name: a for name, a in arrays.items() if name != key}
    for message, available in (("NotImplementedError: no modes", False), ("ValueError: boom", True)):
        found = judged(arrays, {**held, f"error/{key}": np.array(message)})
        here = [f for f in found if f.side == "yours" and (f.tap, f.operand) == ("propagate", "random")]
        assert here and all(f.available is available and not f.holds for f in here)
        assert all(message.endswith(f.note) for f in here)


# --- networks ---


def test_architectures_are_told_apart_by_their_kernels() -> None:
    ours = {"a": np.ones((3, 3, 1, 8)), "b": np.ones(8), "c": np.ones((3, 3, 8, 8))}
    assert workflow.layers_apart(ours, {"x": ours["c"], "y": ours["a"]}) == ""
    more = {**ours, "attention": np.ones((4, 2)), "d": np.ones((7, 7, 2, 1))}
    words = workflow.layers_apart(more, ours)
    assert "1 dense layers (attention, ...)" in words and "this one alone has 1 of 7 x 7 x 2 x 1" in words


@pytest.mark.parametrize("seed", [0, 3])
def test_both_kinds_of_backends_are_measured_on_the_same_operands(seed: int) -> None:
    """What a mixed pair asks for of the model's operators is what a pair of built-in ones is given."""
    own = operands.of_the_model(seed) | operands.centred_merges(seed)
    for key, arguments in operands.everything(seed).items():
        if key[0] in operands.REQUIRED:
            assert all(np.array_equal(a, b) for a, b in zip(arguments, own[key], strict=True))
    for _, offsets, _ in operands.centred_merges(seed).values():
        assert abs(offsets.mean(axis=1)).max() < 1e-12
