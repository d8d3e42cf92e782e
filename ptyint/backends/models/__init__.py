"""Any Keras model and any PyTorch module, watched from outside: what every layer is given and returns, and gradients.

A model comes from a factory, ``module:function`` or ``file.py:function``. It returns the model, or model, loss and
optimiser; a loss is called as in its framework, Keras' with targets first. A compiled Keras model brings both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ptyint.backends.models.rules import Layer, Parts, canonical, native
from ptyint.backends.protocol import Arrays, Recorder

DRAWS = 4
"""Moves by one epsilon; the largest change that one of them makes is the yardstick."""

Factory = str | Callable[[], Any]
INPUTS, OUTPUT = "model inputs", "model output"


def made(factory: Factory) -> tuple[Any, Any, Any]:
    """Model, loss and optimiser of a function, or of that which ``module:function`` or ``file.py:function`` names."""
    built = (_function(factory) if isinstance(factory, str) else factory)()
    model, loss, optimiser, *_ = (*(built if isinstance(built, tuple) else (built,)), None, None)
    return model, loss, optimiser


def _function(name: str) -> Any:
    module, _, function = name.rpartition(":")
    if module.endswith(".py"):
        sys.path.insert(0, str(Path(module).parent))
        module = Path(module).stem
    return getattr(importlib.import_module(module), function)


def framework_of(model: Any) -> str:
    """Whose it is: 'keras' or 'torch'."""
    return "torch" if any(base.__module__.partition(".")[0] == "torch" for base in type(model).__mro__) else "keras"


def watched(factory: str, framework: str, *given: Any) -> Watched:
    """The model of a factory in a precision, with inputs and targets, ready to be traced."""
    name, module = {"keras": ("KerasModel", "keras_model"), "torch": ("TorchModule", "torch_module")}[framework]
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)(factory, *given)  # type: ignore[no-any-return]


def moved(arrays: Arrays, rng: np.random.Generator | None) -> Arrays:
    """Every number moved by one epsilon, up or down; whole numbers, and all without `rng`, as they are."""
    if rng is None:
        return arrays
    floats = {name: array for name, array in arrays.items() if array.dtype.kind in "fc"}
    signs = {name: rng.choice((-1, 1), array.shape).astype(array.real.dtype) for name, array in floats.items()}
    return {**arrays, **{name: array * (1 + np.finfo(array.dtype).eps * signs[name]) for name, array in floats.items()}}


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with the function of each tensor in it."""
    if isinstance(value, Mapping):
        return {key: mapped(function, one) for key, one in value.items()}
    return [mapped(function, one) for one in value] if isinstance(value, (list, tuple)) else function(value)


def flat(value: Any) -> list[Any]:
    """The tensors in `value`."""
    found: list[Any] = []
    mapped(found.append, value)
    return found


