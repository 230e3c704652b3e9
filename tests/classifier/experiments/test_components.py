"""`classifier components`: one switch at a time, paired differences against scikit-learn."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import done, sets
from fake_study import fake_trial
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from balancer.core.config import read_config_file, resolve
from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings import AblateConfig, ComponentsConfig, DataConfig
from classifier.analysis.results import StudyResults, TrialPredictions
from classifier.api import prepare_components
from classifier.experiments import cluster, components, jobs
from classifier.experiments.components import FULL, SWITCHES, compare, left_out, variants_of
from classifier.experiments.substudies import Substudy
from classifier.systems.registry import SYSTEMS
from classifier.training.regimes import REGIMES

TRUE = np.array([0] * 8 + [1] * 8)


def settings(name: str) -> ComponentsConfig:
    values = {**read_config_file(SYSTEMS[name].file, "components"), "data": {"path": "/x", "image_size": 32}}
    return resolve(ComponentsConfig, values)


def changed(one: AblateConfig, other: AblateConfig) -> set[str]:
    a, b = one.model_dump(), other.model_dump()
    return {key for key in a if a[key] != b[key]}


def test_one_switch_at_a_time() -> None:
    variants = variants_of(settings("s1_cnn28"))
    assert list(variants) == [FULL, "class weighting", "augmentation", "batch norm"]
    full = variants[FULL]
    assert full.regimes == ("augment",)
    assert {n: changed(full, v) for n, v in variants.items() if n != FULL} == {
        "class weighting": {"class_weights"},
        "augmentation": {"regimes"},
        "batch norm": {"batch_norm"},
    }
    assert variants["augmentation"].regimes == ("baseline",)
    assert left_out(settings("s1_cnn28")) == {"transfer": "weights is none: nothing is transferred"}


def test_what_workers_cannot_do_is_refused_before_anything_is_written(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    small = ComponentsConfig(data=DataConfig(path=str(template), image_size=16), batch_size=8, steps=6)
    with pytest.raises(BalancerError, match="no dask scheduler answers"):
        prepare_components(small, jobs.Workers("cpu", backend="dask", scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(UsageError, match="step_mode is graph"):
        prepare_components(small.model_copy(update={"step_mode": "graph"}), jobs.Workers("cpu"))


def test_a_pretraining_without_labels_is_a_component() -> None:
    variants = variants_of(ComponentsConfig(pretrain={"method": "vicreg", "steps": 9}, batch_norm=False))
    assert list(variants) == [FULL, "self-supervision"]
    assert changed(variants[FULL], variants["self-supervision"]) == {"pretrain"}


def test_transfer_goes_and_the_normalisation_stays() -> None:
    variants = variants_of(settings("s3_resnet50"))
    assert changed(variants[FULL], variants["transfer"]) <= {"weights", "normalisation", "stages"}
    assert variants["transfer"].weights == "none"
    assert variants["transfer"].input_normalisation == variants[FULL].input_normalisation == "imagenet"
    assert set(left_out(settings("s3_resnet50"))) == {"batch norm"}


@pytest.mark.parametrize("name", ["s0_densenet161", "s1_resnet18", "s3_resnet50"])
def test_without_transfer_no_layer_is_frozen(name: str) -> None:
    """Layers frozen at random values would tell what random features are worth. Lengths and rates stay."""
    variants = variants_of(settings(name))
    full, off = variants[FULL], variants["transfer"]
    assert any((stage.trainable or full.trainable) != "all" for stage in full.stages), "the system freezes some"
    assert [stage.trainable or off.trainable for stage in off.stages] == ["all"] * len(full.stages)
    rest = {"trainable"}
    assert [s.model_dump(exclude=rest) for s in off.stages] == [s.model_dump(exclude=rest) for s in full.stages]


@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_the_weights_of_a_weighted_regime_are_off_too(kind: str) -> None:
    """There class_weights decides nothing: turned off alone, it would leave the full system as it is."""
    variants = variants_of(ComponentsConfig(regime="weighted_augment", class_weights=kind))
    off = variants["class weighting"]
    assert (off.regimes, off.class_weights) == (("augment",), "none")
    assert variants["augmentation"].regimes == ("weighted",)


def test_what_a_plain_system_lacks_is_said() -> None:
    plain = ComponentsConfig(threshold="half", batch_norm=False)
    assert list(variants_of(plain)) == [FULL]
    assert set(left_out(plain)) == {switch.name for switch in SWITCHES} - {"self-supervision"}, "the usual case"


@pytest.mark.parametrize("name", [r.name for r in REGIMES.values() if r.augment])
def test_every_regime_has_one_without_augmentation(name: str) -> None:
    (other,) = variants_of(ComponentsConfig(regime=name, class_weights="none"))["augmentation"].regimes
    assert other in (name.removesuffix("_augment"), {"augment": "baseline", "combined": "gan"}.get(name))
    assert not REGIMES[other].augment


def part(name: str, scores: list[np.ndarray], thresholds: list[float], **changes: Any) -> Substudy:
    """A finished study of one regime with these scores; every image is a patient."""
    trials = []
    for seed, (score, threshold) in enumerate(zip(scores, thresholds, strict=True)):
        test = TrialPredictions(TRUE, score, threshold, 1.0, changes.get("index", np.arange(len(TRUE))))
        hashes = {key: value for key, value in changes.items() if key != "index"}
        trials.append(fake_trial("augment", seed, predictions={"test": test}, **hashes))
    results = replace(StudyResults.of(trials, [f"p{i}" for i in range(len(TRUE))]), source="x", notes=["NOTE"])
    return Substudy(Path(name), AblateConfig(), "cpu", "s", results)


ONE = [np.linspace(0, 1, 16)], [0.5]


def test_differences_are_those_of_the_same_seeds() -> None:
    rng = np.random.default_rng(0)
    full = [np.clip(0.3 * TRUE + rng.uniform(0, 0.7, 16), 0, 1) for _ in range(3)]
    plain = [rng.uniform(0, 1, 16) for _ in range(3)]
    thresholds = [0.3, 0.4, 0.6]
    config = ComponentsConfig(class_weights="balanced", batch_norm=False)
    parts = {FULL: part("a", full, thresholds), "class weighting": part("b", plain, thresholds)}
    found = {e.variant: e for e in compare(config, parts)}
    assert list(found) == [FULL, "class weighting", "threshold"]
    aurocs = [[roc_auc_score(TRUE, s) for s in scores] for scores in (full, plain)]
    assert found[FULL].figures["auroc"].mean == pytest.approx(np.mean(aurocs[0]))
    difference = found["class weighting"].full_minus_this["auroc"]
    assert difference.value == pytest.approx(np.mean(aurocs[0]) - np.mean(aurocs[1]))
    assert difference.low < difference.value < difference.high
    at_half = [balanced_accuracy_score(TRUE, s >= 0.5) for s in full]
    chosen = [balanced_accuracy_score(TRUE, s >= t) for s, t in zip(full, thresholds, strict=True)]
    of_threshold = found["threshold"]
    assert of_threshold.figures["balanced_accuracy_val_threshold"].mean == pytest.approx(np.mean(at_half))
    gained = of_threshold.full_minus_this["balanced_accuracy_val_threshold"].value
    assert gained == pytest.approx(np.mean(chosen) - np.mean(at_half))
    of_auroc = of_threshold.full_minus_this["auroc"]
    assert (of_auroc.value, of_auroc.low, of_auroc.high) == (0, 0, 0), "a threshold ranks nothing"
    shown = components.headlines(list(found.values()))
    assert [line.partition(":")[0] for line in shown] == ["class weighting"]


def test_variants_of_other_data_are_not_compared() -> None:
    """A finished variant is only read after --resume: the data may have changed before the next was trained."""
    config = ComponentsConfig(class_weights="balanced", batch_norm=False)
    full = part("full", *ONE)
    assert compare(config, {FULL: full, "class weighting": part("other", *ONE)})
    for key in ("data_fingerprint", "split_hash"):
        with pytest.raises(BalancerError, match=f"other has {key} e, full has .*; expected the same data") as error:
            compare(config, {FULL: full, "class weighting": part("other", *ONE, **{key: "e"})})
        assert "\n" not in str(error.value)
    moved = part("moved", *ONE, index=np.arange(16)[::-1])
    with pytest.raises(BalancerError, match=r"moved and full have different test images"):
        compare(config, {FULL: full, "class weighting": moved})


def test_the_table_says_that_the_code_changed() -> None:
    config = ComponentsConfig(class_weights="balanced", batch_norm=False, weights="imagenet")
    texts = []
    for code in ("1", "2"):
        parts = {FULL: part("a", *ONE, code_hash="1"), "class weighting": part("b", *ONE, code_hash=code)}
        texts.append("\n".join(components._notes(config, compare(config, parts), parts)))
    assert ["more than one version of the code" in text for text in texts] == [False, True]
    assert "Without transfer: all layers learn" in texts[0]


def test_one_seed_has_no_p() -> None:
    parts = {FULL: part("a", *ONE), "class weighting": part("b", [np.linspace(1, 0, 16)], [0.5])}
    found = compare(ComponentsConfig(class_weights="balanced", threshold="half"), parts)
    assert found[1].full_minus_this["auroc"].value == 1
    assert found[1].full_minus_this["auroc"].p is None


def test_the_command(classifier, small_args, tmp_path: Path, monkeypatch) -> None:
    trained = []
    real = jobs.run_trial
    monkeypatch.setattr(jobs, "run_trial", lambda s, t, *rest: trained.append(t.name) or real(s, t, *rest))
    options = ["--regime", "augment", "--seeds", "2", "--model", "s1_cnn"]
    options += sets(class_weights="balanced", bn_statistics="running")
    result = done(classifier("components", *small_args, *options, "--out", tmp_path / "r", "--json"))
    found = json.loads(result.stdout)
    names = [e["variant"] for e in found["entries"]]
    assert names == [FULL, "class weighting", "augmentation", "batch norm", "threshold"]
    assert len(trained) == 2 * 4, "the threshold is read off the full system"
    assert set(found["left_out"]) == {"transfer"}
    table = (tmp_path / "r/table.md").read_text()
    assert "2 paired trial seeds" in table
    assert "Left out, transfer" in table
    assert (tmp_path / "r/table.csv").read_text().count("\n") == 6
    again = classifier("components", "--resume", tmp_path / "r", "--device", "cpu", "-q", "--json")
    assert json.loads(again.stdout)["entries"] == found["entries"]
    assert len(trained) == 8
    monkeypatch.setattr("classifier.api.estimate_seconds", lambda study, device, budget: 30.0)
    dry = classifier("components", *small_args, *options, "--dry-run", "--json")
    assert json.loads(dry.stdout)["estimated_seconds"] == pytest.approx(120, abs=5)
