"""What a fault is, and the table of catalogues: each candidate brings its own. No framework is imported."""

import pkgutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ptyint.errors import ConfigError, did_you_mean
from ptyint.parity.configurations import APART, EQUAL
from ptyint.parity.faults.injection import SIDE, Context
from ptyint.parity.problems import Problems

MODULES = {
    SIDE: "ptyint.parity.faults.catalogue:BUILT_IN",
    "ptychopinn-pytorch": "ptyint.parity.faults.ptychopinn:FAULTS",
}
"""Candidate to its catalogue."""

GROUP = "ptyint.faults"
"""Entry-point group: name of a backend to ``module:object``, its :class:`Catalogue`. That imports no framework."""

SMALL = Problems(cases=(f"N 64, gridsize 1, {APART}", f"N 64, gridsize 2, {EQUAL}"), precisions=("float32",))
"""Networks that are watched from outside, and agree up to the merge: the quickest of them."""


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong in a backend.

    Attributes
    ----------
    id, title : str
    rung, tap : str
        The rung that must be the first to go red, and on it the first red tap; an empty tap: any of them.
    applied : callable
        Gives the context manager.
    upstream : str
        Where it is on record; ``own`` for those that were thought up here.
    operand : str
        Of the first red tap, where it matters.
    """

    id: str
    title: str
    rung: str
    tap: str
    applied: Context
    upstream: str = "own"
    operand: str = ""


@dataclass(frozen=True)
class SizedFault:
    """A fault with a size, whose smallest caught one is the detection limit of its `rung`; `applied` takes the size."""

    title: str
    unit: str
    rung: str
    applied: Callable[[float], Context]


@dataclass(frozen=True)
class Catalogue:
    """The faults of a candidate, and how they are looked for.

    Attributes
    ----------
    side : str
        Name of the candidate.
    faults : tuple of Fault
    problems : Problems
    rungs : tuple of str
        What is climbed, until the first that is red.
    of_reference, of_candidate : tuple of str
        Captures without a fault that the trials need.
    sized : tuple of SizedFault
    alike : bool
        Whether nothing is red without a fault. Else what does not hold without one is passed over.
    """

    side: str
    faults: tuple[Fault, ...]
    problems: Problems = SMALL
    rungs: tuple[str, ...] = ("operator", "forward", "loss", "gradient", "step")
    of_reference: tuple[str, ...] = ("operator", "trace", "own step")
    of_candidate: tuple[str, ...] = ()
    sized: tuple[SizedFault, ...] = ()
    alike: bool = False

    def chosen(self, ids: str = "") -> tuple[Fault, ...]:
        """Faults by their ids, separated by commas; all of them for an empty text.

        Raises
        ------
        ConfigError
            An unknown id.
        """
        names, known = [name.strip() for name in str(ids).split(",") if name.strip()], [one.id for one in self.faults]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or f" They are {', '.join(known)}."
                raise ConfigError(f"No fault has the id {name!r}.{hint}")
        return tuple(fault for fault in self.faults if not names or fault.id in names)


def read(module: str, names: Mapping[str, Any], table: str = "fault") -> list[dict[str, Any]]:
    """Faults of a table beside a module; `put`, an expression of `names`, gives the context manager."""
    rows = tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))[table]
    return [{"applied": eval(one.pop("put"), dict(names)), **one} for one in rows]


def catalogue_of(candidate: str) -> Catalogue:
    """The catalogue of a backend.

    Raises
    ------
    ConfigError
        It has none.
    """
    known = {one.name: one.value for one in metadata.entry_points(group=GROUP)} | MODULES
    if candidate not in known:
        here = f"they are of {sorted(known)}. Name the stages to run, without 'faults', or see docs/ladder.md."
        raise ConfigError(f"No faults are known of {candidate!r}; {here}")
    found: Catalogue = pkgutil.resolve_name(known[candidate])
    return found
