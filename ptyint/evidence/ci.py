"""A run for continuous integration: JUnit XML, JSON lines, and a summary in Markdown."""

from __future__ import annotations

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from ptyint._atomic import atomic_path
from ptyint.evidence.causes import lines
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import Table, printable, required
from ptyint.evidence.manifest import Manifest

COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
CAUSES = 20
"""How many the summary names."""


def junit(content: Manifest) -> str:
    """A suite for each notebook and one for the run, a case for each check; neither passed nor failed is an error."""
    own = ("run", "run", "no errors of its own", "fail" if content.errors else "pass", "\n".join(content.errors))
    said = (f"measured {one.measured}, required {required(one)}. {one.note}" for one in content.checks)
    cases = [
        (one.notebook, one.stage, one.name, one.verdict, what) for one, what in zip(content.checks, said, strict=True)
    ]
    root = Element("testsuites", name=f"ptyint run {content.run}")
    for notebook, some in groupby([*cases, own], itemgetter(0)):
        suite = SubElement(root, "testsuite", name=notebook, timestamp=content.start[:19])
        for _, stage, name, verdict, what in some:
            case = SubElement(suite, "testcase", classname=f"{stage}.{notebook}", name=printable(name), time="0")
            if verdict != "pass":
                SubElement(case, "failure" if verdict == "fail" else "error", message=printable(what), type=verdict)
    for one in (root, *root):
        one.attrib.update({name: str(len(one.findall(f".//{tag}"))) for name, tag in COUNTED.items()})
    return str(tostring(root, encoding="unicode"))


def json_lines(content: Manifest) -> list[str]:
    """A line of JSON for each check, with the run's name."""
    return [json.dumps({"run": content.run, **one.model_dump(mode="json")}, allow_nan=False) for one in content.checks]


def markdown(content: Manifest) -> str:
    """Verdict, notebooks and causes."""
    passed = [[check.verdict == "pass" for check in content.of(one.name)] for one in content.notebooks]
    rows = [
        (one.name, f"{SIGNS[one.verdict]} {one.verdict}", f"{sum(each)} of {len(each)}")
        for one, each in zip(content.notebooks, passed, strict=True)
    ]
    title = f"{SIGNS[content.verdict]} {content.verdict.upper()}: ptyint run {content.run}"
    table = Table(title, ("notebook", "verdict", "checks passed"), rows).markdown
    return printable("\n".join([table, *(f"- {line}" for line in lines(content, CAUSES)), ""]))


def publish(content: Manifest, junit_file: Path | None, summary_file: str | None) -> None:
    """Write JUnit XML to a file, and append the summary to another, where they are asked for."""
    if junit_file:
        with atomic_path(junit_file) as temporary:
            temporary.write_text(junit(content), encoding="utf-8")
    if summary_file:
        with open(summary_file, "a", encoding="utf-8") as file:
            file.write(markdown(content))
