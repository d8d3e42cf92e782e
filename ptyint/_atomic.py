"""Files: written whole or not at all, and where those are that travel with the package."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike

PACKAGE = Path(__file__).resolve().parent
_SHIPPED = PACKAGE / "shipped"  # in a wheel only: pyproject.toml says what is copied there


def checkout() -> Path | None:
    """The root of the checkout that this package is imported from; None for an installed wheel."""
    return None if _SHIPPED.is_dir() else PACKAGE.parent


def shipped(kind: str = "") -> Path:
    """Where ``notebooks``, ``datasets``, ``tests``, ``benchmarks`` are: in the checkout, or in the wheel; '' is all."""
    return (checkout() or _SHIPPED) / kind


SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
SPECIAL |= {stat.S_IFLNK: "a link"}


def special(path: str | os.PathLike[str], *, follow: bool = False) -> str:
    """What a path is that is neither file nor folder; empty for these, and where nothing can be found out."""
    try:
        return SPECIAL.get(stat.S_IFMT(os.stat(path, follow_symlinks=follow).st_mode), "")
    except (OSError, ValueError):  # whoever reads it says so
        return ""


def plain(path: str | os.PathLike[str]) -> Path:
    """The path; an OSError where it is neither file nor folder, and reading from it may never end."""
    if kind := special(path, follow=True):
        raise OSError(f"{path} is {kind}; allowed: a file")
    return Path(path)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of its suffix; on success it replaces `path`, on failure it is removed."""
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{uuid4().hex}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text in UTF-8, whole or not at all; the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, ArrayLike], *, compressed: bool = False) -> None:
    """Write an NPZ of these arrays and nothing else; what only pickle could hold is a ValueError."""
    values: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    pickled = [name for name, value in values.items() if value.dtype.hasobject]
    if pickled:
        raise ValueError(f"{path}: {pickled} hold Python objects; allowed: numbers, flags and text. Convert them.")
    save = np.savez_compressed if compressed else np.savez
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        save(file, **values)
