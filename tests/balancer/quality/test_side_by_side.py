"""Two-sample tests run side by side: the figures are those of one after the other, and a signal ends all of them."""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balancer.core.settings import QualityConfig
from balancer.metrics.feature_choice import Choice
from balancer.quality import assess as quality
from balancer.quality.results import HALF_SIZE, PIXELS, QualityReport
from balancer.quality.sides import ImageSet

CPU = torch.device("cpu")
SETTINGS = QualityConfig(inception="off", kid_subsets=3, kid_subset_size=6)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))


def noise(n: int, seed: int, name: str) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return ImageSet(images, [f"{name}-{i}" for i in range(n)], name)


def report() -> QualityReport:
    train, held_out, fake = noise(40, 0, "training fold"), noise(20, 1, "validation"), noise(20, 2, "").images
    return quality.assess(SETTINGS, train, held_out, fake, CPU, choice=Choice(None))


def test_figures_do_not_depend_on_the_processors(five_pixel_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, reports = torch.get_rng_state(), []
    for processors in (1, 4):
        monkeypatch.setattr(quality, "allowed_processors", lambda count=processors: count)
        reports.append(report())
    assert reports[0] == reports[1]
    assert [row.on for row in reports[0].two_sample[2:]] == [PIXELS] * 2 + [HALF_SIZE] * 2
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_signal_ends_the_tests_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        time.sleep(0.5)  # so that the tests on pixels have begun
        raise KeyboardInterrupt

    endless = functools.partial(quality.two_sample.pixel_two_sample, steps=10**6)
    monkeypatch.setattr(quality.two_sample, "pixel_two_sample", endless)
    monkeypatch.setattr(quality.two_sample, "logistic_two_sample", interrupted)
    monkeypatch.setattr(quality, "allowed_processors", lambda: 4)
    with pytest.raises(KeyboardInterrupt):
        report()
