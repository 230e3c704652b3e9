"""The page of a run, section by section: read from the Markdown file that every report has, and shown by notebooks."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

from balancer.core.errors import BalancerError, lookup

PAGES = ("report.md", "audit.md", "explain.md", "MODEL_CARD.md")  # of a run, the first that is there
_FIGURE = re.compile(r"^!\[(.*)\]\(([^():]+\.png)\)$", re.M)
_CAPTIONED = re.compile(rf"{_FIGURE.pattern}\n\n((?:.+\n)*.+)", re.M)  # a figure and the paragraph below it
_GALLERY = re.compile(rf"(?:{_CAPTIONED.pattern}(?:\n\n|\Z)){{2,}}".replace("$", ""), re.M)
_LINK = re.compile(r"(?<!!)(\[[^\]]+\]\()([^():#]+\))")
COLUMNS = 3  # of a gallery


@dataclass(frozen=True)
class PageSection:
    """A part of a page. Notebooks show the part with its tables and figures; ``print`` gives its Markdown."""

    title: str
    text: str = field(repr=False)  # Markdown below the title
    folder: Path = field(repr=False)  # that the paths of figures are relative to

    def __str__(self) -> str:
        return self.text

    @property
    def figures(self) -> list[Path]:
        """Return the files of the figures, in order."""
        return [self.folder / path for _, path in _FIGURE.findall(self.text)]

    def _repr_markdown_(self) -> str:
        """Return the title and the text with the figures inside, as a notebook shows them."""
        text = self.text.replace("<", "&lt;")  # the name of a file is no HTML
        text = _LINK.sub(rf"\g<1>{self.folder.as_posix()}/\g<2>", text)
        text = _FIGURE.sub(self._with_picture, _GALLERY.sub(self._in_rows, text))
        return f"#### {self.title}\n\n{_together(text)}"

    def _in_rows(self, gallery: re.Match[str]) -> str:
        """Return a gallery as a table of figures above their captions."""
        figures = list(_CAPTIONED.finditer(gallery[0]))
        rows = []
        for i in range(0, len(figures), COLUMNS):
            some = figures[i : i + COLUMNS]
            rows.append([self._with_picture(figure) for figure in some])
            rows.append([figure[3].replace("|", "&#124;").replace("\n", "<br>") for figure in some])
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([lines[0], f"|{' --- |' * min(COLUMNS, len(figures))}", *lines[1:]]) + "\n\n"

    def _with_picture(self, figure: re.Match[str]) -> str:
        """Return a figure whose picture stands in the text: a notebook cannot rely on the folder of the run."""
        alt, path = figure[1], figure[2]
        file = self.folder / path
        if not file.is_file():
            return f"*{alt}: {path} is missing*"
        return f"![{alt}](data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()})"


@dataclass(frozen=True)
class Page:
    """A report: its head with the verdict, and its sections by title, as in ``page["Copies"]``."""

    file: Path
    head: PageSection
    sections: dict[str, PageSection] = field(repr=False)

    def __getitem__(self, title: str) -> PageSection:
        """Return a section.

        Raises:
            BalancerError: the page has no such section; the message names the nearest one, or all.
        """
        return lookup(self.sections, title, "section")

    def _repr_markdown_(self) -> str:
        """Return the head, and the titles of the sections."""
        return f"{self.head._repr_markdown_()}\n\nSections: {', '.join(self.sections)}."


def read_page(folder: Path) -> Page:
    """Return the page of a finished run, or of a folder that `classifier explain` wrote.

    Args:
        folder: of the run.

    Raises:
        BalancerError: the folder has no page.
    """
    page = find_page(folder)
    if page is None:
        raise BalancerError(f"{folder} has no page ({', '.join(PAGES)}); give the folder of a finished run")
    return page


def find_page(folder: Path) -> Page | None:
    """Return the page of a run; None if it has none, as a GAN's training."""
    file = next((folder / name for name in PAGES if (folder / name).is_file()), None)
    if file is None:
        return None
    head, *rest = re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.M)
    title, _, text = head.strip().removeprefix("# ").partition("\n")
    parts = [PageSection(title, text.strip(), folder)]
    for block in rest:
        title, _, text = block.partition("\n")
        parts.append(PageSection(title, text.strip(), folder))
    return Page(file, parts[0], {part.title: part for part in parts[1:]})


def _together(text: str) -> str:
    """Return a text in which no line breaks within a figure and its interval."""
    text = re.sub(r"(?<=\d) ± (?=[\d.])", "\u00a0±\u00a0", text)
    return re.sub(r"\[(-?[\d.]+), (-?[\d.]+)\]", "[\\1,\u00a0\\2]", text)
