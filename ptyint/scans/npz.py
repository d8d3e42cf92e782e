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
from collections.abc import Iterable, Mapping
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


class _Members(Mapping[str, NDArray[Any]]):
    """An NPZ's arrays by name, each read when asked for; `pickled` names those that only pickle can read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise ScanError(f"{path}: not an NPZ archive ({error}). Write it with np.savez or write_scan.") from error
        self._infos = {i.filename.removesuffix(".npy"): i for i in self._zip.infolist() if i.filename.endswith(".npy")}
        self.pickled = {name for name in self._infos if self._header(name)[2].hasobject}

    def __enter__(self) -> _Members:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __iter__(self) -> Any:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise ScanError(f"{self.path}: {name} is missing; the file holds {sorted(self)}. Add it.")
        info = self._infos[name]
        if name in self.pickled:
            raise ScanError(
                f"{self.path}: {name} is pickled, which can run code when it is read; allowed: plain arrays. "
                f"Write it again as an array with a numeric dtype."
            )
        try:
            if info.compress_type == zipfile.ZIP_STORED and info.file_size > 2**20:
                return self._map(name, info)
            with self._zip.open(info) as member:
                return np.asarray(npy.read_array(member, allow_pickle=False))
        except _DAMAGE as error:
            raise ScanError(f"{self.path}: {name} is damaged ({error}). Fetch or write the file again.") from error

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
        """Shape, Fortran order, dtype and length of the header in bytes."""
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            with self._zip.open(self._infos[name]) as member:
                return *readers[npy.read_magic(member)](member), member.tell()
        except _DAMAGE as error:
            raise ScanError(f"{self.path}: {name} is no NumPy array ({error}). Write the file again.") from error

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

    Parameters
    ----------
    path : Path
    diffraction_kind : {"amplitudes", "counts"} or None
    object_is_truth : bool or None

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        A required member is missing or pickled, or a shape or dtype cannot be read as the format's.
    """
    notes: list[str] = []
    with _Members(path) as members:
        exported = BAD in members
        unread = sorted(members.pickled - {*PATTERNS, X, Y_, PROBE, OBJECT, PATCHES, BAD})
        if unread:
            notes.append(f"left unread because pickled: {', '.join(unread)}")
        spellings = [name for name in PATTERNS if name in members] or ["diffraction (or diff3d)"]
        if len(spellings) == 2:
            notes.append(f"both {' and '.join(spellings)} are present: {spellings[0]} read")
        spelling = spellings[0]
        positions = _positions(members)
        stored = _patterns_first(path, spelling, members[spelling], len(positions), notes)
        counts = _counts(path, spelling, stored, "counts" if exported else None, diffraction_kind, notes)
        probe = _complex64(path, PROBE, members[PROBE], notes)
        scan = Scan(
            diffraction_patterns=counts,
            probe_positions_px=positions,
            probe=probe[None] if probe.ndim == 2 else probe,
            object_=_complex64(path, OBJECT, members[OBJECT], notes) if OBJECT in members else None,
            object_patches=_patches(path, members[PATCHES], notes) if PATCHES in members else None,
            name=path.name,
        )
        if exported:
            scan = _from_ptychodus(scan, members[BAD], notes)
        return _own(scan, members, object_is_truth, notes)


def _positions(members: _Members) -> NDArray[np.float64]:
    columns = {name: members[name] for name in (Y_, X)}
    for name, values in columns.items():
        if values.ndim != 1 or values.dtype.kind not in "uif":
            found = f"{values.dtype} {values.shape}"
            raise ScanError(f"{members.path}: {name} is {found}; allowed: real, (n,). Flatten it.")
    if len({values.shape for values in columns.values()}) > 1:
        raise ScanError(f"{members.path}: {len(columns[X])} {X}, {len(columns[Y_])} {Y_}; allowed: as many. Repair it.")
    return np.stack(list(columns.values()), axis=1).astype(np.float64)


