"""How often the ladder raises an alarm where there is no fault: the whole ladder, over seeds.

    python benchmarks/false_alarms.py 20 --draws 0 1

Each seed gives other groups, weights, batches and operands. `--draws` are the reruns of rung 5 in single and in double
precision (0: not stepped); fewer are quicker, and stricter, since the yardstick is the largest of them. Prints a line a
seed, and the largest error over its tolerance of each rung over all of them; exits with 1 if any rung was ever red.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time

from ptyint.parity.ladder import Climb
from ptyint.parity.problems import DRAWS, Problems
from ptyint.parity.results import Ladder


def worst(ladder: Ladder) -> dict[str, tuple[float, str]]:
    """Largest error over tolerance of each judged rung and precision, and where."""
    found: dict[str, tuple[float, str]] = {}
    for one in ladder.rows:
        if one.rung != "cost":
            name = f"{one.rung} {one.precision}".strip()
            found[name] = max(found.get(name, (0.0, "")), (one.ratio, one.place))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, help="seeds to try")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--draws", type=int, nargs=2, default=tuple(DRAWS.values()))
    options = parser.parse_args()
    draws = {precision: n for precision, n in zip(DRAWS, options.draws, strict=True) if n}
    highest: dict[str, tuple[float, str]] = {}
    alarms = 0
    for seed in range(options.first, options.first + options.n):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            with Climb(folder, problems=Problems(seed=seed, draws=draws)) as climb:
                ladder = climb.finish()
        judged = [one for one in ladder.rows if one.rung != "cost"]
        red = [f"{one.rung}: {one.place} {one.ratio:.3g}" for one in judged if not one.holds]
        alarms += bool(red)
        highest = {name: max(highest.get(name, (0.0, "")), found) for name, found in worst(ladder).items()}
        print(f"seed {seed}, {time.monotonic() - start:.0f} s: {'; '.join(red[:5]) or 'no alarm'}", flush=True)
    print(f"{alarms} alarms in {options.n} fault-free ladders; largest error over its tolerance:")
    for name, (ratio, place) in highest.items():
        print(f"  {name:22} {ratio:<8.3g} {place}")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
