"""Rungs 2 to 5 for any pair of models, Keras or PyTorch, each in a process of its own with arrays in between.

The candidate gets the reference's weights, by a map of names that is proposed and can be edited. Every layer is
compared by what it is given and what it returns, forwards and backwards; where that differs, once more on the
reference's numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import write_arrays
from ptyint.backends.models import Watched, apart, framework_of, made, watched
from ptyint.backends.models.layout import Link, channels_last, channels_second, links
from ptyint.backends.models.rules import Layer, propose
from ptyint.errors import ComparisonError, ConfigError
from ptyint.parity import arrays as kept
from ptyint.parity.compare import Arrays, Finding, Place, bounded, compare, difference, over
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import MODELS, climbed
from ptyint.parity.rungs.rung import Captured, noted
from ptyint.parity.tolerances import PRECISIONS, TOLERANCES
from ptyint.parity.worker import Worker, serve

if TYPE_CHECKING:
    from pandas import DataFrame

MODES = {"evaluation": False, "training": True}
"""What a case is called, and whether both models train in it. Dropout is off in either."""

STEPS, LARGE = 3, 1e12
"""Steps of the optimisers: the first with the reference's gradients, where an epsilon shows as it does in training; the
others with gradients so large that none does, and momenta are told apart."""

MEANT = re.compile(r"(?:(?:moved|held|alone|again|gradient|after|\d)/)*")
"""Before the name of a tap or weight: what its array is."""


class ModelPair:
    """A model and its port, given the same weights and the same batch.

    Parameters
    ----------
    reference, candidate : str
        Factories, ``module:function`` or ``file.py:function``, that return a Keras model or a PyTorch module; or model,
        loss and optimiser, the loss called as in its framework. A compiled Keras model brings its own.
    inputs : array, sequence or dict of arrays
        A batch as the reference takes it. Of four axes or more Keras' channels are the last, PyTorch's the second.
    targets : array or sequence of arrays, optional
        What the loss is given too, laid out alike. Without a loss it is the mean square of the difference.
    names : dict of str to str or None, optional
        Layers of the reference to layers of the candidate, where :attr:`names` has it wrong; None leaves one out.
    candidate_inputs : optional
        The inputs as the candidate takes them, where that is otherwise.
    precisions : sequence of str
    timeout : float
        Seconds for each capture.

    Raises
    ------
    ConfigError
        A factory whose file is not there.
    """

    def __init__(
        self,
        reference: str,
        candidate: str,
        inputs: Any,
        targets: Any = (),
        *,
        names: Mapping[str, str | None] | None = None,
        candidate_inputs: Any = None,
        precisions: Sequence[str] = PRECISIONS,
        timeout: float = 600.0,
    ) -> None:
        short = [name.rpartition(":")[2] for name in (reference, candidate)]
        self.pair = (short[0], short[1]) if short[0] != short[1] else (reference, candidate)
        self.factories = [_with_path(name) for name in (reference, candidate)]
        self.inputs, self.targets, self.candidate_inputs = _arrays(inputs), _arrays(targets), candidate_inputs
        self.edited, self.precisions, self.timeout = dict(names or {}), tuple(precisions), timeout
        self.red_taps: list[kept.RedTap] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="ptyint-models-")
        self._workers: dict[int, Worker] = {}
        self._answers: dict[str, Captured] = {}  # of the reference, for every candidate
        self._lender: ModelPair | None = None

    # --- both processes ---

    def against(self, candidate: str, **settings: Any) -> ModelPair:
        """The same reference, which is not asked twice, and another candidate; `settings` as for the constructor."""
        given: dict[str, Any] = {"precisions": self.precisions, "timeout": self.timeout, **settings}
        other = ModelPair(self.factories[0], candidate, self.inputs, tuple(self.targets.values()), **given)
        other._answers, other._lender = self._answers, self
        return other

    def _ask(self, side: int, what: str, given: Arrays, settings: Mapping[str, Any]) -> Captured:
        digest = hashlib.sha256(json.dumps([what, settings]).encode())
        for key, array in given.items():
            digest.update(key.encode() + np.ascontiguousarray(array).tobytes())
        if side or digest.hexdigest() not in self._answers:
            answer = (self._lender or self if side == 0 else self)._answer(side, what, given, settings)
            if side:
                return answer
            self._answers[digest.hexdigest()] = answer
        return self._answers[digest.hexdigest()]

    def _answer(self, side: int, what: str, given: Arrays, settings: Mapping[str, Any]) -> Captured:
        folder = Path(self._scratch.name) / str(side)
        if side not in self._workers:
            folder.mkdir()
            (folder / "model.json").write_text(json.dumps([self.factories[side], sys.path]))
            self._workers[side] = Worker(self.pair[side], folder, folder / "log", self.timeout, __name__)
        write_arrays(folder / "given.npz", given)
        why = self._workers[side].measure(what, json.dumps(settings))
        found = {} if why else dict(np.load(folder / "answer.npz"))
        if why or "error/" in found:
            raise ComparisonError(f"{self.pair[side]} ({what}): {why or found['error/']}")
        return found

    def _both(self, what: str, given: Sequence[Arrays] = ({}, {}), **settings: Any) -> list[Captured]:
        """The answers of both sides, asked at once."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda side: self._ask(side, what, given[side], settings), (0, 1)))

    def close(self) -> None:
        """End both processes."""
        for worker in self._workers.values():
            worker.close(at_once=True)
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- what belongs together ---

    @cached_property
    def _frameworks(self) -> list[str]:
        return [str(one["framework"]) for one in self._both("framework")]

    def _build(self, precision: str) -> list[Captured]:
        """Make both models and give them their batch."""
        turn = {"keras": channels_second, "torch": channels_last}[self._frameworks[0]]
        mixed = self._frameworks[0] != self._frameworks[1]
        theirs, ours = ({**_named("inputs", self.inputs), **_named("targets", self.targets)} for _ in range(2))
        ours = {key: turn(array) if mixed and array.ndim > 3 else array for key, array in ours.items()}
        if self.candidate_inputs is not None:
            ours |= _named("inputs", self.candidate_inputs)
        return self._both("build", (theirs, ours), precision=precision)

    @cached_property
    def _start(self) -> list[Captured]:
        return self._build(self.precisions[0])

    @cached_property
    def names(self) -> dict[str, str]:
        """Layer of the reference to layer of the candidate: proposed by order, kind and shapes, then as edited.

        Raises
        ------
        ComparisonError
            Layers with weights that have no counterpart: which, and how to say what belongs together.
        """
        theirs, ours = (list(side.values()) for side in self._layers)
        return propose(theirs, ours, self.edited)

    @cached_property
    def _layers(self) -> list[dict[str, Layer]]:
        told = [json.loads(str(one["about"]))["layers"] for one in self._start]
        return [{layer["name"]: Layer(**layer) for layer in side} for side in told]

    @property
    def layers(self) -> DataFrame:
        """:attr:`names` with the kind of each layer and the shapes of its weights, to be read."""
        import pandas as pd

        rows = [(name, other, self._layers[0][name].about) for name, other in self.names.items()]
        return pd.DataFrame(rows, columns=["reference", "candidate", "kind and weights"])

    @cached_property
    def _links(self) -> list[Link]:
        return list(links(self.names, self._layers[0], self._layers[1], self._frameworks))

    def _turned(self, arrays: Arrays, back: bool = False) -> Captured:
        """The reference's arrays under the candidate's names and in its layout, or back; of what both have."""
        by_name = {link.candidate if back else link.reference: link for link in self._links}
        found: Captured = {}
        for key, array in arrays.items():
            meant = MEANT.match(key)
            start = meant.group() if meant else ""
            link = by_name.get(key.removeprefix(start))
            if link is None:
                continue
            name, turn = (link.reference, link.back) if back else (link.candidate, link.there)
            found[start + name] = array if array.ndim == 0 else turn(array)
        return found | {key: array for key, array in arrays.items() if key.endswith("loss")}

    # --- the rungs ---

    def climb(self) -> Ladder:
        """Forward taps, loss, gradients and the optimiser's steps, in evaluation and in training, in each precision.

        Raises
        ------
        ComparisonError
            A model that cannot be made, or run, in the first precision; layers without counterpart.
        """
        rows: list[Finding] = []
        self.red_taps = []
        with kept.keeping(self.red_taps):
            for precision in self.precisions:
                try:
                    rows += self._climbed(precision)
                except ComparisonError as error:
                    if precision == self.precisions[0]:
                        raise
                    where = (Place(rung, precision=precision) for rung in climbed(MODELS))
                    rows += [Finding.unavailable(one, self.sides, str(error)) for one in where]
        return Ladder(*self.pair, MODELS, tuple(rows))

    @property
    def sides(self) -> tuple[str, str]:
        """Candidate and reference, as findings name them."""
        return self.pair[1], self.pair[0]

    @cached_property
    def _weights(self) -> Captured:
        """What both start from: the reference's, with nothing left that is all alike and would hide a fault."""
        weights = {key.removeprefix("weight/"): a for key, a in self._start[0].items() if key.startswith("weight/")}
        rng = np.random.default_rng(0)
        return {key: _alive(key, array, rng) for key, array in weights.items()}

    def _climbed(self, precision: str) -> list[Finding]:
        told = [json.loads(str(one["about"])) for one in self._build(precision)]
        self._both("weights", (self._weights, self._turned(self._weights)), precision=precision)
        modes = [Mode(self, precision, name) for name in MODES]
        rows = [row for mode in modes for row in mode.findings()]
        optimisers = [str(one["optimiser"]) for one in told]
        if not all(optimisers):
            where, words = Place("step", precision=precision), "a factory gave no optimiser"
            return [*rows, Finding.unavailable(where, self.sides, words)]
        return [*rows, *modes[-1].steps(" against ".join(reversed(optimisers)))]


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
                tolerance = TOLERANCES["optimiser"].widened(rounding, self.precision)
                where = Place("step", "", self.precision, "optimiser", key, step)
                finding = compare(where, self.pair.sides, (moves[0], moves[1]), (key, key), tolerance)
                yield replace(finding, note=f"{words}; {finding.note}") if finding.red else finding

    def _place(self, rung: str, layer: Layer, key: str) -> Place:
        """Where a tap or weight of a layer is: the operand is its input, a weight, or nothing for its output."""
        end = key.removeprefix(layer.name).lstrip(". ")
        return Place(rung, self.name, self.precision, layer.name, end.replace(":in", " input").strip())


