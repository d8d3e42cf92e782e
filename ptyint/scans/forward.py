"""Probe x object -> diffraction pattern, in float64 NumPy, written to be read.

Axis -2 is y, axis -1 is x; the zero frequency sits at ``[N // 2, N // 2]``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


def fourier_shift(array: ArrayLike, shift_yx: ArrayLike) -> Complex:
    """Shift arrays (..., N, N) by ``(y, x)`` (..., 2) in px: multiply the spectrum by ``exp(-2 pi i k . shift)``."""
    field = np.asarray(array, np.complex128)
    shift = np.asarray(shift_yx, np.float64)
    ky, kx = np.fft.fftfreq(field.shape[-2]), np.fft.fftfreq(field.shape[-1])
    phase = shift[..., 0, None, None] * ky[:, None] + shift[..., 1, None, None] * kx
    return np.asarray(np.fft.ifft2(np.fft.fft2(field) * np.exp(-2j * np.pi * phase)))


def propagate(exit_wave: ArrayLike) -> Complex:
    """Far field of exit waves (..., N, N): orthonormal FFT, ``fftshift(fft2(exit_wave)) / N``."""
    spectrum = np.fft.fft2(np.asarray(exit_wave, np.complex128), norm="ortho")
    return np.asarray(np.fft.fftshift(spectrum, axes=(-2, -1)))


def illuminate(probe: ArrayLike, object_patches: ArrayLike) -> Complex:
    """Exit waves (..., modes, N, N): each mode of the probe (..., modes, N, N) times each object patch (..., N, N)."""
    patches = np.asarray(object_patches, np.complex128)
    return np.asarray(np.asarray(probe, np.complex128) * patches[..., None, :, :])


def diffraction_amplitudes(probe: ArrayLike, object_patches: ArrayLike) -> Float:
    """Amplitudes (k, N, N) of the patterns of object patches (k, N, N); modes of the probe add incoherently.

    ``sqrt(sum over modes |propagate(probe * patch)|**2)``; its square is the expected count where the probe,
    (modes, N, N) or one per pattern (k, modes, N, N), is photon-normalised.
    """
    wave = propagate(illuminate(probe, object_patches))
    return np.asarray(np.sqrt((np.abs(wave) ** 2).sum(axis=-3)))


def probe_mask(N: int) -> Float:
    """Disk of radius N/4 around ``[N // 2, N // 2]``: 1 inside, 0 outside. Shape (N, N)."""
    y, x = np.indices((N, N)) - N // 2
    return (np.hypot(y, x) <= N / 4).astype(np.float64)


def normalise_probe(probe: ArrayLike, probe_scale: float) -> Complex:
    """``p / (probe_scale * mean|mask * p|)`` of a probe (modes, N, N), as PtychoPINN's ``set_probe_guess``.

    The mean runs over all N**2 pixels; several modes enter it as ``sqrt(sum |p|**2)``. A ValueError where the probe
    vanishes inside the mask.
    """
    p = np.asarray(probe, np.complex128)
    magnitude = np.sqrt((np.abs(p) ** 2).sum(axis=0))
    mean = float((probe_mask(p.shape[-1]) * magnitude).mean())
    if not mean > 0:
        raise ValueError(f"The probe's mean magnitude within N/4 of its centre is {mean}; give a non-zero one.")
    return p / (probe_scale * mean)
