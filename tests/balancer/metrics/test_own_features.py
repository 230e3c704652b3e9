"""The network of a data set's own: its name, its file in the cache, what it saw, and when it is not used."""

import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from balancer.core.sealed import save_tensors
from balancer.metrics import own_features
from balancer.metrics.feature_response import Response
from balancer.metrics.feature_training import Recipe
from balancer.metrics.features import extract
from balancer.metrics.own_features import (
    FEWEST,
    FORMAT,
    RARE,
    file_of,
    is_trained,
    network_name,
    own_network,
    response_sides,
    training_images,
    why_not,
)

CPU = torch.device("cpu")
QUICK = Recipe(steps=2, batch=8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))


@pytest.fixture
def no_response(monkeypatch: pytest.MonkeyPatch) -> list[Response]:
    """Measure nothing; return what is taken for the measured response."""
    response = [Response("blur", (0, 1), (1.0, 2.0), (0.1, 0.2))]
    monkeypatch.setattr(own_features, "measure_response", lambda *_: response)
    monkeypatch.setattr(own_features, "seconds_to_train", lambda *_: 1.0)
    return response


def dataset(*counts: int, side: int = 24, channels: int = 1, **facts: Any) -> Any:
    """A made data set of smooth images, two a patient, of which a third of each class lies in validation and test."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), [n + n // 2 for n in counts])
    first = np.concatenate([np.arange(n + n // 2) < n for n in counts])
    folds = np.where(first, "train", np.where(np.arange(len(labels)) % 2, "val", "test"))
    smooth = gaussian_filter(rng.normal(size=(len(labels), side, side, channels)), (0, 2, 2, 0))
    images = np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    made = SimpleNamespace(
        images=images[..., 0] if channels == 1 else images,
        labels=labels,
        folds=folds,
        classes=tuple("ABCDEFGH"[: len(counts)]),
        groups=[f"p{i // 2}" for i in range(len(labels))],
        split_hash="s",
        undecoded=None,
        reader="classes",
        source="made",
    )
    made.indices = lambda fold, label=None: np.flatnonzero(
        (made.folds == fold) & (True if label is None else made.labels == label)
    )
    made.__dict__.update(facts)
    return made


def test_a_network_is_trained_once_and_read_from_then_on(no_response: list[Response]) -> None:
    data = dataset(70, 40)
    name = network_name(data, QUICK)
    assert not is_trained(data, QUICK)
    own, network = own_network(data, CPU, QUICK)
    assert is_trained(data, QUICK)
    assert (own.name, network.name, own.steps, own.split_hash) == (name, name, 2, "s")
    assert (own.images, own.left_out, own.response) == ({"A": 70, "B": 40}, {}, no_response)
    assert name in own.describe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_features, "train", lambda *_: pytest.fail("trained again"))
        again, same = own_network(data, CPU, QUICK)
    assert again == own
    batch = torch.from_numpy(data.images[:4])[:, None]
    assert torch.equal(same.module(batch), network.module(batch))
    assert same.version == network.version == own.weights, "features on disk are kept under the weights"


def test_a_network_of_images_in_colour_sees_colour(no_response: list[Response]) -> None:
    data = dataset(70, 40, channels=3)
    _, network = own_network(data, CPU, QUICK)
    _, again = own_network(data, CPU, QUICK)
    assert network.sees_colour
    images = data.images[:8]
    first, other = (extract(network, of, CPU, "x") for of in (images, images[..., ::-1].copy()))
    assert np.abs(first - other).max() > 1e-3
    assert np.array_equal(extract(again, images, CPU, "x"), first), "as the cache has it"


def test_the_name_changes_with_all_that_the_weights_depend_on() -> None:
    data = dataset(70, 40)
    resized = data.images.copy()
    resized[data.indices("train")[0], 0, 0] ^= 1
    moved = data.labels.copy()
    moved[data.indices("train", 0)[:3]] = 1
    others = [
        dataset(70, 40, split_hash="t"),
        dataset(70, 40, images=resized),
        dataset(70, 40, labels=moved),
    ]
    recipes = [replace(QUICK, steps=3), replace(QUICK, seed=1)]
    names = {network_name(data, QUICK), *(network_name(d, QUICK) for d in others)}
    names |= {network_name(data, recipe) for recipe in recipes}
    assert len(names) == 1 + len(others) + len(recipes)
    assert all(name.startswith("own-128-") for name in names)
    assert network_name(dataset(70, 40), QUICK) == network_name(data, QUICK)


def test_nothing_of_validation_and_test_reaches_the_network(no_response: list[Response]) -> None:
    """Neither pixels nor labels: with others, the weights are the same, and so is the name."""
    data = dataset(70, 40)
    outside = data.folds != "train"
    images, labels = data.images.copy(), data.labels.copy()
    images[outside], labels[outside] = 0, 0
    first, second = (own_network(d, CPU, QUICK, again=True)[0] for d in (data, dataset(70, 40, images=images)))
    assert first.weights == second.weights
    assert network_name(dataset(70, 40, labels=labels), QUICK) == first.name


@pytest.mark.parametrize("damage", ["a bit", "cut", "weights", "facts", "format"])
def test_a_damaged_file_is_made_again(
    damage: str, no_response: list[Response], caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(70, 40)
    own, _ = own_network(data, CPU, QUICK)
    file = file_of(own.name)
    content = file.read_bytes()
    stored = torch.load(file, weights_only=True)
    if damage == "a bit":
        file.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "weights":
        stored["network"]["layers.0.weight"] += 1
        save_tensors(file, stored)
    elif damage == "facts":
        del stored["facts"]["steps"]
        save_tensors(file, stored)
    else:
        save_tensors(file, stored | {"format": FORMAT + 1})
    again, _ = own_network(data, CPU, QUICK)
    assert again.weights == own.weights
    assert f"{file} is damaged" in caplog.text
    caplog.clear()
    own_network(data, CPU, QUICK)
    assert "damaged" not in caplog.text


def _train(folder: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALANCER_CACHE", folder)
        patch.setattr(own_features, "measure_response", lambda *_: [])
        train = own_features.train

        def noting(*arguments: Any) -> Any:
            with (Path(folder) / "trainings").open("a") as handle:
                handle.write("one\n")
            return train(*arguments)

        patch.setattr(own_features, "train", noting)
        own_network(dataset(70, 40), CPU, QUICK)


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_train, args=(str(tmp_path),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    assert (tmp_path / "trainings").read_text() == "one\n"
    assert [p.suffix for p in (tmp_path / "networks").iterdir()] == [".pt"]


@pytest.mark.parametrize(
    ("counts", "enough"),
    [((FEWEST - RARE, RARE), True), ((FEWEST - RARE - 1, RARE), False), ((FEWEST - 1, RARE - 1), False)],
)
def test_how_many_images_are_needed(counts: tuple[int, ...], enough: bool) -> None:
    """Images of classes that are too small count for nothing."""
    reason = why_not(dataset(*counts))
    assert (reason is None) == enough
    if reason:
        kept = sum(n for n in counts if n >= RARE)
        assert f"{kept} images" in reason
        assert str(FEWEST) in reason


def test_rare_classes_are_left_out_and_named(no_response: list[Response]) -> None:
    data = dataset(70, 40, RARE - 1)
    assert [len(positions) for positions in training_images(data).classes] == [70, 40]
    own, _ = own_network(data, CPU, QUICK)
    assert own.left_out == {"C": RARE - 1}
    assert f"C {RARE - 1}" in own.describe()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sides_of_the_response_share_no_patient(channels: int) -> None:
    """Images of the training fold at 64 px, equally many a side."""
    data = dataset(70, 40, side=64, channels=channels)
    first, second = response_sides(data, training_images(data))
    assert first.shape == second.shape == (len(first), 64, 64, 3)[: 3 if channels == 1 else 4]
    assert len(first) >= 50
    known = {image.tobytes(): i for i, image in enumerate(data.images)}
    patients = [{data.groups[known[image.tobytes()]] for image in side} for side in (first, second)]
    assert not patients[0] & patients[1]
    for side in (first, second):
        labels = data.labels[[known[image.tobytes()] for image in side]]
        assert np.mean(labels == 0) == pytest.approx(70 / 110, abs=0.05), "equal shares of the classes"
        assert len(set(labels[:20].tolist())) == 2, "in random order: mode dropping keeps the first ones"
    assert {data.folds[known[image.tobytes()]] for image in first} == {"train"}


def test_a_network_that_cannot_be_measured_is_not_used() -> None:
    data = dataset(70, 40, groups=["one patient"] * 165)
    own, _ = own_network(data, CPU, QUICK)
    assert own.response == []
    assert not own.is_usable


def test_a_network_of_two_steps_responds_to_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, the measurement included: what has learnt nothing is not used."""
    monkeypatch.setattr(own_features, "SIDE", 24)
    own, _ = own_network(dataset(70, 40), CPU, QUICK)
    assert own.side == 24
    assert own.unresponsive
    assert not own.is_usable
