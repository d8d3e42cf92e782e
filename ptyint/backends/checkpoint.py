"""A training that may be killed at any moment: its whole state in one file, from which it goes on to the same end."""

import hashlib
import io
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ptyint.backends.protocol import Arrays, Epoch
from ptyint.backends.weights import Weights, weights_sha256
from ptyint.config import POSITIVE, TrainingConfig, check_value, to_mapping
from ptyint.errors import BundleError, ConfigError
from ptyint.scans.batches import GroupedScan

NAME = "training.checkpoint"
FORMAT = 1

PLACES = {"train_data_file", "test_data_file", "output_dir"}
"""Fields of a configuration that no number depends on."""


class Resumable(Protocol):
    """A network whose training can be stopped and gone on with."""

    def get_weights(self) -> Weights:
        """See :class:`.protocol.Network`."""

    def get_state(self) -> Arrays:
        """All that steps depend on and change, once one was made: canonical weights, and the optimiser's memory."""

    def set_state(self, state: Arrays) -> None:
        """Go on from what :meth:`get_state` of another network gave."""


@dataclass
class Progress:
    """How far a training is; the learning rate, early stopping and the order of batches follow from it and the seed.

    Attributes
    ----------
    epochs : list of Epoch
        Those that are over.
    batches, total, seconds
        Of the epoch that runs: batches done, sum of their groups' losses, wall seconds.
    """

    epochs: list[Epoch] = field(default_factory=list)
    batches: int = 0
    total: float = 0.0
    seconds: float = 0.0


class Checkpoint:
    """The state of one training in a file, written every so many minutes: the old one stays until the new one is whole.

    Parameters
    ----------
    folder : path-like
        Gets ``training.checkpoint``: a digest of what follows it, then an NPZ.
    minutes : float, optional
        Between two states. None: none is written, but a training goes on from one that is there.

    Examples
    --------
    >>> import tempfile, ptyint
    >>> scan = ptyint.load_fixture("tiny-64")
    >>> config = ptyint.TrainingConfig(ptyint.ModelConfig(n_filters_scale=1), nepochs=2, backend="pytorch")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(folder, minutes=10)
    ...     trained = ptyint.train(scan, config, checkpoint=checkpoint)
    ...     path = ptyint.save_bundle(folder, trained.weights, config, trained.backend)
    ...     checkpoint.remove()
    """

    def __init__(self, folder: str | os.PathLike[str], minutes: float | None = None) -> None:
        if minutes is not None:
            check_value("checkpoint_minutes", minutes, POSITIVE)
        self.path, self.minutes = Path(folder) / NAME, minutes
        self._network: Resumable | None = None

    @property
    def in_use(self) -> bool:
        """Whether a training would write to the file, or go on from it."""
        return self.minutes is not None or self.path.exists()

    @property
    def weights(self) -> Weights:
        """Of the network that trains, as they are now; a ConfigError where its backend does not show them."""
        if self._network is None:
            raise ConfigError("This backend shows no weights while it trains; ask for no preview.")
        return self._network.get_weights()

    def resume(self, network: Any, backend: str, data: GroupedScan, config: TrainingConfig) -> Progress:
        """Put a new network into the state of the file; it stays as it is where there is none.

        A BundleError where the file is damaged, or is of another scan, configuration or backend.
        """
        self._network, self._written = network, time.monotonic()
        self._training = _identity(self._network, backend, data, config)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return Progress()
        content = self.path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise BundleError(f"{self.path} is damaged; remove it, and the training begins anew.")
        with np.load(io.BytesIO(content[32:])) as file:
            state = dict(file)
        told = json.loads(str(state.pop("told")))
        self._check(told["training"])
        network.set_state(state)
        epochs = [Epoch(**epoch) for epoch in told["progress"].pop("epochs")]
        return Progress(epochs, **told["progress"])

    def _check(self, theirs: dict[str, Any]) -> None:
        """Raise BundleError where the file is of another training."""
        unlike = [name for name, ours in self._training.items() if theirs.get(name) != ours]
        if unlike:
            words = ", ".join(f"{name} is {theirs.get(name)} there and {self._training[name]} here" for name in unlike)
            raise BundleError(f"{self.path} is of another training ({words}); finish that one, or remove the file.")

    def keep(self, progress: Progress) -> None:
        """Write the state where it is time: under another name, down to the disk, then in the old one's place."""
        if self._network is None or self.minutes is None or time.monotonic() < self._written + 60 * self.minutes:
            return
        told = json.dumps({"training": self._training, "progress": asdict(progress)})
        state: dict[str, Any] = {"told": np.array(told), **self._network.get_state()}
        np.savez(buffer := io.BytesIO(), **state)
        content = buffer.getvalue()
        unfinished = self.path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Once what the training gave is safe."""
        for path in (self.path, self.path.with_suffix(".part")):
            path.unlink(missing_ok=True)


def _identity(network: Resumable, backend: str, data: GroupedScan, config: TrainingConfig) -> dict[str, Any]:
    """What must be the same for a training to go on from the state of another process: plain values."""
    settings, mask = to_mapping(config), data.scan.good_pixels
    settings |= settings.pop("model")
    digests = {
        "scan": data.scan.sha256,
        "mask": hashlib.sha256(b"" if mask is None else mask.tobytes()).hexdigest(),
        "groups": data.groups.sha256(),
        "initial weights": weights_sha256(network.get_weights()),
    }
    known = {name: value for name, value in settings.items() if name not in PLACES}
    return {"format": FORMAT, **known, "backend": backend, **{name: sha[:16] for name, sha in digests.items()}}
