"""Several ranks train the network that one process would: batches, random numbers, losses, weights, signals."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from commands import TINY_GAN, balancer, done, refused, sets
from gan_helpers import CPU, RECIPES, config, contents, dataset, flat, interrupt_after, run_training
from in_ranks import environment, in_ranks
from torch import nn

from balancer.core import ranks, torchrun
from balancer.core.batch_norm import share_batch_norm
from balancer.core.config import dump
from balancer.core.device import open_device
from balancer.core.environment import environment as environment_of_run
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.jsonl import read_jsonl
from balancer.core.presets import PRESETS
from balancer.core.run import FollowedRun, PreparedRun, RunRequest, _continued
from balancer.core.sealed import write_json, write_yaml
from balancer.core.seeding import generator
from balancer.core.settings import GanTrainConfig
from balancer.core.system_errors import explain
from balancer.gan import trainer
from balancer.gan.checkpoint import CHECKPOINT
from balancer.gan.every_class import settings_of_classes
from balancer.gan.shares import check_enough
from balancer.gan.step import GanState, train_step

pytestmark = pytest.mark.usefixtures("cheap_features")

# All that looks at more than one image at a time: ADA, LeCam, the best by D, pairs of images; and BatchNorm.
MIXING: dict[str, Any] = {
    "data": {"path": "phantom", "image_size": 32, "flips": True},
    "discriminator_norm": "none",
    "loss": "hinge",
    "n_dis": 2,
    "r1_weight": 1.0,
    "gradient_penalty_weight": 1.0,
    "lecam_weight": 0.1,
    "reconstruction_weight": 1.0,
    "consistency_weight": 10.0,
    "top_k": 0.4,
    "diffaugment": ["brightness", "translation", "cutout"],
    "ada_target": -0.9,
    "ada_images": 40,
    "steps": 4,
    "snapshot_every": 2,
}
SHARED = {name: recipe for name, recipe in RECIPES.items() if not recipe.get("minibatch_stddev")}
EVERY = {"everything that mixes": MIXING, **SHARED, **{p: {"preset": p} for p in PRESETS}}
ON_COMMIT = {"everything that mixes"}
# A bias before a BatchNorm changes nothing in training: its gradient is rounding, of which Adam makes steps.
BIASED = dict.fromkeys(["everything adaptive", "relativistic", "s2"], (1e-2, 0.2))


def train_share(rank: int, path: Path, settings: Any, resume: bool = False) -> None:
    """One rank's part of a training; the first has the run."""
    data = dataset(size=settings.data.image_size)
    if rank == 0:
        run_training(path, settings, data, resume)
    else:
        trainer.train(settings, data, FollowedRun(path), CPU)


def assert_alike(alone: Path, together: Path, weights: float = 1e-4, figures: float = 0.02) -> None:
    """The losses to 1e-5, every value of the checkpoint to ``weights``, and those of snapshots to a share."""
    first, second = (
        [{k: v for k, v in row.items() if k not in ("images_per_s", "memory_mb", "eta_s")} for row in read_jsonl(file)]
        for file in (alone / "metrics.jsonl", together / "metrics.jsonl")
    )
    assert [row.keys() for row in first] == [row.keys() for row in second]
    for one, other in zip(first, second, strict=True):
        assert one == (pytest.approx(other, rel=figures, abs=1e-3) if "kid" in one else pytest.approx(other, abs=1e-5))
    one, other = flat(contents(alone / CHECKPOINT)), flat(contents(together / CHECKPOINT))
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], atol=weights, rtol=1e-3, msg=key)


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=() if name in ON_COMMIT else pytest.mark.nightly) for name in EVERY]
)
def test_two_ranks_train_as_one_process(recipe: str, tmp_path: Path) -> None:
    settings = config(**{"snapshot_every": 4, **EVERY[recipe], "precision": "float32"})
    run_training(tmp_path / "alone", settings, dataset(size=settings.data.image_size))
    in_ranks(2, tmp_path, lambda rank: train_share(rank, tmp_path / "together", settings))
    assert_alike(tmp_path / "alone", tmp_path / "together", *(BIASED.get(recipe, ())))


