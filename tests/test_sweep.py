"""Sweeps: what is asked for, what is resumed, what is never green, and what the page says."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Page, accessibility_problems
from evidence_notebooks import write
from pandas.testing import assert_frame_equal
from small_stage import PASSES, ROOT, made, ptyint

from ptyint import cli
from ptyint.errors import ConfigError
from ptyint.evidence import manifest
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.sweep import Plan, Sweep, Trial, executor_of, report
from ptyint.evidence.verification import verify
from ptyint.parity.equivalence import paired
from ptyint.parity.rungs import trained

AXES = """
[every]
stages = "test"
[axes]
size = [1, 2, 30]
name = ["a", "b"]
[[exclude]]
size = 30
name = "b"
"""
GREEN = AXES.replace("30]", "3]").replace("size = 30", "size = 3")


def asked(folder: Path, text: str, *cells: str) -> Path:
    """The folder, with ``s.toml`` and a small notebook."""
    (folder / "s.toml").write_text(text)
    return made(folder, *cells)


def tables(folder: Path) -> Sweep:
    return Sweep.load(folder / "sweeps" / "s")


def test_combinations_are_the_product_without_what_is_excluded_then_the_list() -> None:
    plan = Plan.model_validate(
        {
            "every": {"nepochs": 2},
            "axes": {"seed": 3, "pair": [{"reference": "numpy", "candidate": "pytorch"}, {"candidate": "tensorflow"}]},
            "exclude": [{"seed": [1, 2], "pair": "tensorflow"}],
            "trials": [{"seed": 9}],
        }
    )
    places, settings = zip(*plan.combinations(), strict=True)
    assert [place["seed"] for place in places] == [0, 0, 1, 2, 9]
    assert [place.get("pair") for place in places][:2] == ["numpy, pytorch", "tensorflow"]
    assert settings[0] == {"nepochs": 2, "seed": 0, "reference": "numpy", "candidate": "pytorch"}
    with pytest.raises(ConfigError, match="nothing is left out"):
        list(plan.model_copy(update={"exclude": [{"seed": 7}]}).combinations())


def test_paths_are_looked_for_from_the_file() -> None:
    settings = {"stages": "scan", "scan": "a.npz", "scan.product_file": "../p.h5", "mask_file": "", "nepochs": 2}
    assert Trial.of({}, settings, Path("/data/of"), lambda command: []).command == [
        "run", "scan", "--scan=/data/of/a.npz",
        "-p", "mask_file", "''", "-p", "nepochs", "2", "-p", "scan.product_file", "'/data/of/../p.h5'",
    ]  # fmt: skip


REFUSED = {
    "": "asks for no trial",
    "[axis]\nseed = 2": "Did you mean 'axes'",
    "[axes]\nseed = [1": "s.toml: TOML: ",
    "[axes]\nstages = ['scam']": "Did you mean 'scan'",
    "[every]\nstages = 'scan'\n[axes]\nnepoch = [1, 2]": "Did you mean 'nepochs'",
    "[every]\nstages = 'scan'\n[axes]\nnepochs = [1, 0]": "nepochs is 0",
    "[every]\nstages = 'scan'\n[axes]\nprofile = ['quik']": "'quik' is not one of",
    "[every]\nstages = 'scan'\n[axes]\nfixture = ['tiny-46']": "No fixture is named 'tiny-46'",
    "[every]\nstages = 'scan'\n[axes]\nscan = ['nowhere.npz']": "nowhere.npz",
    "[every]\nstages = 'ladder'\n[axes]\nseed = 2\n[[equivalence]]\ncandidate = 'a'\nreference = 'b'\nmargin = 0": "",
    "[every]\nstages = 'ladder'\n[axes]\nseed = 2\n[[equivalence]]\ncandidate = 'a'\nreference = 'b'\nmargin = 1\n"
    "over = 'sed'": "no two trials differ in 'sed'",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_starts(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(text)
    assert cli.main(["sweep", "s.toml"]) == 2
    said = capsys.readouterr().err
    assert REFUSED[text] in said and len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize("name", ["locl", "nowhere:f", "parsl:nowhere.py", "os:nothing", "parsl:none.py"])
def test_an_executor_that_cannot_be_had_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.py").write_text("config = 3")
    with pytest.raises(ConfigError, match="must be local, parsl:FILE"):
        executor_of(name, 2)


def test_the_trainings_of_rung_7_are_a_sweep(tmp_path: Path) -> None:
    sweep = Sweep.planned(ROOT / "benchmarks" / "rung7.toml", tmp_path, cli._declared)
    seeds = range(trained.FIRST_PAIR, trained.FIRST_PAIR + 30)
    assert [one.axes["seed"] for one in sweep.trials] == [seed for seed in seeds for _ in range(2)]
    for trial in (sweep.trials[0], sweep.trials[-1]):
        asked = cli._declared(trial.command)[0].asked
        config = trained.configuration(asked["gridsize"], trial.axes["seed"], trained.Plan().nepochs)
        meant = {**vars(config), **vars(config.model), "fixture": trained.FIXTURE, "M": trained.M}
        names = asked.keys() & meant.keys() - {"output_dir"}
        assert {name: asked[name] for name in names} == {name: meant[name] for name in names} and len(names) > 12
        bounds = {
            name: value
            for name, value in parameter_defaults(notebook_path("e2d_parity")).items()
            if name[:3] in ("min", "max")
        }
        compared = cli._declared(trial.command)[2].asked
        assert bounds.items() <= compared.items() and len(bounds) > 4, "16 patterns carry less than a large scan"


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Five trials, of which one does not pass."""
    folder = asked(tmp_path_factory.mktemp("red"), AXES)
    dry = ptyint(folder, "sweep s.toml --dry-run")
    assert dry.returncode == 0 and not (folder / "sweeps").exists()
    assert "-p size 30" in dry.stdout and "5 trials, 5 of them missing (none ever ran here)" in dry.stdout
    return folder, ptyint(folder, "sweep s.toml")


