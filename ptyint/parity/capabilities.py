"""What a backend offers, as its process wrote it down, and what that leaves out of the ladder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.parity.operands import REQUIRED, base_name
from ptyint.parity.tolerances import PRECISIONS


@dataclass(frozen=True)
class Offer:
    """What one backend declares; see :class:`ptyint.backends.protocol.Backend`.

    Attributes
    ----------
    capabilities : frozenset of str
    precisions : tuple of str
    operators : dict of str to str
        Operator to what it calls, in the words of the backend's author; empty where there are none.
    """

    capabilities: frozenset[str] = frozenset({"operators", "weights", "trace"})
    precisions: tuple[str, ...] = PRECISIONS
    operators: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(REQUIRED, ""))

    @property
    def is_full(self) -> bool:
        """Whether every rung can be served."""
        return self.precisions == PRECISIONS and Offer().capabilities <= self.capabilities

    def has(self, operator: str) -> bool:
        """Whether it offers an operator, or the one of which this is a variant."""
        return operator in self.operators or base_name(operator) in self.operators

    def called(self, operator: str) -> str:
        """What an operator calls, or the one of which it is a variant; empty where that is not said."""
        return self.operators.get(operator, self.operators.get(base_name(operator), ""))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Offer":
        """What :func:`written` wrote. A backend that wrote nothing is asked for everything, and found wanting."""
        if "offer" not in arrays:
            return cls()
        capabilities, precisions, operators = json.loads(str(arrays["offer"]))
        return cls(frozenset(capabilities), tuple(precisions), operators)


def lacking(offers: Mapping[str, Offer], need: str) -> str:
    """Which sides do not offer a capability, in words; empty where all do, or none is needed."""
    sides = [side for side, offer in offers.items() if need and need not in offer.capabilities]
    return f"{' and '.join(sides)} {'do' if len(sides) > 1 else 'does'} not offer {need}" if sides else ""


def written(backend: Any) -> dict[str, NDArray[Any]]:
    """What a backend's process writes down of it; the operators by asking for them."""
    offered = backend.operators(backend.precisions[0]) if "operators" in backend.capabilities else {}
    calls = {name: (one.__doc__ or "").strip().partition("\n")[0].rstrip(".") for name, one in offered.items()}
    if "weights" in backend.capabilities:
        calls.setdefault("normalise_probe", "")
    told = (sorted(backend.capabilities), list(backend.precisions), calls)
    return {"offer": np.array(json.dumps(told))}
