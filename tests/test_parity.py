"""The judge of the ladder, on arrays made here: what it must call equal, different, a culprit, a consequence."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint import backends
from ptyint.backends import numpy_adjoints, numpy_network
from ptyint.backends.weights import initial_weights, trainable_names, weight_shapes
from ptyint.config import TrainingConfig
from ptyint.errors import ComparisonError, ConfigError
from ptyint.parity import operands, problems
from ptyint.parity.capabilities import Offer
from ptyint.parity.compare import Finding, Place, difference
from ptyint.parity.configurations import CASES, PROFILES, SECOND, inputs_of, trainings
from ptyint.parity.equivalence import independent, paired
from ptyint.parity.problems import Budget, Problems
from ptyint.parity.results import Ladder, criteria
from ptyint.parity.rungs import RUNGS, contract, cost, training
from ptyint.parity.rungs import step as stepping
from ptyint.parity.rungs.forward import allowed, moves, refereed
from ptyint.parity.rungs.gradient import cancelling
from ptyint.parity.rungs.rung import Bench, Measured
from ptyint.parity.tolerances import PRECISIONS, TOLERANCES, ULPS, Tolerance
from ptyint.scans import forward

# --- what rounding makes of a tap ---


@pytest.mark.parametrize(
    ("case", "seed", "key"),
    [("pairs 6", 3, "gradient/amplitude.outer.conv2.kernel"), ("pairs 9", 0, "gradient/exit_wave")],
)
def test_a_tap_that_amplifies_rounding_is_allowed_what_moves_of_the_weights_do_there(
    case: str, seed: int, key: str
) -> None:
    """Of these networks taps were red without a fault, at up to 1.7 times the fixed tolerance."""
    batch, weights, good = inputs_of(CASES[case], "float64", seed)
    right = numpy_network.BACKEND.build(CASES[case].config, weights, good, "float64").trace(batch)[key]
    noise = np.random.default_rng(0).normal(size=right.shape)
    noise *= np.finfo(np.float64).eps * moves(case, seed)[key] / np.linalg.norm(noise)
    rung, _, tap = key.rpartition("/")
    where = Place(rung or "forward", case, "float64", tap)
    fixed = TOLERANCES[where.rung].at("float64") * np.linalg.norm(right) / np.linalg.norm(noise)
    assert fixed < ULPS  # it does amplify
    for times, holds in ((0.9 * fixed, True), (ULPS - 1, True), (ULPS + 1, False)):
        sides = ({key: right + times * noise}, {key: right})
        assert allowed(where, ("pytorch", "tensorflow"), sides, (key, key), None, seed).holds is holds


@pytest.mark.parametrize("seed", [0, 6, 100, 2952])
def test_networks_see_an_object_that_is_not_dark(seed: int) -> None:
    """With a ReLU's amplitude, biases or none: one lit pixel has no phase, and of none there is no gradient at all."""
    cases = [CASES[name] for name in PROFILES["quick"]]
    relu = [one for one in cases if one.config.model.amp_activation == "relu" and not one.config.model.probe_big]
    assert {one.fresh for one in relu} == {True, False}
    for case in relu:
        batch, weights, good = inputs_of(case, "float64", seed)
        patches = numpy_network.BACKEND.build(case.config, weights, good, "float64").predict(batch)
        quarter = case.config.model.N // 4
        assert (abs(patches[..., quarter:-quarter, quarter:-quarter]) > 0).mean() > 0.5


@pytest.mark.parametrize("case", ["gridsize 1", "fresh", "pairs 2", "pairs 9", "pairs 13"])
def test_moves_of_the_weights_change_sides_of_no_kink(case: str) -> None:
    """Dark and equal pixels are full of ties: a change of sides would be a change of 1e9 epsilons."""
    batch, weights, good = inputs_of(CASES[case], "float64", 3)
    right = numpy_network.BACKEND.build(CASES[case].config, weights, good, "float64").trace(batch)
    relative = {key: moves(case, 3)[key] / (np.linalg.norm(array) or 1) for key, array in right.items()}
    assert max(relative.values()) < 1e5


