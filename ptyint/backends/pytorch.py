"""The network and its physics in PyTorch."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

# OpenMP threads that wait by spinning halve the speed of a busy machine, or worse: let them sleep. Read at import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ptyint.backends import protocol
from ptyint.backends import weights as canonical
from ptyint.backends.protocol import Arrays, Good, Operator, Tap, untapped
from ptyint.backends.training import NetworkBackend, on_arrays
from ptyint.backends.weights import INTENSITY_SCALE, OUTER_CHANNELS, PROBE, Weights
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.scans.batches import Batch

torch.backends.cudnn.allow_tf32 = False  # float32 means float32, on a GPU too

BORDER_WEIGHT = 1e-2
MIN_COVERAGE = 1e-5
COUNT_FLOOR = 1e-2

ADAM = ("step", "exp_avg", "exp_avg_sq")
"""What PyTorch's optimiser remembers of each weight."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "swish": F.silu,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),  # F.softplus is a straight line from 20 on
    "relu": F.relu,
}


def device() -> torch.device:
    """CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def downsample(x: Tensor) -> Tensor:
    """Largest value of each 2 x 2 block of (B, channels, H, W)."""
    return F.max_pool2d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour up-sampling by two of (B, channels, H, W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def phase_head(x: Tensor) -> Tensor:
    """Phase in (-pi, pi) rad."""
    return math.pi * torch.tanh(x)


def translate(image: Tensor, offset_yx: Tensor, n_out: int) -> Tensor:
    """Move images (k, channels, n_in, n_in) by offsets (k, 2) in px into frames of edge `n_out`; bilinear."""
    n_in = image.shape[-1]
    pixel = torch.arange(n_out, dtype=image.dtype, device=image.device) - (n_out - n_in) / 2
    source = (pixel - offset_yx[:, :, None]) * (2 / (n_in - 1)) - 1
    rows, columns = source[:, 0, :, None], source[:, 1, None, :]
    shape = (len(image), n_out, n_out)
    grid = torch.stack([columns.expand(shape), rows.expand(shape)], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def pad_patch(patch: Tensor) -> Tensor:
    """Zero-pad (..., N/2, N/2) to (..., N, N)."""
    margin = patch.shape[-1] // 2
    return F.pad(patch, (margin, margin, margin, margin))


def center_mask(N: int, like: Tensor) -> Tensor:
    """1 in the central N/2 x N/2 block, 0 in the border: (N, N)."""
    return pad_patch(torch.ones(N // 2, N // 2, dtype=like.dtype, device=like.device))


def merge_patches(patches: Tensor, offsets_px: Tensor, n_canvas: int) -> Tensor:
    """Merge complex patches (B, C, N, N) by their offsets into one region (B, n_canvas, n_canvas)."""
    B, C, N, _ = patches.shape
    center = center_mask(N, patches.real)
    weight = center + BORDER_WEIGHT * (1 - center)
    layers = torch.stack([patches.real * weight, patches.imag * weight, weight.expand(B, C, N, N)], dim=2)
    moved = translate(layers.reshape(B * C, 3, N, N), offsets_px.reshape(B * C, 2), n_canvas)
    real, imag, covered = moved.reshape(B, C, 3, n_canvas, n_canvas).sum(dim=1).unbind(dim=1)
    divisor = torch.where(covered > MIN_COVERAGE, covered, torch.full_like(covered, math.inf))
    return torch.complex(real / divisor, imag / divisor)


def cut_patches(region: Tensor, offsets_px: Tensor, N: int) -> Tensor:
    """Cut complex patches (B, C, N, N) out of the regions (B, n_canvas, n_canvas)."""
    B, C = offsets_px.shape[:2]
    layers = torch.view_as_real(region).permute(0, 3, 1, 2)
    repeated = layers[:, None].expand(B, C, *layers.shape[1:]).reshape(B * C, *layers.shape[1:])
    cut = translate(repeated, -offsets_px.reshape(B * C, 2), N).reshape(B, C, 2, N, N)
    return torch.complex(cut[:, :, 0], cut[:, :, 1])


def probe_mask(N: int, like: Tensor) -> Tensor:
    """Disk of radius N/4 around [N // 2, N // 2]: (N, N)."""
    axis = torch.arange(N, dtype=like.dtype, device=like.device) - N // 2
    return (axis[:, None] ** 2 + axis**2 <= (N / 4) ** 2).to(like.dtype)


def illuminate(probe: Tensor, patches: Tensor) -> Tensor:
    """Exit waves (B, C, modes, N, N) of the probe (modes, N, N) on patches (B, C, N, N)."""
    return probe * patches[:, :, None, :, :]


def propagate(exit_wave: Tensor) -> Tensor:
    """Orthonormal FFT, zero frequency at the centre."""
    return torch.fft.fftshift(torch.fft.fft2(exit_wave, norm="ortho"), dim=(-2, -1))  # type: ignore[no-any-return]


def expected_intensity(far_field: Tensor, log_intensity_scale: Tensor) -> Tensor:
    """Intensities (B, C, N, N) of far fields (B, C, modes, N, N); modes add incoherently."""
    intensity = (far_field.real**2 + far_field.imag**2).sum(dim=2)
    return torch.exp(2 * log_intensity_scale) * intensity


def poisson_nll(counts: Tensor, expected: Tensor, good_pixels: Tensor) -> Tensor:
    """Mean over good pixels of ``l - k log l`` with ``l = expected + COUNT_FLOOR``."""
    rate = expected + COUNT_FLOOR
    nll = (rate - counts * torch.log(rate)) * good_pixels
    return nll.sum() / (good_pixels.sum() * (counts.numel() // good_pixels.numel()))


class PtychoNet:
    """Amplitudes of C patterns in, their object patches and diffraction patterns out; weights by canonical name."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def convolve(self, name: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """The convolution `name`, without activation."""
        return tap(name, F.conv2d(x, self.weights[f"{name}.kernel"], self.weights[f"{name}.bias"], padding=1))

    def block(self, prefix: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """Twice convolution and ReLU."""
        for name in (f"{prefix}.conv1", f"{prefix}.conv2"):
            x = tap(f"{name}.relu", F.relu(self.convolve(name, x, tap), inplace=True))
        return x

    def decode(self, head: str, x: Tensor, tap: Tap[Tensor]) -> Tensor:
        """Real patches (B, C or 1, N, N) of one head: 'amplitude' or 'phase'."""
        for i in range(len(canonical.decoder_filters(self.config))):
            x = tap(f"{head}.{i}.up", upsample(self.block(f"{head}.{i}", x, tap)))
        inner, outer = (x[:, :-OUTER_CHANNELS], x[:, -OUTER_CHANNELS:]) if self.config.probe_big else (x, None)
        activation = phase_head if head == "phase" else ACTIVATIONS[self.config.amp_activation]
        patch = tap(f"{head}.head", activation(self.convolve(f"{head}.last", inner, tap)))
        patch = pad_patch(patch)
        if outer is not None:
            border = tap(f"{head}.outer.up", upsample(self.block(f"{head}.outer", outer, tap)))
            border = F.silu(self.convolve(f"{head}.outer.last", border, tap))
            patch = patch + border * (1 - center_mask(self.config.N, patch))
        return tap(head, patch)

    def object_patches(self, inputs: Tensor, offsets_px: Tensor, n_canvas: int, tap: Tap[Tensor] = untapped) -> Tensor:
        """Complex object patches (B, C, N, N), consistent within each group."""
        x = tap("inputs", inputs).contiguous(memory_format=torch.channels_last)
        for i in range(len(canonical.encoder_filters(self.config))):
            x = tap(f"encoder.{i}.down", downsample(self.block(f"encoder.{i}", x, tap)))
        amplitude, phase = self.decode("amplitude", x, tap), self.decode("phase", x, tap)
        patches = torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))
        if self.config.n_channels > 1:
            patches = tap("patches_before_merge", patches)
            if self.config.object_big:
                region = merge_patches(patches, offsets_px, n_canvas)
            else:
                margin = (n_canvas - self.config.N) // 2
                region = F.pad(patches[:, 0], (margin, margin, margin, margin))
            patches = cut_patches(tap("region", region), offsets_px, self.config.N)
        return tap("object_patches", patches)

    def forward(self, inputs: Tensor, offsets_px: Tensor, n_canvas: int, tap: Tap[Tensor] = untapped) -> Tensor:
        """Expected intensities (B, C, N, N), in squared units of the inputs."""
        patches = self.object_patches(inputs, offsets_px, n_canvas, tap)
        real, imag = (self.weights[name] for name in PROBE)
        probe = torch.complex(real, imag)
        if self.config.probe_mask:
            probe = probe * probe_mask(self.config.N, real)
        exit_wave = tap("exit_wave", illuminate(tap("probe", probe), patches))
        wave = tap("far_field", propagate(exit_wave))
        return tap("expected_intensity", expected_intensity(wave, self.weights[INTENSITY_SCALE]))


class Recorder(protocol.Recorder):
    """See :class:`.protocol.Recorder`."""

    def __call__(self, name: str, tensor: Tensor, channels_last: bool = False) -> Tensor:
        """Keep `tensor`; return it, or what is given in its place."""
        self.values[name] = _array(tensor)
        result: Tensor = _Recorded.apply(tensor, self, name)  # type: ignore[no-untyped-call]
        return result

    def in_place_of(self, tensor: Tensor, name: str) -> Tensor:
        """What is given under `name`; `tensor` where nothing is."""
        if name not in self.given:
            return tensor
        return torch.from_numpy(np.array(self.given[name])).to(device=tensor.device, dtype=tensor.dtype)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, recorder: Recorder, name: str) -> Tensor:
        ctx.recorder, ctx.name, ctx.shape = recorder, name, tensor.shape
        return recorder.in_place_of(tensor, name).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.recorder.gradients[ctx.name] = _array(gradient)
        passed = ctx.recorder.in_place_of(gradient, f"gradient/{ctx.name}")
        return passed if passed.shape == ctx.shape else passed.new_zeros(ctx.shape), None, None


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().resolve_conj().cpu().numpy(), order="C")


class TorchNetwork:
    """A built network with its optimiser; see :class:`.protocol.Network`."""

    def __init__(self, config: TrainingConfig, weights: Weights, good_pixels: Good, precision: str) -> None:
        self.dtype, self.device = getattr(torch, precision), device()
        self.good_pixels = self._tensor(good_pixels)
        self.trainable = canonical.trainable_names(config, list(weights))
        self.parameters = {
            name: self._from_canonical(array).clone().requires_grad_(name in self.trainable)
            for name, array in weights.items()
        }
        self.model = PtychoNet(config.model, self.parameters)
        moving = [self.parameters[name] for name in self.trainable]
        betas = (config.adam_beta1, config.adam_beta2)
        self.optimizer = torch.optim.Adam(moving, config.learning_rate, betas, config.adam_epsilon, fused=True)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(array, order="C")).to(device=self.device, dtype=self.dtype)

    def _from_canonical(self, array: NDArray[Any]) -> Tensor:
        if array.ndim != 4:
            return self._tensor(array)
        return self._tensor(array.transpose(3, 2, 0, 1)).to(memory_format=torch.channels_last)

    @staticmethod
    def _canonical(tensor: Tensor) -> NDArray[Any]:
        array = tensor.detach().cpu().numpy()
        return np.array(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array, order="C")

    def set_weights(self, weights: Weights) -> None:
        """Copy canonical weights in."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self._from_canonical(weights[name]))

    def get_weights(self) -> Weights:
        """Copy canonical weights out."""
        return {name: self._canonical(parameter) for name, parameter in self.parameters.items()}

    def get_state(self) -> Arrays:
        """See :class:`.checkpoint.Resumable`."""
        memory = {name: self.optimizer.state[self.parameters[name]] for name in self.trainable}
        kept = {f"{key}/{name}": one[key] for name, one in memory.items() for key in ADAM}
        return {**self.get_weights(), **{name: self._canonical(tensor) for name, tensor in kept.items()}}

    def set_state(self, state: Arrays) -> None:
        """See :class:`.checkpoint.Resumable`."""
        self.set_weights(state)
        for name in self.trainable:
            memory = {key: self._from_canonical(state[f"{key}/{name}"]).clone() for key in ADAM}
            self.optimizer.state[self.parameters[name]] = memory

    def _loss(self, batch: Batch, inputs: Tensor, tap: Tap[Tensor] = untapped) -> Tensor:
        expected = self.model.forward(inputs, self._tensor(batch.offsets_px), batch.n_canvas, tap)
        counts = tap("expected_counts", batch.count_scale * expected)
        return tap("loss", poisson_nll(self._tensor(batch.counts), counts, self.good_pixels))

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """One Adam step; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, self._tensor(batch.inputs))
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def predict(self, batch: Batch) -> NDArray[np.complexfloating]:
        """Object patches (B, C, N, N)."""
        inputs, offsets_px = self._tensor(batch.inputs), self._tensor(batch.offsets_px)
        with torch.inference_mode():
            patches = self.model.object_patches(inputs, offsets_px, batch.n_canvas)
        return np.asarray(patches.cpu().numpy())

    def reset(self, weights: Weights) -> None:
        """Start over from `weights`: as just built."""
        self.set_weights(weights)
        self.optimizer.state.clear()

    def trace(self, batch: Batch, given: Mapping[str, NDArray[Any]] | None = None) -> Arrays:
        """Every tap of one forward and backward pass; see :meth:`.protocol.Network.trace`."""
        recorder = Recorder(given)
        inputs = self._tensor(batch.inputs).requires_grad_(True)
        loss = self._loss(batch, inputs, recorder)
        sources = [inputs, *(self.parameters[name] for name in self.trainable)]
        gradients = zip(self.trainable, torch.autograd.grad(loss, sources, materialize_grads=True)[1:], strict=True)
        return recorder.arrays() | {f"gradient/{name}": self._canonical(gradient) for name, gradient in gradients}


class PyTorchBackend(NetworkBackend):
    """See :class:`.protocol.Backend`."""

    name = "pytorch"
    frameworks = ("torch",)
    network = TorchNetwork

    def operators(self, precision: str = "float64") -> dict[str, Operator]:
        """See :meth:`.protocol.Operators.operators`."""
        where, real = device(), getattr(torch, precision)

        def t(array: Any) -> Tensor:
            dtype = real.to_complex() if np.iscomplexobj(array) else real
            return torch.as_tensor(np.array(array), dtype=dtype, device=where)

        return {
            **on_arrays(globals(), t, _array),
            "probe_mask": lambda N: _array(probe_mask(N, t(0.0))),
            "translate": lambda image, offset, n_out: _array(translate(t(image)[:, None], t(offset), n_out)[:, 0]),
        }

    def describe(self) -> dict[str, Any]:
        """Versions, device, threads, determinism."""
        name = torch.cuda.get_device_name() if device().type == "cuda" else "cpu"
        deterministic = torch.are_deterministic_algorithms_enabled()
        backends, products = torch.backends, torch.get_float32_matmul_precision()
        onednn = {getattr(getattr(backends.mkldnn, one, None), "fp32_precision", "none") for one in ("matmul", "conv")}
        return self.description(
            torch.__version__,
            name,
            torch.get_num_threads(),
            deterministic,
            TF32=backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32,
            autocast=torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
            products_of_reduced_precision=products != "highest" or not onednn <= {"none", "ieee"},
            another_default_dtype=torch.get_default_dtype() != torch.float32,
        )


BACKEND = PyTorchBackend()
