"""The training loop that the built-in backends share, and what turns a network into a backend.

The loop (order of the batches, learning-rate rule, early stopping, progress) is bookkeeping, so there is one copy
of it, in NumPy; a backend brings a :class:`ptyint.backends.protocol.Network` that knows how to make a step.
"""

import importlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.checkpoint import Checkpoint, Progress
from ptyint.backends.protocol import FULL_PRECISION, OPERATORS, Epoch, Good, History, Mask, Network, OnEpoch, Operator
from ptyint.backends.weights import Weights
from ptyint.config import InferenceConfig, TrainingConfig
from ptyint.errors import ConfigError
from ptyint.evidence.processes import PROGRESS_VARIABLE
from ptyint.scans.batches import Batch, GroupedScan


class Schedule:
    """Learning rate and early stopping, epoch by epoch; one rule for both backends.

    'WarmupCosine' rises linearly over ``lr_warmup_epochs`` and then falls, as half a cosine, to
    ``lr_min_ratio * learning_rate`` in the last epoch. 'ReduceLROnPlateau' multiplies the rate by ``plateau_factor``
    (never below ``plateau_min_lr``) after more than ``plateau_patience`` epochs without improvement. An epoch improves
    when its loss lies below the best by more than ``plateau_threshold * |best|``. Under every scheduler training stops
    after ``early_stop_patience`` epochs without improvement.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.epoch = 1
        self.reduction = 1.0
        self.best = np.inf
        self.since_best = 0

    @property
    def learning_rate(self) -> float:
        """Rate of the epoch that comes."""
        config = self.config
        if config.scheduler == "WarmupCosine":
            return config.learning_rate * self._warmup_cosine()
        reduced = max(config.learning_rate * self.reduction, config.plateau_min_lr)
        return min(config.learning_rate, reduced)

    def _warmup_cosine(self) -> float:
        config = self.config
        if self.epoch <= config.lr_warmup_epochs:
            return self.epoch / (config.lr_warmup_epochs + 1)
        span = max(1, config.nepochs - config.lr_warmup_epochs - 1)
        part = min(1.0, (self.epoch - config.lr_warmup_epochs - 1) / span)
        return config.lr_min_ratio + (1 - config.lr_min_ratio) * (1 + math.cos(math.pi * part)) / 2

    def should_stop(self, loss: float) -> bool:
        """Take an epoch's loss in; True when training should end."""
        config = self.config
        self.epoch += 1
        margin = config.plateau_threshold * abs(self.best) if np.isfinite(self.best) else 0.0
        if loss < self.best - margin:
            self.best, self.since_best = loss, 0
            return False
        self.since_best += 1
        if config.scheduler == "ReduceLROnPlateau" and self.since_best % (config.plateau_patience + 1) == 0:
            self.reduction *= config.plateau_factor
        return self.since_best >= config.early_stop_patience


def progress_bar(n_epochs: int, description: str) -> Any:
    """A tqdm bar over epochs: a widget in interactive notebooks, text elsewhere or where the environment says so."""
    module = importlib.import_module("tqdm" if os.environ.get(PROGRESS_VARIABLE) == "text" else "tqdm.auto")
    return module.tqdm(total=n_epochs, unit="epoch", desc=description)


