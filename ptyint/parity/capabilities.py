"""What a backend offers, as its process wrote it down, and what that leaves out of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.parity.operands import REQUIRED, base_name
from ptyint.parity.tolerances import PRECISIONS


@dataclass(frozen=True)
class Offer:
    """What one backend declares; see :class:`ptyint.backends.protocol.Backend`."""

    capabilities: frozenset[str] = frozenset({"operators", "weights", "trace"})
    precisions: tuple[str, ...] = PRECISIONS
    operators: tuple[str, ...] = REQUIRED
    calls: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether every rung can be served."""
        return self.precisions == PRECISIONS and Offer().capabilities <= self.capabilities

    def has(self, operator: str) -> bool:
        """Whether it offers an operator, or the one of which this is a variant."""
        return operator in self.operators or base_name(operator) in self.operators

    def called(self, operator: str) -> str:
        """What an operator calls, in the words of the backend's author; empty where there are none."""
        for name in (operator, base_name(operator)):
            if name in self.operators[: len(self.calls)]:
                return self.calls[self.operators.index(name)]
        return ""

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Offer:
        """What :func:`written` wrote. A backend that wrote nothing is asked for everything, and found wanting."""
        if "capabilities" not in arrays:
            return cls()
        told = {key: tuple(str(value) for value in array) for key, array in arrays.items()}
        return cls(frozenset(told["capabilities"]), told["precisions"], told["operators"], told["calls"])


def lacking(offers: Mapping[str, Offer], need: str) -> str:
    """Which sides do not offer a capability, in words; empty where all do, or none is needed."""
    sides = [side for side, offer in offers.items() if need and need not in offer.capabilities]
    return f"{' and '.join(sides)} {'do' if len(sides) > 1 else 'does'} not offer {need}" if sides else ""


def written(backend: Any) -> dict[str, NDArray[Any]]:
    """What a backend's process writes down of it; the operators by asking for them."""
    offered = backend.operators(backend.precisions[0]) if "operators" in backend.capabilities else {}
    full = "trace" in backend.capabilities
    docs = [(operator.__doc__ or "").strip().partition("\n")[0].rstrip(".") for operator in offered.values()]
    told = {
        "capabilities": sorted(backend.capabilities),
        "precisions": list(backend.precisions),
        "operators": [*offered, *(["normalise_probe"] if full and "normalise_probe" not in offered else [])],
        "calls": docs,
    }
    return {key: np.array(values, np.str_) for key, values in told.items()}
