"""What one backend computes for the ladder, in a process of its own.

``python -m ptyint.parity.worker BACKEND FOLDER`` writes ``FOLDER/BACKEND.<rung>.npz`` and bundles, ``... --draws 4 3``
rung 5's trajectories; ``... --other OTHER`` then, in a new process, loads the bundles of both and, for reference
injection, OTHER's traces.
An operator or pass that raises is recorded under ``error/<key>``; it is the judge's to find its arrays missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import backends, dispatcher
from ptyint._atomic import write_arrays
from ptyint.backends import bundle
from ptyint.backends import weights as weights_module
from ptyint.backends.protocol import OnEpoch, Operators
from ptyint.backends.training import Schedule
from ptyint.backends.weights import Weights, convolution_shapes, weights_sha256
from ptyint.config import InferenceConfig, TrainingConfig, params, to_mapping
from ptyint.evidence.processes import follow_parent
from ptyint.images import metrics, reconstruction, stitch
from ptyint.parity import extras, problems
from ptyint.parity.tolerances import PRECISIONS
from ptyint.scans import files
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.forward import normalise_probe
from ptyint.scans.scan import Scan

Arrays = dict[str, NDArray[Any]]

ADAM_RATES = (1e-3, 5e-4, 2e-3)
ADAM = {
    "all move": problems.stepping(2),
    "probe and scale stay": replace(
        problems.stepping(1), probe_trainable=False, intensity_scale_trainable=False, adam_beta1=0.8, adam_epsilon=1e-3
    ),
}
FRAMEWORKS = {"tensorflow": "tensorflow", "pytorch": "torch"}
"""Built-in backend to the framework that its process may have loaded, and no other; others declare theirs."""

UNAVAILABLE = "not available"
"""Instead of a fact that a backend cannot give, since it does not declare what that needs."""

STALE = {"gridsize": 7, "N": 3, "backend": "stale", "probe.mask": "stale", "learning_rate": -1.0}
"""What stands in `params.cfg` before the gate."""


@contextmanager
def noted(arrays: Arrays, key: str) -> Iterator[None]:
    """Keep an exception under ``error/<key>`` and go on."""
    try:
        yield
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        arrays[f"error/{key}"] = np.array(message[:500])


# --- rung 0: the bookkeeping around a backend ---


def bookkeeping(seed: int = 0) -> dict[str, str]:
    """Facts that do not depend on a backend, and must be the same in every process: name to value or digest."""
    found: dict[str, str] = {}
    facts: dict[str, Callable[[], str]] = {
        "default backend": lambda: f"{TrainingConfig().backend}, {InferenceConfig().backend}",
        "default configuration": lambda: json.dumps([to_mapping(TrainingConfig()), to_mapping(InferenceConfig())]),
        "scan": lambda: load_fixture(problems.FIXTURE).sha256,
        "counts of 16-bit amplitudes": _sixteen_bits,
        "learning rates": _learning_rates,
        "metrics": _metrics,
        "stitched object": _stitched,
    }
    for gridsize in (1, 2):
        facts[f"groups, gridsize {gridsize}"] = lambda g=gridsize: _data(g, seed).groups.sha256()  # type: ignore[misc]
        facts[f"batches in their order, gridsize {gridsize}"] = lambda g=gridsize: _batches(g, seed)  # type: ignore[misc]
        facts[f"initial weights, gridsize {gridsize}"] = lambda g=gridsize: weights_sha256(_initial(g, seed))  # type: ignore[misc]
    for name, fact in facts.items():
        try:
            found[name] = fact()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _data(gridsize: int, seed: int) -> GroupedScan:
    return GroupedScan.from_config(load_fixture(problems.FIXTURE), problems.trainings(seed)[gridsize])


def _initial(gridsize: int, seed: int) -> Weights:
    config = problems.trainings(seed)[gridsize]
    return weights_module.initial_weights(config.model, load_fixture(problems.FIXTURE).probe, config.seed)


def _batches(gridsize: int, seed: int) -> str:
    """Sizes and dtypes in words, and a digest of two epochs."""
    data, generator, digest, kinds = _data(gridsize, seed), np.random.default_rng(4), hashlib.sha256(), []
    for batch in (batch for _ in range(2) for batch in data.batches(5, generator)):
        for array in (batch.inputs, batch.counts, batch.offsets_px):
            digest.update(np.ascontiguousarray(array).tobytes())
        kinds.append(f"{len(batch.inputs)} {batch.inputs.dtype}")
        digest.update(f"{batch.n_canvas} {batch.count_scale!r}".encode())
    return f"{digest.hexdigest()} ({', '.join(kinds)})"


def _sixteen_bits() -> str:
    """A scan whose amplitudes are stored as 16-bit integers above 256, whose squares do not fit."""
    scan = load_fixture(problems.FIXTURE)
    arrays: Arrays = {"probeGuess": scan.probe[0], "objectGuess": np.ones((8, 8), np.complex64)}
    amplitudes = np.sqrt(scan.counts().astype(np.float64) * 1e3).astype(np.uint16)
    y, x = scan.probe_positions_px.T
    with tempfile.TemporaryDirectory(prefix="ptyint-parity-") as folder:
        path = Path(folder) / "sixteen-bits.npz"
        arrays |= {"diffraction": amplitudes, "xcoords": x, "ycoords": y}
        write_arrays(path, arrays)
        counts = files.read_scan(path, diffraction_kind="amplitudes").counts()
    return hashlib.sha256(np.ascontiguousarray(counts).tobytes()).hexdigest() + f" (largest {counts.max():.0f})"


def _learning_rates() -> str:
    rates = []
    for scheduler in ("Default", "ReduceLROnPlateau", "WarmupCosine"):
        schedule = Schedule(TrainingConfig(scheduler=scheduler, nepochs=8, lr_warmup_epochs=2))
        for loss in (5.0, 4.0, 4.0, 4.5, 4.1, 4.2, 3.0, 3.1):
            rates.append(f"{schedule.learning_rate:.12g}")
            schedule.should_stop(loss)
    return ", ".join(rates)


def _pair() -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    rng, y = np.random.default_rng(8), np.linspace(0, 3, 96)
    phase = np.cos(5 * y) * np.sin(3 * y)[:, None]
    image = np.asarray((1 + 0.3 * np.sin(4 * y)[:, None]) * np.exp(1j * phase), np.complex128)
    noise = rng.normal(size=(96, 96)) + 1j * rng.normal(size=(96, 96))
    return np.asarray(image + 0.05 * noise, np.complex128), image


def _metrics() -> str:
    values = metrics.compare_objects(*_pair()).values
    return json.dumps({name: None if value is None else f"{value:.8g}" for name, value in values.items()})


def _stitched() -> str:
    """Patches of a known object, their groups' phases lost, put together again."""
    _, image = _pair()
    rng = np.random.default_rng(10)
    positions = rng.uniform(20, 76, (24, 2))
    labels = np.repeat(np.arange(12), 2)
    patches = stitch.extract_patches(np.pad(image, 32), positions + 32, 64)
    patches = patches * np.exp(1j * rng.uniform(0, 6, 12))[labels][:, None, None]
    phases = stitch.synchronise_phases(patches, positions, (96, 96), labels)
    found = stitch.stitch(patches * np.exp(1j * phases[labels])[:, None, None], positions, (96, 96))
    product = found.object_ * np.conj(found.object_[48, 48])
    sums = [(product * np.exp(1j * np.arange(96) * k / 7)).sum() for k in range(4)]
    return ", ".join(f"{abs(value):.8g}" for value in sums)


