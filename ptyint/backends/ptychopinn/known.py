"""In what PtychoPINN's two backends are known to disagree: the mechanism, and the function that has it."""

import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple


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
    """

    shows: list[tuple[str, str]]
    words: str
    where: str
    repair: str = ""
    default: bool = True


@cache
def known() -> tuple[Mechanism, ...]:
    """All of them."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return tuple(Mechanism(**one) for one in table["known"])


def mechanism(rung: str, tap: str) -> Mechanism | None:
    """What is known of a place; None: nothing."""
    return next((one for one in known() if any(fnmatch(rung, a) and fnmatch(tap, b) for a, b in one.shows)), None)
