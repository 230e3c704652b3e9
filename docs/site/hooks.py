"""What the site has beside the pages of docs/: pages of other folders, and the reference.

Each page keeps its path in the repository as its source. So a relative link that is right in the repository is right
on the site too, and no link is rewritten. Pages of docs/ stand at the top of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils.templates import TemplateContext

PAGES = {  # outside docs/, and where they stand on the site
    "README.md": "index.html",
    "data/README.md": "data.html",
    "CONTRIBUTING.md": "contributing.html",
    "CHANGELOG.md": "changelog.html",
}
LISTINGS = ("configs/*.yaml", "configs/seeds/*.yaml", "notebooks/*.ipynb")  # pages link to them: each is shown on one
FILE_NAME = re.compile(r"\[(?:[\w-]+/)*[\w-]+\.md\]\(([^)#]+)(#[^)]*)?\)")  # a link that shows a file name


class Listing(File):
    """A page that shows a file as it is."""

    def is_documentation_page(self) -> bool:
        """Say that the file becomes a page, whatever its suffix."""
        return True


def on_config(config: MkDocsConfig) -> None:
    """Add a page for each package to the navigation."""
    (section,) = (entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    section[-1]["Packages"] = [{name: f"docs/{name}.md"} for name in reference.PACKAGES]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site under their paths in the repository."""
    root = Path(config.config_file_path).parent
    made = Files([file for file in files if file.src_dir != config.docs_dir])  # of the theme
    for file in files:
        if file.src_dir == config.docs_dir and file.abs_src_path and not file.src_uri.endswith(".py"):
            made.append(_placed(config, f"docs/{file.src_uri}", file.dest_uri, Path(file.abs_src_path)))
    for name, place in PAGES.items():
        made.append(_placed(config, name, place, root / name))
    for path in sorted(path for pattern in LISTINGS for path in root.glob(pattern)):
        made.append(_listing(config, path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")))
    for name, text in reference.pages().items():
        made.append(File.generated(config, f"docs/{name}.md", content=text))
        made.src_uris[f"docs/{name}.md"].dest_uri = f"reference/{name}.html"
    return made


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links to other pages show the names of these pages, not of their files."""
    titles = _titles(config.nav or [])

    def named(link: re.Match[str]) -> str:
        title = titles.get(posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[1])))
        return f"[{title}]({link[1]}{link[2] or ''})" if title else link[0]

    markdown = FILE_NAME.sub(named, markdown)
    if page.file.src_uri == "docs/api.md":  # the first column leads to the functions
        markdown = re.sub(r"^\| `((?:balancer|classifier)\.\w+)` \|", r"| [`\1`][\1] |", markdown, flags=re.M)
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose images lead to their files, which a phone shows at full size."""
    return re.sub(r'<img [^>]*src="([^"]+)"[^>]*>', r'<a href="\1">\g<0></a>', html)


def on_page_context(context: TemplateContext, page: Page, config: MkDocsConfig, nav: Navigation) -> None:
    """Leave the settings out of the contents list of their page, once search has read the page: there are too many."""
    if page.file.src_uri == "docs/settings.md":
        for section in page.toc.items[0].children:
            section.children = []


def _titles(nav: list[dict[str, str | list[Any]]]) -> dict[str, str]:
    """Return the name of each page in the navigation, by the page's path."""
    titles: dict[str, str] = {}
    for entry in nav:
        for name, inside in entry.items():
            titles |= {inside: name} if isinstance(inside, str) else _titles(inside)
    return titles


def _placed(config: MkDocsConfig, source: str, place: str, path: Path) -> File:
    """Return a file with its path in the repository, and its place on the site."""
    file = File.generated(config, source, abs_src_path=str(path))
    file.dest_uri = place
    return file


def _listing(config: MkDocsConfig, source: str, text: str) -> File:
    """Return a page that shows a file which is no Markdown."""
    place = f"{source.removesuffix('.ipynb')}.html"
    page = Listing(source, None, config.site_dir, use_directory_urls=False, dest_uri=place)
    page.generated_by = "docs/site/hooks.py"
    page.content_string = reference.listing_page(source, text)
    return page
