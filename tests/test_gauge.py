import numpy as np
import pytest
from scipy import ndimage

from ptyint.errors import ComparisonError, ConfigError
from ptyint.images.gauge import remove_gauge, soft_window

SHAPE = (120, 100)
SHIFT, RAMP, PHASE, SCALE = (-3.37, 2.21), (0.043, -0.11), 1.1, 2.7


def smooth_noise(rng, shape, sigma):
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return noise / np.abs(noise).max()


def make_object(seed=0, phase_range=1.5, sigma=3.0, shape=SHAPE):
    """Periodic and smooth: a Fourier shift of it is exact."""
    rng = np.random.default_rng(seed)
    return (0.8 + 0.3 * smooth_noise(rng, shape, sigma)) * np.exp(1j * phase_range * smooth_noise(rng, shape, sigma))


def regauge(object_, *, shift=(0, 0), ramp=(0, 0), phase=0.0, scale=1.0):
    """The definition in the docstring, with a Fourier shift."""
    y, x = np.indices(object_.shape)
    y, x = y - object_.shape[0] // 2, x - object_.shape[1] // 2
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(object_), shift))
    return scale * np.exp(1j * (phase + ramp[0] * y + ramp[1] * x)) * moved


def complex_noise(shape, size, seed=1):
    rng = np.random.default_rng(seed)
    return size * np.sqrt(0.5) * (rng.normal(size=shape) + 1j * rng.normal(size=shape))


