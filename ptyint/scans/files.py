"""Files in, :class:`~ptyint.scans.scan.Scan` out, and back.

One module per format; each holds its own table of foreign names, and no other module knows them. All ask for fields
through :class:`~ptyint.scans.fields.Fields`.

======================  ==================================  ===============================================
format                  what                                chosen for
======================  ==================================  ===============================================
``npz``                 PtychoPINN's NPZ                    ``*.npz``
``ptychodus``           Ptychodus' HDF5 pair                a folder; ``*.h5``, ``*.hdf5``
``cxi``                 Coherent X-ray Imaging (CXI) file   ``*.cxi``; ``*.h5``, ``*.hdf5`` that hold its entry
======================  ==================================  ===============================================

Readers check that a file can be understood; :func:`~ptyint.scans.scan.validate_scan` checks what it says.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ScanError
from ptyint.scans.cxi import MaskConvention, Translation, is_cxi, read_cxi, write_cxi
from ptyint.scans.npz import AxisOrder, DiffractionKind, read_npz, write_npz
from ptyint.scans.ptychodus_h5 import read_ptychodus, write_ptychodus
from ptyint.scans.scan import PatternSource, Scan

Format = Literal["npz", "ptychodus", "cxi"]

SUFFIXES: dict[str, Format] = {".npz": "npz", ".cxi": "cxi", ".h5": "ptychodus", ".hdf5": "ptychodus", "": "ptychodus"}

READERS: dict[Format, Callable[..., Scan]] = {"npz": read_npz, "ptychodus": read_ptychodus, "cxi": read_cxi}

OPTIONS: dict[str, tuple[set[Format], str, tuple[str, ...]]] = {
    "product": ({"ptychodus", "cxi"}, "everything", ()),
    "diffraction_kind": ({"npz"}, "counts", get_args(DiffractionKind)),
    "mask_convention": ({"cxi"}, "masks of one kind", get_args(MaskConvention)),
    "translation": ({"cxi"}, "places of the beam", get_args(Translation)),
    "axis_order": ({"npz"}, "patterns first", get_args(AxisOrder)),
}
"""Options of :func:`read_scan`, in its order: the formats that know it, what the others hold instead, its values."""


CEILINGS = [2.0**bits - less for bits in (8, 16, 20, 31, 32, 63, 64) for less in (1, 2)]
"""What detectors write where they have no pixel, or a dead or saturated one."""

ROUNDED = 4e-7
"""Relative error of a count that was kept as an amplitude in float32."""

__all__ = ["AxisOrder", "DiffractionKind", "Format", "MaskConvention", "Translation", "read_scan", "write_scan"]


@np.errstate(all="ignore")  # what overflows is not finite then, which validation sees
def read_scan(
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    product: str | os.PathLike[str] | None = None,
    diffraction_kind: DiffractionKind | None = None,
    mask_convention: MaskConvention | None = None,
    translation: Translation | None = None,
    axis_order: AxisOrder | None = None,
    object_is_truth: bool | None = None,
) -> Scan:
    """Read a scan; the patterns stay in the file until somebody asks for them, where the format allows it.

    Parameters
    ----------
    path : path-like
        The file, or the folder of a Ptychodus pair.
    format : {"npz", "ptychodus", "cxi"}, optional
        By suffix and content if left out.
    product : path-like, optional
        HDF5 formats: the file with probe, object and positions. Ptychodus: ``product.h5`` beside `path` if left out;
        CXI: `path` itself.
    diffraction_kind : {"amplitudes", "counts"}, optional
        NPZ only: what the file's patterns are, where its contract (float: amplitudes, unsigned: counts) is broken.
    mask_convention : {"cxi", "cheetah", "any"}, optional
        CXI only: which bits of the mask mean bad. "cxi" (if left out): 0x1000 is signal, as for cdtools and PyNX;
        "cheetah": it is an artefact, as for Cheetah and Condor; "any": every bit is bad.
    translation : {"beam", "sample"}, optional
        CXI only: whose places the translations are; the sample's are the beam's with the other sign. If left out:
        what the file's probe and object explain, else "beam".
    axis_order : {"nyx", "yxn"}, optional
        NPZ only: whether the patterns' number or their columns stand last, where both are as many; else it is told.
    object_is_truth : bool, optional
        True: the object in the file made the patterns. If left out: what the file says, else False.

    Returns
    -------
    Scan
        What was decided on the way stands in `notes`.

    Raises
    ------
    ScanError
        The file is missing, damaged, of an unknown format, or lacks what a scan needs.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ptyint.write_scan(scan, f"{folder}/tiny.npz")
    ...     back = ptyint.read_scan(f"{folder}/tiny.npz")
    >>> back.n == scan.n, back.notes
    (True, ("diffraction (float32) read as amplitudes: the format's contract for this dtype",))
    """
    file = Path(path)
    if not os.path.exists(file):  # whatever else the system says, such as a name too long or a disk that is gone
        raise ScanError(f"{file}: no such file or folder within reach. Check the path, and its disk.")
    kind = _format(file, format)
    if format is None and kind == "ptychodus" and file.is_file() and is_cxi(file):
        kind = "cxi"
    product = None if product is None else Path(product)
    given = dict(zip(OPTIONS, (product, diffraction_kind, mask_convention, translation, axis_order), strict=True))
    for name, (formats, otherwise, allowed) in OPTIONS.items():
        if given[name] is not None and allowed and given[name] not in allowed:
            raise ScanError(f"{file}: {name}={given[name]!r}. Must be one of {list(allowed)}.")
        if given[name] is not None and kind not in formats:
            raise ScanError(f"{file}: {name}={str(given[name])!r}, but {kind} files hold {otherwise}. Leave it out.")
    scan = _without_gaps(READERS[kind](file, **{name: given[name] for name in OPTIONS if kind in OPTIONS[name][0]}))
    truth = scan.object_is_truth if object_is_truth is None else object_is_truth
    return replace(scan, object_is_truth=truth, notes=tuple(dict.fromkeys(scan.notes)))


def _without_gaps(scan: Scan) -> Scan:
    """Mask good pixels that hold the same `CEILINGS` in each of up to 16 patterns: gaps or saturation, no photons."""
    some = np.asarray(scan.diffraction_patterns[:: -(-scan.n // 16)])
    own = np.iinfo(some.dtype).max if some.dtype.kind in "ui" else 0
    off = np.abs(some[0][..., None].astype(np.float64) / [*CEILINGS, own or CEILINGS[0]] - 1).min(axis=-1)
    gap = (some == some[:1]).all(axis=0) & (off <= (0 if own else ROUNDED))
    good = np.ones_like(gap) if scan.good_pixels is None else scan.good_pixels
    gap &= good
    if not gap.any() or (gap == good).all():
        return scan
    share = some[:, gap].sum(dtype=np.float64) / some[:, good].sum(dtype=np.float64)
    note = f"{int(gap.sum())} pixels hold {some[0][gap].max()} in every pattern, {share:.1%} of all counts: masked"
    return replace(scan, good_pixels=good & ~gap, notes=(*scan.notes, f"{note} as gaps of the detector"))


def write_scan(
    scan: Scan,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    on_patterns: Callable[[int], object] | None = None,
) -> None:
    """Write a scan; an existing file is replaced, and only by a whole one.

    Parameters
    ----------
    scan : Scan
        Written as it is: :func:`ptyint.validate_scan` checks it.
    path : path-like
        A file in an existing folder; for ``ptychodus`` a folder, made if it is missing.
    format : {"npz", "ptychodus", "cxi"}, optional
        By the suffix if left out.
    on_patterns : callable, optional
        Called with how many patterns have been written since it was called last.

    Raises
    ------
    ScanError
        The format needs something that the scan lacks (the HDF5 formats: pixel size, wavelength, distance), or the
        format is unknown.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> from dataclasses import replace
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> known = replace(scan, pixel_size_m=1e-8, wavelength_m=1e-10, detector_distance_m=2.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ptyint.write_scan(known, f"{folder}/tiny.cxi")
    ...     back = ptyint.read_scan(f"{folder}/tiny.cxi")
    ...     bool((back.counts() == scan.counts()).all())
    True
    """
    file = Path(path)
    if on_patterns is not None:
        scan = replace(scan, diffraction_patterns=_Watched(scan.diffraction_patterns, on_patterns))
    {"npz": write_npz, "ptychodus": write_ptychodus, "cxi": write_cxi}[_format(file, format)](scan, file)


class _Watched:
    """Patterns that tell how many were read."""

    def __init__(self, patterns: PatternSource, on_patterns: Callable[[int], object]) -> None:
        self._patterns, self._on_patterns = patterns, on_patterns
        self.shape, self.dtype = patterns.shape, patterns.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        read = self._patterns[index]
        self._on_patterns(len(read))
        return read


def _format(path: Path, format: Format | None) -> Format:
    if format is not None and format not in get_args(Format):
        raise ScanError(f"Unknown format {format!r}. Must be one of {sorted(get_args(Format))}.")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if format is None and suffix not in SUFFIXES:
        known = sorted(filter(None, SUFFIXES))
        raise ScanError(f"{path}: unknown suffix {suffix!r}. Must be one of {known}, or give format=.")
    return format or SUFFIXES[suffix]
