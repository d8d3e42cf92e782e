"""Why a run is red: each cause once, what follows from it counted; for the terminal and the pages."""

from collections.abc import Iterable

from ptyint.errors import shortened
from ptyint.evidence.checks import SIGNS, VERDICTS
from ptyint.evidence.display import number, one_line, printable, required
from ptyint.evidence.manifest import REACHED_END, Judged, Manifest, Notebook

LONGEST, LONGEST_LINE = 2_000, 400
"""Characters of a cause, on a page and on a line of the terminal."""

STOPPED = "stopped"


def causes(content: Manifest, entries: Iterable[Notebook]) -> list[tuple[str, str]]:
    """Why checks of some notebooks are no pass: names of notebooks, and what happened there.

    What a notebook that stopped left open follows from its stop, or from the stop of one that it needs; checks that
    could not be measured for one reason have one cause.
    """
    stopped = {entry.name for entry in content.notebooks if entry.stopped}
    groups: dict[tuple[str, ...], list[Judged]] = {}
    for entry in entries:
        why = next((f"`{name}` failed" for name in entry.needs if entry.stopped and name in stopped), entry.stopped)
        for check in content.of(entry.name):
            if check.verdict == "pass":
                continue
            if entry.stopped and (check.verdict == "not run" or check.name == REACHED_END):
                key: tuple[str, ...] = (STOPPED if why == entry.stopped else "", why)
            elif check.measured is None:
                key = (check.verdict, check.note)
            else:
                key = (check.verdict, check.name, entry.name)
            groups.setdefault(key, []).append(check)
    names = (", ".join(dict.fromkeys(one.notebook for one in some)) for some in groups.values())
    told = (shortened(printable(_told(key[0], key[1].rstrip("."), some)), LONGEST) for key, some in groups.items())
    return list(zip(names, told, strict=True))


def _told(kind: str, why: str, checks: list[Judged]) -> str:
    """One cause in words."""
    if kind not in VERDICTS:
        n = sum(check.name != REACHED_END for check in checks)
        counted = f"{n} check{'s were' if n > 1 else ' was'} not run"
        return f"{counted}: {why}." if kind != STOPPED else f"The notebook stopped: {why}." + f" {counted}." * bool(n)
    first, more = checks[0], f" and {len(checks) - 1} more" if len(checks) > 1 else ""
    measured = "" if first.measured is None else f"measured {number(first.measured)}, required {required(first)}. "
    return f"{SIGNS[first.verdict]} {kind}: {first.name}{more}. {measured}{first.note}".strip()


def lines(content: Manifest, most: int) -> list[str]:
    """The causes, a line each, the run's own first; of more than `most` how many are left out."""
    every = [*content.errors, *(f"{names}: {text}" for names, text in causes(content, content.notebooks))]
    shown = [one_line(one, LONGEST_LINE) for one in every[:most]]
    return shown + [f"and {len(every) - most} more, which the page has"] * (len(every) > most)