def test_a_signal_to_one_rank_stops_all_at_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(steps=8, snapshot_every=8)

    def interrupted(rank: int) -> list[int]:
        def stepping(settings: GanTrainConfig, state: GanState, real: torch.Tensor) -> dict[str, torch.Tensor]:
            if (rank, state.step) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(settings, state, real)

        monkeypatch.setattr(trainer, "train_step", stepping)
        with pytest.raises(Interrupted, match="saved at step 3 of 8") as caught:
            train_share(rank, tmp_path / "run", settings)
        return [caught.value.exit_code]

    assert in_ranks(2, tmp_path, interrupted) == [[143], [143]]
    assert contents(tmp_path / "run" / CHECKPOINT)["step"] == 3


@pytest.mark.nightly
def test_a_run_of_one_process_is_resumed_by_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint says nothing of ranks."""
    settings = config(preset="dcgan", steps=4, snapshot_every=2)
    run_training(tmp_path / "alone", settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run_training(tmp_path / "together", settings)
    in_ranks(2, tmp_path, lambda rank: train_share(rank, tmp_path / "together", settings, resume=True))
    assert_alike(tmp_path / "alone", tmp_path / "together")


def test_ranks_that_differ_are_refused(tmp_path: Path) -> None:
    def differ(rank: int) -> None:
        with pytest.raises(BalancerError, match=r"rank 1 on \S+ has another split than rank 0: 1, expected 0"):
            ranks.check_same({"version": "2", "split": str(rank)})

    in_ranks(2, tmp_path, differ)


def test_every_rank_draws_its_share_of_the_numbers_of_a_whole_batch(tmp_path: Path) -> None:
    def draw(rank: int) -> torch.Tensor:
        source = generator(3, "test")
        return torch.stack([ranks.shared(lambda n, g: torch.rand(n, generator=g), 2)(source) for _ in range(2)])

    source = generator(3, "test")
    drawn = torch.stack([torch.rand(6, generator=source) for _ in range(2)])
    assert torch.equal(torch.cat(in_ranks(3, tmp_path, draw), 1), drawn)


def test_shared_batch_norm_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    """Features, gradients and running statistics."""
    images = torch.randn(6, 3, 4, 4, generator=generator(0, "images")) + 5

    def normalised(share: torch.Tensor) -> list[torch.Tensor]:
        network, x = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)), share.clone().requires_grad_(True)
        share_batch_norm(network)
        y = network(x)
        (y**3).sum().backward()
        assert x.grad is not None
        return [y.detach(), x.grad, network[0].running_mean, network[0].running_var, *network.state_dict().values()]

    alone = normalised(images)
    shares = in_ranks(3, tmp_path, lambda _rank: normalised(ranks.own(images)))
    for i, value in enumerate(alone):
        together = torch.cat([share[i] for share in shares]) if i < 2 else shares[0][i]
        torch.testing.assert_close(together, value, atol=1e-4, rtol=1e-4)


def test_ranks_meet_whatever_their_machines_count(tmp_path: Path) -> None:
    """The torchrun of each machine counts restarts of its own, and the store outlives them."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}

    def starts(rank: int) -> list[int]:
        found = []
        for _ in range(2):
            ranks.leave()
            os.environ |= {**environment(rank, 2, "test", restarts=rank), **there}
            ranks.join(CPU)
            ranks.check_same({"start": str(len(found) // 2)})
            found += [ranks.count(), ranks.earlier_starts()]
        return found

    assert in_ranks(2, tmp_path, starts) == [[2, 0, 2, 1], [2, 0, 2, 0]]


# ---------------------------------------------------------------- what torchrun says, and what is refused


def launch(
    monkeypatch: pytest.MonkeyPatch, rank: int = 0, number: int = 2, job: str = "job", restarts: int = 0
) -> None:
    """The environment of a rank."""
    for name, value in environment(rank, number, job, restarts).items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")  # as other programs set them
    assert torchrun.launched() is None
    assert torchrun.may_speak()
    assert (ranks.count(), ranks.is_first()) == (1, True)


def test_shares_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, number=3)
    with pytest.raises(UsageError, match=r"batch_size is 4.* 3 ranks .*--batch-size 6"):
        trainer.check(config())
    with pytest.raises(UsageError, match="minibatch_stddev"):
        trainer.check(config(batch_size=6, discriminator_norm="none", minibatch_stddev=True))
    with pytest.raises(UsageError, match="step_mode is compiled"):
        trainer.check(config(batch_size=6, step_mode="compiled"))
    with pytest.raises(BalancerError, match="3 ranks for 2 images of NORMAL"):
        check_enough(dataset(minority=2), 0)
    with pytest.raises(UsageError, match="'all' in 3 ranks"):
        settings_of_classes(config(target_class="all"), dataset())
    with pytest.raises(UsageError, match="expected auto, cpu or cuda"):
        open_device("cuda:1")


def test_a_lost_rank_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[/x/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1. Check the logs")
    launch(monkeypatch, restarts=1)
    assert "(Connection closed by peer); give torchrun --max-restarts" in str(explain(lost))
    launch(monkeypatch)
    assert "starts all ranks again (1 of 1)" in str(explain(lost))


def test_other_commands_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch)
    refused(balancer("audit", "--data", "phantom"), 2, "2 ranks of audit", "--jobs", "dask")
    launch(monkeypatch, rank=1)
    assert not torchrun.may_speak()
    monkeypatch.setattr(torchrun, "LONGEST_START", 0)  # torchrun would have ended this rank, had another one failed
    refused(balancer("audit", "--data", "phantom"), 2, "2 ranks of audit")


def test_a_restarted_rank_finds_what_its_torchrun_has_begun(
    chest: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank, so that no other process is needed. Without --resume, and whatever else lies in runs."""
    command = ["gan-train", "--data", chest, "--steps", 4, *TINY_GAN, *sets(snapshot_every=2, lr_generator=0.05)]

    def stopped(job: str, *more: object) -> None:
        launch(monkeypatch, number=1, job=job)
        with monkeypatch.context() as patch:
            interrupt_after(patch, 3, signal.SIGTERM)
            assert balancer(*command, *more).exit_code == 143

    stopped("first", "--out", "a")
    stopped("second", "--name", "b")
    stopped("third")
    for job, run in (("first", "a"), ("second", "runs/gan-train/b"), ("third", None)):
        launch(monkeypatch, number=1, job=job, restarts=1)
        name = {"a": ["--out", "a"], "runs/gan-train/b": ["--name", "b", "--force"]}.get(str(run), [])
        result = done(balancer(*command, *name))
        assert "1 of them after --resume" in result.stdout
        assert run is None or f"{run} holds" in result.stdout
        again = done(balancer(*command, *name))
        assert "finished already" in again.stdout
    assert len([*(runs_cwd / "runs" / "gan-train").glob("2*/done")]) == 1
    launch(monkeypatch, number=1, job="first")
    refused(balancer(*command, "--out", "a"), 1, "holds a run already")  # a second torchrun of the same name


def test_which_run_a_first_start_and_a_restart_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchrun without a name continues no other's run; --force replaces a run at the first start alone."""
    prepared = PreparedRun("gan-train", config(), "cpu", None, float, lambda _: None)

    def goes_on(job: str, restarts: int = 0, starts: int = 0, force: bool = False) -> bool:
        launch(monkeypatch, job=job, restarts=restarts)
        return _continued(prepared, RunRequest(tmp_path, force=force), starts).resume is not None

    for job in ("none", "a name"):
        launch(monkeypatch, job=job)
        write_yaml(tmp_path / "config.yaml", dump(prepared.config))
        write_json(tmp_path / "env.json", environment_of_run("gan-train", "cpu"))
        assert goes_on(job) == (job != "none")
        assert goes_on(job, restarts=1)
        assert not goes_on(job, force=True)
        assert goes_on(job, starts=1, force=True)
    prepared = replace(prepared, config=config(steps=9))
    with pytest.raises(BalancerError, match=r"other settings: .* start a new run, by another --rdzv-id than a name"):
        goes_on("a name")
