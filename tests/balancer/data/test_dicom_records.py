"""Patients and sources of DICOM files; and that nothing of a header comes out."""

import json
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from commands import QUICK_REPORT, TINY_GAN, balancer, done, sets
from dicoms import SECRETS, content, dicom, write
from layouts import write_table
from pydicom import Dataset

from balancer.core.errors import BalancerError
from balancer.core.settings import DataConfig
from balancer.data import decoded as decoded_module
from balancer.data import dicom_files
from balancer.data.dataset import Dataset as Data
from balancer.data.dataset import load_dataset, read_data
from balancer.data.image_folder import decode_folder, scan_folder
from balancer.data.inspection import inspect
from balancer.data.listing import Listing
from balancer.data.records import is_patient
from balancer.evaluation import describe_folder

SIDE = 16
CLASSES = ("ill", "well")


def samples(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 4096, (SIDE, SIDE), dtype=np.uint16)


def picture(i: int, **elements: object) -> Dataset:
    return dicom(samples(i), 12, **elements)


def export(root: Path, ids: list[str], **elements: object) -> Path:
    """A PACS export: files without suffix in two class folders, image i of the patient ids[i]."""
    one_file = content(dicom(samples(0), 12, PatientID="I" * 16, **elements))
    for i, one in enumerate(ids):  # as bytes, since pydicom takes long to write
        file = root / CLASSES[i % 2] / f"IM{i:05d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = one_file.replace(b"I" * 16, one.ljust(16).encode())
        file.write_bytes(whole.replace(samples(0).tobytes(), samples(i).tobytes()))
    return root


def load(path: Path, **settings: object) -> Data:
    return load_dataset(DataConfig.model_validate({"path": str(path), "image_size": SIDE, **settings}))


def listed(path: Path, **settings: object) -> Listing:
    """What is known before an image is decoded."""
    return read_data(DataConfig.model_validate({"path": str(path), **settings}))


