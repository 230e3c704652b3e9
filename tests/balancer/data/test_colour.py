"""Images in colour: which are coloured, how they are decoded, and what a data set says of its channels."""

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from colours import cells, write_cells
from commands import balancer, done
from PIL import Image, ImageDraw

from balancer.core.pixels import from_planes, in_colour, luminance, planes, same_channels
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import DataConfig
from balancer.data import channels
from balancer.data.cache import cache_dir
from balancer.data.colour import is_coloured
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.images import looks_coloured, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 32, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], RGB[..., 1]


def ultrasound(side: int = 256) -> Image.Image:
    """Speckle in a dark field, stored in three equal channels."""
    speckle = cv2.GaussianBlur(RNG.normal(90, 60, (side, side)), (5, 5), 0).clip(0, 255).astype(np.uint8)
    return Image.fromarray(speckle).convert("RGB")


def through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_grey_stored_as_rgb_is_grey(quality: int) -> None:
    assert not is_coloured(through_jpeg(ultrasound(), quality))
    noisy = np.asarray(ultrasound()) + RNG.normal(0, 8, (256, 256, 3))
    assert not is_coloured(through_jpeg(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), quality)), "a camera's"


@pytest.mark.parametrize("ink", ["yellow", "lime", "red", "#50a0ff"])
def test_marks_are_no_colour(ink: str) -> None:
    picture = ultrasound()
    draw = ImageDraw.Draw(picture)
    for x, y in ((60, 60), (60, 190), (190, 60), (190, 190)):
        draw.line((x - 6, y, x + 6, y), fill=ink, width=2)
        draw.line((x, y - 6, x, y + 6), fill=ink, width=2)
    draw.text((8, 8), "D1 12.3 mm", fill=ink)
    assert not is_coloured(through_jpeg(picture, 50))
    draw.rectangle((80, 80, 160, 160), fill=ink)  # a Doppler box
    assert is_coloured(through_jpeg(picture, 50))


def test_stained_cells_are_coloured() -> None:
    assert all(is_coloured(through_jpeg(Image.fromarray(pixels), 75)) for pixels in cells(8, side=48))


def palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(16)


def deep_rgb(path: Path) -> np.ndarray:
    """A PNG of 16 bits a channel, which OpenCV writes."""
    assert cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257)
    return RGB


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(np.dstack([RGB, ALPHA])), np.rint(RGB * (ALPHA[..., None] / 255))),
        (palette(), np.asarray(palette().convert("RGB"))),
        (Image.fromarray(np.dstack([255 - RGB, np.zeros_like(GREY)]), "CMYK"), RGB),
        (Image.fromarray(GREY), np.dstack([GREY] * 3)),
        (Image.fromarray(np.dstack([GREY, ALPHA])), np.dstack([np.rint(GREY * (ALPHA / 255))] * 3)),
        (Image.fromarray(GREY > 127), np.dstack([255 * (GREY > 127)] * 3)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), np.dstack([GREY] * 3)),
    ],
    ids=["RGB", "alpha", "palette", "CMYK", "grey", "grey with alpha", "one bit", "16 bits"],
)
def test_any_mode_in_colour(picture: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / ("x.tif" if picture.mode == "CMYK" else "x.png")
    picture.save(file)
    pixels = read_image(file, 40, "pad", channels=3)[:, 4:36]
    assert np.abs(pixels - expected.astype(int)).max() <= 1


def test_sixteen_bits_a_channel(tmp_path: Path) -> None:
    expected = deep_rgb(tmp_path / "x.png")
    assert np.abs(read_image(tmp_path / "x.png", 40, "pad", channels=3)[:, 4:36] - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("how", ["squash", "crop"])
def test_resized_as_pillow_resizes(how: str, tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(RGB).resize((640, 800), Image.Resampling.BICUBIC))
    for suffix in (".png", ".jpg"):
        Image.fromarray(smooth).save(tmp_path / f"x{suffix}", quality=95)
        with Image.open(tmp_path / f"x{suffix}") as picture:
            picture = picture.convert("RGB")
        picture = picture.crop((0, 80, 640, 720)) if how == "crop" else picture
        expected = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC), dtype=int)
        difference = np.abs(read_image(tmp_path / f"x{suffix}", 24, how, channels=3) - expected)
        inner = difference[2:-2]  # a crop looks beyond its edge
        assert inner.max() <= (0 if suffix == ".png" else 6), "a JPEG is decoded at a reduced scale"


def test_a_grey_file_has_the_same_levels_in_colour(tmp_path: Path) -> None:
    ultrasound(300).convert("L").save(tmp_path / "x.jpg")
    grey = read_image(tmp_path / "x.jpg", 48, "squash")
    assert np.array_equal(read_image(tmp_path / "x.jpg", 48, "squash", channels=3), np.dstack([grey] * 3))
    assert looks_coloured(tmp_path / "x.jpg") is None


