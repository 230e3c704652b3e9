"""Checkpoints: whole or not there, of this program and these settings or refused, never executed."""

import logging
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gan_helpers import CPU, assert_same, config, contents, dataset, interrupt_after, run_at, run_training
from planted import Trap

from balancer.core.errors import BalancerError, Interrupted
from balancer.core.jsonl import append_jsonl
from balancer.core.sealed import DamagedFile, save_tensors
from balancer.data.dataset import Dataset
from balancer.gan.checkpoint import (
    BEST,
    CHECKPOINT,
    FORMAT,
    GENERATOR_KEYS,
    KEYS,
    check_finite,
    load_checkpoint,
    load_state,
    previous,
    read_best,
    read_checkpoint,
    save_checkpoint,
    save_generator,
)
from balancer.gan.snapshot import Snapshot, SnapshotQuality, read_history
from balancer.gan.step import GanState, build_state, train_step

pytestmark = pytest.mark.usefixtures("cheap_features")


def stepped(taken: int = 2, **changes: Any) -> GanState:
    settings = config(**changes)
    state = build_state(settings, CPU)
    for step in range(taken):
        train_step(settings, state, torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(step)))
    return state


def content_of(state: GanState) -> dict[str, Any]:
    modules = {name: module.state_dict() for name, module in state.modules().items()}
    return {**modules, "running_stats": state.running_stats, "step": state.step, "best": state.best}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps; copied, never changed."""
    folder = tmp_path_factory.mktemp("trained")
    settings = config(steps=2)
    with run_at(folder / "run", settings):
        save_checkpoint(folder / "run" / CHECKPOINT, settings, stepped(), dataset(), 0)
    return folder / "run"


@pytest.fixture
def path(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint in a run folder of its own."""
    with run_at(tmp_path / "run", config(steps=2)):
        (tmp_path / "run" / CHECKPOINT).write_bytes((trained / CHECKPOINT).read_bytes())
    return tmp_path / "run" / CHECKPOINT


def resume(path: Path, data: Dataset, **changes: Any) -> None:
    run_training(path.parent, config(**{"steps": 2, **changes}), data, resume=True)


def test_a_round_trip_restores_everything(tmp_path: Path) -> None:
    """Weights, buffers, averages, optimisers, ADA's and LeCam's running statistics, the step and the best snapshot."""
    changes = {"preset": "sngan_diffaug", "ada_target": -0.5, "ada_images": 50, "lecam_weight": 0.1, "steps": 9}
    state = stepped(3, **changes)
    state.best = Snapshot(2, SnapshotQuality(-0.25, 0.1, 3.5, 0.5, 0.9))
    assert all(value.any() for value in state.running_stats.values()), "something to restore"
    save_checkpoint(tmp_path / CHECKPOINT, config(**changes), state, dataset(), 0)
    other = build_state(config(**{**changes, "seed": 5}), CPU)
    load_checkpoint(tmp_path / CHECKPOINT, config(**changes), other, dataset(), CPU)
    assert_same(content_of(state), content_of(other))
    content = contents(tmp_path / CHECKPOINT)
    assert content.keys() == KEYS | {"format", "precisions", "threads"}
    assert (content["format"], content["class"], content["split_hash"]) == (FORMAT, "NORMAL", "0123456789abcdef")


def test_a_generator_alone(tmp_path: Path) -> None:
    """`best.pt` holds what synthesis needs and no more, and cannot be resumed from."""
    state = stepped()
    save_generator(tmp_path / BEST, config(), state, dataset(), 1)
    content = contents(tmp_path / BEST)
    assert content.keys() == GENERATOR_KEYS | {"format", "precisions", "threads"}
    assert (content["step"], content["class"]) == (2, "PNEUMONIA")
    assert_same(content["G_ema"], state.ema.module.state_dict())
    save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 1)
    assert (tmp_path / BEST).stat().st_size < (tmp_path / CHECKPOINT).stat().st_size / 3
    with pytest.raises(BalancerError, match=f"{BEST} is damaged: D: missing"):
        load_checkpoint(tmp_path / BEST, config(), build_state(config(), CPU), dataset(), CPU)


