"""Faults put into PtychoPINN's PyTorch modules from outside, of the kinds that a port makes; some of them it had.

Its functions, classes and what these make are replaced in the candidate's process for a while; its files stay as they
are.
"""

import math
from collections.abc import Callable
from typing import Any

from ptyint.parity.faults.fault import Catalogue, Fault
from ptyint.parity.faults.injection import Change, Context, after_init, function, method, torch, wrapped

HELPER, MODEL = "ptycho_torch.helper", "ptycho_torch.model"


def _in_operator(id: str, title: str, tap: str, context: Context, upstream: str = "own") -> Fault:
    return Fault(id, title, "operator", tap, context, upstream)


def _at(id: str, title: str, tap: str, context: Context, upstream: str = "own") -> Fault:
    return Fault(id, title, "forward", tap, context, upstream)


def _helper(name: str, change: Change) -> Context:
    return function(name, change, HELPER)


def _forward(owner: str, change: Change) -> Context:
    return method(owner, "forward", change, MODEL)


def _made(owner: str, change: Callable[[Any], None]) -> Context:
    return after_init(owner, change, MODEL)


def _first(change: Callable[[Any], Any]) -> Change:
    """Of a function that returns several things, the first one changed."""

    def changed(original: Any, *arguments: Any, **keywords: Any) -> Any:
        first, *others = original(*arguments, **keywords)
        return (change(first), *others)

    return changed


def _moved(change: Callable[[Any], Any]) -> Change:
    """Of a function of images and offsets, the offsets changed."""
    return lambda original, images, offsets, *rest, **keywords: original(images, change(offsets), *rest, **keywords)


def _corners_aside() -> Any:
    """Grids made for corners that are aligned, and sampled as if they were not."""
    return wrapped(f"{HELPER}.F", "grid_sample", lambda f, *a, **k: f(*a, **{**k, "align_corners": False}))


def _misread(original: Any, self: Any, x: Any) -> Any:
    B, C, N, _ = x.shape
    return original(self, x.reshape(B, N, N, C).permute(0, 3, 1, 2))


def _leaky() -> Any:
    return wrapped(f"{MODEL}.F", "relu", lambda f, x, **_: torch().nn.functional.leaky_relu(x, 1e-2))


def _mean_pooling(block: Any) -> None:
    block.pool = torch().nn.AvgPool2d(2)


def _bilinear(decoder: Any) -> None:
    decoder.blocks[0].up = torch().nn.Upsample(scale_factor=2, mode="bilinear")


def _reflecting(block: Any) -> None:
    block.conv2.padding_mode = "reflect"


def _off_by_one(decoder: Any) -> None:
    n = decoder.N // 4
    decoder.padding = torch().nn.ConstantPad2d((n + 1, n - 1, n, n), 0)


def _divided_again(module: Any) -> None:
    module.probe_scale = 4.0


def _optimiser(**settings: Any) -> Context:
    return function("_build_optimizer", lambda f, *a, **k: f(*a, **{**k, **settings}), MODEL)


def _without_some(original: Any, parameters: Any, **settings: Any) -> Any:
    """Half of the weights are no parameters of the optimiser."""
    return original(list(parameters)[::2], **settings)


