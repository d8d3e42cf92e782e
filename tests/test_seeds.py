"""Rung 7: what its judge must call equivalent, different or underpowered, on images made here; and its process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import Finding
from ptyint.parity.configurations import FIXTURE
from ptyint.parity.problems import Plan, Problems
from ptyint.parity.results import Ladder
from ptyint.parity.rungs import trained
from ptyint.parity.rungs.rung import Measured, stored
from ptyint.parity.worker import Worker, give, write
from ptyint.scans.fixtures import load_fixture

PAIR = ("tensorflow", "pytorch")
PLAN = Plan(n_pairs=3, n_independent=3)

Change = Callable[[np.ndarray], np.ndarray]  # type: ignore[type-arg]


def written(folder: Path, change: Change = lambda image: image, *, noise: float = 0.02, plan: Plan = PLAN) -> Path:
    """What both backends would have written: the truth with noise that a pair shares, PyTorch's after `change`."""
    truth = load_fixture(FIXTURE).object_
    assert truth is not None
    for gridsize in trained.GRIDSIZES:
        for name in PAIR:
            images = {}
            for kind, number, seed in trained.trainings(plan, candidate=name == "pytorch"):
                size = noise * (1 + 1e-4 * (kind == "moved") + 1e-4 * (name == "pytorch"))
                normal = np.random.default_rng((seed, gridsize)).normal(size=(2, *truth.shape))
                image = truth * np.exp(size * (normal[0] + 1j * normal[1]))
                images[f"{kind}/{number}"] = (change(image) if name == "pytorch" else image).astype(np.complex64)
            write(folder, name, "seeds", images, str(gridsize))
    return folder


def compared(folder: Path, plan: Plan = PLAN) -> trained.Seeds:
    measured = Measured(dict.fromkeys(PAIR, Offer()), lambda *key: stored(folder, *key))
    return trained.compared(measured, Problems(profile="full", plan=plan))


def judged(folder: Path, plan: Plan = PLAN) -> list[Finding]:
    return list(compared(folder, plan).findings())


def red(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.case, finding.tap) for finding in findings if not finding.holds}


def test_equivalent_images_hold_at_every_place_and_survive_json(tmp_path: Path) -> None:
    findings = judged(written(tmp_path))
    assert [(finding.case, finding.tap) for finding in findings] == list(trained.PLACES)
    assert red(findings) == set() and all(finding.decided for finding in findings)
    ladder = Ladder(*PAIR, "full", tuple(findings))
    assert Ladder.load(ladder.save(tmp_path / "ladder.json")).rung("trained").rows == tuple(findings)


@pytest.mark.parametrize(
    ("change", "taps"),
    [
        (lambda image: 1.2 * image, {"logarithm of the scale"}),
        (lambda image: np.roll(image, 2, axis=0), {"shift in y / px"}),
        (lambda image: np.roll(image, -2, axis=1), {"shift in x / px"}),
        (lambda image: image * np.exp(0.3j), {"phase / rad"}),
        (lambda image: image * np.exp(0.05j * np.arange(image.shape[1])), {"phase ramp in x / px"}),
        (lambda image: image * (1 + 0.2 * np.random.default_rng(9).normal(size=image.shape)), {trained.RESIDUAL}),
    ],
    ids=["scale", "shift down", "shift left", "phase", "ramp", "noise of its own"],
)
def test_a_gauge_that_had_to_be_removed_is_no_parity(tmp_path: Path, change: Change, taps: set[str]) -> None:
    """The images agree with the truth as well as before: only what had to be removed, or remains, tells."""
    found = red(judged(written(tmp_path, change)))
    assert {tap for _, tap in found} >= taps and {case for case, _ in found} >= {
        f"gridsize {gridsize}, paired seeds" for gridsize in trained.GRIDSIZES
    }


def test_a_worse_image_is_different_over_independent_seeds_as_well(tmp_path: Path) -> None:
    found = red(judged(written(tmp_path, lambda image: np.abs(image) * np.exp(0.2j * np.sin(np.angle(image) * 40)))))
    assert ("gridsize 1, independent seeds", "phase correlation") in found
    assert ("gridsize 2, paired seeds", "phase correlation") in found


def test_too_few_seeds_are_underpowered_and_never_a_pass(tmp_path: Path) -> None:
    few = Plan(n_pairs=1, n_independent=1)
    findings = judged(written(tmp_path, plan=few), few)
    tests = [finding for finding in findings if finding.tap != trained.RESIDUAL]
    assert tests and not any(finding.decided for finding in tests)
    assert Ladder(*PAIR, "full", tuple(findings)).rung("trained").verdict == "underpowered"


