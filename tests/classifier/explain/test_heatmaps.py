"""The Python function: what it takes, what it returns, what it refuses, and that it leaves the network as it was."""

import nets
import numpy as np
import pytest
import torch

from balancer.core.errors import BalancerError, UsageError
from classifier.explain import HeatMaps, explain
from classifier.explain.heatmaps import shown
from classifier.explain.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (3, 1), (2, 4)])
def test_any_number_of_channels_and_classes(method: str, channels: int, outputs: int) -> None:
    net, images = nets.two_stages(1, channels=channels, outputs=outputs), nets.noise(3, channels)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    heat = explain(net, images, method)
    assert isinstance(heat, HeatMaps)
    assert heat.maps.shape == heat.relevance.shape == (3, 8, 8)
    assert heat.maps.dtype == heat.relevance.dtype == np.float32
    assert heat.maps.min() >= 0
    assert set(heat.maps.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
    assert heat.layer == ("features" if METHODS[method].uses_layer else None)
    assert heat.cells == ((4, 4) if METHODS[method].uses_layer else (8, 8))
    logits = net(images)
    called = (logits > 0).long() if outputs == 1 else logits.argmax(dim=1)
    assert heat.target.tolist() == called.tolist()
    assert all(not module._forward_hooks for module in net.modules())
    assert all(bool((net.state_dict()[key] == value).all()) for key, value in before.items())
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "scorecam"])
def test_a_layer_whose_output_the_next_one_changes_in_place(method: str) -> None:
    net, images = nets.two_stages(2), nets.noise(3)
    in_place = explain(net, images, method, target=1, layer="features.2").relevance
    net.features[3].inplace = False
    assert np.array_equal(in_place, explain(net, images, method, target=1, layer="features.2").relevance)
    assert in_place.any()


def test_an_empty_map_is_said_to_be_empty() -> None:
    relevance = np.array([[[-1.0, -2.0], [0.0, -1.0]], [[4.0, -1.0], [2.0, 0.0]]], dtype=np.float32)
    maps = shown(relevance)
    assert maps.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0.5, 0]]]
    heat = HeatMaps(maps, "occlusion", None, np.array([0, 1]), relevance, (2, 2))
    assert heat.empty.tolist() == [True, False]
    assert heat.at([1]).empty.tolist() == [False]


def test_a_few_extreme_pixels_do_not_darken_the_rest() -> None:
    relevance = np.ones((1, 20, 20), dtype=np.float32)
    relevance[0, 0, 0] = 1000
    assert np.median(shown(relevance, white=0.99)) == 1
    sparse = np.zeros((1, 20, 20), dtype=np.float32)
    sparse[0, 3, 3] = 2  # beyond the percentile, which is 0
    assert shown(sparse, white=0.99).max() == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "gradcan"}, "'gradcam'"),
        ({"layer": "features.9"}, "features.3"),
        ({"layer": "head.1"}, "features.3"),
        ({"method": "occlusion", "layer": "features.3"}, "--layer"),
        ({"target": 2}, "0 to 1"),
        ({"target": [0, 1]}, "[0, 1]"),
        ({"target": -1}, "-1"),
        ({"target": 0.5}, "0.5"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError) as error:
        explain(nets.two_stages(0), nets.noise(3), **arguments)
    assert words in str(error.value)


def test_pixels_need_a_saved_classifier() -> None:
    with pytest.raises(UsageError, match="uint8"):
        explain(nets.two_stages(0), np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(BalancerError):
        explain(nets.two_stages(0), nets.noise(0))


def test_weights_that_are_not_finite_are_an_error() -> None:
    net = nets.two_stages(0)
    with torch.no_grad():
        net.head[1].weight[:] = float("nan")
    with pytest.raises(BalancerError, match="not finite"):
        explain(net, nets.noise(2), target=1)
