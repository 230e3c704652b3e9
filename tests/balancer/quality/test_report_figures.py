"""Figures of a quality report: they can be drawn from whatever a report holds, and show what they should."""

import io

import numpy as np
import pytest
from PIL import Image
from planted import fields

from balancer.metrics.memorization import PAIRS, ClosePair, memorization
from balancer.quality import figures
from balancer.quality.results import QualityReport, SpectrumComparison


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=int)


@pytest.mark.parametrize("pairs", [1, 3, 20])
def test_closest_pairs(pairs: int) -> None:
    """At most eight columns; the difference of a copy is black, of another image not."""
    train = fields(30, 0)
    fake = np.concatenate([train[:1], fields(29, 1)])
    drawn = pixels(figures.closest_pairs([ClosePair(i, i, i / 10) for i in range(pairs)], fake, train))
    height, width = drawn.shape[:2]
    assert width > height
    if pairs >= 3:
        shown = min(pairs, PAIRS)
        columns = [int((k + 0.5) * width / max(shown, 4)) for k in range(shown)]
        last = drawn[int(height * 0.75) : int(height * 0.9), :, 0]
        dark = [float((last[:, c - 5 : c + 5] < 8).mean()) for c in columns]
        assert dark[0] == 1
        assert max(dark[1:]) < 0.9


def spectrum() -> SpectrumComparison:
    frequency = tuple(np.linspace(0.05, 0.5, 10))
    real = tuple(60 - 80 * f for f in frequency)
    fake, sd, difference = tuple(x - 2 for x in real), (2.0,) * 10, (-2.0,) * 10
    return SpectrumComparison(frequency, real, fake, sd, difference, 2.0, 0.5, 2.0, 0.5, 0.0, 0.0, 9, 9, "...")


def test_spectrum() -> None:
    drawn = pixels(figures.spectrum(spectrum()))
    assert drawn.shape[1] > 2 * drawn.shape[0]
    orange = (drawn[..., 0] > 180) & (drawn[..., 2] < 60)
    assert orange.sum() > 500, "the synthetic curve"
    assert figures.spectrum(spectrum()) == figures.spectrum(spectrum()), "the same bytes again"


def test_training_curves() -> None:
    rows = [
        {"step": s, "kid": 1 / s, "frechet": 10 / s, "kid_real_baseline": 0.01, "frechet_real_baseline": 0.5}
        for s in (10, 20, 30)
    ]
    assert pixels(figures.training(rows, used=20)).size
    assert pixels(figures.training(rows[:1], used=10)).size, "one snapshot"


def test_beside_shows_as_many_of_either_side() -> None:
    fake, real = np.full((5, 32, 32), 60, np.uint8), np.full((9, 32, 32), 190, np.uint8)
    drawn = pixels(figures.beside(fake, real, ("Synthetic", "Real"), 0))[34:, :, 0]
    assert (drawn == 60).sum() == (drawn == 190).sum() == 5 * 128 * 128


def test_what_is_missing_is_not_drawn() -> None:
    train, fake = fields(3, 0), fields(3, 1)
    assert figures.of_quality(QualityReport(3), train, fake) == {}
    copies = memorization(train, fake)
    assert set(figures.of_quality(QualityReport(3, memorization=copies, spectrum=spectrum()), train, fake)) == {
        "closest",
        "spectrum",
    }
