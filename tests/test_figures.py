from __future__ import annotations

import re

import numpy as np
import pytest
from reconstructions import make

from ptyint import figures, report
from ptyint.comparison import compare


@pytest.fixture(scope="module")
def comparison():
    return compare(make("tensorflow", noise=0.02), make("pytorch", noise=0.05))


def test_pictures_are_png_with_numbers_in_their_alt_text(comparison) -> None:
    both = comparison.backends
    pictures = [
        figures.side_by_side(comparison),
        figures.ring_correlation(comparison),
        figures.loss_curves(*both),
        figures.probes(*both),
        figures.reconstruction(both[0]),
    ]
    for picture in pictures:
        data, metadata = picture._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG")
        assert metadata["image/png"]["alt"] == picture.alt
        assert re.search(r"\d", picture.alt) and len(picture.alt) > 40


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


def test_without_truth_two_images_and_their_difference() -> None:
    pair = compare(make("tensorflow", truth=False), make("pytorch", truth=False))
    titles = [ax.get_title().split(":")[0] for ax in figures.side_by_side(pair).figure.axes[:3]]
    assert titles == ["TensorFlow", "PyTorch", "PyTorch - TensorFlow"]


def test_verdict_says_pass_or_names_what_failed(comparison) -> None:
    good = report.verdict(compare(make("tensorflow"), make("pytorch"))).html
    assert "✓ PASS" in good and "✗" not in good
    assert "same groups" in good and "No truth" not in good
    blind = report.verdict(
        compare(make("tensorflow", truth=False), make("pytorch", truth=False, groups_sha256="x"))
    ).html
    assert "No truth is known" in blind and "same scan" in blind
    assert "same groups" not in blind.split("Shared:")[1]
    bad = report.verdict(compare(make("tensorflow"), make("pytorch", factor=2))).html
    assert "✗ FAIL" in bad and "relative amplitude scale" in bad and "PASS" not in bad


def test_tables_escape_what_they_show() -> None:
    evil = make("tensorflow", ended="<script>alert(1)</script>")
    assert "<script>" not in report.cost_table(evil).html
    assert "&lt;script&gt;" in report.cost_table(evil).html


def test_a_resolution_without_limit_and_one_without_any() -> None:
    html = report.metrics_table(compare(make("tensorflow"), make("pytorch"))).html
    assert "never crosses" in html
