"""Figures: they open, nothing overlaps or leaves the page, and what they draw is what the rows say."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import auc

from classifier import figures
from classifier.evaluation import evaluate
from classifier.regimes import REGIMES

Row = dict[str, Any]
Rows = tuple[Path, list[Row]]


def plausible(folder: Path, regimes: list[str], seeds: int, steps: int = 4) -> list[Row]:
    """Trials of random but sensible predictions, on disk as an ablation leaves them."""
    rng, rows = np.random.default_rng(1), []
    for seed in range(seeds):
        for k, regime in enumerate(regimes):
            truth = np.repeat([0, 1], [23, 39])
            score = 1 / (1 + np.exp(-(rng.normal(0, 1.2, 62) + (1.5 + 0.2 * k) * truth - 0.5)))
            place = folder / "trials" / f"{regime}-{seed}"
            place.mkdir(parents=True)
            np.savez(place / "predictions.npz", test_true=truth, test_score=score)
            history = [
                {"step": 10 * (i + 1), "train_loss": 0.7 / (i + 1), "val_nll": 0.5 + 0.1 * rng.random()}
                for i in range(steps)
            ]
            kept = min(history, key=lambda h: h["val_nll"])["step"]
            test = evaluate(truth, score, 0.6)
            rows.append(
                {
                    "regime": regime,
                    "trial_seed": seed,
                    "history": history,
                    "selected_step": kept,
                    "test": test,
                    "val": test,
                    "folder": place.relative_to(folder).as_posix(),
                }
            )
    return rows


@pytest.fixture(params=[(["baseline", "augment", "gan", "combined"], 3), (["baseline"], 1), (list(REGIMES), 2)])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Rows:
    regimes, seeds = request.param
    return tmp_path, plausible(tmp_path, regimes, seeds)


@pytest.fixture
def four(tmp_path: Path) -> Rows:
    return tmp_path, plausible(tmp_path, ["baseline", "augment", "gan", "combined"], 3)


def drawn(run: Path, rows: list[Row]) -> dict[str, Figure]:
    made = {
        "roc": figures.roc(rows, run),
        "confusion": figures.confusion(rows),
        "training": figures.training(rows),
        "seeds": figures.seeds(rows),
    }
    for figure in made.values():
        figure.canvas.draw()
        plt.close(figure)
    return made


def shown(axes: Axes, dimension: int) -> list[Text]:
    """Tick labels that are drawn: matplotlib also keeps some for ticks outside the axes."""
    low, high = (axes.get_xlim, axes.get_ylim)[dimension]()
    labels = (axes.get_xticklabels, axes.get_yticklabels)[dimension](which="both")
    inside = [t for t in labels if min(low, high) <= t.get_position()[dimension] <= max(low, high)]
    return [t for t in inside if t.get_text()]


def test_every_figure_opens(rows: Rows) -> None:
    paths = figures.draw_all(rows[1], rows[0], "a note")
    assert [p.name for p in paths] == ["roc.png", "confusion.png", "training.png", "seeds.png"]
    for path in paths:
        with Image.open(path) as image:
            image.load()
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 500
        assert (pixels < 200).mean() > 0.005, "blank"
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert edge.min() > 200, f"{path.name}: something leaves the page"
    assert plt.get_fignums() == [], "figures are left open"


def test_titles_and_labels_keep_apart_and_on_the_page(rows: Rows) -> None:
    for name, figure in drawn(*rows).items():
        texts = [figure._suptitle] if name == "confusion" else []
        for axes in figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *shown(axes, 0)]
        boxes = [t.get_window_extent() for t in texts if t.get_text()]
        page = figure.bbox
        for i, box in enumerate(boxes):
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, name
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, name
            assert not [other for other in boxes[:i] if box.overlaps(other)], name
        for axes in figure.axes:
            labels = shown(axes, 1)
            inside = [t.get_window_extent() for t in labels]
            assert not [1 for i, b in enumerate(inside) for o in inside[:i] if b.overlaps(o)], name


def test_roc_curves_begin_at_the_origin_and_enclose_the_mean_area(four: Rows) -> None:
    (axes,) = drawn(*four)["roc"].axes
    for name in ("baseline", "augment", "gan", "combined"):
        (line,) = [x for x in axes.lines if str(x.get_label()).startswith(f"{name}:")]
        x, y = line.get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        aurocs = [r["test"]["auroc"] for r in four[1] if r["regime"] == name]
        assert auc(x, y) == pytest.approx(np.mean(aurocs), abs=0.003)
        assert line.get_label() == f"{name}: AUROC {np.mean(aurocs):.3f} ± {np.std(aurocs, ddof=1):.3f}"
    assert len(axes.lines) == 12 + 4 + 1


def test_one_seed_claims_no_spread(tmp_path: Path) -> None:
    made = drawn(tmp_path, plausible(tmp_path, ["baseline", "gan"], 1))
    words = [t.get_text() for f in made.values() for t in f.findobj(lambda a: hasattr(a, "get_text"))]
    assert "ROC on test, one trial seed" in words
    assert not [w for w in words if "±" in w or "mean" in w]


def test_confusion_shows_mean_counts(four: Rows) -> None:
    figure = drawn(*four)["confusion"]
    assert len(figure.axes) == 8
    for axes in figure.axes:
        regime, at = axes.get_title().split("\n")
        key = {"threshold 0.5": "at_half", "validation's threshold": "at_threshold"}[at]
        counts = np.mean([r["test"][key]["confusion"] for r in four[1] if r["regime"] == regime], axis=0)
        shown = [float(t.get_text().split("\n")[0]) for t in axes.texts]
        assert shown == pytest.approx(counts, abs=0.051)
        shares = [int(t.get_text().split("(")[1].rstrip("%)")) for t in axes.texts]
        assert shares[0] + shares[1] in (99, 100, 101)


def test_training_curves_mark_the_step_kept(four: Rows) -> None:
    loss, nll = drawn(*four)["training"].axes
    assert len(loss.lines) == 12
    dots = [line.get_data() for line in nll.lines if line.get_marker() == "o"]
    expected = sorted((r["selected_step"], min(h["val_nll"] for h in r["history"])) for r in four[1])
    assert sorted((float(x[0]), float(y[0])) for x, y in dots) == [pytest.approx(e) for e in expected]
    for axes in (loss, nll):
        labels = [t.get_text() for t in shown(axes, 1)]
        assert len(labels) >= 2, "an axis without numbers"
        assert all(float(text) > 0 for text in labels)


def test_lines_join_the_trials_of_a_seed(four: Rows) -> None:
    """A missing trial leaves a gap and shifts nothing."""
    rows = [r for r in four[1] if (r["regime"], r["trial_seed"]) != ("gan", 1)]
    (axes,) = drawn(four[0], rows)["seeds"].axes
    joined = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 4]
    auroc = {(r["regime"], r["trial_seed"]): r["test"]["auroc"] for r in rows}
    expected = [[auroc.get((n, s), np.nan) for n in ("baseline", "augment", "gan", "combined")] for s in range(3)]
    np.testing.assert_allclose(joined, expected)


def test_a_single_evaluation_can_be_drawn(tmp_path: Path) -> None:
    figures.draw_all(plausible(tmp_path, ["gan"], 2, steps=1), tmp_path, "")
