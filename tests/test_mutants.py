"""Mutants (`benchmarks/mutants.py`): what is changed, who notices, and that nothing is tried twice."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ptyint import cli
from ptyint.errors import ConfigError
from ptyint.evidence import manifest
from ptyint.parity.faults.catalogue import BUILT_IN
from ptyint.parity.faults.trial import CONTROL, REFERENCE
from ptyint.parity.worker import give
from ptyint.stages.faults import SCORE

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import mutants
from mutants import MODULES, NAME, OF_ONE_SIDE, Mutant, Sample

PACKAGE = Path(mutants.PACKAGE)


def source(module: str) -> str:
    return (PACKAGE / module).read_text()


def test_places_are_in_code_and_neither_in_annotations_nor_in_errors() -> None:
    everything = mutants.places()
    assert {changes[0][0] for changes in everything} == set(MODULES)
    assert len(everything) > 900 and sum(map(len, everything)) > 4000
    some = [mutants.made(changes[-1])[0] for changes in islice(everything, 0, 600, 7)]
    assert not [one for one in some if one.before.startswith("raise ")]
    pipes = [one for one in some if "->" in one.before and " | " in one.before and " | " not in one.after]
    assert pipes == []


def test_a_mutant_is_one_change_of_one_line() -> None:
    for one, text in mutants.drawn(12, 3):
        old, new = source(one.module).splitlines(), text.splitlines()
        assert " ".join(old[one.line - 1].split()) == one.before != one.after
        assert " ".join(new[one.line - 1].split()) == one.after
        ast.parse(text)


def test_the_seed_decides_what_is_drawn() -> None:
    draws = [[one for one, _ in mutants.drawn(8, seed)] for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]
    assert [one for one, _ in mutants.drawn(5, 3)] == draws[0][: len(draws[0]) - 3] or any(
        o.equivalent for o in draws[0]
    )
    assert all(sum(not one.equivalent for one in draw) == 8 for draw in draws)


def test_marks_are_of_lines_that_are_there_and_give_a_reason() -> None:
    for (module, before, after), reason in mutants.equivalents().items():
        lines = [" ".join(line.split()) for line in source(module).splitlines()]
        assert before in lines and before != after and len(reason.split()) >= 6, (module, before)


def tried(tmp_path: Path, module: str, text: str, timeout: float = mutants.TIMEOUT) -> Mutant:
    give(tmp_path, (REFERENCE, "pytorch"), BUILT_IN.problems)
    return mutants.tried(Mutant(module, "by hand", 1, "", "", "some"), text, tmp_path, timeout)


def test_shared_code_is_judged_by_frozen_numbers_in_a_copy(tmp_path: Path) -> None:
    before = source("images/stitch.py")
    one = tried(
        tmp_path,
        "images/stitch.py",
        before.replace("Tiles(centre, positions - M // 2, shape)", "Tiles(centre, positions - M // 2 - 1, shape)"),
    )
    assert (one.rung, one.place.partition(",")[0]) == ("contract", "stitch") and one.seconds > 0
    assert source("images/stitch.py") == before


def test_frozen_numbers_are_asked_before_a_framework_is_loaded(tmp_path: Path) -> None:
    """What they catch needs none of the captures that the ladder is held against."""
    before = source("images/metrics.py")
    text = before.replace("if not 0 < data_range < np.inf", "if not 0 < data_range <= 2")
    one = mutants.tried(Mutant("images/metrics.py", "by hand", 1, "", "", "some"), text, tmp_path / "none")
    assert one.rung == "contract" and one.place.startswith("metrics")


def test_a_backend_s_own_code_is_judged_by_the_operators(tmp_path: Path) -> None:
    one = tried(tmp_path, OF_ONE_SIDE, source(OF_ONE_SIDE).replace("BORDER_WEIGHT = 1e-2", "BORDER_WEIGHT = 1e-1"))
    assert (one.rung, one.place.partition(",")[0]) == ("operator", "merge_patches")


@pytest.mark.parametrize(
    ("operator", "red", "rung", "asked"),
    [
        ("by hand", "", "", ["ladder", "e2d"]),
        ("by hand", "ladder", "ladder", ["ladder"]),
        ("by hand", "e2d", "e2d", ["ladder", "e2d"]),
        (CONTROL, "", "", ["e2d"]),
    ],
)
def test_what_survives_few_networks_climbs_the_whole_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str, red: str, rung: str, asked: list[str]
) -> None:
    """Its processes take minutes: only which of them are started, and what is made of their ends."""
    stages: list[str] = []

    def ended(command: tuple[str, ...], *, folder: Path, output: Any, **rest: Any) -> tuple[int, bool]:
        if "ptyint.cli" in command:
            stages.append(command[-1])
            output.write(f"{command[-1]} has ended\n".encode())
            output.flush()
        elif command[1:3] == mutants.TRIAL[1:3]:
            Path(command[3], f"{command[4]}.json").write_text(json.dumps({command[5]: {"rung": "", "place": ""}}))
        return int(command[-1] == red), False

    monkeypatch.setattr(mutants, "run_group", ended)
    survivor = Mutant("images/frc.py", operator, 1, "", "", "some")
    one = mutants.tried(survivor, source("images/frc.py"), tmp_path)
    assert (one.rung, one.place, stages) == (rung, f"{red} has ended" if red else "", asked)


@pytest.mark.slow
def test_what_cannot_be_imported_and_what_hangs_is_caught(tmp_path: Path) -> None:
    one = tried(tmp_path, OF_ONE_SIDE, "1 / 0\n")
    assert one.rung == "contract" and "division by zero" in one.place
    one = tried(tmp_path, OF_ONE_SIDE, "while True:\n    pass\n", 20.0)
    assert one.rung == "timeout" and 20 <= one.seconds < 60


def test_what_is_known_of_the_same_sources_is_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Were anything tried, it would take minutes, and not say what stands here."""
    drawn = [one for one, _ in mutants.drawn(2, 5)]
    control = Mutant(OF_ONE_SIDE, CONTROL, 0, "", "", mutants._sources_sha256())
    known = [replace(one, rung="step", place="seen before") for one in drawn if not one.equivalent]
    (tmp_path / NAME).write_text(json.dumps({"mutants": [asdict(one) for one in (control, *known)]}))
    done = mutants.run(tmp_path, sample=2, seed=5)
    assert done.judged == known and done.control == control
    written = json.loads((tmp_path / NAME).read_text())
    assert (written["sample"], written["seed"]) == (2, 5) and len(written["mutants"]) == 1 + len(done.each)
    assert mutants.main([str(tmp_path), "--sample", "2", "--seed", "5"]) == 0
    (tmp_path / NAME).write_text(
        json.dumps({"mutants": [asdict(one) for one in (control, known[0], replace(known[1], rung=""))]})
    )
    assert mutants.main([str(tmp_path), "--sample", "2", "--seed", "5"]) == 1
    assert f"{known[1].module}:{known[1].line} survived" in capsys.readouterr().out


