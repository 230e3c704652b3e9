"""Pretraining without labels: pairing, what it may read, the cache, interruption; with every network."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import tiny
import torch
from tiny import CPU, small_cnn
from torchvision import models

from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.seeding import derive_seed
from balancer.core.settings import AblateConfig, ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from classifier.experiments.study import Study
from classifier.experiments.trial import run_trial
from classifier.models import OWN_MODELS, build_model, features_of
from classifier.training import pretraining, self_supervision, trainer
from classifier.training.pretraining import Pretrained, pretrain, pretrained
from classifier.training.regimes import REGIMES, select_regimes

METHODS = ["simsiam", pytest.param("vicreg", marks=pytest.mark.nightly)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and narrow projectors."""
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(self_supervision, "WIDTH", 32)
    return tmp_path / "cache" / "pretrained"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seed of every pretraining that is really made."""
    seeds: list[int] = []

    def noted(config: ClassifierConfig, data: Dataset, seed: int, *more: Any) -> Pretrained:
        seeds.append(seed)
        return pretrain(config, data, seed, *more)

    monkeypatch.setattr(pretraining, "pretrain", noted)
    return seeds


def settings(method: str = "simsiam", steps: int = 2, **more: Any) -> ClassifierConfig:
    return small_cnn(**{"pretrain": {"method": method, "steps": steps, "batch_size": 16}, **more})


def same(one: Pretrained, other: Pretrained) -> bool:
    assert one.state.keys() == other.state.keys()
    return all(torch.equal(one.state[key], other.state[key]) for key in one.state)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_weights_and_another_seed_others(method: str, data: Dataset) -> None:
    first, again, other = (pretrain(settings(method, steps=2), data, seed, CPU) for seed in (3, 3, 4))
    assert same(first, again)
    assert first.facts.weights == again.facts.weights != other.facts.weights
    assert not same(first, other)


def test_the_head_is_that_of_a_training_without_pretraining(data: Dataset) -> None:
    config = settings()
    torch.manual_seed(derive_seed(5, "init"))
    plain, made = build_model(config).state_dict(), pretrain(config, data, 5, CPU).state
    kept = {key for key in plain if torch.equal(plain[key], made[key])}
    assert kept == {"head.1.weight", "head.1.bias"}


@pytest.mark.parametrize("method", METHODS)
def test_outputs_do_not_collapse(method: str, data: Dataset) -> None:
    """The SD of normalised outputs is near 1 / sqrt(d) for the whole training fold too, by numpy."""
    config = settings(method, steps=20)
    made = pretrain(config, data, 0, CPU)
    assert 0.5 < made.facts.spread < 1.1
    assert not made.facts.collapsed
    model = build_model(config)
    model.load_state_dict(dict(made.state))
    images = trainer.to_input(data.images[data.indices("train")], config, CPU)
    features = features_of(model.eval(), images).detach().numpy()
    centred = features - features.mean(axis=0)
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert directions.std(axis=0).mean() * features.shape[1] ** 0.5 > 0.5


def test_a_collapse_is_named(data: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pretraining, "spread", lambda _: 0.01)
    with caplog.at_level(logging.WARNING, "balancer"):
        assert pretrain(settings(steps=1), data, 0, CPU).facts.collapsed
    assert "pretrain.lr" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in (*OWN_MODELS, "densenet121", "vgg11")),
    ],
)
def test_every_network_can_be_pretrained_and_trained(name: str, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"resnet18": tiny.resnet, "densenet121": tiny.densenet, "vgg11": tiny.vgg}
    monkeypatch.setattr(models, "get_model", small.get(name, models.get_model))
    more = {"data": DataConfig(image_size=16), "s2": {"conv": (8,)} if name == "s2_cnn" else {}}
    config = settings(steps=1, model=name, trainable="head" if name in small else "all", **more)
    weights = pretrained(config, data, 0, CPU)
    assert weights is not None
    plain = build_model(config)
    features = [key for key, _ in plain.named_parameters() if not key.startswith("head.")]
    fitted = tiny.train(data, config, pretrained=weights).model.state_dict()
    if name in small:  # the frozen layers stay as they were pretrained
        assert all(torch.equal(fitted[key], weights.state[key]) for key in features)
    torch.manual_seed(derive_seed(0, "init"))
    before = build_model(config).state_dict()
    assert any(not torch.equal(before[key], weights.state[key]) for key in features)


def test_the_features_of_every_network_are_what_its_head_takes() -> None:
    for name in OWN_MODELS:
        model = build_model(ClassifierConfig(model=name, data=DataConfig(image_size=32))).eval()
        images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        last = model.layers[-1] if name == "s2_cnn" else model.head
        torch.testing.assert_close(torch.flatten(last(features_of(model, images))), model(images))


# ---------------------------------------------------------------- pairing, and what is read


def test_all_regimes_of_a_seed_begin_with_the_same_weights(
    make_data: Callable[..., Dataset], made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through whole trials: pretrained once a seed, also where a regime leaves out or adds images."""
    data, begun = make_data((10, 20)), list[dict[str, torch.Tensor]]()
    noted = trainer.zero_unread_gradients  # the first to see the network once it has its weights

    def note(model: torch.nn.Module) -> None:
        begun.append(tiny.weights(model))
        noted(model)

    monkeypatch.setattr(trainer, "zero_unread_gradients", note)
    names = ("baseline", "gan", "undersample", "baseline_again")
    config = AblateConfig(**{**vars(settings(steps=2)), "regimes": names, "seeds": 1, "meter": False})
    study = Study(config, data, [tiny.synthetic_set(data, data.deficit)], select_regimes(names))
    rows = {trial.regime.name: run_trial(study, trial, CPU).result for trial in study.trials}
    assert made == [0, REGIMES["baseline_again"].seed_offset]
    facts = [rows[name].pretraining for name in names]
    assert facts[0] == facts[1] == facts[2] != facts[3]
    assert facts[0] is not None
    assert facts[0].images == 30, "the training fold's, whatever the regime"
    first, *same, other = begun
    assert all(torch.equal(first[key], b[key]) for b in same for key in b)
    assert not all(torch.equal(first[key], other[key]) for key in other)
    assert {row.steps for row in rows.values()} == {config.steps}, "the steps with labels are those of before"


