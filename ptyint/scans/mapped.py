"""Arrays that stay in a file: slices are read, and nothing of what was read stays in memory."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, eq=False)
class Mapped:
    """An array in a file that is mapped into memory; the file may lose its name meanwhile.

    Attributes
    ----------
    pages : mmap
        Of the file.
    array : ndarray
        A view of them, as stored.
    """

    pages: mmap.mmap
    array: NDArray[Any]

    @classmethod
    def of(cls, file: Any, dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0, fortran: bool = False) -> Mapped:
        """The array of an open file that begins at byte `offset`."""
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(pages, np.ndarray(shape, dtype, pages, offset, order="F" if fortran else "C"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """In this machine's byte order."""
        return self.array.dtype.newbyteorder("=")

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """A copy of the values at `index`."""
        values = np.array(self.array[index], self.dtype)
        self.pages.madvise(mmap.MADV_DONTNEED)
        return values