FAULTS = Catalogue(
    "ptychopinn-pytorch",
    (
        # operators
        _in_operator("U01", "zero frequency at the corner", "diffract",
                     _helper("pad_and_diffract", _first(lambda x: torch().fft.ifftshift(x, dim=(-2, -1)))), "classic"),
        _in_operator("U02", "FFT not orthonormal", "diffract",
                     _helper("pad_and_diffract", _first(lambda x: x * x.shape[-1])), "classic"),
        _in_operator("U03", "intensity for amplitude", "diffract",
                     _helper("pad_and_diffract", _first(lambda x: x**2)), "RECT-MAE-UNITS-001"),
        _in_operator("U04", "translation with the opposite sign", "translate",
                     _helper("Translation", _moved(lambda o: -o)), "TORCH-REASSEMBLY-SIGN-001"),
        _in_operator("U05", "offsets (x, y) read as (row, column)", "translate",
                     _helper("Translation", _moved(lambda o: o.flip(-1))), "REASSEMBLY-BRIDGE-001"),
        _in_operator("U06", "align_corners on one side of the grid only", "translate", _corners_aside),
        _in_operator("U07", "positions rounded to whole pixels", "translate",
                     _helper("Translation", _moved(lambda o: o.round()))),
        _in_operator("U08", "patches merged at offsets of the opposite sign", "merge_patches",
                     _helper("reassemble_patches_position_real", _moved(lambda o: -o)), "TORCH-REASSEMBLY-SIGN-001"),
        _in_operator("U09", "merge halved: a wrong normalisation", "merge_patches",
                     _helper("reassemble_patches_position_real", _first(lambda x: x / 2)),
                     "TORCH-REASSEMBLY-NORM-001"),
        _in_operator("U10", "patches cut at offsets of the opposite sign", "cut_patches",
                     _helper("extract_channels_from_region", _moved(lambda o: -o))),
        _in_operator("U11", "patches cut one pixel off", "cut_patches",
                     _helper("trim_reconstruction", lambda f, x, *a, **k: f(x.roll(1, -1), *a, **k))),
        _in_operator("U12", "patches of a group in another order", "cut_patches",
                     _helper("extract_channels_from_region", lambda f, *a, **k: f(*a, **k).flip(1)),
                     "TORCH-GS2-STITCH-001"),
        _in_operator("U13", "probe conjugated", "illuminate",
                     _forward("ProbeIllumination", lambda f, s, x, probe: f(s, x, probe.conj()))),
        _in_operator("U14", "phase head without its pi", "phase_head",
                     _forward("Tanh_custom_act", lambda f, s, x: f(s, x) / math.pi)),
        _in_operator("U15", "amplitude head with another slope", "sigmoid",
                     _forward("Amplitude_activation", lambda f, s, x: f(s, 1.702 * x))),
        _in_operator("U16", "patches padded one pixel off", "pad_patch",
                     _helper("pad_obj", lambda f, x, *a: f(x, *a).roll(1, -1)), "decoder shape fix, 2025-10"),
        _in_operator("U17", "stitched at mirrored positions", "stitch",
                     function("reassemble_position", _moved(lambda o: -o), "ptycho.tf_helper")),
        # layers
        _at("U18", "leaky ReLU", "encoder.0.conv1.relu", _leaky),
        _at("U19", "convolutions pad by reflection", "encoder.0.conv2", _made("ConvBaseBlock", _reflecting)),
        _at("U20", "mean pooling for max pooling", "encoder.0.down", _made("ConvPoolBlock", _mean_pooling)),
        _at("U21", "bilinear up-sampling for nearest", "amplitude.0.up", _made("Decoder_amp", _bilinear)),
        _at("U22", "decoder padded one pixel off", "amplitude", _made("Decoder_last_Amp", _off_by_one),
            "decoder shape fix, 2025-10"),
        _at("U23", "amplitude and phase exchanged", "patches_before_merge",
            _forward("CombineComplex", lambda f, s, amplitude, phase: f(s, phase, amplitude))),
        _at("U24", "sign of the phase flipped", "patches_before_merge",
            _forward("CombineComplex", lambda f, s, amplitude, phase: f(s, amplitude, -phase))),
        _at("U25", "double precision leaks into the object", "patches_before_merge",
            _forward("CombineComplex", lambda f, *a: f(*a).to(torch().complex128)), "decoder dtype fix, 2025-10"),
        _at("U26", "(B, C, H, W) groups read as (B, H, W, C)", "inputs", _forward("Autoencoder", _misread),
            "TORCH-GS2-STITCH-001"),
        _at("U27", "probe divided by probe_scale twice", "probe", _made("PtychoPINN", _divided_again),
            "RECT-PROBE-SCALE-DOUBLE-DIV-001"),
        # gradient, loss and step
        Fault("U28", "gradient stopped behind the phase", "gradient", "all weights",
              _forward("CombineComplex", lambda f, s, amplitude, phase: f(s, amplitude, phase.detach()))),
        Fault("U29", "loss without its logarithm", "gradient", "all weights",
              _forward("PoissonIntensityLayer", lambda f, s, x: f(s, 0 * x))),
        Fault("U30", "amplitudes given to a loss that expects counts", "gradient", "all weights",
              _forward("PoissonIntensityLayer", lambda f, s, x: f(s, x.sqrt())), "POISSON-NORM-001"),
        Fault("U31", "Adam's second average over ten steps", "step", "own optimiser", _optimiser(adam_beta2=0.9)),
        Fault("U32", "weight decay of 0.01", "step", "own optimiser", _optimiser(weight_decay=1e-2)),
        Fault("U33", "every second weight is no parameter of the optimiser", "step", "own optimiser",
              function("_build_optimizer", _without_some, MODEL), "TORCH-INTENSITY-SCALE-DEAD-001"),
    ),
)  # fmt: skip
"""They are looked for in networks that are equal without a fault. What differs there, such as a merged border, is
passed over, and so are the units of the loss: what is wrong with it shows in the direction of the gradient."""
