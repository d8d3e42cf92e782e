"""The run folder and all that vouches for it: manifest, seal, chain, ledger, index; and what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from evidence_notebooks import FILE, PASSES, green, job, run, write

from ptyint.errors import EvidenceError
from ptyint.evidence import environment, folder, history, manifest, verification
from ptyint.evidence import run as runner
from ptyint.evidence.history import changes
from ptyint.evidence.manifest import Manifest
from ptyint.evidence.privacy import private

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs in a chain: passed, failed, passed."""
    where = tmp_path_factory.mktemp("chain")
    path = write(where / "n.ipynb", PASSES, FILE)
    for size in (3, 30, 4):
        run(where, job(path, "size", artifacts=("made.txt",), parameters={"size": size}))
    return where


@pytest.fixture
def chain(original: Path, tmp_path: Path) -> Path:
    """A copy of the three runs that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "chain"))


def runs(where: Path) -> list[Path]:
    return sorted(path for path in (where / "reports").iterdir() if manifest.RUN_NAME.fullmatch(path.name))


def verify(where: Path, number: int = -1, **options: Any) -> verification.Verification:
    return verification.verify(runs(where)[number], where / "docs" / "fix_plan.md", **options)


def test_names_tell_the_time_and_nothing_hidden_stays(original: Path) -> None:
    assert [manifest.read(path).sequence for path in runs(original)] == [1, 2, 3]
    left = {path.name for path in (original / "reports").iterdir()} - {path.name for path in runs(original)}
    assert left == {".lock", "index.html", "index.json"}
    for path in runs(original):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d)?", path.name) and not list(path.glob(".*"))


def test_the_manifest_says_what_ran_where_with_what(original: Path) -> None:
    content = manifest.read(runs(original)[0])
    facts = content.environment
    assert content.state == "finished" and content.argv == ["ptyint", "run", "test"]
    assert content.start < str(content.end) and content.exit_code == 0
    assert facts.packages["papermill"] and facts.python.startswith("CPython 3") and facts.threads >= 1
    assert facts.backends == {}
    (entry,) = content.notebooks
    assert entry.argv[:2] == ["papermill", private(str(original / "n.ipynb"))]
    assert entry.argv[-3:] == ["-p", "size", "3"]
    assert entry.asked == entry.echoed == {"size": 3, "name": "a"} and entry.exit_code == 0
    files = {"small.ipynb", "small.html", "small.log", "made.txt", "index.html"}
    assert set(content.artifacts) == files
    assert content.git.commit == environment.git_state(ROOT)["commit"]


def test_checks_are_declared_before_anything_runs(tmp_path: Path) -> None:
    """The first cell looks at the manifest of its own run."""
    look = "import json\nfound = json.load(open('manifest.json'))\njson.dump(found, open('made.txt', 'w'))"
    done, _, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", look, PASSES), "size", "never", artifacts=("made.txt",)))
    early = json.loads((done.folder / "made.txt").read_text())
    assert early["state"] == "running" and early["verdict"] == "not run"
    assert {check["name"] for check in early["checks"]} >= {"size", "never", "wrote made.txt"}
    assert {check["verdict"] for check in early["checks"]} == {"not run"}


def test_what_a_run_left_verifies_and_only_a_pass_is_green(original: Path) -> None:
    found = [verify(original, number) for number in range(3)]
    assert [one.problems for one in found] == [(), (), ()]
    assert [one.verdict for one in found] == ["pass", "fail", "pass"]
    assert [one.green for one in found] == [True, False, True]


def test_a_changed_byte_is_named_wherever_it_is(chain: Path) -> None:
    target = runs(chain)[-1]
    for name in [*manifest.read(target).artifacts, manifest.NAME, manifest.SEAL]:
        path = target / name
        before = path.read_bytes()
        middle = len(before) // 2
        changed = bytes([before[middle] ^ 1]) if before else b"x"
        path.write_bytes(before[:middle] + changed + before[middle + 1 :])
        found = verify(chain)
        assert not found.green and any(name in problem for problem in found.problems), name
        path.write_bytes(before)
    assert verify(chain).green


def test_a_file_that_is_gone_added_or_linked_is_named(chain: Path) -> None:
    target = runs(chain)[-1]
    (target / "made.txt").rename(target / "other.txt")
    (target / "link").symlink_to(target / "other.txt")
    problems = verify(chain).problems
    assert "made.txt is missing." in problems and "other.txt was added after the run." in problems
    assert any(problem.startswith("link is a link") for problem in problems)


def seal(target: Path, content: Manifest) -> None:
    """A forger's best: manifest and seal written again, by the book."""
    content.artifacts = manifest.hash_artifacts(target)
    manifest.write(target, content)


