"""The reference of a whole network, and the backend `numpy`: forward pass, gradients by hand and Adam, in float64.

Written from the description of the network (docs/training.md) and to be read; no other backend imports it.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy as operators
from ptyint.backends import numpy_adjoints as adjoint
from ptyint.backends import weights as canonical
from ptyint.backends.numpy_adjoints import Array, Node, Recorder
from ptyint.backends.protocol import Arrays, Good, Mask, Operator, Tap, untapped
from ptyint.backends.training import NetworkBackend
from ptyint.backends.weights import INTENSITY_SCALE, OUTER_CHANNELS, PROBE, Weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.batches import Batch
from ptyint.scans.forward import probe_mask


class Layers:
    """The network with given weights; its methods take and give nodes, and call the tap with each."""

    def __init__(self, weights: Mapping[str, Array], config: ModelConfig, tap: Tap[Node] = untapped) -> None:
        self.weights = {name: Node(np.asarray(array, np.float64)) for name, array in weights.items()}
        self.config, self.tap = config, tap

    def convolve(self, name: str, x: Node) -> Node:
        """The convolution `name`, without activation."""
        return self.tap(name, adjoint.convolve(x, self.weights[f"{name}.kernel"], self.weights[f"{name}.bias"]))

    def block(self, prefix: str, x: Node) -> Node:
        """Twice convolution and ReLU."""
        for name in (f"{prefix}.conv1", f"{prefix}.conv2"):
            x = self.tap(f"{name}.relu", adjoint.activate("relu", self.convolve(name, x)))
        return x

    def decode(self, head: str, x: Node, activation: str) -> Node:
        """Real patches (B, C or 1, N, N) of one head: 'amplitude' or 'phase'."""
        for i in range(len(canonical.decoder_filters(self.config))):
            x = self.tap(f"{head}.{i}.up", adjoint.upsample(self.block(f"{head}.{i}", x)))
        inner = adjoint.channels(x, slice(-OUTER_CHANNELS)) if self.config.probe_big else x
        patch = self.tap(f"{head}.head", adjoint.activate(activation, self.convolve(f"{head}.last", inner)))
        patch = adjoint.pad(patch, patch.value.shape[-1] // 2)
        if self.config.probe_big:
            outer = self.block(f"{head}.outer", adjoint.channels(x, slice(-OUTER_CHANNELS, None)))
            border = self.convolve(f"{head}.outer.last", self.tap(f"{head}.outer.up", adjoint.upsample(outer)))
            patch = adjoint.bordered(patch, adjoint.activate("swish", border))
        return self.tap(head, patch)

    def object_patches(self, batch: Batch) -> Node:
        """Complex object patches (B, C, N, N), consistent within each group."""
        config, x = self.config, self.tap("inputs", Node(np.asarray(batch.inputs, np.float64)))
        for i in range(len(canonical.encoder_filters(config))):
            x = self.tap(f"encoder.{i}.down", adjoint.downsample(self.block(f"encoder.{i}", x)))
        amplitude = self.decode("amplitude", x, config.amp_activation)
        patches = adjoint.polar(amplitude, self.decode("phase", x, "phase_head"))
        if config.n_channels > 1:
            patches = self.tap("patches_before_merge", patches)
            if config.object_big:
                region = adjoint.merge_patches(patches, batch.offsets_px, batch.n_canvas)
            else:
                region = adjoint.pad(adjoint.channels(patches, 0), (batch.n_canvas - config.N) // 2)
            patches = adjoint.cut_patches(self.tap("region", region), batch.offsets_px, config.N)
        return self.tap("object_patches", patches)

    def loss(self, patches: Node, batch: Batch, good_pixels: Mask) -> Node:
        """From object patches to the loss: the physics."""
        mask = probe_mask(self.config.N) if self.config.probe_mask else 1.0
        real, imag = (self.weights[name] for name in PROBE)
        probe = self.tap("probe", adjoint.complex_probe(real, imag, mask))
        wave = self.tap("far_field", adjoint.propagated(self.tap("exit_wave", adjoint.illuminated(probe, patches))))
        intensity = self.tap("expected_intensity", adjoint.expected_intensity(wave, self.weights[INTENSITY_SCALE]))
        expected = Node(batch.count_scale * intensity.value, (intensity, lambda g: batch.count_scale * g))
        counts = self.tap("expected_counts", expected)
        return self.tap("loss", adjoint.poisson_nll(batch.counts, counts, good_pixels))


class Adam:
    """Kingma & Ba 2015, algorithm 1."""

    def __init__(self, config: TrainingConfig) -> None:
        self.beta1, self.beta2, self.epsilon = config.adam_beta1, config.adam_beta2, config.adam_epsilon
        self.first: Arrays = {}
        self.second: Arrays = {}
        self.steps = 0

    def step(self, weights: Arrays, gradients: Arrays, rate: float) -> Arrays:
        """Weights after a step; those without a gradient stay, and all where the rate is 0."""
        self.steps += 1
        moved = dict(weights)
        for name, g in gradients.items():
            m = self.beta1 * self.first.get(name, np.zeros_like(g)) + (1 - self.beta1) * g
            v = self.beta2 * self.second.get(name, np.zeros_like(g)) + (1 - self.beta2) * g**2
            self.first[name], self.second[name] = m, v
            if not rate:
                continue
            unbiased = m / (1 - self.beta1**self.steps)
            root = np.sqrt(v / (1 - self.beta2**self.steps))
            moved[name] = weights[name] - rate * unbiased / (root + self.epsilon)
        return moved


class NumpyNetwork:
    """A built network with its optimiser; see :class:`.protocol.Network`."""

    def __init__(self, config: TrainingConfig, weights: Weights, good_pixels: Good, precision: str) -> None:
        self.config, self.good_pixels = config, good_pixels
        self.trainable = canonical.trainable_names(config, list(weights))
        self.reset(weights)

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""
        self.weights: Arrays = {name: np.array(array, np.float64) for name, array in weights.items()}
        self.adam = Adam(self.config)

    def get_weights(self) -> Weights:
        """Canonical weights, copied out."""
        return {name: array.copy() for name, array in self.weights.items()}

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N)."""
        return Layers(self.weights, self.config.model).object_patches(batch).value

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """One Adam step; the loss before it."""
        loss, gradients = self._pass(batch, untapped)
        self.weights = self.adam.step(self.weights, gradients, learning_rate)
        return loss

    def trace(self, batch: Batch, given: Mapping[str, Array] | None = None) -> Arrays:
        """Every tap of one forward and backward pass; see :meth:`.protocol.Network.trace`."""
        recorder = Recorder(given)
        _, gradients = self._pass(batch, recorder)
        return recorder.arrays() | {f"gradient/{name}": gradient for name, gradient in gradients.items()}

    def _pass(self, batch: Batch, tap: Tap[Node]) -> tuple[float, Arrays]:
        """The loss, and its gradient with respect to every trainable weight."""
        layers = Layers(self.weights, self.config.model, tap)
        loss = layers.loss(layers.object_patches(batch), batch, self.good_pixels)
        loss.backward()
        nodes = {name: layers.weights[name] for name in self.trainable}
        gradients = {name: np.broadcast_to(one.gradient, one.value.shape).copy() for name, one in nodes.items()}
        return float(loss.value), gradients


