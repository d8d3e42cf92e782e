"""One line for each thing in which two backends disagree, and arrays with a short script that shows it.

For pairs that are not built in: whoever maintains one needs to see what differs for itself alone, why, and what it does
to a reconstruction.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ptyint._atomic import write_arrays, write_text
from ptyint.backends.ptychopinn.known import Mechanism, mechanism
from ptyint.evidence.checks import to_json
from ptyint.parity import operands
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import REFEREE, Arrays, Finding
from ptyint.parity.configurations import FIXTURE, OUTSIDE
from ptyint.parity.rungs.forward import ONE_SIDE, PREDICTED
from ptyint.parity.rungs.rung import stored
from ptyint.parity.rungs.step import OWN
from ptyint.parity.rungs.workflow import ARCHITECTURE, ENERGY, ILLUMINATING
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

FOLDER, NAME = "reproductions", "disagreements.json"
TEMPLATES = Path(__file__).parent / "templates"
LOSS = "gradient/expected_amplitude"
STAGES = {ARCHITECTURE: ARCHITECTURE, ILLUMINATING: "probe", ENERGY: "inputs", "object patches at inference": "patches"}
"""Taps of the workflow to what a reproduction shows of it."""

Disagreement = dict[str, Any]
"""What a maintainer can act on, by name.

rung, tap, case, operand, side, against, error
    Of the worst finding; see :class:`ptyint.parity.compare.Finding`.
patches, angle
    What it does to the reference where it alone is put in, networks as they are shipped: relative change of the object
    patches, and by how many degrees the gradient turns. NaN: not measured.
mechanism, where, repair : str
    One sentence, file and function, and the setting that repairs it; empty where nothing is known.
default : bool
    Whether it shows in default settings.
places : list of str
    Everywhere it shows.
words : str
    Measured sizes, and which functions were called.
arrays, script : str
    Files relative to the run folder; empty where there is nothing to call.
