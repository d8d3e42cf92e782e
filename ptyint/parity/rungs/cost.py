"""Rung 8: what a backend costs, as ratios of candidate to reference; judged against a declared budget alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptyint.errors import ConfigError
from ptyint.parity.results import Finding


@dataclass(frozen=True)
class Budget:
    """Largest allowed ratios of candidate to reference; 0: reported, not judged.

    Attributes
    ----------
    step, inference, memory, start : float
        Median time of an optimiser step (single precision), time of inference for a group, peak memory of the
        process, time to import the backend.

    Raises
    ------
    ConfigError
        A negative ratio, or NaN.
    """

    step: float = 0.0
    inference: float = 0.0
    memory: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"The budget for {name} is {value!r}; must be a ratio, or 0 for no limit.")


def judge(
    measured: Mapping[str, Mapping[str, Any]],
    reference: str,
    candidate: str,
    budget: Budget,
    lacks: Mapping[str, str] | None = None,
) -> tuple[list[Finding], dict[str, float]]:
    """Ratios against the budget, and every measured cost by name.

    Parameters
    ----------
    measured : dict
        Backend to what its process measured.
    reference, candidate : str
    budget : Budget
    lacks : dict of str to str, optional
        Field of the budget to why it cannot be measured; empty where it can.

    Returns
    -------
    findings : list of Finding
    numbers : dict of str to float
    """
    spent = {name: _costs(measured[name]) for name in (reference, candidate)}
    findings, numbers = [], dict[str, float]()
    for what, limit in asdict(budget).items():
        ours, theirs = spent[candidate].get(what, np.nan), spent[reference].get(what, np.nan)
        if why := (lacks or {}).get(what):
            where = ("cost", "", "", LABELS[what])
            findings.append(Finding.unavailable(where, (candidate, reference), why))
            continue
        numbers |= {f"{LABELS[what]}, {reference}": theirs, f"{LABELS[what]}, {candidate}": ours}
        over, bound = ours / theirs, limit or np.inf
        note = "" if np.isfinite(over) else "not measured"
        share = over / bound if np.isfinite(over) else np.inf
        findings.append(Finding("cost", "", "", LABELS[what], candidate, reference, over, bound, share, note))
    return findings, numbers


LABELS = {
    "step": "optimiser step / s",
    "inference": "inference of a group / s",
    "memory": "peak memory / GiB",
    "start": "import / s",
}


def _costs(measured: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    steps = [np.median(measured[name]) for name in measured if "float32/seconds" in name]
    if steps:
        found["step"] = float(np.mean(steps))
    inference = [float(measured[name]) for name in measured if name.endswith("inference seconds")]
    if inference:
        found["inference"] = float(np.mean(inference))
    if "peak memory bytes" in measured:
        found["memory"] = float(measured["peak memory bytes"]) / 2**30
    if "import seconds" in measured:
        found["start"] = float(measured["import seconds"])
    return found
