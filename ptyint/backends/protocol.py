"""What a backend is, and the training loop that both built-in ones share.

The loop (order of the batches, learning-rate rule, early stopping, progress) is bookkeeping, so there is one copy
of it, in NumPy; a backend brings a :class:`Network` that knows how to make a step.
"""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.weights import Weights
from ptyint.config import InferenceConfig, TrainingConfig
from ptyint.scans.batches import Batch, GroupedScan

PROGRESS_VARIABLE = "PTYINT_PROGRESS"
"""Environment variable: "text" makes progress bars plain text, which batch runs can show and keep."""

CAPABILITIES = {
    "operators": "the model's operators one by one: `operators`",
    "weights": "canonical weights in and out: `train` and `infer`",
    "trace": "its network, built from given weights, stepped and traced: `build` and `trace`",
    "workflow": "training, saving, loading, inference and stitching of its own: `run` and `reload`",
}
"""What a backend can declare that it does, and by which methods. ``name`` and ``describe`` it always has."""

Operators = dict[str, Callable[..., NDArray[Any]]]
"""Operator of the model by name, NumPy in, NumPy out; see :meth:`Backend.operators`."""


class Tap(Protocol):
    """What a forward pass calls with each named tensor, and goes on with what it returns."""

    def __call__(self, name: str, tensor: Any, channels_last: bool = False) -> Any:
        """The tensor to go on with; `channels_last`: it is (B, H, W, C), and reported as (B, C, H, W)."""


def untapped(name: str, tensor: Any, channels_last: bool = False) -> Any:
    """The tap of a pass that nobody watches."""
    return tensor


