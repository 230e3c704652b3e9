"""The pages hold together: links lead somewhere in the repository, and the README leads to every page."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
OUTSIDE = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as the host of the repository makes them."""
    made: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(f"{name}-{made[name]}" if made[name] else name)
        made[name] += 1
    return names


@pytest.mark.parametrize("page", [*OUTSIDE, *DOCS], ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(re.sub(r"`[^`]*`\(", "", prose(page))):
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{target}: no such file"
        assert path.is_relative_to(REPOSITORY)
        assert not anchor or anchor in anchors(path), f"{target}: no such heading"


def test_the_readme_leads_to_every_page() -> None:
    linked = {(REPOSITORY / target.partition("#")[0]).resolve() for target in LINK.findall(prose(OUTSIDE[0]))}
    assert set(DOCS) <= linked


def test_the_site_has_every_page_in_its_navigation() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in [*OUTSIDE, *DOCS]:
        assert f": {page.relative_to(REPOSITORY).as_posix()}\n" in text
