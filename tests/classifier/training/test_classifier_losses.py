"""Class weights and losses against torch and scikit-learn."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from balancer.core.settings import ClassifierConfig
from classifier.training.losses import CLASS_WEIGHTS, make_loss, with_penalty
from classifier.training.regimes import REGIMES
from classifier.training.training_set import TrainingSet

LABELS = {2: np.array([0, 1, 1, 1, 0, 1, 1]), 3: np.array([0, 2, 1, 1, 0, 1, 2, 2, 2])}


def loss_of(classes: int, regime: str = "baseline", **more: Any):
    labels = LABELS[classes]
    train = TrainingSet(np.zeros((len(labels), 4, 4), np.uint8), labels, len(labels), 0, None, classes, len(labels))
    return make_loss(ClassifierConfig(**more), REGIMES[regime], train, torch.device("cpu"))


def batch(classes: int, n: int = 40) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(classes)
    y = torch.randint(classes, (n,), generator=source)
    return 2 * torch.randn((n,) if classes == 2 else (n, classes), generator=source), y


def test_the_menu_of_the_settings_is_what_there_is() -> None:
    assert set(get_args(ClassifierConfig.model_fields["class_weights"].annotation)) == set(CLASS_WEIGHTS)


@given(st.lists(st.integers(0, 2), max_size=40))
def test_class_weights(more: list[int]) -> None:
    labels = np.array([0, 1, 2, *more])
    n = np.bincount(labels)
    balanced = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=labels)
    assert np.array_equal(CLASS_WEIGHTS["balanced"](n, 1.0), balanced)
    assert CLASS_WEIGHTS["none"](n, 1.0).tolist() == [1, 1, 1]
    assert CLASS_WEIGHTS["complement"](n, 1.0) == pytest.approx([1 - k / len(labels) for k in n])


def test_positive_is_torchs_pos_weight() -> None:
    logits, y = batch(2)
    expected = F.binary_cross_entropy_with_logits(logits, y.float(), pos_weight=torch.tensor(0.5 * 2 / 5))
    assert loss_of(2, class_weights="positive", positive_factor=0.5)(logits, y) == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["none", "balanced", "complement"])
@pytest.mark.parametrize("classes", [2, 3])
def test_weighted_cross_entropy_is_torchs_sum_over_the_batch(kind: str, classes: int) -> None:
    logits, y = batch(classes)
    weights = torch.tensor(CLASS_WEIGHTS[kind](np.bincount(LABELS[classes]), 1.0)).float()
    whole = torch.stack([torch.zeros_like(logits), logits], dim=1) if classes == 2 else logits
    expected = F.cross_entropy(whole, y, weight=weights, reduction="sum") / len(y)
    assert float(loss_of(classes, class_weights=kind)(logits, y)) == pytest.approx(float(expected), rel=1e-5)


def test_two_outputs_are_their_difference_in_loss_and_gradient() -> None:
    """What makes two outputs work wherever one does: cross-entropy of both is binary cross-entropy of l1 - l0."""
    outputs, y = torch.randn(30, 2, requires_grad=True), batch(2, 30)[1]
    (expected,) = torch.autograd.grad(F.cross_entropy(outputs, y), outputs)
    loss = loss_of(2)(outputs[:, 1] - outputs[:, 0], y)
    torch.testing.assert_close(torch.autograd.grad(loss, outputs)[0], expected)
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(outputs.detach(), y)))


def test_the_regime_with_weights_is_balanced_whatever_the_settings_say() -> None:
    logits, y = batch(2)
    expected = loss_of(2, class_weights="balanced")(logits, y)
    for kind in CLASS_WEIGHTS:
        assert loss_of(2, "weighted", class_weights=kind)(logits, y) == expected


def test_smoothed_labels() -> None:
    """torch spreads its smoothing over all classes, the true one too: 1.5 times ours of three."""
    logits, y = batch(3)
    expected = F.cross_entropy(logits, y, label_smoothing=0.15)
    assert float(loss_of(3, label_smoothing=0.1)(logits, y)) == pytest.approx(float(expected), rel=1e-5)
    logits, y = batch(2)
    expected = F.binary_cross_entropy_with_logits(logits, 0.1 + 0.8 * y)
    assert float(loss_of(2, label_smoothing=0.1)(logits, y)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_the_focal_loss(gamma: float, classes: int) -> None:
    """(1 - p of the true class) ** gamma times the cross-entropy, Lin et al. 2017, equation 4."""
    logits, y = batch(classes)
    both = torch.stack([torch.zeros_like(logits), logits], dim=1) if classes == 2 else logits
    p = torch.softmax(both.double(), 1)[torch.arange(len(y)), y]
    expected = ((1 - p) ** gamma * -p.log()).mean()
    assert float(loss_of(classes, "focal", focal_gamma=gamma)(logits, y)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_class_weights_hold_for_the_focal_loss_too(classes: int) -> None:
    logits, y = batch(classes)
    weights = CLASS_WEIGHTS["complement"](np.bincount(LABELS[classes]), 1.0)
    each = torch.stack([loss_of(classes, "focal")(logits[i : i + 1], y[i : i + 1]) for i in range(len(y))])
    found = loss_of(classes, "focal", class_weights="complement")(logits, y)
    assert float(found) == pytest.approx(float(np.mean(each.numpy() * weights[y.numpy()])), rel=1e-5)


def test_the_penalty_is_the_sum_of_squares() -> None:
    logits, y, weight = *batch(2), torch.arange(6.0).view(2, 3)
    plain, penalised = loss_of(2), with_penalty(loss_of(2), weight, 0.02)
    assert float(penalised(logits, y) - plain(logits, y)) == pytest.approx(0.02 * 55, rel=1e-5)
