"""Gauge, metrics, ring correlation: from what made the images, from scikit-image, from Fourier sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from common import blobs, fact, given, named, projected, refused, said, spectrum, unchangeable, wave
from skimage import metrics as skimage_metrics

INFINITE = ("np.inf", "float('inf')", "-np.inf", "np.nan")
"""What no bound allows; not always the one object that is called so."""


def make_gauge() -> None:
    """What was put between two images must be found."""
    shape = (46, 53)
    ref = given("ref", blobs(shape, (0, 0)))
    y, x = np.arange(46)[:, None] - 23, np.arange(53) - 26
    numbers = "[(g := gauge.remove_gauge({})).phase_rad, *(23 * np.array(g.ramp_rad_per_px)), g.scale, *g.shift_px]"
    for number, (case, shift, phase, ramp, scale) in enumerate((
        ("all four", (1.375, -0.8125), 0.7, (0.02, -0.035), 1.3),
        ("large ramp", (-3.25, 2.5), -2.1, (-0.31, 0.44), 0.6),
    )):  # fmt: skip
        moved = scale * np.exp(1j * (phase + ramp[0] * y + ramp[1] * x)) * blobs(shape, shift)
        given(f"moved_{number}", moved)
        for where in ("all", "inside"):
            mask = "" if where == "all" else ", mask=inside"
            truth = [phase, 23 * ramp[0], 23 * ramp[1], scale, *shift]
            fact("gauge", f"{case}, {where}", numbers.format(f"moved_{number}, ref{mask}"), truth, "interpolated")
    unchangeable("gauge", "gauge.GaugeResult", "gauge._Fit", "gauge._Problem")
    inside = np.zeros(shape, bool)
    inside[9:36, 8:43] = True
    inside[9:14, 30:] = False
    given("inside", inside)
    came = np.zeros((2, *shape), bool)  # where a content that lay so far off comes from within the mask
    came[0, :-2, 3:] = inside[2:, :-3]
    came[1, :-2, 1:] = inside[1:-1, 1:] & inside[2:, 1:] & inside[1:-1, :-1] & inside[2:, :-1]  # all four pixels around
    for (name, case, off), from_within in zip(
        (("whole", "a whole shift", (2, -3)), ("between", "a shift", (1.375, -0.625))), came, strict=True
    ):
        reach = np.zeros(shape, bool)
        for i, j in product(range(4, shape[0] - 4), range(4, shape[1] - 4)):
            reach[i, j] = inside[i, j] and from_within[i - 4 : i + 5, j - 4 : j + 5].all()
        given(name, blobs(shape, off))
        fact("gauge", f"mask after {case}", f"gauge.remove_gauge({name}, ref, mask=inside, ramp=False).mask", reach)
    call = "gauge.remove_gauge(moved_0, ref, mask=inside)"
    fact("gauge", "aligned", f"({call}.aligned - ref)[{call}.mask].size and "
         f"np.abs({call}.aligned - ref)[{call}.mask].max() < 1e-3", True)  # fmt: skip
    fact("gauge", "residual after", f"{call}.residual_after < 1e-3", True)

    still = 1.3 * np.exp(1j * (0.7 + 0.02 * y - 0.035 * x)) * ref
    holes = still.copy()
    holes[:3, :7] = np.nan
    given("still", still)
    given("holes", holes)
    outside = np.ones(shape, bool)
    outside[:3, :7] = False
    given("outside", outside)
    truth = [0.7, 23 * 0.02, 23 * -0.035, 1.3, 0, 0]
    fact("gauge", "no shift", numbers.format("still, ref, shift=False"), truth, "converged")
    fact("gauge", "no shift, NaN outside", numbers.format("holes, ref, mask=outside, shift=False"), truth, "converged")

    noisy = given("noisy", 0.8 * np.exp(0.4j) * ref + 0.2 * wave(*shape, seed=6))
    for case, mask in (("everywhere", np.ones(shape, bool)), ("inside", inside)):
        a, b = noisy[mask], ref[mask]
        factor = sum(np.conj(p) * q for p, q in zip(a, b, strict=True)) / sum(abs(p) ** 2 for p in a)
        norm = math.sqrt(sum(abs(q) ** 2 for q in b))

        def residual(k: complex, a: np.ndarray = a, b: np.ndarray = b, norm: float = norm) -> float:
            return math.sqrt(sum(abs(k * p - q) ** 2 for p, q in zip(a, b, strict=True))) / norm

        options = f"{'' if case == 'everywhere' else 'mask=inside, '}ramp=False, shift=False"
        for kept, k in (
            ("", factor), (", scale=False", factor / abs(factor)), (", phase=False", abs(factor)),
            (", phase=False, scale=False", 1.0),
        ):  # fmt: skip
            call = f"gauge.remove_gauge(noisy, ref, {options}{kept})"
            values = f"[(g := {call}).phase_rad, g.scale, g.residual_before, g.residual_after, *g.shift_px]"
            expected = [-np.angle(k), 1 / abs(k), residual(1.0), residual(k), 0, 0]
            fact("gauge", f"noise, {case}{kept}", values, expected)
            fact("gauge", f"noise, {case}{kept}: aligned", f"projected({call}.aligned)", projected(k * noisy))
    far = given("far", blobs(shape, (5.0, 0.0)))
    del far
    within = "np.abs(gauge.remove_gauge(far, ref, max_shift_px=2.0).shift_px).max() <= 2"
    fact("gauge", "a shift that is not believed", within, True)
    given("beside", blobs(shape, (0.0, -7.5)))
    fact("gauge", "a shift to one side", "gauge.remove_gauge(beside, ref).shift_px", [0, -7.5], "interpolated")
    given("aslant", blobs(shape, (5.0, -4.5)))
    fact("gauge", "a shift both ways", "gauge.remove_gauge(aslant, ref).shift_px", [5, -4.5], "interpolated")
    steep = [math.pi * odd / size for odd, size in ((3, 46), (-5, 53))]  # half-way between two frequencies
    named(
        "steep", f"ref * np.exp(1j * ({steep[0]} * (np.arange(46)[:, None] - 23) + {steep[1]} * (np.arange(53) - 26)))"
    )
    fact("gauge", "a ramp between two frequencies", "23 * np.array(gauge.remove_gauge(steep, ref).ramp_rad_per_px)",
         [23 * one for one in steep], "interpolated")  # fmt: skip
    fact("gauge", "a shift at the bound", "gauge.remove_gauge(far, ref, max_shift_px=5.5).shift_px", [5, 0],
         "interpolated")  # fmt: skip
    flat = "np.full((20, 24), 2 + 0j), np.full((20, 24), 1j)"
    fact("gauge", "nothing to be seen", f"[(g := gauge.remove_gauge({flat})).scale, g.phase_rad, *g.shift_px]",
         [2, -math.pi / 2, 0, 0], "converged")  # fmt: skip
    one_sided = "gauge.remove_gauge(np.full(ref.shape, 2 + 0j), ref, ramp=False)"
    fact("gauge", "nothing to be seen on one side", f"{one_sided}.shift_px", [0, 0])
    against = "np.where(np.arange(64).reshape(8, 8) % 2, 1.0, -1.0) * (2 + 0j), np.ones((8, 8), complex)"
    fact("gauge", "nothing in common", f"[(g := gauge.remove_gauge({against}, ramp=False, shift=False)).scale, "
         "g.residual_after, g.phase_rad]", [2, math.sqrt(2), 0])  # fmt: skip
    refused("gauge", "images", "ComparisonError", "gauge.remove_gauge(ref, ref[1:])",
            "gauge.remove_gauge(ref, np.where(ref == ref[4, 5], np.nan, ref))",
            "gauge.remove_gauge(np.where(ref == ref[4, 5], np.nan, ref), ref)",
            "gauge.remove_gauge(ref[None], ref[None])",
            "gauge.remove_gauge(ref * 0, ref)", "gauge.remove_gauge(ref, ref * 0)")  # fmt: skip
    said("gauge", "how many values are not finite, and in which image",
         "gauge.remove_gauge(np.where(ref == ref[4, 5], np.nan, ref), ref)",
         f"first (candidate) image holds {(ref == ref[4, 5]).sum()} NaN")  # fmt: skip
    refused(
        "gauge",
        "mask",
        "ComparisonError",
        "gauge.remove_gauge(ref, ref, mask=inside[1:])",
        "gauge.remove_gauge(ref, ref, mask=inside * 1)",
        "gauge.remove_gauge(ref, ref, mask=inside & False)",
    )
    refused("gauge", "largest shift", "ConfigError", "gauge.remove_gauge(ref, ref, max_shift_px=-1.0)",
            "gauge.remove_gauge(ref, ref, max_shift_px=np.nan)")  # fmt: skip
    fact("gauge", "no shift allowed", "gauge.remove_gauge(ref, ref, max_shift_px=0.0).shift_px", [0, 0])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation coefficient from its definition."""
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    cross = sum((p - ma) * (q - mb) for p, q in zip(a, b, strict=True))
    return cross / math.sqrt(sum((p - ma) ** 2 for p in a) * sum((q - mb) ** 2 for q in b))


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return math.sqrt(sum(float(value) ** 2 for value in values) / len(values))


