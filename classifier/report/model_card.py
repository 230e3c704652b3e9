"""The model card of a training or an ablation (Mitchell et al. 2019, doi:10.1145/3287560.3287596).

The card says no more than the report of the run: its verdict and figures are those of the analysis. The same document
is the "about" of a served model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from balancer.core.config import changed_keys, flatten
from balancer.core.files import write_text
from balancer.core.marker import MARKER
from balancer.core.pixels import WORDS
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import ClassifierConfig
from balancer.core.shapes import parse
from balancer.data.records import count_units
from balancer.reporting.document import Document, Section, Table, to_markdown
from balancer.reporting.numbers import DASH, listed, plural, short
from classifier.analysis.pretraining import NAMES, describe
from classifier.analysis.results import MetricSummary, StudyResults
from classifier.report import tables
from classifier.report.card_facts import CardFacts, is_model_of, read_facts
from classifier.training.checkpoint import CHECKPOINT, load_classifier

CARD = "MODEL_CARD.md"
CARD_DATA = "MODEL_CARD.json"  # the same, for a program that shows the card
NOT_RECIPE = ("data", "seed", "synthetic", "regimes", "regime", "seeds", "doses")  # said elsewhere in the card
RESEARCH_ONLY = "For research only. Not a medical device, not for clinical use."
SHOWN_DIGITS = 16  # of a SHA-256
INTENDED = (
    "To measure whether synthetic images help a classifier on these data, and to repeat such a measurement.",
    "To teach and to study data balancing, calibration and evaluation.",
)
NOT_INTENDED = (
    "Not for diagnosis, triage, screening or any other decision about a person.",
    "Not for images of another kind than the training images: other views, ages, machines, hospitals or file formats "
    "were not tested, unless a table below says so.",
    "Not as a label for new data: labels by this model carry its errors on.",
)
OF_TWO = (  # in braces: the classes
    "AUROC is the share of pairs of one image of each class that the model orders correctly. Sensitivity is the share "
    "of {1} images that are called so, specificity the share of {0} images.",
    "Temperature and threshold were chosen on validation. The test set was opened once, afterwards.",
)
OF_SEVERAL = (
    "The AUROC of a class is the share of pairs of an image of the class and an image of another class that the model "
    "orders correctly, by its probability of the class. The macro AUROC is the mean over classes.",
    "The temperature was chosen on validation. The test set was opened once, afterwards.",
)
ETHICS = (
    "Labels are those of the data set. Nobody read the images again.",
    "Age, sex, machine and hospital are not in the data as they were read, so no figure here is by these.",
    "A model can learn marks of its data set in place of the illness. The audit of the data names those that were "
    "looked for.",
)
GIVING_AWAY = (
    "`model.pt` holds features of up to 1,000 training images (those of earlier versions do not). Somebody who has an "
    "image can tell from them with some certainty whether the image was in the training. Before you give a model away: "
    "`classifier export --to safetensors` writes the model without these features."
)
FOLDER = "The run's folder holds file names of the data. Treat the folder as you treat the data."
REFERENCE = "Model cards: Mitchell et al. 2019, doi:10.1145/3287560.3287596."


@dataclass(frozen=True)
class _StoredCard:
    """The content of :data:`CARD_DATA`."""

    document: Document
    models: dict[str, str]  # SHA-256 by file


def write_model_card(run: Path, facts: CardFacts) -> None:
    """Write the card into the folder of a run, for people and for programs."""
    document = model_card(facts)
    write_json(run / CARD_DATA, asdict(_StoredCard(document, facts.models)))
    write_text(run / CARD, to_markdown(document))


def about(checkpoint: Path) -> Document:
    """Return the model card of a saved classifier.

    A checkpoint that no longer lies in its run, or that the card of the run was not written for, is described by
    itself.

    Args:
        checkpoint: a ``model.pt``, or the folder with it.

    Raises:
        BalancerError: the checkpoint, or a file of its run, is missing or damaged.
    """
    path = (checkpoint / CHECKPOINT if checkpoint.is_dir() else checkpoint).resolve()
    of_trial = path.parents[2] if path.parent.parent.name == "trials" else path.parent
    for run in (path.parent, of_trial):
        if (run / CARD_DATA).exists():
            remedy = f"write the card again with --resume {run}"
            stored = parse(_StoredCard, read_json(run / CARD_DATA, remedy), run / CARD_DATA, remedy)
            if is_model_of(stored.models, run, path):
                return stored.document
        elif (run / MARKER).exists() and (run / "env.json").exists():
            return model_card(read_facts(run))
    return _of_checkpoint(path)


def model_card(facts: CardFacts) -> Document:
    """Return the card; sections and tables with nothing to say are left out."""
    several = len(facts.results.trials) > 1
    subject = plural(len(facts.results.trials), "classifier") if several else "a classifier"
    top = [note for note in facts.data.notes if note.startswith("PHANTOM")]
    sections = [
        _details(facts),
        _regimes(facts),
        Section("Intended use", bullets=[*INTENDED, *NOT_INTENDED]),
        *([Section("What would settle it", bullets=facts.analysis.advice)] if facts.analysis else []),
        _factors(facts),
        Section("Metrics", bullets=_methods(facts)),
        _evaluation_data(facts),
        _training_data(facts),
        *_figures(facts),
        _calibration(facts.results),
        Section("Ethical considerations", bullets=[*ETHICS, GIVING_AWAY, FOLDER]),
        Section("Caveats", bullets=[note for note in facts.notes if note not in top]),
        _models(facts),
        Section("References", bullets=[REFERENCE]),
    ]
    return Document(
        f"Model card: {subject} of {listed(facts.classes)}",
        [*top, RESEARCH_ONLY],
        facts.analysis.verdict,
        facts.analysis.headline,
        [section for section in sections if not section.is_empty],
    )


def _details(facts: CardFacts) -> Section:
    """Return what the model is, and what made it."""
    env, config, trials = facts.environment, facts.config, facts.results.trials
    trial = trials[0]
    hashes = {
        "recipe": trial.recipe_hash,
        "settings": trial.config_hash,
        "code": trial.code_hash,
        "data": facts.data.fingerprint,
        "split": facts.data.split_hash,
        "weights": trial.weights_hash if config.weights != "none" else None,
        **{f"pretrained weights of seed {t.trial_seed}": t.pretraining.weights for t in trials if t.pretraining},
    }
    rows = [
        ["made by", f"`classifier {env.command}`, balancer {env.balancer}, code {env.git_commit or 'of no commit'}"],
        ["started", env.started or DASH],
        ["network", _network(config)],
        ["input", f"{_image(facts.data.channels, config)}, {config.input_normalisation} normalisation"],
        ["output", _output(facts.classes)],
        ["recipe", _recipe(config)],
        ["hashes", ", ".join(f"{name} `{value}`" for name, value in hashes.items() if value)],
        ["computed on", env.device or DASH],
        ["licence", "the code is under the MIT licence; the terms of the training data hold for the models"],
    ]
    return Section("Model details", table=Table(["", ""], rows, numeric=2))


def _image(channels: int, config: ClassifierConfig) -> str:
    """Return which images the models take: their colour and size."""
    return f"{WORDS[channels]} image, {config.data.image_size} px square"


def _network(config: ClassifierConfig) -> str:
    """Return the network with its weights."""
    weights = "random weights at the start" if config.weights == "none" else f"weights at the start: {config.weights}"
    method = config.pretrain.method
    pretrained = "" if method == "none" else f", pretrained on the training fold without labels: {NAMES[method]}"
    return f"`{config.model}`, {weights}{pretrained}"


def _output(classes: Sequence[str]) -> str:
    """Return what the model answers."""
    if len(classes) > 2:
        return f"a probability of each of {', '.join(classes)}, after temperature scaling; the most likely is the label"
    return f"the probability of {classes[1]}, after temperature scaling, and a label by the threshold"


def _recipe(config: ClassifierConfig) -> str:
    """Return the settings of training that differ from the defaults."""
    default, used = (c.model_dump(mode="json", exclude=set(NOT_RECIPE)) for c in (type(config)(), config))
    values = flatten(used)
    changed = ", ".join(f"`{key}={values[key]}`" for key in changed_keys(default, used))
    return f"the default settings but for {changed}" if changed else "the default settings"


def _regimes(facts: CardFacts) -> Section:
    """Return what each regime was trained on; several regimes make several kinds of models."""
    text = "The models differ in their regime, their trial seed and their synthetic images alone."
    return Section("The regimes", [text] if len(facts.results.trials) > 1 else [], tables.training_table(facts.rows))


def _factors(facts: CardFacts) -> Section:
    """Return the subgroups that are known."""
    names = list(dict.fromkeys(row.subgroup for row in facts.subgroups))
    if names:
        return Section("Factors", [f"File names tell these subgroups: {', '.join(names)}. No other subgroup is known."])
    if len(facts.classes) > 2:
        return Section("Factors", ["The classes are the subgroups that are known."])
    return Section("Factors", ["No subgroup of a class is known, so the figures are of all test images together."])


def _methods(facts: CardFacts) -> list[str]:
    """Return what the metrics are, and what the intervals are over."""
    methods = OF_TWO if len(facts.classes) == 2 else OF_SEVERAL
    how = [tables.caption(facts.rows, facts.analysis)] if facts.analysis.regimes else []
    return [*(text.format(*facts.classes) for text in methods), *how]


def _evaluation_data(facts: CardFacts) -> Section:
    """Return what the models were measured on."""
    results = facts.results
    text = (
        f"`{facts.data.source}`, its test fold: {_counted(facts, 'test')}; {count_units(results.groups('test'))}. "
        f"Validation, on which nothing but temperature, threshold and selection rests: {_counted(facts, 'val')}; "
        f"{count_units(results.groups('val'))}."
    )
    return Section("Evaluation data", [text])


def _training_data(facts: CardFacts) -> Section:
    """Return what the models were trained on."""
    text = (
        f"`{facts.data.source}`, its training fold: {_counted(facts, 'train')}. Split `{facts.data.split_hash}`, data "
        f"`{facts.data.fingerprint}`."
    )
    if pretraining := describe(facts.results.trials):
        text += f" {pretraining}"
    if facts.synthetic:
        text += f" Synthetic images: {'; '.join(facts.synthetic)}. The datasheet of each set lies in its folder."
    return Section("Training data", [text])


def _counted(facts: CardFacts, fold: str) -> str:
    """Return ``94 NORMAL and 156 PNEUMONIA``."""
    return listed([f"{n:,} {name}" for name, n in facts.data.counts.get(fold, {}).items()])


def _figures(facts: CardFacts) -> list[Section]:
    """Return the figures of the models: all test images, then by subgroup."""
    made = [
        Section(f"Quantitative analyses: {title[0].lower()}{title[1:]}", [], tables.regime_table(facts.rows, columns))
        for title, columns in facts.rows[0].layout.blocks.items()
    ]
    if facts.subgroups:
        text = (
            "In each row the test images of one class are those of the subgroup, and those of the other class are all. "
            "The figures and their intervals are made as those above. Differences between rows were not tested."
        )
        cells = [
            [row.subgroup, row.counts, row.regime, _cell(row.auroc), f"{row.decided} {_cell(row.at_threshold)}"]
            for row in facts.subgroups
        ]
        header = ["subgroup", "test images", "regime", "AUROC", "decisions @val"]
        made.append(Section("Quantitative analyses by subgroup", [text], Table(header, cells, numeric=3)))
    return made


def _cell(summary: MetricSummary | None) -> str:
    return DASH if summary is None else tables.cell(summary)


def _calibration(results: StudyResults) -> Section:
    """Return the temperature, and the calibration before and after it."""
    names = results.regimes if len(results.trials) > 1 else [results.trials[0].arm]
    return Section("Calibration on test", table=tables.calibration_table(results, names))


def _models(facts: CardFacts) -> Section:
    """Return every model that the run keeps, with what tells it from the others."""
    rows = []
    for trial in facts.results.trials:
        file = (Path(trial.folder) / CHECKPOINT).as_posix()
        seal, threshold = facts.models.get(file), getattr(trial.test, "threshold", None)
        rows.append(
            [
                f"`{file}`",
                trial.arm,
                str(trial.trial_seed),
                trial.synthetic_set or DASH,
                f"{trial.test.temperature:.2f}",
                short(threshold),
                f"`{seal[:SHOWN_DIGITS]}`" if seal else DASH,
            ]
        )
    header = ["file", "regime", "trial seed", "synthetic set", "temperature", "threshold", "SHA-256 begins"]
    text = "The threshold is on the calibrated probability. The SHA-256 is the one that the file carries."
    return Section("The models", [text], Table(header, rows, numeric=4, words=True))


def _of_checkpoint(path: Path) -> Document:
    """Return what a checkpoint without its run says."""
    saved = load_classifier(path, torch.device("cpu"))
    classes = saved.classes
    rows = [
        ["network", _network(saved.config)],
        ["input", _image(saved.channels, saved.config)],
        ["output", _output(classes)],
        ["regime, trial seed", f"{saved.regime}, {saved.trial_seed}"],
        ["recipe", _recipe(saved.config)],
        ["data", f"`{saved.data_source}`, split `{saved.split_hash}`, data `{saved.fingerprint}`"],
        ["temperature", f"{saved.temperature:.2f}"],
    ]
    if len(classes) == 2:
        rows.append(["threshold", f"{short(saved.threshold)}, chosen on validation, on the calibrated probability"])
    giving_away = [] if saved.reference is None else [GIVING_AWAY]
    drawings = ["PHANTOM DATA: trained on drawings, not X-rays."] if saved.trained_on_drawings else []
    return Document(
        f"Model card: a classifier of {listed(classes)}",
        [*drawings, RESEARCH_ONLY],
        "Nothing is known of how well this model does: the checkpoint does not lie in the run that made it.",
        sections=[
            Section("Model details", table=Table(["", ""], rows, numeric=2)),
            Section("Intended use", bullets=[*INTENDED, *NOT_INTENDED]),
            Section("Ethical considerations", bullets=[*ETHICS, *giving_away]),
            Section("References", bullets=[REFERENCE]),
        ],
    )