def _patterns_first(path: Path, name: str, stored: NDArray[Any], n: int, notes: list[str]) -> NDArray[Any]:
    """(n, N, N), told from (N, N, n) by the number of positions."""
    if stored.ndim == 3:
        first, middle, last = stored.shape
        if last == n and first == middle != n:
            notes.append(f"{name} is stored as (N, N, n) = {stored.shape}: axes moved")
            return np.moveaxis(stored, -1, 0)
        if first == n:
            if stored.shape == (n, n, n):
                notes.append(f"{name} is a cube {stored.shape}: read as (n, N, N), the format's default")
            return stored
    raise ScanError(
        f"{path}: {name} has shape {stored.shape} with {n} positions; allowed: (n, N, N) or (N, N, n) with n = {n}. "
        f"Make patterns and positions agree."
    )


def _counts(
    path: Path,
    name: str,
    stored: NDArray[Any],
    contract: DiffractionKind | None,
    wish: DiffractionKind | None,
    notes: list[str],
) -> PatternSource:
    if wish not in (None, "amplitudes", "counts"):
        raise ScanError(f"{path}: diffraction_kind={wish!r}. Must be 'amplitudes' or 'counts'.")
    by_dtype: dict[str, DiffractionKind] = {"f": "amplitudes", "u": "counts"}
    kind = wish or contract or by_dtype.get(stored.dtype.kind)
    if kind is None or stored.dtype.kind not in "uif":
        raise ScanError(
            f"{path}: {name} is {stored.dtype}; the format says float amplitudes or unsigned counts. "
            f"Give diffraction_kind='amplitudes' or 'counts' for signed integers; convert anything else."
        )
    reason = "asked for" if wish else "a Ptychodus export" if contract else "the format's contract for this dtype"
    notes.append(f"{name} ({stored.dtype}) read as {kind}: {reason}")
    return stored if kind == "counts" else SquaredAmplitudes(stored)


def _complex64(path: Path, name: str, array: NDArray[Any], notes: list[str]) -> NDArray[np.complex64]:
    if array.dtype.kind != "c":
        raise ScanError(f"{path}: {name} is {array.dtype}; allowed: complex64. Write it with its imaginary part.")
    if array.dtype != np.complex64:
        notes.append(f"{name} rounded from {array.dtype} to complex64")
    return array.astype(np.complex64)


def _patches(path: Path, patches: NDArray[Any], notes: list[str]) -> NDArray[np.complex64]:
    if patches.dtype != np.complex64:
        raise ScanError(
            f"{path}: Y is {patches.dtype}; allowed: complex64 (DATA-001). "
            f"Write it again with amplitude and phase, or leave it out."
        )
    if patches.ndim == 4 and patches.shape[-1] == 1:
        notes.append(f"Y {patches.shape}: single channel dropped")
        return patches[..., 0]
    return patches


def _from_ptychodus(scan: Scan, bad_pixels: NDArray[Any], notes: list[str]) -> Scan:
    notes.append("exported by Ptychodus (it has bad_pixels): positions moved by +0.5 px to pixel [N // 2, N // 2]")
    bad = bad_pixels.astype(np.bool_)
    good = ~bad if bad.any() else None
    return replace(scan, probe_positions_px=scan.probe_positions_px + 0.5, good_pixels=good)


def _own(scan: Scan, members: _Members, object_is_truth: bool | None, notes: list[str]) -> Scan:
    """Add what :func:`write_npz` keeps under its own names."""
    own: dict[str, Any] = {key: float(members[OWN + key]) for key in OWN_SCALARS if OWN + key in members}
    if OWN + "good_pixels" in members:
        own["good_pixels"] = members[OWN + "good_pixels"].astype(np.bool_)
    if object_is_truth is None:
        object_is_truth = OWN + "object_is_truth" in members and bool(members[OWN + "object_is_truth"])
    return replace(scan, object_is_truth=object_is_truth, notes=tuple(notes), **own)


def write_npz(scan: Scan, path: Path) -> None:
    """Write PtychoPINN's NPZ, uncompressed, a chunk of patterns at a time.

    ``diffraction`` is the amplitude in float32, so that counts come back within 2e-7 of themselves. Bad pixels are
    written as 0: PtychoPINN knows no mask.

    Parameters
    ----------
    scan : Scan
    path : Path
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
