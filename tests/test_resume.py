"""A training that is killed and goes on gives the same weights, bit for bit, as one that is not.

The loop is tried at every step with a network of one number; the frameworks in processes that are killed (SIGKILL).
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ptyint import dispatcher
from ptyint.backends import checkpoint as checkpoint_module
from ptyint.backends.checkpoint import NAME, Checkpoint
from ptyint.backends.protocol import Epoch
from ptyint.backends.training import fit
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import BundleError, ConfigError
from ptyint.images.workflow import preview
from ptyint.parity.worker import ONE_THREAD
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.scan import Scan

N, OFTEN = 64, 1e-9
"""Minutes: after each step."""

REDUCING: dict[str, Any] = {"scheduler": "ReduceLROnPlateau", "plateau_patience": 0, "plateau_threshold": 0.5}
STOPPING: dict[str, Any] = {**REDUCING, "early_stop_patience": 3}
WARMING: dict[str, Any] = {"scheduler": "WarmupCosine", "lr_warmup_epochs": 2}


def make_scan(n: int = 11, **fields: Any) -> Scan:
    patterns = np.random.default_rng(2).poisson(9, (n, N, N)).astype(np.uint16)
    positions = np.stack([np.arange(n) * 3.0 + 40, np.arange(n) ** 2 % 17 + 40.0], axis=1)
    return Scan(patterns, positions, np.ones((1, N, N), np.complex64), **fields)


def make_config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(**{"nepochs": 6, "batch_size": 4, "backend": "pytorch", **settings})


class Killed(BaseException):
    """In place of SIGKILL: raised before a step is made."""


class Stepper:
    """A network of one weight with a memory, which every batch moves in a way of its own; it dies when it is told."""

    def __init__(self, lives: float = np.inf) -> None:
        self.lives, self.steps, self.weight, self.moment = lives, 0, 1.0, 0.0

    def train_step(self, batch: Any, learning_rate: float) -> float:
        if self.steps == self.lives:
            raise Killed
        self.steps += 1
        self.moment = 0.9 * self.moment + float((batch.counts * np.arange(N)).mean())
        self.weight -= learning_rate * self.moment
        return 100 + self.weight + float(batch.counts.mean())

    def get_weights(self) -> Any:
        return {"weight": np.array(self.weight)}

    def get_state(self) -> Any:
        return {"weight": np.array(self.weight), "moment": np.array(self.moment)}

    def set_state(self, state: Any) -> None:
        self.weight, self.moment = float(state["weight"]), float(state["moment"])


def steps_of(network: Stepper, folder: Path | None, scan: Scan | None = None, **settings: Any) -> Any:
    """Everything that a training leaves but its seconds."""
    config = make_config(**settings)
    data = GroupedScan.from_config(scan or make_scan(), config)
    told: list[Epoch] = []
    kept = None if folder is None else Checkpoint(folder, OFTEN)
    history = fit(network, data, config, "stepper", told.append, kept)  # type: ignore[arg-type]
    epochs = [(one.number, one.loss, one.learning_rate) for one in history.epochs]
    assert [one.number for one in told] == [one[0] for one in epochs][len(epochs) - len(told) :]
    return network.weight, network.moment, epochs, history.ended


# --- the loop ---


@pytest.mark.parametrize("settings", [{}, REDUCING, STOPPING, WARMING], ids=["Default", "plateau", "stops", "cosine"])
def test_killed_before_any_step_the_training_goes_on_as_if_it_was_not(settings: Any, tmp_path: Path) -> None:
    through, network = Stepper(), Stepper()
    expected = steps_of(through, None, **settings)
    assert settings is not REDUCING or len({rate for _, _, rate in expected[2]}) > 3
    for number in range(through.steps):
        folder = tmp_path / str(number)
        with pytest.raises(Killed):
            steps_of(Stepper(lives=number), folder, **settings)
        network = Stepper()
        assert steps_of(network, folder, **settings) == expected
        assert network.steps == through.steps - number, "what was done is not done again"


def test_killed_again_and_again(tmp_path: Path) -> None:
    expected = steps_of(Stepper(), None, **REDUCING)
    for _ in range(5):
        with pytest.raises(Killed):
            steps_of(Stepper(lives=3), tmp_path, **REDUCING)
    assert steps_of(Stepper(), tmp_path, **REDUCING) == expected


def test_the_state_is_written_when_it_is_due_and_the_last_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: next(clock))
    written: list[int] = []
    monkeypatch.setattr(checkpoint_module.os, "fsync", lambda number: written.append(number))
    data = GroupedScan.from_config(make_scan(), make_config())
    fit(Stepper(), data, make_config(), "stepper", None, Checkpoint(tmp_path, 1))  # type: ignore[arg-type]
    assert 18 // 4 <= len(written) <= 18 // 3, "18 steps of 20 s, and a minute at the least between two states"
    assert {path.name for path in tmp_path.iterdir()} == {NAME}


def test_a_state_that_could_not_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps_of(Stepper(), None)
    with pytest.raises(Killed):
        steps_of(Stepper(lives=4), tmp_path)
    before = (tmp_path / NAME).read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(checkpoint_module.os, "fsync", full)
        steps_of(Stepper(), tmp_path)
    assert (tmp_path / NAME).read_bytes() == before
    assert steps_of(Stepper(), tmp_path) == expected


def test_none_is_written_unless_asked_for(tmp_path: Path) -> None:
    data = GroupedScan.from_config(make_scan(), make_config())
    idle = Checkpoint(tmp_path)
    assert not idle.in_use
    fit(Stepper(), data, make_config(), "stepper", None, idle)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), "10", True])
def test_minutes_that_cannot_be(minutes: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint_minutes is .*must be a finite number above 0"):
        Checkpoint(tmp_path, minutes)


# --- what is refused ---


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A folder with the checkpoint of a training that was killed at its fifth step."""
    with pytest.raises(Killed):
        steps_of(Stepper(lives=4), tmp_path)
    return tmp_path


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "scan": lambda: {"scan": replace(make_scan(), diffraction_patterns=make_scan().diffraction_patterns[:] + 1)},
    "mask": lambda: {"scan": make_scan(good_pixels=np.eye(N) == 0)},
    "batch_size": lambda: {"batch_size": 5},
    "learning_rate": lambda: {"learning_rate": 2e-3},
    "seed": lambda: {"seed": 3},
    "nepochs": lambda: {"nepochs": 7},
    "amp_activation": lambda: {"model": ModelConfig(amp_activation="relu")},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_checkpoint_of_another_training_is_refused(what: str, stopped: Path) -> None:
    before = (stopped / NAME).read_bytes()
    words = rf"^.*{NAME} is of another training \(.*{what} is \S+ there and \S+ here.*\); finish that one, or remove "
    with pytest.raises(BundleError, match=words):
        steps_of(Stepper(), stopped, **OTHERS[what]())
    assert (stopped / NAME).read_bytes() == before


