"""Inference speed of each backend as a ratio to the matrix product of the same machine, wall and per CPU second.

Each backend runs in a process of its own; whole calls of `infer`, of which the first builds the network, alternate with
rounds of a 2048 x 2048 float32 matrix product. The ratio per CPU second holds on a busy machine too:

    .venv/bin/python benchmarks/inference_speed.py [--gridsize 2] [--groups 256] [--rounds 5]
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

EDGE, PRODUCTS = 2048, 6


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(backend: str, gridsize: int, n_groups: int, rounds: int) -> dict[str, Any]:
    """Wall and CPU seconds of each call, the first one first, and of the matrix products after each."""
    from ptyint.backends import load
    from ptyint.backends.weights import initial_weights
    from ptyint.config import InferenceConfig, ModelConfig
    from ptyint.scans.batches import GroupedScan
    from ptyint.scans.fixtures import load_fixture

    scan = load_fixture("synthetic-64")
    config = InferenceConfig(ModelConfig(N=64, gridsize=gridsize, n_filters_scale=1), n_groups=n_groups)
    data, module = GroupedScan.from_config(scan, config), load(backend)
    weights = initial_weights(config.model, scan.probe, 0)
    matrix = np.random.default_rng(0).random((EDGE, EDGE), np.float32)
    calls, products = [], []
    for _ in range(rounds + 1):
        calls.append(timed(lambda: module.infer(data, weights, config)))
        products.append(timed(lambda: [matrix @ matrix for _ in range(PRODUCTS)]))
    return {"groups": data.groups.n_groups, "calls": calls, "products": products}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gridsize", type=int, default=1)
    parser.add_argument("--groups", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", help="only this one, as JSON (what the parent process asks for)")
    options = parser.parse_args()
    if options.backend:
        print(json.dumps(measure(options.backend, options.gridsize, options.groups, options.rounds)))
        return
    print(f"gridsize {options.gridsize}, N 64, n_filters_scale 1: medians of {options.rounds} calls after the first")
    for backend in ("tensorflow", "pytorch"):
        command = [sys.executable, __file__, "--backend", backend, "--gridsize", str(options.gridsize)]
        command += ["--groups", str(options.groups), "--rounds", str(options.rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        gflop = PRODUCTS * 2 * EDGE**3 / 1e9
        for i, clock in enumerate(("wall", "CPU")):
            first, *later = (found["groups"] / call[i] for call in found["calls"])
            per_gflop = [rate * one[i] / gflop for rate, one in zip(later, found["products"][1:], strict=True)]
            print(f"{backend:11} {clock:4} first call {first:6.1f}, later {statistics.median(later):6.1f} groups/s, "
                  f"{statistics.median(per_gflop):.2f} groups per GFLOP")  # fmt: skip


if __name__ == "__main__":
    main()
