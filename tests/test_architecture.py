"""The house: which module may import which, what stands at the top, and how much there is of it."""

from __future__ import annotations

import ast
from functools import cache
from itertools import chain
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse.csgraph import connected_components

PACKAGE = Path(__file__).parents[1] / "ptyint"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = ("config", "scans", "backends", "dispatcher", "images", "parity", "stages", "cli")
"""Each may import those before it."""

GROUND = {"errors", "_atomic", "_glance"}
BESIDE = {"evidence": GROUND, "ptychodus": {*GROUND, *FLOORS[:5], "evidence"}}
"""What stands beside the floors, and all that it may import."""

MAY_IMPORT = {
    "errors": set(),
    "_atomic": {"errors"},
    "_glance": set(),
    **{name: {*GROUND, *FLOORS[:floor], "evidence"} for floor, name in enumerate(FLOORS)},
    **BESIDE,
}
MAY_IMPORT["stages"] |= {"ptychodus"}
MAY_IMPORT["cli"] |= {"ptychodus"}

TOP = {"__init__.py", "__init__.pyi", "py.typed", "cli.py", "config.py", "dispatcher.py", "errors.py"} | {
    "_atomic.py", "_glance.py", "scans", "backends", "images", "parity", "evidence", "stages", "ptychodus"
}  # fmt: skip


@cache
def imports() -> dict[str, set[str]]:
    """Every module with the modules of ours that it imports, inside functions too; not those for annotations alone."""
    graph = grimp.build_graph("ptyint", exclude_type_checking_imports=True, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in sorted(graph.modules)}


def part(module: str) -> str:
    """``ptyint.scans.npz`` belongs to ``scans``."""
    return module.removeprefix("ptyint").lstrip(".").partition(".")[0]


def test_imports_point_down_only() -> None:
    crossing = [(a, b) for a, targets in imports().items() for b in targets if part(a) and part(a) != part(b)]
    assert len(crossing) > 100, "the graph is that of the package"
    assert [f"{a} -> {b}" for a, b in crossing if part(b) not in MAY_IMPORT[part(a)]] == []


def test_no_module_imports_itself_in_a_circle() -> None:
    names = list(imports())
    graph = np.array([[target in imports()[name] for target in names] for name in names])
    _, labels = connected_components(graph, connection="strong")
    circles = [[n for n, label in zip(names, labels, strict=True) if label == one] for one in np.unique(labels)]
    assert [circle for circle in circles if len(circle) > 1] == []


def test_the_top_is_the_parts_of_the_house_and_nothing_else() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"} == TOP


def test_a_module_fits_a_reader() -> None:
    sizes = {module.relative_to(PACKAGE).as_posix(): len(module.read_text().splitlines()) for module in MODULES}
    assert {module: lines for module, lines in sizes.items() if lines > 400} == {}


def test_the_library_grows_no_further() -> None:
    """The ceiling is 11,000; sweeps, streaming, any pair of models and PtychoPINN's own came on top: no more does."""
    assert sum(code_lines(module.read_text()) for module in MODULES) <= 13695


def code_lines(source: str) -> int:
    """Lines that are neither blank, nor a comment, nor part of a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (node.body for node in ast.walk(ast.parse(source)) if isinstance(node, documented))
    strings = [
        range(statement.lineno, (statement.end_lineno or 0) + 1)
        for statement in chain.from_iterable(bodies)
        if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)
    ]
    skipped = set(chain.from_iterable(strings))
    lines = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(bool(line) and not line.startswith("#") and number not in skipped for number, line in lines)


def test_code_is_counted_and_words_are_not() -> None:
    source = '"""Words."""\n\n# words\nx = """a\nb"""\ndef f():\n    """Words\n    again."""\n    return x\n'
    assert code_lines(source) == 4
