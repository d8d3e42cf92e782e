"""One mode of a pair of models in one precision: what was captured, held against each other layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.models.rules import Layer
from ptyint.parity.compare import Arrays, Finding, Place, bounded, compare, difference, over
from ptyint.parity.rungs.rung import Captured
from ptyint.parity.tolerances import TOLERANCES

if TYPE_CHECKING:
    from ptyint.parity.models import ModelPair

MODES = {"evaluation": False, "training": True}
"""What a case is called, and whether both models train in it. Dropout is off in either."""

STEPS, LARGE = 3, 1e12
"""Steps of the optimisers: the first with the reference's gradients, where an epsilon shows as it does in training; the
others with gradients so large that none does, and momenta are told apart."""


class Mode:
    """One mode in one precision: what both sides made of it, under the reference's names and in its layout."""

    def __init__(self, pair: ModelPair, precision: str, name: str) -> None:
        self.pair, self.precision, self.name = pair, precision, name
        self.how: dict[str, Any] = {"precision": precision, "training": MODES[name]}
        self.epsilon = float(np.finfo(precision).eps)
        self.drawn: set[str] = set()
        self.theirs, ours = pair._both("trace", **self.how)
        self.ours = self.backwards = pair._turned(ours, back=True)
        self.noises, self.kind = [self.theirs, self.ours], ("moved", "moved")
        self.coarse = {key for side in self.noises for key in _coarse(side)} if precision == "float64" else set()
        if self.coarse:  # then what follows is in single precision too: every layer on the reference's numbers
            self.ours, self.noises = self.alone
            self.backwards, self.kind = self.ours, ("alone", "alone")
        elif precision == "float32":  # rounding moves here and there a number over the kink of its ReLU
            self.backwards = self._given({key: a for key, a in self.theirs.items() if "gradient/" not in key})
            self.kind = ("moved", "held")

    def _given(self, arrays: Arrays) -> Captured:
        """What the candidate's layers make of the reference's numbers."""
        answer = self.pair._ask(1, "given", self.pair._turned(arrays), self.how)
        return self.pair._turned(answer, back=True)

    @cached_property
    def alone(self) -> tuple[Captured, list[Captured]]:
        """Every layer of the candidate on the reference's numbers; and what moves by one epsilon change there."""
        theirs, ours = self.pair._both("alone", **self.how)
        return self._given(self.theirs), [theirs, self.pair._turned(ours, back=True)]

    def _scale(self, key: str, noises: Sequence[Arrays], kind: str) -> float:
        """What the norm of an error is measured by: that of which a move by one epsilon is one epsilon."""
        return max(float(noise.get(f"{kind}/{key}", 0.0)) for noise in noises) / self.epsilon

    def compared(self, where: Place, key: str) -> Finding:
        """A tap or weight against the reference's; a red one with the ratio of its layer alone."""
        ours, kind = (self.backwards, self.kind[1]) if where.rung == "gradient" else (self.ours, self.kind[0])
        if key in self.coarse:
            where = where._replace(precision="float32", operand=f"{where.operand} asked for float64".strip())
        scale = self._scale(key, self.noises, kind)
        finding = compare(where, self.pair.sides, (ours, self.theirs), (key, key), TOLERANCES["model"], scale)
        if finding.red and key in self.theirs:
            alone, noises = self.alone
            if key in alone:
                apart = difference(alone[key], self.theirs[key], self._scale(key, noises, "alone"))
                return replace(finding, local=apart.ratio(TOLERANCES["model"], where.precision))
        return finding

    def findings(self) -> Iterator[Finding]:
        """Of the rungs forward, loss and gradient, each in the order in which data flow."""
        sides, linked = self.pair._layers, {link.reference for link in self.pair._links}
        pairs = [(sides[0][name], sides[1][other]) for name, other in self.pair.names.items()]
        for layer, other in pairs:
            yield from self._settings(layer, other)
            for tap in filter(linked.__contains__, layer.taps):
                yield from self._repeats(layer, tap)
                yield self.compared(self._place("forward", layer, tap), tap)
            for key in (f"after/{layer.name}.{part}" for part in layer.parts):
                if key in self.theirs:
                    yield self.compared(self._place("forward", layer, key.removeprefix("after/")), key)
        yield self.compared(Place("loss", self.name, self.precision, "loss"), "loss")
        for layer, _ in reversed(pairs):
            keys = [*reversed(list(layer.taps)), *(f"{layer.name}.{part}" for part in layer.parts)]
            for key in sorted(keys, key=lambda key: key.endswith(":in")):  # in the order in which the gradient comes
                if key in linked and f"gradient/{key}" in self.theirs.keys() | self.backwards.keys():
                    yield self.compared(self._place("gradient", layer, key), f"gradient/{key}")

    def _settings(self, layer: Layer, other: Layer) -> Iterator[Finding]:
        """Weights that one side alone has, and the rates of dropouts."""
        for part in layer.parts.keys() ^ other.parts.keys():
            without = self.pair.pair[part in layer.parts]
            note = f"{without} has no {part} ({other.name})"
            yield Finding.missing(self._place("forward", layer, f"{layer.name}.{part}"), self.pair.sides, note)
        rates = other.rate, layer.rate
        if None not in rates and MODES[self.name]:
            where = self._place("forward", layer, f"{layer.name}.rate")
            yield Finding.fact(where, self.pair.sides, rates[0] == rates[1], f"rate {rates[0]:g}, not {rates[1]:g}")

    def _repeats(self, layer: Layer, tap: str) -> Iterator[Finding]:
        """The first tap of a side that another pass does not repeat to half of its digits."""
        for side, arrays in zip(self.pair.sides, (self.ours, self.theirs), strict=True):
            change = over(float(arrays.get(f"again/{tap}", 0.0)), float(np.linalg.norm(np.ravel(arrays.get(tap, 0.0)))))
            if side not in self.drawn and change > self.epsilon**0.5:
                self.drawn.add(side)
                note = f"{side} draws it anew in every pass"
                yield bounded(self._place("forward", layer, tap), (side, side), change, self.epsilon**0.5, note)

    def steps(self, words: str) -> Iterator[Finding]:
        """Each weight's moves by the optimisers, which are given the same gradients: the reference's."""
        keys = [link.reference for link in self.pair._links if f"gradient/{link.reference}" in self.theirs]
        weights = [key for key in keys if key in self.pair._weights]
        rng = np.random.default_rng(0)
        given = {f"1/{key}": self.theirs[f"gradient/{key}"] for key in weights}
        for step in range(2, STEPS + 1):  # so large that no epsilon counts, whose place differs: momenta alone
            given |= {
                f"{step}/{key}": (LARGE * rng.normal(size=given[f"1/{key}"].shape)).astype(self.precision)
                for key in weights
            }
        theirs, ours = self.pair._both("steps", (given, self.pair._turned(given)), precision=self.precision)
        ours = self.pair._turned(ours, back=True)
        start = {f"0/{key}": array.astype(self.precision) for key, array in self.pair._weights.items()}
        for step in range(1, STEPS + 1):
            for key in weights:
                now, before = f"{step}/{key}", f"{step - 1}/{key}"
                moves = [{key: side[now].astype(float) - {**side, **start}[before]} for side in (ours, theirs)]
                size = max(
                    float(np.linalg.norm(start[f"0/{key}"])),
                    *(float(np.linalg.norm(side[now])) for side in (ours, theirs)),
                )
                rounding = over(2 * self.epsilon * size, float(np.linalg.norm(moves[1][key])))
                tolerance = TOLERANCES["model's optimiser"].widened(rounding, self.precision)
                where = Place("step", "", self.precision, "optimiser", key, step)
                finding = compare(where, self.pair.sides, (moves[0], moves[1]), (key, key), tolerance)
                yield replace(finding, note=f"{words}; {finding.note}") if finding.red else finding

    def _place(self, rung: str, layer: Layer, key: str) -> Place:
        """Where a tap or weight of a layer is: the operand is its input, a weight, or nothing for its output."""
        end = key.removeprefix(layer.name).lstrip(". ")
        return Place(rung, self.name, self.precision, layer.name, end.replace(":in", " input").strip())


def _coarse(arrays: Arrays) -> Iterator[str]:
    """What a layer returns in single precision though it is given double; and what comes back through it."""
    for key in arrays:
        if f"{key}:in" in arrays and _is_single(arrays[key]) and not _is_single(arrays[f"{key}:in"]):
            yield from (key, f"gradient/{key}:in")


def _is_single(array: NDArray[Any]) -> bool:
    return array.dtype == np.float64 and bool((array == array.astype(np.float32)).all())
