"""Stage ``ptychodus``: one scan through the real application with two backends, and by calling these directly.

Every reconstruction has a process of its own, and the application's have Ptychodus' command line; nothing here imports
a framework or Ptychodus. Run as a program, this module is the direct call.
"""

import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import write_text
from ptyint.config import TrainingConfig, from_mapping, to_mapping
from ptyint.errors import ChildError
from ptyint.evidence.checks import Check, Criterion
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.comparison import Comparison, compare
from ptyint.images.reconstruction import Reconstruction
from ptyint.images.workflow import reconstruct
from ptyint.parity.ladder import run_module
from ptyint.ptychodus.command import installed_version
from ptyint.ptychodus.settings import MODEL_FILE, algorithm_of, write_settings
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.fixtures import fixture_info
from ptyint.scans.hdf5 import open_h5
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE, PRODUCT_FILE
from ptyint.scans.scan import Scan
from ptyint.stages.request import Request, Stage

Pair = tuple[str, str]
"""Names of the reference and of the candidate."""

FOLDER, COMMAND = "ptychodus", "ptyint.ptychodus.command"
MISSPELT = "ptyint_tensorflw"
TIMEOUT_S = 900.0
"""For each process."""

ASSUMED = {"pixel_size_m": 1e-8, "wavelength_m": 1.24e-10, "detector_distance_m": 2.0}
"""For a scan without them, since Ptychodus keeps positions in metres. What comes out, in pixels, depends on none."""

THEIRS = {"ptychopinn_pinn": "ptycho", "ptychopinn-torch_unsupervised": "ptycho_torch"}
"""Algorithms of Ptychodus' own two libraries for PtychoPINN, and the package without which neither is there."""

TRAINING_DATA = ("train_data.npz", "test_data.npz")
"""Where the first of them looks for it in its input folder."""

EXCEPTION = re.compile(r"^.*?(\w+(?:Error|Exception): .+)$", re.MULTILINE)

AGREEMENT = "phase correlation of the two backends in Ptychodus"
SCALE = "relative amplitude scale between them"
STOCK = "contrast: stock Ptychodus with a misspelt algorithm exits 0 and leaves an empty folder"
REFUSED = "ptyint-ptychodus with the same input exits 1, leaves an empty folder and tells the name"


def jobs(request: Request) -> list[Job]:
    """The notebook of this stage; its checks depend on the pair, and on whether the truth is known."""
    given = {**parameter_defaults(notebook_path("ptychodus")), **request.given("ptychodus")}
    pair = request.pair("ptychodus")
    expects = criteria(fixture_info(str(given["fixture"])).truth_known, pair)
    return [Job("ptychodus", "ptychodus", STAGE.title, "ptychodus", expects=expects, artifacts=artifacts(pair))]


STAGE = Stage("Ptychodus", "two backends in the real application, and called directly", jobs)


def artifacts(pair: Pair) -> tuple[str, ...]:
    """Files that the stage leaves."""
    return tuple(f"{FOLDER}/{backend}/{name}" for backend in pair for name in (MODEL_FILE, PRODUCT_FILE))


