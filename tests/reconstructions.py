"""Reconstructions made by hand, for tests that need no framework."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptyint.images.reconstruction import Reconstruction


def make(
    backend: str, *, noise: float = 0.0, factor: complex = 1.0, truth: bool = True, **facts: Any
) -> Reconstruction:
    """A smooth complex object of 48 x 48 with `noise` on it, times `factor`."""
    y, x = np.indices((48, 48)) / 48
    object_ = (0.8 + 0.15 * np.sin(9 * x + 4 * y)) * np.exp(0.6j * np.cos(11 * y - 5 * x * y))
    generator = np.random.default_rng(3)
    seen = object_ + noise * (generator.normal(size=object_.shape) + 1j * generator.normal(size=object_.shape))
    probe = np.exp(-((y - 0.5) ** 2 + (x - 0.5) ** 2) / 0.02 + 4j * x)[None].astype(np.complex64)
    inside = np.zeros((48, 48), bool)
    inside[6:-6, 6:-6] = True
    known: dict[str, Any] = {
        "backend": backend,
        "description": {"version": "1.0", "device": "cpu", "threads": 2},
        "scan": "made by hand",
        "scan_sha256": "a",
        "n_patterns": 100,
        "n_groups": 100,
        "groups_sha256": "b",
        "initial_weights_sha256": "c",
        "config": {"model": {"N": 64, "gridsize": 1}, "nepochs": 3, "backend": backend, "output_dir": backend},
        "M": 12,
        "ended": "all epochs done",
        "training_seconds": 1.5,
        "inference_seconds": 0.25,
        "peak_memory_bytes": 2**30,
        "pixel_size_m": None,
    }
    return Reconstruction(
        object_=(factor * seen).astype(np.complex64),
        coverage=inside.astype(float),
        scanned=inside,
        probe=probe,
        initial_probe=probe,
        positions_px=generator.uniform(8, 40, (100, 2)),
        losses=np.array([5.0, 3.0, 2.5]),
        learning_rates=np.full(3, 1e-3),
        epoch_seconds=np.array([2.0, 1.0, 1.0]),
        facts={**known, **facts},
        ground_truth=object_.astype(np.complex64) if truth else None,
    )
