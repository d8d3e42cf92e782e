"""A notebook's cells, run one after the other in this process: what it shows of what a test gives it."""

from __future__ import annotations

import ast
from typing import Any
from unittest.mock import patch

import nbformat

from ptyint.evidence.checks import Check
from ptyint.evidence.display import Table
from ptyint.evidence.execution import notebook_path
from ptyint.evidence.record import Record, merge


def run_cells(name: str, **parameters: Any) -> list[Any]:
    """Everything that a notebook of the checkout displays, in order."""
    shown: list[Any] = []
    namespace: dict[str, Any] = {}
    with patch("IPython.display.display", shown.append):
        for cell in nbformat.read(notebook_path(name), as_version=4).cells:
            if cell.cell_type != "code":
                continue
            shown.append(_displayed(cell.source, namespace))
            if "parameters" in cell.metadata.get("tags", []):
                assert namespace.keys() >= parameters.keys()
                namespace |= parameters
    return [one for one in shown if one is not None]


def run_cell(name: str, words: str, **names: Any) -> Any:
    """What the one cell displays that has these words, given the imports of the notebook and what a test names."""
    sources = [cell.source for cell in nbformat.read(notebook_path(name), as_version=4).cells]
    imports = next(source for source in sources if source.startswith(("import ", "from ")))
    (wanted,) = (source for source in sources if words in source)
    namespace = dict(names)
    _displayed(imports, namespace)
    return _displayed(wanted, namespace)


def _displayed(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), namespace) if isinstance(last, ast.Expr) else None


def record_of(shown: list[Any]) -> Record:
    """What a notebook reports."""
    return merge(record for one in shown if (record := getattr(one, "record", None)))


def table_of(shown: list[Any], caption: str) -> Table:
    """The one table with this caption."""
    (table,) = (one for one in shown if isinstance(one, Table) and one.caption == caption)
    return table


def failed(checks: tuple[Check, ...]) -> list[str]:
    """Names of those that did not pass."""
    return [check.name for check in checks if not check.passed]
