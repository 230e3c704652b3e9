"""Stages: epochs as steps, what is refused, what learns in each, where each begins, and when it ends early."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torchvision import models

from balancer.core.config import resolve
from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig, StageConfig, TrainConfig
from balancer.data.dataset import Dataset
from classifier.models import build_model
from classifier.training import trainer
from classifier.training.regimes import REGIMES
from classifier.training.stages import should_stop, stages
from classifier.training.training_set import training_set

HEAD = {"trainable": "head", "steps": 2}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model", tiny.resnet)


def staged(*parts: dict[str, Any], **more: Any) -> ClassifierConfig:
    return tiny.settings(stages=tuple(StageConfig(**part) for part in parts), **more)


# ---------------------------------------------------------------- lengths


@pytest.mark.parametrize("regime", list(REGIMES))
def test_an_epoch_is_as_long_in_every_regime(data: Dataset, regime: str) -> None:
    """28 real images in the fold in batches of 4; synthetic_only, which trains on 20 of them, too."""
    synthetic = tiny.synthetic_set(data, data.deficit) if REGIMES[regime].synthetic else None
    train = training_set(data, REGIMES[regime], synthetic, 0, data.deficit)
    assert [s.steps for s in stages(staged({"epochs": 3}, {"epochs": 0.5}, {"epochs": 0.01}), train)] == [21, 4, 1]


def test_what_a_stage_leaves_open_is_as_around_it(data: Dataset) -> None:
    train = training_set(data, REGIMES["baseline"], None, 0, 0)
    config = staged({"lr": 0.5, **HEAD}, {"schedule": "step", "lr_period": 2}, lr=0.1, weight_decay=0.3, patience=7)
    first, second = stages(config, train)
    assert (first.steps, first.lr, first.trainable, first.weight_decay, first.patience) == (2, 0.5, "head", 0.3, 7)
    assert (first.schedule, first.lr, first.lr_period) == ("cosine", 0.5, 28)
    assert (second.steps, second.lr, second.trainable, second.schedule) == (3, 0.1, "all", "step")
    assert second.lr_period == 14
    (only,) = stages(tiny.settings(steps=9), train)
    assert (only.steps, only.trainable, only.lr_factor) == (9, "all", 0.1)


def test_equal_exposure_lengthens_every_stage(data: Dataset) -> None:
    """12 images added to 28."""
    train = training_set(data, REGIMES["duplicate"], None, 0, 12)
    config = staged({"steps": 14}, {"epochs": 2}, exposure="real")
    assert [s.steps for s in stages(config, train)] == [20, 20]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: staged({"epochs": 1, "steps": 5}), "stage 1: epochs is 1 and steps is 5; give one"),
        (
            lambda: staged({}, {"schedule": "triangular", "lr_low": 0.1, "lr": 0.01}),
            r"stage 2: lr_low is 0\.1; .* below lr, which is 0\.01",
        ),
        (lambda: tiny.settings(schedule="triangular", lr=0.1, lr_low=0.1), r"^lr_low is 0\.1"),
        (lambda: tiny.settings(batch_size=8, accumulate=5), "accumulate is 5 with batch_size 8; .*at most 4"),
    ],
)
def test_settings_that_exclude_each_other(config: Callable[[], ClassifierConfig], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config()


def test_a_batch_larger_than_the_fold(data: Dataset) -> None:
    with pytest.raises(UsageError, match="batch_size is 29, but the training fold has 28 images"):
        tiny.train(data, tiny.settings(batch_size=29))


def test_more_layers_than_there_are(small: None) -> None:
    """A ResNet with 4 blocks: 5 + 4 * 4 + 3 * 2 - 3 layers, counted by hand below."""
    with torch.device("meta"):
        net = tiny.resnet("")
    layers = sum(isinstance(m, nn.Conv2d | nn.BatchNorm2d) for m in net.modules())
    trainer.check(staged({"trainable": layers}))
    with pytest.raises(UsageError, match=f"trainable is {layers + 1}, but resnet18 has {layers} layers"):
        trainer.check(staged({}, {"trainable": layers + 1}))


@pytest.mark.parametrize("trainable", ["head", 3])
def test_networks_of_our_own_learn_as_a_whole(trainable: Any) -> None:
    with pytest.raises(UsageError, match=r"trainable is .* torchvision backbones; model is 'small_cnn'"):
        trainer.check(staged({"trainable": trainable}, model="small_cnn"))


def test_the_command_line_refuses_a_wrong_stage_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"stage 1: setting .lr. is -1: input should be greater than 0"):
        resolve(TrainConfig, {"stages": [{"lr": -1}], "data": {"path": "phantom"}})


# ---------------------------------------------------------------- what learns


def layers_of(model: nn.Module) -> list[str]:
    """Names of layers with weights below the head, in torchvision's order."""
    return [n for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]


