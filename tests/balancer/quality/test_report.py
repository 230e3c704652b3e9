"""The report's documents: what each section holds, what is left out, and that old files are read."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import fields

from balancer.core.settings import QualityConfig
from balancer.data.dataset import PHANTOM_NOTICE
from balancer.metrics import two_sample
from balancer.quality.assess import assess
from balancer.quality.grade import grade
from balancer.quality.interpretation import interpret, verdict
from balancer.quality.report import FIGURES, Report, as_document, closest_pairs
from balancer.quality.results import OLD_KEYS, QualityReport, from_json
from balancer.quality.sides import ImageSet
from balancer.reporting.document import to_markdown
from balancer.reporting.numbers import fixed, short
from balancer.reporting.pages import to_html

PICTURES = dict.fromkeys(FIGURES, b"\x89PNG")


@pytest.fixture(scope="module")
def report() -> Report:
    """Return a complete report, with a test set, so that every section has content."""
    settings = QualityConfig(inception="off", kid_subsets=3, kid_subset_size=6)
    train = ImageSet(fields(40, 1), [f"p{i // 2}" for i in range(40)], "training fold")
    held_out, test = (
        ImageSet(fields(20, s), [f"{s}-{i}" for i in range(20)], n) for s, n in ((2, "validation"), (3, "test"))
    )
    with pytest.MonkeyPatch.context() as patch:  # rendering needs the rows, not what is in them
        patch.setattr(two_sample, "pixel_two_sample", functools.partial(two_sample.pixel_two_sample, steps=2))
        quality = assess(settings, train, held_out, fields(30, 4, smooth=2), torch.device("cpu"), test=test)
    return Report(
        title="30 synthetic NORMAL images",
        about=["Generator: run `20260101-000000`.", "Trained on 40 images."],
        n=30,
        seed=0,
        data={"notes": []},
        quality=quality,
        closest=closest_pairs(quality, [f"fake-{i}" for i in range(30)], [f"real-{i}" for i in range(40)]),
        seconds={"assess": 1.0},
        made={"command": "`balancer synthesize`", "data": "split hash `0123456789abcdef`"},
        generator={"class": "NORMAL", "gan_step": 30},
        figures=sorted(FIGURES),
    )


def markdown(report: Report) -> str:
    return to_markdown(as_document(report))


def section(text: str, title: str) -> list[str]:
    return text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()


def test_sections_in_order(report: Report) -> None:
    document = as_document(report)
    assert [s.title for s in document.sections] == [
        "Grade",
        "Main figures",
        "Synthetic beside real",
        "Copies",
        "Spectrum",
        "Over training",
        "Distances",
        "Overlap",
        "Two-sample tests",
        "Shift within the real data",
        "Notes",
        "How this was made",
        "Caveats",
        "References",
    ]
    assert (document.title, document.verdict) == (report.title, verdict(report.quality))
    assert (document.grade, document.headline) == (grade(report.quality).words, report.advice)
    assert document.introduction == report.about
    assert {s.figure.name for s in document.sections if s.figure} == set(FIGURES)
    to_html(document, PICTURES)


def test_figures_state_counts_and_real_baselines(report: Report) -> None:
    text = markdown(report)
    table, overlap = (
        [line for line in section(text, title) if line.startswith(("| chest-xray", "| random"))]
        for title in ("Distances", "Overlap")
    )
    assert len(table) == len(overlap) == 4

    for line, more, row in zip(table, overlap, report.quality.distances, strict=True):
        assert f"| {row.n_real} | {row.n_fake} " in line
        assert f"| {fixed(row.frechet)} | {fixed(row.frechet_real_baseline)} |" in line
        assert f"| {fixed(row.kid, 4)} ± {fixed(row.kid_sd, 4)} | {fixed(row.kid_real_baseline, 4)} |" in line
        for name in ("precision", "recall", "density", "coverage"):
            value, baseline = (getattr(o, name) for o in (row.overlap, row.overlap_real_baseline))
            assert f"{short(value, 2)} ({short(baseline, 2)})" in more


def test_names_from_outside_stand_in_the_document(report: Report) -> None:
    """File names and notes are shown as they are; tests/balancer/reporting shows that a page escapes them."""
    nasty = "<b>|</b>"
    pair = replace(report.closest[0], synthetic=nasty)
    changed = replace(report, closest=[pair], data={"notes": [PHANTOM_NOTICE, nasty]}, about=[nasty])
    document = as_document(changed)
    assert (document.warnings, document.caveats) == ([PHANTOM_NOTICE], [nasty])
    assert nasty in next(s for s in document.sections if s.title == "Copies").bullets[0]
    assert nasty not in to_html(document, PICTURES)


def test_no_figure_is_called_fid_without_inception(report: Report) -> None:
    text = markdown(report).split("## Caveats")[0]
    for line in text.splitlines():
        if "FID" in line:
            assert "FID was not computed" in line or "not FIDs" in line, line


def test_sections_without_content_are_left_out(report: Report) -> None:
    empty = replace(report, quality=QualityReport(30), figures=["grid"], closest=[])
    titles = [s.title for s in as_document(empty).sections]
    assert titles == ["Grade", "Synthetic beside real", "How this was made", "Caveats", "References"]


def test_no_real_baseline_is_a_dash(report: Report) -> None:
    none = dict.fromkeys(("frechet", "kid", "kid_sd", "overlap"))
    row = replace(report.quality.distances[0], **{f"{key}_real_baseline": value for key, value in none.items()})
    changed = replace(report, quality=replace(report.quality, distances=[row]))
    line = next(x for x in section(markdown(changed), "Distances") if x.startswith("| chest-xray-128"))
    assert line.count("| – |") == 2


def test_every_subset_size_is_given(report: Report) -> None:
    first, *others = report.quality.distances
    rows = [replace(first, kid_subset_size=77), *others]
    changed = replace(report, quality=replace(report.quality, distances=rows))
    assert "subsets of 77 and 6 images" in markdown(changed)


def test_summary(report: Report) -> None:
    lines = report.describe().splitlines()
    assert lines[:3] == [report.title, grade(report.quality).words, verdict(report.quality)]
    assert len(lines) == 3 + len(report.advice) + len(interpret(report.quality)) + len(report.quality.notes)


def test_json_holds_every_figure_and_is_read_back(report: Report) -> None:
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["class"], content["gan_step"]) == ("NORMAL", 30)
    assert "generator" not in content
    assert content["quality"]["verdict"] == verdict(report.quality)
    assert content["quality"]["grade"]["step"] == grade(report.quality).step
    assert content["quality"]["grade"]["advice"] == report.advice
    assert "links" not in content
    assert [row["metric"] for row in content["quality"]["interpretation"]] == [
        f.metric for f in interpret(report.quality)
    ]
    assert from_json(content["quality"]) == report.quality


def test_files_with_the_old_keys_are_read(report: Report) -> None:
    old_keys = {new: old for old, new in OLD_KEYS.items()}

    def aged(value: object) -> object:
        if isinstance(value, dict):
            return {old_keys.get(key, key): aged(content) for key, content in value.items()}
        return [aged(content) for content in value] if isinstance(value, list) else value

    old = json.loads(json.dumps(report.to_json()["quality"]))
    old = aged({key: value for key, value in old.items() if key != "interpretation"} | {"readings": []})
    assert isinstance(old, dict)
    assert {"frechet_floor", "kid_floor"} <= set(old["distances"][0])
    assert from_json(old) == report.quality


def test_the_template_is_packaged() -> None:
    import balancer

    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    assert "templates/*.html" in project.read_text()
    assert (Path(balancer.__file__).parent / "templates" / "document.html").is_file()