def test_a_forged_verdict_does_not_follow_from_the_notebooks(chain: Path) -> None:
    target = runs(chain)[1]
    content = manifest.read(target)
    for check in content.checks:
        check.verdict = "pass"
    content.verdict, content.exit_code = "pass", 0
    content.notebooks[0].verdict = "pass"
    seal(target, content)
    found = verify(chain, 1, alone=True)
    assert any("'size', which the executed notebook does not bear out" in problem for problem in found.problems)
    assert any("the ledger fix_plan.md says" in problem for problem in found.problems)


def test_a_check_taken_out_is_noticed(chain: Path) -> None:
    target = runs(chain)[1]
    content = manifest.read(target)
    content.checks = [check for check in content.checks if check.verdict == "pass"]
    content.verdict, content.exit_code = "pass", 0
    seal(target, content)
    assert any("leaves out small: 'size' (fail)" in problem for problem in verify(chain, 1).problems)


def test_the_chain_holds_the_earlier_runs(chain: Path) -> None:
    first = runs(chain)[0]
    content = manifest.read(first)
    content.profile = "full"
    seal(first, content)
    found = verify(chain)
    assert found.problems == (
        f"Chain: {first.name}/manifest.json was changed: sha256 {manifest.sha256_of(first / 'manifest.json')}, "
        f"{runs(chain)[1].name} says {manifest.read(runs(chain)[1]).previous.manifest_sha256}.",
    )
    shutil.rmtree(first)
    (problem,) = verify(chain).problems
    assert f"the run {first.name} before" in problem and "is not there" in problem
    assert verification.verify(runs(chain)[-1], alone=True).green


def test_a_folder_under_another_name_is_not_that_run(chain: Path) -> None:
    target = runs(chain)[-1]
    other = target.rename(target.with_name("2020-01-01T000000Z"))
    assert verification.verify(other, alone=True).problems == (
        f"The folder is called 2020-01-01T000000Z, its run {target.name}.",
    )


def test_the_schema_refuses_what_it_does_not_know(chain: Path) -> None:
    assert manifest.schema()["properties"]["schema"] == {
        "default": manifest.VERSION, "description": "Version of this schema.", "enum": [1, 2], "title": "Schema",
        "type": "integer",
    }  # fmt: skip
    content = json.loads((runs(chain)[0] / manifest.NAME).read_text())
    assert content["schema"] == manifest.VERSION
    for change, where in (
        ({"verdict": "green"}, "verdict: Input should be 'pass'"),
        ({"schema": 3}, "schema: Input should be 1 or 2"),
        ({"more": 1}, "more: Extra inputs"),
        ({"checks": []}, "checks: List should have at least 1"),
        ({"checks": [{**content["checks"][0], "bound": "much"}]}, "checks.0.bound"),
    ):
        with pytest.raises(EvidenceError, match=re.escape(where)):
            manifest.parse(json.dumps({**content, **change}))


def test_numbers_that_are_not_finite_come_back(chain: Path) -> None:
    content = manifest.read(runs(chain)[0])
    for value, text in ((math.nan, '"nan"'), (math.inf, '"inf"'), (-math.inf, '"-inf"')):
        content.checks[-1].measured = value
        manifest.write(runs(chain)[0], content)
        assert f'"measured": {text}' in (runs(chain)[0] / manifest.NAME).read_text()
        assert repr(manifest.read(runs(chain)[0]).checks[-1].measured) == repr(value)


