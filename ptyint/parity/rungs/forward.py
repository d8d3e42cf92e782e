"""Rung 2: every tap of every network, given the same weights; and what the rungs of loss and gradient share with it.

A network is traced once: its taps, its loss, its gradients. In double precision each backend is also held against the
referee.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import pairwise, permutations
from typing import Any

import numpy as np

from ptyint.backends import numpy_network
from ptyint.backends.numpy import COUNT_FLOOR
from ptyint.backends.ptychopinn.known import mechanism
from ptyint.backends.weights import Weights
from ptyint.parity.compare import REFEREE, Arrays, Finding, Place, compare, difference
from ptyint.parity.configurations import CASES, OUTSIDE, SHIPPED, Case, inputs_of
from ptyint.parity.problems import Network, Problems
from ptyint.parity.rungs import workflow
from ptyint.parity.rungs.rung import Bench, Capture, Captured, Measured, Rung, noted, stored
from ptyint.parity.tolerances import PRECISIONS, TOLERANCES, ULPS

PREDICTED = ("predicted", "predicted, one by one")
"""Object patches by the path that production takes: of the whole batch, and group by group."""

OF_THE_LOSS = ("expected_counts", "expected_amplitude", "loss")
DRAWS = 5
AFTER = "after/"
ONE_SIDE = "one side alone shows"
TELLING = 1e-4
"""Of a tap that is put in alone, relative: less changes nothing that one would see."""

# --- in a worker ---


def traced(bench: Bench, network: Network, injected: Arrays | None = None) -> Captured:
    """Taps, loss and gradients of one network.

    Parameters
    ----------
    bench : Bench
    network : Network
    injected : dict of ndarray, optional
        Another backend's arrays, for reference injection, whole or of some taps.
    """
    arrays: Captured = {}
    with noted(arrays, str(network)):
        case = CASES[network.case]
        batch, weights, good = inputs_of(case, network.precision, bench.problems.seed)
        built = variant(bench.backend, case).build(case.config, weights, good, network.precision)
        arrays |= built.trace(batch, injected)
        if injected is None:
            arrays["predicted"] = built.predict(batch)
            if case.patterns > 1:
                groups = zip(batch.inputs[:, None], batch.counts[:, None], batch.offsets_px[:, None], strict=True)
                singly = [replace(batch, inputs=x, counts=k, offsets_px=offsets) for x, k, offsets in groups]
                arrays["predicted, one by one"] = np.concatenate([built.predict(one) for one in singly])
    return arrays


def variant(backend: Any, case: Case) -> Any:
    """The backend, or that under the settings that make its network equal, if the case is for it and it has some."""
    return getattr(backend, "equal", backend) if case.equal else backend


def _injected(bench: Bench, part: str) -> Captured:
    """What each tap of the candidate does on the reference's inputs; of one of another shape also what comes after."""
    network, theirs = Network.named(part), dict(stored(bench.folder, bench.pair[0], "trace", part))
    arrays = traced(bench, network, theirs)
    for tap, following in pairwise([tap for tap in arrays if tap in theirs and "/" not in tap]):
        if arrays[tap].shape != theirs[tap].shape:
            rest = {key: array for key, array in theirs.items() if key.removeprefix("gradient/") != tap}
            arrays[f"{AFTER}{tap}"] = traced(bench, network, rest).get(following, theirs[following])
            arrays[following] = theirs[following]  # what it makes of another size than its own is no question
    return arrays


def _consequences(bench: Bench, part: str) -> Captured:
    """What becomes of the reference where what one tap of the candidate does is put in, and nothing else.

    Keys: ``patches/tap``, the relative change of its object patches, and ``angle/tap``, by how many degrees its
    gradient turns. Of what the candidate does backwards that alone which is not a consequence of its forward pass.
    """
    arrays, network = Captured(), Network.named(part)
    theirs, alone = (
        dict(stored(bench.folder, side, name, part))
        for side, name in zip(bench.pair, ("trace", "injected"), strict=True)
    )
    taps = [tap for tap in theirs if tap in alone and "/" not in tap and tap not in (*PREDICTED, "loss")]
    apart = [tap for tap in taps if difference(alone[tap], theirs[tap]).norm > TELLING]
    backwards = [f"gradient/{tap}" for tap in taps[taps.index(apart[-1]) + 1 if apart else 0 :]]
    for tap in (*apart, *(key for key in backwards if key in theirs and key in alone)):
        given = {tap: alone[tap]}
        if f"{AFTER}{tap}" in alone:
            given = {taps[taps.index(tap) + 1]: alone[f"{AFTER}{tap}"]}
        if tap in backwards and difference(alone[tap], theirs[tap]).norm <= TELLING:
            continue
        with noted(arrays, tap):
            changed = traced(bench, network, given)
            patches = given.get("object_patches", changed["object_patches"])
            arrays[f"patches/{tap}"] = np.array(difference(patches, theirs["object_patches"]).norm)
            arrays[f"angle/{tap}"] = np.array(_angle(changed, theirs))
    return arrays


