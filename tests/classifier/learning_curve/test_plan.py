"""What a study will do at each size, and what it refuses before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from balancer.core.config import read_config_file, resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import AblateConfig, GanTrainConfig, StudyConfig
from balancer.data.dataset import Dataset
from classifier.analysis.contrasts import POOLED
from classifier.api import prepare_study
from classifier.experiments.jobs import Workers
from classifier.learning_curve import plan
from classifier.learning_curve.plan import (
    Point,
    ablation_settings,
    estimate,
    gan_settings,
    images_seconds,
    open_references,
    other_gan_settings,
    points_of,
    reference_settings,
    synthesis_settings,
    with_absolute_paths,
)
from classifier.training.regimes import GROUPS

CPU = Workers("cpu", threads=1)
REPORT = 150.0  # seconds of a report, where the estimate is a stand-in


def settings(**values: Any) -> StudyConfig:
    return resolve(StudyConfig, values)


def test_sizes_are_taken_from_the_smallest_to_all() -> None:
    assert [point.name for point in points_of(settings(sizes="200,all,50"))] == ["50", "200", "all"]
    assert [point.minority for point in points_of(settings())] == [None]
    for sizes in ("50,50", "all,all", ""):
        with pytest.raises(UsageError, match="each size once"):
            points_of(settings(sizes=sizes))
    with pytest.raises(UsageError, match="sizes"):
        settings(sizes="15")
    with pytest.raises(UsageError, match="sizes"):
        settings(sizes="half")


def test_the_confirmatory_group_is_the_regimes_of_the_planned_tests() -> None:
    assert set(GROUPS["confirmatory"]) == set(POOLED)


def test_each_gan_has_its_seed_and_the_images_of_its_size() -> None:
    config = settings(seed=5, gan=["steps=77", "loss=hinge"], data={"path": "phantom", "image_size": 32})
    gans = [gan_settings(config, Point(40), k, several=False) for k in range(3)]
    assert [gan.seed for gan in gans] == [5, 6, 7]
    for gan in gans:
        assert (gan.data.minority, gan.data.image_size, gan.steps, gan.loss) == (40, 32, 77, "hinge")
        assert gan.target_class is None
    assert gan_settings(config, Point(None), 0, several=True).target_class == "all"


def test_settings_of_steps_name_absolute_paths(runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study may be resumed from another folder, where a relative path would lead elsewhere."""
    (runs_cwd / "runs/gan-train/mine").mkdir(parents=True)
    explicit = {"gan": ["init_from=mine", "steps=4"], "classifier": "weights=müller.pt", "seeds": 3}
    made = with_absolute_paths(explicit)
    assert made == {
        "gan": [f'init_from="{runs_cwd}/runs/gan-train/mine"', "steps=4"],
        "classifier": [f'weights="{runs_cwd}/müller.pt"'],
        "seeds": 3,
    }
    config = settings(data={"path": "phantom"}, **made)
    assert gan_settings(config, Point(None), 0, several=False).init_from == f"{runs_cwd}/runs/gan-train/mine"
    monkeypatch.setattr("classifier.learning_curve.plan.configure", lambda _, values: values)
    monkeypatch.setattr("balancer.synthesis.configure", lambda values: values)
    ablation: Any = ablation_settings(config, Point(None), [], Path("run"))
    assert ablation["synthetic"][0] == f"{runs_cwd}/run/size-all/synthesis-0"
    images: Any = synthesis_settings(config, Path("run/gan-0"), None)
    assert images["gan_run"] == f"{runs_cwd}/run/gan-0"


def test_a_quick_study_has_the_sizes_of_a_demonstration_under_what_is_given(tmp_path: Path) -> None:
    data = {"path": str(tmp_path)}
    full, quick = settings(data=data), settings(data=data, quick=True, classifier=["evaluations=2"])
    assert gan_settings(full, Point(None), 0, False).steps == 16_000
    assert gan_settings(quick, Point(None), 0, False).steps == 700
    ablation = reference_settings(quick, Point(None))
    assert (ablation.steps, ablation.evaluations) == (250, 2)
    assert (full.gans, full.seeds, quick.gans, quick.seeds) == (3, 5, 1, 3)
    assert (asked := settings(data=data, quick=True, gans=2)).gans == 2
    assert asked.seeds == 3