class NumpyBackend(NetworkBackend):
    """See :class:`.protocol.Backend`."""

    name = "numpy"
    precisions = ("float64",)
    frameworks = ()
    network = NumpyNetwork

    def operators(self, precision: str = "float64") -> dict[str, Operator]:
        """See :meth:`.protocol.Operators.operators`."""
        self.check_precision(precision)
        return dict(operators.OPERATORS)

    def describe(self) -> dict[str, Any]:
        """Version, device, threads, determinism."""
        return self.description(np.__version__, "cpu", os.cpu_count(), deterministic=True)


BACKEND = NumpyBackend()


# --- what the ladder asks of the reference ---

SLOPE_STEPS = (2e-9, 2e-10)
"""Of finite differences. One in 1e6 ReLUs changes sides within 1e-7, and spoils the difference; rounding spoils that of
the smaller step by up to 3e-4."""


def forward(
    weights: Arrays, batch: Batch, config: ModelConfig, good_pixels: Mask = None, patches: Array | None = None
) -> Arrays:
    """Every tap of one forward pass by name, ``loss`` the last, as a backend's trace has them.

    Given object patches (B, C, N, N), it starts from these: the taps of the physics alone.
    """
    recorder = Recorder()
    layers = Layers(weights, config, recorder)
    layers.loss(layers.object_patches(batch) if patches is None else Node(patches), batch, good_pixels)
    return recorder.values


def physics_gradients(
    weights: Arrays, patches: Array, batch: Batch, config: ModelConfig, good_pixels: Mask = None
) -> Arrays:
    """Gradient of the loss with respect to object patches, probe and intensity scale, at given object patches.

    Returns
    -------
    dict
        ``object_patches`` (B, C, N, N) complex, ``probe.real`` and ``probe.imag`` (modes, N, N), and
        ``log_intensity_scale`` ().
    """
    layers, start = Layers(weights, config), Node(patches)
    layers.loss(start, batch, good_pixels).backward()
    nodes = {"object_patches": start} | {name: layers.weights[name] for name in (*PROBE, INTENSITY_SCALE)}
    return {name: node.gradient for name, node in nodes.items()}


def slopes(
    weights: Arrays, direction: Arrays, batch: Batch, config: ModelConfig, good_pixels: Mask = None
) -> NDArray[np.float64]:
    """Derivative of the loss along `direction` in the weights' space, by central differences of `SLOPE_STEPS`."""

    def loss(by: float) -> float:
        moved = {name: np.asarray(w, np.float64) + by * direction.get(name, 0.0) for name, w in weights.items()}
        return float(forward(moved, batch, config, good_pixels)["loss"])

    return np.array([(loss(step) - loss(-step)) / (2 * step) for step in SLOPE_STEPS])


def directions(weights: Arrays, seed: int = 7) -> dict[str, Arrays]:
    """A random direction through all weights of each kind ('kernel', 'bias', 'physics'), on the weights' scale."""
    rng = np.random.default_rng(seed)
    moves: dict[str, Arrays] = {}
    for name, array in weights.items():
        move = rng.normal(size=array.shape) * (float(np.std(array)) or 0.1)
        part = name.rpartition(".")[2]
        moves.setdefault(part if part in ("kernel", "bias") else "physics", {})[name] = np.asarray(move)
    return moves
