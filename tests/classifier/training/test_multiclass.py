"""Three classes: figures against scikit-learn, training sets, synthetic sets of several classes, and the commands."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from commands import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from balancer.core.errors import BalancerError, UsageError
from balancer.core.sealed import read_json
from balancer.core.settings import AblateConfig, ClassifierConfig, DataConfig, TrainConfig
from balancer.core.shapes import parse
from balancer.data.chest import TASKS
from balancer.data.dataset import Dataset, load_dataset
from classifier.evaluation.fold_metrics import AnyMetrics, MulticlassMetrics
from classifier.evaluation.metrics import (
    MULTICLASS_DECISION,
    MULTICLASS_RANKING,
    evaluate,
    multiclass_decision,
    nll,
    weighted_multiclass_metrics,
)
from classifier.evaluation.thresholds import with_temperature
from classifier.experiments.study import Study, _unfilled, open_study
from classifier.inference import describe
from classifier.training.record import ClassifierRecord, parse_record
from classifier.training.regimes import REGIMES
from classifier.training.synthetic import join, load_sets, load_synthetic
from classifier.training.training_set import BatchSampler, training_set

Array = np.ndarray
THREE = TASKS["multiclass"]
CONFIG = DataConfig(image_size=16)


# ---------------------------------------------------------------- figures


def case(seed: int, n: int = 60) -> tuple[Array, Array]:
    """Labels, every class among them, and distributions that know something of them."""
    rng = np.random.default_rng(seed)
    y_true = np.r_[0, 1, 2, rng.integers(0, 3, n - 3)]
    return y_true, rng.dirichlet(np.ones(3), n) * 0.8 + 0.2 * np.eye(3)[y_true]


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(3, 80))
def test_figures_agree_with_sklearn(seed: int, n: int) -> None:
    y_true, y_score = case(seed, n)
    result, decided = evaluate(y_true, y_score, 0.5, 1.0, chest=True), y_score.argmax(axis=1)
    found = result.to_json()
    one_hot = np.eye(3)[y_true]
    assert {key: found[key] for key in ("auroc", "auprc", "nll", "brier", "auroc_pneumonia")} == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(y_true, y_score, multi_class="ovr", average="macro"),
            "auprc": metrics.average_precision_score(one_hot, y_score, average="macro"),
            "nll": metrics.log_loss(y_true, y_score),
            "brier": np.mean([((p - t) ** 2).sum() for p, t in zip(y_score, one_hot, strict=True)]),
            "auroc_pneumonia": metrics.roc_auc_score(y_true != 0, y_score[:, 1] + y_score[:, 2]),
        }
    )
    assert found["auroc_of_class"] == pytest.approx(
        metrics.roc_auc_score(y_true, y_score, multi_class="ovr", average=None)
    )
    assert evaluate(y_true, y_score, 0.5, 1.0).auroc_pneumonia is None, "of other classes than the chest set's"
    told = dict(found["most_likely"])
    assert told.pop("sensitivity") == pytest.approx(metrics.recall_score(y_true, decided, average=None).tolist())
    assert told.pop("confusion") == metrics.confusion_matrix(y_true, decided).tolist()
    assert told == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y_true, decided),
            "balanced_accuracy": metrics.balanced_accuracy_score(y_true, decided),
            "f1": metrics.f1_score(y_true, decided, labels=[0, 1, 2], average="macro", zero_division=0),
        }
    )
    assert parse(AnyMetrics, json.loads(json.dumps(found, allow_nan=False)), Path("row")) == result


def test_calibration_error_is_of_the_most_likely_class() -> None:
    """Ten at .8 of which six are right, ten at .5 of which all are: (.2 + .5) / 2."""
    y_score = np.repeat([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]], 10, axis=0)
    y_true = np.r_[np.zeros(6, int), np.ones(4, int), np.full(10, 2)]
    assert evaluate(y_true, y_score, 0.5, 1.0).ece == pytest.approx(0.35)


def test_of_two_columns_the_figures_are_those_of_one() -> None:
    """The two classes as two columns: the same AUROC, NLL and decisions at .5, and twice the Brier score."""
    rng = np.random.default_rng(1)
    y_true, p = np.r_[0, 1, rng.integers(0, 2, 50)], rng.random(52)
    one, two = (evaluate(y_true, score, 0.5, 1.0).to_json() for score in (p, np.stack([1 - p, p], axis=1)))
    for key, factor in {"auroc": 1, "nll": 1, "brier": 2}.items():
        assert two[key] == pytest.approx(factor * one[key])
    tn, fp, fn, tp = one["at_half"]["confusion"]
    assert two["most_likely"]["confusion"] == [[tn, fp], [fn, tp]]
    assert two["most_likely"]["balanced_accuracy"] == pytest.approx(one["at_half"]["balanced_accuracy"])


def test_the_temperature_changes_calibration_alone() -> None:
    y_true, y_score = case(3)
    plain, hot = (evaluate(y_true, y_score, 0.5, t).to_json() for t in (1.0, 2.5))
    assert {k for k in plain if plain[k] != hot[k]} == {"nll", "brier", "ece", "temperature"}
    softened = y_score ** (1 / 2.5)
    assert hot["nll"] == pytest.approx(metrics.log_loss(y_true, softened / softened.sum(axis=1, keepdims=True)))


def test_certain_and_wrong_is_expensive_but_finite() -> None:
    assert nll(np.array([2]), np.array([[1.0, 0.0, 0.0]])) == pytest.approx(-np.log(1e-7))


def test_a_class_that_is_never_called_is_zero_not_nan() -> None:
    y_true = np.array([0, 1, 2, 2])
    decisions = multiclass_decision(y_true, np.tile([0.1, 0.2, 0.7], (4, 1)))
    assert decisions.sensitivity == [0, 0, 1]
    assert decisions.f1 == pytest.approx(2 * 2 / 6 / 3)


def test_the_figures_as_text() -> None:
    y_true, y_score = case(4)
    result = evaluate(y_true, y_score, 0.5, 1.0, chest=True)
    assert isinstance(result, MulticlassMetrics)
    lines = describe(result, THREE, "baseline", 3, "test").splitlines()
    assert lines[0] == "baseline, seed 3, test n = 60"
    assert all(f"{key} {getattr(result, key):.4f}" in lines[1] for key in MULTICLASS_RANKING)
    assert lines[3].split() == ["truth", *THREE, "sensitivity", "AUROC"]
    for name, row, line in zip(THREE, result.most_likely.confusion, lines[4:], strict=True):
        assert line.split()[:4] == [name, *map(str, row)]


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(20, 60))
def test_figures_under_weights_are_those_of_repeated_images(seed: int, n: int) -> None:
    y_true, y_score = case(seed, n)
    times = np.random.default_rng(seed).integers(0, 3, n)
    times[:3] = 1  # every class keeps an image
    weighted = weighted_multiclass_metrics(
        y_true, y_score, with_temperature(y_score, 1.7), np.stack([np.ones(n), times]), ("a", "b", "c"), chest=True
    )
    for row, repeats in enumerate((np.ones(n, int), times)):
        plain = evaluate(np.repeat(y_true, repeats), np.repeat(y_score, repeats, axis=0), 0.5, 1.7, chest=True)
        assert isinstance(plain, MulticlassMetrics)
        expected = {key: getattr(plain, key) for key in MULTICLASS_RANKING}
        expected |= {key: getattr(plain.most_likely, key) for key in MULTICLASS_DECISION}
        expected |= {f"auroc[{name}]": v for name, v in zip("abc", plain.auroc_of_class, strict=True)}
        expected |= {f"recall[{name}]": v for name, v in zip("abc", plain.most_likely.sensitivity, strict=True)}
        assert {key: float(values[row]) for key, values in weighted.items()} == pytest.approx(expected)


# ---------------------------------------------------------------- what is trained on


@pytest.fixture
def data(make_data: Callable[..., Dataset]) -> Dataset:
    """5 NORMAL, 20 BACTERIAL, 8 VIRAL images to train on."""
    made = make_data((5, 20, 8), (4, 4, 4), (5, 6, 4))
    return replace(made, classes=THREE)


def in_train(data: Dataset, label: int) -> set[bytes]:
    return {image.tobytes() for image in data.images[data.indices("train", label)]}


def test_duplicates_fill_every_class(data: Dataset) -> None:
    train = training_set(data, REGIMES["duplicate"], None, 0, data.deficits)
    assert (train.counts, train.added) == ([20, 20, 20], 27)
    for label in (0, 2):
        copies = train.images[train.n_real :][train.labels[train.n_real :] == label]
        assert {image.tobytes() for image in copies} == in_train(data, label), "every image is copied"
    assert training_set(data, REGIMES["duplicate"], None, 0, (0, 0, 3)).counts == [5, 20, 11]
    with pytest.raises(BalancerError, match="would add 0 duplicates"):
        training_set(data, REGIMES["duplicate"], None, 0, (0, 0, 0))


@given(st.integers(0, 50))
def test_flipped_labels_are_other_labels(make_data: Callable[..., Dataset], seed: int) -> None:
    data = replace(make_data((20, 40, 40)), classes=THREE)
    train = training_set(data, REGIMES["flipped"], None, seed, 0)
    changed = train.labels != data.labels[data.indices("train")]
    assert changed.sum() == 30
    assert set(train.labels.tolist()) == {0, 1, 2}
    assert np.array_equal(train.labels, training_set(data, REGIMES["flipped"], None, seed, 0).labels), (
        "the seed says which"
    )


@pytest.mark.parametrize("size", [9, 10, 11])
def test_oversampling_gives_every_class_its_share_of_every_batch(data: Dataset, size: int) -> None:
    train = training_set(data, REGIMES["oversample"], None, 0, 0)
    sampler = BatchSampler(ClassifierConfig(batch_size=size), REGIMES["oversample"], train, 3)
    for step in range(20):
        counts = np.bincount(train.labels[sampler.indices(step)], minlength=3)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1


# ---------------------------------------------------------------- synthetic sets


def of_class(folder: Path, cls: str) -> Path:
    """A manifest of PNEUMONIA, as of another class."""
    (folder / "images" / "PNEUMONIA").rename(folder / "images" / cls)
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("PNEUMONIA", cls))
    return folder


@pytest.fixture
def sets(make_manifest: Callable[..., Path], data: Dataset, tmp_path: Path) -> dict[str, Path]:
    """20 images of NORMAL and 14 of VIRAL."""
    return {
        "NORMAL": make_manifest(tmp_path / "normal", 20, data.split_hash),
        "VIRAL": of_class(make_manifest(tmp_path / "viral", 14, data.split_hash, label=1, first=500), "VIRAL"),
    }


@pytest.mark.parametrize(("count", "n"), [("deficit", (15, 12)), ("all", (20, 14)), (3, (3, 3))])
def test_each_set_fills_its_own_class(
    data: Dataset, sets: dict[str, Path], count: int | str, n: tuple[int, int]
) -> None:
    loaded = [load_synthetic(path, data, CONFIG, count) for path in sets.values()]
    assert [s.labels.tolist() for s in loaded] == [[0] * n[0], [2] * n[1]]
    whole = join(loaded)
    train = training_set(data, REGIMES["gan"], whole, 0, 0)
    assert train.counts == [5 + n[0], 20, 8 + n[1]]
    assert (train.n_real, train.added, train.synthetic_digest) == (33, sum(n), whole.digest)
    for s, label in zip(loaded, (0, 2), strict=True):
        added = train.images[train.n_real :][train.labels[train.n_real :] == label]
        assert np.array_equal(added, s.images)


def test_sets_that_do_not_fit(
    data: Dataset, sets: dict[str, Path], make_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    again = make_manifest(tmp_path / "again", 20, data.split_hash, first=900)
    with pytest.raises(BalancerError, match="2 sets of NORMAL and 1 set of VIRAL; give as many of each class"):
        load_sets(list(map(str, (*sets.values(), again))), data, CONFIG, "deficit")
    either = make_manifest(tmp_path / "either", 20, data.split_hash, label=1)
    with pytest.raises(BalancerError, match="holds PNEUMONIA images; expected one of NORMAL, BACTERIAL, VIRAL"):
        load_synthetic(either, data, CONFIG, "deficit")
    with pytest.raises(BalancerError, match=r"0 synthetic images would be added \(the training fold's deficit is 0\)"):
        load_synthetic(of_class(either, "BACTERIAL"), data, CONFIG, "deficit")


def merged(folder: Path, parts: Iterable[Path]) -> Path:
    """The manifests of several classes as one."""
    folder.mkdir()
    lines: list[str] = []
    for part in parts:
        shutil.copytree(part / "images", folder / "images", dirs_exist_ok=True)
        header, *rows = (part / "manifest.csv").read_text().splitlines()
        cells = sorted((row.split(",") for row in rows), key=lambda c: int(c[1]))
        lines += [",".join([c[0], str(len(lines) + i), *c[2:]]) for i, c in enumerate(cells)]
    (folder / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def test_one_folder_may_hold_every_class(data: Dataset, sets: dict[str, Path], tmp_path: Path) -> None:
    """As sets of one class each do; doses are of each class's own deficit."""
    (apart,) = load_sets(list(map(str, sets.values())), data, CONFIG, "deficit")
    (whole,) = load_sets([str(merged(tmp_path / "all", sets.values()))], data, CONFIG, "deficit")
    assert (whole.digest, whole.labels.tolist()) == (apart.digest, apart.labels.tolist())
    assert np.array_equal(whole.images, apart.images)
    assert (whole.paths, apart.paths) == ((tmp_path / "all",), tuple(sets.values()))
    study = Study(AblateConfig(doses=(0.5,)), data, [whole], [REGIMES["gan"]])
    half = study.training_set(replace(study.trials[0], dose=0.5))
    assert half.counts == [5 + 8, 20, 8 + 6], "15 and 12 are lacking"
    assert np.array_equal(half.images[half.n_real :][half.labels[half.n_real :] == 2], whole.images[15:21])


