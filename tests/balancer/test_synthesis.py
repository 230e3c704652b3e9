"""Export: exact counts, images that depend on (seed, index) alone, a manifest that tells the truth, clear refusals."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import QUICK_REPORT, balancer, done, refused, words
from PIL import Image

from balancer import synthesis
from balancer.core.presets import PRESETS
from balancer.core.sealed import read_json, save_tensors, write_json
from balancer.core.seeding import derive_seed
from balancer.core.settings import DataConfig, GanTrainConfig, SynthesizeConfig
from balancer.data.dataset import load_dataset
from balancer.data.manifest import MANIFEST_COLUMNS
from balancer.gan.checkpoint import BEST, CHECKPOINT
from balancer.reporting.grids import png_bytes

SIZE = 16


@pytest.fixture(scope="module")
def hundred_and_thirty(gan_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthesis") / "run"
    done(balancer("synthesize", "--gan-run", gan_run, "--n", 130, *QUICK_REPORT, "--out", path))
    return path


def pngs(run: Path) -> list[Path]:
    return sorted((run / "images").rglob("*.png"))


def manifest(run: Path) -> list[dict[str, str]]:
    with (run / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_exactly_n_grey_eight_bit_images(hundred_and_thirty: Path) -> None:
    files = pngs(hundred_and_thirty)
    assert len(files) == 130
    assert {f.parent.relative_to(hundred_and_thirty).as_posix() for f in files} == {"images/NORMAL"}
    contents = set()
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIZE, SIZE))
            contents.add(image.tobytes())
    assert len(contents) == 130, "no image twice"
    assert {p.name for p in hundred_and_thirty.iterdir()} >= words(
        "images manifest.csv grid.png closest.png spectrum.png report.json "
        "report.md report.html config.yaml env.json log.txt done"
    )


def test_the_datasheet_says_what_the_report_says(hundred_and_thirty: Path) -> None:
    sheet = (hundred_and_thirty / "DATASHEET.md").read_text(encoding="utf-8")
    report, config = read_json(hundred_and_thirty / "report.json"), read_json(hundred_and_thirty / "env.json")
    for words_of_report in (report["quality"]["verdict"], *report["about"]):
        assert words_of_report in sheet
    for finding in report["quality"]["interpretation"]:
        assert f"| {finding['metric']} | {finding['figure']} |" in sheet
    content = (hundred_and_thirty / "manifest.csv").read_bytes()
    for value in (hashlib.sha256(content).hexdigest(), config["data"]["split_hash"], config["data"]["fingerprint"]):
        assert f"`{value}`" in sheet
    assert "| images | 130, all of class NORMAL |" in sheet
    assert "IM (1" in sheet, "the kinds that the generator learnt from"


def test_the_manifest_tells_the_truth(hundred_and_thirty: Path, chest: Path) -> None:
    rows = manifest(hundred_and_thirty)
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    split = load_dataset(DataConfig(path=str(chest), image_size=SIZE)).split_hash
    assert [r["file"] for r in rows] == [p.relative_to(hundred_and_thirty).as_posix() for p in pngs(hundred_and_thirty)]
    for i, row in enumerate(rows):
        assert int(row["index"]) == i
        assert int(row["seed"]) == derive_seed(0, "z", i)
        assert row["sha256"] == hashlib.sha256((hundred_and_thirty / row["file"]).read_bytes()).hexdigest()
        assert row["class"] == "NORMAL"
        assert row["split_hash"] == split


@pytest.mark.parametrize("n", [1, 3, 65])
def test_image_i_is_the_same_whatever_n_is(n: int, gan_run: Path, hundred_and_thirty: Path, tmp_path: Path) -> None:
    done(balancer("synthesize", "--gan-run", gan_run, "--n", n, *QUICK_REPORT, "--out", tmp_path / "few"))
    few, many = pngs(tmp_path / "few"), pngs(hundred_and_thirty)
    assert len(few) == n
    for a, b in zip(few, many[:n], strict=True):
        assert (a.name, a.read_bytes()) == (b.name, b.read_bytes())
    assert manifest(tmp_path / "few") == manifest(hundred_and_thirty)[:n]
    assert (tmp_path / "few" / "grid.png").exists()


def test_images_are_the_averaged_generators(gan_run: Path, hundred_and_thirty: Path) -> None:
    """Made here by hand from the checkpoint, one by one: EMA weights, evaluation mode, the manifest's seeds."""
    from balancer.gan.networks import DCGANGenerator

    content, off = torch.load(gan_run / CHECKPOINT, weights_only=True), {}
    for part in ("G_ema", "G"):
        G = DCGANGenerator(SIZE, 5, 2)
        G.load_state_dict(content[part])
        G.eval()
        off[part] = 0.0
        for row in manifest(hundred_and_thirty)[::10]:
            z = torch.randn(1, 5, generator=torch.Generator().manual_seed(int(row["seed"])))
            with torch.no_grad():
                levels = ((G(z)[0, 0] + 1) * 127.5).round().numpy()
            with Image.open(hundred_and_thirty / row["file"]) as image:
                off[part] = max(off[part], float(np.abs(np.asarray(image, float) - levels).max()))
    assert off["G_ema"] <= 1
    assert off["G"] > 3, "the last weights are others"


