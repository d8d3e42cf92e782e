"""PtychoPINN's PyTorch network, traced."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch

from ptyint.backends import pytorch
from ptyint.backends.models import Watched
from ptyint.backends.models.rules import Parts
from ptyint.backends.models.torch_module import TorchModule
from ptyint.backends.protocol import Arrays
from ptyint.backends.ptychopinn import interface, local_offsets
from ptyint.backends.ptychopinn.network import WatchedNetwork, named
from ptyint.backends.weights import INTENSITY_SCALE, PROBE, Weights, convolution_shapes, probe_of
from ptyint.config import TrainingConfig
from ptyint.scans.batches import Batch

helper = interface("ptycho_torch.helper", "reassemble_patches_position_real", "pad_and_diffract")

TAPS = {
    "decoder_amp.amp_activation": "amplitude.head", "decoder_phase.phase_activation": "phase.head",
    "combine_complex:in": "amplitude", "combine_complex": "patches_before_merge",
    "probe_illumination:in": "object_patches", "probe_illumination": "exit_wave", "Loss:in": "expected_amplitude",
}  # fmt: skip
"""Ends of its modules' names to canonical taps."""

FUNCTIONS = {"reassemble_patches_position_real": "region", "pad_and_diffract": "diffraction"}
"""The same of functions that it calls."""


class Recorder(pytorch.Recorder):
    """A recorder under canonical names; what has none, and channels that the canonical layer has not, pass by."""

    def __init__(self, taps: Mapping[str, str], widths: Mapping[str, int], given: Arrays | None = None) -> None:
        super().__init__(given)
        self.taps, self.widths = taps, widths

    def __call__(self, name: str, tensor: Any, channels_last: bool = False) -> Any:
        """See :class:`ptyint.backends.pytorch.Recorder`."""
        tap = self.taps.get(name)
        if tap is None:
            return tensor
        width = self.widths.get(tap.removesuffix(".relu"), tensor.shape[1])
        seen = super().__call__(tap, tensor[:, :width])
        return torch.cat([seen, tensor[:, width:]], 1) if tensor.shape[1] > width else seen


class WithLoss(torch.nn.Module):
    """Its Lightning module as a function of tensors, which returns its own loss."""

    def __init__(self, lightning: Any) -> None:
        super().__init__()
        self.lightning = lightning

    def forward(self, images: Any, observed: Any, coords: Any, probe: Any, rms: Any, physics: Any) -> Any:
        """`compute_loss` of one batch."""
        fields = {
            "images": images,
            "observed_images": observed,
            "coords_relative": coords,
            "rms_scaling_constant": rms,
            "physics_scaling_constant": physics,
            "experiment_id": torch.zeros(len(images), dtype=torch.long),
        }
        return self.lightning.compute_loss((fields, probe, torch.ones_like(rms)))


class Module(TorchModule):
    """The watched module, with those functions that are no modules."""

    def run(self, inputs: Arrays, training: bool, recorder: Any) -> tuple[Any, dict[str, Parts]]:
        """See :class:`ptyint.backends.models.Watched`."""
        with ExitStack() as stack:
            for name in FUNCTIONS:
                called = partial(self._called, recorder, name, getattr(helper, name))
                stack.enter_context(mock.patch.object(helper, name, called))
            return super().run(inputs, training, recorder)

    def _called(self, recorder: Any, name: str, original: Any, *args: Any, **kwargs: Any) -> Any:
        first, *others = original(*args, **kwargs)
        return recorder(name, first), *others

    def _enter(self, recorder: Any, name: str, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *others = super()._enter(recorder, name, module, args)
        if name.endswith("combine_complex"):
            others[0] = recorder("phase", others[0])
        if name.endswith("probe_illumination"):
            others[0] = recorder("probe", others[0][0, 0])[None, None]
        return first, *others


class TorchNetwork(WatchedNetwork):
    """See :class:`.protocol.Network`."""

    def __init__(self, lightning: Any, config: TrainingConfig, weights: Weights) -> None:
        C, N = config.model.n_channels, config.model.N
        self.lightning, self.given = lightning, weights
        lightning.Loss = type(lightning.Loss)()  # without what training left in it
        ones = np.ones((1, C, N, N), np.float32)
        one = Batch(ones, ones, np.zeros((1, C, 2), np.float32), N, 1.0)
        made = (WithLoss(lightning), lambda loss, _: loss, None)
        watched: Watched = Module(lambda: made, "float32", *self.arrange(one))
        layers = named(watched.kinds, config.model)
        order = list(layers)
        ends = {end: name for name in watched.kinds for end in TAPS if name.endswith(end.removesuffix(":in"))}
        taps = {f"{own}{':in' * end.endswith(':in')}": TAPS[end] for end, own in ends.items()}
        taps |= {own: layer for layer, own in layers.items()} | FUNCTIONS | {"phase": "phase", "probe": "probe"}
        taps |= {f"{layers[after]}:in": f"{layer}.relu" for layer, after in pairwise(order)
                 if layer.endswith(("conv1", "conv2"))}  # fmt: skip
        taps[f"{layers[order[0]]}:in"] = "inputs"
        widths = {layer: shape[-1] for layer, shape in convolution_shapes(config.model).items()}
        widths |= {layer: widths[f"{layer.rpartition('.')[0]}.conv2"] for layer in layers if layer not in widths}
        watched.recorder = partial(Recorder, taps, widths)
        super().__init__(watched, layers, config, weights)

    def renew(self, weights: Weights) -> None:
        """See :class:`WatchedNetwork`."""
        self.given = weights
        self.watched.optimiser = self.lightning.configure_optimizers()["optimizer"]

    def physics(self) -> Weights:
        """As they were given: none of them is a parameter."""
        return {name: np.array(self.given[name]) for name in (*PROBE, INTENSITY_SCALE)}

    @property
    def epsilon(self) -> float:
        """See :class:`WatchedNetwork`."""
        return float(self.watched.optimiser.defaults["eps"])

    def set_rate(self, learning_rate: float) -> None:
        """See :class:`WatchedNetwork`."""
        for group in self.watched.optimiser.param_groups:
            group["lr"] = learning_rate

    def arrange(self, batch: Batch) -> tuple[Arrays, Arrays]:
        """A batch as its data loader makes them."""
        scale, B = float(np.exp(self.given[INTENSITY_SCALE])), len(batch.inputs)
        given = {
            "0": batch.inputs * scale,
            "1": np.sqrt(batch.counts / batch.count_scale),
            "2": local_offsets(batch.offsets_px).transpose(0, 3, 1, 2),
            "3": probe_of(self.given)[None, None].astype(np.complex64),
            "4": np.full((B, 1, 1, 1), 1 / scale),
            "5": np.full((B, 1, 1, 1), np.sqrt(batch.count_scale)),
        }
        return {name: a if np.iscomplexobj(a) else a.astype(np.float32) for name, a in given.items()}, {}
