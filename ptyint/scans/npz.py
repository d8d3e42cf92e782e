"""PtychoPINN's NPZ, all its spellings.

========================  =====================  ==============================================================
member                    :class:`Scan`          here
========================  =====================  ==============================================================
diffraction or diff3d     diffraction_patterns   (n, N, N) or (N, N, n); float: amplitudes, unsigned: counts
xcoords, ycoords          probe_positions_px     (n,) px, x = column, y = row; the patch's pixel [N // 2, N // 2]
probeGuess                probe                  (N, N) or (modes, N, N)
objectGuess, optional     object_                (H, W)
Y, optional               object_patches         (n, N, N), complex64 and nothing else
bad_pixels, optional      not good_pixels        written by Ptychodus 1.7 only, see :func:`read_npz`
everything else           unread                 xcoords_start, ycoords_start, scan_index, _metadata, ...
========================  =====================  ==============================================================

This package adds ``ptyint_*`` members for what the format has no place for; PtychoPINN ignores them. Nothing is ever
unpickled. A member that is stored uncompressed (``np.savez``) is mapped into memory and read by slices (its CRC is then
not checked); a compressed one (``np.savez_compressed``) is read whole.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from ptyint._atomic import atomic_path
from ptyint.errors import ScanError
from ptyint.scans.scan import PatternSource, Scan, pattern_slices

DiffractionKind = Literal["amplitudes", "counts"]

_DAMAGE = (ValueError, KeyError, EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile)
PATTERNS = ("diffraction", "diff3d")
X, Y_ = "xcoords", "ycoords"
PROBE, OBJECT, PATCHES, BAD = "probeGuess", "objectGuess", "Y", "bad_pixels"
OWN = "ptyint_"
OWN_SCALARS = ("pixel_size_m", "wavelength_m", "detector_distance_m")


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


class _Archive(zipfile.ZipFile):
    """An NPZ: each array is read when asked for by name; `pickled` names those that only pickle can read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        try:
            super().__init__(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise self.refusal(f"not an NPZ archive ({error}). Write it with np.savez or write_scan.") from error
        self.members = {i.filename.removesuffix(".npy"): i for i in self.infolist() if i.filename.endswith(".npy")}
        self.pickled = {name for name in self.members if self._header(name)[2].hasobject}

    def refusal(self, text: str) -> ScanError:
        """An error about this file."""
        return ScanError(f"{self.path}: {text}")

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise self.refusal(f"{name} is missing; the file holds {sorted(self.members)}. Add it.")
        if name in self.pickled:
            raise self.refusal(
                f"{name} is pickled, which can run code when it is read; allowed: plain arrays. "
                f"Write it again as an array with a numeric dtype."
            )
        info = self.members[name]
        try:
            if info.compress_type == zipfile.ZIP_STORED and info.file_size > 2**20:
                return self._map(name, info)
            with self.open(info) as member:
                return np.asarray(npy.read_array(member, allow_pickle=False))
        except _DAMAGE as error:
            raise self.refusal(f"{name} is damaged ({error}). Fetch or write the file again.") from error

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
        """Shape, Fortran order, dtype and length of the header in bytes."""
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            with self.open(self.members[name]) as member:
                return *readers[npy.read_magic(member)](member), member.tell()
        except _DAMAGE as error:
            raise self.refusal(f"{name} is no NumPy array ({error}). Write the file again.") from error

    def _map(self, name: str, info: zipfile.ZipInfo) -> NDArray[Any]:
        """Memory map of a stored member: zip's local header is 30 bytes, a name and an extra field."""
        shape, fortran, dtype, offset = self._header(name)
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(30)
        if offset + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"{info.file_size} bytes do not make {dtype} {shape}")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:]))
        return np.memmap(self.path, dtype, "r", start + offset, shape, "F" if fortran else "C")


def read_npz(path: Path, *, diffraction_kind: DiffractionKind | None, object_is_truth: bool | None) -> Scan:
    """Read PtychoPINN's NPZ.

    Float patterns are amplitudes and become counts = amplitude**2; unsigned ones are counts: that is the format's
    contract. Other dtypes need `diffraction_kind`. A file with ``bad_pixels`` was exported by Ptychodus 1.7
    (``ptychodus.api.io.save_ptychopinn_training_data``): it holds intensities whatever their dtype, and positions of
    the middle between the pixels [N / 2 - 1] and [N / 2], half a pixel below those of :class:`Scan`.
    """
    with _Archive(path) as archive:
        unread = sorted(archive.pickled - {*PATTERNS, X, Y_, PROBE, OBJECT, PATCHES, BAD})
        if unread:
            archive.notes.append(f"left unread because pickled: {', '.join(unread)}")
        spellings = [name for name in PATTERNS if name in archive] or ["diffraction (or diff3d)"]
        if len(spellings) == 2:
            archive.notes.append(f"both {' and '.join(spellings)} are present: {spellings[0]} read")
        positions = _positions(archive)
        counts = _counts(archive, spellings[0], len(positions), diffraction_kind)
        probe = _complex64(archive, PROBE)
        scan = Scan(
            diffraction_patterns=counts,
            probe_positions_px=positions,
            probe=probe[None] if probe.ndim == 2 else probe,
            object_=_complex64(archive, OBJECT) if OBJECT in archive else None,
            object_patches=_patches(archive) if PATCHES in archive else None,
            name=path.name,
        )
        return _own(_from_ptychodus(scan, archive) if BAD in archive else scan, archive, object_is_truth)


