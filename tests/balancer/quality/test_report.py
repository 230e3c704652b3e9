"""Rendering: Markdown and HTML say the same, everything is escaped, and what is missing is left out."""

import base64
import copy
import functools
import html
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import fields

from balancer.core.settings import QualityConfig
from balancer.data.dataset import PHANTOM_NOTICE
from balancer.metrics import two_sample
from balancer.quality.assess import ImageSet, assess
from balancer.quality.report import as_document, closest_pairs, sections, summary
from balancer.reporting.document import to_markdown
from balancer.reporting.pages import to_html

PNG = b"\x89PNG\r\n\x1a\n"
FIGURES = {name: PNG + name.encode() for name in ("grid", "closest", "spectrum", "training")}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """A whole assessment, with a test set, so that every part has something to say."""
    settings = QualityConfig(inception="off", kid_subsets=3, kid_subset_size=6)
    train = ImageSet(fields(40, 1), [f"p{i // 2}" for i in range(40)], "training fold")
    held_out, test = (
        ImageSet(fields(20, s), [f"{s}-{i}" for i in range(20)], n) for s, n in ((2, "validation"), (3, "test"))
    )
    with pytest.MonkeyPatch.context() as patch:  # rendering needs the rows, not what is in them
        patch.setattr(two_sample, "pixel_two_sample", functools.partial(two_sample.pixel_two_sample, steps=2))
        return assess(settings, train, held_out, fields(30, 4, smooth=2), torch.device("cpu"), test=test)


@pytest.fixture
def report(found: dict[str, Any]) -> dict[str, Any]:
    quality = copy.deepcopy(found)
    return {
        "title": "30 synthetic NORMAL images",
        "about": ["Generator: run `20260101-000000`.", "Trained on 40 images."],
        "data": {"notes": []},
        "quality": quality,
        "closest": closest_pairs(quality, [f"fake-{i}" for i in range(30)], [f"real-{i}" for i in range(40)]),
        "made": {"command": "`balancer synthesize`", "data": "split hash `0123456789abcdef`"},
        "figures": sorted(FIGURES),
    }


def test_both_forms_hold_every_part_and_every_cell(report: dict[str, Any]) -> None:
    markdown, page = to_markdown(as_document(report)), to_html(as_document(report), FIGURES)
    plain = html.unescape(re.sub(r"<[^>]+>", "", page))
    made = sections(report)
    assert [p.title for p in made] == [
        "In short",
        "Synthetic beside real",
        "Copies",
        "Spectrum",
        "Over training",
        "Distances",
        "Overlap",
        "Two-sample tests",
        "The data set's own shift",
        "Notes",
        "How this was made",
        "Caveats",
        "References",
    ]
    for part in made:
        assert f"## {part.title}\n" in markdown
        assert part.title in plain
        cells = [cell for row in part.table.rows for cell in row] if part.table else []
        for text in [*part.paragraphs, *cells, *part.bullets]:
            assert text in markdown
            assert text.replace("`", "") in plain
    for text in (report["title"], report["quality"]["verdict"], *report["about"]):
        assert text in markdown
        assert text.replace("`", "") in plain
    assert "<code>20260101-000000</code>" in page


def test_figures_state_counts_and_floors(report: dict[str, Any]) -> None:
    table, overlap = (
        [line for line in part.splitlines() if line.startswith(("| chest-xray", "| random"))]
        for part in re.split("## Distances|## Overlap|## Two-sample", to_markdown(as_document(report)))[1:3]
    )
    assert len(table) == len(overlap) == 4
    for line, more, row in zip(table, overlap, report["quality"]["distances"], strict=True):
        for key in ("n_real", "n_fake"):
            assert f"| {row[key]} " in line
        for key in ("frechet", "frechet_floor"):
            assert f"{row[key]:.2f}" in line
        for key in ("kid", "kid_floor"):
            assert f"{row[key]:.4f}" in line
        for name, value in row["overlap"].items():
            assert f"{value:.2f} ({row['overlap_floor'][name]:.2f})" in more


