"""The acquisition: the one place that defines shapes and units.

Everything that the package reads becomes a :class:`Scan`; everything that it writes starts from one.
Pixels are counted as arrays are: axis 0 is y (rows), axis 1 is x (columns).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ptyint._glance import Glance
from ptyint.config import PATTERN_SIZES
from ptyint.errors import ScanError
from ptyint.scans.fields import Shape, fits, layout

MIN_SPAN_PX = 4
"""Smallest extent of the positions of a scan: less is a unit gone wrong."""

PLAUSIBLE_M = {"pixel_size_m": (1e-13, 1e-3), "wavelength_m": (1e-13, 1e-3), "detector_distance_m": (1e-6, 100.0)}
"""From electrons to terahertz waves, from a microscope to the longest beamline: else a unit has gone wrong."""

MAX_SPAN_PX = 20_000
"""Largest extent of the positions of a scan without an object: more is a unit gone wrong, and would fill the memory."""

DIGESTED = ("diffraction_patterns", "probe_positions_px", "probe", "object_")
"""Fields of :class:`Scan` that :attr:`Scan.sha256` covers, in its order."""

Violation = tuple[str, str, str, str]
"""Field, what was found, what is allowed, what to do."""

CHUNK_PIXELS = 2**23
"""How much of a pattern stack is in memory at a time."""


class PatternSource(Protocol):
    """What :attr:`Scan.diffraction_patterns` must offer: an array, or a file read by slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, N, N)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Patterns at `index` along the first axis."""


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Glance):
    """One ptychographic acquisition.

    Attributes
    ----------
    diffraction_patterns : PatternSource, (n, N, N)
        Counts (photons per pixel), any integer or float dtype, zero frequency at
        ``[N // 2, N // 2]``. Bad pixels may hold anything. May be a lazy source: read it through :meth:`counts`.
    probe_positions_px : ndarray of float64, (n, 2)
        ``(y, x)`` of each patch's centre in object pixels: position ``(cy, cx)`` is the object patch whose
        pixel ``[N // 2, N // 2]`` lies at ``object_[cy, cx]``.
    probe : ndarray of complex64, (modes, N, N)
        Illumination; its scale is the file's own (photon-normalised where the format says so).
    object_ : ndarray of complex64, (H, W), optional
        The object that came with the scan: a guess, unless `object_is_truth`.
    object_is_truth : bool
        True only for simulated scans whose `object_` made the patterns.
    object_patches : ndarray of complex64, (n, N, N), optional
        ``Y`` of the PtychoPINN format.
    good_pixels : ndarray of bool, (N, N), optional
        False where the detector is defective. None: all good.
    pixel_size_m : float, optional
        Edge of an object pixel. None where the format does not tell.
    wavelength_m, detector_distance_m : float, optional
        Of the light, and from the sample to the detector. None where the format does not tell.
    name : str
        The file or fixture, for messages.
    notes : tuple of str
        What the reader found and decided (a pickled field left unread, a swapped axis, ...).

    Examples
    --------
    >>> import numpy as np, ptyint
    >>> counts = np.random.default_rng(0).poisson(5, (4, 64, 64))
    >>> positions = np.array([[32.0, 32.0], [32.0, 40.0], [40.0, 32.0], [40.0, 40.0]])
    >>> scan = ptyint.Scan(counts, positions, np.ones((1, 64, 64), np.complex64))
    >>> ptyint.validate_scan(scan)
    >>> scan.n, scan.N, scan.counts([0, 3]).shape
    (4, 64, (2, 64, 64))
    """

    diffraction_patterns: PatternSource
    probe_positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64]
    object_: NDArray[np.complex64] | None = None
    object_is_truth: bool = False
    object_patches: NDArray[np.complex64] | None = None
    good_pixels: NDArray[np.bool_] | None = None
    pixel_size_m: float | None = None
    wavelength_m: float | None = None
    detector_distance_m: float | None = None
    name: str = "scan"
    notes: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        """Number of diffraction patterns."""
        return int(self.diffraction_patterns.shape[0])

    @property
    def N(self) -> int:
        """Edge of a diffraction pattern in pixels."""
        return int(self.diffraction_patterns.shape[-1])

    def _facts(self) -> dict[str, Any]:
        size = f"{self.N} x {self.N}"
        facts = {"name": self.name, "patterns": self.n, "pixels": size, "modes of the probe": len(self.probe)}
        optional = {name: getattr(self, name) for name in PLAUSIBLE_M if getattr(self, name) is not None}
        object_ = {} if self.object_ is None else {"object": f"{self.object_.shape}, truth: {self.object_is_truth}"}
        return {**facts, **object_, **optional, "notes": "; ".join(self.notes) or "none"}

    def _thumbnails(self) -> dict[str, NDArray[Any]]:
        y, x = self.probe_positions_px.T
        places, _, _ = np.histogram2d(y, x, bins=64)
        images = {"pattern 0, log": np.log1p(self.counts([0])[0]), "probe": abs(self.probe[0]), "positions": places}
        return images if self.object_ is None else {**images, "object, phase": self.object_}

    @cached_property
    def sha256(self) -> str:
        r"""Digest of the arrays in `DIGESTED`, 64 hexadecimal digits, the same on every machine.

        Of each field the hash is fed the line ``"<field> <dtype> <shape>\n"`` in ASCII (such as
        ``probe <c8 (1, 64, 64)``), then the values, little-endian and in C order; a missing object is the line
        ``"object_ None"``.
        """
        digest = hashlib.sha256()
        for name in DIGESTED:
            value = getattr(self, name)
            if value is None:
                digest.update(f"{name} None\n".encode())
                continue
            dtype = np.dtype(value.dtype).newbyteorder("<")
            digest.update(f"{name} {dtype.str} {tuple(value.shape)}\n".encode())
            for rows in pattern_slices(value) if name == "diffraction_patterns" else [slice(None)]:
                digest.update(np.asarray(value[rows]).astype(dtype).tobytes())
        return digest.hexdigest()

    def counts(self, index: Any = slice(None)) -> NDArray[np.float32]:
        """Counts of the patterns at `index`, bad pixels set to zero.

        Parameters
        ----------
        index : slice or ndarray of int
            Which patterns; lazy sources read no others.

        Returns
        -------
        ndarray of float32, (k, N, N)
            In photons per pixel.
        """
        counts = np.asarray(self.diffraction_patterns[index]).astype(np.float32)
        if self.good_pixels is not None:
            counts[..., ~self.good_pixels] = 0
        return counts


def pattern_slices(patterns: PatternSource) -> Iterator[slice]:
    """Cut a stack (n, H, W) into slices of at most `CHUNK_PIXELS`, for files that are larger than the memory."""
    n, height, width = patterns.shape
    step = max(1, CHUNK_PIXELS // max(1, height * width))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def measure(scan: Scan) -> dict[str, float]:
    """What a scan does not say of itself, from its arrays; patterns are read by slices.

    Returns
    -------
    dict of str to float
        ``mean_counts`` per pattern and ``bad_pixels``, which it leaves out; ``step_px``, the median over the positions
        of the mean distance to the four nearest others; ``probe_diameter_px``, of the disk as large as the area where
        the probe's modulus is at least half its maximum; ``overlap_ratio``, ``1 - step / probe diameter``, at most 0
        where neighbouring beams do not touch.
    """
    from scipy.spatial import cKDTree

    positions = scan.probe_positions_px
    distances, _ = cKDTree(positions).query(positions, k=min(5, scan.n))
    modulus = np.sqrt((np.abs(scan.probe) ** 2).sum(axis=0))
    lit = np.count_nonzero(modulus >= modulus.max() / 2)
    total = sum(scan.counts(rows).sum(dtype=np.float64) for rows in pattern_slices(scan.diffraction_patterns))
    step_px, diameter_px = float(np.median(distances[:, 1:].mean(axis=1))), float(2 * np.sqrt(lit / np.pi))
    return {
        "mean_counts": float(total / scan.n),
        "bad_pixels": 0 if scan.good_pixels is None else int((~scan.good_pixels).sum()),
        "step_px": step_px,
        "probe_diameter_px": diameter_px,
        "overlap_ratio": 1 - step_px / diameter_px,
    }


@np.errstate(all="ignore")  # what overflows is judged as infinite
def validate_scan(scan: Scan, *, source: str | None = None) -> None:
    """DATA-001: check a scan against the contract that :class:`Scan` states. Every pattern is read, by chunks.

    A patch may overhang the object's edge (PtychoPINN pads its object by N/2); its centre may not leave the array.

    Parameters
    ----------
    scan : Scan
        Of any source.
    source : str, optional
        What the messages call the scan; ``scan.name`` if left out.

    Raises
    ------
    ScanError
        Lists the violations, a line each: scan, field, value found, what is allowed, what to do; of very many, the
        first and the last.

    Examples
    --------
    >>> import ptyint
    >>> from dataclasses import replace
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> ptyint.validate_scan(scan)
    >>> try:
    ...     ptyint.validate_scan(replace(scan, probe=abs(scan.probe)), source="mine")
    ... except ptyint.ScanError as error:
    ...     print(error)
    mine breaks the data contract (DATA-001) in 1 place(s):
    - mine: probe: found dtype float32; allowed: complex64. Convert it; a complex array must stay complex.
    """
    name = source or scan.name
    lines = [
        f"- {name}: {field}: found {found}; allowed: {allowed}. {remedy}"
        for field, found, allowed, remedy in _violations(scan)
    ]
    if lines:
        head = f"{name} breaks the data contract (DATA-001) in {len(lines)} place(s):"
        raise ScanError("\n".join([head, *lines]))


def _violations(scan: Scan) -> Iterator[Violation]:
    shape = tuple(scan.diffraction_patterns.shape)
    if len(shape) != 3 or 0 in shape:
        yield "diffraction_patterns", f"shape {shape}", "(n, N, N), n at least 2", "Stack the patterns on axis 0."
        return  # n and N are unknown: nothing else can be judged
    n, height, width = shape
    if height != width or height not in PATTERN_SIZES:
        yield "diffraction_patterns", f"{height} x {width} px", f"N x N with N in {PATTERN_SIZES}", "Crop or pad."
    yield from _array("probe", scan.probe, np.complex64, ("modes", height, width))
    if scan.probe.size and not np.any(scan.probe):
        yield "probe", "zero everywhere", "an illumination", "Give at least a guess of the probe."
    if scan.object_ is not None:
        yield from _array("object_", scan.object_, np.complex64, ("H", "W"))
    if scan.object_patches is not None:
        yield from _array("object_patches (Y)", scan.object_patches, np.complex64, shape)
    yield from _positions(scan, n)
    for name, (low, high) in PLAUSIBLE_M.items():
        value = getattr(scan, name)
        if value is not None and not low <= value <= high:
            allowed = f"a positive number of metres from {low:g} to {high:g}, or None"
            yield name, repr(value), allowed, "Correct it or its unit, or leave it out."
    mask = list(_good_pixels(scan, (height, width)))
    yield from mask
    yield from _patterns(scan.diffraction_patterns, None if mask else scan.good_pixels)


def _array(name: str, array: NDArray[Any], dtype: type[Any], shape: Shape, order: str = "") -> Iterator[Violation]:
    """Dtype, shape (no size may be 0) and finiteness of one array."""
    if array.dtype != dtype:
        yield name, f"dtype {array.dtype}", np.dtype(dtype).name, "Convert it; a complex array must stay complex."
    if not fits(array.shape, shape):
        yield name, f"shape {array.shape}", layout(shape) + order, "n and N must agree everywhere."
    bad = sum(int((~np.isfinite(part)).sum()) for part in array) if array.ndim and array.dtype.kind in "iufc" else 0
    if bad:
        yield name, f"{bad} values that are NaN or infinite", "finite values", "Repair the array."


def _positions(scan: Scan, n: int) -> Iterator[Violation]:
    name, positions = "probe_positions_px", scan.probe_positions_px
    broken = list(_array(name, positions, np.float64, (n, 2), ", order (y, x)"))
    yield from broken
    if broken:
        return
    if len(np.unique(positions, axis=0)) == 1:
        found = "one pattern at one place" if n == 1 else f"all {n} positions equal"
        yield name, found, "two places or more, whose patches overlap", "Give the whole scan, with its positions."
        return
    height, width = np.ptp(positions, axis=0)
    largest = np.inf if scan.object_ is not None else MAX_SPAN_PX
    if not MIN_SPAN_PX <= max(height, width) <= largest:
        remedy = "Give positions in object pixels, not in metres or micrometres."
        yield name, f"a span of {height:.3g} x {width:.3g} px", f"{MIN_SPAN_PX} to {largest} px", remedy
    if scan.object_ is not None and scan.object_.ndim == 2:
        height, width = scan.object_.shape
        outside = np.flatnonzero(((positions < 0) | (positions > (height - 1, width - 1))).any(axis=1))
        if outside.size:
            first = f"first (y, x) = {positions[outside[0]].tolist()} at {outside[0]}"
            allowed = f"0 <= y <= {height - 1} and 0 <= x <= {width - 1}, pixels of object_"
            remedy = "Check the order (y, x), the unit (pixels) and the origin, or give a larger object."
            yield name, f"{outside.size} patch centres outside the object, {first}", allowed, remedy


def _good_pixels(scan: Scan, shape: tuple[int, int]) -> Iterator[Violation]:
    mask = scan.good_pixels
    if mask is None:
        return
    if mask.dtype != np.bool_ or mask.shape != shape:
        yield "good_pixels", f"{mask.dtype} of shape {mask.shape}", f"bool, {shape}", "True means good."
    elif not mask.any():
        yield "good_pixels", "no good pixel", "at least one True", "True means good: invert the mask."


def _patterns(patterns: PatternSource, good: NDArray[np.bool_] | None) -> Iterator[Violation]:
    """Dtype, finiteness and sign of every good pixel, and where the zero frequency is."""
    name = "diffraction_patterns"
    dtype = np.dtype(patterns.dtype)
    if dtype.kind not in "uif":
        yield name, f"dtype {dtype}", "integer or float counts", "Give counts, not a complex field."
        return
    usable = np.ones(patterns.shape[1:], np.bool_) if good is None else good
    total = np.zeros(patterns.shape[1:])
    flaws: dict[str, tuple[int, str]] = {}
    for rows in pattern_slices(patterns):
        chunk = np.asarray(patterns[rows])
        finite = np.isfinite(chunk)
        for flaw, where in (("that are NaN or infinite", ~finite), ("below zero", chunk < 0)):
            at = np.argwhere(where & usable)
            if at.size:
                place = (at[0] + [rows.start, 0, 0]).tolist()
                count, first = flaws.get(flaw, (0, f"{chunk[tuple(at[0])]} at {place}"))
                flaws[flaw] = (count + len(at), first)
        total += np.where(finite & usable, chunk, 0).sum(axis=0, dtype=np.float64)
    allowed = "finite counts of at least 0 in good pixels"
    for flaw, (count, first) in flaws.items():
        found = f"{count} values {flaw}, first {first}"
        yield name, found, allowed, "Repair the file, or mark bad pixels in good_pixels."
    if not flaws and not total.any():
        yield name, "no counts at all", "counts above zero", "Take the detector's data, not a template."
    yield from _zero_frequency(np.maximum(total, 0))


def _zero_frequency(energy: NDArray[np.float64]) -> Iterator[Violation]:
    """Where the zero frequency is, judged by the mean root of `energy` within N/8: a hot pixel cannot decide then.

    A flat pattern gives a ratio of 1 and a few per cent; the central 64 x 64 of a Siemens star at the APS, shifted to
    the corner, still 1.9. A shift along one axis alone is not looked for: the ring of a zone plate with a central stop,
    as that star has, looks the same.
    """
    y, x = (np.arange(size) - size // 2 for size in energy.shape)
    near = np.hypot(y[:, None], x) <= min(energy.shape) / 8
    amplitude = np.sqrt(energy)
    centre, corner = float(amplitude[near].mean()), float(amplitude[np.fft.ifftshift(near)].mean())
    if corner > 1.5 * centre:
        found = f"the zero frequency at the corner (mean amplitude {corner:.3g} there, {centre:.3g} at the centre)"
        allowed, remedy = "the zero frequency at [N // 2, N // 2]", "Apply np.fft.fftshift(patterns, axes=(-2, -1))."
        yield "diffraction_patterns", found, allowed, remedy
