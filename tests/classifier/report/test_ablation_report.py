"""The report of an ablation: everything is written, both forms agree, the verdict comes first, nothing is HTML."""

import base64
import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_meter import with_meter
from fake_study import fake_study
from PIL import Image

from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.reporting.document import Document, Link, Section, to_markdown
from balancer.reporting.pages import to_html
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.results import StudyResults
from classifier.report import figures, meter, tables
from classifier.report import page as report
from classifier.report.failures import Failures, find_failures
from classifier.training.synthetic import SyntheticSet

PNG = b"\x89PNG\r\n\x1a\n"
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Written:
    """A fake study and what its report left in the run's folder."""

    run: Path
    results: StudyResults
    analysis: Analysis
    data: Dataset
    failures: Failures

    def read(self, name: str) -> str:
        return (self.run / name).read_text(encoding="utf-8")


def study(data: Dataset, arms: list[str], seeds: int) -> StudyResults:
    return fake_study(arms, seeds, 1, data.labels, data.folds, data.groups)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Dataset]) -> Dataset:
    made = make_data((30, 40), (20, 30), (23, 39))
    return replace(made, source="/somewhere/chest_xray", notes=["A note on the data."])


FIGURES = report.figures_of(("NORMAL", "PNEUMONIA"))


@pytest.fixture(scope="module")
def written(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Written:
    run, results = tmp_path_factory.mktemp("study"), study(data, ["baseline", "gan"], 2)
    results = with_meter(results, {"baseline": 0.0, "gan": 2.0})
    analysis = analyse(results, resamples=40)
    report.write_outputs(results, analysis, data, run, "Data `there`.", [*data.notes, *analysis.notes, "A leak."])
    return Written(run, results, analysis, data, find_failures(results, data))


def sections_of(w: Written, shown: set[str]) -> list[Section]:
    rows = tables.regime_rows(w.results, w.analysis)
    return report.sections(w.results, rows, w.analysis, w.failures, shown, "Data `there`.", ["Notes follow."])


def document_of(w: Written, **changes: Any) -> Document:
    made = sections_of(w, set(FIGURES))
    return replace(Document("Title", [], "The verdict.", ["gan - baseline: something"], made), **changes)


def plain(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.replace("<br>", " ")))


def test_every_file_is_written(written: Written) -> None:
    names = {p.relative_to(written.run).as_posix() for p in written.run.rglob("*") if p.is_file()}
    drawn = {f"figures/{n}{s}" for n in set(FIGURES) - {"dose"} for s in SUFFIXES}
    texts = {"table.md", "table.csv", "table.json", "table.tex", "report.md", "report.html"}
    assert names == drawn | texts


