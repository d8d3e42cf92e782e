"""Pieces of a report that display themselves, as HTML and as Markdown, and tell the runner what they say."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ptyint._glance import said
from ptyint.errors import shortened
from ptyint.evidence.checks import VERDICTS, Check, signed
from ptyint.evidence.record import MIME, Record

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure
    from pandas import DataFrame

DPI = 120
"""Of pictures."""

ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\n<]*(?:\x07|\x1b\\)?"  # a link or a title (OSC)
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # a colour, a move of the cursor (CSI)
    r"|\x1b[PX^_][^\x1b\n<]*(?:\x1b\\)?"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-;=-~]?"  # any other
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"  # what is no text, or turns its direction
)
"""What steers a terminal, and is no text."""

TEMPLATES = Path(__file__).parent / "templates"

VERDICT_CELLS = {text: one.replace(" ", "-") for one in VERDICTS for text in (one, signed(one))}
"""Text of a cell that is a verdict, to its class in the style sheet."""


def _bundle(shown: Fragment | Table, include: Any = None, exclude: Any = None) -> dict[str, Any]:
    """What Jupyter keeps of an output: HTML for a page, Markdown for a summary file, the record for the runner."""
    record = None if shown.record is None else shown.record.to_mapping()
    bundle = {"text/html": shown.html, "text/markdown": shown.markdown or None, MIME: record}
    return {kind: said for kind, said in bundle.items() if said is not None}


@dataclass(frozen=True)
class Fragment:
    """A piece of a report, with what it reports to the runner."""

    html: str
    record: Record | None = None
    markdown: str = ""

    @classmethod
    def of(cls, *paragraphs: str, record: Record | None = None) -> Fragment:
        """Plain text, a paragraph for each argument."""
        return cls(render("paragraphs.html.j2", lines=paragraphs), record, "\n\n".join(paragraphs))

    _repr_mimebundle_ = _bundle


@dataclass(frozen=True)
class Table:
    """A table of texts, as HTML on a page and as Markdown in a file. The first column names the row.

    Attributes
    ----------
    caption : str
    heads : sequence of str
    rows : sequence of sequence of str
    record : Record, optional
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    record: Record | None = None

    @classmethod
    def of(cls, frame: DataFrame, caption: str, record: Record | None = None) -> Table:
        """A data frame without its index; floats in four significant digits, None as a dash."""
        rows = [tuple(map(said, row)) for row in frame.itertuples(index=False, name=None)]
        return cls(caption, tuple(map(str, frame.columns)), rows, record)

    @property
    def html(self) -> str:
        """The table in HTML, under its caption; what it shows is escaped."""
        return render("table.html.j2", caption=self.caption, heads=self.heads, rows=self.rows, verdicts=VERDICT_CELLS)

    @property
    def markdown(self) -> str:
        """The table in Markdown, under its caption."""
        lines = [self.heads, ["---"] * len(self.heads), *self.rows]
        escaped = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines]
        return f"## {self.caption}\n\n" + "\n".join(f"| {line} |" for line in escaped) + "\n"

    _repr_mimebundle_ = _bundle


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure and its alt text; displays as a PNG in a notebook."""

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """The figure as a PNG of 256 colours: a quarter of the size, no colour off by more than some 5 %."""
        drawn, kept = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        few = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(kept, "png", optimize=True)
        return kept.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """What Jupyter asks for: the PNG with the alt text in its metadata."""
        width = int(self.figure.get_figwidth() * 100)
        return {"image/png": self.png(), "text/plain": self.alt}, {"image/png": {"alt": self.alt, "width": width}}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def render(template: str, **values: Any) -> str:
    """A template of this package filled with values; text is escaped."""
    return _environment().get_template(template).render(**values)


def printable(text: str) -> str:
    """`text` as every page and every Markdown file holds it: without what steers a terminal, and possible in UTF-8."""
    return ESCAPES.sub("", re.sub("\r\n?", "\n", text)).encode("utf-8", "replace").decode()


def one_line(text: str, most: int = 300) -> str:
    """`text` on one line, shortened."""
    return shortened(" ".join(text.split()), most)


def number(value: float) -> str:
    """A number for a reader: four significant digits, of a whole number below a million all."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def required(one: Any) -> str:
    """Relation, bound and unit of a check or of what was declared."""
    return f"{one.relation} {one.bound:g} {one.unit}".rstrip()


def checks_table(checks: Sequence[Check], caption: str = "Checks") -> Table:
    """Each check: measured, required, verdict. Displaying it is what reports the checks to the runner."""
    rows = [
        (one.name, "-" if one.measured is None else number(one.measured), required(one), signed(one.verdict), one.note)
        for one in checks
    ]
    heads = ("check", "measured", "required", "verdict", "seen")
    return Table(caption, heads, rows, Record(checks=tuple(checks)))
