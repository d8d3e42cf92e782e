"""The full cycle of any backend: ``pytest tests/cycle_of_backend.py --backend NAME``.

Stage E2.D runs it for a pair that is not the built-in one; a plain ``pytest`` does not collect it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_cycle import FIXTURE, check_answer, full_cycle

from ptyint.scans.fixtures import load_fixture


@pytest.mark.parametrize("gridsize", [pytest.param(1, id="gridsize1"), pytest.param(2, id="gridsize2")])
def test_full_cycle(
    gridsize: int, tmp_path: Path, pytestconfig: pytest.Config, record_property: Callable[[str, Any], None]
) -> None:
    backend = pytestconfig.getoption("backend")
    assert backend, "give --backend NAME, one of `ptyint backends`"
    cycle = full_cycle(tmp_path, gridsize, backend=backend)
    for name, value in cycle.properties().items():
        record_property(name, value)
    for step in (cycle.trained, cycle.loaded):
        facts = step.reconstruction.facts
        assert facts["backend"] == backend == facts["config"]["backend"] == facts["description"]["backend"]
        assert facts["scan_sha256"] == load_fixture(FIXTURE).sha256
    check_answer(cycle)
