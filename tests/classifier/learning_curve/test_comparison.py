"""Contrasts over several sizes are one family; and synthetic images are put in real ones."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_meter import with_meter
from fake_study import fake_study

from balancer.core.run import RunDir
from balancer.core.sealed import write_json
from balancer.core.settings import AblateConfig, DataConfig
from balancer.metrics.chest import NAME as CHEST
from classifier.analysis import shortcut_answers, statistics
from classifier.analysis.analyse import analyse
from classifier.analysis.results import StudyResults
from classifier.analysis.shortcut_answers import along_sizes
from classifier.analysis.shortcuts import meter_results
from classifier.experiments.substudies import Substudy
from classifier.learning_curve import figures, page
from classifier.learning_curve.comparison import Curve, adjusted_together, compare
from classifier.learning_curve.plan import OtherClass, Point
from classifier.learning_curve.steps import FinishedPoint
from classifier.report.axes import COLOURS
from classifier.training.record import Pretraining
from classifier.training.regimes import REGIMES

RESAMPLES = 40
PRETRAINING = Pretraining("vicreg", 2000, 64, 1200, 0.9, "0123456789abcdef", 12.0)


def point(minority: int | None, results: StudyResults) -> FinishedPoint:
    ablation = Substudy(Path("ablation"), AblateConfig(), "cpu", "s", results)
    return FinishedPoint(Point(minority), [], [], ablation, [], tuple(results.trials[0].n_train.values()))


def study(minority: int, separations: dict[str, float], **more: Any) -> StudyResults:
    counts = {"NORMAL": minority, "PNEUMONIA": 3293}
    return fake_study(separations, n_train=counts, sets=2, **more)


def curve_of(separations: dict[int, dict[str, float]], **more: Any) -> Curve:
    points = [point(n, study(n, apart, **more)) for n, apart in separations.items()]
    return compare(points, resamples=RESAMPLES)


def written(points: list[FinishedPoint], curve: Curve, folder: Path) -> str:
    """The page in Markdown, without its pictures."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "save_figure", lambda *_: b"")
        page.write_study(points, curve, RunDir(folder, resumed=False), quick=False)
    return (folder / "report.md").read_text()


def apart(baseline: float, gan: float) -> dict[str, float]:
    of = {"baseline": baseline, "gan": gan, "duplicate": baseline}
    return {regime: of[regime] for regime in of} | {
        "augment": baseline + 0.1,
        "combined": gan + 0.1,
        "duplicate_augment": baseline + 0.1,
    }


def test_one_size_is_the_ablation_itself() -> None:
    results = study(200, apart(1.0, 2.0))
    curve = compare([point(None, results)], resamples=RESAMPLES)
    alone = analyse(results, RESAMPLES)
    (size,) = curve.sizes
    assert (size.name, size.minority, size.added) == ("all", 200, 3093)
    assert [c.to_json() for c in size.analysis.contrasts] == [c.to_json() for c in alone.contrasts]
    assert curve.verdict == alone.verdict
    assert curve.headline == alone.headline
    assert curve.worth == []


def test_a_study_without_plain_real_images_has_its_counts_and_page(tmp_path: Path) -> None:
    results = study(200, {"gan": 1.0, "gan_both": 1.2})
    made = replace(point(None, study(200, {"baseline": 1.0})), ablation=point(None, results).ablation)
    curve = compare([made, made], resamples=RESAMPLES)
    assert [(size.minority, size.added) for size in curve.sizes] == [(200, 3093)] * 2
    assert curve.names_of("shortcut") == ["gan_both - gan"]
    assert curve.verdict.startswith("Not asked")
    written = page.write_study([made, made], curve, RunDir(tmp_path, resumed=False), quick=False)
    assert "Planned differences" not in written.page.read_text(encoding="utf-8")
    assert "gan_both - gan" in written.page.read_text(encoding="utf-8")


