"""Stage ``ptychodus``: one scan through the real application with both backends, and through the dispatcher directly.

Every reconstruction has a process of its own, and the application's have Ptychodus' command line; nothing here imports
a framework or Ptychodus. Run as a program, this module is the direct call.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.config import TrainingConfig, from_mapping, to_mapping
from ptyint.evidence.checks import Check, Criterion, Relation
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.metrics import ObjectComparison, compare_objects
from ptyint.images.reconstruction import Reconstruction, reconstruct
from ptyint.parity.ladder import run_module
from ptyint.ptychodus.command import installed_version
from ptyint.ptychodus.settings import BACKENDS, MODEL_FILE, algorithm_of, write_settings
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.fixtures import fixture_info
from ptyint.scans.hdf5 import open_h5, required
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE, PRODUCT_FILE
from ptyint.scans.scan import Scan
from ptyint.stages.request import Request, Stage

FOLDER = "ptychodus"
MISSPELT = "ptyint_tensorflw"

ASSUMED = {"pixel_size_m": 1e-8, "wavelength_m": 1.24e-10, "detector_distance_m": 2.0}
"""For a scan without them, since Ptychodus keeps positions in metres. What comes out, in pixels, depends on none."""

AGREEMENT = "phase correlation of the two backends in Ptychodus"
SCALE = "relative amplitude scale between them"
STOCK = "contrast: stock Ptychodus with a misspelt algorithm exits 0 and leaves an empty folder"
REFUSED = "ptyint-ptychodus with the same input exits 1, leaves an empty folder and tells the name"


def jobs(request: Request) -> list[Job]:
    """The notebook of this stage; its checks depend on whether the truth is known."""
    given = {**parameter_defaults(notebook_path("ptychodus")), **request.given("ptychodus")}
    expects = criteria(fixture_info(str(given["fixture"])).truth_known)
    return [Job("ptychodus", "ptychodus", STAGE.title, "ptychodus", expects=expects, artifacts=artifacts())]


STAGE = Stage("Ptychodus", "both backends in the real application, and the dispatcher directly", jobs)


def artifacts() -> tuple[str, ...]:
    """Files that the stage leaves."""
    return tuple(f"{FOLDER}/{backend}/{name}" for backend in BACKENDS for name in (MODEL_FILE, PRODUCT_FILE))


def criteria(truth: bool) -> tuple[Criterion, ...]:
    """Every criterion of the stage. Bounds are the notebook's parameters; without them nothing passes."""
    each: list[Criterion] = []
    for names in (_names(backend) for backend in BACKENDS):
        each += [Criterion.fact(names[key]) for key in ("train", "reconstruct", "grid", "losses")]
        each.append(_bounded(names["same"], "<=", "max_application_difference"))
        each += [_bounded(names["truth"], ">=", "min_phase_correlation")] if truth else []
    return (
        *each,
        _bounded(AGREEMENT, ">=", "min_agreement"),
        _bounded(SCALE, "<=", "max_scale_difference"),
        *map(Criterion.fact, (STOCK, REFUSED)),
    )


def _bounded(name: str, relation: Relation, parameter: str) -> Criterion:
    return Criterion(name, relation, math.nan, parameter=parameter)


def _names(backend: str) -> dict[str, str]:
    return {
        "train": f"{backend}: batch train exits 0 and leaves {MODEL_FILE} alone",
        "reconstruct": f"{backend}: batch reconstruct exits 0 and leaves {PRODUCT_FILE} alone",
        "grid": f"{backend}: the object keeps grid, centre and pixel of the input",
        "losses": f"{backend}: {PRODUCT_FILE} holds the losses, those of the direct call",
        "same": f"{backend}: object through Ptychodus against called directly, largest relative difference",
        "truth": f"{backend}: phase correlation with the truth, in Ptychodus",
    }


@dataclass(frozen=True)
class Step:
    """One process: its command, as a record keeps it, the files in its output folder, and its log."""

    command: dict[str, Any]
    files: tuple[str, ...]
    log: str