# --- arrays ---


def test_equal_arrays_do_not_differ() -> None:
    found = difference(np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3))
    assert (found.norm, found.largest, found.mismatch) == (0.0, 0.0, "")


def test_the_norm_is_relative_and_the_worst_element_is_named() -> None:
    reference = np.full((4, 5), 2.0 + 1j)
    candidate = reference.copy()
    candidate[3, 1] += 0.5
    found = difference(candidate, reference)
    assert found.where == (3, 1)
    assert found.norm == pytest.approx(0.5 / np.sqrt(20 * 5))
    assert found.largest == pytest.approx(0.5 / np.sqrt(5))


@pytest.mark.parametrize(
    "candidate, words",
    [
        (np.ones((2, 3), np.float32), "dtype float32, not float64"),
        (np.ones((3, 2)), "shape"),
        (np.ones((2, 3), complex), "dtype complex128"),
        (np.full((2, 3), np.nan), "6 of 6 values of the candidate are NaN"),
        (np.full((2, 3), np.inf), "infinite"),
    ],
)
def test_dtype_shape_and_nan_come_first(candidate: Any, words: str) -> None:
    found = difference(candidate, np.ones((2, 3)))
    assert words in found.mismatch and found.norm == np.inf


def test_nan_on_both_sides_is_no_agreement() -> None:
    both = np.array([1.0, np.nan])
    assert "NaN" in difference(both, both).mismatch


def test_a_zero_reference_allows_nothing_but_zero() -> None:
    zero = np.zeros(3)
    assert difference(zero, zero).norm == 0
    assert difference(np.full(3, 1e-100), zero).norm == np.inf


def test_a_cancelling_sum_is_measured_by_its_terms() -> None:
    assert difference(np.array([2e-9]), np.array([1e-9]), scale=1.0).norm == pytest.approx(1e-9)
    assert difference(np.array([4.0]), np.array([2.0]), scale=1.0).norm == 1.0  # the larger of both


def test_one_bad_element_among_many_counts() -> None:
    """Small in the norm, large as an element."""
    tolerance = Tolerance(100, "for this test")
    reference = np.ones((1000, 1000))
    candidate = reference.copy()
    candidate[7, 7] += 2000 * np.finfo(float).eps
    found = difference(candidate, reference)
    assert found.norm < tolerance.at("float64") and found.ratio(tolerance, "float64") == pytest.approx(2.0)


def test_every_tolerance_says_where_it_comes_from() -> None:
    for one in TOLERANCES.values():
        assert len(one.derivation) > 40
        assert one.at("float32") / one.at("float64") == pytest.approx(2.0**29)


# --- equivalence ---


def test_close_and_quiet_is_equivalent() -> None:
    found = paired([0.001, -0.002, 0.0005, 0.001, -0.001], 0.01)
    assert found.equivalent and found.decided and 0 < found.extent < 1


def test_too_few_or_too_noisy_is_undecided_and_never_equivalent() -> None:
    for values in ([], [0.0], [0.05, -0.05], [0.02, -0.03, 0.01]):
        found = paired(values, 0.01)
        assert not found.equivalent and not found.decided and found.extent <= 1


def test_far_is_different() -> None:
    found = paired([0.101, 0.102, 0.1005, 0.099], 0.01)
    assert found.different and found.decided and found.extent > 1
    assert np.isnan(paired([0.1, np.nan, 0.1], 0.01).extent) or not paired([0.1, np.nan, 0.1], 0.01).equivalent


def test_the_interval_is_students() -> None:
    """n = 5: t(0.95; 4) = 2.1318."""
    found = paired([1.0, 2.0, 3.0, 4.0, 5.0], 10)
    assert (found.mean, found.high) == (3.0, pytest.approx(3 + 2.1318468 * np.sqrt(2.5 / 5)))


def test_independent_samples_are_welchs() -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 6), rng.normal(0, 3, 9)
    interval = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    found = independent(a, b, 1.0)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_equal_constant_samples_are_equivalent() -> None:
    assert independent([1.0, 1.0], [1.0, 1.0], 0.1).equivalent


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_must_be_positive(margin: float) -> None:
    with pytest.raises(ConfigError, match="margin"):
        paired([1.0, 2.0], margin)


