"""Rung 6: what each backend predicts from each one's file, in a new process; and what it makes there of a second scan.

The new process meets the second scan first, and the process of the trainings meets it last: each is what it is alone.
Where a backend keeps checkpoints, a training that is stopped in the middle of an epoch goes on from one to what it had
come to without.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ptyint import dispatcher
from ptyint.backends import bundle
from ptyint.backends.checkpoint import Checkpoint, Progress
from ptyint.backends.weights import weight_shapes
from ptyint.config import to_mapping
from ptyint.images.reconstruction import assemble
from ptyint.parity.compare import Arrays, Finding, Place, compare, error_of
from ptyint.parity.configurations import SAVED, SECOND
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.parity.rungs.training import TRAINING, file_name, trained
from ptyint.parity.tolerances import TOLERANCES

ALONE, RESUMED, STOPPED = "alone", "resumed", "gridsize 2"
AGAIN = ((SECOND, ALONE, "alone and after others"), (STOPPED, RESUMED, "stopped and gone on with"))
"""Trainings that are made again here: which, under which key, and how they differ from those of the step's rung."""

OF_A_TRAINING = (("losses", "loss"), ("patches", "forward"), ("stitched", "forward"))
"""What is compared of each, and the tolerance."""


class _Stopping(Checkpoint):
    """Keeps the state after every step, and ends the training in its second epoch, before that is over."""

    def keep(self, progress: Progress) -> None:
        super().keep(progress)
        if progress.epochs:
            raise InterruptedError


def measure(bench: Bench, part: str = "") -> Captured:
    """Trainings again; then what the models predict that both saved, loaded from the file alone.

    Keys: those of :func:`ptyint.parity.rungs.training.trained` under ``alone``, and under ``resumed`` where the backend
    keeps checkpoints; ``backend/training/patches``; what the bundle says of itself, ``.../config`` and
    ``.../weights/<name>``.
    """
    arrays: Captured = {}
    for name, again, _ in AGAIN if dispatcher.keeps_checkpoints(bench.backend) else AGAIN[:1]:
        scan, config = SAVED[name].scan(), replace(SAVED[name].config(bench.problems.seed), backend=bench.name)
        with noted(arrays, again), tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            if again == RESUMED:
                with suppress(InterruptedError):
                    dispatcher.train(scan, config, checkpoint=_Stopping(folder, minutes=1e-9))
            came_to = trained(scan, config, checkpoint=Checkpoint(folder) if again == RESUMED else None)
            arrays |= {f"{again}/{key}": came_to[key] for key, _ in OF_A_TRAINING}
    for other in bench.pair:
        for name, one in reversed(SAVED.items()):
            key, path = f"{other}/{name}", bench.folder / file_name(other, name)
            with noted(arrays, key):
                settings = {"backend": bench.name, "model_path": path, "batch_size": 7, "n_groups": one.plain.n_groups}
                loaded, applied = bundle.load_bundle(path), one.config(bench.problems.seed).applied(**settings)
                arrays[f"{key}/patches"] = assemble(dispatcher.infer(one.scan(), applied)).object_patches
                arrays[f"{key}/config"] = np.array(json.dumps(to_mapping(loaded.config.model), sort_keys=True))
                arrays |= {f"{key}/weights/{weight}": w for weight, w in loaded.weights.items()}
    return arrays


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Configuration, weights and patches from each file, against what was trained and predicted before it was saved.

    Then trainings that were made again, against what they were.
    """
    loaded, trainings = measured.both("persistence"), measured.both("training")
    for by, before in trainings.items():
        for side, arrays in loaded.items():
            for name in SAVED:
                yield from _of_file(by, before, side, arrays, name)
    for side, arrays in loaded.items():
        made = {key.removeprefix("error/").partition("/")[0] for key in arrays}
        for name, again, how in AGAIN[: 1 + (RESUMED in made)]:
            for what, tolerance in OF_A_TRAINING:
                where = Place("persistence", name, "float32", f"{what}, {how}")
                pair, keys = (trainings[side], arrays), (f"{name}/{what}", f"{again}/{what}")
                yield compare(where, (side, side), pair, keys, TOLERANCES[tolerance])


def _of_file(by: str, before: Arrays, side: str, arrays: Arrays, name: str) -> Iterator[Finding]:
    where, key = Place("persistence", f"saved by {by}, {name}"), f"{by}/{name}"
    model = SAVED[name].plain.model
    held = str(arrays[f"{key}/config"]) if f"{key}/config" in arrays else error_of(arrays, key)
    asked = json.dumps(to_mapping(model), sort_keys=True)
    yield Finding.fact(where._replace(tap="configuration"), (side, by), held == asked, held)
    same = all(
        f"{key}/weights/{weight}" in arrays
        and np.array_equal(arrays[f"{key}/weights/{weight}"], before.get(f"{name}/weights/{weight}", ()))
        for weight in weight_shapes(model, 1)
    )
    yield Finding.fact(where._replace(tap="weights"), (side, by), same, "not the weights that were trained")
    where = where._replace(precision="float32", tap="object patches")
    keys = (f"{key}/patches", f"{name}/patches")
    yield compare(where, (side, by), (arrays, before), keys, TOLERANCES["forward"])


LOADED = Capture("persistence", measure, "weights", fresh=True, after=("training",))

RUNG = Rung(
    "persistence",
    "does a saved model predict the same, loaded by either in a new process, a second scan as it does alone, and does "
    "a stopped training come to the same?",
    (TRAINING, LOADED, workflow.OWN, workflow.RELOADED),
    (judge,),
    "weights",
    also=(workflow.persistence,),
)
