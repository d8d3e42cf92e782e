"""What was asked for, and what answers it: a stage makes notebooks with parameters of a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ptyint.backends import BUILT_IN, check_name
from ptyint.backends.installed import describe
from ptyint.config import COUNT, PATTERN_SIZES, RULES, SEVERAL, InferenceConfig, ModelConfig, check_value
from ptyint.errors import BackendUnavailableError, ConfigError, MissingFixtureError
from ptyint.evidence.run import Job
from ptyint.scans.files import OPTIONS
from ptyint.scans.fixtures import missing

BACKENDS = ("tensorflow", "pytorch")
"""Reference and candidate of every stage that compares two, unless others are asked for."""


def at_hand(names: str) -> None:
    """Raise FixtureError for a dataset, of those separated by commas, that is unknown or cannot be had here."""
    for name in filter(None, map(str.strip, str(names).split(","))):
        if why := missing(name):
            raise MissingFixtureError(why)


def installed_backend(name: str) -> None:
    """Raise UnknownBackendError or BackendUnavailableError for a backend that is not to be had here (POLICY-001).

    The built-in pair is not asked: what happens where one of the two is missing is what the red stage shows.
    """
    check_name(name)
    if name not in BUILT_IN and "unavailable" in (found := describe([name])[name]):
        raise BackendUnavailableError(found["unavailable"])


ALLOWED: dict[str, Callable[[Any], object]] = {
    **{name: partial(check_value, name, rule=rule) for name, rule in RULES.items()},
    **dict.fromkeys(("reference", "candidate"), installed_backend),
    **{name: partial(check_value, name, rule=COUNT) for name in ("n_pairs", "n_reruns", "n_independent")},
    **dict.fromkeys(("fixture", "fixtures"), at_hand),
    "M": lambda M: InferenceConfig(ModelConfig(max(PATTERN_SIZES)), M=M),
    **{
        name: partial(check_value, name, rule=(values.__contains__, f"one of {list(values)}, or None"))
        for name, (_, _, values) in OPTIONS.items()
        if values
    },
    "e2a.nepochs": partial(check_value, "nepochs", rule=SEVERAL),  # the first epoch compiles
}
"""Notebook parameter, of every stage or as ``stage.name``, to what raises for a value that cannot be."""


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes
    ----------
    stages : tuple of str
    reports : Path
    fixture : str
        Of the stage ``scan``; empty: the default of ``reconstruct.ipynb``.
    scan : Path, optional
        A scan of the user's, instead of the fixture.
    parameters : dict
        Notebook parameters by name, for every notebook that has it, or by ``stage.name``, for one stage's.
    timeout : float
        Seconds for each notebook.
    profile : {'quick', 'full'}
    """

    stages: tuple[str, ...]
    reports: Path = Path("reports")
    fixture: str = ""
    scan: Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 1800.0
    profile: Literal["quick", "full"] = "quick"

    def pair(self, stage: str) -> tuple[str, str]:
        """Reference and candidate of a stage; a ConfigError where they are one."""
        given = {**dict(zip(("reference", "candidate"), BACKENDS, strict=True)), **self.given(stage)}
        reference, candidate = str(given["reference"]), str(given["candidate"])
        if reference == candidate:
            raise ConfigError(f"reference and candidate of {stage} are both {reference!r}; it compares two backends.")
        return reference, candidate

    def given(self, stage: str) -> dict[str, Any]:
        """Parameters for one stage; what names the stage comes before what does not."""
        common = {name: value for name, value in self.parameters.items() if "." not in name}
        own = {name.partition(".")[2]: v for name, v in self.parameters.items() if name.partition(".")[0] == stage}
        return {**common, **own}


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes
    ----------
    title, about : str
        Its name, and what it answers.
    jobs : callable
        Its notebooks for a request.
    """

    title: str
    about: str
    jobs: Callable[[Request], list[Job]]
