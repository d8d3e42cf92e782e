"""The reconstructor library `ptyint`: a trainable reconstructor for each backend, and nothing of a framework."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptychodus.api import reconstruct as api
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.io import StandardFileLayout, sanitize_path_component, save_diffraction_data, save_product
from ptychodus.api.object import Object
from ptychodus.api.parameters import Parameter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import LossValue, Product
from ptychodus.api.settings import SettingsRegistry

from ptyint import backends
from ptyint._atomic import atomic_path
from ptyint.config import TrainingConfig
from ptyint.errors import BundleError, ScanError
from ptyint.ptychodus import child, settings
from ptyint.ptychodus.processes import stream
from ptyint.ptychodus.settings import LIBRARY, MODEL_FILE
from ptyint.scans.files import write_scan
from ptyint.scans.ptychodus_h5 import DIFFRACTION_FILE, PRODUCT_FILE


class PtyintSettings:
    """The section ``[Ptyint]`` of the application's settings; see :mod:`ptyint.ptychodus.settings`."""

    def __init__(self, registry: SettingsRegistry) -> None:
        group = registry.create_group(settings.GROUP)
        creators: dict[type, Callable[[str, Any], Parameter[Any]]] = {
            bool: group.create_boolean_parameter,
            int: group.create_integer_parameter,
            float: group.create_real_parameter,
            str: group.create_string_parameter,
        }
        self._parameters = {key: creators[type(value)](key, value) for key, value in settings.DEFAULTS.items()}

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key].get_value()

    def training_config(self, backend: str) -> TrainingConfig:
        """The settings as a configuration; ConfigError where a value is not allowed."""
        return settings.training_config({key: self[key] for key in self._parameters}, backend)