def test_report(hundred_and_thirty: Path, chest: Path, gan_run: Path) -> None:
    content = json.loads((hundred_and_thirty / "report.json").read_text())
    data = load_dataset(DataConfig(path=str(chest), image_size=SIZE))
    assert (content["class"], content["n"], content["seed"], content["gan_step"]) == ("NORMAL", 130, 0, 3)
    assert content["gan_run"] == str(gan_run)
    assert content["data"]["split_hash"] == data.split_hash
    snapshots = [row for row in content["gan_history"] if "kid" in row]
    late = [row["kid"] for row in snapshots if row["step"] > 2 / 3 * snapshots[-1]["step"]]
    assert (content["trend"]["n"], content["trend"]["last"]) == (len(late), late[-1])
    assert content["trend"]["direction"] == "too few"
    assert content["quality"]["grade"]["step"] in ("good", "fair", "poor", "unfit", "unknown")
    assert content["quality"]["distances"]
    for row in content["quality"]["distances"]:
        assert row["n_real"] == row["n_fake"] >= 2
        assert row["features"] in ("chest-xray-128", "random-conv-128")
        assert row["frechet_name"] == "Fréchet distance"
        assert {"frechet", "frechet_real_baseline", "kid", "kid_real_baseline", "kid_sd"} <= row.keys()
    text = (hundred_and_thirty / "report.md").read_text()
    assert "FID was not computed" in text
    figures = text.split("## Caveats")[0]
    assert all("FID was not computed" in line or "not FIDs" in line for line in figures.splitlines() if "FID" in line)
    counts = {"NORMAL": data.counts("train")[0], "PNEUMONIA": data.counts("train")[1]}
    for fact in (
        "# 130 synthetic NORMAL images",
        (
            f"trained on the {counts['NORMAL']} NORMAL images of the training fold (NORMAL {counts['NORMAL']}, "
            f"PNEUMONIA {counts['PNEUMONIA']}"
        ),
        data.split_hash,
        f"run `{gan_run.name}`",
        "step 3",
        content["quality"]["verdict"],
        *content["quality"]["grade"]["advice"],
    ):
        assert fact in text
    names = {r.name for r in data.records}
    for pair in content["closest"]:
        assert (hundred_and_thirty / pair["synthetic"]).is_file()
        assert pair["training"] in names
    assert {r["reference"] for r in content["quality"]["shift"]} == {"training fold against test"}
    page = (hundred_and_thirty / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(content["figures"])
    with Image.open(hundred_and_thirty / "grid.png") as grid:
        grid.load()
        assert grid.size[0] > grid.size[1] > 128


def test_default_is_the_deficit(gan_run: Path, chest: Path, tmp_path: Path) -> None:
    data = load_dataset(DataConfig(path=str(chest), image_size=SIZE))
    counts = [sum((data.folds == "train") & (data.labels == label)) for label in (0, 1)]
    result = done(balancer("synthesize", "--gan-run", gan_run, *QUICK_REPORT, "--out", tmp_path / "s", "--json"))
    assert len(pngs(tmp_path / "s")) == counts[1] - counts[0] == json.loads(result.stdout)["n"]


def test_the_newest_finished_run_is_taken_and_said(gan_run: Path, runs_cwd: Path, chest: Path) -> None:
    for name in ("older", "newer", "unfinished"):
        shutil.copytree(gan_run, runs_cwd / "runs" / "gan-train" / name)
        (runs_cwd / "runs" / "gan-train" / name / "done").unlink()
        if name != "unfinished":
            (runs_cwd / "runs" / "gan-train" / name / "done").write_text("x")
    os.utime(runs_cwd / "runs" / "gan-train" / "older" / "done", (1, 1))  # clocks of file systems are coarse
    audited = runs_cwd / "runs" / "audit" / "one"
    audited.mkdir(parents=True)
    shutil.copy(gan_run / "env.json", audited)  # which has the fingerprint of the data
    for name in ("audit.html", "done"):
        (audited / name).write_text("x")
    result = done(balancer("synthesize", "--n", 2, *QUICK_REPORT))
    assert "taking the newest finished GAN run: runs/gan-train/newer" in result.stderr
    (made,) = (p for p in (runs_cwd / "runs" / "synthesize").glob("*/") if not p.is_symlink())
    assert len(pngs(made)) == 2
    page = (made / "report.html").read_text()
    assert '<a href="../../gan-train/newer/">' in page
    assert '<a href="../../audit/one/audit.html">' in page, "an audit of the same data"
    assert json.loads((made / "report.json").read_text())["data"]["source"] == str(chest), "the GAN run's data"


@pytest.mark.parametrize("features", ["chest", "random", "own", None])
def test_the_features_are_those_of_the_gan(features: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"data": {}} | ({"features": features} if features else {})  # runs of before lack the setting
    monkeypatch.setattr(synthesis, "saved_config", lambda command, path: saved)
    assert synthesis.configure({"gan_run": "run"}).features == (features or "auto")
    assert synthesis.configure({"gan_run": "run", "features": "auto"}).features == "auto", "what is named wins"


@pytest.mark.parametrize("n", ["0", "-1", "-2534"])
def test_no_images_is_a_usage_error(n: str, gan_run: Path, tmp_path: Path) -> None:
    refused(balancer("synthesize", "--gan-run", gan_run, "--n", n, "--out", tmp_path / "s"), 2, "'n'", n)
    assert not list(tmp_path.iterdir())


def test_without_a_gan_run(runs_cwd: Path) -> None:
    refused(
        balancer("synthesize", "--n", 3), 1, "no finished gan-train run", "run `balancer gan-train` first", "--gan-run"
    )
    refused(balancer("synthesize", "--n", 3, "--gan-run", "nowhere"), 1, "nowhere holds no gan-train run")
    assert not list(runs_cwd.iterdir())


def copy_of(gan_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gan_run, tmp_path / "gan"))


