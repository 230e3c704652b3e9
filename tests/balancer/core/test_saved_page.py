"""The page of a run, read back section by section as notebooks show it."""

import base64
import re
from pathlib import Path

import pytest

from balancer.core.errors import BalancerError
from balancer.core.run import FinishedRun
from balancer.core.saved_page import COLUMNS, PAGES, read_page
from balancer.reporting.document import Document, Figure, Section, Table
from balancer.reporting.pages import write_document

PICTURE = b"\x89PNG of a forest"
DOCUMENT = Document(
    "Did it help?",
    ["PHANTOM"],
    "Not settled.",
    ["gan - baseline: +.002 [-.004, .008]"],
    [
        Section("Differences", ["Paired by seed."], Table(["a", "b"], [["x", "1"]]), Figure("forest", "Read it.", "F")),
        Section("Every trial", bullets=["## is no heading here", "two"]),
    ],
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_document(DOCUMENT, tmp_path, "report", {"forest": PICTURE}, "figures")
    return tmp_path


def test_a_page_has_the_parts_of_its_document(run: Path) -> None:
    page = read_page(run)
    assert list(page.sections) == [section.title for section in DOCUMENT.sections]
    assert page.head.title == DOCUMENT.title
    for text in (DOCUMENT.verdict, *DOCUMENT.warnings, *DOCUMENT.headline):
        assert text in page.head.text
    assert "| x | 1 |" in page["Differences"].text
    assert "two" in str(page["Every trial"])
    assert page["Differences"].figures == [run / "figures" / "forest.png"]
    assert all(title in page._repr_markdown_() for title in page.sections)


def test_a_notebook_gets_the_picture_itself(run: Path) -> None:
    shown = read_page(run)["Differences"]._repr_markdown_()
    (inside,) = re.findall(r"!\[F\]\(data:image/png;base64,(.*?)\)", shown)
    assert base64.b64decode(inside) == PICTURE
    assert "Read it." in shown
    (run / "figures" / "forest.png").unlink()
    assert "figures/forest.png is missing" in read_page(run)["Differences"]._repr_markdown_()


def test_a_gallery_is_set_in_rows(tmp_path: Path) -> None:
    gallery = [Figure(f"p{i}", f"a|b <i> {i}.png\ncalled NORMAL", f"image {i}") for i in range(COLUMNS + 1)]
    document = Document(
        "Maps", [], "They mean something.", [], [Section("Heat maps", ["Left, right."], gallery=gallery)]
    )
    write_document(document, tmp_path, "explain", {figure.name: PICTURE for figure in gallery}, "pictures")
    section = read_page(tmp_path)["Heat maps"]
    assert [file.stem for file in section.figures] == [figure.name for figure in gallery]
    rows = [line for line in section._repr_markdown_().splitlines() if line.startswith("|")]
    assert [row.count("data:image") for row in rows] == [COLUMNS, 0, 0, 1, 0]
    assert [row.count("called NORMAL") for row in rows] == [0, 0, COLUMNS, 0, 1]
    assert all(row.count("|") == len(row.split(" | ")) + 1 for row in rows if "called" in row), "no | ends a cell"
    assert "<i>" not in section._repr_markdown_(), "the name of a file is no HTML"


def test_links_and_intervals_hold_in_a_notebook(tmp_path: Path) -> None:
    text = "# Title\n\nBeside this page: [audit](audit/audit.html). AUROC .95 ± .01 [.90, .98]\n"
    (tmp_path / "report.md").write_text(text, encoding="utf-8")
    shown = read_page(tmp_path).head._repr_markdown_()
    assert f"[audit]({tmp_path.as_posix()}/audit/audit.html)" in shown
    assert ".95\u00a0±\u00a0.01 [.90,\u00a0.98]" in shown


def test_an_unknown_section_names_the_nearest(run: Path) -> None:
    with pytest.raises(BalancerError, match=r"'Difference'.*'Differences'"):
        read_page(run)["Difference"]


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match=PAGES[0]):
        read_page(tmp_path)


def test_a_finished_run_shows_its_page_else_its_result(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    class Result:
        def describe(self) -> str:
            return "700 steps"

    finished = FinishedRun(run, Result())
    assert DOCUMENT.verdict in finished._repr_markdown_()
    assert finished.page == read_page(run)
    bare = FinishedRun(tmp_path_factory.mktemp("gan"), Result())
    assert "700 steps" in bare._repr_markdown_()
    assert str(bare.path) in bare._repr_markdown_()
    assert len(repr(finished)) < 300, "a result may hold thousands of values"