"""

KEPT = ("rung", "tap", "case", "operand", "side", "against")
LISTED = ("contract", "operator", "forward", "loss", "gradient", "step", "persistence")
LIKE = {
    "merge_patches": "region",
    **dict.fromkeys(("normalise_probe", "probe that illuminates in training"), "probe"),
    **dict.fromkeys(("loss", "poisson_nll", "expected_amplitude"), LOSS),
}
"""Taps and operators to the tap whose consequence is theirs."""

FIRST = 3
"""So many stand in the headline."""

Consequences = Mapping[str, Mapping[str, float]]


def write(
    scratch: Path,
    target: Path,
    findings: Sequence[Finding],
    offers: Mapping[str, Offer],
    seed: int = 0,
    consequences: Consequences | None = None,
) -> list[Disagreement]:
    """Every red operator, layer and stage of a pair, one line a mechanism, with its reproduction below `target`.

    The line that changes most of the reconstruction in default settings comes first.

    Parameters
    ----------
    scratch : Path
        Where the backends measured.
    target : Path
        Gets ``disagreements.json`` and the folder ``reproductions``.
    findings : sequence of Finding
    offers : dict of str to Offer
        Of the reference and the candidate.
    seed : int
        Of the problems that both were given.
    consequences : dict, optional
        See :func:`ptyint.parity.rungs.forward.consequences`.
    """
    told = consequences or {}
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for row in findings:
        if row.red and not row.is_consequence and row.rung in LISTED and _is_its_own(row, told):
            known = _mechanism(row, offers)
            groups.setdefault((known.words,) if known else (row.rung, row.tap, _kind(row)), []).append(row)
    measured = {side: stored(scratch, side, "operator") for side in offers}
    lines = [(_consequence(red, told, offers), red) for red in groups.values()]
    disagreements = []
    for number, (consequence, red) in enumerate(sorted(lines, key=lambda one: -one[0]["rank"]), 1):
        worst = _typical(red, offers)
        stem = f"{number:02d}-{re.sub('[^a-z0-9]+', '-', worst.tap.lower()).strip('-')[:40]}"
        words, results = _words(worst, red, offers), dict[str, NDArray[Any]]()
        if worst.rung == "operator":
            results = _results(worst, measured)
            largest = [f"{np.abs(array).max():.4g} ({side})" for side, array in results.items() if array.size]
            words += f"; largest value {', '.join(largest)}" if largest else ""
        files = _script(target / FOLDER, stem, worst, list(offers), results, seed)
        places = [f"{row.rung}, {row.place}" for row in red]
        said = {"error": to_json(worst.error), "words": words, "arrays": files[0], "script": files[1], "places": places}
        disagreements.append({**{name: getattr(worst, name) for name in KEPT}, **consequence, **said})
    write_text(target / NAME, json.dumps(disagreements, indent=1))
    return disagreements


def table(disagreements: Sequence[Disagreement]) -> pd.DataFrame:
    """One line a mechanism, to be read; what most of a reconstruction hangs on in default settings first."""
    lines = []
    for number, one in enumerate(disagreements, 1):
        first, *others = one["places"]
        lines.append({
            "what": f"{number}. {one['mechanism'] or 'Not known yet: ' + one['words']}",
            "object patches change by": _shown(one["patches"], "{:.2g}") if one["default"] else "not by default",
            "gradient turns by": _shown(one["angle"], "{:.3g}°") if one["default"] else "not by default",
            "function": one["where"] or "-",
            "gone with": one["repair"] or "-",
            "shows at": f"{first}, and {len(others)} more" if others else first,
            "reproduction": one["script"].rpartition("/")[2] or "-",
        })  # fmt: skip
    return pd.DataFrame(lines)


def headline(disagreements: Sequence[Disagreement]) -> str:
    """What most of a reconstruction hangs on in default settings, in words, for the top of a page."""
    n_default = sum(one["default"] for one in disagreements)
    lines = [
        f"{row[1]} Put into the reference alone: object patches change by {row[2]}, gradient turns by {row[3]}."
        for row in table(disagreements[: min(n_default, FIRST)]).itertuples()
    ]
    more = (
        f"In default settings they disagree in {n_default} things, in others in {len(disagreements) - n_default} more."
    )
    return " ".join([more, "What most of a reconstruction hangs on:", *lines])


def _shown(size: Any, words: str) -> str:
    return words.format(size) if isinstance(size, float) and math.isfinite(size) else "-"


def networks(findings: Sequence[Finding]) -> pd.DataFrame:
    """Of networks that are watched from outside, as shipped and as equals: where each differs for itself."""
    lines = []
    for case in OUTSIDE:
        rows = [row for row in findings if row.case == case and row.available]
        red = [row for row in rows if row.rung == "forward" and row.red and row.tap not in PREDICTED]
        own = list(dict.fromkeys(row.tap for row in red if not row.is_consequence))
        notes = [row.note for row in rows if row.operand == "direction"]
        steps = [f"{row.error:.2g}" for row in rows if row.tap == "own optimiser"]
        lines.append({
            "network": case,
            "layers and operators alike": f"{sum(row.holds for row in rows if row.rung == 'forward')} of "
            f"{sum(row.rung == 'forward' for row in rows)}",
            "differ for themselves": ", ".join(own) or "none",
            "shown by one side alone": ", ".join(dict.fromkeys(r.tap for r in rows if r.operand == ONE_SIDE)) or "-",
            "gradient of all weights": notes[0] if notes else "-",
            "first step apart, with the same gradients": steps[0] if steps else "-",
            "with its own": steps[-1] if steps else "-",
        })  # fmt: skip
    return pd.DataFrame([line for line in lines if line["gradient of all weights"] != "-"])


def _kind(row: Finding) -> str:
    """Of an operator other shapes, and values that are not finite, are disagreements of their own."""
    return "" if math.isfinite(row.error) or row.rung != "operator" else row.note.partition(" ")[0]


def _mechanism(row: Finding, sides: Iterable[str]) -> Mechanism | None:
    shown = f"{ONE_SIDE} " if row.operand == ONE_SIDE else ""
    return mechanism(row.rung, f"{shown}{row.tap} {_kind(row)}".rstrip(), sides)


def _is_its_own(row: Finding, told: Consequences) -> bool:
    """A gradient that is red for itself, and not since the layer before it is; and no sum of everything."""
    if row.rung == "gradient":
        return f"gradient/{row.tap}" in told
    return row.tap not in PREDICTED and row.operand != OWN


def _typical(red: Sequence[Finding], offers: Mapping[str, Offer]) -> Finding:
    """Of what shows a mechanism: on the lowest rung, between the two sides if it does, the worst."""
    lowest = [row for row in red if row.rung == red[0].rung]
    between = [row for row in lowest if row.against in offers and row.side != row.against]
    return max(between or lowest, key=attrgetter("excess"))


def _consequence(red: Sequence[Finding], told: Consequences, sides: Iterable[str]) -> dict[str, Any]:
    """What is known of a line: its mechanism, what it does to a reconstruction, its rank."""
    taps = [LIKE.get(operands.base_name(row.tap), row.tap) for row in red if not _kind(row)]
    sizes = {
        what: max((told.get(tap, {}).get(what, math.nan) for tap in ("", *taps)), key=_known)
        for what in ("patches", "angle")
    }
    known = next((one for row in red if (one := _mechanism(row, sides))), Mechanism([], "", "", ""))
    rank = max(_known(sizes["patches"]), _known(sizes["angle"]) / 90)
    if rank < 0:  # not part of a pass through the network: what it does to its own result
        rank = min(max(row.error for row in red), 1.0)
    rank -= 0 if known.default else 10
    about = {"mechanism": known.words, "where": known.where, "repair": known.repair, "default": known.default}
    return {**{what: to_json(size) for what, size in sizes.items()}, **about, "rank": rank}


def _known(size: float) -> float:
    return -1.0 if math.isnan(size) else size


def _words(worst: Finding, red: Sequence[Finding], offers: Mapping[str, Offer]) -> str:
    """Sizes against each other and against the referee, and what was called."""
    fact = worst.tolerance == 0 and bool(worst.note)  # yes or no: the note says it all
    size = "not comparable" if math.isinf(worst.error) else f"{worst.error:.3g} relative"
    parts = [f"{worst.side} against {worst.against}: " + ", ".join(filter(None, ("" if fact else size, worst.note)))]
    for side in offers:
        theirs = [row for row in red if row.side == side and row.against == REFEREE and worst.against != REFEREE]
        if theirs and not fact:
            row = max(theirs, key=attrgetter("excess"))
            parts.append(f"{side} against the referee: {row.error:.3g}" + (f", {row.note}" if row.note else ""))
    called = {side: offer.called(worst.tap) for side, offer in offers.items()}
    parts += [f"{side} calls {what}" for side, what in called.items() if what and worst.rung == "operator"]
    return "; ".join(parts)


def _results(worst: Finding, measured: Mapping[str, Arrays]) -> dict[str, NDArray[Any]]:
    """Each side's result: of the variant, or of the operator itself where it has no such variant."""
    names = (worst.tap, operands.base_name(worst.tap))
    keys = [f"{worst.precision}/{name}/{worst.operand}" for name in names]
    results = {side: next((arrays[key] for key in keys if key in arrays), None) for side, arrays in measured.items()}
    return {side: array for side, array in results.items() if array is not None}


