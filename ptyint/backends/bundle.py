"""The model bundle ``wts.h5.zip``: a JSON manifest and HDF5 weights, no pickle.

Members: ``manifest.json`` (format, version, backend that trained, configuration, package versions, losses, sha256 of
the weights) and ``weights.h5`` (one float32 dataset per canonical weight). A bundle trained by one backend loads in the
other. Reading trusts nothing: members are read by name and never extracted to disk, sizes are bounded, the hash,
the names, the shapes and the values are checked.
"""

import hashlib
import io
import json
import math
import os
import platform
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path, plain
from ptyint._glance import Glance
from ptyint.backends import version
from ptyint.backends.weights import Weights, weight_shapes
from ptyint.config import ModelConfig, TrainingConfig, from_mapping, to_mapping
from ptyint.errors import BundleError

NAME = "wts.h5.zip"
FORMAT, VERSION = "ptyint-bundle", 1
MANIFEST, WEIGHTS = "manifest.json", "weights.h5"
LIMITS = {MANIFEST: 2**20, WEIGHTS: 2**31}
"""Uncompressed bytes that a member may have at the most."""

MOST_MODES = 64
"""Of the probe, for which there is room in the weights."""

DATASET_ROOM, FILE_ROOM = 2**12, 2**16
"""Bytes that HDF5 may need around the numbers, for each weight and for the whole."""

ADVICE = "Train and save the model again, or give another bundle."


@dataclass(frozen=True, eq=False, repr=False)
class Bundle(Glance):
    """A model read back: its weights, the configuration that trained it, and the whole manifest."""

    weights: Weights
    config: TrainingConfig
    manifest: dict[str, Any]

    def _facts(self) -> dict[str, Any]:
        size = sum(weight.size for weight in self.weights.values())
        facts = {"backend": self.manifest["backend"], "weights": size, "epochs": len(self.losses)}
        return {**facts, "config": self.config, "versions": self.manifest.get("versions", "-")}

    @property
    def losses(self) -> list[float]:
        """Training loss of each epoch; empty where the bundle was saved without."""
        return [float(loss) for loss in self.manifest.get("losses", [])]


def _refused(source: Path, reason: str) -> BundleError:
    return BundleError(f"{source}: {reason}. {ADVICE}")


def _versions() -> dict[str, str]:
    packages = {package: version(package) for package in ("ptyint", "numpy", "h5py", "tensorflow", "torch")}
    installed = {package: found for package, found in packages.items() if found != "unknown"}
    return {"python": platform.python_version(), **installed}


def save_bundle(
    path: str | os.PathLike[str],
    weights: Weights,
    config: TrainingConfig,
    backend: str,
    losses: Sequence[float] | NDArray[np.float64] = (),
) -> Path:
    """Write a bundle; whole or not at all.

    Parameters
    ----------
    path : path-like
        A file, or an existing folder, which then gets ``wts.h5.zip``.
    weights : dict of ndarray
        Canonical weights; stored as float32.
    config : TrainingConfig
        What the weights were trained with.
    backend : str
        Name of the backend that trained them.
    losses : sequence of float
        Training loss of each epoch.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    BundleError
        The weights do not fit the configuration, or they or the losses are not finite.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> from ptyint.backends.weights import initial_weights
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1))
    >>> weights = initial_weights(config.model, ptyint.load_fixture("tiny-64").probe, config.seed)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ptyint.save_bundle(folder, weights, config, "pytorch", losses=[2.0, 1.5]).name
    'wts.h5.zip'
    """
    target = Path(path) / NAME if Path(path).is_dir() else Path(path)
    _check_shapes({name: array.shape for name, array in weights.items()}, config.model, target)
    _check_finite({**weights, "losses": np.asarray(losses)}, target)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in weights.items():
            file.create_dataset(name, data=np.asarray(array, np.float32), track_times=False)
    payload = buffer.getvalue()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "backend": backend,
        "config": to_mapping(config),
        "versions": _versions(),
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        "losses": [float(loss) for loss in losses],
    }
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=2))
        archive.writestr(WEIGHTS, payload)
    return target


