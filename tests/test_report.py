"""The whole way once: two kernels, two frameworks, one page; then everything that a reviewer relies on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ptyint.bundle import load_bundle
from ptyint.cli import main, new_run_folder
from ptyint.reconstruction import Reconstruction


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`ptyint report` on the tiny fixture, two epochs: far too few to pass, enough to see everything."""
    reports = tmp_path_factory.mktemp("reports")
    command = [sys.executable, "-m", "ptyint.cli", "report", "--fixture", "tiny-64", "--reports", str(reports)]
    done = subprocess.run([*command, "-p", "nepochs", "2"], capture_output=True, text=True)
    folders = list(reports.iterdir())
    assert len(folders) == 1, done.stderr[-3000:]
    return done, folders[0]


class Page(HTMLParser):
    """Collects images and everything that a browser would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.scripts = 0
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attributes)
        if tag in ("img", "link", "script", "iframe", "source", "object", "embed"):
            self.references += [attributes.get("src") or attributes.get("href") or attributes.get("data") or ""]


def pages(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.html"))
    assert [path.stem for path in found] == ["index", "pytorch", "tensorflow"]
    return found


def test_the_run_folder_is_named_by_time_and_complete(run) -> None:
    _, folder = run
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z", folder.name)
    for backend in ("tensorflow", "pytorch"):
        assert load_bundle(folder / backend).manifest["backend"] == backend
        assert Reconstruction.load(folder / backend).backend == backend


def test_an_unconverged_run_is_red_in_exit_code_file_and_page(run) -> None:
    done, folder = run
    result = json.loads((folder / "comparison.json").read_text())
    assert result["passed"] is False and done.returncode == 1
    assert "FAIL" in done.stdout and "✗ FAIL" in Page(folder / "index.html").text


def test_both_backends_started_from_the_same_and_stayed_close(run) -> None:
    _, folder = run
    checks = {check["name"]: check for check in json.loads((folder / "comparison.json").read_text())["checks"]}
    for name in ("same scan", "same groups", "same initial weights", "same config", "two different backends"):
        assert checks[name]["passed"], name
    a, b = (Reconstruction.load(folder / backend) for backend in ("tensorflow", "pytorch"))
    assert abs(a.losses / b.losses - 1).max() < 1e-4


def test_pages_fetch_nothing_run_nothing_and_describe_their_images(run) -> None:
    for path in pages(run[1]):
        page = Page(path)
        assert page.scripts == 0
        assert all(reference.startswith("data:") for reference in page.references)
        assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page.text)
        assert len(page.images) >= 3
        for image in page.images:
            assert re.search(r"\d", image["alt"] or "") and "No description" not in (image["alt"] or "")
        assert path.stat().st_size < 5_000_000


def requests_of(page: Path, folder: Path) -> set[str]:
    """What the page made a headless Chromium ask for, from its network log (the browser's own chatter left out)."""
    chromium = shutil.which("chromium")
    if chromium is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("no chromium on this machine")
    log, picture = folder / "net.json", folder / "page.png"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --net-log-capture-mode=Everything"
    files = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--screenshot={picture}"]
    subprocess.run([chromium, *flags.split(), *files, page.as_uri()], check=True, capture_output=True, timeout=120)
    assert picture.stat().st_size > 1000
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    started = [event for event in events if "url" in event and "initiator" in event]
    return {event["url"] for event in started if event["initiator"] != "not an origin"}


def test_a_progress_bar_is_one_log_that_ends_with_its_last_state(run) -> None:
    page = Page(run[1] / "pytorch.html").text
    assert page.count("<summary>log</summary>") == 1
    log = re.search(r"<summary>log</summary>\s*<pre>(.*?)</pre>", page, re.DOTALL)
    assert log is not None and "2/2" in log[1] and "0/2" not in log[1]


def test_a_browser_asks_for_nothing_but_the_page(run, tmp_path: Path) -> None:
    asked = requests_of(run[1] / "index.html", tmp_path)
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_the_browser_would_have_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/picture.png">')
    assert requests_of(page, tmp_path) == {"http://127.0.0.1:9/picture.png"}


def test_a_run_that_breaks_leaves_its_page_and_a_red_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ptyint.cli", "report", "--fixture", "tiny-46", "--reports", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    (folder,) = tmp_path.iterdir()
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ptyint: reconstruct.ipynb stopped: FixtureError: No fixture is named 'tiny-46'.")
    assert "Error: this notebook stopped here" in (folder / "tensorflow.html").read_text()
    assert not (folder / "index.html").exists()


def test_a_misspelt_parameter_stops_before_a_run_folder_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "-p", "nepoch", "2", "--reports", str(tmp_path / "reports")]) == 1
    assert "Did you mean 'nepochs'" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("name", ["backend", "fixture", "scan_file", "output_dir"])
def test_what_a_report_decides_itself_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "-p", name, "x", "--reports", str(tmp_path / "reports")]) == 1
    assert f"-p {name} cannot be given" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_two_runs_in_the_same_second_get_two_folders(tmp_path: Path) -> None:
    names = {final.name for _, final in (new_run_folder(tmp_path) for _ in range(5))}
    assert len(names) == 5


def test_fixtures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fixtures"]) == 0
    listed = capsys.readouterr().out
    assert "synthetic-64" in listed and "siemens-star-64" in listed