def contract(name: str, seed: int = 0) -> dict[str, str]:
    """Rung 0: :func:`bookkeeping`, and what the backend makes of configuration and weights."""
    found = bookkeeping(seed)
    try:
        for gridsize, config in problems.trainings(seed).items():
            config = replace(config, backend=name)
            params.cfg.clear()
            params.cfg.update(STALE)
            backend: Any = dispatcher.select_backend(config)
            held = {key: value for key, value in params.cfg.items() if key != "backend"}
            found[f"params.cfg after the gate, gridsize {gridsize}"] = json.dumps(held, sort_keys=True)
            what = f"weights in the network, gridsize {gridsize}"
            if "trace" not in backend.capabilities:
                found[what] = UNAVAILABLE
                continue
            network = backend.build(config, _initial(gridsize, seed))
            found[what] = weights_sha256(network.get_weights())
        found["backend that ran"] = backend.name
        found["frameworks declared"] = ", ".join(sorted(backend.frameworks))
        found["frameworks loaded"] = ", ".join(sorted({"tensorflow", "torch"} & set(sys.modules)))
    except Exception as error:
        found["backend that ran"] = f"{type(error).__name__}: {error}"
    return found


# --- rungs 1 to 4 ---


def operators(backend: Operators, seed: int = 0) -> Arrays:
    """Every operator on :func:`ptyint.parity.problems.operands` and merges from the mean, by ``precision/label``."""
    arrays, given = Arrays(), problems.operands(seed) | extras.merges(seed)
    for precision in PRECISIONS:
        available = {**backend.operators(precision), "normalise_probe": _normalised_probe(precision)}
        for label, (operator, arguments) in given.items():
            key = f"{precision}/{label}"
            with noted(arrays, key):
                arrays[key] = available[operator](*arguments)
    return arrays


