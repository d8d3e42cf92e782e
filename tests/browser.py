"""Pages in a real browser: what they ask for, how accessible they are, whether they fit a phone."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import axe_core_python
import pytest

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --hide-scrollbars"
AXE = Path(axe_core_python.__file__).with_name("axe.min.js")


class Page(HTMLParser):
    """Collects images, links and everything that a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attributes)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"] or "")
        if tag in ("img", "link", "script", "iframe", "source", "object", "embed"):
            self.references += [attributes.get("src") or attributes.get("href") or attributes.get("data") or ""]


def chromium(page: Path, folder: Path, *options: str) -> str:
    """Open a page; return what the browser prints."""
    program = shutil.which("chromium")
    if program is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("no chromium on this machine")
    command = [program, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def requests_of(page: Path, folder: Path) -> set[str]:
    """What the page made a headless Chromium ask for, from its network log (the browser's own chatter left out)."""
    log, picture = folder / "net.json", folder / "page.png"
    chromium(page, folder, "--net-log-capture-mode=Everything", f"--log-net-log={log}", f"--screenshot={picture}")
    assert picture.stat().st_size > 1000
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    started = [event for event in events if "url" in event and "initiator" in event]
    return {event["url"] for event in started if event["initiator"] != "not an origin"}


def evaluate(page: Path, folder: Path, script: str, *options: str) -> Any:
    """What `script`, the body of an async function, returns on a copy of the page."""
    copy = folder / "copy.html"
    ask = f"(async () => {{ {script} }})().then(found => {{ document.body.innerHTML = ''; const out ="
    ask += " document.createElement('pre'); out.id = 'found'; out.textContent = JSON.stringify(found);"
    ask += " document.body.append(out); })"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{ask}</script></body>"), "utf-8")
    printed = chromium(copy, folder, "--dump-dom", "--virtual-time-budget=60000", *options)
    found = re.search(r'<pre id="found">(.*?)</pre>', printed, re.DOTALL)
    assert found is not None, printed[-2000:]
    return json.loads(html.unescape(found[1]))


def accessibility_problems(page: Path, folder: Path) -> list[str]:
    """What axe-core finds wrong with a page (WCAG 2.1 A and AA, and its best practices)."""
    axe = AXE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    script = f"{axe}; const found = await axe.run(document); return found.violations.map("
    script += "v => v.id + ': ' + v.help + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(' | '));"
    return [str(problem) for problem in evaluate(page, folder, script)]


def overflow_px(page: Path, folder: Path, width: int) -> int:
    """By how much a page is wider than a screen of `width` pixels, without its script-less siblings noticing."""
    script = "await new Promise(done => setTimeout(done, 200));"
    script += "return document.documentElement.scrollWidth - document.documentElement.clientWidth;"
    return int(evaluate(page, folder, script, f"--window-size={width},800"))
