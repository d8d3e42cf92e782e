"""How the arrays of one model become those of the other: names, the axis of channels, the order of flattened pixels."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyint.backends.models.rules import Layer

Turn = Callable[[NDArray[Any]], NDArray[Any]]

ON_THE_LAST = ("dense", "layer normalisation", "attention", "embedding")
ON_CHANNELS = ("convolution", "transposed convolution", "batch normalisation", "group normalisation", "max-pooling")
"""Kinds that say where the channels are, where shapes do not."""


class Link(NamedTuple):
    """A tap or weight of both sides, and how an array of the reference becomes the candidate's, and back."""

    reference: str
    candidate: str
    there: Turn
    back: Turn


def same(array: NDArray[Any]) -> NDArray[Any]:
    """As it is."""
    return array


def channels_second(array: NDArray[Any]) -> NDArray[Any]:
    """Keras' order of axes to PyTorch's."""
    return np.moveaxis(array, -1, 1)


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """PyTorch's order of axes to Keras'."""
    return np.moveaxis(array, 1, -1)


def links(
    names: Mapping[str, str], reference: Mapping[str, Layer], candidate: Mapping[str, Layer], frameworks: Sequence[str]
) -> Iterator[Link]:
    """Every tap and weight that both sides of the pairs have, in the order of the reference's layers.

    What a layer is given is left out where its size differs: one framework pads before the layer, the other in it.
    """
    mixed, first = frameworks[0] != frameworks[1], frameworks[0] == "keras"
    orders = _orders((reference if first else candidate).values()) if mixed else {}
    for name, other in names.items():
        layer = reference[name]
        for tap, shape in layer.taps.items():
            theirs = other + tap.removeprefix(name)
            to = candidate[other].taps.get(theirs)
            if to is None:
                continue
            shapes = (shape, to) if first else (to, shape)
            turns = _turns(*shapes, layer.kind, orders.get(tap if first else theirs)) if mixed else (same, same)
            there, back = turns if first else turns[::-1]
            if not tap.endswith(":in") or there(np.broadcast_to(0, shape)).shape == tuple(to):
                yield Link(tap, theirs, there, back)
        for part in filter(candidate[other].parts.__contains__, layer.parts):
            order = orders.get(f"{name if first else other}.{part}")
            there, back = (same, same) if order is None else _ordered(order, 0)[:: 1 if first else -1]
            yield Link(f"{name}.{part}", f"{other}.{part}", there, back)


def _ordered(order: NDArray[Any], axis: int) -> tuple[Turn, Turn]:
    back = np.argsort(order)
    return (lambda a: np.take(a, order, axis)), (lambda a: np.take(a, back, axis))


def _turns(keras: Sequence[int], torch: Sequence[int], kind: str, order: NDArray[Any] | None) -> tuple[Turn, Turn]:
    """A tap from Keras' layout to PyTorch's, and back."""
    if order is not None:
        return _ordered(order, -1)
    moved = (keras[0], keras[-1], *keras[1:-1]) if len(keras) > 2 else keras
    fits, fits_moved = (list(torch) == list(shape) for shape in (keras, moved))
    by_kind = kind not in ON_THE_LAST if len(keras) > 3 else kind in ON_CHANNELS
    if len(keras) > 2 and (fits_moved if fits != fits_moved else by_kind):
        return channels_second, channels_last
    if not fits and np.prod(keras) == np.prod(torch):  # (B, C) of one pooling is (B, C, 1, 1) of the other
        return (lambda a: a.reshape(torch)), (lambda a: a.reshape(keras))
    return same, same


def _orders(layers: Iterable[Layer]) -> dict[str, NDArray[Any]]:
    """From a flatten to a dense layer: tap or kernel of Keras to where PyTorch, channels first, has its numbers."""
    order: NDArray[Any] | None = None
    found: dict[str, NDArray[Any]] = {}
    for layer in layers:
        given, returned = (layer.taps.get(f"{layer.name}{end}", ()) for end in (":in", ""))
        if layer.kind == "flatten" and len(given) > 3 and len(returned) == 2:
            order = channels_second(np.arange(returned[1]).reshape(1, *given[1:])).ravel()
            given = ()
        elif layer.kind == "dense":
            returned = ()
        for end, shape in ((":in", given), ("", returned)):
            if order is not None and len(shape) == 2 and shape[1] == len(order):
                found[layer.name + end] = order
        if layer.kind == "dense" and layer.name + ":in" in found:
            found[f"{layer.name}.kernel"], order = found[layer.name + ":in"], None
    return found