def _normalised_probe(precision: str) -> Callable[..., NDArray[Any]]:
    """As it comes into the network: out of the initial weights, which are single precision."""
    return lambda probe, scale: normalise_probe(probe, scale).astype(np.result_type(precision, np.complex64))


def traces(
    backend: Any,
    names: Sequence[str],
    given: Callable[[str], Arrays] | None = None,
    precisions: Sequence[str] = PRECISIONS,
    seed: int = 0,
) -> Iterator[tuple[str, Arrays]]:
    """Taps, loss and gradients of cases at each precision: ``case/precision``, then its arrays.

    Parameters
    ----------
    backend : Backend
    names : sequence of str
        Of `ptyint.parity.problems.CASES`.
    given : callable, optional
        ``case/precision`` to another backend's arrays, for reference injection, whole or of some taps.
    precisions : sequence of str
    seed : int
    """
    for name in names:
        for precision in precisions:
            key, arrays = f"{name}/{precision}", Arrays()
            with noted(arrays, key):
                batch, weights, good = problems.inputs_of(problems.CASES[name], precision, seed)
                injected = None if given is None else given(key)
                network = backend.build(problems.CASES[name].config, weights, good, precision)
                arrays |= network.trace(batch, injected)
                if injected is None:
                    arrays["predicted"] = network.predict(batch)
                    arrays["predicted, one by one"] = np.concatenate([network.predict(one) for one in _singly(batch)])
            yield key, arrays


def before_kinks(arrays: Arrays, name: str) -> Arrays:
    """Of a trace of the case `name`, what every ReLU and max-pooling decides by: the outputs of the convolutions.

    Given them, a backend's whole backward pass runs on the same side of every kink as the reference's. Without, single
    precision's rounding moves one in 1e6 activations to the other side, and its term joins or leaves the gradient.
    """
    return {tap: arrays[tap] for tap in convolution_shapes(problems.CASES[name].config.model) if tap in arrays}


def _singly(batch: Batch) -> list[Batch]:
    """Each group of a batch in a batch of its own."""
    arrays = (batch.inputs, batch.counts, batch.offsets_px)
    return [
        replace(batch, inputs=inputs[None], counts=counts[None], offsets_px=offsets[None])
        for inputs, counts, offsets in zip(*arrays, strict=True)
    ]


# --- rung 5 ---


def steps(backend: Any, draws: Mapping[str, int] = problems.DRAWS, seed: int = 0) -> Arrays:
    """Weights along a trajectory, and how far reruns from initial weights moved by one ulp drift from it.

    Keys: ``gridsize/precision/step/<weight>``; ``gridsize/precision/moved/step``, the relative drift of all weights in
    each rerun; ``gridsize/precision/seconds`` of each step of the trajectory.
    """
    arrays: Arrays = {}
    for gridsize in (1, 2):
        config = problems.stepping(gridsize, seed)
        scan = load_fixture(problems.FIXTURE)
        data = GroupedScan.from_config(scan, config)
        start = weights_module.initial_weights(config.model, scan.probe, config.seed)
        for precision, n_draws in draws.items():
            key = f"{gridsize}/{precision}"
            with noted(arrays, key):
                batches = problems.step_batches(data, precision, problems.STEPS[-1])
                weights = {name: array.astype(precision) for name, array in start.items()}
                network = backend.build(config, weights, None, precision)
                network.train_step(batches[0], config.learning_rate)  # compiled, where a backend compiles
                trajectory, seconds = _trajectory(network, weights, batches, config.learning_rate)
                arrays |= {
                    f"{key}/{number}/{name}": array for number, w in trajectory.items() for name, array in w.items()
                }
                arrays[f"{key}/seconds"] = np.array(seconds)
                drifts: dict[int, list[float]] = {number: [] for number in trajectory}
                for draw in range(1, n_draws + 1):
                    moved = problems.moved_by_one_ulp(weights, draw)
                    rerun, _ = _trajectory(network, moved, batches, config.learning_rate)
                    for number, held in rerun.items():
                        drifts[number].append(_drift(held, trajectory[number]))
                arrays |= {f"{key}/moved/{number}": np.array(found) for number, found in drifts.items()}
    return arrays