def said(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


IDS = [f"{7000 + k // 4}" for k in range(40)]  # ten patients, each in both classes


def test_patients_are_those_of_the_headers_and_stay_in_one_fold(tmp_path: Path) -> None:
    data = load(export(tmp_path, IDS))
    number = {record.name: IDS[int(record.name[-5:])] for record in data.records}
    keys = defaultdict(set)
    for record, fold in zip(data.records, data.folds, strict=True):
        keys[number[record.name]].add((record.patient, str(fold)))
        assert is_patient(record.patient)
    assert all(len(of) == 1 for of in keys.values()), "one key and one fold for a patient"
    assert len({key for of in keys.values() for key, _ in of}) == 10


def test_keys_and_splits_tell_nothing_of_the_numbers(tmp_path: Path) -> None:
    """Another hospital's numbers for the same patients give the same keys and folds, so no number can be tried."""
    one = load(export(tmp_path / "one", IDS))
    other = load(export(tmp_path / "other", [f"X-{int(n) * 31 % 977}" for n in IDS]))
    assert [r.patient for r in one.records] == [r.patient for r in other.records]
    assert np.array_equal(one.folds, other.folds)
    again = load(tmp_path / "one")  # by the cache
    assert [r.patient for r in again.records] == [r.patient for r in one.records]
    assert again.split_hash == one.split_hash


def test_files_that_are_added_change_no_other_key(tmp_path: Path) -> None:
    """A key is of the first name, whatever the order in which files are read: it changes if an earlier name comes."""
    before = {r.name: r.patient for r in listed(export(tmp_path, IDS)).records}
    write(picture(90, PatientID=IDS[0]), tmp_path / "well" / "IM90000")
    write(picture(91, PatientID="new"), tmp_path / "ill" / "IM91000")
    later = {r.name: r.patient for r in listed(tmp_path).records}
    assert before.items() <= later.items()
    assert later["well/IM90000"] == before["ill/IM00000"]
    assert later["ill/IM91000"] not in before.values()
    write(picture(92, PatientID=IDS[0]), tmp_path / "ill" / "A0000")
    last = {r.name: r.patient for r in listed(tmp_path).records}
    changed = {name for name in before if last[name] != before[name]}
    assert changed == {name for name in before if before[name] == before["ill/IM00000"]}


@pytest.mark.parametrize(
    ("ids", "known", "note"),
    [
        (["", *IDS[1:]], 39, "1 of 40"),
        (["ANONYMOUS"] * 20 + IDS[:20], 20, "20 of 40"),
        (["0000"] * 3 + IDS[3:], 37, "3 of 40"),
        (["A-1"] * 40, 0, "one and the same"),
        (["A-1"] * 25 + IDS[25:], 40, "25 of 40"),
    ],
    ids=["an empty one", "anonymous", "zeros", "one for all", "one for most"],
)
def test_numbers_that_name_nobody(tmp_path: Path, ids: list[str], known: int, note: str) -> None:
    data = listed(export(tmp_path, ids))
    assert sum(is_patient(r.patient) for r in data.records) == known
    assert any(note in text and "PatientID" in text for text in data.notes)
    assert "A-1" not in " ".join(data.notes)


def test_a_number_after_a_placeholder_is_a_number(tmp_path: Path) -> None:
    """Programs that anonymise well write anon0001 and so on."""
    data = listed(export(tmp_path, [f"anon{n}" for n in IDS]))
    assert len({r.patient for r in data.records}) == 10


def test_settings_come_before_the_headers(tmp_path: Path) -> None:
    data = listed(export(tmp_path, IDS), patient_pattern=r"(?P<patient>IM000\d)")
    assert {r.patient for r in data.records} == {f"patient-IM000{k}" for k in range(4)}


def test_a_table_of_dicom_files(tmp_path: Path) -> None:
    export(tmp_path, IDS)
    rows = [{"file": f"{CLASSES[i % 2]}/IM{i:05d}", "label": "no" if i % 3 else "yes"} for i in range(40)]
    by_header = listed(write_table(tmp_path / "a.csv", rows))
    assert len({r.patient for r in by_header.records}) == 10
    of_table = [{**row, "patient": f"p{i % 8}"} for i, row in enumerate(rows)]
    by_table = listed(write_table(tmp_path / "b.csv", of_table))
    assert {r.patient for r in by_table.records} == {f"patient-p{k}" for k in range(8)}


def test_a_table_of_dicom_files_leads_nowhere_else(tmp_path: Path) -> None:
    export(tmp_path / "data", IDS)
    write(picture(99), tmp_path / "elsewhere.dcm")
    rows = [{"file": f"{CLASSES[i % 2]}/IM{i:05d}", "label": CLASSES[i % 2]} for i in range(40)]
    for way in ("../elsewhere.dcm", str(tmp_path / "elsewhere.dcm")):
        table = write_table(tmp_path / "data" / "list.csv", [*rows, {"file": way, "label": "ill"}])
        with pytest.raises(BalancerError) as caught:
            listed(table)
        assert "--images" in said(caught)
    shown = inspect(DataConfig(path=str(write_table(table, [{"scan": "a/b.dcm", "x": r["label"]} for r in rows]))))
    assert shown.columns["path"] == "scan", "a column of DICOM files is known by its suffixes"
    assert shown.exit_code == 1
    assert "--columns path=" in shown.problem
    assert "--images" not in shown.problem, "files are there"


def test_names_of_exporting_programs_are_no_patients_of_the_chest_set(tmp_path: Path) -> None:
    """Such names number series and images: IM-0001-0001 would be one patient of the chest set."""
    for i in range(48):
        split, cls = ("train", "train", "test")[i % 3], ("NORMAL", "PNEUMONIA")[i // 3 % 2]
        write(picture(i, PatientID=f"P{i // 6}"), tmp_path / split / cls / f"IM-0001-{i:04d}.dcm")
    data = load(tmp_path)
    assert data.reader == "chest"
    assert len({r.patient for r in data.records}) == 8
    assert any("patients lie in two folds" in note for note in data.notes)


def test_a_dry_run_names_what_a_run_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By headers and lengths: only some of the files are decoded."""
    export(tmp_path, [str(i) for i in range(20)])
    whole = content(picture(0))
    bad = {
        "empty": b"",
        "frames": content(dicom(np.zeros((2, SIDE, SIDE), np.uint8), NumberOfFrames=2)),
        "cut": whole[:-100],
        "claims": content(picture(0, Rows=12_000, Columns=14_000, NumberOfFrames=30)),
        "pixels": content(without_pixels(picture(0))),
    }
    for name, of in bad.items():
        (tmp_path / "ill" / f"{name}.dcm").write_bytes(of)
    (tmp_path / "ill" / "locked.dcm").write_bytes(b"\x30\x82" + bytes(500))
    decoded = []
    real = decoded_module.decode_image
    monkeypatch.setattr(decoded_module, "DECODED", 5)
    monkeypatch.setattr(decoded_module, "decode_image", lambda *a: [decoded.append(a[0]), real(*a)][1])
    config = DataConfig(path=str(tmp_path), image_size=SIDE, max_bad=0.5)
    dry = load_dataset(config, decode=False)
    assert dry.undecoded
    assert len(decoded) < 10
    run = load_dataset(config)
    assert dict(dry.bad) == dict(run.bad)
    assert {Path(name).stem for name, _ in run.bad} == set(bad) - {"empty"}
    assert {Path(item.name).stem for item in dry.left_out} == {"empty", "locked"}
    with pytest.raises(BalancerError, match="max-bad"):
        load_dataset(config.model_copy(update={"max_bad": 0.01}), decode=False)


def test_a_folder_of_no_layout_knows_patients_by_the_headers(tmp_path: Path) -> None:
    """As `balancer evaluate` reads it. IM-0001-0001 would be a patient of the chest set."""
    for i in range(12):
        file = tmp_path / ("a", "b")[i % 2] / f"IM-0001-{i:04d}"
        write(picture(i, PatientID="" if i == 11 else f"P{i // 3}"), file)
    folder = decode_folder(scan_folder("--real", tmp_path), SIDE, "squash", 0.0)
    assert (len(set(folder.groups)), folder.named, folder.by_header) == (4 + 1, 0, 11)
    assert "5 patients (read off 11 DICOM headers)" in describe_folder("real", folder)


def without_pixels(ds: Dataset) -> Dataset:
    del ds.PixelData
    return ds


def test_sources(tmp_path: Path) -> None:
    for i in range(24):
        maker = ("Agfa", "GE MEDICAL SYSTEMS")[i % 4 // 2]
        ds = picture(i, PatientID=str(i), Manufacturer=maker, ManufacturerModelName=f"{maker} X1", StudyDate="20190327")
        write(ds, tmp_path / CLASSES[i % 2] / f"{i}.dcm")
    for chosen, sources in {
        "model": {"Agfa X1", "GE MEDICAL SYSTEMS X1"},
        "manufacturer": {"Agfa", "GE MEDICAL SYSTEMS"},
        "year": {"2019"},
        "none": {""},
    }.items():
        assert {r.source for r in listed(tmp_path, dicom_source=chosen).records} == sources
    held = load(tmp_path, split_by="source", dicom_source="manufacturer")
    assert len({r.source for r, fold in zip(held.records, held.folds, strict=True) if fold == "test"}) == 1


def test_what_is_no_picture_is_left_out_and_named(tmp_path: Path) -> None:
    export(tmp_path, IDS)
    report = picture(99, PatientID="7000")
    for keyword in ("PixelData", "Rows", "Columns"):
        del report[keyword]
    write(report, tmp_path / "ill" / "SR00001")
    write(picture(98), tmp_path / "DICOMDIR")
    write(picture(97), tmp_path / "well" / "DICOMDIR")
    (tmp_path / "ill" / "locked.dcm").write_bytes(b"\x30\x82" + bytes(500))
    data = listed(tmp_path)
    reasons = {item.name: item.reason for item in data.left_out}
    assert set(reasons) == {"ill/SR00001", "DICOMDIR", "well/DICOMDIR", "ill/locked.dcm"}
    assert "picture" in reasons["ill/SR00001"]
    assert "index" in reasons["well/DICOMDIR"]
    assert "encrypted" in reasons["ill/locked.dcm"]
    assert len(data.records) == 40


def test_folders_of_patients_studies_and_series(tmp_path: Path) -> None:
    """As an archive exports them; a patient has two studies."""
    for i, one in enumerate(IDS):
        file = tmp_path / CLASSES[i % 2] / f"PAT{one}" / f"ST{i % 3}" / "SE1" / f"IM{i:05d}"
        write(picture(i, PatientID=one), file)
    write(picture(98), tmp_path / "ill" / "DICOMDIR")
    (tmp_path / "ill" / "DICOMDIR").rename(tmp_path / "ill" / f"PAT{IDS[0]}" / "DICOMDIR")
    data = listed(tmp_path)
    assert (len(data.records), len({r.patient for r in data.records})) == (40, 10)
    assert [item.name for item in data.left_out] == [f"ill/PAT{IDS[0]}/DICOMDIR"]


def test_without_the_extra_files_are_left_out_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path, IDS)
    monkeypatch.setattr(dicom_files, "can_read", lambda: False)
    with pytest.raises(BalancerError) as caught:
        listed(tmp_path)
    assert "[dicom]" in said(caught)


def test_inspect_names_depth_and_goes_on_with_the_same_rules(tmp_path: Path) -> None:
    export(tmp_path, IDS, Manufacturer="Agfa")
    result = inspect(DataConfig(path=str(tmp_path), image_size=SIDE, window="full"))
    assert result.pictures is not None
    assert list(result.pictures.stored) == ["DICOM, 12-bit grey"]
    assert result.sources == {"Agfa": 40}
    assert any("--set data.window=full" in line for line in result.next)


def secrets(extra: set[str]) -> list[bytes]:
    words = {*SECRETS.values(), *extra, "Mustermann", "Erika", "Frankenstein", "27.03.2019", "2019-03-27"}
    return [word.encode() for word in words]


def hidden_in(folder: Path, words: list[bytes], but: str) -> list[tuple[str, bytes]]:
    """The files below a folder, but for one part of it, that hold one of some words, by content or by name."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] != but]
    return [
        (str(f), w) for f in files for w in words if w in f.read_bytes() or w.decode() in str(f.relative_to(folder))
    ]


def confidential(root: Path, n: int) -> list[bytes]:
    """Files whose headers are full of what must not come out, one of them cut off; and these words."""
    uids = set()
    for i in range(n):
        values = SECRETS | {"PatientID": f"{SECRETS['PatientID']}-{i // 3}"}
        ds = picture(i, **values, Manufacturer="Agfa", RescaleSlope=1, RescaleIntercept=0)
        ds.StudyInstanceUID = ds.SOPInstanceUID
        ds.add_new(0x00091001, "LO", "Mustermann^Erika")  # a private element
        ds.add_new(0x00081030, "UI", "Erika.Mustermann")  # a value that pydicom warns of, and quotes
        uids.add(str(ds.SOPInstanceUID))
        file = write(ds, root / CLASSES[i % 2] / f"IM{i:05d}")
        if i == 7:
            file.write_bytes(file.read_bytes()[:-200])
    return secrets(uids)


def come_out(results: list[Result], words: list[bytes]) -> list[bytes]:
    texts = [(result.stdout + result.stderr).encode() for result in results]
    assert all(texts)
    return [word for word in words for text in texts if word in text]


def test_nothing_of_a_header_comes_out(
    runs_cwd: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither what is printed and logged, nor the split, nor the cache hold a name, a number, a date or a UID."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("BALANCER_CACHE", str(runs_cwd / "cache"))
    words = confidential(runs_cwd / "data", 32)
    given = ["--data", "data", "--image-size", SIDE, "-v", "--max-bad", 0.5]
    results = [balancer("inspect", "data", "--json"), balancer("inspect", *given[1:])]
    assert not come_out([*results, balancer("gan-train", *given, "--batch-size", 8, "--dry-run")], words)
    load("data", max_bad=0.5).write_split(runs_cwd / "split.csv")
    assert not [word for word in words if word in caplog.text.encode()]
    assert not [w for w in recwarn.list if any(word in str(w.message).encode() for word in words)]
    assert not hidden_in(runs_cwd, words, "data")
    assert json.loads(next((runs_cwd / "cache" / "headers").glob("*.json")).read_text())


def classifier(*arguments: object) -> Result:
    from classifier.cli import main

    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.nightly
@pytest.mark.slow
def test_nothing_of_a_header_is_in_a_run(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(runs_cwd / "cache"))
    words = confidential(runs_cwd / "data", 60)
    given = ["--data", "data", "--image-size", SIDE, "-v", "--max-bad", 0.5]
    tiny = ["--steps", 4, "--batch-size", 8, *sets(evaluations=1, bn_statistics="running")]
    results = [
        balancer("audit", *given),
        balancer("gan-train", *given, *TINY_GAN[4:], "--batch-size", 8, "--steps", 2),
        balancer("synthesize", *QUICK_REPORT, "--n", 8),
        classifier("ablate", "-v", *tiny, "--seeds", 1, "--regimes", "baseline,gan"),
        classifier("train", *given, *tiny, "--out", "model"),
        classifier("evaluate", "model", "-v"),
        classifier("predict", "model", "data/ill", "data/well/IM00001", "-v", "--out", "predictions.csv"),
        classifier("explain", "model", "data/ill", "-v", "--out", "maps"),
        balancer("evaluate", "--real", "data", "--fake", next(runs_cwd.glob("runs/synthesize/*")), *QUICK_REPORT[:2]),
    ]
    assert not come_out([done(result) for result in results], words)
    assert len(list((runs_cwd / "runs").rglob("split.csv"))) == 2
    assert not hidden_in(runs_cwd, words, "data")