@pytest.fixture
def mask():
    """An ellipse off the centre, touching no border."""
    y, x = np.indices(SHAPE)
    return ((y - 62) / 48) ** 2 + ((x - 47) / 40) ** 2 < 1


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_identity(mask, dtype):
    object_ = make_object().astype(dtype)
    for m in (mask, None):
        result = remove_gauge(object_, object_, mask=m)
        np.testing.assert_allclose(result.aligned, object_, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(result.mask, np.ones(SHAPE, dtype=bool) if m is None else m)
        assert result.shift_px == result.ramp_rad_per_px == (0, 0)
        assert abs(result.phase_rad) < 1e-12 and abs(result.scale - 1) < 1e-12
        assert result.residual_before == 0 and result.residual_after < 1e-12


def test_known_phase_and_scale_are_exact(mask):
    object_ = make_object()
    result = remove_gauge(regauge(object_, phase=-2.5, scale=0.3), object_, mask=mask)
    assert result.phase_rad == pytest.approx(-2.5, abs=1e-12)
    assert result.scale == pytest.approx(0.3, rel=1e-12)
    np.testing.assert_allclose(result.aligned, object_, atol=1e-12)


@pytest.mark.parametrize("ramp", [(0.001, 0.0), (0.043, -0.11), (-1.3, 2.0)])
def test_known_ramp(mask, ramp):
    object_ = make_object()
    result = remove_gauge(regauge(object_, ramp=ramp, phase=0.4), object_, mask=mask)
    np.testing.assert_allclose(result.ramp_rad_per_px, ramp, atol=1e-7)
    assert result.phase_rad == pytest.approx(0.4, abs=1e-6)
    assert result.residual_after < 1e-5


@pytest.mark.parametrize("shift", [(4, -3), (0.5, 0.25), (-3.37, 2.21), (0.02, 0.0), (7.6, -7.3)])
def test_known_shift(mask, shift):
    object_ = make_object()
    result = remove_gauge(regauge(object_, shift=shift), object_, mask=mask)
    np.testing.assert_allclose(result.shift_px, shift, atol=1e-3)
    assert result.residual_after < 1e-3
    assert result.mask[~mask].sum() == 0 and 0.5 * mask.sum() < result.mask.sum() < mask.sum()
    np.testing.assert_allclose(result.aligned[result.mask], object_[result.mask], atol=2e-3)


@pytest.mark.parametrize("phase_range", [0.3, 1.5, 3.0])
def test_all_together(mask, phase_range):
    object_ = make_object(phase_range=phase_range)
    candidate = regauge(object_, shift=SHIFT, ramp=RAMP, phase=PHASE, scale=SCALE)
    result = remove_gauge(candidate, object_, mask=mask)
    np.testing.assert_allclose(result.shift_px, SHIFT, atol=1e-3)
    np.testing.assert_allclose(result.ramp_rad_per_px, RAMP, atol=1e-5)
    assert result.phase_rad == pytest.approx(PHASE, abs=1e-4)
    assert result.scale == pytest.approx(SCALE, rel=1e-3)
    assert result.residual_before > 1 and result.residual_after < 1e-3


def test_nothing_outside_the_mask_matters(mask):
    object_ = make_object()
    candidate = regauge(object_, shift=SHIFT, ramp=RAMP, phase=PHASE, scale=SCALE)
    result = remove_gauge(np.where(mask, candidate, np.nan), np.where(mask, object_, np.inf), mask=mask)
    np.testing.assert_allclose(result.shift_px, SHIFT, atol=5e-3)
    np.testing.assert_allclose(result.ramp_rad_per_px, RAMP, atol=1e-5)
    np.testing.assert_allclose(result.aligned[result.mask], object_[result.mask], atol=1e-2)
    assert result.residual_after < 1e-3


def test_with_noise(mask):
    object_ = make_object()
    level = 0.3 * np.sqrt(np.mean(np.abs(object_[mask]) ** 2))
    candidate = regauge(object_, shift=SHIFT, ramp=RAMP, phase=PHASE) + complex_noise(SHAPE, level)
    result = remove_gauge(SCALE * candidate, object_, mask=mask)
    np.testing.assert_allclose(result.shift_px, SHIFT, atol=0.15)
    np.testing.assert_allclose(result.ramp_rad_per_px, RAMP, atol=5e-4)
    assert result.phase_rad == pytest.approx(PHASE, abs=0.02)
    # rho^2 = 1 / (1 + 0.3^2); the splines smooth the noise a little, so both may come out lower.
    assert 1.0 < result.scale / SCALE < 1.09 * 1.02
    assert 0.15 < result.residual_after < np.sqrt(1 - 1 / 1.09) * 1.02


def test_noise_alone_raises_the_scale_as_documented(mask):
    object_ = make_object()
    level = 0.5 * np.sqrt(np.mean(np.abs(object_[mask]) ** 2))
    candidate = object_ + complex_noise(SHAPE, level)
    result = remove_gauge(candidate, object_, mask=mask, shift=False, ramp=False)
    assert result.scale == pytest.approx(1.25, rel=0.02)
    assert result.residual_after == pytest.approx(np.sqrt(1 - 1 / 1.25), rel=0.02)


@pytest.mark.parametrize(
    "candidate",
    [
        make_object(seed=99),
        complex_noise(SHAPE, 1),
        np.full(SHAPE, 0.5 + 0j),
        make_object().conj(),
        np.where(np.indices(SHAPE)[0] == 60, 1 + 0j, 0),
    ],
    ids=["another object", "noise", "flat", "conjugate", "one bright line"],
)
def test_no_correlation_no_crash(mask, candidate):
    result = remove_gauge(candidate, make_object(), mask=mask)
    numbers = [result.phase_rad, *result.ramp_rad_per_px, result.scale, *result.shift_px]
    assert np.isfinite([*numbers, result.residual_before, result.residual_after]).all()
    assert np.isfinite(result.aligned).all()
    assert 0 <= result.residual_after <= 1 + 1e-12
    assert np.abs(result.shift_px).max() <= 8


def test_orthogonal_images_keep_their_size():
    """The complex least-squares factor is 0 here, and its inverse no scale."""
    y = np.indices(SHAPE)[0]
    reference = np.where(y < 60, 1 + 0j, 0)
    result = remove_gauge(3 * (1 - reference), reference, shift=False, ramp=False)
    assert result.scale == pytest.approx(3, rel=1e-12)
    assert result.residual_after == pytest.approx(np.sqrt(2), rel=1e-12)


@pytest.mark.parametrize("part", ["phase", "ramp", "scale", "shift"])
def test_each_part_can_be_left_in(mask, part):
    truth = {"shift": SHIFT, "ramp": RAMP, "phase": PHASE, "scale": SCALE}
    neutral = {"shift": (0, 0), "ramp": (0, 0), "phase": 0.0, "scale": 1.0}
    object_ = make_object()
    candidate = regauge(object_, **{**truth, part: neutral[part]})
    result = remove_gauge(candidate, object_, mask=mask, **{part: False})
    assert result.residual_after < 1e-3
    found = {
        "shift": result.shift_px, "ramp": result.ramp_rad_per_px, "phase": result.phase_rad, "scale": result.scale
    }  # fmt: skip
    for name, value in found.items():
        np.testing.assert_allclose(value, neutral[name] if name == part else truth[name], atol=2e-3)
    assert found[part] == neutral[part]
    left = remove_gauge(regauge(object_, **truth), object_, mask=mask, **{part: False})
    assert left.residual_after > 0.1


def test_all_left_in(mask):
    candidate = regauge(make_object(), shift=SHIFT, phase=1)
    result = remove_gauge(candidate, make_object(), mask=mask, phase=False, ramp=False, scale=False, shift=False)
    np.testing.assert_array_equal(result.aligned, candidate)
    assert result.residual_after == result.residual_before


def test_shift_beyond_the_limit_is_not_applied(mask):
    object_ = make_object()
    candidate = regauge(object_, shift=(5, 0))
    assert np.abs(remove_gauge(candidate, object_, mask=mask, max_shift_px=4).shift_px).max() <= 4
    assert remove_gauge(candidate, object_, mask=mask, max_shift_px=6).shift_px[0] == pytest.approx(5, abs=1e-3)


def test_soft_window():
    window = soft_window(np.ones((40, 40), dtype=bool), 7)
    np.testing.assert_allclose(window[20, :8], np.sin(np.pi / 2 * np.arange(1, 9) / 8) ** 2, atol=1e-12)
    assert (window[8:32, 8:32] == 1).all()
    assert soft_window(np.zeros((4, 4), dtype=bool), 2).max() == 0


def test_bad_input(mask):
    object_ = make_object()
    with pytest.raises(ComparisonError, match=r"\(120, 100\) and \(100, 120\)"):
        remove_gauge(object_, object_.T)
    with pytest.raises(ComparisonError, match=r"shapes \(1, 120, 100\)"):
        remove_gauge(object_[None], object_[None])
    with pytest.raises(ComparisonError, match="is empty"):
        remove_gauge(object_, object_, mask=np.zeros(SHAPE, dtype=bool))
    with pytest.raises(ComparisonError, match=r"mask is int64 of shape \(120, 100\)"):
        remove_gauge(object_, object_, mask=mask.astype(np.int64))
    with pytest.raises(ComparisonError, match="candidate is zero"):
        remove_gauge(np.where(mask, 0, object_), object_, mask=mask)
    with pytest.raises(ConfigError, match="max_shift_px is nan"):
        remove_gauge(object_, object_, max_shift_px=float("nan"))
    broken = object_.copy()
    broken[60, 50] = np.nan
    with pytest.raises(ComparisonError, match=r"second \(reference\) image holds 1 NaN"):
        remove_gauge(object_, broken, mask=mask)
    assert issubclass(ComparisonError, ValueError)
