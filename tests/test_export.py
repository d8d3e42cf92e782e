"""Runs for archives and for others' tools, by the validators of these."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from evidence_notebooks import PASSES, job, run, write

from ptyint.cli import main
from ptyint.evidence import manifest

pytest.importorskip("rocrate", reason="needs ro-crate-py: pip install 'ptyint[archive]'")
pytest.importorskip("securesystemslib", reason="needs securesystemslib: pip install 'ptyint[archive]'")

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

CONTEXT = {"File": "http://schema.org/MediaObject", "conformsTo": "http://purl.org/dc/terms/conformsTo"}
"""Terms of https://w3id.org/ro/crate/1.1/context that are not schema.org's own."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that passed and one that failed, by verdict."""
    folder = tmp_path_factory.mktemp("runs")
    notebook = write(folder / "n.ipynb", PASSES)
    done = [run(folder, job(notebook, "size", parameters={"size": size}))[0] for size in (3, 30)]
    return {one.verdict: one.folder for one in done}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public one."""
    folder, key = tmp_path_factory.mktemp("keys"), ed25519.Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return folder / "key.pem", folder / "key.pub"


def crate_of(folder: Path, target: Path) -> dict[str, dict[str, Any]]:
    """What the crate of a run says, by identifier."""
    assert main(["export", str(folder), "--ro-crate", str(target)]) == 0
    graph = json.loads((target / "ro-crate-metadata.json").read_text())["@graph"]
    return {one["@id"]: one for one in graph}


@pytest.mark.parametrize(("verdict", "status"), [("pass", "Completed"), ("fail", "Failed")])
def test_a_crate_holds_the_run_whole(two: dict[str, Path], tmp_path: Path, verdict: str, status: str) -> None:
    folder, target = two[verdict], tmp_path / "crate"
    said = crate_of(folder, target)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: (target / name).read_bytes() for name in files} == files
    assert {one["@id"] for one in said["./"]["hasPart"]} == {*files}
    action = said[f"#{folder.name}"]
    assert action["actionStatus"] == f"http://schema.org/{status}ActionStatus"
    assert main(["export", str(folder), "--ro-crate", str(target)]) == 2, "nothing that is there is replaced"


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of rdflib's, in its own JSON-LD parser
def test_the_validator_accepts_the_crate(two: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terms come from here, not from w3id.org."""
    services = pytest.importorskip("rocrate_validator.services", reason="needs roc-validator")
    from requests import Response
    from requests.adapters import HTTPAdapter

    said = crate_of(two["pass"], tmp_path / "crate").values()
    terms = {name for one in said for name in (*one, one["@type"]) if not name.startswith("@")}
    context = {"@context": {name: f"http://schema.org/{name}" for name in terms} | CONTEXT}

    def send(self: HTTPAdapter, request: Any, **options: Any) -> Response:
        assert request.url == "https://w3id.org/ro/crate/1.1/context"
        answer = Response()
        answer.status_code, answer.url, answer.request = 200, request.url, request
        answer.raw, answer.headers["Content-Type"] = io.BytesIO(json.dumps(context).encode()), "application/ld+json"
        return answer

    monkeypatch.setattr(HTTPAdapter, "send", send)

    def complaints(profile: str) -> list[str]:
        asked = {"rocrate_uri": str(tmp_path / "crate"), "profile_identifier": profile, "no_cache": True}
        return [str(issue.message) for issue in services.validate(asked).get_issues()]

    assert {profile: complaints(profile) for profile in ("ro-crate-1.1", "process-run-crate-0.5")} == {
        "ro-crate-1.1": [],
        "process-run-crate-0.5": [],
    }
    metadata = tmp_path / "crate" / "ro-crate-metadata.json"
    metadata.write_text(metadata.read_text().replace('"datePublished"', '"dateModified"'))
    assert any("datePublished" in one for one in complaints("ro-crate-1.1"))


