"""`balancer audit` as a user types it: a report that can be read anywhere, an error only with --strict."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import balancer, done, refused
from PIL import Image

from balancer.audit import figures as audit_figures
from balancer.audit import report as audit_report
from balancer.audit.findings import audit, leaks
from balancer.audit.properties import measure
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.settings import DataConfig
from balancer.data.dataset import load_dataset
from balancer.metrics.resampling import AurocInterval

PICTURES = {"closest", "extremes", "histograms"}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take seconds, where the test is about words."""
    monkeypatch.setattr(audit_report, "draw", lambda data, findings: {"histograms": b"", "extremes": b""})


def leaking(folder: Path) -> Path:
    """With an image of train, brightened, and a file of train, both in test."""
    rng = np.random.default_rng(5)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize((80, 80), Image.Resampling.BICUBIC)
    smooth.save(folder / "train" / "PNEUMONIA" / "person900_virus_1.png")
    smooth.point(lambda grey: 0.8 * grey + 30).save(folder / "test" / "PNEUMONIA" / "person901_virus_1.png")
    (folder / "test" / "NORMAL" / "IM-0902-0001.png").write_bytes(
        sorted((folder / "train" / "NORMAL").iterdir())[0].read_bytes()
    )
    return folder


def test_a_complete_run(chest_folder: Path, runs_cwd: Path) -> None:
    content = json.loads(done(balancer("audit", "--data", leaking(chest_folder), "--image-size", 16, "--json")).stdout)
    run = Path(content["run"])
    assert run.parent == Path("runs/audit")
    assert {p.name for p in run.iterdir()} == {
        *("config.yaml", "env.json", "log.txt", "done"),
        *("audit.json", "audit.md", "audit.html"),
        *(f"{name}.png" for name in PICTURES),
    }
    assert {"run": str(run), **read_json(run / "audit.json")} == content
    assert (
        leaks(audit_report.read_audit(run))
        == content["leaks"]
        == [
            "1 identical file both in train or validation and in test",
            "1 near duplicate between train or validation and test",
        ]
    )
    assert yaml.safe_load((run / "config.yaml").read_text())["strict"] is False
    env = json.loads((run / "env.json").read_text())
    assert (env["command"], env["data"]["fingerprint"]) == ("audit", content["data"]["fingerprint"])
    text, page = (run / "audit.md").read_text(), (run / "audit.html").read_text()
    for leak in content["leaks"]:
        assert leak in text
        assert leak in page
    assert "`test/PNEUMONIA/person901_virus_1.png`" in text
    again = done(balancer("audit", "--resume", run))
    assert "finished already" in again.stdout
    inside = {base64.b64decode(content) for content in re.findall(r"data:image/png;base64,([^\"]+)", page)}
    assert inside == {(run / f"{name}.png").read_bytes() for name in PICTURES}


def test_what_is_not_settled_stands_in_the_verdict(chest_folder: Path, runs_cwd: Path, undrawn: None) -> None:
    """The box must not say less than the first bullet below it."""
    test = sorted((chest_folder / "test" / "PNEUMONIA").iterdir())
    test[0].rename(test[0].with_name("person1_bacteria_900.png"))
    done(balancer("audit", "--data", chest_folder, "--image-size", 16, "--out", "out"))
    box = re.search(r'<p class="verdict">(.*?)</p>', Path("out/audit.html").read_text(), re.DOTALL)
    assert box is not None
    assert "No proven leak" in box[1]
    assert "Not settled: whether 1 patient number both in train or validation and in test" in box[1]


@pytest.mark.parametrize("alike", [False, True])
def test_a_set_of_flat_images_alone_gets_a_report(alike: bool, chest_folder: Path, runs_cwd: Path) -> None:
    for i, file in enumerate(sorted(chest_folder.rglob("*.png"))):
        Image.new("L", (20, 20), 7 if alike else i).save(file)
    done(balancer("audit", "--data", chest_folder, "--image-size", 16, "--out", "out"))
    assert "blank and could not be compared" in Path("out/audit.md").read_text()