def test_the_test_keeps_its_level() -> None:
    """At a true difference of exactly the margin, equivalence is found in about one case of twenty."""
    rng = np.random.default_rng(2)
    found = sum(paired(rng.normal(1.0, 0.3, 6), 1.0).equivalent for _ in range(2000))
    assert 0.03 < found / 2000 < 0.07


# --- the referee of the whole network ---


@pytest.fixture(scope="module", params=["gridsize 1", "pairs 4"])
def network(request: pytest.FixtureRequest) -> Any:
    case = CASES[request.param]
    return case.config.model, *inputs_of(case, "float64")


def test_the_physics_gradient_is_that_of_finite_differences(network: Any) -> None:
    model, batch, weights, good = network
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    patches = numpy_network.forward(weights, batch, model, good)["object_patches"]
    gradients = numpy_network.physics_gradients(weights, patches, batch, model, good)
    rng, size = np.random.default_rng(3), 1e-5
    for name, gradient in gradients.items():
        move = rng.normal(size=gradient.shape) + (
            1j * rng.normal(size=gradient.shape) if name == "object_patches" else 0
        )
        losses = []
        for sign in (1, -1):
            moved = {key: w + sign * size * move if key == name else w for key, w in weights.items()}
            at = patches + sign * size * move if name == "object_patches" else patches
            losses.append(float(numpy_network.forward(moved, batch, model, good, at)["loss"]))
        expected = float((np.conj(gradient) * move).real.sum())
        assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_the_convolution_is_scipys() -> None:
    from scipy.signal import correlate2d

    rng = np.random.default_rng(4)
    x, kernel, bias = rng.normal(size=(2, 3, 8, 9)), rng.normal(size=(3, 3, 3, 5)), rng.normal(size=5)
    found = numpy_adjoints.convolve(*(numpy_adjoints.Node(array) for array in (x, kernel, bias))).value
    expected = sum(correlate2d(x[1, i], kernel[:, :, i, 4], mode="same") for i in range(3)) + bias[4]
    np.testing.assert_allclose(found[1, 4], expected, rtol=1e-12)


def test_adam_takes_its_first_step_against_the_sign() -> None:
    config = TrainingConfig()
    weights, gradient = {"w": np.array([1.0, -2.0]), "v": np.ones(1)}, {"w": np.array([3.0, -1e-3])}
    after = numpy_network.Adam(config).step(weights, gradient, 0.1)
    np.testing.assert_allclose(after["w"], [0.9, -1.9], rtol=1e-4)
    assert after["v"] == 1.0


def test_adam_remembers_what_it_saw_while_the_rate_was_zero() -> None:
    """After k equal gradients and one of the other sign its mean is their mean, by the formula of the paper."""
    config, adam = TrainingConfig(), numpy_network.Adam(TrainingConfig())
    start = {"w": np.zeros(1)}
    for _ in range(9):
        assert adam.step(start, {"w": np.ones(1)}, 0.0)["w"] == 0
    moved = adam.step(start, {"w": -np.ones(1)}, 0.1)["w"]
    mean = (config.adam_beta1 - config.adam_beta1**10 - (1 - config.adam_beta1)) / (1 - config.adam_beta1**10)
    np.testing.assert_allclose(moved, -0.1 * mean / (1 + config.adam_epsilon), rtol=1e-12)


def test_every_case_computes_something_of_its_own() -> None:
    losses = [float(refereed(name)["loss"]) for name in PROFILES["quick"]]
    assert len({round(loss, 6) for loss in losses}) == len(losses)


def test_operands_reach_the_edges() -> None:
    given = operands.of_the_model()
    expected = operands.expected(given)
    assert {name for name, _ in given} == {"normalise_probe", *OPERATORS_OF_THE_MODEL}
    assert all(np.isfinite(array).all() for array in expected.values())
    assert (expected["cut_patches", "beyond the region"] == 0).any()
    assert (expected["expected_intensity", "dark"] < 1e-15).all()
    impulse = expected["propagate", "impulse at the centre"]
    assert np.ptp(abs(impulse)) < 1e-15 and forward.propagate(np.zeros((4, 4))).dtype == np.complex128


