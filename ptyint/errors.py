"""Every error that ptyint raises on purpose.

Each child also derives from the built-in exception that a caller would expect, so that
``except ValueError`` keeps working for users who do not know this package.
"""

import difflib
from collections.abc import Iterable

LONGEST_MESSAGE = 600
"""Characters; what is longer loses its middle."""


def shortened(text: str, most: int = LONGEST_MESSAGE) -> str:
    """Beginning and end of `text`, and how much is left out between them, where it is longer than `most` characters."""
    half = max(0, most - 40) // 2  # the words between take 40 at the most
    left_out = len(text) - 2 * half
    return text if len(text) <= most else f"{text[:half]} … {left_out} characters left out … {text[half + left_out :]}"


def shown(value: object) -> str:
    """A value as messages hold it."""
    try:
        return shortened(repr(value), 200)
    except ValueError:
        return "a number of more digits than Python writes"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest of the `known` names; empty where none is near."""
    near = difflib.get_close_matches(str(name)[:100], list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


class PtyintError(Exception):
    """Base class: the message says what was found, what is allowed and what to do, in 600 characters at the most.

    Examples
    --------
    >>> import ptyint
    >>> try:
    ...     ptyint.TrainingConfig(nepochs=0)
    ... except ptyint.PtyintError as error:
    ...     print(type(error).__name__, isinstance(error, ValueError), error)
    ConfigError True nepochs is 0; must be a whole number of at least 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class ConfigError(PtyintError, ValueError):
    """A configuration field holds a value that is not allowed."""


class ScanError(PtyintError, ValueError):
    """A scan breaks the data contract (DATA-001) or a file cannot be read as one."""


class FixtureError(PtyintError, LookupError):
    """A dataset is unknown, cannot be fetched, or its sha256 does not hold."""


class MissingFixtureError(FixtureError):
    """A dataset that is fetched is neither here nor within reach."""


class UnknownBackendError(PtyintError, ValueError):
    """The backend's name is not one of the known ones."""


class BackendUnavailableError(PtyintError, RuntimeError):
    """The selected backend cannot be imported (POLICY-001: never a silent fallback)."""


class BundleError(PtyintError, ValueError):
    """A model bundle is damaged, truncated, foreign or does not fit the configuration."""


class ComparisonError(PtyintError, ValueError):
    """Two arrays cannot be compared: shapes differ, values are not finite, or nothing is left to compare."""


class EvidenceError(PtyintError, ValueError):
    """A run folder, its manifest or a stage is not what it must be."""


class LostRunError(PtyintError, OSError):
    """A run ended, and nothing of it, or not what was asked for, could be kept."""


class ChildError(PtyintError, RuntimeError):
    """A process that did part of the work died before it was done."""


class PtychodusUnavailableError(PtyintError, RuntimeError):
    """Ptychodus is not installed, or is not one that this package can hook into."""
