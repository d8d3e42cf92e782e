"""PtychoPINN's TensorFlow backend, ``ptycho``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import ptychopinn
from ptyint.backends.protocol import Mask, Network, Operator, by_name
from ptyint.backends.ptychopinn import Adapter, fit, interface, local_offsets, predicted, trained
from ptyint.backends.ptychopinn.network import check
from ptyint.backends.weights import Weights
from ptyint.config import ModelConfig, TrainingConfig

components = interface(
    "ptycho.workflows.components",
    "run_cdi_example", "load_inference_bundle", "create_ptycho_data_container", "reassemble_cdi_image",
)  # fmt: skip
helper = interface(
    "ptycho.tf_helper", "translate", "extract_patches_position", "pad_and_diffract", "pad_obj", "reassemble_position"
)
layers = interface("ptycho.custom_layers", "ReassemblePatchesLayer", "TrimReconstructionLayer", "ActivationLayer")
model = interface("ptycho.model", "create_compiled_model", "ProbeIllumination", "negloglik")
probes = interface("ptycho.probe", "set_probe_guess", "get_probe_mask_real")
manager = interface("ptycho.model_manager", "save")
params = interface("ptycho.params", "cfg", "get", "get_padded_size")

import tensorflow as tf  # what PtychoPINN has just imported

NO_XLA = "[use_xla_translate=False]"


class PtychoPINNTensorFlow(Adapter):
    """See :class:`.protocol.Workflow`."""

    name, side = "ptychopinn-tensorflow", "tensorflow"
    frameworks = ("tensorflow",)

    def describe(self) -> dict[str, Any]:
        """Commit, versions, threads."""
        device = "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
        return ptychopinn.description(self.name, device, tf.config.threading.get_intra_op_parallelism_threads())

    # --- operators ---

    def operators(self, precision: str = "float32") -> dict[str, Operator]:
        """What PtychoPINN has as functions or layers of their own; it computes in single precision."""
        return {
            "normalise_probe": normalise_probe,
            "probe_mask": lambda N: np.asarray(probes.get_probe_mask_real(N)[..., 0], np.float32),
            **{name: _activation(name) for name in ("sigmoid", "swish", "softplus", "relu")},
            "phase_head": _activation("tanh", scale=math.pi),
            "pad_patch": lambda patch: _first(helper.pad_obj(_last(patch), *2 * (2 * patch.shape[-1],))),
            "translate": translate,
            f"translate {NO_XLA}": mock.patch.dict(params.cfg, use_xla_translate=False)(translate),
            **by_name(merge_patches, cut_patches, illuminate, diffract),
            **by_name(poisson_nll, canvas_size, patch_of_group, stitch),
        }

    # --- its network ---

    def build(
        self, config: TrainingConfig, weights: Weights, good_pixels: Mask = None, precision: str | None = None
    ) -> Network:
        """`create_compiled_model`, watched; see :class:`.protocol.Traceable`."""
        from ptyint.backends.ptychopinn.tensorflow_network import KerasNetwork  # watching alters `tf.cast`

        check(config, weights, good_pixels, precision)
        return KerasNetwork(lambda: _network(config), config, weights)

    # --- its workflow ---

    def initial_weights(self, config: TrainingConfig) -> dict[str, NDArray[Any]]:
        """See :class:`.protocol.Workflow`."""
        return {name: np.asarray(weight) for name, weight in _convolutions(_network(config)).items()}

    def run(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, NDArray[Any]]:
        """`run_cdi_example` with stitching, then `model_manager.save`."""
        tf.keras.utils.set_random_seed(config.seed)
        for name in ("intensity_scale", "probe"):
            params.cfg.pop(name, None)
        model._lazy_cache.clear()
        data, theirs = self.given(scan_file, config, folder)
        with ptychopinn.inside(folder):
            amplitude, phase, results = components.run_cdi_example(data, data, theirs, M=M, do_stitching=True)
            manager.save(str(folder))
        probe = np.asarray(results["model_instance"].get_layer("probe_illumination").w)
        return {
            **predicted(amplitude, phase, results),
            **trained(results),
            "probe": probe.reshape(-1, *probe.shape[-3:])[0, :, :, 0],
            "inputs": _first(results["train_container"].X),
        }

    def reload(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, NDArray[Any]]:
        """`load_inference_bundle`, then `reassemble_cdi_image` with what it loaded."""
        network, _ = components.load_inference_bundle(folder)
        model.diffraction_to_obj = network  # type: ignore[attr-defined]
        return predicted(*components.reassemble_cdi_image(*self.given(scan_file, config, folder), M=M))


def _network(config: TrainingConfig) -> Any:
    """A new network whose inputs are not scaled."""
    normalise_probe(np.ones((1, config.model.N, config.model.N), np.complex64), config.model.probe_scale)
    _gate(config.model)
    tf.keras.utils.set_random_seed(config.seed)
    model._lazy_cache.clear()
    params.cfg["intensity_scale"] = 1.0
    return model.create_compiled_model()[0]


def _convolutions(network: Any) -> dict[str, Any]:
    """Weights of its convolutions, in the order in which these were made: Keras numbers them."""
    kept = [weight for layer in network.layers for weight in layer.weights if "conv2d" in weight.path]
    return {weight.path: weight for weight in sorted(kept, key=lambda weight: _number(weight.path))}


def _number(path: str) -> int:
    found = re.match(r"conv2d_(\d+)", path)
    return int(found[1]) if found else 0


def _gate(config: ModelConfig) -> None:
    ptychopinn.gate(ptychopinn.their_config(TrainingConfig(model=config), "tensorflow"))


def _last(array: NDArray[Any]) -> Any:
    """(B, C, H, W) as a tensor (B, H, W, C), single precision."""
    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    return tf.constant(np.moveaxis(np.asarray(array, kind), 1, -1))


def _first(tensor: Any) -> NDArray[Any]:
    """Back again, as an array."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(tensor), -1, 1))


