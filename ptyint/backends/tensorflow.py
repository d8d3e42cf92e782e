"""The network and its physics in TensorFlow."""

import math
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.config import is_op_determinism_enabled

from ptyint.backends import protocol
from ptyint.backends import weights as canonical
from ptyint.backends.protocol import Arrays, Good, Operator, Tap, untapped
from ptyint.backends.training import NetworkBackend, on_arrays
from ptyint.backends.weights import INTENSITY_SCALE, OUTER_CHANNELS, PROBE, Weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.batches import Batch

tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 means float32, on a GPU too

BORDER_WEIGHT = 1e-2
MIN_COVERAGE = 1e-5
COUNT_FLOOR = 1e-2

ACTIVATIONS = {"sigmoid": tf.sigmoid, "swish": tf.nn.silu, "softplus": tf.nn.softplus, "relu": tf.nn.relu}

Tensor = Any


def downsample(x: Tensor) -> Tensor:
    """Largest value of each 2 x 2 block of (B, H, W, channels)."""
    return tf.nn.max_pool2d(x, 2, 2, "VALID")


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour up-sampling by two of (B, H, W, channels)."""
    B, H, W, channels = tf.shape(x)[0], x.shape[1], x.shape[2], x.shape[3]
    doubled = tf.broadcast_to(x[:, :, None, :, None, :], (B, H, 2, W, 2, channels))
    return tf.reshape(doubled, (B, 2 * H, 2 * W, channels))


def phase_head(x: Tensor) -> Tensor:
    """Phase in (-pi, pi) rad."""
    return math.pi * tf.tanh(x)


def translation_matrix(offset_px: Tensor, n_out: int, n_in: int) -> Tensor:
    """Bilinear weights (..., n_out, n_in) that move pixel j to ``j + offset + (n_out - n_in) / 2``."""
    target = tf.range(n_in, dtype=offset_px.dtype) + offset_px[..., None, None] + (n_out - n_in) / 2
    return tf.nn.relu(1 - tf.abs(tf.range(n_out, dtype=offset_px.dtype)[:, None] - target))


def translate(image: Tensor, offset_yx: Tensor, n_out: int) -> Tensor:
    """Move real images (..., n_in, n_in) by offsets (..., 2) in px into frames of edge `n_out`."""
    n_in = image.shape[-1]
    rows = translation_matrix(offset_yx[..., 0], n_out, n_in)
    columns = translation_matrix(offset_yx[..., 1], n_out, n_in)
    return tf.matmul(tf.matmul(rows, image), columns, transpose_b=True)


def pad_patch(patch: Tensor) -> Tensor:
    """Zero-pad (B, C, N/2, N/2) to (B, C, N, N)."""
    margin = patch.shape[-1] // 2
    return tf.pad(patch, [[0, 0], [0, 0], [margin, margin], [margin, margin]])


def center_mask(N: int, dtype: Any) -> Tensor:
    """1 in the central N/2 x N/2 block, 0 in the border: (1, 1, N, N)."""
    return pad_patch(tf.ones((1, 1, N // 2, N // 2), dtype))


def merge_patches(patches: Tensor, offsets_px: Tensor, n_canvas: int) -> Tensor:
    """Merge complex patches (B, C, N, N) by their offsets into one region (B, n_canvas, n_canvas)."""
    real, imag = tf.math.real(patches), tf.math.imag(patches)
    center = center_mask(patches.shape[-1], real.dtype)
    weight = center + BORDER_WEIGHT * (1 - center)
    layers = tf.stack([real * weight, imag * weight, tf.broadcast_to(weight, tf.shape(real))])
    real, imag, covered = tf.unstack(tf.reduce_sum(translate(layers, offsets_px[None], n_canvas), axis=2))
    covered = tf.where(covered > MIN_COVERAGE, covered, tf.zeros_like(covered))
    return tf.complex(tf.math.divide_no_nan(real, covered), tf.math.divide_no_nan(imag, covered))


def cut_patches(region: Tensor, offsets_px: Tensor, N: int) -> Tensor:
    """Cut complex patches (B, C, N, N) out of the regions (B, n_canvas, n_canvas)."""
    layers = tf.stack([tf.math.real(region), tf.math.imag(region)])[:, :, None]
    real, imag = tf.unstack(translate(layers, -offsets_px[None], N))
    return tf.complex(real, imag)


def probe_mask(N: int, dtype: Any) -> Tensor:
    """Disk of radius N/4 around [N // 2, N // 2]: (N, N)."""
    axis = tf.range(N, dtype=dtype) - N // 2
    return tf.cast(axis[:, None] ** 2 + axis**2 <= (N / 4) ** 2, dtype)


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves (B, C, modes, N, N) of the probe (modes, N, N) on patches (B, C, N, N)."""
    return probe * patches[:, :, None]


def propagate(exit_wave: Tensor) -> Tensor:
    """Orthonormal FFT, zero frequency at the centre."""
    N = exit_wave.shape[-1]
    return tf.signal.fftshift(tf.signal.fft2d(exit_wave), axes=(-2, -1)) / N


def expected_intensity(far_field: Tensor, log_intensity_scale: Tensor) -> Tensor:
    """Intensities (B, C, N, N) of far fields (B, C, modes, N, N); modes add incoherently."""
    intensity = tf.reduce_sum(tf.math.real(far_field) ** 2 + tf.math.imag(far_field) ** 2, axis=2)
    return tf.exp(2 * log_intensity_scale) * intensity


def poisson_nll(counts: Tensor, expected: Tensor, good_pixels: Tensor) -> Tensor:
    """Mean over good pixels of ``l - k log l`` with ``l = expected + COUNT_FLOOR``."""
    rate = expected + COUNT_FLOOR
    per_pattern = tf.reduce_sum((rate - counts * tf.math.log(rate)) * good_pixels, axis=(-2, -1))
    return tf.reduce_mean(per_pattern) / tf.reduce_sum(good_pixels)


class PtychoNet:
    """Amplitudes of C patterns in, their object patches and diffraction patterns out; weights by canonical name."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, tf.Variable]) -> None:
        self.config, self.weights = config, weights

    def convolve(self, name: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """The convolution `name`, without activation."""
        product = tf.nn.conv2d(x, self.weights[f"{name}.kernel"], 1, "SAME")
        return tap(name, tf.nn.bias_add(product, self.weights[f"{name}.bias"]), channels_last=True)

    def block(self, prefix: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """Twice convolution and ReLU."""
        for name in (f"{prefix}.conv1", f"{prefix}.conv2"):
            x = tap(f"{name}.relu", tf.nn.relu(self.convolve(name, x, tap)), channels_last=True)
        return x

    def decode(self, head: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """Real patches (B, C or 1, N, N) of one head: 'amplitude' or 'phase'."""
        for i in range(len(canonical.decoder_filters(self.config))):
            x = tap(f"{head}.{i}.up", upsample(self.block(f"{head}.{i}", x, tap)), channels_last=True)
        widths = x.shape[-1] - OUTER_CHANNELS, OUTER_CHANNELS
        inner, outer = tf.split(x, widths, axis=-1) if self.config.probe_big else (x, None)
        activation = phase_head if head == "phase" else ACTIVATIONS[self.config.amp_activation]
        patch = tap(f"{head}.head", activation(_channels_first(self.convolve(f"{head}.last", inner, tap))))
        patch = pad_patch(patch)
        if outer is not None:
            border = tap(f"{head}.outer.up", upsample(self.block(f"{head}.outer", outer, tap)), channels_last=True)
            border = tf.nn.silu(self.convolve(f"{head}.outer.last", border, tap))
            patch += _channels_first(border) * (1 - center_mask(self.config.N, patch.dtype))
        return tap(head, patch)

    def object_patches(self, inputs: Tensor, offsets_px: Tensor, n_canvas: int, tap: Tap[Tensor] = untapped) -> Tensor:
        """Complex object patches (B, C, N, N), consistent within each group."""
        x = _channels_last(tap("inputs", inputs))
        for i in range(len(canonical.encoder_filters(self.config))):
            x = tap(f"encoder.{i}.down", downsample(self.block(f"encoder.{i}", x, tap)), channels_last=True)
        amplitude, phase = self.decode("amplitude", x, tap), self.decode("phase", x, tap)
        patches = tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))
        if self.config.n_channels > 1:
            patches = tap("patches_before_merge", patches)
            if self.config.object_big:
                region = merge_patches(patches, offsets_px, n_canvas)
            else:
                margin = (n_canvas - self.config.N) // 2
                region = tf.pad(patches[:, 0], [[0, 0], [margin, margin], [margin, margin]])
            patches = cut_patches(tap("region", region), offsets_px, self.config.N)
        return tap("object_patches", patches)

    def forward(self, inputs: Tensor, offsets_px: Tensor, n_canvas: int, tap: Tap[Tensor] = untapped) -> Tensor:
        """Expected intensities (B, C, N, N), in squared units of the inputs."""
        patches = self.object_patches(inputs, offsets_px, n_canvas, tap)
        real, imag = (self.weights[name] for name in PROBE)
        probe = tf.complex(real, imag)
        if self.config.probe_mask:
            probe *= tf.cast(probe_mask(self.config.N, real.dtype), probe.dtype)
        exit_wave = tap("exit_wave", illuminate(tap("probe", probe), patches))
        wave = tap("far_field", propagate(exit_wave))
        return tap("expected_intensity", expected_intensity(wave, self.weights[INTENSITY_SCALE]))


class Recorder(protocol.Recorder):
    """See :class:`.protocol.Recorder`."""

    def __call__(self, name: str, tensor: Tensor, channels_last: bool = False) -> Tensor:
        """Keep `tensor`; return it, or what is given in its place."""
        first = _channels_first(tensor) if channels_last else tensor
        self.values[name] = np.array(first.numpy())

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def recorded(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            def backward(gradient: Tensor) -> Tensor:
                self.gradients[name] = np.array(gradient.numpy())
                passed = self.in_place_of(gradient, f"gradient/{name}")
                return passed if passed.shape == x.shape else tf.zeros_like(x)

            return self.in_place_of(x, name), backward

        result = recorded(first)
        return _channels_last(result) if channels_last else result

    def in_place_of(self, tensor: Tensor, name: str) -> Tensor:
        """What is given under `name`; a copy of `tensor` where nothing is."""
        return tf.constant(self.given[name], tensor.dtype) if name in self.given else tf.identity(tensor)


def _channels_first(x: Tensor) -> Tensor:
    return tf.transpose(x, (0, 3, 1, 2))


def _channels_last(x: Tensor) -> Tensor:
    return tf.transpose(x, (0, 2, 3, 1))


class Adam:
    """Kingma & Ba 2015, algorithm 1, with epsilon outside the bias correction (Keras' own has it inside)."""

    def __init__(self, variables: dict[str, tf.Variable], config: TrainingConfig) -> None:
        self.variables, self.steps = variables, 0
        self.beta1, self.beta2, self.epsilon = config.adam_beta1, config.adam_beta2, config.adam_epsilon
        self.first, self.second = ({name: tf.Variable(tf.zeros_like(v)) for name, v in variables.items()} for _ in "12")

    def factors(self, learning_rate: float, dtype: Any) -> tuple[Tensor, Tensor]:
        """Step size over the first bias correction, and root of the second one, for the step that comes."""
        self.steps += 1
        size = learning_rate / (1 - self.beta1**self.steps)
        root = math.sqrt(1 - self.beta2**self.steps)
        return tf.constant(size, dtype), tf.constant(root, dtype)

    def apply(self, gradients: list[Tensor], step_size: Tensor, root: Tensor) -> None:
        """Move the variables."""
        moments = self.first.values(), self.second.values()
        for v, g, m, s in zip(self.variables.values(), gradients, *moments, strict=True):
            m.assign(self.beta1 * m + (1 - self.beta1) * g)
            s.assign(self.beta2 * s + (1 - self.beta2) * g * g)
            v.assign_sub(step_size * m / (tf.sqrt(s) / root + self.epsilon))


def _compiled(function: Callable[..., Tensor], signature: tuple[Any, ...]) -> Callable[[int], Callable[..., Tensor]]:
    """A function of a canvas size that gives `function` with it, traced once for batches of any size."""

    @cache
    def sized(n_canvas: int) -> Any:
        return tf.function(partial(function, n_canvas=n_canvas), input_signature=signature, autograph=False)

    return sized


class TensorFlowNetwork:
    """A built network with its optimiser; see :class:`.protocol.Network`."""

    def __init__(self, config: TrainingConfig, weights: Weights, good_pixels: Good, precision: str) -> None:
        self.precision = precision
        self.good_pixels = self._tensor(good_pixels)
        self.variables = {name: tf.Variable(self._tensor(array)) for name, array in weights.items()}
        self.model = PtychoNet(config.model, self.variables)
        self.trainable = canonical.trainable_names(config, list(weights))
        self.adam = Adam({name: self.variables[name] for name in self.trainable}, config)
        C, N = config.model.n_channels, config.model.N
        shapes = {"inputs": (None, C, N, N), "counts": (None, C, N, N), "offsets_px": (None, C, 2), "count_scale": ()}
        specs = {name: tf.TensorSpec(shape, precision) for name, shape in shapes.items()}
        number = specs["count_scale"]
        self._step = _compiled(self._step_eagerly, (tuple(specs.values()), number, number))
        self._predict = _compiled(self.model.object_patches, (specs["inputs"], specs["offsets_px"]))

    def _tensor(self, array: NDArray[Any] | float) -> Tensor:
        return tf.constant(array, self.precision)

    def get_weights(self) -> Weights:
        """Copy canonical weights out."""
        return {name: np.array(variable.numpy()) for name, variable in self.variables.items()}

    def _tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """What a step depends on: inputs, counts, offsets in pixels, scale of the counts."""
        arrays = (batch.inputs, batch.counts, batch.offsets_px, batch.count_scale)
        return tuple(self._tensor(array) for array in arrays)

    def _gradients(
        self, tensors: tuple[Tensor, ...], n_canvas: int, sources: list[Any], tap: Tap[Tensor] = untapped
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and its gradient with respect to each of the `sources`."""
        inputs, counts, offsets_px, count_scale = tensors
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            expected = tap("expected_counts", count_scale * self.model.forward(inputs, offsets_px, n_canvas, tap))
            loss = tap("loss", poisson_nll(counts, expected, self.good_pixels))
        return loss, list(tape.gradient(loss, sources, unconnected_gradients="zero"))

    def _step_eagerly(self, tensors: tuple[Tensor, ...], step_size: Tensor, root: Tensor, n_canvas: int) -> Tensor:
        loss, gradients = self._gradients(tensors, n_canvas, [*self.adam.variables.values()])
        self.adam.apply(gradients, step_size, root)
        return loss

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """One Adam step; the loss before it."""
        step_size, root = self.adam.factors(learning_rate, self.precision)
        return float(self._step(batch.n_canvas)(self._tensors(batch), step_size, root))

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N)."""
        patches = self._predict(batch.n_canvas)(self._tensor(batch.inputs), self._tensor(batch.offsets_px))
        return np.asarray(patches.numpy())

    def _moving(self) -> dict[str, tf.Variable]:
        """All that a step changes but their number: weights, and Adam's moments."""
        moments = {"first": self.adam.first, "second": self.adam.second}
        return self.variables | {f"{key}/{name}": one for key in moments for name, one in moments[key].items()}

    def get_state(self) -> Arrays:
        """See :class:`.checkpoint.Resumable`."""
        moving = {name: np.array(variable.numpy()) for name, variable in self._moving().items()}
        return {**moving, "steps": np.array(self.adam.steps)}

    def set_state(self, state: Arrays) -> None:
        """See :class:`.checkpoint.Resumable`."""
        for name, variable in self._moving().items():
            variable.assign(self._tensor(state[name]))
        self.adam.steps = int(state["steps"])

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""
        zeros = {name: np.zeros(variable.shape) for name, variable in self._moving().items()}
        self.set_state({**zeros, "steps": np.array(0), **weights})

    def trace(self, batch: Batch, given: Mapping[str, NDArray[Any]] | None = None) -> Arrays:
        """Every tap of one forward and backward pass; see :meth:`.protocol.Network.trace`."""
        recorder, tensors = Recorder(given), self._tensors(batch)
        _, gradients = self._gradients(tensors, batch.n_canvas, [tensors[0], *self.adam.variables.values()], recorder)
        named = zip(self.trainable, gradients[1:], strict=True)
        return recorder.arrays() | {f"gradient/{name}": np.array(gradient.numpy()) for name, gradient in named}


class TensorFlowBackend(NetworkBackend):
    """See :class:`.protocol.Backend`."""

    name = "tensorflow"
    frameworks = ("tensorflow",)
    network = TensorFlowNetwork

    def operators(self, precision: str = "float64") -> dict[str, Operator]:
        """See :meth:`.protocol.Operators.operators`."""

        def t(array: Any) -> Tensor:
            complex_ = {"float32": "complex64", "float64": "complex128"}[precision]
            return tf.constant(array, complex_ if np.iscomplexobj(array) else precision)

        def a(tensor: Tensor) -> NDArray[Any]:
            return np.array(tensor.numpy())

        return {
            **on_arrays(globals(), t, a),
            "probe_mask": lambda N: a(probe_mask(N, precision)),
            "downsample": lambda x: a(_channels_first(downsample(_channels_last(t(x))))),
            "upsample": lambda x: a(_channels_first(upsample(_channels_last(t(x))))),
        }

    def describe(self) -> dict[str, Any]:
        """Version, device, threads, determinism."""
        gpus = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"
        threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
        grappler = tf.config.optimizer.get_experimental_options()
        return self.description(
            tf.__version__,
            name,
            threads,
            is_op_determinism_enabled(),
            TF32=tf.config.experimental.tensor_float_32_execution_enabled(),
            autocast=any("auto_mixed" in key and on for key, on in grappler.items()),
        )


BACKEND = TensorFlowBackend()
