"""`wts.h5.zip`: whole or not at all; and a damaged, foreign or hostile one is refused by name.

Hostile bundles carry a manifest whose hash holds: whoever forges the weights forges the manifest too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptyint.backends.bundle import NAME, load_bundle, save_bundle
from ptyint.backends.weights import Weights, initial_weights, weight_shapes
from ptyint.config import ModelConfig, TrainingConfig
from ptyint.errors import BundleError

CONFIG = TrainingConfig(
    model=ModelConfig(n_filters_scale=1, probe_big=False),
    train_data_file=Path("somewhere/scan.npz"),
    nepochs=3,
    nphotons=1e6,
    backend="pytorch",
)


def make_weights(model: ModelConfig = CONFIG.model, modes: int = 2) -> Weights:
    rng = np.random.default_rng(0)
    weights = initial_weights(model, rng.normal(size=(modes, 64, 64)) + 0j, 1)
    return {name: np.asarray(np.round(array, 1), np.float32) for name, array in weights.items()}  # compresses well


WEIGHTS = make_weights()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a valid bundle."""
    return save_bundle(tmp_path_factory.mktemp("good"), WEIGHTS, CONFIG, "pytorch").read_bytes()


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read or written here, pickle has no part in it."""

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, forbidden)


def parts(bundle: bytes) -> tuple[dict[str, Any], bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return json.loads(archive.read("manifest.json")), archive.read("weights.h5")


def archive_of(members: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return buffer.getvalue()


def forged(good: bytes, payload: bytes | None = None, **changes: Any) -> bytes:
    """A bundle with other weights, or another manifest, whose hash holds unless it is among the changes."""
    manifest, original = parts(good)
    payload = original if payload is None else payload
    manifest = {**manifest, "weights_sha256": hashlib.sha256(payload).hexdigest(), **changes}
    manifest = {key: value for key, value in manifest.items() if value is not ...}
    return archive_of({"manifest.json": json.dumps(manifest).encode(), "weights.h5": payload})


def hdf5(edit: Callable[[h5py.File], None], weights: Weights = WEIGHTS) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in weights.items():
            file.create_dataset(name, data=array)
        edit(file)
    return buffer.getvalue()


def refusal(tmp_path: Path, content: bytes, expected: ModelConfig | None = None) -> str:
    path = tmp_path / "bad" / NAME
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        load_bundle(path, expected)
    message = str(caught.value)
    assert str(path) in message and isinstance(caught.value, ValueError)
    assert "Train and save the model again" in message or "set the model configuration" in message
    return message


def same_weights(left: Weights, right: Weights) -> bool:
    return set(left) == set(right) and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
    )


# --- round trip ---


@pytest.mark.parametrize(
    "model",
    [CONFIG.model, ModelConfig(n_filters_scale=1, gridsize=2), ModelConfig(n_filters_scale=1, N=128, probe_mask=True)],
    ids=["plain", "gridsize 2", "N 128"],
)
def test_what_is_saved_is_loaded(model: ModelConfig, tmp_path: Path) -> None:
    weights = initial_weights(model, np.random.default_rng(1).normal(size=(2, model.N, model.N)), 7)
    config = replace(CONFIG, model=model)
    path = save_bundle(tmp_path / "model.zip", weights, config, "tensorflow")
    assert path == tmp_path / "model.zip"
    back = load_bundle(path, expected=model)
    assert same_weights(back.weights, weights)
    assert all(array.shape == weight_shapes(model, 2)[name] for name, array in back.weights.items())
    assert back.config == config and isinstance(back.config.train_data_file, Path)
    assert back.manifest["backend"] == "tensorflow"


def test_a_folder_gets_and_gives_the_bundle_by_its_name(tmp_path: Path) -> None:
    assert save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch") == tmp_path / "wts.h5.zip"
    assert same_weights(load_bundle(tmp_path).weights, WEIGHTS)
    assert same_weights(load_bundle(str(tmp_path)).weights, WEIGHTS)


def test_the_manifest_says_what_made_it(good: bytes) -> None:
    """Read without the package: JSON, and plain float32 datasets."""
    manifest, payload = parts(good)
    assert manifest["backend"] == "pytorch"
    assert manifest["config"]["model"]["n_filters_scale"] == 1 and manifest["config"]["nphotons"] == 1e6
    assert manifest["versions"]["numpy"] == np.__version__ and {"python", "ptyint", "h5py"} <= set(manifest["versions"])
    assert manifest["weights_sha256"] == hashlib.sha256(payload).hexdigest()
    with h5py.File(io.BytesIO(payload)) as file:
        assert set(file) == set(WEIGHTS)
        np.testing.assert_array_equal(file["encoder.0.conv1.kernel"][()], WEIGHTS["encoder.0.conv1.kernel"])


def test_float64_weights_are_stored_as_float32(tmp_path: Path) -> None:
    double = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    assert same_weights(load_bundle(save_bundle(tmp_path, double, CONFIG, "pytorch")).weights, WEIGHTS)


@pytest.mark.parametrize("spoil", ["nan", "missing", "shape"])
def test_weights_that_do_not_fit_are_not_saved(spoil: str, tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    if spoil == "nan":
        weights["phase.last.bias"] = np.array([np.nan], np.float32)
    elif spoil == "missing":
        del weights["phase.last.bias"]
    else:
        weights["phase.last.bias"] = np.zeros(2, np.float32)
    with pytest.raises(BundleError, match=r"phase\.last\.bias"):
        save_bundle(tmp_path, weights, CONFIG, "pytorch")
    assert list(tmp_path.iterdir()) == []


# --- atomicity ---


@pytest.mark.parametrize("when", ["first member", "second member", "closing", "renaming"])
def test_a_write_that_fails_leaves_the_old_file(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch")
    before = path.read_bytes()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    if when == "renaming":
        monkeypatch.setattr(os, "replace", fail)
    elif when == "closing":
        close = zipfile.ZipFile.close
        monkeypatch.setattr(zipfile.ZipFile, "__exit__", lambda self, *error: (close(self), fail()))
    else:
        write = zipfile.ZipFile.writestr
        last = "manifest.json" if when == "first member" else "weights.h5"
        monkeypatch.setattr(
            zipfile.ZipFile, "writestr", lambda self, name, data: fail() if name == last else write(self, name, data)
        )
    with pytest.raises(OSError, match="No space left"):
        save_bundle(tmp_path, {name: array + 1 for name, array in WEIGHTS.items()}, CONFIG, "pytorch")
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == [NAME]
    assert path.read_bytes() == before


def test_saving_replaces_the_old_file(tmp_path: Path) -> None:
    save_bundle(tmp_path, WEIGHTS, CONFIG, "pytorch")
    newer = {name: array + 1 for name, array in WEIGHTS.items()}
    save_bundle(tmp_path, newer, CONFIG, "pytorch")
    assert same_weights(load_bundle(tmp_path).weights, newer)
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


# --- damage ---


def test_no_file_and_no_bundle_in_the_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.zip", tmp_path / "no" / "folder"):
        with pytest.raises(BundleError, match=r"No model bundle at .*Train a model first"):
            load_bundle(path)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_truncated(share: float, good: bytes, tmp_path: Path) -> None:
    assert "not a readable bundle" in refusal(tmp_path, good[: int(share * len(good))])


@pytest.mark.parametrize("lost", [1, 2, 21, 22, 23, 60, 150])
def test_the_end_is_missing(lost: int, good: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, good[:-lost])


def test_the_beginning_or_the_middle_is_missing(good: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, good[10:])
    refusal(tmp_path, good[: len(good) // 2] + good[len(good) // 2 + 1 :])
    refusal(tmp_path, good[:1000] + bytes(1000) + good[2000:])


def test_a_flipped_byte_is_refused_or_harmless(good: bytes, tmp_path: Path) -> None:
    """Every byte of the archive's own structures and a sample of the content: BundleError, or exactly what was saved.

    Harmless are the bytes that nothing depends on, such as a member's time stamp, and a changed reference in the
    compressed content that repeats the same bytes from elsewhere.
    """
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        starts = [info.header_offset for info in archive.infolist()]
        directory = archive.start_dir
    structure = {start + i for start in starts for i in range(42)} | set(range(directory, len(good)))
    content = np.random.default_rng(0).integers(0, directory, 60).tolist()
    path = tmp_path / NAME
    refused = 0
    for position in sorted(structure.union(content)):
        for mask in (1 << position % 8, 0xFF) if position in structure else (0x10,):
            spoiled = bytearray(good)
            spoiled[position] ^= mask
            path.write_bytes(spoiled)
            try:
                found = load_bundle(path)
            except BundleError:
                refused += 1
            else:
                assert same_weights(found.weights, WEIGHTS) and found.config == CONFIG, f"byte {position}"
    assert refused > 250


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97])
def test_content_that_is_not_what_the_header_says(method: int, good: bytes, tmp_path: Path) -> None:
    """The compression method changed in both headers: the content is rubbish to the decompressor."""
    spoiled = bytearray(good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        offset, directory = archive.getinfo("weights.h5").header_offset, archive.start_dir
    second = good.index(b"PK\x01\x02", directory + 4)
    for position in (offset + 8, second + 10):
        spoiled[position : position + 2] = method.to_bytes(2, "little")
    refusal(tmp_path, bytes(spoiled))


def test_an_encrypted_member_is_refused(good: bytes, tmp_path: Path) -> None:
    spoiled = bytearray(good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        directory = archive.start_dir
    spoiled[6] |= 1
    spoiled[directory + 8] |= 1
    assert "not a readable bundle" in refusal(tmp_path, bytes(spoiled))


# --- foreign ---


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x89HDF\r\n\x1a\n" + bytes(500), b"not an archive at all" * 50, pickle.dumps({"w": 1})],
    ids=["empty", "two letters", "hdf5", "text", "pickle"],
)
def test_not_an_archive(content: bytes, tmp_path: Path) -> None:
    assert "not a readable bundle" in refusal(tmp_path, content)


def test_a_foreign_archive(tmp_path: Path) -> None:
    """PtychoPINN's own wts.h5.zip holds folders of Keras files."""
    foreign = archive_of({"manifest.dill": b"1", "autoencoder/model.keras": b"2"})
    message = refusal(tmp_path, foreign)
    assert "autoencoder/model.keras" in message and "'manifest.json', 'weights.h5'" in message
    refusal(tmp_path, archive_of({}))


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt", "a/../../evil", "weights.h5/", "extra", "Weights.h5"],
)
def test_another_member_is_refused_and_nothing_is_extracted(
    name: str, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    manifest, payload = parts(good)
    members = {"manifest.json": json.dumps(manifest).encode(), "weights.h5": payload, name: b"evil"}
    message = refusal(tmp_path, archive_of(members))
    assert "a bundle holds exactly" in message
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["bad", f"bad/{NAME}", "work"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twice", ["manifest.json", "weights.h5"])
def test_a_member_twice_is_refused(twice: str, good: bytes, tmp_path: Path) -> None:
    manifest, payload = parts(good)
    members = [("manifest.json", json.dumps(manifest).encode()), ("weights.h5", payload)]
    refusal(tmp_path, archive_of([*members, next(m for m in members if m[0] == twice)]))


@pytest.mark.parametrize("gone", ["manifest.json", "weights.h5"])
def test_a_member_is_missing(gone: str, good: bytes, tmp_path: Path) -> None:
    manifest, payload = parts(good)
    members = {"manifest.json": json.dumps(manifest).encode(), "weights.h5": payload}
    del members[gone]
    assert "a bundle holds exactly ['manifest.json', 'weights.h5']" in refusal(tmp_path, archive_of(members))


# --- hostile: size ---


@pytest.mark.parametrize("which, size", [(0, 2**21), (0, 2**32 - 2), (1, 2**32 - 2)])
def test_a_declared_size_beyond_the_limit_is_refused_unread(which: int, size: int, good: bytes, tmp_path: Path) -> None:
    spoiled = bytearray(good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        position = archive.start_dir
    for _ in range(which):
        position = good.index(b"PK\x01\x02", position + 4)
    spoiled[position + 24 : position + 28] = size.to_bytes(4, "little")
    assert f"would unpack to {size} bytes" in refusal(tmp_path, bytes(spoiled))


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(good: bytes, tmp_path: Path) -> None:
    """64 MiB of zeros behind a declared size of 100 bytes."""
    bomb = bytearray(archive_of({"manifest.json": bytes(2**26), "weights.h5": b""}))
    directory = bomb.index(b"PK\x01\x02")
    bomb[directory + 24 : directory + 28] = (100).to_bytes(4, "little")
    tracemalloc.start()
    refusal(tmp_path, bytes(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


@pytest.mark.parametrize("how", ["never written", "compressed", "one dataset, many names"])
def test_hdf5_that_unfolds_to_more_than_its_bytes_is_refused_unread(how: str, good: bytes, tmp_path: Path) -> None:
    """A few kilobytes that declare 400 MB: the shapes are judged before a single number is read."""

    def edit(file: h5py.File) -> None:
        if how == "never written":
            for i in range(4):
                file.create_dataset(f"huge{i}", (100, 2**18), np.float32)
        elif how == "compressed":
            huge = file.create_dataset("huge", (100, 2**20), np.float32, chunks=(1, 2**20), compression="gzip")
            huge[:2] = 0
        else:
            for i in range(400):
                file[f"again{i}"] = file["encoder.2.conv2.kernel"]

    content = forged(good, hdf5(edit))
    tracemalloc.start()
    message = refusal(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "weights unknown to ModelConfig" in message
    assert peak < 3e7


@pytest.mark.parametrize("how", ["never written", "compressed"])
def test_a_known_weight_must_be_stored_plainly(how: str, good: bytes, tmp_path: Path) -> None:
    """As many modes as one likes: the right names, a shape that fits, and 4 GB behind a few bytes."""
    modes = 2**17

    def edit(file: h5py.File) -> None:
        for name in ("probe.real", "probe.imag"):
            del file[name]
            packing: dict[str, Any] = {"chunks": (64, 64, 64), "compression": "gzip"} if how == "compressed" else {}
            file.create_dataset(name, (modes, 64, 64), np.float32, **packing)

    content = forged(good, hdf5(edit))
    tracemalloc.start()
    refusal(tmp_path, content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e7


# --- hostile: manifest ---


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe\x00", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000],
    ids=["empty", "open", "list", "null", "text", "bytes", "object", "deep list", "deep object", "long number"],
)
def test_a_manifest_that_is_no_manifest(raw: bytes, good: bytes, tmp_path: Path) -> None:
    assert "manifest.json" in refusal(tmp_path, archive_of({"manifest.json": raw, "weights.h5": parts(good)[1]}))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"format": "ptychopinn"}, "('ptychopinn', 1)"),
        ({"format": ...}, "(None, 1)"),
        ({"version": 2}, "('ptyint-bundle', 2)"),
        ({"version": "1"}, "('ptyint-bundle', '1')"),
        ({"backend": ...}, "lacks ['backend']"),
        ({"backend": 3}, "lacks ['backend']"),
        ({"config": ...}, "lacks ['config']"),
        ({"config": []}, "lacks ['config']"),
        ({"versions": "1"}, "lacks ['versions']"),
        ({"weights_sha256": ...}, "lacks ['weights_sha256']"),
        ({"weights_sha256": 7}, "lacks ['weights_sha256']"),
        ({"weights_sha256": "0" * 64}, "the manifest says " + "0" * 64),
        ({"weights_sha256": ""}, "has sha256"),
    ],
)
def test_a_manifest_that_lacks_or_contradicts(changes: dict[str, Any], says: str, good: bytes, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, forged(good, **changes))


@pytest.mark.parametrize(
    "config, says",
    [
        ({"model": {"N": 65}}, "N is 65"),
        ({"model": {"N": 64.0}}, "N is 64.0"),
        ({"model": {"n_filters_scale": 10**30}}, "encoder.0.conv1"),
        ({"model": "big"}, "model is 'big'"),
        ({"model": {"__class__": 1}}, "__class__"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_configuration_that_is_not_valid(config: dict[str, Any], says: str, good: bytes, tmp_path: Path) -> None:
    manifest, _ = parts(good)
    merged = {**manifest["config"], **config}
    if isinstance(config.get("model"), dict):
        merged["model"] = {**manifest["config"]["model"], **config["model"]}
    assert says in refusal(tmp_path, forged(good, config=merged))


# --- hostile: weights ---


def drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def put(name: str, **keywords: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **keywords)

    return edit


def link(name: str, target: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = target

    return edit


def group(file: h5py.File) -> None:
    del file["phase.last.bias"]
    file.create_dataset("phase.last.bias/inside", data=np.zeros(1, np.float32))


def no_modes(file: h5py.File) -> None:
    for name in ("probe.real", "probe.imag"):
        put(name, data=np.zeros((0, 64, 64), np.float32))(file)


def filled(value: float) -> Any:
    array = WEIGHTS["phase.last.kernel"].copy()
    array[1, 1, 5, 0] = value
    return array


BIAS = "phase.last.bias"
HOSTILE = {
    "missing": (drop(BIAS), "weights missing: ['phase.last.bias']"),
    "probe missing": (drop("probe.real"), "probe.real"),
    "imaginary probe missing": (drop("probe.imag"), "probe.imag"),
    "scale missing": (drop("log_intensity_scale"), "log_intensity_scale"),
    "unknown": (put("extra.bias", data=np.zeros(1, np.float32)), "extra.bias"),
    "misshapen": (put(BIAS, data=np.zeros(2, np.float32)), "has shape (2,); needs (1,)"),
    "scalar": (put(BIAS, data=np.float32(0)), "has shape (); needs (1,)"),
    "transposed": (
        put("encoder.0.conv1.kernel", data=WEIGHTS["encoder.0.conv1.kernel"].transpose(3, 2, 0, 1)),
        "has shape (32, 1, 3, 3); needs (3, 3, 1, 32)",
    ),
    "probe of one mode, flat": (put("probe.real", data=np.zeros((64, 64), np.float32)), "(modes, N, N)"),
    "modes unequal": (put("probe.imag", data=np.zeros((1, 64, 64), np.float32)), "has shape (1, 64, 64)"),
    "no modes": (no_modes, "'probe.real' is missing or not (modes, N, N)"),
    "NaN": (put("phase.last.kernel", data=filled(np.nan)), "'phase.last.kernel' holds NaN or Inf"),
    "Inf": (put("phase.last.kernel", data=filled(-np.inf)), "'phase.last.kernel' holds NaN or Inf"),
    "NaN scale": (put("log_intensity_scale", data=np.float32(np.nan)), "'log_intensity_scale' holds NaN"),
    "float64": (put(BIAS, data=np.zeros(1)), "not a plain float32 dataset"),
    "big endian": (put(BIAS, data=np.zeros(1, ">f4")), "not a plain float32 dataset"),
    "integers": (put(BIAS, data=np.zeros(1, np.int32)), "not a plain float32 dataset"),
    "text": (put(BIAS, data="rm -rf"), "not a plain float32 dataset"),
    "object reference": (put(BIAS, shape=(1,), dtype=h5py.ref_dtype), "not a plain float32 dataset"),
    "compound": (put(BIAS, data=np.zeros(1, [("a", "f4")])), "not a plain float32 dataset"),
    "null dataspace": (put(BIAS, data=h5py.Empty("f4")), "phase.last.bias"),
    "group": (group, "not a plain float32 dataset"),
    "soft link": (link(BIAS, h5py.SoftLink("/phase.1.conv1.bias")), "not a plain float32 dataset"),
    "dangling link": (link(BIAS, h5py.SoftLink("/nowhere")), "not a plain float32 dataset"),
    "external link": (link(BIAS, h5py.ExternalLink("other.h5", "/secret")), "not a plain float32 dataset"),
    "named type": (link(BIAS, np.dtype("f4")), "not a plain float32 dataset"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_weights_that_are_not_the_models(case: str, good: bytes, tmp_path: Path) -> None:
    edit, says = HOSTILE[case]
    assert says in refusal(tmp_path, forged(good, hdf5(edit)))


def test_no_other_file_is_read_through_hdf5(good: bytes, tmp_path: Path) -> None:
    """External storage, a virtual dataset and an external link would each read a file of the reader's."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.float32(42).tobytes())
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.full(1, 42, np.float32)
    layout = h5py.VirtualLayout((1,), np.float32)
    layout[:] = h5py.VirtualSource(other, "secret", shape=(1,))
    edits: list[Callable[[h5py.File], None]] = [
        put(BIAS, shape=(1,), dtype=np.float32, external=[(str(secret), 0, 4)]),
        link(BIAS, h5py.ExternalLink(str(other), "/secret")),
    ]

    def virtual(file: h5py.File) -> None:
        del file[BIAS]
        file.create_virtual_dataset(BIAS, layout)

    for edit in [*edits, virtual]:
        assert "not a plain float32 dataset" in refusal(tmp_path, forged(good, hdf5(edit)))


@pytest.mark.parametrize(
    "payload", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + bytes(2000)], ids=["empty", "text", "magic"]
)
def test_weights_that_are_no_hdf5(payload: bytes, good: bytes, tmp_path: Path) -> None:
    assert "not a readable HDF5 file" in refusal(tmp_path, forged(good, payload))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_truncated_hdf5_with_a_hash_that_holds(share: float, good: bytes, tmp_path: Path) -> None:
    payload = parts(good)[1]
    assert "weights.h5" in refusal(tmp_path, forged(good, payload[: int(share * len(payload))]))


# --- another model ---


@pytest.mark.parametrize(
    "other",
    [
        {"n_filters_scale": 2},
        {"gridsize": 2},
        {"N": 128},
        {"probe_big": True},
        {"probe_mask": True},
        {"probe_scale": 2.0},
        {"amp_activation": "swish"},
    ],
)
def test_a_bundle_of_another_model_is_refused(other: dict[str, Any], good: bytes, tmp_path: Path) -> None:
    """Also where the shapes would fit: another head or mask is another model."""
    expected = replace(CONFIG.model, **other)
    message = refusal(tmp_path, good, expected)
    assert str(expected) in message and str(CONFIG.model) in message
