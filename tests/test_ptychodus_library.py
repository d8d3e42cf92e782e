"""The parts of the library in Ptychodus, without the frameworks: settings, geometry, files, hooks."""

from __future__ import annotations

import io
import sys
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ptychodus.api.reconstruct
import ptychodus.model.core
import ptychodus.model.processing
import ptychodus.model.processing.core
import ptychodus_runs as runs
import pytest
from ptychodus.api.io import StandardFileLayout
from ptychodus.api.object import Object
from ptychodus.api.reconstruct import ReconstructInput, TrainableReconstructor, prepare_reconstruct_input
from ptychodus.api.settings import SettingsRegistry

from ptyint import backends
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import BundleError, ConfigError, ScanError
from ptyint.ptychodus import child, command
from ptyint.ptychodus.library import PtyintLibrary, PtyintReconstructor, PtyintSettings, _files, _product
from ptyint.ptychodus.settings import KEYS, write_settings
from ptyint.scans.files import read_scan
from ptyint.scans.forward import diffraction_amplitudes, fourier_shift
from ptyint.scans.scan import Scan, validate_scan


def library() -> PtyintLibrary:
    return PtyintLibrary(SettingsRegistry(), lambda: False)


def given(*, noise: bool = True, modes: int = 2) -> ReconstructInput:
    """What Ptychodus hands to a reconstructor."""
    product = runs.truth(modes)
    return prepare_reconstruct_input(runs.counts(product, noise=noise), product)


# --- the library and its settings ---


def test_a_trainable_reconstructor_for_each_backend() -> None:
    assert library().name == "ptyint" and [one.name for one in library()] == backends.names()
    for one in library():
        assert isinstance(one, PtyintReconstructor) and not one.is_model_loaded()
        assert f"{StandardFileLayout.MODEL_BASENAME}{one.get_model_file_extension()}" == "model.h5.zip"
        assert one.get_progress_goal() == TrainingConfig().nepochs


def test_settings_default_to_the_configuration() -> None:
    assert PtyintSettings(SettingsRegistry()).training_config("tensorflow") == TrainingConfig()


def test_every_setting_of_a_file_reaches_the_configuration(tmp_path: Path) -> None:
    values = {
        "GridSize": 2, "NumFiltersScale": 1, "AmpActivation": "swish", "ObjectBig": False, "ProbeBig": False,
        "ProbeMask": True, "ProbeScale": 3.0, "BatchSize": 5, "NumEpochs": 7, "NumPhotons": 1e5, "NumGroups": 9,
        "NumNearestNeighbors": 8, "ProbeTrainable": True, "IntensityScaleTrainable": False, "LearningRate": 2e-4,
        "Scheduler": "WarmupCosine", "EarlyStopPatience": 3, "Seed": 42,
    }  # fmt: skip
    assert values.keys() == KEYS.keys()
    (tmp_path / "settings.ini").write_text(
        "[Ptyint]\nPatchCenterSize = 16\n" + "\n".join(f"{k} = {v}" for k, v in values.items())
    )
    registry = SettingsRegistry()
    settings = PtyintSettings(registry)
    registry.open_settings(tmp_path / "settings.ini")
    config = settings.training_config("pytorch")
    for key, field in KEYS.items():
        owner = config.model if field.startswith("model.") else config
        assert getattr(owner, field.removeprefix("model.")) == values[key], key
    assert settings["PatchCenterSize"] == 16 and config.backend == "pytorch"

    registry.save_settings(tmp_path / "again.ini")
    again = SettingsRegistry()
    read = PtyintSettings(again)
    again.open_settings(tmp_path / "again.ini")
    assert read.training_config("pytorch") == config and read["PatchCenterSize"] == 16


def test_a_written_settings_file_is_read_back(tmp_path: Path) -> None:
    config = TrainingConfig(
        ModelConfig(gridsize=2, probe_big=False), nphotons=1e4, learning_rate=3e-4, backend="pytorch"
    )
    write_settings(tmp_path / "settings.ini", "ptyint_pytorch", config, 14)
    registry = SettingsRegistry()
    settings = PtyintSettings(registry)
    registry.open_settings(tmp_path / "settings.ini")
    assert settings.training_config("pytorch") == config and settings["PatchCenterSize"] == 14


