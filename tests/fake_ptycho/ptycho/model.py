import math

import keras
import numpy as np
import tensorflow as tf

from ptycho import params
from ptyint.backends import tensorflow as operators
from ptyint.backends.weights import OUTER_CHANNELS, decoder_filters, encoder_filters
from ptyint.config import ModelConfig

_lazy_cache = {}
diffraction_to_obj = None


class Step(keras.layers.Layer):
    """A function as a layer, with a variable that Keras does not know of."""

    def __init__(self, name, function, w=None):
        super().__init__(name=name)
        self.function = function
        if w is not None:
            self.w = tf.Variable(w)

    def call(self, inputs):
        return self.function(self, inputs)


def convolution(n, relu=True):
    return keras.layers.Conv2D(n, 3, padding="same", activation="relu" if relu else None)


def twice(x, n):
    return convolution(n)(convolution(n)(x))


def decode(x, config, head, activation):
    C = config.n_channels if config.object_big else 1
    last, outer = convolution(C, relu=False), convolution(C, relu=False)
    for n in decoder_filters(config):
        x = keras.layers.UpSampling2D()(twice(x, n))
    inner = Step(head, lambda _, x: activation(x))(last(x[..., :-OUTER_CHANNELS]))
    border = outer(
        keras.layers.UpSampling2D()(twice(x[..., -OUTER_CHANNELS:], config.n_filters_scale * 2048 // config.N))
    )
    mask = tf.transpose(operators.center_mask(config.N, tf.float32), (0, 2, 3, 1))
    return keras.layers.ZeroPadding2D(config.N // 4)(inner) + keras.activations.silu(border) * (1 - mask)


def create_compiled_model():
    cfg = params.cfg
    config = ModelConfig(cfg["N"], cfg["gridsize"], cfg["n_filters_scale"], object_big=cfg["object.big"])
    N, C, S = config.N, config.n_channels, config.N + 14
    scale = np.float32(np.log(cfg["intensity_scale"]))
    given, positions = keras.Input((N, N, C)), keras.Input((1, 2, C))
    offsets = lambda p: tf.transpose(-p[:, 0, ::-1], (0, 2, 1))  # noqa: E731
    first, last = (lambda x: tf.transpose(x, (0, 3, 1, 2))), (lambda x: tf.transpose(x, (0, 2, 3, 1)))

    def merge(_, inputs):
        patches, p = first(inputs[0]), offsets(inputs[1])
        return operators.merge_patches(patches, p, S)[..., None] if config.object_big else inputs[0][..., :1]

    def cut(_, inputs):
        patches = operators.cut_patches(inputs[0][..., 0], offsets(inputs[1]), N)
        return tf.reshape(patches, (-1, N, N, 1)) if config.object_big else inputs[0]

    x = Step("intensity_scaler", lambda self, x: x / tf.exp(self.w), scale)(given)
    for n in encoder_filters(config):
        x = keras.layers.MaxPooling2D()(twice(x, n))
    amplitude = decode(x, config, "amp", keras.activations.sigmoid)
    phase = decode(x, config, "phi", lambda x: math.pi * tf.tanh(x))
    polar = lambda _, x: tf.complex(x[0] * tf.cos(x[1]), x[0] * tf.sin(x[1]))  # noqa: E731
    region = Step("padded_obj_2", merge)([Step("obj", polar)([amplitude, phase]), positions])
    patches = Step("padded_objs_with_offsets", cut)([region, positions])
    wave = Step("probe_illumination", lambda self, x: self.w[0] * x, cfg["probe"][None])(patches)
    far = Step("far", lambda _, x: tf.abs(operators.propagate(x[..., 0]))[..., None])(wave)
    channels = Step("pred_diff_channels", lambda _, x: last(tf.reshape(x, (-1, C, N, N))))(far)
    expected = Step("intensity_scaler_inv", lambda self, x: tf.exp(self.w) * x, scale)(channels)
    network = keras.Model([given, positions], [patches, expected, expected**2])
    network.get_layer("intensity_scaler_inv").w = network.get_layer("intensity_scaler").w
    network.compile(keras.optimizers.Adam(1e-3), loss=[nothing, "mae", negloglik], loss_weights=[0.0, 0.0, 1.0])
    return network, None


def nothing(target, prediction):
    return 0.0


class ProbeIllumination:
    def __init__(self, initial_probe, N):
        self.probe = initial_probe

    def __call__(self, inputs):
        return self.probe[None] * inputs[0], self.probe


def negloglik(counts, intensity):
    rate = intensity + 0.01
    return rate - counts * tf.math.log(rate)
