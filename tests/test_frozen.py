"""Frozen numbers: made by a program that knows nothing of ptyint, and red where shared code gives anything else."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint.parity import frozen
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import Finding
from ptyint.parity.faults.injection import wrapped
from ptyint.parity.problems import Problems
from ptyint.parity.rungs import contract
from ptyint.parity.rungs.rung import Bench, Measured
from ptyint.stages import full_cycle

TAPS = {fact["tap"] for fact in frozen.facts()["facts"]}
FOLDER = Path(__file__).parents[1] / "datasets" / "frozen"
FILES = tuple(f"given/{name}" for name in ("bundle", "npz", "pair", "cxi"))


def red() -> list[Finding]:
    return [row for row in frozen.judge("here", frozen.measured()) if not row.holds]


def test_the_numbers_are_made_without_ptyint(tmp_path: Path) -> None:
    """Run where `import ptyint` fails, the script gives what is in the repository, up to rounding."""
    for script in FOLDER.glob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        imported = {getattr(node, "module", None) or alias.name for node in nodes for alias in node.names}
        assert not [name for name in imported if "ptyint" in name], script
    (tmp_path / "ptyint.py").write_text("raise ImportError('the judge asked the accused')")
    environment = {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], cwd=tmp_path, env=environment, check=True)
    assert json.loads((tmp_path / "facts.json").read_text()) == json.loads((FOLDER / "facts.json").read_text())
    with np.load(tmp_path / "arrays.npz") as made, np.load(FOLDER / "arrays.npz") as kept:
        assert made.files == kept.files
        for name in made.files:
            if kept[name].dtype.kind in "fc":
                np.testing.assert_allclose(made[name], kept[name], rtol=1e-12, atol=1e-13, err_msg=name)
            elif not name.startswith(FILES):  # a file may be packed a little differently
                assert (made[name] == kept[name]).all(), name


def test_shared_code_gives_the_frozen_numbers() -> None:
    assert red() == []
    assert frozen.check().passed and frozen.check().name == frozen.CRITERION.name


def shift_of_one_row(original: Any, tiles: Any, corners: Any, shape: Any, first: int) -> Any:
    return original(tiles, np.add(corners, (1, 0)), shape, first)


FAULTS: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("images.stitch", "_place", shift_of_one_row, "stitch"),
    ("images.phases", "_leading_eigenvector", lambda f, m: np.conj(f(m)), "synchronised phases"),
    ("images.phases", "_agreeing", lambda f, m: np.conj(f(m)), "synchronised phases"),
    ("images.phases", "_relaxed", lambda f, m, x: x, "synchronised phases"),
    ("images.gauge", "_coordinates", lambda f, s: [axis + 1 for axis in f(s)], "gauge"),
    ("images.metrics", "psnr", lambda f, *a, **k: f(*a, **{**k, "data_range": 255.0}), "metrics"),
    ("images.frc", "soft_window", lambda f, m, t: f(m, t + 1), "ring correlation"),
    ("scans.groups", "_nearest", lambda f, p, n: f(p, n)[:, ::-1], "groups"),
    ("scans.batches", "canvas_size", lambda f, N, o: f(N, o) + 2, "batches"),
    ("scans.npz.SquaredAmplitudes", "__getitem__", lambda f, s, i: f(s, i) % 65536, "counts of 16-bit amplitudes"),
    ("backends.weights", "encoder_filters", lambda f, c: f(c)[::-1], "initial weights"),
    ("backends.weights", "normalise_probe", lambda f, p, s: f(p, 2 * s), "initial weights"),
    ("scans.forward", "propagate", lambda f, w: np.conj(f(w)), "forward model"),
    ("scans.simulate", "diffraction_amplitudes", lambda f, p, o: f(p, o.swapaxes(1, 2)), "simulated scan"),
    ("backends.bundle", "_check_finite", lambda f, *a: None, "bundle"),
    ("backends.training.Schedule", "should_stop", lambda f, s, loss: f(s, round(loss)), "learning rates"),
    ("backends.training", "fit", lambda f, *a: f(*a[:3], "other", *a[4:]) and f(a[0], *a[1:])[:0], "training loop"),
    ("scans.hdf5", "to_pixels", lambda f, *a: f(*a) + 0.5, "readers"),
    ("scans.hdf5", "to_metres", lambda f, p, pixel_m, shape: f(p, pixel_m, shape) + pixel_m / 2, "writers"),
    ("images.reconstruction", "stitch_batches", lambda f, *a, M: f(*a, M=20), "assembly"),
    ("images.reconstruction", "stitch_batches", lambda f, b, p, s, labels, *rest, M: f(
        b, p, s, np.resize(np.unique(labels), labels.shape), *rest, M=M), "assembly"),
    ("images.reconstruction", "scan_units", lambda f, w, p: (2 * f(w, p)[0], f(w, p)[1]), "assembly"),
    ("images.reconstruction", "object_grid", lambda f, s: (f(s)[0], f(s)[1] + (s.object_ is None)), "assembly"),
    ("images.reconstruction", "scanned_region", lambda f, p, s: f(p + 0.75, s), "assembly"),
    ("scans.batches.GroupedScan", "parts", lambda f, s, n: list(f(s, n))[:-1], "batches"),
    ("scans.scan.Scan", "counts", lambda f, s, *i: f(s, *i).astype("f2").astype("f4"), "batches"),
    ("scans.groups", "_nearest", lambda f, p, n: f(p + 1e-3 * np.arange(len(p))[::-1, None], n), "groups"),
    ("backends.weights", "scan_units", lambda f, w, p: f({k: v[:1] if np.ndim(v) else v for k, v in w.items()}, p[:1]),
     "initial weights"),
    ("images.gauge._Problem", "trial", lambda f, s, at: f(s, at + 99 * (abs(at[:2]).sum() > 8)), "gauge"),
    ("images.comparison", "compare_objects", lambda f, a, b, *rest, **k: f(b, a, *rest, **k), "comparison"),
    ("scans.fields.Fields", "flag", lambda f, s, name, **k: name in s, "readers"),
    ("scans.batches", "ahead", lambda f, made: list(f(made))[:-1], "batches"),
    ("scans.scan", "_array", lambda f, *rest: iter(()), "data contract"),
    ("scans.scan", "_zero_frequency", lambda f, energy: iter(()), "data contract"),
    ("scans.hdf5.H5Patterns", "__getitem__", lambda f, s, i: f(s, np.sort(i) if np.ndim(i) else i), "readers"),
    ("dispatcher", "update_legacy_dict", lambda f, cfg, settings: f(cfg, settings.model), "dispatcher"),
    ("images.comparison", "common_region", lambda f, a, b: a.scanned | b.scanned, "comparison"),
    ("images.comparison", "_comparable", lambda f, fact: str(fact), "comparison"),
    ("images.workflow", "_laid", lambda f, s, a, by: f(s, {**a, "centre_px": a["centre_px"] + 1}, by), "workflow"),
    ("config.TrainingConfig", "applied", lambda f, s, **k: f(s, **{**k, "neighbor_count": 4}), "dispatcher"),
)  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "change", "tap"), FAULTS, ids=[f"{one[3]}: {one[1]}" for one in FAULTS])
def test_what_is_wrong_is_named_at_its_place(
    owner: str, name: str, change: Callable[..., Any], tap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wrapped(f"ptyint.{owner}", name, change):
        wrong = frozen.measured()
    monkeypatch.setattr(frozen, "measured", lambda: wrong)
    rows, check = red(), frozen.check()
    assert tap in {row.tap for row in rows} and len({row.tap for row in rows}) <= 3, rows
    assert check.verdict == "fail" and check.note.partition(",")[0] in {row.tap for row in rows}


def test_every_tap_has_its_fault_above() -> None:
    assert {tap for *_, tap in FAULTS} == TAPS


def test_rung_0_and_stage_e2d_are_red(tmp_path: Path) -> None:
    """The stitch's crop off by one row: the run is red, and not pytest alone."""
    bench = Bench(type("Some", (), {"name": "numpy"})(), ("numpy", "numpy"), Problems(), tmp_path)
    cycles = full_cycle.Cycles({}, {}, full_cycle.Criteria())
    object.__setattr__(cycles, "outcome", lambda *_: None)
    seen = {}
    for shift in (0, 1):
        with wrapped("ptyint.images.stitch", "_place", lambda f, t, c, s, by=shift: f(t, np.add(c, (by, 0)), s)):
            sides = {"contract": {"numpy": contract.measure(bench)}}
            stage = {check.name: check.verdict for check in cycles.checks()}
        measured = Measured({"numpy": Offer()}, lambda side, name, part, sides=sides: sides[name][side])
        rung = {row.tap for row in contract.judge(measured, Problems()) if row.red and row.tap in TAPS}
        seen[shift] = rung, {name for name, verdict in stage.items() if verdict == "fail"}
    assert seen[0] == (set(), set())
    assert seen[1] == ({"stitch", "assembly"}, {frozen.CRITERION.name}) and frozen.CRITERION in full_cycle.criteria()


def test_nothing_measured_is_red() -> None:
    rows = list(frozen.judge("here", {"error/frozen": np.array("OSError: gone")}))
    assert len(rows) == len(frozen.facts()["facts"]) and all(row.red and math.isinf(row.ratio) for row in rows)
    assert "OSError: gone" in rows[0].note


def test_an_input_cannot_be_changed_by_what_it_is_given_to() -> None:
    def greedy(original: Any, probe: Any, scale: float) -> Any:
        probe *= 2
        return original(probe, scale)

    with wrapped("ptyint.scans.forward", "normalise_probe", greedy):
        assert {row.tap for row in red()} == {"forward model"}
