"""Run folder to HTML: a page for each notebook, one for the run. Draws and assembles, computes nothing.

A page is one file: no script, no request, pictures inside, readable from a USB stick.
"""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from datetime import datetime
from pathlib import Path
from typing import Any

from ptyint._atomic import atomic_path
from ptyint.evidence.checks import SIGNS, from_json
from ptyint.evidence.display import TEMPLATES, Table, number, render
from ptyint.evidence.execution import ECHO_TAG
from ptyint.evidence.record import MIME

SUMMARY = "index.html"
LOG_LINES = 15
NUMBERS_ON_TOP = 3
MAIN = ("ladder", "e2d", "compare")
"""Notebooks whose first few numbers are followed from run to run."""

CREDENTIAL = "faults"
"""The notebook that says what the others are worth: its sentence stands on top of the run's page."""


def write_run(folder: Path, manifest: dict[str, Any], since: dict[str, list[str]]) -> list[str]:
    """Write every page of a run.

    Parameters
    ----------
    folder : Path
        The run folder, with the executed notebooks.
    manifest : dict
    since : dict of str to list of str
        From :func:`ptyint.evidence.changes.changes`.

    Returns
    -------
    list of str
        What went wrong, in words. A page whose notebook cannot be shown is written without it.
    """
    problems = []
    for entry in manifest["notebooks"]:
        if entry["argv"]:
            problems += _write_notebook(folder, manifest, entry, since[entry["name"]])
    manifest = {**manifest, "errors": [*manifest["errors"], *problems]}
    _write(folder / SUMMARY, "summary.html.j2", **_summary(folder, manifest, since[""]))
    return problems


def _write_notebook(folder: Path, manifest: dict[str, Any], entry: dict[str, Any], since: list[str]) -> list[str]:
    name, problems = entry["name"], []
    try:
        body = notebook_body(folder / f"{name}.ipynb")
    except Exception as error:  # nbconvert on a damaged notebook: the page is written all the same, and says so
        problems.append(f"{name}.ipynb cannot be shown: {type(error).__name__}: {error}")
        body = ""
    checks = [check for check in manifest["checks"] if check["notebook"] == name]
    errors = [*_errors(entry, checks), *problems]
    verdict = "fail" if problems and entry["verdict"] == "pass" else entry["verdict"]
    log = folder / f"{name}.log"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []
    _write(
        folder / f"{name}.html",
        "notebook.html.j2",
        title=entry["title"],
        home=(SUMMARY, f"run {manifest['run']}"),
        verdict=verdict,
        sentence=_sentence(checks),
        compared=entry["compared"],
        numbers=_numbers(entry["numbers"]),
        changes=since,
        command=shlex.join(manifest["argv"]),
        errors=errors,
        log="\n".join(tail) if errors else "",
        body=body,
        files=[file for file in (*entry["artifacts"], f"{name}.ipynb", f"{name}.log") if (folder / file).is_file()],
    )
    return problems


