"""The command line, ``ptyint``."""

from __future__ import annotations

import ast
import codecs
import io
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ptyint._atomic import shipped
from ptyint.errors import ConfigError, PtyintError, did_you_mean, shortened
from ptyint.evidence import history, verification
from ptyint.evidence import run as runner
from ptyint.evidence.checks import PLAIN, SIGNS
from ptyint.evidence.environment import usable_cores
from ptyint.evidence.pages import SUMMARY
from ptyint.stages import PROFILES, STAGES, jobs_of
from ptyint.stages.request import Request
from ptyint.stages.scan import default_fixture

FOLDER = click.Path(path_type=Path)
REPORTS = click.option("--reports", type=FOLDER, default=Path("reports"), show_default=True, help="Folder of the runs.")
LEDGER = click.option(
    "--ledger", type=FOLDER, help="The ledger, which has an entry for each run.  [default: docs/fix_plan.md beside "
    "the folder of the runs]"
)  # fmt: skip

STAGES_HELP = "\n\n".join(
    [
        "\b\nStages:\n" + "\n".join(f"  {name:9} {one.title}: {one.about}" for name, one in STAGES.items()),
        "\b\nProfiles:\n" + "\n".join(f"  {name:9} {' '.join(stages)}" for name, stages in PROFILES.items()),
    ]
)


class Commands(click.Group):
    """A group that names the near miss of a mistyped command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Refuse an unknown command with the one that was meant."""
        if args and args[0] not in self.commands:
            hint = did_you_mean(args[0], self.commands) or f" Must be one of {list(self.commands)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ptyint")
def commands() -> None:
    """Does the PyTorch backend do the same science as the TensorFlow backend?"""


@commands.command(epilog=STAGES_HELP)
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="quick", show_default=True, help="How much.")
@click.option("--fixture", default="", help=f"Dataset of the stage 'scan'.  [default: {default_fixture()}]")
@click.option(
    "--scan", type=FOLDER, metavar="FILE", help="Your own scan for the stage 'scan': .npz, Ptychodus .h5, CXI."
)
@click.option(
    "-p",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the stages' notebooks, or of one stage as STAGE.NAME; repeat it for more.",
)
@REPORTS
@LEDGER
@click.option(
    "--jobs",
    "side_by_side",
    type=click.IntRange(min=1),
    default=usable_cores,
    metavar="N",
    help="Notebooks to run side by side where they do not need each other.  [default: the cores]",
)
@click.option("--timeout", type=float, default=1800.0, show_default=True, metavar="SECONDS", help="For each notebook.")
@click.pass_context
def run(ctx: click.Context, /, stages: tuple[str, ...], parameters: tuple[tuple[str, str], ...], **given: Any) -> int:
    """Run stages, judge every check, leave a run folder with one page to read.

    Without stages, all of the profile. The page is reports/<time>/index.html. Exit code 0 only when every check ran and
    passed.

    \b
    Examples:
      ptyint run                                     the plan, the ladder and the seeded faults, quickly
      ptyint run scan --scan my.npz -p nepochs 30    your own scan through both backends
      ptyint run e2d -p e2d.min_agreement 0.97       the parity stage only, with a tighter bound
    """  # noqa: D301 (click keeps the lines below \b as they are)
    from ptyint.backends.installed import describe

    reports, profile = given["reports"], given["profile"]
    request = Request(
        stages or PROFILES[profile],
        reports,
        given["fixture"],
        given["scan"],
        {name: _value(name, text) for name, text in parameters},
        given["timeout"],
        profile,
    )
    jobs = jobs_of(request)
    for note in filter(None, (job.note for job in jobs)):
        print(note, file=sys.stderr)
    with _Progress(len(jobs)) as progress:
        done = runner.run(
            jobs,
            reports=reports,
            ledger=_ledger(given["ledger"], reports),
            argv=["ptyint", *ctx.obj],
            profile=profile,
            describe=describe,
            on_progress=progress.show,
            side_by_side=given["side_by_side"],
        )
    for error in done.errors:
        print(error, file=sys.stderr)
    print(f"{SIGNS[done.verdict]} {done.verdict.upper()}: read {done.folder / SUMMARY}")
    print(f"All runs: {done.folder.parent / history.PAGE}")
    return 0 if done.verdict == "pass" and not done.errors else 1


@commands.command()
@click.argument("folder", type=FOLDER, metavar="RUN")
@click.option("--alone", is_flag=True, help="The earlier runs and the ledger are not at hand.")
@LEDGER
def verify(folder: Path, alone: bool, ledger: Path | None) -> int:
    """Check that a run folder is what the run left, and that the run passed.

    RUN is a run folder, such as reports/2026-01-31T120000Z. Hashes every file again, judges every check again and
    follows the chain of runs. Exit code 0 only for an untouched folder of a run that passed.
    """
    beside = None if alone else _ledger(ledger, folder.resolve().parent)
    said = verification.verify(folder, beside, alone=alone)
    for problem in said.problems:
        print(f"{SIGNS['fail']} {problem}")
    if said.verdict is None or said.problems:
        print(f"{SIGNS['fail']} {said.run} is not the evidence that a run left.")
    else:
        sign = SIGNS[said.verdict]
        print(f"{SIGNS['pass']} {said.run} is as the run left it; its verdict: {sign} {said.verdict}")
    return 0 if said.green else 1


