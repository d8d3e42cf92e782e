"""What a notebook reports, kept in its outputs: a record is what the page shows, and cannot be older than the run.

A cell that displays something with a record leaves two representations of it in the executed notebook: HTML for the
reader, and JSON of type `MIME` for the runner. A plain papermill run or JupyterLab shows the one and keeps the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ptyint.evidence.checks import Check, to_json

MIME = "application/vnd.ptyint.record+json"

TOLERANCE = "tolerance: "
"""A number whose name begins so is a bound; where it moved since the last run, the ledger says so."""


@dataclass(frozen=True)
class Record:
    """Checks, numbers and facts that a notebook reports.

    Attributes
    ----------
    checks : tuple of Check
    compared : str
        One sentence: what was compared or examined.
    numbers : dict of str to float
        Name to value. The first three stand on top of the page; all are followed from run to run.
    commands : tuple of dict
        ``argv``, ``exit_code``, ``start``, ``end``, ``log`` of each process that the notebook ran.
    datasets : dict of str to str
        Dataset to the sha256 of what was really used.
    parameters : dict
        Parameter to the value that the kernel held.
    installation : dict of str to str
        Which Python and which ptyint the kernel was; see :func:`ptyint.evidence.environment.installation`.
    """

    checks: tuple[Check, ...] = ()
    compared: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    commands: tuple[dict[str, Any], ...] = ()
    datasets: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    installation: dict[str, str] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; empty fields are left out. Numbers are pairs: a notebook file sorts its keys."""
        values = {
            **vars(self),
            "checks": [check.to_mapping() for check in self.checks],
            "numbers": [[name, to_json(value)] for name, value in self.numbers.items()],
            "commands": list(self.commands),
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Record:
        """Read what :meth:`to_mapping` wrote, validated; verdicts are worked out again, not believed."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python({**values, "numbers": dict(values.get("numbers", ()))})


def merge(records: Iterable[Record]) -> Record:
    """All that several records report; of what can be said only once, the last word counts."""
    found = list(records)
    return Record(
        checks=tuple(check for record in found for check in record.checks),
        compared=next((record.compared for record in reversed(found) if record.compared), ""),
        numbers={name: value for record in found for name, value in record.numbers.items()},
        commands=tuple(command for record in found for command in record.commands),
        datasets={name: digest for record in found for name, digest in record.datasets.items()},
        parameters={name: value for record in found for name, value in record.parameters.items()},
        installation=next((record.installation for record in reversed(found) if record.installation), {}),
    )


def collect(notebook: Any) -> Record:
    """What an executed notebook (nbformat 4) reports.

    Parameters
    ----------
    notebook : NotebookNode

    Returns
    -------
    Record
    """
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return merge(Record.from_mapping(output["data"][MIME]) for output in outputs if MIME in output.get("data", {}))
