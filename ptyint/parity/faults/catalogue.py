"""Seeded faults: what ports really get wrong, each applied to the PyTorch backend at the seam where it sat.

A fault is a context manager around whatever runs in its process; production modules hold no switch for it. The table
imports no framework: a fault does when it is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ptyint.parity.faults.injection import (
    SIDE,
    TORCH,
    Context,
    after_init,
    at_tap,
    find,
    function,
    method,
    replaced,
    together,
    torch,
    wrapped,
)


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Attributes
    ----------
    id, title : str
    upstream : str
        Where it is on record; ``own`` for those that were thought up here.
    rung : str
        The rung that must be the first to go red.
    taps : tuple of str
        The first red tap must be one of these, or begin with it.
    applied : callable
        Gives the context manager.
    side : str
        The backend in whose process it is.
    """

    id: str
    title: str
    upstream: str
    rung: str
    taps: tuple[str, ...]
    applied: Context
    side: str = SIDE


@dataclass(frozen=True)
class SizedFault:
    """A fault with a size, whose smallest caught one is the ladder's detection limit.

    Attributes
    ----------
    title, unit, rung : str
        `rung` is the one that is looked at.
    applied : callable
        Size to context manager.
    """

    title: str
    unit: str
    rung: str
    applied: Callable[[float], AbstractContextManager[None]]


# --- the faults, one function each where it takes more than a line ---


def _hard_mask(original: Any, patches: Any, offsets: Any, n_canvas: int) -> Any:
    """Divided by how many centres lie there, plus 0.001, and not by the weight that covered."""
    module, stack = find(TORCH), torch().stack
    B, C, N, _ = patches.shape
    mask = module.center_mask(N, patches.real)
    layers = stack([patches.real, patches.imag, mask.expand(B, C, N, N)], dim=2).reshape(B * C, 3, N, N)
    moved = module.translate(layers, offsets.reshape(B * C, 2), n_canvas).reshape(B, C, 3, n_canvas, n_canvas)
    real, imag, count = moved.sum(dim=1).unbind(dim=1)
    return torch().complex(real / (count + 1e-3), imag / (count + 1e-3))


def _misread_layout(original: Any, patches: Any, offsets: Any, n_canvas: int) -> Any:
    B, C, N, _ = patches.shape
    return original(patches.reshape(B, N, N, C).permute(0, 3, 1, 2), offsets, n_canvas)


def _wrapping_square(original: Any, self: Any, index: Any) -> Any:
    stored = np.asarray(self._amplitudes[index])
    return (stored * stored).astype(np.float32)


def _untrained(original: Any, path: Any, weights: Any, config: Any, *rest: Any) -> Any:
    from ptyint.backends.weights import initial_weights
    from ptyint.scans.fixtures import load_fixture

    return original(path, initial_weights(config.model, load_fixture("tiny-64").probe, config.seed), config, *rest)


def _default_architecture(original: Any, *arguments: Any, **keywords: Any) -> Any:
    from ptyint.config import ModelConfig

    bundle, kept = original(*arguments, **keywords), ("N", "gridsize", "n_filters_scale")
    model = ModelConfig(**{name: getattr(bundle.config.model, name) for name in kept})
    return replace(bundle, config=replace(bundle.config, model=model))


def _default_backend() -> AbstractContextManager[None]:
    def initialised(original: Any, self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **{"backend": "pytorch", **keywords})

    names = ("TrainingConfig", "InferenceConfig")
    return together(*(partial(wrapped, f"ptyint.config.{name}", "__init__", initialised) for name in names))


def _frozen_scale(network: Any) -> None:
    frozen = network.parameters["log_intensity_scale"]
    for group in network.optimizer.param_groups:
        group["params"] = [one for one in group["params"] if one is not frozen]


def _optimiser_option(**options: Any) -> Callable[[Any], None]:
    def change(network: Any) -> None:
        for group in network.optimizer.param_groups:
            group.update(options)

    return change


def _range_255(original: Any, *arguments: Any, data_range: float, **keywords: Any) -> float:
    return float(original(*arguments, data_range=255.0, **keywords))


