"""Training speed of each backend as a ratio to the matrix product of the same machine, wall and per CPU second.

Each backend runs in a process of its own; rounds of training steps alternate with rounds of a 2048 x 2048 float32
matrix product, so that both see the same machine. The ratio per CPU second holds on a busy machine too:

    .venv/bin/python benchmarks/training_speed.py [--gridsize 2] [--rounds 7]

With `--file npz` or `--file cxi` the patterns come from such a file, and what is compared is the wall time without and
with the thread that reads ahead, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZE, STEPS, EDGE, PRODUCTS = 16, 12, 2048, 6


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def built(backend: str, gridsize: int) -> tuple[Any, Any, Any]:
    """A scan, how it is trained on, and a network."""
    from ptyint.backends import load
    from ptyint.backends.weights import initial_weights
    from ptyint.config import ModelConfig, TrainingConfig
    from ptyint.scans.fixtures import load_fixture

    scan = load_fixture("synthetic-64")
    model = ModelConfig(N=64, gridsize=gridsize, n_filters_scale=1)
    config = TrainingConfig(model, batch_size=BATCH_SIZE, probe_trainable=True)
    module: Any = load(backend)
    return scan, config, module.build(config, initial_weights(model, scan.probe, 0))


def measure(backend: str, gridsize: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of the steps and of the products, round by round."""
    from ptyint.scans.batches import GroupedScan

    scan, config, network = built(backend, gridsize)
    data = GroupedScan.from_config(scan, config)
    batch = data.batch(np.arange(BATCH_SIZE))
    matrix = np.random.default_rng(0).random((EDGE, EDGE), np.float32)
    for _ in range(3):
        network.train_step(batch, 1e-3)
        matrix @ matrix
    found: dict[str, list[tuple[float, float]]] = {"steps": [], "products": []}
    for _ in range(rounds):
        found["products"].append(timed(lambda: [matrix @ matrix for _ in range(PRODUCTS)]))
        found["steps"].append(timed(lambda: [network.train_step(batch, 1e-3) for _ in range(STEPS)]))
    return found


def measure_reading(backend: str, gridsize: int, rounds: int, suffix: str) -> dict[str, list[tuple[float, float]]]:
    """The same of steps whose patterns come from a file, read when they are needed, and read ahead."""
    import ptyint
    from ptyint.scans import batches

    scan, config, network = built(backend, gridsize)
    known = {"pixel_size_m": 1e-8, "wavelength_m": 1e-10, "detector_distance_m": 1.0}  # which a CXI must hold
    ahead = {"needed": lambda made: made, "ahead": batches.ahead}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ahead}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan.{suffix}"
        ptyint.write_scan(replace(scan, **known), path)
        stored = ptyint.read_scan(path, **({"translation": "beam"} if suffix == "cxi" else {}))
        data = batches.GroupedScan.from_config(stored, config)

        def steps() -> None:
            for batch in islice(data.batches(BATCH_SIZE, np.random.default_rng(0)), STEPS):
                network.train_step(batch, 1e-3)

        steps()
        for number in range(rounds):
            for name in list(ahead)[:: 1 if number % 2 else -1]:
                batches.ahead = ahead[name]
                found[name].append(timed(steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gridsize", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", choices=("npz", "cxi"), help="patterns come from such a file")
    parser.add_argument("--backend", help="only this one, as JSON (what the parent process asks for)")
    options = parser.parse_args()
    if options.backend:
        given = options.backend, options.gridsize, options.rounds
        print(json.dumps(measure_reading(*given, options.file) if options.file else measure(*given)))
        return
    print(
        f"gridsize {options.gridsize}, N 64, n_filters_scale 1, batch {BATCH_SIZE}: medians of {options.rounds} rounds"
    )
    for backend in ("tensorflow", "pytorch"):
        command = [sys.executable, __file__, "--backend", backend]
        command += ["--gridsize", str(options.gridsize), "--rounds", str(options.rounds)]
        command += ["--file", options.file] if options.file else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        if options.file:
            ratios = [one[0] / other[0] for one, other in zip(found["needed"], found["ahead"], strict=True)]
            print(f"{backend:11} {statistics.median(ratios):.2f} times as fast with reading ahead, "
                  f"{min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip
            continue
        groups, gflop = STEPS * BATCH_SIZE, PRODUCTS * 2 * EDGE**3 / 1e9
        for i, clock in enumerate(("wall", "CPU")):
            steps, products = ([one[i] for one in found[name]] for name in ("steps", "products"))
            ratio = statistics.median(groups / a * b / gflop for a, b in zip(steps, products, strict=True))
            print(f"{backend:11} {clock:4} {groups / statistics.median(steps):6.1f} groups/s at "
                  f"{gflop / statistics.median(products):5.0f} GFLOP/s, {ratio:.2f} groups per GFLOP")  # fmt: skip


if __name__ == "__main__":
    main()
