"""Short trainings through the dispatcher: against the same steps by hand, and against the other's before the first."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ptyint import dispatcher
from ptyint.backends import bundle
from ptyint.backends.checkpoint import Checkpoint
from ptyint.backends.training import Schedule
from ptyint.backends.weights import initial_weights, trainable_names, weight_shapes
from ptyint.config import TrainingConfig
from ptyint.images.reconstruction import assemble
from ptyint.parity.capabilities import lacking
from ptyint.parity.compare import Arrays, Finding, Place, compare, error_of, joined
from ptyint.parity.configurations import ACTING, SAVED, Training
from ptyint.parity.problems import Problems
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, noted
from ptyint.parity.tolerances import TOLERANCES
from ptyint.scans.batches import GroupedScan
from ptyint.scans.scan import Scan

AGAIN = (
    ("losses by hand", "losses", "loss"),
    ("losses again", "losses", "loss"),
    ("weights by hand", "weights", "forward"),
    ("patches, one by one", "patches", "forward"),
)
"""What a backend makes a second time, of what it must be the same, and the tolerance."""


TWICE = ("gridsize 1", "gridsize 2")


def measure(bench: Bench, part: str = "") -> Captured:
    """Train through the dispatcher and infer with the weights in memory; most of it once more.

    Keys: ``name/losses``, ``/rates``, ``/patches``, ``/stitched``, ``/weights/<name>``, ``/inference seconds``; for
    those in `TWICE` also ``/losses again``, ``/patches, one by one``. From the same batches stepped one by one, if the
    backend can be traced, also ``/first loss`` (1,), before any step; ``/losses by hand`` (epochs,);
    ``/weights by hand/<name>``.
    """
    arrays: Captured = {}
    for name, one in bench.problems.trainings.items():
        config, scan = replace(one.config(bench.problems.seed), backend=bench.name), one.scan()
        with noted(arrays, name):
            outcome = trained(scan, config, applied=name in SAVED)
            if name in SAVED:
                weights = {key.removeprefix("weights/"): w for key, w in outcome.items() if key.startswith("weights/")}
                bundle.save_bundle(bench.folder / file_name(bench.name, name), weights, config, bench.name)
            if name in TWICE:
                singly = assemble(dispatcher.infer(scan, _applied(config, batch_size=1), weights))
                outcome["patches, one by one"] = singly.object_patches
                outcome["losses again"] = dispatcher.train(scan, config).history.losses
            if "trace" in bench.backend.capabilities:
                outcome |= _by_hand(bench.backend, scan, config)
            arrays |= {f"{name}/{key}": value for key, value in outcome.items()}
    return arrays


def file_name(backend: str, name: str) -> str:
    """Of the bundle of a training."""
    return f"{backend}-{name.replace(' ', '-')}.zip"


def _applied(config: TrainingConfig, **settings: Any) -> Any:
    return config.applied(n_groups=config.n_groups, **settings)


def trained(scan: Scan, config: TrainingConfig, applied: bool = True, checkpoint: Checkpoint | None = None) -> Captured:
    """What a training leaves, and an inference with its weights, through the dispatcher."""
    result = dispatcher.train(scan, config, checkpoint=checkpoint)
    arrays = {
        "backend": np.array(result.backend),
        "losses": result.history.losses,
        "rates": np.array([epoch.learning_rate for epoch in result.history.epochs]),
        **{f"weights/{name}": w for name, w in result.weights.items()},
    }
    if applied:
        inferred = dispatcher.infer(scan, _applied(config), result.weights)
        image = assemble(inferred)
        arrays |= {"patches": image.object_patches, "stitched": image.object_}
        arrays["inference seconds"] = np.array(inferred.seconds / inferred.data.groups.n_groups)
    return arrays


def _by_hand(backend: Any, scan: Scan, config: TrainingConfig) -> Captured:
    """The loop of training without its bookkeeping: the keys of :func:`measure` that come of it."""
    data = GroupedScan.from_config(scan, config)
    network = backend.build(config, initial_weights(config.model, scan.probe, config.seed), scan.good_pixels)
    generator, schedule = np.random.default_rng(config.seed), Schedule(config)
    of_batches, of_epochs = [], []
    for _ in range(config.nepochs):
        order, total = generator.permutation(data.groups.n_groups), 0.0
        for start in range(0, len(order), config.batch_size):
            index = order[start : start + config.batch_size]
            of_batches.append(network.train_step(data.batch(index), schedule.learning_rate))
            total += of_batches[-1] * len(index)
        of_epochs.append(total / len(order))
        if schedule.should_stop(of_epochs[-1]):
            break
    weights = {f"weights by hand/{name}": w.astype(np.float32) for name, w in network.get_weights().items()}
    return {"first loss": np.array(of_batches[:1]), "losses by hand": np.array(of_epochs), **weights}


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Each training against its own again, and by hand; what moved; the rates and the first loss of both.

    These are compared with the other's before the first step: from then on a rounding may move an activation over the
    kink of its ReLU.
    """
    if "float32" not in problems.precisions:
        return
    if why := lacking(measured.offers, "weights"):
        yield Finding.unavailable(Place("step", "training", "float32"), measured.pair, why)
        return
    both = measured.both("training")
    candidate, reference = measured.pair
    for name, one in problems.trainings.items():
        where = Place("step", f"training, {name}", "float32")
        for side, arrays in both.items():
            yield from _against_its_own(where, side, arrays, name, one)
            yield _moved(where, side, arrays, name, one.config(problems.seed), one.scan())
        for tap, tolerance in (("rates", TOLERANCES["operator"]), ("first loss", TOLERANCES["loss"])):
            pair, key = (both[candidate], both[reference]), f"{name}/{tap}"
            yield compare(where._replace(tap=tap), measured.pair, pair, (key, key), tolerance)
    for side, arrays in both.items() if set(ACTING) & set(problems.trainings) else ():
        yield from _acting(side, arrays, problems)


