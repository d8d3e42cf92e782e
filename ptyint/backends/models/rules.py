"""What kind of layer a class is, how its weights lie in Keras and in PyTorch, and which layer belongs to which.

Canonical weights are as Keras has them: a ``kernel`` is (..., in, out), a normalisation has ``gamma``, ``beta``,
``moving_mean`` and ``moving_variance``. No framework is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.errors import ComparisonError, did_you_mean

Parts = dict[str, NDArray[Any]]

KINDS = {
    "attention": r"Multi[Hh]eadAttention",
    "convolution": r"Conv\d[Dd]",
    "depthwise convolution": r"DepthwiseConv\dD",
    "transposed convolution": r"Conv\dDTranspose|ConvTranspose\dd",
    "dense": r"Dense|Linear",
    "batch normalisation": r"BatchNormalization|(Sync)?BatchNorm(\dd)?",
    "layer normalisation": r"LayerNorm(alization)?",
    "group normalisation": r"GroupNorm(alization)?",
    "embedding": r"Embedding",
    "max-pooling": r"(Global|Adaptive)?MaxPool(ing)?\d[Dd]",
    "mean pooling": r"(Global|Adaptive)?(Average|Avg)Pool(ing)?\d[Dd]",
    "up-sampling": r"UpSampling\dD|Resizing|Upsample|Upsampling(Nearest|Bilinear)2d",
    "padding": r"ZeroPadding\dD|(Zero|Constant)Pad\dd",
    "dropout": r"\w*Dropout(\d[Dd])?",
    "flatten": r"Flatten|Reshape",
    "activation": r"Activation|\w*ReLU6?|\w*ELU|SiLU|Swish|Mish|\w*[Ss]igmoid|\w*[Tt]anh|\w*Softmax|Soft(plus|sign)",
}
"""Kind to the names of its classes, in both frameworks."""

KERNELS = ("convolution", "depthwise convolution", "transposed convolution", "dense")
PROJECTIONS, PACKED = ("query", "key", "value"), {"in_proj_weight": "weight", "in_proj_bias": "bias"}
"""Of an attention: PyTorch packs those of the first into those of the second."""


@dataclass(frozen=True)
class Layer:
    """One layer of a model, or the activation that a layer of Keras ends with.

    Attributes
    ----------
    name, kind : str
        Its path in the model; one of `KINDS`, else the name of its class.
    parts : dict of str to sequence of int
        Canonical weights and their shapes.
    taps : dict of str to sequence of int
        What is seen of it and its shape: ``name:in`` and ``name``, where it is called again ``name #2:in``, ...
    rate : float, optional
        Of a dropout.
    """

    name: str
    kind: str
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    taps: Mapping[str, Sequence[int]] = field(default_factory=dict)
    rate: float | None = None

    @property
    def about(self) -> str:
        """Kind and weights, in words."""
        return ", ".join([self.kind, *(f"{part} {tuple(shape)}" for part, shape in self.parts.items())])

    def unlike(self, other: Layer) -> str:
        """Why the weights of the two cannot be the same, in words; empty where they can."""
        if self.kind != other.kind and (not self.parts or {self.kind, other.kind} & KINDS.keys()):
            return f"{self.kind}, not {other.kind}"
        both = [part for part in self.parts if part in other.parts]
        if not both and (self.parts or other.parts) and not self.kind.endswith("normalisation"):
            return "weights on one side alone"
        apart = [part for part in both if tuple(self.parts[part]) != tuple(other.parts[part])]
        return ", ".join(f"{part} {tuple(self.parts[part])}, not {tuple(other.parts[part])}" for part in apart)


def numbered(kind: str, variables: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Variables by their own names; where no rule is known for the kind, by their order."""
    if kind in (*KERNELS, "attention", "embedding") or kind.endswith("normalisation"):
        return dict(variables)
    return {f"weight {number}": variable for number, (_, variable) in enumerate(variables, 1)}


def kind_of(cls: type) -> str:
    """The kind of a layer's class or of its nearest base that has one; else the name of the class."""
    kinds = (kind for one in cls.__mro__ for kind, names in KINDS.items() if re.fullmatch(names, one.__name__))
    return next(kinds, cls.__name__)


# --- weights ---


def canonical(kind: str, arrays: Parts) -> Parts:
    """The weights of one layer as Keras has them, from either framework's under its own names."""
    own = _unpacked(arrays)
    return {part: _turned(kind, name, own[name]) for name, part in _names(kind, own).items()}


def native(kind: str, parts: Parts, like: Parts) -> Parts:
    """Canonical weights under the names and in the shapes of `like`; what `parts` lacks is as it is there."""
    own = _unpacked(like)
    for name, part in _names(kind, own).items():
        if part in parts:
            own[name] = _turned(kind, name, parts[part], back=True).reshape(own[name].shape)
    stacked = {name: [f"{one}/{kind}" for one in PROJECTIONS] for name, kind in PACKED.items()}
    return {
        name: np.concatenate([own[one] for one in stacked[name]]) if name in PACKED else own[_unstacked(name)]
        for name in like
    }


