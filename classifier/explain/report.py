"""The page of `classifier explain MODEL IMAGE...`, its pictures and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from balancer.core.sealed import write_json
from balancer.data.listing import printable
from balancer.reporting.document import Document, Figure, Section, Table, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import short
from balancer.reporting.pages import write_document
from classifier.explain import checks as checking
from classifier.explain.folder import CONTENT
from classifier.explain.heatmaps import HeatMaps
from classifier.explain.methods import METHODS, OCCLUDED
from classifier.explain.pictures import Tile, grid, overlay, png
from classifier.explain.results import PAGE, ExplainedImage, Explanation
from classifier.report.model_card import RESEARCH_ONLY

Array = np.ndarray
SHOWN = 100  # images on the page, and on a contact sheet
COLUMNS = 6  # of a contact sheet
READING = "Left the image as the network sees it, right the same under its heat map."


def write_explanation(result: Explanation, pixels: Array, heat: HeatMaps, place: Path) -> None:
    """Write maps, overlays, contact sheets, the page and explain.json into an empty folder."""
    (place / "maps").mkdir()
    (place / "overlays").mkdir()
    overlays = [overlay(image, map_) for image, map_ in zip(pixels, heat.maps, strict=True)]
    for image, map_, picture in zip(result.images, heat.maps, overlays, strict=True):
        (place / image.heat).write_bytes(png((map_ * 255).round().astype(np.uint8)))
        (place / image.overlay).write_bytes(png(picture))
    for first in range(0, len(overlays), SHOWN):
        number = f"_{first // SHOWN + 1}" * (len(overlays) > SHOWN)
        tiles = [
            Tile(picture, (Path(image.file).name, f"called {image.label}", probability(image)))
            for image, picture in zip(result.images, overlays, strict=True)
        ][first : first + SHOWN]
        rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
        (place / f"contact_sheet{number}.png").write_bytes(png(grid(rows)))
    pages, pictures = document(result, pixels, overlays)
    write_document(pages, place, PAGE, pictures, "pictures")
    write_json(place / CONTENT, result.content())


def document(result: Explanation, pixels: Array, overlays: Sequence[Array]) -> tuple[Document, dict[str, bytes]]:
    """Return the page of heat maps and its pictures."""
    pictures = {}
    gallery = []
    for i, image in enumerate(result.images[:SHOWN]):
        name = Path(image.overlay).stem
        pictures[name] = png(grid([[Tile(pixels[i]), Tile(overlays[i])]]))
        gallery.append(Figure(name, caption(image), f"{image.file}: the image, and the same under its heat map"))
    shown = f", the first {SHOWN} of {len(result.images):,}" if len(result.images) > SHOWN else ""
    calling = [] if result.threshold is None else [["threshold", f"{short(result.threshold)}, chosen on validation"]]
    checked, more = checking.sections(result.checks) if result.checks else ([], {})
    sections = [
        Section(f"Heat maps{shown}", [READING], gallery=gallery),
        *checked,
        Section("How the maps were made", table=method_table(result.method, result.layer, result.cells, *calling)),
    ]
    headline = result.checks.headline() if result.checks else []
    title = f"Where the classifier looks: {Path(result.checkpoint).name}"
    fails = result.checks is not None and result.checks.fails
    warnings, caveats = part_notes(result.notes)
    page = Document(
        title,
        [*warnings, RESEARCH_ONLY],
        result.verdict,
        headline,
        sections,
        [reading(result.method)],
        fails,
        documentation("explain"),
        caveats=caveats,
    )
    return page, pictures | more


def reading(method: str) -> str:
    """Return how to read a map of a method."""
    return (
        "A map goes from dark (little evidence for the class) to yellow (the strongest of this image). Bright means:"
        f" {METHODS[method].meaning}. A map shows where, not what, and no map says that a prediction is right. How"
        " strong the evidence of two images is cannot be compared."
    )


def caption(image: ExplainedImage) -> str:
    """Return what stands below an image: its name, what it was called, and what the map speaks for."""
    speaks = f"; map for {image.explained}" if image.explained != image.label else ""
    empty = "; no evidence for this class" if image.empty else ""
    return f"{printable(Path(image.file).name)}\ncalled {image.label}, {probability(image)}{speaks}{empty}"


def probability(image: ExplainedImage) -> str:
    """Return ``p(malignant) = .93``."""
    return f"p({image.probability_of}) = {short(image.probability)}"


def method_table(name: str, layer: str | None, cells: tuple[int, int], *more: list[str]) -> Table:
    """Return method, source, layer and resolution, then further rows."""
    method = METHODS[name]
    rows = [["method", f"{method.title} ({method.source})"]]
    if layer is not None:
        rows += [["layer", f"`{layer}`"], ["cells", f"{cells[0]} x {cells[1]}, enlarged to the image"]]
    if name == "occlusion":
        rows.append(["square", f"1/{OCCLUDED} of the image's side, moved by half its side"])
    rows.append(
        [
            "brightness",
            "each map divided by its own maximum"
            if method.white == 1
            else f"each map divided by its own {100 * method.white:.0f}th percentile",
        ]
    )
    return Table(["", ""], [*rows, *more], numeric=2)
