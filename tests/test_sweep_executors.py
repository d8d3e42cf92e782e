"""Sweeps on a real Slurm and with other executors, and what is killed while they go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from small_stage import ROOT, made, ptyint

from ptyint.evidence.sweep import Sweep

SLURM = Path(__file__).parent / "slurm"
CLUSTER = f"parsl:{SLURM / 'cluster.py'}"
HANGS = 60.0
"""Seconds after a kill, when what still waits for the dead is ended, as its user would."""


def asked(folder: Path, n: int, name: str = "s") -> Path:
    names = [f"trial {number}" for number in range(n)]
    (folder / f"{name}.toml").write_text(f'[every]\nstages = "test"\n[axes]\nname = {names}')
    return made(folder)


def green(folder: Path, name: str = "s") -> dict[str, str]:
    frame = Sweep.load(folder / "sweeps" / name).frame
    return {row.trial: row.verdict for row in frame.itertuples()}


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


@pytest.mark.slow
def test_twelve_trials_on_slurm_are_the_same_as_locally(slurm: Path, tmp_path: Path) -> None:
    folder = asked(asked(tmp_path, 12), 12, "local")
    options = {"SLURM_CONF": str(slurm), "PTYINT_TEST_PARSL": str(tmp_path / "parsl")}
    done = ptyint(folder, f"sweep s.toml --executor {CLUSTER}", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    accounts = subprocess.run(["squeue", "-h"], env={**os.environ, **options}, capture_output=True, text=True)
    assert accounts.stdout == "", "its jobs are over"
    assert ptyint(folder, "sweep local.toml").returncode == 0
    assert green(folder) == green(folder, "local") and len(green(folder)) == 12
    assert set(green(folder).values()) == {"pass"}


def test_any_executor_will_do(tmp_path: Path) -> None:
    folder = asked(tmp_path, 2)
    (folder / "mine.py").write_text(
        "from concurrent.futures import ProcessPoolExecutor\ndef pool():\n    return ProcessPoolExecutor(2)\n"
    )
    assert ptyint(folder, "sweep s.toml --executor mine:pool").returncode == 0
    assert list(green(folder).values()) == ["pass"] * 2


VICTIMS = {
    "trial": ("local", "small_stage.py .* run test"),
    "kernel": ("local", "ipykernel_launcher"),
    "submitter": ("local", "small_stage.py .* sweep s.toml"),
    "submitter on Slurm": (CLUSTER, "small_stage.py .* sweep s.toml"),
    "worker": (CLUSTER, "process_worker_pool.py"),
    "interchange": (CLUSTER, "HTEX interchange|interchange.py"),
    "slurmd": (CLUSTER, ""),
}
"""What is killed (SIGKILL), by the executor and the pattern of its command."""


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
    executor, pattern = VICTIMS[victim]
    folder = asked(tmp_path, 4)
    options = {"SLURM_CONF": str(slurm), "PTYINT_TEST_PARSL": str(tmp_path / "parsl"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "small_stage.py"), str(folder), "sweep", "s.toml", "--executor"]
    sweep = subprocess.Popen([*command, executor], cwd=folder, env={**os.environ, **options})
    while not list(folder.glob("sweeps/s/trials/*/log")):
        time.sleep(0.05)
        assert sweep.poll() is None
    time.sleep(random.uniform(0, 6))
    killed = [] if pattern else [int(slurm.with_name("slurmd.pid").read_text())]
    while not killed and sweep.poll() is None:
        killed = processes(pattern, tmp_path)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    try:
        code = sweep.wait(HANGS)
    except subprocess.TimeoutExpired:
        print(f"{victim}: the sweep still waits {HANGS:.0f} s after the kill")
        sweep.send_signal(signal.SIGINT)
        code = sweep.wait(HANGS)
    for pid in processes(VICTIMS["interchange"][1], tmp_path):  # it outlives its submitter, and so does its job
        os.kill(pid, signal.SIGKILL)
    subprocess.run(["scancel", "--user=root"], env={**os.environ, **options}, check=True)
    if victim == "slurmd":
        subprocess.run(["slurmd"], env={**os.environ, **options}, check=True)
    assert killed and (code != 0 or set(green(folder).values()) == {"pass"})
    assert ptyint(folder, "sweep s.toml --retry", **options).returncode == 0
    assert list(green(folder).values()) == ["pass"] * 4
    (judged, *_) = sorted((folder / "sweeps" / "s" / "reports").glob("2*"), reverse=True)
    assert len((judged / "trials.csv").read_text().splitlines()) == 5