def test_p_values_are_adjusted_over_all_sizes() -> None:
    studies = [study(n, apart(1.0, gan), random=n) for n, gan in ((50, 1.6), (100, 1.2), (400, 1.0))]
    alone = [analyse(results, RESAMPLES) for results in studies]
    together = adjusted_together(alone)
    raw = [c.p for a in alone for c in a.contrasts if c.contrast.is_confirmatory]
    assert len(raw) == 12
    order = np.argsort(raw)  # Holm 1979: the k-th smallest times what is left, never falling, at most 1
    by_hand, highest = np.empty(12), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (12 - rank) * raw[i]))
        by_hand[i] = highest
    adjusted = [c.p_holm for a in together for c in a.contrasts if c.contrast.is_confirmatory]
    np.testing.assert_allclose(adjusted, by_hand)
    for before, after in zip(alone, together, strict=True):
        for one, other in zip(before.contrasts, after.contrasts, strict=True):
            assert one.estimate == other.estimate
            if one.contrast.is_confirmatory:
                assert other.p_holm >= one.p_holm
                assert other.mde == statistics.detectable_effect(other.estimate, 12)
            else:
                assert one == other


def test_the_shortcut_family_is_adjusted_over_all_sizes_by_itself() -> None:
    def several(n: int, both: float) -> StudyResults:
        return study(n, {"baseline": 1.0, "gan": 1.2, "gan_both": both}, random=n, noise=0.2)

    alone = [analyse(several(n, both), 20) for n, both in ((50, 2.6), (400, 1.2))]
    together = adjusted_together(alone)
    raw, adjusted = (
        np.array([getattr(c, p) for a in of for c in a.contrasts if c.contrast.family == "shortcut"])
        for of, p in ((alone, "p"), (together, "p_holm"))
    )
    assert len(raw) == 4
    first = int(raw.argmin())
    assert adjusted[first] == pytest.approx(min(1.0, 4 * raw[first]))
    assert (adjusted >= raw).all()
    planned = [c for a in together for c in a.contrasts if c.contrast.is_confirmatory]
    assert min(c.p_holm for c in planned) == pytest.approx(min(1.0, 2 * min(c.p for c in planned)))


def test_the_answer_says_where_on_the_curve() -> None:
    curve = curve_of({50: apart(0.5, 2.5), 400: apart(2.0, 2.0)}, noise=0.2)
    assert curve.contrast_names == [
        "gan - baseline",
        "combined - augment",
        "gan - duplicate",
        "combined - duplicate_augment",
    ]
    effect = curve.sizes[0].contrast("gan - baseline").estimate.value
    assert f"against none, without augmentation: a gain at 50 (+{effect:.3f}".replace("0.", ".") in curve.verdict
    assert "at 400 images" in curve.verdict
    counted = Counter(c.verdict for size in curve.sizes for c in size.analysis.contrasts if c.p_holm is not None)
    gains, others = counted.pop("helps"), counted.pop("not settled")
    assert not counted
    assert curve.answer[0] == f"Of 8 planned differences, gains: {gains}; not settled: {others}."
    assert curve.verdict == " ".join(curve.answer)
    assert len(curve.headline) == 8
    assert curve.headline[0].startswith("50 images: gan - baseline: +")


def test_the_figures_show_every_contrast_and_regime() -> None:
    curve = curve_of({50: apart(0.5, 2.5), 100: apart(1, 2), 400: apart(2.0, 2.0)})
    differences = figures.differences(curve)
    assert [axes.get_title() for axes in differences.axes] == curve.contrast_names
    endpoint = figures.endpoint(curve)
    (legend,) = ([text.get_text() for text in endpoint.axes[0].get_legend().get_texts()],)
    assert legend == [r.regime for r in curve.sizes[0].analysis.regimes]
    assert [t.get_text() for t in endpoint.axes[0].get_xticklabels()] == ["50", "100", "400"]


def test_notes_on_single_sizes_stand_apart_from_those_on_all(tmp_path: Path) -> None:
    points = [point(n, replace(study(n, apart(1.0, 1.0)), notes=["of all", f"of {n}"])) for n in (50, 400)]
    written = page.write_study(points, compare(points, resamples=10), RunDir(tmp_path, resumed=False), quick=False)
    assert {"of all", "At 50 images: of 50", "At 400 images: of 400"} <= set(written.notes)
    above, below = (tmp_path / "report.md").read_text(encoding="utf-8").split(f"## {page.OF_SIZES}")
    assert "> of all" in above
    assert "- At 50 images: of 50\n- At 400 images: of 400" in below
    assert "by whole patients" in above
    assert not {"DeLong", "ECE"} & set(re.findall(r"\w+", above + below))  # neither is on this page


