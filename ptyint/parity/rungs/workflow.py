"""Backends that train, save, load, infer and stitch by functions of their own: what can be held against what.

A short training of the tiny fixture through those functions, in the backend's own process, then its bundle loaded in a
new one. None of it needs weights that come from outside.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import numpy_network
from ptyint.backends.weights import Weights, initial_weights
from ptyint.config import legacy_values
from ptyint.parity import extras, problems
from ptyint.parity.compare import REFEREE, compare, error_of
from ptyint.parity.offered import UNSUPPORTED
from ptyint.parity.results import Finding
from ptyint.parity.tolerances import INITIAL_SPREAD, TOLERANCES
from ptyint.parity.worker import Arrays, noted, read, write
from ptyint.scans import forward
from ptyint.scans.batches import Batch
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

GRIDSIZES = (1, 2)
ARCHITECTURE = "architecture"
CARRIED = "weights cannot be carried over: "
ILLUMINATING, ENERGY = "probe that illuminates in training", "mean energy of the network's inputs"
HELD = ("N", "gridsize", "n_filters_scale", "batch_size", "nepochs", "amp_activation", "object.big", "probe.big",
        "probe.mask")  # fmt: skip
"""Legacy keys that the backend's own configuration gate must have set (CONFIG-001)."""


def measure(backend: Any, folder: Path, seed: int = 0) -> Arrays:
    """Configuration, initial weights and one short training; keys begin with ``gridsize/``."""
    arrays: Arrays = {}
    path = _scan_file(folder, backend.name)
    for gridsize in GRIDSIZES:
        config = extras.workflow_training(gridsize, seed)
        with noted(arrays, f"{gridsize}/configuration"):
            held = backend.configure(config)
            arrays[f"{gridsize}/configuration"] = np.array(_plain({key: held.get(key) for key in HELD}))
        with noted(arrays, f"{gridsize}/initial"):
            found = backend.initial_weights(config)
            arrays |= {f"{gridsize}/initial/{name}": np.asarray(array) for name, array in found.items()}
        with noted(arrays, f"{gridsize}/carried"):
            weights, batch = _carried(gridsize, seed)
            arrays[f"{gridsize}/carried"] = backend.predict(config, weights, batch.inputs)
        with noted(arrays, f"{gridsize}/run"):
            ran = backend.run(path, config, _own(folder, backend.name, gridsize))
            arrays |= {f"{gridsize}/run/{name}": np.asarray(array) for name, array in ran.items()}
    return arrays


def reload(backend: Any, folder: Path, seed: int = 0) -> Arrays:
    """What the saved bundles predict in this process, which must be a new one."""
    arrays: Arrays = {}
    path = _scan_file(folder, backend.name)
    for gridsize in GRIDSIZES:
        with noted(arrays, f"{gridsize}/run"):
            config = extras.workflow_training(gridsize, seed)
            found = backend.reload(path, config, _own(folder, backend.name, gridsize))
            arrays |= {f"{gridsize}/run/{name}": np.asarray(array) for name, array in found.items()}
    return arrays


def keep(folder: Path, target: Path, name: str) -> None:
    """What the short trainings gave, predictions and stitched objects: from `folder` to ``TARGET/NAME.outputs.npz``."""
    ran = {key: array for key, array in read(folder, f"{name}.workflow").items() if "/run/" in key}
    if ran:
        write(target, f"{name}.outputs", ran)


def _carried(gridsize: int, seed: int) -> tuple[Weights, Batch]:
    """Weights, as after some training, and a batch for the network of :func:`extras.workflow_training`."""
    case = problems.Case({"gridsize": gridsize})
    batch, weights, _ = problems.inputs_of(case, "float32", seed)
    return weights, batch


def _scan_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.scan.npz"
    write_scan(load_fixture(problems.FIXTURE), path)
    return path


def _own(folder: Path, name: str, gridsize: int) -> Path:
    own = folder / f"{name}-{gridsize}"
    own.mkdir(exist_ok=True)
    return own


