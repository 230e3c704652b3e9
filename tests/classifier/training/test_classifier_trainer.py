"""Training: pairing, determinism, equal steps, selection on validation, and what each regime trains on."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from tiny import CPU, small_cnn
from torch import nn

from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.seeding import derive_seed
from balancer.data.dataset import Dataset
from balancer.data.sampling import batch_indices
from classifier.evaluation.thresholds import threshold_rule, with_temperature
from classifier.models import build_model
from classifier.training import inputs, trainer
from classifier.training.losses import make_loss, with_penalty
from classifier.training.prediction import predict, to_input
from classifier.training.regimes import REGIMES
from classifier.training.stages import validation_steps
from classifier.training.trainer import TrainResult
from classifier.training.training_set import training_set

MakeData = Callable[..., Dataset]


def run(data: Dataset, regime: str = "baseline", seed: int = 0, **more: Any) -> TrainResult:
    return tiny.train(data, small_cnn(**more), regime, seed)


def losses(result: TrainResult, kind: str = "train_loss") -> list[float]:
    return [getattr(validation, kind) for validation in result.history]


# ---------------------------------------------------------------- pairing and determinism


def test_one_seed_starts_every_regime_from_the_same_weights(data: Dataset, built: list) -> None:
    paired = [name for name, regime in REGIMES.items() if not regime.seed_offset]
    for regime in (*paired, "baseline_again"):
        run(data, regime, seed=2, steps=1, evaluations=1)
    first, *same, other = [weights for _, weights in built]
    assert len(same) == len(paired) - 1
    assert all(torch.equal(first[k], s[k]) for s in same for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_every_regime_makes_the_same_number_of_steps(data: Dataset, rates: list[float]) -> None:
    for count, regime in enumerate(REGIMES, 1):
        run(data, regime, steps=7)
        assert len(rates) == 7 * count


@pytest.mark.parametrize("regime", ["combined", "weighted_augment"])
def test_a_seed_repeats_to_the_bit(data: Dataset, regime: str) -> None:
    one, two, other = run(data, regime, seed=1), run(data, regime, seed=1), run(data, regime, seed=2)
    assert np.array_equal(one.val_score, two.val_score)
    assert (one.history, one.threshold) == (two.history, two.threshold)
    assert all(torch.equal(v, two.model.state_dict()[k]) for k, v in one.model.state_dict().items())
    assert not np.array_equal(one.val_score, other.val_score)


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
    assert not {"test", "data", "dataset"} & set(inspect.signature(trainer.train).parameters)
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


# ---------------------------------------------------------------- selection and calibration


def wavering(data: Dataset, selection: str) -> TrainResult:
    """A learning rate so high that validation is best before the end."""
    return run(data, lr=0.03, schedule="constant", steps=24, evaluations=8, selection=selection)


def test_the_step_with_the_lowest_validation_nll_is_kept(data: Dataset) -> None:
    result, val = wavering(data, "best_val_nll"), data.indices("val")
    by_step = dict(zip(losses(result, "step"), losses(result, "val_nll"), strict=True))
    assert list(by_step) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert result.selected_step == min(by_step, key=by_step.__getitem__) != 24
    score = np.clip(result.val_score, 1e-7, 1 - 1e-7)
    assert log_loss(data.labels[val], score) == pytest.approx(by_step[result.selected_step], rel=1e-5)
    again = predict(result.model, data.images[val], small_cnn(), CPU)
    assert np.array_equal(again, result.val_score), "the model returned is not the one selected"
    assert not result.model.training
    assert result.threshold == threshold_rule("balanced_accuracy")(data.labels[val], result.val_score)
    assert run(data, threshold="half").threshold == 0.5


def test_the_last_rule_keeps_the_last_step_and_the_temperature_fits_it(data: Dataset) -> None:
    result, val = wavering(data, "last"), data.indices("val")
    assert result.selected_step == 24
    assert result.history == wavering(data, "best_val_nll").history
    plain = predict(result.model, data.images[val], small_cnn(), CPU)
    assert np.array_equal(result.val_score, plain), "scores are kept without the temperature"
    assert log_loss(data.labels[val], plain) == pytest.approx(result.history[-1].val_nll, rel=1e-5)

    def nll(temperature: float) -> float:
        return log_loss(data.labels[val], np.clip(with_temperature(plain, temperature), 1e-12, 1 - 1e-12))

    assert nll(result.temperature) <= min(map(nll, np.exp(np.linspace(-3, 3, 601)))) + 1e-6
    assert result.temperature != 1


def test_averaged_weights_are_validated_and_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the first weights copied after step 1, then .8 of the average and .2 of the new weights."""
    seen: list[dict[str, torch.Tensor]] = []
    step = trainer.train_step

    def watched(model: nn.Module, *args: Any) -> torch.Tensor:
        loss = step(model, *args)
        seen.append({k: v.detach().clone() for k, v in model.named_parameters()})
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", watched)
        result, val = run(data, ema_decay=0.8, selection="last"), data.indices("val")
    expected = seen[0]
    for weights in seen[1:]:
        expected = {k: 0.8 * expected[k] + 0.2 * weights[k] for k in expected}
    for name, parameter in result.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6)
    score = predict(result.model, data.images[val], small_cnn(), CPU)
    assert result.history[-1].val_nll == pytest.approx(log_loss(data.labels[val], score), rel=1e-5)
    plain = run(data, selection="last")
    assert losses(plain) == losses(result)
    assert losses(plain, "val_nll") != losses(result, "val_nll")


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_reestimated_statistics_are_those_of_unaugmented_training_images(data: Dataset, ema_decay: float) -> None:
    """The first BatchNorm by hand: mean and variance of the first convolution's output over the images as they are."""
    result = run(data, "augment", bn_statistics="reestimated", ema_decay=ema_decay, batch_size=28)
    images = to_input(data.images[data.indices("train")], small_cnn(), CPU)  # each batch holds them all
    convolution, norm = result.model.features[0], result.model.features[1]
    with torch.no_grad():
        out = convolution(images)
    torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, out.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    other = run(data, "augment", ema_decay=ema_decay, batch_size=28)
    assert losses(other) == losses(result), "training is the same"
    assert not torch.allclose(other.model.features[1].running_mean, out.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


@given(st.integers(1, 300), st.integers(1, 40))
def test_validations_are_evenly_spread(steps: int, evaluations: int) -> None:
    chosen = sorted(validation_steps(steps, evaluations))
    assert len(chosen) == min(steps, evaluations)
    assert chosen[-1] == steps
    gaps = np.diff([0, *chosen])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    assert all(isinstance(step, int) for step in chosen)


def test_validations_are_reported(data: Dataset) -> None:
    seen: dict[int, np.ndarray] = {}
    result, truth = tiny.train(data, small_cnn(), on_validation=seen.__setitem__), data.labels[data.indices("val")]
    assert list(seen) == losses(result, "step") == [2, 4, 6]
    assert [log_loss(truth, score) for score in seen.values()] == pytest.approx(losses(result, "val_nll"))


# ---------------------------------------------------------------- loss and learning rate


@pytest.mark.parametrize("regime", ["baseline", "weighted"])
def test_the_first_loss_by_hand(data: Dataset, regime: str) -> None:
    """Binary cross-entropy of the first batch under the first weights, classes weighted or not."""
    seed = 4
    loss = run(data, regime, seed, steps=1, evaluations=1).history[0].train_loss
    train = training_set(data, REGIMES[regime], None, seed, data.deficit)
    index = batch_indices(len(train.images), 8, 0, seed)
    torch.manual_seed(derive_seed(seed, "init"))
    model = build_model(small_cnn()).train()
    torch.manual_seed(derive_seed(seed, "dropout"))
    pixels = torch.from_numpy(train.images[index]).double()[:, None]
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) / pixels.std((1, 2, 3), keepdim=True)
    p, y = model(pixels.float()).sigmoid().detach().double().numpy(), train.labels[index]
    assert set(y) == {0, 1}
    weight = {0: 1.0, 1: 1.0} if regime == "baseline" else {0: 28 / 16, 1: 28 / 40}
    expected = np.mean([weight[t] * -np.log(s if t else 1 - s) for t, s in zip(y.tolist(), p, strict=True)])
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("regime", "steps"), [("baseline", 14), ("gan", 20), ("duplicate", 20), ("weighted", 14), ("undersample", 8)]
)
def test_equal_exposure_gives_every_regime_as_many_passes_over_real_images(
    data: Dataset, regime: str, steps: int
) -> None:
    """28 real images, 12 added: 40 / 28 as many steps; 12 left out: 16 / 28."""
    result = run(data, regime, steps=14, exposure="real")
    assert (result.steps, result.selected_step <= steps) == (steps, True)
    assert result.passes_over_real == pytest.approx(14 * 8 / 28, abs=0.5)


