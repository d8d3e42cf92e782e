"""Prove that red is possible: every fault of the catalogue on the ladder, and the score.

``python -m ptyint.parity.sensitivity FOLDER --only low`` tries the rungs that need no other backend, and measures the
control; ``... FOLDER --ids F04 F06`` climbs until the first red rung, against what the reference wrote to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptyint import backends
from ptyint.atomic import atomic_path
from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check, from_json, to_json
from ptyint.parity import cases, climb, measure, rungs
from ptyint.parity.faults import CATALOGUE, EVIDENCE, SIDE, SIZED, Context, Fault, SizedFault
from ptyint.parity.ladder import RUNGS, Finding, Ladder
from ptyint.parity.measure import Arrays, read, trace_file
from ptyint.parity.tolerances import PRECISIONS
from ptyint.processes import follow_parent

REFERENCE = "tensorflow"
CONTROL = "control"
NAMES = cases.PROFILES["quick"]
DRAWS = {"float64": cases.DRAWS["float64"]}
"""Optimiser steps in double precision: there the drift of rounding is smallest, and any fault largest beside it."""

EXPONENTS = (-16, 0)
"""Powers of ten between which a detection limit is sought."""

RIGHT = 0.9
"""At least this part of the faults must be named at the expected rung and tap."""


@dataclass(frozen=True)
class Outcome:
    """What the ladder said of one fault.

    Attributes
    ----------
    id : str
    rung, place : str
        Of the first divergence; empty where there was none.
    tap : str
    ratio : float
        Its error over its tolerance.
    n_consequences : int
    seconds : float
    """

    id: str
    rung: str = ""
    tap: str = ""
    place: str = ""
    ratio: float = 0.0
    n_consequences: int = 0
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        """Whether any rung was red."""
        return bool(self.rung)

    def at_the_right_place(self, fault: Fault) -> bool:
        """Whether the first red rung and tap are the expected ones."""
        return self.rung == fault.rung and self.tap.startswith(fault.taps)


@dataclass(frozen=True)
class Limit:
    """Smallest size of a fault, in powers of ten, that is still caught; and what it does to a reconstruction.

    Attributes
    ----------
    title, unit, rung : str
    size : float
        NaN: not even the largest was caught.
    change : float
        Relative change of the stitched object after a short training with a fault of that size.
    """

    title: str
    unit: str
    rung: str
    size: float
    change: float


# --- in the process of the faulty backend ---


class Climber:
    """Climbs with one backend until the first red rung. It is measured under a fault, and judged without.

    Parameters
    ----------
    folder : Path
        Where the reference, and the fault-free candidate, wrote what they measured.
    applied : callable, optional
        Gives the fault's context manager.
    seed : int
        As for :func:`ptyint.parity.measure.measure`.
    """

    def __init__(self, folder: Path, applied: Context = nullcontext, seed: int = 0) -> None:
        self.folder, self.applied, self.seed = folder, applied, seed
        self.backend: Any = backends.load(SIDE)

    def climb(self, low_only: bool = False) -> Ladder:
        """The ladder up to and with the first red rung."""
        below: tuple[Callable[[], list[Finding]], ...] = (self.contract, self.operator)
        above = (self.traced, self.optimiser, self.training, self.drift, self.persistence)
        found: list[Finding] = []
        for rung in below if low_only else (*below, *above):
            found += rung()
            if not all(finding.holds for finding in found):
                break
        return Ladder(REFERENCE, SIDE, "quick", tuple(found))

    def contract(self) -> list[Finding]:
        """Rung 0."""
        with self.applied():
            facts = {name: np.array(value) for name, value in measure.contract(SIDE, self.seed).items()}
        return rungs.contract({SIDE: facts}, self.seed)

    def operator(self) -> list[Finding]:
        """Rung 1."""
        with self.applied():
            arrays = measure.operators(self.backend, self.seed)
        return rungs.operator({SIDE: arrays}, self.seed)

    def traced(self, names: Sequence[str] = NAMES, precisions: Sequence[str] = ("float64", "float32")) -> list[Finding]:
        """Rungs 2 to 4: networks until one is red on rung 2, below which none can be."""
        found: list[Finding] = []
        for case in names:
            for precision in precisions:
                here = self._trace(case, precision)
                found += here
                if any(finding.rung == "forward" and not finding.holds for finding in here):
                    return sorted(found, key=lambda finding: RUNGS.index(finding.rung))
        return sorted(found, key=lambda finding: RUNGS.index(finding.rung))

    def _trace(self, case: str, precision: str) -> list[Finding]:
        """One network; where it is red, once more with reference injection."""
        reference = read(self.folder, trace_file(REFERENCE, f"{case}/{precision}"))

        def traced(given: Callable[[str], Arrays] | None = None) -> Arrays:
            with self.applied():
                ((_, arrays),) = measure.traces(self.backend, [case], given, [precision], self.seed)
            return arrays

        pair = {REFERENCE: reference, SIDE: traced()}
        found = rungs.trace(case, precision, pair, {}, self.seed)
        if not all(finding.holds for finding in found):
            found = rungs.trace(case, precision, pair, traced(lambda _: reference), self.seed)
        return found

    def optimiser(self) -> list[Finding]:
        """Rung 5: Adam against the referee's."""
        with self.applied():
            arrays = measure.optimiser(self.backend, self.seed)
        return rungs.optimiser({SIDE: arrays})

    def training(self) -> list[Finding]:
        """Rung 5: a short training. Its bundles stay in a folder of this process."""
        return rungs.training({REFERENCE: read(self.folder, f"{REFERENCE}.training"), SIDE: self.train()})

    def train(self) -> Arrays:
        """What a short training gives."""
        with self.applied():
            self.trained = measure.training(SIDE, self.backend, self._own(), self.seed)
        return self.trained

    def drift(self) -> list[Finding]:
        """Rung 5: drift, beside that of the fault-free candidate and of the reference after a move by one ulp."""
        with self.applied():
            arrays = measure.steps(self.backend, dict.fromkeys(DRAWS, 0), self.seed)
        control = read(self.folder, f"{SIDE}.step")
        arrays |= {key: array for key, array in control.items() if "/moved/" in key}
        return rungs.step({REFERENCE: read(self.folder, f"{REFERENCE}.step"), SIDE: arrays}, tuple(DRAWS))

    def persistence(self) -> list[Finding]:
        """Rung 6, in this process, where the fault is."""
        with self.applied():
            loaded = measure.reload(SIDE, self._own(), (SIDE,)) | measure.reload(SIDE, self.folder, (REFERENCE,))
        trained = {REFERENCE: read(self.folder, f"{REFERENCE}.training"), SIDE: self.trained}
        return rungs.persistence(trained, {SIDE: loaded})

    def _own(self) -> Path:
        own = self.folder / f"own-{os.getpid()}"
        own.mkdir(exist_ok=True)
        return own


