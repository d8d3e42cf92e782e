"""The ladder at a glance: the sentence on top of a page, and one picture of every rung. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ptyint.backends import title
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import Fragment, number
from ptyint.evidence.record import TOLERANCE, Record
from ptyint.images.figures import Picture
from ptyint.parity import tolerances
from ptyint.parity.compare import Finding
from ptyint.parity.results import Judged, Ladder
from ptyint.parity.rungs import NUMBERS
from ptyint.parity.tolerances import PRECISIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ptyint.parity.ladder import Climb

MARKS = {"float32": ("s", "#8a8a8a"), "float64": ("o", "#1f5fa8"), "": ("D", "#1f5fa8")}
"""Marker and colour of a precision."""

SHORT = {"float32": "single", "float64": "double", "": ""}

LEFT, RIGHT = 1e-4, 1e4
"""Ends of the axis of error over tolerance: what is smaller or larger stands there, with an arrow."""

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


def picture(ladder: Ladder) -> Picture:
    """Every rung by precision: all errors over their tolerances, the largest in words, and where a divergence began."""
    rungs = [ladder.rung(name) for name in ladder.rungs]
    figure = Figure(figsize=(10.8, 0.66 * len(rungs) + 1.5), layout="constrained")
    ax = figure.subplots()
    alts = []
    for y, judged in enumerate(rungs):
        for offset, precision in ((-0.17, "float32"), (0.17, "float64"), (0.0, "")):
            _dots(ax, y + offset, judged.on(precision), precision)
        verdict, words = judged.verdict, _largest(judged)
        ax.annotate(
            f"{SIGNS[verdict]} {verdict}\n{words}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=VERDICT_COLORS[verdict],
        )
        alts.append(f"{judged.rung.name}: {verdict}, {words}")
    names = [judged.rung.name for judged in rungs]
    if ladder.divergence is not None:
        y, words = names.index(ladder.divergence.finding.rung), ladder.divergence.finding.place
        ax.axhspan(y - 0.45, y + 0.45, color=RED, alpha=0.08, zorder=0)
        ax.annotate(f"began here: {words}", (LEFT * 1.3, y - 0.3), fontsize=8.5, color=RED, weight="bold")
    ax.axvspan(1, RIGHT, color=RED, alpha=0.05, zorder=0)
    ax.axvline(1, color=RED, lw=1.5)
    ax.set(xscale="log", xlim=(LEFT / 1.5, RIGHT * 1.5), ylim=(len(rungs) - 0.5, -0.7))
    ax.set_yticks(range(len(rungs)), [f"{NUMBERS[name]} {name}" for name in names], fontsize=11)
    ax.set_xlabel("error over its tolerance (left of the line: holds; at the left end: no difference at all)")
    ax.grid(axis="x", alpha=0.3)
    labels = {"float32": "single precision", "float64": "double precision", "": "neither"}
    handles = [ax.plot([], [], MARKS[p][0], color=MARKS[p][1], label=label)[0] for p, label in labels.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return Picture(figure, "The ladder, error over tolerance: " + "; ".join(alts) + ".")


def _dots(ax: Axes, y: float, rows: Sequence[Finding], precision: str) -> None:
    if not rows:
        return
    marker, color = MARKS[precision]
    x = np.clip([RIGHT if math.isnan(row.ratio) else row.ratio for row in rows], LEFT, RIGHT)
    ax.scatter(x, np.full(len(x), y), s=7, marker="|", color=color, alpha=0.35, linewidths=0.8)
    top = float(x.max())
    ax.plot([top], [y], marker, color=RED if top > 1 else color, markersize=8)


def _largest(judged: Judged) -> str:
    """The largest error in each precision, in words."""
    words: list[str] = []
    for precision in (*PRECISIONS, ""):
        largest = judged.worst(precision)
        if largest is None or (words and not precision and largest.holds):
            continue
        if math.isinf(largest.tolerance):
            words.append("reported, no budget was set")
        elif largest.ratio == 0:
            words.append(f"{SHORT[precision]} no difference".strip())
        elif not math.isfinite(largest.ratio):
            words.append(f"{SHORT[precision]} not alike".strip())
        else:
            words.append(f"{SHORT[precision]} {largest.size}".strip())
    n_missing = len(judged.unavailable)
    words += [f"{n_missing} not available"] if n_missing else []
    return ", ".join(words) or "nothing was measured"
