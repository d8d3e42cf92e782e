"""One backend's answer to one scan: train, save, load, infer, assemble; arrays and facts in one HDF5 file."""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import backends, dispatcher
from ptyint._atomic import atomic_path, plain
from ptyint._glance import Glance
from ptyint.backends.weights import scan_units
from ptyint.config import TrainingConfig, to_mapping
from ptyint.errors import ScanError
from ptyint.images.gauge import bounding_box
from ptyint.images.stitch import Stitched, stitch_batches
from ptyint.scans.forward import probe_mask
from ptyint.scans.scan import Scan

NAME = "reconstruction.h5"

SHOWN = ("scan", "n_patterns", "n_groups", "ended", "training_seconds", "scan_sha256", "initial_weights_sha256")
"""Facts that a notebook shows at a glance."""

BEAM_REACH_PX = 5
"""How far beyond the outermost positions the beam, some 20 px wide, still lights the object well."""


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction(Glance):
    """What a backend made of a scan.

    Attributes
    ----------
    object_ : ndarray of complex64, (H, W)
        In units of the scan's probe.
    coverage : ndarray of float64, (H, W)
        How many patches saw each pixel.
    scanned : ndarray of bool, (H, W)
        Covered and in the :func:`scanned_region`: where it is fair to judge.
    probe, initial_probe : ndarray of complex64, (modes, N, N)
        As the model ended with it, and as the scan gave it.
    positions_px : ndarray of float64, (n, 2)
        ``(y, x)`` on the object's grid.
    losses, learning_rates, epoch_seconds : ndarray of float64, (epochs,)
        Of each epoch of the training.
    facts : dict
        Plain values: backend and its description, scan name and sha256, configuration, digests of groups and initial
        weights, why training ended, seconds, peak memory in bytes, pixel size in metres.
    ground_truth : ndarray of complex64, (H, W), optional
        The object that made the patterns, where it is known.

    Examples
    --------
    >>> import numpy as np, ptyint
    >>> object_, probe, epochs = np.ones((70, 70), np.complex64), np.ones((1, 64, 64), np.complex64), np.ones(3)
    >>> seen, positions = object_.real.astype(float), np.array([[32.0, 32.0], [38.0, 38.0]])
    >>> facts = {"backend": "pytorch"}
    >>> one = ptyint.Reconstruction(
    ...     object_, seen, seen > 0, probe, probe, positions, epochs, epochs, epochs, facts, ground_truth=object_
    ... )
    >>> one.backend
    'pytorch'
    """

    object_: NDArray[np.complexfloating]
    coverage: NDArray[np.float64]
    scanned: NDArray[np.bool_]
    probe: NDArray[np.complexfloating]
    initial_probe: NDArray[np.complexfloating]
    positions_px: NDArray[np.float64]
    losses: NDArray[np.float64]
    learning_rates: NDArray[np.float64]
    epoch_seconds: NDArray[np.float64]
    facts: dict[str, Any]
    ground_truth: NDArray[np.complexfloating] | None = None

    @property
    def backend(self) -> str:
        """Name of the backend that ran."""
        return str(self.facts["backend"])

    def _facts(self) -> dict[str, Any]:
        height, width = self.object_.shape
        own = {"pixels": f"{height} x {width}", "epochs": len(self.losses), "last loss": float(self.losses[-1])}
        return {"backend": self.backend, **own, **{name: self.facts.get(name, "-") for name in SHOWN}}

    def _thumbnails(self) -> dict[str, NDArray[Any]]:
        seen = bounding_box(self.scanned)
        return {"amplitude": abs(self.object_[seen]), "phase": self.object_[seen], "probe": abs(self.probe[0])}

    @property
    def costs(self) -> dict[str, float]:
        """Time in seconds, groups per second in the best epoch, memory in GiB."""
        best = float(self.epoch_seconds.min())
        return {
            "training_s": self.facts["training_seconds"],
            "first_epoch_s": float(self.epoch_seconds[0]),
            "best_epoch_s": best,
            "groups_per_s": self.facts["n_groups"] / best,
            "inference_s": self.facts["inference_seconds"],
            "peak_memory_gib": self.facts["peak_memory_bytes"] / 2**30,
        }

    @classmethod
    def of(
        cls, trained: dispatcher.TrainingResult, inferred: dispatcher.InferenceResult, assembled: Assembled
    ) -> Reconstruction:
        """Put together what training, inference and assembly gave."""
        scan, history = inferred.data.scan, trained.history
        return cls(
            object_=assembled.object_.astype(np.complex64),
            coverage=assembled.coverage,
            scanned=assembled.covered & scanned_region(assembled.positions_px, assembled.covered.shape),
            probe=assembled.probe,
            initial_probe=scan.probe,
            positions_px=assembled.positions_px,
            losses=history.losses,
            learning_rates=np.array([epoch.learning_rate for epoch in history.epochs]),
            epoch_seconds=np.array([epoch.seconds for epoch in history.epochs]),
            facts=facts_of(
                scan,
                trained.config,
                inferred.config.M,
                n_groups=trained.groups.n_groups,
                groups_sha256=trained.groups.sha256(),
                initial_weights_sha256=trained.initial_weights_sha256,
                ended=history.ended,
                training_seconds=trained.seconds,
                inference_seconds=inferred.seconds,
            ),
            ground_truth=scan.object_ if scan.object_is_truth else None,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an HDF5 file, whole or not at all; a folder gets ``reconstruction.h5``."""
        import h5py

        target = Path(path) / NAME if Path(path).is_dir() else Path(path)
        with atomic_path(target) as temporary, h5py.File(temporary, "w") as file:
            for field in fields(self):
                value = getattr(self, field.name)
                if isinstance(value, np.ndarray):
                    file.create_dataset(field.name, data=value, compression="gzip", shuffle=True, track_times=False)
            file.attrs["facts"] = json.dumps(self.facts)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reconstruction:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
            The file, or the folder that holds ``reconstruction.h5``.

        Raises
        ------
        ScanError
            The file does not exist, cannot be read, or lacks an array.

        Examples
        --------
        >>> import ptyint
        >>> try:
        ...     ptyint.Reconstruction.load("nowhere.h5")
        ... except ptyint.ScanError as error:
        ...     print(str(error).partition(":")[0])
        nowhere.h5 is not a readable reconstruction
        """
        import h5py

        source = Path(path) / NAME if Path(path).is_dir() else Path(path)
        try:
            with h5py.File(plain(source), "r") as file:
                names = [field.name for field in fields(cls) if field.name != "facts"]
                arrays = {name: np.array(file[name]) for name in names if name in file}
                return cls(**arrays, facts=json.loads(str(file.attrs["facts"])))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ScanError(
                f"{source} is not a readable reconstruction: {error}. Run the reconstruction again."
            ) from error


@dataclass(frozen=True, eq=False)
class Assembled(Stitched):
    """The object that :func:`assemble` makes of an inference, on the grid of :func:`object_grid`, and its parts.

    Attributes
    ----------
    probe : ndarray of complex64, (modes, N, N)
        The model's probe, with the energy of the scan's (before the mask, where ``config.model.probe_mask``).
    positions_px : ndarray of float64, (n, 2)
        All positions on the object's grid.
    turns : ndarray of complex64, (n_groups,)
        What each group's patches, in the network's units, were multiplied by: into the scan's units, and by the
        constant phase which its patterns cannot tell, and its neighbours can.
    inferred : InferenceResult
        What it was made of.
    """

    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]
    turns: NDArray[np.complex64]
    inferred: dispatcher.InferenceResult

    @property
    def object_patches(self) -> NDArray[np.complex64]:
        """(n_groups, C, N, N) in units of the scan's probe: ``|propagate(probe * patch)|**2`` are the expected counts.

        A ConfigError where the inference did not keep them.
        """
        return self.inferred.network_patches * self.turns[:, None, None, None]


