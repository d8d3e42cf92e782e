"""The ladder: what was found on each rung, whether it holds, and where the first divergence began."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ptyint._atomic import atomic_path
from ptyint.errors import ComparisonError
from ptyint.evidence.checks import Check, Verdict, from_json, to_json, worst
from ptyint.parity import tolerances
from ptyint.parity.tolerances import PRECISIONS

RUNGS = ("contract", "operator", "forward", "loss", "gradient", "step", "persistence", "trained", "cost")
"""From what must hold first to what it is all for."""

QUESTIONS = {
    "contract": "same scan, groups, configuration, initial weights, batches, metrics?",
    "operator": "does every operator do what the NumPy referee does?",
    "forward": "does every layer give the same output, given the same weights?",
    "loss": "is the loss the same?",
    "gradient": "is the gradient of every layer and weight the same?",
    "step": "do the optimisers move the weights alike, up to the drift of rounding?",
    "persistence": "does a saved model predict the same, loaded by either backend in a new process?",
    "trained": "are trained reconstructions equivalent, over seeds?",
    "cost": "what does it cost in time and memory?",
}

TWO_PRECISIONS = ("operator", "forward", "loss", "gradient")
"""Rungs on which single precision alone says nothing."""

SHRINKS = 1e5
"""By at least this factor the largest error shrinks from single to double precision, if it is rounding: by 5e8 where
rounding is all, less where a position's rounding depends on its value. A bug shrinks by 1."""

