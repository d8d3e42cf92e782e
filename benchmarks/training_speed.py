"""Training speed of each backend as a ratio to the matrix product of the same machine, wall and per CPU second.

Each backend runs in a process of its own; rounds of training steps alternate with rounds of a 2048 x 2048 float32
matrix product, so that both see the same machine. The ratio per CPU second holds on a busy machine too:

    .venv/bin/python benchmarks/training_speed.py [--gridsize 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH_SIZE, STEPS, EDGE, PRODUCTS = 16, 12, 2048, 6


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(backend: str, gridsize: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of the steps and of the products, round by round."""
    from ptyint.backends import load
    from ptyint.backends.weights import initial_weights
    from ptyint.config import ModelConfig, TrainingConfig
    from ptyint.scans.batches import GroupedScan
    from ptyint.scans.fixtures import load_fixture

    scan = load_fixture("synthetic-64")
    model = ModelConfig(N=64, gridsize=gridsize, n_filters_scale=1)
    config = TrainingConfig(model, batch_size=BATCH_SIZE, probe_trainable=True)
    data = GroupedScan.from_config(scan, config)
    module: Any = load(backend)
    network = module.build(config, initial_weights(model, scan.probe, 0))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gridsize", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", help="only this one, as JSON (what the parent process asks for)")
    options = parser.parse_args()
    if options.backend:
        print(json.dumps(measure(options.backend, options.gridsize, options.rounds)))
        return
    print(
        f"gridsize {options.gridsize}, N 64, n_filters_scale 1, batch {BATCH_SIZE}: medians of {options.rounds} rounds"
    )
    for backend in ("tensorflow", "pytorch"):
        command = [sys.executable, __file__, "--backend", backend]
        command += ["--gridsize", str(options.gridsize), "--rounds", str(options.rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        groups, gflop = STEPS * BATCH_SIZE, PRODUCTS * 2 * EDGE**3 / 1e9
        for i, clock in enumerate(("wall", "CPU")):
            steps, products = ([one[i] for one in found[name]] for name in ("steps", "products"))
            ratio = statistics.median(groups / a * b / gflop for a, b in zip(steps, products, strict=True))
            print(f"{backend:11} {clock:4} {groups / statistics.median(steps):6.1f} groups/s at "
                  f"{gflop / statistics.median(products):5.0f} GFLOP/s, {ratio:.2f} groups per GFLOP")  # fmt: skip


if __name__ == "__main__":
    main()
