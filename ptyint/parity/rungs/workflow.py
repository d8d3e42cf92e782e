"""Backends that train, save, load, infer and stitch by functions of their own: what can be held against what.

A short training of the tiny fixture through those functions, in the backend's own process, then its bundle loaded in a
new one. None of it needs weights that come from outside.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.weights import initial_weights, kernels, layers_apart
from ptyint.config import legacy_values
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, bounded, compare, error_of
from ptyint.parity.configurations import FIXTURE
from ptyint.parity.problems import Problems, workflow_training
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, noted
from ptyint.parity.tolerances import INITIAL_SPREAD, TOLERANCES
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.forward import normalise_probe

GRIDSIZES = (1, 2)
ARCHITECTURE = "architecture"
CARRIED = "weights cannot be carried over: "
ILLUMINATING, ENERGY = "probe that illuminates in training", "mean energy of the network's inputs"
HELD = ("N", "gridsize", "n_filters_scale", "batch_size", "nepochs", "amp_activation", "object.big", "probe.big",
        "probe.mask")  # fmt: skip
"""Legacy keys that the backend's own configuration gate must have set (CONFIG-001)."""


def measure(bench: Bench, part: str = "") -> Captured:
    """Configuration, initial weights and one short training; keys begin with ``gridsize/``."""
    backend, seed = bench.backend, bench.problems.seed
    arrays: Captured = {}
    path = _scan_file(bench)
    for gridsize in GRIDSIZES:
        config = workflow_training(gridsize, seed)
        with noted(arrays, f"{gridsize}/configuration"):
            held = backend.configure(config)
            arrays[f"{gridsize}/configuration"] = np.array(_plain({key: held.get(key) for key in HELD}))
        with noted(arrays, f"{gridsize}/initial"):
            initial = backend.initial_weights(config)
            arrays |= {f"{gridsize}/initial/{name}": np.asarray(array) for name, array in initial.items()}
        with noted(arrays, f"{gridsize}/run"):
            ran = backend.run(path, config, _own(bench, gridsize))
            arrays |= {f"{gridsize}/run/{name}": np.asarray(array) for name, array in ran.items()}
    return arrays


def reload(bench: Bench, part: str = "") -> Captured:
    """What the saved bundles predict in this process, which must be a new one."""
    arrays: Captured = {}
    path = _scan_file(bench)
    for gridsize in GRIDSIZES:
        with noted(arrays, f"{gridsize}/run"):
            config = workflow_training(gridsize, bench.problems.seed)
            loaded = bench.backend.reload(path, config, _own(bench, gridsize))
            arrays |= {f"{gridsize}/run/{name}": np.asarray(array) for name, array in loaded.items()}
    return arrays


def outputs(measured: Measured, side: str) -> Captured:
    """What the short trainings gave: predictions and stitched objects."""
    return {key: array for key, array in measured.of(side, "workflow").items() if "/run/" in key}


def _scan_file(bench: Bench) -> Path:
    path = bench.folder / f"{bench.name}.scan.npz"
    write_scan(load_fixture(FIXTURE), path)
    return path


def _own(bench: Bench, gridsize: int) -> Path:
    own = bench.folder / f"{bench.name}-{gridsize}"
    own.mkdir(exist_ok=True)
    return own


