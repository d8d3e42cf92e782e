"""What a run leaves names neither this machine nor its user, and is evidence all the same."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from evidence_notebooks import PASSES, green, job, run, write

from ptyint._atomic import shipped
from ptyint.evidence.privacy import TEXTS, private

TELLS = """
import os, pathlib, sys, tempfile
print(pathlib.Path.home(), sys.executable, os.getcwd(), os.__file__, name)
pathlib.Path("made.json").write_text(repr({"where": os.getcwd()}))
"""


def test_paths_become_words_where_they_end() -> None:
    home, checkout = Path.home(), shipped()
    assert private(f"{checkout}/ptyint/cli.py, {checkout}-old").startswith("<checkout>/ptyint/cli.py, ")
    assert "<checkout>" not in private(f"{checkout}-old")
    assert private(f"in {home}.") == "in <home>." and private("/rooted and a/tmp/x") == "/rooted and a/tmp/x"
    assert private(sys.executable).startswith("<python>/")


def test_no_text_of_a_run_names_a_path_and_the_run_verifies(tmp_path: Path) -> None:
    scan = Path.home() / "mine.npz"
    parameters = {"name": str(scan)}
    notebook = write(tmp_path / "n.ipynb", TELLS, PASSES)
    done, content, page = run(tmp_path, job(notebook, "size", artifacts=("made.json",), parameters=parameters))
    assert done.verdict == "pass" and green(done)
    assert content.notebooks[0].asked["name"] == "<home>/mine.npz" and "&lt;home&gt;/mine.npz" in page
    texts = {path.name: path.read_text() for path in done.folder.rglob("*") if path.suffix in TEXTS}
    assert {"small.ipynb", "small.html", "small.log", "manifest.json", "made.json"} <= {*texts}
    prefixes = {str(Path.home()), tempfile.gettempdir(), str(shipped()), sys.prefix, os.path.dirname(os.__file__)}
    assert [(name, one) for name, text in texts.items() for one in prefixes if f"{one}/" in text] == []
    assert "<tmp>/" in texts["small.log"]