def _trajectory(
    network: Any, start: Weights, batches: Sequence[Batch], learning_rate: float
) -> tuple[dict[int, Weights], list[float]]:
    """Weights after each of `ptyint.parity.problems.STEPS`, and the seconds of every step."""
    network.reset(start)
    held, seconds = {}, []
    for number, batch in enumerate(batches, 1):
        before = time.perf_counter()
        network.train_step(batch, learning_rate)
        seconds.append(time.perf_counter() - before)
        if number in problems.STEPS:
            held[number] = network.get_weights()
    return held, seconds


def _drift(weights: Weights, reference: Weights) -> float:
    """Relative distance of all weights together."""
    apart, size = (
        sum(float((np.abs(array.astype(np.float64)) ** 2).sum()) for array in arrays)
        for arrays in ([w - reference[name] for name, w in weights.items()], reference.values())
    )
    return float(np.sqrt(apart / size))


def optimiser(backend: Any, seed: int = 0) -> Arrays:
    """Weights before and after each of three steps in double precision, and the gradients traced before each."""
    arrays: Arrays = {}
    scan = load_fixture(problems.FIXTURE)
    for name, config in ADAM.items():
        with noted(arrays, name):
            data = GroupedScan.from_config(scan, config)
            weights = problems.with_biases(weights_module.initial_weights(config.model, scan.probe, 1 + seed))
            network = backend.build(config, weights, None, "float64")
            for step, batch in enumerate(_partial_batches(data, len(ADAM_RATES))):
                arrays |= {f"{name}/{step}/{key}": w for key, w in network.get_weights().items()}
                traced = network.trace(batch)
                arrays |= {
                    f"{name}/{step}/gradient/{key}": traced[f"gradient/{key}"]
                    for key in weights
                    if f"gradient/{key}" in traced
                }
                arrays[f"{name}/{step}/traced loss"] = traced["loss"]
                arrays[f"{name}/{step}/loss"] = np.array(network.train_step(batch, ADAM_RATES[step]))
            arrays |= {f"{name}/{step + 1}/{key}": w for key, w in network.get_weights().items()}
    return arrays


def _partial_batches(data: GroupedScan, n: int) -> list[Batch]:
    """Double precision, the last of them smaller."""
    return [data.batch(np.arange(2 * i, 2 * i + (2 if i < n - 1 else 1)), "float64") for i in range(n)]


def training(name: str, backend: Any, folder: Path, seed: int = 0) -> Arrays:
    """Train through the dispatcher, save; infer with the weights in memory. Then the same once more.

    Keys: ``gridsize/losses``, ``/rates``, ``/patches``, ``/patches, one by one``, ``/stitched``, ``/weights/<name>``,
    ``/losses again``, ``/inference seconds``. From the same batches stepped one by one, if it can be traced,
    also ``/first loss`` (1,), before any step; ``/losses by hand`` (epochs,); ``/weights by hand/<name>``.
    """
    arrays: Arrays = {}
    scan = load_fixture(problems.FIXTURE)
    for gridsize, plain in problems.trainings(seed).items():
        config = replace(plain, backend=name)
        with noted(arrays, str(gridsize)):
            rates: list[float] = []
            result, found = train_and_apply(
                scan,
                config,
                lambda epoch, rates=rates: rates.append(epoch.learning_rate),  # type: ignore[misc]
            )
            image, again = reconstruction.assemble(found), dispatcher.train(scan, config)
            bundle.save_bundle(folder / f"{name}-{gridsize}.zip", result.weights, config, result.backend)
            by_hand = _by_hand(backend, scan, config) if "trace" in backend.capabilities else {}
            outcome = {
                **by_hand,
                "backend": np.array(result.backend),
                "losses": result.history.losses,
                "losses again": again.history.losses,
                "rates": np.array(rates),
                "patches": image.object_patches,
                "patches, one by one": reconstruction.assemble(
                    dispatcher.infer(scan, problems.inference(gridsize, backend=name, batch_size=1), result.weights)
                ).object_patches,
                "stitched": image.object_,
                "inference seconds": np.array(found.seconds / data_groups(found)),
            }
            arrays |= {f"{gridsize}/{key}": value for key, value in outcome.items()}
            arrays |= {f"{gridsize}/weights/{key}": w for key, w in result.weights.items()}
    return arrays


