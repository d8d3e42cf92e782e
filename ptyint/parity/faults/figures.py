"""The score of the seeded faults as a picture and tables. Draws and assembles, computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import Table, number
from ptyint.evidence.record import Record
from ptyint.images.figures import Picture
from ptyint.parity.faults.campaign import EVIDENCE_TITLE, Score
from ptyint.parity.faults.catalogue import EVIDENCE, LISTED, Fault
from ptyint.parity.faults.injection import SIDE
from ptyint.parity.faults.trial import Outcome
from ptyint.parity.rungs import NUMBERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = tuple(rung for rung in NUMBERS if rung not in ("trained", "cost"))
"""Rungs on which faults are sought."""

RIGHT, ELSEWHERE, MISSED = "#1a6e2e", "#7a5200", "#a3161a"


def headline(score: Score) -> Table:
    """The score in a sentence and three numbers."""
    weakest = score.weakest
    numbers = {
        f"faults caught, of {score.n_seeded} seeded": float(score.n_seeded - len(score.uncaught)),
        "named at the expected rung and tap": float(score.n_right),
        "error over tolerance of the weakest catch": weakest.ratio if weakest else math.nan,
    }
    record = Record(compared=score.sentence, numbers=numbers, commands=score.commands)
    return Table("In short", ("what", "found"), [(name, number(value)) for name, value in numbers.items()], record)


def picture(score: Score) -> Picture:
    """Each fault and the first rung that went red; a ring where it was expected to."""
    listed = [fault for fault in score.faults if fault in LISTED]
    own = [fault for fault in score.faults if fault not in LISTED]
    rows = max(len(listed), len(own), 1)
    figure = Figure(figsize=(13.5, 0.27 * rows + 1.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, faults, name in zip(axes, (listed, own), ("on record", "thought up here"), strict=True):
        _draw(ax, score, faults, rows)
        caught = sum(score.of(fault).caught for fault in faults)
        ax.set_title(f"{name}: {caught} of {len(faults)} caught", fontsize=11, loc="left")
    handles = [
        axes[0].plot([], [], "o", color=RIGHT, label="first red rung and tap, as expected")[0],
        axes[0].plot([], [], "D", color=ELSEWHERE, label="caught, but not where it was expected")[0],
        axes[0].plot([], [], "o", mfc="none", mec="#777777", ms=10, label="expected rung")[0],
        axes[0].plot([], [], "X", color=MISSED, label="not caught")[0],
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return Picture(figure, f"Seeded faults by first red rung. {score.sentence}")


def _draw(ax: Axes, score: Score, faults: Sequence[Fault], rows: int) -> None:
    for row, fault in enumerate(faults):
        found, column = score.of(fault), COLUMNS.index(fault.rung)
        ax.plot([column], [row], "o", mfc="none", mec="#777777", ms=10)
        if found.caught:
            right = found.at_the_right_place(fault)
            ax.plot(
                [COLUMNS.index(found.rung)], [row], "o" if right else "D", color=RIGHT if right else ELSEWHERE, ms=6
            )
            margin = _margin(found)
        else:
            ax.plot([len(COLUMNS) - 0.6], [row], "X", color=MISSED, ms=8)
            margin = "not caught"
        ax.annotate(
            margin, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7.5,
            color="#333333" if found.caught else MISSED,
        )  # fmt: skip
    ax.set_yticks(range(len(faults)), [f"{fault.id}  {_short(fault.title)}" for fault in faults], fontsize=8)
    ax.set_xticks(range(len(COLUMNS)), [f"{NUMBERS[rung]} {rung}" for rung in COLUMNS], fontsize=8, rotation=30)
    ax.set(xlim=(-0.6, len(COLUMNS) - 0.4), ylim=(rows - 0.4, -0.7))
    ax.grid(axis="x", alpha=0.3)


def _margin(found: Outcome) -> str:
    return "not alike" if math.isinf(found.ratio) else f"{found.ratio:.1e} x"


def _short(title: str, longest: int = 54) -> str:
    return title if len(title) <= longest else f"{title[: longest - 3].rstrip()}..."


def faults_table(score: Score) -> Table:
    """Each fault: where it is on record, where it was expected, where the ladder first went red, by how much."""
    rows = []
    for fault in score.faults:
        found = score.of(fault)
        right = found.at_the_right_place(fault)
        verdict = f"{SIGNS['pass']} caught" if found.caught else f"{SIGNS['fail']} not caught"
        rows.append(
            (
                f"{fault.id} {fault.title}",
                SIDE,
                fault.upstream,
                f"{fault.rung}: {fault.tap or 'any'}",
                f"{found.rung}: {found.place}" if found.caught else "-",
                _margin(found) if found.caught else "-",
                verdict if right or not found.caught else f"{verdict}, elsewhere",
            )
        )
    caught = score.evidence not in ("", "pass")
    rows.append(
        (
            f"{EVIDENCE} {EVIDENCE_TITLE}",
            "-",
            "phase E2, 2025-10-17",
            "evidence: not green",
            f"evidence: {score.evidence or 'not tried'}",
            "-",
            f"{SIGNS['pass']} caught" if caught else f"{SIGNS['fail']} not caught",
        )
    )
    heads = ("fault", "side", "on record as", "expected", "first red", "error over tolerance", "verdict")
    return Table("Every seeded fault", heads, rows)


def limits_table(score: Score) -> Table:
    """Smallest caught size of each fault that has one, and what it does to a reconstruction."""
    rows = [
        (
            one.title,
            one.rung,
            "not caught at 1" if math.isnan(one.size) else f"{one.size:.0e} {one.unit}",
            f"{one.change:.1e}",
            "less than rounding" if one.change <= score.rounding else "more than rounding",
        )
        for one in score.limits
    ]
    heads = ("fault of size s", "rung", "smallest caught s", "change of a reconstruction", "that is")
    caption = (
        "Detection limits, in powers of ten; beside them the relative change of a shortly trained reconstruction "
        f"(a move of the initial weights by one ulp changes it by {score.rounding:.1e})"
    )
    return Table(caption, heads, rows)
