"""PtychoPINN's PyTorch backend, ``ptycho_torch``. It imports TensorFlow too: its process holds both."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import write_arrays
from ptyint.backends import ptychopinn
from ptyint.backends.protocol import Mask, Network, Operator, by_name
from ptyint.backends.ptychopinn import Adapter, fit, interface, local_offsets, predicted, trained
from ptyint.backends.ptychopinn.network import check
from ptyint.backends.ptychopinn.torch_network import TorchNetwork
from ptyint.backends.weights import OUTER_CHANNELS, Weights
from ptyint.config import ModelConfig, TrainingConfig

components = interface(
    "ptycho_torch.workflows.components",
    "run_cdi_example_torch", "train_cdi_model_torch", "load_inference_bundle_torch", "_reassemble_cdi_image_torch",
)  # fmt: skip
helper = interface(
    "ptycho_torch.helper",
    "Translation", "extract_channels_from_region", "get_padded_size", "pad_and_diffract", "pad_obj",
    "reassemble_patches_position_real",
)  # fmt: skip
inference = interface("ptycho_torch.inference", "_run_inference_and_reconstruct")
model = interface("ptycho_torch.model", "Amplitude_activation", "ProbeIllumination", "Tanh_custom_act")
settings = interface("ptycho_torch.config_params", "DataConfig", "ModelConfig")
masks = interface("ptycho_torch.probe_mask", "resolve_probe_mask_np")
raw_data = interface("ptycho.raw_data", "RawData")
their = interface("ptycho.config.config", "PyTorchExecutionConfig")

import torch  # what PtychoPINN has just imported

COMMAND_LINE = "[command line]"
ACTIVATIONS = {"sigmoid": "sigmoid", "swish": "silu", "softplus": "softplus", "relu": "relu"}


def parity_settings(config: ModelConfig) -> dict[str, Any]:
    """`overrides=` of its own with which its network is that of its TensorFlow backend; none of them is on by default.

    No attention; four outer channels; amplitudes for every patch; the larger canvas; the probe taken as it is given.
    """
    return {
        "cbam_encoder": False,
        "use_legacy_decoder_channel_override": True,
        "decoder_last_c_outer_fraction": OUTER_CHANNELS / (32 * config.n_filters_scale),
        "decoder_last_amp_channels": config.n_channels,
        "max_neighbor_distance": 14,
        "probe_scale": 1.0,
    }


class PtychoPINNPyTorch(Adapter):
    """See :class:`.protocol.Workflow`."""

    name, side = "ptychopinn-pytorch", "pytorch"
    frameworks = ("tensorflow", "torch")

    def __init__(self, overrides: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}) -> None:
        self.overrides = overrides

    @property
    def equal(self) -> PtychoPINNPyTorch:
        """The same, with the network that :func:`parity_settings` makes."""
        return PtychoPINNPyTorch(parity_settings)

    def forget(self) -> None:
        """Forget the models that were trained to see what training does."""
        _trained.cache_clear()

    def describe(self) -> dict[str, Any]:
        """Commit, versions, threads."""
        return ptychopinn.description(self.name, "cpu", torch.get_num_threads())

    # --- operators ---

    def operators(self, precision: str = "float32") -> dict[str, Operator]:
        """What PtychoPINN has as functions or modules of their own; it computes in single precision."""
        return {
            "normalise_probe": normalise_probe,
            "probe_mask": lambda N: np.asarray(masks.resolve_probe_mask_np(N, probe_mask=True), np.float32),
            **{name: _activation(theirs) for name, theirs in ACTIVATIONS.items()},
            "phase_head": lambda x: _array(model.Tanh_custom_act()(_tensor(x))),
            "pad_patch": lambda patch: _array(helper.pad_obj(_tensor(patch), *2 * (2 * patch.shape[-1],))),
            **by_name(translate, merge_patches, cut_patches, illuminate),
            "diffract": lambda exit_wave: _array(helper.pad_and_diffract(_tensor(exit_wave), pad=False)[0]),
            **by_name(poisson_nll, canvas_size, patch_of_group, stitch),
            f"stitch {COMMAND_LINE}": stitch_by_command_line,
        }

    # --- its network ---

    def build(
        self, config: TrainingConfig, weights: Weights, good_pixels: Mask = None, precision: str | None = None
    ) -> Network:
        """What `train_cdi_model_torch` trains, watched; see :class:`.protocol.Traceable`."""
        check(config, weights, good_pixels, precision)
        probe = np.ones((config.model.N, config.model.N), np.complex64)
        return TorchNetwork(_train(probe, config.model, self.overrides(config.model)).model, config, weights)

    # --- its workflow ---

    def initial_weights(self, config: TrainingConfig) -> dict[str, NDArray[Any]]:
        """See :class:`.protocol.Workflow`: as they are when training first uses them."""
        return dict(_trained(config.model.gridsize, config.model.N).initial)

    def run(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, NDArray[Any]]:
        """`run_cdi_example_torch` with stitching; it saves the bundle itself."""
        torch.manual_seed(config.seed)  # its network is drawn before it seeds anything
        with ptychopinn.inside(folder), watched() as seen:
            data, theirs = self.given(scan_file, config, folder)
            amplitude, phase, results = components.run_cdi_example_torch(
                data, data, theirs, M=M, do_stitching=True, execution_config=_execution()
            )
        found = {**predicted(amplitude, phase, results), **trained(results)}
        return {**found, "probe": seen.probe, "inputs": seen.inputs}

    def reload(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> dict[str, NDArray[Any]]:
        """`load_inference_bundle_torch`, then the stitching of `run_cdi_example_torch` with what it loaded."""
        with ptychopinn.inside(folder):
            models, _ = components.load_inference_bundle_torch(folder)
            given, results = self.given(scan_file, config, folder), {"models": models}
            found = components._reassemble_cdi_image_torch(*given, False, False, False, M, train_results=results)
            return predicted(*found)


def _execution() -> Any:
    return their.PyTorchExecutionConfig(accelerator="cpu", enable_checkpointing=False, logger_backend=None)


# --- what really happens in training, seen through hooks ---


@contextmanager
def watched() -> Iterator[SimpleNamespace]:
    """Keep the first probe that illuminates, every input of the network once, and its weights before the first."""
    seen, inputs = SimpleNamespace(probe=None, inputs=None, initial={}), dict[bytes, NDArray[Any]]()

    def look(module: Any, arguments: Any) -> None:
        kind = type(module).__name__
        if kind == "ProbeIllumination" and seen.probe is None:
            seen.probe = _array(arguments[1])[0, 0, 0].copy()
        if kind == "Autoencoder":
            inputs.update((one.tobytes(), one.copy()) for one in _array(arguments[0]))
            if not seen.initial:
                seen.initial = {name: _keras_layout(weight).copy() for name, weight in module.named_parameters()}
                seen.autoencoder, seen.state = module, copy.deepcopy(module.state_dict())

    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        yield seen
    seen.inputs = np.array(list(inputs.values()))


def _keras_layout(weight: Any) -> NDArray[Any]:
    array = _array(weight)
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


@cache
def _trained(gridsize: int, N: int = 64) -> SimpleNamespace:
    """A model from `train_cdi_model_torch` on a few flat patterns, and what was seen on the way."""
    return _train(np.ones((N, N), np.complex64), ModelConfig(N, gridsize, n_filters_scale=1))


def _train(probe: NDArray[Any], config: ModelConfig, overrides: dict[str, Any] | None = None) -> SimpleNamespace:
    n = max(6, config.n_channels + 2)
    rng = np.random.default_rng(1)
    amplitudes = (1 + rng.random((n, config.N, config.N))).astype(np.float32)
    x, y = 40 + 3.0 * np.arange(n), 40 + 3.0 * (np.arange(n) % 3)
    training = TrainingConfig(model=config, nepochs=1, batch_size=2, n_groups=n, seed=1)
    with tempfile.TemporaryDirectory(prefix="ptyint-ptychopinn-") as name:
        path = Path(name) / "scan.npz"
        arrays = {"diff3d": amplitudes, "xcoords": x, "ycoords": y, "probeGuess": probe}
        write_arrays(path, {**arrays, "objectGuess": np.ones((160, 160), np.complex64)})
        theirs = ptychopinn.their_config(training, "pytorch", train_data_file=path, output_dir=Path(name))
        ptychopinn.gate(theirs)
        with ptychopinn.inside(Path(name)), watched() as seen:
            data = raw_data.RawData.from_file(str(path))
            results = components.train_cdi_model_torch(
                data, None, theirs, execution_config=_execution(), overrides=overrides
            )
    seen.model = results["models"]["diffraction_to_obj"]
    seen.autoencoder.load_state_dict(seen.state)  # attention as it starts, and not as flat patterns leave it
    return seen


# --- operators ---


def _tensor(array: Any) -> Any:
    kind = torch.complex64 if np.iscomplexobj(array) else torch.float32
    return torch.as_tensor(np.array(array), dtype=kind)


def _array(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu())


def _activation(name: str) -> Operator:
    layer = model.Amplitude_activation(settings.ModelConfig(amp_activation=name))
    return lambda x: _array(layer(_tensor(x)))


def _configs(n_channels: int, N: int, n_canvas: int) -> tuple[Any, Any]:
    """DataConfig and ModelConfig under which `get_padded_size` is `n_canvas`, where gridsize allows it."""
    gridsize = math.isqrt(n_channels)
    data = settings.DataConfig(N=N, grid_size=(gridsize, gridsize), C=n_channels, max_neighbor_distance=n_canvas - N)
    return data, settings.ModelConfig(C_model=n_channels, C_forward=n_channels)


def normalise_probe(probe: NDArray[Any], probe_scale: float) -> NDArray[Any]:
    """`train_cdi_model_torch` with this `probeGuess`; what `ProbeIllumination` gets from it."""
    config = ModelConfig(N=probe.shape[-1], n_filters_scale=1, probe_scale=probe_scale)
    if len(probe) != 1:
        raise NotImplementedError("not tried with several modes: the TensorFlow functions before it take one")
    return np.asarray(_train(np.asarray(probe[0], np.complex64), config).probe[None])


def translate(image: NDArray[Any], offset_yx: NDArray[Any], n_out: int) -> NDArray[Any]:
    """`helper.Translation` in the larger of the two frames, of images (B, n, n)."""
    frame = fit(image, max(n_out, image.shape[-1]))
    return fit(_array(helper.Translation(_tensor(frame), _tensor(offset_yx[:, None, ::-1]), 0.0))[:, 0], n_out)


def merge_patches(patches: NDArray[Any], offsets_px: NDArray[Any], n_canvas: int) -> NDArray[Any]:
    """`reassemble_patches_position_real`, as the forward model calls it."""
    offsets = _tensor(local_offsets(offsets_px).transpose(0, 3, 1, 2))  # as a batch holds them: (groups, C, 1, 2)
    given = _tensor(patches), offsets, *_configs(patches.shape[1], patches.shape[-1], n_canvas)
    return _array(helper.reassemble_patches_position_real(*given, padded_size=n_canvas)[0])


def cut_patches(region: NDArray[Any], offsets_px: NDArray[Any], N: int) -> NDArray[Any]:
    """`extract_channels_from_region`, to (groups, C, N, N)."""
    shifts = _tensor(-np.asarray(offsets_px)[:, :, None, ::-1])
    configs = _configs(offsets_px.shape[1], N, region.shape[-1])
    return _array(helper.extract_channels_from_region(_tensor(region)[:, None], shifts, *configs))


def illuminate(probe: NDArray[Any], patches: NDArray[Any]) -> NDArray[Any]:
    """`ProbeIllumination` with the probe as it is, to (groups, C, modes, N, N)."""
    data, network = _configs(patches.shape[1], patches.shape[-1], patches.shape[-1])
    return _array(model.ProbeIllumination(network, data)(_tensor(patches), _tensor(probe)[None, None])[0])


def poisson_nll(counts: NDArray[Any], expected: NDArray[Any], good: NDArray[Any]) -> NDArray[Any]:
    """`compute_loss` of its Lightning module, whose network is made to predict the root of `expected`."""
    ptychopinn.every_pixel(good)
    module, amplitudes = _trained(1).model, _tensor(np.sqrt(counts))
    one = torch.ones(len(counts), 1, 1, 1)
    fields = {
        "images": amplitudes,
        "observed_images": amplitudes,
        "coords_relative": torch.zeros(*counts.shape[:2], 1, 2),
        "rms_scaling_constant": one,
        "physics_scaling_constant": one,
        "experiment_id": torch.zeros(len(counts), dtype=torch.long),
    }
    with mock.patch.object(module, "forward", lambda *_, **__: (_tensor(np.sqrt(expected)), None, None)):
        return _array(module.compute_loss((fields, torch.ones(1), one)))


def canvas_size(N: int, offsets_px: NDArray[Any]) -> NDArray[Any]:
    """`get_padded_size` under the settings that its training really has."""
    module = _trained(math.isqrt(offsets_px.shape[1]), N).model
    return np.asarray(helper.get_padded_size(module.data_config, module.model_config), np.float32)


class _Predicts(torch.nn.Module):
    """A network that predicts given patches, whatever it is shown; batch after batch."""

    def __init__(self, patches: NDArray[Any]) -> None:
        super().__init__()
        self.patches, self.done = _tensor(patches), 0

    def forward_predict(self, x: Any, *others: Any) -> Any:
        """The next patches, as many as `x` has patterns."""
        self.done += len(x)
        return self.patches[self.done - len(x) : self.done]


def _reassembled(patches: NDArray[Any], positions_px: NDArray[Any], M: int, offsets_px: NDArray[Any]) -> Any:
    """`_reassemble_cdi_image_torch` of patches (n, C, N, N) at positions (n, 2) and offsets (n, C, 2), ``(y, x)``."""
    n, C, N, _ = patches.shape
    local = torch.as_tensor(local_offsets(offsets_px))
    config = ptychopinn.their_config(TrainingConfig(model=ModelConfig(N, math.isqrt(C))), "pytorch")
    ptychopinn.gate(config)
    container = SimpleNamespace(
        X=torch.zeros(n, N, N, C),
        Y=None,
        coords_nominal=local,
        coords_relative=local,
        probeGuess=torch.ones(N, N, dtype=torch.complex64),
        global_offsets=torch.as_tensor(np.asarray(positions_px, np.float64)[:, None, ::-1, None].copy()),
        physics_scaling_constant=torch.ones(1),
    )
    results = {"models": {"diffraction_to_obj": _Predicts(patches)}}
    return components._reassemble_cdi_image_torch(container, config, False, False, False, M, train_results=results)


def patch_of_group(patches: NDArray[Any], offsets_px: NDArray[Any]) -> NDArray[Any]:
    """`_reassemble_cdi_image_torch`, what it makes of a group before it stitches."""
    positions = 3.0 * np.arange(2 * len(patches)).reshape(-1, 2)
    _, _, results = _reassembled(patches, positions, 20, offsets_px)
    return np.asarray(results["obj_tensor_full"])[..., 0]


def stitch(patches: NDArray[Any], positions_px: NDArray[Any], M: int, n_canvas: int) -> NDArray[Any]:
    """`_reassemble_cdi_image_torch`, the stitching of `run_cdi_example_torch`."""
    amplitude, phase, _ = _reassembled(patches[:, None], positions_px, M, np.zeros((len(patches), 1, 2)))
    return fit(np.asarray(amplitude * np.exp(1j * phase), np.complex64), n_canvas)


def stitch_by_command_line(patches: NDArray[Any], positions_px: NDArray[Any], M: int, n_canvas: int) -> NDArray[Any]:
    """`_run_inference_and_reconstruct`, the stitching of ``python -m ptycho_torch.inference``."""
    n, N = patches.shape[:2]
    data = SimpleNamespace(
        diff3d=np.ones((n, N, N), np.float32),
        probeGuess=np.ones((N, N), np.complex64),
        xcoords=positions_px[:, 1].copy(),
        ycoords=positions_px[:, 0].copy(),
    )
    config = SimpleNamespace(n_groups=n, stitch_crop_size=M, model=SimpleNamespace(gridsize=1))
    amplitude, phase = inference._run_inference_and_reconstruct(
        _Predicts(patches[:, None]), data, config, _execution(), "cpu", quiet=True
    )
    return fit(np.asarray(amplitude * np.exp(1j * phase), np.complex64), n_canvas)


BACKEND = PtychoPINNPyTorch()
