"""The grade of a data set: every rule has a set that makes it hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from balancer.audit import shortcuts as data_shortcuts
from balancer.audit.findings import audit
from balancer.audit.grade import DOCS, FOLDS, RULES, SHORTCUTS, grade
from balancer.audit.report import as_document, read_audit, to_json
from balancer.audit.results import Audit
from balancer.core.sealed import write_json
from balancer.core.settings import AuditConfig, DataConfig
from balancer.data.dataset import load_dataset
from balancer.metrics.resampling import AurocInterval

DOCUMENTATION = Path(__file__).parents[3] / DOCS


@pytest.fixture
def clean(chest_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Return the audit of a set that leaks nothing."""
    monkeypatch.setattr(data_shortcuts, "RESAMPLES", 50)
    config = DataConfig(path=str(chest_folder), image_size=16)
    return audit(load_dataset(config), config)


def step(audited: Audit, part: str) -> str:
    return next(p.step for p in grade(audited).parts if p.part == part)


def test_folds(clean: Audit) -> None:
    assert step(clean, FOLDS) == "good"
    conflict = replace(clean, identical=replace(clean.identical, label_conflicts=1))
    assert step(conflict, FOLDS) == "unfit"
    assert grade(conflict).is_unfit
    unnamed = replace(clean, patients=replace(clean.patients, named=clean.patients.images - 1))
    assert step(unnamed, FOLDS) == "unknown"
    pair = clean.near.closest[:1] or [None]
    suspect = replace(clean, near=replace(clean.near, suspects=pair))
    assert step(suspect, FOLDS) == "fair"


@pytest.mark.parametrize(
    ("auroc", "low", "expected"),
    [(0.8, 0.7, "poor"), (0.74, 0.6, "fair"), (0.74, 0.45, "good"), (None, None, "unknown")],
)
def test_shortcuts(clean: Audit, auroc: float | None, low: float | None, expected: str) -> None:
    joint = None
    if auroc is not None and clean.shortcuts.together_working is not None:
        joint = replace(clean.shortcuts.together_working, auroc=auroc, low=low, high=auroc + 0.1)
    same = AurocInterval(0.5, 0.4, 0.6) if auroc is not None else None
    properties = [replace(p, classes=same, working=same) for p in clean.shortcuts.properties]
    changed = replace(clean.shortcuts, together_working=joint, together=None, properties=properties)
    if auroc is not None:
        assert joint is not None, "the set of the fixture is too small for this test"
    assert step(replace(clean, shortcuts=changed), SHORTCUTS) == expected


def test_the_grade_is_on_the_page_and_in_the_file_that_is_read_back(clean: Audit, tmp_path: Path) -> None:
    document = as_document(clean, AuditConfig(), set())
    assert document.grade == grade(clean).words
    assert document.sections[0].title == "Grade"
    assert to_json(clean)["grade"]["step"] == grade(clean).step
    write_json(tmp_path / "audit.json", to_json(clean))
    assert grade(read_audit(tmp_path)) == grade(clean)


def test_the_documentation_has_every_rule() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule.part} | {rule.step} | {rule.when} |" in text
