"""The stages ``scan`` and ``star``: a scan through both backends, a notebook each, and their comparison."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ptyint.backends import BUILT_IN, installed
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.comparison import NAME as COMPARISON
from ptyint.images.comparison import Criteria
from ptyint.scans import fixtures
from ptyint.scans.files import OPTIONS, read_scan
from ptyint.scans.scan import validate_scan
from ptyint.stages.request import Request, Stage

STAR = "siemens-star-64"
"""Real data: measured at the Advanced Photon Source."""

INSTEAD = {"fixture": "synthetic-64", "nepochs": 10}
"""Shown where the star cannot be had: the largest synthetic scan, half as long as in its own stage."""

BRIEFLY = {"gridsize": 2, "batch_size": 4, "nepochs": 4}
"""How the star is trained: long enough to see it, and short enough for every report."""


LEFT = {"reconstruct": "wts.h5.zip", "workflow": "workflow.log"}
"""Notebook in which a backend reconstructs, to what it leaves beside the reconstruction."""


def _jobs(request: Request) -> list[Job]:
    """The scan that was asked for, which is valid; the checks depend on whether its truth is known."""
    fixture = request.fixture or default_fixture()
    source = {"scan_file": str(request.scan.resolve())} if request.scan else {"fixture": fixture}
    title = request.scan.name if request.scan else fixture
    return _both(request.pair("scan"), "scan", STAGE.title, title, source, _truth_known(request, fixture))


def _star_jobs(request: Request) -> list[Job]:
    """The star, or in its place a synthetic scan."""
    why, pair = fixtures.missing(STAR), request.pair("star")
    if why:
        name = str(INSTEAD["fixture"])
        note = f"{name} stands in for {STAR}. {why}"
        return _both(pair, "star", f"{name}, in the star's place", name, INSTEAD, True, note)
    size = {"gridsize": 1} if "workflow" in map(_notebook, pair) else {}  # what such a backend usually runs
    return _both(pair, "star", f"{STAR}, briefly", STAR, {"fixture": STAR, **BRIEFLY, **size}, False)


def _both(
    pair: tuple[str, str], stage: str, name: str, title: str, source: Mapping[str, Any], truth: bool, note: str = ""
) -> list[Job]:
    """A reconstruction with each backend, in a folder of its own, then the comparison; of the star below its name."""
    folder = "star" if stage == "star" else ""
    made = {backend: f"{folder}/{backend}".lstrip("/") for backend in pair}
    reconstructions = [
        Job(
            stage=stage,
            name=made[backend].replace("/", "-"),
            title=f"{title}, reconstructed with {backend}",
            notebook=(notebook := _notebook(backend)),
            parameters={**source, "backend": backend, "output_dir": made[backend]},
            artifacts=tuple(f"{made[backend]}/{file}" for file in ("reconstruction.h5", LEFT[notebook])),
        )
        for backend in pair
    ]
    sides = dict(zip(("reference_dir", "candidate_dir"), made.values(), strict=True))
    compared = Job(
        stage=stage,
        name=folder or "compare",
        title=name,
        notebook="compare",
        parameters={**sides, "output_dir": folder or "."},
        expects=Criteria().declared(truth, pair),
        artifacts=(f"{folder}/{COMPARISON}".lstrip("/"),),
        needs=tuple(job.name for job in reconstructions),
        note=note,
    )
    return [*reconstructions, compared]


def _notebook(backend: str) -> str:
    """The notebook in which a backend reconstructs."""
    carried = backend in BUILT_IN or "weights" in installed.describe([backend])[backend]["capabilities"]
    return "reconstruct" if carried else "workflow"


STAGE = Stage("Comparison on a scan", "one scan through both backends, side by side", _jobs)
STAR_ABOUT = "a Siemens star measured at the APS through both backends, side by side"
STAR_STAGE = Stage("Real data, briefly", STAR_ABOUT, _star_jobs)


def default_fixture() -> str:
    """The dataset that is reconstructed where none is asked for: the notebook's."""
    return str(parameter_defaults(notebook_path("reconstruct"))["fixture"])


def _truth_known(request: Request, fixture: str) -> bool:
    """Whether the object that made the patterns is known; a ScanError where no kernel could take the user's scan."""
    if request.scan is None:
        return fixtures.fixture_info(fixture).truth_known
    given = request.given("scan")
    options = {name: given.get(name) for name in OPTIONS if name != "product"}
    changed_ns = request.scan.stat().st_mtime_ns if request.scan.exists() else 0
    return _truth_in(request.scan, changed_ns, product=given.get("product_file") or None, **options)


@lru_cache
def _truth_in(path: Path, changed_ns: int, **options: Any) -> bool:
    scan = read_scan(path, **options)
    validate_scan(scan)
    return scan.object_is_truth