def similarity(test: np.ndarray, true: np.ndarray, data_range: float, mask: np.ndarray) -> float:
    """SSIM, window by window, over those that lie inside the mask."""
    c1, c2, values = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2, []
    for i, j in product(range(3, mask.shape[0] - 3), range(3, mask.shape[1] - 3)):
        window = np.s_[i - 3 : i + 4, j - 3 : j + 4]
        if mask[window].all():
            a, b = test[window].ravel(), true[window].ravel()
            ma, mb = a.mean(), b.mean()
            va, vb = ((a - ma) ** 2).sum() / 48, ((b - mb) ** 2).sum() / 48
            vab = ((a - ma) * (b - mb)).sum() / 48
            values.append((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def softened(mask: np.ndarray, taper: float) -> np.ndarray:
    """Half a Hann window of the distance to the nearest pixel outside, the array's rim included; by brute force."""
    padded = np.pad(mask, 1)
    away = np.argwhere(~padded)
    window = np.zeros(padded.shape)
    for i, j in np.argwhere(padded):
        distance = math.sqrt(((away - (i, j)) ** 2).sum(axis=1).min())
        window[i, j] = math.sin(math.pi / 2 * min(distance / (taper + 1), 1)) ** 2
    return window[1:-1, 1:-1]


def rings(a: np.ndarray, b: np.ndarray, mask: np.ndarray, taper: float = 0.125) -> tuple[list[float], ...]:
    """Frequencies, correlations and pixels of the rings."""
    where = np.argwhere(mask)
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0) + 1
    box = np.s_[top:bottom, left:right]
    mask = mask[box]
    H, W = mask.shape
    edge = min(H, W)
    window = softened(mask, taper * edge) if taper else mask * 1.0
    fields = []
    for image in (a, b):
        cropped = np.where(window > 0, image[box], 0)
        fields.append(spectrum(window * (cropped - (window * cropped).sum() / window.sum())))
    sums = {ring: [0.0, 0.0, 0.0, 0] for ring in range(1, edge // 2 + 1)}
    for i, j in product(range(H), range(W)):
        fy, fx = (i if i < (H + 1) // 2 else i - H) / H, (j if j < (W + 1) // 2 else j - W) / W
        ring = round(math.hypot(fy, fx) * edge)
        if ring in sums:
            p, q = fields[0][i, j], fields[1][i, j]
            for k, value in enumerate(((p * q.conjugate()).real, abs(p) ** 2, abs(q) ** 2, 1)):
                sums[ring][k] += value
    correlations = [cross / math.sqrt(one * two) if one * two > 0 else 0.0 for cross, one, two, _ in sums.values()]
    return [ring / edge for ring in sums], correlations, [n for *_, n in sums.values()]


def threshold(name: str, pixels: Sequence[int]) -> list[float]:
    """Threshold curve over the rings."""
    if name in ("1/7", "0.5"):
        return [{"1/7": 1 / 7, "0.5": 0.5}[name]] * len(pixels)
    s = {"1-bit": 0.5, "half-bit": (math.sqrt(2) - 1) / 2}[name]
    cross = [2 * math.sqrt(s / n) for n in pixels]
    return [(s + c + 1 / math.sqrt(n)) / (s + 1 + c) for c, n in zip(cross, pixels, strict=True)]


def period(f: Sequence[float], correlation: Sequence[float], curve: Sequence[float]) -> float:
    """Full period of the first crossing; -1 for none, -2 for below from the start."""
    excess = [c - t for c, t in zip(correlation, curve, strict=True)]
    for k, value in enumerate(excess):
        if value < 0:
            if k == 0:
                return -2
            return 1 / (f[k - 1] + excess[k - 1] / (excess[k - 1] - value) * (f[k] - f[k - 1]))
    return -1


THRESHOLDS = ("1/7", "0.5", "1-bit", "half-bit")


def make_metrics() -> None:
    """Two images, everywhere and inside a mask."""
    shape = (31, 40)
    true = given("true", blobs(shape, (-3, 2)) * np.exp(0.5j) + 0.02 * wave(*shape, seed=7))
    test = given("test", true + 0.15 * wave(*shape, seed=8) * np.exp(-0.5j))
    mask = np.zeros(shape, bool)
    mask[4:27, 3:36] = True
    mask[4:9, 3:12] = mask[20:, 30:] = False
    given("seen", mask)
    full = np.ones(shape, bool)
    given("holed", np.where(mask, test, np.nan))
    a, b = abs(test), abs(true)
    for case, where, option in (("everywhere", full, ""), ("inside a mask", mask, ", mask=seen")):
        p, q = a[where], b[where]
        psnr = 10 * math.log10(2.5**2 / rms(p - q) ** 2)
        nrmse = rms(p - q) / rms(q)
        assert math.isclose(psnr, skimage_metrics.peak_signal_noise_ratio(q, p, data_range=2.5))
        assert math.isclose(nrmse, skimage_metrics.normalized_root_mse(q, p))
        ssim = similarity(a, b, 2.5, where)
        if where is full:
            whole = skimage_metrics.structural_similarity(b, a, data_range=2.5, full=True)[1][3:-3, 3:-3].mean()
            assert math.isclose(ssim, whole)
        name = "test" if where is full else "holed"
        for metric, value in (("ssim", ssim), ("psnr", psnr)):
            call = f"metrics.{metric}(abs({name}), abs(true), data_range=2.5{option})"
            fact("metrics", f"{metric}, {case}", call, value)
        fact("metrics", f"nrmse, {case}", f"metrics.nrmse(abs({name}), abs(true){option})", nrmse)
        fact("metrics", f"correlation, {case}", f"metrics.correlation(abs({name}), abs(true){option})", pearson(p, q))
        fact("metrics", f"amplitude correlation, {case}", f"metrics.amplitude_correlation({name}, true{option})",
             pearson(p, q))  # fmt: skip
        turned = np.angle(test[where] * np.conj(true[where]))
        fact("metrics", f"phase error, {case}", f"metrics.phase_error_rad({name}, true{option})", rms(turned))
        about = [np.angle(one[where] * np.conj(one[where].sum())) for one in (test, true)]
        fact("metrics", f"phase correlation, {case}", f"metrics.phase_correlation({name}, true{option})",
             pearson(*about))  # fmt: skip
    norm = [math.sqrt(sum(abs(one) ** 2 for one in part.ravel())) for part in (test - true, true)]
    fact("metrics", "relative Frobenius", "metrics.relative_frobenius(test, true)", norm[0] / norm[1])
    fact("metrics", "relative Frobenius, real against complex",
         "metrics.relative_frobenius(np.zeros((2, 1)), np.array([[3j], [4]]))", 1.0)  # fmt: skip
    fact("metrics", "relative Frobenius, complex against real",
         "metrics.relative_frobenius(np.array([3 + 3j, 4.0]), np.array([3.0, 4.0]))", 0.6)  # fmt: skip
    unchangeable("metrics", "metrics.ObjectComparison")
    for code, text in (
        ("metrics.relative_frobenius(holed, true)", "nan"), ("metrics.relative_frobenius(true, holed)", "nan"),
        ("metrics.relative_frobenius(np.ones(3), np.zeros(3))", "inf"),
        ("metrics.correlation(np.ones((8, 8)), abs(true[:8, :8]))", "nan"),
        ("metrics.correlation(abs(true[:8, :8]), np.ones((8, 8)))", "nan"),
        ("metrics.psnr(abs(true), abs(true), data_range=1.0)", "inf"),
        ("metrics.nrmse(np.ones((8, 8)), np.zeros((8, 8)))", "inf"),
    ):  # fmt: skip
        fact("metrics", f"{text}: {code.partition('(')[0]} of {code.partition('(')[2][:-1]}", f"str({code})", text)

    scale = sum(p * q for p, q in zip(a[mask], b[mask], strict=True)) / sum(p**2 for p in a[mask])
    mean = true[mask].sum()
    parts = {
        "phase": (np.angle(np.where(mask, test * np.conj(mean), 0)), np.angle(np.where(mask, true * np.conj(mean), 0)),
                  2 * math.pi),
        "amplitude": (scale * a, b, b[mask].max()),
    }  # fmt: skip
    norm = [math.sqrt(sum(abs(one) ** 2 for one in part[mask])) for part in (test - true, true)]
    values = {"relative_frobenius": norm[0] / norm[1], "phase_error_rad": rms(np.angle(test * np.conj(true))[mask])}
    for name, (p, q, data_range) in parts.items():
        values[f"{name}_ssim"] = similarity(np.where(mask, p, 0), np.where(mask, q, 0), data_range, mask)
        values[f"{name}_psnr_db"] = 10 * math.log10(data_range**2 / rms((p - q)[mask]) ** 2)
        values[f"{name}_nrmse"] = rms((p - q)[mask]) / rms(q[mask])
    about = [np.angle(one[mask] * np.conj(one[mask].sum())) for one in (test, true)]
    values["phase_correlation"] = pearson(*about)
    values["amplitude_correlation"] = pearson(a[mask], b[mask])
    f, correlation, pixels = rings(np.where(mask, test, 0), np.where(mask, true, 0), mask)
    for name in THRESHOLDS:
        values[f"frc_resolution_px_{name}"] = value = period(f, correlation, threshold(name, pixels))
        values[f"frc_resolution_m_{name}"] = value * 7e-9 if value >= 0 else value
    named("result", "gauge.GaugeResult(test, seen, 0.0, (0.0, 0.0), 1.0, (0.0, 0.0), 0.0, 0.0)")
    named("compared", "metrics.measure(result, true, pixel_size_m=7e-9).values")
    for name, value in values.items():
        shown = "-1 if {0} is None else -2 if {0} == np.inf else {0}".format(f"compared[{name!r}]")
        fact("metrics", name, shown, value)
    fact("metrics", "every metric has its name", "str(sorted(compared))", str(sorted(values)))
    fact("metrics", "correlation of a part", "metrics.measure(result, true).correlation('phase')",
         values["phase_correlation"])  # fmt: skip
    refused(
        "metrics",
        "data range",
        "ConfigError",
        *(f"metrics.psnr(abs(test), abs(true), data_range={one})" for one in ("0.0", "-1.0", *INFINITE)),
    )
    refused("metrics", "complex images", "ComparisonError", "metrics.psnr(test, abs(true), data_range=1.0)",
            "metrics.psnr(abs(test), true, data_range=1.0)")  # fmt: skip
    striped = given("striped", np.arange(true.size).reshape(shape) % 6 > 0)
    said("metrics", "how large the mask is", "metrics.ssim(abs(test), abs(true), data_range=1.0, mask=striped)",
         f"7 x 7 px lies inside the mask of {striped.sum()} px")  # fmt: skip
    refused("metrics", "no window", "ComparisonError",
            "metrics.ssim(abs(test[:6]), abs(true[:6]), data_range=1.0)")  # fmt: skip
    refused("metrics", "pixel size", "ConfigError",
            *(f"metrics.measure(result, true, pixel_size_m={one})" for one in ("0.0", "-1.0", *INFINITE)))  # fmt: skip
    refused("metrics", "shapes", "ComparisonError", "metrics.relative_frobenius(test, true[1:])",
            "metrics.relative_frobenius(np.zeros(0), np.zeros(0))")  # fmt: skip

    for case, where, option, taper in (
        ("everywhere", full, "", 0.125), ("inside a mask", mask, ", mask=seen", 0.125),
        ("no window", full, ", taper=0", 0.0), ("widest window", full, ", taper=0.5", 0.5),
    ):  # fmt: skip
        f, correlation, pixels = rings(test, true, where, taper)
        call = f"(r := frc.frc(test, true{option}))"
        fact("ring correlation", f"{case}: correlation", f"{call}.correlation", correlation)
        fact("ring correlation", f"{case}: rings", f"[{call}.spatial_frequency_per_px, r.n_pixels]", [f, pixels])
        for name in THRESHOLDS:
            curve = threshold(name, pixels)
            fact("ring correlation", f"{case}: threshold {name}", f"{call}.threshold({name!r})", curve)
            shown = f"-1 if (p := {call}.resolution_px({name!r})) is None else -2 if p == np.inf else p"
            fact("ring correlation", f"{case}: resolution {name}", shown, period(f, correlation, curve))
    f, correlation, pixels = rings(true.real, true.imag, full)
    fact("ring correlation", "real images", "frc.frc(true.real, true.imag).correlation", correlation)
    call = "frc.frc(holed, np.where(seen, true, np.nan), mask=seen).correlation"
    fact("ring correlation", "NaN outside the mask", call, rings(test, true, mask)[1])
    unchangeable("ring correlation", "frc.FRC")
    curve = given("curve", np.array([0.9, 0.95, 0.4, 0.6, 0.2, 0.1, 0.3, 0.05]))
    for name, pixels in (("half", [6, 10, 18, 24, 30, 36, 42, 48]),):
        frequency = [k / 16 for k in range(1, 9)]
        for one in THRESHOLDS:
            call = f"frc.FRC(np.arange(1, 9) / 16, curve, np.array({pixels})).resolution_px({one!r})"
            crossing = period(frequency, curve, threshold(one, pixels))
            fact("ring correlation", f"{name} {one}", f"-1 if (p := {call}) is None else p", crossing)
    at_once = "frc.FRC(np.arange(1, 9) / 16, 0.1 - curve, np.full(8, 9)).resolution_px('0.5')"
    fact("ring correlation", "nothing resolved", f"str({at_once})", "inf")
    never = "frc.FRC(np.arange(1, 9) / 16, curve + 0.5, np.full(8, 9)).resolution_px('0.5')"
    fact("ring correlation", "never below", f"str({never})", "None")
    fact("ring correlation", "no power", "frc.frc(np.ones((16, 16)), true[:16, :16]).correlation", np.zeros(8))
    fact("ring correlation", "soft window", "gauge.soft_window(seen, 3.5)", softened(mask, 3.5))
    fact("ring correlation", "bounding box", "[[one.start, one.stop] for one in gauge.bounding_box(seen)]",
         [[4, 27], [3, 36]])  # fmt: skip
    refused("ring correlation", "taper", "ConfigError", "frc.frc(test, true, taper=-0.1)",
            "frc.frc(test, true, taper=0.6)")  # fmt: skip
    refused("ring correlation", "edge", "ComparisonError", "frc.frc(test[:15], true[:15])")
    refused("ring correlation", "threshold", "ConfigError", "frc.frc(test, true).threshold('2-bit')")
