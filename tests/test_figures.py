from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from reconstructions import make

from ptyint.evidence import pages
from ptyint.evidence.display import DPI, checks_table
from ptyint.evidence.record import MIME, Record
from ptyint.images import figures
from ptyint.images.comparison import Criteria, compare


@pytest.fixture(scope="module")
def comparison():
    return compare(make("tensorflow", noise=0.02), make("pytorch", noise=0.05))


def test_pictures_are_png_with_numbers_in_their_alt_text(comparison) -> None:
    both = comparison.backends
    pictures = [
        figures.side_by_side(comparison),
        figures.rings({name: one.frc for name, one in comparison.truth.items()}, comparison.agreement.frc),
        figures.loss_curves(*both),
        figures.probes(*both),
    ]
    for picture in pictures:
        data, metadata = picture._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG")
        assert metadata["image/png"]["alt"] == picture.alt
        assert re.search(r"\d", picture.alt) and len(picture.alt) > 40


def test_a_picture_of_few_colours_is_small_and_looks_the_same(comparison) -> None:
    picture = figures.side_by_side(comparison)
    picture.png()  # the layout settles as it is drawn
    drawn = io.BytesIO()
    picture.figure.savefig(drawn, format="png", dpi=DPI)
    every, few = (np.asarray(Image.open(png).convert("RGB"), int) for png in (drawn, io.BytesIO(picture.png())))
    assert len(picture.png()) < len(drawn.getvalue()) / 2
    assert np.abs(few - every).max() < 20 and (few[0, 0] == 255).all()


def test_side_by_side_shows_truth_backends_and_difference_on_shared_limits(comparison) -> None:
    axes = figures.side_by_side(comparison).figure.axes[:8]
    assert [ax.get_title().split(":")[0] for ax in axes[:4]] == [
        "truth",
        "TensorFlow",
        "PyTorch",
        "PyTorch - TensorFlow",
    ]
    for row in (axes[:4], axes[4:]):
        limits = [ax.images[0].get_clim() for ax in row]
        assert limits[0] == limits[1] == limits[2]
        assert limits[3][0] == -limits[3][1] < 0
    assert axes[0].images[0].cmap.name == "gray"
    assert axes[4].images[0].cmap.name == "twilight_shifted"
    alike = compare(make("tensorflow"), make("pytorch"))
    assert np.ptp(figures.side_by_side(alike).figure.axes[3].images[0].get_array()) < 1e-6


def test_what_a_shift_brings_in_from_outside_the_scan_is_not_drawn() -> None:
    """Each image lies as the truth does; where one of them was moved in from beside what was scanned, it is zero."""
    for way in (-5, 5):
        pair = [make("tensorflow"), make("pytorch", noise=1e-3)]  # apart from the truth, not from each other
        for i, one in enumerate(pair):
            moved = np.roll(np.where(one.scanned, one.object_, 0), way, axis=0)
            pair[i] = replace(one, object_=moved.astype(np.complex64), scanned=moved != 0)
        found = compare(*pair)
        assert all(one.gauge.shift_px[0] == pytest.approx(way, abs=0.3) for one in found.truth.values())
        axes = figures.side_by_side(found).figure.axes
        assert min(ax.images[0].get_array().compressed().min() for ax in axes[:3]) > 0.5


def test_without_truth_two_images_and_their_difference() -> None:
    pair = compare(make("tensorflow", truth=False), make("pytorch", truth=False))
    titles = [ax.get_title().split(":")[0] for ax in figures.side_by_side(pair).figure.axes[:3]]
    assert titles == ["TensorFlow", "PyTorch", "PyTorch - TensorFlow"]


def test_checks_display_as_a_table_and_report_themselves() -> None:
    bad = compare(make("tensorflow"), make("pytorch", factor=2))
    bundle, _ = DisplayFormatter().format(checks_table(bad.checks))
    assert "✗ fail" in bundle["text/html"] and "relative amplitude scale" in bundle["text/html"]
    assert [check["name"] for check in bundle[MIME]["checks"]] == [one.name for one in Criteria().declared(truth=True)]
    assert Record.from_mapping(json.loads(json.dumps(bundle[MIME]))).checks == tuple(bad.checks)


def test_the_trend_shows_each_number_over_the_runs_and_gaps(tmp_path: Path) -> None:
    values = [{"ladder: a": 0.5}, {"ladder: b": 1.0}, {"ladder: a": 0.75, "ladder: b": "nan"}]
    empty = {"verdict": "pass", "run": "r", "folder": "r", "state": "finished", "passed": 1, "checks": 1, "stages": {}}
    runs = [{**empty, "profile": "quick", "commit": None, "dirty": None, "numbers": one} for one in values[::-1]]
    pages.write_history(tmp_path / "index.html", runs, [])
    text = (tmp_path / "index.html").read_text()
    assert 'aria-label="ladder: a: 0.5 first, 0.75 last, over 3 runs"' in text and text.count("<circle") == 3
    assert 'd=" M54.0 62.0 M246.0 8.0"' in text, "a gap is not bridged"
    pages.write_history(tmp_path / "index.html", [], [])
    assert "<svg" not in (tmp_path / "index.html").read_text()


def test_losses_of_a_workflow_that_made_one_epoch_are_drawn(comparison) -> None:
    one = replace(
        comparison.reference, losses=np.array([7.0]), facts={**comparison.reference.facts, "groups_sha256": None}
    )
    (line,) = figures.loss_curves(one).figure.axes[0].lines
    assert line.get_ydata().tolist() == [0.0]