class Guarded(np.ndarray):
    """Images of which only those of the training fold may be read."""

    allowed: frozenset[int] = frozenset()

    def __getitem__(self, index: Any) -> Any:
        read = np.arange(len(self))[index] if self.allowed else np.empty(0)
        assert set(np.ravel(read).tolist()) <= self.allowed or not self.allowed, "an image outside train was read"
        return np.asarray(super().__getitem__(index))


@pytest.mark.parametrize("method", METHODS)
def test_only_training_images_are_read_and_no_label(method: str, data: Dataset) -> None:
    expected = pretrain(settings(method), data, 0, CPU)
    train = data.indices("train")
    guarded = data.images.view(Guarded)
    guarded.allowed = frozenset(train.tolist())
    with pytest.raises(AssertionError, match="outside train"):
        guarded[data.indices("val")]
    labels = data.labels.copy()
    labels[train] = np.roll(labels[train], 9)
    blind = replace(data, images=guarded, labels=labels)
    found = pretrained(settings(method), blind, 0, CPU)
    assert found is not None
    assert same(found, expected)


# ---------------------------------------------------------------- the cache, and interruption


def test_the_cache_knows_all_that_the_weights_depend_on(data: Dataset) -> None:
    train = data.indices("train")
    brighter, fewer = data.images.copy(), data.folds.copy()
    brighter[train[0]] += 1
    fewer[train[0]] = "unused"
    variants: list[tuple[ClassifierConfig, Dataset, int]] = [
        (settings(), data, 0),
        (settings(), data, 1),
        (settings("vicreg"), data, 0),
        (settings(steps=5), data, 0),
        (settings(normalisation="unit"), data, 0),
        (settings(model="small_resnet"), data, 0),
        (settings(data=DataConfig(image_size=16, flips=True)), data, 0),
        (settings(), replace(data, images=brighter), 0),
        (settings(), replace(data, folds=fewer), 0),
        (settings(), replace(data, split_hash="1" * 16), 0),
    ]
    assert len({pretraining._file_of(*variant, CPU) for variant in variants}) == len(variants)
    of_training = (settings(lr=0.1), settings(augmentation="strong"), settings(batch_size=4))
    assert len({pretraining._file_of(config, data, 0, CPU) for config in (settings(), *of_training)}) == 1


def test_what_the_cache_holds_is_not_made_again(data: Dataset, made: list[int]) -> None:
    assert not pretraining.is_kept(settings(), data, 0, CPU)
    first = pretrained(settings(), data, 0, CPU)
    assert pretraining.is_kept(settings(lr=0.1), data, 0, CPU)
    again = pretrained(settings(lr=0.1), data, 0, CPU)
    assert first is not None
    assert again is not None
    assert same(first, again)
    assert made == [0]


