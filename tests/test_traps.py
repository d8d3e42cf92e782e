"""Every way in which a notebook looks green and is not, against real papermill and real kernels."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
from evidence_notebooks import FILE, PASSES, green, job, run, verdicts, write

from ptyint.errors import ConfigError
from ptyint.evidence import execution, manifest
from ptyint.evidence.checks import Criterion
from ptyint.evidence.manifest import PARAMETERS, REACHED_END
from ptyint.evidence.verification import verify

DIES = "import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"


def test_a_run_in_which_everything_passed_is_green(tmp_path: Path) -> None:
    """The control: without it the tests below would prove nothing."""
    path = write(tmp_path / "n.ipynb", PASSES, FILE)
    done, content, page = run(tmp_path, job(path, "size", artifacts=("made.txt",), parameters={"size": 7}))
    assert verdicts(content) == dict.fromkeys((REACHED_END, PARAMETERS, "wrote made.txt", "size"), "pass")
    assert done.verdict == "pass" and content.exit_code == 0 and green(done)
    assert content.notebooks[0].echoed == {"size": 7, "name": "a"}
    assert "✓ PASS: all 4 expected checks ran and passed." in page and "Errors" not in page


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        ("import sys; sys.exit(0)", "a cell left early: SystemExit: 0"),
        ("raise SystemExit", "a cell left early: SystemExit: 0"),
        ("import os; os._exit(0)", "the kernel died"),
        ("class Stop(Exception):\n    _render_traceback_ = lambda self: []\nraise Stop", "Stop"),
    ],
    ids=["exit", "SystemExit", "_exit", "silent"],
)
def test_an_early_exit_is_not_green(leaves: str, says: str, tmp_path: Path) -> None:
    done, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", leaves, PASSES), "size"))
    assert verdicts(content)[REACHED_END] == "fail" and verdicts(content)["size"] == "not run"
    assert done.verdict == "fail" and content.exit_code == 1 and not green(done)
    assert says in content.notebooks[0].stopped and says in page
    assert '<h2 id="errors">Errors</h2>' in page and "✗ FAIL" in page


def test_an_exit_after_the_checks_is_not_green_either(tmp_path: Path) -> None:
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES, "import sys; sys.exit(0)"), "size"))
    assert verdicts(content)["size"] == "pass" and verdicts(content)[REACHED_END] == "fail"
    assert done.verdict == "fail" and not green(done)


def test_a_killed_kernel_leaves_a_red_run_with_what_was_written_and_marks_the_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", "print('before')", DIES, PASSES)
    done, content, page = run(tmp_path, job(path, "size", artifacts=("made.txt",)))
    assert content.notebooks[0].exit_code == execution.KILLED
    assert verdicts(content) == {
        REACHED_END: "fail", PARAMETERS: "pass", "wrote made.txt": "not run", "size": "not run"
    }  # fmt: skip
    assert done.verdict == "fail" and not green(done)
    cells = nbformat.read(done.folder / "small.ipynb", as_version=4).cells
    states = {cell.source: cell.metadata.get("ptyint", {}).get("state") for cell in cells if cell.cell_type == "code"}
    assert states["print('before')"] is None and states[DIES] == "died" and states[PASSES.strip()] == "not run"
    died = re.search(r'<section class="died">.*?</section>', page, re.DOTALL)
    assert died is not None and "os.kill" in died[0] and "The notebook stopped in this cell" in died[0]
    assert "the kernel died (killed, out of memory, or a crash)" in page and "This cell never ran" in page
    assert "before" in (done.folder / "small.log").read_text()


def test_a_notebook_that_hangs_is_ended_and_red(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", "import time\ntime.sleep(600)", PASSES)
    done, content, page = run(tmp_path, job(path, "size", timeout=5.0))
    assert "it took longer than its 5 s" in page and verdicts(content)["size"] == "not run"
    assert done.verdict == "fail" and not green(done)


def test_a_failing_cell_is_red_and_the_next_notebook_runs_all_the_same(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad.ipynb", "1 / 0", PASSES), write(tmp_path / "good.ipynb", PASSES)
    done, content, page = run(tmp_path, job(bad, "size", name="bad"), job(good, "size", name="good"))
    assert [entry.verdict for entry in content.notebooks] == ["fail", "pass"]
    assert "ZeroDivisionError: division by zero" in page and done.verdict == "fail"
    summary = (done.folder / "index.html").read_text()
    assert "✗ FAIL" in summary and "ZeroDivisionError" in summary and '<h2 id="errors">' in summary


@pytest.mark.parametrize("hidden", ["raises-exception", "nbconvert-ignore"])
def test_a_tag_that_allows_errors_hides_none(hidden: str, tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", "assert False, 'hidden'", PASSES)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["tags"] = [hidden]
    nbformat.write(notebook, path)
    done, _, page = run(tmp_path, job(path, "size"))
    assert done.verdict == "fail" and "AssertionError: hidden" in page


def test_a_check_that_was_not_reported_is_not_run(tmp_path: Path) -> None:
    done, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", "print('no check here')"), "size", "weight"))
    assert {verdicts(content)[name] for name in ("size", "weight")} == {"not run"}
    assert done.verdict == "not run" and content.exit_code == 1 and not green(done)
    assert "○ NOT RUN" in page and "○ not run: size and 1 more. the notebook did not report it" in page


def test_a_check_without_a_measurement_and_one_with_too_little_data_are_no_pass(tmp_path: Path) -> None:
    cell = PASSES.replace('Check("size", float(size), "<=", 10.0)', "{}")
    unmeasured = write(tmp_path / "a.ipynb", cell.format('Check("size", None, "<=", 10.0)'))
    few = write(tmp_path / "b.ipynb", cell.format('Check("size", 1.0, "<=", 10.0, decided=False)'))
    assert run(tmp_path, job(unmeasured, "size"))[0].verdict == "not run"
    done, _, page = run(tmp_path, job(few, "size"))
    assert done.verdict == "underpowered" and not green(done) and "≈ UNDERPOWERED" in page


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')"])
def test_nan_and_infinity_fail(value: str, tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", PASSES.replace("float(size)", value))
    done, content, page = run(tmp_path, job(path, "size"))
    assert verdicts(content)["size"] == "fail" and done.verdict == "fail"
    assert not math.isfinite(content.checks[-1].measured or 0) and "✗ fail: size" in page


def test_of_two_reports_under_one_name_the_worse_counts(tmp_path: Path) -> None:
    worse = PASSES.replace("float(size)", "99.0")
    for cells in ((PASSES, worse), (worse, PASSES)):
        assert run(tmp_path, job(write(tmp_path / "n.ipynb", *cells), "size"))[0].verdict == "fail"


def test_a_check_that_nobody_declared_is_not_green(tmp_path: Path) -> None:
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES)))
    assert verdicts(content)["size"] == "fail" and done.verdict == "fail"
    assert content.checks[-1].note == "reported, but not declared before the run"


@pytest.mark.parametrize(
    ("reported", "said"),
    [
        ('Check("agreement", 0.2, ">=", 0.1)', "reported 0.2 against '>= 0.1'"),
        ('Check("agreement", 0.95, ">=", 0.1)', "reported 0.95 against '>= 0.1'"),
        ('Check("agreement", 0.2, "<=", 0.9)', "reported 0.2 against '<= 0.9'"),
        ('Check("agreement", 0.95, ">=", 0.9, unit="rad")', "reported 0.95 against '>= 0.9 rad'"),
        ('Check("agreement", None, ">=", 0.1, "no data")', "reported None against '>= 0.1'"),
    ],
    ids=["looser", "looser though it would hold", "relation", "unit", "unmeasured"],
)
def test_a_report_with_another_bound_than_declared_is_red_and_named_in_run_and_verify(
    reported: str, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "n.ipynb", PASSES.replace('Check("size", float(size), "<=", 10.0)', reported))
    done, content, page = run(tmp_path, job(path, Criterion("agreement", ">=", 0.9)))
    (check,) = (check for check in content.checks if check.name == "agreement")
    assert check.verdict == "fail" and done.verdict == "fail" and not green(done)
    assert said in check.note and "declared before the run was '>= 0.9'" in check.note
    assert (check.relation, check.bound, check.unit) == (">=", 0.9, "")
    assert "✗ fail: agreement" in page and "declared before the run was" in page
    check.verdict, check.measured = "pass", 0.95
    content.verdict, content.exit_code, content.notebooks[0].verdict = "pass", 0, "pass"
    manifest.write(done.folder, content)
    assert (
        "manifest.json says 'pass' of small: 'agreement', which the executed notebook does not bear out."
        in verify(done.folder, alone=True).problems
    )


BOUND = """
from ptyint.evidence.checks import Criterion
from ptyint.evidence.display import checks_table
checks_table([Criterion("error", "<=", max_error, "px", "max_error").measured(0.03)])
"""
ERROR = Criterion("error", "<=", unit="px", parameter="max_error")


@pytest.mark.parametrize(
    ("asked", "verdict", "moved"),
    [
        ({}, "fail", ""),
        ({"max_error": 0.05}, "pass", "error: bound loosened from 0.02 to 0.05 by -p max_error"),
        ({"max_error": 0.01}, "fail", "error: bound tightened from 0.02 to 0.01 by -p max_error"),
    ],
    ids=["default", "loosened", "tightened"],
)
def test_a_bound_moved_by_a_parameter_is_told_in_manifest_page_and_ledger(
    asked: dict[str, object], verdict: str, moved: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "n.ipynb", BOUND, parameters="max_error = 0.02")
    done, content, page = run(tmp_path, job(path, ERROR, parameters=asked))
    (declared,) = content.notebooks[0].expects
    bound = asked.get("max_error", 0.02)
    assert (declared.relation, declared.bound, declared.unit) == ("<=", bound, "px")
    assert (declared.parameter, declared.default) == ("max_error", 0.02)
    assert verdicts(content)["error"] == done.verdict == verdict and green(done) == (verdict == "pass")
    ledger = (tmp_path / "docs" / "fix_plan.md").read_text()
    for text in (page, (done.folder / "index.html").read_text(), ledger):
        assert moved in text if moved else "by -p" not in text


def test_a_bound_whose_parameter_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for parameters in ("max_eror = 0.02", "max_error = 'much'"):
        path = write(tmp_path / "n.ipynb", BOUND, parameters=parameters)
        with pytest.raises(ConfigError, match="'error' is the parameter 'max_error', which is"):
            run(tmp_path, job(path, ERROR))
    with pytest.raises(ConfigError, match=r"small declares \['error'\] more than once"):
        run(tmp_path, job(write(tmp_path / "n.ipynb", BOUND, parameters="max_error = 0.02"), ERROR, ERROR))
    assert not (tmp_path / "reports").exists()


def test_a_missing_or_empty_artifact_is_not_green(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", PASSES, "open('empty.txt', 'w').close()")
    done, content, page = run(tmp_path, job(path, "size", artifacts=("made.txt", "empty.txt")))
    assert verdicts(content)["wrote made.txt"] == verdicts(content)["wrote empty.txt"] == "fail"
    assert done.verdict == "fail" and "✗ fail: wrote made.txt" in page


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sise": 3}, "has no parameter 'sise'. Did you mean 'size'?"),
        ({"colour": 3}, "has no parameter 'colour'. It has ['name', 'size']."),
        ({"size": "3"}, "size is '3', a str; must be a int, as its default 3 is."),
        ({"size": True}, "size is True, a bool; must be a int"),
        ({"size": 3.5}, "size is 3.5, a float; must be a int"),
        ({"name": 3}, "name is 3, a int; must be a str"),
    ],
)
def test_parameters_are_checked_before_a_kernel_starts_or_a_folder_exists(
    given: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size", parameters=given))
    assert not (tmp_path / "reports").exists() and not (tmp_path / "docs").exists()


@pytest.mark.parametrize("tag", [None, "parameter"], ids=["untagged", "misspelt"])
def test_a_notebook_without_the_tag_is_refused(tag: str | None, tmp_path: Path) -> None:
    """papermill would say in the metadata what was asked, and run the default."""
    path = write(tmp_path / "n.ipynb", "size = 3", PASSES, parameters=None)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = [tag] if tag else []
    nbformat.write(notebook, path)
    with pytest.raises(ConfigError, match=r"n\.ipynb has 0 cells tagged 'parameters'; must have one"):
        run(tmp_path, job(path, "size", parameters={"size": 4}))


def test_a_default_computed_from_another_parameter_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", PASSES, parameters="size = 3\nname = 2 * size")
    with pytest.raises(ConfigError, match=r"'name = 2 \* size' in the parameters cell.*computed in a later cell"):
        run(tmp_path, job(path, "size"))


def test_a_parameter_that_the_notebook_overwrites_is_not_green(tmp_path: Path) -> None:
    done, content, page = run(
        tmp_path, job(write(tmp_path / "n.ipynb", "size = 3", PASSES), "size", parameters={"size": 4})
    )
    assert verdicts(content)[PARAMETERS] == "fail" and done.verdict == "fail"
    assert "size is 3, asked for 4" in page
    assert content.notebooks[0].asked["size"] == 4 and content.notebooks[0].echoed["size"] == 3


def test_values_with_equal_signs_quotes_and_line_ends_pass_through(tmp_path: Path) -> None:
    value = "a=b -p c='d' \"e\" \\ #f\n=g ä"
    path = write(tmp_path / "n.ipynb", PASSES, parameters="size = 3\nname = 'x=y'")
    for given, held in (({}, "x=y"), ({"name": value}, value)):
        done, content, _ = run(tmp_path, job(path, "size", parameters=given))
        assert done.verdict == "pass" and content.notebooks[0].echoed["name"] == held


def test_what_an_earlier_run_left_in_the_notebook_reports_nothing(tmp_path: Path) -> None:
    """Outputs of a notebook that was saved after running are not taken for this run's."""
    path = write(tmp_path / "n.ipynb", PASSES)
    done, _, _ = run(tmp_path, job(path, "size"))
    old = nbformat.read(done.folder / "small.ipynb", as_version=4)
    old.cells = [cell for cell in old.cells if execution.ECHO_TAG not in cell.metadata.get("tags", [])]
    old.cells[-1].source = "pass"
    assert "data" in old.cells[-1].outputs[0]
    nbformat.write(old, path)
    again, content, _ = run(tmp_path, job(path, "size"))
    assert verdicts(content)["size"] == "not run" and again.verdict == "not run"


