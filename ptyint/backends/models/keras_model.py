"""A Keras model on TensorFlow, watched by what each layer's call is replaced with for a while."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from typing import Any
from unittest import mock

import keras
import tensorflow as tf
from tensorflow.python.ops import math_ops

from ptyint.backends.models import INPUTS, Factory, Watched, flat, made
from ptyint.backends.models.rules import KERNELS, KINDS, Parts, kind_of, numbered
from ptyint.backends.protocol import Arrays
from ptyint.backends.tensorflow import Recorder

CAST = tf.cast


def _cast(x: Any, dtype: Any, name: str | None = None) -> Any:
    """`tf.cast`, which by itself takes a Python number through single precision: in GELU, in momenta of optimisers."""
    return tf.constant(x, dtype) if isinstance(x, float) else CAST(x, dtype, name)


tf.cast = math_ops.cast = _cast
See = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def watching(see: See) -> Iterator[None]:
    """While this is open, `see` is called in place of every layer: with the layer, its call and the arguments."""
    original = keras.Layer.__call__

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return see(layer, partial(original, layer), args, kwargs)

    with mock.patch.object(keras.Layer, "__call__", call):
        yield


class KerasModel(Watched):
    """See :class:`ptyint.backends.models.Watched`."""

    framework, recorder = "keras", Recorder

    def __init__(self, factory: Factory, precision: str, inputs: Arrays, targets: Arrays) -> None:
        super().__init__(inputs, targets)
        keras.utils.clear_session()
        self.precision = precision
        keras.config.set_floatx(precision)
        keras.config.set_dtype_policy(precision)
        tf.config.run_functions_eagerly(True)
        self.built: dict[int, Any] = {}  # a functional model runs in the order of depth: the code's is that of building
        with watching(self._note):
            self.model, self.loss, self.optimiser = made(factory)
        self.compiled = getattr(self.model, "compiled", False)
        self.optimiser = self.optimiser or (self.model.optimizer if self.compiled else None)
        self.settings = {} if self.optimiser is None else self.optimiser.get_config()
        self.layers: dict[int, tuple[str, Any]] = {}  # by their ids
        self.around: list[Any] = []
        self.outer: set[int] = set()  # those that call others
        with watching(self._explore):
            self._call({name: tf.constant(array) for name, array in inputs.items()}, False)
        self._list()

    def _note(self, layer: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.built.setdefault(id(layer), layer)
        return call(*args, **kwargs)

    def _explore(self, layer: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(kind_of(type(one)) in KINDS for one in self.around):
            _silence(layer)
            return call(*args, **kwargs)
        self.outer |= {id(one) for one in self.around[-1:]}
        if id(layer) not in self.layers:
            name = "/".join([*(one.name for one in self.around[1:]), layer.name]) if self.around else "model"
            same = sum(name == other.partition("~")[0] for other, _ in self.layers.values())
            self.layers[id(layer)] = (f"{name}~{same}" if same else name), layer
        self.around.append(layer)
        try:
            return call(*args, **kwargs)
        finally:
            self.around.pop()

    def _list(self) -> None:
        """Kinds, variables and rates of the layers that were found, in the order of the code."""
        owned: dict[int, list[Any]] = {}
        claimed: set[int] = set()
        for key, (_, layer) in reversed(self.layers.items()):
            owned[key] = [one for one in layer.weights if id(one) not in claimed]
            claimed |= set(map(id, owned[key]))
        for key in (key for key in {**self.built, **self.layers} if key in self.layers):
            name, layer = self.layers[key]
            kind = kind_of(type(layer))
            if kind == "Identity" or (key in self.outer and kind not in KINDS and not owned[key]):
                continue
            if kind == "convolution" and getattr(layer, "groups", 1) > 1 and layer.kernel.shape[-2] == 1:
                kind = "depthwise convolution"
            tails = [(one.path.split("/")[-2:] if kind == "attention" else [one.name], one) for one in owned[key]]
            self.kinds[name], self.variables[name] = kind, numbered(kind, [("/".join(t), one) for t, one in tails])
            if (rate := _silence(layer)) is not None:
                self.rates[name] = rate
            if self._ends(layer):
                self.kinds[f"{name}.activation"] = "activation"
                self.variables[f"{name}.activation"] = {}
        self.taps = {key: name for key, (name, _) in self.layers.items() if name in self.kinds}

    @staticmethod
    def _ends(layer: Any) -> bool:
        """Whether a layer ends with an activation, which PyTorch has as a layer of its own."""
        own = getattr(layer, "activation", None)
        return kind_of(type(layer)) in KERNELS and own is not None and own is not keras.activations.linear

    def run(self, inputs: Arrays, training: bool, recorder: Any) -> tuple[Any, dict[str, Parts]]:
        """See :class:`ptyint.backends.models.Watched`."""
        keras.config.set_floatx(self.precision)
        given = {name: tf.constant(array) for name, array in inputs.items()}
        leaves = [one for one in given.values() if self.flows(one)]
        moving = {id(one): one for one in self.model.trainable_variables}
        with tf.GradientTape() as tape, watching(partial(self._tap, recorder)):
            tape.watch(leaves)
            seen = {name: self.tapped(recorder, self.called(INPUTS), one) for name, one in given.items()}
            loss = self._loss_of(seen, self.outputs(recorder, self._call(seen, training)), training)
        slopes = tape.gradient(loss, [*leaves, *moving.values()])[len(leaves) :]
        found = {
            key: tf.convert_to_tensor(one).numpy() for key, one in zip(moving, slopes, strict=True) if one is not None
        }
        return loss.numpy(), self.of_layers(found)

    def _call(self, given: Mapping[str, Any], training: bool) -> Any:
        values = list(given.values())
        return self.model(
            dict(given) if "0" not in given else values[0] if len(values) == 1 else values, training=training
        )

    def _loss_of(self, inputs: Mapping[str, Any], outputs: Any, training: bool) -> Any:
        targets = [tf.constant(array) for array in self.targets.values()]
        aim = targets[0] if len(targets) == 1 else targets
        if self.loss is not None:
            return tf.reduce_mean(self.loss(aim, outputs)) + sum(self.model.losses)
        if self.compiled:
            return self.model.compute_loss(x=inputs, y=aim, y_pred=outputs, training=training)
        squares = (tf.abs(a - b) ** 2 for a, b in zip_longest(flat(outputs), targets, fillvalue=0))
        return sum(map(tf.reduce_mean, squares))

    def _tap(self, recorder: Any, layer: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        name = self.taps.get(id(layer))
        if name is None:
            return call(*args, **kwargs)
        tap = self.called(name)
        if args:
            args = (self.tapped(recorder, f"{tap}:in", args[0]), *args[1:])
        if not self._ends(layer):
            return self.tapped(recorder, tap, call(*args, **kwargs))
        own = layer.activation
        with mock.patch.object(layer, "activation", lambda x: own(self.tapped(recorder, tap, x))):
            return self.tapped(recorder, self.called(f"{name}.activation"), call(*args, **kwargs))

    def flows(self, value: Any) -> bool:
        """See :class:`ptyint.backends.models.Watched`."""
        return bool(tf.is_tensor(value)) and bool(value.dtype.is_floating or value.dtype.is_complex)

    def arrays(self, variables: Mapping[str, Any]) -> Parts:
        """See :class:`ptyint.backends.models.Watched`."""
        return {name: one.numpy().copy() for name, one in variables.items()}

    def assign(self, variable: Any, array: Any) -> None:
        """See :class:`ptyint.backends.models.Watched`."""
        variable.assign(array)

    def move(self, gradients: Mapping[str, Parts]) -> None:
        """See :class:`ptyint.backends.models.Watched`."""
        pairs = [(a, self.variables[name][own]) for name, some in gradients.items() for own, a in some.items()]
        self.optimiser.apply([tf.constant(array) for array, _ in pairs], [variable for _, variable in pairs])


def _silence(layer: Any) -> float | None:
    """Turn a dropout off; its rate."""
    rate = getattr(layer, "rate", None)
    if not isinstance(rate, float) or "Dropout" not in type(layer).__name__:
        return None
    layer.rate = 0.0
    return rate
