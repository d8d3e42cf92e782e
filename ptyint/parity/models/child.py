"""One side of a pair of models, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ptyint._atomic import write_arrays
from ptyint.backends.models import Watched, apart, framework_of, made, watched
from ptyint.parity.compare import Arrays
from ptyint.parity.rungs.rung import Captured, noted
from ptyint.parity.worker import serve


class Child:
    """One side's model; each method answers one question with arrays."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.factory, path = json.loads((folder / "model.json").read_text())
        sys.path += [one for one in path if one not in sys.path]
        self.models: dict[str, Watched] = {}  # by their precision
        self.still: dict[tuple[str, bool], Captured] = {}

    def __call__(self, asked: str, settings: str) -> None:
        """Answer, whole or not at all; what is raised is an answer too."""
        answer: Captured = {}
        with np.load(self.folder / "given.npz") as file, noted(answer, ""):
            answer |= getattr(self, asked)(dict(file), **json.loads(settings))
        write_arrays(self.folder / "answer.npz", answer)

    def framework(self, given: Captured) -> Captured:
        """Whose model it is."""
        return {"framework": np.array(framework_of(made(self.factory)[0]))}

    def build(self, given: Captured, precision: str) -> Captured:
        """Make the model in a precision; what it is made of, and its weights."""
        batch = self._cast(given, precision)
        kinds = [
            {key.removeprefix(k): a for key, a in batch.items() if key.startswith(k)} for k in ("inputs/", "targets/")
        ]
        model = self.models[precision] = watched(self.factory, framework_of(made(self.factory)[0]), precision, *kinds)
        about = model.described()
        return {"about": np.array(json.dumps(about)), **{f"weight/{key}": a for key, a in model.weights.items()}}

    def weights(self, given: Captured, precision: str) -> Captured:
        """Start from these weights."""
        self.models[precision].weights |= self._cast(given, precision)
        return {}

    def trace(self, given: Captured, precision: str, training: bool) -> Captured:
        """A pass; by how much moves by one epsilon change it, with numbers free and given, and a second pass."""
        model = self.models[precision]
        still = self.still[precision, training] = model.trace(training)
        values = {key: a for key, a in still.items() if "gradient/" not in key}
        noise = {f"moved/{key}": a for key, a in model.changes(training, still).items()}
        if precision == "float32":
            noise |= {f"held/{key}": a for key, a in model.changes(training, still, values).items()}
        again = model.trace(training)
        return {**still, **noise, **{f"again/{key}": np.array(apart(again[key], a)) for key, a in values.items()}}

    def given(self, given: Captured, precision: str, training: bool) -> Captured:
        """A pass on another's numbers."""
        return self.models[precision].trace(training, given)

    def alone(self, given: Captured, precision: str, training: bool) -> Captured:
        """By how much moves by one epsilon change it where every layer has its own numbers, forwards and backwards."""
        still = self.still[precision, training]
        return {f"alone/{key}": a for key, a in self.models[precision].changes(training, still, still).items()}

    def steps(self, given: Captured, precision: str) -> Captured:
        """Weights after the optimiser's steps with these gradients."""
        return self.models[precision].steps(given)

    @staticmethod
    def _cast(arrays: Arrays, precision: str) -> Captured:
        kinds: dict[str, Any] = {"f": np.dtype(precision), "c": np.result_type(precision, np.complex64)}
        return {key: array.astype(kinds.get(array.dtype.kind, array.dtype)) for key, array in arrays.items()}


if __name__ == "__main__":
    serve(Child)
