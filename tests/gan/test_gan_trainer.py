"""GAN training: exact resumption, safe stops, the right images, checkpoints that cannot bite."""

import copy
import json
import logging
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

from balancer.cli import main as balancer_command
from balancer.config import GanTrainConfig, resolve
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES, Record
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.gan import trainer
from balancer.gan.networks import S2Generator, count_values
from balancer.gan.trainer import CHECKPOINT, build_state, read_checkpoint, train, train_step, training_images
from balancer.run import RunDir, RunRequest, open_run, read_jsonl
from balancer.seeding import generator

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "data": {"path": "phantom", "image_size": 16},
    "z_dim": 5,
    "generator_width": 2,
    "discriminator_width": 2,
    "batch_size": 4,
    "steps": 8,
    "log_every": 2,
    "snapshot_every": 8,
}


@pytest.fixture(autouse=True)
def one_thread(two_threads: None) -> None:
    """Nets this small gain nothing from a second thread, and lose much when the machine is busy."""
    torch.set_num_threads(1)


def config(**changes: Any) -> GanTrainConfig:
    resolved = resolve("gan_train", {**TINY, **changes})
    assert isinstance(resolved, GanTrainConfig)
    return resolved


def dataset(split_hash: str = "0123456789abcdef", size: int = 16) -> Dataset:
    """Noise; 11 + 20 training images, 4 + 4 for validation and for the test."""
    rng = np.random.default_rng(0)
    layout = [("train", 0, 11), ("train", 1, 20), ("val", 0, 4), ("val", 1, 4), ("test", 0, 4), ("test", 1, 4)]
    folds = np.array([fold for fold, _, n in layout for _ in range(n)])
    labels = np.array([label for _, label, n in layout for _ in range(n)])
    names = [f"{fold}/{CLASSES[label]}/{i}.png" for i, (fold, label) in enumerate(zip(folds, labels, strict=True))]
    return Dataset(
        source="toy",
        images=rng.integers(0, 256, (len(folds), size, size), dtype=np.uint8),
        labels=labels,
        folds=folds,
        records=[Record(n, int(c), str(f), n, "") for n, c, f in zip(names, labels, folds, strict=True)],
        groups=names,
        digests=names,
        split_hash=split_hash,
        fingerprint="f" * 16,
    )


def run_at(path: Path, settings: GanTrainConfig, resume: bool = False) -> RunDir:
    request = RunRequest(resume=str(path)) if resume else RunRequest(out=path)
    return open_run("gan-train", settings, request)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, signum: int) -> None:
    """Send this process a real signal while it makes a given step."""

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        if state.step == step - 1:
            os.kill(os.getpid(), signum)
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{prefix}/{i}").items()}
    return {prefix: value}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    a, b = flat(first), flat(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), f"{key} differs by up to {(value - b[key]).abs().max()}"
        else:
            assert value == b[key], key


PRESETS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "modern": {"preset": "modern"},
    "s2": {"preset": "s2"},
    "rmsprop, no average": {"optimizer": "rmsprop", "ema_decay": 0.0, "z_distribution": "uniform"},
}


