"""Commands of `classifier` that use finished runs and saved models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from balancer.core.command import COMPUTING, DRY_RUN, EXPORT, THREADS, CommandResult, plain_command
from balancer.core.errors import UsageError
from balancer.core.options import Options
from balancer.core.run_names import find_run
from balancer.core.saved_runs import newest_run
from balancer.core.settings import THRESHOLD_RULES, ClassifierConfig
from classifier.program import main
from classifier.serving.limits import Limits


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


RUNS = click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN...]")


def _named(runs: tuple[Path, ...], *commands: str) -> list[Path]:
    """Return the folders of runs that are named by path or name; of none, the newest run of the commands."""
    return [find_run(run, "ablate", "train") for run in runs] or [newest_run(*commands)]


REGIMES = click.option(
    "--regimes",
    metavar="LIST",
    default="",
    callback=_names,
    help="Groups or names, as ablate takes them. [default: all that the runs hold]",
)
CSV_FILE = click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.csv", help="Also write the table there."
)


def _tables(name: str) -> Callable[[Any], Any]:
    """Return the option that names the folder of a report on runs."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help=f"Folder of the tables. [default: {name} in the only RUN]",
    )


@plain_command(
    main,
    "thresholds",
    RUNS,
    REGIMES,
    click.option(
        "--rules",
        metavar="LIST",
        default="",
        callback=_names,
        help=f"Rules as --threshold of train takes them. [default: {','.join(THRESHOLD_RULES)}]",
    ),
    _tables("thresholds"),
    DRY_RUN,
    example="classifier thresholds runs/ablate/latest --rules f1,sensitivity=0.95",
    closing="{out}/thresholds.md has the tables; next: classifier train --threshold RULE, for the rule that you fixed",
)
def thresholds(
    runs: tuple[Path, ...], regimes: tuple[str, ...], rules: tuple[str, ...], out: Path | None, dry: bool
) -> CommandResult:
    """Show what every threshold gives on validation and on test, and how rules that choose one carry over.

    RUN is the folder or the name of an ablation or of a training, by default the newest; several must share data and
    split.
    """
    from classifier.experiments import thresholds as threshold_study

    named = _named(runs, "ablate", "train")
    return CommandResult.of(
        (threshold_study.preview if dry else threshold_study.thresholds)(named, regimes, rules, out)
    )


@plain_command(
    main,
    "ensemble",
    RUNS,
    REGIMES,
    click.option(
        "--threshold",
        metavar="RULE",
        default=str(ClassifierConfig.model_fields["threshold"].default),
        show_default=True,
        help="How the ensemble's threshold is chosen on validation.",
    ),
    _tables("ensemble"),
    DRY_RUN,
    example="classifier ensemble runs/ablate/latest --regimes baseline,gan",
    closing="{out}/ensemble.md has the table; next: classifier predict RUN IMAGE",
)
def ensemble(
    runs: tuple[Path, ...], regimes: tuple[str, ...], threshold: str, out: Path | None, dry: bool
) -> CommandResult:
    """Average the trials of each regime and, with several runs, of all of them; compare with single trials on test.

    RUN is the folder or the name of an ablation or of a training, by default the newest ablation; several must share
    data and split.
    """
    from classifier.experiments import ensemble as averaging

    named = _named(runs, "ablate")
    return CommandResult.of((averaging.preview if dry else averaging.ensemble)(named, regimes, threshold, out))


@plain_command(
    main,
    "compare",
    click.argument("names", nargs=-1, required=True, metavar="NAME|CHECKPOINT..."),
    click.option("--image-size", type=click.IntRange(min=1), help="Size of the images. [default: that of each]"),
    click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per pass."),
    click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Passes that are timed."),
    CSV_FILE,
    DRY_RUN,
    COMPUTING,
    example="classifier compare small_cnn resnet18 runs/train/latest/model.pt",
    closing="next: classifier ablate --model NAME",
)
def compare(
    names: tuple[str, ...],
    image_size: int | None,
    batch_size: int,
    repeats: int,
    out: Path | None,
    dry: bool,
    device: str,
    threads: int,
) -> CommandResult:
    """Size and speed of systems, networks and checkpoints: parameters, MB, images per second, latency."""
    from classifier.systems import profile

    timing = profile.Timing(batch_size, repeats, 5 * repeats)
    work = profile.preview if dry else profile.compare
    return CommandResult.of(work(names, image_size, device, timing, out, threads))


