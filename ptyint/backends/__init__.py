"""The table of backends, name -> module, and those that other packages bring along (``docs/backends.md``).

A framework is imported only when its backend is loaded.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

from ptyint.errors import BackendUnavailableError, UnknownBackendError, did_you_mean

if TYPE_CHECKING:
    from ptyint.backends.protocol import Backend

BUILT_IN = ("pytorch", "tensorflow")
"""The pair that this package is about."""

UPSTREAM = ("ptychopinn-tensorflow", "ptychopinn-pytorch")
"""PtychoPINN's own pair, whose networks are watched from outside."""

MODULES = {
    "numpy": "ptyint.backends.numpy_network",
    "ptychopinn-pytorch": "ptyint.backends.ptychopinn.pytorch",
    "ptychopinn-tensorflow": "ptyint.backends.ptychopinn.tensorflow",
    "pytorch": "ptyint.backends.pytorch",
    "tensorflow": "ptyint.backends.tensorflow",
}
"""Each module offers ``BACKEND``, an object that follows :class:`ptyint.backends.protocol.Backend`."""

GROUP = "ptyint.backends"
"""Entry-point group: name of a backend to ``module`` (with a ``BACKEND``) or ``module:object``. The table's names stay
the table's."""

_CHECKOUT = "pip install -e CHECKOUT`, of a checkout of https://github.com/hoidn/PtychoPINN; see `docs/backends.md"

ABOUT = {
    "numpy": ("NumPy", "numpy", "pip install numpy"),
    "ptychopinn-pytorch": ("PtychoPINN's PyTorch", "ptycho_torch", _CHECKOUT),
    "ptychopinn-tensorflow": ("PtychoPINN's TensorFlow", "ptycho", _CHECKOUT),
    "pytorch": ("PyTorch", "torch", "pip install torch"),
    "tensorflow": ("TensorFlow", "tensorflow", "pip install tensorflow"),
}
"""A backend's name as pages show it, the top-level module of what it needs, and how to install that."""


def plugins() -> dict[str, metadata.EntryPoint]:
    """Backends of other packages, by name."""
    return {one.name: one for one in metadata.entry_points(group=GROUP) if one.name not in MODULES}


def names() -> list[str]:
    """Every backend that goes by name, installed or not."""
    return sorted({*MODULES, *plugins()})


def version(package: str) -> str:
    """Version of an installed package, or that there is none.

    Examples
    --------
    >>> version("nobody's package")
    'unknown'
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def title(name: str) -> str:
    """A backend's name as its makers write it.

    Examples
    --------
    >>> title("pytorch"), title("mine")
    ('PyTorch', 'mine')
    """
    return ABOUT[name][0] if name in ABOUT else name


def check_name(name: str) -> None:
    """Raise UnknownBackendError unless `name` is in the table or a package brings it."""
    if name not in names():
        own = sorted(set(BUILT_IN) & MODULES.keys())
        others = f" or, driven from here, of {others}" if (others := sorted(set(names()) - set(own))) else ""
        hint = did_you_mean(name, names())
        raise UnknownBackendError(f"Unknown backend {name!r}. Must be one of {own}{others}.{hint}")


def load(name: str) -> Backend:
    """Import the backend `name`, and no other.

    Parameters
    ----------
    name : str
        One of :func:`names`.

    Returns
    -------
    Backend
        See :class:`ptyint.backends.protocol.Backend`, and its `capabilities` for what else it is.

    Raises
    ------
    UnknownBackendError
        A ValueError with the allowed names.
    BackendUnavailableError
        A RuntimeError: the framework cannot be imported. Never a fallback to another backend (POLICY-001).

    Examples
    --------
    >>> load("tensorfow")
    Traceback (most recent call last):
    ...
    ptyint.errors.UnknownBackendError: Unknown backend 'tensorfow'. ... Did you mean 'tensorflow'?
    """
    check_name(name)
    module, command = ABOUT[name][1:] if name in ABOUT else _origin(plugins()[name])
    try:
        with nullcontext() if module in sys.modules else _uncollected():
            loaded = importlib.import_module(MODULES[name]) if name in MODULES else plugins()[name].load()
        backend: Backend = loaded.BACKEND if isinstance(loaded, ModuleType) or name in MODULES else loaded
    except Exception as error:  # a broken installation raises OSError, ValueError, ... as well as ImportError
        raise BackendUnavailableError(
            f"{title(name)} backend selected (backend={name!r}), but {module!r} cannot be imported: {error}. "
            f"Install it with `{command}`, or select another backend: {sorted(set(BUILT_IN) - {name})}."
        ) from error
    return backend


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector of garbage, which then passes over all that is here: a framework's objects stay.

    TensorFlow makes 700,000; to look at them again and again takes a quarter of the time of its import.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _origin(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Module of a plug-in, and how to install its package."""
    return entry.module, f"pip install {entry.dist.name}" if entry.dist else "pip install"
