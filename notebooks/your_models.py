"""Models for `your_models.ipynb`: a small U-Net in Keras, its port to PyTorch, and ports with a mistake each.

A factory returns a model, or model, loss and optimiser. Each side runs in a process of its own: import each framework
where it is used.
"""

from functools import partial

CLASSES = 3


def keras_net():
    """The model as it was: a U-Net that labels pixels, compiled with loss and optimiser."""
    import keras
    from keras import layers

    x = inputs = keras.Input((20, 24, 2))
    x = skip = layers.Conv2D(8, 3, padding="same", activation="gelu", name="enter")(x)
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False, name="down")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation("gelu", name="act")(x)
    x = layers.Conv2D(8, 3, padding="same", name="middle")(x)
    x = layers.UpSampling2D(interpolation="bilinear", name="up")(x)
    x = layers.Concatenate()([skip, x])
    x = layers.Conv2D(CLASSES, 1, name="classes")(x)
    model = keras.Model(inputs, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def torch_net(stride="asymmetric", epsilon=1e-3, momentum=0.01, gelu="none", align=False):
    """Its port. Each argument is a setting that Keras and PyTorch have different habits about."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter = nn.Conv2d(2, 8, 3, padding=1)
            self.down = nn.Conv2d(8, 12, 3, stride=2, padding=0 if stride == "asymmetric" else 1, bias=False)
            self.norm = nn.BatchNorm2d(12, eps=epsilon, momentum=momentum)
            self.act = nn.GELU(gelu)
            self.middle = nn.Conv2d(12, 8, 3, padding=1)
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align)
            self.classes = nn.Conv2d(16, CLASSES, 1)

        def forward(self, x):
            skip = F.gelu(self.enter(x))
            x = F.pad(skip, (0, 1, 0, 1)) if stride == "asymmetric" else skip
            x = self.act(self.norm(self.down(x)))
            x = self.up(self.middle(x))
            return self.classes(torch.cat([skip, x], dim=1))

    net = Net()
    return net, F.cross_entropy, torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)


epsilon = partial(torch_net, epsilon=1e-5)
same_padding = partial(torch_net, stride="symmetric")
momentum = partial(torch_net, momentum=0.99)
corners = partial(torch_net, align=True)
gelu = partial(torch_net, gelu="tanh")
