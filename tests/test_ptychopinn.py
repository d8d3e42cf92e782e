"""The adapters of PtychoPINN: on a stand-in with its call surface, and on PtychoPINN itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.parity import reproducers
from ptyint.parity.results import Ladder
from ptyint.parity.rungs.forward import ONE_SIDE

NAMES = ("ptychopinn-tensorflow", "ptychopinn-pytorch")
FAKE = Path(__file__).parent / "fake_ptycho"

CLIMB = """
import sys
from ptyint.parity.ladder import Climb
from ptyint.parity.problems import Problems
cases = sys.argv[2].split("; ") if sys.argv[2] else ()
with Climb(sys.argv[1], "ptychopinn-tensorflow", "ptychopinn-pytorch", Problems(cases=cases)) as climb:
    climb.finish()
"""
SHIPPED = ("N 64, gridsize 1, as shipped", "N 64, gridsize 2, as shipped")
EQUAL = tuple(case.replace("as shipped", "equal networks") for case in SHIPPED)

FOUND_AT = {
    "probe": ("operator", "normalise_probe"),
    "mirror": ("operator", "stitch [command line]"),
    "mix": ("operator", "merge_patches"),
    "merge": ("operator", "merge_patches"),
    "canvas": ("operator", "canvas_size"),
    "attention": ("contract", "architecture"),
    "loss": ("operator", "poisson_nll"),
    "translate": ("operator", "translate [use_xla_translate=False]"),
    "mean": ("operator", "patch_of_group"),
}
"""Disagreement seeded in the stand-in, to where it must be found."""


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(FAKE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def climbed(
    folder: Path, env: dict[str, str], timeout: float, cases: tuple[str, ...] = ()
) -> tuple[Ladder, list[dict[str, Any]]]:
    command = [sys.executable, "-c", CLIMB, str(folder), "; ".join(cases)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    assert run.returncode == 0, run.stderr[-3000:]
    return Ladder.load(folder / "ladder.json"), json.loads((folder / reproducers.NAME).read_text())


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ladder, list[dict[str, Any]]]:
    return climbed(tmp_path_factory.mktemp("agreeing"), environment(FAKE_PTYCHO=""), 900, (*SHIPPED, *EQUAL))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ladder, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("wrong")
    return folder, *climbed(folder, environment(FAKE_PTYCHO=",".join(FOUND_AT)), 900, (*SHIPPED, *EQUAL))


def places(found: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """Rungs and taps at which disagreements show."""
    return {tuple(place.split(", ")[:2]) for one in found for place in one["places"]}


@pytest.mark.slow
def test_a_pair_that_agrees_has_no_disagreement_and_no_parity_either(agreeing: Any) -> None:
    ladder, found = agreeing
    assert [one["tap"] for one in found] == ["what moves"]  # that the probe never does is true of the stand-in too
    assert ladder.divergence is not None and ladder.divergence.finding.rung == "step"
    assert "forward" in ladder.claims["not available"]  # in double precision
    assert not [row for row in ladder.rows if row.red and row.tap != "what moves"]
    assert {row.case for row in ladder.rung("gradient").on("float32")} == {*SHIPPED, *EQUAL}
    assert "operator" in ladder.claims["not available"]  # not every operator, and not in double precision
    assert any(check.verdict != "pass" for check in ladder.checks())
    assert ladder.rung("operator").on("float32") and ladder.rung("persistence").on() and ladder.rung("contract").on()


@pytest.mark.slow
@pytest.mark.parametrize("what", FOUND_AT)
def test_a_disagreement_is_named_at_its_operator_or_stage(what: str, wrong: Any) -> None:
    _, _, found = wrong
    assert FOUND_AT[what] in places(found)


@pytest.mark.slow
def test_nothing_else_is_blamed(wrong: Any) -> None:
    _, ladder, found = wrong
    assert places(found) - set(FOUND_AT.values()) <= {
        ("contract", "probe that illuminates in training"), ("contract", "initial biases: largest"),
        ("contract", "initial kernels: spread over Glorot's"), ("forward", "object patches at inference"),
        ("forward", "probe"), *(("forward", f"encoder.{i}.conv2.relu") for i in range(3)), ("forward", "region"),
        ("loss", "loss"), ("gradient", "expected_amplitude"), ("step", "what moves"), ("step", "own optimiser"),
    }  # fmt: skip
    assert {ladder.rung(name).verdict for name in ("contract", "operator", "forward", "loss", "gradient")} == {"fail"}


@pytest.mark.slow
def test_a_difference_of_the_networks_is_found_at_its_layer_and_gone_with_equal_settings(wrong: Any) -> None:
    _, ladder, found = wrong
    own = [row for row in ladder.rung("forward").rows if row.red and row.local is not None and not row.is_consequence]
    assert {row.tap for row in own if row.case == SHIPPED[0]} == {f"encoder.{i}.conv2.relu" for i in range(3)} | {
        "probe"
    }
    assert not [row for row in own if row.case in EQUAL and row.tap != "region"]
    attention = next(one for one in found if "forward, encoder.0.conv2.relu" in one["places"][0])
    assert attention["repair"] == "cbam_encoder=False" and attention["patches"] > 0.01 and attention["angle"] > 1


@pytest.mark.slow
def test_a_gradient_in_other_units_points_the_same_way(wrong: Any) -> None:
    _, ladder, _ = wrong
    direction = next(row for row in ladder.rung("gradient").rows if row.operand == "direction" and row.case == EQUAL[0])
    assert direction.holds and "cosine 1.000" in direction.note and "4096 times as long" in direction.note


@pytest.mark.slow
def test_the_lines_are_in_the_order_of_what_they_do_to_a_reconstruction(wrong: Any) -> None:
    _, _, found = wrong
    ranks = [one["rank"] for one in found]
    assert ranks == sorted(ranks, reverse=True) and [one["default"] for one in found].index(False) > len(found) / 2


def ran(folder: Path, script: str, seeded: str) -> str:
    """What a reproduction prints; it exits with 1 while the difference is there."""
    path = folder / script
    run = subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env=environment(FAKE_PTYCHO=seeded),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == (1 if seeded else 0), run.stdout + run.stderr[-2000:]
    return run.stdout


@pytest.mark.slow
def test_a_line_has_sizes_calls_arrays_and_a_script_that_shows_it(wrong: Any) -> None:
    folder, _, found = wrong
    one = next(one for one in found if one["tap"] == "merge_patches" and "shape" in one["words"])
    assert "`ReassemblePatchesLayer`" in one["words"] and one["arrays"].endswith(".npz")
    assert (folder / one["arrays"]).is_file()
    lines = ran(folder, one["script"], "mix").splitlines()
    assert [line.partition(":")[0] for line in lines] == [*NAMES, "difference"]
    assert "(1, 78, 78)" in lines[0] and "(20, 78, 78)" in lines[1]
    assert "difference" in ran(folder, one["script"], "")  # repaired
    for one in found:
        assert one["words"] and (one["script"] == "" or (folder / one["script"]).is_file())


@pytest.mark.slow
@pytest.mark.parametrize("tap", ["encoder.0.conv2.relu", "architecture", "what moves"])
def test_layers_stages_and_steps_are_reproduced(tap: str, wrong: Any) -> None:
    folder, _, found = wrong
    line = next(one for one in found if any(f", {tap}" in place for place in one["places"]))
    assert len(ran(folder, line["script"], "attention,loss").splitlines()) >= 2


@pytest.mark.slow
def test_scripts_for_maintainers_are_short_and_clear(wrong: Any) -> None:
    """One statement a line, what it shows at the top, nothing imported in vain."""
    folder, _, found = wrong
    for one in filter(itemgetter("script"), found):
        text = (folder / one["script"]).read_text()
        assert text.startswith(f'"""{one["rung"]}, {one["tap"]}') and ";" not in text and "$" not in text
        assert "sys.exit(" in text and sum(bool(line.strip()) for line in text.splitlines()) <= 15
    style = ["ruff", "check", "--isolated", "--select", "E,F,I", "--line-length", "120"]
    subprocess.run([sys.executable, "-m", *style, folder / reproducers.FOLDER], check=True)


