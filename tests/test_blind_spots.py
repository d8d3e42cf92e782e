"""Kinds of faults that a ladder overlooks where it looks at little: each must be red at its rung and place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("blind_spots.py")
PLACES = {
    "a wide layer 8 % off": ("forward", "amplitude.outer.up, default settings"),
    "activations cut at 6": ("forward", "encoder.0.conv1.relu, pairs"),
    "counts cut at 65535": ("loss", "loss, pairs"),
    "TF32 allowed": ("contract", "arithmetic"),
    "best weights restored": ("step", "weights by hand, training, rising loss"),
    "probe rescaled in training": ("step", "by hand, training, settings 1"),
    "bad pixels count in training": ("step", "losses by hand, training, settings"),
    "plateau ignored": ("step", "by hand, training, settings 1"),
    "moments forgotten after 100 steps": ("step", "after 120, 200 steps, float64"),
    "single-precision gradients rounded": ("step", "single precision, float32"),
    "a loss of NaN returned as 0": ("step", "loss of weights that are NaN, all move, float64"),
    "offsets of the last scan": ("persistence", "object patches, saved by pytorch, gridsize 2"),
    "age of the moments lost with the checkpoint": ("persistence", "stopped and gone on with, gridsize 2"),
    "losses before the checkpoint forgotten": ("persistence", "losses, stopped and gone on with, gridsize 2"),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Where each fault is red first; in a process of its own, which has the framework."""
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path_factory.mktemp("trials")], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("fault", PLACES)
def test_it_is_red_at_its_place(found: dict[str, list[str]], fault: str) -> None:
    rung, place = PLACES[fault]
    assert found[fault][0] == rung and place in found[fault][1], found[fault]
