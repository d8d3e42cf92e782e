"""Stage ``ptychodus``: one scan through the real application with both backends, and through the dispatcher directly.

Every reconstruction has a process of its own, and the application's have Ptychodus' command line; nothing here imports
a framework or Ptychodus. Run as a program, this module is the direct call.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.config import TrainingConfig, from_mapping, to_mapping
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.comparison import Comparison, compare
from ptyint.images.reconstruction import Reconstruction
from ptyint.images.workflow import reconstruct
from ptyint.parity.ladder import run_module
from ptyint.ptychodus.command import installed_version
from ptyint.ptychodus.settings import BACKENDS, MODEL_FILE, algorithm_of, write_settings
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.fixtures import fixture_info
from ptyint.scans.hdf5 import open_h5
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE, PRODUCT_FILE
from ptyint.scans.scan import Scan
from ptyint.stages.request import Request, Stage

FOLDER = "ptychodus"
MISSPELT = "ptyint_tensorflw"
TIMEOUT_S = 900.0
"""For each process."""

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
    for backend in BACKENDS:
        same = f"{backend}: object through Ptychodus against called directly, largest relative difference"
        each += [
            Criterion.fact(f"{backend}: batch train exits 0 and leaves {MODEL_FILE} alone"),
            Criterion.fact(f"{backend}: batch reconstruct exits 0 and leaves {PRODUCT_FILE} alone"),
            Criterion.fact(f"{backend}: the object keeps grid, centre and pixel of the input"),
            Criterion.fact(f"{backend}: {PRODUCT_FILE} holds the losses, those of the direct call"),
            Criterion(same, "<=", math.nan, parameter="max_application_difference"),
        ]
        if truth:
            with_truth = f"{backend}: phase correlation with the truth, in Ptychodus"
            each.append(Criterion(with_truth, ">=", math.nan, parameter="min_phase_correlation"))
    return (
        *each,
        Criterion(AGREEMENT, ">=", math.nan, parameter="min_agreement"),
        Criterion(SCALE, "<=", math.nan, parameter="max_scale_difference"),
        *map(Criterion.fact, (STOCK, REFUSED)),
    )


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

    @cached_property
    def comparison(self) -> Comparison:
        """What both backends made in Ptychodus, with each other and with the truth, where it is known."""
        truth = self.scan.object_ if self.scan.object_is_truth else None
        reference, candidate = (
            replace(self.direct[backend], object_=object_of(self.inside[backend]), ground_truth=truth)
            for backend in BACKENDS
        )
        return compare(reference, candidate)

    def difference(self, backend: str) -> float:
        """Largest difference of the objects made through Ptychodus and directly, relative to the largest value."""
        direct = self.direct[backend].object_
        return float(abs(object_of(self.inside[backend]) - direct).max() / abs(direct).max())


def object_of(scan: Scan) -> NDArray[np.complex64]:
    """The object, which a scan from a product always has."""
    assert scan.object_ is not None
    return scan.object_


def run(scan: Scan, config: TrainingConfig, M: int, folder: str | os.PathLike[str]) -> Agreement:
    """Train and reconstruct through Ptychodus and directly, with each backend, one after the other.

    `folder` gets the logs, and what Ptychodus leaves in ``ptychodus/<backend>/``.

    Raises
    ------
    PtychodusUnavailableError
        Ptychodus is not installed.
    ScanError
        A process left nothing to compare; its log says why.
    """
    version, target = installed_version(), Path(folder).resolve()  # each process has a working folder of its own
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
            steps |= _through(pair, backend, target)
            (scratch / f"{backend}.json").write_text(json.dumps(to_mapping(own)), encoding="utf-8")
            arguments = [str(pair), str(scratch / backend), str(scratch / f"{backend}.json"), str(M)]
            steps[f"{backend} direct"] = _step(__name__, arguments, target, f"{backend}-direct")
            direct[backend] = Reconstruction.load(scratch / backend)
            inside[backend], losses[backend] = _made(pair, target / FOLDER / backend / PRODUCT_FILE)
        write_settings(pair / "settings.ini", MISSPELT, config, M)
        for what, name, module in ((STOCK, "stock", "ptychodus"), (REFUSED, "ptyint", "ptyint.ptychodus.command")):
            steps[what] = _batch(module, "reconstruct", pair, scratch / name, target, f"misspelt-{name}")
        given = replace(given, diffraction_patterns=given.diffraction_patterns[:])
    return Agreement(scan, given, direct, inside, losses, steps, version)


def _through(pair: Path, backend: str, target: Path) -> dict[str, Step]:
    """Batch train, then batch reconstruct with its model, by Ptychodus' own command line."""
    output, made = target / FOLDER / backend, pair.with_name(f"{backend}-model")
    steps = {}
    for action, folder in (("train", made), ("reconstruct", output)):
        name = f"{backend}-{action}"
        steps[f"{backend} {action}"] = _batch("ptyint.ptychodus.command", action, pair, folder, target, name)
        if action == "train" and (made / MODEL_FILE).is_file():
            (made / MODEL_FILE).replace(pair / MODEL_FILE)
    if (pair / MODEL_FILE).is_file():
        output.mkdir(parents=True, exist_ok=True)
        (pair / MODEL_FILE).replace(output / MODEL_FILE)
    return steps