def _angle(one: Arrays, other: Arrays) -> float:
    """Between the gradients of all kernels and biases, in degrees."""
    names = [key for key in other if key.startswith("gradient/") and key.endswith(("kernel", "bias"))]
    a, b = (np.concatenate([side[key].ravel() for key in names]).astype(np.float64) for side in (one, other))
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def parts(problems: Problems) -> tuple[str, ...]:
    """A file for each network."""
    return tuple(map(str, problems.networks))


TRACE = Capture("trace", lambda bench, part: traced(bench, Network.named(part)), "trace", parts)
INJECTED = Capture("injected", _injected, "trace", parts, after=("trace",), candidate_only=True, on_demand=True)
CONSEQUENCE = Capture("consequence", _consequences, "trace", parts, reference_only=True, on_demand=True)

# --- the judge ---


@lru_cache(len(CASES))
def refereed(case: str, seed: int = 0) -> Arrays:
    """The referee's taps of a case; worked out once, since every comparison needs them."""
    batch, weights, good = inputs_of(CASES[case], "float64", seed)
    return numpy_network.forward(weights, batch, CASES[case].config.model, good)


@cache
def _loss_terms(case: str, seed: int = 0) -> float:
    """Mean size of the terms ``l`` and ``k log l`` of the loss: they may cancel, rounding does not."""
    batch, _, _ = inputs_of(CASES[case], "float64", seed)
    rate = refereed(case, seed)["expected_counts"] + COUNT_FLOOR
    return float(np.mean(rate + batch.counts * np.abs(np.log(rate))))


def seen(network: Network, measured: Measured, seed: int) -> list[str]:
    """Taps in the order of the data: the referee's; of networks that are watched from outside, those that both show."""
    if network.case not in OUTSIDE:
        return list(refereed(network.case, seed))
    reference, candidate = measured.both("trace", str(network)).values()
    taps = [*_shown("forward", reference), *_shown("loss", reference)]
    return [tap for tap in taps if tap in candidate] or list(refereed(network.case, seed))


def one_sided(rung: str, network: Network, measured: Measured) -> Iterator[Finding]:
    """Taps, or their gradients, that one of two watched sides alone shows: red, but where that is by design."""
    both = measured.both("trace", str(network)) if network.case in OUTSIDE else {}
    shown = {side: _shown(rung, arrays) for side, arrays in both.items()}
    for side, other in permutations(shown, 2) if all(shown.values()) else ():
        for tap in (tap for tap in shown[side] if tap not in shown[other]):
            where, note = Place(rung, *network, tap, ONE_SIDE), f"{other} does not show it"
            known = mechanism(rung, f"{ONE_SIDE} {tap}, {network.case}", both)
            if known and known.design:
                yield Finding(*where, *measured.pair, 0.0, 0.0, 0.0, f"{note}, by design: {known.words}")
            else:
                yield Finding.missing(where, measured.pair, note)


def _shown(rung: str, arrays: Arrays) -> list[str]:
    """Taps of a trace that are a rung's; on rung 4 those with a gradient."""
    if rung == "gradient":
        return [tap for tap in arrays if f"gradient/{tap}" in arrays and tap != "loss"]
    taps = [tap for tap in arrays if not tap.startswith(("gradient/", "error/", *PREDICTED))]
    return [tap for tap in taps if (tap in OF_THE_LOSS) == (rung == "loss")]


def judge_taps(rung: str, measured: Measured, problems: Problems) -> Iterator[Finding]:
    """Every tap that belongs to a rung, of every network."""
    for network in problems.networks:
        taps = [tap for tap in seen(network, measured, problems.seed) if (tap in OF_THE_LOSS) == (rung == "loss")]
        predicted = PREDICTED[: 1 + (CASES[network.case].patterns > 1)]
        for tap in (*taps, *(predicted if rung == "forward" else ())):
            yield from _of_tap(Place(rung, *network, tap), measured, problems.seed)
        yield from one_sided(rung, network, measured)


