"""Remove what ptychography cannot determine, and report what was removed.

An object is known up to a global phase, a linear phase ramp, an amplitude scale and a shift::

    candidate(r) = scale * exp(i (phase_rad + ramp_rad_per_px . r)) * reference(r - shift_px)

with r = (y, x) counted in pixels from ``[H // 2, W // 2]``. The peak of the Fourier transform of
candidate * conj(reference) gives a first ramp, the peak of the cross-correlation a first shift; Gauss-Newton refines
both together, which frees them of the mask's influence on either peak. Scale and phase are at every step the complex
least-squares factor, as in the error metric of Maiden & Rodenburg, Ultramicroscopy 109 (2009) 1256.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ComparisonError, ConfigError

Complex = NDArray[np.complexfloating[Any, Any]]
Mask = NDArray[np.bool_]

_SPLINE_REACH = 4
"""Pixels over which a cubic spline feels a border: its pole is -0.268, and 0.268**4 = 0.5 %."""
_MAX_ITERATIONS = 30
_CONVERGED = 1e-6
"""Steps smaller than this, in pixels (shift) or rad over half the field (ramp), are not taken."""


@dataclass(frozen=True, eq=False)
class GaugeResult:
    """A candidate in the gauge of its reference, and what was removed to get there.

    Attributes
    ----------
    aligned : ndarray of complex128, (H, W)
        The candidate without phase, ramp, scale and shift: compare this with the reference.
    mask : ndarray of bool, (H, W)
        Where to compare: the mask given, less the rim into which a shift brought foreign pixels.
    phase_rad : float
        At pixel ``[H // 2, W // 2]``.
    ramp_rad_per_px : tuple of float
        ``(y, x)``.
    scale : float
        Amplitude of the candidate over that of the reference. It minimises `residual_after`, so noise in the
        candidate counts as amplitude: divided by rho**2 relative to a noise-free candidate's.
    shift_px : tuple of float
        ``(y, x)`` by which the candidate's content lay from the reference's.
    residual_before, residual_after : float
        ``|candidate - reference| / |reference|`` (Frobenius, inside `mask`). With phase and scale removed, the latter
        is ``sqrt(1 - rho**2)``, rho being the complex correlation coefficient.
    """

    aligned: NDArray[np.complex128]
    mask: Mask
    phase_rad: float
    ramp_rad_per_px: tuple[float, float]
    scale: float
    shift_px: tuple[float, float]
    residual_before: float
    residual_after: float

    @property
    def removed(self) -> dict[str, Any]:
        """What was removed and the residuals, by name: all but the images."""
        return {field.name: getattr(self, field.name) for field in fields(self)[2:]}


def remove_gauge(
    candidate: Complex,
    reference: Complex,
    *,
    mask: Mask | None = None,
    max_shift_px: float = 8.0,
    phase: bool = True,
    ramp: bool = True,
    scale: bool = True,
    shift: bool = True,
) -> GaugeResult:
    """Bring a candidate into the gauge of a reference.

    Parameters
    ----------
    candidate, reference : ndarray of complex, (H, W)
        Two objects on one grid.
    mask : ndarray of bool, (H, W), optional
        Where to compare; values outside do not matter and may be NaN. None: everywhere.
    max_shift_px : float
        A shift beyond this (in y or x) is not believed and not applied.
    phase, ramp, scale, shift : bool
        What to remove; the rest stays in and is reported as none. Shifts interpolate the candidate with cubic splines.

    Returns
    -------
    GaugeResult
        Its numbers are finite even where candidate and reference have nothing in common.

    Raises
    ------
    ComparisonError
        Shapes differ, a value inside the mask is not finite, the mask is empty, or an image is zero throughout it.
    ConfigError
        `max_shift_px` is negative.
    """
    if not max_shift_px >= 0:
        raise ConfigError(f"max_shift_px is {max_shift_px}; it must be 0 or more.")
    mask = checked_pair(candidate, reference, mask)
    cand = _finite(candidate)
    ref = _finite(reference)
    for name, image in (("candidate", cand), ("reference", ref)):
        if not image[mask].any():
            raise ComparisonError(f"{name} is zero throughout the mask: there is nothing to align.")
    problem = _Problem(cand, ref, mask, max_shift_px, np.array([shift, shift, ramp, ramp]))
    fit = problem.refine(problem.start())
    shift_y, shift_x, ramp_y, ramp_x = map(float, fit.at)
    size = abs(fit.factor)
    factor = (size if scale else 1.0) * (fit.factor / size if phase else 1.0)
    aligned = factor * fit.moved
    return GaugeResult(
        aligned=aligned,
        mask=fit.mask,
        phase_rad=float(-np.angle(factor)) + 0.0,  # never -0.0
        ramp_rad_per_px=(ramp_y, ramp_x),
        scale=float(1 / abs(factor)),
        shift_px=(shift_y, shift_x),
        residual_before=_residual(cand[fit.mask], ref[fit.mask]),
        residual_after=_residual(aligned[fit.mask], ref[fit.mask]),
    )


def checked_pair(a: NDArray[Any], b: NDArray[Any], mask: Mask | None) -> Mask:
    """The mask (all True for None) of two images (H, W) that are finite inside it; a ComparisonError for any others."""
    if np.ndim(a) != 2 or np.shape(a) != np.shape(b):
        raise ComparisonError(f"The images have shapes {np.shape(a)} and {np.shape(b)}; both must be the same (H, W).")
    mask = np.ones(np.shape(a), dtype=bool) if mask is None else np.asarray(mask)
    if mask.dtype != bool or mask.shape != np.shape(a):
        raise ComparisonError(f"mask is {mask.dtype} of shape {mask.shape}; expected bool of shape {np.shape(a)}.")
    if not mask.any():
        raise ComparisonError(f"mask of shape {mask.shape} is empty: there is nothing to compare.")
    for name, image in (("first (candidate)", a), ("second (reference)", b)):
        bad = int(np.count_nonzero(~np.isfinite(np.asarray(image)[mask])))
        if bad:
            raise ComparisonError(f"The {name} image holds {bad} NaN or infinite values inside the mask.")
    return mask


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Smallest rows and columns that hold all of a mask (H, W), which has at least one pixel."""
    from scipy.ndimage import find_objects

    (box,) = find_objects(mask.astype(int))
    return tuple(box)


def soft_window(mask: Mask, taper_px: float) -> NDArray[np.float64]:
    """1 inside the mask (H, W), falling to 0 at its border (and the array's) over `taper_px` as a raised cosine.

    A Tukey window for masks of any shape: half a Hann window of the Euclidean distance to the border.
    """
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    window: NDArray[np.float64] = np.sin(np.pi / 2 * np.clip(distance / (taper_px + 1), 0, 1)) ** 2
    return window


@dataclass(frozen=True, eq=False)
class _Fit:
    """One trial: `moved` is the candidate without shift and ramp; times `factor` it is nearest to the reference.

    `at` holds the shift, then the ramp, each as ``(y, x)``.
    """

    at: NDArray[np.float64]
    factor: complex
    moved: NDArray[np.complex128]
    mask: Mask
    residual: float


@dataclass(frozen=True, eq=False)
class _Problem:
    """`free` says of each number in :attr:`_Fit.at` whether it is fitted."""

    cand: NDArray[np.complex128]
    ref: NDArray[np.complex128]
    mask: Mask
    max_shift: float
    free: Mask

    def start(self) -> _Fit:
        """The better of: no shift, and the peak of the cross-correlation; each with its own ramp."""
        fit = self.trial(np.zeros(4))
        fit = min(fit, self.trial(self._with_ramp(fit.at)), key=lambda f: f.residual)
        shifted = self._with_shift(fit.at)
        if shifted[:2].any():
            fit = min(fit, self.trial(self._with_ramp(shifted)), key=lambda f: f.residual)
        return fit

    def refine(self, fit: _Fit) -> _Fit:
        """Gauss-Newton on shift and ramp; a step that does not lower the residual is halved, then given up."""
        if not self.free.any():
            return fit
        unit = np.repeat([1.0, max(self.ref.shape) / 2], 2)  # shift in pixels, ramp in rad over half the field
        for _ in range(_MAX_ITERATIONS):
            step = self._newton_step(fit)
            if np.abs(step * unit).max() < _CONVERGED:
                return fit
            for _ in range(4):
                trial = self.trial(fit.at + step)
                if trial.residual < fit.residual:
                    break
                step = step / 2
            else:
                return fit
            fit = trial
        return fit

    def trial(self, at: NDArray[np.float64]) -> _Fit:
        """Undo a shift and a ramp, then fit the complex factor."""
        moved, mask = self._undo(at)
        inside, target = moved[mask], self.ref[mask]
        if not inside.any() or not target.any() or np.abs(at[:2]).max() > self.max_shift:
            return _Fit(at, 1, moved, mask, np.inf)
        factor = _factor(inside, target)
        return _Fit(at, factor, moved, mask, _residual(factor * inside, target))

    def _undo(self, at: NDArray[np.float64]) -> tuple[NDArray[np.complex128], Mask]:
        from scipy import ndimage

        moved, shift, ramp = self.cand, at[:2], at[2:]
        if ramp.any():
            y, x = _coordinates(moved.shape)
            moved = moved * np.exp(-1j * (ramp[0] * y + ramp[1] * x))
        if not shift.any():
            return moved, self.mask
        moved = ndimage.shift(moved, -shift, order=3, mode="nearest")
        came = ndimage.shift(self.mask.astype(float), -shift, order=1) > 0.999
        rim = np.ones((2 * _SPLINE_REACH + 1,) * 2, dtype=bool)
        return moved, self.mask & ndimage.binary_erosion(came, rim)

    def _with_ramp(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """`at` and what is left of its ramp, to a quarter of a period over the field or better."""
        from scipy import fft

        if not self.free[2]:
            return at
        moved, mask = self._undo(at)
        product = moved * self.ref.conj() * mask
        size = [fft.next_fast_len(2 * edge) for edge in product.shape]
        spectrum = np.abs(fft.fft2(product, s=size))
        peak = np.unravel_index(int(spectrum.argmax()), spectrum.shape)
        left = [2 * np.pi * fft.fftfreq(n)[p] for n, p in zip(size, peak, strict=True)]
        return at + np.array([0, 0, *left], dtype=np.float64)

    def _with_shift(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """`at` with the shift of the demodulated images' cross-correlation, or as it is where that is not believable.

        The magnitude of the correlation does not see the phase; means are taken off and the mask's border softened,
        so that the mask does not correlate with itself.
        """
        from skimage.registration import phase_cross_correlation

        if not self.free[0]:
            return at
        window = soft_window(self.mask, min(self.mask.shape) / 8)
        moved, _ = self._undo(at)
        ref, cand = (window * (image - np.average(image, weights=window)) for image in (self.ref, moved))
        if not ref.any() or not cand.any():
            return at
        found, _, _ = phase_cross_correlation(ref, cand, upsample_factor=10, normalization=None)
        return np.array([*-found, *at[2:]], dtype=np.float64) if np.abs(found).max() <= self.max_shift else at

    def _newton_step(self, fit: _Fit) -> NDArray[np.float64]:
        """Step of (shift, ramp) from the linearised model, the factor fitted along and dropped."""
        mask, ref = fit.mask, self.ref
        inside = ref[mask]
        moved = fit.moved[mask]
        overlap = np.vdot(inside, moved) / np.vdot(inside, inside)
        step = np.zeros(4)
        if abs(overlap) < 1e-9:
            return step
        # The candidate is the noisy side: candidate / overlap has the reference in it with weight 1.
        error = moved / overlap - inside
        # ref(r - s) in the candidate means that moving back by s less leaves -s . grad(ref) behind.
        columns = [-np.gradient(ref, axis=axis)[mask] for axis in (0, 1)]
        columns += [1j * axis[mask] * inside for axis in _coordinates(ref.shape)]
        jacobian = np.stack([*np.array(columns)[self.free], inside, 1j * inside])
        size = np.linalg.norm(jacobian, axis=1)
        size[size == 0] = 1
        jacobian /= size[:, None]
        gram = (jacobian.conj() @ jacobian.T).real
        solution = np.linalg.lstsq(gram, (jacobian.conj() @ error).real, rcond=1e-10)[0] / size
        step[self.free] = solution[:-2]
        return step


def _factor(moved: NDArray[np.complex128], target: NDArray[np.complex128]) -> complex:
    """The complex least-squares factor; where there is no correlation, the ratio of the norms."""
    energy = np.vdot(moved, moved).real
    ratio = float(np.linalg.norm(target) / np.sqrt(energy))
    factor = complex(np.vdot(moved, target) / energy)
    return factor if abs(factor) > 1e-9 * ratio else complex(ratio)


def _residual(candidate: NDArray[np.complex128], reference: NDArray[np.complex128]) -> float:
    return float(np.linalg.norm(candidate - reference) / np.linalg.norm(reference))


def _coordinates(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(y, x) from pixel [H // 2, W // 2], full size."""
    y, x = np.indices(shape, dtype=np.float64)
    return y - shape[0] // 2, x - shape[1] // 2


def _finite(image: Complex) -> NDArray[np.complex128]:
    return np.nan_to_num(np.asarray(image, dtype=np.complex128), nan=0.0, posinf=0.0, neginf=0.0)