@pytest.mark.parametrize("place", [(0, 0), (0.5, 0.5)], ids=["corner", "centre"])
def test_one_nan_is_red_wherever_it_is(tmp_path: Path, place: tuple[float, float]) -> None:
    def broken(image: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        image = image.copy()
        image[tuple(int(part * n) for part, n in zip(place, image.shape, strict=True))] = np.nan
        return image

    assert {case for case, _ in red(judged(written(tmp_path, broken)))} >= {
        f"gridsize {gridsize}, {kind} seeds" for gridsize in trained.GRIDSIZES for kind in ("paired", "independent")
    }


def test_a_gridsize_that_one_backend_did_not_train_is_red_and_shown(tmp_path: Path) -> None:
    (written(tmp_path) / "pytorch.seeds.1.npz").unlink()
    seeds = compared(tmp_path)
    assert {case for case, _ in red(list(seeds.findings()))} == {
        "gridsize 1, paired seeds", "gridsize 1, independent seeds"
    }  # fmt: skip
    assert set(seeds.images) == {2} and {gridsize for gridsize, _, _ in (*seeds.values, *seeds.tests)} == {2}
    assert seeds.problems == {1: "pytorch trained nothing: nothing was written; its log says why."}


def test_nothing_trained_is_red_everywhere_and_said(tmp_path: Path) -> None:
    seeds = compared(tmp_path)
    assert red(list(seeds.findings())) == set(trained.PLACES)
    assert "tensorflow trained nothing" in seeds.problems[2]


def test_the_process_trains_every_seed_of_one_gridsize(tmp_path: Path) -> None:
    give(tmp_path, PAIR, Problems(profile="full", plan=Plan(n_pairs=1, n_reruns=1, n_independent=1, nepochs=1)))
    worker = Worker("pytorch", tmp_path, tmp_path / "log", timeout=300.0)
    assert worker.measure("seeds", "1") == ""
    worker.close()
    assert worker.command()["exit_code"] == 0
    images = stored(tmp_path, "pytorch", "seeds", "1")
    assert set(images) == {"paired/0", "moved/0", "independent/0"}
    truth = load_fixture(FIXTURE).object_
    assert truth is not None
    assert all(image.shape == truth.shape and np.isfinite(image).all() for image in images.values())
    paired, moved, independent = images["paired/0"], images["moved/0"], images["independent/0"]
    moved_by, between_seeds = np.linalg.norm(moved - paired), np.linalg.norm(independent - paired)
    assert 0 < moved_by < between_seeds / 2, "an ulp does not lead half way to what another seed makes"


def test_a_workflow_of_its_own_is_judged_by_independent_seeds_alone(tmp_path: Path) -> None:
    """Its trainings have neither start nor batches in common with another's: nothing paired can be said."""
    written(tmp_path)
    for gridsize in trained.GRIDSIZES:
        images = stored(tmp_path, "pytorch", "seeds", str(gridsize))
        own = {key: image for key, image in images.items() if key.startswith("independent")}
        write(tmp_path, "pytorch", "seeds", own, str(gridsize))
    offers = {"tensorflow": Offer(), "pytorch": Offer(frozenset({"workflow"}), ("float32",))}
    measured = Measured(offers, lambda *key: stored(tmp_path, *key))
    seeds = trained.compared(measured, Problems(profile="full", plan=PLAN))
    findings = list(seeds.findings())
    assert [(one.case, one.tap) for one in findings] == list(trained.PLACES) and set(seeds.images) == {1, 2}
    apart = {one.case: [] for one in findings}
    for one in findings:
        apart[one.case].append(one)
    for case, ones in apart.items():
        assert {one.verdict for one in ones} == ({"pass"} if "independent" in case else {"not available"})
    assert all(one.note == "pytorch does not offer weights" for one in findings if not one.available)


def test_a_backend_that_trains_nothing_is_not_available_and_not_red(tmp_path: Path) -> None:
    offers = {"tensorflow": Offer(), "pytorch": Offer(frozenset({"operators"}), ("float32",))}
    measured = Measured(offers, lambda *key: stored(written(tmp_path), *key))
    findings = list(trained.compared(measured, Problems(profile="full", plan=PLAN)).findings())
    assert [(one.case, one.tap) for one in findings] == list(trained.PLACES)
    assert {(one.verdict, one.note) for one in findings} == {("not available", "pytorch does not offer weights")}
