"""Two arrays, or two reconstructions, beside each other: for exploring. Data in, picture out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptyint.backends import title
from ptyint.evidence.display import Fragment, Picture, number
from ptyint.images.figures import NO_TICKS, PHASE_MAP
from ptyint.images.gauge import Mask, remove_gauge
from ptyint.images.reconstruction import Reconstruction

PARTS = {"amplitude": np.abs, "phase": np.angle, "real part": np.real, "imaginary part": np.imag}
LAST = 64
"""Planes that a slider offers, beside that of the worst element."""


class Chooser:
    """A function of choices that displays what it returns: with widgets in JupyterLab, else for the first choices.

    Parameters
    ----------
    show : callable
        Called with one of the options of each choice, by its name; what it returns displays itself.
    **choices : mapping or tuple
        A mapping gives a list of its keys, which begins with the first; a sequence and one of it, a slider there.
    """

    def __init__(self, show: Callable[..., Any], **choices: Mapping[str, Any] | tuple[Sequence[Any], Any]) -> None:
        self.show, self.choices = show, choices

    @property
    def still(self) -> Any:
        """What is shown before anybody chooses."""
        begin = {n: next(iter(one.values())) if isinstance(one, Mapping) else one[1] for n, one in self.choices.items()}
        shown = self.show(**begin)
        return shown.still if isinstance(shown, Chooser) else shown

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """The still; where somebody can choose, widgets in the same bundle."""
        bundle = self.still._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if find_spec("ipywidgets") and _is_live():
            from IPython.display import display
            from ipywidgets import Dropdown, SelectionSlider, interactive

            controls = {
                name: Dropdown(options=one, description=name, layout={"width": "max-content"})
                if isinstance(one, Mapping)
                else SelectionSlider(options=one[0], value=one[1], description=name)
                for name, one in self.choices.items()
            }
            data |= interactive(lambda **chosen: display(self.show(**chosen)), **controls)._repr_mimebundle_()
        return data, metadata


def _is_live() -> bool:
    """Whether somebody sits before this kernel: papermill and nbconvert say that nobody can answer."""
    from IPython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


def arrays(reference: NDArray[Any], candidate: NDArray[Any], sides: tuple[str, str]) -> Chooser | Fragment:
    """Choose a part, a plane and a zoom of two arrays of one shape."""
    if reference.shape != candidate.shape:
        return Fragment.of(f"{sides[0]} is {reference.shape}, {sides[1]} {candidate.shape}: nothing to subtract.")
    parts = PARTS if np.iscomplexobj(reference) else {"value": np.real}
    planes = range(min(LAST, int(np.prod(reference.shape[:-2]))))
    plane, zoom = (["worst", *planes], "worst"), ([1, 2, 4, 8], 1)
    return Chooser(partial(_pair, reference, candidate), part=parts, plane=plane, zoom=zoom)


@np.errstate(invalid="ignore")  # of what is not finite
def _pair(reference: Any, candidate: Any, part: Any, plane: int | str, zoom: int) -> Picture:
    """A plane of both, their signed difference, its histogram, and the lines through the worst pixel.

    `zoom` above 1 shows as much less of each, about the worst pixel.
    """
    planes = [part(np.atleast_2d(one)).reshape(-1, *np.atleast_2d(one).shape[-2:]) for one in (reference, candidate)]
    apart = np.nan_to_num(abs(planes[1] - planes[0]), nan=np.inf)
    index = int(apart.reshape(len(apart), -1).max(axis=1).argmax()) if plane == "worst" else int(plane)
    row, column = map(int, np.unravel_index(int(apart[index].argmax()), apart.shape[1:]))
    a, b = (one[index] for one in planes)
    box = tuple(
        slice(low := min(max(0, at - n // (2 * zoom)), n - max(1, n // zoom)), low + max(1, n // zoom))
        for at, n in zip((row, column), a.shape, strict=True)
    )
    difference, figure = b - a, Figure(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    values, apart = (one[np.isfinite(one)] for one in (np.stack([a, b]), difference))
    low, high, span = values.min(initial=0), values.max(initial=0), float(abs(apart).max(initial=0)) or 1.0
    extent = (box[1].start - 0.5, box[1].stop - 0.5, box[0].stop - 0.5, box[0].start - 0.5)
    images = {"reference": (a, "gray", low, high), "candidate": (b, "gray", low, high)}
    images["candidate - reference"] = (difference, "RdBu_r", -span, span)
    for ax, (name, (image, cmap, bottom, top)) in zip(axes[0], images.items(), strict=True):
        drawn = ax.imshow(image[box], cmap=cmap, vmin=bottom, vmax=top, extent=extent, aspect="auto")
        ax.plot(column, row, "o", mfc="none", mec="#d00", ms=12)
        ax.set_title(name)
        figure.colorbar(drawn, ax=ax)
    axes[1, 0].hist(apart, bins=64, range=(-span, span), log=True, color="#1f5fa8")
    axes[1, 0].set_title("histogram of the difference")
    lines = {f"row {row}": (a[row], b[row]), f"column {column}": (a[:, column], b[:, column])}
    for ax, (name, both) in zip(axes[1, 1:], lines.items(), strict=True):
        for line, label, style in zip(both, ("reference", "candidate"), ("-", "--"), strict=True):
            ax.plot(line, style, label=label)
        ax.set_title(name)
        ax.legend()
    seen = ", ".join(number(float(one[row, column])) for one in (a, b, difference))
    said = f"plane {index}: worst at ({row}, {column}): reference, candidate, difference are {seen}"
    figure.suptitle(said)
    return Picture(figure, f"Reference, candidate and difference, {said}.")


def blink(reference: Reconstruction, candidate: Reconstruction) -> Chooser:
    """Two reconstructions in one gauge: a slider goes from one to the other, and a row crosses both."""
    gauge = remove_gauge(candidate.object_, reference.object_, mask=reference.scanned & candidate.scanned)
    images = {title(reference.backend): reference.object_, title(candidate.backend): gauge.aligned}
    parts = {name: PARTS[name] for name in ("phase", "amplitude")}
    rows = range(gauge.mask.shape[0])
    slider = {"candidate": ([0.0, 0.25, 0.5, 0.75, 1.0], 0.5), "row": (rows, len(rows) // 2)}
    return Chooser(partial(_blend, images, gauge.mask), part=parts, **slider)


def _blend(images: Mapping[str, Any], mask: Mask, part: Any, candidate: float, row: int) -> Picture:
    names = list(images)
    mean = np.exp(-1j * np.angle(images[names[0]][mask].sum()))
    a, b = (np.ma.array(part(one * mean), mask=~mask) for one in images.values())
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    image, line = figure.subplots(1, 2)
    low, high = np.percentile(np.concatenate([a.compressed(), b.compressed()]), [0.5, 99.5])
    cmap = PHASE_MAP if part is np.angle else "gray"
    drawn = image.imshow((1 - candidate) * a + candidate * b, cmap=cmap, vmin=low, vmax=high)
    image.set(title=f"{1 - candidate:.0%} {names[0]}, {candidate:.0%} {names[1]}", **NO_TICKS)
    image.axhline(row, color="#d00", lw=0.8)
    figure.colorbar(drawn, ax=image)
    for name, values, style in zip(names, (a, b), ("-", "--"), strict=True):
        line.plot(values[row], style, label=name)
    line.set(title=f"row {row}", xlabel="x / px")
    line.legend()
    apart = float(np.ma.sqrt(((a - b) ** 2).mean()))
    return Picture(figure, f"{names[0]} and {names[1]}, overlaid; they differ by {number(apart)} rms.")
