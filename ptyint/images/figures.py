"""Data in, picture out. Every picture carries an alt text with its numbers."""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ptyint.backends import title
from ptyint.evidence.display import Picture
from ptyint.images.comparison import Comparison
from ptyint.images.frc import FRC, THRESHOLDS
from ptyint.images.gauge import Complex, Mask, bounding_box
from ptyint.images.reconstruction import Reconstruction

STYLES: dict[str, dict[str, Any]] = {
    "tensorflow": {"color": "#c2560c", "linestyle": "-", "marker": "o"},
    "pytorch": {"color": "#1f5fa8", "linestyle": "--", "marker": "s"},
    "ptychopinn-tensorflow": {"color": "#7b3294", "linestyle": ":", "marker": "v"},
    "ptychopinn-pytorch": {"color": "#1b7837", "linestyle": (0, (5, 1, 1, 1)), "marker": "D"},
}
"""Colour, line and marker of a backend: never told apart by colour alone."""

PHASE_MAP = "twilight_shifted"
PHASE_HEADROOM = 2.0
"""Limits of the cyclic map over the largest phase shown: its two ends look alike, so phases stay off them."""

TITLE_WIDTH = 36
"""Characters above a panel, before a new line."""

NO_TICKS: dict[str, Any] = {"xticks": [], "yticks": []}


def style(backend: str) -> dict[str, Any]:
    """Line style of a backend."""
    return STYLES.get(backend, {"color": "#444444", "linestyle": "-.", "marker": "^"})


def side_by_side(comparison: Comparison) -> Picture:
    """Amplitude (grey) and phase (cyclic) of truth and backends after gauge removal, and their signed difference."""
    reference, (first, second) = comparison.reference, (title(one.backend) for one in comparison.backends)
    images, gauges = {first: reference.object_}, {second: comparison.agreement.gauge}
    if comparison.truth and reference.ground_truth is not None:
        images = {"truth": reference.ground_truth}
        gauges = {title(name): one.gauge for name, one in comparison.truth.items()}
    known = [next(iter(images.values())) != 0, *(gauge.mask for gauge in gauges.values())]
    aligned = {name: gauge.aligned for name, gauge in gauges.items()}
    return images_side_by_side(images | aligned, np.logical_and.reduce(known), first, second)


def images_side_by_side(
    images: dict[str, Complex], inside: Mask, first: str, second: str, how: str = "after gauge removal"
) -> Picture:
    """Images (H, W) by title, all in one gauge, and the signed difference of two of them, where `inside`.

    The images of a row share their limits; the difference spans half of them to either side. `how` says in the alt
    text what was done to the images.
    """
    base = np.where(inside, next(iter(images.values())), 0)
    mean = np.exp(-1j * np.angle(base.sum()))
    box, pair = bounding_box(base != 0), f"{second} - {first}"
    a, b = images[first], images[second]
    figure = Figure(figsize=(3.1 * len(images) + 3.5, 6.4), layout="constrained")
    rows = {
        "amplitude": ([abs(image) for image in images.values()], abs(b) - abs(a)),
        "phase": ([np.angle(image * mean) for image in images.values()], np.angle(b * np.conj(a))),
    }
    alts = []
    grid = figure.subplots(2, len(images) + 1, squeeze=False, subplot_kw=NO_TICKS)
    for (*axes, last), (what, (shown, difference)) in zip(grid, rows.items(), strict=True):
        low, high = np.percentile(np.concatenate([image[inside] for image in shown]), [0.5, 99.5])
        cmap, unit = "gray", ""
        if what == "phase":
            high = min(np.pi, PHASE_HEADROOM * max(abs(low), abs(high)))
            low, cmap, unit = -high, PHASE_MAP, " rad"
        in_unit, span = unit.replace(" ", " / "), (high - low) / 2
        for ax, name, image in zip(axes, images, shown, strict=True):
            drawn = ax.imshow(np.ma.array(image, mask=~inside)[box], cmap=cmap, vmin=low, vmax=high)
            ax.set_title(fill(f"{name}: {what}", TITLE_WIDTH), fontsize=11)
        figure.colorbar(drawn, ax=axes, label=what + in_unit, shrink=0.85, pad=0.01)
        drawn = last.imshow(np.ma.array(difference, mask=~inside)[box], cmap="RdBu_r", vmin=-span, vmax=span)
        figure.colorbar(drawn, ax=last, label=f"difference{in_unit}", shrink=0.85, pad=0.01)
        rms = float(np.sqrt((difference[inside] ** 2).mean()))
        last.set_title(fill(f"{pair}: rms {rms:.3f}{unit}", TITLE_WIDTH), fontsize=11)
        alts.append(f"{what} from {low:.2f} to {high:.2f}{in_unit}, difference {pair} {rms:.3f} rms")
    return Picture(figure, f"Side by side, {how}: {', '.join(images)}. " + "; ".join(alts) + ".")


