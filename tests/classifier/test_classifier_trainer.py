"""Training: pairing, determinism, equal steps, selection on validation, and what each regime trains on."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torchvision.transforms.functional import normalize

from balancer.config import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.seeding import derive_seed
from classifier import trainer
from classifier.models import build_model
from classifier.regimes import REGIMES
from classifier.synthetic import SyntheticSet
from classifier.trainer import Fitted, TrainingSet, evaluation_steps, fit, normalise, predict, training_set

CPU = torch.device("cpu")
MakeData = Callable[..., Dataset]


def settings(**more: Any) -> ClassifierConfig:
    return ClassifierConfig(
        **{"data": DataConfig(image_size=16), "steps": 6, "batch_size": 8, "evaluations": 3, **more}
    )


def synthetic_set(data: Dataset, n: int) -> SyntheticSet:
    images = np.random.default_rng(9).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return SyntheticSet(None, images, data.minority_class, "d" * 16)


def run(data: Dataset, regime: str = "baseline", seed: int = 0, **more: Any) -> Fitted:
    chosen, val = REGIMES[regime], data.indices("val")
    train = training_set(
        data, chosen, synthetic_set(data, data.deficit) if chosen.synthetic else None, seed, data.deficit
    )
    return fit(settings(**more), chosen, seed, train, (data.images[val], data.labels[val]), CPU)


@pytest.fixture
def data(make_data: MakeData) -> Dataset:
    return make_data((8, 20))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights with which each training begins."""
    seen: list[dict[str, torch.Tensor]] = []

    def recorded(config: ClassifierConfig) -> nn.Module:
        model = build_model(config)
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return model

    monkeypatch.setattr(trainer, "build_model", recorded)
    return seen


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every optimiser step that is really made."""
    seen: list[float] = []
    original = trainer.make_optimizer

    def counted(config: ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = original(config, model)
        optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", counted)
    return seen


# ---------------------------------------------------------------- the training set


def test_training_set_of_the_baseline_is_the_training_fold(data: Dataset) -> None:
    train = training_set(data, REGIMES["baseline"], None, 0, 0)
    real = data.indices("train")
    assert np.array_equal(train.images, data.images[real])
    assert np.array_equal(train.labels, data.labels[real])
    assert (train.n_real, train.added, train.synthetic_digest) == (28, 0, None)


@pytest.mark.parametrize("regime", ["gan", "combined"])
@pytest.mark.parametrize("counts", [(8, 20), (20, 8)])
def test_synthetic_images_follow_the_real_ones_with_the_minority_label(
    regime: str, counts: tuple[int, int], make_data: MakeData
) -> None:
    data = make_data(counts)
    fakes = synthetic_set(data, 12)
    train = training_set(data, REGIMES[regime], fakes, 0, 0)
    assert np.array_equal(train.images[:28], data.images[data.indices("train")])
    assert np.array_equal(train.images[28:], fakes.images)
    assert set(train.labels[28:]) == {int(counts[0] > counts[1])}
    assert np.bincount(train.labels).tolist() == [20, 20]
    assert (train.n_real, train.added, train.synthetic_digest) == (28, 12, "d" * 16)


@given(st.integers(1, 9), st.integers(1, 30), st.booleans(), st.integers(0, 3))
def test_duplicates_balance_the_classes_and_use_every_image_alike(
    make_data: MakeData, few: int, more: int, swap: bool, seed: int
) -> None:
    data = make_data((few + more, few) if swap else (few, few + more))
    train = training_set(data, REGIMES["duplicate"], None, seed, data.deficit)
    assert (train.n_real, train.added, train.synthetic_digest) == (2 * few + more, more, None)
    assert np.bincount(train.labels).tolist() == [few + more] * 2
    used = Counter(image.tobytes() for image in train.images[train.n_real :])
    real = {image.tobytes() for image in data.images[data.indices("train", data.minority_class)]}
    assert used.keys() <= real
    assert {used[image] for image in real} <= {more // few, -(-more // few)}


def test_duplicates_are_as_many_as_the_synthetic_images(data: Dataset) -> None:
    train = training_set(data, REGIMES["duplicate"], synthetic_set(data, 5), 0, 5)
    assert (train.added, train.synthetic_digest) == (5, None)
    assert training_set(data, REGIMES["duplicate"], None, 0, copies=3).added == 3


def test_which_images_are_duplicated_depends_on_the_seed(data: Dataset) -> None:
    drawn = [training_set(data, REGIMES["duplicate"], None, seed, data.deficit).images[28:] for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_nothing_to_add_is_an_error(data: Dataset, make_data: MakeData) -> None:
    with pytest.raises(BalancerError, match="regime gan needs synthetic images; run `balancer synthesize`"):
        training_set(data, REGIMES["gan"], None, 0, 0)
    with pytest.raises(BalancerError, match=r"would add 0 duplicates \(the deficit here is 0\)"):
        training_set(make_data((6, 6)), REGIMES["duplicate"], None, 0, 0)


# ---------------------------------------------------------------- pairing and determinism


def test_one_seed_starts_every_regime_from_the_same_weights(data: Dataset, starts: list) -> None:
    for regime in REGIMES:
        run(data, regime, seed=2, steps=1, evaluations=1)
    run(data, "baseline", seed=3, steps=1, evaluations=1)
    first, *same, other = starts
    assert len(same) == len(REGIMES) - 1
    assert all(torch.equal(first[k], s[k]) for s in same for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_every_regime_makes_the_same_number_of_steps(data: Dataset, rates: list[float]) -> None:
    counts = []
    for regime in REGIMES:
        rates.clear()
        run(data, regime, steps=7)
        counts.append(len(rates))
    assert counts == [7] * len(REGIMES)


@pytest.mark.parametrize("regime", ["combined", "weighted_augment"])
def test_a_seed_repeats_to_the_bit(data: Dataset, regime: str) -> None:
    one, two, other = run(data, regime, seed=1), run(data, regime, seed=1), run(data, regime, seed=2)
    assert np.array_equal(one.val_score, two.val_score)
    assert (one.history, one.threshold) == (two.history, two.threshold)
    assert all(torch.equal(v, two.model.state_dict()[k]) for k, v in one.model.state_dict().items())
    assert not np.array_equal(one.val_score, other.val_score)


def test_it_learns(make_data: MakeData) -> None:
    data = make_data((30, 30))
    fitted = run(data, steps=60, batch_size=16)
    test = data.indices("test")
    assert roc_auc_score(data.labels[test], predict(fitted.model, data.images[test], settings(), CPU)) > 0.95


# ---------------------------------------------------------------- the test fold stays shut


class Guarded(np.ndarray):
    """Images of which some may not be looked at."""

    shut: frozenset[int] = frozenset()

    def __getitem__(self, key: Any) -> Any:
        assert isinstance(key, np.ndarray), "only whole folds by position"
        assert not self.shut & set(key.tolist()), "the test fold was read"
        return np.asarray(super().__getitem__(key))


@pytest.mark.parametrize("regime", list(REGIMES))
def test_training_never_reads_the_test_fold(data: Dataset, regime: str) -> None:
    assert not {"test", "data", "dataset"} & set(inspect.signature(fit).parameters)
    guarded = data.images.view(Guarded)
    guarded.shut = frozenset(data.indices("test").tolist())
    object.__setattr__(data, "images", guarded)
    with pytest.raises(AssertionError, match="test fold was read"):
        data.images[data.indices("test")]
    run(data, regime)


def test_labels_of_the_test_fold_change_nothing(data: Dataset) -> None:
    before = run(data, "duplicate")
    data.labels[data.indices("test")] = 0
    assert np.array_equal(before.val_score, run(data, "duplicate").val_score)


# ---------------------------------------------------------------- selection


def wavering(data: Dataset, selection: str) -> Fitted:
    """A learning rate so high that validation is best before the end."""
    return run(data, lr=0.03, schedule="constant", steps=24, evaluations=8, selection=selection)


def test_the_step_with_the_lowest_validation_nll_is_kept(data: Dataset) -> None:
    fitted, val = wavering(data, "best_val_nll"), data.indices("val")
    losses = {h["step"]: h["val_nll"] for h in fitted.history}
    assert fitted.selected_step == min(losses, key=losses.__getitem__) != 24
    assert list(losses) == [3, 6, 9, 12, 15, 18, 21, 24]
    score = np.clip(fitted.val_score, 1e-7, 1 - 1e-7)
    assert log_loss(data.labels[val], score) == pytest.approx(losses[fitted.selected_step], rel=1e-5)
    again = predict(fitted.model, data.images[val], settings(), CPU)
    assert np.array_equal(again, fitted.val_score), "the model returned is not the one selected"
    assert not fitted.model.training


def test_the_last_rule_keeps_the_last_step(data: Dataset) -> None:
    fitted, val = wavering(data, "last"), data.indices("val")
    assert fitted.selected_step == 24
    assert fitted.history == wavering(data, "best_val_nll").history
    again = predict(fitted.model, data.images[val], settings(), CPU)
    assert np.array_equal(again, fitted.val_score)
    assert log_loss(data.labels[val], again) == pytest.approx(fitted.history[-1]["val_nll"], rel=1e-5)


def test_the_threshold_comes_from_validation_of_the_selected_step(data: Dataset) -> None:
    fitted, truth = wavering(data, "best_val_nll"), data.labels[data.indices("val")]
    assert fitted.threshold == trainer.threshold_rule("balanced_accuracy")(truth, fitted.val_score)
    assert run(data, threshold="half").threshold == 0.5


@given(st.integers(1, 300), st.integers(1, 40))
def test_validation_is_looked_at_evenly(steps: int, evaluations: int) -> None:
    chosen = sorted(evaluation_steps(settings(steps=steps, evaluations=evaluations)))
    assert len(chosen) == min(steps, evaluations)
    assert chosen[-1] == steps
    gaps = np.diff([0, *chosen])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert all(isinstance(step, int) for step in chosen)


# ---------------------------------------------------------------- loss, schedule, normalisation


@given(st.lists(st.integers(0, 1), max_size=40))
def test_class_weights_are_sklearns_balanced_ones(more: list[int]) -> None:
    labels = np.array([0, 1, *more])
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert trainer.class_weights(labels, weighted=True) == pytest.approx(expected)
    assert trainer.class_weights(labels, weighted=False).tolist() == [1, 1]


@pytest.mark.parametrize("regime", ["baseline", "weighted"])
def test_the_first_loss_by_hand(data: Dataset, regime: str) -> None:
    """Binary cross-entropy of the first batch under the first weights, classes weighted or not."""
    seed, config = 4, settings(steps=1, evaluations=1)
    loss = run(data, regime, seed, steps=1, evaluations=1).history[0]["train_loss"]
    train = training_set(data, REGIMES[regime], None, seed, data.deficit)
    index = batch_indices(len(train.images), 8, 0, seed)
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(config).train()
    torch.manual_seed(derive_seed(seed, "dropout"))
    pixels = torch.from_numpy(train.images[index]).double()[:, None]
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) / pixels.std((1, 2, 3), keepdim=True)
    p, y = model(pixels.float()).sigmoid().detach().double().numpy(), train.labels[index]
    assert set(y) == {0, 1}
    weight = {0: 1.0, 1: 1.0} if regime == "baseline" else {0: 28 / 16, 1: 28 / 40}
    expected = np.mean([weight[t] * -np.log(s if t else 1 - s) for t, s in zip(y.tolist(), p, strict=True)])
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_cosine_goes_from_the_full_rate_to_nearly_nothing(data: Dataset, rates: list[float]) -> None:
    run(data, steps=20, lr=0.01, schedule="cosine")
    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(dummy, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(dummy.param_groups[0]["lr"])
        dummy.step()
        reference.step()
    assert rates == pytest.approx(expected)
    assert rates[0] == 0.01
    assert rates[-1] < 0.01 * 0.01
    rates.clear()
    run(data, steps=5, lr=0.01, schedule="constant")
    assert rates == [0.01] * 5


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_optimizers_take_the_settings_and_leave_the_frozen_alone(kind: str) -> None:
    config = settings(optimizer=kind, lr=0.02, weight_decay=0.3)
    model = build_model(config)
    next(model.parameters()).requires_grad_(False)
    optimizer = trainer.make_optimizer(config, model)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert len(group["params"]) == len(list(model.parameters())) - 1


@given(st.integers(0, 2**16), st.floats(0.2, 3), st.floats(-100, 100))
def test_per_image_standardisation_takes_exposure_out(seed: int, gain: float, offset: float) -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double() * 255
    out = normalise(images, "per_image")
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.std((1, 2, 3)), torch.ones(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalise(gain * images + offset, "per_image"), out, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(normalise(images[1:2], "per_image"), out[1:2])


def test_an_empty_image_is_no_nan() -> None:
    assert normalise(torch.full((1, 1, 8, 8), 7.0), "per_image").tolist() == torch.zeros(1, 1, 8, 8).tolist()


def test_other_normalisations() -> None:
    images = torch.arange(256.0).view(1, 1, 16, 16)
    unit = normalise(images, "unit")
    assert (unit.min(), unit.max()) == (0, 1)
    expected = normalize(unit.expand(1, 3, 16, 16), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(images, "imagenet"), expected)


# ---------------------------------------------------------------- augmentation


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, int]]:
    """An augmentation that blackens every image; the calls made to it."""
    calls: list[tuple[np.ndarray, int]] = []

    class Blacken:
        def __init__(self, preset: str, seed: int) -> None:
            assert preset == "mild"

        def __call__(self, images: np.ndarray, indices: np.ndarray, draw: int) -> np.ndarray:
            assert len(images) == len(indices)
            calls.append((indices, draw))
            return np.zeros_like(images)

    monkeypatch.setattr(trainer, "Augmenter", Blacken)
    return calls


def test_only_training_images_are_augmented(data: Dataset, augmented: list) -> None:
    fitted, val = run(data, "combined", steps=12), data.indices("val")
    assert [draw for _, draw in augmented] == list(range(12))
    seen = np.unique(np.concatenate([indices for indices, _ in augmented]))
    assert seen.max() >= 28, "synthetic images are augmented too"
    assert len(set(fitted.val_score)) == len(val), "validation was blackened"
    assert np.array_equal(fitted.val_score, predict(fitted.model, data.images[val], settings(), CPU))


@pytest.mark.parametrize("regime", [r.name for r in REGIMES.values() if not r.augment])
def test_regimes_without_augmentation_leave_images_as_they_are(data: Dataset, augmented: list, regime: str) -> None:
    run(data, regime)
    assert augmented == []


def test_augmentation_changes_the_training(data: Dataset) -> None:
    assert not np.array_equal(run(data, "baseline").val_score, run(data, "augment").val_score)


# ---------------------------------------------------------------- the rest


def test_passes_over_real_images_are_counted(data: Dataset) -> None:
    for regime, n in (("baseline", 28), ("gan", 40)):
        drawn = np.concatenate([batch_indices(n, 8, step, 5) for step in range(6)])
        assert run(data, regime, seed=5).passes_over_real == pytest.approx(sum(drawn < 28) / 28)


def test_scores_are_probabilities_whatever_the_batch(data: Dataset) -> None:
    torch.manual_seed(0)
    model = build_model(settings())
    scores = predict(model.train(), data.images, settings(), CPU, batch_size=7)
    assert scores.dtype == np.float64
    assert scores == pytest.approx(predict(model, data.images, settings(), CPU, batch_size=64), abs=1e-5)
    with torch.no_grad():
        by_hand = 1 / (1 + np.exp(-model(trainer.to_input(data.images, settings(), CPU)).double().numpy()))
    assert scores == pytest.approx(by_hand, abs=1e-5)


def test_a_signal_ends_the_training_at_a_step(data: Dataset) -> None:
    answers: Iterator[int | None] = iter([None, None, 2])
    train = TrainingSet(data.images, data.labels, len(data.images), 0, None)
    with pytest.raises(Interrupted, match="SIGINT: stopped in baseline, seed 0") as caught:
        fit(settings(steps=9), REGIMES["baseline"], 0, train, (data.images, data.labels), CPU, lambda: next(answers))
    assert caught.value.exit_code == 130
    assert next(answers, "all asked") == "all asked"


@pytest.mark.parametrize("steps", [1, 4])
def test_a_loss_that_explodes_is_an_error(data: Dataset, steps: int) -> None:
    """After one step the loss was still finite, but the weights are not."""
    with pytest.raises(BalancerError, match=r"baseline, seed 0: the loss is not finite by step .*; lower lr"):
        run(data, lr=1e38, optimizer="sgd", steps=steps, evaluations=1, schedule="constant")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "resnet19"}, "model is 'resnet19'; did you mean"),
        ({"model": "resnet19", "weights": "imagenet"}, "model is 'resnet19'; did you mean"),
        ({"threshold": "youden"}, "threshold is 'youden'"),
        ({"augmentation": "mildly"}, "augmentation is 'mildly'; did you mean 'mild'"),
        ({"model": "s2_cnn", "weights": "imagenet"}, "weights, freeze and normalisation"),
    ],
)
def test_the_check_refuses_what_cannot_work(more: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(settings(**more))
