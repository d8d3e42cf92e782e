"""Both backends in the real Ptychodus, in batch, as its users run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import ptychodus.model.core
import ptychodus_runs as runs
import pytest
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.io import load_diffraction_data, load_product, save_diffraction_data
from ptychodus.api.object import Object
from ptychodus.api.product import Product

from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.backends.weights import initial_weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.images.metrics import compare_objects
from ptyint.images.reconstruction import scanned_region
from ptyint.ptychodus.command import prepare
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.fixtures import load_fixture

BACKENDS = ("tensorflow", "pytorch")
EPOCHS = 20
MODEL, PRODUCT = "model.h5.zip", "product.h5"
Cycle = tuple[str, Path, runs.Run, runs.Run]
"""Backend, folder, training, reconstruction."""


@pytest.fixture(scope="module", params=["tensorflow", pytest.param("pytorch", marks=pytest.mark.slow)])
def cycle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cycle:
    """Trained, then reconstructed from a flat object."""
    backend, folder = request.param, tmp_path_factory.mktemp(request.param)
    product = runs.truth()
    source = runs.write_input(
        folder / "in",
        f"ptyint_{backend}",
        runs.flat(product),
        runs.counts(product),
        NumEpochs=EPOCHS,
        ProbeTrainable=True,
    )
    trained = runs.run("train", source, folder / "trained")
    assert trained.code == 0, trained.log[-3000:] + trained.errors[-3000:]
    shutil.copy(folder / "trained" / MODEL, source)
    return backend, folder, trained, runs.run("reconstruct", source, folder / "out")


def test_train_and_reconstruct_leave_their_files_and_nothing_else(cycle: Cycle) -> None:
    backend, folder, trained, reconstructed = cycle
    assert reconstructed.code == 0, reconstructed.log[-3000:]
    assert trained.files == [MODEL] and reconstructed.files == [PRODUCT]
    bundle = load_bundle(folder / "trained" / MODEL)
    assert bundle.manifest["backend"] == bundle.config.backend == backend
    assert bundle.config.nepochs == EPOCHS and bundle.config.model.n_filters_scale == 1
    assert bundle.config.model.N == runs.N and bundle.config.probe_trainable


def test_each_epoch_is_told_and_no_framework_is_in_the_applications_process(
    cycle: Cycle,
) -> None:
    backend, _, trained, reconstructed = cycle
    lines = [line for line in trained.log.splitlines() if f"ptyint: {backend}: epoch " in line]
    assert [line.split("epoch ")[1].split(",")[0] for line in lines] == [f"{i + 1} of {EPOCHS}" for i in range(EPOCHS)]
    assert len({line[:19] for line in lines}) > 1  # streamed, not told at the end
    for done in (trained, reconstructed):
        assert "FRAMEWORKS []" in done.errors and "%|" not in done.errors, "no bar beside the lines"


def test_the_product_keeps_everything_but_object_probe_and_losses(cycle: Cycle) -> None:
    _, folder, _, _ = cycle
    given, made = load_product(folder / "in" / PRODUCT), load_product(folder / "out" / PRODUCT)
    assert made.object_.get_geometry() == given.object_.get_geometry()
    assert made.object_.get_array().shape == (1, *runs.SHAPE) and np.isfinite(made.object_.get_array()).all()
    assert made.probes.get_geometry() == given.probes.get_geometry()
    assert made.probes.get_array().shape == given.probes.get_array().shape == (1, 2, runs.N, runs.N)
    for name in ("get_indexes", "get_coordinates_x_m", "get_coordinates_y_m"):
        np.testing.assert_array_equal(getattr(made.probe_positions, name)(), getattr(given.probe_positions, name)())
    assert replace(made.metadata, name="") == replace(given.metadata, name="")
    losses = [loss.value for loss in made.losses]
    assert [loss.epoch for loss in made.losses] == list(range(1, EPOCHS + 1))
    assert losses == load_bundle(folder / "trained" / MODEL).losses and losses[-1] < losses[0]


def test_the_image_is_the_right_way_round(cycle: Cycle) -> None:
    """Of the eight ways to lay it down, and closer to the truth than the truth itself, laid down wrongly, is."""
    _, folder, _, _ = cycle
    made, scan = load_product(folder / "out" / PRODUCT).object_.get_layer(0), read_scan(folder / "in")
    seen = scanned_region(scan.probe_positions_px, runs.SHAPE) & (made != 0)
    middle = np.s_[36:68, 42:74]  # 32 x 32, scanned everywhere
    assert seen[middle].all()
    wanted = runs.truth().object_.get_layer(0)[middle]
    right, *wrong = (alike(way, wanted) for way in ways(made[middle]))
    _, *by_chance = (alike(way, wanted) for way in ways(wanted))
    assert right > max(wrong) and right > max(by_chance), (right, wrong, by_chance)


def ways(image: np.ndarray) -> list[np.ndarray]:
    """The eight ways to lay a square image down, as it is first: quarter turns, of the image and of its transpose."""
    return [np.rot90(one, turn) for turn in range(4) for one in (image, image.T)]


def alike(image: np.ndarray, wanted: np.ndarray) -> float:
    """Correlation of the phases plus that of the amplitudes: 2 for equal images."""
    values = compare_objects(image, wanted).values
    return values["phase_correlation"] + values["amplitude_correlation"]


def test_ptychodus_own_forward_model_makes_the_counts_of_the_product(cycle: Cycle) -> None:
    """Photon-normalised, and better than from the same object mirrored, turned, conjugated or moved."""
    _, folder, _, _ = cycle
    made, data = load_product(folder / "out" / PRODUCT), load_diffraction_data(folder / "in" / "diffraction.h5")
    array = made.object_.get_layer(0)
    around = [
        np.s_[y - 11 : y + 11, x - 11 : x + 11]
        for y, x in np.rint(read_scan(folder / "in").probe_positions_px).astype(int)
    ]
    inner = [i for i, place in enumerate(around) if (array[place] != 0).all()]  # all that the beam lights is known
    assert len(inner) > 8
    good = ~data.get_bad_pixels()
    measured = data.get_patterns()[inner][:, good].astype(float)

    right = expected(made, array)[inner][:, good]
    assert 2**-0.5 < right.sum() / measured.sum() < 2**0.5  # nearer to 1 than to the 2 of any other convention
    for wrong in (array[:, ::-1], array[::-1], array[::-1, ::-1], array.conj(), np.ones_like(array)):
        assert misfit(measured, expected(made, wrong)[inner][:, good]) > misfit(measured, right)
    for axis in (0, 1):
        moved = expected(made, np.roll(array, 3, axis))[inner][:, good]
        assert misfit(measured, moved) > misfit(measured, right)


def expected(product: Product, array: np.ndarray) -> np.ndarray:
    """Counts by Ptychodus' forward model, from a product with another object; its mean where nothing was covered."""
    object_, filled = product.object_, np.where(array == 0, array[array != 0].mean(), array)
    changed = Object(filled, object_.get_pixel_geometry(), object_.get_center())
    return runs.counts(replace(product, object_=changed), noise=False).get_patterns()


