"""Whole files or no files, and archives that hold what they were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyint._atomic import atomic_path, write_arrays

ARRAYS: dict[str, Any] = {"a b/c": np.arange(6.0).reshape(2, 3), "words": np.array("text"), "flag": True}


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old" and temporary.parent == tmp_path and temporary.suffix == ".txt"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_atomic_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    """A temporary file is private; a bundle in a shared folder must not stay so."""
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_holds_the_arrays_and_nothing_else(
    compressed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy 2.0 takes every keyword of ``savez`` for an array; ``allow_pickle`` is one of 2.1."""
    for name in ("savez", "savez_compressed"):
        real = getattr(np, name)
        monkeypatch.setattr(np, name, lambda file, *args, real=real, **arrays: real(file, *args, **_as_2_0(arrays)))
    write_arrays(tmp_path / "one.npz", ARRAYS, compressed=compressed)
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file[name], array)


def _as_2_0(arrays: dict[str, Any]) -> dict[str, Any]:
    """Keywords under which today's ``savez`` writes what NumPy 2.0 would write: all of them."""
    return {f"{name}, an array to NumPy 2.0" if name == "allow_pickle" else name: one for name, one in arrays.items()}


def test_what_only_pickle_could_hold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one\.npz: \['objects'\] hold Python objects; allowed: numbers"):
        write_arrays(tmp_path / "one.npz", {"fine": np.ones(2), "objects": np.array([{}, None], object)})
    assert list(tmp_path.iterdir()) == []