def test_gan_seeds_are_paired_class_by_class(
    data: Dataset, sets: dict[str, Path], make_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """Two folders of each class, in any order, are two sets; so is one of both classes beside one of each."""
    more = make_manifest(tmp_path / "normal 2", 15, data.split_hash, first=2000)
    viral = of_class(make_manifest(tmp_path / "viral 2", 12, data.split_hash, label=1, first=3000), "VIRAL")
    two = load_sets(list(map(str, (*sets.values(), viral, more))), data, CONFIG, "deficit")
    assert [s.paths for s in two] == [tuple(sets.values()), (viral, more)]
    assert [np.bincount(s.labels).tolist() for s in two] == [[15, 0, 12]] * 2
    whole = merged(tmp_path / "all", sets.values())
    again = load_sets(list(map(str, (whole, viral, more))), data, CONFIG, "deficit")
    assert [s.digest for s in again] == [s.digest for s in two]


def test_a_class_that_stays_short_is_said(data: Dataset, sets: dict[str, Path]) -> None:
    only = load_sets([str(sets["VIRAL"])], data, CONFIG, "deficit")
    assert _unfilled(only, data) == [
        "No synthetic set fills up the 15 NORMAL images that the training fold lacks: no regime balances all classes."
    ]
    assert (
        _unfilled(load_sets(list(map(str, sets.values())), data, CONFIG, "deficit"), data) == _unfilled([], data) == []
    )


def test_synthetic_images_in_place_of_real_ones(data: Dataset, sets: dict[str, Path]) -> None:
    whole = join([load_synthetic(path, data, CONFIG, "deficit") for path in sets.values()])
    train = training_set(data, REGIMES["synthetic_only"], whole, 0, 0)
    assert (train.counts, train.n_real) == ([15, 20, 12], 20)
    everything = replace(whole, labels=np.arange(len(whole.labels)) % 3)
    with pytest.raises(BalancerError, match="replaces the real images of every class"):
        training_set(data, REGIMES["synthetic_only"], everything, 0, 0)


@pytest.mark.parametrize(("count", "expected"), [("deficit", (15, 0, 12)), (3, (3, 0, 3))])
def test_the_control_adds_as_many_copies_as_there_are_synthetic_images(
    data: Dataset, sets: dict[str, Path], count: int | str, expected: tuple[int, ...]
) -> None:
    config = TrainConfig(synthetic_count=count, regime="duplicate")
    assert Study(config, data, [], []).duplicate_counts == expected
    whole = join([load_synthetic(path, data, CONFIG, count) for path in sets.values()])
    study = Study(config, data, [whole], [REGIMES["gan"]])
    assert study.duplicate_counts == expected
    (trial,) = study.trials
    assert study.training_set(trial).added == sum(expected)
    only = load_synthetic(sets["VIRAL"], data, CONFIG, "all")
    assert Study(config.model_copy(update={"synthetic_count": "all"}), data, [only], []).duplicate_counts == (0, 0, 14)


# ---------------------------------------------------------------- the commands


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": "sigmoid"}, "outputs is 'sigmoid', which is for two classes, and the data have 3"),
        ({"class_weights": "positive"}, "class_weights is 'positive', which is for two classes; .*complement"),
    ],
)
def test_settings_for_two_classes_are_refused(changes: dict[str, str], message: str, template: Path) -> None:
    data = DataConfig(path=str(template), image_size=16, task="multiclass")
    with pytest.raises(UsageError, match=message):
        open_study(AblateConfig(data=data, **changes))


