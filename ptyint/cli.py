"""The command line, ``ptyint``."""

import ast
import codecs
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import click
import yaml
from tqdm import tqdm

from ptyint._atomic import shipped
from ptyint.errors import ConfigError, LostRunError, PtyintError, shortened
from ptyint.evidence import causes, ci, folder, history, manifest, pages, verification
from ptyint.evidence import run as runner
from ptyint.evidence import sweep as sweeps
from ptyint.evidence.checks import SIGNS, signed
from ptyint.evidence.display import Table, render, required
from ptyint.evidence.environment import usable_cores
from ptyint.evidence.export import export, problems
from ptyint.evidence.manifest import Manifest, Notebook
from ptyint.evidence.processes import follow_parent
from ptyint.evidence.terminal import in_plain, progress, say
from ptyint.stages import PROFILES, STAGES, jobs_of
from ptyint.stages.request import Request
from ptyint.stages.scan import default_fixture

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # jsonschema's; 1.6 s to load, unused here

CAUSES = 6
"""How many the terminal names."""

FOLDER = click.Path(path_type=Path)
REPORTS = click.option("--reports", type=FOLDER, default=Path("reports"), show_default=True, help="Folder of the runs.")
LEDGER = click.option(
    "--ledger", type=FOLDER, help="The ledger, which has an entry for each run.  [default: docs/fix_plan.md beside "
    "the folder of the runs]"
)  # fmt: skip

SCAN_HELP = "Your own scan for the stage 'scan': .npz, Ptychodus .h5, CXI."
GIVE_HELP = "A parameter of the stages' notebooks, or of one stage as STAGE.NAME; also NAME=VALUE; repeat it for more."
STAGES_HELP = (
    "\b\nStages:\n" + "\n".join(f"  {name:9} {one.title}: {one.about}" for name, one in STAGES.items())
    + "\n\n\b\nProfiles:\n" + "\n".join(f"  {name:9} {' '.join(stages)}" for name, stages in PROFILES.items())
)  # fmt: skip


