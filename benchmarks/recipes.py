"""Compare GAN recipes: the paper's DCGAN, then one ingredient at a time, at equal steps (or time), batch and widths.

Every run is an ordinary `balancer gan-train`, measured by an ordinary `balancer synthesize`. The images are compared
with half the training fold and with validation images of the class, which neither the generator nor the choice of a
snapshot has seen. Finished runs are not repeated.

    BALANCER_DATA=DIR python benchmarks/recipes.py --steps 2500 --seeds 0,1 --out runs/recipes [--only dcgan,r1] [--set
    KEY=VALUE] [--table] [--donor RUN] [--quick]

Steps are those of the default. A recipe for few images whose step takes longer gets fewer steps (`COST`). Recipes that
start from another run's weights (docs/gan.md#few-images) need `--donor RUN`. The steps of that run are taken off, but
for the recipes that say "donor for free".
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from balancer.cli import main as balancer
from balancer.core.jsonl import read_jsonl
from balancer.gan.checkpoint import finished_settings
from balancer.metrics.features import UNTRAINED
from balancer.quality.results import HALF_SIZE, OTHER_REAL, PIXELS, SYNTHETIC, QualityReport, from_json

PAPER = ["preset=dcgan"]
EMA = [*PAPER, "ema_decay=0.99"]
LONGER = [*PAPER, "ema_decay=0.995"]
TRANSLATION = ["diffaugment=translation"]
R1 = [*LONGER, "discriminator_norm=none", "r1_weight=0.1", "penalty_every=4"]
DONOR = ["init_from=DONOR"]
ALL = ["diffaugment=translation,cutout,brightness,contrast"]
# folder -> what the table says, settings
RECIPES: dict[str, tuple[str, list[str]]] = {
    "dcgan": ("DCGAN, as in the paper", PAPER),
    "ema": ("+ EMA .99", EMA),
    "ema-mbsd": ("+ EMA .99, minibatch SD", [*EMA, "minibatch_stddev=true"]),
    "ema-t": ("+ EMA .99, translation", [*EMA, *TRANSLATION]),
    "ema998-t": ("+ EMA .998, translation", [*PAPER, "ema_decay=0.998", *TRANSLATION]),
    "ema995-t-mbsd": ("+ EMA .995, translation, minibatch SD", [*LONGER, *TRANSLATION, "minibatch_stddev=true"]),
    "ema995-tc": ("+ EMA .995, translation, cutout", [*LONGER, "diffaugment=translation,cutout"]),
    "ema-tbc": ("+ EMA .99, translation, brightness, contrast", [*EMA, "diffaugment=translation,brightness,contrast"]),
    "ema-ada": ("+ EMA .99, ADA of all four", [*EMA, *ALL, "ada_target=0.6", "ada_images=40000"]),
    "ema-t-lecam": ("+ EMA .99, translation, LeCam", [*EMA, *TRANSLATION, "lecam_weight=0.1"]),
    "r1": ("R1 in place of BatchNorm, EMA .995", R1),
    "r1-t": ("R1, EMA .995, translation", [*R1, *TRANSLATION]),
    "r1-t-lr": (
        "R1, EMA .995, translation, both rates 5e-4",
        [*R1, *TRANSLATION, "lr_generator=5e-4", "lr_discriminator=5e-4"],
    ),
    "r1-t-ttur": (
        "R1, EMA .995, translation, minibatch SD, D's rate 6e-4",
        [*R1, *TRANSLATION, "minibatch_stddev=true", "lr_discriminator=6e-4"],
    ),
    "relativistic": (
        "R1 + R2, relativistic, EMA .995, translation, both rates 5e-4",
        [*R1, *TRANSLATION, "r2_weight=0.1", "loss=relativistic", "lr_generator=5e-4", "lr_discriminator=5e-4"],
    ),
    "spectral": (
        "spectral norm, hinge, EMA .995, D's rate 4e-4",
        [*LONGER, "discriminator_norm=spectral", "loss=hinge", "lr_discriminator=4e-4"],
    ),
    "upsample": ("+ EMA .99, translation, upsample + convolution", [*EMA, *TRANSLATION, "architecture=upsample"]),
    "upsample-last": (
        "+ EMA .99, translation, upsample + convolution in the last layer",
        [*EMA, *TRANSLATION, "architecture=upsample_last"],
    ),
    "residual": ("residual, R1, EMA .995, translation", [*R1, *TRANSLATION, "architecture=residual"]),
    "wgan-gp": ("WGAN-GP", ["preset=wgan_gp"]),
    # for few images
    "default": ("today's default", []),
    "transfer": ("from a donor", DONOR),
    "transfer-free": ("from a donor, donor for free", DONOR),
    "transfer-cosine": ("from a donor, cosine", [*DONOR, "lr_schedule=cosine"]),
    "transfer-freeze": ("from a donor, two layers of D frozen", [*DONOR, "freeze_discriminator=2"]),
    "cosine": ("cosine, both rates 4e-4", ["lr_schedule=cosine", "lr_generator=4e-4", "lr_discriminator=4e-4"]),
    "excited": ("skip-layer excitation", ["architecture=excited"]),
    "reconstruction": ("D reconstructs", ["reconstruction_weight=1"]),
    "fastgan": ("skip-layer excitation, D reconstructs", ["architecture=excited", "reconstruction_weight=1"]),
    "bcr": ("bCR", ["consistency_weight=10"]),
    "top-k": ("top-k, half", ["top_k=0.5"]),
    "batch-16": ("batches of 16", ["batch_size=16"]),
    "batch-8": ("batches of 8", ["batch_size=8"]),
    "wide": ("width 48", ["generator_width=48", "discriminator_width=48"]),
}
# Time of a step over that of the default's, one thread of an AMD EPYC, 2026-11-28.
COST = {
    "excited": 1.2,
    "reconstruction": 1.5,
    "fastgan": 1.75,
    "bcr": 1.5,
    "wide": 1.8,
    "batch-16": 0.59,
    "batch-8": 0.36,
}

IMAGES = 600  # a little more than half the training fold's images of the class, the larger of the references


def run(command: str, out: Path, *arguments: str) -> None:
    """Run a command, or resume the run that is there; a run with other settings is refused."""
    begun = (out / "config.yaml").exists()
    balancer([command, *arguments, "--resume" if begun else "--out", str(out)], standalone_mode=False)


def train(out: Path, recipe: str, seed: int, steps: int, settings: list[str], donor: Path | None) -> None:
    """Train one recipe with one seed, in the time of so many steps of the default."""
    of_recipe = [part.replace("DONOR", str(donor)) for part in RECIPES[recipe][1]]
    if donor and RECIPES[recipe][1][:1] == DONOR and not recipe.endswith("-free"):
        steps -= finished_settings(donor).steps
    options = [part for setting in [*settings, *of_recipe] for part in ("--set", setting)]
    run("gan-train", out, "--seed", str(seed), "--steps", str(round(steps / COST.get(recipe, 1))), *options)


@dataclass(frozen=True)
class Measured:
    """The report on a trained run's images, the step of its generator, and its speed."""

    quality: QualityReport
    step: int
    images_per_s: float


