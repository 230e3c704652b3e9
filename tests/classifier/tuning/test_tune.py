"""`classifier tune`: each point once, the same points by seed, nothing lost or repeated by a kill, test unread."""

import csv
import itertools
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from commands import done, refused, words
from PIL import Image

from balancer.core.config import read_config_file
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.run import RunRequest, perform
from balancer.core.sealed import DamagedFile, write_yaml
from balancer.core.settings import DataConfig, TuneConfig
from balancer.data.dataset import Dataset
from balancer.reporting import plots
from classifier import api
from classifier import tuning as package
from classifier.evaluation.metrics import nll
from classifier.experiments.jobs import Workers
from classifier.experiments.study import Study, configure
from classifier.training import trainer
from classifier.tuning import figures as tune_figures
from classifier.tuning import search as tune
from classifier.tuning import storage
from classifier.tuning.report import notes, trials_csv
from classifier.tuning.search import PointResult, Search, calibrated_nll, fitting_space, run_search
from classifier.tuning.spaces import SPACES, Range, among

Run = Callable[..., Result]
CPU = torch.device("cpu")
# As published (docs/systems.md, S2), written down apart from the code.
CONV = [(32, 64), (32, 64, 128), (32, 64, 128, 128), (32, 64, 128, 256), (64, 128, 256, 256)]
DENSE = [(), (512,), (256,), (256, 256), (512, 256), (512, 512)]
DROPOUT = [(0.2,), (0.5,), (0.2, 0.2), (0.2, 0.5), (0.5, 0.5)]


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal is synced line by line; a test's need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)


def settings(**more: Any) -> TuneConfig:
    return TuneConfig(**{"data": DataConfig(path="phantom"), "trials": 8, "pruner": "none", **more})


def bowl(
    base: TuneConfig, config: TuneConfig, report: tune.Report, device: torch.device, signalled: Any
) -> PointResult:
    """Lowest at lr 10^-2.5, with a small network's advantage; falls from look to look. Temperature: who measured it."""
    value = 0.05 + (math.log10(config.lr) + 2.5) ** 2 + 0.05 * (config.model != "small_cnn")
    for look in range(1, 6):
        report(look, value + 0.3 / look)
    return PointResult([value], [float(os.getpid())])


def slow_bowl(*arguments: Any) -> PointResult:
    time.sleep(0.05)
    return bowl(*arguments)


def flat(base: TuneConfig, config: TuneConfig, *_: Any) -> PointResult:
    """One figure per network, so that two that are the same agree."""
    seed = hash((config.s2, config.batch_norm)) % 997
    return PointResult([0.1 + seed / 997], [1.0])


class Stopping:
    """An objective that is stopped by a signal in its n-th call, as Ctrl-C does it."""

    def __init__(self, objective: Callable[..., PointResult], at: int) -> None:
        self.objective, self.at, self.calls = objective, at, 0

    def __call__(self, *arguments: Any) -> PointResult:
        self.calls += 1
        if self.calls == self.at:
            raise Interrupted(signal.SIGINT, "stopped in a step")
        return self.objective(*arguments)


def points(trials: list[storage.SearchTrial]) -> list[tuple[Any, ...]]:
    return [tuple(sorted(t.params.items())) for t in trials]


def search(folder: Path, objective: Callable[..., PointResult] = bowl, **more: Any) -> Search:
    folder.mkdir(exist_ok=True)
    return Search(settings(**more), folder, "cpu", objective)


def test_each_trial_says_how_many_threads_computed(tmp_path: Path) -> None:
    first = search(tmp_path / "run", trials=2)
    run_search(first)
    torch.set_num_threads(2)
    trials = run_search(search(tmp_path / "run", trials=3))
    assert [trial.threads for trial in trials] == [1, 1, 2]
    assert trials_csv(trials, []).splitlines()[3].endswith(",2")
    assert any("threads" in note for note in notes(trials, first, 9))
    assert not any("threads" in note for note in notes(trials[:2], first, 9))


# The spaces


def test_the_published_grid_is_300_points_and_200_networks() -> None:
    space, config = SPACES["s2_grid"], settings(space="s2_grid")
    assert space.size == 300 == len(CONV) * len(DENSE) * len(DROPOUT) * 2
    found = [
        space.config(config, dict(zip(space.grid(), p, strict=True))) for p in itertools.product(*space.grid().values())
    ]
    mine = {(c, d, r[: len(d)], b) for c in CONV for d in DENSE for r in DROPOUT for b in (True, False)}
    assert len(mine) == 200
    assert {(f.s2.conv, f.s2.dense, f.s2.dropout, f.batch_norm) for f in found} == mine


