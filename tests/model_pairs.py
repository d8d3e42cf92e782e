"""Models in Keras, their ports to PyTorch, and ports with a fault each, for `test_models.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

# --- a U-Net: convolutions, batch normalisation, pooling, transposed convolution, skip, residual ---


def keras_unet() -> Any:
    import keras
    from keras import layers

    def block(x: Any, n: int, name: str) -> Any:
        x = layers.Conv2D(n, 3, padding="same", name=f"{name}_conv")(x)
        x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    inputs = keras.Input((14, 18, 2))
    skip = block(inputs, 6, "enter")
    x = layers.MaxPooling2D(2, padding="valid", name="pool")(skip)
    x = block(x, 10, "deep")
    x = x + 0.5 * block(x, 10, "residual")
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up")(x)
    x = layers.Concatenate(name="both")([skip, x])
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(3, 1, name="head")(x)
    x = layers.Softmax(name="labels")(x)
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-7), keras.losses.MeanSquaredError())
    return model


def torch_unet(fault: str = "") -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, given: int, n: int, bias: bool = True, epsilon: float = 1e-5, momentum: float = 0.1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(given, n, 3, padding=1, bias=bias)
            self.norm = nn.BatchNorm2d(n, epsilon, momentum)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            if fault == "activation placement":
                return self.norm(self.relu(self.conv(x)))
            return self.relu(self.norm(self.conv(x)))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = Block(2, 6, epsilon=1e-3 if fault == "epsilon" else 1e-5)
            self.pool = nn.MaxPool2d(3 if fault == "pool size" else 2, 2, ceil_mode=fault == "pool size")
            self.deep = Block(6, 10, bias=fault != "bias missing")
            self.residual = Block(10, 10, momentum=0.9 if fault == "momentum" else 0.1)
            self.drop = nn.Dropout(0.5 if fault == "dropout rate" else 0.3)
            self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
            self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
            self.head = nn.Conv2d(12, 3, 1)
            self.labels = nn.Softmax(2 if fault == "softmax axis" else 1)

        def forward(self, x: Any) -> Any:
            skip = self.enter(x)
            x = self.deep(self.pool(skip))
            x = x + (1.0 if fault == "residual scale" else 0.5) * self.residual(x)
            x = F.dropout(x, 0.3) if fault == "dropout left on" else self.drop(x)
            x = self.up(x.detach() if fault == "detached" else x)
            x = torch.cat([x, skip] if fault == "skip order" else [skip, x], dim=1)
            return self.labels(self.head(self.depthwise(x)))

    net = UNet()
    epsilon = 1e-8 if fault == "adam epsilon" else 1e-7 / (1 - 0.999) ** 0.5  # Keras adds it before the bias correction
    settings: dict[str, Any] = {"weight_decay": 1e-2} if fault == "weight decay" else {}
    betas = (0.9, 0.99) if fault == "adam beta" else (0.9, 0.999)
    if fault == "frozen":
        net.deep.norm.weight.requires_grad_(False)
    loss: Callable[..., Any] = nn.L1Loss() if fault == "loss" else nn.MSELoss()
    return net, loss, torch.optim.Adam(net.parameters(), 1e-2, betas, epsilon, **settings)


UNET_FAULTS = {
    "epsilon": ("forward", "enter_norm", ""),
    "activation placement": ("forward", "enter_norm", "input"),
    "pool size": ("forward", "pool", ""),
    "bias missing": ("forward", "deep_conv", "bias"),
    "momentum": ("forward", "residual_norm", "moving_mean"),
    "dropout rate": ("forward", "drop", "rate"),
    "residual scale": ("forward", "drop", "input"),
    "dropout left on": ("forward", "up", "input"),
    "skip order": ("forward", "depthwise", "input"),
    "softmax axis": ("forward", "labels", ""),
    "loss": ("loss", "loss", ""),
    "detached": ("gradient", "up", "input"),
    "frozen": ("gradient", "deep_norm", "gamma"),
    "weight decay": ("step", "optimiser", "enter_conv.kernel"),
    "adam epsilon": ("step", "optimiser", "enter_conv.kernel"),
    "adam beta": ("step", "optimiser", "enter_conv.kernel"),
}
"""Fault to rung, tap and operand where it must be found first."""

for _fault in UNET_FAULTS:
    globals()["unet_" + _fault.replace(" ", "_")] = partial(torch_unet, _fault)

# --- a transformer block on words, then a classifier: embedding, attention, layer normalisation, GELU, flatten ---


def keras_transformer() -> Any:
    import keras
    from keras import layers

    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 8, name="embed")(words)
    y = layers.LayerNormalization(epsilon=1e-5, name="norm1")(x)
    x = x + layers.MultiHeadAttention(2, 4, dropout=0.1, name="attention")(y, y)
    y = layers.LayerNormalization(epsilon=1e-5, name="norm2")(x)
    y = layers.Dense(16, activation="gelu", name="wide")(y)
    x = x + layers.Dense(8, name="narrow")(y)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(words, layers.Dense(3, name="classes")(x)), None, keras.optimizers.SGD(0.1)


def torch_transformer(fault: str = "") -> Any:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8, eps=1e-6 if fault == "norm epsilon" else 1e-5)
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
            self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
            self.gelu = nn.GELU("tanh" if fault == "gelu" else "none")
            self.classes = nn.Linear(40, 3)

        def forward(self, words: Any) -> Any:
            x = self.embed(words)
            y = self.norm1(x)
            x = (y if fault == "residual from the norm" else x) + self.attention(y, y, y, need_weights=False)[0]
            x = x + self.narrow(self.gelu(self.wide(self.norm2(x))))
            return self.classes(x.flatten(1))

    net = Block()
    return net, None, torch.optim.SGD(net.parameters(), 0.1)


TRANSFORMER_FAULTS = {
    "gelu": ("forward", "wide.activation", ""),
    "norm epsilon": ("forward", "norm2", ""),
    "residual from the norm": ("forward", "norm2", "input"),
}

for _fault in TRANSFORMER_FAULTS:
    globals()["transformer_" + _fault.replace(" ", "_")] = partial(torch_transformer, _fault)

# --- a classifier of images: group normalisation, strides, mean pooling, flatten in another order ---


def keras_classifier() -> Any:
    import keras
    from keras import layers

    class Scale(layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

        def call(self, x: Any) -> Any:
            return x * self.factor

    return keras.Sequential(
        [
            keras.Input((8, 10, 3)),
            layers.Conv2D(8, 3, strides=2, groups=1, name="conv"),
            layers.GroupNormalization(2, epsilon=1e-5, name="norm"),
            layers.LeakyReLU(0.25, name="leaky"),
            layers.AveragePooling2D((1, 2), name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(6, activation="tanh", name="hidden"),
            Scale(name="scale"),
            layers.Dense(4, name="classes"),
        ]
    )


def torch_classifier(fault: str = "") -> Any:
    import torch
    from torch import nn

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5 if fault == "width" else 6))

        def forward(self, x: Any) -> Any:
            return x * self.weight[:6] if fault != "width" else x

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.GroupNorm(2, 8),
        nn.LeakyReLU(0.25),
        nn.AvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(48, 6),
        nn.Tanh(),
        Scale(),
        nn.Linear(6, 4),
    )


classifier_width = partial(torch_classifier, "width")
