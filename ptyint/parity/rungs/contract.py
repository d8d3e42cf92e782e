"""Rung 0: the bookkeeping around a backend: facts of both processes against the judge's own and frozen numbers."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import dispatcher
from ptyint._atomic import write_arrays
from ptyint.backends.weights import Weights, initial_weights, weights_sha256
from ptyint.config import InferenceConfig, TrainingConfig, legacy_values, params, to_mapping
from ptyint.parity import frozen
from ptyint.parity.compare import REFEREE, Finding, Place, error_of
from ptyint.parity.problems import FIXTURE, Problems, trainings
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.scans import files
from ptyint.scans.batches import GroupedScan
from ptyint.scans.fixtures import load_fixture

FRAMEWORKS = {"tensorflow": "tensorflow", "pytorch": "torch"}
"""Built-in backend to the framework that its process may have loaded, and no other; others declare theirs."""

UNAVAILABLE = "not available"
"""Instead of a fact that a backend cannot give, since it does not declare what that needs."""

Facts = dict[str, str]
"""``what/case`` to a value or digest."""

STALE = {"gridsize": 7, "N": 3, "backend": "stale", "probe.mask": "stale", "learning_rate": -1.0}
"""What stands in `params.cfg` before the gate."""

GATE, HELD = "params.cfg after the gate/", "weights in the network/"
RAN, LOADED, DECLARED = "backend that ran/", "frameworks loaded/", "frameworks declared/"


def bookkeeping(seed: int = 0) -> Facts:
    """Facts that do not depend on a backend, and must be the same in every process."""
    facts: dict[str, Callable[[], str]] = {
        "default backend/": lambda: f"{TrainingConfig().backend}, {InferenceConfig().backend}",
        "default configuration/": lambda: json.dumps([to_mapping(TrainingConfig()), to_mapping(InferenceConfig())]),
        "scan/": lambda: load_fixture(FIXTURE).sha256,
        "counts of 16-bit amplitudes/": _sixteen_bits,
    }
    for case, config in _cases(seed).items():
        facts |= {f"{what}/{case}": partial(fact, config) for what, fact in OF_A_TRAINING.items()}
    return {key: _tried(fact) for key, fact in facts.items()}


def _tried(fact: Callable[[], str]) -> str:
    try:
        return fact()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _cases(seed: int) -> dict[str, TrainingConfig]:
    return {f"gridsize {gridsize}": config for gridsize, config in trainings(seed).items()}


def _data(config: TrainingConfig) -> GroupedScan:
    return GroupedScan.from_config(load_fixture(FIXTURE), config)


def _initial(config: TrainingConfig) -> Weights:
    return initial_weights(config.model, load_fixture(FIXTURE).probe, config.seed)


def _batches(config: TrainingConfig) -> str:
    """Sizes and dtypes in words, and a digest of two epochs."""
    data, generator, digest, kinds = _data(config), np.random.default_rng(4), hashlib.sha256(), []
    for batch in (batch for _ in range(2) for batch in data.batches(5, generator)):
        for array in (batch.inputs, batch.counts, batch.offsets_px):
            digest.update(np.ascontiguousarray(array).tobytes())
        kinds.append(f"{len(batch.inputs)} {batch.inputs.dtype}")
        digest.update(f"{batch.n_canvas} {batch.count_scale!r}".encode())
    return f"{digest.hexdigest()} ({', '.join(kinds)})"


OF_A_TRAINING: dict[str, Callable[[TrainingConfig], str]] = {
    "groups": lambda config: _data(config).groups.sha256(),
    "batches in their order": _batches,
    "initial weights": lambda config: weights_sha256(_initial(config)),
}


def _sixteen_bits() -> str:
    """A scan whose amplitudes are stored as 16-bit integers above 256, whose squares do not fit."""
    scan = load_fixture(FIXTURE)
    amplitudes = np.sqrt(scan.counts().astype(np.float64) * 1e3).astype(np.uint16)
    y, x = scan.probe_positions_px.T
    with tempfile.TemporaryDirectory(prefix="ptyint-parity-") as folder:
        path = Path(folder) / "sixteen-bits.npz"
        arrays: Captured = {"probeGuess": scan.probe[0], "objectGuess": np.ones((8, 8), np.complex64)}
        write_arrays(path, arrays | {"diffraction": amplitudes, "xcoords": x, "ycoords": y})
        counts = files.read_scan(path, diffraction_kind="amplitudes").counts()
    return hashlib.sha256(np.ascontiguousarray(counts).tobytes()).hexdigest() + f" (largest {counts.max():.0f})"


def measure(bench: Bench, part: str = "") -> Captured:
    """:func:`bookkeeping`, and what a backend makes of configuration and weights, as texts; and :mod:`..frozen`."""
    facts, arrays = bookkeeping(bench.problems.seed), Captured()
    with noted(arrays, frozen.KEY):
        arrays |= frozen.measured()
    with noted(arrays, RAN):
        for case, plain in _cases(bench.problems.seed).items():
            config = replace(plain, backend=bench.name)
            params.cfg.clear()
            params.cfg.update(STALE)
            backend: Any = dispatcher.select_backend(config)
            facts[GATE + case] = _held(params.cfg)
            facts[HELD + case] = UNAVAILABLE
            if "trace" in backend.capabilities:
                weights = backend.build(config, _initial(config)).get_weights()
                facts[HELD + case] = weights_sha256({name: w.astype(np.float32) for name, w in weights.items()})
        facts[RAN] = backend.name
        facts[DECLARED] = ", ".join(sorted(backend.frameworks))
        facts[LOADED] = ", ".join(sorted({"tensorflow", "torch"} & set(sys.modules)))
    return arrays | {key: np.array(text) for key, text in facts.items()}


def _held(legacy: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in legacy.items() if key != "backend"}, sort_keys=True)


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Facts of each side, against this process's, and what shared code gives, against frozen numbers."""
    expected = bookkeeping(problems.seed)
    expected["default backend/"] = "tensorflow, tensorflow"
    for case, config in _cases(problems.seed).items():
        held = {**STALE, **legacy_values(config)}
        expected[GATE + case] = _held({key: value for key, value in held.items() if value is not None})
        expected[HELD + case] = expected[f"initial weights/{case}"]
    for side, facts in measured.both("contract").items():
        frameworks = FRAMEWORKS.get(side) or str(facts.get(DECLARED, ""))
        for key, value in {**expected, RAN: side, LOADED: frameworks}.items():
            tap, _, case = key.partition("/")
            where = Place("contract", case, tap=tap)
            seen = str(facts[key]) if key in facts else error_of(facts, key) or "nothing was written"
            if seen == UNAVAILABLE:
                yield Finding.unavailable(where, (side, REFEREE), f"{side} does not offer trace")
            else:
                yield Finding.fact(where, (side, REFEREE), seen == value, f"{_short(seen)}, and not {_short(value)}")
        yield from frozen.judge(side, facts)


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


FACTS = Capture("contract", measure)

RUNG = Rung(
    "contract",
    "same scan, groups, configuration, initial weights, batches; shared code as it ever was?",
    (FACTS, workflow.OWN),
    (judge,),
    also=(workflow.contract,),
)
