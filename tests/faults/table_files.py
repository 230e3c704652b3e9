"""Damaged files: changed bits, lost ends, and whole files of the wrong shape. Each is named."""

import shutil
from typing import Any

import numpy as np
import pytest
from fault import (
    ABLATE,
    SYNTHESIZE,
    TINY_GAN,
    WITH_SYNTHETIC,
    Arrange,
    Fault,
    Place,
    changed,
    cut,
    empty,
    flip,
    removed,
    resaved,
    together,
)

from balancer.core.jsonl import append_jsonl, read_jsonl
from balancer.core.sealed import write_with_sum, write_yaml
from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset

RESUME = "balancer gan-train --resume {gan}"
READ = f"balancer gan-train --data {{chest}} {TINY_GAN} --dry-run"
PREDICT = "classifier predict {trained} {chest}/test/NORMAL/IM-0003-0001.png"
EVALUATE = "classifier evaluate {trained} --data {chest}"
THRESHOLDS = "classifier thresholds {study}"
RESUME_STUDY = "classifier ablate --resume {study}"
ENSEMBLE = "classifier ensemble {study}"
WITH_TWO_SETS = ABLATE.replace("baseline", "gan") + " --synthetic {synthesis} --synthetic-count 4 --synthetic"


def unfinished(*arranges: Arrange) -> Arrange:
    """Return a fault of a GAN run that was killed in its last moment."""
    return together(removed("gan", "done"), *arranges)


def written(room: str, file: str, text: str) -> Arrange:
    """Return a fault: a file holds this text."""
    return lambda place, _patch: (place[room] / file).write_text(text)


def cached(file: str, change: Any) -> Arrange:
    """Return a fault: a file of the decoded cache is damaged."""

    def arrange(place: Place, patch: pytest.MonkeyPatch) -> None:
        place["cache"] = place.root / "cache"
        patch.setenv("BALANCER_CACHE", str(place["cache"]))
        load_dataset(DataConfig(path=str(place["chest"]), image_size=16))
        changed("cache", f"**/{file}", change)(place, patch)

    return arrange


