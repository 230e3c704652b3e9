"""The commands of `balancer` as functions: settings in, a typed result out. The command line only adds words.

The public functions perform a run. Their ``config`` holds the settings that differ from the defaults; the others are
resolved as on the command line. ``prepare_...`` opens what a command needs, before anything is written.
"""

from __future__ import annotations

from pathlib import Path

import torch

from balancer import evaluation, importing, synthesis
from balancer import export as exporting
from balancer.audit import findings as auditing
from balancer.audit.report import write_audit
from balancer.audit.results import Audit
from balancer.core import ranks
from balancer.core.config import config_hash, data_path, explicit_values, resolve
from balancer.core.device import describe_device, named_device, open_device, resolve_precision
from balancer.core.errors import BalancerError
from balancer.core.run import FinishedRun, PreparedRun, RunDir, RunRequest, perform
from balancer.core.sealed import write_json
from balancer.core.settings import (
    AuditConfig,
    DataConfig,
    EvaluateConfig,
    GanTrainConfig,
    ImportConfig,
    SynthesizeConfig,
)
from balancer.core.stepping import choose_mode
from balancer.core.tracking import NOT_TRACKED, Tracking
from balancer.data import dataset, inspection
from balancer.gan import donor, every_class, shares, trainer
from balancer.metrics import feature_choice
from balancer.metrics.features import random_subset
from balancer.quality.class_reports import ClassReports
from balancer.quality.report import Report
from balancer.reporting.grids import Picture, side_by_side


def load_dataset(config: DataConfig | None = None) -> dataset.Dataset:
    """Read, decode (or take from the cache) and split a data set.

    Args:
        config: where the data are, and how they are resized and split. Without a ``path``, ``data/chest_xray`` is read
            if it is there, else the built-in phantom set of drawings.

    Raises:
        BalancerError: the data are missing, of another layout, or too damaged.
    """
    config = config or DataConfig()
    return dataset.load_dataset(config.model_copy(update={"path": data_path(config.path)}))


def show_images(data: dataset.Dataset, fold: str = "train", n: int = 12, seed: int = 0) -> Picture:
    """Return images of every class side by side, drawn at random, as a picture that notebooks show.

    Args:
        data: the images.
        fold: train, val or test.
        n: images of each class, or all if there are fewer.
        seed: of the draw.

    Raises:
        BalancerError: the fold has no images.
    """
    panels = {}
    for label, (name, count) in enumerate(zip(data.classes, data.counts(fold), strict=True)):
        drawn = data.indices(fold, label)[random_subset(count, n, seed, "show", fold, name)]
        if len(drawn):
            panels[f"{name}: {count:,} images in {fold}"] = data.images[drawn]
    if not panels:
        raise BalancerError(f"{data.source} has no images in fold {fold!r}; expected one of train, val and test")
    return Picture(side_by_side(panels))


def inspect_data(config: DataConfig | None = None, training_fold: Path | None = None) -> inspection.Inspection:
    """Return what is understood of some data, as `balancer inspect` does.

    Args:
        config: as for :func:`load_dataset`.
        training_fold: a new file for the names of the images that a generator may learn from.

    Raises:
        BalancerError: the data are missing, of no layout that is read, or too damaged; the file is there already.
    """
    config = config or DataConfig()
    config = config.model_copy(update={"path": data_path(config.path)})
    return inspection.inspect(config, training_fold, feature_choice.cost_of_training)


