"""The filter of synthetic images: rejection sampling, who sees what, and a record that all trials share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import PLAIN

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import AblateConfig, DataConfig
from balancer.data.dataset import Dataset
from balancer.metrics import two_sample
from classifier.experiments import jobs, selections
from classifier.experiments.study import Study, open_study, provenance
from classifier.training import filtering
from classifier.training.filtering import accepted, select
from classifier.training.regimes import REGIMES
from classifier.training.synthetic import SyntheticSet
from classifier.training.training_set import needed_counts

MakeData = Callable[..., Dataset]
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here is about the interval."""
    monkeypatch.setattr(two_sample, "RESAMPLES", 20)


def halves(data: Dataset, n: int, label: int = 0, planted: int = 0) -> SyntheticSet:
    """``n`` images of which every second is noise as the real ones are; the others are washed out."""
    rng = np.random.default_rng([5, planted, label])
    images = rng.integers(0, 160, (n, *data.images.shape[1:]))
    images[1::2] = images[1::2] // 4 + 150
    hashes = tuple(f"{i:064x}" for i in range(n))
    return SyntheticSet(Path("memory"), images.astype(np.uint8), np.full(n, label), hashes, "generator")


# --- rejection sampling


def test_images_are_accepted_by_the_rule_of_azadi() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 2, 300)
    chosen = accepted(log_ratio, 120, seed=4)
    assert len(set(chosen.tolist())) == 120
    assert (np.diff(chosen) > 0).all()
    u = np.random.default_rng(4).random(300)
    ratio = np.exp(log_ratio) / np.exp(log_ratio).max()

    def count(gamma: float) -> np.ndarray:
        odds = ratio / (1 - ratio * (1 - 1e-8)) * np.exp(-gamma)  # of accepting, as in the paper
        return np.flatnonzero(u < odds / (1 + odds))

    low, high = -30.0, 30.0  # gamma, by bisection on the number that is accepted
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if len(count(middle)) >= 120 else (low, middle)
    np.testing.assert_array_equal(chosen, count(low))


def test_equal_ratios_give_a_random_choice_and_distant_ones_a_ranking() -> None:
    often = np.zeros(40)
    for seed in range(400):
        often[accepted(np.zeros(40), 10, seed)] += 1
    assert np.abs(often / 400 - 0.25).max() < 5 * (0.25 * 0.75 / 400) ** 0.5
    far_apart = np.random.default_rng(0).permutation(40) * 1000.0
    np.testing.assert_array_equal(accepted(far_apart, 10, 0), np.flatnonzero(far_apart >= 30_000))


# --- who is kept, and who sees what


@pytest.mark.nightly
def test_what_looks_real_is_kept(make_data: MakeData) -> None:
    data = make_data((80, 170))
    (of_class,) = select(data, halves(data, 180), (90, 0), seed=0).classes
    kept = np.array(of_class.kept)
    assert len(kept) == 90
    assert (kept % 2 == 0).sum() > 60  # by chance 45 +- 3.4: a draw of 90 of 180
    assert of_class.separation.auroc == pytest.approx(0.75, abs=0.12)  # half is told, of the other half by chance half
    assert of_class.kept_auroc < of_class.separation.auroc - 0.1
    assert "180 synthetic NORMAL images, kept 90 and left out 90" in of_class.describe()
    assert filtering.NO_BETTER not in of_class.describe()
    guessing = replace(of_class, separation=replace(of_class.separation, auroc=0.46, low=0.32, high=0.59))
    assert guessing.describe().endswith(filtering.NO_BETTER)


def test_scores_are_of_a_classifier_of_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    features, labels, fold = rng.normal(size=(90, 6)), np.arange(90) % 2, rng.permutation(np.arange(90) % 3)
    features[labels == 1] += 0.5
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    expected = cross_val_predict(model, features, labels, cv=PredefinedSplit(fold), method="decision_function")
    np.testing.assert_allclose(filtering._out_of_fold(features, labels, fold), expected, atol=1e-6)


