"""Both checks of the heat maps of one classifier, what they come to in words, and their figures and tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from balancer.core.device import exact_float32
from balancer.core.files import JsonObject
from balancer.data.sampling import evenly
from balancer.reporting.document import Figure, Section, Table
from balancer.reporting.numbers import percent, plural, short
from balancer.reporting.plots import BLUE, GREY, VERMILION, png, subplots
from classifier.explain import faithfulness
from classifier.explain.faithfulness import ALIKE, CHECKED, FEWEST_IMAGES, Curve, Interval, PixelTest, WeightTest
from classifier.explain.heatmaps import HeatMaps
from classifier.explain.methods import METHODS
from classifier.models import build_model
from classifier.training.checkpoint import SavedClassifier

Array = np.ndarray
PIXEL_WORDS = {
    "better": "These maps find the pixels that matter: they do better than random maps in deletion and in insertion.",
    "partly": "These maps do better than random ones in one of deletion and insertion only: do not rest much on them.",
    "no better": "These maps do no better than random ones: do not read anything into where they are bright.",
    "worse": "These maps do worse than random ones: the pixels that they mark matter less than others.",
    "too few": f"Whether these maps do better than random ones takes {FEWEST_IMAGES} images or more.",
}
WEIGHT_WORDS = {
    "depend": "They change when the weights of the network give way to untrained ones, as they must.",
    "do not depend": "They hardly change when the weights of the network give way to untrained ones: they show the"
    " image, not what the network makes of it.",
    "not settled": "Whether they depend on the weights of the network is not settled at this number of images.",
    "too few": f"Whether they depend on the weights of the network takes {FEWEST_IMAGES} maps with evidence, or more.",
}
OTHERS_WORDS = {
    True: "They also do better than the maps of other images.",
    False: "That they do better than the maps of other images is not shown: they may mark a place that matters in most"
    " images.",
}
UNCHECKED = "Whether these maps mean something was not checked."
TOO_FEW = f"{UNCHECKED[:-1]}: that takes {FEWEST_IMAGES} images or more."


@dataclass(frozen=True)
class Checks:
    """Both checks of one classifier's maps."""

    pixels: PixelTest
    weights: WeightTest

    @property
    def verdict(self) -> str:
        """Return what both checks come to, in two or three sentences."""
        if self.pixels.verdict == "too few":
            return TOO_FEW
        return " ".join([*pixel_words(self.pixels), WEIGHT_WORDS[self.weights.verdict]])

    @property
    def fails(self) -> bool:
        """Return whether a check says that the maps mean nothing."""
        return self.pixels.verdict in ("no better", "worse") or self.weights.verdict == "do not depend"

    def headline(self) -> list[str]:
        """Return the figures behind the verdict."""
        last, gains = self.weights.stages[-1], (self.pixels.deletion.gain, self.pixels.insertion.gain)
        deletion, insertion = (gain.signed_text for gain in gains)
        return [
            f"Area gained over random maps: deletion {deletion}, insertion {insertion};"
            f" n = {plural(self.pixels.n, 'image')}.",
            f"Area gained over maps of other images: deletion {self.pixels.deletion.gain_over_others.signed_text},"
            f" insertion {self.pixels.insertion.gain_over_others.signed_text}.",
            f"Rank correlation with the maps of untrained networks: {last.correlation.text}.",
        ]

    def to_json(self) -> JsonObject:
        """Return all figures."""
        pixels = {
            "verdict": self.pixels.verdict,
            "better_than_maps_of_other_images": self.pixels.is_specific,
            "n": self.pixels.n,
            "shares": self.pixels.shares.tolist(),
            "deletion": _curve_json(self.pixels.deletion),
            "insertion": _curve_json(self.pixels.insertion),
        }
        weights = {"verdict": self.weights.verdict, **asdict(self.weights)}
        return {"pixels": pixels, "weights": weights}


def pixel_words(pixels: PixelTest) -> list[str]:
    """Return what deletion and insertion come to; beside other images' maps only where random maps are surpassed."""
    specific = [OTHERS_WORDS[pixels.is_specific]] if pixels.verdict == "better" else []
    return [PIXEL_WORDS[pixels.verdict], *specific]


def _curve_json(curve: Curve) -> JsonObject:
    return {key: v.tolist() if isinstance(v, np.ndarray) else asdict(v) for key, v in vars(curve).items()}


def check(saved: SavedClassifier, inputs: Tensor, heat: HeatMaps, groups: list[str] | None = None) -> Checks:
    """Check the maps of some images, evenly spread; of a slow method, fewer go through the cascade.

    Only maps that show evidence go through the cascade: an empty map stays empty or not, whatever the weights are. If
    all maps are empty, the cascade gives figures of 0 and no verdict.

    Args:
        saved: the classifier.
        inputs: all its network inputs (N, C, H, W).
        heat: their maps.
        groups: patient (N,) of each image, whose images stay together in the intervals; None: every image by itself.
    """

    def some(positions: Array, most: int) -> tuple[Tensor, HeatMaps, list[str] | None]:
        index = positions[evenly(len(positions), most)]
        return inputs[index], heat.at(index), None if groups is None else [groups[i] for i in index]

    every, filled = np.arange(len(inputs)), np.flatnonzero(~heat.empty)

    with exact_float32(inputs.device):
        return Checks(
            faithfulness.deletion_and_insertion(saved.model, *some(every, CHECKED)),
            faithfulness.randomise_weights(
                saved.model,
                lambda seed: untrained(saved, seed),
                *some(filled if len(filled) else every, METHODS[heat.method].cascaded),
            ),
        )


