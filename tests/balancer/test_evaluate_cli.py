"""`balancer evaluate` as a user types it: any two folders, and one clear line where there is nothing to compare."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import QUICK_REPORT, balancer, done, refused, words
from PIL import Image
from planted import fields

from balancer import evaluation
from balancer.core.errors import BalancerError
from balancer.core.sealed import read_json, write_with_sum
from balancer.core.settings import EvaluateConfig
from balancer.data.dataset import PHANTOM_NOTICE
from balancer.data.manifest import MANIFEST_COLUMNS

SIZE = 24


def write(folder: Path, images: np.ndarray, name: str = "image_{:03d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(i))
    return folder


@pytest.fixture
def real(runs_cwd: Path) -> Path:
    return write(runs_cwd / "real", fields(20, 1, SIZE))


@pytest.fixture
def fake(runs_cwd: Path) -> Path:
    return write(runs_cwd / "fake", fields(16, 2, SIZE))


def report_of(*args: object, out: str = "out") -> dict[str, Any]:
    done(balancer("evaluate", *QUICK_REPORT, *args, "--out", out))
    return dict(json.loads(Path(out, "report.json").read_text()))


def test_a_complete_run(real: Path, fake: Path, runs_cwd: Path, five_pixel_steps: None) -> None:
    settings = ["--inception-weights", "off", "--set", "kid_subsets=2", "--set", "kid_subset_size=4"]
    result = done(balancer("evaluate", "--real", real, "--fake", fake, *settings, "--json"))
    content = json.loads(result.stdout)
    run = Path(content["run"])
    assert run.parent == Path("runs/evaluate")
    assert {p.name for p in run.iterdir()} == words(
        "config.yaml env.json log.txt report.json report.md report.html grid.png closest.png spectrum.png done"
    )
    report = read_json(run / "report.json")
    assert content == {"run": str(run), **report}
    assert report["data"]["counts"] == {"real": 20, "fake": 16}
    assert report["data"]["image_size"] == SIZE
    assert report["quality"]["memorization"]["status"] == "none"
    assert {t["on"] for t in report["quality"]["two_sample"]} == {"random-conv-128", "pixels", "pixels at half size"}
    assert report["quality"]["verdict"] in (run / "report.md").read_text()
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    env, config = json.loads((run / "env.json").read_text()), yaml.safe_load((run / "config.yaml").read_text())
    assert env["command"] == "evaluate"
    assert (config["real"], config["fake"]) == (str(real), str(fake))
    assert "training images were not given" in page
    assert "each image counts by itself" in page


def test_the_same_seed_gives_the_same_report(real: Path, fake: Path, runs_cwd: Path) -> None:
    first, again = (report_of("--real", real, "--fake", fake, out=out) for out in ("a", "b"))
    assert first["quality"] == again["quality"]
    other = report_of("--real", real, "--fake", fake, "--seed", 1, out="c")
    assert other["quality"]["distances"] != first["quality"]["distances"]


@pytest.mark.parametrize(
    ("names", "networks"),
    [("image_{}.png", {"random-conv-128"}), ("person{}_virus_3.png", {"chest-xray-128", "random-conv-128"})],
)
def test_the_feature_network(names: str, networks: set[str], fake: Path, runs_cwd: Path) -> None:
    """Folders tell no training fold: chest X-rays are known by their names."""
    real = write(runs_cwd / "real", fields(20, 1, SIZE), names)
    report = report_of("--real", real, "--fake", fake)
    assert {row["features"] for row in report["quality"]["distances"]} == networks
    notes = " ".join(report["quality"]["notes"])
    assert ("features=chest" in notes) == (len(networks) == 1)
    page = Path("out/report.md").read_text()
    assert ("trained on chest X-rays" in page) == (len(networks) == 2)


def test_there_is_no_network_of_two_folders(real: Path, fake: Path) -> None:
    refused(balancer("evaluate", "--real", real, "--fake", fake, "--set", "features=own"), 2, "features is own")


# --- nothing to compare


def test_both_folders_must_be_named(real: Path, runs_cwd: Path) -> None:
    refused(balancer("evaluate", "--real", real), 2, "no --fake", "--real DIR and --fake DIR")
    refused(balancer("evaluate"), 2, "no --real")
    refused(balancer("evaluate", "--real", "", "--fake", real), 2, "--real is empty")
    refused(balancer("evaluate", "--set", "real=' '", "--fake", real), 2, "'real' is empty")


@pytest.mark.parametrize(
    ("make", "phrases"),
    [
        (lambda p: None, ("--fake", "does not exist", "give a folder of images")),
        (lambda p: p.write_text("x"), ("is a file",)),
        (lambda p: p.mkdir(), ("holds no image", "0 damaged, 0 other files")),
        (lambda p: (p.mkdir(), (p / "notes.txt").write_text("x")), ("holds no image", "1 other files")),
        (lambda p: (p.mkdir(), (p / "a.png").write_text("text")), ("holds no image", "1 damaged")),
    ],
)
def test_no_images(make: Any, phrases: tuple[str, ...], real: Path, runs_cwd: Path) -> None:
    make(runs_cwd / "other")
    refused(
        balancer("evaluate", "--real", real, "--fake", "other", *QUICK_REPORT), 1, *phrases, str(runs_cwd / "other")
    )
    assert not (runs_cwd / "runs").exists()


def test_one_real_image(fake: Path, runs_cwd: Path) -> None:
    one = write(runs_cwd / "one", fields(1, 5, SIZE))
    refused(balancer("evaluate", "--real", one, "--fake", fake, *QUICK_REPORT), 1, "holds 1 image", "at least 2")
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_images_give_a_report_with_notes(count: int, fake: Path, runs_cwd: Path, five_pixel_steps: None) -> None:
    few = write(runs_cwd / "few", fields(count, 5, SIZE))
    report = report_of("--real", few, "--fake", fake, "--set", "two_sample=true", "--set", "kid_subset_size=100")
    notes = " ".join(report["quality"]["notes"])
    assert "not 100" in notes
    assert "biases the distance upwards" in notes
    if count > 3:
        assert "No two-sample test" in notes


def test_a_folder_inside_another(real: Path, fake: Path, runs_cwd: Path) -> None:
    inner = write(real / "made", fields(4, 3, SIZE))
    refused(balancer("evaluate", "--real", real, "--fake", inner), 1, f"--fake {inner} lies inside --real {real}")
    refused(balancer("evaluate", "--real", inner, "--fake", real), 1, f"--real {inner} lies inside --fake {real}")
    refused(balancer("evaluate", "--real", real, "--fake", real), 1, "--real and --fake are the same folder")
    refused(balancer("evaluate", "--real", real, "--fake", fake, "--training", fake), 1, "the same folder")
    (runs_cwd / "link").symlink_to(real)
    refused(balancer("evaluate", "--real", "link", "--fake", real), 1, "the same folder")
    shutil.copytree(fake, runs_cwd / "real-2")  # a name that only begins alike is another folder
    done(balancer("evaluate", "--real", fake, "--fake", runs_cwd / "real-2", *QUICK_REPORT, "--dry-run"))


def test_training_images_among_the_held_out_ones(real: Path, fake: Path, runs_cwd: Path) -> None:
    """They are no held-out images: not in a distance, not in the search for memorised patients; and it is said once."""
    training = write(runs_cwd / "training", fields(30, 4, SIZE))
    for i in range(5):
        shutil.copy(training / f"image_{i:03d}.png", real / f"leaked_{i}.png")
    more = write(runs_cwd / "fake", fields(14, 6, SIZE), "more_{:03d}.png")  # more than there are real ones
    report = report_of("--real", real, "--fake", more, "--training", training)
    quality = report["quality"]
    held_out = [r for r in quality["distances"] if r["reference"] == "held-out real images"]
    assert held_out
    assert all(r["n_real"] == 20 for r in held_out)
    assert (quality["memorization"]["n_train"], quality["memorization"]["n_held_out"]) == (30, 20)
    assert report["data"]["counts"] == {"real": 25, "training": 30, "fake": 30}
    assert report["data"]["notes"] == []
    said = [n for n in quality["notes"] if "5 of the 25 images" in n]
    assert len(said) == 1
    assert "left out" in said[0]


def test_a_patient_of_a_shared_image_is_not_held_out(fake: Path, runs_cwd: Path) -> None:
    """Person 3, of whom the training folder holds an image under another name; person 5 there is somebody else."""
    training = write(runs_cwd / "training", fields(10, 4, SIZE), "person{}_virus_1.png")
    held_out = write(runs_cwd / "held_out", fields(4, 5, SIZE), "person3_virus_{}.png")
    write(held_out, fields(12, 7, SIZE)[5:], "person5_virus_{}.png")
    shutil.copy(held_out / "person3_virus_2.png", training / "person77_bacteria_1.png")
    report = report_of("--real", held_out, "--fake", fake, "--training", training)
    assert report["quality"]["memorization"]["n_held_out"] == 0, "one patient is left, too few to compare with"
    held_out_rows = [r for r in report["quality"]["distances"] if r["reference"] == "held-out real images"]
    assert [r["n_real"] for r in held_out_rows] == [7, 7]
    assert report["data"]["notes"] == [
        "1 patient number in both --real and --training; whether the patients are the same is not known."
    ]


def test_nothing_is_held_out_of_equal_folders(real: Path, fake: Path, runs_cwd: Path) -> None:
    training = Path(shutil.copytree(real, runs_cwd / "training"))
    report = report_of("--real", real, "--fake", fake, "--training", training)
    quality = report["quality"]
    assert quality["memorization"]["baseline"] == "training"
    assert quality["memorization"]["membership_auroc"] is None
    assert quality["reference"] == "training images (half the images)"
    assert not [r for r in quality["distances"] if "held-out" in r["reference"]]
    assert any("20 of the 20 images of held-out real images" in n for n in quality["notes"])
    assert any(n.startswith("No held-out images") for n in quality["notes"])
    assert report["about"][1].endswith("Copies were searched for among the training images.")


# --- what is read


def test_stray_files_and_nested_folders(real: Path, fake: Path, runs_cwd: Path) -> None:
    write(real / "more" / "deep", fields(3, 7, SIZE))
    Image.fromarray(fields(1, 8, SIZE)[0]).save(real / "no_suffix", format="PNG")
    for name in ("readme.txt", "labels.csv", "more/model.pt"):
        (real / name).write_text("x")
    write(real / ".hidden", fields(2, 9, SIZE))
    report = report_of("--real", real, "--fake", fake)
    assert report["data"]["counts"]["real"] == 24
    assert report["data"]["ignored_files"] == {"real": 5, "fake": 0}, "hidden files are counted too"


def test_a_text_file_named_png(real: Path, fake: Path, runs_cwd: Path) -> None:
    (fake / "broken.png").write_text("not an image")
    refused(
        balancer("evaluate", "--real", real, "--fake", fake, *QUICK_REPORT),
        1,
        "1 of 17 files",
        "broken.png",
        "--max-bad",
    )
    result = done(
        balancer("evaluate", "--real", real, "--fake", fake, *QUICK_REPORT, "--max-bad", "0.1", "--out", "out")
    )
    assert "left out: " in result.stderr
    report = json.loads((runs_cwd / "out" / "report.json").read_text())
    assert report["data"]["counts"]["fake"] == 16
    assert report["data"]["unreadable"][0][0] == str(fake / "broken.png")
    (note,) = (n for n in report["data"]["notes"] if n.startswith("1 of the synthetic images"))
    assert str(fake / "broken.png") in note


def test_colour(real: Path, runs_cwd: Path) -> None:
    """Coloured images bring all folders to colour, unless grey is asked for; grey stored as RGB is grey."""
    grey = fields(20, 2, SIZE)
    rgb, tinted = np.stack([grey] * 3, axis=-1), np.stack([grey, grey // 2, 255 - grey], axis=-1)
    write(runs_cwd / "rgb", rgb)
    plain = report_of("--real", real, "--fake", "rgb", out="rgb-report")["data"]
    assert (plain["notes"], plain["channels"]) == ([], 1)
    folder = write(runs_cwd / "one", np.concatenate([tinted[:1], rgb[1:]]))
    write(folder, grey[:2], "plain_{}.png")
    data = report_of("--real", real, "--fake", folder, out="one-report")["data"]
    assert data["channels"] == 3
    assert [note.split(" of the ")[0] for note in data["notes"]] == ["All", "21"], "of the real and of the others"
    data = report_of("--real", real, "--fake", folder, "--channels", "1", out="grey-report")["data"]
    (note,) = data["notes"]
    assert "20 of the synthetic images are stored in colour, and 1 of the 20" in note
    assert data["channels"] == 1


# --- sizes


def test_different_sizes_meet_at_the_smallest(fake: Path, runs_cwd: Path) -> None:
    write(runs_cwd / "large", fields(20, 1, 50))
    Image.fromarray(fields(1, 3, 60)[0][:40]).save(runs_cwd / "large" / "wide.png")
    report = report_of("--real", "large", "--fake", fake)
    assert report["data"]["image_size"] == SIZE
    text = " ".join(report["about"])
    assert "21 images of 50 to 60 x 40 to 50 px" in text
    assert "16 images of 24 x 24 px" in text
    assert "Every image was brought to 24 x 24 px, grey. Only the real images had to be reduced" in text
    assert report_of("--real", "large", "--fake", fake, "--image-size", 16, out="small")["data"]["image_size"] == 16


def test_nothing_is_enlarged(real: Path, fake: Path, runs_cwd: Path) -> None:
    args = ("evaluate", "--real", real, "--fake", fake, *QUICK_REPORT)
    refused(balancer(*args, "--image-size", 32), 1, "is 24 x 24 px", "asks for 32", "give --image-size 24 or less")
    refused(balancer(*args, "--image-size", 8), 2, "'image_size'", "8")
    Image.fromarray(fields(1, 3, 12)[0]).save(fake / "thumbnail.png")
    refused(balancer(*args), 1, "thumbnail.png is 12 x 12 px", "at least 16 px", "remove it")


def test_large_images_are_reduced_by_default(runs_cwd: Path) -> None:
    for name, seed in (("real", 1), ("fake", 2)):
        write(runs_cwd / name, fields(4, seed, 300))
    assert report_of("--real", "real", "--fake", "fake")["data"]["image_size"] == evaluation.LARGEST


# --- patients


@pytest.mark.nightly
def test_patients_are_read_off_kaggle_names(fake: Path, runs_cwd: Path) -> None:
    folder = write(runs_cwd / "chest", fields(9, 1, SIZE)[:3], "person7_virus_{}.png")
    write(folder, fields(9, 1, SIZE)[3:6], "NORMAL2-IM-0012-{:04d}.png")
    write(folder, fields(9, 1, SIZE)[6:], "other_{}.png")
    write(folder / "sub", fields(3, 4, SIZE), "other_{}.png")  # equal names in another folder are other images
    report = report_of("--real", folder, "--fake", fake)
    assert report["data"]["patients"]["real"] == 1 + 1 + 3 + 3
    assert "8 patients (read off 6 file names)" in report["about"][0]
    shutil.copy(folder / "other_0.png", folder / "again.png")
    assert report_of("--real", folder, "--fake", fake, out="b")["data"]["patients"]["real"] == 8, "the same file"


def test_training_and_held_out_images(fake: Path, runs_cwd: Path) -> None:
    """Copies are searched in --training, distances go to --real; a number in both folders is said."""
    training = write(runs_cwd / "training", fields(20, 4, SIZE), "IM-{:04d}-0001.png")
    held_out = write(runs_cwd / "held_out", fields(12, 5, SIZE), "IM-{:04d}-0001.png")
    shutil.copy(training / "IM-0006-0001.png", fake / "stolen.png")
    report = report_of("--real", held_out, "--fake", fake, "--training", training)
    quality = report["quality"]
    assert quality["reference"] == "held-out real images"
    assert (quality["memorization"]["n_train"], quality["memorization"]["baseline"]) == (20, "held-out")
    assert quality["memorization"]["exact_copies"] == 1
    assert report["closest"][0]["training"] == "IM-0006-0001.png"
    assert report["data"]["notes"] == [
        "12 patient numbers in both --real and --training; whether the patients are the same is not known."
    ]


def test_phantoms_are_announced(fake: Path, real: Path) -> None:
    (real / "phantom.json").write_text("{}")
    assert report_of("--real", real, "--fake", fake)["data"]["notes"] == [PHANTOM_NOTICE]
    assert 'class="note phantom"' in (Path("out") / "report.html").read_text()


def test_a_synthesis_run_is_read_without_its_figures(real: Path, runs_cwd: Path) -> None:
    run = runs_cwd / "run"
    write(run / "images" / "NORMAL", fields(16, 2, SIZE))
    (run / "manifest.csv").write_text("file\n")
    write(run, fields(2, 3, 90), "grid{}.png")
    assert report_of("--real", real, "--fake", run)["data"]["counts"]["fake"] == 16


@pytest.fixture
def synthesis(runs_cwd: Path) -> Path:
    """A run as `balancer synthesize` leaves one, as far as this command reads it."""
    run = runs_cwd / "run"
    write(run / "images" / "NORMAL", fields(16, 2, SIZE))
    (run / "config.yaml").write_text("n: 16\n")
    files = sorted((run / "images" / "NORMAL").iterdir())
    rows = [
        f"images/NORMAL/{file.name},{i},{i},{hashlib.sha256(file.read_bytes()).hexdigest()},NORMAL,{'0' * 16}"
        for i, file in enumerate(files)
    ]
    write_with_sum(run / "manifest.csv", "\n".join([",".join(MANIFEST_COLUMNS), *rows]) + "\n")
    return run


def opened(real: Path, fake: Path) -> evaluation.Inputs:
    return evaluation.open_inputs(EvaluateConfig(real=str(real), fake=str(fake), inception="off", max_bad=0.5))


def test_a_synthesis_run_holds_what_its_manifest_lists(real: Path, synthesis: Path) -> None:
    assert len(opened(real, synthesis).folders["fake"].images) == 16
    (synthesis / "grid.png").write_bytes((synthesis / "images" / "NORMAL" / "image_000.png").read_bytes())
    opened(real, synthesis)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: Image.fromarray(fields(1, 9, SIZE)[0]).save(p), "SHA-256 differs"),
        (lambda p: p.unlink(), "missing"),
        (lambda p: p.write_bytes(b"no image"), "cannot be read"),
        (lambda p: shutil.copy(p, p.with_name("a.png")), "not listed"),
    ],
)
def test_a_changed_synthesis_is_refused(real: Path, synthesis: Path, change: Any, words: str) -> None:
    change(synthesis / "images" / "NORMAL" / "image_003.png")
    with pytest.raises(BalancerError, match=words) as caught:
        opened(real, synthesis)
    assert "image_003.png" in str(caught.value) or "a.png" in str(caught.value)
    (synthesis / "config.yaml").unlink()  # no run any more: a folder of images as any other
    opened(real, synthesis)


def test_hidden_files_are_counted(real: Path, fake: Path) -> None:
    for name in (".x.png", "..png", ".DS_Store", "._image_000.png"):
        (fake / name).write_bytes((fake / "image_000.png").read_bytes())
    (note,) = opened(real, fake).notes
    assert "2 other files" in note
    assert "2 hidden" in note


def deep(folder: Path, highest: int) -> Path:
    for i, image in enumerate(fields(4, 3, SIZE)):
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.rint(image / 255 * highest).astype(np.uint16)).save(folder / f"{i}.png")
    values = np.asarray(Image.open(folder / "0.png")).copy()
    values[0, 0] = highest
    Image.fromarray(values).save(folder / "0.png")
    return folder


@pytest.mark.parametrize(("highest", "note"), [(65535, True), (4095, False)])
def test_folders_in_other_ranges_of_deep_samples_are_a_note(runs_cwd: Path, highest: int, note: bool) -> None:
    inputs = opened(deep(runs_cwd / "a", 4095), deep(runs_cwd / "b", highest))
    notes = [text for text in inputs.notes if "range of each folder" in text]
    assert len(notes) == note
    assert all("0 to 4095" in text and f"0 to {highest}" in text for text in notes)


def test_results_do_not_lie_among_the_images(real: Path, fake: Path) -> None:
    for folder in (real, fake):
        inside = folder / "report"
        refused(balancer("evaluate", "--real", real, "--fake", fake, *QUICK_REPORT, "--out", inside), 1, "--out")
        assert not inside.exists()


def test_a_cache_among_the_images_is_refused(real: Path, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_CACHE", str(fake / "cache"))
    with pytest.raises(BalancerError, match="BALANCER_CACHE"):
        opened(real, fake)


# --- the run


def test_black_images_give_no_nan(runs_cwd: Path, real: Path, five_pixel_steps: None) -> None:
    write(runs_cwd / "black", np.zeros((12, SIZE, SIZE), np.uint8))
    write(runs_cwd / "white", np.full((12, SIZE, SIZE), 255, np.uint8))
    for i, (a, b) in enumerate((("black", "white"), (real, "black"), ("black", real))):
        report_of("--real", a, "--fake", b, "--set", "two_sample=true", out=f"o{i}")
        assert not re.search(r"\bnan\b|\binf\b", Path(f"o{i}", "report.md").read_text(), re.IGNORECASE)


def test_dry_run_writes_nothing(real: Path, fake: Path, runs_cwd: Path) -> None:
    result = done(balancer("evaluate", "--real", real, "--fake", fake, "--dry-run", "--json"))
    content = json.loads(result.stdout)
    assert content["data"]["counts"] == {"real": 20, "fake": 16}
    assert content["estimated_seconds"] > 0
    text = done(balancer("evaluate", "--real", real, "--fake", fake, "--dry-run")).stdout
    assert yaml.safe_load(text)["real"] == str(real)
    assert {p.name for p in runs_cwd.iterdir()} == {"real", "fake"}


def test_an_interrupted_evaluation_is_resumed(
    real: Path, fake: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "assess", stopping)
        assert balancer("evaluate", "--real", real, "--fake", fake, *QUICK_REPORT).exit_code == 130
    (run,) = (runs_cwd / "runs" / "evaluate").glob("*/")
    assert not (run / "done").exists()
    refused(balancer("evaluate", "--resume", "latest", "--seed", 4), 1, "seed (saved 0, asked 4)")
    done(balancer("evaluate", "--resume", "latest"))
    assert (run / "done").exists()
    assert "finished already" in done(balancer("evaluate", "--resume", run)).stdout


def test_settings_from_a_file_with_a_data_section(real: Path, fake: Path, runs_cwd: Path) -> None:
    """The data section that other commands share does not concern this one."""
    content = {"data": {"image_size": 64}, "evaluate": {"real": "real", "fake": "fake", "seed": 3}}
    (runs_cwd / "c.yaml").write_text(yaml.safe_dump(content))
    result = done(balancer("evaluate", "--config", "c.yaml", "--dry-run", "--json"))
    assert json.loads(result.stdout)["config"]["seed"] == 3


def test_sides_that_differ_by_file_format_alone(runs_cwd: Path) -> None:
    """The formats are named, and the PNG files get the marks of the JPEG files before anything is compared."""
    images = fields(40, 1, 32, smooth=0.8)
    real = write(runs_cwd / "real", images[:20], "image_{:03d}.jpg")
    fake = write(runs_cwd / "fake", images[20:])
    report = report_of("--real", real, "--fake", fake)
    assert report["data"]["formats"] == {"real": {"JPEG": 20}, "fake": {"PNG": 20}}
    assert any("JPEG" in note and "PNG" in note for note in report["data"]["notes"])
    again = write(runs_cwd / "again", images[20:], "image_{:03d}.jpg")
    same = report_of("--real", real, "--fake", again, out="b")
    assert same["quality"]["distances"] == report["quality"]["distances"]
    assert same["data"]["notes"] == []


def test_equal_images_are_looked_for_before_coding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of JPEG files, stored as PNG: coding them as the others are changes pixels."""
    real = write(tmp_path / "real", fields(6, 1, 32, smooth=0.8), "image_{:03d}.jpg")
    decoded = [np.asarray(Image.open(file)) for file in sorted(real.iterdir())]
    config = EvaluateConfig(real=str(real), fake=str(write(tmp_path / "fake", np.stack(decoded))))
    inputs, asked = evaluation.open_inputs(config), {}

    def stop(*args: Any, **others: Any) -> None:
        asked.update(others, real=args[1], fake=args[3])
        raise BalancerError("enough")

    monkeypatch.setattr(evaluation, "assess", stop)
    with pytest.raises(BalancerError, match="enough"):
        evaluation.evaluate(config, inputs, None, torch.device("cpu"))
    assert np.array_equal(asked["as_read"], asked["real"].read)
    assert not np.array_equal(asked["as_read"], asked["fake"])


