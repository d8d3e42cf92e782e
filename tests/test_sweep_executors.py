"""Sweeps on a real Slurm and with other executors, and what is killed while they go on."""

from __future__ import annotations

import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal
from small_stage import ROOT, made, ptyint

from ptyint.evidence.sweep import Sweep

SLURM = Path(__file__).parent / "slurm"
DOCS = ROOT / "docs" / "sweeps.md"
CLUSTER = f"parsl:{SLURM / 'cluster.py'}"
NUMBER = """
import numpy as np
from ptyint.evidence.display import Fragment
from ptyint.evidence.record import Record
norm = float(np.linalg.norm(np.random.default_rng(int(name)).normal(size=1000)))
Fragment.of("A number of this trial.", record=Record(numbers={"norm": norm}))
"""


def asked(folder: Path, n: int, *names: str) -> Path:
    for name in names or ("s",):
        (folder / f"{name}.toml").write_text(f'[every]\nstages = "test"\n[axes]\nname = {[f"{i}" for i in range(n)]}')
    return made(folder, NUMBER)


def results(folder: Path, name: str = "s") -> DataFrame:
    return Sweep.load(folder / "sweeps" / name).frame.set_index("trial")[["name", "verdict", "small: norm"]]


def undisturbed(n: int) -> list[tuple[str, str, float]]:
    norms = [float(np.linalg.norm(np.random.default_rng(i).normal(size=1000))) for i in range(n)]
    return [(f"{i}", "pass", norm) for i, norm in enumerate(norms)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("parsl", reason="pip install 'ptyint[sweep]'")
    folder = tmp_path_factory.mktemp("slurm")
    begun = subprocess.run([SLURM / "start", folder], capture_output=True, text=True)
    if begun.returncode == 77:
        pytest.skip(f"no Slurm here: {begun.stdout.splitlines()[-1]}")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    yield folder / "slurm.conf"
    subprocess.run(["scancel", "--user=root"], env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    for name in ("slurmctld", "slurmd"):
        os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def accounts(options: dict[str, str]) -> str:
    """The jobs of the cluster, in a line each."""
    return subprocess.run(["squeue", "-h"], env={**os.environ, **options}, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_twelve_trials_on_slurm_are_the_same_as_locally(slurm: Path, tmp_path: Path) -> None:
    folder = asked(tmp_path, 12, "s", "local")
    options = {"SLURM_CONF": str(slurm), "PTYINT_TEST_PARSL": str(tmp_path / "parsl")}
    done = ptyint(folder, f"sweep s.toml --executor {CLUSTER}", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert accounts(options) == "", "its jobs are over"
    assert ptyint(folder, "sweep local.toml").returncode == 0
    assert_frame_equal(results(folder), results(folder, "local"), rtol=1e-12)
    assert [*results(folder).itertuples(index=False, name=None)] == undisturbed(12)


@pytest.mark.slow
def test_any_executor_will_do(tmp_path: Path) -> None:
    folder = asked(tmp_path, 2)
    (folder / "mine.py").write_text(
        "from concurrent.futures import ProcessPoolExecutor\ndef pool():\n    return ProcessPoolExecutor(2)\n"
    )
    assert ptyint(folder, "sweep s.toml --executor mine:pool").returncode == 0
    assert [*results(folder).itertuples(index=False, name=None)] == undisturbed(2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Parsl leaves sockets open
@pytest.mark.parametrize("example", re.findall(r"^```python\n(from parsl.*?)^```", DOCS.read_text(), re.M | re.S))
def test_the_configurations_in_the_documentation_can_be_made(example: str, tmp_path: Path) -> None:
    errors = pytest.importorskip("parsl.errors", reason="pip install 'ptyint[sweep]'")
    (tmp_path / "cluster.py").write_text(example)
    try:
        assert runpy.run_path(str(tmp_path / "cluster.py"))["config"].executors
    except errors.OptionalModuleMissing as error:
        assert error.module_names == ["kubernetes"]


SUBMITTER = "small_stage.py .* sweep s.toml"
INTERCHANGE = "HTEX interchange|interchange.py"
VICTIMS = {
    "trial": ("local", "small_stage.py .* run test", 60),
    "kernel": ("local", "ipykernel_launcher", 60),
    "submitter": ("local", SUBMITTER, 60),
    "submitter on Slurm": (CLUSTER, SUBMITTER, 60),
    "Ctrl-C": ("local", SUBMITTER, 60),
    "Ctrl-C on Slurm": (CLUSTER, SUBMITTER, 60),
    "worker": (CLUSTER, "process_worker_pool.py", 60),
    "interchange": (CLUSTER, INTERCHANGE, 10),
    "slurmd": (CLUSTER, "", 60),
}
"""What is killed (SIGKILL; of Ctrl-C, SIGINT), by the executor, the pattern of its command, and the seconds after which
what still waits for the dead is ended, as its user would."""


def processes(pattern: str, folder: Path) -> list[int]:
    """Those that belong to a test's folder, by their command or where they work."""
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()
    mine = []
    for pid in map(int, found):
        with suppress(OSError):  # it has ended
            said = Path(f"/proc/{pid}/cmdline").read_text() + str(Path(f"/proc/{pid}/cwd").resolve())
            mine += [pid] * (str(folder) in said)
    return mine


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_is_killed_nothing_is_lost_or_counted_twice(victim: str, slurm: Path, tmp_path: Path) -> None:
    executor, pattern, patience = VICTIMS[victim]
    folder = asked(tmp_path, 3)
    options = {"SLURM_CONF": str(slurm), "PTYINT_TEST_PARSL": str(tmp_path / "parsl"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "small_stage.py"), str(folder), "sweep", "s.toml", "--executor"]
    sweep = subprocess.Popen([*command, executor], cwd=folder, env={**os.environ, **options})
    while not list(folder.glob("sweeps/s/trials/*/log")):
        time.sleep(0.05)
        assert sweep.poll() is None
    time.sleep(random.uniform(0, 4))
    killed = [] if pattern else [int(slurm.with_name("slurmd.pid").read_text())]
    while not killed and sweep.poll() is None:
        killed = processes(pattern, tmp_path)
    for pid in killed:
        os.kill(pid, signal.SIGINT if "Ctrl-C" in victim else signal.SIGKILL)
    try:
        code = sweep.wait(patience)
    except subprocess.TimeoutExpired:
        print(f"{victim}: the sweep still waits {patience} s after the kill")
        sweep.send_signal(signal.SIGINT)
        code = sweep.wait(120)
    before = [row.run if row.verdict == "pass" else "" for row in Sweep.load(folder / "sweeps" / "s").rows]
    print(f"{victim}: exit code {code}, {sum(map(bool, before))} of 3 trials passed")
    assert killed and (code != 0 or all(before))
    if "Ctrl-C" in victim:
        assert code == 1 and accounts(options) == "" and processes("small_stage.py", tmp_path) == []
    for pid in processes(INTERCHANGE, tmp_path):  # it outlives its submitter, and so does its job
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["scancel", "--user=root"], env={**os.environ, **options}, check=True)
    if victim == "slurmd":
        subprocess.run(["slurmd"], env={**os.environ, **options}, check=True)
    assert ptyint(folder, "sweep s.toml --retry", **options).returncode == 0
    assert [*results(folder).itertuples(index=False, name=None)] == undisturbed(3)
    after = [row.run for row in Sweep.load(folder / "sweeps" / "s").rows]
    assert all(old in ("", new) for old, new in zip(before, after, strict=True)), "nothing is done twice"
    (judged, *_) = sorted((folder / "sweeps" / "s" / "reports").glob("2*"), reverse=True)
    assert len((judged / "trials.csv").read_text().splitlines()) == 4
