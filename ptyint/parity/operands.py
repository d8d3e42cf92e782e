"""Operands of every operator, given to both sides and to the referee. All of it is made in NumPy.

A backend may offer other operators than the model's, which only some expose one by one, and variants: the same operator
under another of its settings, whose name then ends in it, ``translate [setting=value]``.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.backends import protocol
from ptyint.backends.numpy import OPERATORS, translate

Operands = dict[tuple[str, str], tuple[Any, ...]]
"""Operator and name of the operand, to the operator's arguments."""

REQUIRED = ("normalise_probe", *protocol.OPERATORS)
"""Operators of the model: a pair that lacks one of them cannot pass rung 1."""

MERGE = "merge_patches"


def of_the_model(seed: int = 0) -> Operands:
    """Arguments of every operator of the model, in double precision.

    Random values, single impulses (which show where an operator puts what), and the edges of what can come: zero
    counts, offsets of whole and half pixels and beyond the region, saturated activations.
    """
    rng = np.random.default_rng(6 + seed)

    def real(*shape: int) -> NDArray[np.float64]:
        return rng.normal(size=shape)

    def field(*shape: int) -> NDArray[np.complex128]:
        return real(*shape) + 1j * real(*shape)

    def impulse(*shape: int, at: tuple[int, int]) -> NDArray[np.complex128]:
        array = np.zeros(shape, np.complex128)
        array[..., at[0], at[1]] = 1 + 0.5j
        return array

    wide = np.concatenate(
        [np.linspace(-6, 6, 55), np.linspace(19, 37, 19), [0.0, -0.0, 40.0, -40.0, 1e-6, -1e-6, 0.5, -0.5, 90.0]]
    )
    offsets = {
        "small": rng.uniform(-6, 6, (3, 4, 2)),
        "large": rng.uniform(-31, 31, (3, 4, 2)),
        "whole": rng.integers(-9, 10, (3, 4, 2)).astype(np.float64),
        "half": rng.integers(-9, 9, (3, 4, 2)) + 0.5,
    }
    far = rng.uniform(-100, 100, (3, 4, 2))
    barely = np.array([[[2.0005, -4.006]], [[0.006, 3.02]], [[-1.0005, -5.2]]])
    canvas = {"small": 76, "large": 126, "whole": 82, "half": 82}
    patches, corner = field(3, 4, 64, 64), impulse(3, 4, 64, 64, at=(0, 63))
    region, wave = field(3, 80, 80), field(2, 4, 3, 64, 64)
    counts, expected = rng.poisson(7, (3, 4, 64, 64)).astype(float), rng.uniform(0, 14, (3, 4, 64, 64))
    good, every = (rng.random((64, 64)) > 0.2).astype(float), np.ones((64, 64))
    return {
        ("normalise_probe", "one mode"): (field(1, 64, 64), 4.0),
        ("normalise_probe", "three modes"): (7e3 * field(3, 64, 64), 1.5),
        ("probe_mask", "N 64"): (64,),
        ("probe_mask", "N 128"): (128,),
        ("downsample", "random"): (real(2, 3, 16, 16),),
        ("downsample", "negative"): (-1 - abs(real(2, 3, 8, 8)),),
        ("upsample", "random"): (real(2, 3, 8, 8),),
        ("upsample", "impulse"): (impulse(1, 1, 8, 8, at=(7, 0)).real,),
        **{(name, "-40 to 90"): (wide,) for name in ("sigmoid", "swish", "softplus", "relu", "phase_head")},
        ("pad_patch", "random"): (real(2, 4, 32, 32),),
        ("pad_patch", "gridsize 1"): (real(2, 1, 64, 64),),
        ("translate", "random"): (real(6, 64, 64), rng.uniform(-6, 6, (6, 2)), 76),
        ("translate", "impulse"): (impulse(4, 64, 64, at=(32, 20)).real, rng.uniform(-3, 3, (4, 2)), 70),
        ("translate", "to a smaller frame"): (real(2, 80, 80), rng.uniform(-20, 20, (2, 2)), 64),
        **{("merge_patches", f"{size} offsets"): (patches, offsets[size], canvas[size]) for size in offsets},
        ("merge_patches", "impulse"): (corner, offsets["small"], 76),
        ("merge_patches", "barely covered rim"): (patches[:, :1], barely, 82),
        ("merge_patches", "one patch"): (patches[:, :1], offsets["small"][:, :1], 76),
        ("cut_patches", "small offsets"): (region, offsets["small"], 64),
        ("cut_patches", "whole offsets"): (region, offsets["whole"], 64),
        ("cut_patches", "beyond the region"): (region, far, 64),
        ("cut_patches", "impulse"): (impulse(3, 80, 80, at=(40, 31)), offsets["small"], 64),
        ("illuminate", "three modes"): (field(3, 64, 64), patches),
        ("illuminate", "gridsize 1"): (field(1, 64, 64), patches[:, :1]),
        ("propagate", "random"): (wave,),
        ("propagate", "impulse at the centre"): (impulse(1, 1, 1, 64, 64, at=(32, 32)),),
        ("propagate", "impulse off the centre"): (impulse(1, 1, 1, 64, 64, at=(30, 41)),),
        ("propagate", "N 128"): (field(1, 1, 1, 128, 128),),
        ("expected_intensity", "three modes"): (wave, np.float64(1.7)),
        ("expected_intensity", "dark"): (1e-9 * wave[:, :, :1], np.float64(-2.0)),
        ("poisson_nll", "random"): (counts, expected, every),
        ("poisson_nll", "bad pixels"): (counts, expected, good),
        ("poisson_nll", "no counts"): (0 * counts, expected, every),
        ("poisson_nll", "nothing expected"): (counts, 0 * expected, every),
        ("poisson_nll", "bright"): (1e6 * counts, 1e6 * expected, every),
        ("merge_patches", "many groups"): (field(20, 4, 64, 64), rng.uniform(-6, 6, (20, 4, 2)), 78),
    }