def test_the_page_stands_alone(report: dict[str, Any]) -> None:
    """Figures inside, nothing fetched, no script."""
    page = to_html(as_document(report), FIGURES)
    assert not re.findall(r"<script|<link|<iframe|@import|url\(|\bon\w+=", page)
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources] == [
        FIGURES[name] for name in ("grid", "closest", "spectrum", "training")
    ]
    assert re.findall(r"!\[[^]]*\]\(([^)]*)\)", to_markdown(as_document(report))) == [
        "grid.png",
        "closest.png",
        "spectrum.png",
        "training.png",
    ]


def test_nothing_from_outside_is_taken_as_html(report: dict[str, Any]) -> None:
    nasty = "<script>alert(1)</script> & `<b>code</b>` | bar"
    report["title"] = report["about"][0] = nasty
    report["data"]["notes"] = report["quality"]["notes"] = [nasty]
    report["made"]["data"] = report["closest"][0]["synthetic"] = nasty
    page = to_html(as_document(report), FIGURES)
    assert "<script" not in page
    assert "<b>" not in page
    assert "<code>&lt;b&gt;code&lt;/b&gt;</code>" in page
    rows = [line for line in to_markdown(as_document(report)).splitlines() if line.startswith("| data |")]
    assert rows[0].count("|") == 3, "a bar in a cell does not end it"


def test_the_phantom_banner_is_loud(report: dict[str, Any]) -> None:
    assert "PHANTOM" not in to_markdown(as_document(report))
    report["data"]["notes"] = [PHANTOM_NOTICE, "Another note."]
    page, markdown = to_html(as_document(report), FIGURES), to_markdown(as_document(report))
    assert f"> **{PHANTOM_NOTICE}**" in markdown
    assert markdown.index(PHANTOM_NOTICE) < markdown.index(report["quality"]["verdict"])
    assert f'<p class="note phantom" role="note">{PHANTOM_NOTICE}</p>' in page
    assert '<p class="note" role="note">Another note.</p>' in page


def test_no_figure_is_called_fid_without_inception(report: dict[str, Any]) -> None:
    text = to_markdown(as_document(report)).split("## Caveats")[0]
    for line in text.splitlines():
        if "FID" in line:
            assert "FID was not computed" in line or "not FIDs" in line, line


def test_missing_parts_are_left_out(report: dict[str, Any]) -> None:
    report["quality"] |= {
        "distances": [],
        "shift": [],
        "two_sample": [],
        "memorization": None,
        "spectrum": None,
        "readings": [],
        "notes": [],
        "reference": None,
    }
    report["figures"], report["closest"] = ["grid"], []
    assert [p.title for p in sections(report)] == [
        "Synthetic beside real",
        "How this was made",
        "Caveats",
        "References",
    ]
    to_html(as_document(report), {"grid": PNG})
    to_markdown(as_document(report))


def test_no_floor_is_a_dash(report: dict[str, Any]) -> None:
    row = report["quality"]["distances"][0]
    row |= {"frechet_floor": None, "kid_floor": None, "kid_sd_floor": None, "overlap_floor": None}
    line = next(
        x for x in to_markdown(as_document(report)).splitlines() if x.startswith("| chest-xray-128 | training fold")
    )
    assert line.count("| – |") == 2
    to_html(as_document(report), FIGURES)


def test_every_subset_size_is_given(report: dict[str, Any]) -> None:
    report["quality"]["distances"][0]["kid_subset_size"] = 77
    assert "subsets of 77 and 6 images" in to_markdown(as_document(report))


def test_summary(report: dict[str, Any]) -> None:
    lines = summary(report).splitlines()
    assert lines[0] == report["title"]
    assert lines[1] == report["quality"]["verdict"]
    assert len(lines) == 2 + len(report["quality"]["readings"]) + len(report["quality"]["notes"])


def test_the_template_is_packaged() -> None:
    import balancer

    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    assert "templates/*.html" in project.read_text()
    assert (Path(balancer.__file__).parent / "templates" / "document.html").is_file()
