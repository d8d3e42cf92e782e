"""The named values of one file, as every reader asks for them.

What is missing or odd is a :class:`~ptyint.errors.ScanError`: file, field, what was found, what is allowed, what to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ScanError

Place = str | tuple[str, ...]
"""Where a field is: its name, or all its spellings, the preferred one first."""

Shape = tuple[int | str, ...]
"""A number is that size; a letter is any, and the same wherever it stands."""

KINDS: dict[str, set[Any]] = {
    "real": {"i", "u", "f"},
    "flag": {"i", "u", "f", "b"},
    "complex": {"c"},
    "complex64 (DATA-001)": {np.dtype(np.complex64)},
}
"""What a field may be, and the dtypes or kinds of dtype that are."""


def fits(found: tuple[int, ...], shape: Shape) -> bool:
    """Whether an array of shape `found` is of that shape."""
    sizes = dict(zip(shape, found, strict=False)) | {size: size for size in shape if isinstance(size, int)}
    return tuple(sizes.get(size) for size in shape) == found


def layout(shape: Shape) -> str:
    """``(modes, 64, 64)``."""
    return str(shape).replace("'", "")


class Fields(ABC):
    """The fields of one file; `notes` collects what was found and decided while they were read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []

    @abstractmethod
    def names(self) -> list[str]:
        """What the file holds, for messages."""

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    @abstractmethod
    def stored(self, name: str) -> Any:
        """A field that is there: an array, or what gives one when it is sliced."""

    def refusal(self, text: str) -> ScanError:
        """An error about this file."""
        return ScanError(f"{self.path}: {text}")

    def spellings(self, place: Place) -> list[str]:
        """Those names of a field that the file has; a ScanError if it has none."""
        names = [place] if isinstance(place, str) else place
        present = [name for name in names if name in self]
        if not present:
            raise self.refusal(f"{' or '.join(names)} is missing; the file holds {self.names()}. Add it.")
        return present

    def array(self, place: Place, kind: str, *shapes: Shape, remedy: str = "Correct it.") -> NDArray[Any]:
        """A field's values: of one of the `KINDS`, and of one of the `shapes` if any are given."""
        name = self.spellings(place)[0]
        field = self.stored(name)
        shaped = not shapes or any(fits(field.shape, shape) for shape in shapes)
        if not (shaped and KINDS[kind] & {field.dtype, field.dtype.kind}):
            allowed = " or ".join(map(layout, shapes)) or "any shape"
            raise self.refusal(f"{name} is {field.dtype} {field.shape}; allowed: {kind}, {allowed}. {remedy}")
        return np.asarray(field[()])

    def columns(self, first: str, second: str) -> NDArray[np.float64]:
        """Two fields (n,) side by side, (n, 2)."""
        one = self.array(first, "real", ("n",), remedy="Flatten it.")
        other = self.array(second, "real", one.shape, remedy=f"Give as many as {first}.")
        return np.stack([one, other], axis=1).astype(np.float64)

    def number(self, place: Place) -> float:
        """A field that holds one finite number."""
        name = self.spellings(place)[0]
        value = np.asarray(self.stored(name)[()])
        if value.size != 1 or value.dtype.kind not in KINDS["real"] or not np.isfinite(value).all():
            raise self.refusal(f"{name} is {value.tolist()!r}; allowed: one finite number. Correct it.")
        return float(value.reshape(()))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A field that holds True or False, and need not be there."""
        return bool(self.array(name, "flag", (), (1,))) if name in self else default

    def good_pixels(self, name: str) -> NDArray[np.bool_] | None:
        """Where a mask of bad pixels, which need not be there, is zero; None if no pixel is bad."""
        bad = self.array(name, "flag") != 0 if name in self else np.zeros((), np.bool_)
        return ~bad if bad.any() else None

    def square_pixel(self, width: str, height: str) -> float:
        """Edge of a pixel in metres, of which the file holds both; positive, and square within 1e-6."""
        edge, other = self.number(width), self.number(height)
        if not (edge > 0 and abs(other / edge - 1) < 1e-6):
            raise self.refusal(
                f"{width} is {edge} and {height} {other}; allowed: positive and equal. Resample or correct them."
            )
        return edge
