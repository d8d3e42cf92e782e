"""Initial weights, bundle, learning rates, training loop: from their descriptions."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
from common import GIVEN, NAMES, beam, disk, fact, given, named, normal, projected, refused, unchangeable, wave
from scanning import grouped

DECODERS = ("amplitude", "phase")


def layers(N: int, s: int, C: int, object_big: bool, probe_big: bool) -> dict[str, tuple[int, int]]:
    """Channels in and out of every convolution, in the order of the data, from the description of the network."""
    encoder = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}[N]
    decoder = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}[N]
    outer = {64: 32, 128: 16, 256: 8}[N] * s
    table, width = {}, C
    for i, filters in enumerate(encoder):
        table |= {f"encoder.{i}.conv1": (width, filters * s), f"encoder.{i}.conv2": (filters * s, filters * s)}
        width = filters * s
    out = C if object_big else 1
    for head in DECODERS:
        wide = width
        for i, filters in enumerate(decoder):
            table |= {f"{head}.{i}.conv1": (wide, filters * s), f"{head}.{i}.conv2": (filters * s, filters * s)}
            wide = filters * s
        table[f"{head}.last"] = (wide - 4 if probe_big else wide, out)
        if probe_big:
            table |= {f"{head}.outer.conv1": (4, outer), f"{head}.outer.conv2": (outer, outer)}
            table[f"{head}.outer.last"] = (outer, out)
    return table


def shapes_of(table: dict[str, tuple[int, int]], N: int, modes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every weight, in their order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (n_in, n_out) in table.items():
        shapes |= {f"{name}.kernel": (3, 3, n_in, n_out), f"{name}.bias": (n_out,)}
    return shapes | {"probe.real": (modes, N, N), "probe.imag": (modes, N, N), "log_intensity_scale": ()}


MODELS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("gridsize 1", {"n_filters_scale": 1}, 1),
    ("gridsize 2, mask, two modes", {"gridsize": 2, "n_filters_scale": 1, "probe_mask": True, "probe_scale": 3.0}, 2),
    ("one patch, no border", {"gridsize": 2, "n_filters_scale": 1, "object_big": False, "probe_big": False}, 1),
    ("N 128", {"N": 128, "n_filters_scale": 1}, 1),
)


def make_weights() -> None:
    """Networks of every kind."""
    for case, options, modes in (*MODELS, ("N 256, width 2", {"N": 256}, 3), ("width 3", {"n_filters_scale": 3}, 1)):
        N, s, C = options.get("N", 64), options.get("n_filters_scale", 2), options.get("gridsize", 1) ** 2
        table = layers(N, s, C, options.get("object_big", True), options.get("probe_big", True))
        model = f"config.ModelConfig({', '.join(f'{key}={value}' for key, value in options.items())})"
        shapes = shapes_of(table, N, modes)
        fact("initial weights", f"{case}: shapes", f"str(weights.weight_shapes({model}, {modes}))", str(shapes))
        if (case, options, modes) not in MODELS:
            continue
        probe = given(f"beam_{N}_{modes}", beam(N, modes))
        generator = np.random.default_rng(21)
        one = normal(probe.astype(complex), options.get("probe_scale", 4.0))
        sums = {}
        for name, shape in shapes.items():
            value: Any = np.zeros(shape)
            if name.endswith(".kernel"):
                limit = math.sqrt(6 / (9 * (shape[2] + shape[3])))
                value = generator.uniform(-limit, limit, shape)
            sums[name] = projected(value)
        lit = one * disk(N) if options.get("probe_mask") else one
        energy = sum(float(abs(value) ** 2) for value in lit.ravel())
        scale = math.log(N / 2 / 0.5) - math.log(energy) / 2
        made = f"weights_{len(NAMES)}"
        named(made, f"weights.initial_weights({model}, beam_{N}_{modes}, 21)")
        kernels = [value for name, value in sums.items() if name.endswith(".kernel")]
        fact(
            "initial weights",
            f"{case}: kernels",
            f"[projected(w.astype(float)) for name, w in {made}.items() if name.endswith('.kernel')]",
            kernels,
            "single",
        )
        fact(
            "initial weights",
            f"{case}: biases",
            f"[abs(w).max() for name, w in {made}.items() if name.endswith('.bias')]",
            [0] * len(kernels),
        )
        fact(
            "initial weights",
            f"{case}: probe",
            f"projected({made}['probe.real'] + 1j * {made}['probe.imag'].astype(float))",
            projected(one),
            "single",
        )
        fact("initial weights", f"{case}: intensity scale", f"float({made}['log_intensity_scale'])", scale, "single")
        fact("initial weights", f"{case}: names and dtypes",
             f"str([(name, w.dtype.str, w.shape) for name, w in {made}.items()])",
             str([(name, "<f4", shape) for name, shape in shapes.items()]))  # fmt: skip
        fact(
            "initial weights",
            f"{case}: scale before training",
            f"weights.initial_log_intensity_scale(beam_{N}_{modes})",
            math.log(N) - math.log(sum(float(abs(value) ** 2) for value in probe.astype(complex).ravel())) / 2,
        )
    given("beam_64_2", beam(64, 2))
    trained = {"probe.real": 2 * wave(2, 64, 64, seed=22).real, "probe.imag": 2 * wave(2, 64, 64, seed=22).imag}
    given("trained_probe", trained["probe.real"] + 1j * trained["probe.imag"])
    named("trained", "{'probe.real': trained_probe.real, 'probe.imag': trained_probe.imag, 'log_intensity_scale': 0.3}")
    norms = [math.sqrt(sum(float(abs(v)) ** 2 for v in GIVEN[n].ravel())) for n in ("trained_probe", "beam_64_2")]
    ratio = norms[0] / norms[1]
    fact("initial weights", "back to the scan's units: object", "weights.scan_units(trained, beam_64_2)[0]",
         math.exp(0.3) * ratio, "single")  # fmt: skip
    fact("initial weights", "back to the scan's units: probe", 
         "projected(weights.scan_units(trained, beam_64_2)[1] + 0j)",
         projected(GIVEN["trained_probe"] / ratio), "single")  # fmt: skip
    names = ["a.kernel", "probe.real", "probe.imag", "log_intensity_scale"]
    for probe, scale, moving in ((False, True, [0, 3]), (True, False, [0, 1, 2]), (False, False, [0])):
        call = f"weights.trainable_names(config.TrainingConfig(probe_trainable={probe}, "
        fact("initial weights", f"what moves: probe {probe}, scale {scale}",
             f"str({call}intensity_scale_trainable={scale}), {names}))", str([names[i] for i in moving]))  # fmt: skip
    pair = {"b": np.arange(6, dtype="<f4").reshape(2, 3), "a": np.array(1.5, "<f8")}
    digest = hashlib.sha256()
    for name in sorted(pair):
        digest.update(f"{name}|{pair[name].dtype.str}|{pair[name].shape}|".encode() + pair[name].tobytes())
    text = "{'b': np.arange(6, dtype='>f4').reshape(2, 3), 'a': np.array(1.5)}"
    fact("initial weights", "digest", f"weights.weights_sha256({text})", digest.hexdigest())
    apart = (
        ("{'x': np.ones((3, 3, 1, 4)), 'y': np.ones(2)}", "{'z': np.ones((3, 3, 1, 4))}", ""),
        ("{'x': np.ones((3, 3, 1, 4)), 'd': np.ones((2, 2))}", "{'z': np.ones((3, 3, 4, 1))}",
         "1 dense layers (d, ...); this one alone has 1 of 3 x 3 x 1 x 4; the other one alone has 1 of 3 x 3 x 4 x 1"),
        ("{str(i): np.ones((1, 1, 1, i)) for i in range(1, 6)}", "{}",
         "this one alone has 1 of 1 x 1 x 1 x 1, 1 of 1 x 1 x 1 x 2, 1 of 1 x 1 x 1 x 3, 1 of 1 x 1 x 1 x 4, ..."),
        ("{str(i): np.ones((1, 1, 1, i)) for i in range(1, 7)}", "{}",
         "this one alone has 1 of 1 x 1 x 1 x 1, 1 of 1 x 1 x 1 x 2, 1 of 1 x 1 x 1 x 3, 1 of 1 x 1 x 1 x 4, ..."),
        ("{}", "{str(i): np.ones((1, 1, 1, i // 2)) for i in range(2, 10)}",
         "the other one alone has 2 of 1 x 1 x 1 x 1, 2 of 1 x 1 x 1 x 2, 2 of 1 x 1 x 1 x 3, 2 of 1 x 1 x 1 x 4"),
    )  # fmt: skip
    for number, (ours, theirs, words) in enumerate(apart):
        fact("initial weights", f"layers apart ({number})", f"weights.layers_apart({ours}, {theirs})", words)


LOSSES = (5.0, 4.0, 4.0, 4.5, 4.1, 4.2, 3.0, 3.1, 2.999, 3.0, 3.0, 3.0, 3.0)


def rates(losses: Sequence[float], **o: Any) -> tuple[list[float], list[bool]]:
    """Learning rate of each epoch, and whether training stops after it, from the rules in words."""
    found, stops, best, waiting, since, reduction = [], [], math.inf, 0, 0, 1.0
    for epoch, loss in enumerate(losses, 1):
        if o["scheduler"] == "WarmupCosine":
            warm, last = o.get("lr_warmup_epochs", 0), o["nepochs"]
            if epoch <= warm:
                rate = 1e-3 * epoch / (warm + 1)
            else:
                part = min(1.0, (epoch - warm - 1) / max(1, last - warm - 1))
                low = o.get("lr_min_ratio", 0.1)
                rate = 1e-3 * (low + (1 - low) * (1 + math.cos(math.pi * part)) / 2)
        else:
            rate = min(1e-3, max(1e-3 * reduction, o.get("plateau_min_lr", 5e-5)))
        found.append(rate)
        margin = o.get("plateau_threshold", 0.0) * abs(best) if best < math.inf else 0.0
        if loss < best - margin:
            best, waiting, since = loss, 0, 0
        else:
            waiting, since = waiting + 1, since + 1
            if o["scheduler"] == "ReduceLROnPlateau" and waiting > o.get("plateau_patience", 2):
                reduction, waiting = reduction * o.get("plateau_factor", 0.5), 0
        stops.append(since >= o.get("early_stop_patience", 100))
    return found, stops


def make_training() -> None:
    """Losses that fall, rise, and stay."""
    for case, options in {
        "constant": {"scheduler": "Default", "early_stop_patience": 3},
        "plateau": {"scheduler": "ReduceLROnPlateau", "plateau_patience": 1, "early_stop_patience": 5},
        "plateau, threshold and floor": {"scheduler": "ReduceLROnPlateau", "plateau_patience": 0, "plateau_factor": 0.3,
                                         "plateau_min_lr": 2e-4, "plateau_threshold": 0.05},
        "plateau, floor above": {"scheduler": "ReduceLROnPlateau", "plateau_min_lr": 0.5},
        "warm-up and cosine": {"scheduler": "WarmupCosine", "nepochs": 11, "lr_warmup_epochs": 3},
        "cosine, other ratio": {"scheduler": "WarmupCosine", "nepochs": 13, "lr_min_ratio": 0.25},
        "all warm-up": {"scheduler": "WarmupCosine", "nepochs": 4, "lr_warmup_epochs": 4},
    }.items():  # fmt: skip
        words = ", ".join(f"{key}={value!r}" for key, value in options.items())
        call = f"(lambda one: [(one.learning_rate, one.should_stop(loss)) for loss in {LOSSES}])"
        call = f"{call}(training.Schedule(config.TrainingConfig({words})))"
        fact("learning rates", case, call, np.transpose(rates(LOSSES, **options)))
    negative = [-1.0, -1.02, -1.2, -1.21]
    call = f"[one.should_stop(loss) for loss in {negative}]"
    fact("learning rates", "losses below zero", f"(lambda one: {call})(training.Schedule(config.TrainingConfig("
         "plateau_threshold=0.05, early_stop_patience=1)))",
         rates(negative, scheduler="Default", plateau_threshold=0.05, early_stop_patience=1)[1])  # fmt: skip

    counts, jittered = GIVEN["counts"].astype(float), np.array(GIVEN["jittered"])
    named("stepper", "types.SimpleNamespace(train_step=lambda batch, rate: float(batch.counts.sum(dtype=float)) / "
          "len(batch.inputs) ** 2 * (1 + rate))")  # fmt: skip
    named("fit", "mock.patch.object(training, 'progress_bar', mock.MagicMock())(training.fit)")
    named("fed", "batches.GroupedScan(plain_scan, groups.group_positions(jittered, gridsize=1), None)")
    totals = counts.sum(axis=(1, 2))
    generator, losses = np.random.default_rng(17), []
    found = rates([1.0] * 3, scheduler="WarmupCosine", nepochs=3, lr_warmup_epochs=1)[0]
    for rate in found:
        order, total = generator.permutation(len(jittered)), 0.0
        for start in range(0, len(order), 4):
            chosen = order[start : start + 4]
            total += totals[chosen].sum() / len(chosen) * (1 + rate)
        losses.append(total / len(order))
    options = "config.TrainingConfig(batch_size=4, nepochs=3, seed=17, scheduler='WarmupCosine', lr_warmup_epochs=1)"
    named("history", f"fit(stepper, fed, {options}, 'it')")
    fact("training loop", "losses", "history.losses", losses)
    fact("training loop", "epochs", "[(one.number, one.learning_rate) for one in history.epochs]",
         list(zip((1, 2, 3), found, strict=True)))  # fmt: skip
    fact("training loop", "why it ended", "history.ended", "all epochs done")
    timed = "(lambda start, done: all(0 <= one.seconds <= time.perf_counter() - start for one in done.epochs))"
    fact(
        "training loop",
        "seconds of an epoch",
        f"{timed}(time.perf_counter(), fit(stepper, fed, {options}, 'it'))",
        True,
    )
    fact("training loop", "every epoch is told", "(lambda told: fit(stepper, fed, "
         f"{options}, 'it', told.append) and [one.number for one in told])([])", [1, 2, 3])  # fmt: skip
    stuck = "types.SimpleNamespace(train_step=lambda batch, rate: 1.0)"
    named("stopped", f"fit({stuck}, fed, config.TrainingConfig(nepochs=9, early_stop_patience=2), 'it')")
    fact("training loop", "early stop", "str((len(stopped.epochs), stopped.ended))",
         str((3, "no improvement for 2 epochs")))  # fmt: skip
    for value in ("np.nan", "np.inf"):
        refused(
            "training loop",
            f"loss {value}",
            "FloatingPointError",
            f"fit(types.SimpleNamespace(train_step=lambda batch, rate: {value}), fed, config.TrainingConfig(), 'it')",
        )

    named("kind", "type('Some', (training.NetworkBackend,), dict(name='some', frameworks=(), operators=None, "
          "describe=None, network=lambda *given: types.SimpleNamespace(given=given, train_step=lambda *_: 1.0, "
          "get_weights=lambda: {'w': np.ones(2)}, predict=lambda batch: batch.inputs + 1j)))")  # fmt: skip
    named("light", "{'probe.real': np.zeros((2, 16, 16))}")
    built = "kind().build('config', light{}).given"
    fact("training loop", "all pixels good", f"projected({built.format('')}[2] * 1.0)", projected(np.ones((16, 16))))
    fact("training loop", "good pixels as given", "(lambda got: [got[2].shape, got[2].sum()] == [(16, 16), good.sum()])"
         f"({built.format(', good')})", True)  # fmt: skip
    fact("training loop", "precisions", 
         f"str(({built.format('')}[3], {built.format(', None, ' + repr('float64'))}[3]))",
         str(("float32", "float64")))  # fmt: skip
    refused("training loop", "precision", "ConfigError", built.format(", None, 'float16'"))
    fact("training loop", "what trains knows bad pixels", "(lambda seen: mock.patch.object(kind, 'build', "
         "lambda self, config, weights, good=None: seen.append(good) or kind.network())(kind().infer)("
         "batches.GroupedScan(network_scan, fed.groups), light, config.InferenceConfig(batch_size=4)) is not None and "
         "(seen[0] == good).all().item())([])", True)  # fmt: skip
    named("trained_fit", "mock.patch.object(training, 'progress_bar', mock.MagicMock())(kind().train)")
    fact(
        "training loop",
        "what training gives",
        "(lambda weights, history: str((weights['w'].dtype.str, "
        "len(history.epochs))))(*trained_fit(fed, config.TrainingConfig(nepochs=2), light))",
        str(("<f4", 2)),
    )
    fact("training loop", "inference in order", "(lambda p: [p.itemsize, *p.sum((1, 2, 3))])(kind().infer(fed, light, "
         "config.InferenceConfig(batch_size=5)))",
         [8, *(np.sqrt(counts / (totals.mean() / 64)).sum(axis=(1, 2)) + 256j)], "single")  # fmt: skip
    named("module", "dict(ACTIVATIONS={'relu': lambda x: x * 2}, translate=lambda a, b, n: a + b + (n if isinstance(n, "
          "int) else 100), upsample=lambda x: x + 1)")  # fmt: skip
    named("operators", "training.on_arrays(module, lambda a: np.asarray(a) * 10, lambda a: a + 0.5)")
    fact(
        "training loop",
        "operators on arrays",
        "[operators['relu'](3.0), operators['upsample'](3.0), "
        "operators['translate'](1.0, 2.0, 4), operators['translate'](1.0, 2.0, np.int64(4))]",
        [60.5, 31.5, 34.5, 130.5],
    )
    described = "str([kind().description('1', 'cpu', 2, False)[name] for name in {}])"
    says = {"backend": "some", "version": "1", "device": "cpu", "threads": 2, "deterministic": False}
    fact("training loop", "description", described.format(list(says)), str(list(says.values())))


CONFIGURATION = {
    "model": {"N": 64, "gridsize": 2, "n_filters_scale": 1, "amp_activation": "swish", "object_big": False,
              "probe_big": False, "probe_mask": True, "probe_scale": 3.0},
    "train_data_file": None, "test_data_file": None, "batch_size": 5, "nepochs": 7, "nphotons": None, "n_groups": 9,
    "neighbor_count": 6, "probe_trainable": True, "intensity_scale_trainable": True, "learning_rate": 0.002,
    "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6, "scheduler": "Default", "lr_warmup_epochs": 0,
    "lr_min_ratio": 0.1, "plateau_factor": 0.5, "plateau_patience": 2, "plateau_min_lr": 5e-5,
    "plateau_threshold": 0.0, "early_stop_patience": 100, "seed": 3, "output_dir": "there", "backend": "pytorch",
}  # fmt: skip
"""What the bundle was trained with; nothing about the network is a default."""


PROBE = ("probe.real", "probe.imag")


def packed(
    arrays: dict[str, np.ndarray],
    change: Callable[[dict[str, Any]], Any] = lambda manifest: None,
    *,
    payload: bytes | None = None,
    members: Sequence[tuple[str, bytes]] = (),
    method: int = zipfile.ZIP_DEFLATED,
    dense: bool = False,
) -> np.ndarray:
    """A bundle as bytes, its manifest changed if asked; written with zipfile, json and h5py alone."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name, data=array, track_times=False, compression="gzip" if dense and np.ndim(array) else None
            )
    payload = held.getvalue() if payload is None else payload
    manifest = {
        "format": "ptyint-bundle", "version": 1, "backend": "pytorch", "config": CONFIGURATION,
        "versions": {"python": "3"}, "weights_sha256": hashlib.sha256(payload).hexdigest(), "losses": [2.5, 1.25],
    }  # fmt: skip
    manifest = change(manifest) or manifest
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        written = [("manifest.json", json.dumps(manifest).encode()), ("weights.h5", payload), *members]
        for name, content in dict(written).items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def make_bundle() -> None:
    """One that is right, and many that are not."""
    shapes = shapes_of(layers(64, 1, 4, False, False), 64, 2)
    arrays = {}
    for number, (name, shape) in enumerate(shapes.items()):
        size = math.prod(shape)
        arrays[name] = ((np.arange(size) % 251 - 125 + number) / 256).astype(np.float32).reshape(shape)
    given("bundle_file", packed(arrays))
    loaded = "bundle.load_bundle(file(bundle_file))"
    named("loaded", loaded)
    names = list(arrays)
    fact("bundle", "weights read", f"[projected(loaded.weights[name].astype(float)) for name in {names}]",
         [projected(array.astype(float)) for array in arrays.values()])  # fmt: skip
    fact(
        "bundle",
        "what it says",
        "str((loaded.losses, loaded.manifest['backend'], loaded.config.model.gridsize, "
        "loaded.config.adam_beta2, loaded.config.scheduler))",
        str(([2.5, 1.25], "pytorch", 2, 0.99, "Default")),
    )
    fact("bundle", "the model that was asked for",
         "bundle.load_bundle(file(bundle_file), loaded.config.model).losses", [2.5, 1.25])  # fmt: skip
    refused("bundle", "another model", "BundleError", "bundle.load_bundle(file(bundle_file), config.ModelConfig())")
    fact("bundle", "in its folder", "bundle.load_bundle(file(bundle_file, 'wts.h5.zip').parent).losses", [2.5, 1.25])
    named("saved", "bundle.save_bundle(file(bundle_file, 'saved.zip'), loaded.weights, loaded.config, 'numpy', [3, 2])")
    named("archive", "zipfile.ZipFile(io.BytesIO(saved.read_bytes()))")
    named("manifest", "json.loads(archive.read('manifest.json'))")
    named("stored", "h5py.File(io.BytesIO(archive.read('weights.h5')))")
    fact("bundle", "weights written", f"[projected(stored[name][()].astype(float)) for name in {names}]",
         [projected(array.astype(float)) for array in arrays.values()])  # fmt: skip
    fact("bundle", "dtypes written", "str({one.dtype.str for one in stored.values()})", str({"<f4"}))
    unchangeable("bundle", "bundle.Bundle")
    fact("bundle", "members", "str(sorted(archive.namelist()))", str(["manifest.json", "weights.h5"]))
    fact("bundle", "manifest", "str((manifest['format'], manifest['version'], manifest['backend'], manifest['losses'], "
         "sorted(manifest), sorted(manifest['versions'])[:3]))",
         str(("ptyint-bundle", 1, "numpy", [3.0, 2.0],
              ["backend", "config", "format", "losses", "version", "versions", "weights_sha256"],
              ["h5py", "numpy", "ptyint"])))  # fmt: skip
    fact("bundle", "configuration written", "json.dumps(manifest['config'], sort_keys=True)",
         json.dumps(CONFIGURATION, sort_keys=True))  # fmt: skip
    fact("bundle", "digest written",
         "manifest['weights_sha256'] == hashlib.sha256(archive.read('weights.h5')).hexdigest()", True)  # fmt: skip
    fact("bundle", "name in a folder", "bundle.save_bundle(folder, loaded.weights, loaded.config, 'x').name",
         "wts.h5.zip")  # fmt: skip
    fact("bundle", "no losses", "str(bundle.load_bundle(bundle.save_bundle(folder, loaded.weights, loaded.config, 'x'))"
         ".losses)", "[]")  # fmt: skip

    def without(key: str) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest.pop(key) and None

    def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest.update(values)

    early = given("no_losses", packed(arrays, without("losses")))
    del early
    fact("bundle", "losses of an early version", "str(bundle.load_bundle(file(no_losses)).losses)", "[]")
    first = next(iter(arrays))
    tiny = {**arrays, first: arrays[first] * 0}
    bent = {**arrays, first: arrays[first][..., :-1]}
    holed = {**arrays, first: np.where(arrays[first] == arrays[first].max(), np.float32(np.nan), arrays[first])}
    for case, content in {
        "another digest": packed(tiny, changed(weights_sha256="0" * 64)),
        "another format": packed(arrays, changed(format="other")),
        "another version": packed(arrays, changed(version=2)),
        "no backend": packed(arrays, without("backend")),
        "no versions": packed(arrays, without("versions")),
        "configuration of a wrong type": packed(arrays, changed(config=[])),
        "losses of a wrong type": packed(arrays, changed(losses=["low"])),
        "losses that are no list": packed(arrays, changed(losses=2.5)),
        "manifest that is no mapping": packed(arrays, lambda manifest: [1]),
        "configuration that is not valid": packed(arrays, changed(config={**CONFIGURATION, "batch_size": 0})),
        "foreign member": packed(arrays, members=[("more.txt", b"1")]),
        "manifest that is no JSON": packed(arrays, members=[("manifest.json", b"{")]),
        "not deflated": packed(arrays, payload=b"none", method=zipfile.ZIP_STORED),
        "weights that are no HDF5": packed(arrays, payload=b"none"),
        "misshapen weight": packed(bent),
        "NaN": packed(holed),
        "double precision": packed({**arrays, first: arrays[first].astype(float)}),
        "weight missing": packed({name: array for name, array in arrays.items() if name != first}),
        "weight unknown": packed({**arrays, "more": arrays[first]}),
        "probe without modes": packed({**arrays, **{name: arrays[name][:0] for name in PROBE}}),
        "probe of two dimensions": packed({**arrays, **{name: arrays[name][0] for name in PROBE}}),
        "probe of other modes": packed({**arrays, "probe.imag": arrays["probe.imag"][:1]}),
        "no probe": packed({name: array for name, array in arrays.items() if name != "probe.real"}),
        "declares more than it holds": packed({name: array * 0 for name, array in arrays.items()}, dense=True),
        "manifest too large": packed(arrays, changed(more="." * 2**20)),
    }.items():  # fmt: skip
        name = f"bundle_{case.replace(' ', '_')}"
        given(name, content)
        refused("bundle", case, "BundleError", f"bundle.load_bundle(file({name}))")
    models = {"loaded.config.model": (1, 4, False, False), "config.ModelConfig()": (2, 1, True, True),
              "config.ModelConfig(n_filters_scale=64)": (64, 1, True, True)}  # fmt: skip
    each = [shapes_of(layers(64, *options), 64, 64).values() for options in models.values()]
    room = [2**16 + sum(2**12 + 4 * math.prod(shape) for shape in shapes) for shapes in each]
    fact("bundle", "most bytes that are unpacked", f"[bundle._most_bytes(one) for one in ({', '.join(models)})]",
         [min(2**31, one) for one in room])  # fmt: skip
    refused("bundle", "cut short", "BundleError", "bundle.load_bundle(file(bundle_file[:-100]))")
    refused(
        "bundle",
        "corrupt",
        "BundleError",
        "bundle.load_bundle(file(np.where(np.arange(bundle_file.size) == 9000, bundle_file ^ 255, bundle_file)))",
    )
    refused("bundle", "not there", "BundleError", "bundle.load_bundle(folder / 'none.zip')")
    refused("bundle", "to be written", "BundleError",
            f"bundle.save_bundle(folder, {{**loaded.weights, {first!r}: np.ones(3)}}, loaded.config, 'x')",
            f"bundle.save_bundle(folder, {{**loaded.weights, {first!r}: loaded.weights[{first!r}] * np.nan}}, "
            "loaded.config, 'x')", "bundle.save_bundle(folder, {}, loaded.config, 'x')")  # fmt: skip


