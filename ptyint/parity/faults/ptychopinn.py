"""Faults put into PtychoPINN's PyTorch modules from outside, of the kinds that a port makes; some of them it had.

Its functions, classes and what these make are replaced in the candidate's process for a while; its files stay as they
are. The table is ``ptychopinn.toml``; what takes more than a line is a function here.
"""

from collections.abc import Callable
from typing import Any

from ptyint.parity.faults import injection
from ptyint.parity.faults.fault import Catalogue, Fault, read
from ptyint.parity.faults.injection import Change, Context, after_init, function, method, torch

HELPER, MODEL = "ptycho_torch.helper", "ptycho_torch.model"


def _helper(name: str, change: Change) -> Context:
    return function(name, change, HELPER)


def _forward(owner: str, change: Change) -> Context:
    return method(owner, "forward", change, MODEL)


def _made(owner: str, change: Callable[[Any], None]) -> Context:
    return after_init(owner, change, MODEL)


def _first(change: Callable[[Any], Any]) -> Change:
    """Of a function that returns several things, the first one changed."""

    def changed(original: Any, *arguments: Any, **keywords: Any) -> Any:
        first, *others = original(*arguments, **keywords)
        return (change(first), *others)

    return changed


def _moved(change: Callable[[Any], Any]) -> Change:
    """Of a function of images and offsets, the offsets changed."""
    return lambda original, images, offsets, *rest, **keywords: original(images, change(offsets), *rest, **keywords)


def _misread(original: Any, self: Any, x: Any) -> Any:
    B, C, N, _ = x.shape
    return original(self, x.reshape(B, N, N, C).permute(0, 3, 1, 2))


def _off_by_one(decoder: Any) -> None:
    n = decoder.N // 4
    decoder.padding = torch().nn.ConstantPad2d((n + 1, n - 1, n, n), 0)


FAULTS = Catalogue("ptychopinn-pytorch", tuple(Fault(**one) for one in read(__file__, vars(injection) | globals())))
"""They are looked for in networks that are equal without a fault. What differs there, such as a merged border, is
passed over, and so are the units of the loss: what is wrong with it shows in the direction of the gradient."""
