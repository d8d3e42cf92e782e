"""The pages of a run on a laptop, a phone and paper, light and dark: the example run, and the one that CI makes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import AXE

from ptyint import cli
from ptyint.evidence.manifest import RUN_NAME

EXAMPLES = Path(__file__).parents[1] / "reports" / "example"
MADE = os.environ.get("PTYINT_TEST_REPORTS")
"""See test_quick_run.py."""

FOLDERS = [EXAMPLES, *([Path(MADE)] if MADE else [])]
PAGES = sorted(page for folder in FOLDERS for page in folder.glob("*/*.html") if RUN_NAME.fullmatch(page.parent.name))

PAPER_PX = 718
"""A4 between its margins."""

SCREENS = {
    "laptop": {"width": 1280, "color_scheme": "light", "media": "screen"},
    "laptop, dark": {"width": 1280, "color_scheme": "dark", "media": "screen"},
    "phone": {"width": 390, "color_scheme": "light", "media": "screen"},
    "phone, dark": {"width": 390, "color_scheme": "dark", "media": "screen"},
    "paper": {"width": PAPER_PX, "color_scheme": "light", "media": "print"},
}

SMALL_TEXT = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), small = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !parent.checkVisibility()) continue;
    const scale = parent.getScreenCTM ? parent.getScreenCTM().a : 1;
    if (parseFloat(getComputedStyle(parent).fontSize) * scale < 9) small.push(walker.currentNode.data.slice(0, 60));
  }
  return small;
}"""
"""Texts of less than 9 px."""

CLIPPED = """() => [...document.querySelectorAll('table')].filter(table => {
  if (!table.checkVisibility()) return false;
  const right = table.getBoundingClientRect().right;
  for (let box = table.parentElement; box; box = box.parentElement) {
    const overflow = getComputedStyle(box).overflowX;
    if (overflow === 'auto' || overflow === 'scroll') return false;
    if (right > box.getBoundingClientRect().right + 1) return true;
  }
  return false;
}).map(table => table.innerText.slice(0, 60))"""
"""Tables that are wider than what they stand in, where nobody can scroll to the rest."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = shutil.which("chromium")
    if program is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def shown(browser: Any, width: int, color_scheme: str, media: str) -> tuple[Any, list[str]]:
    """A page of that width, and what it asks for, which grows."""
    page, asked = browser.new_page(viewport={"width": width, "height": 900}), list[str]()
    page.emulate_media(media=media, color_scheme=color_scheme)
    page.on("request", lambda request: asked.append(request.url))
    return page, asked


def problems(page: Any) -> dict[str, list[str]]:
    """What is wrong with what is shown; nothing where nothing is."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    clipped, small = page.evaluate(CLIPPED), page.evaluate(SMALL_TEXT)
    page.add_script_tag(path=str(AXE))
    violations = page.evaluate("axe.run().then(found => found.violations.map(one => `${one.id}: ${one.help}`))")
    said = {"too wide": [f"{wide} px"] * (wide > 0), "clipped": clipped, "small": small, "axe": violations}
    return {name: some for name, some in said.items() if some}


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_pages_are_legible_whole_and_accessible(browser: Any, screen: str) -> None:
    assert PAGES
    page, asked = shown(browser, **SCREENS[screen])  # type: ignore[arg-type]
    wrong = {}
    for path in PAGES:
        page.goto(path.as_uri())
        wrong |= {f"{path.parent.name}/{path.name}": found for found in [problems(page)] if found}
    page.close()
    assert wrong == {} and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_what_differs_between_two_runs_is_legible_too(browser: Any, screen: str, tmp_path: Path) -> None:
    (run,) = (folder for folder in EXAMPLES.iterdir() if folder.is_dir())
    other = shutil.copytree(run, tmp_path / "other")
    for name, old, new in (("manifest.json", '"pass"', '"fail"'), ("e2d.ipynb", '"alt": "', '"alt": "Again: ')):
        (other / name).write_text((other / name).read_text("utf-8").replace(old, new), "utf-8")
    assert cli.main(["diff", str(run), str(other), "--html", str(tmp_path / "diff.html")]) == 0
    page, asked = shown(browser, **SCREENS[screen])  # type: ignore[arg-type]
    page.goto((tmp_path / "diff.html").as_uri())
    pictures, wrong = page.locator("img").count(), problems(page)
    page.close()
    assert wrong == {} and len(asked) == 1 and pictures > 3


@pytest.mark.slow
def test_it_would_have_been_noticed(browser: Any, tmp_path: Path) -> None:
    cells = "<td>a wide cell</td>" * 40
    (tmp_path / "bad.html").write_text(
        "<body><p style='font-size: 8px'>small</p>"
        "<svg viewBox='0 0 100 10' width='50'><text font-size='12'>x</text></svg>"
        f"<div style='overflow: hidden'><table><tr>{cells}</tr></table></div><img src='data:,'></body>"
    )
    page, _ = shown(browser, **SCREENS["phone"])  # type: ignore[arg-type]
    page.goto((tmp_path / "bad.html").as_uri())
    found = problems(page)
    page.close()
    assert found["small"] == ["small", "x"] and len(found["clipped"]) == 1
    assert any(one.startswith("image-alt") for one in found["axe"])
