"""A run for continuous integration: JUnit XML, JSON lines, and a summary in Markdown."""

import json
from dataclasses import asdict
from pathlib import Path

from ptyint._atomic import write_text
from ptyint.errors import LostRunError
from ptyint.evidence.causes import lines
from ptyint.evidence.checks import SIGNS, Check, signed
from ptyint.evidence.display import printable, render, required
from ptyint.evidence.manifest import Judged, Manifest

CAUSES = 20
"""How many the summary names."""


def junit(content: Manifest) -> str:
    """A suite for each notebook and one for the run, a case for each check; neither passed nor failed is an error."""
    itself = Check.fact("no errors of its own", not content.errors, "\n".join(content.errors))
    own = Judged(stage="run", notebook="run", verdict=itself.verdict, **asdict(itself))
    return printable(render("junit.xml.j2", run=content, checks=[*content.checks, own], required=required))


def json_lines(content: Manifest) -> list[str]:
    """A line of JSON for each check, with the run's name."""
    return [json.dumps({"run": content.run, **one.model_dump(mode="json")}, allow_nan=False) for one in content.checks]


def markdown(content: Manifest) -> str:
    """Verdict, notebooks and causes."""
    return printable(render("ci.md.j2", run=content, signed=signed, signs=SIGNS, lines=lines(content, CAUSES)))


def publish(content: Manifest, junit_file: Path | None, summary_file: str | None) -> None:
    """Write JUnit XML to a file, and append the summary to another, where they are asked for.

    Raises
    ------
    LostRunError
        One of them cannot be written.
    """
    try:
        if junit_file:
            write_text(junit_file, junit(content))
        if summary_file:
            with open(summary_file, "a", encoding="utf-8") as file:
                file.write(markdown(content))
    except OSError as error:
        raise LostRunError(f"The run is over, and what it was asked to write is not there: {error}.") from error
