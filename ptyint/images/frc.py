"""Fourier ring correlation: on which scales do two images agree?"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ComparisonError, ConfigError
from ptyint.images.gauge import Mask, bounding_box, checked_pair, soft_window

Threshold = Literal["1/7", "0.5", "1-bit", "half-bit"]
THRESHOLDS: tuple[Threshold, ...] = get_args(Threshold)
MIN_FRC_EDGE_PX = 16


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
    """

    spatial_frequency_per_px: NDArray[np.float64]
    correlation: NDArray[np.float64]
    n_pixels: NDArray[np.int64]

    def threshold(self, threshold: Threshold) -> NDArray[np.float64]:
        """The threshold curve over the rings; a ConfigError unless it is one of :data:`THRESHOLDS`.

        "1/7" and "0.5" are constants. "1-bit" and "half-bit" follow van Heel & Schatz, J. Struct. Biol. 151 (2005)
        250: ``(S + 2 sqrt(S / n) + 1 / sqrt(n)) / (S + 1 + 2 sqrt(S / n))``, n pixels in the ring, with the
        signal-to-noise ratio S = 0.5 of each image (1 bit) or (sqrt(2) - 1) / 2 = 0.2071 (half a bit). n counts the
        ring as it is, with neither Friedel's symmetry nor the window's area taken off.
        """
        if threshold not in THRESHOLDS:
            raise ConfigError(f"threshold is {threshold!r}; it must be one of {', '.join(map(repr, THRESHOLDS))}.")
        constants, ratios = {"1/7": 1 / 7, "0.5": 0.5}, {"1-bit": 0.5, "half-bit": (np.sqrt(2) - 1) / 2}
        if threshold in constants:
            return np.full(self.correlation.shape, constants[threshold])
        ratio = ratios[threshold]
        root = np.sqrt(self.n_pixels)
        cross = 2 * np.sqrt(ratio) / root
        return np.asarray((ratio + cross + 1 / root) / (ratio + 1 + cross))

    def resolution_px(self, threshold: Threshold) -> float | None:
        """Full period, in pixels, at which the correlation first falls below the threshold, between rings linearly.

        None: it never falls below, the images agree up to the Nyquist frequency (a period of 2 px) and the data set no
        limit. ``inf``: it is below from the first ring on, nothing is resolved.
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


def frc(image_a: NDArray[Any], image_b: NDArray[Any], *, mask: Mask | None = None, taper: float = 0.125) -> FRC:
    """Fourier ring correlation of two images (H, W), complex or real.

    ``Re(sum A conj(B)) / sqrt(sum |A|^2 sum |B|^2)`` over each ring (Saxton & Baumeister, J. Microsc. 127 (1982) 127;
    the real part, so that noise averages to 0 and a phase between the images counts as disagreement). Against the
    border: images are cropped to the mask's bounding box, their mean under the window taken off, and multiplied with a
    raised cosine that falls to 0 at the mask's border, over `taper` of the shorter edge; 0 for none (periodic images).

    Raises
    ------
    ComparisonError
        Shapes differ, a value inside the mask is not finite, or the mask's box has an edge under 16 px.
    ConfigError
        `taper` is out of range.
    """
    if not 0 <= taper <= 0.5:
        raise ConfigError(f"taper is {taper}; it must be from 0 to 0.5.")
    mask = checked_pair(image_a, image_b, mask)
    box = bounding_box(mask)
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
    return FRC(np.arange(1, edge // 2 + 1) / edge, correlation, np.bincount(ring)[keep].astype(np.int64))


def _windowed(image: NDArray[Any], window: NDArray[np.float64]) -> NDArray[Any]:
    image = np.where(window > 0, image, 0).astype(np.complex128)
    return np.asarray(window * (image - np.average(image, weights=window)))
