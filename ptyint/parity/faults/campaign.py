"""Prove that red is possible: every fault of the catalogue on the ladder, once none, and the score."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ptyint._atomic import write_text
from ptyint.evidence.checks import to_json
from ptyint.evidence.processes import SCRATCH_VARIABLE
from ptyint.parity.compare import plain
from ptyint.parity.configurations import SAVED
from ptyint.parity.faults.catalogue import BUILT_IN, EVIDENCE
from ptyint.parity.faults.fault import Catalogue, Fault, catalogue_of
from ptyint.parity.faults.injection import SIDE
from ptyint.parity.faults.trial import CONTROL, REFERENCE, ROUNDING, Limit, Outcome
from ptyint.parity.ladder import Climb, run_module
from ptyint.parity.rungs import CAPTURES, NUMBERS, training
from ptyint.parity.rungs.rung import file_name
from ptyint.parity.worker import Worker, give

NAME = "sensitivity.json"

Part = tuple[str, str, str]
"""Backend, capture and its part."""

LEFT = "captured"
"""Folder of a run where the ladder leaves that, if it has it."""


@dataclass(frozen=True)
class Campaign:
    """Every fault and what became of it.

    Attributes
    ----------
    faults : tuple of Fault
    tried : dict of str to Outcome
        By id, the control among them; one that is missing was not tried.
    limits : tuple of Limit
    rounding : float
        What a move of the initial weights by one ulp changes in a reconstruction, to read the limits' changes by; NaN
        where it was not measured.
    commands : tuple of dict
        What ran, for a run's record.
    """

    faults: tuple[Fault, ...]
    tried: dict[str, Outcome]
    limits: tuple[Limit, ...] = ()
    rounding: float = math.nan
    commands: tuple[dict[str, Any], ...] = ()

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """A row for each fault.

        Columns: id, title, upstream, expected, expected_tap; then those of :class:`Outcome`; `caught`, None where it
        was not tried; `right`, whether the first red rung and tap are the expected ones.
        """
        rows = []
        for fault in self.faults:
            one = self.tried.get(fault.id, Outcome(fault.id, ratio=math.nan))
            row = {
                "id": fault.id,
                "title": fault.title,
                "upstream": fault.upstream,
                "expected": fault.rung,
                "expected_tap": ", ".join(filter(None, (fault.tap, fault.operand))),
                **asdict(one),
                "caught": one.caught if fault.id in self.tried else None,
                "right": one.at_the_right_place(fault),
            }
            rows.append(row)
        return pd.DataFrame(rows).astype({"step": "Int64", "caught": object})

    @property
    def control(self) -> Outcome | None:
        """What the ladder said without a fault."""
        return self.tried.get(CONTROL)

    @property
    def weakest(self) -> Outcome | None:
        """The catch with the smallest margin."""
        caught = [one for id, one in self.tried.items() if one.caught and id not in (CONTROL, EVIDENCE.id)]
        return min(caught, key=lambda one: one.ratio, default=None)

    @property
    def sentence(self) -> str:
        """The score in words."""
        caught = self.outcomes["rung"] != ""
        margin, weakest = "", self.weakest
        if weakest is not None:
            margin = f"; the weakest catch, {weakest.id}, lies {weakest.ratio:.3g} times over its tolerance"
        slipped = [f"{row.id} {row.title}" for row in self.outcomes[~caught].itertuples()]
        return (
            f"{caught.sum()} of {len(caught)} seeded faults were caught, {self.outcomes['right'].sum()} of them "
            f"at the expected rung and tap{margin}." + (f" Not caught: {'; '.join(slipped)}." if slipped else "")
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, whole or not at all."""
        outcomes = [
            {**plain(self.tried[fault.id]), "title": fault.title, "upstream": fault.upstream, "expected": fault.rung}
            for fault in self.faults
            if fault.id in self.tried
        ]
        values = {
            "version": 3,
            "score": self.sentence,
            "outcomes": outcomes,
            "limits": [plain(one) for one in self.limits],
            "rounding": to_json(self.rounding),
        }
        write_text(path, json.dumps(values, indent=1))


def leave(climb: Climb) -> None:
    """Leave to the notebooks that follow in a run what the trials are held against, if the ladder captured the same."""
    scratch = os.environ.get(SCRATCH_VARIABLE)
    if scratch and (*climb.pair, climb.problems.seed) == (REFERENCE, SIDE, BUILT_IN.problems.seed):
        left = Path(scratch) / LEFT
        left.mkdir(exist_ok=True)
        bundles = [training.file_name(side, name) for side in climb.pair for name in SAVED]
        for name in [*bundles, *(file_name(*one) for some in _captures(REFERENCE, BUILT_IN) for one in some)]:
            if (climb.scratch / name).is_file():
                shutil.copy(climb.scratch / name, left)