def make_dispatcher() -> None:
    """What is asked for a second time, in one process, is not what it was the first time; nothing asked for is lost."""
    named("echo", "types.SimpleNamespace(name='it', capabilities={'weights'}, train=lambda data, config, first, *_: "
          "(first, None), infer=lambda part, weights, config: np.ones((1, 1, 64, 64), 'c8'))")  # fmt: skip
    named("through", "lambda call: mock.patch.multiple(dispatcher, update_legacy_dict=lambda *_: None, "
          "backends=types.SimpleNamespace(load=lambda name: echo, BUILT_IN=()))(call)")  # fmt: skip
    named("lit", "lambda by: scan.Scan(np.ones((14, 64, 64)), jittered, by)")
    named("written_again", "lambda value: bundle.save_bundle(folder, {**loaded.weights, 'log_intensity_scale': "
          "np.float32(value)}, loaded.config, 'x')")  # fmt: skip
    fact("dispatcher", "weights of a file that was written again",
         "[float(through(dispatcher.infer)(lit(beam_64_1), config.InferenceConfig(loaded.config.model, "
         "model_path=written_again(value))).weights['log_intensity_scale']) for value in (0.5, 0.25)]",
         [0.5, 0.25])  # fmt: skip
    fact("dispatcher", "first weights of a second scan",
         "projected([through(dispatcher.train)(lit(by), config.TrainingConfig(config.ModelConfig("
         "n_filters_scale=1))).weights['probe.real'] for by in (np.ones((1, 64, 64), 'c8'), beam_64_1)]"
         "[1].astype(float))",
         projected(normal(beam(64, 1), 4.0).real), "single")  # fmt: skip
    named("when_loaded", "lambda settings: mock.patch.object(dispatcher, 'backends', types.SimpleNamespace(load=lambda "
          "name: dict(config.params.cfg)))(lambda: mock.patch.dict(config.params.cfg, N=256, nphotons=5.0, gridsize=3)("
          "lambda: dispatcher.select_backend(settings))())()")  # fmt: skip
    fact("dispatcher", "params.cfg when the backend is loaded", "str([when_loaded(config.TrainingConfig("
         "config.ModelConfig(gridsize=2, object_big=False), nepochs=7, probe_trainable=True))[key] for key in ('N', "
         "'gridsize', 'object.big', 'nepochs', 'probe.trainable', 'nphotons')])",
         "[64, 2, False, 7, True, 5.0]")  # fmt: skip
    named("applied", "config.TrainingConfig(config.ModelConfig(gridsize=2, n_filters_scale=1), neighbor_count=7, "
          "seed=5, backend='pytorch').applied(M=12, batch_size=3)")  # fmt: skip
    fact("dispatcher", "how a trained model is applied", "str([applied.neighbor_count, applied.seed, applied.backend, "
         "applied.M, applied.batch_size, applied.model.gridsize])", "[7, 5, 'pytorch', 12, 3, 2]")  # fmt: skip
    named("data_of", "{'training': lambda: through(dispatcher.train)(lit(beam_64_1), config.TrainingConfig("
          "applied.model, n_groups=9, neighbor_count=5, seed=6)), 'inference': lambda: through(dispatcher.infer)("
          "lit(beam_64_1), applied, loaded.weights).data}")  # fmt: skip
    jittered = np.array(GIVEN["jittered"])
    fact("dispatcher", "groups of a training", "data_of['training']().groups.indices", grouped(jittered, 2, 9, 5, 6)[0])
    fact("dispatcher", "groups of an inference", "data_of['inference']().groups.indices",
         grouped(jittered, 2, None, 7, 5)[0])  # fmt: skip
    fact("dispatcher", "counts of an inference", "data_of['inference']().mean_total_counts", 4096.0)
    other = "config.InferenceConfig(config.ModelConfig(n_filters_scale=1), model_path=written_again(0.5))"
    refused("dispatcher", "another model's file", "BundleError", f"through(dispatcher.infer)(lit(beam_64_1), {other})")
    named("telling", "types.SimpleNamespace(name='it', capabilities={'weights'}, infer=lambda part, *_: "
          "part.groups.indices.astype('c8'))")  # fmt: skip
    named("in_parts", "lambda: [float(one) for some in dispatcher.infer(lit(beam_64_1), config.InferenceConfig("
          "batch_size=4), {}, keep=False).batches for one in some.real.ravel()]")  # fmt: skip
    fact("dispatcher", "parts of an inference, in order", "mock.patch.multiple(dispatcher, update_legacy_dict=lambda "
         "*_: None, backends=types.SimpleNamespace(load=lambda name: telling))(mock.patch.object(batches, "
         "'PATCH_PIXELS', 1)(in_parts))()", range(14))  # fmt: skip
    for true, big in ((True, False), (False, True)):
        model = {"N": 128, "gridsize": 2, "n_filters_scale": 3, "amp_activation": "relu", "object_big": True,
                 "probe_big": big, "probe_mask": true, "probe_scale": 3.5}  # fmt: skip
        settings = {"train_data_file": "a", "test_data_file": "b", "batch_size": 5, "nepochs": 6, "nphotons": 7.5,
                    "n_groups": 8, "neighbor_count": 9, "probe_trainable": true, "intensity_scale_trainable": big,
                    "seed": 10, "output_dir": "c", "backend": "pytorch"}  # fmt: skip
        renamed = {"object_big": "object.big", "probe_big": "probe.big", "probe_mask": "probe.mask", "probe_trainable":
                   "probe.trainable", "intensity_scale_trainable": "intensity_scale.trainable", "train_data_file":
                   "train_data_file_path", "test_data_file": "test_data_file_path",
                   "output_dir": "output_prefix"}  # fmt: skip
        expected = {renamed.get(name, name): value for name, value in (model | settings).items()}
        made = f"config.from_mapping(config.TrainingConfig, {dict(model=model, **settings)})"
        values = f"{{k: v for k, v in config.legacy_values({made}).items() if k in {[*expected]}}}"
        fact("dispatcher", f"legacy values, probe.mask {true}", f"json.dumps({values}, sort_keys=True)",
             json.dumps(expected, sort_keys=True))  # fmt: skip
