"""`ptyint lab` as a scientist uses it: JupyterLab in a real browser, on a run with a seeded fault.

The run compares the reference `numpy` with the PyTorch backend whose offsets have the wrong sign (fault F01).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_notebooks import job, run, write

import ptyint
from ptyint.evidence.checks import Criterion
from ptyint.evidence.display import number
from ptyint.evidence.processes import end_group, start_group

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
WAIT_SECONDS = 120
FAULTY = """
from ptyint.backends import pytorch
from ptyint.parity.faults.catalogue import CATALOGUE

fault = CATALOGUE["F01"].applied()
fault.__enter__()


class Faulty(pytorch.PyTorchBackend):
    name = "faulty"


BACKEND = Faulty()
"""
CLIMB = """
from pathlib import Path

from ptyint.evidence.checks import Check
from ptyint.evidence.display import checks_table
from ptyint.parity import compare
from ptyint.parity.ladder import Climb
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import RUNGS

problems, red = Problems(cases=("gridsize 2",)), []
with Climb(".", "numpy", "faulty", problems) as climb:
    judged = climb.rung("operator")
    with compare.keeping(red):
        RUNGS["operator"].judge(climb.measured, problems)
compare.save_taps(Path(compare.RED_TAPS), red)
checks_table([Check("red on rung 1", sum(row.red for row in judged.rows), "<=", 0.0)])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a red run in ``reports/``."""
    folder = tmp_path_factory.mktemp("home")
    package = folder / "package"
    (package / "faulty-1.0.dist-info").mkdir(parents=True)
    (package / "faulty.py").write_text(FAULTY)
    (package / "faulty-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (package / "faulty-1.0.dist-info" / "entry_points.txt").write_text("[ptyint.backends]\nfaulty = faulty\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])))
        criterion = Criterion("red on rung 1", "<=", 0.0)
        climb = job(write(folder / "n.ipynb", CLIMB), criterion, name="ladder", artifacts=("red_taps.h5",))
        done, content, _ = run(folder, climb)
    assert done.verdict == "fail", content.errors
    assert ptyint.Run.load(done.folder).arrays
    yield folder


@pytest.fixture(scope="module")
def lab(home: Path) -> Iterator[str]:
    """The address of JupyterLab, as `ptyint lab` started it, with its token."""
    settings = home / "config"
    settings.mkdir()
    (settings / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    news = settings / "labconfig" / "default_setting_overrides.json"
    news.parent.mkdir()
    news.write_text('{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}')
    alone = {"BROWSER": "true", "IPYTHONDIR": str(home / "ipython"), "JUPYTER_CONFIG_DIR": str(settings)}
    alone |= {"JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    log = home / "lab.log"
    command = [sys.executable, "-m", "ptyint.cli", "lab"]
    with log.open("wb") as output:
        server = start_group(command, home, os.environ | alone, stdout=output, stderr=output)
    try:
        yield address(home / "runtime", server, log)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server ends its kernels, which are in groups of their own
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=30)
        end_group(server)


def address(runtime: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server listens, once it does."""
    for _ in range(WAIT_SECONDS * 4):
        assert server.poll() is None, log.read_text()
        for path in runtime.glob("jpserver-*.json"):
            told = json.loads(path.read_text())
            try:
                urllib.request.urlopen(f"{told['url']}api/status?token={told['token']}", timeout=5).close()
                return f"{told['url']}lab/tree/explore.ipynb?token={told['token']}"
            except OSError:
                pass
        time.sleep(0.25)
    raise AssertionError(log.read_text())


