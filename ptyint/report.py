"""Run folder to HTML: draws and assembles, computes nothing.

Fragments (:func:`verdict`, :func:`checks_table`, ...) display richly in JupyterLab and on the page alike; a page is an
executed notebook through nbconvert with this package's own template, which refers to nothing outside itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptyint.atomic import atomic_path
from ptyint.comparison import SAME, Comparison, same
from ptyint.figures import title
from ptyint.reconstruction import Reconstruction

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

METRICS = {
    "phase_correlation": "phase correlation",
    "amplitude_correlation": "amplitude correlation",
    "phase_error_rad": "phase error / rad rms",
    "phase_ssim": "SSIM of the phase",
    "amplitude_ssim": "SSIM of the amplitude",
    "phase_psnr_db": "PSNR of the phase / dB (range 2 pi)",
    "amplitude_psnr_db": "PSNR of the amplitude / dB (range: largest of the reference)",
    "phase_nrmse": "NRMSE of the phase",
    "amplitude_nrmse": "NRMSE of the amplitude",
    "relative_frobenius": "relative Frobenius error",
    "frc_resolution_px_half-bit": "FRC period at half-bit / px",
    "frc_resolution_px_1/7": "FRC period at 1/7 / px",
}
"""What the metrics table shows, and how it calls it."""


@dataclass(frozen=True)
class Fragment:
    """A piece of HTML that displays itself."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def _render(template: str, **values: Any) -> Fragment:
    return Fragment(_environment().get_template(template).render(**values))


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Fragment:
    return _render("table.html.j2", caption=caption, heads=heads, rows=rows)


def _number(value: float | None) -> str:
    if value is None:
        return "never crosses"
    return "nothing resolved" if value == float("inf") else f"{value:.4g}"


def verdict(comparison: Comparison) -> Fragment:
    """The banner at the top: pass or fail in words, what was compared, the numbers that matter."""
    failed = [check.name for check in comparison.checks if not check.passed]
    names = " and ".join(title(one.backend) for one in comparison.backends)
    facts = comparison.reference.facts
    if comparison.passed:
        how = "reconstruct" if comparison.truth else "agree on"
        sentence = f"{names} {how} {facts['scan']}{' alike' if comparison.truth else ''}; "
        sentence += f"all {len(comparison.checks)} checks passed."
    else:
        sentence = f"{len(failed)} of {len(comparison.checks)} checks failed: {'; '.join(failed)}."
    config = facts["config"]["model"]
    shared = [same(name) for name in SAME if same(name) not in failed]
    lines = [
        f"{facts['n_patterns']} patterns of {config['N']} x {config['N']}, {facts['n_groups']} groups (gridsize "
        f"{config['gridsize']}) in {title(comparison.reference.backend)}. Shared: {', '.join(shared) or 'nothing'}."
    ]
    if not comparison.truth:
        lines.append("No truth is known for this scan: agreement says nothing about how good the images are.")
    for part in ("phase", "amplitude"):
        values = {title(name): c.values[f"{part}_correlation"] for name, c in comparison.truth.items()}
        truth = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
        agreement = _number(comparison.agreement.values[f"{part}_correlation"])
        known = f"with the truth: {truth}; " if truth else ""
        lines.append(f"{part.capitalize()} correlation {known}of the two backends: {agreement}.")
    return _render("verdict.html.j2", passed=comparison.passed, sentence=sentence, headline=lines)


def checks_table(comparison: Comparison) -> Fragment:
    """Each check: measured, bound, verdict."""
    rows = [
        (
            check.name,
            _number(check.measured),
            f"{check.relation} {check.bound:g}",
            "✓ pass" if check.passed else "✗ fail",
        )
        for check in comparison.checks
    ]
    return _table("Checks", ("check", "measured", "required", "verdict"), rows)


def metrics_table(comparison: Comparison) -> Fragment:
    """Every metric: each backend against the truth, and the backends against each other."""
    columns = {f"{title(name)} vs truth": c.values for name, c in comparison.truth.items()}
    names = [title(one.backend) for one in comparison.backends]
    columns[f"{names[1]} vs {names[0]}"] = comparison.agreement.values
    rows = [[label, *(_number(values[key]) for values in columns.values())] for key, label in METRICS.items()]
    return _table("Metrics after gauge removal", ("metric", *columns), rows)


def gauge_table(comparison: Comparison) -> Fragment:
    """What had to be removed before comparing, and the residual before and after."""
    names = [title(one.backend) for one in comparison.backends]
    columns = {f"{title(name)} vs truth": c.gauge for name, c in comparison.truth.items()}
    columns[f"{names[1]} vs {names[0]}"] = comparison.agreement.gauge
    rows = [
        ("global phase / rad", *(f"{g.phase_rad:.4f}" for g in columns.values())),
        ("ramp (y, x) / rad per px", *("{:.2e}, {:.2e}".format(*g.ramp_rad_per_px) for g in columns.values())),
        ("amplitude scale", *(f"{g.scale:.4f}" for g in columns.values())),
        ("shift (y, x) / px", *("{:.3f}, {:.3f}".format(*g.shift_px) for g in columns.values())),
        ("relative residual before", *(f"{g.residual_before:.4f}" for g in columns.values())),
        ("relative residual after", *(f"{g.residual_after:.4f}" for g in columns.values())),
    ]
    return _table("Gauge removed", ("removed", *columns), rows)


def cost_table(*reconstructions: Reconstruction) -> Fragment:
    """Time and memory of each backend."""
    facts = [one.facts for one in reconstructions]
    groups = [one.facts["n_groups"] for one in reconstructions]
    rows = [
        ("version", *(str(f["description"]["version"]) for f in facts)),
        ("device, threads", *(f"{f['description']['device']}, {f['description']['threads']}" for f in facts)),
        ("epochs", *(str(len(one.losses)) for one in reconstructions)),
        ("training / s", *(f"{f['training_seconds']:.1f}" for f in facts)),
        ("first epoch / s", *(f"{one.epoch_seconds[0]:.1f}" for one in reconstructions)),
        ("best epoch / s", *(f"{one.epoch_seconds.min():.1f}" for one in reconstructions)),
        (
            "groups per second, best epoch",
            *(f"{n / one.epoch_seconds.min():.0f}" for n, one in zip(groups, reconstructions, strict=True)),
        ),
        ("inference / s", *(f"{f['inference_seconds']:.2f}" for f in facts)),
        ("peak memory / GiB", *(f"{f['peak_memory_bytes'] / 2**30:.2f}" for f in facts)),
        ("training ended", *(str(f["ended"]) for f in facts)),
    ]
    return _table("Time and memory", ("cost", *(title(one.backend) for one in reconstructions)), rows)


def write_page(notebook: str | os.PathLike[str], page: str | os.PathLike[str], page_title: str) -> Path:
    """Convert an executed notebook to one self-contained HTML file, whole or not at all.

    Parameters
    ----------
    notebook, page : path-like
        The ``.ipynb`` to read and the ``.html`` to write.
    page_title : str
        Shown on the browser's tab.

    Returns
    -------
    Path
        The page.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    resources = {"metadata": {"title": page_title}, "ptyint_css": (TEMPLATES / "page.css").read_text()}
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4), resources)
    target = Path(page)
    with atomic_path(target) as temporary:
        temporary.write_text(body, encoding="utf-8")
    return target