def _positions(archive: _Archive) -> NDArray[np.float64]:
    columns = {name: archive[name] for name in (Y_, X)}
    for name, values in columns.items():
        if values.ndim != 1 or values.dtype.kind not in "uif":
            raise archive.refusal(f"{name} is {values.dtype} {values.shape}; allowed: real, (n,). Flatten it.")
    if len({values.shape for values in columns.values()}) > 1:
        raise archive.refusal(f"{len(columns[X])} {X}, {len(columns[Y_])} {Y_}; allowed: as many. Repair it.")
    return np.stack(list(columns.values()), axis=1).astype(np.float64)


def _patterns_first(archive: _Archive, name: str, n: int) -> NDArray[Any]:
    """(n, N, N), told from (N, N, n) by the number of positions."""
    stored = archive[name]
    if stored.ndim == 3:
        first, middle, last = stored.shape
        if last == n and first == middle != n:
            archive.notes.append(f"{name} is stored as (N, N, n) = {stored.shape}: axes moved")
            return np.moveaxis(stored, -1, 0)
        if first == n:
            if stored.shape == (n, n, n):
                archive.notes.append(f"{name} is a cube {stored.shape}: read as (n, N, N), the format's default")
            return stored
    raise archive.refusal(
        f"{name} has shape {stored.shape} with {n} positions; allowed: (n, N, N) or (N, N, n) with n = {n}. "
        f"Make patterns and positions agree."
    )


def _counts(archive: _Archive, name: str, n: int, wish: DiffractionKind | None) -> PatternSource:
    if wish not in (None, "amplitudes", "counts"):
        raise archive.refusal(f"diffraction_kind={wish!r}. Must be 'amplitudes' or 'counts'.")
    stored, exported = _patterns_first(archive, name, n), BAD in archive
    contract = "counts" if exported else {"f": "amplitudes", "u": "counts"}.get(stored.dtype.kind)
    kind = wish or contract
    if kind is None or stored.dtype.kind not in "uif":
        raise archive.refusal(
            f"{name} is {stored.dtype}; the format says float amplitudes or unsigned counts. "
            f"Give diffraction_kind='amplitudes' or 'counts' for signed integers; convert anything else."
        )
    reason = "asked for" if wish else "a Ptychodus export" if exported else "the format's contract for this dtype"
    archive.notes.append(f"{name} ({stored.dtype}) read as {kind}: {reason}")
    return stored if kind == "counts" else SquaredAmplitudes(stored)


def _complex64(archive: _Archive, name: str) -> NDArray[np.complex64]:
    array = archive[name]
    if array.dtype.kind != "c":
        raise archive.refusal(f"{name} is {array.dtype}; allowed: complex64. Write it with its imaginary part.")
    if array.dtype != np.complex64:
        archive.notes.append(f"{name} rounded from {array.dtype} to complex64")
    return array.astype(np.complex64)


def _patches(archive: _Archive) -> NDArray[np.complex64]:
    patches = archive[PATCHES]
    if patches.dtype != np.complex64:
        raise archive.refusal(
            f"Y is {patches.dtype}; allowed: complex64 (DATA-001). "
            f"Write it again with amplitude and phase, or leave it out."
        )
    if patches.ndim == 4 and patches.shape[-1] == 1:
        archive.notes.append(f"Y {patches.shape}: single channel dropped")
        return patches[..., 0]
    return patches


def _from_ptychodus(scan: Scan, archive: _Archive) -> Scan:
    bad = archive[BAD].astype(np.bool_)
    archive.notes.append(
        "exported by Ptychodus (it has bad_pixels): positions moved by +0.5 px to pixel [N // 2, N // 2]"
    )
    good = ~bad if bad.any() else None
    return replace(scan, probe_positions_px=scan.probe_positions_px + 0.5, good_pixels=good)


def _own(scan: Scan, archive: _Archive, object_is_truth: bool | None) -> Scan:
    """Add what :func:`write_npz` keeps under its own names."""
    own: dict[str, Any] = {key: float(archive[OWN + key]) for key in OWN_SCALARS if OWN + key in archive}
    if OWN + "good_pixels" in archive:
        own["good_pixels"] = archive[OWN + "good_pixels"].astype(np.bool_)
    if object_is_truth is None:
        object_is_truth = OWN + "object_is_truth" in archive and bool(archive[OWN + "object_is_truth"])
    return replace(scan, object_is_truth=object_is_truth, notes=tuple(archive.notes), **own)


def write_npz(scan: Scan, path: Path) -> None:
    """Write PtychoPINN's NPZ, uncompressed, a chunk of patterns at a time.

    ``diffraction`` is the amplitude in float32, so that counts come back within 2e-7 of themselves. Bad pixels are
    written as 0: PtychoPINN knows no mask.
    """
    positions = scan.probe_positions_px.astype(np.float64)
    arrays: dict[str, ArrayLike] = {
        X: positions[:, 1],
        Y_: positions[:, 0],
        "xcoords_start": positions[:, 1],
        "ycoords_start": positions[:, 0],
        "scan_index": np.zeros(scan.n, np.int64),
        PROBE: scan.probe[0] if len(scan.probe) == 1 else scan.probe,
        OWN + "object_is_truth": np.bool_(scan.object_is_truth),
    }
    optional: dict[str, ArrayLike | None] = {OBJECT: scan.object_, PATCHES: scan.object_patches}
    optional |= {OWN + name: getattr(scan, name) for name in ("good_pixels", *OWN_SCALARS)}
    arrays |= {name: value for name, value in optional.items() if value is not None}
    amplitudes = (np.sqrt(scan.counts(rows)) for rows in pattern_slices(scan.diffraction_patterns))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, PATTERNS[0], tuple(scan.diffraction_patterns.shape), np.dtype(np.float32), amplitudes)
        for name, value in arrays.items():
            array = np.asarray(value, order="C")
            _write(archive, name, array.shape, array.dtype, [array])


def _write(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[NDArray[Any]]
) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part, dtype).tobytes())
