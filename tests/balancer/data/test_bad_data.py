"""What is wrong with data, in every layout that is read: one line that names it, or a note, and an error if strict."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import CLASSES, LAYOUTS, Made, made

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset

OF_FILES = [name for name in LAYOUTS if name != "npz"]
OF_SPLITS = [name for name, (reader, _) in LAYOUTS.items() if reader != "classes"]
FOLDS = ("train", "val", "test")


def write(layout: str, images: list[Made], root: Path) -> Path:
    return LAYOUTS[layout][1](images, root)


def load(path: Path, layout: str, **settings: object) -> Dataset:
    form = {"format": "splits"} if layout == "splits" else {}
    return load_dataset(
        DataConfig.model_validate({"path": str(path), "image_size": 16, **form, **settings}), require=FOLDS
    )


def refusal(path: Path, layout: str, **settings: object) -> str:
    """The one line with which data are refused."""
    with pytest.raises(BalancerError) as caught:
        load(path, layout, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def empty(_: bytes) -> bytes:
    return b""


def truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def encrypted(content: bytes) -> bytes:
    """Noise, as any cipher gives, of the same length."""
    return np.random.default_rng(0).bytes(len(content))


def claims_ten_gigabytes(_: bytes) -> bytes:
    """A PNG whose header speaks of 100,000 x 100,000 px, with a single byte of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (empty, truncated, encrypted, claims_ten_gigabytes)


@pytest.mark.parametrize("layout", OF_FILES)
def test_files_that_cannot_be_read_are_named(layout: str, tmp_path: Path) -> None:
    """Damaged files are left out, by name, up to --max-bad; whatever a header claims, no memory is taken for it."""
    path = write(layout, made(), tmp_path / "data")
    root = path if path.is_dir() else path.parent
    files = [file for file in sorted(root.rglob("train1*")) if file.is_file()]
    damaged = set()
    for file, damage in zip(files, DAMAGES, strict=False):
        file.write_bytes(damage(file.read_bytes()))
        damaged.add(file.relative_to(root).as_posix())
    data = load(path, layout, max_bad=0.2)
    left_out = {item.name for item in data.left_out}
    if layout == "dicom":  # without a suffix, nothing tells such a file from any that is no image
        assert len(left_out) == 3
    assert {name for name, _ in data.bad} | left_out == damaged
    assert not damaged & {record.name for record in data.records}
    assert any(name in refusal(path, layout, max_bad=0) for name in damaged)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "dicom"])  # its files differ by identifiers
def test_one_picture_under_two_labels(layout: str, tmp_path: Path) -> None:
    images = made()
    twin = next(i for i, image in enumerate(images) if (image.cls, image.split) == (CLASSES[1], "train"))
    first = next(image for image in images if (image.cls, image.split) == (CLASSES[0], "train"))
    images[twin] = replace(images[twin], pixels=first.pixels)
    path = write(layout, images, tmp_path / "data")
    assert any("two classes" in note for note in load(path, layout).notes)
    assert "two classes" in refusal(path, layout, strict=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_of_one_image(layout: str, tmp_path: Path) -> None:
    """No split gives one image to training, validation and test."""
    counts = {"train": (9, 1), "val": (3, 0), "test": (3, 0)}
    assert CLASSES[1] in refusal(write(layout, made(counts), tmp_path / "data"), layout)


@pytest.mark.parametrize("layout", OF_SPLITS)
def test_a_class_that_a_fold_lacks(layout: str, tmp_path: Path) -> None:
    said = refusal(write(layout, made({"train": (9, 9), "val": (3, 3), "test": (4, 0)}), tmp_path / "data"), layout)
    assert "test" in said
    assert CLASSES[1] in said


@pytest.mark.parametrize("layout", [name for name in OF_SPLITS if name != "npz"])
def test_a_patient_in_two_folds_of_a_split_that_is_given(layout: str, tmp_path: Path) -> None:
    images = [replace(image, name=f"p{i:02d}_{image.name}") for i, image in enumerate(made())]
    one, other = (next(i for i, image in enumerate(images) if image.split == split) for split in ("train", "test"))
    for i in (one, other):
        images[i] = replace(images[i], name=f"p99_{images[i].name}")
    path = write(layout, images, tmp_path / "data")
    known = {"patient_pattern": r"(?P<patient>p\d\d)_"}
    assert any("1 patient" in note for note in load(path, layout, **known).notes)
    assert "1 patient" in refusal(path, layout, strict=True, **known)


@pytest.mark.parametrize("layout", OF_FILES)
def test_a_link_to_nowhere_and_a_pipe(layout: str, tmp_path: Path) -> None:
    """Neither is waited for; each is named."""
    path = write(layout, made(), tmp_path / "data")
    root = path if path.is_dir() else path.parent
    gone, pipe = [file for file in sorted(root.rglob("train1*")) if file.is_file()][:2]
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere.png")
    pipe.unlink()
    os.mkfifo(pipe)
    data = load(path, layout, max_bad=0.2)
    missing = {file.relative_to(root).as_posix() for file in (gone, pipe)}
    named = {name for name, _ in data.bad} | {item.name for item in data.left_out}
    assert missing <= named | {word.strip("(),.;") for note in data.notes for word in note.split()}