def measure(trained: Path, quick: bool) -> Measured:
    """Return the report on a trained run's images; ``quick`` trains no classifiers, which are most of the cost."""
    out = trained / ("measured-quick" if quick else "measured")
    tests = ["--set", "two_sample=false"] if quick else []
    run("synthesize", out, "--gan-run", str(trained), "--n", str(IMAGES), "--inception-weights", "off", *tests)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rates = [row["images_per_s"] for row in read_jsonl(trained / "metrics.jsonl") if "images_per_s" in row]
    return Measured(from_json(report["quality"]), report["gan_step"], statistics.median(rates))


def figures(measured: Measured, real_baseline: bool = False) -> dict[str, str]:
    """Return the columns of the table, of the synthetic images or of the real images beside them."""
    quality, end = measured.quality, "_real_baseline" if real_baseline else ""
    rows = {(row.features, row.reference == quality.reference): row for row in quality.distances}
    val, half = rows["chest-xray-128", True], rows["chest-xray-128", False]
    side = OTHER_REAL if real_baseline else SYNTHETIC
    auroc = {t.on: f"{t.auroc:.2f}" for t in quality.two_sample if t.compared == side}
    columns = {"Fréchet": f"{getattr(val, f'frechet{end}'):.1f}", "KID": f"{getattr(val, f'kid{end}'):.3f}"}
    overlap = getattr(val, f"overlap{end}")
    columns |= {name: f"{getattr(overlap, name):.2f}" for name in ("precision", "recall", "coverage")}
    tests = {"logistic": "chest-xray-128", "pixels": PIXELS, "half size": HALF_SIZE}
    columns |= {f"AUROC, {name}": auroc.get(on, "") for name, on in tests.items()}
    columns["Fréchet, training"] = f"{getattr(half, f'frechet{end}'):.1f}"
    columns["KID, training"] = f"{getattr(half, f'kid{end}'):.3f}"
    columns["Fréchet, random-conv"] = f"{getattr(rows[UNTRAINED, True], f'frechet{end}'):.2f}"
    if real_baseline or quality.spectrum is None:
        return columns | dict.fromkeys(("grid peak, dB", "step", "images/s"), "")
    peak = f"{quality.spectrum.checkerboard_db:.1f}"
    return columns | {"grid peak, dB": peak, "step": str(measured.step), "images/s": f"{measured.images_per_s:.0f}"}


def table(out: Path, recipes: list[str], seeds: list[int], quick: bool) -> None:
    """Print one row per recipe with one value per seed in each cell; the first row is real against real."""
    begun = False
    for recipe in recipes:
        trained = [out / f"{recipe}-{seed}" for seed in seeds]
        reports = [measure(folder, quick) for folder in trained if (folder / "done").exists()]
        if reports and not begun:
            columns, begun = figures(reports[0]), True
            print(f"| recipe | seeds | {' | '.join(columns)} |\n| --- | ---: |{' ---: |' * len(columns)}")
            print_row("*real images*", [figures(reports[0], real_baseline=True)])
        if reports:
            print_row(RECIPES[recipe][0], [figures(report) for report in reports])


def print_row(label: str, per_seed: list[dict[str, str]]) -> None:
    """Print a row of the Markdown table."""
    cells = [" ".join(columns[column] for columns in per_seed) for column in per_seed[0]]
    print(f"| {label} | {len(per_seed)} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Train the recipes that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--only", help="recipes, parted by commas; by default all that need no other options")
    parser.add_argument("--donor", type=Path, help="finished run that some recipes start from")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    parser.add_argument("--table", action="store_true", help="train nothing, print what there is")
    parser.add_argument("--quick", action="store_true", help="train no classifiers to tell the images apart")
    args = parser.parse_args()
    able = [name for name, (_, settings) in RECIPES.items() if args.donor or settings[:1] != DONOR]
    recipes = [name.strip() for name in args.only.split(",")] if args.only else able
    if unable := [name for name in recipes if name not in able]:
        parser.error(f"{', '.join(unable)}: no such recipe, or one that needs --donor RUN")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for seed in [] if args.table else seeds:
        for recipe in recipes:
            train(args.out / f"{recipe}-{seed}", recipe, seed, args.steps, args.set, args.donor)
    table(args.out, recipes, seeds, args.quick)


if __name__ == "__main__":
    main()