def test_every_space_gives_settings_at_all_its_ends() -> None:
    for space in SPACES.values():
        ends = [(p.low, p.high) if isinstance(p, Range) else tuple(p.options) for p in space.parameters]
        for i, values in enumerate(ends):
            for value in values:
                point = [e[0] for e in ends[:i]] + [value] + [e[-1] for e in ends[i + 1 :]]
                chosen = dict(zip([p.name for p in space.parameters], point, strict=True))
                assert isinstance(space.config(settings(), chosen), TuneConfig)


def test_a_label_is_a_setting() -> None:
    parameter = among("s2.dense", (), (512, 256))
    assert list(parameter.options) == ["none", "512-256"]
    assert parameter.settings("512-256") == {"s2": {"dense": (512, 256)}}
    assert parameter.keys == {"s2.dense"}


def test_what_does_nothing_is_not_searched() -> None:
    def names(regime: str) -> set[str]:
        return {p.name for p in fitting_space(settings(regime=regime)).parameters}

    assert names("augment") - names("baseline") == {"augmentation"}


def test_networks_too_deep_for_the_images_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """(s - 2) // 2 a block: 16 px make 7, 2, then 0; 46 px are the least for four blocks."""
    small = settings(space="s2_grid", data=DataConfig(path="phantom", image_size=16), trials=None)
    conv = next(p for p in fitting_space(small).parameters if p.name == "s2.conv")
    assert list(conv.options) == ["32-64"]
    assert tune.number_of_trials(small) == 60
    assert "too small" in caplog.text
    for size, kept in ((45, 2), (46, 5)):
        config = settings(space="s2_grid", data=DataConfig(path="phantom", image_size=size), trials=None)
        assert tune.number_of_trials(config) == 60 * kept


def test_how_many_trials() -> None:
    assert tune.number_of_trials(settings(space="s2_grid", trials=None)) == 300
    assert tune.number_of_trials(settings(space="s2_grid", trials=1000)) == 300
    assert tune.number_of_trials(settings(space="s2_grid", trials=None, sampler="tpe")) == 50
    assert tune.number_of_trials(settings(trials=None)) == 50
    assert tune.number_of_trials(settings(trials=7)) == 7


# The search, with faked objectives


@pytest.mark.nightly
def test_the_grid_comes_whole_and_once(tmp_path: Path) -> None:
    called = []

    def counting(*arguments: Any) -> PointResult:
        called.append(arguments[1])
        return flat(*arguments)

    rows = run_search(search(tmp_path, counting, space="s2_grid", trials=None))
    assert len(rows) == 300
    assert set(Counter(points(rows)).values()) == {1}
    assert len(called) == len(set(called)) == 200  # the same network is not trained twice
    taken_over = [row for row in rows if row.same_as is not None]
    assert len(taken_over) == 100
    assert all(rows[row.same_as].value == row.value for row in taken_over)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_gives_the_points(tmp_path: Path, sampler: str) -> None:
    found = [
        points(run_search(search(tmp_path / str(i), sampler=sampler, seed=seed, trials=14)))
        for i, seed in enumerate((3, 3, 4))
    ]
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])
    assert len(set(found[0])) == 14


@pytest.mark.nightly
def test_tpe_comes_nearer_than_chance(tmp_path: Path) -> None:
    def late(sampler: str) -> float:
        runs = [run_search(search(tmp_path / f"{sampler}{s}", sampler=sampler, seed=s, trials=30)) for s in range(2)]
        return float(np.mean([row.value for rows in runs for row in rows[15:]]))

    assert late("tpe") < 0.6 * late("random")