def test_an_unfinished_gan_run(gan_run: Path, tmp_path: Path) -> None:
    path = copy_of(gan_run, tmp_path)
    (path / "done").unlink()
    refused(balancer("synthesize", "--gan-run", path, "--n", 3, "--out", tmp_path / "s"), 1, "not finished", "--resume")


def test_a_run_of_another_command(hundred_and_thirty: Path, tmp_path: Path) -> None:
    result = balancer("synthesize", "--gan-run", hundred_and_thirty, "--n", 3, "--out", tmp_path / "s")
    refused(result, 1, "holds a synthesize run; expected a gan-train run")


@pytest.mark.parametrize(
    ("args", "phrases"),
    [
        (["--split-seed", "7"], ("was trained on", "split", "--data")),
        (["--val-fraction", "0"], ("was trained on", "split")),
        (["--image-size", "32"], ("makes 16 px images", "asks for 32")),
        (["--device", "cuda:99"], ("'cuda:99'", "--device auto or cpu")),
    ],
)
def test_a_gan_that_does_not_fit_is_refused(
    args: list[str], phrases: tuple[str, ...], gan_run: Path, tmp_path: Path
) -> None:
    refused(balancer("synthesize", "--gan-run", gan_run, "--n", 3, *args, "--out", tmp_path / "s"), 1, *phrases)
    assert not (tmp_path / "s").exists()


def test_without_the_chosen_snapshot(gan_run: Path, tmp_path: Path) -> None:
    """No other generator is taken in its place."""
    path = copy_of(gan_run, tmp_path)
    (path / BEST).unlink()
    args = ("--gan-run", path, "--n", 2, "--out", tmp_path / "s")
    refused(balancer("synthesize", *args), 1, "best.pt does not exist; train again")


