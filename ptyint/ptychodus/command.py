"""The command ``ptyint-ptychodus``: Ptychodus' own command line, with the library `ptyint` in it."""

import io
import sys
from importlib.metadata import PackageNotFoundError, version

from ptyint.errors import PtychodusUnavailableError
from ptyint.evidence.processes import follow_parent

INSTALL = "pip install 'ptyint[ptychodus]'"


def installed_version() -> str:
    """Version of the installed Ptychodus.

    Raises
    ------
    PtychodusUnavailableError
        It is not installed; the message says how to.
    """
    try:
        return version("ptychodus")
    except PackageNotFoundError:
        raise PtychodusUnavailableError(f"Ptychodus is not installed; install it with `{INSTALL}`.") from None


def prepare() -> None:
    """Put the library into Ptychodus.

    Raises
    ------
    PtychodusUnavailableError
        In one sentence, what is wrong and what to install.
    """
    installed = installed_version()
    try:
        from ptyint.ptychodus.application import hook

        hook()
    except (ImportError, AttributeError, TypeError) as error:
        raise PtychodusUnavailableError(
            f"Ptychodus {installed} is not one that ptyint can hook into ({error}); install one that is, with "
            f"`{INSTALL}`."
        ) from error


def main() -> int:
    """Run Ptychodus; return its exit code, or 2 where it cannot be run."""
    follow_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the encoding of the terminal is
    try:
        prepare()
    except PtychodusUnavailableError as error:
        print(f"ptyint-ptychodus: {error}", file=sys.stderr)
        return 2
    from ptychodus.__main__ import main as ptychodus_main

    return int(ptychodus_main())


if __name__ == "__main__":
    sys.exit(main())
