"""The places of Ptychodus 1.7 where the library hooks in: all that this package needs beyond ``ptychodus.api``.

:class:`ptychodus.model.ModelCore` offers no way to add a library, so its module's `ProcessingCore` is replaced by a
subclass (:func:`hook`), which also mends what a batch run needs: an algorithm that is not there is an error, and a
reconstruction ends in ``product.h5``.
"""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ptychodus.model.core
from ptychodus.api.io import save_product
from ptychodus.api.reconstruct import Reconstructor, ReconstructorLibrary, TrainableReconstructor
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.processing import ProcessingAlgorithmParameter, ProcessingAPI, ProcessingCore
from ptychodus.model.product import ProductAPI
from ptychodus.model.task_manager import TaskManager

from ptyint._atomic import atomic_path
from ptyint.errors import ChildError, ConfigError, did_you_mean
from ptyint.ptychodus.library import PtyintLibrary, PtyintReconstructor
from ptyint.ptychodus.settings import DEFAULT_ALGORITHM, LIBRARY


class AlgorithmParameter(ProcessingAlgorithmParameter):
    """The choice of algorithm, which remembers a name that is not there; Ptychodus drops it and goes on."""

    def __init__(self, parameter: Any, libraries: Sequence[ReconstructorLibrary]) -> None:
        self.refused: str | None = None
        super().__init__(parameter, libraries)

    def set_value(self, value: str, *, notify: bool = True) -> None:
        """Choose `value`, or keep the current algorithm and remember what was refused."""
        super().set_value(value, notify=notify)
        self.refused = None if value.strip().casefold() in self.available_reconstructors() else value

    def require(self) -> Reconstructor:
        """The chosen reconstructor.

        Raises
        ------
        ConfigError
            The last name chosen is not available.
        """
        if self.refused is not None:
            known = sorted(self.available_reconstructors())
            raise ConfigError(
                f"Algorithm {self.refused!r} is not available. Must be one of {known}."
                f"{did_you_mean(self.refused.strip().casefold(), known)} Install what is missing: "
                "`pip install 'ptyint[ptychodus]'` for ptyint_*, `pip install 'ptychodus[ptychi]'` for pty-chi_*."
            )
        return self.get_current_reconstructor()


class API(ProcessingAPI):
    """Runs algorithms as Ptychodus does, and refuses what it would silently leave undone."""

    _algorithm_parameter: AlgorithmParameter

    def reconstruct(
        self, *, algorithm: str | None = None, output_product_file: Path | None = None, block: bool = False, **rest: Any
    ) -> int:
        """As Ptychodus; where it waits for one of our reconstructors, the file is written once, whole and at the end.

        Raises
        ------
        ConfigError
            The algorithm is not available.
        ChildError
            It was waited for, and cancelled.
        """
        self.set_reconstructor_if_provided(algorithm)
        reconstructor = self._algorithm_parameter.require()
        if not (isinstance(reconstructor, PtyintReconstructor) and block and output_product_file):
            return super().reconstruct(output_product_file=output_product_file, block=block, **rest)
        index = super().reconstruct(block=True, **rest)
        if reconstructor.product is None:
            raise ChildError("The reconstruction was cancelled; nothing was written.")
        with atomic_path(output_product_file) as temporary:
            save_product(temporary, reconstructor.product)
        return index

    def train(
        self, input_path: Path, output_path: Path, *, algorithm: str | None = None, block: bool = False, **rest: Any
    ) -> None:
        """As Ptychodus.

        Raises
        ------
        ConfigError
            The algorithm is not available, or cannot be trained.
        ChildError
            It was waited for, and cancelled.
        """
        self.set_reconstructor_if_provided(algorithm)
        reconstructor = self._algorithm_parameter.require()
        if not isinstance(reconstructor, TrainableReconstructor):
            name = self._algorithm_parameter.get_value()
            raise ConfigError(
                f"Algorithm {name!r} cannot be trained; choose one that can, such as {DEFAULT_ALGORITHM!r}."
            )
        super().train(input_path, output_path, block=block, **rest)
        if block and self._task_monitor.is_stopping:
            raise ChildError("The training was cancelled; no model was written.")


class Core(ProcessingCore):
    """Ptychodus' algorithms and ours; ours is the default, until settings say otherwise."""

    def __init__(
        self,
        task_manager: TaskManager,
        settings_registry: SettingsRegistry,
        product_api: ProductAPI,
        algorithm_libraries: Sequence[ReconstructorLibrary],
    ) -> None:
        self._task_manager = task_manager
        libraries = [*algorithm_libraries, PtyintLibrary(settings_registry, self._is_stopping)]
        super().__init__(task_manager, settings_registry, product_api, libraries)
        self._settings.algorithm.remove_observer(self.algorithm_parameter)
        self._settings.algorithm.set_value(DEFAULT_ALGORITHM)
        self.algorithm_parameter = AlgorithmParameter(self._settings.algorithm, libraries)
        self.processing_api = API(task_manager, product_api, self.algorithm_parameter, self._task_monitor)

    def _is_stopping(self) -> bool:
        return self._task_monitor.is_stopping or self._task_manager.is_stopping


def hook() -> None:
    """Have every `ModelCore` made from now on use :class:`Core`, after a trial.

    Raises
    ------
    AttributeError, TypeError
        A class of Ptychodus is not what it was: the message names what is missing.
    """
    module: Any = ptychodus.model.core
    takes, wanted = (list(inspect.signature(kind).parameters) for kind in (ProcessingCore, Core))
    if takes != wanted or module.ProcessingCore not in (ProcessingCore, Core):
        raise TypeError(f"{module.ProcessingCore} takes {takes}, not {wanted}")
    product_api: Any = None  # kept until it is needed, which is not in a trial
    trial = Core(TaskManager(), SettingsRegistry(), product_api, ())
    logging.getLogger(LIBRARY).removeHandler(trial._task_monitor.get_log_handler())
    module.ProcessingCore = Core
