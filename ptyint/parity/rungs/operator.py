"""Rung 1: every operator against the referee, and those of backends from outside against each other as well."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.parity import operands
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, compare
from ptyint.parity.problems import Problems
from ptyint.parity.rungs.rung import UNSUPPORTED, Bench, Capture, Captured, Measured, Rung, noted, without
from ptyint.parity.tolerances import PRECISIONS, TOLERANCES
from ptyint.scans.forward import normalise_probe

INTERPOLATED = ("translate", "merge_patches", "cut_patches", "patch_of_group", "stitch")


def measure(bench: Bench, part: str = "") -> Captured:
    """Every operator and variant that the backend offers, on all its operands: ``precision/operator/operand``."""
    backend, seed = bench.backend, bench.problems.seed
    arrays: Captured = {}
    given = operands.everything(seed)
    if "weights" in backend.capabilities:  # one that is built in, or built like them, keeps the means of groups
        given = operands.of_the_model(seed) | given
    for precision in backend.precisions:
        offered = backend.operators(precision)
        if "weights" in backend.capabilities:
            offered = {**offered, "normalise_probe": _normalised_probe(precision)}
        for name, operator in offered.items():
            for operand in operands.named(name, given):
                with noted(arrays, key := f"{precision}/{name}/{operand}"):
                    arrays[key] = np.asarray(operator(*given[operands.base_name(name), operand]))
    return arrays


def _normalised_probe(precision: str) -> Callable[..., NDArray[Any]]:
    """As it comes into the network: out of the initial weights, which are single precision."""
    return lambda probe, scale: normalise_probe(probe, scale).astype(np.result_type(precision, np.complex64))


@lru_cache(2)
def _expected(seed: int, full: bool) -> dict[tuple[str, str], NDArray[Any]]:
    return operands.expected(operands.of_the_model(seed) if full else operands.everything(seed))


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Every operator that a side offers, and one finding for each that it should and does not."""
    offers, arrays = measured.offers, measured.both("operator")
    full = all(offer.is_full for offer in offers.values())
    expected = _expected(problems.seed, full)
    names = dict.fromkeys((*operands.REQUIRED, *(name for offer in offers.values() for name in offer.operators)))
    for name in names:
        for side, offer in offers.items():
            if name not in offer.operators and name in operands.REQUIRED:
                where = Place("operator", "", "float32", name)
                yield Finding.unavailable(where, (side, REFEREE), f"{side} does not offer them")
        for operand in operands.named(name, expected):
            wide = expected[operands.base_name(name), operand]
            for precision in problems.precisions:
                where = Place("operator", "", precision, name, operand)
                yield from _one(where, wide, arrays, offers, between=not full)
    yield from without(measured, "operator", PRECISIONS)


def _one(
    where: Place, wide: NDArray[Any], arrays: Mapping[str, Arrays], offers: Mapping[str, Offer], between: bool
) -> Iterator[Finding]:
    """One operand: the two sides, then each against the referee."""
    precision, name = where.precision, where.tap
    tolerance = TOLERANCES["interpolation" if operands.base_name(name) in INTERPOLATED else "operator"]
    keys = {
        side: f"{precision}/{name if name in offer.operators else operands.base_name(name)}/{where.operand}"
        for side, offer in offers.items()  # a side that lacks a variant is compared by the operator itself
    }
    sides = [side for side, offer in offers.items() if precision in offer.precisions and offer.has(name)]
    refused = {side: str(arrays[side].get(f"error/{keys[side]}", "")) for side in sides}
    refused = {side: why for side, why in refused.items() if why.startswith(UNSUPPORTED)}
    if between and len(sides) == 2 and not refused:
        reference, candidate = sides
        pair = (arrays[candidate], arrays[reference])
        yield compare(where, (candidate, reference), pair, (keys[candidate], keys[reference]), tolerance)
    for side in sides:
        if name not in offers[side].operators:
            continue  # a variant of the other side's
        key, held, kind = keys[side], (side, REFEREE), operands.expected_kind(wide, precision)
        if side in refused:
            yield Finding.unavailable(where, held, refused[side].removeprefix(UNSUPPORTED))
        elif key in arrays[side] and arrays[side][key].dtype != kind:
            yield Finding.missing(where, held, f"dtype {arrays[side][key].dtype}, not {kind}")
        else:
            yield compare(where, held, (arrays[side], {key: wide}), (key, key), tolerance)


OPERATORS = Capture("operator", measure, "operators")

RUNG = Rung(
    "operator",
    "does every operator do what the NumPy referee does?",
    (OPERATORS,),
    (judge,),
    "operators",
    PRECISIONS,
    shrinks=True,
)
