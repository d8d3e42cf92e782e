"""Does a backend keep the contract that it declares? For its author: ``ptyint check-backend NAME``.

Names, shapes, dtypes, and what must not change; whether the values are right is for the parity ladder to say.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint.backends.protocol import CAPABILITIES
from ptyint.backends.weights import initial_weights, weights_sha256
from ptyint.evidence.checks import Check
from ptyint.parity import operands, problems
from ptyint.parity.rungs.forward import refereed
from ptyint.scans.batches import GroupedScan
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

WORKFLOW_ARRAYS = ("patches", "stitched", "probe", "inputs")


def check(name: str) -> list[Check]:
    """Everything that the backend `name` declares, tried on small arrays in this process.

    Parameters
    ----------
    name : str

    Returns
    -------
    list of Check
        What it does not declare is ``not available``.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`ptyint.backends.load`.
    """
    backend: Any = backends.load(name)
    found = [_tried(what, lambda fact=fact: fact(backend, name)) for what, fact in DECLARATION.items()]  # type: ignore[misc]
    declared: frozenset[str] = getattr(backend, "capabilities", frozenset())
    for capability, facts in FACTS.items():
        for what, fact in facts.items():
            if capability in declared:
                found.append(_tried(f"{capability}: {what}", lambda fact=fact: fact(backend)))  # type: ignore[misc]
            else:
                found.append(Check(f"{capability}: {what}", None, note="not declared", available=False))
    return found


def _tried(what: str, fact: Callable[[], str]) -> Check:
    """A fact returns what is wrong, in words; an exception is wrong too."""
    try:
        wrong = fact()
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    return Check.fact(what, not wrong, wrong)


def _name(backend: Any, name: str) -> str:
    return "" if backend.name == name else f"it calls itself {backend.name!r}, and is registered as {name!r}"


def _capabilities(backend: Any, name: str) -> str:
    unknown = set(backend.capabilities) - CAPABILITIES.keys()
    if unknown or not backend.capabilities:
        return f"capabilities are {sorted(backend.capabilities)}; must be one or more of {list(CAPABILITIES)}"
    if set(backend.precisions) - {"float32", "float64"} or not backend.precisions:
        return f"precisions are {backend.precisions}; must be 'float32', 'float64' or both"
    unknown = set(backend.frameworks) - {"tensorflow", "torch"}
    return f"frameworks has {sorted(unknown)}; must be of 'tensorflow', 'torch'" if unknown else ""


def _describe(backend: Any, name: str) -> str:
    found = json.loads(json.dumps(backend.describe()))
    missing = {"backend", "version"} - found.keys()
    return f"describe() has no {sorted(missing)}" if missing else ""


DECLARATION: dict[str, Callable[[Any, str], str]] = {
    "it is called what it is registered as": _name,
    "what it declares is known": _capabilities,
    "it describes itself in plain values": _describe,
}


def _operators(backend: Any) -> str:
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


def _data(gridsize: int = 2) -> tuple[GroupedScan, Any, dict[str, Any]]:
    config, scan = problems.TRAINING[gridsize], load_fixture(problems.FIXTURE)
    return GroupedScan.from_config(scan, config), config, initial_weights(config.model, scan.probe, config.seed)


def _train(backend: Any) -> str:
    data, config, weights = _data()
    before = weights_sha256(weights)
    trained, history = backend.train(data, config, weights)
    if weights_sha256(weights) != before:
        return "train() changes the weights that it was given"
    shapes = [{k: (v.shape, str(v.dtype)) for k, v in w.items()} for w in (trained, weights)]
    if shapes[0] != shapes[1]:
        return "train() gives back weights of other names, shapes or dtypes than it was given"
    return "" if np.isfinite(history.losses).all() and len(history.losses) else "a loss is missing or not finite"


def _infer(backend: Any) -> str:
    data, config, weights = _data()
    patches = backend.infer(data, weights, problems.inference(2))
    shape = (data.groups.n_groups, data.groups.n_channels, config.model.N, config.model.N)
    if patches.shape != shape or patches.dtype != np.complex64:
        return f"infer() gives {patches.dtype} {patches.shape}, not complex64 {shape}"
    return "" if np.isfinite(patches).all() else "infer() gives values that are not finite"


def _trace(backend: Any) -> str:
    case = "gridsize 2"
    batch, weights, good = problems.inputs_of(problems.CASES[case], "float32")
    taps = backend.build(problems.CASES[case].config, weights, good, "float32").trace(batch)
    if missing := [tap for tap in refereed(case) if tap not in taps]:
        return f"trace() has no {', '.join(missing)}"
    missing = [name for name in weights if f"gradient/{name}" not in taps]
    return f"trace() has no gradient of {', '.join(missing)}" if missing else ""


def _round_trip(backend: Any) -> str:
    batch, weights, good = problems.inputs_of(problems.CASES["gridsize 2"], "float32")
    network = backend.build(problems.CASES["gridsize 2"].config, weights, good, "float32")
    if weights_sha256(network.get_weights()) != weights_sha256(weights):
        return "get_weights() gives others than build() was given"
    network.train_step(batch, 1e-3)
    moved = weights_sha256(network.get_weights())
    network.reset(weights)
    if weights_sha256(network.get_weights()) != weights_sha256(weights):
        return "reset() does not start over"
    network.train_step(batch, 1e-3)
    return "" if weights_sha256(network.get_weights()) == moved else "the same step twice gives other weights"


def _workflow(backend: Any) -> str:
    config = problems.workflow_training()
    with tempfile.TemporaryDirectory(prefix="ptyint-contract-") as name:
        folder = Path(name)
        path = folder / "scan.npz"
        write_scan(load_fixture(problems.FIXTURE), path)
        if not backend.initial_weights(config):
            return "initial_weights() gives none"
        held = backend.configure(config)
        if held.get("N") != config.model.N or held.get("gridsize") != config.model.gridsize:
            return (
                f"configure() holds N {held.get('N')!r} and gridsize {held.get('gridsize')!r}, not those it was given"
            )
        ran = backend.run(path, config, folder)
        if missing := [key for key in WORKFLOW_ARRAYS if key not in ran]:
            return f"run() gives no {', '.join(missing)}"
        again = backend.reload(path, config, folder)
        missing = [key for key in ("patches", "stitched") if key not in again]
        return f"reload() gives no {', '.join(missing)}" if missing else ""


FACTS: dict[str, dict[str, Callable[[Any], str]]] = {
    "operators": {"known, with the referee's shapes and dtypes": _operators},
    "weights": {"trains from given weights and leaves them alone": _train, "infers from given weights": _infer},
    "trace": {"gives every tap and gradient": _trace, "weights go in and out, a step is repeatable": _round_trip},
    "workflow": {"configures, trains, saves, loads, infers, stitches": _workflow},
}
"""Capability to what is tried of it."""
