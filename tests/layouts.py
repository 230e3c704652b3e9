"""The same images in every layout that is read: a class and a split for each, as a folder, a table or an archive."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dicoms import dicom
from PIL import Image
from pydicom.uid import RLELossless

COUNTS = {"train": (6, 9), "val": (2, 3), "test": (3, 4)}
CLASSES = ("NORMAL", "PNEUMONIA")


@dataclass(frozen=True)
class Made:
    """One made image."""

    name: str
    cls: str
    split: str
    pixels: np.ndarray  # (16, 16) uint8

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.pixels).save(file)


def made(counts: dict[str, tuple[int, ...]] = COUNTS, classes: Sequence[str] = CLASSES) -> list[Made]:
    """Images of noise, no two alike, with names that tell no patient."""
    rng = np.random.default_rng(0)
    return [
        Made(f"{split}{label}{i:03d}.png", classes[label], split, rng.integers(0, 256, (16, 16), dtype=np.uint8))
        for split, of_class in counts.items()
        for label, n in enumerate(of_class)
        for i in range(n)
    ]


def write_table(file: Path, rows: Sequence[dict[str, str]], delimiter: str = ",") -> Path:
    """Write rows with the standard library's own writer."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def as_splits(images: Sequence[Made], root: Path) -> Path:
    for image in images:
        image.save(root / image.split / image.cls / image.name)
    return root


def as_classes(images: Sequence[Made], root: Path) -> Path:
    for image in images:
        image.save(root / image.cls / image.name)
    return root


def rows_of(images: Sequence[Made], root: Path) -> list[dict[str, str]]:
    for image in images:
        image.save(root / "scans" / image.name)
    return [{"file": f"scans/{i.name}", "label": i.cls, "split": i.split} for i in images]


def as_csv(images: Sequence[Made], root: Path) -> Path:
    return write_table(root / "table.csv", rows_of(images, root))


def as_parquet(images: Sequence[Made], root: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows_of(images, root)), root / "table.parquet")
    return root / "table.parquet"


def as_npz(images: Sequence[Made], root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split in COUNTS:
        chosen = [image for image in images if image.split == split]
        arrays[f"{split}_images"] = np.stack([image.pixels for image in chosen])
        arrays[f"{split}_labels"] = np.array([[CLASSES.index(image.cls)] for image in chosen], dtype=np.uint8)
    np.savez_compressed(root / "pneumoniamnist_16.npz", **arrays)
    return root / "pneumoniamnist_16.npz"


def as_dicom(images: Sequence[Made], root: Path) -> Path:
    """Class folders of DICOM files without suffix, as archives of hospitals export them, of unknown patients."""
    for image in images:
        file = root / image.cls / Path(image.name).stem
        file.parent.mkdir(parents=True, exist_ok=True)
        dicom(image.pixels).save_as(file, enforce_file_format=True)
    return root


def as_pacs(images: Sequence[Made], root: Path) -> Path:
    """As an archive exports: a folder a patient and study, 12 bits, windows, patients, devices; a third compressed."""
    for i, image in enumerate(images):
        ds = dicom(image.pixels.astype(np.uint16) * 16, 12, WindowCenter=2048, WindowWidth=4096)
        ds.PatientID, ds.Manufacturer = f"{image.cls}-{i // 2}", ("Agfa", "Siemens")[i // 2 % 2]
        if i % 3 == 0:
            ds.compress(RLELossless)
        file = root / image.cls / f"PA{i // 2:06d}" / "ST000001" / f"IM{i:06d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(file, enforce_file_format=True)
    return root


# Layout: its reader, and how to write it.
LAYOUTS: dict[str, tuple[str, Callable[[Sequence[Made], Path], Path]]] = {
    "chest": ("chest", as_splits),
    "splits": ("splits", as_splits),
    "classes": ("classes", as_classes),
    "csv": ("table", as_csv),
    "parquet": ("table", as_parquet),
    "npz": ("medmnist", as_npz),
    "dicom": ("classes", as_dicom),
}
