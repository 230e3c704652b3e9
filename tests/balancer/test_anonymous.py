"""Where no name tells a patient, no report speaks of patients, but to say that none is known."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import QUICK_REPORT, balancer, done
from PIL import Image
from planted import fields

from balancer.audit import shortcuts
from balancer.core.errors import BalancerError
from balancer.core.sealed import read_json
from balancer.metrics.memorization import memorization
from balancer.metrics.two_sample import logistic_two_sample

NONE_KNOWN = re.compile(
    r"tells? (a|no) patients?|whether folds share patients, since the patient of any image is not known"
    r"|Name the files by patient, or say beside every figure that the split may part images of one patient"
    r"|`(columns\.patient=None|patients=None|patient_pattern=None|split_by=patient)`"
    r"|Leaks by patient cannot be checked|^#+ Patients$",
    re.MULTILINE,
)


def check(text: str) -> None:
    """No word on patients is left once the sentences that say that none is known are taken out."""
    rest = NONE_KNOWN.sub("", text)
    around = [rest[max(m.start() - 80, 0) : m.end() + 40] for m in re.finditer("patient", rest, re.IGNORECASE)]
    assert not around, around


@pytest.fixture
def anonymous(chest_folder: Path) -> Path:
    """A data set without patients, with a file twice and a near copy."""
    for i, file in enumerate(sorted(chest_folder.rglob("*.png"))):
        file.rename(file.with_name(f"scan{i:03d}.png"))
    train = sorted((chest_folder / "train" / "NORMAL").iterdir())
    shutil.copy(train[0], train[0].with_name("twice.png"))
    with Image.open(train[1]) as image:
        image.save(train[1].with_name("near.jpg"), quality=95)
    return chest_folder


def test_the_audit(anonymous: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "RESAMPLES", 50)
    result = done(balancer("audit", "--data", anonymous, "--image-size", "16", "--out", "out"))
    page = Path("out/audit.md").read_text()
    assert "twice.png" in page
    assert "near.jpg" in page
    check(page)
    check(result.output)


def test_an_evaluation(runs_cwd: Path, five_pixel_steps: None) -> None:
    for seed, name in enumerate(("real", "training", "fake")):
        (runs_cwd / name).mkdir()
        for i, image in enumerate(fields(20, seed, 24)):
            Image.fromarray(image).save(runs_cwd / name / f"{name}{i}.png")
    folders = [f"--{name}={name}" for name in ("real", "training", "fake")]
    result = done(balancer("evaluate", *folders, *QUICK_REPORT, "--out", "out"))
    check(Path("out/report.md").read_text())
    check(result.output)
    assert set(read_json(Path("out/report.json"))["data"]["patients"].values()) == {None}


def test_messages_on_too_few_images() -> None:
    images, names = fields(4, 0, 24), [f"folder/{i}.png" for i in range(4)]
    blank = np.zeros((4, 24, 24), np.uint8)
    for call in (
        lambda: memorization(blank, images, train_groups=names),
        lambda: memorization(images, images, train_groups=["folder/0.png"] * 4),
        lambda: memorization(images, images, images, names, names),
        lambda: memorization(images, images, train_groups=names[:2]),
        lambda: logistic_two_sample(np.eye(4), np.eye(4), groups=names, seed=0),
        lambda: logistic_two_sample(np.eye(4), np.eye(4), groups=names[:2], seed=0),
    ):
        with pytest.raises(BalancerError) as refusal:
            call()
        check(str(refusal.value))