def test_train_evaluate_and_predict(
    classifier: Callable[..., Result],
    template: Path,
    small_args: tuple[str, ...],
    make_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    config = DataConfig(path=str(template), image_size=16, task="multiclass")
    data = load_dataset(config)
    lacking = data.deficits[0], data.deficits[2]
    folders = [
        make_manifest(tmp_path / "normal", lacking[0], data.split_hash),
        of_class(make_manifest(tmp_path / "viral", lacking[1], data.split_hash, label=1, first=500), "VIRAL"),
    ]
    named = [part for folder in folders for part in ("--synthetic", folder)]
    run = tmp_path / "run"
    options = ("--task", "multiclass", "--regime", "gan", *named, "--out", run)
    printed = classifier("train", *small_args, *options)
    assert printed.exit_code == 0, printed.output
    row = read_json(run / "result.json")
    assert row["n_train"] == dict.fromkeys(THREE, max(data.counts("train")))
    assert row["added"] == sum(lacking)
    assert np.sum(row["test"]["most_likely"]["confusion"]) == row["test"]["n"] == 26
    with np.load(run / "predictions.npz") as saved:
        scores, y_true = saved["test_score"], saved["test_true"]
    assert scores.shape == (26, 3)
    assert scores.sum(axis=1) == pytest.approx(1)
    assert row["test"]["auroc"] == pytest.approx(metrics.roc_auc_score(y_true, scores, multi_class="ovr"))

    again = classifier("evaluate", run, "--json", "-q")
    result = json.loads(again.stdout)
    assert {k: result[k] for k in row["test"]} == row["test"]
    *evaluated, following = classifier("evaluate", run, "-q").stdout.splitlines()
    assert following.startswith("next: classifier predict")
    assert printed.stdout.splitlines()[:-1] == evaluated

    files = [template / data.records[i].name for i in data.indices("test")[:4]]
    answer = json.loads(classifier("predict", run, *files, "--json").stdout)
    assert "threshold" not in answer
    for prediction in answer["predictions"]:
        p = prediction["probabilities"]
        assert list(p) == list(THREE)
        assert sum(p.values()) == pytest.approx(1)
        assert p[prediction["label"]] == max(p.values())
        assert prediction["probability_pneumonia"] == pytest.approx(p["BACTERIAL"] + p["VIRAL"])
    assert [THREE.index(x["label"]) for x in answer["predictions"]] == scores[:4].argmax(axis=1).tolist()
    text = classifier("predict", run, files[0]).stdout
    assert "p(VIRAL) = " in text
    assert "the most likely of 3 classes" in text
    refused(classifier("predict", run, files[0], "--threshold", "0.5"), 2, "leave out --threshold")


@pytest.mark.parametrize("task", list(TASKS))
def test_files_of_before_the_names_mean_the_chest_classes(task: str) -> None:
    """And with names, these are taken, whatever the task says."""
    config = TrainConfig(data=DataConfig(task=task))
    record = ClassifierRecord(config, ("a", "b"), 1.0, 0.5, "baseline", 0, "nowhere", "0" * 16, "f" * 16, None)
    values = record.portable()
    assert parse_record(values, Path("model.pt")).classes == ("a", "b")
    del values["classes"]
    assert parse_record(values, Path("model.pt")).classes == TASKS[task]