OPERATORS_OF_THE_MODEL = (
    "probe_mask", "downsample", "upsample", "sigmoid", "swish", "softplus", "relu", "phase_head", "pad_patch",
    "translate", "merge_patches", "cut_patches", "illuminate", "propagate", "expected_intensity", "poisson_nll",
)  # fmt: skip


def test_a_move_by_one_ulp_moves_every_weight_but_zeros() -> None:
    weights = {"a": np.array([1.0, -3.0, 0.0], np.float32), "b": np.full((50, 50), 0.1)}
    moved = problems.moved_by_one_ulp(weights, 1)
    assert moved["a"].dtype == np.float32 and moved["a"][2] == 0 and (moved["a"][:2] != weights["a"][:2]).all()
    assert 0.3 < (moved["b"] > 0.1).mean() < 0.7
    assert abs(moved["b"] - 0.1).max() < 2e-17
    assert (problems.moved_by_one_ulp(weights, 2)["b"] != moved["b"]).any()


# --- findings and the ladder ---


PAIR = ("tensorflow", "pytorch")


def found(rung: str, ratio: float, tap: str = "tap", **fields: Any) -> Finding:
    one = Finding(rung, "case", "float64", tap, "", None, "pytorch", "tensorflow", 1e-14 * ratio, 1e-14, ratio)
    return replace(one, **fields)


def ladder(*findings: Finding) -> Ladder:
    return Ladder("tensorflow", "pytorch", "quick", findings)


def verdicts(one: Ladder) -> dict[str, str]:
    return {check.name: check.verdict for check in one.checks()}


def test_what_was_not_measured_is_not_run() -> None:
    empty = ladder()
    assert [check.name for check in empty.checks()] == [one.name for one in criteria("quick")]
    assert set(verdicts(empty).values()) == {"not run"} and empty.divergence is None
    assert {empty.rung(rung).verdict for rung in empty.rungs} == {"not run"}


@pytest.mark.parametrize("ratio", [np.nan, np.inf, 1.01])
def test_beyond_the_tolerance_is_a_failure(ratio: float) -> None:
    one = ladder(found("forward", 0.5), found("forward", ratio))
    assert verdicts(one)["forward, float64: largest error over its tolerance"] == "fail"
    assert one.divergence is not None and one.rung("forward").verdict == "fail"


def test_an_error_that_does_not_shrink_with_the_precision_is_a_bug() -> None:
    """Even where both tolerances hold."""
    pair = [found("forward", 0.1, precision=p, error=1e-15) for p in ("float32", "float64")]
    name = "forward, error in float32 over that in float64"
    assert verdicts(ladder(*pair))[name] == "fail"
    assert verdicts(ladder(replace(pair[0], error=1e-7), pair[1]))[name] == "pass"


def test_the_first_red_rung_is_named_and_the_tap_that_errs_by_itself() -> None:
    one = ladder(
        found("gradient", 5.0, "later rung"),
        found("forward", 9.0, "follower", local=0.1),
        found("forward", 3.0, "culprit", local=7.0, note="shape (1,), not (2,)"),
        found("forward", 3.0, "another", local=2.0),
        found("operator", 0.9),
    )
    divergence = one.divergence
    assert divergence is not None
    assert divergence.finding.tap == "culprit" and [f.tap for f in divergence.others] == ["another"]
    assert [f.tap for f in divergence.consequences] == ["follower"]
    assert "rung 2 (forward) at culprit" in divergence.sentence and "Shape (1,)" in divergence.sentence
    assert "1 later taps" in divergence.sentence


def test_the_referee_says_which_side_is_off() -> None:
    red = found("forward", 9.0)
    right = replace(red, against="referee", ratio=0.1)
    one = ladder(red, replace(right, side="tensorflow"), replace(right, side="pytorch", ratio=8.0))
    assert one.divergence is not None and one.divergence.side == "pytorch"
    both = ladder(red, replace(right, side="tensorflow", ratio=9.0), replace(right, side="pytorch", ratio=8.0))
    assert both.divergence is not None and both.divergence.side == ""


