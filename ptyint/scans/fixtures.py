"""Scans by name: ``load_fixture("synthetic-64")``.

The registry ``datasets/registry.toml`` says of every fixture where it comes from, whose it is and what its sha256 is.
Frozen arrays count, not seeds: what is generated is hashed array by array (``Scan.sha256``) and must match, as
files must; anything else is a :class:`~ptyint.errors.FixtureError`.
"""

import bz2
import hashlib
import io
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ptyint._atomic import plain, shipped, write_arrays
from ptyint.errors import FixtureError, MissingFixtureError, did_you_mean
from ptyint.scans import simulate
from ptyint.scans.scan import DIGESTED, Scan

DATASETS_VARIABLE = "PTYINT_DATASETS_DIR"
"""Environment variable: the folder with the registry and the committed files, if not the package's own."""

DATA_VARIABLE = "PTYINT_DATA_DIR"
"""Environment variable: a local folder with the real data; comes before any download."""

REQUIRE_VARIABLE = "PTYINT_REQUIRE_DATA"
"""Environment variable: set to 1, data that cannot be had is a failure and nothing is left out."""

TIMEOUT_S = 20.0
"""A server that is silent for so long is taken for unreachable."""

_UNREACHABLE: dict[str, OSError] = {}
"""What came of the addresses that this process asked in vain."""

ARRAYS = "arrays"
"""Key in :attr:`Fixture.sha256` of the digest over a generated scan's arrays."""