@pytest.mark.slow
def test_versions_predictions_and_stitched_objects_are_kept(wrong: Any) -> None:
    folder, ladder, _ = wrong
    for name in NAMES:
        assert {"version", "tensorflow", "torch", "known_commit"} <= ladder.about[name].keys()
        with np.load(folder / f"{name}.outputs.npz") as arrays:
            assert {f"{g}/run/{what}" for g in (1, 2) for what in ("patches", "stitched", "probe")} <= set(arrays)


@pytest.mark.slow
def test_two_disagreements_of_one_operator_are_two_lines(wrong: Any) -> None:
    """Another scale shows in the values, mixed groups in the shape."""
    _, _, found = wrong
    values, shape = sorted(
        (one for one in found if one["tap"] == "merge_patches"), key=lambda one: "shape" in one["words"]
    )
    assert values["error"] == pytest.approx(0.999, abs=1e-3) and "largest value" in values["words"]
    assert "shape (20, 78, 78), not (1, 78, 78)" in shape["words"] and shape["operand"] == "many groups, from the mean"


@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_the_adapters_keep_the_contract(name: str) -> None:
    command = [sys.executable, "-m", "ptyint.cli", "check-backend", name]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert "✓ workflow:" in run.stdout and "✓ trace:" in run.stdout and "✗" not in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_importing_an_adapter_hides_no_gpu(name: str) -> None:
    code = f"import os; from ptyint import backends; backends.load({name!r})\n"
    code += "print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    env = {key: value for key, value in environment().items() if key != "CUDA_VISIBLE_DEVICES"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["None"], run.stderr


