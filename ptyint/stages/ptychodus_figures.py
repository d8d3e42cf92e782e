"""What the page of the stage ``ptychodus`` shows. Draws and assembles, computes nothing."""

from __future__ import annotations

import numpy as np

from ptyint.backends import title
from ptyint.evidence.display import Table, number
from ptyint.evidence.record import Record
from ptyint.images import figures
from ptyint.images.figures import Picture
from ptyint.ptychodus.settings import BACKENDS
from ptyint.stages.ptychodus import Agreement, object_of


def headline(one: Agreement) -> Table:
    """What was compared, and the numbers that matter."""
    numbers = {
        f"largest relative difference, Ptychodus against direct, {title(b)}": one.difference(b) for b in BACKENDS
    }
    value = one.between().values["phase_correlation"]
    numbers["phase correlation of the backends in Ptychodus"] = float("nan") if value is None else value
    epochs = len(one.losses[BACKENDS[0]])
    compared = (
        f"{one.scan.name} ({one.scan.n} patterns of {one.scan.N} x {one.scan.N}) trained for {epochs} epochs and "
        f"reconstructed with TensorFlow and PyTorch, in Ptychodus {one.version} (batch, from a flat object) and by "
        "calling the dispatcher; same scan, settings and seed."
    )
    record = Record(
        compared=compared,
        numbers=numbers,
        commands=tuple(step.command for step in one.steps.values()),
        datasets={one.scan.name: one.scan.sha256},
    )
    return Table("In short", ("what", "found"), [(name, number(value)) for name, value in numbers.items()], record)


def in_ptychodus(one: Agreement) -> Picture:
    """Truth, where it is known, and both backends' objects from Ptychodus, in one gauge, and their difference."""
    images: dict[str, figures.Complex]
    if one.scan.object_is_truth:
        compared = {backend: one.against_truth(backend) for backend in BACKENDS}
        inside = np.logical_and.reduce([found.gauge.mask for found in compared.values()])
        images = {"truth": object_of(one.scan), **{title(b): found.gauge.aligned for b, found in compared.items()}}
    else:
        between = one.between()
        inside = between.gauge.mask
        images = {title(BACKENDS[0]): object_of(one.inside[BACKENDS[0]]), title(BACKENDS[1]): between.gauge.aligned}
    return figures.images_side_by_side(images, inside, *map(title, BACKENDS))


def against_direct(one: Agreement, backend: str) -> Picture:
    """A backend's object called directly and from Ptychodus, as they are, and their difference."""
    images = {"direct": one.direct[backend].object_, "Ptychodus": object_of(one.inside[backend])}
    return figures.images_side_by_side(
        images, one.scanned, "direct", "Ptychodus", how=f"{title(backend)}, as they came out"
    )


def steps_table(one: Agreement) -> Table:
    """Every process, and what it left."""
    rows = [
        (name, str(step.command["exit_code"]), ", ".join(step.files) or "-", step.command["log"])
        for name, step in one.steps.items()
    ]
    return Table("Processes", ("process", "exit code", "files in its output folder", "log"), rows)
