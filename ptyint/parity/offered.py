"""Rung 1 for backends that offer some of the operators: each against the referee, and the two against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.parity import extras, problems
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import INTERPOLATED, REFEREE, compare, referee_finding
from ptyint.parity.results import Finding
from ptyint.parity.tolerances import PRECISIONS, TOLERANCES, Tolerance
from ptyint.parity.worker import Arrays, noted

UNSUPPORTED = "NotImplementedError: "
"""What an operator raises for operands that its backend knowingly does not take: not available, and not red."""


def measure(backend: Any, seed: int = 0) -> Arrays:
    """Every operator and variant that the backend offers, on all its operands, by ``precision/label``."""
    given, arrays = extras.everything(seed), Arrays()
    for precision in backend.precisions:
        for name, operator in backend.operators(precision).items():
            for key, label in extras.labels(name, given).items():
                with noted(arrays, f"{precision}/{key}"):
                    arrays[f"{precision}/{key}"] = np.asarray(operator(*given[label][1]))
    return arrays


def judge(found: Mapping[str, Arrays], offers: Mapping[str, Offer], seed: int = 0) -> list[Finding]:
    """Every operator that a side offers, and one finding for each that it should and does not.

    Parameters
    ----------
    found : dict of str to dict
        Arrays of reference and candidate.
    offers : dict of str to Offer
    seed : int
    """
    given = extras.everything(seed)
    expected = problems.expected_operators(given)
    names = dict.fromkeys((*extras.REQUIRED, *(name for offer in offers.values() for name in offer.operators)))
    findings = []
    for name in names:
        for side, offer in offers.items():
            if name not in offer.operators and name in extras.REQUIRED:
                where = ("operator", "", "float32", name)
                findings.append(Finding.unavailable(where, (side, REFEREE), f"{side} does not offer them"))
        for key, label in extras.labels(name, given).items():
            findings += _findings(key, label, name, expected[label], found, offers)
    for side, offer in offers.items():
        for precision in set(PRECISIONS) - set(offer.precisions):
            where = ("operator", "", precision, "")
            findings.append(Finding.unavailable(where, (side, REFEREE), f"{side} does not compute in {precision}"))
    return findings


def _findings(
    key: str,
    label: str,
    name: str,
    wide: NDArray[Any],
    found: Mapping[str, Arrays],
    offers: Mapping[str, Offer],
) -> list[Finding]:
    """One operand: the two sides, then each against the referee."""
    reference, candidate = offers
    findings, tolerance = [], tolerance_of(name)
    for precision in PRECISIONS:
        where = ("operator", key.removeprefix(name).removeprefix(", "), precision, name)
        keys = {side: f"{precision}/{_own(key, label, name, offer)}" for side, offer in offers.items()}
        sides = [side for side in offers if precision in offers[side].precisions and _offers(name, offers[side])]
        barred = {side: str(found[side].get(f"error/{keys[side]}", "")) for side in sides}
        barred = {side: why for side, why in barred.items() if why.startswith(UNSUPPORTED)}
        if len(sides) == 2 and not barred:
            arrays = (found[candidate], found[reference])
            pair = (keys[candidate], keys[reference])
            findings.append(compare(where, (candidate, reference), arrays, pair, tolerance))
        for side in sides:
            if name not in offers[side].operators:
                continue  # a variant of the other side's
            if side in barred:
                why = barred[side].removeprefix(UNSUPPORTED)
                findings.append(Finding.unavailable(where, (side, REFEREE), why))
            else:
                findings.append(referee_finding(where, side, found[side], keys[side], wide, tolerance))
    return findings


def tolerance_of(name: str) -> Tolerance:
    """Of an operator or variant."""
    base = extras.base_name(name)
    return TOLERANCES["interpolation" if base in (*INTERPOLATED, "patch_of_group", "stitch") else "operator"]


def _offers(name: str, offer: Offer) -> bool:
    return name in offer.operators or extras.base_name(name) in offer.operators


def _own(key: str, label: str, name: str, offer: Offer) -> str:
    """A side that lacks a variant is compared by the operator itself."""
    return key if name in offer.operators else label
