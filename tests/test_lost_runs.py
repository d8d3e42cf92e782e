"""What happens to a run while it goes on: its disk, its folder, its ledger, its terminal. Never green, never mute."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from evidence_notebooks import PASSES, job, run, write
from small_stage import made, ptyint

from ptyint.errors import LostRunError
from ptyint.evidence import manifest, verification

FILL = """
with open("fill", "wb", 0) as file:
    while True:
        try:
            file.write(bytes(4096))
        except OSError:
            break
"""
MOUNT = "import subprocess\nsubprocess.run({!r}, shell=True, check=True)"
READ_ONLY = "mount --bind {0} {0} && mount -o remount,ro,bind {0}"


def mounting(reason: str = "no mount here") -> str:
    """The shell command in which mounts are possible, and gone at its end."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip(reason)
    return "unshare -rm bash -c '{}'"


def told(where: Path) -> str:
    ledger = where / "docs" / "fix_plan.md"
    return ledger.read_text() if ledger.is_file() else ""


@pytest.mark.parametrize("disk", ["reports", "."], ids=["reports", "reports and ledger"])
def test_a_full_disk_leaves_a_red_page_and_an_entry(disk: str, tmp_path: Path) -> None:
    made(tmp_path, FILL)
    kept = tmp_path / "kept"
    (tmp_path / "disk" / "reports").mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=2m none disk/{disk}; cd disk"
    done = ptyint(
        tmp_path, "run", "test", within=mounting().format(f"{mount}; {{}}; code=$?; cp -r . {kept}; exit $code")
    )
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stdout and "Traceback" not in done.stderr and "✗ FAIL" in done.stdout
    (path,) = (kept / "reports").glob("2*")
    assert verification.verify(path, kept / "docs" / "fix_plan.md").problems == ()
    assert manifest.read(path).verdict == "fail" and "No space left" in (path / "index.html").read_text()
    assert f"### Attempt {path.name}: fail" in told(kept) and not list((kept / "reports").glob(".*.partial"))


def test_a_disk_without_room_for_a_red_page_is_refused_before_anything_runs(tmp_path: Path) -> None:
    made(tmp_path)
    within = mounting().format(
        "mkdir reports; mount -t tmpfs -o size=512k none reports; {}; code=$?; ls -A reports; exit $code"
    )
    done = ptyint(tmp_path, "run", "test", within=within)
    assert done.returncode == 2 and "No space left" in done.stderr and done.stdout == ".lock\n"


@pytest.mark.parametrize("place", [".", ".."], ids=["run folder", "reports"])
def test_a_folder_made_read_only_half_way(place: str, tmp_path: Path) -> None:
    made(tmp_path, MOUNT.format(READ_ONLY.format(place)))
    done = ptyint(tmp_path, "run", "test", within=mounting())
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Read-only file system" in said and "Traceback" not in said
    runs = list((tmp_path / "reports").glob("2*"))
    if place == "..":
        assert "Nothing could be kept of a red run in" in done.stderr and said.count("\n") == 2
        assert runs == [] and told(tmp_path) == "" and "PASS" not in done.stdout
    else:
        (path,) = runs
        assert verification.verify(path, tmp_path / "docs" / "fix_plan.md").problems == ()
        assert f"### Attempt {path.name}: fail" in told(tmp_path) and "✗ FAIL" in (path / "index.html").read_text()


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import os, shutil\nshutil.rmtree(os.getcwd())", "was deleted or renamed while the run went on"),
        ("import os, shutil\nshutil.rmtree('..')", "was deleted or renamed while the run went on"),
        ("import os\nos.rename(os.getcwd(), os.getcwd() + '2')", "was deleted or renamed while the run went on"),
        ("import os\nos.rename(os.getcwd(), '../' + os.path.basename(os.getcwd())[1:-8])", "was taken while"),
        ("import os\nos.makedirs('../' + os.path.basename(os.getcwd())[1:-8] + '/mine')", "was taken while"),
        ("import os\nos.makedirs('../../docs/fix_plan.md')", "has no entry of this run: Is a directory"),
        ("open('../../docs', 'w').close()", "has no entry of this run"),
    ],
    ids=["deleted", "reports deleted", "renamed", "renamed to its own", "name taken", "ledger a folder", "docs a file"],
)
def test_what_others_do_to_its_folders_makes_a_run_red_and_is_told(cell: str, says: str, tmp_path: Path) -> None:
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", cell, PASSES), "size"))
    assert done.verdict == content.verdict == "fail" and content.exit_code == 1
    assert any(says in error for error in done.errors) and says in (done.folder / "index.html").read_text()
    ledger = tmp_path / "docs" / "fix_plan.md"
    found = verification.verify(done.folder, ledger, alone=not ledger.is_file())
    entries = [line for line in told(tmp_path).splitlines() if line.startswith("### Attempt")]
    if "no entry" in says:
        assert entries == [] and verification.verify(done.folder, alone=True).problems == ()
    else:
        assert entries == [f"### Attempt {done.folder.name}: fail"] and found.problems == ()


def test_an_index_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "reports" / "index.html").mkdir(parents=True)
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size"))
    assert content.verdict == "pass" and done.verdict == "fail" and "index of all runs" in done.errors[0]


def test_nothing_can_be_kept(tmp_path: Path) -> None:
    """Where the folder of the runs was, there is a file."""
    reports = str(tmp_path / "reports")
    cell = f"import shutil\nshutil.rmtree({reports!r})\nopen({reports!r}, 'w').close()"
    path = write(tmp_path / "n.ipynb", cell, PASSES)
    with pytest.raises(LostRunError, match="Nothing could be kept of a red run in"):
        run(tmp_path, job(path, "size"))
    assert told(tmp_path) == ""
