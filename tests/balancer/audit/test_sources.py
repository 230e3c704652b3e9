"""Is the class told by the site alone? Planted sites are found, and sites that tell nothing are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import as_classes, made, write_table

from balancer.audit import shortcuts as shortcuts_module
from balancer.audit import sources as sources_module
from balancer.audit.findings import audit, caveats, leaks, strongest_shortcut
from balancer.audit.report import as_document, to_json
from balancer.audit.sources import sources
from balancer.core.settings import DataConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.reporting.document import to_markdown

N = 120


@pytest.fixture(autouse=True)
def quick_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts_module, "RESAMPLES", 50)
    monkeypatch.setattr(sources_module, "RESAMPLES", 200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A table of 120 images, three classes and two patients each, whose sites the tests change."""
    root = tmp_path_factory.mktemp("table")
    images = made({"train": (60, 40, 20)}, "abc")
    for image in images:
        image.save(root / image.name)
    rows = [
        {
            "file": m.name,
            "label": m.cls,
            "patient": str(i // 2),
            "site": "x",
            "split": "test" if i % 10 > 7 else "train",
        }
        for i, m in enumerate(images)
    ]
    config = DataConfig(path=str(write_table(root / "t.csv", rows)), image_size=16)
    return load_dataset(config)


def with_sites(data: Dataset, site: object) -> Dataset:
    records = [replace(r, source=site(i, data.labels[i])) for i, r in enumerate(data.records)]
    return replace(data, records=records)


def test_sites_that_tell_the_class(data: Dataset) -> None:
    told = sources(with_sites(data, lambda _, label: f"site {label}"))
    assert told.told.auroc > 0.99
    assert told.told.low > 0.9
    assert told.name == "column site"
    train = [r.split == "train" for r in data.records]
    for label, cls in enumerate("abc"):
        assert told.counts[f"site {label}"][cls] == sum(
            t and k == label for t, k in zip(train, data.labels, strict=True)
        )


def test_sites_that_tell_nothing(data: Dataset) -> None:
    """Over 40 draws of sites by chance the interval leaves .5 below it in few."""
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(40):
        drawn = rng.integers(0, 4, len(data.records))
        above += sources(with_sites(data, lambda i, _, drawn=drawn: f"site {drawn[i]}")).told.low > 0.5
    assert above <= 4


def test_one_site_and_no_site(data: Dataset) -> None:
    one = sources(data)
    assert one.told is None
    assert set(one.counts) == {"x"}
    assert sources(replace(data, source_name="")) is None


def test_the_audit_of_three_classes_and_sites(data: Dataset) -> None:
    planted = with_sites(data, lambda _, label: f"site {label}")
    result = audit(planted, DataConfig(path=planted.source, image_size=16))
    assert any("tells its class without the image" in caveat for caveat in caveats(result))
    assert result.classes == ["a", "b", "c"]
    assert set(result.shortcuts.properties[0].one_against_rest) == {"a", "b", "c"}
    assert result.shortcuts.together_working is not None
    assert result.patients.cautious is None
    assert result.patients.narrow.patients == N // 2
    page = to_markdown(as_document(result, DataConfig(), set()))
    assert to_json(result)["sources"]["counts"]["site 0"]["a"] == result.counts.splits["train"]["a"]
    for words in ("## Sources", "site 2", "column site", "| a | b | c | all |"):
        assert words in page


def test_a_property_of_one_class_among_three_is_found(tmp_path: Path) -> None:
    images = made({"train": (60, 60, 60)}, "abc")
    images = [replace(m, pixels=m.pixels // 3 if m.cls == "b" else m.pixels) for m in images]
    data = load_dataset(DataConfig(path=str(as_classes(images, tmp_path / "data")), image_size=16))
    sentence = strongest_shortcut(audit(data, DataConfig(path=data.source, image_size=16)))
    assert "b against the rest" in sentence


def test_a_patient_of_two_classes_on_two_sides_is_a_leak(data: Dataset) -> None:
    """Under a key of the whole set, a patient counts whichever classes the images have."""
    records = list(data.records)
    train = next(i for i, r in enumerate(records) if r.split == "train" and r.label == 0)
    test = next(i for i, r in enumerate(records) if r.split == "test" and r.label == 2)
    records[train] = replace(records[train], patient="patient-shared")
    records[test] = replace(records[test], patient="patient-shared")
    found = leaks(audit(replace(data, records=records), DataConfig(path=data.source, image_size=16)))
    assert any("1 patient both in train or validation and in test (1 and 1 images)" in leak for leak in found), found