def test_the_full_profile_asks_for_trained_reconstructions() -> None:
    names = [one.name for one in criteria("full")]
    trained = [name for name in names if name.startswith("trained")]
    assert len(trained) == 22 and set([one.name for one in criteria("quick")]) == set(names) - set(trained)
    one = replace(ladder(), profile="full")
    assert verdicts(one)[trained[0]] == "not run"
    case, tap = RUNGS["trained"].places[0]
    undecided = replace(found("trained", 0.0, tap), case=case, decided=False)
    assert verdicts(replace(one, rows=(undecided,)))[trained[0]] == "underpowered"


def test_a_ladder_comes_back_from_its_file(tmp_path: Path) -> None:
    one = replace(ladder(found("forward", np.inf, local=np.nan), found("loss", 0.2)), numbers={"a": np.nan})
    back = Ladder.load(one.save(tmp_path / "ladder.json"))
    assert repr(back) == repr(one)
    (tmp_path / "ladder.json").write_text("{}")
    with pytest.raises(ComparisonError, match=r"of version 1, and this release reads version 2.*Run the ladder again"):
        Ladder.load(tmp_path / "ladder.json")
    (tmp_path / "ladder.json").write_text('{"version": 2}')
    with pytest.raises(ComparisonError, match="'findings'"):
        Ladder.load(tmp_path / "ladder.json")


def test_findings_are_a_data_frame_whose_keys_are_columns() -> None:
    rows = [found("forward", ratio, "region", precision=precision) for precision in PRECISIONS for ratio in (0.5, 2.0)]
    rows.append(found("step", 0.1, "drift", step=10))
    frame = ladder(*rows).findings
    assert list(frame.query("rung == 'forward' and precision == 'float32'")["verdict"]) == ["pass", "fail"]
    assert frame.query("step == 10")["tap"].item() == "drift" and frame["step"].isna().sum() == 4
    assert frame.pivot_table(index="tap", columns="precision", values="ratio", aggfunc="max").shape == (2, 2)
    assert frame.sort_values("ratio")["ratio"].iloc[-1] == 2.0
    assert ladder(*rows).rung("step").findings["place"].item() == "drift, after 10, case, float64"


def test_a_ladder_displays_itself() -> None:
    html = ladder(found("forward", 3.0))._repr_mimebundle_()["text/html"]
    assert "✗ fail" in html and "○ not run" in html


# --- the judge, rung by rung ---


FULL = Offer()


def judged(
    rung: str, captures: dict[str, dict[str, Any]], case: str = "gridsize 2", offer: Offer = FULL
) -> list[Finding]:
    """What a rung finds in double precision, of arrays by capture and side."""
    measured = Measured(dict.fromkeys(PAIR, offer), lambda side, capture, part: captures[capture].get(side, {}))
    return RUNGS[rung].judge(measured, Problems(cases=(case,), precisions=("float64",)))


def of(sides: dict[str, Any], capture: str) -> Measured:
    """One capture of some sides."""
    return Measured(dict.fromkeys(sides, Offer()), lambda side, name, part: sides[side] if name == capture else {})


def taps_of_the_referee(case: str) -> dict[str, Any]:
    return {**refereed(case), "predicted": refereed(case)["object_patches"]}


def forward_findings(case: str, altered: dict[str, Any], given: dict[str, Any] | None = None) -> list[Finding]:
    arrays = {"tensorflow": taps_of_the_referee(case), "pytorch": {**taps_of_the_referee(case), **altered}}
    findings = judged("forward", {"trace": arrays, "injected": {"pytorch": given or {}}}, case)
    return [f for f in findings if "predicted" not in f.tap]


def test_equal_traces_hold() -> None:
    findings = forward_findings("gridsize 2", {})
    assert findings and all(f.holds for f in findings)


