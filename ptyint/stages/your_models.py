"""Any pair of models: a port without a mistake is green, and each mistake is found at the layer that has it."""

from collections.abc import Mapping

from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.run import Job
from ptyint.parity.results import Ladder
from ptyint.stages.request import Request, Stage

MISTAKES = {
    "epsilon": ("norm", "", "epsilon of the normalisation 1e-5 (PyTorch's default), not 1e-3 (Keras')"),
    "same_padding": ("down", "", 'stride 2 with padding=1 on every side, where "same" pads behind alone'),
    "momentum": ("norm", "moving_mean", "momentum 0.99, where Keras' 0.99 is PyTorch's 0.01"),
    "gelu": ("act", "", "GELU by tanh"),
    "corners": ("up", "", "bilinear up-sampling with align_corners"),
}
"""Factory in ``notebooks/your_models.py`` to the layer and operand where it errs, and what is wrong with it."""

NO_FALSE_ALARM = Criterion.fact("the port without a mistake: every rung holds")


def criteria() -> tuple[Criterion, ...]:
    """One for the port as it should be, one a mistake."""
    places = ((", ".join(filter(None, (layer, operand))), words) for layer, operand, words in MISTAKES.values())
    return (NO_FALSE_ALARM, *(Criterion.fact(f"found first at {place}: {words}") for place, words in places))


def checks(right: Ladder, wrong: Mapping[str, Ladder]) -> list[Check]:
    """What the ladders of the pairs make of the :func:`criteria`."""
    alarm, *each = criteria()
    holds = {right.rung(name).verdict for name in right.rungs} == {"pass"}
    made = [alarm.holds(holds, right.divergence.sentence if right.divergence else "")]
    for criterion, (name, (layer, operand, _)) in zip(each, MISTAKES.items(), strict=True):
        first = wrong[name].divergence if name in wrong else None
        at = (first.finding.tap, first.finding.operand) if first else None
        made.append(criterion.holds(at == (layer, operand), first.sentence if first else "nothing is red"))
    return made


def _jobs(request: Request) -> list[Job]:
    names = ("your_models", "your_models", STAGE.title, "your_models")
    return [Job(*names, expects=criteria(), artifacts=("ladder.json",), alone=True)]


STAGE = Stage("Your models", "a pair that is not ptychography, and mistakes that ports make: each at its layer?", _jobs)