class Recorder:
    """A tap that keeps every tensor of a pass, in data-flow order, and the gradient of the loss with respect to it.

    Reference injection: where `given` has another backend's array of that name, the pass goes on with this array
    instead, and the backward pass with its ``gradient/<name>``. What is recorded is then what each layer alone makes
    of right inputs: a bad layer is the only one to differ, and its followers do not.

    Attributes
    ----------
    given : dict of str to ndarray
    values, gradients : dict of str to ndarray
        As computed, before any replacement.
    """

    def __init__(self, given: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.given = given or {}
        self.values: dict[str, NDArray[Any]] = {}
        self.gradients: dict[str, NDArray[Any]] = {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Values, then gradients as ``gradient/<name>``, both in data-flow order."""
        gradients = {f"gradient/{name}": self.gradients[name] for name in self.values if name in self.gradients}
        return {**self.values, **gradients}


@dataclass(frozen=True)
class Epoch:
    """One pass over the groups: mean loss, the learning rate it ran at, wall seconds."""

    number: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass
class History:
    """What happened in training: the epochs, and why it ended."""

    epochs: list[Epoch] = field(default_factory=list)
    ended: str = "all epochs done"

    @property
    def losses(self) -> NDArray[np.float64]:
        """Mean loss of each epoch."""
        return np.array([epoch.loss for epoch in self.epochs])


OnEpoch = Callable[[Epoch], None]


OPERATORS = (
    "probe_mask",
    "downsample",
    "upsample",
    "sigmoid",
    "swish",
    "softplus",
    "relu",
    "phase_head",
    "pad_patch",
    "translate",
    "merge_patches",
    "cut_patches",
    "illuminate",
    "propagate",
    "expected_intensity",
    "poisson_nll",
)
"""Every operator of the model, in data-flow order. Each takes and returns what its namesake in `ptyint.backends.numpy`
does (`downsample` and `upsample` act on (B, C, H, W), `pad_patch` on (B, C, N/2, N/2), `translate` on (B, n, n))."""


class Network(Protocol):
    """One built network in one framework, with its optimiser state."""

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """Make one Adam step; return the mean loss of the batch before it."""

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N)."""

    def get_weights(self) -> Weights:
        """Canonical weights, copied out."""

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""

    def trace(self, batch: Batch, given: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """Every layer's and operator's output, ``loss``, and the gradient of each tap and each weight.

        Parameters
        ----------
        batch : Batch
        given : dict of ndarray, optional
            Another backend's trace, for reference injection; see :class:`Recorder`.
        """


class Backend(Protocol):
    """What the harness asks of a backend. It may leave out what its `capabilities` do not declare.

    Attributes
    ----------
    name : str
    capabilities : frozenset of str
        Of `CAPABILITIES`. Rungs of the ladder that need another one are ``not available``.
    precisions : tuple of str
        Of 'float32' and 'float64': in which its operators compute.
    frameworks : tuple of str
        Of 'tensorflow' and 'torch': which of them its process loads.
    """

    name: str
    capabilities: frozenset[str]
    precisions: tuple[str, ...]
    frameworks: tuple[str, ...]

    def train(
        self, data: GroupedScan, config: TrainingConfig, weights: Weights, on_epoch: OnEpoch | None = None
    ) -> tuple[Weights, History]:
        """Train from `weights`; return the new weights and what happened."""

    def infer(self, data: GroupedScan, weights: Weights, config: InferenceConfig) -> NDArray[np.complex64]:
        """Object patches (n_groups, C, N, N) of all groups, in their order."""

    def trace(
        self,
        batch: Batch,
        weights: Weights,
        config: TrainingConfig,
        good_pixels: NDArray[np.bool_] | None = None,
        precision: str = "float32",
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Taps, loss and gradients of one batch."""

    def operators(self, precision: str = "float64") -> Operators:
        """The operators of the model, each as a function from arrays to an array; see `OPERATORS`."""

    def describe(self) -> dict[str, Any]:
        """Name, version, device, threads, determinism flags."""


class Workflow(Protocol):
    """A backend that trains, saves, loads, infers and stitches by functions of its own."""

    name: str
    capabilities: frozenset[str]
    precisions: tuple[str, ...]
    frameworks: tuple[str, ...]

    def initial_weights(self, config: TrainingConfig) -> dict[str, NDArray[Any]]:
        """Weights of a network as it starts, under the backend's names, kernels as (3, 3, in, out)."""

    def predict(self, config: TrainingConfig, weights: Weights, inputs: NDArray[Any]) -> NDArray[np.complexfloating]:
        """Patches (B, C, N, N), before any merge, of its network with canonical weights carried over.

        Raises
        ------
        NotImplementedError
            Its network is another; the message says how.
        """

    def configure(self, config: TrainingConfig) -> dict[str, Any]:
        """Run the backend's own configuration gate; return what it holds then, under PtychoPINN's legacy names."""

    def run(self, scan_file: Path, config: TrainingConfig, folder: Path) -> dict[str, NDArray[Any]]:
        """Train on an NPZ, save a bundle into `folder`, infer, stitch.

        Returns
        -------
        dict
            ``patches`` (n, ..., N, N) complex, ``stitched`` (H, W) complex, ``probe`` (N, N) as it illuminates,
            ``inputs`` as the network gets them.
        """

    def reload(self, scan_file: Path, config: TrainingConfig, folder: Path) -> dict[str, NDArray[Any]]:
        """Load what :meth:`run` saved, in a new process; ``patches`` and ``stitched`` again."""

    def describe(self) -> dict[str, Any]:
        """Name, versions, device, threads."""


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
        self.waiting = 0
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
            self.best, self.waiting, self.since_best = loss, 0, 0
            return False
        self.waiting += 1
        self.since_best += 1
        if config.scheduler == "ReduceLROnPlateau" and self.waiting > config.plateau_patience:
            self.reduction *= config.plateau_factor
            self.waiting = 0
        return self.since_best >= config.early_stop_patience


def progress_bar(n_epochs: int, description: str) -> Any:
    """A tqdm bar over epochs: a widget in interactive notebooks, text elsewhere or where the environment says so."""
    if os.environ.get(PROGRESS_VARIABLE) == "text":
        from tqdm import tqdm
    else:
        from tqdm.auto import tqdm
    return tqdm(total=n_epochs, unit="epoch", desc=description)


class NetworkBackend(ABC):
    """A backend made from a :class:`Network`: training loop, inference and trace are written once, here."""

    name: str
    capabilities = frozenset({"operators", "weights", "trace"})
    precisions: tuple[str, ...] = ("float32", "float64")
    frameworks: tuple[str, ...]

    @abstractmethod
    def build(
        self,
        config: TrainingConfig,
        weights: Weights,
        good_pixels: NDArray[np.bool_] | None = None,
        precision: str = "float32",
    ) -> Network:
        """Build a network that starts from `weights`.

        Parameters
        ----------
        config : TrainingConfig
        weights : dict
            Canonical weights (see :mod:`ptyint.backends.weights`).
        good_pixels : ndarray of bool, (N, N), optional
            Pixels that the loss counts. None: all.
        precision : {'float32', 'float64'}
        """

    @abstractmethod
    def operators(self, precision: str = "float64") -> Operators:
        """The operators of the model, each as a function from arrays to an array; see `OPERATORS`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, version, device, threads, determinism flags."""

    def train(
        self, data: GroupedScan, config: TrainingConfig, weights: Weights, on_epoch: OnEpoch | None = None
    ) -> tuple[Weights, History]:
        """Train from `weights` on the groups of `data`.

        Parameters
        ----------
        data : GroupedScan
        config : TrainingConfig
        weights : dict
        on_epoch : callable, optional
            Called with each finished :class:`Epoch`; an exception in it ends the training.

        Returns
        -------
        weights : dict of float32 arrays
        history : History

        Raises
        ------
        FloatingPointError
            The loss stopped being finite.
        """
        network = self.build(config, weights, data.scan.good_pixels)
        generator = np.random.default_rng(config.seed)
        schedule, history = Schedule(config), History()
        with progress_bar(config.nepochs, f"{self.name} training") as bar:
            for number in range(1, config.nepochs + 1):
                start, rate = time.perf_counter(), schedule.learning_rate
                total = 0.0
                for batch in data.batches(config.batch_size, generator):
                    total += network.train_step(batch, rate) * len(batch.inputs)
                loss = total / data.groups.n_groups
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"The {self.name} loss is {loss} in epoch {number}; lower learning_rate (now {rate:g})."
                    )
                history.epochs.append(Epoch(number, loss, rate, time.perf_counter() - start))
                bar.set_postfix(loss=f"{loss:.5g}", lr=f"{rate:.2g}")
                bar.update()
                if on_epoch is not None:
                    on_epoch(history.epochs[-1])
                if schedule.should_stop(loss):
                    history.ended = f"no improvement for {config.early_stop_patience} epochs"
                    break
        return network.get_weights(), history

    def infer(self, data: GroupedScan, weights: Weights, config: InferenceConfig) -> NDArray[np.complex64]:
        """Object patches of all groups.

        Parameters
        ----------
        data : GroupedScan
        weights : dict
        config : InferenceConfig

        Returns
        -------
        ndarray of complex64, (n_groups, C, N, N)
        """
        network = self.build(TrainingConfig(model=config.model), weights, data.scan.good_pixels)
        patches = [network.predict(batch) for batch in data.batches(config.batch_size)]
        return np.concatenate(patches).astype(np.complex64)

    def trace(
        self,
        batch: Batch,
        weights: Weights,
        config: TrainingConfig,
        good_pixels: NDArray[np.bool_] | None = None,
        precision: str = "float32",
        given: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Every tap of one batch at the given precision; see :meth:`Network.trace`."""
        return self.build(config, weights, good_pixels, precision).trace(batch, given)
