"""Properties are what they are called, and a planted shortcut is found with an interval that knows the patients."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import cells, write_cells
from PIL import Image
from scipy.ndimage import laplace

from balancer.audit import properties
from balancer.audit.findings import audit, strongest_shortcut
from balancer.audit.properties import BLACK, OF_FILES, OF_PIXELS, measure, pixel_properties
from balancer.audit.results import PropertyResult, Shortcuts
from balancer.audit.shortcuts import patient_folds, shortcuts
from balancer.core.errors import BalancerError
from balancer.core.pixels import luminance
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics.resampling import AurocInterval

RNG = np.random.default_rng(0)


def load(folder: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(folder), image_size=16))


def row(found: Shortcuts, key: str) -> PropertyResult:
    return next(r for r in found.properties if r.key == key)


@pytest.mark.parametrize("shape", [(224, 224), (40, 90), (17, 16), (3, 3)])
def test_pixel_properties(shape: tuple[int, int]) -> None:
    images = RNG.integers(0, 256, (2, *shape)).astype(np.uint8)
    images[:, : shape[0] // 2] //= 40
    width = max(1, round(0.03 * min(shape)))
    for image, found in zip(images, pixel_properties(images), strict=True):
        grey = image.astype(float)
        border = [
            grey[y, x]
            for y in range(shape[0])
            for x in range(shape[1])
            if min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) < width
        ]
        black = np.mean(np.array(border) < BLACK)
        expected = [laplace(grey, mode="mirror").var(), grey.mean(), grey.std(), np.mean(border), black]
        assert found == pytest.approx(expected, rel=1e-4)


def test_properties_of_colour() -> None:
    """Those of the luminance, and two of the channels, pixel by pixel; equal channels have none."""
    images = cells(3, side=20)
    found = pixel_properties(images)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert found[:, :-2] == pytest.approx(pixel_properties(grey))
    for image, (colour, warmth) in zip(images.astype(float), found[:, -2:], strict=True):
        pixels = image.reshape(-1, 3)
        assert colour == pytest.approx(np.mean([max(pixel) - min(pixel) for pixel in pixels]))
        assert warmth == pytest.approx(np.mean([red - blue for red, _, blue in pixels]))
    assert not pixel_properties(np.stack([grey] * 3, axis=-1))[:, -2:].any()


def test_the_colour_cast_tells_the_class(tmp_path: Path) -> None:
    """Files are measured at their own size, and the working images likewise."""
    data = load(write_cells(tmp_path, (30, 24)))
    measured = measure(data)
    assert [prop.key for prop in measured.properties[-2:]] == ["saturation", "warmth"]
    picture = np.asarray(Image.open(data.files([0])[0]))
    assert measured.values[0, len(OF_FILES) :] == pytest.approx(pixel_properties(picture[None])[0])
    found = shortcuts(data, measured)
    warmth = row(found, "warmth")
    assert warmth.classes is not None
    assert warmth.working is not None
    assert warmth.classes.auroc == warmth.working.auroc == 0.0, "lymphocytes are blue"


def test_many_images_are_measured_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (7, 20, 20)).astype(np.uint8)
    at_once = pixel_properties(images)
    monkeypatch.setattr(properties, "CHUNK_PIXELS", 3 * 400)
    assert (pixel_properties(images) == at_once).all()


def test_files_are_measured_at_their_own_size_and_once(chest_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = chest_folder / "train" / "NORMAL" / "IM-0001-0001.png"
    pixels = RNG.integers(0, 256, (60, 90), dtype=np.uint8)
    Image.fromarray(pixels).save(big)
    data = load(chest_folder)
    assert not properties.is_measured(data)
    measured = measure(data)
    assert measured.from_files
    i = [record.name for record in data.records].index("train/NORMAL/IM-0001-0001.png")
    found = dict(zip([p.key for p in measured.properties], measured.values[i], strict=True))
    assert (found["width"], found["height"], found["aspect"]) == (90, 60, 1.5)
    assert found["bytes_per_pixel"] == big.stat().st_size / 5400
    assert found["brightness"] == pytest.approx(pixels.mean(), rel=1e-5)
    assert measured.thumbnails.shape == (len(data.records), 64, 64)
    monkeypatch.setattr(properties, "_measure_file", None)  # a second reading would call it
    assert properties.is_measured(data)
    assert (measure(data).values == measured.values).all()
    assert isinstance(measured.thumbnails, np.memmap), "those of a large set fill the memory"


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_damaged_thumbnails_are_made_again(
    damage: Callable[[Path], object], chest_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load(chest_folder)
    before = np.array(measure(data).thumbnails)
    (file,) = properties._cache_file(data).parent.glob(f"{properties._cache_file(data).stem}.npy")
    damage(file)
    again = measure(data)
    assert (again.thumbnails == before).all()
    assert str(file) in caplog.text


def test_thumbnails_of_an_archive_are_made_where_they_are_asked_for() -> None:
    images = RNG.integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)
    small = properties.SmallImages(images)
    chosen = small[np.array([4, 1])]
    assert len(small) == 5
    assert chosen.shape == (2, 64, 64)
    assert small[np.arange(0)].shape == (0, 64, 64), "where no hashes are alike"
    for thumbnail, image in zip(chosen, luminance(images[[4, 1]]), strict=True):
        assert (thumbnail == np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))).all()


def test_changed_files_are_measured_again(chest_folder: Path) -> None:
    before = measure(load(chest_folder))
    file = sorted((chest_folder / "test" / "PNEUMONIA").iterdir())[-1]
    Image.fromarray(np.full((50, 50), 200, dtype=np.uint8)).save(file)
    after = measure(load(chest_folder))
    changed = (before.values != after.values).any(axis=1)
    assert changed.sum() == 1
    assert after.values[changed][0, 0] == 50


def test_a_file_that_vanished_is_named(chest_folder: Path) -> None:
    file = sorted((chest_folder / "train" / "NORMAL").iterdir())[0]
    Image.fromarray(RNG.integers(0, 256, (30, 30), dtype=np.uint8)).save(
        file
    )  # else another test has measured the same set
    data = load(chest_folder)
    file.unlink()
    with pytest.raises(BalancerError, match=file.name) as caught:
        measure(data)
    assert "\n" not in str(caught.value)


def test_an_archive_is_measured_on_its_working_images(tmp_path: Path) -> None:
    arrays = {f"{s}_images": RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8) for s in ("train", "val", "test")}
    labels = {f"{s}_labels": np.arange(12) % 2 for s in ("train", "val", "test")}
    np.savez(tmp_path / "pneumoniamnist_set.npz", **arrays, **labels)
    data = load(tmp_path / "pneumoniamnist_set.npz")
    measured = measure(data)
    assert not measured.from_files
    assert measured.properties == OF_PIXELS
    assert (measured.values == pixel_properties(data.images)).all()
    found = shortcuts(data, measured)
    assert all(r.working is None for r in found.properties), "the same twice"


def frame(file: Path, grey: int) -> None:
    """Give an image a frame of that grey."""
    pixels = np.array(Image.open(file))
    pixels[[0, -1]] = grey
    pixels[:, [0, -1]] = grey
    Image.fromarray(pixels).save(file)


def test_without_a_shortcut_none_is_found(chest_folder: Path) -> None:
    data = load(chest_folder)
    found = shortcuts(data, measure(data))
    assert found.n == {"NORMAL": 24, "PNEUMONIA": 60}
    assert found.n_test == {"NORMAL": 10, "PNEUMONIA": 16}
    assert found.patients == len({r.patient for r in data.records if r.split == "train"})
    for prop in found.properties:
        assert prop.constant == (
            prop.key in ("width", "height", "aspect", "bytes_per_pixel")
        )  # noise: PNG cannot shorten it
        assert (prop.classes is None) == prop.constant
        if not prop.constant:
            assert prop.classes.low < 0.55
            assert prop.classes.high > 0.45
    assert found.together.auroc == pytest.approx(0.5, abs=0.2)


def test_a_planted_shortcut_is_found_also_at_working_size(chest_folder: Path) -> None:
    for file in (chest_folder / "train" / "NORMAL").iterdir():
        frame(file, 0)
    data = load(chest_folder)
    found = shortcuts(data, measure(data))
    black = row(found, "border_black")
    assert black.medians["NORMAL"] == 1
    assert black.medians["PNEUMONIA"] < 0.1
    assert black.classes == AurocInterval(0, 0, 0), "larger in NORMAL without exception"
    assert row(found, "border_brightness").working.auroc > 0.95
    assert found.together.auroc > 0.97
    assert found.together_working.auroc > 0.9
    assert found.together.folds == 5
    assert black.shift["NORMAL"].auroc == 0, "test has no frames"
    assert 0.25 < black.shift["PNEUMONIA"].auroc < 0.75


def test_the_strongest_shortcut_is_told_with_its_figure(chest_folder: Path) -> None:
    """Of the working images, which a classifier sees; nothing is told where nothing separates the classes."""
    config = DataConfig(path=str(chest_folder), image_size=16)
    found = audit(load_dataset(config), config)
    plain = strongest_shortcut(found)
    for i, file in enumerate(sorted((chest_folder / "train").rglob("*.png"))):
        frame(file, 255 if "NORMAL" in file.parts else 40 + i)
    found = audit(load_dataset(config), config)
    told = strongest_shortcut(found)
    best = max(max(r.working.auroc, 1 - r.working.auroc) for r in found.shortcuts.properties if r.working)
    assert told is not None
    assert f"{best:.3f}".lstrip("0") in told
    assert "16 px" in told
    assert plain != told
    undecided = AurocInterval(0.6, 0.4, 0.8)
    rows = [replace(r, working=undecided) for r in found.shortcuts.properties]
    weak = replace(found.shortcuts, properties=rows, together_working=None)
    assert strongest_shortcut(replace(found, shortcuts=weak)) is None


@pytest.mark.parametrize(
    ("interval", "n", "claimed"),
    [
        (AurocInterval(1.0, 1.0, 1.0), 3, False),  # three against three part by chance, among several properties
        (AurocInterval(0.54, 0.505, 0.575), 1000, False),  # one of several intervals misses .5 by chance
        (AurocInterval(0.6, 0.56, 0.64), 1000, True),
    ],
)
def test_the_furthest_of_several_properties_is_held_against_chance(
    interval: AurocInterval, n: int, claimed: bool, chest_folder: Path
) -> None:
    config = DataConfig(path=str(chest_folder), image_size=16)
    found = audit(load_dataset(config), config)
    rows = [replace(r, working=interval) for r in found.shortcuts.properties]
    counts = dict.fromkeys(found.shortcuts.n, n)
    result = replace(found.shortcuts, properties=rows, together_working=None, n=counts)
    assert (strongest_shortcut(replace(found, shortcuts=result)) is not None) == claimed


def test_size_tells_the_files_apart_and_not_the_working_images(chest_folder: Path) -> None:
    for file in (chest_folder / "train" / "PNEUMONIA").iterdir():
        Image.fromarray(RNG.integers(0, 256, (32, 44), dtype=np.uint8)).save(file)
    data = load(chest_folder)
    found = shortcuts(data, measure(data))
    assert row(found, "width").classes.auroc == 1
    assert row(found, "width").working is None
    assert found.together.auroc > 0.97
    assert found.together_working.auroc < 0.8


def test_the_same_seed_gives_the_same_figures(chest_folder: Path) -> None:
    data = load(chest_folder)
    measured = measure(data)
    assert shortcuts(data, measured, 3) == shortcuts(data, measured, 3)
    assert shortcuts(data, measured, 3) != shortcuts(data, measured, 4)


@pytest.mark.parametrize("patients", [[0, 0, 1, 2], [0, 1, 2, 2]])
def test_a_class_of_one_patient_cannot_be_cross_validated(patients: list[int]) -> None:
    assert patient_folds(np.array([0, 0, 1, 1]), np.array(patients), 2, seed=0) is None
