"""Images of another generator: copied as the data set's images are read, described honestly, refused on a leak."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK_REPORT, balancer, done, refused
from dicoms import dicom
from dicoms import write as write_dicom
from PIL import Image

from balancer.core.settings import DataConfig, ImportConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.manifest import MANIFEST_COLUMNS, ORIGIN_COLUMNS, read_manifest
from balancer.importing import configure, open_inputs

SIZE = 16
DATA = ["--image-size", SIZE, *QUICK_REPORT]


def generated(folder: Path, n: int = 8, side: int = 24, seed: int = 1) -> Path:
    """A folder of noise, as another generator writes its images."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"seed{20 - i}.png")
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def data(chest: Path) -> Dataset:
    return load_dataset(DataConfig(path=str(chest), image_size=SIZE))


@pytest.fixture(scope="module")
def imported(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    (root / "weights.pkl").write_bytes(b"weights")
    words = ("--class", "normal", "--data", chest, "--generator", "StyleGAN3", "--checkpoint", root / "weights.pkl")
    done(balancer("import", generated(root / "out"), *words, *DATA, "--out", root / "run"))
    return root / "run"


def test_the_manifest_says_where_each_image_comes_from(imported: Path, data: Dataset) -> None:
    listed = rows(imported / "manifest.csv")
    assert tuple(listed[0]) == (*MANIFEST_COLUMNS, *ORIGIN_COLUMNS)
    assert [int(row["seed"]) for row in listed] == list(range(13, 21)), "by name, numbers by their value"
    assert [row["index"] for row in listed] == [str(i) for i in range(8)]
    for row in listed:
        assert row["source"] == f"seed{row['seed']}.png"
        source, copy = imported.parent / "out" / row["source"], imported / row["file"]
        assert row["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert row["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert (row["class"], row["split_hash"]) == ("NORMAL", data.split_hash)
        with Image.open(source) as image, Image.open(copy) as own:
            assert (own.format, own.mode, own.size) == ("PNG", "L", (SIZE, SIZE))
            reduced = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(reduced, int) - np.asarray(own, int)).max() <= 1
    assert len(read_manifest(imported)) == 8


def test_the_training_fold_is_written_down(imported: Path, data: Dataset, chest: Path, tmp_path: Path) -> None:
    fold = rows(imported / "training_fold.csv")
    assert {row["name"] for row in fold} == {data.records[i].name for i in data.indices("train")}
    for row in fold:
        assert row["sha256"] == hashlib.sha256((chest / row["name"]).read_bytes()).hexdigest()
        assert row["class"] == row["name"].split("/")[1]
    said = done(balancer("inspect", chest, "--training-fold", tmp_path / "fold.csv"))
    assert data.split_hash in said.stdout
    assert (tmp_path / "fold.csv").read_bytes() == (imported / "training_fold.csv").read_bytes()
    refused(balancer("inspect", chest, "--training-fold", tmp_path / "fold.csv"), 1, "--training-fold")
    refused(balancer("inspect", chest, "--training-fold", tmp_path / "fold.csv/x"), 1, "--training-fold")


def test_the_report_claims_nothing_about_the_generator(imported: Path, data: Dataset) -> None:
    report = json.loads((imported / "report.json").read_text())
    checkpoint = hashlib.sha256(b"weights").hexdigest()
    assert report["imported"] == {
        "folder": str(imported.parent / "out"),
        "generator": "StyleGAN3",
        "checkpoint_sha256": checkpoint,
    }
    assert "gan_run" not in report
    page, sheet = (imported / "report.md").read_text(), (imported / "DATASHEET.md").read_text()
    for text in (page, sheet):
        for fact in ("StyleGAN3", checkpoint, "training_fold.csv", data.split_hash):
            assert fact in text
        assert "It saw no validation or test image" not in text
        assert "--split-of" in text
        assert "8 of 8 files" in text


def test_runs_know_it(imported: Path) -> None:
    assert "report.html" in done(balancer("runs", "show", imported)).stdout
    assert "classifier ablate --synthetic" in done(balancer("runs", "show", imported)).stdout
    assert "finished already" in done(balancer("import", "--resume", imported)).stdout
    refused(balancer("import", "elsewhere", "--resume", imported), 1, "folder")


def test_the_split_of_a_run_is_taken(gan_run: Path, chest: Path, tmp_path: Path, data: Dataset) -> None:
    explicit = {"folder": str(generated(tmp_path / "out")), "target_class": "NORMAL", "split_of": str(gan_run)}
    config = configure(explicit)
    assert config.data == DataConfig(path=str(chest), image_size=SIZE)
    inputs = open_inputs(config)
    assert inputs.data.split_hash == data.split_hash
    assert not any("just now" in note for note in inputs.data.notes)
    other = configure({**explicit, "data": {"split_seed": 1}})
    refusal = balancer("import", tmp_path / "out", "--class", "NORMAL", "--split-of", gan_run, "--split-seed", 1)
    refused(refusal, 1, data.split_hash, "--split-of")
    assert other.data.split_seed == 1


def test_the_split_of_a_file_is_taken(chest: Path, tmp_path: Path) -> None:
    fold, out = tmp_path / "fold.csv", generated(tmp_path / "out")
    done(balancer("inspect", chest, "--training-fold", fold, "--image-size", SIZE))
    words = ("import", out, "--class", "NORMAL", "--data", chest, *DATA, "--split-of", fold)
    said = done(balancer(*words, "--dry-run"))
    assert "just now" not in said.stderr
    refused(balancer(*words, "--split-seed", 1), 1, "fold.csv", str(chest))
    fold.write_text(fold.read_text().replace("NORMAL", "NORMLA", 1))
    refused(balancer(*words), 1, "fold.csv")
    fold.with_name("fold.csv.sha256").unlink()
    refused(balancer(*words), 1, "of which 1 are not")
    fold.write_text("name,sha256\na,b\n")
    refused(balancer(*words), 1, "fold.csv", "patient")


def test_the_newest_run_gives_data_and_split(gan_run: Path, runs_cwd: Path) -> None:
    shutil.copytree(gan_run, runs_cwd / "runs/gan-train/first")
    assert configure({"folder": "out"}).split_of == str(runs_cwd / "runs/gan-train/first")
    named = configure({"folder": "out", "data": {"path": "phantom"}})
    assert (named.split_of, named.data.path) == (None, "phantom")


def broken(folder: Path, data: Dataset, how: str) -> None:
    """Make one thing wrong with a folder of images."""
    test, val = (data.files(data.indices(fold))[0] for fold in ("test", "val"))
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "small":
        Image.new("L", (12, 40), 9).save(folder / "small.png")
    elif how == "equal":
        for i in range(3):
            shutil.copy(folder / "seed20.png", folder / f"twice{i}.png")
    elif how == "a file of test":
        shutil.copy(test, folder / "copy.png")
    elif how == "pixels of test":
        with Image.open(test) as image:
            image.convert("RGB").save(folder / "copy.bmp")
    elif how == "validation":
        shutil.copy(val, folder / "copy.png")
    elif how == "damaged":
        (folder / "cut.png").write_bytes((folder / "seed20.png").read_bytes()[:300])


@pytest.mark.parametrize(
    ("how", "phrases"),
    [
        ("empty", ("out", "holds no image")),
        ("small", ("small.png", "12 x 40", "--image-size 12")),
        ("equal", ("3 of 11", "--max-bad", "seed20.png")),
        ("a file of test", ("1 of 9", "test images", "copy.png", "--training-fold")),
        ("pixels of test", ("1 of 9", "test images", "copy.bmp")),
        ("validation", ("1 of 9", "validation images", "copy.png")),
        ("damaged", ("1 of 9", "cut.png", "--max-bad")),
    ],
)
def test_images_that_no_study_can_use(
    how: str, phrases: tuple[str, ...], chest: Path, data: Dataset, tmp_path: Path
) -> None:
    broken(generated(tmp_path / "out"), data, how)
    words = ("import", tmp_path / "out", "--class", "NORMAL", "--data", chest, *DATA, "--out", tmp_path / "run")
    refused(balancer(*words), 1, *phrases)
    assert not (tmp_path / "run").exists()


def test_words_that_name_nothing(chest: Path, tmp_path: Path) -> None:
    out = generated(tmp_path / "out")
    (tmp_path / "kinds/NORMLA").mkdir(parents=True)
    shutil.copy(out / "seed20.png", tmp_path / "kinds/NORMLA/a.png")
    for words, code, phrases in (
        ((), 2, ("DIR",)),
        ((out, "--class", "NORMLA"), 2, ("NORMLA", "did you mean 'NORMAL'")),
        ((out, "--class", "PNEUMONIA"), 2, ("PNEUMONIA", "NORMAL", "balancer evaluate")),
        ((out,), 2, ("--class NORMAL",)),
        ((tmp_path / "kinds",), 2, ("NORMLA", "did you mean 'NORMAL'")),
        ((tmp_path / "none", "--class", "NORMAL"), 1, ("none", "does not exist")),
        ((chest / "train", "--class", "NORMAL"), 1, ("holds 84 images", str(chest))),
        ((out, "--class", "NORMAL", "--checkpoint", tmp_path / "w.pkl"), 1, ("--checkpoint", "w.pkl")),
        ((out, "--class", "NORMAL", "--split-of", out), 1, ("out", "no run")),
        ((out, "--class", "NORMAL", "--out", out / "run"), 1, ("--out",)),
    ):
        refused(balancer("import", *words, "--data", chest, *DATA), code, *phrases)


def test_what_a_reader_must_know(chest: Path, tmp_path: Path) -> None:
    folder = generated(tmp_path / "out", 30)
    with Image.open(folder / "seed20.png") as image:
        image.resize((32, 24)).save(folder / "wide.png")
    with Image.open(sorted((chest / "test/NORMAL").glob("*.png"))[0]) as real:
        lighter = np.asarray(real, int) * 0.9 + 12
    Image.fromarray(lighter.astype(np.uint8)).save(folder / "like.png")
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / "red.png")
    shutil.copy(folder / "seed20.png", folder / "twice.png")
    (folder / "notes.txt").write_text("truncation 0.7")
    (folder / "cut.png").write_bytes((folder / "seed20.png").read_bytes()[:300])
    config = ImportConfig(
        data=DataConfig(path=str(chest), image_size=SIZE, max_bad=0.1), folder=str(folder), target_class="NORMAL"
    )
    inputs = open_inputs(config)
    notes = " ".join(inputs.data.notes)
    for fact in (
        "2 of 35 images are not of 24 x 24 px, such as like.png (40 x 32 px)",
        "1 of 35 images are coloured and were read as grey, as the real images are (red.png)",
        "1 of 35 images could not be read and were left out (cut.png)",
        "left out: 1 .txt",
        "1 of 34 images equal another one at the working size and were left out: twice.png",
        "1 of 33 images are near copies of real test images, such as like.png of test/NORMAL/",
    ):
        assert fact in notes, notes
    assert inputs.counts() == {"NORMAL": 33}
    assert "synthetic-count all" not in notes, "33 images fill up the class"
    assert "--synthetic-count all" in " ".join(open_inputs(config.model_copy(update={"n": 10})).data.notes)