def notebook_body(path: Path) -> str:
    """The cells of an executed notebook as HTML, without its first heading (the page has its own)."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(path, as_version=4)
    echoes = [cell for cell in notebook.cells if ECHO_TAG in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if cell not in echoes or cell is echoes[-1]]
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if first is not None and first.source.startswith("# "):
        first.source = first.source.partition("\n")[2]
    for cell in notebook.cells:  # what a headline says stands on top of the page already
        outputs = cell.get("outputs", [])
        outputs[:] = [o for o in outputs if not o.get("data", {}).get(MIME, {}).get("compared")]
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    body: str = exporter.from_notebook_node(notebook)[0]
    return body


def write_summary(notebook: Path, target: Path) -> None:
    """Write an executed notebook as Markdown: text and tables, no code, pictures by their alt texts.

    A notebook that cannot be shown leaves no file: what was declared and is not there is red.
    """
    import nbformat
    from nbconvert import MarkdownExporter

    try:
        content = nbformat.read(notebook, as_version=4)
        content.cells = [cell for cell in content.cells if ECHO_TAG not in cell.metadata.get("tags", [])]
        for output in (output for cell in content.cells for output in cell.get("outputs", ())):
            data = output.get("data", {})
            if "image/png" in data:
                output.data = {"text/markdown": f"*{data.get('text/plain', '')}*"}
            elif "text/markdown" in data:
                output.data = {"text/markdown": data["text/markdown"]}
        text = MarkdownExporter(exclude_input=True).from_notebook_node(content)[0]
    except Exception:
        return
    with atomic_path(target) as temporary:
        temporary.write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")


def _summary(folder: Path, manifest: dict[str, Any], since: list[str]) -> dict[str, Any]:
    notebooks = manifest["notebooks"]
    errors = [f"{entry['name']}: {error}" for entry in notebooks for error in _errors(entry, _of(manifest, entry))]
    done = [entry for entry in notebooks if entry["compared"]]
    shown = [entry for entry in done if entry["name"] in MAIN] or done
    main = shown[-1] if shown else None
    pictures = [
        {**picture, "title": entry["title"], "page": f"{entry['name']}.html"}
        for entry in shown
        if (picture := _first_picture(folder / f"{entry['name']}.ipynb"))
    ]
    made = [artifact for entry in notebooks for artifact in entry["artifacts"] if (folder / artifact).is_file()]
    return {
        "title": f"ptyint run {manifest['run']}",
        "home": ("../index.html", "all runs"),
        "verdict": "fail" if errors and manifest["verdict"] == "pass" else manifest["verdict"],
        "sentence": _sentence(manifest["checks"]),
        "compared": main["compared"] if main else "",
        "numbers": _numbers(main["numbers"]) if main else [],
        "credentials": [e["compared"] for e in done if e["name"] == CREDENTIAL and e is not main],
        "changes": since,
        "command": shlex.join(manifest["argv"]),
        "errors": [*manifest["errors"], *errors],
        "log": "",
        "stages": _stages(manifest),
        "pictures": pictures,
        "files": ["manifest.json", *dict.fromkeys(made), *(f"{e['name']}.log" for e in notebooks if e["argv"])],
        "tables": [table.html for table in (_datasets(manifest), _commands(manifest), _environment(manifest))],
    }


def _of(manifest: dict[str, Any], entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in manifest["checks"] if check["notebook"] == entry["name"]]


def _sentence(checks: list[dict[str, Any]]) -> str:
    counts = {verdict: sum(check["verdict"] == verdict for check in checks) for verdict in SIGNS}
    if counts["pass"] == len(checks):
        return f"all {len(checks)} expected checks ran and passed."
    others = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != "pass")
    return f"only {counts['pass']} of {len(checks)} expected checks passed ({others})."


def _errors(entry: dict[str, Any], checks: list[dict[str, Any]]) -> list[str]:
    """Everything that is not a pass, the reason why the notebook stopped first."""
    errors = [f"The notebook stopped: {entry['stopped']}."] if entry["stopped"] else []
    for check in checks:
        if check["verdict"] != "pass":
            measured = f"measured {_measured(check)}, required {check['relation']} {check['bound']:g}. "
            note = check["note"] if check["measured"] is None or check["note"] else ""
            shown = measured if check["measured"] is not None else ""
            errors.append(f"{SIGNS[check['verdict']]} {check['verdict']}: {check['name']}. {shown}{note}")
    return errors


def _measured(check: dict[str, Any]) -> str:
    return number(from_json(check["measured"])) if check["measured"] is not None else "nothing"


def _numbers(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, number(from_json(value))) for name, value in list(numbers.items())[:NUMBERS_ON_TOP]]


def _stages(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for entry in manifest["notebooks"]:
        checks = _of(manifest, entry)
        row = {name: entry[name] for name in ("title", "verdict", "compared")}
        row |= {"passed": sum(check["verdict"] == "pass" for check in checks), "checks": len(checks)}
        row |= {
            "seconds": _seconds(entry["start"], entry["end"]),
            "page": f"{entry['name']}.html" if entry["argv"] else "",
        }
        rows.append(row)
    return rows


def _seconds(start: str, end: str) -> str:
    return f"{(datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds():.0f}" if end else "-"


def _datasets(manifest: dict[str, Any]) -> Table:
    return Table("Datasets", ("dataset", "sha256 of its arrays"), list(manifest["datasets"].items()))


def _commands(manifest: dict[str, Any]) -> Table:
    entries = [e for e in manifest["notebooks"] if e["argv"]]
    rows = [
        (shlex.join(c["argv"]), str(c["exit_code"]), _seconds(c["start"], c["end"]))
        for c in [*entries, *manifest["commands"]]
    ]
    return Table("Commands", ("command", "exit code", "seconds"), rows)


def _environment(manifest: dict[str, Any]) -> Table:
    found, git = manifest["environment"], manifest["git"]
    rows = [
        (
            "commit",
            f"{git['commit']}" + (f", uncommitted changes in {', '.join(git['changed'])}" if git["dirty"] else ""),
        ),
        *((name, str(found[name])) for name in ("python", "platform", "cpu", "cores", "threads")),
        ("memory / GiB", "unknown" if found["memory_bytes"] is None else f"{found['memory_bytes'] / 2**30:.1f}"),
        ("environment variables", ", ".join(f"{k}={v}" for k, v in found["variables"].items()) or "none set"),
        *((name, ", ".join(f"{k}: {v}" for k, v in facts.items())) for name, facts in found["backends"].items()),
        ("run", f"{manifest['start']} to {manifest['end']}, profile {manifest['profile']}"),
    ]
    return Table("Environment", ("what", "value"), rows)


def write_history(path: Path, index: dict[str, Any], since: list[str]) -> None:
    """Write the page of all runs.

    Parameters
    ----------
    path : Path
    index : dict
        From :func:`ptyint.evidence.index.index`.
    since : list of str
        What changed between the last two finished runs.
    """
    from ptyint.images.figures import trend

    runs = index["runs"]
    finished = [run for run in runs if run["state"] == "finished"]
    names = dict.fromkeys(name for run in finished for name in run["numbers"])
    main = ([name for name in names if name.startswith(f"{notebook}: ")][:NUMBERS_ON_TOP] for notebook in MAIN)
    picture = trend(finished[::-1], [name for group in main for name in group])
    _write(
        path,
        "history.html.j2",
        title="All runs of ptyint",
        home=None,
        runs=runs,
        last=finished[0] if finished else None,
        changes=since,
        picture=None if picture is None else {"png": b64encode(picture.png()).decode(), "alt": picture.alt},
    )


def _first_picture(path: Path) -> dict[str, str] | None:
    """The first PNG of an executed notebook, with its alt text."""
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError):
        return None
    for cell in cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                return {"png": output.data["image/png"].replace("\n", ""), "alt": alt}
    return None


def _write(path: Path, template: str, **values: Any) -> None:
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    with atomic_path(path) as temporary:
        temporary.write_text(render(template, css=css, signs=SIGNS, **values), encoding="utf-8")