@pytest.fixture
def bfloat16_units(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Pretend that the CPU has them, or has none."""
    return lambda there: monkeypatch.setattr("balancer.core.device.has_bfloat16_units", lambda: there)


def test_the_precision_is_written_down(
    tmp_path: Path, bfloat16_units: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What ``auto`` came to on this machine, not what was asked for."""
    for asked, units, expected in (
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ):
        bfloat16_units(units)
        run = tmp_path / f"{asked}-{units}"
        with caplog.at_level(logging.INFO, "balancer"):
            run_training(run, config(precision=asked, steps=1))
        assert f"images in {expected}" in caplog.text
        caplog.clear()
        for name in (BEST, CHECKPOINT):
            assert contents(run / name)["precisions"] == [expected]


def test_going_on_in_another_precision_is_said_and_written_down(
    tmp_path: Path, bfloat16_units: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Started on one machine, interrupted, resumed on a second and on a third."""
    settings = config(precision="auto")
    path = tmp_path / CHECKPOINT
    for units, expected in ((False, ["float32"]), (False, ["float32"]), (True, ["float32", "bfloat16"])):
        bfloat16_units(units)
        state = build_state(settings, CPU)
        if path.exists():
            load_checkpoint(path, settings, state, dataset(), CPU)
        assert state.precisions == expected
        assert ("continues in bfloat16, was trained in float32: the weights will not be" in caplog.text) == units
        save_checkpoint(path, settings, state, dataset(), 0)
    assert contents(path)["precisions"] == ["float32", "bfloat16"]


def test_a_checkpoint_of_an_earlier_version(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other names for running statistics and real baselines, and no precision, which stays unknown: it is resumed."""
    content = contents(path)
    del content["precisions"]
    content["memory"] = {name: value + 0.5 for name, value in content.pop("running_stats").items()}
    content["best"] = {"step": 1, "kid": 0.1, "kid_floor": 0.2, "frechet": 3.0, "frechet_floor": 4.0, "diversity": 0.9}
    torch.save(content, path)
    resume(path, dataset())
    state = build_state(config(steps=2), CPU)
    load_checkpoint(path, config(steps=2), state, dataset(), CPU)
    assert (state.step, state.precisions) == (2, [])
    assert state.best == Snapshot(1, SnapshotQuality(0.1, 0.2, 3.0, 4.0, 0.9))
    assert_same(state.running_stats, content["memory"])
    assert "continues in" not in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["G", "D"])
def test_weights_that_are_not_finite_are_never_written(part: str, value: float, tmp_path: Path) -> None:
    state = stepped()
    save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 0)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with torch.no_grad():
        next(getattr(state, part).parameters())[0, 0, 0, 0] = value
    with pytest.raises(BalancerError, match=r"diverged by step 2: weights are not finite; lower the learning rates"):
        save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 0)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = stepped()
    save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 0)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("balancer.core.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 0)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_with_code_is_refused(path: Path, tmp_path: Path) -> None:
    content = contents(path)
    torch.save({**content, "extra": Trap(tmp_path / "exploded")}, path)
    with pytest.raises(BalancerError, match=f"{CHECKPOINT} is damaged: torch cannot read it"):
        resume(path, dataset())
    path.write_bytes(pickle.dumps(Trap(tmp_path / "exploded"), protocol=2))
    with pytest.raises(BalancerError, match=f"{CHECKPOINT} is damaged"):
        resume(path, dataset())
    assert not (tmp_path / "exploded").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "exploded").exists(), "the bomb works"


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(keep: float, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(BalancerError, match=f"{CHECKPOINT} is damaged"):
        resume(path, dataset())


def test_a_checkpoint_of_another_split_is_refused(path: Path) -> None:
    with pytest.raises(BalancerError, match=r"0123456789abcdef.*fedcba9876543210"):
        resume(path, dataset("fedcba9876543210"))


@pytest.mark.parametrize(
    "changes", [{"generator_width": 4}, {"loss": "hinge"}, {"optimizer": "rmsprop"}, {"r1_weight": 0.5}, {"seed": 3}]
)
def test_a_checkpoint_of_another_configuration_is_refused(changes: dict[str, Any], path: Path) -> None:
    """A file copied in from another run: one line that says what differs, not a traceback and not silence."""
    with pytest.raises(BalancerError, match=f"{CHECKPOINT}.*{next(iter(changes))} ") as caught:
        resume(path, dataset(), **{"discriminator_norm": "none", **changes})
    assert "\n" not in str(caught.value)


def test_settings_that_a_later_version_adds_take_their_defaults(path: Path) -> None:
    content = contents(path)
    del content["config"]["tensorboard"], content["config"]["lecam_weight"]
    torch.save(content, path)
    read_checkpoint(path, CPU, config(steps=2))
    with pytest.raises(BalancerError, match="lecam_weight"):
        read_checkpoint(path, CPU, config(steps=2, lecam_weight=0.5))


@pytest.mark.parametrize("missing", sorted(KEYS - GENERATOR_KEYS))
def test_a_checkpoint_with_a_part_missing_is_refused(missing: str, path: Path) -> None:
    content = contents(path)
    del content[missing]
    torch.save(content, path)
    with pytest.raises(BalancerError, match=f"{CHECKPOINT} is damaged: {missing}"):
        resume(path, dataset())


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format": 1, **dict.fromkeys(KEYS, 0)},
        {"format": 3, **dict.fromkeys(KEYS, 0)},
    ],
)
def test_another_format_is_refused(content: Any, tmp_path: Path) -> None:
    """The format before this one too: it has neither running statistics nor a best snapshot."""
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(BalancerError, match=r"x\.pt .*format.* 2; .*train again"):
        read_checkpoint(tmp_path / "x.pt", CPU)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DamagedFile, match=r"x\.pt is damaged"):
        read_checkpoint(tmp_path / "x.pt", CPU)


