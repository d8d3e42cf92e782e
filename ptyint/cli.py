"""The command line, ``ptyint``."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptyint.errors import PtyintError
from ptyint.evidence.checks import SIGNS


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="ptyint", description="Does the PyTorch backend do the same science as the TensorFlow backend?"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    verify = commands.add_parser(
        "verify",
        help="check that a run folder is what the run left, and that the run passed",
        description="Hashes every file again, judges every check again and follows the chain of runs. "
        "Exit code 0 only for an untouched folder of a run that passed.",
    )
    verify.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as reports/2026-01-31T120000Z")
    verify.add_argument("--alone", action="store_true", help="the earlier runs and the ledger are not at hand")
    verify.add_argument("--ledger", type=Path, help="the ledger (default: docs/fix_plan.md beside reports/)")
    index = commands.add_parser("index", help="make reports/index.html and index.json again from the run folders")
    index.add_argument(
        "--reports", type=Path, default=Path("reports"), help="folder of the runs (default: %(default)s)"
    )
    commands.add_parser("backends", help="which backends are installed, their versions and devices, or why not")
    check = commands.add_parser(
        "check-backend",
        help="does a backend keep the contract that it declares; for its author",
        description="Calls everything that the backend declares on small arrays, in this process: names, shapes, "
        "dtypes, what must not change. Values are the parity ladder's. Exit code 0 only when all of it holds.",
    )
    check.add_argument("name", metavar="NAME", help="the backend's name; `ptyint backends` lists them")
    commands.add_parser("fixtures", help="list the datasets that go by name")
    return top


def _add_run(commands: Any) -> None:
    from ptyint.stages import PROFILES, STAGES
    from ptyint.stages.scan import default_fixture

    stages = "\n".join(f"  {name:5} {stage.title}: {stage.about}" for name, stage in STAGES.items())
    run = commands.add_parser(
        "run",
        help="run stages, judge every check, leave a run folder with one page to read",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Stages:\n{stages}\n\nWithout stages: all of the profile ("
        + "; ".join(f"{name}: {' '.join(PROFILES[name])}" for name in PROFILES)
        + ").\nThe page to read is reports/<time>/index.html. Exit code 0 only when every check ran and passed.",
        epilog="examples:\n"
        "  ptyint run                                     the plan, the ladder and the seeded faults, quickly\n"
        "  ptyint run scan --scan my.npz -p nepochs 30    your own scan through both backends\n"
        "  ptyint run e2d                                 the parity stage only",
    )
    run.add_argument("stages", nargs="*", metavar="STAGE", help="which stages to run (default: those of the profile)")
    run.add_argument("--profile", choices=list(PROFILES), default="quick", help="how much (default: %(default)s)")
    run.add_argument("--fixture", default="", help=f"dataset of the stage 'scan' (default: {default_fixture()})")
    run.add_argument(
        "--scan", type=Path, metavar="FILE", help="your own scan for the stage 'scan': .npz, Ptychodus .h5, CXI"
    )
    run.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the stages' notebooks; repeat it for more",
    )
    run.add_argument("--reports", type=Path, default=Path("reports"), help="folder of the runs (default: %(default)s)")
    run.add_argument("--ledger", type=Path, help="file that gets an entry (default: docs/fix_plan.md beside reports/)")
    run.add_argument(
        "--timeout", type=float, default=1800.0, metavar="SECONDS", help="for each notebook (default: %(default)g)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 only when everything passed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    try:
        return COMMANDS[options.command](options, given)
    except PtyintError as error:
        print(f"ptyint: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint import stages
    from ptyint.evidence import index, run
    from ptyint.evidence.pages import SUMMARY
    from ptyint.stages.request import Request

    names = tuple(options.stages) or stages.PROFILES[options.profile]
    parameters = {name: _value(text) for name, text in options.p}
    request = Request(
        names, options.reports, options.fixture, options.scan, parameters, options.timeout, options.profile
    )
    jobs = stages.jobs_of(request)
    with _Progress() as progress:
        done = run.run(
            jobs,
            reports=options.reports,
            ledger=_ledger(options),
            argv=["ptyint", *given],
            profile=options.profile,
            on_progress=progress.show,
        )
    for error in done.errors:
        print(error, file=sys.stderr)
    print(f"{SIGNS[done.verdict]} {done.verdict.upper()}: read {done.folder / SUMMARY}")
    print(f"All runs: {done.folder.parent / index.PAGE}")
    return 0 if done.verdict == "pass" and not done.errors else 1


def _verify(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint.evidence import manifest

    options.reports = options.folder.resolve().parent
    ledger = None if options.alone else _ledger(options)
    found = manifest.verify(options.folder, ledger, alone=options.alone)
    for problem in found.problems:
        print(f"{SIGNS['fail']} {problem}")
    if found.verdict is None or found.problems:
        print(f"{SIGNS['fail']} {found.run} is not the evidence that a run left.")
    else:
        print(f"{SIGNS['pass']} {found.run} is as the run left it; its verdict: {SIGNS[found.verdict]} {found.verdict}")
    return 0 if found.green else 1


def _index(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint.evidence import index

    print(index.write(options.reports))
    return 0


def _backends(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint import backends
    from ptyint.evidence.environment import describe_backends

    found = describe_backends(backends.names())
    for name, facts in found.items():
        if "unavailable" in facts:
            print(f"{name:21} {SIGNS['fail']} {facts['unavailable']}")
        else:
            shown = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "backend")
            print(f"{name:21} {SIGNS['pass']} {shown}")
    return 1 if any("unavailable" in found[name] for name in backends.BUILT_IN) else 0


def _check_backend(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint.parity.conformance import check

    found = check(options.name)
    for one in found:
        print(f"{SIGNS[one.verdict]} {one.name}" + (f": {one.note}" if one.note else ""))
    return 0 if all(one.verdict in ("pass", "not available") for one in found) else 1


def _fixtures(options: argparse.Namespace, given: list[str]) -> int:
    from ptyint.scans.fixtures import fixture_info, fixture_names

    for name in fixture_names():
        fixture = fixture_info(name)
        print(f"{name:22} {fixture.n:5} x {fixture.N}^2  {fixture.kind:10} {fixture.notes}")
    return 0


COMMANDS = {
    "run": _run,
    "verify": _verify,
    "index": _index,
    "backends": _backends,
    "check-backend": _check_backend,
    "fixtures": _fixtures,
}


def _ledger(options: argparse.Namespace) -> Path:
    """The given ledger, else ``docs/fix_plan.md`` beside the folder of the runs, where a checkout has both."""
    beside = options.reports.resolve().parent / "docs" / "fix_plan.md"
    return Path(options.ledger) if options.ledger else beside


class _Progress:
    """Two bars on stderr: notebooks, and the cells of the one that runs."""

    def __enter__(self) -> _Progress:
        self.notebooks: Any = None
        return self

    def show(self, name: str, number: int, total: int, done: int, cells: int) -> None:
        from tqdm import tqdm

        if self.notebooks is None:
            self.notebooks = tqdm(total=total, unit="notebook", desc="run", position=0)
            self.cells = tqdm(total=cells, unit="cell", position=1, leave=False)
        if self.cells.desc != f"{name}: ":
            self.cells.reset(total=cells)
            self.cells.set_description(name)
        self.cells.n, self.notebooks.n = done, number + (done == cells)
        self.cells.refresh()
        self.notebooks.refresh()

    def __exit__(self, *exception: object) -> None:
        if self.notebooks is not None:
            self.cells.close()
            self.notebooks.close()


def _value(text: str) -> Any:
    """A parameter from the command line: a Python literal (number, True, None, quoted text), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
