"""What the HDF5 formats share: fields, lazy patterns, metres and pixels, and how a file is written."""

import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import atomic_path, plain
from ptyint.errors import ScanError
from ptyint.scans.fields import BRIEF, TROUBLE, Fields, Place
from ptyint.scans.scan import PatternSource, Scan, pattern_slices

TRUTH = "@ptyint_object_is_truth"
"""Root attribute of ours, which other programs ignore."""

HC_J_M = 6.62607015e-34 * 299792458.0
"""Planck constant times speed of light (SI 2019, exact): photon energy x wavelength."""

ELECTRON_VOLT_J = 1.602176634e-19
"""SI 2019, exact."""

PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "c": 1e-2, "m": 1e-3, "u": 1e-6, "\u03bc": 1e-6, "n": 1e-9, "p": 1e-12}
PREFIXES |= {"kilo": 1e3, "mega": 1e6, "centi": 1e-2, "milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "pico": 1e-12}
METRES = {"m": 1.0, "meter": 1.0, "metre": 1.0, "micron": 1e-6, "angstrom": 1e-10, "\u00c5": 1e-10}
JOULES = {"J": 1.0, "joule": 1.0, "eV": ELECTRON_VOLT_J, "electronvolt": ELECTRON_VOLT_J}
UNITS = {
    asked: {prefix + unit: PREFIXES[prefix] * size for prefix in PREFIXES for unit, size in units.items()}
    for asked, units in {"m": METRES, "J": JOULES}.items()
}
"""What an attribute ``units`` may say where metres or joules are asked for, and its size."""

MOST_PACKED = 10_000
"""How much larger than its bytes in the file a dataset may be; the best filters stay below."""


class H5Fields(Fields):
    """Datasets and attributes of an open HDF5 file: ``dataset``, ``dataset@attribute``, ``@attribute`` of the root."""

    def __init__(self, path: Path, file: Any) -> None:
        super().__init__(path)
        self.file = file

    def names(self) -> list[str]:
        """What stands at the root."""
        return sorted(map(os.fsdecode, [*self.file, *(f"@{name}" for name in self.file.attrs)]))  # or damaged: bytes

    def __contains__(self, name: str) -> bool:
        place, _, attribute = name.partition("@")
        with self.reading(name):
            node = self.node(place)
            return node is not None and attribute in node.attrs if attribute else isinstance(node, h5py.Dataset)

    def node(self, place: str, came_from: tuple[str, ...] = ()) -> Any:
        """What stands at a place; None if nothing; a ScanError if a link on the way leads nowhere, or in a circle."""
        if place in came_from:
            raise self.refusal(f"{place} {TROUBLE['too many links']}.")
        node, here = self.file, ""
        for part in filter(None, place.split("/")):
            if not (isinstance(node, h5py.Group) and part in node):
                return None
            here, link = f"{here}/{part}", node.get(part, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                self._elsewhere(here, _places(Path(node.file.filename).parent, link.filename, "HDF5_EXT_PREFIX"))
            elif isinstance(link, h5py.SoftLink) and node.file == self.file:  # perhaps to another link
                beside = "" if link.path.startswith("/") else f"{here.rpartition('/')[0]}/"
                self.node(beside + link.path, (*came_from, place))
            try:
                node = node[part]
            except KeyError as error:
                if isinstance(link, h5py.HardLink):
                    raise
                target = f"{link.path} of {getattr(link, 'filename', 'this file')}"
                raise self.refusal(f"{here} is a link to {target}, which is missing. Put it there.") from error
        return node

    def stored(self, name: str) -> Any:
        """The dataset, unread, or the attribute; a ScanError where a part of it would be made up or is nowhere."""
        place, _, attribute = name.partition("@")
        node = self.node(place)
        found = node.attrs[attribute] if attribute else node
        if isinstance(found, h5py.Empty) or getattr(found, "shape", ()) is None:
            raise self.refusal(f"{name} holds no value (its dataspace is null); allowed: numbers. Write them.")
        if attribute:
            return np.asarray(found)
        filters = found.id.get_create_plist()
        for code, *_ in map(filters.get_filter, range(filters.get_nfilters())):
            if not h5py.h5z.filter_avail(code):
                raise self.refusal(f"{name} is compressed by filter {code} and {TROUBLE['filter']}.")
        self._look_for_raw_files(name, found)
        lost = list(_lost_sources(found))
        if lost:
            raise self.refusal(
                f"{name} is virtual and lacks {len(lost)} of its sources, which would be read as the fill value: "
                f"{BRIEF.repr(lost)}. Copy them to where this file looks for them."
            )
        if found.is_virtual:
            self._elsewhere(name, [Path(source.file_name) for source in found.virtual_sources()])
        return found

    def _elsewhere(self, name: str, paths: Sequence[Path]) -> None:
        """Note that a field is in other files, at one of these places; refuse what is no file."""
        for path in paths:
            try:
                plain(path)
            except OSError as error:
                raise self.refusal(f"{name} is elsewhere: {error}. Copy the data into one.") from error
        self.notes.append(f"{name} is in {BRIEF.repr(list(dict.fromkeys(path.name for path in paths)))}")

    def whole(self, name: str, field: Any) -> NDArray[Any]:
        """All values; a ScanError where a few bytes declare so many that they would fill the memory."""
        if isinstance(field, h5py.Dataset) and not field.is_virtual:
            held = field.id.get_storage_size()
            if field.nbytes > max(held * MOST_PACKED, 2**30):
                raise self.refusal(
                    f"{name} unpacks to {field.nbytes} bytes, of which {held} are there; allowed: {MOST_PACKED} times "
                    "as many. Write what was measured."
                )
        return super().whole(name, field)

    def _look_for_raw_files(self, name: str, dataset: Any) -> None:
        """Note where the values of a dataset are kept as raw bytes; refuse it where that is not beside this file."""
        folder = Path(dataset.file.filename).parent.resolve()
        prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(folder))
        for raw in {Path(prefix, place) for place, *_ in dataset.external or ()}:
            if raw.exists() and not (raw.is_file() and raw.resolve().is_relative_to(folder)):
                raise self.refusal(
                    f"{name} is kept in {raw}; allowed: a file in the folder of this one. Copy it there, and set "
                    "HDF5_EXTFILE_PREFIX='${ORIGIN}'."
                )
            self.notes.append(f"{name} is in {raw.name}")

    def text(self, name: str) -> str | None:
        """An attribute's text; None where it is missing."""
        with self.reading(name):
            return str(self.stored(name).astype(str)) if name in self else None

    def scale(self, name: str, unit: str) -> float:
        """By the attribute ``units``, if it has one: converted with a note, or refused."""
        found = (self.text(f"{name}@units") or "").strip() if unit else ""
        if not found:
            return 1.0
        text = unicodedata.normalize("NFKC", found if len(found) <= 3 else found.lower().removesuffix("s"))
        if text not in UNITS[unit]:
            raise self.refusal(
                f"{name} has the units {BRIEF.repr(found)}; allowed: {BRIEF.repr(list(UNITS[unit]))}. "
                f"Convert the values to {unit}, or correct the attribute."
            )
        if UNITS[unit][text] != 1:
            self.notes.append(f"{name} is in {found}: converted to {unit}")
        return UNITS[unit][text]

    def modes(self, place: Place, edge: int) -> NDArray[np.complex64]:
        """The probe's incoherent modes (modes, N, N) for the first coherent one; notes the others' number."""
        shapes = (edge, edge), ("modes", edge, edge), ("coherent", "modes", edge, edge)
        probe = self.complex64(place, *shapes, remedy="Write it so.")
        if probe.ndim == 4 and len(probe) > 1:
            self.notes.append(f"probe: the first of {len(probe)} coherent modes is used, the others vary per position")
        return probe[0] if probe.ndim == 4 else probe.reshape(-1, edge, edge)

    def layer(self, place: Place) -> NDArray[np.complex64]:
        """The object (H, W), of one layer."""
        remedy = "The model knows one layer: multiply the layers, or choose one."
        object_ = self.complex64(place, ("H", "W"), (1, "H", "W"), remedy=remedy)
        return object_.reshape(object_.shape[-2:])


class H5Patterns:
    """Patterns of an HDF5 file (m, H, W), or some `rows` of them in any order.

    Each access opens the file, reads the asked rows and nothing else, and closes it.
    """

    def __init__(self, file: H5Fields, place: Place, rows: NDArray[np.int64] | None = None) -> None:
        self._path, self._dataset = file.path, file.spellings(place)[0]
        data = file.unread(self._dataset, "real", ("n", "N", "N"), remedy="Stack squares.")
        if rows is None and data.chunks:
            chunks = math.prod(-(-size // edge) for size, edge in zip(data.shape, data.chunks, strict=True))
            lost = chunks - data.id.get_num_chunks()
            file.notes += [f"{lost} of {chunks} chunks of {self._dataset} were never written: empty"] if lost else []
        with file.reading(self._dataset):
            self._rows = np.arange(len(data)) if rows is None else rows
        self.dtype: np.dtype[Any] = data.dtype.newbyteorder("=")
        self.shape: tuple[int, ...] = (len(self._rows), *data.shape[1:])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        rows = np.asarray(self._rows[index])
        ordered, inverse = np.unique(rows, return_inverse=True)
        with open_h5(self._path) as file, file.reading(self._dataset):
            data = file.file[self._dataset]  # its sources and filters were looked for when the scan was read
            gapless = ordered.size > 0 and ordered[-1] - ordered[0] == ordered.size - 1
            read = data[ordered[0] : ordered[-1] + 1] if gapless else data[ordered]
        return np.asarray(read if np.array_equal(rows, ordered) else read[inverse.reshape(rows.shape)], self.dtype)


def _places(folder: Path, name: str, variable: str) -> tuple[Path, ...]:
    """Where HDF5 looks for a file that is named in one in `folder`: there, below a variable's folder, and from here."""
    return Path(os.environ.get(variable, ""), name), folder / name, folder / Path(name).name, Path(name)


def _lost_sources(dataset: Any) -> Iterator[str]:
    """What a virtual dataset is made of and is not there, or is too short: HDF5 reads the fill value in its place."""
    folder = Path(dataset.file.filename).parent
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        places = _places(folder, source.file_name.replace("%b", "0"), "HDF5_VDS_PREFIX")
        path = Path(dataset.file.filename) if source.file_name == "." else next(filter(Path.is_file, places), None)
        if path is None:
            yield source.file_name
            continue
        with h5py.File(path, "r") as file, suppress(RuntimeError):  # what grows for ever has no number of points
            found = file.get(source.dset_name.replace("%b", "0"))
            if not isinstance(found, h5py.Dataset) or found.size < source.vspace.get_select_npoints():
                yield f"{source.file_name}:{source.dset_name}"
            else:
                yield from _lost_sources(found)


@contextmanager
def open_h5(path: Path) -> Iterator[H5Fields]:
    """Open an HDF5 file for reading; a ScanError where it cannot be read, with the cause."""
    with suppress(ImportError):  # registers bitshuffle, LZ4, ... with HDF5
        import hdf5plugin  # noqa: F401
    fields = H5Fields(path, None)
    try:
        with h5py.File(path, "r") as fields.file:
            yield fields
    except (OSError, RuntimeError, KeyError) as error:
        raise fields.refusal(f"the file {fields.trouble(error)}") from error


def to_pixels(
    positions_m: NDArray[Any], centre_m: Sequence[float], pixel_m: float, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Ptychodus' positions (n, 2) in metres as :class:`~ptyint.scans.scan.Scan`'s in pixels of an object (H, W).

    Ptychodus 1.7 (``ObjectGeometry``, ``ProbeGeometry.resolve_patch_bounds``) puts the world centre at pixel
    ``(size - 1) / 2`` and anchors a patch by its own middle, ``(N - 1) / 2``. A Scan's position is that of the patch's
    pixel ``N // 2``, half a pixel further (N is even): ``(x - centre) / pixel + (size - 1) / 2 + 1 / 2``. Measured:
    counts then fit to the Poisson level, and 6 to 23 times worse if half a pixel is left out or added twice.
    """
    return (np.asarray(positions_m, np.float64) - centre_m) / pixel_m + np.array(shape) / 2


def to_metres(positions_px: NDArray[np.float64], pixel_m: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Inverse of :func:`to_pixels` for an object centred on 0 m."""
    return np.asarray((positions_px - np.array(shape) / 2) * pixel_m)


def geometry(scan: Scan, path: Path) -> tuple[float, float, float, float]:
    """Return what the HDF5 formats must know, in SI: object pixel, wavelength, distance, detector pixel.

    The last follows from the far field: ``wavelength * distance / (N * object pixel)``. A ScanError names what the scan
    does not know.
    """
    known = {name: getattr(scan, name) for name in ("pixel_size_m", "wavelength_m", "detector_distance_m")}
    missing = [name for name, value in known.items() if value is None]
    if missing:
        raise ScanError(
            f"{path}: {scan.name} has no {', '.join(missing)}, and this format keeps positions in metres. "
            f"Give them with dataclasses.replace(scan, ...), or write an NPZ."
        )
    pixel, wavelength, distance = known.values()
    return pixel, wavelength, distance, wavelength * distance / (scan.N * pixel)


def write_h5(path: Path, values: Mapping[str, Any], *, patterns: Mapping[str, PatternSource] | None = None) -> None:
    """Write a file that replaces `path` once it is whole.

    `patterns` are copied by chunks, with their dtype, compressed as Ptychodus does. `values` stand under the names of
    :class:`H5Fields`, an attribute after what it belongs to; those that are None are left out.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, source in (patterns or {}).items():
            chunk = (1, *source.shape[1:])  # one pattern: batches read patterns in any order
            data = file.create_dataset(name, tuple(source.shape), source.dtype, chunks=chunk, compression="lzf")
            for rows in pattern_slices(source):
                data[rows] = source[rows]
        for name, value in values.items():
            place, _, attribute = name.partition("@")
            if attribute:
                file[place or "/"].attrs[attribute] = value
            elif value is not None:
                file[place] = value
