"""``papermill --engine ptyint``: what ``ptyint run`` refuses is refused, and only green evidence ends with 0."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from evidence_notebooks import PASSES, write

from ptyint.evidence import execution
from ptyint.evidence.environment import installation
from ptyint.evidence.execution import KILLED, execute
from ptyint.evidence.processes import PROGRESS_VARIABLE
from ptyint.evidence.record import collect

ASKS = f"import os\nassert os.environ[{PROGRESS_VARIABLE!r}] == 'text'"


def papermill(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The real command in the notebook's folder; the executed notebook is ``out.ipynb``."""
    command = [sys.executable, "-m", "papermill", "--engine", "ptyint", str(path), "out.ipynb", "--no-progress-bar"]
    env = {name: value for name, value in os.environ.items() if name != PROGRESS_VARIABLE}
    return subprocess.run([*command, *options], cwd=path.parent, env=env, capture_output=True, text=True)


def executed(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path.parent / "out.ipynb", as_version=4)


def test_green_evidence_ends_with_0_and_says_what_the_kernel_held(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", PASSES, ASKS)
    done = papermill(path, "-p", "size", "4", "-p", "name", "x=y")
    assert done.returncode == 0, done.stderr[-2000:]
    record = collect(executed(path))
    assert record.parameters == {"size": 4, "name": "x=y"} and record.checks[0].measured == 4.0


def test_a_kernel_needs_no_port_which_another_may_take_first(tmp_path: Path) -> None:
    asks = "from ipykernel.connect import get_connection_info as info\nassert info(unpack=True)['transport'] == {!r}"
    assert papermill(write(tmp_path / "n.ipynb", asks.format("ipc"), PASSES)).returncode == 0
    long = tmp_path / ("deep" * 20)  # no socket can have such a name
    long.mkdir()
    path = write(tmp_path / "n.ipynb", asks.format("tcp"), PASSES)
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--engine", "ptyint", path, "out.ipynb"],
        env={**os.environ, "TMPDIR": str(long)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-p", "sise", "4"), "n.ipynb has no parameter 'sise'. Did you mean 'size'?"),
        (("-p", "size", "four"), "n.ipynb: size is 'four', a str; must be a int, as its default 3 is."),
        (("-p", "size", "4.5"), "size is 4.5, a float; must be a int"),
    ],
)
def test_what_run_refuses_is_refused_before_a_kernel_starts(
    options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "n.ipynb", "open('started', 'w').close()", PASSES)
    done = papermill(path, *options)
    assert done.returncode == 1 and says in done.stderr
    assert not (tmp_path / "started").exists() and not (tmp_path / "out.ipynb").exists()


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", "open('started', 'w').close()", parameters=None)
    done = papermill(path, "-p", "size", "4")
    assert done.returncode == 1 and "n.ipynb has 0 cells tagged 'parameters'; must have one" in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("cells", "code", "says"),
    [
        ((PASSES.replace("float(size)", "99.0"),), 1, "✗ fail: size."),
        ((PASSES.replace("float(size)", "None"),), 1, "○ not run: size."),
        ((PASSES, "import sys; sys.exit(0)"), 1, "a cell left early: SystemExit: 0"),
        ((PASSES, "1 / 0"), 1, "ZeroDivisionError: division by zero"),
        ((PASSES, "size = 5"), 1, "size is 5, asked for 3"),
        ((PASSES, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), KILLED, "DeadKernelError"),
    ],
    ids=["red", "not run", "exit", "raises", "overwrites", "killed"],
)
def test_what_is_not_green_ends_in_an_error_and_the_executed_notebook_is_kept(
    cells: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "n.ipynb", *cells)
    done = papermill(path, "--no-request-save-on-cell-execute")  # so that the engine alone keeps it
    assert done.returncode == code and says in done.stderr, done.stderr[-2000:]
    assert collect(executed(path)).checks[0].name == "size"


@pytest.mark.parametrize("first", ["ptyint.evidence.engine", "papermill", "ptyint.evidence.execution"])
def test_it_can_be_imported_before_papermill_and_after_it(first: str) -> None:
    """papermill loads its engines while it is being imported."""
    code = f"import {first}; from papermill.engines import papermill_engines as engines; "
    code += "assert engines.get_engine('ptyint').__name__ == 'StrictEngine'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", "import time\ntime.sleep(600)", PASSES)
    done = papermill(path, "--execution-timeout", "2")
    assert done.returncode == 1 and "it took longer than its 2 s" in done.stderr
    states = [cell.metadata.get("ptyint", {}).get("state") for cell in executed(path).cells]
    assert "died" in states and states[-1] == "not run"