def _unpacked(arrays: Parts) -> Parts:
    """The same with the projections of PyTorch's attention each by itself, under Keras' names."""
    own: Parts = {}
    for name, array in arrays.items():
        if name in PACKED:
            split = zip(PROJECTIONS, np.split(array, len(PROJECTIONS)), strict=True)
            own |= {f"{one}/{PACKED[name]}": part for one, part in split}
        else:
            own[_unstacked(name)] = array
    return own


def _unstacked(name: str) -> str:
    return name.replace("out_proj.", "attention_output/")


def _names(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Own name to canonical part; of kinds without a rule they are the same."""
    if kind.endswith("normalisation"):
        table = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    elif kind == "embedding":
        table = {"weight": "embeddings"}
    elif kind in (*KERNELS, "attention"):
        return {name: name.replace("weight", "kernel") for name in names}
    else:
        table = {}
    return {name: table.get(name, name) for name in names}


def _turned(kind: str, name: str, array: NDArray[Any], back: bool = False) -> NDArray[Any]:
    """A kernel of PyTorch, (out, in, ...), as (..., in, out), or back; Keras' that have an axis more without it."""
    n = array.ndim
    if name.endswith("weight") and kind in (*KERNELS, "attention"):
        return array.transpose((n - 1, n - 2, *range(n - 2)) if back else (*range(2, n), 1, 0))
    if kind == "depthwise convolution" and name == "kernel":
        return array.reshape(*array.shape[:-2], 1, -1)
    if kind == "attention" and not back:  # Keras' projections have an axis of heads
        return array.reshape(
            *((-1, array.shape[-1]) if "output/kernel" in name else (*array.shape[: "kernel" in name], -1))
        )
    return array


# --- names ---


def propose(theirs: Mapping[str, Layer], ours: Mapping[str, Layer], given: Mapping[str, str | None]) -> dict[str, str]:
    """Layer of the reference to layer of the candidate: as `given`, then by order, kind and shapes of the weights.

    Parameters
    ----------
    theirs, ours : dict of str to Layer
        The reference's and the candidate's, in the order in which they are first called.
    given : dict of str to str or None
        What is known beforehand; None: a layer, of either side, that has no counterpart.

    Raises
    ------
    ComparisonError
        A name that no layer has, weights that do not fit, or layers with weights that find no counterpart.
    """
    pairs = {a: b for a, b in given.items() if b is not None}
    for name in [*(name for name in given if given[name] is None), *pairs, *pairs.values()]:
        known = {**theirs, **ours} if given.get(name, "") is None else theirs if name in pairs else ours
        if name not in known:
            raise ComparisonError(f"names: no layer is named {name!r}.{did_you_mean(name, known)}")
    for a, b in pairs.items():
        if why := theirs[a].unlike(ours[b]):
            raise ComparisonError(f"names: {a!r} does not fit {b!r}: {why}.")
    left = [
        [one for one in side if one.name not in (*given, *pairs.values())] for side in (theirs.values(), ours.values())
    ]
    pairs |= _in_order(*left)
    for layer in left[0]:  # what is called in another order
        if layer.parts and layer.name not in pairs:
            fitting = (one for one in left[1] if one.name not in pairs.values() and not layer.unlike(one))
            if (found := next(fitting, None)) is not None:
                pairs[layer.name] = found.name
    alone = [[one for one in side if one.parts and one.name not in (*pairs, *pairs.values())] for side in left]
    if any(alone):
        sides = (f"{side}: {'; '.join(f'{one.name!r} ({one.about})' for one in some) or 'none'}"
                 for side, some in zip(("reference", "candidate"), alone, strict=True))  # fmt: skip
        example = [names[0].name if names else "layer" for names in alone]
        raise ComparisonError(
            f"Layers with weights that have no counterpart. {'. '.join(sides)}. Say which belong together, "
            f"names={{{example[0]!r}: {example[1]!r}}}, or leave one out, names={{{example[0]!r}: None}}."
        )
    return {name: pairs[name] for name in theirs if name in pairs}


def _in_order(reference: Sequence[Layer], candidate: Sequence[Layer]) -> dict[str, str]:
    """The pairs, none crossing another, in which most weights fit, and then most layers."""
    fits = [
        [0 if a.unlike(b) else 1 + 1000 * len(a.parts.keys() & b.parts.keys()) for b in candidate] for a in reference
    ]
    best = np.zeros((len(reference) + 1, len(candidate) + 1), int)
    for i in reversed(range(len(reference))):
        for j in reversed(range(len(candidate))):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], fits[i][j] and fits[i][j] + best[i + 1, j + 1])
    pairs, i, j = {}, 0, 0
    while i < len(reference) and j < len(candidate):
        if fits[i][j] and best[i, j] == fits[i][j] + best[i + 1, j + 1]:
            pairs[reference[i].name] = candidate[j].name
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return pairs