def _script(
    folder: Path, stem: str, worst: Finding, sides: list[str], results: Mapping[str, NDArray[Any]], seed: int
) -> tuple[str, str]:
    """Write ``STEM.py``, and what it reads; the names of arrays and script, relative to the run folder."""
    values: dict[str, Any] = {"seed": seed, "tolerance": f"{worst.tolerance:.2g}", "side": worst.side, "sides": sides}
    network, arrays = f"{worst.case}/{worst.precision}", ""
    if worst.rung == "operator":
        template, base = "operator", operands.base_name(worst.tap)
        given, key = operands.everything(seed), (base, worst.operand)
        if key not in given:
            return "", ""
        kept = {f"argument_{i}": np.asarray(value) for i, value in enumerate(given[key])}
        kept |= {"referee": operands.expected({key: given[key]})[key], **results}
        folder.mkdir(exist_ok=True)
        write_arrays(folder / f"{stem}.npz", kept, compressed=True)
        compared = sides if worst.against in sides else [worst.side]
        values |= {"name": worst.tap, "precision": worst.precision, "sides": compared}
        arrays = f"{FOLDER}/{stem}.npz"
    elif worst.rung == "step":
        template = "step" if worst.tap == "own optimiser" else "still"
        values |= {"network": network}
    elif worst.case in OUTSIDE and worst.operand != ONE_SIDE:
        template, key_ = "network", f"{'gradient/' * (worst.rung == 'gradient')}{worst.tap}"
        values |= {"network": network, "key": key_}
    elif worst.tap in STAGES:
        template = "workflow"
        folder.mkdir(exist_ok=True)
        write_scan(load_fixture(FIXTURE), folder / f"{stem}.npz")
        values |= {"gridsize": 1 if "gridsize 1" in worst.case else 2, "what": STAGES[worst.tap]}
        arrays = f"{FOLDER}/{stem}.npz"
    else:
        return "", ""
    folder.mkdir(exist_ok=True)
    text = Template((TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8"))
    script = text.substitute(values, sides=json.dumps(values["sides"]), stem=stem, title=f"{worst.rung}, {worst.place}")
    (folder / f"{stem}.py").write_text(script, encoding="utf-8")
    return arrays, f"{FOLDER}/{stem}.py"
