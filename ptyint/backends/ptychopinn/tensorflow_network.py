"""PtychoPINN's TensorFlow network, traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from ptyint.backends import tensorflow
from ptyint.backends.models import Watched
from ptyint.backends.models.keras_model import KerasModel
from ptyint.backends.models.rules import Parts
from ptyint.backends.protocol import Arrays
from ptyint.backends.ptychopinn import local_offsets
from ptyint.backends.ptychopinn.network import WatchedNetwork, named
from ptyint.backends.weights import INTENSITY_SCALE, PROBE, Weights, probe_of
from ptyint.config import TrainingConfig
from ptyint.scans.batches import Batch

TAPS = {
    "intensity_scaler": "inputs", "amp": "amplitude.head", "phi": "phase.head", "obj:in": "amplitude",
    "phase": "phase", "obj": "patches_before_merge", "padded_obj_2": "region",
    "padded_objs_with_offsets": "object_patches", "probe_illumination": "exit_wave",
    "pred_diff_channels": "diffraction", "intensity_scaler_inv": "expected_amplitude",
}  # fmt: skip
"""Its layers to canonical taps; and two that are its own: amplitudes before and after the intensity scale."""


class Recorder(tensorflow.Recorder):
    """A recorder under canonical names and in canonical layout; what has none passes by."""

    def __init__(self, taps: Mapping[str, str], shape: tuple[int, int], given: Arrays | None = None) -> None:
        super().__init__(given)
        self.taps, self.shape = taps, shape

    def __call__(self, name: str, tensor: Any, channels_last: bool = False) -> Any:
        """See :class:`ptyint.backends.tensorflow.Recorder`."""
        tap = self.taps.get(name)
        if tap is None:
            return tensor
        C, N = self.shape
        first = tf.transpose(tensor, (0, 3, 1, 2))
        shapes = {"region": (-1, *first.shape[2:]), "object_patches": (-1, C, N, N), "exit_wave": (-1, C, 1, N, N)}
        seen = super().__call__(tap, tf.reshape(first, shapes.get(tap, first.shape)))
        size = seen.shape[-1]  # of what is given in its place
        return tf.transpose(tf.reshape(seen, (-1, first.shape[1], size, size)), (0, 2, 3, 1))


class Model(KerasModel):
    """The watched model, with the layers that make others when they are called, and both inputs of ``obj``."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.taps |= {key: name for key, (name, _) in self.layers.items() if name in TAPS}
        tf.config.run_functions_eagerly(False)

    def run(self, inputs: Arrays, training: bool, recorder: Any) -> tuple[Any, dict[str, Parts]]:
        """See :class:`ptyint.backends.models.Watched`; its workflow, in the same process, runs compiled."""
        tf.config.run_functions_eagerly(True)
        try:
            return super().run(inputs, training, recorder)
        finally:
            tf.config.run_functions_eagerly(False)

    def tapped(self, recorder: Any, tap: str, value: Any) -> Any:
        """See :class:`ptyint.backends.models.Watched`."""
        if tap == "obj:in":
            return [recorder(name, one) for name, one in zip(("obj:in", "phase"), value, strict=True)]
        return super().tapped(recorder, tap, value)


class KerasNetwork(WatchedNetwork):
    """See :class:`.protocol.Network`."""

    def __init__(self, build: Callable[[], Any], config: TrainingConfig, weights: Weights) -> None:
        C, N = config.model.n_channels, config.model.N
        inputs = {"0": np.ones((1, N, N, C), np.float32), "1": np.zeros((1, 1, 2, C), np.float32)}
        watched: Watched = Model(build, "float32", inputs, {})
        layers = named(watched.kinds, config.model)
        taps = {own: layer for layer, own in layers.items()} | TAPS
        taps |= {f"{own}.activation": f"{layer}.relu" for layer, own in layers.items()}
        watched.recorder = partial(Recorder, taps, (C, N))
        self.probe = watched.model.get_layer("probe_illumination").w
        self.log_scale = watched.model.get_layer("intensity_scaler").w
        super().__init__(watched, layers, config, weights)

    def renew(self, weights: Weights) -> None:
        """See :class:`WatchedNetwork`."""
        optimiser = self.watched.model.optimizer
        self.watched.optimiser = type(optimiser).from_config(optimiser.get_config())
        self.probe.assign(probe_of(weights).reshape(self.probe.shape))
        self.given = self.put = np.float32(weights[INTENSITY_SCALE])
        self.log_scale.assign(self.put)

    def physics(self) -> Weights:
        """See :class:`WatchedNetwork`."""
        probe, moved = self.probe.numpy().reshape(1, *self.probe.shape[1:3]), self.log_scale.numpy() - self.put
        parts = (probe.real.copy(), probe.imag.copy(), np.asarray(self.given + moved))
        return dict(zip((*PROBE, INTENSITY_SCALE), parts, strict=True))

    def trace(self, batch: Batch, given: Mapping[str, Any] | None = None) -> Arrays:
        """See :class:`.protocol.Network`; its probe, which is no layer's output, is shown, and put in, as it is."""
        own = self.probe.numpy()
        probe = own.reshape(1, *own.shape[1:3])
        self.probe.assign((given or {}).get("probe", own).reshape(own.shape))
        found = super().trace(batch, given)
        self.probe.assign(own)
        return {name: array for tap, one in found.items()
                for name, array in (*([("probe", probe)] if tap == "exit_wave" else []), (tap, one))}  # fmt: skip

    @property
    def epsilon(self) -> float:
        """See :class:`WatchedNetwork`."""
        return float(self.watched.optimiser.epsilon)

    def set_rate(self, learning_rate: float) -> None:
        """See :class:`WatchedNetwork`."""
        self.watched.optimiser.learning_rate = learning_rate

    def arrange(self, batch: Batch) -> tuple[Arrays, Arrays]:
        """Inputs times the intensity scale, as `prepare_inputs` has them: it is a root of counts."""
        self.given = np.float32(self.physics()[INTENSITY_SCALE])
        self.put = np.float32(self.given + np.log(batch.count_scale) / 2)
        self.log_scale.assign(self.put)
        inputs, counts = (np.moveaxis(array, 1, -1) for array in (batch.inputs, batch.counts))
        scaled = inputs * np.exp(self.put)
        empty = np.zeros((*inputs.shape[:-1], 1), np.complex64)
        given = {"0": scaled.astype(np.float32), "1": local_offsets(batch.offsets_px)}
        return given, {"0": empty, "1": np.sqrt(counts), "2": counts.astype(np.float32)}
