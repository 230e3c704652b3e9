"""Which network measures which images, and what reports say of it."""

from typing import Any

import pytest
import torch
from test_own_features import dataset

from balancer.core.errors import UsageError
from balancer.core.settings import EvaluateConfig
from balancer.metrics import feature_choice, own_features
from balancer.metrics.feature_choice import choose, choose_for_folders, seconds_to_train
from balancer.metrics.feature_response import Response
from balancer.metrics.features import chest_xray
from balancer.metrics.own_features import OwnNetwork

CPU = torch.device("cpu")
CHEST, RANDOM = "chest-xray-128", "random-conv-128"


def own(*kid: float, side: int = 60) -> OwnNetwork:
    response = [Response("blur", (0, 1, 2), (1, 2, 3), kid, chance=0.5)] if kid else []
    return OwnNetwork("own-128-abc", "s", {"A": 60}, {}, 1200, 128, "w", 1.0, side, response)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Training stands still: the data sets that were trained on, and the network that comes of it."""
    calls: list[Any] = []
    monkeypatch.setattr(own_features, "own_network", lambda data, *_: calls.append(data) or (own(1, 2, 3), "network"))
    return calls


def chest(reader: str = "chest", classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA")) -> Any:
    return dataset(70, 40, reader=reader, classes=classes)


@pytest.mark.parametrize("data", [chest(), chest("medmnist")])
def test_chest_x_rays_are_measured_on_the_shipped_network(data: Any, trained: list[Any]) -> None:
    choice = choose("auto", data, CPU)
    assert choice.network is not None
    assert (choice.network.name, choice.network.version) == (CHEST, chest_xray(CPU).version)
    assert (choice.own, choice.notes, trained) == (None, (), [])
    assert seconds_to_train("auto", data, CPU) == 0


@pytest.mark.parametrize("data", [dataset(70, 40), chest("classes"), chest("medmnist", ("benign", "malignant"))])
def test_other_data_get_a_network_of_their_own(data: Any, trained: list[Any]) -> None:
    choice = choose("auto", data, CPU)
    assert (choice.network, choice.notes) == ("network", ())
    assert choice.own == own(1, 2, 3)
    assert trained == [data]


def test_the_setting_wins(trained: list[Any]) -> None:
    assert choose("own", chest(), CPU).network == "network"
    forced = choose("chest", dataset(70, 40), CPU)
    assert forced.network is not None
    assert forced.network.name == CHEST
    assert CHEST in forced.notes[0]
    left = choose("random", chest(), CPU)
    assert left.network is None
    assert RANDOM in left.notes[0]
    assert len(trained) == 1


def test_too_few_images(trained: list[Any]) -> None:
    choice = choose("auto", dataset(40, 20), CPU)
    assert (choice.network, choice.own, trained) == (None, None, [])
    assert "60 images" in choice.notes[0]
    assert RANDOM in choice.notes[0]
    assert seconds_to_train("auto", dataset(40, 20), CPU) == 0


@pytest.mark.parametrize(
    ("network", "cause"),
    [
        (own(1, 2, 1.9), "blur"),  # falls
        (own(1, 1.2, 1.4), "blur"),  # rises by less than chance alone gives
        (own(side=3), "3 images"),  # was not measured
    ],
)
def test_a_network_that_does_not_respond_is_not_used(
    network: OwnNetwork, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_features, "own_network", lambda *_: (network, "network"))
    choice = choose("auto", dataset(70, 40), CPU)
    assert (choice.network, choice.own) == (None, network)
    assert network.name in choice.notes[0]
    assert cause in choice.notes[0]
    assert RANDOM in choice.notes[0]


def test_the_time_of_a_training_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_choice.own_features, "seconds_to_train", lambda *_: 700.0)
    assert seconds_to_train("auto", dataset(70, 40), CPU) == 700
    assert seconds_to_train("random", dataset(70, 40), CPU) == 0
    monkeypatch.setattr(own_features, "is_trained", lambda *_: True)
    assert seconds_to_train("auto", dataset(70, 40), CPU) == 0


def test_the_cost_of_a_first_training_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_features, "is_trained", lambda data, recipe: False)
    cost = feature_choice.cost_of_training(dataset(70, 40))
    assert all(words in cost for words in ("features=random", "features=chest", "12 minutes"))
    assert feature_choice.cost_of_training(chest()) == ""
    assert feature_choice.cost_of_training(dataset(20, 20)) == "", "with few images nothing is trained"
    monkeypatch.setattr(own_features, "is_trained", lambda data, recipe: True)
    assert "minutes" not in feature_choice.cost_of_training(dataset(70, 40))


def test_folders() -> None:
    """Two folders tell no training fold: chest X-rays by name or on request, else random weights and a note."""
    for setting, is_chest in (("auto", True), ("chest", True), ("chest", False)):
        choice = choose_for_folders(setting, is_chest, CPU)
        assert choice.network is not None
        assert choice.network.name == CHEST
        assert bool(choice.notes) == (not is_chest)
    for setting, is_chest in (("auto", False), ("random", True), ("random", False)):
        choice = choose_for_folders(setting, is_chest, CPU)
        assert choice.network is None
        assert RANDOM in choice.notes[0]
    assert "features=chest" in choose_for_folders("auto", False, CPU).notes[0]
    with pytest.raises(UsageError, match=r"features is own.*training fold"):
        EvaluateConfig(features="own")
