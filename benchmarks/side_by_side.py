"""Training and inference of each backend beside PtychoPINN's of the same framework: samples per CPU second, as ratios.

The same scan, width and batch size go through `ptyint.reconstruct` and through PtychoPINN's own workflow, in a
process of its own each; they take turns, so that all see the same machine. What a training or an inference costs once
(loading, building, tracing, saving) is taken off by the difference of a long and a short one:

    python benchmarks/side_by_side.py [--gridsize 2] [--fixture NAME] [--epochs 4] [--rounds 3]

PtychoPINN must be installed beside ptyint: docs/backends.md. At gridsize 2 it makes groups of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FRAMEWORKS = ("tensorflow", "pytorch")
M = 20


def cpu_seconds() -> float:
    """Of this process, its threads and the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def serve(backend: str, gridsize: int, fixture: str) -> None:
    """Answer each line of standard input, ``train EPOCHS`` or ``infer PARTS``, with the CPU seconds that it took."""
    from dataclasses import replace

    from ptyint import assemble, dispatcher, load_fixture, reconstruct
    from ptyint.config import ModelConfig, TrainingConfig
    from ptyint.images import workflow

    answers, scan = os.fdopen(os.dup(1), "w"), load_fixture(fixture)
    os.dup2(2, 1)  # what libraries print
    config = TrainingConfig(ModelConfig(N=scan.N, gridsize=gridsize, n_filters_scale=1), batch_size=16, backend=backend)
    patterns, positions = scan.diffraction_patterns[::2], scan.probe_positions_px[::2]
    half = replace(scan, diffraction_patterns=patterns, probe_positions_px=positions, object_patches=None)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            what, number = line.split()
            given, begin = (half if what == "infer" and number == "2" else scan), cpu_seconds()
            if what == "train":
                asked = replace(config, nepochs=int(number))
                made = reconstruct if "weights" in dispatcher.select_backend(config).capabilities else workflow.run
                made(given, asked, folder, M=M)
            elif "weights" in dispatcher.select_backend(config).capabilities:
                applied = config.applied(model_path=Path(folder, "wts.h5.zip"), M=M, output_dir=Path(folder))
                assemble(dispatcher.infer(given, applied, keep=False), Path(folder))
            else:
                workflow.reload(given, config, folder, M)
            print(json.dumps([cpu_seconds() - begin, given.n]), file=answers, flush=True)


def main() -> None:
    """Print, for each framework, samples per CPU second of both and their ratio, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gridsize", type=int, default=1, choices=(1, 2))
    parser.add_argument("--fixture", default="synthetic-64", help="what is trained on: `ptyint fixtures`")
    parser.add_argument("--epochs", type=int, default=4, help="of the long training; the short one has one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.gridsize, options.fixture)
        return
    rates: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in (f"{theirs}{framework}" for framework in FRAMEWORKS for theirs in ("", "ptychopinn-")):
            given = ["--gridsize", str(options.gridsize), "--fixture", options.fixture]
            command = [sys.executable, __file__, "--serve", name, *given]
            log = stack.enter_context(tempfile.TemporaryFile())
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            sides[name] = (stack.enter_context(subprocess.Popen(command, **pipes)), log)

        def took(name: str, what: str) -> tuple[float, int]:
            process, log = sides[name]
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                log.seek(0)
                sys.exit(f"{name} ended: {log.read().decode(errors='replace')[-2000:]}")
            seconds, n = json.loads(answer)
            return seconds, n

        for turn in range(options.rounds + 1):  # the first one warms up
            for name in sides:
                once, n = took(name, "train 1")
                long, _ = took(name, f"train {options.epochs}")
                all_, n = took(name, "infer 1")
                some, fewer = took(name, "infer 2")
                found = (options.epochs - 1) * n / (long - once), (n - fewer) / (all_ - some)
                for what, rate in zip(("training", "inference"), found, strict=True):
                    rates.setdefault((what, name), []).extend([rate] * (turn > 0))
                print(f"round {turn}, {name}: {found[0]:.1f} trained, {found[1]:.1f} inferred a CPU second", flush=True)
        for process, _ in sides.values():
            process.stdin.close()
    for what in ("training", "inference"):
        for framework in FRAMEWORKS:
            ours, theirs = rates[what, framework], rates[what, f"ptychopinn-{framework}"]
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            middle = [statistics.median(one) for one in (ours, theirs, ratios)]
            print(f"{what}, {framework}: {middle[0]:.1f} against {middle[1]:.1f} samples a CPU second; ", end="")
            print(f"ratio {middle[2]:.2f}, round by round {', '.join(f'{one:.2f}' for one in ratios)}")


if __name__ == "__main__":
    main()
