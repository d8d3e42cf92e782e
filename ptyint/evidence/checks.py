"""A check: a question with a yes or no, asked before anything ran. Only a measured, finite, kept bound is a pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "not run", "not available", "underpowered"]

VERDICTS: tuple[Verdict, ...] = ("fail", "not run", "not available", "underpowered", "pass")
"""From the worst to the best; the only green one is the last."""

SIGNS = {"pass": "✓", "fail": "✗", "not run": "○", "not available": "⊘", "underpowered": "≈"}
"""What stands before a verdict wherever it is shown: colour alone tells a reader nothing."""

_RELATIONS = (">=", "<=", "==")
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Check:
    """One check and what came of it.

    Attributes
    ----------
    name : str
        Unique within its notebook; what the manifest declares before the run.
    measured : float, optional
        None: nothing was measured, so the check did not run. NaN is a failure.
    relation : {'>=', '<=', '=='}
    bound : float
    note : str
        What was seen, in words.
    decided : bool
        False: too few data to tell either way, which is ``underpowered`` and never a pass.
    available : bool
        False: what was to be checked does not offer what the check needs, in whole or in part; what could be measured
        may still fail, and never passes.
    """

    name: str
    measured: float | None
    relation: Literal[">=", "<=", "=="] = "=="
    bound: float = 1.0
    note: str = ""
    decided: bool = True
    available: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        if self.relation not in _RELATIONS:
            raise ValueError(f"relation is {self.relation!r}; must be one of {_RELATIONS}.")

    @classmethod
    def fact(cls, name: str, holds: bool | None, note: str = "") -> Check:
        """A statement that holds, does not hold, or (None) could not be tried."""
        return cls(name, None if holds is None else float(holds), "==", 1.0, note)

    @property
    def verdict(self) -> Verdict:
        """What the measured value says of the bound."""
        if self.measured is None:
            return "not run" if self.available else "not available"
        if not self._holds:
            return "fail"
        if not self.available:
            return "not available"
        return "pass" if self.decided else "underpowered"

    @property
    def passed(self) -> bool:
        """Whether the verdict is a pass."""
        return self.verdict == "pass"

    @property
    def _holds(self) -> bool:
        if self.measured is None or math.isnan(self.measured) or math.isnan(self.bound):
            return False
        if self.relation == ">=":
            return self.measured >= self.bound
        return self.measured <= self.bound if self.relation == "<=" else self.measured == self.bound

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite becomes ``"nan"``, ``"inf"`` or ``"-inf"``."""
        values = {
            "name": self.name,
            "verdict": self.verdict,
            "measured": None if self.measured is None else to_json(self.measured),
            "relation": self.relation,
            "bound": to_json(self.bound),
            "decided": self.decided,
            "note": self.note,
        }
        return values if self.available else {**values, "available": False}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Check:
        """Read what :meth:`to_mapping` wrote; the verdict is worked out again, not believed."""
        measured = values["measured"]
        return cls(
            str(values["name"]),
            None if measured is None else from_json(measured),
            values["relation"],
            from_json(values["bound"]),
            str(values["note"]),
            bool(values["decided"]),
            bool(values.get("available", True)),
        )


def to_json(value: float) -> float | str:
    """A number that JSON can hold; the name of one that is not finite."""
    return float(value) if math.isfinite(value) else str(float(value))


def from_json(value: float | str) -> float:
    """A number, or the name of one that is not finite."""
    return _NOT_FINITE[value] if isinstance(value, str) else float(value)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all of them together: the worst; ``not run`` where there is none."""
    return min(verdicts, key=VERDICTS.index, default="not run")
