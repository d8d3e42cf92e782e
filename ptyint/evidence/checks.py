"""A check: a question with a yes or no, asked before anything ran. Only a measured, finite, kept bound is a pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ptyint.errors import ConfigError

Verdict = Literal["pass", "fail", "not run", "not available", "underpowered"]
Relation = Literal[">=", "<=", "=="]

HOLDS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}
"""Relation of a measured value to its bound, to what decides it; where one of the two is NaN none holds."""

VERDICTS: tuple[Verdict, ...] = ("fail", "not run", "not available", "underpowered", "pass")
"""From the worst to the best; the only green one is the last."""

SIGNS = {"pass": "✓", "fail": "✗", "not run": "○", "not available": "⊘", "underpowered": "≈"}
"""What stands before a verdict wherever it is shown: colour alone tells a reader nothing."""

PLAIN = {"✓": "+", "✗": "x", "○": "o", "⊘": "-", "≈": "~", "→": "->", "…": "..."}
"""What stands in their place where an output has no such sign."""


class _Related:
    """What has a relation, and refuses one that there is not."""

    relation: Relation

    def __post_init__(self) -> None:
        """Validate."""
        if self.relation not in HOLDS:
            raise ValueError(f"relation is {self.relation!r}; must be one of {tuple(HOLDS)}.")


@dataclass(frozen=True)
class Check(_Related):
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
    unit : str
        Of the measured value and the bound; empty: a pure number, or a fact.
    """

    name: str
    measured: float | None
    relation: Relation = "=="
    bound: float = 1.0
    note: str = ""
    decided: bool = True
    available: bool = True
    unit: str = ""

    @classmethod
    def fact(cls, name: str, holds: bool | None, note: str = "") -> Check:
        """A statement that holds, does not hold, or (None) could not be tried."""
        return cls(name, None if holds is None else float(holds), "==", 1.0, note)

    @property
    def verdict(self) -> Verdict:
        """What the measured value says of the bound."""
        if self.measured is None:
            return "not run" if self.available else "not available"
        if not HOLDS[self.relation](self.measured, self.bound):
            return "fail"
        if not self.available:
            return "not available"
        return "pass" if self.decided else "underpowered"

    @property
    def passed(self) -> bool:
        """Whether the verdict is a pass."""
        return self.verdict == "pass"

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; what is not finite becomes ``"nan"``, ``"inf"`` or ``"-inf"``."""
        values = {"name": self.name, "verdict": self.verdict, **asdict(self), "bound": to_json(self.bound)}
        values["measured"] = None if self.measured is None else to_json(self.measured)
        usual = {"available": True, "unit": ""}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}


@dataclass(frozen=True)
class Criterion(_Related):
    """What will be asked, said once and before anything runs: a :class:`Check` is this with what was measured.

    Attributes
    ----------
    name : str
        The key, unique in its notebook.
    relation : {'>=', '<=', '=='}
    bound : float
    unit : str
        Of bound and measured value.
    parameter : str
        The notebook parameter that holds the bound, where one does; see :meth:`at`.

    Examples
    --------
    >>> agreement = Criterion("phases agree", ">=", 0.9, parameter="min_agreement")
    >>> agreement.at({"min_agreement": 0.95}).measured(0.93).verdict
    'fail'
    >>> Criterion.fact("the file was read").holds(True).verdict
    'pass'
    """

    name: str
    relation: Relation = "=="
    bound: float = 1.0
    unit: str = ""
    parameter: str = ""

    @classmethod
    def fact(cls, name: str) -> Criterion:
        """A statement that will hold or not."""
        return cls(name)

    def at(self, parameters: Mapping[str, Any]) -> Criterion:
        """The same with the bound that its parameter has; unchanged where no parameter holds the bound.

        Raises
        ------
        ConfigError
            There is no such parameter, or it is no number.
        """
        if not self.parameter:
            return self
        value = parameters.get(self.parameter)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ConfigError(
                f"The bound of {self.name!r} is the parameter {self.parameter!r}, which is {value!r}; must be a number."
            )
        return replace(self, bound=float(value))

    def measured(self, value: float | None, note: str = "", *, decided: bool = True, available: bool = True) -> Check:
        """The check that this measurement makes; None: nothing could be measured."""
        return Check(self.name, value, self.relation, self.bound, note, decided, available, self.unit)

    def holds(self, value: bool | None, note: str = "", *, available: bool = True) -> Check:
        """The check that a fact makes; None: it could not be tried."""
        return self.measured(None if value is None else float(value), note, available=available)


def to_json(value: float) -> float | str:
    """A number that JSON can hold; the name of one that is not finite."""
    return float(value) if math.isfinite(value) else str(float(value))


def signed(verdict: Verdict) -> str:
    """A verdict after its sign."""
    return f"{SIGNS[verdict]} {verdict}"


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on all of them together: the worst; ``not run`` where there is none."""
    return min(verdicts, key=VERDICTS.index, default="not run")
