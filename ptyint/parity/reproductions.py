"""What the scripts of :mod:`.reproducers` call, for whoever repairs a backend: one thing that it does, shown.

What backends print goes to ``backends.log`` in the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import backends
from ptyint.backends.protocol import Operator
from ptyint.parity import operands, problems
from ptyint.parity.compare import Arrays, difference
from ptyint.parity.configurations import CASES, inputs_of
from ptyint.parity.problems import Network
from ptyint.parity.rungs.forward import variant


@contextmanager
def quiet() -> Iterator[None]:
    """While this is open, what is printed goes to the log."""
    with Path("backends.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _loaded(side: str) -> Any:
    with quiet():
        return backends.load(side)


def operator(side: str, name: str, precision: str = "float32") -> Operator:
    """An operator of a backend, or the one of which it is a variant."""
    offered = _loaded(side).operators(precision)
    called = offered.get(name) or offered[operands.base_name(name)]

    def quietly(*arguments: Any) -> NDArray[Any]:
        with quiet():
            return np.asarray(called(*(one.item() if np.ndim(one) == 0 else one for one in arguments)))

    return quietly


def _built(side: str, network: Network, seed: int) -> tuple[Any, Any]:
    case = CASES[network.case]
    batch, weights, good = inputs_of(case, network.precision, seed)
    return variant(_loaded(side), case).build(case.config, weights, good, network.precision), batch


def traced(side: str, network: str, given: Arrays | None = None, seed: int = 0) -> Arrays:
    """Taps and gradients of a network; given another's trace, what each layer alone makes of the right inputs."""
    with quiet():
        built, batch = _built(side, Network.named(network), seed)
        return dict(built.trace(batch, given))


def moved(side: str, network: str, weights: Sequence[str] = (), seed: int = 0) -> NDArray[Any]:
    """By how much the first step of its own optimiser moves weights, all kernels and biases if none are named."""
    with quiet():
        built, batch = _built(side, Network.named(network), seed)
        before = built.get_weights()
        built.train_step(batch, 1e-3)
        after = built.get_weights()
    names = weights or [name for name in before if name.endswith((".kernel", ".bias"))]
    return np.concatenate([(after[name] - before[name]).ravel() for name in names])


def stage(side: str, what: str, scan: str, gridsize: int, seed: int = 0) -> NDArray[Any]:
    """An array of a short training by a backend's own functions; ``architecture``: sizes of its kernels, sorted."""
    config = problems.workflow_training(gridsize=gridsize, seed=seed)
    with quiet():
        if what == "architecture":
            kernels = _loaded(side).initial_weights(config).values()
            return np.sort([array.size for array in kernels if array.ndim > 1])
        return np.asarray(_loaded(side).run(Path(scan).resolve(), config, Path(f"{side}-out").resolve())[what])


def shown(results: Mapping[str, NDArray[Any]], tolerance: float) -> int:
    """Print two results and their relative difference; 1 while that is beyond the tolerance, else 0."""
    for name, array in results.items():
        largest = np.abs(array).max() if array.size else "nothing"
        print(f"{name + ':':24} {array.dtype} {array.shape}, largest {largest:.6g}")
    kind = np.result_type(*results.values())
    reference, candidate = (array.astype(kind) for array in results.values())
    apart = difference(candidate, reference)
    print(f"{'difference:':24} {apart.mismatch or f'{apart.norm:.3g} relative, {tolerance:.1g} allowed'}")
    return int(not apart.norm <= tolerance)
