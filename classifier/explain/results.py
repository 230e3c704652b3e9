"""What `classifier explain` was asked for, and what comes out: of images, and of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from balancer.core.files import JsonObject
from balancer.core.saved_page import Page, read_page
from balancer.reporting.numbers import plural
from classifier.explain.checks import TOO_FEW, UNCHECKED, Checks
from classifier.explain.faithfulness import FEWEST_IMAGES
from classifier.explain.heatmaps import HeatMaps
from classifier.explain.regimes import Comparison

Array = np.ndarray
LISTED = 10  # images that are listed on a terminal
PAGE = "explain"  # the folder's name, and the page's without suffix


@dataclass(frozen=True)
class ExplainRequest:
    """What the user asked of the heat maps, whatever they are of."""

    method: str = "gradcam"
    layer: str | None = None
    check: bool = True
    out: Path | None = None
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class ExplainedImage:
    """One image: what the classifier calls it, and what its map shows."""

    file: str
    label: str
    probability: float  # calibrated, of the class below
    probability_of: str  # the positive class of two, else the label
    explained: str  # the class that the map speaks for
    empty: bool  # no evidence for this class
    heat: str  # file of the map, relative to the explanation
    overlay: str

    def describe(self) -> str:
        """Return the prediction as one line, as `classifier predict` does."""
        return f"{self.label:<10} p({self.probability_of}) = {self.probability:.4f}  {self.file}"


@dataclass(frozen=True)
class Explanation:
    """The heat maps of images, as they were written."""

    checkpoint: str
    data: str  # of the training
    threshold: float | None  # on the calibrated probability; None if there are more than two classes
    method: str
    layer: str | None
    cells: tuple[int, int]
    images: list[ExplainedImage] = field(repr=False)
    notes: list[str]
    checks: Checks | None = field(repr=False)
    folder: Path

    @property
    def verdict(self) -> str:
        """Return whether the maps mean something, in words."""
        if self.checks is None:
            return TOO_FEW if len(self.images) < FEWEST_IMAGES else UNCHECKED
        return self.checks.verdict

    def content(self) -> JsonObject:
        """Return the content of explain.json."""
        values = {key: value for key, value in vars(self).items() if key not in ("images", "checks", "folder")}
        checks = None if self.checks is None else self.checks.to_json()
        images = [asdict(image) for image in self.images]
        return {**values, "cells": list(self.cells), "verdict": self.verdict, "checks": checks, "images": images}

    @property
    def page(self) -> Page:
        """Return the page, section by section."""
        return read_page(self.folder)

    def _repr_markdown_(self) -> str:
        """Return the head of the page, as a notebook shows it."""
        return self.page._repr_markdown_()

    def to_json(self) -> JsonObject:
        """Return the folder and the content of explain.json."""
        return {"out": str(self.folder), **self.content()}

    def describe(self) -> str:
        """Return the verdict, its figures, the notes, what was called and the page."""
        counts = Counter(image.label for image in self.images)
        called = ", ".join(f"{n} called {label}" for label, n in sorted(counts.items()))
        figures = self.checks.headline() if self.checks else []
        each = [image.describe() for image in self.images] if len(self.images) <= LISTED else []
        lines = [self.verdict, *(f"  {line}" for line in figures), *self.notes, *each]
        return "\n".join([*lines, f"{plural(len(self.images), 'image')}: {called}", str(self.folder / f"{PAGE}.html")])


@dataclass(frozen=True)
class Example:
    """A test image that the first trial of a regime calls rightly or wrongly."""

    file: str
    truth: str
    called: str
    probability: float  # calibrated, of the positive class of two, else of the class that is called
    position: int  # in the data set

    @property
    def is_right(self) -> bool:
        """Return whether the call is right."""
        return self.truth == self.called


@dataclass(frozen=True)
class RegimeView:
    """What the first trial of a regime looks at."""

    regime: str
    seed: int
    examples: list[Example]
    heat: HeatMaps  # of the examples, for the class that is called
    checks: Checks | None

    def to_json(self) -> JsonObject:
        """Return the examples and the checks."""
        checks = None if self.checks is None else self.checks.to_json()
        return {"seed": self.seed, "examples": [asdict(e) for e in self.examples], "checks": checks}


@dataclass(frozen=True)
class StudyMaps:
    """The maps of the same test images for their true class, by every trial."""

    positions: Array  # (n,) in the data set
    by_regime: dict[str, dict[int, Array]]  # regime, seed -> (n, H, W)


@dataclass(frozen=True)
class RunExplanation:
    """What the classifiers of a run look at."""

    run: str
    data: str
    counts: str
    method: str
    layer: str | None
    cells: tuple[int, int]
    comparisons: list[Comparison] = field(repr=False)
    regimes: list[RegimeView] = field(repr=False)
    notes: list[str]
    folder: Path

    @property
    def verdict(self) -> str:
        """Return whether regimes look at different places, or whether the maps of the only regime mean something."""
        if len(self.regimes) == 1:
            checks = self.regimes[0].checks
            return UNCHECKED if checks is None else checks.verdict
        if not self.comparisons:
            return (
                "Whether regimes look at different places was not compared: that takes a regime beside the one it is"
                " compared with (baseline or augment), and two trial seeds of both."
            )
        return " ".join(comparison.sentence() for comparison in self.comparisons)

    @property
    def check_sentences(self) -> list[str]:
        """Return what the checks of each regime's maps come to; of the only regime the verdict says so."""
        if len(self.regimes) == 1:
            return []
        return [f"{view.regime}: {view.checks.verdict}" for view in self.regimes if view.checks]

    @property
    def fails(self) -> bool:
        """Return whether the maps of some regime mean nothing."""
        return any(view.checks is not None and view.checks.fails for view in self.regimes)

    def content(self) -> JsonObject:
        """Return the content of explain.json."""
        values = {key: getattr(self, key) for key in ("run", "data", "counts", "method", "layer", "notes", "verdict")}
        comparisons = [comparison.to_json() for comparison in self.comparisons]
        regimes = {view.regime: view.to_json() for view in self.regimes}
        return {**values, "cells": list(self.cells), "comparisons": comparisons, "regimes": regimes}

    @property
    def page(self) -> Page:
        """Return the page, section by section."""
        return read_page(self.folder)

    def _repr_markdown_(self) -> str:
        """Return the head of the page, as a notebook shows it."""
        return self.page._repr_markdown_()

    def to_json(self) -> JsonObject:
        """Return the folder and the content of explain.json."""
        return {"out": str(self.folder), **self.content()}

    def describe(self) -> str:
        """Return the verdict, the checks, the notes and the page."""
        page = str(self.folder / f"{PAGE}.html")
        return "\n".join([self.verdict, *self.check_sentences, *self.notes, self.counts, page])
