"""GAN training: exact resumption, safe stops, the right images, the best snapshot kept."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gan_helpers import (
    CPU,
    RECIPES,
    assert_same,
    config,
    contents,
    dataset,
    flat,
    interrupt_after,
    run_at,
    run_training,
)
from PIL import Image
from streams import disturb_global_streams
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from balancer.augmentation.differentiable import DIFFAUGMENT
from balancer.cli import main as balancer_command
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.jsonl import read_jsonl
from balancer.core.presets import PRESETS
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.core.tensorboard_events import EventFiles
from balancer.data.chest import CLASSES
from balancer.gan import trainer
from balancer.gan.checkpoint import BEST, CHECKPOINT
from balancer.gan.snapshot import Snapshot, SnapshotQuality
from balancer.gan.step import build_state, sample_z, train_step
from balancer.gan.trainer import train, training_images

pytestmark = pytest.mark.usefixtures("cheap_features")

CLOCKS = {"images_per_s", "memory_mb", "eta_s"}
# At 32 px, the smallest side that D can reconstruct.
FEW_IMAGES: dict[str, Any] = {
    "data": {"path": "phantom", "image_size": 32},
    "architecture": "excited",
    "reconstruction_weight": 1.0,
    "consistency_weight": 10.0,
    "top_k": 0.5,
    "lr_schedule": "cosine",
}
EVERY: dict[str, dict[str, Any]] = {**{p: {"preset": p} for p in PRESETS}, **RECIPES, "few images": FEW_IMAGES}
STOPS = [*((recipe, 4) for recipe in EVERY), ("dcgan", 5), ("dcgan", 6)]
# Between them these use every part of the state: singular vectors, ADA, LeCam, averages, optimisers, lazy penalties.
ON_COMMIT = {
    ("dcgan", 4),
    ("dcgan", 5),
    ("rmsprop, no average", 4),
    ("upsample, lazy R1, minibatch sd", 4),
    ("everything adaptive", 4),
    ("few images", 4),
}


def rows_of(run: Path) -> list[dict[str, float]]:
    """What was logged, but for what a clock says."""
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_jsonl(run / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("recipe", "stop"), [pytest.param(*s, marks=() if s in ON_COMMIT else pytest.mark.nightly) for s in STOPS]
)
def test_resumed_equals_uninterrupted(recipe: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, statistics, singular vectors, averages, optimisers, ADA, LeCam and the best snapshot: bit for bit."""
    settings = config(**{"snapshot_every": 3, **EVERY[recipe]})
    data = dataset(size=settings.data.image_size)
    run_training(tmp_path / "whole", settings, data)
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop, signal.SIGINT)
        with pytest.raises(Interrupted, match=rf"SIGINT: saved at step {stop} of 8; continue with --resume .*parts"):
            run_training(tmp_path / "parts", settings, data)
    assert contents(tmp_path / "parts" / CHECKPOINT)["step"] == stop
    disturb_global_streams(999)  # those of the new process are others
    run_training(tmp_path / "parts", settings, data, resume=True)
    whole, parts = (contents(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert whole["step"] == 8
    assert {"G", "D", "G_ema", "optimizer_G", "optimizer_D", "running_stats", "best"} <= whole.keys()
    assert whole["optimizer_G"]["state"]
    assert all(torch.isfinite(v).all() for v in flat(whole).values() if isinstance(v, torch.Tensor))
    assert_same(whole, parts)
    assert_same(*(contents(tmp_path / name / BEST) for name in ("whole", "parts")))
    sheets = [(tmp_path / name / "grids" / "step_000008.png").read_bytes() for name in ("whole", "parts")]
    assert sheets[0] == sheets[1]
    rows = [rows_of(tmp_path / name) for name in ("whole", "parts")]
    assert [row["step"] for row in rows[0] if "kid" in row] == [3, 6, 8]
    # a row of losses is a mean since the row before, or since the resumption
    assert [r for r in rows[0] if "kid" in r] == [r for r in rows[1] if "kid" in r]
    if stop % 2 == 0:
        assert rows[0] == rows[1]


def test_a_kill_after_a_row_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power gone between quality and checkpoint: after a resume no row is there twice, and `best.pt` is right."""
    settings = config(snapshot_every=2)
    run_training(tmp_path / "whole", settings)

    def dying(path: Path, *rest: Any) -> None:
        if rest[1].step == 6:
            raise KeyboardInterrupt
        save(path, *rest)

    save = trainer.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            run_training(tmp_path / "parts", settings)
    assert [row["step"] for row in rows_of(tmp_path / "parts")] == [2, 2, 4, 4, 6, 6]
    run_training(tmp_path / "parts", settings, resume=True)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")
    assert_same(*(contents(tmp_path / name / BEST) for name in ("whole", "parts")))


def test_a_kill_before_the_first_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was saved: on resumption everything is made again, and the rows of the first attempt are gone."""
    settings = config()
    run_training(tmp_path / "whole", settings)

    def dying(given: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        if state.step == 5:
            raise KeyboardInterrupt
        return train_step(given, state, real)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_training(tmp_path / "parts", settings)
    assert [row["step"] for row in rows_of(tmp_path / "parts")] == [2, 4]
    assert not (tmp_path / "parts" / CHECKPOINT).exists()
    run_training(tmp_path / "parts", settings, resume=True)
    assert [row["step"] for row in rows_of(tmp_path / "parts")] == [2, 4, 6, 8, 8]
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")


@pytest.mark.parametrize("snapshot_every", [3, 4, 5, 8])
def test_the_speed_is_that_of_training_alone(
    snapshot_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of our own: a step takes a second, a snapshot a thousand, wherever it falls between two rows."""
    clock = SimpleNamespace(now=0.0)

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        clock.now += 1
        return train_step(settings, state, real)

    def measured(*_: Any) -> SnapshotQuality:
        clock.now += 1000
        return SnapshotQuality(1, 1, 1, 1, 1)

    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(trainer, "train_step", stepping)
    monkeypatch.setattr(trainer, "measure", measured)
    settings = config(log_every=4, snapshot_every=snapshot_every, steps=16)
    summary = run_training(tmp_path / "run", settings)
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss_D" in row]
    assert [row["images_per_s"] for row in rows] == [settings.batch_size] * 4
    assert [row["eta_s"] for row in rows] == [12, 8, 4, 0]
    taken = -(-16 // snapshot_every)
    assert (summary.snapshot_seconds, summary.seconds) == (1000 * taken, 1000 * taken + 16)


def test_the_seed_decides(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_training(tmp_path / name, config(seed=seed, steps=2))
        made.append(contents(tmp_path / name / CHECKPOINT))
    assert_same(made[0], made[1])
    assert not torch.equal(*(next(iter(c["G"].values())) for c in made[1:]))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(signum: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, before = config(), signal.getsignal(signum)
    interrupt_after(monkeypatch, 3, signum)
    with run_at(tmp_path / "run", settings) as run, pytest.raises(Interrupted) as caught:
        train(settings, dataset(), run, CPU)
    assert caught.value.exit_code == code
    assert contents(tmp_path / "run" / CHECKPOINT)["step"] == 3
    assert signal.getsignal(signum) == before
    assert not (tmp_path / "run" / "done").exists()


def test_only_the_training_folds_minority_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold and class has a grey level of its own."""
    data = dataset()
    level = np.where(data.folds == "train", np.where(data.labels == 0, 51, 102), np.where(data.folds == "val", 255, 0))
    marked = replace(data, images=np.broadcast_to(level[:, None, None], data.images.shape).astype(np.uint8))
    pixels = training_images(marked, 0, CPU)
    assert pixels.shape == (11, 16, 16)
    assert np.unique(pixels).tolist() == [51]
    seen: list[torch.Tensor] = []

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(real)
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)
    monkeypatch.setattr(trainer, "open_monitor", lambda *_: None)  # flat images have no features to compare
    for target, grey in ((None, 51), ("pneumonia", 102)):
        settings = config(target_class=target)
        with run_at(tmp_path / str(target), settings) as run:
            summary = train(settings, marked, run, CPU)
        assert summary.class_name == (CLASSES[1] if target else CLASSES[0])
        assert summary.n_train == (20 if target else 11)
        assert len(seen) == 8
        assert torch.allclose(torch.stack(seen), torch.tensor(grey / 127.5 - 1))
        seen.clear()


@pytest.mark.parametrize("n_dis", [1, 3])
def test_every_training_image_is_visited(n_dis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    data.images[:, 0, 0] = np.arange(len(data.images))
    seen: list[int] = []

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.extend(((real[:, 0, 0, 0] + 1) * 127.5).round().int().tolist())
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)
    settings = config(steps=11, n_dis=n_dis)  # 44 images for one step of D each: four passes over 11
    with run_at(tmp_path / "run", settings) as run:
        train(settings, data, run, CPU)
    assert sorted(seen) == sorted(4 * n_dis * data.indices("train", 0).tolist())


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    settings = config(steps=7, log_every=3, snapshot_every=4)
    with run_at(tmp_path / "run", settings) as run:
        summary = train(settings, dataset(), run, CPU)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    rows, quality = [r for r in rows if "loss_D" in r], [r for r in rows if "kid" in r]
    assert [r["step"] for r in rows] == [3, 6, 7]
    assert [r["step"] for r in quality] == [4, 7]
    for row in quality:
        assert row.keys() == {"step", "kid", "kid_real_baseline", "frechet", "frechet_real_baseline", "diversity"}
        assert np.isfinite(list(row.values())).all()
    for row in rows:
        promised = {"step", "loss_D", "loss_G", "D_real", "D_fake", "images_per_s", "memory_mb", "eta_s"}
        assert promised <= row.keys()
        assert 0 < row["D_real"] < 1
        assert 0 < row["D_fake"] < 1
        assert row["loss_D"] > 0
        assert row["images_per_s"] > 0
        assert row["memory_mb"] > 10
        left = (7 - row["step"]) * settings.batch_size / row["images_per_s"]
        assert row["eta_s"] == pytest.approx(left, abs=0.1)
    assert rows[-1]["eta_s"] == 0
    grids = sorted(p.name for p in (tmp_path / "run" / "grids").iterdir())
    assert grids == ["step_000004.png", "step_000007.png"]
    with Image.open(tmp_path / "run" / "grids" / grids[0]) as sheet:
        assert sheet.mode == "L"
        assert sheet.size[0] == sheet.size[1] >= 8 * 128
    assert summary.steps == summary.steps_run == 7
    assert summary.losses["loss_D"] == rows[-1]["loss_D"]
    assert 0 < summary.snapshot_seconds < summary.seconds
    best = min(quality, key=lambda row: row["kid"])
    assert summary.chosen.to_json() == best
    assert contents(tmp_path / "run" / BEST)["step"] == best["step"]
    json.dumps(summary.to_json(), allow_nan=False)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_logged_losses_are_means_since_the_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepping(_settings: GanTrainConfig, state: Any, _real: torch.Tensor) -> dict[str, torch.Tensor]:
        state.step += 1
        value = torch.tensor(float(state.step))
        return {"loss_D": value, "loss_G": 10 * value, "D_real": value, "D_fake": value}

    monkeypatch.setattr(trainer, "train_step", stepping)
    settings = config(steps=5, log_every=2)
    with run_at(tmp_path / "run", settings) as run:
        train(settings, dataset(), run, CPU)
    rows = [r for r in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "loss_D" in r]
    assert [(r["loss_D"], r["loss_G"]) for r in rows] == [(1.5, 15), (3.5, 35), (5, 50)]


def scripted(monkeypatch: pytest.MonkeyPatch, **figures: list[float]) -> None:
    """Have the snapshots measure, one after the other, what is given."""
    turn = iter(range(100))

    def measured(*_: Any) -> SnapshotQuality:
        i = next(turn)
        return replace(SnapshotQuality(1, 1, 1, 1, 1), **{name: values[i] for name, values in figures.items()})

    monkeypatch.setattr(trainer, "measure", measured)


@pytest.mark.parametrize(("selection", "step"), [("kid", 4), ("frechet", 6), ("last", 8)])
def test_the_best_snapshot_is_kept(selection: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of equals; a distance may be negative, being unbiased."""
    scripted(monkeypatch, kid=[0.3, -0.1, 0.2, -0.1], frechet=[9.0, 5.0, 4.0, 8.0])
    generators = {}
    save = trainer.save_checkpoint

    def keeping(path: Path, settings: Any, state: Any, *rest: Any) -> None:
        generators[state.step] = {k: v.clone() for k, v in state.ema.module.state_dict().items()}
        save(path, settings, state, *rest)

    monkeypatch.setattr(trainer, "save_checkpoint", keeping)
    summary = run_training(tmp_path / "run", config(snapshot_every=2, selection=selection))
    best, last = (contents(tmp_path / "run" / name) for name in (BEST, CHECKPOINT))
    assert (best["step"], last["step"], summary.chosen.step) == (step, 8, step)
    assert last["best"] == summary.chosen.to_json()
    assert_same(best["G_ema"], generators[step])
    assert_same(last["G_ema"], generators[8])


def test_collapse_stops_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dull snapshots running; one may be an accident. The best one is kept, and the last before the stop."""
    scripted(monkeypatch, kid=[5, 1, 4, 3, 2, 0], diversity=[0.5, 0.01, 0.4, 0.019, 0.001, 1])
    settings = config(snapshot_every=2, steps=20, min_diversity=0.02)
    with pytest.raises(BalancerError, match=r"collapsed by step 10: .* 0\.1% .* 1\.9%.*min_diversity 0\.02") as caught:
        run_training(tmp_path / "run", settings)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "run" / BEST)["step"] == 4
    assert contents(tmp_path / "run" / CHECKPOINT)["step"] == 8
    assert [row["step"] for row in rows_of(tmp_path / "run") if "kid" in row] == [2, 4, 6, 8]


def test_collapse_is_seen_across_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(snapshot_every=2, min_diversity=0.02)
    scripted(monkeypatch, diversity=[0.5, 0.01, 0.01])
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5, signal.SIGINT)
        with pytest.raises(Interrupted):
            run_training(tmp_path / "run", settings)
    with pytest.raises(BalancerError, match="collapsed by step 6"):
        run_training(tmp_path / "run", settings, resume=True)


@pytest.mark.parametrize(
    ("diversity", "stops"),
    [
        ([0.001, 0.002, 0.0015, 0.004], False),  # never there, and higher than at first
        ([0.001, 0.002, 0.0005, 0.004], True),  # never there, and lower
        ([0.001, 0.05, 0.004, 0.005], True),  # there once, and lost
    ],
)
def test_variety_that_rises_from_nothing_is_no_collapse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diversity: list[float], stops: bool
) -> None:
    scripted(monkeypatch, diversity=diversity)
    settings = config(snapshot_every=2, min_diversity=0.02)
    if stops:
        with pytest.raises(BalancerError, match="min_diversity"):
            run_training(tmp_path / "run", settings)
    else:
        assert run_training(tmp_path / "run", settings).steps == 8


def test_collapse_can_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, diversity=[0.0] * 4)
    assert run_training(tmp_path / "run", config(snapshot_every=2, min_diversity=0)).steps == 8