def test_dicom_files_are_read_by_the_rules_of_the_data(chest: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 4096, (SIZE, SIZE), dtype=np.uint16)
        write_dicom(dicom(pixels, 12, WindowCenter=100, WindowWidth=50), tmp_path / "out" / f"{i}.dcm")
    for window, bright in (("auto", 0.9), ("full", 0.5)):
        real = DataConfig(path=str(chest), image_size=SIZE, window=window)
        (part,) = open_inputs(ImportConfig(data=real, folder=str(tmp_path / "out"), target_class="NORMAL")).classes
        assert abs(part.images.mean() / 255 - bright) < 0.1


def test_a_folder_for_each_class(chest: Path, tmp_path: Path) -> None:
    for name, seed in (("normal", 1), ("VIRAL", 2)):
        generated(tmp_path / "out" / name, 5, seed=seed)
    (tmp_path / "out/logs").mkdir()
    (tmp_path / "out/logs/train.txt").write_text("loss")
    (tmp_path / "out/readme.md").write_text("made by hand")
    words = ("import", tmp_path / "out", "--data", chest, "--task", "multiclass", *DATA, "--out", tmp_path / "run")
    said = json.loads(done(balancer(*words, "--dry-run", "--json")).stdout)
    assert said["data"]["imported"] == {"NORMAL": 5, "VIRAL": 5}
    assert not (tmp_path / "run").exists()
    done(balancer(*words))
    listed = rows(tmp_path / "run/manifest.csv")
    assert [row["class"] for row in listed] == ["NORMAL"] * 5 + ["VIRAL"] * 5
    assert {row["source"] for row in listed} == {f"seed{i}.png" for i in range(16, 21)}
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert (report["n"], list(report["classes"]), report["imported"]["generator"]) == (10, ["NORMAL", "VIRAL"], None)
    assert "logs" in " ".join(report["data"]["notes"])
    assert (tmp_path / "run/reports/VIRAL/DATASHEET.md").exists()
