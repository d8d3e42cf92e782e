"""Does a backend keep the contract that it declares? For its author: ``ptyint check-backend NAME``.

Names, shapes, dtypes, and what must not change; whether the values are right is for the parity ladder to say.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint.backends import numpy_network
from ptyint.backends.protocol import CAPABILITIES, Backend, Operators, Traceable, Trainable, Workflow, methods
from ptyint.backends.weights import Weights, initial_weights, weights_sha256
from ptyint.evidence.checks import Check
from ptyint.parity import operands, problems
from ptyint.parity.configurations import CASES, FIXTURE, TRAININGS, inputs_of
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

CASE = CASES["gridsize 2"]
TRAINING = TRAININGS["gridsize 2"].plain


def check(name: str) -> list[Check]:
    """Everything that the backend `name` declares, tried on small arrays in this process.

    Parameters
    ----------
    name : str
        One of :func:`ptyint.backends.names`.

    Returns
    -------
    list of Check
        What it does not declare is ``not available``.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`ptyint.backends.load`.
    """
    backend = backends.load(name)
    checks = [_tried(what, partial(fact, backend, name)) for what, fact in DECLARATION.items()]
    declared: frozenset[str] = getattr(backend, "capabilities", frozenset())
    for (capability, what), fact in FACTS.items():
        if capability in declared:
            checks.append(_tried(f"{capability}: {what}", partial(fact, backend)))
        else:
            checks.append(Check(f"{capability}: {what}", None, note="not declared", available=False))
    return checks


def _tried(what: str, fact: Callable[[], str]) -> Check:
    """A fact returns what is wrong, in words; an exception is wrong too."""
    try:
        wrong = fact()
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    return Check.fact(what, not wrong, wrong)


def _lacks(what: str, arrays: Mapping[str, Any], names: tuple[str, ...] | list[str]) -> str:
    missing = [name for name in names if name not in arrays]
    return f"{what} has no {', '.join(missing)}" if missing else ""


def _name(backend: Backend, name: str) -> str:
    return "" if backend.name == name else f"it calls itself {backend.name!r}, and is registered as {name!r}"


def _capabilities(backend: Backend, name: str) -> str:
    if set(backend.capabilities) - CAPABILITIES.keys() or not backend.capabilities:
        return f"capabilities are {sorted(backend.capabilities)}; must be one or more of {list(CAPABILITIES)}"
    for capability in sorted(backend.capabilities):
        if not isinstance(backend, CAPABILITIES[capability]):
            return f"capabilities has {capability!r}, which needs {', '.join(methods(capability))}; it lacks some"
    if set(backend.precisions) - {"float32", "float64"} or not backend.precisions:
        return f"precisions are {backend.precisions}; must be 'float32', 'float64' or both"
    unknown = set(backend.frameworks) - {"tensorflow", "torch"}
    return f"frameworks has {sorted(unknown)}; must be of 'tensorflow', 'torch'" if unknown else ""


def _describe(backend: Backend, name: str) -> str:
    return _lacks("describe()", json.loads(json.dumps(backend.describe())), ("backend", "version"))


DECLARATION: dict[str, Callable[[Any, str], str]] = {
    "it is called what it is registered as": _name,
    "what it declares is known": _capabilities,
    "it describes itself in plain values": _describe,
}


def _operators(backend: Operators) -> str:
    """Every operator on its operands: known, and of the referee's shape and dtype."""
    given = operands.everything()
    expected = operands.expected(given)
    known = {operator for operator, _ in given}
    wrong = []
    for precision in backend.precisions:
        offered = backend.operators(precision)
        if unknown := {operands.base_name(name) for name in offered} - known:
            return f"unknown operators {sorted(unknown)}; must be of {sorted(known)}"
        for name, operator in offered.items():
            keys = [(operands.base_name(name), operand) for operand in operands.named(name, given)]
            wrong.append(_first_served(name, operator, {key: given[key] for key in keys}, expected, precision))
    return "; ".join(filter(None, wrong))


