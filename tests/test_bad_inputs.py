"""What nobody should give and somebody will: refused with one sentence, at once, and nothing is run or written."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from test_bundle import CONFIG, WEIGHTS, forged
from test_odd_scans import DATA, FILES, N, cxi, make_scan, n, put

from ptyint import cli
from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.errors import LONGEST_MESSAGE, BundleError, ConfigError, FixtureError, PtyintError, ScanError, shortened
from ptyint.evidence import history, verification
from ptyint.evidence.execution import read_notebook
from ptyint.images.reconstruction import Reconstruction
from ptyint.scans import fixtures
from ptyint.scans.files import read_scan, write_scan
from ptyint.scans.scan import validate_scan
from ptyint.stages.red_green import load_red

__all__ = ["cxi"]

HUGE = 2**28
"""Bytes, of zeros: 256 kB when they are packed."""


def header(shape: tuple[int, ...], descr: str) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
    return head.getvalue()


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes that a call took at once, whatever came of it."""
    tracemalloc.start()
    try:
        call()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


# --- archives that unpack to more than they say ---


@pytest.mark.parametrize(
    ("member", "head", "said"),
    [
        ("diffraction", header((n, N, N), "<f4"), r"unpacks to 268435584 bytes, float32 \(4, 64, 64\) to 65664"),
        ("probeGuess", header((N, N), "<c8"), r"unpacks to 268435584 bytes, complex64 \(64, 64\) to 32896"),
        ("unknown", header((3,), "<f8"), r"unpacks to 268435584 bytes"),
        ("diffraction", header((2**16, N, N), "<f1"), "is damaged"),
        (
            "diffraction",
            header((2**14, N, N), "<f4"),
            r"float32 \(16384, 64, 64\); allowed: real, \(4, ",
        ),
        ("probeGuess", header((2**25,), "<f8"), r"probeGuess is float64 \(33554432,\); allowed: complex"),
        ("ptyint_wavelength_m", header((2**25,), "<f8"), r"\(33554432,\).*allowed: one finite number"),
        ("diffraction", b"\x93NUMPY\x02\x00\xff\xff\xff\x0f", "reading array header"),
    ],
)
def test_a_packed_member_is_judged_by_its_header_before_it_is_unpacked(
    tmp_path: Path, member: str, head: bytes, said: str
) -> None:
    write_scan(make_scan(), tmp_path / "scan.npz")
    with np.load(tmp_path / "scan.npz") as arrays:
        np.savez_compressed(tmp_path / "bomb.npz", **{name: arrays[name] for name in arrays if name != member})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{member}.npy", "w", force_zip64=True) as packed:
            packed.write(head)
            for _ in range(HUGE // 2**22):
                packed.write(bytes(2**22))

    def read() -> None:
        with pytest.raises(ScanError, match=said):
            read_scan(tmp_path / "bomb.npz")

    assert peak_of(read) < HUGE / 20


def test_many_members_are_looked_at_once(tmp_path: Path) -> None:
    """Ten thousand names: neither as many openings of the archive, nor a note of that length."""
    write_scan(make_scan(), tmp_path / "scan.npz")
    with zipfile.ZipFile(tmp_path / "scan.npz", "a") as archive:
        for number in range(10_000):
            archive.writestr(f"member_{number}.npy", header((0,), "<f8"))
    start = time.monotonic()
    scan = read_scan(tmp_path / "scan.npz")
    assert time.monotonic() - start < 10
    assert all(len(note) <= LONGEST_MESSAGE for note in scan.notes)


def test_weights_are_not_unpacked_beyond_what_their_configuration_needs(tmp_path: Path) -> None:
    path = save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch")
    bomb = forged(path.read_bytes(), bytes(HUGE))
    path.write_bytes(bomb)

    def load() -> None:
        with pytest.raises(BundleError, match=r"weights.h5 would unpack to 268435456 bytes; allowed are \d{7,8}\b"):
            load_bundle(path)

    assert peak_of(load) < HUGE / 20


def test_a_few_bytes_of_hdf5_that_declare_gigabytes_are_not_read(cxi: Path) -> None:
    with h5py.File(cxi, "r+") as file:
        file.create_dataset("entry_1/image_2/many", (10**5, 10**5), np.complex64, chunks=(100, 100))
        attributes = dict(file["entry_1/image_2/data"].attrs)
        del file["entry_1/image_2/data"]
        file.move("entry_1/image_2/many", "entry_1/image_2/data")
        file["entry_1/image_2/data"].attrs.update(attributes)
    with pytest.raises(ScanError, match="image_2/data unpacks to 80000000000 bytes, of which 0 are there"):
        read_scan(cxi)


# --- what is no file ---


@pytest.fixture(params=["a named pipe", "a socket", "a device"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[Path], None]]:
    """Puts what is neither file nor folder at a path."""

    def put_there(path: Path) -> None:
        if request.param == "a named pipe":
            os.mkfifo(path)
        elif request.param == "a device":
            path.symlink_to("/dev/zero")
        else:
            here = Path.cwd()
            os.chdir(path.parent)  # the path of a socket has about 100 characters
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
            os.chdir(here)

    return request.param, put_there


def test_pipes_sockets_and_devices_are_refused_at_once(
    special: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, put_there = special
    calls: dict[str, Callable[[Path], Any]] = {
        **{name: read_scan for name in ("scan.npz", "scan.h5", "scan.cxi")},
        "wts.h5.zip": load_bundle,
        "reconstruction.h5": Reconstruction.load,
        "red.json": load_red,
        "product.h5": lambda path: read_scan(pair, product=path),
    }
    pair = tmp_path / "pair"
    write_scan(make_scan(), pair)
    for name, call in calls.items():
        put_there(tmp_path / name)
        with pytest.raises(PtyintError, match=f"{kind}; allowed: a file"):
            call(tmp_path / name)
    (pair / "diffraction.h5").unlink()
    put_there(pair / "diffraction.h5")
    with pytest.raises(ScanError, match=f"{kind}; allowed: a file"):
        read_scan(pair)
    put_there(tmp_path / "registry.toml")
    monkeypatch.setenv("PTYINT_DATASETS_DIR", str(tmp_path))
    with pytest.raises(FixtureError, match=r"No registry.toml can be read"):
        fixtures.fixture_names()


def test_what_is_no_file_in_a_run_folder_is_named_at_once(special: Any, tmp_path: Path) -> None:
    kind, put_there = special
    folder = tmp_path / "2026-01-31T120000Z"
    folder.mkdir()
    put_there(folder / "manifest.json")
    put_there(tmp_path / "ledger.md")
    put_there(tmp_path / "n.ipynb")
    problems = verification.verify(folder).problems
    assert len(problems) == 1 and f"manifest.json is damaged: {folder / 'manifest.json'} is {kind}" in problems[0]
    assert history.index(tmp_path)["runs"][0]["state"] == "damaged"
    with pytest.raises(OSError, match=f"{kind}; allowed: a file"):
        history.append(tmp_path / "ledger.md", "entry")
    with pytest.raises(ConfigError, match=f"{kind}; allowed: a file"):
        read_notebook(tmp_path / "n.ipynb")


def test_links_to_what_is_no_file_are_refused_at_once(special: Any, cxi: Path) -> None:
    kind, put_there = special
    put_there(cxi.parent / "elsewhere.h5")
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file[DATA] = h5py.ExternalLink("elsewhere.h5", "/data")  # reached by a soft link in entry_1/data_1
    with pytest.raises(ScanError, match=f"data is elsewhere: .*{kind}; allowed: a file. Copy the data into one"):
        read_scan(cxi)


def test_links_in_a_circle(cxi: Path) -> None:
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file[DATA], file["back"] = h5py.SoftLink("/back"), h5py.SoftLink(f"/{DATA}")
    with pytest.raises(ScanError, match=r"is a link in a circle\. Write it anew"):
        read_scan(cxi)


# --- values in other files ---


def test_patterns_in_another_file_are_noted(cxi: Path) -> None:
    with h5py.File(cxi.parent / "elsewhere.h5", "w") as file:
        file["data"] = make_scan().diffraction_patterns
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file[DATA] = h5py.ExternalLink("elsewhere.h5", "/data")
    assert f"/{DATA} is in ['elsewhere.h5']" in read_scan(cxi).notes
    stack = h5py.VirtualLayout((n, N, N), np.uint16)
    stack[:] = h5py.VirtualSource("elsewhere.h5", "data", (n, N, N))
    with h5py.File(cxi, "r+") as file:
        del file[DATA]
        file.create_virtual_dataset(DATA, stack)
    assert "entry_1/data_1/data is in ['elsewhere.h5']" in read_scan(cxi).notes


def test_raw_values_are_read_beside_the_scan_only(cxi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = cxi.parent.parent / f"{cxi.parent.name}.secret"
    secret.write_bytes(bytes(range(256)) * 200)
    for place, allowed in ((secret, False), (cxi.parent / "raw.bin", True)):
        with h5py.File(cxi, "r+") as file:
            del file[DATA]
            data = file.create_dataset(DATA, (n, N, N), np.uint16, external=[(str(place), 0, h5py.h5f.UNLIMITED)])
            if allowed:
                data[:] = make_scan().diffraction_patterns
        if allowed:
            assert any("is in raw.bin" in note for note in read_scan(cxi).notes)
        else:
            with pytest.raises(ScanError, match=r"is kept in .*\.secret; allowed: a file in the folder of this one"):
                read_scan(cxi)


# --- scans that nothing can be learnt from ---


@pytest.mark.parametrize("format", list(FILES))
def test_one_pattern_and_equal_positions_have_their_own_diagnosis(tmp_path: Path, format: str) -> None:
    scan = make_scan()
    one = replace(scan, diffraction_patterns=scan.diffraction_patterns[:1], probe_positions_px=np.full((1, 2), 45.0))
    same = replace(scan, probe_positions_px=np.full((n, 2), 45.0))
    for broken, said in ((one, "found one pattern at one place"), (same, "found all 4 positions equal")):
        path = tmp_path / f"{said[-5:]}-{FILES[format]}"
        write_scan(broken, path)
        with pytest.raises(ScanError, match=f"{said}; allowed: two places or more, whose patches overlap"):
            validate_scan(read_scan(path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: put(path, "xcoords", np.full(n, 45.0)) or put(path, "ycoords", np.full(n, 45.0)),
        lambda path: put(path, "diffraction", np.full((n, N, N), np.nan, np.float32)),
        lambda path: put(path, "xcoords", np.arange(n) * 1e6),
        lambda path: put(path, "probeGuess", np.zeros((N, N), np.complex64)),
        lambda path: path.unlink() or os.mkfifo(path),
    ],
)
def test_a_run_refuses_a_scan_before_anything_starts(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scan(make_scan(), tmp_path / "scan.npz")
    spoil(tmp_path / "scan.npz")
    assert cli.main(["run", "scan", "--scan", "scan.npz"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("ptyint: ") and "scan.npz" in err and len(err) < LONGEST_MESSAGE + 10
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]


# --- bundles ---


@pytest.mark.parametrize("losses", [[1.0, float("nan")], [float("inf")], [1.0, -float("inf")], [True], ["1.0"], 3.0])
def test_losses_of_a_bundle_are_finite_numbers(tmp_path: Path, losses: Any) -> None:
    path = save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch", losses=[1.0])
    path.write_bytes(forged(path.read_bytes(), losses=losses))
    with pytest.raises(BundleError, match=r"lacks \['losses'\], or holds them in a wrong type, or NaN or Inf"):
        load_bundle(path)


def test_losses_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'losses' holds NaN or Inf"):
        save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch", losses=[1.0, float("nan")])
    assert list(tmp_path.iterdir()) == []


# --- messages ---


def test_no_message_is_longer_than_a_paragraph() -> None:
    for length in (1, 599, 600, 601, 10_000):
        message = str(ScanError("x" * length + "end"))
        assert len(message) <= LONGEST_MESSAGE and message.endswith("xend")
        assert ("characters left out" in message) == (length + 3 > LONGEST_MESSAGE)
    assert shortened("a" * 50, 40) == " … 50 characters left out … "


@pytest.mark.parametrize(
    "text",
    [
        "a = 1",
        "[a]\nx = 1",
        '[a]\nkind = "fetched"\nsha256 = 3\nowner = 1\nlicence = 2\nn = 3\nN = 2\ngridsize = 1\nnotes = 2\nurl = "x"',
        f'[a]\nkind = "{"x" * 5000}"\n"{"z" * 5000}" = 1',
        "\x00",
        b"\xff\xfe".decode("latin-1"),
    ],
)
def test_a_registry_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "registry.toml").write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("PTYINT_DATASETS_DIR", str(tmp_path))
    with pytest.raises(FixtureError, match=r"registry\.toml is no registry of fixtures") as caught:
        fixtures.fixture_names()
    assert len(str(caught.value)) <= LONGEST_MESSAGE


def test_the_command_line_says_it_in_any_encoding(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    argv = [sys.executable, "-m", "ptyint.cli", "run", "scan", "--scan", str(tmp_path / ("\u00e9" * 90 + ".npz"))]
    run = subprocess.run(argv, capture_output=True, env=env, cwd=tmp_path)
    assert run.returncode == 2 and run.stderr.isascii() and b"no such file" in run.stderr


LONG = "a" * 5000


@pytest.mark.parametrize(
    "argv",
    [[LONG], [f"--{LONG}"], ["run", LONG], ["run", "--jobs", LONG], ["run", "--profile", LONG], ["run", f"--{LONG}"],
     ["run", "--scan", LONG], ["run", "scan", "-p", LONG, "1"], ["run", "scan", "-p", "nepochs", LONG],
     ["verify", LONG], ["index", "--reports", LONG], ["check-backend", LONG], ["notebooks", LONG]],
    ids=lambda argv: " ".join(argv)[:20],
)  # fmt: skip
def test_a_huge_argument_is_no_huge_message(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) in (1, 2)
    assert 0 < len("".join(capsys.readouterr())) < 2 * LONGEST_MESSAGE
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["1" * 5000, "0x" + "f" * 5000, "[" + "1" * 5000 + "]", "{a: " + "1" * 5000 + "}", "[2026-99-99]", "inf", "nan"],
    ids=lambda text: f"{text[:6]} of {len(text)}",
)
@pytest.mark.parametrize("name", ["nphotons", "nepochs", "min_agreement"])
def test_a_number_that_cannot_be_is_a_sentence(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "scan", "--dry-run", "-p", name, text]) == 2
    out, err = capsys.readouterr()
    assert not out and f"{name} is" in err and len(err) < 2 * LONGEST_MESSAGE
