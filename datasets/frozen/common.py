"""What every set of frozen numbers is made with: facts and inputs by name, images, probes, the Fourier sum."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

GIVEN: dict[str, np.ndarray] = {}
NAMES: dict[str, str] = {}
FACTS: list[dict[str, str]] = []
EXPECTED: dict[str, np.ndarray] = {}


def given(name: str, array: Any) -> np.ndarray:
    """An input, under the name by which expressions speak of it."""
    made = np.asarray(array)
    assert GIVEN.setdefault(name, made).tobytes() == made.tobytes(), f"{name} is something else already"
    return made


def named(name: str, expression: str) -> None:
    """Something made of inputs by an expression, once."""
    assert name not in GIVEN and NAMES.setdefault(name, expression) == expression, f"{name} is something else already"


def fact(tap: str, case: str, expression: str, expected: Any, tolerance: str = "rounding") -> None:
    """What an expression must give: numbers within a tolerance, or a text to the letter."""
    EXPECTED[str(len(FACTS))] = np.asarray(expected)
    FACTS.append({"tap": tap, "case": case, "expression": expression, "tolerance": tolerance})


def refused(tap: str, case: str, error: str, *expressions: str) -> None:
    """Inputs that must be refused, each with an error of this name."""
    for number, expression in enumerate(expressions, 1):
        fact(tap, f"refused: {case} ({number})" if len(expressions) > 1 else f"refused: {case}", expression, error)


def said(tap: str, case: str, expression: str, words: str) -> None:
    """What is refused, as :func:`refused`, in words that name the place or the number."""
    fact(tap, f"words: {case}", f"{words!r} in words(lambda: {expression})", True)


def unchangeable(tap: str, *classes: str) -> None:
    """What a function returns is a record: its fields cannot be set, and two of them are equal only if they are one."""
    for one in classes:
        says = f"str([({one}.__dataclass_params__.frozen, {one}.__dataclass_params__.eq)])"
        fact(tap, f"{one} is a record", says, "[(True, False)]")


def projected(array: Any) -> np.ndarray:
    """Three numbers for a large array: its sum, and its sums against a cosine and a sine of the index."""
    flat = np.asarray(array).ravel()
    n = np.arange(flat.size)
    return np.array([flat.sum(), (flat * np.cos(n)).sum(), (flat * np.sin(3 * n)).sum()])


named("file", "lambda content, called='file': (path := pathlib.Path(tempfile.mkdtemp(dir=folder), called)).write_bytes("
      "content.tobytes()) and path")  # fmt: skip
named("words", "lambda call: str(futures.ThreadPoolExecutor(1).submit(call).exception())")
named("projected", "lambda array: (lambda flat, n: np.array([flat.sum(), (flat * np.cos(n)).sum(), "
      "(flat * np.sin(3 * n)).sum()]))(np.ravel(array), np.arange(np.size(array)))")  # fmt: skip


def wave(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex numbers that look random, with no structure that a wrong index could hide behind; exact in a few bits."""
    rng = np.random.default_rng(100 + seed)
    return (rng.integers(-512, 512, shape) + 1j * rng.integers(-512, 512, shape)) / 512


def spectrum(image: np.ndarray) -> np.ndarray:
    """The Fourier sum itself."""
    rows, columns = (np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in image.shape)
    return rows @ image @ columns


BLOBS = ((5, 8, 0.3), (17, 31, -0.25), (24, 12, 0.35j), (33, 41, 0.2 + 0.2j), (38, 20, -0.3j), (14, 47, 0.3))


def blobs(shape: tuple[int, int], shift: tuple[float, float]) -> np.ndarray:
    """A complex image of Gaussians, anywhere between the pixels."""
    image = np.ones(shape, complex)
    for i, j in product(range(shape[0]), range(shape[1])):
        for y, x, height in BLOBS:
            image[i, j] += height * math.exp(-((i - shift[0] - y) ** 2 + (j - shift[1] - x) ** 2) / (2 * 6**2))
    return image


def disk(N: int) -> np.ndarray:
    """1 within N/4 of the centre."""
    return np.array(
        [[float((i - N // 2) ** 2 + (j - N // 2) ** 2 <= (N / 4) ** 2) for j in range(N)] for i in range(N)]
    )


def normal(probe: np.ndarray, probe_scale: float) -> np.ndarray:
    """The probe over `probe_scale` times its mean magnitude in the disk, taken over all pixels."""
    N = probe.shape[-1]
    magnitude = np.sqrt(sum(abs(mode) ** 2 for mode in probe))
    return probe / (probe_scale * (disk(N) * magnitude).sum() / N**2)


def beam(N: int, modes: int) -> np.ndarray:
    """A probe without symmetry, its modes shifted and weaker."""
    y, x = np.arange(N)[:, None] - N // 2, np.arange(N) - N // 2
    spread = np.exp(-((y - 2) ** 2 + 1.5 * (x + 1) ** 2) / (0.3 * N) ** 2 + 0.01j * (y**2 + x * y))
    return np.stack([np.roll(spread, (3 * i, -2 * i), (0, 1)) / (1 + i) for i in range(modes)]).astype(np.complex64)
