"""What the reconstructors of :mod:`ptyint.ptychodus.library` have done in a process of their own. No Ptychodus here."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.config import TrainingConfig
from ptyint.errors import ScanError
from ptyint.images.reconstruction import assemble
from ptyint.scans.files import read_scan
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE
from ptyint.scans.scan import Scan, validate_scan

Send = Callable[[Any], None]


Inferred = tuple[NDArray[np.complex64], NDArray[np.complex64], list[float]]
"""What :func:`infer` sends: the object on the grid of the scan's, (H, W), 0 where no patch reached; the probe
(modes, N, N), such that ``|propagate(probe * object_patch)|**2`` are the expected counts; the losses of the training.
"""


def train(send: Send, source: Path, config: TrainingConfig, target: Path) -> None:
    """Train on the scan in the folder `source`; send each epoch; write the bundle `target`, whole, at the end."""
    os.environ["TQDM_DISABLE"] = "1"
    path = find_scan(source)
    scan = valid_scan(path)
    model = replace(config.model, N=scan.N)
    config = replace(config, model=model, train_data_file=path, output_dir=target.parent)
    result = dispatcher.train(scan, config, send)
    save_bundle(target, result.weights, config, result.backend, result.history.losses)


def infer(send: Send, source: Path, model_path: Path, backend: str, M: int) -> None:
    """Apply the bundle `model_path` to the scan in the folder `source`; send one `Inferred`.

    The network, its groups and its seed are those that the bundle was trained with, by whichever backend.
    """
    bundle = load_bundle(model_path)
    config = bundle.config.applied(model_path=model_path, M=M, backend=backend)
    result = assemble(dispatcher.infer(valid_scan(source), config, bundle.weights, keep=False))
    send((result.object_.astype(np.complex64), result.probe, bundle.losses))


def find_scan(folder: Path) -> Path:
    """The scan to train on: Ptychodus' pair of files in `folder`, else the only NPZ in it.

    Raises
    ------
    ScanError
        There is neither, or there are several.
    """
    if (folder / DIFFRACTION_FILE).is_file():
        return folder
    archives = sorted(folder.glob("*.npz"))
    if len(archives) != 1:
        names = [path.name for path in archives] or "neither"
        raise ScanError(
            f"{folder} holds {names}; training needs {DIFFRACTION_FILE} with its product there, or exactly one .npz. "
            "Export the training data into an empty folder."
        )
    return archives[0]


def valid_scan(path: Path) -> Scan:
    """Read a scan; a ScanError where it is not one that can be trained on."""
    scan = read_scan(path)
    validate_scan(scan)
    return scan
