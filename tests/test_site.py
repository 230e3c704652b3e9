"""The documentation as a site: built with every warning an error, then read in a real Chromium from disk."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from chromium import in_a_browser

if TYPE_CHECKING:
    from playwright import sync_api as playwright

REPOSITORY = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)|<link[^>]* href=\"([^\"]+)", text)
        outside = [url for pair in loaded for url in pair if url.startswith(("http", "//"))]
        assert outside == [], page
        assert 'class="mermaid"' not in text, "the theme fetches what draws these"


def test_no_text_is_left_unread(site: Path) -> None:
    """A role, a doctest, or a list or a table without an empty line before it, would show as it is typed."""
    unread = r":(?:func|class|mod|data|meth|attr):|&gt;&gt;&gt;|<blockquote>|`|\]\[|\]\(|\*\*|<p>[^<]*\n(?:- |\|)"
    for page in pages(site):
        article = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        assert not re.search(unread, re.sub(r"<(pre|code).*?</\1>", "x", article, flags=re.S)), page


def test_every_setting_and_every_public_name_has_an_anchor(site: Path) -> None:
    settings = (site / "reference/settings.html").read_text(encoding="utf-8")
    for section, values in yaml.safe_load((REPOSITORY / "configs/default.yaml").read_text(encoding="utf-8")).items():
        for name in values:
            assert re.search(rf'id="{section}\.{name}["\.]', settings), f"{section}.{name}"
    public = (site / "reference/public.html").read_text(encoding="utf-8")
    for package in ("balancer", "classifier"):
        for name in importlib.import_module(package).__all__:
            assert f'id="{package}.{name}"' in public


@in_a_browser
def test_a_phone_shows_every_page_without_sideways_scrolling(site: Path, browser: "playwright.Browser") -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    complaints: list[str] = []
    phone.on("pageerror", lambda error: complaints.append(str(error)))
    phone.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else complaints.append(r.url))
    for page in pages(site):
        phone.goto(page.as_uri(), wait_until="domcontentloaded")
        assert phone.evaluate("document.documentElement.scrollWidth") == 390, page
        assert phone.evaluate("document.body.dataset.mdColorScheme") == "slate"
    assert complaints == []
    phone.close()


@in_a_browser
@pytest.mark.parametrize(
    ("words", "address"),
    [("ema_decay", "settings.html?h=ema_decay#gan_train.ema_decay"), ("--dry-run", "options.html?h=")],
)
def test_search_finds_settings_and_options_from_disk(
    site: Path, browser: "playwright.Browser", words: str, address: str
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "index.html").as_uri())
    page.fill("input.md-search__input", words)
    page.wait_for_selector(f".md-search-result a[href*='{address}']")
    page.close()
