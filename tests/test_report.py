"""The quality report: which sets are compared, and what it says of them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from balancer import report
from balancer.config import SynthesizeConfig
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.folder import CLASSES, Record
from balancer.metrics.features import FeatureNetwork
from balancer.report import quality_report, render_markdown

CPU = torch.device("cpu")
SETTINGS = SynthesizeConfig(inception="off", kid_subsets=3, kid_subset_size=6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path))


def dataset(train: int = 30, val: int = 12) -> Dataset:
    """Every image is one grey level, its own; three images a patient."""
    layout = [("train", 0, train), ("val", 0, val), ("train", 1, 50), ("val", 1, 10)]
    folds = np.array([fold for fold, _, n in layout for _ in range(n)])
    labels = np.array([label for _, label, n in layout for _ in range(n)])
    patients = [f"{fold}-{label}-{i // 3}" for fold, label, n in layout for i in range(n)]
    names = [f"{p}-{i}" for i, p in enumerate(patients)]
    images = np.broadcast_to(np.arange(len(folds), dtype=np.uint8)[:, None, None], (len(folds), 16, 16))
    return Dataset(
        source="toy",
        images=np.ascontiguousarray(images),
        labels=labels,
        folds=folds,
        records=[Record(n, int(c), str(f), p, "") for n, c, f, p in zip(names, labels, folds, patients, strict=True)],
        groups=patients,
        digests=names,
        split_hash="0123456789abcdef",
        fingerprint="f" * 16,
    )


def fakes(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(200, 256, (n, 16, 16), dtype=np.uint8)


def grey_network(_device: torch.device) -> FeatureNetwork:
    """Feature 0 is the mean grey level, which names a real image."""

    def module(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([batch.float().mean(dim=(1, 2, 3)), batch.float().amax(dim=(1, 2, 3))], dim=1)

    return FeatureNetwork("grey-2", 2, "1", module, 8)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """The pairs of feature sets that each distance was asked for, on a network whose features name the image."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"frechet": [], "kernel": []}

    def frechet(real: np.ndarray, fake: np.ndarray) -> float:
        pairs["frechet"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        return 1.5

    def kernel(real: np.ndarray, fake: np.ndarray, subsets: int, size: int, seed: int) -> tuple[float, float]:
        pairs["kernel"].append((real[:, 0].round().astype(int), fake[:, 0].round().astype(int)))
        assert size <= len(real)
        return 0.25, 0.1

    monkeypatch.setattr(report, "random_conv", grey_network)
    monkeypatch.setattr(report, "frechet_distance", frechet)
    monkeypatch.setattr(report, "kernel_distance", kernel)
    return pairs


@pytest.mark.parametrize(("train", "val", "n_fake"), [(30, 12, 40), (30, 12, 7), (13, 40, 40)])
def test_sets_that_are_compared(
    train: int, val: int, n_fake: int, compared: dict[str, list[tuple[np.ndarray, np.ndarray]]]
) -> None:
    """Equal counts; real sets of the right fold and class; floors between real sets with no patient in common."""
    data = dataset(train, val)
    rows = quality_report(SETTINGS, data, 0, fakes(n_fake), CPU)["distances"]
    assert [r["reference"] for r in rows] == ["training fold (half the patients)", "validation"]
    for pairs in compared.values():
        assert len(pairs) == 4
        found = {"synthetic": [p for p in pairs if p[1].max() >= 200], "floor": [p for p in pairs if p[1].max() < 200]}
        assert len(found["synthetic"]) == len(found["floor"]) == 2
        for i, (row, fold) in enumerate(zip(rows, ("train", "val"), strict=True)):
            (reference, fake), (again, floor) = found["synthetic"][i], found["floor"][i]
            assert sorted(reference) == sorted(again), "the floor has the same reference"
            assert len(reference) == len(fake) == len(floor) == row["n_real"] == row["n_fake"]
            assert len(set(reference)) == len(reference)
            assert len(set(floor)) == len(floor)
            assert (data.labels[reference] == 0).all()
            assert (data.labels[floor] == 0).all()
            assert set(data.folds[reference]) == {fold}
            assert set(data.folds[floor]) == {"train"}
            assert not {data.groups[k] for k in reference} & {data.groups[k] for k in floor}
            assert fake.min() >= 200


def test_real_figures() -> None:
    """On the offline network the figures are finite, the floor is below far-off fakes, and nothing is called FID."""
    quality = quality_report(SETTINGS, dataset(), 0, fakes(), CPU)
    assert {r["features"] for r in quality["distances"]} == {"random-conv-128"}
    for row in quality["distances"]:
        assert row["frechet_name"] == "Fréchet distance"
        assert row["frechet_floor"] < row["frechet"]
        assert row["kid_floor"] < row["kid"]
        assert np.isfinite([row[k] for k in ("frechet", "frechet_floor", "kid", "kid_sd", "kid_floor")]).all()
    assert quality_report(SETTINGS, dataset(), 0, fakes(), CPU) == quality, "the same again"
    biased = [n for n in quality["notes"] if "biased" in n]
    assert len(biased) == 2, "15 and 12 images for 128 features"


def test_copies_of_real_images_come_near_the_floor() -> None:
    data = dataset()
    copies = data.images[data.indices("train", 0)]
    near, far = (quality_report(SETTINGS, data, 0, x, CPU)["distances"][0] for x in (copies, fakes()))
    assert near["frechet"] < far["frechet"] / 5


def whole_report(quality: dict[str, Any], data: Dataset) -> dict[str, Any]:
    return {
        "class": CLASSES[0],
        "n": 40,
        "gan_run": "/somewhere/runs/gan-train/20260101-000000-abcdef01",
        "gan_step": 8,
        "gan_config": {"preset": "dcgan", "ema_decay": 0.99},
        "seed": 3,
        "data": data.describe() | {"counts": {"train": {"NORMAL": 30, "PNEUMONIA": 50}}},
        "quality": quality,
    }


@pytest.mark.parametrize(("given", "phrase"), [("off", "--inception-weights is off"), ("auto", "torch hub cache")])
def test_without_inception_no_figure_is_an_fid(given: str, phrase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "inception_weights", lambda _given: None)
    data = dataset()
    quality = quality_report(SETTINGS.model_copy(update={"inception": given}), data, 0, fakes(), CPU)
    text = render_markdown(whole_report(quality, data))
    assert "FID was not computed" in text
    assert phrase in text
    for line in text.splitlines():
        if "FID" in line:
            assert "FID was not computed" in line or "not FIDs" in line, line
    if given == "auto":
        assert "--inception-weights FILE" in text, "how to get it"


def test_with_inception_each_figure_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "inception_weights", lambda given: given)
    monkeypatch.setattr(
        report, "inception", lambda _weights, device: dataclasses.replace(grey_network(device), name="inception-2048")
    )
    data = dataset()
    quality = quality_report(SETTINGS, data, 0, fakes(), CPU)
    names = {(r["features"], r["frechet_name"]) for r in quality["distances"]}
    assert names == {("random-conv-128", "Fréchet distance"), ("inception-2048", "FID")}
    text = render_markdown(whole_report(quality, data))
    assert "FID was not computed" not in text
    distances, overlap = (
        [line for line in part.splitlines() if line.startswith(("| random", "| inception"))]
        for part in text.split("## Overlap")
    )
    rows = distances
    assert len(rows) == len(overlap) == 4
    assert all(("(FID)" in line) == line.startswith("| inception-2048") for line in rows)


