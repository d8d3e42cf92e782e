"""What the notebooks show of reconstructions and their comparison. Draws and assembles, computes nothing."""

from __future__ import annotations

from html import escape

from ptyint.backends import title
from ptyint.evidence.display import Fragment, Table, number
from ptyint.evidence.record import Record
from ptyint.images.comparison import SAME, Comparison, same
from ptyint.images.reconstruction import Reconstruction

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


def metric(value: float | None) -> str:
    """One of `METRICS` for a reader; a resolution may have no limit, or none at all."""
    if value is None:
        return "never crosses"
    return "nothing resolved" if value == float("inf") else number(value)


def headline(comparison: Comparison) -> Fragment:
    """What was compared, in a sentence or two, and the numbers that matter: those that stand on top of the page."""
    record = Record(compared=" ".join(_compared(comparison)), numbers=_numbers(comparison))
    lines = [record.compared, *(f"{name}: {number(value)}" for name, value in record.numbers.items())]
    return Fragment("".join(f"<p>{escape(line)}</p>" for line in lines), record)


def _compared(comparison: Comparison) -> list[str]:
    facts, candidate = comparison.reference.facts, comparison.candidate.facts
    config, held = facts["config"]["model"], {check.name for check in comparison.checks if check.passed}
    shared = [same(name) for name in SAME if same(name) in held]
    names = " and ".join(title(one.backend) for one in comparison.backends)
    n_groups = " and ".join(dict.fromkeys(str(one["n_groups"]) for one in (facts, candidate)))
    lines = [
        f"{names} on {facts['scan']}: {facts['n_patterns']} patterns of {config['N']} x {config['N']}, {n_groups} "
        f"groups (gridsize {config['gridsize']}); {', '.join(shared) or 'nothing shared'}."
    ]
    if not comparison.truth:
        lines.append("No truth is known for this scan: agreement says nothing about how good the images are.")
    return lines


def _numbers(comparison: Comparison) -> dict[str, float]:
    numbers = {}
    for part in ("phase", "amplitude"):
        for backend, against in comparison.truth.items():
            numbers[f"{part} correlation with the truth, {title(backend)}"] = against.values[f"{part}_correlation"]
        numbers[f"{part} correlation of the backends"] = comparison.agreement.values[f"{part}_correlation"]
    return {name: float("nan") if value is None else float(value) for name, value in numbers.items()}


def metrics_table(comparison: Comparison) -> Table:
    """Every metric: each backend against the truth, and the backends against each other."""
    columns = {f"{title(name)} vs truth": c.values for name, c in comparison.truth.items()}
    names = [title(one.backend) for one in comparison.backends]
    columns[f"{names[1]} vs {names[0]}"] = comparison.agreement.values
    rows = [[label, *(metric(values[key]) for values in columns.values())] for key, label in METRICS.items()]
    return Table("Metrics after gauge removal", ("metric", *columns), rows)


def gauge_table(comparison: Comparison, caption: str = "Gauge removed") -> Table:
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
    return Table(caption, ("removed", *columns), rows)


def cost_table(*reconstructions: Reconstruction) -> Table:
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
    return Table("Time and memory", ("cost", *(title(one.backend) for one in reconstructions)), rows)


def summary(one: Reconstruction) -> Fragment:
    """What one backend made of a scan, in a sentence, and the numbers that matter."""
    facts = one.facts
    compared = (
        f"{title(one.backend)} trained on {facts['scan']} alone ({facts['n_patterns']} patterns, {facts['n_groups']} "
        f"groups, {len(one.losses)} epochs), saved the model, loaded it, inferred and stitched."
    )
    numbers = {
        "last loss": float(one.losses[-1]),
        "training / s": float(facts["training_seconds"]),
        "groups per second, best epoch": float(facts["n_groups"] / one.epoch_seconds.min()),
    }
    record = Record(compared=compared, numbers=numbers, datasets={facts["scan"]: facts["scan_sha256"]})
    lines = [compared, *(f"{name}: {number(value)}" for name, value in numbers.items())]
    return Fragment("".join(f"<p>{escape(line)}</p>" for line in lines), record)
