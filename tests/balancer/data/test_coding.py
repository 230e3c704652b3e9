"""The marks of JPEG: the same as Pillow leaves in a file, and only where files have the working size."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import fields

from balancer.core.settings import DataConfig
from balancer.data.coding import Coding, Jpeg, coded, dataset_coding, file_coding, read_coding
from balancer.data.dataset import load_dataset

SIZE = 32


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_an_image_is_coded_as_the_file_was(tmp_path: Path, mode: str, quality: int) -> None:
    (image,) = fields(1, 0, SIZE)
    Image.fromarray(image).convert(mode).save(tmp_path / "a.jpg", quality=quality)
    with Image.open(tmp_path / "a.jpg") as stored:
        expected = np.asarray(stored.convert("L"))
    table = file_coding(tmp_path / "a.jpg", SIZE)
    assert table is not None
    assert np.array_equal(coded(image, table), expected)
    assert np.abs(coded(expected, table).astype(int) - expected).mean() < 0.5, "coding again changes next to nothing"


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_a_colour_image_is_coded_as_the_file_was(tmp_path: Path, sampling: int, quality: int) -> None:
    image = np.moveaxis(fields(3, 0, SIZE), 0, -1)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=quality, subsampling=sampling)
    coding = file_coding(tmp_path / "a.jpg", SIZE, 3)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert np.array_equal(coded(image, coding), np.asarray(stored))
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.jpg", quality=quality)
    in_grey = coded(image, file_coding(tmp_path / "grey.jpg", SIZE, 3))
    assert (in_grey == in_grey[..., :1]).all(), "a file in grey among images in colour"


def test_other_files_leave_no_marks(tmp_path: Path) -> None:
    (image,) = fields(1, 0, SIZE)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no image")
    assert file_coding(tmp_path / "a.png", SIZE) is None
    assert file_coding(tmp_path / "a.jpg", SIZE // 2) is None
    assert file_coding(tmp_path / "b.jpg", SIZE) is None
    assert not read_coding([tmp_path / "a.png"], SIZE).is_seen
    assert not read_coding([], SIZE).is_seen


def test_a_share_of_the_images_is_coded() -> None:
    images = fields(4, 0, SIZE)
    buffer = io.BytesIO()
    Image.fromarray(images[0]).save(buffer, "JPEG", quality=40)
    with Image.open(buffer) as stored:
        table = tuple(stored.quantization[0])
    half = Coding((Jpeg((table,)), None))
    changed = [not np.array_equal(a, b) for a, b in zip(half.of(images), images, strict=True)]
    assert (changed, half.share) == ([True, False, True, False], 0.5)


def test_files_of_another_size_need_nothing(chest_folder: Path) -> None:
    """Those of 40 x 32 px at 16 px, and drawings."""
    assert not dataset_coding(load_dataset(DataConfig(path=str(chest_folder), image_size=16)), 0).is_seen