def test_a_damaged_file_is_made_again(
    data: Dataset, cache: Path, made: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    first = pretrained(settings(), data, 0, CPU)
    (file,) = cache.glob("*.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = pretrained(settings(), data, 0, CPU)
    assert first is not None
    assert again is not None
    assert same(first, again)
    assert made == [0, 0]
    assert file.name in caplog.text


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(
    data: Dataset, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a network that has dropout below its head."""
    config = settings(model="s1_cnn", steps=4)
    answers: Iterator[int | None] = iter([None, 15])
    with pytest.raises(Interrupted, match=r"SIGTERM: .*step 2"):
        pretrained(config, data, 0, CPU, lambda: next(answers))
    assert [file.name.endswith(".unfinished.pt") for file in cache.glob("*.pt")] == [True]
    assert not pretraining.is_kept(config, data, 0, CPU)
    steps: list[int] = []
    resumed = pretrained(config, data, 0, CPU, lambda: steps.append(1))
    assert len(steps) == 2
    assert resumed is not None
    assert same(resumed, pretrain(config, data, 0, CPU))
    assert [file.name.endswith(".unfinished.pt") for file in cache.glob("*.pt")] == [False]


def test_a_damaged_unfinished_file_begins_anew(data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unfinished = tmp_path / "x.unfinished.pt"
    unfinished.write_bytes(b"torn")
    config = settings(steps=1)
    assert same(pretrain(config, data, 0, CPU, unfinished=unfinished), pretrain(config, data, 0, CPU))
    assert unfinished.name in caplog.text
    assert not unfinished.exists()


def test_full_memory_is_not_taken_for_a_damaged_file(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = tmp_path / "unfinished.pt"
    with pytest.raises(Interrupted):
        pretrain(settings(steps=2), data, 0, CPU, lambda: 15, unfinished)
    before = unfinished.read_bytes()

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pretraining, "load_tensors", full)
    with pytest.raises(torch.OutOfMemoryError):
        pretrain(settings(steps=2), data, 0, CPU, unfinished=unfinished)
    assert unfinished.read_bytes() == before


def test_a_signal_ends_the_wait_for_another_process(
    data: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "POLL", 0.01)
    config = settings(steps=1)
    pretrained(config, data, 0, CPU)
    (file,) = cache.glob("*.pt")
    file.unlink()
    answers: Iterator[int | None] = iter([None, 2])
    with (
        filelock.FileLock(file.with_suffix(".lock")),
        pytest.raises(Interrupted, match="SIGINT"),
    ):
        pretrained(config, data, 0, CPU, lambda: next(answers))
    assert pretrained(config, data, 0, CPU) is not None


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"pretrain": {"steps": 5}}, "pretrain.steps is 5"),
        ({"pretrain": {"method": "simsiam"}, "weights": "imagenet", "model": "resnet18"}, "weights is 'imagenet'"),
    ],
)
def test_settings_that_exclude_each_other(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        ClassifierConfig(**more)
    assert "\n" not in str(error.value)
    assert "pretrain.method" in str(error.value)


def test_a_batch_larger_than_the_fold_is_refused_before_anything_is_trained(data: Dataset) -> None:
    with pytest.raises(UsageError, match=r"pretrain.batch_size is 64, but the training fold has 28 images"):
        pretraining.check(small_cnn(pretrain={"method": "vicreg"}), data)
    pretraining.check(small_cnn(), data)


def test_a_command_that_does_not_pretrain_says_so(data: Dataset) -> None:
    with pytest.raises(UsageError, match=r"pretrain.method is simsiam, and this command does not pretrain"):
        tiny.train(data, settings())
    assert pretrained(small_cnn(), data, 0, CPU) is None


def test_full_memory_is_one_line(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(pretraining, "features_of", lambda model, images: torch.zeros(len(images), 4))
    monkeypatch.setattr(pretraining._Training, "advance", full)
    with pytest.raises(BalancerError, match=r"memory of cpu is full at batch_size 16; .*pretrain.batch_size") as error:
        pretrain(settings(), data, 0, CPU)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_an_error(data: Dataset, cache: Path) -> None:
    config = settings("vicreg", steps=8, precision="float32")
    config = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"lr": 1e30})})
    with pytest.raises(BalancerError, match=r"lower pretrain.lr"):
        pretrained(config, data, 0, CPU)
    assert not [file for file in cache.glob("*.pt") if not file.name.endswith(".unfinished.pt")]