def test_a_missing_tap_is_red_and_says_why() -> None:
    boom = {"error/gridsize 2/float64": np.array("Boom: no")}
    captures = {"trace": {"tensorflow": taps_of_the_referee("gridsize 2"), "pytorch": boom}, "injected": {}}
    for rung in ("forward", "loss"):
        red = [f for f in judged(rung, captures) if f.against == "tensorflow"]
        assert {f.note for f in red} == {"Boom: no"} and not any(f.holds for f in red)


@pytest.mark.parametrize("capabilities", [{"operators", "weights", "trace"}, {"trace"}])
def test_a_tap_or_gradient_that_one_side_leaves_out_is_red(capabilities: set[str]) -> None:
    """Also of backends that are traced and cannot be given weights: what they do not show is not passed over."""
    taps = taps_of_the_referee("gridsize 2")
    taps |= {f"gradient/{name}": array for name, array in taps.items()}
    for rung, tap, key in (("forward", "region", "region"), ("gradient", "region", "gradient/region")):
        less = {name: array for name, array in taps.items() if name != key}
        captures = {"trace": {"tensorflow": taps, "pytorch": less}, "injected": {}, "aligned": {}}
        found = judged(rung, captures, offer=Offer(frozenset(capabilities)))
        red = {(one.tap, one.side, one.against) for one in found if one.red}
        assert (tap, "pytorch", "tensorflow") in red


def test_reference_injection_tells_culprit_from_consequence() -> None:
    taps = taps_of_the_referee("gridsize 2")
    altered = {name: taps[name] * 1.001 for name in ("region", "object_patches", "exit_wave")}
    given = {**taps, "region": altered["region"]}
    red = [f for f in forward_findings("gridsize 2", altered, given) if not f.holds and f.against == "tensorflow"]
    assert [(f.tap, f.is_consequence) for f in red] == [
        ("region", False), ("object_patches", True), ("exit_wave", True)
    ]  # fmt: skip


def test_a_tiny_relative_error_in_double_precision_is_seen() -> None:
    taps = taps_of_the_referee("gridsize 1")
    red = [f for f in forward_findings("gridsize 1", {"far_field": taps["far_field"] * (1 + 1e-12)}) if not f.holds]
    assert {f.tap for f in red} == {"far_field"} and {f.side for f in red} == {"pytorch"}


def test_a_backend_in_the_wrong_process_breaks_the_contract() -> None:
    facts = {key: np.array(value) for key, value in contract.bookkeeping().items()}
    sides = {"tensorflow": facts, "pytorch": {**facts, "scan/": np.array("another")}}
    findings = list(contract.judge(of(sides, "contract"), Problems()))
    red = {(f.side, f.tap) for f in findings if not f.holds}
    assert ("pytorch", "scan") in red and ("tensorflow", "scan") not in red
    assert ("tensorflow", "backend that ran") in red  # bookkeeping alone does not say


def trained(backend: str, epochs: float = 0.0, first: float = 0.0, by_hand: float = 0.0) -> dict[str, Any]:
    """What a short training leaves; the epochs' losses, the first batch's, and those by hand moved by so much."""
    losses = np.array([3.0 * (1 + epochs), 2.5])
    arrays: dict[str, Any] = {}
    for name, one in trainings("quick").items():
        config = one.config()
        start = initial_weights(config.model, one.scan().probe, config.seed)
        moving = trainable_names(config, list(start))
        weights = {key: w + (key in moving) for key, w in start.items()}
        outcome = {
            "backend": np.array(backend),
            "losses": losses,
            "losses again": losses,
            "losses by hand": losses * (1 + by_hand),
            "first loss": np.array([3.1 * (1 + first)]),
            "rates": np.array([1e-3, 1e-3 - 1e-4 * (config.scheduler == "ReduceLROnPlateau")]),
            "patches": np.ones(4, np.complex64),
            "patches, one by one": np.ones(4, np.complex64),
            **{f"{what}/{key}": w for what in ("weights", "weights by hand") for key, w in weights.items()},
        }
        arrays |= {f"{name}/{key}": value for key, value in outcome.items()}
    return arrays


