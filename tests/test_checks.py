"""Criteria and checks, and what displays them: HTML for a page, Markdown for a file, a record for the runner."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check, Criterion, worst
from ptyint.evidence.display import Fragment, Table, checks_table
from ptyint.evidence.record import MIME, Record

AGREES = Criterion("phases agree", ">=", 0.9, "rad", "min_agreement")


def test_a_criterion_makes_the_check_that_it_declares() -> None:
    check = AGREES.measured(0.95, "seen", decided=False, available=True)
    assert check == Check("phases agree", 0.95, ">=", 0.9, "seen", decided=False, unit="rad")
    assert AGREES.measured(None).verdict == "not run" and AGREES.measured(0.89).verdict == "fail"
    assert AGREES.measured(math.nan).verdict == "fail" and AGREES.measured(0.9).verdict == "pass"
    assert AGREES.measured(None, available=False).verdict == "not available"


def test_a_fact_holds_does_not_hold_or_was_not_tried() -> None:
    fact = Criterion.fact("there")
    verdicts = [fact.holds(value).verdict for value in (True, False, None)]
    assert verdicts == ["pass", "fail", "not run"] and worst(verdicts) == "fail"
    assert fact.holds(True, "seen") == Check.fact("there", True, "seen")


def test_the_bound_is_the_parameters_where_one_holds_it() -> None:
    assert AGREES.at({"min_agreement": 0.5, "other": 1}).bound == 0.5
    assert AGREES.at({"min_agreement": 1}) == Criterion("phases agree", ">=", 1.0, "rad", "min_agreement")
    assert Criterion.fact("there").at({}) == Criterion.fact("there")
    for parameters in ({}, {"min_agreement": "0.5"}, {"min_agreement": None}, {"min_agreement": True}):
        with pytest.raises(ConfigError, match=r"'phases agree' is the parameter 'min_agreement', which is .* a number"):
            AGREES.at(parameters)


def test_an_unknown_relation_is_refused() -> None:
    for make in (lambda: Criterion("x", "<", 1.0), lambda: Check("x", 1.0, "<")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="relation is '<'; must be one of"):
            make()


@pytest.mark.parametrize(
    "check",
    [
        Check("plain", 0.5, "<=", 1.0),
        Check("unit", 0.5, "<=", 1.0, unit="px"),
        Check("unbounded", math.inf, ">=", -math.inf, "note", decided=False),
        Check("absent", None, available=False),
    ],
    ids=lambda check: check.name,
)
def test_a_check_comes_back_from_json(check: Check) -> None:
    text = json.dumps(Record(checks=(check,)).to_mapping(), allow_nan=False)
    assert Record.from_mapping(json.loads(text)).checks == (check,)


@pytest.mark.parametrize(
    "change", [{"note": None}, {"relation": "<"}, {"bound": "much"}, {"measured": []}, {"name": 3}, {"decided": "?"}]
)
def test_a_malformed_report_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Record.from_mapping({"checks": [{**Check("x", 1.0).to_mapping(), **change}]})


def test_a_record_comes_back_from_json_in_its_order() -> None:
    record = Record(
        (Check("x", math.inf),), "both", {"b": 1.0, "a": math.inf}, ({"argv": ["x"]},), {"d": "0"}, {"p": 1}
    )
    again = Record.from_mapping(json.loads(json.dumps(record.to_mapping(), allow_nan=False, sort_keys=True)))
    assert again == record and list(again.numbers) == ["b", "a"] and Record.from_mapping({}) == Record()


def test_a_check_displays_with_its_unit_and_reports_itself() -> None:
    table = checks_table([AGREES.measured(0.95, "seen")])
    bundle = table._repr_mimebundle_()
    assert table.rows == [("phases agree", "0.95", ">= 0.9 rad", "✓ pass", "seen")]
    assert Record.from_mapping(bundle[MIME]).checks == (AGREES.measured(0.95, "seen"),)
    assert '<td class="pass">✓ pass</td>' in bundle["text/html"]
    assert "| phases agree | 0.95 | >= 0.9 rad | ✓ pass | seen |" in bundle["text/markdown"]


def test_a_table_of_a_frame_has_no_index_and_formats_what_the_caller_did_not() -> None:
    frame = pd.DataFrame({"tap": ["a|b", "<c>"], "error": [1.23456789e-7, math.nan], "n": [1000000, 2]})
    frame["note"] = pd.Series([None, "x"], dtype=object)
    table = Table.of(frame, "Findings", Record(compared="both"))
    assert table.heads == ("tap", "error", "n", "note")
    assert table.rows == [("a|b", "1.235e-07", "1000000", "-"), ("<c>", "nan", "2", "x")]
    bundle = table._repr_mimebundle_()
    assert bundle["text/markdown"].splitlines() == [
        "## Findings", "", "| tap | error | n | note |", "| --- | --- | --- | --- |",
        "| a\\|b | 1.235e-07 | 1000000 | - |", "| <c> | nan | 2 | x |",
    ]  # fmt: skip
    assert '<th scope="row">&lt;c&gt;</th>' in bundle["text/html"] and bundle[MIME] == {"compared": "both"}


def test_a_fragment_of_paragraphs_is_escaped_on_a_page_and_plain_in_a_file() -> None:
    bundle = Fragment.of("1 < 2", "and so on")._repr_mimebundle_()
    assert bundle == {
        "text/html": "<p>1 &lt; 2</p><p>and so on</p>",
        "text/markdown": "1 < 2\n\nand so on",
    }
    assert Fragment("<pre>x</pre>")._repr_mimebundle_() == {"text/html": "<pre>x</pre>"}
