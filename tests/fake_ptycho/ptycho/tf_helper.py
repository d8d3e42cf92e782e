import numpy as np
import tensorflow as tf

from ptycho import params, wrong
from ptyint.backends import numpy as operators
from ptyint.scans import forward


def translate(images, offsets):
    sign = -1 if wrong("translate") and not params.cfg["use_xla_translate"] else 1
    image, shift = np.asarray(images)[..., 0], sign * np.asarray(offsets)[:, ::-1]
    return tf.constant(operators.translate(image, shift, image.shape[-1])[..., None].astype(image.dtype))


def pad_obj(patch, h, w):
    return tf.pad(patch, [[0, 0], [h // 4, h // 4], [w // 4, w // 4], [0, 0]])


def extract_patches_position(regions, shifts, N, gridsize):
    offsets = -np.asarray(shifts)[:, 0, ::-1].transpose(0, 2, 1)
    found = operators.cut_patches(np.asarray(regions)[..., 0], offsets, N)
    return tf.constant(found.reshape(-1, N, N, 1).astype(np.complex64))


def pad_and_diffract(waves, h, w, pad=True):
    found = abs(forward.propagate(np.asarray(waves)[..., 0]))[..., None]
    return waves, tf.constant(found.astype(np.float32))


def reassemble_position(patches, positions, M=20):
    n = M + 2 * int(np.ceil(abs(positions - positions.mean(axis=0)).max()))
    found = operators.stitch(np.asarray(patches)[..., 0], positions.reshape(-1, 2)[:, ::-1], M, n)
    return tf.constant(found[..., None].astype(np.complex64))
