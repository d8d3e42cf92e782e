"""What both sides are given, declared before anything runs: networks, batches, weights, seeds, margins, budgets.

All of it is made in NumPy.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from ptyint.backends.weights import Weights
from ptyint.config import TrainingConfig
from ptyint.errors import ConfigError
from ptyint.parity.configurations import CASES, PROFILES, SAVED, Training, configured, trainings
from ptyint.parity.tolerances import PRECISIONS


def moved_by_one_ulp(weights: Weights, seed: int) -> Weights:
    """Every weight moved to one of its two neighbouring numbers, at random; zeros, which have no scale, stay."""
    rng = np.random.default_rng(seed)
    moved: Weights = {}
    for name, array in weights.items():
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
        moved[name] = np.where(array == 0, array, np.nextafter(array, towards))
    return moved


def workflow_training(gridsize: int = 2, seed: int = 0) -> TrainingConfig:
    """A training of one epoch on the tiny fixture, for backends that train by functions of their own."""
    return configured({"gridsize": gridsize, "nepochs": 1, "batch_size": 4, "seed": 4 + seed, "n_groups": 16})


# --- all of it together ---


class Network(NamedTuple):
    """One network of rungs 2 to 4, at one precision."""

    case: str
    precision: str

    def __str__(self) -> str:
        return f"{self.case}/{self.precision}"

    @classmethod
    def named(cls, name: str) -> "Network":
        """The network that goes by ``case/precision``."""
        return cls(*name.rsplit("/", 1))


@dataclass(frozen=True)
class Plan:
    """Rung 7: how many seeds, and what counts as no difference.

    Attributes
    ----------
    n_pairs : int
        Seeds from which both backends train.
    n_reruns : int
        Of these, the first are trained once more by each backend, from weights moved by an ulp: the yardstick.
    n_independent : int
        Seeds of the candidate alone, against the reference's pairs: no seed is on both sides.
    nepochs : int
        With gridsize 2; twice as many with gridsize 1.
    correlation : float
        Margin for the difference of two backends' correlations with the truth. Five seeds that scatter by 0.02 tell no
        smaller one: the 90 % interval alone reaches 0.024 to either side.
    scale : float
        Margin for the mean logarithm of the amplitude scale between them.
    shift_px, phase_rad : float
        Margins for the mean shift and phase between them.
    ramp_px : float
        Margin for the mean phase ramp between them, as the displacement of the diffraction pattern that it is.

    Raises
    ------
    ConfigError
        A number that is not positive.
    """

    n_pairs: int = 5
    n_reruns: int = 2
    n_independent: int = 5
    nepochs: int = 40
    correlation: float = 0.05
    scale: float = 0.05
    shift_px: float = 0.5
    phase_rad: float = 0.2
    ramp_px: float = 0.25

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}; must be positive.")


@dataclass(frozen=True)
class Budget:
    """Rung 8: largest allowed ratios of candidate to reference; 0: reported, not judged.

    Attributes
    ----------
    step, inference, memory, start : float
        Median time of an optimiser step (single precision), time of inference for a group, peak memory of the
        process, time to import the backend.

    Raises
    ------
    ConfigError
        A negative ratio, or NaN.
    """

    step: float = 0.0
    inference: float = 0.0
    memory: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ConfigError(f"The budget for {name} is {value!r}; must be a ratio, or 0 for no limit.")


@dataclass(frozen=True, eq=False)
class Problems:
    """Everything that a pair of backends is asked.

    Attributes
    ----------
    profile : {'quick', 'full'}
        The full one has larger networks, and rung 7.
    seed : int
        Added to every seed of what the backends are given on rungs 0 to 6.
    plan : Plan
    budget : Budget
    cases, precisions : sequence of str
        Networks of rungs 2 to 4, to look at some alone; no cases: those of the profile.

    Raises
    ------
    ConfigError
        An unknown profile, case or precision.
    """

    profile: str = "quick"
    seed: int = 0
    plan: Plan = Plan()
    budget: Budget = Budget()
    cases: Sequence[str] = ()
    precisions: Sequence[str] = PRECISIONS

    def __post_init__(self) -> None:
        """Validate."""
        allowed = {"profile": list(PROFILES), "cases": list(CASES), "precisions": PRECISIONS}
        for name, known in allowed.items():
            values = getattr(self, name)
            for value in [values] if isinstance(values, str) else values:
                if value not in known:
                    raise ConfigError(f"{name} has {value!r}; must be of {sorted(known)}.")

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is traced, in its order."""
        cases = self.cases or PROFILES[self.profile]
        return tuple(Network(case, precision) for case in cases for precision in self.precisions)

    @property
    def trainings(self) -> dict[str, Training]:
        """The short trainings; where networks are looked at alone, those that are saved."""
        return SAVED if self.cases else trainings(self.profile)