def test_the_head_leads_to_audit_synthesis_and_images(
    written: Written, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links lead to files of the run; the row of images is that of the set, in the page."""
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})
    images = np.random.default_rng(0).integers(0, 256, (9, *data.images.shape[1:]), dtype=np.uint8)
    synthetic = SyntheticSet(Path("there"), images, np.zeros(9, dtype=np.int64), ("",) * 9, "g")
    links = [Link("audit of the data", "audit/audit.html"), Link("report on synthetic set 0", "synthetic/set-0.html")]
    notes = ["Shortcut in the data: AUROC .910."]
    report.write_outputs(written.results, written.analysis, data, tmp_path, "", notes, [synthetic], links)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    head = page[: page.index("Ranking and calibration</h2>")]
    paths = [path for path in re.findall(r'href="([^"]*)"', head) if not path.startswith("#")]
    assert paths == [*(link.path for link in links), "figures/synthetic.png"]
    assert "AUROC .910" in head
    assert "[audit of the data](audit/audit.html)" in text
    picture = base64.b64decode(re.findall(r'base64,([^"]*)"', head)[0])
    assert picture == (tmp_path / "figures" / "synthetic.png").read_bytes()
    pixels, side = np.asarray(Image.open(io.BytesIO(picture))), data.images.shape[1]
    factor = pixels.shape[1] // (8 * (side + 2) + 2)
    small = pixels[::factor, ::factor]
    real = data.images[data.indices("train", 0)[0]]
    assert (small[2 : side + 2, 2 : side + 2] == real).all()
    assert (small[side + 4 : 2 * side + 4, 2 : side + 2] == images[0]).all()


def test_no_report_speaks_of_patients_where_none_is_known(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})
    patients = [f"NORMAL-file-{i}.png" for i in range(len(data.labels))]
    unknown = replace(data, groups=patients, notes=[])
    results = fake_study(["baseline", "gan"], 2, 1, data.labels, data.folds, patients)
    results = with_meter(results, {"baseline": 0.0, "gan": 2.0})
    analysis = analyse(results, resamples=20)
    report.write_outputs(results, analysis, unknown, tmp_path, "", analysis.notes)
    for name in ("report.md", "table.md", "table.tex"):
        assert "patient" not in (tmp_path / name).read_text(), name
    assert "patient" not in results.counts()


def test_the_page_stands_alone(written: Written) -> None:
    """Figures inside, nothing fetched, no script."""
    page, markdown = written.read("report.html"), written.read("report.md")
    assert not re.findall(r"<script|<link|<iframe|@import|url\(|\bon\w+=|https?://", page)
    shown = re.findall(r"!\[[^]]*\]\((figures/[^)]*\.png)\)", markdown)
    assert len(shown) == len(FIGURES) - 1
    files = [path for path in re.findall(r'href="([^"]*)"', page) if not path.startswith("#")]
    assert len(files) == len(shown)
    assert all((written.run / path).is_file() for path in files), "the figures' own files beside the page"
    sources = re.findall(r'src="([^"]*)"', page)
    inside = [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources]
    assert inside == [(written.run / name).read_bytes() for name in shown]
    for tag in ("table", "section", "figure", "ul", "thead", "tbody", "p"):
        assert len(re.findall(rf"<{tag}\b", page)) == page.count(f"</{tag}>"), tag


def test_the_verdict_comes_first(written: Written) -> None:
    for text in (written.read("report.md"), plain(written.read("report.html")), written.read("table.md")):
        places = [
            text.index(t)
            for t in (written.analysis.verdict, *written.analysis.headline, "A note on the data.", "A leak.")
        ]
        assert places == sorted(places)
        assert places[-1] < text.index("Ranking and calibration") < text.index("Differences")
        assert text.index("Differences") < text.index(written.analysis.notes[0]), "a caveat"


def test_every_figure_has_a_caption_and_a_place(written: Written) -> None:
    placed = [section.figure.name for section in sections_of(written, set(FIGURES)) if section.figure]
    assert sorted(placed) == sorted(FIGURES)
    assert placed[:2] == ["forest", "seeds"]
    page = plain(written.read("report.html"))
    assert all(figure.caption in page for name, (_, figure) in FIGURES.items() if name != "dose")


def test_the_meter_has_its_section_with_a_sentence_a_figure_and_columns(written: Written) -> None:
    (gan,) = [result for result in written.analysis.meter if result.regime == "gan"]
    for text in (written.read("report.md"), plain(written.read("report.html")), written.read("table.md")):
        assert gan.sentence in text
        assert meter.TITLE in text
    assert f"![{meter.ALT}](figures/meter.png)" in written.read("report.md")
    rows = {row["regime"]: row for row in csv.DictReader(io.StringIO(written.read("table.csv")))}
    for result in written.analysis.meter:
        moved, row = result.traces[0], rows[result.regime]
        assert float(row["meter_NORMAL_spectrum_traced_value"]) == pytest.approx(moved.traced.value, abs=1e-6)
        assert float(row["meter_NORMAL_spectrum_shift"]) == pytest.approx(moved.shift, abs=1e-6)
    assert rows["baseline"]["meter_NORMAL_spectrum_beyond_reference_low"] == ""
    expected = json.loads(json.dumps([result.to_json() for result in written.analysis.meter]))
    assert json.loads(written.read("table.json"))["meter"] == expected


def test_a_study_without_the_meter_has_no_section(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})
    results = study(data, ["baseline", "gan"], 2)
    report.write_outputs(results, analyse(results, resamples=20), data, tmp_path, "", [])
    assert meter.TITLE not in (tmp_path / "report.md").read_text()
    assert "meter" not in (tmp_path / "table.csv").read_text()


def test_tables_in_every_format_agree(written: Written) -> None:
    found = json.loads(written.read("table.json"))
    rows = list(csv.DictReader(written.read("table.csv").splitlines()))
    for entry, row, analysed in zip(found["regimes"], rows, written.analysis.regimes, strict=True):
        assert entry["regime"] == row["regime"] == analysed.regime
        for key, metric in analysed.metrics.items():
            assert entry[key] == pytest.approx(asdict(metric)), key
            assert float(row[f"{key}_high"]) == pytest.approx(metric.high, abs=1e-6)
        text = tables.cell(analysed.metrics["auroc"])
        assert text in written.read("table.md")
        assert text.replace("±", "$\\pm$") in written.read("table.tex")
    assert found["contrasts"] == json.loads(json.dumps(written.analysis.to_json()["contrasts"]))
    assert found["notes"][0] == "A note on the data."
    assert "figures/" not in written.read("table.md")


def test_calibration_is_shown_before_and_after_the_temperature(written: Written) -> None:
    (section,) = (s for s in sections_of(written, {"reliability"}) if s.title == "Reliability")
    assert section.table is not None
    for name, *cells in section.table.rows:
        tests = [t.test for t in written.results.arms[name]]
        eces = [[t.uncalibrated.ece for t in tests], [t.ece for t in tests]]
        assert [float(c) for c in cells[1:3]] == pytest.approx([sum(e) / len(e) for e in eces], abs=6e-4)


def what_goes_wrong(w: Written) -> Section:
    (section,) = (s for s in sections_of(w, set()) if s.title == "What goes wrong")
    return section


def test_failures_are_named(written: Written) -> None:
    section = what_goes_wrong(written)
    failures = [f for of_class in written.failures.of_class for f in of_class[:6]]
    assert section.table is not None
    assert [row[0] for row in section.table.rows] == [f"`{f.name}`" for f in failures]
    assert f"{sum(map(len, written.failures.of_class))} of 62 test images" in section.paragraphs[0]
    none = what_goes_wrong(replace(written, failures=replace(written.failures, of_class=([], []))))
    assert none.table is None
    assert "0 of 62" in none.paragraphs[0]


def test_nothing_from_outside_is_taken_as_html(written: Written) -> None:
    nasty = "<script>alert(1)</script> & `<b>code</b>` | bar"
    first, *others = written.analysis.contrasts
    contrasts = [replace(first, contrast=replace(first.contrast, name=nasty)), *others]
    changed = replace(written.analysis, contrasts=contrasts)
    sections = sections_of(replace(written, failures=replace(written.failures, regime=nasty), analysis=changed), set())
    document = document_of(written, title=nasty, warnings=[nasty], verdict=nasty, headline=[nasty], sections=sections)
    page = to_html(document, dict.fromkeys(FIGURES, PNG))
    assert "<script" not in page
    assert "<b>" not in page
    assert "<code>&lt;b&gt;code&lt;/b&gt;</code>" in page
    row = next(line for line in to_markdown(document).splitlines() if line.startswith("| confirmatory |"))
    assert row.count("|") == 9, "a bar in a cell does not end it"


def test_the_phantom_banner_is_loud(written: Written) -> None:
    document = document_of(written, warnings=[PHANTOM_NOTICE, "Another note."])
    page, markdown = to_html(document, dict.fromkeys(FIGURES, PNG)), to_markdown(document)
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
    results = study(data, ["baseline"], 1)
    report.write_outputs(results, analyse(results, resamples=20), data, tmp_path, "", [])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No two regimes here make a pair" in text
    assert "One trial seed: no SD" in text
    assert "Image-level references" not in text.split("## References")[0]
    assert " ± n/a [" in text


def test_one_seed_of_two_regimes_is_compared_without_a_p(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})
    results = study(data, ["baseline", "gan"], 1)
    report.write_outputs(results, analyse(results, resamples=20), data, tmp_path, "", [])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    row = r"\| confirmatory \| gan - baseline \| [+-]\.\d+ \| \[.*\] \| – \| – \| – \| not settled \|"
    assert re.search(row, text)
