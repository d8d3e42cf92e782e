"""A model that a backend's own workflow saved, in one file: its folder, and the configuration that names the backend.

What is in the folder is the backend's. PtychoPINN pickles, and a pickle can run code when it is read: load such a file
only from somebody whose programs you would run.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptyint._atomic import atomic_path, write_text
from ptyint.backends.bundle import ADVICE
from ptyint.config import TrainingConfig, from_mapping, to_mapping
from ptyint.errors import BundleError
from ptyint.ptychodus.settings import algorithm_of

MANIFEST = "ptyint.json"
"""The configuration of the training; its line ``backend`` says who made the model, and who alone can load it."""

MOST_PACKED = 100
"""A file that unpacks to more than this many times its own size is refused before; trained weights hardly pack."""


def pack(folder: Path, target: Path, config: TrainingConfig) -> None:
    """Write `target`, whole or not at all, from all that is in `folder`, which gets the manifest."""
    write_text(folder / MANIFEST, json.dumps(to_mapping(config), indent=2))
    with atomic_path(target) as temporary:
        shutil.make_archive(str(temporary.with_suffix("")), "zip", folder)


def is_packed(path: Path) -> bool:
    """Whether it is such a file; of any other :func:`ptyint.backends.bundle.load_bundle` says what is wrong."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()
    return False


@contextmanager
def unpacked(path: Path, backend: str) -> Iterator[tuple[Path, TrainingConfig]]:
    """The folder, for a while, and the configuration of the training.

    Raises
    ------
    BundleError
        It is damaged, unpacks to more than `MOST_PACKED` allows, or another backend made it than is to load it.
    """
    with tempfile.TemporaryDirectory(prefix="ptyint-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                size, held = sum(member.file_size for member in archive.infolist()), path.stat().st_size
            if size > MOST_PACKED * held:
                raise ValueError(f"it unpacks to {size} bytes from {held}; allowed: {MOST_PACKED} times as many")
            shutil.unpack_archive(path, folder, "zip")
            trained = from_mapping(TrainingConfig, json.loads(Path(folder, MANIFEST).read_text(encoding="utf-8")))
        except Exception as error:  # zipfile has no one error of its own
            raise BundleError(f"{path} is not a readable model: {error}. {ADVICE}") from error
        if trained.backend != backend:
            raise refusal(path, trained.backend, backend)
        yield Path(folder), trained


def refusal(path: Path, maker: str, backend: str) -> BundleError:
    """What is said where a backend is given a model that only another can load."""
    return BundleError(
        f"{path} was made by {maker!r}, and {backend!r} cannot load it. Choose Algorithm = {algorithm_of(maker)}, or "
        f"train a model with {algorithm_of(backend)}."
    )