def train_gan(
    config: GanTrainConfig | None = None,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    threads: int | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> FinishedRun[trainer.GanSummary | every_class.GanSummaries]:
    """Train a GAN on one class of the training fold, or one on each, as `balancer gan-train` does.

    Args:
        config: the settings that differ from the defaults.
        out: a new or empty folder; None for ``runs/gan-train/<stamp>-<hash>``.
        device: auto, cpu, cuda, cuda:N or mps.
        force: whether to replace the run that ``out`` holds.
        threads: that compute; None for OMP_NUM_THREADS, or one.
        tracking: the programs that also keep what the run logs; none by default.

    Raises:
        BalancerError: the data or settings cannot be used, or training diverges.
    """
    settings = resolve(GanTrainConfig, explicit_values(config))
    request = RunRequest(out, force=force, tracking=tracking)
    return perform(prepare_gan_training(settings, device, threads), request)


def synthesize(
    config: SynthesizeConfig | None = None,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    threads: int | None = None,
) -> FinishedRun[Report | ClassReports]:
    """Export synthetic images of a trained GAN with a report on their quality, as `balancer synthesize` does.

    The arguments are those of :func:`train_gan`. The data are those of the GAN run. Without ``gan_run`` in the
    settings, the newest finished GAN run is taken.

    Raises:
        BalancerError: there is no such GAN run, or its data have changed.
    """
    settings = synthesis.configure(explicit_values(config))
    return perform(prepare_synthesis(settings, device, threads), RunRequest(out, force=force))


def import_images(
    config: ImportConfig,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    threads: int | None = None,
) -> FinishedRun[Report | ClassReports]:
    """Make a synthesis of images of another generator, with a report on their quality, as `balancer import` does.

    The arguments are those of :func:`train_gan`; ``config`` must name the ``folder``. Without a ``split_of`` and data
    in the settings, the data and the split are those of the newest finished GAN run or ablation.

    Raises:
        BalancerError: the images cannot be used, or equal real validation or test images.
    """
    settings = importing.configure(explicit_values(config))
    return perform(prepare_import(settings, device, threads), RunRequest(out, force=force))


def assess(
    config: EvaluateConfig,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    threads: int | None = None,
) -> FinishedRun[Report]:
    """Write the quality report on a folder of synthetic images, whatever made them, as `balancer evaluate` does.

    The arguments are those of :func:`train_gan`; ``config`` must name the folders ``real`` and ``fake``.

    Raises:
        BalancerError: a folder is missing, or its images cannot be used.
    """
    settings = resolve(EvaluateConfig, explicit_values(config))
    return perform(prepare_evaluation(settings, device, threads), RunRequest(out, force=force))


def audit_dataset(
    config: AuditConfig | None = None, out: Path | None = None, force: bool = False, threads: int | None = None
) -> FinishedRun[Audit]:
    """Look for leaks between folds, copies and shortcuts in a data set, as `balancer audit` does.

    The arguments are those of :func:`train_gan`. The name is not ``audit``, since that is the package with the checks.

    Raises:
        BalancerError: the data cannot be used.
    """
    return perform(
        prepare_audit(resolve(AuditConfig, explicit_values(config)), threads=threads), RunRequest(out, force=force)
    )


def export_generator(
    gan_run: Path, to: str, out: Path | None = None, force: bool = False, threads: int | None = None
) -> exporting.GeneratorExport:
    """Write the generator of a finished GAN run as a file for other programs, as `balancer export` does.

    Args:
        gan_run: the folder of the run.
        to: onnx, torch-export or safetensors.
        out: the file; None for one in the folder of the run.
        force: whether to replace a file that is there.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        BalancerError: the run cannot be read or is not finished, a file is there, or a package is missing.
    """
    return exporting.export(gan_run, to, out, force, threads)


def prepare_gan_training(
    config: GanTrainConfig, device_name: str, threads: int | None = None, dry: bool = False, resumed: bool = False
) -> PreparedRun[trainer.GanSummary | every_class.GanSummaries]:
    """Open the data of a GAN training; for a dry run, without decoding images that the cache does not hold.

    A resumed run has the weights of its donor already, if it has a checkpoint; then the donor may be gone.
    """
    device = open_device(device_name, threads)
    trainer.check(config)
    choose_mode(config.step_mode, device)
    if not dry:
        ranks.join(device)
    with ranks.first_of_machine_before():
        data = dataset.load_dataset(config.data, decode=not dry)
    several = every_class.is_for_all(config, data)
    if several:
        every_class.settings_of_classes(config, data)  # refused here, and not in a run that was begun
    else:
        shares.check_enough(data, trainer.target_label(config, data))
    if not resumed and ranks.is_first():
        donor.open_donor(config, data)
    ranks.check_same(
        {
            "kind of device": device.type,
            "fingerprint of the data": data.fingerprint,
            "split": data.split_hash,
            "hash of the settings": config_hash(config),
            "version of torch": torch.__version__,
            "precision": resolve_precision(device, config.precision, on_cpu=True),
        }
    )

    def work(run: RunDir) -> trainer.GanSummary | every_class.GanSummaries:
        if not (run / "split.csv").exists():  # else the split that the run was begun with stays on record
            data.write_split(run / "split.csv")
        train = every_class.train_every_class if several else trainer.train
        summary: trainer.GanSummary | every_class.GanSummaries = train(config, data, run, device)
        write_json(run / "summary.json", summary.to_json())
        return summary

    return PreparedRun(
        "gan-train",
        config,
        describe_device(device) + (f", {ranks.count()} ranks" if ranks.count() > 1 else ""),
        data.describe(),
        lambda: (every_class if several else trainer).estimate_seconds(config, data, device),
        work,
        follow=lambda run: trainer.train(config, data, run, device),
        keep_environment=True,  # the data may have changed since the start
        tracked_files=("config.yaml", "env.json", "summary.json", "grids/*.png", "best.pt"),
        tracked_by=trainer.trackers(config),
        undecoded=data.undecoded,
    )


def prepare_synthesis(
    config: SynthesizeConfig, device_name: str, threads: int | None = None, dry: bool = False
) -> PreparedRun[Report | ClassReports]:
    """Open the generators and their data; ``dry`` as for :func:`prepare_gan_training`."""
    device = open_device(device_name, threads)
    sources = synthesis.open_sources(config, device, decode=not dry)
    for source in sources:
        synthesis.count(config, source)  # refused here, and not in a run that --resume could never finish
    return PreparedRun(
        "synthesize",
        config,
        describe_device(device),
        sources[0].data.describe(),
        lambda: synthesis.estimate_seconds(config, sources, device),
        lambda run: synthesis.synthesize(config, sources, run, device),
        undecoded=sources[0].data.undecoded,
    )


def prepare_import(
    config: ImportConfig, device_name: str, threads: int | None = None, dry: bool = False
) -> PreparedRun[Report | ClassReports]:
    """Open the data and the images of another generator; ``dry`` as for :func:`prepare_gan_training`."""
    device = open_device(device_name, threads)
    inputs = importing.open_inputs(config, decode=not dry)
    return PreparedRun(
        "import",
        config,
        describe_device(device),
        inputs.describe(),
        lambda: importing.estimate_seconds(config, inputs, device),
        lambda run: importing.import_images(config, inputs, run, device),
        undecoded=inputs.undecoded,
    )


def prepare_evaluation(
    config: EvaluateConfig, device_name: str, threads: int | None = None, dry: bool = False
) -> PreparedRun[Report]:
    """Open the folders of images; ``dry`` as for :func:`prepare_gan_training`."""
    device = open_device(device_name, threads)
    inputs = evaluation.open_inputs(config, decode=not dry)
    return PreparedRun(
        "evaluate",
        config,
        describe_device(device),
        inputs.describe(),
        lambda: evaluation.estimate_seconds(config, inputs),
        lambda run: evaluation.evaluate(config, inputs, run, device),
        undecoded=inputs.undecoded,
    )


def prepare_audit(
    config: AuditConfig, device_name: str = "auto", threads: int | None = None, dry: bool = False
) -> PreparedRun[Audit]:
    """Open the data set of an audit, which needs no GPU; the name of a device is only checked.

    ``dry`` as for :func:`prepare_gan_training`.
    """
    named_device(device_name)
    device = open_device("cpu", threads)
    data = dataset.load_dataset(config.data, decode=not dry)

    def work(run: RunDir) -> Audit:
        result = auditing.audit(data, config.data, config.seed)
        write_audit(run.path, data, config.data, result)
        return result

    return PreparedRun(
        "audit",
        config,
        describe_device(device),
        data.describe(),
        lambda: auditing.estimate_seconds(data),
        work,
        undecoded=data.undecoded,
        if_finished="rewrite" if config.strict else "stop",  # it fails as long as the data leak
    )