def test_the_page_of_a_notebook_that_cannot_be_shown_is_red_and_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nbconvert refuses the page: the run ends all the same, and says so."""
    from nbconvert import HTMLExporter

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no page today")

    monkeypatch.setattr(HTMLExporter, "from_notebook_node", refuse)
    done, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size"))
    assert content.errors == ["small.ipynb cannot be shown: ValueError: no page today"]
    assert content.notebooks[0].verdict == content.verdict == "fail"  # the pages work out no verdict of their own
    assert done.verdict == "fail" and "no page today" in page and "✗ FAIL" in page and not green(done)
    assert "no page today" in (done.folder / "index.html").read_text()


def test_the_log_of_the_kernel_is_kept_whole(tmp_path: Path) -> None:
    cell = "import sys\nprint('out')\nprint('err', file=sys.stderr)"
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", cell, PASSES), "size"))
    log = (done.folder / "small.log").read_text()
    assert "out" in log and "err" in log and "small.log" in content.artifacts


def test_json_of_the_manifest_is_strict(tmp_path: Path) -> None:
    """No NaN literals, which other readers refuse."""
    done, _, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES.replace("float(size)", "float('nan')")), "size"))

    def refuse(name: str) -> None:
        raise ValueError(name)

    json.loads((done.folder / "manifest.json").read_text(), parse_constant=refuse)


SUMMARY = """
import io
from IPython.display import display
from matplotlib.figure import Figure
from ptyint.evidence.display import Fragment, Table
figure, png = Figure(), io.BytesIO()
figure.savefig(png, format="png")
display({"image/png": png.getvalue(), "text/plain": "Two curves, 3 apart."}, raw=True)
display(Fragment.of("In words."))
Table("Sizes", ("what", "value"), [("a", "1")])
"""


def test_a_summary_is_the_executed_notebook_in_markdown(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", SUMMARY, PASSES)
    done, content, _ = run(tmp_path, job(path, "size", summary="red.md"))
    text = (done.folder / "red.md").read_text()
    parts = ["# A small notebook", "*Two curves, 3 apart.*", "In words.", "## Sizes", "| a | 1 |", "## Checks"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and "<" not in text.replace("<= 10", "") and "import" not in text
    assert verdicts(content)["wrote red.md"] == "pass" and "red.md" in content.artifacts and green(done)


@pytest.mark.parametrize("link", ["made.txt", "made"])
def test_an_artifact_that_is_a_link_is_none(link: str, tmp_path: Path) -> None:
    """A run folder holds its own files: a link, or a file below one, would not be there after the run."""
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "made.txt").write_text("whole")
    target = there if link == "made" else there / "made.txt"
    path = write(tmp_path / "n.ipynb", f"import os\nos.symlink({str(target)!r}, {link!r})", PASSES)
    artifact = link if link == "made.txt" else "made/made.txt"
    done, content, _ = run(tmp_path, job(path, "size", artifacts=(artifact,)))
    assert verdicts(content)[f"wrote {artifact}"] == "fail" and done.verdict == "fail"
    assert verify(done.folder, alone=True).problems == () and (there / "made.txt").read_text() == "whole"


def test_a_summary_that_cannot_be_made_is_not_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbconvert import MarkdownExporter

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no summary today")

    monkeypatch.setattr(MarkdownExporter, "from_notebook_node", refuse)
    done, content, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", PASSES), "size", summary="red.md"))
    assert verdicts(content)["wrote red.md"] == "fail" and done.verdict == "fail"
    assert content.errors == ["red.md could not be written: ValueError: no summary today"]


def test_a_log_of_nothing_but_blanks_is_not_shown(tmp_path: Path) -> None:
    """The last line end of a progress bar may arrive in the next cell."""
    cells = ("import sys\nprint('said', file=sys.stderr)", "print(file=sys.stderr)")
    _, _, page = run(tmp_path, job(write(tmp_path / "n.ipynb", *cells, PASSES), "size"))
    assert page.count("<summary>log</summary>") == 1


STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TERMINAL = "\x1b]8;;http://example.com\x1b\\a link\x1b]8;;\x07 \x1b[31mred\x1b[0m \x9b1mbold \x1b]0;title\x07"
TERMINAL += "\x00\x1bc\u202e\x85 end"
SAID = f"bytes.fromhex('{TERMINAL.encode().hex()}').decode()"
"""So that the code of the cell, which the page shows too, holds nothing of it."""


@pytest.mark.parametrize(
    "cell",
    [
        f"print({SAID})\n1 / 0",
        f"import sys\nprint({SAID}, file=sys.stderr)\n1 / 0",
        f"raise ValueError({SAID})",
        f"from IPython.display import HTML\nHTML('<p>' + {SAID} + '</p>')",
        f"from IPython.display import Markdown\nMarkdown({SAID})",
        f"from ptyint.evidence.checks import Check\nfrom ptyint.evidence.display import checks_table\n"
        f"checks_table([Check('size', 99.0, '<=', 10.0, {SAID})])",
    ],
    ids=["stdout", "stderr", "exception", "html", "markdown", "note"],
)
def test_pages_and_markdown_hold_nothing_that_steers_a_terminal(cell: str, tmp_path: Path) -> None:
    done, _, _ = run(tmp_path, job(write(tmp_path / "n.ipynb", cell), "size", summary="said.md"))
    for path in (*done.folder.glob("*.html"), done.folder / "said.md", tmp_path / "docs" / "fix_plan.md"):
        text = path.read_text(encoding="utf-8")
        assert not STEERS.findall(text), path.name
        assert "example.com" not in text and "[31m" not in text and "]8;;" not in text
    page = (done.folder / "small.html").read_text()
    assert "a link" in page and "red" in page and "end" in page and done.verdict != "pass"


@pytest.mark.parametrize("character", ["\ud800", "\udcff", "\x00", "\u202e"])
def test_an_odd_character_in_an_exception_keeps_its_reason(character: str, tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", f"raise ValueError('a ' + {character!a} + ' reason')", PASSES)
    done, content, page = run(tmp_path, job(path, "size"))
    assert done.verdict == "fail" and content.notebooks[0].stopped.startswith("ValueError: a ")
    assert content.notebooks[0].stopped.endswith(" reason") and " reason" in page


RUNS = """
from IPython.display import HTML, Markdown, SVG, display
EVIL = "<script>alert(1)</script><img src='x' onerror='alert(2)'><a href='javascript:alert(3)'>a</a>"
EVIL += "<img src='http://example.com/a.png'><iframe src='http://example.com'></iframe><meta http-equiv='refresh' content='0;url=http://example.com'>"
EVIL += "<style>.banner {display: none}</style><p style='position: fixed'>over</p></main><form action='/'></form>"
display(HTML(EVIL), Markdown(EVIL), SVG("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(4)</script></svg>"))
"""


def test_what_a_cell_shows_runs_nothing_loads_nothing_and_covers_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "n.ipynb", RUNS, PASSES)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("In words, 1 < 2 & `a < b`\n\n<script>alert(5)</script>"))
    nbformat.write(notebook, path)
    done, _, page = run(tmp_path, job(path, "size"))
    assert done.verdict == "pass" and "In words, 1 &lt; 2 &amp; <code>a &lt; b</code>" in page
    shown = re.sub(r"<pre><code>.*?</code></pre>", "", page, flags=re.DOTALL)
    for tag in ("script", "iframe", "form", "meta http-equiv=.?refresh", "svg"):
        assert not re.search(f"<{tag}", shown), tag
    assert not re.search(r"<[^>]*(onerror|javascript:|position)", shown) and "display: none}" not in shown
    assert page.count("</main>") == 1 and not re.search("<img[^>]*http", page)


def test_a_number_that_there_is_not_is_a_dash_on_top(tmp_path: Path) -> None:
    cell = "from ptyint.evidence.display import Fragment\nfrom ptyint.evidence.record import Record\n"
    cell += "Fragment.of('Words.', record=Record(numbers={'of none': float('nan'), 'of some': 2.5}))"
    _, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", cell, PASSES), "size"))
    assert "<dt>of none</dt><dd>-</dd>" in page and "<dt>of some</dt><dd>2.5</dd>" in page
    assert math.isnan(content.notebooks[0].numbers["of none"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("print('x' * 50_000_000)", ""),
        ("raise ValueError('x' * 1_000_000)", "ValueError: xxx"),
        ("from IPython.display import HTML\nHTML('<p>' + 'x' * 5_000_000 + '</p>')", ""),
        ("import sys\nfor n in range(1000):\n    print('x' * 10_000, file=(sys.stdout, sys.stderr)[n % 2])", ""),
    ],
    ids=["output", "exception", "html", "many"],
)
def test_what_is_too_long_for_a_page_is_cut_and_the_whole_is_named(cell: str, told: str, tmp_path: Path) -> None:
    done, content, page = run(tmp_path, job(write(tmp_path / "n.ipynb", cell, PASSES), "size"))
    assert "characters left out" in page and 'Cut here; the whole output is in <a href="small.ipynb">' in page
    sizes = {path.name: path.stat().st_size for path in done.folder.iterdir()}
    assert sizes["small.html"] < 3_000_000 and sizes["index.html"] < 100_000 and sizes["manifest.json"] < 100_000
    assert sizes["small.ipynb"] > 1_000_000 and content.notebooks[0].stopped.startswith(told)
    assert verify(done.folder, tmp_path / "docs" / "fix_plan.md").problems == ()