@pytest.mark.parametrize(("sampler", "space"), [("tpe", "wide"), ("grid", "s2_grid")])
def test_an_interrupted_search_goes_on_as_it_would_have(tmp_path: Path, sampler: str, space: str) -> None:
    more = {"sampler": sampler, "space": space, "trials": 16}
    objective = bowl if space == "wide" else flat
    whole = run_search(search(tmp_path / "whole", objective, **more))
    stopping = search(tmp_path / "cut", Stopping(objective, 9), **more)
    with pytest.raises(
        Interrupted, match=r"SIGINT: finished trials are kept in .*journal\.log; continue with --resume"
    ):
        run_search(stopping)
    assert [row.state for row in storage.read_trials(stopping.storage())].count("complete") < 16
    rows = run_search(search(tmp_path / "cut", objective, **more))
    assert len(set(points(rows))) == len(rows) == 16
    if sampler != "grid":  # Optuna's grid goes by the number of the trial, so another of its points comes last
        assert points(rows) == points(whole)
        assert [row.value for row in rows] == [row.value for row in whole]
    states = Counter(trial.state.name for trial in stopping.storage().get_trials())
    assert states == {"COMPLETE": 16, "FAIL": 1}
    again = Stopping(objective, 1)
    assert len(run_search(search(tmp_path / "cut", again, **more))) == 16  # nothing is left to do
    assert again.calls == 0


@pytest.mark.parametrize("sampler", ["random", pytest.param("tpe", marks=pytest.mark.nightly)])
def test_a_kill_between_any_two_lines_of_the_storage_changes_no_point(tmp_path: Path, sampler: str) -> None:
    """Optuna writes a line a parameter, so a kill may leave a point half drawn."""
    more = {"sampler": sampler, "trials": 2}
    whole = run_search(search(tmp_path / "whole", bowl, **more))
    lines = (tmp_path / "whole" / "journal.log").read_bytes().splitlines(keepends=True)
    for kept in range(2, len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / "journal.log").write_bytes(b"".join(lines[:kept]))
        rows = run_search(search(folder, bowl, **more))
        assert points(rows) == points(whole), f"after line {kept}"
        assert [row.value for row in rows] == [row.value for row in whole]


def test_the_last_point_of_a_grid_may_be_the_one_cut_short(tmp_path: Path) -> None:
    small = {"space": "s2_grid", "trials": None, "data": DataConfig(path="phantom", image_size=16)}
    with pytest.raises(Interrupted):
        run_search(search(tmp_path, Stopping(flat, 40), **small))
    rows = run_search(search(tmp_path, flat, **small))
    assert len(set(points(rows))) == len(rows) == 60


def test_a_point_whose_worker_died_is_trained_by_the_next(tmp_path: Path) -> None:
    """Dask gives the task to another worker. Without the point, a grid would end with a hole."""
    grid = search(tmp_path, flat, space="s2_grid", data=DataConfig(path="phantom", image_size=16))
    study = grid.storage()
    lost, beside, again = (
        storage.next_trial(study, tmp_path, grid.space, "grid", 0, task) for task in ("dies", "lives", "dies")
    )
    assert lost.params == again.params != beside.params
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "RUNNING", "RUNNING"]


def test_a_worker_that_sees_other_data_is_refused(template: Path, tmp_path: Path) -> None:
    config = settings(data=DataConfig(path=str(template), image_size=16))
    there = Search(config, tmp_path, "cpu")
    storage.check_data(there.storage(), {"split_hash": "another"})
    made = tune._attempt_next(there)
    assert "not those of the process that runs the command" in str(made.error)
    assert "expected another" in str(made.error)


