import numpy as np
import torch
from ptycho import wrong
from torch import nn

from ptyint.backends.weights import initial_weights
from ptyint.config import ModelConfig


class Amplitude_activation(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.name = config.amp_activation

    def forward(self, x):
        return torch.logaddexp(x, x * 0) if self.name == "softplus" else getattr(nn.functional, self.name)(x)


class Tanh_custom_act(nn.Module):
    def forward(self, x):
        return torch.pi * torch.tanh(x)


class ProbeIllumination(nn.Module):
    def __init__(self, model_config=None, data_config=None):
        super().__init__()

    def forward(self, x, probe):
        return x[:, :, None] * probe, probe


class Autoencoder(nn.Module):
    """Holds the weights of ptyint's network, and hands its inputs on."""

    def __init__(self, gridsize, n_filters_scale):
        super().__init__()
        weights = initial_weights(ModelConfig(64, gridsize, n_filters_scale), np.ones((1, 64, 64)), 0)
        for name, array in weights.items():
            if name.endswith(("kernel", "bias")):
                layout = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
                layout = 0.5 * layout + 0.1 * (array.ndim == 1) if wrong("attention") else layout
                self.register_parameter(name.replace(".", "_"), nn.Parameter(torch.as_tensor(layout.copy())))
        if wrong("attention"):
            self.attention = nn.Linear(4, 4)

    def forward(self, x):
        return x


class Lightning(nn.Module):
    def __init__(self, config, data_config, model_config):
        super().__init__()
        self.data_config, self.model_config = data_config, model_config
        self.autoencoder = Autoencoder(config.model.gridsize, config.model.n_filters_scale)
        self.illumination = ProbeIllumination()

    def forward(self, x, probe):
        patches = self.autoencoder(x).to(torch.complex64)
        return self.illumination(patches, probe)[0], None, None

    def compute_loss(self, batch):
        fields = batch[0]
        rate = self(fields["images"], batch[1])[0] ** 2 + 0.01
        counts = fields["observed_images"] ** 2
        nll = rate - counts * torch.log(rate)
        return nll.sum() / len(nll) if wrong("loss") else nll.mean()

    def forward_predict(self, x, *others):
        return (x * torch.exp(1j * x)).to(torch.complex64)
