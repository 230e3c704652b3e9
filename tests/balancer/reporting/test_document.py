"""Documents: Markdown, HTML, text, CSV and LaTeX hold the same texts, and every text is escaped where it must be."""

import base64
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from balancer.reporting.document import Document, Figure, Section, Table, csv_text, latex, part_notes, to_markdown
from balancer.reporting.pages import anchors, to_html, write_document

NASTY = "<script>alert(1)</script> & `<b>code</b>` | bar"
PNG = b"\x89PNG\r\n\x1a\n"
TABLE = Table(["name", "AUROC [95 %]", "verdict"], [["a|b", ".934\n[.92, .95]", "up"], ["c", "–", NASTY]], words=True)
DOCUMENT = Document(
    f"A title {NASTY}",
    ["PHANTOM: drawings", "Another warning"],
    f"The verdict {NASTY}",
    ["first reason", f"second reason {NASTY}"],
    [
        Section("Words", ["a paragraph", NASTY], bullets=["one", NASTY]),
        Section("Numbers", [], TABLE, Figure("grid", f"How to read it {NASTY}", f"What it shows {NASTY}")),
        Section("Untitled columns", table=Table(["", ""], [["key", "value"]], numeric=2)),
    ],
    ["an introduction"],
)


def test_a_page_holds_every_text_escaped_and_fetches_nothing() -> None:
    page = to_html(DOCUMENT, {"grid": PNG})
    assert not re.search(r"<script|<b>|<link|<iframe|@import|url\(|\bon\w+=", page)
    assert "<code>&lt;b&gt;code&lt;/b&gt;</code>" in page
    shown = unescape(re.sub(r"<[^>]+>", "", page.replace("<br>", "\n")))
    texts = [DOCUMENT.title, *DOCUMENT.warnings, DOCUMENT.verdict, *DOCUMENT.headline, *DOCUMENT.introduction]
    for section in DOCUMENT.sections:
        texts += [section.title, *section.paragraphs, *section.bullets]
        texts += [cell for row in (section.table.header, *section.table.rows) for cell in row] if section.table else []
        texts += [section.figure.caption] if section.figure else []
    for text in texts:
        assert text.replace("`", "") in shown
    assert re.findall(r'src="([^"]*)"', page) == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert page.count("<thead>") == 1, "an empty header is not shown"
    assert page.count('class="number"') == 3, "the column between the first and the last"


def test_every_tag_is_closed() -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(to_html(DOCUMENT, {"grid": PNG}))
    assert open_tags == []


def test_the_contents_lead_to_every_section_of_a_long_page() -> None:
    titles = ["ROC", "Notes", "Notes", "±", "roc!"]
    page = to_html(Document("t", [], "v", sections=[Section(t, ["x"], folded=t == "ROC") for t in titles]), {})
    ends = re.findall(r'<section id="([^"]*)">', page)
    assert re.findall(r'<li><a href="#([^"]*)">', page) == ends
    assert len(set(ends)) == len(titles)
    assert page.count("<details open>") == len(titles) - 1, "every section but the folded one"
    contents = re.search(r'<nav class="contents".*?</nav>', page, re.DOTALL)
    assert contents, "a phone folds the list by the switch before it; a wide page shows the list always"
    assert re.search(r"<details><summary>Contents</summary></details>\s*<ul>", contents[0])
    assert 'class="contents"' not in to_html(DOCUMENT, {"grid": PNG}), "a short page needs no contents"


def test_no_two_sections_have_one_anchor() -> None:
    sections = [Section(title, ["x"]) for title in ("ROC", "ROC 2", "ROC", "ROC")]
    assert len(set(anchors(Document("t", [], "v", sections=sections)))) == 4


def test_a_figure_with_a_file_of_its_own_is_linked() -> None:
    assert '<a href="figures/grid.svg">' in to_html(DOCUMENT, {"grid": PNG}, {"grid": "figures/grid.svg"})
    assert "<a href=" not in to_html(DOCUMENT, {"grid": PNG})


