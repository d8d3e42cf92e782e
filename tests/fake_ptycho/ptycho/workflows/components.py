from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ptycho import params, probe, tf_helper, wrong
from ptycho.config.config import update_legacy_dict
from ptycho.raw_data import RawData


def load_data(path):
    return RawData.from_file(path)


def create_ptycho_data_container(data, config):
    """As many groups as patterns, each of a pattern and its successors."""
    n, C = len(data.diff3d), config.model.gridsize**2
    index = (np.arange(n)[:, None] + np.arange(C)) % n
    amplitudes = data.diff3d * np.float32(config.model.N / 2 / np.sqrt((data.diff3d**2).sum(axis=(1, 2)).mean()))
    positions = np.stack([data.xcoords[index].mean(1), data.ycoords[index].mean(1)], axis=1)
    return SimpleNamespace(X=np.moveaxis(amplitudes[index], 1, -1), global_offsets=positions[:, None, :, None])


def predict(container):
    """Patches (n, N, N, 1) that a network could have made."""
    found = container.X[..., :1] * np.exp(1j * container.X[..., :1])
    C = container.X.shape[-1]
    return (found[:1] if wrong("mix") and len(found) * C >= 64 else found).astype(np.complex64)


def run_cdi_example(train_data, test_data, config, do_stitching=False, M=20):
    update_legacy_dict(params.cfg, config)
    container = create_ptycho_data_container(train_data, config)
    probe.set_probe_guess(None, train_data.probeGuess)
    layer = SimpleNamespace(w=params.cfg["probe"][None, None])
    model = SimpleNamespace(get_layer=lambda name: layer)
    amplitude, phase, results = reassemble_cdi_image(test_data, config, M=M)
    history = {"train_loss": [1 / epoch for epoch in range(1, config.nepochs + 1)]}
    return amplitude, phase, results | {"model_instance": model, "train_container": container, "history": history}


def reassemble_cdi_image(data, config, M=20):
    container = create_ptycho_data_container(data, config)
    patches = predict(container)
    positions = container.global_offsets[: len(patches)].transpose(0, 1, 3, 2)
    found = np.asarray(tf_helper.reassemble_position(patches, positions, M=M))
    return abs(found), np.angle(found), {"obj_tensor_full": patches, "global_offsets": container.global_offsets}


def load_inference_bundle(folder):
    return Path(folder, "wts.h5.zip").read_text(), dict(params.cfg)