def _first_served(
    name: str, operator: Any, given: operands.Operands, expected: dict[tuple[str, str], Any], precision: str
) -> str:
    """One operator on the first operands that it does not refuse (NotImplementedError)."""
    for key, arguments in given.items():
        before = [np.array(argument) for argument in arguments]
        try:
            array = np.asarray(operator(*arguments))
        except NotImplementedError:
            continue
        kind = operands.expected_kind(expected[key], precision)
        if array.shape != expected[key].shape or array.dtype != kind:
            return f"{name} ({key[1]}) gives {array.dtype} {array.shape}, not {kind} {expected[key].shape}"
        changed = not all(np.array_equal(a, b) for a, b in zip(arguments, before, strict=True))
        return f"{name} changes its arguments" if changed else ""
    return f"{name} refuses all its operands: {[operand for _, operand in given]}"


def _data() -> tuple[GroupedScan, Weights]:
    scan = load_fixture(FIXTURE)
    return GroupedScan.from_config(scan, TRAINING), initial_weights(TRAINING.model, scan.probe, TRAINING.seed)


def _train(backend: Trainable) -> str:
    data, weights = _data()
    before = weights_sha256(weights)
    trained, history = backend.train(data, TRAINING, weights)
    if weights_sha256(weights) != before:
        return "train() changes the weights that it was given"
    kinds = [{name: (w.shape, str(w.dtype)) for name, w in one.items()} for one in (trained, weights)]
    if kinds[0] != kinds[1]:
        return "train() gives back weights of other names, shapes or dtypes than it was given"
    return "" if np.isfinite(history.losses).all() and len(history.losses) else "a loss is missing or not finite"


def _infer(backend: Trainable) -> str:
    data, weights = _data()
    patches = backend.infer(data, weights, TRAINING.applied(batch_size=7, n_groups=16))
    shape = (data.groups.n_groups, data.groups.n_channels, TRAINING.model.N, TRAINING.model.N)
    if patches.shape != shape or patches.dtype != np.complex64:
        return f"infer() gives {patches.dtype} {patches.shape}, not complex64 {shape}"
    return "" if np.isfinite(patches).all() else "infer() gives values that are not finite"


def _given(backend: Traceable) -> tuple[Any, Batch, Weights]:
    """A network in the backend's usual precision, its batch, and the weights that it was built from."""
    precision = backend.precisions[0]
    batch, weights, good = inputs_of(CASE, precision)
    weights = {name: array.astype(precision) for name, array in weights.items()}
    return backend.build(CASE.config, weights, good, precision), batch, weights


def _trace(backend: Traceable) -> str:
    network, batch, weights = _given(backend)
    names = [*numpy_network.forward(weights, batch, CASE.config.model), *(f"gradient/{name}" for name in weights)]
    return _lacks("trace()", network.trace(batch), names)


def _round_trip(backend: Traceable) -> str:
    network, batch, weights = _given(backend)
    given = weights_sha256(weights)
    if weights_sha256(network.get_weights()) != given:
        return "get_weights() gives others than build() was given"
    network.train_step(batch, 1e-3)
    moved = weights_sha256(network.get_weights())
    network.reset(weights)
    if weights_sha256(network.get_weights()) != given:
        return "reset() does not start over"
    network.train_step(batch, 1e-3)
    return "" if weights_sha256(network.get_weights()) == moved else "the same step twice gives other weights"


def _workflow(backend: Workflow) -> str:
    config = problems.workflow_training()
    with tempfile.TemporaryDirectory(prefix="ptyint-contract-") as name:
        folder = Path(name)
        path = folder / "scan.npz"
        write_scan(load_fixture(FIXTURE), path)
        if not backend.initial_weights(config):
            return "initial_weights() gives none"
        held = backend.configure(config)
        if (held.get("N"), held.get("gridsize")) != (config.model.N, config.model.gridsize):
            return (
                f"configure() holds N {held.get('N')!r} and gridsize {held.get('gridsize')!r}, not those it was given"
            )
        lacks = _lacks("run()", backend.run(path, config, folder), ("patches", "stitched", "probe", "inputs"))
        return lacks or _lacks("reload()", backend.reload(path, config, folder), ("patches", "stitched"))


FACTS: dict[tuple[str, str], Callable[[Any], str]] = {
    ("operators", "known, with the referee's shapes and dtypes"): _operators,
    ("weights", "trains from given weights and leaves them alone"): _train,
    ("weights", "infers from given weights"): _infer,
    ("trace", "gives every tap and gradient"): _trace,
    ("trace", "weights go in and out, a step is repeatable"): _round_trip,
    ("workflow", "configures, trains, saves, loads, infers, stitches"): _workflow,
}
"""Capability and what is tried of it, to the trial."""