def test_a_changed_interface_is_one_clear_sentence(tmp_path: Path) -> None:
    code = "import ptycho.tf_helper as h; del h.reassemble_position\nfrom ptyint import backends\n"
    code += f"try:\n    backends.load({NAMES[0]!r})\nexcept RuntimeError as error:\n    print(error)"
    run = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120)
    assert "ptycho.tf_helper has no reassemble_position: PtychoPINN's interface changed" in run.stdout, run.stderr
    assert run.stdout.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_without_ptychopinn_one_sentence_says_how_to_get_it(name: str) -> None:
    code = "import sys; sys.modules['ptycho'] = sys.modules['ptycho_torch'] = None\nfrom ptyint import backends\n"
    code += f"try:\n    backends.load({name!r})\nexcept RuntimeError as error:\n    print(error)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "github.com/hoidn/PtychoPINN" in run.stdout and "cannot be imported" in run.stdout, run.stderr
    assert run.stdout.count("\n") == 1


# --- faults put in from outside ---

SEEDED = """
import json, sys
from pathlib import Path
from ptyint import backends
from ptyint.parity.capabilities import written
from ptyint.parity.faults.fault import catalogue_of
from ptyint.parity.faults.trial import CONTROL, answers
from ptyint.parity.rungs import CAPTURES
from ptyint.parity.rungs.rung import Bench
from ptyint.parity.worker import OFFER, capture, give, write

folder, pair = Path(sys.argv[1]), ("ptychopinn-tensorflow", "ptychopinn-pytorch")
catalogue = catalogue_of(pair[1])
give(folder, pair, catalogue.problems)
reference = backends.load(pair[0])
write(folder, pair[0], OFFER, written(reference))
for name in catalogue.of_reference:
    for part in CAPTURES[name].parts(catalogue.problems):
        capture(Bench(reference, pair, catalogue.problems, folder), CAPTURES[name], part)
asked = sys.argv[2].split(",")
expected = {one.id: (one.rung, one.tap) for one in catalogue.faults}
found = {id: (one["rung"], one["tap"]) for id, one in answers(folder, [*asked, CONTROL]).items()}
assert found == {**{id: expected[id] for id in asked}, CONTROL: ("", "")}, found
"""


@pytest.mark.slow
def test_faults_put_into_the_modules_from_outside_are_caught_where_they_are(tmp_path: Path) -> None:
    """One of each kind; at the end, without any, nothing is red that was not before."""
    asked = "U01,U08,U18,U28,U31"
    command = [sys.executable, "-c", SEEDED, str(tmp_path), asked]
    run = subprocess.run(command, env=environment(FAKE_PTYCHO="loss"), capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]


# --- PtychoPINN itself ---

AT_LEAST = 6
PLACES = {
    1: ("operator", "normalise_probe"), 2: ("operator", "stitch [command line]"), 3: ("operator", "merge_patches"),
    4: ("operator", "merge_patches"), 5: ("operator", "canvas_size"), 6: ("contract", "architecture"),
    7: ("operator", "poisson_nll"), 8: ("operator", "translate [use_xla_translate=False]"),
    9: ("operator", "patch_of_group"),
}  # fmt: skip
"""Where each of the nine known disagreements shows."""


RUN_VARIABLE = "PTYINT_TEST_PTYCHOPINN"
"""Environment variable: the folder of a run of ``ptyint run ladder`` on PtychoPINN's pair."""


@pytest.mark.ptychopinn
def test_the_known_disagreements_of_ptychopinn_are_found(tmp_path: Path) -> None:
    if importlib.util.find_spec("ptycho") is None or importlib.util.find_spec("ptycho_torch") is None:
        pytest.skip("PtychoPINN is not installed; `pip install -e CHECKOUT` in an environment of its own")
    folder = Path(os.environ.get(RUN_VARIABLE, tmp_path))
    if folder == tmp_path:
        climbed(folder, dict(os.environ), 7200)
    ladder, found = Ladder.load(folder / "ladder.json"), json.loads((folder / reproducers.NAME).read_text())
    shown = {tuple(place.split(", ")[:2]): one for one in found for place in one["places"]}
    seen = {number for number, place in PLACES.items() if place in shown}
    mixed = [one for one in found if one["tap"] == "merge_patches" and "shape" in one["words"]]
    values = [one for one in found if one["tap"] == "merge_patches" and "shape" not in one["words"]]
    seen -= set() if mixed else {3}
    seen -= set() if values else {4}
    assert len(seen) >= AT_LEAST, f"only {sorted(seen)} of the nine, at {sorted(shown)}"
    assert all((folder / shown[PLACES[number]]["script"]).is_file() for number in seen)
    alone = {(row.rung, row.tap) for row in ladder.rows if row.operand == ONE_SIDE}
    assert alone == {("forward", "region"), ("gradient", "region"), ("gradient", "probe")}
    assert all(row.holds and "by design: " in row.note for row in ladder.rows if row.operand == ONE_SIDE)
    assert reproducers.headline(found).startswith("In default settings they disagree in ")
    assert not [row for row in ladder.rung("gradient").unavailable if row.precision == "float32"]
    directions = [row for row in ladder.rung("gradient").rows if row.operand == "direction" and "no merge" in row.case]
    assert len(directions) == 2 and all(row.holds for row in directions)
    assert {row.tap for row in ladder.rung("step").rows if row.red} == {"what moves", "own optimiser"}
    assert all(check.verdict != "pass" for check in ladder.checks() if check.name.startswith(("contract", "operator")))