@dataclass(frozen=True, eq=False)
class Agreement:
    """What came of it.

    Attributes
    ----------
    scan : Scan
        With its truth, where it has one.
    given : Scan
        What both ways started from: a flat object.
    direct : dict of str to Reconstruction
        Backend to what the dispatcher made, called directly.
    inside : dict of str to Scan
        Backend to what Ptychodus left in ``product.h5``.
    losses : dict of str to ndarray
        Those in ``product.h5``.
    steps : dict of str to Step
        ``"<backend> train"``, ``"<backend> reconstruct"``, ``"<backend> direct"``, `STOCK`, `REFUSED`.
    version : str
        Of Ptychodus.
    """

    scan: Scan
    given: Scan
    direct: dict[str, Reconstruction]
    inside: dict[str, Scan]
    losses: dict[str, NDArray[np.float64]]
    steps: dict[str, Step]
    version: str

    @property
    def scanned(self) -> NDArray[np.bool_]:
        """(H, W) True where the images are compared."""
        return np.asarray(np.logical_and.reduce([one.scanned for one in self.direct.values()]))

    def against_truth(self, backend: str) -> ObjectComparison:
        """Ptychodus' object in the gauge of the truth."""
        return compare_objects(object_of(self.inside[backend]), object_of(self.scan), self.scanned)

    def between(self) -> ObjectComparison:
        """PyTorch's object in the gauge of TensorFlow's, both from Ptychodus."""
        tensorflow, pytorch = (object_of(self.inside[backend]) for backend in BACKENDS)
        return compare_objects(pytorch, tensorflow, self.scanned)

    def difference(self, backend: str) -> float:
        """Largest difference of the objects made through Ptychodus and directly, relative to the largest value."""
        direct = self.direct[backend].object_
        return float(abs(object_of(self.inside[backend]) - direct).max() / abs(direct).max())


def object_of(scan: Scan) -> NDArray[np.complex64]:
    """The object, which a scan from a product always has."""
    assert scan.object_ is not None
    return scan.object_


def run(
    scan: Scan, config: TrainingConfig, M: int, folder: str | os.PathLike[str], timeout: float = 900.0
) -> Agreement:
    """Train and reconstruct through Ptychodus and directly, with each backend, one after the other.

    `folder` gets the logs, and what Ptychodus leaves in ``ptychodus/<backend>/``; each process has `timeout` seconds.

    Raises
    ------
    PtychodusUnavailableError
        Ptychodus is not installed.
    ScanError
        A process left nothing to compare; its log says why.
    """
    version, target = installed_version(), Path(folder)
    missing: dict[str, Any] = {name: value for name, value in ASSUMED.items() if getattr(scan, name) is None}
    scan = replace(scan, **missing)
    steps: dict[str, Step] = {}
    direct, inside, losses = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="ptyint-ptychodus-") as folder_name:
        scratch = Path(folder_name)
        pair = scratch / "pair"
        flat = None if scan.object_ is None else np.ones_like(scan.object_)
        write_scan(replace(scan, object_=flat, object_is_truth=False), pair, format="ptychodus")
        given = read_scan(pair)
        for backend in BACKENDS:
            own = replace(config, model=replace(config.model, N=scan.N), backend=backend)
            write_settings(pair / "settings.ini", algorithm_of(backend), own, M)
            steps |= _through(pair, backend, target, timeout)
            (scratch / f"{backend}.json").write_text(json.dumps(to_mapping(own)), encoding="utf-8")
            arguments = [str(pair), str(scratch / backend), str(scratch / f"{backend}.json"), str(M)]
            steps[f"{backend} direct"] = _step(__name__, arguments, target, f"{backend}-direct", timeout)
            direct[backend] = Reconstruction.load(scratch / backend)
            inside[backend], losses[backend] = _made(pair, target / FOLDER / backend / PRODUCT_FILE)
        write_settings(pair / "settings.ini", MISSPELT, config, M)
        for what, name, module in ((STOCK, "stock", "ptychodus"), (REFUSED, "ptyint", "ptyint.ptychodus.command")):
            steps[what] = _batch(module, "reconstruct", pair, scratch / name, target, f"misspelt-{name}", timeout)
        given = replace(given, diffraction_patterns=given.diffraction_patterns[:])
    return Agreement(scan, given, direct, inside, losses, steps, version)


