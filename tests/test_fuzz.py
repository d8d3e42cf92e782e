"""Generated bad inputs, by the thousand in the slow suite: a sentence each, of the project's own errors, and no more.

No traceback, no hang, nothing half-written, no code run, no message above 600 characters. Every property draws its
inputs by one seed (hypothesis, derandomized), and counts them.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_notebooks import PASSES, job, run, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bundle import CONFIG, WEIGHTS
from test_odd_scans import make_scan

from ptyint import cli
from ptyint.backends import installed
from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.errors import LONGEST_MESSAGE, PtyintError
from ptyint.evidence import execution, history, manifest, verification
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.scan import validate_scan
from ptyint.stages import STAGES

LONGEST_S = 20.0
"""Seconds that one input may take, on a busy machine."""

EXAMPLES = pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.slow)])


def explore(prop: Callable[[st.DataObject], object], examples: int) -> None:
    """Run a property on so many generated inputs; print how many there were and what came of them."""
    seen: dict[str, int] = {}

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def each(data: st.DataObject) -> None:
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = str(prop(data))
        assert time.monotonic() - start < LONGEST_S
        seen[outcome] = seen.get(outcome, 0) + 1

    each()
    print(f"\n{prop.__name__}: {sum(seen.values())} inputs, {seen}")
    assert sum(seen.values()) >= 0.9 * examples


def refused(call: Callable[[], object]) -> str:
    """Name of the error of ours that a call ends with, or ``accepted``; any other exception is the test's failure."""
    try:
        call()
    except PtyintError as error:
        assert len(str(error)) <= LONGEST_MESSAGE
        return type(error).__name__
    return "accepted"