def _stages(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """What a shell offers."""
    return [name for name in STAGES if name.startswith(begun)]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ptyint")
def commands() -> None:
    """Does the PyTorch backend do the same science as the TensorFlow backend?

    \b
    Begin here:
      ptyint run --dry-run       what would be run and checked, and how long it takes
      ptyint run                 run it; then read the page that the last lines name
      ptyint run scan --scan my.npz -p nepochs 30    your own scan through both backends
      ptyint lab                 look into runs, red taps and scans in JupyterLab
      ptyint verify reports/...  is a run folder what its run left, and did it pass?
    """  # noqa: D301 (click keeps the lines below \b as they are)


commands.add_command(export)


@commands.command(epilog=STAGES_HELP)
@click.argument("stages", nargs=-1, metavar="[STAGE]...", shell_complete=_stages)
@click.option("--profile", type=click.Choice(list(PROFILES)), default="quick", show_default=True, help="How much.")
@click.option("--fixture", default="", help=f"Dataset of the stage 'scan'.  [default: {default_fixture()}]")
@click.option("--scan", type=FOLDER, metavar="FILE", help=SCAN_HELP)
@click.option("-p", "parameters", type=(str, str), multiple=True, metavar="NAME VALUE", help=GIVE_HELP)
@REPORTS
@LEDGER
@click.option("--jobs", "side_by_side", type=click.IntRange(1), default=usable_cores, help="Notebooks at once [cores].")
@click.option("--timeout", type=float, default=1800.0, show_default=True, metavar="SECONDS", help="For each notebook.")
@click.option("--dry-run", is_flag=True, help="Only tell stages, notebooks, parameters, checks and expected minutes.")
@click.option("--junit", type=FOLDER, metavar="FILE", help="Also write the checks as JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each check; all else goes to stderr.")
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

    reports, profile, to = given["reports"], given["profile"], "stderr" if given["as_json"] else "stdout"
    jobs = _jobs(stages, parameters, **given)
    if given["dry_run"]:
        return _announce(runner.declared(jobs), folder.finished_runs(reports), profile)
    if (junit := given["junit"]) and not junit.absolute().parent.is_dir():
        raise ConfigError(f"--junit {junit}: there is no folder {junit.parent}; make it, or give another file.")
    say(*filter(None, (job.note for job in jobs)), to="stderr")
    with progress(len(jobs)) as on_progress:
        done = runner.run(
            jobs, ledger=_ledger(given["ledger"], reports), argv=["ptyint", *ctx.obj], describe=describe,
            on_progress=on_progress, **{name: given[name] for name in ("reports", "profile", "side_by_side")},
        )  # fmt: skip
    content = manifest.read(done.folder)
    say(*ci.json_lines(content) if given["as_json"] else ())
    say(*causes.lines(content, CAUSES), *(one for one in done.errors if one not in content.errors), to=to)
    say(f"{SIGNS[done.verdict]} {done.verdict.upper()}: read {done.folder / pages.SUMMARY}", to=to)
    say(f"All runs: {done.folder.parent / history.PAGE}; tap by tap, in JupyterLab: ptyint lab", to=to)
    ci.publish(content, junit, os.environ.get("GITHUB_STEP_SUMMARY"))
    return int(done.verdict != "pass")


def _jobs(stages: tuple[str, ...], parameters: tuple[tuple[str, str], ...], **given: Any) -> list[runner.Job]:
    """The notebooks that ``ptyint run`` is asked for with these arguments."""
    asked = {name: given[name] for name in ("reports", "fixture", "scan", "timeout", "profile")}
    values = {name: _value(text) for name, text in parameters}
    return jobs_of(Request(stages or PROFILES[given["profile"]], parameters=values, **asked))


def _announce(entries: Sequence[Notebook], earlier: Sequence[Manifest], profile: str) -> int:
    """What a run would do; how long each notebook took when it last ran in this profile."""
    ran = {one.name: one for run in reversed(earlier) if run.profile == profile for one in run.notebooks if one.end}
    took = {one.name: float(pages.seconds(ran[one.name])) / 60 for one in entries if one.name in ran}
    shown = [(one, manifest.declare(one), took.get(one.name)) for one in entries]
    say(render("plan.txt.j2", entries=shown, required=required))
    return 0


@commands.command()
@click.argument("file", type=FOLDER, metavar="SWEEP.TOML")
@click.option("--folder", type=FOLDER, help="Folder of the sweep.  [default: sweeps/<name of the file>]")
@click.option("--executor", default="local", show_default=True, help=f"Where; {sweeps.EXECUTORS}.")
@click.option("--workers", type=click.IntRange(1), default=usable_cores, help="Trials at once, for 'local' [cores].")
@click.option("--retry", is_flag=True, help="Also run again what did not pass.")
@click.option("--dry-run", is_flag=True, help="Only tell the trials, their number and the expected hours.")
@click.pass_context
def sweep(ctx: click.Context, /, file: Path, folder: Path | None, executor: str, workers: int, **given: bool) -> int:
    """Run many trials: the same evidence over scans, settings and seeds.

    Each trial is a run like any other, in the sweep's folder. Started again, it does only what is missing. The page is
    <folder>/reports/<time>/sweep.html. Exit code 0 only when every trial reported and passed, and every equivalence
    that the file declares was shown. See docs/sweeps.md.
    """
    planned = sweeps.Sweep.planned(file, folder or Path("sweeps") / file.stem, _declared)
    make = sweeps.executor_of(executor, workers)
    if given["dry_run"]:
        say(*(shlex.join(["ptyint", *one.command]) for one in planned.trials), planned.expected())
        return 0
    threads = max(1, usable_cores() // workers) if executor == "local" and workers > 1 else 0
    done = sweeps.run(planned, make, ["ptyint", *ctx.obj], retry=given["retry"], threads=threads)
    page = f"{SIGNS[done.verdict]} {done.verdict.upper()}: read {done.folder / 'sweep.html'}"
    say(*causes.lines(manifest.read(done.folder), CAUSES), page)
    return int(done.verdict != "pass")


def _declared(command: Sequence[str]) -> list[Notebook]:
    """The notebooks of a run that is asked for by this command, as they are declared before they run."""
    try:
        return runner.declared(_jobs(**run.make_context(command[0], list(command[1:])).params))
    except click.ClickException as error:
        raise ConfigError(f"ptyint {shlex.join(command)}: {error.format_message()}") from error


@commands.command()
@click.argument("folder", type=FOLDER, metavar="RUN")
@click.option("--alone", is_flag=True, help="The earlier runs and the ledger are not at hand.")
@click.option("--in-toto", "statement", type=FOLDER, metavar="FILE", help="A test result of `ptyint export` to check.")
@click.option("--key", type=FOLDER, metavar="PEM", help="Public key that must have signed it.")
@LEDGER
def verify(folder: Path, alone: bool, ledger: Path | None, statement: Path | None, key: Path | None) -> int:
    """Check that a run folder is what the run left, and that the run passed.

    RUN is a run folder, such as reports/2026-01-31T120000Z. Hashes every file again, judges every check again and
    follows the chain of runs. Exit code 0 only for an untouched folder of a run that passed.
    """
    beside = None if alone else _ledger(ledger, folder.resolve().parent)
    said = verification.verify(folder, beside, alone=alone)
    if statement and said.verdict is not None:
        said = replace(said, problems=(*said.problems, *problems(folder, statement, key)))
    say(*(f"{SIGNS['fail']} {problem}" for problem in said.problems))
    if said.verdict is None or said.problems:
        say(f"{SIGNS['fail']} {shortened(said.run, 100)} is not the evidence that a run left.")
    else:
        say(f"{SIGNS['pass']} {said.run} is as the run left it; its verdict: {signed(said.verdict)}")
    return 0 if said.green else 1


@commands.command()
@click.argument("before", type=FOLDER, metavar="RUN")
@click.argument("now", type=FOLDER, metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each difference.")
@click.option("--html", "page", type=FOLDER, metavar="FILE", help="Also write a page, with the pictures side by side.")
def diff(before: Path, now: Path, as_json: bool, page: Path | None) -> None:
    """Tell what differs between two runs: verdicts, bounds, parameters, numbers, environment, pictures.

    Times aside. Exit code 0, whatever differs.
    """
    runs = [manifest.read(folder) for folder in (before, now)]
    frame = history.difference(*runs)
    if page:
        kinds = frame.groupby("kind", sort=False)
        tables = [Table.of(rows.drop(columns="kind"), str(kind)) for kind, rows in kinds]
        pages.write_difference(page, [before, now], runs, tables)
    caption = f"{now.resolve().name} against {before.resolve().name}, differences: {len(frame) or 'none'}"
    say(frame.to_json(orient="records", lines=True).strip() if as_json else Table.of(frame, caption).markdown.strip())


@commands.command()
@REPORTS
def index(reports: Path) -> None:
    """Make index.html and index.json of the runs again from the run folders."""
    say(history.write_index(reports))


@commands.command()
@REPORTS
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(reports: Path, yes: bool) -> None:
    """Remove what interrupted runs left: folders .<time>.partial, named first. Other runs are not touched."""
    left = folder.dead(reports)
    say(*(f"{path} ({sum(one.lstat().st_size for one in path.rglob('*')) / 1e6:.1f} MB)" for path in left))
    if left and (yes or click.confirm(f"Remove these {len(left)}?", abort=True)):
        folder.remove(left)
        history.write_index(reports)
    say(f"{len(left)} removed.")


@commands.command()
def backends() -> int:
    """List the backends that are installed, their versions and devices, or why not."""
    from ptyint.backends import BUILT_IN, names
    from ptyint.backends.installed import describe

    described = describe(names())
    for name, facts in described.items():
        shown = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "backend")
        say(f"{name:21} {SIGNS['fail' if 'unavailable' in facts else 'pass']} {facts.get('unavailable', shown)}")
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
    say(*(f"{SIGNS[one.verdict]} {one.name}" + (f": {one.note}" if one.note else "") for one in checks))
    return 0 if all(one.verdict in ("pass", "not available") for one in checks) else 1


@commands.command()
def fixtures() -> None:
    """List the datasets that go by name."""
    from ptyint.scans.fixtures import fixture_info, fixture_names

    for name in fixture_names():
        fixture = fixture_info(name)
        say(f"{name:22} {fixture.n:5} x {fixture.N}^2  {fixture.kind:10} {fixture.notes}")


@commands.command()
@click.argument("source", type=FOLDER, metavar="IN")
@click.argument("target", type=FOLDER, metavar="OUT")
def convert(source: Path, target: Path) -> None:
    """Write the scan IN as OUT: .npz (PtychoPINN), .cxi, or a folder (Ptychodus).

    Patterns go by, a chunk at a time. What is wrong with the scan is told before anything is written.
    """
    from ptyint.scans import files
    from ptyint.scans.scan import validate_scan

    scan = files.read_scan(source)
    validate_scan(scan)
    with tqdm(total=scan.n, unit="pattern", disable=None) as bar:
        files.write_scan(scan, target, on_patterns=bar.update)
    say(*scan.notes, target)


@commands.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
def notebooks(folder: Path) -> None:
    """Copy the project's notebooks, and what they import, into DIR; nothing that is there is replaced."""
    sources = sorted(path for path in shipped("notebooks").iterdir() if path.suffix in (".ipynb", ".py"))
    if there := [source.name for source in sources if (folder / source.name).exists()]:
        raise ConfigError(f"{folder} already has {', '.join(there)}; give a folder without them.")
    folder.mkdir(parents=True, exist_ok=True)
    say(*(shutil.copyfile(source, folder / source.name) for source in sources))


@commands.command()
@click.argument("folder", type=FOLDER, metavar="[DIR]", default=Path("notebooks"))
@click.pass_context
def lab(ctx: click.Context, /, folder: Path) -> int:
    """Open DIR/explore.ipynb in JupyterLab: runs, red taps, reconstructions, scans.

    DIR is `notebooks` where it is not given; where it has no explore.ipynb, the project's notebooks are copied there.
    """
    if not find_spec("jupyterlab"):
        raise ConfigError("JupyterLab is not installed; pip install 'ptyint[lab]'.")
    if not (folder / "explore.ipynb").exists():
        ctx.invoke(notebooks, folder=folder)
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder / "explore.ipynb")])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 only when everything passed, 2 where the request cannot be."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = (one.split("=", 1) if last == "-p" else [one] for last, one in zip(["", *given], given, strict=False))
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: a kernel would die of it, and files get its number
            setattr(sys, name, open(os.devnull, "w"))
            os.set_inheritable(getattr(sys, name).fileno(), True)
    follow_parent()
    codecs.register_error(in_plain.__name__, in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=in_plain.__name__)
    try:
        return int(commands.main(list(chain(*words)), prog_name="ptyint", standalone_mode=False, obj=given) or 0)
    except click.ClickException as error:
        error.show(told := io.StringIO())
        say(shortened(told.getvalue().rstrip()), to="stderr")
        return error.exit_code
    except (PtyintError, OSError) as error:
        say(f"ptyint: {shortened(str(error))}", to="stderr")
        return 1 if isinstance(error, LostRunError) else 2
    except click.Abort:
        return 130


def _ledger(given: Path | None, reports: Path) -> Path:
    """The given ledger, else ``docs/fix_plan.md`` beside the folder of the runs, where a checkout has both."""
    return given or reports.resolve().parent / "docs" / "fix_plan.md"


def _value(text: str) -> Any:
    """A parameter from the command line: a Python literal, else YAML's true, false, null, list or map, else text."""
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        return yaml.safe_load(text) if text in ("true", "false", "null") or text[:1] in ("[", "{") else text
    return text


if __name__ == "__main__":
    sys.exit(main())