@pytest.mark.parametrize("trainable", ["all", "head", 1, 5])
@pytest.mark.parametrize("regime", ["baseline", "augment"])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(
    trainable: Any, regime: str, data: Dataset, small: None, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and BatchNorm statistics, with averaging and with statistics re-estimated."""
    monkeypatch.setattr(trainer, "BN_IMAGES", 8)
    config = tiny.settings(trainable=trainable, ema_decay=0.5, bn_statistics="reestimated", lr=0.01)
    result = tiny.train(data, config, regime)
    layers, start = layers_of(result.model), built[0][1]
    free = {"all": len(layers), "head": 0}.get(trainable, trainable)
    learning = (*(f"net.{name}." for name in layers[len(layers) - free :]), "head.")
    moved = {k for k, v in result.model.state_dict().items() if not torch.equal(v, start[k])}
    assert {k for k in start if k.startswith(learning)} == moved


def test_a_stage_after_the_other(data: Dataset, small: None, built: Any) -> None:
    """First the head, then the last block and it, then everything."""
    seen: list[dict[str, torch.Tensor]] = []
    config = staged(HEAD, {"trainable": 2, "lr": 0.01}, {"steps": 1, "lr": 0.1})
    result = tiny.train(data, config, "augment", on_validation=lambda *_: seen.append(tiny.weights(built[0][0])))
    assert [v.step for v in result.history] == [2, 5, 6]
    changed = [{k for k in b if not torch.equal(a[k], b[k])} for a, b in pairwise([built[0][1], *seen])]
    head = {"head.0.weight", "head.0.bias"}
    assert changed[0] == head
    assert changed[1] > head
    assert all(k.startswith(("head", "net.layer4")) for k in changed[1])
    assert {"net.conv1.weight", "net.bn1.running_mean"} <= changed[2]


def test_dropout_in_front_of_what_learns_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "get_model", tiny.vgg)
    model = build_model(tiny.settings(model="vgg16", trainable="head")).train()
    assert [m.training for m in model.net.modules() if isinstance(m, nn.Dropout)] == [False, False]
    model.set_trainable(1)
    assert [m.training for m in model.train().net.modules() if isinstance(m, nn.Dropout)] == [False, True]
    model.set_trainable("all")
    assert all(m.training for m in model.train().modules())
    assert not any(m.training for m in model.eval().modules())


def test_every_stage_has_an_optimiser_of_its_own(data: Dataset, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.optim.Optimizer] = []
    original = trainer.make_optimizer
    monkeypatch.setattr(trainer, "make_optimizer", lambda *args: made.append(original(*args)) or made[-1])
    tiny.train(data, staged(HEAD, {"optimizer": "sgd", "weight_decay": 0.2, "lr": 0.03, "schedule": "constant"}))
    first, second = made
    assert (type(first), type(second)) == (torch.optim.AdamW, torch.optim.SGD)
    assert len(first.param_groups[0]["params"]) == 2 < len(second.param_groups[0]["params"])
    assert (second.param_groups[0]["lr"], second.param_groups[0]["weight_decay"]) == (0.03, 0.2)


# ---------------------------------------------------------------- where a stage begins, when it ends

CNN = {"model": "small_cnn", "data": {"image_size": 16}}


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Validations give these NLLs, whatever is predicted."""
    left: Iterator[float] = iter(losses)
    monkeypatch.setattr(trainer, "nll", lambda *_: next(left))


@pytest.mark.parametrize(("selection", "kept"), [("best_val_nll", 2), ("last", 4)])
def test_a_stage_begins_from_what_the_rule_keeps(
    selection: str, kept: int, data: Dataset, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four validations, the second the best; the first step of the second stage has a learning rate of nearly 0."""
    scripted(monkeypatch, [0.5, 0.1, 0.4, 0.3, 0.2])
    seen: list[torch.Tensor] = []
    parts = ({"steps": 4, "evaluations": 4, "lr": 0.01}, {"steps": 1, "lr": 1e-12})
    config = staged(*parts, **CNN, selection=selection, optimizer="sgd", weight_decay=0)
    result = tiny.train(data, config, on_validation=lambda *_: seen.append(tiny.weights(built[0][0])["head.1.weight"]))
    torch.testing.assert_close(seen[4], seen[kept - 1], rtol=0, atol=1e-7)
    assert not torch.allclose(seen[1], seen[3], atol=1e-6)
    assert result.selected_step == (2 if selection == "best_val_nll" else 5)


def test_early_stopping_ends_the_stage_and_the_next_goes_on(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better, better, worse, worse: over after the fourth of ten validations; the second stage counts anew."""
    scripted(monkeypatch, [0.5, 0.4, 0.45, 0.4, 0.9, 0.95, 0.3])
    parts = ({"steps": 10, "evaluations": 10, "patience": 2}, {"steps": 3, "evaluations": 3})
    result = tiny.train(data, staged(*parts, **CNN, selection="best_val_nll", patience=0))
    assert [v.step for v in result.history] == [1, 2, 3, 4, 5, 6, 7]
    assert (result.steps, result.selected_step) == (7, 7)


@pytest.mark.parametrize(
    ("nlls", "patience", "over"),
    [([3, 2, 1], 1, False), ([1, 2], 1, True), ([1, 1], 1, True), ([1, 2, 3], 3, False), ([1, 2, 3], 0, False)],
)
def test_should_stop(nlls: list[float], patience: int, over: bool) -> None:
    assert should_stop(nlls, patience) is over


def test_plateau_follows_validation(data: Dataset, rates: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.6, 0.4, 0.5])
    plateau = {"schedule": "plateau", "lr_patience": 0, "lr_factor": 0.5, "lr": 0.1}
    tiny.train(data, tiny.settings(**CNN, **plateau, steps=8, evaluations=4))
    assert rates == [0.1] * 4 + [0.05] * 4


def test_the_average_goes_on_from_stage_to_stage(data: Dataset, small: None) -> None:
    """Two stages of which the second has no rate to speak of end where the first did."""
    shared = {"ema_decay": 0.9, "selection": "last", "schedule": "constant"}
    one = tiny.train(data, staged({"steps": 3}, **shared))
    two = tiny.train(data, staged({"steps": 3}, {"steps": 2, "lr": 1e-12, "trainable": "head"}, **shared))
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert np.allclose(one.val_score, two.val_score, atol=1e-5)
