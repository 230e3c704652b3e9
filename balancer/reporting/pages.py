"""Self-contained HTML pages: one file with the pictures inside; no script, nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from balancer.core.files import atomic_file, write_text
from balancer.reporting.document import PHANTOM, Document, to_markdown

if TYPE_CHECKING:
    import jinja2

_TOGETHER = re.compile(r"(\[-?[\d.]+, -?[\d.]+\]|[\d.]+ (?:%|px|dB|MB))")  # intervals, numbers and their units


def template_environment() -> jinja2.Environment:
    """Return where the templates of pages lie: every text is escaped, and an unknown name in a template is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("balancer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_html(document: Document, pictures: Mapping[str, bytes], files: Mapping[str, str] | None = None) -> str:
    """Return the document as an HTML page.

    Args:
        document: what to show; every text in it is escaped, and `code` in backticks is set as code.
        pictures: PNG files by the name of their figure.
        files: the paths of figures' own files relative to the page, by the name of the figure. The page links them:
            text in a figure is small on a phone.
    """
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))).replace("\n", "<br>")
        return Markup(_TOGETHER.sub(r'<span class="together">\1</span>', html))

    environment = template_environment()
    environment.filters["inline"] = inline
    encoded = {name: base64.b64encode(png).decode() for name, png in pictures.items()}
    return environment.get_template("document.html").render(
        document=document, pictures=encoded, files=files or {}, anchors=anchors(document), phantom=PHANTOM
    )


def anchors(document: Document) -> list[str]:
    """Return a name for each section, in order, that a link may end in after ``#``; no name comes twice."""
    names: list[str] = []
    for section in document.sections:
        name = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        while name in names:
            name = f"{name}-{len(names)}"
        names.append(name)
    return names


def without_links(page: str) -> str:
    """Return a page without its links to files beside it, for a copy that lies elsewhere."""
    page = re.sub(r'<p class="links">.*?</p>\n', "", page, flags=re.DOTALL)
    return re.sub(r'<a href="[^#"][^"]*">[^<]*</a>\n?', "", page)


def write_document(
    document: Document, folder: Path, name: str, pictures: Mapping[str, bytes], picture_folder: str = ""
) -> None:
    """Write ``<name>.md``, ``<name>.html`` and the pictures, the page last.

    Args:
        document: what to write.
        folder: an existing folder.
        name: of the files, such as ``report``.
        pictures: PNG files by the name of their figure.
        picture_folder: where the pictures go, relative to ``folder``; made if need be.
    """
    (folder / picture_folder).mkdir(exist_ok=True)
    for figure, png in pictures.items():
        with atomic_file(folder / picture_folder / f"{figure}.png") as handle:
            handle.write(png)
    write_text(folder / f"{name}.md", to_markdown(document, picture_folder))
    files = {figure: (Path(picture_folder) / f"{figure}.png").as_posix() for figure in pictures}
    write_text(folder / f"{name}.html", to_html(document, pictures, files))
