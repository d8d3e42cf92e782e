"""The named values of one file, as every reader asks for them.

What is missing or odd is a :class:`~ptyint.errors.ScanError`: file, field, what was found, what is allowed, what to do.
"""

import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import plain
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
"""What a field may be, and the dtypes or kinds of dtype that are, in whatever byte order."""

MOST_SHOWN = 10**6
"""Values that are read only to be shown in a message."""

BRIEF = reprlib.Repr()
"""How names and values stand in messages."""
BRIEF.maxlevel, BRIEF.maxlist, BRIEF.maxstring = 2, 8, 60


TROUBLE = {
    "unable to lock": "is locked by the program that writes it. Wait until that has closed it",
    "already open for write": "is being written, or its writer died. Wait until it is closed, or run h5clear -s on it",
    "no such file": "does not exist. Check the path",
    "signature not found": "is no HDF5 file. Check the path",
    "permission denied": "may not be read by you. Ask for the permission",
    "filter": "needs a filter plugin. Install hdf5plugin, as pip install 'ptyint[filters]' does",
    "external raw": "lacks the raw file that holds its values. Put that where this file looks for it",
    "too many links": "is a link in a circle. Write it anew",
    "stale": "is on a network file system that is gone. Mount it again",
    **dict.fromkeys(("input/output error", "timed out"), "cannot be read from its disk or network. Copy it elsewhere"),
}
"""What HDF5 or the system says, in small letters, and what that means for the user."""


def fits(found: tuple[int, ...], shape: Shape) -> bool:
    """Whether an array of shape `found` is of that shape, and not empty."""
    sizes = dict(zip(shape, found, strict=False)) | {size: size for size in shape if isinstance(size, int)}
    return 0 not in found and tuple(sizes.get(size) for size in shape) == found


def layout(shape: Shape) -> str:
    """``(modes, 64, 64)``."""
    return str(shape).replace("'", "")


class Fields(ABC):
    """The fields of one file; `notes` collects what was found and decided while they were read."""

    def __init__(self, path: Path) -> None:
        try:
            self.path = plain(path)
        except OSError as error:
            raise ScanError(f"{error}. Copy the data into one.") from error
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

    def trouble(self, error: Exception) -> str:
        """What the words of the library that reads the file mean, and what to do; told apart by their causes."""
        causes = (meaning for words, meaning in TROUBLE.items() if words in str(error).lower())
        return f"{next(causes, 'is damaged. Fetch or write the file again')} ({error})."

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Whatever the library that reads the file raises becomes a ScanError about the field."""
        try:
            yield
        except ScanError:
            raise
        except MemoryError as error:
            raise self.refusal(f"{name} does not fit into the memory ({error}). Take a part of it.") from error
        except Exception as error:
            raise self.refusal(f"{name} {self.trouble(error)}") from error

    def spellings(self, place: Place) -> list[str]:
        """Those names of a field that the file has; a ScanError if it has none."""
        names = [place] if isinstance(place, str) else place
        present = [name for name in names if name in self]
        if not present:
            held = BRIEF.repr(self.names())
            raise self.refusal(f"{' or '.join(names)} is missing; the file holds {held}. Add it.")
        return present

    def unread(self, place: Place, kind: str, *shapes: Shape, remedy: str = "Correct it.") -> Any:
        """A field as it is `stored`: of one of the `KINDS`, and of one of the `shapes` if any are given."""
        name = self.spellings(place)[0]
        with self.reading(name):
            field = self.stored(name)
            dtype, found = field.dtype.newbyteorder("="), tuple(field.shape)
        if not (KINDS[kind] & {dtype, dtype.kind} and (not shapes or any(fits(found, shape) for shape in shapes))):
            allowed = " or ".join(map(layout, shapes)) or "any shape"
            raise self.refusal(f"{name} is {dtype} {found}; allowed: {kind}, {allowed}. {remedy}")
        return field

    def array(self, place: Place, kind: str, *shapes: Shape, remedy: str = "Correct it.") -> NDArray[Any]:
        """A field's values, in this machine's byte order; see :meth:`unread`."""
        field = self.unread(place, kind, *shapes, remedy=remedy)
        name = self.spellings(place)[0]
        with self.reading(name):
            return self.whole(name, field).astype(field.dtype.newbyteorder("="), copy=False)

    def whole(self, name: str, field: Any) -> NDArray[Any]:
        """All values of a field that is `stored`."""
        return np.asarray(field[()])

    def complex64(self, place: Place, *shapes: Shape, remedy: str) -> NDArray[np.complex64]:
        """A complex field's values, rounded where they are more precise, which is noted."""
        values = self.array(place, "complex", *shapes, remedy=remedy)
        if values.dtype != np.complex64:
            self.notes.append(f"{self.spellings(place)[0]} rounded from {values.dtype} to complex64")
        return values.astype(np.complex64, copy=False)

    def scale(self, name: str, unit: str) -> float:
        """What a field's values are multiplied by, so that they are in `unit`; 1 where the format has no units."""
        return 1.0

    def columns(self, first: str, second: str, unit: str = "") -> NDArray[np.float64]:
        """Two fields (n,) side by side, (n, 2)."""
        one = self.array(first, "real", ("n",), remedy="Flatten it.")
        other = self.array(second, "real", one.shape, remedy=f"Give as many as {first}.")
        scales = [self.scale(name, unit) for name in (first, second)]
        return np.asarray(np.stack([one, other], axis=1).astype(np.float64) * scales)

    def number(self, place: Place, unit: str = "") -> float:
        """A field that holds one finite number, given in `unit`."""
        name = self.spellings(place)[0]
        with self.reading(name):
            field = self.stored(name)
            value = np.asarray(field[()] if math.prod(field.shape) <= MOST_SHOWN else f"{field.dtype} {field.shape}")
        if value.size != 1 or value.dtype.kind not in KINDS["real"] or not np.isfinite(value).all():
            raise self.refusal(f"{name} is {BRIEF.repr(value.tolist())}; allowed: one finite number. Correct it.")
        return float(value.reshape(())) * self.scale(name, unit)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A field that holds True or False, and need not be there."""
        return bool(self.array(name, "flag", (), (1,))) if name in self else default

    def good_pixels(self, name: str, shape: Shape, harmless: int = 0) -> NDArray[np.bool_] | None:
        """Where a mask of bad pixels, which need not be there, is zero but for bits that are `harmless`; None: all."""
        if name not in self:
            return None
        mask = self.array(name, "flag", shape, remedy="Give one value a pixel.")
        bad = mask != 0
        if harmless and mask.dtype.kind in "iu" and bad.any():
            bits, marked = np.bitwise_or.reduce(mask, axis=None), int(bad.sum())
            bad = mask & ~np.array(harmless).astype(mask.dtype) != 0
            kept = f"{marked - int(bad.sum())} of {marked} marked pixels are kept"
            self.notes.append(f"mask holds the bits {int(bits):#x}; those of {harmless:#x} do not mean bad: {kept}")
        return ~bad if bad.any() else None

    def square_pixel(self, width: str, height: str) -> float:
        """Edge of a pixel in metres, of which the file holds both; positive, and square within 1e-6."""
        edge, other = self.number(width, "m"), self.number(height, "m")
        if not (edge > 0 and abs(other / edge - 1) < 1e-6):
            raise self.refusal(
                f"{width} is {edge} and {height} {other}; allowed: positive and equal. Resample or correct them."
            )
        return edge
