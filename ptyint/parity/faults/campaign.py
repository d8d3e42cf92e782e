"""Prove that red is possible: every fault of the catalogue on the ladder, and the score."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptyint._atomic import atomic_path
from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check, from_json, to_json
from ptyint.parity import ladder
from ptyint.parity.faults.catalogue import CATALOGUE, EVIDENCE, SIZED, Fault
from ptyint.parity.faults.injection import SIDE
from ptyint.parity.faults.trial import CONTROL, PROBLEMS, REFERENCE, Limit, Outcome, plain
from ptyint.parity.rungs import NUMBERS
from ptyint.parity.worker import give

RIGHT = 0.9
"""At least this part of the faults must be named at the expected rung and tap."""


@dataclass(frozen=True)
class Score:
    """Every fault and what became of it.

    Attributes
    ----------
    faults : tuple of Fault
    outcomes : dict of str to Outcome
        By id, the control among them; one that is missing was not tried.
    limits : tuple of Limit
    rounding : float
        What a move of the initial weights by one ulp changes in a reconstruction, to read the limits' changes by; NaN
        where it was not measured.
    evidence : str
        Verdict of the evidence engine on a skipped test.
    commands : tuple of dict
    """

    faults: tuple[Fault, ...]
    outcomes: dict[str, Outcome]
    limits: tuple[Limit, ...]
    rounding: float
    evidence: str
    commands: tuple[dict[str, Any], ...]

    @property
    def n_seeded(self) -> int:
        """Faults in all, that of the evidence engine included."""
        return len(self.faults) + 1

    @property
    def uncaught(self) -> list[str]:
        """Ids and titles of the faults that slipped through, or were not tried."""
        slipped = [f"{f.id} {f.title}" for f in self.faults if not self.of(f).caught]
        return slipped + ([f"{EVIDENCE} {EVIDENCE_TITLE}"] if self.evidence in ("", "pass") else [])

    @property
    def n_right(self) -> int:
        """Faults that were named at the expected rung and tap."""
        return sum(self.of(f).at_the_right_place(f) for f in self.faults) + (self.evidence not in ("", "pass"))

    @property
    def weakest(self) -> Outcome | None:
        """The catch with the smallest margin."""
        caught = [self.of(f) for f in self.faults if self.of(f).caught]
        return min(caught, key=lambda one: one.ratio, default=None)

    @property
    def control(self) -> Outcome | None:
        """What the ladder said without a fault."""
        return self.outcomes.get(CONTROL)

    def of(self, fault: Fault) -> Outcome:
        """What became of a fault; as if nothing was found where it was not tried."""
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
            one = self.of(fault)
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


def check_names(ids: str = "") -> list[str]:
    """Names of the checks of :meth:`Score.checks`, known before anything is tried; `ids` as for :func:`score`."""
    caught = [_caught(fault.id, fault.title) for fault in chosen(ids)]
    return [NO_FALSE_ALARM, *caught, _caught(EVIDENCE, EVIDENCE_TITLE), PLACES]


def _caught(id: str, title: str) -> str:
    return f"{id} is caught: {title}"


def chosen(ids: str = "") -> tuple[Fault, ...]:
    """Faults of the catalogue by their ids, separated by commas; all of them for an empty text.

    Raises
    ------
    ConfigError
        An unknown id.
    """
    names = [name.strip() for name in ids.split(",") if name.strip()]
    for name in names:
        if name not in CATALOGUE:
            raise ConfigError(f"No fault has the id {name!r}; they are {', '.join(CATALOGUE)}.")
    return tuple(fault for fault in CATALOGUE.values() if not names or fault.id in names)


def score(folder: str | os.PathLike[str], ids: str = "", *, timeout: float = 1200.0) -> Score:
    """Seed every fault (or those of `ids`), climb, and count.

    Parameters
    ----------
    folder : path-like
        Gets ``sensitivity.json`` and a log of each process; must exist.
    ids : str
        See :func:`chosen`.
    timeout : float
        Seconds for each process.

    Raises
    ------
    ConfigError
        An unknown id.
    """
    faults, target = chosen(ids), Path(folder)
    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name:
        scratch = Path(name)
        give(scratch, (REFERENCE, SIDE), PROBLEMS)
        commands = ladder.run_all(
            [
                _trying(scratch, "control", "--control"),
                _capturing(scratch, "trace", "training"),
                _capturing(scratch, "steps"),
                _trying(scratch, "low"),
            ],
            target,
            timeout,
        )
        low, limits = dict(_outcomes(scratch, "low")), list[Limit]()
        outcomes = {id: one for id, one in low.items() if one.caught}
        shares = _shares([id for id in _longest_first(faults) if id in low.keys() - outcomes.keys()])
        later = [_trying(scratch, share, "--ids", *members, "--sized", *sized) for share, members, sized in shares]
        commands += ladder.run_all(later, target, timeout)
        for share, *_ in shares:
            outcomes |= dict(_outcomes(scratch, share))
            limits += _limits(scratch, share)
        rounding = from_json(_values(scratch, "control").get("rounding", "nan"))
    done = Score(faults, outcomes, tuple(limits), rounding, skipped_test(), tuple(commands))
    _save(done, target / "sensitivity.json")
    return done


def _longest_first(faults: Sequence[Fault]) -> list[str]:
    """The control, which climbs to the end, then faults by their expected rung, the highest first."""
    return [CONTROL, *(one.id for one in sorted(faults, key=lambda one: -NUMBERS[one.rung]))]


def _shares(ids: Sequence[str]) -> list[tuple[str, list[str], list[str]]]:
    """Two shares of faults, and of the faults with a size, for two cores."""
    numbers = [str(number) for number in range(len(SIZED))]
    return [(f"share{i}", list(ids[i::2]), numbers[1 - i :: 2]) for i in range(2)]


def _capturing(scratch: Path, *captures: str) -> ladder.Process:
    arguments = (REFERENCE, str(scratch), *captures)
    return ladder.Process("ptyint.parity.worker", arguments, f"{REFERENCE}.{captures[0]}.log")


def _trying(scratch: Path, name: str, *options: str) -> ladder.Process:
    arguments = (str(scratch), "--name", name, *options)
    return ladder.Process("ptyint.parity.faults.trial", arguments, f"sensitivity.{name}.log")


def _outcomes(scratch: Path, name: str) -> Iterator[tuple[str, Outcome]]:
    for values in _values(scratch, name).get("outcomes", ()):
        yield values["id"], Outcome(**{**values, **{key: from_json(values[key]) for key in ("ratio", "seconds")}})


def _limits(scratch: Path, name: str) -> list[Limit]:
    found = _values(scratch, name).get("limits", ())
    return [Limit(**{**values, **{key: from_json(values[key]) for key in ("size", "change")}}) for values in found]


def _values(scratch: Path, name: str) -> dict[str, Any]:
    """What a trial wrote; nothing where it did not end."""
    path = scratch / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def skipped_test() -> str:
    """F20: what the evidence engine makes of a test that is skipped while pytest exits with 0."""
    from ptyint.evidence.checks import Check, worst
    from ptyint.evidence.pytest_runs import run_tests

    with tempfile.TemporaryDirectory(prefix="ptyint-faults-") as name:
        scratch = Path(name)
        file = scratch / "test_integration_workflow_torch.py"
        file.write_text(
            "import pytest\n\n@pytest.mark.skip(reason='torch was not there')\n"
            "@pytest.mark.parametrize('n', [1, 2], ids=['gridsize1', 'gridsize2'])\ndef test_full_cycle(n):\n    pass\n"
        )
        run = run_tests([str(file), "-c", os.devnull, "--rootdir", str(scratch)], scratch / "log")
        if run.exit_code != 0 or len(run.outcomes) != 2:
            return ""
        return worst(Check.fact(test, one.passed, one.words).verdict for test, one in run.outcomes.items())


def _save(done: Score, path: Path) -> None:
    values = {
        "score": done.sentence,
        "outcomes": [
            {
                **plain(done.outcomes[fault.id]),
                "title": fault.title,
                "upstream": fault.upstream,
                "expected": fault.rung,
            }
            for fault in done.faults
            if fault.id in done.outcomes
        ],
        "limits": [plain(one) for one in done.limits],
        "rounding": to_json(done.rounding),
        "evidence": done.evidence,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