def criteria(truth: bool, pair: Pair) -> tuple[Criterion, ...]:
    """Every criterion of the stage. Bounds are the notebook's parameters; without them nothing passes."""
    each: list[Criterion] = []
    for backend in pair:
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

    @property
    def exception(self) -> str:
        """Last line of the last exception in the log; empty where there is none."""
        return next(iter(EXCEPTION.findall(self.log)[-1:]), "")


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
    theirs : dict of str to Step
        Algorithm of Ptychodus' own libraries for PtychoPINN to its training; empty where PtychoPINN is not installed.
    version : str
        Of Ptychodus.
    """

    scan: Scan
    given: Scan
    direct: dict[str, Reconstruction]
    inside: dict[str, Scan]
    losses: dict[str, NDArray[np.float64]]
    steps: dict[str, Step]
    theirs: dict[str, Step]
    version: str

    @property
    def pair(self) -> Pair:
        """Reference and candidate."""
        reference, candidate = self.direct
        return reference, candidate

    @cached_property
    def comparison(self) -> Comparison:
        """What both backends made in Ptychodus, with each other and with the truth, where it is known."""
        truth = self.scan.object_ if self.scan.object_is_truth else None
        reference, candidate = (
            replace(self.direct[backend], object_=object_of(self.inside[backend]), ground_truth=truth)
            for backend in self.pair
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


def run(scan: Scan, config: TrainingConfig, M: int, folder: str | os.PathLike[str], pair: Pair) -> Agreement:
    """Train and reconstruct through Ptychodus and directly, with each backend, one after the other.

    `folder` gets the logs, and what Ptychodus leaves in ``ptychodus/<backend>/``.

    Raises
    ------
    PtychodusUnavailableError
        Ptychodus is not installed.
    ChildError
        A backend left nothing to compare; the message says why.
    """
    version, target = installed_version(), Path(folder).resolve()  # each process has a working folder of its own
    missing: dict[str, Any] = {name: value for name, value in ASSUMED.items() if getattr(scan, name) is None}
    scan = replace(scan, **missing)
    steps: dict[str, Step] = {}
    direct, inside, losses = {}, {}, {}
    with tempfile.TemporaryDirectory(prefix="ptyint-ptychodus-") as folder_name:
        scratch = Path(folder_name)
        source = scratch / "pair"
        flat = None if scan.object_ is None else np.ones_like(scan.object_)
        write_scan(replace(scan, object_=flat, object_is_truth=False), source, format="ptychodus")
        given = read_scan(source)
        for backend in pair:
            own = replace(config, model=replace(config.model, N=scan.N), backend=backend)
            write_settings(source / "settings.ini", algorithm_of(backend), own, M)
            steps |= _through(source, backend, target)
            arguments = str(source), str(scratch / backend), json.dumps(to_mapping(own)), str(M)
            steps[f"{backend} direct"] = _done(_step(target, f"{backend}-direct", __name__, *arguments))
            direct[backend] = Reconstruction.load(scratch / backend)
            inside[backend], losses[backend] = _made(source, target / FOLDER / backend / PRODUCT_FILE)
        write_settings(source / "settings.ini", MISSPELT, config, M)
        for what, name, module in ((STOCK, "stock", "ptychodus"), (REFUSED, "ptyint", COMMAND)):
            steps[what] = _batch(target, f"misspelt-{name}", module, "reconstruct", source, scratch / name)
        theirs = _their_libraries(given, source, target)
        given = replace(given, diffraction_patterns=given.diffraction_patterns[:])
    return Agreement(scan, given, direct, inside, losses, steps, theirs, version)


def _through(source: Path, backend: str, target: Path) -> dict[str, Step]:
    """Batch train, then batch reconstruct with its model, by Ptychodus' own command line."""
    output, made = target / FOLDER / backend, source.with_name(f"{backend}-model")
    trained = _done(_batch(target, f"{backend}-train", COMMAND, "train", source, made), MODEL_FILE)
    (made / MODEL_FILE).replace(source / MODEL_FILE)
    reconstructed = _batch(target, f"{backend}-reconstruct", COMMAND, "reconstruct", source, output)
    (source / MODEL_FILE).replace(output / MODEL_FILE)
    return {f"{backend} train": trained, f"{backend} reconstruct": _done(reconstructed, PRODUCT_FILE)}


def _done(step: Step, *files: str) -> Step:
    """A step that left `files`; a ChildError with the reason where it did not."""
    if step.command["exit_code"] or not {*files} <= {*step.files}:
        raise ChildError(f"Nothing is left to compare: {step.exception} See {step.command['log']}.")
    return step


def _their_libraries(scan: Scan, source: Path, target: Path) -> dict[str, Step]:
    """Stock Ptychodus trains on the same scan by each of its own libraries for PtychoPINN that is there."""
    steps = {}
    for algorithm in (name for name, package in THEIRS.items() if find_spec(package)):
        for name in TRAINING_DATA:
            write_scan(scan, source / name)
        write_text(source / "settings.ini", f"[Processing]\nAlgorithm = {algorithm}\n")
        steps[algorithm] = _batch(target, algorithm, "ptychodus", "train", source, source.with_name(algorithm))
    return steps


def _batch(target: Path, name: str, module: str, action: str, source: Path, output: Path) -> Step:
    step = _step(target, name, module, "-b", action, "-i", str(source), "-o", str(output))
    return replace(step, files=tuple(sorted(path.name for path in output.iterdir())) if output.is_dir() else ())


def _step(target: Path, name: str, module: str, *arguments: str) -> Step:
    log = target / f"{FOLDER}-{name}.log"
    command = run_module(target, TIMEOUT_S, log.name, module, *arguments)
    return Step(command, (), log.read_text(encoding="utf-8", errors="replace"))


def _made(source: Path, product: Path) -> tuple[Scan, NDArray[np.float64]]:
    with open_h5(product) as file:
        losses = file.array("loss_values", "real").astype(np.float64)
    return read_scan(source / DIFFRACTION_FILE, product=product), losses


def checks(one: Agreement, bounds: Mapping[str, float]) -> list[Check]:
    """Every criterion with what was measured; `bounds` are the notebook's parameters of that name."""
    agreement = one.comparison.agreement
    measured = [
        *chain.from_iterable(_of_backend(one, backend) for backend in one.pair),
        (agreement.correlation("phase"), ""),
        (abs(float(np.log(agreement.gauge.scale))), ""),
        _ended(one.steps[STOCK], 0, ()),
        _ended(one.steps[REFUSED], 1, (), f"{MISSPELT!r} is not available"),
    ]
    declared = criteria(one.scan.object_is_truth, one.pair)
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


def main(source: str, folder: str, config: str, M: str) -> None:
    """The direct call, in this process."""
    reconstruct(read_scan(source), from_mapping(TrainingConfig, json.loads(config)), folder, M=int(M))


if __name__ == "__main__":
    main(*sys.argv[1:])
