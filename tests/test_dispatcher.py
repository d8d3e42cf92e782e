"""The gate first, then the choice, then the call: order, defaults, refusals, and what comes back."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptyint import backends, dispatcher
from ptyint.backends.bundle import save_bundle
from ptyint.backends.protocol import Epoch, History
from ptyint.backends.weights import Weights, initial_weights, weights_sha256
from ptyint.config import InferenceConfig, ModelConfig, TrainingConfig, params
from ptyint.errors import ConfigError, PtyintError
from ptyint.scans.scan import Scan

MODULES = {"pytorch": "ptyint.backends.pytorch", "tensorflow": "ptyint.backends.tensorflow"}
N = 64
SMALL = ModelConfig(n_filters_scale=1)


class FakeBackend:
    """Answers like a backend, remembers what it was asked; no framework."""

    capabilities = frozenset({"weights"})

    def __init__(self, name: str, answer: Any = None) -> None:
        self.name, self.answer, self.calls = name, answer, []  # type: ignore[var-annotated]

    def train(self, data: Any, config: Any, weights: Weights, on_epoch: Any = None) -> tuple[Weights, History]:
        order = np.random.default_rng(config.seed)
        self.calls.append((data.groups.sha256(), weights_sha256(weights), next(data.batches(4, order)).counts))
        if on_epoch is not None:
            on_epoch(Epoch(1, 0.5, 1e-3, 0.0))
        return {"trained": np.zeros(1)}, History([Epoch(1, 0.5, 1e-3, 0.0)])

    def infer(self, data: Any, weights: Weights, config: Any) -> Any:
        self.calls.append(weights_sha256(weights))
        return self.answer(data)


@pytest.fixture
def legacy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`params.cfg`, emptied for the test and put back after it."""
    monkeypatch.setattr(params, "cfg", {})
    return params.cfg


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch, legacy: dict[str, Any]) -> SimpleNamespace:
    """Both backends replaced by fakes; `events` holds the gate, each look at the table and each import, in order."""
    events: list[tuple[str, Any]] = []
    fakes = {name: FakeBackend(name) for name in MODULES}
    real_update, real_import = dispatcher.update_legacy_dict, importlib.import_module

    def update(cfg: dict[str, Any], config: Any) -> None:
        assert cfg is params.cfg
        real_update(cfg, config)
        events.append(("gate", config))

    def import_module(name: str, package: str | None = None) -> Any:
        if name not in MODULES.values():
            return real_import(name, package)
        events.append(("import", name))
        return SimpleNamespace(BACKEND=next(fakes[key] for key, module in MODULES.items() if module == name))

    class WatchedTable(dict):  # type: ignore[type-arg]
        def __contains__(self, key: object) -> bool:
            events.append(("inspect", key))
            return super().__contains__(key)

        def __getitem__(self, key: str) -> Any:
            events.append(("inspect", key))
            return super().__getitem__(key)

    monkeypatch.setattr(dispatcher, "update_legacy_dict", update)
    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(backends, "MODULES", WatchedTable(backends.MODULES))
    return SimpleNamespace(events=events, fakes=fakes)


def make_scan(n: int = 9, *, truth: bool = True) -> Scan:
    rng = np.random.default_rng(3)
    y, x = np.indices((N, N)) - N // 2
    probe = np.exp(-(y**2 + x**2) / 200)[None].astype(np.complex64)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), -1).reshape(-1, 2)
    object_ = (rng.normal(size=(90, 100)) + 1j * rng.normal(size=(90, 100))).astype(np.complex64)
    patterns = rng.poisson(20, (n, N, N)).astype(np.uint16)
    return Scan(patterns, 36.0 + 8 * grid[:n], probe, object_ if truth else None)


# --- CONFIG-001 ---


def run(kind: str, scan: Scan, backend: dict[str, str], spied: Any = None) -> Any:
    if kind == "train":
        return dispatcher.train(scan, TrainingConfig(model=SMALL, **backend))
    for fake in spied.fakes.values() if spied else []:
        fake.answer = lambda data: np.ones((data.groups.n_groups, 1, N, N), np.complex64)
    return dispatcher.infer(scan, InferenceConfig(model=SMALL, **backend), initial_weights(SMALL, scan.probe, 0))


