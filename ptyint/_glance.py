"""Objects at a glance: a short ``repr``; in a notebook, facts and thumbnails."""

import io
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEMPLATE = Path(__file__).parent / "evidence" / "templates" / "glance.html.j2"


class Glance:
    """Mixed in: a short ``repr``, and facts with thumbnails in a notebook."""

    def _facts(self) -> Mapping[str, Any]:
        """What there is to say in a few words, the most telling first; the ``repr`` has four."""
        raise NotImplementedError

    def _thumbnails(self) -> Mapping[str, NDArray[Any]]:
        """Images (H, W) by caption; of complex ones the phase is shown."""
        return {}

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {said(value)}" for name, value in list(self._facts().items())[:4])
        return f"<{type(self).__name__}: {facts}>"

    def _repr_html_(self) -> str:
        from jinja2 import Template

        pictures = {name: thumbnail(image) for name, image in self._thumbnails().items()}
        facts = {name: said(value) for name, value in self._facts().items()}
        template = Template(TEMPLATE.read_text("utf-8"), autoescape=True)
        return str(template.render(name=type(self).__name__, facts=facts, pictures=pictures))


def thumbnail(image: NDArray[Any]) -> str:
    """An image (H, W) as a PNG in base64: values in grey, the phase of complex ones in a cyclic map."""
    from matplotlib.image import imsave

    buffer, cyclic = io.BytesIO(), np.iscomplexobj(image)
    imsave(buffer, np.angle(image) if cyclic else image, cmap="twilight_shifted" if cyclic else "gray")
    return b64encode(buffer.getvalue()).decode()


def said(value: Any) -> str:
    """A value for a reader: four significant digits of a number that is no count, a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
