"""How often the ladder raises an alarm where there is no fault: the whole ladder, over seeds.

    python benchmarks/false_alarms.py 20

Each seed gives other groups, weights, batches and operands. Prints a line a seed, and the largest error over its
tolerance of each rung over all of them; exits with 1 if any rung was ever red.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time

from ptyint.parity.ladder import Climb
from ptyint.parity.problems import Problems
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
    options = parser.parse_args()
    highest: dict[str, tuple[float, str]] = {}
    alarms = 0
    for seed in range(options.first, options.first + options.n):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            with Climb(folder, problems=Problems(seed=seed)) as climb:
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
