"""Rung 5: do the optimisers move the weights alike?

Steps against Adam in NumPy and between the backends (`optimiser`), short trainings against the same steps by hand
(`training`).
"""

from __future__ import annotations

from functools import partial

from ptyint.parity.rungs import optimiser, training
from ptyint.parity.rungs.rung import Rung
from ptyint.parity.tolerances import PRECISIONS

RUNG = Rung(
    "step",
    "do the optimisers move the weights alike, step by step?",
    (optimiser.OPTIMISER, training.TRAINING, optimiser.LONG_RUN),
    (
        partial(optimiser.judge, optimiser.SHORT),
        optimiser.judge_between,
        training.judge,
        partial(optimiser.judge, optimiser.LONG),
    ),
    "trace",
    PRECISIONS,
)
