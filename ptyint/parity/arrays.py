"""Arrays of red taps, kept for whoever explores a run: what was compared, as both sides had it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path

NAME = "red_taps.h5"
BUDGET = 64 * 2**20
"""Bytes in all, before compression; a tap that does not fit any more is left out."""


@dataclass(frozen=True, eq=False)
class RedTap:
    """One red tap: where, which sides, and their arrays; differences are candidate minus reference."""

    rung: str
    place: str
    side: str
    against: str
    candidate: NDArray[Any]
    reference: NDArray[Any]


_kept: ContextVar[list[RedTap] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping(kept: list[RedTap]) -> Iterator[None]:
    """While this is open, :func:`keep` adds to `kept`."""
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


def keep(tap: RedTap) -> None:
    """Keep the arrays of a red tap, if somebody asks for them and they fit."""
    kept = _kept.get()
    if kept is not None and sum(2 * one.candidate.nbytes for one in (*kept, tap)) <= BUDGET:
        kept.append(tap)


def save(path: Path, taps: list[RedTap]) -> None:
    """Write to compressed HDF5, whole or not at all."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for number, tap in enumerate(taps):
            group = file.create_group(f"{number:04}")
            for name, value in asdict(tap).items():
                if isinstance(value, str):
                    group.attrs[name] = value
                else:  # what has no shape cannot be compressed
                    group.create_dataset(name, data=np.atleast_1d(value), compression="gzip", shuffle=True)


def load(path: Path) -> list[RedTap]:
    """Read what :func:`save` wrote; nothing where there is no such file."""
    import h5py

    if not path.is_file():
        return []
    with h5py.File(path, "r") as file:
        return [RedTap(**{**group.attrs, **{name: np.array(group[name]) for name in group}}) for group in file.values()]
