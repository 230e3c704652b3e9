"""The Kaggle layout: what is read, what is ignored, what is refused, and whose image it is."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.chest import find_root, list_folder, parse_name, read_folder
from balancer.data.dataset import load_dataset
from balancer.data.listing import image_files, left_out_note
from balancer.data.records import count_units, is_patient, sampling_unit


def count(root: Path) -> Counter:
    return Counter((r.split, r.label) for r in read_folder(root))


EXPECTED = {("train", 0): 24, ("train", 1): 60, ("val", 0): 2, ("val", 1): 2, ("test", 0): 10, ("test", 1): 16}


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_image_once_with_its_class_and_split(chest_folder: Path) -> None:
    records = read_folder(chest_folder)
    assert Counter((r.split, r.label) for r in records) == EXPECTED
    assert {r.name for r in records} == {p.relative_to(chest_folder).as_posix() for p in chest_folder.rglob("*.png")}
    for record in records:
        split, cls, _ = record.name.split("/")
        assert (split, ("NORMAL", "PNEUMONIA").index(cls)) == (record.split, record.label)


def test_sorted_by_name_within_split_and_class(chest_folder: Path) -> None:
    records = read_folder(chest_folder)
    order = {"train": 0, "val": 1, "test": 2}
    assert records == sorted(records, key=lambda r: (order[r.split], r.label, r.name))


@pytest.mark.parametrize("below", ["", "chest_xray", "chest_xray/chest_xray"])
def test_nested_folders_are_looked_into(chest_folder: Path, tmp_path: Path, below: str) -> None:
    outer = tmp_path / "outer"
    (outer / below).parent.mkdir(parents=True, exist_ok=True)
    chest_folder.rename(outer / below)
    assert find_root(outer) == outer / below
    assert count(find_root(outer)) == EXPECTED


def test_the_outermost_of_two_copies_is_taken(chest_folder: Path) -> None:
    shutil.copytree(chest_folder, chest_folder / "chest_xray")  # so is the Kaggle archive
    assert find_root(chest_folder) == chest_folder
    assert count(chest_folder) == EXPECTED


def test_case_of_folder_names_does_not_matter(chest_folder: Path) -> None:
    for split in ("train", "val", "test"):
        (chest_folder / split / "NORMAL").rename(chest_folder / split / "normal")
        (chest_folder / split / "PNEUMONIA").rename(chest_folder / split / "Pneumonia")
    (chest_folder / "train").rename(chest_folder / "Train")
    assert find_root(chest_folder) == chest_folder
    assert count(chest_folder) == EXPECTED


def test_exact_spelling_is_preferred(chest_folder: Path) -> None:
    shutil.copytree(chest_folder / "train" / "PNEUMONIA", chest_folder / "train" / "normal")
    assert count(chest_folder) == EXPECTED


def test_clutter_is_ignored(chest_folder: Path) -> None:
    picture = next((chest_folder / "train" / "NORMAL").iterdir())
    for clutter in (
        "__MACOSX/train/NORMAL/._IM-0001-0001.png",
        "train/.ipynb_checkpoints/IM-0001-0001.png",
        "train/__MACOSX/IM-0001-0001.png",
        "train/AAA_stray/IM-0001-0001.png",
        "train/NORMAL2/IM-0001-0001.png",
        "train/ZZZ/person1_virus_1.png",
        "train/IM-0001-0001.png",
        "train/NORMAL/.hidden.png",
        "train/NORMAL/._IM-0001-0001.png",
        "train/NORMAL/.ipynb_checkpoints/IM-0001-0001.png",
        "train/NORMAL/deeper/IM-0001-0001.png",
        "train/NORMAL/.DS_Store",
        "train/NORMAL/Thumbs.db",
        "extra/NORMAL/IM-0001-0001.png",
    ):
        target = chest_folder / clutter
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    (chest_folder / "train" / "NORMAL" / "folder.png").mkdir()
    (chest_folder / "train" / "NORMAL" / "readme.txt").write_text("P5, not a picture")
    assert count(chest_folder) == EXPECTED
    assert {(item.name, item.files) for item in list_folder(chest_folder).left_out} == {
        *(("extra", 1), ("train/AAA_stray", 1), ("train/NORMAL2", 1), ("train/ZZZ", 1), ("train/IM-0001-0001.png", 1)),
        *(("train/NORMAL/deeper", 1), ("train/NORMAL/folder.png", 0), ("train/NORMAL/readme.txt", 1)),
        ("train/NORMAL/.hidden.png", 1),
    }


def test_everything_is_read_or_named(chest_folder: Path) -> None:
    """Each kind of stray beside the reason that is given for it; what programs leave behind needs none."""
    folder = chest_folder / "train" / "NORMAL"
    (folder / "scan.dcm").write_bytes(b"\x30\x82" + bytes(50))  # as an encrypted file begins
    (folder / "gone.png").symlink_to("/nowhere/x.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "IM-0003\n.png").touch()
    (folder / "deeper").mkdir()
    (folder / "deeper" / "a.png").touch()
    (chest_folder / "labels.csv").touch()
    (chest_folder / "COVID" / "x").mkdir(parents=True)
    for i in range(3):
        (chest_folder / "COVID" / "x" / f"{i}.png").touch()
    (folder / "..png").touch()
    (chest_folder / ".old").mkdir()
    (chest_folder / ".old" / "x.png").touch()
    for clutter in (".gitignore", "Thumbs.db", "desktop.ini", "phantom.json", ".DS_Store", "._x.png", ".run.lock"):
        (chest_folder / clutter).touch()
    listing = list_folder(chest_folder)
    reasons = {item.name: item.reason for item in listing.left_out}
    assert {name.rsplit("/")[-1] for name in reasons} == {
        *("scan.dcm", "gone.png", "pipe.png", "IM-0003\\x0a.png", "deeper", "labels.csv", "COVID"),
        *("..png", ".old"),
    }
    words = {
        "scan.dcm": "encrypted",
        "gone.png": "broken link",
        "pipe.png": "regular",
        "deeper": "folder",
        "..png": "hidden",
    }
    assert all(word in reasons[f"train/NORMAL/{name}"] for name, word in words.items())
    (note,) = left_out_note(listing.left_out)
    assert note.startswith("11 files")
    assert "COVID" in note
    assert "\n" not in note


def test_suffixes_do_not_decide(chest_folder: Path) -> None:
    """The case of a set whose PNEUMONIA files end in .jfif or nothing: NORMAL must stay the minority class."""
    for i, file in enumerate(sorted((chest_folder / "train" / "PNEUMONIA").iterdir())):
        file.rename(file.with_suffix((".jfif", "", ".dat")[i % 3]))
    for i, file in enumerate(sorted((chest_folder / "test" / "NORMAL").iterdir())):
        Image.open(file).save(file.with_suffix((".jp2", ".ppm")[i % 2]))
        file.unlink()
    (chest_folder / "val").rename(chest_folder / "Validation")
    assert count(chest_folder) == EXPECTED
    assert list_folder(chest_folder).left_out == []


def test_a_second_validation_folder_is_named(chest_folder: Path) -> None:
    shutil.copytree(chest_folder / "val", chest_folder / "valid")
    assert count(chest_folder) == EXPECTED
    assert [(item.name, item.files) for item in list_folder(chest_folder).left_out] == [("valid", 4)]


def test_a_name_that_is_not_utf8_is_left_out_by_name(chest_folder: Path) -> None:
    old = next((chest_folder / "train" / "NORMAL").iterdir())
    old.rename(old.with_name(os.fsdecode(b"IM-0003-0001 M\xfcller.png")))
    listing = list_folder(chest_folder)
    assert [item.name for item in listing.left_out] == [r"train/NORMAL/IM-0003-0001 M\xfcller.png"]
    assert "UTF-8" in listing.left_out[0].reason
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    assert data.left_out == listing.left_out
    assert data.describe()["left_out"]["files"] == 1
    assert any(r"M\xfcller" in note for note in data.notes)
    json.dumps(data.describe()).encode()


def test_a_class_folder_of_files_that_are_not_read_says_which(chest_folder: Path) -> None:
    folder = chest_folder / "train" / "NORMAL"
    for file in folder.iterdir():
        file.unlink()
    (folder / "a.dcm").touch()
    with pytest.raises(BalancerError, match=r"NORMAL holds no image among 1 files \(train/NORMAL/a\.dcm") as caught:
        read_folder(chest_folder)
    one_line(caught)


def test_suffixes_in_any_case(tmp_path: Path) -> None:
    names = ["a.JPEG", "b.jpg", "c.PNG", "d.tif", "e.tiff", "f.bmp", "g.gif", "h.webp", "i.txt", "j.npy"]
    for name in names:
        (tmp_path / name).touch()
    assert [p.name for p in image_files(tmp_path)] == names[:8]


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_and_test_may_be_absent(chest_folder: Path, split: str) -> None:
    shutil.rmtree(chest_folder / split)
    assert count(chest_folder) == {key: n for key, n in EXPECTED.items() if key[0] != split}


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("cls", ["NORMAL", "PNEUMONIA"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_class_is_named(chest_folder: Path, split: str, cls: str, empty: bool) -> None:
    shutil.rmtree(chest_folder / split / cls)
    if empty:
        (chest_folder / split / cls).mkdir()
        (chest_folder / split / cls / "notes.txt").touch()
    with pytest.raises(BalancerError) as caught:
        read_folder(chest_folder)
    message = one_line(caught)
    assert cls in message
    assert str(chest_folder / split) in message
    assert ("holds no image" in message) == empty


def test_a_stray_folder_does_not_stand_in_for_a_class(chest_folder: Path) -> None:
    (chest_folder / "train" / "NORMAL").rename(chest_folder / "train" / "NORMAL2")
    with pytest.raises(BalancerError, match="no NORMAL folder"):
        read_folder(chest_folder)


def test_no_train(chest_folder: Path) -> None:
    shutil.rmtree(chest_folder / "train")
    with pytest.raises(BalancerError, match="no train folder") as caught:
        find_root(chest_folder)
    assert "test, val" in one_line(caught)


def test_a_file_named_train_is_no_train_folder(tmp_path: Path) -> None:
    (tmp_path / "train").touch()
    with pytest.raises(BalancerError, match="no train folder"):
        find_root(tmp_path)


@pytest.mark.parametrize("file", [True, False])
def test_no_root(tmp_path: Path, file: bool) -> None:
    if file:
        (tmp_path / "data").touch()
    with pytest.raises(BalancerError, match="is a file" if file else "does not exist") as caught:
        find_root(tmp_path / "data")
    assert "BALANCER_DATA" in one_line(caught)


@pytest.mark.parametrize(
    ("stem", "label", "patient", "kind"),
    [
        ("person1_bacteria_1", 1, "PNEUMONIA-1", "bacteria"),
        ("person1000_virus_1681", 1, "PNEUMONIA-1000", "virus"),
        ("person1000_bacteria_2931", 1, "PNEUMONIA-1000", "bacteria"),
        ("person23_bacteria_86_1", 1, "PNEUMONIA-23", "bacteria"),
        ("PERSON23_Virus_86", 1, "PNEUMONIA-23", "virus"),
        ("IM-0115-0001", 0, "NORMAL-115", "IM"),
        ("im-0115-0001", 0, "NORMAL-115", "IM"),
        ("IM-0529-0001-0002", 0, "NORMAL-529", "IM"),
        ("NORMAL2-IM-0115-0001", 0, "NORMAL-115", "NORMAL2-IM"),
        ("NORMAL2-IM-0995-0001-0001", 0, "NORMAL-995", "NORMAL2-IM"),
        # Mendeley Data, edition 3: the patient's ID is of the whole set
        ("BACTERIA-1008087-0001", 1, "patient-1008087", "bacteria"),
        ("VIRUS-1008087-0002", 1, "patient-1008087", "virus"),
        ("NORMAL-1049278-0001", 0, "patient-1049278", "normal"),
        ("normal-1049278-0001", 0, "patient-1049278", "normal"),
        ("NORMAL-1049278-0001", 1, "PNEUMONIA-file-NORMAL-1049278-0001", ""),
        ("VIRUS-1049278-0001", 0, "NORMAL-file-VIRUS-1049278-0001", ""),
        ("BACTERIA-12", 1, "PNEUMONIA-file-BACTERIA-12", ""),
        # nothing is read into a name of the other class or of another scheme: its own patient
        ("IM-0115-0001", 1, "PNEUMONIA-file-IM-0115-0001", ""),
        ("person1_bacteria_1", 0, "NORMAL-file-person1_bacteria_1", ""),
        ("person1_fungus_1", 1, "PNEUMONIA-file-person1_fungus_1", ""),
        ("person_bacteria_1", 1, "PNEUMONIA-file-person_bacteria_1", ""),
        ("xIM-0115-0001", 0, "NORMAL-file-xIM-0115-0001", ""),
        ("scan 7", 0, "NORMAL-file-scan 7", ""),
        ("", 1, "PNEUMONIA-file-", ""),
    ],
)
def test_patients_from_names(stem: str, label: int, patient: str, kind: str) -> None:
    assert parse_name(stem, label) == (patient, kind)
    assert is_patient(patient) == bool(kind)


@pytest.mark.realdata
def test_the_real_set_has_the_published_counts(real_data: Path) -> None:
    records = read_folder(find_root(real_data))
    assert Counter((r.split, r.label) for r in records) == {
        ("train", 0): 1341,
        ("train", 1): 3875,
        ("val", 0): 8,
        ("val", 1): 8,
        ("test", 0): 234,
        ("test", 1): 390,
    }
    assert all(r.source for r in records), "a name does not parse"
    assert not any("-file-" in r.patient for r in records)


@pytest.mark.realdata
def test_the_real_set_has_the_published_patients(real_data: Path) -> None:
    records = read_folder(find_root(real_data))
    by_split = {s: Counter((r.source, r.patient) for r in records if r.split == s) for s in ("train", "val", "test")}
    assert len(set().union(*by_split.values())) == 4097
    several = [n for n in by_split["train"].values() if n > 1]
    assert (len(several), max(several)) == (643, 30)
    assert not by_split["train"].keys() & by_split["test"].keys()
    # the same from the names alone, by a pattern written apart from the reader's
    pattern = re.compile(r"(person|(?:NORMAL2-)?IM-)0*(\d+)(?:_(bacteria|virus))?")
    assert len({pattern.match(Path(r.name).name).groups() for r in records}) == 4097
    # the cautious key, the number within the class, sees numbers in both train and test
    numbers = {s: {r.patient for r in records if r.split == s} for s in ("train", "test")}
    shared = Counter(p.split("-")[0] for p in numbers["train"] & numbers["test"])
    assert shared == {"PNEUMONIA": 170, "NORMAL": 94}


@pytest.mark.parametrize(
    ("keys", "unit", "words"),
    [
        (["NORMAL-1", "NORMAL-1", "PNEUMONIA-file-a"], "patient", "3 images of 2 patients"),
        (["NORMAL-file-a", "PNEUMONIA-file-IM-1"], "image", "2 images"),
        (["image-train-0"], "image", "1 image"),
        (["/data/real/IM.png"], "image", "1 image"),
        (["patient-1008087"], "patient", "1 image of 1 patient"),
    ],
)
def test_patients_are_counted_where_some_are_known(keys: list[str], unit: str, words: str) -> None:
    assert (sampling_unit(keys), count_units(keys)) == (unit, words)


def test_new_names_of_the_classes_change_neither_the_positive_class_nor_the_split(chest_folder: Path) -> None:
    known = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    for classes in ("NORMAL=well,PNEUMONIA=ill", "NORMAL=z,PNEUMONIA=a"):
        named = load_dataset(DataConfig(path=str(chest_folder), image_size=16, classes=classes))
        assert named.classes == tuple(pair.split("=")[1] for pair in classes.split(","))
        assert named.labels.tolist() == known.labels.tolist()
        assert named.split_hash == known.split_hash