def test_the_time_of_images_follows_their_number_and_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.quality.assess.slowness", lambda: 2.0)
    config = settings(data={"path": "phantom", "image_size": 64})
    alone = images_seconds(config, [400])
    assert images_seconds(config, [2400]) - alone == pytest.approx(2 * 0.01 * 2000)
    assert images_seconds(config, [400, 400]) == 2 * alone
    plain = settings(data={"path": "phantom", "image_size": 64}, synthesis=["two_sample=false"])
    assert images_seconds(plain, [400]) == pytest.approx(2 * (15 + 4))


def test_a_feature_network_is_trained_once_for_all_gans(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "training_seconds", lambda *_: 0.0)
    monkeypatch.setattr(plan, "report_seconds", lambda *_: 0.0)
    monkeypatch.setattr(plan, "seconds_to_train", lambda *_: 700.0)
    prepare, of_gan = plan.prepare_gan_training, {"estimate_seconds": lambda: 730.0}
    monkeypatch.setattr(plan, "prepare_gan_training", lambda *of: replace(prepare(*of), **of_gan))
    config = settings(data={"path": str(template), "image_size": 16}, gans=3)
    assert estimate(config, open_references(config, CPU, dry=False), CPU, dry=False) == 700 + 3 * 30


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gan": ["seed=3"]}, "seed"),
        ({"synthesis": ["seed=3"]}, "seed"),
        ({"gan": ["data.image_size=32"]}, "data.image_size"),
        ({"classifier": ["regimes=gan"]}, "regimes"),
        ({"gan": ["stepz=3"]}, "stepz"),
        ({"classifier": ["steps"]}, "key=value"),
        ({"synthesis": ["n=3"]}, "n is given"),
        ({"synthesis": ["kid_subsets=-1"]}, "kid_subsets"),
        ({"regimes": "baseline,augment"}, "none with synthetic images"),
        ({"regimes": "combimed"}, "combined"),
        ({"regimes": "baseline,gan_both", "classifier": ["synthetic_count=5"]}, "synthetic_count is given"),
        ({"sizes": "5000"}, "minority is 5000"),
        ({"regimes": "gan"}, "add baseline"),
        ({"classifier": ["doses=2"]}, "doses is given"),
        ({"gan": ["steps=0"]}, "--gan: .*steps"),
        ({"classifier": ["epochs=3"]}, "--classifier: .*epochs"),
        ({"synthesis": ["kid_subsets"]}, "--synthesis got"),
        ({"gan": ["step_mode=graph"]}, "step_mode is graph"),
        ({"classifier": ["step_mode=graph"]}, "step_mode is graph"),
    ],
)
def test_refused_before_anything_is_trained(template: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        open_references(settings(data={"path": str(template), "image_size": 16}, **changes), CPU, dry=False)


def test_sizes_that_keep_the_same_images_are_refused(template: Path) -> None:
    """Whole patients may give two numbers the same images, and all of them a number."""
    full = len(
        open_references(settings(data={"path": str(template), "image_size": 16}), CPU, True)[0].ablation.data.indices(
            "train", 0
        )
    )
    with pytest.raises(UsageError, match=f"sizes {full} and all .* same {full} images"):
        open_references(settings(data={"path": str(template), "image_size": 16}, sizes=f"{full},all"), CPU, dry=True)


def test_a_test_set_without_an_interval_is_refused(chest_folder: Path) -> None:
    for file in sorted((chest_folder / "test" / "NORMAL").iterdir())[1:]:
        file.unlink()
    with pytest.raises(BalancerError, match="test set has 1 patient of NORMAL"):
        open_references(settings(data={"path": str(chest_folder), "image_size": 16}), CPU, dry=True)


def test_a_cluster_out_of_reach_is_told_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: Workers) -> int:
        raise BalancerError("no dask scheduler answers")

    monkeypatch.setattr(Workers, "count", unreachable)
    with pytest.raises(BalancerError, match="no dask scheduler"):
        prepare_study(settings(data={"path": "/nowhere"}), Workers(backend="dask", scheduler="tcp://a:1", threads=1))


def test_nothing_to_balance(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "deficits", property(lambda _: (0, 0)))
    config = settings(data={"path": str(template), "image_size": 16})
    with pytest.raises(BalancerError, match="nothing to balance"):
        open_references(config, CPU, dry=False)


def test_the_sizes_are_no_setting_of_the_data() -> None:
    with pytest.raises(UsageError, match="--sizes"):
        settings(data={"minority": 50})