Precision = Literal["", "float32", "float64"]


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes
    ----------
    rung, case, precision, tap : str
        Where. `precision` is empty where there is none.
    side, against : str
        Which backend was compared, and with what: the other backend, or ``referee``.
    error : float
        Relative norm of the difference; 0 or 1 where it is a matter of yes or no.
    tolerance : float
    ratio : float
        Error over tolerance, the worst element's included: at most 1 holds. Infinite where there is nothing to
        compare.
    note : str
        Why the arrays are not even alike; or where they differ most.
    local : float, optional
        The ratio of this tap alone, given the reference's inputs (reference injection). None: not tried.
    decided : bool
        False: too few data to tell either way.
    available : bool
        False: a backend does not offer what this needs; `note` says what.
    """

    rung: str
    case: str
    precision: str
    tap: str
    side: str
    against: str
    error: float
    tolerance: float
    ratio: float
    note: str = ""
    local: float | None = None
    decided: bool = True
    available: bool = True

    @classmethod
    def unavailable(cls, where: tuple[str, str, str, str], sides: tuple[str, str], note: str) -> Finding:
        """A comparison that a backend cannot serve: ``(rung, case, precision, tap)``, side and against, and why."""
        return cls(*where, *sides, math.inf, 0.0, math.inf, note, available=False)

    @property
    def holds(self) -> bool:
        """Whether the error stays within the tolerance; NaN does not, nor what is not available."""
        return self.available and self.ratio <= 1

    @property
    def red(self) -> bool:
        """Whether it was compared, and differs."""
        return self.available and not self.holds

    @property
    def is_consequence(self) -> bool:
        """Red, but right once it was given right inputs."""
        return self.red and self.local is not None and self.local <= 1

    @property
    def place(self) -> str:
        """Case, precision and tap in words."""
        return ", ".join(part for part in (self.tap, self.case, self.precision) if part)


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
        words = [f"The backends part on rung {RUNGS.index(one.rung)} ({one.rung}) at {one.place}{size}."]
        if one.note:
            words.append(f"{one.note[0].upper()}{one.note[1:]}.")
        if self.side:
            words.append(f"It is {self.side} that differs from the referee.")
        if self.consequences:
            words.append(f"{len(self.consequences)} later taps differ in consequence only.")
        return " ".join(words)


@dataclass(frozen=True)
class Ladder:
    """Every finding of one pair of backends.

    Attributes
    ----------
    reference, candidate : str
        Names of the backends.
    profile : {'quick', 'full'}
    findings : tuple of Finding
    numbers : dict of str to float
        What is reported and not judged.
    about : dict of str to dict
        Backend to what its process said of itself: versions, device, threads.
    """

    reference: str
    candidate: str
    profile: str
    findings: tuple[Finding, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on(self, rung: str, precision: str | None = None) -> list[Finding]:
        """What was compared on a rung, at one precision if asked."""
        return [f for f in self._asked(rung, precision) if f.available]

    def unavailable(self, rung: str, precision: str | None = None) -> list[Finding]:
        """What could not be compared on a rung, because a backend does not offer it."""
        return [f for f in self._asked(rung, precision) if not f.available]

    def _asked(self, rung: str, precision: str | None) -> list[Finding]:
        return [f for f in self.findings if f.rung == rung and precision in (None, f.precision)]

    @property
    def rungs(self) -> tuple[str, ...]:
        """Rungs that this profile climbs."""
        return climbed(self.profile)

    def verdict(self, rung: str) -> Verdict:
        """The verdict on one rung."""
        return worst(check.verdict for check in self.checks() if check.name.startswith(f"{rung}"))

    @property
    def divergence(self) -> Divergence | None:
        """Where the backends part first; None where they do not."""
        for rung in self.rungs:
            red = [f for f in self.on(rung) if f.red]
            if red:
                culprits = [f for f in red if not f.is_consequence] or red
                first = culprits[0]
                if self.unavailable(rung):  # operators and stages on their own: what the two make of them comes first
                    first = next((f for f in culprits if f.against == self.reference), first)
                followers = tuple(f for f in red if f.is_consequence and f is not first)
                others = tuple(f for f in culprits if f is not first)
                return Divergence(first, followers, others, self._side(first))
        return None

    def _side(self, finding: Finding) -> str:
        if finding.against == "referee":
            return finding.side
        same = (finding.rung, finding.case, finding.tap)
        off = {f.side for f in self.findings if f.against == "referee" and (f.rung, f.case, f.tap) == same and f.red}
        return off.pop() if len(off) == 1 else ""

    def worst(self, rung: str, precision: str | None = None) -> Finding | None:
        """The finding nearest to its tolerance, or farthest beyond it."""
        return max(self.on(rung, precision), key=_order, default=None)

    def shrinks(self, rung: str) -> float | None:
        """Largest error in single precision over the largest in double; None where one of them is missing."""
        errors = [
            {(f.case, f.tap, f.side, f.against): f.error for f in self.on(rung, precision)} for precision in PRECISIONS
        ]
        both = errors[0].keys() & errors[1].keys()
        if not both or rung not in TWO_PRECISIONS:
            return None
        single, double = (max(of_one[key] for key in both) for of_one in errors)
        return math.nan if math.isinf(single) or math.isinf(double) else single / double if double > 0 else math.inf

    def checks(self) -> list[Check]:
        """One check a rung and precision, and for each the factor between the precisions; see `check_names`."""
        found = []
        by_place = {(f.case, f.tap): f for f in self._asked("trained", None)}
        for name in check_names(self.profile):
            rung, _, rest = name.partition(", ")
            if rung == "trained":
                one = next((f for place, f in by_place.items() if name == _trained(*place)), None)
                if one is not None and not one.available:
                    found.append(Check(name, None, "<=", 1.0, one.note, available=False))
                    continue
                ratio, words = (None, "nothing was trained") if one is None else (one.ratio, one.note)
                found.append(Check(name, ratio, "<=", 1.0, words, one is None or one.decided))
                continue
            rung = rung.partition(":")[0]
            if rest == _SHRINKING:
                missing = self.unavailable(rung)
                found.append(Check(name, self.shrinks(rung), ">=", SHRINKS, _why(missing), available=not missing))
                continue
            precision = rest.partition(":")[0] if rest else ""
            worst_one, missing = self.worst(rung, precision or None), self.unavailable(rung, precision or None)
            if worst_one is None:
                note = _why(missing) or "nothing was measured"
                found.append(Check(name, None, "<=", 1.0, note, available=not missing))
            else:
                note = "; ".join(filter(None, (_words(worst_one), _why(missing))))
                found.append(Check(name, worst_one.ratio, "<=", 1.0, note, available=not missing))
        return found

    @property
    def claims(self) -> dict[Verdict, list[str]]:
        """Rungs by verdict: what the evidence supports (pass), what it contradicts (fail), what it is silent about."""
        found: dict[Verdict, list[str]] = {}
        for rung in self.rungs:
            found.setdefault(self.verdict(rung), []).append(rung)
        return found

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "profile": self.profile,
            "about": self.about,
            "tolerances": tolerances.by_name(),
            "divergence": None if self.divergence is None else self.divergence.sentence,
            "numbers": {name: to_json(value) for name, value in self.numbers.items()},
            "findings": [
                {key: to_json(v) if isinstance(v, float) else v for key, v in asdict(finding).items()}
                for finding in self.findings
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything as JSON, whole or not at all."""
        target = Path(path)
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(self.to_mapping(), indent=1), encoding="utf-8")
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ladder:
        """Read what :meth:`save` wrote, to explore it by hand.

        Raises
        ------
        ComparisonError
            The file is not a ladder.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            findings = tuple(map(_finding, values["findings"]))
            numbers = {name: from_json(value) for name, value in values["numbers"].items()}
            about = values.get("about", {})
            return cls(values["reference"], values["candidate"], values["profile"], findings, numbers, about)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ComparisonError(f"{path} is not a parity ladder: {error}. Run the ladder again.") from error

    def _repr_html_(self) -> str:
        from ptyint.parity.figures import overview

        return overview(self).html


_SHRINKING = "error in float32 over that in float64"


def climbed(profile: str) -> tuple[str, ...]:
    """Rungs of a profile: `trained` takes minutes, and is part of the full one alone."""
    return tuple(rung for rung in RUNGS if rung != "trained" or profile == "full")


def check_names(profile: str) -> list[str]:
    """Names of the checks of :meth:`Ladder.checks`, known before anything is measured."""
    from ptyint.parity.rungs.trained import places

    names = []
    for rung in climbed(profile):
        if rung == "trained":
            names += [_trained(case, tap) for case, tap in places()]
        elif rung in TWO_PRECISIONS or rung == "step":
            names += [f"{rung}, {precision}: largest error over its tolerance" for precision in PRECISIONS]
        else:
            names.append(f"{rung}: largest error over its tolerance")
        if rung in TWO_PRECISIONS:
            names.append(f"{rung}, {_SHRINKING}")
    return names


def _trained(case: str, tap: str) -> str:
    return f"trained, {case}, {tap}: over the margin"


def _finding(values: dict[str, Any]) -> Finding:
    sizes = {name: from_json(values[name]) for name in ("error", "tolerance", "ratio")}
    local = None if values["local"] is None else from_json(values["local"])
    return Finding(**{**values, **sizes, "local": local})


def _order(finding: Finding) -> float:
    return math.inf if math.isnan(finding.ratio) else finding.ratio


def _why(missing: Sequence[Finding]) -> str:
    """What is not available, in words."""
    if not missing:
        return ""
    taps: dict[str, dict[str, None]] = {}
    for one in missing:
        taps.setdefault(one.note, {})[one.tap] = None
    reasons = [f"{', '.join(filter(None, found))}: {note}".removeprefix(": ") for note, found in taps.items()]
    return f"{len(missing)} not available ({'; '.join(reasons)})"


def _words(finding: Finding) -> str:
    detail = f" ({finding.note})" if finding.note and not finding.holds else ""
    return f"{finding.place}: {finding.error:.2g} of {finding.tolerance:.2g}{detail}"


def count(findings: Sequence[Finding]) -> str:
    """How many findings hold, in words."""
    counts = Counter(f.holds for f in findings)
    return f"{counts[True]} of {len(findings)}"