def test_no_two_regimes_of_a_figure_look_alike() -> None:
    names = list(REGIMES)
    marks = figures.marks_of(names)
    assert len({(COLOURS[name], marks[name]) for name in names}) == len(names)
    assert all(marks[name].endswith("--") is name.endswith("_augment") for name in names)


@pytest.mark.parametrize(
    ("slight", "text"),
    [
        ({50: False, 100: False}, "50 and 100 images"),
        ({50: True}, "50 images (slightly)"),
        ({50: False, 1147: True}, "50 and 1,147 images (slightly at 1,147)"),
        ({50: True, 100: True, 200: True}, "every size (slightly)"),
    ],
)
def test_sizes_in_words(slight: dict[int, bool], text: str) -> None:
    assert shortcut_answers._at_sizes(slight, everywhere=3) == text


def test_the_answer_and_a_table_say_at_which_sizes_being_synthetic_is_read() -> None:
    regimes = {"baseline": 1.0, "gan": 1.2, "gan_both": 1.2}

    def size(n: int, gan: float, both: float) -> FinishedPoint:
        shifts = {"baseline": 0.0, "gan": gan, "gan_both": both}
        return point(n, with_meter(study(n, regimes), shifts))

    curve = compare([size(50, 2.0, 2.0), size(400, 2.0, 0.0)], resamples=RESAMPLES)
    assert "gan read being synthetic as NORMAL at every size" in curve.verdict
    assert "gan_both read being synthetic as NORMAL at 50 images" in curve.verdict
    table = page.meter_table(curve)
    assert table.header[:2] == ["regime", "real images"]
    assert [(row[0], row[1], row[-1]) for row in table.rows] == [
        ("baseline", "50", "control"),
        ("baseline", "400", "control"),
        ("gan", "50", "read"),
        ("gan", "400", "read"),
        ("gan_both", "50", "read"),
        ("gan_both", "400", "not seen"),
    ]
    bare = compare([point(n, study(n, regimes)) for n in (50, 400)], resamples=10)
    assert page.meter_table(bare) is None
    assert "synthetic as" not in bare.verdict


def test_a_curve_without_a_shortcut_says_so() -> None:
    regimes, shifts = {"baseline": 1.0, "gan": 1.2}, {"baseline": 0.0, "gan": 0.0}
    results = meter_results(with_meter(study(50, regimes), shifts), seed=0, resamples=20)
    assert "no classifier reads being synthetic as NORMAL" in along_sizes({50: results, 400: []})
    assert along_sizes({50: [], 400: [r for r in results if r.regime == "baseline"]}) == ""


def test_a_contrast_against_the_shortcut_is_named_with_its_size() -> None:
    separations = {"baseline": 1.0, "gan": 1.2, "gan_both": 3.0}
    curve = curve_of({50: separations, 400: separations | {"gan_both": 1.2}}, noise=0.2)
    assert "gan_both - gan at 50 images +" in curve.verdict
    assert "gan_both - gan at 400 images" not in curve.verdict
    alone = analyse(study(50, separations, noise=0.2), RESAMPLES).verdict
    assert "gan_both - gan +" in alone


@pytest.mark.parametrize(
    ("more", "limit"), [({"seeds": 1}, "With 1 trial seed no claim"), ({}, "takes 3 GAN seeds or more; here: 2")]
)
def test_the_answer_of_a_curve_states_its_limits(more: dict[str, int], limit: str) -> None:
    assert limit in curve_of({50: apart(0.5, 2.5), 400: apart(2.0, 2.0)}, **more).verdict


