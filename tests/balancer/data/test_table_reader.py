"""Tables as spreadsheets write them: every quirk is read as what it means, or is one line."""

import codecs
import csv
import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import made, write_table
from PIL import Image

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import DataConfig
from balancer.data import grouping
from balancer.data.dataset import Dataset, load_dataset, read_data
from balancer.data.listing import Listing
from balancer.data.records import is_patient
from balancer.data.spreadsheet import read_spreadsheet

N = 24


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Twenty-four files scans/000.png to 023.png beside the table."""
    (tmp_path / "scans").mkdir()
    for i, image in enumerate(made({"train": (N,)}, ["x"])):
        image.save(tmp_path / "scans" / f"{i:03d}.png")
    return tmp_path


def rows(**more: object) -> list[dict[str, str]]:
    """A row for each file; ``more`` are functions of its number."""
    columns = {"file": lambda i: f"scans/{i:03d}.png", "label": lambda i: "ill" if i % 3 else "well", **more}
    return [{name: str(of(i)) for name, of in columns.items()} for i in range(N)]


def listing(file: Path, **settings: object) -> Listing:
    return read_data(DataConfig.model_validate({"path": str(file), **settings}))


def load(file: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig.model_validate({"path": str(file), "image_size": 16, **settings}))


def refused(file: Path, kind: type[BalancerError] = BalancerError, **settings: object) -> str:
    with pytest.raises(kind) as caught:
        load(file, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels(read: Listing) -> dict[str, str]:
    return {record.name: read.classes[record.label] for record in read.records}


EXPECTED = {f"scans/{i:03d}.png": "ill" if i % 3 else "well" for i in range(N)}


def text(delimiter: str = ",", end: str = "\n", quoted: bool = False) -> str:
    buffer = io.StringIO()
    rule = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(buffer, ["file", "label"], delimiter=delimiter, lineterminator=end, quoting=rule)
    writer.writeheader()
    writer.writerows(rows())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        text().encode(),
        codecs.BOM_UTF8 + text().encode(),
        text(end="\r\n").encode(),
        text(";", "\r\n").encode(),
        text("\t").encode(),
        text("|").encode(),
        text(quoted=True).encode(),
        ("sep=;\r\n" + text(";", "\r\n")).encode(),
        text(";").encode("utf-16"),
        text().replace(",", " , ").encode(),
        text().replace("\n", ",,\n").encode(),  # columns without a name, as spreadsheets leave at the end
        (text() + "\n\n,\n").encode(),
        (text().rstrip("\n")).encode(),
        text().replace("scans/", ".\\scans\\").encode(),
        text().replace("file,", "Image Name,").replace("label", "Diagnosis", 1).encode(),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "TABLE.CSV"])
def test_quirks_of_spreadsheets(scans: Path, content: bytes, name: str) -> None:
    (scans / name).write_bytes(content)
    assert labels(listing(scans / name)) == EXPECTED


def test_a_folder_with_a_single_table_is_the_table(scans: Path) -> None:
    write_table(scans / "table.csv", rows())
    assert labels(listing(scans)) == EXPECTED


def test_letters_of_old_windows(scans: Path) -> None:
    content = text().replace("well", "bénin")
    (scans / "table.csv").write_bytes(content.encode("cp1252"))
    read = listing(scans / "table.csv")
    assert set(read.classes) == {"ill", "bénin"}
    assert any("Windows-1252" in note for note in read.notes)


def test_numbers_keep_their_zeros(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(patient=lambda i: f"{i // 2:05d}", site=lambda i: f"0{i % 2}"))
    read = listing(table)
    assert {r.patient for r in read.records} == {f"patient-{k:05d}" for k in range(N // 2)}
    assert {r.source for r in read.records} == {"00", "01"}
    assert read.source_name == "column site"


def test_parquet_is_read_as_its_csv(scans: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    given_rows = [
        {**row, "patientid": i // 2, "grade": None if i == 5 else float(i % 3)} for i, row in enumerate(rows())
    ]
    parquet.write_table(pyarrow.Table.from_pylist(given_rows), scans / "t.parquet")
    read = listing(scans / "t.parquet", columns={"label": "grade"})
    assert set(read.classes) == {"0", "1", "2"}, "numbers that pandas made floats have no decimals"
    assert len(read.records) == N - 1
    assert read.records[0].patient == "patient-0"
    (scans / "t.parquet").write_bytes(b"PAR1 is no table")
    assert "no readable Parquet" in refused(scans / "t.parquet")


def test_columns_that_are_named(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(finding=lambda i: "abc"[i % 3], site=lambda i: i % 2))
    read = listing(table, columns={"label": "Finding", "source": "site"})
    assert set(read.classes) == set("abc")
    message = refused(table, UsageError, columns={"label": "findign"})
    assert "columns.label is 'findign'" in message
    assert "did you mean 'finding'?" in message


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("view=PA", lambda i: i % 2 == 0),
        ("view=pa", lambda i: i % 2 == 0),
        ("view!=PA", lambda i: i % 2),
        ("view=PA,age!=30", lambda i: i % 2 == 0 and i % 4),
        (["view=PA", "age!=30"], lambda i: i % 2 == 0 and i % 4),
        ("view=AP, supine", lambda i: i % 2),
    ],
)
def test_rows_that_are_asked_for(scans: Path, where: object, keeps: object) -> None:
    second = "AP, supine" if where == "view=AP, supine" else "AP"
    table = write_table(
        scans / "t.csv", rows(view=lambda i: second if i % 2 else "PA", age=lambda i: 30 if i % 4 == 0 else 40)
    )
    read = listing(table, where=where)
    assert {r.name for r in read.records} == {f"scans/{i:03d}.png" for i in range(N) if keeps(i)}
    assert any("rows of t.csv are read" in note for note in read.notes)


@pytest.mark.parametrize(
    ("where", "word"), [("view=XX", "keeps none"), ("vew=PA", "did you mean 'view'"), ("=PA", "column=value")]
)
def test_rows_that_nobody_has(scans: Path, where: str, word: str) -> None:
    table = write_table(scans / "t.csv", rows(view=lambda _: "PA"))
    with pytest.raises(Exception, match=word):
        load(table, where=where)


def test_rows_without_a_label_or_a_file_are_counted(scans: Path) -> None:
    empty = {2: "", 5: "NA", 6: "NaN", 7: " "}
    table = write_table(scans / "t.csv", rows(label=lambda i: empty.get(i, "ill" if i % 3 else "well")))
    read = listing(table)
    assert labels(read) == {name: cls for i, (name, cls) in enumerate(EXPECTED.items()) if i not in empty}
    assert any("4 rows of t.csv have no label" in note for note in read.notes)


def test_rows_that_repeat_others(scans: Path) -> None:
    given_rows = rows()
    table = write_table(scans / "t.csv", [*given_rows, *given_rows[:3]])
    read = listing(table)
    assert labels(read) == EXPECTED
    assert read.left_out == [], "what is read was counted among what is not"
    assert any("3 rows of t.csv repeat" in note for note in read.notes)


def test_one_file_under_two_labels(scans: Path) -> None:
    given_rows = rows()
    table = write_table(scans / "t.csv", [*given_rows, {**given_rows[3], "label": "ill"}])
    read = listing(table)
    assert labels(read) == {name: cls for name, cls in EXPECTED.items() if name != "scans/003.png"}
    assert [(item.name, item.reason) for item in read.left_out] == [
        ("scans/003.png", "rows with two labels, well and ill")
    ]
    assert "scans/003.png" in refused(table, strict=True)


def test_several_labels_in_a_cell_are_said(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(label=lambda i: ("mass", "mass|nodule", "none")[i % 3]))
    assert any("8 rows of t.csv name several labels (such as mass|nodule)" in note for note in listing(table).notes)
    assert load(table, classes="none=well,mass=ill,mass|nodule=ill").classes == ("ill", "well")


def test_labels_are_one_line(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(label=lambda i: "mass/\n nodule\x07" if i % 3 else "../well"))
    assert set(listing(table).classes) == {"mass/ nodule\\x07", "../well"}


def test_labels_that_differ_by_case(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(label=lambda i: ("ill", "Ill", "well")[i % 3]))
    (note,) = (note for note in listing(table).notes if "--classes" in note)
    classes = shlex.split(note)[-1]
    assert sorted(classes.split(",")) == ["Ill", "ill=Ill", "well"]
    merged = listing(table, classes=classes)
    assert set(merged.classes) == {"Ill", "well"}
    assert not any("--classes" in note for note in merged.notes), "said although they are merged"


def test_files_that_are_missing(scans: Path) -> None:
    (scans / "scans" / "004.png").unlink()
    table = write_table(scans / "t.csv", rows())
    message = refused(table)
    assert "1 of 24 rows name files that are missing" in message
    assert "scans/004.png" in message
    data = load(table, max_bad=0.05)
    assert [(item.name, item.reason) for item in data.left_out] == [("scans/004.png", "no such file")]
    assert any("scans/004.png" in note for note in data.notes)


@pytest.mark.parametrize("path", ["../secret.png", "scans/../../secret.png", "..\\secret.png"])
def test_a_path_that_climbs_out(scans: Path, path: str) -> None:
    inner = scans / "inner"
    inner.mkdir()
    made()[0].save(scans / "secret.png")
    table = write_table(inner / "t.csv", [{"file": path, "label": "a"}, {"file": path, "label": "b"}])
    message = refused(table, images=str(inner))
    assert "leads out of" in message
    assert "--images" in message


def test_absolute_paths(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = write_table(scans / "t.csv", rows(file=lambda i: scans / "scans" / f"{i:03d}.png"))
    assert labels(listing(table)) == EXPECTED
    elsewhere = tmp_path_factory.mktemp("other")
    outside = write_table(elsewhere / "t.csv", rows(file=lambda i: scans / "scans" / f"{i:03d}.png"))
    assert "lies outside" in refused(outside)
    assert labels(listing(outside, images=str(scans))) == EXPECTED


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda i: f"/home/someone/export/scans/{i:03d}.png", "without their first 3 folders"),
        (lambda i: f"export-v1/scans/{i:03d}.png", "without their first 1 folder"),
        (lambda i: f"{i:03d}.png", "by their names"),
        (lambda i: f"{i:03d}", "by their names"),
        (lambda i: f"C:\\export\\scans\\{i:03d}.png", "without their first 2 folders"),
    ],
)
def test_tables_written_elsewhere(scans: Path, written: object, words: str) -> None:
    table = write_table(scans / "t.csv", rows(file=written))
    read = listing(table)
    assert labels(read) == EXPECTED
    assert any(words in note for note in read.notes)


def test_a_name_that_stands_twice_is_not_guessed(scans: Path) -> None:
    """Two folders with files of one name: a bare name could mean either."""
    made()[0].save(scans / "other" / "007.png")
    table = write_table(scans / "t.csv", rows(file=lambda i: f"{i:03d}.png"))
    read = listing(table, max_bad=0.1)
    assert [item.name for item in read.left_out] == ["007.png"]


def test_one_missing_file_is_not_taken_from_another_folder(scans: Path) -> None:
    """A row of site B whose file is missing must not get the file of that name of site A."""
    made()[0].save(scans / "b" / "900.png")
    (scans / "scans" / "900.png").unlink(missing_ok=True)
    table = write_table(scans / "t.csv", [*rows(), {"file": "scans/900.png", "label": "ill"}])
    read = listing(table, max_bad=0.1)
    assert [item.name for item in read.left_out] == ["scans/900.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "no row of column names"),
        (b"file,label\n", "no row"),
        (b"a\0b,c\n", "is no text"),
        (b"file,file,label\nx,y,z\n", "'file' twice"),
        (b'file,label\n"scans/000.png,ill\nscans/001.png,well\n', "has a file and a label"),
        (b"file,label\nscans/000.png,ill,more\n", "row 2: 3 cells"),
        (b"file,label\nscans/000.png,ill\nscans/001.png,ill\n", "1 class (ill)"),
        (b"a,b\n1,2\n", "--columns path=NAME"),
        (b"file,grade 3\nx,2\n", "--columns label=NAME"),
        (b"file,label,split\nscans/000.png,ill,7\nscans/001.png,well,train\n", "expected train, val or test"),
        (b"file,label,split\nscans/000.png,ill,\nscans/001.png,well,train\n", "an empty cell"),
    ],
)
def test_tables_that_are_none(scans: Path, content: bytes, words: str) -> None:
    (scans / "t.csv").write_bytes(content)
    assert words in refused(scans / "t.csv")


def test_other_files_are_no_tables(scans: Path) -> None:
    assert "does not exist" in refused(scans / "gone.csv")
    (scans / "t.xlsx").write_bytes(b"PK\3\4")
    assert ".csv" in refused(scans / "t.xlsx", format="table")
    write_table(scans / "t.csv", rows())
    assert "is no folder" in refused(scans / "t.csv", images=str(scans / "gone"))


def test_without_pyarrow(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (scans / "t.parquet").write_bytes(b"PAR1")
    assert "pip install" in refused(scans / "t.parquet")


def test_a_cell_of_ten_gigabytes_is_not_read(scans: Path) -> None:
    (scans / "t.csv").write_bytes(b'file,label\n"' + b"x" * (3 << 20) + b'",ill\n')
    assert "line" in refused(scans / "t.csv")


def test_a_split_that_is_given(scans: Path) -> None:
    split = ["train"] * 14 + ["val"] * 4 + ["test"] * 6
    table = write_table(scans / "t.csv", rows(split=lambda i: split[i].title()))
    data = load(table)
    assert {str(f): int((data.folds == f).sum()) for f in ("train", "val", "test")} == {
        "train": 14,
        "val": 4,
        "test": 6,
    }
    assert "own test images" in refused(table, UsageError, test_fraction=0.3)
    carved = load(table, val_fraction=0.4)
    assert (carved.folds == "test").sum() == 6
    assert abs((carved.folds == "val").sum() - 0.4 * 18) <= 2


def test_empty_cells_of_programs_tell_no_patient(scans: Path) -> None:
    """R writes NA; as one patient, all these images would lie in one fold."""
    cells = ["NA", "", "NaN", "N/A", "null"]
    table = write_table(scans / "t.csv", rows(patient=lambda i: cells[i] if i < 5 else i // 2))
    read = listing(table)
    assert [is_patient(r.patient) for r in read.records] == [False] * 5 + [True] * (N - 5)
    assert any("5 of 24 file names tell no patient" in note for note in load(table).notes)


def test_a_patient_in_two_folds_of_a_given_split(scans: Path) -> None:
    split = ["train"] * 14 + ["val"] * 4 + ["test"] * 6
    table = write_table(scans / "t.csv", rows(split=lambda i: split[i], patient=lambda i: 3 if i == 20 else i))
    data = load(table)
    assert any("1 patient lies in two folds" in note and "patient-3" in note for note in data.notes)
    assert "patient-3" in refused(table, strict=True)


def test_a_class_that_a_fold_lacks(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(split=lambda i: "test" if i in (1, 2) else "train"))
    config = DataConfig(path=str(table), image_size=16)
    with pytest.raises(BalancerError, match=r"test holds .*0 "):
        load_dataset(config, require=("train", "val", "test"))


def test_a_label_that_occurs_once(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows(label=lambda i: "rare" if i == 4 else "ill" if i % 3 else "well"))
    message = refused(table)
    assert "rare 1 of 1 images" in message
    assert "--classes" in message
    assert load(table, classes="ill,well").classes == ("ill", "well")


def test_a_changed_label_changes_the_hashes(scans: Path) -> None:
    table = write_table(scans / "t.csv", rows())
    first = load(table)
    swapped = rows(label=lambda i: {0: "ill", 1: "well"}.get(i, "ill" if i % 3 else "well"))
    second = load(write_table(scans / "t.csv", swapped))
    assert first.fingerprint != second.fingerprint
    assert first.split_hash != second.split_hash


def test_damaged_and_mixed_files(scans: Path) -> None:
    (scans / "scans" / "001.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(scans / "scans" / "002.png")
    table = write_table(scans / "t.csv", rows())
    data = load(table, max_bad=0.1)
    assert [name for name, _ in data.bad] == ["scans/001.png"]
    assert len(data.records) == N - 1


CELL = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.sampled_from(",;\t|"), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, cells: list, delimiter: str, bom: bool
) -> None:
    """Whatever a cell holds, the standard writer and this reader agree, but for blanks around a cell."""
    file = tmp_path_factory.mktemp("cells") / "t.csv"
    with file.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as handle:
        writer = csv.writer(handle, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["one", "two"])
        writer.writerows(cells)
    read = list(read_spreadsheet(file).rows)
    assert read == [[a.strip(), b.strip()] for a, b in cells if a.strip() or b.strip()]


def test_near_duplicates_are_not_looked_for_where_a_split_is_given(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "near_groups", lambda *_: pytest.fail("looked for"))
    load(write_table(scans / "t.csv", rows(split=lambda i: ("train", "val", "test")[i // 8])))
