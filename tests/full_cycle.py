"""A full cycle on the integration fixture: train and save in one process; load, infer and stitch in a new one.

The test's own process imports no framework. Run as a program (``python -P``: beside this file lies a folder named
``torch``), this file is either of the two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ptyint
from ptyint import dispatcher
from ptyint.backends.weights import initial_weights, weights_sha256
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig
from ptyint.images.metrics import compare_objects
from ptyint.images.reconstruction import Reconstruction, assemble, peak_memory_bytes
from ptyint.images.workflow import reconstruct
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import fixture_info, load_fixture

FIXTURE = "tiny-64"
M = 12
FRAMEWORKS = {"tensorflow": "tensorflow", "pytorch": "torch"}
"""Backend -> the one top-level module that it may import."""

SETTINGS: dict[str, Any] = {"batch_size": 4, "nepochs": 40, "neighbor_count": 6, "probe_trainable": True}
LOSS_FELL_TO = 0.5
"""At most this part of the loss's excess over :func:`lowest_loss` may be left. Trainings whose first weights are moved
by an ulp leave 0.12 to 0.19: what rounding does is a tenth of the distance to the bound."""

MIN_PHASE_CORRELATION = 0.75
"""With the truth, after gauge removal, in the scanned region. Moved by an ulp, trainings reach 0.866 to 0.929."""

TIMEOUT = 300
ROUNDING = 1e-4
"""Largest difference between two predictions from the same weights, relative to the largest value."""


def training_config(gridsize: int, **settings: Any) -> TrainingConfig:
    """The narrow network of ``notebooks/reconstruct.ipynb``; without ``backend`` the default is what runs."""
    return TrainingConfig(model=ModelConfig(gridsize=gridsize, n_filters_scale=1), **{**SETTINGS, **settings})


# --- the two processes ---


def train(folder: Path, gridsize: int, settings: dict[str, Any]) -> None:
    reconstruct(load_fixture(FIXTURE), training_config(gridsize, **settings), folder, M=M)


def infer(bundle: Path, folder: Path, gridsize: int, settings: dict[str, Any]) -> None:
    """Write into `folder` the reconstruction that the bundle gives in this process, and its object patches."""
    trained = Reconstruction.load(bundle)
    config = training_config(gridsize)
    given = InferenceConfig(
        model=config.model, model_path=bundle, neighbor_count=config.neighbor_count, M=M, output_dir=folder, **settings
    )
    inferred = dispatcher.infer(load_fixture(FIXTURE), given)
    result = assemble(inferred)
    facts = {
        "backend": inferred.backend,
        "inference_seconds": inferred.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    np.save(folder / "object_patches.npy", result.object_patches)
    replace(
        trained,
        object_=result.object_.astype(np.complex64),
        coverage=result.coverage,
        probe=result.probe,
        facts={**trained.facts, **facts},
    ).save(folder)


def main(report: str, what: str, *arguments: str) -> None:
    """Run one step; leave in `report` what this process imported, and when its backend was ready."""
    started = float(arguments[0])
    *folders, gridsize, settings = arguments[1:]
    choice = json.loads(settings)
    config = training_config(int(gridsize), **choice) if what == "train" else InferenceConfig(**choice)
    dispatcher.select_backend(config)
    startup = time.time() - started
    {"train": train, "infer": infer}[what](*map(Path, folders), int(gridsize), choice)
    imported = sorted(name for name in (*FRAMEWORKS.values(), "keras") if name in sys.modules)
    facts = {"startup_seconds": startup, "imported": imported, "ptyint": ptyint.__file__}
    Path(report).write_text(json.dumps(facts))


# --- what the tests call ---


def run_python(*arguments: str, env: dict[str, str] | None = None) -> str:
    """Run a fresh interpreter; its last words are in the failure's message.

    Returns
    -------
    str
        What it printed.
    """
    variables = {**os.environ, "TQDM_DISABLE": "1", **(env or {})}
    command = [sys.executable, "-P", *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=variables)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        raise AssertionError(f"no end after {TIMEOUT} s:\n{said[-3000:]}") from None
    assert run.returncode == 0, f"exit code {run.returncode}:\n{run.stderr[-3000:]}"
    return run.stdout


@dataclass(frozen=True, eq=False)
class Step:
    """What one process wrote, and what it said about itself."""

    folder: Path
    reconstruction: Reconstruction
    facts: dict[str, Any]
    seconds: float


def step(what: str, folder: Path, gridsize: int, *, bundle: Path | None = None, **settings: Any) -> Step:
    """Run ``train`` or, from the folder `bundle`, ``infer``, in a new process that writes into `folder`."""
    folder.mkdir()
    report = folder / "process.json"
    folders = [str(path) for path in (bundle, folder) if path is not None]
    start = time.time()
    run_python(__file__, str(report), what, str(start), *folders, str(gridsize), json.dumps(settings))
    seconds = time.time() - start
    return Step(folder, Reconstruction.load(folder), json.loads(report.read_text()), seconds)


@dataclass(frozen=True, eq=False)
class Cycle:
    """Both processes of a full cycle."""

    gridsize: int
    trained: Step
    loaded: Step

    def properties(self) -> dict[str, Any]:
        """What the log of a test run keeps."""
        steps, result = (self.trained, self.loaded), self.loaded.reconstruction
        return {
            "backend": result.backend,
            "gridsize": self.gridsize,
            "reconstruction": str(self.loaded.folder),
            "cycle_seconds": sum(step.seconds for step in steps),
            "startup_seconds": sum(step.facts["startup_seconds"] for step in steps),
            "training_seconds": result.facts["training_seconds"],
            "inference_seconds": result.facts["inference_seconds"],
            "peak_memory_bytes": max(step.reconstruction.facts["peak_memory_bytes"] for step in steps),
            "training_peak_memory_bytes": self.trained.reconstruction.facts["peak_memory_bytes"],
            "inference_peak_memory_bytes": result.facts["peak_memory_bytes"],
            "n_epochs": len(result.losses),
            "first_loss": float(result.losses[0]),
            "final_loss": float(result.losses[-1]),
            "phase_correlation": truth_correlation(result, "phase"),
            "amplitude_correlation": truth_correlation(result, "amplitude"),
        }


def truth_correlation(result: Reconstruction, part: str) -> float:
    assert result.ground_truth is not None
    value = compare_objects(result.object_, result.ground_truth, result.scanned).values[f"{part}_correlation"]
    return float("nan") if value is None else value


def full_cycle(folder: Path, gridsize: int, **settings: Any) -> Cycle:
    """Train in one process, load and infer in another; both with ``backend`` from `settings`, or with the default."""
    trained = step("train", folder / "trained", gridsize, **settings)
    choice = {name: value for name, value in settings.items() if name == "backend"}
    return Cycle(gridsize, trained, step("infer", folder / "loaded", gridsize, bundle=trained.folder, **choice))


# --- what must hold ---


def lowest_loss(gridsize: int) -> float:
    """The loss of a model that expects exactly the measured counts, averaged over the groups."""
    scan = load_fixture(FIXTURE)
    counts = scan.counts().astype(np.float64)
    rate = np.maximum(counts, 0.01)
    of_patterns = np.mean(rate - counts * np.log(rate), axis=(1, 2))
    return float(of_patterns[grouped(gridsize).groups.indices].mean())


def grouped(gridsize: int) -> GroupedScan:
    """The groups that both backends must have been given, made here."""
    return GroupedScan.from_config(load_fixture(FIXTURE), training_config(gridsize))


def check_facts(one: Step, backend: str) -> None:
    """The backend asked for ran, alone, from this checkout, on the fixture's groups and the common first weights."""
    facts, scan = one.reconstruction.facts, load_fixture(FIXTURE)
    imported = {name for name in one.facts["imported"] if name != "keras" or backend != "tensorflow"}
    assert imported == {FRAMEWORKS[backend]}
    assert one.facts["ptyint"] == ptyint.__file__
    assert facts["backend"] == backend == facts["config"]["backend"] == facts["description"]["backend"]
    assert facts["scan"] == FIXTURE
    assert facts["scan_sha256"] == scan.sha256 == fixture_info(FIXTURE).sha256["arrays"]
    config = training_config(facts["config"]["model"]["gridsize"])
    groups = grouped(config.model.gridsize).groups
    assert facts["n_groups"] == groups.n_groups < 20
    assert facts["groups_sha256"] == groups.sha256()
    assert facts["initial_weights_sha256"] == weights_sha256(initial_weights(config.model, scan.probe, config.seed))


