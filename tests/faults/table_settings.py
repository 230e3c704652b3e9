"""Settings, environment variables and options that are refused, each by its name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault import ABLATE, GAN, SYNTHESIZE, TRAIN, WITH_SYNTHETIC, Arrange, Fault, Place
from torchvision import models

CONFIG = f"{GAN} --config {{here}}/c.yaml"
LEFT = ("c.yaml",)
PREDICT = "classifier predict {trained} {chest}/test/NORMAL/IM-0003-0001.png"
TUNE = "classifier tune --data {chest} --steps 2 --out {here}/run"
WEIGHTS = f"{TRAIN} --weights {{here}}/w.pt --model shufflenet_v2_x0_5"


def config(text: str) -> Arrange:
    """Return a fault: a config file of this text."""
    return lambda place, _patch: (place["here"] / "c.yaml").write_text(text)


def latin_1(place: Place, _patch: pytest.MonkeyPatch) -> None:
    (place["here"] / "c.yaml").write_bytes(b"gan_train: {steps: \xf6}")


def variable(name: str, value: str) -> Arrange:
    return lambda _place, patch: patch.setenv(name, value)


def weights(write: Callable[[Path], object]) -> Arrange:
    return lambda place, _patch: write(place["here"] / "w.pt")


def not_finite(path: Path) -> None:
    content = models.shufflenet_v2_x0_5().state_dict()
    content["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(content, path)


def other_network(path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2, 2)}, path)


def no_deficit(_place: Place, patch: pytest.MonkeyPatch) -> None:
    """Let the training set be balanced already."""
    patch.setattr("balancer.data.dataset.Dataset.deficits", property(lambda _: [0, 0]))


SETTINGS = [
    # The config file
    Fault("config file unreadable", CONFIG, exit_code=2, words=("c.yaml",)),
    Fault("config file is no YAML", CONFIG, config("a: [1"), 2, ("c.yaml",), LEFT),
    Fault("config file is a list", CONFIG, config("[1, 2]"), 2, ("c.yaml",), LEFT),
    Fault("section misspelt", CONFIG, config("gann:\n  steps: 2\n"), 2, ("gann",), LEFT),
    Fault(
        "graph without CUDA", f"{GAN} --dry-run --set step_mode=graph --device cpu", exit_code=2, words=("step_mode",)
    ),
    Fault("setting misspelt", f"{GAN} --set stepz=2", exit_code=2, words=("stepz", "steps")),
    Fault("setting out of range", f"{GAN} --set beta2=-1", exit_code=2, words=("beta2", "-1")),
    Fault("setting not finite", f"{GAN} --set beta2=.nan", exit_code=2, words=("beta2", "nan")),
    Fault("setting of a wrong type", f"{GAN} --set steps=many", exit_code=2, words=("steps", "many")),
    Fault("setting without a value", f"{GAN} --set steps", exit_code=2, words=("--set", "steps")),
    Fault("path of spaces", f"{GAN} --set data.path=''", exit_code=2, words=("data",)),
    Fault("config file is a folder", f"{GAN} --config {{here}}", exit_code=2, words=("here",)),
    Fault("config file in Latin-1", CONFIG, latin_1, 2, ("c.yaml",), LEFT),
    Fault("section is a number", CONFIG, config("gan_train: 3\n"), 2, ("c.yaml", "gan_train"), LEFT),
    Fault("key twice", CONFIG, config("gan_train:\n  steps: 2\n  steps: 3\n"), 2, ("c.yaml", "steps"), LEFT),
    Fault("nested too deeply", CONFIG, config("[" * 3000), 2, ("c.yaml",), LEFT),
    Fault("alias of itself", CONFIG, config("gan_train: &a\n  steps: *a\n"), 2, ("c.yaml",), LEFT),
    Fault(
        "list for a path",
        CONFIG.replace("--data {chest} ", ""),
        config("data:\n  path: [a, b]\n"),
        2,
        ("data.path",),
        LEFT,
    ),
    Fault("true for a number", f"{GAN} --set steps=true", exit_code=2, words=("steps", "True")),
    Fault("empty config file", f"{CONFIG} --dry-run", config(""), 0, ("c.yaml",), LEFT),
    Fault("setting twice", f"{GAN} --dry-run --set z_dim=6", exit_code=0, words=("z_dim",)),
    # The environment
    Fault(
        "data of the environment",
        "balancer gan-train --dry-run",
        variable("BALANCER_DATA", "/nowhere"),
        1,
        ("/nowhere",),
    ),
    Fault("device unknown", f"{GAN} --device gpu", exit_code=2, words=("--device", "gpu")),
    Fault("device absent", f"{GAN} --device cuda:99", exit_code=1, words=("--device", "cuda:99")),
    Fault("variable misspelt", GAN, variable("BALANCER_CACHEE", "x"), 2, ("BALANCER_CACHEE", "BALANCER_CACHE")),
    Fault(
        "variable of a command misspelt", TRAIN, variable("CLASSIFIER_TRAIN_STEPZ", "2"), 2, ("CLASSIFIER_TRAIN_STEPZ",)
    ),
    Fault("processor of a number", f"{GAN} --device cpu:7", exit_code=2, words=("--device", "cpu:7")),
    # Options
    Fault("threads of nothing", f"{GAN} --threads 0", exit_code=2, words=("--threads", "0", "gan-train --help")),
    Fault("option unknown", f"{GAN} --sede 3", exit_code=2, words=("--sede", "gan-train --help")),
    Fault("option without its value", f"{GAN} --seed", exit_code=2, words=("--seed",)),
    Fault("switch with a value", f"{GAN} --force=3", exit_code=2, words=("--force",)),
    Fault("argument missing", "classifier predict {trained}/model.pt", exit_code=2, words=("IMAGE", "predict --help")),
    Fault("argument too many", "balancer fetch pneumoniamnist twice", exit_code=2, words=("twice", "fetch --help")),
    Fault("command unknown", "balancer gantrain", exit_code=2, words=("gantrain", "--help")),
    Fault(
        "resume and replace", "balancer gan-train --resume {gan} --force", exit_code=2, words=("--resume", "--force")
    ),
    Fault("option twice", f"{GAN} --seed 1 --seed 2", exit_code=2, words=("--seed", "2 times")),
    Fault(
        "config file twice",
        f"{CONFIG} --config {{here}}/c.yaml",
        config("gan_train:\n  steps: 2\n"),
        2,
        ("--config", "2 times"),
        LEFT,
    ),
    Fault("nothing for a path", f"{GAN} --set data.path=", exit_code=2, words=("data.path",)),
    Fault("comment for a path", f"{GAN} --set data.path=#x", exit_code=2, words=("data.path",)),
    Fault("nothing for a folder", f"{TRAIN.replace(' --out {here}/run', '')} --out=", exit_code=2, words=("--out",)),
    Fault("nothing to resume", "balancer gan-train --resume=", exit_code=2, words=("--resume",)),
    Fault("time not a number", f"{TUNE} --timeout nan", exit_code=2, words=("--timeout", "nan")),
    Fault("time without end", f"{TUNE} --timeout inf", exit_code=2, words=("--timeout", "inf")),
    Fault("time below nothing", f"{TUNE} --timeout=-1", exit_code=2, words=("--timeout", "-1")),
    Fault("threshold not a number", f"{PREDICT} --threshold nan", exit_code=2, words=("--threshold", "nan")),
    Fault("threshold above one", f"{PREDICT} --threshold 1.5", exit_code=2, words=("--threshold", "1.5")),
    Fault("regime unknown", ABLATE.replace("baseline", "basline"), exit_code=2, words=("basline", "baseline")),
    Fault("regime without its images", ABLATE.replace("baseline", "gan"), words=("--synthetic",)),
    Fault("nothing lacks", "balancer synthesize --gan-run {gan} --out {here}/run", no_deficit, 1, ("--n",)),
    Fault("run not there", "balancer gan-train --resume {here}/none", exit_code=1, words=("here/none",)),
    Fault("run of another command", "balancer gan-train --resume {trained}", exit_code=1, words=("trained",)),
    Fault("run there already", GAN.replace("{here}/run", "{gan}"), words=("gan", "--force")),
    Fault("run in a full folder", GAN.replace("{here}/run", "{chest}") + " --force", words=("chest",)),
    Fault("classifier in place of a GAN", SYNTHESIZE.replace("{gan}", "{trained}"), words=("trained", "gan-train")),
    Fault("GAN in place of images", WITH_SYNTHETIC.replace("{synthesis}", "{gan}"), words=("gan", "synthesize")),
    Fault(
        "more images than there are", WITH_SYNTHETIC.replace("-count 4", "-count 99"), words=("99", "4", "manifest.csv")
    ),
    Fault("no image", SYNTHESIZE.replace("--n 4", "--n 0"), exit_code=2, words=("'n'", "0")),
    Fault("image too large", f"{GAN} --set data.image_size=1000000", exit_code=2, words=("image_size", "1000000")),
    Fault("batch of nothing", f"{TRAIN} --set batch_size=0", exit_code=2, words=("batch_size", "0")),
    Fault("network unknown", f"{TRAIN} --model nonet", exit_code=2, words=("nonet",)),
    Fault("system unknown", "classifier reproduce nosystem", exit_code=2, words=("nosystem",)),
    Fault("trials of nothing", "classifier thresholds {here}", words=("here",)),
    Fault("trials of a GAN", "classifier ensemble {gan}", words=("gan",)),
    # Weights
    Fault("weights not finite", WEIGHTS, weights(not_finite), 1, ("w.pt", "not finite"), ("w.pt",)),
    Fault("weights of another network", WEIGHTS, weights(other_network), 1, ("w.pt",), ("w.pt",)),
    Fault("weights empty", WEIGHTS, weights(Path.touch), 1, ("w.pt",), ("w.pt",)),
    Fault("weights are a text", WEIGHTS, weights(lambda path: path.write_text("text")), 1, ("w.pt",), ("w.pt",)),
    Fault("weights are a list", WEIGHTS, weights(lambda path: torch.save([1], path)), 1, ("w.pt", "list"), ("w.pt",)),
    Fault("weights absent", WEIGHTS, exit_code=1, words=("w.pt",)),
    # Tracking, and the list of runs
    Fault("unknown tracker", f"{GAN} --track mlfow", exit_code=2, words=("--track", "mlflow")),
    Fault("address without MLflow", f"{GAN} --tracking-uri http://a.example", exit_code=2, words=("--tracking-uri",)),
    Fault("list of no folder", "balancer runs {here}/none", words=("none",)),
    Fault("no run to show", "balancer runs show {here}", words=("here",)),
    Fault("no run to remove", "balancer runs remove {chest} --yes --force", words=("chest",)),
    Fault("nobody to ask", "balancer runs remove {gan}", words=("--yes",)),
]