@pytest.mark.parametrize(
    ("candidate", "red"),
    [
        ({}, set()),
        ({"epochs": 2e-4}, set()),  # an activation over the kink of its ReLU, in Adam's first step
        ({"first": 2e-4}, {"first loss"}),
        ({"by_hand": 2e-4}, {"losses by hand"}),
    ],
)
def test_losses_of_two_backends_are_compared_before_the_first_step(candidate: dict[str, float], red: set[str]) -> None:
    sides = {"tensorflow": trained("tensorflow"), "pytorch": trained("pytorch", **candidate)}
    findings = list(training.judge(of(sides, "training"), Problems()))
    assert {one.tap for one in findings if not one.holds} - {"the best epoch is not the last"} == red


def stepped(rounding: float, epsilon: float = 0.0, **settings: float) -> dict[str, Any]:
    """Steps of Adam, from gradients that are not quite the traced ones; some cancel to about Adam's epsilon."""
    rng, arrays = np.random.default_rng(1), dict[str, Any]()
    for name, steps in stepping.SHORT.items():
        shapes = weight_shapes(steps.config.model, 1)
        moving = trainable_names(steps.config, list(shapes))
        held = {"adam_epsilon": steps.config.adam_epsilon + epsilon, **settings}
        adam = numpy_network.Adam(replace(steps.config, **held))
        weights = {key: rng.normal(size=shape) for key, shape in shapes.items()}
        for step, rate in enumerate(steps.rates, 1):
            gradients = {key: rng.normal(size=shapes[key]) for key in moving}
            for gradient in (g for g in gradients.values() if g.size > 8):
                gradient.flat[:4], gradient.flat[4:8] = 1e-7, 0.0
            used = {key: g + rounding * rng.choice((-1, 1), g.shape) * (g != 0) for key, g in gradients.items()}
            arrays |= {f"{name}/before/{step}/{key}": w for key, w in weights.items()}
            weights = adam.step(weights, used, rate)
            arrays |= {f"{name}/after/{step}/{key}": w for key, w in weights.items()}
            arrays |= {f"{name}/traced/{step - 1}/{key}": g for key, g in gradients.items()}
            arrays |= {f"{name}/traced/{step - 1}/terms/{key}": np.array(0.0) for key in gradients}
            arrays |= {f"{name}/{key}": np.array(2.5) for key in (f"loss/{step}", f"traced/{step - 1}/loss")}
        arrays[f"{name}/trace of each step"] = np.arange(len(steps.rates))
        arrays[f"{name}/{stepping.DIVERGED}"] = np.array(np.nan)
    return arrays


@pytest.mark.parametrize(
    ("rounding", "epsilon", "holds"), [(1e-15, 0.0, True), (0.0, 1e-12, False), (1e-12, 0.0, False)]
)
def test_adam_is_allowed_what_it_makes_of_a_rounded_gradient(rounding: float, epsilon: float, holds: bool) -> None:
    """A gradient of 1e-7 that is 1e-15 off moves a weight by 1e-12: fifty times what the step itself rounds."""
    sides = {"pytorch": stepped(rounding, epsilon)}
    findings = list(stepping.judge(stepping.SHORT, of(sides, "optimiser"), Problems()))
    assert all(one.holds for one in findings) is holds
    assert max(one.error for one in findings) > TOLERANCES["optimiser"].at("float64")


def test_a_loss_that_hides_that_it_is_no_number_is_red() -> None:
    arrays = stepped(0.0) | {f"all move/{stepping.DIVERGED}": np.array(0.0)}
    findings = stepping.judge(stepping.SHORT, of({"pytorch": arrays}, "optimiser"), Problems())
    assert [(one.case, one.tap, one.note) for one in findings if one.red] == [
        ("all move", stepping.DIVERGED, "0.0: training would go on")
    ]


@pytest.mark.parametrize("setting", [one.name for one in fields(TrainingConfig) if one.name.startswith("adam_")])
def test_a_setting_of_adam_that_a_backend_passes_over_is_red(setting: str) -> None:
    sides = {"pytorch": stepped(0.0, **{setting: getattr(TrainingConfig(), setting)})}
    findings = list(stepping.judge(stepping.SHORT, of(sides, "optimiser"), Problems()))
    assert {one.case for one in findings if one.red} == {"probe and scale stay"}