def test_markdown_states_counts_figures_and_floors() -> None:
    data = dataset()
    quality = quality_report(SETTINGS, data, 0, fakes(), CPU)
    text = render_markdown(whole_report(quality, data))
    table, overlap = (
        [line for line in part.splitlines() if line.startswith("| random")] for part in text.split("## Overlap")
    )
    for line, row in zip(overlap, quality["distances"], strict=True):
        for name, value in row["overlap"].items():
            assert f"{value:.2f} ({row['overlap_floor'][name]:.2f})" in line
    for line, row in zip(table, quality["distances"], strict=True):
        for key in ("n_real", "n_fake"):
            assert f"| {row[key]} " in line
        for key in ("frechet", "frechet_floor"):
            assert f"{row[key]:.2f}" in line
        for key in ("kid", "kid_floor"):
            assert f"{row[key]:.4f}" in line
    for fact in ("# 40 synthetic NORMAL images", "NORMAL 30, PNEUMONIA 50", "0123456789abcdef", "20260101-000000"):
        assert fact in text
    assert PHANTOM_NOTICE not in text
    drawn = dataclasses.replace(data, notes=[PHANTOM_NOTICE])
    assert PHANTOM_NOTICE in render_markdown(whole_report(quality, drawn))


def test_markdown_gives_every_subset_size_used() -> None:
    """With little validation data the KID there uses smaller subsets than the first row's."""
    data = dataset(30, 4)
    quality = quality_report(SETTINGS, data, 0, fakes(), CPU)
    assert [r["kid_subset_size"] for r in quality["distances"]] == [6, 2]
    text = render_markdown(whole_report(quality, data))
    assert "subsets of 6 and 2 images" in text


@pytest.mark.parametrize(("train", "val"), [(30, 1), (30, 0)])
def test_too_little_validation_data_is_said(train: int, val: int) -> None:
    data = dataset(train, val)
    quality = quality_report(SETTINGS, data, 0, fakes(), CPU)
    assert len(quality["distances"]) == 1
    assert any(
        f"No distance to validation: it needs 2 images a side; there are {val} real" in n for n in quality["notes"]
    )
    render_markdown(whole_report(quality, data))


def test_one_synthetic_image_gives_no_distance() -> None:
    data = dataset()
    quality = quality_report(SETTINGS, data, 0, fakes(1), CPU)
    assert quality["distances"] == []
    assert sum("1 synthetic" in n for n in quality["notes"]) == 2
    render_markdown(whole_report(quality, data))


def test_a_seed_of_its_own(compared: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    for seed in (0, 1):
        quality_report(SETTINGS.model_copy(update={"seed": seed}), dataset(), 0, fakes(), CPU)
    references = [tuple(p[0]) for p in compared["frechet"]]
    assert references[:4] != references[4:]