def assemble(inferred: dispatcher.InferenceResult, folder: Path | None = None) -> Assembled:
    """Bring what a network predicted to the scan's units and to a common phase; place the patches' centres.

    Parameters
    ----------
    inferred : InferenceResult
        What :func:`ptyint.infer` returned; ``config.M`` is the edge of each centre in pixels.
    folder : Path, optional
        Where the centres wait for their phases, in a nameless file. None: where temporary files go.

    Returns
    -------
    Assembled
        The object, on the grid of the scan's object, with the patches that it was made of.

    Examples
    --------
    >>> import ptyint
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1), nepochs=1, backend="pytorch")
    >>> trained = ptyint.train(scan, config)
    >>> image = ptyint.assemble(ptyint.infer(scan, config.applied(M=20), trained.weights))
    >>> image.object_.shape == scan.object_.shape, image.object_.dtype
    (True, dtype('complex64'))
    >>> bool((image.object_[~image.covered] == 0).all())
    True
    """
    scan, groups, model = inferred.data.scan, inferred.data.groups, inferred.config.model
    factor, probe = scan_units(inferred.weights, scan.probe)
    if model.probe_mask:
        probe *= probe_mask(scan.N).astype(np.float32)
    scale = np.float32(factor * np.sqrt(inferred.data.count_scale))
    shape, positions = object_grid(scan)
    batches = (scale * batch.reshape(-1, scan.N, scan.N) for batch in inferred.batches)
    labels = np.repeat(np.arange(groups.n_groups), groups.n_channels)
    stitched, phases = stitch_batches(
        batches, positions[groups.indices].reshape(-1, 2), shape, labels, folder, M=inferred.config.M
    )
    turns = (scale * np.exp(1j * phases)).astype(np.complex64)
    return Assembled(stitched.object_, stitched.coverage, probe, positions, turns, inferred)


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


def facts_of(scan: Scan, config: TrainingConfig, M: int, **own: Any) -> dict[str, Any]:
    """What is known of any reconstruction, and `own`, which is known of this one."""
    return {
        "backend": config.backend,
        "description": backends.load(config.backend).describe(),
        "scan": scan.name,
        "scan_sha256": scan.sha256,
        "n_patterns": scan.n,
        "config": to_mapping(config),
        "M": M,
        "peak_memory_bytes": peak_memory_bytes(),
        "pixel_size_m": scan.pixel_size_m,
        **own,
    }


def scanned_region(positions_px: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels (H, W) inside the convex hull of the positions (n, 2), widened by `BEAM_REACH_PX`."""
    from scipy.spatial import ConvexHull
    from skimage.draw import polygon2mask

    corners = BEAM_REACH_PX * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    points = (positions_px[:, None] + corners).reshape(-1, 2)
    return np.asarray(polygon2mask(shape, points[ConvexHull(points).vertices]))


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
