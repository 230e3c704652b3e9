"""Classifier steps that are captured, and images that are augmented on their device."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from recorded import capture, no_capture
from tiny import CPU, small_cnn

from balancer.core.errors import UsageError
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier.analysis.results import TrialResult
from classifier.training import trainer
from classifier.training.inputs import ImageInputs, augments_on
from classifier.training.regimes import REGIMES
from classifier.training.step import make_optimizer, open_stepper
from classifier.training.training_set import training_set

GPU = torch.device("cuda")
RECIPES: dict[str, dict[str, Any]] = {
    "averaged, statistics re-estimated": {"ema_decay": 0.9, "bn_statistics": "reestimated", "schedule": "constant"},
    "in parts, SGD": {"accumulate": 2, "optimizer": "sgd", "schedule": "constant"},
    "two stages, moving rates": {"stages": [{"steps": 8, "schedule": "cosine"}, {"steps": 7, "schedule": "one_cycle"}]},
}


def capture_steps(monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]) -> None:
    monkeypatch.setattr(trainer, "open_stepper", partial(open_stepper, capture=how))


QUICK = "two stages, moving rates"


@pytest.mark.parametrize(
    "recipe", [QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in RECIPES if name != QUICK)]
)
def test_captured_steps_are_plain_steps(data: Dataset, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    """Dropout, averaging and validations included: the same weights to the last bit, or but for a rate's rounding."""
    config = small_cnn(**{"steps": 15, "evaluations": 2, **RECIPES[recipe]})
    plain = tiny.train(data, config)
    capture_steps(monkeypatch, capture)
    captured = tiny.train(data, config)
    assert (plain.step_mode, captured.step_mode) == ("plain", "graph")
    exact = "constant" in RECIPES[recipe].values()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(captured.model.state_dict()[name], value, rtol=0, atol=0 if exact else 1e-5)
    assert captured.val_score == pytest.approx(plain.val_score, abs=0 if exact else 1e-5)


def test_what_cannot_be_captured_runs_plainly(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_cnn(steps=6, schedule="constant")
    plain = tiny.train(data, config)
    capture_steps(monkeypatch, no_capture)
    result = tiny.train(data, config)
    assert np.array_equal(result.val_score, plain.val_score)
    assert result.step_mode == "plain"
    assert caplog.text.count("CUDA graph") == 1


@pytest.mark.parametrize(("where", "fused"), [(GPU, True), (CPU, None)])
def test_sgd_reads_a_moving_rate_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, where: torch.device, fused: bool | None
) -> None:
    """On CUDA, torch's other SGD would ask for the rate's value, which no graph can hold; on the CPU all stays."""
    model: Any = SimpleNamespace(parameters=lambda: [SimpleNamespace(requires_grad=True, device=where)])
    asked = dict[str, Any]()
    monkeypatch.setattr(torch.optim, "SGD", lambda *_, **settings: asked.update(settings))
    make_optimizer(small_cnn(optimizer="sgd"), model)
    assert asked["fused"] is fused


def image_inputs(data: Dataset, config: ClassifierConfig, regime: str = "augment") -> ImageInputs:
    train = training_set(data, REGIMES[regime], None, 0, 0)
    return ImageInputs(config, REGIMES[regime], train, data.images[data.indices("val")], 0, CPU)


def test_where_images_are_augmented() -> None:
    """The default leaves the CPU's figures alone; published presets have no version on the device."""
    assert augments_on(small_cnn(), CPU) == augments_on(small_cnn(), torch.device("mps")) == "cpu"
    assert augments_on(small_cnn(), GPU) == augments_on(small_cnn(augmentation="strong"), GPU) == "device"
    assert augments_on(small_cnn(augmentation="s3"), GPU) == augments_on(small_cnn(augment_on="cpu"), GPU) == "cpu"
    with pytest.raises(UsageError, match="augment_on device is 's3'"):
        trainer.check(small_cnn(augment_on="device", augmentation="s3"))


def test_batches_that_are_augmented_on_the_device(data: Dataset) -> None:
    """They are as the step and the place in the batch say, unlike the CPU's, and only training sees them."""
    there = image_inputs(data, small_cnn(augment_on="device"))
    here, index = image_inputs(data, small_cnn()), np.array([3, 5, 3, 0])
    assert (there.augmented_on, here.augmented_on) == ("device", "cpu")
    assert image_inputs(data, small_cnn(), "baseline").augmented_on is None
    batch = there.batch(index, 7)
    assert batch.shape == (4, 1, 16, 16)
    assert torch.equal(batch, there.batch(index, 7))
    assert not torch.equal(batch, there.batch(index, 8))
    assert not torch.equal(batch[0], batch[2])
    assert not torch.equal(batch, here.batch(index, 7))
    assert torch.equal(there.unaugmented(index), here.unaugmented(index))


def test_a_trial_records_what_is_not_usual(data: Dataset) -> None:
    result = tiny.train(data, small_cnn(steps=2, augment_on="device"), "augment")
    assert (result.step_mode, result.augmented_on) == ("plain", "device")
    fields = TrialResult.__dataclass_fields__
    assert (fields["step_mode"].default, fields["augmented_on"].default) == ("plain", None)