# --- in a process of its own ---


class Child:
    """One side's model; each method answers one question with arrays."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.factory, path = json.loads((folder / "model.json").read_text())
        sys.path += [one for one in path if one not in sys.path]
        self.models: dict[str, Watched] = {}  # by their precision
        self.still: dict[tuple[str, bool], Captured] = {}

    def __call__(self, asked: str, settings: str) -> None:
        """Answer, whole or not at all; what is raised is an answer too."""
        answer: Captured = {}
        with np.load(self.folder / "given.npz") as file, noted(answer, ""):
            answer |= getattr(self, asked)(dict(file), **json.loads(settings))
        write_arrays(self.folder / "answer.npz", answer)

    def framework(self, given: Captured) -> Captured:
        """Whose model it is."""
        return {"framework": np.array(framework_of(made(self.factory)[0]))}

    def build(self, given: Captured, precision: str) -> Captured:
        """Make the model in a precision; what it is made of, and its weights."""
        batch = self._cast(given, precision)
        kinds = [
            {key.removeprefix(k): a for key, a in batch.items() if key.startswith(k)} for k in ("inputs/", "targets/")
        ]
        model = self.models[precision] = watched(self.factory, framework_of(made(self.factory)[0]), precision, *kinds)
        about = model.described()
        return {"about": np.array(json.dumps(about)), **{f"weight/{key}": a for key, a in model.weights.items()}}

    def weights(self, given: Captured, precision: str) -> Captured:
        """Start from these weights."""
        self.models[precision].weights |= self._cast(given, precision)
        return {}

    def trace(self, given: Captured, precision: str, training: bool) -> Captured:
        """A pass; by how much moves by one epsilon change it, with numbers free and given, and a second pass."""
        model = self.models[precision]
        still = self.still[precision, training] = model.trace(training)
        values = {key: a for key, a in still.items() if "gradient/" not in key}
        noise = {f"moved/{key}": a for key, a in model.changes(training, still).items()}
        if precision == "float32":
            noise |= {f"held/{key}": a for key, a in model.changes(training, still, values).items()}
        again = model.trace(training)
        return {**still, **noise, **{f"again/{key}": np.array(apart(again[key], a)) for key, a in values.items()}}

    def given(self, given: Captured, precision: str, training: bool) -> Captured:
        """A pass on another's numbers."""
        return self.models[precision].trace(training, given)

    def alone(self, given: Captured, precision: str, training: bool) -> Captured:
        """By how much moves by one epsilon change it where every layer has its own numbers, forwards and backwards."""
        still = self.still[precision, training]
        return {f"alone/{key}": a for key, a in self.models[precision].changes(training, still, still).items()}

    def steps(self, given: Captured, precision: str) -> Captured:
        """Weights after the optimiser's steps with these gradients."""
        return self.models[precision].steps(given)

    @staticmethod
    def _cast(arrays: Arrays, precision: str) -> Captured:
        kinds: dict[str, Any] = {"f": np.dtype(precision), "c": np.result_type(precision, np.complex64)}
        return {key: array.astype(kinds.get(array.dtype.kind, array.dtype)) for key, array in arrays.items()}


