"""The public names of `ptyint`: what type checkers read, and what is imported once a name is used."""

from .backends.bundle import load_bundle, save_bundle
from .config import InferenceConfig, ModelConfig, TrainingConfig, update_legacy_dict
from .dispatcher import infer, train
from .errors import (
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
from .images.comparison import Criteria, compare
from .images.reconstruction import Reconstruction, assemble
from .images.workflow import reconstruct
from .parity.models import ModelPair
from .parity.results import Ladder
from .scans.files import read_scan, write_scan
from .scans.fixtures import fixture_info, fixture_names, load_fixture
from .scans.scan import Scan, validate_scan
from .stages.runs import Run, runs

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
