"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data that the repository does not carry. Missing: the test fails, it never skips."""
    folder = Path(os.environ.get("PTYINT_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")
    assert folder.is_dir(), f"No folder {folder}: set PTYINT_DATA_DIR to the folder that holds the real data."
    return folder
