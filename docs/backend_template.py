"""A backend to start from: copy it into a package of yours and name it there (docs/backends.md).

It declares what it can do, offers that and nothing else. This one is NumPy and offers four operators; replace their
bodies by calls of your own code. Positions are ``(y, x)`` in px, the zero frequency lies at ``[N // 2, N // 2]``.
"""

import numpy as np


class MyBackend:
    """See ptyint.backends.protocol.Backend."""

    name = "mine"  # as in the entry point
    capabilities = frozenset({"operators"})  # of ptyint.backends.protocol.CAPABILITIES
    precisions = ("float32", "float64")  # in which the operators compute
    frameworks = ()  # of "tensorflow", "torch": what this process loads

    def describe(self):
        """What a report says of this backend: plain values, with at least these two."""
        return {"backend": self.name, "version": "1.0", "device": "cpu"}

    def operators(self, precision="float64"):
        """Operator by name, arrays in, an array of the asked precision out; one docstring line says what it calls."""
        real, complex_ = np.dtype(precision), np.result_type(precision, np.complex64)

        def normalise_probe(probe, probe_scale):
            """The mean magnitude inside N/4 becomes 1 / probe_scale."""
            y, x = np.indices(probe.shape[-2:]) - probe.shape[-1] // 2
            inside = np.hypot(y, x) <= probe.shape[-1] / 4
            mean = np.mean(inside * np.sqrt((np.abs(probe) ** 2).sum(axis=0)))
            return (probe / (probe_scale * mean)).astype(complex_)

        def illuminate(probe, patches):
            """Probe (modes, N, N) times patches (groups, C, N, N)."""
            return (probe * patches[:, :, None]).astype(complex_)

        def propagate(exit_wave):
            """Centred orthonormal FFT of (groups, C, modes, N, N)."""
            return np.fft.fftshift(np.fft.fft2(exit_wave, norm="ortho"), axes=(-2, -1)).astype(complex_)

        def poisson_nll(counts, expected, good_pixels):
            """Mean over good pixels of ``l - k log l``, with l the expected counts and a background of 0.01."""
            rate = expected + 0.01
            nll = (rate - counts * np.log(rate)) * good_pixels
            return np.asarray(nll.sum() / (good_pixels.sum() * (counts.size // good_pixels.size)), real)

        return {
            "normalise_probe": normalise_probe,
            "illuminate": illuminate,
            "propagate": propagate,
            "poisson_nll": poisson_nll,
        }


BACKEND = MyBackend()
