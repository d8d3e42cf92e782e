"""How a fault is put in place: something of a module is replaced for a while, at the seam where the real fault sat.

Nothing here imports a framework: a fault does when it is applied. Production modules know nothing of it.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from ptyint.backends.protocol import Tap, untapped

SIDE = "pytorch"
"""The backend that has the fault."""

TORCH = "ptyint.backends.pytorch"

Change = Callable[..., Any]
Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def wrapped(owner: str, name: str, change: Change) -> Iterator[None]:
    """Calls of `name`, of a module or class, go to ``change(original, *arguments)``, which is also its source."""
    target = pkgutil.resolve_name(owner)
    original = getattr(target, name)

    @functools.wraps(change)
    def changed(*arguments: Any, **keywords: Any) -> Any:
        return change(original, *arguments, **keywords)

    static = isinstance(inspect.getattr_static(target, name), staticmethod)
    with patch.object(target, name, staticmethod(changed) if static else changed):
        yield


def constant(path: str, value: Any) -> Context:
    """A fault in something that is not called, by its dotted name."""
    return lambda: patch(path, value)


def function(name: str, change: Change, module: str = TORCH) -> Context:
    """A fault in a function of a module."""
    return functools.partial(wrapped, module, name, change)


def method(owner: str, name: str, change: Change, module: str = TORCH) -> Context:
    """A fault in a method of a class of a module."""
    return functools.partial(wrapped, f"{module}.{owner}", name, change)


def at_tap(name: str, change: Callable[[Any], Any]) -> Context:
    """A fault in whatever makes the tensor `name` of the network."""

    def changed(tap: Tap[Any], at: str, tensor: Any, channels_last: bool = False) -> Any:
        return tap(at, change(tensor) if at == name else tensor, channels_last)

    def watched(original: Any, self: Any, inputs: Any, offsets: Any, n_canvas: int, tap: Tap[Any] = untapped) -> Any:
        again = isinstance(tap, functools.partial) and tap.func is changed  # one of the two seams calls the other
        return original(self, inputs, offsets, n_canvas, tap if again else functools.partial(changed, tap))

    seams = [method("PtychoNet", name, watched) for name in ("forward", "object_patches")]
    return lambda: together(*seams)


@contextmanager
def together(*contexts: Context) -> Iterator[None]:
    """Several changes that make one fault."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        yield


def after_init(owner: str, change: Callable[[Any], None], module: str = TORCH) -> Context:
    """A fault in how an object of a module is made."""

    @functools.wraps(change)
    def initialised(original: Any, self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        change(self)

    return method(owner, "__init__", initialised, module)


def torch() -> Any:
    """The framework, imported when a fault needs it."""
    return importlib.import_module("torch")