def test_a_worker_lives_through_two_searches_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has replaced the first (--force), with the same settings."""
    monkeypatch.setattr(tune, "_attempt_there", tune._attempt_next)
    monkeypatch.setattr(tune, "run_on_cluster", lambda job, searches, _: (job(one).result for one in searches))
    for _ in range(2):
        (tmp_path / "journal.log").unlink(missing_ok=True)
        assert len(run_search(search(tmp_path, trials=3), cluster=Workers())) == 3


def test_what_a_kill_leaves_behind_is_put_right(tmp_path: Path) -> None:
    first = search(tmp_path, trials=3)
    run_search(first)
    (tmp_path / "journal.log.lock").symlink_to(tmp_path / "journal.log")
    with (tmp_path / "journal.log").open("ab") as handle:
        handle.write(b'{"op_code":4,"wor')
    begin = time.monotonic()
    assert len(run_search(search(tmp_path, trials=5))) == 5
    assert time.monotonic() - begin < 20  # Optuna itself would wait 30 s for the lock
    assert len(storage.read_trials(first.storage())) == 5


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    run_search(search(tmp_path, trials=2))
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.log").write_bytes(b"".join([*lines[:2], b"<html>\n", *lines[2:]]))
    with pytest.raises(BalancerError, match=r"journal\.log is damaged: .*; bring back a copy, or start a new run"):
        run_search(search(tmp_path, trials=3))


def refusal(read: Callable[[], object]) -> str | None:
    """Return the message of a damaged file; None if the file is read."""
    try:
        read()
    except DamagedFile as error:
        return str(error)
    return None


def test_a_flipped_bit_of_the_journal_is_never_used_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_search(search(tmp_path, trials=2))
    journal, before = tmp_path / "journal.log", storage.read_trials(storage.open_storage(tmp_path))
    content, random = journal.read_bytes(), np.random.default_rng(0)
    monkeypatch.setattr(storage, "warn_of_no_seal", lambda path: storage.log.warning("%s has no seal", path))
    for place in random.choice(8 * len(content), 60, replace=False).tolist():
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        journal.write_bytes(changed)
        caplog.clear()
        problem = refusal(lambda: storage.recover(tmp_path))
        if problem is None:
            assert caplog.text or storage.read_trials(storage.open_storage(tmp_path)) == before, place
        else:
            assert "journal.log is damaged" in problem
            assert "\n" not in problem


@pytest.mark.parametrize("change", [{"nll": "low"}, {"seconds": None}, {"settings": 3}, {"nll": [math.nan]}])
def test_a_journal_of_the_wrong_shape_names_trial_and_key(tmp_path: Path, change: dict[str, Any]) -> None:
    run_search(search(tmp_path, trials=1))
    study = storage.open_storage(tmp_path)
    trial = study.ask()
    trial.set_user_attr("facts", {"settings": "s", "code_hash": "c", "seconds": 1.0} | change)
    study.tell(trial, 0.5)
    with pytest.raises(DamagedFile, match=rf"journal\.log is damaged: trial 1: {next(iter(change))}"):
        run_search(search(tmp_path, trials=3))


def test_a_damaged_best_file_is_no_config_file(tmp_path: Path) -> None:
    write_yaml(tmp_path / "best.yaml", "train:\n  steps: 60\n")
    assert read_config_file(tmp_path / "best.yaml", "train") == {"steps": 60}
    (tmp_path / "best.yaml").write_text((tmp_path / "best.yaml").read_text().replace("60", "20"))
    with pytest.raises(DamagedFile, match=r"best\.yaml is damaged.*last line"):
        read_config_file(tmp_path / "best.yaml", "train")


def test_pruning_is_the_median_rule(tmp_path: Path) -> None:
    """Compare the best validation so far with the median of the others at the same validation.

    From the second validation on, and once five trials are complete, a trial above that median must have been pruned.
    """
    rows = run_search(search(tmp_path, pruner="median", sampler="random", trials=30))
    assert {row.state for row in rows} == {"complete", "pruned"}
    for i, row in enumerate(rows):
        looks = row.validations
        whole = sum(r.state == "complete" for r in rows[:i])
        poor = []
        for look in looks:
            others = [r.validations[look] for r in rows[:i] if r.state == "complete" and look in r.validations]
            best = min(v for k, v in looks.items() if k <= look)
            poor.append(whole >= 5 and look >= 2 and len(others) >= 3 and best > np.median(others))
        assert poor[:-1] == [False] * (len(poor) - 1)
        assert poor[-1] == (row.state == "pruned")
        assert row.state == "complete" or row.nll is None


@pytest.mark.parametrize("error", [BalancerError("the loss is not finite"), torch.cuda.OutOfMemoryError("no memory")])
def test_a_point_that_cannot_be_trained_does_not_end_the_search(tmp_path: Path, error: Exception) -> None:
    def diverging(base: TuneConfig, config: TuneConfig, *more: Any) -> PointResult:
        if config.lr > 1e-3:
            raise error
        return bowl(base, config, *more)

    rows = run_search(search(tmp_path, diverging, sampler="random", trials=10))
    lost = [row for row in rows if row.why]
    assert {row.why for row in lost} == {str(error)}
    assert all(row.params["lr"] > 1e-3 and row.state == "pruned" for row in lost)
    assert 0 < len(lost) < len(rows) == 10


def test_no_trial_at_all_is_an_error(tmp_path: Path) -> None:
    def hopeless(*_: Any) -> PointResult:
        raise BalancerError("batch 64 is larger than the training fold")

    with pytest.raises(BalancerError, match="no trial of 3 could be finished: trial 0, batch 64 is larger"):
        run_search(search(tmp_path / "a", hopeless, trials=3))
    with pytest.raises(BalancerError, match="no trial of 0 could be finished; raise --timeout"):
        run_search(search(tmp_path / "b"), timeout=0)


def test_a_bug_is_not_taken_for_a_poor_trial(tmp_path: Path) -> None:
    def broken(*_: Any) -> PointResult:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_search(search(tmp_path, broken))


def test_timeout_begins_no_further_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial takes a second of a clock of ours: the fourth would begin at 3."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(tune, "time", clock)

    def lasting(*arguments: Any) -> PointResult:
        clock.now += 1
        return bowl(*arguments)

    rows = run_search(search(tmp_path, lasting, trials=500), timeout=2.5)
    assert [row.seconds for row in rows] == [1, 1, 1]
    assert "497 of 500 trials are left out" in caplog.text


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_share_a_grid(tmp_path: Path) -> None:
    rows = run_search(search(tmp_path, slow_bowl, space="s2_grid", trials=40, seed=5), jobs=2)
    assert len(rows) == len(set(points(rows))) == 40
    assert len({row.temperature[0] for row in rows}) == 2
    alone = run_search(search(tmp_path / "alone", bowl, space="s2_grid", trials=40, seed=5))
    assert set(points(rows)) == set(points(alone))


def test_importances_find_what_matters(tmp_path: Path) -> None:
    one = search(tmp_path, sampler="random", trials=40)
    run_search(one)
    shares = storage.importances(one.storage(), 0)
    assert shares is not None
    assert max(shares, key=lambda name: shares[name]) == "lr"
    assert sum(shares.values()) == pytest.approx(1)
    few = search(tmp_path / "few", trials=9)
    run_search(few)
    assert storage.importances(few.storage(), 0) is None


# The figure of a trial


def test_the_figure_is_at_the_best_temperature() -> None:
    rng = np.random.default_rng(0)
    y_true, logits = rng.integers(0, 2, 200), rng.normal(0, 4, 200)
    y_score = 1 / (1 + np.exp(-(logits + 2 * y_true)))
    found, temperature = calibrated_nll(y_true, y_score)
    z = np.log(y_score / (1 - y_score))
    every = {t: nll(y_true, 1 / (1 + np.exp(-z / t))) for t in np.exp(np.linspace(-2.9, 2.9, 2000))}
    assert found == pytest.approx(min(every.values()), rel=1e-5)
    assert temperature == pytest.approx(min(every, key=lambda t: every[t]), rel=0.01)
    smoothed = 0.2 + 0.6 * y_score  # label smoothing's effect on scores: nearer the middle, in the same order
    assert calibrated_nll(y_true, smoothed)[0] < nll(y_true, smoothed)


def test_a_trial_is_the_mean_over_paired_seeds(
    small_data: Dataset, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its looks are numbered apart by seed, each the mean of the seeds before and the one that is being trained."""
    config = settings(data=DataConfig(path=str(template), image_size=16), seeds=3, seed=7)
    val = small_data.indices("val")
    y_true, rng, seen = small_data.labels[val], np.random.default_rng(1), []
    scores = {seed: [rng.random(len(val)) for _ in range(2)] for seed in (7, 8, 9)}

    def fit(
        _config: Any, regime: Any, seed: int, train: Any, fold: Any, *_: Any, on_validation: Any
    ) -> SimpleNamespace:
        assert np.array_equal(fold[0], small_data.images[val])
        assert np.array_equal(train.images, small_data.images[small_data.indices("train")])
        seen.append(seed)
        for step, score in enumerate(scores[seed], 1):
            on_validation(step, score)
        return SimpleNamespace(val_score=scores[seed][-1])

    monkeypatch.setattr(trainer, "train", fit)
    reports: dict[int, float] = {}
    found = tune.train_point(config, config, reports.__setitem__, CPU, lambda: None)
    expected = {seed: [calibrated_nll(y_true, s)[0] for s in scores[seed]] for seed in scores}
    assert seen == [7, 8, 9]
    assert found.nll == [expected[seed][-1] for seed in seen]
    assert found.value == pytest.approx(np.mean(found.nll))
    assert list(reports) == [1, 2, 1001, 1002, 2001, 2002]
    assert reports[2001] == pytest.approx((expected[7][1] + expected[8][1] + expected[9][0]) / 3)


