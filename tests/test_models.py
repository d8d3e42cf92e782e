"""Any pair of models: names, weights and layouts, and where faults are found. Each pair takes two processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_pairs
import numpy as np
import pytest

from ptyint.backends.models.rules import KINDS, Layer, canonical, kind_of, native, propose
from ptyint.errors import ComparisonError, ConfigError
from ptyint.parity import worker
from ptyint.parity.models import ModelPair
from ptyint.parity.results import Ladder

FILE = Path(model_pairs.__file__)


def batch(which: str, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    if which == "transformer":
        return rng.integers(0, 11, (4, 5)), rng.normal(size=(4, 3))
    if which == "classifier":
        return rng.normal(size=(4, 8, 10, 3)), rng.normal(size=(4, 4))
    return rng.normal(size=(3, 14, 18, 2)), rng.random((3, 14, 18, 3))


def pair_of(which: str, seed: int = 0, **settings: Any) -> ModelPair:
    return ModelPair(f"{FILE}:keras_{which}", f"{FILE}:torch_{which}", *batch(which, seed), **settings)


def verdicts(ladder: Ladder) -> dict[str, str]:
    return {name: ladder.rung(name).verdict for name in ladder.rungs}


# --- rules, without a framework ---


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        ("convolution", {"weight": (5, 4, 3, 2), "bias": (5,)}),
        ("depthwise convolution", {"weight": (6, 1, 3, 2), "bias": (6,)}),
        ("transposed convolution", {"weight": (4, 5, 3, 2)}),
        ("dense", {"weight": (5, 4), "bias": (5,)}),
        ("attention", {"in_proj_weight": (24, 8), "in_proj_bias": (24,), "out_proj.weight": (8, 8)}),
        ("attention", {"query/kernel": (8, 2, 4), "query/bias": (2, 4), "attention_output/kernel": (2, 4, 8)}),
        ("batch normalisation", {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,)}),
        ("Unheard", {"weight 1": (4, 3)}),
    ],
)  # fmt: skip
def test_weights_come_back_as_they_were(kind: str, arrays: dict[str, tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    own = {name: rng.normal(size=shape) for name, shape in arrays.items()}
    back = native(kind, canonical(kind, own), {name: np.zeros(shape) for name, shape in arrays.items()})
    assert all(np.array_equal(back[name], own[name]) for name in own) and list(back) == list(own)


def test_a_depthwise_kernel_of_keras_is_a_grouped_one() -> None:
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (rows, columns, in, several)
    theirs = native(
        "depthwise convolution",
        canonical("depthwise convolution", {"kernel": kernel}),
        {"weight": np.zeros((20, 1, 2, 3))},
    )
    assert theirs["weight"][2 * 5 + 3, 0, 1, 2] == kernel[1, 2, 2, 3]


def test_kinds_are_told_by_class_or_base() -> None:
    class Conv2d: ...

    class Mine(Conv2d): ...

    assert kind_of(Mine) == "convolution" and kind_of(type("FiLM", (), {})) == "FiLM" and "FiLM" not in KINDS


def side(*layers: Layer) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers}


def dense(name: str, *shape: int) -> Layer:
    return Layer(name, "dense", {"kernel": shape, "bias": shape[1:]})


def test_names_are_proposed_by_order_and_shape_and_may_cross() -> None:
    theirs = side(dense("a", 3, 4), Layer("relu", "activation"), dense("b", 4, 5), dense("c", 5, 6))
    ours = side(dense("0", 3, 4), Layer("1", "activation"), dense("2", 5, 6), dense("3", 4, 5))
    assert propose(theirs, ours, {}) == {"a": "0", "relu": "1", "b": "3", "c": "2"}


def test_what_has_no_counterpart_is_named_with_what_to_say() -> None:
    theirs, ours = side(dense("a", 3, 4), dense("b", 4, 5)), side(dense("x", 3, 4), dense("y", 4, 6))
    with pytest.raises(ComparisonError, match=r"'b' \(dense, kernel \(4, 5\).*'y' \(dense.*names=\{'b': 'y'\}.*None"):
        propose(theirs, ours, {})
    with pytest.raises(ComparisonError, match=r"'b' does not fit 'y': kernel \(4, 5\), not \(4, 6\)"):
        propose(theirs, ours, {"b": "y"})
    with pytest.raises(ComparisonError, match=r"no layer is named 'bb'.*'b'"):
        propose(theirs, ours, {"bb": "y"})
    assert propose(theirs, ours, {"b": None, "y": None}) == {"a": "x"}
    alike = (side(dense("p", 3, 3), dense("q", 3, 3)), side(dense("r", 3, 3), dense("s", 3, 3)))
    assert propose(*alike, {"p": "s"}) == {"p": "s", "q": "r"}


# --- pairs ---


PROCESSORS = [
    {"OMP_NUM_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "2"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Prescott"},
    {"TF_ENABLE_ONEDNN_OPTS": "0"},
]


@pytest.fixture(scope="module")
def unet() -> Iterator[ModelPair]:
    with pair_of("unet") as pair:
        yield pair


@pytest.fixture(scope="module")
def transformer() -> Iterator[ModelPair]:
    with pair_of("transformer") as pair:
        yield pair


@pytest.mark.slow
@pytest.mark.parametrize("fault", model_pairs.UNET_FAULTS)
def test_each_fault_of_the_unet_is_found_where_it_is(unet: ModelPair, fault: str) -> None:
    found_first(unet, "unet", fault, model_pairs.UNET_FAULTS[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", model_pairs.TRANSFORMER_FAULTS)
def test_each_fault_of_the_transformer_is_found_where_it_is(transformer: ModelPair, fault: str) -> None:
    found_first(transformer, "transformer", fault, model_pairs.TRANSFORMER_FAULTS[fault])


def found_first(pair: ModelPair, which: str, fault: str, expected: tuple[str, str, str]) -> None:
    with pair.against(f"{FILE}:{which}_{fault.replace(' ', '_')}") as port:
        divergence = port.climb().divergence
    assert divergence is not None
    assert (divergence.finding.rung, divergence.finding.tap, divergence.finding.operand) == expected


@pytest.mark.slow
def test_a_port_without_fault_is_green_in_both_modes_and_precisions(transformer: ModelPair, unet: ModelPair) -> None:
    for pair in (transformer, unet):
        ladder = pair.climb()
        assert set(verdicts(ladder).values()) == {"pass"}, ladder.divergence
        findings = ladder.findings
        assert {*findings["case"]} == {"evaluation", "training", ""} and {*findings["precision"]} == {
            "float32",
            "float64",
        }
        assert ladder.divergence is None and pair.red_taps == []
        double = findings[(findings["rung"] == "forward") & (findings["precision"] == "float64")]
        assert double["error"].max() < 1e-13


def test_flattened_pixels_own_layers_and_missing_optimisers(tmp_path: Path) -> None:
    with pair_of("classifier") as pair:
        assert pair.names["hidden"] == "5" and pair.names["scale"] == "7"
        ladder = pair.climb()
        assert verdicts(ladder) == {"forward": "pass", "loss": "pass", "gradient": "pass", "step": "not available"}
        assert Ladder.load(ladder.save(tmp_path / "ladder.json")).findings.shape == ladder.findings.shape
        with pair.against(f"{FILE}:classifier_width") as port, pytest.raises(ComparisonError, match=r"'scale' .Scale"):
            port.climb()


def test_one_fault_in_single_precision_alone(unet: ModelPair) -> None:
    with unet.against(f"{FILE}:unet_epsilon", precisions=("float32",)) as port:
        ladder = port.climb()
    first = ladder.divergence
    assert first is not None and (first.finding.tap, first.finding.operand) == ("enter_norm", "")
    assert first.finding.ratio > 10 and len(first.consequences) > 10 and "enter_norm" in first.sentence
    assert port.red_taps and port.red_taps[0].candidate.shape == port.red_taps[0].reference.shape


@pytest.mark.slow
@pytest.mark.parametrize("environment", PROCESSORS)
@pytest.mark.parametrize("which", ["unet", "transformer"])
def test_rounding_of_other_processors_is_no_fault(
    which: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setitem(worker.ONE_THREAD, name, value)
    with pair_of(which, 1) as pair:
        ladder = pair.climb()
    assert set(verdicts(ladder).values()) == {"pass"}, ladder.divergence


def test_a_factory_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    for name in ("nothing", f"{tmp_path}/nothing.py:f"):
        with pytest.raises(ConfigError, match="names no factory"):
            ModelPair(name, name, np.zeros(1))


def test_a_model_that_fails_says_which_side_and_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def model():\n    raise ValueError('no such thing')\n")
    with ModelPair(f"{tmp_path}/broken.py:model", f"{FILE}:torch_unet", np.zeros((1, 2))) as pair:
        with pytest.raises(ComparisonError, match=r"model \(framework\): ValueError: no such thing"):
            pair.climb()
