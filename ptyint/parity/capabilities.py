"""What a backend offers, as its process wrote it down, and what that leaves out of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint.parity import extras
from ptyint.parity.results import TWO_PRECISIONS, Finding
from ptyint.parity.tolerances import PRECISIONS
from ptyint.parity.worker import read

NEEDS = {
    "operator": "operators",
    "forward": "trace",
    "loss": "trace",
    "gradient": "trace",
    "step": "trace",
    "persistence": "weights",
    "trained": "weights",
}
"""Rung to the capability without which a backend cannot serve it."""


@dataclass(frozen=True)
class Offer:
    """What one backend declares; see :class:`ptyint.backends.protocol.Backend`."""

    capabilities: frozenset[str] = frozenset({"operators", "weights", "trace"})
    precisions: tuple[str, ...] = PRECISIONS
    operators: tuple[str, ...] = extras.REQUIRED
    calls: tuple[str, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether every rung can be served."""
        return self.precisions == PRECISIONS and Offer().capabilities <= self.capabilities

    def called(self, operator: str) -> str:
        """What an operator calls, in the words of the backend's author; empty where there are none."""
        for name in (operator, extras.base_name(operator)):
            if name in self.operators[: len(self.calls)]:
                return self.calls[self.operators.index(name)]
        return ""

    @classmethod
    def load(cls, folder: Path, name: str) -> Offer:
        """What ``NAME.offer.npz`` says. A backend that wrote none is asked for everything, and found wanting."""
        arrays: Mapping[str, NDArray[Any]] = read(folder, f"{name}.offer")
        if not arrays:
            return cls()
        told = {key: tuple(str(value) for value in array) for key, array in arrays.items()}
        return cls(frozenset(told["capabilities"]), told["precisions"], told["operators"], told["calls"])


def lacking(offers: Mapping[str, Offer], rung: str) -> str:
    """Why a rung cannot be served, in words; empty where it can."""
    need = NEEDS.get(rung)
    sides = [side for side, offer in offers.items() if need and need not in offer.capabilities]
    return f"{' and '.join(sides)} {'do' if len(sides) > 1 else 'does'} not offer {need}" if sides else ""


def unavailable(offers: Mapping[str, Offer], rung: str) -> list[Finding]:
    """One finding for each check of a rung that cannot be served; none where it can."""
    why = lacking(offers, rung)
    reference, candidate = offers
    precisions = PRECISIONS if rung in TWO_PRECISIONS or rung == "step" else ("",)
    return [
        Finding.unavailable((rung, "", precision, ""), (candidate, reference), why) for precision in precisions if why
    ]


def written(backend: Any) -> dict[str, NDArray[Any]]:
    """What a backend's process writes down of it; the operators by asking for them."""
    offered = backend.operators(backend.precisions[0]) if "operators" in backend.capabilities else {}
    full = "trace" in backend.capabilities
    docs = [(operator.__doc__ or "").strip().partition("\n")[0].rstrip(".") for operator in offered.values()]
    told = {
        "capabilities": sorted(backend.capabilities),
        "precisions": list(backend.precisions),
        "operators": [*offered, *(["normalise_probe"] if full else [])],
        "calls": docs,
    }
    return {key: np.array(values, np.str_) for key, values in told.items()}
