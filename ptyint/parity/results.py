"""The ladder: what was found on each rung, whether it holds, and where the first divergence began."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ptyint._atomic import write_text
from ptyint.errors import ComparisonError
from ptyint.evidence.checks import SIGNS, Check, Criterion, Verdict, to_json
from ptyint.evidence.checks import worst as worst_of
from ptyint.evidence.display import Table, checks_table
from ptyint.parity import tolerances
from ptyint.parity.compare import REFEREE, Finding, plain
from ptyint.parity.rungs import NUMBERS, RUNGS, climbed
from ptyint.parity.rungs.rung import Rung
from ptyint.parity.tolerances import PRECISIONS

VERSION = 2
"""Of ``ladder.json``: since 2 every key of a finding is a field of its own."""


@dataclass(frozen=True, repr=False)
class Judged:
    """One rung and its findings, in the order in which data flow."""

    rung: Rung
    rows: tuple[Finding, ...]

    @property
    def findings(self) -> pd.DataFrame:
        """A row for each finding; see :func:`table`."""
        return table(self.rows)

    @cached_property
    def checks(self) -> list[Check]:
        """One check for each of the rung's criteria."""
        rung, asked = self.rung, self.rung.criteria()
        if rung.places:
            return [self._of_place(*one) for one in zip(asked, rung.places, strict=True)]
        checks = [self._of_largest(*one) for one in zip(asked, rung.precisions, strict=False)]
        if rung.shrinks:
            missing = _why([row for row in self.unavailable if not row.tap] or self.unavailable)
            checks.append(asked[-1].measured(self.shrinks, missing, available=not missing))
        return checks

    def _of_largest(self, criterion: Criterion, precision: str) -> Check:
        largest = self.worst(precision or None)
        missing = _why([row for row in self.unavailable if precision in ("", row.precision)])
        if largest is None:
            return criterion.measured(None, missing or "nothing was measured", available=not missing)
        detail = f" ({largest.note})" if largest.note and not largest.holds else ""
        words = f"{largest.place}: {largest.error:.2g} of {largest.tolerance:.2g}{detail}"
        return criterion.measured(largest.ratio, "; ".join(filter(None, (words, missing))), available=not missing)

    def _of_place(self, criterion: Criterion, place: tuple[str, str]) -> Check:
        row = next((row for row in self.rows if (row.case, row.tap) == place), None)
        if row is None:
            return criterion.measured(None, "nothing was trained")
        return criterion.measured(
            row.ratio if row.available else None, row.note, decided=row.decided, available=row.available
        )

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks."""
        return worst_of(check.verdict for check in self.checks)

    @property
    def shrinks(self) -> float | None:
        """Largest error in single precision over the largest in double; None where that is not asked, or missing."""
        single, double = (
            {(row.where._replace(precision=""), row.side, row.against): row.error for row in self.on(precision)}
            for precision in PRECISIONS
        )
        both = single.keys() & double.keys()
        if not (self.rung.shrinks and both):
            return None
        wide, narrow = (max(errors[key] for key in both) for errors in (single, double))
        if math.isinf(wide) or math.isinf(narrow):
            return math.nan
        return (wide or float(np.finfo("float32").eps)) / narrow if narrow > 0 else math.inf

    def on(self, precision: str | None = None) -> list[Finding]:
        """What was compared, at one precision if asked."""
        return [row for row in self.rows if row.available and precision in (None, row.precision)]

    @property
    def unavailable(self) -> list[Finding]:
        """What could not be compared, because a backend does not offer it."""
        return [row for row in self.rows if not row.available]

    def worst(self, precision: str | None = None) -> Finding | None:
        """The finding nearest to its tolerance, or farthest beyond it."""
        return max(self.on(precision), key=attrgetter("excess"), default=None)

    def __repr__(self) -> str:
        return f"<rung {self.rung.name}: {self.verdict}, {len(self.rows)} findings>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        caption = f"Rung {NUMBERS[self.rung.name]}, {self.rung.name}: {self.rung.question}"
        return replace(checks_table(self.checks, caption), record=None)._repr_mimebundle_()


def _why(missing: Sequence[Finding]) -> str:
    """What is not available, in words, what holds for both sides said once; empty where everything is."""
    groups: dict[str, list[Finding]] = {}
    for row in missing:
        groups.setdefault(row.note.removeprefix(f"{row.side} does"), []).append(row)
    reasons = []
    for words, rows in groups.items():
        taps = ", ".join(dict.fromkeys(row.tap for row in rows if row.tap))
        sides = dict.fromkeys(row.side for row in rows) if rows[0].note != words else ()
        who = " and ".join(sides) + ("", " does", " do")[len(sides)]
        reasons.append(f"{taps}: {who}{words}".removeprefix(": "))
    return f"{len(missing)} not available ({'; '.join(reasons)})" if missing else ""


def table(rows: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a data frame: a column for each field of :class:`Finding`, and its verdict, place and consequence."""
    columns = [*Finding.__dataclass_fields__, "verdict", "place", "is_consequence"]
    frame = pd.DataFrame([[getattr(row, name) for name in columns] for row in rows], columns=columns)
    return frame.astype({"step": "Int64"}).rename(columns={"is_consequence": "consequence"})


