"""Backends by entry point, the template of docs/backends.md, and the contract that any author can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint import backends
from ptyint.cli import main
from ptyint.errors import BackendUnavailableError, UnknownBackendError
from ptyint.parity import capabilities, conformance, ladder
from ptyint.parity.capabilities import Offer

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "backends.md"
ENTRY = "[ptyint.backends]\nmine = backend_template\nobject = backend_template:BACKEND\ntensorflow = backend_template\n"
ENTRY += "broken = backend_that_is_not_there\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes the template an installed package, when it is on the path."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "backend_template.py").write_text((DOCS / "backend_template.py").read_text())
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY)
    return folder


@pytest.fixture
def template(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(installed))
    return backends.load("mine")


def test_the_template_is_some_fifty_lines_and_the_page_names_it() -> None:
    assert len((DOCS / "backend_template.py").read_text().splitlines()) <= 60
    assert "(backend_template.py)" in PAGE.read_text() and "ptyint check-backend" in PAGE.read_text()


def test_the_page_names_every_capability_and_operator() -> None:
    from ptyint.backends.numpy import OPERATORS
    from ptyint.backends.protocol import CAPABILITIES

    for name in (*CAPABILITIES, *OPERATORS, *backends.MODULES):
        assert f"`{name}`" in PAGE.read_text(), name


def test_a_backend_is_found_by_its_entry_point(template: Any) -> None:
    assert template.name == "mine" and "mine" in backends.names()
    assert backends.load("object").name == "mine"


def test_a_name_of_the_table_stays_the_tables(template: Any) -> None:
    assert "tensorflow" not in backends.plugins()


def test_a_plug_in_that_cannot_be_imported_is_an_error_with_its_package(template: Any) -> None:
    with pytest.raises(BackendUnavailableError, match=r"is_not_there' cannot be imported.*pip install mine"):
        backends.load("broken")
    with pytest.raises(UnknownBackendError, match=r"Unknown backend 'mime'.*Did you mean 'mine'"):
        backends.load("mime")


def test_the_template_keeps_the_contract(template: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-backend", "mine"]) == 0
    out = capsys.readouterr().out
    assert "✓ operators: known" in out and "⊘ weights: trains from given weights" in out and "✗" not in out


def test_the_template_meets_the_referee(template: Any, tmp_path: Path) -> None:
    from ptyint.parity.problems import Problems
    from ptyint.parity.rungs import operator
    from ptyint.parity.rungs.rung import Bench, Measured

    offer = Offer(template.capabilities, template.precisions, dict.fromkeys(template.operators(), ""))
    arrays = {"mine": operator.measure(Bench(template, ("mine", "other"), Problems(), tmp_path)), "other": {}}
    found = operator.judge(Measured(dict.fromkeys(arrays, offer), lambda side, *_: arrays[side]), Problems())
    mine = [f for f in found if f.side == "mine" and f.against == "referee" and f.available]
    assert mine and all(f.holds for f in mine), [f.place for f in mine if not f.holds]


@pytest.mark.parametrize(
    "attribute, value, words",
    [
        ("name", "yours", "calls itself 'yours'"),
        ("capabilities", frozenset({"magic"}), r"capabilities are \['magic'\]"),
        ("precisions", ("float16",), "precisions are"),
        ("frameworks", ("jax",), "frameworks has"),
        ("describe", lambda: {"backend": "mine"}, "has no version"),
        ("operators", lambda precision: {"magic": abs}, r"unknown operators \['magic'\]"),
        ("operators", lambda precision: {"propagate": lambda x: x[0]}, r"gives complex128 .* not complex64"),
    ],
)
def test_a_broken_contract_is_named(
    template: Any, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, words: str
) -> None:
    monkeypatch.setattr(type(template), attribute, staticmethod(value) if callable(value) else value)
    notes = [check.note for check in conformance.check("mine") if check.verdict == "fail"]
    assert len(notes) >= 1
    import re

    assert any(re.search(words, note) for note in notes), notes
    assert main(["check-backend", "mine"]) == 1


def test_a_broken_contract_is_named_without_asserts_too(installed: Path) -> None:
    """``python -O`` leaves assertions out, but not those of a suite."""
    code = "import sys\nfrom ptyint import backends\nfrom ptyint.cli import main\n"
    code += "type(backends.load('mine')).name = 'yours'\nsys.exit(main(['check-backend', 'mine']))"
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-O", "-c", code], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "registered as: it calls itself 'yours', and is registered as 'mine'\n" in done.stdout


def test_a_suite_that_cannot_be_run_is_no_kept_contract(
    template: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "shipped", lambda kind: tmp_path)
    assert main(["check-backend", "mine"]) == 2
    assert "backend_conformance.py cannot be run" in capsys.readouterr().err
    (tmp_path / "backend_conformance.py").write_text("def test_it():\n    raise KeyboardInterrupt\n")
    monkeypatch.setitem(sys.modules, "backend_conformance", conformance)  # afterwards it is what it was
    del sys.modules["backend_conformance"]
    assert main(["check-backend", "mine"]) == 130


def test_the_users_own_pytest_changes_nothing(template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing --junitxml=nowhere")
    assert main(["check-backend", "mine"]) == 0 and len(conformance.check("mine")) == 9


def test_a_backend_without_weights_cannot_be_trained_by_the_dispatcher(template: Any) -> None:
    from ptyint import dispatcher
    from ptyint.config import ModelConfig, TrainingConfig
    from ptyint.scans.fixtures import load_fixture

    config = TrainingConfig(ModelConfig(n_filters_scale=1), backend="mine")
    with pytest.raises(BackendUnavailableError, match=r"'mine' takes and gives no canonical weights"):
        dispatcher.train(load_fixture("tiny-64"), config)


def test_what_a_backend_offers_survives_its_process(template: Any, tmp_path: Path) -> None:
    from ptyint.parity.rungs.rung import stored
    from ptyint.parity.worker import OFFER, write

    write(tmp_path, "mine", OFFER, capabilities.written(template))
    offer = Offer.of(stored(tmp_path, "mine", OFFER))
    assert offer.capabilities == template.capabilities and not offer.is_full
    assert offer.called("propagate").startswith("Centred orthonormal FFT")
    assert Offer.of(stored(tmp_path, "crashed", OFFER)).is_full  # asked for everything, and found wanting
    assert capabilities.lacking({"mine": offer, "other": Offer()}, "trace") == "mine does not offer trace"


def test_an_unknown_backend_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackendError, match="Unknown backend 'nonsense'"):
        ladder.Climb(tmp_path, "tensorflow", "nonsense")


def test_a_pair_of_templates_on_the_ladder(installed: Path, tmp_path: Path) -> None:
    """Two backends with some operators: the rest is not available, and nothing passes for parity."""
    second = (installed / "backend_template.py").read_text().replace('"mine"', '"yours"').replace("0.01", "0.02")
    (installed / "second_template.py").write_text(second)
    entries = installed / "mine-1.0.dist-info" / "entry_points.txt"
    entries.write_text(ENTRY + "yours = second_template\n")
    code = "import sys\nfrom ptyint.parity.ladder import Climb\n"
    code += "with Climb(sys.argv[1], 'mine', 'yours') as climb:\n    climb.finish()"
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code, tmp_path], env=env, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-2000:]
    from ptyint.parity.results import Ladder

    ladder = Ladder.load(tmp_path / "ladder.json")
    assert set(ladder.findings.query("verdict == 'fail'")["tap"]) == {"poisson_nll"}
    assert ladder.divergence is not None and ladder.divergence.finding.against == "mine"
    assert ladder.rung("operator").verdict == "fail" and ladder.rung("gradient").verdict == "not available"
    with np.load(next((tmp_path / "reproductions").glob("*poisson*.npz"))) as arrays:
        assert {"argument_0", "referee", "mine", "yours"} <= set(arrays)
    (line,) = json.loads((tmp_path / "disagreements.json").read_text())
    assert (line["tap"], line["mechanism"], line["where"]) == ("poisson_nll", "", ""), "PtychoPINN's are not theirs"


@pytest.mark.slow
def test_a_keras_json_of_the_users_changes_nothing(tmp_path: Path) -> None:
    """What other work left in it: another order of the axes, precision, epsilon and backend."""
    settings = {"image_data_format": "channels_first", "backend": "torch", "floatx": "float64", "epsilon": 1e-3}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = "import keras, sys\nfrom ptyint.cli import main\n"
    code += "print(keras.config.floatx(), keras.config.epsilon())\nsys.exit(main(['check-backend', 'tensorflow']))"
    env = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "✗" not in done.stdout, done.stdout[-2000:]
    assert done.stdout.startswith("float64 0.001\n")