def rings(with_truth: dict[str, FRC], agreement: FRC) -> Picture:
    """FRC curves: of each backend, by name, with the truth; and of the backends with each other."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    ax = figure.subplots()
    curves = {f"{title(name)} with truth": (frc, style(name)) for name, frc in with_truth.items()}
    curves["backends with each other (agreement)"] = (agreement, {"color": "#222222", "linestyle": ":"})
    alts = []
    for label, (frc, line) in curves.items():
        ax.plot(frc.spatial_frequency_per_px, frc.correlation, label=label, **{**line, "markersize": 3.5})
        resolution = frc.resolution_px("half-bit")
        never = f"never crosses (lowest correlation {np.nanmin(frc.correlation):.2f})"
        crossing = never if resolution is None else f"crosses at a period of {resolution:.1f} px"
        alts.append(f"{label} {crossing}")
    dashes: tuple[Any, ...] = ((0, (1, 1)), (0, (4, 2)), (0, (6, 1, 1, 1)), "-")
    for name, dash in zip(THRESHOLDS, dashes, strict=True):
        limit = agreement.threshold(name)
        ax.plot(agreement.spatial_frequency_per_px, limit, color="#999999", lw=1, ls=dash, label=f"{name} threshold")
    ax.set(xlabel="spatial frequency / cycles per pixel", ylabel="Fourier ring correlation")
    ax.set(xlim=(0, 0.5), ylim=(-0.1, 1.05))
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    ax.grid(alpha=0.3)
    return Picture(figure, "Fourier ring correlation; half-bit threshold: " + "; ".join(alts) + ".")


def loss_curves(*reconstructions: Reconstruction) -> Picture:
    """Training loss over epochs; from its highest to its lowest where one has units of its own."""
    own = any(one.facts.get("groups_sha256", "") is None for one in reconstructions)
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    ax = figure.subplots()
    alts = []
    for one in reconstructions:
        epochs = np.arange(1, len(one.losses) + 1)
        drawn = (one.losses - one.losses.min()) / (np.ptp(one.losses) or 1) if own else one.losses
        ax.plot(epochs, drawn, label=title(one.backend), markersize=4, **style(one.backend))
        alts.append(f"{title(one.backend)} from {one.losses[0]:.4g} to {one.losses[-1]:.4g} in {len(epochs)} epochs")
    curves = [one.losses for one in reconstructions if len(one.losses) > 2]
    if curves and not own:
        low, high = min(c.min() for c in curves), max(c[1] for c in curves)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    ax.set(xlabel="epoch", ylabel="loss, of its range" if own else "Poisson NLL per pixel\n(without constant)")
    ax.grid(alpha=0.3)
    ax.legend()
    return Picture(figure, "Training loss: " + "; ".join(alts) + ". The first epoch may lie above the plot.")


def probes(*reconstructions: Reconstruction) -> Picture:
    """First mode of the probe: as the scan gave it and as each model ended with it; amplitude and phase."""
    given = reconstructions[0].initial_probe[0]
    shown = {"as given": given, **{title(one.backend): one.probe[0] for one in reconstructions}}
    figure = Figure(figsize=(2.9 * len(shown) + 0.6, 5.4), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False, subplot_kw=NO_TICKS)
    top = max(float(abs(probe).max()) for probe in shown.values())
    alts = []
    for column, (name, probe) in enumerate(shown.items()):
        amplitude = axes[0, column].imshow(abs(probe), cmap="gray", vmin=0, vmax=top)
        relative = np.angle(probe * np.exp(-1j * np.angle((probe * np.conj(given)).sum())))
        visible = np.clip(4 * (abs(probe) / abs(probe).max()), 0, 1)
        phase = axes[1, column].imshow(relative, cmap=PHASE_MAP, vmin=-np.pi, vmax=np.pi, alpha=visible)
        axes[0, column].set_title(f"probe, {name}", fontsize=11)
        cosine = abs(np.vdot(given, probe)) / (np.linalg.norm(given) * np.linalg.norm(probe))
        alts.append(f"{name} {cosine:.3f}")
    figure.colorbar(amplitude, ax=list(axes[0]), label="amplitude", shrink=0.85)
    figure.colorbar(phase, ax=list(axes[1]), label="phase / rad\n(faded where dark)", shrink=0.85)
    return Picture(figure, "Probes, amplitude above phase; overlap with the given one: " + ", ".join(alts) + ".")
