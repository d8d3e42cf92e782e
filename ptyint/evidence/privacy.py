"""What a run leaves names neither this machine nor its user: words stand where paths were."""

import os
import re
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path

from ptyint._atomic import atomic_path, shipped

TEXTS = {".csv", ".html", ".ipynb", ".json", ".log", ".md", ".txt"}


@cache
def _names() -> dict[str, str]:
    """Path or name to the word for it; the longest first, as a home holds a checkout."""
    host = socket.gethostname()
    said = {str(Path.home()): "<home>", tempfile.gettempdir(): "<tmp>", os.environ.get("PTYINT_DATA_DIR", ""): "<data>"}
    said |= dict.fromkeys((sys.prefix, sys.base_prefix), "<python>") | {str(shipped()): "<checkout>"}
    said |= {host: "<host>"} if re.search(r"[\d.-]", host) else {}  # another may be any word
    there = {os.path.realpath(path): word for path, word in said.items() if path.startswith("/")} | said
    return {path: there[path] for path in sorted(there, key=len, reverse=True) if len(path) > 1}


def private(text: str) -> str:
    """`text` with ``<checkout>``, ``<home>``, ``<tmp>``, ``<data>``, ``<python>`` and ``<host>``."""
    spelled = "|".join(map(re.escape, _names()))
    return re.sub(rf"(?<![\w.-])(?:{spelled})(?![\w-])", lambda found: _names()[found[0]], text)


def make_private(folder: Path, *names: str) -> None:
    """Rewrite texts in a folder: those files, else all."""
    for path in [folder / name for name in names] or [path for path in folder.rglob("*") if path.suffix in TEXTS]:
        if path.is_file() and not path.is_symlink():
            before = path.read_bytes().decode("utf-8", "surrogateescape")
            if (after := private(before)) != before:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(after.encode("utf-8", "surrogateescape"))
