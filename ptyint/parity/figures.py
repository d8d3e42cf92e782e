"""The ladder as pictures and tables. Draws and assembles, computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ptyint.backends import title
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import Fragment, Table, number, render
from ptyint.evidence.record import TOLERANCE, Record
from ptyint.images.figures import Picture, images_side_by_side, rings, style
from ptyint.parity import tolerances
from ptyint.parity.pair_figures import sentence
from ptyint.parity.results import QUESTIONS, RUNGS, Finding, Ladder
from ptyint.parity.tolerances import DRIFT, PRECISIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ptyint.parity.ladder import Climb
    from ptyint.parity.rungs.trained import Seeds

MARKS = {"float32": ("s", "#8a8a8a"), "float64": ("o", "#1f5fa8"), "": ("D", "#1f5fa8")}
"""Marker and colour of a precision."""

LEFT, RIGHT = 1e-4, 1e4
"""Ends of the axis of error over tolerance: what is smaller or larger stands there, with an arrow."""

VERDICT_COLORS = {
    "pass": "#1a6e2e",
    "fail": "#a3161a",
    "not run": "#5a5a5a",
    "not available": "#4a3a8c",
    "underpowered": "#7a5200",
}


def headline(climbed: Climb) -> Fragment:
    """What was compared, the verdict in a sentence, and the numbers that matter."""
    ladder = climbed.ladder
    divergence = ladder.divergence
    names = f"{title(ladder.candidate)} against {title(ladder.reference)}"
    n_red = sum(finding.red for finding in ladder.findings)
    if divergence is not None:
        compared = f"{names}. {divergence.sentence}"
    else:
        compared = (
            f"{names}: {len(ladder.findings)} comparisons on {len(ladder.rungs)} rungs, from single operators to "
            "trained weights, each in single and in double precision where that tells rounding from error."
        )
    compared += f" {sentence(ladder)}"
    n_missing = sum(not finding.available for finding in ladder.findings)
    numbers: dict[str, float] = {}
    for rung, precision in (("forward", "float64"), ("gradient", "float64"), ("step", "float32")):
        worst = ladder.worst(rung, precision)
        numbers[f"{rung} in {precision}, largest error over its tolerance"] = worst.ratio if worst else math.nan
    numbers["comparisons beyond their tolerance"] = float(n_red)
    if n_missing:
        known = {name: value for name, value in numbers.items() if not math.isnan(value)}
        numbers = {"disagreements": float(len(climbed.disagreements)), "comparisons not available": float(n_missing)}
        numbers |= known
    bounds = tolerances.by_name() | (climbed.seeds.plan.margins() if climbed.seeds else {})
    record = Record(
        compared=compared,
        numbers={**numbers, **ladder.numbers, **{TOLERANCE + name: bound for name, bound in bounds.items()}},
        commands=climbed.commands,
        datasets=climbed.datasets,
    )
    lines = [compared, *(f"{name}: {number(value)}" for name, value in numbers.items())]
    for name, facts in ladder.about.items():
        told = (f"{key} {value}" for key, value in facts.items() if key != "backend")
        lines.append(f"{title(name)}: {', '.join(told)}")
    return Fragment(render("paragraphs.html.j2", lines=lines), record)


def picture(ladder: Ladder) -> Picture:
    """Every rung by precision: all errors over their tolerances, the largest in words, and where a divergence began."""
    rungs = [rung for rung in RUNGS if rung in ladder.rungs]
    figure = Figure(figsize=(10.8, 0.66 * len(rungs) + 1.5), layout="constrained")
    ax = figure.subplots()
    divergence, alts = ladder.divergence, []
    for row, rung in enumerate(rungs):
        verdict = ladder.verdict(rung)
        for offset, precision in ((-0.17, "float32"), (0.17, "float64"), (0.0, "")):
            found = ladder.on(rung, precision)
            if found:
                _dots(ax, row + offset, found, precision)
        color = VERDICT_COLORS[verdict]
        ax.annotate(
            f"{SIGNS[verdict]} {verdict}\n{_worst_words(ladder, rung)}",
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=color,
        )
        alts.append(f"{rung}: {verdict}, {_worst_words(ladder, rung)}")
    if divergence is not None:
        row = rungs.index(divergence.finding.rung)
        ax.axhspan(row - 0.45, row + 0.45, color="#a3161a", alpha=0.08, zorder=0)
        words = f"began here: {divergence.finding.place}"
        ax.annotate(words, (LEFT * 1.3, row - 0.3), fontsize=8.5, color="#a3161a", weight="bold")
    ax.axvspan(1, RIGHT, color="#a3161a", alpha=0.05, zorder=0)
    ax.axvline(1, color="#a3161a", lw=1.5)
    ax.set(xscale="log", xlim=(LEFT / 1.5, RIGHT * 1.5), ylim=(len(rungs) - 0.5, -0.7))
    ax.set_yticks(range(len(rungs)), [f"{RUNGS.index(rung)} {rung}" for rung in rungs], fontsize=11)
    ax.set_xlabel("error over its tolerance (left of the line: holds; at the left end: no difference at all)")
    ax.grid(axis="x", alpha=0.3)
    handles = [
        ax.plot([], [], MARKS[precision][0], color=MARKS[precision][1], label=label)[0]
        for precision, label in (("float32", "single precision"), ("float64", "double precision"), ("", "neither"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return Picture(figure, "The ladder, error over tolerance: " + "; ".join(alts) + ".")


def _dots(ax: Axes, y: float, found: Sequence[Finding], precision: str) -> None:
    marker, color = MARKS[precision]
    x = np.clip([RIGHT if math.isnan(f.ratio) else f.ratio for f in found], LEFT, RIGHT)
    ax.scatter(x, np.full(len(x), y), s=7, marker="|", color=color, alpha=0.35, linewidths=0.8)
    top = float(x.max())
    ax.plot([top], [y], marker, color="#a3161a" if top > 1 else color, markersize=8)


def _worst_words(ladder: Ladder, rung: str) -> str:
    words: list[str] = []
    for precision in (*PRECISIONS, ""):
        worst = ladder.worst(rung, precision)
        if worst is None or (words and not precision and worst.holds):
            continue
        name = {"float32": "single", "float64": "double", "": ""}[precision]
        if math.isinf(worst.tolerance):
            words.append("reported, no budget was set")
        elif worst.ratio == 0:
            words.append(f"{name} no difference".strip())
        elif math.isinf(worst.ratio) or math.isnan(worst.ratio):
            words.append(f"{name} not alike".strip())
        else:
            words.append(f"{name} {worst.error:.1e} of {worst.tolerance:.1e}".strip())
    n_missing = len(ladder.unavailable(rung))
    words += [f"{n_missing} not available"] if n_missing else []
    return ", ".join(words) or "nothing was measured"


def overview(ladder: Ladder) -> Table:
    """One row a rung: its question, its verdict, the largest error in both precisions and the factor between them."""
    rows = []
    for rung in ladder.rungs:
        verdict, found = ladder.verdict(rung), ladder.on(rung)
        shrinks = ladder.shrinks(rung)
        worst = ladder.worst(rung)
        rows.append(
            (
                f"{RUNGS.index(rung)} {rung}",
                QUESTIONS[rung],
                f"{SIGNS[verdict]} {verdict}",
                f"{sum(f.holds and f.decided for f in found)} of {len(found)}",
                *(_cell(ladder.worst(rung, precision)) for precision in PRECISIONS),
                "-" if shrinks is None else f"{shrinks:.1e}",
                worst.place if worst else "-",
            )
        )
    heads = (
        "rung",
        "question",
        "verdict",
        "hold",
        "float32: error of tolerance",
        "float64",
        "shrinks by",
        "largest at",
    )
    return Table("The ladder, rung by rung", heads, rows)


def _cell(finding: Finding | None) -> str:
    return "-" if finding is None else f"{finding.error:.1e} of {finding.tolerance:.1e}"


def red_table(ladder: Ladder, most: int = 40) -> Table:
    """Every comparison beyond its tolerance, culprits before consequences; the first `most` of each rung."""
    rows = []
    for rung in ladder.rungs:
        red = sorted((f for f in ladder.on(rung) if f.red), key=lambda f: f.is_consequence)
        rows += [_row(finding) for finding in red[:most]]
        if len(red) > most:
            rows.append((f"{rung}: {len(red) - most} more", *[""] * 6))
    rows = rows or [("none", *[""] * 6)]
    heads = ("where", "compared", "error", "tolerance", "ratio", "alone", "seen")
    return Table("Comparisons beyond their tolerance", heads, rows)


def rung_table(ladder: Ladder, rung: str, case: str | None = None) -> Table:
    """Every comparison of a rung (and case), in the order in which data flow."""
    found = [f for f in ladder.on(rung) if case in (None, f.case)]
    heads = ("where", "compared", "error", "tolerance", "ratio", "alone", "seen")
    return Table(f"Rung {RUNGS.index(rung)}, {rung}", heads, [_row(finding) for finding in found])


def _row(f: Finding) -> tuple[str, ...]:
    alone = "-" if f.local is None else f"{f.local:.2g}" + (" (consequence)" if f.is_consequence else " (errs itself)")
    sides = f"{title(f.side)}, {title(f.against)}"
    return f"{f.rung}: {f.place}", sides, f"{f.error:.2g}", f"{f.tolerance:.2g}", f"{f.ratio:.2g}", alone, f.note


def error_by_depth(ladder: Ladder, case: str) -> Picture | Fragment:
    """Error of every tap of one network in data-flow order, forward and backward, on a logarithmic axis."""
    if not any(f.case == case and f.against == ladder.reference for f in ladder.on("gradient")):
        return _not_available(ladder, "gradient")
    figure = Figure(figsize=(10.8, 7.4), layout="constrained")
    axes = figure.subplots(2, 1)
    alts = []
    for ax, rung in zip(axes, ("forward", "gradient"), strict=True):
        names: list[str] = []
        for precision in PRECISIONS:
            found = [f for f in ladder.on(rung, precision) if f.case == case and f.against == ladder.reference]
            names = [f.tap.removeprefix("gradient/") for f in found]
            marker, color = MARKS[precision]
            floor = float(np.finfo(precision).eps) / 10
            errors = [f.error if math.isfinite(f.error) else math.nan for f in found]
            ax.plot(np.maximum(errors, floor), marker=marker, ms=3, lw=1, color=color, label=f"error, {precision}")
            ax.plot([f.tolerance for f in found], color=color, lw=1, ls="--", label=f"tolerance, {precision}")
            red = [i for i, f in enumerate(found) if not f.holds]
            ax.plot(red, [np.nan_to_num(errors[i], nan=1.0) for i in red], "x", color="#a3161a", ms=7)
            alts.append(f"{rung} in {precision}: largest {max([0.0, *np.nan_to_num(errors)]):.1e}, {len(red)} red")
        ax.set_yscale("log")
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=5.5)
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_ylabel("relative error")
        ax.set_title(
            f"{rung}, {case}" + (" (from the loss back to the inputs)" if rung == "gradient" else ""), fontsize=10
        )
        ax.grid(alpha=0.25)
    axes[0].legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.62))
    return Picture(figure, f"Error by depth, {case}: " + "; ".join(alts) + ".")


def _not_available(ladder: Ladder, rung: str) -> Fragment:
    missing = ladder.unavailable(rung)
    lines = [f"⊘ not available: {missing[0].note}." if missing else "Nothing was measured."]
    return Fragment(render("paragraphs.html.j2", lines=lines))


def drift_curves(ladder: Ladder) -> Picture | Fragment:
    """Drift between the backends over optimiser steps, and the drift of each after its weights moved by one ulp."""
    cases = list(dict.fromkeys(f.case for f in ladder.on("step") if f.tap.startswith(_DRIFT)))
    if not cases:
        return _not_available(ladder, "step")
    figure = Figure(figsize=(10.8, 3.6), layout="constrained")
    axes = figure.subplots(1, max(1, len(cases)), sharey=True, squeeze=False)[0]
    alts = []
    for ax, case in zip(axes, cases, strict=False):
        for precision in PRECISIONS:
            found = [f for f in ladder.on("step", precision) if f.case == case and f.tap.startswith(_DRIFT)]
            steps = [int(f.tap.removeprefix(_DRIFT)) for f in found]
            marker, color = MARKS[precision]
            ax.plot(
                steps, [f.error for f in found], marker=marker, color=color, label=f"between the backends, {precision}"
            )
            floor = [f.tolerance / DRIFT for f in found]
            ax.plot(steps, floor, ls=":", color=color, label=f"after a move by one ulp, {precision}")
            ax.fill_between(steps, floor, [f.tolerance for f in found], color=color, alpha=0.15)
            alts += [
                f"{case}, {precision}, {n} steps: {f.error:.1e}, {f.note}" for n, f in zip(steps, found, strict=True)
            ]
        ax.set(xscale="log", yscale="log", xlabel="optimiser steps", title=case)
        ax.set_xticks(steps, [str(n) for n in steps])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("relative drift of all weights")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    return Picture(figure, "Drift of the weights: " + "; ".join(alts) + ".")


_DRIFT = "drift after "


def trained(seeds: Seeds | None) -> Picture | Fragment:
    """Rung 7 as a picture, or what would climb it."""
    if seeds is None:
        words = "Rung 7, trained reconstructions over seeds, is climbed by the full profile, for backends with weights."
        return Fragment(render("paragraphs.html.j2", lines=[words]))
    if not seeds.values:
        lines = [f"gridsize {gridsize}: {problem}" for gridsize, problem in seeds.problems.items()]
        return Fragment(render("paragraphs.html.j2", lines=lines))
    return seed_distributions(seeds)


def side_by_side(seeds: Seeds | None, gridsize: int) -> Picture | Fragment:
    """The first pair of rung 7: truth, both backends, signed difference; nothing where it was not climbed."""
    if seeds is None or gridsize not in seeds.images:
        return Fragment("")
    images = seeds.images[gridsize]
    inside = images.agreement.gauge.mask
    shown = {"truth": np.where(inside, images.truth, 0)}
    shown |= {title(name): one.gauge.aligned for name, one in images.with_truth.items()}
    return images_side_by_side(shown, inside & (shown["truth"] != 0), title(seeds.reference), title(seeds.candidate))


def ring_correlation(seeds: Seeds | None, gridsize: int) -> Picture | Fragment:
    """The first pair of rung 7: FRC with the truth, and of the backends with each other."""
    if seeds is None or gridsize not in seeds.images:
        return Fragment("")
    images = seeds.images[gridsize]
    return rings({name: one.frc for name, one in images.with_truth.items()}, images.agreement.frc)


def seed_distributions(seeds: Seeds) -> Picture:
    """Rung 7: each seed's correlation with the truth, and every mean difference with its interval and margin."""
    kinds = list(dict.fromkeys((gridsize, kind) for gridsize, kind, _ in seeds.values))
    labels = list(dict.fromkeys(label for _, _, label in seeds.values))
    figure = Figure(figsize=(10.8, 2.7 * len(labels) + 0.42 * len(seeds.tests) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(labels) + 1, 1, height_ratios=[*([2.7] * len(labels)), 0.42 * len(seeds.tests)])
    alts = []
    for row, label in enumerate(labels):
        ax = figure.add_subplot(grid[row])
        for column, (gridsize, kind) in enumerate(kinds):
            found = seeds.values[gridsize, kind, label]
            ends = []
            for place, name in ((-0.15, seeds.reference), (0.15, seeds.candidate)):
                look = {**style(name), "linestyle": "none", "markersize": 6}
                x = np.full(len(found[name]), column + place)
                ax.plot(x, found[name], **look, label=title(name) if column == 0 else None)
                ends.append((x, found[name]))
            if kind == "paired":
                for i in range(len(ends[0][0])):
                    ax.plot([e[0][i] for e in ends], [e[1][i] for e in ends], color="#999999", lw=0.8, zorder=0)
        ax.set_xticks(range(len(kinds)), [f"gridsize {g},\n{kind} seeds" for g, kind in kinds])
        ax.set_ylabel(f"{label}\nwith the truth")
        ax.grid(axis="y", alpha=0.3)
        if row == 0:
            ax.legend(fontsize=9, ncols=2)
    ax = figure.add_subplot(grid[len(labels)])
    for row, ((gridsize, kind, what), test) in enumerate(seeds.tests.items()):
        verdict = "equivalent" if test.equivalent else "different" if test.different else "underpowered"
        color = {"equivalent": "#1a6e2e", "different": "#a3161a", "underpowered": "#7a5200"}[verdict]
        low, high = (float(np.clip(end / test.margin, -3, 3)) for end in (test.low, test.high))
        ax.plot([low, high], [row, row], color=color, lw=3, solid_capstyle="butt")
        ax.plot([np.clip(test.mean / test.margin, -3, 3)], [row], "o", color=color)
        alts.append(f"gridsize {gridsize}, {kind}, {what}: {verdict}, {test}")
    names = [f"{what}, {kind}, gridsize {gridsize}" for gridsize, kind, what in seeds.tests]
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.invert_yaxis()
    for end in (-1, 1):
        ax.axvline(end, color="#a3161a", lw=1.5)
    ax.axvline(0, color="#999999", lw=0.8)
    ax.set(xlim=(-3.1, 3.1), xlabel="mean difference of the backends and its 90 % interval, in margins")
    return Picture(figure, "Trained reconstructions over seeds: " + "; ".join(alts) + ".")


def tolerance_table() -> Table:
    """Every tolerance with its derivation."""
    rows = [
        (name, f"{one.epsilons:g}", *(f"{one.at(precision):.1e}" for precision in PRECISIONS), one.derivation)
        for name, one in tolerances.TOLERANCES.items()
    ]
    rows.append(("drift", f"{DRIFT:g} x", "measured", "measured", tolerances.DRIFT_DERIVATION))
    heads = ("tolerance", "epsilons", "float32", "float64", "derivation")
    return Table("Tolerances and where they come from", heads, rows)


def cost_table(ladder: Ladder) -> Table:
    """Rung 8: what each backend costs, and the ratio."""
    rows = []
    for finding in ladder.on("cost"):
        ours, theirs = (
            ladder.numbers.get(f"{finding.tap}, {name}", math.nan) for name in (ladder.candidate, ladder.reference)
        )
        limit = "reported only" if math.isinf(finding.tolerance) else f"{finding.tolerance:g}"
        rows.append((finding.tap, f"{theirs:.3g}", f"{ours:.3g}", f"{finding.error:.2f}", limit))
    heads = ("cost", title(ladder.reference), title(ladder.candidate), "ratio", "budget for the ratio")
    return Table("What it costs, one thread each", heads, rows)
