"""A scan through both backends by the command line, too briefly to pass: everything that a red run owes its reader."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from browser import Page

from ptyint.backends.bundle import load_bundle
from ptyint.cli import main
from ptyint.evidence import manifest, verification
from ptyint.images.reconstruction import Reconstruction
from ptyint.scans.files import write_scan
from ptyint.scans.fixtures import load_fixture


@pytest.fixture(scope="module")
def scan_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """`ptyint run scan` on the tiny fixture, two epochs: far too few to pass, enough to see everything."""
    reports = tmp_path_factory.mktemp("scan") / "reports"
    command = [sys.executable, "-m", "ptyint.cli", "run", "scan", "--fixture", "tiny-64", "--reports", str(reports)]
    done = subprocess.run([*command, "-p", "nepochs", "2"], capture_output=True, text=True)
    (folder,) = (path for path in reports.iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    return done, folder


def test_an_unconverged_run_is_red_in_exit_code_file_and_page(scan_run) -> None:
    done, folder = scan_run
    content = manifest.read(folder)
    assert done.returncode == 1 and content.verdict == "fail" and content.exit_code == 1
    assert json.loads((folder / "comparison.json").read_text())["passed"] is False
    assert "✗ FAIL: read " in done.stdout
    for name in ("compare", "index"):
        text = Page(folder / f"{name}.html").text
        assert "✗ FAIL" in text and '<h2 id="errors">Errors</h2>' in text
        assert "✗ fail: phase correlation with the truth, tensorflow. measured" in text
    assert [entry.verdict for entry in content.notebooks] == ["pass", "pass", "fail"]
    assert verification.verify(folder, folder.parents[1] / "docs" / "fix_plan.md").problems == ()


def test_each_backend_left_model_and_reconstruction(scan_run) -> None:
    _, folder = scan_run
    for backend in ("tensorflow", "pytorch"):
        assert load_bundle(folder / backend).manifest["backend"] == backend
        assert Reconstruction.load(folder / backend).backend == backend


def test_both_backends_started_from_the_same_and_stayed_close(scan_run) -> None:
    _, folder = scan_run
    checks = {check["name"]: check for check in json.loads((folder / "comparison.json").read_text())["checks"]}
    for name in ("same scan", "same groups", "same initial weights", "same config", "two different backends"):
        assert checks[name]["verdict"] == "pass", name
    a, b = (Reconstruction.load(folder / backend).losses for backend in ("tensorflow", "pytorch"))
    assert a[0] > a[1] and abs(a - b).max() < 0.01 * (a[0] - a[1])


def test_a_progress_bar_is_one_log_that_ends_with_its_last_state(scan_run) -> None:
    page = Page(scan_run[1] / "pytorch.html").text
    assert page.count("<summary>log</summary>") == 1
    log = re.search(r"<summary>log</summary>\s*<pre>(.*?)</pre>", page, re.DOTALL)
    assert log is not None and "2/2" in log[1] and "0/2" not in log[1]


def test_the_runner_shows_how_far_it_is(scan_run) -> None:
    shown = scan_run[0].stderr
    ended = re.findall(r"^(\w+) has ended, (\d) of 3, after \d+ s$", shown, re.MULTILINE)
    assert sorted(ended[:2]) in ([("pytorch", "1"), ("tensorflow", "2")], [("pytorch", "2"), ("tensorflow", "1")])
    assert ended[2:] == [("compare", "3")]


def test_a_run_that_breaks_leaves_its_pages_and_a_red_exit_code(tmp_path: Path) -> None:
    """A learning rate with which no loss is finite: the notebooks stop, the comparison has nothing to compare."""
    options = ["--fixture", "tiny-64", "-p", "learning_rate", "1e30", "-p", "nepochs", "1"]
    command = [sys.executable, "-m", "ptyint.cli", "run", "scan", *options, "--reports", str(tmp_path / "reports")]
    done = subprocess.run(command, capture_output=True, text=True)
    (folder,) = (path for path in (tmp_path / "reports").iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    assert done.returncode == 1 and manifest.read(folder).verdict == "fail"
    assert "lower learning_rate" in done.stderr + done.stdout and "Traceback" not in done.stderr
    for name in ("tensorflow", "pytorch", "compare", "index"):
        assert '<h2 id="errors">Errors</h2>' in (folder / f"{name}.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["scan", "-p", "nepoch", "2"], "Did you mean 'nepochs'"),
        (["scan", "-p", "nepochs", "two"], "nepochs is 'two'; must be a whole number of at least 1."),
        (
            ["e2e"],
            "Unknown stage 'e2e'. Must be one of ['e2a', 'e2b', 'e2c', 'star', 'scan', "
            "'ladder', 'faults', 'ptychodus', 'e2d', 'your_models']. Did you mean 'e2d'?",
        ),
        (["scan", "--fixture", "tiny-46"], "No fixture is named 'tiny-46'. Did you mean 'tiny-64'?"),
        (["e2d", "--fixture", "tiny-64"], "are for the stage 'scan', and only ['e2d'] will run"),
        (["scan", "--fixture", "tiny-64", "--scan", "a.npz"], "give one of them"),
        (["e2c"], "Stage e2c needs the red evidence of stage e2b"),
        (["scan", "-p", "learning_rate", "1e999"], "learning_rate is inf; must be a finite number above 0."),
        (["scan", "-p", "n_groups", "1" + 400 * "0"], "must be a finite number"),
        (["scan", "-p", "seed", "-1"], "seed is -1; must be a whole number of at least 0."),
        (["scan", "-p", "min_agreement", "-1"], "-p min_agreement is -1; no parameter of a stage is below 0."),
        (["scan", "-p", "nepochs", "{[]: 1}"], "nepochs is '{[]: 1}'; must be a whole number"),
        (["scan", "-p", "nepochs", "(" * 5000], "must be a whole number"),
        (["scan", "-p", "nepochs", "[" * 5000], "must be a whole number"),
        (["scan", "-p", "nepochs=[1, 2]"], "nepochs is [1, 2]; must be a whole number"),
        (["scan", "-p", "nepochs=-5"], "nepochs is -5; must be a whole number of at least 1."),
        (["ptychodus", "-p", "ptychodus.nepochs", "0"], "nepochs is 0; must be a whole number of at least 1."),
        (["e2a", "-p", "nepochs", "1"], "nepochs is 1; must be a whole number of at least 2."),
        (["scan", "-p", "gridsize", "3"], "gridsize is 3; must be one of [1, 2]."),
        (["scan", "-p", "n_groups", "0"], "n_groups is 0; must be a whole number of at least 1."),
        (["scan", "-p", "M", "11"], "M is 11; must be even"),
        (["scan", "-p", "scheduler", "Cosine"], "Did you mean 'WarmupCosine'?"),
        (["ladder", "-p", "candidate", "pytoch"], "Unknown backend 'pytoch'."),
        (["ladder", "-p", "candidate", "pytoch"], "Did you mean 'pytorch'?"),
        (["ladder", "-p", "reference", "pytorch"], "reference and candidate are both 'pytorch'"),
        (["ladder", "-p", "n_pairs", "0"], "n_pairs is 0; must be a whole number of at least 1."),
        (["faults", "-p", "faults", "F01, F99"], "No fault has the id 'F99'. Did you mean 'F19'?"),
        (["e2a", "-p", "fixtures", "tiny-46"], "No fixture is named 'tiny-46'. Did you mean 'tiny-64'?"),
        (["ladde"], "Did you mean 'ladder'?"),
        (["scan", "--junit", "/nowhere/junit.xml"], "there is no folder /nowhere"),
        (["scan", "-p", "diffraction_kind", "a\udcff"], r"diffraction_kind is 'a\udcff'; must be one of"),
        (["scan", "--ledger", "/"], "The ledger / is a folder; give a file."),
        (["scan", "--ledger", f"{__file__}/fix_plan.md"], "is a file; give another folder."),
        (["scan", "--scan", "a\udcff.npz"], r"a\udcff.npz"),
        *(
            (["scan", "--timeout", one], f"is {one}; must be a finite number of seconds")
            for one in ("-1", "0", "nan", "inf")
        ),
        *((["scan", "-p", name, "x"], f"-p {name} cannot be given") for name in ("backend", "fixture", "output_dir")),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_folder_exists(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments, "--reports", str(tmp_path / "reports")]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said) <= 600 and said.startswith("ptyint: ") and said.count("\n") == 1
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "--fixture", "siemens-star-64"],
        ["ptychodus", "-p", "fixture", "siemens-star"],
        ["e2a", "-p", "fixtures", "siemens-star"],
    ],
)
def test_a_dataset_that_cannot_be_fetched_is_refused_before_a_folder_exists(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PTYINT_DATA_DIR", "PTYINT_REQUIRE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert main(["run", *arguments, "--reports", str(tmp_path / "reports")]) == 2
    said = capsys.readouterr().err
    assert "offline, set PTYINT_DATA_DIR to a folder that holds" in said and not (tmp_path / "reports").exists()


def test_a_scan_whose_name_is_no_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The manifest could not name it."""
    scan = tmp_path / os.fsdecode(b"a\xff.npz")
    write_scan(load_fixture("tiny-64"), tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(scan)
    assert main(["run", "scan", "--scan", str(scan), "--reports", str(tmp_path / "reports")]) == 2
    said = capsys.readouterr().err
    assert r"a\udcff.npz' is no UTF-8 text" in said and said.count("\n") == 1
    assert not (tmp_path / "reports").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for options in (["--reports", str(tmp_path / "file" / "reports")], ["--reports", str(tmp_path / "file")]):
        assert main(["run", "scan", *options]) == 2
        assert "is a file; give another folder." in capsys.readouterr().err
    assert main(["index", *options]) == 2
    assert capsys.readouterr().err.startswith("ptyint: ") and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "✗"), ("latin-1", "x"), ("ascii", "x"), ("cp1252", "x")])
