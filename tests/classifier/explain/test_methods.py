"""Each method against its paper's formula, written out here in float64, and all of them on a planted shortcut."""

import copy

import nets
import numpy as np
import pytest
import torch
from torch import nn

from classifier.explain import explain
from classifier.explain import methods as explainers
from classifier.explain.methods import METHODS, class_scores, mean_image

CLASSES = [0, 1, 2, 1]


def derivatives(net: nets.TwoStages, image: torch.Tensor, label: int) -> list[np.ndarray]:
    """The maps A (K, h, w), and the first three derivatives of exp(score) by each place of A, by autograd alone."""
    net = copy.deepcopy(net).double()
    maps = net.features(image.double()[None]).detach().requires_grad_()
    score = net.head(net.pool(maps))[0]
    value = score[label].exp() if len(score) > 1 else (score[0] * (1 if label else -1)).exp()
    (first,) = torch.autograd.grad(value, maps, create_graph=True)
    second, third = torch.zeros_like(maps), torch.zeros_like(maps)
    for place in np.ndindex(*maps.shape):
        (row,) = torch.autograd.grad(first[place], maps, create_graph=True)
        second[place] = row[place].detach()
        (row,) = torch.autograd.grad(row[place], maps, retain_graph=True)
        third[place] = row[place].detach()
    return [part.detach()[0].numpy() for part in (maps, first / value, first, second, third)]


@pytest.fixture(params=[(1, 1), (3, 3)], ids=["two classes, grey", "three classes, three channels"])
def case(request: pytest.FixtureRequest) -> tuple[nets.TwoStages, torch.Tensor, torch.Tensor]:
    channels, outputs = request.param
    net = nets.two_stages(3, channels=channels, outputs=outputs)
    labels = torch.tensor([label % 2 for label in CLASSES] if outputs == 1 else CLASSES)
    return net, nets.noise(4, channels), labels


def unit(maps: np.ndarray) -> np.ndarray:
    return maps / maps.max(axis=(1, 2), keepdims=True)


def test_gradcam_is_the_papers_formula(case: tuple) -> None:
    net, images, labels = case
    expected = []
    for image, label in zip(images, labels.tolist(), strict=True):
        maps, gradient, *_ = derivatives(net, image, label)
        expected.append(np.maximum(np.einsum("k,khw->hw", gradient.mean(axis=(1, 2)), maps), 0))
    ours = METHODS["gradcam"].compute(net, images, labels, net.features[3]).numpy()
    assert ours.dtype == np.float32
    assert ours.max() > 0.01  # not an empty map
    np.testing.assert_allclose(ours, nets.enlarged(np.stack(expected), 8), atol=1e-5)


def test_gradcam_plus_plus_is_the_papers_formula(case: tuple) -> None:
    net, images, labels = case
    expected = []
    for image, label in zip(images, labels.tolist(), strict=True):
        maps, _, first, second, third = derivatives(net, image, label)
        bottom = 2 * second + maps.sum(axis=(1, 2), keepdims=True) * third
        alpha = np.divide(second, bottom, out=np.zeros_like(bottom), where=bottom != 0)
        weights = (alpha * np.maximum(first, 0)).sum(axis=(1, 2))
        expected.append(np.maximum(np.einsum("k,khw->hw", weights, maps), 0))
    ours = METHODS["gradcam++"].compute(net, images, labels, net.features[3]).numpy()
    np.testing.assert_allclose(unit(ours), unit(nets.enlarged(np.stack(expected), 8)), atol=1e-5)


def test_scorecam_by_hand() -> None:
    """Two maps: the image's bright side and its dark side. The logit is 3 times the mean of the image."""

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Conv2d(1, 2, 1, bias=False)
            self.maps.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.maps(images)
            return 1.5 * (maps[:, 0] - maps[:, 1]).mean(dim=(1, 2))

    image = np.array([[0.0, 1.0], [2.0, 4.0]])
    masks = np.stack([image / 4, (4 - image) / 4])
    scores = 3 * (masks * image).mean(axis=(1, 2))
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = np.maximum(weights[0] * image - weights[1] * image, 0)
    net = Sides().eval()
    tensor = torch.tensor(image, dtype=torch.float32)[None, None]
    ours = METHODS["scorecam"].compute(net, tensor, torch.tensor([1]), net.maps)
    np.testing.assert_allclose(ours[0].numpy(), expected, atol=1e-6)


