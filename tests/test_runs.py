"""Runs as objects: loaded, listed, shown, compared; and what one looks at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from browser import Page, accessibility_problems
from evidence_notebooks import PASSES, job, run, write

import ptyint
from ptyint.cli import main
from ptyint.images import viewer
from ptyint.parity.compare import RED_TAPS, Place, RedTap, compare, keeping, load_taps, save_taps
from ptyint.parity.tolerances import TOLERANCES
from ptyint.stages import explore


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that passed and one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    notebook = write(folder / "n.ipynb", PASSES)
    run(folder, job(notebook, "size"))
    run(folder, job(notebook, "size", parameters={"size": 30}))
    return folder / "reports"


def test_runs_are_listed_and_loaded(two: Path) -> None:
    newest, oldest = ptyint.runs(two)
    assert (newest.manifest.verdict, oldest.manifest.verdict) == ("fail", "pass")
    again = ptyint.Run.load(oldest.folder)
    assert again.checks.query("name == 'size'")["verdict"].item() == "pass"
    assert again.findings.empty and again.arrays == [] and dict(again.reconstructions) == {}
    assert "small.log" in again.logs
    assert repr(newest) == f"<Run: name {newest.manifest.run}, verdict fail, profile quick, passed 2 of 3 checks>"
    assert "✗ fail. " in newest._repr_html_()
    assert ptyint.runs(two / "nowhere") == []


def test_two_runs_are_compared_as_text_and_as_json(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest, oldest = (str(one.folder) for one in ptyint.runs(two))
    assert main(["diff", oldest, newest]) == 0
    text = capsys.readouterr().out
    assert "| verdicts | small: size | pass | fail |" in text and "| parameters | small: size | 3 | 30 |" in text
    assert main(["diff", oldest, newest, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"kind": "run", "what": "verdict", "before": "pass", "now": "fail"} in rows
    assert main(["diff", oldest, oldest]) == 0
    assert "differences: none" in capsys.readouterr().out
    assert main(["diff", oldest, str(two / "nowhere")]) == 2


def test_two_runs_are_compared_on_a_page(tmp_path: Path) -> None:
    """One verdict, number and picture moved; another picture did not, and a third is there in one run alone."""
    drawn = "import matplotlib.pyplot as plt\nfrom ptyint.evidence.display import Picture\n"
    picture = "Picture(plt.figure(figsize=({0}, 1)), f'a picture of {{{0}}}')"
    cells = [
        drawn + picture.format("size"),
        picture.format(2),
        f"late = 4\n{picture.format('late')} if size > 9 else None",
    ]
    notebook = write(tmp_path / "n.ipynb", PASSES, *cells)
    folders = [run(tmp_path, job(notebook, "size", parameters={"size": size}))[0].folder for size in (3, 30)]
    page = tmp_path / "diff.html"
    assert main(["diff", *map(str, folders), "--html", str(page)]) == 0
    said = Page(page)
    assert f"{folders[1].name} against {folders[0].name}" in said.text
    assert '<td class="fail">fail</td>' in said.text and "<td>30</td>" in said.text
    assert [one["alt"] for one in said.images] == ["a picture of 3", "a picture of 30", "a picture of 4"]
    assert "2 of 3 differ; the others are left out." in said.text and "No picture in this run." in said.text
    assert said.scripts == 0 and all(one.startswith("data:") for one in said.references)
    assert str(tmp_path) not in said.text
    assert accessibility_problems(page, tmp_path) == []
    assert main(["diff", str(folders[0]), str(folders[0]), "--html", str(page)]) == 0
    assert "Nothing differs" in page.read_text("utf-8")
    assert main(["diff", *map(str, folders), "--html", str(tmp_path / "nowhere" / "diff.html")]) == 2


def test_arrays_of_red_taps_are_kept_and_read(tmp_path: Path) -> None:
    right = np.arange(24.0).reshape(2, 3, 4)
    wrong = right.copy()
    wrong[1, 2, 1] += 5
    kept: list[RedTap] = []
    with keeping(kept):
        for name, one in (("a", right), ("b", wrong)):
            place = Place("forward", "gridsize 1", "float64", name)
            arrays = {name: one}, {name: right}
            compare(place, ("pytorch", "tensorflow"), arrays, (name, name), TOLERANCES["forward"])
    assert compare(
        place, ("pytorch", "tensorflow"), ({"b": wrong}, {"b": right}), ("b", "b"), TOLERANCES["forward"]
    ).red
    with keeping(kept):
        allowed = compare(
            place, ("pytorch", "tensorflow"), ({"b": wrong}, {"b": right}), ("b", "b"), TOLERANCES["forward"], None,
            lambda: 1e17,
        )  # fmt: skip
    assert allowed.holds and allowed.tolerance > 1, "what rounding explains is not red"
    every: list[RedTap] = []
    with keeping(every, every=True):
        for one in (right, wrong):
            compare(place, ("pytorch", "tensorflow"), ({"b": one}, {"b": right}), ("b", "b"), TOLERANCES["forward"])
    assert [one.candidate.tolist() for one in every] == [right.tolist(), wrong.tolist()]
    (tap,) = kept
    save_taps(tmp_path / RED_TAPS, kept)
    (again,) = load_taps(tmp_path / RED_TAPS)
    assert (again.rung, again.place, again.side) == ("forward", "b, gridsize 1, float64", "pytorch")
    np.testing.assert_array_equal(again.candidate, wrong)
    shown = explore._tap(tap)
    assert isinstance(shown, viewer.Chooser)
    assert "plane 1: worst at (2, 1): reference, candidate, difference are 21, 26, 5" in shown.still.alt
    assert "image/png" in shown._repr_mimebundle_()[0]


@pytest.mark.parametrize("odd", [np.ones((4, 4)), np.full((4, 4), np.nan), np.array([1.0, np.inf, 2.0]), np.array(3j)])
def test_odd_arrays_are_drawn_too(odd: np.ndarray) -> None:
    assert "worst at" in viewer.arrays(odd, odd + 1, ("a", "b")).still.alt


def test_arrays_of_unlike_shapes_are_a_sentence() -> None:
    assert "nothing to subtract" in viewer.arrays(np.ones(3), np.ones(4), ("a", "b")).markdown


def test_objects_are_short_and_have_thumbnails() -> None:
    scan = ptyint.load_fixture("tiny-64")
    assert repr(scan) == "<Scan: name tiny-64, patterns 16, pixels 64 x 64, modes of the probe 1>"
    html = scan._repr_html_()
    assert html.count("<img") == 4 and len(html) < 100_000 and 'alt="probe"' in html
    config = ptyint.TrainingConfig(ptyint.ModelConfig(gridsize=2), nepochs=3)
    assert repr(config) == "TrainingConfig(model=ModelConfig(gridsize=2), nepochs=3)"
    assert "early_stop_patience" in config._repr_html_()
