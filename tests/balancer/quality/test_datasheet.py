"""Datasheets: what is not known is not claimed, and drawings are called drawings."""

from dataclasses import replace

import numpy as np
import pytest

from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.listing import LeftOut
from balancer.data.records import Record
from balancer.quality.datasheet import RESEARCH_ONLY, Words, datasheet
from balancer.quality.report import Report
from balancer.quality.results import QualityReport
from balancer.reporting.document import to_markdown

N = 6
WORDS = Words("the class", "7; of all", "nothing", "learnt from", "Nothing makes them again.")


def data(patient: str, kinds: list[str], notes: list[str]) -> Dataset:
    """Six training images of class 1."""
    records = [Record(f"{i}.png", 1, "train", f"{patient}{i // 2}", kinds[i % len(kinds)]) for i in range(N)]
    images, labels, folds = np.zeros((N, 16, 16), np.uint8), np.ones(N, np.int64), np.array(["train"] * N)
    groups = [r.patient for r in records]
    return Dataset("there", images, labels, folds, records, groups, groups, "5" * 16, "f" * 16, notes=notes)


@pytest.fixture
def report() -> Report:
    return Report(
        "3 synthetic PNEUMONIA images",
        ["A paragraph."],
        3,
        7,
        {},
        QualityReport(3, unit="image"),
        [],
        {},
        {},
        {"gan_run": "/runs/gan-train/g"},
    )


def sheet(report: Report, real: Dataset) -> str:
    return to_markdown(datasheet(report, real, 1, "0" * 64, WORDS))


def test_without_patients(report: Report) -> None:
    assert "patient" not in sheet(report, data("image-", [""], [])).lower()


def test_kinds_of_the_training_images(report: Report) -> None:
    known = sheet(report, data("PNEUMONIA-", ["bacteria", "virus", "virus"], []))
    assert "bacterial (2) and viral (4)" in known
    assert "6 images of 3 patients" in known
    assert "kinds" not in sheet(report, data("PNEUMONIA-", ["virus"], []))


def test_notes_and_drawings(report: Report) -> None:
    real = replace(
        data("PNEUMONIA-", [""], [PHANTOM_NOTICE, "A note."]), bad=[("x.png", "cut")], left_out=[LeftOut("y", "z", 4)]
    )
    made = datasheet(report, real, 1, "0" * 64, WORDS)
    assert made.warnings == [PHANTOM_NOTICE, RESEARCH_ONLY]
    text = to_markdown(made)
    assert text.count(PHANTOM_NOTICE) == 1
    assert "- A note." in text
    assert "5 files of the folder were not read" in text
    assert "| seed | 7;" in text


def test_the_sites_of_the_training_images(report: Report) -> None:
    real = replace(data("patient-", ["a", "b", "b"], []), source_name="column site")
    assert "By column site these come from b (4) and a (2)." in sheet(report, real)
