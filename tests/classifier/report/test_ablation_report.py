"""The report of an ablation: everything is written, both forms say the same, the verdict comes first, nothing is taken as HTML."""

import base64
import copy
import csv
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import run_study

from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.reporting.document import Section
from balancer.reporting.numbers import bounds
from classifier.analysis.contrasts import analyse
from classifier.analysis.results import read_predictions
from classifier.report import figures, tables
from classifier.report import page as report
from classifier.report.failures import Failures, find_failures

Row = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Written:
    """A fake study and what its report left in the run's folder."""

    run: Path
    rows: list[Row]
    analysis: dict[str, Any]
    data: Dataset
    failures: Failures

    def read(self, name: str) -> str:
        return (self.run / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Dataset]) -> Dataset:
    made = make_data((30, 40), (20, 30), (23, 39))
    return replace(made, source="/somewhere/chest_xray", notes=["A note on the data."])


@pytest.fixture(scope="module")
def written(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Written:
    run = tmp_path_factory.mktemp("study")
    rows = run_study(run, data, ["baseline", "gan"], 2)
    predictions = read_predictions(rows, run)
    analysis = analyse(rows, predictions, data.groups, resamples=40)
    report.write_outputs(rows, analysis, data, run, "Data `there`.", [*data.notes, *analysis["notes"], "A leak."])
    return Written(run, rows, analysis, data, find_failures(rows, predictions, data))


def parts_of(w: Written, shown: set[str], **changes: Any) -> list[Section]:
    entries = tables.summarise(w.rows)
    return report.parts(w.rows, entries, w.analysis | changes, w.failures, shown, "Data `there`.", ["Notes follow."])


def page_of(w: Written, **changes: Any) -> report.Page:
    made = parts_of(w, set(report.LEGENDS))
    return replace(report.Page("Title", [], "The verdict.", ["gan - baseline: something"], made), **changes)


def plain(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.replace("<br>", " ")))


def test_every_file_is_written(written: Written) -> None:
    names = {p.relative_to(written.run).as_posix() for p in written.run.rglob("*") if p.is_file()}
    drawn = {f"figures/{n}{s}" for n in set(report.LEGENDS) - {"dose"} for s in SUFFIXES}
    texts = {"table.md", "table.csv", "table.json", "table.tex", "report.md", "report.html"}
    assert names - {f"{row['folder']}/predictions.npz" for row in written.rows} == drawn | texts


def test_the_page_stands_alone(written: Written) -> None:
    """Figures inside, nothing fetched, no script."""
    page, markdown = written.read("report.html"), written.read("report.md")
    assert not re.findall(r"<script|<link|<iframe|@import|url\(|\bon\w+=|https?://", page)
    shown = re.findall(r"!\[[^]]*\]\((figures/[^)]*\.png)\)", markdown)
    assert len(shown) == len(report.LEGENDS) - 1
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    inside = [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources]
    assert inside == [(written.run / name).read_bytes() for name in shown]
    for tag in ("table", "section", "figure", "ul", "thead", "tbody", "p"):
        assert len(re.findall(rf"<{tag}\b", page)) == page.count(f"</{tag}>"), tag


def test_the_verdict_comes_first(written: Written) -> None:
    for text in (written.read("report.md"), plain(written.read("report.html")), written.read("table.md")):
        places = [
            text.index(t)
            for t in ("A note on the data.", "A leak.", written.analysis["verdict"], *written.analysis["headline"])
        ]
        assert places == sorted(places)
        assert places[-1] < text.index("Ranking and calibration") < text.index("Differences")
        assert text.index("Differences") < text.index(written.analysis["notes"][0]), "a caveat"


def test_both_forms_hold_every_part_and_every_cell(written: Written) -> None:
    page = page_of(written)
    markdown = report.render_markdown(page)
    rendered = plain(report.render_html(page, dict.fromkeys(report.LEGENDS, PNG)))
    for part in page.parts:
        assert f"## {part.title}\n" in markdown
        cells = [cell for row in part.table.rows for cell in row] if part.table else []
        captions = [report.LEGENDS[part.figure].caption] if part.figure else []
        for text in [*part.paragraphs, *captions, *cells, *part.bullets]:
            assert text.replace("\n", " ") in markdown
            assert text.replace("\n", " ").replace("`", "") in rendered
    assert page.verdict in markdown
    assert page.verdict in rendered


def test_every_figure_has_a_legend_and_a_place(written: Written) -> None:
    placed = [part.figure for part in parts_of(written, set(report.LEGENDS)) if part.figure]
    assert sorted(placed) == sorted(report.LEGENDS)
    assert placed[:2] == ["forest", "seeds"]


