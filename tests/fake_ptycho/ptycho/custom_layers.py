import numpy as np
import tensorflow as tf

from ptycho import wrong
from ptyint.backends import numpy as operators


class ReassemblePatchesLayer:
    def __init__(self, padded_size, N, gridsize):
        self.size = padded_size

    def __call__(self, inputs):
        patches, positions = np.moveaxis(np.asarray(inputs[0]), -1, 1), np.asarray(inputs[1])
        merged = operators.merge_patches(patches, -positions[:, 0, ::-1].transpose(0, 2, 1), self.size)
        if wrong("merge"):
            merged = merged * 1e3
        if wrong("mix") and patches.shape[0] * patches.shape[1] >= 64:
            merged = merged.sum(axis=0, keepdims=True)
        return tf.constant(merged[..., None].astype(np.complex64))


class TrimReconstructionLayer:
    def __init__(self, output_size):
        self.N = output_size

    def __call__(self, region):
        start = (region.shape[1] - self.N) // 2
        return region[:, start : start + self.N, start : start + self.N]


class ActivationLayer:
    def __init__(self, activation_name, scale=1.0):
        self.function, self.scale = getattr(tf.keras.activations, activation_name), scale

    def __call__(self, x):
        return self.scale * self.function(x)
