"""The table of rungs, from what must hold first to what it is all for."""

from ptyint.parity.rungs import contract, cost, forward, gradient, loss, operator, persistence, step, trained

RUNGS = {
    module.RUNG.name: module.RUNG
    for module in (contract, operator, forward, loss, gradient, step, persistence, trained, cost)
}
"""Rung by name, in their order."""

NUMBERS = {name: number for number, name in enumerate(RUNGS)}
"""Rung to its number: 0 is the lowest."""

CAPTURES = {capture.name: capture for rung in RUNGS.values() for capture in rung.captures}
"""Every capture by name, in the order in which a worker makes them."""


MODELS = "models"
"""The profile of any pair of models: the rungs that need no more than a trace."""


def climbed(profile: str) -> list[str]:
    """Names of the rungs of a profile."""
    return [name for name, rung in RUNGS.items() if profile in (*rung.profiles, rung.needs == "trace" and MODELS)]
