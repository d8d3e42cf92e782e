"""The ladder in a sentence: what is on top of a page, and what pictures of it share. Computes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ptyint.backends import title
from ptyint.evidence.display import Fragment, number
from ptyint.evidence.record import TOLERANCE, Record
from ptyint.parity import tolerances
from ptyint.parity.results import Ladder

if TYPE_CHECKING:
    from ptyint.parity.ladder import Climb

MARKS = {"float32": ("s", "#8a8a8a"), "float64": ("o", "#1f5fa8"), "": ("D", "#1f5fa8")}
"""Marker and colour of a precision."""

RED = "#a3161a"

VERDICT_COLORS = {
    "pass": "#1a6e2e",
    "fail": RED,
    "not run": "#5a5a5a",
    "not available": "#4a3a8c",
    "underpowered": "#7a5200",
}

CLAIMED = {
    "fail": "contradicts",
    "not available": "cannot speak of (not available)",
    "not run": "has not measured",
    "underpowered": "has too few data for",
}


def headline(ladder: Ladder, climb: Climb) -> Fragment:
    """What was compared, the verdict in a sentence, and the numbers that matter; reports them to the runner."""
    names = f"{title(ladder.candidate)} against {title(ladder.reference)}"
    divergence = ladder.divergence
    compared = (
        f"{names}. {divergence.sentence}"
        if divergence
        else f"{names}: {len(ladder.rows)} comparisons on {len(ladder.rungs)} rungs, from single operators to trained "
        "weights, each in single and in double precision where that tells rounding from error."
    )
    compared += f" {claims(ladder)}"
    numbers = _numbers(ladder, len(climb.disagreements))
    bounds = tolerances.by_name() | (climb.problems.plan.margins() if "trained" in ladder.rungs else {})
    recorded = {**numbers, **ladder.numbers, **{TOLERANCE + name: bound for name, bound in bounds.items()}}
    lines = [compared, *(f"{name}: {number(value)}" for name, value in numbers.items())]
    for name, facts in ladder.about.items():
        lines.append(
            f"{title(name)}: {', '.join(f'{key} {value}' for key, value in facts.items() if key != 'backend')}"
        )
    return Fragment.of(*lines, record=Record((), compared, recorded, climb.commands, climb.datasets))


def _numbers(ladder: Ladder, n_disagreements: int) -> dict[str, float]:
    """The first three stand on top of the page."""
    numbers = {}
    for rung, precision in (("forward", "float64"), ("gradient", "float64"), ("step", "float32")):
        largest = ladder.rung(rung).worst(precision)
        numbers[f"{rung} in {precision}, largest error over its tolerance"] = largest.ratio if largest else math.nan
    numbers["comparisons beyond their tolerance"] = float(sum(row.red for row in ladder.rows))
    n_missing = sum(not row.available for row in ladder.rows)
    if not n_missing:
        return numbers
    known = {name: value for name, value in numbers.items() if not math.isnan(value)}
    return {"disagreements": float(n_disagreements), "comparisons not available": float(n_missing), **known}


def claims(ladder: Ladder) -> str:
    """Which claims the evidence supports, which it contradicts, and on which it is silent."""
    supported = ", ".join(ladder.claims.get("pass", [])) or "none"
    parts = [f"Claims that the evidence supports: {supported}"]
    parts += [f"that it {words}: {', '.join(ladder.claims[v])}" for v, words in CLAIMED.items() if v in ladder.claims]
    return "; ".join(parts) + "."