@dataclass(frozen=True)
class Fixture:
    """One entry of the registry.

    Attributes
    ----------
    name : str
    kind : {"generated", "committed", "fetched"}
        Computed on demand; in ``datasets/``; downloaded once and cached, or taken from the local data folder.
    sha256 : dict of str to str
        File (relative to its folder) to sha256. Key ``"arrays"``: the digest of the generated arrays.
    owner, licence : str
    n, N : int
        Number and edge of the patterns.
    gridsize : int
        Suggested: 1, or 2 for groups of four neighbours.
    notes : str
        What it is for, and what tests of the two backends may rely on.
    url : str
        Where a fetched file comes from, pinned to a commit.
    generator : dict
        What makes the arrays: functions of :mod:`ptyint.scans.simulate`, and all their numbers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    kind: Literal["generated", "committed", "fetched"]
    sha256: dict[str, str]
    owner: str
    licence: str
    n: int
    N: int
    gridsize: int
    notes: str
    url: str = ""
    generator: Mapping[str, Any] = field(default_factory=dict)

    @property
    def truth_known(self) -> bool:
        """Whether the object that made the patterns is known: every simulation's, no experiment's."""
        return self.kind != "fetched"


def fixture_names() -> list[str]:
    """Names of all fixtures, in the registry's order.

    Examples
    --------
    >>> fixture_names()
    ['tiny-64', 'synthetic-64', ..., 'siemens-star', 'siemens-star-64', 'ptychodus-sim-64']
    """
    return list(_registry())


def fixture_info(name: str) -> Fixture:
    """What the registry says of a fixture; loads no data.

    Parameters
    ----------
    name : str
        One of :func:`fixture_names`.

    Returns
    -------
    Fixture
        Where it comes from, whose it is, and its sha256.

    Raises
    ------
    FixtureError
        Unknown name, or no readable registry.

    Examples
    --------
    >>> star = fixture_info("siemens-star-64")
    >>> star.kind, star.n, star.N, star.gridsize, star.truth_known
    ('fetched', 516, 64, 2, False)
    """
    registry = _registry()
    if name not in registry:
        hint = did_you_mean(name, registry)
        raise FixtureError(f"No fixture is named {name!r}.{hint} Known: {', '.join(registry)}.")
    return registry[name]


def load_fixture(name: str) -> Scan:
    """Load, generate or fetch a fixture; its sha256 is checked every time.

    Parameters
    ----------
    name : str
        One of :func:`fixture_names`.

    Returns
    -------
    Scan
        `object_is_truth` only where the object is known from a simulation; experiments get a flat object that holds
        all patches.

    Raises
    ------
    FixtureError
        Unknown name, missing or unreachable file, or a sha256 that does not hold.

    Examples
    --------
    >>> scan = load_fixture("tiny-64")
    >>> scan.n, scan.N, scan.object_is_truth
    (16, 64, True)
    """
    fixture = fixture_info(name)
    if fixture.kind == "generated":
        return generate_fixture(name)
    return _load_committed(fixture) if fixture.kind == "committed" else _load_tike(fixture)


def fixture_file(name: str, *, ask_again: bool = True) -> Path:
    """The checked file of a fetched fixture: from the local data folder, the user's cache, or now from the network.

    Parameters
    ----------
    name : str
        A fetched fixture.
    ask_again : bool
        False: an address that this process asked in vain is not asked again.

    Returns
    -------
    Path

    Raises
    ------
    MissingFixtureError
        No folder has the file, and it cannot be downloaded.
    FixtureError
        The fixture has no such file, or the file's sha256 does not hold.
    """
    fixture = fixture_info(name)
    if not fixture.url or len(fixture.sha256) != 1:
        raise FixtureError(f"{name} ({fixture.kind}) is not fetched; load_fixture has its arrays.")
    ((file, expected),) = fixture.sha256.items()
    folder = os.environ.get(DATA_VARIABLE)
    if folder and (Path(folder) / file).is_file():
        return _checked(Path(folder) / file, expected)
    import pooch

    download = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_S)
    try:
        if not ask_again and fixture.url in _UNREACHABLE:
            raise _UNREACHABLE[fixture.url]
        found = pooch.retrieve(fixture.url, f"sha256:{expected}", file, pooch.os_cache("ptyint"), downloader=download)
    except ValueError as error:
        raise FixtureError(f"{name}: what {fixture.url} sent is not the registry's file: {error}") from error
    except OSError as error:
        _UNREACHABLE[fixture.url] = error
        state = f"{DATA_VARIABLE}={folder} lacks it" if folder else f"{DATA_VARIABLE} is not set"
        raise MissingFixtureError(
            f"{name} cannot be fetched from {fixture.url} ({type(error).__name__}), and {state}: "
            f"offline, set {DATA_VARIABLE} to a folder that holds {file} with the sha256 {expected}."
        ) from error
    _UNREACHABLE.pop(fixture.url, None)
    return Path(found)


def missing(name: str) -> str:
    """Why a fixture cannot be had here, and the remedy; empty where it can, or must (``PTYINT_REQUIRE_DATA=1``)."""
    if fixture_info(name).kind != "fetched" or os.environ.get(REQUIRE_VARIABLE) == "1":
        return ""
    try:
        fixture_file(name, ask_again=False)
    except MissingFixtureError as error:
        return str(error)
    except FixtureError:
        pass  # it is here, and damaged: whoever loads it says so
    return ""


def generate_fixture(name: str) -> Scan:
    """Run a fixture's generator and check the arrays' digest.

    Parameters
    ----------
    name : str
        A generated or committed fixture.

    Returns
    -------
    Scan

    Raises
    ------
    FixtureError
        It has no generator, or the digest does not hold.
    """
    fixture = fixture_info(name)
    try:
        scan = _simulated(fixture)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        known = ", ".join(known for known, entry in _registry().items() if entry.generator)
        raise FixtureError(
            f"{name} ({fixture.kind}) has no generator that runs ({error!r}); known: {known}."
        ) from error
    advice = "this code, NumPy or CPU makes other numbers than the registry froze; compare them before any report"
    _compare(f"{name}: the generated arrays", scan.sha256, fixture.sha256[ARRAYS], advice)
    return scan


def freeze_fixture(name: str, path: str | os.PathLike[str]) -> None:
    """Write a generated fixture's arrays as the NPZ file that ``datasets/`` carries.

    Parameters
    ----------
    name : str
    path : path-like
        Replaced as a whole.

    Raises
    ------
    FixtureError
        See :func:`generate_fixture`.
    """
    scan = generate_fixture(name)
    write_arrays(path, {field: getattr(scan, field) for field in DIGESTED}, compressed=True)


# Registry and files


def _datasets_folder() -> Path:
    return Path(os.environ.get(DATASETS_VARIABLE) or shipped("datasets"))


def _registry() -> dict[str, Fixture]:
    path = _datasets_folder() / "registry.toml"
    try:
        return _fixtures_in(plain(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FixtureError(
            f"No registry.toml can be read in {path.parent} ({DATASETS_VARIABLE}={os.environ.get(DATASETS_VARIABLE)}); "
            f"set {DATASETS_VARIABLE} to the 'datasets' folder of a checkout, or unset it."
        ) from error
    except (ValueError, TypeError) as error:  # no UTF-8, no TOML, or entries of another kind
        if isinstance(error, ValidationError):
            flaws = [f"{'.'.join(map(str, flaw['loc']))}: {flaw['msg']}" for flaw in error.errors()]
            raise FixtureError(f"{path} is no registry of fixtures: {'; '.join(flaws)}. Restore it.") from error
        raise FixtureError(f"{path} is no registry of fixtures ({error}); restore it from the repository.") from error


@lru_cache
def _fixtures_in(registry: str) -> dict[str, Fixture]:
    entries = tomllib.loads(registry)
    return TypeAdapter(dict[str, Fixture]).validate_python({n: {"name": n, **e} for n, e in entries.items()})


def _compare(what: str, found: str, expected: str, advice: str) -> None:
    if found != expected:
        raise FixtureError(f"{what}: sha256 is {found}, the registry says {expected}; {advice}.")


def _checked(path: Path, expected: str) -> Path:
    _compare(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), expected, "replace the file by the original")
    return path


# Loaders


def _simulated(fixture: Fixture) -> Scan:
    """A scan by the functions of :mod:`ptyint.scans.simulate` that the registry names, with its numbers."""
    how = dict(fixture.generator)
    path, make_object, make_probe = (getattr(simulate, how.pop(key)) for key in ("path", "object", "probe"))
    positions, shape = simulate.place(path(**how.pop("path_options")), fixture.N)
    object_ = make_object(shape, seed=how.pop("object_seed"))
    return simulate.simulate_scan(object_, make_probe(fixture.N), positions, name=fixture.name, **how)


def _load_committed(fixture: Fixture) -> Scan:
    """The frozen arrays in an NPZ, or a Ptychodus pair: the patterns, and the product that holds the truth."""
    from ptyint.scans.files import read_scan

    files = {_datasets_folder() / file: sha256 for file, sha256 in fixture.sha256.items() if file != ARRAYS}
    for path, expected in files.items():
        if not path.is_file():
            raise FixtureError(f"{fixture.name}: no file {path}; restore it from the repository.")
        _checked(path, expected)
    path, *product = files
    if product:
        return replace(read_scan(path, product=product[0], object_is_truth=True), name=fixture.name)
    with np.load(path, allow_pickle=False) as arrays:
        return Scan(**{field: arrays[field] for field in DIGESTED}, object_is_truth=True, name=fixture.name)


def _load_tike(fixture: Fixture) -> Scan:
    """Tike's NPZ: counts with DC at the corner, ``scan`` (y, x) at the patches' smallest corner, all with a leading 1.

    Where the registry's N is smaller than the detector, its centre is cut out: the field of view stays, so an object
    pixel grows by ``M / N``, positions shrink by it, and the probe loses the spectrum that the detector lost.
    """
    raw = bz2.decompress(fixture_file(fixture.name).read_bytes())
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        patterns, corners, modes = arrays["data"][0], arrays["scan"][0].astype(np.float64), arrays["probe"][0, 0, 0]
    M, N = patterns.shape[-1], fixture.N
    margin = (M - N) // 2
    centre = slice(margin, margin + N)
    counts = np.fft.fftshift(patterns, axes=(-2, -1))[:, centre, centre].astype(np.uint16)  # float32 integers below 964
    positions, shape = simulate.place(corners * (N / M), N)
    notes = ("the object is flat, no truth is known", "the probe is the file's guess and not photon-normalised")
    return Scan(
        counts, positions, _crop_spectrum(modes, centre), np.ones(shape, np.complex64), name=fixture.name, notes=notes
    )


def _crop_spectrum(probe: NDArray[np.complex64], centre: slice) -> NDArray[np.complex64]:
    """Cut out the centre of the orthonormal spectrum: a coarser probe that diffracts to the same amplitudes there."""
    axes = (-2, -1)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=axes), norm="ortho"), axes=axes)
    cut = np.fft.ifftshift(spectrum[..., centre, centre], axes=axes)
    return np.asarray(np.fft.fftshift(np.fft.ifft2(cut, norm="ortho"), axes=axes), np.complex64)
