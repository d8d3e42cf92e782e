"""Frozen numbers: what the code that both backends share must give, worked out by another program.

Code that is shared cannot be judged by itself. So ``datasets/frozen/make.py``, which imports nothing of this package,
worked out by other means what readers and writers, the data contract, stitch, assembly, gauge, metrics, ring
correlation, comparison, groups, batches, initial weights, forward model, bundle, training loop and dispatcher must
give, and what is made of the canvas of a backend's own workflow. As in a doctest, each fact is an expression and its
value.
"""

import importlib
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint._atomic import shipped
from ptyint.evidence.checks import Check, Criterion
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, compare, error_of
from ptyint.parity.tolerances import Tolerance

KEY = "frozen"
"""The folder, and what the keys of what was measured begin with."""

CRITERION = Criterion("shared code, against frozen numbers: largest error over its tolerance", "<=")
"""For a stage that looks at its own process."""

MODULES = (
    "concurrent.futures", "dataclasses", "h5py", "hashlib", "io", "json", "pathlib", "tempfile", "time", "types",
    "scipy.sparse", "unittest.mock", "zipfile", *(f"ptyint.{name}" for name in ("config", "dispatcher")),
    *(f"ptyint.backends.{name}" for name in ("bundle", "training", "weights")),
    *(f"ptyint.images.{name}" for name in ("comparison", "frc", "gauge", "metrics", "phases", "reconstruction")),
    *(f"ptyint.images.{name}" for name in ("stitch", "workflow")),
    *(f"ptyint.scans.{name}" for name in ("batches", "files", "forward", "groups", "scan", "simulate")),
)  # fmt: skip
"""What expressions may speak of, by the last part of its name."""


@cache
def facts() -> dict[str, Any]:
    """The expressions: ``names``, evaluated first; ``facts`` with tap, case and tolerance; ``tolerances``."""
    return dict(json.loads((shipped("datasets") / KEY / "facts.json").read_text(encoding="utf-8")))


@cache
def _arrays(prefix: str) -> dict[str, NDArray[Any]]:
    with np.load(shipped("datasets") / KEY / "arrays.npz", allow_pickle=False) as file:
        found = {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}
    for array in found.values():
        array.flags.writeable = False  # what one expression changed, the next would be given
    return found


def measured() -> dict[str, NDArray[Any]]:
    """What this process makes of every expression; in place of a value that could not be had, its error's name."""
    known: dict[str, Any] = {name.rpartition(".")[2]: importlib.import_module(name) for name in MODULES}
    with tempfile.TemporaryDirectory(prefix="ptyint-frozen-") as folder:
        known |= {**_arrays("given/"), "np": np, "folder": Path(folder)}
        for name, expression in facts()["names"].items():
            known[name] = _value(expression, known)
        return {f"{KEY}/{i}": np.asarray(_value(one["expression"], known)) for i, one in enumerate(facts()["facts"])}


def _value(expression: str, known: dict[str, Any]) -> Any:
    try:
        return eval(expression, known)  # of this package's own file, as a doctest
    except Exception as error:
        return type(error).__name__


def judge(side: str, arrays: Arrays) -> Iterator[Finding]:
    """What was measured, by an expression each, against what it must be."""
    for number, fact in enumerate(facts()["facts"]):
        key, value = f"{KEY}/{number}", _arrays("expected/")[str(number)]
        where = Place("contract", fact["case"], "float32" if fact["tolerance"] == "single" else "float64", fact["tap"])
        found = arrays[key] if key in arrays else np.asarray(error_of(arrays, key))
        if value.dtype.kind == "U" or found.dtype.kind in "UO":
            yield Finding.fact(where, (side, REFEREE), str(found) == str(value), f"{found}, and not {value}"[:200])
            continue
        kind = np.result_type(found, value, np.int64)
        pair = ({key: found.astype(kind)}, {key: value.astype(kind)})
        yield compare(where, (side, REFEREE), pair, (key, key), Tolerance(**facts()["tolerances"][fact["tolerance"]]))


def check() -> Check:
    """The worst of it in this process, as a check of its own."""
    worst = max(judge("shared code", measured()), key=attrgetter("excess"))
    return CRITERION.measured(worst.ratio, worst.place)