def test_passes_over_real_images_are_counted(data: Dataset) -> None:
    for regime, n in (("baseline", 28), ("gan", 40)):
        drawn = np.concatenate([batch_indices(n, 8, step, 5) for step in range(6)])
        assert run(data, regime, seed=5).passes_over_real == pytest.approx(sum(drawn < 28) / 28)


def test_every_step_has_the_rate_of_the_schedule(data: Dataset, rates: list[float]) -> None:
    run(data, steps=20, lr=0.01, schedule="cosine")
    assert rates == pytest.approx(0.005 * (1 + np.cos(np.pi * np.arange(20) / 20)))


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_optimizers_take_the_settings_and_leave_the_frozen_alone(kind: str) -> None:
    config = small_cnn(optimizer=kind, lr=0.02, weight_decay=0.3)
    model = build_model(config)
    next(model.parameters()).requires_grad_(False)
    optimizer = trainer.make_optimizer(config, model)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert len(group["params"]) == len(list(model.parameters())) - 1


# ---------------------------------------------------------------- augmentation


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, int]]:
    """An augmentation that blackens every image; the calls made to it."""
    calls: list[tuple[np.ndarray, int]] = []

    class Blacken:
        def __init__(self, preset: str, seed: int, flips: bool) -> None:
            assert preset == "mild"

        def __call__(self, images: np.ndarray, indices: np.ndarray, draw: int) -> np.ndarray:
            assert len(images) == len(indices)
            calls.append((indices, draw))
            return np.zeros_like(images)

    monkeypatch.setattr(inputs, "Augmenter", Blacken)
    return calls