def untrained(saved: SavedClassifier, seed: int) -> nn.Module:
    """Return a network built as the saved one, with the initial weights of a seed."""
    device = next(saved.model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(saved.standalone, len(saved.classes), saved.channels).to(device).eval()


def sections(checks: Checks, prefix: str = "") -> tuple[list[Section], dict[str, bytes]]:
    """Return the sections on both checks, and their pictures; ``prefix`` begins the names of the pictures."""
    pixels, weights = checks.pixels, checks.weights
    curves = {"deletion": pixels.deletion, "insertion": pixels.insertion}
    figures = [Figure(f"{prefix}{name}", _CAPTIONS[name], f"Curves of {name}") for name in curves]
    pictures = {f"{prefix}{name}": _curve_figure(name, curve, pixels.shares) for name, curve in curves.items()}
    pictures[f"{prefix}weights"] = _cascade_figure(weights)
    rows = [
        [name, c.area.text, c.random_area.text, c.gain.signed_text, c.gain_over_others.signed_text]
        for name, c in curves.items()
    ]
    header = ["", "area, these maps [95 %]", "area, random maps [95 %]", "gain [95 %]", "gain over others' maps [95 %]"]
    stages = [
        [
            s.layer,
            f"{s.randomised} of {weights.layers}",
            s.correlation.text,
            s.ssim.text,
            percent(s.empty),
        ]
        for s in weights.stages
    ]
    cascade = Figure(f"{prefix}weights", _CAPTIONS["weights"], "Similarity of maps while weights are randomised")
    return [
        Section(
            "Do the maps find the pixels that matter?",
            [" ".join(pixel_words(pixels)), METHOD_PIXELS],
            Table(header, rows),
            gallery=figures,
        ),
        Section(
            "Do the maps depend on the weights of the network?",
            [WEIGHT_WORDS[weights.verdict], METHOD_WEIGHTS.format(draws=weights.draws)],
            Table(["untrained down to", "layers", "rank correlation [95 %]", "SSIM [95 %]", "empty maps"], stages),
            gallery=[cascade],
        ),
    ], pictures


METHOD_PIXELS = (
    "Deletion greys out the pixels of an image, those first that the map ranks highest. The probability of the"
    " explained class should fall fast, so a small area is good. Insertion shows the pixels on grey in the same order,"
    " and a large area is good. A random map is the same map laid elsewhere: mirrored, and shifted around the edges."
    " The test: maps do better than random ones if the 95 % interval of the gain lies above 0, in deletion and in"
    " insertion. Radiographs are alike, so a map of one image may do better than random on another. So the same is"
    " measured against maps of other images for the same class. The intervals resample images."
)
METHOD_WEIGHTS = (
    "From the output down, layers get the weights of an untrained network ({draws} of them), until nothing trained is"
    " left. The maps are then compared with those of the trained network, by Spearman's rank correlation and by SSIM."
    f" The test: maps depend on the weights if the rank correlation at the end lies below {short(ALIKE, 1)}, interval"
    " and all. A network that has learnt nothing passes this test too: the test is of the maps. The intervals"
    " resample images, and hold the scatter over untrained networks."
)
_CAPTIONS = {
    "deletion": "Deletion: lower is better.",
    "insertion": "Insertion: higher is better.",
    "weights": "From left to right, ever more layers are untrained. Maps that stay alike show the image.",
}


def _curve_figure(name: str, curve: Curve, shares: Array) -> bytes:
    figure, ((axes,),) = subplots(1, 1, 4.0, 3.0)
    axes.plot(shares, curve.random, color=GREY, linestyle="--", marker="s", markersize=3, label="random maps")
    axes.plot(shares, curve.others, color=BLUE, linestyle=":", marker="^", markersize=3, label="maps of other images")
    axes.plot(shares, curve.maps, color=VERMILION, marker="o", markersize=3, label="these maps")
    axes.set(xlabel=f"share of the pixels {'greyed out' if name == 'deletion' else 'shown'}", ylim=(0, 1))
    axes.set_ylabel("probability of the class")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _cascade_figure(weights: WeightTest) -> bytes:
    figure, ((axes,),) = subplots(1, 1, 4.0, 3.0)
    share = [stage.randomised / weights.layers for stage in weights.stages]
    drawn = (("rank correlation", "correlation", VERMILION, "o"), ("SSIM", "ssim", BLUE, "s"))
    for label, name, colour, marker in drawn:
        values: list[Interval] = [getattr(stage, name) for stage in weights.stages]
        axes.plot([0, *share], [1, *(v.mean for v in values)], color=colour, marker=marker, markersize=3, label=label)
        axes.fill_between(share, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.15, lw=0)
    axes.axhline(ALIKE, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="share of the layers that are untrained", ylabel="similarity", xlim=(-0.03, 1.03))
    axes.set_ylim(min(-0.3, *(stage.correlation.low for stage in weights.stages)), 1.05)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
