"""Frozen numbers: what the code that both backends share must give, worked out by another program.

Code that is shared cannot be judged by itself. So ``datasets/frozen/make.py``, which imports nothing of this package,
worked out by other means what stitch, gauge, metrics, ring correlation, groups, batches, initial weights, forward
model, bundle and training loop must give. As in a doctest, each fact is an expression and its value.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import tempfile
import types
import zipfile
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyint._atomic import shipped
from ptyint.evidence.checks import Check, Criterion
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, compare, error_of
from ptyint.parity.tolerances import Tolerance

KEY = "frozen"
"""The folder, and what the keys of what was measured begin with."""

MODULES = (
    "backends.bundle", "backends.training", "backends.weights", "config", "images.frc", "images.gauge",
    "images.metrics", "images.stitch", "scans.batches", "scans.forward", "scans.groups", "scans.scan", "scans.simulate",
)  # fmt: skip
"""Of this package, by the last part of their names in expressions."""


@cache
def facts() -> dict[str, Any]:
    """The expressions: ``names``, evaluated first; ``facts`` with tap, case and tolerance; ``tolerances``."""
    return dict(json.loads((shipped("datasets") / KEY / "facts.json").read_text(encoding="utf-8")))


def taps() -> tuple[str, ...]:
    """What is looked at, in the order in which data flow."""
    return tuple(dict.fromkeys(fact["tap"] for fact in facts()["facts"]))


@cache
def _arrays(prefix: str) -> dict[str, NDArray[Any]]:
    with np.load(shipped("datasets") / KEY / "arrays.npz", allow_pickle=False) as file:
        found = {name.removeprefix(prefix): file[name] for name in file if name.startswith(prefix)}
    for array in found.values():
        array.flags.writeable = False  # what one expression changed, the next would be given
    return found


def projected(array: ArrayLike) -> NDArray[Any]:
    """Three numbers for a large array: its sum, and its sums against a cosine and a sine of the index."""
    flat = np.asarray(array).ravel()
    n = np.arange(flat.size)
    return np.array([flat.sum(), (flat * np.cos(n)).sum(), (flat * np.sin(3 * n)).sum()])


def measured() -> dict[str, NDArray[Any]]:
    """What this process makes of every expression; in place of a value that could not be had, its error's name."""
    given = _arrays("given/")
    known: dict[str, Any] = {name.rpartition(".")[2]: importlib.import_module(f"ptyint.{name}") for name in MODULES}
    known |= dict(np=np, io=io, json=json, types=types, zipfile=zipfile, h5py=h5py, hashlib=hashlib, mock=mock)
    with tempfile.TemporaryDirectory(prefix="ptyint-frozen-") as name:
        folder = Path(name)

        def file(content: NDArray[np.uint8], called: str = "file") -> Path:
            path = Path(tempfile.mkdtemp(dir=folder)) / called
            path.write_bytes(content.tobytes())
            return path

        known |= {**given, "given": given, "projected": projected, "folder": folder, "file": file}
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
    tolerances = {name: Tolerance(**one) for name, one in facts()["tolerances"].items()}
    expected = _arrays("expected/")
    for number, fact in enumerate(facts()["facts"]):
        key, value, tap = f"{KEY}/{number}", expected[str(number)], fact["tap"]
        where = Place("contract", fact["case"], tap=tap)
        found = arrays.get(key, np.asarray(error_of(arrays, key)))
        if value.dtype.kind == "U" or found.dtype.kind in "UO":
            yield Finding.fact(where, (side, REFEREE), str(found) == str(value), f"{found}, and not {value}"[:200])
            continue
        where = where._replace(precision="float32" if fact["tolerance"] == "single" else "float64")
        kind = np.result_type(found, value, np.int64)
        pair = ({key: found.astype(kind)}, {key: value.astype(kind)})
        yield compare(where, (side, REFEREE), pair, (key, key), tolerances[fact["tolerance"]])


def criteria() -> tuple[Criterion, ...]:
    """One for each tap, for a stage that looks at the shared code of its own process."""
    return tuple(Criterion(f"shared code against frozen numbers: {tap}, error over tolerance", "<=") for tap in taps())


def checks() -> list[Check]:
    """What comes of :func:`criteria` in this process."""
    rows = list(judge("shared code", measured()))
    largest = [max((row for row in rows if row.tap == tap), key=attrgetter("excess")) for tap in taps()]
    return [
        one.measured(row.ratio, f"{row.case}: {row.note}" if row.red else "")
        for one, row in zip(criteria(), largest, strict=True)
    ]
