"""The whole way from a scan to its object: by this package's verbs, or by a backend's own workflow.

A backend that has the capability ``workflow`` trains, saves, loads, infers and stitches by functions of its own. What
it stitches is laid on the scan's grid here and brought to the scan's units, so that it can be held against any other.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint._atomic import atomic_path
from ptyint.backends import bundle
from ptyint.backends.checkpoint import Checkpoint
from ptyint.backends.protocol import Arrays, Epoch, OnEpoch, Workflow
from ptyint.config import TrainingConfig, legacy_values
from ptyint.errors import BackendUnavailableError, ConfigError
from ptyint.images.gauge import bounding_box
from ptyint.images.reconstruction import (
    Reconstruction,
    assemble,
    facts_of,
    object_grid,
    peak_memory_bytes,
    scanned_region,
)
from ptyint.scans.batches import GroupedScan
from ptyint.scans.files import write_scan
from ptyint.scans.scan import Scan, validate_scan

PREVIEW = "preview.png"
OWN = ("backend", "output_prefix")
"""Legacy keys that say who works, and where."""


def reconstruct(
    scan: Scan,
    config: TrainingConfig,
    folder: str | os.PathLike[str],
    *,
    M: int = 20,
    on_epoch: OnEpoch | None = None,
    checkpoint_minutes: float | None = None,
) -> Reconstruction:
    """Train, save the bundle, load it, infer, assemble; write bundle and reconstruction into `folder`.

    Where `folder` holds the checkpoint of a training that was killed, that one goes on, to the same weights.

    Parameters
    ----------
    scan : Scan
        Checked by :func:`ptyint.validate_scan` first.
    config : TrainingConfig
        ``config.backend`` says who does it: with this package's groups, initial weights and batches; or, where it
        takes no weights, by its own workflow.
    folder : path-like
        Gets ``wts.h5.zip``, or what the backend's own workflow saves, and ``reconstruction.h5``; made if need be.
    M : int
        Edge of each patch's centre that is stitched, in pixels.
    on_epoch : callable, optional
        Called with each finished epoch; a backend's own workflow does not tell them.
    checkpoint_minutes : float, optional
        How often the state of the training is written to ``training.checkpoint`` in `folder`; it is removed at the end.
        None: never. A backend's own workflow keeps none.

    Returns
    -------
    Reconstruction
        What was written as ``reconstruction.h5``.

    Raises
    ------
    PtyintError
        The scan breaks the data contract; or see :func:`ptyint.dispatcher.train` and :func:`ptyint.dispatcher.infer`.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1), nepochs=1, backend="pytorch")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = ptyint.reconstruct(ptyint.load_fixture("tiny-64"), config, folder)
    ...     again = ptyint.Reconstruction.load(folder)
    >>> again.backend, again.losses.shape, bool((again.object_ == made.object_).all())
    ('pytorch', (1,), True)
    """
    validate_scan(scan)
    directory = Path(folder)
    directory.mkdir(parents=True, exist_ok=True)
    if "weights" not in dispatcher.select_backend(config).capabilities:
        if checkpoint_minutes is not None:
            raise ConfigError(f"Backend {config.backend!r} trains by its own workflow, which keeps no checkpoint.")
        run(scan, config, directory, M)
        return reload(scan, config, directory, M)
    checkpoint = Checkpoint(directory, checkpoint_minutes)
    trained = dispatcher.train(scan, config, on_epoch, checkpoint)
    path = bundle.save_bundle(directory, trained.weights, config, trained.backend, trained.history.losses)
    inferred = dispatcher.infer(scan, config.applied(model_path=path, M=M, output_dir=directory), keep=False)
    result = Reconstruction.of(trained, inferred, assemble(inferred, directory))
    result.save(directory)
    checkpoint.remove()
    return result


def preview(scan: Scan, config: TrainingConfig, checkpoint: Checkpoint, every: int, M: int) -> OnEpoch:
    """What :func:`ptyint.train` calls with each epoch; every so many write ``preview.png`` beside the checkpoint.

    Amplitude, its brightest pixels clipped, and phase. A network of its own makes it: the training's numbers stay.
    """
    from matplotlib.image import imsave

    def look(epoch: Epoch) -> None:
        if epoch.number % every == 0:
            image = assemble(dispatcher.infer(scan, config.applied(M=M), checkpoint.weights, keep=False))
            object_ = image.object_[bounding_box(image.covered)]
            amplitude = abs(object_) / np.percentile(abs(object_), 99.5)
            phase = np.angle(object_ * np.exp(-1j * np.angle(object_.sum()))) / (2 * np.pi) + 0.5
            with atomic_path(checkpoint.path.with_name(PREVIEW)) as temporary:
                imsave(temporary, np.hstack([amplitude, phase]), cmap="gray", vmin=0, vmax=1)

    return look


def run(scan: Scan, config: TrainingConfig, folder: str | os.PathLike[str], M: int = 20) -> Reconstruction:
    """Let a backend train, save, infer and stitch by its own workflow; what it saved stays in `folder`.

    Parameters
    ----------
    scan : Scan
        Given to the backend as an NPZ. Without ``config.nphotons`` it is told the mean counts that were measured,
        without ``config.n_groups`` to make as many groups as there are patterns, as here.
    config : TrainingConfig
        ``config.backend`` has the capability ``workflow``.
    folder : path-like
        Gets ``reconstruction.h5`` as well.
    M : int
        Edge of each patch's centre that is stitched, in pixels.

    Raises
    ------
    BackendUnavailableError
        The backend cannot be imported, or has no workflow of its own.
    """
    begin = time.perf_counter()
    data = GroupedScan.from_config(scan, config)
    backend, arrays = _called("run", data, config, Path(folder), M)
    losses = np.asarray(arrays["losses"], np.float64)
    unknown = np.full(len(losses), np.nan)
    ratio = float(np.linalg.norm(arrays["probe"]) / np.linalg.norm(scan.probe))
    facts = facts_of(
        scan,
        config,
        M,
        n_groups=len(arrays["patches"]),
        groups_sha256=None,
        initial_weights_sha256=None,
        not_taken=_not_taken(backend, config),
        ended="by its own workflow",
        training_seconds=time.perf_counter() - begin,
        inference_seconds=np.nan,
        scale=ratio * np.sqrt(data.count_scale),
    )
    result = Reconstruction(
        **_laid(scan, arrays, facts["scale"]),
        probe=np.reshape(arrays["probe"] / ratio, (-1, scan.N, scan.N)).astype(np.complex64),
        initial_probe=scan.probe,
        losses=losses,
        learning_rates=unknown,
        epoch_seconds=unknown,
        facts=facts,
        ground_truth=scan.object_ if scan.object_is_truth else None,
    )
    result.save(folder)
    return result


def reload(scan: Scan, config: TrainingConfig, folder: str | os.PathLike[str], M: int = 20) -> Reconstruction:
    """Load what :func:`run` saved into `folder`, infer and stitch; ``reconstruction.h5`` is written anew.

    Parameters are those of :func:`run`; losses and costs of the training stay what they were.
    """
    begin, trained = time.perf_counter(), Reconstruction.load(folder)
    _, arrays = _called("reload", GroupedScan.from_config(scan, config), config, Path(folder), M)
    costs = {"inference_seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory_bytes()}
    result = replace(trained, **_laid(scan, arrays, trained.facts["scale"]), facts={**trained.facts, **costs})
    result.save(folder)
    return result


def _called(what: str, data: GroupedScan, config: TrainingConfig, folder: Path, M: int) -> tuple[Workflow, Arrays]:
    """The backend, and the arrays that its workflow gives; the scan as it reads it is there only while it does."""
    backend = dispatcher.select_backend(config)
    if "workflow" not in backend.capabilities:
        raise BackendUnavailableError(
            f"Backend {config.backend!r} neither takes canonical weights nor has a workflow of its own (it declares "
            f"{sorted(backend.capabilities)}): it cannot reconstruct."
        )
    workflow, directory = cast(Workflow, backend), folder.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    given = replace(config, nphotons=data.mean_total_counts, n_groups=data.groups.n_groups)
    with tempfile.TemporaryDirectory(prefix=".scan-", dir=directory) as scratch:
        write_scan(data.scan, path := Path(scratch, "scan.npz"))
        return workflow, getattr(workflow, what)(path, given, directory, M)


def _not_taken(backend: Workflow, config: TrainingConfig) -> list[str]:
    """Settings, by their legacy names, that the backend's own gate does not hold as they were asked."""
    asked, held = legacy_values(config), backend.configure(config)
    return [name for name, value in asked.items() if value is not None and held.get(name) != value and name not in OWN]


def _laid(scan: Scan, arrays: Arrays, scale: float) -> dict[str, NDArray[Any]]:
    """A canvas (h, w), whose middle pixel ``[h // 2, w // 2]`` lies at ``centre_px``, on the scan's grid.

    It is laid to the nearest pixel: the fraction that is left is a shift, which no pattern knows of.
    """
    shape, positions = object_grid(scan)
    canvas = np.asarray(arrays["stitched"])
    centre = np.asarray(arrays["centre_px"]) + positions[0] - scan.probe_positions_px[0]
    first = np.rint(centre).astype(int) - np.array(canvas.shape) // 2
    object_ = np.zeros(shape, np.complex64)
    (top, left), (bottom, right) = (np.clip(edge, 0, shape) for edge in (first, first + canvas.shape))
    y, x = first
    object_[top:bottom, left:right] = scale * canvas[top - y : bottom - y, left - x : right - x]
    covered = object_ != 0
    scanned = covered & scanned_region(positions, shape)
    return {"object_": object_, "coverage": covered.astype(float), "scanned": scanned, "positions_px": positions}