def _of_tap(where: Place, measured: Measured, seed: int) -> Iterator[Finding]:
    """The candidate's against the reference's; in double precision each against the referee's."""
    tap, part = where.tap, str(Network(where.case, where.precision))
    scale = _loss_terms(where.case, seed) if tap == "loss" else None
    candidate, reference = measured.pair
    arrays = measured.both("trace", part)
    finding = allowed(where, measured.pair, (arrays[candidate], arrays[reference]), (tap, tap), scale, seed)
    yield located(finding, tap, measured, scale)
    if CASES[where.case].equal and tap == "patches_before_merge":  # the network of the description, whoever has it
        expected = refereed(where.case, seed)
        target = tap if tap in expected else "object_patches"
        for side, one in arrays.items():
            yield compare(where, (side, REFEREE), (one, expected), (tap, target), TOLERANCES["forward"])
    if where.precision == "float64":
        target = "object_patches" if tap in PREDICTED else tap
        expected = refereed(where.case, seed)
        for side, one in arrays.items():
            yield allowed(where, (side, REFEREE), (one, expected), (tap, target), scale, seed)


def allowed(
    where: Place,
    sides: tuple[str, str],
    arrays: tuple[Arrays, Arrays],
    keys: tuple[str, str],
    scale: float | None,
    seed: int,
) -> Finding:
    """A comparison; where it is beyond the rung's tolerance, what rounding makes of this tap may be more: `ULPS`."""

    def epsilons() -> float:
        moved = moves(where.case, seed)["object_patches" if where.tap in PREDICTED else keys[0]]
        return float(ULPS * moved / (scale or np.linalg.norm(arrays[1][keys[1]])))

    watched = where.case in OUTSIDE  # these agree to far less, or not at all
    return compare(where, sides, arrays, keys, TOLERANCES[where.rung], scale, None if watched else epsilons)


@cache
def moves(case: str, seed: int) -> dict[str, float]:
    """By how much moves of all weights by one epsilon change the referee's taps and gradients; largest of the draws."""
    batch, weights, good = inputs_of(CASES[case], "float64", seed)
    config, rng, size = CASES[case].config, np.random.default_rng(seed), 1e-12  # linear, and far above rounding

    def trace(by: float) -> Arrays:
        moved: Weights = {key: w * (1 + by * rng.choice((-1.0, 1.0), w.shape)) for key, w in weights.items()}
        return numpy_network.BACKEND.build(config, moved, good, "float64").trace(batch)

    still, largest = trace(0.0), dict[str, float]()
    for arrays in (trace(size) for _ in range(DRAWS)):
        changes = {key: float(np.linalg.norm(array - still[key])) / size for key, array in arrays.items()}
        largest = {key: max(change, largest.get(key, 0.0)) for key, change in changes.items()}
    return largest


def located(finding: Finding, key: str, measured: Measured, scale: float | None = None) -> Finding:
    """A red one with the ratio of its tap alone, on the reference's inputs."""
    if finding.holds:
        return finding
    candidate, reference = measured.pair
    part = str(Network(finding.case, finding.precision))
    theirs, alone = measured.of(reference, "trace", part), measured.of(candidate, "injected", part)
    if key not in alone or key not in theirs:
        return finding
    name = "interpolation" if finding.tap in ("region", "object_patches") else "layer"
    tolerance = TOLERANCES["gradient" if finding.rung == "gradient" else name]
    return replace(finding, local=difference(alone[key], theirs[key], scale).ratio(tolerance, finding.precision))


def consequences(measured: Measured, problems: Problems) -> dict[str, dict[str, float]]:
    """Of each tap in which networks differ as they are shipped: the largest ``patches`` and ``angle``; see above."""
    reference, candidate = measured.offers
    found: dict[str, dict[str, float]] = {}
    for part in parts(problems):
        if SHIPPED not in part or not measured.of(candidate, "injected", part):
            continue
        for key, value in measured.of(reference, "consequence", part).items():
            what, _, tap = key.partition("/")
            if what in ("patches", "angle"):
                found.setdefault(tap, {})[what] = max(float(value), found.get(tap, {}).get(what, 0.0))
    return found


RUNG = Rung(
    "forward",
    "does every layer give the same output, given the same weights?",
    (TRACE, INJECTED, CONSEQUENCE, workflow.OWN),
    (partial(judge_taps, "forward"),),
    "trace",
    PRECISIONS,
    shrinks=True,
    also=(workflow.forward,),
)
