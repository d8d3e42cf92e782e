"""The gate, then the choice of backend, then the call. Nothing else in the package chooses a backend."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptyint import backends, params
from ptyint.config import InferenceConfig, TrainingConfig
from ptyint.errors import BackendUnavailableError, ConfigError

if TYPE_CHECKING:
    from ptyint.backends.protocol import Backend, History, OnEpoch, Trainable
    from ptyint.backends.weights import Weights
    from ptyint.images.stitch import Stitched
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


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """What :func:`infer` returns; `backend` is the one that really ran.

    Attributes
    ----------
    object_patches : ndarray of complex64, (n_groups, C, N, N)
        In units of the scan's probe: ``|propagate(probe * patch)|**2`` are the expected counts. Each group's
        constant phase, which its patterns cannot tell, has been fixed by its neighbours.
    probe : ndarray of complex64, (modes, N, N)
        The model's probe, with the energy of the scan's (before the mask, where ``config.model.probe_mask``).
    stitched : Stitched
        The patches' centres placed by position, on the grid of the scan's object.
    positions_px : ndarray of float64, (n, 2)
        All positions on that grid; see :func:`object_grid`.
    """

    backend: str
    config: InferenceConfig
    weights: Weights
    object_patches: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    groups: Groups
    stitched: Stitched
    positions_px: NDArray[np.float64]
    seconds: float


def select_backend(config: TrainingConfig | InferenceConfig) -> Backend:
    """CONFIG-001, then POLICY-001: update `params.cfg`, then import the backend that `config` names.

    Raises
    ------
    UnknownBackendError
        ``config.backend`` is not a known name.
    BackendUnavailableError
        Its framework cannot be imported.
    """
    params.update_legacy_dict(params.cfg, config)
    return backends.load(config.backend)


def _with_weights(config: TrainingConfig | InferenceConfig) -> Trainable:
    """The selected backend, which must take and give canonical weights."""
    backend = select_backend(config)
    from ptyint.backends.protocol import takes_weights

    if not takes_weights(backend):
        raise BackendUnavailableError(
            f"Backend {config.backend!r} takes and gives no canonical weights (it declares "
            f"{sorted(backend.capabilities)}): compare it on the parity ladder, or select one of "
            f"{list(backends.BUILT_IN)} to train and infer."
        )
    return backend


def train(scan: Scan, config: TrainingConfig, on_epoch: OnEpoch | None = None) -> TrainingResult:
    """Train a model on a scan with the backend that `config` names.

    Parameters
    ----------
    scan : Scan
    config : TrainingConfig
        ``config.seed`` decides the groups, the initial weights and the order of the batches.
    on_epoch : callable, optional
        Called with each finished epoch.

    Returns
    -------
    TrainingResult

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`select_backend`.
    ConfigError
        The configuration does not fit the scan.
    """
    backend = _with_weights(config)
    from ptyint.backends.weights import initial_weights, weights_sha256
    from ptyint.scans.batches import GroupedScan

    data = GroupedScan.from_config(scan, config)
    weights = initial_weights(config.model, scan.probe, config.seed)
    digest = weights_sha256(weights)
    start = time.perf_counter()
    trained, history = backend.train(data, config, weights, on_epoch)
    return TrainingResult(backend.name, config, trained, digest, history, data.groups, time.perf_counter() - start)


def infer(scan: Scan, config: InferenceConfig, weights: Weights | None = None) -> InferenceResult:
    """Apply a trained model to a scan, bring its patches to a common phase and stitch them.

    Parameters
    ----------
    scan : Scan
    config : InferenceConfig
    weights : dict, optional
        Canonical weights. None: they are read from ``config.model_path``, whichever backend trained them.

    Returns
    -------
    InferenceResult

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`select_backend`.
    BundleError
        The bundle is damaged, or was made for another model.
    ConfigError
        Neither weights nor a bundle were given, or the configuration does not fit the scan.
    """
    backend = _with_weights(config)
    from ptyint.backends.bundle import load_bundle
    from ptyint.backends.weights import scan_units
    from ptyint.images.stitch import stitch, synchronise_phases
    from ptyint.scans.batches import GroupedScan
    from ptyint.scans.forward import probe_mask

    if weights is None:
        if config.model_path is None:
            raise ConfigError("model_path is None; give the bundle (wts.h5.zip) to infer with, or its weights.")
        weights = load_bundle(config.model_path, expected=config.model).weights
    data = GroupedScan.from_config(scan, config)
    start = time.perf_counter()
    patches = backend.infer(data, weights, config)
    seconds = time.perf_counter() - start
    factor, probe = scan_units(weights, scan.probe)
    if config.model.probe_mask:
        probe *= probe_mask(scan.N).astype(np.float32)
    patches *= np.float32(factor * np.sqrt(data.count_scale))
    shape, positions = object_grid(scan)
    flat, placed = patches.reshape(-1, scan.N, scan.N), positions[data.groups.indices].reshape(-1, 2)
    labels = np.repeat(np.arange(data.groups.n_groups), data.groups.n_channels)
    phases = synchronise_phases(flat, placed, shape, labels, M=config.M)
    flat *= np.exp(1j * phases[labels]).astype(np.complex64)[:, None, None]
    stitched = stitch(flat, placed, shape, M=config.M)
    return InferenceResult(backend.name, config, weights, patches, probe, data.groups, stitched, positions, seconds)


def object_grid(scan: Scan) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Shape (H, W) of the reconstruction and the positions (n, 2) on it.

    The grid of the scan's object where it has one. Else the positions' frame is arbitrary: the grid begins where the
    first patch does, and is as large as all patches need.
    """
    positions = scan.probe_positions_px
    if scan.object_ is not None:
        return (int(scan.object_.shape[0]), int(scan.object_.shape[1])), positions
    moved = positions - np.floor(positions.min(axis=0)) + scan.N // 2
    height, width = np.ceil(moved.max(axis=0)).astype(int) + scan.N // 2
    return (int(height), int(width)), moved
