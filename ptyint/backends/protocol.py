"""What a backend is: what it says of itself, and one protocol for each thing that it may be able to do.

A backend declares by name (`CAPABILITIES`) which of the protocols it keeps; ``ptyint check-backend`` tries it. Axis -2
is y and axis -1 is x; batches of groups have the shape (B, C, N, N) with ``C = gridsize**2``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.weights import Weights
from ptyint.config import InferenceConfig, TrainingConfig
from ptyint.scans.batches import Batch, GroupedScan

Tensor = TypeVar("Tensor")
Arrays = dict[str, NDArray[Any]]
Good = NDArray[np.bool_]
"""Pixels of the detector, (N, N), that count."""

Mask = Good | None
"""The same; None: all."""

Operator = Callable[..., NDArray[Any]]
"""An operator of the model: arrays in, an array out."""

OPERATORS = (
    "probe_mask", "downsample", "upsample", "sigmoid", "swish", "softplus", "relu", "phase_head", "pad_patch",
    "translate", "merge_patches", "cut_patches", "illuminate", "propagate", "expected_intensity", "poisson_nll",
)  # fmt: skip
"""Every operator of the model, in data-flow order. Each takes and returns what its namesake in `ptyint.backends.numpy`
does (`downsample` and `upsample` act on (B, C, H, W), `pad_patch` on (B, C, N/2, N/2), `translate` on (B, n, n))."""


def by_name(*operators: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Operators under the names of their functions."""
    return {operator.__name__: operator for operator in operators}


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


class Tap(Protocol[Tensor]):
    """What a forward pass calls with each named tensor, and goes on with what it returns."""

    def __call__(self, name: str, tensor: Tensor, channels_last: bool = False) -> Tensor:
        """The tensor to go on with; `channels_last`: it is (B, H, W, C), and reported as (B, C, H, W)."""


def untapped(name: str, tensor: Tensor, channels_last: bool = False) -> Tensor:
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
        Another backend's trace; empty: nothing is replaced.
    values, gradients : dict of str to ndarray
        As computed, before any replacement.
    """

    def __init__(self, given: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.given = given or {}
        self.values: Arrays = {}
        self.gradients: Arrays = {}

    def arrays(self) -> Arrays:
        """Values, then gradients as ``gradient/<name>``, both in data-flow order."""
        gradients = {f"gradient/{name}": self.gradients[name] for name in self.values if name in self.gradients}
        return {**self.values, **gradients}


class Network(Protocol):
    """One built network in one framework, with the state of its optimiser.

    Examples
    --------
    >>> from ptyint import backends
    >>> from ptyint.backends.weights import initial_weights
    >>> from ptyint.config import ModelConfig, TrainingConfig
    >>> from ptyint.scans.batches import GroupedScan
    >>> from ptyint.scans.fixtures import load_fixture
    >>> scan, config = load_fixture("tiny-64"), TrainingConfig(ModelConfig(n_filters_scale=1), n_groups=4)
    >>> weights = initial_weights(config.model, scan.probe, seed=0)
    >>> network = backends.load("numpy").build(config, weights)
    >>> batch = next(GroupedScan.from_config(scan, config).batches(2))
    >>> network.predict(batch).shape
    (2, 1, 64, 64)
    >>> first, second = (network.train_step(batch, learning_rate=1e-3) for _ in range(2))
    >>> second < first
    True
    """

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """Make one Adam step.

        Parameters
        ----------
        batch : Batch
            The groups whose mean loss is reduced.
        learning_rate : float
            Of this step.

        Returns
        -------
        float
            Mean loss of the batch before the step, in nats per pixel.
        """

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N), in units of the network's probe."""

    def get_weights(self) -> Weights:
        """Canonical weights, copied out, in the network's precision."""

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""

    def trace(self, batch: Batch, given: Mapping[str, NDArray[Any]] | None = None) -> Arrays:
        """Every layer's and operator's output, ``loss``, and the gradient of each tap and each weight.

        Parameters
        ----------
        batch : Batch
            One batch, made in the network's precision.
        given : dict of ndarray, optional
            Another backend's trace, for reference injection; see :class:`Recorder`.

        Returns
        -------
        dict of str to ndarray
            Tap to array in data-flow order, then ``gradient/<tap>`` and ``gradient/<weight>``. The gradient of a
            complex array is ``dL/d(real) + i dL/d(imag)``.
        """