def test_the_test_fold_is_not_in_memory(small_data: Dataset, template: Path) -> None:
    data = tune.open_once(settings(data=DataConfig(path=str(template), image_size=16))).data
    assert sorted(set(data.folds)) == ["train", "val"]
    assert len(data.images) == len(data.records) == len(data.groups) == len(data.digests) == len(data.labels)
    test = {record.name for record, fold in zip(small_data.records, small_data.folds, strict=True) if fold == "test"}
    assert not test & {record.name for record in data.records}
    for fold in ("train", "val"):
        assert np.array_equal(data.images[data.indices(fold)], small_data.images[small_data.indices(fold)])


# The command


def small(folder: Path, *more: object) -> list[object]:
    """Options that make a trial take a fraction of a second."""
    size = ["--image-size", 16, "--steps", 6, "--set", "evaluations=2", "--device", "cpu", "-q"]
    size += ["--set", "bn_statistics=running"]
    return ["tune", "--data", folder, *size, *more]


def test_a_search_and_what_it_leaves(classifier: Run, chest_folder: Path, tmp_path: Path, no_estimate: None) -> None:
    """Twice, the second time with other test images: not a figure may differ."""
    told = []
    for name in ("one", "two"):
        result = done(classifier(*small(chest_folder, "--trials", 2, "--seeds", 2, "--out", tmp_path / name, "--json")))
        told.append(json.loads(result.stdout))
        for i, file in enumerate(sorted((chest_folder / "test").rglob("*.png"))):
            Image.fromarray(np.random.default_rng(i).integers(0, 99, (32, 40), dtype=np.uint8)).save(file)
    assert told[0]["best"]["value"] == told[1]["best"]["value"]
    assert told[0]["best"]["nll"] == told[1]["best"]["nll"]
    run = tmp_path / "one"
    names = words("best.yaml tune.json trials.csv report.md journal.log config.yaml env.json log.txt done")
    assert names <= {path.name for path in run.iterdir()}
    with (run / "trials.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(row["nll"]) for row in rows if int(row["trial"]) == told[0]["best"]["trial"]] == [
        told[0]["best"]["value"]
    ]
    assert min(float(row["nll"]) for row in rows if row["state"] == "complete") == told[0]["best"]["value"]
    best = yaml.safe_load((run / "best.yaml").read_text())
    for command in ("train", "ablate"):
        more = () if command == "train" else ("--regimes", "baseline")
        dry = done(
            classifier(command, "--config", run / "best.yaml", *more, "--dry-run", "--json", "-q", "--device", "cpu")
        )
        used = json.loads(dry.stdout)["config"]
        assert {key: used[key] for key in best["ablate"]} == best["ablate"]
        assert used["data"]["path"] == str(chest_folder)
        assert (used["lr"], used["steps"]) == (told[0]["best"]["params"]["lr"], 6)
    assert best["train"]["regime"] == "baseline"
    report = (run / "report.md").read_text()
    assert "The test fold was not read" in report
    for figure in (run / "figures").iterdir():
        assert f"figures/{figure.name}" in report
        assert Image.open(figure).size > (300, 200)


