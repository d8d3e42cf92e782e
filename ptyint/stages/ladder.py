"""The parity ladder as a stage: its checks are the rungs' own."""

from ptyint.errors import ConfigError
from ptyint.evidence.execution import notebook_path, parameter_defaults
from ptyint.evidence.run import Job
from ptyint.parity import results
from ptyint.stages.request import Request, Stage


def _jobs(request: Request) -> list[Job]:
    given = {**parameter_defaults(notebook_path("ladder")), **request.given("ladder")}
    if given["reference"] == given["candidate"]:
        raise ConfigError(f"reference and candidate are both {given['reference']!r}; a backend agrees with itself.")
    parameters, expects = {"profile": request.profile}, results.criteria(request.profile)
    return [Job("ladder", "ladder", STAGE.title, "ladder", parameters, expects, ("ladder.json",), alone=True)]


STAGE = Stage("Parity ladder", "operators, layers, gradients, steps: each rung within its tolerance", _jobs)
