"""The baseline: TensorFlow's full cycle on the integration fixture, each half in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_cycle import check_cycle, full_cycle


@pytest.mark.parametrize(
    ("gridsize", "choice"),
    [pytest.param(1, {}, id="gridsize1"), pytest.param(2, {"backend": "tensorflow"}, id="gridsize2")],
)
def test_full_cycle(
    gridsize: int, choice: dict[str, str], tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """At gridsize 1 no backend is named: the default must be TensorFlow, and torch never imported."""
    cycle = full_cycle(tmp_path, gridsize, **choice)
    for name, value in cycle.properties().items():
        record_property(name, value)
    check_cycle(cycle, "tensorflow")