class Lab:
    """The notebook in a browser: what was received, and what is seen."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.words = page, dict[str, str]()
        page.on("websocket", lambda socket: socket.on("framereceived", self._received))
        page.goto(url)
        page.get_by_text(re.compile("ipykernel.*Idle")).wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        self.cell = page.locator(".jp-Cell").filter(has_text="Chooser(explore.taps")
        self.control("zoom").wait_for()

    def _received(self, frame: str | bytes) -> None:
        """Remember the words of each picture that the kernel sent."""
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        for found in re.finditer(r'"image/png": ?"([^"]*)", ?"text/plain": ?"(Reference[^"]*)"', text):
            self.words[found[1].replace("\\n", "")] = found[2]

    def control(self, name: str) -> Any:
        """A list or slider by its description."""
        return self.cell.locator(".widget-inline-hbox").filter(has=self.page.get_by_text(name, exact=True))

    def options(self, name: str) -> list[str]:
        """What a list offers."""
        return [text.replace("\xa0", " ") for text in self.control(name).locator("option").all_inner_texts()]

    def seen(self) -> str:
        """The words of the picture that is shown."""
        source = self.cell.locator("img").get_attribute("src")
        return self.words.get(source.partition("base64,")[2], "")

    def until(self, words: str) -> str:
        """Wait for a picture of these words."""
        for _ in range(WAIT_SECONDS * 10):
            if self.cell.locator("img").count() == 1 and words in (seen := self.seen()):
                return seen
            self.page.wait_for_timeout(100)
        raise AssertionError(f"no picture says {words!r}; the last one says {self.seen()!r}")

    def picture(self) -> bytes:
        """The PNG that is shown."""
        return base64.b64decode(self.cell.locator("img").get_attribute("src").partition("base64,")[2])


@pytest.fixture
def notebook(lab: str) -> Iterator[Lab]:
    """The notebook, run from top to bottom."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(WAIT_SECONDS * 1000)
        yield Lab(page, lab)
        browser.close()


def words(tap: Any, part: Any, plane: int | None = None) -> str:
    """What a picture must say of a tap: the worst element of a plane, or of all."""
    a, b = (part(one).reshape(-1, *one.shape[-2:]) for one in (tap.reference, tap.candidate))
    apart = np.abs(b - a)
    index = int(apart.max(axis=(1, 2)).argmax()) if plane is None else plane
    y, x = (int(one) for one in np.unravel_index(apart[index].argmax(), apart.shape[1:]))
    values = ", ".join(number(float(one[index, y, x])) for one in (a, b, b - a))
    return f"plane {index}: worst at ({y}, {x}): reference, candidate, difference are {values}"


def test_a_red_tap_is_chosen_and_looked_into(home: Path, notebook: Lab) -> None:
    (red,) = ptyint.runs(home / "reports")
    assert notebook.options("run") == [f"{red.manifest.run} fail"] and notebook.options("rung") == ["operator"]
    names = [f"{tap.place}: {tap.side} against {tap.against}" for tap in red.arrays]
    assert notebook.options("tap") == names and names[0].startswith("merge_patches")
    notebook.until(words(red.arrays[0], np.abs))

    chosen = next(number for number, name in enumerate(names) if "large offsets" in name and "float64" in name)
    notebook.control("tap").locator("select").select_option(index=chosen)
    notebook.until(words(red.arrays[chosen], np.abs))
    notebook.control("part").locator("select").select_option("real part")
    notebook.until(words(red.arrays[chosen], np.real))

    notebook.control("plane").locator("[role=slider], .noUi-handle").press("ArrowRight")
    notebook.until(words(red.arrays[chosen], np.real, 0))
    whole = notebook.picture()
    notebook.control("zoom").locator("[role=slider], .noUi-handle").press("ArrowRight")
    notebook.control("zoom").get_by_text("2", exact=True).wait_for()
    for _ in range(100):
        if (nearer := notebook.picture()) != whole:
            break
        notebook.page.wait_for_timeout(100)
    assert nearer != whole and notebook.seen() == notebook.until(words(red.arrays[chosen], np.real, 0))


def test_no_cell_failed_and_the_sections_say_why_the_run_is_red(notebook: Lab) -> None:
    notebook.until("worst at")
    assert notebook.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    table = notebook.page.locator(".jp-Cell").filter(has_text="checks = run.checks").locator("table")
    assert "red on rung 1" in table.inner_text()