def test_the_checkpoint_of_another_backend_is_refused(stopped: Path) -> None:
    data = GroupedScan.from_config(make_scan(), make_config())
    with pytest.raises(BundleError, match="backend is stepper there and tensorflow here"):
        fit(Stepper(), data, make_config(), "tensorflow", None, Checkpoint(stopped))  # type: ignore[arg-type]


def test_other_initial_weights_are_refused(stopped: Path) -> None:
    other = Stepper()
    other.weight = 2.0
    with pytest.raises(BundleError, match="initial weights is"):
        steps_of(other, stopped)


def test_another_place_of_scan_and_output_is_not_another_training(stopped: Path) -> None:
    moved = {"train_data_file": Path("elsewhere.npz"), "output_dir": Path("there")}
    assert steps_of(Stepper(), stopped, **moved) == steps_of(Stepper(), None)


def test_a_damaged_checkpoint_is_refused(stopped: Path) -> None:
    """Cut short anywhere, empty, or with a byte changed."""
    path = stopped / NAME
    whole = path.read_bytes()
    cut = [whole[:n] for n in (0, 1, 31, 32, 33, len(whole) // 2, len(whole) - 1)]
    places = range(0, len(whole), 41)
    changed = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
    for content in (*cut, *changed, whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=rf"^.*{re.escape(NAME)} is damaged; remove it"):
            steps_of(Stepper(), stopped)


class Foreign:
    """A backend that trains, and keeps no checkpoint."""

    name, capabilities = "foreign", frozenset({"weights"})

    def train(self, data: Any, config: Any, weights: Any, on_epoch: Any = None) -> Any:
        return weights, None


def test_a_backend_that_keeps_none_says_so_only_where_one_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "select_backend", lambda config: Foreign())
    scan, config = make_scan(), make_config(model=ModelConfig(n_filters_scale=1))
    dispatcher.train(scan, config)
    dispatcher.train(scan, config, None, Checkpoint(tmp_path))
    with pytest.raises(ConfigError, match=r"'foreign' keeps no .*training.checkpoint; remove it, and ask for none"):
        dispatcher.train(scan, config, None, Checkpoint(tmp_path, 5))
    with pytest.raises(ConfigError, match="shows no weights"):
        _ = Checkpoint(tmp_path).weights


# --- an early look ---


def test_a_preview_is_written_every_so_many_epochs_and_changes_no_number(tmp_path: Path) -> None:
    scan, config = load_fixture("tiny-64"), make_config(model=ModelConfig(n_filters_scale=1), nepochs=5)
    plain = dispatcher.train(scan, config)
    checkpoint, seen = Checkpoint(tmp_path / "new"), []
    look = preview(scan, config, checkpoint, every=2, M=20)

    def watched(epoch: Epoch) -> None:
        look(epoch)
        seen.append(picture.stat().st_mtime_ns if picture.exists() else 0)

    picture = tmp_path / "new" / "preview.png"
    shown = dispatcher.train(scan, config, watched, checkpoint)
    assert [earlier != later for earlier, later in pairwise([0, *seen])] == [False, True, False, True, False]
    assert [name for name, w in plain.weights.items() if not np.array_equal(w, shown.weights[name])] == []
    np.testing.assert_array_equal(plain.history.losses, shown.history.losses)
    with Image.open(picture) as image:
        width, height = image.size
        grey = np.asarray(image.convert("L"), float)
    assert width == 2 * (width // 2) > height > 20
    assert all(half.std() > 1 for half in np.hsplit(grey, 2)), "amplitude and phase, neither of them flat"
    assert {path.name for path in picture.parent.iterdir()} == {"preview.png"}


# --- real processes, really killed ---

RUN = """
import sys
from pathlib import Path

import ptyint

backend, gridsize, folder, minutes = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
config = ptyint.TrainingConfig(
    ptyint.ModelConfig(gridsize=gridsize, n_filters_scale=1), nepochs=4, batch_size=3, probe_trainable=True,
    backend=backend, scheduler="ReduceLROnPlateau", plateau_patience=0, plateau_threshold=0.5,
)
ptyint.reconstruct(ptyint.load_fixture("tiny-64"), config, folder, checkpoint_minutes=minutes or None)
"""


def started(backend: str, gridsize: int, folder: Path, minutes: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, backend, str(gridsize), str(folder), str(minutes)]
    return subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-4000:].decode()


def killed(process: subprocess.Popen[bytes], path: Path, states: int) -> bool:
    """Kill the process once it wrote so many states, however fast it is; whether it was still training."""
    seen = {path.stat().st_mtime_ns if path.exists() else 0}
    while process.poll() is None and len(seen) <= states:
        seen |= {path.stat().st_mtime_ns} if path.exists() else set()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL and path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "pytorch"])
