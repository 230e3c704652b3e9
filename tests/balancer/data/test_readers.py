"""Every registered reader gives the same records of the same images, and says what it cannot read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import balancer
from layouts import CLASSES, COUNTS, LAYOUTS, as_classes, as_splits, made, write_table
from PIL import Image

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset, read_data
from balancer.data.readers import READERS, choose_reader


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(path), "image_size": 16, **settings}))


def said(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_reader_has_a_layout() -> None:
    assert {reader for reader, _ in LAYOUTS.values()} == set(READERS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_images_give_the_same_records(tmp_path: Path, layout: str) -> None:
    images, (reader, write) = made(), LAYOUTS[layout]
    data = load(
        write(images, tmp_path / "data"), format="splits" if layout == "splits" else "auto", positive="PNEUMONIA"
    )
    assert (data.reader, data.classes) == (reader, CLASSES)
    pixels = {image.pixels.tobytes(): image for image in images}
    assert len(data.images) == len(images)
    for i, record in enumerate(data.records):
        image = pixels[data.images[i].tobytes()]  # at their own size, images are not changed
        assert data.classes[record.label] == image.cls
        assert reader == "classes" or record.split == image.split
    assert len({r.patient for r in data.records}) == len(images), "no patient is known"
    assert not data.patients_known
    if layout != "chest":
        assert reader == "classes" or {fold: data.counts(fold) for fold in COUNTS} == COUNTS


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "splits"])
def test_a_layout_is_known_by_itself(tmp_path: Path, layout: str) -> None:
    reader, write = LAYOUTS[layout]
    assert choose_reader(write(made(), tmp_path / "data")).name == reader


def test_split_folders_of_other_names_are_known(tmp_path: Path) -> None:
    for below in ("data", "archive/around/it"):
        root = as_splits(made(classes=("cat", "dog")), tmp_path / below)
        assert choose_reader(tmp_path / below.split("/")[0]).name == "splits"
        assert read_data(DataConfig(path=str(tmp_path / below.split("/")[0]))).root == root


def test_split_folders_have_several_spellings(tmp_path: Path) -> None:
    root = as_splits(made(classes=("cat", "dog")), tmp_path / "data")
    for old, new in (("train", "Training"), ("val", "validation"), ("test", "Testing")):
        (root / old).rename(root / new)
    (root / "Testing" / "dog").rename(root / "Testing" / "Dog")
    data = load(root, positive="dog")
    assert {fold: data.counts(fold) for fold in COUNTS} == COUNTS


def test_three_classes_are_sorted_as_people_sort(tmp_path: Path) -> None:
    names = ("grade 10", "grade 2", "Grade 1")
    data = load(as_classes(made({"train": (9, 8, 7)}, names), tmp_path / "data"))
    assert data.classes == ("Grade 1", "grade 2", "grade 10")


@pytest.mark.parametrize(
    ("counts", "settings", "classes"),
    [
        ((12, 9), {}, ("a", "b")),
        ((9, 12), {}, ("b", "a")),
        ((9, 9), {}, ("a", "b")),  # of equal ones the later name
        ((12, 9), {"positive": "a"}, ("b", "a")),
        ((12, 9), {"positive": "A"}, ("b", "a")),
        ((12, 9, 8), {}, ("a", "b", "c")),
        ((12, 9, 8), {"positive": "b"}, ("not b", "b")),
        ((12, 9, 8), {"task": "binary", "positive": "b"}, ("not b", "b")),
        ((12, 9, 8), {"task": "multiclass"}, ("a", "b", "c")),
        ((12, 9, 8), {"classes": "a=well,b=ill,c=ill"}, ("well", "ill")),  # 12 against 17: well is rarer
        ((12, 9, 8), {"classes": "a,c"}, ("a", "c")),
        ((12, 9, 8), {"classes": "a=well,c=well,b=ill", "positive": "well"}, ("ill", "well")),
    ],
)
def test_the_classes_of_the_task(tmp_path: Path, counts: tuple, settings: dict, classes: tuple) -> None:
    images = made({"train": counts}, "abc")
    data = load(as_classes(images, tmp_path / "data"), **settings)
    expected = ("ill", "well") if settings.get("classes") == "a=well,b=ill,c=ill" else classes
    assert data.classes == expected
    pairs = (
        dict(pair.split("=") if "=" in pair else (pair, pair) for pair in settings["classes"].split(","))
        if "classes" in settings
        else None
    )
    for record in data.records:
        cls = record.name.split("/")[0]
        cls = cls if pairs is None else pairs[cls]
        if cls not in data.classes:
            cls = next(name for name in data.classes if name.startswith("not "))
        assert data.classes[record.label] == cls
    if pairs and len(pairs) < len(counts):
        assert any("9 images of other classes" in note for note in data.notes), "nothing is dropped in silence"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"positive": "bb"}, UsageError, ("positive is 'bb'", "b")),
        ({"task": "binary"}, UsageError, ("--positive", "a, b, c")),
        ({"task": "multiclass", "positive": "a"}, UsageError, ("multiclass",)),
        ({"classes": "a=x,d=y"}, UsageError, ("classes is 'd'",)),
        ({"classes": "a=x,b=x,c=x"}, BalancerError, ("1 class (x)",)),
        ({"format": "folder"}, UsageError, ("format is 'folder'", "chest, classes")),
        ({"format": "medmnist"}, BalancerError, ("not a readable MedMNIST",)),
        ({"format": "splits"}, BalancerError, ("no train folder",)),
        ({"format": "table"}, BalancerError, ("is no file",)),
        ({"split_by": "source"}, UsageError, ("--columns source=NAME",)),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict, kind: type, words: tuple) -> None:
    root = as_classes(made({"train": (9, 8, 7)}, "abc"), tmp_path / "data")
    with pytest.raises(kind) as caught:
        load(root, **settings)
    assert all(word in said(caught) for word in words), said(caught)


def test_settings_of_tables_are_said_to_be_idle_elsewhere(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 8)}, "ab"), tmp_path / "data")
    settings = {"where": "view=PA", "columns": {"label": "x"}}
    (note,) = (note for note in load(root, **settings).notes if "for tables" in note)
    assert note.startswith("--where, --columns are for tables and do nothing here: the data are read as <class>/*")
    assert not any("for tables" in note for note in load(root).notes)


def test_nothing_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").touch()
    for path, word in (
        (tmp_path, "notes.docx"),
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "phanton", "did you mean 'phantom'"),
        (tmp_path / "notes.doc", r"did you mean 'notes\.docx'"),
        (tmp_path / "notes.docx", "file"),
    ):
        with pytest.raises(BalancerError, match=word) as caught:
            load(path)
        assert "MedMNIST" in said(caught), "what is read is not said"


def test_all_that_lies_in_class_folders_is_read_or_named(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 8)}, "ab"), tmp_path / "data")
    for name in ("a/scan.dcm", "a/volume.nii.gz", "readme.txt", "b/inner/deep.png", "notes/todo.txt", ".old/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no picture")
    (root / "b" / "gone.png").symlink_to("/nowhere/x.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(root / "b" / "jpeg2000.jp2")
    data = load(root)
    assert {item.name for item in data.left_out} == {
        *("a/scan.dcm", "a/volume.nii.gz", "readme.txt", "b/inner", "notes", ".old", "b/gone.png")
    }
    assert data.classes == ("a", "b")
    assert any(r.name == "b/jpeg2000.jp2" for r in data.records)
    assert any("7 files are not read" in note for note in data.notes)


def test_a_table_beside_folders_is_said(tmp_path: Path) -> None:
    """As HAM10000 is published: two folders of images that are no classes, and a table that has the classes."""
    root = as_classes(made({"train": (9, 8)}, ("part_1", "part_2")), tmp_path / "data")
    write_table(root / "metadata.csv", [{"image_id": "x", "dx": "y"}])
    (item,) = load(root).left_out
    assert (item.name, "--data" in item.reason) == ("metadata.csv", True)


def test_a_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    root = as_splits(made(classes=("cat", "dog")), tmp_path / "data")
    (root / "test" / "bird").mkdir()
    made()[0].save(root / "test" / "bird" / "x.png")
    data = load(root)
    assert [(item.name, item.files) for item in data.left_out] == [("test/bird", 1)]
    assert data.classes == ("dog", "cat")


def test_masks_are_named(tmp_path: Path) -> None:
    root = as_classes(made({"train": (9, 8)}, "ab"), tmp_path / "data")
    made()[0].save(root / "a" / "scan (1)_mask.png")
    assert any("names of masks" in note and "scan (1)_mask.png" in note for note in load(root).notes)


def test_equal_sets_count_the_same_whatever_the_order_of_reading(tmp_path: Path) -> None:
    first = load(as_classes(made({"train": (30, 20)}, "ab"), tmp_path / "one"))
    second = load(as_classes(list(reversed(made({"train": (30, 20)}, "ab"))), tmp_path / "two"))
    assert first.split_hash == second.split_hash
    assert Counter(first.folds.tolist()) == Counter(second.folds.tolist())


BAD = {
    "an empty table": lambda root: (root / "t.csv").touch(),
    "no column that is known": lambda root: write_table(root / "t.csv", [{"a": "1", "b": "2"}]),
    "a path that climbs out": lambda root: write_table(root / "t.csv", [{"file": "../x.png", "label": "a"}]),
    "files that are missing": lambda root: write_table(root / "t.csv", [{"file": f, "label": f} for f in "ab"]),
    "one class": lambda root: as_classes(made({"train": (9, 9)}, "aa"), root),
    "a class of one image": lambda root: as_classes(made({"train": (9, 1)}, "ab"), root),
    "nothing that is read": lambda root: (root / "notes.docx").touch(),
    "several labels an image": lambda root: np.savez(
        root / "x.npz", train_images=np.zeros((2, 9, 9), np.uint8), train_labels=np.zeros((2, 3), np.uint8)
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_dry_run_finds_what_is_bad(fault: str, runs_cwd: Path) -> None:
    """One line with a remedy, nothing trained, nothing written."""
    root = runs_cwd / "data"
    root.mkdir()
    BAD[fault](root)
    data = next(iter([*root.glob("*.csv"), *root.glob("*.npz")]), root)
    result = balancer("gan-train", "--data", data, "--dry-run", "-q")
    assert result.exit_code in (1, 2)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert [path.name for path in runs_cwd.iterdir()] == ["data"]


@pytest.mark.realdata
def test_breast_ultrasound(busi: Path) -> None:
    """780 images of three classes, one of them twice, under two labels (its README; the literature has more pairs)."""
    data = load_dataset(DataConfig(path=str(busi)), require=("train", "val", "test"))
    assert (data.reader, data.classes) == ("classes", ("benign", "malignant", "normal"))
    assert np.bincount(data.labels).tolist() == [437, 210, 133]
    assert data.bad == []
    assert any("benign (433).png" in note and "malignant (145).png" in note for note in data.notes)
    twice = [i for i, digest in enumerate(data.digests) if data.digests.count(digest) > 1]
    assert len({str(data.folds[i]) for i in twice}) == 1
    assert not data.patients_known
    two = load_dataset(DataConfig(path=str(busi), positive="malignant"), require=("train", "val", "test"))
    assert (two.classes, np.bincount(two.labels).tolist()) == (("not malignant", "malignant"), [570, 210])
    with pytest.raises(BalancerError, match="benign"):
        load(busi, strict=True)
