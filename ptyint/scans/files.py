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

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from ptyint.errors import ScanError
from ptyint.scans.cxi import is_cxi, read_cxi, write_cxi
from ptyint.scans.npz import DiffractionKind, read_npz, write_npz
from ptyint.scans.ptychodus_h5 import read_ptychodus, write_ptychodus
from ptyint.scans.scan import Scan

Format = Literal["npz", "ptychodus", "cxi"]

SUFFIXES: dict[str, Format] = {".npz": "npz", ".cxi": "cxi", ".h5": "ptychodus", ".hdf5": "ptychodus", "": "ptychodus"}

__all__ = ["DiffractionKind", "Format", "read_scan", "write_scan"]


def read_scan(
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    product: str | os.PathLike[str] | None = None,
    diffraction_kind: DiffractionKind | None = None,
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
    if not file.exists():
        raise ScanError(f"{file}: no such file or folder. Check the path.")
    kind = _format(file, format)
    if format is None and kind == "ptychodus" and file.is_file() and is_cxi(file):
        kind = "cxi"
    if kind == "npz":
        if product is not None:
            raise ScanError(f"{file}: product={str(product)!r} is given, but an NPZ holds everything. Leave it out.")
        scan = read_npz(file, diffraction_kind=diffraction_kind)
    else:
        if diffraction_kind is not None:
            raise ScanError(f"{file}: {diffraction_kind=}, but {kind} files hold counts. Leave it out.")
        reader = read_cxi if kind == "cxi" else read_ptychodus
        scan = reader(file, product=None if product is None else Path(product))
    return scan if object_is_truth is None else replace(scan, object_is_truth=object_is_truth)


def write_scan(scan: Scan, path: str | os.PathLike[str], *, format: Format | None = None) -> None:
    """Write a scan; an existing file is replaced, and only by a whole one.

    Parameters
    ----------
    scan : Scan
        Written as it is: :func:`ptyint.validate_scan` checks it.
    path : path-like
        A file in an existing folder; for ``ptychodus`` a folder, made if it is missing.
    format : {"npz", "ptychodus", "cxi"}, optional
        By the suffix if left out.

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
    {"npz": write_npz, "ptychodus": write_ptychodus, "cxi": write_cxi}[_format(file, format)](scan, file)


def _format(path: Path, format: Format | None) -> Format:
    if format is not None and format not in get_args(Format):
        raise ScanError(f"Unknown format {format!r}. Must be one of {sorted(get_args(Format))}.")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if format is None and suffix not in SUFFIXES:
        known = sorted(filter(None, SUFFIXES))
        raise ScanError(f"{path}: unknown suffix {suffix!r}. Must be one of {known}, or give format=.")
    return format or SUFFIXES[suffix]