@pytest.mark.parametrize(("preset", "stop"), [*((preset, 4) for preset in PRESETS), ("dcgan", 5)])
def test_resumed_equals_uninterrupted(preset: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, running statistics, singular vectors, averages and optimiser states, bit for bit."""
    settings, data = config(**PRESETS[preset]), dataset()
    with run_at(tmp_path / "whole", settings) as run:
        train(settings, data, run, CPU)
    with monkeypatch.context() as patch, run_at(tmp_path / "parts", settings) as run:
        interrupt_after(patch, stop, signal.SIGINT)
        with pytest.raises(Interrupted, match=rf"SIGINT: saved at step {stop} of 8; continue with --resume .*parts"):
            train(settings, data, run, CPU)
    assert read_checkpoint(tmp_path / "parts" / CHECKPOINT, CPU)["step"] == stop
    torch.manual_seed(999)  # the global streams of the new process are others
    np.random.seed(999)  # noqa: NPY002
    with run_at(tmp_path / "parts", settings, resume=True) as run:
        train(settings, data, run, CPU)
    whole, parts = (read_checkpoint(tmp_path / name / CHECKPOINT, CPU) for name in ("whole", "parts"))
    assert whole["step"] == 8
    assert {"G", "D", "G_ema", "optimizer_G", "optimizer_D"} <= whole.keys()
    assert whole["optimizer_G"]["state"]
    assert_same(whole, parts)
    sheets = [(tmp_path / name / "grids" / "step_000008.png").read_bytes() for name in ("whole", "parts")]
    assert sheets[0] == sheets[1]


def test_the_seed_decides(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = config(seed=seed, steps=2)
        with run_at(tmp_path / name, settings) as run:
            train(settings, dataset(), run, CPU)
        contents.append(read_checkpoint(tmp_path / name / CHECKPOINT, CPU))
    assert_same(contents[0], contents[1])
    assert not torch.equal(*(next(iter(c["G"].values())) for c in contents[1:]))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(signum: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, before = config(), signal.getsignal(signum)
    interrupt_after(monkeypatch, 3, signum)
    with run_at(tmp_path / "run", settings) as run, pytest.raises(Interrupted) as caught:
        train(settings, dataset(), run, CPU)
    assert caught.value.exit_code == code
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT, CPU)["step"] == 3
    assert signal.getsignal(signum) == before
    assert not (tmp_path / "run" / "done").exists()


def test_a_step_against_the_textbook() -> None:
    """Goodfellow's and Radford's loop written out: own Adam, separate passes, binary cross-entropy."""
    settings = config()
    state = build_state(settings, CPU)
    G, D = copy.deepcopy(state.G), copy.deepcopy(state.D)
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    for_G, for_D = torch.optim.Adam(G.parameters(), **adam), torch.optim.Adam(D.parameters(), **adam)
    one, zero, bce = torch.ones(4), torch.zeros(4), F.binary_cross_entropy_with_logits
    for step in range(3):
        real = 2 * torch.rand(4, 1, 16, 16, generator=generator(step)) - 1
        z = torch.randn(4, 5, generator=generator(settings.seed, "step", step))
        fake = G(z)
        real_logits, fake_logits = D(real), D(fake.detach())
        loss_D = bce(real_logits, one) + bce(fake_logits, zero)
        for_D.zero_grad()
        loss_D.backward()
        for_D.step()
        loss_G = bce(D(fake), one)
        for_G.zero_grad()
        loss_G.backward()
        for_G.step()

        scalars = train_step(settings, state, real)
        assert state.step == step + 1
        assert float(scalars["loss_D"]) == pytest.approx(loss_D.item(), rel=1e-4)
        assert float(scalars["loss_G"]) == pytest.approx(loss_G.item(), rel=1e-4)
        assert float(scalars["D_real"]) == pytest.approx(real_logits.sigmoid().mean().item(), rel=1e-4)
        assert float(scalars["D_fake"]) == pytest.approx(fake_logits.sigmoid().mean().item(), rel=1e-4)
    for mine, theirs in ((G, state.G), (D, state.D)):
        for (key, a), b in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize("preset", ["dcgan", "modern"])
def test_the_generators_step_leaves_no_gradient_on_the_discriminator(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(preset=preset)
    state = build_state(settings, CPU)
    seen: dict[str, list[torch.Tensor]] = {}
    step_D, step_G = state.optimizer_D.step, state.optimizer_G.step

    def after_D() -> None:
        seen["gradients"] = [p.grad.clone() for p in state.D.parameters() if p.grad is not None]
        step_D()
        seen["weights"] = [p.detach().clone() for p in state.D.parameters()]

    def after_G() -> None:
        assert all(p.grad is not None and p.grad.any() for p in state.G.parameters())
        step_G()

    monkeypatch.setattr(state.optimizer_D, "step", after_D)
    monkeypatch.setattr(state.optimizer_G, "step", after_G)
    train_step(settings, state, torch.rand(4, 1, 16, 16))
    parameters = list(state.D.parameters())
    assert len(seen["gradients"]) == len(parameters)
    for p, gradient, weight in zip(parameters, seen["gradients"], seen["weights"], strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, gradient)
        assert torch.equal(p, weight)


def test_only_the_training_folds_minority_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold and class has a grey level of its own."""
    data = dataset()
    level = np.where(data.folds == "train", np.where(data.labels == 0, 51, 102), np.where(data.folds == "val", 255, 0))
    marked = replace(data, images=np.broadcast_to(level[:, None, None], data.images.shape).astype(np.uint8))
    pixels = training_images(marked, 0, CPU)
    assert pixels.shape == (11, 1, 16, 16)
    assert pixels.unique().tolist() == [51]
    seen: list[torch.Tensor] = []

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(real)
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)
    for target, grey in ((None, 51), ("pneumonia", 102)):
        settings = config(target_class=target)
        with run_at(tmp_path / str(target), settings) as run:
            summary = train(settings, marked, run, CPU)
        assert summary["class"] == (CLASSES[1] if target else CLASSES[0])
        assert summary["n_train"] == (20 if target else 11)
        assert len(seen) == 8
        assert torch.allclose(torch.stack(seen), torch.tensor(grey / 127.5 - 1))
        seen.clear()


