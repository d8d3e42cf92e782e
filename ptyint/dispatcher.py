"""The gate, the choice of backend, the call. Nothing else in the package chooses a backend."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ptyint import backends
from ptyint.backends import weights as canonical
from ptyint.backends.checkpoint import Checkpoint
from ptyint.backends.protocol import Backend, History, OnEpoch, Trainable
from ptyint.backends.weights import Weights
from ptyint.config import InferenceConfig, TrainingConfig, params, update_legacy_dict
from ptyint.errors import BackendUnavailableError, ConfigError
from ptyint.scans.batches import GroupedScan
from ptyint.scans.groups import Groups
from ptyint.scans.scan import Scan


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What :func:`train` returns: what really ran, what it started from, and what came out."""

    backend: str
    config: TrainingConfig
    weights: Weights
    initial_weights_sha256: str
    history: History
    groups: Groups
    seconds: float


@dataclass(eq=False)
class InferenceResult:
    """What :func:`infer` returns; `backend` is the one that really ran.

    Attributes
    ----------
    data : GroupedScan
        The scan and its groups.
    batches : iterable of ndarray of complex64, (B, C, N, N)
        The groups' patches in their order, some groups at a time; where they are not kept, they are predicted while
        somebody asks for them, once.
    seconds : float
        Of prediction, so far.
    """

    backend: str
    config: InferenceConfig
    weights: Weights
    data: GroupedScan
    batches: Iterable[NDArray[np.complex64]] = ()
    seconds: float = 0.0

    @cached_property
    def network_patches(self) -> NDArray[np.complex64]:
        """(n_groups, C, N, N) as the network predicts them, in its own units and with a free phase for each group.

        :func:`ptyint.images.reconstruction.assemble` makes an object of them.
        """
        if not (batches := [*self.batches]):
            raise ConfigError("These patches were placed and forgotten; infer with keep=True to have them.")
        self.batches = [np.concatenate(batches)]
        return self.batches[0]

    def _predicted(self, backend: Trainable, parts: Iterable[GroupedScan]) -> Iterator[NDArray[np.complex64]]:
        for part in parts:
            start = time.perf_counter()
            patches = backend.infer(part, self.weights, self.config)
            self.seconds += time.perf_counter() - start
            yield patches


def select_backend(config: TrainingConfig | InferenceConfig) -> Backend:
    """CONFIG-001, then POLICY-001: update `params.cfg`, then import the backend that `config` names.

    Raises
    ------
    UnknownBackendError
        ``config.backend`` is not a known name.
    BackendUnavailableError
        Its framework cannot be imported.
    """
    update_legacy_dict(params.cfg, config)
    return backends.load(config.backend)


def _with_weights(config: TrainingConfig | InferenceConfig) -> Trainable:
    """The selected backend, which must take and give canonical weights."""
    backend = select_backend(config)
    if "weights" not in backend.capabilities:
        raise BackendUnavailableError(
            f"Backend {config.backend!r} takes and gives no canonical weights (it declares "
            f"{sorted(backend.capabilities)}): compare it on the parity ladder, or select one of "
            f"{list(backends.BUILT_IN)} to train and infer."
        )
    return cast(Trainable, backend)


def keeps_checkpoints(backend: Backend) -> bool:
    """Whether a training with this backend can go on from a :class:`.checkpoint.Checkpoint`."""
    return hasattr(getattr(backend, "network", None), "get_state")


def train(
    scan: Scan, config: TrainingConfig, on_epoch: OnEpoch | None = None, checkpoint: Checkpoint | None = None
) -> TrainingResult:
    """Train a model on a scan with the backend that `config` names.

    Parameters
    ----------
    scan : Scan
        The data contract (:func:`ptyint.validate_scan`) is the caller's to check.
    config : TrainingConfig
        ``config.seed`` decides the groups, the initial weights and the order of the batches.
    on_epoch : callable, optional
        Called with each finished epoch.
    checkpoint : Checkpoint, optional
        Where the training keeps its state, and from which it goes on, to the same weights as if it had not been
        killed; the caller removes it once these are safe.

    Returns
    -------
    TrainingResult
        The weights, the history of the losses, and what really ran.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`select_backend`.
    ConfigError
        The configuration does not fit the scan, or the backend keeps no checkpoint.
    BundleError
        The checkpoint is damaged, or of another training.

    Examples
    --------
    >>> import ptyint
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> model = ptyint.ModelConfig(n_filters_scale=1)
    >>> config = ptyint.TrainingConfig(model=model, nepochs=2, backend="pytorch")
    >>> trained = ptyint.train(scan, config)
    >>> trained.backend, len(trained.history.losses)
    ('pytorch', 2)
    """
    backend = _with_weights(config)
    data = GroupedScan.from_config(scan, config)
    initial = canonical.initial_weights(config.model, scan.probe, config.seed)
    digest = canonical.weights_sha256(initial)
    resumable = checkpoint is not None and keeps_checkpoints(backend)
    if checkpoint is not None and checkpoint.in_use and not resumable:
        raise ConfigError(f"Backend {backend.name!r} keeps no {checkpoint.path}; remove it, and ask for none.")
    start = time.perf_counter()
    trained, history = backend.train(data, config, initial, on_epoch, *([checkpoint] if resumable else []))
    return TrainingResult(backend.name, config, trained, digest, history, data.groups, time.perf_counter() - start)


def infer(scan: Scan, config: InferenceConfig, weights: Weights | None = None, *, keep: bool = True) -> InferenceResult:
    """Apply a trained model to every group of a scan.

    Parameters
    ----------
    scan : Scan
        Its patterns have the model's size N.
    config : InferenceConfig
        ``config.backend`` says who does it, whoever trained the model.
    weights : dict, optional
        Canonical weights. None: they are read from ``config.model_path``, whichever backend trained them.
    keep : bool
        False: patches are predicted when they are placed (:func:`ptyint.assemble`), and forgotten: for scans whose
        patches do not fit into memory together.

    Returns
    -------
    InferenceResult
        One object patch for each pattern of each group, in the network's own units.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`select_backend`.
    BundleError
        The bundle is damaged, or was made for another model.
    ConfigError
        Neither weights nor a bundle were given, or the configuration does not fit the scan.

    Examples
    --------
    >>> import ptyint
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> model = ptyint.ModelConfig(n_filters_scale=1, gridsize=2)
    >>> trained = ptyint.train(scan, ptyint.TrainingConfig(model=model, nepochs=1, backend="pytorch"))
    >>> config = ptyint.InferenceConfig(model=model, backend="pytorch")
    >>> inferred = ptyint.infer(scan, config, trained.weights)
    >>> inferred.network_patches.shape == (scan.n, 4, 64, 64)
    True
    """
    backend = _with_weights(config)
    if weights is None:
        if config.model_path is None:
            raise ConfigError("model_path is None; give the bundle (wts.h5.zip) to infer with, or its weights.")
        from ptyint.backends import bundle  # and with it HDF5, which nothing else here needs

        weights = bundle.load_bundle(config.model_path, expected=config.model).weights
    data = GroupedScan.from_config(scan, config)
    result = InferenceResult(backend.name, config, weights, data)
    result.batches = result._predicted(backend, [data] if keep else data.parts(config.batch_size))
    if keep:
        _ = result.network_patches
    return result