def test_each_trial_is_an_ordinary_run_and_one_red_one_is_a_red_sweep(red) -> None:
    folder, done = red
    frame = tables(folder).frame
    assert done.returncode == 1 and "every trial passed" in done.stdout
    assert "5 of 5 trials have ended, 1 failed, after" in done.stderr
    assert done.stderr.count("trials have ended") == 5 and "\r" not in done.stderr, "nobody watches: lines, no bar"
    assert sorted(frame["verdict"]) == ["fail", *["pass"] * 4]
    assert frame.set_index("verdict").loc["fail", ["size", "name"]].tolist() == [30, "a"]
    for row in frame.itertuples():
        where = folder / "sweeps" / "s" / "trials" / row.trial
        said = verify(where / "reports" / row.run, where / "fix_plan.md")
        assert said.verdict == row.verdict and said.problems == ()


def test_the_page_links_each_verdict_and_holds_nothing_that_is_not_there(red, tmp_path: Path) -> None:
    folder, done = red
    page = Path(done.stdout.split("read ")[-1].strip())
    page = page if page.is_absolute() else folder / page
    read = Page(page)
    trials = [link for link in read.links if link.startswith("../../trials")]
    assert len(trials) == 5 and all((page.parent / link).is_file() for link in trials)
    assert "The worst trial (size 30, name a): ✗ fail. small: ✗ fail: size. measured 30" in read.text
    content = manifest.read(page.parent)
    assert "trials.csv" in content.artifacts and content.numbers["sweep: trials"] == 5
    assert accessibility_problems(page, tmp_path) == []