def of_others(seed: int = 0) -> Operands:
    """Arguments of the operators that only some backends expose."""
    rng = np.random.default_rng(16 + seed)

    def field(*shape: int) -> NDArray[np.complex128]:
        return np.asarray(rng.normal(size=shape) + 1j * rng.normal(size=shape))

    def offsets(largest: float) -> NDArray[np.float64]:
        drawn = rng.uniform(-largest, largest, (5, 4, 2))
        drawn -= drawn.mean(axis=1, keepdims=True)
        return np.asarray(drawn * largest / np.abs(drawn).max())

    positions = rng.uniform((-14, -20), (14, 20), (30, 2))
    patches = translate(np.broadcast_to(field(128, 128), (30, 128, 128)), -positions, 64)
    return {
        ("diffract", "one mode"): (field(2, 4, 1, 64, 64),),
        ("diffract", "two modes"): (field(2, 1, 2, 64, 64),),
        ("canvas_size", "gridsize 2, offsets of 7 px"): (64, offsets(7.0)),
        ("patch_of_group", "offsets of 2 px"): (field(5, 4, 64, 64), offsets(2.0)),
        ("patch_of_group", "offsets of 5 px"): (field(5, 4, 64, 64), offsets(5.0)),
        ("stitch", "patches of one image"): (patches, positions, 20, 64),
    }


def centred_merges(seed: int = 0) -> Operands:
    """The merges of :func:`of_the_model`, whose groups have means of their own, at offsets from the mean.

    A backend that is not built in may take the mean off. The last, patches that are empty around their middle, are
    merged alike whatever weight a border has.
    """
    merges = {name: given for (operator, name), given in of_the_model(seed).items() if operator == MERGE}
    centred = {
        (MERGE, f"{name}, from the mean"): (patches, offsets - offsets.mean(axis=1, keepdims=True), n_canvas)
        for name, (patches, offsets, n_canvas) in merges.items()
    }
    patches, whole, _ = merges["whole offsets"]
    whole = np.append(whole[:, :-1], -whole[:, :-1].sum(axis=1, keepdims=True), axis=1)
    middles = np.pad(patches[..., 16:48, 16:48], [(0, 0), (0, 0), (16, 16), (16, 16)])
    return centred | {(MERGE, "middles alone"): (middles, whole, 128)}


def everything(seed: int = 0) -> Operands:
    """Operands for backends of all kinds."""
    given = {key: arguments for key, arguments in of_the_model(seed).items() if key[0] != MERGE}
    return given | centred_merges(seed) | of_others(seed)


def base_name(name: str) -> str:
    """Operator of which `name` may be a variant."""
    return name.partition(" [")[0]


def named(name: str, given: Iterable[tuple[str, str]]) -> list[str]:
    """Names of the operands that an operator, or a variant of it, is measured on."""
    return [operand for operator, operand in given if operator == base_name(name)]


def expected_kind(array: NDArray[Any], precision: str) -> np.dtype[Any]:
    """Dtype of an operator's result at a precision, given the referee's."""
    return np.dtype(np.result_type(precision, np.complex64) if np.iscomplexobj(array) else precision)


def expected(given: Operands) -> dict[tuple[str, str], NDArray[Any]]:
    """What the referee makes of operands."""
    return {key: np.asarray(OPERATORS[key[0]](*arguments)) for key, arguments in given.items()}
