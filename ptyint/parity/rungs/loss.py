"""Rung 3: expected counts and loss of every network."""

from __future__ import annotations

from collections.abc import Iterable

from ptyint.parity.compare import Finding
from ptyint.parity.problems import Problems
from ptyint.parity.rungs.forward import INJECTED, TRACE, judge_taps
from ptyint.parity.rungs.rung import Measured, Rung
from ptyint.parity.tolerances import PRECISIONS


def judge(measured: Measured, problems: Problems) -> Iterable[Finding]:
    """What the loss is made of, and the loss."""
    return judge_taps("loss", measured, problems)


RUNG = Rung("loss", "is the loss the same?", (TRACE, INJECTED), (judge,), "trace", PRECISIONS, shrinks=True)
