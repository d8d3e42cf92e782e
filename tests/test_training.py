"""The bookkeeping that both backends share: batches, doses, the epoch loop, learning-rate rule, early stopping.

A network of one number stands in for the framework; what the frameworks do with it is tested in ``tests/torch``.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from threading import current_thread
from typing import Any

import numpy as np
import pytest

from ptyint.backends.protocol import Epoch, History
from ptyint.backends.training import NetworkBackend, Schedule
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig
from ptyint.errors import ConfigError, ScanError
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.fixtures import load_fixture
from ptyint.scans.scan import Scan

N = 64


def numbered_scan(n: int = 11, good_pixels: Any = None) -> Scan:
    """Pattern i holds (i + 1) everywhere: every pattern can be recognised by its counts."""
    patterns = np.broadcast_to(np.arange(1, n + 1, dtype=np.uint16)[:, None, None], (n, N, N))
    positions = np.stack([np.arange(n) * 3.0 + 40, np.arange(n) ** 2 % 17 + 40.0], axis=1)
    return Scan(patterns, positions, np.ones((1, N, N), np.complex64), good_pixels=good_pixels)


def grouped(config: TrainingConfig | None = None, scan: Scan | None = None) -> GroupedScan:
    return GroupedScan.from_config(scan or numbered_scan(), config or TrainingConfig())


def seen(batches: Any) -> list[int]:
    """Pattern numbers in the order of the batches, recognised by their counts."""
    return [round(float(value)) - 1 for batch in batches for value in batch.counts[:, 0, 5, 7]]


# --- batches ---


@pytest.mark.parametrize("batch_size, sizes", [(4, [4, 4, 3]), (11, [11]), (100, [11]), (1, [1] * 11), (10, [10, 1])])
def test_batches_cover_every_group_once_and_the_last_may_be_partial(batch_size: int, sizes: list[int]) -> None:
    data = grouped()
    for generator in (None, np.random.default_rng(3)):
        batches = list(data.batches(batch_size, generator))
        assert [len(batch.inputs) for batch in batches] == sizes
        assert sorted(seen(batches)) == list(range(11))
    assert seen(data.batches(batch_size)) == list(range(11))


def test_the_order_follows_from_the_seed_and_changes_with_every_epoch() -> None:
    data = grouped()
    orders = []
    for seed in (7, 7, 8):
        generator = np.random.default_rng(seed)
        orders.append([seen(data.batches(4, generator)) for _ in range(3)])
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(order) for order in orders[0]}) == 3
    assert orders[0][0] != sorted(orders[0][0])


def test_a_batch_holds_the_patterns_of_its_groups_at_their_offsets() -> None:
    config = TrainingConfig(model=ModelConfig(gridsize=2))
    data = grouped(config)
    index = np.array([5, 0, 5])
    batch = data.batch(index)
    assert batch.inputs.shape == batch.counts.shape == (3, 4, N, N) and batch.offsets_px.shape == (3, 4, 2)
    members = data.groups.indices[index]
    np.testing.assert_allclose(batch.counts[:, :, 1, 2], members + 1, rtol=1e-6)
    positions = data.scan.probe_positions_px[members]
    np.testing.assert_allclose(batch.offsets_px, positions - positions.mean(axis=1, keepdims=True), atol=1e-5)
    assert members[:, 0].tolist() == [5, 0, 5]


@pytest.mark.parametrize("gridsize", [1, 2])
def test_one_canvas_holds_all_groups_of_the_scan(gridsize: int) -> None:
    data = grouped(TrainingConfig(model=ModelConfig(gridsize=gridsize)))
    largest = abs(data.groups.offsets_px).max()
    assert {batch.n_canvas for batch in data.batches(3)} == {data.n_canvas}
    assert N + 2 * largest <= data.n_canvas < N + 2 * largest + 2 and data.n_canvas % 2 == 0


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision(precision: str) -> None:
    batch = grouped().batch(np.arange(3), precision)
    assert {array.dtype.name for array in (batch.inputs, batch.counts, batch.offsets_px)} == {precision}


def test_n_groups_and_the_wrong_pattern_size() -> None:
    assert grouped(TrainingConfig(n_groups=5)).groups.n_groups == 5
    assert grouped(TrainingConfig(model=ModelConfig(gridsize=2), n_groups=30)).groups.n_groups == 30
    with pytest.raises(ConfigError, match=r"model\.N is 128.*64 pixels; set N=64"):
        grouped(TrainingConfig(model=ModelConfig(N=128)))


class Stored:
    """Patterns that are no array in memory; each reading is noted, with the thread that did it."""

    def __init__(self, patterns: Any) -> None:
        self.patterns, self.shape, self.dtype, self.read = patterns, patterns.shape, patterns.dtype, []  # type: ignore[var-annotated]

    def __getitem__(self, index: Any) -> Any:
        self.read.append((index, current_thread()))
        return self.patterns[index]


@pytest.mark.parametrize("generator", [None, 5])
def test_batches_of_a_file_are_read_ahead_by_one_and_are_the_same(generator: int | None) -> None:
    plain = numbered_scan()
    stored = Stored(np.array(plain.diffraction_patterns))
    data = grouped(scan=replace(plain, diffraction_patterns=stored))
    _ = data.measured_total_counts
    stored.read.clear()
    for _ in range(2):
        orders = [None if generator is None else np.random.default_rng(generator) for _ in range(2)]
        for ours, theirs in zip(data.batches(4, orders[0]), grouped().batches(4, orders[1]), strict=True):
            for name in ("inputs", "counts", "offsets_px"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert len(stored.read) == 6 and current_thread() not in [thread for _, thread in stored.read]
    stored.read.clear()
    batches = iter(data.batches(2))
    next(batches)
    time.sleep(0.2)
    assert len(stored.read) == 2, "one batch ahead, and no more"


def test_what_goes_wrong_in_reading_ahead_is_raised_where_the_batch_is_asked_for() -> None:
    plain = numbered_scan()
    stored = Stored(np.array(plain.diffraction_patterns))
    data = grouped(scan=replace(plain, diffraction_patterns=stored))
    _ = data.measured_total_counts
    batches = iter(data.batches(4))
    stored.patterns = stored.patterns[:7]
    assert len(next(batches).inputs) == 4
    with pytest.raises(IndexError):
        list(batches)


# --- dose ---


def test_counts_are_taken_as_they_are() -> None:
    data = grouped()
    assert data.mean_total_counts == data.measured_total_counts == 6 * N * N  # the mean of 1 .. 11 is 6
    np.testing.assert_allclose(data.batch(np.arange(11)).counts[:, 0, 0, 0], np.arange(1, 12), rtol=1e-7)


def test_a_scan_without_counts_is_refused() -> None:
    dark = Scan(np.zeros((2, N, N), np.uint16), np.full((2, 2), 40.0), np.ones((1, N, N), np.complex64), name="dark")
    with pytest.raises(ScanError, match=r"'dark' are 0\.0"):
        grouped(scan=dark).batch(np.arange(1))


@pytest.mark.parametrize("nphotons", [1e4, 3.5e9])
def test_nphotons_rescales_the_counts_and_leaves_the_inputs(nphotons: float) -> None:
    data = grouped(TrainingConfig(nphotons=nphotons))
    batch, plain = data.batch(np.arange(11), "float64"), grouped().batch(np.arange(11), "float64")
    assert batch.counts.sum(axis=(1, 2, 3)).mean() == pytest.approx(nphotons)
    np.testing.assert_allclose(batch.counts / plain.counts, nphotons / (6 * N * N), rtol=1e-12)
    np.testing.assert_allclose(batch.inputs, plain.inputs, rtol=1e-12)


@pytest.mark.parametrize("nphotons", [None, 1e9])
def test_inputs_are_amplitudes_normalised_over_the_whole_scan(nphotons: float | None) -> None:
    """The mean energy is (N/2)**2, and ``counts = count_scale * inputs**2`` in each pattern, bright or dim."""
    data = grouped(TrainingConfig(nphotons=nphotons))
    batch = data.batch(np.arange(11), "float64")
    assert (batch.inputs**2).sum(axis=(1, 2, 3)).mean() == pytest.approx((N / 2) ** 2)
    np.testing.assert_allclose(batch.count_scale * batch.inputs**2, batch.counts, rtol=1e-12)
    np.testing.assert_allclose(batch.inputs[3] / batch.inputs[0], 2.0, rtol=1e-12)  # root of 4 over 1
    alone = data.batch(np.array([3]), "float64")
    np.testing.assert_array_equal(alone.inputs[0], batch.inputs[3])


def test_bad_pixels_enter_neither_the_dose_nor_the_inputs() -> None:
    good = np.ones((N, N), bool)
    good[10, 20] = False
    scan = numbered_scan(good_pixels=good)
    patterns = np.array(scan.diffraction_patterns[:], np.uint32)
    patterns[:, 10, 20] = 4_000_000
    data = grouped(scan=replace(scan, diffraction_patterns=patterns))
    assert data.measured_total_counts == 6 * (N * N - 1)
    assert data.batch(np.arange(11)).inputs[:, :, 10, 20].max() == 0


def test_large_counts_do_not_overflow() -> None:
    patterns = np.full((2, N, N), 65535, np.uint16)
    scan = Scan(patterns, np.full((2, 2), 40.0), np.ones((1, N, N), np.complex64))
    assert grouped(scan=scan).measured_total_counts == 65535 * N * N


# --- the learning-rate rule and early stopping, worked by hand ---

NAN = float("nan")


def rates(losses: list[float], **settings: Any) -> tuple[list[float], int | None]:
    """The rate that each epoch runs at, and the epoch after which training stops."""
    schedule, ran = Schedule(TrainingConfig(learning_rate=0.8, **settings)), []
    for number, loss in enumerate(losses, 1):
        ran.append(schedule.learning_rate)
        if schedule.should_stop(loss):
            return ran, number
    return ran, None


REDUCE: dict[str, Any] = {"scheduler": "ReduceLROnPlateau", "plateau_min_lr": 0.0}


@pytest.mark.parametrize(
    "settings, losses, expected",
    [
        # always better: never reduced
        ({**REDUCE, "plateau_patience": 0}, [5, 4, 3, 2, 1], [0.8] * 5),
        # patience 2: epochs 2 and 3 are borne, epoch 4 is one too many, so epoch 5 runs at half
        ({**REDUCE, "plateau_patience": 2}, [5, 5, 5, 5, 5, 5, 5, 5], [0.8] * 4 + [0.4] * 3 + [0.2]),
        # patience 0: every epoch without improvement halves
        ({**REDUCE, "plateau_patience": 0}, [5, 6, 4, 4, 7], [0.8, 0.8, 0.4, 0.4, 0.2]),
        # an improvement starts the count anew; a worse epoch does not become the best
        ({**REDUCE, "plateau_patience": 1}, [5, 6, 4, 9, 8, 7], [0.8, 0.8, 0.8, 0.8, 0.8, 0.4]),
        # the floor
        ({**REDUCE, "plateau_patience": 0, "plateau_min_lr": 0.3}, [5] * 5, [0.8, 0.8, 0.4, 0.3, 0.3]),
        # a floor above the rate does not raise it
        ({**REDUCE, "plateau_patience": 0, "plateau_min_lr": 1.0}, [5] * 4, [0.8] * 4),
        # another factor
        ({**REDUCE, "plateau_patience": 0, "plateau_factor": 0.1}, [5] * 3, [0.8, 0.8, 0.08]),
        # 10 -> 9.5 is not 10 % better, 8.9 is (below 9), 8.1 is not (not below 8.01), 8.0 is
        ({**REDUCE, "plateau_patience": 0, "plateau_threshold": 0.1}, [10, 9.5, 8.9, 8.1, 8.0, 7.9],
         [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]),
        # negative losses, as a Poisson likelihood has: -10.5 is not 10 % better than -10, -11.5 is
        ({**REDUCE, "plateau_patience": 0, "plateau_threshold": 0.1}, [-10, -10.5, -11.5, -11.6],
         [0.8, 0.8, 0.4, 0.4]),
        # crossing zero: from 0 the margin is 0
        ({**REDUCE, "plateau_patience": 0, "plateau_threshold": 0.5}, [1, 0, -0.1, -0.12], [0.8] * 4),
        # 'Default' keeps the rate whatever happens
        ({"scheduler": "Default", "plateau_patience": 0}, [5, 5, 6, 7, 8], [0.8] * 5),
        # half a cosine over five epochs: (1 + cos(k pi / 4)) / 2, whatever the loss does
        ({"scheduler": "WarmupCosine", "nepochs": 5, "lr_min_ratio": 0.0}, [5, 5, 6, 7, 8],
         [0.8, 0.8 * 0.8535534, 0.4, 0.8 * 0.1464466, 0.0]),
        # half the rate in the one epoch of warm-up, then from 1 over 3/4 to 1/2 of it
        ({"scheduler": "WarmupCosine", "nepochs": 4, "lr_min_ratio": 0.5, "lr_warmup_epochs": 1}, [4, 3, 2, 1],
         [0.4, 0.8, 0.6, 0.4]),
    ],
)  # fmt: skip
def test_the_learning_rate_of_each_epoch(settings: dict[str, Any], losses: list[float], expected: list[float]) -> None:
    ran, stopped = rates([float(loss) for loss in losses], **settings)
    assert ran == pytest.approx(expected) and stopped is None


@pytest.mark.parametrize("scheduler", ["Default", "ReduceLROnPlateau", "WarmupCosine"])
@pytest.mark.parametrize(
    "patience, losses, stops",
    [
        (3, [5, 5, 5, 5, 5], 4),
        (1, [5, 4, 4, 1], 3),
        (2, [5, 6, 4, 7, 8, 1], 5),
        (3, [5, 6, 7, 4, 5, 6, 3, 4], None),
        (1, [5, 4, 3, 2], None),
    ],
)
def test_early_stopping(scheduler: str, patience: int, losses: list[float], stops: int | None) -> None:
    """The same epoch whether or not the rate was reduced on the way."""
    settings = {"scheduler": scheduler, "plateau_patience": 0, "early_stop_patience": patience}
    assert rates(losses, **settings)[1] == stops


# --- the loop ---


class Scalar:
    """A network of one weight; its loss follows a script, or falls by the learning rate with each step."""

    def __init__(self, losses: Any = None) -> None:
        self.losses, self.steps, self.weight = losses, [], 10.0  # type: ignore[var-annotated]

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        numbers = seen([batch])
        self.steps.append((numbers, learning_rate))
        self.weight -= learning_rate
        return float(self.losses(len(self.steps), numbers)) if self.losses else self.weight

    def predict(self, batch: Batch) -> Any:
        return batch.counts * (1 + 2j)

    def get_weights(self) -> Any:
        return {"weight": np.array(self.weight)}

    def reset(self, weights: Any) -> None:
        self.resets = getattr(self, "resets", 0) + 1

    def trace(self, batch: Batch) -> Any:
        return {"counts": batch.counts}


class ScalarBackend(NetworkBackend):
    name = "scalar"

    def __init__(self, losses: Any = None) -> None:
        self.network, self.built = Scalar(losses), []  # type: ignore[var-annotated]

    def build(self, config: Any, weights: Any, good_pixels: Any = None, precision: str = "float32") -> Any:
        self.built.append((config, weights, good_pixels, precision))
        return self.network

    def operators(self, precision: str = "float64") -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


def train(losses: Any = None, on_epoch: Any = None, **settings: Any) -> tuple[Any, History, ScalarBackend]:
    backend = ScalarBackend(losses)
    config = TrainingConfig(**{"nepochs": 3, "batch_size": 4, "learning_rate": 0.5, **settings})
    weights, history = backend.train(grouped(config), config, {}, on_epoch)
    return weights, history, backend


def test_every_epoch_sees_every_group_once_in_another_order() -> None:
    _, history, backend = train()
    steps = [numbers for numbers, _ in backend.network.steps]
    assert [len(numbers) for numbers in steps] == [4, 4, 3] * 3
    epochs = [[number for step in steps[i : i + 3] for number in step] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [epoch.number for epoch in history.epochs] == [1, 2, 3] and history.ended == "all epochs done"


def test_equal_seeds_give_equal_batches_and_another_seed_others() -> None:
    runs = [train(seed=seed)[2].network.steps for seed in (4, 4, 5)]
    assert runs[0] == runs[1] != runs[2]


def test_the_epoch_loss_is_the_mean_over_groups_not_over_batches() -> None:
    """A batch's loss is the mean of its pattern numbers, so an epoch's is 5, however unequal the batches are."""
    _, history, _ = train(lambda step, numbers: np.mean(numbers))
    assert history.losses == pytest.approx([5.0, 5.0, 5.0])
    assert history.losses.dtype == np.float64


def test_on_epoch_is_called_with_each_epoch_as_it_ends() -> None:
    heard: list[tuple[Epoch, int]] = []
    backend = ScalarBackend()
    config = TrainingConfig(nepochs=2, batch_size=4)
    _, history = backend.train(
        grouped(config), config, {}, lambda epoch: heard.append((epoch, len(backend.network.steps)))
    )
    assert [epoch for epoch, _ in heard] == history.epochs
    assert [steps for _, steps in heard] == [3, 6]
    assert all(epoch.seconds >= 0 and epoch.learning_rate == 1e-3 for epoch, _ in heard)


def test_an_exception_in_on_epoch_ends_the_training() -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(on_epoch=stop)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_raises(bad: float) -> None:
    heard: list[Epoch] = []
    with pytest.raises(FloatingPointError, match=r"scalar loss is -?(nan|inf) in epoch 2; lower learning_rate"):
        train(lambda step, numbers: bad if step == 5 else 1.0, on_epoch=heard.append)
    assert [epoch.number for epoch in heard] == [1]


def test_the_reduced_rate_reaches_the_steps_and_the_history() -> None:
    settings = {"scheduler": "ReduceLROnPlateau", "plateau_patience": 0, "plateau_min_lr": 0.0, "nepochs": 4}
    _, history, backend = train(lambda step, numbers: 1.0, **settings)
    assert [epoch.learning_rate for epoch in history.epochs] == [0.5, 0.5, 0.25, 0.125]
    assert [rate for _, rate in backend.network.steps] == [0.5] * 6 + [0.25] * 3 + [0.125] * 3


def test_early_stopping_ends_the_loop_and_says_why() -> None:
    _, history, backend = train(lambda step, numbers: 1.0, nepochs=50, early_stop_patience=2)
    assert len(history.epochs) == 3 and len(backend.network.steps) == 9
    assert history.ended == "no improvement for 2 epochs"


def test_the_trained_weights_come_back() -> None:
    weights, _, _ = train()
    assert weights["weight"] == 10.0 - 9 * 0.5


def test_the_network_is_told_which_pixels_are_good() -> None:
    good = np.ones((N, N), bool)
    good[3, 4] = False
    scan, backend = numbered_scan(good_pixels=good), ScalarBackend()
    config, weights = TrainingConfig(nepochs=1), {"weight": np.zeros(1)}
    backend.train(grouped(config, scan), config, weights)
    assert backend.built == [(config, weights, good, "float32")]


def test_inference_keeps_the_order_of_the_groups_whatever_the_batches() -> None:
    data, backend = grouped(), ScalarBackend()
    for batch_size in (1, 4, 100):
        patches = backend.infer(data, {}, InferenceConfig(batch_size=batch_size))
        assert patches.shape == (11, 1, N, N) and patches.dtype == np.complex64
        np.testing.assert_allclose(patches[:, 0, 0, 0], np.arange(1, 12) * (1 + 2j), rtol=1e-6)
    assert len(backend.built) == 1 and backend.network.resets == 2, "built once, and started over for each call"
    backend.infer(data, {"weight": np.zeros(1)}, InferenceConfig())
    assert len(backend.built) == 2, "other weights, another network"


@pytest.mark.parametrize("choice", ["", "text"])
def test_the_progress_bar_shows_epochs_loss_and_time_left(
    choice: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTYINT_PROGRESS", choice)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    train(lambda step, numbers: 123.25 if step > 6 else 200.0)
    shown = capfd.readouterr().err
    assert "scalar training" in shown and "3/3" in shown and "loss=123.25" in shown
    assert re.search(r"\[\d\d:\d\d<(\d\d:\d\d|\?)", shown)


# --- the fixture that the frameworks are tested with ---


@pytest.mark.parametrize("gridsize", [1, 2])
def test_the_tiny_fixture_has_fewer_than_twenty_groups(gridsize: int) -> None:
    scan = load_fixture("tiny-64")
    data = grouped(TrainingConfig(model=ModelConfig(gridsize=gridsize)), scan)
    assert 4 < data.groups.n_groups < 20 and scan.N == 64
    assert sum(len(batch.inputs) for batch in data.batches(5)) == data.groups.n_groups