def test_warnings_and_alarms_stand_out() -> None:
    page = to_html(DOCUMENT, {"grid": PNG})
    assert '<p class="note phantom" role="note">PHANTOM' in page
    assert '<p class="note" role="note">Another' in page
    assert '<p class="verdict">' in page
    assert '<p class="verdict alarm">' in to_html(Document("t", [], "v", alarm=True), {})


def test_the_answer_stands_before_what_limits_it() -> None:
    document = Document(
        "t", ["PHANTOM: drawings"], "Verdict.", ["Reason."], grade="Grade: poor.", caveats=["A caveat."]
    )
    for text in (to_html(document, {}), to_markdown(document)):
        places = [
            text.index(part) for part in ("PHANTOM: drawings", "Grade: poor.", "Verdict.", "Reason.", "A caveat.")
        ]
        assert places == sorted(places)
    assert "<strong>Grade: poor.</strong> Verdict." in to_html(document, {})
    assert "<strong>" not in to_html(Document("t", [], "Verdict."), {})
    assert document.answer == "Grade: poor. Verdict."
    assert Document("t", [], "Verdict.").answer == "Verdict."


def test_the_phantom_notice_alone_belongs_above_the_answer() -> None:
    assert part_notes(["a", "PHANTOM DATA: drawings", "b"]) == (["PHANTOM DATA: drawings"], ["a", "b"])
    assert part_notes(["a PHANTOM"]) == ([], ["a PHANTOM"])


def test_an_interval_and_a_number_with_its_unit_stay_on_one_line() -> None:
    page = to_html(Document("t", [], "+.012 AUROC [-.004, .020] in 95 % at 64 px"), {})
    assert re.findall(r'class="together">(.*?)</span>', page) == ["[-.004, .020]", "95 %", "64 px"]


def test_markdown() -> None:
    text = to_markdown(DOCUMENT, "figures")
    assert text.startswith(f"# {DOCUMENT.title}\n\n> **PHANTOM: drawings**\n\n> **Another warning**\n\n**The verdict")
    assert f"\n![{DOCUMENT.sections[1].figure.alt}](figures/grid.png)\n" in text
    assert "](grid.png)" in to_markdown(DOCUMENT)
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables), "bars are escaped"
    assert tables[0].splitlines()[1] == "| --- | ---: | --- |"
    assert "| a&#124;b | .934 [.92, .95] | up |" in text
    assert "\n\n\n" not in text


def test_text_columns_begin_under_their_titles() -> None:
    lines = TABLE.to_text().splitlines()
    assert lines[1] == "-" * len(lines[0])
    assert lines[0].index("AUROC") == lines[2].index(".934") == lines[3].index("–")


def test_csv() -> None:
    assert csv_text(["a", "b"], [["x,y", 0.5], [1, None]]) == 'a,b\n"x,y",0.500000\n1,\n'
    assert csv_text(["a"], [[-1e-9]]) == "a\n0.000000\n"


def test_latex_escapes_header_cells_and_caption() -> None:
    text = Table(["a_b", "AUROC [95 %]"], [["gan - combined", ".9 ± .1"]]).to_latex("Fold & 95 %", "regimes")
    assert r"\caption{Fold \& 95 \%}\label{tab:regimes}" in text
    assert r"a\_b & AUROC [95 \%] \\" in text
    assert r"gan $-$ combined & .9 $\pm$ .1 \\" in text
    assert r"{lc}" in text


@pytest.mark.parametrize(
    ("text", "escaped"), [("x-ray -1", "x-ray $-$1"), ("`a_b` < 3", r"a\_b $<$ 3"), ("1–2", "1--2")]
)
def test_latex_signs(text: str, escaped: str) -> None:
    assert latex(text) == escaped


def test_written_files(tmp_path: Path) -> None:
    write_document(DOCUMENT, tmp_path, "report", {"grid": PNG}, "figures")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} == {
        "report.md",
        "report.html",
        "figures/grid.png",
    }
    assert (tmp_path / "figures/grid.png").read_bytes() == PNG
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == to_markdown(DOCUMENT, "figures")
