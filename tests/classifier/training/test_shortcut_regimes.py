"""Regimes in which being synthetic tells little of the class, and their controls."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import CPU, PLAIN, small_cnn

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import AblateConfig, ClassifierConfig, DataConfig, TrainConfig
from balancer.data.dataset import Dataset
from classifier.analysis.contrasts import SHORTCUT, WAYS
from classifier.experiments.study import needed_of_every_class, open_study
from classifier.training import trainer
from classifier.training.regimes import GROUPS, REGIMES
from classifier.training.synthetic import SyntheticSet, load_sets
from classifier.training.training_set import BatchSampler, TrainingSet, added_counts, training_set

MakeData = Callable[..., Dataset]
Make = Callable[..., Path]
CONFIG = DataConfig(image_size=16)


def of_both(data: Dataset, counts: tuple[int, ...]) -> SyntheticSet:
    """Images of noise of each class."""
    n, rng = sum(counts), np.random.default_rng(9)
    images = rng.integers(0, 256, (n, 16, 16), dtype=np.uint8)
    labels = np.repeat(np.arange(len(counts)), counts)
    return SyntheticSet(Path("memory"), images, labels, tuple(f"{i:064x}" for i in range(n)), "generator")


def trained_on(data: Dataset, name: str, seed: int = 0) -> TrainingSet:
    regime = REGIMES[name]
    counts = added_counts(regime, data.counts("train"))
    return training_set(data, regime, of_both(data, counts) if regime.synthetic else None, seed, counts)


def shares(data: Dataset, train: TrainingSet) -> list[float]:
    """The share of added images in each class."""
    real = np.bincount(train.labels[: train.n_real], minlength=2)
    return (1 - real / np.bincount(train.labels, minlength=2)).tolist()


@pytest.mark.parametrize("counts", [(8, 20), (20, 8), (5, 35)])
@pytest.mark.parametrize("name", ["gan_both", "gan_both_added", "duplicate_both"])
def test_the_share_of_added_images_is_the_same_in_both_classes(
    make_data: MakeData, name: str, counts: tuple[int, int]
) -> None:
    data = make_data(counts)
    train = trained_on(data, name)
    few, many = sorted(counts)
    assert shares(data, train) == pytest.approx([1 - few / many] * 2, abs=0.01)
    if name == "gan_both_added":
        assert train.n_real == sum(counts)
    else:
        assert train.counts == [many, many], "balanced, with as many images as the gan regime has"
        assert train.n_real == 2 * few


def test_copies_are_of_the_real_images_that_stay(make_data: MakeData) -> None:
    data = make_data((6, 30))
    train = trained_on(data, "duplicate_both")
    real = {image.tobytes() for image in train.images[: train.n_real]}
    copies = Counter(image.tobytes() for image in train.images[train.n_real :])
    assert set(copies) <= real
    assert len(real) == 12
    assert max(copies.values()) - min(copies[image] for image in real) <= 1


def test_undersampling_draws_as_many_of_each_class_and_the_seed_says_which(make_data: MakeData) -> None:
    data = make_data((6, 30))
    chosen = []
    for seed in range(3):
        train = trained_on(data, "undersample", seed)
        assert train.counts == [6, 6]
        assert train.added == 0
        assert train.n_fold == 36, "an epoch, and with it the number of steps, stays that of all images"
        chosen.append({image.tobytes() for image in train.images[6:]})
    assert chosen[0] != chosen[1]
    assert chosen[0] == {image.tobytes() for image in trained_on(data, "undersample", 0).images[6:]}
    both = trained_on(data, "gan_both", 1)
    assert {i.tobytes() for i in both.images[: both.n_real]} == {
        i.tobytes() for i in trained_on(data, "undersample", 1).images
    }, "the control has the same real images"


def test_mixed_images_lie_between_a_synthetic_and_a_real_one_of_the_class(make_data: MakeData) -> None:
    data = make_data((6, 20))
    fakes = of_both(data, (14, 0))
    train = training_set(data, REGIMES["gan_mixup"], fakes, 0, 0)
    real = data.images[data.indices("train", 0)].astype(float)
    weights = []
    for fake, mixed in zip(fakes.images.astype(float), train.images[train.n_real :].astype(float), strict=True):
        # the partner and the weight that explain the image best, by least squares over all partners
        fits = []
        for partner in real:
            direction = (fake - partner).ravel()
            weight = direction @ (mixed - partner).ravel() / (direction @ direction)
            fits.append((np.abs(partner + weight * (fake - partner) - mixed).max(), weight))
        error, weight = min(fits)
        assert error < 1  # half a grey level of rounding moves the fit as well
        weights.append(weight)
    assert min(weights) > -0.01
    assert max(weights) < 1.01
    assert np.std(weights) > 0.15


# --- pretraining


def test_pretraining_ends_halfway(make_data: MakeData) -> None:
    data = make_data((8, 20))
    train = training_set(data, REGIMES["gan_pretrain"], of_both(data, (12, 0)), 0, 0)
    sampler = BatchSampler(ClassifierConfig(batch_size=7), REGIMES["gan_pretrain"], train, 3, steps=21)
    gan = BatchSampler(ClassifierConfig(batch_size=7), REGIMES["gan"], train, 3, steps=21)
    batches = [sampler.indices(step) for step in range(21)]
    for step in range(11):
        np.testing.assert_array_equal(batches[step], gan.indices(step))
        assert sampler.first_like(step) == 0
    late = np.concatenate(batches[11:])
    assert late.max() < train.n_real
    assert sampler.first_like(20) == 11
    seen = np.bincount(late, minlength=28)
    assert seen.max() - seen.min() <= 1


def test_statistics_of_the_second_half_are_those_of_real_images(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data((8, 20))
    train = training_set(data, REGIMES["gan_pretrain"], of_both(data, (12, 0)), 0, 0)
    drawn: list[tuple[int, int]] = []
    indices = BatchSampler.indices

    def noting(self: BatchSampler, step: int) -> np.ndarray:
        index = indices(self, step)
        drawn.append((step, int(index.max())))
        return index

    monkeypatch.setattr(BatchSampler, "indices", noting)
    monkeypatch.setattr(trainer, "BN_IMAGES", 16)
    config = small_cnn(steps=6, evaluations=2, bn_statistics="reestimated")
    val = data.indices("val")
    trainer.train(config, REGIMES["gan_pretrain"], 0, train, (data.images[val], data.labels[val]), CPU)
    steps = [step for step, _ in drawn]
    assert steps == [0, 1, 2, 0, 1, 3, 4, 5, 3, 4]  # three steps, two batches of statistics; and again
    assert all(highest < train.n_real for step, highest in drawn if step >= 3)


# --- sets of both classes


def test_a_set_of_each_class_makes_one_set(make_data: MakeData, make_manifest: Make, tmp_path: Path) -> None:
    data = make_data((4, 10))
    paths = [
        make_manifest(tmp_path / "normal", 6, data.split_hash),
        make_manifest(tmp_path / "pneumonia", 15, data.split_hash, label=1, first=100),
    ]
    needed = {0: 6, 1: 15}
    (both,) = load_sets([str(p) for p in paths], data, CONFIG, "deficit", of_every_class=needed)
    assert np.bincount(both.labels).tolist() == [6, 15]
    with pytest.raises(BalancerError, match="PNEUMONIA images; expected NORMAL, the minority class"):
        load_sets([str(p) for p in paths], data, CONFIG, "deficit")
    with pytest.raises(BalancerError, match="needs 16 synthetic images"):
        load_sets([str(p) for p in paths], data, CONFIG, "deficit", of_every_class={0: 6, 1: 16})


def test_a_missing_class_is_named_with_the_commands(make_manifest: Make, small_data: Dataset, tmp_path: Path) -> None:
    one = make_manifest(tmp_path / "normal", small_data.deficit, small_data.split_hash)
    config = AblateConfig(
        data=DataConfig(path=small_data.source, image_size=16),
        regimes=("baseline", "gan_both"),
        synthetic=(str(one),),
        **PLAIN,
    )
    with pytest.raises(BalancerError, match=r"gan-train --class PNEUMONIA.*synthesize --n \d+"):
        open_study(config)


def test_the_number_of_images_is_the_regimes_own(make_data: MakeData) -> None:
    config = TrainConfig(regime="gan_both", synthetic_count=5)
    with pytest.raises(UsageError, match="synthetic_count is 5, and regime gan_both"):
        needed_of_every_class(config, make_data((4, 10)), [REGIMES["gan_both"]])
    both = [REGIMES["gan_both"], REGIMES["gan_both_added"], REGIMES["gan"]]
    assert needed_of_every_class(TrainConfig(), make_data((4, 10)), both) == {0: 6, 1: 15}
    assert needed_of_every_class(TrainConfig(synthetic_count=5), make_data((4, 10)), [REGIMES["gan"]]) == {}


def test_every_way_is_compared_with_the_usual_one_and_with_none() -> None:
    names = {r.name for r in REGIMES.values()}
    assert {left for left, _ in SHORTCUT} == {f"{way}{twin}" for way in WAYS for twin in ("", "_augment")}
    assert {name for pair in SHORTCUT for name in pair} <= names
    assert set(WAYS) | {"duplicate_both", "undersample"} == {
        name.removesuffix("_augment") for name in GROUPS["shortcut"]
    }
