"""One line for each thing in which two backends disagree, and arrays with a short script that shows it.

For backends that cannot be traced the ladder has no culprits and consequences: each operator and stage that is red
stands for itself, and its maintainer needs to see it alone.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import write_arrays, write_text
from ptyint.evidence.checks import to_json
from ptyint.parity import operands
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import REFEREE, Arrays, Finding
from ptyint.parity.configurations import FIXTURE
from ptyint.parity.rungs.rung import stored
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

FOLDER, NAME = "reproductions", "disagreements.json"
TEMPLATES = Path(__file__).parent / "templates"


Disagreement = dict[str, Any]
"""What a maintainer can act on, by name.

rung, tap, case, operand, side, against, error
    Of the worst finding; see :class:`ptyint.parity.compare.Finding`.
words : str
    Measured sizes, and which functions were called.
arrays, script : str
    Files relative to the run folder; empty where there is nothing to call.
"""

KEPT = ("rung", "tap", "case", "operand", "side", "against")


def write(
    scratch: Path, target: Path, findings: Sequence[Finding], offers: Mapping[str, Offer], seed: int = 0
) -> list[Disagreement]:
    """Every red operator and stage of a pair that cannot be traced, with its reproduction below `target`.

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
    """
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for row in findings:
        if row.red and row.rung in ("contract", "operator", "forward", "persistence"):
            # other shapes, and values that are not finite, are disagreements of their own
            kind = "" if math.isfinite(row.error) else row.note.partition(" ")[0]
            groups.setdefault((row.rung, row.tap, kind), []).append(row)
    measured = {side: stored(scratch, side, "operator") for side in offers}
    disagreements = []
    for number, red in enumerate(groups.values(), 1):
        between = [row for row in red if row.against in offers and row.side != row.against]
        worst = max(between or red, key=attrgetter("excess"))
        stem = f"{number:02d}-{re.sub('[^a-z0-9]+', '-', worst.tap.lower()).strip('-')[:40]}"
        words, files = _words(worst, red, offers), ("", "")
        if worst.rung == "operator":
            results = _results(worst, measured)
            largest = [f"{np.abs(array).max():.4g} ({side})" for side, array in results.items() if array.size]
            words += f"; largest value {', '.join(largest)}" if largest else ""
            files = _operator(target / FOLDER, stem, worst, results, seed)
        elif any("workflow" in offers[side].capabilities for side in (worst.side, worst.against) if side in offers):
            files = _stage(target / FOLDER, stem, worst, seed)
        said = {"error": to_json(worst.error), "words": words, "arrays": files[0], "script": files[1]}
        disagreements.append({**{name: getattr(worst, name) for name in KEPT}, **said})
    write_text(target / NAME, json.dumps(disagreements, indent=1))
    return disagreements


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


def _operator(
    folder: Path, stem: str, worst: Finding, results: Mapping[str, NDArray[Any]], seed: int
) -> tuple[str, str]:
    base = operands.base_name(worst.tap)
    given, key = operands.everything(seed), (base, worst.operand)
    if key not in given:
        return "", ""
    arrays = {f"argument_{i}": np.asarray(value) for i, value in enumerate(given[key])}
    arrays |= {"referee": operands.expected({key: given[key]})[key], **results}
    folder.mkdir(exist_ok=True)
    write_arrays(folder / f"{stem}.npz", arrays, compressed=True)
    return _script(folder, stem, "operator", worst, name=worst.tap, base=base, precision=worst.precision)


def _stage(folder: Path, stem: str, worst: Finding, seed: int) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    write_scan(load_fixture(FIXTURE), folder / f"{stem}.npz")
    initial = worst.tap.startswith(("architecture", "initial"))
    call = "backend.initial_weights(config)" if initial else "backend.run(scan, config, folder)"
    gridsize = 1 if "gridsize 1" in worst.case else 2
    return _script(folder, stem, "workflow", worst, gridsize=gridsize, seed=seed, call=call)


def _script(folder: Path, stem: str, template: str, worst: Finding, **values: Any) -> tuple[str, str]:
    """Write ``STEM.py`` from a template; the names of arrays and script, relative to the run folder."""
    text = Template((TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8"))
    script = text.substitute(values, stem=stem, title=f"{worst.rung}, {worst.place}")
    (folder / f"{stem}.py").write_text(script, encoding="utf-8")
    return f"{FOLDER}/{stem}.npz", f"{FOLDER}/{stem}.py"