def test_the_callers_environment_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of the caller's own trainings would turn to text."""
    monkeypatch.delenv(PROGRESS_VARIABLE, raising=False)
    before = dict(os.environ)
    cells: list[tuple[int, int]] = []
    done = execute(
        write(tmp_path / "n.ipynb", ASKS), tmp_path / "out.ipynb", {}, on_cell=lambda *cell: cells.append(cell)
    )
    assert (done.stopped, done.exit_code) == ("", 0) and os.environ.get(PROGRESS_VARIABLE) is None
    assert {name for name in os.environ if os.environ[name] != before.get(name)} <= {"PYDEVD_DISABLE_FILE_VALIDATION"}
    assert cells[-1] == (5, 5) and {total for _, total in cells} == {5} and len(cells) >= 3


def other_package(folder: Path) -> Path:
    """A copy of ptyint that differs in one line, as another environment may have it."""
    package = Path(execution.__file__).parents[1]
    copy = shutil.copytree(package, folder / "ptyint", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "evidence" / "checks.py").open("a") as file:
        file.write("\nOLDER = True\n")
    return folder


def offered_kernel(folder: Path, name: str) -> Path:
    """What `JUPYTER_PATH` may offer under a name: a kernel whose ptyint is another one."""
    kernel = folder / "jupyter" / "kernels" / name
    kernel.mkdir(parents=True)
    start = f"import sys; sys.path.insert(0, {str(other_package(folder / 'other'))!r})\n"
    start += "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
    argv = [sys.executable, "-c", start, "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "another environment", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    return folder / "jupyter"


def test_a_kernel_of_another_environment_is_not_taken_for_the_runners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(offered_kernel(tmp_path, "python3")))
    done = execute(write(tmp_path / "n.ipynb", PASSES), tmp_path / "out.ipynb", {})
    record = collect(executed(tmp_path / "out.ipynb"))
    assert (done.stopped, done.exit_code) == ("", 0) and record.installation == installation()
    assert record.installation["interpreter"] == sys.executable and "numpy" in record.installation


def test_a_kernel_that_was_asked_for_may_be_another_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(offered_kernel(tmp_path, "another")))
    path = write(tmp_path / "n.ipynb", PASSES)
    done = papermill(path, "-k", "another")
    assert done.returncode == 0, done.stderr[-2000:]
    held, ours = collect(executed(path)).installation, installation()
    assert held["ptyint"] == str(tmp_path / "other" / "ptyint") and held["sources_sha256"] != ours["sources_sha256"]


def test_another_ptyint_in_the_runners_own_kernel_is_red(tmp_path: Path) -> None:
    """A cell puts it there; a path of the user's may do so too."""
    swap = f"import sys\nsys.path.insert(0, {str(other_package(tmp_path / 'other'))!r})\n"
    swap += "for one in [one for one in sys.modules if one.startswith('ptyint')]:\n    del sys.modules[one]"
    path = write(tmp_path / "n.ipynb", swap, PASSES)
    done = papermill(path)
    assert done.returncode == 1 and "sources_sha256 is" in done.stderr and str(tmp_path / "other") in done.stderr


def test_the_users_own_settings_do_not_reach_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlibrc, IPython's profile and startup, Python's startup file, encoding, locale, time zone, umask."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("mine = True")
    (startup.parent / "ipython_kernel_config.py").write_text("c.InteractiveShellApp.exec_lines = ['mine = True']")
    (tmp_path / "python.py").write_text("mine = True")
    (tmp_path / "rc").write_text("savefig.facecolor: red\ntext.usetex: True\n")
    hostile = {
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "MATPLOTLIBRC": str(tmp_path / "rc"),
        "MPLBACKEND": "none.there",
        "PYTHONSTARTUP": str(tmp_path / "python.py"),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "tr_TR.ISO-8859-9",
        "TZ": "Pacific/Kiritimati",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    asks = "import matplotlib.pyplot, subprocess, sys\nassert 'mine' not in globals()\n"
    asks += "assert matplotlib.rcParams['savefig.facecolor'] == 'auto' and not matplotlib.rcParams['text.usetex']\n"
    asks += "open('made.txt', 'w').write('✓ ö')\n"
    asks += "print(subprocess.check_output([sys.executable, '-c', 'print(\"✓\")']).decode())"
    before = os.umask(0o077)
    try:
        done = execute(write(tmp_path / "n.ipynb", asks, PASSES), tmp_path / "out.ipynb", {})
    finally:
        os.umask(before)
    assert (done.stopped, done.exit_code) == ("", 0) and (tmp_path / "made.txt").read_text("utf-8") == "✓ ö"
    assert (tmp_path / "out.ipynb").stat().st_mode & 0o077 == 0
