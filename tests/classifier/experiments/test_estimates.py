"""How long the trials of a study take, from the times of an image and of a step that are set here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from balancer.core.settings import AblateConfig, DataConfig, StageConfig
from classifier.experiments import estimates
from classifier.experiments.estimates import estimate_seconds
from classifier.experiments.study import Study, open_study
from classifier.training.pretraining import pretrained

CPU = torch.device("cpu")
AN_IMAGE, A_STEP = 1.0, 1000.0


def study(template: Path, **settings: Any) -> Study:
    small = {"steps": 6, "batch_size": 8, "evaluations": 3, "bn_statistics": "running", "seeds": 1}
    config = {**small, "regimes": ("baseline",), **settings}
    return open_study(AblateConfig(data=DataConfig(path=str(template), image_size=16), **config))


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, bool]]:
    """What a step was tried for: the layers that learn, and whether images are augmented."""
    tried: list[tuple[object, bool]] = []

    def a_step(_config: object, trainable: object, regime: Any, *_: object) -> float:
        tried.append((trainable, regime.augment))
        return A_STEP

    monkeypatch.setattr(estimates, "_seconds_an_image", lambda *_: AN_IMAGE)
    monkeypatch.setattr(estimates, "_seconds_a_step", a_step)
    return tried


def test_steps_and_predictions_are_counted(template: Path, speeds: list[tuple[object, bool]]) -> None:
    opened = study(template)
    train, val, test = (len(opened.data.indices(fold)) for fold in ("train", "val", "test"))
    # Three validations; then the test fold, and both other folds for the reference of unlike images.
    one = 6 * A_STEP + (3 * val + test + train + val) * AN_IMAGE
    assert estimate_seconds(opened, CPU) == one
    assert estimate_seconds(study(template, seeds=3, regimes=("baseline", "augment")), CPU) == 6 * one
    assert speeds == [("all", False), ("all", False), ("all", True)], "seeds are not tried again"


def test_a_stage_on_cached_features_costs_its_features(template: Path, speeds: list[tuple[object, bool]]) -> None:
    stages = (StageConfig(trainable="head", steps=100), StageConfig(trainable="all", steps=2))
    opened = study(template, model="resnet18", stages=stages)
    train, val, test = (len(opened.data.indices(fold)) for fold in ("train", "val", "test"))
    images = (train + val) + 3 * val + (test + train + val)
    assert estimate_seconds(opened, CPU) == 2 * A_STEP + images * AN_IMAGE
    assert speeds == [("all", False)]


def test_a_slow_network_is_tried_on_a_part_of_the_batch(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the step is that of the batch all the same."""
    opened, batches = study(template), []
    train = opened.training_set(opened.trials[0])
    val = opened.data.indices("val")[:1]
    fold = opened.data.images[val], opened.data.labels[val]
    clock = iter(range(100))
    monkeypatch.setattr("classifier.experiments.estimates.time.perf_counter", lambda: next(clock))

    def fit(config: Any, *arguments: Any) -> None:
        batches.append(config.batch_size)
        for _ in range(config.steps):
            if arguments[-1]() is not None:
                break

    monkeypatch.setattr(estimates.trainer, "train", fit)
    times = [
        estimates._seconds_a_step(opened.config, "all", opened.regimes[0], train, fold, CPU, an_image, 0.5)
        for an_image in (1e-6, 1e6)
    ]
    assert batches == [8, 2]
    assert times == [1, 4]


def test_the_clock_waits_for_the_device(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would tell how fast steps are queued on a card."""
    opened = study(template)
    train, val = opened.training_set(opened.trials[0]), opened.data.indices("val")[:1]
    calls: list[str] = []
    monkeypatch.setattr(estimates, "synchronize", lambda _device: calls.append("waited"))
    clock = "classifier.experiments.estimates.time.perf_counter"

    def read() -> int:
        calls.append("read")
        return len(calls)

    monkeypatch.setattr(clock, read)
    monkeypatch.setattr(estimates.trainer, "train", lambda *arguments: [arguments[-1]() for _ in range(3)])
    fold = opened.data.images[val], opened.data.labels[val]
    estimates._seconds_a_step(opened.config, "all", opened.regimes[0], train, fold, CPU, 1e-6, 0.5)
    assert calls == 3 * ["waited", "read"]


def test_a_pretraining_is_counted_once_a_seed(
    template: Path, speeds: list[tuple[object, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All regimes of a seed share it, and one that the cache holds costs nothing."""
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))
    monkeypatch.setattr(estimates.pretraining, "estimate_seconds", lambda *_: 1e6)
    more = {"regimes": ("baseline", "augment"), "seeds": 3}
    without = estimate_seconds(study(template, **more), CPU)
    opened = study(template, **more, pretrain={"method": "simsiam", "steps": 1, "batch_size": 16})
    assert estimate_seconds(opened, CPU) == without + 3e6
    pretrained(opened.config, opened.data, 1, CPU)
    assert estimate_seconds(opened, CPU) == without + 2e6


def test_a_pretraining_is_timed_by_its_steps(template: Path) -> None:
    few, many = (
        study(template, pretrain={"method": "vicreg", "steps": steps, "batch_size": 16}) for steps in (10, 100_000)
    )
    seconds = [estimates.pretraining_seconds(s, CPU) for s in (few, many)]
    assert 0 < 100 * seconds[0] < seconds[1]
