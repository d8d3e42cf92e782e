import numpy as np

from ptycho import params
from ptyint.scans import forward


def get_probe_mask_real(N):
    return forward.probe_mask(N)[..., None]


def set_probe_guess(X_train, probe_guess):
    probe = forward.normalise_probe(np.asarray(probe_guess)[None], params.cfg["probe_scale"])
    params.cfg["probe"] = probe[0, ..., None].astype(np.complex64)