# --- bytes ---


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with some of them changed, gone, repeated or zeroed; more often where a file's own structures are."""
    spoiled = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        near = draw(st.sampled_from([0, len(spoiled) // 2, max(0, len(spoiled) - 400)]))
        at = min(len(spoiled), draw(st.one_of(st.integers(near, near + 400), st.integers(0, len(content)))))
        length = draw(st.integers(1, 64))
        how = draw(st.sampled_from(["flip", "zero", "ones", "cut", "repeat", "random", "end"]))
        if how == "flip" and at < len(spoiled):
            spoiled[at] ^= 1 << draw(st.integers(0, 7))
        elif how in ("zero", "ones"):
            spoiled[at : at + length] = (b"\0" if how == "zero" else b"\xff") * min(length, len(spoiled) - at)
        elif how == "cut":
            del spoiled[at : at + length]
        elif how == "repeat":
            spoiled[at:at] = spoiled[at : at + length]
        elif how == "random":
            spoiled[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
        elif how == "end":
            del spoiled[at:]
    return bytes(spoiled)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Valid files of all formats, by the name under which they are read."""
    import numpy as np

    folder = tmp_path_factory.mktemp("valid")
    write_scan(make_scan(), folder / "plain.npz")
    with np.load(folder / "plain.npz") as arrays:
        np.savez_compressed(folder / "packed.npz", **dict(arrays))
    write_scan(make_scan(), folder / "scan.cxi")
    write_scan(make_scan(), folder)
    save_bundle(folder, WEIGHTS, CONFIG, "pytorch", losses=[2.0, 1.0])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@EXAMPLES
@pytest.mark.parametrize("name", ["plain.npz", "packed.npz", "scan.cxi", "diffraction.h5", "product.h5", "wts.h5.zip"])
def test_damaged_files(files: dict[str, bytes], tmp_path: Path, name: str, examples: int) -> None:
    for other in ("diffraction.h5", "product.h5"):
        (tmp_path / other).write_bytes(files[other])

    def damaged_file(data: st.DataObject) -> str:
        (tmp_path / name).write_bytes(data.draw(damaged(files[name])))
        if name == "wts.h5.zip":
            return refused(lambda: load_bundle(tmp_path / name))
        path = tmp_path / ("diffraction.h5" if name.endswith(".h5") else name)
        return refused(lambda: validate_scan(read_scan(path)))

    explore(damaged_file, examples)


# --- archives with foreign content ---


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


HEADERS = st.builds(
    lambda descr, order, shape, tail: (
        (text := f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode("latin-1", "replace"))
        and b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + tail
    ),
    st.sampled_from(
        ["'<f4'", "'|O'", "'<c8'", "'S3'", "[('a', '<f4')]", "'<M8[ns]'", "1", "'f'*9", "'<f4'+exit()", "'U9'"]
    ),
    st.sampled_from(["True", "False", "1", "None"]),
    st.sampled_from(
        ["()", "(4,)", "(4, 64, 64)", "(-4, 64)", "(2**70,)", "(4.0,)", "(1,)*40", "None", "((4,),)", "(True,)"]
    ),
    st.binary(max_size=40),
)
MEMBERS = st.sampled_from(
    ["diffraction", "diff3d", "xcoords", "ycoords", "probeGuess", "objectGuess", "Y", "bad_pixels", "scan_index",
     "ptyint_good_pixels", "ptyint_wavelength_m", "../up", "a/b", "x" * 3000, "", "\u00e9"]
)  # fmt: skip


@EXAMPLES
def test_members_of_an_npz(files: dict[str, bytes], tmp_path: Path, examples: int) -> None:
    ran = tmp_path / "ran"
    trap = io.BytesIO()
    import numpy as np

    np.save(trap, np.array([Trap(ran)], object), allow_pickle=True)

    def foreign_member(data: st.DataObject) -> str:
        path = tmp_path / "scan.npz"
        changes = data.draw(
            st.dictionaries(
                MEMBERS, st.one_of(HEADERS, st.binary(max_size=99), st.just(trap.getvalue())), min_size=1, max_size=4
            )
        )
        method = data.draw(
            st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        )
        with zipfile.ZipFile(io.BytesIO(files["plain.npz"])) as old, zipfile.ZipFile(path, "w", method) as new:
            for info in old.infolist():
                if info.filename.removesuffix(".npy") not in changes:
                    new.writestr(info.filename, old.read(info))
            for name, content in changes.items():
                new.writestr(f"{name}.npy", content)
        outcome = refused(lambda: validate_scan(read_scan(path)))
        assert not ran.exists(), "code of a pickle was run"
        return outcome

    explore(foreign_member, examples)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40), st.floats(), st.text(max_size=8),
        st.sampled_from(["", "x" * 5000, "\x00", "\ud800", "../..", "1e999", "nan", "\x1b[31m", -1, 0, 2**63, 1e308]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=6,
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn, content: Any) -> Any:
    """JSON with some values or keys replaced, taken out or added, at any depth."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 4))):
        here, places = content, []
        while isinstance(here, (dict, list)) and here:
            key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
            places.append((here, key))
            here = here[key]
        if not places:
            return draw(JSON)
        holder, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["value", "gone", "more"]))
        if how == "gone":
            del holder[key]
        elif how == "more" and isinstance(holder, dict):
            holder[draw(st.text(max_size=9))] = draw(JSON)
        else:
            holder[key] = draw(JSON)
    return content


@EXAMPLES
def test_manifests_of_bundles(files: dict[str, bytes], tmp_path: Path, examples: int) -> None:
    with zipfile.ZipFile(io.BytesIO(files["wts.h5.zip"])) as archive:
        own = json.loads(archive.read("manifest.json"))
        weights = archive.read("weights.h5")

    def altered_manifest(data: st.DataObject) -> str:
        path = tmp_path / "wts.h5.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("manifest.json", json.dumps(data.draw(altered(own))))
            archive.writestr("weights.h5", weights)
        return refused(lambda: load_bundle(path))

    explore(altered_manifest, examples)


# --- the evidence of a run ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that passes."""
    folder = tmp_path_factory.mktemp("evidence")
    return run(folder, job(write(folder / "small.ipynb", PASSES), "size"))[0].folder


@EXAMPLES
def test_manifests_of_runs(finished: Path, tmp_path: Path, examples: int) -> None:
    own = json.loads((finished / manifest.NAME).read_text())
    folder = tmp_path / "reports" / finished.name
    shutil.copytree(finished, folder)

    def altered_run(data: st.DataObject) -> str:
        text = json.dumps(data.draw(altered(own)))
        raw = data.draw(st.one_of(st.just(text.encode()), damaged(text.encode()), st.binary(max_size=50)))
        (folder / manifest.NAME).write_bytes(raw)
        before = sorted(path.name for path in folder.rglob("*"))
        outcome = refused(lambda: manifest.read(folder))
        said = verification.verify(folder, alone=data.draw(st.booleans()))
        assert not said.green or json.loads(raw) == own
        assert all(len(problem) <= LONGEST_MESSAGE for problem in said.problems), said.problems
        history.write_index(folder.parent)
        json.loads((folder.parent / history.JSON).read_text())
        assert sorted(path.name for path in folder.rglob("*")) == before
        return outcome

    explore(altered_run, examples)


# --- the command line ---

WORDS = st.one_of(
    st.sampled_from(
        [
            "run", "verify", "index", "fixtures", "notebooks", *STAGES, "--scan", "--fixture", "-p", "--timeout",
            "--jobs", "--profile", "--reports", "--ledger", "--alone", "-h", "--", "-", "", ".", "/", "/dev/null",
            "/dev/zero", "~", "nan", "inf", "-inf", "-1", "0", "1e999", "10" * 100, "x" * 200, "\udcff\udcfe",
            "\u202e", "\x1b]8;;x\x07", "[" * 500, "None", "True", "'", "nepochs", "scan.nepochs", "scan.", ".nepochs",
            "e2d.min_agreement", "output_dir", "tiny-64", "../..", "nowhere.npz", "1_000", "(1,)", "{}", "b'x'", "1j",
            "...", "lambda: 0", "__import__('os')",
        ]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=12),
    st.floats().map(str),
    st.integers().map(str),
)  # fmt: skip


PARAMETERS = sorted(
    {
        f"{prefix}{name}"
        for stage, notebook in (
            ("scan", "reconstruct"),
            ("scan", "compare"),
            ("e2d", "e2d_parity"),
            ("ladder", "ladder"),
        )
        for prefix in ("", f"{stage}.")
        for name in execution.parameter_defaults(execution.notebook_path(notebook))
    }
)
VALUES = st.sampled_from(
    [
        "nan", "inf", "-inf", "NaN", "Infinity", "1e999", "-1e999", "1e308", "-1", "-0.5", "9" * 5000, "x" * 5000,
        "[" * 300, "[1, 2]", "{}", "(1,)", "1j", "b'x'", "{'a': nan}", "\udcff", "\x1b[31m", "", "''", "None", "True",
        "1_0", "1e-400",
    ]
)  # fmt: skip


class WouldStart(BaseException):
    """A kernel was about to start."""


@EXAMPLES
@pytest.mark.parametrize("first", [[], ["run"], ["run", "scan"], ["-p"], ["verify"], ["notebooks"]])
def test_command_lines(first: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    def trip(*arguments: Any, **options: Any) -> None:
        raise WouldStart

    monkeypatch.setattr(installed, "describe", trip)  # asked last before the run folder is made
    place = tmp_path / "here"
    place.mkdir()
    (tmp_path / "a file").write_text("")
    monkeypatch.chdir(place)

    def command_line(data: st.DataObject) -> str:
        arguments = [*first, *data.draw(st.lists(WORDS, min_size=1, max_size=6))]  # without a word it is the help
        if first == ["-p"]:
            pairs = data.draw(st.lists(st.tuples(st.sampled_from(PARAMETERS), VALUES), min_size=1, max_size=2))
            arguments = ["run", "scan", "e2d", "ladder", *(word for pair in pairs for word in ("-p", *pair))]
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            try:
                code = cli.main(arguments)
            except WouldStart:
                code = -1
        left = [path.name for path in place.iterdir()]
        if code < 0:
            assert not left
            return "would start"
        if code == 0:
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return "done"
        assert code in (1, 2), arguments
        said = err.getvalue()
        assert "Traceback" not in said and (code == 1 or not left), (arguments, left)
        assert len(said) <= LONGEST_MESSAGE + 120, (arguments, len(said))
        return f"exit {code}"

    explore(command_line, examples)
