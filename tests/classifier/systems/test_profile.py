"""Size and speed: counts against torch, times against a clock that is faked."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import done, refused
from torch import nn

from balancer.core.settings import ClassifierConfig, DataConfig
from classifier.models import build_model
from classifier.systems import profile
from classifier.systems.profile import Timing, network, seconds

CPU = torch.device("cpu")
QUICK = ("--image-size", "32", "--repeats", "1", "--batch-size", "2", "--device", "cpu")


def test_counts_are_those_of_the_network() -> None:
    model, config, _ = network("s1_cnn28", None, CPU)
    found = profile.profile("x", model, config, CPU, Timing(2, 1, 1, 0))
    assert found.parameters == found.trainable == 615_521
    state = [v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")]
    assert found.megabytes == pytest.approx(sum(v.numel() for v in state) * 4 / 1e6)
    assert found.image_size == 28


def test_trainable_is_that_of_the_last_stage() -> None:
    """S1's ResNet-18 ends with everything learning; a head that learns alone is a fraction."""
    whole, config, _ = network("s1_resnet18", 32, CPU)
    assert all(p.requires_grad for p in whole.parameters())
    head, *_ = network("s0_densenet161", 32, CPU)
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == 2 * 2208 + 2
    assert config.weights == "none", "nothing is downloaded to be measured"


def test_the_clock_is_read_around_each_pass_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    reads = [0.0, 1.0, 10.0, 12.0, 20.0, 24.0]

    def clock() -> float:
        events.append("clock")
        return reads.pop(0)

    class Network(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            events.append(len(images) if torch.is_inference_mode_enabled() else "with gradients")
            return images

    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=clock))
    assert seconds(Network(), torch.zeros(3, 1, 4, 4), CPU, warm_up=2, repeats=3) == [1.0, 2.0, 4.0]
    assert events == [3, 3, *["clock", 3, "clock"] * 3]


def test_figures_from_times(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {8: [0.5, 2.0, 1.0], 1: [0.001 * i for i in range(1, 101)]}
    monkeypatch.setattr(profile, "seconds", lambda model, images, *_: of[len(images)])
    config = ClassifierConfig(data=DataConfig(image_size=16))
    found = profile.profile("x", build_model(config), config, CPU, Timing(batch_size=8))
    assert found.images_per_second == 8
    assert found.latency_ms == pytest.approx(50.5)
    assert found.latency_p95_ms == pytest.approx(95.05)


def test_a_system_a_network_and_a_checkpoint(classifier, small_args, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert classifier("train", *small_args, "--out", run).exit_code == 0
    table = tmp_path / "sizes.csv"
    result = done(classifier("compare", "s1_cnn28", "squeezenet1_1", run, *QUICK, "--out", table, "--json"))
    found = json.loads(result.stdout)
    assert [n["model"] for n in found["networks"]] == ["s1_cnn", "squeezenet1_1", "small_cnn"]
    assert [n["image_size"] for n in found["networks"]] == [32] * 3
    assert all(n["images_per_second"] > 0 and 0 < n["latency_ms"] <= n["latency_p95_ms"] for n in found["networks"])
    assert found["batch_size"] == 2
    with table.open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(r["parameters"]) for r in rows] == [n["parameters"] for n in found["networks"]]
    assert rows[0]["device"].startswith("cpu")


def test_what_is_refused(classifier, tmp_path: Path) -> None:
    refused(classifier("compare", "s1_cnn", "resnet81", *QUICK), 2, "'resnet81' is no system", "did you mean 'resnet")
    (tmp_path / "x.pt").write_bytes(b"junk")
    refused(classifier("compare", tmp_path / "x.pt", *QUICK), 1, "x.pt is damaged")
    refused(classifier("compare", "alexnet", *QUICK), 1, "alexnet cannot take 32 px images", "--image-size")
    assert classifier("compare").exit_code == 2