def test_a_run_of_version_1_which_declared_names_alone_still_verifies_and_is_indexed(chain: Path) -> None:
    """What a manifest of version 1 looks like: names without bounds, no unit, `available` only where it is false."""
    target = runs(chain)[0]
    content = json.loads((target / manifest.NAME).read_text())
    content["schema"] = 1
    for entry in content["notebooks"]:
        entry["expects"] = [declared["name"] for declared in entry["expects"]]
    for check in content["checks"]:
        del check["available"], check["unit"]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (target / manifest.NAME).write_text(text)
    (target / manifest.SEAL).write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  {manifest.NAME}\n")
    assert verification.verify(target, alone=True) == verification.Verification(target.name, "pass", ())
    (one,) = (run for run in history.index(chain / "reports")["runs"] if run["run"] == target.name)
    assert (one["state"], one["verdict"], one["passed"]) == ("finished", "pass", 4)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"schema": 1}'])
def test_a_damaged_manifest_is_a_problem_not_a_traceback(content: bytes, chain: Path) -> None:
    (runs(chain)[-1] / manifest.NAME).write_bytes(content)
    found = verify(chain)
    assert found.verdict is None and not found.green and manifest.NAME in found.problems[0]
    assert not verification.verify(chain / "docs").green


# The ledger


def test_each_run_has_an_entry_that_names_its_artifacts(original: Path) -> None:
    text = (original / "docs" / "fix_plan.md").read_text()
    entries = text.split("### Attempt ")[1:]
    assert [entry.split(":")[0] for entry in entries] == [path.name for path in runs(original)]
    for entry, path in zip(entries, runs(original), strict=True):
        for artifact in ["manifest.json", *manifest.read(path).artifacts]:
            assert f"- `reports/{path.name}/{artifact}`" in entry
    assert "- verdict: ✗ fail, 3 of 4 checks passed" in entries[1]
    assert "- fail: small: size" in entries[1]
    assert f"compared with {runs(original)[0].name}" in entries[1] and "verdict pass → fail" in entries[1]
    assert "parameters: size 3 → 30" in entries[1] and "verdicts: size pass → fail" in entries[1]


def test_appending_alters_nothing_that_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "fix_plan.md"
    before = b"# Mine\r\n\xff\xfe notes without an end"
    path.write_bytes(before)
    history.append(path, "### one")
    history.append(path, "### two")
    assert path.read_bytes() == before + b"\n\n### one\n\n### two\n"


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from ptyint.evidence import history\n"
    code += "for n in range(20): history.append(Path(sys.argv[1]), f'### {sys.argv[2]}-{n}\\n' + 'x' * 5000)"
    path = tmp_path / "fix_plan.md"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)]) for number in range(4)]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    text = path.read_text()
    assert text.startswith(history.render("ledger.md.j2"))
    assert sorted(re.findall(r"^### (\d-\d+)$", text, re.MULTILINE)) == sorted(
        f"{writer}-{n}" for writer in range(4) for n in range(20)
    )
    assert text.count("x" * 5000 + "\n") == 80