def test_formats_that_cannot_be_brought_together(runs_cwd: Path) -> None:
    images = fields(40, 1, 32, smooth=0.8)
    real = write(runs_cwd / "real", images[:20], "image_{:03d}.webp")
    report = report_of("--real", real, "--fake", write(runs_cwd / "fake", images[20:]))
    assert any("WEBP" in note for note in report["data"]["notes"])
    assert report["quality"]["format_caveat"]


def test_stray_files_are_counted_by_kind(real: Path, fake: Path) -> None:
    for name in ("a.dcm", "b.dcm", "notes.txt", "README"):
        (real / name).write_text("no image")
    (note,) = (n for n in report_of("--real", real, "--fake", fake)["data"]["notes"] if "--real" in n)
    assert all(kind in note for kind in ("4 other files", "2 .dcm", "1 .txt", "1 no suffix"))


def test_patients_of_other_names(runs_cwd: Path, fake: Path) -> None:
    """Two images a patient, of which one patient is in both folders; without the pattern every image counts alone."""
    real, training = runs_cwd / "real", runs_cwd / "training"
    for folder, first, seed in ((real, 0, 1), (training, 9, 3)):
        folder.mkdir()
        for i, image in enumerate(fields(20, seed, SIZE)):
            Image.fromarray(image).save(folder / f"case{first + i // 2:02d}-{i % 2}.png")
    folders = {"real": str(real), "training": str(training), "fake": str(fake)}
    alone = evaluation.open_inputs(EvaluateConfig(**folders))
    assert alone.describe()["patients"] == {"real": None, "training": None, "fake": None}
    rows = [f"{file.name},{file.name[:6]}\n" for folder in (real, training) for file in sorted(folder.iterdir())]
    Path("patients.csv").write_text("path,patient\n" + "".join(rows))
    for settings in ({"patient_pattern": r"(?P<patient>case\d+)"}, {"patients": "patients.csv"}):
        known = evaluation.open_inputs(EvaluateConfig(**folders, **settings))
        assert known.describe()["patients"] == {"real": 10, "training": 10, "fake": None}
        assert not known.are_chest
        groups = {flag: known.folders[flag].groups for flag in ("real", "training")}
        shared = set(groups["real"]) & set(groups["training"])
        assert [names[:6] for names in known.folders["real"].names[-2:]] == ["case09"] * 2
        assert {groups["real"][-1]} == {groups["real"][-2]} == shared
    words = [part for flag, path in folders.items() for part in (f"--{flag}", path)]
    refused(balancer("evaluate", *words, "--patient-pattern", "(?P<patient>person)"), 1, "patient_pattern", "case00-0")