def check_cycle(cycle: Cycle, backend: str) -> None:
    """Both processes did their part, the loss fell, and the object that came out shows the sample."""
    for one in (cycle.trained, cycle.loaded):
        check_facts(one, backend)
    first, second = cycle.trained.reconstruction, cycle.loaded.reconstruction
    assert second.facts["config"]["model"]["gridsize"] == cycle.gridsize
    losses = second.losses
    assert len(losses) == SETTINGS["nepochs"] and np.isfinite(losses).all()
    excess = losses - lowest_loss(cycle.gridsize)
    assert excess[-1] < LOSS_FELL_TO * excess[0]
    seen = second.object_[second.scanned]
    assert np.isfinite(second.object_).all() and np.isfinite(second.probe).all()
    assert np.ptp(np.angle(seen * np.conj(seen.mean()))) > 0.1 and np.std(abs(seen)) > 0.01 * np.mean(abs(seen))
    assert truth_correlation(second, "phase") > MIN_PHASE_CORRELATION
    for name in ("object_", "probe", "coverage"):
        check_equal(getattr(second, name), getattr(first, name))


def check_equal(left: Any, right: Any) -> None:
    """Equal to single-precision rounding, on the scale of the largest value; not where anything is NaN."""
    assert left.shape == right.shape and np.isfinite(left).all() and np.isfinite(right).all()
    assert abs(left - right).max() <= ROUNDING * abs(right).max()


if __name__ == "__main__":
    main(*sys.argv[1:])