def test_a_generator_that_does_not_name_its_precision(gan_run: Path, tmp_path: Path) -> None:
    """Saved by an earlier version in the same format: the report leaves it open."""
    path = copy_of(gan_run, tmp_path)
    content = torch.load(path / BEST, weights_only=True)
    (precision,) = content.pop("precisions")
    torch.save(content, path / BEST)
    texts = []
    for source in (gan_run, path):
        config = SynthesizeConfig(n=2, gan_run=str(source), data=GanTrainConfig(**content["config"]).data)
        texts.append(synthesis.about(config, synthesis.open_source(config, torch.device("cpu")))[0])
    assert f", trained in {precision}. Seed 0" in texts[0]
    assert "trained in" not in texts[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "dcgan_diffaug preset, 16 px, step 3 of 9, chosen by KID to images of the training fold; run `r`, averaged",
        ),
        ({"loss": "hinge"}, "dcgan_diffaug preset (with other loss), 16 px"),
        ({"preset": "dcgan", **PRESETS["dcgan"], "n_dis": 2}, "dcgan preset (with other n_dis), 16 px"),
        (
            {"batch_size": 8, "generator_width": 3, "seed": 5, "selection": "last"},
            "(with other batch_size, generator_width)",
        ),
        ({"preset": "sngan"}, "Generator: sngan preset of an earlier version, 16 px"),
        ({"ema_decay": 0.0}, "run `r`, weights not averaged, trained in float32, then bfloat16. Seed 0"),
        ({"ema_decay": 0.5}, "run `r`, averaged weights (EMA 0.5), trained in float32, then bfloat16. Seed 0"),
    ],
)
def test_what_the_report_says_of_the_recipe(changes: dict[str, Any], expected: str, chest: Path) -> None:
    data = load_dataset(DataConfig(path=str(chest), image_size=SIZE))
    gan = GanTrainConfig(**{"steps": 9, **changes})
    source = synthesis.Source(Path("runs/r"), torch.nn.Identity(), gan, 0, 3, data, ("float32", "bfloat16"))
    assert expected in synthesis.about(SynthesizeConfig(), source)[0]


def test_data_that_changed_since(gan_run: Path, chest_folder: Path, tmp_path: Path) -> None:
    next((chest_folder / "train" / "NORMAL").iterdir()).unlink()
    args = ("--gan-run", gan_run, "--n", 3, "--data", chest_folder, "--out", tmp_path / "s")
    refused(balancer("synthesize", *args), 1, "was trained on", str(chest_folder))


@pytest.mark.parametrize("changes", [{"z_dim": 6}, {"z_distribution": "uniform"}])
def test_a_checkpoint_of_another_configuration(changes: dict[str, Any], gan_run: Path, tmp_path: Path) -> None:
    """A network that would not fit, and one that would fit and draw from the wrong distribution."""
    path = copy_of(gan_run, tmp_path)
    chosen = path / BEST
    content = torch.load(chosen, weights_only=True)
    content["config"] |= changes
    torch.save(content, chosen)
    args = ("--gan-run", path, "--n", 3, "--out", tmp_path / "s")
    refused(balancer("synthesize", *args), 1, chosen.name, next(iter(changes)))


def test_out_is_not_overwritten_unless_forced(gan_run: Path, tmp_path: Path) -> None:
    args = ("synthesize", "--gan-run", gan_run, *QUICK_REPORT, "--out", tmp_path / "s")
    done(balancer(*args, "--n", 5))
    before = (tmp_path / "s" / "manifest.csv").read_bytes()
    refused(balancer(*args, "--n", 2), 1, "holds a run already", "--force")
    assert (tmp_path / "s" / "manifest.csv").read_bytes() == before
    done(balancer(*args, "--n", 2, "--force"))
    assert len(pngs(tmp_path / "s")) == len(manifest(tmp_path / "s")) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    mine = ("synthesize", "--gan-run", gan_run, "--n", 2, *QUICK_REPORT, "--out", tmp_path / "mine", "--force")
    refused(balancer(*mine), 1, "holds no run")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_dry_run_writes_nothing(gan_run: Path, runs_cwd: Path) -> None:
    result = done(balancer("synthesize", "--gan-run", gan_run, "--n", 3, "--dry-run", "--json"))
    content = json.loads(result.stdout)
    assert content["config"]["n"] == 3
    assert content["estimated_seconds"] > 0
    assert not list(runs_cwd.iterdir())