@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_process_that_is_killed_and_started_again_leaves_the_same_files(
    backend: str, gridsize: int, tmp_path: Path
) -> None:
    import ptyint

    through, resumed = tmp_path / "through", tmp_path / "resumed"
    finished(started(backend, gridsize, through, 0))
    moments, times = random.Random(f"{backend} {gridsize}"), 0
    for _ in range(2):
        times += killed(started(backend, gridsize, resumed, OFTEN), resumed / NAME, moments.randint(1, 5))
    assert times == 2, "killed while it trained"
    finished(started(backend, gridsize, resumed, OFTEN))
    left = {path.name for path in resumed.iterdir() if not path.name.startswith(".")}
    assert left == {"wts.h5.zip", "reconstruction.h5"}
    ours, theirs = (ptyint.load_bundle(folder) for folder in (resumed, through))
    assert ours.losses == theirs.losses and len(ours.losses) == 4
    assert [name for name in theirs.weights if not np.array_equal(ours.weights[name], theirs.weights[name])] == []
    ours_image, theirs_image = (ptyint.Reconstruction.load(folder) for folder in (resumed, through))
    np.testing.assert_array_equal(ours_image.object_, theirs_image.object_)
    np.testing.assert_array_equal(ours_image.learning_rates, theirs_image.learning_rates)
    assert len(set(theirs_image.learning_rates)) == 3, "the plateau scheduler acted"
