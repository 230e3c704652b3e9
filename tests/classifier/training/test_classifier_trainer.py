"""Training: pairing, determinism, equal steps, selection on validation, and what each regime trains on."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fakes import synthetic_set
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torchvision.transforms.functional import normalize

from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from classifier.evaluation.thresholds import with_temperature
from classifier.models import build_model
from classifier.training import inputs, trainer
from classifier.training.prediction import normalise, predict
from classifier.training.regimes import REGIMES
from classifier.training.trainer import TrainResult, train, validation_steps
from classifier.training.training_set import BatchSampler, TrainingSet, training_set

CPU = torch.device("cpu")
MakeData = Callable[..., Dataset]


def settings(**more: Any) -> ClassifierConfig:
    return ClassifierConfig(
        **{
            "data": DataConfig(image_size=16),
            "steps": 6,
            "batch_size": 8,
            "evaluations": 3,
            "precision": "float32",  # auto is bfloat16 on some processors
            "selection": "best_val_nll",
            "ema_decay": 0.0,
            "bn_statistics": "running",
            **more,
        }
    )


def run(data: Dataset, regime: str = "baseline", seed: int = 0, **more: Any) -> TrainResult:
    chosen, val = REGIMES[regime], data.indices("val")
    train_set = training_set(
        data, chosen, synthetic_set(data, data.deficit) if chosen.synthetic else None, seed, data.deficit
    )
    return train(settings(**more), chosen, seed, train_set, (data.images[val], data.labels[val]), CPU)


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


# ---------------------------------------------------------------- pairing and determinism


def test_one_seed_starts_every_regime_from_the_same_weights(data: Dataset, starts: list) -> None:
    paired = [name for name, regime in REGIMES.items() if not regime.seed_offset]
    for regime in paired:
        run(data, regime, seed=2, steps=1, evaluations=1)
    run(data, "baseline_again", seed=2, steps=1, evaluations=1)
    first, *same, other = starts
    assert len(same) == len(paired) - 1
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
    assert not {"test", "data", "dataset"} & set(inspect.signature(train).parameters)
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


def wavering(data: Dataset, selection: str) -> TrainResult:
    """A learning rate so high that validation is best before the end."""
    return run(data, lr=0.03, schedule="constant", steps=24, evaluations=8, selection=selection)


def test_the_step_with_the_lowest_validation_nll_is_kept(data: Dataset) -> None:
    fitted, val = wavering(data, "best_val_nll"), data.indices("val")
    losses = {h.step: h.val_nll for h in fitted.history}
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
    assert log_loss(data.labels[val], predict(fitted.model, data.images[val], settings(), CPU)) == pytest.approx(
        fitted.history[-1].val_nll, rel=1e-5
    )


def test_averaged_weights_are_what_is_looked_at_and_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the first weights copied after step 1, then .8 of the average and .2 of the new weights."""
    seen: list[dict[str, torch.Tensor]] = []
    original = trainer.make_optimizer

    def watched(config: ClassifierConfig, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = original(config, model)
        optimizer.register_step_post_hook(lambda *_: seen.append({k: v.clone() for k, v in model.named_parameters()}))
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", watched)
    fitted, val = run(data, ema_decay=0.8, selection="last"), data.indices("val")
    expected = seen[0]
    for weights in seen[1:]:
        expected = {k: 0.8 * expected[k] + 0.2 * weights[k] for k in expected}
    for name, parameter in fitted.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6)
    score = predict(fitted.model, data.images[val], settings(), CPU)
    assert fitted.history[-1].val_nll == pytest.approx(log_loss(data.labels[val], score), rel=1e-5)
    plain = run(data, selection="last")
    assert [h.train_loss for h in plain.history] == [h.train_loss for h in fitted.history]
    assert [h.val_nll for h in plain.history] != [h.val_nll for h in fitted.history]


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_clean_statistics_are_those_of_unaugmented_training_images(data: Dataset, ema_decay: float) -> None:
    """The first BatchNorm by hand: mean and variance of the first convolution's output over the images as they are."""
    fitted = run(data, "augment", bn_statistics="reestimated", ema_decay=ema_decay, batch_size=28)
    images = trainer.to_input(data.images[data.indices("train")], settings(), CPU)  # each batch holds them all
    convolution, norm = fitted.model.features[0], fitted.model.features[1]
    with torch.no_grad():
        out = convolution(images)
    torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, out.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    other = run(data, "augment", ema_decay=ema_decay, batch_size=28)
    assert [h.train_loss for h in other.history] == [h.train_loss for h in fitted.history], "training is the same"
    assert not torch.allclose(other.model.features[1].running_mean, out.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_the_temperature_comes_from_validation(data: Dataset) -> None:
    fitted, val = wavering(data, "last"), data.indices("val")
    plain = predict(fitted.model, data.images[val], settings(), CPU)
    grid = np.exp(np.linspace(-3, 3, 601))
    losses = [log_loss(data.labels[val], np.clip(with_temperature(plain, t), 1e-12, 1 - 1e-12)) for t in grid]
    assert np.array_equal(fitted.val_score, plain), "scores are kept without it"
    calibrated = with_temperature(plain, fitted.temperature)
    assert log_loss(data.labels[val], np.clip(calibrated, 1e-12, 1 - 1e-12)) <= min(losses) + 1e-6
    assert fitted.temperature != 1


def test_the_threshold_comes_from_validation_of_the_selected_step(data: Dataset) -> None:
    fitted, truth = wavering(data, "best_val_nll"), data.labels[data.indices("val")]
    assert fitted.threshold == trainer.threshold_rule("balanced_accuracy")(truth, fitted.val_score)
    assert run(data, threshold="half").threshold == 0.5


@given(st.integers(1, 300), st.integers(1, 40))
def test_validation_is_looked_at_evenly(steps: int, evaluations: int) -> None:
    chosen = sorted(validation_steps(steps, evaluations))
    assert len(chosen) == min(steps, evaluations)
    assert chosen[-1] == steps
    gaps = np.diff([0, *chosen])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert all(isinstance(step, int) for step in chosen)


# ---------------------------------------------------------------- loss, schedule, normalisation


@pytest.mark.parametrize("regime", ["baseline", "weighted"])
def test_the_first_loss_by_hand(data: Dataset, regime: str) -> None:
    """Binary cross-entropy of the first batch under the first weights, classes weighted or not."""
    seed, config = 4, settings(steps=1, evaluations=1)
    loss = run(data, regime, seed, steps=1, evaluations=1).history[0].train_loss
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


def test_focal_loss_of_the_first_batch_by_hand(data: Dataset) -> None:
    """(1 - p of the true class) ** gamma times the cross-entropy, Lin et al. 2017, equation 4."""
    seed, config = 4, settings(steps=1, evaluations=1)
    loss = run(data, "focal", seed, steps=1, evaluations=1, focal_gamma=1.5).history[0].train_loss
    train = training_set(data, REGIMES["focal"], None, seed, 0)
    index = batch_indices(28, 8, 0, seed)
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(config).train()
    torch.manual_seed(derive_seed(seed, "dropout"))
    p = model(trainer.to_input(train.images[index], config, CPU)).sigmoid().detach().double().numpy()
    true = np.where(train.labels[index] == 1, p, 1 - p)
    assert loss == pytest.approx(np.mean((1 - true) ** 1.5 * -np.log(true)), rel=1e-4)


def test_smoothed_labels_by_hand(data: Dataset) -> None:
    config, train = settings(label_smoothing=0.1), training_set(data, REGIMES["baseline"], None, 0, 0)
    loss = trainer.make_loss(config, REGIMES["baseline"], train, CPU)
    p = 1 / (1 + np.exp(-2.0))
    expected = np.mean([-0.9 * np.log(p) - 0.1 * np.log(1 - p), -0.1 * np.log(p) - 0.9 * np.log(1 - p)])
    assert float(loss(torch.tensor([2.0, 2.0]), torch.tensor([1, 0]))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("regime", "steps"), [("baseline", 14), ("gan", 20), ("duplicate", 20), ("weighted", 14)])
def test_equal_exposure_gives_every_regime_as_many_passes_over_real_images(
    data: Dataset, regime: str, steps: int
) -> None:
    """28 real images, 12 added: 40 / 28 as many steps."""
    fitted = run(data, regime, steps=14, exposure="real")
    assert (fitted.steps, fitted.selected_step <= steps) == (steps, True)
    assert fitted.passes_over_real == pytest.approx(14 * 8 / 28, abs=0.5)


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
    torch.testing.assert_close(normalise(images, "symmetric"), normalize(unit, [0.5], [0.5]))
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

    monkeypatch.setattr(inputs, "Augmenter", Blacken)
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


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(parts: int, penalty: float, data: Dataset) -> None:
    """Without BatchNorm and dropout; parts of unequal size (8 in 3), weighted classes."""
    images, y = torch.randn(8, 6), torch.tensor([0, 1, 1, 1, 0, 1, 1, 1])
    train, gradients = training_set(data, REGIMES["weighted"], None, 0, 0), []
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    loss_of = trainer.make_loss(settings(), REGIMES["weighted"], train, CPU)
    loss_of = trainer.with_penalty(loss_of, net[0].weight, penalty)
    for accumulate in (1, parts):
        still = torch.optim.SGD(net.parameters(), lr=0)
        loss = trainer.train_step(net, still, loss_of, images.double(), y, "float32", accumulate)
        gradients.append([loss.double(), *(p.grad.clone() for p in net.parameters())])
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("outputs", ["sigmoid", "softmax"])
def test_two_outputs_learn_as_one_does(outputs: str, make_data: MakeData) -> None:
    data = make_data((30, 30))
    fitted = run(data, steps=60, batch_size=16, outputs=outputs)
    assert [p.shape[0] for p in fitted.model.head[1].parameters()] == [1 + (outputs == "softmax")] * 2
    assert fitted.val_score.shape == (12,)
    assert fitted.history[-1].val_nll < 0.3


def test_three_classes(make_data: MakeData) -> None:
    """A third class, with a brighter upper half, is told from the others."""
    data = make_data((20, 40), val=(6, 12))
    third = np.flatnonzero(data.labels == 1)[::2]
    images, labels = data.images.copy(), data.labels.copy()
    labels[third] = 2
    images[third] = images[third, ::-1]
    train_index, val = data.indices("train"), data.indices("val")
    config = settings(data={"image_size": 16, "task": "multiclass"}, outputs="softmax", steps=60, batch_size=16)
    config = config.model_copy(update={"selection": "last"})
    of = TrainingSet(images[train_index], labels[train_index], len(train_index), 0, None, 3)
    fitted = train(config, REGIMES["baseline"], 0, of, (images[val], labels[val]), CPU)
    assert fitted.val_score.shape == (18, 3)
    assert fitted.val_score.sum(1) == pytest.approx(np.ones(18))
    assert (fitted.val_score.argmax(1) == labels[val]).mean() > 0.8
    score = predict(fitted.model, images[val], config, CPU)
    assert fitted.history[-1].val_nll == pytest.approx(log_loss(labels[val], score))
    assert fitted.threshold == 0.5


def test_looks_are_told(data: Dataset) -> None:
    train_set, val, told = training_set(data, REGIMES["baseline"], None, 0, 0), data.indices("val"), []
    arguments = (settings(), REGIMES["baseline"], 0, train_set, (data.images[val], data.labels[val]), CPU)
    fitted = train(*arguments, on_validation=lambda step, score: told.append((step, log_loss(data.labels[val], score))))
    assert [step for step, _ in told] == [h.step for h in fitted.history] == [2, 4, 6]
    assert [loss for _, loss in told] == pytest.approx([h.val_nll for h in fitted.history])


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
    train_set = TrainingSet(data.images, data.labels, len(data.images), 0, None)
    with pytest.raises(Interrupted, match="SIGINT: stopped in baseline, seed 0") as caught:
        train(
            settings(steps=9), REGIMES["baseline"], 0, train_set, (data.images, data.labels), CPU, lambda: next(answers)
        )
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
        ({"threshold": "yuoden"}, "threshold is 'yuoden'"),
        ({"augmentation": "mildly"}, "augmentation is 'mildly'; did you mean 'mild'"),
        ({"model": "s2_cnn", "weights": "imagenet"}, "weights is 'imagenet', which is for torchvision backbones"),
        ({"model": "resnet18", "batch_norm": False}, "batch_norm is False, which is for built-in networks"),
        ({"batch_size": 8, "accumulate": 6}, "accumulate is 6 with batch_size 8"),
        ({"focal_gamma": 0.5}, "focal_gamma is 0.5"),
        ({"s2": {"conv": [8]}}, "s2 holds the sizes of s2_cnn; model is 'small_cnn'"),
        ({"head_width": 64}, "head_width is 64, which is for torchvision backbones"),
        ({"model": "resnet18", "head_width": 64}, "head_width is 64, but a linear head has no dense layer"),
        (
            {"data": DataConfig(task="multiclass"), "outputs": "sigmoid"},
            "NORMAL, BACTERIAL, VIRAL are 3: use softmax",
        ),
    ],
)
def test_the_check_refuses_what_cannot_work(more: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(settings(**more))


def test_full_memory_is_one_line(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(trainer, "train_step", full)
    with pytest.raises(
        BalancerError, match="the memory of cpu is full at batch_size 8; use a smaller batch_size"
    ) as caught:
        run(data)
    assert "\n" not in str(caught.value)


def test_oversampling_needs_room_for_every_class(data: Dataset) -> None:
    two = training_set(data, REGIMES["oversample"], None, 0, 0)
    three = replace(two, labels=np.arange(len(two.labels)) % 3, n_classes=3)
    with pytest.raises(UsageError, match="batch_size is 2, but oversample needs 3 classes in a batch"):
        BatchSampler(settings(batch_size=2), REGIMES["oversample"], three, 0)