def _plain(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


# --- the judge ---


def contract(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Of each side with a workflow: its own configuration gate, its network as it starts, what illuminates it."""
    both = {side: measured.of(side, "workflow") for side in measured.with_capability("workflow")}
    for gridsize in GRIDSIZES:
        case = f"gridsize {gridsize}"
        for side, arrays in both.items():
            yield from _configuration(side, arrays, gridsize, case, problems.seed)
            yield from _start(side, arrays, gridsize, case, problems.seed)
            yield from _illumination(side, arrays, gridsize, case)
        if len(both) == 2:
            reference, candidate = both
            theirs, ours = (_of(arrays, f"{gridsize}/initial/") for arrays in both.values())
            apart = layers_apart(ours, theirs) if ours else "it gives no initial weights"
            yield _architecture(case, (candidate, reference), apart)


def forward(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Of each side with a workflow: a patch for each group."""
    for gridsize in GRIDSIZES:
        for side in measured.with_capability("workflow"):
            arrays = measured.of(side, "workflow")
            yield _one_patch_a_group(side, arrays, gridsize)


def persistence(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Of each side with a workflow: what its bundle predicts in a new process, against what it did before."""
    for gridsize in GRIDSIZES:
        for side in measured.with_capability("workflow"):
            pair = (measured.of(side, "reloaded"), measured.of(side, "workflow"))
            for tap in ("patches", "stitched"):
                where = Place("persistence", f"its own bundle, gridsize {gridsize}", "float32", tap)
                key = f"{gridsize}/run/{tap}"
                yield compare(where, (side, side), pair, (key, key), TOLERANCES["forward"])


def _configuration(side: str, arrays: Arrays, gridsize: int, case: str, seed: int) -> Iterator[Finding]:
    legacy = legacy_values(workflow_training(gridsize, seed))
    expected = _plain({key: legacy.get(key) for key in HELD})
    seen = str(arrays.get(f"{gridsize}/configuration", error_of(arrays, f"{gridsize}/configuration")))
    where = Place("contract", case, tap="its own params.cfg after update_legacy_dict")
    yield Finding.fact(where, (side, REFEREE), seen == expected, seen)


def _of(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _start(side: str, arrays: Arrays, gridsize: int, case: str, seed: int) -> Iterator[Finding]:
    """Architecture and initialisation against this package's network: Glorot-uniform kernels, zero biases."""
    initial = _of(arrays, f"{gridsize}/initial/")
    config = workflow_training(gridsize, seed)
    ours = initial_weights(config.model, load_fixture(FIXTURE).probe, config.seed)
    apart = layers_apart(initial, ours) if initial else error_of(arrays, f"{gridsize}/initial")
    yield _architecture(case, (side, REFEREE), apart)
    spreads = {}
    for name, kernel in kernels(initial).items():
        fan = kernel.shape[0] * kernel.shape[1] * (kernel.shape[2] + kernel.shape[3])
        spread = abs(float(kernel.std()) * np.sqrt(fan / 2) - 1)
        spreads[name] = (spread, INITIAL_SPREAD / np.sqrt(kernel.size))
    where = Place("contract", case, tap="initial kernels: spread over Glorot's, less 1")
    if not spreads:
        yield Finding.missing(where, (side, REFEREE), "it gives no initial weights")
        return
    name, (spread, bound) = max(spreads.items(), key=lambda one: one[1][0] / one[1][1])
    n_red = sum(error > tolerance for error, tolerance in spreads.values())
    note = f"{n_red} of {len(spreads)} kernels lie outside; most {name}"
    yield bounded(where, (side, REFEREE), spread, bound, note)
    largest = max((float(np.abs(array).max()) for array in initial.values() if array.ndim == 1), default=0.0)
    yield bounded(Place("contract", case, tap="initial biases: largest"), (side, REFEREE), largest, 0.0)


def _architecture(case: str, pair: tuple[str, str], apart: str) -> Finding:
    other = "ptyint" if pair[1] == REFEREE else pair[1]
    note = f"{CARRIED}{apart} (this: {pair[0]}, the other: {other})"
    return Finding.fact(Place("contract", case, tap=ARCHITECTURE), pair, not apart, note)


def _illumination(side: str, arrays: Arrays, gridsize: int, case: str) -> Iterator[Finding]:
    """The probe that really illuminated in training, and the energy of the network's inputs, against the referee."""
    scan, config = load_fixture(FIXTURE), workflow_training(gridsize).model
    probe = normalise_probe(scan.probe, config.probe_scale)
    expected = {"probe": probe[0].astype(np.complex128), "energy": np.array((scan.N / 2) ** 2)}
    seen = _of(arrays, f"{gridsize}/run/")
    if "inputs" in seen:
        patterns = seen["inputs"].astype(np.float64).reshape(-1, scan.N, scan.N)
        seen["energy"] = np.array((patterns**2).sum(axis=(1, 2)).mean())
    if not seen:
        seen = {"error/probe": np.array(error_of(arrays, f"{gridsize}/run"))}
    for tap, key in ((ILLUMINATING, "probe"), (ENERGY, "energy")):
        where = Place("contract", case, "float32", tap)
        yield compare(where, (side, REFEREE), (seen, expected), (key, key), TOLERANCES["forward"])


def _one_patch_a_group(side: str, arrays: Arrays, gridsize: int) -> Finding:
    n_groups = workflow_training(gridsize).n_groups or 0
    patches = arrays.get(f"{gridsize}/run/patches")
    where = Place("forward", f"gridsize {gridsize}", "float32", "object patches at inference")
    if patches is None:
        return Finding.missing(where, (side, REFEREE), error_of(arrays, f"{gridsize}/run"))
    note = "" if len(patches) == n_groups else f"{n_groups} groups in, {len(patches)} patches out"
    return bounded(where, (side, REFEREE), abs(len(patches) - n_groups), 0.0, note)


OWN = Capture("workflow", measure, "workflow")
RELOADED = Capture("reloaded", reload, "workflow", fresh=True, after=("workflow",))
