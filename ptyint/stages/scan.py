"""The stage ``scan``: one scan through both backends, a notebook each, and their comparison."""

from __future__ import annotations

from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.images.comparison import NAME as COMPARISON
from ptyint.images.comparison import Criteria
from ptyint.scans.files import read_scan
from ptyint.scans.fixtures import fixture_info
from ptyint.stages.request import BACKENDS, Request, Stage


def jobs(request: Request) -> list[Job]:
    """A reconstruction with each backend, then the comparison, whose checks depend on whether the truth is known."""
    fixture = request.fixture or default_fixture()
    source = {"scan_file": str(request.scan.resolve())} if request.scan else {"fixture": fixture}
    title = request.scan.name if request.scan else fixture
    reconstructions = [
        Job(
            stage="scan",
            name=backend,
            title=f"{title}, reconstructed with {backend}",
            notebook="reconstruct",
            parameters={**source, "backend": backend, "output_dir": backend},
            artifacts=(f"{backend}/reconstruction.h5", f"{backend}/wts.h5.zip"),
        )
        for backend in BACKENDS
    ]
    sides = dict(zip(("reference_dir", "candidate_dir"), BACKENDS, strict=True))
    declared = Criteria().declared(_truth_known(request, fixture))
    return [*reconstructions, Job("scan", "compare", STAGE.title, "compare", sides, declared, (COMPARISON,))]


DECIDED = {
    "backend": "both run",
    "fixture": "--fixture is for that",
    "scan_file": "--scan is for that",
    "reference_dir": "it is TensorFlow's",
    "candidate_dir": "it is PyTorch's",
}
STAGE = Stage("Comparison on a scan", "one scan through both backends, side by side", jobs, DECIDED)


def default_fixture() -> str:
    """The dataset that is reconstructed where none is asked for: the notebook's."""
    return str(parameter_defaults(notebook_path("reconstruct"))["fixture"])


def _truth_known(request: Request, fixture: str) -> bool:
    if request.scan is None:
        return fixture_info(fixture).truth_known
    given = request.given("scan")
    product, kind = (given.get(name) or None for name in ("product_file", "diffraction_kind"))
    return read_scan(request.scan, product=product, diffraction_kind=kind).object_is_truth
