"""`balancer` as a user types it: help, defaults, one-line errors, JSON, stopping and resuming."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from commands import TINY_GAN, balancer, done, refused, sets, words
from PIL import Image

from balancer.gan import trainer
from balancer.gan.checkpoint import read_checkpoint

TINY = ["--steps", "4", *TINY_GAN, *sets(log_every=1)]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("gan-train", "--data --preset --image-size --val-fraction"),
        ("synthesize", "--data --n --image-size --val-fraction"),
        ("evaluate", "--real --fake --training --image-size --max-bad --inception-weights"),
        ("audit", "--data --strict"),
    ],
)
def test_help(command: str, options: str) -> None:
    text = done(balancer(command, "-h")).stdout
    assert text == done(balancer(command, "--help")).stdout
    shared = "--config --set --seed --device --out --resume --force --dry-run --json --quiet --verbose"
    assert words(f"{options} {shared}") <= set(re.findall(r"--[a-z-]+", text))
    assert command in done(balancer("--help")).stdout


def test_version() -> None:
    from balancer import __version__

    assert __version__ in done(balancer("--version")).stdout


def test_gan_train_leaves_a_complete_run(chest_folder: Path, runs_cwd: Path) -> None:
    result = done(balancer("gan-train", "--data", chest_folder, *TINY, "--json"))
    content = json.loads(result.stdout)
    run = Path(content["run"])
    assert run.parent == Path("runs/gan-train")
    names = words("config.yaml env.json metrics.jsonl log.txt split.csv summary.json checkpoint.pt best.pt done")
    assert names <= {p.name for p in run.iterdir()}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss_D" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "kid" in row] == [4]  # the snapshot
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["steps"], config["data"]["image_size"], config["data"]["path"]) == (4, 16, str(chest_folder))
    env = json.loads((run / "env.json").read_text())
    assert env["command"] == "gan-train"
    assert env["versions"]["torch"]
    assert "learning NORMAL from" in (run / "log.txt").read_text()
    assert (run / "split.csv").read_text().count("\n") == 1 + 24 + 60 + 2 + 2 + 10 + 16
    assert (content["class"], content["steps"], content["steps_run"]) == ("NORMAL", 4, 4)
    assert content["n_train"] == env["data"]["counts"]["train"]["NORMAL"]


@pytest.mark.parametrize(
    ("args", "code", "phrases"),
    [
        (["--preset", "sngan_difaug"], 2, ["'sngan_difaug'", "did you mean 'sngan_diffaug'"]),
        (["--preset", "zzz"], 2, ["known: dcgan, dcgan_diffaug, "]),
        (["--set", "generator_widht=4"], 2, ["'generator_widht'", "did you mean 'generator_width'"]),
        (["--set", "data.image_sise=4"], 2, ["'data.image_sise'", "image_size'"]),
        (["--set", "steps"], 2, ["key=value"]),
        (["--set", "loss=hing"], 2, ["did you mean 'hinge'"]),
        (["--set", "diffaugment=[cutoff]"], 2, ["did you mean 'cutout'"]),
        (["--set", "architecture=dcgn"], 2, ["architecture", "dcgn"]),
        (["--steps", "0"], 2, ["'steps'", "0"]),
        (["--batch-size", "1"], 2, ["'batch_size'"]),
        (["--image-size", "50"], 2, ["50 cannot be halved twice", "148"]),
        (["--class", "covid"], 2, ["'covid'", "NORMAL or PNEUMONIA"]),
        (["--device", "gpu"], 2, ["'gpu'", "cuda:N"]),
        (["--device", "cuda:99"], 1, ["'cuda:99'", "--device auto or cpu"]),
        (["--config", "absent.yaml"], 2, ["absent.yaml"]),
        (["--resume", "latest"], 1, ["no unfinished gan-train run"]),
        (["--resume", "nowhere"], 1, ["nowhere holds no gan-train run"]),
    ],
)
def test_one_line_errors(args: list[str], code: int, phrases: list[str], chest_folder: Path, runs_cwd: Path) -> None:
    data = [] if "--resume" in args else ["--data", chest_folder]
    refused(balancer("gan-train", *data, *args), code, *phrases)
    assert not (runs_cwd / "runs").exists()


def test_missing_folder(runs_cwd: Path) -> None:
    refused(balancer("gan-train", "--data", "nowhere"), 1, "nowhere does not exist", "--data or BALANCER_DATA")
    (runs_cwd / "stray").mkdir()
    refused(balancer("gan-train", "--data", "stray"), 1, "has no train folder", "it holds nothing")
    assert not (runs_cwd / "runs").exists()


def test_settings_from_a_file_the_environment_and_flags(
    chest_folder: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs_cwd / "c.yaml").write_text("gan_train:\n  preset: sngan_diffaug\n  steps: 11\n  ema_decay: 0.5\n")
    monkeypatch.setenv("BALANCER_GAN_TRAIN_STEPS", "12")
    monkeypatch.setenv("BALANCER_GAN_TRAIN_SEED", "2")
    command = ("gan-train", "--data", chest_folder, "--config", "c.yaml", "--seed", 3, "--image-size", 16, *TINY[6:])
    config = json.loads(done(balancer(*command, "--dry-run", "--json")).stdout)["config"]
    assert (config["seed"], config["steps"], config["ema_decay"], config["loss"]) == (3, 12, 0.5, "hinge")


def test_data_from_the_environment(chest_folder: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALANCER_DATA", str(chest_folder))
    result = done(balancer("gan-train", *TINY, "--dry-run", "--json"))
    assert json.loads(result.stdout)["data"]["source"] == str(chest_folder)


def test_json_is_alone_on_stdout(chest_folder: Path, runs_cwd: Path) -> None:
    for more in ([], ["-v"], ["-q"], ["--dry-run"]):
        result = done(balancer("gan-train", "--data", chest_folder, *TINY, "--json", *more))
        json.loads(result.stdout)
        assert ("data: " in result.stderr) == (more != ["-q"])


def test_threads_are_said_recorded_and_warned_of_on_change(chest_folder: Path, runs_cwd: Path) -> None:
    command = ("gan-train", "--data", chest_folder, *TINY)
    plan = done(balancer(*command, "--threads", 2, "--dry-run"))
    assert "# threads: 2 of" in plan.stdout
    assert json.loads(done(balancer(*command, "--threads", 2, "--dry-run", "--json")).stdout)["threads"] == 2
    assert balancer(*command, "--threads", 0).exit_code == 2
    done(balancer(*command, "--out", "r"))
    env = pretend(runs_cwd / "r", threads=2)
    assert (env["threads"], env["device"]) == (1, "cpu (1 thread)")
    assert "--threads 2" in done(balancer("gan-train", "--resume", "r", "--threads", 1)).stderr
    pretend(runs_cwd / "r", threads=2)
    assert "--threads 2" in done(balancer("gan-train", "--resume", "r", env={"OMP_NUM_THREADS": "1"})).stderr


def pretend(run: Path, **values: object) -> dict[str, Any]:
    """Let a finished run be an interrupted one whose env.json says otherwise; return what the file said."""
    (run / "done").unlink()
    env = json.loads((run / "env.json").read_text())
    kept = {key: value for key, value in {**env, **values}.items() if value is not None and key != "sha256"}
    (run / "env.json").write_text(json.dumps(kept))
    return env


@pytest.mark.parametrize("said", [{"threads": 2}, {"threads": None, "device": "cpu (2 threads)"}])
def test_a_run_continues_with_the_threads_it_began_with(chest_folder: Path, runs_cwd: Path, said: dict) -> None:
    """Also a run of an earlier version, which said so in the words on the device alone."""
    done(balancer("gan-train", "--data", chest_folder, *TINY, "--out", "r"))
    pretend(runs_cwd / "r", **said)
    result = done(balancer("gan-train", "--resume", "r", env={"OMP_NUM_THREADS": ""}))
    assert "--threads" not in result.stderr
    assert torch.get_num_threads() == 2


def test_other_threads_are_warned_of_once(chest_folder: Path, runs_cwd: Path) -> None:
    done(balancer("gan-train", "--data", chest_folder, *TINY, "--out", "r"))
    (runs_cwd / "r" / "done").unlink()
    result = done(balancer("gan-train", "--resume", "r", "--threads", 2))
    assert [line for line in result.stderr.splitlines() if "thread" in line and "uninterrupted" in line] == [
        line for line in result.stderr.splitlines() if "--threads 1" in line
    ]
    assert result.stderr.count("uninterrupted") == 1


def test_quiet(chest_folder: Path, runs_cwd: Path) -> None:
    result = done(balancer("gan-train", "--data", chest_folder, *TINY, "-q"))
    assert not result.stderr
    assert "NORMAL: 4 steps" in result.stdout
    refused(balancer("gan-train", "--data", "nowhere", "-q"), 1, "does not exist")


def test_dry_run_writes_nothing(chest_folder: Path, runs_cwd: Path) -> None:
    before = {p for p in runs_cwd.rglob("*") if chest_folder not in p.parents}
    result = done(balancer("gan-train", "--data", chest_folder, *TINY, "--dry-run"))
    assert "estimated" in result.stdout
    assert yaml.safe_load(result.stdout)["steps"] == 4, "the settings as YAML, the rest as comments"
    done(balancer("gan-train", "--data", chest_folder, *TINY, "--dry-run", "--out", "there"))
    assert {p for p in runs_cwd.rglob("*") if chest_folder not in p.parents} == before


def interrupted(*args: object, monkeypatch: pytest.MonkeyPatch, signum: int = signal.SIGINT) -> Result:
    """Run a command that is sent a signal in its second step."""
    step = trainer.train_step

    def stepping(config: Any, state: Any, real: torch.Tensor) -> dict[str, torch.Tensor]:
        if state.step == 1:
            os.kill(os.getpid(), signum)
        return step(config, state, real)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", stepping)
        return balancer(*args)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_and_resume(
    signum: int, code: int, chest_folder: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("gan-train", "--data", chest_folder, *TINY)
    result = interrupted(*args, monkeypatch=monkeypatch, signum=signum)
    assert result.exit_code == code
    assert "saved at step 2 of 4; continue with --resume runs/gan-train/" in result.stderr
    (run,) = (runs_cwd / "runs" / "gan-train").glob("*/")
    assert not (run / "done").exists()
    done(balancer("gan-train", "--resume", "latest"))
    assert (run / "done").exists()
    done(balancer(*args, "--out", "whole"))
    ours, whole = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (run, runs_cwd / "whole"))
    for part in ("G", "D", "G_ema"):
        for key, value in whole[part].items():
            assert torch.equal(value, ours[part][key]), key
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]  # the last one's snapshot has a row of its own
    again = done(balancer("gan-train", "--resume", run))
    assert "finished already" in again.stdout


def test_resume_refuses_other_settings(chest_folder: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted("gan-train", "--data", chest_folder, *TINY, monkeypatch=monkeypatch)
    result = balancer("gan-train", "--resume", "latest", "--steps", 9, "--seed", 5)
    refused(result, 1, "steps (saved 4, asked 9)", "seed (saved 0, asked 5)")
    done(balancer("gan-train", "--resume", "latest", "--steps", 4))


def test_refusing_changed_data_leaves_the_run_as_it_was(
    chest_folder: Path, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of what the checkpoint was trained on must not be overwritten by what it was not."""
    interrupted("gan-train", "--data", chest_folder, *TINY, monkeypatch=monkeypatch)
    (run,) = (runs_cwd / "runs" / "gan-train").glob("*/")
    before = {name: (run / name).read_bytes() for name in ("split.csv", "env.json", "checkpoint.pt", "config.yaml")}
    Image.new("L", (20, 20), 77).save(chest_folder / "train" / "NORMAL" / "IM-9999-0001.png")
    refused(balancer("gan-train", "--resume", run), 1, "was trained on split")
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.slow
@pytest.mark.nightly
def test_sigterm_to_a_real_process(chest_folder: Path, tmp_path: Path) -> None:
    """Once in a fresh process: exit 143 within seconds, the state saved and readable."""
    args = ["gan-train", "--data", str(chest_folder), *TINY[2:], "--steps", "100000", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", "from balancer.cli import main; main()", *args]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not (tmp_path / "run" / "metrics.jsonl").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert not out
    assert "SIGTERM: saved at step" in err
    assert "Traceback" not in err
    step = read_checkpoint(tmp_path / "run" / "checkpoint.pt", torch.device("cpu")).step
    assert 0 < step < 100_000
