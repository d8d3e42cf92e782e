"""Does a backend keep the contract that it declares? For its author: ``ptyint check-backend NAME``.

What is asked is a suite of tests, ``tests/backend_conformance.py``, as those of the array API are. Whether the values
are right is for the parity ladder to say.
"""

import os
from typing import Any

import pytest

from ptyint import backends
from ptyint._atomic import shipped
from ptyint.errors import ConfigError
from ptyint.evidence.checks import Check

ALONE = {"PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Variables of the user's own pytest, and what they are while the suite runs."""

OPTIONS = ["-p", "no:terminal", "-p", "no:warnings", "-p", "no:cacheprovider", "-s", "--noconftest", "-c", os.devnull]
OPTIONS += ["--import-mode=importlib", "-o", "tmp_path_retention_policy=none"]


class _Suite:
    """A plugin of pytest that hands a backend to the suite, and makes a check of each test."""

    def __init__(self, name: str) -> None:
        self.name, self.tried, self.checks = name, backends.load(name), list[Check]()

    @pytest.fixture
    def backend(self) -> Any:
        """What is tried."""
        return self.tried

    @pytest.fixture
    def registered(self) -> str:
        """By what name."""
        return self.name

    def pytest_runtest_makereport(self, item: pytest.Function, call: pytest.CallInfo[None]) -> None:
        """Hook: what came of a test, once it was called or was not; an exception is wrong too."""
        what, error = str(item.function.__doc__), call.excinfo and call.excinfo.value
        if isinstance(error, pytest.skip.Exception):
            self.checks.append(Check(what, None, note=str(error), available=False))
        elif error or call.when == "call":
            words = str(error).partition("\nassert ")[0]  # what follows is pytest's
            wrong = f"{type(error).__name__}: {words}".removeprefix("AssertionError: ")
            self.checks.append(Check.fact(what, not error, wrong if error else ""))


def check(name: str) -> list[Check]:
    """Everything that the backend `name` declares, tried on small arrays in this process.

    Parameters
    ----------
    name : str
        One of :func:`ptyint.backends.names`.

    Returns
    -------
    list of Check
        What it does not declare is ``not available``.

    Raises
    ------
    UnknownBackendError, BackendUnavailableError
        See :func:`ptyint.backends.load`.
    ConfigError
        The suite is not there, or cannot be run.
    """
    suite, tests = _Suite(name), shipped("tests") / "backend_conformance.py"
    with pytest.MonkeyPatch.context() as environment:
        for variable, value in ALONE.items():
            environment.setenv(variable, value)
        code = pytest.main([*OPTIONS, f"--rootdir={tests.parent}", str(tests)], plugins=[suite])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise ConfigError(f"{tests} cannot be run (pytest says {code!r}); install ptyint again.")
    return suite.checks