class Watched:
    """One model in one precision, and what it is given.

    Its framework adds `run` (inputs, training, recorder to loss and :meth:`of_layers`), `flows` (whether a value is a
    tensor with gradients), `arrays` (of variables, copied out), `assign` (an array to a variable) and `move` (one step
    of the optimiser with gradients by layer).

    Attributes
    ----------
    framework : {'keras', 'torch'}
    kinds : dict of str to str
        Layer to its kind, in the order in which they are first called.
    variables : dict of str to dict
        Layer to its variables by their own names.
    rates : dict of str to float
        Of the dropouts, which are off: no two frameworks draw the same numbers.
    weights : dict of ndarray
        Canonical, as ``layer.part``. Every pass starts from them.
    inputs, targets : dict of ndarray
        By number, or the inputs by the names under which the model takes them.
    calls : dict of str to int
        Layer to its calls in the last pass, in their order.
    """

    framework: str
    model: Any
    recorder: Any
    run: Any
    flows: Any
    arrays: Any
    assign: Any
    move: Any

    def __init__(self, inputs: Arrays, targets: Arrays) -> None:
        self.inputs, self.targets = inputs, targets
        self.kinds: dict[str, str] = {}
        self.variables: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, float] = {}
        self.weights: Arrays = {}
        self.calls: dict[str, int] = {}
        self.optimiser: Any = None
        self.settings: Mapping[str, Any] = {}  # of the optimiser

    # --- taps ---

    def called(self, name: str) -> str:
        """The tap of a layer that is called now; see :meth:`tap_of`."""
        self.calls[name] = self.calls.get(name, 0) + 1
        return self.tap_of(name)

    def tap_of(self, name: str) -> str:
        """The tap of a layer in its last call: its name, numbered from the second time on."""
        return name if self.calls[name] == 1 else f"{name} #{self.calls[name]}"

    def tapped(self, recorder: Any, tap: str, value: Any) -> Any:
        """What to go on with in place of a tensor, or of the first of several."""
        if isinstance(value, (list, tuple)):
            return type(value)([self.tapped(recorder, tap, value[0]), *value[1:]]) if value else value
        return recorder(tap, value) if self.flows(value) else value

    def of_layers(self, found: Mapping[int, Any]) -> dict[str, Parts]:
        """Arrays by the ids of their variables, by layer and name."""
        named = {name: {own: found.get(id(one)) for own, one in some.items()} for name, some in self.variables.items()}
        return {name: {own: a for own, a in some.items() if a is not None} for name, some in named.items()}

    def outputs(self, recorder: Any, value: Any) -> Any:
        """What to go on with in place of all that the model returns."""
        return mapped(lambda one: self.tapped(recorder, self.called(OUTPUT), one), value)

    def described(self) -> dict[str, Any]:
        """Framework, layers with their weights and taps, optimiser: what one pass shows."""
        self.weights = self.read()
        shapes = {tap: array.shape for tap, array in self.trace(False).items()}
        layers = []
        for name, kind in {INPUTS: INPUTS, **self.kinds, OUTPUT: OUTPUT}.items():
            own = canonical(kind, self.arrays(self.variables.get(name, {})))
            parts = {part: array.shape for part, array in own.items()}
            taps = {tap: shape for tap, shape in shapes.items() if tap.removesuffix(":in").partition(" #")[0] == name}
            layers.append(asdict(Layer(name, kind, parts, taps, self.rates.get(name))))
        settings = (
            f"{name} {value}" for name, value in self.settings.items() if isinstance(value, float | tuple) and value
        )
        words = "" if self.optimiser is None else f"{type(self.optimiser).__name__} ({', '.join(settings)})"
        return {"optimiser": words, "layers": layers}

    # --- passes ---

    def trace(self, training: bool, given: Arrays | None = None, rng: np.random.Generator | None = None) -> Arrays:
        """Taps, ``loss``, the ``gradient/`` of taps and weights; in training running statistics ``after/`` the pass.

        Parameters
        ----------
        training : bool
        given : dict of ndarray, optional
            What the pass goes on with instead; see :class:`ptyint.backends.protocol.Recorder`.
        rng : numpy.random.Generator, optional
            Weights, inputs and what is given are moved by one epsilon first.
        """
        self.calls.clear()
        self.write(moved(self.weights, rng))
        recorder: Recorder = self.recorder(moved(given or {}, rng))
        loss, gradients = self.run(moved(self.inputs, rng), training, recorder)
        weights = {f"gradient/{key}": array for key, array in self._named(gradients).items()}
        after = {f"after/{key}": array for key, array in self.read().items() if training and ".moving_" in key}
        return recorder.arrays() | {"loss": np.array(loss)} | weights | after

    def changes(self, training: bool, still: Arrays, given: Arrays | None = None) -> Arrays:
        """By how much moves by one epsilon change the arrays of a pass: the largest of the draws."""
        largest: dict[str, float] = {}
        for draw in range(DRAWS):
            for key, array in self.trace(training, given, np.random.default_rng(draw)).items():
                if key in still and still[key].shape == array.shape:
                    largest[key] = max(apart(array, still[key]), largest.get(key, 0.0))
        return {key: np.array(change) for key, change in largest.items()}

    def steps(self, gradients: Arrays) -> Arrays:
        """Weights after each step of the optimiser, as ``number/layer.part``, with gradients of such names."""
        self.write(self.weights)
        found: Arrays = {}
        for number in sorted({key.partition("/")[0] for key in gradients}):
            start = f"{number}/"
            self.move(
                self.native({key.removeprefix(start): a for key, a in gradients.items() if key.startswith(start)})
            )
            found |= {f"{number}/{key}": array for key, array in self.read().items()}
        return found

    # --- weights ---

    def read(self) -> Arrays:
        """The weights as they are now."""
        return self._named({name: self.arrays(variables) for name, variables in self.variables.items()})

    def write(self, weights: Arrays) -> None:
        """Put canonical weights in; those that are not given stay."""
        for name, arrays in self.native(weights).items():
            for own, array in arrays.items():
                self.assign(self.variables[name][own], array)

    def _named(self, arrays: Mapping[str, Parts]) -> Arrays:
        parts = {name: canonical(self.kinds[name], some) for name, some in arrays.items()}
        return {f"{name}.{part}": array for name, some in parts.items() for part, array in some.items()}

    def native(self, arrays: Arrays) -> dict[str, Parts]:
        """Canonical arrays by layer and variable, of those variables for which there is all."""
        found: dict[str, Parts] = {}
        for name, variables in self.variables.items():
            like, kind = self.arrays(variables), self.kinds[name]
            needed = {own: [f"{name}.{part}" for part in canonical(kind, {own: array})] for own, array in like.items()}
            whole = {own: like[own] for own, keys in needed.items() if all(key in arrays for key in keys)}
            parts = {key: arrays[f"{name}.{key}"] for key in canonical(kind, whole)}
            found[name] = native(kind, parts, whole)
        return found


def apart(one: Any, other: Any) -> float:
    """Norm of a difference, in double precision."""
    wide = np.result_type(one, np.float64)
    return float(np.linalg.norm((one.astype(wide) - other.astype(wide)).ravel()))
