"""The commands of `classifier` as functions: settings in, a typed result out. The command line only adds words.

``prepare_...`` opens what a command needs and checks it before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from balancer.core.config import explicit_values
from balancer.core.device import describe_device, limit_threads, open_device
from balancer.core.errors import UsageError
from balancer.core.run import FinishedRun, PreparedRun, RunDir, RunRequest, perform
from balancer.core.settings import (
    AblateConfig,
    ComponentsConfig,
    CrossvalidateConfig,
    ReproduceConfig,
    StudyConfig,
    TrainConfig,
    TuneConfig,
)
from balancer.core.stepping import choose_mode
from balancer.core.threads import choose_threads
from balancer.core.tracking import NOT_TRACKED, Tracking
from classifier import inference
from classifier.analysis import analyse as analysis
from classifier.analysis.results import TrialResult
from classifier.experiments import ablation
from classifier.experiments import components as switches
from classifier.experiments import crossvalidation as crossval
from classifier.experiments.estimates import BUDGET, estimate_seconds, pretraining_seconds, training_seconds
from classifier.experiments.jobs import Workers, check_card
from classifier.experiments.selections import estimate_seconds as filter_seconds
from classifier.experiments.selections import with_selections
from classifier.experiments.study import configure, open_study, refuse_several_classes
from classifier.experiments.substudies import read_substudy
from classifier.export import writing
from classifier.report.model_card import CARD
from classifier.training.record import CHECKPOINT

# What trackers keep of a run beside its trials.
REPORT_FILES = ("config.yaml", "env.json", "report.*", "table.*", "analysis.json", "tune.json", "figures/*.png")

if TYPE_CHECKING:
    from classifier.explain.results import Explanation, RunExplanation
    from classifier.learning_curve.page import StudyResult
    from classifier.systems.reproduce import Reproduction
    from classifier.tuning.report import SearchSummary


def train(
    config: TrainConfig | None = None,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    threads: int | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> FinishedRun[TrialResult]:
    """Train one classifier under one regime and evaluate it, as `classifier train` does.

    Args:
        config: the settings that differ from the defaults.
        out: a new or empty folder; None for ``runs/train/<stamp>-<hash>``.
        device: auto, cpu, cuda, cuda:N or mps.
        force: whether to replace the run that ``out`` holds.
        threads: that compute; None for OMP_NUM_THREADS, or one.
        tracking: the programs that also keep what the run logs; none by default.

    Raises:
        BalancerError: the data, the synthetic images or the settings cannot be used.
    """
    settings = configure(TrainConfig, explicit_values(config))
    request = RunRequest(out, force=force, tracking=tracking)
    return perform(prepare_training(settings, device, threads), request)


def ablate(
    config: AblateConfig | None = None,
    out: Path | None = None,
    device: str = "auto",
    force: bool = False,
    jobs: int = 1,
    threads: int | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> FinishedRun[ablation.AblationResult]:
    """Train under every regime with paired seeds and compare, as `classifier ablate` does.

    The arguments are those of :func:`train`; ``jobs`` is the number of trials at the same time, each with
    ``threads`` of its own.

    Raises:
        BalancerError: the data, the synthetic images or the settings cannot be used, or a trial failed.
    """
    settings = configure(AblateConfig, explicit_values(config))
    workers = Workers(device, jobs, threads=choose_threads(threads))
    return perform(prepare_ablation(settings, workers), RunRequest(out, force=force, tracking=tracking))


def analyse(run: Path) -> analysis.Analysis:
    """Return the analysis of a finished ablation: figures per regime, contrasts and the verdict.

    Args:
        run: the folder of the ablation.

    Raises:
        BalancerError: the folder holds no ablation.
    """
    study = read_substudy(run)
    return analysis.analyse(study.results, seed=study.config.seed)


def predict(
    model: Path,
    images: Sequence[Path],
    threshold: float | None = None,
    regime: str | None = None,
    out: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> inference.FilePredictions:
    """Return label and calibrated probability of each image, as `classifier predict` does.

    Args:
        model: a model.pt, an exported file, or the folder of a training or of an ablation, whose trials decide
            together.
        images: files and folders.
        threshold: on calibrated probabilities; None for the one chosen on validation.
        regime: of an ablation; None for the best on validation.
        out: a CSV file to write as well.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        BalancerError: the model or an image cannot be read.
    """
    predictions = inference.predict_files(
        model, images, threshold, device=device, threads=threads, regime=regime, out=out
    )
    assert isinstance(predictions, inference.FilePredictions), "only a dry run returns something else"
    return predictions


def explain_images(
    model: Path,
    images: Sequence[Path],
    method: str = "gradcam",
    explained_class: str | None = None,
    layer: str | None = None,
    check: bool = True,
    out: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Explanation:
    """Write heat maps of images, with a test whether they mean something, as `classifier explain` does.

    Args:
        model: a model.pt, or the folder that holds one.
        images: files and folders.
        method: gradcam, gradcam++, scorecam, integrated_gradients or occlusion.
        explained_class: that the maps speak for; None for what the classifier calls each image.
        layer: whose maps are weighed; None for the last before pooling.
        check: whether to test the maps. The tests need several images.
        out: a folder for the page and the pictures; None for ``explain`` beside the model.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        BalancerError: the model or an image cannot be read, or the folder holds other files.
    """
    from classifier.explain.command import explain_files
    from classifier.explain.results import ExplainRequest

    return explain_files(model, images, explained_class, ExplainRequest(method, layer, check, out, device, threads))


def explain_run(
    run: Path,
    regimes: Sequence[str] = (),
    method: str = "gradcam",
    layer: str | None = None,
    check: bool = True,
    out: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> RunExplanation:
    """Compare where the classifiers of a finished ablation look, as `classifier explain RUN` does.

    Args:
        run: the folder of an ablation or of a training.
        regimes: names or groups; by default those of the 2 x 2 design.
        method: as of :func:`explain_images`, like all further arguments.
        layer: whose maps are weighed.
        check: whether to test the maps.
        out: a folder for the page and the pictures; None for ``explain`` in the run.
        device: where to compute.
        threads: that compute.

    Raises:
        BalancerError: the run, its models or its data cannot be read, or the folder holds other files.
    """
    from classifier.explain.results import ExplainRequest
    from classifier.explain.run_command import explain_run as explain

    return explain(run, regimes, ExplainRequest(method, layer, check, out, device, threads))


def export_model(
    model: Path,
    to: str,
    out: Path | None = None,
    int8: bool = False,
    data: str | None = None,
    force: bool = False,
    threads: int | None = None,
) -> writing.Export:
    """Write a saved classifier as a file for other programs, as `classifier export` does.

    Args:
        model: a model.pt, or the folder that holds one.
        to: onnx, torch-export or safetensors.
        out: the file; None for one beside the model.
        int8: whether to write an 8-bit variant of the ONNX file too, with a report on both.
        data: of the training, for the 8-bit variant; None: where they were.
        force: whether to replace files that are there.
        threads: that compute; None for OMP_NUM_THREADS, or one.

    Raises:
        BalancerError: the model cannot be read or exported, a file is there, or a package is missing.
    """
    return writing.export(model, to, out, int8, data, force, threads)


def prepare_training(
    config: TrainConfig, device_name: str, threads: int | None = None, dry: bool = False
) -> PreparedRun[TrialResult]:
    """Open the data and the synthetic images of one training.

    For a dry run (``dry``), images that the cache does not hold are not decoded.
    """
    device = open_device(device_name, threads)
    choose_mode(config.step_mode, device)
    study = open_study(config, decode=not dry)

    def work(run: RunDir) -> TrialResult:
        study.data.write_split(run / "split.csv")
        return ablation.train_one(with_selections(study, run.path), run, device)

    return PreparedRun(
        "train",
        config,
        describe_device(device),
        study.data.describe(),
        lambda: estimate_seconds(study, device) + filter_seconds(study),
        work,
        tracked_files=("config.yaml", "env.json", "result.json", CARD, CHECKPOINT),
        undecoded=study.data.undecoded,
    )


def prepare_ablation(config: AblateConfig, workers: Workers, dry: bool = False) -> PreparedRun[ablation.AblationResult]:
    """Open the data and the synthetic images of an ablation; ``dry`` as for :func:`prepare_training`."""
    limit_threads(workers.threads)
    workers.check_steps(config)
    study = open_study(config, decode=not dry)
    ablation.check(study)
    parallel = workers.count()  # refuses a cluster out of reach before anything is written

    def work(run: RunDir) -> ablation.AblationResult:
        findings = ablation.write_data_audit(study, run)
        chosen = with_selections(study, run.path)
        ablation.state_notes(chosen, run)
        return ablation.write_ablation(ablation.ablate(chosen, run, workers), chosen, run, findings)

    return PreparedRun(
        "ablate",
        config,
        workers.describe(),
        study.data.describe(),
        lambda: (
            estimate_seconds(study, workers.local_device) / parallel
            + filter_seconds(study)
            + ablation.report_seconds(study)
        ),
        work,
        if_finished="rewrite",
        tracked_files=(*REPORT_FILES, CARD, "audit/audit.html", "synthetic/*.html"),
        undecoded=study.data.undecoded,
    )


def prepare_crossvalidation(
    config: CrossvalidateConfig, device_name: str, threads: int | None = None, dry: bool = False
) -> PreparedRun[crossval.Crossvalidation]:
    """Read the data and make the folds; ``dry`` as for :func:`prepare_training`."""
    device = open_device(device_name, threads)
    folds = crossval.open_folds(config, decode=not dry)

    def work(run: RunDir) -> crossval.Crossvalidation:
        if not run.finished:
            folds.write(run)
        return crossval.write_crossvalidation(crossval.crossvalidate(folds, run, device), folds, run)

    return PreparedRun(
        "crossvalidate",
        config,
        describe_device(device),
        folds.data.describe(),
        lambda: estimate_seconds(folds.rotations[0], device) * config.folds,
        work,
        if_finished="rewrite",
        undecoded=folds.data.undecoded,
    )


def prepare_components(
    config: ComponentsConfig, workers: Workers, dry: bool = False
) -> PreparedRun[switches.Components]:
    """Open the study of the full system and of each system without one part, so that none is refused after hours.

    ``dry`` as for :func:`prepare_training`.
    """
    limit_threads(workers.threads)
    workers.check_steps(config)
    studies = [open_study(variant, decode=not dry) for variant in switches.variants_of(config).values()]
    refuse_several_classes(studies[0].data, "classifier components")
    parallel = workers.count()  # refuses a cluster out of reach before anything is written
    return PreparedRun(
        "components",
        config,
        workers.describe(),
        studies[0].data.describe(),
        lambda: sum(estimate_seconds(s, workers.local_device, BUDGET / len(studies)) for s in studies) / parallel,
        lambda run: switches.components(config, run, workers),
        if_finished="rewrite",
        undecoded=studies[0].data.undecoded,
    )


def prepare_search(
    config: TuneConfig, workers: Workers, timeout: float | None = None, dry: bool = False
) -> PreparedRun[SearchSummary]:
    """Open the data of a search, the test fold cut off.

    Args:
        config: the settings of the search.
        workers: what runs the trials.
        timeout: seconds after which no trial begins; None: no limit.
        dry: as for :func:`prepare_training`.

    Raises:
        UsageError: the timeout is no number of seconds.
    """
    if timeout is not None and not 0 <= timeout < math.inf:
        raise UsageError(f"--timeout is {timeout}; expected seconds, 0 or more, or leave it out for no limit")
    from classifier.tuning import report as tune_report  # Optuna is an extra
    from classifier.tuning import search as tuning

    limit_threads(workers.threads)
    parallel = workers.count()  # refuses a cluster out of reach before anything is written
    study = tuning.open_once(config, decode=not dry)

    def estimate() -> float:
        one = training_seconds(study, workers.local_device) * config.seeds  # without pruning, at the settings here
        seconds = one * tuning.number_of_trials(config) / parallel
        seconds += pretraining_seconds(study, workers.local_device) * config.seeds  # again for each network searched
        return seconds if timeout is None else min(seconds, timeout)

    def work(run: RunDir) -> SearchSummary:
        if workers.backend == "local" and workers.jobs > 1:
            check_card(study, workers)  # at the settings here; points of the search may need more
        cluster = None if workers.backend == "local" else workers
        folder = run.path.resolve() if cluster else run.path  # workers have other working folders
        search = tuning.Search(config, folder, workers.device, threads=workers.threads)

        trials = tuning.run_search(
            search, workers.jobs, timeout, lambda trial: run.tracker.trial(tune_report.tracked(trial)), cluster
        )
        return tune_report.write_search(trials, search, study.data, run)

    return PreparedRun(
        "tune",
        config,
        workers.describe(),
        study.data.describe(),
        estimate,
        work,
        if_finished="extend",  # --resume may ask for more trials
        is_complete=lambda summary: summary.is_complete,
        tracked_files=(*REPORT_FILES, "trials.csv", "best.yaml"),
        undecoded=study.data.undecoded,
    )


def prepare_reproduction(config: ReproduceConfig, workers: Workers, smoke: bool = False) -> PreparedRun[Reproduction]:
    """Check the settings of the systems. Their data are opened one by one, so that a failing system stops no other."""
    from classifier.systems import reproduce as reproduction

    limit_threads(workers.threads)
    systems = reproduction.checked_systems(config)
    workers.count()  # refuses a cluster out of reach before anything is written
    return PreparedRun(
        reproduction.command_name(smoke),
        config,
        workers.describe(),
        None,
        lambda: reproduction.estimate(systems, config, workers).seconds,
        lambda run: reproduction.reproduce(systems, config, smoke, run, workers),
        if_finished="rewrite",
    )


def prepare_study(config: StudyConfig, workers: Workers, dry: bool = False) -> PreparedRun[StudyResult]:
    """Open the data at every size, and check the settings of every step that needs no GAN; ``dry`` as above."""
    from classifier.learning_curve.comparison import compare
    from classifier.learning_curve.page import write_study
    from classifier.learning_curve.plan import estimate, open_references
    from classifier.learning_curve.steps import damage_named, run_points

    limit_threads(workers.threads)
    workers.count()  # refuses a cluster out of reach before anything is written
    references = open_references(config, workers, dry)
    data = references[-1].ablation.data

    def work(run: RunDir) -> StudyResult:
        with damage_named(config, references, run.path):
            points = run_points(config, references, run, workers)
            return write_study(points, compare(points, config.seed), run, config.quick)

    return PreparedRun(
        "study",
        config,
        workers.describe(),
        data.describe(),
        lambda: estimate(config, references, workers, dry),
        work,
        if_finished="rewrite",
        tracked_files=("config.yaml", "env.json", "report.*", "study.*", "figures/*.png"),
        undecoded=data.undecoded,
    )