def _batch(module: str, action: str, pair: Path, output: Path, target: Path, name: str) -> Step:
    return _step(module, ["-b", action, "-i", str(pair), "-o", str(output)], target, name, output)


def _step(module: str, arguments: list[str], target: Path, name: str, output: Path | None = None) -> Step:
    log = target / f"{FOLDER}-{name}.log"
    command = run_module(target, TIMEOUT_S, log.name, module, *arguments)
    files = tuple(sorted(path.name for path in output.iterdir())) if output and output.is_dir() else ()
    return Step(command, files, log.read_text(encoding="utf-8", errors="replace"))


def _made(pair: Path, product: Path) -> tuple[Scan, NDArray[np.float64]]:
    with open_h5(product) as file:
        losses = file.array("loss_values", "real").astype(np.float64)
    return read_scan(pair / DIFFRACTION_FILE, product=product), losses


def checks(one: Agreement, bounds: Mapping[str, float]) -> list[Check]:
    """Every criterion with what was measured; `bounds` are the notebook's parameters of that name."""
    agreement = one.comparison.agreement
    measured = [
        *chain.from_iterable(_of_backend(one, backend) for backend in BACKENDS),
        (agreement.correlation("phase"), ""),
        (abs(float(np.log(agreement.gauge.scale))), ""),
        _ended(one.steps[STOCK], 0, ()),
        _ended(one.steps[REFUSED], 1, (), f"{MISSPELT!r} is not available"),
    ]
    declared = criteria(one.scan.object_is_truth)
    return [criterion.at(bounds).measured(*seen) for criterion, seen in zip(declared, measured, strict=True)]


def _of_backend(one: Agreement, backend: str) -> Iterator[tuple[float, str]]:
    """What was measured for each criterion of a backend, in their order, with a note; 1 for a fact that holds."""
    made, given, losses = one.inside[backend], one.given, one.losses[backend]
    same_grid = object_of(made).shape == object_of(given).shape and made.pixel_size_m == given.pixel_size_m
    same_places = np.array_equal(made.probe_positions_px, given.probe_positions_px)
    own = one.direct[backend].losses
    same_losses = losses.shape == own.shape and np.allclose(losses, own, rtol=1e-6, atol=0)
    yield _ended(one.steps[f"{backend} train"], 0, (MODEL_FILE,))
    yield _ended(one.steps[f"{backend} reconstruct"], 0, (PRODUCT_FILE,))
    yield float(same_grid and same_places), "{} x {} px".format(*object_of(made).shape)
    yield float(same_losses), f"{len(losses)} epochs"
    yield one.difference(backend), ""
    if one.scan.object_is_truth:
        yield one.comparison.truth[backend].correlation("phase"), ""


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
