"""Seeded faults: what ports really get wrong, each applied to the PyTorch backend at the seam where it sat.

A fault is a context manager around whatever runs in its process; production modules hold no switch for it. The table
imports no framework: a fault does when it is applied.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from ptyint.parity.faults.fault import Catalogue, Fault, SizedFault
from ptyint.parity.faults.injection import (
    SIDE,
    TORCH,
    Change,
    Context,
    after_init,
    at_tap,
    constant,
    function,
    method,
    together,
    torch,
    wrapped,
)
from ptyint.parity.problems import Problems

# --- the faults, one function each where it takes more than a line ---


def _hard_mask(original: Any, patches: Any, offsets: Any, n_canvas: int) -> Any:
    """Divided by how many centres lie there, plus 0.001, and not by the weight that covered."""
    module, stack = importlib.import_module(TORCH), torch().stack
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


def _optimiser(**options: Any) -> Context:
    def change(network: Any) -> None:
        for group in network.optimizer.param_groups:
            group.update(options)

    return after_init("TorchNetwork", change)


def _range_255(original: Any, *arguments: Any, data_range: float, **keywords: Any) -> float:
    return float(original(*arguments, data_range=255.0, **keywords))


def _nan(x: Any) -> Any:
    broken = x.clone()
    broken[..., 5, 7] = float("nan")
    return broken


def _layout_of_kernels() -> AbstractContextManager[None]:
    """Height and width of the kernels exchanged, on the way in and on the way out: a round trip hides it."""

    def put(original: Any, self: Any, array: Any) -> Any:
        return original(self, array.transpose(1, 0, 2, 3) if array.ndim == 4 else array)

    def get(original: Any, tensor: Any) -> Any:
        found = original(tensor)
        return np.ascontiguousarray(found.transpose(1, 0, 2, 3)) if torch().as_tensor(tensor).ndim == 4 else found

    return together(method("TorchNetwork", "_from_canonical", put), method("TorchNetwork", "_canonical", get))


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


def _train_with(batches: Change) -> Context:
    """Other batches of the groups, while a training lasts."""

    def train(original: Any, *arguments: Any, **keywords: Any) -> Any:
        with wrapped("ptyint.scans.batches.GroupedScan", "batches", batches):
            return original(*arguments, **keywords)

    return method("PyTorchBackend", "train", train)


def _without_last_batch(original: Any, self: Any, batch_size: int, generator: Any = None) -> Iterator[Any]:
    return (batch for batch in original(self, batch_size, generator) if len(batch.inputs) == batch_size)


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


def _reflecting(original: Any, x: Any, kernel: Any, bias: Any, padding: int) -> Any:
    return original(torch().nn.functional.pad(x, 4 * (padding,), mode="reflect"), kernel, bias)


def _border_everywhere(original: Any, self: Any, *arguments: Any) -> Any:
    with function("center_mask", lambda f, N, like: f(N, like) * 0)():
        return original(self, *arguments)


def _activation(name: str, change: Callable[[Any], Any]) -> Context:
    """Another function under the name of an activation."""
    return lambda: patch.dict(f"{TORCH}.ACTIVATIONS", {name: change})


def in_operator(id: str, title: str, name: str, change: Change, upstream: str = "own") -> Fault:
    """A fault in an operator that is a function of the PyTorch module, which is where it must be found."""
    return Fault(id, title, "operator", name, function(name, change), upstream)


LISTED = (
    in_operator("F01", "sign of the offsets flipped when patches are merged", "merge_patches",
                lambda f, p, o, n: f(p, -o, n), "TORCH-REASSEMBLY-SIGN-001"),
    in_operator("F02", "offsets (row, column) read as (x, y)", "translate",
                lambda f, i, o, n: f(i, o.flip(-1), n), "REASSEMBLY-BRIDGE-001, TORCH-GS2-POSITION-OFFSETS-001"),
    in_operator("F03", "merge divided by a hard mask and not by what covered", "merge_patches",
                _hard_mask, "TORCH-REASSEMBLY-NORM-001"),
    Fault("F04", "probe divided by probe_scale twice", "forward", "probe",
          at_tap("probe", lambda x: x / 4.0), "RECT-PROBE-SCALE-DOUBLE-DIV-001"),
    Fault("F05", "amplitudes squared in 16 bits before the cast", "contract", "counts of 16-bit amplitudes",
          lambda: wrapped("ptyint.scans.npz.SquaredAmplitudes", "__getitem__", _wrapping_square),
          "NORMALIZE-DATA-UINT16-001"),
    Fault("F06", "intensity scale is no parameter of the optimiser", "step", "optimiser",
          after_init("TorchNetwork", _frozen_scale), "TORCH-INTENSITY-SCALE-DEAD-001", "log_intensity_scale"),
    in_operator("F07", "(B, C, H, W) patches read as (B, H, W, C)", "merge_patches",
                _misread_layout, "TORCH-GS2-STITCH-001"),
    Fault("F08", "double precision leaks into a single-precision path", "forward", "amplitude.head",
          at_tap("amplitude.head", lambda x: x.double()), "decoder dtype fix, 2025-10"),
    in_operator("F09", "zero frequency at the corner", "propagate",
                lambda f, w: torch().fft.fft2(w, norm="ortho"), "classic"),
    in_operator("F10", "FFT not orthonormal", "propagate", lambda f, w: f(w) * w.shape[-1], "classic"),
    Fault("F11", "amplitudes given to a loss that expects counts", "loss", "loss",
          method("TorchNetwork", "_loss", lambda f, s, b, *a: f(s, replace(b, counts=b.inputs), *a)),
          "POISSON-NORM-001, RECT-MAE-UNITS-001"),
    Fault("F12", "saved bundle holds the untrained weights", "contract", "bundle",
          lambda: wrapped("ptyint.backends.bundle", "save_bundle", _untrained), "SINGLETON-SAVE"),
    Fault("F13", "architecture rebuilt from defaults on load", "contract", "bundle",
          lambda: wrapped("ptyint.backends.bundle", "load_bundle", _default_architecture), "checkpoint fix, 2025-10"),
    Fault("F14", "Adam's epsilon 1e-8 and not 1e-7", "step", "optimiser", _optimiser(eps=1e-8), "none"),
    Fault("F15", "default backend became pytorch", "contract", "default backend",
          _default_backend, "plan's risk table"),
    Fault("F16", "configuration gate skipped: stale params.cfg", "contract", "params.cfg after the gate",
          constant("ptyint.dispatcher.update_legacy_dict", lambda cfg, config: None),
          "CONFIG-001, MODULE-SINGLETON-001"),
    Fault("F17", "probe mask on by default", "forward", "probe",
          method("PtychoNet", "__init__", lambda f, s, c, *a: f(s, replace(c, probe_mask=True), *a)),
          "PROBE-MASK-DEFAULT-001"),
    Fault("F18", "decoder cropped off by one pixel", "forward", "amplitude.1.up",
          at_tap("amplitude.1.up", lambda x: x.roll(1, dims=-1)), "decoder shape fix, 2025-10"),
    Fault("F19", "PSNR with a range of 255", "contract", "metrics",
          lambda: wrapped("ptyint.images.metrics", "psnr", _range_255), "evaluation modules"),
    Fault("F21", "NaN in one pixel of one backend's output", "forward", "phase", at_tap("phase", _nan), "classic"),
)  # fmt: skip
"""Faults on record. F20, a test that was skipped and whose log says green, is the evidence engine's: see `EVIDENCE`."""

