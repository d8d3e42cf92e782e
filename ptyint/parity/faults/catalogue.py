"""Seeded faults: what ports really get wrong, each applied to the PyTorch backend at the seam where it sat.

A fault is a context manager around whatever runs in its process; production modules hold no switch for it. The table is
``catalogue.toml``; what takes more than a line is a function here. No framework is imported: a fault does when it is
applied.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from ptyint.parity.faults import injection
from ptyint.parity.faults.fault import Catalogue, Fault, SizedFault, read
from ptyint.parity.faults.injection import TORCH, Context, after_init, function, method, together, torch, wrapped
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


def _train_with(batches: injection.Change) -> Context:
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


NAMES = vars(injection) | globals()
CATALOGUE = {one["id"]: Fault(**one) for one in read(__file__, NAMES)}
LISTED, OWN = ([fault for fault in CATALOGUE.values() if fault.id[0] == letter] for letter in "FP")
"""Faults on record, and of the kinds that a port makes. F20, a test that was skipped and whose log says green, is the
evidence engine's: see `EVIDENCE`."""

EVIDENCE = Fault("F20", "the test is skipped, and its log says green", "evidence", "",
                 nullcontext, "phase E2, 2025-10-17")  # fmt: skip
"""The one fault on record that is not a backend's: its rung is the evidence engine, which must not call it green."""

SIZED = tuple(SizedFault(**one) for one in read(__file__, NAMES, "sized"))
"""Faults with a size."""

BUILT_IN = Catalogue(
    injection.SIDE,
    (*CATALOGUE.values(), EVIDENCE),
    Problems(cases=("gridsize 1", "gridsize 2", "fresh")),
    ("contract", "operator", "forward", "loss", "gradient", "step", "persistence"),
    of_reference=("trace", "optimiser", "training"),
    of_candidate=("training",),
    sized=SIZED,
    alike=True,
)
"""A fault that these networks show need not be looked for in all."""