@dataclass(frozen=True)
class Divergence:
    """Where two backends part: the first red rung, and on it the first tap that errs by itself.

    Attributes
    ----------
    finding : Finding
    consequences : tuple of Finding
        The other red findings of that rung that are right once they are given right inputs.
    others : tuple of Finding
        The rest of that rung's red ones.
    side : str
        Which backend differs from the referee; empty where it cannot be told.
    """

    finding: Finding
    consequences: tuple[Finding, ...] = ()
    others: tuple[Finding, ...] = ()
    side: str = ""

    @property
    def sentence(self) -> str:
        """In words, for the top of a page."""
        one = self.finding
        size = "" if math.isinf(one.ratio) else f": {one.error:.2g}, {one.ratio:.2g} times the tolerance"
        words = [f"The backends part on rung {NUMBERS[one.rung]} ({one.rung}) at {one.place}{size}."]
        if one.note:
            words.append(f"{one.note[0].upper()}{one.note[1:]}.")
        if self.side:
            words.append(f"It is {self.side} that differs from the referee.")
        if self.consequences:
            words.append(f"{len(self.consequences)} later taps differ in consequence only.")
        return " ".join(words)


@dataclass(frozen=True, repr=False)
class Ladder:
    """Every finding of one pair of backends.

    Attributes
    ----------
    reference, candidate : str
        Names of the backends.
    profile : {'quick', 'full'}
    rows : tuple of Finding
    numbers : dict of str to float
        What is reported and not judged.
    about : dict of str to dict
        Backend to what its process said of itself: versions, device, threads.

    Examples
    --------
    >>> from ptyint.parity.compare import Finding
    >>> row = Finding("forward", "gridsize 1", "float64", "region", "", None, "pytorch", "tensorflow", 2e-9, 1e-9, 2.0)
    >>> ladder = Ladder("tensorflow", "pytorch", "quick", (row,))
    >>> ladder.findings.query("tap == 'region'")["verdict"].item()
    'fail'
    >>> ladder.divergence.finding.place
    'region, gridsize 1, float64'
    """

    reference: str
    candidate: str
    profile: str
    rows: tuple[Finding, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def findings(self) -> pd.DataFrame:
        """A row for each finding, to sort, filter and pivot.

        Columns: rung, case, precision, tap, operand, step, side, against, error, tolerance, ratio, note, local,
        decided, available (see :class:`ptyint.parity.compare.Finding`); then verdict, place and consequence.
        """
        return table(self.rows)

    @property
    def rungs(self) -> list[str]:
        """Names of the rungs that this profile climbs."""
        return climbed(self.profile)

    def rung(self, name: str) -> Judged:
        """One rung and its findings."""
        return Judged(RUNGS[name], tuple(row for row in self.rows if row.rung == name))

    def checks(self) -> list[Check]:
        """One check for each of :func:`criteria`."""
        return [check for name in self.rungs for check in self.rung(name).checks]

    @property
    def divergence(self) -> Divergence | None:
        """Where the backends part first; None where they do not."""
        for judged in map(self.rung, self.rungs):
            red = [row for row in judged.rows if row.red]
            if red:
                culprits = [row for row in red if not row.is_consequence] or red
                first = culprits[0]
                if judged.unavailable:  # operators and stages on their own: what the two make of them comes first
                    first = next((row for row in culprits if row.against == self.reference), first)
                followers = tuple(row for row in red if row.is_consequence and row is not first)
                others = tuple(row for row in culprits if row is not first)
                return Divergence(first, followers, others, self._side(first))
        return None

    def _side(self, finding: Finding) -> str:
        if finding.against == REFEREE:
            return finding.side
        here = (finding.rung, finding.case, finding.tap, finding.operand)
        red = [row for row in self.rows if row.against == REFEREE and row.red]
        off = {row.side for row in red if (row.rung, row.case, row.tap, row.operand) == here}
        return off.pop() if len(off) == 1 else ""

    @property
    def claims(self) -> dict[Verdict, list[str]]:
        """Rungs by verdict: what the evidence supports (pass), what it contradicts (fail), what it is silent about."""
        names: dict[Verdict, list[str]] = {}
        for rung in self.rungs:
            names.setdefault(self.rung(rung).verdict, []).append(rung)
        return names

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything as JSON, whole or not at all."""
        values = {
            "version": VERSION,
            "reference": self.reference,
            "candidate": self.candidate,
            "profile": self.profile,
            "about": self.about,
            "tolerances": tolerances.by_name(),
            "divergence": None if self.divergence is None else self.divergence.sentence,
            "numbers": {name: to_json(value) for name, value in self.numbers.items()},
            "findings": [plain(row) for row in self.rows],
        }
        return write_text(path, json.dumps(values, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Ladder":
        """Read what :meth:`save` wrote, to explore it by hand.

        Parameters
        ----------
        path : path-like
            The ``ladder.json`` of a run.

        Raises
        ------
        ComparisonError
            The file is not a ladder, or one of another version.
        """
        from pydantic import TypeAdapter

        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            version = values.get("version", 1)
            if version != VERSION:
                raise ValueError(f"it is of version {version}, and this release reads version {VERSION}")
            return TypeAdapter(cls).validate_python({**values, "rows": values["findings"]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ComparisonError(f"{path} is not a parity ladder: {error}. Run the ladder again.") from error

    @property
    def overview(self) -> pd.DataFrame:
        """One row a rung: its question, verdict, largest error in both precisions and the factor between them."""
        return pd.DataFrame([_line(self.rung(name)) for name in self.rungs])

    def __repr__(self) -> str:
        return f"<ladder of {self.reference} and {self.candidate}, {self.profile}: {len(self.rows)} findings>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return Table.of(self.overview, "The ladder, rung by rung")._repr_mimebundle_()


def _line(judged: Judged) -> dict[str, Any]:
    sizes = {p: "-" if (row := judged.worst(p)) is None else row.size for p in PRECISIONS}
    largest, shrinking = judged.worst(), judged.shrinks
    return {
        "rung": f"{NUMBERS[judged.rung.name]} {judged.rung.name}",
        "question": judged.rung.question,
        "verdict": f"{SIGNS[judged.verdict]} {judged.verdict}",
        "hold": f"{sum(row.holds and row.decided for row in judged.on())} of {len(judged.on())}",
        **{f"{precision}: error of tolerance": size for precision, size in sizes.items()},
        "shrinks by": "-" if shrinking is None else f"{shrinking:.1e}",
        "largest at": largest.place if largest else "-",
    }


def criteria(profile: str) -> tuple[Criterion, ...]:
    """What the ladder will report, known before anything is measured."""
    return tuple(criterion for name in climbed(profile) for criterion in RUNGS[name].criteria())
