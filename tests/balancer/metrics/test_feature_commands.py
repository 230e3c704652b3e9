"""`balancer features train`, and the commands that train a network on first need."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import TINY_GAN, balancer, done, refused
from PIL import Image
from scipy.ndimage import gaussian_filter

from balancer.metrics import own_features
from balancer.metrics.feature_response import DEGRADATIONS, Response
from balancer.metrics.feature_training import Recipe

SIZES = ("--image-size", 16)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, and a response that is taken for measured."""
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own_features, "RECIPE", Recipe(steps=2, batch=8))
    responses = [Response(name, d.levels, (1, 2, 3, 4), (0, 0.1, 0.2, 0.3)) for name, d in DEGRADATIONS.items()]
    monkeypatch.setattr(own_features, "measure_response", lambda *_: responses)


@pytest.fixture
def folder(runs_cwd: Path) -> Path:
    """Split folders of two classes that are no chest X-rays: 70 + 40 training images."""
    rng = np.random.default_rng(0)
    for split, counts in {"train": (70, 40), "val": (6, 6), "test": (6, 6)}.items():
        for cls, n in zip(("benign", "malignant"), counts, strict=True):
            (runs_cwd / "set" / split / cls).mkdir(parents=True)
            for i in range(n):
                field = gaussian_filter(rng.normal(size=(16, 16)), 2)
                image = Image.fromarray(np.clip(128 + 60 * field / field.std(), 0, 255).astype(np.uint8))
                image.save(runs_cwd / "set" / split / cls / f"{split}{i:03d}.png")
    return runs_cwd / "set"


def test_training_ahead(folder: Path, tmp_path: Path) -> None:
    """A dry run writes nothing; the second call finds the network; --force trains again."""
    dry = json.loads(done(balancer("features", "train", folder, *SIZES, "--dry-run", "--json")).stdout)
    assert dry["estimated_seconds"] > 0
    assert not (tmp_path / "cache" / "networks").exists() or not list((tmp_path / "cache" / "networks").iterdir())
    made = json.loads(done(balancer("features", "train", folder, *SIZES, "--json")).stdout)
    assert made["images"] == {"benign": 70, "malignant": 40}
    assert made["usable"]
    assert not made["was_there"]
    assert Path(made["file"]).is_file()
    again = done(balancer("features", "train", folder, *SIZES))
    assert f"{made['name']} responds to every damage" in again.stdout
    assert "in the cache" in again.stdout
    forced = json.loads(done(balancer("features", "train", folder, *SIZES, "--force", "--json")).stdout)
    assert (forced["weights"], forced["was_there"]) == (made["weights"], False)
    there = json.loads(done(balancer("features", "train", folder, *SIZES, "--dry-run", "--json")).stdout)
    assert there["estimated_seconds"] == 0


def test_too_few_images_are_refused(folder: Path) -> None:
    for file in sorted((folder / "train" / "benign").iterdir())[:20]:
        file.unlink()
    refused(balancer("features", "train", folder, *SIZES), 1, "90 images", "100", "random-conv-128")


def test_gan_train_and_synthesize_use_the_network(folder: Path) -> None:
    """Trained on first need and named in the run and in the report, with its response; then taken from the cache."""
    train = ("gan-train", "--data", folder, "--steps", 2, *TINY_GAN, "--out", "gan")
    foreseen = json.loads(done(balancer(*train, "--dry-run", "--json")).stdout)["estimated_seconds"]
    assert foreseen > own_features.RESPONSE_SECONDS
    done(balancer(*train))
    name = json.loads(Path("gan/summary.json").read_text())["features"]
    assert name.startswith("own-128-")
    quick = ("--set", "two_sample=false", "--set", "kid_subsets=2", "--set", "kid_subset_size=4")
    done(balancer("synthesize", "--gan-run", "gan", "--n", 8, "--inception-weights", "off", *quick, "--out", "syn"))
    quality = json.loads(Path("syn/report.json").read_text())["quality"]
    assert {row["features"] for row in quality["distances"]} == {name, "random-conv-128"}
    assert quality["own_network"]["name"] == name
    assert len(quality["own_network"]["response"]) == len(DEGRADATIONS)
    page = Path("syn/report.md").read_text()
    assert "## Feature network" in page
    assert "trained on chest X-rays" not in page
    for degradation in DEGRADATIONS.values():
        assert degradation.label in page
