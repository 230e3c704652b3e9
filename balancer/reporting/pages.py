"""Self-contained HTML pages: one file with the pictures inside; no script, nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from balancer.core.files import atomic_file, write_text
from balancer.reporting.document import Document, to_markdown

_TOGETHER = re.compile(r"(\[-?[\d.]+, -?[\d.]+\]|[\d.]+ (?:%|px|dB|MB))")  # intervals, numbers and their units


def to_html(document: Document, pictures: Mapping[str, bytes]) -> str:
    """Return the document as an HTML page.

    Args:
        document: what to show; every text in it is escaped, and `code` in backticks is set as code.
        pictures: PNG files by the name of their figure.
    """
    import jinja2
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        html = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))).replace("\n", "<br>")
        return Markup(_TOGETHER.sub(r'<span class="together">\1</span>', html))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("balancer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    encoded = {name: base64.b64encode(png).decode() for name, png in pictures.items()}
    return environment.get_template("document.html").render(document=document, pictures=encoded)


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
    write_text(folder / f"{name}.html", to_html(document, pictures))
