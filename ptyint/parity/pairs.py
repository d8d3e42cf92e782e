"""The judge of any two backends: rung by rung what both can serve, and what they cannot as ``not available``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptyint.parity import compare, offered
from ptyint.parity.capabilities import Offer, lacking, unavailable
from ptyint.parity.results import RUNGS, Finding
from ptyint.parity.rungs import trained, workflow
from ptyint.parity.tolerances import PRECISIONS
from ptyint.parity.worker import read


def judge(
    folder: Path,
    reference: str,
    candidate: str,
    profile: str,
    seed: int = 0,
    stepped: Sequence[str] = PRECISIONS,
) -> list[Finding]:
    """Every finding of rungs 0 to 6, and what is not available of rung 7.

    Parameters
    ----------
    folder : Path
        Where :mod:`ptyint.parity.worker` wrote.
    reference, candidate : str
    profile : {'quick', 'full'}
    seed : int
        As for :func:`ptyint.parity.worker.measure`.
    stepped : sequence of str
        Precisions at which optimiser steps were made.
    """
    pair = (reference, candidate)
    offers = {name: Offer.load(folder, name) for name in pair}
    found = compare.contract({name: read(folder, f"{name}.contract") for name in pair}, seed)
    operators = {name: read(folder, f"{name}.operator") for name in pair}
    if all(offer.is_full for offer in offers.values()):
        found += compare.operator(operators, seed)
    elif lacking(offers, "operator"):
        found += unavailable(offers, "operator")
    else:
        found += offered.judge(operators, offers, seed)
    if lacking(offers, "forward"):
        for rung in ("forward", "loss", "gradient", "step"):
            found += unavailable(offers, rung)
    else:
        found += compare.networks(folder, reference, candidate, profile, seed, stepped)
    if lacking(offers, "persistence"):
        found += unavailable(offers, "persistence")
    else:
        arrays = [{name: read(folder, f"{name}.{what}") for name in pair} for what in ("training", "persistence")]
        found += compare.persistence(*arrays)
    if profile == "full" and (why := lacking(offers, "trained")):
        sides = (candidate, reference)
        found += [Finding.unavailable(("trained", case, "", tap), sides, why) for case, tap in trained.places()]
    working = [name for name in pair if "workflow" in offers[name].capabilities]
    ran, reloaded = ({name: read(folder, f"{name}.{what}") for name in working} for what in ("workflow", "reloaded"))
    found += workflow.judge(ran, reloaded, seed)
    return sorted(found, key=lambda finding: RUNGS.index(finding.rung))
