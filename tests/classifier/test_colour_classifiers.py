"""Classifiers of images in colour: networks, inputs, augmentation, heat maps, exports, and files of the other kind."""

import csv
import hashlib
import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from colours import cells
from memory_data import COLUMNS, in_memory
from PIL import Image
from torchvision.transforms.functional import normalize

from balancer.augmentation.classical import CLASSICAL, Augmenter
from balancer.augmentation.ranges import RANGES
from balancer.core.environment import environment
from balancer.core.errors import BalancerError, UsageError
from balancer.core.exported import FORMATS, SUFFIXES
from balancer.core.pixels import in_colour, luminance
from balancer.core.sealed import write_json
from balancer.core.settings import ClassifierConfig, DataConfig
from balancer.data.dataset import Dataset
from classifier.experiments.study import check_channels
from classifier.explain.heatmaps import explain
from classifier.explain.methods import METHODS
from classifier.explain.pictures import overlay
from classifier.export import writing
from classifier.export.signature import signature
from classifier.inference import read_images
from classifier.models import OWN_MODELS, build_model
from classifier.training.checkpoint import SavedClassifier, classifier_bytes, load_classifier
from classifier.training.prediction import normalise, predict, to_input
from classifier.training.record import parse_record
from classifier.training.regimes import REGIMES
from classifier.training.synthetic import load_synthetic

CPU = torch.device("cpu")


def coloured(counts: tuple[int, int] = (8, 14)) -> Dataset:
    data = in_memory(counts)
    images = np.concatenate([cells(1, i, 16, ("eosinophil", "lymphocyte")[k]) for i, k in enumerate(data.labels)])
    return replace(data, images=images)


def saved(model: str = "small_cnn", channels: int = 3) -> SavedClassifier:
    config = ClassifierConfig(model=model, data=DataConfig(image_size=16 if model in OWN_MODELS else 32))
    torch.manual_seed(0)
    network = build_model(config, channels=channels).eval()
    facts = ("eosinophil", "lymphocyte"), 1.3, 0.4, "baseline", 0, "", "", "", None
    return SavedClassifier(config, *facts, network, channels=channels)


@pytest.mark.parametrize("name", [*OWN_MODELS, "squeezenet1_1"])
def test_every_kind_of_network(name: str) -> None:
    """The first layer alone differs; a backbone does not differ at all, and sees grey as three equal channels."""
    config = ClassifierConfig(model=name, data=DataConfig(image_size=32))
    nets = []
    for channels in (1, 3):
        torch.manual_seed(0)
        nets.append(build_model(config, 3, channels).eval())
    shapes = [{k: tuple(v.shape) for k, v in net.state_dict().items()} for net in nets]
    changed = [k for k in shapes[0] if shapes[0][k] != shapes[1][k]]
    assert len(changed) == (1 if name in OWN_MODELS else 0)
    pixels = cells(4, 0, 32)
    assert nets[1](to_input(pixels, config, CPU)).shape == (4, 3)
    if name not in OWN_MODELS:
        grey = luminance(pixels)
        one, three = (net(to_input(of, config, CPU)) for net, of in zip(nets, (grey, in_colour(grey)), strict=True))
        torch.testing.assert_close(one, three)