def _plain(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


# --- the judge ---


def judge(found: Mapping[str, Arrays], reloaded: Mapping[str, Arrays], seed: int = 0) -> list[Finding]:
    """Findings of the rungs contract, forward and persistence.

    Parameters
    ----------
    found, reloaded : dict of str to dict
        Of the sides with a workflow, reference first: what :func:`measure` and :func:`reload` gave.
    seed : int
    """
    findings: list[Finding] = []
    for gridsize in GRIDSIZES:
        case = f"gridsize {gridsize}"
        for side, arrays in found.items():
            findings += _configuration(side, arrays, gridsize, case, seed)
            findings += _start(side, arrays, gridsize, case, seed)
            findings += _illumination(side, arrays, gridsize, case)
            findings += _one_patch_a_group(side, arrays, gridsize, case)
            findings.append(_with_carried_weights(side, arrays, gridsize, case, seed))
            for tap in ("patches", "stitched"):
                key = f"{gridsize}/run/{tap}"
                where = ("persistence", f"its own bundle, {case}", "float32", tap)
                findings.append(
                    compare(where, (side, side), (reloaded[side], arrays), (key, key), TOLERANCES["forward"])
                )
        if len(found) == 2:
            findings.append(_architecture(found, gridsize, case))
    return findings


def _configuration(side: str, arrays: Arrays, gridsize: int, case: str, seed: int) -> Iterator[Finding]:
    legacy = legacy_values(extras.workflow_training(gridsize, seed))
    expected = _plain({key: legacy.get(key) for key in HELD})
    seen = str(arrays.get(f"{gridsize}/configuration", error_of(arrays, f"{gridsize}/configuration")))
    yield _fact("contract", case, "its own params.cfg after update_legacy_dict", side, seen == expected, seen)


def _kernels(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in arrays.items() if array.ndim == 4}


def _of(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _start(side: str, arrays: Arrays, gridsize: int, case: str, seed: int) -> Iterator[Finding]:
    """Architecture and initialisation against this package's network: Glorot-uniform kernels, zero biases."""
    initial = _of(arrays, f"{gridsize}/initial/")
    config = extras.workflow_training(gridsize, seed)
    ours = initial_weights(config.model, load_fixture(problems.FIXTURE).probe, config.seed)
    apart = layers_apart(initial, ours) if initial else error_of(arrays, f"{gridsize}/initial")
    yield _fact("contract", case, ARCHITECTURE, side, not apart, f"{CARRIED}{apart} (this: {side}, the other: ptyint)")
    spreads = {}
    for name, kernel in _kernels(initial).items():
        fan = kernel.shape[0] * kernel.shape[1] * (kernel.shape[2] + kernel.shape[3])
        spread = abs(float(kernel.std()) * np.sqrt(fan / 2) - 1)
        spreads[name] = (spread, INITIAL_SPREAD / np.sqrt(kernel.size))
    where = ("contract", case, "", "initial kernels: spread over Glorot's, less 1")
    if not spreads:
        yield Finding(*where, side, REFEREE, np.inf, 0.0, np.inf, "it gives no initial weights")
        return
    name, (spread, bound) = max(spreads.items(), key=lambda one: one[1][0] / one[1][1])
    n_red = sum(error > tolerance for error, tolerance in spreads.values())
    note = f"{n_red} of {len(spreads)} kernels lie outside; most {name}"
    yield Finding(*where, side, REFEREE, spread, bound, spread / bound, note)
    largest = max((float(np.abs(array).max()) for array in initial.values() if array.ndim == 1), default=0.0)
    where = ("contract", case, "", "initial biases: largest")
    yield Finding(*where, side, REFEREE, largest, 0.0, 0.0 if largest == 0 else np.inf)


def layers_apart(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> str:
    """How two networks' kernels differ in shape, in words; empty: weights can be carried from one to the other."""
    a, b = (Counter(array.shape for array in _kernels(one).values()) for one in (ours, theirs))
    dense = [name for name, array in ours.items() if array.ndim == 2]
    words = [f"{len(dense)} dense layers ({dense[0]}, ...)"] if dense else []
    for side, more in (("this", a - b), ("the other", b - a)):
        shapes = [f"{n} of {' x '.join(map(str, shape))}" for shape, n in sorted(more.items())]
        words += [f"{side} one alone has {', '.join(shapes[:4])}{', ...' if shapes[4:] else ''}"] if shapes else []
    return "; ".join(words)


def _architecture(found: Mapping[str, Arrays], gridsize: int, case: str) -> Finding:
    reference, candidate = found
    theirs, ours = (_of(arrays, f"{gridsize}/initial/") for arrays in found.values())
    words = layers_apart(ours, theirs)
    note = f"{CARRIED}{words} (this: {candidate}, the other: {reference})" if words else ""
    error = float(bool(words) or not ours)
    ratio = np.inf if error else 0.0
    return Finding("contract", case, "", ARCHITECTURE, candidate, reference, error, 0.0, ratio, note)


def _illumination(side: str, arrays: Arrays, gridsize: int, case: str) -> Iterator[Finding]:
    """The probe that really illuminated in training, and the energy of the network's inputs, against the referee."""
    scan, config = load_fixture(problems.FIXTURE), extras.workflow_training(gridsize).model
    probe = forward.normalise_probe(scan.probe, config.probe_scale)
    expected = {"probe": probe[0].astype(np.complex128), "energy": np.array((scan.N / 2) ** 2)}
    seen = _of(arrays, f"{gridsize}/run/")
    if "inputs" in seen:
        patterns = seen["inputs"].astype(np.float64).reshape(-1, scan.N, scan.N)
        seen["energy"] = np.array((patterns**2).sum(axis=(1, 2)).mean())
    if not seen:
        seen = {"error/probe": np.array(error_of(arrays, f"{gridsize}/run"))}
    for tap, key in ((ILLUMINATING, "probe"), (ENERGY, "energy")):
        where = ("contract", case, "float32", tap)
        bound = TOLERANCES["forward"]
        yield compare(where, (side, REFEREE), (seen, expected), (key, key), bound)


def _one_patch_a_group(side: str, arrays: Arrays, gridsize: int, case: str) -> Iterator[Finding]:
    n_groups = extras.workflow_training(gridsize).n_groups
    patches = arrays.get(f"{gridsize}/run/patches")
    where = ("forward", case, "float32", "object patches at inference")
    if patches is None:
        yield Finding(*where, side, REFEREE, np.inf, 0.0, np.inf, error_of(arrays, f"{gridsize}/run"))
        return
    holds = len(patches) == n_groups
    note = "" if holds else f"{n_groups} groups in, {len(patches)} patches out"
    yield Finding(*where, side, REFEREE, abs(len(patches) - (n_groups or 0)), 0.0, 0.0 if holds else np.inf, note)


def _with_carried_weights(side: str, arrays: Arrays, gridsize: int, case: str, seed: int) -> Finding:
    """Patches of its network with this package's weights, against the referee's network."""
    where = ("forward", case, "float32", "object patches with carried weights")
    key = f"{gridsize}/carried"
    error = str(arrays.get(f"error/{key}", ""))
    if error.startswith(UNSUPPORTED):
        note = f"weights cannot be carried to {side} ({error.removeprefix(UNSUPPORTED)})"
        return Finding.unavailable(where, (side, REFEREE), note)
    weights, batch = _carried(gridsize, seed)
    model = extras.workflow_training(gridsize, seed).model
    taps = numpy_network.forward(weights, batch, model)
    expected = {key: taps["patches_before_merge" if gridsize > 1 else "object_patches"]}
    return compare(where, (side, REFEREE), (arrays, expected), (key, key), TOLERANCES["forward"])


def _fact(rung: str, case: str, tap: str, side: str, holds: bool, note: str) -> Finding:
    return Finding(
        rung, case, "", tap, side, REFEREE, float(not holds), 0.0, 0.0 if holds else np.inf, "" if holds else note
    )
