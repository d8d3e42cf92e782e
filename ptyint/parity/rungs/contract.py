"""Rung 0: the bookkeeping around a backend: facts of both processes against the judge's own and frozen numbers."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ptyint import dispatcher
from ptyint.backends.protocol import FULL_PRECISION
from ptyint.backends.weights import Weights, initial_weights, weights_sha256
from ptyint.config import InferenceConfig, TrainingConfig, legacy_values, params, to_mapping
from ptyint.errors import shortened
from ptyint.parity import frozen
from ptyint.parity.compare import REFEREE, Finding, Place, error_of
from ptyint.parity.configurations import FIXTURE, TRAININGS
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted
from ptyint.scans.fixtures import load_fixture

FRAMEWORKS = {"tensorflow": "tensorflow", "pytorch": "torch"}
"""Built-in backend to the framework that its process may have loaded, and no other; others declare theirs."""

UNAVAILABLE = "not available"
"""Instead of a fact that a backend cannot give, since it does not declare what that needs."""

STALE = {"gridsize": 7, "N": 3, "backend": "stale", "probe.mask": "stale", "learning_rate": -1.0}
"""What stands in `params.cfg` before the gate."""

GATE, HELD = "params.cfg after the gate/", "weights in the network/"
RAN, LOADED, DECLARED = "backend that ran/", "frameworks loaded/", "frameworks declared/"
ARITHMETIC, DETERMINISTIC = "arithmetic/", "deterministic algorithms/"


def bookkeeping() -> dict[str, str]:
    """``what/case`` to a value: facts that do not depend on a backend, and must be the same in every process."""
    return {
        "default backend/": f"{TrainingConfig().backend}, {InferenceConfig().backend}",
        "default configuration/": json.dumps([to_mapping(TrainingConfig()), to_mapping(InferenceConfig())]),
        "scan/": load_fixture(FIXTURE).sha256,
    }


def _cases(seed: int) -> dict[str, TrainingConfig]:
    return {name: TRAININGS[name].config(seed) for name in ("gridsize 1", "gridsize 2")}


def _initial(config: TrainingConfig) -> Weights:
    return initial_weights(config.model, load_fixture(FIXTURE).probe, config.seed)


def measure(bench: Bench, part: str = "") -> Captured:
    """:func:`bookkeeping`, and what a backend makes of configuration and weights, as texts; and :mod:`..frozen`."""
    facts, arrays = bookkeeping(), Captured()
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
        described = backend.describe()
        facts[ARITHMETIC] = str(described.get("arithmetic", UNAVAILABLE))
        facts[DETERMINISTIC] = str(described.get("deterministic", UNAVAILABLE) if backend.frameworks else UNAVAILABLE)
        facts[LOADED] = ", ".join(sorted({"tensorflow", "torch"} & set(sys.modules)))
    return arrays | {key: np.array(text) for key, text in facts.items()}


def _held(legacy: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in legacy.items() if key != "backend"}, sort_keys=True)


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Facts of each side, against this process's, and what shared code gives, against frozen numbers."""
    expected = bookkeeping()
    expected["default backend/"] = "tensorflow, tensorflow"
    for case, config in _cases(problems.seed).items():
        held = {**STALE, **legacy_values(config)}
        expected[GATE + case] = _held({key: value for key, value in held.items() if value is not None})
        expected[HELD + case] = weights_sha256(_initial(config))
    both = measured.both("contract")
    expected[ARITHMETIC] = FULL_PRECISION
    stated = [text for facts in both.values() if (text := str(facts.get(DETERMINISTIC, UNAVAILABLE))) != UNAVAILABLE]
    expected[DETERMINISTIC] = stated[0] if stated else UNAVAILABLE
    for side, facts in both.items():
        frameworks = FRAMEWORKS.get(side) or str(facts.get(DECLARED, ""))
        for key, value in {**expected, RAN: side, LOADED: frameworks}.items():
            tap, _, case = key.partition("/")
            where = Place("contract", case, tap=tap)
            seen = str(facts[key]) if key in facts else error_of(facts, key) or "nothing was written"
            if seen == UNAVAILABLE:
                why = "does not offer trace" if key.startswith(HELD) else "does not say"
                yield Finding.unavailable(where, (side, REFEREE), f"{side} {why}")
            else:
                yield Finding.fact(
                    where, (side, REFEREE), seen == value, f"{shortened(seen, 80)}, and not {shortened(value, 80)}"
                )
        yield from frozen.judge(side, facts)


FACTS = Capture("contract", measure)

RUNG = Rung(
    "contract",
    "same scan, groups, configuration, initial weights, batches; shared code as it ever was?",
    (FACTS, workflow.OWN),
    (judge,),
    also=(workflow.contract,),
)
