"""One line for each thing in which two backends disagree, and arrays with a short script that shows it.

For backends that cannot be traced the ladder has no culprits and consequences: each operator and stage that is red
stands for itself, and its maintainer needs to see it alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path, write_arrays
from ptyint.evidence.checks import to_json
from ptyint.parity import operands, problems
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import REFEREE, Arrays, Finding
from ptyint.parity.rungs.rung import stored
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

FOLDER = "reproductions"
NAME = "disagreements.json"

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Disagreement:
    """What a maintainer can act on.

    Attributes
    ----------
    rung, tap, case : str
        Where, at its worst.
    side, against : str
        Which backend was compared, and with what.
    error : float
        Relative; see :class:`ptyint.parity.results.Finding`.
    words : str
        Measured sizes, and which functions were called.
    arrays, script : str
        Files relative to the run folder; empty where there is nothing to call.
    """

    rung: str
    tap: str
    case: str
    side: str
    against: str
    error: float
    words: str
    arrays: str = ""
    script: str = ""


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
        As for :func:`ptyint.parity.worker.measure`.
    """
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        if one.red and one.rung in ("contract", "operator", "forward", "persistence"):
            groups.setdefault((one.rung, one.tap, _kind(one)), []).append(one)
    measured = {side: stored(scratch, side, "operator") for side in offers}
    given = operands.everything(seed)
    found = []
    for number, ((rung, tap, _), red) in enumerate(groups.items(), 1):
        between = [one for one in red if one.against in offers and one.side != one.against]
        worst = max(between or red, key=_size)
        stem = f"{number:02d}-{re.sub('[^a-z0-9]+', '-', tap.lower()).strip('-')[:40]}"
        words, files = _words(worst, red, offers), ("", "")
        if rung == "operator":
            words += _largest(worst, measured)
            files = _operator(target / FOLDER, stem, worst, measured, given)
        elif any("workflow" in offers[side].capabilities for side in (worst.side, worst.against) if side in offers):
            files = _stage(target / FOLDER, stem, worst, seed)
        place = (worst.rung, worst.tap, worst.operand or worst.case, worst.side, worst.against)
        found.append(Disagreement(*place, worst.error, words, *files))
    with atomic_path(target / NAME) as path:
        path.write_text(json.dumps([asdict(one) | {"error": to_json(one.error)} for one in found], indent=1))
    return found


def _kind(finding: Finding) -> str:
    """Other shapes, and values that are not finite, are disagreements of their own."""
    return "" if math.isfinite(finding.error) else finding.note.partition(" ")[0]


def _size(finding: Finding) -> float:
    return math.inf if math.isnan(finding.ratio) else finding.ratio


def _words(worst: Finding, red: Sequence[Finding], offers: Mapping[str, Offer]) -> str:
    """Sizes against each other and against the referee, and what was called."""
    fact = worst.tolerance == 0 and bool(worst.note)  # yes or no: the note says it all
    size = "not comparable" if math.isinf(worst.error) else f"{worst.error:.3g} relative"
    parts = [f"{worst.side} against {worst.against}: " + ", ".join(filter(None, ("" if fact else size, worst.note)))]
    for side in offers:
        theirs = [one for one in red if one.side == side and one.against == REFEREE and worst.against != REFEREE]
        if theirs and not fact:
            one = max(theirs, key=_size)
            parts.append(f"{side} against the referee: {one.error:.3g}" + (f", {one.note}" if one.note else ""))
    called = {side: offer.called(worst.tap) for side, offer in offers.items()}
    parts += [f"{side} calls {what}" for side, what in called.items() if what and worst.rung == "operator"]
    return "; ".join(parts)


def _key(worst: Finding, name: str) -> str:
    return f"{worst.precision}/{name}/{worst.operand}"


def _result(worst: Finding, arrays: Arrays) -> NDArray[Any] | None:
    """A side's result: of the variant, or of the operator itself where it has no such variant."""
    own, base = (arrays.get(_key(worst, name)) for name in (worst.tap, operands.base_name(worst.tap)))
    return base if own is None else own


def _largest(worst: Finding, measured: Mapping[str, Arrays]) -> str:
    values = {side: _result(worst, arrays) for side, arrays in measured.items()}
    sizes = [f"{np.abs(a).max():.4g} ({side})" for side, a in values.items() if a is not None and a.size]
    return f"; largest value {', '.join(sizes)}" if sizes else ""


def _operator(
    folder: Path, stem: str, worst: Finding, measured: Mapping[str, Arrays], given: operands.Operands
) -> tuple[str, str]:
    base = operands.base_name(worst.tap)
    key = (base, worst.operand)
    if key not in given:
        return "", ""
    arrays = {f"argument_{i}": np.asarray(value) for i, value in enumerate(given[key])}
    arrays["referee"] = operands.expected({key: given[key]})[key]
    results = {side: _result(worst, found) for side, found in measured.items()}
    arrays |= {side: array for side, array in results.items() if array is not None}
    folder.mkdir(exist_ok=True)
    write_arrays(folder / f"{stem}.npz", arrays, compressed=True)
    return _script(folder, stem, "operator", worst, name=worst.tap, base=base, precision=worst.precision)


def _stage(folder: Path, stem: str, worst: Finding, seed: int) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    write_scan(load_fixture(problems.FIXTURE), folder / f"{stem}.npz")
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
