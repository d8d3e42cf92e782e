"""The examples of the docstrings run, and every public name has one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import ptyint

PACKAGE = Path(ptyint.__file__).parent
MODULES = [
    ".".join(["ptyint", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]

PROGRAM = """
import doctest, importlib, sys
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
for name in sys.argv[1:]:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=flags)
    print(f"{name}: {failed} of {tried} failed")
    if failed or not tried:
        sys.exit(1)
"""
"""In a process of its own: some examples train, with a framework that this process must not hold."""


def test_the_examples_do_what_they_say(tmp_path: Path) -> None:
    assert len(MODULES) >= 10
    command = [sys.executable, "-c", PROGRAM, *MODULES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_every_public_name_has_an_example() -> None:
    names = {name: getattr(ptyint, name) for name in ptyint.__all__}
    asked = {n: o for n, o in names.items() if not (inspect.isclass(o) and issubclass(o, ptyint.PtyintError))}
    assert len(asked) > 15
    assert [name for name, one in asked.items() if ">>> " not in (one.__doc__ or "")] == []