def test_a_setting_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[Ptyint]\nGridSize = 3\n")
    registry = SettingsRegistry()
    settings = PtyintSettings(registry)
    registry.open_settings(tmp_path / "settings.ini")
    with pytest.raises(ConfigError, match=r"gridsize is 3; must be one of \[1, 2\]"):
        settings.training_config("pytorch")


# --- geometry ---


def as_scan(parameters: ReconstructInput) -> Scan:
    with _files(parameters) as folder:
        scan = read_scan(folder)
        validate_scan(scan)
        return Scan(**{**vars(scan), "diffraction_patterns": scan.diffraction_patterns[:]})


def test_a_scan_from_ptychodus_diffracts_as_ptychodus_says() -> None:
    """Metres to pixels, patch centres, positions between pixels, two modes, an object off the origin: to rounding."""
    parameters = given(noise=False)
    scan = as_scan(parameters)
    assert scan.probe.shape == (2, runs.N, runs.N) and scan.object_ is not None and scan.object_.shape == runs.SHAPE
    assert scan.pixel_size_m == pytest.approx(runs.PIXEL_M) and scan.wavelength_m == pytest.approx(runs.WAVELENGTH_M)
    whole = np.floor(scan.probe_positions_px).astype(int)
    rest = scan.probe_positions_px - whole
    patches = np.stack([scan.object_[y - 32 : y + 32, x - 32 : x + 32] for y, x in whole])
    modelled = diffraction_amplitudes(fourier_shift(scan.probe, rest[:, None, :]), patches)
    measured = np.sqrt(parameters.diffraction_patterns)
    assert abs(modelled - measured).sum() < 2e-4 * measured.sum()
    for wrong in (
        fourier_shift(scan.probe, -rest[:, None, :]),
        scan.probe,
        fourier_shift(scan.probe, rest[:, None, :] + 0.5),
    ):
        assert abs(diffraction_amplitudes(wrong, patches) - measured).sum() > 1e-2 * measured.sum()


def test_bad_pixels_are_taken_over() -> None:
    scan = as_scan(given())
    assert scan.good_pixels is not None and np.argwhere(~scan.good_pixels).tolist() == [list(runs.BAD)]
    assert scan.counts().max() < 4_000_000


def test_several_layers_are_refused() -> None:
    parameters = given()
    object_ = parameters.product.object_
    layers = np.concatenate([object_.get_array()] * 2)
    stacked = Object(layers, object_.get_pixel_geometry(), object_.get_center(), layer_spacing_m=[1e-6])
    changed = ReconstructInput(
        parameters.diffraction_patterns,
        parameters.bad_pixels,
        type(parameters.product)(**{**vars(parameters.product), "object_": stacked}),
    )
    with pytest.raises(ScanError, match=r"\(2, 104, 116\); allowed: complex, \(H, W\) or \(1, H, W\)"):
        as_scan(changed)


def test_an_object_on_another_grid_is_not_handed_to_ptychodus() -> None:
    product = runs.truth()
    inferred = np.ones((104, 115), np.complex64), product.probes.get_array()[0], []
    with pytest.raises(ScanError, match=r"object is \(104, 115\); the input's is \(104, 116\)"):
        _product(product, inferred)


# --- files ---