def test_normalisation_channel_by_channel() -> None:
    images = torch.from_numpy(cells(3)).permute(0, 3, 1, 2).float()
    out = normalise(images, "per_image")
    expected = (images - images.mean((2, 3), keepdim=True)) / images.flatten(2).std(2)[..., None, None]
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)
    tinted = images * torch.tensor([0.9, 0.7, 0.8]).view(1, 3, 1, 1) + 5
    torch.testing.assert_close(normalise(tinted, "per_image"), out, rtol=1e-3, atol=1e-2)
    imagenet = normalize(images / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(normalise(images, "imagenet"), imagenet)


@pytest.mark.parametrize("name", list(CLASSICAL))
def test_no_preset_changes_the_hue(name: str) -> None:
    """Grey in three channels stays grey but for noise, and is changed as grey is."""
    grey = luminance(cells(6, 0, 32))
    index = np.arange(6)
    one, three = (Augmenter(name, 0)(images, index, 0) for images in (grey, in_colour(grey)))
    means = three.reshape(6, -1, 3).mean(axis=1)
    assert np.ptp(means, axis=1).max() < 1.5
    assert np.abs(means.mean(axis=1) - one.reshape(6, -1).mean(axis=1)).max() < 2
    if name not in RANGES:  # whose noise is drawn for each channel
        assert np.abs(three.astype(int) - one[..., None]).max() <= 1


@pytest.mark.parametrize("method", list(METHODS))
def test_every_heat_map(method: str) -> None:
    classifier, pixels = saved(), cells(2)
    heat = explain(classifier, pixels, method, 1)
    assert heat.maps.shape == (2, 16, 16)
    assert np.isfinite(heat.relevance).all()
    picture = overlay(pixels[0], np.zeros((16, 16), np.float32), 16)
    assert np.array_equal(picture, pixels[0]), "without evidence the picture itself is seen"
    with pytest.raises(UsageError, match=r"\(N, H, W, 3\)"):
        explain(classifier, luminance(pixels), method)


@pytest.mark.nightly
def test_integrated_gradients_are_complete() -> None:
    """The map adds up to the difference of the score from the image of mean colour."""
    classifier, pixels = saved(), cells(2)
    heat = explain(classifier, pixels, "integrated_gradients", 1)
    inputs = to_input(pixels, classifier.config, CPU)
    with torch.no_grad():
        mean = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
        expected = classifier.model(inputs) - classifier.model(mean)
    np.testing.assert_allclose(heat.relevance.sum(axis=(1, 2)), expected.numpy(), rtol=0.05, atol=0.02)


@pytest.mark.nightly
@pytest.mark.parametrize("to", FORMATS)
def test_every_export(to: str, tmp_path: Path) -> None:
    classifier = saved()
    content, probabilities = writing.WRITERS[to](classifier, tmp_path / f"x{SUFFIXES[to]}")
    assert writing.compare(classifier, probabilities) <= 1e-4
    facts = writing.facts_of(classifier)
    assert "[batch, 3, 16, 16]" in facts["input"]
    assert parse_record(facts, tmp_path).channels == 3
    assert content


def test_the_signature_has_the_channels() -> None:
    assert [signature(saved(channels=c))[0][0].shape for c in (1, 3)] == [(1, 16, 16), (3, 16, 16)]


def test_a_training_and_its_checkpoint(tmp_path: Path) -> None:
    data, config = coloured(), tiny.small_cnn(normalisation="unit")
    result = tiny.train(data, config, "augment")
    file = tmp_path / "model.pt"
    file.write_bytes(classifier_bytes(config, REGIMES["augment"], 0, data, result))
    again = load_classifier(file, CPU)
    assert again.channels == 3
    test = data.images[data.indices("test")]
    assert np.array_equal(predict(again.model, test, config, CPU), predict(result.model, test, config, CPU))
    assert again.data_config.channels == 3


def test_a_record_without_channels_is_grey(tmp_path: Path) -> None:
    facts = saved(channels=1).portable()
    assert facts.pop("channels") == 1
    assert parse_record(facts, tmp_path).channels == 1


def test_files_of_the_other_kind_are_converted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cell,) = cells(1, 0, 24)
    Image.fromarray(cell).save(tmp_path / "colour.png")
    Image.fromarray(cell).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(cell).convert("L").convert("RGB").save(tmp_path / "rgb.png")
    caplog.set_level(logging.WARNING)
    files, pixels = read_images([tmp_path], saved())
    assert [file.stem for file in files] == ["colour", "grey", "rgb"]
    assert pixels.shape == (3, 16, 16, 3)
    assert np.array_equal(pixels[1], pixels[2])
    assert (pixels[1] == pixels[1][..., :1]).all()
    assert "2 of 3 images" in caplog.text
    caplog.clear()
    files, pixels = read_images([tmp_path], saved(channels=1))
    assert pixels.shape == (3, 16, 16)
    assert "1 of 3 images" in caplog.text
    caplog.clear()
    read_images([tmp_path / "rgb.png"], saved(channels=1))
    assert not caplog.text


def synthesis(folder: Path, images: np.ndarray, split_hash: str) -> Path:
    rows = []
    (folder / "images").mkdir(parents=True)
    for i, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        (folder / f"images/{i}.png").write_bytes(buffer.getvalue())
        rows.append((f"images/{i}.png", i, i, hashlib.sha256(buffer.getvalue()).hexdigest(), "NORMAL", split_hash))
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    return folder


def test_a_synthesis_of_other_channels_is_refused(tmp_path: Path) -> None:
    data, grey = coloured((3, 7)), in_memory((3, 7))
    config, made = DataConfig(image_size=16), cells(6, 99)
    in_colours = synthesis(tmp_path / "colour", made, data.split_hash)
    in_grey = synthesis(tmp_path / "grey", luminance(made), data.split_hash)
    loaded = load_synthetic(in_colours, data, config, "deficit")
    assert np.array_equal(loaded.images, made[:4])
    for folder, of, channels in ((in_grey, data, 1), (in_colours, grey, 3)):
        with pytest.raises(BalancerError, match=f"--channels {channels}"):
            load_synthetic(folder, of, config, "deficit")
    stored = synthesis(tmp_path / "stored", in_colour(luminance(made)), data.split_hash)
    assert np.array_equal(load_synthetic(stored, grey, config, "deficit").images, luminance(made)[:4])


def test_trials_of_two_channels_do_not_meet(tmp_path: Path) -> None:
    """A run of an earlier version names no channels: its images were grey."""
    colour, grey = coloured(), in_memory((3, 7))
    for data, stated, fits in ((colour, {"channels": 3}, True), (colour, {}, False), (grey, {}, True)):
        write_json(tmp_path / "env.json", environment("ablate", "cpu", data=stated))
        if fits:
            check_channels(tmp_path, data)
            continue
        with pytest.raises(BalancerError, match="--channels 1"):
            check_channels(tmp_path, data)