def test_a_damaged_audit_is_named(chest_folder: Path, runs_cwd: Path, undrawn: None) -> None:
    done(balancer("audit", "--data", chest_folder, "--image-size", 16, "--out", "out"))
    content = read_json(Path("out/audit.json"))
    del content["near"]
    write_json(Path("out/audit.json"), content)
    with pytest.raises(DamagedFile, match=r"audit\.json .*near"):
        audit_report.read_audit(Path("out"))


def test_strict_fails_after_the_report_is_written(chest_folder: Path, runs_cwd: Path, undrawn: None) -> None:
    refused(
        balancer("audit", "--data", leaking(chest_folder), "--image-size", 16, "--strict", "--out", "out"),
        1,
        "1 identical file both in train or validation and in test",
        "1 near duplicate between train or validation and test",
        "out/audit.html",
        "drop --strict",
    )
    assert Path("out/audit.html").is_file()
    assert Path("out/done").is_file()
    refused(balancer("audit", "--resume", "out"), 1, "drop --strict")  # finished, and the data leak still


def test_strict_is_content_with_a_clean_set(chest_folder: Path, runs_cwd: Path, undrawn: None) -> None:
    result = done(balancer("audit", "--data", chest_folder, "--image-size", 16, "--strict", "--out", "out"))
    assert result.stdout.startswith("Grade: good (folds good, shortcuts good). No proven leak: ")
    assert result.stdout.splitlines()[-1].startswith("out/audit.html")
    assert "No pair of files was found to show one exposure twice" in Path("out/audit.md").read_text()


def test_a_dry_run_writes_nothing(chest_folder: Path, runs_cwd: Path) -> None:
    result = done(balancer("audit", "--data", chest_folder, "--dry-run"))
    assert "strict: false" in result.stdout
    assert "# estimated" in result.stdout
    assert not Path("runs").exists()


def test_an_archive_gets_a_report_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"{s}_images": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8) for s in ("train", "test")}
    np.savez(
        tmp_path / "pneumoniamnist_set.npz", **arrays, **{f"{s}_labels": np.arange(12) % 2 for s in ("train", "test")}
    )
    config = DataConfig(path=str(tmp_path / "pneumoniamnist_set.npz"), image_size=16, val_fraction=0.2)
    data = load_dataset(config)
    audit_report.write_audit(tmp_path / "out", data, config, audit(data, config))
    assert not (tmp_path / "out" / "closest.png").exists(), "noise: no pair is like another"
    text = (tmp_path / "out" / "audit.md").read_text()
    assert "whether folds share patients, since the patient of any image is not known" in text
    assert "No file name tells a patient" in text
    assert "the 16 px images, since there are no files" in text
    assert "the same at" not in text


def test_the_pictures_show_what_they_are_of(chest_folder: Path) -> None:
    """White frames in train NORMAL: the strip of the most bordered images is bright, that of the least is not."""
    for file in (chest_folder / "train" / "NORMAL").iterdir():
        pixels = np.zeros((32, 40), dtype=np.uint8)
        pixels[8:24, 8:32] = 255 if file.name.startswith("NORMAL2") else 60
        Image.fromarray(pixels).save(file)
    data = load_dataset(DataConfig(path=str(chest_folder), image_size=16))
    sheet = np.asarray(Image.open(io.BytesIO(audit_figures.extremes(data, measure(data)))).convert("L")).astype(float)
    height, width = sheet.shape
    brightness = sheet[int(height * 2.2 / 8) : int(height * 2.8 / 8)]  # the third row: brightness, NORMAL
    left, right = brightness[:, : width // 2], brightness[:, width // 2 :]
    assert (right[:, 60:-60] < 250).any()
    assert right.mean() > left.mean() + 10


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "–"),
        (AurocInterval(0.75, 0.7, 0.8), ".750 [.700, .800] right"),
        (AurocInterval(0.25, 0.2, 0.31), ".750 [.690, .800] left"),
        (AurocInterval(0.0, None, None), "1.000 left"),
    ],
)
def test_an_auroc_below_a_half_is_turned_and_its_side_named(found: AurocInterval | None, text: str) -> None:
    assert audit_report._auroc(found, ("left", "right")) == text