def _nan(x: Any) -> Any:
    broken = x.clone()
    broken[..., 5, 7] = float("nan")
    return broken


def _layout_of_kernels() -> AbstractContextManager[None]:
    """Height and width of the kernels exchanged, on the way in and on the way out: a round trip hides it."""

    def put(original: Any, self: Any, weights: Any) -> None:
        original(self, {n: w.transpose(1, 0, 2, 3) if w.ndim == 4 else w for n, w in weights.items()})

    def get(original: Any, tensor: Any) -> Any:
        found = original(tensor)
        return np.ascontiguousarray(found.transpose(1, 0, 2, 3)) if torch().as_tensor(tensor).ndim == 4 else found

    return together(method("TorchNetwork", "set_weights", put), method("TorchNetwork", "_canonical", get))


def _stale_moments() -> AbstractContextManager[None]:
    """The optimiser of a new network takes over the moments of the last one."""
    last: dict[str, Any] = {}

    def step(original: Any, self: Any, batch: Any, learning_rate: float) -> float:
        parameters = [self.parameters[name] for name in self.trainable]
        old = last.get("state", [])
        if not self.optimizer.state and len(old) == len(parameters):
            for parameter, state in zip(parameters, old, strict=True):
                if state["exp_avg"].shape == parameter.shape and state["exp_avg"].dtype == parameter.dtype:
                    self.optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
        loss = original(self, batch, learning_rate)
        last["state"] = [dict(self.optimizer.state[parameter]) for parameter in parameters]
        return float(loss)

    return wrapped(f"{TORCH}.TorchNetwork", "train_step", step)


def _train_on(change: Callable[[Any], Any]) -> Context:
    """`change` of the groups that `train` is given."""

    def train(original: Any, self: Any, data: Any, *arguments: Any, **keywords: Any) -> Any:
        return original(self, change(data), *arguments, **keywords)

    return method("PyTorchBackend", "train", train)


def _without_last_batch(data: Any) -> Any:
    def whole(batch_size: int, generator: Any = None) -> Iterator[Any]:
        return (batch for batch in type(data).batches(data, batch_size, generator) if len(batch.inputs) == batch_size)

    return _Other(data, batches=whole)


def _in_file_order(data: Any) -> Any:
    return _Other(data, batches=lambda batch_size, generator=None: type(data).batches(data, batch_size))


class _Other:
    """An object with some attributes replaced."""

    def __init__(self, base: Any, **changed: Any) -> None:
        self.__dict__.update(changed)
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def _clipped(original: Any, self: Any, *arguments: Any) -> Any:
    loss = original(self, *arguments)
    if loss.requires_grad:
        for parameter in self.parameters.values():
            if parameter.requires_grad and not parameter._backward_hooks:
                parameter.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return loss


def _first_offsets(original: Any, self: Any, batch: Any) -> Any:
    """Every group of a batch merged by the offsets of the first."""
    return original(self, replace(batch, offsets_px=np.broadcast_to(batch.offsets_px[:1], batch.offsets_px.shape)))


