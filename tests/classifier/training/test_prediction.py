"""Network input and probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CPU, small_cnn
from torchvision.transforms.functional import normalize

from balancer.data.dataset import Dataset
from classifier.models import build_model
from classifier.training.prediction import normalise, predict, to_input


@given(st.integers(0, 2**16), st.floats(0.2, 3), st.floats(-100, 100))
def test_per_image_standardisation_takes_exposure_out(seed: int, gain: float, offset: float) -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double() * 255
    out = normalise(images, "per_image")
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.std((1, 2, 3)), torch.ones(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalise(gain * images + offset, "per_image"), out, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(normalise(images[1:2], "per_image"), out[1:2])


def test_other_normalisations() -> None:
    assert normalise(torch.full((1, 1, 8, 8), 7.0), "per_image").tolist() == torch.zeros(1, 1, 8, 8).tolist()
    images = torch.arange(256.0).view(1, 1, 16, 16)
    unit = normalise(images, "unit")
    assert (unit.min(), unit.max()) == (0, 1)
    torch.testing.assert_close(normalise(images, "symmetric"), normalize(unit, [0.5], [0.5]))
    expected = normalize(unit.expand(1, 3, 16, 16), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(images, "imagenet"), expected)


def test_scores_are_probabilities_whatever_the_batch(data: Dataset) -> None:
    torch.manual_seed(0)
    model = build_model(small_cnn())
    scores = predict(model.train(), data.images, small_cnn(), CPU, batch_size=7)
    assert scores.dtype == np.float64
    assert scores == pytest.approx(predict(model, data.images, small_cnn(), CPU, batch_size=64), abs=1e-5)
    with torch.no_grad():
        by_hand = 1 / (1 + np.exp(-model(to_input(data.images, small_cnn(), CPU)).double().numpy()))
    assert scores == pytest.approx(by_hand, abs=1e-5)