def test_every_training_image_is_visited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset()
    data.images[:, 0, 0] = np.arange(len(data.images))
    seen: list[int] = []

    def stepping(settings: GanTrainConfig, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.extend(((real[:, 0, 0, 0] + 1) * 127.5).round().int().tolist())
        return train_step(settings, state, real)

    monkeypatch.setattr(trainer, "train_step", stepping)
    settings = config(steps=11)  # 44 images: four passes over 11
    with run_at(tmp_path / "run", settings) as run:
        train(settings, data, run, CPU)
    assert sorted(seen) == sorted(4 * data.indices("train", 0).tolist())


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    settings = config(steps=7, log_every=3, snapshot_every=4)
    with run_at(tmp_path / "run", settings) as run:
        summary = train(settings, dataset(), run, CPU)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in rows] == [3, 6, 7]
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
    assert summary["steps"] == summary["steps_run"] == 7
    assert summary["loss_D"] == rows[-1]["loss_D"]
    json.dumps(summary, allow_nan=False)
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
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [(r["loss_D"], r["loss_G"]) for r in rows] == [(1.5, 15), (3.5, 35), (5, 50)]


@pytest.mark.parametrize("snapshot_every", [2, 100])
def test_divergence_stops_with_one_line_and_a_sound_snapshot(snapshot_every: int, tmp_path: Path) -> None:
    """Learning rates that overflow: no row and no snapshot with a value that is not finite."""
    settings = config(steps=100, log_every=10, snapshot_every=snapshot_every, lr_generator=1e30, lr_discriminator=1e30)
    with (
        run_at(tmp_path / "run", settings) as run,
        pytest.raises(BalancerError, match=r"diverged by step \d+.*lower the learning rate") as caught,
    ):
        train(settings, dataset(), run, CPU)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    for row in read_jsonl(tmp_path / "run" / "metrics.jsonl"):
        assert np.isfinite(list(row.values())).all()
    if (tmp_path / "run" / CHECKPOINT).exists():
        for key, value in flat(read_checkpoint(tmp_path / "run" / CHECKPOINT, CPU)["G_ema"]).items():
            assert torch.isfinite(value).all(), key


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def trained(tmp_path: Path, **changes: Any) -> Path:
    settings = config(**{"steps": 2, **changes})
    with run_at(tmp_path / "run", settings) as run:
        train(settings, dataset(), run, CPU)
    return tmp_path / "run" / CHECKPOINT


def resume(path: Path, data: Dataset, **changes: Any) -> None:
    settings = config(**{"steps": 2, **changes})
    with run_at(path.parent, settings, resume=True) as run:
        train(settings, data, run, CPU)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    path = trained(tmp_path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "extra": Bomb(tmp_path / "exploded")}, path)
    with pytest.raises(BalancerError, match="not a readable GAN checkpoint"):
        resume(path, dataset())
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2))
    with pytest.raises(BalancerError, match="not a readable GAN checkpoint"):
        resume(path, dataset())
    assert not (tmp_path / "exploded").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "exploded").exists(), "the bomb works"


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(keep: float, tmp_path: Path) -> None:
    path = trained(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(BalancerError, match="not a readable GAN checkpoint"):
        resume(path, dataset())


def test_a_checkpoint_of_another_split_is_refused(tmp_path: Path) -> None:
    path = trained(tmp_path)
    with pytest.raises(BalancerError, match=r"0123456789abcdef.*fedcba9876543210"):
        resume(path, dataset("fedcba9876543210"))


@pytest.mark.parametrize("changes", [{"generator_width": 4}, {"preset": "modern"}, {"optimizer": "rmsprop"}])
def test_a_checkpoint_of_another_configuration_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """A file copied in from another run: one line that says what differs, not a traceback and not silence."""
    path = trained(tmp_path)
    with pytest.raises(BalancerError, match=f"{CHECKPOINT}.*{next(iter(changes))}") as caught:
        resume(path, dataset(), **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"format": 0, "G_ema": {}}, {"format": 1}, [1, 2], torch.zeros(3)])