@runtime_checkable
class Backend(Protocol):
    """What every backend says of itself; what else it has is told by its `capabilities`.

    Attributes
    ----------
    name : str
        What it is registered as.
    capabilities : frozenset of str
        Of `CAPABILITIES`. Rungs of the ladder that need another one are ``not available``.
    precisions : tuple of str
        Of 'float32' and 'float64': in which it computes, the usual one first.
    frameworks : tuple of str
        Of 'tensorflow' and 'torch': which of them its process loads.

    Examples
    --------
    >>> from ptyint import backends
    >>> backend = backends.load("numpy")
    >>> backend.name, sorted(backend.capabilities), backend.precisions, backend.frameworks
    ('numpy', ['operators', 'trace', 'weights'], ('float64',), ())
    >>> sorted(backend.describe())
    ['arithmetic', 'backend', 'deterministic', 'device', 'threads', 'version']
    """

    name: str
    capabilities: frozenset[str]
    precisions: tuple[str, ...]
    frameworks: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Plain values for a report: ``backend`` and ``version`` at least, then device, threads, determinism.

        A built-in one also says under ``arithmetic`` what is switched on that computes with less than the declared
        precision; `FULL_PRECISION` where nothing is.
        """


@runtime_checkable
class Operators(Backend, Protocol):
    """A backend whose operators can be called one by one.

    Examples
    --------
    >>> from ptyint import backends
    >>> operators = backends.load("numpy").operators("float64")
    >>> operators["relu"](np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def operators(self, precision: str = "float64") -> dict[str, Operator]:
        """The operators of the model that it has (see `OPERATORS`), arrays in, an array of `precision` out."""


@runtime_checkable
class Trainable(Backend, Protocol):
    """A backend that takes and gives canonical weights (:mod:`ptyint.backends.weights`)."""

    def train(
        self, data: GroupedScan, config: TrainingConfig, weights: Weights, on_epoch: OnEpoch | None = None
    ) -> tuple[Weights, History]:
        """Train from `weights` on the groups of `data`.

        Parameters
        ----------
        data : GroupedScan
            The scan and its groups.
        config : TrainingConfig
            ``config.seed`` decides the order of the batches.
        weights : dict of ndarray
            Canonical weights; they stay as they are.
        on_epoch : callable, optional
            Called with each finished :class:`Epoch`; an exception in it ends the training.

        Returns
        -------
        weights : dict of float32 ndarray
            As a bundle holds them.
        history : History
            Every epoch, and why training ended.

        Raises
        ------
        FloatingPointError
            The loss stopped being finite.
        """

    def infer(self, data: GroupedScan, weights: Weights, config: InferenceConfig) -> NDArray[np.complex64]:
        """Object patches (n_groups, C, N, N) of all groups, in their order, in units of the network's probe."""


@runtime_checkable
class Traceable(Backend, Protocol):
    """A backend whose network is built from given weights, stepped and traced."""

    def build(
        self, config: TrainingConfig, weights: Weights, good_pixels: Mask = None, precision: str | None = None
    ) -> Network:
        """A network that starts from `weights`.

        Parameters
        ----------
        config : TrainingConfig
            Architecture, what is trainable, Adam's constants.
        weights : dict of ndarray
            Canonical weights (:mod:`ptyint.backends.weights`).
        good_pixels : ndarray of bool, (N, N), optional
            Pixels that the loss counts. None: all.
        precision : str, optional
            One of the backend's `precisions`. None: the first.
        """


@runtime_checkable
class Workflow(Backend, Protocol):
    """A backend that trains, saves, loads, infers and stitches by functions of its own."""

    def initial_weights(self, config: TrainingConfig) -> Arrays:
        """Weights of a network as it starts, under the backend's names, kernels as (3, 3, in, out)."""

    def configure(self, config: TrainingConfig) -> dict[str, Any]:
        """Run the backend's own configuration gate; return what it holds then, under PtychoPINN's legacy names."""

    def run(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> Arrays:
        """Train on an NPZ, save a bundle into `folder`, infer, stitch the patches' centres (M, M).

        Returns
        -------
        dict
            ``patches`` (n, ..., N, N) complex; ``stitched`` (H, W) complex, and ``centre_px`` (2,), the position
            ``(y, x)`` of its middle pixel in the scan; ``probe`` (N, N) as it illuminates; ``inputs`` as the network
            gets them; ``losses`` (epochs,), in units of its own.
        """

    def reload(self, scan_file: Path, config: TrainingConfig, folder: Path, M: int = 20) -> Arrays:
        """Load what :meth:`run` saved, infer and stitch: ``patches``, ``stitched`` and ``centre_px`` again."""


FULL_PRECISION = "full precision"

CAPABILITIES: dict[str, Any] = {
    "operators": Operators,
    "weights": Trainable,
    "trace": Traceable,
    "workflow": Workflow,
}
"""What a backend can declare that it does, and the protocol that it then keeps."""


def methods(capability: str) -> list[str]:
    """Methods that a backend must have which declares `capability`."""
    return [name for name in vars(CAPABILITIES[capability]) if not name.startswith("_")]