@pytest.mark.parametrize("kind", ["train", "infer"])
@pytest.mark.parametrize("name", MODULES)
def test_the_gate_runs_before_the_backend_is_inspected_or_imported(kind: str, name: str, spied: Any) -> None:
    result = run(kind, make_scan(), {"backend": name}, spied)
    kinds = [event for event, _ in spied.events]
    assert kinds[0] == "gate" and kinds.count("gate") == 1
    assert "inspect" in kinds[1:] and kinds.count("import") == 1
    assert ("import", MODULES[name]) in spied.events
    assert result.backend == name


@pytest.mark.parametrize("name", ["keras", "pytorch"])
def test_the_legacy_dictionary_is_complete_when_the_backend_is_imported(
    name: str, legacy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stale values of an earlier run are overwritten before anything could read them."""
    legacy.update({"N": 256, "gridsize": 2, "object.big": False, "backend": "stale", "probe.mask": True})
    seen: list[dict[str, Any]] = []
    real_load = backends.load

    def load(chosen: str) -> Any:
        seen.append(dict(params.cfg))
        return real_load(chosen) if chosen == "keras" else FakeBackend(chosen)

    monkeypatch.setattr(backends, "load", load)
    config = TrainingConfig(model=ModelConfig(N=64, gridsize=1), backend=name)
    if name == "keras":
        with pytest.raises(ValueError):
            dispatcher.train(make_scan(), config)
    else:
        dispatcher.train(make_scan(), config)
    (found,) = seen
    expected = {"N": 64, "gridsize": 1, "object.big": True, "backend": name, "probe.mask": False}
    assert {key: found[key] for key in expected} == expected


# --- POLICY-001 ---


@pytest.mark.parametrize("kind", ["train", "infer"])
def test_tensorflow_is_the_default(kind: str, spied: Any) -> None:
    assert run(kind, make_scan(), {}, spied).backend == "tensorflow"
    assert [what for event, what in spied.events if event == "import"] == [MODULES["tensorflow"]]
    assert spied.fakes["pytorch"].calls == []


@pytest.mark.parametrize("kind", ["train", "infer"])
@pytest.mark.parametrize(
    "name", ["torch", "PyTorch", "TENSORFLOW", "tensorflow ", "jax", "", "ptyint.backends.protocol"]
)
def test_an_unknown_name_is_refused_with_the_allowed_ones(kind: str, name: str, spied: Any) -> None:
    with pytest.raises(ValueError) as caught:
        run(kind, make_scan(), {"backend": name}, spied)
    message = str(caught.value)
    assert repr(name) in message and "'pytorch'" in message and "'tensorflow'" in message
    assert isinstance(caught.value, PtyintError)
    assert [event for event, _ in spied.events if event == "import"] == []


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ValueError, match="Did you mean 'tensorflow'"):
        backends.load("tensorfow")


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {blocked!r}:
            raise {error}
sys.meta_path.insert(0, Blocker())
import numpy as np
from ptyint import dispatcher
from ptyint.config import ModelConfig, TrainingConfig, InferenceConfig, params
from ptyint.scans.scan import Scan
from ptyint.backends.weights import initial_weights
model = ModelConfig(n_filters_scale=1, gridsize=1)
scan = Scan(np.ones((2, 64, 64), np.uint16), np.full((2, 2), 32.0), np.ones((1, 64, 64), np.complex64))
params.cfg["backend"] = "stale"
weights = initial_weights(model, scan.probe, 0)
for call in (lambda: dispatcher.train(scan, TrainingConfig(model=model, {choice})),
             lambda: dispatcher.infer(scan, InferenceConfig(model=model, {choice}), weights)):
    try:
        call()
    except RuntimeError as error:
        print("REFUSED", type(error).__name__, str(error).replace(chr(10), " "))
        assert error.__cause__ is not None
    assert params.cfg["backend"] == {expected!r}
other = [name for name in {other!r} if name in sys.modules]
print("LOADED", other)
"""


@pytest.mark.parametrize(
    "error",
    [
        "ModuleNotFoundError('No module named torch', name='torch')",
        "OSError('libtorch_cpu.so: cannot open shared object file')",
        "ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
    ],
    ids=["missing", "broken library", "other ABI"],
)
def test_torch_not_importable_is_a_clear_error_and_no_fallback(error: str) -> None:
    out = refused("torch", error, "backend='pytorch'", ("tensorflow", "keras", "ptyint.backends.tensorflow"))
    assert out.count("REFUSED BackendUnavailableError PyTorch backend selected") == 2
    assert out.count("pip install torch") == 2
    assert "LOADED []" in out


def test_tensorflow_not_importable_is_no_fallback_either() -> None:
    error = "ModuleNotFoundError('No module named tensorflow', name='tensorflow')"
    out = refused("tensorflow", error, "", ("torch", "ptyint.backends.pytorch"))
    assert out.count("REFUSED BackendUnavailableError TensorFlow backend selected") == 2
    assert out.count("pip install tensorflow") == 2
    assert "LOADED []" in out


def refused(blocked: str, error: str, choice: str, other: tuple[str, ...]) -> str:
    expected = "pytorch" if "pytorch" in choice else "tensorflow"
    code = BLOCKED.format(blocked=blocked, error=error, choice=choice, other=other, expected=expected)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


# --- what goes in and what comes back ---


def test_both_backends_get_the_same_groups_weights_and_batches(spied: Any) -> None:
    scan, heard = make_scan(), []
    model = replace(SMALL, gridsize=2)
    for name in MODULES:
        config = TrainingConfig(model=model, n_groups=12, seed=5, backend=name)
        result = dispatcher.train(scan, config, on_epoch=heard.append)
        assert result.backend == name and result.config is config and result.history.losses.tolist() == [0.5]
        assert result.groups.n_groups == 12 and list(result.weights) == ["trained"] and result.seconds >= 0
    (first,), (second,) = (spied.fakes[name].calls for name in MODULES)
    assert first[:2] == second[:2]
    np.testing.assert_array_equal(first[2], second[2])
    assert [epoch.number for epoch in heard] == [1, 1]


def test_another_seed_gives_other_weights(spied: Any) -> None:
    for seed in (0, 1):
        dispatcher.train(make_scan(), TrainingConfig(model=SMALL, seed=seed))
    (_, first, _), (_, second, _) = spied.fakes["tensorflow"].calls
    assert first != second


def test_weights_are_read_from_the_bundle(tmp_path: Path, spied: Any) -> None:
    scan = make_scan()
    weights = initial_weights(SMALL, scan.probe, 6)
    path = save_bundle(tmp_path, weights, TrainingConfig(model=SMALL), "tensorflow")
    fake = spied.fakes["pytorch"]
    fake.answer = lambda data: np.ones((9, 1, N, N), np.complex64)
    for where in (path, tmp_path):
        dispatcher.infer(scan, InferenceConfig(model=SMALL, model_path=where, backend="pytorch"))
    assert fake.calls == [weights_sha256(weights)] * 2


def test_inference_needs_weights(spied: Any) -> None:
    with pytest.raises(ConfigError, match=r"model_path is None.*wts\.h5\.zip"):
        dispatcher.infer(make_scan(), InferenceConfig(model=SMALL))


def test_a_model_of_another_size_is_refused(spied: Any) -> None:
    model = replace(SMALL, N=128)
    with pytest.raises(ConfigError, match=r"model\.N is 128.*64 pixels; set N=64"):
        dispatcher.train(make_scan(), TrainingConfig(model=model))
    with pytest.raises(ConfigError, match=r"model\.N is 128"):
        dispatcher.infer(make_scan(), InferenceConfig(model=model), {})
    assert spied.fakes["tensorflow"].calls == []