def test_exported_training_data_is_read_back_as_the_scan(tmp_path: Path) -> None:
    """Also as the training data of the next training, the only NPZ in its folder."""
    parameters, (one, *_) = given(), library()
    assert isinstance(one, PtyintReconstructor)
    one.export_training_data(tmp_path / "train.npz", parameters)
    wanted, scan = as_scan(parameters), read_scan(child.find_scan(tmp_path))
    validate_scan(scan)
    np.testing.assert_allclose(scan.counts(), wanted.counts(), rtol=3e-7)
    np.testing.assert_array_equal(scan.probe_positions_px, wanted.probe_positions_px)
    np.testing.assert_array_equal(scan.probe, wanted.probe)
    np.testing.assert_array_equal(scan.object_, wanted.object_)
    np.testing.assert_array_equal(scan.good_pixels, wanted.good_pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["train.npz"]


def test_training_data_must_be_there_once(tmp_path: Path) -> None:
    with pytest.raises(
        ScanError, match=r"holds neither; training needs diffraction\.h5 with its product there, or exactly one \.npz"
    ):
        child.find_scan(tmp_path)
    (tmp_path / "a.npz").touch()
    (tmp_path / "b.npz").touch()
    with pytest.raises(ScanError, match=r"holds \['a.npz', 'b.npz'\]"):
        child.find_scan(tmp_path)


def test_a_model_is_saved_as_a_copy(tmp_path: Path) -> None:
    one = next(iter(library()))
    assert isinstance(one, PtyintReconstructor)
    with pytest.raises(BundleError, match="No model is loaded"):
        one.save_model(tmp_path / "copy.h5.zip")
    (tmp_path / "model.h5.zip").write_bytes(b"weights")
    one.load_model_from_file(tmp_path / "model.h5.zip")
    one.save_model(tmp_path / "copy.h5.zip")
    assert one.is_model_loaded() and (tmp_path / "copy.h5.zip").read_bytes() == b"weights"


# --- hooks ---


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if the modules that hook in had not been imported, and nothing had been hooked."""
    monkeypatch.setattr(ptychodus.model.core, "ProcessingCore", ptychodus.model.processing.ProcessingCore)
    for name in ("application", "library"):
        monkeypatch.delitem(sys.modules, f"ptyint.ptychodus.{name}", raising=False)
    return monkeypatch


def test_the_core_is_replaced(fresh: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        command.prepare()
        assert ptychodus.model.core.ProcessingCore.__module__ == "ptyint.ptychodus.application"


def no_core(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(ptychodus.model.core, "ProcessingCore")


def another_core(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ptychodus.model.core, "ProcessingCore", dict)


def another_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ptychodus.model.processing.ProcessingCore, "__init__", lambda self, settings: None)


def no_api(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(ptychodus.model.processing, "ProcessingAPI")


def no_module(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "ptychodus.model.task_manager", None)


def one_more_method(patch: pytest.MonkeyPatch) -> None:
    class More(TrainableReconstructor):
        @abstractmethod
        def describe(self) -> str: ...

    patch.setattr(ptychodus.api.reconstruct, "TrainableReconstructor", More)


def another_attribute(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ptychodus.model.processing.core, "ProcessingSettings", lambda registry: SimpleNamespace())


@pytest.mark.parametrize(
    "change", [no_core, another_core, another_signature, another_attribute, no_api, no_module, one_more_method]
)
def test_a_ptychodus_that_changed_gives_one_sentence(
    change: Callable[[pytest.MonkeyPatch], None], fresh: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(fresh)
    assert command.main() == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert printed.out == ""
    assert line.startswith("ptyint-ptychodus: Ptychodus 1.7.0 is not one that ptyint can hook into (")
    assert line.endswith("install one that is, with `pip install 'ptyint[ptychodus]'`.")


def test_without_ptychodus_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command, "version", version)
    wanted = "ptyint-ptychodus: Ptychodus is not installed; install it with `pip install 'ptyint[ptychodus]'`.\n"
    assert command.main() == 2 and capsys.readouterr().err == wanted


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_command_prints_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command, "version", version)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict"))
    assert command.main() == 2
    for output in (sys.stdout, sys.stderr):  # what Ptychodus prints after that
        print("epoch 1 \u2192 \u4e2d \udcff", file=output, flush=True)


def test_the_command_line_is_ptychodus_own(fresh: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.setattr(sys, "argv", ["ptyint-ptychodus", "--version"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    assert capsys.readouterr().out.startswith("Ptychodus (1.7")
