"""How close is a candidate to its reference? Formula and source in each docstring.

All functions take ``(candidate, reference)`` in this order and look only inside `mask`. Those on objects expect the
gauge to be removed (:mod:`ptyint.gauge`); :func:`compare_objects` removes it first. A quantity that is not defined (the
correlation of a constant, say) is NaN: no comparison with NaN passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ConfigError
from ptyint.gauge import ComparisonError, Complex, GaugeResult, Mask, checked_pair, remove_gauge, soft_window

Real = NDArray[np.floating[Any]]
Threshold = Literal["1/7", "0.5", "1-bit", "half-bit"]
THRESHOLDS: tuple[Threshold, ...] = get_args(Threshold)
MIN_FRC_EDGE_PX = 16
_SSIM_WINDOW_PX = 7


@dataclass(frozen=True, eq=False)
class FRC:
    """Fourier ring correlation.

    Ring k holds the Fourier pixels nearest to k / n cycles per pixel, n being the shorter edge of the image, for
    k = 1 ... n // 2. The zero frequency is left out: the mean has been taken off.

    Attributes
    ----------
    spatial_frequency_per_px : ndarray of float64, (n // 2,)
        Cycles per pixel.
    correlation : ndarray of float64, (n // 2,)
        From -1 to 1; 0 in a ring where an image has no power.
    n_pixels : ndarray of int64, (n // 2,)
        Fourier pixels in the ring.
    pixel_size_m : float, optional
    """

    spatial_frequency_per_px: NDArray[np.float64]
    correlation: NDArray[np.float64]
    n_pixels: NDArray[np.int64]
    pixel_size_m: float | None = None

    @property
    def spatial_frequency_per_m(self) -> NDArray[np.float64]:
        """Cycles per metre."""
        return self.spatial_frequency_per_px / self._pixel_size_m()

    def threshold(self, threshold: Threshold) -> NDArray[np.float64]:
        """The threshold curve over the rings.

        "1/7" and "0.5" are constants. "1-bit" and "half-bit" follow van Heel & Schatz, J. Struct. Biol. 151 (2005)
        250: ``(S + 2 sqrt(S / n) + 1 / sqrt(n)) / (S + 1 + 2 sqrt(S / n))``, n pixels in the ring, with the
        signal-to-noise ratio S = 0.5 of each image (1 bit) or (sqrt(2) - 1) / 2 = 0.2071 (half a bit). n counts the
        ring as it is, with neither Friedel's symmetry nor the window's area taken off.

        Raises
        ------
        ConfigError
            The name is not one of :data:`THRESHOLDS`.
        """
        constants = {"1/7": 1 / 7, "0.5": 0.5}
        if threshold in constants:
            return np.full(self.correlation.shape, constants[threshold])
        ratios = {"1-bit": 0.5, "half-bit": (np.sqrt(2) - 1) / 2}
        if threshold not in ratios:
            raise ConfigError(f"threshold is {threshold!r}; it must be one of {', '.join(map(repr, THRESHOLDS))}.")
        ratio = ratios[threshold]
        root = np.sqrt(self.n_pixels)
        cross = 2 * np.sqrt(ratio) / root
        return np.asarray((ratio + cross + 1 / root) / (ratio + 1 + cross))

    def resolution_px(self, threshold: Threshold) -> float | None:
        """Full period, in pixels, at which the correlation first falls below the threshold.

        Returns
        -------
        float or None
            Linearly interpolated between rings. None: it never falls below, the images agree up to the Nyquist
            frequency (a period of 2 px) and the data set no limit. ``inf``: it is below from the first ring on,
            nothing is resolved.
        """
        excess = self.correlation - self.threshold(threshold)
        below = np.flatnonzero(excess < 0)
        if not len(below):
            return None
        k = int(below[0])
        if k == 0:
            return float("inf")
        f = self.spatial_frequency_per_px
        part = excess[k - 1] / (excess[k - 1] - excess[k])
        return float(1 / (f[k - 1] + part * (f[k] - f[k - 1])))

    def resolution_m(self, threshold: Threshold) -> float | None:
        """:meth:`resolution_px` in metres.

        Raises
        ------
        ConfigError
            The pixel size is not known.
        """
        pixel_size = self._pixel_size_m()
        period = self.resolution_px(threshold)
        return None if period is None else period * pixel_size

    def _pixel_size_m(self) -> float:
        if self.pixel_size_m is None:
            raise ConfigError("pixel_size_m is None: give frc() the pixel size, or ask for pixels.")
        return self.pixel_size_m


def frc(
    image_a: NDArray[Any],
    image_b: NDArray[Any],
    *,
    mask: Mask | None = None,
    pixel_size_m: float | None = None,
    taper: float = 0.125,
) -> FRC:
    """Fourier ring correlation of two images, complex or real.

    ``Re(sum A conj(B)) / sqrt(sum |A|^2 sum |B|^2)`` over each ring (Saxton & Baumeister, J. Microsc. 127 (1982) 127;
    the real part, so that noise averages to 0 and a phase between the images counts as disagreement). Against the
    border: images are cropped to the mask's bounding box, their mean under the window taken off, and multiplied with a
    raised cosine that falls to 0 at the mask's border.

    Parameters
    ----------
    image_a, image_b : ndarray, (H, W)
    mask : ndarray of bool, (H, W), optional
    pixel_size_m : float, optional
    taper : float
        Width of the window's fall as a part of the shorter edge; 0 for none (periodic images).

    Returns
    -------
    FRC

    Raises
    ------
    ComparisonError
        Shapes differ, a value inside the mask is not finite, or the mask's box has an edge under 16 px.
    ConfigError
        `taper` or `pixel_size_m` is out of range.
    """
    if not 0 <= taper <= 0.5:
        raise ConfigError(f"taper is {taper}; it must be from 0 to 0.5.")
    if pixel_size_m is not None and not (0 < pixel_size_m < np.inf):
        raise ConfigError(f"pixel_size_m is {pixel_size_m}; it must be positive, or None where it is not known.")
    mask = checked_pair(image_a, image_b, mask)
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    mask = mask[box]
    edge = min(mask.shape)
    if edge < MIN_FRC_EDGE_PX:
        raise ComparisonError(f"The mask's box is {mask.shape} px; a ring correlation needs {MIN_FRC_EDGE_PX} or more.")
    window = soft_window(mask, taper * edge) if taper else mask.astype(np.float64)
    a, b = (np.fft.fft2(_windowed(np.asarray(image)[box], window)) for image in (image_a, image_b))

    radius = np.hypot(np.fft.fftfreq(mask.shape[0])[:, None], np.fft.fftfreq(mask.shape[1]))
    ring = np.rint(radius * edge).astype(np.int64).ravel()
    keep = slice(1, edge // 2 + 1)
    cross, power_a, power_b = (
        np.bincount(ring, values.ravel())[keep] for values in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    )
    norm = np.sqrt(power_a) * np.sqrt(power_b)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    return FRC(np.arange(1, edge // 2 + 1) / edge, correlation, np.bincount(ring)[keep].astype(np.int64), pixel_size_m)


def ssim(candidate: Real, reference: Real, *, data_range: float, mask: Mask | None = None) -> float:
    """Structural similarity (Wang et al., IEEE Trans. Image Process. 13 (2004) 600), scikit-image's, 7 x 7 windows.

    Parameters
    ----------
    candidate, reference : ndarray of float, (H, W)
    data_range : float
        Range that the values can span; it sets the stabilising constants.
    mask : ndarray of bool, (H, W), optional
        The mean is taken over the pixels whose whole window lies inside. None: scikit-image's own value.

    Raises
    ------
    ComparisonError
        Complex images, unequal shapes, values not finite inside the mask, or no whole window inside it.
    ConfigError
        `data_range` is not positive.
    """
    from scipy.ndimage import binary_erosion
    from skimage.metrics import structural_similarity

    mask = _checked_real(candidate, reference, data_range, mask)
    whole = binary_erosion(mask, np.ones((_SSIM_WINDOW_PX, _SSIM_WINDOW_PX), dtype=bool))
    if not whole.any():
        size = f"{_SSIM_WINDOW_PX} x {_SSIM_WINDOW_PX}"
        raise ComparisonError(f"No window of {size} px lies inside the mask of {mask.sum()} px.")
    images = (np.where(mask, image, 0).astype(np.float64) for image in (reference, candidate))
    _, local = structural_similarity(*images, win_size=_SSIM_WINDOW_PX, data_range=data_range, full=True)
    return float(local[whole].mean())


def psnr(candidate: Real, reference: Real, *, data_range: float, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(data_range^2 / mean (candidate - reference)^2)``; equal: inf.

    Parameters and errors as :func:`ssim`.
    """
    from skimage.metrics import peak_signal_noise_ratio

    mask = _checked_real(candidate, reference, data_range, mask)
    true, test = _inside(reference, mask), _inside(candidate, mask)
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(true, test, data_range=data_range))


def nrmse(candidate: Real, reference: Real, *, mask: Mask | None = None) -> float:
    """Root mean square error over the reference's root mean square: ``|candidate - reference| / |reference|``.

    Parameters and errors as :func:`ssim`. A zero reference gives inf, or NaN if the candidate is zero too.
    """
    from skimage.metrics import normalized_root_mse

    mask = _checked_real(candidate, reference, 1.0, mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(normalized_root_mse(_inside(reference, mask), _inside(candidate, mask)))


def phase_error_rad(candidate: Complex, reference: Complex, mask: Mask | None = None) -> float:
    """Root mean square of the phase difference, wrapped to (-pi, pi]; independent phases give pi / sqrt(3) = 1.81."""
    mask = checked_pair(candidate, reference, mask)
    difference = np.angle(np.asarray(candidate)[mask] * np.conj(np.asarray(reference)[mask]))
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))


def correlation(a: Real, b: Real, mask: Mask | None = None) -> float:
    """Pearson's correlation coefficient of two real images; NaN if one of them is constant."""
    mask = _checked_real(a, b, 1.0, mask)
    x, y = _inside(a, mask), _inside(b, mask)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def phase_correlation(candidate: Complex, reference: Complex, mask: Mask | None = None) -> float:
    """Pearson's correlation of the phases, each about its image's mean phase, the argument of the sum over the mask."""
    mask = checked_pair(candidate, reference, mask)
    return correlation(_phase(candidate, candidate, mask), _phase(reference, reference, mask), mask)


def amplitude_correlation(candidate: Complex, reference: Complex, mask: Mask | None = None) -> float:
    """Pearson's correlation of the amplitudes."""
    return correlation(np.abs(candidate), np.abs(reference), mask)


def relative_frobenius(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """``|candidate - reference| / |reference|`` (Frobenius) of arrays of any one shape, computed in double precision.

    NaN or infinity in either array gives NaN, as do two zero arrays; a zero reference alone gives inf.

    Raises
    ------
    ComparisonError
        Shapes differ or the arrays are empty.
    """
    a, b = np.asarray(candidate), np.asarray(reference)
    if a.shape != b.shape or not a.size:
        raise ComparisonError(f"The arrays have shapes {a.shape} and {b.shape}; both must be the same, and not empty.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    a, b = a.astype(wide).ravel(), b.astype(wide).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@dataclass(frozen=True, eq=False)
class ObjectComparison:
    """What :func:`compare_objects` found.

    Attributes
    ----------
    values : dict of float or None
        By name, see :func:`compare_objects`. None only for a resolution that the data do not limit.
    gauge : GaugeResult
        What was removed first; ``gauge.aligned`` and ``gauge.mask`` are what was compared.
    frc : FRC
        Of the complex objects.
    """

    values: dict[str, float | None]
    gauge: GaugeResult
    frc: FRC


def compare_objects(
    candidate: Complex,
    reference: Complex,
    mask: Mask | None = None,
    *,
    pixel_size_m: float | None = None,
    max_shift_px: float = 8.0,
) -> ObjectComparison:
    """Remove the gauge, then measure everything.

    Parameters
    ----------
    candidate, reference : ndarray of complex, (H, W)
    mask : ndarray of bool, (H, W), optional
        The scanned region.
    pixel_size_m : float, optional
    max_shift_px : float
        As for :func:`ptyint.gauge.remove_gauge`.

    Returns
    -------
    ObjectComparison
        With the values ``relative_frobenius``, ``phase_error_rad``; ``correlation``, ``ssim``, ``psnr_db`` and
        ``nrmse``, each as ``phase_...`` and ``amplitude_...``; ``frc_resolution_px_<threshold>`` for each of
        :data:`THRESHOLDS`, and ``frc_resolution_m_<threshold>`` where the pixel size is known.
        Phases are taken about the reference's mean phase with a data range of 2 pi. Amplitudes are compared after a
        least-squares scale of their own (so that wrong phases do not count twice); the data range is the largest
        amplitude of the reference.

    Raises
    ------
    ComparisonError, ConfigError
        As :func:`ptyint.gauge.remove_gauge` and :func:`frc`.
    """
    gauge = remove_gauge(candidate, reference, mask=mask, max_shift_px=max_shift_px)
    inside, aligned = gauge.mask, gauge.aligned
    reference = np.where(inside, reference, 0)
    rings = frc(aligned, reference, mask=inside, pixel_size_m=pixel_size_m)
    amplitude, target = np.abs(aligned), np.abs(reference)
    amplitude = amplitude * (np.vdot(amplitude[inside], target[inside]) / np.vdot(amplitude[inside], amplitude[inside]))
    parts: dict[str, tuple[Real, Real, float]] = {
        "phase": (_phase(aligned, reference, inside), _phase(reference, reference, inside), 2 * np.pi),
        "amplitude": (amplitude, target, float(target[inside].max())),
    }
    values: dict[str, float | None] = {
        "relative_frobenius": relative_frobenius(aligned[inside], reference[inside]),
        "phase_error_rad": phase_error_rad(aligned, reference, inside),
    }
    for name, (test, true, data_range) in parts.items():
        values[f"{name}_ssim"] = ssim(test, true, data_range=data_range, mask=inside)
        values[f"{name}_psnr_db"] = psnr(test, true, data_range=data_range, mask=inside)
        values[f"{name}_nrmse"] = nrmse(test, true, mask=inside)
    values["phase_correlation"] = phase_correlation(aligned, reference, inside)
    values["amplitude_correlation"] = amplitude_correlation(aligned, reference, inside)
    for threshold in THRESHOLDS:
        values[f"frc_resolution_px_{threshold}"] = rings.resolution_px(threshold)
        if pixel_size_m is not None:
            values[f"frc_resolution_m_{threshold}"] = rings.resolution_m(threshold)
    return ObjectComparison(values, gauge, rings)


def _windowed(image: NDArray[Any], window: NDArray[np.float64]) -> NDArray[Any]:
    image = np.where(window > 0, image, 0).astype(np.complex128)
    return np.asarray(window * (image - np.average(image, weights=window)))


def _phase(image: Complex, about: Complex, mask: Mask) -> NDArray[np.float64]:
    """Phase of `image` relative to the mean phase of `about`, in (-pi, pi]; 0 outside the mask."""
    inside = np.where(mask, image, 0).astype(np.complex128)
    mean = np.asarray(about)[mask].astype(np.complex128).sum()
    return np.asarray(np.angle(inside * np.conj(mean)))


def _inside(image: Real, mask: Mask) -> NDArray[np.float64]:
    return np.asarray(image)[mask].astype(np.float64)


def _checked_real(a: Real, b: Real, data_range: float, mask: Mask | None) -> Mask:
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        raise ComparisonError("The images are complex; give amplitudes or phases.")
    if not 0 < data_range < np.inf:
        raise ConfigError(f"data_range is {data_range}; it must be positive and finite.")
    return checked_pair(a, b, mask)