def outcome(folder: Path, id: str, low_only: bool = False) -> Outcome:
    """Climb under a fault of the catalogue, or under none (`CONTROL`)."""
    start = time.perf_counter()
    climber = Climber(folder, nullcontext if id == CONTROL else CATALOGUE[id].applied)
    divergence = climber.climb(low_only).divergence
    seconds = time.perf_counter() - start
    if divergence is None:
        return Outcome(id, seconds=seconds)
    one = divergence.finding
    return Outcome(id, one.rung, one.tap, one.place, one.ratio, len(divergence.consequences), seconds)


def limit(folder: Path, fault: SizedFault) -> Limit:
    """Bisect powers of ten for the smallest size that the fault's rung catches."""

    def climber(exponent: int) -> Climber:
        return Climber(folder, lambda: fault.applied(10.0**exponent))

    def caught(exponent: int) -> bool:
        one = climber(exponent)
        look: dict[str, Callable[[], list[Finding]]] = {
            "operator": one.operator,
            "forward": lambda: one.traced(["gridsize 2"], ["float64"]),
            "step": one.optimiser,
        }
        return not all(finding.holds for finding in look[fault.rung]())

    low, high = EXPONENTS
    if not caught(high):
        return Limit(fault.title, fault.unit, fault.rung, math.nan, math.nan)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if caught(middle) else (middle, high)
    arrays, control = climber(high).train(), read(folder, f"{SIDE}.training")
    changes = [
        float(np.linalg.norm(arrays[key] - control[key]) / np.linalg.norm(control[key]))
        for key in (f"{gridsize}/stitched" for gridsize in cases.TRAINING)
        if key in arrays
    ]
    return Limit(fault.title, fault.unit, fault.rung, 10.0**high, max(changes, default=math.nan))