def _against_its_own(where: Place, side: str, arrays: Arrays, name: str, one: Training) -> Iterator[Finding]:
    key = f"{name}/backend"
    ran = str(arrays[key]) if key in arrays else error_of(arrays, name)
    yield Finding.fact(where._replace(precision="", tap="backend that ran"), (side, side), ran == side, ran)
    weights = list(weight_shapes(one.plain.model, one.data.modes))
    vectors = {key: joined(arrays, key, weights) for key in (f"{name}/weights", f"{name}/weights by hand")}
    whole = {**arrays, **{key: vector for key, vector in vectors.items() if vector is not None}}
    for again, what, tolerance in AGAIN if name in TWICE else AGAIN[::2]:
        keys = (f"{name}/{what}", f"{name}/{again}")
        yield compare(where._replace(tap=again), (side, side), (whole, whole), keys, TOLERANCES[tolerance])


def _moved(where: Place, side: str, arrays: Arrays, name: str, config: TrainingConfig, scan: Scan) -> Finding:
    """Every weight that is declared trainable has moved, every other has stayed."""
    start = initial_weights(config.model, scan.probe, config.seed)
    after = {key: arrays.get(f"{name}/weights/{key}") for key in start}
    moved = [key for key, array in start.items() if not np.array_equal(array, after[key])]  # type: ignore[arg-type]
    wrong = sorted(set(moved) ^ set(trainable_names(config, list(start))))
    note = "; ".join(f"{key} {'moved' if key in moved else 'stayed'}" for key in wrong[:3])
    missing = error_of(arrays, name) if None in (None if a is None else 0 for a in after.values()) else ""
    return Finding.fact(where._replace(tap="what moves"), (side, side), not wrong and not missing, missing or note)


def _acting(side: str, arrays: Arrays, problems: Problems) -> Iterator[Finding]:
    """That the settings act: a plateau lowers the rate, a stop comes early, a best epoch is not the last."""
    acted = dict.fromkeys(("a plateau lowers the rate", "a training stops early", "the best epoch is not the last"), 0)
    for name, one in problems.trainings.items():
        rates, losses = (np.atleast_1d(arrays.get(f"{name}/{key}", np.zeros(1))) for key in ("rates", "losses"))
        held = (one.plain.scheduler == "ReduceLROnPlateau" and rates.min() < rates[0], len(losses) < one.plain.nepochs)
        for what, holds in zip(acted, (*held, bool(losses.argmin() < len(losses) - 1)), strict=True):
            acted[what] += int(holds and name in ACTING)
    for what, count in acted.items():
        where = Place("step", "training", tap=what)
        yield Finding.fact(where, (side, side), count > 0, "no training of the profile does that")


TRAINING = Capture("training", measure, "weights")
