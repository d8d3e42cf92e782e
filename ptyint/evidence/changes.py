"""What changed since the last run: verdicts, code, packages, machine, parameters, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptyint.evidence.record import TOLERANCE

MOST = 5
"""How many things of one kind a sentence names."""


def changes(manifest: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Compare a run with the ones before it.

    Parameters
    ----------
    manifest : dict
        Of the run.
    earlier : sequence of dict
        Manifests of finished runs, the newest first.

    Returns
    -------
    dict of str to list of str
        Notebook to sentences about it, against the last run that had this notebook; under ``""`` the sentences about
        the run as a whole. A list without a sentence: nothing changed.
    """
    if not earlier:
        first = ["this is the first run"]
        return {"": first} | {entry["name"]: first for entry in manifest["notebooks"]}
    found = {entry["name"]: _notebook(manifest, entry, earlier) for entry in manifest["notebooks"]}
    last = earlier[0]
    whole = [f"compared with {last['run']}"]
    if manifest["verdict"] != last["verdict"]:
        whole.append(f"verdict {last['verdict']} → {manifest['verdict']}")
    whole += _surroundings(manifest, last)
    whole += [f"{name}: {sentence}" for name, sentences in found.items() for sentence in sentences[1:]]
    return {"": whole if len(whole) > 1 else [f"nothing but times, compared with {last['run']}"], **found}


def _notebook(manifest: dict[str, Any], entry: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> list[str]:
    for last in earlier:
        before = next((old for old in last["notebooks"] if old["name"] == entry["name"]), None)
        if before is not None:
            break
    else:
        return ["it ran for the first time"]
    sentences = [f"compared with {last['run']}"]
    verdicts = [
        {check["name"]: check["verdict"] for check in one["checks"] if check["notebook"] == entry["name"]}
        for one in (last, manifest)
    ]
    old, new = verdicts
    changed = [name for name in new if name in old and new[name] != old[name]]
    sentences += _some("{} now", [f"{name} ({old[name]} → {new[name]})" for name in changed])
    sentences += _some("new checks: {}", sorted(new.keys() - old.keys()))
    sentences += _some("checks that are gone: {}", sorted(old.keys() - new.keys()))
    sentences += _bounds(manifest, last, entry["name"])
    moved = [
        f"{name.removeprefix(TOLERANCE)} {before['numbers'][name]} → {value}"
        for name, value in entry["numbers"].items()
        if name.startswith(TOLERANCE) and before["numbers"].get(name, value) != value
    ]
    sentences += _some("tolerances moved: {}", moved)
    asked = [
        f"{k} {before['asked'].get(k)!r} → {v!r}" for k, v in entry["asked"].items() if before["asked"].get(k) != v
    ]
    sentences += _some("parameters: {}", asked)
    if entry["source_sha256"] != before["source_sha256"]:
        sentences.append("the notebook itself was edited")
    return sentences


def _bounds(manifest: dict[str, Any], last: dict[str, Any], notebook: str) -> list[str]:
    """Bounds that moved: a tolerance is never loosened unseen."""
    old = {check["name"]: check["bound"] for check in last["checks"] if check["notebook"] == notebook}
    moved = [
        f"{check['name']} {old[check['name']]} → {check['bound']}"
        for check in manifest["checks"]
        if check["notebook"] == notebook and check["measured"] is not None
        if old.get(check["name"], check["bound"]) != check["bound"]
    ]
    return _some("bounds moved: {}", moved)


def _surroundings(manifest: dict[str, Any], last: dict[str, Any]) -> list[str]:
    sentences = []
    old, new = last["git"]["commit"], manifest["git"]["commit"]
    if old != new:
        sentences.append(f"commit {str(old)[:10]} → {str(new)[:10]}")
    if manifest["git"]["dirty"]:
        sentences += _some("uncommitted changes in {}", manifest["git"]["changed"])
    before, now = last["environment"], manifest["environment"]
    packages = [
        f"{name} {before['packages'].get(name, 'none')} → {now['packages'].get(name, 'none')}"
        for name in sorted(before["packages"].keys() | now["packages"].keys())
        if before["packages"].get(name) != now["packages"].get(name)
    ]
    sentences += _some("packages: {}", packages)
    for fact in ("python", "platform", "cpu", "threads", "variables"):
        if before[fact] != now[fact]:
            sentences.append(f"{fact} {before[fact]} → {now[fact]}")
    for name, facts in now["backends"].items():
        differs = [k for k in facts if facts[k] != before["backends"].get(name, {}).get(k)]
        sentences += _some(f"{name} says something else of {{}}", differs)
    return sentences


def _some(sentence: str, things: Sequence[str]) -> list[str]:
    """`sentence` about the first few `things`, or nothing."""
    if not things:
        return []
    more = f" and {len(things) - MOST} more" if len(things) > MOST else ""
    return [sentence.format(", ".join(things[:MOST]) + more)]
