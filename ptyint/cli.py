"""The command line: ``ptyint report`` and ``ptyint fixtures``."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptyint import comparison
from ptyint.errors import ConfigError, PtyintError

BACKENDS = ("tensorflow", "pytorch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 only when every check passed."""
    parser = argparse.ArgumentParser(prog="ptyint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="reconstruct a scan with both backends and compare them on one page")
    report.add_argument("--fixture", default="synthetic-64", help="a dataset by name (default: %(default)s)")
    report.add_argument(
        "--scan", type=Path, help="your own scan instead: PtychoPINN .npz, Ptychodus .h5 or folder, CXI"
    )
    report.add_argument("--reports", type=Path, default=Path("reports"), help="folder of the run folders")
    report.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a notebook parameter; repeat it"
    )
    commands.add_parser("fixtures", help="list the datasets")
    options = parser.parse_args(arguments)
    try:
        return _fixtures() if options.command == "fixtures" else _report(options)
    except PtyintError as error:
        print(f"ptyint: {error}", file=sys.stderr)
        return 1


def _fixtures() -> int:
    from ptyint.fixtures import fixture_info, fixture_names

    for name in fixture_names():
        fixture = fixture_info(name)
        print(f"{name:22} {fixture.n:5} x {fixture.N}^2  {fixture.kind:10} {fixture.notes}")
    return 0


def new_run_folder(reports: Path) -> tuple[Path, Path]:
    """A fresh hidden folder to work in, and the name that it gets at the end.

    Two runs in the same second get two names: ``2026-01-31T120000Z`` and ``2026-01-31T120000Z-2``.
    """
    reports.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    for number in range(1, 1000):
        name = stamp if number == 1 else f"{stamp}-{number}"
        working, final = reports / f".{name}.partial", reports / name
        if final.exists():
            continue
        try:
            working.mkdir()
        except FileExistsError:
            continue
        return working.resolve(), final.resolve()
    raise PtyintError(f"No free run folder for {stamp} in {reports}; wait a second.")


def _report(options: argparse.Namespace) -> int:
    from ptyint.notebooks import check_parameters, notebook_path

    shared = {name: _value(text) for name, text in options.p}
    for name, instead in (
        ("backend", "both run"),
        ("output_dir", "--reports"),
        ("fixture", "--fixture"),
        ("scan_file", "--scan"),
    ):
        if name in shared:
            raise ConfigError(f"-p {name} cannot be given to a report; it has {instead} for that.")
    shared |= {"scan_file": str(options.scan.resolve())} if options.scan else {"fixture": options.fixture}
    pages = {name: {**shared, "backend": name, "output_dir": name} for name in BACKENDS}
    for parameters in pages.values():
        check_parameters(notebook_path("reconstruct"), parameters)
    working, final = new_run_folder(options.reports)
    try:
        for name, parameters in pages.items():
            _page("reconstruct", working, name, parameters)
        _page("compare", working, "index", {"reference_dir": BACKENDS[0], "candidate_dir": BACKENDS[1]})
    finally:
        os.replace(working, final)
        print(f"Run folder: {final}")
    passed = json.loads((final / comparison.NAME).read_text())["passed"]
    print(f"{'PASS' if passed else 'FAIL'}: open {final / 'index.html'}")
    return 0 if passed is True else 1


def _page(notebook: str, folder: Path, name: str, parameters: dict[str, Any]) -> None:
    """Execute a notebook into `folder`; its page is written whether it ended well or not."""
    from ptyint.notebooks import execute
    from ptyint.report import write_page

    executed = folder / f"{name}.ipynb"
    try:
        execute(notebook, executed, parameters)
    finally:
        if executed.exists():
            write_page(executed, folder / f"{name}.html", f"ptyint: {name} ({folder.name.strip('.')})")


def _value(text: str) -> Any:
    """A parameter from the command line: a Python literal (number, True, None, quoted text), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