def _activation(name: str, **settings: Any) -> Callable[..., NDArray[Any]]:
    layer = layers.ActivationLayer(activation_name=name, **settings)
    return lambda x: np.asarray(layer(tf.constant(x, tf.float32)))


def _one_mode(n_modes: int) -> None:
    if n_modes != 1:
        raise NotImplementedError("PtychoPINN's TensorFlow backend takes a probe of one mode")


def normalise_probe(probe: NDArray[Any], probe_scale: float) -> NDArray[Any]:
    """`set_probe_guess`, as `train_cdi_model` calls it."""
    _one_mode(len(probe))
    _gate(ModelConfig(N=probe.shape[-1], probe_scale=probe_scale))
    probes.set_probe_guess(None, np.asarray(probe[0], np.complex64))
    return np.asarray(params.get("probe"))[None, ..., 0]


def translate(image: NDArray[Any], offset_yx: NDArray[Any], n_out: int) -> NDArray[Any]:
    """`tf_helper.translate` in the larger of the two frames, of images (B, n, n)."""
    frame = fit(image, max(n_out, image.shape[-1])).astype(np.float32)
    offsets = np.asarray(offset_yx[:, ::-1], np.float32)
    return fit(np.asarray(helper.translate(tf.constant(frame[..., None]), tf.constant(offsets)))[..., 0], n_out)


def merge_patches(patches: NDArray[Any], offsets_px: NDArray[Any], n_canvas: int) -> NDArray[Any]:
    """`ReassemblePatchesLayer`, the layer of the network."""
    _, C, N, _ = patches.shape
    _gate(ModelConfig(N=N, gridsize=math.isqrt(C)))
    layer = layers.ReassemblePatchesLayer(padded_size=n_canvas, N=N, gridsize=math.isqrt(C))
    return np.asarray(layer([_last(patches), tf.constant(local_offsets(offsets_px))]))[..., 0]


def cut_patches(region: NDArray[Any], offsets_px: NDArray[Any], N: int) -> NDArray[Any]:
    """`extract_patches_position`, to (groups, C, N, N)."""
    C = offsets_px.shape[1]
    shifts = -np.asarray(offsets_px, np.float32)[..., ::-1].transpose(0, 2, 1)[:, None]
    regions = tf.constant(np.asarray(region, np.complex64)[..., None])
    found = helper.extract_patches_position(regions, tf.constant(shifts), N=N, gridsize=math.isqrt(C))
    return np.asarray(found)[..., 0].reshape(len(region), C, N, N)


def illuminate(probe: NDArray[Any], patches: NDArray[Any]) -> NDArray[Any]:
    """`ProbeIllumination` with the probe as it is, to (groups, C, 1, N, N)."""
    _one_mode(len(probe))
    _gate(ModelConfig(N=patches.shape[-1], gridsize=math.isqrt(patches.shape[1])))
    guess = tf.constant(np.asarray(probe[0, :, :, None], np.complex64))
    layer = model.ProbeIllumination(initial_probe=guess, N=patches.shape[-1])
    return _first(layer([_last(patches)])[0])[:, :, None]


def diffract(exit_wave: NDArray[Any]) -> NDArray[Any]:
    """`pad_and_diffract` of waves (groups, C, 1, N, N), without padding."""
    groups, C, modes, N, _ = exit_wave.shape
    _one_mode(modes)
    waves = tf.constant(exit_wave.reshape(groups * C, N, N, 1).astype(np.complex64))
    return np.asarray(helper.pad_and_diffract(waves, N, N, pad=False)[1]).reshape(groups, C, N, N)


def poisson_nll(counts: NDArray[Any], expected: NDArray[Any], good: NDArray[Any]) -> NDArray[Any]:
    """`negloglik`, averaged as Keras averages a loss."""
    ptychopinn.every_pixel(good)
    return np.asarray(tf.reduce_mean(model.negloglik(_last(counts), _last(expected))))


def canvas_size(N: int, offsets_px: NDArray[Any]) -> NDArray[Any]:
    """`get_padded_size` under its default settings."""
    _gate(ModelConfig(N=N, gridsize=math.isqrt(offsets_px.shape[1])))
    return np.asarray(params.get_padded_size(), np.float32)


def patch_of_group(patches: NDArray[Any], offsets_px: NDArray[Any]) -> NDArray[Any]:
    """`ReassemblePatchesLayer` in the padded size, then `TrimReconstructionLayer`, as `diffraction_to_obj` ends."""
    _, C, N, _ = patches.shape
    _gate(ModelConfig(N=N, gridsize=math.isqrt(C)))
    region = merge_patches(patches, offsets_px, params.get_padded_size())
    trimmed = layers.TrimReconstructionLayer(output_size=N)(tf.constant(region[..., None]))
    return np.asarray(trimmed)[..., 0]


def stitch(patches: NDArray[Any], positions_px: NDArray[Any], M: int, n_canvas: int) -> NDArray[Any]:
    """`reassemble_position`, by which `reassemble_cdi_image` stitches."""
    _gate(ModelConfig(N=patches.shape[-1]))
    positions = np.asarray(positions_px, np.float64)[:, None, None, ::-1]
    found = helper.reassemble_position(np.asarray(patches[..., None], np.complex64), positions, M=M)
    return fit(np.asarray(found)[..., 0], n_canvas)


BACKEND = PtychoPINNTensorFlow()
