"""What two backends were asked, what the evidence supports, and where they disagree, as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptyint.backends import title
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import Fragment, Table, render
from ptyint.parity.compare import REFEREE
from ptyint.parity.results import QUESTIONS, RUNGS, Ladder
from ptyint.parity.rungs.workflow import ARCHITECTURE

if TYPE_CHECKING:
    from ptyint.parity.ladder import Climb

SAID = {
    "pass": "supported",
    "fail": "contradicted",
    "not run": "nothing was measured, so nothing is claimed",
    "not available": "nothing is claimed: a backend does not offer what this needs",
    "underpowered": "too few data to claim either way",
}
"""Verdict of a rung to what the evidence says of its claim."""


def sentence(ladder: Ladder) -> str:
    """Which claims the evidence supports, which it contradicts, and on which it is silent."""
    claims = ladder.claims
    supported = ", ".join(claims.get("pass", [])) or "none"
    parts = [f"Claims that the evidence supports: {supported}"]
    names = {
        "fail": "contradicts",
        "not available": "cannot speak of (not available)",
        "not run": "has not measured",
        "underpowered": "has too few data for",
    }
    parts += [f"that it {words}: {', '.join(claims[v])}" for v, words in names.items() if v in claims]
    return "; ".join(parts) + "."


def claims(ladder: Ladder) -> Table:
    """Rung by rung: the claim, what was compared, what could not be, and what may be said."""
    rows = []
    for rung in ladder.rungs:
        verdict, found, missing = ladder.verdict(rung), ladder.on(rung), ladder.unavailable(rung)
        why = "; ".join(dict.fromkeys(f.note for f in missing)) or "-"
        rows.append(
            (
                f"{RUNGS.index(rung)} {rung}",
                QUESTIONS[rung],
                f"{SIGNS[verdict]} {verdict}",
                SAID[verdict],
                f"{sum(f.holds for f in found)} of {len(found)} hold, {len(missing)} not available",
                why,
            )
        )
    heads = ("rung", "claim", "verdict", "the evidence says", "comparisons", "what is not available")
    return Table("What the evidence supports", heads, rows)


def carrying(ladder: Ladder) -> Fragment:
    """Whether the kernels of the two, and of ptyint's network, have the same shapes, so that weights can go over."""
    found = [f for f in ladder.findings if f.tap == ARCHITECTURE]
    lines = []
    for one in found:
        pair = f"{title(one.side)} and {'ptyint' if one.against == REFEREE else title(one.against)}, {one.case}"
        lines.append(f"{pair}: {one.note or 'the same kernels, so weights can be carried over'}.")
    return Fragment(render("paragraphs.html.j2", lines=lines))


def disagreements(climbed: Climb) -> Table | Fragment:
    """One line each, for the maintainer; nothing for a pair whose divergence the ladder itself locates."""
    found = climbed.disagreements
    if not found:
        return Fragment(render("paragraphs.html.j2", lines=_none(climbed.ladder)))
    rows = [
        (
            f"{one.rung}: {one.tap}",
            one.case,
            f"{title(one.side)}, {title(one.against)}",
            f"{one.error:.3g}" if math.isfinite(one.error) else "not alike",
            one.words,
            one.script.rpartition("/")[2] or "-",
        )
        for one in found
    ]
    heads = ("rung: operator or stage", "worst at", "compared", "relative error", "measured", "reproduction")
    caption = "Disagreements, one line each; in the folder reproductions, beside their .npz: python SCRIPT BACKEND"
    return Table(caption, heads, rows)


def _none(ladder: Ladder) -> Sequence[str]:
    red = sum(finding.red for finding in ladder.findings)
    return [] if not red else [f"{red} comparisons are red; the ladder above says where they began."]
