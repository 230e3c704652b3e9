"""The shortcut meter's images and scores: networks whose answer is known, and what the meter must leave alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_data import in_memory
from streams import global_streams_untouched
from tiny import CPU, small_cnn
from torch import Tensor, nn

from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from balancer.data.records import Record
from balancer.metrics.traces import TRACES
from classifier.evaluation.shortcut import MeterScores, resample
from classifier.training import metering
from classifier.training.metering import FEWEST_PATIENTS, forward_passes, measure, probes
from classifier.training.prediction import log_odds
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray
ROWS, COLUMNS = np.mgrid[:16, :16]
BOARD = 1.0 - 2 * ((ROWS + COLUMNS) % 2)
STRIPES = 1.0 - 2 * (COLUMNS // 2 % 2)
UNIT = ClassifierConfig(data=DataConfig(image_size=16), normalisation="unit")


class Reads(nn.Module):
    """A network of one feature: how much of a pattern is in an image."""

    def __init__(self, pattern: Array, classes: int = 2) -> None:
        super().__init__()
        self.register_buffer("pattern", torch.from_numpy(pattern).float())
        self.head = nn.Linear(1, 1 if classes == 2 else classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-400.0], *[[0.0]] * (classes - 1)])[: self.head.out_features])
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """The label 0 is that of the synthetic images: the first logit of several, and less than 0 of one."""
        feature = (images * self.pattern).mean(dim=(1, 2, 3))[:, None].abs()
        logits = self.head(feature)
        return logits[:, 0] if logits.shape[1] == 1 else -logits


def of_class(images: Array, board: float = 0.0, label: int = 0) -> SyntheticSet:
    """Images as a synthetic set, with a checkerboard of so many levels."""
    pattern = BOARD if images.ndim == 3 else BOARD[..., None]
    marked = np.clip(np.rint(images + board * pattern), 0, 255).astype(np.uint8)
    hashes = tuple(f"{i:064x}" for i in range(len(marked)))
    return SyntheticSet(Path("memory"), marked, np.full(len(marked), label), hashes, "generator")


def measured(data: Dataset, model: nn.Module, synthetic: SyntheticSet, used: SyntheticSet | None = None) -> MeterScores:
    made = list(measure(model, data, probes(data, [synthetic], 0), {0: synthetic}, used, UNIT, CPU))
    ((_, position, scores, _),) = made
    assert position == 0
    return scores


def shares(data: Dataset, scores: MeterScores) -> dict[str, float]:
    """The share of each trace, and its control."""
    values = resample(scores, data.groups, 0, 2)
    by_trace = zip(TRACES, values.traced, values.control, strict=True)
    return {key: float(v[0]) for t, of, c in by_trace for key, v in ((t, of), (f"{t} control", c))}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return in_memory((40, 60), (30, 40))


def fresh(n: int, seed: int = 8) -> Array:
    """Images like the real NORMAL ones."""
    return np.random.default_rng(seed).integers(0, 160, (n, 16, 16)).astype(np.uint8)


def test_a_network_that_reads_a_faint_checkerboard_is_caught(data: Dataset) -> None:
    found = shares(data, measured(data, Reads(BOARD), of_class(fresh(60), 12.0)))
    assert found["residual"] > 0.95
    assert found["spectrum"] > 0.7, "phases of noise are random, and its amplitude at one frequency varies"
    assert found["residual control"] == pytest.approx(0.5, abs=0.12)
    assert found["spectrum control"] == pytest.approx(0.5, abs=0.12)


def test_without_a_trace_nothing_is_read(data: Dataset) -> None:
    """Real images as a synthetic set: that is what copies of training images are."""
    copies = of_class(data.images[data.indices("train", 0)])
    found = shares(data, measured(data, Reads(BOARD), copies, copies))
    assert max(abs(share - 0.5) for share in found.values()) < 0.12


def test_a_network_that_reads_something_else_is_not_moved(data: Dataset) -> None:
    found = shares(data, measured(data, Reads(STRIPES), of_class(fresh(60), 12.0)))
    assert max(abs(share - 0.5) for share in found.values()) < 0.2, "traces of 20 images are rough"


def test_each_halving_of_the_real_patients_gives_a_control_either_way_round(data: Dataset) -> None:
    """The first halving is that of the runs that had no other, to the last bit."""
    (probe,) = probes(data, [of_class(fresh(40))], 0)
    images, train = data.images[probe.index], data.indices("train", 0)
    halves = [data.images[half] for half in metering._halves(data, train, probe.seed)]
    for trace, controls in zip(TRACES.values(), probe.controls, strict=True):
        assert len(controls) == 2 * metering.HALVINGS
        moved = [put(images) for put in controls]
        for put, way in zip(moved, (halves, halves[::-1]), strict=False):
            np.testing.assert_array_equal(put, trace.fit(*way)(images))
        assert len({put.tobytes() for put in moved}) == len(moved)


def test_images_are_those_of_validation_and_of_the_right_classes(data: Dataset) -> None:
    synthetic = of_class(fresh(60))
    (probe,) = probes(data, [synthetic, of_class(fresh(60, 9))], 0)
    assert set(probe.filters) == {0, 1}
    for index, fold, label in (
        (probe.index, "val", 1),
        (probe.held_out, "val", 0),
        (probe.trained, "train", 0),
        *((half, "val", 0) for half in probe.halves),
    ):
        assert len(index)
        assert len(set(index.tolist())) == len(index)
        assert set(data.folds[index]) == {fold}
        assert set(data.labels[index]) == {label}
    assert not set(probe.halves[0]) & set(probe.halves[1])
    assert len(probe.held_out) == len(probe.trained)


@pytest.mark.parametrize("used", [0, 30, 60])
def test_unseen_synthetic_images_and_a_control_that_saw_as_much(data: Dataset, used: int) -> None:
    """30 of 60 are left: as many as validation has. The control of images that were trained on was trained on too."""
    synthetic = of_class(fresh(60))
    prepared = probes(data, [synthetic], 0)
    trained = synthetic.first((used,)) if used else None
    ((_, _, scores, trained_on),) = measure(Reads(BOARD), data, prepared, {0: synthetic}, trained, UNIT, CPU)
    assert trained_on == (used == 60)
    assert set(data.folds[scores.right]) == {"train" if trained_on else "val"}
    assert np.array_equal(scores.left, scores.held_out) == trained_on


def test_features_that_tell_synthetic_images_apart(data: Dataset) -> None:
    """The feature of the first network is the board itself, and that of the second knows nothing of it."""
    for pattern, low, high in ((BOARD, 0.9, 1.0), (STRIPES, 0.2, 0.8)):
        found = resample(measured(data, Reads(pattern), of_class(fresh(60), 12.0)), data.groups, 0, 2)
        assert found.features is not None
        assert found.features_control is not None
        assert low <= found.features[0] <= high
        assert 0.1 < found.features_control[0] < 0.9


def test_small_validation_sets(data: Dataset) -> None:
    """Under ten patients of the other classes there is no meter, under ten of the class no features."""
    assert FEWEST_PATIENTS == 10
    assert probes(in_memory((40, 60), (30, 9)), [of_class(fresh(9))], 0) == []
    few = in_memory((40, 60), (9, 40))
    scores = measured(few, Reads(BOARD), of_class(fresh(60), 12.0))
    assert not len(scores.held_out)
    assert resample(scores, few.groups, 0, 2).features is None
    assert shares(few, scores)["residual"] > 0.95


def in_colour_of_three_classes() -> Dataset:
    grey = in_memory((40, 60), (30, 40))
    labels = grey.labels.copy()
    labels[np.flatnonzero(grey.labels)[::2]] = 2
    records = [Record(r.name, int(k), r.split, r.patient, "") for r, k in zip(grey.records, labels, strict=True)]
    images = np.stack([grey.images] * 3, axis=-1)
    values = {**vars(grey), "images": images, "labels": labels, "records": records, "classes": ("A", "B", "C")}
    return Dataset(**values)


def test_colour_and_three_classes() -> None:
    data = in_colour_of_three_classes()
    images = np.stack([fresh(60)] * 3, axis=-1)
    scores = measured(data, Reads(BOARD, classes=3), of_class(images, 12.0))
    assert set(data.labels[scores.index]) == {1, 2}
    assert shares(data, scores)["residual"] > 0.95


def test_log_odds_against_probabilities() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(dim=1)
    for label in range(3):
        assert torch.allclose(log_odds(logits, label), (p[:, label] / (1 - p[:, label])).log())
    assert torch.equal(log_odds(logits[:, 0], 1), logits[:, 0].double())
    assert torch.equal(log_odds(logits[:, 0], 0), -logits[:, 0].double())


def test_no_stream_of_random_numbers_is_touched_and_the_network_stays_as_it_is(
    data: Dataset, make_model: Callable[[], nn.Module]
) -> None:
    model, synthetic = make_model(), of_class(fresh(60))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with global_streams_untouched():
        list(measure(model, data, probes(data, [synthetic], 0), {0: synthetic}, None, UNIT, CPU))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.fixture
def make_model() -> Callable[[], nn.Module]:
    from classifier.models import build_model

    return lambda: build_model(small_cnn()).eval()


def test_the_estimate_counts_every_image(data: Dataset) -> None:
    seen: list[int] = []

    class Counts(Reads):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return super().forward(images)

    synthetic = of_class(fresh(60))
    list(measure(Counts(BOARD), data, probes(data, [synthetic], 0), {0: synthetic}, synthetic, UNIT, CPU))
    assert sum(seen) == forward_passes(data, [synthetic], 1), "the most: what was trained on is compared"
