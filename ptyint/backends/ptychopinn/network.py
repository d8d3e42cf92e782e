"""A network of PtychoPINN as the ladder asks it: watched from outside, its taps and weights under canonical names.

Which layer is which is told by the order in which they are called, which is that of the data in both of its backends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.models import Watched
from ptyint.backends.protocol import Arrays, Mask
from ptyint.backends.ptychopinn import every_pixel
from ptyint.backends.weights import HEADS, PROBE, Weights, convolution_shapes, decoder_filters, encoder_filters
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.batches import Batch


def check(config: TrainingConfig, weights: Weights, good: Mask, precision: str | None) -> None:
    """Refuse what PtychoPINN cannot be asked.

    Raises
    ------
    NotImplementedError
        Which says what that is.
    """
    every_pixel(np.ones(1, bool) if good is None else good)
    if precision not in (None, "float32"):
        raise NotImplementedError("PtychoPINN computes in single precision")
    if config.adam_epsilon != TrainingConfig().adam_epsilon:
        raise NotImplementedError("the epsilon of PtychoPINN's optimisers cannot be set")
    if len(weights[PROBE[0]]) > 1:
        raise NotImplementedError("PtychoPINN's TensorFlow backend takes a probe of one mode")


# --- names ---


LIKE = {"mean pooling": "max-pooling"}
"""Kind to the one in whose place it may stand: then it is found to differ, and not to be missing."""


def sequence(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Convolutions, poolings and up-samplings in the order of the data, each with its kind."""
    ends = {f"encoder.{i}": ("down", "max-pooling") for i in range(len(encoder_filters(config)))}
    for head in HEADS:
        blocks = (*range(len(decoder_filters(config))), "outer")
        ends |= {f"{head}.{block}": ("up", "up-sampling") for block in blocks}
    for layer in convolution_shapes(config):
        yield layer, "convolution"
        block, _, last = layer.rpartition(".")
        if last == "conv2":
            yield f"{block}.{ends[block][0]}", ends[block][1]


def named(kinds: Mapping[str, str], config: ModelConfig) -> dict[str, str]:
    """Canonical layer to the layer that it is, of a network whose layers have these kinds in the order of their calls.

    Attention, which the canonical network has not, is passed over.
    """
    wanted, found = list(sequence(config)), dict[str, str]()
    for kind in dict(wanted).values():
        own = [layer for layer, one in kinds.items() if LIKE.get(one, one) == kind and ".attention" not in layer]
        found |= zip([layer for layer, one in wanted if one == kind], own, strict=False)
    missing = [layer for layer, _ in wanted if layer not in found]
    if missing:
        raise NotImplementedError(f"its network has no {', '.join(missing)}")
    return {layer: found[layer] for layer, _ in wanted}


def fitted(name: str, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """A kernel or bias for a layer with more, or fewer, channels: zeros for what `array` lacks.

    The outer branch of a decoder takes the last channels, every other layer the first.
    """
    if array.shape == tuple(shape):
        return array
    result, part = np.zeros(shape, array.dtype), [slice(n) for n in np.minimum(array.shape, shape)]
    if name.endswith("outer.conv1.kernel"):
        part[2] = slice(-part[2].stop, None)
    result[tuple(part)] = array[tuple(part)]
    return result


# --- the network ---


class WatchedNetwork(ABC):
    """See :class:`.protocol.Network`.

    Parameters
    ----------
    watched : Watched
        Its model, whose recorder gives taps their canonical names.
    layers : dict of str to str
        Canonical layer to its own.
    config : TrainingConfig
    weights : dict of ndarray
        Canonical weights to start from.
    """

    def __init__(self, watched: Watched, layers: Mapping[str, str], config: TrainingConfig, weights: Weights) -> None:
        self.watched, self.config = watched, config
        shapes = convolution_shapes(config.model)
        self.shapes = {f"{layer}.{part}": shape if part == "kernel" else shape[-1:]
                       for layer, shape in shapes.items() for part in ("kernel", "bias")}  # fmt: skip
        self.own = {name: f"{layers[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in self.shapes}
        self.start = watched.read()  # what the canonical network has not, such as attention, starts from here
        self.reset(weights)

    @abstractmethod
    def arrange(self, batch: Batch) -> tuple[Arrays, Arrays]:
        """Inputs and targets of the watched model."""

    @abstractmethod
    def renew(self, weights: Weights) -> None:
        """A new optimiser, made as it makes its own; probe and intensity scale from `weights`."""

    @abstractmethod
    def physics(self) -> Weights:
        """Probe and intensity scale as they are now, under canonical names."""

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """Of the optimiser."""

    @abstractmethod
    def set_rate(self, learning_rate: float) -> None:
        """Of the optimiser."""

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""
        own = {self.own[name]: fitted(name, weights[name], self.start[self.own[name]].shape) for name in self.shapes}
        self.watched.weights = {**self.start, **own}
        self.watched.write(self.watched.weights)
        self.renew(weights)

    @property
    def optimiser(self) -> str:
        """Its optimiser, in words."""
        return f"{type(self.watched.optimiser).__name__}, epsilon {self.epsilon:g}"

    def move(self, gradients: Arrays, learning_rate: float) -> None:
        """One step of the optimiser with these gradients, by canonical name."""
        self.set_rate(learning_rate)
        own = self.watched.read()
        self.watched.move(
            self.watched.native({self.own[n]: fitted(n, g, own[self.own[n]].shape) for n, g in gradients.items()})
        )
        self.watched.weights = self.watched.read()

    def get_weights(self) -> Weights:
        """Canonical weights, copied out."""
        return {**self._canonical(self.watched.read()), **self.physics()}

    def _canonical(self, own: Arrays) -> Weights:
        # No gradient comes to a layer behind one where it is stopped.
        found = {name: own[key] for name, key in self.own.items() if key in own}
        return {name: fitted(name, array, self.shapes[name]) for name, array in found.items()}

    def trace(self, batch: Batch, given: Mapping[str, NDArray[Any]] | None = None) -> Arrays:
        """Every tap of one forward and backward pass; see :meth:`.protocol.Network.trace`."""
        self.watched.inputs, self.watched.targets = self.arrange(batch)
        found = self.watched.trace(False, dict(given or {}))
        slopes = {name: found.pop(key) for name in self.own.values() if (key := f"gradient/{name}") in found}
        taps = {
            name: array for name, array in found.items() if name.removeprefix("gradient/") not in self.watched.weights
        }
        return taps | {f"gradient/{name}": array for name, array in self._canonical(slopes).items()}

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N)."""
        return self.trace(batch)["object_patches"]

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """One step of its own optimiser; the loss before it."""
        self.watched.inputs, self.watched.targets = self.arrange(batch)
        self.set_rate(learning_rate)
        loss, gradients = self.watched.run(self.watched.inputs, False, self.watched.recorder())
        self.watched.move(gradients)
        self.watched.weights = self.watched.read()
        return float(loss)