def test_ledger_and_reports_make_no_checkout_dirty(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "fix_plan.md").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    ignored = [tmp_path / "fix_plan.md", tmp_path / "reports"]
    (tmp_path / "fix_plan.md").write_text("2")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "new").write_text("3")
    assert environment.git_state(tmp_path, ignored)["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    (tmp_path / "a new file").write_text("2")
    state = environment.git_state(tmp_path, ignored)
    assert state["dirty"] is True and state["changed"] == ["code.py", "a new file"]
    unknown = environment.git_state(tmp_path / "nowhere")
    assert "cannot change to" in unknown.pop("reason") and unknown == {"commit": None, "dirty": None, "changed": []}


@pytest.mark.parametrize("why", ["nowhere", "dubious", "around"])
def test_a_commit_that_is_not_known_has_its_reason_in_manifest_ledger_and_page(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git refuses; there is no checkout; the files lie in the checkout of something else and are none of its own."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    root = tmp_path / "package"
    root.mkdir()
    (root / "code.py").write_text("1")
    if why == "dubious":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    said = {"nowhere": "an installed package", "dubious": "dubious ownership", "around": "did not match any file"}[why]
    monkeypatch.setattr(runner, "checkout", lambda: None if why == "nowhere" else root)
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size"))
    assert content.git.commit is None and said in content.git.reason and done.verdict == "pass"
    assert said in (done.folder / "index.html").read_text()
    assert said in (tmp_path / "docs" / "fix_plan.md").read_text()


def test_a_variable_that_sends_git_elsewhere_names_no_other_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git hook sets it."""
    before = environment.git_state(ROOT)["commit"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert environment.git_state(ROOT)["commit"] == before


# The index


def test_the_index_lists_every_run_the_newest_first(chain: Path) -> None:
    names = [path.name for path in runs(chain)]
    interrupted, damaged = chain / "reports" / ".2020-01-01T000000Z.partial", runs(chain)[0]
    interrupted.mkdir()
    (damaged / manifest.NAME).write_text("{")
    history.write_index(chain / "reports")
    found = json.loads((chain / "reports" / "index.json").read_text())["runs"]
    assert {run["run"]: run["state"] for run in found} == {
        interrupted.name[1:-8]: "interrupted", names[0]: "damaged", names[1]: "finished", names[2]: "finished"
    }  # fmt: skip
    assert [run["run"] for run in found if run["state"] == "finished"] == [names[2], names[1]]
    assert [run["verdict"] for run in found if run["state"] == "finished"] == ["pass", "fail"]
    assert {run["verdict"] for run in found if run["state"] != "finished"} == {None}
    page = (chain / "reports" / "index.html").read_text()
    assert page.index(names[2]) < page.index(names[1]) < page.index("interrupted")
    assert "✓ PASS: the last run" in page and "verdict fail → pass" in page


def test_an_index_of_nothing_says_so(tmp_path: Path) -> None:
    assert "No run has finished yet" in history.write_index(tmp_path / "reports").read_text()
    assert json.loads((tmp_path / "reports" / "index.json").read_text())["runs"] == []


def test_a_loosened_bound_is_told(original: Path) -> None:
    newest = manifest.read(runs(original)[-1])
    before = newest.model_copy(deep=True)
    newest.checks[-1].bound = 1000.0
    assert "bounds: size 10.0 → 1000.0" in changes(newest, [before])["small"]


def test_a_loosened_tolerance_is_told(original: Path) -> None:
    newest = manifest.read(runs(original)[-1])
    before = newest.model_copy(deep=True)
    for one, value in ((before, 300.0), (newest, 3000.0)):
        one.notebooks[0].numbers["tolerance: forward"] = value
    assert "tolerances: forward 300.0 → 3000.0" in changes(newest, [before])["small"]


# Two at once, and kills


def test_two_runs_at_once_get_two_folders_and_one_chain(tmp_path: Path) -> None:
    write(tmp_path / "n.ipynb", PASSES)
    starting = [start_run(tmp_path) for _ in range(3)]
    assert [one.wait(120) for one in starting] == [0, 0, 0]
    found = folder.finished_runs(tmp_path / "reports")
    assert sorted(one.sequence for one in found) == [1, 2, 3] and len({one.run for one in found}) == 3
    for one in found:
        assert verification.verify(tmp_path / "reports" / one.run, tmp_path / "docs" / "fix_plan.md").green


def test_two_folders_in_the_same_second(tmp_path: Path) -> None:
    with folder.claim(tmp_path) as first, folder.claim(tmp_path) as second:
        names = {folder.run_name(first), folder.run_name(second)}
        assert len(names) == 2 and folder.is_busy(first) and folder.is_busy(second)
    assert not folder.is_busy(first)


RUN_SMALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from evidence_notebooks import job, run
where = Path(sys.argv[2])
print("started", flush=True)
run(where, job(where / "n.ipynb", "size"))
"""


def start_run(where: Path, prelude: str = "") -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", prelude + RUN_SMALL, str(Path(__file__).parent), str(where)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "started\n"
    return process


def nothing_green_but(where: Path, finished: int) -> None:
    """Only the runs that reached their end are runs; whatever else lies there is recognised and verifies as nothing."""
    assert len(runs(where)) == finished
    for path in (where / "reports").glob(".*.partial"):
        found = verification.verify(path, alone=True)
        assert not found.green and not folder.is_busy(path)
        assert "interrupted" in found.problems[0] or "never began" in found.problems[0]


@pytest.mark.slow
def test_sigkill_at_random_moments_never_leaves_a_green_run_and_the_next_run_works(tmp_path: Path) -> None:
    write(tmp_path / "n.ipynb", PASSES, "import time; time.sleep(0.3)")
    begin = time.monotonic()
    assert start_run(tmp_path).wait(120) == 0
    whole = time.monotonic() - begin
    draw, finished = random.Random(20), 1
    for _ in range(3):
        process = start_run(tmp_path)
        time.sleep(draw.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if len(runs(tmp_path)) > finished:  # it was quicker: then it is a whole run, ledger and chain included
            finished += 1
            assert verification.verify(runs(tmp_path)[-1], tmp_path / "docs" / "fix_plan.md").green
        nothing_green_but(tmp_path, finished)
    done, _, _ = run(tmp_path, job(tmp_path / "n.ipynb", "size"))
    assert green(done)
    states = [one["state"] for one in history.index(tmp_path / "reports")["runs"]]
    assert states.count("finished") == finished + 1 and "running" not in states


KILL_AT = """
import os, signal
calls, real = [0], os.replace
def replace(source, target, **options):
    calls[0] += 1
    if calls[0] == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target, **options)
os.replace = replace
"""


@pytest.mark.slow
def test_sigkill_before_every_rename(tmp_path: Path) -> None:
    """A run changes what others see by renaming only: killed before each one, nothing false stands."""
    write(tmp_path / "n.ipynb", PASSES)
    number, finished, without_entry = 0, 0, 0
    while True:
        number += 1
        process = start_run(tmp_path, KILL_AT.format(number=number))
        code = process.wait(120)
        if len(runs(tmp_path)) > finished:
            finished += 1
            found = verification.verify(runs(tmp_path)[-1], tmp_path / "docs" / "fix_plan.md")
            without_entry += not found.green
            assert found.green or "ledger fix_plan.md" in "".join(found.problems)
        nothing_green_but(tmp_path, finished)
        ledger = tmp_path / "docs" / "fix_plan.md"
        told = re.findall("^### Attempt (.*):", ledger.read_text() if ledger.exists() else "", re.MULTILINE)
        assert set(told) <= {path.name for path in runs(tmp_path)}  # it never speaks of a run that is not there
        if code == 0:
            break
    assert number > 10 and without_entry == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_orderly_stop_leaves_a_red_run_that_says_so(number: signal.Signals, tmp_path: Path) -> None:
    write(tmp_path / "n.ipynb", "import time; time.sleep(600)", PASSES)
    before = signal.signal(number, signal.SIG_DFL)  # `nohup make test` hands on that SIGHUP is ignored
    process = start_run(tmp_path)
    signal.signal(number, before)
    limit = time.monotonic() + 60
    while not list((tmp_path / "reports").glob(".*.partial/small.ipynb")) and time.monotonic() < limit:
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(number)
    process.wait(60)
    (path,) = runs(tmp_path)
    content = manifest.read(path)
    assert content.verdict == "fail" and content.errors == [f"The run was interrupted by {number.name}."]
    assert "The run was interrupted by" in (path / "index.html").read_text()
    assert verification.verify(path).problems == ()


def test_a_killed_runner_takes_its_kernel_with_it(tmp_path: Path) -> None:
    write(tmp_path / "n.ipynb", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    process = start_run(tmp_path)
    limit = time.monotonic() + 60
    while not (found := list((tmp_path / "reports").glob(".*.partial/pid"))) and time.monotonic() < limit:
        time.sleep(0.2)
    time.sleep(0.5)
    kernel = int(found[0].read_text())
    process.kill()
    process.wait()
    while time.monotonic() < limit and Path(f"/proc/{kernel}").exists():
        time.sleep(0.2)
    assert not Path(f"/proc/{kernel}").exists()
    assert os.listdir(tmp_path / "reports")