def train_and_apply(
    scan: Scan, config: TrainingConfig, on_epoch: OnEpoch | None = None
) -> tuple[dispatcher.TrainingResult, dispatcher.InferenceResult]:
    """Train through the dispatcher, as one of :func:`ptyint.parity.problems.trainings`; infer with what came of it."""
    result = dispatcher.train(scan, config, on_epoch)
    given = problems.inference(config.model.gridsize, backend=config.backend)
    return result, dispatcher.infer(scan, given, result.weights)


def data_groups(result: dispatcher.InferenceResult) -> int:
    """Groups of an inference."""
    return result.data.groups.n_groups


def _by_hand(backend: Any, scan: Scan, config: TrainingConfig) -> Arrays:
    """The loop of training without its bookkeeping: the keys of :func:`training` that come of it."""
    data = GroupedScan.from_config(scan, config)
    network = backend.build(config, weights_module.initial_weights(config.model, scan.probe, config.seed))
    generator, schedule = np.random.default_rng(config.seed), Schedule(config)
    of_batches, of_epochs = [], []
    for _ in range(config.nepochs):
        order, total = generator.permutation(data.groups.n_groups), 0.0
        for start in range(0, len(order), config.batch_size):
            index = order[start : start + config.batch_size]
            of_batches.append(network.train_step(data.batch(index), schedule.learning_rate))
            total += of_batches[-1] * len(index)
        of_epochs.append(total / len(order))
        schedule.should_stop(of_epochs[-1])
    found = {"first loss": np.array(of_batches[:1]), "losses by hand": np.array(of_epochs)}
    return found | {f"weights by hand/{name}": w for name, w in network.get_weights().items()}


# --- rung 6 ---


def reload(name: str, folder: Path, trained_by: Sequence[str]) -> Arrays:
    """Object patches of the models that `trained_by` saved, loaded from the file alone: ``backend/gridsize/patches``.

    Also what the bundle says of itself: ``.../config`` and ``.../weights/<name>``.
    """
    arrays: Arrays = {}
    scan = load_fixture(problems.FIXTURE)
    for other in trained_by:
        for gridsize in problems.TRAINING:
            key = f"{other}/{gridsize}"
            with noted(arrays, key):
                path = folder / f"{other}-{gridsize}.zip"
                found = reconstruction.assemble(
                    dispatcher.infer(scan, problems.inference(gridsize, backend=name, model_path=path))
                )
                loaded = bundle.load_bundle(path)
                arrays[f"{key}/patches"] = found.object_patches
                arrays[f"{key}/config"] = np.array(json.dumps(to_mapping(loaded.config.model), sort_keys=True))
                arrays |= {f"{key}/weights/{weight}": w for weight, w in loaded.weights.items()}
    return arrays


# --- the process ---


def write(folder: Path, name: str, arrays: Arrays) -> None:
    """Write ``FOLDER/NAME.npz``, whole or not at all."""
    write_arrays(folder / f"{name}.npz", arrays)


