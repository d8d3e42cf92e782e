import numpy as np
import pytest
import skimage.metrics
from scipy import ndimage

from ptyint.errors import ComparisonError, ConfigError
from ptyint.images.frc import FRC, THRESHOLDS, frc
from ptyint.images.gauge import remove_gauge
from ptyint.images.metrics import (
    amplitude_correlation,
    compare_objects,
    correlation,
    measure,
    nrmse,
    phase_correlation,
    phase_error_rad,
    psnr,
    relative_frobenius,
    ssim,
)


def white(seed, shape=(256, 256)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def fourier_filter(image, function):
    f = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(image) * function(f))


def disk(shape, radius):
    y, x = np.indices(shape)
    return (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < radius**2


def curve(correlation, edge=None):
    """An FRC whose rings are known: k / edge cycles per pixel, 100 pixels each."""
    n = len(correlation)
    edge = edge or 2 * n
    return FRC(np.arange(1, n + 1) / edge, np.array(correlation, dtype=float), np.full(n, 100))


# Fourier ring correlation


def test_equal_images_agree_everywhere():
    result = frc(white(0, (64, 48)), white(0, (64, 48)))
    np.testing.assert_allclose(result.correlation, 1, atol=1e-12)
    np.testing.assert_allclose(result.spatial_frequency_per_px, np.arange(1, 25) / 48)
    assert all(result.resolution_px(t) is None for t in THRESHOLDS)


def test_opposite_images_anticorrelate():
    np.testing.assert_allclose(frc(white(0), -white(0)).correlation, -1, atol=1e-12)


def test_ring_pixels_are_counted_by_hand():
    result = frc(white(0, (16, 16)), white(1, (16, 16)))
    # Ring 1: (0, +-1), (+-1, 0), (+-1, +-1). Ring 2: radius from 1.5 to 2.5, (0, 2), (1, 2) and their kin.
    assert result.n_pixels[:2].tolist() == [8, 12]
    assert len(result.n_pixels) == 8


def test_independent_noise_scatters_about_zero_as_it_should():
    """The real part of n independent complex products has variance 1 / (2 n)."""
    results = [frc(white(2 * i, (64, 64)), white(2 * i + 1, (64, 64)), taper=0) for i in range(100)]
    z = np.array([r.correlation for r in results]) * np.sqrt(2 * results[0].n_pixels)
    assert abs(z[:, 1:].mean()) < 5 / np.sqrt(z[:, 1:].size)
    assert z[:, 3:].std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("mask", [None, disk((256, 256), 110)], ids=["whole", "disk"])
@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_gaussian_blur_with_noise_follows_the_formula(sigma, mask):
    """White signal of power 1, blurred in one image, noise of power 0.1 in each: everything about the FRC is known."""

    def transfer(f):
        return np.exp(-2 * (np.pi * sigma * f) ** 2)

    sharp = white(0) + np.sqrt(0.1) * white(1)
    blurred = fourier_filter(white(0), transfer) + np.sqrt(0.1) * white(2)
    result = frc(blurred, sharp, mask=mask)
    h = transfer(result.spatial_frequency_per_px)
    expected = h / np.sqrt(1.1 * (h**2 + 0.1))
    rings = np.s_[8:]  # the first rings hold few pixels
    assert np.abs(result.correlation - expected)[rings].max() < 0.12
    assert np.abs((result.correlation - expected)[rings].mean()) < 0.01
    # 0.5 is crossed where h^2 = 0.25 * 1.1 * (h^2 + 0.1).
    h_half = np.sqrt(0.0275 / (1 - 0.275))
    f_half = np.sqrt(-np.log(h_half) / 2) / (np.pi * sigma)
    assert result.resolution_px("0.5") == pytest.approx(1 / f_half, rel=0.05)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("real", [False, True])
def test_shared_up_to_a_cut_off(threshold, real):
    shared, a, b = (white(i).real if real else white(i) for i in range(3))
    a, b = (fourier_filter(shared, lambda f: f < 0.2) + fourier_filter(x, lambda f: f >= 0.2) for x in (a, b))
    for options in ({"taper": 0}, {}, {"mask": disk((256, 256), 120)}):
        assert frc(a, b, **options).resolution_px(threshold) == pytest.approx(1 / 0.2, rel=0.04)


def test_the_border_is_not_structure():
    """A bright offset and a common frame would correlate at low frequencies."""
    mask = disk((256, 256), 100)
    a, b = (np.where(mask, 50 + white(i), np.nan) for i in (0, 1))
    result = frc(a, b, mask=mask)
    assert np.abs(result.correlation[4:]).max() < 0.4
    assert result.resolution_px("0.5") > 32


def test_the_window_breaks_the_jump_at_the_border():
    """A shared plane is one slow structure, but its jump from edge to edge has all frequencies."""
    y, x = np.indices((256, 256))
    a, b = (white(i) + 0.1 * (y + x) for i in (0, 1))
    assert frc(a, b, taper=0).correlation[32:64].mean() > 0.1
    assert abs(frc(a, b).correlation[32:64].mean()) < 0.02


def test_images_without_structure_do_not_correlate():
    np.testing.assert_array_equal(frc(np.zeros((32, 32)), white(0, (32, 32))).correlation, 0)
    assert frc(np.zeros((32, 32)), np.zeros((32, 32))).resolution_px("1/7") == np.inf


def test_threshold_curves_against_the_published_constants():
    """van Heel & Schatz (2005) print (0.5 + 2.4142 / sqrt n) / (1.5 + 1.4142 / sqrt n), and 0.2071 ... likewise."""
    n = np.array([8, 30, 100, 5000])
    result = FRC(np.arange(1, 5) / 8, np.zeros(4), n)
    one_bit = (0.5 + 2.4142 / np.sqrt(n)) / (1.5 + 1.4142 / np.sqrt(n))
    half_bit = (0.2071 + 1.9102 / np.sqrt(n)) / (1.2071 + 0.9102 / np.sqrt(n))
    np.testing.assert_allclose(result.threshold("1-bit"), one_bit, atol=1e-4)
    np.testing.assert_allclose(result.threshold("half-bit"), half_bit, atol=1e-4)
    np.testing.assert_allclose(result.threshold("1/7"), 0.142857, atol=1e-6)
    np.testing.assert_allclose(result.threshold("0.5"), 0.5)


def test_crossing_is_interpolated_and_the_first_counts():
    # 0.9 at 2/8, 0.4 at 3/8: 0.5 is reached at 0.8 of the way. It rises again later.
    assert curve([1, 0.9, 0.4, 0.8]).resolution_px("0.5") == pytest.approx(8 / 2.8)


def test_no_crossing_has_two_answers():
    assert curve([1, 0.9, 0.8, 0.5]).resolution_px("0.5") is None
    assert curve([0.4, 0.9, 0.8, 0.6]).resolution_px("0.5") == np.inf


def test_frc_refuses():
    with pytest.raises(ConfigError, match=r"threshold is '0\.143'; it must be one of '1/7'"):
        curve([1, 0]).resolution_px("0.143")
    with pytest.raises(ConfigError, match=r"taper is 0\.6"):
        frc(white(0), white(0), taper=0.6)
    with pytest.raises(ComparisonError, match=r"box is \(256, 10\) px"):
        frc(white(0), white(0), mask=np.indices((256, 256))[1] < 10)
    with pytest.raises(ComparisonError, match="holds 1 NaN"):
        frc(white(0), np.where(np.indices((256, 256)).sum(0) == 0, np.nan, white(0)))


# Real images


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = ndimage.gaussian_filter(rng.normal(size=(60, 50)), 2)
    return reference + 0.05 * rng.normal(size=(60, 50)), reference


def test_scikit_image_values(pair):
    candidate, reference = pair
    assert ssim(candidate, reference, data_range=0.8) == pytest.approx(
        skimage.metrics.structural_similarity(reference, candidate, data_range=0.8), rel=1e-12
    )
    assert psnr(candidate, reference, data_range=0.8) == pytest.approx(
        skimage.metrics.peak_signal_noise_ratio(reference, candidate, data_range=0.8), rel=1e-12
    )
    assert nrmse(candidate, reference) == pytest.approx(
        skimage.metrics.normalized_root_mse(reference, candidate), rel=1e-12
    )


def test_a_rectangular_mask_is_a_crop(pair):
    mask = np.zeros((60, 50), dtype=bool)
    mask[10:40, 5:45] = True
    outside = [np.where(mask, image, np.nan) for image in pair]
    crops = [image[10:40, 5:45] for image in pair]
    for function, options in ((ssim, {"data_range": 0.8}), (psnr, {"data_range": 0.8}), (nrmse, {})):
        assert function(*outside, mask=mask, **options) == pytest.approx(function(*crops, **options), rel=1e-12)
    assert correlation(*outside, mask) == pytest.approx(correlation(*crops), rel=1e-12)


def test_values_by_hand():
    reference = np.full((8, 8), 2.0)
    assert psnr(reference + 0.1, reference, data_range=1.0) == pytest.approx(20.0)
    assert psnr(reference - 0.2, reference, data_range=2.0) == pytest.approx(20.0)
    assert psnr(reference, reference, data_range=1.0) == np.inf
    assert nrmse(reference + 0.5, reference) == pytest.approx(0.25)
    assert nrmse(reference, 0 * reference) == np.inf
    assert ssim(reference, reference, data_range=1.0) == pytest.approx(1.0)
    # Constants a and b: only the luminance term is left, (2 a b + c) / (a^2 + b^2 + c) with c = (0.01 * range)^2.
    assert ssim(reference + 1, reference, data_range=1.0) == pytest.approx((12 + 1e-4) / (13 + 1e-4), rel=1e-9)
    half = np.arange(64).reshape(8, 8) < 32
    assert psnr(reference + np.where(half, 0.1, 9), reference, data_range=1.0, mask=half) == pytest.approx(20.0)


def test_correlation_by_hand(pair):
    assert correlation(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 3, 2, 4]])) == pytest.approx(0.8)
    assert correlation(*pair) == pytest.approx(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1], rel=1e-12)
    assert correlation(pair[0], -3 * pair[0] + 7) == pytest.approx(-1)
    assert np.isnan(correlation(pair[0], np.ones((60, 50))))


