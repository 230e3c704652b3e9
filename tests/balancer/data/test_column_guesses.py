"""Columns of spreadsheets of clinics: known by name and content, or each choice is a line that can be pasted."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import balancer
from dicoms import dicom, write
from layouts import made, write_table

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.core.settings_base import ColumnsConfig
from balancer.data.dataset import load_dataset
from balancer.data.inspection import Inspection, inspect

N = 36
Cells = dict[str, Callable[[int], str]]
FILE: Cells = {"file": lambda i: f"{i:03d}.png"}
LABEL: Cells = {"label": lambda i: "ill" if i % 3 else "well"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, image in enumerate(made({"train": (N,)}, ["x"])):
        image.save(tmp_path / "pictures" / f"{i:03d}.png")
    return tmp_path


def table(folder: Path, *columns: Cells) -> Path:
    cells = {name: of for some in columns for name, of in some.items()}
    return write_table(folder / "t.csv", [{name: of(i) for name, of in cells.items()} for i in range(N)], ";")


def config(file: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(file), "image_size": 16, **settings})


def seen(folder: Path, *columns: Cells, **settings: object) -> Inspection:
    return inspect(config(table(folder, *columns), **settings))


def pasted(line: str, command: str = "inspect") -> DataConfig:
    """The settings of the data that a printed line gives, as the program reads them."""
    from balancer.core.options import columns

    words = shlex.split(line)
    assert words[:2] == ["balancer", command]
    words = words[2:] if command != "inspect" else ["--data", *words[2:]]
    flags = dict(zip(words[::2], words[1::2], strict=True))
    names = {"--data": "path", "--classes": "classes", "--max-bad": "max_bad", "--image-size": "image_size"}
    settings: dict[str, object] = {names[flag]: value for flag, value in flags.items() if flag in names}
    if "--columns" in flags:
        settings["columns"] = columns(flags["--columns"])
    return DataConfig.model_validate({"image_size": 16, **settings})


@pytest.mark.parametrize(
    "names",
    [
        ("Datei", "Befund", "Patientennummer", "Abteilung"),
        ("Fichier", "Diagnostic", "Identifiant patient", "Établissement"),
        ("Archivo", "Diagnóstico", "ID Paciente", "Centro"),
        ("File name", "Result", "Pat.-Nr.", "Scanner"),
        ("Bild", "Klasse", "Internal patient key (hash)", "Klinik"),
    ],
)
def test_usual_names_of_four_languages(folder: Path, names: tuple[str, ...]) -> None:
    of = (FILE["file"], LABEL["label"], lambda i: f"{i // 2:04d}", lambda i: "AB"[i % 2])
    facts = seen(folder, dict(zip(names, of, strict=True)))
    assert facts.columns == dict(zip(("path", "label", "patient", "source"), names, strict=True))
    assert facts.patients.startswith(f"{N // 2} ")
    data = load_dataset(config(folder / "t.csv"))
    folds: dict[str, set[str]] = {}
    for record, fold in zip(data.records, data.folds, strict=True):
        folds.setdefault(record.name[:-4].rpartition("/")[2], set()).add(str(fold))
    pairs = [folds[f"{i:03d}"] | folds[f"{i + 1:03d}"] for i in range(0, N, 2)]
    assert all(len(of_one) == 1 for of_one in pairs), "a patient lies in two folds"


def test_a_patients_age_is_no_patient(folder: Path) -> None:
    facts = seen(folder, FILE, LABEL, {"Patient Age": lambda i: str(i), "Patient Sex": lambda i: "MF"[i % 2]})
    assert "patient" not in facts.columns


def test_files_are_known_by_what_is_there(folder: Path) -> None:
    """A usual name that leads nowhere, and a column of an unusual name with the names of the files."""
    facts = seen(folder, {"image": lambda i: f"view {i}", "Auftrag": lambda i: f"{i:03d}"}, LABEL)
    assert facts.columns["path"] == "Auftrag"
    assert facts.images == N
    assert facts.exit_code == 0


def test_columns_that_may_tell_patients_are_named(folder: Path) -> None:
    facts = seen(folder, FILE, LABEL, {"Case, no": lambda i: f"K{i // 2:03d}", "Dose": lambda i: f"{i // 2},5"})
    (note,) = (note for note in facts.notes if "patient=" in note)
    assert shlex.quote("patient=Case, no") in note
    assert pasted(f"balancer inspect t.csv --columns {shlex.quote('patient=Case, no,label=label')}").columns == (
        ColumnsConfig(patient="Case, no", label="label")
    )


WORDS = {
    "fr": ("entraînement", "validation", "test"),
    "de": ("Training", "Validierung", "Prüfung"),
    "es": ("entrenamiento", "validación", "prueba"),
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("name", ["Ensemble", "fold", "X1"])
def test_splits_of_other_languages(folder: Path, words: tuple[str, ...], name: str) -> None:
    facts = seen(folder, FILE, LABEL, {name: lambda i: words[i // 12]})
    assert facts.columns["split"] == name
    assert {fold: sum(of[fold] for of in facts.classes.values()) for fold in ("train", "val", "test")} == {
        "train": 12,
        "val": 12,
        "test": 12,
    }


def test_numbered_folds_are_no_split_and_said(folder: Path) -> None:
    facts = seen(folder, FILE, LABEL, {"fold": lambda i: str(i % 5)})
    assert "split" not in facts.columns
    assert any("'fold'" in note for note in facts.notes)
    assert facts.exit_code == 0


def test_an_unknown_split_is_mended(folder: Path) -> None:
    facts = seen(folder, FILE, LABEL, {"split": lambda i: ("train", "reserve")[i % 2]})
    assert facts.exit_code == 1
    assert "reserve" in facts.problem
    assert inspect(pasted(facts.next[0])).exit_code == 0
    with pytest.raises(BalancerError, match="--columns split=none"):
        load_dataset(config(folder / "t.csv"))


def test_one_rare_label_does_not_stop(folder: Path) -> None:
    """The labels are said, and the line that goes on merges spellings and leaves the rare label out."""
    spelled = ("o.B.", "O. B.", "Lung, left", "Lung, left ", "o.B.")
    facts = seen(folder, FILE, {"Befund": lambda i: "it's unclear" if i == 7 else spelled[i % 5]})
    assert facts.exit_code == 1
    assert facts.labels["it's unclear"] == 1
    assert "it's unclear" in facts.describe()
    assert ",..." not in facts.describe()
    mended = inspect(pasted(facts.next[0]))
    assert mended.exit_code == 0
    assert set(mended.classes) == {"o.B.", "Lung, left"}
    train = next(line for line in facts.next if "gan-train" in line)
    assert load_dataset(pasted(train, "gan-train")).classes == ("o.B.", "Lung, left")


def test_spellings_are_merged_by_the_lines(folder: Path) -> None:
    facts = seen(folder, FILE, {"label": lambda i: ("ill", "Ill", "well")[i % 3]})
    assert facts.exit_code == 0
    train = next(line for line in facts.next if "gan-train" in line)
    assert len(load_dataset(pasted(train, "gan-train")).classes) == 2


def test_missing_files_are_mended_or_named(folder: Path) -> None:
    (folder / "pictures" / "004.png").unlink()
    facts = seen(folder, FILE, LABEL)
    assert facts.exit_code == 1
    assert inspect(pasted(facts.next[0])).images == N - 1
    facts = seen(folder, {"file": lambda i: f"other{i}.png"}, LABEL)
    assert "--images" not in facts.problem, "the files are there"
    assert "path=" in facts.problem


def test_a_folder_that_is_a_link_is_named(folder: Path) -> None:
    (folder / "table").mkdir()
    (folder / "table" / "link").symlink_to(folder / "pictures")
    facts = seen(folder / "table", {"Nummer": lambda i: f"{i:03d}"}, LABEL)
    assert facts.exit_code == 1
    words = next(note for note in facts.notes if "--images" in note).split()
    place = words[len(words) - 1 - words[::-1].index("--images") + 1]
    assert inspect(config(folder / "table" / "t.csv", images=place)).images == N


def test_the_exit_code(folder: Path) -> None:
    file = table(folder, FILE, {"a": lambda i: "xy"[i % 2], "b": lambda i: "uvw"[i % 3]})
    shown = balancer("inspect", str(file), "-q")
    assert shown.exit_code == 1
    assert "=NAME" not in "".join(line for line in shown.stdout.splitlines() if line.startswith("  balancer"))


@pytest.mark.parametrize("element", ["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID"])
def test_rows_are_joined_by_an_element_of_headers(tmp_path: Path, element: str) -> None:
    """A number of each file, which no file name has; by a study both of its images are of the row."""
    for i in range(N):
        pixels = np.random.default_rng(i).integers(0, 4096, (16, 16), dtype=np.uint16)
        more = {element: f"1.2.{i}", **({"PatientID": f"77{i:03d}"} if element != "PatientID" else {})}
        write(dicom(pixels, 12, **more), tmp_path / "export" / f"F{i:04d}")
    facts = seen(tmp_path, {"Nummer": lambda i: f"1.2.{i}"}, LABEL)
    assert facts.columns == {"path": "Nummer", "label": "label"}
    assert facts.images == N
    assert facts.patients.startswith(str(N))
    assert {cls: sum(of.values()) for cls, of in facts.classes.items()} == {"ill": 24, "well": 12}
    assert "77003" not in facts.describe(), "a value of a header came out"
    assert any(element in note for note in facts.notes)