def _half_precision(original: Any, path: Any, weights: Any, config: Any, *rest: Any) -> Any:
    rounded = {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
    return original(path, rounded, config, *rest)


def _bf16(original: Any, self: Any, name: str, x: Any, tap: Any) -> Any:
    return original(self, name, x.to(torch().bfloat16).to(x.dtype), tap)


def _without_softplus_tail(x: Any) -> Any:
    return torch().nn.functional.softplus(x)


def _reflecting(network: Any) -> None:
    for layer in network.convolutions.values():
        layer.padding_mode = "reflect"
        layer._reversed_padding_repeated_twice = (1, 1, 1, 1)


def _bilinear(original: Any, x: Any) -> Any:
    return torch().nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _nearest(original: Any, image: Any, offset: Any, n_out: int) -> Any:
    return original(image, offset.round(), n_out)


def _coherent(original: Any, far_field: Any, log_scale: Any) -> Any:
    return original(far_field.sum(dim=2, keepdim=True), log_scale)


def _border_everywhere(original: Any, self: Any, *arguments: Any) -> Any:
    with function("center_mask", lambda f, N, like: f(N, like) * 0)():
        return original(self, *arguments)


def _unconjugated(original: Any, wave: Any) -> Any:
    return original(wave.conj()).conj()


def _activation(name: str, change: Callable[[Any], Any]) -> Context:
    """Another function under the name of an activation."""

    @contextmanager
    def apply() -> Iterator[None]:
        table = find(TORCH).ACTIVATIONS
        with replaced(TORCH, "ACTIVATIONS", {**table, name: change}):
            yield

    return apply


LISTED = (
    Fault("F01", "sign of the offsets flipped when patches are merged", "TORCH-REASSEMBLY-SIGN-001",
          "operator", ("merge_patches",), function("merge_patches", lambda f, p, o, n: f(p, -o, n))),
    Fault("F02", "offsets (row, column) read as (x, y)", "REASSEMBLY-BRIDGE-001, TORCH-GS2-POSITION-OFFSETS-001",
          "operator", ("translate",), function("translate", lambda f, i, o, n: f(i, o.flip(-1), n))),
    Fault("F03", "merge divided by a hard mask and not by what covered", "TORCH-REASSEMBLY-NORM-001",
          "operator", ("merge_patches",), function("merge_patches", _hard_mask)),
    Fault("F04", "probe divided by probe_scale twice", "RECT-PROBE-SCALE-DOUBLE-DIV-001",
          "forward", ("probe",), at_tap("probe", lambda x: x / 4.0)),
    Fault("F05", "amplitudes squared in 16 bits before the cast", "NORMALIZE-DATA-UINT16-001",
          "contract", ("counts of 16-bit amplitudes",),
          lambda: wrapped("ptyint.scans.npz.SquaredAmplitudes", "__getitem__", _wrapping_square)),
    Fault("F06", "intensity scale is no parameter of the optimiser", "TORCH-INTENSITY-SCALE-DEAD-001",
          "step", ("optimiser: log_intensity_scale",), after_init("TorchNetwork", _frozen_scale)),
    Fault("F07", "(B, C, H, W) patches read as (B, H, W, C)", "TORCH-GS2-STITCH-001",
          "operator", ("merge_patches",), function("merge_patches", _misread_layout)),
    Fault("F08", "double precision leaks into a single-precision path", "decoder dtype fix, 2025-10",
          "forward", ("amplitude.head",), at_tap("amplitude.head", lambda x: x.double())),
    Fault("F09", "zero frequency at the corner", "classic",
          "operator", ("propagate",), function("propagate", lambda f, w: torch().fft.fft2(w, norm="ortho"))),
    Fault("F10", "FFT not orthonormal", "classic",
          "operator", ("propagate",), function("propagate", lambda f, w: f(w) * w.shape[-1])),
    Fault("F11", "amplitudes given to a loss that expects counts", "POISSON-NORM-001, RECT-MAE-UNITS-001",
          "loss", ("loss",),
          method("TorchNetwork", "_loss", lambda f, s, b, *a: f(s, replace(b, counts=b.inputs), *a))),
    Fault("F12", "saved bundle holds the untrained weights", "SINGLETON-SAVE",
          "persistence", ("weights",), lambda: wrapped("ptyint.backends.bundle", "save_bundle", _untrained)),
    Fault("F13", "architecture rebuilt from defaults on load", "checkpoint fix, 2025-10",
          "persistence", ("configuration",),
          lambda: wrapped("ptyint.backends.bundle", "load_bundle", _default_architecture)),
    Fault("F14", "Adam's epsilon 1e-8 and not 1e-7", "none",
          "step", ("optimiser",), after_init("TorchNetwork", _optimiser_option(eps=1e-8))),
    Fault("F15", "default backend became pytorch", "plan's risk table",
          "contract", ("default backend",), _default_backend),
    Fault("F16", "configuration gate skipped: stale params.cfg", "CONFIG-001, MODULE-SINGLETON-001",
          "contract", ("params.cfg after the gate",),
          lambda: replaced("ptyint.params", "update_legacy_dict", lambda cfg, config: None)),
    Fault("F17", "probe mask on by default", "PROBE-MASK-DEFAULT-001",
          "forward", ("probe",),
          method("PtychoNet", "__init__", lambda f, s, c, *a: f(s, replace(c, probe_mask=True), *a))),
    Fault("F18", "decoder cropped off by one pixel", "decoder shape fix, 2025-10",
          "forward", ("amplitude.1.up",), at_tap("amplitude.1.up", lambda x: x.roll(1, dims=-1))),
    Fault("F19", "PSNR with a range of 255", "evaluation modules",
          "contract", ("metrics",), lambda: wrapped("ptyint.images.metrics", "psnr", _range_255)),
    Fault("F21", "NaN in one pixel of one backend's output", "classic",
          "forward", ("phase",), at_tap("phase", _nan)),
)  # fmt: skip
"""Faults on record. F20, a test that was skipped and whose log says green, is the evidence engine's: see `EVIDENCE`."""

OWN = (
    Fault("P01", "diffraction of the conjugate wave (the twin)", "own",
          "operator", ("propagate",), function("propagate", _unconjugated)),
    Fault("P02", "positions rounded to whole pixels", "own",
          "operator", ("translate",), function("translate", _nearest)),
    Fault("P03", "mean pooling for max pooling", "own",
          "operator", ("downsample",), function("downsample", lambda f, x: torch().nn.functional.avg_pool2d(x, 2))),
    Fault("P04", "bilinear up-sampling for nearest", "own",
          "operator", ("upsample",), function("upsample", _bilinear)),
    Fault("P05", "convolutions pad by reflection", "own",
          "forward", ("encoder.0.conv2",), after_init("PtychoNet", _reflecting)),
    Fault("P06", "phase head spans half the range", "own",
          "operator", ("phase_head",), function("phase_head", lambda f, x: f(x) / 2)),
    Fault("P07", "gradient stopped behind the phase", "own",
          "gradient", ("gradient/phase",), at_tap("phase", lambda x: x.detach())),
    Fault("P08", "partial last batch dropped in training", "own",
          "step", ("losses",), _train_on(_without_last_batch)),
    Fault("P09", "height and width of kernels exchanged, both ways", "own",
          "forward", ("encoder.0.conv1",), _layout_of_kernels),
    Fault("P10", "convolutions read inputs in bfloat16", "own",
          "forward", ("encoder.0.conv1",), method("PtychoNet", "convolve", _bf16)),
    Fault("P11", "moments of the last scan's optimiser kept", "own",
          "step", ("losses", "optimiser"), _stale_moments),
    Fault("P12", "learning rate of the step ignored", "own",
          "step", ("optimiser",),
          method("TorchNetwork", "train_step", lambda f, s, b, rate: f(s, b, 1e-3))),
    Fault("P13", "batches in file order, not in the drawn one", "own",
          "step", ("losses",), _train_on(_in_file_order)),
    Fault("P14", "patches cut one pixel off", "own",
          "operator", ("cut_patches",), function("cut_patches", lambda f, r, o, N: f(r, o + 1, N))),
    Fault("P15", "loss summed over a group and not averaged", "own",
          "operator", ("poisson_nll",), function("poisson_nll", lambda f, k, e, g: f(k, e, g) * k.shape[1])),
    Fault("P16", "softplus a straight line from 20 on", "own (found here)",
          "operator", ("softplus",), _activation("softplus", _without_softplus_tail)),
    Fault("P17", "intensity scaled by the amplitude's factor", "own",
          "operator", ("expected_intensity",), function("expected_intensity", lambda f, w, s: f(w, s / 2))),
    Fault("P18", "probe conjugated", "own",
          "operator", ("illuminate",), function("illuminate", lambda f, p, o: f(p.conj(), o))),
    Fault("P19", "probe modes added coherently", "own",
          "operator", ("expected_intensity",), function("expected_intensity", _coherent)),
    Fault("P20", "bad pixels count in the loss", "own",
          "operator", ("poisson_nll",),
          function("poisson_nll", lambda f, k, e, g: f(k, e, torch().ones_like(g)))),
    Fault("P21", "gradients clamped", "own",
          "gradient", ("gradient/",), method("TorchNetwork", "_loss", _clipped)),
    Fault("P22", "weight decay of 1e-4", "own",
          "step", ("optimiser",), after_init("TorchNetwork", _optimiser_option(weight_decay=1e-4))),
    Fault("P23", "border branch added to the centre as well", "own",
          "forward", ("amplitude",), method("PtychoNet", "decode", _border_everywhere)),
    Fault("P24", "background of 1e-3 counts, not 1e-2", "own",
          "operator", ("poisson_nll",), lambda: replaced(TORCH, "COUNT_FLOOR", 1e-3)),
    Fault("P25", "bundle rounded to half precision", "own",
          "persistence", ("weights",), lambda: wrapped("ptyint.backends.bundle", "save_bundle", _half_precision)),
    Fault("P26", "leaky ReLU", "own",
          "forward", ("encoder.0.conv1.relu",),
          lambda: wrapped(f"{TORCH}.F", "relu", lambda f, x: torch().nn.functional.leaky_relu(x, 1e-2))),
    Fault("P27", "prediction merges every group by the first one's offsets", "own",
          "forward", ("predicted",), method("TorchNetwork", "predict", _first_offsets)),
    Fault("P28", "Adam's 0.9 and 0.999 passed through single precision", "own",
          "step", ("optimiser",),
          after_init("TorchNetwork", _optimiser_option(betas=(float(np.float32(0.9)), float(np.float32(0.999)))))),
    Fault("P29", "weight of a patch's border 0.02, not 0.01", "own",
          "operator", ("merge_patches",), lambda: replaced(TORCH, "BORDER_WEIGHT", 2e-2)),
    Fault("P30", "swish head without its sigmoid's slope", "own",
          "operator", ("swish",), _activation("swish", lambda x: x * torch().sigmoid(1.702 * x))),
)  # fmt: skip
"""Faults that are not on record, of the kinds that a port makes."""

CATALOGUE = {fault.id: fault for fault in (*LISTED, *OWN)}

EVIDENCE = "F20"


def _scaled_probe(s: float) -> AbstractContextManager[None]:
    return at_tap("probe", lambda x: x * (1 + s))()


def _moved_merge(s: float) -> AbstractContextManager[None]:
    return function("merge_patches", lambda f, patches, offsets, n_canvas: f(patches, offsets + s, n_canvas))()


def _scaled_phase(s: float) -> AbstractContextManager[None]:
    return function("phase_head", lambda f, x: f(x) * (1 + s))()


def _background(s: float) -> AbstractContextManager[None]:
    return replaced(TORCH, "COUNT_FLOOR", 1e-2 + s)


def _shifted_layer(s: float) -> AbstractContextManager[None]:
    return at_tap("encoder.1.conv2", lambda x: x + s)()


def _epsilon(s: float) -> AbstractContextManager[None]:
    return after_init("TorchNetwork", _optimiser_option(eps=1e-7 + s))()


def _rate(s: float) -> AbstractContextManager[None]:
    return method("TorchNetwork", "train_step", lambda f, network, batch, rate: f(network, batch, rate * (1 + s)))()


SIZED = (
    SizedFault("probe scaled by 1 + s", "relative", "forward", _scaled_probe),
    SizedFault("patches merged s px off", "px", "operator", _moved_merge),
    SizedFault("phase head scaled by 1 + s", "relative", "operator", _scaled_phase),
    SizedFault("background larger by s", "counts per pixel", "operator", _background),
    SizedFault("s added to a layer's output", "absolute", "forward", _shifted_layer),
    SizedFault("Adam's epsilon larger by s", "absolute", "step", _epsilon),
    SizedFault("learning rate scaled by 1 + s", "relative", "step", _rate),
)
"""Faults with a size."""
