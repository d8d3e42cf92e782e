import numpy as np
import torch

from ptyint.backends import numpy as operators
from ptyint.backends import pytorch as network


def _tensor(array):
    return torch.as_tensor(array.astype(np.complex64 if np.iscomplexobj(array) else np.float32))


def Translation(images, offsets, jitter):
    image = images.numpy()
    return _tensor(operators.translate(image, offsets.numpy()[:, 0, ::-1], image.shape[-1])[:, None])


def reassemble_patches_position_real(patches, offsets, data, model, padded_size):
    return network.merge_patches(patches, -offsets[:, :, 0].flip(-1), padded_size), None, padded_size


def extract_channels_from_region(regions, shifts, data, model):
    return network.cut_patches(regions[:, 0], shifts[:, :, 0].flip(-1) * -1, data.N)


def get_padded_size(data, model):
    return data.N + int(data.max_neighbor_distance)


def pad_obj(patch, h, w):
    return torch.nn.functional.pad(patch, (w // 4, w // 4, h // 4, h // 4))


def pad_and_diffract(waves, pad=True):
    return torch.linalg.vector_norm(network.propagate(waves), dim=2), None