def test_only_training_images_are_augmented(data: Dataset, augmented: list) -> None:
    result, val = run(data, "combined", steps=12), data.indices("val")
    assert [draw for _, draw in augmented] == list(range(12))
    seen = np.unique(np.concatenate([indices for indices, _ in augmented]))
    assert seen.max() >= 28, "synthetic images are augmented too"
    assert len(set(result.val_score)) == len(val), "validation was blackened"
    assert np.array_equal(result.val_score, predict(result.model, data.images[val], small_cnn(), CPU))


@pytest.mark.parametrize("regime", [r.name for r in REGIMES.values() if not r.augment])
def test_regimes_without_augmentation_leave_images_as_they_are(data: Dataset, augmented: list, regime: str) -> None:
    run(data, regime, steps=1)
    assert augmented == []


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(parts: int, penalty: float, data: Dataset) -> None:
    """Without BatchNorm and dropout; parts of unequal size (8 in 3), weighted classes."""
    images, y = torch.randn(8, 6), torch.tensor([0, 1, 1, 1, 0, 1, 1, 1])
    train, gradients = training_set(data, REGIMES["weighted"], None, 0, 0), []
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    loss_of = with_penalty(make_loss(small_cnn(), REGIMES["weighted"], train, CPU), net[0].weight, penalty)
    for accumulate in (1, parts):
        still = torch.optim.SGD(net.parameters(), lr=0)
        loss = trainer.train_step(net, still, loss_of, images.double(), y, "float32", accumulate)
        gradients.append([loss.double(), *(p.grad.clone() for p in net.parameters())])
    for whole, part in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("outputs", ["sigmoid", "softmax"])
def test_it_learns_with_one_output_and_with_two(outputs: str, make_data: MakeData) -> None:
    data = make_data((30, 30))
    result, test = run(data, steps=60, batch_size=16, outputs=outputs), data.indices("test")
    assert [p.shape[0] for p in result.model.head[1].parameters()] == [1 + (outputs == "softmax")] * 2
    assert result.val_score.shape == (12,)
    assert result.history[-1].val_nll < 0.3
    assert roc_auc_score(data.labels[test], predict(result.model, data.images[test], small_cnn(), CPU)) > 0.95


def test_three_classes(make_data: MakeData) -> None:
    """A third class, with a brighter upper half, is told from the others."""
    data = make_data((20, 40), val=(6, 12))
    third = np.flatnonzero(data.labels == 1)[::2]
    data.labels[third] = 2
    data.images[third] = data.images[third, ::-1]
    data, val = replace(data, classes=("A", "B", "C")), data.indices("val")
    config = small_cnn(selection="last", steps=60, batch_size=16)
    result = tiny.train(data, config)
    assert result.val_score.shape == (18, 3)
    assert result.val_score.sum(1) == pytest.approx(np.ones(18))
    assert (result.val_score.argmax(1) == data.labels[val]).mean() > 0.8
    score = predict(result.model, data.images[val], config, CPU)
    assert result.history[-1].val_nll == pytest.approx(log_loss(data.labels[val], score))
    assert result.threshold == 0.5


def test_a_signal_ends_the_training_at_a_step(data: Dataset) -> None:
    answers: Iterator[int | None] = iter([None, None, 2])
    with pytest.raises(Interrupted, match="SIGINT: stopped in baseline, seed 0") as caught:
        tiny.train(data, small_cnn(steps=9), interrupt=lambda: next(answers))
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
        ({"model": "resnet19", "weights": "imagenet"}, "model is 'resnet19'; did you mean"),
        ({"threshold": "yuoden"}, "threshold is 'yuoden'"),
        ({"augmentation": "mildly"}, "augmentation is 'mildly'; did you mean 'mild'"),
        ({"model": "resnet18", "batch_norm": False}, "batch_norm is False, which is for built-in networks"),
        ({"batch_size": 8, "accumulate": 6}, "accumulate is 6 with batch_size 8"),
        ({"focal_gamma": 0.5}, "focal_gamma is 0.5"),
        ({"s2": {"conv": [8]}}, "s2 holds the sizes of s2_cnn; model is 'small_cnn'"),
        ({"model": "resnet18", "head_width": 64}, "head_width is 64, but a linear head has no dense layer"),
        ({"model": "resnet18", "head_l2": 0.02}, "head_l2 is 0.02, but a linear head has no dense layer"),
    ],
)
def test_the_check_refuses_what_cannot_work(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(small_cnn(**more))


def test_full_memory_is_one_line(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(trainer, "train_step", full)
    with pytest.raises(BalancerError, match="the memory of cpu is full at batch_size 8") as caught:
        run(data)
    assert "\n" not in str(caught.value)
