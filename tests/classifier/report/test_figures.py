"""Figures: they open, nothing overlaps or leaves the page, and what they draw is what the trials say."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_meter import with_meter
from fake_study import FOUR, fake_study, fake_trial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from scipy.stats import norm
from sklearn import metrics
from sklearn.calibration import calibration_curve

from balancer.data.dataset import Dataset
from balancer.metrics.classification import roc_at
from balancer.reporting.numbers import bounds, signed
from balancer.reporting.plots import png, svg
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.contrasts import Contrast, ContrastResult
from classifier.analysis.results import StudyResults, TrialPredictions
from classifier.report import curves, effects, figures, tables
from classifier.report.axes import COLOURS
from classifier.report.failures import Failures, contact_sheet, find_failures, short_name, shown_regime
from classifier.training.regimes import REGIMES

ALWAYS = {"seeds", "roc", "precision_recall", "gap", "thresholds", "reliability", "confusion", "training"}


@dataclass(frozen=True)
class Drawn:
    """A fake study with its figures."""

    results: StudyResults
    analysis: Analysis
    figures: dict[str, Figure]


def draw(data: Dataset, arms: list[str], seeds: int, sets: int = 1, has_meter: bool = False) -> Drawn:
    results = fake_study(arms, seeds, sets, data.labels, data.folds, data.groups)
    if has_meter:
        results = with_meter(results, {name: 2.0 * REGIMES[name].synthetic for name in results.regimes}, data.classes)
    analysis = analyse(results, resamples=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "CURVE_RESAMPLES", 20)
        made = figures.draw_all(results, analysis, data, find_failures(results.main, data))
    return Drawn(results, analysis, made)


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Dataset]) -> Dataset:
    return make_data((30, 40), (20, 30), (23, 39))


@pytest.fixture(scope="module")
def four(data: Dataset) -> Drawn:
    return draw(data, [*FOUR, "gan@0.5", "combined@0.5"], 2, sets=3, has_meter=True)


@pytest.fixture(scope="module")
def one(data: Dataset) -> Drawn:
    return draw(data, ["baseline"], 1)


@pytest.fixture(scope="module")
def every(data: Dataset) -> Drawn:
    return draw(data, list(REGIMES), 1)


@pytest.fixture(params=["one", "four", pytest.param("every", marks=pytest.mark.nightly)])
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return request.getfixturevalue(request.param)


def shown(axes: Axes, dimension: int) -> list[Text]:
    """Tick labels that are drawn: matplotlib also keeps some for ticks outside the axes."""
    if not axes.axison:
        return []
    low, high = (axes.get_xlim, axes.get_ylim)[dimension]()
    labels = (axes.get_xticklabels, axes.get_yticklabels)[dimension](which="both")
    inside = [t for t in labels if min(low, high) <= t.get_position()[dimension] <= max(low, high)]
    return [t for t in inside if t.get_text() and t.get_visible()]


def words(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def test_figures_are_drawn_where_there_is_something_to_say(one: Drawn, four: Drawn) -> None:
    assert set(one.figures) - {"failures"} == ALWAYS
    assert set(four.figures) == ALWAYS | {"forest", "dose", "failures", "meter"}
    assert plt.get_fignums() == [], "figures are left open"


@pytest.mark.nightly
def test_figures_of_every_regime_are_drawn(every: Drawn) -> None:
    assert set(every.figures) - {"failures"} == ALWAYS | {"forest"}


def test_every_figure_opens(four: Drawn) -> None:
    for name, figure in four.figures.items():
        with Image.open(io.BytesIO(png(figure, dpi=50))) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 140
        assert (pixels < 200).mean() > 0.005, f"{name} is blank"
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert edge.min() > 200, f"{name}: something leaves the page"
        assert words(figure)[-1].startswith("memory; test n = 62 images of 62 patients; 2 trial seeds")


def test_the_meter_is_drawn_at_its_shares(four: Drawn) -> None:
    """A line for each regime and class; in each column its share, and the control below."""
    rows, columns = four.analysis.meter, four.figures["meter"].axes
    assert [t.get_text() for t in columns[0].get_yticklabels()] == [f"{r.regime}: {r.class_name}" for r in rows]
    for t, axes in enumerate(columns[:-1]):
        points = {round(line.get_xdata()[0], 9) for line in axes.lines if line.get_marker() == "o"}
        assert points == {round(s.value, 9) for r in rows for s in (r.traces[t].traced, r.traces[t].control)}
    shares = [s for r in rows for s in (r.features, r.features_control) if s is not None]
    ends = {tuple(line.get_xdata()) for line in columns[-1].lines if line.get_marker() == "None"}
    assert ends - {(0.5, 0.5), (0, 1)} == {(s.low, s.high) for s in shares}, "but for lines of the axes"


def test_svg_is_the_same_each_time_and_needs_no_font(four: Drawn) -> None:
    first, again = (svg(effects.forest(four.analysis) or Figure()) for _ in range(2))
    assert first == again
    assert b"<svg" in first[:1000]
    assert b"<text" not in first
    assert b"<dc:date" not in first


def test_titles_and_labels_keep_apart_and_on_the_page(drawn: Drawn) -> None:
    for name, figure in drawn.figures.items():
        figure.draw_without_rendering()  # another test may have laid it out at another resolution
        page, boxes = figure.bbox, []
        for axes in figure.axes:
            texts = [axes.title, axes.xaxis.label, axes.yaxis.label] if axes.axison else [axes.title]
            texts += [*shown(axes, 0), *axes.texts]
            boxes += [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
            ticks = [t.get_window_extent() for t in shown(axes, 1)]
            assert not [1 for i, b in enumerate(ticks) for o in ticks[:i] if b.overlaps(o)], name
        for i, (text, box) in enumerate(boxes):
            assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, (name, text)  # exact to a pixel
            assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, (name, text)
            assert not [other for other, o in boxes[:i] if box.overlaps(o)], (name, text)


def test_regimes_keep_their_colours_apart_where_it_matters() -> None:
    assert set(COLOURS) == set(REGIMES)
    assert len({COLOURS[name] for name in FOUR}) == 4
    controls = {COLOURS[n] for n in REGIMES if n not in FOUR}
    assert not controls & {COLOURS[name] for name in FOUR}
    assert all(COLOURS[n] == COLOURS[f"{n}_augment"] for n in REGIMES if f"{n}_augment" in REGIMES)


def test_the_forest_holds_every_contrast_and_the_margin(four: Drawn) -> None:
    (axes,) = four.figures["forest"].axes
    contrasts = [c for c in four.analysis.contrasts if c.contrast.family != "dose"]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert {c.name for c in contrasts} | {tables.FAMILIES[c.contrast.family] for c in contrasts} == set(labels)
    written, (low, high) = words(four.figures["forest"]), axes.get_xlim()
    squares = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "s"}
    for c in contrasts:
        e = c.estimate
        assert f"{signed(e.value)} {bounds(e.low, e.high)}" in written
        if low <= e.value <= high:
            assert squares[labels.index(c.name)] == e.value
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.01, 0.02))


def test_a_check_that_fails_by_far_does_not_flatten_the_forest(four: Drawn) -> None:
    def contrast(left: str, family: str, value: float) -> ContrastResult:
        first = four.analysis.contrasts[0]
        estimate = replace(first.estimate, value=value, low=value - 0.02, high=value + 0.02)
        return replace(first, contrast=Contrast(left, family, {}, left, "baseline"), estimate=estimate)

    contrasts = [contrast("gan", "confirmatory", 0.01), contrast("weighted", "exploratory", -0.02)]
    contrasts += [contrast("synthetic_only", "exploratory", -0.2), contrast("permuted", "check", -0.4)]
    figure = effects.forest(replace(four.analysis, contrasts=contrasts))
    assert figure is not None
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert -0.06 < low < -0.04
    assert 0.03 < high < 0.06
    arrows = {(x.get_xdata()[0], x.get_ydata()[0]) for x in axes.lines if x.get_marker() == "<"}
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert arrows == {(low, labels.index("synthetic_only")), (low, labels.index("permuted"))}
    assert "-.400 [-.420, -.380]" in words(figure)


def test_seeds_shows_every_trial_and_joins_those_of_a_seed(four: Drawn) -> None:
    """A missing trial leaves a gap and shifts nothing."""
    trials = [t for t in four.results.main.trials if (t.regime, t.trial_seed) != ("augment", 1)]
    results = StudyResults.of(trials, four.results.patients)
    (axes,) = figures.seeds(results, four.analysis).axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    expected = sorted((FOUR.index(t.regime), t.test.auroc) for t in trials)
    assert sorted((round(y), x) for x, y in points) == [pytest.approx(e) for e in expected]
    joined = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 4]
    means = {n: results.values(n, tables.AUROC) for n in FOUR}
    np.testing.assert_allclose(joined, [[means[n].get(s, np.nan) for n in FOUR] for s in range(2)])
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == [f"synthetic set {i}" for i in range(3)]


def test_the_gap_joins_validation_to_test(four: Drawn) -> None:
    for axes, metric in zip(four.figures["gap"].axes, ("auroc", "at_threshold.balanced_accuracy"), strict=True):
        joined = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2 and line.get_alpha()]
        main = four.results.main.trials
        assert sorted(joined) == sorted((t.metric(f"val.{metric}"), t.metric(f"test.{metric}")) for t in main)


def test_the_margin_lies_around_the_mean_of_the_reference(four: Drawn) -> None:
    """In the row of each regime that has a reference, on every axis of test AUROC, and on no other axis."""
    means = {n: np.mean([t.test.auroc for t in four.results.arms[n]]) for n in FOUR}
    compared = {"augment": "baseline", "gan": "baseline", "combined": "augment"}
    expected = [(FOUR.index(n), means[r] - 0.01, means[r] + 0.01) for n, r in compared.items()]
    for axes in (four.figures["seeds"].axes[0], four.figures["gap"].axes[0]):
        bands = [p for p in axes.patches if isinstance(p, Rectangle)]
        drawn = [(p.get_y() + p.get_height() / 2, p.get_x(), p.get_x() + p.get_width()) for p in bands]
        assert sorted(drawn) == [pytest.approx(e) for e in sorted(expected)]
        low, high = axes.get_xlim()
        assert all(low <= left and right <= high for _, left, right in drawn)
    assert not four.figures["gap"].axes[1].patches, "of balanced accuracy no margin is known"
    (left, _) = four.figures["dose"].axes
    edges = sorted(
        tuple(np.round(p.get_extents().transformed(left.transData.inverted()).intervaly, 6)) for p in left.patches
    )
    at_zero = sorted((round(means[r] - 0.01, 6), round(means[r] + 0.01, 6)) for r in ("baseline", "augment"))
    assert edges == [pytest.approx(e) for e in at_zero]


def test_the_dose_response_begins_at_the_reference(four: Drawn) -> None:
    left, right = four.figures["dose"].axes
    gan = next(line for line in left.lines if line.get_label() == "gan")
    expected = [np.mean([t.test.auroc for t in four.results.arms[arm]]) for arm in ("baseline", "gan@0.5", "gan")]
    np.testing.assert_allclose(gan.get_ydata(), expected)
    estimates = {c.name: c.estimate.value for c in four.analysis.contrasts}
    difference = next(line for line in right.lines if line.get_label() == "combined - augment")
    names = [f"combined{dose} - augment" for dose in ("@0.5", "")]
    np.testing.assert_allclose(difference.get_ydata(), [estimates[n] for n in names])


def test_confusion_shows_mean_counts(four: Drawn) -> None:
    figure = four.figures["confusion"]
    assert len(figure.axes) == 8
    for axes in figure.axes:
        regime, at = axes.get_title().split("\n")
        key = {"threshold .5": "at_half", "validation's threshold": "at_threshold"}[at]
        counts = np.mean([getattr(t.test, key).confusion for t in four.results.arms[regime]], axis=0)
        assert [float(t.get_text().split("\n")[0]) for t in axes.texts] == pytest.approx(counts, abs=0.051)
        shares = [int(t.get_text().split("(")[1].rstrip("%)")) for t in axes.texts]
        assert shares[0] + shares[1] in (99, 100, 101)


def test_training_curves_mark_the_step_kept(four: Drawn) -> None:
    dots = [d for a in four.figures["training"].axes for x in a.lines if x.get_marker() == "o" for d in [x.get_data()]]
    main = four.results.main.trials
    assert sorted((x[0], y[0]) for x, y in dots) == [(40, 0.4)] * len(main), "the last of two validations"
    for axes in four.figures["training"].axes:
        assert len([float(t.get_text()) for t in shown(axes, 1)]) >= 2, "an axis without numbers"


def test_one_seed_claims_no_spread(one: Drawn) -> None:
    written = [w for f in one.figures.values() for w in words(f)]
    assert any("1 trial seed" in w for w in written)
    assert not [w for w in written if "±" in w or " to " in w]


LABELS = st.integers(0, 2**31).map(
    lambda seed: (np.random.default_rng(seed).permutation(np.repeat([0, 1], [7, 9])), np.random.default_rng(seed + 1))
)


def test_the_mean_roc_encloses_the_mean_auroc(four: Drawn) -> None:
    for name in ("baseline", "gan"):
        trials = [[t.predictions["test"] for t in of_seed] for of_seed in four.results.grid(name)]
        assert (len(trials), len(trials[0])) == (2, 3 if name == "gan" else 1)
        band = curves.band(trials, four.results.groups("test"), roc_at)
        mean = np.mean(list(four.results.values(name, tables.AUROC).values()))
        assert np.trapezoid(band.mean, curves.GRID) + 0.005 == pytest.approx(mean, abs=0.01)
        assert ((band.low >= 0) & (band.low <= band.mean) & (band.mean <= band.high) & (band.high <= 1)).all()
        np.testing.assert_allclose(band.trials.mean(axis=0), band.mean)


def test_the_band_has_the_standard_error_of_a_share() -> None:
    """One trial, one operating point: the sensitivity of two score levels is a share of 400 independent patients."""
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], [400, 400])
    y_score = np.concatenate([rng.random(400) < 0.1, rng.random(400) < 0.7]).astype(float)
    trial = TrialPredictions(y_true, y_score, 0.5, 1.0, np.arange(800))
    band = curves.band([[trial]], [str(i) for i in range(800)], roc_at)
    fpr, tpr = y_score[:400].mean(), y_score[400:].mean()
    at = int(
        np.argmin(abs(curves.GRID - 0.5))
    )  # on the line from the operating point to (1, 1): 1 - (1 - tpr)(1 - x) / (1 - fpr)
    slope = (1 - curves.GRID[at]) / (1 - fpr)
    error = slope * (tpr * (1 - tpr) / 400 + ((1 - tpr) / (1 - fpr)) ** 2 * fpr * (1 - fpr) / 400) ** 0.5
    assert band.high[at] - band.low[at] == pytest.approx(2 * 1.97 * error, rel=0.2)


def test_a_trial_seed_that_lacks_a_set_is_left_out(four: Drawn) -> None:
    trials = [t for t in four.results.arms["gan"] if (t.trial_seed, t.synthetic_set) != (0, "2")]
    assert StudyResults.of(trials, []).grid("gan") == [trials[2:]]


def test_bins_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((3, 300))
    y = (rng.random((3, 300)) < p).astype(int)
    stated, observed, low, high, count = curves.binned(list(y), list(p))
    expected_observed, expected_stated = calibration_curve(y.ravel(), p.ravel(), n_bins=curves.BINS)
    np.testing.assert_allclose(stated, expected_stated)
    np.testing.assert_allclose(observed, expected_observed)
    assert count.sum() == pytest.approx(300)
    assert ((low <= observed) & (observed <= high) & (low >= 0) & (high <= 1)).all()
    n = np.round(count)  # the images of one trial, not of three
    share, z = np.round(observed * n) / n, norm.ppf(0.975)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))  # Wilson 1927
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    np.testing.assert_allclose(low, np.minimum(middle - half, observed), atol=1e-12)
    np.testing.assert_allclose(high, np.maximum(middle + half, observed), atol=1e-12)
    empty = curves.binned([np.array([0, 1])], [np.array([0.05, 0.95])])
    assert len(empty[0]) == 2
    assert empty[4].tolist() == [1, *[0] * 8, 1]


@settings(max_examples=40, deadline=None)
@given(LABELS, arrays(float, 16, elements=st.sampled_from([0, 0.1, 0.4, 0.5, 0.9, 1])), st.floats(-0.1, 1.1))
def test_threshold_transfer_by_brute_force(
    labels: tuple[np.ndarray, np.random.Generator], y_score: np.ndarray, threshold: float
) -> None:
    y_true = labels[0]
    cuts, reached = curves.balanced_accuracies(y_true, y_score)
    for cut, value in zip(cuts, reached, strict=True):
        assert value == pytest.approx(metrics.balanced_accuracy_score(y_true, y_score >= cut))
    trial = TrialPredictions(y_true, y_score, threshold, 1.0, np.arange(16))
    best = max(metrics.balanced_accuracy_score(y_true, y_score >= c) for c in [*cuts, 2])
    chosen = metrics.balanced_accuracy_score(y_true, y_score >= threshold)
    assert curves.transfer_loss(trial) == pytest.approx(best - chosen)


def planted(data: Dataset) -> StudyResults:
    """Three perfect trials, but that all miss one sick child, two call one healthy one sick and one errs once."""
    index = data.indices("test")
    y_true = data.labels[index]
    trials = []
    for k in range(3):
        score = np.where(y_true == 1, 0.9, 0.1)
        score[y_true.argmax()] = 0.2  # the first PNEUMONIA
        score[0] = 0.8 if k < 2 else 0.1  # a NORMAL
        score[1] = 0.95 if k == 0 else 0.1  # another NORMAL, wrong in one trial only
        predictions = {"test": TrialPredictions(y_true, score, 0.5, 1.0, index)}
        trials.append(fake_trial("combined", k, predictions=predictions))
    return StudyResults.of(trials, data.groups)


def test_failures_are_what_most_trials_get_wrong(data: Dataset) -> None:
    found = find_failures(planted(data), data)
    (false,), (missed,) = found.of_class
    index = data.indices("test")
    assert (false.index, false.name, false.wrong) == (index[0], data.records[index[0]].name, 2)
    assert false.probability == pytest.approx((0.8 + 0.8 + 0.1) / 3)
    assert (missed.index, missed.label, missed.wrong) == (index[23], 1, 3)
    assert missed.probability == pytest.approx(0.2)
    assert (found.regime, found.trials, found.tested) == ("combined", 3, 62)


def test_failures_are_shown_as_images(data: Dataset) -> None:
    figure = contact_sheet(find_failures(planted(data), data), data)
    assert figure is not None
    images = [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]
    index = data.indices("test")
    assert [image.tolist() for image in images] == [data.images[index[i]].tolist() for i in (0, 23)]
    written = " ".join(words(figure))
    assert f"{data.records[index[23]].name}\np = .200, wrong 3/3" in written
    assert contact_sheet(Failures("gan", 3, 62, ([], [])), data) is None


def test_the_failures_shown_are_of_a_regime_that_tries() -> None:
    assert shown_regime(list(REGIMES)) == "combined"
    assert shown_regime(["baseline", "weighted", "synthetic_only", "permuted"]) == "weighted"
    assert shown_regime(["permuted"]) == "permuted"


def test_long_names_are_cut_in_the_middle() -> None:
    assert short_name("test/NORMAL/IM-0025-0001.jpeg") == "IM-0025-0001.jpeg"
    cut = short_name("a" * 40 + "b" * 40)
    assert len(cut) <= 30
    assert cut[0] == "a"
    assert cut[-1] == "b"