@plain_command(
    main,
    "evaluate",
    click.argument("checkpoint", type=click.Path(path_type=Path)),
    click.option(
        "--data", envvar="BALANCER_DATA", metavar="PATH", help="Data to evaluate on. [default: as in training]"
    ),
    click.option(
        "--fold",
        type=click.Choice(["test", "val", "train"]),
        default="test",
        show_default=True,
        help="Images to evaluate on.",
    ),
    DRY_RUN,
    COMPUTING,
    example="classifier evaluate runs/train/latest/model.pt --data data/chest_xray",
    closing="next: classifier predict {checkpoint} IMAGE",
)
def evaluate(checkpoint: Path, data: str | None, fold: str, dry: bool, device: str, threads: int) -> CommandResult:
    """Metrics of a saved classifier on a fold of a data set."""
    from classifier import inference

    return CommandResult.of(inference.evaluate_checkpoint(checkpoint, data, fold, device, threads, dry))


@plain_command(
    main,
    "predict",
    click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[MODEL] IMAGE..."),
    click.option(
        "--regime",
        metavar="NAME",
        help="Of an ablation: the regime whose trials decide together. [default: the best on validation]",
    ),
    click.option(
        "--threshold",
        type=float,
        metavar="P",
        help="On the calibrated probability, from 0 to 1, as train, evaluate and thresholds print it."
        " [default: the one chosen on validation]",
    ),
    CSV_FILE,
    DRY_RUN,
    COMPUTING,
    example="classifier predict runs/ablate/latest images --regime combined",
    closing="next: classifier explain MODEL IMAGE, to see where a model.pt looks",
)
def predict(
    paths: tuple[Path, ...],
    regime: str | None,
    threshold: float | None,
    out: Path | None,
    dry: bool,
    device: str,
    threads: int,
) -> CommandResult:
    """Predict label and probabilities for images or whole folders. For research: no medical device.

    MODEL is a model.pt or an exported file, or the folder or the name of a training or an ablation; by default that of
    the newest. All trials of an ablation's regime decide together: their mean, with its own temperature and threshold.
    """
    from classifier import inference
    from classifier.predictor import model_and_images

    named = find_run(paths[0], "ablate", "train"), *paths[1:]
    model, images = model_and_images(named, lambda: newest_run("ablate", "train"))
    return CommandResult.of(inference.predict_files(model, images, threshold, device, threads, regime, out, dry))


@plain_command(
    main,
    "explain",
    click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL IMAGE...|RUN]"),
    Options(
        "Heat maps",
        (
            click.option(
                "--method",
                default="gradcam",
                show_default=True,
                metavar="NAME",
                help="gradcam, gradcam++, scorecam, integrated_gradients or occlusion.",
            ),
            click.option(
                "--layer", metavar="NAME", help="Layer whose maps are weighed. [default: the last before pooling]"
            ),
            click.option(
                "--class",
                "explained_class",
                metavar="CLASS",
                help="Class that the maps of images speak for. [default: the one that is called]",
            ),
            click.option(
                "--regimes",
                metavar="LIST",
                default="",
                callback=_names,
                help="Of a RUN: groups or names, as ablate takes them. [default: the 2 x 2 design]",
            ),
            click.option(
                "--check/--no-check", default=True, show_default=True, help="Test whether the maps mean something."
            ),
        ),
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of the page and the pictures. [default: explain beside MODEL, or in RUN]",
    ),
    DRY_RUN,
    COMPUTING,
    example="classifier explain runs/ablate/latest --regimes baseline,gan",
    closing="next: the same with another --method, such as occlusion, to see whether it agrees",
)
def explain(
    paths: tuple[Path, ...], explained_class: str | None, regimes: tuple[str, ...], dry: bool, **values: Any
) -> CommandResult:
    """Show where a classifier looks: heat maps of images, or of the test images of an ablation.

    With a MODEL and images: a heat map and an overlay of each. With a RUN alone, by default the newest: right and
    wrong test images of each regime, and whether regimes look at different places. The maps are tested against random
    ones and against untrained networks. The folder that is written holds the images.
    """
    from classifier.explain.command import explain_files
    from classifier.explain.preview import preview_files, preview_run
    from classifier.explain.results import ExplainRequest
    from classifier.explain.run_command import explain_run

    request = ExplainRequest(**values)
    source = find_run(paths[0], "ablate", "train") if paths else newest_run("ablate", "train")
    if len(paths) > 1:
        if regimes:
            raise UsageError("--regimes is for a RUN without images; leave out one of the two")
        return CommandResult.of((preview_files if dry else explain_files)(source, paths[1:], explained_class, request))
    if explained_class is not None:
        raise UsageError("--class is for a MODEL with images: of a RUN, maps speak for the class that was called")
    return CommandResult.of((preview_run if dry else explain_run)(source, regimes, request))


