"""How time and memory of an inference grow with the number of patterns: from a file to a stitched object in a file.

    .venv/bin/python benchmarks/scaling.py [--backend pytorch] [--gridsize 1] [--patterns 1000 3000 10000] [--plot FILE]

Each size runs in a process of its own: read and check, digest, infer and place, synchronise phases, stitch, write.
Printed are the CPU seconds of each phase (a busy machine does not stretch them), those of the network among them, the
wall seconds of all, and the peak memory; at the end the exponents of their growth. The scan is simulated, chunk by
chunk, on a square raster of 5 px with jitter; N is 64.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

STEP_PX, N, PHOTONS = 5, 64, 1e5


class Simulated:
    """Patterns of a smooth object, which is a formula, made when they are asked for."""

    def __init__(self, positions_px: Any, probe: Any) -> None:
        self.positions_px, self.probe = positions_px, probe
        self.shape, self.dtype = (len(positions_px), N, N), np.dtype(np.float32)

    def __getitem__(self, index: Any) -> Any:
        from ptyint.scans.forward import diffraction_amplitudes

        places, from_centre = self.positions_px[index], np.arange(N) - N // 2
        made = []
        for some in np.array_split(places, 1 + len(places) // 512):
            y, x = some[:, 0, None, None] + from_centre[:, None], some[:, 1, None, None] + from_centre
            patches = ((0.8 + 0.1 * np.sin(x / 7)) * np.exp(0.9j * np.cos(y / 9 - x / 13))).astype(np.complex64)
            made.append(diffraction_amplitudes(self.probe, patches).astype(np.float32))
        return np.rint(np.concatenate(made) ** 2 * PHOTONS).astype(np.float32)


def written(n: int, path: Path) -> None:
    """A scan of about n patterns as an uncompressed NPZ."""
    import ptyint
    from ptyint.scans.simulate import defocused_probe

    side, rng = round(n**0.5), np.random.default_rng(0)
    raster = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = 40 + STEP_PX * raster + rng.uniform(-1, 1, raster.shape)
    probe = defocused_probe(N)
    ptyint.write_scan(ptyint.Scan(Simulated(positions, probe), positions, probe), path)


def measure(backend: str, gridsize: int, path: Path) -> dict[str, Any]:
    """CPU seconds of each phase, wall seconds of all, and the peak memory in GiB."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(holder: Any, name: str, phase: str) -> None:
        original = getattr(holder, name)

        @functools.wraps(original)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return original(*arguments, **options)
            finally:
                seconds[phase] += time.process_time() - start

        setattr(holder, name, call)

    import ptyint
    from ptyint import backends
    from ptyint.backends.weights import initial_weights
    from ptyint.images import reconstruction, stitch
    from ptyint.scans.batches import GroupedScan

    model = ptyint.ModelConfig(N=N, gridsize=gridsize, n_filters_scale=1)
    config = ptyint.InferenceConfig(model, backend=backend)
    network = type(backends.load(backend)).network
    timed(network, "predict", "network")
    timed(GroupedScan, "batch", "batches")
    timed(GroupedScan, "from_config", "group")
    timed(stitch, "_synchronised", "synchronise")
    timed(stitch, "_stitched", "stitch")
    timed(ptyint, "read_scan", "read")
    timed(ptyint, "validate_scan", "check")
    wall, start = time.perf_counter(), time.process_time()
    scan = ptyint.read_scan(path)
    ptyint.validate_scan(scan)
    begun = time.process_time()
    _ = scan.sha256
    seconds["digest"] = time.process_time() - begun
    inferred = ptyint.infer(scan, config, initial_weights(model, scan.probe, 0), keep=False)
    image = reconstruction.assemble(inferred, path.parent)
    begun = time.process_time()
    np.savez(path.parent / "object.npz", object_=image.object_, coverage=image.coverage)
    seconds["write"] = time.process_time() - begun
    total = time.process_time() - start
    seconds["place"] = total - sum(seconds.values())
    peak = reconstruction.peak_memory_bytes() / 2**30
    whole = {"total": total, "other": total - seconds["network"], "wall": time.perf_counter() - wall}
    return {"n": scan.n, **seconds, **whole, "GiB": peak}


def exponent(rows: list[dict[str, Any]], phase: str) -> float:
    """Of the growth with n, by least squares."""
    n, values = (np.log([max(row[key], 1e-9) for row in rows]) for key in ("n", phase))
    return float(np.polyfit(n, values, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="pytorch")
    parser.add_argument("--gridsize", type=int, default=1)
    parser.add_argument("--patterns", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where scans are kept, to be used again")
    parser.add_argument("--plot", type=Path, help="a picture of what was measured")
    parser.add_argument("--scan", type=Path, help="only this one, as JSON (what the parent process asks for)")
    options = parser.parse_args()
    if options.scan:
        print(json.dumps(measure(options.backend, options.gridsize, options.scan)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for n in options.patterns:
            path = folder / f"{n}.npz"
            if not path.is_file():
                written(n, path)
            own = [sys.executable, __file__, "--backend", options.backend, "--gridsize", str(options.gridsize)]
            made = subprocess.run([*own, "--scan", str(path)], capture_output=True, text=True, check=True)
            rows.append(json.loads(made.stdout.splitlines()[-1]))
            print(*(f"{name} {value:.2f}" for name, value in rows[-1].items()), sep="  ", flush=True)
    print("exponents:", *(f"{phase} {exponent(rows, phase):.2f}" for phase in rows[0] if phase != "n"))
    if options.plot:
        plot(rows, options.plot)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds of each phase against the number of patterns, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    n = [row["n"] for row in rows]
    for number, phase in enumerate(one for one in rows[0] if one not in ("n", "GiB", "wall")):
        values = [row[phase] for row in rows]
        axes.loglog(n, values, color=f"C{number % 10}", marker="osv^"[number % 4], label=phase)
    axes.set(xlabel="patterns", ylabel="CPU time / s")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