def test_an_interrupted_export_is_resumed(gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by Ctrl-C in the middle: exit 130, no manifest, no done; --resume gives what was asked for."""
    args = ("synthesize", "--gan-run", gan_run, "--n", 5, *QUICK_REPORT)
    written: list[int] = []

    def stopping(pixels: np.ndarray) -> bytes:
        written.append(1)
        if len(written) == 3:
            raise KeyboardInterrupt
        return png_bytes(pixels)

    with monkeypatch.context() as patch:
        patch.setattr("balancer.quality.synthetic.png_bytes", stopping)
        result = balancer(*args, "--out", tmp_path / "s")
    assert result.exit_code == 130
    assert f"--resume {tmp_path / 's'}" in result.stderr.splitlines()[-1]
    begun = read_json(tmp_path / "s" / "env.json")["started"]
    write_json(tmp_path / "s" / "env.json", read_json(tmp_path / "s" / "env.json") | {"started": "2026-01-02"})
    assert not (tmp_path / "s" / "manifest.csv").exists()
    assert not (tmp_path / "s" / "done").exists()
    done(balancer("synthesize", "--resume", tmp_path / "s"))
    environment = read_json(tmp_path / "s" / "env.json")
    assert (environment["started"], environment["resumed"] >= begun) == ("2026-01-02", True)
    done(balancer(*args, "--out", tmp_path / "whole"))
    assert [p.read_bytes() for p in pngs(tmp_path / "s")] == [p.read_bytes() for p in pngs(tmp_path / "whole")]
    assert manifest(tmp_path / "s") == manifest(tmp_path / "whole")
    assert (tmp_path / "s" / "done").exists()


def test_every_pass_through_the_generator_has_the_same_size(
    gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch size may take another code path in a convolution, and then image i would depend on n."""
    sizes: list[int] = []
    generate = synthesis.generate

    def watching(G: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
        sizes.append(len(z))
        return generate(G, z)

    monkeypatch.setattr(synthesis, "generate", watching)
    for n in (1, 65):
        done(balancer("synthesize", "--gan-run", gan_run, "--n", n, *QUICK_REPORT, "--out", tmp_path / str(n)))
    assert sizes == [synthesis.CHUNK] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_make_no_image(value: float, gan_run: Path, tmp_path: Path) -> None:
    """A generator of such weights makes black images. Its checkpoint too holds other weights than this best.pt."""
    shutil.copytree(gan_run, tmp_path / "gan")
    for name in (BEST, CHECKPOINT):
        content = torch.load(tmp_path / "gan" / name, weights_only=True)
        next(iter(content["G_ema"].values()))[0] = value
        save_tensors(tmp_path / "gan" / name, content)
    made = balancer("synthesize", "--gan-run", tmp_path / "gan", "--n", 3, *QUICK_REPORT, "--out", tmp_path / "s")
    refused(made, 1, BEST, "G_ema", "not finite")
    assert not (tmp_path / "s").exists()


def test_one_image_many_times_is_no_synthesis(gan_run: Path, tmp_path: Path) -> None:
    """All weights zero: every image is the same grey."""
    shutil.copytree(gan_run, tmp_path / "gan")
    content = torch.load(tmp_path / "gan" / BEST, weights_only=True)
    for tensor in content["G_ema"].values():
        tensor.zero_()
    save_tensors(tmp_path / "gan" / BEST, content)
    made = balancer("synthesize", "--gan-run", tmp_path / "gan", "--n", 3, *QUICK_REPORT, "--out", tmp_path / "s")
    refused(made, 1, str(tmp_path / "gan"), "same image")
    assert not (tmp_path / "s" / "manifest.csv").exists()
    assert not (tmp_path / "s" / "done").exists()


def test_a_manifest_has_its_sum_beside_it(hundred_and_thirty: Path) -> None:
    digest, name = (hundred_and_thirty / "manifest.csv.sha256").read_text().split()
    assert digest == hashlib.sha256((hundred_and_thirty / "manifest.csv").read_bytes()).hexdigest()
    assert name == "manifest.csv"