def test_images_of_a_patient_are_in_one_fold(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data((24, 40))
    groups = [f"p{i // 3}" for i in range(len(data.groups))]
    seen: list[np.ndarray] = []
    original = filtering._out_of_fold
    monkeypatch.setattr(filtering, "_out_of_fold", lambda f, y, fold: seen.append(fold) or original(f, y, fold))
    (of_class,) = select(replace(data, groups=groups), halves(data, 32), (16, 0), 0).classes
    assert of_class.separation.folds == 4  # 8 patients, two or more in each fold
    by_patient = seen[0][:24].reshape(8, 3)
    assert (by_patient == by_patient[:, :1]).all()


def test_the_choice_depends_on_neither_threads_nor_validation_nor_test(make_data: MakeData) -> None:
    data, before, chosen = make_data((20, 40)), torch.get_num_threads(), []
    elsewhere = np.array(data.images)
    elsewhere[data.folds != "train"] = 0
    try:
        for threads, images in ((1, data.images), (2, elsewhere)):
            torch.set_num_threads(threads)
            chosen.append(select(replace(data, images=images), halves(data, 40), (20, 0), 0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert chosen[0] == chosen[1]
    other = select(data, halves(data, 40, planted=1), (20, 0), 1)
    assert other.classes[0].scores_hash != chosen[0].classes[0].scores_hash


def test_colour_and_three_classes(make_data: MakeData) -> None:
    grey = make_data((12, 40))
    labels = np.where(np.arange(len(grey.labels)) % 3 == 2, 2, grey.labels)
    names = ("NORMAL", "BACTERIAL", "VIRAL")
    data = replace(grey, images=np.repeat(grey.images[..., None], 3, axis=3), labels=labels, classes=names)
    counts = data.deficits
    parts = [halves(data, 2 * n + 4, label) for label, n in enumerate(counts) if n]
    images, of = np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts])
    synthetic = replace(parts[0], images=images, labels=of, hashes=tuple(f"{i:064x}" for i in range(len(of))))
    kept = select(data, synthetic, counts, 0).of(synthetic, data.classes)
    assert np.bincount(kept.labels, minlength=3).tolist() == list(counts)
    assert kept.images.shape[1:] == (16, 16, 3)


def test_too_few_patients_are_refused(make_data: MakeData, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data((9, 40))
    monkeypatch.setattr(filtering, "LEAST", 10_000)
    with pytest.raises(BalancerError, match=r"needs 20000 of each"):
        open_study(study.config)  # before anything is written
    monkeypatch.undo()
    with pytest.raises(BalancerError, match=r"NORMAL has 3 patients .* needs 4 .*gan_filtered"):
        select(replace(data, groups=[f"p{i % 3}" for i in range(len(data.groups))]), halves(data, 40), (9, 0), 0)


# --- in a study


@pytest.fixture
def config(template: Path) -> AblateConfig:
    regimes = ("baseline", "gan", "gan_filtered")
    sizes = {"steps": 1, "batch_size": 4, "seeds": 1}
    return AblateConfig(data=DataConfig(path=str(template), image_size=16), regimes=regimes, **sizes, **PLAIN)


@pytest.fixture
def study(config: AblateConfig, small_data: Dataset, make_manifest: Make, tmp_path: Path) -> Study:
    path = make_manifest(tmp_path / "s", 2 * small_data.deficit, small_data.split_hash)
    return open_study(config.model_copy(update={"synthetic": (str(path),)}))


def test_the_surplus_must_be_there(
    config: AblateConfig, small_data: Dataset, make_manifest: Make, tmp_path: Path
) -> None:
    n = small_data.deficit
    path = make_manifest(tmp_path / "s", int(1.5 * n) - 1, small_data.split_hash)
    with pytest.raises(BalancerError, match=rf"lists {int(1.5 * n) - 1}; .*synthesize --n {2 * n}`"):
        open_study(config.model_copy(update={"synthetic": (str(path),)}))
    with pytest.raises(UsageError, match="synthetic_count is 'all', and regime gan_filtered"):
        open_study(config.model_copy(update={"synthetic": (str(path),), "synthetic_count": "all"}))
    gan_alone = config.model_copy(update={"synthetic": (str(path),), "regimes": ("baseline", "gan")})
    assert len(open_study(gan_alone).synthetic[0].labels) == n
    assert needed_counts([REGIMES["gan"], REGIMES["gan_filtered"]], small_data.counts("train")) == (2 * n, 0)


def test_the_filter_chooses_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gan, filtered = study.trials[1:]
    with pytest.raises(BalancerError, match="has chosen no images"):
        study.training_set(filtered)
    first = selections.with_selections(study, tmp_path)
    kept = first.training_set(filtered)
    assert kept.added == first.training_set(gan).added == study.data.deficit
    assert kept.synthetic_digest == first.filtered(0).digest != first.training_set(gan).synthetic_digest
    positions = list(first.selections[0].classes[0].kept)
    np.testing.assert_array_equal(kept.images[kept.n_real :], study.synthetic[0].images[positions])
    assert any("kept" in note for note in first.data.notes)
    assert first.data.fingerprint == study.data.fingerprint

    record = tmp_path / "filter" / "set-0.json"
    written = json.loads(record.read_text())
    assert written["classes"][0]["kept"] == positions
    calls: list[int] = []
    original = filtering.select
    monkeypatch.setattr(filtering, "select", lambda *args: calls.append(1) or original(*args))
    assert selections.with_selections(study, tmp_path).selections == first.selections
    assert calls == []
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))  # damaged: the seal does not fit
    assert selections.with_selections(study, tmp_path).selections == first.selections
    other = replace(study, config=study.config.model_copy(update={"seed": 1}))
    assert selections.with_selections(other, tmp_path).selections[0].seed == 1
    assert len(calls) == 2


def test_workers_and_resumed_runs_take_what_was_chosen(study: Study, tmp_path: Path) -> None:
    """Another choice than the filter's own shows that it is the one handed over that counts."""
    chosen = selections.with_selections(study, tmp_path).selections[0]
    n = 2 * study.data.deficit
    last = tuple(range(n - study.data.deficit, n))
    handed = replace(study, selections=(replace(chosen, classes=(replace(chosen.classes[0], kept=last),)),))
    trial = study.trials[-1]
    context = study.config, provenance(study), "cpu", 1
    attempt = jobs._attempt_trial(trial, *context, handed.selections)
    assert attempt.result is not None
    made = attempt.result.result
    assert made.synthetic_hash == study.synthetic[0].at(np.array(last)).digest
    selections.check_selections(handed, [made], "results.jsonl")
    with pytest.raises(BalancerError, match=r"results.jsonl holds trials of gan_filtered .* folder filter"):
        selections.check_selections(selections.with_selections(study, tmp_path), [made], "results.jsonl")
