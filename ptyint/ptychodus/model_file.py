"""A model that a backend's own workflow saved: its folder in one file, with a manifest that names the backend.

What is in the folder is the backend's. PtychoPINN pickles, and a pickle can run code when it is read: load such a file
only from somebody whom you would let run a program.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptyint._atomic import atomic_path, plain
from ptyint.backends.bundle import ADVICE, LIMITS, MANIFEST
from ptyint.config import TrainingConfig, from_mapping, to_mapping
from ptyint.errors import BundleError
from ptyint.ptychodus.settings import algorithm_of

FORMAT, VERSION = "ptyint-workflow", 1
FOLDER = "model"


def pack(folder: Path, target: Path, config: TrainingConfig) -> None:
    """Write `target`, whole or not at all: the manifest, and every file of `folder`."""
    manifest = {"format": FORMAT, "version": VERSION, "backend": config.backend, "config": to_mapping(config)}
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=2))
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(FOLDER, path.relative_to(folder)))


def is_packed(path: Path) -> bool:
    """Whether :func:`pack` wrote it; of anything else :func:`ptyint.backends.bundle.load_bundle` says what is wrong."""
    try:
        with zipfile.ZipFile(plain(path)) as archive, archive.open(MANIFEST) as file:
            return bool(json.loads(file.read(LIMITS[MANIFEST]))["format"] == FORMAT)
    except Exception:  # zipfile has no one error of its own
        return False


@contextmanager
def unpacked(path: Path, backend: str) -> Iterator[tuple[Path, TrainingConfig]]:
    """The folder that was packed, for a while, and the configuration of the training.

    Raises
    ------
    BundleError
        It is damaged, of another version, or was made by another backend than the one that is to load it.
    """
    with tempfile.TemporaryDirectory(prefix="ptyint-") as scratch:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(scratch)
            manifest = json.loads(Path(scratch, MANIFEST).read_text(encoding="utf-8"))
            version, maker = manifest["version"], str(manifest["backend"])
            config = from_mapping(TrainingConfig, manifest["config"])
        except Exception as error:
            raise BundleError(f"{path} is not a readable model: {error}. {ADVICE}") from error
        if version != VERSION:
            raise BundleError(f"{path} is of version {version}; this package reads {VERSION}. {ADVICE}")
        if maker != backend:
            raise refusal(path, maker, backend)
        yield Path(scratch, FOLDER), config


def refusal(path: Path, maker: str, backend: str) -> BundleError:
    """What is said where a backend is given a model that only another can load."""
    return BundleError(
        f"{path} was made by {maker!r}, and {backend!r} cannot load it. Choose Algorithm = {algorithm_of(maker)}, or "
        f"train a model with {algorithm_of(backend)}."
    )
