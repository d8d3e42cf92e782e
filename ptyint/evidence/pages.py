"""Run folder to HTML: a page for each notebook, one for the run. Draws and assembles, computes nothing.

A page is one file: no script, no request, pictures inside, readable from a USB stick.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ptyint._atomic import write_text
from ptyint.errors import ConfigError, shortened
from ptyint.evidence.causes import causes
from ptyint.evidence.checks import SIGNS
from ptyint.evidence.display import TEMPLATES, Table, number, printable, render
from ptyint.evidence.execution import read_executed, read_notebook
from ptyint.evidence.manifest import Command, Manifest, Notebook
from ptyint.evidence.record import MIME

SUMMARY = "index.html"
LOG_LINES = 15
LONGEST_LOG, LONGEST_OUTPUT, LONGEST_PAGE = 30_000, 200_000, 2_000_000
"""Characters that a page shows of a log, of an output and of all outputs; pictures aside."""

TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img li ol p pre section small span strong sub summary sup table tbody td tfoot th thead tr ul".split()
)
ATTRIBUTES = frozenset("alt aria-label class colspan href id role rowspan scope src tabindex title width".split())
"""What the HTML of a cell may hold: nothing that runs, loads, or covers the rest of the page. Else it shows as text."""

NUMBERS_ON_TOP = 3
MAIN = ("star", "compare", "ladder", "e2d")
"""Notebooks that stand on the run's page, in this order, and whose first few numbers are followed from run to run."""

FIRST_PAGE = "first-page"
"""Tag of the cell whose picture stands on the run's page; without it, the notebook's first does."""

CREDENTIAL = "faults"
"""The notebook that says what the others are worth: its sentence stands on top of the run's page."""