def test_a_second_scan_meets_another_network_in_arrays_of_the_same_shapes() -> None:
    """What is kept from one inference to the next and told apart by shapes alone is the wrong one, and shows."""
    first, second = (trainings("quick")[name].plain.model for name in ("gridsize 2", SECOND))
    assert weight_shapes(first, 1) == weight_shapes(second, 1)
    assert first.amp_activation != second.amp_activation


def test_a_reset_that_keeps_the_moments_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is stepped once and reset before its steps count."""
    one = {"some": stepping.SHORT["probe and scale stay"]}
    bench = Bench(backends.load("numpy"), PAIR, Problems(), tmp_path)

    def red() -> set[int | None]:
        sides = {"numpy": stepping.measure(bench, one)}
        return {row.step for row in stepping.judge(one, of(sides, "long"), Problems()) if row.red}

    assert red() == set()
    reset = numpy_network.NumpyNetwork.reset

    def keeping(self: Any, weights: Any) -> None:
        before = getattr(self, "adam", None)
        reset(self, weights)
        self.adam = before or self.adam

    monkeypatch.setattr(numpy_network.NumpyNetwork, "reset", keeping)
    assert 1 in red()


@pytest.mark.parametrize(("of_the_other", "holds"), [(0.0, True), (1e-30, False), (np.nan, False)])
def test_where_a_dark_network_s_gradient_points_is_no_disagreement(of_the_other: float, holds: bool) -> None:
    """A ReLU that lets nothing through leaves no gradient, and none has a direction."""
    traces = {side: dict(refereed("gridsize 2")) for side in PAIR}
    shapes = weight_shapes(CASES["gridsize 2"].config.model, 1)
    for side, value in (("tensorflow", 0.0), ("pytorch", of_the_other)):
        traces[side] |= {f"gradient/{name}": np.full(shape, value) for name, shape in shapes.items()}
    found = judged("gradient", {"trace": traces, "aligned": {}, "injected": {}})
    (direction,) = [one for one in found if one.operand == "direction"]
    assert direction.holds is holds, direction


def test_the_gradient_of_the_intensity_scale_is_measured_by_its_terms() -> None:
    """Patterns as bright as they should be: its terms cancel, their rounding does not."""
    intensity = np.random.default_rng(2).uniform(1, 2, (2, 4, 8, 8))
    slope = np.where(np.indices(intensity.shape).sum(axis=0) % 2, 1.0, -1.0) / intensity
    arrays = {"expected_intensity": intensity, "gradient/expected_intensity": slope}
    assert abs((slope * intensity).sum()) < 1e-12
    assert cancelling(arrays, "log_intensity_scale") == pytest.approx(2 * intensity.size)
    assert cancelling({**arrays, "expected_intensity": intensity * np.nan}, "log_intensity_scale") is None
    assert cancelling(arrays, "probe.real") is None


# --- cost ---


def spent(step: float, memory: float) -> dict[str, Any]:
    return {"1/float32/seconds": np.full(5, step), "peak memory bytes": np.array(memory * 2**30)}


def test_cost_is_reported_and_judged_against_a_budget_alone() -> None:
    measured = of({"tensorflow": spent(0.1, 1.0), "pytorch": spent(0.4, 2.0)}, "cost")
    free = {f.tap: f for f in cost.judge(measured, Problems())}
    assert cost.numbers(measured)["optimiser step / s, pytorch"] == pytest.approx(0.4)
    assert free["optimiser step / s"].holds and free["optimiser step / s"].error == pytest.approx(4.0)
    assert not free["import / s"].holds  # it was not measured
    tight = {f.tap: f.holds for f in cost.judge(measured, Problems(budget=Budget(step=3.0, memory=3.0)))}
    assert tight["optimiser step / s"] is False and tight["peak memory / GiB"] is True


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_budget_is_a_ratio(value: float) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(step=value)
