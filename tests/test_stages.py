"""Parameters of a request: which stage they go to, and which bound one word may move."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from evidence_notebooks import PASSES, write

from ptyint import cli, stages
from ptyint.errors import ConfigError
from ptyint.evidence.checks import Criterion
from ptyint.evidence.run import Job
from ptyint.stages.request import Request, Stage

BOUNDS = {
    "a": ("max_difference = 0.02\nnepochs = 3", Criterion("correlations differ", "<=", parameter="max_difference")),
    "b": ("max_difference = 0.02\nnepochs = 5", Criterion("scales differ", "<=", parameter="max_difference")),
    "c": ("max_difference = 0.5\nnepochs = 3", Criterion("objects differ", "<=", parameter="max_difference")),
    "d": (
        "max_difference = 0.02\nnepochs = 3",
        Criterion("shifts differ", "<=", unit="px", parameter="max_difference"),
    ),
}


@pytest.fixture(autouse=True)
def small_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of one notebook each, whose bounds are alike (a, b) or not (c: the value, d: the unit)."""

    def stage(name: str, parameters: str, criterion: Criterion) -> Stage:
        path = write(tmp_path / f"{name}.ipynb", PASSES, parameters=parameters)
        return Stage(name, name, lambda request: [Job(name, name, name, path, expects=(criterion,))])

    monkeypatch.setattr(stages, "STAGES", {name: stage(name, *of) for name, of in BOUNDS.items()})


def given(*names: str, **parameters: object) -> dict[str, dict[str, object]]:
    """Job to the parameters that it gets."""
    request = Request(names, parameters={name.replace("__", "."): value for name, value in parameters.items()})
    return {job.name: job.parameters for job in stages.jobs_of(request)}


def test_a_parameter_goes_to_every_stage_that_has_it_or_to_the_one_that_is_named() -> None:
    assert given("a", "c", nepochs=9) == {"a": {"nepochs": 9}, "c": {"nepochs": 9}}
    assert given("a", "c", c__nepochs=9) == {"a": {}, "c": {"nepochs": 9}}
    assert given("a", "c", nepochs=7, c__nepochs=9) == {"a": {"nepochs": 7}, "c": {"nepochs": 9}}


def test_one_word_moves_bounds_that_are_alike_and_no_others() -> None:
    assert given("a", "b", max_difference=0.1) == {name: {"max_difference": 0.1} for name in ("a", "b")}
    assert given("a", "c", c__max_difference=0.6) == {"a": {}, "c": {"max_difference": 0.6}}
    for other, now in (("c", 0.5), ("d", 0.02)):
        says = f"say which is meant: -p a.max_difference (now 0.02), -p {other}.max_difference (now {now})"
        with pytest.raises(ConfigError, match=re.escape(says)):
            given("a", other, max_difference=0.1)


def test_an_unknown_stage_or_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"-p b.nepochs: the stage 'b' is not among those that will run, \['a'\]"):
        given("a", b__nepochs=3)
    with pytest.raises(
        ConfigError, match=r"None of the notebooks of a has a parameter 'nepoch'. Did you mean 'nepochs'"
    ):
        given("a", "b", a__nepoch=3)
    with pytest.raises(ConfigError, match=r"-p a\.output_dir cannot be given to a run: --reports says where"):
        given("a", a__output_dir="x")


def test_the_command_line_refuses_it_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "a", "c", "-p", "max_difference", "0.1", "--reports", str(tmp_path / "reports")]
    assert cli.main(arguments) == 2
    assert "-p max_difference is a bound that differs from stage to stage" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