def test_real_metrics_refuse(pair):
    with pytest.raises(TypeError, match="data_range"):
        psnr(*pair)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"data_range is {bad}"):
            ssim(*pair, data_range=bad)
    with pytest.raises(ComparisonError, match="complex"):
        nrmse(pair[0] + 1j, pair[1])
    with pytest.raises(ComparisonError, match=r"\(60, 50\) and \(59, 50\)"):
        correlation(pair[0], pair[1][1:])
    with pytest.raises(ComparisonError, match="No window of 7 x 7 px"):
        ssim(*pair, data_range=1.0, mask=np.indices((60, 50))[0] < 6)
    with pytest.raises(ComparisonError, match="is empty"):
        psnr(*pair, data_range=1.0, mask=np.zeros((60, 50), dtype=bool))


# Complex objects


def test_phase_error_by_hand():
    reference = np.exp(1j * np.linspace(-3, 3, 100)).reshape(10, 10)
    assert phase_error_rad(2 * reference * np.exp(0.3j), reference) == pytest.approx(0.3)
    # 2 pi - 0.2 is -0.2 once wrapped; half the pixels are off by 0.2, half by nothing.
    turn = np.exp(1j * np.where(np.arange(100) < 50, 2 * np.pi - 0.2, 0)).reshape(10, 10)
    assert phase_error_rad(turn * reference, reference) == pytest.approx(0.2 / np.sqrt(2))
    assert phase_error_rad(white(0), white(1)) == pytest.approx(np.pi / np.sqrt(3), rel=0.01)