def test_a_statement_is_a_test_result_about_the_manifest(two: dict[str, Path], tmp_path: Path) -> None:
    for verdict, result in (("pass", "PASSED"), ("fail", "FAILED")):
        file, folder = tmp_path / f"{verdict}.json", two[verdict]
        assert main(["export", str(folder), "--in-toto", str(file)]) == 0
        said = json.loads(file.read_text())
        assert said["_type"] == "https://in-toto.io/Statement/v1"
        assert said["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
        assert said["subject"][0]["digest"]["sha256"] == manifest.sha256_of(folder / manifest.NAME)
        assert said["predicate"]["result"] == result
        passed, failed = (said["predicate"][name] for name in ("passedTests", "failedTests"))
        assert ("small: size" in passed) == (verdict == "pass") and len({*passed, *failed}) == 3
        assert main(["verify", str(folder), "--alone", "--in-toto", str(file)]) == int(verdict != "pass")


def test_the_validator_accepts_the_statement(two: dict[str, Path], tmp_path: Path) -> None:
    """in-toto's own classes, made from its specification: unknown fields and values of other types are errors."""
    pytest.importorskip("in_toto_attestation", reason="needs in-toto-attestation")
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
    from in_toto_attestation.v1 import statement, statement_pb2

    def accepted(said: dict[str, Any]) -> tuple[Any, Any]:
        whole = statement.Statement.copy_from_pb(ParseDict(said, statement_pb2.Statement()))
        whole.validate()
        return whole.pb, ParseDict(said["predicate"], TestResult())

    for verdict, folder in two.items():
        file = tmp_path / f"{verdict}.json"
        assert main(["export", str(folder), "--in-toto", str(file)]) == 0
        said = json.loads(file.read_text())
        whole, result = accepted(said)
        assert whole.subject[0].digest["sha256"] == manifest.sha256_of(folder / manifest.NAME)
        assert [*result.passed_tests, *result.failed_tests] and result.configuration[0].digest["sha256"]
    for wrong, error in (
        ({**said, "subject": [{"name": "a"}]}, ValueError),
        ({**said, "_type": "https://in-toto.io/Statement/v0.1"}, ValueError),
        ({**said, "verdict": "pass"}, ParseError),
        ({**said, "predicate": {**said["predicate"], "passed": 3}}, ParseError),
    ):
        with pytest.raises(error):
            accepted(wrong)


def test_a_signed_statement_is_checked_with_the_public_key(
    two: dict[str, Path], keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from securesystemslib.dsse import Envelope

    file, folder, (private, public) = tmp_path / "signed.json", str(two["pass"]), keys
    assert main(["export", folder, "--in-toto", str(file), "--key", str(private)]) == 0
    envelope = json.loads(file.read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(Envelope.from_dict(json.loads(file.read_text())).payload)["predicate"]["result"] == "PASSED"
    checked = ["verify", folder, "--alone", "--in-toto", str(file)]
    assert main([*checked, "--key", str(public)]) == 0
    assert main(checked) == 1 and "a signed one needs --key" in capsys.readouterr().out
    assert main(["verify", str(two["fail"]), "--alone", "--in-toto", str(file), "--key", str(public)]) == 1
    assert "does not say what this run says" in capsys.readouterr().out


def test_what_is_not_signed_with_the_key_is_no_statement(
    two: dict[str, Path], keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, (private, public) = tmp_path / "signed.json", str(two["pass"]), keys
    checked = ["verify", folder, "--alone", "--in-toto", str(file), "--key", str(public)]
    assert main(["export", folder, "--in-toto", str(file)]) == 0
    assert main(checked) == 1, "unsigned"
    assert main(["export", folder, "--in-toto", str(file), "--key", str(private)]) == 0
    envelope = json.loads(file.read_text())
    other = json.dumps({**envelope, "payload": envelope["payload"][:-8] + "AAAAAAA="})
    for text in (other, json.dumps({**envelope, "signatures": []}), "{}", "[]", "no JSON", ""):
        file.write_text(text)
        assert main(checked) == 1
        assert f"{file} is no statement signed with {public}" in capsys.readouterr().out


def test_what_cannot_be_exported_is_refused(
    two: dict[str, Path], keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), "--in-toto", str(tmp_path / "a.json")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["export", str(two["pass"]), "--in-toto", str(tmp_path / "a.json"), "--key", str(keys[1])]) == 2
    assert "is no private key that signs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