def test_the_time_counts_gans_and_trials(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "training_seconds", lambda *_: 20.0)  # of two trials
    monkeypatch.setattr(plan, "report_seconds", lambda *_: REPORT)
    prepare = plan.prepare_gan_training
    thirty = {"estimate_seconds": lambda: 30.0}
    monkeypatch.setattr(plan, "prepare_gan_training", lambda *of: replace(prepare(*of), **thirty))
    data = {"path": str(template), "image_size": 16}
    config = settings(data=data, sizes="16,all", gans=2, seeds=3)
    workers = Workers("cpu", threads=1, jobs=2)
    references = open_references(config, workers, dry=False)
    assert [reference.point.name for reference in references] == ["16", "all"]
    trials = 3 * (4 + 2 * 2)  # four regimes without synthetic images, two with two sets each
    at_a_size = 2 * (30.0 + REPORT) + 10.0 * trials / 2
    assert estimate(config, references, workers, dry=False) == 2 * at_a_size
    both = settings(data=data, sizes="16,all", gans=2, seeds=3, regimes="confirmatory,gan_both")
    at_a_size += 10.0 * 3 * 2 / 2
    once = 2 * (30.0 + REPORT)  # the GANs of the other class serve both sizes
    references = open_references(both, workers, dry=False)
    assert estimate(both, references, workers, dry=False) == 2 * at_a_size + once


def test_the_other_class_serves_every_size_unless_a_ratio_thins_it(template: Path) -> None:
    data = {"path": str(template), "image_size": 16}
    config = settings(data=data, sizes="16,all", regimes="gan,gan_both")
    small, full = open_references(config, CPU, dry=True)
    few, many = full.ablation.data.counts("train")
    assert small.others == full.others
    (other,) = full.others
    kept = small.ablation.data.counts("train")[0]
    assert (other.name, other.place, other.n) == ("PNEUMONIA", "others/PNEUMONIA", many - kept)
    assert small.n is None, "the smallest class gets what it lacks"
    gan = other_gan_settings(config, other, 2)
    assert (gan.target_class, gan.data.minority, gan.seed) == ("PNEUMONIA", None, 2)
    assert many > few

    thin = settings(data=data | {"ratio": 1.5}, sizes="16,all", regimes="gan,gan_both_added")
    small, full = open_references(thin, CPU, dry=True)
    assert [other.place for other in small.others + full.others] == [
        "size-16/others/PNEUMONIA",
        "size-all/others/PNEUMONIA",
    ]
    assert [other.data.minority for other in small.others + full.others] == [16, None]


def test_without_such_regimes_no_other_class_is_made(template: Path) -> None:
    (reference,) = open_references(settings(data={"path": str(template), "image_size": 16}), CPU, dry=True)
    assert (reference.others, reference.n) == ([], None)


def test_the_gpu_tier_trains_in_a_study_as_alone() -> None:
    file = Path(__file__).parents[3] / "configs/gpu.yaml"
    config = resolve(StudyConfig, read_config_file(file, "study"))
    alone = resolve(GanTrainConfig, read_config_file(file, "gan_train"))
    assert gan_settings(config, Point(None), 0, several=False) == alone
    ablation = resolve(AblateConfig, read_config_file(file, "ablate"))
    trained = reference_settings(config, Point(None))
    assert (trained.steps, trained.batch_size) == (ablation.steps, ablation.batch_size) == (4000, 64)
    assert config.seeds == ablation.seeds


def test_a_filter_gets_a_surplus_of_images(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "training_seconds", lambda *_: 0.0)
    monkeypatch.setattr(plan, "report_seconds", lambda *_: REPORT)
    monkeypatch.setattr(plan, "filter_seconds", lambda _, images: float(sum(images)))
    prepare, none = plan.prepare_gan_training, {"estimate_seconds": lambda: 0.0}
    monkeypatch.setattr(plan, "prepare_gan_training", lambda *of: replace(prepare(*of), **none))
    asked = {}
    for regimes in ("all", "all,gan_filtered"):
        config = settings(data={"path": str(template), "image_size": 16}, regimes=regimes, gans=2)
        (reference,) = open_references(config, CPU, dry=False)
        deficit = reference.ablation.data.deficit
        asked[regimes] = reference.n, reference.others, estimate(config, [reference], CPU, dry=False)
    assert asked["all"] == (None, [], 2 * REPORT)
    assert asked["all,gan_filtered"] == (2 * deficit, [], 2 * (REPORT + 2 * deficit))
