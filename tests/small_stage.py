"""``python small_stage.py FOLDER ARGUMENTS...``: the command line with one stage, whose notebook is FOLDER/n.ipynb.

Backends are not asked what they are, which takes longer than all the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # jsonschema does without, and it takes 1.6 s to import

from evidence_notebooks import PASSES, job, write  # noqa: E402

ROOT = Path(__file__).parents[1]


def ptyint(folder: Path, *arguments: str, within: str = "{}", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it; `within` is the shell command around it."""
    command = within.format(f'"{sys.executable}" "{__file__}" "{folder}" {" ".join(arguments)}')
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True)


def made(folder: Path, *cells: str) -> Path:
    """The folder, with a notebook that runs `cells` and then passes."""
    write(folder / "n.ipynb", *cells, PASSES)
    return folder


if __name__ == "__main__":
    from ptyint import cli, stages
    from ptyint.backends import installed
    from ptyint.evidence import sweep
    from ptyint.stages.request import Stage

    where = Path(sys.argv[1])
    installed.describe = dict
    sweep.PROGRAM = (sys.executable, __file__, str(where))
    stages.STAGES.clear()
    stages.STAGES["test"] = Stage("Small", "one notebook", lambda request: [job(where / "n.ipynb", "size")])
    stages.STAGES["scan"] = Stage(
        "Scan", "the same", lambda request: [job(where / "n.ipynb", "size", parameters={"name": str(request.scan)})]
    )
    sys.exit(cli.main(sys.argv[2:]))
