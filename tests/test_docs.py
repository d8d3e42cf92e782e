"""The documentation site: built without a warning, every link leads somewhere, and shells complete as it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from browser import accessibility_problems, overflow_px, requests_of

import ptyint
from ptyint import cli
from ptyint.evidence import folder, history, manifest, verification

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "reports" / "example"


class Links(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets |= {given[name] or "" for name in ("href", "src") if name in given and tag != "use"}
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, which is built with every warning an error."""
    if not find_spec("sphinx"):
        pytest.skip("needs Sphinx: pip install 'ptyint[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "doctrees"), str(DOCS)]
    done = subprocess.run([*build, str(folder / "site")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlparse(target)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = there.exists() and (not parts.fragment or there not in pages or there == path)
            if not found and not (there in pages and unquote(parts.fragment) in pages[there].anchors):
                broken.append(f"{path.name}: {target}")
            elif there == path and parts.fragment and unquote(parts.fragment) not in page.anchors:
                broken.append(f"{path.name}: {target}")
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "tutorial", "ladder", "reference"])
def test_pages_of_the_site_are_accessible_fit_a_phone_and_ask_for_nothing_elsewhere(
    site: Path, tmp_path: Path, name: str
) -> None:
    page = site / f"{name}.html"
    assert all(url.startswith(("file:", "data:")) for url in requests_of(page, tmp_path))
    assert overflow_px(page, site, 500) == 0
    assert accessibility_problems(page, site) == []


# --- the example run ---


def example() -> Path:
    (folder,) = (path for path in EXAMPLES.iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    return folder


def test_the_example_run_passed_verifies_and_stands_in_the_ledger() -> None:
    said = verification.verify(example(), DOCS / "fix_plan.md")
    assert said.problems == () and said.green
    assert cli.main(["verify", str(example()), "--ledger", str(DOCS / "fix_plan.md")]) == 0


def test_the_example_run_is_small_and_names_no_place_and_nobody() -> None:
    files = [path for path in example().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    place = re.compile(rb"/(?:home|root|tmp|work|Users)/[\w.-]+/")
    assert [path.name for path in files if place.search(path.read_bytes())] == []


def test_the_example_run_is_none_of_the_checkouts_own() -> None:
    """A fresh clone's first run has none before it; README and site show this one."""
    reports = ROOT / "reports"
    listed = {one.manifest.run for one in ptyint.runs(reports)} | {one["run"] for one in history.index(reports)["runs"]}
    assert example().name not in listed and example() not in folder.dead(reports)
    assert f"reports/example/{example().name}/index.html" in (ROOT / "README.md").read_text()


# --- completion ---


@pytest.mark.parametrize(("shell", "program"), [("bash", "bash"), ("zsh", "zsh")])
def test_completion_is_what_click_gives(shell: str, program: str, tmp_path: Path) -> None:
    """The line of docs/command_line.md, in a shell where there is one; then what the shell asks for."""
    text = (DOCS / "command_line.md").read_text()
    assert f'eval "$(_PTYINT_COMPLETE={shell}_source ptyint)"' in text
    tool = tmp_path / "ptyint"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m ptyint.cli "$@"\n')
    tool.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    asked = env | {"_PTYINT_COMPLETE": f"{shell}_complete", "COMP_WORDS": "ptyint run e2", "COMP_CWORD": "2"}
    offered = subprocess.run([tool], env=asked, capture_output=True, text=True).stdout
    assert all(stage in offered for stage in ("e2a", "e2b", "e2c", "e2d")) and "ladder" not in offered
    if not shutil.which(program):
        pytest.skip(f"needs {program}: apt-get install {program}")
    setup = "autoload -U compinit && compinit -u && " if shell == "zsh" else ""
    line = f'{setup}eval "$(_PTYINT_COMPLETE={shell}_source ptyint)" && '
    line += "print -r -- $_comps[ptyint]" if shell == "zsh" else "complete -p ptyint"
    done = subprocess.run(
        [program, "-f" if shell == "zsh" else "--norc", "-c", line], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and "_ptyint_completion" in done.stdout, done.stderr