def test_the_table_of_all_trials_is_read_again_as_it_was(red) -> None:
    folder, done = red
    judged = (folder / done.stdout.split("read ")[-1].strip()).parent
    frame = tables(folder).frame
    assert pd.read_csv(judged / "trials.csv")["trial"].tolist() == frame["trial"].tolist()
    if not find_spec("pyarrow"):
        assert "trials.csv alone: trials.parquet takes pyarrow" in (judged / "sweep.html").read_text()
        pytest.skip("needs pyarrow: pip install 'ptyint[sweep]'")
    assert_frame_equal(pd.read_parquet(judged / "trials.parquet"), frame)
    assert "trials.parquet" in manifest.read(judged).artifacts


def test_an_axis_of_several_types_is_text(tmp_path: Path) -> None:
    axes = [{"width": 1, "mode": "auto", "size": 1}, {"width": 0.5, "mode": 2, "size": None}]
    trials = [Trial(key=str(n), axes=one, command=[]) for n, one in enumerate(axes)]
    frame = Sweep(folder=tmp_path, plan=Plan(), trials=trials).frame
    assert frame["mode"].tolist() == ["auto", "2"] and frame["width"].tolist() == [1.0, 0.5]
    if find_spec("pyarrow"):
        frame.to_parquet(tmp_path / "t.parquet")
        assert pd.read_parquet(tmp_path / "t.parquet")["mode"].tolist() == ["auto", "2"]


def test_started_again_it_does_only_what_failed_and_only_when_asked(red) -> None:
    folder, _ = red
    runs = {one.key: set(os.listdir(tables(folder).where(one) / "reports")) for one in tables(folder).trials}
    dry = ptyint(folder, "sweep s.toml --dry-run").stdout
    assert "5 trials, 0 of them missing (about 0 hours of computing)" in dry
    again = ptyint(folder, "sweep s.toml")
    retried = ptyint(folder, "sweep s.toml --retry", within="script -qec 'stty rows 40 cols 120; {}' /dev/null")
    assert again.returncode == retried.returncode == 1
    assert "5/5" in retried.stdout and "failed=1" in retried.stdout and "running=" in retried.stdout, "in a terminal"
    assert "trials have ended" not in retried.stdout
    new = {
        one.key: set(os.listdir(tables(folder).where(one) / "reports")) - runs[one.key] for one in tables(folder).trials
    }
    assert [len(one) for one in new.values()] == [0, 0, 0, 0, 1]
    assert verify(sorted((folder / "sweeps" / "s" / "reports").glob("2*"))[-1]).problems == ()


def test_a_trial_goes_by_what_it_is_not_by_its_place_in_the_file(red) -> None:
    folder, _ = red
    before = {one.key for one in tables(folder).trials}
    (folder / "s.toml").write_text('[axes]\nname = ["b", "a", "c"]\nsize = [2, 1]\n[every]\nstages = ["test"]')
    more = ptyint(folder, "sweep s.toml --dry-run").stdout
    assert "6 trials, 2 of them missing" in more
    write(folder / "n.ipynb", "'other'", PASSES)
    assert "6 trials, 6 of them missing (about" in ptyint(folder, "sweep s.toml --dry-run").stdout
    made(folder)
    (folder / "s.toml").write_text(AXES)
    assert before == {one.key for one in tables(folder).trials}