@commands.command()
@REPORTS
def index(reports: Path) -> int:
    """Make index.html and index.json of the runs again from the run folders."""
    print(history.write_index(reports))
    return 0


@commands.command()
def backends() -> int:
    """List the backends that are installed, their versions and devices, or why not."""
    from ptyint.backends import BUILT_IN, names
    from ptyint.backends.installed import describe

    described = describe(names())
    for name, facts in described.items():
        if "unavailable" in facts:
            print(f"{name:21} {SIGNS['fail']} {facts['unavailable']}")
        else:
            shown = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "backend")
            print(f"{name:21} {SIGNS['pass']} {shown}")
    return 1 if any("unavailable" in described[name] for name in BUILT_IN) else 0


@commands.command()
@click.argument("name")
def check_backend(name: str) -> int:
    """Check that a backend keeps the contract that it declares; for its author.

    NAME is one of those that `ptyint backends` lists. Calls everything that the backend declares on small arrays, in
    this process: names, shapes, dtypes, what must not change. Values are the parity ladder's. Exit code 0 only when
    all of it holds.
    """
    from ptyint.parity.conformance import check

    checks = check(name)
    for one in checks:
        print(f"{SIGNS[one.verdict]} {one.name}" + (f": {one.note}" if one.note else ""))
    return 0 if all(one.verdict in ("pass", "not available") for one in checks) else 1


@commands.command()
def fixtures() -> int:
    """List the datasets that go by name."""
    from ptyint.scans.fixtures import fixture_info, fixture_names

    for name in fixture_names():
        fixture = fixture_info(name)
        print(f"{name:22} {fixture.n:5} x {fixture.N}^2  {fixture.kind:10} {fixture.notes}")
    return 0


@commands.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
def notebooks(folder: Path) -> int:
    """Copy the project's notebooks into DIR, to work on them there; nothing that is there is replaced."""
    sources = sorted(shipped("notebooks").glob("*.ipynb"))
    there = [source.name for source in sources if (folder / source.name).exists()]
    if there:
        raise ConfigError(f"{folder} already has {', '.join(there)}; give a folder without them.")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        print(shutil.copyfile(source, folder / source.name))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 only when everything passed, 2 where the request cannot be."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    codecs.register_error(_in_plain.__name__, _in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_in_plain.__name__)
    try:
        return int(commands.main(given, prog_name="ptyint", standalone_mode=False, obj=given) or 0)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except (PtyintError, OSError) as error:
        print(f"ptyint: {error}", file=sys.stderr)
        return 2
    except click.Abort:
        return 130


def _in_plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is printed in place of signs that the encoding of an output does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, ascii(sign)[1:-1]) for sign in signs), error.end


def _ledger(given: Path | None, reports: Path) -> Path:
    """The given ledger, else ``docs/fix_plan.md`` beside the folder of the runs, where a checkout has both."""
    return given or reports.resolve().parent / "docs" / "fix_plan.md"


class _Progress:
    """A bar for each notebook that runs, by its name, below one for all; a line at its end where there is no terminal.

    Parameters
    ----------
    total : int
        Notebooks.
    """

    def __init__(self, total: int) -> None:
        self.total, self.ended = total, 0
        self.bars: dict[str, Any] = {}
        self.one_at_a_time = threading.Lock()

    def show(self, name: str, done: int, cells: int) -> None:
        from tqdm import tqdm

        with self.one_at_a_time:
            if not self.bars:
                self.bars[""] = tqdm(total=self.total, unit="notebook", desc="run", disable=None)
            if name not in self.bars:
                self.bars[name] = tqdm(total=cells, unit="cell", desc=name, leave=False, disable=None)
            bar = self.bars[name]
            bar.update(done - bar.n)
            if done == cells:
                self.ended += 1
                bar.close()
                self.bars[""].update()
                if self.bars[""].disable:
                    seconds = time.monotonic() - self.start
                    print(f"{name} has ended, {self.ended} of {self.total}, after {seconds:.0f} s", file=sys.stderr)

    def __enter__(self) -> _Progress:
        self.start = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        for bar in reversed(self.bars.values()):
            bar.close()


def _value(name: str, text: str) -> Any:
    """A parameter from the command line: a Python literal (number, True, None, quoted text), else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    if isinstance(value, (int, float)) and value < 0:
        raise ConfigError(f"-p {name} is {shortened(text, 60)}; no parameter of a stage is below 0.")
    return value


if __name__ == "__main__":
    sys.exit(main())