def test_a_constant_map_weighs_nothing_in_scorecam() -> None:
    net = nets.two_stages(0)
    with torch.no_grad():
        net.features[2].weight[0], net.features[2].bias[0] = 0.0, 5.0
    ours = METHODS["scorecam"].compute(net, nets.noise(2), torch.tensor([1, 1]), net.features[3])
    other = net.features(nets.noise(2))[:, 1]
    assert torch.isfinite(ours).all()
    np.testing.assert_allclose(ours.numpy(), nets.enlarged(other.detach().numpy(), 8), atol=1e-5)


@pytest.mark.parametrize(("points", "tolerance"), [(32, 0.08), (300, 0.01)])
def test_integrated_gradients_add_up_to_the_difference_of_the_scores(
    case: tuple, points: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, images, labels = case
    monkeypatch.setattr(explainers, "IG_POINTS", points)  # the network has kinks, so few points leave an error
    ours = METHODS["integrated_gradients"].compute(net, images, labels, net)
    with torch.no_grad():
        difference = class_scores(net, images, labels) - class_scores(net, mean_image(images), labels)
    most = float(difference.abs().max())
    assert most > 1
    np.testing.assert_allclose(ours.sum(dim=(1, 2)), difference, atol=tolerance * most)


def test_integrated_gradients_of_a_linear_network_are_weight_times_contrast() -> None:
    weights = np.random.default_rng(1).normal(size=(8, 8))
    images = nets.noise(3)
    ours = METHODS["integrated_gradients"].compute(nets.Weighted(weights), images, torch.tensor([1, 0, 1]), None)
    contrast = images[:, 0].numpy() - images[:, 0].numpy().mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(ours.numpy(), np.array([1, -1, 1])[:, None, None] * weights * contrast, atol=1e-5)


def test_occlusion_of_a_linear_network_by_brute_force() -> None:
    side, square, step = 21, 3, 1  # 1/8 of 21, rounded; the last square ends at the edge
    weights = np.random.default_rng(2).normal(size=(side, side))
    images = nets.noise(2, side=side)
    ours = METHODS["occlusion"].compute(nets.Weighted(weights, 0.3), images, torch.tensor([1, 0]), None).numpy()
    for sign, image, relevance in zip((1, -1), images[:, 0].numpy(), ours, strict=True):
        falls, covers = np.zeros((side, side)), np.zeros((side, side))
        for y in range(0, side - square + 1, step):
            for x in range(0, side - square + 1, step):
                hidden = image.copy()
                hidden[y : y + square, x : x + square] = image.mean()
                falls[y : y + square, x : x + square] += sign * ((image - hidden) * weights).sum()
                covers[y : y + square, x : x + square] += 1
        np.testing.assert_allclose(relevance, falls / covers, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_many_images_at_once_are_each_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = nets.two_stages(3, outputs=3), nets.noise(5)
    together = explain(net, images, method, target=[0, 1, 2, 0, 1]).relevance
    monkeypatch.setattr(explainers, "PIXELS", 64)  # one variant in a pass
    alone = [explain(net, images[i : i + 1], method, target=i % 3).relevance[0] for i in range(5)]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


@pytest.fixture(scope="module")
def shortcut() -> tuple[nn.Module, torch.Tensor]:
    """A network that has learnt that a bright corner, top left, decides the class; images with the corner."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(150):
        images, labels = nets.noise(32, side=32, seed=step) / 2, torch.arange(32) % 2
        images[labels == 1, :, :8, :8] += 3
        loss = nn.functional.binary_cross_entropy_with_logits(net(images), labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    images = nets.noise(6, side=32, seed=999) / 2
    images[:, :, :8, :8] += 3
    return net.eval(), images


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_shortcut_is_located(method: str, shortcut: tuple) -> None:
    heat = explain(shortcut[0], shortcut[1], method)
    assert heat.target.tolist() == [1] * 6
    strongest = [np.unravel_index(single.argmax(), single.shape) for single in heat.relevance]
    assert all(y < 10 and x < 10 for y, x in strongest)
    inside = heat.maps[:, :11, :11].sum(axis=(1, 2)) / heat.maps.sum(axis=(1, 2))
    assert (inside > 0.5).all()  # of a ninth of the image
