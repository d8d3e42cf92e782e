"""Scans made by Ptychodus' own simulator, and the real application on them. Without Ptychodus this does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import save_diffraction_data, save_product
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.simulate.diffraction import generate_diffraction_data

from ptyint.parity.worker import ONE_THREAD
from ptyint.scans import simulate

N = 64
ENERGY_EV, DISTANCE_M, PIXEL_M = 8000.0, 1.5, 12e-9
WAVELENGTH_M = 6.62607015e-34 * 299792458.0 / (ENERGY_EV * 1.602176634e-19)
CENTRE_X_M, CENTRE_Y_M = 3.1e-6, -1.7e-6
SHAPE = (104, 116)
"""Of the object: not square, and its centre not at 0 m, so that nothing can be exchanged unseen."""
PHOTONS = 1e6
BAD = (20, 45)
FRAMEWORKS = ("tensorflow", "keras", "torch")

PROGRAM = f"""
import sys
from ptyint.ptychodus.command import main
code = main()
print("FRAMEWORKS", [name for name in {FRAMEWORKS} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""
"""The command, which says at its end what its process has imported."""


def photon_scale() -> float:
    """Ptychodus' simulated intensities times this are counts, where the probe is photon-normalised."""
    return float((WAVELENGTH_M * DISTANCE_M / (N * PIXEL_M**2)) ** 2)


def truth(modes: int = 2) -> Product:
    """A product to simulate from: an L among leaves, a second, weaker mode, positions between the pixels."""
    object_ = simulate.dead_leaves_object(SHAPE, seed=11)
    probe = simulate.defocused_probe(N)[0].astype(np.complex128)
    second = probe * np.linspace(-1, 1, N)[None, :]
    second *= 0.35 * np.linalg.norm(probe) / np.linalg.norm(second)
    stack = np.stack([probe, second][:modes])
    stack *= np.sqrt(PHOTONS / 0.5) / np.linalg.norm(stack)
    rng = np.random.default_rng(12)
    y, x = np.meshgrid(np.arange(5) * 7.0, np.arange(6) * 8.0, indexing="ij")
    y, x = (axis.ravel() - axis.mean() + rng.uniform(-1.5, 1.5, axis.size) for axis in (y, x))
    points = [
        ProbePosition(int(3 * i + 4), CENTRE_X_M + PIXEL_M * x[i], CENTRE_Y_M + PIXEL_M * y[i]) for i in range(x.size)
    ]
    pixel = PixelGeometry(PIXEL_M, PIXEL_M)
    return Product(
        metadata=ProductMetadata("marked", "", DISTANCE_M, ENERGY_EV, PHOTONS, 0.0, 0.0, 0.0),
        probe_positions=ProbePositionSequence(points),
        probes=ProbeSequence(stack.astype(np.complex64), None, pixel),
        object_=Object(object_, pixel, ObjectCenter(CENTRE_X_M, CENTRE_Y_M)),
        losses=[],
    )


def counts(product: Product, *, noise: bool = True) -> AssembledDiffractionData:
    """Counts of a detector with one bad pixel, by Ptychodus' own forward model; or, without noise, what is expected."""
    simulated = generate_diffraction_data(product)
    patterns = simulated.get_patterns() * photon_scale()
    bad = np.zeros(patterns.shape[1:], np.bool_)
    if noise:
        patterns = np.random.default_rng(13).poisson(patterns).astype(np.uint32)
        bad[BAD] = True
        patterns[:, *BAD] = 4_000_000
    return AssembledDiffractionData(simulated.get_indexes(), patterns, simulated.get_pixel_geometry(), bad)


def flat(product: Product) -> Product:
    """The same without its object: 1 everywhere on the same grid."""
    object_ = product.object_
    ones = np.ones_like(object_.get_array())
    return replace(product, object_=Object(ones, object_.get_pixel_geometry(), object_.get_center()))


def write_input(
    folder: Path, algorithm: str, product: Product, data: AssembledDiffractionData, **settings: object
) -> Path:
    """An input folder of a batch run, written by Ptychodus itself."""
    folder.mkdir()
    save_product(folder / "product.h5", product)
    save_diffraction_data(folder / "diffraction.h5", data)
    return write_settings(folder, algorithm, **settings)


def write_settings(folder: Path, algorithm: str, **settings: object) -> Path:
    """``settings.ini`` of a small network, in an input folder."""
    given = {"NumFiltersScale": 1, "NumEpochs": 1, "BatchSize": 4, "PatchCenterSize": 12, "NumNearestNeighbors": 6}
    lines = [f"{key} = {value}" for key, value in {**given, **settings}.items()]
    (folder / "settings.ini").write_text("\n".join(["[Processing]", f"Algorithm = {algorithm}", "[Ptyint]", *lines]))
    return folder


@dataclass(frozen=True)
class Run:
    """What a run of the application came to."""

    code: int
    log: str
    errors: str
    files: list[str]


def arguments(action: str, source: Path, output: Path) -> list[str]:
    """Of a batch run."""
    return ["-b", action, "-i", str(source), "-o", str(output)]


def environment(shadow: Path | None = None) -> dict[str, str]:
    """For a run with one thread; torch is hidden where a folder is given to do it with."""
    env = {**os.environ, **ONE_THREAD}
    if shadow is not None:
        shadow.mkdir()
        (shadow / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
        env["PYTHONPATH"] = str(shadow)
    return env


def run(action: str, source: Path, output: Path, *program: str, env: dict[str, str] | None = None) -> Run:
    """Run the application; `program` is what to start instead of our command in a fresh interpreter."""
    command = [*(program or (sys.executable, "-c", PROGRAM)), *arguments(action, source, output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env or environment())
    files = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    return Run(done.returncode, done.stdout, done.stderr, files)
