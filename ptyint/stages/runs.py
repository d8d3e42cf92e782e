"""Finished runs as Python has them: manifest, checks, findings, arrays, reconstructions and logs."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ptyint._glance import Glance
from ptyint.evidence import folder as folders
from ptyint.evidence import manifest as manifests
from ptyint.evidence.checks import signed
from ptyint.evidence.manifest import Manifest
from ptyint.images.reconstruction import NAME as RECONSTRUCTION
from ptyint.images.reconstruction import Reconstruction
from ptyint.parity import results
from ptyint.parity.compare import RED_TAPS, RedTap, load_taps


@dataclass(frozen=True, repr=False)
class Run(Glance):
    """A run folder, read when it is asked for.

    Attributes
    ----------
    folder : Path
    manifest : Manifest

    Examples
    --------
    >>> import ptyint
    >>> try:
    ...     ptyint.Run.load("nowhere")
    ... except ptyint.EvidenceError as error:
    ...     print(error)
    nowhere has no manifest.json: it is not a run folder, or its run never began.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Run":
        """Read the manifest of a run folder; an EvidenceError where there is none."""
        return cls(Path(folder), manifests.read(Path(folder)))

    @property
    def checks(self) -> pd.DataFrame:
        """A row for each check: stage, notebook, name, verdict, measured, relation, bound, unit, note."""
        return pd.DataFrame([check.model_dump() for check in self.manifest.checks])

    @cached_property
    def findings(self) -> pd.DataFrame:
        """A row for each finding of the parity ladder; none where the run has none."""
        path = self.folder / "ladder.json"
        return results.Ladder.load(path).findings if path.is_file() else results.table(())

    @cached_property
    def arrays(self) -> list[RedTap]:
        """The red taps of the ladder, with what both sides had there."""
        return load_taps(self.folder / RED_TAPS)

    @cached_property
    def reconstructions(self) -> dict[str, Reconstruction]:
        """Folder, such as ``star/pytorch``, to what was reconstructed there."""
        files = sorted(self.folder.rglob(RECONSTRUCTION))
        return {path.parent.relative_to(self.folder).as_posix(): Reconstruction.load(path) for path in files}

    @property
    def logs(self) -> dict[str, str]:
        """Name to text."""
        return {path.name: path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("*.log"))}

    def _facts(self) -> dict[str, Any]:
        passed = sum(check.verdict == "pass" for check in self.manifest.checks)
        whole = {"name": self.manifest.run, "verdict": self.manifest.verdict, "profile": self.manifest.profile}
        stages = {one.title: f"{signed(one.verdict)}. {one.compared}" for one in self.manifest.notebooks}
        return {**whole, "passed": f"{passed} of {len(self.manifest.checks)} checks", **stages}


def runs(reports: str | os.PathLike[str] = "reports") -> list[Run]:
    """The finished runs in a folder, the newest first.

    Examples
    --------
    >>> import ptyint
    >>> ptyint.runs("nowhere")
    []
    """
    return [Run(Path(reports) / one.run, one) for one in folders.finished_runs(Path(reports))]
