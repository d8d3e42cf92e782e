"""Faults of the kinds that a ladder overlooks: ``python blind_spots.py FOLDER`` tries each, and prints where it is red.

They need no other backend: what is held against one does not count, but for one network each that NumPy traces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptyint import backends
from ptyint.backends.training import Schedule
from ptyint.parity.configurations import CASES, PROFILES
from ptyint.parity.faults.injection import Context, at_tap, method, wrapped
from ptyint.parity.faults.trial import Trial
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import CAPTURES
from ptyint.parity.rungs.rung import Bench
from ptyint.parity.worker import capture

BRIGHT = next(name for name in PROFILES["quick"] if CASES[name].bright and CASES[name].fields.get("nphotons"))


def in_fit(change: Callable[[Any, Any], None]) -> Context:
    """A fault in the loop of training: ``change(network, epoch)`` after each epoch."""

    def fit(original: Any, network: Any, data: Any, config: Any, name: str, on_epoch: Any = None, *rest: Any) -> Any:
        def after(epoch: Any) -> None:
            change(network, epoch)
            if on_epoch is not None:
                on_epoch(epoch)

        return original(network, data, config, name, after, *rest)

    return lambda: wrapped("ptyint.backends.training", "fit", fit)


def best_weights_restored(
    original: Any, network: Any, data: Any, config: Any, name: str, on_epoch: Any = None, *rest: Any
) -> Any:
    best: list[Any] = [np.inf, None]

    def after(epoch: Any) -> None:
        if epoch.loss < best[0]:
            best[:] = epoch.loss, network.get_weights()
        if on_epoch is not None:
            on_epoch(epoch)

    history = original(network, data, config, name, after, *rest)
    network.set_weights(best[1])
    return history


def probe_rescaled(network: Any, epoch: Any) -> None:
    weights = network.get_weights()
    if "probe.real" in network.trainable:
        network.set_weights({name: w * 1.01 if name.startswith("probe.") else w for name, w in weights.items()})


def lossy_gradients(original: Any, self: Any, batch: Any, rate: float) -> Any:
    """1e-4 of every gradient of a step in single precision is lost, at random, as where products are rounded."""
    random = torch.Generator().manual_seed(1)

    def rounded(gradient: Any) -> Any:
        noise = torch.rand(gradient.shape, generator=random, dtype=gradient.dtype) * 2 - 1
        return gradient * (1 + 3e-4 * noise) if gradient.dtype == torch.float32 else gradient

    hooks = [self.parameters[name].register_hook(rounded) for name in self.trainable]
    try:
        return original(self, batch, rate)
    finally:
        for hook in hooks:
            hook.remove()


def forgotten_moments(original: Any, self: Any, batch: Any, rate: float) -> Any:
    self.steps_made = getattr(self, "steps_made", 0) + 1
    if self.steps_made == 101:
        self.optimizer.state.clear()
    return original(self, batch, rate)


@contextmanager
def stale_offsets() -> Iterator[None]:
    """Where offsets have the shape of the last scan's, inference takes those; each process knows its own."""
    known: dict[Any, Any] = {}

    def infer(original: Any, self: Any, data: Any, *rest: Any) -> Any:
        offsets = known.setdefault(data.groups.offsets_px.shape, data.groups.offsets_px)
        return original(self, replace(data, groups=replace(data.groups, offsets_px=offsets)), *rest)

    with method("PyTorchBackend", "infer", infer)():
        yield


@contextmanager
def tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


def blind_to_bad_pixels(original: Any, self: Any, data: Any, *rest: Any, **keywords: Any) -> Any:
    return original(self, replace(data, scan=replace(data.scan, good_pixels=None)), *rest, **keywords)


class NoPlateau(Schedule):
    @property
    def learning_rate(self) -> float:
        self.reduction = 1.0
        return super().learning_rate


FAULTS: dict[str, tuple[str, str, Context]] = {
    "a wide layer 8 % off": ("forward", "default settings", at_tap(
        "amplitude.outer.up", lambda x: x * 1.08 if x.shape[1] == 64 else x)),
    "activations cut at 6": ("forward", BRIGHT, lambda: wrapped(
        "ptyint.backends.pytorch.F", "relu", lambda f, x, **_: f(x).clamp(max=6))),
    "counts cut at 65535": ("loss", BRIGHT, method("TorchNetwork", "_loss", lambda f, s, batch, *rest: f(
        s, replace(batch, counts=np.minimum(batch.counts, 65535)), *rest))),
    "TF32 allowed": ("contract", "", tf32),
    "best weights restored": ("step", "", lambda: wrapped("ptyint.backends.training", "fit", best_weights_restored)),
    "probe rescaled in training": ("step", "", in_fit(probe_rescaled)),
    "bad pixels count in training": ("step", "", method("PyTorchBackend", "train", blind_to_bad_pixels)),
    "plateau ignored": ("step", "", lambda: wrapped(
        "ptyint.backends.training", "Schedule", lambda original, config: NoPlateau(config))),
    "moments forgotten after 100 steps": ("step", "", method("TorchNetwork", "train_step", forgotten_moments)),
    "single-precision gradients rounded": ("step", "", method("TorchNetwork", "train_step", lossy_gradients)),
    "a loss of NaN returned as 0": ("step", "", method(
        "TorchNetwork", "train_step", lambda f, s, *rest: float(np.nan_to_num(f(s, *rest))))),
    "offsets of the last scan": ("persistence", "", stale_offsets),
    "age of the moments lost with the checkpoint": ("persistence", "", method(
        "TorchNetwork", "set_state", lambda f, s, state: f(
            s, {key: value * (not key.startswith("step/")) for key, value in state.items()}))),
    "losses before the checkpoint forgotten": ("persistence", "", lambda: wrapped(
        "ptyint.backends.checkpoint.Checkpoint", "resume", lambda f, *rest: replace(f(*rest), total=0.0))),
}  # fmt: skip
"""Fault to the rung that is climbed, and the network that is traced for it."""


def main(folder: str) -> None:
    found = {}
    for name, (rung, case, applied) in FAULTS.items():
        problems = Problems(cases=(case,) if case else (), precisions=("float64",) if case else ("float32", "float64"))
        if case:
            bench = Bench(backends.load("numpy"), ("numpy", "pytorch"), problems, Path(folder))
            for network in problems.networks:
                capture(bench, CAPTURES["trace"], str(network))
        trial = Trial(folder, applied, "numpy", problems, skipped="" if case else "numpy")
        rungs = {"persistence": ["step", rung], "contract": [rung], "step": [rung]}.get(rung, ["forward", "loss"])
        divergence = trial.climb(rungs).divergence
        found[name] = [divergence.finding.rung, divergence.finding.place] if divergence else ["", ""]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
