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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import write_arrays
from ptyint.backends.models.layout import Link, channels_last, channels_second, links
from ptyint.backends.models.rules import Layer, propose
from ptyint.errors import ComparisonError, ConfigError
from ptyint.parity.compare import Arrays, Finding, Place, RedTap, keeping
from ptyint.parity.models.mode import MODES, Mode
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import MODELS, climbed
from ptyint.parity.rungs.rung import Captured
from ptyint.parity.tolerances import PRECISIONS
from ptyint.parity.worker import Worker

if TYPE_CHECKING:
    from pandas import DataFrame

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

    Examples
    --------
    >>> import tempfile
    >>> from ptyint import ModelPair
    >>> file = Path(tempfile.mkdtemp()) / "mine.py"
    >>> code = "from torch import nn; net = lambda gelu: nn.Sequential(nn.Linear(3, 4), nn.GELU(gelu), nn.Linear(4, 2))"
    >>> _ = file.write_text(code + "; original = lambda: net('none'); port = lambda: net('tanh')")
    >>> with ModelPair(f"{file}:original", f"{file}:port", np.eye(3)) as pair:
    ...     ladder = pair.climb()
    >>> pair.layers["kind and weights"].tolist()[1:4]
    ['dense, kernel (3, 4), bias (4,)', 'activation', 'dense, kernel (4, 2), bias (2,)']
    >>> ladder.divergence.finding.rung, ladder.divergence.finding.tap
    ('forward', '1')
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
        self.red_taps: list[RedTap] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="ptyint-models-")
        self._workers: dict[int, Worker] = {}
        self._answers: dict[bytes, Captured] = {}  # of the reference, for every candidate
        self._lender: ModelPair | None = None

    # --- both processes ---

    def against(self, candidate: str, **settings: Any) -> ModelPair:
        """The same reference, which is not asked twice, and another candidate; `settings` as for the constructor."""
        given: dict[str, Any] = {"precisions": self.precisions, "timeout": self.timeout, **settings}
        other = ModelPair(self.factories[0], candidate, self.inputs, tuple(self.targets.values()), **given)
        other._answers, other._lender = self._answers, self
        return other

    def _ask(self, side: int, what: str, given: Arrays, settings: Mapping[str, Any]) -> Captured:
        """The answer of a side; of the reference the same to the same question, whoever asks."""
        digest = hashlib.sha256(json.dumps([side, what, settings]).encode())
        for key, array in given.items():
            digest.update(key.encode() + np.ascontiguousarray(array).tobytes())
        if side:
            return self._answer(side, what, given, settings)
        if digest.digest() not in self._answers:
            self._answers[digest.digest()] = (self._lender or self)._answer(side, what, given, settings)
        return self._answers[digest.digest()]

    def _answer(self, side: int, what: str, given: Arrays, settings: Mapping[str, Any]) -> Captured:
        folder = Path(self._scratch.name) / str(side)
        if side not in self._workers:
            folder.mkdir()
            (folder / "model.json").write_text(json.dumps([self.factories[side], sys.path]))
            self._workers[side] = Worker(self.pair[side], folder, folder / "log", self.timeout, f"{__name__}.child")
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
        return propose(*self._layers, self.edited)

    @cached_property
    def _layers(self) -> tuple[dict[str, Layer], dict[str, Layer]]:
        told = [json.loads(str(one["about"]))["layers"] for one in self._start]
        theirs, ours = ({layer["name"]: Layer(**layer) for layer in side} for side in told)
        return theirs, ours

    @property
    def layers(self) -> DataFrame:
        """:attr:`names` with the kind of each layer and the shapes of its weights, to be read."""
        import pandas as pd

        rows = [(name, other, self._layers[0][name].about) for name, other in self.names.items()]
        return pd.DataFrame(rows, columns=["reference", "candidate", "kind and weights"])

    @cached_property
    def _links(self) -> list[Link]:
        return list(links(self.names, *self._layers, self._frameworks))

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
        with keeping(self.red_taps):
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