def test_phase_and_amplitude_correlation():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, (2, 40, 40))
    amplitude = rng.uniform(0.5, 1.5, (40, 40))
    expected = np.corrcoef(a.ravel(), (0.5 * a + b).ravel())[0, 1]
    # A global phase of 3 rad would wrap both phases, were the mean phase not taken off.
    found = phase_correlation(amplitude * np.exp(1j * (0.5 * a + b + 3)), np.exp(1j * (a - 2)))
    assert found == pytest.approx(expected, abs=1e-12)
    assert amplitude_correlation(amplitude * np.exp(1j * a), (1 + 2 * amplitude) * np.exp(1j * b)) == pytest.approx(1)
    assert abs(phase_correlation(np.exp(1j * a), np.exp(1j * b))) < 5 / 40
    assert np.isnan(phase_correlation(amplitude + 0j, np.exp(1j * a)))


def test_relative_frobenius_hides_nothing():
    b = np.array([[3.0, 4.0]])
    assert relative_frobenius(b + np.array([[0, 0.5]]), b) == pytest.approx(0.1)
    assert relative_frobenius(b * 1j, b) == pytest.approx(np.sqrt(2))
    assert relative_frobenius(b, b) == 0
    for bad in (np.nan, np.inf):
        assert np.isnan(relative_frobenius(b, np.array([[3.0, bad]])))
        assert np.isnan(relative_frobenius(np.array([[3.0, bad]]), b))
    assert relative_frobenius(b, 0 * b) == np.inf
    assert np.isnan(relative_frobenius(0 * b, 0 * b))
    tiny, huge = np.full(3, 1e-30, np.float32), np.full(3, 1e30, np.float32)  # their squares have no float32
    assert relative_frobenius(2 * tiny, tiny) == pytest.approx(1) and relative_frobenius(2 * huge, huge) == 1
    assert relative_frobenius(2 * tiny.astype(np.complex64), tiny.astype(np.complex64)) == pytest.approx(1)
    counts = np.array([1, 2], np.uint16)
    assert relative_frobenius(counts, counts[::-1]) == pytest.approx(np.sqrt(2 / 5))
    with pytest.raises(ComparisonError, match=r"\(1, 2\) and \(2,\)"):
        relative_frobenius(b, b[0])
    with pytest.raises(ComparisonError, match="not empty"):
        relative_frobenius(b[:0], b[:0])


