"""Saved classifiers: the same numbers as in training, labels by the threshold, clear refusals."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from commands import refused, sets, words
from PIL import Image
from planted import Trap

from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json
from balancer.data.dataset import Dataset
from balancer.data.images import read_image
from classifier.training.checkpoint import load_classifier

Run = Callable[..., Result]
Args = tuple[str, ...]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def training(small_args: Args, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The run directory of one small training, and the lines that it printed."""
    from classifier.cli import main

    out = tmp_path_factory.mktemp("trained") / "run"
    options = ["train", *small_args, "--regime", "duplicate_augment", "--seed", "3", "--out", str(out)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    return out, result.stdout.splitlines()


@pytest.fixture(scope="module")
def trained(training: tuple[Path, list[str]]) -> Path:
    return training[0]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five images of several kinds, and files that are none."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for i, (mode, suffix) in enumerate([("L", "png"), ("RGB", "jpg"), ("L", "jpeg"), ("RGBA", "png"), ("L", "bmp")]):
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        pixels = rng.integers(0, 256, (30 + i, 25, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    return folder


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


# ---------------------------------------------------------------- evaluate


def test_evaluate_repeats_the_training_report(trained: Path, classifier: Run) -> None:
    row = read_json(trained / "result.json")
    for fold in ("test", "val"):
        result = answer(classifier("evaluate", trained, "--fold", fold, "--json", "-q"))
        assert {k: result[k] for k in row[fold]} == row[fold]
        assert (result["regime"], result["trial_seed"], result["fold"]) == ("duplicate_augment", 3, fold)
    text = classifier("evaluate", trained / "model.pt", "-q").stdout
    assert "duplicate_augment, seed 3, test n = 26" in text
    assert f"auroc {row['test']['auroc']:.4f}" in text
    assert "TN {} FP {} FN {} TP {}".format(*row["test"]["at_threshold"]["confusion"]) in text


def test_train_prints_what_evaluate_prints(training: tuple[Path, list[str]], classifier: Run) -> None:
    trained, printed = training
    assert printed[:-1] == classifier("evaluate", trained, "-q").stdout.splitlines()[:-1]
    assert f"classifier predict {trained}" in printed[-1], "the closing line names the next command"


def test_a_training_leaves_a_whole_run(trained: Path) -> None:
    assert words("config.yaml env.json split.csv metrics.jsonl model.pt predictions.npz result.json done") <= {
        p.name for p in trained.iterdir()
    }
    row = read_json(trained / "result.json")
    metrics = read_jsonl(trained / "metrics.jsonl")
    assert metrics == row["history"]


def test_a_finished_training_is_left_alone(trained: Path, classifier: Run) -> None:
    before = (trained / "model.pt").stat().st_mtime_ns
    result = classifier("train", "--resume", trained, "-q")
    assert result.exit_code == 0, result.output
    assert "is finished already; nothing to do" in result.stdout
    assert (trained / "model.pt").stat().st_mtime_ns == before


def test_other_data_are_said_to_be_others(trained: Path, chest_folder: Path, classifier: Run) -> None:
    for file in list((chest_folder / "train" / "NORMAL").iterdir())[:3]:
        file.unlink()
    result = classifier("evaluate", trained, "--data", chest_folder, "--json")
    assert "are not those of the training" in result.stderr
    assert answer(result)["n"] == 26
    for fold in ("train", "val"):
        refused(classifier("evaluate", trained, "--data", chest_folder, "--fold", fold), 1, "--fold test")


def test_a_copy_elsewhere_is_the_same_data(trained: Path, chest_folder: Path, classifier: Run) -> None:
    result = classifier("evaluate", trained, "--data", chest_folder, "--fold", "val", "--json")
    assert "are not those" not in result.stderr
    assert answer(result)["auroc"] == read_json(trained / "result.json")["val"]["auroc"]


def test_checkpoints_of_an_ablation_load(small_args: Args, classifier: Run, tmp_path: Path, pictures: Path) -> None:
    options = ("--regimes", "augment", "--seeds", "1", "--set", "model=s2_cnn", "--out", tmp_path / "run")
    assert classifier("ablate", *small_args, *options).exit_code == 0
    row = read_json(tmp_path / "run" / "results.jsonl")
    result = answer(classifier("evaluate", tmp_path / "run" / row["folder"], "--json", "-q"))
    assert result["auroc"] == row["test"]["auroc"]
    assert result["regime"] == "augment"
    assert len(answer(classifier("predict", tmp_path / "run" / row["folder"], pictures, "--json"))["predictions"]) == 5


# ---------------------------------------------------------------- predict


def calibrated(score: np.ndarray, temperature: float) -> np.ndarray:
    """The odds to the power of 1 / temperature, as probabilities."""
    odds = (score / (1 - score)) ** (1 / temperature)
    return odds / (1 + odds)


def test_predict_gives_label_probability_and_threshold(trained: Path, pictures: Path, classifier: Run) -> None:
    file = pictures / "1.jpg"
    result = answer(classifier("predict", trained, file, "--json"))
    loaded = load_classifier(trained, CPU)
    pixels = torch.from_numpy(read_image(file, 16, "squash").copy()).float()
    pixels = (pixels - pixels.mean()) / pixels.std()
    with torch.no_grad():
        expected = float((loaded.model(pixels[None, None]) / loaded.temperature).sigmoid())
    (row,) = result["predictions"]
    assert row["file"] == str(file)
    assert row["probability_pneumonia"] == pytest.approx(expected, abs=1e-3)
    assert row["label"] == ("PNEUMONIA" if row["probability_pneumonia"] >= result["threshold"] else "NORMAL")
    test = read_json(trained / "result.json")["test"]
    assert result["threshold"] == test["threshold"]
    expected = calibrated(np.array([test["uncalibrated_threshold"]]), loaded.temperature)[0]
    assert result["threshold"] == pytest.approx(expected)
    assert "not a medical device" in result["note"]


def test_predict_agrees_with_the_saved_scores(
    trained: Path, small_data: Dataset, template: Path, classifier: Run
) -> None:
    """The files of the test fold, one by one, against predictions.npz."""
    with np.load(trained / "predictions.npz") as saved:
        index, score = saved["test_index"], saved["test_score"]
    files = [template / small_data.records[i].name for i in index]
    rows = answer(classifier("predict", trained, *files, "--json"))["predictions"]
    assert [r["file"] for r in rows] == [str(f) for f in files]
    expected = calibrated(score, load_classifier(trained, CPU).temperature)
    assert [r["probability_pneumonia"] for r in rows] == pytest.approx(expected.tolist(), abs=1e-6)


def test_predict_on_a_folder_reads_its_images_only(trained: Path, pictures: Path, classifier: Run) -> None:
    result = classifier("predict", trained, pictures)
    assert result.exit_code == 0, result.output
    *rows, last, closing = result.stdout.splitlines()
    assert "classifier explain" in closing
    assert [Path(r.split()[-1]).name for r in rows] == ["0.png", "1.jpg", "2.jpeg", "3.png", "4.bmp"]
    assert last.startswith("threshold ")
    assert "chosen on validation" in last
    assert "not a medical device" in last


def test_an_image_is_judged_alone(trained: Path, pictures: Path, classifier: Run) -> None:
    together = answer(classifier("predict", trained, pictures, "--json"))["predictions"]
    alone = answer(classifier("predict", trained, pictures / "3.png", "--json"))["predictions"]
    assert together[3]["probability_pneumonia"] == pytest.approx(alone[0]["probability_pneumonia"], abs=1e-6)


def test_a_given_threshold_decides(trained: Path, pictures: Path, classifier: Run) -> None:
    for threshold, label in ((0, "PNEUMONIA"), (1, "NORMAL")):
        result = answer(classifier("predict", trained, pictures, "--threshold", threshold, "--json"))
        assert {r["label"] for r in result["predictions"]} == {label}
        assert result["threshold"] == threshold
    row = answer(classifier("predict", trained, pictures / "0.png", "--json"))["predictions"][0]
    at = answer(
        classifier("predict", trained, pictures / "0.png", "--threshold", repr(row["probability_pneumonia"]), "--json")
    )
    assert at["predictions"][0]["label"] == "PNEUMONIA", "the threshold itself is positive"
    assert "(given)" in classifier("predict", trained, pictures, "--threshold", "0.5").stdout
    for value in ("1.5", "-0.1", "nan", "inf", "-inf"):
        refused(classifier("predict", trained, pictures, "--threshold", value), 2, "--threshold")


def test_one_threshold_everywhere(
    training: tuple[Path, list[str]], small_data: Dataset, template: Path, classifier: Run
) -> None:
    """What train and evaluate print decides, given to predict, as the trained classifier does."""
    trained, printed = training
    (chosen,) = (
        line.split()[1].rstrip(":") for line in printed[-5:] if line.startswith("threshold ") and "0.5:" not in line
    )
    assert float(chosen) == answer(classifier("evaluate", trained, "--json", "-q"))["threshold"]
    with np.load(trained / "predictions.npz") as saved:
        index, score = saved["test_index"], saved["test_score"]
    files = [template / small_data.records[i].name for i in index]
    threshold = read_json(trained / "result.json")["test"]["uncalibrated_threshold"]
    expected = ["PNEUMONIA" if s >= threshold else "NORMAL" for s in score]
    for options in ((), ("--threshold", chosen)):
        result = answer(classifier("predict", trained, *files, *options, "--json"))
        assert [row["label"] for row in result["predictions"]] == expected
        assert result["threshold"] == float(chosen)


def test_a_temperature_that_ties_probabilities_changes_no_label(
    trained: Path, small_data: Dataset, template: Path, classifier: Run, tmp_path: Path
) -> None:
    """At a temperature of .05 every score from .9 on is 1.0: the threshold still parts them."""

    def sharpen(content: dict[str, Any]) -> None:
        content["temperature"] = 0.05
        content["threshold"] = float(np.median(score))
        content["state"]["head.1.bias"] += shift

    with np.load(trained / "predictions.npz") as saved:
        index, score = saved["test_index"], saved["test_score"]
    odds = score / (1 - score)
    shift = float(np.log(20) - np.log(odds.min()))  # the least score becomes 20 / 21
    odds = odds * np.exp(shift)
    score = odds / (1 + odds)
    path = changed(trained, tmp_path / "sharp.pt", sharpen)
    files = [template / small_data.records[i].name for i in index]
    expected = ["PNEUMONIA" if s >= np.median(score) else "NORMAL" for s in score]
    for options in ((), ("--threshold", "1.0")):
        result = answer(classifier("predict", path, *files, *options, "--json"))
        assert {row["probability_pneumonia"] for row in result["predictions"]} == {1.0}
        assert [row["label"] for row in result["predictions"]] == expected
    text = classifier("predict", path, *files).stdout
    assert "threshold 1.0" in text
    assert "0.05" in text
    assert "Temperature 0.05" in classifier("evaluate", path, "-q").stdout


def test_no_probability_is_printed_that_is_not_finite(
    trained: Path, pictures: Path, classifier: Run, tmp_path: Path
) -> None:
    path = changed(trained, tmp_path / "nan.pt", lambda content: content["state"]["head.1.bias"].fill_(float("nan")))
    for command in (("predict", path, pictures), ("evaluate", path)):
        result = classifier(*command)
        refused(result, 1, "finite")
        assert "p(" not in result.stdout


def test_unreadable_images(trained: Path, pictures: Path, classifier: Run, tmp_path: Path) -> None:
    refused(classifier("predict", trained, pictures / "absent.png"), 1, "absent.png does not exist")
    refused(classifier("predict", trained, pictures / "notes.txt"), 1, "notes.txt is not a readable image")
    torn = pictures / "5.png"
    torn.write_bytes((pictures / "0.png").read_bytes()[:200])
    refused(classifier("predict", trained, torn), 1, "5.png is not a readable image")
    result = classifier("predict", trained, pictures, "--json")
    assert len(answer(result)["predictions"]) == 5
    assert "left out: " in result.stderr
    assert "5.png" in result.stderr
    (tmp_path / "empty").mkdir()
    refused(classifier("predict", trained, tmp_path / "empty"), 1, "holds no image")
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    refused(classifier("predict", trained, tmp_path / "empty"), 1, "gave a readable image")
    assert classifier("predict", trained).exit_code == 2


# ---------------------------------------------------------------- checkpoints


def changed(trained: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(trained / "model.pt", weights_only=True)
    change(content)
    torch.save(content, out)
    return out


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda c: c.update(kind="gan"), "is not a classifier checkpoint"),
        (lambda c: c.update(format=99), "newer version"),
        (lambda c: c.update(format=1), "is not a classifier checkpoint"),
        (lambda c: c.update(kind=torch.zeros(3)), "is not a classifier checkpoint"),
        (lambda c: c.update(format=torch.zeros(3)), "is not a classifier checkpoint"),
        (lambda c: c["config"].update(model="resnet18"), "state."),
        (lambda c: c["config"].update(model="resnet1800"), "resnet1800"),
        (lambda c: c["config"].update(future=1), "'future'"),
        (lambda c: c["config"].update(steps="many"), "'steps'"),
        (lambda c: c.pop("config"), "config"),
        (lambda c: c.update(config=[1]), "config"),
        (lambda c: c.update(state=None), "state"),
        (lambda c: c["state"].pop("head.1.bias"), "state.head.1.bias"),
        (lambda c: c["state"].update({"head.1.bias": "text"}), "state.head.1.bias"),
        (lambda c: c["state"].update({"head.1.bias": torch.zeros(3)}), "state.head.1.bias"),
        (lambda c: c["state"].update({"head.1.bias": torch.zeros(1, dtype=torch.int64)}), "state.head.1.bias"),
        (lambda c: c["state"].update(extra=torch.zeros(1)), "state.extra"),
        (lambda c: c["state"]["head.1.bias"].fill_(math.nan), "state.head.1.bias"),
        (lambda c: c["state"]["head.1.bias"].fill_(math.inf), "state.head.1.bias"),
        (lambda c: c.update(temperature=math.nan), "temperature"),
        (lambda c: c.update(temperature=0.0), "temperature"),
        (lambda c: c.update(temperature="warm"), "temperature"),
        (lambda c: c.update(threshold=math.nan), "threshold"),
        (lambda c: c.update(threshold=-math.inf), "threshold"),
        (lambda c: c.pop("threshold"), "threshold"),
        (lambda c: c["data"].pop("split_hash"), "data.split_hash"),
        (lambda c: c.update(data=None), "data"),
    ],
)
def test_checkpoints_of_another_kind(
    change: Callable[[dict[str, Any]], object],
    phrase: str,
    trained: Path,
    pictures: Path,
    classifier: Run,
    tmp_path: Path,
) -> None:
    path = changed(trained, tmp_path / "other.pt", change)
    refused(classifier("predict", path, pictures / "0.png"), 1, phrase)
    refused(classifier("evaluate", path), 1, phrase)


def test_one_flipped_bit_of_a_checkpoint_is_seen(
    trained: Path, pictures: Path, classifier: Run, tmp_path: Path
) -> None:
    content = (trained / "model.pt").read_bytes()
    for place in np.random.default_rng(4).integers(0, 8 * len(content), 4).tolist():
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "model.pt").write_bytes(changed)
        refused(classifier("predict", tmp_path, pictures / "0.png"), 1, "model.pt is damaged", "SHA-256")


