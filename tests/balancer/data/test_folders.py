"""Folders as archives and segmentation sets have them: a folder for each patient, masks, and tables beside images."""

import shlex
import shutil
from pathlib import Path

import pytest
from layouts import as_classes, made, write_table

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import read_data
from balancer.data.inspection import inspect
from balancer.data.listing import Listing
from balancer.data.readers import choose_reader


def read(path: Path, **settings: object) -> Listing:
    return read_data(DataConfig.model_validate({"path": str(path), **settings}))


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(BalancerError) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_patient(root: Path, classes: tuple[str, ...] = ("ill", "well"), patients: int = 4) -> Path:
    """Write ``<class>/<patient>/x.png`` and ``y.png``."""
    pictures = iter(made({"train": (2 * patients * len(classes), 1)}, ("a", "b")))
    for cls in classes:
        for i in range(patients):
            for name in ("x.png", "y.png"):
                next(pictures).save(root / cls / f"{cls} {i}" / name)
    return root


def shown_line(message: str) -> list[str]:
    """Return the words of the last command that a message shows, as a shell splits them."""
    return shlex.split(message.split("`")[-2])


def test_folders_of_patients_are_read_as_the_option_reads_them(tmp_path: Path) -> None:
    root = by_patient(tmp_path / "data")
    (root / "masks").mkdir()
    made()[0].save(root / "masks" / "m.png")
    plain, named = read(root), read(root, patient_pattern="folder")
    assert plain.records == named.records
    assert set(plain.classes) == {"ill", "well"}
    assert {r.patient for r in plain.records} == {f"patient-{cls} {i}" for cls in ("ill", "well") for i in range(4)}
    assert any("--patient-pattern" in note for note in plain.notes)
    assert [(item.name, item.files) for item in plain.left_out] == [("masks", 1)]
    assert any("--classes ill,well,masks" in note for note in plain.notes)
    assert set(read(by_patient(tmp_path / "more"), patient_pattern="(?P<patient>[xy]).png").classes) == {"ill", "well"}


def test_an_image_beside_the_folders_of_patients(tmp_path: Path) -> None:
    root = by_patient(tmp_path / "data")
    made()[0].save(root / "ill" / "loose.png")
    assert {r.patient for r in read(root).records if r.name.count("/") == 1} == {"image-ill/loose.png"}
    assert len(read(root).records) == 17
    for i, picture in enumerate(made()[:4]):
        picture.save(root / "well" / f"{i}.png")
    assert {r.name.count("/") for r in read(root).records} == {1}, "folders beside as many images are left out"
    assert {item.files for item in read(root).left_out} == {2}


def test_folders_of_patients_in_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        by_patient(tmp_path / "data" / split)
    by_patient(tmp_path / "data" / "test", ("other",))
    listing = read(tmp_path / "data")
    assert [(item.name, item.files) for item in listing.left_out] == [("test/other", 8)]
    assert {r.split for r in listing.records} == {"train", "test"}
    assert "patient-ill 0" in {r.patient for r in listing.records}


def test_folders_of_patients_in_the_layout_of_the_chest_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        by_patient(tmp_path / "data" / split, ("NORMAL", "PNEUMONIA"))
    line = shown_line(refusal(tmp_path / "data"))
    assert line == ["balancer", "inspect", str(tmp_path / "data"), "--format", "splits"]
    assert len({r.patient for r in read(tmp_path / "data", format=line[-1]).records}) == 8


def test_one_folder_in_each_class_tells_no_patient(tmp_path: Path) -> None:
    for cls in ("a", "b"):
        for i, picture in enumerate(made({"train": (2, 1)}, "ab")):
            picture.save(tmp_path / "data" / cls / "images" / f"{i}.png")
            picture.save(tmp_path / "data" / cls / "masks" / f"{i}.png")
    listing = read(tmp_path / "data")
    assert {r.name.split("/")[1] for r in listing.records} == {"images"}
    assert {r.patient for r in listing.records} == {f"image-{r.name}" for r in listing.records}
    assert {item.name for item in listing.left_out} == {"a/masks", "b/masks"}


@pytest.mark.parametrize("classes", [("01", "02"), ("2024-01", "2024-02")])
def test_dates_are_no_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    root = by_patient(tmp_path / "my data", classes)
    message = refusal(root)
    assert shown_line(message) == ["balancer", "inspect", str(root), "--patient-pattern", "folder"]
    assert len(read(root, patient_pattern="folder").records) == 16
    write_table(root / "list.csv", [{"file": "x.png", "label": "a"}])
    assert choose_reader(root).name == "table"
    write_table(root / "other.csv", [{"file": "x.png", "label": "a"}])
    message = refusal(root)
    assert shown_line(message) == ["balancer", "inspect", str(root / "other.csv")]
    assert shlex.quote(str(root / "list.csv")) in message


def test_many_folders_of_numbers_are_no_classes(tmp_path: Path) -> None:
    root = tmp_path / "export" / "DICOM"
    for i in range(21):
        made()[0].save(root / f"{i:08d}" / "x.png")
    write_table(tmp_path / "export" / "list.csv", [{"file": "x.png", "label": "a"}])
    assert shown_line(refusal(root)) == ["balancer", "inspect", str(tmp_path / "export" / "list.csv")]
    assert len(read(root, format="classes").classes) == 21
    shutil.rmtree(root / "00000020")
    assert len(read(root).classes) == 20


def test_parts_of_patients_are_no_patients(tmp_path: Path) -> None:
    for patient in ("Anna", "Berta", "Carla"):
        for part in ("left", "right"):
            made()[0].save(tmp_path / "data" / patient / part / "x.png")
    assert "Anna/left" in refusal(tmp_path / "data")


def test_masks_are_left_out_where_the_image_is_there(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 8)}, "ab"), tmp_path / "data")
    before = read(root)
    first = root / before.records[0].name
    masks = [first.with_name(f"{first.stem}{end}.png") for end in ("_mask", "_mask_1", "-mask", "_SEG")]
    for mask in masks:
        shutil.copy(first, mask)
    listing = read(root)
    assert listing.records == before.records
    assert sum(item.files for item in listing.left_out) == len(masks)
    assert any(masks[0].name in item.name for item in listing.left_out) or listing.left_out[0].files == 4
    rows = [{"file": str(file.relative_to(root)), "label": file.parent.name} for file in sorted(root.glob("*/*.png"))]
    write_table(tmp_path / "list.csv", rows)
    assert len(read(tmp_path / "list.csv", images=str(root)).records) == len(before.records) + len(masks)


def test_masks_alone_are_no_second_class(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 8)}, ("scans", "masks")), tmp_path / "data")
    line = shown_line(refusal(root))
    assert line[:3] == ["balancer", "inspect", str(root)]
    assert line[3] == "--classes"
    assert set(read(root, classes=line[4]).classes) == {"masks", "scans"}


def test_tables_around_class_folders_are_named(tmp_path: Path) -> None:
    as_classes(made({"train": (9, 8)}, "ab"), tmp_path / "export" / "images")
    write_table(tmp_path / "export" / "list.csv", [{"file": "x.png", "label": "a"}])
    listing = read(tmp_path / "export")
    assert set(listing.classes) == {"a", "b"}
    assert any("list.csv" in note for note in listing.notes)
    facts = inspect(DataConfig(path=str(tmp_path / "export"), image_size=16))
    assert shlex.split(facts.next[0]) == ["balancer", "inspect", str(tmp_path / "export" / "list.csv")]
