"""Patients by a pattern in the names, by a folder each, or by a table beside the data."""

from pathlib import Path

import pytest
from layouts import as_classes, made, write_table
from pydantic import ValidationError

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset, read_data
from balancer.data.records import image_key, is_patient, patient_key

IMAGES = made({"train": (30, 20)}, "ab")


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(path), "image_size": 16, **settings}))


def patients_of(path: Path, **settings: object) -> list[str]:
    return [r.patient for r in read_data(DataConfig.model_validate({"path": str(path), **settings})).records]


def written(root: Path, name: object) -> Path:
    """Class folders whose files are named by a function of class and number."""
    numbers = dict.fromkeys("ab", 0)
    for image in IMAGES:
        image.save(root / image.cls / name(image.cls, numbers[image.cls]))
        numbers[image.cls] += 1
    return root


SCHEMES = {
    "nih": (lambda _, i: f"{i // 3:08d}_{i % 3:03d}.png", lambda n: f"{n:08d}"),
    "chexpert": (lambda _, i: f"patient{i // 3:05d}/study{1 + i % 3}/view1_frontal.png", lambda n: f"patient{n:05d}"),
    "kaggle": (lambda c, i: f"person{i // 3}_virus_{i}.png" if c == "b" else f"IM-{i // 3:04d}-{i:04d}.png", None),
    "mendeley": (lambda c, i: f"{'NORMAL' if c == 'a' else 'VIRUS'}-{i // 3}-{i:04d}.png", str),
    r"case(?P<patient>\d+)": (lambda _, i: f"x_case{i // 3}_{i}.png", str),
    "folder": (lambda _, i: f"p{i // 3}/{i}.png", lambda n: f"p{n}"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_patients_in_names(tmp_path: Path, scheme: str) -> None:
    name, number = SCHEMES[scheme]
    deep = scheme == "chexpert"
    root = written(tmp_path / "data", (lambda c, i: name(c, i).replace("/", "_")) if deep else name)
    pattern = r"(?P<patient>patient\d+)_study" if deep else scheme
    keys = patients_of(root, patient_pattern=pattern)
    assert all(map(is_patient, keys))
    expected = {number(i // 3) for i in range(30)} if number else {f"IM-{i // 3:04d}" for i in range(30)}
    expected |= {f"person{i // 3}" for i in range(20)} if number is None else set()
    assert {key.removeprefix("patient-") for key in keys} == expected
    data = load(root, patient_pattern=pattern)
    of: dict[str, set[str]] = {}
    for record, fold in zip(data.records, data.folds, strict=True):
        of.setdefault(record.patient, set()).add(str(fold))
    assert all(len(folds) == 1 for folds in of.values())
    assert data.patients_known


def test_the_paths_of_chexpert_in_a_table(tmp_path: Path) -> None:
    name, _ = SCHEMES["chexpert"]
    root = written(tmp_path / "data", name)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    table = write_table(root / "t.csv", [{"path": f"CheXpert-v1.0/{f}", "label": f[0]} for f in files])
    keys = patients_of(table, patient_pattern="chexpert")
    assert set(keys) == {f"patient-patient{i:05d}" for i in range(10)}


def test_names_that_look_like_a_scheme_are_said(tmp_path: Path) -> None:
    root = written(tmp_path / "data", SCHEMES["nih"][0])
    assert any("--patient-pattern nih fits these names" in note for note in load(root).notes)
    assert not any("fits these names" in note for note in load(root, patient_pattern="nih").notes)


def test_folders_of_patients_that_nobody_told_of(tmp_path: Path) -> None:
    root = written(tmp_path / "data", SCHEMES["folder"][0])
    with pytest.raises(BalancerError, match="--patient-pattern folder"):
        load(root)


def test_a_pattern_that_fits_some(tmp_path: Path) -> None:
    root = written(tmp_path / "data", lambda _, i: f"case{i}.png" if i < 15 else f"other{i}.png")
    data = load(root, patient_pattern=r"case(?P<patient>\d+)")
    assert any("20 of 50 file names tell no patient" in note for note in data.notes)
    with pytest.raises(BalancerError, match="fits no file name"):
        load(root, patient_pattern=r"kase(?P<patient>\d+)")


@pytest.mark.parametrize("pattern", [r"case(\d+)", r"case(?P<patient>", r"nihh"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValidationError):
        DataConfig(patient_pattern=pattern)


@pytest.mark.parametrize(
    "row",
    [
        lambda cls, name, patient: {"path": f"{cls}/{name}", "patient": patient},
        lambda _, name, patient: {"file": name, "Patient ID": patient},
        lambda _, name, patient: {"image": name.removesuffix(".png"), "subject": patient},
        lambda _, name, patient: {"who": patient, "file": name},
        lambda cls, name, patient: {"x": 1, "patientid": patient, "path": f"{cls}\\{name}"},
    ],
)
def test_a_table_of_patients(tmp_path: Path, row: object) -> None:
    root = as_classes(IMAGES, tmp_path / "data")
    rows = [row(image.cls, image.name, f"0{i // 4}/x") for i, image in enumerate(IMAGES)]
    keys = patients_of(root, patients=str(write_table(tmp_path / "p.csv", rows)))
    assert set(keys) == {f"patient-0{i // 4}%2Fx" for i in range(50)}
    assert all(map(is_patient, keys))


def test_an_empty_cell_in_a_table_of_patients_tells_none(tmp_path: Path) -> None:
    root = as_classes(IMAGES, tmp_path / "data")
    rows = [{"path": image.name, "patient": "NA" if i < 9 else f"{i}"} for i, image in enumerate(IMAGES)]
    keys = patients_of(root, patients=str(write_table(tmp_path / "p.csv", rows)))
    assert sum(map(is_patient, keys)) == len(IMAGES) - 9


def test_tables_of_patients_that_do_not_fit(tmp_path: Path) -> None:
    root = as_classes(IMAGES, tmp_path / "data")
    for rows, word in (
        ([{"file": "x.png", "patient": "1"}], "names no image"),
        ([{"a": "x", "b": "y", "c": "z"}], "expected path and patient"),
        ([{"file": IMAGES[0].name, "patient": "1"}, {"file": IMAGES[0].name, "patient": "2"}], "two patients"),
    ):
        file = write_table(tmp_path / "p.csv", rows)
        with pytest.raises(BalancerError, match=word):
            patients_of(root, patients=str(file))
    with pytest.raises(BalancerError, match="does not exist"):
        patients_of(root, patients=str(tmp_path / "gone.csv"))


@pytest.mark.parametrize("number", ["1", "00013", "A/7", "a\\b", "100 %", "image-4", "NORMAL-file-3"])
def test_whatever_a_patient_is_called_is_a_patient(number: str) -> None:
    assert is_patient(patient_key(number))
    assert not is_patient(image_key(number))