def test_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(BalancerError, match=r"x\.pt is not a GAN checkpoint of format 1"):
        read_checkpoint(tmp_path / "x.pt", CPU)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match="does not exist"):
        read_checkpoint(tmp_path / "x.pt", CPU)


def test_a_run_killed_before_its_first_snapshot_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config()
    with run_at(tmp_path / "run", settings):
        pass
    with run_at(tmp_path / "run", settings, resume=True) as run, caplog.at_level(logging.INFO, "balancer"):
        assert train(settings, dataset(), run, CPU)["steps_run"] == 8


def test_weights_do_not_depend_on_the_global_stream() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build_state(config(), CPU).G.state_dict())
    assert_same(*states)


@pytest.mark.parametrize(("distribution", "low", "sd"), [("uniform", -1.0, 3**-0.5), ("normal", -9.0, 1.0)])
def test_latents(distribution: str, low: float, sd: float) -> None:
    z = trainer.sample_z(config(z_distribution=distribution, z_dim=50), 200, generator(0))
    assert z.shape == (200, 50)
    assert low <= z.min() < -0.95
    assert z.std().item() == pytest.approx(sd, rel=0.03)
    assert z.mean().item() == pytest.approx(0, abs=0.03)


def test_s2_preset_is_the_published_system(chest_folder: Path) -> None:
    settings = resolve("gan_train", {"preset": "s2", "data": {"path": str(chest_folder)}})
    assert isinstance(settings, GanTrainConfig)
    assert settings.data.image_size == 148
    assert (settings.architecture, settings.z_distribution, settings.optimizer) == ("s2", "uniform", "rmsprop")
    assert settings.steps == 40_000
    G = S2Generator(settings.data.image_size, settings.z_dim, settings.generator_width)
    assert count_values(G) == 18_366_465
    beside = resolve("gan_train", {"preset": "s2", "steps": 5, "data": {"path": "phantom", "image_size": 64}})
    assert isinstance(beside, GanTrainConfig)
    assert (beside.steps, beside.data.image_size, beside.architecture) == (5, 64, "s2")


def test_modern_preset_is_what_it_says() -> None:
    settings = config(preset="modern")
    assert settings.loss == "hinge"
    assert settings.spectral_norm
    assert set(settings.diffaugment) == {"translation", "cutout", "brightness", "contrast"}
    D = build_state(settings, CPU).D
    assert any("parametrizations" in key for key in D.state_dict())


def test_modern_augments_real_and_fake_for_both_players(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zhao et al. 2020: the change is applied in all three places, else it leaks into the images."""
    seen: list[torch.Tensor] = []

    def zeros(images: torch.Tensor, policy: Any, source: torch.Generator) -> torch.Tensor:
        assert tuple(policy) == config(preset="modern").diffaugment
        seen.append(images)
        return images

    monkeypatch.setattr(trainer, "diff_augment", zeros)
    state, real = build_state(config(preset="modern"), CPU), torch.rand(4, 1, 16, 16)
    train_step(config(preset="modern"), state, real)
    assert len(seen) == 3
    assert torch.equal(seen[0], real)
    assert torch.equal(seen[1], seen[2])
    assert not seen[1].requires_grad
    assert seen[2].requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge_"}, "hinge"),
        ({"diffaugment": ["cutoff"]}, "cutout"),
        ({"data": {"path": "phantom", "image_size": 50}}, "50"),
        ({"preset": "s2", "data": {"path": "phantom", "image_size": 50}}, "50"),
    ],
)
def test_impossible_settings_are_found_before_anything_is_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trainer.check(config(**changes))


def test_unknown_class() -> None:
    with pytest.raises(UsageError, match="NORMAL or PNEUMONIA"):
        trainer.target_label(config(target_class="covid"), dataset())


def test_scale_is_the_inverse_of_quantisation() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = trainer.scale(levels, CPU)
    assert scaled.min() == -1
    assert scaled.max() == 1
    assert np.array_equal(trainer.to_uint8(scaled)[0], levels[0, 0].numpy())


def test_estimate_leaves_nothing_behind(runs_cwd: Path) -> None:
    assert trainer.estimate_seconds(config(steps=1000), dataset(), CPU, steps=2) > 0
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
