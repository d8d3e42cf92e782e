"""Notebooks that run at once: what waits for what, what runs alone, how many threads, what is seen meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from evidence_notebooks import PASSES, job, write

from ptyint import cli
from ptyint.evidence import manifest
from ptyint.evidence import run as runner
from ptyint.evidence.environment import usable_cores
from ptyint.evidence.run import Finished, Job
from ptyint.evidence.verification import verify

TIMES = """
import json, os, time
begin = time.time()
time.sleep(1.5)
threads = os.environ.get("OMP_NUM_THREADS")
open(f"{name}.json", "w").write(json.dumps([begin, time.time(), threads]))
"""


def together(folder: Path, *jobs: Job, side_by_side: int) -> Finished:
    where = {"reports": folder / "reports", "ledger": folder / "docs" / "fix_plan.md"}
    return runner.run(jobs, **where, argv=["ptyint", "run", "test"], side_by_side=side_by_side)


def timed(folder: Path, name: str, **options: object) -> Job:
    path = write(folder / f"{name}.ipynb", TIMES, PASSES, parameters=f"size = 3\nname = {name!r}")
    return job(path, "size", name=name, artifacts=(f"{name}.json",), **options)


def test_what_needs_nothing_runs_at_once_what_needs_it_afterwards_and_alone_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [
        timed(tmp_path, "alone", alone=True),
        timed(tmp_path, "first"),
        timed(tmp_path, "then", needs=("first", "not of this run")),
        timed(tmp_path, "beside"),
    ]
    done = together(tmp_path, *jobs[1:], jobs[0], side_by_side=2)
    assert done.verdict == "pass" and verify(done.folder, tmp_path / "docs" / "fix_plan.md").green
    times = {one.name: json.loads((done.folder / f"{one.name}.json").read_text()) for one in jobs}
    assert times["first"][0] < times["beside"][1] and times["beside"][0] < times["first"][1]
    assert times["then"][0] > times["first"][1]
    assert all(times["alone"][0] > times[name][1] for name in ("first", "then", "beside"))
    share = str(max(1, usable_cores() // 2))
    assert {name: threads for name, (_, _, threads) in times.items()} == {
        "alone": share, "first": share, "then": share, "beside": share
    }  # fmt: skip
    assert [entry.name for entry in manifest.read(done.folder).notebooks] == ["first", "then", "beside", "alone"]


def test_what_the_user_set_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    done = together(tmp_path, timed(tmp_path, "one"), side_by_side=2)
    assert json.loads((done.folder / "one.json").read_text())[2] == "7"


def test_a_page_to_look_at_while_the_rest_runs_says_that_it_is_unfinished(tmp_path: Path) -> None:
    slow = write(
        tmp_path / "slow.ipynb", "import time, pathlib\nwhile not pathlib.Path('seen').exists(): time.sleep(0.1)"
    )
    jobs = [job(write(tmp_path / "n.ipynb", PASSES), "size"), job(slow, name="slow")]
    seen: dict[str, str] = {}

    def look() -> None:
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            for page in (tmp_path / "reports").glob(".*.partial/index.html"):
                seen["index"], seen["page"] = page.read_text(), page.with_name("small.html").read_text()
                seen["verified"] = str(verify(page.parent, alone=True).green)
                page.with_name("seen").touch()
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=look)
    watcher.start()
    done = together(tmp_path, *jobs, side_by_side=2)
    watcher.join()
    assert "UNFINISHED: 1 of 2 notebooks have ended so far." in seen["index"] and "✓ PASS" not in seen["index"]
    assert "(not ended yet)" in seen["index"] and "✓ PASS" in seen["page"] and seen["verified"] == "False"
    final = (done.folder / "index.html").read_text()
    assert done.verdict == "pass" and "UNFINISHED" not in final and "✓ PASS" in final


def test_a_stop_ends_every_notebook_that_runs(tmp_path: Path) -> None:
    cell = "import os, time\nopen(f'{name}.pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    names = ("one", "two")
    jobs = [
        job(write(tmp_path / f"{name}.ipynb", cell, parameters=f"name = {name!r}"), name=name)
        for name in (*names, "three")
    ]

    def stop() -> None:
        limit = time.monotonic() + 60
        while len(list((tmp_path / "reports").glob(".*.partial/*.pid"))) < 2 and time.monotonic() < limit:
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    done = together(tmp_path, *jobs, side_by_side=2)
    content = manifest.read(done.folder)
    assert done.verdict == "fail" and content.errors == ["The run was interrupted by SIGTERM."]
    assert [entry.stopped for entry in content.notebooks] == ["the run was interrupted"] * 2 + ["it was not started"]
    assert verify(done.folder).problems == ()
    for name in names:
        assert not Path("/proc", (done.folder / f"{name}.pid").read_text()).exists()


def test_jobs_is_a_number_of_at_least_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--jobs", "0"]) == 2
    assert "0 is not in the range x>=1" in capsys.readouterr().err