OWN = (
    in_operator("P01", "diffraction of the conjugate wave (the twin)", "propagate", lambda f, w: f(w.conj()).conj()),
    in_operator("P02", "positions rounded to whole pixels", "translate", lambda f, i, o, n: f(i, o.round(), n)),
    in_operator("P03", "mean pooling for max pooling", "downsample",
                lambda f, x: torch().nn.functional.avg_pool2d(x, 2)),
    in_operator("P04", "bilinear up-sampling for nearest", "upsample",
                lambda f, x: torch().nn.functional.interpolate(x, scale_factor=2, mode="bilinear")),
    Fault("P05", "convolutions pad by reflection", "forward", "encoder.0.conv2",
          lambda: wrapped(f"{TORCH}.F", "conv2d", _reflecting)),
    in_operator("P06", "phase head spans half the range", "phase_head", lambda f, x: f(x) / 2),
    Fault("P07", "gradient stopped behind the phase", "gradient", "phase", at_tap("phase", lambda x: x.detach())),
    Fault("P08", "partial last batch dropped in training", "step", "losses by hand", _train_with(_without_last_batch)),
    Fault("P09", "height and width of kernels exchanged, both ways", "forward", "encoder.0.conv1", _layout_of_kernels),
    Fault("P10", "convolutions read inputs in bfloat16", "forward", "encoder.0.conv1",
          method("PtychoNet", "convolve", lambda f, s, n, x, tap: f(s, n, x.to(torch().bfloat16).to(x.dtype), tap))),
    Fault("P11", "moments of the last scan's optimiser kept", "step", "losses by hand", _stale_moments),
    Fault("P12", "learning rate of the step ignored", "step", "optimiser",
          method("TorchNetwork", "train_step", lambda f, s, b, rate: f(s, b, 1e-3))),
    Fault("P13", "batches in file order, not in the drawn one", "step", "losses by hand",
          _train_with(lambda f, self, size, generator: f(self, size))),
    in_operator("P14", "patches cut one pixel off", "cut_patches", lambda f, r, o, N: f(r, o + 1, N)),
    in_operator("P15", "loss summed over a group and not averaged", "poisson_nll",
                lambda f, k, e, g: f(k, e, g) * k.shape[1]),
    Fault("P16", "softplus a straight line from 20 on", "operator", "softplus",
          _activation("softplus", lambda x: torch().nn.functional.softplus(x)), "own (found here)"),
    in_operator("P17", "intensity scaled by the amplitude's factor", "expected_intensity",
                lambda f, w, s: f(w, s / 2)),
    in_operator("P18", "probe conjugated", "illuminate", lambda f, p, o: f(p.conj(), o)),
    in_operator("P19", "probe modes added coherently", "expected_intensity",
                lambda f, w, s: f(w.sum(dim=2, keepdim=True), s)),
    in_operator("P20", "bad pixels count in the loss", "poisson_nll",
                lambda f, k, e, g: f(k, e, torch().ones_like(g))),
    Fault("P21", "gradients clamped", "gradient", "", method("TorchNetwork", "_loss", _clipped)),
    Fault("P22", "weight decay of 1e-4", "step", "optimiser", _optimiser(weight_decay=1e-4)),
    Fault("P23", "border branch added to the centre as well", "forward", "amplitude",
          method("PtychoNet", "decode", _border_everywhere)),
    Fault("P24", "background of 1e-3 counts, not 1e-2", "operator", "poisson_nll",
          constant(f"{TORCH}.COUNT_FLOOR", 1e-3)),
    Fault("P25", "bundle rounded to half precision", "persistence", "weights",
          lambda: wrapped("ptyint.backends.bundle", "save_bundle", _half_precision)),
    Fault("P26", "leaky ReLU", "forward", "encoder.0.conv1.relu",
          lambda: wrapped(f"{TORCH}.F", "relu", lambda f, x, **_: torch().nn.functional.leaky_relu(x, 1e-2))),
    Fault("P27", "prediction merges every group by the first one's offsets", "forward", "predicted",
          method("TorchNetwork", "predict", _first_offsets)),
    Fault("P28", "Adam's 0.9 and 0.999 passed through single precision", "step", "optimiser",
          _optimiser(betas=(float(np.float32(0.9)), float(np.float32(0.999))))),
    Fault("P29", "weight of a patch's border 0.02, not 0.01", "operator", "merge_patches",
          constant(f"{TORCH}.BORDER_WEIGHT", 2e-2)),
    Fault("P30", "swish head without its sigmoid's slope", "operator", "swish",
          _activation("swish", lambda x: x * torch().sigmoid(1.702 * x))),
)  # fmt: skip
"""Faults that are not on record, of the kinds that a port makes."""