def test_scores_and_thresholds_that_are_no_numbers_are_refused(
    trained: Path, pictures: Path, classifier: Run, tmp_path: Path
) -> None:
    def enlarge(content: dict[str, Any]) -> None:
        """Features overflow to infinity, and the head subtracts one infinity from another."""
        for key, tensor in content["state"].items():
            if tensor.ndim and "running" not in key:
                tensor.fill_(3e38)
        content["state"]["head.1.weight"][:, ::2] *= -1

    path = changed(trained, tmp_path / "large.pt", enlarge)
    refused(classifier("predict", path, pictures / "0.png"), 1, "not finite")
    refused(classifier("evaluate", path), 1, "not finite")
    refused(classifier("predict", trained, pictures / "0.png", "--threshold", "nan"), 2, "threshold")


def test_damaged_checkpoints(
    trained: Path, pictures: Path, classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the checkout may hold runs, of `make demo`
    whole = (trained / "model.pt").read_bytes()
    for i, content in enumerate((whole[: len(whole) // 2], b"", b"text", whole[:-30])):
        (tmp_path / f"{i}.pt").write_bytes(content)
        refused(classifier("predict", tmp_path / f"{i}.pt", pictures / "0.png"), 1, "is damaged")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(classifier("predict", tmp_path / "list.pt", pictures / "0.png"), 1, "list.pt is damaged")
    for absent in (tmp_path / "absent.pt", tmp_path):
        refused(classifier("predict", absent, pictures / "0.png"), 1, "model.pt made by `classifier train`")


def test_a_checkpoint_with_code_is_never_run(pictures: Path, classifier: Run, tmp_path: Path) -> None:
    torch.save({"kind": "classifier", "format": 1, "x": Trap(tmp_path / "ran")}, tmp_path / "evil.pt")
    refused(classifier("predict", tmp_path / "evil.pt", pictures / "0.png"), 1, "is damaged")
    assert not (tmp_path / "ran").exists()


def test_weights_from_a_file_are_not_needed_again(
    small_args: Args, classifier: Run, tmp_path: Path, pictures: Path
) -> None:
    """A checkpoint stands alone: the weights file with which training began may be gone."""
    from torchvision import models

    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "w.pth")
    options = [
        "--model",
        "shufflenet_v2_x0_5",
        *sets(**{"normalisation": "imagenet", "data.image_size": 32, "steps": 1}),
    ]
    named = ("--weights", tmp_path / "w.pth", "--out", tmp_path / "run")
    result = classifier("train", *small_args, *options, *named)
    assert result.exit_code == 0, result.output
    (tmp_path / "w.pth").unlink()
    moved = Path(shutil.move(tmp_path / "run" / "model.pt", tmp_path / "alone.pt"))
    row = read_json(tmp_path / "run" / "result.json")
    assert answer(classifier("evaluate", moved, "--json", "-q"))["nll"] == row["test"]["nll"]
    assert len(answer(classifier("predict", moved, pictures, "--json"))["predictions"]) == 5