def test_more_trials_than_the_card_holds_are_refused_before_the_first(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(study: Study, workers: Workers) -> None:
        assert (study.config.batch_size, workers.jobs) == (8, 3)
        raise BalancerError("use --jobs 1")

    monkeypatch.setattr(api, "check_card", full)
    config = configure(TuneConfig, {"data": {"path": str(template), "image_size": 32}, "batch_size": 8})
    with pytest.raises(BalancerError, match="use --jobs 1"):
        perform(api.prepare_search(config, Workers("cpu", jobs=3)), RunRequest(tmp_path / "search"))
    assert not (tmp_path / "search").exists()


def test_a_search_is_resumed_and_made_longer(classifier: Run, template: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done(classifier(*small(template, "--trials", 1, "--out", run, "--json")))
    changed = classifier("tune", "--resume", run, "--steps", 9, "-q")
    refused(changed, 1, "steps (saved 6, asked 9)")
    more = done(classifier("tune", "--resume", run, "--trials", 2, "--device", "cpu", "-q", "--json"))
    assert json.loads(more.stdout)["trials"]["complete"] == 2
    assert yaml.safe_load((run / "config.yaml").read_text())["trials"] == 2
    assert (run / "done").exists()


def test_other_data_under_a_journal_are_refused(tmp_path: Path) -> None:
    study = search(tmp_path).storage()
    storage.check_data(study, {"split_hash": "a", "data_fingerprint": "b"})
    storage.check_data(study, {"split_hash": "a", "data_fingerprint": "b"})
    with pytest.raises(BalancerError, match="on other data \\(data_fingerprint b, now c\\)"):
        storage.check_data(study, {"split_hash": "a", "data_fingerprint": "c"})


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        (("--space", "s2_gird"), "space is 's2_gird'; did you mean 's2_grid'?"),
        (("--sampler", "bayes"), "setting 'sampler' is 'bayes'"),
        (("--pruner", "hard"), "setting 'pruner' is 'hard'"),
        (("--sampler", "grid"), "lr, weight_decay, label_smoothing of space wide are continuous; use tpe or random"),
        (("--set", "lr=0.5"), "setting 'lr' is 0.5, but space wide searches it"),
        (("--space", "s2_grid", "--set", "s2.conv=[8]"), "setting 's2.conv' is [8], but space s2_grid searches it"),
        (
            ("--space", "s2_grid", "--model", "resnet18"),
            "setting 'model' is 'resnet18', but space s2_grid is of s2_cnn",
        ),
        (("--regime", "gna"), "regime is 'gna'; did you mean 'gan'?"),
        (("--trials", "0"), "setting 'trials' is 0"),
    ],
)
def test_bad_options_are_one_line(classifier: Run, template: Path, tmp_path: Path, options: Any, phrase: str) -> None:
    result = classifier(*small(template, *options, "--out", tmp_path / "run"))
    refused(result, 2, phrase)
    assert not (tmp_path / "run").exists()