def _coarse(arrays: Arrays) -> Iterator[str]:
    """What a layer returns in single precision though it is given double; and what comes back through it."""
    for key in arrays:
        if f"{key}:in" in arrays and _is_single(arrays[key]) and not _is_single(arrays[f"{key}:in"]):
            yield from (key, f"gradient/{key}:in")


def _is_single(array: NDArray[Any]) -> bool:
    return array.dtype == np.float64 and bool((array == array.astype(np.float32)).all())


def _arrays(value: Any) -> Captured:
    """One array, several, or those of a dict, by number or name."""
    several = value if isinstance(value, (tuple, list, Mapping)) else [value]
    items = several.items() if isinstance(several, Mapping) else enumerate(several)
    return {str(key): np.asarray(array) for key, array in items}


def _named(kind: str, arrays: Arrays) -> Captured:
    return {f"{kind}/{key}": array for key, array in arrays.items()}


def _with_path(name: str) -> str:
    module, colon, _ = name.rpartition(":")
    if not colon or (module.endswith(".py") and not Path(module).is_file()):
        raise ConfigError(
            f"{name!r} names no factory; it is module:function, or file.py:function of a file that is there."
        )
    return str(Path(module).resolve()) + name[len(module) :] if module.endswith(".py") else name


def _alive(key: str, array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """As after some training: biases that are all 0 and scales that are all 1 would hide what is done with them."""
    if array.dtype.kind != "f" or np.ptp(array) > 0:
        return array
    noise = rng.normal(size=array.shape)
    return (array * np.exp(0.2 * noise) if key.endswith("moving_variance") else array + 0.1 * noise).astype(array.dtype)


if __name__ == "__main__":
    serve(Child)