def load_bundle(path: str | os.PathLike[str], expected: ModelConfig | None = None) -> Bundle:
    """Read a bundle and check everything about it.

    Parameters
    ----------
    path : path-like
        The file, or the folder that holds ``wts.h5.zip``.
    expected : ModelConfig, optional
        The architecture that the caller is going to build.

    Returns
    -------
    Bundle
        Weights, configuration, losses, and the backend that trained them.

    Raises
    ------
    BundleError
        No such file; not a zip archive, truncated or corrupt; members missing, foreign or oversized; a hash that
        does not hold; a weight missing, unknown, misshapen or not finite; another architecture than `expected`.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> from ptyint.backends.weights import initial_weights
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1))
    >>> weights = initial_weights(config.model, ptyint.load_fixture("tiny-64").probe, config.seed)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ptyint.save_bundle(folder, weights, config, "pytorch", losses=[2.0, 1.5])
    ...     loaded = ptyint.load_bundle(path, expected=config.model)
    >>> loaded.losses, len(loaded.weights) == len(weights)
    ([2.0, 1.5], True)
    """
    source = Path(path) / NAME if Path(path).is_dir() else Path(path)
    with _refusals(source, "not a readable bundle"), zipfile.ZipFile(plain(source)) as archive:
        names = sorted(info.filename for info in archive.infolist())
        if names != sorted(LIMITS):
            raise BundleError(f"{source} holds {names}; a bundle holds exactly {sorted(LIMITS)}. {ADVICE}")
        manifest = _parse_manifest(_unpacked(archive, MANIFEST, LIMITS[MANIFEST], source), source)
        with _refusals(source, f"the configuration in {MANIFEST} is not valid"):
            config = from_mapping(TrainingConfig, manifest["config"])
        payload = _unpacked(archive, WEIGHTS, _most_bytes(config.model), source)
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest["weights_sha256"]:
        raise _refused(source, f"{WEIGHTS} has sha256 {digest}, the manifest says {manifest['weights_sha256']}")
    if expected is not None and expected != config.model:
        raise BundleError(
            f"{source} holds a model with {config.model}, but {expected} was asked for; "
            "set the model configuration to that of the bundle."
        )
    return Bundle(_read_weights(payload, config.model, source), config, manifest)


@contextmanager
def _refusals(source: Path, what: str) -> Iterator[None]:
    """What a library raises over what it cannot read is a BundleError that says `what`."""
    try:
        yield
    except BundleError:
        raise
    except FileNotFoundError as error:
        raise BundleError(f"No model bundle at {source}. Train a model first, or give the path to one.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _refused(source, f"{what}: {error}") from error


def _unpacked(archive: zipfile.ZipFile, name: str, limit: int, source: Path) -> bytes:
    """A member of at most `limit` bytes."""
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise _refused(source, f"{name} would unpack to {info.file_size} bytes; allowed are {limit}")
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise _refused(source, f"{name} is packed by method {info.compress_type}, not 8")
    with archive.open(info) as file:  # archive.read would unpack more than the declared size
        return file.read(info.file_size)


def _most_bytes(config: ModelConfig) -> int:
    """What the weights of a model may take as an HDF5 file."""
    shapes = weight_shapes(config, MOST_MODES).values()
    return min(LIMITS[WEIGHTS], FILE_ROOM + sum(4 * math.prod(shape) + DATASET_ROOM for shape in shapes))


def _parse_manifest(raw: bytes, source: Path) -> dict[str, Any]:
    with _refusals(source, f"{MANIFEST} is not JSON"):
        manifest = json.loads(raw)
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else manifest
    if found != (FORMAT, VERSION):
        raise _refused(source, f"{MANIFEST} declares {found}; this package reads {(FORMAT, VERSION)}")
    kinds = {"backend": str, "config": dict, "weights_sha256": str, "versions": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    losses = manifest.get("losses", [])  # bundles of earlier versions have none
    if not isinstance(losses, list) or not all(isinstance(loss, float) and math.isfinite(loss) for loss in losses):
        wrong.append("losses")
    if wrong:
        raise _refused(source, f"{MANIFEST} lacks {wrong}, or holds them in a wrong type, or NaN or Inf")
    return dict(manifest)


def _read_weights(payload: bytes, config: ModelConfig, source: Path) -> Weights:
    """Names, shapes and total size are checked before a number is read: a few bytes of HDF5 may declare terabytes."""
    with _refusals(source, f"{WEIGHTS} is not a readable HDF5 file"), h5py.File(io.BytesIO(payload), "r") as file:
        items = {name: _plain_dataset(file, name, source) for name in file}
        _check_shapes({name: item.shape for name, item in items.items()}, config, source)
        size = sum(item.nbytes for item in items.values())
        if size > len(payload):
            raise _refused(source, f"{WEIGHTS} has {len(payload)} bytes, but declares {size}")
        weights = {name: np.asarray(item[()]) for name, item in items.items()}
    _check_finite(weights, source)
    return weights


def _plain_dataset(file: Any, name: str, source: Path) -> Any:
    """The float32 dataset `name`, stored in the file itself."""
    item: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    plain = isinstance(item, h5py.Dataset) and item.dtype == np.float32 and item.shape is not None
    if not plain or item.external or item.is_virtual:
        raise _refused(source, f"{name!r} in {WEIGHTS} is not a plain float32 dataset")
    return item


def _check_shapes(found: Mapping[str, tuple[int, ...]], config: ModelConfig, source: Path) -> None:
    probe = found.get("probe.real", ())
    if len(probe) != 3 or probe[0] < 1:
        raise _refused(source, "the weight 'probe.real' is missing or not (modes, N, N)")
    shapes = weight_shapes(config, probe[0])
    missing, unknown = sorted(set(shapes) - set(found)), sorted(set(found) - set(shapes))
    if missing or unknown:
        raise _refused(source, f"weights missing: {missing}; weights unknown to {config}: {unknown}")
    for name, shape in shapes.items():
        if found[name] != shape:
            raise _refused(source, f"weight {name!r} has shape {found[name]}; needs {shape}")


def _check_finite(weights: Weights, source: Path) -> None:
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise _refused(source, f"{name!r} holds NaN or Inf")