@plain_command(
    main,
    "serve",
    click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL|RUN...]"),
    Options(
        "Address",
        (
            click.option(
                "--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need --token."
            ),
            click.option(
                "--port",
                type=click.IntRange(0, 65535),
                default=8000,
                show_default=True,
                help="Port to listen at; 0 takes a free one.",
            ),
            click.option(
                "--token", metavar="TEXT", help="What clients must send: 16 or more random characters. [default: none]"
            ),
        ),
    ),
    Options(
        "Page",
        (
            click.option(
                "--examples",
                type=click.Path(path_type=Path),
                metavar="DIR",
                help="Images to try on the page. [default: drawings]",
            ),
            click.option(
                "--show-training",
                is_flag=True,
                help="Show the nearest training images, not their labels alone. [default: off]",
            ),
            click.option(
                "--data", metavar="PATH", help="Where the training data lie, for --show-training. [default: as then]"
            ),
            click.option(
                "--max-megabytes",
                type=click.FloatRange(0.001, 1000),
                default=Limits.megabytes,
                show_default=True,
                help="Largest upload.",
            ),
            click.option(
                "--max-megapixels",
                type=click.FloatRange(0.001, 150),
                default=Limits.megapixels,
                show_default=True,
                help="Largest image.",
            ),
        ),
    ),
    DRY_RUN,
    COMPUTING,
    example="classifier serve runs/ablate/latest",
)
def serve(
    models: tuple[Path, ...],
    host: str,
    port: int,
    token: str | None,
    dry: bool,
    device: str,
    threads: int,
    **page: Any,
) -> CommandResult:
    """Serve a page and a REST interface that show what models say of an image. Research only, not for clinical use.

    MODEL is a model.pt; of an ablation each regime is served, side by side. [default: the newest run]
    """
    from classifier.serving import require_packages

    require_packages()
    from classifier.serving import server

    limits = Limits(page.pop("max_megabytes"), page.pop("max_megapixels"))
    address = server.Address(host, port, token)
    sources = server.Sources(_named(models, "ablate", "train"), **page)
    return CommandResult.of((server.preview if dry else server.serve)(sources, address, limits, device, threads))


@plain_command(
    main,
    "export",
    click.argument("model", type=click.Path(path_type=Path)),
    *EXPORT,
    click.option(
        "--int8", is_flag=True, help="Of onnx: also a variant in 8-bit integers, and a report on both beside it."
    ),
    click.option("--data", metavar="PATH", help="Of --int8: the data of the training. [default: where they were]"),
    Options("Computing", (THREADS,)),
    example="classifier export runs/train/latest --to onnx --int8",
    closing="{file} was compared with the network; next: classifier predict FILE IMAGE (not torch-export:"
    " docs/export.md)",
)
def export(
    model: Path, to: str, out: Path | None, force: bool, dry: bool, int8: bool, data: str | None, threads: int
) -> CommandResult:
    """Write a model as a file for other programs: from grey levels to calibrated probabilities and a label.

    MODEL is a model.pt, or the folder or the name of a training. ONNX and torch-export files hold the graph with
    normalisation, temperature and threshold; safetensors holds weights and settings. `classifier predict` takes onnx
    and safetensors. model.pt holds features of training images, for the warning of unlike images; no exported file
    does. So give an export away, not the model.pt.
    """
    from classifier.export import preview, writing

    work = preview.preview if dry else writing.export
    return CommandResult.of(work(find_run(model, "train"), to, out, int8, data, force, threads))