NAN, MANY = float("nan"), torch.zeros(999)
WRONG: list[tuple[str, Any]] = [  # the key in the file, and what stands there; None drops the key
    *((key, None) for key in ("step", "class", "split_hash", "config", "data")),
    *((key, []) for key in ("step", "class", "split_hash", "config", "data", "G", "optimizer_D", "running_stats")),
    *((key, "x") for key in ("step", "precisions", "best", "G_ema")),
    ("step", -1),
    ("step", 10**9),
    ("config.steps", "many"),
    ("config.unheard_of", 1),
    ("data.source", None),
    ("G.net.0.weight", None),
    ("G.net.0.weight", MANY),
    ("G.net.0.weight", "x"),
    ("G.unheard_of", MANY),
    ("optimizer_G.state", None),
    ("optimizer_G.state.0", None),
    ("optimizer_G.state.0.exp_avg", MANY),
    ("optimizer_G.state.0.step", None),
    ("running_stats.r_t", None),
    ("running_stats.r_t", torch.tensor(NAN)),
    ("best", {"step": 1, "kid": 0.5}),
    ("best", {"step": 1, "kid": NAN, "kid_floor": 0.2, "frechet": 3.0, "frechet_floor": 4.0, "diversity": 0.9}),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}-{i}" for i, (key, _) in enumerate(WRONG)])
def test_a_valid_file_of_another_shape_is_one_line_with_its_key(key: str, value: Any, path: Path) -> None:
    content = contents(path)
    inner, names = content, key.split(".", 1 if key.startswith("G.") else -1)
    for name in names[:-1]:
        inner = inner[int(name) if name.isdigit() else name]
    last: Any = int(names[-1]) if names[-1].isdigit() else names[-1]
    if names[0] == "G" and len(names) > 1 and last not in inner and last != "unheard_of":
        last = next(iter(inner))
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    save_tensors(path, content)
    with pytest.raises(
        DamagedFile, match=rf"{CHECKPOINT} is damaged: {names[0]}.*{last if names[1:] else ''}"
    ) as caught:
        resume(path, dataset())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["G", "D", "G_ema", "optimizer_G", "optimizer_D"])
def test_what_is_not_finite_is_refused_on_reading(part: str, path: Path) -> None:
    content = contents(path)
    tensors = content[part]["state"][0] if part.startswith("optimizer") else content[part]
    name = [name for name, value in tensors.items() if value.is_floating_point()][-1]
    tensors[name].fill_(NAN)
    save_tensors(path, content)
    with pytest.raises(DamagedFile, match=rf"{part}.*{name}: not finite"):
        resume(path, dataset())


def trained_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, stop, signal.SIGINT)
        with pytest.raises(Interrupted):
            run_training(folder, config(snapshot_every=3))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda p: p.write_bytes(b""), "one key missing"])