class PtyintReconstructor(api.TrainableReconstructor):
    """One backend, reached through the dispatcher in a child process, which is killed once `should_stop` says so.

    `product` is what the last reconstruction made; None where it made nothing.
    """

    def __init__(
        self, backend: str, parameters: PtyintSettings, logger: logging.Logger, should_stop: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._backend = backend
        self._settings = parameters
        self._logger = logger
        self._should_stop = should_stop
        self._model: Path | None = None
        self.product: Product | None = None

    @property
    def name(self) -> str:
        """The backend's."""
        return self._backend

    def get_progress_goal(self) -> int:
        """Epochs of a training."""
        return int(self._settings["NumEpochs"])

    def is_model_loaded(self) -> bool:
        """Whether a model was loaded or trained."""
        return self._model is not None

    def get_model_file_filter(self) -> str:
        """For file dialogues."""
        return f"ptyint Models (*{self.get_model_file_extension()})"

    def get_model_file_extension(self) -> str:
        """Such that ``model<extension>`` is the model's file."""
        return MODEL_FILE.removeprefix(StandardFileLayout.MODEL_BASENAME)

    def get_training_data_file_filter(self) -> str:
        """For file dialogues."""
        return "PtychoPINN Training Data (*.npz)"

    def load_model_from_file(self, file_path: Path) -> None:
        """Remember the model; it is read, and checked, when it is used."""
        self._model = file_path

    def save_model(self, file_path: Path) -> None:
        """Copy the model."""
        with atomic_path(file_path) as temporary:
            temporary.write_bytes(self._trained().read_bytes())

    def export_training_data(self, file_path: Path, parameters: api.ReconstructInput) -> None:
        """Write PtychoPINN's NPZ."""
        with _files(parameters) as folder:
            write_scan(child.valid_scan(folder), file_path, format="npz")

    def train(self, input_path: Path, output_path: Path) -> Iterator[api.TrainOutput]:
        """Train on the scan in `input_path`, report each epoch, leave ``model.h5.zip`` in `output_path`."""
        config = self._settings.training_config(self._backend)
        target = output_path / MODEL_FILE
        losses: list[LossValue] = []
        for epoch in stream(child.train, input_path, config, target, should_stop=self._should_stop):
            losses.append(LossValue(epoch.number, epoch.loss))
            self._logger.info(f"{self._backend}: epoch {epoch.number} of {config.nepochs}, loss {epoch.loss:.6g}")
            yield api.TrainOutput(training_loss=list(losses), progress=epoch.number)
        if self._should_stop():
            self._logger.warning(f"{self._backend}: training was cancelled; no model was written.")
            return
        self._model = target
        self._logger.info(f"{self._backend}: model in {target}")

    def reconstruct(self, parameters: api.ReconstructInput) -> Iterator[api.ReconstructOutput]:
        """Apply the loaded model; the product keeps the input's grid, geometry and positions."""
        self.product = None
        model = self._trained()
        with _files(parameters) as folder:
            given = (folder, model, self._backend, self._settings[settings.PATCH_CENTER])
            for inferred in stream(child.infer, *given, should_stop=self._should_stop):
                self.product = _product(parameters.product, inferred)
                yield api.ReconstructOutput(self.product, progress=self.get_progress_goal())
        if self.product is None:
            self._logger.warning(f"{self._backend}: the reconstruction was cancelled.")

    def _trained(self) -> Path:
        if self._model is None:
            raise BundleError(f"No model is loaded. Train one, or put {MODEL_FILE} into the input folder.")
        return self._model


class PtyintLibrary(api.ReconstructorLibrary):
    """Ptychodus' entry ``ptyint``: a reconstructor ``ptyint_<backend>`` for each name, installed or not.

    What a backend is, and whether it is there, is asked when it is used.
    """

    def __init__(self, registry: SettingsRegistry, should_stop: Callable[[], bool]) -> None:
        super().__init__(LIBRARY)
        parameters = PtyintSettings(registry)
        self._reconstructors = [
            PtyintReconstructor(backend, parameters, self.get_logger(), should_stop) for backend in backends.names()
        ]

    @property
    def name(self) -> str:
        """First half of the reconstructors' names."""
        return LIBRARY

    def __iter__(self) -> Iterator[api.Reconstructor]:
        return iter(self._reconstructors)


@contextmanager
def _files(parameters: api.ReconstructInput) -> Iterator[Path]:
    """What Ptychodus hands over, for a while in a folder, as its own pair of files.

    Pixels then come from metres in one place only, the reader of :mod:`ptyint.scans.files`.
    """
    product = parameters.product
    indexes = product.probe_positions.get_indexes()
    pixel = product.probes.get_pixel_geometry()  # for want of the detector's, which the reader does not need
    data = AssembledDiffractionData(indexes, parameters.diffraction_patterns, pixel, parameters.bad_pixels)
    with tempfile.TemporaryDirectory(prefix="ptyint-") as name:
        folder = Path(name) / sanitize_path_component(product.metadata.name)
        folder.mkdir()
        save_diffraction_data(folder / DIFFRACTION_FILE, data)
        save_product(folder / PRODUCT_FILE, product)
        yield folder


def _product(given: Product, inferred: child.Inferred) -> Product:
    """The input with its object, probe and losses replaced; Ptychodus would take an object of any shape."""
    object_, probe, losses = inferred
    geometry = given.object_.get_geometry()
    shape = geometry.height_px, geometry.width_px
    if object_.shape != shape:
        raise ScanError(
            f"The reconstructed object is {object_.shape}; the input's is {shape}, and they must be equal. Report this "
            "with the scan."
        )
    return replace(
        given,
        probes=ProbeSequence(probe, opr_weights=None, pixel_geometry=given.probes.get_pixel_geometry()),
        object_=Object(
            object_,
            pixel_geometry=given.object_.get_pixel_geometry(),
            center=given.object_.get_center(),
            layer_spacing_m=given.object_.layer_spacing_m,
        ),
        losses=[LossValue(number, loss) for number, loss in enumerate(losses, 1)],
    )
