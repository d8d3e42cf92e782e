"""Does the PyTorch backend of a ptychography reconstruction do the same science as the TensorFlow backend?

The names below are the public interface. Importing them loads no framework: the dispatcher imports the backend that a
configuration names, when it is called.
"""

from typing import TYPE_CHECKING, Any

from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig, update_legacy_dict
from ptyint.dispatcher import infer, train
from ptyint.errors import (
    BackendUnavailableError,
    BundleError,
    ComparisonError,
    ConfigError,
    EvidenceError,
    FixtureError,
    PtyintError,
    ScanError,
    UnknownBackendError,
)
from ptyint.images.comparison import Criteria, compare
from ptyint.images.reconstruction import Reconstruction, assemble, reconstruct
from ptyint.parity.models import ModelPair
from ptyint.parity.results import Ladder
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.fixtures import fixture_info, fixture_names, load_fixture
from ptyint.scans.scan import Scan, validate_scan

if TYPE_CHECKING:
    from ptyint.stages.runs import Run, runs

__all__ = [
    "BackendUnavailableError",
    "BundleError",
    "ComparisonError",
    "ConfigError",
    "Criteria",
    "EvidenceError",
    "FixtureError",
    "InferenceConfig",
    "Ladder",
    "ModelConfig",
    "ModelPair",
    "PtyintError",
    "Reconstruction",
    "Run",
    "Scan",
    "ScanError",
    "TrainingConfig",
    "UnknownBackendError",
    "assemble",
    "compare",
    "fixture_info",
    "fixture_names",
    "infer",
    "load_bundle",
    "load_fixture",
    "read_scan",
    "reconstruct",
    "runs",
    "save_bundle",
    "train",
    "update_legacy_dict",
    "validate_scan",
    "write_scan",
]


def __getattr__(name: str) -> Any:
    """What brings the stages and the manifest's models with it, which takes a second."""
    if name not in ("Run", "runs"):
        raise AttributeError(f"module 'ptyint' has no attribute {name!r}")
    from ptyint.stages import runs

    return getattr(runs, name)