def _captures(reference: str, catalogue: Catalogue) -> list[list[Part]]:
    """Backend, capture and part of all that is measured before the first trial, in a process each."""
    asked = ((catalogue.side, catalogue.of_candidate), (reference, catalogue.of_reference))
    return [
        [(side, name, part) for name in names for part in CAPTURES[name].parts(catalogue.problems)]
        for side, names in asked
    ]


def run(
    folder: str | os.PathLike[str],
    ids: str = "",
    *,
    reference: str = REFERENCE,
    candidate: str = SIDE,
    evidence: str = "",
    timeout: float = 1200.0,
) -> Campaign:
    """Seed every fault (or those of `ids`), climb, and count.

    Parameters
    ----------
    folder : path-like
        Gets ``sensitivity.json`` and a log of each process; must exist.
    ids : str
        See :meth:`Catalogue.chosen`.
    reference, candidate : str
        Names of backends; the faults are those of the candidate.
    evidence : str
        Verdict of the evidence engine on a skipped test, which is the fault `EVIDENCE`; empty: not tried.
    timeout : float
        Seconds for each capture, and for each share of the faults.

    Raises
    ------
    ConfigError
        An unknown id, or a candidate without a catalogue.
    """
    catalogue, target = catalogue_of(candidate), Path(folder)
    faults = catalogue.chosen(ids)
    # The longest are shared out first; the control, which climbs to the end, is tried last: no fault may be left.
    high = sorted((fault for fault in faults if fault is not EVIDENCE), key=lambda fault: -NUMBERS[fault.rung])
    asked = [CONTROL, *(fault.id for fault in high)]
    sized = [str(number) for number in range(len(catalogue.sized))]
    shares = [["share0", *asked[::2][::-1], *sized[1::2]], ["share1", *asked[1::2], *sized[::2]]]  # for two cores
    shares[1] += [ROUNDING] * catalogue.alike
    answers: dict[str, Any] = {}
    with captured(target, timeout, reference, catalogue) as (scratch, commands), ThreadPoolExecutor(2) as pool:
        commands += pool.map(partial(_tried, scratch, target, timeout), shares)
        for file in (scratch / f"{name}.json" for name, *_ in shares):
            answers |= json.loads(file.read_text()) if file.is_file() else {}  # none where a process did not end
    tried = {id: Outcome(**answers[id]) for id in asked if id in answers}
    if EVIDENCE in faults and evidence:
        rung = EVIDENCE.rung * (evidence != "pass")
        tried[EVIDENCE.id] = Outcome(EVIDENCE.id, rung, place=f"verdict: {evidence}", ratio=math.nan)
    limits = tuple(Limit(**answers[number]) for number in sized if number in answers)
    done = Campaign(faults, tried, limits, answers.get(ROUNDING, math.nan), tuple(commands))
    done.save(target / NAME)
    return done


@contextmanager
def captured(
    target: Path, timeout: float, reference: str = REFERENCE, catalogue: Catalogue = BUILT_IN
) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """A folder with what trials are held against, as the ladder left it, else measured now; what ran for that."""
    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name, ThreadPoolExecutor(2) as pool:
        give(scratch := Path(name), (reference, catalogue.side), catalogue.problems)
        for file in (Path(os.environ.get(SCRATCH_VARIABLE, name)) / LEFT).glob("*"):
            (scratch / file.name).symlink_to(file)
        asked = _captures(reference, catalogue)
        yield scratch, list(chain(*pool.map(partial(_measured, scratch, target, timeout), asked)))


def _measured(scratch: Path, target: Path, timeout: float, asked: list[Part]) -> list[dict[str, Any]]:
    """Have a backend measure what is not there yet; what a run's record keeps of that."""
    missing = [one for one in asked if not (scratch / file_name(*one)).is_file()]
    if not missing:
        return []
    side, first, _ = asked[0]
    worker = Worker(side, scratch, target / f"sensitivity.{side}.{first}.log", timeout)
    for _, name, part in missing:
        worker.measure(name, part)
    worker.close()
    return [worker.command()]


def _tried(scratch: Path, target: Path, timeout: float, share: Sequence[str]) -> dict[str, Any]:
    """Try a share of the faults; what a run's record keeps of that."""
    log, arguments = f"sensitivity.{share[0]}.log", (str(scratch), *share)
    return run_module(target, timeout, log, "ptyint.parity.faults.trial", *arguments)
