"""What a regime trains on, and which images make up a batch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import synthetic_set

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import ClassifierConfig
from balancer.data.dataset import Dataset
from classifier.training.inputs import ImageInputs
from classifier.training.regimes import REGIMES
from classifier.training.training_set import BatchSampler, TrainingSet, training_set

MakeData = Callable[..., Dataset]


def test_training_set_of_the_baseline_is_the_training_fold(data: Dataset) -> None:
    train = training_set(data, REGIMES["baseline"], None, 0, 0)
    real = data.indices("train")
    assert np.array_equal(train.images, data.images[real])
    assert np.array_equal(train.labels, data.labels[real])
    assert (train.n_real, train.added, train.synthetic_digest) == (28, 0, None)


@pytest.mark.parametrize("counts", [(8, 20), (20, 8)])
def test_synthetic_images_follow_the_real_ones_with_the_minority_label(
    counts: tuple[int, int], make_data: MakeData
) -> None:
    data = make_data(counts)
    fakes = synthetic_set(data, 12)
    train = training_set(data, REGIMES["gan"], fakes, 0, 0)
    assert np.array_equal(train.images[:28], data.images[data.indices("train")])
    assert np.array_equal(train.images[28:], fakes.images)
    assert set(train.labels[28:]) == {int(counts[0] > counts[1])}
    assert np.bincount(train.labels).tolist() == [20, 20]
    assert (train.n_real, train.added, train.synthetic_digest) == (28, 12, fakes.digest)


@given(st.integers(1, 9), st.integers(1, 30), st.booleans(), st.integers(0, 3))
def test_duplicates_balance_the_classes_and_use_every_image_alike(
    make_data: MakeData, few: int, more: int, swap: bool, seed: int
) -> None:
    data = make_data((few + more, few) if swap else (few, few + more))
    train = training_set(data, REGIMES["duplicate"], None, seed, data.deficit)
    assert (train.n_real, train.added, train.synthetic_digest) == (2 * few + more, more, None)
    assert np.bincount(train.labels).tolist() == [few + more] * 2
    used = Counter(image.tobytes() for image in train.images[train.n_real :])
    real = {image.tobytes() for image in data.images[data.indices("train", data.minority_class)]}
    assert used.keys() <= real
    assert {used[image] for image in real} <= {more // few, -(-more // few)}


def test_which_images_are_duplicated_depends_on_the_seed(data: Dataset) -> None:
    drawn = [training_set(data, REGIMES["duplicate"], None, seed, data.deficit).images[28:] for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_nothing_to_add_is_an_error(data: Dataset, make_data: MakeData) -> None:
    with pytest.raises(BalancerError, match="regime gan needs synthetic images; run `balancer synthesize`"):
        training_set(data, REGIMES["gan"], None, 0, 0)
    with pytest.raises(BalancerError, match=r"would add 0 duplicates \(the deficit here is 0\)"):
        training_set(make_data((6, 6)), REGIMES["duplicate"], None, 0, 0)


def test_train_on_synthetic_leaves_the_real_minority_out(make_data: MakeData) -> None:
    for counts in ((8, 20), (20, 8)):
        data = make_data(counts)
        fakes, minority = synthetic_set(data, 12), data.minority_class
        train = training_set(data, REGIMES["synthetic_only"], fakes, 0, 0)
        assert np.array_equal(train.images[:20], data.images[data.indices("train", 1 - minority)])
        assert np.array_equal(train.images[20:], fakes.images)
        assert set(train.labels[:20]) == {1 - minority}
        assert set(train.labels[20:]) == {minority}
        assert train.n_real == 20


@given(st.integers(0, 50))
def test_flipped_labels_are_the_stated_share(make_data: MakeData, seed: int) -> None:
    data = make_data((12, 28))
    clean = data.labels[data.indices("train")]
    flipped, again, other = (training_set(data, REGIMES["flipped"], None, s, 0).labels for s in (seed, seed, seed + 1))
    assert (flipped != clean).sum() == 12  # 30 % of 40
    assert np.array_equal(flipped, again)
    assert not np.array_equal(flipped, other)
    assert np.array_equal(data.labels[data.indices("train")], clean), "the data themselves stay as they are"


def test_permuted_labels_keep_the_counts(data: Dataset) -> None:
    clean = data.labels[data.indices("train")]
    train = training_set(data, REGIMES["permuted"], None, 0, 0)
    assert train.counts == [8, 20]
    assert not np.array_equal(train.labels, clean)
    assert np.array_equal(train.images, data.images[data.indices("train")])


def drawn(train: TrainingSet, regime: str, size: int, steps: int) -> list[np.ndarray]:
    sampler = BatchSampler(ClassifierConfig(batch_size=size), REGIMES[regime], train, 3)
    return [sampler.indices(step) for step in range(steps)]


@pytest.mark.parametrize(("size", "per_class"), [(8, (4, 4)), (7, (3, 4))])
def test_oversampling_fills_half_of_every_batch_with_each_class(
    data: Dataset, size: int, per_class: tuple[int, int]
) -> None:
    train = training_set(data, REGIMES["oversample"], None, 0, 0)
    found = drawn(train, "oversample", size, 40)
    assert all(np.bincount(train.labels[index]).tolist() == list(per_class) for index in found)
    seen = Counter(np.concatenate(found).tolist())
    for label, per_batch in enumerate(per_class):
        counts = [seen[i] for i in np.flatnonzero(train.labels == label)]
        assert max(counts) - min(counts) <= 1, "no image of a class is preferred"
        assert sum(counts) == 40 * per_batch


def test_other_regimes_go_through_all_images_alike(data: Dataset) -> None:
    train = training_set(data, REGIMES["gan"], synthetic_set(data, 12), 0, 0)
    assert sorted(np.concatenate(drawn(train, "gan", 8, 5)).tolist()) == list(range(40))


@pytest.mark.parametrize("regime", ["baseline", "augment", "oversample_augment"])
def test_a_batch_holds_the_images_and_labels_of_its_positions(data: Dataset, regime: str) -> None:
    train = training_set(data, REGIMES[regime], None, 0, 0)
    config = ClassifierConfig(batch_size=8, normalisation="unit")
    index = BatchSampler(config, REGIMES[regime], train, 3).indices(5)
    inputs = ImageInputs(config, REGIMES[regime], train, train.images[:4], 3, torch.device("cpu"))
    pixels, plain = (255 * inputs.batch(index, 5)[:, 0]).round(), torch.from_numpy(train.images[index]).float()
    assert torch.equal(pixels, plain) == (regime == "baseline")
    assert torch.equal((255 * inputs.unaugmented(index)[:, 0]).round(), plain)
    assert torch.equal((255 * inputs.batch(index, 5)[:, 0]).round(), pixels), "a pure function of the step"


def test_oversampling_needs_room_for_every_class(data: Dataset) -> None:
    three = replace(training_set(data, REGIMES["oversample"], None, 0, 0), n_classes=3)
    with pytest.raises(UsageError, match="batch_size is 2, but oversample needs 3 classes in a batch"):
        BatchSampler(ClassifierConfig(batch_size=2), REGIMES["oversample"], three, 0)