def test_what_is_said_of_a_size_is_adjusted_over_all_sizes() -> None:
    """Alone the size shows a gain, and of 7 tests it does not: its verdict in study.json must not say so."""
    separations = {"baseline": 1.0, "gan": 1.5}
    alone = analyse(study(50, separations, random=33, noise=0.2), RESAMPLES)
    assert alone.contrasts[0].verdict == "helps"
    others = [analyse(study(n, {"baseline": 1.0, "gan": 1.0}, random=n), RESAMPLES) for n in range(6)]
    first, *_ = adjusted_together([alone, *others])
    assert first.contrasts[0].verdict == "not settled"
    assert first.verdict.startswith("Not settled")
    assert first.advice[0].startswith("gan - baseline")


def test_regimes_without_a_planned_difference(tmp_path: Path) -> None:
    """Such as each way against the shortcut beside gan alone; there is a page all the same."""
    results = [study(n, {"gan": 1.2, "gan_both": 1.4}, random=n) for n in (50, 400)]
    counts = (50, 3293), (400, 3293)
    points = [replace(point(n, of), counts=of_fold) for n, of, of_fold in zip((50, None), results, counts, strict=True)]
    curve = compare(points, resamples=RESAMPLES)
    assert [(size.minority, size.added) for size in curve.sizes] == [(50, 3243), (400, 2893)]
    assert curve.verdict.startswith("Not asked")
    text = written(points, curve, tmp_path)
    assert "Planned differences" not in text
    assert "gan_both - gan" in text


def test_the_page_of_a_curve_says_what_no_interval_holds(tmp_path: Path) -> None:
    pair = {"baseline": 1.0, "gan": 1.2}
    gan = tmp_path / "gan-0"
    of_class = gan / "classes/VIRAL"  # of more than two classes, each has a run below that of all
    of_class.mkdir(parents=True)
    points = [replace(point(n, study(n, pair, random=n)), gans=[gan]) for n in (50, 400)]
    curve = compare(points, resamples=20)
    said = {}
    for network in (CHEST, "own-128-0a1b2c3d"):
        write_json(of_class / "summary.json", {"features": network})
        said[network] = written(points, curve, tmp_path / network)
        assert "`--split-seed` draws again" in said[network]
        assert "over all 2 tests of this table of all sizes" in said[network]
    assert [CHEST in text for text in said.values()] == [True, False], "it learnt from images that are left out here"
    (one, _), (size, _) = points, curve.sizes
    text = written([replace(one, point=Point(None))], Curve([size], []), tmp_path / "one")
    assert "--split-seed" not in text


def test_the_page_says_of_all_sizes_together_what_made_the_trials(tmp_path: Path) -> None:
    pair = {"baseline": 1.0, "gan": 1.2}
    made = {n: {"code_hash": f"{n:016x}", "threads": 1 + (n > 50), "pretraining": PRETRAINING} for n in (50, 400)}
    points = [point(n, study(n, pair, random=n, **of)) for n, of in made.items()]
    text = written(points, compare(points, resamples=20), tmp_path)
    for words in ("code_hash", "1 and 2 threads", "pretrained by VICReg"):
        assert text.count(words) == 1, words


@pytest.mark.parametrize(
    ("ratio", "named"), [(None, ["all PNEUMONIA"]), (3, ["PNEUMONIA at size 50", "PNEUMONIA at size all"])]
)
def test_gans_of_the_other_class_are_told_apart_where_each_size_has_its_own(
    ratio: float | None, named: list[str], tmp_path: Path
) -> None:
    points = []
    for size in (Point(50), Point(None)):
        place = "others" if ratio is None else f"size-{size.name}/others"
        data = DataConfig(ratio=ratio, minority=None if ratio is None else size.minority)
        other = OtherClass("PNEUMONIA", f"{place}/PNEUMONIA", data, 150, 2)
        made = point(size.minority, study(size.minority or 400, {"baseline": 1.0, "gan": 1.2}))
        points.append(replace(made, syntheses=[size.synthesis_folder(tmp_path, 0)], others=[other]))
    text = written(points, compare(points, resamples=20), tmp_path)
    assert re.findall(r"^\| ([^|]*PNEUMONIA[^|]*) \|", text, re.M) == named
    links = re.findall(r"\[(PNEUMONIA images[^\]]*)\]", text)
    assert len(set(links)) == len(links) == len(named)
