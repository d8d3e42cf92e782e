"""A run for archives and for others' tools: an RO-Crate, and an in-toto statement on what its checks said."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ptyint._atomic import write_text
from ptyint.errors import ConfigError, EvidenceError
from ptyint.evidence.manifest import NAME, SEAL, read, sha256_of
from ptyint.evidence.verification import verify

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://in-toto.io/attestation/test-result/v0.1"
PAYLOAD = "application/vnd.in-toto+json"
PROFILE = {"@id": "https://w3id.org/ro/wfrun/process/0.5", "@type": "CreativeWork", "name": "Process Run Crate"}
TOOL = {"@id": "#ptyint", "@type": "SoftwareApplication", "name": "ptyint"}
STATUS = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
FILE = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FILE, metavar="RUN")
@click.option("--ro-crate", "crate", type=FILE, metavar="DIR", help="Copy the run there, described as an RO-Crate.")
@click.option("--in-toto", "file", type=FILE, help="Write a test result, which `ptyint verify --in-toto` checks.")
@click.option("--key", type=FILE, metavar="PEM", help="Private key that signs the test result.")
def export(run: Path, crate: Path | None, file: Path | None, key: Path | None) -> None:
    """Write a finished run, green or red, for archives and for others' tools; refused where it does not verify."""
    if not find_spec("rocrate") or not find_spec("securesystemslib"):
        raise ConfigError("The libraries for this are not installed; pip install 'ptyint[archive]'.")
    if wrong := verify(run, alone=True).problems:
        raise EvidenceError(f"{run} is not the evidence that a run left: {wrong[0]}")
    if crate:
        write_crate(run, crate)
    if file:
        content = statement(run)
        write_text(file, json.dumps(_signed(content, key) if key else content, indent=1) + "\n")


def write_crate(folder: Path, target: Path) -> None:
    """Copy a run to a new folder, with ``ro-crate-metadata.json`` of the profile Process Run Crate."""
    from rocrate.rocrate import ROCrate

    if target.exists():
        raise ConfigError(f"{target} is there already; give a new folder.")
    run, crate = read(folder), ROCrate(version="1.1")
    crate.name, crate.datePublished = f"ptyint run {run.run}: {run.verdict}", run.end
    crate.description = "Evidence on two ptychography backends: executed notebooks, pages, logs, arrays, checks."
    crate.license = "Not stated: that of the data that were used."
    files = [crate.add_file(folder / n, n, properties={"name": n}) for n in (NAME, SEAL, *run.artifacts)]
    action = {"name": " ".join(run.argv), "startTime": run.start, "endTime": run.end}
    action["actionStatus"] = STATUS[run.verdict != "pass"]
    tool = crate.add_jsonld({**TOOL, "softwareVersion": run.git.commit or "unknown"})
    made = crate.add_action(tool, f"#{run.run}", result=files, properties=action)
    crate.root_dataset["conformsTo"], crate.root_dataset["mentions"] = crate.add_jsonld({**PROFILE}), made
    crate.write(target)


def statement(folder: Path) -> dict[str, Any]:
    """An in-toto test result about the manifest of a run; a check that is no pass is a failed test."""
    run, digest = read(folder), sha256_of(folder / NAME)
    tests: dict[bool, list[str]] = {True: [], False: []}
    for check in run.checks:
        tests[check.verdict == "pass"].append(f"{check.notebook}: {check.name}")
    result = "PASSED" if run.verdict == "pass" else "FAILED"
    notebooks = [{"name": one.notebook, "digest": {"sha256": one.source_sha256}} for one in run.notebooks]
    said = {"result": result, "configuration": notebooks, "passedTests": tests[True], "failedTests": tests[False]}
    subject = {"name": f"{run.run}/{NAME}", "digest": {"sha256": digest}}
    return {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": said}


def _signed(content: dict[str, Any], key: Path) -> Any:
    """A statement in a DSSE envelope."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib import dsse, signer

    envelope = dsse.Envelope(json.dumps(content).encode(), PAYLOAD, {})
    try:
        envelope.sign(signer.CryptoSigner(load_pem_private_key(key.read_bytes(), None)))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key} is no private key that signs: {error}") from error
    return envelope.to_dict()


def problems(folder: Path, file: Path, key: Path | None) -> list[str]:
    """What is wrong with a statement on a run: its signature, or that the run says something else."""
    try:
        said = json.loads(file.read_bytes())
        said = _opened(said, key) if key else said
    except Exception as error:  # whatever is wrong with it, it does not speak for the run
        return [f"{file} is no statement{f' signed with {key}' if key else ''}: {error!r}."]
    return [] if said == statement(folder) else [f"{file} does not say what this run says; a signed one needs --key."]


def _opened(envelope: dict[str, Any], key: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib import dsse, signer

    one = dsse.Envelope.from_dict(envelope)
    one.verify([signer.SSlibKey.from_crypto(load_pem_public_key(key.read_bytes()))], 1)
    return json.loads(one.payload)
