"""Rung 8: what a backend costs, as ratios of candidate to reference; judged against a declared budget alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ptyint.images.reconstruction import peak_memory_bytes
from ptyint.parity.capabilities import lacking
from ptyint.parity.compare import Finding, Place, bounded
from ptyint.parity.problems import Problems
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung
from ptyint.parity.rungs.step import LONG_RUN
from ptyint.parity.rungs.training import TRAINING

COSTS = {
    "step": ("optimiser step / s", "float32/seconds", ("trace", "weights")),
    "inference": ("inference of a group / s", "inference seconds", ("weights",)),
    "memory": ("peak memory / GiB", "peak memory bytes", ()),
    "start": ("import / s", "import seconds", ()),
}
"""Field of the budget to what is shown of it; how the names of those arrays end whose medians are averaged; and the
capabilities that it needs."""


def measure(bench: Bench, part: str = "") -> Captured:
    """What the process took so far, and what the backend says of itself."""
    return {
        "import seconds": np.array(bench.import_seconds),
        "peak memory bytes": np.array(peak_memory_bytes()),
        "description": np.array(json.dumps(bench.backend.describe())),
    }


def judge(measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Ratios against the budget; without one they hold."""
    for what, limit in asdict(problems.budget).items():
        label, ending, needs = COSTS[what]
        where = Place("cost", tap=label)
        if why := _lacking(measured, needs):
            yield Finding.unavailable(where, measured.pair, why)
            continue
        ours, theirs = (_spent(measured, side, ending) for side in measured.pair)
        note = "" if np.isfinite(ours / theirs) else "not measured"
        yield bounded(where, measured.pair, ours / theirs, limit or np.inf, note)


def _lacking(measured: Measured, needs: Sequence[str]) -> str:
    return next(filter(None, (lacking(measured.offers, need) for need in needs)), "")


def numbers(measured: Measured) -> dict[str, float]:
    """Every cost of each backend that could be measured, by name."""
    return {
        f"{label}, {name}": _spent(measured, name, ending)
        for label, ending, needs in COSTS.values()
        if not _lacking(measured, needs)
        for name in measured.offers
    }


def about(measured: Measured) -> dict[str, dict[str, Any]]:
    """What each backend says of itself: versions, device, threads."""
    told = {side: arrays["description"] for side, arrays in measured.both("cost").items() if "description" in arrays}
    return {side: json.loads(str(text)) for side, text in told.items()}


def _spent(measured: Measured, side: str, ending: str) -> float:
    """Mean of the medians of what was measured under such names, in s or GiB; NaN where nothing was."""
    held = [measured.of(side, capture) for capture in ("long", "training", "cost")]
    medians = [np.median(one[name]) for one in held for name in one if name.endswith(ending)]
    return float(np.mean(medians)) / (2**30 if ending.endswith("bytes") else 1) if medians else np.nan


COST = Capture("cost", measure)

RUNG = Rung("cost", "what does it cost in time and memory?", (LONG_RUN, TRAINING, COST), (judge,))
