"""Data sets: images that cannot be read, or would be misread, and folders and archives that are not what they seem."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fault import QUICK_REPORT, TINY_GAN, Arrange, Fault, Place
from PIL import Image

READ = f"balancer gan-train --data {{chest}} {TINY_GAN} --dry-run"
ARCHIVE = f"balancer gan-train --data {{here}}/data.npz {TINY_GAN} --dry-run"
DECODE = f"balancer gan-train --data {{chest}} {TINY_GAN} --out {{here}}/run"
PREDICT = "classifier predict {trained} {here}/x.png"
EVALUATE = f"balancer evaluate --real {{here}}/a --fake {{here}}/b {QUICK_REPORT} --out {{here}}/run"
FEW = ("data.npz",)


def image(change: Callable[[Path], object]) -> Arrange:
    """Return a fault of one training image of NORMAL."""
    return lambda place, _patch: change(min((place["chest"] / "train" / "NORMAL").iterdir()))


def all_images(change: Callable[[Path], object]) -> Arrange:
    return lambda place, _patch: [change(file) for file in sorted(place["chest"].rglob("*.png"))]


def beside(change: Callable[[Path], object]) -> Arrange:
    """Return a fault of the data folder itself."""
    return lambda place, _patch: change(place["chest"])


def new(name: str, change: Callable[[Path], object]) -> Arrange:
    """Return a fault of a file in {here}."""
    return lambda place, _patch: change(place["here"] / name)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8))


def two_folders(*counts: int) -> Arrange:
    """Return a fault: folders a and b of so many images."""

    def arrange(place: Place, _patch: pytest.MonkeyPatch) -> None:
        for name, count in zip("ab", counts, strict=True):
            (place["here"] / name).mkdir()
            for i in range(count):
                noise(20 + i, 24).save(place["here"] / name / f"{i}.png")

    return arrange


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def two_pictures(file: Path) -> None:
    noise(32, 40).save(file, save_all=True, append_images=[noise(30, 40)])


def twelve_bits(file: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (32, 40)).astype(np.uint16)
    values[0, 0] = 4095
    Image.fromarray(values).save(file)


def odd_exif(file: Path) -> None:
    """A resolution of -1/0, which the standard's unsigned numbers cannot hold."""
    orientation, resolution = struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHII", 0x011A, 10, 1, 38)
    directory = struct.pack("<2sHIH", b"II", 42, 8, 2) + orientation + resolution + bytes(4) + struct.pack("<ii", -1, 0)
    noise(32, 40).save(file, "JPEG", exif=b"Exif\0\0" + directory)


def stray_class(chest: Path) -> None:
    (chest / "train" / "COVID").mkdir()
    noise(32, 40).save(chest / "train" / "COVID" / "a.png")


def rename(chest: Path) -> None:
    """Give images names that tell no patient."""
    for i, file in enumerate(sorted(chest.rglob("*.png"))):
        file.rename(file.with_name(f"{i:04d}.png"))


def only_dicom(chest: Path) -> None:
    for file in (chest / "train" / "NORMAL").iterdir():
        file.rename(file.with_suffix(".dcm"))
        file.with_suffix(".dcm").write_bytes(bytes(128) + b"DICM")


def without_normal(chest: Path) -> None:
    (chest / "train" / "NORMAL").rename(chest / "train" / "OTHER")


def archive(counts: dict[str, tuple[int, int]]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        content = {}
        for split, (zeros, ones) in counts.items():
            content[f"{split}_images"] = np.zeros((zeros + ones, 8, 8), dtype=np.uint8)
            content[f"{split}_labels"] = np.repeat(np.array([0, 1], dtype=np.uint8), (zeros, ones))[:, None]
        np.savez_compressed(path, **content)

    return write


def pickled(path: Path) -> None:
    np.savez(path, train_images=np.array([{"a": 1}], dtype=object))


BREAST = archive({"train": (147, 399), "val": (21, 57), "test": (42, 114)})  # Yang et al. 2023; there 0 is malignant

DATA = [
    # Images
    Fault("image cut", READ, image(cut), 0, ("IM-0001-0001.png",)),
    Fault("image empty", READ, image(lambda file: file.write_bytes(b"")), 0, ("IM-0001-0001.png",)),
    Fault("image of one pixel", READ, image(lambda file: noise(1, 1).save(file)), 0, ("IM-0001-0001.png", "1 x 1 px")),
    Fault("several pictures in a file", READ, image(two_pictures), 0, ("IM-0001-0001.png", "2 pictures")),
    Fault("twelve bits in sixteen", DECODE, all_images(twelve_bits), 0, ("4095",), leaves=("run",)),
    Fault("odd EXIF", READ, image(odd_exif), 0),
    Fault("every image cut", READ, all_images(cut), 1, ("114",)),
    Fault("predict a text", PREDICT, new("x.png", lambda file: file.write_text("text")), 1, ("x.png",), ("x.png",)),
    Fault("predict one pixel", PREDICT, new("x.png", noise(1, 1).save), 1, ("x.png", "1 x 1 px"), ("x.png",)),
    Fault("predict nothing", PREDICT, exit_code=1, words=("x.png",)),
    # Folders
    Fault("stray class folder", READ, beside(stray_class), 0, ("COVID",)),
    Fault("DICOM beside images", READ, beside(lambda c: (c / "train/NORMAL/a.dcm").touch()), 0, ("a.dcm",)),
    Fault("broken link", READ, beside(lambda c: (c / "train/NORMAL/b.png").symlink_to("/nowhere")), 0, ("b.png",)),
    Fault("DICOM alone", READ, beside(only_dicom), 1, ("NORMAL", ".dcm")),
    Fault("no class folder", READ, beside(without_normal), 1, ("train has no NORMAL",)),
    Fault("data folder is a file", READ.replace("{chest}", "{here}/x"), new("x", Path.touch), 1, ("here/x",), ("x",)),
    Fault("no data folder", READ.replace("{chest}", "{here}/x"), exit_code=1, words=("here/x",)),
    Fault("no patient in the names", READ, beside(rename), 0, ("patient",)),
    Fault("no class in the test", READ, beside(lambda c: shutil.rmtree(c / "test/NORMAL")), 1, ("test", "NORMAL")),
    Fault("no images to compare", EVALUATE, exit_code=1, words=("--real", "here/a")),
    Fault("empty folder to compare", EVALUATE, two_folders(0, 3), 1, ("--real", "here/a"), ("a", "b")),
    Fault("one image to compare", EVALUATE, two_folders(1, 3), 1, ("--real", "here/a"), ("a", "b")),
    Fault("other data absent", "classifier evaluate {trained} --data {here}/x", words=("here/x",)),
    # Archives
    Fault("BreastMNIST", ARCHIVE, new("data.npz", BREAST), 0, ("normal or benign + malignant",), FEW),
    Fault(
        "BreastMNIST under another name",
        ARCHIVE.replace("data.npz", "pneumoniamnist.npz"),
        new("pneumoniamnist.npz", BREAST),
        1,
        ("pneumoniamnist.npz", "breastmnist"),
        ("pneumoniamnist.npz",),
    ),
    Fault("unknown archive", ARCHIVE, new("data.npz", archive({"train": (9, 20)})), 0, ("names no classes",), FEW),
    Fault("archive of objects", ARCHIVE, new("data.npz", pickled), 1, ("data.npz",), FEW),
    Fault("archive is a page", ARCHIVE, new("data.npz", lambda path: path.write_text("<html>")), 1, ("data.npz",), FEW),
    Fault("archive empty", ARCHIVE, new("data.npz", Path.touch), 1, ("data.npz",), FEW),
]