def bodies(folder: Path, manifest: Manifest, known: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Every executed notebook of a run folder as HTML, by name; and, of those that cannot be shown, why.

    Those in `known` are taken as they are.
    """
    shown, problems = dict(known), {}
    for entry in manifest.notebooks:
        path = folder / f"{entry.name}.ipynb"
        if path.is_file() and entry.argv and entry.name not in known:
            try:
                shown[entry.name] = notebook_body(path)
            except Exception as error:  # nbconvert on a damaged notebook: its page is written all the same, and says so
                problems[entry.name] = f"{entry.name}.ipynb cannot be shown: {type(error).__name__}: {error}"
    return shown, problems


def write_run(
    folder: Path, manifest: Manifest, bodies: Mapping[str, str], since: Mapping[str, list[str]] | None = None
) -> None:
    """Write every page of a run, of what there is so far while it goes on; verdicts and errors are the manifest's.

    Parameters
    ----------
    folder : Path
        The run folder, with the executed notebooks.
    manifest : Manifest
    bodies : mapping of str to str
        From :func:`bodies`.
    since : mapping of str to list of str, optional
        From :func:`ptyint.evidence.history.changes`.
    """
    changes = since or {}
    for entry in manifest.notebooks:
        if entry.argv:
            _write_notebook(folder, manifest, entry, bodies.get(entry.name, ""), changes.get(entry.name, []))
    _write_summary(folder, manifest, bodies, changes.get("", []))


def _write_notebook(folder: Path, manifest: Manifest, entry: Notebook, body: str, since: list[str]) -> None:
    name = entry.name
    own = [error for error in manifest.errors if error.startswith(f"{name}.ipynb")]
    errors = [*(text for _, text in causes(manifest, [entry])), *own]
    log = folder / f"{name}.log"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []
    shown = shortened("\n".join(tail), LONGEST_LOG) if errors else ""
    files = [file for file in (*entry.artifacts, f"{name}.ipynb", f"{name}.log") if (folder / file).is_file()]
    given = {"manifest": manifest, "entry": entry, "changes": since, "errors": errors, "log": shown, "body": body}
    contents = re.findall(r'<h2 id="([^"]+)">(.*?)(?:<a|</h2>)', body)
    _write(
        folder / f"{name}.html", "notebook.html.j2", checks=manifest.of(name), files=files, contents=contents, **given
    )


def notebook_body(path: Path) -> str:
    """The cells of an executed notebook as HTML, without its first heading (the page has its own)."""
    import bleach
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = read_executed(path)
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if first is not None and first.source.startswith("# "):
        first.source = first.source.partition("\n")[2]
    for cell in notebook.cells:  # what a headline says stands on top of the page already
        outputs = cell.get("outputs", [])
        outputs[:] = [o for o in outputs if not o.get("data", {}).get(MIME, {}).get("compared")]
    _cut(notebook.cells, path.name)
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    body = re.sub(r"<style\b.*?</style>", "", exporter.from_notebook_node(notebook)[0], flags=re.DOTALL | re.IGNORECASE)
    protocols = {"data", "http", "https", "mailto"}
    return str(bleach.clean(printable(body), tags=TAGS, attributes=_may_stay, protocols=protocols))


def _may_stay(tag: str, name: str, value: str) -> bool:
    """Whether an attribute may; a picture lies inside the page."""
    return name in ATTRIBUTES and (name != "src" or value.startswith("data:image/"))


def _cut(cells: Sequence[Any], file: str) -> None:
    """Shorten what a page cannot show, and name the file that holds all of it."""
    from nbformat import from_dict

    left = LONGEST_PAGE
    for cell in cells:
        for n, output in enumerate(cell.get("outputs", [])):
            data = {kind: str(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")}
            said = max([output.get("text", ""), "\n".join(output.get("traceback", [])), *data.values()], key=len)
            if "text/markdown" in data:  # of which a link would be made
                output.data["text/markdown"] = printable(data["text/markdown"])
            most, left = min(LONGEST_OUTPUT, left), max(0, left - len(said))
            if len(said) > most:
                cell.metadata["cut"] = file
                text = shortened(data.get("text/plain", said), most)
                cell.outputs[n] = from_dict({"output_type": "stream", "name": "stdout", "text": text})


def write_summary(notebook: Path, target: Path) -> None:
    """Write an executed notebook as Markdown: text and tables, no code, pictures by their alt texts."""
    from nbconvert import MarkdownExporter

    content = read_executed(notebook)
    for output in (output for cell in content.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        if "image/png" in data:
            output.data = {"text/markdown": f"*{data.get('text/plain', '')}*"}
        elif "text/markdown" in data:
            output.data = {"text/markdown": data["text/markdown"]}
    text = MarkdownExporter(exclude_input=True).from_notebook_node(content)[0]
    write_text(target, re.sub(r"\n{3,}", "\n\n", printable(text)).strip() + "\n")


def _write_summary(folder: Path, manifest: Manifest, bodies: Mapping[str, str], since: list[str]) -> None:
    over = [entry for entry in manifest.notebooks if entry.argv or manifest.end]
    errors = [*manifest.errors, *(f"{names}: {text}" for names, text in causes(manifest, over))]
    done = [entry for entry in manifest.notebooks if entry.compared]
    shown = [entry for name in MAIN for entry in done if entry.name == name] or done
    pictures = [
        {**picture, "title": entry.title, "page": f"{entry.name}.html"}
        for entry in shown
        if entry.name in bodies
        for picture in [*_pictures(folder / f"{entry.name}.ipynb").values()][:1]
    ]
    made = [artifact for entry in manifest.notebooks for artifact in entry.artifacts if (folder / artifact).is_file()]
    _write(
        folder / SUMMARY, "summary.html.j2", manifest=manifest, over=over, main=shown[-1] if shown else None,
        credential=CREDENTIAL, changes=since, errors=errors, pictures=pictures, made=list(dict.fromkeys(made)),
    )  # fmt: skip


def seconds(one: Notebook | Command | Manifest) -> str:
    """How long it took, for a reader; a dash where it never ended."""
    start, end = one.start, one.end
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds():.0f}" if end else "-"


def write_history(path: Path, runs: Sequence[Mapping[str, Any]], since: list[str]) -> None:
    """Write the page of all runs.

    Parameters
    ----------
    path : Path
    runs : sequence of mapping
        From :func:`ptyint.evidence.history.index`, the newest first.
    since : list of str
        What changed between the last two finished runs.
    """
    finished = [run for run in runs if run["state"] == "finished"]
    names = dict.fromkeys(name for run in finished for name in run["numbers"])
    main = ([name for name in names if name.startswith(f"{notebook}: ")][:NUMBERS_ON_TOP] for notebook in MAIN)
    series = {
        name: [float(run["numbers"].get(name, "nan")) for run in finished[::-1]] for group in main for name in group
    }
    _write(path, "history.html.j2", runs=runs, finished=finished, changes=since, series=series, finite=math.isfinite)


def write_difference(path: Path, folders: Sequence[Path], runs: Sequence[Manifest], tables: Sequence[Table]) -> None:
    """Write the page of what differs between two runs: tables, then the pictures that are not the same side by side.

    Parameters
    ----------
    path : Path
    folders, runs : sequence
        Of the run before and the run now.
    tables : sequence of Table
    """
    both = []
    for entry in runs[1].notebooks:
        before, now = (_pictures(folder / f"{entry.name}.ipynb") for folder in folders)
        both += [(entry.title, before.get(where), now.get(where)) for where in {**before, **now}]
    _write(path, "difference.html.j2", runs=runs, tables=tables, pictures=both)


def _pictures(path: Path) -> dict[tuple[str, int], dict[str, str]]:
    """Each PNG of an executed notebook with its alt text, by cell and output; of cells tagged `FIRST_PAGE` first."""
    try:
        cells = sorted(read_notebook(path).cells, key=lambda cell: FIRST_PAGE not in cell.metadata.get("tags", []))
    except ConfigError:
        return {}
    outputs = {(cell.id, n): output for cell in cells for n, output in enumerate(cell.get("outputs", ()))}
    return {
        where: {"alt": "", **output.metadata.get("image/png", {}), "png": output.data["image/png"].replace("\n", "")}
        for where, output in outputs.items()
        if "image/png" in output.get("data", {})
    }


def _write(path: Path, template: str, **values: Any) -> None:
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    tools = {"css": css, "signs": SIGNS, "seconds": seconds, "shell": shlex.join, "number": number}
    write_text(path, printable(render(template, **tools, on_top=NUMBERS_ON_TOP, **values)))