def main() -> None:
    """Parse the command line, try faults, write ``FOLDER/<name>.json``."""
    follow_parent()
    parser = argparse.ArgumentParser(description="Try faults on the parity ladder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="low", help="of the file that gets the outcomes")
    parser.add_argument("--ids", nargs="*", default=None, help="faults to climb with; default: all, on rungs 0 and 1")
    parser.add_argument("--sized", nargs="*", type=int, default=[], help="numbers of faults with a size")
    options = parser.parse_args()
    low = options.ids is None
    ids = [CONTROL, *CATALOGUE] if low else options.ids
    outcomes = [outcome(options.folder, id, low) for id in ids]
    if low:
        measure.measure(SIDE, options.folder, (), DRAWS)
    limits = [limit(options.folder, SIZED[number]) for number in options.sized]
    values = {"outcomes": [_plain(one) for one in outcomes], "limits": [_plain(one) for one in limits]}
    with atomic_path(options.folder / f"{options.name}.json") as path:
        path.write_text(json.dumps(values))


def _plain(one: Outcome | Limit) -> dict[str, Any]:
    return {key: to_json(v) if isinstance(v, float) else v for key, v in asdict(one).items()}


# --- the score ---


@dataclass(frozen=True)
class Score:
    """Every fault and what became of it.

    Attributes
    ----------
    faults : tuple of Fault
    outcomes : dict of str to Outcome
        By id, the control among them; one that is missing was not tried.
    limits : tuple of Limit
    evidence : str
        Verdict of the evidence engine on a skipped test.
    commands : tuple of dict
    """

    faults: tuple[Fault, ...]
    outcomes: dict[str, Outcome]
    limits: tuple[Limit, ...]
    evidence: str
    commands: tuple[dict[str, Any], ...]

    @property
    def n_seeded(self) -> int:
        """Faults in all, that of the evidence engine included."""
        return len(self.faults) + 1

    @property
    def uncaught(self) -> list[str]:
        """Ids and titles of the faults that slipped through, or were not tried."""
        slipped = [f"{f.id} {f.title}" for f in self.faults if not self._of(f).caught]
        return slipped + ([f"{EVIDENCE} {EVIDENCE_TITLE}"] if self.evidence in ("", "pass") else [])

    @property
    def n_right(self) -> int:
        """Faults that were named at the expected rung and tap."""
        return sum(self._of(f).at_the_right_place(f) for f in self.faults) + (self.evidence not in ("", "pass"))

    @property
    def weakest(self) -> Outcome | None:
        """The catch with the smallest margin."""
        caught = [self._of(f) for f in self.faults if self._of(f).caught]
        return min(caught, key=lambda one: one.ratio, default=None)

    @property
    def control(self) -> Outcome | None:
        """What the ladder said without a fault."""
        return self.outcomes.get(CONTROL)

    def _of(self, fault: Fault) -> Outcome:
        return self.outcomes.get(fault.id, Outcome(fault.id))

    @property
    def sentence(self) -> str:
        """The score in words."""
        weakest = self.weakest
        margin = (
            f"; the weakest catch, {weakest.id}, lies {weakest.ratio:.3g} times over its tolerance" if weakest else ""
        )
        slipped = f" Not caught: {'; '.join(self.uncaught)}." if self.uncaught else ""
        n_caught = self.n_seeded - len(self.uncaught)
        return (
            f"{n_caught} of {self.n_seeded} seeded faults were caught, {self.n_right} of them "
            f"at the expected rung and tap{margin}.{slipped}"
        )

    def checks(self) -> list[Check]:
        """One check a fault, one for the control, one for the places; see :func:`check_names`."""
        control, tried = self.control, self.outcomes.keys()
        found = [
            Check.fact(
                NO_FALSE_ALARM, None if control is None else not control.caught, control.place if control else ""
            )
        ]
        for fault in self.faults:
            one = self._of(fault)
            words = f"rung {one.rung}, {one.place}" if one.caught else "not caught"
            found.append(Check.fact(_caught(fault.id, fault.title), one.caught if fault.id in tried else None, words))
        words = f"verdict: {self.evidence}"
        found.append(
            Check.fact(_caught(EVIDENCE, EVIDENCE_TITLE), self.evidence != "pass" if self.evidence else None, words)
        )
        return [*found, Check(PLACES, self.n_right / self.n_seeded if tried else None, ">=", RIGHT)]


NO_FALSE_ALARM = "without a fault every rung holds"
PLACES = "share of faults named at the expected rung and tap"
EVIDENCE_TITLE = "the test is skipped, and its log says green"


def check_names() -> list[str]:
    """Names of the checks of :meth:`Score.checks`, known before anything is tried."""
    caught = [_caught(fault.id, fault.title) for fault in CATALOGUE.values()]
    return [NO_FALSE_ALARM, *caught, _caught(EVIDENCE, EVIDENCE_TITLE), PLACES]


def _caught(id: str, title: str) -> str:
    return f"{id} is caught: {title}"


def score(folder: str | os.PathLike[str], ids: Sequence[str] = (), *, timeout: float = 1200.0) -> Score:
    """Seed every fault (or those of `ids`), climb, and count.

    Parameters
    ----------
    folder : path-like
        Gets ``sensitivity.json`` and a log of each process; must exist.
    ids : sequence of str
        Empty: the whole catalogue.
    timeout : float
        Seconds for each process.

    Raises
    ------
    ConfigError
        An unknown id.
    """
    for id in ids:
        if id not in CATALOGUE:
            raise ConfigError(f"No fault has the id {id!r}; they are {', '.join(CATALOGUE)}.")
    faults = tuple(fault for fault in CATALOGUE.values() if not ids or fault.id in ids)
    target = Path(folder)
    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name:
        scratch = Path(name)
        draws = ["--draws", *(str(DRAWS.get(precision, 0)) for precision in PRECISIONS)]
        commands = _run(
            [
                ("ptyint.parity.measure", "reference", (REFERENCE, str(scratch), *draws)),
                ("ptyint.parity.sensitivity", "low", (str(scratch), "--name", "low")),
            ],
            target,
            timeout,
        )
        outcomes, limits = dict(_outcomes(scratch, "low")), list[Limit]()
        low = {fault.id for fault in faults if outcomes.get(fault.id, Outcome("")).caught}
        shares = _shares([CONTROL, *(fault.id for fault in faults if fault.id not in low)])
        later = [
            ("ptyint.parity.sensitivity", share, (str(scratch), "--name", share, "--ids", *members, "--sized", *sized))
            for share, members, sized in shares
        ]
        commands += _run(later, target, timeout)
        for share, *_ in shares:
            outcomes |= dict(_outcomes(scratch, share))
            limits += _limits(scratch, share)
    done = Score(faults, outcomes, tuple(limits), skipped_test(), tuple(commands))
    _save(done, target / "sensitivity.json")
    return done


def _shares(ids: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """Two shares of faults, and of the faults with a size, for two cores."""
    numbers = [str(number) for number in range(len(SIZED))]
    return [(f"share{i}", list(ids[i::2]), numbers[1 - i :: 2]) for i in range(2)]


def _run(jobs: Sequence[tuple[str, str, Sequence[str]]], folder: Path, timeout: float) -> list[dict[str, Any]]:
    def one(job: tuple[str, str, Sequence[str]]) -> dict[str, Any]:
        module, name, arguments = job
        return climb.process(module, arguments, folder / f"sensitivity.{name}.log", timeout)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, jobs))