def fit(
    network: Network,
    data: GroupedScan,
    config: TrainingConfig,
    name: str,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train a network, epoch by epoch, under the name of its backend; see :meth:`.protocol.Trainable.train`."""
    generator, schedule = np.random.default_rng(config.seed), Schedule(config)
    progress = Progress() if checkpoint is None else checkpoint.resume(network, name, data, config)
    history = History(progress.epochs)
    for epoch in history.epochs:
        data.order(generator)
        schedule.should_stop(epoch.loss)
    with progress_bar(config.nepochs, f"{name} training") as bar:
        bar.update(len(history.epochs))
        for number in range(len(history.epochs) + 1, config.nepochs + 1):
            rate = schedule.learning_rate
            _train_epoch(network, data.batches(config.batch_size, generator), rate, progress, checkpoint)
            loss = progress.total / data.groups.n_groups
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"The {name} loss is {loss} in epoch {number}; lower learning_rate (now {rate:g})."
                )
            history.epochs.append(Epoch(number, loss, rate, progress.seconds))
            progress = Progress(history.epochs)
            bar.set_postfix(loss=f"{loss:.5g}", lr=f"{rate:.2g}")
            bar.update()
            if on_epoch is not None:
                on_epoch(history.epochs[-1])
            if schedule.should_stop(loss):
                history.ended = f"no improvement for {config.early_stop_patience} epochs"
                break
    return history


def _train_epoch(
    network: Network, batches: Iterable[Batch], rate: float, progress: Progress, checkpoint: Checkpoint | None
) -> None:
    """Make the steps of an epoch that are left."""
    start = time.perf_counter() - progress.seconds
    for batch in islice(batches, progress.batches, None):
        progress.total += network.train_step(batch, rate) * len(batch.inputs)
        progress.batches += 1
        progress.seconds = time.perf_counter() - start
        if checkpoint is not None:
            checkpoint.keep(progress)


def on_arrays(
    module: Mapping[str, Any], tensor: Callable[[Any], Any], array: Callable[[Any], Any]
) -> dict[str, Operator]:
    """Every operator of the model in a backend's module, arrays in, an array out; looked up when it is called.

    Parameters
    ----------
    module : dict
        Its functions by name, among them `ACTIVATIONS`.
    tensor, array : callable
        Into the framework and back. Sizes, which are whole numbers, stay as they are.
    """

    def operator(name: str) -> Operator:
        def called(*arguments: Any) -> NDArray[Any]:
            function = module["ACTIVATIONS"].get(name) or module[name]
            result = function(*(one if isinstance(one, int | np.integer) else tensor(one) for one in arguments))
            return np.asarray(array(result))

        return called

    return {name: operator(name) for name in OPERATORS}


class NetworkBackend:
    """A backend made from a :class:`Network`: the training loop and inference are written once, here.

    It lacks `operators` and `describe`, which see :mod:`ptyint.backends.protocol`.

    Attributes
    ----------
    network : callable
        Makes a :class:`Network` of configuration, weights, good pixels and precision.
    """

    name: str
    capabilities = frozenset({"operators", "weights", "trace"})
    precisions: tuple[str, ...] = ("float32", "float64")
    frameworks: tuple[str, ...]
    network: Callable[[TrainingConfig, Weights, Good, str], Network]
    _idle: Any = (None, None)
    """Kind and network of the last inference, for the next one of its kind: it is built and traced once."""

    def description(
        self, version: str, device: str, threads: int | None, deterministic: bool, **departures: bool
    ) -> dict[str, Any]:
        """What :meth:`describe` returns, by name; `departures` from full precision that are switched on or not."""
        mode = os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT").upper()  # oneDNN's, which both frameworks hold
        switched = {**departures, f"oneDNN {mode}": mode != "STRICT"}
        arithmetic = ", ".join(name.replace("_", " ") for name, on in switched.items() if on) or FULL_PRECISION
        found = {"version": version, "device": device, "threads": threads, "deterministic": deterministic}
        return {"backend": self.name, **found, "arithmetic": arithmetic}

    def build(
        self, config: TrainingConfig, weights: Weights, good_pixels: Mask = None, precision: str | None = None
    ) -> Network:
        """See :meth:`.protocol.Traceable.build`."""
        chosen = precision or self.precisions[0]
        self.check_precision(chosen)
        good = np.ones(weights["probe.real"].shape[1:], bool) if good_pixels is None else good_pixels
        return type(self).network(config, weights, good, chosen)

    def check_precision(self, precision: str) -> None:
        """Raise ConfigError where the backend does not compute in `precision`."""
        if precision not in self.precisions:
            raise ConfigError(f"precision is {precision!r}; backend {self.name!r} computes in {self.precisions}.")

    def train(
        self,
        data: GroupedScan,
        config: TrainingConfig,
        weights: Weights,
        on_epoch: OnEpoch | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Weights, History]:
        """See :meth:`.protocol.Trainable.train`; goes on from a checkpoint where there is one."""
        network = self.build(config, weights, data.scan.good_pixels)
        history = fit(network, data, config, self.name, on_epoch, checkpoint)
        return {name: array.astype(np.float32) for name, array in network.get_weights().items()}, history

    def forget(self) -> None:
        """Drop the network of the last inference: the next one builds its own."""
        self._idle = None, None

    def infer(self, data: GroupedScan, weights: Weights, config: InferenceConfig) -> NDArray[np.complex64]:
        """See :meth:`.protocol.Trainable.infer`."""
        key = config.model, *((name, array.shape) for name, array in weights.items())
        kind, network = self._idle
        self.forget()
        if kind == key:
            network.reset(weights)
        else:
            network = self.build(TrainingConfig(model=config.model), weights, data.scan.good_pixels)
        patches = [network.predict(batch) for batch in data.batches(config.batch_size)]
        self._idle = key, network
        return np.concatenate(patches).astype(np.complex64)
