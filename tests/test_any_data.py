"""The whole job on a made example of each kind of data: GAN, synthesis with report, ablation of one seed."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from colours import CLASSES, write_cells
from commands import QUICK_REPORT, balancer, done, sets
from layouts import LAYOUTS, as_pacs, made
from PIL import Image

SMALL_GAN = ["--batch-size", 8, *sets(generator_width=4, discriminator_width=4, z_dim=8)]
SMALL = ["--steps", 4, "--batch-size", 8, "--seeds", 1, *sets(evaluations=1, bn_statistics="running")]
KINDS = {name: write for name, (_, write) in LAYOUTS.items() if name != "splits"} | {"pacs": as_pacs}
COUNTS = {"train": (40, 24), "val": (6, 5), "test": (12, 10)}


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_job(kind: str, runs_cwd: Path) -> None:
    from classifier.cli import main

    path = KINDS[kind](made(COUNTS), runs_cwd / "data")
    shown = json.loads(done(balancer("inspect", path, "--json")).stdout)["next"]
    audit, train = (shlex.split(line)[1:] for line in shown[:2])
    done(balancer(*audit, "-q"))
    done(balancer(*train, *SMALL_GAN, "--steps", 200, *sets(snapshot_every=100, snapshot_images=8), "-q"))
    done(balancer("synthesize", "-q", *QUICK_REPORT))
    arguments = ["ablate", "-q", *map(str, SMALL), "--regimes", "baseline,gan", "--json"]
    assert json.loads(done(CliRunner().invoke(main, arguments)).stdout)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_job_in_colour(runs_cwd: Path) -> None:
    """Everything takes three channels: audit, GAN, synthesis, ablation, heat maps, exports, the service."""
    from classifier.cli import main
    from classifier.serving.engine import HeatMapRequest, answer
    from classifier.serving.limits import Limits
    from classifier.serving.models import load_models

    def classifier(*args: object) -> str:
        return done(CliRunner().invoke(main, [str(a) for a in args])).stdout

    cells = write_cells(runs_cwd / "cells", (60, 32), suffix=".jpg")
    size = ["--data", cells, "--image-size", 16]
    done(balancer("audit", *size, "-q"))
    recipe = sets(snapshot_every=20, snapshot_images=8, diffaugment="saturation,translation", features="random")
    done(balancer("gan-train", *size, *SMALL_GAN, "--steps", 40, *recipe, "-q"))
    done(balancer("synthesize", "-q", *QUICK_REPORT, *sets(features="random")))
    report = json.loads((runs_cwd / "runs/synthesize/latest/report.json").read_text())
    assert report["data"]["channels"] == 3
    (first, *_) = sorted((runs_cwd / "runs/synthesize/latest/images").glob("*/*.png"))
    with Image.open(first) as image:
        assert image.mode == "RGB"
    classifier("ablate", "-q", *SMALL, "--regimes", "baseline,augment,gan,combined")
    run = runs_cwd / "runs/ablate/latest"
    assert "colour image, 16 px" in (run / "MODEL_CARD.md").read_text()
    (model, *_) = sorted(run.glob("trials/*/model.pt"))
    classifier("explain", model, cells / CLASSES[0], "-q")
    classifier("explain", run, "-q")
    (cell, *_) = sorted((cells / CLASSES[0]).iterdir())
    with Image.open(cell) as image:
        image.convert("L").save(runs_cwd / "grey.png")
    by_model = json.loads(classifier("predict", model, cell, "grey.png", "--json"))["predictions"]
    for to in ("onnx", "safetensors"):
        classifier("export", model, "--to", to, "-q")
        exported = model.with_suffix(f".{to}")
        got = json.loads(classifier("predict", exported, cell, "grey.png", "--json"))["predictions"]
        for one, other in zip(by_model, got, strict=True):
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    done(balancer("export", runs_cwd / "runs/gan-train/latest", "--to", "onnx", "-q"))
    models = load_models([model], torch.device("cpu"))
    for file, notes in ((cell, 0), (Path("grey.png"), 1)):
        said = answer(file.read_bytes(), models, Limits(), HeatMapRequest())
        assert len(said.predictions[0].notes) == notes


@pytest.mark.nightly
@pytest.mark.slow
def test_images_of_another_generator(runs_cwd: Path) -> None:
    """From the names of the training fold to an ablation, with images of noise for a generator."""
    from classifier.cli import main

    data = LAYOUTS["classes"][1](made(COUNTS), runs_cwd / "data")
    done(balancer("inspect", data, "--image-size", 16, "--training-fold", "fold.csv"))
    for i, image in enumerate(made({"train": (60, 0)}, ("NORMAL", "PNEUMONIA"))):
        image.save(runs_cwd / f"generated/PNEUMONIA/seed{i + 1000}.png")
    words = (
        "import",
        "generated",
        "--data",
        data,
        "--image-size",
        16,
        "--split-of",
        "fold.csv",
        "--generator",
        "noise",
    )
    refused = balancer(*words, *QUICK_REPORT)
    assert refused.exit_code == 1, "the noise of this generator is that of the data: it has learnt everything"
    shutil.rmtree(runs_cwd / "generated")
    rng = np.random.default_rng(9)
    (runs_cwd / "generated/PNEUMONIA").mkdir(parents=True)
    for i in range(40):
        pixels = rng.integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(runs_cwd / f"generated/PNEUMONIA/seed{i}.png")
    done(balancer(*words, *QUICK_REPORT))
    arguments = ["ablate", "-q", *map(str, SMALL), "--regimes", "baseline,gan", "--json"]
    assert json.loads(done(CliRunner().invoke(main, arguments)).stdout)
    report = next((runs_cwd / "runs/ablate").glob("*/report.md")).read_text()
    assert "generator: noise" in report
