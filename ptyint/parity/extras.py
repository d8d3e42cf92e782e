"""Operators that only some backends expose one by one, with their operands and their referee; and short workflows.

Together with :func:`ptyint.parity.problems.operands` this is what a backend may offer. A backend may also offer a
variant, the same operator under another of its settings: its name then ends in it, ``translate [setting=value]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ptyint.backends import numpy as operators
from ptyint.backends.protocol import OPERATORS
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.parity import problems

Operands = dict[str, tuple[str, tuple[Any, ...]]]

REQUIRED = ("normalise_probe", *OPERATORS)
"""Operators of the model: a pair that lacks one of them cannot pass rung 1."""


def operands(seed: int = 0) -> Operands:
    """Arguments of these operators, as :func:`ptyint.parity.problems.operands` has them."""
    rng = np.random.default_rng(16 + seed)

    def field(*shape: int) -> NDArray[np.complex128]:
        return np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    def offsets(largest: float, n: int = 5) -> NDArray[np.float64]:
        found = rng.uniform(-largest, largest, (n, 4, 2))
        found -= found.mean(axis=1, keepdims=True)
        return np.asarray(found * largest / np.abs(found).max())

    positions = rng.uniform((-14, -20), (14, 20), (30, 2))
    image = field(128, 128)
    patches = operators.translate(np.broadcast_to(image, (30, 128, 128)), -positions, 64)
    return {
        "diffract, one mode": ("diffract", (field(2, 4, 1, 64, 64),)),
        "diffract, two modes": ("diffract", (field(2, 1, 2, 64, 64),)),
        "canvas_size, gridsize 2, offsets of 7 px": ("canvas_size", (64, offsets(7.0))),
        "patch_of_group, offsets of 2 px": ("patch_of_group", (field(5, 4, 64, 64), offsets(2.0))),
        "patch_of_group, offsets of 5 px": ("patch_of_group", (field(5, 4, 64, 64), offsets(5.0))),
        "stitch, patches of one image": ("stitch", (patches, positions, 20, 64)),
    }


MERGE = "merge_patches"


def merges(seed: int = 0) -> Operands:
    """Merges of :func:`ptyint.parity.problems.operands` at offsets from the mean of their group.

    There the groups have means of their own, which a backend may take off again.
    """
    given = {label: arguments for label, (name, arguments) in problems.operands(seed).items() if name == MERGE}
    return {
        f"{label}, from the mean": (MERGE, (patches, offsets - offsets.mean(axis=1, keepdims=True), n_canvas))
        for label, (patches, offsets, n_canvas) in given.items()
    }


def everything(seed: int = 0) -> Operands:
    """Operands for backends of all kinds."""
    found = {label: one for label, one in problems.operands(seed).items() if one[0] != MERGE}
    return found | merges(seed) | operands(seed)


def base_name(name: str) -> str:
    """Operator of which `name` may be a variant."""
    return name.partition(" [")[0]


def labels(name: str, given: Mapping[str, tuple[str, tuple[Any, ...]]]) -> dict[str, str]:
    """Key under which an operator or variant is measured, to the label of its operands."""
    base = base_name(name)
    return {name + label.removeprefix(base): label for label, (one, _) in given.items() if one == base}


def expected_kind(array: NDArray[Any], precision: str) -> np.dtype[Any]:
    """Dtype of an operator's result at a precision, given the referee's."""
    wide: DTypeLike = np.result_type(precision, np.complex64) if np.iscomplexobj(array) else np.dtype(precision)
    return np.dtype(wide)


def workflow_training(gridsize: int = 2, seed: int = 0) -> TrainingConfig:
    """A training of one epoch on the tiny fixture, for backends that train by functions of their own."""
    model = ModelConfig(n_filters_scale=1, gridsize=gridsize)
    return TrainingConfig(model=model, nepochs=1, batch_size=4, seed=4 + seed, n_groups=16)
