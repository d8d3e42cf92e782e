"""PtychoPINN's NPZ, all its spellings.

========================  =====================  ==============================================================
member                    :class:`Scan`          here
========================  =====================  ==============================================================
diffraction, diff3d       diffraction_patterns   (n, N, N) or (N, N, n); float: amplitudes, unsigned: counts
xcoords, ycoords          probe_positions_px     (n,) px, x = column, y = row; the patch's pixel [N // 2, N // 2]
probeGuess                probe                  (N, N) or (modes, N, N)
objectGuess, optional     object_                (H, W)
Y, optional               object_patches         (n, N, N), complex64 and nothing else
bad_pixels, optional      not good_pixels        written by Ptychodus 1.7 only, see :func:`read_npz`
xcoords_start, ...        unread                 see `UNREAD`; anything else too, which is noted
========================  =====================  ==============================================================

The patterns are written under both names, and read from the first that is there: the other costs space on the disk, but
neither time nor memory. This package adds ``ptyint_*`` members for what the format has no place for; PtychoPINN ignores
them. Nothing is ever unpickled. A member that is stored uncompressed (``np.savez``) is mapped into memory and read by
slices (its CRC is then not checked). Patterns in a compressed one (``np.savez_compressed``) are unpacked once, into a
nameless temporary file that is read by slices; what else is compressed is read whole.
"""

import io
import math
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from ptyint._atomic import atomic_path, write_arrays
from ptyint.errors import shortened
from ptyint.scans.fields import Fields, Shape
from ptyint.scans.mapped import Mapped
from ptyint.scans.scan import PatternSource, Scan, pattern_slices

DiffractionKind = Literal["amplitudes", "counts"]
AxisOrder = Literal["nyx", "yxn"]

LONGEST_HEADER = 2**16
"""Bytes of a member in which NumPy's header must end."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
PATTERNS = ("diffraction", "diff3d")
X, Y_ = "xcoords", "ycoords"
PROBE, OBJECT, PATCHES, BAD = "probeGuess", "objectGuess", "Y", "bad_pixels"
OWN_SCALARS = {f"ptyint_{name}": name for name in ("pixel_size_m", "wavelength_m", "detector_distance_m")}
OWN_GOOD, OWN_TRUTH = "ptyint_good_pixels", "ptyint_object_is_truth"
READ = {*PATTERNS, X, Y_, PROBE, OBJECT, PATCHES, BAD, OWN_GOOD, OWN_TRUTH, *OWN_SCALARS}
UNREAD = {"xcoords_start", "ycoords_start", "scan_index"}
"""Members of the format that say nothing new."""


class SquaredAmplitudes:
    """Amplitudes in, counts out: squares a slice in float64 when it is asked for, gives float32.

    A negative amplitude gives a negative count, so that validation sees it.
    """

    def __init__(self, amplitudes: PatternSource) -> None:
        self._amplitudes = amplitudes
        self.shape = tuple(amplitudes.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        amplitudes = np.asarray(self._amplitudes[index], np.float64)
        return (amplitudes * np.abs(amplitudes)).astype(np.float32)


@dataclass(frozen=True)
class _Member:
    """An array of an archive as the header of its member describes it; read when it is sliced."""

    path: Path
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @classmethod
    def of(cls, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> "_Member":
        """By its header; a ValueError where the member does not hold just what that says."""
        with archive.open(info) as member:
            head = io.BytesIO(member.read(LONGEST_HEADER))
        found = cls(path, info, *_HEADERS[npy.read_magic(head)](head), head.tell())
        size = found.offset + math.prod(found.shape) * found.dtype.itemsize
        if size != info.file_size and not found.dtype.hasobject:
            raise ValueError(f"it unpacks to {info.file_size} bytes, {found.dtype} {found.shape} to {size}")
        return found

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Values, mapped into memory where the member is neither compressed nor small."""
        if self.small or self.compressed:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.info) as member:
                return np.asarray(npy.read_array(member, allow_pickle=False)[index])
        return np.asarray(self.mapped().array[index])

    @property
    def small(self) -> bool:
        """Whether it may as well be read whole."""
        return self.info.file_size <= 2**20

    @property
    def compressed(self) -> bool:
        """Whether slices cannot be read as they lie in the archive."""
        return self.info.compress_type != zipfile.ZIP_STORED

    def mapped(self) -> Mapped:
        """The array in the archive itself, or unpacked into a nameless temporary file, which is as long as that."""
        if self.compressed:
            with tempfile.TemporaryFile() as file, zipfile.ZipFile(self.path) as archive:
                with archive.open(self.info) as member:
                    shutil.copyfileobj(member, file, 2**20)
                file.flush()
                return Mapped.of(file, self.dtype, self.shape, self.offset, self.fortran)
        with self.path.open("rb") as file:  # zip's local header is 30 bytes, a name and an extra field
            file.seek(self.info.header_offset)
            start = self.info.header_offset + 30 + sum(struct.unpack("<HH", file.read(30)[26:]))
            return Mapped.of(file, self.dtype, self.shape, start + self.offset, self.fortran)


