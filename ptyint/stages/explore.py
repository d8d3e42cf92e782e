"""What ``notebooks/explore.ipynb`` lets one choose from a run: only what is there."""

from itertools import combinations

from ptyint.evidence.display import Fragment
from ptyint.images import figures, viewer
from ptyint.images.viewer import Chooser
from ptyint.parity.compare import RedTap
from ptyint.stages.runs import Run


def taps(run: Run) -> Chooser | Fragment:
    """The red taps of a run, rung by rung."""
    rungs: dict[str, dict[str, RedTap]] = {}
    for one in run.arrays:
        rungs.setdefault(one.rung, {})[f"{one.place}: {one.side} against {one.against}"] = one
    nothing = Fragment.of(f"{run!r} has no arrays of red taps.")
    return Chooser(lambda rung: Chooser(_tap, tap=rung), rung=rungs) if rungs else nothing


def _tap(tap: RedTap) -> Chooser | Fragment:
    return viewer.arrays(tap.reference, tap.candidate, (tap.against, tap.side))


def reconstructions(run: Run) -> Chooser | Fragment:
    """Pairs of reconstructions by both backends: overlaid, with a row through both, and their losses."""
    made = run.reconstructions
    both = combinations(sorted(made, reverse=True), 2)
    alike = [(a, b) for a, b in both if a.replace(made[a].backend, made[b].backend) == b]
    pairs = {f"{a} and {b}": (made[a], made[b]) for a, b in alike}
    views = {"overlaid": viewer.blink, "losses": figures.loss_curves, "probes": figures.probes}
    nothing = Fragment.of(f"{run!r} has no two to compare.")
    return Chooser(lambda pair, view: view(*pair), pair=pairs, view=views) if pairs else nothing
