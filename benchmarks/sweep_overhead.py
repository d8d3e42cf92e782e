"""What a sweep costs beyond its trials: the engine, its memory, and the records and page of many trials.

    python benchmarks/sweep_overhead.py engine --trials 1000
    python benchmarks/sweep_overhead.py records --trials 10000

`engine` runs trials that do nothing (``true``: they do not report, and the sweep is red): seconds a trial, and the
most memory that the submitter took. `records` makes the records of trials that ended, judges them as ``ptyint sweep``
does at its end, and opens the page in Chromium.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ptyint.cli  # noqa: F401 (as in a sweep)
from ptyint.evidence import run as runner
from ptyint.evidence import sweep as sweeps
from ptyint.evidence.sweep import Margin, Plan, Row, Sweep, Trial

CANDIDATE, REFERENCE = (f"compare: phase correlation with the truth, {name}" for name in ("PyTorch", "TensorFlow"))


def of(folder: Path, n: int) -> Sweep:
    axes = [
        {"fixture": f"scan-{i // 30 % 17}", "gridsize": 1 + i // 510 % 2, "width": i // 1020, "seed": i % 30}
        for i in range(n)
    ]
    trials = [Trial(key=f"{i:064x}", axes=one, command=["run"]) for i, one in enumerate(axes)]
    margin = Margin(candidate=CANDIDATE, reference=REFERENCE, margin=0.02)
    return Sweep(folder=folder, plan=Plan(equivalence=[margin]), trials=trials)


def engine(folder: Path, n: int, workers: int) -> dict[str, float]:
    sweeps.PROGRAM = ("true",)
    start = time.monotonic()
    sweeps.run(of(folder, n), partial(ThreadPoolExecutor, workers), ["ptyint", "sweep"])
    seconds = time.monotonic() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = seconds * workers / n
    return {"trials": n, "seconds": seconds, "seconds_a_trial": each, "of_60_s": each / 60, "submitter_mib": mib}


def records(folder: Path, n: int) -> dict[str, float]:
    sweep, chance = of(folder, n), random.Random(0)
    for one in sweep.trials:
        value = chance.gauss(0.95, 0.01)
        numbers = {
            REFERENCE: value,
            CANDIDATE: value + chance.gauss(0, 0.01),
            **{f"compare: {k}": 1.0 for k in range(12)},
        }
        verdict = chance.choice(["pass"] * 20 + ["fail"])
        Row(verdict=verdict, run="2026-01-01T000000Z", seconds=60, numbers=numbers).save(sweep.where(one))
    (folder / sweeps.NAME).write_text(sweep.model_dump_json())
    start = time.monotonic()
    shape = Sweep.load(folder).frame.shape
    aggregated = time.monotonic() - start
    job = runner.Job("sweep", "sweep", "many", "sweep", {"sweep_dir": str(folder)}, sweep.criteria(), (sweeps.TABLE,))
    done = runner.run([job], reports=folder / "reports", ledger=folder / "fix_plan.md", argv=["ptyint", "sweep"])
    judged = time.monotonic() - start
    page = done.folder / "sweep.html"
    opened = min(_opened(page) for _ in range(3)) - min(_opened("about:blank") for _ in range(3))
    return {
        "trials": n, "columns": shape[1], "frame_s": aggregated, "frame_and_page_s": judged,
        "page_mib": page.stat().st_size / 2**20, "browser_s_above_an_empty_page": opened,
    }  # fmt: skip


def _opened(page: Path | str) -> float:
    program = shutil.which("chromium") or "chromium"
    start = time.monotonic()
    where = page.as_uri() if isinstance(page, Path) else page
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", where]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["engine", "records"])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        where = Path(name) / "many"
        where.mkdir()
        found = records(where, given.trials) if given.what == "records" else engine(where, given.trials, given.workers)
    print(json.dumps(found, indent=1))
