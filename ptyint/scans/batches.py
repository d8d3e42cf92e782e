"""Grouped patterns, ready for a network: the bookkeeping that both backends share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptyint.config import InferenceConfig, TrainingConfig
from ptyint.errors import ConfigError, ScanError
from ptyint.scans.groups import Groups, group_positions
from ptyint.scans.scan import Scan

PATTERNS_PER_READ = 256

PATCH_PIXELS = 2**22
"""Pixels of object patches that are inferred at a time where they are not kept: 32 MiB."""


def canvas_size(N: int, offsets_px: ArrayLike) -> int:
    """Edge of the square region that holds all patches of a group at their offsets: ``N + 2 * ceil(max |offset|)``.

    Give it the offsets (..., 2) of all groups, so that every batch has one shape.
    """
    offsets = np.asarray(offsets_px, np.float64)
    return N + 2 * int(np.ceil(np.abs(offsets).max(initial=0.0)))


@dataclass(frozen=True, eq=False)
class Batch:
    """B groups of C patterns.

    Attributes
    ----------
    inputs : ndarray, (B, C, N, N)
        Amplitudes as the network sees them: the mean pattern has the energy ``(N / 2)**2``.
    counts : ndarray, (B, C, N, N)
        What the loss compares with.
    offsets_px : ndarray, (B, C, 2)
        ``(y, x)`` from the group's mean position.
    n_canvas : int
        Edge of the solution region, the same for every batch of a scan.
    count_scale : float
        ``counts = count_scale * inputs**2``: the mean counts in a pattern over ``(N / 2)**2``.
    """

    inputs: NDArray[np.floating]
    counts: NDArray[np.floating]
    offsets_px: NDArray[np.floating]
    n_canvas: int
    count_scale: float


def ahead(made: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; a thread makes the next one while this one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield batch


@dataclass(frozen=True, eq=False)
class GroupedScan:
    """A scan, its groups, and the mean counts in a pattern that it is rescaled to, if any."""

    scan: Scan
    groups: Groups
    nphotons: float | None = None

    @classmethod
    def from_config(cls, scan: Scan, config: TrainingConfig | InferenceConfig) -> GroupedScan:
        """Group `scan` as `config` says; a ConfigError where the model's N is not the scan's, or the scan too small."""
        if config.model.N != scan.N:
            raise ConfigError(
                f"model.N is {config.model.N}, but the patterns of {scan.name!r} have {scan.N} pixels; set N={scan.N}."
            )
        groups = group_positions(
            scan.probe_positions_px,
            gridsize=config.model.gridsize,
            n_groups=config.n_groups,
            neighbor_count=config.neighbor_count,
            seed=config.seed,
        )
        return cls(scan, groups, getattr(config, "nphotons", None))

    @cached_property
    def measured_total_counts(self) -> float:
        """Mean over all patterns of the counts in a pattern, as measured (read in slices)."""
        n, step = self.scan.n, PATTERNS_PER_READ
        sums = (self.scan.counts(slice(i, i + step)).sum(dtype=np.float64) for i in range(0, n, step))
        mean = float(sum(sums)) / n
        if not mean > 0:
            raise ScanError(f"The mean counts in a pattern of {self.scan.name!r} are {mean}; give a scan with counts.")
        return mean

    @property
    def mean_total_counts(self) -> float:
        """Mean counts in a pattern after the rescaling to `nphotons`."""
        return self.measured_total_counts if self.nphotons is None else self.nphotons

    @property
    def count_scale(self) -> float:
        """Counts per squared unit of the network's input."""
        return self.mean_total_counts / (self.scan.N / 2) ** 2

    @cached_property
    def n_canvas(self) -> int:
        """Edge of the solution region that holds every group."""
        return canvas_size(self.scan.N, self.groups.offsets_px)

    def parts(self, batch_size: int) -> Iterator[GroupedScan]:
        """All groups once, some whole batches at a time, whose patches fit into memory; what is of all groups stays."""
        groups, n = self.groups, self.groups.n_groups
        step = batch_size * max(1, PATCH_PIXELS // (batch_size * groups.n_channels * self.scan.N**2))
        for start in range(0, n, step):
            some = slice(start, start + step)
            taken = Groups(groups.gridsize, groups.indices[some], groups.offsets_px[some], groups.centers_px[some])
            part = replace(self, groups=taken)
            vars(part).update(measured_total_counts=self.measured_total_counts, n_canvas=self.n_canvas)
            yield part

    def batch(self, index: NDArray[np.integer], precision: str = "float32") -> Batch:
        """The groups at `index` (B,), read from the scan now, in 'float32' or 'float64'."""
        patterns = self.groups.indices[index]
        unique, inverse = np.unique(patterns, return_inverse=True)
        counts = self.scan.counts(unique).astype(np.float64)[inverse.reshape(patterns.shape)]
        counts *= self.mean_total_counts / self.measured_total_counts
        inputs = np.sqrt(counts / self.count_scale)
        inputs, counts, offsets = (a.astype(precision) for a in (inputs, counts, self.groups.offsets_px[index]))
        return Batch(inputs, counts, offsets, self.n_canvas, self.count_scale)

    def order(self, generator: np.random.Generator | None = None) -> NDArray[np.integer]:
        """All groups once, as :meth:`batches` takes them: in an order drawn from `generator`, or as they come."""
        n_groups = self.groups.n_groups
        return np.arange(n_groups) if generator is None else generator.permutation(n_groups)

    def batches(self, batch_size: int, generator: np.random.Generator | None = None) -> Iterator[Batch]:
        """All groups once, in the :meth:`order` that `generator` gives; patterns of a file are read ahead."""
        order = self.order(generator)
        made = (self.batch(order[start : start + batch_size]) for start in range(0, len(order), batch_size))
        return made if isinstance(self.scan.diffraction_patterns, np.ndarray) else ahead(made)