@pytest.mark.slow
def test_a_scan_goes_by_what_it_holds_not_by_its_path(tmp_path: Path) -> None:
    folder = asked(tmp_path, "[every]\nstages = 'scan'\n[axes]\nscan = ['a.npz', 'b.npz']")
    for name in "ab":
        (folder / f"{name}.npz").write_text(name)
    assert ptyint(folder, "sweep s.toml").returncode == 0
    runs = tables(folder).frame["run"].tolist()
    (entry,) = manifest.read(tables(folder).where(tables(folder).trials[0]) / "reports" / runs[0]).notebooks
    assert entry.asked["name"] == "<tmp>/" + str((folder / "a.npz").relative_to(tempfile.gettempdir()))
    assert entry.files == {"name": hashlib.sha256(b"a").hexdigest()}
    (folder / "b.npz").rename(folder / "c.npz")
    (folder / "s.toml").write_text((folder / "s.toml").read_text().replace("b.npz", "c.npz"))
    assert "2 trials, 0 of them missing" in ptyint(folder, "sweep s.toml --dry-run").stdout
    assert ptyint(folder, "sweep s.toml").returncode == 0 and tables(folder).frame["run"].tolist() == runs
    (folder / "c.npz").write_text("another")
    assert "2 trials, 1 of them missing" in ptyint(folder, "sweep s.toml --dry-run").stdout


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda run: (run / "small.ipynb").write_text((run / "small.ipynb").read_text() + " "),
    "a file": lambda run: (run / "small.html").unlink(),
    "the manifest": lambda run: (run / "manifest.json").write_text("{}"),
    "the seal": lambda run: (run / "manifest.sha256").unlink(),
    "the run": lambda run: shutil.rmtree(run),
    "all": lambda run: shutil.rmtree(run.parents[1]),
}


@pytest.mark.slow
def test_a_damaged_trial_is_done_again_and_one_of_another_counts_for_nothing(tmp_path: Path) -> None:
    folder = asked(tmp_path, "[every]\nstages = 'test'\n[axes]\nsize = 8")
    assert ptyint(folder, "sweep s.toml").returncode == 0
    done = tables(folder)
    undisturbed = done.frame.set_index("trial")
    runs = [done.where(one) / "reports" / row.run for one, row in zip(done.trials, done.rows, strict=True)]
    for run, damage in zip(runs, DAMAGES.values(), strict=False):
        damage(run)
    shutil.rmtree(runs[6].parents[1])
    shutil.copytree(runs[7].parents[1], runs[6].parents[1])
    rows = [report(done.where(one), one) for one in done.trials]
    assert [row.verdict for row in rows] == ["not run"] * 7 + ["pass"]
    assert "another trial" in rows[6].reason and "small.ipynb was changed" in rows[0].reason
    assert ptyint(folder, "sweep s.toml").returncode == 0
    again = tables(folder).frame.set_index("trial")
    assert (again["verdict"] == "pass").all() and len(again) == 8
    assert (again["run"] != undisturbed["run"]).tolist() == [True] * 7 + [False]


def test_two_sweeps_at_once_and_what_did_not_report_is_not_green(tmp_path: Path) -> None:
    cell = "import os, time, pathlib\nif size == 1: os.kill(os.getppid(), 9)\ntime.sleep(2)"
    folder = asked(tmp_path, "[every]\nstages = 'test'\n[axes]\nsize = 2", cell)
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "small_stage.py"), str(folder), "sweep", "s.toml"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(folder.glob("sweeps/s/trials/*/log")):
        time.sleep(0.05)
    second = ptyint(folder, "sweep s.toml")
    assert second.returncode == 2 and second.stderr.splitlines()[-1].startswith("ptyint: Another sweep is at work in ")
    said, _ = first.communicate()
    assert first.returncode == 1 and "○ not run: every trial reported. 1 did not report" in said
    assert [row.verdict for row in tables(folder).rows] == ["pass", "not run"]


@pytest.mark.parametrize(("n", "scatter", "mean"), [(30, 0.03, 0.0), (30, 0.05, 0.002), (10, 0.01, 0.015)])
def test_power_is_the_share_of_samples_that_show_equivalence(n: int, scatter: float, mean: float) -> None:
    chance = np.random.default_rng(0)
    sample = chance.normal(size=n)
    one = paired((sample - sample.mean()) / sample.std(ddof=1) * scatter + mean, 0.02)
    for pairs, power in ((n, one.power()), (one.needed, 0.9)):
        shown = [paired(chance.normal(mean, scatter, pairs), 0.02).equivalent for _ in range(1000)]
        assert abs(np.mean(shown) - power) < 0.04
    assert paired([0.0], 0.02).needed is None and np.isnan(paired([0.0], 0.02).power())
    assert paired([0.05, 0.06, 0.05], 0.02).needed is None
