"""Climbing: workers that serve, crash, hang or are asked again, on backends of a few operators and no framework."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from ptyint.errors import ConfigError
from ptyint.parity.ladder import Climb
from ptyint.parity.problems import Plan, Problems
from ptyint.parity.results import Ladder

TEMPLATE = (Path(__file__).parents[1] / "docs" / "backend_template.py").read_text()
ENTRY = "[ptyint.backends]\n" + "".join(f"{name} = backend_{name}\n" for name in ("mine", "yours", "crashing", "slow"))
PAIR = ("mine", "yours")
WORKFLOW = """
    def configure(self, config):
        return {}

    def run(self, scan_file, config, folder, M=20):
        return {**self.reload(scan_file, config, folder, M), "losses": np.ones(config.nepochs)}

    def reload(self, scan_file, config, folder, M=20):
        with np.load(scan_file) as scan:
            centre, n, probe = (scan["ycoords"].mean(), scan["xcoords"].mean()), len(scan["diff3d"]), scan["probeGuess"]
        noise = np.random.default_rng(config.seed).normal(size=(2, 400, 400))
        stitched = np.exp(1j * noise[0]) + noise[1]
        return {"patches": np.ones((n, 1, 64, 64)), "stitched": stitched, "centre_px": np.array(centre), "probe": probe}


BACKEND ="""
"""What makes the template train by a workflow of its own: noise, another for every seed."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template under several names, one of which kills its process and one of which never answers."""
    folder = tmp_path / "installed"
    info = folder / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY)
    spoilt = {
        "crashing": "print('out of paper', flush=True); import os; os._exit(3)",
        "slow": "import time; time.sleep(600)",
    }
    for name in ("mine", "yours", *spoilt):
        first = f"            {spoilt[name]}\n" if name in spoilt else ""
        text = TEMPLATE.replace('"mine"', f'"{name}"')
        marked = "            return (probe * patches"
        (folder / f"backend_{name}.py").write_text(text.replace(marked, first + marked))
    monkeypatch.syspath_prepend(str(folder))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return tmp_path


def test_a_rung_is_judged_alone_again_and_narrower(installed: Path) -> None:
    with Climb(installed, *PAIR) as one:
        first = one.rung("operator")
        assert set(first.findings.query("available")["tap"]) >= {"propagate", "poisson_nll"}
        narrow = one.rung("operator", Problems(precisions=("float64",)))
        assert set(narrow.findings.query("available")["precision"]) == {"float64"}
        file = one.scratch / "mine.operator.npz"
        before = file.stat().st_mtime_ns
        again = one.rung("operator", again=True)
        assert file.stat().st_mtime_ns > before and again.rows == first.rows
        ladder = one.finish()
        assert one.rung("operator", again=True).rows == first.rows  # by new workers
    assert ladder.rung("operator").rows == first.rows  # the narrow look is not part of it
    assert Ladder.load(installed / "ladder.json").rows == ladder.rows
    assert [command["exit_code"] for command in one.commands] == [0, 0, -9, -9]
    assert not one.scratch.exists()


def test_trained_reconstructions_are_asked_of_whoever_trains(installed: Path) -> None:
    """Rung 7 through real workers: every seed of both is compared, and none of them is missing."""
    for name in PAIR:
        path = installed / "installed" / f"backend_{name}.py"
        text = path.read_text().replace('frozenset({"operators"})', 'frozenset({"operators", "workflow"})')
        path.write_text(text.replace("\n\nBACKEND =", WORKFLOW))
    problems = Problems(profile="full", plan=Plan(n_pairs=2, n_reruns=1, n_independent=2, nepochs=1))
    with Climb(installed, *PAIR, problems) as one:
        rows = one.rung("trained").findings.query("case.str.endswith('independent seeds')")
    assert len(rows) == 4 and set(rows["available"]) == {True}
    assert np.isfinite(rows["error"]).all() and rows["note"].str.contains("n = 2").all(), rows["note"].tolist()


def test_a_worker_that_dies_is_red_and_the_log_says_why(installed: Path) -> None:
    with Climb(installed, "mine", "crashing") as one:
        ladder = one.finish()
    red = [row for row in ladder.rung("operator").rows if row.red]
    assert {row.side for row in red} == {"crashing"}
    assert all("exit code 3; crashing.measure.log ends: out of paper" in row.note for row in red)
    assert ladder.divergence is not None and not any(row.red for row in ladder.rung("contract").rows)
    assert {row.note for row in ladder.rung("cost").rows if row.red} == {"not measured"}


def test_a_worker_that_hangs_is_killed(installed: Path) -> None:
    with Climb(installed, "mine", "slow", timeout=15.0) as one:
        rows = one.rung("operator").rows
        ladder = one.finish()
    assert all("ends: killed after 15 s" in row.note for row in rows if row.red and row.side == "slow")
    assert ladder.rung("operator").verdict == "fail"
    assert sorted(command["exit_code"] for command in one.commands) == [-signal.SIGKILL, 0]


def test_no_worker_outlives_the_climb(installed: Path) -> None:
    others = psutil.Process().children(recursive=True)  # e.g. what an earlier file's tests left to multiprocessing
    with pytest.raises(ConfigError, match=r"has no rung 'trained'; it has \['contract', 'operator'"):
        with Climb(installed, *PAIR) as one:
            one.rung("contract")
            workers = [child for child in psutil.Process().children(recursive=True) if child not in others]
            one.rung("trained")
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert [child.cmdline() for child in alive] == []


@pytest.mark.parametrize(
    ("pair", "problems", "words"),
    [
        (("mine", "mine"), {}, "always agrees with itself"),
        (PAIR, {"profile": "huge"}, r"profile has 'huge'; must be of \['full', 'quick'\]"),
        (PAIR, {"cases": ("gridsize 3",)}, "cases has 'gridsize 3'"),
        (PAIR, {"precisions": ("float16",)}, "precisions has 'float16'"),
    ],
)
def test_what_cannot_be_climbed_is_refused(
    installed: Path, pair: tuple[str, str], problems: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Climb(installed, *pair, Problems(**problems))  # type: ignore[arg-type]