CATALOGUE = {fault.id: fault for fault in (*LISTED, *OWN)}

EVIDENCE = Fault("F20", "the test is skipped, and its log says green", "evidence", "",
                 nullcontext, "phase E2, 2025-10-17")  # fmt: skip
"""The one fault on record that is not a backend's: its rung is the evidence engine, which must not call it green."""

SIZED = (
    SizedFault("probe scaled by 1 + s", "relative", "forward", lambda s: at_tap("probe", lambda x: x * (1 + s))),
    SizedFault("patches merged s px off", "px", "operator",
               lambda s: function("merge_patches", lambda f, p, o, n: f(p, o + s, n))),
    SizedFault("phase head scaled by 1 + s", "relative", "operator",
               lambda s: function("phase_head", lambda f, x: f(x) * (1 + s))),
    SizedFault("background larger by s", "counts per pixel", "operator",
               lambda s: constant(f"{TORCH}.COUNT_FLOOR", 1e-2 + s)),
    SizedFault("s added to a layer's output", "absolute", "forward",
               lambda s: at_tap("encoder.1.conv2", lambda x: x + s)),
    SizedFault("Adam's epsilon larger by s", "absolute", "step", lambda s: _optimiser(eps=1e-7 + s)),
    SizedFault("learning rate scaled by 1 + s", "relative", "step",
               lambda s: method("TorchNetwork", "train_step", lambda f, n, b, rate: f(n, b, rate * (1 + s)))),
)  # fmt: skip
"""Faults with a size."""

BUILT_IN = Catalogue(
    SIDE,
    (*CATALOGUE.values(), EVIDENCE),
    Problems(cases=("gridsize 1", "gridsize 2", "fresh")),
    ("contract", "operator", "forward", "loss", "gradient", "step", "persistence"),
    of_reference=("trace", "optimiser", "training"),
    of_candidate=("training", "long"),
    sized=SIZED,
    alike=True,
)
"""A fault that these networks show need not be looked for in all."""