def best_settings(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Leave the settings that a search found, with one digit changed."""
    path = place["here"] / "best.yaml"
    write_yaml(path, "classifier:\n  learning_rate: 0.001\n")
    path.write_text(path.read_text().replace("0.001", "0.002"))


def first_not_finite(weights: dict[str, Any]) -> None:
    """Make one weight NaN."""
    weight = next(value for value in weights.values() if value.is_floating_point())
    weight[(0,) * weight.ndim] = float("nan")


def lost_tensor(weights: dict[str, Any]) -> None:
    weights.pop(next(iter(weights)))


def not_finite(arrays: dict[str, np.ndarray]) -> None:
    """Make one score of each array NaN."""
    for value in arrays.values():
        if value.dtype.kind == "f":
            value.flat[0] = np.nan


def set_key(key: str, value: Any) -> Any:
    return lambda content: content.__setitem__(key, value)


def both(change: Any) -> Arrange:
    """Damage each file that holds the generator."""
    return together(*(changed("gan", file, change) for file in ("best.pt", "checkpoint.pt")))


def text(content: str) -> Any:
    return lambda _old: content.encode()


def without_values(content: dict[str, Any]) -> None:
    """Leave shapes and types of the weights, and no values."""
    content["state"] = {key: value.to("meta") for key, value in content["state"].items()}


def copied(source: str, file: str, target: str) -> Arrange:
    """Return a fault: a file is that of another run."""
    return lambda place, _patch: shutil.copy(place[source] / file, place[target] / file)


def other_split(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Let the split be another one, under a sum that fits."""
    path = place["study"] / "split.csv"
    write_with_sum(path, path.read_text().replace(",train,", ",val,", 1))


def other_results(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Let the results be those of a study with another second row, under seals that fit."""
    path = place["study"] / "results.jsonl"
    rows = read_jsonl(path)
    path.unlink()
    for row in (rows[0], {**rows[1], "seconds": 0.5}):
        append_jsonl(path, row)


def doubled(content: bytes) -> bytes:
    """Add each row of a manifest a second time."""
    return content + b"".join(content.splitlines(keepends=True)[1:])


def manifest(change: Any) -> Arrange:
    """Change a manifest as a user's own program would: without its sum."""
    return together(changed("synthesis", "manifest.csv", change), removed("synthesis", "manifest.csv.sha256"))


def copied_set(place: Place, _patch: pytest.MonkeyPatch) -> None:
    """Make a set pass as one of unknown origin."""
    shutil.copytree(place["synthesis"], place["here"] / "copy")
    (place["here"] / "copy" / "report.json").unlink()


FILES = [
    # A GAN run
    Fault("best.pt flipped", SYNTHESIZE, changed("gan", "best.pt", flip), 0, ("best.pt", "checkpoint.pt"), ("run",)),
    Fault("generators flipped", SYNTHESIZE, both(flip), 1, ("best.pt",)),
    Fault("generators cut", SYNTHESIZE, both(cut), 1, ("best.pt",)),
    Fault("generators empty", SYNTHESIZE, both(empty), 1, ("best.pt",)),
    Fault(
        "generators not finite",
        SYNTHESIZE,
        together(
            resaved("gan", "best.pt", lambda content: first_not_finite(content["G_ema"])),
            resaved("gan", "checkpoint.pt", lambda content: first_not_finite(content["G_ema"])),
        ),
        1,
        ("best.pt", "G_ema", "not finite"),
    ),
    Fault("GAN settings flipped", SYNTHESIZE, changed("gan", "config.yaml", flip), 1, ("config.yaml",)),
    Fault("checkpoint flipped", RESUME, unfinished(changed("gan", "checkpoint.pt", flip)), 1, ("checkpoint.pt",)),
    Fault("tracking cut", RESUME, unfinished(written("gan", "tracking.json", '{"backends"')), 1, ("tracking.json",)),
    Fault("checkpoint cut", RESUME, unfinished(changed("gan", "checkpoint.pt", cut)), 1, ("checkpoint.pt",)),
    Fault("checkpoint empty", RESUME, unfinished(changed("gan", "checkpoint.pt", empty)), 1, ("checkpoint.pt",)),
    Fault(
        "checkpoint without a part",
        RESUME,
        unfinished(resaved("gan", "checkpoint.pt", lambda content: content.pop("D"))),
        1,
        ("checkpoint.pt", "D: missing"),
    ),
    Fault(
        "checkpoint without a tensor",
        RESUME,
        unfinished(resaved("gan", "checkpoint.pt", lambda content: lost_tensor(content["G"]))),
        1,
        ("checkpoint.pt", "G."),
    ),
    Fault(
        "checkpoint of a wrong type",
        RESUME,
        unfinished(resaved("gan", "checkpoint.pt", set_key("step", "two"))),
        1,
        ("checkpoint.pt", "step"),
    ),
    Fault(
        "settings are a list", RESUME, unfinished(changed("gan", "config.yaml", text("[1, 2]\n"))), 1, ("config.yaml",)
    ),
    Fault("settings empty", RESUME, unfinished(changed("gan", "config.yaml", empty)), 1, ("config.yaml",)),
    Fault("environment cut", RESUME, unfinished(changed("gan", "env.json", cut)), 1, ("env.json",)),
    Fault("metrics flipped", RESUME, unfinished(changed("gan", "metrics.jsonl", flip)), 0, ("metrics.jsonl: line ",)),
    Fault(
        "metrics without a step",
        RESUME,
        unfinished(resaved("gan", "metrics.jsonl", lambda rows: rows[0].pop("step"))),
        1,
        ("metrics.jsonl", "step"),
    ),
    Fault(
        "metrics of a finished GAN lack a row",
        SYNTHESIZE,
        resaved("gan", "metrics.jsonl", lambda rows: rows.pop()),
        1,
        ("metrics.jsonl", "done"),
    ),
    Fault("metrics of a finished GAN gone", SYNTHESIZE, removed("gan", "metrics.jsonl"), 1, ("metrics.jsonl",)),
    Fault("marker flipped", SYNTHESIZE, changed("gan", "done", flip), 1, ("done",)),
    Fault("environment of a study", SYNTHESIZE, copied("study", "env.json", "gan"), 1, ("env.json",)),
    Fault(
        "checkpoint of a newer version",
        RESUME,
        unfinished(resaved("gan", "checkpoint.pt", set_key("format", 99))),
        1,
        ("checkpoint.pt", "newer version", "99"),
    ),
    Fault("GAN of other settings", f"{RESUME} --steps 4", removed("gan", "done"), 1, ("steps", "2", "4")),
    Fault("settings of a synthesis cut", WITH_SYNTHETIC, changed("synthesis", "config.yaml", cut), 1, ("config.yaml",)),
    Fault("report of a synthesis cut", WITH_SYNTHETIC, changed("synthesis", "report.json", cut), 1, ("report.json",)),
    Fault("report is a list", WITH_SYNTHETIC, changed("synthesis", "report.json", text("[]")), 1, ("report.json",)),
    # The cache
    Fault("decoded pixels flipped", READ, cached("images.npy", flip), 0, ("images.npy",)),
    Fault("decoded pixels cut", READ, cached("images.npy", cut), 0, ("images.npy",)),
    Fault("decoded pixels empty", READ, cached("images.npy", empty), 0, ("images.npy",)),
    Fault("description of the cache torn", READ, cached("meta.json", cut), 0, ("meta.json",)),
    Fault("description of the cache a list", READ, cached("meta.json", text("[]")), 0, ("meta.json",)),
    # A classifier
    Fault("model flipped", PREDICT, changed("trained", "model.pt", flip), 1, ("model.pt",)),
    Fault("model cut", PREDICT, changed("trained", "model.pt", cut), 1, ("model.pt",)),
    Fault("model empty", EVALUATE, changed("trained", "model.pt", empty), 1, ("model.pt",)),
    Fault(
        "model not finite",
        PREDICT,
        resaved("trained", "model.pt", lambda content: first_not_finite(content["state"])),
        1,
        ("model.pt", "not finite"),
    ),
    Fault(
        "model without a tensor",
        PREDICT,
        resaved("trained", "model.pt", lambda content: lost_tensor(content["state"])),
        1,
        ("model.pt", "missing"),
    ),
    Fault("model is other content", EVALUATE, resaved("trained", "model.pt", lambda c: c.clear()), 1, ("model.pt",)),
    Fault(
        "temperature not finite",
        PREDICT,
        resaved("trained", "model.pt", set_key("temperature", float("nan"))),
        1,
        ("model.pt", "temperature"),
    ),
    Fault(
        "threshold a word",
        EVALUATE,
        resaved("trained", "model.pt", set_key("threshold", "half")),
        1,
        ("model.pt", "threshold"),
    ),
    Fault(
        "model of a newer version",
        PREDICT,
        resaved("trained", "model.pt", set_key("format", 99)),
        1,
        ("model.pt", "newer version", "99"),
    ),
    Fault(
        "model has no values",
        PREDICT,
        resaved("trained", "model.pt", without_values),
        1,
        ("model.pt", "state."),
    ),
    Fault("model compared", "classifier compare {trained}", changed("trained", "model.pt", flip), 1, ("model.pt",)),
    Fault("model of a GAN", PREDICT.replace("{trained}", "{gan}/best.pt"), exit_code=1, words=("best.pt",)),
    Fault("model is an image", "classifier evaluate {chest}/test/NORMAL/IM-0003-0001.png", words=("0001.png",)),
    Fault("no model", "classifier evaluate {here}/none", words=("here/none",)),
    # An ablation
    Fault("row of results flipped", THRESHOLDS, changed("study", "results.jsonl", flip), 1, ("results.jsonl",)),
    Fault("results cut", ENSEMBLE, changed("study", "results.jsonl", cut), 1, ("results.jsonl",)),
    Fault(
        "row of results without scores",
        THRESHOLDS,
        resaved("study", "results.jsonl", lambda rows: rows[0].pop("test")),
        1,
        ("results.jsonl", "test"),
    ),
    Fault(
        "row of results gone",
        ENSEMBLE,
        resaved("study", "results.jsonl", lambda rows: rows.pop()),
        1,
        ("results.jsonl",),
    ),
    Fault("environment of a GAN", ENSEMBLE, copied("gan", "env.json", "study"), 1, ("env.json",)),
    Fault("environment of a training", THRESHOLDS, copied("trained", "env.json", "study"), 1, ("env.json",)),
    Fault("split of another study", THRESHOLDS, other_split, 1, ("split.csv",)),
    Fault("results of another study", ENSEMBLE, other_results, 1, ("results.jsonl",)),
    Fault("predictions flipped", THRESHOLDS, changed("study", "**/predictions.npz", flip), 1, ("predictions.npz",)),
    Fault("predictions empty", ENSEMBLE, changed("study", "**/predictions.npz", empty), 1, ("predictions.npz",)),
    Fault(
        "predictions not finite",
        THRESHOLDS,
        resaved("study", "**/predictions.npz", not_finite),
        1,
        ("predictions.npz",),
    ),
    Fault(
        "settings of a study cut",
        RESUME_STUDY,
        together(removed("study", "done"), changed("study", "config.yaml", cut)),
        1,
        ("config.yaml",),
    ),
    Fault(
        "best.yaml changed", f"{ABLATE} --config {{here}}/best.yaml", best_settings, 1, ("best.yaml",), ("best.yaml",)
    ),
    # A synthesis
    Fault("manifest flipped", WITH_SYNTHETIC, changed("synthesis", "manifest.csv", flip), 1, ("manifest.csv",)),
    Fault("synthetic image flipped", WITH_SYNTHETIC, changed("synthesis", "images/*/*0.png", flip), 1, (".png",)),
    Fault("manifest twice", WITH_SYNTHETIC, manifest(doubled), 1, ("manifest.csv", "line 6", "index")),
    Fault(
        "row outside the set",
        WITH_SYNTHETIC,
        manifest(lambda content: content.replace(b"images/", b"../images/", 1)),
        1,
        ("manifest.csv", "../images"),
    ),
    Fault(
        "manifest with semicolons",
        WITH_SYNTHETIC,
        manifest(lambda c: c.replace(b",", b";")),
        1,
        ("manifest.csv", "';'"),
    ),
    Fault("manifest empty", WITH_SYNTHETIC, manifest(empty), 1, ("manifest.csv",)),
    Fault("no manifest", WITH_SYNTHETIC, removed("synthesis", "manifest.csv"), 1, ("manifest.csv",)),
    Fault("manifest from Excel", WITH_SYNTHETIC, manifest(lambda c: b"\xef\xbb\xbf" + c), 0, (), ("run",)),
    Fault(
        "one set twice",
        f"{WITH_TWO_SETS} {{synthesis}}",
        exit_code=1,
        words=("one generator",),
    ),
    Fault("copy of a set", f"{WITH_TWO_SETS} {{here}}/copy", copied_set, 1, ("one generator",), ("copy",)),
]
