"""The page in a real Chromium: upload, probability, heat map, warning, errors, keyboard, token, phone, dark."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from chromium import in_a_browser
from serving_helpers import Serve, running

from classifier.serving.app import Options
from classifier.serving.examples import drawings
from classifier.serving.limits import Limits
from classifier.serving.models import ServedModel

if TYPE_CHECKING:
    from playwright import sync_api as playwright

pytestmark = [
    pytest.mark.nightly,
    in_a_browser,
]


@pytest.fixture(scope="module")
def shared(models: list[ServedModel]) -> Iterator[httpx.Client]:
    with running(models, Options(Limits(megabytes=0.5), drawings(["NORMAL", "PNEUMONIA"]))) as client:
        yield client


@pytest.fixture
def page(browser: "playwright.Browser", shared: httpx.Client) -> Iterator["playwright.Page"]:
    """The page, opened; the test fails if the browser complained, or asked any other host."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda m: complaints.append(m.text) if "Content Security Policy" in m.text else None)
    opened.on(
        "request", lambda r: None if r.url.startswith(("data:", str(shared.base_url))) else complaints.append(r.url)
    )
    opened.goto(str(shared.base_url))
    opened.wait_for_selector("#examples button")
    yield opened
    opened.close()
    assert complaints == []


def upload(page: "playwright.Page", content: bytes, name: str = "scan.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def test_an_upload_shows_what_rest_says(page: "playwright.Page", shared: httpx.Client, picture: bytes) -> None:
    sent: list[playwright.Request] = []
    page.on("request", lambda r: sent.append(r) if r.method == "POST" else None)
    upload(page, picture, "Anna Beispiel.png")
    page.wait_for_selector(".card")
    (request,) = sent
    headers = request.all_headers()
    assert headers["content-length"] == str(len(picture)), "the bytes alone"
    assert "Anna" not in f"{request.url} {headers}", "the name stays in the browser"
    (expected,) = shared.post("/api/explain", content=picture).json()["predictions"]
    called = next(p for p in expected["probabilities"] if p["name"] == expected["label"])
    assert page.inner_text(".call-label") == expected["label"]
    shown = re.search(r"[\d.]+", page.inner_text(".call-figure"))
    assert shown is not None
    assert float(shown[0]) == pytest.approx(100 * called["calibrated"], abs=0.06)
    assert "balanced accuracy on validation" in page.inner_text(".decision")
    assert page.locator(".neighbours li").count() == 5
    assert page.locator(".neighbours img").count() == 0, "labels alone"
    assert page.is_visible("text=Research only, not for clinical use.")


def test_the_heat_map_lies_on_the_image_and_fades(page: "playwright.Page", picture: bytes) -> None:
    upload(page, picture)
    page.wait_for_selector(".card")
    xray, heat = page.locator(".xray").bounding_box(), page.locator(".heat").bounding_box()
    assert xray == heat
    assert xray is not None
    assert xray["width"] / xray["height"] == pytest.approx(40 / 32, rel=0.02)
    for value, opacity in (("0", "0"), ("100", "1")):
        page.locator("#opacity").fill(value)
        assert page.locator(".heat").evaluate("e => getComputedStyle(e).opacity") == opacity
    before = page.get_attribute(".heat", "src")
    page.select_option("#method", "occlusion")
    page.wait_for_function("before => document.querySelector('.heat').src !== before", arg=before)
    page.select_option("#class", "NORMAL")
    page.wait_for_selector("figcaption:has-text('NORMAL')")
    page.check("#as-seen")
    assert page.locator(".xray").evaluate("e => e.naturalWidth") == 16


def test_a_cat_is_warned_of(page: "playwright.Page", cat: bytes, picture: bytes) -> None:
    upload(page, cat)
    page.wait_for_selector(".unlike")
    assert page.is_visible(".unlike >> text=Unlike the training data")


def test_errors_are_said_and_pass(page: "playwright.Page", picture: bytes) -> None:
    for content, words in ((b"no image", "not an image"), (b"", "empty"), (bytes(600_000), "0.5 MB")):
        upload(page, content)
        page.wait_for_selector(f"#error:has-text('{words}')")
        assert page.get_attribute("#error", "role") == "alert"
        assert page.locator(".card").count() == 0
    upload(page, picture)
    page.wait_for_selector(".card")
    assert not page.is_visible("#error")


def test_the_model_card_opens(page: "playwright.Page", shared: httpx.Client) -> None:
    card = shared.get("/api/card", params={"model": "baseline"}).json()
    page.locator("#models summary").click()
    page.wait_for_selector(".card-text h4")
    assert page.locator(".card-text h4").count() == len(card["sections"])
    assert page.inner_text(".card-text h3") == card["title"]


def test_everything_works_by_keyboard(page: "playwright.Page") -> None:
    """Tab reaches the file, the examples and the controls; Enter and arrows work them; the focus is visible."""
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = "e => getComputedStyle(e.id === 'file' ? e.parentElement : e).outlineStyle"
        assert page.evaluate(f"({outline})(document.activeElement)") != "none"
    assert reached == ["A", "file", "BUTTON", "BUTTON"]
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    assert page.locator("#examples button").nth(1).get_attribute("aria-pressed") == "true"
    page.focus("#opacity")
    page.keyboard.press("Home")
    assert page.inner_text("#opacity-value") == "0 %"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "class"


def test_nothing_moves_where_motion_is_not_wanted(page: "playwright.Page", picture: bytes) -> None:
    seconds = "e => getComputedStyle(e).transitionDuration"
    assert page.locator("#cards").evaluate(seconds) != "0s"
    page.emulate_media(reduced_motion="reduce")
    upload(page, picture)
    page.wait_for_selector(".card")
    moving = """() => [...document.querySelectorAll('*')].map(e => getComputedStyle(e))
        .filter(s => s.transitionDuration !== '0s' || s.animationName !== 'none' || s.scrollBehavior === 'smooth')"""
    assert page.evaluate(f"({moving})().length") == 0


def test_a_screen_reader_finds_names(page: "playwright.Page", picture: bytes) -> None:
    upload(page, picture)
    page.wait_for_selector(".card")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button')].filter(e => e.checkVisibility())
             .filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")
    assert page.get_attribute("html", "lang") == "en"
    assert page.get_attribute("#status", "role") == "status"
    assert page.locator("h1").count() == 1


def test_a_token_is_asked_for_once(browser: "playwright.Browser", serve: Serve) -> None:
    token = "0123456789abcdef"
    with serve(Options(examples=drawings(["NORMAL", "PNEUMONIA"]), token=token)) as client:
        page = browser.new_page()
        page.goto(str(client.base_url))
        page.wait_for_selector("#token")
        assert not page.is_visible("#main")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#served:has-text('token')")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#examples button")
        page.locator("#examples button").first.click()
        page.wait_for_selector(".card")
        page.close()


TEXTS = ("h1", ".quiet", ".banner", ".call", ".decision", ".neighbours li", "#controls label", "select", "figcaption")
TEXTS += ("#examples button", ".drop-main", "summary", ".about a", ".card h3", ".bars .quiet")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_phone_and_dark(
    browser: "playwright.Browser", shared: httpx.Client, scheme: str, width: int, picture: bytes, cat: bytes
) -> None:
    """Nothing is wider than the screen, and text stands out from what is behind it."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(str(shared.base_url))
    page.wait_for_selector("#examples button")
    upload(page, picture)
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in TEXTS:
        assert contrast(page, selector) > 4.5, selector
    assert contrast(page, ".bar i", "backgroundColor", ".bar") > 3
    assert contrast(page, "#drop", "borderTopColor") > 3
    upload(page, cat)
    page.wait_for_selector(".unlike:visible")
    assert contrast(page, ".unlike") > 4.5
    upload(page, b"no image")
    page.wait_for_selector("#error:visible")
    assert contrast(page, "#error") > 4.5
    box = page.locator("#error").bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 800 - box["height"], "the error is on the screen"
    page.goto(f"{shared.base_url}/docs")
    page.wait_for_selector("#paths table")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def contrast(page: "playwright.Page", selector: str, ink: str = "color", behind: str = "*") -> float:
    """WCAG's contrast of an element's text with the nearest background behind it.

    ``ink`` names another property of the element, ``behind`` the element around it whose background counts.
    """
    colours = page.locator(selector).first.evaluate(
        """(e, [ink, behind]) => { ink = getComputedStyle(e)[ink]; e = e.closest(behind);
             while (e && /, 0\\)$|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
             return [ink, getComputedStyle(e || document.body).backgroundColor]; }""",
        [ink, behind],
    )

    def luminance(colour: str) -> float:
        channels = np.array([int(v) / 255 for v in re.findall(r"\d+", colour)[:3]])
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)
