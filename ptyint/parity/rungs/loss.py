"""Rung 3: expected counts and loss of every network."""

from functools import partial

from ptyint.parity.rungs.forward import INJECTED, TRACE, judge_taps
from ptyint.parity.rungs.rung import Rung
from ptyint.parity.tolerances import PRECISIONS

JUDGE = partial(judge_taps, "loss")

RUNG = Rung("loss", "is the loss the same?", (TRACE, INJECTED), (JUDGE,), "trace", PRECISIONS, shrinks=True)