def judged_at_once(one: Mutant, text: str, captures: Path) -> Mutant:
    with (captures / "tried").open("a") as log:
        log.write(f"{one.line}\n")
    if (captures / "deadly").exists() and one.operator != CONTROL:
        os._exit(1)
    return replace(one, rung="" if one.operator == CONTROL else "step")


def test_any_executor_spreads_them_and_a_worker_that_dies_leaves_none_unjudged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "tried", judged_at_once)
    monkeypatch.setattr(mutants, "captured", lambda target, timeout: nullcontext((target, [])))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pools.py").write_text(
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "def pool():\n    return ProcessPoolExecutor(1, get_context('fork'))\n"
    )
    (tmp_path / "deadly").touch()
    command = [str(tmp_path), "--sample", "5", "--seed", "5", "--executor", "pools:pool"]
    with pytest.raises(ConfigError, match=r"5 of 6 mutants were not judged: BrokenProcessPool.*run the same again"):
        mutants.main(command)
    kept = [Mutant(**one) for one in json.loads((tmp_path / NAME).read_text())["mutants"]]
    assert [one.operator for one in kept if not one.equivalent] == [CONTROL]
    (tmp_path / "deadly").unlink()
    (tmp_path / "tried").unlink()
    assert mutants.main(command) == 0
    assert len((tmp_path / "tried").read_text().splitlines()) == 5, "the unchanged copy is not tried again"
    with pytest.raises(ConfigError, match="--executor nowhere:f"):
        mutants.main([*command[:-1], "nowhere:f"])