def _through(pair: Path, backend: str, target: Path, timeout: float) -> dict[str, Step]:
    """Batch train, then batch reconstruct with its model, by Ptychodus' own command line."""
    output, made = target / FOLDER / backend, pair.with_name(f"{backend}-model")
    steps = {}
    for action, folder in (("train", made), ("reconstruct", output)):
        name = f"{backend}-{action}"
        steps[f"{backend} {action}"] = _batch("ptyint.ptychodus.command", action, pair, folder, target, name, timeout)
        if action == "train" and (made / MODEL_FILE).is_file():
            (made / MODEL_FILE).replace(pair / MODEL_FILE)
    if (pair / MODEL_FILE).is_file():
        output.mkdir(parents=True, exist_ok=True)
        (pair / MODEL_FILE).replace(output / MODEL_FILE)
    return steps


def _batch(module: str, action: str, pair: Path, output: Path, target: Path, name: str, timeout: float) -> Step:
    return _step(module, ["-b", action, "-i", str(pair), "-o", str(output)], target, name, timeout, output)


def _step(
    module: str, arguments: list[str], target: Path, name: str, timeout: float, output: Path | None = None
) -> Step:
    log = target / f"{FOLDER}-{name}.log"
    command = run_module(target, timeout, log.name, module, *arguments)
    files = tuple(sorted(path.name for path in output.iterdir())) if output and output.is_dir() else ()
    return Step(command, files, log.read_text(encoding="utf-8", errors="replace"))


def _made(pair: Path, product: Path) -> tuple[Scan, NDArray[np.float64]]:
    with open_h5(product) as file:
        losses = np.asarray(required(file, "loss_values")[()], np.float64)
    return read_scan(pair / DIFFRACTION_FILE, product=product), losses


def checks(one: Agreement, bounds: Mapping[str, float]) -> list[Check]:
    """Every criterion with what was measured; `bounds` are the notebook's parameters of that name."""
    measured: dict[str, tuple[float, str]] = {}
    for backend in BACKENDS:
        measured |= {_names(backend)[key]: value for key, value in _of_backend(one, backend).items()}
    between = one.between()
    measured[AGREEMENT] = between.correlation("phase"), ""
    measured[SCALE] = abs(float(np.log(between.gauge.scale))), ""
    measured[STOCK] = _ended(one.steps[STOCK], 0, ())
    measured[REFUSED] = _ended(one.steps[REFUSED], 1, (), f"{MISSPELT!r} is not available")
    declared = [criterion.at(bounds) for criterion in criteria(one.scan.object_is_truth)]
    return [criterion.measured(*measured[criterion.name]) for criterion in declared]


def _of_backend(one: Agreement, backend: str) -> dict[str, tuple[float, str]]:
    """What was measured of a backend, with a note, by the keys of its names; 1 for a fact that holds."""
    made, given, losses = one.inside[backend], one.given, one.losses[backend]
    same_grid = object_of(made).shape == object_of(given).shape and made.pixel_size_m == given.pixel_size_m
    same_places = np.array_equal(made.probe_positions_px, given.probe_positions_px)
    own = one.direct[backend].losses
    same_losses = losses.shape == own.shape and np.allclose(losses, own, rtol=1e-6, atol=0)
    measured = {
        "train": _ended(one.steps[f"{backend} train"], 0, (MODEL_FILE,)),
        "reconstruct": _ended(one.steps[f"{backend} reconstruct"], 0, (PRODUCT_FILE,)),
        "grid": (float(same_grid and same_places), "{} x {} px".format(*object_of(made).shape)),
        "losses": (float(same_losses), f"{len(losses)} epochs"),
        "same": (one.difference(backend), ""),
    }
    truth = one.scan.object_is_truth
    return {**measured, "truth": (one.against_truth(backend).correlation("phase"), "")} if truth else measured


def _ended(step: Step, code: int, files: tuple[str, ...], says: str = "") -> tuple[float, str]:
    """Whether a process ended with this exit code, left these files and said these words."""
    holds = (step.command["exit_code"], step.files) == (code, files) and says in step.log
    return float(holds), f"exit code {step.command['exit_code']}, files {list(step.files)}"


def main(pair: str, folder: str, config: str, M: str) -> None:
    """The direct call: the dispatcher, in this process, with the configuration in a file."""
    values = json.loads(Path(config).read_text(encoding="utf-8"))
    reconstruct(read_scan(pair), from_mapping(TrainingConfig, values), folder, M=int(M))


if __name__ == "__main__":
    main(*sys.argv[1:])
