"""Simulated acquisitions: probe x object -> exit wave -> diffraction pattern -> Poisson counts, truth known.

Everything here is reproducible to the bit across machines. Random numbers come from `numpy.random.RandomState`, whose
streams NumPy has frozen (NEP 19). What libm, FFT or CPU may round differently in the last place is rounded to a much
coarser grid before it counts: probes and objects to 2**-20 of their largest magnitude (:func:`settle`), positions to
2**-10 px, expected counts to 1e-3.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyint.errors import ScanError
from ptyint.scans.forward import Float, diffraction_amplitudes, fourier_shift
from ptyint.scans.scan import Scan

Complex64 = NDArray[np.complex64]

_CHUNK = 64
"""Patterns simulated at a time: bounds memory at about 16 MB a mode for N = 128."""


def settle(array: ArrayLike) -> Complex64:
    """Round real and imaginary part to 2**-20 of the power of two above the largest magnitude; in complex64.

    Every value is exact in complex64; last-place differences of the input are gone.
    """
    values = np.asarray(array, np.complex128)
    _, exponent = np.frexp(np.abs(values).max())
    step = np.ldexp(1.0, int(exponent) - 20)
    return np.asarray((np.rint(values.real / step) + 1j * np.rint(values.imag / step)) * step, np.complex64)


# Probes


def defocused_probe(N: int, *, diameter_px: float | None = None, astigmatism: float = 0.1) -> Complex64:
    """Beam (1, N, N) of a lens out of focus: a disk with Fresnel fringes, slightly longer along y than along x.

    A soft-edged disk pupil of radius 1/8 cycles/px carries the defocus phase ``pi (D_y k_y**2 + D_x k_x**2)``: rays
    from the pupil's rim land ``D k`` off the axis (Fresnel propagator, Goodman, *Introduction to Fourier Optics*, 4.2).
    `diameter_px` is the beam's geometric diameter; by default ``11/32 N``, 22 px for N = 64, where the modulus is 20 px
    wide at half maximum and 99.3 % of the energy lies in the central N/2 x N/2 pixels. `astigmatism` is the relative
    difference of the two defocus distances from their mean. ``sum |p|**2`` is about 1.
    """
    radius = 1 / 8
    defocus = (11 / 32 * N if diameter_px is None else diameter_px) / (2 * radius)
    k = np.fft.fftfreq(N)
    ky, kx = k[:, None], k[None, :]
    pupil = 0.5 * (1 - np.tanh((np.hypot(ky, kx) - radius) / (0.3 * radius)))
    phase = np.pi * defocus * ((1 + astigmatism) * ky**2 + (1 - astigmatism) * kx**2)
    return _unit_energy(np.fft.fftshift(np.fft.ifft2(pupil * np.exp(-1j * phase))))


def gaussian_probe(N: int, *, fwhm_px: float | None = None, curvature: float = 0.02) -> Complex64:
    """Gaussian beam (1, N, N), curved wave front: ``exp(-4 ln2 r**2 / fwhm**2) exp(i curvature r**2)``.

    `fwhm_px`, of the modulus, is ``9/32 N`` by default, 18 px for N = 64. `curvature` is in rad/px**2: the phase turns
    by ``2 curvature r`` rad/px; keep that below pi over the beam. ``sum |p|**2`` is about 1.
    """
    y, x = np.indices((N, N)) - N // 2
    squared = y**2 + x**2
    width = 9 / 32 * N if fwhm_px is None else fwhm_px
    return _unit_energy(np.exp((-4 * np.log(2) / width**2 + 1j * curvature) * squared))


def _unit_energy(probe: NDArray[np.complex128]) -> Complex64:
    return settle(probe / np.sqrt((np.abs(probe) ** 2).sum()))[None]


# Objects


def dead_leaves_object(shape: tuple[int, int], *, seed: int) -> Complex64:
    """Overlapping disks ("dead leaves"), drawn independently for amplitude (0.4 to 1) and phase (-0.6 to 0.6 rad).

    Edges are blurred by a Gaussian of 1.5 px; an L-shaped mark (:func:`mark_orientation`) lies off the centre.
    """
    rng = np.random.RandomState(seed)
    amplitude = 0.4 + 0.6 * _dead_leaves(shape, rng)
    phase = 1.2 * _dead_leaves(shape, rng) - 0.6
    return _smooth_object(*mark_orientation(amplitude, phase))


def siemens_star_object(shape: tuple[int, int], *, seed: int, spokes: int = 16) -> Complex64:
    """A Siemens star in phase (-0.6 to 0.6 rad) and, independent of it, dead leaves in amplitude (0.4 to 1).

    What crosses from one into the other shows at a glance. The star ends inside where a spoke gets narrower than 4 px.
    Edges are blurred by a Gaussian of 1.5 px; an L-shaped mark (:func:`mark_orientation`) lies off the centre.
    """
    amplitude = 0.4 + 0.6 * _dead_leaves(shape, np.random.RandomState(seed))
    y, x = np.indices(shape) - (np.asarray(shape)[:, None, None] - 1) / 2
    r = np.hypot(y, x)
    inside = (r > 4 * spokes / np.pi) & (r < 0.46 * min(shape))
    star = inside & (np.sin(spokes * np.arctan2(y, x) + 0.3) > 0)
    return _smooth_object(*mark_orientation(amplitude, np.where(star, 0.6, -0.6)))


def mark_orientation(amplitude: Float, phase: Float) -> tuple[Float, Float]:
    """Draw a dark, phase-advanced L whose long arm points to smaller y, whose short arm points to larger x.

    It lies in the quadrant of small y and large x, so that every mirroring, transposition and rotation shows.
    """
    amplitude, phase = amplitude.copy(), phase.copy()
    H, W = phase.shape
    unit = max(2, min(H, W) // 60)
    top, left = H // 2 - 9 * unit, W // 2 + 3 * unit
    for pad, values in ((unit, (1.0, -0.8)), (0, (0.4, 0.8))):
        long_arm = np.s_[top - pad : top + 7 * unit + pad, left - pad : left + 2 * unit + pad]
        short_arm = np.s_[top + 5 * unit - pad : top + 7 * unit + pad, left - pad : left + 5 * unit + pad]
        for arm in (long_arm, short_arm):
            amplitude[arm], phase[arm] = values
    return amplitude, phase


def _dead_leaves(shape: tuple[int, int], rng: np.random.RandomState) -> Float:
    """Disks of 5 to 16 px radius (density as r**-3) and uniform grey values, four layers deep; values in [0, 1]."""
    image = np.full(shape, 0.5)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for _ in range(shape[0] * shape[1] // 50):
        r = 1 / np.sqrt(rng.uniform(16**-2, 5**-2))
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        image[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rng.uniform()
    return image


def _gaussian_blur(image: Float, sigma_px: float) -> Float:
    k_y, k_x = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    transfer = np.exp(-2 * (np.pi * sigma_px) ** 2 * (k_y**2 + k_x**2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape))


def _smooth_object(amplitude: Float, phase: Float) -> Complex64:
    return settle(_gaussian_blur(amplitude, 1.5) * np.exp(1j * _gaussian_blur(phase, 1.5)))


# Positions


def grid_positions(shape: tuple[int, int], step_px: float, *, jitter_px: float = 0.0, seed: int = 0) -> Float:
    """Raster (rows * columns, 2) of patch centres ``(y, x)`` around (0, 0), row by row; see :func:`place`.

    Each is moved by up to `jitter_px` in y and in x, uniformly, then rounded to 2**-10 px.
    """
    rows, columns = ((np.arange(n) - (n - 1) / 2) * step_px for n in shape)
    raster = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return _settle_positions(raster + np.random.RandomState(seed).uniform(-jitter_px, jitter_px, raster.shape))


def spiral_positions(n: int, step_px: float) -> Float:
    """Fermat spiral (n, 2) around (0, 0): ``r = c sqrt(i)``, ``angle = i * golden angle``; see :func:`place`.

    Each position has a square of edge `step_px` to itself on average, ``pi c**2 = step**2``
    (Huang et al., Optics Express 22, 12634 (2014)); ``(y, x)`` are multiples of 2**-10 px.
    """
    i = np.arange(n)
    angle = i * np.pi * (3 - np.sqrt(5))
    radius = step_px * np.sqrt(i / np.pi)
    return _settle_positions(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))


def _settle_positions(positions_px: Float) -> Float:
    return np.asarray(np.rint(positions_px * 1024) / 1024)


def place(positions_px: Float, N: int, *, margin_px: int = 2) -> tuple[Float, tuple[int, int]]:
    """Positions (n, 2) moved so that every patch fits with a margin, and the shape (H, W) of the object around them."""
    low = positions_px.min(axis=0)
    height, width = np.ceil(positions_px.max(axis=0) - low).astype(int) + N + 2 * margin_px
    return positions_px - low + (N // 2 + margin_px), (int(height), int(width))


# Acquisition


def simulate_scan(
    object_: Complex64,
    probe: Complex64,
    positions_px: Float,
    *,
    photons_per_pattern: float,
    seed: int,
    name: str = "simulated",
) -> Scan:
    """Measure an object: Poisson counts of the far field at every position.

    The object patch is cut at whole pixels; the rest of the position shifts the *probe*, by a Fourier shift.

    Parameters
    ----------
    object_ : ndarray of complex64, (H, W)
        The truth, kept as the scan's object.
    probe : ndarray of complex64, (modes, N, N)
        Modes add incoherently. Scaled so that `photons_per_pattern` holds, and rounded by :func:`settle`.
    positions_px : ndarray of float64, (n, 2)
        Patch centres; see :class:`ptyint.scans.scan.Scan`.
    photons_per_pattern : float
        Mean over patterns of the expected total counts.
    seed : int
        Of the Poisson noise.
    name : str
        For messages.

    Returns
    -------
    Scan
        uint16 counts, or uint32 where these would overflow.

    Raises
    ------
    ScanError
        A patch reaches beyond the object, or counts beyond uint32.
    """
    N = probe.shape[-1]
    corners = np.rint(positions_px).astype(int) - N // 2
    residuals = positions_px - np.rint(positions_px)
    outside = (corners < 0).any(axis=1) | (corners + N > object_.shape).any(axis=1)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        y, x = (float(value) for value in positions_px[i])
        raise ScanError(
            f"{name}: position {i} at (y, x) = ({y:g}, {x:g}) puts its {N} x {N} patch outside the object "
            f"of shape {object_.shape}; enlarge the object or move the positions (see place)."
        )

    def intensities(chunk: slice, beam: Complex64) -> Float:
        patches = np.stack([object_[y : y + N, x : x + N] for y, x in corners[chunk]])
        return diffraction_amplitudes(fourier_shift(beam, residuals[chunk, None, :]), patches) ** 2

    chunks = [slice(i, i + _CHUNK) for i in range(0, len(corners), _CHUNK)]
    total = sum(float(intensities(chunk, probe).sum()) for chunk in chunks) / len(corners)
    scaled = settle(probe * np.sqrt(photons_per_pattern / total))
    rng = np.random.RandomState(seed)
    counts = np.concatenate([rng.poisson(np.round(intensities(chunk, scaled), 3)) for chunk in chunks])
    if counts.max() > np.iinfo(np.uint32).max:
        raise ScanError(
            f"{name}: a pixel counts {counts.max()} photons, more than uint32 holds "
            f"({np.iinfo(np.uint32).max}); lower photons_per_pattern ({photons_per_pattern:g})."
        )
    dtype = np.uint16 if counts.max() <= np.iinfo(np.uint16).max else np.uint32
    positions = np.asarray(positions_px, np.float64)
    return Scan(counts.astype(dtype), positions, scaled, object_, object_is_truth=True, name=name)
