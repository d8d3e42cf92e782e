import numpy as np
from ptycho import wrong

from ptyint.backends import numpy as operators


def _run_inference_and_reconstruct(model, raw_data, config, execution_config, device, quiet=False):
    patches = model.forward_predict(raw_data.diff3d)[:, 0].numpy()
    positions = np.stack([raw_data.ycoords, raw_data.xcoords], axis=1)
    M = config.stitch_crop_size
    n = M + 2 * int(np.ceil(abs(positions - positions.mean(axis=0)).max()))
    found = operators.stitch(patches, -positions if wrong("mirror") else positions, M, n).astype(np.complex64)
    return abs(found), np.angle(found)
