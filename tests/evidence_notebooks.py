"""Small notebooks for the runner, and a run of one of them: real papermill, real kernels, no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from ptyint.evidence import manifest
from ptyint.evidence import run as runner
from ptyint.evidence.checks import Criterion
from ptyint.evidence.manifest import Manifest
from ptyint.evidence.run import Finished, Job
from ptyint.evidence.verification import verify

PASSES = """
from ptyint.evidence.checks import Check
from ptyint.evidence.display import checks_table
checks_table([Check("size", float(size), "<=", 10.0)])
"""
CRITERIA = {"size": Criterion("size", "<=", 10.0)}
"""What the notebooks here are asked, where it is more than a fact."""

FILE = "open('made.txt', 'w').write('whole')"


def write(path: Path, *cells: str, parameters: str | None = "size = 3  # of it\nname = 'a'") -> Path:
    """A notebook of code cells; the first is the parameters cell, unless `parameters` is None."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.cells = [nbformat.v4.new_markdown_cell("# A small notebook")]
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    nbformat.write(notebook, path)
    return path


def installed_plugin(folder: Path, group: str, source: str) -> None:
    """What PYTHONPATH=folder then has installed: a module `greens`, which is an entry point of the group."""
    (folder / "greens.py").write_text(source)
    (folder / "greens-1.dist-info").mkdir()
    (folder / "greens-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: greens\nVersion: 1\n")
    (folder / "greens-1.dist-info/entry_points.txt").write_text(f"[{group}]\ngreens = greens\n")


def job(path: Path, *expects: str | Criterion, name: str = "small", **options: Any) -> Job:
    """The notebook as a job that must report `expects`."""
    named = (CRITERIA.get(one, Criterion.fact(one)) if isinstance(one, str) else one for one in expects)
    return Job("test", name, "A small stage", path, expects=tuple(named), **options)


def run(folder: Path, *jobs: Job) -> tuple[Finished, Manifest, str]:
    """Run jobs below `folder`; what came of it, the manifest, and the text of the first notebook's page."""
    done = runner.run(
        jobs, reports=folder / "reports", ledger=folder / "docs" / "fix_plan.md", argv=["ptyint", "run", "test"]
    )
    page = done.folder / f"{jobs[0].name}.html"
    return done, manifest.read(done.folder), page.read_text(encoding="utf-8") if page.exists() else ""


def verdicts(content: Manifest) -> dict[str, str]:
    """Check to verdict."""
    return {check.name: check.verdict for check in content.checks}


def green(done: Finished) -> bool:
    """Whether the run verifies as a pass, with its ledger."""
    return verify(done.folder, done.folder.parents[1] / "docs" / "fix_plan.md").green
