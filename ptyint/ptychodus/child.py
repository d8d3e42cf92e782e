"""What the reconstructors of :mod:`ptyint.ptychodus.library` have done in a process of their own. No Ptychodus here."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyint import dispatcher
from ptyint.backends.bundle import load_bundle, save_bundle
from ptyint.backends.protocol import Epoch
from ptyint.config import TrainingConfig
from ptyint.errors import ScanError
from ptyint.images import workflow
from ptyint.images.reconstruction import assemble
from ptyint.ptychodus import model_file
from ptyint.scans.files import read_scan
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE
from ptyint.scans.scan import Scan, validate_scan

Send = Callable[[Any], None]


Inferred = tuple[NDArray[np.complex64], NDArray[np.complex64], list[float]]
"""What :func:`infer` sends: the object on the grid of the scan's, (H, W), 0 where no patch reached; the probe
(modes, N, N), such that ``|propagate(probe * object_patch)|**2`` are the expected counts; the losses of the training.
"""


def train(send: Send, source: Path, config: TrainingConfig, target: Path) -> None:
    """Train on the scan in the folder `source`; send each epoch; write the model `target`, whole, at the end.

    A backend that takes no weights is trained by its own workflow, which tells its epochs when all are done.
    """
    path = find_scan(source)
    scan = valid_scan(path)
    config = replace(config, model=replace(config.model, N=scan.N), train_data_file=path, output_dir=target.parent)
    if "weights" in dispatcher.select_backend(config).capabilities:
        result = dispatcher.train(scan, config, send)
        save_bundle(target, result.weights, config, result.backend, result.history.losses)
        return
    with tempfile.TemporaryDirectory(prefix="ptyint-") as folder:
        made = workflow.run(scan, config, folder)
        for number, loss in enumerate(made.losses.tolist(), 1):
            send(Epoch(number, loss, math.nan, math.nan))
        model_file.pack(Path(folder), target, config)


def infer(send: Send, source: Path, model: Path, backend: str, M: int) -> None:
    """Apply a model to the scan in the folder `source`; send one `Inferred`.

    The network, its groups and its seed are those that it was trained with: from a bundle by whichever backend takes
    weights; from what a backend's own workflow saved, by that one alone.
    """
    if model_file.is_packed(model):
        with model_file.unpacked(model, backend) as (folder, trained):
            made = workflow.reload(valid_scan(source), trained, folder, M)
        send((made.object_, made.probe, made.losses.tolist()))
        return
    bundle = load_bundle(model)
    config = bundle.config.applied(model_path=model, M=M, backend=backend)
    if "weights" not in dispatcher.select_backend(config).capabilities:
        raise model_file.refusal(model, bundle.manifest["backend"], backend)
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
