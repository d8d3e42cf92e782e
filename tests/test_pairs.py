"""What a backend does not offer: its own verdict, its own count, never a pass, and said so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ptyint.evidence import manifest
from ptyint.evidence.checks import SIGNS, VERDICTS, Check, worst
from ptyint.evidence.display import VERDICT_CELLS, checks_table
from ptyint.parity import extras, figures, offered, pair_figures, problems
from ptyint.parity.capabilities import Offer, unavailable
from ptyint.parity.ladder import Climb
from ptyint.parity.results import Finding, Ladder
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.cost import Budget
from ptyint.parity.rungs.cost import judge as judge_cost

PAIR = ("mine", "yours")
SOME = Offer(frozenset({"operators"}), ("float32",), ("propagate", "translate", "translate [fast=True]"))
OFFERS = dict.fromkeys(PAIR, SOME)


def finding(rung: str, ratio: float = 0.1, **fields: object) -> Finding:
    one = Finding(rung, "case", "float32", "tap", "yours", "mine", 1e-7 * ratio, 1e-7, ratio)
    return replace(one, **fields)  # type: ignore[arg-type]


def ladder(*findings: Finding) -> Ladder:
    missing = [f for rung in ("forward", "loss", "gradient", "step", "persistence") for f in unavailable(OFFERS, rung)]
    return Ladder(*PAIR, "quick", (*findings, *missing))


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
    assert (
        len(set(SIGNS.values()))
        == len(VERDICTS)
        == len(figures.VERDICT_COLORS)
        == len(set(figures.VERDICT_COLORS.values()))
    )
    assert VERDICT_CELLS["⊘ not available"] == "not-available"


def test_it_survives_json_and_older_manifests_read_as_before() -> None:
    one = Check("a", None, note="why", available=False)
    assert Check.from_mapping(json.loads(json.dumps(one.to_mapping()))) == one
    assert "available" not in Check("a", 1.0).to_mapping()


def test_a_run_with_it_is_no_pass() -> None:
    checks = [Check("a", 1.0).to_mapping(), Check("b", None, available=False).to_mapping()]
    assert manifest.verdict_of({"checks": checks, "errors": []}) == "not available"
    html = checks_table([Check("b", None, available=False)]).html
    assert 'class="not-available"' in html


# --- the ladder ---


def test_rungs_that_cannot_be_served_are_not_available() -> None:
    one = ladder(finding("operator"))
    verdicts = {rung: one.verdict(rung) for rung in one.rungs}
    assert {verdicts[rung] for rung in ("forward", "loss", "gradient", "step", "persistence")} == {"not available"}
    assert one.divergence is None and not any(check.passed for check in one.checks() if "step" in check.name)


def test_a_red_operator_is_a_failure_beside_what_is_not_available() -> None:
    missing = Finding.unavailable(
        ("operator", "", "float32", "upsample"), ("mine", "referee"), "mine does not offer it"
    )
    one = ladder(finding("operator", 3.0, against="referee"), finding("operator", 2.0), missing)
    check = next(check for check in one.checks() if check.name.startswith("operator, float32"))
    assert check.verdict == "fail" and "1 not available (upsample: mine does not offer it)" in check.note
    assert one.divergence is not None and one.divergence.finding.against == "mine"  # the pair before the referee


def test_the_summary_says_what_is_supported_and_what_is_not(tmp_path: object) -> None:
    one = ladder(finding("contract"), finding("operator", 3.0))
    words = pair_figures.sentence(one)
    assert words.startswith("Claims that the evidence supports: contract;") and "contradicts: operator" in words
    assert "cannot speak of (not available): forward, loss, gradient, step, persistence" in words
    page = figures.headline(Climb(one, (), {}))
    assert page.record is not None and words in page.record.compared
    assert page.record.numbers["comparisons not available"] == 9 and "nan" not in page.html
    assert "⊘ not available" in pair_figures.claims(one).html
    for fragment in (figures.error_by_depth(one, "gridsize 2"), figures.drift_curves(one)):
        assert "⊘ not available: mine and yours do not offer trace." in fragment._repr_html_()
    assert "2 not available" in figures.picture(one).alt


def test_costs_that_cannot_be_measured_are_not_available() -> None:
    measured = {name: {"import seconds": np.array(1.0), "peak memory bytes": np.array(2.0**30)} for name in PAIR}
    found, _ = judge_cost(measured, *PAIR, Budget(), {"step": "no trace", "inference": ""})
    assert [f.available for f in found] == [False, True, True, True] and found[1].red


# --- operators of which only some are offered ---


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    given = extras.everything()
    expected = problems.expected_operators(given)
    return {
        f"float32/{key}": expected[label].astype(extras.expected_kind(expected[label], "float32"))
        for name in SOME.operators
        for key, label in extras.labels(name, given).items()
    }


def test_variants_are_held_against_referee_and_each_other(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    wrong = {key: -a if "[fast=True]" in key else a for key, a in arrays.items()}
    plain = replace(SOME, operators=("propagate", "translate"))
    found = offered.judge({"mine": arrays, "yours": wrong}, {"mine": plain, "yours": SOME})
    red = [f for f in found if f.red]
    assert {f.tap for f in red} == {"translate [fast=True]"} and {f.side for f in red} == {"yours"}
    assert {f.against for f in red} == {"mine", "referee"}  # "mine" by its translate without the variant
    assert {f.tap for f in found if not f.available} >= {"upsample", "merge_patches", ""}


def test_refused_operands_are_not_available_and_others_are(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    key = "float32/propagate, random"
    held = {name: a for name, a in arrays.items() if name != key}
    for message, available in (("NotImplementedError: no modes", False), ("ValueError: boom", True)):
        found = offered.judge({"mine": arrays, "yours": {**held, f"error/{key}": np.array(message)}}, OFFERS)
        here = [f for f in found if f.side == "yours" and f.place.startswith("propagate, random")]
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
    """What a built-in backend measures in its process covers every operator of its own that a mixed pair asks for."""
    own = problems.operands(seed) | extras.merges(seed)
    for label, (name, arguments) in extras.everything(seed).items():
        if name in extras.REQUIRED:
            assert own[label][0] == name
            assert all(np.array_equal(a, b) for a, b in zip(arguments, own[label][1], strict=True))
    for _, (_, offsets, _) in extras.merges(seed).values():
        assert abs(offsets.mean(axis=1)).max() < 1e-12
