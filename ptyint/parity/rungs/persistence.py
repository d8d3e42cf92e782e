"""Rung 6: what each backend predicts from each one's file, in a new process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ptyint import dispatcher
from ptyint.backends import bundle
from ptyint.backends.weights import weight_shapes
from ptyint.config import to_mapping
from ptyint.images.reconstruction import assemble
from ptyint.parity.compare import Arrays, Finding, Place, compare, error_of
from ptyint.parity.problems import FIXTURE, TRAINING, Problems, inference
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.parity.rungs.step import TRAINING as TRAINED
from ptyint.parity.tolerances import TOLERANCES
from ptyint.scans.fixtures import load_fixture


def measure(bench: Bench, part: str = "") -> Captured:
    """Object patches of the models that both saved, loaded from the file alone: ``backend/gridsize/patches``.

    Also what the bundle says of itself: ``.../config`` and ``.../weights/<name>``.
    """
    arrays: Captured = {}
    scan = load_fixture(FIXTURE)
    for other in bench.pair:
        for gridsize in TRAINING:
            key = f"{other}/{gridsize}"
            with noted(arrays, key):
                path = bench.folder / f"{other}-{gridsize}.zip"
                applied = inference(gridsize, backend=bench.name, model_path=path)
                loaded = bundle.load_bundle(path)
                arrays[f"{key}/patches"] = assemble(dispatcher.infer(scan, applied)).object_patches
                arrays[f"{key}/config"] = np.array(json.dumps(to_mapping(loaded.config.model), sort_keys=True))
                arrays |= {f"{key}/weights/{weight}": w for weight, w in loaded.weights.items()}
    return arrays


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Configuration, weights and patches from each file, against what was trained and predicted before it was saved."""
    loaded = measured.both("persistence")
    for by, trained in measured.both("training").items():
        for side, arrays in loaded.items():
            for gridsize in TRAINING:
                yield from _of_file(by, trained, side, arrays, gridsize)


def _of_file(by: str, trained: Arrays, side: str, arrays: Arrays, gridsize: int) -> Iterator[Finding]:
    where, key = Place("persistence", f"saved by {by}, gridsize {gridsize}"), f"{by}/{gridsize}"
    model = TRAINING[gridsize].model
    held = str(arrays[f"{key}/config"]) if f"{key}/config" in arrays else error_of(arrays, key)
    asked = json.dumps(to_mapping(model), sort_keys=True)
    yield Finding.fact(where._replace(tap="configuration"), (side, by), held == asked, held)
    same = all(
        f"{key}/weights/{name}" in arrays
        and np.array_equal(arrays[f"{key}/weights/{name}"], trained.get(f"{gridsize}/weights/{name}", ()))
        for name in weight_shapes(model, 1)
    )
    yield Finding.fact(where._replace(tap="weights"), (side, by), same, "not the weights that were trained")
    where = where._replace(precision="float32", tap="object patches")
    keys = (f"{key}/patches", f"{gridsize}/patches")
    yield compare(where, (side, by), (arrays, trained), keys, TOLERANCES["forward"])


LOADED = Capture("persistence", measure, "weights", fresh=True, after=("training",))

RUNG = Rung(
    "persistence",
    "does a saved model predict the same, loaded by either backend in a new process?",
    (TRAINED, LOADED, workflow.OWN, workflow.RELOADED),
    (judge,),
    "weights",
    also=(workflow.persistence,),
)
