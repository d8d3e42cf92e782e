"""How close is a candidate to its reference? Formula and source in each docstring.

All functions take ``(candidate, reference)`` in this order and look only inside `mask`. Those on objects expect the
gauge to be removed (:mod:`ptyint.images.gauge`); :func:`compare_objects` removes it first. A quantity that is not
defined (the correlation of a constant, say) is NaN: no comparison with NaN passes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ComparisonError, ConfigError
from ptyint.images.frc import FRC, THRESHOLDS, frc
from ptyint.images.gauge import Complex, GaugeResult, Mask, checked_pair, remove_gauge

Real = NDArray[np.floating[Any]]
_SSIM_WINDOW_PX = 7


def ssim(candidate: Real, reference: Real, *, data_range: float, mask: Mask | None = None) -> float:
    """Structural similarity (Wang et al., IEEE Trans. Image Process. 13 (2004) 600), scikit-image's, 7 x 7 windows.

    The mean is taken over the pixels whose whole window lies inside the mask; `data_range` is what the values can span.

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

    NaN or infinity in either array gives NaN, as do two zero arrays; a zero reference alone gives inf. Unequal shapes
    and empty arrays are a ComparisonError.
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

    def correlation(self, part: str) -> float:
        """Of the ``phase`` or the ``amplitude``."""
        value = self.values[f"{part}_correlation"]
        return float("nan") if value is None else value


def compare_objects(
    candidate: Complex, reference: Complex, mask: Mask | None = None, *, pixel_size_m: float | None = None
) -> ObjectComparison:
    """Remove the gauge, then measure everything inside the mask, the scanned region.

    The values are ``relative_frobenius``, ``phase_error_rad``; ``correlation``, ``ssim``, ``psnr_db`` and ``nrmse``,
    each as ``phase_...`` and ``amplitude_...``; ``frc_resolution_px_<threshold>`` for each of :data:`THRESHOLDS`, and
    ``frc_resolution_m_<threshold>`` where the pixel size is known. Phases are taken about the reference's mean phase
    with a data range of 2 pi. Amplitudes are compared after a least-squares scale of their own (so that wrong phases
    do not count twice); the data range is the largest amplitude of the reference. Errors as in :func:`remove_gauge`
    and :func:`frc`.
    """
    return measure(remove_gauge(candidate, reference, mask=mask), reference, pixel_size_m=pixel_size_m)


def measure(gauge: GaugeResult, reference: Complex, *, pixel_size_m: float | None = None) -> ObjectComparison:
    """The second half of :func:`compare_objects`: everything about a candidate whose gauge has been removed."""
    if pixel_size_m is not None and not 0 < pixel_size_m < np.inf:
        raise ConfigError(f"pixel_size_m is {pixel_size_m}; it must be positive, or None where it is not known.")
    inside, aligned = gauge.mask, gauge.aligned
    reference = np.where(inside, reference, 0)
    rings = frc(aligned, reference, mask=inside)
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
        values[f"frc_resolution_px_{threshold}"] = period = rings.resolution_px(threshold)
        if pixel_size_m is not None:
            values[f"frc_resolution_m_{threshold}"] = None if period is None else period * pixel_size_m
    return ObjectComparison(values, gauge, rings)


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