def misfit(measured: np.ndarray, modelled: np.ndarray) -> float:
    """Relative difference of the amplitudes."""
    return float(abs(np.sqrt(measured) - np.sqrt(modelled)).sum() / np.sqrt(measured).sum())


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_real_star(backend: str, tmp_path: Path, star_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the installed command, `-s settings.ini` honoured, gridsize 2."""
    monkeypatch.setenv("PTYINT_DATA_DIR", str(star_file.parent))
    scan = replace(load_fixture("siemens-star-64"), pixel_size_m=1e-8, wavelength_m=1.4e-10, detector_distance_m=1.92)
    source, settings = tmp_path / "in", tmp_path / "elsewhere"
    write_scan(scan, source, format="ptychodus")
    settings.mkdir()
    runs.write_settings(settings, f"ptyint_{backend}", GridSize=2, BatchSize=32, NumGroups=128)
    command = (str(Path(sys.executable).with_name("ptyint-ptychodus")), "-s", str(settings / "settings.ini"))
    trained = runs.run("train", source, tmp_path / "trained", *command)
    assert (trained.code, trained.files) == (0, [MODEL]), trained.log[-3000:]
    shutil.copy(tmp_path / "trained" / MODEL, source)
    done = runs.run("reconstruct", source, tmp_path / "out", *command)
    assert (done.code, done.files) == (0, [PRODUCT]), done.log[-3000:]
    assert load_bundle(source / MODEL).config.model.gridsize == 2
    given, made = load_product(source / PRODUCT), load_product(tmp_path / "out" / PRODUCT)
    assert made.object_.get_geometry() == given.object_.get_geometry() and len(made.losses) == 1


# --- what goes wrong, goes wrong loudly ---


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input folder without a model, for PyTorch."""
    product = runs.truth(modes=1)
    return runs.write_input(tmp_path / "in", "ptyint_pytorch", product, runs.counts(product))


Application = Callable[[str, Path, Path], runs.Run]


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Application:
    """A batch run of the application in this process."""
    monkeypatch.setattr(ptychodus.model.core, "ProcessingCore", ptychodus.model.core.ProcessingCore)
    prepare()

    def run(action: str, source: Path, output: Path) -> runs.Run:
        caplog.clear()
        with ptychodus.model.core.ModelCore() as model:
            code = model.batch_mode_execute(action, source, output)
        return runs.Run(code, caplog.text, "", sorted(path.name for path in output.iterdir()))

    return run


def untrained(path: Path, size: int = runs.N) -> Path:
    """A bundle of weights as they are before training."""
    config = TrainingConfig(ModelConfig(N=size, n_filters_scale=1), backend="pytorch")
    return save_bundle(
        path, initial_weights(config.model, np.ones((1, size, size), np.complex64), 0), config, "pytorch"
    )


def refused(done: runs.Run, *words: str) -> None:
    """Non-zero, nothing written, and an error line that says all `words`."""
    last = [line for line in done.log.splitlines() if " failed: " in line]
    text = done.log[done.log.rindex(" failed: ") :] if last else done.log + done.errors
    assert done.code == 1 and done.files == [], (done.code, done.files, text)
    for word in words:
        assert word in text, (word, text)
    assert "Traceback" not in done.errors.replace("FRAMEWORKS", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_no_model(application: Application, source: Path, tmp_path: Path) -> None:
    refused(
        application("reconstruct", source, tmp_path / "out"), "No model is loaded. Train one, or put model.h5.zip into"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_wrong_model(application: Application, source: Path, tmp_path: Path) -> None:
    untrained(source / MODEL, 128)
    refused(application("reconstruct", source, tmp_path / "out"), "model.N is 128", "have 64 pixels; set N=64")


def test_framework_missing(source: Path, tmp_path: Path) -> None:
    """In training and in reconstruction; never a fallback to the other backend."""
    words = ("PyTorch backend selected (backend='pytorch'), but 'torch' cannot be imported", "`pip install torch`")
    env = runs.environment(tmp_path / "shadow")
    refused(runs.run("train", source, tmp_path / "out", env=env), *words)
    untrained(source / MODEL)
    refused(runs.run("reconstruct", source, tmp_path / "out", env=env), *words)


@pytest.mark.parametrize("action", ["train", "reconstruct"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_misspelt_algorithm(action: str, application: Application, source: Path, tmp_path: Path) -> None:
    runs.write_settings(source, "ptyint_pytroch")
    done = application(action, source, tmp_path / "out")
    refused(
        done, "'ptyint_pytroch' is not available", "Did you mean 'ptyint_pytorch'?", "pip install 'ptyint[ptychodus]'"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_patterns_that_are_not_square(application: Application, source: Path, tmp_path: Path) -> None:
    data = load_diffraction_data(source / "diffraction.h5")
    cut = AssembledDiffractionData(
        data.get_indexes(), data.get_patterns()[:, 8:56], data.get_pixel_geometry(), data.get_bad_pixels()[8:56]
    )
    save_diffraction_data(source / "diffraction.h5", cut)
    untrained(source / MODEL)
    refused(application("reconstruct", source, tmp_path / "out"), "(30, 48, 64); allowed: real, (n, N, N)")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_damaged_bundle(application: Application, source: Path, tmp_path: Path) -> None:
    whole = untrained(source / MODEL).read_bytes()
    (source / MODEL).write_bytes(whole[: len(whole) // 2])
    refused(
        application("reconstruct", source, tmp_path / "out"),
        "not a readable bundle",
        "Train and save the model again",
    )


def test_stock_ptychodus_says_nothing_about_an_algorithm_that_is_not_there(source: Path, tmp_path: Path) -> None:
    """Why the wrapper checks: exit code 0, and an empty folder."""
    done = runs.run("reconstruct", source, tmp_path / "out", sys.executable, "-m", "ptychodus")
    assert (done.code, done.files) == (0, []) and "ERROR" not in done.log


def test_without_an_algorithm_it_is_tensorflow(source: Path, tmp_path: Path) -> None:
    """As everywhere else; torch is not even there."""
    (source / "settings.ini").write_text("[Ptyint]\nNumEpochs = 1\nNumFiltersScale = 1\n")
    done = runs.run("train", source, tmp_path / "out", env=runs.environment(tmp_path / "shadow"))
    assert (done.code, done.files) == (0, [MODEL]), done.log[-3000:]
    assert load_bundle(tmp_path / "out" / MODEL).manifest["backend"] == "tensorflow"


# --- the child process ---


@pytest.fixture
def training(source: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long training into ``out``, once its first epoch is told. Ctrl-C reaches it even where it does not reach us."""
    runs.write_settings(source, "ptyint_pytorch", NumEpochs=10_000)
    command = [sys.executable, "-m", "ptyint.ptychodus.command", *runs.arguments("train", source, tmp_path / "out")]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=runs.environment(),
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, ours)
    try:
        assert process.stdout is not None
        assert any("epoch 1 of" in line for line in process.stdout), "the training ended before its first epoch"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def worker(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that holds the framework: the one with the most memory."""
    return max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.memory_info().rss)


def test_a_killed_child_is_reported_within_seconds(training: subprocess.Popen[str], tmp_path: Path) -> None:
    worker(training).send_signal(signal.SIGKILL)
    begun = time.monotonic()
    said, _ = training.communicate(timeout=20)
    assert time.monotonic() - begun < 15 and training.returncode == 1
    assert "was killed (SIGKILL): most likely the memory ran out" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of modules that Ptychodus imports
def test_the_stop_button_ends_a_training_without_a_model(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application in this process, its stop pressed after the first epoch."""
    monkeypatch.setattr(ptychodus.model.core, "ProcessingCore", ptychodus.model.core.ProcessingCore)
    prepare()
    runs.write_settings(source, "ptyint_pytorch", NumEpochs=10_000)
    with ptychodus.model.core.ModelCore() as model:
        monitor = model.processing_core.processing_api.task_monitor

        def press() -> None:
            while monitor.get_progress() < 1:
                time.sleep(0.05)
            monitor.stop_processing()

        threading.Thread(target=press, daemon=True).start()
        assert model.batch_mode_execute("train", source, tmp_path / "out") == 1
    assert monitor.get_last_error() is None and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_application_leaves_no_child_and_no_file(
    how: signal.Signals, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    child = worker(training)
    os.kill(training.pid, how)
    begun = time.monotonic()
    training.communicate(timeout=20)
    psutil.wait_procs([child], timeout=5)
    assert time.monotonic() - begun < 15 and not child.is_running()
    assert training.returncode != 0 and list((tmp_path / "out").iterdir()) == []


# --- the unmodified command ---


def test_a_plugin_file_gives_the_unmodified_command_the_library(source: Path, tmp_path: Path) -> None:
    """The file of ``docs/ptychodus.md``, in a copy of Ptychodus: our error, and not exit code 0."""
    text = (Path(__file__).parents[1] / "docs" / "ptychodus.md").read_text()
    (file,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ptychodus.__file__ is not None
    copy = shutil.copytree(Path(ptychodus.__file__).parent, tmp_path / "path" / "ptychodus")
    (copy / "plugins" / "ptyint.py").write_text(file)
    runs.write_settings(source, "ptyint_pytroch")
    env = {**runs.environment(), "PYTHONPATH": str(copy.parent)}
    done = runs.run("train", source, tmp_path / "out", sys.executable, "-m", "ptychodus", env=env)
    refused(done, "'ptyint_pytroch' is not available", "Did you mean 'ptyint_pytorch'?")