def test_a_space_brings_its_settings_and_a_default_said_aloud_is_no_conflict(
    classifier: Run, template: Path, no_estimate: None
) -> None:
    def dry(*options: object) -> dict[str, Any]:
        result = done(classifier(*small(template, *options, "--dry-run", "--json")))
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    grid = dry("--space", "s2_grid")["config"]
    asked = ("model", "optimizer", "lr", "weight_decay", "schedule", "ema_decay", "normalisation", "batch_size")
    assert [grid[k] for k in asked] == ["s2_cnn", "adam", 1e-3, 0.0, "constant", 0.0, "unit", 32]
    assert dry("--space", "s2_grid", "--set", "lr=0.0005")["config"]["lr"] == 0.0005
    wide = ("--set", "lr=0.001", "--trials", 4, "--seeds", 3)
    assert dry(*wide, "--jobs", 2)["estimated_seconds"] == pytest.approx(4 * 3 * 120 / 2, abs=5)
    assert dry(*wide, "--timeout", 90)["estimated_seconds"] == pytest.approx(90, abs=5)


def test_without_optuna_the_extra_is_named(
    classifier: Run, template: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("storage", "search", "report", "figures"):
        monkeypatch.delitem(sys.modules, f"classifier.tuning.{name}")
        monkeypatch.delattr(package, name)
    refused(classifier(*small(template)), 1, "pip install -e", "[tune]")
    assert not list(runs_cwd.iterdir())


@pytest.mark.nightly
def test_figures_of_equal_values_can_be_drawn(tmp_path: Path) -> None:
    """One trial, and four with the same value: no warning, no error."""
    for name, more in (("one", {"trials": 1}), ("grid", {"space": "s2_grid", "trials": 4})):
        one = search(tmp_path / name, lambda *_: PointResult([0.25], [1.0]), **more)
        run_search(one)
        figures = tune_figures.draw_all(one.storage(), one.space, 0, with_importance=False)
        assert set(figures) == {"history", "slices", "parallel"}
        assert all(plots.png(figure) for figure in figures.values())


def test_a_space_of_which_nothing_can_be_built_is_refused() -> None:
    base, tiny = settings(data=DataConfig(path="phantom", image_size=16)), among("s2.conv", (8, 8, 8, 8, 8))
    space = replace(SPACES["s2_grid"], parameters=(tiny,))
    with pytest.raises(UsageError, match=r"no s2\.conv of space s2_grid can be built: .*16 px is too small"):
        tune._buildable(tiny, space, base)
