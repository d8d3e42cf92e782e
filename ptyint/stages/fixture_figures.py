"""What the fixtures look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptyint.images.figures import PHASE_HEADROOM, PHASE_MAP, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ptyint.stages.fixtures import Dataset, Examined

PER_LINE = 2
PERCENTILES = (1, 99)
"""Range of an object that is named and shown: sharp edges may overshoot it."""


def gallery(examined: Sequence[Examined]) -> Picture:
    """Of each fixture one pattern (log counts), the object's amplitude and its phase with the positions.

    Parameters
    ----------
    examined : sequence of Examined

    Returns
    -------
    Picture
    """
    lines = max(1, -(-len(examined) // PER_LINE))
    figure = Figure(figsize=(8.6, 1.62 * lines + 1.1), layout="constrained")
    axes = figure.subplots(lines, 3 * PER_LINE, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    phases = [_ranges(one.dataset)[1] for one in examined if one.dataset and one.dataset.truth_known]
    limit = min(np.pi, PHASE_HEADROOM * max((float(abs(phase).max()) for phase in phases), default=1.0))
    alts: list[str] = []
    drawn: dict[str, Any] = {}
    for index, one in enumerate(examined):
        line, place = divmod(index, PER_LINE)
        panels = list(axes[line, 3 * place : 3 * place + 3])
        panels[0].set_title(one.fixture.name, fontsize=9, loc="left", fontweight="bold")
        if one.dataset is None:
            why = "not examined" if one.absent else "could not be loaded"
            panels[1].text(0.5, 0.5, why, ha="center", va="center", transform=panels[1].transAxes)
            alts.append(f"{one.fixture.name}: {why}")
            continue
        drawn |= _draw(panels, one.dataset, limit)
        alts.append(f"{one.fixture.name}: {_describe(one.dataset)}")
    for (label, image), half in zip(drawn.items(), (slice(0, 3), slice(3, 6)), strict=False):
        figure.colorbar(image, ax=list(axes[-1, half]), label=label, location="bottom", shrink=0.8, aspect=30)
    figure.suptitle(
        "one pattern (log counts, black: none)  |  object amplitude  |  object phase, positions", fontsize=10
    )
    text = "Fixtures, each as one diffraction pattern, object amplitude, and object phase with the scan positions. "
    return Picture(figure, text + "; ".join(alts) + ".")


def _draw(panels: Sequence[Axes], data: Dataset, limit: float) -> dict[str, Any]:
    """Draw one fixture, phases within `limit`; return the images that a colour bar explains, by label."""
    nearest: dict[str, Any] = {"interpolation": "nearest"}
    brightest = float(data.pattern.max())
    logs = np.log10(np.maximum(data.pattern, 0.3))
    panels[0].imshow(logs, cmap="magma", **nearest)
    panels[0].text(0.03, 0.03, f"max {brightest:,.0f}", color="white", fontsize=8, transform=panels[0].transAxes)
    y, x = data.positions_px.T
    panels[2].plot(x, y, ".", color="black", markersize=1.1, zorder=2)
    panels[2].set_title(f"{data.n} positions", fontsize=9)
    if data.object_ is None or not data.truth_known:
        panels[1].text(0.5, 0.5, "no truth known", ha="center", va="center", transform=panels[1].transAxes)
        height, width = data.object_shape
        panels[2].set(aspect="equal", xlim=(0, width or x.max()), ylim=(height or y.max(), 0))
        return {}
    phase = np.angle(data.object_)
    return {
        "object amplitude": panels[1].imshow(abs(data.object_), cmap="gray", vmin=0.3, vmax=1.05, **nearest),
        "object phase / rad": panels[2].imshow(phase, cmap=PHASE_MAP, vmin=-limit, vmax=limit, **nearest),
    }


def _ranges(data: Dataset) -> NDArray[np.floating]:
    """Amplitude and phase, each from low to high: ``[[a, b], [c, d]]``; of a scan whose truth is known."""
    parts = (abs(data.object_), np.angle(data.object_)) if data.object_ is not None else ([1.0], [0.0])
    return np.array([np.percentile(part, PERCENTILES) for part in parts])


def _describe(data: Dataset) -> str:
    height, width = np.ptp(data.positions_px, axis=0)
    text = (
        f"{data.n} patterns of {data.N} x {data.N}, brightest pixel of the one shown {data.pattern.max():,.0f} counts, "
        f"positions over {height:.0f} x {width:.0f} px"
    )
    if not data.truth_known:
        return f"{text}, no truth known"
    ranges = "amplitude {:.2f} to {:.2f}, phase {:.2f} to {:.2f} rad".format(*_ranges(data).flat)
    return f"{text}, {ranges} ({PERCENTILES[0]}st to {PERCENTILES[1]}th percentile)"
