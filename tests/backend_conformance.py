"""Does a backend keep the contract that it declares? ``ptyint check-backend NAME`` runs this, by its `conformance`.

Names, shapes, dtypes, and what must not change; whether the values are right is for the parity ladder to say. A test's
docstring is what is asked, the words of its assertion are what is wrong. A test that takes a capability in place of
``backend`` is for those that declare it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.backends import numpy_network
from ptyint.backends.protocol import CAPABILITIES, methods
from ptyint.backends.weights import Weights, initial_weights, weights_sha256
from ptyint.parity import operands, problems
from ptyint.parity.configurations import CASES, FIXTURE, TRAININGS, inputs_of
from ptyint.scans.batches import Batch, GroupedScan
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture

CASE = CASES["gridsize 2"]
TRAINING = TRAININGS["gridsize 2"].plain


def declaring(capability: str) -> Callable[..., Any]:
    @pytest.fixture(name=capability)
    def declared(backend: Any) -> Any:
        if capability not in getattr(backend, "capabilities", ()):
            pytest.skip("not declared")
        return backend

    return declared


operators, weights, trace, workflow = map(declaring, CAPABILITIES)


def assert_holds(what: str, arrays: Mapping[str, Any], names: Iterable[str]) -> None:
    missing = [name for name in names if name not in arrays]
    assert not missing, f"{what} has no {', '.join(missing)}"


# What it declares


def test_name(backend: Any, registered: str) -> None:
    """it is called what it is registered as"""
    assert backend.name == registered, f"it calls itself {backend.name!r}, and is registered as {registered!r}"


def test_capabilities(backend: Any) -> None:
    """what it declares is known"""
    known = backend.capabilities and not set(backend.capabilities) - CAPABILITIES.keys()
    assert known, f"capabilities are {sorted(backend.capabilities)}; must be one or more of {list(CAPABILITIES)}"
    for name in sorted(backend.capabilities):
        served = isinstance(backend, CAPABILITIES[name])
        assert served, f"capabilities has {name!r}, which needs {', '.join(methods(name))}; it lacks some"
    known = backend.precisions and not set(backend.precisions) - {"float32", "float64"}
    assert known, f"precisions are {backend.precisions}; must be 'float32', 'float64' or both"
    unknown = set(backend.frameworks) - {"tensorflow", "torch"}
    assert not unknown, f"frameworks has {sorted(unknown)}; must be of 'tensorflow', 'torch'"


def test_describe(backend: Any) -> None:
    """it describes itself in plain values"""
    assert_holds("describe()", json.loads(json.dumps(backend.describe())), ("backend", "version"))


# What it does: small arrays, in the order of `CAPABILITIES`


def test_operators(operators: Any) -> None:
    """operators: known, with the referee's shapes and dtypes"""
    given = operands.everything()
    expected = operands.expected(given)
    known = {operator for operator, _ in given}
    wrong = []
    for precision in operators.precisions:
        offered = operators.operators(precision)
        unknown = {operands.base_name(name) for name in offered} - known
        assert not unknown, f"unknown operators {sorted(unknown)}; must be of {sorted(known)}"
        for name, operator in offered.items():
            keys = [(operands.base_name(name), operand) for operand in operands.named(name, given)]
            wrong.append(first_served(name, operator, {key: given[key] for key in keys}, expected, precision))
    wrong = [words for words in wrong if words]
    assert not wrong, "; ".join(wrong)


def first_served(
    name: str, operator: Any, given: operands.Operands, expected: dict[tuple[str, str], Any], precision: str
) -> str:
    """What is wrong with an operator on the first operands that it does not refuse (NotImplementedError)."""
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


def data() -> tuple[GroupedScan, Weights]:
    scan = load_fixture(FIXTURE)
    return GroupedScan.from_config(scan, TRAINING), initial_weights(TRAINING.model, scan.probe, TRAINING.seed)


def test_train(weights: Any) -> None:
    """weights: trains from given weights and leaves them alone"""
    groups, start = data()
    before = weights_sha256(start)
    trained, history = weights.train(groups, TRAINING, start)
    assert weights_sha256(start) == before, "train() changes the weights that it was given"
    kinds = [{name: (w.shape, str(w.dtype)) for name, w in one.items()} for one in (trained, start)]
    assert kinds[0] == kinds[1], "train() gives back weights of other names, shapes or dtypes than it was given"
    assert np.isfinite(history.losses).all() and len(history.losses), "a loss is missing or not finite"


def test_infer(weights: Any) -> None:
    """weights: infers from given weights"""
    groups, start = data()
    patches = weights.infer(groups, start, TRAINING.applied(batch_size=7, n_groups=16))
    shape = (groups.groups.n_groups, groups.groups.n_channels, TRAINING.model.N, TRAINING.model.N)
    right = patches.shape == shape and patches.dtype == np.complex64
    assert right, f"infer() gives {patches.dtype} {patches.shape}, not complex64 {shape}"
    assert np.isfinite(patches).all(), "infer() gives values that are not finite"


def given(backend: Any) -> tuple[Any, Batch, Weights]:
    """A network in the backend's usual precision, its batch, and the weights that it was built from."""
    precision = backend.precisions[0]
    batch, start, good = inputs_of(CASE, precision)
    start = {name: array.astype(precision) for name, array in start.items()}
    return backend.build(CASE.config, start, good, precision), batch, start


def test_trace(trace: Any) -> None:
    """trace: gives every tap and gradient"""
    network, batch, start = given(trace)
    taps = list(numpy_network.forward(start, batch, CASE.config.model))
    if "weights" not in trace.capabilities:  # a network that is watched from outside shows what there is
        taps, start = ["object_patches", "loss"], {name: w for name, w in start.items() if w.ndim == 4}
    assert_holds("trace()", network.trace(batch), [*taps, *(f"gradient/{name}" for name in start)])


def test_round_trip(trace: Any) -> None:
    """trace: weights go in and out, a step is repeatable"""
    network, batch, start = given(trace)
    before = weights_sha256(start)
    assert weights_sha256(network.get_weights()) == before, "get_weights() gives others than build() was given"
    network.train_step(batch, 1e-3)
    moved = weights_sha256(network.get_weights())
    network.reset(start)
    assert weights_sha256(network.get_weights()) == before, "reset() does not start over"
    network.train_step(batch, 1e-3)
    assert weights_sha256(network.get_weights()) == moved, "the same step twice gives other weights"


def test_workflow(workflow: Any, tmp_path: Path) -> None:
    """workflow: configures, trains, saves, loads, infers, stitches"""
    config, scan = problems.workflow_training(), tmp_path / "scan.npz"
    write_scan(load_fixture(FIXTURE), scan)
    assert workflow.initial_weights(config), "initial_weights() gives none"
    held = workflow.configure(config)
    said = f"N {held.get('N')!r} and gridsize {held.get('gridsize')!r}"
    right = (held.get("N"), held.get("gridsize")) == (config.model.N, config.model.gridsize)
    assert right, f"configure() holds {said}, not those it was given"
    inferred = ("patches", "stitched", "centre_px")
    ran = workflow.run(scan, config, tmp_path, M=12)
    assert_holds("run()", ran, (*inferred, "probe", "inputs", "losses"))
    assert np.shape(ran["centre_px"]) == (2,), f"centre_px has the shape {np.shape(ran['centre_px'])}; must be (2,)"
    assert_holds("reload()", workflow.reload(scan, config, tmp_path, M=12), inferred)