class _Archive(Fields):
    """An NPZ: each array is read when asked for by name; `pickled` names those that only pickle can read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with path.open("rb") as file:  # zipfile takes an error of the system for a file that is no archive
                file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
                file.read()
            archive = zipfile.ZipFile(path)
        except OSError as error:
            raise self.refusal(f"the file {self.trouble(error)}") from error
        except Exception as error:  # zipfile has no one error of its own
            raise self.refusal(f"not an NPZ archive ({error}). Write it with np.savez or write_scan.") from error
        self._members: dict[str, _Member] = {}
        with archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with self.reading(name):
                    self._members |= {name: _Member.of(path, archive, info)} if name != info.filename else {}
        self.pickled = {name for name, member in self._members.items() if member.dtype.hasobject}

    def names(self) -> list[str]:
        """Its members."""
        return sorted(self._members)

    def stored(self, name: str) -> _Member:
        """The array, unread."""
        if name in self.pickled:
            raise self.refusal(
                f"{name} is pickled, which can run code when it is read; allowed: plain arrays. "
                f"Write it again as an array with a numeric dtype."
            )
        return self._members[name]


def read_npz(path: Path, *, diffraction_kind: DiffractionKind | None, axis_order: AxisOrder | None) -> Scan:
    """Read PtychoPINN's NPZ.

    Float patterns are amplitudes and become counts = amplitude**2; unsigned ones are counts: that is the format's
    contract. Other dtypes need `diffraction_kind`. A file with ``bad_pixels`` was exported by Ptychodus 1.7
    (``ptychodus.api.io.save_ptychopinn_training_data``): it holds intensities whatever their dtype, and positions of
    the middle between the pixels [N / 2 - 1] and [N / 2], half a pixel below those of :class:`Scan`.
    """
    archive = _Archive(path)
    left = set(archive.names()) - READ - UNREAD
    for reason, names in (" because pickled", left & archive.pickled), ("", left - archive.pickled):
        if names:
            archive.notes.append(shortened(f"left unread{reason}: {', '.join(sorted(names))}"))
    positions = archive.columns(Y_, X)
    counts = _counts(archive, len(positions), diffraction_kind, axis_order)
    n, edge = counts.shape[:2]
    remedy = "Write it with its imaginary part, as large as the patterns."
    probe = archive.complex64(PROBE, (edge, edge), ("modes", edge, edge), remedy=remedy)
    return Scan(
        diffraction_patterns=counts,
        probe_positions_px=positions + 0.5 if BAD in archive else positions,
        probe=probe[None] if probe.ndim == 2 else probe,
        object_=archive.complex64(OBJECT, ("H", "W"), remedy=remedy) if OBJECT in archive else None,
        object_patches=_patches(archive, (n, edge, edge)) if PATCHES in archive else None,
        object_is_truth=archive.flag(OWN_TRUTH),
        good_pixels=_good_pixels(archive, (edge, edge)),
        name=path.name,
        notes=tuple(archive.notes),
        **{field: archive.number(name) for name, field in OWN_SCALARS.items() if name in archive},
    )


def _patterns_first(archive: _Archive, name: str, n: int, order: AxisOrder | None) -> PatternSource:
    """(n, N, N), told from (N, N, n) by the number of positions; a cube by `order`, unless this package wrote it."""
    shapes: dict[str, Shape] = {"nyx": (n, "N", "N"), "yxn": ("N", "N", n)}
    allowed = shapes.values() if order is None else [shapes[order]]
    field: _Member = archive.unread(name, "real", *allowed, remedy="Make patterns and positions agree.")
    if field.shape == (n, n, n) and order is None and OWN_TRUTH not in archive:
        raise archive.refusal(f"{name} is a cube {field.shape}, which axis is n? Give axis_order='nyx' or 'yxn'.")
    if field.compressed and not field.small:
        unpacked = f"unpacked into a temporary file of {field.info.file_size / 2**20:.0f} MiB"
        archive.notes.append(f"{name} is compressed: {unpacked}; `ptyint convert` spares that")
    with archive.reading(name):
        mapped = None if field.small else field.mapped()
    array = archive.array(name, "real") if mapped is None else mapped.array
    if field.shape[0] != n or order == "yxn":
        archive.notes.append(f"{name} is stored as (N, N, n) = {field.shape}: axes moved")
        array = np.moveaxis(array, -1, 0)
    return array if mapped is None else replace(mapped, array=array)


def _counts(archive: _Archive, n: int, wish: DiffractionKind | None, order: AxisOrder | None) -> PatternSource:
    name, *other = archive.spellings(PATTERNS)
    if other and OWN_TRUTH not in archive:
        archive.notes.append(f"both {name} and {other[0]} are present: {name} read")
    stored, exported = _patterns_first(archive, name, n, order), BAD in archive
    kind = wish or ("counts" if exported else {"f": "amplitudes", "u": "counts"}.get(stored.dtype.kind))
    if kind is None:
        raise archive.refusal(
            f"{name} is {stored.dtype}; the format says float amplitudes or unsigned counts. "
            f"Give diffraction_kind='amplitudes' or 'counts'."
        )
    reason = "asked for" if wish else "a Ptychodus export" if exported else "the format's contract for this dtype"
    archive.notes.append(f"{name} ({stored.dtype}) read as {kind}: {reason}")
    return stored if kind == "counts" else SquaredAmplitudes(stored)


def _patches(archive: _Archive, shape: tuple[int, int, int]) -> NDArray[np.complex64]:
    remedy = "Write it again with amplitude and phase, or leave it out."
    patches = archive.array(PATCHES, "complex64 (DATA-001)", shape, (*shape, 1), remedy=remedy)
    if patches.ndim == 4:
        archive.notes.append(f"Y {patches.shape}: single channel dropped")
    return patches.reshape(shape)


def _good_pixels(archive: _Archive, shape: Shape) -> NDArray[np.bool_] | None:
    if BAD in archive:
        archive.notes.append("exported by Ptychodus (bad_pixels): positions moved by +0.5 px to pixel [N // 2, N // 2]")
    if OWN_GOOD in archive:
        return archive.array(OWN_GOOD, "flag", shape).astype(np.bool_)
    return archive.good_pixels(BAD, shape)


def write_npz(scan: Scan, path: Path) -> None:
    """Write PtychoPINN's NPZ, uncompressed, a chunk of patterns at a time.

    ``diffraction`` is the amplitude in float32, so that counts come back within 2e-7 of themselves. ``diff3d`` is the
    same once more: of PtychoPINN's own readers some ask for the one, and some for the other. Bad pixels are written as
    0: PtychoPINN knows no mask.
    """
    y, x = scan.probe_positions_px.astype(np.float64).T
    arrays = dict.fromkeys((X, "xcoords_start"), x) | dict.fromkeys((Y_, "ycoords_start"), y)
    optional: dict[str, ArrayLike | None] = {
        "scan_index": np.zeros(scan.n, np.int64),
        PROBE: scan.probe[0] if len(scan.probe) == 1 else scan.probe,
        OBJECT: scan.object_,
        PATCHES: scan.object_patches,
        OWN_TRUTH: scan.object_is_truth,
        OWN_GOOD: scan.good_pixels,
        **{name: getattr(scan, field) for name, field in OWN_SCALARS.items()},
    }
    arrays |= {name: np.asarray(value) for name, value in optional.items() if value is not None}
    patterns, (first, second) = scan.diffraction_patterns, PATTERNS
    with atomic_path(path) as temporary:
        write_arrays(temporary, arrays)
        _append(temporary, first, patterns.shape, (np.sqrt(scan.counts(rows)) for rows in pattern_slices(patterns)))
        written = _Archive(temporary).stored(first).mapped()
        _append(temporary, second, patterns.shape, (written[rows] for rows in pattern_slices(written)))


def _append(path: Path, name: str, shape: tuple[int, ...], chunks: Iterable[NDArray[np.float32]]) -> None:
    """Add an array to an archive, uncompressed, a chunk at a time."""
    with zipfile.ZipFile(path, "a") as archive, archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
        for chunk in chunks:
            member.write(chunk.astype("<f4").tobytes())
