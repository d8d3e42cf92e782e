"""The table of backends: name -> module. A framework is imported only when its backend is loaded."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from ptyint.errors import BackendUnavailableError, UnknownBackendError

if TYPE_CHECKING:
    from ptyint.backends.base import Backend

MODULES = {
    "pytorch": "ptyint.backends.pytorch",
    "tensorflow": "ptyint.backends.tensorflow",
}
"""Each module offers ``BACKEND``, an object that follows :class:`ptyint.backends.base.Backend`."""

INSTALL = {
    "pytorch": ("PyTorch", "torch", "pip install torch"),
    "tensorflow": ("TensorFlow", "tensorflow", "pip install tensorflow"),
}
"""Framework's title, its top-level module, and how to install it."""


def check_name(name: str) -> None:
    """Raise UnknownBackendError unless `name` is in the table."""
    if name not in MODULES:
        near = difflib.get_close_matches(str(name), MODULES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownBackendError(f"Unknown backend {name!r}. Must be one of {sorted(MODULES)}.{hint}")


def load(name: str) -> Backend:
    """Import the backend `name`, and no other.

    Parameters
    ----------
    name : {'tensorflow', 'pytorch'}

    Raises
    ------
    UnknownBackendError
        A ValueError with the allowed names.
    BackendUnavailableError
        A RuntimeError: the framework cannot be imported. Never a fallback to another backend (POLICY-001).
    """
    check_name(name)
    title, module, command = INSTALL[name]
    try:
        backend: Backend = importlib.import_module(MODULES[name]).BACKEND
    except Exception as error:  # a broken installation raises OSError, ValueError, ... as well as ImportError
        raise BackendUnavailableError(
            f"{title} backend selected (backend={name!r}), but {module!r} cannot be imported: {error}. "
            f"Install it with `{command}`, or select another backend: {sorted(set(MODULES) - {name})}."
        ) from error
    return backend