def test_a_verdict_is_printed_in_any_encoding(encoding: str, sign: str, tmp_path: Path) -> None:
    """The folder's name has signs too."""
    command = [sys.executable, "-m", "ptyint.cli", "verify", str(tmp_path / "✓日")]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
    last = done.stdout.decode(encoding).splitlines()[-1]
    assert done.returncode == 1 and done.stderr == b""
    assert last.startswith(f"{sign} ") and last.endswith("is not the evidence that a run left.")


def test_fixtures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fixtures"]) == 0
    listed = capsys.readouterr().out
    assert "synthetic-64" in listed and "siemens-star-64" in listed


def test_backends_are_described_or_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptyint.backends import installed

    assert main(["backends"]) == 0
    assert re.search(r"pytorch +✓ version \d", capsys.readouterr().out)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('broken install')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    installed._describe.cache_clear()
    assert main(["backends"]) == 1
    installed._describe.cache_clear()
    listed = capsys.readouterr().out
    assert "broken install" in listed and "pip install torch" in listed and re.search(r"tensorflow +✓", listed)


def test_a_description_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that starts a helper when it is imported: the helper ends with the process that was asked."""
    from ptyint.backends import installed

    pid = tmp_path / "pid"
    start = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        f"{start}\nopen({str(pid)!r}, 'w').write(str(child.pid))\nraise ImportError('broken install')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    installed._describe.cache_clear()
    assert "broken install" in installed.describe(["pytorch"])["pytorch"]["unavailable"]
    installed._describe.cache_clear()
    child, limit = Path(f"/proc/{pid.read_text()}/stat"), time.monotonic() + 20
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z" and time.monotonic() < limit:
        time.sleep(0.1)
    assert not child.exists() or child.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_verify_on_the_command_line(scan_run, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = scan_run
    assert main(["verify", str(folder)]) == 1
    assert "is as the run left it; its verdict: ✗ fail" in capsys.readouterr().out
    assert main(["verify", str(folder / "nothing")]) == 1
    assert "it is not a run folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["run", "verify", "diff", "lab", "index", "clean", "backends", "check-backend", "fixtures"]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: ptyint {command}")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ptyint, version {metadata.version('ptyint')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["zzz"], "No such command 'zzz'."),
        (["run", "--profil", "full"], "Did you mean '--profile'"),
        (["run", "--profile", "slow"], "'slow' is not one of 'quick', 'full'"),
        (["verify"], "Missing argument 'RUN'"),
        (["run", "-p", "nepochs"], "Option '-p' requires 2 arguments"),
    ],
)
def test_a_mistyped_command_line_is_refused_with_the_near_miss(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