def test_tables_in_every_format_agree(written: Written) -> None:
    found = json.loads(written.read("table.json"))
    rows = list(csv.DictReader(written.read("table.csv").splitlines()))
    for entry, row, analysed in zip(found["regimes"], rows, written.analysis["regimes"], strict=True):
        assert entry["regime"] == row["regime"] == analysed["regime"]
        for key, metric in analysed["metrics"].items():
            assert entry[key] == pytest.approx(metric), key
            assert float(row[f"{key}_high"]) == pytest.approx(metric["high"], abs=1e-6)
        text = f"{tables.cell(entry['auroc'])} {bounds(entry['auroc']['low'], entry['auroc']['high'])}"
        assert text in written.read("table.md")
        assert text.replace("±", "$\\pm$") in written.read("table.tex")
    assert found["contrasts"] == written.analysis["contrasts"]
    assert found["notes"][0] == "A note on the data."
    assert "figures/" not in written.read("table.md")


def test_calibration_is_shown_before_and_after_the_temperature(written: Written) -> None:
    (part,) = (p for p in parts_of(written, {"reliability"}) if p.title == "Reliability")
    assert part.table is not None
    for name, *cells in part.table.rows:
        tests = [r["test"] for r in written.rows if r["regime"] == name]
        eces = [[t["uncalibrated"]["ece"] for t in tests], [t["ece"] for t in tests]]
        assert [float(c) for c in cells[1:3]] == pytest.approx([sum(e) / len(e) for e in eces], abs=6e-4)


def test_failures_are_named(written: Written) -> None:
    (part,) = (p for p in parts_of(written, set()) if p.title == "What goes wrong")
    found = [f for of_class in written.failures.of_class for f in of_class[:6]]
    assert part.table is not None
    assert [row[0] for row in part.table.rows] == [f"`{f.name}`" for f in found]
    assert f"{sum(map(len, written.failures.of_class))} of 62 test images" in part.paragraphs[0]
    none = replace(written.failures, of_class=([], []))
    (part,) = (p for p in parts_of(replace(written, failures=none), set()) if p.title == "What goes wrong")
    assert part.table is None
    assert "0 of 62" in part.paragraphs[0]


def test_nothing_from_outside_is_taken_as_html(written: Written) -> None:
    nasty = "<script>alert(1)</script> & `<b>code</b>` | bar"
    analysis = copy.deepcopy(written.analysis)
    analysis["contrasts"][0]["name"] = nasty
    found = replace(written.failures, regime=nasty)
    parts = parts_of(replace(written, failures=found), set(), contrasts=analysis["contrasts"])
    made = page_of(written, title=nasty, warnings=[nasty], verdict=nasty, headline=[nasty], parts=parts)
    page = report.render_html(made, dict.fromkeys(report.LEGENDS, PNG))
    assert "<script" not in page
    assert "<b>" not in page
    assert "<code>&lt;b&gt;code&lt;/b&gt;</code>" in page
    row = next(line for line in report.render_markdown(made).splitlines() if line.startswith("| confirmatory |"))
    assert row.count("|") == 9, "a bar in a cell does not end it"


def test_the_phantom_banner_is_loud(written: Written) -> None:
    made = page_of(written, warnings=[PHANTOM_NOTICE, "Another note."])
    page, markdown = report.render_html(made, dict.fromkeys(report.LEGENDS, PNG)), report.render_markdown(made)
    assert f"> **{PHANTOM_NOTICE}**" in markdown
    assert markdown.index(PHANTOM_NOTICE) < markdown.index("The verdict.")
    assert f'<p class="note phantom" role="note">{PHANTOM_NOTICE}</p>' in page
    assert '<p class="note" role="note">Another note.</p>' in page
    assert figures.data_name(replace(written.data, source="phantom")) == "phantom: drawings, not X-rays"


def test_one_regime_and_one_seed_can_be_reported(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pair to compare, no spread to show: said so, not left blank."""
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})  # drawn in test_figures
    rows = run_study(tmp_path, data, ["baseline"], 1)
    analysis = analyse(rows, read_predictions(rows, tmp_path), data.groups, resamples=20)
    report.write_outputs(rows, analysis, data, tmp_path, "", [])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No two regimes here make a pair" in text
    assert "One trial seed: no SD" in text
    assert "Image-level references" not in text.split("## References")[0]
    assert " ± n/a [" in text


def test_one_seed_of_two_regimes_is_compared_without_a_p(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})
    rows = run_study(tmp_path, data, ["baseline", "gan"], 1)
    analysis = analyse(rows, read_predictions(rows, tmp_path), data.groups, resamples=20)
    report.write_outputs(rows, analysis, data, tmp_path, "", [])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\| confirmatory \| gan - baseline \| [+-]\.\d+ \| \[.*\] \| – \| – \| – \| not settled \|", text)
