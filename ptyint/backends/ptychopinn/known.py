"""In what PtychoPINN's two backends are known to disagree: the mechanism, and the function that has it."""

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ptyint.backends import UPSTREAM


class Mechanism(NamedTuple):
    """Why two backends disagree.

    Attributes
    ----------
    shows : list of (str, str)
        Rungs and taps; patterns of the shell.
    words : str
        One sentence.
    where : str
        File and function.
    repair : str
        The setting of PtychoPINN's own that repairs it; empty where there is none.
    default : bool
        Whether it shows in default settings.
    design : bool
        Whether it is no disagreement: one side is made in another way.
    """

    shows: list[tuple[str, str]]
    words: str
    where: str
    repair: str = ""
    default: bool = True
    design: bool = False


@cache
def known() -> tuple[Mechanism, ...]:
    """All of them."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(Mechanism(**one) for one in table["known"])


def mechanism(rung: str, tap: str, sides: Iterable[str]) -> Mechanism | None:
    """What is known of a place of PtychoPINN's own pair, or of how either side is made; None: nothing."""
    theirs = set(sides) & set(UPSTREAM)
    said = [one for one in known() if len(theirs) == 2 or (theirs and one.design)]
    return next((one for one in said if any(fnmatch(rung, a) and fnmatch(tap, b) for a, b in one.shows)), None)
