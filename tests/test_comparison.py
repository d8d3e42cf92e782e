from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from reconstructions import make

from ptyint.errors import ComparisonError, ConfigError, PtyintError, ScanError
from ptyint.images.comparison import NAME, Criteria, compare
from ptyint.images.reconstruction import Reconstruction, scanned_region


def failed(comparison: object) -> list[str]:
    return [check.name for check in comparison.checks if not check.passed]  # type: ignore[attr-defined]


def test_equal_reconstructions_pass_every_check() -> None:
    comparison = compare(make("tensorflow", noise=0.01), make("pytorch", noise=0.01))
    assert comparison.passed, failed(comparison)
    assert [check.name for check in comparison.checks] == [one.name for one in Criteria().declared(truth=True)]
    assert set(comparison.truth) == {"tensorflow", "pytorch"}


def test_a_global_phase_is_gauge_but_a_scale_is_a_finding() -> None:
    assert compare(make("tensorflow"), make("pytorch", factor=np.exp(1j))).passed
    scaled = compare(make("tensorflow"), make("pytorch", factor=1.5))
    assert failed(scaled) == ["relative amplitude scale between them"]
    smaller = compare(make("tensorflow"), make("pytorch", factor=1 / 1.5))
    assert failed(smaller) == ["relative amplitude scale between them"]


def test_a_poor_candidate_fails_against_the_truth_and_against_the_reference() -> None:
    comparison = compare(make("tensorflow"), make("pytorch", noise=1.0))
    names = failed(comparison)
    assert "phase correlation with the truth, pytorch" in names
    assert "phase correlation of the two backends" in names
    assert "phase correlation with the truth, tensorflow" not in names


@pytest.mark.parametrize("fact", ["scan_sha256", "groups_sha256", "initial_weights_sha256"])
def test_different_inputs_fail_whatever_the_images_say(fact: str) -> None:
    comparison = compare(make("tensorflow"), make("pytorch", **{fact: "another"}))
    assert failed(comparison) == [f"same {fact.removesuffix('_sha256').replace('_', ' ')}"]


def test_different_configurations_fail_but_backend_and_folder_may_differ() -> None:
    other = {"model": {"N": 64, "gridsize": 1}, "nepochs": 4, "backend": "pytorch", "output_dir": "elsewhere"}
    assert failed(compare(make("tensorflow"), make("pytorch", config=other))) == ["same config"]
    assert compare(make("tensorflow"), make("pytorch", config={**other, "nepochs": 3})).passed


def test_a_backend_compared_with_itself_is_no_parity() -> None:
    assert failed(compare(make("pytorch"), make("pytorch"))) == ["two different backends"]


def test_without_truth_only_contract_and_agreement_are_checked() -> None:
    comparison = compare(make("tensorflow", truth=False), make("pytorch", truth=False))
    assert comparison.passed
    assert comparison.truth == {}
    assert [check.name for check in comparison.checks] == [one.name for one in Criteria().declared(truth=False)]


def test_objects_of_different_shapes_are_not_compared() -> None:
    other = make("pytorch")
    cut = dataclasses.replace(other, object_=other.object_[:-1], scanned=other.scanned[:-1])
    with pytest.raises(ComparisonError, match=r"\(48, 48\) and \(47, 48\)"):
        compare(make("tensorflow"), cut)


def test_nan_is_an_error_not_a_pass() -> None:
    broken = make("pytorch")
    broken.object_[20, 20] = np.nan
    with pytest.raises(PtyintError):
        compare(make("tensorflow"), broken)


def test_a_declared_bound_is_the_one_that_is_checked_and_a_notebook_parameter_holds_it() -> None:
    strict = Criteria(max_difference=0.001, min_phase_correlation=0.99, min_agreement=0.98)
    declared = {one.name: one for one in strict.declared(truth=True)}
    checks = compare(make("tensorflow"), make("pytorch", noise=0.1), strict).checks
    assert {check.name: (check.relation, check.bound) for check in checks} == {
        name: (one.relation, one.bound) for name, one in declared.items()
    }
    assert sum(one.parameter == "max_difference" and one.bound == 0.001 for one in declared.values()) == 2
    loosened = declared["phase correlation of the two backends"].at({"min_agreement": 0.5})
    assert (loosened.relation, loosened.bound) == (">=", 0.5)
    assert {one.parameter for one in declared.values()} == {"", *Criteria.__dataclass_fields__}


def test_criteria_out_of_range_are_refused_with_name_and_value() -> None:
    with pytest.raises(ConfigError, match=r"max_difference is 2.*between 0 and 1"):
        Criteria(max_difference=2)


def test_saved_comparison_holds_verdict_checks_metrics_and_gauge(tmp_path: Path) -> None:
    comparison = compare(make("tensorflow"), make("pytorch", factor=1.5))
    comparison.save(tmp_path)
    saved = json.loads((tmp_path / NAME).read_text())
    assert saved["passed"] is False
    assert {check["name"] for check in saved["checks"] if check["verdict"] != "pass"} == {
        "relative amplitude scale between them"
    }
    assert saved["gauge_removed"]["agreement"]["scale"] == pytest.approx(1.5, rel=1e-3)
    assert saved["metrics"]["pytorch vs truth"]["phase_correlation"] == pytest.approx(1, abs=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_reconstruction_round_trip_and_damage(tmp_path: Path) -> None:
    one = make("pytorch", noise=0.1)
    loaded = Reconstruction.load(one.save(tmp_path))
    assert loaded.facts == one.facts
    for name in ("object_", "coverage", "scanned", "probe", "positions_px", "losses", "ground_truth"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(one, name))
    assert Reconstruction.load(make("pytorch", truth=False).save(tmp_path)).ground_truth is None
    file = tmp_path / "reconstruction.h5"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ScanError, match=r"reconstruction\.h5 is not a readable"):
        Reconstruction.load(tmp_path)


def test_scanned_region_is_the_widened_hull() -> None:
    square = np.array([(20, 20), (20, 30), (30, 20), (30, 30)], float)
    region = scanned_region(square, (50, 50))
    assert region[20:31, 20:31].all()
    assert region[16:35, 16:35].all()
    assert not region[:14].any() and not region[36:].any() and not region[:, :14].any()