def test_a_sample_tells_its_score_by_file_and_lists_what_survived() -> None:
    marked = next((module, before, after) for module, before, after in mutants.equivalents())
    control = Mutant(OF_ONE_SIDE, CONTROL, 0, "", "", "0")
    caught = [Mutant("images/frc.py", "some", n, "a", "b", str(n), rung) for n, rung in enumerate(["contract", "e2d"])]
    slipped = Mutant(OF_ONE_SIDE, "some", 7, "a + b", "a - b", "7")
    sample = Sample(4, control, *caught, slipped, Mutant(marked[0], "some", 1, *marked[1:], "8"))
    assert (len(sample.judged), sample.survivors, len(sample.marked)) == (3, [slipped], 1)
    table = sample.by_module.set_index("module")
    assert table.loc["images/frc.py", ["mutants", "caught", "contract", "e2d"]].tolist() == [2, 2, 1, 1]
    assert table.loc[OF_ONE_SIDE, ["mutants", "caught", "share"]].tolist() == [1, 0, 0]
    assert sample.sentence == "2 of 3 mutants were caught (66.7%, seed 4); 1 more are marked as equivalent."
    assert [check.verdict for check in sample.checks] == ["pass", "fail"]
    assert mutants.listed(sample.survivors).values.tolist() == [[f"{OF_ONE_SIDE}:7", "a + b", "a - b"]]
    assert mutants.listed(sample.marked)["reason"].tolist() == [mutants.equivalents()[marked]]


def test_a_red_copy_and_an_empty_sample_are_no_pass() -> None:
    red = Sample(1, Mutant(OF_ONE_SIDE, CONTROL, 0, "", "", "0", "step", "Adam"))
    assert [check.verdict for check in red.checks] == ["fail", "not run"]
    assert red.sentence.endswith("Without a change it is red: step, Adam.")


def test_the_page_shows_score_survivors_marks_and_checks_or_says_how_to_get_them() -> None:
    """In a process of its own: the notebook's imports load a framework."""
    code = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from unittest.mock import patch
from cells import record_of, run_cell

shown = []
with patch("IPython.display.display", lambda *some: shown.extend(some)):
    off = run_cell("sensitivity", "mutants.run(", n_mutants=0)
    import mutants  # as the notebook's first cell made possible
    marked = next(iter(mutants.equivalents()))
    lines = ("a | b", "a & b")
    each = [mutants.Mutant("images/frc.py", "some", 3, *lines, "3", rung) for rung in ("contract", "")]
    control = mutants.Mutant("backends/pytorch.py", "control", 0, "", "", "0")
    sample = mutants.Sample(4, control, *each, mutants.Mutant(marked[0], "some", 1, *marked[1:], "8"))
    run_cell("sensitivity", "sampled.by_module", sampled=sample)
assert "Off: n_mutants is 0" in off.markdown and off.record is None
scores, survivors, marks, checks = shown
assert scores.rows == [("images/frc.py", "2", "1", "0.5", "1")] and survivors.rows == [("images/frc.py:3", *lines)]
assert survivors.caption == "Survivors: 1 of 2" and marks.rows[0][3] == mutants.equivalents()[marked]
assert [check.verdict for check in record_of(shown).checks] == ["pass", "fail"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # of an unchanged copy the whole ladder is climbed, and stage E2.D run
def test_the_stage_draws_tries_and_shows_a_sample(tmp_path: Path) -> None:
    """As a run has it: one mutant, one seeded fault. What is drawn changes with the sources, so it may survive."""
    arguments = ["faults", "-p", "n_mutants", "1", "-p", "mutants_seed", "1", "-p", "faults", "F03"]
    reports = tmp_path / "reports"
    code = cli.main(["run", *arguments, "--reports", str(reports), "--timeout", "5400"])
    (folder,) = (path for path in reports.iterdir() if manifest.RUN_NAME.fullmatch(path.name))
    content = manifest.read(folder)
    score = next(check for check in content.checks if check.name == SCORE.name)
    assert [check.name for check in content.checks if check.verdict != "pass" and check != score] == []
    written = json.loads((folder / NAME).read_text())
    control, *each = (Mutant(**one) for one in written["mutants"])
    assert control.operator == CONTROL and not control.rung
    judged = [one for one in each if not one.equivalent]
    caught = sum(one.rung != "" for one in judged)
    assert (written["sample"], len(judged)) == (1, 1) and score.measured == caught
    assert score.bound == 0.9 and (code == 0) == (score.verdict == "pass") == (caught == 1)
    page = (folder / "faults.html").read_text()
    assert f"{caught} of 1 mutants were caught" in page and "Marked as equivalent" in page
    assert all(one.rung or f"{one.module}:{one.line}" in page for one in judged)
    assert "mutants were caught" in (folder / "index.html").read_text()
    assert content.notebooks[0].asked["mutants_seed"] == 1