def test_the_checkpoint_before_a_damaged_one_is_taken(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The snapshot of step 6 is damaged: from that of step 3 the run comes to the same end, bit for bit."""
    run_training(tmp_path / "undisturbed", config(snapshot_every=3))
    parts = tmp_path / "parts"
    trained_in_parts(parts, monkeypatch, 6)
    last = parts / CHECKPOINT
    assert (contents(last)["step"], contents(previous(last))["step"]) == (6, 6)
    older = tmp_path / "older"
    trained_in_parts(older, monkeypatch, 3)
    shutil.copy(older / CHECKPOINT, previous(last))  # a kill, not a signal, would have left this one
    if callable(damage):
        damage(last)
    else:
        content = contents(last)
        del content["optimizer_D"]
        save_tensors(last, content)
    with caplog.at_level(logging.WARNING, "balancer"):
        run_training(parts, config(snapshot_every=3), resume=True)
    (line,) = [text for text in caplog.messages if previous(last).name in text]
    assert "step 3" in line
    assert str(last) in line
    assert_same(contents(tmp_path / "undisturbed" / CHECKPOINT), contents(last))
    assert_same(contents(tmp_path / "undisturbed" / BEST), contents(parts / BEST))
    histories = [read_history(folder / "metrics.jsonl") for folder in (tmp_path / "undisturbed", parts)]
    assert histories[0].snapshots == histories[1].snapshots
    assert [row["step"] for row in histories[1].losses] == [row["step"] for row in histories[0].losses]


def test_two_damaged_checkpoints_are_one_line(path: Path) -> None:
    shutil.copy(path, previous(path))
    flip(path)
    flip(previous(path))
    with pytest.raises(DamagedFile, match=previous(path).name) as caught:
        resume(path, dataset())
    assert "train again" in str(caught.value)


def test_best_is_that_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A best.pt newer than the checkpoint, as a kill between the two leaves it, gives way to the one before."""
    run_training(tmp_path / "run", config(snapshot_every=2, selection="last", steps=4))
    assert [contents(tmp_path / "run" / name)["step"] for name in (BEST, previous(Path(BEST)).name)] == [4, 2]
    shutil.copy(previous(tmp_path / "run" / CHECKPOINT), tmp_path / "run" / CHECKPOINT)
    settings, data = config(snapshot_every=2, selection="last", steps=4), dataset()
    assert load_state(tmp_path / "run", settings, build_state(settings, CPU), data, 0, CPU)
    assert contents(tmp_path / "run" / BEST)["step"] == 2


@pytest.mark.parametrize("damaged", [False, True])
def test_a_lost_best_generator(damaged: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoint holds the same generator if it is of the same step; else the loss is said."""
    settings, data = config(snapshot_every=2, selection="last", steps=4), dataset()
    run_training(tmp_path / "run", settings)
    best = tmp_path / "run" / BEST
    made = contents(best)
    flip(best) if damaged else best.unlink()
    previous(best).unlink()
    if damaged:
        network, saved = read_best(tmp_path / "run", CPU, settings)
        assert_same(network.state_dict(), made["G_ema"])
        assert saved.step == made["step"]
        assert BEST in caplog.text
    assert load_state(tmp_path / "run", settings, build_state(settings, CPU), data, 0, CPU)
    assert_same(contents(best)["G_ema"], made["G_ema"])
    content = contents(tmp_path / "run" / CHECKPOINT)
    save_tensors(tmp_path / "run" / CHECKPOINT, {**content, "best": {"step": 3}})
    state = build_state(settings, CPU)
    load_state(tmp_path / "run", settings, state, data, 0, CPU)
    assert state.best is None
    assert "step 3 is lost" in caplog.text


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"loss_D": 1.0, "loss_G": 1.0}, "step"),
        ({"step": "x", "loss_D": 1.0, "loss_G": 1.0}, "step"),
        ({"step": 1, "loss_D": 1.0}, "loss_G"),
        ({"step": 1, "loss_D": None, "loss_G": 1.0}, "loss_D"),
        ({"step": 1, "kid": 1.0}, "kid_real_baseline"),
        ({"kid": 1.0, "kid_floor": 0.2, "frechet": 3.0, "frechet_floor": 4.0, "diversity": 0.9}, "step"),
    ],
)
def test_a_row_of_another_shape_is_one_line(row: dict[str, Any], key: str, path: Path) -> None:
    append_jsonl(path.parent / "metrics.jsonl", row)
    with pytest.raises(DamagedFile, match=rf"metrics\.jsonl is damaged: line 1.*{key}"):
        resume(path, dataset())


@pytest.mark.parametrize("there", [False, True])
def test_a_last_snapshot_is_promised_only_if_there_is_one(there: bool, tmp_path: Path) -> None:
    state = stepped()
    if there:
        save_checkpoint(tmp_path / CHECKPOINT, config(), state, dataset(), 0)
    with torch.no_grad():
        next(state.G.parameters())[0, 0, 0, 0] = NAN
    with pytest.raises(BalancerError) as caught:
        check_finite(state, tmp_path)
    assert ("last snapshot is kept" in str(caught.value)) == there


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BalancerError, match="does not exist"):
        read_checkpoint(tmp_path / "x.pt", CPU)


def test_a_run_killed_before_its_first_snapshot_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config()
    with run_at(tmp_path / "run", settings):
        pass
    with caplog.at_level(logging.INFO, "balancer"):
        assert run_training(tmp_path / "run", settings, resume=True).steps_run == 8
    assert "resumed at" not in caplog.text