def sample(seed=0, shape=(120, 100)):
    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.normal(size=shape), 2, mode="wrap") for _ in range(2))
    return (0.8 + 0.25 * a / np.abs(a).max()) * np.exp(1.5j * b / np.abs(b).max())


def test_compare_equal_up_to_gauge():
    y, x = np.indices((120, 100))
    reference = sample()
    moved = np.roll(reference, (2, -3), axis=(0, 1))
    mask = disk((120, 100), 45)
    result = compare_objects(3 * np.exp(1j * (0.7 + 0.05 * y - 0.02 * x)) * moved, reference, mask, pixel_size_m=2e-8)
    np.testing.assert_allclose(result.gauge.shift_px, (2, -3), atol=1e-4)
    values = result.values
    assert values["relative_frobenius"] < 1e-4 and values["phase_error_rad"] < 1e-4
    for name in ("phase", "amplitude"):
        for metric in ("correlation", "ssim"):
            assert values[f"{name}_{metric}"] == pytest.approx(1, abs=1e-4)
        assert values[f"{name}_nrmse"] < 1e-3 and values[f"{name}_psnr_db"] > 60
    for threshold in THRESHOLDS:
        assert values[f"frc_resolution_px_{threshold}"] is None
        assert values[f"frc_resolution_m_{threshold}"] is None


def test_compare_finds_a_known_difference():
    rng = np.random.default_rng(3)
    reference = sample()
    error = 0.2 * rng.normal(size=reference.shape)
    values = compare_objects(reference * np.exp(1j * error), reference).values
    assert values["phase_error_rad"] == pytest.approx(0.2, rel=0.05)
    phase = np.angle(reference)
    expected = np.std(phase) / np.hypot(np.std(phase), 0.2)
    assert values["phase_correlation"] == pytest.approx(expected, abs=0.02)
    assert values["phase_psnr_db"] == pytest.approx(20 * np.log10(2 * np.pi / 0.2), abs=0.4)
    assert not any(name.startswith("frc_resolution_m") for name in values)


def test_wrong_phases_leave_the_amplitudes_alone():
    """A phase error of 1 rad rms makes the best complex factor exp(-1 / 2), yet the amplitudes are equal."""
    reference = sample()
    error = np.random.default_rng(3).normal(size=reference.shape)
    result = measure(remove_gauge(reference * np.exp(1j * error), reference, max_shift_px=0), reference)
    assert np.abs(result.gauge.aligned / reference).mean() == pytest.approx(np.exp(-0.5), rel=0.05)
    assert result.values["amplitude_nrmse"] < 1e-9
    assert result.values["amplitude_ssim"] == pytest.approx(1, abs=1e-9)


def test_compare_tells_good_from_bad():
    reference, mask = sample(), disk((120, 100), 45)
    bad = compare_objects(sample(1), reference, mask, pixel_size_m=2e-8).values
    assert abs(bad["phase_correlation"]) < 0.3 and abs(bad["amplitude_correlation"]) < 0.3
    assert bad["frc_resolution_px_0.5"] > 10
    assert bad["frc_resolution_m_0.5"] == 2e-8 * bad["frc_resolution_px_0.5"]
    flat = compare_objects(np.ones_like(reference), reference, mask).values
    assert flat["relative_frobenius"] > 0.2
    # A flat candidate has the ramp that was removed and nothing else: what is left of its phase may not look good.
    assert not flat["phase_correlation"] > 0.3
    assert not flat["amplitude_correlation"] > 0.3


def test_compare_refuses():
    reference = sample()
    broken = reference.copy()
    broken[3, 3] = np.nan
    with pytest.raises(ComparisonError, match=r"first \(candidate\) image holds 1 NaN"):
        compare_objects(broken, reference)
    with pytest.raises(ConfigError, match="pixel_size_m is -1"):
        compare_objects(reference, reference, pixel_size_m=-1.0)
    mask = np.ones(reference.shape, dtype=bool)
    mask[:5] = False
    assert np.isfinite(compare_objects(broken, reference, mask).values["relative_frobenius"])
