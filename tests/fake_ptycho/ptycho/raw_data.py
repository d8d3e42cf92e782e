from types import SimpleNamespace

import numpy as np


class RawData:
    @staticmethod
    def from_file(path):
        with np.load(path) as file:
            arrays = {key.replace("diffraction", "diff3d"): file[key] for key in file if "." not in key}
        return SimpleNamespace(**arrays)


def get_relative_coords(nearest):
    mean = nearest.mean(axis=3, keepdims=True)
    return mean, mean - nearest