def test_luminance_is_that_of_pillow() -> None:
    pixels = RNG.integers(0, 256, (9, 30, 20, 3), dtype=np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    assert np.array_equal(luminance(pixels), expected)
    assert luminance(expected) is expected
    assert np.array_equal(luminance(in_colour(expected)), expected)


@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 3)])
def test_planes_and_back(shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert planes(images).shape == (4, shape[3] if len(shape) == 4 else 1, 6, 5)
    assert np.array_equal(from_planes(planes(images)), images)
    both = same_channels([images, images[..., 0] if len(shape) == 4 else images])
    assert both[0].shape == both[1].shape


# --- data sets


def grey_files(root: Path, n: int, mode: str = "RGB") -> Path:
    for i in range(n):
        file = root / ("a" if i % 3 else "b") / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (16, 16), dtype=np.uint8)).convert(mode).save(file)
    return root


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(path=str(path), image_size=16, **settings))


def about_colour(data: Dataset) -> list[str]:
    return [note for note in data.notes if "colour" in note or "channel" in note]


def test_a_coloured_set(tmp_path: Path) -> None:
    data = load(write_cells(tmp_path, (9, 6)))
    assert (data.channels, data.images.shape) == (3, (15, 16, 16, 3))
    assert data.describe()["channels"] == 3
    files = data.files(range(len(data.records)))
    assert np.array_equal(data.images, np.stack([read_image(file, 16, "squash", channels=3) for file in files]))
    (note,) = about_colour(data)
    assert "All 15 images" in note
    grey = load(tmp_path, channels=1)
    assert np.array_equal(grey.images, np.stack([read_image(file, 16, "squash") for file in files]))
    assert (grey.split_hash, grey.fingerprint) == (data.split_hash, data.fingerprint), "one split, whatever is seen"
    assert "luminance" in about_colour(grey)[0]


def test_a_grey_set(tmp_path: Path) -> None:
    for mode, said in (("L", 0), ("RGB", 1)):
        data = load(grey_files(tmp_path / mode, 12, mode))
        assert (data.channels, len(about_colour(data))) == (1, said)
    forced = load(tmp_path / "L", channels=3)
    assert np.array_equal(forced.images, in_colour(load(tmp_path / "L").images))
    assert "no image is coloured" in about_colour(forced)[0]


def test_a_mix_is_converted_counted_and_said(tmp_path: Path) -> None:
    write_cells(tmp_path, (9, 6))
    grey_files(tmp_path, 12)
    data = load(tmp_path)
    assert data.channels == 3
    (note,) = about_colour(data)
    assert note.startswith("15 of 27 images are coloured")
    assert "12 without colour (a/" in note
    equal = (data.images == data.images[..., :1]).all(axis=(1, 2, 3))
    assert equal.sum() == 12


def test_one_coloured_image_that_the_sample_misses(tmp_path: Path) -> None:
    n = channels.SAMPLED + 20
    root = grey_files(tmp_path, n)
    missed = sorted(set(range(n)) - set(channels.evenly(n, channels.SAMPLED).tolist()))[0]
    name = sorted(p for p in root.glob("*/*.png"))[missed]
    Image.fromarray(cells(1)[0]).save(name)
    data = load(root)
    assert data.channels == 3
    assert about_colour(data)[0].startswith(f"1 of {n} images is coloured")


def test_a_second_start_looks_at_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [load(write_cells(tmp_path / "cells", (9, 6))), load(grey_files(tmp_path / "grey", channels.SAMPLED + 9))]
    monkeypatch.setattr(channels, "_look", None)
    again = [load(tmp_path / "cells"), load(tmp_path / "grey")]
    assert [data.notes for data in again] == [data.notes for data in first]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("empty_cache")
def test_decoded_images_of_before_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their index says nothing of colour."""
    images = load(grey_files(tmp_path / "data", 12)).images
    for meta in cache_dir("images").glob("*/meta.json"):
        content = read_json(meta)
        write_json(meta, {key: value for key, value in content.items() if "colour" not in key})
    for file in cache_dir("stat").glob("*.colour.json"):
        file.unlink()
    caplog.clear()
    data = load(tmp_path / "data")
    assert np.array_equal(data.images, images)
    assert "again" not in caplog.text
    assert len(about_colour(data)) == 1


def test_the_chest_set_is_grey_and_nobody_looks(chest_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(chest_folder.glob("train/NORMAL/*"))
    Image.fromarray(cells(1, side=40)[0]).save(file)
    monkeypatch.setattr(channels, "_look", None)
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    assert data.channels == 1
    assert not about_colour(data)


@pytest.mark.usefixtures("empty_cache")
def test_a_dry_run_knows_the_channels(tmp_path: Path) -> None:
    data = load_dataset(DataConfig(path=str(write_cells(tmp_path / "data", (9, 6))), image_size=16), decode=False)
    assert (data.channels, data.undecoded is None) == (3, False)
    assert "15 of 15 images looked at" in about_colour(data)[0]


@pytest.mark.nightly
def test_inspect_says_it(tmp_path: Path) -> None:
    write_cells(tmp_path, (9, 6))
    shown = json.loads(done(balancer("inspect", tmp_path, "--json")).stdout)
    assert shown["channels"] == 3
    shown = json.loads(done(balancer("inspect", tmp_path, "--channels", "1", "--json")).stdout)
    assert shown["channels"] == 1
    assert all("--channels 1" in line for line in shown["next"][:2])