def test_a_generator_of_one_image_is_a_collapse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not scripted: latents that G does not hear."""

    def deaf(settings: GanTrainConfig, device: torch.device, channels: int) -> Any:
        state = build_state(settings, device, channels)
        with torch.no_grad():
            next(state.G.parameters()).zero_()
            next(state.ema.module.parameters()).zero_()
        next(state.G.parameters()).requires_grad_(False)
        return state

    monkeypatch.setattr(trainer, "build_state", deaf)
    with pytest.raises(BalancerError, match="collapsed by step 4"):
        run_training(tmp_path / "run", config(snapshot_every=2, min_diversity=0.02, lr_generator=1e-9))


@pytest.mark.parametrize("minority", [2, 3])
def test_too_few_images_to_measure(minority: int, tmp_path: Path) -> None:
    """Training goes on without figures; the last snapshot is the chosen one."""
    summary = run_training(tmp_path / "run", config(snapshot_every=3), dataset(minority=minority))
    assert summary.chosen == Snapshot(8, None)
    assert contents(tmp_path / "run" / BEST)["step"] == 8
    assert not any("kid" in row for row in rows_of(tmp_path / "run"))


def test_images_that_are_all_alike(tmp_path: Path) -> None:
    data = dataset()
    data.images[:] = 77
    run_training(tmp_path / "run", config(), data)
    for row in rows_of(tmp_path / "run"):
        assert np.isfinite(list(row.values())).all()


@pytest.mark.parametrize(
    ("log_every", "snapshot_every", "seen_at", "kept"), [(50, 4, 8, 4), (1, 4, 6, 4), (50, 100, 50, None)]
)
def test_divergence_stops_with_one_line_and_a_sound_snapshot(
    log_every: int, snapshot_every: int, seen_at: int, kept: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates that overflow from the sixth step on: no row and no snapshot with a value that is not finite.

    Found by the weights of the next snapshot, by the losses of the next row, and before any snapshot.
    """
    settings = config(steps=100, log_every=log_every, snapshot_every=snapshot_every)

    def stepping(given: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        if state.step == 5:
            for optimizer in (state.optimizer_G, state.optimizer_D):
                optimizer.param_groups[0]["lr"] = 1e30
        return train_step(given, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)
    with (
        run_at(tmp_path / "run", settings) as run,
        pytest.raises(BalancerError, match=rf"diverged by step {seen_at}\b.*lower the learning rate") as caught,
    ):
        train(settings, dataset(), run, CPU)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == {(1, 4): 5 + 1, (50, 4): 1, (50, 100): 0}[log_every, snapshot_every]
    for row in rows:
        assert np.isfinite(list(row.values())).all()
    for name in (CHECKPOINT, BEST):
        assert (tmp_path / "run" / name).exists() == (kept is not None)
        if kept is not None:
            content = contents(tmp_path / "run" / name)
            assert content["step"] == kept
            tensors = {key: value for key, value in flat(content).items() if isinstance(value, torch.Tensor)}
            assert tensors
            for key, value in tensors.items():
                assert torch.isfinite(value).all(), key


def test_losses_that_are_not_numbers_keep_the_last_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        scalars = train_step(settings, state, real)
        return scalars | ({"loss_G": torch.tensor(float("nan"))} if state.step == 7 else {})

    ended: list[str] = []
    monkeypatch.setattr(trainer, "train_step", stepping)
    monkeypatch.setattr(EventFiles, "end", lambda _self, status: ended.append(status))
    with pytest.raises(BalancerError, match="diverged by step 8"):
        run_training(tmp_path / "run", config(snapshot_every=3, tensorboard=True))
    assert ended == ["failed"], "events are written out however training ends"
    assert contents(tmp_path / "run" / CHECKPOINT)["step"] == 6
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [2, 3, 4, 6, 6]


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of every row, and the grids, through an interruption."""
    settings = config(tensorboard=True, snapshot_every=4, preset="sngan_diffaug", ada_target=0.1)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4, signal.SIGINT)
        with pytest.raises(Interrupted):
            run_training(tmp_path / "run", settings)
    run_training(tmp_path / "run", settings, resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "events"))
    events.Reload()
    curves = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert curves.keys() == {key for row in rows for key in row} - {"step"}
    assert {"loss_D", "kid", "augment_p"} <= curves.keys()
    for name, curve in curves.items():
        assert curve == [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows if name in row], name
    assert [e.step for e in events.Images("fixed z")] == [4, 8]


def test_tensorboard_is_off_by_default(tmp_path: Path) -> None:
    run_training(tmp_path / "run", config(steps=2))
    assert not (tmp_path / "run" / "events").exists()


def test_snapshots_and_exports_are_never_augmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only D sees changed images: the grid, the figures and the exported images are G's own."""
    from balancer.synthesis import Source, images_of

    settings = config(preset="sngan_diffaug")
    state = build_state(settings, CPU)
    train_step(settings, state, torch.rand(4, 1, 16, 16))

    def leak(*_: object) -> None:
        raise AssertionError("an image was augmented")

    for name in DIFFAUGMENT:
        monkeypatch.setitem(DIFFAUGMENT, name, leak)
    with pytest.raises(AssertionError, match="augmented"):
        train_step(settings, state, torch.rand(4, 1, 16, 16))
    with run_at(tmp_path / "run", settings) as run:
        trainer.Snapshots(settings, dataset(), 0, run, CPU, state).take(state)
    source = Source(tmp_path, state.ema.module, settings, 0, 1, dataset())
    (images,) = images_of(source, 0, 5, CPU)
    z = torch.cat([sample_z(settings, 1, generator(0, "z", i)) for i in range(64)])
    with torch.no_grad():
        expected = state.ema.module.eval()(z)[:5, 0]
    np.testing.assert_allclose(images, (expected.numpy() + 1) * 127.5, atol=0.51)


def test_scale_is_the_inverse_of_quantisation() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = trainer.scale(levels, CPU)
    assert scaled.min() == -1
    assert scaled.max() == 1
    assert np.array_equal(trainer.to_uint8(scaled)[0], levels[0, 0].numpy())


def test_estimate_leaves_nothing_behind(runs_cwd: Path) -> None:
    assert trainer.estimate_seconds(config(steps=1000), dataset(), CPU) > 0
    assert not list(runs_cwd.iterdir())


def test_a_run_killed_after_its_last_step_finishes_on_resume(runs_cwd, chest_folder) -> None:
    arguments = ["gan-train", "--data", str(chest_folder), "--steps", "4", "--batch-size", "4", "--image-size", "16"]
    small = ["--set", "generator_width=2", "--set", "discriminator_width=2", "--json"]
    first = CliRunner().invoke(balancer_command, [*arguments, *small], catch_exceptions=False)
    run = Path(json.loads(first.stdout)["run"])
    (run / "done").unlink()
    again = CliRunner().invoke(balancer_command, ["gan-train", "--resume", str(run), "--json"], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["loss_D"] == json.loads(first.stdout)["loss_D"]
    assert (run / "done").exists()
