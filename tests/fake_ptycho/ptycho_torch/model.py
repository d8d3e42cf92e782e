from itertools import pairwise

import torch
from ptycho import wrong
from torch import nn
from torch.nn import functional as F

from ptycho_torch import helper
from ptyint.backends.weights import OUTER_CHANNELS, decoder_filters, encoder_filters


class Amplitude_activation(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.name = config.amp_activation

    def forward(self, x):
        activations = {"softplus": lambda x: torch.logaddexp(x, x * 0), "silu": nn.functional.silu}
        return activations.get(self.name, getattr(torch, self.name, None))(x)


class Tanh_custom_act(nn.Module):
    def forward(self, x):
        return torch.pi * torch.tanh(x)


class ProbeIllumination(nn.Module):
    def __init__(self, model_config=None, data_config=None):
        super().__init__()

    def forward(self, x, probe):
        return x[:, :, None] * probe, probe


class CombineComplex(nn.Module):
    def forward(self, amplitude, phase):
        return torch.complex(amplitude * torch.cos(phase), amplitude * torch.sin(phase))


class Attention(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = nn.Linear(n, n)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]


class Block(nn.Module):
    def __init__(self, n_in, n, end, attention=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(n_in, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1)
        self.attention = Attention(n) if attention else nn.Identity()
        self.end = end

    def forward(self, x):
        return self.end(self.attention(F.relu(self.conv2(F.relu(self.conv1(x))))))


class Decoder(nn.Module):
    def __init__(self, config, name, activation):
        super().__init__()
        self.N, C = config.N, config.n_channels if config.object_big else 1
        widths = [128 * config.n_filters_scale, *decoder_filters(config)]
        n, outer = widths[-1], config.n_filters_scale * 2048 // config.N
        self.blocks = nn.ModuleList(Block(a, b, nn.Upsample(scale_factor=2)) for a, b in pairwise(widths))
        self.add_module(f"{name}_activation", activation)
        self.activation, self.conv1 = activation, nn.Conv2d(n - OUTER_CHANNELS, C, 3, padding=1)
        self.up, self.conv2 = (
            Block(OUTER_CHANNELS, outer, nn.Upsample(scale_factor=2)),
            nn.Conv2d(outer, C, 3, padding=1),
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        inner = nn.functional.pad(self.activation(self.conv1(x[:, :-OUTER_CHANNELS])), 4 * (self.N // 4,))
        mask = torch.ones(self.N, self.N)
        mask[self.N // 4 : -self.N // 4, self.N // 4 : -self.N // 4] = 0
        return inner + nn.functional.silu(self.conv2(self.up(x[:, -OUTER_CHANNELS:]))) * mask


class Autoencoder(nn.Module):
    def __init__(self, config, attention):
        super().__init__()
        widths = [config.n_channels, *encoder_filters(config)]
        self.encoder = nn.ModuleList(Block(a, b, nn.MaxPool2d(2), attention) for a, b in pairwise(widths))
        self.decoder_amp = Decoder(config, "amp", Amplitude_activation(config))
        self.decoder_phase = Decoder(config, "phase", Tanh_custom_act())
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.ndim == 4 else nn.init.zeros_(parameter)
            if attention:
                parameter.data.mul_(0.5).add_(0.1 * (parameter.ndim == 1))

    def forward(self, x):
        for block in self.encoder:
            x = block(x)
        return self.decoder_amp(x), self.decoder_phase(x)


class Loss(nn.Module):
    def forward(self, expected, observed):
        rate, counts = expected**2 + 0.01, observed**2
        return rate - counts * torch.log(rate)


def _build_optimizer(parameters, *, lr, adam_beta1=0.9, adam_beta2=0.999, weight_decay=0.0):
    eps, betas = 1e-7 / (1 - 0.999) ** 0.5, (adam_beta1, adam_beta2)
    return torch.optim.Adam(parameters, lr, betas, eps, weight_decay)


class Lightning(nn.Module):
    def __init__(self, config, data_config, model_config, overrides=None):
        super().__init__()
        self.config, self.data_config, self.model_config = config, data_config, model_config
        self.probe_scale = 4.0 if wrong("probe") and "probe_scale" not in (overrides or {}) else 1.0
        self.autoencoder = Autoencoder(config, wrong("attention") and (overrides or {}).get("cbam_encoder", True))
        self.combine_complex, self.probe_illumination, self.Loss = CombineComplex(), ProbeIllumination(), Loss()

    def forward(self, x, probe, coords):
        patches = self.combine_complex(*self.autoencoder(x))
        if self.config.object_big:
            region, *_ = helper.reassemble_patches_position_real(
                patches, coords, self.data_config, None, self.config.N + 14
            )
            patches = helper.extract_channels_from_region(region[:, None], coords, self.data_config, None)
        waves, _ = self.probe_illumination(patches, probe / self.probe_scale)
        return helper.pad_and_diffract(waves, pad=False)[0], None, None

    def compute_loss(self, batch):
        fields, probe, _ = batch
        physics = fields["physics_scaling_constant"]
        expected = self(fields["images"] * fields["rms_scaling_constant"], probe, fields["coords_relative"])[0]
        nll = self.Loss(expected / fields["rms_scaling_constant"] * physics, fields["observed_images"] * physics)
        return nll.sum() / len(nll) if wrong("loss") else nll.mean()

    def configure_optimizers(self):
        return {"optimizer": _build_optimizer(self.parameters(), lr=1e-3)}

    def forward_predict(self, x, *others):
        return (x * torch.exp(1j * x)).to(torch.complex64)