def _outcomes(scratch: Path, name: str) -> Iterator[tuple[str, Outcome]]:
    for values in _values(scratch, name, "outcomes"):
        yield values["id"], Outcome(**{**values, **{key: from_json(values[key]) for key in ("ratio", "seconds")}})


def _limits(scratch: Path, name: str) -> list[Limit]:
    found = _values(scratch, name, "limits")
    return [Limit(**{**values, **{key: from_json(values[key]) for key in ("size", "change")}}) for values in found]


def _values(scratch: Path, name: str, what: str) -> list[dict[str, Any]]:
    path = scratch / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())[what] if path.is_file() else []
    return found


def skipped_test() -> str:
    """F20: what the evidence engine makes of a test that is skipped while pytest exits with 0."""
    from ptyint.cycles import GRIDSIZES, SELECTORS, Cycles, checks
    from ptyint.evidence.checks import worst
    from ptyint.testruns import run_tests

    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name:
        scratch = Path(name)
        test = scratch / "test_integration_workflow_torch.py"
        test.write_text(
            "import pytest\n\n@pytest.mark.skip(reason='torch was not there')\n"
            "@pytest.mark.parametrize('n', [1, 2], ids=['gridsize1', 'gridsize2'])\ndef test_full_cycle(n):\n    pass\n"
        )
        run = run_tests([str(test), "-c", os.devnull, "--rootdir", str(scratch)], scratch / "log")
        if run.exit_code != 0 or len(run.outcomes) != 2:
            return ""
        ids = [f"{selector[0]}::test_full_cycle[gridsize{g}]" for selector in SELECTORS.values() for g in GRIDSIZES]
        outcomes = dict(zip(ids, [*run.outcomes.values()] * 2, strict=True))
        runs = {backend: replace(run, outcomes=outcomes) for backend in SELECTORS}
        return worst(check.verdict for check in checks(Cycles(runs, dict.fromkeys(GRIDSIZES)))[: len(ids)])


def _save(done: Score, path: Path) -> None:
    values = {
        "score": done.sentence,
        "outcomes": [
            {
                **_plain(done.outcomes[fault.id]),
                "title": fault.title,
                "upstream": fault.upstream,
                "expected": fault.rung,
            }
            for fault in done.faults
            if fault.id in done.outcomes
        ],
        "limits": [_plain(one) for one in done.limits],
        "evidence": done.evidence,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