def read(folder: Path, name: str) -> Arrays:
    """What :func:`write` wrote; empty where nothing was."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def measure(name: str, folder: Path, names: Sequence[str] = problems.PROFILES["quick"], seed: int = 0) -> None:
    """Everything that needs no other backend's arrays, but for rung 5's trajectories.

    Parameters
    ----------
    name : str
        Of the backend.
    folder : Path
    names : sequence of str
        Networks to trace.
    seed : int
        Added to every seed of what the backend is given.
    """
    from ptyint.parity import capabilities, offered
    from ptyint.parity.rungs import workflow

    before = time.perf_counter()
    backend: Any = backends.load(name)
    cost = {"import seconds": np.array(time.perf_counter() - before)}
    can, offer = backend.capabilities, capabilities.written(backend)
    write(folder, f"{name}.offer", offer)
    write(folder, f"{name}.contract", {key: np.array(value) for key, value in contract(name, seed).items()})
    if "operators" in can:
        write(
            folder, f"{name}.operator", operators(backend, seed) if "trace" in can else offered.measure(backend, seed)
        )
    if "trace" in can:
        for key, arrays in traces(backend, names, seed=seed):
            write(folder, trace_file(name, key), arrays)
        write(folder, f"{name}.optimiser", optimiser(backend, seed))
    if "weights" in can:
        write(folder, f"{name}.training", training(name, backend, folder, seed))
    if "workflow" in can:
        write(folder, f"{name}.workflow", workflow.measure(backend, folder, seed))
    cost["peak memory bytes"] = np.array(reconstruction.peak_memory_bytes())
    cost["description"] = np.array(json.dumps(backend.describe()))
    write(folder, f"{name}.cost", cost)


def measure_steps(name: str, folder: Path, draws: Mapping[str, int] = problems.DRAWS, seed: int = 0) -> None:
    """Rung 5's trajectories: half of all work, so in a process of their own."""
    backend = backends.load(name)
    if "trace" in backend.capabilities:
        write(folder, f"{name}.step", steps(backend, draws, seed))


def measure_against(
    name: str, folder: Path, other: str, names: Sequence[str] = problems.PROFILES["quick"], seed: int = 0
) -> None:
    """What needs files of before: bundles, its own and the other's, and the other's traces for injection."""
    from ptyint.parity import capabilities
    from ptyint.parity.rungs import workflow

    backend: Any = backends.load(name)
    if "workflow" in backend.capabilities:
        write(folder, f"{name}.reloaded", workflow.reload(backend, folder, seed))
    both = {one: capabilities.Offer.load(folder, one) for one in (name, other)}
    if not capabilities.lacking(both, "persistence"):
        write(folder, f"{name}.persistence", reload(name, folder, (name, other)))
    if capabilities.lacking(both, "forward"):
        return

    def theirs(key: str) -> Arrays:
        return read(folder, trace_file(other, key))

    for key, arrays in traces(backend, names, theirs, seed=seed):
        write(folder, trace_file(f"{name}.given", key), arrays)
    for case in names:
        aligned = traces(backend, [case], lambda key, case=case: before_kinks(theirs(key), case), ["float32"], seed)  # type: ignore[misc]
        for key, arrays in aligned:
            write(folder, trace_file(f"{name}.aligned", key), arrays)


def trace_file(name: str, key: str) -> str:
    """Name of the file of a trace; `key` is ``case/precision``."""
    return f"{name}.trace.{key.replace('/', '.').replace(', ', '-').replace(' ', '-')}"


def main() -> None:
    """Parse the command line and measure."""
    follow_parent()
    parser = argparse.ArgumentParser(description="Measure one backend for the parity ladder.")
    parser.add_argument("backend", choices=backends.names())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", default="", help="load what this backend wrote there before")
    parser.add_argument("--profile", default="quick", choices=sorted(problems.PROFILES))
    parser.add_argument("--seed", type=int, default=0, help="added to every seed")
    parser.add_argument(
        "--draws", type=int, nargs=2, default=(0, 0), help="optimiser steps instead, with so many reruns, by precision"
    )
    options = parser.parse_args()
    os.chdir(options.folder)  # a backend may leave files where it runs
    names = problems.PROFILES[options.profile]
    draws = {precision: n for precision, n in zip(PRECISIONS, options.draws, strict=True) if n}
    if options.other:
        measure_against(options.backend, options.folder, options.other, names, options.seed)
    elif draws:
        measure_steps(options.backend, options.folder, draws, options.seed)
    else:
        measure(options.backend, options.folder, names, options.seed)


if __name__ == "__main__":
    main()
